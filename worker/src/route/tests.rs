use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use gristmill_common::config::{AllowedFailsPolicy, Endpoint, Wire};
use gristmill_common::failure::FellBack;
use gristmill_common::price::{Book, Tariff};
use gristmill_common::quota::{Blocked, Grant};
use tokio::sync::Notify;

use super::*;
use crate::gate::Cooling;
use crate::provider::{Call, Provider, Reply};
use crate::quota::Ledger;
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

fn deployment(name: &str) -> Deployment {
    let endpoint: Endpoint = "http://localhost/v1".parse().unwrap();
    Deployment { name: name.into(), wire: Wire::default(), ..Deployment::new("m", "openai", "m", endpoint) }
}

fn gate(deployment: Deployment) -> Arc<Gate> {
    let ledger = Ledger::new(Arc::clone(&deployment.account), deployment.limits);
    let cooling = Cooling {
        has_others: true,
        length: Duration::from_secs(5),
        allowed_fails: None,
        by_class: AllowedFailsPolicy::default(),
        disabled: false,
    };
    Gate::new(deployment, Arc::new(Nobody), ledger, cooling, Arc::new(Notify::new()))
}

fn gates<const N: usize>(deployments: [Deployment; N]) -> Vec<Arc<Gate>> {
    deployments.into_iter().map(gate).collect()
}

fn routing(change: impl FnOnce(&mut Routing)) -> Routing {
    let mut routing = Routing::default();
    change(&mut routing);
    routing
}

fn weighing(name: &str, weight: u32, order: u32) -> Deployment {
    Deployment { weight, order, ..deployment(name) }
}

#[test]
fn weights_share_the_calls_and_a_lower_order_comes_first() {
    let gates = gates([weighing("a", 3, 1), weighing("b", 1, 1), weighing("none", 0, 1), weighing("late", 9, 2)]);
    let chooser = Chooser::new(Strategy::Weighted, &gates);
    let mut counts = [0; 4];
    for _ in 0..400 {
        let order = chooser.order(&gates, Size::default());
        assert_eq!(order[2..], [2, 3], "who has no weight, and then the later order");
        counts[order[0]] += 1;
        chooser.chose(order[0]);
    }
    assert_eq!(counts, [300, 100, 0, 0]);
}

#[test]
fn each_strategy_asks_by_its_own_measure() {
    let gates = gates([deployment("busy"), deployment("slow"), deployment("new")]);
    gates[0].begin(std::time::Instant::now());
    gates[0].took(100);
    gates[1].took(900);
    for (strategy, wanted) in
        [(Strategy::Ordered, [0, 1, 2]), (Strategy::LeastBusy, [1, 2, 0]), (Strategy::LowestLatency, [2, 0, 1])]
    {
        assert_eq!(Chooser::new(strategy, &gates).order(&gates, Size::default()), wanted, "{strategy:?}");
    }
}

#[test]
fn the_cheapest_for_the_usual_job_is_asked_first_and_one_without_a_price_last() {
    let priced = |name, input: &str, output: &str| {
        let own = [("input_cost_per_token", input), ("output_cost_per_token", output)];
        let own = own.map(|(field, rate)| (field.to_owned(), rate.to_owned())).into();
        let tariff = Tariff::new(Arc::new(Book::shipped()), "openai", name, None, own);
        Deployment { price: Some(tariff), ..deployment(name) }
    };
    let gates = gates([deployment("unknown"), priced("words", "1e-6", "9e-6"), priced("prompts", "2e-6", "3e-6")]);
    let chooser = Chooser::new(Strategy::LowestCost, &gates);
    for (input, most_output, wanted) in
        [(10_000, Some(100), [1, 2, 0]), (1_000, Some(1_000), [2, 1, 0]), (0, None, [2, 1, 0])]
    {
        let size = Size { input, most_output, ..Size::default() };
        assert_eq!(chooser.order(&gates, size), wanted, "{input} {most_output:?}");
    }
}

#[test]
fn tags_choose_among_deployments_only_where_that_is_asked_for() {
    let tagged =
        |name, tags: &[&str]| Deployment { tags: tags.iter().map(|tag| Arc::from(*tag)).collect(), ..deployment(name) };
    let gates = gates([tagged("free", &["free"]), tagged("paid", &["paid", "team=a"]), tagged("plain", &[])]);
    let size = Size::of_bytes(10);
    let fit_for = |tags: &[(&str, &str)], routing: &Routing| {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        fit(routing, &gates, &JobOptions { tags, ..JobOptions::default() }, size)
    };
    let off = Routing::default();
    assert_eq!(fit_for(&[("tier", "free")], &off), Ok(None));
    let any = routing(|routing| (routing.tag_filtering, routing.match_any_tag) = (true, true));
    assert_eq!(fit_for(&[("tier", "free")], &any), Ok(Some(vec![true, false, false])));
    assert_eq!(fit_for(&[("team", "a"), ("x", "y")], &any), Ok(Some(vec![false, true, false])));
    assert_eq!(fit_for(&[], &any), Ok(Some(vec![false, false, true])));
    assert_eq!(fit_for(&[("tier", "none")], &any), Err(Unfit::Tags));
}

#[test]
fn a_prompt_that_is_longer_than_every_window_is_told_before_a_call() {
    let windowed = |name, max_input_tokens| Deployment { max_input_tokens, ..deployment(name) };
    let gates = gates([windowed("small", Some(1_000)), windowed("large", Some(10_000))]);
    let fit_for =
        |input, routing: &Routing| fit(routing, &gates, &JobOptions::default(), Size { input, ..Size::default() });
    let on = Routing::default();
    assert_eq!(fit_for(900, &on), Ok(None));
    assert_eq!(fit_for(5_000, &on), Ok(Some(vec![false, true])));
    assert_eq!(fit_for(50_000, &on), Err(Unfit::TooLong { tokens: 50_000, most: 10_000 }));
    let off = routing(|routing| routing.pre_call_checks = Some(false));
    assert_eq!(fit_for(50_000, &off), Ok(None));
}

fn group(name: &str) -> Arc<Group> {
    let own = Deployment { group: name.into(), ..deployment(name) };
    let share = Share::among(1, 10).next().unwrap();
    Arc::new(Group::new(name.into(), vec![gate(own)], Strategy::Weighted, Window::new(10, 1_000), share))
}

fn been(groups: &[&str]) -> Vec<EarlierAttempt> {
    let fell_back = |to: &&str| EarlierAttempt {
        fell_back: Some(FellBack { to: (*to).to_owned(), attempts: 3 }),
        ..EarlierAttempt::new(1, ErrorClass::InternalServer)
    };
    groups.iter().map(fell_back).collect()
}

#[test]
fn a_run_goes_through_each_group_once_by_what_its_error_means() {
    let groups: Vec<Arc<Group>> = ["a", "b", "c", "long"].map(group).into();
    let list = |from: &str, to: &[&str]| (Arc::from(from), to.iter().map(|to| Arc::from(*to)).collect());
    let routing = routing(|routing| {
        routing.fallbacks = [list("a", &["b", "c"])].into();
        routing.context_window_fallbacks = [list("a", &["long"])].into();
    });
    let routes = Routes::new(Arc::new(routing), &groups);
    let next = |class: ErrorClass, earlier: &[EarlierAttempt]| {
        routes.next(&groups[0], &groups[0], earlier, &ErrorRecord::new(class, "m")).map(|group| group.name.to_string())
    };
    assert_eq!(next(ErrorClass::InternalServer, &[]).as_deref(), Some("b"));
    assert_eq!(next(ErrorClass::InternalServer, &been(&["b"])).as_deref(), Some("c"));
    assert_eq!(next(ErrorClass::InternalServer, &been(&["b", "c"])), None);
    assert_eq!(next(ErrorClass::ContextWindowExceeded, &[]).as_deref(), Some("long"));
    assert_eq!(next(ErrorClass::BadRequest, &[]), None, "the same request would fail there as well");
    assert_eq!(&*routes.current(&groups[0], &been(&["b", "c"])).name, "c");
    assert_eq!(&*routes.current(&groups[0], &been(&["gone"])).name, "a", "a group that this worker cannot call");
    assert_eq!(attempts_before(&been(&["b"])), 3);
}

#[test]
fn a_run_leaves_a_group_whose_day_is_used_up_as_soon_as_another_is_open() {
    let groups: Vec<Arc<Group>> = ["a", "b", "c"].map(group).into();
    let routing = routing(|routing| routing.fallbacks = [("a".into(), vec!["b".into(), "c".into()])].into());
    let routes = Routes::new(Arc::new(routing), &groups);
    let now = Instant::now();
    let use_up = |group: &Group, is_used_up: bool| {
        let blocked = Blocked { length: Duration::from_secs(3_600), reason: "used up".to_owned() };
        let grant = Grant { blocked: is_used_up.then_some(blocked), ..Grant::default() };
        group.gates[0].ledger.grant(&grant, now, now);
    };
    let mut used_up = Box::pin(routes.used_up(&groups[0], &groups[0], &[], &[]));
    assert_eq!(used_up.as_mut().now_or_never(), None);
    use_up(&groups[1], true);
    use_up(&groups[2], true);
    use_up(&groups[0], true);
    assert_eq!(used_up.as_mut().now_or_never(), None, "nothing else is open");
    use_up(&groups[2], false);
    use_up(&groups[0], false);
    use_up(&groups[0], true);
    assert!(used_up.now_or_never().is_some_and(|left| left > Duration::from_secs(3_500)));

    let left = ["c".into()];
    assert!(routes.used_up(&groups[0], &groups[0], &[], &left).now_or_never().is_none(), "it was left for that");
    assert!(routes.used_up(&groups[1], &groups[1], &[], &[]).now_or_never().is_none(), "it falls back to nothing");
}

#[test]
fn where_a_run_fell_back_to_outlives_the_calls_that_are_kept() {
    let mut earlier = been(&["b", "c"]);
    for attempt in 2..12 {
        earlier.push(EarlierAttempt { attempt, fell_back: None, ..been(&["x"])[0].clone() });
        keep_newest(&mut earlier, 8);
    }
    assert_eq!(earlier.len(), 8);
    let been: Vec<&str> = earlier.iter().filter_map(|earlier| Some(&*earlier.fell_back.as_ref()?.to)).collect();
    assert_eq!(been, ["b", "c"]);
    assert_eq!(earlier.last().unwrap().attempt, 11);
    let here: u32 = earlier.iter().filter(|earlier| earlier.fell_back.is_none()).map(|earlier| earlier.times).sum();
    assert_eq!(here, 10, "none of the calls in this group is forgotten");
}

#[test]
fn earlier_calls_are_folded_by_class_and_those_of_groups_that_were_left_go_first() {
    let call = |(attempt, class): (u32, &ErrorClass)| EarlierAttempt::new(attempt, class.clone());
    let (timeout, server, refused) = (ErrorClass::Timeout, ErrorClass::InternalServer, ErrorClass::RateLimit);
    let shown = |earlier: &[EarlierAttempt]| -> Vec<(u32, u32)> {
        earlier.iter().map(|earlier| (earlier.attempt, earlier.times)).collect()
    };
    let mut earlier: Vec<_> = (1..).zip([&refused, &timeout, &server, &timeout, &server]).map(call).collect();
    keep_newest(&mut earlier, 4);
    assert_eq!(shown(&earlier), [(1, 1), (3, 1), (4, 2), (5, 1)]);
    keep_newest(&mut earlier, 3);
    assert_eq!(shown(&earlier), [(1, 1), (4, 2), (5, 2)]);
    keep_newest(&mut earlier, 2);
    assert_eq!(shown(&earlier), [(4, 2), (5, 2)], "there are more classes than places");

    let mut left: Vec<_> = (1..).zip([&timeout, &server]).map(call).collect();
    left.extend(been(&["b"]));
    left.extend((4..).zip([&timeout, &timeout]).map(call));
    keep_newest(&mut left, 4);
    assert_eq!(shown(&left), [(2, 1), (1, 1), (4, 1), (5, 1)]);
    keep_newest(&mut left, 2);
    assert_eq!(shown(&left), [(1, 1), (5, 2)], "a timeout before the other group does not count in it");
}
