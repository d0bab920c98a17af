//! What the keeper does: its lease, dead owners, due runs, vanished producers, repair.

use std::time::Duration;

use gristmill_common::batch::BatchState;
use gristmill_common::failure::ErrorClass;
use gristmill_common::id::JobId;
use gristmill_common::outcome::Status;
use gristmill_common::store::{Chunk, Keepership, Opened, Verdict};

use super::{
    LONG, Lab, SHORT, arrivals, chunk, eventually, failure, jobs, new_batch, owner, reference, success, ticket, wake,
};

fn is_held(keepership: Keepership) -> bool {
    matches!(keepership, Keepership::Held { .. })
}

pub async fn there_is_one_keeper_until_its_lease_ends(lab: Lab) {
    let (first, second) = (owner(), owner());
    assert!(is_held(lab.store.keep(first, LONG).await.unwrap()));
    assert!(!is_held(lab.other.keep(second, LONG).await.unwrap()));
    assert!(is_held(lab.store.keep(first, SHORT).await.unwrap()));
    eventually("its lease ends", || async { is_held(lab.other.keep(second, LONG).await.unwrap()).then_some(()) }).await;
    assert!(!is_held(lab.store.keep(first, LONG).await.unwrap()));
}

pub async fn a_keeper_that_gives_its_lease_up_is_followed_at_once(lab: Lab) {
    let (first, second) = (owner(), owner());
    assert!(is_held(lab.store.keep(first, LONG).await.unwrap()));
    // Nobody else can give it up.
    assert!(!is_held(lab.other.keep(second, Duration::ZERO).await.unwrap()));
    assert!(!is_held(lab.other.keep(second, LONG).await.unwrap()));
    lab.store.keep(first, Duration::ZERO).await.unwrap();
    assert!(is_held(lab.other.keep(second, LONG).await.unwrap()));
}

pub async fn two_that_ask_at_once_are_not_both_keeper(lab: Lab) {
    for _ in 0..10 {
        let (a, b) = (owner(), owner());
        let (left, right) = tokio::join!(lab.store.keep(a, LONG), lab.other.keep(b, LONG));
        let (left, right) = (is_held(left.unwrap()), is_held(right.unwrap()));
        assert!(left != right, "one of the two");
        lab.store.keep(if left { a } else { b }, Duration::ZERO).await.unwrap();
    }
}

pub async fn runs_of_a_dead_owner_are_due_at_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 5).await;
    let (dying, alive) = (lab.worker(SHORT).await, lab.worker(LONG).await);
    let held = lab.admitted(dying, &submitted.jobs[..3]).await;
    lab.admitted(alive, &submitted.jobs[3..]).await;
    assert_eq!(lab.buried(5).await, (3, 0));
    let mut due = lab.due(3).await;
    due.sort_unstable_by_key(|job| job.id);
    assert_eq!(due, held);
    let progress = lab.store.progress(submitted.id).await.unwrap();
    assert_eq!(progress.held, 2);
    let verdicts = lab.store.admit(alive, arrivals(&submitted.jobs[..3])).await.unwrap();
    assert!(verdicts.iter().all(|verdict| ticket(verdict).calls == 0));
    assert_eq!(lab.store.bury(5, 100).await.unwrap(), Default::default());
}

pub async fn a_job_on_which_too_many_owners_died_fails(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    for death in 1..=3 {
        let dying = lab.worker(SHORT).await;
        lab.admitted(dying, &submitted.jobs[..1]).await;
        if death > 1 {
            assert!(lab.store.calling(dying, submitted.jobs[0].id, None).await.unwrap());
        }
        let (returned, poisoned) = lab.buried(3).await;
        assert_eq!((returned, poisoned), if death < 3 { (1, 0) } else { (0, 1) }, "death {death}");
        if death < 3 {
            lab.due(1).await;
        }
    }
    let rows = lab.rows(submitted.id, 1).await;
    let error = rows[0].result.error.as_ref().expect("it says why");
    assert_eq!((rows[0].result.status, &error.class), (Status::Failed, &ErrorClass::WorkerCrashed));
    assert!(error.message.contains('3'), "{}", error.message);
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.failed, batch.state), (1, BatchState::Running));
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs)).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Done, Verdict::Run(_)]), "{verdicts:?}");
    // A new run begins without deaths.
    lab.retried(submitted.id, &[Status::Failed], 10).await;
    let dying = lab.worker(SHORT).await;
    lab.admitted(dying, &submitted.jobs[..1]).await;
    assert_eq!(lab.buried(3).await, (1, 0));
}

pub async fn a_job_that_dead_owners_held_and_did_not_call_counts_one_death(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    for death in 1..=4 {
        let dying = lab.worker(SHORT).await;
        let verdicts = lab.store.admit(dying, arrivals(&submitted.jobs)).await.unwrap();
        let deaths: Vec<u32> = verdicts.iter().map(|verdict| ticket(verdict).deaths).collect();
        assert_eq!(deaths, if death == 1 { [0, 0] } else { [1, 1] });
        assert_eq!(lab.buried(3).await, (2, 0));
        lab.due(2).await;
    }
    // One of them is called when its owner dies, and then again.
    for death in 2..=3 {
        let dying = lab.worker(SHORT).await;
        lab.admitted(dying, &submitted.jobs).await;
        assert!(lab.store.calling(dying, submitted.jobs[1].id, None).await.unwrap());
        assert!(!lab.other.calling(owner(), submitted.jobs[1].id, None).await.unwrap(), "nobody else holds it");
        assert_eq!(lab.buried(3).await, if death == 2 { (2, 0) } else { (1, 1) });
        lab.due(if death == 2 { 2 } else { 1 }).await;
    }
    assert_eq!(lab.rows(submitted.id, 1).await[0].job_id, submitted.jobs[1].id);
}

pub async fn burying_goes_in_bounded_steps(lab: Lab) {
    let submitted = lab.submitted("sweep", 25).await;
    let dying = lab.worker(SHORT).await;
    lab.admitted(dying, &submitted.jobs).await;
    let first = eventually("it is declared dead", || async {
        let burial = lab.store.bury(5, 10).await.unwrap();
        (burial.owners > 0).then_some(burial)
    })
    .await;
    assert_eq!((first.owners, first.returned, first.more), (1, 10, true));
    let mut returned = first.returned;
    while lab.store.progress(submitted.id).await.unwrap().held > 0 {
        let burial = lab.store.bury(5, 10).await.unwrap();
        assert!(burial.owners == 0 && burial.returned > 0 && burial.returned <= 10, "{burial:?}");
        returned += burial.returned;
    }
    assert_eq!(returned, 25);
    assert!(!lab.store.bury(5, 10).await.unwrap().more);
}

pub async fn due_runs_come_soonest_first(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let waits = [60, 0, 30, 600_000].map(Duration::from_millis);
    let settlements: Vec<_> = held.iter().zip(waits).map(|(job, after)| wake(job, after)).collect();
    lab.store.flush(worker, &settlements).await.unwrap();
    let due = eventually("three are due", || async {
        let due = lab.store.due(10).await.unwrap();
        (due.len() == 3).then_some(due)
    })
    .await;
    let order: Vec<_> = due.iter().map(|due| due.job.clone()).collect();
    assert_eq!(order, [held[1].clone(), held[2].clone(), held[0].clone()]);
    let first = lab.store.due(2).await.unwrap();
    assert_eq!(first, due[..2]);
    lab.store.mark_queued(&first).await.unwrap();
    assert_eq!(lab.store.due(10).await.unwrap(), due[2..]);
    lab.store.mark_queued(&[]).await.unwrap();
}

pub async fn a_run_that_moved_on_is_not_marked_as_queued(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let now: Vec<_> = held.iter().map(|job| wake(job, Duration::ZERO)).collect();
    lab.store.flush(worker, &now).await.unwrap();
    let due = eventually("they are due", || async {
        let due = lab.store.due(10).await.unwrap();
        (due.len() == 3).then_some(due)
    })
    .await;
    // Meanwhile one is taken by a copy of its message, and another was taken and waits again.
    lab.admitted(worker, &submitted.jobs[..2]).await;
    lab.store.flush(worker, &[wake(&held[1], LONG)]).await.unwrap();
    lab.store.mark_queued(&due).await.unwrap();
    let progress = lab.store.progress(submitted.id).await.unwrap();
    assert_eq!((progress.held, progress.waiting), (1, 1));
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Held, Verdict::Waiting, Verdict::Run(_)]), "{verdicts:?}");
}

pub async fn jobs_of_a_vanished_producer_are_published_in_steps(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 0).await;
    let ten = jobs(submitted.id, 0..10);
    let worker = lab.worker(LONG).await;
    lab.store.record(Chunk { published_through: 2, ..chunk(producer, &ten, 0) }).await.unwrap();
    assert_eq!(lab.store.unpublished(100).await.unwrap(), None, "its producer lives");
    lab.admitted(worker, &ten[3..4]).await;
    lab.ended(worker, &ten[4..5], &success("already")).await;
    lab.store.defer(&[reference(&ten[5], 1)], LONG, "queue full").await.unwrap();
    lab.store.renew_producer(submitted.id, producer, SHORT).await.unwrap();
    let found = eventually("its lease ends", || async { lab.other.unpublished(5).await.unwrap() }).await;
    assert_eq!((found.batch, found.through), (submitted.id, 7));
    assert_eq!(found.jobs, [2, 6].map(|n: usize| reference(&ten[n], 1)));
    lab.other.mark_published(found.batch, found.through).await.unwrap();
    let found = lab.other.unpublished(5).await.unwrap().expect("three are left");
    assert_eq!((found.jobs.len(), found.through), (3, 10));
    lab.other.mark_published(found.batch, found.through).await.unwrap();
    assert_eq!(lab.other.unpublished(5).await.unwrap(), None);
    // The batch stays open for its producer.
    let opened = lab.store.open_batch(&new_batch("sweep", owner()), LONG).await.unwrap();
    assert!(matches!(&opened, Opened::Resumed(batch) if batch.recorded == 10), "{opened:?}");
}

pub async fn jobs_of_a_cancelled_batch_are_not_published(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 0).await;
    let three = jobs(submitted.id, 0..3);
    lab.store.record(chunk(producer, &three, 0)).await.unwrap();
    lab.store.leave(submitted.id, producer).await.unwrap();
    lab.store.cancel(submitted.id).await.unwrap();
    assert_eq!(lab.store.unpublished(10).await.unwrap(), None);
}

pub async fn unfinished_jobs_are_found_in_pages(lab: Lab) {
    let submitted = lab.submitted("sweep", 12).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..3], &success("ok")).await;
    lab.ended(worker, &submitted.jobs[3..4], &failure("no")).await;
    lab.admitted(worker, &submitted.jobs[4..6]).await;
    lab.store.defer(&submitted.refs()[6..7], LONG, "queue full").await.unwrap();
    let (mut found, mut after, mut pages): (Vec<_>, Option<JobId>, _) = (Vec::new(), None, 0);
    loop {
        let (jobs, next) = lab.store.unfinished(submitted.id, after, 5).await.unwrap();
        found.extend(jobs);
        pages += 1;
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, submitted.refs()[7..]);
    assert!(pages <= 4, "{pages}");
}

pub async fn what_was_queued_and_lost_is_due_again(lab: Lab) {
    let (submitted, other) = (lab.submitted("sweep", 4).await, lab.submitted("other", 1).await);
    lab.store.defer(&submitted.refs()[..3], Duration::ZERO, "queue full").await.unwrap();
    lab.store.defer(&other.refs(), Duration::ZERO, "queue full").await.unwrap();
    lab.due(4).await;
    let worker = lab.worker(LONG).await;
    lab.admitted(worker, &submitted.jobs[..1]).await;
    assert_eq!(lab.store.requeue(submitted.id).await.unwrap(), 2);
    assert_eq!(lab.store.requeue(submitted.id).await.unwrap(), 0);
    let mut due = lab.due(2).await;
    due.sort_unstable_by_key(|job| job.id);
    assert_eq!(due, submitted.refs()[1..3]);
}
