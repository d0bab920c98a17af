//! The books: sums of calls and results, prices, and costs that are computed anew.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, OwnerId};
use gristmill_common::job::JobRef;
use gristmill_common::outcome::{AttemptRecord, CostBasis, JobResult, Usage};
use gristmill_common::store::{Correction, CostedCall, End, KeptPrice, LostCalls, Settlement, Store, UsageScope, Wake};
use gristmill_common::tally::{By, Part, Sums};

use super::{LONG, Lab, SHORT, attempt, eventually, now, settle, success, ticket, wake};

async fn usage(store: &Arc<dyn Store>, scope: &UsageScope, by: &[&str]) -> Vec<Part> {
    let by: Vec<By> = by.iter().map(|text| text.parse().unwrap()).collect();
    store.usage(scope, &by).await.unwrap()
}

async fn sums(lab: &Lab, batch: BatchId) -> Sums {
    let scope = UsageScope { batch: Some(batch), ..UsageScope::default() };
    let mut parts = usage(&lab.other, &scope, &[]).await;
    assert!(parts.len() <= 1);
    parts.pop().map(|part| part.sums).unwrap_or_default()
}

/// A run that ends with a call that began at a time and cost so much.
fn costly(job: &JobRef, at: DateTime<Utc>, pico_usd: i64) -> Settlement {
    let made = AttemptRecord { started_at: at, cost_pico_usd: Some(pico_usd), ttft_ms: Some(40), ..attempt(1) };
    let result = JobResult {
        cost_pico_usd: Some(pico_usd),
        queued_at: Some(at - TimeDelta::milliseconds(250)),
        started_at: Some(at),
        finished_at: at,
        ..success("ok")
    };
    Settlement { attempts: vec![made], ..settle(job, result) }
}

pub async fn sums_are_those_of_the_rows(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let at = now();
    let refused = AttemptRecord {
        usage: Usage::default(),
        cost_pico_usd: Some(0),
        cost_basis: CostBasis::Unbilled,
        counted: false,
        error: Some(Box::new(ErrorRecord::new(ErrorClass::RateLimit, "slow down"))),
        ..attempt(1)
    };
    let unseen = AttemptRecord {
        usage: Usage::default(),
        cost_pico_usd: None,
        cost_basis: CostBasis::Unknown,
        bound_pico_usd: Some(77),
        error: Some(Box::new(ErrorRecord::new(ErrorClass::Timeout, "too late"))),
        ..attempt(1)
    };
    let unpriced = AttemptRecord { cost_pico_usd: None, cost_basis: CostBasis::Unknown, ..attempt(2) };
    let tagged = |settlement: Settlement, tags: &str| Settlement { tags: tags.into(), ..settlement };
    let saved = JobResult { cached: true, saved_pico_usd: Some(5), cost_pico_usd: Some(0), ..success("hit") };
    let settlements = [
        tagged(costly(&held[0], at, 11), r#"{"team":"a"}"#),
        tagged(costly(&held[1], at, 13), r#"{"team":"b"}"#),
        Settlement { attempts: vec![refused, unpriced], ..settle(&held[2], success("late")) },
        Settlement { attempts: vec![unseen], ..settle(&held[3], saved) },
    ];
    lab.store.flush(worker, &settlements).await.unwrap();

    let sums = sums(&lab, submitted.id).await;
    assert_eq!((sums.calls, sums.repeated, sums.uncounted, sums.unpriced, sums.unseen), (5, 1, 1, 1, 1));
    assert_eq!((sums.input_tokens, sums.output_tokens), (300, 30));
    assert_eq!((sums.cost_pico_usd, sums.bound_pico_usd), (24, 77));
    assert_eq!((sums.succeeded, sums.failed, sums.cached, sums.saved_pico_usd), (4, 0, 1, 5));
    assert_eq!((sums.latency.count(), sums.latency.quantile(1.0), sums.ttft.count()), (3, Some(12), 2));
    assert_eq!(lab.batch(submitted.id).await.cost_pico_usd, Some(24));
    let without = UsageScope { batch: Some(submitted.id), without_durations: true, ..UsageScope::default() };
    let parts = usage(&lab.store, &without, &[]).await;
    assert!(parts[0].sums.latency.is_empty() && parts[0].sums.queue.is_empty());
    assert_eq!(parts[0].sums.cost_pico_usd, 24);

    let scope = UsageScope { project: Some("suite".to_owned()), ..UsageScope::default() };
    let names = |parts: Vec<Part>| -> Vec<(String, i64)> {
        parts.into_iter().map(|part| (part.names.join("/"), part.sums.cost_pico_usd)).collect()
    };
    let by_team = names(usage(&lab.store, &scope, &["batch", "tag:team"]).await);
    assert_eq!(by_team, [("sweep/", 0), ("sweep/a", 11), ("sweep/b", 13)].map(|(name, cost)| (name.to_owned(), cost)));
    let by_model = names(usage(&lab.store, &scope, &["project", "model", "provider-model"]).await);
    assert_eq!(by_model, [("suite/gpt-4o/gpt-4o-2024-11-20".to_owned(), 24)]);
    let by_error = usage(&lab.store, &scope, &["error"]).await;
    let calls: Vec<_> = by_error.into_iter().map(|part| (part.names[0].clone(), part.sums.calls)).collect();
    assert_eq!(calls, [("", 3), ("RateLimitError", 1), ("Timeout", 1)].map(|(name, calls)| (name.to_owned(), calls)));
    for scope in [
        UsageScope { project: Some("other".to_owned()), ..UsageScope::default() },
        UsageScope { since: Some(at + TimeDelta::hours(1)), ..UsageScope::default() },
        UsageScope { until: Some(at - TimeDelta::hours(1)), ..UsageScope::default() },
    ] {
        assert_eq!(usage(&lab.store, &scope, &[]).await, []);
    }
}

pub async fn a_flush_that_is_repeated_is_counted_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements = [costly(&held[0], now(), 3), wake(&held[1], LONG)];
    lab.store.flush(worker, &settlements).await.unwrap();
    let before = sums(&lab, submitted.id).await;
    assert_eq!((before.calls, before.ended()), (2, 1));
    lab.store.flush(worker, &settlements).await.unwrap();
    assert_eq!(sums(&lab, submitted.id).await, before);
}

pub async fn runs_that_nobody_answers_are_counted(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    lab.store.cancel(submitted.id).await.unwrap();
    lab.store.close_cancelled(100).await.unwrap();
    let parts = usage(&lab.store, &UsageScope::default(), &["batch", "model", "error"]).await;
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].names, ["sweep", "gpt-4o", "CancelledError"]);
    assert_eq!(parts[0].sums, Sums { cancelled: 3, ..Sums::default() });
}

pub async fn sums_stay_as_they_grow_old(lab: Lab) {
    let submitted = lab.submitted("sweep", 40).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let three_days_ago = now() - TimeDelta::days(3);
    for (n, job) in (0..).zip(&held) {
        let at = three_days_ago + TimeDelta::seconds(7 * n);
        lab.store.flush(worker, &[costly(job, at, 1)]).await.unwrap();
    }
    let by = [By::Model, By::Seconds(86_400)];
    let scope = UsageScope { batch: Some(submitted.id), ..UsageScope::default() };
    let before = lab.store.usage(&scope, &by).await.unwrap();
    let minutes = [By::Seconds(60)];
    assert!(lab.store.usage(&scope, &minutes).await.unwrap().len() >= 4);
    let mut taken = Vec::new();
    while taken.len() < 40 && taken.last() != Some(&0) {
        taken.push(lab.store.roll_up(7).await.unwrap());
    }
    assert_eq!(taken.last(), Some(&0), "it comes to an end: {taken:?}");
    assert_eq!(lab.store.usage(&scope, &by).await.unwrap(), before);
    assert!(lab.store.usage(&scope, &minutes).await.unwrap().len() <= 2, "only hours are left");
}

pub async fn sums_of_a_deleted_batch_keep_its_project(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    lab.store.flush(worker, &[costly(&held[0], now(), 19)]).await.unwrap();
    assert!(!lab.owner.forget(submitted.id, 100).await.unwrap().more);
    let scope = UsageScope { project: Some("suite".to_owned()), ..UsageScope::default() };
    let parts = usage(&lab.store, &scope, &["batch"]).await;
    assert_eq!((parts.len(), parts[0].sums.cost_pico_usd), (1, 19));
    assert_eq!(parts[0].names, [submitted.id.to_string()]);
}

pub async fn the_sums_of_a_project_are_deleted_with_it(lab: Lab) {
    let [gone, open] = [lab.submitted("gone", 1).await, lab.submitted("open", 1).await];
    let worker = lab.worker(LONG).await;
    for submitted in [&gone, &open] {
        let held = lab.admitted(worker, &submitted.jobs).await;
        lab.store.flush(worker, &[costly(&held[0], now(), 19)]).await.unwrap();
    }
    lab.owner.forget(gone.id, 100).await.unwrap();
    assert!(lab.owner.forget_project("suite").await.unwrap() > 0);
    let scope = UsageScope { project: Some("suite".to_owned()), ..UsageScope::default() };
    let parts = usage(&lab.store, &scope, &["batch"]).await;
    assert_eq!(parts.len(), 1, "what is there still keeps its sums");
    assert_eq!(lab.owner.forget_project("suite").await.unwrap(), 0);
}

pub async fn what_a_run_has_cost_is_told_when_it_comes_back(lab: Lab) {
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let End::Wake(later) = wake(&held[0], std::time::Duration::ZERO).end else { panic!("a wake") };
    let later = Wake { spent_pico_usd: Some(1_234_567_890_123), ..later };
    let settlement = Settlement { end: End::Wake(later), ..wake(&held[0], LONG) };
    lab.store.flush(worker, &[settlement]).await.unwrap();
    let verdict = eventually("it is due", || async {
        let mut verdicts = lab.store.admit(worker, super::arrivals(&submitted.jobs)).await.unwrap();
        matches!(verdicts[0], gristmill_common::store::Verdict::Run(_)).then(|| verdicts.remove(0))
    })
    .await;
    assert_eq!(ticket(&verdict).spent_pico_usd, Some(1_234_567_890_123));
}

pub async fn what_a_run_has_cost_stays_where_no_worker_ends_it(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let mut settlement = wake(&held[0], LONG);
    if let End::Wake(later) = &mut settlement.end {
        later.spent_pico_usd = Some(1_234_567_890_123);
    }
    lab.store.flush(worker, &[settlement, wake(&held[1], LONG)]).await.unwrap();
    lab.store.cancel(submitted.id).await.unwrap();
    while lab.store.close_cancelled(100).await.unwrap() == 100 {}
    let mut costs: Vec<Option<i64>> =
        lab.rows(submitted.id, 2).await.iter().map(|row| row.result.cost_pico_usd).collect();
    costs.sort_unstable();
    assert_eq!(costs, [None, Some(1_234_567_890_123)], "what is not known is not 0");
}

async fn all_calls(lab: &Lab, batch: Option<BatchId>) -> Vec<CostedCall> {
    let mut calls = Vec::new();
    loop {
        let after = calls.last().map(|call: &CostedCall| call.key);
        let page = lab.other.costed_calls(batch, after, 2).await.unwrap();
        if page.is_empty() {
            return calls;
        }
        calls.extend(page);
    }
}

pub async fn a_corrected_cost_moves_every_sum_and_keeps_the_old_one(lab: Lab) {
    let submitted = lab.submitted("sweep", 5).await;
    let other = lab.submitted("other", 1).await;
    let worker: OwnerId = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let settlements: Vec<Settlement> = held.iter().map(|job| costly(job, now(), 100)).collect();
    lab.store.flush(worker, &settlements).await.unwrap();
    let held = lab.admitted(worker, &other.jobs).await;
    lab.store.flush(worker, &[costly(&held[0], now(), 1)]).await.unwrap();

    assert_eq!(all_calls(&lab, None).await.len(), 6);
    let calls = all_calls(&lab, Some(submitted.id)).await;
    assert_eq!(calls.len(), 5);
    assert_eq!((calls[0].usage.input_tokens, calls[0].cost_pico_usd), (Some(100), Some(100)));
    let correction = |call: &CostedCall, cost_pico_usd| Correction {
        call: call.clone(),
        cost_pico_usd,
        price_ref: "gpt-4o@new".into(),
    };
    let stale =
        Correction { call: CostedCall { cost_pico_usd: Some(99), ..calls[2].clone() }, ..correction(&calls[2], 7) };
    let corrections = [correction(&calls[0], 60), correction(&calls[1], 130), stale];
    assert_eq!(lab.owner.correct_costs(&corrections).await.unwrap(), 2);
    assert_eq!(lab.owner.correct_costs(&corrections).await.unwrap(), 0, "what was read is no longer so");

    assert_eq!(sums(&lab, submitted.id).await.cost_pico_usd, 490);
    assert_eq!(lab.batch(submitted.id).await.cost_pico_usd, Some(490));
    assert_eq!(sums(&lab, other.id).await.cost_pico_usd, 1);
    let mut costs: Vec<_> =
        lab.rows(submitted.id, 5).await.into_iter().map(|row| row.result.cost_pico_usd.unwrap()).collect();
    costs.sort_unstable();
    assert_eq!(costs, [60, 100, 100, 100, 130]);
    let detail = lab.store.job(submitted.id, calls[0].key.job).await.unwrap().unwrap();
    assert_eq!(
        (detail.attempts[0].1.cost_pico_usd, detail.attempts[0].1.price_ref.as_deref()),
        (Some(60), Some("gpt-4o@new"))
    );
}

pub async fn an_estimated_cost_stays_estimated(lab: Lab) {
    let submitted = lab
        .submitted_with("sweep", 1, |_, job| {
            job.options.service_tier = Some("flex".to_owned());
        })
        .await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let estimated = AttemptRecord {
        usage: Usage::default(),
        cost_pico_usd: Some(5),
        cost_basis: CostBasis::Estimated,
        billed: Some(r#"{"prompt_tokens":7}"#.to_owned()),
        ..attempt(1)
    };
    let settlement = Settlement { attempts: vec![estimated], ..settle(&held[0], success("ok")) };
    lab.store.flush(worker, &[settlement]).await.unwrap();
    let call = all_calls(&lab, None).await.remove(0);
    assert_eq!((call.requested_tier.as_deref(), call.cost_basis), (Some("flex"), CostBasis::Estimated));
    let correction = Correction { call, cost_pico_usd: 8, price_ref: "gpt-4o@new".into() };
    assert_eq!(lab.owner.correct_costs(&[correction]).await.unwrap(), 1);
    let call = all_calls(&lab, None).await.remove(0);
    assert_eq!((call.cost_pico_usd, call.cost_basis), (Some(8), CostBasis::Estimated));
}

pub async fn prices_are_kept_as_they_were_first_told(lab: Lab) {
    let price = |reference: &str, row: &str| KeptPrice { reference: reference.into(), row: row.into() };
    let first = [price("b@2", r#"{"input_cost_per_token": 2e-6}"#), price("a@1", "{}")];
    lab.store.keep_prices(&first).await.unwrap();
    lab.other.keep_prices(&[price("a@1", r#"{"other":1}"#), price("c@3", "{}")]).await.unwrap();
    let kept = lab.store.kept_prices().await.unwrap();
    assert_eq!(kept, [price("a@1", "{}"), first[0].clone(), price("c@3", "{}")]);
}

pub async fn calls_that_may_be_lost_with_their_owner_are_listed_with_a_bound(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let jobs = &submitted.jobs;
    let of_batch = UsageScope { batch: Some(submitted.id), ..UsageScope::default() };
    let lost = async || lab.other.lost_calls(&of_batch).await.unwrap();
    assert_eq!(lost().await, LostCalls::default());
    let dying = lab.worker(SHORT).await;
    lab.admitted(dying, &jobs[..3]).await;
    assert_eq!(lab.buried(5).await, (3, 0));
    assert_eq!(lost().await, LostCalls { workers: 1, runs: 3, most: 3, bound_pico_usd: 0, without_bound: 3 });
    lab.due(3).await;

    // What was returned is called again, which says what a call costs at most; the owner that did not die lost nothing.
    let next = lab.worker(SHORT).await;
    lab.admitted(next, &jobs[..3]).await;
    for (job, bound) in jobs.iter().zip([70, 50]) {
        assert!(lab.store.calling(next, job.id, Some(bound)).await.unwrap());
    }
    assert_eq!(
        lost().await,
        LostCalls { workers: 1, runs: 3, most: 3, bound_pico_usd: 70 + 50 + 70, without_bound: 0 }
    );
    assert_eq!(lab.buried(5).await, (3, 0));
    let both = lost().await;
    assert_eq!(
        (both.workers, both.runs, both.bound_pico_usd),
        (2, 5, 190 + 2 * 70),
        "the second did not call the third"
    );
    lab.due(3).await;
    let last = lab.worker(LONG).await;
    let held = lab.admitted(last, jobs).await;
    for (job, bound) in jobs.iter().zip([Some(71), Some(51), Some(31), None]) {
        assert!(lab.store.calling(last, job.id, bound).await.unwrap());
    }
    assert_eq!(lost().await.bound_pico_usd, 70 + 50 + 31 + 71 + 51, "what was said first stays");

    let detail = lab.other.job(submitted.id, jobs[0].id).await.unwrap().unwrap();
    let told: Vec<_> = detail.lost.iter().map(|lost| (lost.owner, lost.attempt, lost.bound_pico_usd)).collect();
    assert_eq!(told, [(dying, 1, Some(70)), (next, 1, Some(71))]);
    let at = detail.lost[0].died_at;
    for (scope, runs) in [
        (UsageScope { since: Some(at), ..UsageScope::default() }, 5),
        (UsageScope { until: Some(at), ..UsageScope::default() }, 0),
        (UsageScope { project: Some("suite".to_owned()), ..UsageScope::default() }, 5),
        (UsageScope { project: Some("other".to_owned()), ..UsageScope::default() }, 0),
    ] {
        assert_eq!(lab.store.lost_calls(&scope).await.unwrap().runs, runs, "{scope:?}");
    }
    // Who was taken for dead writes a call after all.
    lab.store
        .flush(next, &[Settlement { attempts: vec![attempt(1)], ..settle(&held[1], success("late")) }])
        .await
        .unwrap();
    assert_eq!(lost().await, LostCalls { runs: 4, most: 4, bound_pico_usd: 70 + 50 + 31 + 71, ..both_owners() });
    let settlements: Vec<_> = held.iter().map(|job| settle(job, success("ok"))).collect();
    lab.store.flush(last, &settlements).await.unwrap();
    assert_eq!(lost().await.runs, 4, "they stay listed while the batch is there");
    while lab.owner.forget(submitted.id, 100).await.unwrap().more {}
    assert_eq!(lost().await, LostCalls::default());
}

fn both_owners() -> LostCalls {
    LostCalls { workers: 2, ..LostCalls::default() }
}

pub async fn an_owner_lost_no_more_calls_than_it_could_make(lab: Lab) {
    let submitted = lab.submitted("sweep", 150).await;
    let dying = lab.worker(SHORT).await;
    lab.admitted(dying, &submitted.jobs).await;
    assert_eq!(lab.buried(5).await, (150, 0));
    lab.due(150).await;
    let next = lab.worker(LONG).await;
    lab.admitted(next, &submitted.jobs).await;
    for (n, job) in submitted.jobs.iter().enumerate() {
        let bound = if n < 100 { 10 } else { 1_000 };
        assert!(lab.store.calling(next, job.id, Some(bound)).await.unwrap());
    }
    // A worker of the suite makes 64 calls at once, and as many may have results that are not written.
    let lost = lab.other.lost_calls(&UsageScope::default()).await.unwrap();
    let bound = 50 * 1_000 + (128 - 50) * 10;
    assert_eq!(lost, LostCalls { workers: 1, runs: 150, most: 128, bound_pico_usd: bound, without_bound: 0 });
}
