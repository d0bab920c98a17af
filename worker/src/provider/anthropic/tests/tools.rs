//! What becomes of tools and of which one to call.

use super::*;

fn empty() -> Value {
    json!({"type": "object", "properties": {}})
}

#[test]
fn functions_become_tools() {
    let function = |function: Value| json!([{"type": "function", "function": function}]);
    for (model, tools, wanted) in [
        (NEW, function(json!({"name": "f"})), json!({"type": "custom", "name": "f", "input_schema": empty()})),
        (
            NEW,
            function(json!({"name": "f", "description": "d", "parameters": {"properties": {"a": {"minimum": 1}}}})),
            json!({"type": "custom", "name": "f", "description": "d",
                "input_schema": {"type": "object", "properties": {"a": {"minimum": 1}}}}),
        ),
        // Strict tools have the limits of output formats.
        (
            NEW,
            function(
                json!({"name": "f", "strict": true, "parameters": {"type": "object", "properties": {"a": {"minimum": 1}}}}),
            ),
            json!({"type": "custom", "name": "f", "strict": true, "input_schema": {"type": "object",
                "properties": {"a": {"description": "(minimum: 1)"}}, "additionalProperties": false}}),
        ),
        (
            OLD,
            function(json!({"name": "f", "strict": true, "parameters": empty()})),
            json!({"type": "custom", "name": "f", "input_schema": empty()}),
        ),
        (
            NEW,
            json!([{"type": "web_search_20250305", "name": "web_search", "max_uses": 3}]),
            json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 3}),
        ),
        (NEW, json!([{"name": "f", "input_schema": empty()}]), json!({"name": "f", "input_schema": empty()})),
    ] {
        assert_eq!(sent(model, json!({"tools": tools}))["tools"], json!([wanted]), "{tools}");
    }
    assert_eq!(sent(NEW, json!({"tools": []})).get("tools"), None);
}

#[test]
fn names_are_rewritten_and_mapped_back() {
    let long = "n".repeat(200);
    let names = ["a_b", "a.b", "a b", "größe", &long, &format!("{long}x"), "a.b"];
    let tools: Vec<Value> = names.iter().map(|name| tool(name)).collect();
    let called = json!({"role": "assistant", "tool_calls": [
        {"id": "1", "function": {"name": "a.b", "arguments": ""}}, {"id": "2", "function": {"name": "gone!", "arguments": ""}}]});
    let messages = json!([{"role": "user", "content": "hi"}, called, {"role": "user", "content": "go on"}]);
    let choice = json!({"type": "function", "function": {"name": "a b"}});
    let request = request(json!({"messages": messages, "tools": tools, "tool_choice": choice}));
    let (sent, context) = translate(&request, &options(NEW)).unwrap();
    let offered: Vec<&str> =
        sent["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(offered[0], "a_b");
    assert_eq!(offered[1], offered[6], "one name stays one name");
    let mut different = offered[..6].to_vec();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 6, "{offered:?}");
    for name in &offered {
        assert!((1..=128).contains(&name.len()), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)), "{name}");
    }
    assert_eq!(sent["tool_choice"]["name"], offered[2]);
    assert_eq!(sent["messages"][1]["content"][0]["name"], offered[1]);
    assert_eq!(sent["messages"][1]["content"][1]["name"], "gone_");

    let calls: Vec<Value> =
        offered.iter().map(|name| json!({"type": "tool_use", "id": "t", "name": name, "input": {}})).collect();
    let answer = chat(&json!({"content": calls, "stop_reason": "tool_use"}), &context);
    let back = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    let back: Vec<&str> = back.iter().map(|call| call["function"]["name"].as_str().unwrap()).collect();
    assert_eq!(back, names);
}

#[test]
fn choices_are_translated() {
    let function = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (model, members, wanted) in [
        (NEW, json!({}), None),
        (NEW, json!({"tool_choice": "auto"}), Some(json!({"type": "auto"}))),
        (NEW, json!({"tool_choice": "none"}), Some(json!({"type": "none"}))),
        (NEW, json!({"tool_choice": "required"}), Some(json!({"type": "any"}))),
        (NEW, json!({"tool_choice": function("f")}), Some(json!({"type": "tool", "name": "f"}))),
        (NEW, json!({"tool_choice": {"type": "any"}}), Some(json!({"type": "any"}))),
        (NEW, json!({"tool_choice": {"type": "tool", "name": "g"}}), Some(json!({"type": "tool", "name": "g"}))),
        (NEW, json!({"parallel_tool_calls": true}), None),
        (NEW, json!({"parallel_tool_calls": false}), Some(json!({"type": "auto", "disable_parallel_tool_use": true}))),
        (
            NEW,
            json!({"parallel_tool_calls": false, "tool_choice": "required"}),
            Some(json!({"type": "any", "disable_parallel_tool_use": true})),
        ),
        (NEW, json!({"parallel_tool_calls": false, "tool_choice": "none"}), Some(json!({"type": "none"}))),
        (UNFORCED, json!({"tool_choice": "auto"}), Some(json!({"type": "auto"}))),
    ] {
        let mut members = members;
        members["tools"] = json!([tool("f"), tool("g")]);
        assert_eq!(sent(model, members.clone()).get("tool_choice"), wanted.as_ref(), "{members}");
    }
}

#[test]
fn what_is_not_allowed_is_not_offered() {
    let allowed = json!({"type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}});
    let sent = sent(NEW, json!({"tools": [tool("f"), tool("g")], "tool_choice": allowed}));
    assert_eq!(sent["tools"].as_array().unwrap().len(), 1);
    assert_eq!((&sent["tools"][0]["name"], &sent["tool_choice"]), (&json!("g"), &json!({"type": "any"})));
}

#[test]
fn a_model_that_cannot_be_forced_is_asked() {
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "f"}})] {
        let members = json!({"tools": [tool("f")], "tool_choice": choice});
        let refusal = refused(UNFORCED, members.clone());
        assert_eq!(
            (refusal.class, refusal.param.as_deref()),
            (ErrorClass::UnsupportedParams, Some("tool_choice")),
            "{choice}"
        );
        assert_eq!(sent_or_dropped(UNFORCED, members)["tool_choice"], json!({"type": "auto"}), "{choice}");
    }
}

#[test]
fn calls_in_messages_without_tools_get_a_tool_that_is_not_called() {
    for (messages, has_tool) in [
        (
            json!([{"role": "user", "content": "a"},
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]},
                {"role": "tool", "tool_call_id": "1", "content": "x"}]),
            true,
        ),
        (json!([{"role": "user", "content": "a"}]), false),
    ] {
        let sent = sent(NEW, json!({"messages": messages, "tool_choice": "auto", "parallel_tool_calls": false}));
        assert_eq!(sent["tools"].as_array().map_or(0, Vec::len), usize::from(has_tool), "{messages}");
        assert_eq!(sent.get("tool_choice"), has_tool.then_some(&json!({"type": "none"})), "{messages}");
    }
}

#[test]
fn tools_that_cannot_be_sent_are_refused() {
    let tools = json!([tool("f")]);
    for (members, param) in [
        (json!({"tools": {}}), "tools"),
        (json!({"tools": [3]}), "tools[0]"),
        (json!({"tools": [{}]}), "tools[0]"),
        (json!({"tools": [{"type": "function", "name": "f"}]}), "tools[0].function"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
        (json!({"tools": [{"type": "function", "function": {"name": ""}}]}), "tools[0].function.name"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": "x"}}]}),
            "tools[0].function.parameters",
        ),
        (json!({"tools": tools, "tool_choice": "maybe"}), "tool_choice"),
        (json!({"tools": tools, "tool_choice": 3}), "tool_choice"),
        (json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "g"}}}), "tool_choice"),
        (json!({"tools": tools, "tool_choice": {"type": "function"}}), "tool_choice"),
        (
            json!({"tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}}),
            "tool_choice",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": tools, "parallel_tool_calls": "no"}), "parallel_tool_calls"),
    ] {
        let refusal = refused(NEW, members.clone());
        assert_eq!((refusal.class, refusal.param.as_deref()), (ErrorClass::BadRequest, Some(param)), "{members}");
    }
    let custom = json!({"tools": [tool("f"), {"type": "custom", "custom": {"name": "c"}}]});
    let refusal = refused(NEW, custom.clone());
    assert_eq!((refusal.class, refusal.param.as_deref()), (ErrorClass::UnsupportedParams, Some("tools[1]")));
    assert_eq!(sent_or_dropped(NEW, custom)["tools"].as_array().unwrap().len(), 1);
}
