//! Limits that change while workers run: by command for the whole fleet, by the workers' own file.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::process::Output;

use chrono::Utc;
use gristmill_tests::fleet::{Fleet, KEY, MODEL, eventually};
use gristmill_worker::simulate;
use serde_json::Value;

/// Calls that take a minute at the slow rate, and some seconds at the fast one.
const MANY: usize = 60;
const SLOW_RPM: u64 = 60;
const FAST_RPM: u64 = 3_000;
/// How long workers may take to follow on a busy machine; the slow rate would need a minute for [`MANY`].
const SOON_MS: u64 = 30_000;

async fn run(fleet: &Fleet, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = fleet.command(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let Output { status, stdout, stderr } = output;
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

async fn said(fleet: &Fleet, arguments: &[&str]) -> String {
    let (code, out, err) = run(fleet, arguments).await;
    assert_eq!(code, Some(0), "{out} {err}");
    out
}

fn write_file(fleet: &Fleet, rpm: &str) {
    let url = fleet.simulator.base_url();
    let text = format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      api_base: {url}\n      \
         api_key: {KEY}\n      rpm: {rpm}\n"
    );
    std::fs::write(fleet.dir.path().join("gristmill.yaml"), text).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "compared with the times in the simulator's log")]
fn now_ms() -> u64 {
    u64::try_from(Utc::now().timestamp_millis()).unwrap()
}

/// Waits until so many calls have been made; returns when each was, the first one first.
async fn called(fleet: &Fleet, count: usize) -> Vec<u64> {
    let enough = async || {
        let mut times: Vec<u64> = fleet.calls().await.iter().map(|call| call.t_ms).collect();
        times.sort_unstable();
        (times.len() >= count).then_some(times)
    };
    eventually(&format!("{count} calls"), enough).await
}

/// Waits until calls come fast, which began when `since` was.
async fn comes_fast(fleet: &Fleet, since: u64) {
    let before = called(fleet, 0).await.iter().filter(|at| **at <= since).count();
    let times = called(fleet, before + MANY).await;
    let took = times[before + MANY - 1] - since;
    assert!(took < SOON_MS, "{MANY} calls took {took} ms: {}", fleet.logs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_workers_follow_the_limits_that_somebody_sets() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    write_file(&fleet, &SLOW_RPM.to_string());
    fleet.worker(&[], &[]);
    fleet.worker(&[], &[]);
    fleet.submit("sweep", 3_000, |_, _| {}).await;
    let start = called(&fleet, 3).await;
    assert!(start.len() < 30, "the file's limit holds: {}", start.len());
    let waits = async || {
        let status: Value = serde_json::from_str(&said(&fleet, &["status", "sweep", "--json"]).await).unwrap();
        let model = status["models"][0].clone();
        (model["waiting_for_quota"].as_u64()? > 0 && model["share_in_use"].as_f64()? > 0.5).then_some((model, status))
    };
    let (model, status) = eventually("jobs wait for quota", waits).await;
    assert_eq!((&model["model"], &model["limit"]), (&MODEL.into(), &"60 rpm".into()), "{status}");
    // 3,000 calls at 60 a minute.
    assert!(status["eta_s"].as_u64().is_some_and(|eta_s| eta_s > 2_400), "{status}");

    let changed = now_ms();
    let out = said(&fleet, &["limits", "set", MODEL, "--rpm", "3000"]).await;
    assert_eq!(out, "sim-1: 60 rpm → 3000 rpm\n");
    comes_fast(&fleet, changed).await;

    said(&fleet, &["limits", "set", MODEL, "--rpm", "60"]).await;
    let (followed, end) = (now_ms() + 5_000, now_ms() + 15_000);
    let past = async || {
        let times = called(&fleet, 0).await;
        times.last().is_some_and(|last| *last >= end).then_some(times)
    };
    let times = eventually("the slow rate goes on", past).await;
    let slow = times.iter().filter(|at| (followed..end).contains(*at)).count();
    assert!(slow <= 20, "{slow} calls in 10 s, where 10 are allowed");

    let out = said(&fleet, &["limits", MODEL]).await;
    for text in
        ["allowed    60 rpm", "from       set by ", "file       60 rpm: 2 workers", "set 3000 rpm; it was 60 rpm"]
    {
        assert!(out.contains(text), "{text}: {out}");
    }
    let (code, _, err) = run(&fleet, &["limits", "set", "sim1", "--rpm", "1"]).await;
    assert_eq!((code, err.as_str()), (Some(1), "error: there is no account `sim1`\nhint: did you mean `sim-1`?\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_worker_follows_the_limits_in_its_file() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    write_file(&fleet, &SLOW_RPM.to_string());
    fleet.worker(&[], &[]);
    fleet.submit("sweep", 1_500, |_, _| {}).await;
    called(&fleet, 2).await;
    write_file(&fleet, "many");
    let warned = async || fleet.logs().contains("the limits stay as they are").then_some(());
    eventually("the broken file is told", warned).await;
    let still = called(&fleet, 0).await.len();
    called(&fleet, still + 3).await;
    assert_eq!(fleet.logs().matches("the limits stay as they are").count(), 1, "{}", fleet.logs());

    let changed = now_ms();
    write_file(&fleet, &FAST_RPM.to_string());
    comes_fast(&fleet, changed).await;
    let noted = async || {
        let out = said(&fleet, &["limits", MODEL, "--json"]).await;
        let standing: Value = serde_json::from_str(&out).unwrap();
        let change = standing["changes"].as_array()?.iter().find(|change| change["by"] == "workers' files")?;
        Some(change["what"].clone())
    };
    assert_eq!(eventually("the change is noted", noted).await, "3000 rpm; it was 60 rpm");
    assert!(fleet.logs().contains("limits of the configuration file changed"), "{}", fleet.logs());
}
