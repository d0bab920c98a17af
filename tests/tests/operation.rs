//! What an operator relies on: health that tells the truth, keys that rotate under way, workers without rights they need not.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gristmill_common::outcome::Status;
use gristmill_tests::fleet::{Fleet, KEY, eventually, gristmill, program};
use gristmill_tests::proxy::Proxy;
use gristmill_tests::rabbit;
use gristmill_worker::simulate;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Finds in a worker's log where it serves health.
async fn address(log: &Path) -> SocketAddr {
    eventually("health is served", async || {
        let text = std::fs::read_to_string(log).unwrap();
        let (_, rest) = text.split_once("health is served address=")?;
        rest.split_whitespace().next()?.parse().ok()
    })
    .await
}

/// Asks for a path; returns the status and the body.
async fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: health\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

/// Waits until `/ready` answers so, and returns its reasons as one text.
async fn ready(address: SocketAddr, status: u16) -> String {
    eventually("/ready changes", async || {
        let (code, body) = ask(address, "GET", "/ready").await;
        (code == status).then(|| body["reasons"].to_string())
    })
    .await
}

/// Waits until `/ready` answers 503 with this among its reasons.
async fn unready(address: SocketAddr, reason: &str) {
    eventually(reason, async || ready(address, 503).await.contains(reason).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_servers_and_the_drain_while_liveness_stays() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let database = Proxy::start(fleet.database.url().expose_secret()).await;
    let broker = Proxy::start(&rabbit::url()).await;
    let database_url = database.url(fleet.database.url().expose_secret());
    let broker_url = broker.url(&rabbit::url());
    let env = [
        ("DATABASE_URL", database_url.expose_secret()),
        ("AMQP_URL", broker_url.expose_secret()),
        ("GRISTMILL_LEASE_TTL", "8s"),
    ];
    let worker = fleet.worker(&["--health-listen", "127.0.0.1:0"], &env);
    let address = address(&fleet.dir.path().join("worker-0.log")).await;
    eventually("it is ready", async || {
        (ask(address, "GET", "/ready").await == (200, json!({"status": "ready", "reasons": []}))).then_some(())
    })
    .await;

    database.refuse(true);
    unready(address, "the database").await;
    assert_eq!(ask(address, "GET", "/live").await, (200, json!({"status": "live", "reasons": []})));
    unready(address, "the lease ran out").await;
    assert_eq!(ask(address, "GET", "/live").await.0, 200, "a restart would not bring the database back");
    database.refuse(false);
    ready(address, 200).await;

    broker.refuse(true);
    unready(address, "broker").await;
    assert_eq!(ask(address, "GET", "/live").await.0, 200);
    broker.refuse(false);
    ready(address, 200).await;

    assert_eq!(ask(address, "GET", "/").await, (404, json!({"paths": ["/live", "/ready"]})));
    assert_eq!(ask(address, "POST", "/ready").await.0, 405);

    let control = fleet.simulator.control();
    control.set_latency(Duration::from_secs(15), Duration::ZERO);
    let batch = fleet.submit("last", 1, |_, _| {}).await;
    eventually("the call runs", async || (control.stats().in_flight == 1).then_some(())).await;
    fleet.signal(worker, "TERM");
    unready(address, "draining").await;
    assert_eq!(ask(address, "GET", "/live").await.0, 200);
    assert!(fleet.ended(worker).await);
    assert_eq!(fleet.agrees(batch, 1).await[0].result.status, Status::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_nothing_to_write_drains_without_its_database() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let database = Proxy::start(fleet.database.url().expose_secret()).await;
    let url = database.url(fleet.database.url().expose_secret());
    // It takes a lease to give its farewell up.
    let env = [("DATABASE_URL", url.expose_secret()), ("GRISTMILL_LEASE_TTL", "3s")];
    let worker = fleet.worker(&["--health-listen", "127.0.0.1:0"], &env);
    let address = address(&fleet.dir.path().join("worker-0.log")).await;
    ready(address, 200).await;
    database.refuse(true);
    ready(address, 503).await;
    fleet.signal(worker, "TERM");
    assert!(fleet.ended(worker).await);
}

#[tokio::test]
async fn a_worker_on_one_file_is_ready_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut daemon = Command::new(program("gristmill-worker"));
    daemon.current_dir(dir.path()).env_clear();
    daemon.args(["--model", "m", "--api-base", "http://127.0.0.1:9/v1"]);
    daemon.envs([("DATABASE_URL", "sqlite:jobs.db"), ("GRISTMILL_HEALTH_LISTEN", "127.0.0.1:0")]);
    let mut worker = daemon.stdin(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(60), async { ready(address(&log).await, 200).await }).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(asked.as_deref(), Ok("[]"), "{}", std::fs::read_to_string(&log).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_address_that_cannot_be_had_is_said_and_ends_the_worker() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let run = |mut command: Command, address: &str| {
        command.env("DATABASE_URL", "sqlite:jobs.db").args(["--model", "m", "--api-base", "http://127.0.0.1:9/v1"]);
        let output = command.args(["--health-listen", address]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let worker = || {
        let mut command = gristmill(dir.path());
        command.args(["--quiet", "worker"]);
        command
    };
    let in_use = format!(
        "error: cannot serve health on {taken}: the port is in use; stop the program that has it, or pass another \
         --health-listen"
    );
    let (code, text) = run(worker(), &taken);
    assert_eq!(code, Some(1));
    assert!(text.starts_with(&in_use), "{text}");
    let mut daemon = Command::new(program("gristmill-worker"));
    daemon.current_dir(dir.path()).env_clear();
    let (code, text) = run(daemon, &taken);
    assert_eq!(code, Some(1));
    assert!(text.starts_with(&in_use), "{text}");
    let (code, text) = run(worker(), "8787");
    assert_eq!(code, Some(1));
    assert_eq!(text, "error: --health-listen must be an address and a port, such as 127.0.0.1:8787, not `8787`\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_rotated_in_its_file_needs_no_restart() {
    const NEW: &str = "sk-canary-rotated-77";

    let mut fleet = Fleet::start(simulate::Options {
        require_key: Some(KEY.into()),
        latency: Duration::from_millis(100),
        ..Default::default()
    })
    .await;
    let file = fleet.dir.path().join("key");
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let batch = fleet.submit("rotated", 600, |_, _| {}).await;
    let env = [("OPENAI_API_KEY", ""), ("OPENAI_API_KEY_FILE", file.to_str().unwrap())];
    let worker = fleet.worker(&["--concurrency", "8"], &env);
    eventually("some are done", async || (fleet.batch(batch).await.counters.done() >= 50).then_some(())).await;

    let control = fleet.simulator.control();
    control.set_required_key(Some(NEW.to_owned()));
    let paused = eventually("the pause is told", async || {
        fleet.store.paused_deployments().await.unwrap().into_iter().find_map(|report| report.paused)
    })
    .await;
    assert!(paused.contains("401") && paused.contains("file of OPENAI_API_KEY_FILE"), "{paused}");
    assert!(fleet.batch(batch).await.counters.done() < 600);
    std::fs::write(&file, format!("{NEW}\n")).unwrap();

    let rows = fleet.agrees(batch, 600).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded), "{}", fleet.logs());
    fleet.signal(worker, "TERM");
    assert!(fleet.ended(worker).await, "it is the worker that was started");
    let logs = fleet.logs();
    assert!(logs.contains("key read again") && !logs.contains(KEY) && !logs.contains(NEW), "{logs}");
}
