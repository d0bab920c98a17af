use http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::simulate::body::Body;
use crate::simulate::request::Request;
use crate::simulate::route::Route;

/// A body that asks for a chat about a text, with more fields.
fn chat(text: &str, fields: Value) -> Value {
    let mut body = json!({ "model": "m", "max_tokens": 1000, "messages": [{ "role": "user", "content": text }] });
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Composes the answer to a body sent to a path, as the first call of a marker.
fn answered<T>(
    path: &str,
    body: &Value,
    twist: Option<Twist>,
    then: impl FnOnce(&Route, &Request<'_>, &Answer<'_>) -> T,
) -> T {
    let route = Route::of(path, None, &HeaderMap::new());
    let bytes = body.to_string();
    let request = route.dialect.read(&route, bytes.as_bytes()).unwrap();
    assert_eq!(request.check(), Ok(()));
    let facts = Facts { id: 0xabc, created: 1_795_395_600, output_tokens: 40, draws: Draws::new(1, 2, 1), twist };
    let answer = facts.compose(route.operation().unwrap(), &request, &request.model);
    then(&route, &request, &answer)
}

/// Composes the answer to a chat.
fn answer<T>(body: &Value, twist: Option<Twist>, then: impl FnOnce(&Answer<'_>) -> T) -> T {
    answered("/v1/chat/completions", body, twist, |_, _, answer| then(answer))
}

/// Renders the answer to a body sent to a path.
fn render(path: &str, body: &Value) -> Body {
    answered(path, body, None, |route, request, answer| route.dialect.render(route, request, answer))
}

/// The same, as JSON.
fn rendered(path: &str, body: &Value) -> Value {
    serde_json::from_slice(&render(path, body).bytes).unwrap()
}

/// Returns the only choice of an answer: its text, calls and end.
fn choice(answer: &Answer<'_>) -> (String, Vec<(String, Value)>, Finish) {
    let [choice] = answer.choices() else { panic!("{answer:?}") };
    let calls = choice
        .calls()
        .map(|call| (call.name.clone(), serde_json::from_str(&call.arguments.text).unwrap_or(Value::Null)));
    (choice.text().unwrap_or_default().to_owned(), calls.collect(), choice.finish.clone())
}

fn weather() -> Value {
    json!([
        { "type": "function", "function": { "name": "get_weather", "parameters": {
            "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"],
        } } },
        { "type": "function", "function": { "name": "get_time" } },
    ])
}

#[test]
fn a_chat_answer_has_openais_shape() {
    let body = json!({ "model": "a \"b\"", "n": 2, "messages": [{ "role": "user", "content": "hello there" }] });
    let json = rendered("/v1/chat/completions", &body);
    assert_eq!(json["id"], "chatcmpl-sim0000000000000abc");
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "a \"b\"");
    assert_eq!(json["choices"].as_array().unwrap().len(), 2);
    let words: usize =
        [0, 1].map(|at| json["choices"][at]["message"]["content"].as_str().unwrap().split(' ').count()).iter().sum();
    assert_eq!(json["usage"]["completion_tokens"], words);
    assert_eq!(json["usage"]["prompt_tokens"], 3);
    assert_eq!(json["usage"]["total_tokens"], words + 3);
    assert_eq!(json["choices"][1]["finish_reason"], "stop");
    assert_eq!(json["choices"][1]["logprobs"], Value::Null);
}

#[test]
fn lengths_vary_around_the_mean() {
    let bytes = chat("hi", json!({})).to_string();
    let route = Route::of("/v1/chat/completions", None, &HeaderMap::new());
    let request = route.dialect.read(&route, bytes.as_bytes()).unwrap();
    let mut total = 0;
    for marker in 0..1_000 {
        let facts = Facts { id: 0, created: 0, output_tokens: 40, draws: Draws::new(1, marker, 1), twist: None };
        let tokens = facts.compose(Operation::Chat, &request, "m").usage.output;
        assert!((20..=60).contains(&tokens), "{tokens}");
        total += tokens;
    }
    assert!((38_000..42_000).contains(&total), "{total}");
}

#[test]
fn the_callers_maximum_cuts_the_answer() {
    let json = rendered("/v1/chat/completions", &chat("hi", json!({ "max_tokens": 5 })));
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    assert_eq!(json["usage"]["completion_tokens"], 5);
    let json = rendered("/v1/responses", &json!({ "model": "m", "max_output_tokens": 5, "input": "hi" }));
    assert_eq!(json["status"], "incomplete");
    assert_eq!(json["incomplete_details"]["reason"], "max_output_tokens");
    let json = rendered("/v1/messages", &chat("hi", json!({ "max_tokens": 5 })));
    assert_eq!((json["stop_reason"].as_str(), json["usage"]["output_tokens"].as_u64()), (Some("max_tokens"), Some(5)));
    // JSON is cut like any text.
    let form = json!({ "max_tokens": 5, "response_format": { "type": "json_object" } });
    answer(&chat("hi", form), None, |answer| {
        assert_eq!((choice(answer).2, answer.usage.output), (Finish::Length, 5));
    });
}

#[test]
fn a_stop_ends_the_text_before_it() {
    answer(&chat("hi", json!({})), None, |whole| {
        let (whole, ..) = choice(whole);
        let word = whole.split(' ').nth(3).unwrap();
        answer(&chat("hi", json!({ "stop": ["never", word] })), None, |cut| {
            let (text, _, finish) = choice(cut);
            assert_eq!(finish, Finish::StopSequence(word.to_owned()));
            assert!(whole.starts_with(&text) && !text.contains(word), "{text}");
        });
        let json = rendered("/v1/messages", &chat("hi", json!({ "stop_sequences": [word] })));
        assert_eq!((json["stop_reason"].as_str(), json["stop_sequence"].as_str()), (Some("stop_sequence"), Some(word)));
    });
}

#[test]
fn a_json_answer_has_the_form_that_is_asked_for() {
    let object = |twist| {
        let body = chat("hi", json!({ "response_format": { "type": "json_object" } }));
        answer(&body, twist, |answer| serde_json::from_str::<Value>(&choice(answer).0))
    };
    let content = object(None).unwrap();
    assert!(content["answer"].as_str().unwrap().ends_with('.'));
    assert!((0.5..1.0).contains(&content["confidence"].as_f64().unwrap()));
    assert!(object(Some(Twist::BadJson)).unwrap().is_array());
    assert!(object(Some(Twist::NoJson)).is_err());

    let schema = json!({ "type": "object", "properties": { "year": { "type": "integer" } }, "required": ["year"] });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let fitted = |twist| {
        let body = chat("hi", json!({ "response_format": format }));
        answer(&body, twist, |answer| serde_json::from_str::<Value>(&choice(answer).0))
    };
    assert!(fitted(None).unwrap()["year"].is_i64());
    assert_eq!(fitted(Some(Twist::BadJson)).unwrap(), json!({}));
    assert!(fitted(Some(Twist::NoJson)).is_err());
    // Without a form nothing is spoilt.
    answer(&chat("hi", json!({})), Some(Twist::NoJson), |answer| assert_eq!(choice(answer).2, Finish::Stop));
}

#[test]
fn functions_are_called_when_they_must_be_or_are_named() {
    let called = |prompt: &str, fields: Value, twist| {
        let mut body = chat(prompt, fields);
        body["tools"] = weather();
        answer(&body, twist, |answer| {
            let (text, calls, finish) = choice(answer);
            assert_eq!((text.is_empty(), finish == Finish::ToolCalls), (!calls.is_empty(), !calls.is_empty()));
            calls.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        })
    };
    assert_eq!(called("How are you, sometimes?", json!({}), None), Vec::<String>::new());
    assert_eq!(called("What is the weather?", json!({}), None), ["get_weather"]);
    assert_eq!(called("Weather and time", json!({}), None), ["get_weather", "get_time"]);
    assert_eq!(called("Weather and time", json!({ "parallel_tool_calls": false }), None), ["get_weather"]);
    assert_eq!(called("What is the weather?", json!({ "tool_choice": "none" }), None), Vec::<String>::new());
    assert_eq!(called("Hello", json!({ "tool_choice": "required" }), None), ["get_weather"]);
    let named = json!({ "tool_choice": { "type": "function", "function": { "name": "get_time" } } });
    assert_eq!(called("Hello", named, None), ["get_time"]);
    assert_eq!(called("Hello", json!({}), Some(Twist::ToolCall)), ["get_weather"]);
    let after = json!({ "messages": [
        { "role": "user", "content": "What is the weather?" },
        { "role": "assistant", "tool_calls": [{ "id": "c", "type": "function", "function": { "name": "get_weather" } }] },
        { "role": "tool", "tool_call_id": "c", "content": "rain" },
    ] });
    assert_eq!(called("", after, None), Vec::<String>::new());
}

#[test]
fn arguments_fit_unless_they_are_spoilt() {
    let arguments = |twist| {
        let mut body = chat("What is the weather?", json!({}));
        body["tools"] = weather();
        answer(&body, twist, |answer| choice(answer).1.remove(0).1)
    };
    assert!(arguments(None)["city"].is_string());
    assert_eq!(arguments(Some(Twist::BadJson)), json!({}));
    assert_eq!(arguments(Some(Twist::NoJson)), Value::Null);
}

#[test]
fn twists_are_worded_by_every_dialect() {
    let body = chat("Say it", json!({}));
    let text = |twist| answer(&body, Some(twist), |answer| (choice(answer).0, answer.usage.output, choice(answer).2));
    assert_eq!(text(Twist::Echo).0, "Say it");
    assert_eq!(text(Twist::Refusal), (String::new(), 9, Finish::Refused));
    assert_eq!(text(Twist::Length { tokens: Some(3) }).1, 3);
    assert_eq!(text(Twist::Length { tokens: None }).2, Finish::Length);
    assert_eq!(text(Twist::ContentFilter).2, Finish::Filtered);

    let worded = |path: &str, body: &Value, twist| {
        let body =
            answered(path, body, Some(twist), |route, request, answer| route.dialect.render(route, request, answer));
        serde_json::from_slice::<Value>(&body.bytes).unwrap()
    };
    let chat = worded("/v1/chat/completions", &body, Twist::Refusal);
    assert!(chat["choices"][0]["message"]["refusal"].is_string(), "{chat}");
    assert_eq!(chat["choices"][0]["message"]["content"], Value::Null);
    assert_eq!(chat["choices"][0]["finish_reason"], "stop");
    let response = worded("/v1/responses", &json!({ "model": "m", "input": "x" }), Twist::Refusal);
    assert_eq!(response["output"][0]["content"][0]["type"], "refusal");
    let message = worded("/v1/messages", &body, Twist::Refusal);
    assert_eq!((&message["stop_reason"], &message["content"]), (&json!("refusal"), &json!([])));
    assert!(message["stop_details"]["explanation"].is_string());
    let azure = worded("/openai/v1/chat/completions", &body, Twist::ContentFilter);
    assert_eq!(azure["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(azure["choices"][0]["content_filter_results"]["violence"]["filtered"], true);
    let response = worded("/v1/responses", &json!({ "model": "m", "input": "x" }), Twist::ContentFilter);
    assert_eq!(response["incomplete_details"]["reason"], "content_filter");
}

#[test]
fn thoughts_are_counted_and_shown_where_they_can_be() {
    let plain = rendered("/v1/chat/completions", &chat("hi", json!({})));
    let thought = rendered("/v1/chat/completions", &chat("hi", json!({ "reasoning_effort": "low" })));
    let tokens = thought["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!((10..=30).contains(&tokens), "{tokens}");
    assert_eq!(thought["choices"][0]["message"], plain["choices"][0]["message"], "thinking does not change the answer");
    let all = plain["usage"]["completion_tokens"].as_u64().unwrap() + tokens;
    assert_eq!(thought["usage"]["completion_tokens"], all);

    let thinking = json!({ "max_tokens": 2000, "thinking": { "type": "enabled", "budget_tokens": 1024 } });
    let message = rendered("/v1/messages", &chat("hi", thinking));
    assert_eq!(message["content"][0]["type"], "thinking");
    assert!(!message["content"][0]["thinking"].as_str().unwrap().is_empty());
    assert_eq!(message["usage"]["output_tokens_details"]["thinking_tokens"], tokens);
    assert_eq!(message["content"][1]["text"], plain["choices"][0]["message"]["content"]);
    let hidden = json!({ "thinking": { "type": "adaptive", "display": "omitted" } });
    assert_eq!(rendered("/v1/messages", &chat("hi", hidden))["content"][0]["thinking"], "");

    // What is thought can use up the maximum.
    let exhausted =
        rendered("/v1/chat/completions", &chat("hi", json!({ "reasoning_effort": "low", "max_tokens": 3 })));
    assert_eq!(exhausted["choices"][0]["message"]["content"], "");
    assert_eq!(exhausted["choices"][0]["finish_reason"], "length");
}

#[test]
fn what_is_to_be_cached_is_written_and_then_read() {
    let body = json!({
        "model": "m", "max_tokens": 9,
        "system": [{ "type": "text", "text": "x".repeat(400), "cache_control": { "type": "ephemeral" } }],
        "messages": [{ "role": "user", "content": "12345678" }],
    });
    let route = Route::of("/v1/messages", None, &HeaderMap::new());
    let bytes = body.to_string();
    let request = route.dialect.read(&route, bytes.as_bytes()).unwrap();
    let usage = |turn| {
        let facts = Facts { id: 0, created: 0, output_tokens: 40, draws: Draws::new(1, 2, turn), twist: None };
        let answer = facts.compose(Operation::Messages, &request, "m");
        serde_json::from_slice::<Value>(&route.dialect.render(&route, &request, &answer).bytes).unwrap()["usage"].take()
    };
    let (first, second) = (usage(1), usage(2));
    assert_eq!((&first["input_tokens"], &first["cache_creation_input_tokens"]), (&json!(2), &json!(100)));
    assert_eq!(first["cache_creation"]["ephemeral_5m_input_tokens"], 100);
    assert_eq!((&second["input_tokens"], &second["cache_read_input_tokens"]), (&json!(2), &json!(100)));
    assert_eq!(second["cache_creation_input_tokens"], 0);
}

#[test]
fn completions_answer_every_prompt() {
    let json = rendered("/v1/completions", &json!({ "model": "m", "prompt": ["a", "b"], "n": 2 }));
    assert_eq!(json["object"], "text_completion");
    assert_eq!(json["choices"].as_array().unwrap().len(), 4);
    assert_eq!(json["choices"][3]["index"], 3);
}

#[test]
fn embeddings_are_unit_vectors_in_both_encodings() {
    let json = rendered("/v1/embeddings", &json!({ "model": "m", "input": ["a", "b"], "dimensions": 8 }));
    let vector: Vec<f64> =
        json["data"][1]["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!((json["data"][1]["index"].as_u64(), vector.len()), (Some(1), 8));
    assert!((vector.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-3);
    let body = json!({ "model": "m", "input": "a", "dimensions": 8, "encoding_format": "base64" });
    assert_eq!(rendered("/v1/embeddings", &body)["data"][0]["embedding"].as_str().unwrap().len(), 44);
}

#[test]
fn counting_tokens_answers_the_prompts_size() {
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "12345678" }] });
    assert_eq!(rendered("/v1/messages/count_tokens", &body), json!({ "input_tokens": 2 }));
}
