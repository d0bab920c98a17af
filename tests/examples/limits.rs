//! Shows that rate limits hold over a fleet and are used up, against a simulator that enforces and audits them.
//!
//! `cargo run --example limits -- [SCENARIO …]`; without a name all of them, some minutes each. RabbitMQ and Postgres are those of
//! the tests; every scenario has a database, queues, a simulator and workers of its own and ends them.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement: what fails must panic, and its figures are printed"
)]
#![expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "counts of a run")]

use std::time::{Duration, Instant};

use gristmill_common::job::Priority;
use gristmill_common::outcome::Status;
use gristmill_producer::NewJob;
use gristmill_tests::fleet::{Fleet, MODEL};
use gristmill_worker::simulate::{Limits, ModelLimits, Options, Stats};

const SCENARIOS: &[&str] = &[
    "rpm-1",
    "rpm-2",
    "rpm-4",
    "tpm",
    "anthropic",
    "changed",
    "changed-unsaid",
    "hidden",
    "outage",
    "groups",
    "groups-hang",
    "fairness",
    "fairness-100",
    "churn",
];

#[tokio::main]
async fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&str> =
        if named.is_empty() { SCENARIOS.to_vec() } else { named.iter().map(String::as_str).collect() };
    for scenario in wanted {
        println!("## {scenario}");
        match scenario {
            "rpm-1" => requests(1).await,
            "rpm-2" => requests(2).await,
            "rpm-4" => requests(4).await,
            "tpm" => tokens().await,
            "anthropic" => anthropic().await,
            "changed" => changed(true).await,
            "changed-unsaid" => changed(false).await,
            "hidden" => hidden().await,
            "outage" => outage().await,
            "groups" => groups().await,
            "groups-hang" => hanging_groups().await,
            "fairness" => fairness(1_000, 20_000).await,
            "fairness-100" => fairness(100, 100_000).await,
            "churn" => churn().await,
            other => panic!("`{other}` is none of {SCENARIOS:?}"),
        }
        println!();
    }
}

/// Writes the configuration of the fleet's workers: deployments as `litellm_params` beside endpoint and key.
fn configure(fleet: &Fleet, deployments: &[(&str, &str)], rest: &str) {
    let base = fleet.simulator.base_url();
    let root = base.trim_end_matches("/v1");
    let mut yaml = "model_list:\n".to_owned();
    for (group, params) in deployments {
        let base = if params.contains("anthropic/") { root } else { &base };
        yaml += &format!(
            "- model_name: {group}\n  litellm_params: {{api_base: '{base}', api_key: sk-limits-0123456789, {params}}}\n"
        );
    }
    std::fs::write(fleet.dir.path().join("gristmill.yaml"), yaml + rest).unwrap();
}

fn simulator(limits: &str, latency_ms: u64) -> Options {
    let limits = if limits.is_empty() { Limits::default() } else { limits.parse().unwrap() };
    Options { limits, latency: Duration::from_millis(latency_ms), ..Options::default() }
}

fn stats(fleet: &Fleet) -> Stats {
    fleet.simulator.control().stats()
}

/// Prints what the simulator took; returns the seconds from the first to the last call.
fn told(fleet: &Fleet, minimum_s: f64) -> f64 {
    let all = stats(fleet).limits;
    let took = (all.last_accepted_ms.unwrap() - all.first_accepted_ms.unwrap()) as f64 / 1e3;
    println!(
        "{} calls accepted in {took:.1} s (the least is {minimum_s:.1} s: {:.3} of it); {} refused ({:.2} %)",
        all.accepted,
        took / minimum_s,
        all.refused,
        all.refused as f64 * 100.0 / (all.accepted + all.refused) as f64
    );
    for (name, limit) in [("rpm", all.rpm), ("tpm", all.tpm), ("itpm", all.itpm), ("otpm", all.otpm)] {
        if limit.limit.is_some() {
            println!(
                "{name}: peak of any 60 s {:.1} % of the limit arrived, {:.1} % accepted; breaches {}",
                limit.peak_arrived_permille as f64 / 10.0,
                limit.peak_accepted_permille as f64 / 10.0,
                limit.breaches
            );
        }
    }
    took
}

/// Prints the calls of every so many seconds.
fn table(fleet: &Fleet, every: u64) {
    let all = stats(fleet).limits;
    println!("| from s | accepted/s | refused/s |\n|---|---|---|");
    let last = all.seconds.last().map_or(0, |second| second.second);
    for from in (0..=last).step_by(every as usize) {
        let within = all.seconds.iter().filter(|second| (from..from + every).contains(&second.second));
        let (taken, refused) =
            within.fold((0, 0), |(taken, refused), second| (taken + second.accepted, refused + second.refused));
        println!("| {from} | {:.1} | {:.1} |", taken as f64 / every as f64, refused as f64 / every as f64);
    }
}

async fn all_succeed(fleet: &Fleet, id: gristmill_common::id::BatchId, jobs: usize) {
    let rows = fleet.agrees(id, jobs).await;
    let failed = rows.iter().filter(|row| row.result.status != Status::Succeeded).count();
    assert_eq!(failed, 0, "{}", fleet.logs());
}

async fn requests(workers: usize) {
    let mut fleet = Fleet::start(simulator("rpm:6000", 300)).await;
    configure(&fleet, &[(MODEL, "model: openai/sim-1, rpm: 6000")], "");
    let batch = fleet.submit("requests", 6_000, |_, _| {}).await;
    for _ in 0..workers {
        fleet.worker(&[], &[]);
    }
    all_succeed(&fleet, batch, 6_000).await;
    told(&fleet, 59.0);
}

/// Sets a prompt of so many words.
fn prompt(job: &mut NewJob, words: usize, max_tokens: u32) {
    let body = serde_json::json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": "mill ".repeat(words)}],
        "user": job.custom_id,
        "max_tokens": max_tokens,
    });
    job.body = body.to_string().into();
}

/// Words from 50 to 5,000, most of them few.
fn words(n: usize) -> usize {
    [50, 120, 300, 5_000, 80, 900, 2_200, 60][n % 8]
}

async fn tokens() {
    let mut fleet = Fleet::start(simulator("tpm:2000000", 300)).await;
    configure(&fleet, &[(MODEL, "model: openai/sim-1, tpm: 2000000")], "");
    let batch = fleet.submit("tokens", 2_000, |n, job| prompt(job, words(n), 20)).await;
    for _ in 0..2 {
        fleet.worker(&[], &[]);
    }
    all_succeed(&fleet, batch, 2_000).await;
    let all = stats(&fleet).limits;
    told(&fleet, all.tpm.accepted as f64 / (2_000_000.0 / 60.0));
}

async fn anthropic() {
    let mut fleet = Fleet::start(simulator("itpm:1200000,otpm:60000", 300)).await;
    let deployment = "model: anthropic/sim-1, itpm: 1200000, otpm: 60000";
    configure(&fleet, &[(MODEL, deployment)], "");
    let batch = fleet.submit("anthropic", 2_000, |n, job| prompt(job, words(n) / 2, 40)).await;
    for _ in 0..2 {
        fleet.worker(&[], &[]);
    }
    all_succeed(&fleet, batch, 2_000).await;
    let all = stats(&fleet).limits;
    let least = (all.itpm.accepted as f64 / 20_000.0).max(all.otpm.accepted as f64 / 1_000.0);
    told(&fleet, least);
}

/// The limit is halved and doubled in mid-run; headers tell of it, or nobody does.
async fn changed(headers: bool) {
    let changes = ["40s=rpm:3000", "80s=rpm:6000"].map(|change| change.parse().unwrap()).into();
    let options = Options { limit_changes: changes, limit_headers: headers, ..simulator("rpm:6000", 300) };
    let mut fleet = Fleet::start(options).await;
    configure(&fleet, &[(MODEL, "model: openai/sim-1, rpm: 6000")], "");
    let batch = fleet.submit("changed", 8_500, |_, _| {}).await;
    for _ in 0..2 {
        fleet.worker(&[], &[]);
    }
    all_succeed(&fleet, batch, 8_500).await;
    table(&fleet, 5);
}

async fn hidden() {
    let options = Options { limit_headers: false, retry_after: false, ..simulator("rpm:3000", 300) };
    let mut fleet = Fleet::start(options).await;
    configure(&fleet, &[(MODEL, "model: openai/sim-1")], "");
    let batch = fleet.submit("hidden", 5_600, |_, _| {}).await;
    for _ in 0..2 {
        fleet.worker(&[], &[]);
    }
    all_succeed(&fleet, batch, 5_600).await;
    table(&fleet, 10);
    let seconds = stats(&fleet).limits.seconds;
    let late = seconds.iter().filter(|second| (60..120).contains(&second.second));
    let (taken, refused) = late.fold((0, 0), |(a, b), second| (a + second.accepted, b + second.refused));
    println!(
        "second minute: {taken} of 3000 accepted, {refused} refused ({:.2} %)",
        refused as f64 * 100.0 / taken as f64
    );
}

async fn outage() {
    let options = Options { outages: vec!["10s+60s".parse().unwrap()], ..simulator("", 300) };
    let mut fleet = Fleet::start(options).await;
    configure(&fleet, &[(MODEL, "model: openai/sim-1, rpm: 12000")], "");
    let batch = fleet.submit("outage", 10_000, |_, _| {}).await;
    for _ in 0..4 {
        fleet.worker(&["--concurrency", "32"], &[]);
    }
    all_succeed(&fleet, batch, 10_000).await;
    let found = stats(&fleet);
    println!("calls during the outage {}, at once at most {}", found.outage.calls, found.outage.max_in_flight);
    table(&fleet, 5);
}

/// Two model groups on the same workers: the other one's rate before and after one dies.
async fn groups() {
    let other = ModelLimits { model: "other".to_owned(), limits: Limits::default() };
    for dead in [false, true] {
        let faults = if dead { vec!["500:1:model=other".parse().unwrap()] } else { Vec::new() };
        let model_limits = vec![other.clone(), ModelLimits { model: "sim-1".to_owned(), limits: Limits::default() }];
        let mut fleet = Fleet::start(Options { faults, model_limits, ..simulator("", 300) }).await;
        let both = [
            (MODEL, "model: openai/sim-1, max_parallel_requests: 40"),
            ("idle", "model: openai/other, max_parallel_requests: 40"),
        ];
        configure(&fleet, &both, "");
        let live = fleet.submit("live", 3_000, |_, _| {}).await;
        fleet
            .submit("dead", 3_000, |_, job| {
                job.model = "idle".into();
            })
            .await;
        fleet.worker(&["--model", "idle", "--concurrency", "96"], &[]);
        let started = Instant::now();
        all_succeed(&fleet, live, 3_000).await;
        let scope = stats(&fleet).models.remove("sim-1").unwrap();
        let took = (scope.last_accepted_ms.unwrap() - scope.first_accepted_ms.unwrap()) as f64 / 1e3;
        println!(
            "the other group {}: {:.1} jobs/s ({took:.1} s, {:.1} s with all around it)",
            if dead { "dead" } else { "alive" },
            3_000.0 / took,
            started.elapsed().as_secs_f64()
        );
    }
}

/// Three model groups that share a worker's slots: the rate of one before and after the models of the others hang.
async fn hanging_groups() {
    for hang in [false, true] {
        let faults = ["timeout:1:model=sim-2", "timeout:1:model=sim-3"].map(|fault| fault.parse().unwrap());
        let scope = |model: &str| ModelLimits { model: model.to_owned(), limits: Limits::default() };
        let options = Options {
            faults: if hang { faults.into() } else { Vec::new() },
            model_limits: ["sim-1", "sim-2", "sim-3"].map(scope).into(),
            ..simulator("", 300)
        };
        let mut fleet = Fleet::start(options).await;
        fleet.rabbit.add("third");
        let all = [(MODEL, "model: openai/sim-1"), ("idle", "model: openai/sim-2"), ("third", "model: openai/sim-3")];
        configure(&fleet, &all, "");
        for group in ["idle", "third"] {
            fleet.submit(group, 3_000, |_, job| job.model = group.into()).await;
        }
        let live = fleet.submit("live", 3_000, |_, _| {}).await;
        fleet.worker(&["--model", "idle", "--model", "third", "--concurrency", "96"], &[]);
        all_succeed(&fleet, live, 3_000).await;
        let scope = stats(&fleet).models.remove("sim-1").unwrap();
        let took = (scope.last_accepted_ms.unwrap() - scope.first_accepted_ms.unwrap()) as f64 / 1e3;
        let others = if hang { "hang" } else { "are alive" };
        println!("the others {others}: {:.1} jobs/s ({took:.1} s)", 3_000.0 / took);
    }
}

/// A batch of `small` jobs, alone and submitted behind a larger one.
async fn fairness(small: usize, large: usize) {
    let mut alone = 0.0;
    for behind in [0, large] {
        let mut fleet = Fleet::start(simulator("", 100)).await;
        configure(&fleet, &[(MODEL, "model: openai/sim-1, rpm: 6000")], "");
        if behind > 0 {
            fleet.submit_at(Priority::Standard, "large", behind, |_, _| {}).await;
        }
        for _ in 0..2 {
            fleet.worker(&["--concurrency", "64"], &[]);
        }
        if behind > 0 {
            // Its jobs run.
            while stats(&fleet).received < 1_000 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let started = Instant::now();
        let batch = fleet.submit_at(Priority::Standard, "small", small, |_, _| {}).await;
        all_succeed(&fleet, batch, small).await;
        let took = started.elapsed().as_secs_f64();
        println!(
            "{small} jobs behind {behind}: {took:.1} s{}",
            if behind > 0 { format!(", {:.2} × alone", took / alone) } else { String::new() }
        );
        alone = took;
    }
}

/// A worker is killed and another one started every 5 s.
async fn churn() {
    let mut fleet = Fleet::start(simulator("rpm:6000", 300)).await;
    fleet.keeper(&[]).await;
    configure(&fleet, &[(MODEL, "model: openai/sim-1, rpm: 6000")], "");
    let batch = fleet.submit("churn", 6_000, |_, _| {}).await;
    let mut living = std::collections::VecDeque::new();
    for _ in 0..3 {
        living.push_back(fleet.worker(&[], &[]));
    }
    while !fleet.batch(batch).await.state.is_ended() {
        tokio::time::sleep(Duration::from_secs(5)).await;
        living.push_back(fleet.worker(&[], &[]));
        let oldest = living.pop_front().unwrap();
        fleet.kill(oldest).await;
    }
    // A job on which three workers died is poison, whoever killed them.
    let rows = fleet.agrees(batch, 6_000).await;
    println!("failed: {}", rows.iter().filter(|row| row.result.status != Status::Succeeded).count());
    let all = stats(&fleet).limits;
    told(&fleet, all.accepted as f64 / 100.0);
    table(&fleet, 10);
}
