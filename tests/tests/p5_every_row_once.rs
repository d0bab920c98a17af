//! P5: a reader that goes on from a saved cursor sees every row exactly once, whoever else writes, in whatever language.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use gristmill_common::id::BatchId;
use gristmill_common::store::Cursor;
use gristmill_producer::Producer;
use gristmill_tests::fleet::{Fleet, LONG};
use gristmill_worker::simulate;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const JOBS: usize = 800;

/// Rows that a reader saw, each as often as it saw it.
type Seen = Vec<(Uuid, u32)>;

/// Follows from the cursor of this text to the end of the batch.
async fn follow(producer: &Producer, batch: BatchId, from: &str) -> Seen {
    let rows = producer.subscribe(batch, from.parse().unwrap(), CancellationToken::new()).rows();
    let mut rows = pin!(rows);
    let mut seen = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.unwrap();
        seen.push((row.job_id.uuid(), row.run));
    }
    seen
}

/// Follows until rows are there, stops like a process that ends, and goes on from the text it kept.
async fn stop_and_go_on(producer: &Producer, batch: BatchId) -> Seen {
    let mut seen = Vec::new();
    let mut reader = producer.subscribe(batch, Cursor::default(), CancellationToken::new());
    while seen.is_empty() {
        let page = reader.next_page().await.unwrap().expect("the batch has not ended");
        seen.extend(page.rows.iter().map(|row| (row.job_id.uuid(), row.run)));
    }
    let kept = reader.cursor().to_string();
    drop(reader);
    seen.extend(follow(producer, batch, &kept).await);
    seen
}

/// Reads as a program in any language does: the documented function and view, a cursor that is a text.
async fn read_by_sql(connection: &mut PgConnection, batch: BatchId) -> Seen {
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        // Asked before the rows, so that rows of the batch's end are not missed.
        let state: String = sqlx::query_scalar("SELECT state FROM gristmill.batches WHERE batch_id = $1")
            .bind(batch.uuid())
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        let rows: Vec<(String, Uuid, i32, String)> =
            sqlx::query_as("SELECT cursor, job_id, run, custom_id FROM gristmill.results_after($1, $2, 100)")
                .bind(batch.uuid())
                .bind(&cursor)
                .fetch_all(&mut *connection)
                .await
                .unwrap();
        assert!(rows.iter().all(|row| row.3.starts_with("rows-")));
        if let Some(last) = rows.last() {
            cursor.clone_from(&last.0);
        }
        seen.extend(rows.iter().map(|row| (row.1, row.2.unsigned_abs())));
        let total: i64 = sqlx::query_scalar(
            "SELECT succeeded + failed + cancelled + expired FROM gristmill.batches WHERE batch_id = $1",
        )
        .bind(batch.uuid())
        .fetch_one(&mut *connection)
        .await
        .unwrap();
        if state == "finished" && seen.len() as u64 >= total.unsigned_abs() {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Holds a writing transaction open for two seconds, again and again: rows that commit meanwhile must wait for it.
async fn write_slowly(connection: &mut PgConnection, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let mut tx = connection.begin().await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO gristmill.model_group (name) VALUES ('slow') ON CONFLICT (name) DO UPDATE SET seen_at = now()",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        tx.commit().await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(500), stop.cancelled()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_sees_every_row_exactly_once() {
    let ms = Duration::from_millis;
    let slow = simulate::Options { latency: ms(100), jitter: ms(60), ..Default::default() };
    let mut fleet = Fleet::start(slow).await;
    let producer = fleet.producer().await;
    let batch = fleet.submit("rows", JOBS, |_, _| {}).await;
    let (mut reading, mut writing) = (fleet.database.connect().await, fleet.database.connect().await);
    fleet.worker(&["--concurrency", "12"], &[]);
    fleet.worker(&["--concurrency", "12"], &[]);

    let stop = CancellationToken::new();
    let readers = async {
        let beginning = Cursor::default().to_string();
        let seen = tokio::join!(
            follow(&producer, batch, &beginning),
            stop_and_go_on(&producer, batch),
            read_by_sql(&mut reading, batch),
        );
        stop.cancel();
        seen
    };
    let all = async { tokio::join!(readers, write_slowly(&mut writing, &stop)) };
    let ((beginning, middle, sql), ()) = tokio::time::timeout(LONG, all).await.expect("all readers come to the end");

    let rows = fleet.agrees(batch, JOBS).await;
    let rows: BTreeSet<(Uuid, u32)> = rows.iter().map(|row| (row.job_id.uuid(), row.run)).collect();
    for (reader, seen) in [("from the beginning", beginning), ("stopped and resumed", middle), ("by SQL", sql)] {
        assert_eq!(seen.len(), JOBS, "{reader}: no row twice");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), rows, "{reader}: no row missed");
    }
    assert_eq!(fleet.calls().await.len(), JOBS);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_committed_beside_a_slow_transaction_wait_for_it_and_come_in_one_order() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    fleet.worker(&[], &[]);
    let before = fleet.submit("before", 30, |_, _| {}).await;
    fleet.agrees(before, 30).await;

    let mut slow = fleet.database.connect().await;
    let mut tx = slow.begin().await.unwrap();
    let xid: i64 = sqlx::query_scalar("SELECT pg_current_xact_id()::text::bigint").fetch_one(&mut *tx).await.unwrap();
    let batch = fleet.submit("beside", 30, |_, _| {}).await;
    fleet.finished(batch).await;
    let page = fleet.store.results_after(batch, Cursor::default(), 1000).await.unwrap();
    assert_eq!((page.rows.len(), page.more), (0, true), "they are there, and wait");
    tx.commit().await.unwrap();

    let rows = fleet.rows(batch).await;
    assert_eq!(rows.len(), 30);
    let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
    loop {
        let page = fleet.store.results_after(batch, cursor, 7).await.unwrap();
        if page.rows.is_empty() && !page.more {
            break;
        }
        assert!(page.cursor > cursor && page.cursor.xid > xid.unsigned_abs(), "the order is that of the transactions");
        cursor = page.cursor;
        seen.extend(page.rows);
    }
    assert_eq!(seen, rows, "small pages give the same rows in the same order");
}
