//! Limits of every kind as their callers see them: refusals, headers, silence, changes, and what the audit tells.

use std::collections::BTreeMap;

use super::*;
use crate::simulate::{LimitShape, ModelLimits, Stats};

/// One of each dialect.
const DIALECTS: [Api; 3] = [APIS[0], APIS[3], APIS[4]];

async fn start_limited(text: &str) -> Simulator {
    start(Options { limits: limits(text), ..Options::default() }).await
}

/// Asks and returns the status.
async fn status_of(simulator: &Simulator, model: &str) -> u16 {
    APIS[0].ask(simulator, "Hello", json!({ "model": model })).await.status().as_u16()
}

/// Waits until all calls have ended.
async fn at_rest(simulator: &Simulator) -> Stats {
    let control = simulator.control();
    until("all calls have ended", || control.stats().in_flight == 0).await;
    control.stats()
}

#[tokio::test]
async fn every_limit_refuses_in_the_words_of_its_dialect() {
    let table = [
        // Limit, then what OpenAI, Azure and Anthropic say.
        ("rpm:1", ["requests per min (RPM)", "exceeded call rate", "1 requests per minute"]),
        ("tpm:1000", ["tokens per min (TPM)", "exceeded token rate", "1,000 input tokens per minute"]),
        ("itpm:60", ["input tokens per min (ITPM)", "exceeded token rate", "60 input tokens per minute"]),
        ("otpm:60", ["output tokens per min (OTPM)", "exceeded token rate", "60 output tokens per minute"]),
        ("rpd:1", ["requests per day (RPD)", "exceeded call rate", "1 requests per day"]),
    ];
    for (text, words) in table {
        for (api, words) in DIALECTS.into_iter().zip(words) {
            let simulator = start_limited(text).await;
            // As many as each limit takes: the maximum of these answers is 1,000 tokens but for Azure and Anthropic.
            let prompt = "x".repeat(200);
            let fields = if api.name == "azure" { json!({ "max_tokens": 900 }) } else { json!({}) };
            let mut refused = None;
            for _ in 0..30 {
                let response = api.ask(&simulator, &prompt, fields.clone()).await;
                if response.status() == 429 {
                    refused = Some(response);
                    break;
                }
                response.bytes().await.unwrap();
                at_rest(&simulator).await;
            }
            let refused = refused.unwrap_or_else(|| panic!("{text} never refuses {api:?}"));
            assert!(header(&refused, "retry-after").is_some(), "{text} {api:?}");
            let body = json(refused).await;
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(words), "{text} {api:?}: {message}");
            simulator.shutdown().await;
        }
    }
}

#[tokio::test]
async fn calls_beyond_max_parallel_are_refused_until_others_end() {
    // All of them arrive within it.
    let latency = Duration::from_secs(5);
    let words = ["concurrent requests: Limit 3", "call rate", "concurrent connections"];
    all(DIALECTS.into_iter().zip(words).map(|(api, words)| async move {
        let simulator = start(Options { limits: limits("max_parallel:3"), latency, ..Options::default() }).await;
        let answers = all((0..8).map(|_| api.ask(&simulator, "Hello", json!({})))).await;
        let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status() == 200);
        assert_eq!((accepted.len(), refused.len()), (3, 5), "{api:?}");
        for response in refused {
            assert_eq!((response.status().as_u16(), header(&response, "retry-after")), (429, None), "{api:?}");
            let body = json(response).await;
            assert!(body["error"]["message"].as_str().unwrap().contains(words), "{body}");
        }
        at_rest(&simulator).await;
        simulator.control().set_latency(Duration::ZERO, Duration::ZERO);
        assert_eq!(api.ask(&simulator, "Hello", json!({})).await.status(), 200, "{api:?}");
        let stats = at_rest(&simulator).await.limits.max_parallel;
        assert_eq!((stats.limit, stats.peak_accepted, stats.refusals), (Some(3), 3, 5));
        simulator.shutdown().await;
    }))
    .await;
}

#[tokio::test]
async fn output_is_charged_as_it_was_and_not_as_it_could_have_been() {
    let simulator = start_limited("otpm:6000").await;
    let ask = || APIS[4].ask(&simulator, "Hello", json!({ "max_tokens": 100_000 }));
    let first = ask().await;
    assert_eq!(header(&first, "anthropic-ratelimit-output-tokens-limit"), Some("6000"));
    assert_eq!(header(&first, "anthropic-ratelimit-output-tokens-remaining"), Some("100"));
    assert_eq!(header(&first, "anthropic-ratelimit-tokens-limit"), Some("6000"));
    assert_eq!(header(&first, "anthropic-ratelimit-input-tokens-limit"), None);
    let mut produced = json(first).await["usage"]["output_tokens"].as_u64().unwrap();
    let mut refused = 0;
    while refused == 0 {
        at_rest(&simulator).await;
        let answer = ask().await;
        match answer.status().as_u16() {
            200 => produced += json(answer).await["usage"]["output_tokens"].as_u64().unwrap(),
            _ => refused += 1,
        }
    }
    let stats = at_rest(&simulator).await.limits;
    assert_eq!((stats.otpm.accepted, stats.otpm.peak_accepted, stats.otpm.refusals), (produced, produced, 1));
    assert!(produced > 100, "{produced}");
    simulator.shutdown().await;
}

#[tokio::test]
async fn input_is_charged_without_what_a_cache_holds() {
    let simulator = start_limited("itpm:600000").await;
    let system = json!([{ "type": "text", "text": "x".repeat(4_000), "cache_control": { "type": "ephemeral" } }]);
    let mut left = Vec::new();
    for _ in 0..2 {
        let answer = APIS[4].ask(&simulator, "12345678", json!({ "system": system })).await;
        assert_eq!(header(&answer, "anthropic-ratelimit-input-tokens-limit"), Some("600000"));
        left.push(header(&answer, "anthropic-ratelimit-input-tokens-remaining").unwrap().to_owned());
        let usage = json(answer).await["usage"].take();
        let (read, rest) = (usage["cache_read_input_tokens"].as_u64(), usage["input_tokens"].as_u64());
        assert_eq!((read, rest), (Some(if left.len() == 1 { 0 } else { 1_000 }), Some(2)));
    }
    assert_eq!(left[0], "9000");
    let stats = simulator.control().stats().limits;
    assert_eq!((stats.itpm.accepted, stats.tpm.accepted), (1_002 + 2, 2 * 1_002));
    simulator.shutdown().await;
}

#[tokio::test]
async fn limits_that_are_hidden_are_told_nowhere() {
    let every = limits("rpm:1,tpm:100000,itpm:100000,otpm:100000");
    for (limit_headers, retry_after) in [(true, true), (false, true), (true, false), (false, false)] {
        for api in DIALECTS {
            let options = Options { limits: every, limit_headers, retry_after, ..Options::default() };
            let simulator = start(options).await;
            let answers = [api.ask(&simulator, "Hi", json!({})).await, api.ask(&simulator, "Hi", json!({})).await];
            let told = |answer: &Response| answer.headers().keys().any(|name| name.as_str().contains("ratelimit"));
            assert_eq!(answers.each_ref().map(told), [limit_headers; 2], "{api:?}");
            let [_, refused] = answers;
            assert_eq!(refused.status(), 429);
            let waits = ["retry-after", "retry-after-ms"].map(|name| header(&refused, name).is_some());
            assert_eq!(waits[0], retry_after, "{api:?}");
            assert!(!waits[1] || retry_after, "{api:?}");
            let message = json(refused).await["error"]["message"].to_string();
            let has_figures = message.contains(|c: char| c.is_ascii_digit());
            // Without a word of the limit, Azure still tells the wait.
            let has_some = retry_after && (limit_headers || api.name == "azure");
            assert_eq!(has_figures, has_some, "{api:?}: {message}");
            simulator.shutdown().await;
        }
    }
}

#[tokio::test]
async fn a_model_has_its_own_limit_beside_that_of_all() {
    let model_limits = vec!["small=rpm:120".parse::<ModelLimits>().unwrap()];
    let options =
        Options { limits: limits("rpm:300"), model_limits, limit_shape: LimitShape::Window, ..Options::default() };
    let simulator = start(options).await;
    let mut admitted: BTreeMap<&str, u64> = BTreeMap::new();
    for model in ["small", "large"] {
        for _ in 0..200 {
            *admitted.entry(model).or_default() += u64::from(status_of(&simulator, model).await == 200);
        }
    }
    // 120 of the small one's, and what these left of 300.
    assert_eq!(admitted, BTreeMap::from([("small", 120), ("large", 180)]));
    let stats = simulator.control().stats();
    assert_eq!((stats.limits.accepted, stats.limits.refused), (300, 100));
    assert_eq!(stats.models.keys().collect::<Vec<_>>(), ["small"]);
    let small = &stats.models["small"];
    assert_eq!((small.accepted, small.refused, small.rpm.refusals), (120, 80, 80));
    assert_eq!((small.rpm.peak_arrived, small.rpm.peak_accepted, small.rpm.breaches), (200, 120, 80));
    assert_eq!(stats.limits.seconds.iter().map(|second| second.accepted).sum::<u64>(), 300);
    assert!(stats.first_call_ms <= small.first_accepted_ms && small.first_accepted_ms <= small.last_accepted_ms);
    simulator.shutdown().await;
}

#[tokio::test]
async fn limits_change_in_mid_run_and_nobody_is_told() {
    let simulator = start(Options { limit_shape: LimitShape::Window, ..Options::default() }).await;
    let control = simulator.control();
    let admitted = async |calls: u32| {
        let mut admitted = 0;
        for _ in 0..calls {
            admitted += u32::from(status_of(&simulator, "m").await == 200);
        }
        admitted
    };
    control.set_limits(limits("rpm:20"));
    assert_eq!(admitted(10).await, 10);
    control.set_limits(limits("rpm:40"));
    assert_eq!(admitted(30).await, 20, "half of the old limit was used");
    control.set_model_limits("m", limits("rpm:5"));
    control.set_limits(limits(""));
    assert_eq!(admitted(10).await, 5);
    let stats = control.stats();
    assert_eq!((stats.limits.rpm.limit, stats.models["m"].rpm.limit), (None, Some(5)));
    simulator.shutdown().await;
}

#[tokio::test]
async fn limits_change_at_their_time_from_the_first_call() {
    let limit_changes = ["2s=rpm:6", "2s=other=rpm:1", "12s=rpm:0"].map(|text| text.parse().unwrap()).into();
    let simulator = start(Options { limit_changes, ..Options::default() }).await;
    assert_eq!(simulator.control().stats().limits.rpm.limit, None);
    let statuses = async || [status_of(&simulator, "m").await, status_of(&simulator, "m").await];
    let begin = Instant::now();
    let unlimited = statuses().await;
    // The second may come too late for that.
    assert!(unlimited == [200, 200] || begin.elapsed() >= Duration::from_secs(2), "{unlimited:?}");
    let control = simulator.control();
    until("the first change", || control.stats().limits.rpm.limit == Some(6)).await;
    let limited = statuses().await;
    assert_eq!(control.stats().models["other"].rpm.limit, Some(1));
    until("the last change", || control.stats().limits.rpm.limit.is_none()).await;
    assert_eq!(limited, [200, 429]);
    assert_eq!(statuses().await, [200, 200]);
    simulator.shutdown().await;
}

#[tokio::test]
async fn another_process_reads_the_audit_and_changes_limits() {
    let simulator = start(Options::default()).await;
    let url = |path: &str| format!("http://{}/simulator/{path}", simulator.addr());
    let set = |body: &'static str| client().post(url("settings")).body(body).send();
    let body = r#"{"limits":{"rpm":6,"otpm":5000},"model_limits":{"small":{"max_parallel":1}},"limit_headers":false}"#;
    assert_eq!(set(body).await.unwrap().status(), 200);
    let answer = APIS[0].ask(&simulator, "Hello", json!({ "model": "small" })).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-ratelimit-limit-requests")), (200, None));
    assert_eq!(status_of(&simulator, "small").await, 429);
    assert_eq!(set(r#"{"limits":{"rpx":60}}"#).await.unwrap().status(), 400);

    at_rest(&simulator).await;
    let stats = json(client().get(url("stats")).send().await.unwrap()).await;
    assert_eq!((&stats["limits"]["accepted"], &stats["limits"]["refused"]), (&json!(1), &json!(1)));
    assert_eq!(stats["limits"]["rpm"]["limit"], 6);
    assert_eq!(stats["limits"]["rpm"]["peak_arrived_permille"], 2_000 / 6);
    assert_eq!(stats["models"]["small"]["max_parallel"]["peak_accepted"], 1);
    assert_eq!(stats["limits"]["seconds"][0]["second"], 0);
    simulator.shutdown().await;
}
