//! Wording the answers of the Responses API: whole, and as named events with sequence numbers.
//!
//! The order of events follows the `openai` package 3.54.0, `types/responses/*event.py` (read 2026-11-23).

use serde_json::{Value, json};

use super::error::ErrorObject;
use super::render::call_id;
use crate::simulate::answer::{Answer, Choice, Finish, Part};
use crate::simulate::body::Body;
use crate::simulate::request::{Form, Request, ToolChoice};

/// The codes with which a response itself can fail; other errors come as an event of their own
/// (`types/responses/response_error.py`).
const FAILURES: [&str; 3] = ["server_error", "rate_limit_exceeded", "invalid_prompt"];

/// Words a whole answer.
pub(super) fn whole(request: &Request<'_>, answer: &Answer<'_>) -> Body {
    Body::json(&finished(request, answer))
}

/// Words an answer as events.
pub(super) fn stream(request: &Request<'_>, answer: &Answer<'_>) -> Body {
    let mut events = Events { body: Body::stream(), sequence: 0 };
    let begun = json!({ "response": response(request, answer, "in_progress") });
    events.send("response.created", begun.clone(), 0);
    events.send("response.in_progress", begun, 0);
    let Some(choice) = answer.choices().first() else {
        return events.body;
    };
    for (index, part) in choice.parts.iter().enumerate() {
        let place = Place { index, id: item_id(answer, index, part) };
        events.send(
            "response.output_item.added",
            json!({ "output_index": index, "item": empty_item(&place, part) }),
            0,
        );
        events.content(&place, part, request);
        let item = item(&place, part, choice, request);
        events.send("response.output_item.done", json!({ "output_index": index, "item": item }), 0);
    }
    let status = status(choice);
    let last = finished(request, answer);
    events.send(
        if status == "completed" { "response.completed" } else { "response.incomplete" },
        json!({ "response": last }),
        0,
    );
    events.body
}

/// Words an error after status 200: a response that failed, or an `error` event as event number `sent` of a stream.
pub(super) fn failed(
    request: &Request<'_>,
    answer: &Answer<'_>,
    status: u16,
    error: &ErrorObject,
    sent: usize,
) -> Vec<u8> {
    let usual = match status {
        400..429 => "invalid_prompt",
        429 => "rate_limit_exceeded",
        503 => "server_is_overloaded",
        _ => "server_error",
    };
    let code = error.code.as_deref().filter(|_| status != 400).unwrap_or(usual);
    let mut response = response(request, answer, "failed");
    response["error"] = json!({ "code": code, "message": error.message });
    if !request.stream {
        return Body::json(&response).bytes;
    }
    let mut events = Events { body: Body::stream(), sequence: sent };
    if FAILURES.contains(&code) {
        events.send("response.failed", json!({ "response": response }), 0);
    } else {
        events.send("error", json!({ "code": code, "message": error.message, "param": error.param }), 0);
    }
    events.body.bytes
}

/// Where an item of the output stands.
struct Place {
    index: usize,
    id: String,
}

/// The stream so far.
struct Events {
    body: Body,
    sequence: usize,
}

impl Events {
    fn send(&mut self, kind: &str, mut event: Value, tokens: u64) {
        event["type"] = kind.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        self.body.event(kind, &event, tokens);
    }

    /// Sends what an item is made of, piece by piece.
    fn content(&mut self, place: &Place, part: &Part, request: &Request<'_>) {
        let Place { index, id } = place;
        let at = |name: &str, number: usize, mut event: Value| {
            event["item_id"] = id.as_str().into();
            event["output_index"] = (*index).into();
            if !name.is_empty() {
                event[name] = number.into();
            }
            event
        };
        match part {
            Part::Thinking(_) if !shows_thoughts(request) => {}
            Part::Thinking(text) => {
                const KIND: &str = "summary_index";
                let part = |text: &str| json!({ "part": { "type": "summary_text", "text": text } });
                self.send("response.reasoning_summary_part.added", at(KIND, 0, part("")), 0);
                for (piece, tokens) in text.pieces() {
                    self.send("response.reasoning_summary_text.delta", at(KIND, 0, json!({ "delta": piece })), tokens);
                }
                self.send("response.reasoning_summary_text.done", at(KIND, 0, json!({ "text": text.text })), 0);
                self.send("response.reasoning_summary_part.done", at(KIND, 0, part(&text.text)), 0);
            }
            Part::Text(text) => {
                const KIND: &str = "content_index";
                let part = |text: &str| json!({ "part": output_text(text) });
                self.send("response.content_part.added", at(KIND, 0, part("")), 0);
                for (piece, tokens) in text.pieces() {
                    let event = json!({ "delta": piece, "logprobs": [] });
                    self.send("response.output_text.delta", at(KIND, 0, event), tokens);
                }
                let done = json!({ "text": text.text, "logprobs": [] });
                self.send("response.output_text.done", at(KIND, 0, done), 0);
                self.send("response.content_part.done", at(KIND, 0, part(&text.text)), 0);
            }
            Part::Refusal(text) => {
                const KIND: &str = "content_index";
                let part = |text: &str| json!({ "part": { "type": "refusal", "refusal": text } });
                self.send("response.content_part.added", at(KIND, 0, part("")), 0);
                for (piece, tokens) in text.pieces() {
                    self.send("response.refusal.delta", at(KIND, 0, json!({ "delta": piece })), tokens);
                }
                self.send("response.refusal.done", at(KIND, 0, json!({ "refusal": text.text })), 0);
                self.send("response.content_part.done", at(KIND, 0, part(&text.text)), 0);
            }
            Part::Call(call) => {
                for (piece, tokens) in call.arguments.pieces() {
                    let event = at("", 0, json!({ "delta": piece }));
                    self.send("response.function_call_arguments.delta", event, tokens);
                }
                let done = json!({ "arguments": call.arguments.text, "name": call.name });
                self.send("response.function_call_arguments.done", at("", 0, done), 0);
            }
        }
    }
}

/// Writes a response without output and usage.
fn response(request: &Request<'_>, answer: &Answer<'_>, status: &str) -> Value {
    let format = match &request.form {
        Form::Text => json!({ "type": "text" }),
        Form::Object => json!({ "type": "json_object" }),
        Form::Schema(schema) => json!({ "type": "json_schema", "name": "schema", "schema": schema, "strict": true }),
    };
    let tools = request.tools.iter().map(|tool| {
        json!({ "type": "function", "name": tool.name, "parameters": tool.schema, "strict": true, "description": null })
    });
    let tool_choice = match &request.tool_choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({ "type": "function", "name": name }),
    };
    json!({
        "id": format!("resp_sim{:016x}", answer.id),
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "error": null,
        "incomplete_details": null,
        "instructions": null,
        "metadata": {},
        "model": answer.model,
        "output": [],
        "parallel_tool_calls": request.parallel_calls,
        "temperature": 1.0,
        "tool_choice": tool_choice,
        "tools": tools.collect::<Vec<_>>(),
        "top_p": 1.0,
        "max_output_tokens": request.max_tokens,
        "previous_response_id": null,
        "reasoning": { "effort": null, "summary": null },
        "service_tier": "default",
        "store": false,
        "text": { "format": format },
        "truncation": "disabled",
        "usage": null,
    })
}

/// Writes a response that ended.
fn finished(request: &Request<'_>, answer: &Answer<'_>) -> Value {
    let Some(choice) = answer.choices().first() else {
        return response(request, answer, "completed");
    };
    let mut response = response(request, answer, status(choice));
    response["incomplete_details"] = match choice.finish {
        Finish::Length => json!({ "reason": "max_output_tokens" }),
        Finish::Filtered => json!({ "reason": "content_filter" }),
        _ => Value::Null,
    };
    let items = choice.parts.iter().enumerate().map(|(index, part)| {
        let place = Place { index, id: item_id(answer, index, part) };
        item(&place, part, choice, request)
    });
    response["output"] = items.collect();
    let usage = &answer.usage;
    response["usage"] = json!({
        "input_tokens": usage.input,
        "input_tokens_details": { "cached_tokens": usage.cache_read, "cache_write_tokens": 0 },
        "output_tokens": usage.output,
        "output_tokens_details": { "reasoning_tokens": usage.thinking },
        "total_tokens": usage.input + usage.output,
    });
    response
}

/// Writes an item of the output.
fn item(place: &Place, part: &Part, choice: &Choice, request: &Request<'_>) -> Value {
    let mut item = empty_item(place, part);
    match part {
        Part::Thinking(text) => {
            if shows_thoughts(request) {
                item["summary"] = json!([{ "type": "summary_text", "text": text.text }]);
            }
            return item;
        }
        Part::Text(text) => item["content"] = json!([output_text(&text.text)]),
        Part::Refusal(text) => item["content"] = json!([{ "type": "refusal", "refusal": text.text }]),
        Part::Call(call) => item["arguments"] = call.arguments.text.as_str().into(),
    }
    item["status"] = status(choice).into();
    item
}

/// Writes an item before anything is in it.
fn empty_item(place: &Place, part: &Part) -> Value {
    let id = &place.id;
    match part {
        Part::Thinking(_) => json!({ "id": id, "type": "reasoning", "summary": [] }),
        Part::Text(_) | Part::Refusal(_) => {
            json!({ "id": id, "type": "message", "role": "assistant", "status": "in_progress", "content": [] })
        }
        Part::Call(call) => json!({
            "id": id, "type": "function_call", "call_id": call_id(call.id), "name": call.name, "arguments": "",
            "status": "in_progress",
        }),
    }
}

fn item_id(answer: &Answer<'_>, index: usize, part: &Part) -> String {
    let prefix = match part {
        Part::Thinking(_) => "rs",
        Part::Text(_) | Part::Refusal(_) => "msg",
        Part::Call(_) => "fc",
    };
    format!("{prefix}_sim{:016x}", answer.part_id(index as u64))
}

fn output_text(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

fn shows_thoughts(request: &Request<'_>) -> bool {
    request.thinking.as_ref().is_some_and(|thinking| thinking.is_shown)
}

fn status(choice: &Choice) -> &'static str {
    match choice.finish {
        Finish::Length | Finish::Filtered => "incomplete",
        _ => "completed",
    }
}
