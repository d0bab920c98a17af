//! What becomes of a message.

use super::*;
use gristmill_common::outcome::Usage;

fn message(members: Value) -> Value {
    let mut message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-8",
        "content": [text("a")], "stop_reason": "end_turn", "stop_sequence": null, "stop_details": null,
        "usage": {"input_tokens": 1, "output_tokens": 2}});
    message.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    message
}

fn choice(members: Value) -> Value {
    chat(&message(members), &Context::default())["choices"][0].clone()
}

#[test]
fn a_whole_message_is_written_as_it_should() {
    let body =
        message(json!({"usage": {"input_tokens": 3, "output_tokens": 2, "service_tier": "priority"}})).to_string();
    let answer = to_chat(body.as_bytes(), &Context::default(), 1_764_000_000).unwrap();
    let wanted = concat!(
        r#"{"id":"msg_1","object":"chat.completion","created":1764000000,"model":"claude-opus-4-8","#,
        r#""choices":[{"index":0,"message":{"role":"assistant","content":"a","refusal":null},"logprobs":null,"#,
        r#""finish_reason":"stop","native_finish_reason":"end_turn"}],"#,
        r#""usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"#,
        r#""prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":0,"cache_creation_tokens":0},"#,
        r#""completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"priority"}"#,
    );
    assert_eq!(std::str::from_utf8(&answer).unwrap(), wanted);
}

#[test]
fn reasons_are_said_in_openais_words() {
    for (reason, wanted) in [
        (json!("end_turn"), json!("stop")),
        (json!("stop_sequence"), json!("stop")),
        (json!("max_tokens"), json!("length")),
        (json!("model_context_window_exceeded"), json!("length")),
        (json!("tool_use"), json!("tool_calls")),
        (json!("pause_turn"), json!("length")),
        (json!("refusal"), json!("content_filter")),
        (json!("compaction"), json!("length")),
        (json!("bored"), json!("stop")),
        (json!(null), json!(null)),
    ] {
        let choice = choice(json!({"stop_reason": reason}));
        assert_eq!(choice["finish_reason"], wanted, "{reason}");
        assert_eq!(choice["native_finish_reason"], reason);
        assert_eq!(choice.get("needs_continuation"), (reason == "pause_turn").then_some(&json!(true)), "{reason}");
        let body = message(json!({"stop_reason": reason})).to_string();
        assert_eq!(Message::parse(body.as_bytes()).unwrap().finish_reason(), wanted.as_str());
    }
    assert_eq!(choice(json!({"stop_reason": "stop_sequence", "stop_sequence": "END"}))["stop_sequence"], "END");
}

#[test]
fn texts_are_joined_and_calls_numbered() {
    let call = |name: &str, input: Value| json!({"type": "tool_use", "id": format!("id_{name}"), "name": name, "input": input});
    let content = json!([text("a"), text("b"), call("f", json!({"z": 1})), call("g", json!({}))]);
    let choice = choice(json!({"content": content, "stop_reason": "tool_use"}));
    assert_eq!(choice["message"]["content"], "ab");
    let function = |index: u64, name: &str, arguments: &str| {
        json!({"index": index, "id": format!("id_{name}"), "type": "function",
            "function": {"name": name, "arguments": arguments}})
    };
    assert_eq!(choice["message"]["tool_calls"], json!([function(0, "f", r#"{"z":1}"#), function(1, "g", "{}")]));
    assert_eq!(choice["message"].get(CONTENT), None);

    for content in [json!([]), json!([call("f", json!({}))])] {
        assert_eq!(self::choice(json!({"content": content}))["message"]["content"], json!(null), "{content}");
    }
    // A stream that was cut inside an input leaves text.
    let cut = self::choice(json!({"content": [call("f", json!("{\"a\":"))], "stop_reason": "max_tokens"}));
    assert_eq!(cut["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\":");
}

#[test]
fn inputs_keep_the_order_of_their_members() {
    let body = br#"{"content":[{"type":"tool_use","id":"1","name":"f","input":{"z":1,"a":{"y":2,"b":3}}}],"stop_reason":"tool_use"}"#;
    let answer = to_chat(body, &Context::default(), 0).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let arguments = &answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];
    assert_eq!(arguments, r#"{"z":1,"a":{"y":2,"b":3}}"#);
}

#[test]
fn thinking_is_kept_whole() {
    let blocks = json!([{"type": "thinking", "thinking": "x", "signature": "s"}, {"type": "redacted_thinking", "data": "d"},
        {"type": "thinking", "thinking": "y", "signature": "t"}, {"type": "thinking", "thinking": "", "signature": "u"}]);
    let mut content = blocks.clone();
    content.as_array_mut().unwrap().push(text("a"));
    let message = &choice(json!({"content": content}))["message"];
    assert_eq!((&message["reasoning_content"], &message["thinking_blocks"]), (&json!("x\ny"), &blocks));
    let silent = &choice(json!({"content": [blocks[1], text("a")]}))["message"];
    assert_eq!(silent.get("reasoning_content"), None);
}

#[test]
fn a_refusal_says_why() {
    for (details, words) in [
        (json!({"type": "refusal", "category": "cyber", "explanation": "It may harm."}), "It may harm."),
        (
            json!({"type": "refusal", "category": "bio", "explanation": null}),
            "The model refused to answer (category bio).",
        ),
        (json!(null), "The model refused to answer."),
    ] {
        let choice = choice(json!({"content": [], "stop_reason": "refusal", "stop_details": details}));
        assert_eq!(choice["message"]["refusal"], words);
        assert_eq!(choice["message"]["content"], json!(null));
        assert_eq!(choice.get("stop_details"), (!details.is_null()).then_some(&details));
    }
}

#[test]
fn the_call_of_the_json_tool_is_the_answer() {
    let context = Context { json_tool: Some("json_tool_call".to_owned()), ..Context::default() };
    let json = json!({"type": "tool_use", "id": "j", "name": "json_tool_call", "input": {"year": 1815}});
    let other = json!({"type": "tool_use", "id": "o", "name": "f", "input": {}});
    for (content, reason, text_wanted, finish, calls) in [
        (json!([json]), "tool_use", json!(r#"{"year":1815}"#), "stop", 0),
        (json!([text("Here:"), json]), "tool_use", json!(r#"{"year":1815}"#), "stop", 0),
        (json!([json, other]), "tool_use", json!(r#"{"year":1815}"#), "tool_calls", 1),
        (json!([other]), "tool_use", json!(null), "tool_calls", 1),
        (json!([json]), "max_tokens", json!(r#"{"year":1815}"#), "length", 0),
        (json!([text("No.")]), "end_turn", json!("No."), "stop", 0),
    ] {
        let answer = chat(&message(json!({"content": content, "stop_reason": reason})), &context);
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&text_wanted, &json!(finish)),
            "{content}"
        );
        assert_eq!(choice["message"]["tool_calls"].as_array().map_or(0, Vec::len), calls, "{content}");
    }
    // Without the emulation it is a tool like any other.
    let choice = choice(json!({"content": [json], "stop_reason": "tool_use"}));
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "json_tool_call");
}

#[test]
fn what_the_chat_format_cannot_hold_returns_as_it_came() {
    let thinking = json!({"type": "thinking", "thinking": "x", "signature": "s"});
    let search = json!({"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}});
    let cited = json!({"type": "text", "text": "a", "citations": [{"type": "web_search_result_location", "url": "u"}]});
    let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    for (content, reason, is_kept) in [
        (json!([thinking, text("a"), call]), "tool_use", false),
        (json!([text("a"), thinking, call]), "tool_use", true),
        (json!([search]), "pause_turn", true),
        (json!([text("a")]), "pause_turn", true),
        (json!([cited]), "end_turn", true),
        (json!([{"type": "text", "text": "a", "citations": null}]), "end_turn", false),
        (json!([{"type": "not_invented_yet"}, text("a")]), "end_turn", true),
    ] {
        let choice = choice(json!({"content": content, "stop_reason": reason}));
        let kept = choice["message"].get(CONTENT);
        assert_eq!(kept, is_kept.then_some(&content), "{content}");
        // The answer as the next request's history.
        let messages = json!([{"role": "user", "content": "q"}, choice["message"], {"role": "user", "content": "r"}]);
        let sent = sent(NEW, json!({"messages": messages}));
        let returned = &sent["messages"][1]["content"];
        if is_kept || !content[0].as_object().unwrap().contains_key("citations") {
            assert_eq!(returned, &content);
        }
    }
}

#[test]
fn usage_counts_all_input() {
    for (usage, wanted) in [
        (json!({"input_tokens": 5, "output_tokens": 2}), [Some(5), None, None, Some(2), None]),
        (
            json!({"input_tokens": 5, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 200, "output_tokens": 2,
                "output_tokens_details": {"thinking_tokens": 1}}),
            [Some(235), Some(200), Some(30), Some(2), Some(1)],
        ),
        (
            json!({"input_tokens": "5", "cache_creation_input_tokens": null, "output_tokens": 2.0}),
            [Some(5), None, None, Some(2), None],
        ),
        (json!({"input_tokens": 5_000_000_000_u64}), [Some(u32::MAX), None, None, None, None]),
        (json!("none"), [None; 5]),
        (json!(null), [None; 5]),
        // Compaction is billed beside the rest; what else is listed is counted already, or another model's.
        (
            json!({"input_tokens": 23, "output_tokens": 1, "iterations": [
                {"type": "compaction", "input_tokens": 180, "cache_read_input_tokens": 9, "output_tokens": 3},
                {"type": "message", "input_tokens": 23, "output_tokens": 1},
                {"type": "advisor_message", "model": "m", "input_tokens": 500, "output_tokens": 50}]}),
            [Some(212), Some(9), None, Some(4), None],
        ),
    ] {
        let body = message(json!({"usage": usage})).to_string();
        let [input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens] = wanted;
        let wanted = Usage { input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens };
        assert_eq!(Message::parse(body.as_bytes()).unwrap().usage(), wanted, "{usage}");
        let answer = chat(&serde_json::from_str(&body).unwrap(), &Context::default());
        assert_eq!(answer.get("usage").is_some(), usage.is_object(), "{usage}");
        if usage.is_object() && input_tokens != Some(u32::MAX) {
            assert_eq!(answer["usage"]["prompt_tokens"].as_u64(), input_tokens.map(u64::from), "{usage}");
            assert_eq!(answer["usage"]["completion_tokens"].as_u64(), output_tokens.map(u64::from), "{usage}");
        }
    }
}

#[test]
fn what_is_billed_apart_stays_in_the_usage() {
    let usage = json!({"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 2},
        "inference_geo": "us", "speed": "fast", "service_tier": "batch"});
    let answer = chat(&message(json!({"usage": usage})), &Context::default());
    for name in ["server_tool_use", "inference_geo", "speed"] {
        assert_eq!(answer["usage"][name], usage[name], "{name}");
    }
    assert_eq!(answer["service_tier"], "batch");
}

#[test]
fn answers_in_anthropics_own_format_are_read() {
    let body = message(json!({"content": [text("a"), {"type": "server_tool_use"}, text("b")],
        "usage": {"service_tier": "standard"}}))
    .to_string();
    let read = Message::parse(body.as_bytes()).unwrap();
    assert_eq!((read.model(), read.service_tier()), (Some("claude-opus-4-8"), Some("standard")));
    assert_eq!(read.text().as_deref(), Some("ab"));
    let call = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
    for (content, wanted) in [(json!([]), Some("")), (json!([call]), None), (json!([text("a"), call]), Some("a"))] {
        let body = message(json!({"content": content})).to_string();
        assert_eq!(Message::parse(body.as_bytes()).unwrap().text().as_deref(), wanted, "{content}");
    }
}

#[test]
fn bodies_that_are_no_message_say_what_they_are() {
    for (body, wanted) in [
        (&b""[..], "the answer is empty"),
        (b" \n", "the answer is empty"),
        (
            b"<!DOCTYPE html><title>Sign in</title>",
            "the answer is an HTML page (Sign in), not JSON; is api_base right?",
        ),
        (b"{\"content\":[{", "the answer breaks off after 13 bytes of JSON"),
        (b"[1,2]", "the answer of 5 bytes is not a JSON object"),
        (b"hello", "the answer of 5 bytes is not a JSON object"),
        (b"\xff", "the answer of 1 bytes is not a JSON object"),
        (b"{}", "the answer has no `content`; does api_base lead to Anthropic's Messages?"),
        (b"{\"choices\":[]}", "the answer has no `content`; does api_base lead to Anthropic's Messages?"),
    ] {
        let Err(Unread::Because(refusal)) = to_chat(body, &Context::default(), 0) else { panic!("{body:?}") };
        assert_eq!((refusal.class, refusal.message.as_str()), (ErrorClass::ApiResponseValidation, wanted));
    }
    for body in [
        &br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#[..],
        br#"{"error":{"message":"x"},"content":[]}"#,
    ] {
        assert_eq!(Message::parse(body).unwrap_err(), Unread::Error);
    }
}
