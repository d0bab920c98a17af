//! Calls over real connections, and every way in which they break.

use gristmill_common::config::Timeouts;
use gristmill_common::failure::Disposition;

use super::super::{Call, Error, Http, build};
use super::server::*;
use super::*;

fn kinds(reply: &Reply) -> (ErrorClass, String) {
    let record = error(reply);
    (record.class.clone(), record.causes.first().map(|cause| cause.kind.clone()).unwrap_or_default())
}

fn of(class: ErrorClass, kind: &str) -> (ErrorClass, String) {
    (class, kind.to_owned())
}

#[tokio::test]
async fn a_call_sends_the_body_verbatim_and_reads_the_answer() {
    let server = Server::start(Script::Answer(answer("200 OK", "x-request-id: req_1\r\n", CHAT))).await;
    let provider = provider(&deployment(&server.base()));
    let reply = call(&provider).await;
    let got = reply.outcome.as_ref().unwrap();
    assert_eq!((got.body.as_ref(), got.output_text.as_deref()), (CHAT.as_bytes(), Some("Hi")));
    assert_eq!((got.finish_reason.as_deref(), reply.served_model.as_deref()), (Some("stop"), Some("m-2026")));
    assert_eq!((reply.http_status, reply.request_id.as_deref(), reply.sent), (Some(200), Some("req_1"), true));
    assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens), (Some(3), Some(1)));
    assert!(reply.ttft_ms.unwrap() <= reply.latency_ms);

    call(&provider).await.outcome.unwrap();
    assert_eq!((server.connections(), server.requests().len()), (1, 2), "the connection is used again");
    let request = &server.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.as_bytes(), request_body());
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /v1/chat/completions HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "accept: */*",
            &format!("authorization: Bearer {KEY}"),
            &format!("content-length: {}", body.len()),
            "content-type: application/json",
            &format!("host: {}", server.address),
            concat!("user-agent: gristmill/", env!("CARGO_PKG_VERSION")),
            &format!("x-client-request-id: {}", job()),
        ],
        "and no accept-encoding: answers are kept byte for byte"
    );
}

#[tokio::test]
async fn the_model_and_the_tier_are_fitted_and_no_key_is_sent_where_there_is_none() {
    let server = Server::start(Script::Answer(answer("200 OK", "", CHAT))).await;
    let mut deployment = deployment(&server.base());
    deployment.model = "gpt-4o-2024-11-20".into();
    deployment.api_key = None;
    let body = Bytes::from_static(br#"{"model": "m", "stream": true}"#);
    let endpoint = "chat/completions";
    let call = Call { endpoint, body: &body, job: job(), deadline: None, service_tier: Some("flex"), tokens: None };
    provider(&deployment).call(call).await.outcome.unwrap();
    let request = &server.requests()[0];
    assert!(
        request.ends_with(
            "\r\n\r\n{\"stream_options\":{\"include_usage\":true},\"service_tier\":\"flex\",\"model\": \"gpt-4o-2024-11-20\", \"stream\": true}"
        ),
        "{request}"
    );
    assert!(!request.contains("authorization"));
}

#[tokio::test]
async fn an_answer_in_pieces_is_put_together() {
    let (first, second) = CHAT.split_at(40);
    let chunks = format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    let reply = called(Script::Answer(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"))).await;
    assert_eq!(reply.outcome.unwrap().body, CHAT);
    let until_close = called(Script::AnswerAndClose(format!("HTTP/1.1 200 OK\r\n\r\n\n\n{CHAT}"))).await;
    assert_eq!(until_close.outcome.unwrap().body, format!("\n\n{CHAT}"));
}

#[tokio::test]
async fn a_refusal_is_read_with_its_wait() {
    let body = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    let reply = called(Script::Answer(answer("429 X", "retry-after: 2\r\nrequest-id: r2\r\n", body))).await;
    let record = error(&reply);
    assert_eq!((record.class.clone(), record.retry_after_ms), (ErrorClass::RateLimit, Some(2_000)));
    assert_eq!((record.message.as_str(), record.request_id.as_deref()), ("slow down", Some("r2")));
    assert_eq!(record.headers.get("retry-after").map(String::as_str), Some("2"));
    assert_eq!(
        (record.provider.as_deref(), record.model.as_deref(), record.deployment.as_deref()),
        (Some("openai"), Some("m"), Some("d"))
    );
}

#[tokio::test]
async fn each_time_limit_names_itself_and_what_to_change() {
    // Before the total has passed, the request must have been sent.
    let (short, long) = (Duration::from_millis(80), Duration::from_secs(5));
    let hangs = Script::AnswerAndHang("HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n{".to_owned());
    type Limit = fn(&mut Timeouts) -> &mut Duration;
    let connect: Limit = |timeouts| &mut timeouts.connect;
    let first_byte: Limit = |timeouts| &mut timeouts.first_byte;
    let idle: Limit = |timeouts| &mut timeouts.idle;
    let total: Limit = |timeouts| &mut timeouts.total;
    for (script, scheme, (limit, time), kind, names, sent, status) in [
        // Accepts the connection and never answers the TLS handshake.
        (Script::Deaf, "https", (connect, short), "timeout.connect", "connect_timeout (80ms)", false, None),
        (Script::Deaf, "http", (first_byte, short), "timeout.first_byte", "first_byte_timeout (80ms)", true, None),
        (hangs, "http", (idle, short), "timeout.idle", "idle_timeout (80ms)", true, Some(200)),
        (Script::Deaf, "http", (total, long), "timeout.total", "timeout (5s)", true, None),
    ] {
        let server = Server::start(script).await;
        let mut deployment = deployment(&server.base().replace("http", scheme));
        *limit(&mut deployment.timeouts) = time;
        let reply = call(&provider(&deployment)).await;
        assert_eq!(kinds(&reply), of(ErrorClass::Timeout, kind), "{:?}", reply.outcome);
        assert!(error(&reply).message.contains(names), "{kind}: {}", error(&reply).message);
        assert_eq!((reply.sent, reply.http_status), (sent, status), "{kind}");
        assert!(u128::from(reply.latency_ms) >= time.as_millis(), "{kind}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_no_silent_one_and_a_job_may_have_less_time() {
    let server = Server::start(Script::Drip("HTTP/1.1 200 OK\r\n\r\n".to_owned())).await;
    let mut deployment = deployment(&server.base());
    deployment.timeouts.idle = Duration::from_secs(2);
    let reply = call_within(&provider(&deployment), Some(Duration::from_millis(150))).await;
    assert_eq!(kinds(&reply), of(ErrorClass::Timeout, "timeout.total"));
    assert!(error(&reply).message.contains("150ms left for it"), "{}", error(&reply).message);
}

#[tokio::test]
async fn an_answer_beyond_the_size_limit_is_not_read_and_not_tried_again() {
    let big = "x".repeat(70 * 1024);
    for script in [
        Script::Answer(answer("200 OK", "", &big)),
        Script::AnswerAndClose(format!("HTTP/1.1 200 OK\r\n\r\n{big}")),
        Script::AnswerAndHang("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n".to_owned()),
    ] {
        let reply = called(script).await;
        let record = error(&reply);
        assert_eq!(record.class, ErrorClass::ApiResponseValidation);
        assert!(record.message.contains("max_response_bytes (65536)"), "{}", record.message);
        assert_eq!(record.disposition(), Disposition::Final);
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Server::start(Script::Answer(answer("200 OK", "", CHAT))).await;
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let location = format!("location: {}/chat/completions\r\n", target.base());
        let reply = called(Script::Answer(answer(status, &location, ""))).await;
        let record = error(&reply);
        assert_eq!(record.disposition(), Disposition::DeploymentFault, "{status}");
        assert!(record.message.contains("redirect") && record.message.contains("set api_base"), "{}", record.message);
        assert!(!format!("{record:?}").contains("127.0.0.1"), "{record:?}");
    }
    assert!(target.requests().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_from_one_that_breaks_off() {
    let cut = format!("HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{CHAT}");
    for (script, kind, status) in [
        (Script::AnswerAndClose(String::new()), "reset", None),
        (Script::AnswerAndReset(String::new()), "reset", None),
        (Script::AnswerAndClose(cut.clone()), "body", Some(200)),
        (Script::AnswerAndClose("SSH-2.0-OpenSSH\r\n".to_owned()), "decode", None),
    ] {
        let reply = called(script).await;
        assert_eq!(kinds(&reply), of(ErrorClass::ApiConnection, kind), "{:?}", reply.outcome);
        assert_eq!((reply.sent, reply.http_status), (true, status));
        assert_eq!(error(&reply).disposition(), Disposition::Retry, "{kind}");
    }
    // The reset may overtake the first bytes of the answer.
    let reply = called(Script::AnswerAndReset(cut)).await;
    assert_eq!(kinds(&reply), of(ErrorClass::ApiConnection, "reset"), "{:?}", reply.outcome);

    // Nothing listens on port 1.
    for (base, kind) in [("http://127.0.0.1:1/v1", "connect"), ("http://canary-host.invalid/v1", "dns")] {
        let reply = call(&provider(&deployment(base))).await;
        // A resolver without a server may not answer in time.
        let is_unresolved = kind == "dns" && kinds(&reply) == of(ErrorClass::Timeout, "timeout.connect");
        assert!(is_unresolved || kinds(&reply) == of(ErrorClass::ApiConnection, kind), "{:?}", reply.outcome);
        assert!(!reply.sent, "{kind}");
        assert_eq!(error(&reply).disposition(), Disposition::DeploymentFault, "{kind}");
        assert!(error(&reply).message.contains("api_base"), "{}", error(&reply).message);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_no_server_for_https() {
    let server = Server::start(Script::Shout("HTTP/1.1 400 Bad Request\r\n\r\n".to_owned())).await;
    let reply = call(&provider(&deployment(&server.base().replace("http", "https")))).await;
    assert_eq!(kinds(&reply), of(ErrorClass::ApiConnection, "tls"), "{:?}", reply.outcome);
    assert!(!reply.sent);
}

#[tokio::test]
async fn an_error_status_whose_body_is_lost_is_still_that_error() {
    let reply =
        called(Script::AnswerAndClose("HTTP/1.1 503 X\r\nretry-after: 3\r\ncontent-length: 900\r\n\r\n{".to_owned()))
            .await;
    assert_eq!(kinds(&reply), of(ErrorClass::ServiceUnavailable, "body"));
    assert_eq!(error(&reply).retry_after_ms, Some(3_000));
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_before_anything_is_sent() {
    let server = Server::start(Script::Deaf).await;
    let provider = provider(&deployment(&server.base()));
    let (object, list) = (request_body(), Bytes::from_static(b"[1]"));
    for (endpoint, body) in [("https://evil.example/v1", &object), ("/v1/../admin", &object), ("/v1/responses", &list)]
    {
        let call = Call { endpoint, body, job: job(), deadline: None, service_tier: None, tokens: None };
        let reply = provider.call(call).await;
        assert_eq!((error(&reply).class.clone(), reply.sent), (ErrorClass::BadRequest, false));
        assert_eq!(error(&reply).deployment.as_deref(), Some("d"));
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_structured_answer_that_was_cut_is_no_answer_and_is_billed() {
    let body = CHAT.replace("\"stop\"", "\"length\"");
    let server = Server::start(Script::Answer(answer("200 OK", "", &body))).await;
    let provider = provider(&deployment(&server.base()));
    let request = Bytes::from_static(br#"{"model":"m","response_format":{"type":"json_schema"}}"#);
    let call = Call {
        endpoint: "/v1/chat/completions",
        body: &request,
        job: job(),
        deadline: None,
        service_tier: None,
        tokens: None,
    };
    let reply = provider.call(call).await;
    assert_eq!(error(&reply).class, ErrorClass::LengthFinishReason);
    assert_eq!((reply.usage.output_tokens, error(&reply).body.as_deref()), (Some(1), Some(body.as_str())));
}

#[test]
fn deployments_that_cannot_be_built_say_what_to_change() {
    crate::install_tls();
    let built = |change: fn(&mut gristmill_common::config::Deployment)| {
        let mut deployment = deployment("http://127.0.0.1:9/v1");
        change(&mut deployment);
        build(&deployment, &Http::default(), Arc::new(gristmill_common::clock::SystemClock)).map(|_| ()).unwrap_err()
    };
    let header = built(|deployment| {
        let value = "canary\n".to_owned().into();
        deployment.wire.headers.push(gristmill_common::config::Header { name: "x-a".into(), value });
    });
    assert!(matches!(&header, Error::InvalidHeader { name, .. } if name == "x-a"), "{header}");
    assert!(!header.to_string().contains("canary"), "{header}");
    let key = built(|deployment| deployment.api_key = Some("sk-canary\n".to_owned().into())).to_string();
    assert!(key.contains("OPENAI_API_KEY") && !key.contains("canary"), "{key}");
    let endpoint = built(|deployment| deployment.api_base.0 = "ftp://canary-host/".parse().unwrap()).to_string();
    assert!(!endpoint.contains("canary"), "{endpoint}");
}

#[tokio::test]
async fn anthropics_api_is_refused_before_anything_is_sent() {
    let server = Server::start(Script::Answer(answer("200 OK", "", CHAT))).await;
    let body = Bytes::from_static(br#"{"model":"m","max_tokens":1,"messages":[]}"#);
    let call =
        Call { endpoint: "/v1/messages", body: &body, job: job(), deadline: None, service_tier: None, tokens: None };
    let reply = provider(&deployment(&server.base())).call(call).await;
    assert!(!reply.sent && error(&reply).class == ErrorClass::BadRequest);
    assert!(error(&reply).message.contains("cannot serve /v1/messages, which is Anthropic's"), "{reply:?}");
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_preview_is_what_a_call_sends_without_the_key() {
    let server = Server::start(Script::Answer(answer("200 OK", "", CHAT))).await;
    let mut deployment = deployment(&server.base());
    deployment.model = "other".into();
    let provider = provider(&deployment);
    let body = Bytes::from_static(br#"{"model": "m"}"#);
    let call = Call {
        endpoint: "/v1/chat/completions",
        body: &body,
        job: job(),
        deadline: None,
        service_tier: Some("flex"),
        tokens: None,
    };
    let preview = provider.preview(call).unwrap();
    provider.call(call).await.outcome.unwrap();
    let request = &server.requests()[0];
    assert!(request.ends_with(std::str::from_utf8(&preview.body).unwrap()));
    assert_eq!(preview.url, format!("http://{}/v1/chat/completions", server.address));
    for (name, value) in &preview.headers {
        let value = if name == "authorization" { format!("Bearer {KEY}") } else { value.clone() };
        assert!(request.contains(&format!("{name}: {value}\r\n")), "{name}");
    }
    assert!(!format!("{preview:?}").contains(KEY));
}

#[tokio::test]
async fn the_models_that_a_provider_has_are_read() {
    let list = r#"{"object":"list","data":[{"id":"a","object":"model"},{"id":"b"}]}"#;
    let limit = Duration::from_secs(30);
    let server = Server::start(Script::Answer(answer("200 OK", "", list))).await;
    let models = provider(&deployment(&server.base())).models(limit).await.unwrap();
    assert_eq!(models, ["a", "b"]);
    assert!(server.requests()[0].starts_with("GET /v1/models HTTP/1.1\r\n"));
    let refused = r#"{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}"#;
    let server = Server::start(Script::Answer(answer("401 Unauthorized", "", refused))).await;
    let error = provider(&deployment(&server.base())).models(limit).await.unwrap_err();
    assert_eq!((error.class, error.status), (ErrorClass::Authentication, Some(401)));
}
