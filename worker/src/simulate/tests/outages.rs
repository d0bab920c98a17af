//! Outages by control, over HTTP and by plan, and the count of the calls that meet one.

use super::*;
use crate::simulate::FaultRule;

fn rule(text: &str) -> Option<FaultRule> {
    Some(text.parse().unwrap())
}

#[tokio::test]
async fn an_outage_comes_before_keys_limits_and_scripts() {
    let options = Options { require_key: Some("sk-1".into()), limits: limits("rpm:1"), ..Options::default() };
    let simulator = start(options).await;
    let control = simulator.control();
    control.set_outage(rule("503"));
    for api in APIS {
        let answer = api.ask(&simulator, "Hello. simulate:ok", json!({})).await;
        assert_eq!(answer.status(), 503, "{api:?}");
        assert!(!answer.headers().keys().any(|name| name.as_str().contains("ratelimit")), "{api:?}");
    }
    let models = client().get(format!("{}/models", simulator.base_url()));
    assert_eq!(models.send().await.unwrap().status(), 503);
    assert_eq!(client().get(format!("http://{}/health", simulator.addr())).send().await.unwrap().status(), 200);
    control.set_outage(None);
    control.set_required_key(None);
    let call = || APIS[0].ask(&simulator, "Hello. simulate:500,ok", json!({}));
    assert_eq!(call().await.status(), 500, "the script begins after the outage");
    assert_eq!(call().await.status(), 429);
    let stats = control.stats();
    assert_eq!((stats.outage.calls, stats.limits.accepted, stats.limits.refused), (5, 1, 1));
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_calls_of_an_outage_are_counted_with_those_at_once() {
    let simulator = start(Options::default()).await;
    let control = simulator.control();
    control.set_outage(rule("503"));
    for _ in 0..3 {
        assert_eq!(status(&simulator, "probe").await, 503);
        until("the call has ended", || control.stats().outage.in_flight == 0).await;
    }
    assert_eq!((control.stats().outage.calls, control.stats().outage.max_in_flight), (3, 1));
    control.set_outage(rule("close"));
    // All of them arrive within it.
    control.set_latency(Duration::from_secs(5), Duration::ZERO);
    let answers = all((0..4).map(|_| ask(&simulator, "together"))).await;
    assert!(answers.iter().all(Result::is_err));
    control.set_latency(Duration::ZERO, Duration::ZERO);
    control.set_outage(rule("503:1:model=another"));
    assert_eq!(status(&simulator, "fine").await, 200);
    until("all calls have ended", || control.stats().in_flight == 0).await;
    let outage = control.stats().outage;
    assert_eq!((outage.calls, outage.in_flight, outage.max_in_flight), (7, 0, 4));
    simulator.shutdown().await;
}

#[tokio::test]
async fn an_outage_that_lets_some_through_lets_those_through_who_try_again() {
    let simulator = start(Options::default()).await;
    simulator.control().set_outage(rule("503:0.5"));
    for job in 0..20 {
        let mut tries = 1;
        while status(&simulator, &format!("job {job}")).await == 503 {
            tries += 1;
            assert!(tries < 50, "job {job} never gets through");
        }
    }
    assert!(simulator.control().stats().outage.calls > 0);
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_planned_outage_begins_and_ends_by_itself() {
    let outages = vec!["1s+6s:refuse".parse().unwrap()];
    let simulator = start(Options { outages, ..Options::default() }).await;
    // Time runs from the first call, not from the start.
    tokio::time::sleep(Duration::from_millis(1_250)).await;
    let start = Instant::now();
    assert_eq!(status(&simulator, "job").await, 200);
    let mut course = vec![true];
    while start.elapsed() < DEADLINE && course.len() < 3 {
        let is_up = ask(&simulator, "job").await.is_ok();
        if course.last() != Some(&is_up) {
            course.push(is_up);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(course, [true, false, true]);
    assert!(start.elapsed() >= Duration::from_secs(7));
    let stats = simulator.control().stats();
    assert_eq!(stats.by_outcome.get("close"), Some(&stats.outage.calls));
    simulator.shutdown().await;
}

#[tokio::test]
async fn another_process_switches_outages() {
    let simulator = start(Options::default()).await;
    let url = format!("http://{}/simulator/settings", simulator.addr());
    let set = |body: &'static str| client().post(&url).body(body).send();
    for (body, status_now) in [
        (r#"{"outage":true}"#, Some(503)),
        (r#"{"latency_ms":0}"#, Some(503)),
        (r#"{"outage":"refuse"}"#, None),
        (r#"{"outage":"529"}"#, Some(529)),
        (r#"{"outage":false}"#, Some(200)),
    ] {
        assert_eq!(set(body).await.unwrap().status(), 200, "{body}");
        let answer = ask(&simulator, "job").await.ok().map(|answer| answer.status().as_u16());
        assert_eq!(answer, status_now, "{body}");
    }
    assert_eq!(set(r#"{"outage":"200"}"#).await.unwrap().status(), 400);
    assert_eq!(set(r#"{"outage":5}"#).await.unwrap().status(), 400);
    simulator.shutdown().await;
}
