//! One writer, its clock, other processes, rows that are refused, and what people read.

use std::sync::Arc;
use std::time::Duration;

use gristmill_common::clock::ManualClock;
use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::Status;
use gristmill_common::store::{Keepership, Recorded, SqliteStore, Store};
use gristmill_tests::suite::store::{LONG, chunk, jobs, new_batch, owner, settle, success};
use sqlx::Row as _;
use tempfile::TempDir;

use super::{connect, lab};

#[tokio::test]
async fn leases_end_by_the_clock_that_was_given() {
    let folder = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::new(1_795_400_000_000));
    let store = SqliteStore::open(folder.path().join("gristmill.db"), Arc::clone(&clock) as Arc<_>).await.unwrap();
    let (first, second) = (owner(), owner());
    let ten = Duration::from_secs(10);
    assert!(matches!(store.keep(first, ten).await.unwrap(), Keepership::Held { server_up: None }));
    clock.advance(ten - Duration::from_millis(1));
    assert_eq!(store.keep(second, ten).await.unwrap(), Keepership::Elsewhere);
    clock.advance(Duration::from_millis(1));
    assert!(matches!(store.keep(second, ten).await.unwrap(), Keepership::Held { .. }));
}

/// A write that is given up at any point leaves nothing half-done, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_given_up_is_rolled_back() {
    let (lab, path) = lab().await;
    let mut connection = connect(&path).await;
    let producer = owner();
    let batch = lab.recorded("sweep", producer, 0).await.id;
    let all = jobs(batch, 0..4000);
    let mut given_up = 0;
    for (index, part) in all.chunks(100).enumerate() {
        let first_ordinal = u64::try_from(index * 100).unwrap();
        let patience = Duration::from_micros(u64::try_from(index).unwrap() * 150);
        let record = lab.store.record(chunk(producer, part, first_ordinal));
        given_up += usize::from(tokio::time::timeout(patience, record).await.is_err());
        // In one look: a commit that was under way may still come to its end.
        let seen = sqlx::query("SELECT recorded, (SELECT count(*) FROM job) FROM batch");
        let seen = seen.fetch_one(&mut connection).await.unwrap();
        assert_eq!(seen.get::<i64, _>(0), seen.get::<i64, _>(1), "all of it or nothing");
        let record = lab.store.record(chunk(producer, part, first_ordinal));
        assert_eq!(record.await.unwrap(), Recorded::Committed);
    }
    assert!(given_up > 0);
    assert_eq!(lab.batch(batch).await.recorded, 4000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_waits_for_another_process() {
    let (lab, path) = lab().await;
    let mut connection = connect(&path).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    let new = new_batch("sweep", owner());
    let opening = lab.store.open_batch(&new, LONG);
    let other = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Reading goes on meanwhile.
        assert!(lab.store.batches(10).await.unwrap().is_empty());
        sqlx::query("COMMIT").execute(&mut connection).await.unwrap();
    };
    let (opened, ()) = tokio::join!(opening, other);
    opened.unwrap();
}

#[tokio::test]
async fn a_row_that_the_database_refuses_ends_as_failed_and_holds_up_no_other() {
    let (lab, path) = lab().await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON result WHEN NEW.output_text = 'poison'
                  BEGIN SELECT RAISE(ABORT, 'refused by the test'); END";
    sqlx::query(refuse).execute(&mut connect(&path).await).await.unwrap();
    let submitted = lab.submitted("sweep", 20).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let text = |ordinal| if ordinal % 8 == 3 { "poison" } else { "ok" };
    let settlements: Vec<_> = held.iter().map(|job| settle(job, success(text(job.id.ordinal())))).collect();
    let flushed = lab.store.flush(worker, &settlements).await.unwrap();
    assert_eq!((flushed.results, flushed.attempts, flushed.rejected, flushed.lost), (20, 20, 3, 0));
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.failed, batch.calls), (17, 3, 20));
    assert!(batch.state.is_ended());
    for row in lab.rows(submitted.id, 20).await {
        let error = row.result.error.as_ref();
        assert_eq!(row.result.status == Status::Failed, row.job_id.ordinal() % 8 == 3);
        assert_eq!(error.map(|error| &error.class), error.map(|_| &ErrorClass::StoreRejected));
    }
}

#[tokio::test]
async fn the_views_show_what_people_read() {
    let (lab, path) = lab().await;
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let mut result = success("hello");
    result.finished_at = chrono::DateTime::from_timestamp_millis(1_795_400_000_123).unwrap();
    lab.ended(worker, &submitted.jobs[..1], &result).await;
    let mut connection = connect(&path).await;
    let row = sqlx::query("SELECT * FROM results").fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<String, _>("job_id"), submitted.jobs[0].id.to_string());
    assert_eq!(row.get::<String, _>("batch_id"), submitted.id.to_string());
    assert_eq!(row.get::<String, _>("finished_at"), "2026-11-23T02:13:20.123Z");
    assert_eq!(row.get::<f64, _>("cost_usd"), 0.000_001_5);
    assert_eq!((row.get::<&str, _>("batch"), row.get::<&str, _>("custom_id")), ("sweep", "line-0"));
    let row = sqlx::query("SELECT * FROM attempts").fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<String, _>("job_id"), submitted.jobs[0].id.to_string());
    assert_eq!(row.get::<&str, _>("cost_basis"), "reported");
    let row = sqlx::query("SELECT * FROM batches").fetch_one(&mut connection).await.unwrap();
    assert_eq!((row.get::<&str, _>("state"), row.get::<i64, _>("total")), ("running", 2));
    assert_eq!(row.get::<i64, _>("succeeded"), 1);
}
