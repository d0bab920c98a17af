//! Structured output: what an answer's text must be, and whether it is that.
//!
//! A schema is compiled when the call is made, kept for the calls after it, and never leads anywhere: what it refers to by an
//! address is not fetched.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gristmill_common::failure::ErrorClass;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::address::Api;
use super::speech::Refusal;
use super::splice;

/// Compiled schemas that are kept: a sweep has few.
const MOST_KEPT: usize = 64;
/// Faults that a message tells.
const MOST_TOLD: usize = 3;

/// What the text of an answer must be.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// Anything.
    Anything,
    /// A JSON object.
    Object,
    /// JSON that fits a schema which the request does not tell.
    Untold,
    /// JSON that fits a schema.
    Schema(Arc<jsonschema::Validator>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Request<'a> {
    #[serde(borrow)]
    response_format: Option<Format<'a>>,
    #[serde(borrow)]
    text: Option<TextFormat<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TextFormat<'a> {
    #[serde(borrow)]
    format: Option<Format<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Format<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    json_schema: Option<Nested<'a>>,
    /// The place of the Responses API.
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Nested<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
}

impl Wanted {
    /// Reads what a request asks for. What cannot be read is left to the provider to refuse.
    pub(super) fn of(api: Api, body: &[u8]) -> Result<Self, Refusal> {
        let (at, format) = match api {
            // A substring tells most requests from those that need parsing: both types begin so.
            _ if !splice::mentions(body, b"json_") => return Ok(Self::Anything),
            Api::Chat => ("response_format.json_schema.schema", read(body).response_format),
            Api::Responses => ("text.format.schema", read(body).text.and_then(|text| text.format)),
            _ => return Ok(Self::Anything),
        };
        let Some(format) = format else { return Ok(Self::Anything) };
        match format.kind.map(RawValue::get) {
            Some("\"json_object\"") => Ok(Self::Object),
            Some("\"json_schema\"") => {
                let schema = format.json_schema.and_then(|nested| nested.schema).or(format.schema);
                match schema {
                    Some(schema) => compile(at, schema.get()).map(Self::Schema),
                    None => Ok(Self::Untold),
                }
            }
            _ => Ok(Self::Anything),
        }
    }

    /// Tells whether a cut answer can be none.
    pub(super) const fn is_schema(&self) -> bool {
        matches!(self, Self::Schema(_) | Self::Untold)
    }

    /// Says what is wrong with an answer's text; its causes name the places.
    pub(super) fn fault(&self, text: &str) -> Option<Mismatch> {
        let validator = match self {
            Self::Anything | Self::Untold => return None,
            Self::Object => None,
            Self::Schema(validator) => Some(validator),
        };
        let value = match serde_json::from_str::<Value>(text) {
            Ok(value) => value,
            Err(error) => {
                let message = format!("the answer is not JSON, which was asked for: {error}");
                return Some(Mismatch { message, places: Vec::new() });
            }
        };
        let Some(validator) = validator else {
            return (!value.is_object()).then(|| Mismatch {
                message: "the answer is JSON but no object, which was asked for".to_owned(),
                places: Vec::new(),
            });
        };
        let mut faults = validator.iter_errors(&value);
        let first = faults.next()?;
        let told = |error: &jsonschema::ValidationError<'_>| {
            let path = error.instance_path().to_string();
            let place = if path.is_empty() { "at its top" } else { &path };
            format!("{place}: {}", shorten(&error.to_string()))
        };
        let message = format!("the answer does not fit the JSON schema: {}", told(&first));
        let places = std::iter::once(&first).map(told).chain(faults.take(MOST_TOLD - 1).map(|error| told(&error)));
        Some(Mismatch { places: places.collect(), message })
    }
}

/// How an answer's text is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) message: String,
    /// The first faults, each with its place.
    pub(super) places: Vec<String>,
}

fn read(body: &[u8]) -> Request<'_> {
    serde_json::from_slice(body).unwrap_or_default()
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Compiles a schema, or takes it from those that are kept.
fn compile(at: &str, text: &str) -> Result<Arc<jsonschema::Validator>, Refusal> {
    static KEPT: Mutex<Option<HashMap<String, Arc<jsonschema::Validator>>>> = Mutex::new(None);
    let kept = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().as_ref().and_then(|kept| kept.get(text)) {
        return Ok(Arc::clone(known));
    }
    let refusal = |why: String| Refusal {
        class: ErrorClass::BadRequest,
        param: Some(at.to_owned()),
        message: format!("{at} is no JSON schema: {why}"),
    };
    let schema: Value = serde_json::from_str(text).map_err(|error| refusal(error.to_string()))?;
    if let Some(address) = remote_reference(&schema) {
        return Err(refusal(format!(
            "it refers to {}, and what stands elsewhere is never fetched; put the definition under `$defs`",
            shorten(address)
        )));
    }
    let compiled = jsonschema::options()
        .with_draft(draft_of(&schema))
        .build(&schema)
        .map_err(|error| refusal(shorten(&error.to_string())))?;
    let compiled = Arc::new(compiled);
    let mut guard = kept();
    let all = guard.get_or_insert_with(HashMap::new);
    if all.len() >= MOST_KEPT {
        all.clear();
    }
    all.insert(text.to_owned(), Arc::clone(&compiled));
    Ok(compiled)
}

/// Providers take schemas without a `$schema` and mean the latest draft.
fn draft_of(schema: &Value) -> jsonschema::Draft {
    jsonschema::Draft::default().detect(schema)
}

/// Finds a reference to another document.
fn remote_reference(schema: &Value) -> Option<&str> {
    match schema {
        Value::Object(object) => object.iter().find_map(|(key, value)| match (key.as_str(), value) {
            ("$ref" | "$dynamicRef", Value::String(address)) if address.contains("://") => Some(address.as_str()),
            // Examples and constants are no schemas.
            ("const" | "enum" | "default" | "examples", _) => None,
            _ => remote_reference(value),
        }),
        Value::Array(items) => items.iter().find_map(remote_reference),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(schema: &Value) -> Vec<u8> {
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}})
            .to_string()
            .into()
    }

    #[test]
    fn answers_are_held_against_the_schema() {
        let schema = json!({"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]});
        for (api, body) in [
            (Api::Chat, chat(&schema)),
            (Api::Responses, json!({"text": {"format": {"type": "json_schema", "schema": schema}}}).to_string().into()),
        ] {
            let wanted = Wanted::of(api, &body).unwrap();
            assert!(wanted.is_schema());
            assert_eq!(wanted.fault(r#"{"year": 1815}"#), None);
            let fault = wanted.fault(r#"{"year": "then"}"#).unwrap();
            assert!(fault.message.contains("/year") && fault.places.len() == 1, "{fault:?}");
            assert!(wanted.fault("{}").unwrap().message.contains("year"));
            assert!(wanted.fault("Sure! {").unwrap().message.starts_with("the answer is not JSON"));
        }
    }

    #[test]
    fn an_object_must_be_one() {
        let wanted = Wanted::of(Api::Chat, br#"{"response_format":{"type":"json_object"}}"#).unwrap();
        assert_eq!(wanted.fault("{}"), None);
        assert!(wanted.fault("[]").is_some() && wanted.fault("").is_some());
    }

    #[test]
    fn nothing_is_asked_of_other_requests() {
        for (api, body) in [
            (Api::Chat, &br#"{"messages":[{"content":"json_schema"}]}"#[..]),
            (Api::Chat, br#"{"response_format":{"type":"text"},"x":"json_object"}"#),
            (Api::Chat, br#"{"response_format":3,"x":"json_object"}"#),
            (Api::Embeddings, br#"{"response_format":{"type":"json_object"}}"#),
            (Api::Chat, b"json_"),
        ] {
            assert!(matches!(Wanted::of(api, body), Ok(Wanted::Anything)));
        }
    }

    #[test]
    fn what_is_no_schema_is_refused_and_nothing_is_fetched() {
        for (schema, wanted) in [
            (json!({"type": "objekt"}), "response_format.json_schema.schema is no JSON schema: "),
            (json!(3), "is no JSON schema"),
            (json!({"$ref": "https://example.org/s.json"}), "is never fetched; put the definition under `$defs`"),
            (json!({"properties": {"a": {"$ref": "file:///etc/passwd"}}}), "refers to file:///etc/passwd"),
            (json!({"$ref": "#/$defs/gone"}), "is no JSON schema"),
        ] {
            let refusal = Wanted::of(Api::Chat, &chat(&schema)).unwrap_err();
            assert!(refusal.message.contains(wanted), "{schema}: {}", refusal.message);
            assert_eq!(refusal.param.as_deref(), Some("response_format.json_schema.schema"));
        }
        let local = json!({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"});
        assert_eq!(Wanted::of(Api::Chat, &chat(&local)).unwrap().fault("\"x\""), None);
    }
}
