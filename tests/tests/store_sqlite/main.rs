//! The store suite on SQLite, and what is SQLite's own: opening files, sharing them, one writer.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gristmill_common::clock::SystemClock;
use gristmill_common::store::SqliteStore;
use gristmill_tests::suite::store::Lab;
use gristmill_tests::suite::store::caching::{BRIEF, an_answer_that_is_gone_is_asked_for_again};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};
use tempfile::TempDir;

mod opening;
mod sharing;

async fn open() -> Lab {
    lab().await.0
}

/// Makes a database, and tells where.
async fn lab() -> (Lab, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gristmill.db");
    let store = store(&path).await;
    let other = self::store(&path).await;
    let lab = Lab {
        owner: store.clone().shared(),
        brief: store.clone().with_cache(BRIEF).shared(),
        store: store.shared(),
        other: other.shared(),
        guard: Box::new(folder),
    };
    (lab, path)
}

async fn store(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Arc::new(SystemClock)).await.unwrap()
}

/// Opens a connection of the test's own.
async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

gristmill_tests::store_suite!(open);

#[tokio::test]
async fn an_answer_of_the_cache_whose_result_was_deleted_by_hand_is_asked_for_again() {
    let (lab, path) = lab().await;
    let mut connection = connect(&path).await;
    let delete = async || {
        sqlx::raw_sql("DELETE FROM result").execute(&mut connection).await.unwrap();
    };
    an_answer_that_is_gone_is_asked_for_again(&lab, delete).await;
}
