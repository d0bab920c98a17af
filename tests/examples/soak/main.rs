//! Proves the promises at full size: kills, restarts and cut connections under load, a subscriber attached through it all.
//!
//! Run it by `./scripts/soak [--jobs N] [--seed N] [SCENARIO…]`, which starts a RabbitMQ and a Postgres of its own, to be
//! broken. Each scenario prints a row; the program fails if a promise was broken.
#![expect(clippy::unwrap_used, reason = "a tool for developers: what fails must panic")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

mod embedded;
mod million;
mod proof;
mod random;
mod scaled;
mod server;

use std::process::ExitCode;

use gristmill_common::clock::{Clock as _, SystemClock};

use proof::Proof;
use random::Random;

const USAGE: &str = "usage: scripts/soak [--jobs N] [--seed N] [SCENARIO…]

N jobs (default 20000) are the measure; some scenarios take a multiple of it, to last long enough. Scenarios (default: all):";

/// Every scenario, with what happens in it.
const SCENARIOS: [(&str, &str); 12] = [
    ("worker-killed", "kill -9 of one of two workers three times at random moments"),
    ("producer-killed", "kill -9 of the producer in mid-submit, then the same command again"),
    ("rabbitmq-restarted", "RabbitMQ stopped and started"),
    ("rabbitmq-killed", "kill -9 of RabbitMQ, then started"),
    ("postgres-restarted", "Postgres stopped (fast) and started"),
    ("postgres-killed", "Postgres stopped without a checkpoint (immediate) and started"),
    ("sessions-terminated", "pg_terminate_backend of all sessions every second for 20 s"),
    ("connections-closed", "all AMQP connections closed every 2 s for 20 s"),
    ("worker-stopped", "SIGSTOP of one of two workers for 90 s"),
    ("run-killed", "kill -9 of `gristmill run` three times at random moments, then the same command again"),
    ("cancelled", "cancel of five times N jobs in mid-run"),
    ("million", "fifty times N jobs without latency: memory and rate over time"),
];

#[tokio::main]
async fn main() -> ExitCode {
    let (mut jobs, mut seed, mut chosen) = (20_000, None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok());
        match argument.as_str() {
            "--jobs" => jobs = number().unwrap_or(0),
            "--seed" => seed = number(),
            _ => chosen.push(argument),
        }
    }
    let known = |name: &String| SCENARIOS.iter().any(|(known, _)| name == known);
    if jobs < 1000 || !chosen.iter().all(known) {
        eprintln!("{USAGE}");
        SCENARIOS.iter().for_each(|(name, what)| eprintln!("  {name:20}{what}"));
        return ExitCode::FAILURE;
    }
    let seed = seed.unwrap_or_else(|| SystemClock.now().timestamp_micros().unsigned_abs());
    eprintln!("soak: seed {seed}");
    println!("{}", Proof::HEAD);
    let mut kept = true;
    for (name, _) in SCENARIOS {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            let proof = run(name, jobs, Random::new(seed)).await;
            println!("{}", proof.row(name));
            kept &= proof.broken.is_empty();
        }
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(name: &str, jobs: u64, random: Random) -> Proof {
    match name {
        "worker-killed" => scaled::worker_killed(jobs, random).await,
        "producer-killed" => scaled::producer_killed(jobs, random).await,
        "rabbitmq-restarted" => scaled::server_ended(jobs, "RABBITMQ", "TERM").await,
        "rabbitmq-killed" => scaled::server_ended(jobs, "RABBITMQ", "KILL").await,
        "postgres-restarted" => scaled::server_ended(jobs, "POSTGRES", "INT").await,
        "postgres-killed" => scaled::server_ended(jobs, "POSTGRES", "QUIT").await,
        "sessions-terminated" => scaled::sessions_terminated(jobs).await,
        "connections-closed" => scaled::connections_closed(jobs).await,
        "worker-stopped" => scaled::worker_stopped(jobs).await,
        "run-killed" => embedded::run_killed(jobs, random).await,
        "cancelled" => scaled::cancelled(jobs).await,
        "million" => million::million(jobs).await,
        _ => unreachable!("`{name}` is one of SCENARIOS"),
    }
}
