//! Postgres.
/// placeholder
#[derive(Debug)]
pub struct PostgresStore;
