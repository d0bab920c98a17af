//! Every recorded answer is read as its file says: class, whether it may be tried again, whether others may be asked, what must
//! rest, how long to wait, usage, and what the answer is.

use std::path::PathBuf;

use gristmill_common::config::{Deployment, Dialect, Wire};
use gristmill_common::outcome::Usage;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::super::address::Api;
use super::super::anthropic::{self, Unread};
use super::super::classify;
use super::super::details::Details;
use super::super::exchange::Exchange;
use super::super::hearing::Hearing;
use super::super::key::Key;
use super::super::remote::Remote;
use super::super::stream::Parser;
use super::super::verdict::{Cooldown, Verdict};
use super::super::{Answer, Call, Http, build};
use super::server::{Script, Server, deployment, job, request_body};
use super::*;

/// How many files there are: none may vanish unseen.
const FILES: usize = 164;

/// Classes under which we know what a file calls otherwise.
fn class_name(name: &str) -> &str {
    if name == "Cancelled" { "CancelledError" } else { name }
}

/// What is told of an answer beside its content.
#[derive(Debug, PartialEq)]
struct Seen {
    class: String,
    retryable: bool,
    fallback: bool,
    cooldown: String,
    retry_after_ms: Option<u64>,
    underlying: Option<String>,
    partial: Option<String>,
}

fn fixtures() -> Vec<(String, Value)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire");
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        })
        .collect()
}

fn endpoint_of(fixture: &Value) -> &'static str {
    match fixture["api"].as_str().unwrap_or_default() {
        "responses" => "/v1/responses",
        "embeddings" => "/v1/embeddings",
        "count_tokens" => "/v1/messages/count_tokens",
        _ => "/v1/chat/completions",
    }
}

fn body_of(fixture: &Value) -> Bytes {
    match fixture["body_kind"].as_str().unwrap() {
        "json" => fixture["body"].to_string().into(),
        "text" | "sse" => fixture["body"].as_str().unwrap().to_owned().into(),
        "empty" => Bytes::new(),
        other => panic!("body_kind {other}"),
    }
}

fn headers_of(fixture: &Value) -> http::HeaderMap {
    let pairs = fixture["headers"].as_object().unwrap().iter();
    pairs
        .map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), value.as_str().unwrap().parse::<HeaderValue>().unwrap())
        })
        .collect()
}

fn deployment_of(fixture: &Value) -> Deployment {
    let dialect = match fixture["provider"].as_str().unwrap() {
        "anthropic" => Dialect::Anthropic,
        "azure" => Dialect::Azure,
        _ => Dialect::OpenAi,
    };
    Deployment {
        model: "claude-opus-4-5".into(),
        wire: Wire { dialect, drop_params: true, ..Wire::default() },
        ..deployment("http://127.0.0.1:9/v1")
    }
}

/// What was asked, in the format of the endpoint: what the file says of the request, with a prompt where there is none.
fn request_of(fixture: &Value) -> Bytes {
    let mut request = match &fixture["request"] {
        Value::Object(request) => request.clone(),
        _ => serde_json::Map::new(),
    };
    // Requests in Anthropic's own words are told by what only they have.
    request.retain(|key, _| matches!(key.as_str(), "response_format" | "text" | "tools" | "stream" | "model"));
    let json_tool = fixture["body"]["content"]
        .as_array()
        .is_some_and(|blocks| blocks.iter().any(|block| block["name"] == "json_tool_call"));
    if json_tool {
        let schema = serde_json::json!({"type": "object"});
        request.insert(
            "response_format".to_owned(),
            serde_json::json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}),
        );
    }
    request.entry("messages").or_insert_with(|| serde_json::json!([{"role": "user", "content": "Hello"}]));
    Value::Object(request).to_string().into()
}

/// Gives an answer to the provider as if it had come from the wire, a stream in pieces of so many bytes.
fn reply_to(fixture: &Value, piece: usize) -> Reply {
    let now = fixture["now"].as_str().unwrap_or("2026-11-23T01:00:00Z");
    let now: chrono::DateTime<chrono::Utc> = now.parse().unwrap();
    let clock = Arc::new(gristmill_common::clock::ManualClock::new(now.timestamp_millis()));
    let mut deployment = deployment_of(fixture);
    // An older model has no formats of its own.
    if fixture["name"] == "anthropic_json_tool_emulation" {
        deployment.model = "claude-3-5-sonnet-20241022".into();
    }
    let provider = Remote::new(&deployment, &Http::default(), clock).unwrap();
    let body = request_of(fixture);
    let call = Call {
        endpoint: endpoint_of(fixture),
        body: &body,
        job: job(),
        deadline: None,
        service_tier: None,
        tokens: None,
    };
    let plan = provider.plan(&call).unwrap_or_else(|refusal| panic!("{refusal:?}"));
    let status = StatusCode::from_u16(u16::try_from(fixture["status"].as_u64().unwrap()).unwrap()).unwrap();
    let is_stream = fixture["body_kind"] == "sse";
    let body = body_of(fixture);
    let credentials = Key::new(&deployment).unwrap().known();
    let stream = is_stream.then(|| {
        let mut hearing = Hearing::new(&plan, None, &credentials.redactor);
        let mut parser = Parser::default();
        let mut goes_on = true;
        for chunk in body.chunks(piece) {
            goes_on = goes_on && parser.feed(chunk, |event| !hearing.ends(event));
        }
        if goes_on {
            parser.finish(|event| !hearing.ends(event));
        }
        hearing.finish()
    });
    let exchange = Exchange {
        sent: true,
        first_byte: Some(Duration::from_millis(3)),
        total: Duration::from_millis(4),
        head: Some((status, headers_of(fixture))),
        streamed: is_stream,
        body: Ok(if is_stream { Bytes::new() } else { body }),
    };
    provider.reply(&credentials, &plan, exchange, stream)
}

fn seen(reply: &Reply) -> Seen {
    match &reply.outcome {
        Ok(answer) => Seen {
            class: "Success".to_owned(),
            retryable: false,
            // A refusal is an answer that another model may not give.
            fallback: answer.finish_reason.as_deref() == Some("content_filter") && refusal(answer).is_some(),
            cooldown: "none".to_owned(),
            retry_after_ms: None,
            underlying: None,
            partial: None,
        },
        Err(record) => {
            let verdict = Verdict::of(record);
            Seen {
                class: record.class.to_string(),
                retryable: verdict.retryable,
                fallback: verdict.fallback,
                cooldown: match verdict.cooldown {
                    Cooldown::None => "none",
                    Cooldown::Count => "count",
                    Cooldown::Deployment => "deployment",
                    Cooldown::Key => "key",
                }
                .to_owned(),
                retry_after_ms: record.retry_after_ms,
                underlying: record.underlying.as_ref().map(ToString::to_string),
                partial: record.partial_output.clone(),
            }
        }
    }
}

fn expected(expect: &Value) -> Seen {
    let text = |key: &str| expect.get(key).and_then(Value::as_str).map(str::to_owned);
    Seen {
        class: class_name(expect["class"].as_str().unwrap()).to_owned(),
        retryable: expect["retryable"].as_bool().unwrap(),
        fallback: expect["fallback"].as_bool().unwrap(),
        cooldown: expect["cooldown"].as_str().unwrap().to_owned(),
        retry_after_ms: expect.get("retry_after_ms").map(|ms| ms.as_u64().unwrap()),
        underlying: text("underlying_class"),
        partial: text("partial_text").filter(|partial| !partial.is_empty()),
    }
}

fn check_usage(name: &str, expect: &Value, usage: &Usage) {
    match expect.get("usage") {
        None => {}
        Some(Value::Null) => assert_eq!(*usage, Usage::default(), "{name}: no usage"),
        Some(wanted) => {
            for (key, seen) in [
                ("prompt_tokens", usage.input_tokens),
                ("completion_tokens", usage.output_tokens),
                ("cached_tokens", usage.cached_input_tokens),
                ("cache_write_tokens", usage.cache_write_tokens),
                ("reasoning_tokens", usage.reasoning_tokens),
            ] {
                assert_eq!(u64::from(seen.unwrap_or(0)), wanted[key].as_u64().unwrap(), "{name}: {key}");
            }
        }
    }
}

fn refusal(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    body.pointer("/choices/0/message/refusal")?.as_str().map(str::to_owned)
}

/// Returns the tool calls of an answer as the files write them.
fn tool_calls(body: &Value) -> Value {
    let chat = body.pointer("/choices/0/message/tool_calls").and_then(Value::as_array).into_iter().flatten();
    let chat = chat.map(|call| (&call["id"], &call["function"]["name"], &call["function"]["arguments"]));
    let items = body["output"].as_array().into_iter().flatten().filter(|item| item["type"] == "function_call");
    let items = items.map(|item| (&item["call_id"], &item["name"], &item["arguments"]));
    chat.chain(items)
        .map(|(id, name, arguments)| {
            let text = arguments.as_str().unwrap();
            let arguments: Value = if text.is_empty() {
                serde_json::json!({})
            } else {
                serde_json::from_str(text).unwrap_or_else(|_| text.into())
            };
            serde_json::json!({"id": id, "name": name, "arguments": arguments})
        })
        .collect()
}

fn check_answer(name: &str, fixture: &Value, reply: &Reply) {
    let expect = &fixture["expect"];
    let Ok(answer) = &reply.outcome else { return };
    let is_verbatim = fixture["provider"] != "anthropic" && fixture["body_kind"] != "sse";
    if is_verbatim {
        assert_eq!(answer.body, body_of(fixture), "{name}: the body is kept as it came");
        for key in ["model", "service_tier"] {
            let seen = if key == "model" { &reply.served_model } else { &reply.service_tier };
            assert_eq!(seen.as_deref(), fixture["body"][key].as_str().or(seen.as_deref()), "{name}: {key}");
        }
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    if let Some(text) = expect.get("text") {
        assert_eq!(answer.output_text.as_deref().unwrap_or(""), text.as_str().unwrap_or(""), "{name}: text");
    }
    if let Some(reason) = expect.get("finish_reason") {
        assert_eq!(answer.finish_reason.as_deref(), reason.as_str(), "{name}: finish_reason");
    }
    if let Some(json) = expect.get("json") {
        let text = answer.output_text.as_deref().unwrap();
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), *json, "{name}: json");
    }
    if let Some(calls) = expect.get("tool_calls") {
        let seen = tool_calls(&body);
        let mut wanted = calls.clone();
        for (wanted, seen) in wanted.as_array_mut().unwrap().iter_mut().zip(seen.as_array().unwrap()) {
            // Arguments that are no JSON stand under a name of their own.
            if let Some(raw) = wanted.get("arguments_raw").cloned() {
                wanted["arguments"] = raw;
            }
            for key in ["id", "name", "arguments"] {
                assert_eq!(seen[key], wanted[key], "{name}: {key} of a tool call");
            }
        }
        assert_eq!(seen.as_array().unwrap().len(), calls.as_array().unwrap().len(), "{name}: tool calls");
    }
    if let Some(text) = expect.get("reasoning_text") {
        let message = &body["choices"][0]["message"];
        let seen = [&message["reasoning_content"], &message["reasoning"]].into_iter().find_map(Value::as_str);
        assert_eq!(seen, text.as_str(), "{name}: reasoning");
    }
    if let Some(text) = expect.get("refusal").and_then(Value::as_str) {
        assert_eq!(refusal(answer).as_deref(), Some(text), "{name}: refusal");
    }
    if let Some(count) = expect.get("count") {
        assert_eq!(body["input_tokens"], *count, "{name}: count");
    }
}

fn check_error(name: &str, fixture: &Value, reply: &Reply) {
    let Err(record) = &reply.outcome else { return };
    assert!(!record.message.trim().is_empty(), "{name}: a message");
    assert_eq!(record.status, reply.http_status, "{name}: status");
    if fixture["body_kind"] != "sse" {
        assert_eq!(record.body.is_some(), !body_of(fixture).is_empty(), "{name}: the body is kept");
        for (key, seen) in [("code", &record.code), ("type", &record.kind), ("param", &record.param)] {
            if let Some(Value::String(wanted)) = fixture["body"]["error"].get(key) {
                assert_eq!(seen.as_deref(), Some(wanted.as_str()), "{name}: {key}");
            }
        }
        if let Some(wanted) = fixture["body"]["error"]["message"].as_str() {
            assert_eq!(record.message, wanted, "{name}: the provider's own words");
        }
    }
    let json = serde_json::to_string(record).unwrap();
    assert_eq!(serde_json::from_str::<ErrorRecord>(&json).unwrap(), **record, "{name}: survives JSON");
}

fn check(name: &str, fixture: &Value) {
    let is_stream = fixture["body_kind"] == "sse";
    let pieces: &[usize] = if is_stream { &[usize::MAX, 1, 7] } else { &[usize::MAX] };
    for piece in pieces {
        let reply = reply_to(fixture, *piece);
        let expect = &fixture["expect"];
        assert_eq!(seen(&reply), expected(expect), "{name}: {:?}", reply.outcome);
        check_usage(name, expect, &reply.usage);
        check_answer(name, fixture, &reply);
        check_error(name, fixture, &reply);
        if let Some(id) = expect["request_id"].as_str().filter(|_| !is_stream) {
            assert_eq!(reply.request_id.as_deref(), Some(id), "{name}: request id");
        }
    }
}

/// Reads the results of a batch at Anthropic's as single answers.
fn check_batch_results(name: &str, fixture: &Value) {
    let wanted = fixture["expect"]["results"].as_object().unwrap();
    let body = body_of(fixture);
    let lines: Vec<Value> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines.len(), wanted.len(), "{name}");
    for line in &lines {
        let id = line["custom_id"].as_str().unwrap();
        let result = &line["result"];
        let class = match result["type"].as_str().unwrap() {
            "succeeded" => {
                let text = result["message"].to_string();
                let message = anthropic::Message::parse(text.as_bytes()).unwrap();
                assert_eq!(message.text().as_deref(), wanted[id]["text"].as_str(), "{name}: {id}");
                check_usage(name, &wanted[id], &message.usage());
                "Success".to_owned()
            }
            "errored" => {
                let text = result["error"].to_string();
                assert!(matches!(anthropic::Message::parse(text.as_bytes()), Err(Unread::Error)), "{name}: {id}");
                let details = Details::of(&result["error"]);
                let now = chrono::DateTime::UNIX_EPOCH;
                let record = classify::record(200, &http::HeaderMap::new(), text.as_bytes(), details, now);
                assert_eq!(Verdict::of(&record).retryable, wanted[id]["retryable"].as_bool().unwrap(), "{name}: {id}");
                record.class.to_string()
            }
            "canceled" => ErrorClass::Cancelled.to_string(),
            "expired" => "BatchExpired".to_owned(),
            other => panic!("{other}"),
        };
        assert_eq!(class, class_name(wanted[id]["class"].as_str().unwrap()), "{name}: {id}");
    }
}

/// Makes the two calls that get no answer.
async fn check_without_answer(name: &str, fixture: &Value) {
    crate::install_tls();
    let server = Server::start(Script::Deaf).await;
    let mut deployment = deployment(&server.base());
    if name == "163_connect_refused" {
        // Nothing listens on port 1.
        deployment.api_base = gristmill_common::config::Endpoint("http://127.0.0.1:1/v1".parse().unwrap());
    } else {
        deployment.timeouts.total = Duration::from_millis(60);
    }
    let clock = Arc::new(gristmill_common::clock::SystemClock);
    let provider = build(&deployment, &Http::without_proxy(64 * 1024), clock).unwrap();
    let body = request_body();
    let call = Call {
        endpoint: "/v1/chat/completions",
        body: &body,
        job: job(),
        deadline: None,
        service_tier: None,
        tokens: None,
    };
    let reply = provider.call(call).await;
    let mut expected = expected(&fixture["expect"]);
    // Nobody there is the deployment's fault, which the queue does not count as a retry.
    expected.retryable &= name != "163_connect_refused";
    assert_eq!(seen(&reply), expected, "{name}: {:?}", reply.outcome);
}

#[tokio::test]
async fn every_recorded_answer_is_read_as_its_file_says() {
    crate::install_tls();
    let fixtures = fixtures();
    assert_eq!(fixtures.len(), FILES);
    for (name, fixture) in &fixtures {
        match (fixture["body_kind"].as_str().unwrap(), fixture["api"].as_str().unwrap_or_default()) {
            ("none", _) => check_without_answer(name, fixture).await,
            (_, "message_batches_results") => check_batch_results(name, fixture),
            _ => check(name, fixture),
        }
    }
}

#[test]
fn apis_are_known_by_their_paths() {
    for (api, path) in Api::KNOWN {
        assert_eq!(Api::of(path), api);
    }
    assert_eq!(Api::of("audio/speech"), Api::Other);
}
