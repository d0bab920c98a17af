//! Files that can be opened, and what is said of those that cannot.

use std::path::Path;
use std::sync::Arc;

use gristmill_common::clock::SystemClock;
use gristmill_common::outcome::Status;
use gristmill_common::store::{Error, Keepership, Renewal, SqliteStore, Store};
use gristmill_tests::suite::store::{LONG, owner};
use sqlx::Connection as _;
use tempfile::TempDir;

use super::{connect, lab, store};

/// Opens what cannot be opened; returns what is said, with the test's folder as `DIR`.
async fn refused(folder: &Path, path: &Path) -> String {
    let error = SqliteStore::open(path, Arc::new(SystemClock)).await.unwrap_err();
    assert!(matches!(error, Error::Setup(_)), "{error:?}");
    let text = error.to_string().replace(&folder.display().to_string(), "DIR");
    assert!(!text.contains('\n'));
    text
}

#[tokio::test]
async fn a_missing_file_is_made_with_the_current_schema() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("new.db");
    let store = store(&path).await;
    store.check_schema().await.unwrap();
    assert_eq!(store.migrate().await.unwrap(), [1, 2, 3], "it says what the opening did, once");
    assert_eq!(store.migrate().await.unwrap(), [0; 0]);
    drop(store);
    super::store(&path).await.check_schema().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_open_a_new_file_at_once_all_get_it() {
    for _ in 0..5 {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("new.db");
        let (a, b, c, d) = tokio::join!(store(&path), store(&path), store(&path), store(&path));
        for store in [a, b, c, d] {
            store.check_schema().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = TempDir::new().unwrap();
    let text = refused(folder.path(), &folder.path().join("nowhere/new.db")).await;
    assert_eq!(text, "the folder DIR/nowhere of the database does not exist; create it or use another file");
}

#[tokio::test]
async fn a_folder_is_no_database() {
    let folder = TempDir::new().unwrap();
    assert_eq!(refused(folder.path(), folder.path()).await, "DIR is a folder; the database must be a file");
}

#[tokio::test]
async fn a_file_of_another_kind_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("prompts.jsonl");
    let content = "{\"custom_id\": \"a\"}\n".repeat(1000);
    std::fs::write(&path, &content).unwrap();
    let text = refused(folder.path(), &path).await;
    assert_eq!(text, "DIR/prompts.jsonl is not a SQLite database, or is damaged; use another file with --db");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
}

#[tokio::test]
async fn another_programs_database_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("history.db");
    let mut connection = connect(&path).await;
    sqlx::query("CREATE TABLE urls (url TEXT)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let text = refused(folder.path(), &path).await;
    assert_eq!(text, "DIR/history.db is the database of another program; use another file with --db");
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema").fetch_all(&mut connect(&path).await).await.unwrap();
    assert_eq!(tables, ["urls"]);
}

#[tokio::test]
async fn a_schema_from_the_future_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gristmill.db");
    let store = store(&path).await;
    let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (7, 'later', true, x'00', 0)";
    sqlx::query(later).execute(&mut connect(&path).await).await.unwrap();
    let expected = "the database is of schema version 7, this program knows 3: use a newer gristmill";
    assert_eq!(store.check_schema().await.unwrap_err().to_string(), expected);
    assert_eq!(store.migrate().await.unwrap_err().to_string(), expected);
    drop(store);
    assert_eq!(refused(folder.path(), &path).await, expected);
}

#[tokio::test]
async fn one_process_at_a_time_works_the_queue() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gristmill.db");
    let (first, second) = (store(&path).await, store(&path).await);
    let lock = first.lock_exclusively().await.unwrap();
    let text =
        second.lock_exclusively().await.unwrap_err().to_string().replace(&folder.path().display().to_string(), "DIR");
    let pid = std::process::id();
    assert_eq!(
        text,
        format!("another gristmill works on DIR/gristmill.db (pid {pid}); wait for it, or use --db with another file")
    );
    drop(lock);
    let _lock = second.lock_exclusively().await.unwrap();
}

#[tokio::test]
async fn whoever_takes_the_right_to_work_buries_who_had_it() {
    let (lab, path) = lab().await;
    let submitted = lab.submitted("sweep", 5).await;
    let (died, left) = (lab.worker(LONG).await, lab.worker(LONG).await);
    assert!(matches!(lab.store.keep(died, LONG).await.unwrap(), Keepership::Held { .. }));
    lab.admitted(died, &submitted.jobs[..3]).await;
    lab.store.deregister(left).await.unwrap();
    for death in 1..=3 {
        let next = store(&path).await;
        let _lock = next.lock_exclusively().await.unwrap();
        let due = next.due(10).await.unwrap().len();
        assert_eq!(due, if death < 3 { 3 } else { 2 }, "at once, and not after a lease");
        assert!(matches!(next.keep(owner(), LONG).await.unwrap(), Keepership::Held { .. }));
        lab.due(due).await;
        if death < 3 {
            let worker = lab.worker(LONG).await;
            lab.admitted(worker, &submitted.jobs[..3]).await;
            // It dies while it calls one of them.
            assert!(next.calling(worker, submitted.jobs[0].id, None).await.unwrap());
        }
    }
    let rows = lab.rows(submitted.id, 1).await;
    assert_eq!((rows[0].job_id, rows[0].result.status), (submitted.jobs[0].id, Status::Failed));
    assert_eq!(lab.store.renew(died, LONG, 0, &[]).await.unwrap(), Renewal::Lost);
}
