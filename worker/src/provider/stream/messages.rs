//! The events of Anthropic's Messages.
//!
//! <https://platform.claude.com/docs/en/build-with-claude/streaming>, read 2026-11: events and deltas that nobody knows are
//! passed over, and usage is cumulative.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use super::{Delta, MOST_PARTS, Step, append, overlay};

/// A message in the making.
#[derive(Debug, Default)]
pub(in super::super) struct Messages {
    message: Map<String, Value>,
    blocks: Vec<Block>,
    is_whole: bool,
    began: bool,
}

#[derive(Debug)]
struct Block {
    index: u64,
    members: Map<String, Value>,
    /// The input of a tool call, as JSON text in pieces.
    input: String,
}

/// A message that is put together.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    message: Map<String, Value>,
    content: Vec<WholeBlock>,
}

#[derive(Serialize)]
struct WholeBlock {
    #[serde(flatten)]
    members: Map<String, Value>,
    /// As it was sent: its keys have an order, and its numbers digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Box<RawValue>>,
}

impl Messages {
    pub(super) const fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(super) const fn began(&self) -> bool {
        self.began
    }

    pub(super) fn event(&mut self, name: &str, mut event: Map<String, Value>, show: &mut dyn FnMut(Delta<'_>)) -> Step {
        let kind = event.get("type").and_then(Value::as_str).unwrap_or(name).to_owned();
        match kind.as_str() {
            "error" => return Step::Failed(Value::Object(event)),
            "message_start" => {
                if let Some(Value::Object(message)) = event.remove("message") {
                    self.message = message;
                }
            }
            "content_block_start" if self.blocks.len() >= MOST_PARTS => return Step::Unreadable,
            "content_block_start" => self.start(event, show),
            "content_block_delta" => {
                let index = event.get("index").and_then(Value::as_u64).unwrap_or(0);
                if let Some(Value::Object(delta)) = event.remove("delta")
                    // The last one is the one that goes on.
                    && let Some(block) = self.blocks.iter_mut().rev().find(|block| block.index == index)
                {
                    self.began |= block.delta(delta, show);
                }
            }
            "message_delta" => {
                if let Some(Value::Object(delta)) = event.remove("delta") {
                    overlay(&mut self.message, delta);
                }
                if let Some(Value::Object(usage)) = event.remove("usage") {
                    let mut known = match self.message.remove("usage") {
                        Some(Value::Object(known)) => known,
                        _ => Map::new(),
                    };
                    overlay(&mut known, usage);
                    self.message.insert("usage".to_owned(), known.into());
                }
            }
            "message_stop" => {
                self.is_whole = true;
                return Step::End;
            }
            _ => {}
        }
        Step::More
    }

    fn start(&mut self, mut event: Map<String, Value>, show: &mut dyn FnMut(Delta<'_>)) {
        let index = event.get("index").and_then(Value::as_u64).unwrap_or(self.blocks.len() as u64);
        let Some(Value::Object(members)) = event.remove("content_block") else { return };
        if let Some(text) = members.get("text").and_then(Value::as_str).filter(|text| !text.is_empty()) {
            self.began = true;
            show(Delta::Text(text));
        }
        self.began |= members.get("type").and_then(Value::as_str) == Some("tool_use");
        self.blocks.push(Block { index, members, input: String::new() });
    }

    pub(super) fn finish(mut self) -> (impl Serialize, String) {
        let mut text = String::new();
        self.blocks.sort_by_key(|block| block.index);
        let mut content = Vec::with_capacity(self.blocks.len());
        for block in self.blocks {
            if block.members.get("type").and_then(Value::as_str) == Some("text") {
                text.push_str(block.members.get("text").and_then(Value::as_str).unwrap_or_default());
            }
            content.push(block.finish());
        }
        self.message.remove("content");
        (Whole { message: self.message, content }, text)
    }
}

impl Block {
    /// Puts a delta in; tells whether it holds output.
    fn delta(&mut self, mut delta: Map<String, Value>, show: &mut dyn FnMut(Delta<'_>)) -> bool {
        let mut text_of = |key: &str| match delta.remove(key) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let kind = text_of("type");
        match kind.as_str() {
            "text_delta" => {
                let text = text_of("text");
                show(Delta::Text(&text));
                append(&mut self.members, "text", &text);
                !text.is_empty()
            }
            "thinking_delta" => {
                let text = text_of("thinking");
                show(Delta::Reasoning(&text));
                append(&mut self.members, "thinking", &text);
                !text.is_empty()
            }
            "signature_delta" => {
                let text = text_of("signature");
                append(&mut self.members, "signature", &text);
                false
            }
            "input_json_delta" => {
                let text = text_of("partial_json");
                self.input.push_str(&text);
                true
            }
            "citations_delta" => {
                if let Some(citation) = delta.remove("citation") {
                    match self.members.get_mut("citations") {
                        Some(Value::Array(all)) => all.push(citation),
                        _ => {
                            self.members.insert("citations".to_owned(), vec![citation].into());
                        }
                    }
                }
                false
            }
            _ => false,
        }
    }

    fn finish(mut self) -> WholeBlock {
        if self.input.is_empty() {
            return WholeBlock { members: self.members, input: None };
        }
        self.members.remove("input");
        // Text that is no JSON is kept as it is: whoever translates it says so.
        let input = serde_json::from_str(&self.input).or_else(|_| to_raw_value(&self.input));
        WholeBlock { members: self.members, input: input.ok() }
    }
}
