//! The store suite on Postgres.

use std::sync::Arc;

use gristmill_tests::database::TestDatabase;
use gristmill_tests::suite::store::Lab;

async fn open() -> Lab {
    let database = TestDatabase::create().await;
    Lab { store: Arc::new(database.store().await), other: Arc::new(database.store().await), guard: Box::new(database) }
}

gristmill_tests::store_suite!(open);
