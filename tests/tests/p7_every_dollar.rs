//! P7: every dollar is accounted for. The cost records equal the provider's own bill; budgets stop before they are exceeded.

use std::time::Duration;

use bytes::Bytes;
use gristmill_common::budget::{BudgetKey, OnExceed, Period, Scope, Terms};
use gristmill_common::id::BatchId;
use gristmill_common::job::CachePolicy;
use gristmill_common::outcome::Status;
use gristmill_common::price::PicoUsd;
use gristmill_tests::fleet::{Fleet, MODEL, eventually};
use gristmill_tests::money::{bill, configure, lost, recorded, sums};
use gristmill_worker::simulate::Options;

#[tokio::test(flavor = "multi_thread")]
async fn the_records_are_what_the_provider_bills_with_retries_and_fallbacks() {
    let faults = ["500:0.5:model=first", "bad_json:0.05"];
    let mut fleet = Fleet::start(Options {
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        latency: Duration::from_millis(20),
        ..Options::default()
    })
    .await;
    configure(
        &fleet,
        &format!("router_settings: {{fallbacks: [{{{MODEL}: [second]}}], num_retries: 2, retry_after: 0}}\n"),
    );
    let batch = fleet.submit("billed", 400, |_, _| {}).await;
    fleet.worker(&[], &[]);
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, 400).await;
    let billed = bill(&fleet).await.pico_usd;
    assert!(billed > 0);
    for (what, sum) in sums(&fleet, batch).await {
        assert_eq!(sum, billed, "{what} and the bill");
    }
    assert!(rows.iter().any(|row| row.result.attempts > 1), "some were tried again");
    assert!(rows.iter().any(|row| row.result.deployment.as_deref() == Some("second")), "some fell back");
    let mut connection = fleet.database.connect().await;
    let unnamed: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM gristmill.attempt a LEFT JOIN gristmill.price p USING (price_ref)
         WHERE a.cost_usd > 0 AND p.price IS NULL",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(unnamed, 0, "every price is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_killed_workers_called_is_all_that_the_records_lack() {
    const JOBS: usize = 1_000;
    let faults = ["500:0.3:model=first", "bad_json:0.03"];
    let mut fleet = Fleet::start(Options {
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        latency: Duration::from_millis(600),
        ..Options::default()
    })
    .await;
    configure(
        &fleet,
        &format!("router_settings: {{fallbacks: [{{{MODEL}: [second]}}], num_retries: 2, retry_after: 0}}\n"),
    );
    fleet.keeper(&[]).await;
    let workers: Vec<usize> = (0..3).map(|_| fleet.worker(&["--concurrency", "20"], &[])).collect();
    let batch = fleet.submit("killed", JOBS, |n, job| {
        let body = serde_json::json!({
            "model": MODEL, "temperature": 0, "max_tokens": 20, "user": job.custom_id,
            "messages": [{"role": "user", "content": format!("What is ground by mill {}?", n % (JOBS * 3 / 4))}],
        });
        job.body = Bytes::from(body.to_string());
        job.options.cache = CachePolicy::ON;
    });
    let batch = batch.await;
    for (killed, done) in workers.into_iter().zip([150, 350, 550]) {
        eventually("a part is done", async || (fleet.batch(batch).await.counters.done() >= done).then_some(())).await;
        fleet.kill(killed).await;
        fleet.worker(&["--concurrency", "20"], &[]);
    }
    let rows = fleet.agrees(batch, JOBS).await;
    assert!(rows.iter().any(|row| row.result.cached), "equal requests were answered once");
    let (billed, listed) = (bill(&fleet).await, lost(&fleet, batch).await);
    let sums = sums(&fleet, batch).await;
    assert!(sums.values().all(|sum| sum == &sums["attempt"]), "{sums:?}");
    let missing = billed.calls - recorded(&fleet).await;
    assert!(missing <= listed.most, "{missing} calls are in no record: {listed:?}");
    assert!((1..=3).contains(&listed.workers) && listed.without_bound == 0, "{listed:?}");
    assert!(listed.most <= 3 * 2 * 20, "{listed:?}");
    let hidden = billed.pico_usd - sums["attempt"];
    assert!((0..=listed.bound_pico_usd).contains(&hidden), "{hidden} were billed beside the records: {listed:?}");
    assert_eq!(hidden > 0, missing > 0, "every call that is recorded is recorded as it was billed");
}

fn batch_budget(batch: BatchId) -> BudgetKey {
    BudgetKey { scope: Scope::Batch(batch), period: Period::Total }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_budget_stops_before_it_is_exceeded_and_raising_it_goes_on() {
    const JOBS: usize = 600;
    let mut fleet = Fleet::start(Options { latency: Duration::from_millis(50), ..Options::default() }).await;
    configure(&fleet, "");
    // What one call costs is known only after the first: all are alike.
    let probe = fleet.submit("probe", 1, |_, _| {}).await;
    let prober = fleet.worker(&["--concurrency", "32"], &[]);
    fleet.agrees(probe, 1).await;
    // Workers hear of a budget within a second; the next ones know it from the start.
    fleet.signal(prober, "TERM");
    assert!(fleet.ended(prober).await);
    let one = bill(&fleet).await.pico_usd;
    let limit = one * 100 + one / 2;
    let project = BudgetKey { scope: Scope::All, period: Period::Month };
    let set = async |fleet: &Fleet, limit: i64| {
        let terms = Terms { limit: PicoUsd(limit), ..Terms::default() };
        fleet.store.set_budget(&project, Some(&terms), "the test").await.unwrap();
    };
    set(&fleet, limit).await;
    for _ in 0..4 {
        fleet.worker(&["--concurrency", "32"], &[]);
    }
    let batch = fleet.submit("limited", JOBS, |_, _| {}).await;
    let stopped = eventually("the budget is spent", async || {
        let standing = fleet.store.budgets().await.unwrap().remove(0);
        let waiting = fleet.store.progress(batch).await.unwrap();
        let ended = fleet.batch(batch).await.counters.succeeded;
        let is_still = ended > 50 && waiting.held == 0 && standing.leased.0 < one;
        is_still.then_some(standing)
    })
    .await;
    let spent = bill(&fleet).await.pico_usd;
    assert!(spent <= limit, "{spent} of {limit}: no call costs more than its max_tokens");
    assert!(spent >= limit - 2 * one, "{spent} of {limit}: it is used up");
    assert_eq!(stopped.spent.0 + stopped.unseen.0, spent);
    let waits = fleet.store.waits(batch, 5).await.unwrap();
    assert!(
        waits
            .iter()
            .any(|wait| wait.reason.as_deref().is_some_and(|reason| reason.starts_with("budget all a month: "))),
        "{waits:?}"
    );

    set(&fleet, one * (JOBS as i64) * 2).await;
    while fleet.store.wake_for_budget(&project, 1000).await.unwrap() > 0 {}
    fleet.agrees(batch, JOBS).await;
    let billed = bill(&fleet).await.pico_usd;
    let told = fleet.store.budgets().await.unwrap().remove(0);
    assert_eq!(told.spent.0, billed);
    assert_eq!(fleet.simulator.control().stats().received, JOBS as u64 + 1, "no job was called twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_may_end_jobs_with_an_error_instead() {
    let mut fleet = Fleet::start(Options { latency: Duration::from_millis(5), ..Options::default() }).await;
    configure(&fleet, "");
    let batch = fleet.submit("broke", 50, |_, _| {}).await;
    let terms = Terms { limit: PicoUsd(1), on_exceed: OnExceed::Fail, ..Terms::default() };
    fleet.store.set_budget(&batch_budget(batch), Some(&terms), "the test").await.unwrap();
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, 50).await;
    for row in &rows {
        let error = row.result.error.as_ref().unwrap();
        assert_eq!((row.result.status, error.class.as_str()), (Status::Failed, "BudgetExceededError"), "{row:?}");
        assert!(error.message.contains("gristmill budgets set"), "{error:?}");
    }
    assert_eq!(fleet.simulator.control().stats().received, 0);
}
