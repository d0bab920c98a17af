//! A message of Anthropic's, as a chat completion.

use bytes::Bytes;
use gristmill_common::failure::ErrorClass;
use gristmill_common::outcome::Usage;

use super::json::{Json, Object};
use super::refusal::{Refusal, Unread};
use super::{CONTENT, Context};
use crate::provider::classify::html_title;

/// A message: the answer to a request in Anthropic's own format, or to one that was translated.
#[derive(Debug, Clone)]
pub(in crate::provider) struct Message<'a>(Object<'a>);

/// Translates a message into a chat completion; `created` is when, in Unix seconds.
///
/// # Errors
///
/// [`Unread`], where the body is no message.
pub(in crate::provider) fn to_chat(body: &[u8], context: &Context, created: i64) -> Result<Bytes, Unread> {
    Ok(Message::parse(body)?.into_chat(context, created).to_bytes(body.len() + 512))
}

impl<'a> Message<'a> {
    /// Reads the body of an answer with a status of success.
    ///
    /// # Errors
    ///
    /// [`Unread`], where the body is no message.
    pub(in crate::provider) fn parse(body: &'a [u8]) -> Result<Self, Unread> {
        let invalid = |message: String| {
            let class = ErrorClass::ApiResponseValidation;
            Err(Unread::Because(Refusal { class, param: None, message }))
        };
        let message = match Json::parse(body) {
            Ok(Json::Object(message)) => message,
            Ok(_) => return invalid(format!("the answer of {} bytes is not a JSON object", body.len())),
            Err(error) => return invalid(unreadable(body, &error)),
        };
        let is_error = message.text("type") == Some("error") || message.get("error").is_some();
        if is_error {
            return Err(Unread::Error);
        }
        if message.get("content").and_then(Json::as_list).is_none() {
            return invalid("the answer has no `content`; does api_base lead to Anthropic's Messages?".to_owned());
        }
        Ok(Self(message))
    }

    /// Returns the model that answered.
    pub(in crate::provider) fn model(&self) -> Option<&str> {
        self.0.text("model")
    }

    /// Returns the service tier that was served.
    pub(in crate::provider) fn service_tier(&self) -> Option<&str> {
        self.0.get("usage")?.as_object()?.text("service_tier")
    }

    /// Returns the tokens as Anthropic counted them, brought to the inclusive counts of OpenAI.
    pub(in crate::provider) fn usage(&self) -> Usage {
        self.0.get("usage").and_then(Json::as_object).map(|usage| Counts::of(usage).into()).unwrap_or_default()
    }

    /// Returns the `usage` as it was written.
    pub(in crate::provider) fn usage_text(&self) -> Option<String> {
        self.0.get("usage").filter(|usage| usage.as_object().is_some()).map(ToString::to_string)
    }

    /// Returns the text of the answer; none where there are only calls of tools.
    pub(in crate::provider) fn text(&self) -> Option<String> {
        let mut text = String::new();
        let mut calls = false;
        for block in self.blocks() {
            text.push_str(text_of(block, "text", "text"));
            calls |= block.text("type") == Some("tool_use");
        }
        (!calls || !text.is_empty()).then_some(text)
    }

    /// Says why the model stopped, in OpenAI's words; none where Anthropic does not say.
    pub(in crate::provider) fn finish_reason(&self) -> Option<&'static str> {
        self.0.text("stop_reason").map(finish_reason)
    }

    fn blocks(&self) -> impl Iterator<Item = &Object<'a>> {
        self.0.get("content").and_then(Json::as_list).unwrap_or_default().iter().filter_map(Json::as_object)
    }

    /// Makes the chat completion.
    fn into_chat(mut self, context: &Context, created: i64) -> Json<'a> {
        let mut finish = self.finish_reason();
        let is_paused = self.0.text("stop_reason") == Some("pause_turn");
        let kept = (is_paused || !self.is_plain()).then(|| self.0.get("content").cloned()).flatten();
        let content = match self.0.take("content") {
            Some(Json::List(blocks)) => blocks,
            _ => Vec::new(),
        };
        let mut parts = Parts::default();
        for block in content {
            if let Json::Object(block) = block {
                parts.add(block, context);
            }
        }
        let answered = parts.json.is_some();
        if answered && parts.calls.is_empty() && finish == Some("tool_calls") {
            finish = Some("stop");
        }
        let refusal = (finish == Some("content_filter")).then(|| self.take_refusal());
        let message = parts.into_message(refusal).with_some(CONTENT, kept.filter(|_| !answered));
        let choice = Object::new()
            .with("index", 0_u64)
            .with("message", message)
            .with("logprobs", Json::Null)
            .with("finish_reason", finish.map_or(Json::Null, Json::from))
            .with_some("native_finish_reason", self.0.take("stop_reason"))
            .with_some("stop_sequence", self.0.take("stop_sequence"))
            .with_some("stop_details", self.0.take("stop_details"))
            .with_some("needs_continuation", is_paused.then_some(true));
        let usage = match self.0.take("usage") {
            Some(Json::Object(usage)) => Some(usage),
            _ => None,
        };
        let tier = usage.as_ref().and_then(|usage| usage.get("service_tier").cloned());
        let model = self.0.take("model").unwrap_or_else(|| context.model.clone().into());
        Object::new()
            .with_some("id", self.0.take("id"))
            .with("object", "chat.completion")
            .with("created", created)
            .with("model", model)
            .with("choices", vec![choice.into()])
            .with_some("usage", usage.map(chat_usage))
            .with_some("service_tier", tier)
            .into()
    }

    /// Tells whether the chat format holds all of the content, and in its order: thinking, text, calls of tools.
    fn is_plain(&self) -> bool {
        let mut before = 0;
        self.blocks().all(|block| {
            let place = match block.text("type") {
                Some("thinking" | "redacted_thinking") => 0,
                Some("text") if block.get("citations").and_then(Json::as_list).unwrap_or_default().is_empty() => 1,
                Some("tool_use") => 2,
                _ => return false,
            };
            let is_in_order = before <= place;
            before = place;
            is_in_order
        })
    }

    /// Says that the model refused, in Anthropic's words where there are any.
    fn take_refusal(&self) -> String {
        let details = self.0.get("stop_details").and_then(Json::as_object);
        let explanation = details.and_then(|details| details.text("explanation")).filter(|text| !text.is_empty());
        let category = details.and_then(|details| details.text("category"));
        match (explanation, category) {
            (Some(explanation), _) => explanation.to_owned(),
            (None, Some(category)) => format!("The model refused to answer (category {category})."),
            (None, None) => "The model refused to answer.".to_owned(),
        }
    }
}

/// Says what a body is that is no JSON.
fn unreadable(body: &[u8], error: &serde_json::Error) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    if body.trim_ascii().is_empty() {
        "the answer is empty".to_owned()
    } else if let Some(title) = html_title(text.trim()) {
        format!("the answer is an HTML page ({title}), not JSON; is api_base right?")
    } else if error.is_eof() {
        format!("the answer breaks off after {} bytes of JSON", body.len())
    } else {
        format!("the answer of {} bytes is not a JSON object", body.len())
    }
}

/// Says why a model stopped in OpenAI's words; a reason that nobody knows is `stop`.
fn finish_reason(reason: &str) -> &'static str {
    match reason {
        "max_tokens" | "model_context_window_exceeded" | "pause_turn" | "compaction" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

/// Returns the text of a block of one kind; empty for others.
fn text_of<'b>(block: &'b Object<'_>, kind: &str, member: &str) -> &'b str {
    if block.text("type") == Some(kind) { block.text(member).unwrap_or_default() } else { "" }
}

/// The parts of an assistant's message.
#[derive(Debug, Default)]
struct Parts<'a> {
    text: String,
    reasoning: Vec<String>,
    thinking: Vec<Json<'a>>,
    calls: Vec<Json<'a>>,
    /// The answer, where a tool stood in for its format.
    json: Option<String>,
}

impl<'a> Parts<'a> {
    fn add(&mut self, mut block: Object<'a>, context: &Context) {
        match block.text("type") {
            Some("text") => self.text.push_str(block.text("text").unwrap_or_default()),
            Some("thinking" | "redacted_thinking") => {
                let text = block.text("thinking").unwrap_or_default();
                if !text.is_empty() {
                    self.reasoning.push(text.to_owned());
                }
                self.thinking.push(block.into());
            }
            Some("tool_use") => {
                let input = match block.take("input") {
                    // A stream that was cut inside an input leaves its text.
                    Some(Json::Text(text)) => text.into_owned(),
                    Some(input) => input.to_string(),
                    None => "{}".to_owned(),
                };
                if context.json_tool.is_some() && block.text("name") == context.json_tool.as_deref() {
                    self.json.get_or_insert(input);
                } else {
                    self.call(block, input, context);
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, mut block: Object<'a>, arguments: String, context: &Context) {
        let sent = block.take("name").unwrap_or_else(|| "".into());
        let renamed = context.renamed.iter().find(|(name, _)| sent.as_text() == Some(name));
        let name = renamed.map_or(sent, |(_, name)| name.clone().into());
        let function = Object::new().with("name", name).with("arguments", arguments);
        let call = Object::new()
            .with("index", self.calls.len() as u64)
            .with_some("id", block.take("id"))
            .with("type", "function")
            .with("function", function);
        self.calls.push(call.into());
    }

    fn into_message(self, refusal: Option<String>) -> Object<'a> {
        let text = self.json.unwrap_or(self.text);
        let reasoning = self.reasoning.join("\n");
        Object::new()
            .with("role", "assistant")
            .with("content", if text.is_empty() { Json::Null } else { text.into() })
            .with("refusal", refusal.map_or(Json::Null, Json::from))
            .with_some("reasoning_content", (!reasoning.is_empty()).then_some(reasoning))
            .with_some("thinking_blocks", (!self.thinking.is_empty()).then_some(self.thinking))
            .with_some("tool_calls", (!self.calls.is_empty()).then_some(self.calls))
    }
}

/// Tokens as Anthropic counts them: `input` without what a cache held or took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    cache_write_5m: Option<u64>,
    cache_write_1h: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
}

impl Counts {
    /// Reads a `usage`.
    ///
    /// Its own counts leave out what compaction used, which stands under `iterations` and is billed like the rest. Other
    /// entries there are contained in the counts, or are another model's.
    fn of(usage: &Object<'_>) -> Self {
        let compactions = usage.get("iterations").and_then(Json::as_list).unwrap_or_default().iter();
        compactions
            .filter_map(Json::as_object)
            .filter(|iteration| iteration.text("type") == Some("compaction"))
            .fold(Self::one(usage), |sum, iteration| sum.plus(Self::one(iteration)))
    }

    fn one(usage: &Object<'_>) -> Self {
        let inner = |object: &str, member: &str| count(usage.get(object)?.as_object()?, member);
        Self {
            input: count(usage, "input_tokens"),
            cache_read: count(usage, "cache_read_input_tokens"),
            cache_write: count(usage, "cache_creation_input_tokens"),
            cache_write_5m: inner("cache_creation", "ephemeral_5m_input_tokens"),
            cache_write_1h: inner("cache_creation", "ephemeral_1h_input_tokens"),
            output: count(usage, "output_tokens"),
            thinking: inner("output_tokens_details", "thinking_tokens"),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            input: sum([self.input, other.input]),
            cache_read: sum([self.cache_read, other.cache_read]),
            cache_write: sum([self.cache_write, other.cache_write]),
            cache_write_5m: sum([self.cache_write_5m, other.cache_write_5m]),
            cache_write_1h: sum([self.cache_write_1h, other.cache_write_1h]),
            output: sum([self.output, other.output]),
            thinking: sum([self.thinking, other.thinking]),
        }
    }

    /// Returns all input, as OpenAI counts it.
    fn prompt(&self) -> Option<u64> {
        sum([self.input, self.cache_read, self.cache_write])
    }
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Self {
        let small = |count: Option<u64>| count.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        Self {
            input_tokens: small(counts.prompt()),
            cached_input_tokens: small(counts.cache_read),
            cache_write_tokens: small(counts.cache_write),
            output_tokens: small(counts.output),
            reasoning_tokens: small(counts.thinking),
        }
    }
}

/// Reads a count, which may be a number in quotes.
fn count(object: &Object<'_>, member: &str) -> Option<u64> {
    let value = object.get(member)?;
    value.as_count().or_else(|| value.as_text()?.trim().parse().ok())
}

/// Adds what is known; none if nothing is.
fn sum<const N: usize>(counts: [Option<u64>; N]) -> Option<u64> {
    counts.into_iter().flatten().reduce(u64::saturating_add)
}

/// Writes a `usage` as OpenAI does; what OpenAI has no name for keeps LiteLLM's or Anthropic's.
fn chat_usage(mut usage: Object<'_>) -> Object<'_> {
    let counts = Counts::of(&usage);
    let (prompt, completion) = (counts.prompt().unwrap_or_default(), counts.output.unwrap_or_default());
    let split =
        [("ephemeral_5m_input_tokens", counts.cache_write_5m), ("ephemeral_1h_input_tokens", counts.cache_write_1h)];
    let split: Object<'_> =
        split.into_iter().filter_map(|(name, count)| Some((name.into(), Json::from(count?)))).collect();
    let input = Object::new()
        .with("cached_tokens", counts.cache_read.unwrap_or_default())
        .with("cache_write_tokens", counts.cache_write.unwrap_or_default())
        .with("cache_creation_tokens", counts.cache_write.unwrap_or_default())
        .with_some("cache_creation_token_details", (!split.is_empty()).then_some(split));
    let output = Object::new().with("reasoning_tokens", counts.thinking.unwrap_or_default());
    Object::new()
        .with("prompt_tokens", prompt)
        .with("completion_tokens", completion)
        .with("total_tokens", prompt.saturating_add(completion))
        .with("prompt_tokens_details", input)
        .with("completion_tokens_details", output)
        .with_some("server_tool_use", usage.take("server_tool_use"))
        .with_some("inference_geo", usage.take("inference_geo"))
        .with_some("speed", usage.take("speed"))
}
