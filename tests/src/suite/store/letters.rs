//! Dead letters.

use bytes::Bytes;
use gristmill_common::batch::BatchState;
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::JobRef;
use gristmill_common::outcome::Status;
use gristmill_common::store::{BatchSelector, DeadLetter, Verdict};

use super::{LONG, Lab, arrivals, failure, lane, new_batch, now, owner, reference, success};

fn letter(jobs: &[JobRef]) -> DeadLetter {
    DeadLetter {
        reason: "rejected".to_owned(),
        queue: "gpt-4o.standard.2".to_owned(),
        payload: Bytes::from_static(b"{\"v\":1, \x00\xff"),
        jobs: jobs.to_vec(),
        error: ErrorRecord::new(ErrorClass::InvalidMessage, "the message cannot be read: it holds no jobs")
            .caused_by("decode", "expected `,`"),
    }
}

pub async fn a_letter_without_jobs_is_kept(lab: Lab) {
    lab.store.bury_letter(&letter(&[])).await.unwrap();
    assert!(lab.store.batches(10).await.unwrap().is_empty());
}

pub async fn the_jobs_of_a_letter_fail_unless_they_ended_or_are_held(lab: Lab) {
    let submitted = lab.submitted("sweep", 5).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..1], &success("ok")).await;
    lab.admitted(worker, &submitted.jobs[1..2]).await;
    lab.store.defer(&submitted.refs()[2..3], LONG, "queue full").await.unwrap();
    let mut twice = submitted.refs()[..4].to_vec();
    twice.push(twice[3].clone());
    let letter = letter(&twice);
    for _ in 0..2 {
        lab.store.bury_letter(&letter).await.unwrap();
        let batch = lab.batch(submitted.id).await;
        assert_eq!((batch.counters.succeeded, batch.counters.failed, batch.total), (1, 2, Some(5)));
        let progress = lab.store.progress(submitted.id).await.unwrap();
        assert_eq!((progress.held, progress.waiting), (1, 0));
    }
    let rows = lab.rows(submitted.id, 3).await;
    for row in rows.iter().filter(|row| row.result.status == Status::Failed) {
        assert_eq!(row.result.error.as_deref(), Some(&letter.error));
        assert!(row.custom_id.starts_with("line-"));
    }
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs[2..])).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Done, Verdict::Done, Verdict::Run(_)]), "{verdicts:?}");
}

pub async fn a_letter_can_finish_a_batch(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    lab.store.bury_letter(&letter(&submitted.refs())).await.unwrap();
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
}

pub async fn a_job_that_was_never_recorded_shows_as_failed(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let unrecorded = JobRef { id: JobId::derive(BatchId::new(now()), 3), batch: submitted.id, run: 1, lane: lane() };
    for _ in 0..2 {
        lab.store.bury_letter(&letter(std::slice::from_ref(&unrecorded))).await.unwrap();
        let batch = lab.batch(submitted.id).await;
        assert_eq!((batch.total, batch.counters.failed, batch.state), (Some(2), 1, BatchState::Running));
    }
    let rows = lab.rows(submitted.id, 1).await;
    assert_eq!(rows[0].custom_id, unrecorded.id.to_string());
    assert_eq!((rows[0].job_id, rows[0].model.as_str(), rows[0].endpoint.as_str()), (unrecorded.id, "gpt-4o", ""));
    // There is no request to run again.
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 10).await, 0);
    assert_eq!(lab.batch(submitted.id).await.counters.failed, 1);
}

pub async fn two_copies_of_a_letter_buried_at_once_count_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 0).await;
    let foreign = BatchId::new(now());
    for round in 0..20 {
        let job = JobRef { id: JobId::derive(foreign, round), batch: submitted.id, run: 1, lane: lane() };
        let letter = letter(&[job]);
        let (left, right) = tokio::join!(lab.store.bury_letter(&letter), lab.other.bury_letter(&letter));
        left.and(right).unwrap();
        let batch = lab.batch(submitted.id).await;
        let count = u64::from(round) + 1;
        assert_eq!((batch.total, batch.counters.failed, batch.state), (Some(count), count, BatchState::Finished));
    }
}

pub async fn a_job_of_an_unknown_batch_shows_in_the_days_batch(lab: Lab) {
    let nowhere = new_batch("never opened", owner()).id;
    let lost = JobRef { id: JobId::derive(nowhere, 0), batch: nowhere, run: 1, lane: lane() };
    lab.store.bury_letter(&letter(std::slice::from_ref(&lost))).await.unwrap();
    let name = format!("adhoc-{}", lost.id.part_day());
    let batch = lab.store.batch(&BatchSelector::Name(name)).await.unwrap().expect("it was made");
    assert_eq!((batch.id, batch.total, batch.counters.failed), (BatchId::adhoc(lost.id.part_day()), Some(1), 1));
    assert_eq!(batch.state, BatchState::Finished);
    assert_eq!(lab.rows(batch.id, 1).await[0].job_id, lost.id);
}

/// A run that a retry opened and whose message died would otherwise stay queued for ever.
pub async fn a_letter_ends_the_run_that_it_is_of(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &failure("first")).await;
    lab.retried(submitted.id, &[Status::Failed], 10).await;
    lab.due(2).await;
    // The first message's late copy says nothing of the second run.
    let late_copy = reference(&submitted.jobs[0], 1);
    let current = reference(&submitted.jobs[1], 2);
    lab.store.bury_letter(&letter(&[late_copy, current])).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.failed, batch.state), (1, BatchState::Running));
    let rows = lab.rows(submitted.id, 3).await;
    assert_eq!((rows[2].job_id, rows[2].run), (submitted.jobs[1].id, 2));
    lab.ended(worker, &submitted.jobs[..1], &success("second")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
}
