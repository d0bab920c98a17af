//! Wording the answers of the Messages API: whole, and as named events.
//!
//! The order of events follows <https://platform.claude.com/docs/en/build-with-claude/streaming> (read 2026-11-23).

use serde_json::{Value, json};

use crate::simulate::answer::{Answer, Choice, Content, Finish, Part, ToolCall, Usage};
use crate::simulate::body::Body;
use crate::simulate::request::Request;

/// Stands for the proof that the thoughts are the model's own.
const SIGNATURE: &str = "c2ltdWxhdGVk";

/// Words an answer.
pub(super) fn render(request: &Request<'_>, answer: &Answer<'_>) -> Body {
    match (&answer.content, answer.choices().first()) {
        (Content::Count, _) | (_, None) => Body::json(&json!({ "input_tokens": answer.usage.input })),
        (_, Some(choice)) if request.stream => stream(request, answer, choice),
        (_, Some(choice)) => Body::json(&whole(request, answer, choice)),
    }
}

fn whole(request: &Request<'_>, answer: &Answer<'_>, choice: &Choice) -> Value {
    let mut message = empty(answer);
    let blocks = spoken(choice).map(|part| match part {
        Part::Thinking(text) => {
            let shown = if shows_thoughts(request) { text.text.as_str() } else { "" };
            json!({ "type": "thinking", "thinking": shown, "signature": SIGNATURE })
        }
        Part::Text(text) | Part::Refusal(text) => json!({ "type": "text", "text": text.text }),
        Part::Call(call) => {
            let mut block = tool_use(call);
            // Arguments that are no JSON cannot be written here.
            block["input"] = serde_json::from_str(&call.arguments.text).unwrap_or_else(|_| json!({}));
            block
        }
    });
    message["content"] = blocks.collect();
    let (reason, sequence, details) = stop(choice);
    message["stop_reason"] = reason.into();
    message["stop_sequence"] = sequence;
    message["stop_details"] = details;
    message["usage"] = usage(&answer.usage, answer.usage.output);
    message
}

fn stream(request: &Request<'_>, answer: &Answer<'_>, choice: &Choice) -> Body {
    let mut body = Body::stream();
    let mut send = |kind: &str, mut event: Value, tokens: u64| {
        event["type"] = kind.into();
        body.event(kind, &event, tokens);
    };
    let mut message = empty(answer);
    message["usage"] = usage(&answer.usage, 1);
    send("message_start", json!({ "message": message }), 0);
    if choice.parts.is_empty() {
        send("ping", json!({}), 0);
    }
    for (index, part) in spoken(choice).enumerate() {
        let block = match part {
            Part::Thinking(_) => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Part::Text(_) | Part::Refusal(_) => json!({ "type": "text", "text": "" }),
            Part::Call(call) => tool_use(call),
        };
        send("content_block_start", json!({ "index": index, "content_block": block }), 0);
        if index == 0 {
            send("ping", json!({}), 0);
        }
        let mut delta =
            |delta: Value, tokens| send("content_block_delta", json!({ "index": index, "delta": delta }), tokens);
        match part {
            Part::Thinking(text) => {
                for (piece, tokens) in text.pieces().into_iter().filter(|_| shows_thoughts(request)) {
                    delta(json!({ "type": "thinking_delta", "thinking": piece }), tokens);
                }
                delta(json!({ "type": "signature_delta", "signature": SIGNATURE }), 0);
            }
            Part::Text(text) | Part::Refusal(text) => {
                for (piece, tokens) in text.pieces() {
                    delta(json!({ "type": "text_delta", "text": piece }), tokens);
                }
            }
            Part::Call(call) => {
                delta(json!({ "type": "input_json_delta", "partial_json": "" }), 0);
                for (piece, tokens) in call.arguments.pieces() {
                    delta(json!({ "type": "input_json_delta", "partial_json": piece }), tokens);
                }
            }
        }
        send("content_block_stop", json!({ "index": index }), 0);
    }
    let (reason, sequence, details) = stop(choice);
    let delta = json!({ "stop_reason": reason, "stop_sequence": sequence, "stop_details": details });
    // Cumulative: the last figures are the whole.
    let usage = usage(&answer.usage, answer.usage.output);
    send("message_delta", json!({ "delta": delta, "usage": usage }), 0);
    send("message_stop", json!({}), 0);
    body
}

/// Returns the parts that become blocks: why the model refuses stands in `stop_details` alone.
fn spoken(choice: &Choice) -> impl Iterator<Item = &Part> {
    choice.parts.iter().filter(|part| !matches!(part, Part::Refusal(_)))
}

/// Writes a message before anything is in it.
fn empty(answer: &Answer<'_>) -> Value {
    json!({
        "id": format!("msg_sim{:016x}", answer.id),
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "stop_details": null,
    })
}

fn tool_use(call: &ToolCall) -> Value {
    json!({ "type": "tool_use", "id": format!("toolu_sim{:016x}", call.id), "name": call.name, "input": {} })
}

/// Returns `stop_reason`, `stop_sequence` and `stop_details`.
fn stop(choice: &Choice) -> (&'static str, Value, Value) {
    let refusal = |category: Value, explanation: &str| json!({ "type": "refusal", "category": category, "explanation": explanation });
    match &choice.finish {
        Finish::Stop => ("end_turn", Value::Null, Value::Null),
        Finish::StopSequence(sequence) => ("stop_sequence", sequence.as_str().into(), Value::Null),
        Finish::Length => ("max_tokens", Value::Null, Value::Null),
        Finish::ToolCalls => ("tool_use", Value::Null, Value::Null),
        Finish::Filtered => {
            ("refusal", Value::Null, refusal(Value::Null, "The answer was stopped by a safety filter."))
        }
        Finish::Refused => {
            let explanation = choice.refusal().unwrap_or_default();
            ("refusal", Value::Null, refusal("general_harms".into(), explanation))
        }
    }
}

/// Writes the usage with some tokens of output; what came from the cache, or went there, is not in `input_tokens`.
fn usage(usage: &Usage, output: u64) -> Value {
    let written = usage.cache_write_5m + usage.cache_write_1h;
    let mut wire = json!({
        "input_tokens": usage.input.saturating_sub(usage.cache_read + written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": output,
        "service_tier": "standard",
    });
    if usage.thinking > 0 && output == usage.output {
        wire["output_tokens_details"] = json!({ "thinking_tokens": usage.thinking });
    }
    wire
}

fn shows_thoughts(request: &Request<'_>) -> bool {
    request.thinking.as_ref().is_some_and(|thinking| thinking.is_shown)
}
