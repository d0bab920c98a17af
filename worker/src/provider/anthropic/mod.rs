//! Anthropic's Messages, translated from and to OpenAI's chat format.
//!
//! Owns what a chat request becomes, what a message becomes, and what of a chat request is refused. Pure: no I/O, no clock,
//! nothing kept between calls. Streamed answers are put together into a message elsewhere and read here like any other. A body
//! in Anthropic's own format is not touched; [`Message`] reads its answer.
//!
//! What is translated how stands in `docs/providers-anthropic.md`, for users. Facts from
//! <https://platform.claude.com/docs/en/api/messages/create> and the pages beside it, read 2026-08-22, and from LiteLLM
//! 1.109.1, read 2026-11-23.

mod effort;
mod json;
mod media;
mod model;
mod part;
mod refusal;
mod request;
mod response;
mod schema;
mod tool;
mod turn;

#[cfg(test)]
mod tests;

pub(in crate::provider) use model::max_output_tokens;
pub(in crate::provider) use refusal::{Refusal, Unread};
pub(in crate::provider) use request::to_messages;
pub(in crate::provider) use response::{Message, to_chat};

/// The member of an assistant's message that holds its blocks as Anthropic wrote them, where the chat format cannot.
///
/// [`to_chat`] writes it and [`to_messages`] sends it back untouched: a turn with server tools or with thinking between
/// texts must return as it came.
const CONTENT: &str = "anthropic_content";

/// What decides a translation beside the request itself.
#[derive(Debug, Clone, Copy)]
pub(in crate::provider) struct Options<'a> {
    /// The deployment's model, without a provider's prefix.
    pub(in crate::provider) model: &'a str,
    /// Whether parameters that Anthropic does not take are left out, instead of refused.
    pub(in crate::provider) drop_params: bool,
    /// `max_tokens` of a request that names none.
    pub(in crate::provider) default_max_tokens: u32,
    /// Whether the answer is to be streamed, whatever the request says.
    pub(in crate::provider) stream: bool,
    /// The service tier to ask for; `None` leaves what the request says.
    pub(in crate::provider) service_tier: Option<&'a str>,
}

/// What reading the answer to a translated request needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::provider) struct Context {
    /// The model that was asked.
    model: String,
    /// Tools whose names were rewritten: the name that was sent, and the user's.
    renamed: Vec<(String, String)>,
    /// The tool whose call is the answer, where it stands in for a format of the output.
    json_tool: Option<String>,
}
