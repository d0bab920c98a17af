use super::*;

fn read_as(operation: Operation, json: &str) -> Request<'_> {
    read(operation, None, json.as_bytes()).unwrap()
}

fn chat(json: &str) -> Request<'_> {
    read_as(Operation::Chat, json)
}

#[test]
fn the_marker_is_the_job_then_the_user_then_the_prompt() {
    let table = [
        (r#"{"metadata":{"gristmill_job":"j1"},"user":"u","messages":[{"role":"user","content":"p"}]}"#, "j1"),
        (r#"{"metadata":{"gristmill_job":7},"user":"u","messages":[{"role":"user","content":"p"}]}"#, "u"),
        (r#"{"metadata":null,"messages":[{"role":"user","content":"p"}]}"#, "p"),
        (r#"{"input":["a","b"]}"#, "b"),
        ("{}", ""),
    ];
    for (json, marker) in table {
        assert_eq!(chat(json).marker(), marker, "{json}");
    }
    let long = format!(r#"{{"prompt":"{}"}}"#, "\u{e9}".repeat(100));
    assert_eq!(chat(&long).marker(), "\u{e9}".repeat(64));
}

#[test]
fn a_script_may_stand_in_three_places() {
    let table = [
        (r#"{"metadata":{"simulate":"500,ok"},"user":"simulate:429"}"#, Some("500,ok")),
        (r#"{"metadata":{"simulate":"simulate:500"}}"#, Some("500")),
        (r#"{"user":"u simulate:429,ok","prompt":"simulate:500"}"#, Some("429,ok")),
        (r#"{"messages":[{"role":"user","content":"Say hi. simulate:reset"}]}"#, Some("reset")),
        (r#"{"messages":[{"role":"user","content":"Say hi."}]}"#, None),
    ];
    for (json, script) in table {
        assert_eq!(chat(json).script(), script, "{json}");
    }
}

#[test]
fn tokens_are_estimated() {
    let request = chat(r#"{"max_completion_tokens":50,"messages":[{"role":"user","content":"123456789"}]}"#);
    assert_eq!((request.prompt_tokens(), request.max_tokens), (3, Some(50)));
    assert_eq!(read_as(Operation::Embeddings, r#"{"input":[1,2,3,4]}"#).prompt_tokens(), 4);
}

#[test]
fn what_no_provider_takes_is_refused_with_the_parameter() {
    let message = r#""messages":[{"role":"user","content":"hi"}]"#;
    let with = |field: &str| format!(r#"{{"model":"m",{field},{message}}}"#);
    let tools = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
    let table = [
        (format!("{{{message}}}"), "model", "missing_required_parameter"),
        (r#"{"model":"m"}"#.to_owned(), "messages", "missing_required_parameter"),
        (r#"{"model":"m","prompt":"hi"}"#.to_owned(), "messages", "missing_required_parameter"),
        (r#"{"model":"m","messages":[]}"#.to_owned(), "messages", "empty_array"),
        (with(r#""n":0"#), "n", "integer_out_of_range"),
        (with(r#""tools":[{"type":"function"}]"#), "tools[0].function", "missing_required_parameter"),
        (with(r#""tools":[{"type":"function","function":{"name":"a b"}}]"#), "tools[0].function.name", "invalid_value"),
        (
            with(r#""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"x"}}}]"#),
            "tools[0].function.parameters",
            "invalid_function_parameters",
        ),
        (with(r#""tool_choice":"required""#), "tool_choice", "invalid_value"),
        (
            with(&format!(r#"{tools},"tool_choice":{{"type":"function","function":{{"name":"g"}}}}"#)),
            "tool_choice",
            "invalid_value",
        ),
        (
            with(r#""response_format":{"type":"json_schema"}"#),
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            with(r#""response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"thing"}}}"#),
            "response_format",
            "invalid_json_schema",
        ),
        (with(r#""stop":["a","b","c","d","e"]"#), "stop", "array_above_max_length"),
    ];
    for (json, param, code) in table {
        let refusal = chat(&json).check().unwrap_err();
        assert_eq!((refusal.param.as_deref(), refusal.code), (Some(param), Some(code)), "{json}");
    }
    let fine = with(&format!(r#""temperature":0.5,{tools},"tool_choice":"auto","stop":null"#));
    assert_eq!(chat(&fine).check(), Ok(()));
    assert_eq!(read(Operation::Chat, None, b"{\"model\":").unwrap_err().code, None);
    assert_eq!(read(Operation::Chat, None, b"[1]").unwrap_err().code, Some("invalid_type"));
    let image =
        r#"{"model":"m","messages":[{"role":"user","content":[{"image_url":{"url":"data:image/png;base64,AAAA"}}]}]}"#;
    assert_eq!(chat(image).check().unwrap_err().code, Some("invalid_image_format"));
    let vectors = read_as(Operation::Embeddings, r#"{"model":"m","input":"a","stream":true}"#).check();
    assert_eq!(vectors.unwrap_err().param.as_deref(), Some("stream"));
}

#[test]
fn the_form_is_asked_for_in_two_ways() {
    assert_eq!(chat(r#"{"response_format":{"type":"json_object"}}"#).form, Form::Object);
    assert_eq!(chat(r#"{"response_format":{"type":"text"}}"#).form, Form::Text);
    let schema = Form::Schema(serde_json::json!({ "type": "object" }));
    let nested = r#"{"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}}"#;
    assert_eq!(chat(nested).form, schema);
    let flat = r#"{"text":{"format":{"type":"json_schema","name":"x","schema":{"type":"object"}}}}"#;
    assert_eq!(read_as(Operation::Responses, flat).form, schema);
}

#[test]
fn functions_are_read_in_both_shapes() {
    let schema = serde_json::json!({ "type": "object" });
    let wanted = [Tool { name: "look_up".to_owned(), schema }];
    let nested = r#"{"tools":[{"type":"custom"},{"type":"function","function":{"name":"look_up","parameters":{"type":"object"}}}]}"#;
    assert_eq!(chat(nested).tools, wanted);
    let flat = r#"{"tools":[{"type":"function","name":"look_up","parameters":{"type":"object"}}]}"#;
    assert_eq!(read_as(Operation::Responses, flat).tools, wanted);

    let table = [
        ("\"auto\"", ToolChoice::Auto),
        ("\"none\"", ToolChoice::None),
        ("\"required\"", ToolChoice::Required),
        ("null", ToolChoice::Auto),
        (r#"{"type":"function","function":{"name":"look_up"}}"#, ToolChoice::Named("look_up".to_owned())),
        (r#"{"type":"function","name":"look_up"}"#, ToolChoice::Named("look_up".to_owned())),
        (r#"{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[]}}"#, ToolChoice::Required),
    ];
    for (choice, wanted) in table {
        assert_eq!(chat(&format!(r#"{{"tool_choice":{choice}}}"#)).tool_choice, wanted, "{choice}");
    }
}

#[test]
fn an_effort_asks_for_thoughts() {
    let thinking = |json| chat(json).thinking.map(|thinking| thinking.is_shown);
    assert_eq!(thinking(r#"{"reasoning_effort":"low"}"#), Some(false));
    assert_eq!(thinking(r#"{"reasoning":{"effort":"high","summary":"auto"}}"#), Some(true));
    assert_eq!(thinking(r#"{"reasoning_effort":"none"}"#), None);
    assert_eq!(thinking("{}"), None);
}

#[test]
fn the_deployment_stands_for_the_model() {
    let request = read(Operation::Chat, Some("prod"), br#"{"model":"other"}"#).unwrap();
    assert_eq!(request.model, "prod");
}
