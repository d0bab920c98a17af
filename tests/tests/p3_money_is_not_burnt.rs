//! P3: a lost connection to broker or database repeats nothing; retries are counted; P5: a subscriber sees each row once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use gristmill_common::outcome::Status;
use gristmill_common::store::Cursor;
use gristmill_tests::fleet::{Fleet, LONG, by_job};
use gristmill_worker::simulate;
use tokio_util::sync::CancellationToken;

fn slow() -> simulate::Options {
    simulate::Options { latency: Duration::from_millis(200), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_all_amqp_connections_again_and_again_repeats_no_call() {
    let mut fleet = Fleet::start(slow()).await;
    let batch = fleet.submit("cut", 1500, |_, _| {}).await;
    fleet.worker(&["--concurrency", "50"], &[]);
    fleet.worker(&["--concurrency", "50"], &[]);
    while !fleet.batch(batch).await.state.is_ended() {
        fleet.rabbit.close_connections().await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    fleet.agrees(batch, 1500).await;
    assert_eq!(fleet.calls().await.len(), 1500, "{}", fleet.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn terminating_all_database_sessions_again_and_again_repeats_no_call_and_hides_no_row() {
    let mut fleet = Fleet::start(slow()).await;
    let batch = fleet.submit("terminated", 1500, |_, _| {}).await;
    fleet.worker(&["--concurrency", "50"], &[]);
    fleet.worker(&["--concurrency", "50"], &[]);
    let rows = fleet.producer().await.subscribe(batch, Cursor::default(), CancellationToken::new()).rows();
    let reader = async {
        let mut seen = Vec::new();
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.next().await {
            seen.push(row.unwrap().job_id);
        }
        seen
    };
    let breaker = async {
        let until = Instant::now() + Duration::from_secs(8);
        let mut connection = fleet.database.connect().await;
        while Instant::now() < until {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            sqlx::raw_sql(end).execute(&mut connection).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let both = async { tokio::join!(reader, breaker) };
    let (seen, ()) = tokio::time::timeout(LONG, both).await.expect("the subscription ends with the batch");
    assert_eq!(seen.len(), 1500, "each row was seen once");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 1500);
    fleet.agrees(batch, 1500).await;
    assert_eq!(fleet.calls().await.len(), 1500, "{}", fleet.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_failures_are_retried_and_every_call_is_recorded() {
    let faults = ["429:0.025:retry-after=0.2", "500:0.025", "timeout:0.01", "reset:0.025", "truncate:0.015"];
    let options = simulate::Options {
        faults: faults.iter().map(|rule| rule.parse().unwrap()).collect(),
        ..simulate::Options::default()
    };
    let mut fleet = Fleet::start(options).await;
    let batch = fleet.submit("flaky", 1000, |_, job| job.options.num_retries = Some(12)).await;
    // Long enough for a call never to time out before the simulator has read it, which nobody would have counted.
    fleet.worker(&["--concurrency", "64"], &[("GRISTMILL_TIMEOUT", "20s")]);
    let rows = fleet.agrees(batch, 1000).await;
    let failed: Vec<_> = rows.iter().filter(|row| row.result.status != Status::Succeeded).collect();
    assert!(failed.is_empty(), "every job succeeds: {failed:?}");
    let calls = fleet.calls().await;
    assert!(calls.len() > 1050, "faults happened: {}", calls.len());
    assert_eq!(fleet.batch(batch).await.calls, calls.len() as u64, "attempts recorded equal calls received");
    let made = by_job(&calls);
    for row in &rows {
        assert_eq!(row.result.attempts as usize, made[row.custom_id.as_str()], "{}", row.custom_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_a_request_end_it_after_one_call_with_the_providers_words() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let batch = fleet
        .submit("wrong", 200, |n, job| {
            if n % 10 == 0 {
                let status = if n % 20 == 0 { "simulate:400" } else { "simulate:422" };
                *job = gristmill_tests::fleet::job(&job.custom_id, status);
            }
        })
        .await;
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, 200).await;
    let failed: Vec<_> = rows.iter().filter(|row| row.result.status == Status::Failed).collect();
    assert_eq!(failed.len(), 20);
    for row in failed {
        let error = row.result.error.as_ref().unwrap();
        assert_eq!(row.result.attempts, 1);
        assert!(matches!(error.status, Some(400 | 422)));
        assert!(error.body.as_ref().unwrap().contains(&error.message), "the provider's own message: {error:?}");
        assert_eq!(error.request_id, row.result.request_id);
        assert!(error.request_id.is_some());
    }
    assert_eq!(fleet.calls().await.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_fails_nothing_says_what_to_set_and_goes_on_by_itself() {
    let mut fleet =
        Fleet::start(simulate::Options { require_key: Some("sk-other".into()), ..Default::default() }).await;
    let batch = fleet.submit("locked", 500, |_, _| {}).await;
    fleet.worker(&["--concurrency", "16"], &[]);
    let paused = gristmill_tests::fleet::eventually("the pause is told", async || {
        fleet.store.paused_deployments().await.unwrap().into_iter().find_map(|report| report.paused)
    })
    .await;
    assert!(paused.contains("401") && paused.contains("OPENAI_API_KEY"), "{paused}");
    assert_eq!(fleet.batch(batch).await.counters.done(), 0);
    fleet.simulator.control().set_required_key(None);
    let rows = fleet.agrees(batch, 500).await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_starts_long_after_a_batch_was_cancelled() {
    let mut fleet = Fleet::start(slow()).await;
    let batch = fleet.submit("cancelled", 5000, |_, _| {}).await;
    // All of them would take 40 s.
    fleet.worker(&["--concurrency", "25"], &[]);
    let control = fleet.simulator.control();
    gristmill_tests::fleet::eventually("calls are made", async || (control.stats().received >= 200).then_some(()))
        .await;
    fleet.producer().await.cancel(batch).await.unwrap();
    let cancelled_ms = fleet.batch(batch).await.cancel_requested_at.unwrap().timestamp_millis().unsigned_abs();
    let rows = fleet.agrees(batch, 5000).await;
    let succeeded = rows.iter().filter(|row| row.result.status == Status::Succeeded).count();
    let calls = fleet.calls().await;
    assert_eq!(calls.len(), succeeded, "every call that was made is kept");
    let late = calls.iter().filter(|call| call.t_ms > cancelled_ms + 10_000).count();
    assert_eq!(late, 0, "no call starts ten seconds after the cancellation");
    assert!(succeeded < 5000);
}
