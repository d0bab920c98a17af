//! What producers do: open, record, seal, leave, defer.

use std::time::Duration;

use gristmill_common::batch::BatchState;
use gristmill_common::id::JobId;
use gristmill_common::store::{BatchSelector, Chunk, Error, Opened, Recorded, Sealed, Verdict};

use super::{
    LONG, Lab, SHORT, SOON, arrivals, chunk, eventually, job, jobs, new_batch, now, owner, reference, success,
};

pub async fn a_new_batch_is_held_by_its_producer(lab: Lab) {
    let new = new_batch("sweep", owner());
    let Opened::Created(batch) = lab.store.open_batch(&new, LONG).await.unwrap() else { panic!("must be new") };
    assert_eq!((batch.id, batch.name.as_str(), batch.project.as_deref()), (new.id, "sweep", Some("suite")));
    assert_eq!((batch.priority, batch.simulated), (new.priority, false));
    assert_eq!((batch.recorded, batch.published_through, batch.total), (0, 0, None));
    assert_eq!((batch.created_at, batch.state), (new.created_at, BatchState::Submitting));
    assert_eq!(lab.batch(new.id).await, batch);
}

pub async fn a_batch_of_a_live_producer_is_busy_for_others(lab: Lab) {
    let first = owner();
    let submitted = lab.recorded("sweep", first, 3).await;
    let opened = lab.other.open_batch(&new_batch("sweep", owner()), LONG).await.unwrap();
    assert!(matches!(&opened, Opened::Busy(batch) if batch.id == submitted.id && batch.recorded == 3), "{opened:?}");
    // Its own producer may open it again: an earlier answer may have been lost.
    let opened = lab.other.open_batch(&new_batch("sweep", first), LONG).await.unwrap();
    assert!(matches!(&opened, Opened::Resumed(batch) if batch.id == submitted.id), "{opened:?}");
}

pub async fn two_producers_that_open_one_name_at_once_get_one_batch(lab: Lab) {
    for round in 0..20 {
        let name = format!("sweep-{round}");
        let (a, b) = (new_batch(&name, owner()), new_batch(&name, owner()));
        let (a, b) = tokio::join!(lab.store.open_batch(&a, LONG), lab.other.open_batch(&b, LONG));
        let (created, busy) = match (a.unwrap(), b.unwrap()) {
            (Opened::Created(created), Opened::Busy(busy)) | (Opened::Busy(busy), Opened::Created(created)) => {
                (created, busy)
            }
            other => panic!("one must be created and one busy: {other:?}"),
        };
        assert_eq!(created.id, busy.id);
    }
}

pub async fn a_batch_whose_producers_lease_ended_is_taken_up_where_it_stands(lab: Lab) {
    let first = owner();
    let submitted = lab.recorded("sweep", first, 0).await;
    let three = jobs(submitted.id, 0..3);
    let short = Chunk { producer_ttl: SHORT, published_through: 2, ..chunk(first, &three, 0) };
    assert_eq!(lab.store.record(short).await.unwrap(), Recorded::Committed);
    let second = owner();
    let batch = eventually("the lease ends", || async {
        match lab.other.open_batch(&new_batch("sweep", second), LONG).await.unwrap() {
            Opened::Resumed(batch) => Some(batch),
            Opened::Busy(_) => None,
            Opened::Created(batch) => panic!("it exists: {batch:?}"),
        }
    })
    .await;
    assert_eq!((batch.id, batch.recorded, batch.published_through), (submitted.id, 3, 2));
    assert_eq!(batch.state, BatchState::Submitting);
    // The first producer has lost it, and cannot end it either.
    let more = jobs(submitted.id, 3..4);
    assert_eq!(lab.store.record(chunk(first, &more, 3)).await.unwrap(), Recorded::LostProducer);
    assert_eq!(lab.store.seal(submitted.id, first).await.unwrap(), Sealed::LostProducer);
    lab.store.leave(submitted.id, first).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.recorded, batch.total, batch.state), (3, None, BatchState::Submitting));
    assert_eq!(lab.other.record(chunk(second, &more, 3)).await.unwrap(), Recorded::Committed);
}

pub async fn a_batch_without_a_producer_is_interrupted(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 2).await;
    lab.store.leave(submitted.id, producer).await.unwrap();
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Interrupted);
    let opened = lab.other.open_batch(&new_batch("sweep", owner()), LONG).await.unwrap();
    assert!(matches!(&opened, Opened::Resumed(batch) if batch.recorded == 2), "{opened:?}");
}

pub async fn renewing_keeps_a_batch(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 0).await;
    lab.store.renew_producer(submitted.id, producer, SHORT).await.unwrap();
    lab.store.renew_producer(submitted.id, producer, LONG).await.unwrap();
    // A stranger's renewal changes nothing.
    lab.store.renew_producer(submitted.id, owner(), Duration::ZERO).await.unwrap();
    tokio::time::sleep(2 * SHORT).await;
    let opened = lab.other.open_batch(&new_batch("sweep", owner()), LONG).await.unwrap();
    assert!(matches!(opened, Opened::Busy(_)), "{opened:?}");
}

pub async fn simulated_and_real_answers_do_not_share_a_batch(lab: Lab) {
    lab.submitted("sweep", 1).await;
    let mut simulated = new_batch("sweep", owner());
    simulated.simulated = true;
    let error = lab.store.open_batch(&simulated, LONG).await.unwrap_err();
    assert!(matches!(&error, Error::Conflict(text) if text.contains("sweep")), "{error}");
}

pub async fn recording_a_chunk_again_changes_nothing(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 0).await;
    let five = jobs(submitted.id, 0..5);
    for _ in 0..2 {
        let chunk = Chunk { published_through: 4, ..chunk(producer, &five, 0) };
        assert_eq!(lab.store.record(chunk).await.unwrap(), Recorded::Committed);
        let batch = lab.batch(submitted.id).await;
        assert_eq!((batch.recorded, batch.published_through, batch.total), (5, 4, None));
    }
    // One that overlaps records what is new; `published_through` stays.
    let overlapping = jobs(submitted.id, 3..7);
    assert_eq!(lab.store.record(chunk(producer, &overlapping, 3)).await.unwrap(), Recorded::Committed);
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.recorded, batch.published_through), (7, 4));
    assert_eq!(lab.store.identities(submitted.id, None, 100).await.unwrap().len(), 7);
}

pub async fn a_large_chunk_is_recorded_whole(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 1237).await;
    assert_eq!(lab.batch(submitted.id).await.recorded, 1237);
    let identities = lab.store.identities(submitted.id, None, 2000).await.unwrap();
    let expected: Vec<_> = submitted.jobs.iter().map(|job| (job.id, job.identity(false))).collect();
    assert_eq!(identities, expected);
}

pub async fn a_cancelled_batch_records_nothing_more(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 1).await;
    assert!(lab.other.cancel(submitted.id).await.unwrap());
    let more = jobs(submitted.id, 1..2);
    assert_eq!(lab.store.record(chunk(producer, &more, 1)).await.unwrap(), Recorded::Cancelled);
    assert_eq!(lab.batch(submitted.id).await.recorded, 1);
}

pub async fn a_job_for_later_waits_in_its_live_row(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 0).await;
    let mut two = jobs(submitted.id, 0..2);
    two[1].options.not_before = Some(now() + SOON);
    assert_eq!(lab.store.record(chunk(producer, &two, 0)).await.unwrap(), Recorded::Committed);
    assert_eq!(lab.store.progress(submitted.id).await.unwrap().waiting, 1);
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, arrivals(&two)).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Run(_), Verdict::Waiting]), "{verdicts:?}");
    assert_eq!(lab.due(1).await, [reference(&two[1], 1)]);
    lab.ended(worker, &two[1..], &success("later")).await;
    // The producer did not hear that its chunk was recorded and repeats it: what has ended does not come back.
    assert_eq!(lab.store.record(chunk(producer, &two, 0)).await.unwrap(), Recorded::Committed);
    assert_eq!(lab.store.progress(submitted.id).await.unwrap().waiting, 0);
    let verdicts = lab.store.admit(worker, arrivals(&two[1..])).await.unwrap();
    assert_eq!(verdicts, [Verdict::Done]);
}

pub async fn what_is_published_never_goes_back(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 0).await;
    let ten = jobs(submitted.id, 0..10);
    lab.store.record(chunk(producer, &ten, 0)).await.unwrap();
    for (through, expected) in [(6, 6), (3, 6), (8, 8)] {
        lab.store.mark_published(submitted.id, through).await.unwrap();
        assert_eq!(lab.batch(submitted.id).await.published_through, expected);
    }
}

pub async fn sealing_says_the_total(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 4).await;
    // The second time as if the first one's answer had been lost.
    for _ in 0..2 {
        assert_eq!(lab.store.seal(submitted.id, producer).await.unwrap(), Sealed::Committed);
        let batch = lab.batch(submitted.id).await;
        assert_eq!((batch.total, batch.published_through, batch.state), (Some(4), 4, BatchState::Running));
    }
}

pub async fn a_seal_of_whoever_was_replaced_says_so_unless_the_batch_is_sealed(lab: Lab) {
    let (first, second) = (owner(), owner());
    let submitted = lab.recorded("sweep", first, 2).await;
    lab.store.leave(submitted.id, first).await.unwrap();
    // Free again after another producer was there.
    assert_eq!(lab.store.seal(submitted.id, first).await.unwrap(), Sealed::LostProducer);
    assert_eq!(lab.batch(submitted.id).await.total, None);
    let opened = lab.other.open_batch(&new_batch("sweep", second), LONG).await.unwrap();
    assert!(matches!(opened, Opened::Resumed(_)), "{opened:?}");
    assert_eq!(lab.store.seal(submitted.id, first).await.unwrap(), Sealed::LostProducer);
    assert_eq!(lab.other.seal(submitted.id, second).await.unwrap(), Sealed::Committed);
    // All that the first one recorded is in the total.
    assert_eq!(lab.store.seal(submitted.id, first).await.unwrap(), Sealed::Committed);
    let unknown = new_batch("other", first).id;
    assert_eq!(lab.store.seal(unknown, first).await.unwrap(), Sealed::LostProducer);
}

pub async fn an_empty_batch_is_finished_when_sealed(lab: Lab) {
    let submitted = lab.submitted("sweep", 0).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.total, batch.state), (Some(0), BatchState::Finished));
    assert!(batch.finished_at.is_some());
}

pub async fn sealing_after_the_last_result_finishes(lab: Lab) {
    let producer = owner();
    let submitted = lab.recorded("sweep", producer, 2).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &success("early")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Submitting);
    lab.store.seal(submitted.id, producer).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.state, batch.counters.succeeded), (BatchState::Finished, 2));
}

pub async fn a_sealed_batch_can_be_taken_up_and_grow(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &success("first")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    let producer = owner();
    let Opened::Resumed(batch) = lab.store.open_batch(&new_batch("sweep", producer), LONG).await.unwrap() else {
        panic!("nobody holds it")
    };
    // Nothing new yet: it stays finished, also when the old lines are recorded again.
    assert_eq!((batch.recorded, batch.total), (2, Some(2)));
    lab.store.record(chunk(producer, &submitted.jobs, 0)).await.unwrap();
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
    let more = jobs(submitted.id, 2..3);
    lab.store.record(chunk(producer, &more, 2)).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.total, batch.state, batch.finished_at), (None, BatchState::Submitting, None));
    lab.store.seal(submitted.id, producer).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.total, batch.state), (Some(3), BatchState::Running));
    lab.ended(worker, &more, &success("second")).await;
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
}

pub async fn taking_up_a_finished_batch_and_sealing_it_again_changes_nothing(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &success("done")).await;
    let before = lab.batch(submitted.id).await;
    let producer = owner();
    lab.store.open_batch(&new_batch("sweep", producer), LONG).await.unwrap();
    lab.store.seal(submitted.id, producer).await.unwrap();
    assert_eq!(lab.batch(submitted.id).await, before);
}

pub async fn identities_are_read_in_pages(lab: Lab) {
    let submitted = lab.submitted("sweep", 7).await;
    let mut read = Vec::new();
    loop {
        let page = lab.store.identities(submitted.id, read.last().map(|(id, _)| *id), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    let expected: Vec<_> = submitted.jobs.iter().map(|job| (job.id, job.identity(false))).collect();
    assert_eq!(read, expected);
}

pub async fn jobs_are_asked_for_their_names(lab: Lab) {
    let submitted = lab.submitted("sweep", 7).await;
    let unrecorded = JobId::derive(submitted.id, 9);
    let asked = [unrecorded, submitted.jobs[5].id, submitted.jobs[2].id];
    assert_eq!(lab.store.custom_ids(submitted.id, &asked).await.unwrap(), ["line-2", "line-5"]);
    assert!(lab.store.custom_ids(submitted.id, &[]).await.unwrap().is_empty());
}

pub async fn the_identity_of_a_simulated_job_differs(lab: Lab) {
    let producer = owner();
    let mut new = new_batch("sweep", producer);
    new.simulated = true;
    lab.store.open_batch(&new, LONG).await.unwrap();
    let one = [job(new.id, 0)];
    lab.store.record(Chunk { simulated: true, ..chunk(producer, &one, 0) }).await.unwrap();
    let read = lab.store.identities(new.id, None, 10).await.unwrap();
    assert_eq!(read, [(JobId::derive(new.id, 0), one[0].identity(true))]);
}

pub async fn deferred_jobs_wait_and_others_are_left_alone(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs[..1], &success("done")).await;
    let held = lab.admitted(worker, &submitted.jobs[1..2]).await;
    lab.store.defer(&submitted.refs(), LONG, "queue full").await.unwrap();
    let progress = lab.store.progress(submitted.id).await.unwrap();
    assert_eq!((progress.held, progress.waiting), (1, 1));
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!(verdicts, [Verdict::Done, Verdict::Held, Verdict::Waiting]);
    // A repeated call does not move the time.
    lab.store.defer(&submitted.refs(), Duration::ZERO, "queue full").await.unwrap();
    assert!(lab.store.due(10).await.unwrap().is_empty());
    assert_eq!(held, [reference(&submitted.jobs[1], 1)]);
}

pub async fn a_deferred_job_becomes_due(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    lab.store.defer(&submitted.refs(), SHORT, "queue full").await.unwrap();
    assert_eq!(lab.due(2).await.len(), 2);
    let worker = lab.worker(LONG).await;
    assert_eq!(lab.admitted(worker, &submitted.jobs).await, submitted.refs());
}

pub async fn an_unknown_batch_is_none(lab: Lab) {
    let id = new_batch("sweep", owner()).id;
    for selector in [
        BatchSelector::Id(id),
        BatchSelector::Name("sweep".to_owned()),
        BatchSelector::IdPrefix(id.to_string()[..13].to_owned()),
        BatchSelector::Last,
    ] {
        assert_eq!(lab.store.batch(&selector).await.unwrap(), None, "{selector:?}");
    }
    assert!(lab.store.batches(10).await.unwrap().is_empty());
    assert!(!lab.store.cancel(id).await.unwrap());
}
