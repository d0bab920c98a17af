use serde_json::json;

use super::*;

/// Checks a good request with some fields changed; null takes a field away.
fn with(changes: Value) -> Result<(), String> {
    checked(Operation::Messages, false, changes)
}

fn checked(operation: Operation, is_without_sampling: bool, changes: Value) -> Result<(), String> {
    let mut body = json!({
        "model": "claude-opus-4-5", "max_tokens": 2000, "messages": [{ "role": "user", "content": "hi" }],
    });
    let (Some(body), Value::Object(changes)) = (body.as_object_mut(), changes) else { panic!("no objects") };
    for (name, value) in changes {
        if value.is_null() {
            body.remove(&name);
        } else {
            body.insert(name, value);
        }
    }
    check(operation, is_without_sampling, body)
}

#[track_caller]
fn refused(changes: Value, message: &str) {
    let told = with(changes.clone()).expect_err(&changes.to_string());
    assert!(told.starts_with(message), "{told}\n  is not\n{message}");
}

/// Returns messages with these blocks from the user.
fn user(blocks: Value) -> Value {
    json!({ "messages": [{ "role": "user", "content": blocks }] })
}

fn tool() -> Value {
    json!({ "name": "f", "input_schema": { "type": "object", "properties": {} } })
}

#[test]
fn fields_are_required_and_no_others_taken() {
    assert_eq!(with(json!({})), Ok(()));
    refused(json!({ "max_tokens": null }), "max_tokens: Field required");
    refused(json!({ "model": null }), "model: Field required");
    refused(json!({ "model": "" }), "model: String should have at least 1 character");
    refused(json!({ "messages": null }), "messages: Field required");
    refused(json!({ "messages": [] }), "messages: at least one message is required");
    refused(json!({ "max_tokens": -1 }), "max_tokens: Input should be greater than or equal to 0");
    refused(json!({ "max_tokens": "7" }), "max_tokens: Input should be a valid integer");
    refused(json!({ "seed": 7 }), "seed: Extra inputs are not permitted");
    refused(json!({ "metadata": { "team": "a" } }), "metadata.team: Extra inputs are not permitted");
    assert_eq!(with(json!({ "metadata": { "user_id": "u", "gristmill_job": "j", "simulate": "ok" } })), Ok(()));
    let count = |changes| checked(Operation::CountTokens, false, changes);
    assert_eq!(count(json!({ "max_tokens": null })), Ok(()));
    assert_eq!(count(json!({})), Err("max_tokens: Extra inputs are not permitted".to_owned()));
}

#[test]
fn sampling_depends_on_the_version_and_the_model() {
    assert_eq!(with(json!({ "temperature": 0.5, "top_k": 5 })), Ok(()));
    refused(json!({ "temperature": 1.5 }), "temperature: range: 0..1");
    refused(json!({ "model": "claude-opus-4-7", "temperature": 0 }), "temperature: ");
    assert_eq!(with(json!({ "model": "claude-opus-4-7", "temperature": 1 })), Ok(()));
    let removed = checked(Operation::Messages, true, json!({ "top_p": 1 }));
    assert_eq!(removed, Err("top_p: Extra inputs are not permitted".to_owned()));
}

#[test]
fn roles_stand_in_their_places() {
    let messages = |roles: &[&str]| {
        let messages: Vec<Value> = roles.iter().map(|role| json!({ "role": role, "content": "x" })).collect();
        json!({ "model": "claude-opus-5", "messages": messages })
    };
    assert_eq!(with(messages(&["user", "user", "assistant", "system", "user"])), Ok(()));
    assert_eq!(with(messages(&["assistant", "user"])), Ok(()));
    refused(messages(&["system", "user"]), "messages: Unexpected role \"system\".");
    refused(messages(&["user", "tool"]), "messages: Unexpected role \"tool\".");
    refused(messages(&["user", "assistant"]), "This model does not support assistant message prefill.");
    let mut old = messages(&["user", "system"]);
    old["model"] = "claude-opus-4-7".into();
    refused(old, "messages: Unexpected role \"system\".");
    let prefilled =
        json!({ "messages": [{ "role": "user", "content": "x" }, { "role": "assistant", "content": "{ " }] });
    refused(prefilled, "messages: final assistant content cannot end with trailing whitespace");
    refused(json!({ "messages": [{ "role": "user", "content": "x", "name": "n" }] }), "messages.0.name: Extra inputs");
}

#[test]
fn blocks_are_looked_into() {
    refused(user(json!("")), "messages.0: all messages must have non-empty content");
    refused(user(json!([])), "messages.0: all messages must have non-empty content");
    refused(user(json!(" ")), "messages: text content blocks must contain non-whitespace text");
    refused(user(json!([{ "type": "text", "text": "" }])), "messages: text content blocks must be non-empty");
    refused(json!({ "system": [{ "type": "text", "text": "" }] }), "system: text content blocks must be non-empty");
    refused(
        user(json!([{ "type": "image_url", "image_url": {} }])),
        "messages.0.content.0: Input tag 'image_url' found using 'type'",
    );
    let image = |media_type: &str, data: &str| {
        user(json!([{ "type": "image", "source": { "type": "base64", "media_type": media_type, "data": data } }]))
    };
    assert_eq!(with(image("image/png", "iVBORw0KGgo=")), Ok(()));
    refused(
        image("image/bmp", "Qk0="),
        "messages.0.content.0.image.source.base64.media_type: Input should be 'image/jpeg', 'image/png'",
    );
    refused(image("image/png", "SGVsbG8="), "Could not process image");
    let marked = json!({ "type": "text", "text": "x", "cache_control": { "type": "ephemeral" } });
    assert_eq!(with(user(json!(vec![marked.clone(); 4]))), Ok(()));
    refused(user(json!(vec![marked; 5])), "A maximum of 4 blocks with cache_control may be provided. Found 5.");
}

#[test]
fn results_of_tools_follow_their_calls() {
    let use_of = |id: &str| json!({ "type": "tool_use", "id": id, "name": "f", "input": {} });
    let result = |id: &str| json!({ "type": "tool_result", "tool_use_id": id, "content": "42" });
    let talk = |calls: Value, answer: Value| {
        json!({ "tools": [tool()], "messages": [
            { "role": "user", "content": "ask" },
            { "role": "assistant", "content": calls },
            { "role": "user", "content": answer },
        ] })
    };
    let text = json!({ "type": "text", "text": "and?" });
    assert_eq!(with(talk(json!([use_of("a"), use_of("b")]), json!([result("a"), result("b"), text]))), Ok(()));
    let missing = "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: b.";
    refused(talk(json!([use_of("a"), use_of("b")]), json!([result("a")])), missing);
    refused(talk(json!([use_of("b")]), json!([text, result("b")])), missing);
    refused(
        talk(json!([use_of("a")]), json!([result("a"), result("c")])),
        "messages.2.content.1: unexpected `tool_use_id` found in `tool_result` blocks: c.",
    );
    let mut without = talk(json!([use_of("a")]), json!([result("a")]));
    without["tools"] = Value::Null;
    refused(without, "Requests which include `tool_use` or `tool_result` blocks must define tools.");
    let text_input = json!([{ "type": "tool_use", "id": "a", "name": "f", "input": "{}" }]);
    refused(
        talk(text_input, json!([result("a")])),
        "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
    );
    refused(user(json!([use_of("a")])), "messages.0: `tool_use` blocks can only be in `assistant` messages");
}

#[test]
fn tools_and_their_choice_are_checked() {
    let tools = |tool: Value| json!({ "tools": [tool] });
    assert_eq!(with(tools(tool())), Ok(()));
    refused(tools(json!({ "name": "f" })), "tools.0.custom.input_schema: Field required");
    refused(tools(json!({ "name": "f", "input_schema": {} })), "tools.0.custom.input_schema.type: Field required");
    refused(tools(json!({ "name": "a b", "input_schema": {} })), "tools.0.custom.name: String should match pattern");
    refused(tools(json!({ "type": "function" })), "tools.0: Input tag 'function'");
    refused(json!({ "tools": [tool(), tool()] }), "tools: Tool names must be unique.");
    refused(json!({ "tool_choice": { "type": "any" } }), "tool_choice may only be specified while providing tools.");
    let choice = |choice: Value| json!({ "tools": [tool()], "tool_choice": choice });
    assert_eq!(with(choice(json!({ "type": "tool", "name": "f" }))), Ok(()));
    refused(choice(json!({ "type": "tool", "name": "g" })), "Tool 'g' not found in provided tools");
    refused(choice(json!("auto")), "tool_choice: Input should be a valid dictionary");
    refused(choice(json!({ "type": "required" })), "tool_choice: Input tag 'required'");
    let mut forced = choice(json!({ "type": "any" }));
    forced["thinking"] = json!({ "type": "enabled", "budget_tokens": 1024 });
    refused(forced.clone(), "Thinking may not be enabled when tool_choice forces tool use.");
    forced["model"] = "claude-opus-5-5".into();
    refused(forced, "tool_choice: this model does not support forced tool use");
}

#[test]
fn stops_thoughts_and_formats_are_checked() {
    refused(
        json!({ "stop_sequences": ["END", "\n"] }),
        "stop_sequences: each stop sequence must contain non-whitespace",
    );
    let thinking = |budget: u64| json!({ "thinking": { "type": "enabled", "budget_tokens": budget } });
    assert_eq!(with(thinking(1_024)), Ok(()));
    refused(thinking(1_023), "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024");
    refused(thinking(2_000), "`max_tokens` must be greater than `thinking.budget_tokens`.");
    refused(json!({ "thinking": { "type": "adaptive" } }), "thinking.type: ");
    assert_eq!(with(json!({ "model": "claude-opus-4-7", "thinking": { "type": "adaptive" } })), Ok(()));
    let mut hot = thinking(1_024);
    hot["temperature"] = json!(0.5);
    refused(hot, "`temperature` may only be set to 1 when thinking is enabled.");

    let format = |schema: Value| json!({ "output_config": { "format": { "type": "json_schema", "schema": schema } } });
    let fine = json!({ "type": "object", "additionalProperties": false, "properties": { "a": { "type": "string" } } });
    assert_eq!(with(format(fine)), Ok(()));
    refused(
        format(json!({ "type": "object" })),
        "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
    );
    refused(
        format(json!({ "type": "integer", "minimum": 1, "maximum": 2 })),
        "output_config.format.schema: For 'integer' type, properties maximum, minimum are not supported",
    );
    refused(
        format(json!({ "anyOf": [{ "type": "string", "minLength": 1 }] })),
        "output_config.format.schema: For 'string' type, property 'minLength' is not supported",
    );
    refused(format(json!({ "oneOf": [] })), "output_config.format.schema: Schema type 'oneOf' is not supported");
    refused(json!({ "output_format": { "type": "text" } }), "output_format.type: Input should be 'json_schema'");
    refused(json!({ "output_config": { "effort": "huge" } }), "output_config.effort: Input should be 'low'");
}

#[test]
fn models_are_ordered_by_the_numbers_in_their_names() {
    let table = [
        ("claude-opus-4-6-20260205", Some(Generation(4, 6))),
        ("claude-sonnet-5", Some(Generation(5, 0))),
        ("claude-3-5-haiku-20241022", Some(Generation(3, 5))),
        ("claude-fable-5-1", Some(Generation(5, 1))),
        ("claude-mythos-preview", None),
        ("simulated", None),
    ];
    for (model, generation) in table {
        assert_eq!(Generation::of(model), generation, "{model}");
    }
}
