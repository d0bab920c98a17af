//! Times and full queues: no call after a job's deadline, none before its `not_before`, none lost to a queue that is full.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_tests::fleet::{Called, Fleet, by_job, eventually};
use gristmill_worker::simulate;

fn slow(latency_ms: u64) -> simulate::Options {
    simulate::Options { latency: Duration::from_millis(latency_ms), ..Default::default() }
}

fn from_now(ms: i64) -> DateTime<Utc> {
    SystemClock.now() + chrono::TimeDelta::milliseconds(ms)
}

fn unix_ms(time: DateTime<Utc>) -> u64 {
    time.timestamp_millis().unsigned_abs()
}

fn expired(rows: &[ResultRow]) -> Vec<&ResultRow> {
    let expired: Vec<_> = rows.iter().filter(|row| row.result.status == Status::Expired).collect();
    for row in &expired {
        let error = row.result.error.as_ref().unwrap();
        assert_eq!((&error.class, row.result.attempts), (&ErrorClass::DeadlineExceeded, 0), "{error:?}");
    }
    expired
}

fn is_called(calls: &[Called], row: &ResultRow) -> bool {
    by_job(calls).contains_key(row.custom_id.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_deadline_passes_in_the_queue_expires_without_a_call() {
    let mut fleet = Fleet::start(slow(0)).await;
    fleet.keeper(&[]).await;
    let deadline = from_now(1_500);
    let edit = |n: usize, job: &mut gristmill_producer::NewJob| {
        if n.is_multiple_of(3) {
            job.options.deadline = Some(deadline);
        }
    };
    let batch = fleet.submit("queued", 60, edit).await;
    eventually("the keeper ends them", async || (fleet.batch(batch).await.counters.expired == 20).then_some(())).await;
    assert!(SystemClock.now() >= deadline, "none ends before its deadline");
    assert_eq!(fleet.batch(batch).await.counters.done(), 20);
    // Their messages are still there, and wake nothing.
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, 60).await;
    assert_eq!(expired(&rows).len(), 20);
    let calls = fleet.calls().await;
    assert_eq!(calls.len(), 40);
    assert!(expired(&rows).iter().all(|row| !is_called(&calls, row)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_deadline_passes_while_it_waits_for_a_slot_expires_without_a_call() {
    // They would take 25 s.
    const JOBS: usize = 200;
    let mut fleet = Fleet::start(slow(250)).await;
    fleet.worker(&["--concurrency", "2"], &[]);
    fleet.serving().await;
    let deadline = from_now(10_000);
    let batch = fleet.submit("waiting", JOBS, |_, job| job.options.deadline = Some(deadline)).await;
    let rows = fleet.agrees(batch, JOBS).await;
    let expired = expired(&rows);
    assert!((1..JOBS).contains(&expired.len()), "{} expired", expired.len());
    let calls = fleet.calls().await;
    assert_eq!(calls.len(), JOBS - expired.len(), "each job was either called or expired");
    assert!(expired.iter().all(|row| !is_called(&calls, row)));
    // The deadline is asked last just before the request is sent; a busy machine may stand still in between.
    let late: Vec<_> = calls.iter().filter(|call| call.t_ms > unix_ms(deadline) + 5_000).collect();
    assert!(late.is_empty(), "called after the deadline: {late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_called_before_its_time() {
    let mut fleet = Fleet::start(slow(0)).await;
    fleet.worker(&[], &[]);
    fleet.serving().await;
    let not_before = from_now(15_000);
    let edit = |n: usize, job: &mut gristmill_producer::NewJob| {
        if n.is_multiple_of(2) {
            job.options.not_before = Some(not_before);
        }
    };
    let batch = fleet.submit("later", 40, edit).await;
    eventually("the others are done", async || (fleet.batch(batch).await.counters.done() >= 20).then_some(())).await;
    let waiting = fleet.store.progress(batch).await.unwrap().waiting;
    if SystemClock.now() < not_before {
        assert_eq!(waiting, 20);
    }
    let rows = fleet.agrees(batch, 40).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded));
    let calls = fleet.calls().await;
    assert_eq!(calls.len(), 40);
    let mut later = 0;
    for call in &calls {
        let n: usize = call.marker.rsplit_once('-').unwrap().1.parse().unwrap();
        if n.is_multiple_of(2) {
            later += 1;
            assert!(call.t_ms >= unix_ms(not_before), "{} was called too early", call.marker);
        }
    }
    assert_eq!(later, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_before_the_time_of_the_first_call_expires_the_job() {
    let mut fleet = Fleet::start(slow(0)).await;
    fleet.worker(&[], &[]);
    let (deadline, not_before) = (from_now(500), from_now(3_600_000));
    let edit = |_: usize, job: &mut gristmill_producer::NewJob| {
        job.options.deadline = Some(deadline);
        job.options.not_before = Some(not_before);
    };
    let batch = fleet.submit("never", 10, edit).await;
    let rows = fleet.agrees(batch, 10).await;
    assert_eq!(expired(&rows).len(), 10);
    assert!(SystemClock.now() < not_before, "nobody waited for that");
    assert_eq!(fleet.calls().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_a_full_queue_refuses_are_put_off_and_complete() {
    let mut fleet = Fleet::start(slow(0)).await;
    // A queue hears of its limit a little late; the later chunks find it full.
    fleet.rabbit.limit_queues(5).await;
    let batch = fleet.submit("full", 2500, |_, _| {}).await;
    let waiting = fleet.store.progress(batch).await.unwrap().waiting;
    assert!((1..2500).contains(&waiting), "{waiting} were put off");
    let recorded = fleet.batch(batch).await;
    assert_eq!((recorded.recorded, recorded.total), (2500, Some(2500)), "the submission does not wait");
    fleet.worker(&[], &[]);
    fleet.agrees(batch, 2500).await;
    let calls = fleet.calls().await;
    assert_eq!((calls.len(), by_job(&calls).len()), (2500, 2500));
}
