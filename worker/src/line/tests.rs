use gristmill_common::config::{AllowedFailsPolicy, Deployment, Strategy};
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::quota::{Grant, Slice};

use futures_util::FutureExt as _;

use super::*;
use crate::gate::Cooling;
use crate::provider::{Call, Provider, Reply};
use crate::share::Share;
use crate::window::Window;

/// Is never called.
#[derive(Debug)]
struct Nobody;

#[async_trait::async_trait]
impl Provider for Nobody {
    async fn call(&self, _: Call<'_>) -> Reply {
        Reply::new(Err(Box::new(ErrorRecord::new(ErrorClass::BadRequest, "nobody"))))
    }
}

/// Makes a group with deployments of these names, each with an account of its own that limits nothing.
fn group(name: &str, deployments: &[&str], share: Share) -> Arc<Group> {
    let now = Instant::now();
    let gate = |name: &&str| {
        let endpoint = "http://localhost/v1".parse().unwrap();
        let deployment = Deployment { name: (*name).into(), ..Deployment::new("m", "openai", "m", endpoint) };
        let ledger = Ledger::new((*name).into(), deployment.limits);
        ledger.grant(&Grant::default(), now, now);
        let cooling = Cooling {
            has_others: false,
            length: Duration::from_secs(5),
            allowed_fails: None,
            by_class: AllowedFailsPolicy::default(),
            disabled: false,
        };
        Gate::new(deployment, Arc::new(Nobody), ledger, cooling, Arc::new(Notify::new()))
    };
    let gates = deployments.iter().map(gate).collect();
    Arc::new(Group::new(name.into(), gates, Strategy::Ordered, Window::new(1_000, 1 << 20), share))
}

fn line(groups: &[Arc<Group>], concurrency: usize) -> Line {
    let bell = Arc::new(Notify::new());
    let slots = |count| Slots::new(count, Arc::clone(&bell));
    Line::new(groups.to_vec(), slots(concurrency), slots(2 * concurrency), concurrency, Arc::clone(&bell))
}

fn batch() -> BatchId {
    BatchId::new(chrono::DateTime::from_timestamp(1_000, 0).unwrap())
}

fn enter(line: &Line, group: &Group, batch: BatchId, fit: Option<Vec<bool>>) -> oneshot::Receiver<Answer> {
    line.enter(group, Priority::Standard, batch, Wish { size: Size::of_bytes(10), fit })
}

/// Returns the permit of who may go.
fn permit(answer: &mut oneshot::Receiver<Answer>) -> Option<Permit> {
    match answer.try_recv().ok()? {
        Answer::Go(permit) => Some(*permit),
        Answer::TooLarge(why) => panic!("{why}"),
    }
}

#[test]
fn a_group_takes_all_slots_while_others_are_idle_and_gives_them_back_as_its_calls_end() {
    let start = Instant::now();
    let mut shares = Share::among(2, 16);
    let groups = ["a", "b"].map(|name| group(name, &[name], shares.next().unwrap()));
    let line = line(&groups, 16);
    let batch = batch();
    let mut of_a: Vec<_> = (0..60).map(|_| enter(&line, &groups[0], batch, None)).collect();
    line.start_all(start);
    let mut running: Vec<Permit> = of_a.iter_mut().filter_map(permit).collect();
    assert_eq!(running.len(), 16, "nobody else has work");

    let mut of_b: Vec<_> = (0..60).map(|_| enter(&line, &groups[1], batch, None)).collect();
    let mut of_b_running = Vec::new();
    for ended in 1..=16 {
        running.remove(0);
        line.start_all(start + Duration::from_millis(ended));
        running.extend(of_a.iter_mut().filter_map(permit));
        of_b_running.extend(of_b.iter_mut().filter_map(permit));
        assert_eq!(running.len() + of_b_running.len(), 16);
    }
    assert_eq!(of_b_running.len(), 8, "half of them are its own");

    of_b.clear();
    of_b_running.clear();
    line.start_all(start + Duration::from_secs(1));
    running.extend(of_a.iter_mut().filter_map(permit));
    assert_eq!(running.len(), 8, "its share is kept for some seconds");
    assert!(line.start_all(start + Duration::from_secs(1)).is_some(), "and that is looked at again");
    line.start_all(start + Duration::from_secs(30));
    running.extend(of_a.iter_mut().filter_map(permit));
    assert_eq!(running.len(), 16);
}

#[test]
fn a_job_whose_deployments_wait_is_passed_by_those_behind_it_that_have_others() {
    let start = Instant::now();
    let share = Share::among(1, 16).next().unwrap();
    let group = group("m", &["full", "free"], share);
    let groups = [Arc::clone(&group)];
    let line = line(&groups, 16);
    let batch = batch();
    let one_at_once = Grant { slots: Some(1), ..Grant::default() };
    group.gates[0].ledger.grant(&one_at_once, start, start);
    let (full, free) = (|| Some(vec![true, false]), || Some(vec![false, true]));
    let mut first = enter(&line, &group, batch, full());
    line.start_all(start);
    let running = permit(&mut first).unwrap();

    let mut waiting: Vec<_> = (0..3).map(|_| enter(&line, &group, batch, full())).collect();
    let mut passing: Vec<_> = (0..3).map(|_| enter(&line, &group, batch, free())).collect();
    line.start_all(start);
    assert!(waiting.iter_mut().all(|answer| permit(answer).is_none()));
    let passed: Vec<Permit> = passing.iter_mut().filter_map(permit).collect();
    assert_eq!(passed.len(), 3);
    assert!(passed.iter().all(|permit| &*permit.gate().deployment.name == "free"));

    let mut last = enter(&line, &group, batch, full());
    drop(running);
    line.start_all(start);
    assert!(permit(&mut waiting[0]).is_some(), "the first of those that waited is the first that goes");
    assert!(waiting[1..].iter_mut().chain([&mut last]).all(|answer| permit(answer).is_none()));
}

#[test]
fn a_job_asks_for_nothing_where_it_cannot_go() {
    let group = group("m", &["a", "b"], Share::among(1, 16).next().unwrap());
    let line = line(&[Arc::clone(&group)], 16);
    let large = Wish { size: Size::of_bytes(4_000_000), fit: Some(vec![true, false]) };
    let _large = line.enter(&group, Priority::Standard, batch(), large);
    let next = |gate: usize| line.demand(&group.gates[gate].ledger).next[Dimension::InputTokens];
    assert_eq!((next(0), next(1)), (1_000_001, 0));
    let _small = enter(&line, &group, batch(), None);
    assert_eq!((next(0), next(1)), (1_000_001, 3));
}

#[test]
fn a_worker_takes_in_what_its_limits_of_calls_and_tokens_let_start_soon() {
    let start = Instant::now();
    let size = |tokens| Size { input: tokens, by_length: Some(tokens), ..Size::default() };
    for (rpm, tpm, tokens, sharers, room) in [
        (None, None, 1_000, 1, 129),
        (Some(600), None, 1_000, 1, 100),
        (None, Some(60_000), 1_000, 1, 10),
        (None, Some(60_000), 1_000, 2, 5),
        (Some(60), Some(60_000), 100, 1, 10),
        (Some(600), Some(60_000), 20_000, 1, 0),
    ] {
        let group = group("m", &["a"], Share::among(1, 128).next().unwrap());
        let line = line(&[Arc::clone(&group)], 128);
        let mut grant = Grant { sharers, ..Grant::default() };
        (grant.per_minute[Dimension::Requests], grant.per_minute[Dimension::Tokens]) = (rpm, tpm);
        group.gates[0].ledger.grant(&grant, start, start);
        let _waits = line.enter(&group, Priority::Standard, batch(), Wish { size: size(tokens), fit: None });
        let takes = group.room(line.estimator()).now_or_never().unwrap();
        let wanted = room + usize::from(room < 129);
        assert_eq!(takes, wanted, "{rpm:?} rpm, {tpm:?} tpm, {tokens} tokens, {sharers} workers");
    }
}

#[test]
fn a_job_that_may_fit_a_limit_starts_and_one_that_cannot_is_refused() {
    let start = Instant::now();
    for (tokens, goes) in [(50_000, true), (70_000, true), (80_000, false)] {
        let group = group("m", &["a"], Share::among(1, 8).next().unwrap());
        let line = line(&[Arc::clone(&group)], 8);
        let mut grant = Grant::default();
        grant.per_minute[Dimension::Tokens] = Some(60_000);
        grant.slices[Dimension::Tokens] = Some(Slice { units: 60_000, begins: 0, ends: 60_000_000 });
        group.gates[0].ledger.grant(&grant, start, start);
        let size = Size { input: tokens, by_length: Some(tokens), ..Size::default() };
        let mut answer = line.enter(&group, Priority::Standard, batch(), Wish { size, fit: None });
        assert!(line.demand(&group.gates[0].ledger).next[Dimension::Tokens] <= tokens);
        line.start_all(start);
        match answer.try_recv().unwrap() {
            Answer::Go(permit) => assert!(goes && permit.taken[Dimension::Tokens] <= 60_000, "{tokens}"),
            Answer::TooLarge(why) => assert!(!goes && why.contains("at least 64000 tokens"), "{tokens}: {why}"),
        }
    }
}
