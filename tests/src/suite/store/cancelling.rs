//! Cancelling, and ending what nobody holds.

use gristmill_common::batch::BatchState;
use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::Status;
use gristmill_common::store::{Renewal, Verdict};

use super::{LONG, Lab, SHORT, arrivals, ended, failure, owner, settle, success, wake};

impl Lab {
    /// Does what a keeper does for cancelled batches, `limit` jobs at a time.
    pub async fn close_cancelled(&self, limit: u32) {
        // A bound on the rounds: it must come to an end by itself.
        for _ in 0..10_000 {
            if self.store.close_cancelled(limit).await.unwrap() < u64::from(limit) {
                return;
            }
        }
        panic!("closing cancelled batches does not end");
    }
}

pub async fn a_cancelled_batch_ends_what_nobody_holds(lab: Lab) {
    let submitted = lab.submitted("sweep", 50).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..10], &success("before")).await;
    let held = lab.admitted(worker, &submitted.jobs[10..30]).await;
    let waiting: Vec<_> = held[..10].iter().map(|job| wake(job, LONG)).collect();
    lab.store.flush(worker, &waiting).await.unwrap();
    assert!(lab.store.cancel(submitted.id).await.unwrap());
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Cancelling);
    lab.close_cancelled(7).await;
    // The ten that are held are their owner's to end.
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.cancelled, batch.state), (10, 30, BatchState::Cancelling));
    lab.close_cancelled(7).await;
    let stop = ended(Status::Cancelled, ErrorClass::Cancelled, "stop");
    let settlements: Vec<_> = held[10..].iter().map(|job| settle(job, stop.clone())).collect();
    assert_eq!(lab.store.flush(worker, &settlements).await.unwrap().results, 10);
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.cancelled, batch.state), (40, BatchState::Cancelled));
    let rows = lab.rows(submitted.id, 50).await;
    for row in rows.iter().filter(|row| row.result.status == Status::Cancelled) {
        let error = row.result.error.as_ref().expect("it says why");
        assert_eq!(error.class, ErrorClass::Cancelled);
        assert!(!error.message.is_empty());
    }
    assert_eq!(lab.store.close_cancelled(10).await.unwrap(), 0);
}

pub async fn what_came_back_after_the_walk_is_ended_too(lab: Lab) {
    let submitted = lab.submitted("sweep", 20).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs[..5]).await;
    lab.store.cancel(submitted.id).await.unwrap();
    lab.close_cancelled(6).await;
    assert_eq!(lab.batch(submitted.id).await.counters.cancelled, 15);
    // A worker that had not heard of it puts its jobs back, another dies with its own.
    lab.store.flush(worker, &[wake(&held[0], LONG), wake(&held[1], LONG)]).await.unwrap();
    lab.close_cancelled(6).await;
    assert_eq!(lab.batch(submitted.id).await.counters.cancelled, 17);
    lab.store.deregister(worker).await.unwrap();
    lab.close_cancelled(6).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.cancelled, batch.calls, batch.state), (20, 2, BatchState::Cancelled));
    lab.rows(submitted.id, 20).await;
}

pub async fn a_cancelled_batch_with_calls_in_flight_is_walked_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 20).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs[..5]).await;
    lab.store.cancel(submitted.id).await.unwrap();
    lab.close_cancelled(6).await;
    for _ in 0..3 {
        assert_eq!(lab.store.close_cancelled(6).await.unwrap(), 0, "nothing is left to look at");
    }
    lab.store.flush(worker, &[wake(&held[0], LONG)]).await.unwrap();
    assert_eq!(lab.store.close_cancelled(6).await.unwrap(), 1);
    assert_eq!(lab.batch(submitted.id).await.counters.cancelled, 16);
}

pub async fn one_cancelled_batch_with_held_jobs_does_not_keep_others_open(lab: Lab) {
    let (first, second) = (lab.submitted("first", 12).await, lab.submitted("second", 12).await);
    let worker = lab.worker(LONG).await;
    lab.admitted(worker, &first.jobs[..2]).await;
    lab.admitted(worker, &second.jobs[..1]).await;
    let third = lab.submitted("third", 12).await;
    for batch in [first.id, second.id, third.id] {
        lab.store.cancel(batch).await.unwrap();
    }
    for _ in 0..20 {
        lab.close_cancelled(5).await;
    }
    assert_eq!(lab.batch(first.id).await.counters.cancelled, 10);
    assert_eq!(lab.batch(second.id).await.counters.cancelled, 11);
    assert_eq!(lab.batch(third.id).await.state, BatchState::Cancelled);
}

pub async fn a_batch_without_open_jobs_is_cancelled_at_once(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 2).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &success("done")).await;
    // Still submitting, so it is open.
    assert!(lab.store.cancel(submitted.id).await.unwrap());
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.total, batch.state), (Some(2), BatchState::Cancelled));
}

pub async fn a_finished_batch_cannot_be_cancelled(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &success("done")).await;
    assert!(!lab.store.cancel(submitted.id).await.unwrap());
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.state, batch.cancel_requested_at), (BatchState::Finished, None));
}

pub async fn cancelling_while_submitting_ends_the_batch(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 8).await;
    assert!(lab.other.cancel(submitted.id).await.unwrap());
    assert!(lab.store.cancel(submitted.id).await.unwrap(), "still open");
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.total, batch.state), (Some(8), BatchState::Cancelling));
    lab.close_cancelled(100).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Cancelled);
    // The producer seals what it had; the batch stays as it is.
    lab.store.seal(submitted.id, producer).await.unwrap();
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Cancelled);
    lab.rows(submitted.id, 8).await;
}

pub async fn a_retried_run_of_a_cancelled_batch_ends_as_a_run_of_its_own(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &failure("no")).await;
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 3).await, 3);
    lab.store.cancel(submitted.id).await.unwrap();
    lab.close_cancelled(100).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.cancelled, batch.counters.failed, batch.state), (3, 1, BatchState::Cancelled));
    let rows = lab.rows(submitted.id, 7).await;
    assert_eq!(rows.iter().filter(|row| row.run == 2 && row.result.status == Status::Cancelled).count(), 3);
}

pub async fn workers_hear_of_cancelled_batches_until_they_end(lab: Lab) {
    let (first, second) = (lab.submitted("first", 1).await, lab.submitted("second", 1).await);
    let worker = lab.worker(LONG).await;
    let renew = || async { lab.other.renew(worker, LONG, 0, &[]).await.unwrap() };
    assert_eq!(renew().await, Renewal::Alive { cancelled: Vec::new(), resumed: Vec::new() });
    lab.admitted(worker, &second.jobs).await;
    lab.store.cancel(first.id).await.unwrap();
    lab.store.cancel(second.id).await.unwrap();
    let Renewal::Alive { mut cancelled, .. } = renew().await else { panic!("alive") };
    cancelled.sort_unstable();
    assert_eq!(cancelled, [first.id, second.id]);
    lab.close_cancelled(10).await;
    assert_eq!(renew().await, Renewal::Alive { cancelled: vec![second.id], resumed: Vec::new() });
}

pub async fn a_dead_owners_job_of_a_cancelled_batch_ends_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let dying = lab.worker(SHORT).await;
    let held = lab.admitted(dying, &submitted.jobs).await;
    lab.store.cancel(submitted.id).await.unwrap();
    assert_eq!(lab.buried(5).await, (2, 0));
    lab.close_cancelled(10).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Cancelled);
    assert_eq!(lab.store.flush(dying, &[settle(&held[0], success("late"))]).await.unwrap().lost, 1);
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!(verdicts, [Verdict::Done, Verdict::Done]);
    lab.rows(submitted.id, 2).await;
}
