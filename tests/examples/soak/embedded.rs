//! `gristmill run` on one SQLite file, with the same 500 calls in flight.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use gristmill_common::clock::SystemClock;
use gristmill_common::outcome::Status;
use gristmill_common::store::SqliteStore;
use gristmill_tests::fleet::{KEY, eventually, gristmill};
use gristmill_worker::simulate::{self, Simulator};

use crate::proof::{NAME, Proof, Watch};
use crate::random::Random;
use crate::scaled::{LATENCY, REPEATED, write_input};

const CONCURRENCY: u64 = 500;
const KILLS: u64 = 3;

pub(crate) async fn run_killed(jobs: u64, mut random: Random) -> Proof {
    let dir = tempfile::tempdir().unwrap();
    let (log, database) = (dir.path().join("calls.jsonl"), dir.path().join(".gristmill/gristmill.db"));
    let options = simulate::Options { latency: LATENCY, log: Some(log.clone()), ..Default::default() };
    let simulator = Simulator::start(options).await.unwrap();
    write_input(&dir.path().join("input.jsonl"), jobs);

    let mut process = run(dir.path(), &simulator);
    eventually("the database is there", async || database.exists().then_some(())).await;
    let store = SqliteStore::open(&database, Arc::new(SystemClock)).await.unwrap().shared();
    let watch = Watch::start(store, simulator.control(), log);
    for _ in 0..KILLS {
        // After calls of its own, and with work left for the next one.
        watch.reached(watch.received() + random.between(1, jobs / 4)).await;
        process.kill().unwrap();
        process.wait().unwrap();
        process = run(dir.path(), &simulator);
    }
    let still_ran = !watch.batch().await.state.is_ended();
    let (mut proof, _) = watch.judge(jobs, jobs + KILLS * REPEATED * CONCURRENCY, &[Status::Succeeded]).await;
    let status = process.wait().unwrap();
    proof.check(still_ran, "no proof: the batch ended too early, take more --jobs");
    let said = || std::fs::read_to_string(dir.path().join("run.log")).unwrap().trim().replace('\n', " ");
    proof.check(status.success(), format!("the last run failed: {}", said()));

    let output = std::fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
    let lines = output.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let ids: Vec<String> = lines.map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect();
    let distinct = ids.iter().collect::<BTreeSet<_>>().len();
    proof.check(ids.len() as u64 == jobs && distinct == ids.len(), "the output is not one line a job");
    proof.notes.push(format!("output: {} lines, {} twice", ids.len(), ids.len() - distinct));
    simulator.shutdown().await;
    proof
}

fn run(directory: &Path, simulator: &Simulator) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("run.log")).unwrap();
    gristmill(directory)
        .args(["run", "input.jsonl", "-o", "out.jsonl", "--name", NAME, "--progress", "none"])
        .args(["--concurrency", &CONCURRENCY.to_string()])
        .envs([("OPENAI_BASE_URL", simulator.base_url()), ("OPENAI_API_KEY", KEY.to_owned())])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
