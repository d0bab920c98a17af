//! Restarts of the servers themselves, in mid-run: every row exactly once, no call repeated.
//!
//! These disturb everybody who uses the servers, so they run alone: `scripts/chaos`. The commands that restart are those of
//! Debian's packages; where the servers run otherwise, the variables below name others.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::BTreeSet;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use futures_util::StreamExt as _;
use gristmill_common::store::Cursor;
use gristmill_tests::fleet::{Fleet, LONG, eventually};
use gristmill_worker::simulate;
use tokio_util::sync::CancellationToken;

/// Names the variable with the shell command that restarts RabbitMQ.
const RESTART_RABBITMQ: &str = "GRISTMILL_TEST_RESTART_RABBITMQ";
/// Names the variable with the shell command that restarts Postgres.
const RESTART_POSTGRES: &str = "GRISTMILL_TEST_RESTART_POSTGRES";

const JOBS: usize = 2000;

/// Runs a variable's shell command, or the usual one.
async fn restart(variable: &str, usual: &str) {
    let command = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    // The server must not hold the test's pipes.
    let status = tokio::process::Command::new("sh")
        .args(["-c", &command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(status.success(), "`{command}` failed: {status}; {variable} can name another command");
}

/// Works a batch while servers are restarted; a subscriber is attached through it all.
async fn jobs_run_through(name: &str, restarts: impl AsyncFnOnce()) {
    let slow = simulate::Options { latency: Duration::from_millis(200), ..Default::default() };
    let mut fleet = Fleet::start(slow).await;
    let batch = fleet.submit(name, JOBS, |_, _| {}).await;
    let rows = fleet.producer().await.subscribe(batch, Cursor::default(), CancellationToken::new()).rows();
    fleet.worker(&["--concurrency", "25"], &[]);
    fleet.worker(&["--concurrency", "25"], &[]);
    let control = fleet.simulator.control();
    let reader = async {
        let mut seen = Vec::new();
        let mut rows = pin!(rows);
        while let Some(row) = rows.next().await {
            seen.push(row.unwrap().job_id);
        }
        seen
    };
    let breaker = async {
        eventually("calls are made", async || (control.stats().received >= 300).then_some(())).await;
        restarts().await;
        assert!(control.stats().received < JOBS as u64, "it happened in mid-run");
    };
    let both = async { tokio::join!(reader, breaker) };
    let (seen, ()) = tokio::time::timeout(LONG, both).await.expect("the subscription ends with the batch");

    assert_eq!(seen.len(), JOBS, "each row was seen once");
    let rows = fleet.agrees(batch, JOBS).await;
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), rows.iter().map(|row| row.job_id).collect());
    assert!(rows.iter().all(|row| row.result.response.is_some()));
    assert_eq!(fleet.calls().await.len(), JOBS, "a restart repeats nothing: {}", fleet.logs());
    assert_eq!(fleet.batch(batch).await.calls, JOBS as u64);
}

async fn restart_rabbitmq() {
    restart(RESTART_RABBITMQ, "rabbitmqctl stop_app && rabbitmqctl start_app").await;
}

async fn restart_postgres() {
    restart(RESTART_POSTGRES, "pg_ctlcluster 15 main restart --skip-systemctl-redirect").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "restarts shared servers; run by scripts/chaos"]
async fn a_restart_of_rabbitmq_repeats_no_call_and_hides_no_row() {
    jobs_run_through("rabbitmq", restart_rabbitmq).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "restarts shared servers; run by scripts/chaos"]
async fn a_restart_of_postgres_repeats_no_call_and_hides_no_row() {
    jobs_run_through("postgres", restart_postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "restarts shared servers; run by scripts/chaos"]
async fn restarts_of_both_servers_at_once_repeat_no_call_and_hide_no_row() {
    jobs_run_through("both", async || {
        tokio::join!(restart_rabbitmq(), restart_postgres());
    })
    .await;
}
