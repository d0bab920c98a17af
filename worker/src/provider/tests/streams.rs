//! Streams over real connections: put together, shown as they come, and every way in which they stop.

use std::sync::Mutex;

use gristmill_common::config::{Dialect, Wire};

use super::super::{Call, Delta, Tokens};
use super::server::*;
use super::*;

const EVENTS: &str = "data: {\"id\":\"c\",\"model\":\"m-2026\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}]}\n\n";
const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

/// Keeps what it was shown.
#[derive(Debug, Default)]
struct Shown(Mutex<Vec<String>>);

impl Tokens for Shown {
    fn take(&self, delta: Delta<'_>) {
        let text = match delta {
            Delta::Text(text) => text.to_owned(),
            Delta::Reasoning(text) => format!("({text})"),
        };
        self.0.lock().unwrap().push(text);
    }
}

fn stream(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n{body}")
}

async fn streamed(server: &Server, change: fn(&mut gristmill_common::config::Deployment), shown: &Shown) -> Reply {
    let mut deployment = deployment(&server.base());
    change(&mut deployment);
    let body = request_body();
    let call = Call {
        endpoint: "/v1/chat/completions",
        body: &body,
        job: job(),
        deadline: None,
        service_tier: None,
        tokens: Some(shown),
    };
    provider(&deployment).call(call).await
}

#[tokio::test]
async fn a_stream_is_put_together_and_shown_as_it_comes() {
    let server = Server::start(Script::AnswerAndClose(stream(&format!(": hello\n\n{EVENTS}{END}")))).await;
    let shown = Shown::default();
    let reply = streamed(&server, |_| {}, &shown).await;
    let answer = reply.outcome.as_ref().unwrap();
    assert_eq!((answer.output_text.as_deref(), answer.finish_reason.as_deref()), (Some("Hello"), Some("stop")));
    assert_eq!((reply.usage.input_tokens, reply.served_model.as_deref()), (Some(3), Some("m-2026")));
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (&body["object"], &body["choices"][0]["message"]["role"]),
        (&"chat.completion".into(), &"assistant".into())
    );
    assert_eq!(*shown.0.lock().unwrap(), ["Hel", "lo"]);
    assert!(server.requests()[0].contains("\"stream\":true"));
}

#[tokio::test]
async fn who_waits_for_tokens_gets_a_plain_answer_where_the_server_cannot_stream() {
    let server = Server::start(Script::Answer(answer("200 OK", "content-type: application/json\r\n", CHAT))).await;
    let reply = streamed(&server, |_| {}, &Shown::default()).await;
    assert_eq!(reply.outcome.unwrap().output_text.as_deref(), Some("Hi"));
    let refused = Server::start(Script::Answer(answer("429 X", "", "{}"))).await;
    assert_eq!(error(&streamed(&refused, |_| {}, &Shown::default()).await).class, ErrorClass::RateLimit);
}

#[tokio::test]
async fn a_stream_is_one_under_any_content_type_and_whoever_asked_for_it() {
    for content_type in ["", "content-type: text/plain\r\n", "content-type: application/octet-stream\r\n"] {
        for start in ["", ": keep-alive\n\n", "\n\n", "event: chunk\n"] {
            let head = format!("HTTP/1.1 200 OK\r\n{content_type}\r\n");
            let server = Server::start(Script::AnswerAndClose(format!("{head}{start}{EVENTS}{END}"))).await;
            let shown = Shown::default();
            let reply = streamed(&server, |_| {}, &shown).await;
            assert_eq!(reply.outcome.unwrap().output_text.as_deref(), Some("Hello"), "{content_type}{start}");
            assert_eq!(*shown.0.lock().unwrap(), ["Hel", "lo"]);
            let unasked = call(&provider(&deployment(&server.base()))).await;
            assert_eq!(unasked.outcome.unwrap().output_text.as_deref(), Some("Hello"), "{content_type}{start}");
            assert!(!server.requests()[1].contains("\"stream\""), "nobody asked for it");
        }
    }
}

#[tokio::test]
async fn an_undeclared_stream_is_shown_as_it_comes_and_watched_as_one() {
    let server = Server::start(Script::AnswerAndHang(format!("HTTP/1.1 200 OK\r\n\r\n{EVENTS}"))).await;
    let shown = Shown::default();
    let reply = streamed(&server, |deployment| deployment.timeouts.idle = Duration::from_secs(1), &shown).await;
    let record = error(&reply);
    assert_eq!((&record.class, record.causes[0].kind.as_str()), (&ErrorClass::MidStream, "timeout.idle"));
    assert_eq!((record.partial_output.as_deref(), shown.0.lock().unwrap().len()), (Some("Hello"), 2));
}

#[tokio::test]
async fn each_limit_of_a_stream_names_itself() {
    // Within it, an answer must have begun.
    const LIMIT: Duration = Duration::from_secs(5);
    let keeps_alive = stream(": keep-alive\n\n");
    let table = [
        // Comments keep a connection alive, and are no output.
        (
            Script::Drip(keeps_alive.clone()),
            (|deployment| deployment.timeouts.first_byte = LIMIT) as fn(&mut gristmill_common::config::Deployment),
            "timeout.first_token",
            ErrorClass::Timeout,
        ),
        (
            Script::AnswerAndHang(stream(EVENTS)),
            |deployment| deployment.timeouts.idle = LIMIT,
            "timeout.idle",
            ErrorClass::MidStream,
        ),
        (
            Script::Drip(stream(EVENTS)),
            |deployment| deployment.timeouts.total = LIMIT,
            "timeout.total",
            ErrorClass::MidStream,
        ),
        (Script::AnswerAndReset(stream(EVENTS)), |_| {}, "reset", ErrorClass::MidStream),
        (Script::AnswerAndClose(stream(EVENTS)), |_| {}, "stream", ErrorClass::MidStream),
        (Script::AnswerAndClose(stream("")), |_| {}, "stream", ErrorClass::ApiConnection),
    ];
    let calls = table.into_iter().map(|(script, change, kind, class)| async move {
        let server = Server::start(script.clone()).await;
        let reply = streamed(&server, change, &Shown::default()).await;
        let record = error(&reply);
        assert_eq!(record.class, class, "{script:?}: {record:?}");
        let seen = &record.causes[0].kind;
        // Whether a reset is seen as one depends on what the kernel had handed over by then.
        assert!(seen == kind || (kind == "reset" && seen == "stream"), "{script:?}: {record:?}");
        if kind.starts_with("timeout") {
            assert!(record.message.contains(&format!("{LIMIT:?}")), "{}", record.message);
        }
        let partial = (class == ErrorClass::MidStream).then_some("Hello");
        assert_eq!(record.partial_output.as_deref(), partial, "{script:?}");
    });
    futures_util::future::join_all(calls).await;
}

#[tokio::test]
async fn an_answer_whose_connection_is_lost_behind_its_end_is_whole() {
    for script in [
        Script::AnswerAndReset(stream(&format!("{EVENTS}{END}"))),
        Script::AnswerAndHang(stream(&format!("{EVENTS}{END}"))),
    ] {
        let server = Server::start(script).await;
        let reply = streamed(&server, |_| {}, &Shown::default()).await;
        assert_eq!(reply.outcome.unwrap().output_text.as_deref(), Some("Hello"));
    }
}

#[tokio::test]
async fn a_chat_request_is_anthropics_on_the_wire_and_openais_in_the_row() {
    let body = r#"{"type":"message","id":"msg_1","role":"assistant","model":"claude-x","content":[{"type":"text","text":"Oslo."}],"stop_reason":"end_turn","usage":{"input_tokens":9,"output_tokens":2}}"#;
    let server = Server::start(Script::Answer(answer("200 OK", "request-id: req_a\r\n", body))).await;
    let mut deployment = deployment(&server.base());
    deployment.wire = Wire { dialect: Dialect::Anthropic, max_tokens: Some(99), ..Wire::default() };
    let reply = call(&provider(&deployment)).await;
    let answer = reply.outcome.as_ref().unwrap();
    assert_eq!((answer.output_text.as_deref(), answer.finish_reason.as_deref()), (Some("Oslo."), Some("stop")));
    assert_eq!((reply.request_id.as_deref(), reply.usage.input_tokens), (Some("req_a"), Some(9)));
    let request = &server.requests()[0];
    let (head, sent) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/messages HTTP/1.1"), "{head}");
    assert!(head.contains("anthropic-version: 2023-06-01") && head.contains(&format!("x-api-key: {KEY}")), "{head}");
    assert!(!head.contains("authorization"), "{head}");
    let sent: serde_json::Value = serde_json::from_str(sent).unwrap();
    assert_eq!((&sent["max_tokens"], &sent["messages"][0]["role"]), (&99.into(), &"user".into()));
}

#[tokio::test]
async fn azure_takes_the_key_in_its_own_header_and_the_deployment_in_the_path() {
    let server = Server::start(Script::Answer(answer("200 OK", "", CHAT))).await;
    let mut deployment = deployment(&format!("http://{}", server.address));
    deployment.wire = Wire { dialect: Dialect::Azure, api_version: Some("2024-10-21".into()), ..Wire::default() };
    call(&provider(&deployment)).await.outcome.unwrap();
    let head = server.requests()[0].clone();
    assert!(head.starts_with("POST /openai/deployments/m/chat/completions?api-version=2024-10-21 HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("api-key: {KEY}")) && !head.contains("authorization"), "{head}");
    deployment.wire.bearer = true;
    call(&provider(&deployment)).await.outcome.unwrap();
    assert!(server.requests()[1].contains(&format!("authorization: Bearer {KEY}")));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_its_schema_is_an_error_and_keeps_its_usage() {
    let server = Server::start(Script::Answer(answer("200 OK", "", CHAT))).await;
    let body = Bytes::from_static(
        br#"{"model":"m","messages":[],"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}"#,
    );
    let call = Call {
        endpoint: "/v1/chat/completions",
        body: &body,
        job: job(),
        deadline: None,
        service_tier: None,
        tokens: None,
    };
    let reply = provider(&deployment(&server.base())).call(call).await;
    let record = error(&reply);
    assert_eq!((&record.class, record.retryable), (&ErrorClass::JsonSchemaValidation, true));
    assert_eq!(record.message, "the answer is not JSON, which was asked for: expected value at line 1 column 1");
    assert_eq!((reply.usage.output_tokens, record.body.as_deref()), (Some(1), Some(CHAT)));
}
