//! A batch so large that whatever grows with it shows: memory of the processes and the rate, over time.

use std::time::{Duration, Instant};

use gristmill_common::outcome::Status;

use crate::proof::Proof;
use crate::scaled::Soak;

/// Jobs for each job of the measure.
const TIMES: u64 = 50;
/// Calls at once of one worker: the default of the program.
const CONCURRENCY: u64 = 128;
const MOST_MB: f64 = 150.0;
/// The last tenth may be slower than the first, and memory may grow from the second quarter to the last, by this much.
const TOLERANCE: f64 = 0.10;
const EVERY: Duration = Duration::from_millis(200);

pub(crate) async fn million(jobs: u64) -> Proof {
    let jobs = jobs * TIMES;
    let mut soak = Soak::start_with(jobs, Duration::ZERO, CONCURRENCY).await;
    let pids = [soak.producer.id(), soak.fleet.pid(soak.workers[0]), soak.fleet.pid(soak.workers[1])];
    let mut memory = [Vec::new(), Vec::new(), Vec::new()];
    let mut course = Vec::new();
    let started = Instant::now();
    loop {
        for (pid, samples) in pids.iter().zip(&mut memory) {
            samples.extend(resident_mb(*pid));
        }
        // What has ended must not look alive.
        let _ = soak.producer.try_wait();
        let batch = soak.watch.batch().await;
        course.push((started.elapsed().as_secs_f64(), batch.counters.done()));
        if batch.state.is_ended() {
            break;
        }
        tokio::time::sleep(EVERY).await;
    }
    let (mut proof, _) = soak.judged(jobs, &[Status::Succeeded]).await;

    let tenths = tenths(&course, jobs);
    proof.check(tenths[9] >= (1.0 - TOLERANCE) * tenths[0], "the last tenth is slower than the first");
    let rates: Vec<String> = tenths.iter().map(|rate| format!("{rate:.0}")).collect();
    proof.notes.push(format!("jobs/s of each tenth: {}", rates.join(" ")));
    for (name, samples) in ["producer", "worker 1", "worker 2"].iter().zip(&memory) {
        let peak = samples.iter().copied().fold(0.0, f64::max);
        let quarters: Vec<f64> = samples.chunks(samples.len().div_ceil(4).max(1)).map(mean).collect();
        let flat = quarters.len() < 4 || quarters[3] <= (1.0 + TOLERANCE) * quarters[1];
        proof.check(peak < MOST_MB && flat, format!("P8: the {name} grows"));
        let quarters: Vec<String> = quarters.iter().map(|mean| format!("{mean:.0}")).collect();
        proof.notes.push(format!("{name}: MB by quarter of its life {}, peak {peak:.0}", quarters.join(" ")));
    }
    proof
}

/// Returns the resident megabytes of a process that runs.
fn resident_mb(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib / 1024.0)
}

/// Returns the jobs per second of each tenth of the jobs.
fn tenths(course: &[(f64, u64)], jobs: u64) -> [f64; 10] {
    let reached = |done: u64| course.iter().find(|(_, count)| *count >= done).map_or(0.0, |(at, _)| *at);
    let tenth = jobs / 10;
    std::array::from_fn(|n| {
        let n = n as u64;
        tenth as f64 / (reached((n + 1) * tenth) - reached(n * tenth + 1)).max(0.001)
    })
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len() as f64
}
