//! `call`, `resume` and `check` against a fleet: RabbitMQ, Postgres, workers as real processes.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::process::Output;
use std::time::{Duration, Instant};

use gristmill_common::job::{LaneKey, Priority};
use gristmill_tests::fleet::{Fleet, KEY, MODEL, eventually};
use gristmill_worker::simulate;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use serde_json::Value;

/// Runs the program beside the fleet; the test's own tasks go on meanwhile.
async fn run(fleet: &Fleet, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = fleet.command(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let Output { status, stdout, stderr } = output;
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_through_the_fleet() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    fleet.worker(&[], &[]);
    fleet.serving().await;
    let (code, out, err) = run(&fleet, &["call", "--json", "What is a mill?", "--model", MODEL]).await;
    assert_eq!(code, Some(0), "{err}");
    let line: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&line["response"]["status_code"], &line["gristmill"]["model"]), (&200.into(), &MODEL.into()));
    // The only model that is served needs no name.
    let (code, out, _) = run(&fleet, &["call", "What is a mill?"]).await;
    assert!(code == Some(0) && !out.trim().is_empty());
    let (code, _, err) = run(&fleet, &["call", "hi", "--model", "sim1"]).await;
    assert_eq!((code, err.as_str()), (Some(2), "error: no worker serves `sim1`\nhint: did you mean `sim-1`?\n"));
    assert_eq!(fleet.calls().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_deployment_is_probed_at_once_by_its_workers() {
    let options = simulate::Options { require_key: Some("another".to_owned()), ..simulate::Options::default() };
    let mut fleet = Fleet::start(options).await;
    fleet.worker(&[], &[]);
    let batch = fleet.submit("sweep", 5, |_, _| {}).await;
    // Pauses double from 2 s: four or more probes behind at most five first calls make the next one 32 s or longer.
    let refused = async || (fleet.calls().await.len() >= 9).then_some(());
    eventually("the deployment is paused for long", refused).await;
    fleet.simulator.control().set_required_key(Some(KEY.to_owned()));
    let resumed = Instant::now();
    let (code, out, err) = run(&fleet, &["resume", MODEL]).await;
    assert!(code == Some(0) && out.starts_with("sim-1: workers look again now"), "{out} {err}");
    let succeeded = async || (fleet.batch(batch).await.counters.succeeded > 0).then_some(());
    eventually("the first answer", succeeded).await;
    assert!(resumed.elapsed() < Duration::from_secs(25), "{:?}", resumed.elapsed());
    fleet.finished(batch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_queues_with_other_arguments_and_changes_nothing() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    fleet.worker(&[], &[]);
    fleet.serving().await;
    let (code, out, err) = run(&fleet, &["check", "--model", MODEL, "--call"]).await;
    assert_eq!(code, Some(0), "{out} {err}");
    for text in
        ["PostgreSQL", "of this version", "1 worker, serving sim-1", "RabbitMQ", "as this version declares them"]
    {
        assert!(out.contains(text), "{text}: {out}");
    }
    let queue = fleet.rabbit.queue(&LaneKey { group: MODEL.into(), priority: Priority::High, lane: 0 });
    let bulk = fleet.rabbit.queue(&LaneKey { group: MODEL.into(), priority: Priority::Bulk, lane: 1 });
    let connection = fleet.rabbit.connect().await;
    let delete = async |name: &str| {
        let channel = connection.create_channel().await.unwrap();
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        channel
    };
    delete(&bulk).await;
    // The worker declares anew what is deleted, and may be first.
    let declared = async || {
        let channel = delete(&queue).await;
        let options = QueueDeclareOptions::durable();
        channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.ok()
    };
    eventually("a queue with other arguments", declared).await;
    let (code, out, _) = run(&fleet, &["check", "--model", MODEL, "--json"]).await;
    assert_eq!(code, Some(2), "{out}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let queues: Vec<_> = found["checks"].as_array().unwrap().iter().filter(|check| check["what"] == "queues").collect();
    let detail = queues[0]["detail"].as_str().unwrap();
    assert!(detail.contains(&format!("the queue `{queue}` exists with other arguments")), "{detail}");
    assert!(detail.contains(&format!("rabbitmqctl delete_queue {queue}")), "{detail}");
}
