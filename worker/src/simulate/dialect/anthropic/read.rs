//! Reading the bodies of the Messages API.
//!
//! Owns the prompt's size, its last user text and what of it is to be cached. What is wrong with a body is found in
//! `check`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::check;
use crate::simulate::answer::CHARS_PER_TOKEN;
use crate::simulate::prompt::Prompt;
use crate::simulate::request::{Cached, Form, Malformed, Request, Tags, Thinking, Tool, ToolChoice};
use crate::simulate::route::Operation;

/// Reads a body.
pub(super) fn read(
    operation: Operation,
    is_without_sampling: bool,
    body: &[u8],
) -> Result<Request<'static>, Malformed> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|cause| Malformed::new(format!("The request body is not valid JSON: {cause}")))?;
    let Value::Object(body) = body else {
        return Err(Malformed::new("Input should be a valid dictionary"));
    };
    let wrong = check::check(operation, is_without_sampling, &body).err().map(Malformed::new);
    let walk = Walk::over(&body);
    let text = |value: &Value| value.as_str().map(|text| Cow::Owned(text.to_owned()));
    let field = |name: &str| body.get(name).unwrap_or(&Value::Null);
    let metadata = field("metadata");
    let tool_choice = field("tool_choice");
    let stops = field("stop_sequences").as_array().into_iter().flatten();
    Ok(Request {
        model: text(field("model")).unwrap_or_default(),
        tags: Tags {
            job: text(&metadata["gristmill_job"]),
            script: text(&metadata["simulate"]),
            user: text(&metadata["user_id"]),
        },
        max_tokens: field("max_tokens").as_u64(),
        choices: 1,
        stream: *field("stream") == true,
        stream_usage: true,
        form: form(&body),
        tools: tools(field("tools")),
        tool_choice: match (tool_choice["type"].as_str(), tool_choice["name"].as_str()) {
            (Some("any"), _) => ToolChoice::Required,
            (Some("tool"), Some(name)) => ToolChoice::Named(name.to_owned()),
            (Some("none"), _) => ToolChoice::None,
            _ => ToolChoice::Auto,
        },
        parallel_calls: tool_choice["disable_parallel_tool_use"] != true,
        stop: stops.filter_map(Value::as_str).map(str::to_owned).collect(),
        thinking: thinking(field("thinking")),
        cached: walk.cached(),
        prompt: walk.prompt,
        dimensions: None,
        as_base64: false,
        wrong,
    })
}

fn form(body: &Map<String, Value>) -> Form {
    // The older name of the field is what beta clients still send.
    let format = body.get("output_config").map(|config| &config["format"]).filter(|format| !format.is_null());
    match format.or_else(|| body.get("output_format")).map(|format| &format["schema"]) {
        Some(schema) if !schema.is_null() => Form::Schema(schema.clone()),
        _ => Form::Text,
    }
}

/// Reads the functions of the caller; tools of the provider's own are never called here.
fn tools(tools: &Value) -> Vec<Tool> {
    let tools = tools.as_array().into_iter().flatten();
    let own = tools.filter(|tool| tool["type"].as_str().is_none_or(|kind| kind == "custom"));
    own.filter_map(|tool| Some(Tool { name: tool["name"].as_str()?.to_owned(), schema: tool["input_schema"].clone() }))
        .collect()
}

fn thinking(thinking: &Value) -> Option<Thinking> {
    match thinking["type"].as_str()? {
        "enabled" => {
            Some(Thinking { budget: thinking["budget_tokens"].as_u64(), is_shown: thinking["display"] != "omitted" })
        }
        "adaptive" => Some(Thinking { budget: None, is_shown: thinking["display"] != "omitted" }),
        _ => None,
    }
}

/// A walk over the system prompt and the messages, in the order in which they are cached.
#[derive(Debug, Default)]
struct Walk {
    prompt: Prompt<'static>,
    /// Characters up to the last place that is marked for the cache.
    cached_chars: u64,
    is_for_an_hour: bool,
}

impl Walk {
    fn over(body: &Map<String, Value>) -> Self {
        let mut walk = Self::default();
        if let Some(system) = body.get("system") {
            walk.text_of(system);
        }
        for message in body.get("messages").and_then(Value::as_array).into_iter().flatten() {
            walk.prompt.items += 1;
            walk.message(message);
        }
        if let Some(mark) = body.get("cache_control") {
            walk.mark(mark);
        }
        walk
    }

    fn message(&mut self, message: &Value) {
        let said = self.text_of(&message["content"]);
        let last = message["content"].as_array().and_then(|blocks| blocks.last());
        self.prompt.ends_with_result = last.is_some_and(|block| block["type"] == "tool_result");
        if message["role"] == "user" && !said.is_empty() {
            self.prompt.last = Cow::Owned(said);
        }
    }

    /// Counts a content and returns the text in it that is not a function's.
    fn text_of(&mut self, content: &Value) -> String {
        if let Some(text) = content.as_str() {
            self.count(text);
            return text.to_owned();
        }
        let mut said = String::new();
        for block in content.as_array().into_iter().flatten() {
            if let Some(text) = block["text"].as_str() {
                self.count(text);
                said.push_str(text);
            }
            match block["type"].as_str() {
                Some("tool_result") => {
                    self.text_of(&block["content"]);
                }
                Some("document") => {
                    if let Some(text) = block["source"]["data"].as_str().filter(|_| block["source"]["type"] == "text") {
                        self.count(text);
                    }
                }
                _ => {}
            }
            self.mark(&block["cache_control"]);
        }
        said
    }

    fn count(&mut self, text: &str) {
        self.prompt.chars += text.chars().count() as u64;
    }

    fn mark(&mut self, mark: &Value) {
        if mark["type"] == "ephemeral" {
            self.cached_chars = self.prompt.chars;
            self.is_for_an_hour = mark["ttl"] == "1h";
        }
    }

    fn cached(&self) -> Cached {
        Cached { tokens: self.cached_chars.div_ceil(CHARS_PER_TOKEN), is_for_an_hour: self.is_for_an_hour }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value) -> Request<'static> {
        super::read(Operation::Messages, false, body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_prompt_is_what_a_user_said_last() {
        let table = [
            (json!({ "messages": [{ "role": "user", "content": "hi" }] }), "hi", 2, false),
            (
                json!({ "system": "Be brief", "messages": [{ "role": "user", "content": [
                    { "type": "text", "text": "look " },
                    { "type": "image", "source": { "type": "url", "url": "https://example.com/a.png" } },
                    { "type": "text", "text": "here" },
                ] }] }),
                "look here",
                17,
                false,
            ),
            (
                json!({ "messages": [
                    { "role": "user", "content": "ask" },
                    { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "f", "input": {} }] },
                    { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": [
                        { "type": "text", "text": "42" },
                    ] }] },
                ] }),
                "ask",
                5,
                true,
            ),
        ];
        for (body, last, chars, ends_with_result) in table {
            let prompt = read(&body).prompt;
            assert_eq!((prompt.last.as_ref(), prompt.chars), (last, chars), "{body}");
            assert_eq!(prompt.ends_with_result, ends_with_result, "{body}");
        }
    }

    #[test]
    fn the_marker_is_the_job_then_the_user_then_the_prompt() {
        let message = json!([{ "role": "user", "content": "hi simulate:500" }]);
        for (metadata, marker, script) in [
            (json!({ "gristmill_job": "j", "user_id": "u", "simulate": "429" }), "j", "429"),
            (json!({ "user_id": "u" }), "u", "500"),
            (Value::Null, "hi simulate:500", "500"),
        ] {
            let request = read(&json!({ "metadata": metadata, "messages": message }));
            assert_eq!((request.marker(), request.script()), (marker, Some(script)));
        }
    }

    #[test]
    fn what_is_cached_ends_at_the_last_mark() {
        let mark = json!({ "type": "ephemeral", "ttl": "1h" });
        let body = json!({
            "system": [{ "type": "text", "text": "12345678", "cache_control": mark }],
            "messages": [{ "role": "user", "content": "1234" }],
        });
        assert_eq!(read(&body).cached, Cached { tokens: 2, is_for_an_hour: true });
        let mut whole = body;
        whole["cache_control"] = json!({ "type": "ephemeral" });
        assert_eq!(read(&whole).cached, Cached { tokens: 3, is_for_an_hour: false });
        assert_eq!(read(&json!({ "messages": [] })).cached, Cached::default());
    }

    #[test]
    fn forms_functions_and_thoughts_are_read() {
        let schema = json!({ "type": "object" });
        let request = read(&json!({
            "output_config": { "format": { "type": "json_schema", "schema": schema } },
            "tools": [{ "name": "f", "input_schema": schema }, { "type": "web_search_20250305", "name": "web_search" }],
            "tool_choice": { "type": "tool", "name": "f", "disable_parallel_tool_use": true },
            "thinking": { "type": "enabled", "budget_tokens": 2000 },
            "stop_sequences": ["END"],
        }));
        assert_eq!(request.form, Form::Schema(schema.clone()));
        assert_eq!(request.tools, [Tool { name: "f".to_owned(), schema: schema.clone() }]);
        assert_eq!((request.tool_choice, request.parallel_calls), (ToolChoice::Named("f".to_owned()), false));
        assert_eq!(request.thinking, Some(Thinking { budget: Some(2_000), is_shown: true }));
        assert_eq!(request.stop, ["END"]);
        assert_eq!(read(&json!({ "output_format": { "schema": schema } })).form, Form::Schema(schema));
        assert_eq!(read(&json!({ "thinking": { "type": "disabled" } })).thinking, None);
    }
}
