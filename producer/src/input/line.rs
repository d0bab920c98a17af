//! One line of OpenAI's Batch input format. Pure.
//!
//! Format: <https://platform.openai.com/docs/guides/batch>, read 2026-11. Strict, because a line that is wrong is cheap to
//! tell now and dear to find among a million errors later. Other keys are ignored.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The paths of the API that are known.
pub const ENDPOINTS: [&str; 4] = ["/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings"];

/// Longest custom id that is taken, in bytes.
const MAX_CUSTOM_ID_BYTES: usize = 512;

/// A line that can be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) custom_id: String,
    pub(super) endpoint: &'static str,
    /// The body's own word for the model.
    pub(super) model: Option<String>,
    /// Where the body stands in the line.
    pub(super) body: Range<usize>,
}

/// A line that cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// Its custom id, if it could be read.
    pub(super) custom_id: Option<String>,
    pub(super) reason: String,
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
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    input: Option<serde::de::IgnoredAny>,
}

/// Reads one line; `needs_model` says that the body itself must name the model.
pub(super) fn read(line: &[u8], needs_model: bool) -> Result<Request, Bad> {
    let mut custom_id = None;
    read_parts(line, needs_model, &mut custom_id).map_err(|reason| Bad { custom_id, reason })
}

/// Reads the custom id of a line that may be wrong otherwise.
pub(super) fn custom_id(line: &[u8]) -> Option<String> {
    match read(line, false) {
        Ok(request) => Some(request.custom_id),
        Err(bad) => bad.custom_id,
    }
}

fn read_parts(line: &[u8], needs_model: bool, seen: &mut Option<String>) -> Result<Request, String> {
    let text = std::str::from_utf8(line).map_err(|error| {
        let position = error.valid_up_to() + 1;
        format!("is not UTF-8 at byte {position}; convert the file, for example with iconv")
    })?;
    if !text.trim_start().starts_with('{') {
        return Err(match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => "is not a JSON object".to_owned(),
            Err(error) => not_json(&error),
        });
    }
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    if let Some(raw) = fields.custom_id {
        *seen = Some(custom_id_text(raw)?);
    }
    let missing: Vec<&str> = [
        ("custom_id", fields.custom_id.is_none()),
        ("method", fields.method.is_none()),
        ("url", fields.url.is_none()),
        ("body", fields.body.is_none()),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    let (Some(custom_id), Some(method), Some(url), Some(body)) = (seen.clone(), fields.method, fields.url, fields.body)
    else {
        return Err(format!("has no {}", missing.join(", no ")));
    };
    match string(method).as_deref() {
        Some("POST") => {}
        _ => return Err(format!("method is {}, it must be \"POST\"", shorten(method.get()))),
    }
    let endpoint = string(url)
        .and_then(|url| normalise_endpoint(&url))
        .ok_or_else(|| format!("url is {}, it must be one of {}", shorten(url.get()), ENDPOINTS.join(", ")))?;
    let model = read_body(body, endpoint, needs_model)?;
    let start = body.get().as_ptr() as usize - text.as_ptr() as usize;
    Ok(Request { custom_id, endpoint, model, body: start..start + body.get().len() })
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

fn read_body(raw: &RawValue, endpoint: &str, needs_model: bool) -> Result<Option<String>, String> {
    if !raw.get().starts_with('{') {
        return Err(format!("body is {}, it must be an object", shorten(raw.get())));
    }
    let body: Body<'_> = serde_json::from_str(raw.get()).map_err(|error| format!("body: {}", without_place(&error)))?;
    let model = match body.model {
        None if needs_model => return Err("body has no model; add it, or give --model".to_owned()),
        None => None,
        Some(raw) => match string(raw) {
            Some(model) if model.contains('\0') => return Err("body.model holds a NUL character".to_owned()),
            Some(model) if !model.trim().is_empty() => Some(model),
            _ if needs_model => return Err(format!("body.model is {}, it must be a name", shorten(raw.get()))),
            _ => None,
        },
    };
    match endpoint {
        "/v1/chat/completions" => match body.messages.map(RawValue::get) {
            None => return Err("body has no messages".to_owned()),
            Some(messages) if !messages.starts_with('[') => {
                return Err(format!("body.messages is {}, it must be an array", shorten(messages)));
            }
            Some(messages) if messages[1..].trim_start().starts_with(']') => {
                return Err("body.messages is empty".to_owned());
            }
            Some(_) => {}
        },
        "/v1/embeddings" if body.input.is_none() => return Err("body has no input".to_owned()),
        _ => {}
    }
    Ok(model)
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
