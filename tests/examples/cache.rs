//! Shows that equal requests are called once, also while they run: `cargo run --release --example cache -- [JOBS [DISTINCT [WORKERS]]]`,
//! by default 10,000 jobs of which 2,500 are distinct, shuffled, on 4 workers; with the cache off and on.
//!
//! RabbitMQ and Postgres are those of the tests; each way has a database, queues, a simulator and workers of its own and ends them.
#![expect(clippy::print_stdout, reason = "a measurement: its figures are printed")]
#![expect(clippy::cast_precision_loss, reason = "counts of a run")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use gristmill_common::job::CachePolicy;
use gristmill_tests::fleet::{Fleet, MODEL};
use gristmill_worker::simulate::Options;

#[tokio::main]
async fn main() {
    let argument = |at: usize, default: usize| {
        std::env::args().nth(at).map_or(default, |text| text.parse().expect("the arguments are numbers"))
    };
    let (jobs, distinct, workers) = (argument(1, 10_000), argument(2, 2_500), argument(3, 4));
    println!(
        "| cache | jobs | distinct | workers | calls | cached | seconds | jobs/s |\n|---|---|---|---|---|---|---|---|"
    );
    for policy in [CachePolicy::OFF, CachePolicy::ON] {
        measure(jobs, distinct, workers, policy).await;
    }
}

async fn measure(jobs: usize, distinct: usize, workers: usize, policy: CachePolicy) {
    let latency = Duration::from_millis(500);
    let mut fleet = Fleet::start(Options { latency, jitter: latency / 2, ..Options::default() }).await;
    for _ in 0..workers {
        fleet.worker(&["--concurrency", "128"], &[]);
    }
    let began = Instant::now();
    let batch = fleet.submit("sweep", jobs, |n, job| {
        // A step that shares no factor with the count goes through all of them in an order of its own.
        let question = n * 7_919 % jobs % distinct;
        let body = serde_json::json!({
            "model": MODEL, "temperature": 0, "max_tokens": 50, "user": job.custom_id,
            "messages": [{"role": "user", "content": format!("What is ground by mill {question}?")}],
        });
        job.body = Bytes::from(body.to_string());
        job.options.cache = policy;
    });
    let batch = batch.await;
    fleet.finished(batch).await;
    let took = began.elapsed().as_secs_f64();
    let calls = fleet.calls().await.len();
    let rows = fleet.agrees(batch, jobs).await;
    let cached = rows.iter().filter(|row| row.result.cached).count();
    println!(
        "| {policy} | {jobs} | {distinct} | {workers} | {calls} | {cached} | {took:.1} | {:.0} |",
        jobs as f64 / took
    );
}
