//! P1: a confirmed job ends in exactly one terminal row per run, whoever dies in between.
//! P2: one row per run, counters equal rows. P3: calls within the bound.

use std::io::Write as _;
use std::time::Duration;

use gristmill_tests::fleet::{Fleet, MODEL, by_job, eventually};
use gristmill_worker::simulate;

fn slow() -> simulate::Options {
    simulate::Options { latency: Duration::from_millis(200), jitter: Duration::from_millis(100), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_three_times_loses_no_job_and_repeats_at_most_twice_its_concurrency() {
    let mut fleet = Fleet::start(slow()).await;
    fleet.keeper(&[]).await;
    let batch = fleet.submit("killed", 1500, |_, _| {}).await;
    fleet.worker(&["--concurrency", "50"], &[]);
    let mut victim = fleet.worker(&["--concurrency", "50"], &[]);
    for kill in 1..=3u64 {
        let control = fleet.simulator.control();
        let target = control.stats().received + 150 * kill;
        eventually("calls are made", async || (control.stats().received >= target.min(1400)).then_some(())).await;
        fleet.kill(victim).await;
        victim = fleet.worker(&["--concurrency", "50"], &[]);
    }
    let rows = fleet.agrees(batch, 1500).await;
    assert!(rows.iter().all(|row| row.result.response.is_some()));
    let calls = fleet.calls().await;
    assert_eq!(by_job(&calls).len(), 1500, "each job was called");
    // Calls that ran, and answers that waited for their group's commit.
    assert!(calls.len() <= 1500 + 3 * 2 * 50, "{} calls for 1500 jobs and three kills of 50 at once", calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_asked_to_stop_finishes_its_calls_and_repeats_none() {
    let mut fleet = Fleet::start(slow()).await;
    let batch = fleet.submit("stopped", 400, |_, _| {}).await;
    let first = fleet.worker(&["--concurrency", "40"], &[]);
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().received >= 100).then_some(())).await;
    fleet.signal(first, "TERM");
    assert!(fleet.ended(first).await, "it ends well: {}", fleet.logs());
    fleet.worker(&["--concurrency", "40"], &[]);
    fleet.agrees(batch, 400).await;
    assert_eq!(fleet.calls().await.len(), 400, "no call was repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_writes_nothing_once_its_jobs_went_to_others() {
    let mut fleet = Fleet::start(slow()).await;
    fleet.keeper(&[]).await;
    let batch = fleet.submit("frozen", 300, |_, _| {}).await;
    // It runs out while the worker is stopped, for the store and for the worker itself.
    let frozen = fleet.worker(&["--concurrency", "30"], &[("GRISTMILL_LEASE_TTL", "12s")]);
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().received >= 60).then_some(())).await;
    fleet.signal(frozen, "STOP");
    fleet.worker(&["--concurrency", "30"], &[]);
    fleet.agrees(batch, 300).await;
    fleet.signal(frozen, "CONT");
    // It comes back with a new owner, and works on.
    let again = fleet.submit("thawed", 100, |_, _| {}).await;
    fleet.agrees(again, 100).await;
    let rows = fleet.agrees(batch, 300).await;
    assert_eq!(rows.len(), 300);
    // What it had called came to nothing, but was paid for: every call is recorded, and no more were repeated than were
    // called and not yet written when it was stopped.
    let calls = fleet.calls().await.len();
    eventually("every call is recorded", async || {
        let recorded = fleet.batch(batch).await.calls + fleet.batch(again).await.calls;
        (recorded == calls as u64).then_some(())
    })
    .await;
    assert!(calls <= 400 + 2 * 30, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_producer_killed_in_mid_submit_run_and_the_same_command_completes_the_batch() {
    const LINES: usize = 8_000;
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let input = fleet.dir.path().join("input.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&input).unwrap());
    for n in 0..LINES {
        let body = serde_json::json!({"model": MODEL, "messages": [{"role": "user", "content": "x".repeat(500)}],
                                      "user": format!("line-{n}"), "max_tokens": 5});
        let line = serde_json::json!({"custom_id": format!("line-{n}"), "method": "POST",
                                      "url": "/v1/chat/completions", "body": body});
        writeln!(file, "{line}").unwrap();
    }
    file.flush().unwrap();
    let submit = ["submit", "input.jsonl", "--name", "half"];
    let mut producer = fleet.command(&submit).spawn().unwrap();
    let recorded = eventually("part is recorded", async || {
        let selector = gristmill_common::store::BatchSelector::Name("half".to_owned());
        fleet.store.batch(&selector).await.unwrap().filter(|batch| batch.recorded >= 1500).map(|batch| batch.id)
    })
    .await;
    producer.kill().unwrap();
    producer.wait().unwrap();
    fleet.worker(&[], &[]);
    let status = fleet.command(&submit).status().unwrap();
    assert!(status.success(), "the second submission ends well");
    fleet.agrees(recorded, LINES).await;
    assert_eq!(by_job(&fleet.calls().await).len(), LINES);
}
