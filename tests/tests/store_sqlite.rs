//! The store suite on SQLite.

use std::sync::Arc;

use gristmill_common::clock::SystemClock;
use gristmill_common::store::SqliteStore;
use gristmill_tests::suite::store::Lab;

async fn open() -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gristmill.db");
    let store = SqliteStore::open(&path, Arc::new(SystemClock)).await.unwrap();
    let other = SqliteStore::open(&path, Arc::new(SystemClock)).await.unwrap();
    Lab { store: store.shared(), other: other.shared(), guard: Box::new(folder) }
}

gristmill_tests::store_suite!(open);
