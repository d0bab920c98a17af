//! What a call asks for, whatever dialect it is written in.
//!
//! Owns what follows from a request alone: the marker, the script, the size of the prompt. Reading a body is the
//! dialect's.

use std::borrow::Cow;

use serde_json::Value;

use super::answer::CHARS_PER_TOKEN;
use super::fault;
use super::prompt::Prompt;

/// Characters of a prompt that stand for the job when the call carries no better marker.
const MARKER_CHARS: usize = 64;

/// A request that has been read.
#[derive(Debug, Default)]
pub(super) struct Request<'a> {
    pub(super) model: Cow<'a, str>,
    pub(super) tags: Tags<'a>,
    pub(super) prompt: Prompt<'a>,
    /// The longest answer that the caller takes, in tokens.
    pub(super) max_tokens: Option<u64>,
    /// Choices wanted for each prompt.
    pub(super) choices: u64,
    pub(super) stream: bool,
    /// Whether a stream of OpenAI's ends with the usage.
    pub(super) stream_usage: bool,
    pub(super) form: Form,
    pub(super) tools: Vec<Tool>,
    pub(super) tool_choice: ToolChoice,
    /// Whether several functions may be called at once.
    pub(super) parallel_calls: bool,
    /// Texts that end the answer.
    pub(super) stop: Vec<String>,
    /// `None` answers at once.
    pub(super) thinking: Option<Thinking>,
    pub(super) cached: Cached,
    /// Length of an embedding.
    pub(super) dimensions: Option<u64>,
    /// Whether embeddings are wanted as base64.
    pub(super) as_base64: bool,
    /// The first thing in it that no provider of this dialect would take.
    pub(super) wrong: Option<Malformed>,
}

/// What a call carries beside its prompt.
#[derive(Debug, Default)]
pub(super) struct Tags<'a> {
    /// `metadata.gristmill_job`.
    pub(super) job: Option<Cow<'a, str>>,
    /// `metadata.simulate`.
    pub(super) script: Option<Cow<'a, str>>,
    /// OpenAI's `user`, Anthropic's `metadata.user_id`.
    pub(super) user: Option<Cow<'a, str>>,
}

/// The form that a text must have.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Form {
    #[default]
    Text,
    /// Any JSON object.
    Object,
    /// JSON that fits this schema.
    Schema(Value),
}

/// A function of the caller.
#[derive(Debug, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    /// What its arguments must fit.
    pub(super) schema: Value,
}

/// Which functions may or must be called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum ToolChoice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// How the model is to think before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thinking {
    /// Tokens at most; `None` is no limit but the maximum of the answer.
    pub(super) budget: Option<u64>,
    /// Whether the caller gets to see the thoughts.
    pub(super) is_shown: bool,
}

/// The beginning of the prompt that the caller wants cached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) tokens: u64,
    /// For an hour, not for five minutes.
    pub(super) is_for_an_hour: bool,
}

/// Why a body is refused with status 400.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) message: String,
    /// The parameter at fault, where the dialect names it apart from the message.
    pub(super) param: Option<Cow<'static, str>>,
    pub(super) code: Option<&'static str>,
}

impl Malformed {
    /// Says what is wrong in words alone.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), param: None, code: None }
    }
}

impl Request<'_> {
    /// Checks what every provider of this dialect insists on.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        self.wrong.clone().map_or(Ok(()), Err)
    }

    /// Returns what the call is counted by: the job, the user, or how the prompt begins.
    pub(super) fn marker(&self) -> &str {
        let named = self.tags.job.as_deref().or(self.tags.user.as_deref());
        named.unwrap_or_else(|| {
            let prompt = self.prompt.last.as_ref();
            let end = prompt.char_indices().nth(MARKER_CHARS).map_or(prompt.len(), |(at, _)| at);
            &prompt[..end]
        })
    }

    /// Returns the script that the call carries, in `metadata.simulate`, its user or its prompt.
    pub(super) fn script(&self) -> Option<&str> {
        if let Some(text) = self.tags.script.as_deref() {
            return fault::find_script(text).or(Some(text));
        }
        self.tags.user.as_deref().and_then(fault::find_script).or_else(|| fault::find_script(&self.prompt.last))
    }

    /// Estimates the tokens of the prompt: four characters make one.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.prompt.tokens + self.prompt.chars.div_ceil(CHARS_PER_TOKEN)
    }
}
