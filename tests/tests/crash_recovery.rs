//! Kills a process at each step of the way, as ARCHITECTURE.md's table of crashes has them, and checks P1, P2 and P3: one row
//! a job, counters equal to rows, no call repeated but those that were made and not written when it died.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::BTreeSet;
use std::io::Write as _;

use gristmill_common::id::BatchId;
use gristmill_common::job::Priority;
use gristmill_common::store::{BatchSelector, Cursor};
use gristmill_producer::NewJob;
use gristmill_tests::fleet::{self, Fleet, MODEL, by_job, eventually};
use gristmill_worker::simulate;

const JOBS: usize = 60;
/// Calls that the dying worker has in flight at most.
const CONCURRENCY: usize = 8;
/// Lines of the producer's input: a whole chunk and a part.
const LINES: usize = 1300;

fn simulator() -> simulate::Options {
    let ms = std::time::Duration::from_millis;
    simulate::Options { latency: ms(200), jitter: ms(50), ..Default::default() }
}

async fn number(fleet: &Fleet, sql: &'static str) -> usize {
    let mut connection = fleet.database.connect().await;
    let number: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    number.try_into().unwrap()
}

/// Waits until every row that is committed can be read, and returns the jobs' names.
async fn written(fleet: &Fleet, batch: BatchId) -> BTreeSet<String> {
    let rows = eventually("all rows can be read", async || {
        let page = fleet.store.results_after(batch, Cursor::default(), 1000).await.unwrap();
        (!page.more).then_some(page.rows)
    })
    .await;
    rows.into_iter().map(|row| row.custom_id).collect()
}

/// Lets a worker die at a place, and another one do the rest.
async fn a_worker_dies(place: &str, priority: Priority) {
    let mut fleet = Fleet::start(simulator()).await;
    fleet.keeper(&[]).await;
    let batch = fleet.submit_at(priority, "crash", JOBS, |_, _| {}).await;
    let concurrency = CONCURRENCY.to_string();
    let dying = fleet.worker(&["--concurrency", &concurrency], &[("GRISTMILL_FAILPOINT", place)]);
    assert!(!fleet.ended(dying).await, "it dies at {place}");

    let called = fleet.calls().await;
    fleet.quiet().await;
    let written = written(&fleet, batch).await;
    let lost: BTreeSet<&str> =
        called.iter().map(|call| call.marker.as_str()).filter(|marker| !written.contains(*marker)).collect();
    assert_eq!(called.len(), by_job(&called).len(), "it called nothing twice");
    assert_eq!(called.len(), written.len() + lost.len(), "a row without a call");
    // An answer that waits for its flush counts as in flight.
    assert!(lost.len() <= 4 * CONCURRENCY, "calls in flight, or answered and not written: {}", lost.len());
    if ["after_delivery", "after_admit", "after_ack", "before_call"].iter().any(|step| place.ends_with(step)) {
        assert!(called.len() < CONCURRENCY, "it died before its first calls ended");
    }
    if place == "worker.after_flush" {
        assert!(!written.is_empty(), "it died after its first rows");
    }

    fleet.end_lease(dying).await;
    fleet.worker(&["--concurrency", &concurrency], &[]);
    let rows = fleet.agrees(batch, JOBS).await;
    assert!(rows.iter().all(|row| row.result.response.is_some() && row.result.attempts == 1), "{rows:?}");
    let calls = fleet.calls().await;
    for (job, count) in by_job(&calls) {
        assert_eq!(count, if lost.contains(job) { 2 } else { 1 }, "calls of {job}; it died at {place}");
    }
    assert_eq!(by_job(&calls).len(), JOBS);
    let recorded = number(&fleet, "SELECT count(*) FROM gristmill.attempt").await;
    assert_eq!(recorded, calls.len() - lost.len(), "every call is recorded but those that died with it");
    assert_eq!(fleet.batch(batch).await.calls, recorded as u64);
    eventually("nothing is held", async || {
        (number(&fleet, "SELECT count(*) FROM gristmill.live").await == 0).then_some(())
    })
    .await;
}

macro_rules! a_worker_dies {
    ($($name:ident: $place:literal, $priority:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            a_worker_dies($place, Priority::$priority).await;
        }
    )*};
}

a_worker_dies! {
    a_worker_that_dies_after_its_first_delivery_has_called_nothing: "worker.after_delivery", Bulk;
    a_worker_that_dies_after_a_later_delivery_repeats_what_was_in_flight: "worker.after_delivery:5", High;
    a_worker_that_dies_after_its_first_admission_has_called_nothing: "worker.after_admit", Bulk;
    a_worker_that_dies_after_a_later_ack_repeats_what_was_in_flight: "worker.after_ack:4", High;
    a_worker_that_dies_before_a_later_call_repeats_what_was_in_flight: "worker.before_call:25", Bulk;
    a_worker_that_dies_after_its_first_call_repeats_what_was_in_flight: "worker.after_call", Bulk;
    a_worker_that_dies_before_a_later_flush_repeats_nothing_that_was_written: "worker.before_flush:4", Bulk;
    a_worker_that_dies_after_its_first_flush_repeats_nothing_that_was_written: "worker.after_flush", High;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_after_the_last_flush_leaves_nothing_to_do() {
    let mut fleet = Fleet::start(simulator()).await;
    let batch = fleet.submit("crash", 1, |_, _| {}).await;
    let dying = fleet.worker(&[], &[("GRISTMILL_FAILPOINT", "worker.after_flush")]);
    assert!(!fleet.ended(dying).await);
    // It ended with the dead worker's flush already.
    assert!(fleet.batch(batch).await.state.is_ended());
    fleet.worker(&[], &[]);
    let after = fleet.submit("after", 20, |_, _| {}).await;
    fleet.agrees(after, 20).await;
    fleet.agrees(batch, 1).await;
    assert_eq!(fleet.calls().await.len(), 21);
}

/// Ends a lease as time would end it.
async fn end_lease(fleet: &Fleet, sql: &'static str) {
    let mut connection = fleet.database.connect().await;
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

const END_KEEPER: &str = "UPDATE gristmill.keeper SET lease_until = now()";
const END_PRODUCER: &str = "UPDATE gristmill.batch SET producer_lease = now()";

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_dies_between_publishing_and_saying_so_publishes_twice_and_no_job_runs_twice() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let keeper = fleet.keeper(&[("GRISTMILL_FAILPOINT", "keeper.after_publish")]).await;
    // Each job fails once, so that the keeper has to publish every one.
    let edit = |_, job: &mut NewJob| *job = fleet::job(&job.custom_id, "simulate:500,ok");
    let batch = fleet.submit("due", JOBS, edit).await;
    fleet.worker(&["--concurrency", "8"], &[]);
    assert!(!fleet.ended(keeper).await);
    end_lease(&fleet, END_KEEPER).await;
    fleet.agrees(batch, JOBS).await;
    let calls = fleet.calls().await;
    assert!(by_job(&calls).values().all(|count| *count == 2), "{calls:?}");
    assert_eq!(fleet.batch(batch).await.calls, 2 * JOBS as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_dies_after_taking_over_from_the_dead_leaves_the_rest_to_the_next() {
    let mut fleet = Fleet::start(simulator()).await;
    let keeper = fleet.keeper(&[("GRISTMILL_FAILPOINT", "keeper.after_bury")]).await;
    let batch = fleet.submit("buried", JOBS, |_, _| {}).await;
    let dying = fleet.worker(&["--concurrency", "8"], &[("GRISTMILL_FAILPOINT", "worker.before_flush")]);
    assert!(!fleet.ended(dying).await);
    let lost = fleet.calls().await.len();
    fleet.end_lease(dying).await;
    assert!(!fleet.ended(keeper).await);
    end_lease(&fleet, END_KEEPER).await;
    fleet.worker(&["--concurrency", "8"], &[]);
    fleet.agrees(batch, JOBS).await;
    assert_eq!(fleet.calls().await.len(), JOBS + lost);
}

fn write_input(fleet: &Fleet) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(fleet.dir.path().join("input.jsonl")).unwrap());
    for n in 0..LINES {
        let body = serde_json::json!({"model": MODEL, "messages": [{"role": "user", "content": "How many stones?"}],
                                      "user": format!("line-{n}"), "max_tokens": 5});
        let line = serde_json::json!({"custom_id": format!("line-{n}"), "method": "POST",
                                      "url": "/v1/chat/completions", "body": body});
        writeln!(file, "{line}").unwrap();
    }
    file.flush().unwrap();
}

/// Lets a producer die at a place. What it recorded runs without it, and the same command completes the batch.
async fn the_producer_dies(place: &str, keeper_dies: Option<&str>) {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    write_input(&fleet);
    let submit = ["submit", "input.jsonl", "--name", "half"];
    let died = fleet.command(&submit).env("GRISTMILL_FAILPOINT", place).output().unwrap();
    assert_eq!(died.status.code(), None, "it dies at {place}");
    let found = fleet.store.batch(&BatchSelector::Name("half".to_owned())).await.unwrap().unwrap();
    assert!(found.recorded > 0 && found.published_through < found.recorded && found.total.is_none(), "{found:?}");

    // Half a minute passes.
    end_lease(&fleet, END_PRODUCER).await;
    if let Some(place) = keeper_dies {
        let keeper = fleet.keeper(&[("GRISTMILL_FAILPOINT", place)]).await;
        assert!(!fleet.ended(keeper).await, "it dies at {place}");
        end_lease(&fleet, END_KEEPER).await;
    }
    fleet.worker(&[], &[]);
    let done = eventually("what was recorded runs", async || {
        let batch = fleet.batch(found.id).await;
        (batch.counters.succeeded == found.recorded && batch.published_through == found.recorded).then_some(batch)
    })
    .await;
    assert!(!done.state.is_ended(), "nobody said that this was all: {:?}", done.state);

    let again = fleet.command(&submit).output().unwrap();
    assert!(again.status.success(), "the same command ends well: {}", String::from_utf8_lossy(&again.stderr));
    fleet.agrees(found.id, LINES).await;
    let calls = fleet.calls().await;
    assert_eq!(by_job(&calls).len(), LINES);
    assert_eq!(calls.len(), LINES, "a dead producer's jobs are not called twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_producer_that_dies_after_recording_run_and_the_same_command_completes_the_batch() {
    the_producer_dies("producer.after_record", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_producer_that_dies_after_publishing_run_once() {
    the_producer_dies("producer.after_publish", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_producer_that_dies_before_the_seal_run_and_the_same_command_seals() {
    the_producer_dies("producer.before_seal", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_dies_while_it_publishes_for_a_dead_producer_makes_no_job_run_twice() {
    the_producer_dies("producer.after_record", Some("keeper.after_publish_abandoned")).await;
}
