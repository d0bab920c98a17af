//! The same requests through the dialects of OpenAI, Azure and Anthropic end alike, in OpenAI's shape; and what goes wrong on
//! the way ends in a row, or in a message, that names the cause, alike in all of them.
//!
//! Each dialect has a simulator of its own, so that each draws the same answers; the program is the one that users run, on its
//! embedded database.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Output;

use gristmill_tests::fleet::gristmill;
use gristmill_worker::simulate::{Options, Simulator};
use serde_json::{Value, json};
use tempfile::TempDir;

/// One of each kind of request; `user` names it, or scripts what the simulator does.
const REQUESTS: &str = include_str!("../fixtures/dialects.jsonl");
const DIALECTS: [&str; 3] = ["openai", "azure", "anthropic"];
const KEYS: [&str; 3] = ["sk-openai-4c1f7d0a", "azure-4c1f7d0a9b2e", "sk-ant-4c1f7d0a"];

/// A directory with a configuration of three deployments, and the simulators that they call.
struct Mill {
    directory: TempDir,
    simulators: Vec<Simulator>,
}

impl Mill {
    /// Starts simulators that take no other key than their dialect's own.
    async fn start() -> Self {
        let mut simulators = Vec::new();
        for key in KEYS {
            let options = Options { require_key: Some(key.to_owned()), ..Options::default() };
            simulators.push(Simulator::start(options).await.unwrap());
        }
        let mill = Self { directory: tempfile::tempdir().unwrap(), simulators };
        mill.configure(KEYS);
        mill
    }

    /// Writes the configuration with these keys.
    fn configure(&self, keys: [&str; 3]) {
        let [openai, azure, anthropic] = [0, 1, 2].map(|at| format!("http://{}", self.simulators[at].addr()));
        let [openai_key, azure_key, anthropic_key] = keys;
        let text = format!(
            "model_list:\n\
             - {{model_name: openai, litellm_params: {{model: openai/gpt-4o, api_base: \"{openai}/v1\", api_key: {openai_key}}}}}\n\
             - model_name: azure\n  litellm_params: {{model: azure/prod-4o, api_base: \"{azure}\", api_version: \"2024-10-21\", api_key: {azure_key}}}\n\
             - {{model_name: anthropic, litellm_params: {{model: anthropic/claude-sonnet-4-6, api_base: \"{anthropic}\", api_key: {anthropic_key}}}}}\n"
        );
        std::fs::write(self.path("gristmill.yaml"), text).unwrap();
    }

    /// Runs the requests through one dialect.
    fn run(&self, requests: &str, dialect: &str, env: &[(&str, &str)]) -> Output {
        let input = format!("{dialect}.in.jsonl");
        std::fs::write(self.path(&input), requests).unwrap();
        let mut command = gristmill(self.directory.path());
        command.env("DATABASE_URL", format!("sqlite:{dialect}.db"));
        let out = format!("{dialect}.jsonl");
        command.args(["run", &input, "--combined", "--progress", "none", "--num-retries", "0"]);
        command.args(["--model", dialect, "--name", dialect, "-o", &out]).envs(env.iter().copied());
        command.output().unwrap()
    }

    /// Runs the requests through every dialect at once.
    fn run_all(&self, requests: &str) -> Vec<(&'static str, Output)> {
        std::thread::scope(|scope| {
            let runs = DIALECTS.map(|dialect| (dialect, scope.spawn(move || self.run(requests, dialect, &[]))));
            runs.into_iter().map(|(dialect, run)| (dialect, run.join().unwrap())).collect()
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the requests through one dialect to their end; returns the lines of the output by the requests' names.
    fn lines(&self, requests: &str, dialect: &str, env: &[(&str, &str)]) -> BTreeMap<String, Value> {
        let output = self.run(requests, dialect, env);
        let text = std::fs::read_to_string(self.path(&format!("{dialect}.jsonl"))).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let count = lines.len();
        assert_eq!(count, requests.lines().count(), "{dialect}: {output:?}");
        let lines: BTreeMap<_, _> =
            lines.into_iter().map(|line| (line["custom_id"].as_str().unwrap().to_owned(), line)).collect();
        assert_eq!(lines.len(), count, "no job twice");
        lines
    }
}

/// Reads what must be equal in an answer or an error.
fn outcome(line: &Value) -> Value {
    let error = &line["gristmill"]["error"];
    if !error.is_null() {
        return json!({ "class": error["class"], "status": error["status"] });
    }
    let response = &line["response"];
    let body = &response["body"];
    let usage = &body["usage"];
    if body["object"] == "list" {
        return json!({ "status": response["status_code"], "data": body["data"], "input_tokens": usage["prompt_tokens"] });
    }
    let choice = &body["choices"][0];
    let message = &choice["message"];
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let calls: Vec<Value> = calls.map(|call| call["function"].clone()).collect();
    json!({
        "status": response["status_code"],
        "finish_reason": choice["finish_reason"],
        "text": message["content"],
        "refusal": message["refusal"],
        "tool_calls": calls,
        "tokens": [usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]],
    })
}

/// Checks that an answer has all that clients of OpenAI's rely on, each of its type.
fn assert_openai_shape(name: &str, line: &Value) {
    let body = &line["response"]["body"];
    let is_chat = body["object"] == "chat.completion";
    assert!(
        is_chat && body["id"].is_string() && body["created"].is_u64() && body["model"].is_string(),
        "{name}: {body}"
    );
    assert_eq!(body["choices"].as_array().unwrap().len(), 1, "{name}");
    let choice = &body["choices"][0];
    assert_eq!((&choice["index"], &choice["message"]["role"]), (&json!(0), &json!("assistant")), "{name}: {choice}");
    let message = choice["message"].as_object().unwrap();
    assert!(message["content"].is_string() || message["content"].is_null(), "{name}: {message:?}");
    for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        assert!(call["id"].is_string() && call["type"] == "function", "{name}: {call}");
        let arguments = call["function"]["arguments"].as_str().unwrap();
        assert!(serde_json::from_str::<Value>(arguments).unwrap().is_object(), "{name}: {arguments}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_end_alike_in_every_dialect() {
    // What a line is in OpenAI's dialect, and what differs by vendor.
    let table = [
        ("plain", "stop", ""),
        ("system", "stop", ""),
        ("tools", "tool_calls", ""),
        ("tool-result", "stop", ""),
        ("json-schema", "stop", ""),
        ("image", "stop", ""),
        ("embeddings", "", "Anthropic has none: a row says so, and no call is made"),
        ("streaming", "stop", ""),
        ("long", "stop", ""),
        ("unicode", "stop", ""),
        ("refusal", "stop", "Anthropic's stop reason becomes content_filter; OpenAI's refusal is an end like others"),
        ("error", "", ""),
    ];
    let mill = Mill::start().await;
    let [openai, azure, anthropic] = DIALECTS.map(|dialect| mill.lines(REQUESTS, dialect, &[]));
    assert!(openai.keys().eq(table.map(|(name, ..)| name.to_owned()).iter().collect::<BTreeSet<_>>()));

    for (name, finish_reason, difference) in table {
        let outcomes = [&openai, &azure, &anthropic].map(|lines| outcome(&lines[name]));
        assert_eq!(outcomes[0], outcomes[1], "{name}");
        match name {
            "embeddings" => {
                let vectors = outcomes[0]["data"].as_array().unwrap();
                let vectors: Vec<_> = vectors.iter().map(|item| item["embedding"].as_array().unwrap().len()).collect();
                assert_eq!(vectors, [8, 8]);
                let error = &anthropic[name]["gristmill"]["error"];
                assert_eq!((&error["class"], &error["status"]), (&json!("BadRequestError"), &Value::Null), "{error}");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains("deployment `anthropic` is Anthropic's"), "{message}");
                assert!(message.ends_with("and not /v1/embeddings"), "{message}");
                continue;
            }
            "error" => {
                assert_eq!(outcomes[0], json!({ "class": "ContextWindowExceededError", "status": 400 }));
                assert_eq!(outcomes[0], outcomes[2]);
                continue;
            }
            "refusal" => {
                let mut alike = outcomes[2].clone();
                assert_eq!(alike["finish_reason"].take(), "content_filter", "{difference}");
                alike["finish_reason"] = json!(finish_reason);
                assert_eq!(outcomes[0], alike);
                assert!(outcomes[0]["refusal"].as_str().is_some_and(|text| !text.is_empty()));
            }
            _ => assert_eq!(outcomes[0], outcomes[2], "{name}"),
        }
        assert_eq!(
            (&outcomes[0]["status"], &outcomes[0]["finish_reason"]),
            (&json!(200), &json!(finish_reason)),
            "{name}"
        );
        for lines in [&openai, &azure, &anthropic] {
            assert_openai_shape(name, &lines[name]);
        }
    }

    let request = |name: &str| -> Value {
        REQUESTS
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|line| line["custom_id"] == name)
            .unwrap()
    };
    for lines in [&openai, &azure, &anthropic] {
        let content = |name: &str| outcome(&lines[name])["text"].as_str().unwrap().to_owned();
        assert_eq!(content("unicode"), request("unicode")["body"]["messages"][0]["content"], "to the letter");
        let order: Value = serde_json::from_str(&content("json-schema")).unwrap();
        assert!(order["tonnes"].is_i64() && order["parts"].is_array(), "{order}");
        let tools = outcome(&lines["tools"]);
        let names: Vec<_> = tools["tool_calls"].as_array().unwrap().iter().map(|call| call["name"].clone()).collect();
        assert_eq!(names, ["get_weather", "read_clock"]);
    }
    // Each call came once, with the key of its dialect, in the place where the dialect has it.
    for (simulator, calls) in mill.simulators.iter().zip([12, 12, 11]) {
        let stats = simulator.control().stats();
        assert_eq!((stats.received, stats.by_status.get(&401)), (calls, None), "{stats:?}");
    }
}

/// Makes a request whose calls meet this, which is also its name.
fn scripted(script: &str, more: &Value) -> String {
    let mut body = json!({
        "messages": [{ "role": "user", "content": format!("Go: {script}") }],
        "max_tokens": 500,
        "user": format!("simulate:{script}"),
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let stream = if more["stream"] == true { " as a stream" } else { "" };
    let line = json!({ "custom_id": format!("{script}{stream}"), "method": "POST", "url": "/v1/chat/completions", "body": body });
    format!("{line}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_has_the_same_class_in_every_dialect_and_names_its_cause() {
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
    let format =
        json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema } } });
    let (plain, stream) = (json!({}), json!({ "stream": true }));
    let table = [
        ("400", &plain, "BadRequestError", ""),
        ("400:code=context_length_exceeded", &plain, "ContextWindowExceededError", ""),
        ("400:code=content_policy_violation", &plain, "ContentPolicyViolationError", ""),
        ("409", &plain, "ConflictError", ""),
        ("413", &plain, "RequestTooLargeError", ""),
        ("422", &plain, "UnprocessableEntityError", ""),
        ("500", &plain, "InternalServerError", ""),
        ("502", &plain, "BadGatewayError", ""),
        ("503", &plain, "ServiceUnavailableError", ""),
        ("529", &plain, "OverloadedError", ""),
        ("html", &plain, "BadGatewayError", "status 502 with an HTML page: 502 Bad Gateway"),
        (
            "html:status=200",
            &plain,
            "APIResponseValidationError",
            "the answer is an HTML page (Sign in), not JSON; is api_base right?",
        ),
        (
            "html:status=200",
            &stream,
            "APIResponseValidationError",
            "the answer is an HTML page (Sign in), not JSON; is api_base right?",
        ),
        ("empty", &plain, "APIResponseValidationError", "the answer is empty"),
        ("truncate", &plain, "APIConnectionError", "the answer broke off before its end"),
        (
            "bad_json",
            &format,
            "JSONSchemaValidationError",
            "the answer does not fit the JSON schema: at its top: \"n\" is a required property",
        ),
        ("no_json", &format, "JSONSchemaValidationError", "the answer is not JSON, which was asked for"),
        ("length", &format, "LengthFinishReasonError", "raise max_completion_tokens"),
        ("cut:how=end", &stream, "MidStreamError", "the stream ended before the answer was whole"),
        ("cut:how=reset", &stream, "MidStreamError", "the connection was reset within the answer"),
        ("error", &stream, "MidStreamError", ""),
        ("error:status=529", &stream, "MidStreamError", ""),
        ("stall", &stream, "MidStreamError", "the stream was silent for idle_timeout (5s) before its end"),
        ("stall:after=0", &stream, "Timeout", "no output came within first_byte_timeout (5s)"),
        // Signs of life are no output, neither comments nor pings nor blank lines.
        ("keep_alive:count=endless", &stream, "Timeout", "no output came within first_byte_timeout (5s)"),
        ("keep_alive:count=endless", &plain, "Timeout", "the call did not end within timeout (10s)"),
        ("timeout", &plain, "Timeout", "no answer began within first_byte_timeout (5s)"),
    ];
    // Only those that wait for a limit have short ones: a busy machine may stand still for seconds.
    let is_timed = |cause: &str| cause.contains("timeout (");
    let requests = |timed: bool| -> String {
        let rows = table.iter().filter(|(.., cause)| is_timed(cause) == timed);
        rows.map(|(script, more, ..)| scripted(script, more)).collect()
    };
    let limits =
        [("GRISTMILL_TIMEOUT", "10s"), ("GRISTMILL_FIRST_BYTE_TIMEOUT", "5s"), ("GRISTMILL_IDLE_TIMEOUT", "5s")];
    let (mill, limited) = (Mill::start().await, Mill::start().await);
    let all = DIALECTS.map(|dialect| {
        let mut lines = mill.lines(&requests(false), dialect, &[]);
        lines.extend(limited.lines(&requests(true), dialect, &limits));
        (dialect, lines)
    });
    for (script, more, class, cause) in table {
        let name = if more["stream"] == true { format!("{script} as a stream") } else { script.to_owned() };
        for (dialect, lines) in &all {
            let error = &lines[&name]["gristmill"]["error"];
            assert_eq!(error["class"], class, "{name} by {dialect}: {error}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(cause) && !message.is_empty(), "{name} by {dialect}: {message}");
            assert_eq!(error["deployment"], *dialect, "{error}");
        }
        let classes = all.each_ref().map(|(_, lines)| {
            let error = &lines[&name]["gristmill"]["error"];
            [error["status"].clone(), error["underlying"].clone(), error["retryable"].clone()]
        });
        assert!(classes.iter().all(|one| *one == classes[0]), "{name}: {classes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_served_end_in_a_row_that_names_the_cause() {
    let format = |schema: Value| json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": schema } } });
    let image = json!({ "messages": [{ "role": "user", "content": [
        { "type": "image_url", "image_url": { "url": "data:image/png;base64,SGVsbG8gbWlsbA==" } },
    ] }] });
    let table = [
        ("not-a-schema", format(json!({ "type": 7 })), "response_format.json_schema.schema is no JSON schema"),
        ("no-object", format(json!("object")), "response_format.json_schema.schema is no JSON schema"),
        (
            "remote",
            format(json!({ "$ref": "https://schemas.example/n.json" })),
            "refers to https://schemas.example/n.json",
        ),
        ("local-file", format(json!({ "$ref": "file:///etc/passwd" })), "refers to file:///etc/passwd"),
        ("image", image, "image"),
    ];
    let requests: String = table
        .iter()
        .map(|(name, more, _)| {
            let mut line: Value = serde_json::from_str(&scripted("ok", more)).unwrap();
            line["custom_id"] = json!(name);
            format!("{line}\n")
        })
        .collect();
    let mill = Mill::start().await;
    for (simulator, dialect) in mill.simulators.iter().zip(DIALECTS) {
        let lines = mill.lines(&requests, dialect, &[]);
        for (name, _, cause) in &table {
            let error = &lines[*name]["gristmill"]["error"];
            assert_eq!(error["class"], "BadRequestError", "{name} by {dialect}: {error}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(cause), "{name} by {dialect}: {message}");
            assert_eq!(error["retryable"], false, "{name} by {dialect}");
        }
        // OpenAI's format goes out as it is; what is translated is looked at.
        let calls = simulator.control().stats().received;
        assert_eq!(calls, if dialect == "anthropic" { 0 } else { 1 }, "{dialect}: the image alone is sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_and_an_unknown_model_fail_nothing_and_say_what_to_set() {
    let mill = Mill::start().await;
    let request = scripted("ok", &json!({}));
    mill.configure(["sk-planted-1f0e9d8c", "azure-planted-1f0e9d8c", "sk-ant-planted-1f0e9d8c"]);
    // It says why it waits before it gives up, so all three wait at once.
    let refused = mill.run_all(&request);
    for (at, (dialect, output)) in refused.into_iter().enumerate() {
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{dialect}: {said}");
        let source = format!("model_list[{at}].litellm_params.api_key in gristmill.yaml");
        let todo = format!("error: deployment {dialect}: set {source} to a valid key (401 AuthenticationError: ");
        assert!(said.contains(&todo), "{dialect}: {said}");
        assert!(said.contains("no job failed and nothing is lost"), "{dialect}: {said}");
        assert!(!said.contains("planted-1f0e9d8c"), "{dialect}: {said}");
        assert_eq!(
            std::fs::read_to_string(mill.path(&format!("{dialect}.jsonl"))).unwrap_or_default(),
            "",
            "{dialect}"
        );
    }

    // Put right, the same command goes on; then the model is gone.
    mill.configure(KEYS);
    for (simulator, dialect) in mill.simulators.iter().zip(DIALECTS) {
        let lines = mill.lines(&request, dialect, &[]);
        assert_eq!(lines["ok"]["response"]["status_code"], 200, "{dialect}");
        simulator.control().set_faults(vec!["404".parse().unwrap()]);
    }
    let other = request.replace("Go: ok", "Go again").replace("simulate:ok", "again").replace("\"ok\"", "\"gone\"");
    for (dialect, output) in mill.run_all(&other) {
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{dialect}: {said}");
        assert!(said.contains(&format!("error: deployment {dialect}: check the model name `")), "{dialect}: {said}");
        assert!(said.contains("(404 NotFoundError: "), "{dialect}: {said}");
    }
}
