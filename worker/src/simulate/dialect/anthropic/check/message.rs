//! The system prompt and the messages: roles, blocks, and tool results in their places.

use serde_json::{Map, Value};

use super::{Generation, WITH_SYSTEM_TURNS, WITHOUT_PREFILL};
use crate::simulate::image::{self, Flaw};

/// Blocks that are taken as they are, beside those that are looked into.
const OTHER_BLOCKS: [&str; 11] = [
    "document",
    "thinking",
    "redacted_thinking",
    "search_result",
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "container_upload",
    "mcp_tool_use",
    "mcp_tool_result",
];

/// Finds the first thing that is wrong.
pub(super) fn check(
    is_without_sampling: bool,
    generation: Option<Generation>,
    body: &Map<String, Value>,
) -> Result<(), String> {
    system(body.get("system").unwrap_or(&Value::Null))?;
    let Some(messages) = body["messages"].as_array() else {
        return Err("messages: Input should be a valid list".to_owned());
    };
    if messages.is_empty() {
        return Err("messages: at least one message is required".to_owned());
    }
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let role = role(index, message, generation)?;
        if turns.last().is_none_or(|turn| turn.role != role) {
            turns.push(Turn { role, first: index, uses: Vec::new(), results: Vec::new(), has_spoken: false });
        }
        let is_last = index + 1 == messages.len();
        if let Some(turn) = turns.last_mut() {
            content(index, message, is_last, is_without_sampling, turn)?;
        }
    }
    pairs(&turns)?;
    let ends_with_model = messages.last().is_some_and(|message| message["role"] == "assistant");
    if ends_with_model && generation.is_some_and(|generation| generation >= WITHOUT_PREFILL) {
        return Err(
            "This model does not support assistant message prefill. The conversation must end with a user message."
                .to_owned(),
        );
    }
    Ok(())
}

/// Messages of one role in a row, which count as one.
struct Turn<'a> {
    role: &'a str,
    /// The index of its first message.
    first: usize,
    /// Ids of calls.
    uses: Vec<&'a str>,
    /// What calls returned: the place and the id.
    results: Vec<(String, &'a str)>,
    /// Whether anything but results has come; results after that do not count.
    has_spoken: bool,
}

fn system(system: &Value) -> Result<(), String> {
    match system {
        Value::Null | Value::String(_) => Ok(()),
        Value::Array(blocks) => {
            for (index, block) in blocks.iter().enumerate() {
                if block["type"] != "text" {
                    return Err(format!("system.{index}.type: Input should be 'text'"));
                }
                text("system", &format!("system.{index}"), block)?;
            }
            Ok(())
        }
        _ => Err("system: Input should be a valid string or list".to_owned()),
    }
}

fn role(index: usize, message: &Value, generation: Option<Generation>) -> Result<&str, String> {
    let Some(fields) = message.as_object() else {
        return Err(format!("messages.{index}: Input should be a valid dictionary or object to extract fields from"));
    };
    if let Some(name) = fields.keys().find(|name| !matches!(name.as_str(), "role" | "content")) {
        return Err(format!("messages.{index}.{name}: Extra inputs are not permitted"));
    }
    match message["role"].as_str() {
        None => Err(format!("messages.{index}.role: Field required")),
        Some(role @ ("user" | "assistant")) => Ok(role),
        Some(role @ "system") if index > 0 && generation.is_none_or(|generation| generation >= WITH_SYSTEM_TURNS) => {
            Ok(role)
        }
        Some("system") => Err("messages: Unexpected role \"system\". The Messages API accepts a top-level `system` parameter, not \"system\" as an input message role.".to_owned()),
        Some(role) => Err(format!("messages: Unexpected role \"{role}\". Allowed roles are \"user\" or \"assistant\"")),
    }
}

fn content<'a>(
    index: usize,
    message: &'a Value,
    is_last: bool,
    is_without_sampling: bool,
    turn: &mut Turn<'a>,
) -> Result<(), String> {
    let is_model = turn.role == "assistant";
    let empty = || {
        Err(format!(
            "messages.{index}: all messages must have non-empty content except for the optional final assistant message"
        ))
    };
    let blocks = match &message["content"] {
        Value::Null => return Err(format!("messages.{index}.content: Field required")),
        Value::String(text) if text.is_empty() => return if is_last && is_model { Ok(()) } else { empty() },
        Value::String(text) if text.trim().is_empty() => {
            return Err("messages: text content blocks must contain non-whitespace text".to_owned());
        }
        Value::String(text) if is_last && is_model && text.ends_with(char::is_whitespace) => return Err(trailing()),
        Value::String(_) => {
            turn.has_spoken = true;
            return Ok(());
        }
        Value::Array(blocks) if blocks.is_empty() => return if is_last && is_model { Ok(()) } else { empty() },
        Value::Array(blocks) => blocks,
        _ => return Err(format!("messages.{index}.content: Input should be a valid string or list")),
    };
    for (number, block) in blocks.iter().enumerate() {
        let at = format!("messages.{index}.content.{number}");
        let kind = block["type"].as_str().unwrap_or_default();
        match kind {
            "text" => {
                text("messages", &at, block)?;
                let has_citations = block["citations"].as_array().is_some_and(|citations| !citations.is_empty());
                if is_without_sampling && !is_model && has_citations {
                    return Err(format!("{at}.text.citations: Extra inputs are not permitted"));
                }
            }
            "image" => image(&at, &block["source"])?,
            "tool_use" if !is_model => {
                return Err(format!("messages.{index}: `tool_use` blocks can only be in `assistant` messages"));
            }
            "tool_use" => turn.uses.push(tool_use(&at, block)?),
            "tool_result" if turn.role != "user" => {
                return Err(format!("messages.{index}: `tool_result` blocks can only be in `user` messages"));
            }
            "tool_result" => {
                let Some(id) = block["tool_use_id"].as_str() else {
                    return Err(format!("{at}.tool_result.tool_use_id: Field required"));
                };
                if !turn.has_spoken {
                    turn.results.push((at.clone(), id));
                }
                tool_result(&at, &block["content"])?;
            }
            "document" if is_without_sampling && is_model => {
                return Err(format!("{at}: `document` blocks can not be in `assistant` messages"));
            }
            other if OTHER_BLOCKS.contains(&other) => {}
            other => {
                return Err(format!(
                    "{at}: Input tag '{other}' found using 'type' does not match any of the expected tags: 'document', 'image', 'redacted_thinking', 'search_result', 'text', 'thinking', 'tool_result', 'tool_use'"
                ));
            }
        }
        turn.has_spoken |= kind != "tool_result";
    }
    let last = blocks.last().and_then(|block| block["text"].as_str());
    if is_last && is_model && last.is_some_and(|text| text.ends_with(char::is_whitespace)) {
        return Err(trailing());
    }
    Ok(())
}

fn trailing() -> String {
    "messages: final assistant content cannot end with trailing whitespace".to_owned()
}

fn text(whose: &str, at: &str, block: &Value) -> Result<(), String> {
    match block["text"].as_str() {
        None => Err(format!("{at}.text.text: Field required")),
        Some("") => Err(format!("{whose}: text content blocks must be non-empty")),
        Some(text) if text.trim().is_empty() => {
            Err(format!("{whose}: text content blocks must contain non-whitespace text"))
        }
        Some(_) => Ok(()),
    }
}

fn image(at: &str, source: &Value) -> Result<(), String> {
    let at = format!("{at}.image.source");
    let required = |name: &str| match source[name].as_str() {
        Some(value) => Ok(value),
        None => Err(format!("{at}.{}.{name}: Field required", source["type"].as_str().unwrap_or_default())),
    };
    match source["type"].as_str() {
        Some("base64") => match image::look(required("media_type")?, required("data")?) {
            Ok(()) => Ok(()),
            Err(Flaw::MediaType) => Err(format!(
                "{at}.base64.media_type: Input should be 'image/jpeg', 'image/png', 'image/gif' or 'image/webp'"
            )),
            Err(Flaw::Content) => Err("Could not process image".to_owned()),
        },
        Some("url") => match required("url")? {
            url if url.starts_with("https://") || url.starts_with("http://") => Ok(()),
            _ => Err(format!("{at}.url.url: Only HTTPS URLs are supported.")),
        },
        Some("file") => required("file_id").map(|_| ()),
        kind => Err(format!(
            "{at}: Input tag '{}' found using 'type' does not match any of the expected tags: 'base64', 'file', 'url'",
            kind.unwrap_or_default()
        )),
    }
}

fn tool_use<'a>(at: &str, block: &'a Value) -> Result<&'a str, String> {
    for name in ["id", "name"] {
        if !block[name].is_string() {
            return Err(format!("{at}.tool_use.{name}: Field required"));
        }
    }
    if !block["input"].is_object() {
        return Err(format!("{at}.tool_use.input: Input should be a valid dictionary"));
    }
    Ok(block["id"].as_str().unwrap_or_default())
}

fn tool_result(at: &str, content: &Value) -> Result<(), String> {
    for (number, block) in content.as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}.tool_result.content.{number}");
        match block["type"].as_str() {
            Some("text") if block["text"].is_string() => {}
            Some("text") => return Err(format!("{at}.text.text: Field required")),
            Some("image") => image(&at, &block["source"])?,
            Some("document" | "search_result" | "tool_reference") => {}
            kind => {
                return Err(format!(
                    "{at}: Input tag '{}' found using 'type' does not match any of the expected tags: 'document', 'image', 'search_result', 'text'",
                    kind.unwrap_or_default()
                ));
            }
        }
    }
    Ok(())
}

/// Checks that what calls returned stands right after them, and nowhere else.
fn pairs(turns: &[Turn<'_>]) -> Result<(), String> {
    // System messages stand between turns without parting them.
    let turns: Vec<_> = turns.iter().filter(|turn| turn.role != "system").collect();
    for (index, turn) in turns.iter().enumerate() {
        let before = index.checked_sub(1).map_or(&[][..], |before| turns[before].uses.as_slice());
        if let Some((at, id)) = turn.results.iter().find(|(_, id)| !before.contains(id)) {
            return Err(format!(
                "{at}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            ));
        }
        let results = turns.get(index + 1).map_or(&[][..], |after| after.results.as_slice());
        let open = turn.uses.iter().copied().filter(|id| results.iter().all(|(_, result)| result != id));
        let open: Vec<&str> = open.collect();
        if !open.is_empty() {
            return Err(format!(
                "messages.{}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
                turn.first,
                open.join(", ")
            ));
        }
    }
    Ok(())
}
