//! The tokens of a request: what its body says, how its messages are framed, its images and tools.
//!
//! Reads the bodies of chat, responses, completions and embeddings, and Anthropic's Messages. What it does not know it counts
//! as what it most looks like; no body is an error.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::image::{self, Rule};
use crate::node::{Node, Text};
use crate::{Family, estimate, text};

/// Tokens around a message, for a name, and before the answer: <https://developers.openai.com/cookbook/examples/how_to_count_tokens_with_tiktoken>,
/// read 2026-11.
const MESSAGE: u64 = 3;
const NAME: u64 = 1;
const ANSWER: u64 = 3;
/// Bytes of text that a token is where nothing better is known.
const BYTES_PER_TOKEN: u64 = 4;

/// How a model counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    family: Option<Family>,
    images: Rule,
    /// Whether it reads texts without messages around them.
    is_plain: bool,
}

/// What a request seems to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    /// Tokens of the input.
    pub input_tokens: u64,
    /// Bytes of the input's text; what is no text counts as 4 bytes a token.
    pub input_bytes: u64,
    /// Most tokens of the output, over all choices, where the request says.
    pub most_output_tokens: Option<u64>,
    /// Answers that it asks for, where it says.
    pub choices: Option<u64>,
    /// Whether whoever sends it on may set its `max_tokens`: it is of an API that has them, and has none.
    pub is_open: bool,
}

impl Model {
    /// Returns how a provider's model counts.
    pub fn of(provider: &str, model: &str) -> Self {
        Self {
            family: Family::of(provider, model),
            images: Rule::of(provider, model),
            is_plain: model.contains("embed"),
        }
    }

    /// Returns the same model without its tokenizer: texts are estimated, which takes a fraction of the time.
    #[must_use]
    pub fn rough(self) -> Self {
        Self { family: None, ..self }
    }

    /// Tells whether it can count at once, without building tables.
    pub fn is_ready(&self) -> bool {
        self.family.is_none_or(text::is_ready)
    }
}

impl Request {
    /// Reads a body; `None` if it is no JSON object.
    pub fn read(body: &[u8], model: &Model) -> Option<Self> {
        let fields: BTreeMap<Text<'_>, &RawValue> = serde_json::from_slice(body).ok()?;
        let fields: BTreeMap<&str, &str> = fields.iter().map(|(name, value)| (&*name.0, value.get())).collect();
        let mut counter = Counter { model, tokens: 0, bytes: 0 };
        for (name, value) in &fields {
            counter.field(name, value);
        }
        let number = |name: &str| fields.get(name).and_then(|value| serde_json::from_str::<u64>(value).ok());
        let most =
            number("max_completion_tokens").or_else(|| number("max_tokens")).or_else(|| number("max_output_tokens"));
        let choices = number("n").map(|choices| choices.max(1));
        let has = |names: &[&str]| names.iter().any(|name| fields.contains_key(name));
        Some(Self {
            input_tokens: counter.tokens.max(1),
            input_bytes: counter.bytes,
            most_output_tokens: most.map(|most| most.saturating_mul(choices.unwrap_or(1))),
            choices,
            is_open: has(&["messages", "prompt"]) && !has(&["max_tokens", "max_completion_tokens"]),
        })
    }
}

#[derive(Debug)]
struct Counter<'m> {
    model: &'m Model,
    tokens: u64,
    bytes: u64,
}

impl Counter<'_> {
    /// Counts a field of the body.
    fn field(&mut self, name: &str, value: &str) {
        match name {
            // Models are shown tools and schemas in a form of their provider's own, not far from JSON in length.
            "tools" | "functions" => self.text(value),
            "response_format" | "text" | "output_format" | "output_config" if value.contains("\"schema\"") => {
                self.text(value);
            }
            "messages" | "input" | "prompt" | "system" | "instructions" => match serde_json::from_str(value) {
                Ok(node) => self.input(name, &node),
                // Nested too deeply.
                Err(_) => self.text(value),
            },
            _ => {}
        }
    }

    fn input(&mut self, name: &str, node: &Node<'_>) {
        match (name, node) {
            ("messages" | "input", Node::List(items, numbers)) => {
                self.fixed(*numbers);
                for item in items {
                    if let Node::Fields(_) = item {
                        self.fixed(MESSAGE);
                    }
                    self.content(item);
                }
                if items.iter().any(|item| matches!(item, Node::Fields(_))) {
                    self.fixed(ANSWER);
                }
            }
            ("input", Node::Text(_)) if !self.model.is_plain => {
                self.fixed(MESSAGE + ANSWER);
                self.content(node);
            }
            ("system" | "instructions", Node::Text(_) | Node::List(..)) => {
                self.fixed(MESSAGE);
                self.content(node);
            }
            _ => self.content(node),
        }
    }

    /// Counts a message, a part of one, or what these hold.
    fn content(&mut self, node: &Node<'_>) {
        match node {
            Node::Text(text) => self.text(&text.0),
            Node::List(items, numbers) => {
                self.fixed(*numbers);
                items.iter().for_each(|item| self.content(item));
            }
            Node::Fields(fields) => {
                for (name, value) in fields {
                    self.part(node, &name.0, value);
                }
            }
            Node::Number => self.fixed(1),
            Node::Word => {}
        }
    }

    /// Counts a field of a message or a part.
    fn part(&mut self, part: &Node<'_>, name: &str, value: &Node<'_>) {
        match name {
            "type" | "id" | "status" | "index" | "tool_call_id" | "tool_use_id" | "call_id" | "cache_control"
            | "detail" | "signature" | "encrypted_content" | "prompt_cache_key" => {}
            "name" if part.field("role").is_some() => {
                self.fixed(NAME);
                self.content(value);
            }
            "image_url" => {
                let (url, detail) = match value {
                    Node::Text(url) => (Some(&*url.0), part.text("detail")),
                    _ => (value.text("url"), value.text("detail")),
                };
                let size = url.and_then(inlined).and_then(image::size_of);
                self.fixed(self.model.images.tokens(size, detail == Some("low")));
            }
            "source" => match (part.text("type"), value.text("type")) {
                (Some("image"), _) => {
                    let size = value.text("data").and_then(image::size_of);
                    self.fixed(self.model.images.tokens(size, false));
                }
                (_, Some("text" | "content")) => self.content(value),
                _ => self.fixed(image::USUAL),
            },
            "media_type" => {}
            "input_audio" | "file" | "file_data" | "file_id" | "file_url" | "video_url" | "audio_url" => {
                self.fixed(image::USUAL);
            }
            // A tool's arguments as Anthropic has them.
            "input" => self.free(value),
            _ => self.content(value),
        }
    }

    /// Counts JSON of a job's own, with its names and signs.
    fn free(&mut self, node: &Node<'_>) {
        match node {
            Node::Fields(fields) => {
                for (name, value) in fields {
                    self.text(&name.0);
                    self.fixed(2);
                    self.free(value);
                }
            }
            Node::List(items, numbers) => {
                self.fixed(2 * numbers);
                items.iter().for_each(|item| self.free(item));
            }
            Node::Text(text) => self.text(&text.0),
            Node::Number | Node::Word => self.fixed(1),
        }
    }

    fn text(&mut self, text: &str) {
        // The content of a file, which no model reads as text, however it came here.
        if inlined(text).is_some() {
            return self.fixed(image::USUAL);
        }
        let tokens = match self.model.family {
            Some(family) => crate::count(family, text),
            None => estimate(text),
        };
        self.tokens += tokens as u64;
        self.bytes += text.len() as u64;
    }

    const fn fixed(&mut self, tokens: u64) {
        self.tokens += tokens;
        self.bytes += BYTES_PER_TOKEN * tokens;
    }
}

/// Returns the base64 of a `data:` address.
fn inlined(url: &str) -> Option<&str> {
    let scheme = url.get(..5)?;
    let (kind, data) = url[5..].split_once(',').filter(|_| scheme.eq_ignore_ascii_case("data:"))?;
    kind.get(kind.len().checked_sub(7)?..)?.eq_ignore_ascii_case(";base64").then_some(data)
}

#[cfg(test)]
mod tests;
