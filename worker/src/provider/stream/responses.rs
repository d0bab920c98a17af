//! The events of OpenAI's Responses API: the last one carries the whole response.
//!
//! <https://platform.openai.com/docs/api-reference/responses-streaming>, read 2026-11.

use serde_json::{Map, Value};

use super::{Delta, Step, is_set};

/// A response in the making.
#[derive(Debug, Default)]
pub(in super::super) struct Responses {
    /// The response as it was told last.
    response: Map<String, Value>,
    text: String,
    is_whole: bool,
    began: bool,
}

impl Responses {
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
            "response.output_text.delta" => {
                if let Some(text) = event.get("delta").and_then(Value::as_str) {
                    self.began |= !text.is_empty();
                    self.text.push_str(text);
                    show(Delta::Text(text));
                }
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                if let Some(text) = event.get("delta").and_then(Value::as_str) {
                    self.began |= !text.is_empty();
                    show(Delta::Reasoning(text));
                }
            }
            kind if kind.ends_with(".delta") => self.began = true,
            _ => {
                if let Some(Value::Object(response)) = event.remove("response") {
                    self.response = response;
                    if kind == "response.failed" {
                        return Step::Failed(Value::Object(self.response.clone()));
                    }
                    self.is_whole =
                        matches!(kind.as_str(), "response.completed" | "response.incomplete" | "response.cancelled");
                    if self.is_whole {
                        return Step::End;
                    }
                } else if is_set(event.get("error")) {
                    return Step::Failed(Value::Object(event));
                }
            }
        }
        Step::More
    }

    pub(super) fn finish(self) -> (Map<String, Value>, String) {
        (self.response, self.text)
    }
}
