//! P4: limits hold over the fleet, and are used up; what refuses or fails is waited for, by all workers together.
#![expect(clippy::unwrap_used, reason = "what a test sets up must work")]

use std::time::Duration;

use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::Status;
use gristmill_tests::fleet::{Fleet, MODEL, eventually};
use gristmill_worker::simulate::{LimitShape, Limits, Options};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Every worker has connections of its own, of which the server has so many.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// Starts a fleet once there is room for it; to be kept until the test ends.
async fn fleet(options: Options) -> (SemaphorePermit<'static>, Fleet) {
    let room = AT_ONCE.acquire().await.unwrap();
    (room, Fleet::start(options).await)
}

/// Writes the workers' configuration: one deployment, with these parameters.
fn configure(fleet: &Fleet, params: &str) {
    let base = fleet.simulator.base_url();
    let yaml = format!(
        "model_list:\n- model_name: {MODEL}\n  litellm_params: {{model: openai/sim-1, api_base: '{base}', \
         api_key: sk-limits-0123456789, {params}}}\n"
    );
    std::fs::write(fleet.dir.path().join("gristmill.yaml"), yaml).unwrap();
}

fn simulator(limits: &str) -> Options {
    let limits = if limits.is_empty() { Limits::default() } else { limits.parse().unwrap() };
    Options { limits, latency: Duration::from_millis(100), ..Options::default() }
}

/// Makes a simulator that lets in what piles up while a busy machine stands still.
fn patient(limits: &str) -> Options {
    Options { limit_shape: LimitShape::Bucket { burst: Duration::from_secs(10) }, ..simulator(limits) }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_keep_one_limit_and_waste_little_of_it() {
    const JOBS: usize = 720;
    let (_room, mut fleet) = fleet(patient("rpm:1800")).await;
    configure(&fleet, "rpm: 1800");
    let batch = fleet.submit("shared", JOBS, |_, _| {}).await;
    fleet.worker(&[], &[]);
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, JOBS).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded));
    let found = fleet.simulator.control().stats().limits;
    assert!(found.refused <= 2, "{found:?}");
    assert_eq!(found.rpm.breaches, 0, "{found:?}");
    let took_ms = found.last_accepted_ms.unwrap() - found.first_accepted_ms.unwrap();
    // At twice the limit the bucket is empty after 10 s and 600 calls.
    assert!(took_ms > 17_000, "24 s at the limit, 14 s if each worker had all of it: {took_ms} ms");
    assert!(took_ms < 48_000, "24 s at the limit, twice that if only half of it were used: {took_ms} ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_limited_as_the_provider_counts_them() {
    let (_room, mut fleet) = fleet(simulator("tpm:240000")).await;
    configure(&fleet, "tpm: 240000");
    let batch = fleet
        .submit("tokens", 200, |n, job| {
            let words = [20, 200, 1_500][n % 3];
            let body = serde_json::json!({
                "model": MODEL, "user": job.custom_id, "max_tokens": 50,
                "messages": [{"role": "user", "content": "mill ".repeat(words)}],
            });
            job.body = body.to_string().into();
        })
        .await;
    fleet.worker(&[], &[]);
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, 200).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded));
    let found = fleet.simulator.control().stats().limits;
    assert!(found.refused <= 40, "{found:?}");
    assert!(found.tpm.peak_accepted_permille <= 1_050, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_larger_than_the_limit_fails_at_once_and_says_so() {
    let (_room, mut fleet) = fleet(simulator("")).await;
    configure(&fleet, "tpm: 1000");
    let batch = fleet
        .submit("large", 1, |_, job| {
            let body = serde_json::json!({
                "model": MODEL, "user": job.custom_id, "max_tokens": 2_000, "messages": [{"role": "user", "content": "Go"}],
            });
            job.body = body.to_string().into();
        })
        .await;
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, 1).await;
    let error = rows[0].result.error.as_ref().unwrap();
    assert_eq!(error.class, ErrorClass::RequestTooLarge);
    assert!(error.message.contains("2000 tokens") && error.message.contains("1000 tpm"), "{}", error.message);
    assert!(fleet.calls().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fails_no_job_and_is_probed_one_call_at_a_time() {
    let (_room, mut fleet) = fleet(Options { outages: vec!["1s+6s".parse().unwrap()], ..simulator("") }).await;
    configure(&fleet, "rpm: 6000");
    let batch = fleet.submit("outage", 600, |_, job| job.options.num_retries = Some(5)).await;
    for _ in 0..3 {
        fleet.worker(&["--concurrency", "16"], &[]);
    }
    let rows = fleet.agrees(batch, 600).await;
    let failed: Vec<_> = rows.iter().filter(|row| row.result.status != Status::Succeeded).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let outage = fleet.simulator.control().stats().outage;
    // What was under way when it began, the little that each worker needs to see it, and then probes.
    assert!(outage.calls > 0 && outage.calls < 120, "{outage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_asked_for_stops_every_worker_and_uses_no_attempt() {
    let options = Options { faults: vec!["429:1:retry-after=6".parse().unwrap()], ..simulator("") };
    let (_room, mut fleet) = fleet(options).await;
    configure(&fleet, "rpm: 6000");
    let batch = fleet.submit("refused", 300, |_, job| job.options.num_retries = Some(0)).await;
    for _ in 0..3 {
        fleet.worker(&["--concurrency", "8"], &[]);
    }
    let control = fleet.simulator.control();
    let first = eventually("the fleet is refused", async || {
        let standings = fleet.store.standings().await.unwrap();
        standings.iter().any(|account| !account.pauses.is_empty()).then(|| control.stats().received)
    })
    .await;
    control.set_faults(Vec::new());
    let rows = fleet.agrees(batch, 300).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded), "a refusal uses no attempt");
    assert!(first <= 120, "the others heard of it: {first} calls before the pause was known");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_slows_down_to_a_limit_that_nobody_told() {
    let options = Options { limit_headers: false, retry_after: false, ..simulator("rpm:1200") };
    let (_room, mut fleet) = fleet(options).await;
    configure(&fleet, "timeout: 30");
    let batch = fleet.submit("hidden", 500, |_, _| {}).await;
    fleet.worker(&["--concurrency", "64"], &[]);
    fleet.worker(&["--concurrency", "64"], &[]);
    let rows = fleet.agrees(batch, 500).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded));
    let account = fleet.store.standings().await.unwrap().remove(0);
    let learnt = account.learnt_rpm.expect("refusals taught a pace");
    assert!((400..=4_000).contains(&learnt), "{learnt}");
    assert!(account.changes.iter().any(|change| change.by == "learnt"), "{account:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_take_little_of_the_limit_with_them() {
    let (_room, mut fleet) = fleet(patient("rpm:1500")).await;
    // It serves a group that the configuration of the others does not know.
    fleet.keeper(&[]).await;
    configure(&fleet, "rpm: 1500");
    let batch = fleet.submit("churn", 600, |_, _| {}).await;
    let control = fleet.simulator.control();
    let mut oldest = fleet.worker(&[], &[]);
    for mark in [150, 300, 450] {
        let next = fleet.worker(&[], &[]);
        eventually("calls go on", async || (control.stats().received >= mark).then_some(())).await;
        fleet.kill(oldest).await;
        oldest = next;
    }
    let rows = fleet.agrees(batch, 600).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded));
    let found = control.stats().limits;
    let took_ms = found.last_accepted_ms.unwrap() - found.first_accepted_ms.unwrap();
    assert!(took_ms > 17_000, "24 s at the limit, 14 s if a new worker had what an old one has: {took_ms} ms");
}
