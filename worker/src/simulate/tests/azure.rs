//! Azure's addresses, keys, headers, answers and errors.

use super::*;

const DEPLOYMENT: &str = "/openai/deployments/prod-4o";
const VERSION: &str = "api-version=2024-10-21";

fn call(simulator: &Simulator, path: &str, body: &Value) -> RequestBuilder {
    client().post(format!("http://{}{path}", simulator.addr())).body(body.to_string())
}

fn ask_deployment(simulator: &Simulator, body: &Value) -> RequestBuilder {
    call(simulator, &format!("{DEPLOYMENT}/chat/completions?{VERSION}"), body)
}

#[tokio::test]
async fn a_deployment_answers_as_the_model_behind_it() {
    let simulator = start(Options::default()).await;
    let mut body = chat("job");
    body.as_object_mut().unwrap().remove("model");
    let response = ask_deployment(&simulator, &body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let id = header(&response, "apim-request-id").unwrap().to_owned();
    assert_eq!(id.len(), 36);
    assert_eq!(header(&response, "x-request-id"), Some(id.as_str()));
    assert_eq!(header(&response, "x-ms-region"), Some("Simulated Central"));
    assert_eq!(header(&response, "x-ms-deployment-name"), Some("prod-4o"));
    assert_eq!(header(&response, "openai-version"), None);
    let answer = json(response).await;
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("gpt-4o-2024-11-20")));
    assert_eq!(answer["prompt_filter_results"][0]["content_filter_results"]["jailbreak"]["detected"], false);
    assert_eq!(answer["choices"][0]["content_filter_results"]["violence"]["severity"], "safe");
    simulator.shutdown().await;
}

#[tokio::test]
async fn every_address_answers() {
    let simulator = start(Options::default()).await;
    let table = [
        (
            format!("{DEPLOYMENT}/completions?{VERSION}"),
            json!({ "prompt": "x" }),
            "text_completion",
            "gpt-4o-2024-11-20",
        ),
        (format!("{DEPLOYMENT}/embeddings?{VERSION}"), json!({ "input": "x" }), "list", "text-embedding-3-small"),
        ("/openai/v1/chat/completions".to_owned(), chat("job"), "chat.completion", "gpt-4o-2024-11-20"),
        ("/openai/v1/responses".to_owned(), json!({ "model": "d", "input": "x" }), "response", "gpt-4o-2024-11-20"),
        (
            format!("/openai/responses?{VERSION}"),
            json!({ "model": "d", "input": "x" }),
            "response",
            "gpt-4o-2024-11-20",
        ),
        ("/openai/v1/embeddings".to_owned(), json!({ "model": "d", "input": "x" }), "list", "text-embedding-3-small"),
    ];
    for (path, body, object, model) in table {
        let answer = json(call(&simulator, &path, &body).send().await.unwrap()).await;
        assert_eq!((answer["object"].as_str(), answer["model"].as_str()), (Some(object), Some(model)), "{path}");
    }
    let models = client().get(format!("http://{}/openai/v1/models", simulator.addr())).send().await.unwrap();
    assert_eq!(json(models).await["object"], "list");
    // Below `/openai/v1/` the body names the deployment.
    let nameless = call(&simulator, "/openai/v1/responses", &json!({ "input": "x" })).send().await.unwrap();
    assert_eq!((nameless.status().as_u16(), json(nameless).await["error"]["param"].take()), (400, json!("model")));
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_version_must_be_named() {
    let simulator = start(Options::default()).await;
    for query in ["", "?api-version=", "?api-version=0613", "?version=2024-10-21"] {
        let path = format!("{DEPLOYMENT}/chat/completions{query}");
        let response = call(&simulator, &path, &chat("job")).send().await.unwrap();
        assert_eq!(response.status(), 404, "{query}");
        assert_eq!(json(response).await, json!({ "error": { "code": "404", "message": "Resource not found" } }));
    }
    let nowhere = call(&simulator, &format!("{DEPLOYMENT}/nothing?{VERSION}"), &chat("job")).send().await.unwrap();
    assert_eq!((nowhere.status().as_u16(), json(nowhere).await["error"]["code"].take()), (404, json!("404")));
    simulator.shutdown().await;
}

#[tokio::test]
async fn a_key_stands_in_either_header() {
    let simulator = start(Options { require_key: Some("azure-key-of-the-test".into()), ..Options::default() }).await;
    let call = || ask_deployment(&simulator, &chat("job"));
    let missing = call().send().await.unwrap();
    assert_eq!(missing.status(), 401);
    let flat = json(missing).await;
    assert_eq!(flat["statusCode"], 401);
    assert!(flat["message"].as_str().unwrap().starts_with("Unauthorized. "), "{flat}");
    let wrong = json(call().header("api-key", "another").send().await.unwrap()).await;
    assert_eq!(wrong["error"]["code"], "401");
    assert_eq!(json(call().bearer_auth("another").send().await.unwrap()).await["statusCode"], 401);
    assert_eq!(call().header("api-key", "azure-key-of-the-test").send().await.unwrap().status(), 200);
    assert_eq!(call().bearer_auth("azure-key-of-the-test").send().await.unwrap().status(), 200);
    simulator.shutdown().await;
}

#[tokio::test]
async fn errors_come_in_all_of_azures_shapes() {
    let table = [
        ("401", 401, "/statusCode", json!(401)),
        ("401:1:code=401", 401, "/error/code", json!("401")),
        ("403", 403, "/error/code", json!("403")),
        ("404", 404, "/error/code", json!("DeploymentNotFound")),
        ("408", 408, "/error/code", json!("Timeout")),
        ("429", 429, "/error/code", json!("429")),
        ("429:1:code=too_many_requests", 429, "/error/code", json!("too_many_requests")),
        ("429:1:code=insufficient_quota", 429, "/error/type", json!("insufficient_quota")),
        ("400:1:code=content_filter", 400, "/error/innererror/code", json!("ResponsibleAIPolicyViolation")),
        ("400:1:code=context_length_exceeded", 400, "/error/code", json!("context_length_exceeded")),
        ("500", 500, "/error/code", json!("500")),
        ("503", 503, "/error/code", json!("503")),
    ];
    for (rule, status, pointer, value) in table {
        let simulator = start_with_faults(&[rule]).await;
        let response = ask_deployment(&simulator, &chat("job")).send().await.unwrap();
        assert_eq!(response.status(), status);
        assert!(header(&response, "apim-request-id").is_some());
        let body = json(response).await;
        assert_eq!(body.pointer(pointer), Some(&value), "{rule}: {body}");
        simulator.shutdown().await;
    }
}

#[tokio::test]
async fn limits_are_told_in_whole_seconds() {
    let simulator = start(Options { limits: limits("rpm:1,tpm:60000"), ..Options::default() }).await;
    let mut body = chat("job");
    body["max_tokens"] = 500.into();
    let first = ask_deployment(&simulator, &body).send().await.unwrap();
    assert_eq!(header(&first, "x-ratelimit-reset-requests"), Some("60"));
    // 1,000 at once, less the prompt and the maximum.
    assert_eq!(header(&first, "x-ratelimit-remaining-tokens"), Some("494"));
    assert_eq!(header(&first, "x-ratelimit-reset-tokens"), Some("1"));
    let second = ask_deployment(&simulator, &body).send().await.unwrap();
    assert_eq!(second.status(), 429);
    let (wait, wait_ms): (u64, u64) = (
        header(&second, "retry-after").unwrap().parse().unwrap(),
        header(&second, "retry-after-ms").unwrap().parse().unwrap(),
    );
    assert_eq!(wait, wait_ms.div_ceil(1_000));
    let error = json(second).await["error"].take();
    assert_eq!(error["code"], "429");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21"),
        "{message}"
    );
    assert!(message.ends_with(&format!("retry after {wait} seconds.")), "{message}");

    simulator.control().set_limits(limits("tpm:60000"));
    let unknown =
        call(&simulator, "/openai/v1/responses", &json!({ "model": "d", "input": "x" })).send().await.unwrap();
    assert_eq!(header(&unknown, "x-ratelimit-remaining-tokens"), Some("-1"));
    simulator.shutdown().await;
}
