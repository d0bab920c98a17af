//! Deadlines.

use gristmill_common::batch::BatchState;
use gristmill_common::failure::ErrorClass;
use gristmill_common::job::Job;
use gristmill_common::outcome::Status;
use gristmill_common::store::Verdict;

use super::{LONG, Lab, SOON, arrivals, eventually, failure, now, settle, success, wake};

impl Lab {
    /// Does what a keeper does for deadlines, `limit` jobs at a time, until a batch has so many expired jobs.
    async fn expired(&self, batch: gristmill_common::id::BatchId, limit: u32, count: u64) {
        eventually("jobs expire", || async {
            while self.store.close_expired(limit).await.unwrap() == u64::from(limit) {}
            (self.batch(batch).await.counters.expired >= count).then_some(())
        })
        .await;
        assert_eq!(self.batch(batch).await.counters.expired, count);
    }
}

fn soon(_: u32, job: &mut Job) {
    job.options.deadline = Some(now() + SOON);
}

pub async fn jobs_past_their_deadline_that_nobody_holds_expire(lab: Lab) {
    let submitted = lab.submitted_with("sweep", 20, soon).await;
    let timeless = lab.submitted("timeless", 2).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..4], &success("in time")).await;
    let held = lab.admitted(worker, &submitted.jobs[4..10]).await;
    let waiting: Vec<_> = held[..3].iter().map(|job| wake(job, LONG)).collect();
    lab.store.flush(worker, &waiting).await.unwrap();
    lab.expired(submitted.id, 3, 13).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.expired, batch.state), (4, 13, BatchState::Running));
    // What is held is its owner's to end, in whatever way.
    let settlements: Vec<_> = held[3..].iter().map(|job| settle(job, success("just"))).collect();
    assert_eq!(lab.store.flush(worker, &settlements).await.unwrap().results, 3);
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    let rows = lab.rows(submitted.id, 20).await;
    for row in rows.iter().filter(|row| row.result.status == Status::Expired) {
        assert_eq!(row.result.error.as_ref().map(|error| &error.class), Some(&ErrorClass::DeadlineExceeded));
    }
    assert_eq!(lab.store.progress(timeless.id).await.unwrap().waiting, 0);
    assert_eq!(lab.batch(timeless.id).await.counters.done(), 0);
}

pub async fn an_expired_job_is_done_for_admission(lab: Lab) {
    let submitted = lab.submitted_with("sweep", 2, soon).await;
    lab.expired(submitted.id, 100, 2).await;
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!(verdicts, [Verdict::Done, Verdict::Done]);
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
}

pub async fn a_job_held_at_its_deadline_expires_when_it_comes_back(lab: Lab) {
    let submitted = lab.submitted_with("sweep", 2, soon).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs[..1]).await;
    // The keeper has passed the deadline of both.
    lab.expired(submitted.id, 100, 1).await;
    lab.store.flush(worker, &[wake(&held[0], LONG)]).await.unwrap();
    assert_eq!(lab.due(1).await, held);
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs[..1])).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Expired(_)]), "{verdicts:?}");
}

pub async fn a_retried_run_expires_as_a_run_of_its_own(lab: Lab) {
    let submitted = lab.submitted_with("sweep", 1, soon).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &failure("no")).await;
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 10).await, 1);
    lab.expired(submitted.id, 100, 1).await;
    let runs: Vec<_> = lab.rows(submitted.id, 2).await.iter().map(|row| (row.run, row.result.status)).collect();
    assert_eq!(runs, [(1, Status::Failed), (2, Status::Expired)]);
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
}
