//! What admission does with jobs that no producer recorded.

use gristmill_common::batch::BatchState;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::Job;
use gristmill_common::store::{Arrival, BatchSelector, Opened, Recorded, Verdict};

use super::{
    LONG, Lab, SOON, chunk, ended, job, jobs, new_batch, now, owner, reference, request, settle, stranger, success,
    ticket,
};

/// A job whose sender named no batch.
fn adhoc(ordinal: u32) -> Job {
    let id = JobId::derive(BatchId::new(now()), ordinal);
    Job { id, batch: BatchId::adhoc(id.part_day()), ..job(BatchId::new(now()), ordinal) }
}

pub async fn a_message_that_names_no_batch_is_adopted_into_the_days(lab: Lab) {
    let (first, second) = (adhoc(0), adhoc(1));
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, vec![stranger(&first), stranger(&second)]).await.unwrap();
    assert_eq!(ticket(&verdicts[0]).request, request(&first));
    assert_eq!(ticket(&verdicts[1]).job, reference(&second, 1));
    let name = format!("adhoc-{}", first.id.part_day());
    let batch = lab.other.batch(&BatchSelector::Name(name)).await.unwrap().expect("it was made");
    assert_eq!((batch.id, batch.total, batch.state), (first.batch, Some(2), BatchState::Running));
    let settlements = [settle(&reference(&first, 1), success("a")), settle(&reference(&second, 1), success("b"))];
    assert_eq!(lab.store.flush(worker, &settlements).await.unwrap().results, 2);
    let batch = lab.batch(first.batch).await;
    assert_eq!((batch.counters.succeeded, batch.state), (2, BatchState::Finished));
    let rows = lab.rows(first.batch, 2).await;
    assert_eq!((rows[0].custom_id.as_str(), rows[0].endpoint.as_str()), ("line-0", "/v1/chat/completions"));
    // The next one opens it again.
    let third = adhoc(2);
    lab.store.admit(worker, vec![stranger(&third)]).await.unwrap();
    let batch = lab.batch(first.batch).await;
    assert_eq!((batch.total, batch.state, batch.finished_at), (Some(3), BatchState::Running, None));
}

pub async fn two_workers_that_adopt_at_once_agree(lab: Lab) {
    let strangers: Vec<Job> = (0..40).map(adhoc).collect();
    let (a, b) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let (left, right) = tokio::join!(
        lab.store.admit(a, strangers.iter().map(stranger).collect()),
        lab.other.admit(b, strangers.iter().rev().map(stranger).collect()),
    );
    let (left, mut right) = (left.unwrap(), right.unwrap());
    right.reverse();
    for (left, right) in left.iter().zip(&right) {
        let runs = [left, right].iter().filter(|verdict| matches!(verdict, Verdict::Run(_))).count();
        assert_eq!(runs, 1, "{left:?} {right:?}");
    }
    let batch = lab.batch(strangers[0].batch).await;
    assert_eq!(batch.total, Some(40));
}

pub async fn a_message_is_adopted_into_the_batch_that_it_names(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &success("done")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    let late = Job { id: JobId::derive(BatchId::new(now()), 77), ..job(submitted.id, 1) };
    let verdicts = lab.store.admit(worker, vec![stranger(&late)]).await.unwrap();
    assert_eq!(ticket(&verdicts[0]).job, reference(&late, 1));
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.total, batch.state), (Some(2), BatchState::Running));
    lab.store.flush(worker, &[settle(&reference(&late, 1), success("late"))]).await.unwrap();
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    // The message again, and with it the whole group: it counts once.
    assert_eq!(lab.store.admit(worker, vec![stranger(&late)]).await.unwrap(), [Verdict::Done]);
    assert_eq!(lab.batch(submitted.id).await.total, Some(2));
}

pub async fn a_message_of_a_recorded_job_that_does_not_say_so_counts_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, vec![stranger(&submitted.jobs[0])]).await.unwrap();
    assert_eq!(ticket(&verdicts[0]).job, reference(&submitted.jobs[0], 1));
    assert_eq!(lab.batch(submitted.id).await.total, Some(1));
}

pub async fn a_message_of_an_unknown_batch_is_not_adopted(lab: Lab) {
    let nowhere = job(new_batch("never opened", owner()).id, 0);
    let worker = lab.worker(LONG).await;
    assert_eq!(lab.store.admit(worker, vec![stranger(&nowhere)]).await.unwrap(), [Verdict::Unknown]);
    let empty = Arrival { request: None, ..stranger(&adhoc(0)) };
    assert_eq!(lab.store.admit(worker, vec![empty]).await.unwrap(), [Verdict::Unknown]);
}

pub async fn an_adopted_job_for_later_waits(lab: Lab) {
    let mut later = adhoc(0);
    later.options.not_before = Some(now() + SOON);
    let worker = lab.worker(LONG).await;
    assert_eq!(lab.store.admit(worker, vec![stranger(&later)]).await.unwrap(), [Verdict::Waiting]);
    assert_eq!(lab.store.progress(later.batch).await.unwrap().waiting, 1);
    assert_eq!(lab.due(1).await, [reference(&later, 1)]);
    // The keeper's message only refers to it.
    let verdicts = lab.store.admit(worker, vec![super::arrival(&later)]).await.unwrap();
    assert_eq!(ticket(&verdicts[0]).request, request(&later));
}

pub async fn an_adopted_job_past_its_deadline_is_handed_over(lab: Lab) {
    let mut late = adhoc(0);
    late.options.deadline = Some(now() - LONG);
    let verdicts = lab.store.admit(lab.worker(LONG).await, vec![stranger(&late)]).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Expired(_)]), "{verdicts:?}");
}

pub async fn a_message_adopted_into_a_cancelled_batch_is_cancelled(lab: Lab) {
    let submitted = lab.submitted("sweep", 0).await;
    let late = job(submitted.id, 0);
    let running = lab.submitted("other", 1).await;
    lab.store.cancel(running.id).await.unwrap();
    let worker = lab.worker(LONG).await;
    let stray = Job { id: JobId::derive(BatchId::new(now()), 5), ..job(running.id, 1) };
    let verdicts = lab.store.admit(worker, vec![stranger(&late), stranger(&stray)]).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Run(_), Verdict::Cancelled(_)]), "{verdicts:?}");
    let result =
        ended(gristmill_common::outcome::Status::Cancelled, gristmill_common::failure::ErrorClass::Cancelled, "stop");
    lab.store.flush(worker, &[settle(&reference(&stray, 1), result)]).await.unwrap();
    lab.close_cancelled(100).await;
    let batch = lab.batch(running.id).await;
    assert_eq!((batch.total, batch.counters.cancelled, batch.state), (Some(2), 2, BatchState::Cancelled));
}

/// The ordinal of the next line is not moved by a stranger's job, else a producer that goes on would leave out a line.
pub async fn adoption_into_a_batch_that_is_submitted_leaves_its_ordinals(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 2).await;
    let worker = lab.worker(LONG).await;
    let stray = Job { id: JobId::derive(BatchId::new(now()), 9), ..job(submitted.id, 0) };
    lab.store.admit(worker, vec![stranger(&stray)]).await.unwrap();
    lab.store.leave(submitted.id, producer).await.unwrap();
    let next = owner();
    let Opened::Resumed(batch) = lab.store.open_batch(&new_batch("sweep", next), LONG).await.unwrap() else {
        panic!("nobody holds it")
    };
    assert_eq!(batch.recorded, 2, "the next line is line 2");
    let more = jobs(submitted.id, 2..3);
    assert_eq!(lab.store.record(chunk(next, &more, 2)).await.unwrap(), Recorded::Committed);
    lab.store.seal(submitted.id, next).await.unwrap();
    assert_eq!(lab.batch(submitted.id).await.total, Some(4));
    lab.store.flush(worker, &[settle(&reference(&stray, 1), success("stray"))]).await.unwrap();
    lab.ended(worker, &submitted.jobs, &success("first")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Running);
    lab.ended(worker, &more, &success("last")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
}
