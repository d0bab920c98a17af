//! What Anthropic refuses in a body, in its words.
//!
//! The rules follow <https://platform.claude.com/docs/en/api/messages> and its pages on tools, thinking, structured
//! outputs and versions, and the flags of models in the price table (all read 2026-11-23). Messages are quoted as users of
//! the API report them; the ones about single models are made up.

mod message;
mod schema;

use serde_json::{Map, Value};

use crate::simulate::instance;
use crate::simulate::route::Operation;

/// Fields of a request.
const FIELDS: [&str; 23] = [
    "model",
    "max_tokens",
    "messages",
    "system",
    "stop_sequences",
    "stream",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "metadata",
    "service_tier",
    "speed",
    "inference_geo",
    "container",
    "cache_control",
    "temperature",
    "top_p",
    "top_k",
    "mcp_servers",
    "context_management",
    "diagnostics",
];

/// Fields of `metadata`; the last two are the simulator's own.
const METADATA: [&str; 3] = ["user_id", "gristmill_job", "simulate"];

/// Parameters that choose among tokens.
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];

/// Most marks for the cache in a request.
const MAX_MARKS: usize = 4;

/// Fewest tokens of a budget for thinking.
const MIN_BUDGET: u64 = 1_024;

/// Longest name of a tool.
const MAX_NAME_BYTES: usize = 128;

/// Finds the first thing that is wrong.
pub(super) fn check(operation: Operation, is_without_sampling: bool, body: &Map<String, Value>) -> Result<(), String> {
    let is_call = operation == Operation::Messages;
    fields(is_call, body)?;
    let generation = body.get("model").and_then(Value::as_str).and_then(Generation::of);
    sampling(is_without_sampling, generation, body)?;
    message::check(is_without_sampling, generation, body)?;
    tools(generation, body)?;
    stops(body)?;
    thinking(is_call, generation, body)?;
    output(body)?;
    let marks = body.values().map(marks).sum::<usize>() + usize::from(body.contains_key("cache_control"));
    if marks > MAX_MARKS {
        return Err(format!("A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {marks}."));
    }
    Ok(())
}

/// Which models share what they take, by the numbers in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Generation(u32, u32);

/// Models from here on end a conversation with the user.
const WITHOUT_PREFILL: Generation = Generation(4, 6);

/// Models from here on sample by themselves and decide how long to think.
const WITHOUT_SAMPLING: Generation = Generation(4, 7);

/// Models from here on take system messages between others.
const WITH_SYSTEM_TURNS: Generation = Generation(4, 8);

impl Generation {
    /// Reads the numbers of a name such as `claude-opus-4-6-20260205`, `claude-sonnet-5` or `claude-3-5-haiku-20241022`.
    fn of(model: &str) -> Option<Self> {
        let parts = model.strip_prefix("claude-")?.split('-').filter(|part| part.len() <= 2);
        let mut numbers = parts.filter_map(|part| part.parse().ok());
        let major = numbers.next()?;
        Some(Self(major, numbers.next().unwrap_or(0)))
    }
}

fn fields(is_call: bool, body: &Map<String, Value>) -> Result<(), String> {
    let required: &[&str] = if is_call { &["model", "max_tokens", "messages"] } else { &["model", "messages"] };
    for name in required {
        if body.get(*name).is_none_or(Value::is_null) {
            return Err(format!("{name}: Field required"));
        }
    }
    for name in body.keys() {
        let is_known = FIELDS.contains(&name.as_str());
        if !is_known || (!is_call && matches!(name.as_str(), "max_tokens" | "stream" | "stop_sequences" | "metadata")) {
            return Err(format!("{name}: Extra inputs are not permitted"));
        }
    }
    match body["model"].as_str() {
        None => return Err("model: Input should be a valid string".to_owned()),
        Some("") => return Err("model: String should have at least 1 character".to_owned()),
        Some(_) => {}
    }
    match body.get("max_tokens") {
        Some(max) if max.as_i64().is_some_and(|max| max < 0) => {
            return Err("max_tokens: Input should be greater than or equal to 0".to_owned());
        }
        Some(max) if !max.is_u64() => return Err("max_tokens: Input should be a valid integer".to_owned()),
        _ => {}
    }
    if body.get("stream").is_some_and(|stream| !stream.is_boolean()) {
        return Err("stream: Input should be a valid boolean".to_owned());
    }
    match body.get("metadata") {
        None | Some(Value::Null) => {}
        Some(Value::Object(metadata)) => {
            if let Some(name) = metadata.keys().find(|name| !METADATA.contains(&name.as_str())) {
                return Err(format!("metadata.{name}: Extra inputs are not permitted"));
            }
            if metadata.get("user_id").is_some_and(|id| !id.is_string() && !id.is_null()) {
                return Err("metadata.user_id: Input should be a valid string".to_owned());
            }
        }
        Some(_) => return Err("metadata: Input should be a valid dictionary".to_owned()),
    }
    Ok(())
}

fn sampling(
    is_without_sampling: bool,
    generation: Option<Generation>,
    body: &Map<String, Value>,
) -> Result<(), String> {
    for name in SAMPLING {
        let Some(value) = body.get(name).filter(|value| !value.is_null()) else {
            continue;
        };
        if is_without_sampling {
            return Err(format!("{name}: Extra inputs are not permitted"));
        }
        let Some(number) = value.as_f64() else {
            return Err(format!("{name}: Input should be a valid number"));
        };
        let is_default = number == 1.0 && name != "top_k";
        if !is_default && generation.is_some_and(|generation| generation >= WITHOUT_SAMPLING) {
            return Err(format!("{name}: this model takes its default value only"));
        }
        if name != "top_k" && !(0.0..=1.0).contains(&number) {
            return Err(format!("{name}: range: 0..1"));
        }
    }
    Ok(())
}

fn tools(generation: Option<Generation>, body: &Map<String, Value>) -> Result<(), String> {
    let tools = match body.get("tools") {
        None | Some(Value::Null) => &[],
        Some(Value::Array(tools)) => tools.as_slice(),
        Some(_) => return Err("tools: Input should be a valid list".to_owned()),
    };
    let mut names = Vec::with_capacity(tools.len());
    for (index, tool) in tools.iter().enumerate() {
        let name = tool["name"].as_str();
        match tool["type"].as_str() {
            None | Some("custom") => own_tool(index, tool)?,
            // The provider's own tools carry the date of their version.
            Some(kind) if kind.contains("_20") => {}
            Some(kind) => {
                return Err(format!(
                    "tools.{index}: Input tag '{kind}' found using 'type' does not match any of the expected tags: 'custom', 'bash_20250124', 'web_search_20250305'"
                ));
            }
        }
        if names.contains(&name) {
            return Err("tools: Tool names must be unique.".to_owned());
        }
        names.push(name);
    }
    if tools.is_empty() && uses_tools(body) {
        return Err("Requests which include `tool_use` or `tool_result` blocks must define tools.".to_owned());
    }
    tool_choice(generation, body, &names)
}

/// Checks a tool of the caller's.
fn own_tool(index: usize, tool: &Value) -> Result<(), String> {
    let at = format!("tools.{index}.custom");
    let Some(name) = tool["name"].as_str() else {
        return Err(format!("{at}.name: Field required"));
    };
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_letter) {
        return Err(format!("{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"));
    }
    let at = format!("{at}.input_schema");
    let schema = match &tool["input_schema"] {
        Value::Null => return Err(format!("{at}: Field required")),
        Value::Object(schema) => schema,
        _ => return Err(format!("{at}: Input should be a valid dictionary")),
    };
    match schema.get("type") {
        None => return Err(format!("{at}.type: Field required")),
        Some(kind) if kind != "object" => return Err(format!("{at}.type: Input should be 'object'")),
        Some(_) => {}
    }
    if ["oneOf", "allOf", "anyOf"].iter().any(|keyword| schema.contains_key(*keyword)) {
        return Err(format!("{at}: input_schema does not support oneOf, allOf, or anyOf at the top level"));
    }
    match instance::flaw(&tool["input_schema"]) {
        Some(_) => Err(format!("{at}: JSON schema is invalid. It must match JSON Schema draft 2020-12.")),
        None => Ok(()),
    }
}

fn tool_choice(
    generation: Option<Generation>,
    body: &Map<String, Value>,
    names: &[Option<&str>],
) -> Result<(), String> {
    let Some(choice) = body.get("tool_choice").filter(|choice| !choice.is_null()) else {
        return Ok(());
    };
    if !choice.is_object() {
        return Err("tool_choice: Input should be a valid dictionary or object to extract fields from".to_owned());
    }
    let kind = choice["type"].as_str().unwrap_or_default();
    if !["auto", "any", "tool", "none"].contains(&kind) {
        return Err(format!(
            "tool_choice: Input tag '{kind}' found using 'type' does not match any of the expected tags: 'auto', 'any', 'none', 'tool'"
        ));
    }
    if names.is_empty() {
        return Err("tool_choice may only be specified while providing tools.".to_owned());
    }
    if kind == "tool" {
        match choice["name"].as_str() {
            None => return Err("tool_choice.tool.name: Field required".to_owned()),
            Some(name) if !names.contains(&Some(name)) => {
                return Err(format!("Tool '{name}' not found in provided tools"));
            }
            Some(_) => {}
        }
    }
    if !matches!(kind, "any" | "tool") {
        return Ok(());
    }
    let model = body["model"].as_str().unwrap_or_default();
    // `supports_forced_tool_use` of the price table, 2026-11-23.
    if generation.is_some_and(|generation| generation >= Generation(5, 1)) && !model.contains("haiku") {
        return Err("tool_choice: this model does not support forced tool use".to_owned());
    }
    if is_thinking(body) {
        return Err("Thinking may not be enabled when tool_choice forces tool use.".to_owned());
    }
    Ok(())
}

fn stops(body: &Map<String, Value>) -> Result<(), String> {
    for stop in body.get("stop_sequences").and_then(Value::as_array).into_iter().flatten() {
        match stop.as_str() {
            None => return Err("stop_sequences: Input should be a valid string".to_owned()),
            Some("") => return Err("stop_sequences: each stop sequence must be non-empty".to_owned()),
            Some(stop) if stop.trim().is_empty() => {
                return Err("stop_sequences: each stop sequence must contain non-whitespace".to_owned());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn is_thinking(body: &Map<String, Value>) -> bool {
    body.get("thinking").is_some_and(|thinking| matches!(thinking["type"].as_str(), Some("enabled" | "adaptive")))
}

fn thinking(is_call: bool, generation: Option<Generation>, body: &Map<String, Value>) -> Result<(), String> {
    let Some(thinking) = body.get("thinking").filter(|thinking| !thinking.is_null()) else {
        return Ok(());
    };
    match thinking["type"].as_str() {
        Some("enabled") => {
            if generation.is_some_and(|generation| generation >= WITHOUT_SAMPLING) {
                return Err("thinking.type: this model takes 'adaptive' only".to_owned());
            }
            let Some(budget) = thinking["budget_tokens"].as_u64() else {
                return Err("thinking.enabled.budget_tokens: Field required".to_owned());
            };
            if budget < MIN_BUDGET {
                return Err(format!(
                    "thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_BUDGET}"
                ));
            }
            if is_call && body["max_tokens"].as_u64().is_some_and(|max| max <= budget) {
                return Err("`max_tokens` must be greater than `thinking.budget_tokens`.".to_owned());
            }
        }
        Some("adaptive") => {
            if generation.is_some_and(|generation| generation < WITHOUT_PREFILL) {
                return Err("thinking.type: this model does not take 'adaptive'".to_owned());
            }
        }
        Some("disabled" | "between_tools") => return Ok(()),
        kind => {
            return Err(format!(
                "thinking: Input tag '{}' found using 'type' does not match any of the expected tags: 'adaptive', 'between_tools', 'disabled', 'enabled'",
                kind.unwrap_or_default()
            ));
        }
    }
    match body.get("temperature").and_then(Value::as_f64) {
        Some(temperature) if temperature != 1.0 => {
            Err("`temperature` may only be set to 1 when thinking is enabled.".to_owned())
        }
        _ => Ok(()),
    }
}

fn output(body: &Map<String, Value>) -> Result<(), String> {
    let config = body.get("output_config").unwrap_or(&Value::Null);
    if let Some(effort) = config["effort"].as_str()
        && !["low", "medium", "high", "xhigh", "max"].contains(&effort)
    {
        return Err("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'".to_owned());
    }
    let old = body.get("output_format").unwrap_or(&Value::Null);
    for (at, format) in [("output_config.format", &config["format"]), ("output_format", old)] {
        if format.is_null() {
            continue;
        }
        if format["type"] != "json_schema" {
            return Err(format!("{at}.type: Input should be 'json_schema'"));
        }
        if format["schema"].is_null() {
            return Err(format!("{at}.schema: Field required"));
        }
        schema::check(&format!("{at}.schema"), &format["schema"])?;
    }
    Ok(())
}

/// Tells whether any message calls a tool or brings what one returned.
fn uses_tools(body: &Map<String, Value>) -> bool {
    let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
    let mut blocks = messages.flat_map(|message| message["content"].as_array().into_iter().flatten());
    blocks.any(|block| matches!(block["type"].as_str(), Some("tool_use" | "tool_result")))
}

/// Counts the marks for the cache.
fn marks(value: &Value) -> usize {
    match value {
        Value::Object(map) => {
            let own = usize::from(map.get("cache_control").is_some_and(|mark| !mark.is_null()));
            own + map
                .iter()
                .filter(|(name, _)| *name != "input" && *name != "input_schema")
                .map(|(_, value)| marks(value))
                .sum::<usize>()
        }
        Value::Array(items) => items.iter().map(marks).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
