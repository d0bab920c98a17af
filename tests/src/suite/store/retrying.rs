//! New runs of jobs that have ended.

use std::collections::BTreeMap;

use gristmill_common::batch::BatchState;
use gristmill_common::failure::ErrorClass;
use gristmill_common::id::JobId;
use gristmill_common::job::Job;
use gristmill_common::outcome::Status;
use gristmill_common::store::{Cursor, Error};

use super::{LONG, Lab, arrivals, ended, failure, success, ticket};

pub async fn retry_opens_a_new_run_of_what_failed(lab: Lab) {
    let submitted = lab.submitted("sweep", 6).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..2], &success("ok")).await;
    lab.ended(worker, &submitted.jobs[2..5], &failure("no")).await;
    lab.ended(worker, &submitted.jobs[5..], &ended(Status::Expired, ErrorClass::DeadlineExceeded, "late")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 100).await, 3);
    let batch = lab.batch(submitted.id).await;
    let counters = batch.counters;
    assert_eq!((counters.succeeded, counters.failed, counters.expired), (2, 0, 1));
    assert_eq!((batch.state, batch.finished_at), (BatchState::Running, None));
    // They are due at once, and only once.
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 100).await, 0);
    let due = lab.due(3).await;
    assert!(due.iter().all(|job| job.run == 2));
    let again: Vec<_> = submitted.jobs[2..5].iter().map(|job| (job.id, 2)).collect();
    assert_eq!(lab.store.open_reruns(submitted.id, None, 2).await.unwrap(), again[..2]);
    assert_eq!(lab.store.open_reruns(submitted.id, Some(again[1].0), 2).await.unwrap(), again[2..]);
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs[2..5])).await.unwrap();
    for verdict in &verdicts {
        let ticket = ticket(verdict);
        assert_eq!((ticket.job.run, ticket.calls, ticket.attempts), (2, 0, 0));
    }
    lab.ended(worker, &submitted.jobs[2..5], &success("now")).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.state), (5, BatchState::Finished));
    assert_eq!(lab.store.open_reruns(submitted.id, None, 10).await.unwrap(), []);
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
    assert_eq!(lab.retried(submitted.id, &[], 10).await, 0);
    assert_eq!(lab.retried(submitted.id, &[Status::Succeeded], 10).await, 0);
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished, "nothing was retried");
    assert_eq!(lab.retried(submitted.id, &[Status::Cancelled, Status::Expired], 10).await, 2);
    lab.ended(worker, &submitted.jobs[1..], &success("now")).await;
    // Their first runs did not succeed, their latest did.
    assert_eq!(lab.retried(submitted.id, &[Status::Cancelled, Status::Expired], 10).await, 0);
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 10).await, 1);
    lab.ended(worker, &submitted.jobs[..1], &failure("again")).await;
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 10).await, 1);
    assert_eq!(lab.admitted(worker, &submitted.jobs[..1]).await[0].run, 3);
}

pub async fn retry_goes_on_where_it_stopped(lab: Lab) {
    let submitted = lab.submitted("sweep", 30).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..3], &success("ok")).await;
    lab.ended(worker, &submitted.jobs[3..20], &failure("no")).await;
    lab.ended(worker, &submitted.jobs[20..], &ended(Status::Expired, ErrorClass::DeadlineExceeded, "late")).await;
    let (mut opened, mut next) = (Vec::new(), Some(Cursor::default()));
    while let Some(after) = next {
        let count;
        (count, next) = lab.store.retry(submitted.id, &[Status::Failed, Status::Expired], after, 10).await.unwrap();
        opened.push(count);
        // A new run that ends meanwhile is not looked at again.
        if opened.len() == 1 {
            assert_eq!(lab.due(10).await.len(), 10);
            lab.ended(worker, &submitted.jobs[3..5], &success("now")).await;
        }
    }
    assert_eq!(opened, [10, 10, 7]);
    let progress = lab.store.progress(submitted.id).await.unwrap();
    assert_eq!((progress.held, progress.waiting), (0, 17));
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.done()), (5, 5));
}

pub async fn retry_takes_only_the_jobs_that_it_is_given(lab: Lab) {
    let submitted = lab.submitted("sweep", 8).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..2], &success("ok")).await;
    lab.ended(worker, &submitted.jobs[2..6], &failure("no")).await;
    lab.ended(worker, &submitted.jobs[6..], &ended(Status::Expired, ErrorClass::DeadlineExceeded, "late")).await;
    let ids = |jobs: &[Job]| jobs.iter().map(|job| job.id).collect::<Vec<_>>();
    let wanted = [Status::Failed, Status::Expired];
    let retried = async |ids: &[JobId]| lab.store.retry_jobs(submitted.id, &wanted, ids).await.unwrap();
    assert_eq!(retried(&[]).await, 0);
    assert_eq!(retried(&ids(&submitted.jobs[..2])).await, 0, "they succeeded");
    let some = [ids(&submitted.jobs[1..4]), ids(&submitted.jobs[6..7])].concat();
    assert_eq!(retried(&some).await, 3);
    assert_eq!(retried(&some).await, 0, "they are open");
    let batch = lab.batch(submitted.id).await;
    let counters = batch.counters;
    assert_eq!((counters.succeeded, counters.failed, counters.expired), (2, 2, 1));
    assert_eq!(batch.state, BatchState::Running);
    assert!(lab.due(3).await.iter().all(|job| job.run == 2 && some.contains(&job.id)));
    lab.store.cancel(submitted.id).await.unwrap();
    let error = lab.store.retry_jobs(submitted.id, &wanted, &ids(&submitted.jobs[4..5])).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
}

pub async fn retry_opens_a_cancelled_batch_again(lab: Lab) {
    let submitted = lab.submitted("sweep", 5).await;
    let worker = lab.worker(LONG).await;
    lab.store.cancel(submitted.id).await.unwrap();
    lab.close_cancelled(10).await;
    assert_eq!(lab.retried(submitted.id, &[Status::Cancelled], 10).await, 5);
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.state, batch.cancel_requested_at), (BatchState::Running, None));
    lab.ended(worker, &submitted.jobs, &success("after all")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    // And it can be cancelled again, from the first job on.
    lab.retried(submitted.id, &[Status::Succeeded], 3).await;
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
    let error = lab.store.retry(submitted.id, &[Status::Failed], Cursor::default(), 10).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert_eq!(lab.batch(submitted.id).await.counters.failed, 1);
}

pub async fn retries_of_an_unfinished_batch_leave_what_is_open(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..2], &failure("no")).await;
    let held = lab.admitted(worker, &submitted.jobs[2..3]).await;
    assert_eq!(lab.retried(submitted.id, &Status::ALL, 10).await, 2);
    assert_eq!(held[0].run, 1);
    let progress = lab.store.progress(submitted.id).await.unwrap();
    assert_eq!((progress.held, progress.waiting), (1, 2));
    lab.ended(worker, &submitted.jobs, &success("all")).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.failed, batch.state), (4, 0, BatchState::Finished));
}
