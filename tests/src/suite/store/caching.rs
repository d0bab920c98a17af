//! The response cache: who is answered, who calls, who waits, and what is kept.

use std::collections::BTreeSet;

use gristmill_common::cache::CacheRules;
use gristmill_common::job::CachePolicy;
use gristmill_common::store::{CacheSize, UsageScope};

use super::*;

/// The rules of [`Lab::brief`].
pub const BRIEF: CacheRules =
    CacheRules { scope: gristmill_common::cache::CacheScope::Shared, ttl: SOON, max_bytes: 150, max_answer_bytes: 100 };

fn policy(text: &str) -> CachePolicy {
    text.parse().unwrap()
}

/// A request that others may make as well.
fn ask(job: &mut Job, question: u32, cache: &str) {
    job.body = Bytes::from(format!(r#"{{"temperature":0,"question":{question},"user":"{}"}}"#, job.custom_id));
    job.options.cache = policy(cache);
}

/// Hands over what a worker does: a run's answer, with what its ticket says of the cache.
fn answer(verdict: &Verdict, result: JobResult) -> Settlement {
    let ticket = ticket(verdict);
    Settlement { caching: ticket.caching.clone(), ..settle(&ticket.job, result) }
}

fn hit(verdict: &Verdict) -> (&Ticket, &gristmill_common::store::CachedAnswer) {
    match verdict {
        Verdict::Cached(ticket, answer) => (ticket, answer),
        other => panic!("expected an answer, got {other:?}"),
    }
}

fn is_run(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Run(_))
}

async fn equal(lab: &Lab, name: &str, count: u32, cache: &str) -> Submitted {
    lab.submitted_with(name, count, |_, job| ask(job, 1, cache)).await
}

async fn admit(lab: &Lab, owner: OwnerId, jobs: &[Job]) -> Vec<Verdict> {
    lab.store.admit(owner, arrivals(jobs)).await.unwrap()
}

async fn flush(lab: &Lab, owner: OwnerId, settlements: &[Settlement]) {
    assert_eq!(lab.store.flush(owner, settlements).await.unwrap().lost, 0);
}

pub async fn equal_requests_are_called_once_and_the_others_are_answered(lab: Lab) {
    let submitted = equal(&lab, "sweep", 4, "on").await;
    let worker = lab.worker(LONG).await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    assert!(is_run(&verdicts[0]));
    assert_eq!(verdicts[1..], [Verdict::Waiting, Verdict::Waiting, Verdict::Waiting]);
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize { answers: 0, bytes: 0, open: 1 });
    let progress = lab.other.waits(submitted.id, 10).await.unwrap();
    assert_eq!((progress.len(), progress[0].jobs), (1, 3), "{progress:?}");
    assert_eq!(lab.store.due(10).await.unwrap(), []);

    let result = JobResult { usage: Usage { reasoning_tokens: Some(4), ..success("42").usage }, ..success("42") };
    flush(&lab, worker, &[answer(&verdicts[0], result.clone())]).await;
    let size = lab.other.cache_size(Some("suite")).await.unwrap();
    assert_eq!((size.answers, size.open), (1, 0));
    assert_eq!(lab.other.cache_size(Some("another")).await.unwrap(), CacheSize::default());
    lab.due(3).await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    assert_eq!(verdicts[0], Verdict::Done);
    let settlements: Vec<Settlement> = verdicts[1..]
        .iter()
        .map(|verdict| {
            let (ticket, cached) = hit(verdict);
            assert_eq!(
                (&cached.response, &cached.output_text),
                (result.response.as_ref().unwrap(), &result.output_text)
            );
            assert_eq!((&cached.provider, &cached.deployment), (&result.provider, &result.deployment));
            assert_eq!((cached.usage, &cached.finish_reason), (result.usage, &result.finish_reason));
            assert_eq!((cached.cost_pico_usd, &cached.served_model), (Some(1_500_000), &result.served_model));
            assert_eq!((ticket.calls, ticket.attempts), (0, 0));
            let result = JobResult {
                cached: true,
                cost_pico_usd: Some(0),
                saved_pico_usd: cached.cost_pico_usd,
                attempts: 0,
                ..result.clone()
            };
            Settlement { attempts: Vec::new(), caching: ticket.caching.clone(), ..settle(&ticket.job, result) }
        })
        .collect();
    flush(&lab, worker, &settlements).await;
    let rows = lab.rows(submitted.id, 4).await;
    assert_eq!(rows.iter().filter(|row| row.result.cached).count(), 3);
    let batch = lab.batch(submitted.id).await;
    assert_eq!((batch.calls, batch.counters.succeeded, batch.cost_pico_usd), (1, 4, Some(1_500_000)));
    let scope = UsageScope { batch: Some(submitted.id), ..UsageScope::default() };
    let sums = &lab.other.usage(&scope, &[]).await.unwrap()[0].sums;
    assert_eq!((sums.cached, sums.saved_pico_usd, sums.calls), (3, 4_500_000, 1));
}

pub async fn equal_requests_of_two_workers_at_once_are_called_once(lab: Lab) {
    let submitted = lab.submitted_with("sweep", 80, |n, job| ask(job, n * 7 % 20, "on")).await;
    let (one, two) = (lab.worker(LONG).await, lab.worker(LONG).await);
    let mut called = BTreeSet::new();
    // In four transactions at once, in orders of their own.
    let (left, right) = submitted.jobs.split_at(40);
    let backwards = |jobs: &[Job]| arrivals(&jobs.iter().rev().cloned().collect::<Vec<_>>());
    let verdicts = tokio::join!(
        lab.store.admit(one, arrivals(&left[..20])),
        lab.other.admit(two, backwards(&left[20..])),
        lab.store.admit(one, backwards(&right[..20])),
        lab.other.admit(two, arrivals(&right[20..])),
    );
    let (a, b, c, d) = (verdicts.0.unwrap(), verdicts.1.unwrap(), verdicts.2.unwrap(), verdicts.3.unwrap());
    for verdict in a.iter().chain(&b).chain(&c).chain(&d) {
        match verdict {
            Verdict::Run(ticket) => assert!(called.insert(ticket.caching.as_ref().unwrap().key), "called twice"),
            other => assert_eq!(*other, Verdict::Waiting),
        }
    }
    assert_eq!(called.len(), 20);
    assert_eq!(lab.other.cache_size(None).await.unwrap().open, 20);
}

pub async fn whoever_waits_is_woken_whichever_commits_first(lab: Lab) {
    let worker = lab.worker(LONG).await;
    for round in 0..12 {
        let submitted = lab.submitted_with(&format!("round-{round}"), 6, |_, job| ask(job, 100 + round, "on")).await;
        let first = admit(&lab, worker, &submitted.jobs[..1]).await;
        let settlement = [answer(&first[0], success("x"))];
        let (flushed, verdicts) =
            tokio::join!(lab.store.flush(worker, &settlement), lab.other.admit(worker, arrivals(&submitted.jobs[1..])));
        assert_eq!(flushed.unwrap().lost, 0);
        let waiting = verdicts.unwrap().iter().filter(|verdict| **verdict == Verdict::Waiting).count();
        lab.due(waiting).await;
    }
}

pub async fn the_cache_has_no_part_in_what_does_not_ask_for_it(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let submitted = lab.submitted_with("sweep", 6, |n, job| {
        ask(job, 1, if n < 3 { "off" } else { "on" });
        if n >= 3 {
            // Each of them asks for a random answer.
            job.body = Bytes::from_static(br#"{"temperature":1}"#);
        }
    });
    let submitted = submitted.await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    assert!(verdicts.iter().all(|verdict| ticket(verdict).caching.is_none()));
    let settlements: Vec<_> = verdicts.iter().map(|verdict| answer(verdict, success("x"))).collect();
    flush(&lab, worker, &settlements).await;
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default());
}

pub async fn samples_of_one_request_stay_apart(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let samples = |n, job: &mut Job| {
        ask(job, 1, "on+sampled");
        job.options.sample = n % 3;
    };
    let first = lab.submitted_with("first", 3, samples).await;
    let verdicts = admit(&lab, worker, &first.jobs).await;
    let settlements: Vec<_> =
        (0..).zip(&verdicts).map(|(n, verdict)| answer(verdict, success(&format!("sample {n}")))).collect();
    flush(&lab, worker, &settlements).await;
    let again = lab.submitted_with("again", 3, samples).await;
    for (n, verdict) in admit(&lab, worker, &again.jobs).await.iter().enumerate() {
        assert_eq!(hit(verdict).1.output_text.as_deref(), Some(&*format!("sample {n}")));
    }
}

pub async fn projects_and_simulated_batches_have_answers_of_their_own(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let first = equal(&lab, "first", 1, "on").await;
    let verdicts = admit(&lab, worker, &first.jobs).await;
    flush(&lab, worker, &[answer(&verdicts[0], success("x"))]).await;
    for (name, project, simulated) in
        [("other", Some("other"), false), ("none", None, false), ("simulated", Some("suite"), true)]
    {
        let producer = owner();
        let new = NewBatch { project: project.map(str::to_owned), simulated, ..new_batch(name, producer) };
        let Opened::Created(batch) = lab.store.open_batch(&new, LONG).await.unwrap() else { panic!("must be new") };
        let mut jobs = jobs(batch.id, 0..1);
        ask(&mut jobs[0], 1, "on");
        lab.store.record(Chunk { simulated, ..chunk(producer, &jobs, 0) }).await.unwrap();
        assert!(is_run(&admit(&lab, worker, &jobs).await[0]), "{name}");
    }
    let shared = equal(&lab, "shared", 2, "on").await;
    let verdicts = lab.brief.admit(worker, arrivals(&shared.jobs)).await.unwrap();
    assert!(is_run(&verdicts[0]) && verdicts[1] == Verdict::Waiting, "keys of the shared scope are others");
}

pub async fn who_only_reads_keeps_nothing_and_who_only_writes_is_not_answered(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let reads = equal(&lab, "reads", 2, "read-only").await;
    let verdicts = admit(&lab, worker, &reads.jobs).await;
    assert!(verdicts.iter().all(is_run), "nobody keeps an answer for the other");
    flush(&lab, worker, &verdicts.iter().map(|verdict| answer(verdict, success("x"))).collect::<Vec<_>>()).await;
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default());

    let writes = equal(&lab, "writes", 2, "write-only").await;
    for (n, job) in writes.jobs.chunks(1).enumerate() {
        let verdicts = admit(&lab, worker, job).await;
        flush(&lab, worker, &[answer(&verdicts[0], success(&format!("answer {n}")))]).await;
    }
    assert_eq!(lab.other.cache_size(None).await.unwrap().answers, 1);
    let late = equal(&lab, "late", 1, "read-only").await;
    let verdicts = admit(&lab, worker, &late.jobs).await;
    assert_eq!(hit(&verdicts[0]).1.output_text.as_deref(), Some("answer 1"), "the newer one");
    assert_eq!(hit(&verdicts[0]).0.caching, None);
}

pub async fn a_call_under_way_is_waited_for_by_who_only_reads(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let writes = equal(&lab, "writes", 1, "on").await;
    let reads = equal(&lab, "reads", 1, "read-only").await;
    let verdicts = admit(&lab, worker, &writes.jobs).await;
    assert_eq!(admit(&lab, worker, &reads.jobs).await, [Verdict::Waiting]);
    flush(&lab, worker, &[answer(&verdicts[0], success("x"))]).await;
    lab.due(1).await;
    hit(&admit(&lab, worker, &reads.jobs).await[0]);
}

pub async fn a_call_that_comes_back_is_still_waited_for(lab: Lab) {
    let submitted = equal(&lab, "sweep", 2, "on").await;
    let (dying, worker) = (lab.worker(SHORT).await, lab.worker(LONG).await);
    let (holder, waiting) = submitted.jobs.split_at(1);
    admit(&lab, dying, holder).await;
    assert_eq!(admit(&lab, worker, waiting).await, [Verdict::Waiting]);
    // Its owner dies, and then its call fails once.
    assert_eq!(lab.buried(3).await, (1, 0));
    lab.due(1).await;
    let verdicts = admit(&lab, worker, holder).await;
    flush(
        &lab,
        worker,
        &[Settlement {
            caching: ticket(&verdicts[0]).caching.clone(),
            ..wake(&ticket(&verdicts[0]).job, Duration::ZERO)
        }],
    )
    .await;
    lab.due(1).await;
    assert_eq!(admit(&lab, worker, waiting).await, [Verdict::Waiting]);
    let verdicts = admit(&lab, worker, holder).await;
    assert_eq!(ticket(&verdicts[0]).calls, 1);
    flush(&lab, worker, &[answer(&verdicts[0], success("x"))]).await;
    lab.due(1).await;
    hit(&admit(&lab, worker, waiting).await[0]);
}

pub async fn who_waited_for_a_call_that_failed_makes_its_own(lab: Lab) {
    let submitted = equal(&lab, "sweep", 4, "on").await;
    let worker = lab.worker(LONG).await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    flush(&lab, worker, &[answer(&verdicts[0], failure("no"))]).await;
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default());
    lab.due(3).await;
    let verdicts = admit(&lab, worker, &submitted.jobs[1..]).await;
    assert!(verdicts.iter().all(is_run), "not one after the other: {verdicts:?}");
    // They wait for nobody any more, also when they come back; others wait for the first of them.
    let later = equal(&lab, "later", 1, "on").await;
    assert_eq!(admit(&lab, worker, &later.jobs).await, [Verdict::Waiting]);
    flush(&lab, worker, &[wake(&ticket(&verdicts[2]).job, Duration::ZERO)]).await;
    lab.due(1).await;
    let again = admit(&lab, worker, &submitted.jobs[3..]).await;
    assert!(is_run(&again[0]));
    // Whoever answers first answers for all that come then.
    flush(&lab, worker, &[answer(&again[0], success("late"))]).await;
    let last = equal(&lab, "last", 1, "on").await;
    assert_eq!(hit(&admit(&lab, worker, &last.jobs).await[0]).1.output_text.as_deref(), Some("late"));
    // And whose call fails takes no answer away.
    flush(&lab, worker, &[answer(&verdicts[0], failure("no")), answer(&verdicts[1], failure("no"))]).await;
    assert_eq!(lab.other.cache_size(None).await.unwrap().answers, 1);
    lab.due(1).await;
    hit(&admit(&lab, worker, &later.jobs).await[0]);
}

pub async fn who_waited_for_a_cancelled_run_waits_for_the_next_one(lab: Lab) {
    let (first, second) = (equal(&lab, "first", 2, "on").await, equal(&lab, "second", 3, "on").await);
    let worker = lab.worker(LONG).await;
    let verdicts = admit(&lab, worker, &first.jobs).await;
    assert_eq!(admit(&lab, worker, &second.jobs).await, vec![Verdict::Waiting; 3]);
    // The call is put off, its batch cancelled: the keeper ends what calls and what waits.
    flush(&lab, worker, &[wake(&ticket(&verdicts[0]).job, LONG)]).await;
    lab.store.cancel(first.id).await.unwrap();
    lab.store.close_cancelled(100).await.unwrap();
    assert_eq!(lab.batch(first.id).await.counters.cancelled, 2);
    lab.due(3).await;
    let verdicts = admit(&lab, worker, &second.jobs).await;
    assert_eq!(verdicts.iter().filter(|verdict| is_run(verdict)).count(), 1, "{verdicts:?}");
    // A worker that ends its call as cancelled lets go of it as well.
    let caller = verdicts.iter().find(|verdict| is_run(verdict)).unwrap();
    let result = ended(Status::Cancelled, ErrorClass::Cancelled, "stop");
    flush(&lab, worker, &[answer(caller, result)]).await;
    lab.due(2).await;
}

pub async fn who_waited_for_a_poisonous_run_makes_its_own(lab: Lab) {
    let submitted = equal(&lab, "sweep", 3, "on").await;
    let (dying, worker) = (lab.worker(SHORT).await, lab.worker(LONG).await);
    admit(&lab, dying, &submitted.jobs).await;
    assert_eq!(lab.buried(1).await, (0, 1));
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default());
    lab.due(2).await;
    assert!(admit(&lab, worker, &submitted.jobs[1..]).await.iter().all(is_run));
}

pub async fn a_run_that_waits_ends_at_its_deadline(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let deadline = now() + SOON;
    let submitted = lab.submitted_with("sweep", 2, |n, job| {
        ask(job, 1, "on");
        job.options.deadline = (n == 1).then_some(deadline);
    });
    let submitted = submitted.await;
    assert_eq!(admit(&lab, worker, &submitted.jobs).await[1], Verdict::Waiting);
    let row = eventually("it expires", || async {
        lab.store.close_expired(10).await.unwrap();
        lab.everything(submitted.id).await.pop()
    });
    assert_eq!(row.await.result.status, Status::Expired);
}

pub async fn a_new_run_asks_again_and_one_of_a_success_is_called(lab: Lab) {
    let submitted = equal(&lab, "sweep", 2, "on").await;
    let worker = lab.worker(LONG).await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    flush(&lab, worker, &[answer(&verdicts[0], success("old"))]).await;
    lab.due(1).await;
    let verdicts = admit(&lab, worker, &submitted.jobs[1..]).await;
    let (waited, _) = hit(&verdicts[0]);
    flush(&lab, worker, &[settle(&waited.job, failure("no"))]).await;
    assert_eq!(lab.retried(submitted.id, &[Status::Succeeded, Status::Failed], 10).await, 2);
    lab.due(2).await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    assert_eq!(hit(&verdicts[1]).1.output_text.as_deref(), Some("old"), "it had no answer yet");
    flush(&lab, worker, &[answer(&verdicts[0], success("new"))]).await;
    let late = equal(&lab, "late", 1, "on").await;
    let verdicts = admit(&lab, worker, &late.jobs).await;
    assert_eq!(hit(&verdicts[0]).1.output_text.as_deref(), Some("new"), "it takes the place of the other");
}

pub async fn an_answer_that_is_not_to_be_kept_lets_the_others_call(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let submitted = equal(&lab, "large", 3, "on").await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    let large = [answer(&verdicts[0], success(&"x".repeat(200)))];
    assert_eq!(lab.brief.flush(worker, &large).await.unwrap().lost, 0);
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default());
    lab.due(2).await;
    let verdicts = admit(&lab, worker, &submitted.jobs[1..]).await;
    assert!(verdicts.iter().all(is_run));
    // The answer of another group than the one that was asked is not kept either.
    let mut elsewhere = answer(&verdicts[0], success("from elsewhere"));
    elsewhere.caching.as_mut().unwrap().keep = false;
    flush(&lab, worker, &[elsewhere]).await;
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default());
}

pub async fn answers_go_when_their_time_is_over(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let first = equal(&lab, "first", 1, "on").await;
    let verdicts = lab.brief.admit(worker, arrivals(&first.jobs)).await.unwrap();
    lab.brief.flush(worker, &[answer(&verdicts[0], success("x"))]).await.unwrap();
    let second = equal(&lab, "second", 1, "read-only").await;
    hit(&lab.brief.admit(worker, arrivals(&second.jobs)).await.unwrap()[0]);
    // Whoever asks first behind its end makes the call anew.
    let third = eventually("it is not answered", || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let name = format!("at-{}", BatchId::new(now()));
        let third = equal(&lab, &name, 2, "on").await;
        let verdicts = lab.brief.admit(worker, arrivals(&third.jobs)).await.unwrap();
        is_run(&verdicts[0]).then_some(verdicts)
    })
    .await;
    assert_eq!(third[1], Verdict::Waiting);
    assert_eq!(lab.brief.prune_cache(10).await.unwrap(), 0, "a call under way is not pruned");
    lab.brief.flush(worker, &[answer(&third[0], success("y"))]).await.unwrap();
    eventually("it is pruned", || async { (lab.brief.prune_cache(10).await.unwrap() == 1).then_some(()) }).await;
    assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default());
}

pub async fn the_least_recently_used_answers_go_first(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let submitted = lab.submitted_with("sweep", 8, |n, job| ask(job, n, "on")).await;
    for job in submitted.jobs.chunks(1) {
        let verdicts = admit(&lab, worker, job).await;
        // 13 bytes of answer and two of its text.
        flush(&lab, worker, &[answer(&verdicts[0], success("ok"))]).await;
        // Times are whole milliseconds in one of the stores.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let full = lab.other.cache_size(None).await.unwrap();
    assert_eq!((full.answers, full.bytes % 8), (8, 0));
    assert!(full.bytes <= BRIEF.max_bytes, "the sizes of this test: {full:?}");
    assert_eq!(lab.brief.prune_cache(10).await.unwrap(), 0);
    let more = lab.submitted_with("more", 4, |n, job| ask(job, 10 + n, "on")).await;
    for job in more.jobs.chunks(1) {
        let verdicts = admit(&lab, worker, job).await;
        flush(&lab, worker, &[answer(&verdicts[0], success("ok"))]).await;
    }
    let each = full.bytes / 8;
    let left = BRIEF.max_bytes / each;
    assert_eq!(lab.brief.prune_cache(1).await.unwrap(), 1, "in steps");
    assert_eq!(lab.brief.prune_cache(10).await.unwrap(), 12 - left - 1);
    assert_eq!(lab.other.cache_size(None).await.unwrap().answers, left);
    let again = lab.submitted_with("again", 8, |n, job| ask(job, n, "read-only")).await;
    let hits: Vec<bool> = admit(&lab, worker, &again.jobs).await.iter().map(|verdict| !is_run(verdict)).collect();
    let gone = usize::try_from(12 - left).unwrap();
    assert!(hits[..gone].iter().all(|hit| !hit) && hits[gone..].iter().all(|hit| *hit), "the oldest went: {hits:?}");
}

pub async fn answers_are_cleared_by_project(lab: Lab) {
    let worker = lab.worker(LONG).await;
    let submitted = lab.submitted_with("sweep", 5, |n, job| ask(job, n, "on")).await;
    let verdicts = admit(&lab, worker, &submitted.jobs).await;
    let settlements: Vec<_> = verdicts[..4].iter().map(|verdict| answer(verdict, success("x"))).collect();
    flush(&lab, worker, &settlements).await;
    assert_eq!(lab.owner.clear_cache(Some("another"), 10).await.unwrap(), 0);
    assert_eq!(lab.owner.clear_cache(Some("suite"), 3).await.unwrap(), 3);
    assert_eq!(lab.owner.clear_cache(None, 10).await.unwrap(), 1);
    let size = lab.other.cache_size(None).await.unwrap();
    assert_eq!((size.answers, size.open), (0, 1), "a call under way stays");
}

pub async fn answers_go_with_the_batch_that_has_them(lab: Lab) {
    let worker = lab.worker(LONG).await;
    for (name, strip) in [("forgotten", false), ("emptied", true)] {
        let submitted = equal(&lab, name, 1, "on").await;
        let verdicts = admit(&lab, worker, &submitted.jobs).await;
        flush(&lab, worker, &[answer(&verdicts[0], success(name))]).await;
        assert_eq!(lab.other.cache_size(None).await.unwrap().answers, 1);
        if strip {
            lab.owner.strip(submitted.id, None, 10).await.unwrap();
        } else {
            lab.owner.forget(submitted.id, 10).await.unwrap();
        }
        assert_eq!(lab.other.cache_size(None).await.unwrap(), CacheSize::default(), "{name}");
    }
    let late = equal(&lab, "late", 1, "on").await;
    assert!(is_run(&admit(&lab, worker, &late.jobs).await[0]));
}

/// What a back end does whose results somebody `delete`d by hand while the cache says where they stand.
pub async fn an_answer_that_is_gone_is_asked_for_again(lab: &Lab, delete: impl AsyncFnOnce()) {
    let worker = lab.worker(LONG).await;
    let submitted = equal(lab, "sweep", 1, "on").await;
    let verdicts = admit(lab, worker, &submitted.jobs).await;
    flush(lab, worker, &[answer(&verdicts[0], success("x"))]).await;
    delete().await;
    let late = equal(lab, "late", 2, "on").await;
    assert_eq!(admit(lab, worker, &late.jobs).await, [Verdict::Waiting, Verdict::Waiting]);
    lab.due(2).await;
    let verdicts = admit(lab, worker, &late.jobs).await;
    assert!(is_run(&verdicts[0]) && verdicts[1] == Verdict::Waiting, "one of them is called: {verdicts:?}");
}

pub async fn an_owner_that_asks_again_is_told_the_same(lab: Lab) {
    let submitted = equal(&lab, "sweep", 3, "on").await;
    let worker = lab.worker(LONG).await;
    let first = admit(&lab, worker, &submitted.jobs).await;
    assert_eq!(admit(&lab, worker, &submitted.jobs).await, first);
    flush(&lab, worker, &[answer(&first[0], success("x"))]).await;
    lab.due(2).await;
    let hits = admit(&lab, worker, &submitted.jobs[1..]).await;
    assert_eq!(admit(&lab, worker, &submitted.jobs[1..]).await, hits);
    hit(&hits[0]);
}
