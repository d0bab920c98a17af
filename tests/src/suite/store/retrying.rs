//! New runs of jobs that have ended.

use std::collections::BTreeMap;

use gristmill_common::batch::BatchState;
use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::Status;
use gristmill_common::store::Error;

use super::{LONG, Lab, arrivals, ended, failure, success, ticket};

pub async fn retry_opens_a_new_run_of_what_failed(lab: Lab) {
    let submitted = lab.submitted("sweep", 6).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..2], &success("ok")).await;
    lab.ended(worker, &submitted.jobs[2..5], &failure("no")).await;
    lab.ended(worker, &submitted.jobs[5..], &ended(Status::Expired, ErrorClass::DeadlineExceeded, "late")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    assert_eq!(lab.store.retry(submitted.id, &[Status::Failed], 100).await.unwrap(), 3);
    let batch = lab.batch(submitted.id).await;
    let counters = batch.counters;
    assert_eq!((counters.succeeded, counters.failed, counters.expired), (2, 0, 1));
    assert_eq!((batch.state, batch.finished_at), (BatchState::Running, None));
    // They are due at once, and only once.
    assert_eq!(lab.store.retry(submitted.id, &[Status::Failed], 100).await.unwrap(), 0);
    let due = lab.due(3).await;
    assert!(due.iter().all(|job| job.run == 2));
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs[2..5])).await.unwrap();
    for verdict in &verdicts {
        let ticket = ticket(verdict);
        assert_eq!((ticket.job.run, ticket.calls, ticket.attempts), (2, 0, 0));
    }
    lab.ended(worker, &submitted.jobs[2..5], &success("now")).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.state), (5, BatchState::Finished));
    let rows = lab.rows(submitted.id, 9).await;
    let latest: BTreeMap<_, _> = rows.iter().map(|row| (row.job_id, row.run)).collect();
    assert_eq!(latest.values().sum::<u32>(), 3 + 3 * 2);
}

pub async fn retry_takes_only_what_it_is_asked_for_by_the_latest_run(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..1], &failure("no")).await;
    lab.ended(worker, &submitted.jobs[1..2], &ended(Status::Cancelled, ErrorClass::Cancelled, "stop")).await;
    lab.ended(worker, &submitted.jobs[2..], &ended(Status::Expired, ErrorClass::DeadlineExceeded, "late")).await;
    assert_eq!(lab.store.retry(submitted.id, &[], 10).await.unwrap(), 0);
    assert_eq!(lab.store.retry(submitted.id, &[Status::Succeeded], 10).await.unwrap(), 0);
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished, "nothing was retried");
    assert_eq!(lab.store.retry(submitted.id, &[Status::Cancelled, Status::Expired], 10).await.unwrap(), 2);
    lab.ended(worker, &submitted.jobs[1..], &success("now")).await;
    // Their first runs did not succeed, their latest did.
    assert_eq!(lab.store.retry(submitted.id, &[Status::Cancelled, Status::Expired], 10).await.unwrap(), 0);
    assert_eq!(lab.store.retry(submitted.id, &[Status::Failed], 10).await.unwrap(), 1);
    lab.ended(worker, &submitted.jobs[..1], &failure("again")).await;
    assert_eq!(lab.store.retry(submitted.id, &[Status::Failed], 10).await.unwrap(), 1);
    assert_eq!(lab.admitted(worker, &submitted.jobs[..1]).await[0].run, 3);
}

pub async fn retry_goes_on_until_nothing_is_left(lab: Lab) {
    let submitted = lab.submitted("sweep", 25).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &failure("no")).await;
    let mut opened = Vec::new();
    loop {
        let count = lab.store.retry(submitted.id, &[Status::Failed], 10).await.unwrap();
        opened.push(count);
        if count == 0 {
            break;
        }
    }
    assert_eq!(opened, [10, 10, 5, 0]);
    assert_eq!(lab.due(25).await.len(), 25);
}

pub async fn retry_opens_a_cancelled_batch_again(lab: Lab) {
    let submitted = lab.submitted("sweep", 5).await;
    let worker = lab.worker(LONG).await;
    lab.store.cancel(submitted.id).await.unwrap();
    lab.close_cancelled(10).await;
    assert_eq!(lab.store.retry(submitted.id, &[Status::Cancelled], 10).await.unwrap(), 5);
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.state, batch.cancel_requested_at), (BatchState::Running, None));
    lab.ended(worker, &submitted.jobs, &success("after all")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    // And it can be cancelled again, from the first job on.
    lab.store.retry(submitted.id, &[Status::Succeeded], 3).await.unwrap();
    lab.store.cancel(submitted.id).await.unwrap();
    lab.close_cancelled(2).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.cancelled, batch.counters.succeeded, batch.state), (3, 2, BatchState::Cancelled));
}

pub async fn retry_of_a_batch_that_is_being_cancelled_is_a_conflict(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..1], &failure("no")).await;
    lab.store.cancel(submitted.id).await.unwrap();
    let error = lab.store.retry(submitted.id, &[Status::Failed], 10).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(lab.batch(submitted.id).await.counters.failed, 1);
}

pub async fn retries_of_an_unfinished_batch_leave_what_is_open(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..2], &failure("no")).await;
    let held = lab.admitted(worker, &submitted.jobs[2..3]).await;
    assert_eq!(lab.store.retry(submitted.id, &Status::ALL, 10).await.unwrap(), 2);
    assert_eq!(held[0].run, 1);
    let progress = lab.store.progress(submitted.id).await.unwrap();
    assert_eq!((progress.held, progress.waiting), (1, 2));
    lab.ended(worker, &submitted.jobs, &success("all")).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.failed, batch.state), (4, 0, BatchState::Finished));
}
