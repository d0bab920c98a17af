use gristmill_common::id::BatchId;
use gristmill_common::price::PicoUsd;

use super::*;

const KEY: BudgetKey = BudgetKey { scope: Scope::All, period: Period::Day };

fn sight(start: Micros, granted: i64, left: i64) -> BudgetSight {
    BudgetSight { key: KEY, terms: Terms { limit: PicoUsd(1_000), ..Terms::default() }, start, granted, left }
}

fn state(granted: i64, left: i64) -> State {
    let mut state = State::default();
    state.see(vec![sight(0, granted, left)]);
    state
}

/// Returns what is asked for: what is used, and what is wanted.
fn asked(state: &mut State) -> Vec<(i64, i64)> {
    state.asks().into_iter().map(|ask| (ask.used, ask.wanted)).collect()
}

#[test]
fn what_is_promised_is_not_there_for_another_call() {
    let mut state = state(100, 1_000);
    assert_eq!(state.blocked(&[KEY], 60), None);
    state.promise(&[KEY], 60);
    assert_eq!(state.blocked(&[KEY], 60), Some(Blocked::Short(KEY)));
    state.spend(&[KEY], 30);
    state.release(&[KEY], 60);
    assert_eq!(state.blocked(&[KEY], 60), None, "it cost half of it");
    assert!(matches!(state.blocked(&[KEY], 1_001), Some(Blocked::Exhausted { .. })));
}

#[test]
fn what_was_taken_and_what_was_missing_is_asked_for_and_the_rest_given_back() {
    let mut state = state(100, 1_000);
    assert_eq!(asked(&mut state), [(0, 0)], "nothing is used of what it holds");
    state.see(vec![sight(0, 0, 1_000)]);
    assert_eq!(asked(&mut state), []);
    state.blocked(&[KEY], 40);
    assert_eq!(asked(&mut state), [(0, 40)]);
    state.see(vec![sight(0, 40, 1_000)]);
    state.promise(&[KEY], 40);
    assert_eq!(asked(&mut state), [(40, 120)], "as much again, twice");
}

#[test]
fn a_lease_is_asked_for_while_calls_run_so_that_it_does_not_run_out() {
    let mut state = state(40, 1_000);
    state.promise(&[KEY], 40);
    asked(&mut state);
    for _ in 0..3 {
        state.see(vec![sight(0, 40, 1_000)]);
        assert_eq!(asked(&mut state), [(40, 40)]);
    }
}

#[test]
fn a_farewell_keeps_what_was_used_and_nothing_else() {
    let mut state = state(500, 1_000);
    state.promise(&[KEY], 40);
    state.spend(&[KEY], 30);
    state.release(&[KEY], 40);
    let farewell: Vec<_> = state.farewell().into_iter().map(|ask| (ask.used, ask.wanted)).collect();
    assert_eq!(farewell, [(30, 30)]);
}

#[test]
fn a_call_without_a_price_is_limited_by_nothing() {
    let mut state = state(0, 0);
    assert_eq!(state.blocked(&[KEY], 0), None);
    assert!(matches!(state.blocked(&[KEY], 1), Some(Blocked::Exhausted { .. })));
}

#[test]
fn running_calls_are_of_the_new_period_when_they_end() {
    let mut state = state(100, 1_000);
    state.promise(&[KEY], 60);
    state.spend(&[KEY], 20);
    state.see(vec![sight(86_400_000_000, 100, 1_000)]);
    assert_eq!(state.blocked(&[KEY], 50), Some(Blocked::Short(KEY)), "60 of 100 are promised still");
    state.release(&[KEY], 60);
    assert_eq!(state.blocked(&[KEY], 100), None, "what was spent was of the old one");
}

#[test]
fn a_budget_that_went_and_came_back_gives_no_room_of_its_own() {
    let mut state = state(100, 1_000);
    state.promise(&[KEY], 60);
    state.see(Vec::new());
    assert!(state.is_empty());
    state.see(vec![sight(0, 100, 1_000)]);
    state.release(&[KEY], 60);
    assert_eq!(state.blocked(&[KEY], 101), Some(Blocked::Short(KEY)));
}

#[test]
fn a_deployments_calls_are_expected_to_cost_what_the_dearest_did_of_late() {
    let endpoint = "http://localhost:1/v1".parse().unwrap();
    let deployment = Deployment::new("group", "openai", "m", endpoint);
    let mut state = State::default();
    assert_eq!(state.amount(&deployment, 100), 100);
    state.learn(&deployment.name, 100, 300);
    assert_eq!(state.amount(&deployment, 100), 300);
    for _ in 0..1_000 {
        state.learn(&deployment.name, 100, 50);
    }
    assert!((50..=51).contains(&state.amount(&deployment, 100)));
    state.learn(&deployment.name, 0, 5);
    state.learn(&deployment.name, 5, 0);
    assert!((50..=51).contains(&state.amount(&deployment, 100)), "what says nothing teaches nothing");
    assert_eq!(state.amount(&deployment, 0), 5, "where nothing is expected, what calls cost is");
}

#[test]
fn the_reason_that_passes_first_comes_first() {
    let exhausted = |period, on_exceed| {
        let terms = Terms { on_exceed, ..Terms::default() };
        let scope = Scope::Batch(BatchId::new(DateTime::UNIX_EPOCH));
        Blocked::Exhausted { key: BudgetKey { scope, period }, terms, start: 0 }
    };
    let ordered = [
        Blocked::Short(KEY),
        exhausted(Period::Day, OnExceed::Wait),
        exhausted(Period::Month, OnExceed::Wait),
        exhausted(Period::Total, OnExceed::Wait),
        exhausted(Period::Day, OnExceed::Fail),
    ];
    assert!(ordered.windows(2).all(|pair| pair[0].rank() < pair[1].rank()));
    assert_eq!(ordered[3].failure(), None);
    assert!(ordered[4].failure().is_some());
}
