//! What admission decides for jobs that are recorded.

use std::sync::Arc;
use std::time::Duration;

use gristmill_common::batch::BatchState;
use gristmill_common::failure::{EarlierAttempt, ErrorClass};
use gristmill_common::job::{Job, Metadata};
use gristmill_common::outcome::Status;
use gristmill_common::store::{Arrival, End, Error, Settlement, Verdict, Wake};

use super::{
    LONG, Lab, SHORT, SOON, arrival, arrivals, attempt, ended, eventually, job, new_batch, now, owner, reference,
    request, settle, success, ticket, wake,
};

pub async fn an_arrival_is_admitted_with_its_recorded_request(lab: Lab) {
    let submitted = lab
        .submitted_with("sweep", 3, |ordinal, job| {
            if ordinal == 1 {
                job.options.sample = 4;
                job.options.num_retries = Some(2);
                job.options.deadline = Some(now() + LONG);
                job.options.tags.insert("split".to_owned(), "dev\u{fc}".to_owned());
                job.options.metadata =
                    Metadata::from_json(r#"{"z":12345678901234567890123, "a":[1.10,{"x":null}]}"#.to_owned());
                job.options.cache = "read-only".parse().unwrap();
                job.options.service_tier = Some("flex".to_owned());
                job.options.est_tokens = Some(1234);
                job.lane.lane = 3;
            }
        })
        .await;
    let before = now();
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!(verdicts.len(), 3);
    for (verdict, job) in verdicts.iter().zip(&submitted.jobs) {
        let ticket = ticket(verdict);
        assert_eq!((&ticket.job, &ticket.request), (&reference(job, 1), &request(job)));
        assert_eq!((ticket.calls, ticket.attempts, ticket.faults, ticket.earlier.len()), (0, 0, 0, 0));
        assert!((ticket.queued_at - before).abs() < chrono::TimeDelta::seconds(60));
    }
}

pub async fn a_request_that_the_message_carries_is_taken_from_it(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let arrivals: Vec<_> =
        submitted.jobs.iter().map(|job| Arrival { request: Some(request(job)), ..arrival(job) }).collect();
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals).await.unwrap();
    for (verdict, job) in verdicts.iter().zip(&submitted.jobs) {
        assert_eq!(ticket(verdict).request, request(job));
    }
}

pub async fn no_arrivals_are_no_work(lab: Lab) {
    assert_eq!(lab.store.admit(lab.worker(LONG).await, Vec::new()).await.unwrap(), []);
}

pub async fn two_concurrent_admits_of_one_job_admit_it_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 200).await;
    let (a, b) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let jobs = Arc::new(submitted.jobs);
    let ask = |store: &Arc<dyn gristmill_common::store::Store>, owner, backwards: bool| {
        let (store, jobs) = (Arc::clone(store), Arc::clone(&jobs));
        async move {
            let mut all = arrivals(&jobs);
            if backwards {
                all.reverse();
            }
            let mut run = Vec::new();
            for group in all.chunks(25) {
                for (verdict, arrival) in store.admit(owner, group.to_vec()).await.unwrap().iter().zip(group) {
                    match verdict {
                        Verdict::Run(ticket) => {
                            assert_eq!(ticket.job, arrival.job);
                            run.push(arrival.job.id);
                        }
                        other => assert_eq!(other, &Verdict::Held),
                    }
                }
            }
            run
        }
    };
    let (mut run, more) = tokio::join!(ask(&lab.store, a, false), ask(&lab.other, b, true));
    run.extend(more);
    run.sort_unstable();
    assert_eq!(run, jobs.iter().map(|job| job.id).collect::<Vec<_>>());
}

pub async fn an_owner_that_asks_again_gets_its_jobs_again(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let first = lab.admitted(worker, &submitted.jobs).await;
    assert_eq!(lab.admitted(worker, &submitted.jobs).await, first);
    let verdicts = lab.other.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!(verdicts, [Verdict::Held, Verdict::Held]);
}

pub async fn a_waiting_job_is_taken_only_when_due(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let (first, second) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let queued_at = ticket(&lab.store.admit(first, arrivals(&submitted.jobs)).await.unwrap()[0]).queued_at;
    let earlier = vec![EarlierAttempt {
        status: Some(429),
        message: "slow down, \u{1f600}".to_owned(),
        ..EarlierAttempt::new(2, ErrorClass::RateLimit)
    }];
    let settlement = Settlement {
        job: reference(&submitted.jobs[0], 1),
        tags: Arc::default(),
        spends: None,
        attempts: vec![attempt(1), attempt(2)],
        caching: None,
        end: End::Wake(Wake {
            after: SOON,
            reason: "rate limit".to_owned(),
            calls: 2,
            attempts: 1,
            faults: 3,
            earlier: earlier.clone(),
            spent_pico_usd: Some(7),
        }),
    };
    let flushed = lab.store.flush(first, &[settlement]).await.unwrap();
    assert_eq!((flushed.waiting, flushed.results, flushed.attempts), (1, 0, 2));
    assert_eq!(lab.store.admit(second, arrivals(&submitted.jobs)).await.unwrap(), [Verdict::Waiting]);
    // Due, and not yet queued by the keeper: a copy of the message that is still about may take it.
    let verdict = eventually("it is due", || async {
        let mut verdicts = lab.store.admit(second, arrivals(&submitted.jobs)).await.unwrap();
        (verdicts[0] != Verdict::Waiting).then(|| verdicts.remove(0))
    })
    .await;
    let ticket = ticket(&verdict);
    assert_eq!((ticket.calls, ticket.attempts, ticket.faults, &ticket.earlier), (2, 1, 3, &earlier));
    assert_eq!((ticket.job.run, ticket.queued_at), (1, queued_at));
    assert_eq!(lab.store.admit(first, arrivals(&submitted.jobs)).await.unwrap(), [Verdict::Held]);
}

pub async fn a_queued_job_is_taken_by_whom_its_message_reaches(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let first = lab.worker(LONG).await;
    let held = lab.admitted(first, &submitted.jobs).await;
    lab.store.flush(first, &[wake(&held[0], Duration::ZERO)]).await.unwrap();
    assert_eq!(lab.due(1).await, held);
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!((ticket(&verdicts[0]).calls, ticket(&verdicts[0]).attempts), (1, 1));
    assert_eq!(lab.store.admit(first, arrivals(&submitted.jobs)).await.unwrap(), [Verdict::Held]);
}

pub async fn a_job_that_has_ended_is_done(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let results = [
        success("yes"),
        ended(Status::Failed, ErrorClass::BadRequest, "no"),
        ended(Status::Cancelled, ErrorClass::Cancelled, "stop"),
        ended(Status::Expired, ErrorClass::DeadlineExceeded, "late"),
    ];
    let settlements: Vec<_> = held.iter().zip(results).map(|(job, result)| settle(job, result)).collect();
    lab.store.flush(worker, &settlements).await.unwrap();
    for owner in [worker, lab.worker(LONG).await] {
        let verdicts = lab.store.admit(owner, arrivals(&submitted.jobs)).await.unwrap();
        assert_eq!(verdicts, vec![Verdict::Done; 4]);
    }
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Finished);
}

pub async fn a_job_of_a_cancelled_batch_is_handed_over_to_be_ended(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    lab.store.cancel(submitted.id).await.unwrap();
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs)).await.unwrap();
    let Verdict::Cancelled(ticket) = &verdicts[0] else { panic!("must be cancelled: {verdicts:?}") };
    assert_eq!(ticket.request, request(&submitted.jobs[0]));
    let result = ended(Status::Cancelled, ErrorClass::Cancelled, "stop");
    assert_eq!(lab.store.flush(worker, &[settle(&ticket.job, result)]).await.unwrap().results, 1);
    assert_eq!(lab.batch(submitted.id).await.state, BatchState::Cancelled);
}

pub async fn a_job_past_its_deadline_is_handed_over_to_be_ended(lab: Lab) {
    let submitted = lab
        .submitted_with("sweep", 2, |ordinal, job| {
            let deadline = if ordinal == 0 { now() - LONG } else { now() + LONG };
            job.options.deadline = Some(deadline);
        })
        .await;
    let worker = lab.worker(LONG).await;
    let verdicts = lab.store.admit(worker, arrivals(&submitted.jobs)).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Expired(_), Verdict::Run(_)]), "{verdicts:?}");
    // Handed over means held: nobody else gets it.
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!(verdicts, [Verdict::Held, Verdict::Held]);
}

pub async fn copies_of_a_job_within_one_group_are_admitted_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let twice: Vec<Job> = [0, 1, 0, 0].map(|n: usize| submitted.jobs[n].clone()).into();
    let verdicts = lab.store.admit(worker, arrivals(&twice)).await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Run(_), Verdict::Run(_), Verdict::Held, Verdict::Held]), "{verdicts:?}");
}

pub async fn a_job_of_an_unknown_batch_is_unknown(lab: Lab) {
    let nowhere = job(new_batch("never opened", owner()).id, 0);
    let verdicts = lab.store.admit(lab.worker(LONG).await, vec![arrival(&nowhere)]).await.unwrap();
    assert_eq!(verdicts, [Verdict::Unknown]);
}

pub async fn a_job_without_any_request_is_unknown(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let missing = job(submitted.id, 7);
    let verdicts = lab.store.admit(lab.worker(LONG).await, vec![arrival(&missing), arrival(&submitted.jobs[0])]);
    let verdicts = verdicts.await.unwrap();
    assert!(matches!(verdicts[..], [Verdict::Unknown, Verdict::Run(_)]), "{verdicts:?}");
    assert_eq!(lab.store.progress(submitted.id).await.unwrap().held, 1);
}

pub async fn a_large_mixed_group_is_answered_in_its_order(lab: Lab) {
    let first = lab.submitted("first", 300).await;
    let second = lab.submitted("second", 300).await;
    let (worker, rival) = (lab.worker(LONG).await, lab.worker(LONG).await);
    lab.ended(rival, &first.jobs[..40], &success("done")).await;
    lab.admitted(rival, &first.jobs[40..80]).await;
    lab.store.defer(&second.refs()[..40], LONG, "queue full").await.unwrap();
    let mixed: Vec<Job> = first.jobs.iter().zip(&second.jobs).flat_map(|(a, b)| [a.clone(), b.clone()]).rev().collect();
    let verdicts = lab.store.admit(worker, arrivals(&mixed)).await.unwrap();
    assert_eq!(verdicts.len(), mixed.len());
    for (verdict, job) in verdicts.iter().zip(&mixed) {
        let ordinal = job.id.ordinal();
        match verdict {
            Verdict::Done => assert!(job.batch == first.id && ordinal < 40),
            Verdict::Held => assert!(job.batch == first.id && (40..80).contains(&ordinal)),
            Verdict::Waiting => assert!(job.batch == second.id && ordinal < 40),
            Verdict::Run(ticket) => assert_eq!((&ticket.job, &ticket.request), (&reference(job, 1), &request(job))),
            other => panic!("unexpected {other:?}"),
        }
    }
    let run = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Run(_))).count();
    assert_eq!(run, 600 - 120);
}

pub async fn a_dead_owners_job_is_taken_with_what_it_had_done(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let dying = lab.worker(SHORT).await;
    let held = lab.admitted(dying, &submitted.jobs).await;
    lab.store.flush(dying, &[wake(&held[0], Duration::ZERO)]).await.unwrap();
    lab.admitted(dying, &submitted.jobs).await;
    assert_eq!(lab.buried(5).await, (1, 0));
    assert_eq!(lab.due(1).await, held);
    let verdicts = lab.store.admit(lab.worker(LONG).await, arrivals(&submitted.jobs)).await.unwrap();
    assert_eq!((ticket(&verdicts[0]).calls, ticket(&verdicts[0]).attempts), (1, 1));
}

/// A worker that does not know yet that it was declared dead must not hold anything again: nobody would return it.
pub async fn a_dead_or_unknown_owner_is_given_nothing(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let (dying, left) = (lab.worker(SHORT).await, lab.worker(LONG).await);
    lab.buried(5).await;
    lab.store.deregister(left).await.unwrap();
    for owner in [dying, left, owner()] {
        let error = lab.store.admit(owner, arrivals(&submitted.jobs)).await.unwrap_err();
        assert!(matches!(error, Error::Conflict(_)), "{error}");
    }
    assert_eq!(lab.store.progress(submitted.id).await.unwrap().held, 0);
    lab.admitted(lab.worker(LONG).await, &submitted.jobs).await;
}
