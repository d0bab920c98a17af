//! Each fault on the wire, scripts, limits, and the log of it all.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Sends a chat by hand and returns the open connection.
async fn send_raw(simulator: &Simulator, job: &str) -> TcpStream {
    let body = chat(job).to_string();
    let mut stream = TcpStream::connect(simulator.addr()).await.unwrap();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn an_error_status_comes_with_its_error_object() {
    let table = [
        ("400", 400, Some("decimal_above_max_value")),
        ("400:1:code=context_length_exceeded", 400, Some("context_length_exceeded")),
        ("401", 401, Some("invalid_api_key")),
        ("402", 402, Some("insufficient_balance")),
        ("403", 403, Some("unsupported_country_region_territory")),
        ("404", 404, Some("model_not_found")),
        ("422", 422, None),
        ("429", 429, Some("rate_limit_exceeded")),
        ("429:1:code=insufficient_quota", 429, Some("insufficient_quota")),
        ("500", 500, None),
        ("503", 503, Some("server_is_overloaded")),
        ("529", 529, None),
    ];
    for (rule, status, code) in table {
        let simulator = start_with_faults(&[rule]).await;
        let response = ask(&simulator, "job").await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "retry-after"), None);
        assert!(header(&response, "x-request-id").is_some());
        let error = json(response).await["error"].take();
        assert_eq!(error["code"].as_str(), code, "{rule}");
        simulator.shutdown().await;
    }
}

#[tokio::test]
async fn a_rule_can_ask_for_a_wait() {
    let simulator = start_with_faults(&["429:1:retry-after=1.5"]).await;
    let response = ask(&simulator, "job").await.unwrap();
    assert_eq!(header(&response, "retry-after"), Some("1.5"));
    assert_eq!(header(&response, "retry-after-ms"), Some("1500"));
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_timeout_hangs_until_the_caller_goes() {
    let simulator = start_with_faults(&["timeout"]).await;
    let control = simulator.control();
    tokio::select! {
        answer = ask(&simulator, "job") => panic!("{answer:?}"),
        () = until("the call hangs", || control.stats().hung == 1) => {}
    }
    until("the hung call has ended", || control.stats().in_flight == 0).await;
    let stats = control.stats();
    assert_eq!(stats.by_outcome, BTreeMap::from([("timeout".to_owned(), 1)]));
    assert_eq!(stats.by_status, BTreeMap::new());
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_reset_comes_before_any_byte() {
    let simulator = start_with_faults(&["reset"]).await;
    let mut stream = send_raw(&simulator, "job").await;
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!((error.kind(), answer.len()), (ErrorKind::ConnectionReset, 0));
    assert!(ask(&simulator, "job").await.is_err());
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_closed_connection_carries_no_byte() {
    let simulator = start_with_faults(&["close"]).await;
    let mut stream = send_raw(&simulator, "job").await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer.len(), 0);
    assert_eq!(simulator.control().stats().by_outcome, BTreeMap::from([("close".to_owned(), 1)]));
    simulator.shutdown().await;
}

#[tokio::test]
async fn one_model_can_be_dead_while_another_answers() {
    let simulator = start_with_faults(&["503:1:model=gpt-dead", "503:1:model=prod"]).await;
    let ask = |api: Api, model: &str| api.ask(&simulator, "Hello", json!({ "model": model }));
    for api in APIS {
        // At Azure it is the deployment that counts.
        let dead = if api.name == "azure" { 503 } else { 200 };
        assert_eq!(ask(api, "gpt-alive").await.status(), dead, "{api:?}");
        assert_eq!(ask(api, "gpt-dead").await.status(), 503, "{api:?}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_truncated_body_is_half_of_what_was_promised() {
    let simulator = start_with_faults(&["truncate"]).await;
    let mut stream = send_raw(&simulator, "job").await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let promised: usize = head.split_once("content-length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
    assert_eq!(body.len(), promised / 2);
    let response = ask(&simulator, "job").await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());
    let control = simulator.control();
    until("both calls have ended", || control.stats().in_flight == 0).await;
    assert_eq!(control.stats().by_outcome, BTreeMap::from([("truncate".to_owned(), 2)]));
    simulator.shutdown().await;
}

#[tokio::test]
async fn an_html_page_comes_with_either_status() {
    for (rule, status) in [("html", 502), ("html:1:status=200", 200)] {
        let simulator = start_with_faults(&[rule]).await;
        let response = ask(&simulator, "job").await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "content-type"), Some("text/html; charset=UTF-8"));
        assert_eq!(header(&response, "x-request-id"), None);
        assert!(response.text().await.unwrap().starts_with('<'));
        simulator.shutdown().await;
    }
}

#[tokio::test]
async fn an_empty_answer_is_status_200_without_a_body() {
    let simulator = start_with_faults(&["empty"]).await;
    let response = ask(&simulator, "job").await.unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "content-length")), (200, Some("0")));
    assert!(response.bytes().await.unwrap().is_empty());
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_dripping_body_arrives_byte_by_byte_and_whole() {
    let simulator = start_with_faults(&["drip:1:every=1ms"]).await;
    let body = json!({ "model": "m", "input": "a", "dimensions": 1 });
    let start = Instant::now();
    let response = post(&simulator, "/embeddings", &body).send().await.unwrap();
    let bytes = response.bytes().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(bytes.len() as u64 - 1), "{:?}", start.elapsed());
    assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
    assert_eq!(simulator.control().stats().by_outcome, BTreeMap::from([("drip".to_owned(), 1)]));
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_script_decides_call_by_call_and_per_job() {
    let simulator = start_with_faults(&["422"]).await;
    let outcomes = |job: &'static str, place: &'static str| {
        let mut body = chat(job);
        let script = "simulate:500,429:retry-after=0.2,ok";
        match place {
            "metadata" => body["metadata"]["simulate"] = script.into(),
            "user" => body["user"] = script.into(),
            _ => body["messages"][1]["content"] = format!("Say hello. {script}").into(),
        }
        let simulator = &simulator;
        async move {
            let mut statuses = Vec::new();
            for _ in 0..4 {
                let response = post(simulator, "/chat/completions", &body).send().await.unwrap();
                statuses.push((response.status().as_u16(), header(&response, "retry-after-ms").map(str::to_owned)));
            }
            statuses
        }
    };
    let wanted = [(500, None), (429, Some("200".to_owned())), (200, None), (200, None)];
    for (job, place) in [("one", "metadata"), ("two", "user"), ("three", "prompt")] {
        assert_eq!(outcomes(job, place).await, wanted, "{place}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_script_that_cannot_be_read_says_so() {
    let simulator = start(Options::default()).await;
    let mut body = chat("job");
    body["metadata"]["simulate"] = "50,ok".into();
    let response = post(&simulator, "/chat/completions", &body).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(json(response).await["error"]["code"], "invalid_script");
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_limit_refuses_with_the_wait_and_does_not_use_up_a_script() {
    let simulator = start(Options { limits: limits("rpm:1,tpm:100000"), ..Options::default() }).await;
    let mut body = chat("job");
    body["metadata"]["simulate"] = "ok,500".into();
    let call = || post(&simulator, "/chat/completions", &body).send();
    let first = call().await.unwrap();
    assert_eq!(first.status(), 200);
    assert_eq!(header(&first, "x-ratelimit-limit-requests"), Some("1"));
    assert_eq!(header(&first, "x-ratelimit-remaining-requests"), Some("0"));
    assert_eq!(header(&first, "x-ratelimit-reset-requests"), Some("1m0s"));
    assert_eq!(header(&first, "x-ratelimit-limit-tokens"), Some("100000"));

    let second = call().await.unwrap();
    assert_eq!(second.status(), 429);
    let wait_ms: u64 = header(&second, "retry-after-ms").unwrap().parse().unwrap();
    let wait_seconds: f64 = header(&second, "retry-after").unwrap().parse().unwrap();
    assert!((40_000..=60_000).contains(&wait_ms), "{wait_ms}");
    assert_eq!(wait_seconds, wait_ms as f64 / 1_000.0);
    let error = json(second).await["error"].take();
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("requests"), Some("rate_limit_exceeded")));

    simulator.control().set_limits(limits(""));
    assert_eq!(call().await.unwrap().status(), 500);
    let stats = simulator.control().stats();
    assert_eq!((stats.received, stats.refused), (3, 1));
    assert_eq!((stats.limits.rpm.peak_arrived, stats.limits.rpm.breaches), (3, 1));
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_log_has_one_line_for_each_call_whatever_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let rules = ["429:0.1", "500:0.1", "reset:0.1", "truncate:0.1", "html:0.1", "drip:0.1:every=0ms", "empty:0.1"];
    let simulator = start(Options {
        faults: rules.map(|rule| rule.parse().unwrap()).into(),
        log: Some(path.clone()),
        latency: Duration::from_millis(5),
        jitter: Duration::from_millis(5),
        output_tokens: 1,
        limits: limits("rpm:60000"),
        ..Options::default()
    })
    .await;
    let control = simulator.control();
    let call = |job: String, script: Option<&str>| {
        let mut body = chat(&job);
        body["metadata"]["simulate"] = script.into();
        post(&simulator, "/chat/completions", &body)
    };
    let patient = (0..200).map(|job| call(format!("patient {job}"), None));
    let impatient =
        (0..50).map(|job| call(format!("impatient {job}"), None).timeout(Duration::from_millis(1 + job % 20)));
    let calls: Vec<_> = patient.chain(impatient).collect();
    all(calls.into_iter().map(|call| async move {
        // Most of these fail on purpose; what counts is what the log says.
        if let Ok(response) = call.send().await {
            let _ = response.bytes().await;
        }
    }))
    .await;
    let hanging: Vec<_> = (0..10).map(|job| call(format!("hanging {job}"), Some("timeout"))).collect();
    tokio::select! {
        _ = all(hanging.into_iter().map(RequestBuilder::send)) => panic!("a hung call was answered"),
        () = until("ten calls hang", || control.stats().hung == 10) => {}
    }

    until("all calls have ended", || control.stats().in_flight == 0).await;
    control.flush_log();
    let lines = lines(&path);
    let stats = control.stats();
    assert_eq!(lines.len() as u64, stats.received);
    let mut by_outcome: BTreeMap<String, u64> = BTreeMap::new();
    for line in &lines {
        *by_outcome.entry(line["outcome"].as_str().unwrap().to_owned()).or_default() += 1;
        assert!(line["t_end_ms"].as_i64() >= line["t_ms"].as_i64(), "{line}");
        assert_eq!(line["path"], "/v1/chat/completions");
    }
    assert_eq!(by_outcome, stats.by_outcome);
    assert_eq!(by_outcome.get("timeout"), Some(&10));
    for outcome in ["ok", "429", "500", "reset", "truncate", "html", "drip", "empty"] {
        assert!(by_outcome.contains_key(outcome), "{outcome} in {by_outcome:?}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_caller_who_leaves_while_waiting_is_logged_as_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let latency = Duration::from_secs(3_600);
    let simulator = start(Options { latency, log: Some(path.clone()), ..Options::default() }).await;
    let control = simulator.control();
    let stream = send_raw(&simulator, "left").await;
    until("the call is in flight", || control.stats().in_flight == 1).await;
    drop(stream);
    until("the call has ended", || control.stats().in_flight == 0).await;
    let waiting = send_raw(&simulator, "stayed").await;
    until("the call is in flight", || control.stats().in_flight == 1).await;
    simulator.shutdown().await;
    drop(waiting);
    let seen: Vec<_> = lines(&path)
        .iter()
        .map(|line| (line["marker"].to_string(), line["outcome"].to_string(), line["client_gone"].to_string()))
        .collect();
    let wanted = [(r#""left""#, r#""client_gone""#, "true"), (r#""stayed""#, r#""shutdown""#, "false")];
    assert_eq!(seen, wanted.map(|(m, o, c)| (m.to_owned(), o.to_owned(), c.to_owned())));
}

#[tokio::test]
async fn a_line_tells_the_whole_call_and_reaches_the_file_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let simulator = start(Options { log: Some(path.clone()), ..Options::default() }).await;
    let first = json(ask(&simulator, "job").await.unwrap()).await;
    ask(&simulator, "job").await.unwrap();
    until("two lines are written", || lines(&path).len() == 2).await;
    let lines = lines(&path);
    assert_eq!(lines[0]["marker"], "job");
    assert_eq!((lines[0]["n"].as_u64(), lines[1]["n"].as_u64()), (Some(1), Some(2)));
    assert_eq!((lines[0]["outcome"].as_str(), lines[0]["status"].as_u64()), (Some("ok"), Some(200)));
    assert_eq!(lines[0]["client_gone"], false);
    assert_eq!(lines[0]["prompt_tokens"], first["usage"]["prompt_tokens"]);
    assert_eq!(lines[0]["completion_tokens"], first["usage"]["completion_tokens"]);
    simulator.shutdown().await;
}
