//! Budgets: leased to several workers, settled with results, corrected by the records, told of.

use std::sync::Arc;

use gristmill_common::budget::{BudgetAsk, BudgetKey, BudgetSight, OnExceed, Period, Scope, Terms};
use gristmill_common::id::OwnerId;
use gristmill_common::job::JobRef;
use gristmill_common::outcome::{AttemptRecord, CostBasis, Usage};
use gristmill_common::price::PicoUsd;
use gristmill_common::store::{End, Settlement, Spends, Store, Wake, budget_reason};

use super::{LONG, Lab, attempt, now, settle, success, wake};

fn key(scope: Scope) -> BudgetKey {
    BudgetKey { scope, period: Period::Total }
}

fn project() -> BudgetKey {
    key(Scope::Project("suite".into()))
}

fn terms(limit: i64) -> Terms {
    Terms { limit: PicoUsd(limit), ..Terms::default() }
}

async fn ask(store: &Arc<dyn Store>, owner: OwnerId, key: &BudgetKey, used: i64, wanted: i64) -> BudgetSight {
    let ask = BudgetAsk { key: key.clone(), start: 0, settled: used, used, wanted, least: 1 };
    let sights = store.lease_budgets(owner, &[ask]).await.unwrap();
    sights.into_iter().find(|sight| sight.key == *key).expect("it stands")
}

/// A run that ends with a call that cost so much and was promised twice as much.
fn paid(job: &JobRef, owner: OwnerId, keys: &[BudgetKey], cost: Option<i64>) -> Settlement {
    let basis = if cost.is_some() { CostBasis::Reported } else { CostBasis::Unknown };
    let made = AttemptRecord { cost_pico_usd: cost, cost_basis: basis, usage: Usage::default(), ..attempt(1) };
    let spends = Some(Spends { owner, budgets: keys.into(), promised_pico_usd: cost.unwrap_or(50) });
    Settlement { spends, attempts: vec![made], ..settle(job, success("ok")) }
}

pub async fn a_budget_is_leased_to_each_within_what_is_left(lab: Lab) {
    assert_eq!(lab.store.lease_budgets(OwnerId::new(now()), &[]).await.unwrap(), []);
    assert!(!lab.store.set_budget(&project(), Some(&terms(1_000)), "somebody").await.unwrap());
    let (a, b) = (OwnerId::new(now()), OwnerId::new(now()));
    let key = project();
    let (first, second) = tokio::join!(ask(&lab.store, a, &key, 0, 800), ask(&lab.other, b, &key, 0, 800));
    assert!(first.granted + second.granted <= 1_000 && first.granted > 0 && second.granted > 0);
    assert_eq!((first.left, first.terms.limit), (1_000, PicoUsd(1_000)));
    let standing = lab.other.budgets().await.unwrap().remove(0);
    assert_eq!((standing.key, standing.set_by.as_str()), (project(), "somebody"));
    assert_eq!(standing.leased, PicoUsd(first.granted + second.granted));
}

pub async fn a_flush_takes_calls_off_their_budgets_once(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let batch = key(Scope::Batch(submitted.id));
    lab.store.set_budget(&batch, Some(&terms(1_000)), "somebody").await.unwrap();
    lab.store.set_budget(&project(), Some(&terms(10_000)), "somebody").await.unwrap();
    let keys = [batch.clone(), project()];
    let sight = ask(&lab.store, worker, &batch, 0, 500).await;
    assert_eq!(sight.granted, 500);
    let settlements = [
        paid(&held[0], worker, &keys, Some(300)),
        paid(&held[1], worker, &keys[..1], Some(90)),
        paid(&held[2], worker, &keys, None),
    ];
    lab.store.flush(worker, &settlements).await.unwrap();
    lab.store.flush(worker, &settlements).await.unwrap();
    let standings = lab.other.budgets().await.unwrap();
    let of = |key: &BudgetKey| standings.iter().find(|standing| standing.key == *key).unwrap();
    assert_eq!((of(&batch).spent, of(&batch).unseen, of(&batch).leased), (PicoUsd(390), PicoUsd(50), PicoUsd(60)));
    assert_eq!((of(&project()).spent, of(&project()).unseen), (PicoUsd(300), PicoUsd(50)));
}

pub async fn a_new_budget_counts_what_was_spent_before_and_is_corrected_by_the_records(lab: Lab) {
    let submitted = lab.submitted("sweep", 2).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    lab.store.flush(worker, &[paid(&held[0], worker, &[], Some(70))]).await.unwrap();
    let keys = [
        key(Scope::Batch(submitted.id)),
        project(),
        key(Scope::All),
        key(Scope::Provider("openai".into())),
        key(Scope::Deployment("gpt-4o-eu".into())),
        BudgetKey { scope: Scope::All, period: Period::Month },
        BudgetKey { scope: Scope::Batch(submitted.id), period: Period::Day },
    ];
    let others = [key(Scope::Project("other".into())), key(Scope::Provider("azure".into()))];
    for key in keys.iter().chain(&others) {
        lab.store.set_budget(key, Some(&terms(1_000)), "somebody").await.unwrap();
    }
    let spent = || async {
        let standings = lab.other.budgets().await.unwrap();
        let of = |key: &BudgetKey| standings.iter().find(|standing| standing.key == *key).unwrap().spent.0;
        (keys.iter().map(of).collect::<Vec<_>>(), others.iter().map(of).collect::<Vec<_>>())
    };
    // The batch was opened with a budget, which heard of nothing.
    assert_eq!(spent().await, ([vec![0], vec![70; 6]].concat(), vec![0; 2]));
    lab.store.correct_budgets(true).await.unwrap();
    assert_eq!(spent().await, (vec![70; 7], vec![0; 2]));
    // A call that began before the budgets were known.
    lab.store.flush(worker, &[paid(&held[1], worker, &[], Some(30))]).await.unwrap();
    lab.store.correct_budgets(true).await.unwrap();
    // The batch has ended with this result, so that its own budgets limit nothing any more.
    let (own, others) = spent().await;
    assert_eq!((own[1..6].to_vec(), others), (vec![100; 5], vec![0; 2]));
}

pub async fn thresholds_are_told_once_until_somebody_took_them(lab: Lab) {
    let submitted = lab.submitted("sweep", 3).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    lab.store.set_budget(&project(), Some(&terms(100)), "somebody").await.unwrap();
    for (job, cost) in held.iter().zip([60, 5, 40]) {
        lab.store.flush(worker, &[paid(job, worker, &[project()], Some(cost))]).await.unwrap();
    }
    let due = lab.other.alerts(true, 10).await.unwrap();
    let percents: Vec<u16> = due.iter().map(|alert| alert.percent).collect();
    assert_eq!(percents, [50, 100], "the highest that was crossed, the oldest first");
    assert!(due[0].message.contains("project:suite") && due[0].told_at.is_none());
    lab.store.alert_told(due[1].id, None, None).await.unwrap();
    lab.store.alert_told(due[0].id, Some("no answer"), Some(LONG)).await.unwrap();
    assert_eq!(lab.store.alerts(true, 10).await.unwrap(), []);
    let all = lab.store.alerts(false, 10).await.unwrap();
    assert!(all[0].told_at.is_some() && !all[0].is_due && all[0].trouble.is_none());
    assert!(all[1].told_at.is_none() && all[1].is_due && all[1].tries == 1);
    assert_eq!(all[1].trouble.as_deref(), Some("no answer"));
}

pub async fn jobs_that_wait_for_a_budget_are_woken_when_it_is_raised(lab: Lab) {
    let submitted = lab.submitted("sweep", 4).await;
    let worker = lab.worker(LONG).await;
    let held = lab.admitted(worker, &submitted.jobs).await;
    let waits = |job: &JobRef, reason: String| {
        let End::Wake(later) = wake(job, LONG).end else { panic!("a wake") };
        Settlement { end: End::Wake(Wake { reason, ..later }), attempts: Vec::new(), ..wake(job, LONG) }
    };
    let other = key(Scope::All);
    let settlements = [
        waits(&held[0], format!("{}spent", budget_reason(&project()))),
        waits(&held[1], format!("{}spent", budget_reason(&project()))),
        waits(&held[2], format!("{}spent", budget_reason(&other))),
        waits(&held[3], "retry".to_owned()),
    ];
    lab.store.flush(worker, &settlements).await.unwrap();
    assert_eq!(lab.other.wake_for_budget(&project(), 1).await.unwrap(), 1);
    assert_eq!(lab.other.wake_for_budget(&project(), 10).await.unwrap(), 1);
    assert_eq!(lab.other.wake_for_budget(&project(), 10).await.unwrap(), 0);
    lab.due(2).await;
}

pub async fn a_batch_with_a_limit_has_a_budget_until_it_ends(lab: Lab) {
    // The suite's batches are opened with one.
    let submitted = lab.submitted("sweep", 1).await;
    let worker = lab.worker(LONG).await;
    let batch = key(Scope::Batch(submitted.id));
    let sights = lab.store.lease_budgets(worker, &[]).await.unwrap();
    assert_eq!(sights.len(), 1);
    assert_eq!(
        (&sights[0].key, sights[0].terms.limit, sights[0].left),
        (&batch, PicoUsd(5_000_000_000_000), 5_000_000_000_000)
    );
    let verdicts = lab.store.admit(worker, super::arrivals(&submitted.jobs)).await.unwrap();
    let ticket = super::ticket(&verdicts[0]);
    assert!(ticket.has_budget && ticket.project.as_deref() == Some("suite"));
    let raised = Terms { on_exceed: OnExceed::Fail, ..terms(6_000_000_000_000) };
    assert!(lab.store.set_budget(&batch, Some(&raised), "somebody").await.unwrap(), "there was one");
    assert_eq!(lab.store.lease_budgets(worker, &[]).await.unwrap()[0].terms, raised);
    lab.store.flush(worker, &[paid(&ticket.job, worker, &[], Some(1))]).await.unwrap();
    assert_eq!(lab.store.lease_budgets(worker, &[]).await.unwrap(), [], "it has ended");
    assert!(lab.store.set_budget(&batch, None, "somebody").await.unwrap());
    assert_eq!(lab.store.budgets().await.unwrap(), []);
    assert!(!lab.store.set_budget(&batch, None, "somebody").await.unwrap());
}
