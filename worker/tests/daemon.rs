//! The daemon as an operator meets it: exit codes, and what it logs when it is told to stop.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gristmill_common::batch::NewBatch;
use gristmill_common::broker::{Broker as _, EmbeddedBroker, Outgoing};
use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::envelope;
use gristmill_common::id::{BatchId, JobId, OwnerId};
use gristmill_common::job::{Job, JobOptions, JobRef, LaneKey, Priority};
use gristmill_common::store::{Chunk, SqliteStore, Store as _};
use serde_json::Value;

const DATABASE: (&str, &str) = ("DATABASE_URL", "sqlite:jobs.db");

type Variables = &'static [(&'static str, &'static str)];

fn daemon(directory: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill-worker"));
    command.args(arguments).current_dir(directory).env_clear().stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn what_is_missing_at_the_provider_ends_with_2_and_the_rest_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&[&str], Variables, i32, &str); 5] = [
        (
            &[],
            &[DATABASE],
            2,
            "error: there is no deployment to serve; give --model, or a model_list in gristmill.yaml\n",
        ),
        (&["--model", "gpt-4o"], &[DATABASE], 2, "error: no key for api.openai.com: set OPENAI_API_KEY"),
        (&["--model", "gpt-4o"], &[("OPENAI_API_KEY", "sk-\u{1}canary"), DATABASE], 2, "error: "),
        (&["--model", "gpt-4o"], &[("OPENAI_API_KEY", "sk-1")], 1, "error: DATABASE_URL is not set"),
        (
            &["--model", "gpt-4o"],
            &[("OPENAI_API_KEY", "sk-1"), ("DATABASE_URL", "postgres://u:canary@127.0.0.1:1/d")],
            1,
            "error: AMQP_URL is not set: beside Postgres, the queue is RabbitMQ\nhint: set AMQP_URL=",
        ),
    ];
    for (arguments, variables, code, text) in cases {
        let output = daemon(&directory, arguments).envs(variables.iter().copied()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {variables:?}: {err}");
        assert!(err.starts_with(text), "{err}");
        assert!(!err.contains("canary"), "{err}");
    }
}

/// Records and queues one job for `gpt-4o`.
async fn submit_one(path: &Path) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = SqliteStore::open(path, Arc::clone(&clock)).await.unwrap();
    let broker = EmbeddedBroker::new(&store);
    let (now, producer) = (clock.now(), OwnerId::new(clock.now()));
    let batch = NewBatch {
        id: BatchId::new(now),
        name: "one".to_owned(),
        project: None,
        priority: Priority::Standard,
        simulated: false,
        metadata: None,
        tags: BTreeMap::new(),
        budget_pico_usd: None,
        producer,
        created_at: now,
    };
    let producer_ttl = Duration::from_secs(30);
    store.open_batch(&batch, producer_ttl).await.unwrap();
    let lane = LaneKey { group: "gpt-4o".into(), priority: Priority::Standard, lane: 0 };
    let job = Job {
        id: JobId::derive(batch.id, 0),
        batch: batch.id,
        custom_id: "a".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        lane: lane.clone(),
        body: r#"{"model":"gpt-4o","messages":[]}"#.into(),
        options: JobOptions::default(),
    };
    let jobs = std::slice::from_ref(&job);
    let chunk = Chunk {
        batch: batch.id,
        producer,
        producer_ttl,
        jobs,
        first_ordinal: 0,
        published_through: 0,
        simulated: false,
    };
    store.record(chunk).await.unwrap();
    let reference = JobRef { id: job.id, batch: job.batch, run: 1, lane: lane.clone() };
    let payload = envelope::write_references(&[reference]).unwrap();
    broker.publish(vec![Outgoing { lane, payload, traceparent: None }]).await.unwrap();
    store.seal(batch.id, producer).await.unwrap();
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends_at_once_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    submit_one(&directory.path().join("jobs.db")).await;
    // It takes the call and never answers, so that draining lasts.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let api_base = format!("http://{}/v1", silent.local_addr().unwrap());
    let mut child = daemon(&directory, &["--model", "gpt-4o", "--json", "--api-base", &api_base])
        .env("DATABASE_URL", "sqlite:jobs.db")
        .spawn()
        .unwrap();
    let (_call, _) = silent.accept().unwrap();
    let pid = child.id().to_string();
    let signal = || assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    signal();
    let mut told = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).expect("every line is JSON");
        let message = line["fields"]["message"].as_str().unwrap().to_owned();
        if message.ends_with("once more to stop at once") {
            signal();
        }
        told.push(message);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130), "{told:?}");
    let stops: Vec<&String> = told.iter().filter(|text| text.starts_with("stopping")).collect();
    assert_eq!(
        stops,
        [
            "stopping: running calls finish first; once more to stop at once",
            "stopping at once: calls that were running are made again"
        ]
    );
}
