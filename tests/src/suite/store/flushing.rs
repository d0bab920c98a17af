//! What is written when runs end or wait.

use std::sync::Arc;
use std::time::Duration;

use gristmill_common::batch::BatchState;
use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::{AttemptRecord, Status, Usage};
use gristmill_common::store::{End, Flushed, Settlement, Verdict};

use super::{
    LONG, Lab, SHORT, SOON, arrivals, attempt, ended, failure, now, owner, reference, settle, success, ticket, wake,
};

pub async fn a_batch_finishes_with_its_last_result(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let first = [settle(&held[0], success("a")), settle(&held[1], failure("b"))];
    let flushed = lab.store.flush(worker, &first).await.unwrap();
    assert_eq!(flushed, Flushed { results: 2, attempts: 2, ..Flushed::default() });
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.state, batch.finished_at), (BatchState::Running, None));
    lab.store.flush(worker, &[settle(&held[2], success("c"))]).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.state, batch.counters.succeeded, batch.counters.failed), (BatchState::Finished, 2, 1));
    assert!(batch.finished_at.is_some_and(|at| (at - now()).abs() < chrono::TimeDelta::seconds(60)));
    assert_eq!(lab.store.progress(submitted.id).await.unwrap().held, 0);
    lab.rows(submitted.id, 3).await;
}

pub async fn counters_say_what_the_attempts_used(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let free = AttemptRecord { usage: Usage::default(), cost_pico_usd: None, ..attempt(1) };
    let settlements = [
        Settlement {
            job: held[0].clone(),
            tags: Arc::default(),
            spends: None,
            attempts: vec![free.clone(), attempt(2), attempt(3)],
            caching: None,
            end: End::Result(Box::new(success("a"))),
        },
        wake(&held[1], LONG),
    ];
    let flushed = lab.store.flush(worker, &settlements).await.unwrap();
    assert_eq!(flushed, Flushed { results: 1, waiting: 1, attempts: 4, ..Flushed::default() });
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.calls, batch.input_tokens, batch.output_tokens), (4, 300, 30));
    assert_eq!(batch.cost_pico_usd, Some(4_500_000));

    let unknown = lab.submitted("unknown", 1).await;
    assert_eq!(lab.batch(unknown.id).await.cost_pico_usd, Some(0), "nothing was called");
    let held = lab.admitted(worker, &unknown.jobs).await;
    let settlement = Settlement {
        job: held[0].clone(),
        tags: Arc::default(),
        spends: None,
        attempts: vec![free],
        caching: None,
        end: End::Result(Box::new(success("a"))),
    };
    lab.store.flush(worker, &[settlement]).await.unwrap();
    assert_eq!(lab.batch(unknown.id).await.cost_pico_usd, None, "no call told what it cost");
}

pub async fn a_repeated_flush_changes_nothing(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements = [settle(&held[0], success("a")), settle(&held[1], failure("b")), wake(&held[2], Duration::ZERO)];
    lab.store.flush(worker, &settlements).await.unwrap();
    let (batch, rows) = (lab.batch(submitted.id).await, lab.rows(submitted.id, 2).await);
    for store in [&lab.store, &lab.other] {
        let flushed = store.flush(worker, &settlements).await.unwrap();
        assert_eq!(flushed, Flushed { lost: 3, ..Flushed::default() });
    }
    assert_eq!(lab.batch(submitted.id).await, batch);
    assert_eq!(lab.rows(submitted.id, 2).await, rows);
    assert_eq!(lab.due(1).await, [held[2].clone()]);
}

pub async fn a_group_that_is_partly_written_adds_the_rest(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    lab.store.flush(worker, &[wake(&held[0], Duration::ZERO)]).await.unwrap();
    lab.due(1).await;
    lab.admitted(worker, &submitted.jobs[..1]).await;
    let first = Settlement { attempts: vec![attempt(1), attempt(2)], ..settle(&held[0], success("a")) };
    let second = settle(&held[1], success("b"));
    // The first attempt is kept already, and the second settlement comes twice.
    let flushed = lab.store.flush(worker, &[first, second.clone(), second]).await.unwrap();
    assert_eq!(flushed, Flushed { results: 2, attempts: 2, lost: 1, ..Flushed::default() });
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.calls, batch.counters.succeeded, batch.state), (3, 2, BatchState::Finished));
    lab.rows(submitted.id, 2).await;
}

pub async fn two_concurrent_flushes_of_one_group_write_it_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 120).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements: Vec<_> = held.iter().map(|job| settle(job, success("once"))).collect();
    let backwards: Vec<_> = settlements.iter().rev().cloned().collect();
    let (a, b) = tokio::join!(lab.store.flush(worker, &settlements), lab.other.flush(worker, &backwards));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.results + b.results, a.lost + b.lost, a.attempts + b.attempts), (120, 120, 120));
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.calls), (120, 120));
    lab.rows(submitted.id, 120).await;
}

pub async fn flushes_of_two_workers_into_shared_batches_do_not_block_each_other(lab: Lab) {
    let (first, second) = (lab.submitted("first", 200).await, lab.submitted("second", 200).await);
    let (a, b) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let mut group_a = lab.admitted(a, &first.jobs[..100]).await;
    group_a.extend(lab.admitted(a, &second.jobs[..100]).await);
    let mut group_b = lab.admitted(b, &second.jobs[100..]).await;
    group_b.extend(lab.admitted(b, &first.jobs[100..]).await);
    let flush = |store: &std::sync::Arc<dyn gristmill_common::store::Store>, owner, held: Vec<_>| {
        let store = std::sync::Arc::clone(store);
        async move {
            for part in held.chunks(20) {
                let settlements: Vec<_> = part.iter().map(|job| settle(job, success("ok"))).collect();
                assert_eq!(store.flush(owner, &settlements).await.unwrap().results, 20);
            }
        }
    };
    tokio::join!(flush(&lab.store, a, group_a), flush(&lab.other, b, group_b));
    for id in [first.id, second.id] {
        let batch = lab.batch(id).await;
        assert_eq!((batch.counters.succeeded, batch.state), (200, BatchState::Finished));
    }
}

pub async fn a_large_group_is_flushed_whole(lab: Lab) {
    let submitted = lab.submitted("sweep", 777).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements: Vec<_> = held
        .iter()
        .map(|job| match job.id.ordinal() % 3 {
            0 => settle(job, success("yes")),
            1 => settle(job, failure("no")),
            _ => wake(job, LONG),
        })
        .collect();
    let flushed = lab.store.flush(worker, &settlements).await.unwrap();
    assert_eq!((flushed.results, flushed.waiting, flushed.attempts), (518, 259, 777));
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.failed, batch.calls), (259, 259, 777));
    assert_eq!(lab.store.progress(submitted.id).await.unwrap().waiting, 259);
    lab.rows(submitted.id, 518).await;
}

pub async fn nothing_to_flush_is_no_work(lab: Lab) {
    assert_eq!(lab.store.flush(owner(), &[]).await.unwrap(), Flushed::default());
}

pub async fn a_dead_owners_late_flush_is_lost_but_its_attempts_are_kept(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let dying = lab.worker(SHORT).await;
    let held = lab.admitted(dying, &submitted.jobs).await;
    assert_eq!(lab.buried(5).await, (1, 0));
    let late = [settle(&held[0], success("too late"))];
    assert_eq!(lab.store.flush(dying, &late).await.unwrap(), Flushed { attempts: 1, lost: 1, ..Flushed::default() });
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.calls, batch.cost_pico_usd, batch.counters.done()), (1, Some(1_500_000), 0));
    // Another owner makes the same call once more: both were made, both are kept.
    lab.due(1).await;
    let worker = lab.worker(LONG).await;
    lab.ended(worker, &submitted.jobs, &success("in time")).await;
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.calls, batch.cost_pico_usd, batch.counters.succeeded), (2, Some(3_000_000), 1));
    let rows = lab.rows(submitted.id, 1).await;
    assert_eq!(rows[0].result.output_text.as_deref(), Some("in time"));
    assert_eq!(lab.store.flush(dying, &late).await.unwrap(), Flushed { lost: 1, ..Flushed::default() });
    assert_eq!(lab.batch(submitted.id).await, batch);
}

pub async fn a_stranger_cannot_end_what_it_does_not_hold(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs[..1]).await;
    let never_admitted = reference(&submitted.jobs[1], 1);
    let forged = [settle(&held[0], success("forged")), wake(&never_admitted, Duration::ZERO)];
    let flushed = lab.store.flush(owner(), &forged).await.unwrap();
    assert_eq!((flushed.lost, flushed.results, flushed.waiting), (2, 0, 0));
    assert_eq!(lab.batch(submitted.id).await.counters.done(), 0);
    assert_eq!(lab.admitted(worker, &submitted.jobs).await.len(), 2);
}

pub async fn a_settlement_of_an_earlier_run_is_lost(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let first = lab.admitted(worker, &submitted.jobs).await;
    let failed = [settle(&first[0], failure("no"))];
    lab.store.flush(worker, &failed).await.unwrap();
    assert_eq!(lab.retried(submitted.id, &[Status::Failed], 10).await, 1);
    let second = lab.admitted(worker, &submitted.jobs).await;
    assert_eq!(second[0].run, 2);
    // The same owner holds the job again, in another run: the repeated flush does not end that one.
    assert_eq!(lab.store.flush(worker, &failed).await.unwrap(), Flushed { lost: 1, ..Flushed::default() });
    assert_eq!(lab.store.progress(submitted.id).await.unwrap().held, 1);
    lab.store.flush(worker, &[settle(&second[0], success("yes"))]).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.counters.succeeded, batch.counters.failed, batch.calls), (1, 0, 2));
    let runs: Vec<_> = lab.rows(submitted.id, 2).await.iter().map(|row| (row.run, row.result.status)).collect();
    assert_eq!(runs, [(1, Status::Failed), (2, Status::Succeeded)]);
}

pub async fn a_wake_up_is_no_later_than_the_deadline(lab: Lab) {
    let submitted = lab
        .submitted_with("sweep", 2, |ordinal, job| {
            job.options.deadline = Some(now() + if ordinal == 0 { SOON } else { LONG });
        })
        .await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    lab.store.flush(worker, &[wake(&held[0], LONG / 2), wake(&held[1], LONG / 2)]).await.unwrap();
    assert_eq!(lab.due(1).await, [held[0].clone()]);
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs)).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Expired(_), Verdict::Waiting]), "{verdicts:?}");
}

pub async fn a_wait_longer_than_any_calendar_is_no_error(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let ages = Duration::from_secs(3600 * 24 * 365 * 100);
    assert_eq!(lab.store.flush(worker, &[wake(&held[0], ages)]).await.unwrap().waiting, 1);
    assert!(lab.store.due(10).await.unwrap().is_empty());
}

pub async fn results_of_all_four_kinds_are_counted_apart(lab: Lab) {
    let submitted = lab.submitted("sweep", 10).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements: Vec<_> = held
        .iter()
        .map(|job| {
            let result = match job.id.ordinal() {
                0 => success("yes"),
                1..=2 => failure("no"),
                3..=5 => ended(Status::Cancelled, ErrorClass::Cancelled, "stop"),
                _ => ended(Status::Expired, ErrorClass::DeadlineExceeded, "late"),
            };
            Settlement { attempts: Vec::new(), ..settle(job, result) }
        })
        .collect();
    lab.store.flush(worker, &settlements).await.unwrap();
    let batch = lab.batch(submitted.id).await;
    let counters = batch.counters;
    assert_eq!((counters.succeeded, counters.failed, counters.cancelled, counters.expired), (1, 2, 3, 4));
    assert_eq!((batch.calls, batch.state), (0, BatchState::Finished));
}

pub async fn a_job_that_comes_back_is_the_same_run(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    for _ in 0..3 {
        lab.store.flush(worker, &[wake(&held[0], Duration::ZERO)]).await.unwrap();
        assert_eq!(lab.due(1).await, held);
        let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs)).await.unwrap();
        assert_eq!(ticket(&verdicts[0]).job, held[0]);
    }
}
