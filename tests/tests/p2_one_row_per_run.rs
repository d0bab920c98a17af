//! P2: one row per run of a job, however often its message comes; the job's result is its latest run; counters equal rows.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::BTreeMap;

use gristmill_common::broker::{Broker as _, Confirm, Outgoing};
use gristmill_common::envelope;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::{JobRef, LaneKey};
use gristmill_common::outcome::Status;
use gristmill_common::store::Cursor;
use gristmill_tests::fleet::{Fleet, MODEL, by_job, eventually};
use gristmill_worker::simulate;

fn slow() -> simulate::Options {
    let ms = std::time::Duration::from_millis;
    simulate::Options { latency: ms(50), jitter: ms(40), ..Default::default() }
}

/// Reads where the messages of a batch's jobs went.
async fn references(fleet: &Fleet, batch: BatchId) -> Vec<JobRef> {
    let mut connection = fleet.database.connect().await;
    let rows: Vec<(uuid::Uuid, String, i16)> =
        sqlx::query_as("SELECT job_id, priority, lane FROM gristmill.job WHERE batch_id = $1 ORDER BY job_id")
            .bind(batch.uuid())
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let reference = |(id, priority, lane): (uuid::Uuid, String, i16)| {
        let (priority, lane) = (priority.parse().unwrap(), u8::try_from(lane).unwrap());
        JobRef { id: JobId::from_uuid(id), batch, run: 1, lane: LaneKey { group: MODEL.into(), priority, lane } }
    };
    rows.into_iter().map(reference).collect()
}

/// Publishes one more message for each of these jobs, several jobs to a message.
async fn publish(fleet: &Fleet, jobs: &[JobRef], jobs_per_message: usize) {
    let message = |jobs: &[JobRef]| Outgoing {
        lane: jobs[0].lane.clone(),
        payload: envelope::write_references(jobs).unwrap(),
        traceparent: None,
    };
    let messages: Vec<Outgoing> = jobs.chunks(jobs_per_message).map(message).collect();
    let confirms = fleet.rabbit.broker().await.publish(messages).await.unwrap();
    assert!(confirms.iter().all(|confirm| *confirm == Confirm::Confirmed), "{confirms:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_message_comes_many_times_is_called_once() {
    let mut fleet = Fleet::start(slow()).await;
    let batch = fleet.submit("copies", 400, |_, _| {}).await;
    let jobs = references(&fleet, batch).await;
    let backwards: Vec<JobRef> = jobs.iter().rev().cloned().collect();
    publish(&fleet, &jobs, 10).await;
    let workers = [fleet.worker(&["--concurrency", "20"], &[]), fleet.worker(&["--concurrency", "20"], &[])];
    publish(&fleet, &backwards, 7).await;
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().received >= 100).then_some(())).await;
    publish(&fleet, &jobs, 1).await;
    fleet.agrees(batch, 400).await;
    publish(&fleet, &backwards, 3).await;

    // All copies are taken. A worker that stops gives back those that it had not looked at yet.
    let broker = fleet.rabbit.broker().await;
    let lanes = [jobs[0].lane.clone()];
    let depth = async || broker.depths(&lanes).await.unwrap()[0];
    eventually("the copies are taken", async || (depth().await == 0).then_some(())).await;
    for worker in workers {
        fleet.signal(worker, "TERM");
        assert!(fleet.ended(worker).await);
    }

    fleet.agrees(batch, 400).await;
    assert_eq!(fleet.calls().await.len(), 400);
    assert_eq!(fleet.batch(batch).await.calls, 400);
    let mut connection = fleet.database.connect().await;
    let live: i64 = sqlx::query_scalar("SELECT count(*) FROM gristmill.live").fetch_one(&mut connection).await.unwrap();
    assert_eq!(live, 0, "copies leave no live row");
}

#[tokio::test(flavor = "multi_thread")]
async fn retrying_failed_jobs_opens_a_second_run_whose_row_is_the_result() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    fleet.simulator.control().set_faults(vec!["422:0.3".parse().unwrap()]);
    let batch = fleet.submit("again", 200, |_, _| {}).await;
    fleet.worker(&["--concurrency", "20"], &[]);
    let first = fleet.agrees(batch, 200).await;
    let failed: BTreeMap<JobId, Status> = first
        .iter()
        .filter(|row| row.result.status == Status::Failed)
        .map(|row| (row.job_id, row.result.status))
        .collect();
    assert!((20..120).contains(&failed.len()), "{}", failed.len());
    let cursor = fleet.store.results_after(batch, Cursor::default(), 1000).await.unwrap().cursor;
    let old_messages = references(&fleet, batch).await;

    fleet.simulator.control().set_faults(Vec::new());
    let opened = fleet.producer().await.retry(batch, &[Status::Failed]).await.unwrap();
    assert_eq!(opened, failed.len() as u64);
    // Late copies of the first run's messages wake the second run, or nothing.
    publish(&fleet, &old_messages, 10).await;
    let ended = fleet.finished(batch).await;
    assert_eq!((ended.counters.succeeded, ended.counters.done()), (200, 200), "counters are of the latest runs");
    assert_eq!(ended.calls, 200 + opened);

    let again = eventually("the second runs can be read", async || {
        let page = fleet.store.results_after(batch, cursor, 1000).await.unwrap();
        (page.rows.len() as u64 >= opened).then_some(page.rows)
    })
    .await;
    assert_eq!(again.len(), failed.len(), "a reader that goes on sees the second runs and nothing else");
    for row in &again {
        assert!(failed.contains_key(&row.job_id));
        assert_eq!((row.run, row.result.status, row.result.attempts), (2, Status::Succeeded, 1));
    }
    assert_eq!(fleet.producer().await.retry(batch, &[Status::Failed]).await.unwrap(), 0, "nothing is left to retry");

    let mut connection = fleet.database.connect().await;
    let runs: Vec<(i32, String, i64)> =
        sqlx::query_as("SELECT run, status, count(*) FROM gristmill.result GROUP BY run, status ORDER BY run, status")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let opened = i64::try_from(opened).unwrap();
    let row = |run, status: &str, count| (run, status.to_owned(), count);
    assert_eq!(runs, [row(1, "failed", opened), row(1, "succeeded", 200 - opened), row(2, "succeeded", opened)]);
    let shown: Vec<(i32, String, i64)> =
        sqlx::query_as("SELECT run, status, count(*) FROM gristmill.results GROUP BY run, status ORDER BY run, status")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert_eq!(
        shown,
        [row(1, "succeeded", 200 - opened), row(2, "succeeded", opened)],
        "the view shows the latest run"
    );

    let calls = fleet.calls().await;
    let twice = by_job(&calls).values().filter(|count| **count == 2).count();
    assert_eq!((calls.len(), twice), (200 + failed.len(), failed.len()));
}
