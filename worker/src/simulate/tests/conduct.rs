//! What answers look like, who gets one, and what depends on what.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::simulate::Error;

#[tokio::test]
async fn a_chat_is_answered_with_openais_body_and_headers() {
    let simulator = start(Options::default()).await;
    let response = ask(&simulator, "job").await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), Some("application/json"));
    assert!(header(&response, "x-request-id").unwrap().starts_with("req_sim_"));
    assert_eq!(header(&response, "openai-version"), Some("2020-10-01"));
    assert!(header(&response, "openai-processing-ms").unwrap().parse::<u64>().is_ok());
    assert_eq!(header(&response, "x-ratelimit-limit-requests"), None);
    let body = json(response).await;
    assert_eq!(body["model"], "gpt-test");
    assert!(body["choices"][0]["message"]["content"].as_str().unwrap().len() > 100);
    assert_eq!(body["usage"]["prompt_tokens"], 6);
    simulator.shutdown().await;
}

#[tokio::test]
async fn every_endpoint_answers_with_and_without_the_version() {
    let simulator = start(Options::default()).await;
    let table = [
        ("/chat/completions", chat("job"), "chat.completion"),
        ("/completions", json!({ "model": "m", "prompt": "hello" }), "text_completion"),
        ("/embeddings", json!({ "model": "m", "input": ["a", "b"] }), "list"),
        ("/responses", json!({ "model": "m", "input": "hello" }), "response"),
    ];
    for (path, body, object) in table {
        for base in [simulator.base_url(), format!("http://{}", simulator.addr())] {
            let response = client().post(format!("{base}{path}")).body(body.to_string()).send().await.unwrap();
            assert_eq!(json(response).await["object"], object, "{base}{path}");
        }
    }
    for (path, field) in [("/v1/models", "data"), ("/models", "data"), ("/health", "status")] {
        let response = client().get(format!("http://{}{path}", simulator.addr())).send().await.unwrap();
        assert!(!json(response).await[field].is_null(), "{path}");
    }
    assert_eq!(simulator.control().stats().received, 8);
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_streamed_chat_is_an_event_stream() {
    let simulator = start(Options::default()).await;
    let mut body = chat("job");
    body["stream"] = true.into();
    let response = post(&simulator, "/chat/completions", &body).send().await.unwrap();
    assert_eq!(header(&response, "content-type"), Some("text/event-stream; charset=utf-8"));
    assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    simulator.shutdown().await;
}

#[tokio::test]
async fn what_no_provider_takes_gets_a_proper_error() {
    let simulator = start(Options::default()).await;
    let url = |path: &str| format!("http://{}{path}", simulator.addr());
    let table = [
        (client().post(url("/v1/chat/completions")).body("{"), 400, None),
        (client().post(url("/v1/chat/completions")).body("{}"), 400, Some("missing_required_parameter")),
        (client().post(url("/v1/responses")).body(r#"{"model":"m"}"#), 400, Some("missing_required_parameter")),
        (client().get(url("/v1/chat/completions")), 405, Some("method_not_supported")),
        (client().post(url("/v1/images")).body("{}"), 404, None),
        (client().get(url("/simulator/nothing")), 404, None),
    ];
    for (request, status, code) in table {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        let error = json(response).await["error"].take();
        assert_eq!(error["code"].as_str(), code, "{error}");
        assert!(error["message"].is_string(), "{error}");
    }
    let stats = simulator.control().stats();
    assert_eq!((stats.received, stats.by_status), (3, BTreeMap::from([(400, 3)])));
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_body_beyond_the_maximum_is_refused_before_it_is_read() {
    let simulator = start(Options::default()).await;
    let mut stream = TcpStream::connect(simulator.addr()).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 67108865\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_connection_serves_one_call_after_another() {
    let simulator = start(Options { output_tokens: 1, ..Options::default() }).await;
    let mut stream = TcpStream::connect(simulator.addr()).await.unwrap();
    let body = chat("job").to_string();
    let request =
        format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\"fp_simulated\"}") {
            let mut bytes = [0; 4_096];
            let length = stream.read(&mut bytes).await.unwrap();
            assert_ne!(length, 0, "closed after {answer}");
            answer.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_large_body_is_read() {
    let simulator = start(Options::default()).await;
    let mut body = chat("job");
    body["messages"][1]["content"] = "x".repeat(3_000_000).into();
    let response = post(&simulator, "/chat/completions", &body).send().await.unwrap();
    assert_eq!(json(response).await["usage"]["prompt_tokens"], 750_003);
    simulator.shutdown().await;
}

#[tokio::test]
async fn only_the_required_key_is_let_in() {
    let simulator = start(Options { require_key: Some("sk-secret-of-the-test".into()), ..Options::default() }).await;
    let call = || post(&simulator, "/chat/completions", &chat("job"));
    let missing = call().send().await.unwrap();
    assert_eq!(missing.status(), 401);
    assert_eq!(json(missing).await["error"]["code"], Value::Null);
    let wrong = call().bearer_auth("sk-another-key-than-that").send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    let error = json(wrong).await["error"].take();
    assert_eq!(error["code"], "invalid_api_key");
    assert!(error["message"].as_str().unwrap().starts_with("Incorrect API key provided: sk-****that. "), "{error}");
    assert_eq!(call().bearer_auth("sk-secret-of-the-test").send().await.unwrap().status(), 200);
    let models = client().get(format!("{}/models", simulator.base_url()));
    assert_eq!(models.send().await.unwrap().status(), 401);
    let debug = format!("{simulator:?}");
    assert!(!debug.contains("sk-secret"), "{debug}");
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line() {
    let first = start(Options::default()).await;
    let error = Simulator::start(Options { listen: first.addr(), ..Options::default() }).await.unwrap_err();
    assert!(matches!(error, Error::AddressInUse { .. }));
    let text = format!(
        "cannot listen on {}: the port is in use; stop the program that has it, or pass another --listen (port 0 takes a free one)",
        first.addr()
    );
    assert_eq!(error.to_string(), text);
    first.shutdown().await;
}

#[tokio::test]
async fn a_port_is_free_again_after_shutdown() {
    for _ in 0..5 {
        let first = start(Options::default()).await;
        let listen = first.addr();
        assert_eq!(status(&first, "job").await, 200);
        first.shutdown().await;
        match Simulator::start(Options { listen, ..Options::default() }).await {
            Ok(second) => {
                assert_eq!(status(&second, "job").await, 200);
                return second.shutdown().await;
            }
            // Somebody else may have been given it meanwhile.
            Err(Error::AddressInUse { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no port is free again");
}

#[tokio::test]
async fn answers_take_at_least_the_latency() {
    let simulator = start(Options { latency: Duration::from_millis(40), ..Options::default() }).await;
    let start = Instant::now();
    let answer = ask(&simulator, "job").await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(40));
    assert!(header(&answer, "openai-processing-ms").unwrap().parse::<u64>().unwrap() >= 40);
    simulator.shutdown().await;
}

/// What a caller sees of a run that must repeat: per job the statuses, request ids and texts of its calls.
async fn record(seed: u64, jobs: impl Iterator<Item = u32>) -> BTreeMap<u32, Vec<(u16, String, String)>> {
    let faults = ["429:0.2", "500:0.2"].map(|rule| rule.parse().unwrap()).into();
    let simulator = start(Options { seed, faults, ..Options::default() }).await;
    let mut seen: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for job in jobs {
        let response = ask(&simulator, &format!("job {job}")).await.unwrap();
        let (status, id) = (response.status().as_u16(), header(&response, "x-request-id").unwrap().to_owned());
        let content = json(response).await["choices"].to_string();
        seen.entry(job).or_default().push((status, id, content));
    }
    simulator.shutdown().await;
    seen
}

#[tokio::test]
async fn the_seed_decides_and_the_order_of_arrival_does_not() {
    let upwards = (0..30).flat_map(|job| [job, job, job]);
    let one = record(1, upwards.clone()).await;
    let mixed = (0..30).rev().chain(0..30).chain((0..30).rev());
    assert_eq!(one, record(1, mixed).await);
    assert_ne!(one, record(2, upwards).await);
    let statuses = |wanted| one.values().flatten().filter(|(status, ..)| *status == wanted).count();
    assert!(statuses(429) > 0 && statuses(500) > 0 && statuses(200) > 0);
    assert!(one.values().any(|calls| calls[0].2 != calls[1].2));
}
