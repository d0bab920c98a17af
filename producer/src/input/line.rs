//! One line of JSON: a request of OpenAI's Batch format, of Anthropic's, or a plain prompt. Pure but for the files that a
//! request names.
//!
//! Formats: <https://platform.openai.com/docs/guides/batch>, read 2026-11, and
//! <https://platform.claude.com/docs/en/build-with-claude/batch-processing>, read 2026-11. Strict, because a line that is wrong
//! is cheap to tell now and dear to find among a million errors later. Unknown keys of a Batch line are ignored, those of a
//! plain line are the user's metadata.

use std::path::Path;

use bytes::Bytes;
use gristmill_common::job::Metadata;
use gristmill_common::splice::{Members, quoted};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::attachment::Attachments;

/// The paths of the API that are known.
pub const ENDPOINTS: [&str; 5] = [CHAT, RESPONSES, "/v1/completions", "/v1/embeddings", MESSAGES];

/// OpenAI's chat completions, which plain prompts become.
pub const CHAT: &str = "/v1/chat/completions";
pub(super) const RESPONSES: &str = "/v1/responses";
/// Anthropic's API.
pub const MESSAGES: &str = "/v1/messages";

/// Longest custom id that is taken, in bytes.
pub(super) const MAX_CUSTOM_ID_BYTES: usize = 512;

/// What is wrong with a plain line or a row that names no model.
const NO_MODEL: &str = "has no model; add it, or give --model";

/// A line that can be sent.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) custom_id: String,
    pub(super) endpoint: &'static str,
    /// The line's own word for the model.
    pub(super) model: Option<String>,
    /// As the line has it.
    pub(super) body: Bytes,
    /// Files that the body names and that stand in what is sent.
    pub(super) attachments: Attachments,
    pub(super) metadata: Option<Metadata>,
}

/// A line that cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// Its custom id, if it could be read.
    pub(super) custom_id: Option<String>,
    pub(super) reason: String,
}

/// What a line is read by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Whether the line itself must name the model.
    pub(super) needs_model: bool,
    /// Where a plain line has its prompt.
    pub(super) prompt_key: &'a str,
    /// What the paths of files are relative to.
    pub(super) directory: &'a Path,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    input: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
}

/// Reads one line; `number` names a plain line that has no name of its own.
pub(super) fn read(line: Vec<u8>, number: u64, rules: Rules<'_>) -> Result<Request, Bad> {
    let line = Bytes::from(line);
    let mut custom_id = None;
    read_parts(&line, number, rules, &mut custom_id).map_err(|reason| Bad { custom_id, reason })
}

fn read_parts(line: &Bytes, number: u64, rules: Rules<'_>, seen: &mut Option<String>) -> Result<Request, String> {
    let text = text(line)?;
    if !text.trim_start().starts_with('{') {
        return Err(match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => "is not a JSON object".to_owned(),
            Err(error) => not_json(&error),
        });
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    let is_whole = fields.method.is_some() && fields.url.is_some() && fields.body.is_some();
    let is_batch = fields.method.is_some() || fields.url.is_some() || fields.body.is_some();
    let may_be_plain = (!is_batch && fields.params.is_none()) || (!is_whole && is_plain(text, rules)?);
    if may_be_plain {
        return read_plain(text, number, rules, seen);
    }
    *seen = fields.custom_id.map(custom_id_text).transpose()?;
    let (endpoint, body) = if is_batch { batch_parts(&fields)? } else { anthropic_parts(&fields)? };
    let model = read_body(body, if is_batch { "body" } else { "params" }, endpoint, rules.needs_model)?;
    // The missing id was refused with the other missing parts.
    let custom_id = seen.clone().unwrap_or_default();
    let attachments = Attachments::find(body.get(), endpoint, rules.directory)?;
    let body = line.slice_ref(body.get().as_bytes());
    Ok(Request { custom_id, endpoint, model, body, attachments, metadata: None })
}

/// Tells whether a line has a prompt or messages of its own, so that any other key of it is metadata.
fn is_plain(text: &str, rules: Rules<'_>) -> Result<bool, String> {
    let mut members = Members::new(text).map_err(|error| error.to_string())?;
    while let Some((key, _)) = members.next_member().map_err(|error| error.to_string())? {
        if key == rules.prompt_key || key == "messages" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes apart `{"custom_id","method","url","body"}`.
fn batch_parts<'a>(fields: &Fields<'a>) -> Result<(&'static str, &'a RawValue), String> {
    let (Some(_), Some(method), Some(url), Some(body)) = (fields.custom_id, fields.method, fields.url, fields.body)
    else {
        return Err(missing(&[
            ("custom_id", fields.custom_id),
            ("method", fields.method),
            ("url", fields.url),
            ("body", fields.body),
        ]));
    };
    if string(method).as_deref() != Some("POST") {
        return Err(format!("method is {}, it must be \"POST\"", shorten(method.get())));
    }
    let endpoint = string(url)
        .and_then(|url| normalise_endpoint(&url))
        .ok_or_else(|| format!("url is {}, it must be one of {}", shorten(url.get()), ENDPOINTS.join(", ")))?;
    Ok((endpoint, body))
}

/// Takes apart `{"custom_id","params"}`.
fn anthropic_parts<'a>(fields: &Fields<'a>) -> Result<(&'static str, &'a RawValue), String> {
    match (fields.custom_id, fields.params) {
        (Some(_), Some(params)) => Ok((MESSAGES, params)),
        (custom_id, params) => Err(missing(&[("custom_id", custom_id), ("params", params)])),
    }
}

fn missing(parts: &[(&str, Option<&RawValue>)]) -> String {
    let missing: Vec<&str> = parts.iter().filter(|(_, part)| part.is_none()).map(|(name, _)| *name).collect();
    format!("has no {}", missing.join(", no "))
}

/// Reads `{"prompt": "…"}` or `{"messages": […]}` with the user's own keys beside it.
fn read_plain(text: &str, number: u64, rules: Rules<'_>, seen: &mut Option<String>) -> Result<Request, String> {
    let (mut prompt, mut messages, mut model) = (None, None, None);
    let mut metadata = Kept::default();
    // Parsed before: it is an object.
    let mut members = Members::new(text).map_err(|error| error.to_string())?;
    while let Some((key, place)) = members.next_member().map_err(|error| error.to_string())? {
        let raw: &RawValue = serde_json::from_str(&text[place]).map_err(|error| not_json(&error))?;
        match &*key {
            "custom_id" => *seen = Some(custom_id_text(raw)?),
            "model" => model = Some(raw),
            key if key == rules.prompt_key => prompt = Some(raw),
            "messages" => messages = Some(raw),
            _ => {
                // Strings and numbers that nobody could read are refused.
                serde_json::from_str::<Value>(raw.get()).map_err(|error| not_json(&error))?;
                metadata.keep(&key, raw.get());
            }
        }
    }
    let body = match (prompt, messages) {
        (None, None) => return Err(format!("is no request: it has no {}, no messages, no body", rules.prompt_key)),
        (Some(_), Some(_)) => return Err(format!("has both {} and messages", rules.prompt_key)),
        (Some(prompt), None) => match string(prompt) {
            Some(text) if !text.trim().is_empty() => prompt_body(prompt.get()),
            Some(_) => return Err(format!("{} is empty", rules.prompt_key)),
            None => return Err(format!("{} is {}, it must be a text", rules.prompt_key, shorten(prompt.get()))),
        },
        (None, Some(messages)) => {
            check_messages("messages", Some(messages))?;
            format!("{{\"messages\":{}}}", messages.get())
        }
    };
    let model = match model {
        None if rules.needs_model => return Err(NO_MODEL.to_owned()),
        model => read_model(model, "model", rules.needs_model)?,
    };
    let custom_id = seen.clone().unwrap_or_else(|| format!("line-{number}"));
    let attachments = Attachments::find(&body, CHAT, rules.directory)?;
    Ok(Request { attachments, ..chat(custom_id, model, body, metadata) })
}

/// Makes the request of one row of a table.
pub(super) fn of_row(
    number: u64,
    rules: Rules<'_>,
    cells: impl Iterator<Item = (impl AsRef<str>, String)>,
) -> Result<Request, Bad> {
    let (mut custom_id, mut model, mut prompt) = (None, None, String::new());
    let mut metadata = Kept::default();
    for (column, cell) in cells {
        match column.as_ref() {
            column if column == rules.prompt_key => prompt = cell,
            "custom_id" => custom_id = Some(cell),
            "model" => model = Some(cell),
            column => metadata.keep(column, &Value::from(cell).to_string()),
        }
    }
    let bad = |custom_id: &Option<String>, reason| Bad { custom_id: custom_id.clone(), reason };
    let custom_id = match custom_id {
        Some(custom_id) => Some(checked_custom_id(custom_id).map_err(|reason| bad(&None, reason))?),
        None => None,
    };
    if prompt.trim().is_empty() {
        return Err(bad(&custom_id, format!("{} is empty", rules.prompt_key)));
    }
    let model = match model.filter(|model| !model.trim().is_empty()) {
        Some(model) if model.contains('\0') => return Err(bad(&custom_id, "model holds a NUL character".to_owned())),
        None if rules.needs_model => return Err(bad(&custom_id, NO_MODEL.to_owned())),
        model => model,
    };
    let body = prompt_body(&Value::from(prompt).to_string());
    let custom_id = custom_id.unwrap_or_else(|| format!("row-{number}"));
    Ok(chat(custom_id, model, body, metadata))
}

/// Checks that bytes are text.
pub(super) fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let position = error.valid_up_to() + 1;
        format!("is not UTF-8 at byte {position}; convert the file, for example with iconv")
    })
}

fn prompt_body(prompt: &str) -> String {
    format!("{{\"messages\":[{{\"role\":\"user\",\"content\":{prompt}}}]}}")
}

/// The user's own keys with their values, each a JSON text, in the order in which they stand.
#[derive(Default)]
struct Kept(Vec<(String, String)>);

impl Kept {
    /// Keeps a value; of a repeated key the last one.
    fn keep(&mut self, key: &str, json: &str) {
        self.0.retain(|(known, _)| known != key);
        self.0.push((key.to_owned(), json.to_owned()));
    }

    fn into_metadata(self) -> Option<Metadata> {
        if self.0.is_empty() {
            return None;
        }
        let members: Vec<String> = self.0.iter().map(|(key, json)| format!("{}:{json}", quoted(key))).collect();
        Metadata::from_json(format!("{{{}}}", members.join(",")))
    }
}

fn chat(custom_id: String, model: Option<String>, body: String, metadata: Kept) -> Request {
    let metadata = metadata.into_metadata();
    Request { custom_id, endpoint: CHAT, model, body: body.into(), attachments: Attachments::default(), metadata }
}

fn custom_id_text(raw: &RawValue) -> Result<String, String> {
    let text = string(raw).ok_or_else(|| {
        let text = raw.get();
        if text.starts_with('"') {
            "custom_id is no valid string".to_owned()
        } else {
            format!("custom_id is {}, it must be a string", shorten(text))
        }
    })?;
    checked_custom_id(text)
}

fn checked_custom_id(text: String) -> Result<String, String> {
    match text.len() {
        0 => Err("custom_id is empty".to_owned()),
        // Databases cannot hold it as text.
        _ if text.contains('\0') => Err("custom_id holds a NUL character".to_owned()),
        bytes if bytes > MAX_CUSTOM_ID_BYTES => {
            Err(format!("custom_id has {bytes} bytes, at most {MAX_CUSTOM_ID_BYTES} are taken"))
        }
        _ => Ok(text),
    }
}

/// Checks what a request must have at its endpoint; `name` is what the line calls it. Returns its model.
fn read_body(raw: &RawValue, name: &str, endpoint: &str, needs_model: bool) -> Result<Option<String>, String> {
    if !raw.get().starts_with('{') {
        return Err(format!("{name} is {}, it must be an object", shorten(raw.get())));
    }
    let body: Body<'_> =
        serde_json::from_str(raw.get()).map_err(|error| format!("{name}: {}", without_place(&error)))?;
    if body.model.is_none() && needs_model {
        return Err(format!("{name} has no model; add it, or give --model"));
    }
    let model = read_model(body.model, &format!("{name}.model"), needs_model)?;
    match endpoint {
        CHAT | MESSAGES if body.messages.is_none() => return Err(format!("{name} has no messages")),
        CHAT | MESSAGES => check_messages(&format!("{name}.messages"), body.messages)?,
        "/v1/embeddings" if body.input.is_none() => return Err(format!("{name} has no input")),
        _ => {}
    }
    match body.max_tokens.map(RawValue::get) {
        None if endpoint == MESSAGES => Err(format!("{name} has no max_tokens, which Anthropic's API needs")),
        _ => Ok(model),
    }
}

fn read_model(raw: Option<&RawValue>, name: &str, needs_model: bool) -> Result<Option<String>, String> {
    let Some(raw) = raw else { return Ok(None) };
    match string(raw) {
        Some(model) if model.contains('\0') => Err(format!("{name} holds a NUL character")),
        Some(model) if !model.trim().is_empty() => Ok(Some(model)),
        _ if needs_model => Err(format!("{name} is {}, it must be a name", shorten(raw.get()))),
        _ => Ok(None),
    }
}

fn check_messages(name: &str, messages: Option<&RawValue>) -> Result<(), String> {
    let messages = messages.map_or("null", RawValue::get);
    if !messages.starts_with('[') {
        return Err(format!("{name} is {}, it must be an array", shorten(messages)));
    }
    if messages[1..].trim_start().starts_with(']') {
        return Err(format!("{name} is empty"));
    }
    Ok(())
}

/// Returns the path as OpenAI writes it, for one with or without `/v1`, as Azure's files have it.
pub fn normalise_endpoint(url: &str) -> Option<&'static str> {
    let path = url.trim_end_matches('/');
    ENDPOINTS.into_iter().find(|endpoint| path == *endpoint || Some(path) == endpoint.strip_prefix("/v1"))
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn not_json(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Eof => format!("is not JSON: it ends too early, at column {}", error.column()),
        serde_json::error::Category::Data => without_place(error),
        _ => format!("is not JSON: {} at column {}", without_place(error), error.column()),
    }
}

/// Leaves out the line and column of the text that was parsed, which is not the file.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned()
}

/// Shortens a value for a message.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
