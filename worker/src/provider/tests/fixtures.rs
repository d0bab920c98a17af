//! Every recorded answer is read as its file says.

use std::path::PathBuf;

use gristmill_common::failure::Disposition;
use gristmill_common::outcome::Usage;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::super::address::Api;
use super::super::key::Key;
use super::super::openai::OpenAi;
use super::super::{Http, exchange::Exchange};
use super::server::{deployment, request_body};
use super::*;

/// How many files there are, are streams, are skipped and are checked: none may vanish unseen.
const FILES: usize = 164;
const STREAMS: usize = 25;
const CHECKED: usize = 123;

/// Files that are not checked here, and why.
const SKIPPED: &[(&str, &str)] = &[
    ("163_connect_refused", "no response; tests/wire.rs makes a real one"),
    ("164_client_deadline", "no response; tests/wire.rs makes a real one"),
];

/// Answers in formats of other providers, which a later provider reads; their errors are checked all the same.
const FOREIGN_APIS: [&str; 3] = ["messages", "count_tokens", "message_batches_results"];

/// Where the files' expectation and the taxonomy of classes differ, the taxonomy holds.
const DECIDED_OTHERWISE: &[(&str, &str, &str)] = &[
    (
        "053_openai_429_request_too_large",
        "RequestTooLargeError",
        "no wait makes it fit, and a RateLimitError is waited for",
    ),
    ("139_groq_498_flex_capacity", "RateLimitError", "nothing was done or billed, so it must not count as an attempt"),
];

/// Classes under which we know what a file calls otherwise.
fn class_name(name: &str) -> &str {
    if name == "Cancelled" { "CancelledError" } else { name }
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    class: String,
    retryable: bool,
    retry_after_ms: Option<u64>,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire")
}

fn api_of(fixture: &Value) -> Option<Api> {
    match fixture["api"].as_str()? {
        "chat_completions" => Some(Api::Chat),
        "responses" => Some(Api::Responses),
        "embeddings" => Some(Api::Embeddings),
        _ => None,
    }
}

fn body_of(fixture: &Value) -> Bytes {
    match fixture["body_kind"].as_str().unwrap() {
        "json" => fixture["body"].to_string().into(),
        "text" => fixture["body"].as_str().unwrap().to_owned().into(),
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

/// Gives an answer to the provider as if it had come from the wire.
fn reply_to(fixture: &Value, api: Api) -> Reply {
    let now = fixture["now"].as_str().unwrap_or("2026-11-23T01:00:00Z");
    let now: chrono::DateTime<chrono::Utc> = now.parse().unwrap();
    let clock = Arc::new(gristmill_common::clock::ManualClock::new(now.timestamp_millis()));
    let deployment = deployment("http://127.0.0.1:9/v1");
    let provider = OpenAi::new(&deployment, &Http::default(), clock).unwrap();
    let request = match &fixture["request"] {
        Value::Null => request_body(),
        request => request.to_string().into(),
    };
    let status = StatusCode::from_u16(u16::try_from(fixture["status"].as_u64().unwrap()).unwrap()).unwrap();
    let exchange = Exchange {
        sent: true,
        first_byte: Some(Duration::from_millis(3)),
        total: Duration::from_millis(4),
        head: Some((status, headers_of(fixture))),
        body: Ok(body_of(fixture)),
    };
    provider.reply(&Key::new(&deployment).unwrap().known(), api, &request, exchange)
}

fn seen(reply: &Reply) -> Seen {
    match &reply.outcome {
        Ok(_) => Seen { class: "Success".to_owned(), ..Seen::default() },
        Err(record) => Seen {
            class: record.class.to_string(),
            retryable: matches!(record.disposition(), Disposition::Retry | Disposition::RetryUncounted),
            retry_after_ms: record.retry_after_ms,
        },
    }
}

fn expected(name: &str, expect: &Value) -> Seen {
    let otherwise = DECIDED_OTHERWISE.iter().find(|(file, ..)| *file == name);
    let class = otherwise.map_or_else(|| class_name(expect["class"].as_str().unwrap()), |(_, class, _)| class);
    Seen {
        class: class.to_owned(),
        retryable: expect["retryable"].as_bool().unwrap(),
        retry_after_ms: expect.get("retry_after_ms").map(|ms| ms.as_u64().unwrap()),
    }
}

fn check_usage(name: &str, expect: &Value, usage: &Usage) {
    let Some(wanted) = expect.get("usage") else { return };
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

fn check_answer(name: &str, fixture: &Value, reply: &Reply) {
    let expect = &fixture["expect"];
    let Ok(answer) = &reply.outcome else { return };
    assert_eq!(answer.body, body_of(fixture), "{name}: the body is kept as it came");
    if let Some(text) = expect.get("text") {
        assert_eq!(answer.output_text.as_deref(), text.as_str(), "{name}: text");
    }
    if let Some(reason) = expect.get("finish_reason") {
        assert_eq!(answer.finish_reason.as_deref(), reason.as_str(), "{name}: finish_reason");
    }
    for key in ["model", "service_tier"] {
        let seen = if key == "model" { &reply.served_model } else { &reply.service_tier };
        assert_eq!(seen.as_deref(), fixture["body"][key].as_str().or(seen.as_deref()), "{name}: {key}");
    }
}

fn check_error(name: &str, fixture: &Value, reply: &Reply) {
    let Err(record) = &reply.outcome else { return };
    assert!(!record.message.trim().is_empty(), "{name}: a message");
    assert_eq!(record.status, reply.http_status, "{name}: status");
    assert_eq!(record.body.is_some(), !body_of(fixture).is_empty(), "{name}: the body is kept");
    for (key, seen) in [("code", &record.code), ("type", &record.kind), ("param", &record.param)] {
        if let Some(Value::String(wanted)) = fixture["body"]["error"].get(key) {
            assert_eq!(seen.as_deref(), Some(wanted.as_str()), "{name}: {key}");
        }
    }
    if let Some(wanted) = fixture["body"]["error"]["message"].as_str() {
        assert_eq!(record.message, wanted, "{name}: the provider's own words");
    }
    let json = serde_json::to_string(record).unwrap();
    assert_eq!(serde_json::from_str::<ErrorRecord>(&json).unwrap(), **record, "{name}: survives JSON");
}

#[test]
fn every_recorded_answer_is_read_as_its_file_says() {
    crate::install_tls();
    let (mut files, mut streams, mut skipped, mut foreign, mut checked) = (0, 0, 0, 0, 0);
    let mut paths: Vec<_> = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        files += 1;
        let name = path.file_stem().unwrap().to_str().unwrap();
        let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        if fixture["stream"] == true {
            // Streaming comes with a later provider.
            streams += 1;
            continue;
        }
        if SKIPPED.iter().any(|(file, _)| *file == name) {
            skipped += 1;
            continue;
        }
        let api = match api_of(&fixture) {
            Some(api) => api,
            None if fixture["status"] == 200 => {
                assert!(FOREIGN_APIS.contains(&fixture["api"].as_str().unwrap()), "{name}");
                foreign += 1;
                continue;
            }
            None => Api::Other,
        };
        checked += 1;
        let reply = reply_to(&fixture, api);
        let expect = &fixture["expect"];
        assert_eq!(seen(&reply), expected(name, expect), "{name}: {:?}", reply.outcome);
        check_usage(name, expect, &reply.usage);
        check_answer(name, &fixture, &reply);
        check_error(name, &fixture, &reply);
        if let Some(id) = expect["request_id"].as_str() {
            assert_eq!(reply.request_id.as_deref(), Some(id), "{name}: request id");
        }
    }
    assert_eq!((files, streams, skipped), (FILES, STREAMS, SKIPPED.len()));
    assert_eq!((checked, files - streams - skipped - foreign), (CHECKED, CHECKED));
}
