//! P8: nothing buffers without limit when a part is down. P3: an outage repeats no call.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::time::Duration;

use gristmill_tests::fleet::{Fleet, eventually};
use gristmill_tests::proxy::Proxy;
use gristmill_tests::rabbit;
use gristmill_worker::simulate;
use secrecy::ExposeSecret as _;

/// Most memory of a worker, in KiB.
const MOST_KIB: u64 = 150 * 1024;
const CONCURRENCY: u64 = 20;
/// The lease of a worker that loses its store: longer than the keeper's, so that a machine that stands still costs nobody his.
const LEASE: Duration = Duration::from_secs(12);
/// Calls of a worker of this concurrency that run or whose results are not committed yet: what a crash would repeat.
const MOST_UNCOMMITTED: u64 = 2 * CONCURRENCY;

fn slow(latency_ms: u64) -> simulate::Options {
    simulate::Options { latency: Duration::from_millis(latency_ms), ..Default::default() }
}

/// Reads the most memory that a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_stops_the_calls_within_a_lease_and_its_return_repeats_none() {
    let mut fleet = Fleet::start(slow(100)).await;
    let proxy = Proxy::start(fleet.database.url().expose_secret()).await;
    let url = proxy.url(fleet.database.url().expose_secret());
    let batch = fleet.submit("outage", 1500, |_, _| {}).await;
    let lease = format!("{}s", LEASE.as_secs());
    let env = [("DATABASE_URL", url.expose_secret()), ("GRISTMILL_LEASE_TTL", lease.as_str())];
    let worker = fleet.worker(&["--concurrency", &CONCURRENCY.to_string()], &env);
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().received >= 300).then_some(())).await;

    proxy.refuse(true);
    let at_the_cut = control.stats().received;
    // The outage itself: a lease, a margin, and as long as shows that nothing starts.
    tokio::time::sleep(LEASE + Duration::from_secs(3)).await;
    let after_a_lease = control.stats().received;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let at_the_return = control.stats();
    proxy.refuse(false);

    assert_eq!(after_a_lease, at_the_return.received, "without a lease no call starts");
    let without = at_the_return.received - at_the_cut;
    assert!(without <= MOST_UNCOMMITTED, "{without} calls without the store");
    assert_eq!(at_the_return.in_flight, 0);
    fleet.agrees(batch, 1500).await;
    assert_eq!(fleet.calls().await.len(), 1500, "an outage of the store repeats nothing: {}", fleet.logs());
    assert_eq!(fleet.batch(batch).await.calls, 1500);
    let peak = peak_kib(fleet.pid(worker));
    assert!(peak < MOST_KIB, "{peak} KiB");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_stops_no_admitted_job_and_its_return_repeats_none() {
    let mut fleet = Fleet::start(slow(100)).await;
    let proxy = Proxy::start(&rabbit::url()).await;
    let url = proxy.url(&rabbit::url());
    let batch = fleet.submit("outage", 1500, |_, _| {}).await;
    let worker = fleet.worker(&["--concurrency", &CONCURRENCY.to_string()], &[("AMQP_URL", url.expose_secret())]);
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().received >= 200).then_some(())).await;

    proxy.refuse(true);
    let at_the_cut = fleet.batch(batch).await.counters.succeeded;
    eventually("jobs that were admitted go on", async || {
        (fleet.batch(batch).await.counters.succeeded >= at_the_cut + 40).then_some(())
    })
    .await;
    proxy.refuse(false);

    fleet.agrees(batch, 1500).await;
    assert_eq!(fleet.calls().await.len(), 1500, "an outage of the broker repeats nothing: {}", fleet.logs());
    let peak = peak_kib(fleet.pid(worker));
    assert!(peak < MOST_KIB, "{peak} KiB");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_and_answers_do_not_grow_a_worker() {
    let mut fleet = Fleet::start(slow(20)).await;
    fleet.simulator.control().set_output_tokens(4000);
    let filler = "A stone turns and the grain is ground. ".repeat(3000);
    let batch = fleet
        .submit("large", 400, |_, job| {
            let body = serde_json::json!({
                "model": gristmill_tests::fleet::MODEL,
                "messages": [{"role": "user", "content": filler}],
                "user": job.custom_id,
            });
            job.body = body.to_string().into();
        })
        .await;
    let worker = fleet.worker(&["--concurrency", &CONCURRENCY.to_string()], &[]);
    fleet.agrees(batch, 400).await;
    assert_eq!(fleet.calls().await.len(), 400);
    let peak = peak_kib(fleet.pid(worker));
    assert!(peak < MOST_KIB, "{peak} KiB for 400 requests of {} bytes", filler.len());
}
