//! What becomes of the form of the answer.

use super::*;

fn json_schema(schema: Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}})
}

fn object() -> Value {
    json!({"type": "object", "properties": {"year": {"type": "integer", "minimum": 1}}, "required": ["year"]})
}

#[test]
fn a_schema_becomes_the_output_format() {
    let sent = sent(BUDGET, json!({"response_format": json_schema(object())}));
    let schema = json!({"type": "object", "properties": {"year": {"type": "integer", "description": "(minimum: 1)"}},
        "required": ["year"], "additionalProperties": false});
    assert_eq!(sent["output_config"], json!({"format": {"type": "json_schema", "schema": schema}}));
    assert_eq!((sent.get("tools"), sent.get("output_format")), (None, None));

    let described = json!({"type": "json_schema", "json_schema": {"description": "d", "schema": {"type": "object"}}});
    let sent = super::sent(NEW, json!({"response_format": described, "reasoning_effort": "low"}));
    let schema = json!({"type": "object", "description": "d", "additionalProperties": false});
    assert_eq!(sent["output_config"], json!({"format": {"type": "json_schema", "schema": schema}, "effort": "low"}));

    let own = json!({"effort": "max", "format": {"type": "json_schema", "schema": {}}});
    let both = json!({"response_format": json_schema(object()), "reasoning_effort": "low", "output_config": own});
    assert_eq!(super::sent(NEW, both)["output_config"], own, "Anthropic's own words win");
}

#[test]
fn an_older_model_answers_by_a_tool() {
    let format = json_schema(object());
    let choice = |members: Value| {
        let mut members = members;
        members["response_format"] = format.clone();
        let (sent, context) = translate(&request(members), &options(OLD)).unwrap();
        let tools = sent["tools"].as_array().unwrap();
        let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
        (names, sent.get("tool_choice").cloned(), context.json_tool)
    };
    let json = || Some("json_tool_call".to_owned());
    let one = Some(json!({"type": "tool", "name": "json_tool_call"}));
    assert_eq!(choice(json!({})), (vec!["json_tool_call".into()], one.clone(), json()));
    assert_eq!(
        choice(json!({"tools": [tool("f")]})),
        (vec!["f".into(), "json_tool_call".into()], Some(json!({"type": "any"})), json())
    );
    assert_eq!(
        choice(json!({"tools": [tool("f")], "tool_choice": "none"})),
        (vec!["json_tool_call".into()], one, json())
    );
    // A call of another tool is asked for: the answer is for later.
    assert_eq!(
        choice(json!({"tools": [tool("f")], "tool_choice": "required"})),
        (vec!["f".into()], Some(json!({"type": "any"})), None)
    );
    // A model that thinks cannot be forced.
    assert_eq!(choice(json!({"reasoning_effort": "high"})), (vec!["json_tool_call".into()], None, json()));
    let (names, _, json_tool) = choice(json!({"tools": [tool("json_tool_call")]}));
    assert_eq!((names[1].clone(), json_tool), ("json_tool_call_2".into(), Some("json_tool_call_2".into())));

    let sent = sent(OLD, json!({"response_format": format}));
    assert_eq!(sent["tools"][0]["input_schema"], object(), "an input may have every keyword");
    assert_eq!(sent.get("output_config"), None);

    let list = json!({"response_format": json_schema(json!({"type": "array", "items": {}}))});
    let refusal = refused(OLD, list);
    assert_eq!((refusal.class, refusal.param.as_deref()), (ErrorClass::UnsupportedParams, Some("response_format")));
}

#[test]
fn json_of_any_shape_is_asked_for_in_words() {
    for model in [NEW, OLD] {
        let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]);
        let sent = sent(model, json!({"messages": messages, "response_format": {"type": "json_object"}}));
        let system = sent["system"].as_array().unwrap();
        assert_eq!((system.len(), &system[0]), (2, &text("s")));
        assert!(system[1]["text"].as_str().unwrap().contains("JSON object"));
        assert_eq!((sent.get("output_config"), sent.get("tools")), (None, None));
    }
}

#[test]
fn formats_that_are_none_are_refused() {
    for format in [
        json!("json"),
        json!({}),
        json!({"type": "xml"}),
        json!({"type": "json_schema"}),
        json!({"type": "json_schema", "json_schema": {"name": "n"}}),
        json!({"type": "json_schema", "json_schema": {"schema": true}}),
    ] {
        let refusal = refused(NEW, json!({"response_format": format}));
        let wanted = (ErrorClass::BadRequest, Some("response_format"));
        assert_eq!((refusal.class, refusal.param.as_deref()), wanted, "{format}");
    }
    assert_eq!(refused(NEW, json!({"output_config": 3})).param.as_deref(), Some("output_config"));
}
