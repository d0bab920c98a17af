//! The turns of a conversation: OpenAI's messages, sorted into what Anthropic takes.
//!
//! Anthropic has a `system` apart from the messages, wants the results of tools together at the head of the turn behind the
//! calls, and refuses texts that are empty: <https://platform.claude.com/docs/en/api/messages/create>, read 2026-08-22.

use std::borrow::Cow;

use super::CONTENT;
use super::json::{Json, Object};
use super::model::Model;
use super::part::{self, Place};
use super::refusal::Refusal;
use super::tool::Names;

/// What a user's turn says that says nothing.
const EMPTY: &str = "(empty message)";

/// What stands before an instruction that cannot stay a system message, in the words of LiteLLM 1.109.1.
const NOTE: &str = "Operator note (not from the user): ";

/// A conversation as Anthropic takes it.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    /// The blocks of the instructions at its head.
    pub(super) system: Vec<Json<'a>>,
    /// At least one.
    pub(super) messages: Vec<Json<'a>>,
    /// Whether tools are called or answer in it.
    pub(super) has_tools: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    System,
    User,
    Assistant,
}

#[derive(Debug)]
struct Turn<'a> {
    role: Role,
    /// What tools answered; it stands before the rest.
    results: Vec<Json<'a>>,
    blocks: Vec<Json<'a>>,
}

/// Reads the `messages` of a request.
pub(super) fn read<'a>(
    messages: Option<Json<'a>>,
    model: &Model,
    names: &mut Names,
) -> Result<Conversation<'a>, Refusal> {
    let Some(Json::List(messages)) = messages else {
        return Err(Refusal::bad("messages", "is not a list of messages"));
    };
    let mut system = Vec::new();
    let mut turns = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let turn = turn(index, message, names)?;
        match turn.role {
            Role::System if turns.is_empty() => system.extend(turn.blocks),
            // Only a user may say nothing.
            Role::System | Role::Assistant if turn.blocks.is_empty() => {}
            _ => turns.push(turn),
        }
    }
    let mut turns = merged(turns, model);
    if let Some(last) = turns.last_mut().filter(|turn| turn.role == Role::Assistant) {
        trim_end(&mut last.blocks);
    }
    turns.pop_if(|turn| turn.role == Role::Assistant && turn.blocks.is_empty());
    if turns.is_empty() {
        let what = if system.is_empty() {
            "has no message that says anything"
        } else {
            "has only system messages, and Anthropic answers a user; give what is to be answered as a message of role user"
        };
        return Err(Refusal::bad("messages", what));
    }
    let has_tools = turns.iter().any(Turn::has_tools);
    Ok(Conversation { system, messages: turns.into_iter().map(Turn::into_message).collect(), has_tools })
}

impl<'a> Turn<'a> {
    const fn new(role: Role, blocks: Vec<Json<'a>>) -> Self {
        Self { role, results: Vec::new(), blocks }
    }

    fn has_tools(&self) -> bool {
        let is_tool = |block: &Json<'_>| {
            let kind = block.as_object().and_then(|block| block.text("type"));
            matches!(kind, Some("tool_use" | "tool_result"))
        };
        !self.results.is_empty() || self.blocks.iter().any(is_tool)
    }

    fn into_message(self) -> Json<'a> {
        let role = match self.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let mut content = self.results;
        content.extend(self.blocks);
        if content.is_empty() {
            content.push(Object::of("text").with("text", EMPTY).into());
        }
        Object::new().with("role", role).with("content", content).into()
    }
}

/// Puts turns of one role together, and instructions behind the first turn where they may stand.
///
/// A `system` message must follow a user's turn and precede an assistant's, or end the conversation; any other becomes text
/// of the user's turn beside it, marked as what it is. Moving it to the head would void the cached prompt.
fn merged<'a>(turns: Vec<Turn<'a>>, model: &Model) -> Vec<Turn<'a>> {
    let mut next = None;
    let mut followers: Vec<Option<Role>> =
        turns.iter().rev().map(|turn| if turn.role == Role::System { next } else { next.replace(turn.role) }).collect();
    followers.reverse();
    let mut merged: Vec<Turn<'a>> = Vec::with_capacity(turns.len());
    let mut before = None;
    for (mut turn, next) in turns.into_iter().zip(followers) {
        if turn.role != Role::System {
            before = Some(turn.role);
        } else if !model.mid_system || before != Some(Role::User) || next == Some(Role::User) {
            turn.role = Role::User;
            turn.blocks.iter_mut().for_each(note);
        }
        match merged.last_mut().filter(|last| last.role == turn.role) {
            Some(last) => {
                last.results.append(&mut turn.results);
                last.blocks.append(&mut turn.blocks);
            }
            None => merged.push(turn),
        }
    }
    merged
}

/// Marks a block of text as an instruction.
fn note(block: &mut Json<'_>) {
    if let Json::Object(block) = block
        && let Some(Json::Text(text)) = block.take("text")
    {
        block.push("text", format!("{NOTE}{text}"));
    }
}

/// Takes blanks from the end of the last text, which Anthropic refuses there; a text of nothing else goes.
fn trim_end(blocks: &mut Vec<Json<'_>>) {
    let is_blank = |block: &Json<'_>| {
        let block = block.as_object().filter(|block| block.text("type") == Some("text"));
        block.and_then(|block| block.text("text")).is_some_and(|text| text.trim().is_empty())
    };
    while blocks.pop_if(|block| is_blank(block)).is_some() {}
    let Some(Json::Object(block)) = blocks.last_mut() else { return };
    if block.text("type") != Some("text") {
        return;
    }
    match block.take("text") {
        Some(Json::Text(Cow::Borrowed(text))) => block.push("text", text.trim_end()),
        Some(Json::Text(Cow::Owned(mut text))) => {
            text.truncate(text.trim_end().len());
            block.push("text", text);
        }
        _ => {}
    }
}

fn turn<'a>(index: usize, message: Json<'a>, names: &mut Names) -> Result<Turn<'a>, Refusal> {
    let Json::Object(mut message) = message else {
        return Err(Refusal::bad(format!("messages[{index}]"), format!("is {}, not a message", message.kind())));
    };
    let cache_control = message.take("cache_control");
    let mut turn = match message.text("role") {
        Some("system" | "developer") => system(index, message)?,
        Some("user") => Turn::new(Role::User, part::blocks(index, message.take("content"))?),
        Some("assistant") => assistant(index, message, names)?,
        Some("tool") => tool(index, message)?,
        Some("function") => {
            let what = "is `function`, which OpenAI replaced; use tool_calls, and the role tool with a tool_call_id";
            return Err(Refusal::bad(format!("messages[{index}].role"), what));
        }
        _ => {
            let what = "is none of system, developer, user, assistant and tool";
            return Err(Refusal::bad(format!("messages[{index}].role"), what));
        }
    };
    let last = turn.blocks.last_mut().or_else(|| turn.results.last_mut());
    if let (Some(cache_control), Some(Json::Object(last))) = (cache_control, last)
        && last.get("cache_control").is_none()
    {
        last.push("cache_control", cache_control);
    }
    Ok(turn)
}

fn system(index: usize, mut message: Object<'_>) -> Result<Turn<'_>, Refusal> {
    let blocks = part::blocks(index, message.take("content"))?;
    let is_text = |block: &Json<'_>| block.as_object().and_then(|block| block.text("type")) == Some("text");
    if !blocks.iter().all(is_text) {
        let place = Place { message: index, part: None };
        return Err(Refusal::bad(place, "has parts that are no text, which a system message may not"));
    }
    Ok(Turn::new(Role::System, blocks))
}

fn assistant<'a>(index: usize, mut message: Object<'a>, names: &mut Names) -> Result<Turn<'a>, Refusal> {
    if let Some(Json::List(blocks)) = message.take(CONTENT)
        && !blocks.is_empty()
    {
        return Ok(Turn::new(Role::Assistant, blocks));
    }
    if message.get("function_call").is_some() {
        let what = "is what OpenAI replaced by tool_calls; use those";
        return Err(Refusal::bad(format!("messages[{index}].function_call"), what));
    }
    let mut blocks = objects(message.take("thinking_blocks"), || format!("messages[{index}].thinking_blocks"))?;
    blocks.extend(part::blocks(index, message.take("content"))?);
    if let Some(Json::Text(refusal)) = message.take("refusal") {
        blocks.extend(part::text_block(refusal).map(Json::Object));
    }
    let calls = objects(message.take("tool_calls"), || format!("messages[{index}].tool_calls"))?;
    for (call, value) in calls.into_iter().enumerate() {
        let Json::Object(value) = value else { continue };
        blocks.push(
            tool_use(value, names).map_err(|(member, what)| {
                Refusal::bad(format!("messages[{index}].tool_calls[{call}]{member}"), what)
            })?,
        );
    }
    Ok(Turn::new(Role::Assistant, blocks))
}

/// Reads a list of objects, which may be missing.
fn objects(value: Option<Json<'_>>, place: impl Fn() -> String) -> Result<Vec<Json<'_>>, Refusal> {
    match value {
        None => Ok(Vec::new()),
        Some(Json::List(list)) if list.iter().all(|value| value.as_object().is_some()) => Ok(list),
        Some(_) => Err(Refusal::bad(place(), "is not a list of objects")),
    }
}

/// Makes the block of a call; an error names the member of the call at fault.
fn tool_use<'a>(mut call: Object<'a>, names: &mut Names) -> Result<Json<'a>, (&'static str, &'static str)> {
    let Some(Json::Text(id)) = call.take("id") else { return Err((".id", "is missing")) };
    let Some(Json::Object(mut function)) = call.take("function") else {
        return Err((".function", "is missing, and Anthropic knows calls of functions only"));
    };
    let name = match function.take("name") {
        Some(Json::Text(name)) if !name.is_empty() => name,
        _ => return Err((".function.name", "is missing")),
    };
    let broken = (".function.arguments", "is not the JSON text of an object");
    let input = match function.take("arguments") {
        None => Json::Object(Object::new()),
        Some(Json::Text(text)) if text.trim().is_empty() => Json::Object(Object::new()),
        Some(Json::Text(Cow::Borrowed(text))) => Json::parse(text.as_bytes()).map_err(|_| broken)?,
        Some(Json::Text(Cow::Owned(text))) => Json::parse(text.as_bytes()).map_err(|_| broken)?.into_owned(),
        Some(other) => other,
    };
    if input.as_object().is_none() {
        return Err(broken);
    }
    let block = Object::of("tool_use").with("id", id).with("name", names.sent(name)).with("input", input);
    Ok(block.with_some("cache_control", call.take("cache_control")).into())
}

fn tool(index: usize, mut message: Object<'_>) -> Result<Turn<'_>, Refusal> {
    let id = match message.take("tool_call_id") {
        Some(Json::Text(id)) if !id.is_empty() => id,
        _ => return Err(Refusal::bad(format!("messages[{index}].tool_call_id"), "is missing")),
    };
    let content = part::blocks(index, message.take("content"))?;
    let mut result = Object::of("tool_result").with("tool_use_id", id);
    if !content.is_empty() {
        result.push("content", content);
    }
    let result = result.with_some("is_error", message.take("is_error"));
    Ok(Turn { role: Role::User, results: vec![result.into()], blocks: Vec::new() })
}
