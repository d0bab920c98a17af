//! Changing a simulator while it runs, from this process and from outside.

use super::*;
use crate::simulate::FaultRule;

fn rules(texts: &[&str]) -> Vec<FaultRule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn control_changes_what_later_calls_meet() {
    let simulator = start(Options::default()).await;
    let control = simulator.control();
    assert_eq!(status(&simulator, "job").await, 200);
    control.set_faults(rules(&["503"]));
    assert_eq!(status(&simulator, "job").await, 503);
    control.set_faults(Vec::new());
    control.set_required_key(Some("sk-right".into()));
    assert_eq!(status(&simulator, "job").await, 401);
    control.set_required_key(None);
    control.set_output_tokens(1);
    let answer = json(ask(&simulator, "job").await.unwrap()).await;
    assert_eq!(answer["usage"]["completion_tokens"], 1);
    control.set_limits(limits("rpm:1"));
    assert_eq!((status(&simulator, "job").await, status(&simulator, "job").await), (200, 429));
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_most_calls_at_once_are_counted() {
    let simulator = start(Options { latency: Duration::from_secs(3_600), ..Options::default() }).await;
    let control = simulator.control();
    let calls: Vec<_> = (0..7).map(|job| post(&simulator, "/chat/completions", &chat(&job.to_string()))).collect();
    let calls = calls.into_iter().map(|call| async move { call.send().await.is_ok() });
    let (answers, ()) = tokio::join!(all(calls), async {
        until("seven calls wait", || control.stats().in_flight == 7).await;
        simulator.shutdown().await;
    });
    assert_eq!(answers, [false; 7]);
    let stats = control.stats();
    assert_eq!((stats.received, stats.in_flight, stats.max_in_flight), (7, 0, 7));
    assert_eq!(stats.by_outcome.get("shutdown"), Some(&7));
}

#[tokio::test]
async fn another_process_steers_over_http() {
    let simulator = start(Options::default()).await;
    let url = |path: &str| format!("http://{}/simulator/{path}", simulator.addr());
    let set = client().post(url("faults")).body(r#"["500:1","429:0.02:retry-after=1.5"]"#).send().await.unwrap();
    assert_eq!(set.status(), 200);
    assert_eq!(json(set).await, json!({ "faults": ["500:1", "429:0.02:retry-after=1.5"] }));
    assert_eq!(status(&simulator, "job").await, 500);
    let listed = client().get(url("faults")).send().await.unwrap();
    assert_eq!(json(listed).await["faults"][0], "500:1");

    let wrong = client().post(url("faults")).body(r#"["50:1"]"#).send().await.unwrap();
    assert_eq!(wrong.status(), 400);
    let message = json(wrong).await["error"]["message"].take();
    assert!(message.as_str().unwrap().starts_with("fault rule `50:1` cannot be read: "), "{message}");
    assert_eq!(status(&simulator, "job").await, 500, "a wrong list changes nothing");
    client().post(url("faults")).body("[]").send().await.unwrap();
    assert_eq!(status(&simulator, "job").await, 200);

    let stats = json(client().get(url("stats")).send().await.unwrap()).await;
    assert_eq!((stats["received"].as_u64(), stats["in_flight"].as_u64()), (Some(3), Some(0)));
    assert_eq!(stats["by_status"], json!({ "200": 1, "500": 2 }));
    simulator.shutdown().await;
}

#[tokio::test]
async fn settings_are_changed_over_http_and_the_rest_stays() {
    let simulator = start(Options { output_tokens: 1, ..Options::default() }).await;
    let url = format!("http://{}/simulator/settings", simulator.addr());
    let set = |body: &'static str| client().post(&url).body(body).send();
    assert_eq!(set(r#"{"latency_ms":30,"limits":{"rpm":1}}"#).await.unwrap().status(), 200);
    let start = Instant::now();
    let answer = ask(&simulator, "job").await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(json(answer).await["usage"]["completion_tokens"], 1);
    assert_eq!(status(&simulator, "job").await, 429);
    assert_eq!(set(r#"{"latency_ms":0,"limits":{}}"#).await.unwrap().status(), 200);
    assert_eq!(status(&simulator, "job").await, 200);
    assert_eq!(set(r#"{"latency":0}"#).await.unwrap().status(), 400);
    simulator.shutdown().await;
}
