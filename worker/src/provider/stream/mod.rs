//! Answers that come in pieces, put together again into what a plain call would have answered.
//!
//! Owns the three dialects of a stream: OpenAI's chunks, the events of its Responses API, and Anthropic's. Reads events and
//! makes one body; what that body means is for whoever reads plain bodies. Pure: no I/O and no clock.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

mod chat;
mod messages;
mod responses;
mod sse;

pub(super) use sse::{Event, Parser, begins_as_stream};

use super::address::Api;

/// A piece of output, as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta<'a> {
    /// Text of the answer.
    Text(&'a str),
    /// Text that the model thinks, where the provider shows it.
    Reasoning(&'a str),
}

/// What an event did.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Something of the answer, or nothing of note.
    More,
    /// The answer is whole.
    End,
    /// The provider says that it failed; the object says why.
    Failed(Value),
    /// The event is not JSON, or one too many.
    Unreadable,
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assembled {
    /// The body that a plain call would have answered, as far as it came.
    pub(super) body: Bytes,
    /// Whether the provider ended it as an answer.
    pub(super) is_whole: bool,
    /// Whether any output came.
    pub(super) began: bool,
    /// The text of the answer, as far as it came.
    pub(super) text: String,
}

/// Puts the events of one stream together.
#[derive(Debug)]
pub(super) enum Assembler {
    /// Chunks of chat completions and completions.
    Chat(chat::Chat),
    /// Events of the Responses API.
    Responses(responses::Responses),
    /// Events of Anthropic's Messages.
    Messages(messages::Messages),
}

impl Assembler {
    /// Makes the one for an API of OpenAI's.
    ///
    /// A stream of so many choices is whole when each of them has ended.
    pub(super) fn of(api: Api, choices: usize) -> Self {
        match api {
            Api::Responses => Self::Responses(responses::Responses::default()),
            Api::Messages => Self::Messages(messages::Messages::default()),
            Api::Chat | Api::Completions | Api::Embeddings | Api::Other => {
                Self::Chat(chat::Chat::new(api == Api::Completions, choices))
            }
        }
    }

    /// Reads an event; `show` gets the output in it.
    pub(super) fn event(&mut self, event: Event<'_>, show: &mut dyn FnMut(Delta<'_>)) -> Step {
        if event.data.trim() == "[DONE]" {
            return match self {
                Self::Chat(chat) => chat.done(),
                // The others end with an event of their own.
                Self::Responses(_) | Self::Messages(_) => Step::More,
            };
        }
        if event.data.trim().is_empty() {
            return Step::More;
        }
        if !event.is_text {
            return Step::Unreadable;
        }
        let Ok(Value::Object(object)) = serde_json::from_str(event.data) else {
            return Step::Unreadable;
        };
        match self {
            Self::Chat(chat) => chat.event(object, show),
            Self::Responses(responses) => responses.event(event.name, object, show),
            Self::Messages(messages) => messages.event(event.name, object, show),
        }
    }

    /// Tells whether the answer is whole if the stream ends now.
    pub(super) fn is_whole(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.is_whole(),
            Self::Responses(responses) => responses.is_whole(),
            Self::Messages(messages) => messages.is_whole(),
        }
    }

    /// Tells whether any output came.
    pub(super) fn began(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.began(),
            Self::Responses(responses) => responses.began(),
            Self::Messages(messages) => messages.began(),
        }
    }

    /// Makes the body.
    pub(super) fn finish(self) -> Assembled {
        let (is_whole, began) = (self.is_whole(), self.began());
        let (body, text) = match self {
            Self::Chat(chat) => written(chat.finish()),
            Self::Responses(responses) => written(responses.finish()),
            Self::Messages(messages) => written(messages.finish()),
        };
        Assembled { body, is_whole, began, text }
    }
}

fn written((body, text): (impl Serialize, String)) -> (Bytes, String) {
    // Every key is a string: nothing in it refuses to be written.
    (serde_json::to_vec(&body).unwrap_or_default().into(), text)
}

/// Most choices, calls of tools, or blocks of one answer; more are no answer.
const MOST_PARTS: usize = 4_096;

/// Tells whether a member says that something went wrong: present, and neither null, false nor empty.
fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
        Some(_) => true,
    }
}

/// Puts the members of `from` into `into`, where they say anything.
fn overlay(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        if !value.is_null() {
            into.insert(key, value);
        }
    }
}

/// Appends a text to the text of a member.
fn append(object: &mut Map<String, Value>, key: &str, text: &str) {
    match object.get_mut(key) {
        Some(Value::String(all)) => all.push_str(text),
        _ => {
            object.insert(key.to_owned(), Value::from(text));
        }
    }
}

#[cfg(test)]
mod tests;
