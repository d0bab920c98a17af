//! Every kind of program does its work with the rights of `deploy/grants.sql`, and can do nothing else.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::time::Duration;

use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::outcome::Status;
use gristmill_common::store::BatchSelector;
use gristmill_tests::fleet::{Fleet, MODEL, eventually};
use gristmill_worker::simulate;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

async fn refused(user: &SecretString, statements: &[&str]) {
    let mut connection = PgConnection::connect(user.expose_secret()).await.unwrap();
    for statement in statements {
        let error = sqlx::raw_sql(AssertSqlSafe((*statement).to_owned())).execute(&mut connection).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_and_producers_do_all_their_work_without_owning_anything() {
    let faults = vec!["400:0.1".parse().unwrap()];
    let latency = Duration::from_millis(20);
    let mut fleet = Fleet::start(simulate::Options { faults, latency, ..Default::default() }).await;
    let worker = fleet.database.user(&["gristmill_worker"]).await;
    let producer = fleet.database.user(&["gristmill_producer"]).await;
    // The keeper must make it again.
    let last = SystemClock.now().date_naive() + chrono::Days::new(3);
    let partition = format!("gristmill.result_{}", last.format("%Y%m%d"));
    let mut owner = fleet.database.connect().await;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE IF EXISTS {partition}"))).execute(&mut owner).await.unwrap();

    let amqp_url = fleet.rabbit.user().await;
    let env = [("DATABASE_URL", worker.expose_secret()), ("AMQP_URL", &amqp_url)];
    fleet.keeper(&env).await;
    eventually("the partition is there", async || {
        let mut owner = fleet.database.connect().await;
        let there = "SELECT to_regclass($1) IS NOT NULL";
        let there: bool = sqlx::query_scalar(there).bind(&partition).fetch_one(&mut owner).await.unwrap();
        there.then_some(())
    })
    .await;
    let dies = fleet.worker(&["--concurrency", "16"], &env);
    let gristmill = |arguments: &[&str]| {
        let output = fleet
            .command(arguments)
            .envs([("DATABASE_URL", producer.expose_secret()), ("AMQP_URL", &amqp_url)])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let lines: String = (0..300)
        .map(|n| {
            let body = serde_json::json!({"model": MODEL, "messages": [{"role": "user", "content": "Mill?"}], "user": format!("{n}")});
            let line = serde_json::json!({"custom_id": format!("{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body});
            format!("{line}\n")
        })
        .collect();
    std::fs::write(fleet.dir.path().join("in.jsonl"), lines).unwrap();
    assert_eq!(gristmill(&["submit", "in.jsonl", "--name", "granted"]).0, Some(0));
    assert_eq!(gristmill(&["submit", "in.jsonl", "--name", "stopped"]).0, Some(0));
    assert_eq!(gristmill(&["cancel", "stopped"]).0, Some(0));
    let id = async |name: &str| fleet.store.batch(&BatchSelector::Name(name.to_owned())).await.unwrap().unwrap().id;
    let (granted, stopped) = (id("granted").await, id("stopped").await);
    eventually("some are done", async || (fleet.batch(granted).await.counters.done() > 20).then_some(())).await;
    fleet.kill(dies).await;
    let lives = fleet.worker(&["--concurrency", "16"], &env);
    let rows = fleet.agrees(granted, 300).await;
    assert!(rows.iter().any(|row| row.result.status == Status::Failed));
    fleet.agrees(stopped, 300).await;

    let gristmill = |arguments: &[&str]| {
        let output = fleet
            .command(arguments)
            .envs([("DATABASE_URL", producer.expose_secret()), ("AMQP_URL", &amqp_url)])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    fleet.simulator.control().set_faults(Vec::new());
    for command in [
        &["retry", "granted"][..],
        &["repair", "granted"],
        &["list"],
        &["status", "granted"],
        &["results", "granted", "--follow", "-o", "out.jsonl"],
    ] {
        let (code, text) = gristmill(command);
        assert_eq!(code, Some(0), "{command:?}: {text}");
    }
    assert_eq!(fleet.finished(granted).await.counters.succeeded, 300);
    fleet.signal(lives, "TERM");
    assert!(fleet.ended(lives).await);
    let logs = fleet.logs();
    assert!(!logs.contains("permission denied") && !logs.contains("may not do this"), "{logs}");

    refused(
        &worker,
        &[
            "CREATE TABLE gristmill.mine ()",
            "DELETE FROM gristmill.result",
            "UPDATE gristmill.attempt SET cost_usd = 0",
            "DROP TABLE gristmill.job",
        ],
    )
    .await;
    refused(
        &producer,
        &[
            "INSERT INTO gristmill.keeper DEFAULT VALUES",
            "DELETE FROM gristmill.live",
            "SELECT gristmill.ensure_partition(now()::date)",
            "UPDATE gristmill.worker SET dead_at = now()",
        ],
    )
    .await;
}

#[tokio::test]
async fn readers_read_the_views_and_the_cursor_and_write_nothing() {
    let database = gristmill_tests::database::TestDatabase::create().await;
    let reader = database.user(&["gristmill_reader"]).await;
    let mut connection = PgConnection::connect(reader.expose_secret()).await.unwrap();
    for view in ["results", "attempts", "batches", "results_after(gen_random_uuid(), '', 10)"] {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM gristmill.{view}"));
        assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut connection).await.unwrap(), 0, "{view}");
    }
    refused(
        &reader,
        &["DELETE FROM gristmill.live", "UPDATE gristmill.batch SET name = ''", "CREATE TABLE gristmill.mine ()"],
    )
    .await;
}
