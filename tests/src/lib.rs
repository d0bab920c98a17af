//! The harness of the tests, and the suites that every back end passes unchanged.

pub mod database;
pub mod fleet;
pub mod money;
pub mod proxy;
pub mod rabbit;
pub mod suite;
