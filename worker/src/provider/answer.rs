//! Reads answers of success in OpenAI's formats: what stands in them, and whether they are answers at all.
//!
//! Only the few fields that columns need are read; the body itself is kept as it came. Tolerant of what OpenAI-compatible
//! servers write otherwise.

use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::Usage;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::address::Api;
use super::anthropic;
use super::classify::html_title;
use super::lenient::{All, Count, First, IsSet, Lenient, Text};
use super::structured::Mismatch;

/// What an answer says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    pub(super) model: Option<String>,
    pub(super) service_tier: Option<String>,
    pub(super) usage: Usage,
    /// The `usage` as it was written, JSON text.
    pub(super) usage_text: Option<String>,
    pub(super) finish_reason: Option<String>,
    pub(super) output_text: Option<String>,
    /// Why it is no answer, although its status says so.
    pub(super) fault: Option<Fault>,
}

/// Why a body of success is no answer.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// It holds an error, at the top or in its first choice.
    Error,
    /// It is none, for this reason.
    Because(ErrorClass, String),
    /// It is not what the request asked for.
    Schema(Mismatch),
}

impl From<anthropic::Unread> for Fault {
    fn from(unread: anthropic::Unread) -> Self {
        match unread {
            anthropic::Unread::Error => Self::Error,
            anthropic::Unread::Because(refusal) => Self::Because(refusal.class, refusal.message),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire {
    model: Text,
    service_tier: Text,
    usage: Option<Box<RawValue>>,
    error: IsSet,
    // Chat completions and completions.
    choices: First<Choice>,
    // Responses.
    status: Text,
    incomplete_details: Lenient<Incomplete>,
    output: Option<All<Item>>,
    // Embeddings.
    data: IsSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    message: Lenient<Message>,
    text: Text,
    finish_reason: Text,
    error: IsSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    content: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Incomplete {
    reason: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Item {
    #[serde(rename = "type")]
    kind: Text,
    content: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Count,
    completion_tokens: Count,
    prompt_tokens_details: Lenient<InputDetails>,
    completion_tokens_details: Lenient<OutputDetails>,
    // The names of the Responses API; some gateways write both, so they are no aliases.
    input_tokens: Count,
    output_tokens: Count,
    input_tokens_details: Lenient<InputDetails>,
    output_tokens_details: Lenient<OutputDetails>,
    /// Together's place for what others put into the details.
    cached_tokens: Count,
    /// The place of `DeepSeek`.
    prompt_cache_hit_tokens: Count,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Count,
    cache_write_tokens: Count,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Count,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        let (input, other) = (wire.prompt_tokens_details.0, wire.input_tokens_details.0);
        let cached = input.cached_tokens.0.or(other.cached_tokens.0);
        let (output, other_output) = (wire.completion_tokens_details.0, wire.output_tokens_details.0);
        Self {
            input_tokens: wire.prompt_tokens.0.or(wire.input_tokens.0),
            cached_input_tokens: cached.or(wire.cached_tokens.0).or(wire.prompt_cache_hit_tokens.0),
            cache_write_tokens: input.cache_write_tokens.0.or(other.cache_write_tokens.0),
            output_tokens: wire.completion_tokens.0.or(wire.output_tokens.0),
            reasoning_tokens: output.reasoning_tokens.0.or(other_output.reasoning_tokens.0),
        }
    }
}

/// Reads an answer in Anthropic's own format.
fn read_message(body: &[u8]) -> Read {
    let message = match anthropic::Message::parse(body) {
        Ok(message) => message,
        Err(unread) => return Read { fault: Some(unread.into()), ..Read::default() },
    };
    Read {
        model: message.model().map(str::to_owned),
        service_tier: message.service_tier().map(str::to_owned),
        usage: message.usage(),
        usage_text: message.usage_text(),
        finish_reason: message.finish_reason().map(str::to_owned),
        output_text: message.text(),
        fault: None,
    }
}

/// Reads the body of an answer with a status of success.
pub(super) fn read(api: Api, body: &[u8]) -> Read {
    if api == Api::Messages {
        return read_message(body);
    }
    let invalid =
        |what: String| Read { fault: Some(Fault::Because(ErrorClass::ApiResponseValidation, what)), ..Read::default() };
    let Ok(text) = std::str::from_utf8(body) else {
        return invalid("the answer is not UTF-8 text".to_owned());
    };
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return invalid("the answer is empty".to_owned());
    }
    let error = match parse(trimmed) {
        Ok(wire) => return interpret(api, wire),
        Err(error) => error,
    };
    invalid(if let Some(title) = html_title(trimmed) {
        format!("the answer is an HTML page ({title}), not JSON; is api_base right?")
    } else if error.is_eof() {
        format!("the answer breaks off after {} bytes of JSON", body.len())
    } else {
        format!("the answer of {} bytes is not a JSON object", body.len())
    })
}

/// Parses; a body that repeats a key is read once more in the slow way, where the last one counts.
fn parse(text: &str) -> Result<Wire, serde_json::Error> {
    if !text.starts_with('{') {
        return serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).map(|_| Wire::default());
    }
    serde_json::from_str::<Wire>(text).or_else(|error| match error.classify() {
        serde_json::error::Category::Data => Wire::deserialize(serde_json::from_str::<serde_json::Value>(text)?),
        _ => Err(error),
    })
}

fn interpret(api: Api, wire: Wire) -> Read {
    let usage_text = wire.usage.map(|usage| Box::<str>::from(usage).into_string());
    let usage = usage_text.as_deref().and_then(|text| serde_json::from_str::<Lenient<WireUsage>>(text).ok());
    let mut read = Read {
        model: wire.model.0,
        service_tier: wire.service_tier.0,
        usage: usage.map(|usage| usage.0.into()).unwrap_or_default(),
        usage_text,
        ..Read::default()
    };
    let invalid = |what: &str| Some(Fault::Because(ErrorClass::ApiResponseValidation, what.to_owned()));
    if wire.error.0 {
        read.fault = Some(Fault::Error);
        return read;
    }
    match (api, wire.choices.0, wire.output) {
        (Api::Responses, _, None) if wire.status.0.is_none() => {
            read.fault = invalid("the answer has neither `status` nor `output`");
        }
        (Api::Responses, _, output) | (Api::Other, None, output @ Some(_)) => {
            let reason = wire.incomplete_details.0.reason.0;
            interpret_response(&mut read, wire.status.0.as_deref(), reason, output.unwrap_or_default().0);
        }
        (Api::Embeddings, ..) if !wire.data.0 => read.fault = invalid("the answer has no embeddings (`data`)"),
        (Api::Chat | Api::Completions, None, _) => read.fault = invalid("the answer has no choices"),
        (_, Some(choice), _) => interpret_choice(&mut read, choice),
        (Api::Embeddings | Api::Messages | Api::Other, None, _) => {}
    }
    read
}

fn interpret_choice(read: &mut Read, choice: Choice) {
    read.output_text = choice.message.0.content.0.or(choice.text.0);
    let Some(reason) = choice.finish_reason.0.filter(|reason| !reason.is_empty()) else {
        read.fault = choice.error.0.then_some(Fault::Error);
        return;
    };
    read.fault = if choice.error.0 {
        Some(Fault::Error)
    } else {
        let broken = match reason.as_str() {
            "insufficient_system_resource" => Some(ErrorClass::ServiceUnavailable),
            "error" | "ERROR" | "network_error" | "MALFORMED_FUNCTION_CALL" => Some(ErrorClass::InternalServer),
            _ => None,
        };
        broken
            .map(|class| Fault::Because(class, format!("the provider broke the answer off: finish_reason `{reason}`")))
    };
    read.finish_reason = Some(openai_finish_reason(reason));
}

/// Says why a model stopped in OpenAI's words; a word that nobody knows stays.
///
/// After LiteLLM 1.109, `core_helpers.py`.
fn openai_finish_reason(reason: String) -> String {
    let known = match reason.as_str() {
        "eos" | "eos_token" | "COMPLETE" | "STOP" | "STOP_SEQUENCE" | "stop_sequence" | "end_turn" => "stop",
        "MAX_TOKENS"
        | "max_tokens"
        | "model_length"
        | "CONTINUATION"
        | "compaction"
        | "pause_turn"
        | "model_context_window_exceeded" => "length",
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "LANGUAGE"
        | "OTHER"
        | "sensitive"
        | "content_filtered"
        | "guardrail_intervened"
        | "ERROR_TOXIC"
        | "refusal" => "content_filter",
        "TOOL_CALL" | "tool_use" => "tool_calls",
        _ => return reason,
    };
    known.to_owned()
}

fn interpret_response(read: &mut Read, status: Option<&str>, incomplete: Option<String>, output: Vec<Item>) {
    let mut text: Option<String> = None;
    let mut calls_tools = false;
    for item in output {
        match item.kind.0.as_deref() {
            Some("message") => text.get_or_insert_default().push_str(&item.content.0.unwrap_or_default()),
            Some("function_call" | "custom_tool_call") => calls_tools = true,
            _ => {}
        }
    }
    read.output_text = if calls_tools { text } else { Some(text.unwrap_or_default()) };
    read.finish_reason = match status {
        Some("incomplete") => Some(match incomplete.as_deref() {
            Some("max_output_tokens") | None => "length".to_owned(),
            Some(other) => other.to_owned(),
        }),
        _ if calls_tools => Some("tool_calls".to_owned()),
        _ => Some("stop".to_owned()),
    };
    let fault = |class, what: &str| Some(Fault::Because(class, what.to_owned()));
    read.fault = match status {
        Some("failed") => fault(ErrorClass::InternalServer, "the provider says that the response failed, and not why"),
        Some("cancelled") => fault(ErrorClass::Cancelled, "the provider says that the response was cancelled"),
        Some("queued" | "in_progress") => fault(
            ErrorClass::UnsupportedParams,
            "the provider goes on in the background, where the answer cannot be waited for; remove `background` from the request",
        ),
        _ => None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_json(api: Api, body: &serde_json::Value) -> Read {
        read(api, body.to_string().as_bytes())
    }

    #[test]
    fn completions_and_embeddings_are_read() {
        let old =
            read_json(Api::Completions, &json!({"choices": [{"text": "a", "finish_reason": "stop"}, {"text": "b"}]}));
        assert_eq!(
            (old.output_text.as_deref(), old.finish_reason.as_deref(), old.fault),
            (Some("a"), Some("stop"), None)
        );
        let vector =
            read_json(Api::Embeddings, &json!({"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3}}));
        assert_eq!((vector.usage.input_tokens, vector.output_text, vector.fault), (Some(3), None, None));
        let none = read_json(Api::Embeddings, &json!({"data": []}));
        assert!(matches!(none.fault, Some(Fault::Because(ErrorClass::ApiResponseValidation, _))));
    }

    #[test]
    fn bodies_that_are_no_answer_say_what_they_are() {
        for (body, wanted) in [
            (&b""[..], "the answer is empty"),
            (b" \n ", "the answer is empty"),
            (
                b"<!DOCTYPE html><head><title>Sign in</title>",
                "the answer is an HTML page (Sign in), not JSON; is api_base right?",
            ),
            (b"{\"choices\":[{", "the answer breaks off after 13 bytes of JSON"),
            (b"[1,2]", "the answer of 5 bytes is not a JSON object"),
            (b"hello", "the answer of 5 bytes is not a JSON object"),
            (b"{\"choices\":[]} trailing", "the answer of 23 bytes is not a JSON object"),
            (b"\xff", "the answer is not UTF-8 text"),
            (b"{}", "the answer has no choices"),
        ] {
            let Some(Fault::Because(class, message)) = read(Api::Chat, body).fault else { panic!("{body:?}") };
            assert_eq!((class, message.as_str()), (ErrorClass::ApiResponseValidation, wanted));
        }
    }

    #[test]
    fn odd_fields_do_no_harm() {
        let odd = json!({
            "model": 3, "usage": "none", "service_tier": null, "error": {}, "created": "1",
            "choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "finish_reason": null}],
        });
        let read = read_json(Api::Chat, &odd);
        assert_eq!((read.output_text.as_deref(), read.finish_reason, read.fault), (Some("ab"), None, None));
        assert_eq!((read.model, read.usage), (None, Usage::default()));
    }

    #[test]
    fn a_repeated_key_counts_as_its_last() {
        let body = br#"{"model":"a","model":"b","choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}"#;
        let read = read(Api::Chat, body);
        assert_eq!((read.model.as_deref(), read.output_text.as_deref(), read.fault), (Some("b"), Some("x"), None));
    }

    #[test]
    fn a_response_that_goes_on_in_the_background_says_what_to_change() {
        let read = read_json(Api::Responses, &json!({"status": "queued", "output": []}));
        assert!(
            matches!(read.fault, Some(Fault::Because(ErrorClass::UnsupportedParams, text)) if text.contains("`background`"))
        );
    }

    proptest! {
        #[test]
        fn a_cut_answer_is_never_taken_for_a_whole_one(cut in 0usize..1000) {
            let body = json!({
                "id": "x", "model": "m", "choices": [{"message": {"content": "héllo \"w\" \\"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 2},
            })
            .to_string();
            let cut = cut % body.len();
            prop_assert!(read(Api::Chat, &body.as_bytes()[..cut]).fault.is_some());
            prop_assert!(read(Api::Chat, body.as_bytes()).fault.is_none());
        }
    }

    #[test]
    fn usage_under_both_names_is_read_once() {
        let body = json!({
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "input_tokens": 3, "output_tokens": 5,
                      "input_tokens_details": {"cached_tokens": 2}},
        });
        let read = read_json(Api::Chat, &body);
        assert!(read.fault.is_none(), "{:?}", read.fault);
        let usage = read.usage;
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.cached_input_tokens), (Some(3), Some(5), Some(2)));
    }
}
