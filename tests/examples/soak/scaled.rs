//! RabbitMQ and Postgres, two workers, 500 calls in flight of 200 ms each.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::outcome::Status;
use gristmill_tests::fleet::{self, Fleet, eventually};
use gristmill_worker::simulate;
use tokio::time::MissedTickBehavior;

use crate::proof::{NAME, Proof, Watch};
use crate::random::Random;
use crate::server::Server;

pub(crate) const LATENCY: Duration = Duration::from_millis(200);
/// Calls in flight of one worker, half of what is in flight in all.
const CONCURRENCY: u64 = 250;
/// Calls that the death of a worker repeats at most, for each one of its concurrency: one that ran, one that was not written.
pub(crate) const REPEATED: u64 = 2;
/// How long connections are cut, again and again.
const CUTS: Duration = Duration::from_secs(20);
/// How long a stopped worker stands still.
const STANDSTILL: Duration = Duration::from_secs(90);
/// After a cancel has returned, calls may start for this long.
const CANCEL_MS: u64 = 2000;
/// The leases that users have, and not the harness' short ones.
const LEASES: [(&str, &str); 2] = [("GRISTMILL_LEASE_TTL", "15s"), ("GRISTMILL_RENEW_INTERVAL", "0.7s")];

/// A fleet that works one batch, submitted by the command line.
pub(crate) struct Soak {
    pub(crate) fleet: Fleet,
    pub(crate) watch: Watch,
    pub(crate) workers: [usize; 2],
    pub(crate) producer: Child,
    jobs: u64,
    concurrency: u64,
    broken: Vec<String>,
}

impl Soak {
    async fn start(jobs: u64) -> Self {
        Self::start_with(jobs, LATENCY, CONCURRENCY).await
    }

    /// Starts two workers, a subscriber and the submission.
    pub(crate) async fn start_with(jobs: u64, latency: Duration, concurrency: u64) -> Self {
        let mut fleet = Fleet::start(simulate::Options { latency, ..Default::default() }).await;
        write_input(&fleet.dir.path().join("input.jsonl"), jobs);
        let workers = [worker(&mut fleet, concurrency), worker(&mut fleet, concurrency)];
        eventually("the workers work", async || (fleet.store.workers().await.ok()?.len() == 2).then_some(())).await;
        let log = fleet.dir.path().join("calls.jsonl");
        let watch = Watch::start(Arc::clone(&fleet.store), fleet.simulator.control(), log);
        let producer = submit(&fleet);
        Self { fleet, watch, workers, producer, jobs, concurrency, broken: Vec::new() }
    }

    /// Checks that the batch has not ended: what was done to it was done in mid-run.
    async fn still_runs(&mut self) {
        if self.watch.batch().await.state.is_ended() {
            self.broken.push("no proof: the batch ended too early, take more --jobs".to_owned());
        }
    }

    /// Waits for the end, with calls beyond one a job for this many deaths of a worker.
    async fn proof(self, deaths: u64) -> Proof {
        let bound = self.jobs + deaths * REPEATED * self.concurrency;
        self.judged(bound, &[Status::Succeeded]).await.0
    }

    pub(crate) async fn judged(mut self, bound: u64, allowed: &[Status]) -> (Proof, Vec<fleet::Called>) {
        let (mut proof, calls) = self.watch.judge(self.jobs, bound, allowed).await;
        proof.broken.append(&mut self.broken);
        let status = self.producer.wait().unwrap();
        proof.check(status.success(), format!("the submission failed: {}", said(&self.fleet)));
        if !proof.broken.is_empty() {
            eprintln!("{}", self.fleet.logs());
        }
        (proof, calls)
    }
}

pub(crate) fn write_input(path: &Path, jobs: u64) {
    use std::io::Write as _;

    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    let prompt = "What does the mill grind, and for whom? ".repeat(30);
    for n in 0..jobs {
        let job = fleet::job(&format!("line-{n}"), &prompt);
        let body: serde_json::Value = serde_json::from_slice(&job.body).unwrap();
        let line = serde_json::json!({
            "custom_id": job.custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body,
        });
        writeln!(file, "{line}").unwrap();
    }
    file.flush().unwrap();
}

fn worker(fleet: &mut Fleet, concurrency: u64) -> usize {
    fleet.worker(&["--concurrency", &concurrency.to_string()], &LEASES)
}

fn submit(fleet: &Fleet) -> Child {
    let mut command = fleet.command(&["submit", "input.jsonl", "--name", NAME]);
    let log = File::options().create(true).append(true).open(fleet.dir.path().join("submit.log")).unwrap();
    command.envs(LEASES).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn said(fleet: &Fleet) -> String {
    std::fs::read_to_string(fleet.dir.path().join("submit.log")).unwrap().trim().replace('\n', " ")
}

pub(crate) async fn worker_killed(jobs: u64, mut random: Random) -> Proof {
    let mut soak = Soak::start(jobs).await;
    for kill in 0..3 {
        // Each kill in its own quarter, so that the last one still meets a running batch.
        soak.watch.reached(random.between(kill * jobs / 4 + 1, (kill + 1) * jobs / 4)).await;
        soak.fleet.signal(soak.workers[1], "KILL");
        soak.workers[1] = worker(&mut soak.fleet, CONCURRENCY);
    }
    soak.still_runs().await;
    soak.proof(3).await
}

pub(crate) async fn producer_killed(jobs: u64, mut random: Random) -> Proof {
    let mut soak = Soak::start(jobs).await;
    let recorded = random.between(1, jobs * 2 / 3);
    eventually("part is recorded", async || (soak.watch.batch().await.recorded >= recorded).then_some(())).await;
    soak.producer.kill().unwrap();
    soak.producer.wait().unwrap();
    if soak.watch.batch().await.total.is_some() {
        soak.broken.push("no proof: the submission ended too early, take more --jobs".to_owned());
    }
    soak.producer = submit(&soak.fleet);
    soak.proof(0).await
}

pub(crate) async fn server_ended(jobs: u64, kind: &str, signal: &str) -> Proof {
    let server = Server::find(kind);
    let mut soak = Soak::start(jobs).await;
    soak.watch.reached(jobs / 4).await;
    server.restart(signal).await;
    soak.still_runs().await;
    soak.proof(0).await
}

pub(crate) async fn sessions_terminated(jobs: u64) -> Proof {
    let mut soak = Soak::start(jobs * 4).await;
    soak.watch.reached(jobs / 20).await;
    let mut connection = soak.fleet.database.connect().await;
    again_and_again(Duration::from_secs(1), async || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        sqlx::raw_sql(end).execute(&mut connection).await.unwrap();
    })
    .await;
    soak.still_runs().await;
    soak.proof(0).await
}

pub(crate) async fn connections_closed(jobs: u64) -> Proof {
    let mut soak = Soak::start(jobs * 4).await;
    soak.watch.reached(jobs / 20).await;
    again_and_again(Duration::from_secs(2), async || soak.fleet.rabbit.close_connections().await).await;
    soak.still_runs().await;
    soak.proof(0).await
}

async fn again_and_again(every: Duration, mut cut: impl AsyncFnMut()) {
    let started = Instant::now();
    let mut moments = tokio::time::interval(every);
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while started.elapsed() < CUTS {
        moments.tick().await;
        cut().await;
    }
}

pub(crate) async fn worker_stopped(jobs: u64) -> Proof {
    let mut soak = Soak::start(jobs * 8).await;
    soak.watch.reached(jobs / 4).await;
    soak.fleet.signal(soak.workers[1], "STOP");
    tokio::time::sleep(STANDSTILL).await;
    soak.still_runs().await;
    soak.fleet.signal(soak.workers[1], "CONT");
    soak.proof(1).await
}

pub(crate) async fn cancelled(jobs: u64) -> Proof {
    let mut soak = Soak::start(jobs * 5).await;
    let all = soak.jobs;
    eventually("all is recorded", async || soak.watch.batch().await.total).await;
    soak.watch.reached(all / 4).await;
    soak.still_runs().await;
    let status = soak.fleet.command(&["cancel", NAME]).stdout(Stdio::null()).status().unwrap();
    let returned = SystemClock.now().timestamp_millis().unsigned_abs();
    let (mut proof, calls) = soak.judged(all, &[Status::Succeeded, Status::Cancelled]).await;
    proof.check(status.success(), "the cancel failed");
    let after = |ms: u64| calls.iter().filter(|call| call.t_ms > returned + ms).count();
    proof.check(after(CANCEL_MS) == 0, format!("{} calls started 2 s after the cancel", after(CANCEL_MS)));
    let (succeeded, cancelled) = (proof.rows.of(Status::Succeeded), proof.rows.of(Status::Cancelled));
    proof.check(cancelled > 0, "nothing was cancelled");
    let last_ms = calls.iter().map(|call| call.t_ms).max().unwrap_or_default().saturating_sub(returned);
    proof.notes.push(format!(
        "{succeeded} succeeded, {cancelled} cancelled, {} calls began after it, the last {last_ms} ms",
        after(0)
    ));
    proof
}
