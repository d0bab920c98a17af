//! Shows that every dollar is accounted for: `cargo run --release --example money -- [bill [JOBS] | budget]`, by default both.
//!
//! `bill`: 20,000 jobs with retries, fallbacks, answers of the cache and workers that are killed, against the simulator's own bill.
//! `budget`: a hard budget of 1.00 USD, 8 workers with 500 calls in flight each, 0.0007 USD a call; then it is raised.
//!
//! RabbitMQ and Postgres are those of the tests; each has a database, queues, a simulator and workers of its own and ends them.
#![expect(clippy::print_stdout, reason = "a measurement: its figures are printed")]
#![expect(clippy::unwrap_used, reason = "what fails must panic")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gristmill_common::budget::{BudgetKey, Period, Scope, Terms};
use gristmill_common::id::BatchId;
use gristmill_common::job::CachePolicy;
use gristmill_common::outcome::Status;
use gristmill_common::price::PicoUsd;
use gristmill_tests::fleet::{Fleet, MODEL, eventually};
use gristmill_tests::money::{bill, configure, lost, recorded, sums};
use gristmill_worker::simulate::Options;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let jobs = arguments.get(1).map_or(20_000, |text| text.parse().expect("JOBS is a number"));
    match arguments.first().map(String::as_str) {
        None => {
            billed(jobs).await;
            stopped().await;
        }
        Some("bill") => billed(jobs).await,
        Some("budget") => stopped().await,
        Some(other) => panic!("`{other}` is none of bill, budget"),
    }
}

async fn billed(jobs: usize) {
    println!("## bill");
    let faults = ["500:0.3:model=first", "bad_json:0.03"];
    let mut fleet = Fleet::start(Options {
        faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(),
        latency: Duration::from_millis(200),
        jitter: Duration::from_millis(100),
        ..Options::default()
    })
    .await;
    configure(
        &fleet,
        &format!("router_settings: {{fallbacks: [{{{MODEL}: [second]}}], num_retries: 2, retry_after: 0}}\n"),
    );
    fleet.keeper(&[]).await;
    let mut living: VecDeque<usize> = (0..4).map(|_| fleet.worker(&["--concurrency", "64"], &[])).collect();
    let began = Instant::now();
    let batch = fleet.submit("billed", jobs, |n, job| {
        let body = serde_json::json!({
            "model": MODEL, "temperature": 0, "max_tokens": 20, "user": job.custom_id,
            "messages": [{"role": "user", "content": format!("What is ground by mill {}?", n * 7_919 % jobs % (jobs * 3 / 4))}],
        });
        job.body = Bytes::from(body.to_string());
        job.options.cache = CachePolicy::ON;
    });
    let batch = batch.await;
    let mut kills = 0;
    for part in 1..=8 {
        let done = (jobs * part / 10) as u64;
        eventually("a part is done", async || (fleet.batch(batch).await.counters.done() >= done).then_some(())).await;
        fleet.kill(living.pop_front().unwrap()).await;
        living.push_back(fleet.worker(&["--concurrency", "64"], &[]));
        kills += 1;
    }
    fleet.finished(batch).await;
    let took = began.elapsed().as_secs_f64();
    let rows = fleet.agrees(batch, jobs).await;
    let (billed, listed, sums) = (bill(&fleet).await, lost(&fleet, batch).await, sums(&fleet, batch).await);
    let count = |status| rows.iter().filter(|row| row.result.status == status).count();
    println!(
        "{jobs} jobs in {took:.1} s, {kills} kills of 4 workers with 64 in flight: {} succeeded, {} failed, {} from the cache, {} \
         fell back",
        count(Status::Succeeded),
        count(Status::Failed),
        rows.iter().filter(|row| row.result.cached).count(),
        rows.iter().filter(|row| row.result.deployment.as_deref() == Some("second") && !row.result.cached).count(),
    );
    let recorded = recorded(&fleet).await;
    println!("billed: {} calls, {}", billed.calls, PicoUsd(billed.pico_usd));
    println!("recorded: {recorded} calls, {}; all sums: {sums:?}", PicoUsd(sums["attempt"]));
    println!("in no record: {} calls, {}", billed.calls - recorded, PicoUsd(billed.pico_usd - sums["attempt"]));
    println!("listed as lost: {listed:?}");
    assert!(sums.values().all(|sum| sum == &sums["attempt"]), "records and sums");
    assert!(billed.calls - recorded <= listed.most, "more calls are missing than are listed");
    assert!((0..=listed.bound_pico_usd).contains(&(billed.pico_usd - sums["attempt"])), "the bound");
}

/// Tokens of output that make a call cost about 0.0007 USD.
const OUTPUT_TOKENS: u32 = 65;

async fn stopped() {
    println!("## budget");
    const JOBS: usize = 6_000;
    let mut fleet = Fleet::start(Options {
        latency: Duration::from_millis(500),
        jitter: Duration::from_millis(200),
        ..Options::default()
    })
    .await;
    configure(&fleet, "");
    let ask = |n: usize| {
        serde_json::json!({
            "model": MODEL, "max_tokens": OUTPUT_TOKENS, "user": format!("line-{n}"),
            "messages": [{"role": "user", "content": "What is ground by this mill?"}],
        })
    };
    let key = BudgetKey { scope: Scope::All, period: Period::Month };
    let set = async |fleet: &Fleet, limit: i64| {
        let terms = Terms { limit: PicoUsd(limit), ..Terms::default() };
        fleet.store.set_budget(&key, Some(&terms), "the example").await.unwrap();
    };
    let limit = 1_000_000_000_000;
    set(&fleet, limit).await;
    for _ in 0..8 {
        fleet.worker(&["--concurrency", "500"], &[]);
    }
    let began = Instant::now();
    let batch: BatchId = fleet.submit("limited", JOBS, |n, job| job.body = ask(n).to_string().into()).await;
    let (mut before, mut since, mut most) = (0, Instant::now(), 0);
    while before == 0 || since.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let stats = fleet.simulator.control().stats();
        most = most.max(stats.in_flight);
        if stats.received != before {
            (before, since) = (stats.received, Instant::now());
        }
        assert!(began.elapsed() < Duration::from_secs(600), "it does not come to rest");
    }
    let standing = fleet.store.budgets().await.unwrap().remove(0);
    let spent = bill(&fleet).await;
    println!(
        "came to rest after {:.1} s: {} calls, {} spent of {} ({} a call); the budget says {} spent, {} leased; most calls at once {}",
        (since - began).as_secs_f64(),
        spent.calls,
        PicoUsd(spent.pico_usd),
        PicoUsd(limit),
        PicoUsd(spent.pico_usd / i64::try_from(spent.calls.max(1)).unwrap()),
        standing.spent,
        standing.leased,
        most,
    );
    assert!(spent.pico_usd <= limit, "more than the budget was spent");
    set(&fleet, 20 * limit).await;
    while fleet.store.wake_for_budget(&key, 1000).await.unwrap() > 0 {}
    let raised = Instant::now();
    let rows = fleet.agrees(batch, JOBS).await;
    let succeeded = rows.iter().filter(|row| row.result.status == Status::Succeeded).count();
    let (spent, told) = (bill(&fleet).await, fleet.store.budgets().await.unwrap().remove(0));
    println!(
        "raised: all {succeeded} of {JOBS} succeeded {:.1} s later; {} calls, {} billed, {} by the budget",
        raised.elapsed().as_secs_f64(),
        spent.calls,
        PicoUsd(spent.pico_usd),
        told.spent,
    );
    assert_eq!((succeeded, spent.calls, told.spent.0), (JOBS, JOBS as u64, spent.pico_usd));
}
