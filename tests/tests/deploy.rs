//! The files of `deploy/` and the statements of `docs/operations.md` hold what they say.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::OPTIONS;
use gristmill_tests::database::TestDatabase;
use gristmill_tests::fleet::{Fleet, eventually};
use gristmill_worker::simulate;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Time that writing the last results may take after the grace period, in seconds.
const WRITING_S: u64 = 60;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(name)).unwrap()
}

/// Reads `660`, `660s` or `11m`.
fn seconds(text: &str) -> u64 {
    match text.strip_suffix('m') {
        Some(minutes) => minutes.parse::<u64>().unwrap() * 60,
        None => text.trim_end_matches('s').parse().unwrap(),
    }
}

/// The autoscaler's query.
fn demand() -> String {
    let scaled = documents("deploy/kubernetes/scaled-object.yaml");
    let scaled = scaled.iter().find(|document| document["kind"] == "ScaledObject").unwrap();
    scaled["spec"]["triggers"][0]["metadata"]["query"].as_str().unwrap().to_owned()
}

#[test]
fn a_stop_waits_for_the_longest_call_and_a_kill_for_the_stop() {
    let worker = &documents("deploy/kubernetes/worker.yaml")[0]["spec"]["template"]["spec"];
    let env = |name: &str| {
        let variables = worker["containers"][0]["env"].as_array().unwrap();
        let variable = variables.iter().find(|variable| variable["name"] == name).unwrap();
        seconds(variable["value"].as_str().unwrap())
    };
    let kubernetes =
        (env("GRISTMILL_TIMEOUT"), env("GRISTMILL_GRACE"), worker["terminationGracePeriodSeconds"].as_u64().unwrap());
    let compose = |file: &str| {
        let service = &documents(file)[0]["services"]["worker"];
        let env = |name: &str| seconds(service["environment"][name].as_str().unwrap());
        (env("GRISTMILL_TIMEOUT"), env("GRISTMILL_GRACE"), seconds(service["stop_grace_period"].as_str().unwrap()))
    };
    let unit = text("deploy/gristmill-worker.service");
    let set = |name: &str| {
        let (_, value) = unit.split_once(&format!("{name}=")).unwrap();
        seconds(value.split_whitespace().next().unwrap())
    };
    let systemd = (set("GRISTMILL_TIMEOUT"), set("GRISTMILL_GRACE"), set("TimeoutStopSec"));
    for (timeout, grace, kill) in
        [kubernetes, systemd, compose("deploy/worker.compose.yml"), compose("docker-compose.yml")]
    {
        assert!(timeout <= grace && grace + WRITING_S <= kill, "{timeout} {grace} {kill}");
    }
}

#[test]
fn every_variable_of_ours_in_the_files_is_one_that_is_read() {
    let folders = ["deploy", "deploy/kubernetes"].map(|folder| std::fs::read_dir(path(folder)).unwrap());
    let files = folders.into_iter().flatten().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut seen = 0;
    for file in files.chain([path("docker-compose.yml")]) {
        let text = std::fs::read_to_string(&file).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        for word in words.filter(|word| word.starts_with("GRISTMILL_") && !word.ends_with('_')) {
            // Those that only the compose files read.
            let composed = ["GRISTMILL_IMAGE", "GRISTMILL_SECRETS", "GRISTMILL_BIND_ADDRESS"].contains(&word)
                || ["GRISTMILL_POSTGRES_PORT", "GRISTMILL_RABBITMQ_PORT"].contains(&word);
            let known = OPTIONS.iter().any(|option| option.env.contains(&word));
            assert!(composed || known, "{word} in {}", file.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[tokio::test]
async fn every_statement_of_the_operators_page_can_be_run_by_a_reader() {
    let database = TestDatabase::create().await;
    let reader = database.user(&["gristmill_reader"]).await;
    let mut connection = PgConnection::connect(reader.expose_secret()).await.unwrap();
    let page = text("docs/operations.md");
    let statements: Vec<&str> =
        page.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert!(statements.len() > 8, "{}", statements.len());
    for statement in &statements {
        sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let folded = |sql: &str| sql.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        statements.iter().any(|statement| folded(statement) == folded(&demand())),
        "the page explains the autoscaler's query"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autoscaler_counts_what_is_queued_and_what_is_called_and_not_what_waits_for_long() {
    let latency = Duration::from_secs(15);
    let mut fleet = Fleet::start(simulate::Options { latency, ..Default::default() }).await;
    let reader = fleet.database.user(&["gristmill_reader"]).await;
    let query = demand();
    let count = async || -> i64 {
        let mut connection = PgConnection::connect(reader.expose_secret()).await.unwrap();
        sqlx::query_scalar(AssertSqlSafe(query.clone())).fetch_one(&mut connection).await.unwrap()
    };
    assert_eq!(count().await, 0);
    let queued = fleet.submit("queued", 30, |_, _| {}).await;
    let later = SystemClock.now() + TimeDelta::hours(1);
    fleet.submit("later", 5, |_, job| job.options.not_before = Some(later)).await;
    assert_eq!(count().await, 30, "what lies in the queue, and not what waits for an hour");

    fleet.worker(&["--concurrency", "30"], &[]);
    let control = fleet.simulator.control();
    eventually("all are called", async || (control.stats().in_flight == 30).then_some(())).await;
    assert_eq!(count().await, 30, "the queue is empty, the calls are not");
    fleet.agrees(queued, 30).await;
    assert_eq!(count().await, 0);
}
