//! Anthropic's addresses, keys, headers, answers and errors.

use super::*;

fn message(job: &str) -> Value {
    json!({
        "model": "claude-test", "max_tokens": 1000, "metadata": { "gristmill_job": job },
        "system": "Be brief.", "messages": [{ "role": "user", "content": "Hello there." }],
    })
}

fn call(simulator: &Simulator, path: &str, body: &Value) -> RequestBuilder {
    client()
        .post(format!("http://{}{path}", simulator.addr()))
        .header("anthropic-version", "2023-06-01")
        .body(body.to_string())
}

#[tokio::test]
async fn a_message_is_answered_with_anthropics_body_and_headers() {
    let simulator = start(Options::default()).await;
    for path in ["/v1/messages", "/messages", "/anthropic/v1/messages"] {
        let response = call(&simulator, path, &message("job")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(header(&response, "request-id").unwrap().starts_with("req_sim"));
        assert_eq!(header(&response, "x-request-id"), None);
        assert_eq!(header(&response, "content-type"), Some("application/json"));
        let body = json(response).await;
        assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
        assert_eq!((&body["model"], &body["stop_reason"]), (&json!("claude-test"), &json!("end_turn")));
        assert!(body["content"][0]["text"].as_str().unwrap().len() > 100);
        assert_eq!(body["usage"]["input_tokens"], 6);
        assert_eq!(body["usage"]["cache_read_input_tokens"], 0);
    }
    simulator.shutdown().await;
}

#[tokio::test]
async fn tokens_are_counted_and_models_listed() {
    let simulator = start(Options { limits: limits("rpm:1"), ..Options::default() }).await;
    let mut body = message("job");
    for name in ["max_tokens", "metadata"] {
        body.as_object_mut().unwrap().remove(name);
    }
    for _ in 0..3 {
        // The limit of calls does not hold here.
        let counted = call(&simulator, "/v1/messages/count_tokens", &body).send().await.unwrap();
        assert_eq!(json(counted).await, json!({ "input_tokens": 6 }));
    }
    let models = client().get(format!("{}/models", simulator.base_url())).header("anthropic-version", "2023-06-01");
    let models = json(models.send().await.unwrap()).await;
    assert_eq!((&models["data"][0]["type"], &models["has_more"]), (&json!("model"), &json!(false)));
    simulator.shutdown().await;
}

#[tokio::test]
async fn the_version_is_required() {
    let simulator = start(Options::default()).await;
    let url = format!("http://{}/v1/messages", simulator.addr());
    let missing = client().post(&url).body(message("job").to_string()).send().await.unwrap();
    assert_eq!(missing.status(), 400);
    let error = json(missing).await;
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("invalid_request_error")));
    assert_eq!(error["error"]["message"], "anthropic-version: header is required");
    let ask = |version: &str, body: &Value| {
        client().post(&url).header("anthropic-version", version).body(body.to_string()).send()
    };
    assert_eq!(ask("1999-01-01", &message("job")).await.unwrap().status(), 400);
    let mut hot = message("job");
    hot["temperature"] = json!(1);
    assert_eq!(ask("2023-06-01", &hot).await.unwrap().status(), 200);
    let removed = ask("2026-10-21", &hot).await.unwrap();
    assert_eq!(json(removed).await["error"]["message"], "temperature: Extra inputs are not permitted");
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_key_stands_in_either_header() {
    let simulator = start(Options { require_key: Some("sk-ant-of-the-test".into()), ..Options::default() }).await;
    let call = || call(&simulator, "/v1/messages", &message("job"));
    let table = [
        (call(), 401, "x-api-key header is required"),
        (call().header("x-api-key", "another"), 401, "invalid x-api-key"),
        (call().bearer_auth("another"), 401, "Invalid bearer token"),
    ];
    for (request, status, text) in table {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        let error = json(response).await["error"].take();
        assert_eq!((&error["type"], &error["message"]), (&json!("authentication_error"), &json!(text)));
    }
    assert_eq!(call().header("x-api-key", "sk-ant-of-the-test").send().await.unwrap().status(), 200);
    assert_eq!(call().bearer_auth("sk-ant-of-the-test").send().await.unwrap().status(), 200);
    simulator.shutdown().await;
}

#[tokio::test]
async fn what_anthropic_does_not_take_is_refused_in_its_words() {
    let simulator = start(Options::default()).await;
    let with = |name: &str, value: Value| {
        let mut body = message("job");
        body[name] = value;
        body
    };
    let mut without = message("job");
    without.as_object_mut().unwrap().remove("max_tokens");
    let table = [
        (without, "max_tokens: Field required"),
        (with("frequency_penalty", json!(1)), "frequency_penalty: Extra inputs are not permitted"),
        (with("stop_sequences", json!(["\n"])), "stop_sequences: each stop sequence must contain non-whitespace"),
        (
            with("messages", json!([{ "role": "user", "content": [{ "type": "text", "text": "" }] }])),
            "messages: text content blocks must be non-empty",
        ),
    ];
    for (body, text) in table {
        let response = call(&simulator, "/v1/messages", &body).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let id = header(&response, "request-id").unwrap().to_owned();
        let error = json(response).await;
        assert_eq!((&error["error"]["message"], &error["request_id"]), (&json!(text), &json!(id)));
    }
    let broken = client()
        .post(format!("http://{}/v1/messages", simulator.addr()))
        .header("anthropic-version", "2023-06-01")
        .body("{");
    let error = json(broken.send().await.unwrap()).await;
    assert!(error["error"]["message"].as_str().unwrap().starts_with("The request body is not valid JSON"), "{error}");
    assert_eq!(simulator.control().stats().by_status.get(&400), Some(&5));

    let get = client().get(format!("http://{}/v1/messages", simulator.addr())).send().await.unwrap();
    assert_eq!((get.status().as_u16(), json(get).await["type"].take()), (405, json!("error")));
    let nowhere = call(&simulator, "/anthropic/v1/nothing", &message("job")).send().await.unwrap();
    assert_eq!(
        (nowhere.status().as_u16(), json(nowhere).await["error"]["type"].take()),
        (404, json!("not_found_error"))
    );
    simulator.shutdown().await;
}

#[tokio::test]
async fn every_error_has_its_type_and_the_requests_id() {
    let table = [
        ("400", 400, "invalid_request_error"),
        ("400:1:code=context_length_exceeded", 400, "invalid_request_error"),
        ("401", 401, "authentication_error"),
        ("402", 402, "billing_error"),
        ("403", 403, "permission_error"),
        ("404", 404, "not_found_error"),
        ("409", 409, "conflict_error"),
        ("413", 413, "request_too_large"),
        ("429", 429, "rate_limit_error"),
        ("500", 500, "api_error"),
        ("504", 504, "timeout_error"),
        ("529", 529, "overloaded_error"),
    ];
    for (rule, status, kind) in table {
        let simulator = start_with_faults(&[rule]).await;
        let response = call(&simulator, "/v1/messages", &message("job")).send().await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "retry-after"), None);
        let id = header(&response, "request-id").unwrap().to_owned();
        let error = json(response).await;
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!(kind)), "{rule}");
        assert_eq!(error["request_id"], id.as_str());
        simulator.shutdown().await;
    }
    let simulator = start_with_faults(&["529:1:retry-after=1.5"]).await;
    let response = call(&simulator, "/v1/messages", &message("job")).send().await.unwrap();
    assert_eq!((header(&response, "retry-after"), header(&response, "retry-after-ms")), (Some("2"), None));
    assert_eq!(header(&response, "x-should-retry"), Some("true"));
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_body_beyond_32_megabytes_is_too_large() {
    let simulator = start(Options::default()).await;
    let mut body = message("job");
    body["messages"][0]["content"] = "x".repeat(33 * 1024 * 1024).into();
    let response = call(&simulator, "/v1/messages", &body).send().await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(json(response).await["error"]["type"], "request_too_large");
    simulator.shutdown().await;
}

#[tokio::test]
async fn limits_are_told_with_the_time_of_day() {
    let simulator = start(Options { limits: limits("rpm:1,tpm:120000"), ..Options::default() }).await;
    let first = call(&simulator, "/v1/messages", &message("job")).send().await.unwrap();
    assert_eq!(header(&first, "anthropic-ratelimit-requests-remaining"), Some("0"));
    // 1,994 is rounded to thousands; the maximum of the answer does not count.
    assert_eq!(header(&first, "anthropic-ratelimit-input-tokens-remaining"), Some("2000"));
    assert_eq!(header(&first, "anthropic-ratelimit-tokens-limit"), Some("120000"));
    let reset = header(&first, "anthropic-ratelimit-requests-reset").unwrap();
    let reset = chrono::DateTime::parse_from_rfc3339(reset).unwrap();
    let second = call(&simulator, "/v1/messages", &message("job")).send().await.unwrap();
    assert_eq!(second.status(), 429);
    let wait: i64 = header(&second, "retry-after").unwrap().parse().unwrap();
    assert!((40..=60).contains(&wait), "{wait}");
    let again = header(&second, "anthropic-ratelimit-requests-reset").unwrap();
    let drift = (chrono::DateTime::parse_from_rfc3339(again).unwrap() - reset).num_seconds();
    assert!((0..=20).contains(&drift), "{drift}");
    let error = json(second).await["error"].take();
    assert_eq!(error["message"], "This request would exceed your organization's rate limit of 1 requests per minute.");
    simulator.shutdown().await;
}
