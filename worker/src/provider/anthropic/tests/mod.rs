//! The translation, row by row, and against recorded answers.

mod answers;
mod fixtures;
mod formats;
mod messages;
mod parameters;
mod properties;
mod tools;

use serde_json::{Value, json};

use gristmill_common::failure::ErrorClass;

use super::*;

/// Adaptive thinking, system messages behind the first turn, output formats; no sampling.
const NEW: &str = "claude-opus-4-8";
/// Adaptive thinking and sampling.
const MIDDLE: &str = "claude-sonnet-4-6";
/// Thinking with a budget; output formats.
const BUDGET: &str = "claude-opus-4-5-20251101";
/// Thinking with a budget; no output formats.
const OLD: &str = "claude-sonnet-4-20250514";
/// No thinking.
const OLDEST: &str = "claude-3-5-haiku-20241022";
/// Thinks always, cannot be forced to call a tool.
const UNFORCED: &str = "claude-opus-5-5";
/// Thinks unless told not to.
const THINKING: &str = "claude-sonnet-5";

const DEFAULT_MAX_TOKENS: u32 = 64_000;

fn options(model: &str) -> Options<'_> {
    Options { model, drop_params: false, default_max_tokens: DEFAULT_MAX_TOKENS, stream: false, service_tier: None }
}

fn translate(request: &Value, options: &Options<'_>) -> Result<(Value, Context), Refusal> {
    let (body, context) = to_messages(request.to_string().as_bytes(), options)?;
    Ok((serde_json::from_slice(&body).unwrap(), context))
}

/// Makes a request of one word, with further members.
fn request(members: Value) -> Value {
    let mut request = json!({"model": "group", "messages": [{"role": "user", "content": "hi"}]});
    let Value::Object(members) = members else { panic!("no members: {members}") };
    request.as_object_mut().unwrap().extend(members);
    request
}

fn sent(model: &str, members: Value) -> Value {
    let request = request(members);
    translate(&request, &options(model)).unwrap_or_else(|refusal| panic!("{request}: {refusal:?}")).0
}

fn sent_or_dropped(model: &str, members: Value) -> Value {
    let options = Options { drop_params: true, ..options(model) };
    translate(&request(members), &options).unwrap().0
}

fn refused(model: &str, members: Value) -> Refusal {
    let request = request(members);
    match translate(&request, &options(model)) {
        Ok((sent, _)) => panic!("{request} was sent as {sent}"),
        Err(refusal) => refusal,
    }
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}})
}

fn chat(message: &Value, context: &Context) -> Value {
    let body = to_chat(message.to_string().as_bytes(), context, 1_764_000_000);
    serde_json::from_slice(&body.unwrap_or_else(|unread| panic!("{message}: {unread:?}"))).unwrap()
}

#[test]
fn a_whole_request_is_written_as_it_should() {
    let request = br#"{
        "model": "group", "temperature": 0.5, "max_completion_tokens": 4000, "stop": "END", "user": "u-1", "seed": null,
        "messages": [
            {"role": "system", "content": "Be brief.", "cache_control": {"type": "ephemeral"}},
            {"role": "user", "content": [{"type": "text", "text": "What is in it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "high"}}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "zoom in", "arguments": "{\"z\":1,\"a\":[2.5]}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
            {"role": "user", "content": "Sure?"}
        ],
        "tools": [{"type": "function", "function": {"name": "zoom in", "description": "Looks closer.",
            "parameters": {"type": "object", "properties": {"z": {"type": "number"}, "a": {"type": "array"}}}}}],
        "tool_choice": "auto", "parallel_tool_calls": false
    }"#;
    let options = Options { stream: true, ..options(MIDDLE) };
    let (body, context) = to_messages(request, &options).unwrap();
    let wanted = concat!(
        r#"{"model":"claude-sonnet-4-6","max_tokens":4000,"#,
        r#""system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],"#,
        r#""messages":[{"role":"user","content":[{"type":"text","text":"What is in it?"},"#,
        r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}}]},"#,
        r#"{"role":"assistant","content":[{"type":"tool_use","id":"call_1","name":"zoom_in","input":{"z":1,"a":[2.5]}}]},"#,
        r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"call_1","content":[{"type":"text","text":"a cat"}]},"#,
        r#"{"type":"text","text":"Sure?"}]}],"#,
        r#""tools":[{"type":"custom","name":"zoom_in","description":"Looks closer.","#,
        r#""input_schema":{"type":"object","properties":{"z":{"type":"number"},"a":{"type":"array"}}}}],"#,
        r#""tool_choice":{"type":"auto","disable_parallel_tool_use":true},"stop_sequences":["END"],"#,
        r#""metadata":{"user_id":"u-1"},"stream":true,"temperature":0.5}"#,
    );
    assert_eq!(std::str::from_utf8(&body).unwrap(), wanted);
    assert_eq!(context.renamed, [("zoom_in".to_owned(), "zoom in".to_owned())]);
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    for (body, what) in [
        (&b""[..], "the request's body is not JSON: EOF while parsing a value at line 1 column 0"),
        (b"[]", "the request's body is a list, not a JSON object"),
        (b"{\"messages\":[", "the request's body is not JSON: EOF while parsing a list at line 1 column 13"),
        (b"\xff", "the request's body is not JSON: expected value at line 1 column 1"),
        (b"{}", "`messages` is not a list of messages"),
    ] {
        let refusal = to_messages(body, &options(NEW)).unwrap_err();
        assert_eq!((refusal.class, refusal.message.as_str()), (ErrorClass::BadRequest, what));
    }
    let deep = format!("{{\"messages\":{}", "[".repeat(1_000_000));
    assert_eq!(to_messages(deep.as_bytes(), &options(NEW)).unwrap_err().class, ErrorClass::BadRequest);
}

#[test]
fn a_refusal_becomes_the_error_of_a_row() {
    let record = gristmill_common::failure::ErrorRecord::from(refused(NEW, json!({"seed": 1})));
    assert_eq!((record.class, record.param.as_deref()), (ErrorClass::UnsupportedParams, Some("seed")));
    assert!(!record.retryable && record.message.contains("`seed`"), "{}", record.message);
}
