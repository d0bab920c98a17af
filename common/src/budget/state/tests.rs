use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::super::Scope;
use super::*;

fn key(period: Period) -> BudgetKey {
    BudgetKey { scope: Scope::All, period }
}

fn at(text: &str) -> Micros {
    text.parse::<DateTime<Utc>>().unwrap().timestamp_micros()
}

fn owner(n: i64) -> OwnerId {
    OwnerId::from_uuid(uuid::Uuid::from_u128(n.unsigned_abs().into()))
}

fn budget(limit: i64) -> Budget {
    let mut budget = Budget::default();
    budget.set(0, Terms { limit: PicoUsd(limit), ..Terms::default() }, "somebody");
    budget
}

fn ask(start: Micros, settled: i64, used: i64, wanted: i64) -> BudgetAsk {
    BudgetAsk { key: key(Period::Total), start, settled, used, wanted, least: 10 }
}

#[test]
fn what_is_leased_to_one_is_not_there_for_another() {
    let mut budget = budget(1_000);
    let (a, b) = (owner(1), owner(2));
    assert_eq!(budget.lease(1, a, &ask(0, 0, 0, 600)).granted, 600);
    assert_eq!(budget.lease(2, b, &ask(0, 0, 0, 600)).granted, 200, "half of what is free");
    budget.spend(3, a, &key(Period::Total), 500, 0);
    let sight = budget.lease(4, a, &ask(0, 500, 500, 500));
    assert_eq!((sight.granted, sight.left), (500, 500), "what it does not want goes back");
    assert_eq!(budget.lease(5, b, &ask(0, 0, 0, 600)).granted, 250);
    assert_eq!(budget.standing(6, key(Period::Total)).leased, PicoUsd(250));
}

#[test]
fn near_the_end_one_call_is_leased_after_the_other() {
    let mut budget = budget(25);
    let (a, b) = (owner(1), owner(2));
    budget.lease(1, b, &ask(0, 0, 0, 0));
    assert_eq!(budget.lease(1, a, &ask(0, 0, 0, 100)).granted, 12, "half is a call");
    assert_eq!(budget.lease(2, b, &ask(0, 0, 0, 10)).granted, 10, "half would be none");
    budget.spend(3, a, &key(Period::Total), 10, 0);
    budget.spend(3, b, &key(Period::Total), 10, 0);
    let sight = budget.lease(4, a, &ask(0, 10, 10, 20));
    assert!(sight.granted < 20 && sight.left == 5, "{sight:?}");
}

#[test]
fn a_running_call_keeps_what_it_was_promised() {
    let mut budget = budget(100);
    let (a, b) = (owner(1), owner(2));
    assert_eq!(budget.lease(1, a, &ask(0, 0, 0, 100)).granted, 100);
    budget.set(2, Terms { limit: PicoUsd(50), ..Terms::default() }, "somebody");
    assert_eq!(budget.lease(3, a, &ask(0, 0, 80, 200)).granted, 80);
    assert_eq!(budget.lease(4, b, &ask(0, 0, 0, 10)).granted, 0);
}

#[test]
fn the_lease_of_a_silent_worker_runs_out_and_it_begins_where_it_stands() {
    let mut budget = budget(1_000);
    let (a, b) = (owner(1), owner(2));
    budget.lease(0, a, &ask(0, 0, 0, 600));
    budget.spend(1, a, &key(Period::Total), 300, 0);
    let later = i64::try_from(LEASE.as_micros()).unwrap() + 2;
    assert_eq!(budget.lease(later, b, &ask(0, 0, 0, 700)).granted, 700);
    assert_eq!(budget.lease(later + 1, a, &ask(0, 300, 300, 400)).granted, 300, "no more than it used");
}

#[test]
fn a_period_begins_anew() {
    let mut budget = budget(100);
    let (morning, midnight) = (at("2026-11-23T08:00:00Z"), at("2026-11-24T00:00:00Z"));
    let day = key(Period::Day);
    let start = at("2026-11-23T00:00:00Z");
    assert_eq!(budget.lease(morning, owner(1), &BudgetAsk { key: day.clone(), ..ask(start, 0, 0, 80) }).granted, 80);
    assert_eq!(budget.spend(morning, owner(1), &day, 80, 0).map(|alert| alert.percent), Some(80));
    let sight = budget.lease(midnight, owner(1), &BudgetAsk { key: day.clone(), ..ask(start, 80, 80, 90) });
    assert_eq!((sight.start, sight.granted, sight.left), (midnight, 0, 100), "the worker is told first");
    let sight = budget.lease(midnight, owner(1), &BudgetAsk { key: day.clone(), ..ask(midnight, 0, 0, 60) });
    assert_eq!(sight.granted, 60);
    assert_eq!(budget.spend(midnight, owner(1), &day, 60, 0).map(|alert| alert.percent), Some(50), "told again");
    let standing = budget.standing(midnight - 1, day);
    assert_eq!(standing.spent, PicoUsd(60), "a clock that goes back opens nothing");
}

#[test]
fn each_threshold_is_told_once_the_highest_that_was_crossed() {
    let mut budget = budget(1_000);
    let key = key(Period::Total);
    let mut spend = |cost| budget.spend(1, owner(1), &key, cost, 0).map(|alert| alert.percent);
    assert_eq!([499, 1, 1, 400, 0, 100, 500].map(&mut spend), [None, Some(50), None, Some(80), None, Some(100), None]);
    budget.set(2, Terms { limit: PicoUsd(3_000), ..Terms::default() }, "somebody");
    assert_eq!(budget.spend(3, owner(1), &key, 900, 0).map(|alert| alert.percent), Some(80), "raised, and told again");
    let message = budget.spend(4, owner(1), &key, 700, 7).unwrap().message;
    assert_eq!(
        message,
        "budget all: $0.000000003108 of $0.000000003 spent (103 %); its jobs wait until it is raised or begins anew"
    );
}

#[test]
fn a_soft_limit_stops_nothing() {
    let mut budget = Budget::default();
    budget.set(0, Terms { limit: PicoUsd(10), soft: true, ..Terms::default() }, "somebody");
    budget.spend(1, owner(1), &key(Period::Total), 100, 0);
    assert_eq!(budget.lease(2, owner(1), &ask(0, 100, 100, 900)).granted, 900);
}

#[test]
fn what_cannot_be_read_stops_all() {
    let mut unreadable = Budget::read("no json");
    assert_eq!(unreadable.lease(1, owner(1), &ask(0, 0, 0, 100)).granted, 0);
    let mut kept = budget(7);
    kept.lease(1, owner(1), &ask(0, 0, 0, 5));
    assert_eq!(Budget::read(&kept.write()), kept);
}

proptest! {
    /// Workers lease, promise, call and settle in any order; calls cost at most what was promised.
    #[test]
    fn never_more_is_spent_than_the_limit(
        limit in 0_i64..2_000,
        steps in prop::collection::vec((0_usize..4, 0_u8..4, 1_i64..60, 0_i64..100), 1..200),
    ) {
        #[derive(Default, Clone)]
        struct Worker { granted: i64, settled: i64, promised: Vec<i64> }
        let mut budget = budget(limit);
        let mut workers = vec![Worker::default(); 4];
        let mut spent = 0;
        for (time, (n, what, amount, share)) in (1_i64..).zip(steps) {
            let worker = &mut workers[n];
            let used = |worker: &Worker| worker.settled + worker.promised.iter().sum::<i64>();
            match what {
                0 => {
                    let ask = BudgetAsk { least: amount, ..ask(0, worker.settled, used(worker), used(worker) + 3 * amount) };
                    worker.granted = budget.lease(time, owner(i64::try_from(n).unwrap()), &ask).granted;
                }
                1 if used(worker) + amount <= worker.granted => worker.promised.push(amount),
                2 => if let Some(promised) = worker.promised.pop() {
                    let cost = promised * share / 100;
                    budget.spend(time, owner(i64::try_from(n).unwrap()), &key(Period::Total), cost, 0);
                    worker.settled += cost;
                    spent += cost;
                },
                _ => {}
            }
            let promised: i64 = workers.iter().flat_map(|worker| &worker.promised).sum();
            prop_assert!(spent + promised <= limit, "{} and {} of {}", spent, promised, limit);
        }
    }
}
