//! How long the answer may be, and how much the model thinks for it.
//!
//! <https://platform.claude.com/docs/en/build-with-claude/thinking>, `…/extended-thinking` and `…/effort`, read 2026-08-22;
//! the budgets are LiteLLM 1.109.1's.

use super::json::{Json, Object};
use super::model::{Model, Thinking, Unasked};
use super::refusal::{Lost, Refusal};

/// The least budget that Anthropic takes.
const MIN_BUDGET: u64 = 1024;

/// What a request without a limit gets beyond its budget, at least.
const ROOM: u64 = 4096;

/// What is sent of limits and thinking.
#[derive(Debug)]
pub(super) struct Effort<'a> {
    /// At least 1.
    pub(super) max_tokens: u64,
    pub(super) thinking: Option<Json<'a>>,
    /// `output_config.effort`.
    pub(super) level: Option<&'static str>,
}

impl<'a> Effort<'a> {
    /// Reads `max_completion_tokens`, `max_tokens`, `thinking` and `reasoning_effort`, which it takes out of the request.
    ///
    /// `forced` is whether a tool must be called, which a model with a budget cannot while it thinks.
    pub(super) fn read(
        asked: &mut Object<'a>,
        model: &Model,
        default_max_tokens: u32,
        forced: bool,
        lost: &mut Lost,
    ) -> Result<Self, Refusal> {
        let limit = max_tokens(asked)?;
        let default = u64::from(default_max_tokens).max(1);
        let effort = asked.take("reasoning_effort");
        if let Some(thinking) = asked.take("thinking") {
            let budget = thinking.as_object().and_then(|thinking| thinking.get("budget_tokens")?.as_count());
            let least = budget.map_or(default, |budget| default.max(budget.saturating_add(ROOM)));
            return Ok(Self { max_tokens: limit.unwrap_or(least), thinking: Some(thinking), level: None });
        }
        let mut read = Self { max_tokens: limit.unwrap_or(default), thinking: None, level: None };
        let Some(effort) = effort else { return Ok(read) };
        let Some((level, budget)) = effort.as_text().and_then(known) else {
            return Err(Refusal::bad("reasoning_effort", "is none of none, minimal, low, medium, high, xhigh and max"));
        };
        match model.thinking {
            _ if budget == 0 => {
                read.thinking = (model.unasked == Unasked::Yes).then(|| Object::of("disabled").into());
            }
            Thinking::None => lost.note("reasoning_effort", "this model does not think"),
            Thinking::Adaptive => {
                read.thinking = Some(Object::of("adaptive").with("display", "summarized").into());
                read.level = Some(if level == "xhigh" && !model.xhigh { "high" } else { level });
            }
            Thinking::Budget if forced => {
                lost.note("reasoning_effort", "this model cannot think where tool_choice forces it to call a tool");
            }
            Thinking::Budget => read.think(budget, limit),
        }
        Ok(read)
    }

    /// Tells whether the model is asked to think.
    pub(super) fn thinks(&self) -> bool {
        let kind = self.thinking.as_ref().and_then(Json::as_object).and_then(|thinking| thinking.text("type"));
        matches!(kind, Some("enabled" | "adaptive"))
    }

    /// Gives a budget, which must be below the limit; with a limit too low for any, the model does not think.
    fn think(&mut self, budget: u64, limit: Option<u64>) {
        let budget = match limit {
            Some(limit) if limit <= MIN_BUDGET => return,
            Some(limit) => budget.min(limit - 1),
            None => {
                self.max_tokens = self.max_tokens.max(budget + ROOM);
                budget
            }
        };
        self.thinking = Some(Object::of("enabled").with("budget_tokens", budget).into());
    }
}

/// Returns the level and the budget of an effort.
fn known(effort: &str) -> Option<(&'static str, u64)> {
    Some(match effort {
        "none" => ("low", 0),
        "minimal" => ("low", MIN_BUDGET),
        "low" => ("low", 1024),
        "medium" => ("medium", 2048),
        "high" => ("high", 4096),
        "xhigh" => ("xhigh", 8192),
        "max" => ("max", 16_384),
        _ => return None,
    })
}

fn max_tokens(asked: &mut Object<'_>) -> Result<Option<u64>, Refusal> {
    let older = asked.take("max_tokens").map(|value| ("max_tokens", value));
    let newer = asked.take("max_completion_tokens").map(|value| ("max_completion_tokens", value));
    let Some((name, value)) = newer.or(older) else { return Ok(None) };
    match value.as_count() {
        Some(limit) if limit > 0 => Ok(Some(limit)),
        _ => Err(Refusal::bad(name, "is not a whole number above 0")),
    }
}
