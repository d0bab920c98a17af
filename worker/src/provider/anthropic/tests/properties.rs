//! What holds of every request and every answer.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;

/// Any JSON, with keys that the translation knows.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("text"),
        Just("user"),
        Just("assistant"),
        Just("system"),
        Just("tool"),
        Just("function"),
        Just("image_url"),
        Just("file"),
        Just("json_schema"),
        Just("high"),
        Just("auto"),
        Just("required"),
        Just(""),
        Just(" "),
        Just("é😀\u{0}"),
        Just("data:image/png;base64,iVBORw0KGgo="),
        Just("data:,"),
        Just("{}"),
        Just("{\"a\":[1]}"),
        Just("#/$defs/a"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(any_key(), inner, 0..7).prop_map(|map| json!(map)),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "messages",
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "file",
        "file_data",
        "tool_calls",
        "tool_call_id",
        "function",
        "name",
        "arguments",
        "id",
        "tools",
        "tool_choice",
        "parameters",
        "strict",
        "response_format",
        "json_schema",
        "schema",
        "properties",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "items",
        "pattern",
        "enum",
        "reasoning_effort",
        "thinking",
        "thinking_blocks",
        "max_tokens",
        "temperature",
        "stop",
        "user",
        "cache_control",
        "output_config",
        "usage",
        "input_tokens",
        "iterations",
        "stop_reason",
        "stop_details",
        "input",
        "citations",
        "anthropic_content",
        "refusal",
        "é",
    ])
    .prop_map(str::to_owned)
}

fn any_content() -> impl Strategy<Value = Value> {
    let part = prop_oneof![
        "[a ]{0,3}".prop_map(|words| text(&words)),
        Just(json!({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}})),
    ];
    prop_oneof![Just(Value::Null), "[a \n]{0,4}".prop_map(Value::from), vec(part, 0..3).prop_map(Value::from)]
}

/// Any message that is none of those that are refused.
fn any_message() -> impl Strategy<Value = Value> {
    let call = "[a. ]{1,3}".prop_map(|name| json!({"id": "1", "function": {"name": name, "arguments": ""}}));
    prop_oneof![
        2 => any_content().prop_map(|content| json!({"role": "user", "content": content})),
        2 => (any_content(), vec(call, 0..3))
            .prop_map(|(content, calls)| json!({"role": "assistant", "content": content, "tool_calls": calls})),
        1 => "[a ]{0,3}".prop_map(|words| json!({"role": "system", "content": words})),
        1 => any_content().prop_map(|content| json!({"role": "tool", "tool_call_id": "1", "content": content})),
        1 => vec("[a ]{1,3}".prop_map(|words| text(&words)), 0..2)
            .prop_map(|blocks| json!({"role": "assistant", "content": "", CONTENT: blocks})),
    ]
}

fn any_model() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![NEW, MIDDLE, BUDGET, OLD, OLDEST, UNFORCED, THINKING, "alias"])
}

/// Checks what Anthropic demands of every request.
fn check(sent: &Value) {
    assert!(sent["max_tokens"].as_u64() >= Some(1), "{sent}");
    if let Some(budget) = sent["thinking"]["budget_tokens"].as_u64().filter(|_| sent["thinking"]["type"] == "enabled") {
        assert!(budget >= 1024 && sent["max_tokens"].as_u64() > Some(budget), "{sent}");
    }
    let messages = sent["messages"].as_array().unwrap();
    assert!(!messages.is_empty());
    let roles: Vec<&str> = messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
    for pair in roles.windows(2) {
        assert!(
            matches!(pair, ["user", "assistant" | "system"] | ["assistant", "user"] | ["system", "assistant"]),
            "{roles:?}"
        );
    }
    assert_ne!(roles[0], "system");
    let mut has_tools = false;
    for message in messages {
        let blocks = message["content"].as_array().unwrap();
        assert!(!blocks.is_empty(), "{message}");
        let is_result = |block: &Value| block["type"] == "tool_result";
        assert!(blocks.is_sorted_by_key(|block| !is_result(block)), "results first: {message}");
        has_tools |= blocks.iter().any(|block| is_result(block) || block["type"] == "tool_use");
    }
    let last = messages.last().unwrap();
    if last["role"] == "assistant"
        && let Some(text) = last["content"].as_array().unwrap().last().unwrap()["text"].as_str()
    {
        assert_eq!(text, text.trim_end());
    }
    let tools = sent["tools"].as_array().map_or(0, Vec::len);
    assert!(tools > 0 || !has_tools, "{sent}");
    assert!(tools > 0 || sent.get("tool_choice").is_none(), "{sent}");
}

proptest! {
    #[test]
    fn no_json_makes_it_panic(body in any_json(), model in any_model(), drop_params: bool) {
        let options = Options { drop_params, ..options(model) };
        let _ = translate(&body, &options);
        let _ = to_chat(body.to_string().as_bytes(), &Context::default(), 0);
    }

    #[test]
    fn no_bytes_make_it_panic(body in vec(any::<u8>(), 0..60)) {
        let _ = to_messages(&body, &options(NEW));
        let _ = to_chat(&body, &Context::default(), 0);
    }

    #[test]
    fn no_member_makes_it_panic(
        members in btree_map(any_key(), any_json(), 0..6), model in any_model(), drop_params: bool,
    ) {
        let mut request = request(json!({}));
        let messages = request["messages"].clone();
        request.as_object_mut().unwrap().extend(members);
        request["messages"] = messages;
        let options = Options { drop_params, ..options(model) };
        if let Ok((sent, _)) = translate(&request, &options) {
            prop_assert!(sent["max_tokens"].as_u64() >= Some(1));
        }
    }

    #[test]
    fn every_conversation_fits(
        messages in vec(any_message(), 1..9),
        model in any_model(),
        with_tool: bool,
        limit in option::of(1u32..9000),
        default_max_tokens: u32,
        effort in option::of(proptest::sample::select(vec!["none", "minimal", "high", "max"])),
        choice in option::of(proptest::sample::select(vec!["none", "auto", "required"])),
        format in option::of(Just(json!({"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}))),
        single: bool,
    ) {
        let tools = if with_tool { json!([tool("f")]) } else { json!(null) };
        let choice = choice.filter(|choice| with_tool || *choice != "required");
        let request = json!({"messages": messages, "tools": tools, "max_tokens": limit, "reasoning_effort": effort,
            "tool_choice": choice, "response_format": format, "parallel_tool_calls": !single});
        let options = Options { drop_params: true, default_max_tokens, ..options(model) };
        match translate(&request, &options) {
            Ok((sent, _)) => check(&sent),
            // Nobody says anything in it.
            Err(refusal) => prop_assert_eq!(refusal.param.as_deref(), Some("messages"), "{}", request),
        }
    }

    #[test]
    fn an_answer_returns_as_the_turn_that_it_was(
        thinking in vec("[a-z]{0,4}", 0..3), texts in vec("[a-z]{1,4}", 0..3), calls in vec("[a-z]{1,4}", 0..3),
        order in any::<u8>(),
    ) {
        let mut content: Vec<Value> =
            thinking.iter().map(|words| json!({"type": "thinking", "thinking": words, "signature": "s"})).collect();
        content.push(text(&texts.concat()));
        content.retain(|block| block["text"] != "");
        content.extend(calls.iter().map(|name| json!({"type": "tool_use", "id": "t", "name": name, "input": {"z": name}})));
        prop_assume!(!content.is_empty());
        let turn = usize::from(order) % content.len();
        content.rotate_left(turn);
        let answer = chat(&json!({"content": content, "stop_reason": "end_turn"}), &Context::default());
        let messages = json!([answer["choices"][0]["message"], {"role": "user", "content": "go on"}]);
        let sent = sent(NEW, json!({"messages": messages}));
        prop_assert_eq!(&sent["messages"][0]["content"], &json!(content));
    }
}
