//! Every recorded message is read as its file says.

use std::path::PathBuf;

use super::*;

/// The files that hold a whole message; none may vanish unseen.
const FILES: &[&str] = &[
    "084_anthropic_text",
    "085_anthropic_tool_use",
    "086_anthropic_thinking",
    "087_anthropic_cached_5m_1h",
    "088_anthropic_structured_output",
    "089_anthropic_json_tool_emulation",
    "090_anthropic_max_tokens",
    "091_anthropic_stop_sequence",
    "092_anthropic_refusal",
    "093_anthropic_pause_turn",
    "094_anthropic_context_window_exceeded_stop",
    "095_anthropic_empty_end_turn",
];

/// What a file may expect that is not for the translation: the class says `Success`, headers are read elsewhere.
const ELSEWHERE: &[&str] = &["class", "retryable", "fallback", "cooldown", "request_id", "rate_limit"];

fn is_whole_message(fixture: &Value) -> bool {
    fixture["provider"] == "anthropic"
        && fixture["api"] == "messages"
        && fixture["stream"] == false
        && fixture["status"] == 200
}

/// Makes the context of the request that the file's answer came to.
fn context_of(fixture: &Value) -> Context {
    let asked = fixture["request"]["_translated_from"].as_str().unwrap_or_default();
    let model = if asked.contains("without native structured output") { OLD } else { NEW };
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}});
    let members = if asked.is_empty() { json!({}) } else { json!({"response_format": format}) };
    translate(&request(members), &options(model)).unwrap().1
}

fn check_usage(name: &str, wanted: &Value, seen: &Value, usage: gristmill_common::outcome::Usage) {
    let split = &seen["prompt_tokens_details"]["cache_creation_token_details"];
    for (key, value) in wanted.as_object().unwrap() {
        let (in_chat, native) = match key.as_str() {
            "prompt_tokens" => (&seen["prompt_tokens"], usage.input_tokens),
            "completion_tokens" => (&seen["completion_tokens"], usage.output_tokens),
            "total_tokens" => (&seen["total_tokens"], None),
            "cached_tokens" => (&seen["prompt_tokens_details"]["cached_tokens"], usage.cached_input_tokens),
            "cache_write_tokens" => (&seen["prompt_tokens_details"]["cache_write_tokens"], usage.cache_write_tokens),
            "reasoning_tokens" => (&seen["completion_tokens_details"]["reasoning_tokens"], usage.reasoning_tokens),
            "cache_write_5m_tokens" => (&split["ephemeral_5m_input_tokens"], None),
            "cache_write_1h_tokens" => (&split["ephemeral_1h_input_tokens"], None),
            "web_search_requests" => (&seen["server_tool_use"]["web_search_requests"], None),
            // Not told by the provider: what its rate limit counts.
            "itpm_counted_tokens" => {
                let counted = seen["prompt_tokens"].as_u64().unwrap()
                    - seen["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
                assert_eq!(Some(counted), value.as_u64(), "{name}: {key}");
                continue;
            }
            other => panic!("{name}: nobody reads usage.{other}"),
        };
        assert_eq!(in_chat, value, "{name}: {key}");
        if let Some(native) = native {
            assert_eq!(Some(u64::from(native)), value.as_u64(), "{name}: {key}");
        }
    }
}

fn check(name: &str, fixture: &Value) {
    let body = fixture["body"].to_string();
    let message = Message::parse(body.as_bytes()).unwrap();
    let answer = chat(&fixture["body"], &context_of(fixture));
    assert_eq!((&answer["id"], &answer["object"]), (&fixture["body"]["id"], &json!("chat.completion")), "{name}");
    assert_eq!((&answer["model"], &answer["created"]), (&fixture["body"]["model"], &json!(1_764_000_000)), "{name}");
    let choice = &answer["choices"][0];
    let said = &choice["message"];
    let content = said["content"].as_str().unwrap_or_default();
    for (key, wanted) in fixture["expect"].as_object().unwrap() {
        match key.as_str() {
            "text" => assert_eq!(content, wanted.as_str().unwrap(), "{name}: text"),
            "json" => assert_eq!(&serde_json::from_str::<Value>(content).unwrap(), wanted, "{name}: json"),
            "reasoning_text" => assert_eq!(&said["reasoning_content"], wanted, "{name}: reasoning"),
            "finish_reason" => assert_eq!(&choice["finish_reason"], wanted, "{name}: finish_reason"),
            "stop_sequence" => assert_eq!(&choice["stop_sequence"], wanted, "{name}: stop_sequence"),
            "refusal" => assert_eq!(&said["refusal"], wanted, "{name}: refusal"),
            "needs_continuation" => assert_eq!(&choice["needs_continuation"], wanted, "{name}: continuation"),
            "usage" => check_usage(name, wanted, &answer["usage"], message.usage()),
            "tool_calls" => {
                let calls = said["tool_calls"].as_array().cloned().unwrap_or_default();
                let calls: Vec<Value> = calls
                    .iter()
                    .enumerate()
                    .map(|(index, call)| {
                        assert_eq!((&call["index"], &call["type"]), (&json!(index), &json!("function")), "{name}");
                        let arguments = call["function"]["arguments"].as_str().unwrap();
                        let arguments: Value = serde_json::from_str(arguments).unwrap();
                        json!({"id": call["id"], "name": call["function"]["name"], "arguments": arguments})
                    })
                    .collect();
                assert_eq!(&json!(calls), wanted, "{name}: tool_calls");
            }
            other => assert!(ELSEWHERE.contains(&other), "{name}: nobody reads {other}"),
        }
    }
    for (index, block) in fixture["body"]["content"].as_array().unwrap().iter().enumerate() {
        if block["type"].as_str().unwrap().contains("thinking") {
            assert_eq!(&said["thinking_blocks"][index], block, "{name}: kept for the next turn");
        }
    }
}

#[test]
fn every_recorded_message_is_read_as_its_file_says() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire");
    let mut paths: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut checked = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        if is_whole_message(&fixture) {
            let name = path.file_stem().unwrap().to_str().unwrap();
            check(name, &fixture);
            checked.push(name);
        }
    }
    assert_eq!(checked, FILES);
}
