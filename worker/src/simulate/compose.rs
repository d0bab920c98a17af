//! Composes the answer to a request, once for all dialects.
//!
//! Owns what the model says: how long, in which form, whether it calls functions, thinks or refuses. The same request
//! with the same draws gets the same answer in every dialect.

use super::answer::{Answer, Choice, Content, Finish, Part, Text, ToolCall, Usage, part_id};
use super::embedding;
use super::fault::Twist;
use super::instance;
use super::plan::Draws;
use super::prose;
use super::random::{Purpose, Random};
use super::request::{Form, Request, Tool, ToolChoice};
use super::route::Operation;

/// Length of an embedding when the call names none, as `text-embedding-3-small` has it.
const DIMENSIONS: u64 = 1_536;

/// Words of a text that must be JSON of any form.
const JSON_WORDS: usize = 12;

/// Words of a refusal.
const REFUSAL_WORDS: usize = 9;

/// Letters of a word in a function's name by which a prompt can ask for it.
const TELLING_LETTERS: usize = 4;

/// What an answer is made from, besides the request.
#[derive(Debug)]
pub(super) struct Facts {
    /// Makes the answer's id.
    pub(super) id: u64,
    /// Unix time in seconds.
    pub(super) created: u64,
    /// Mean length of a text in tokens.
    pub(super) output_tokens: u32,
    pub(super) draws: Draws,
    /// What the answer is made to be.
    pub(super) twist: Option<Twist>,
}

impl Facts {
    /// Answers a request that has been checked, as this model.
    pub(super) fn compose<'a>(self, operation: Operation, request: &Request<'_>, model: &'a str) -> Answer<'a> {
        let mut random = self.draws.random(Purpose::Answer);
        let mut usage = Usage { input: request.prompt_tokens(), ..Usage::default() };
        let content = match operation {
            Operation::CountTokens => Content::Count,
            Operation::Embeddings => {
                let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
                let prompts = 0..request.prompt.items;
                Content::Vectors(prompts.map(|_| embedding::unit_vector(&mut random, dimensions)).collect())
            }
            Operation::Completions => self.choices(request, &mut random, request.prompt.items * request.choices),
            Operation::Chat | Operation::Responses | Operation::Messages => {
                self.choices(request, &mut random, request.choices)
            }
        };
        if let Content::Choices(choices) = &content {
            self.count(request, choices, &mut usage);
        }
        Answer { id: self.id, created: self.created, model, content, usage }
    }

    fn choices(&self, request: &Request<'_>, random: &mut Random, count: u64) -> Content {
        let mut thoughts = self.draws.random(Purpose::Thinking);
        Content::Choices((0..count).map(|index| self.choice(request, index, random, &mut thoughts)).collect())
    }

    fn choice(&self, request: &Request<'_>, index: u64, random: &mut Random, thoughts: &mut Random) -> Choice {
        let max = request.max_tokens.unwrap_or(u64::MAX);
        let mut parts = Vec::new();
        let mut left = max;
        if let Some(thinking) = self.thinking(request, thoughts, max) {
            left -= thinking.tokens();
            parts.push(Part::Thinking(thinking));
        }
        let finish = self.speak(request, index, left, random, &mut parts);
        Choice { parts, finish }
    }

    /// Thinks from a quarter to three quarters of the mean length, within the budget and the maximum.
    fn thinking(&self, request: &Request<'_>, random: &mut Random, max: u64) -> Option<Text> {
        let budget = request.thinking.as_ref()?.budget.unwrap_or(u64::MAX).min(max);
        let mean = self.output_tokens as usize;
        let wanted = (mean / 4 + random.below(mean / 2 + 1)).max(1);
        let tokens = usize::try_from(budget).map_or(wanted, |budget| wanted.min(budget));
        (tokens > 0).then(|| Text::prose(prose::text(random, tokens, true)))
    }

    /// Adds what the caller gets to read, at most `max` tokens of it.
    fn speak(&self, request: &Request<'_>, index: u64, max: u64, random: &mut Random, parts: &mut Vec<Part>) -> Finish {
        let mean = self.output_tokens as usize;
        let wanted = (mean / 2 + random.below(mean + 1)).max(1);
        if self.twist == Some(Twist::Refusal) {
            parts.push(Part::Refusal(Text::prose(prose::text(random, REFUSAL_WORDS, true))));
            return Finish::Refused;
        }
        let calls = self.calls(request, index, random);
        if !calls.is_empty() {
            if calls.iter().map(|call| call.arguments.tokens()).sum::<u64>() > max {
                return Finish::Length;
            }
            parts.extend(calls.into_iter().map(Part::Call));
            return Finish::ToolCalls;
        }

        let (mut text, mut finish) = self.text(request, wanted, max, random);
        if let Some(stop) = text.stop_at(&request.stop) {
            finish = Finish::StopSequence(stop);
        }
        let half = (text.tokens() / 2).max(1);
        match self.twist {
            Some(Twist::Length { tokens }) => {
                text.cut(tokens.unwrap_or(half).min(max));
                finish = Finish::Length;
            }
            Some(Twist::ContentFilter) => {
                text.cut(half);
                finish = Finish::Filtered;
            }
            Some(Twist::NoJson) if request.form != Form::Text => text.cut(half),
            _ => {}
        }
        if !text.text.is_empty() {
            parts.push(Part::Text(text));
        }
        finish
    }

    /// Makes the text in the form that is asked for.
    fn text(&self, request: &Request<'_>, wanted: usize, max: u64, random: &mut Random) -> (Text, Finish) {
        let is_spoilt = self.twist == Some(Twist::BadJson);
        let mut text = match &request.form {
            _ if self.twist == Some(Twist::Echo) => Text::other(request.prompt.last.as_ref().to_owned()),
            Form::Text => {
                let tokens = usize::try_from(max).map_or(wanted, |max| wanted.min(max));
                let is_cut = tokens < wanted;
                let text = Text::prose(prose::text(random, tokens, !is_cut));
                return (text, if is_cut { Finish::Length } else { Finish::Stop });
            }
            Form::Object => {
                let answer = prose::text(random, wanted.min(JSON_WORDS), true);
                let confidence = 50 + random.below(50);
                Text::other(if is_spoilt {
                    format!("[\"{answer}\"]")
                } else {
                    format!("{{\"answer\":\"{answer}\",\"confidence\":0.{confidence}}}")
                })
            }
            Form::Schema(schema) if is_spoilt => Text::other(instance::misfit(schema, random).to_string()),
            Form::Schema(schema) => Text::other(instance::fitting(schema, random).to_string()),
        };
        if text.tokens() <= max {
            return (text, Finish::Stop);
        }
        text.cut(max);
        (text, Finish::Length)
    }

    /// Calls the functions that are asked for, if any are.
    fn calls(&self, request: &Request<'_>, index: u64, random: &mut Random) -> Vec<ToolCall> {
        let asked = self.asked(request);
        let count = if request.parallel_calls { asked.len() } else { 1 };
        let calls = (0_u64..).zip(asked).take(count).map(|(number, tool)| {
            let mut arguments = Text::other(match self.twist {
                Some(Twist::BadJson) => instance::misfit(&tool.schema, random).to_string(),
                _ => instance::fitting(&tool.schema, random).to_string(),
            });
            if self.twist == Some(Twist::NoJson) {
                arguments.cut((arguments.tokens() / 2).max(1));
            }
            ToolCall { id: part_id(self.id, 1_000 * (index + 1) + number), name: tool.name.clone(), arguments }
        });
        calls.collect()
    }

    /// Chooses the functions to call: what must be called, else what the prompt names.
    ///
    /// A prompt names a function by a word of at least four letters of its name: `get_weather` by "weather".
    fn asked<'a>(&self, request: &'a Request<'_>) -> Vec<&'a Tool> {
        if matches!(self.twist, Some(Twist::Length { .. } | Twist::ContentFilter | Twist::Echo)) {
            return Vec::new();
        }
        let is_forced = match &request.tool_choice {
            ToolChoice::None => return Vec::new(),
            ToolChoice::Named(name) => return request.tools.iter().filter(|tool| tool.name == *name).take(1).collect(),
            ToolChoice::Required => true,
            ToolChoice::Auto if self.twist == Some(Twist::ToolCall) => true,
            ToolChoice::Auto if request.prompt.ends_with_result => return Vec::new(),
            ToolChoice::Auto => false,
        };
        let prompt = request.prompt.last.to_lowercase();
        let is_named = |name: &str| {
            let name = name.to_lowercase();
            let mut telling = name.split(['_', '-']).filter(|word| word.len() >= TELLING_LETTERS);
            prompt.contains(&name)
                || telling.any(|telling| prompt.split(|c: char| !c.is_alphanumeric()).any(|word| word == telling))
        };
        let named: Vec<_> = request.tools.iter().filter(|tool| is_named(&tool.name)).collect();
        if named.is_empty() && is_forced { request.tools.iter().take(1).collect() } else { named }
    }

    fn count(&self, request: &Request<'_>, choices: &[Choice], usage: &mut Usage) {
        for choice in choices {
            usage.output += choice.tokens();
            for part in &choice.parts {
                if let Part::Thinking(text) = part {
                    usage.thinking += text.tokens();
                }
            }
        }
        let cached = request.cached.tokens.min(usage.input);
        match (self.draws.is_first(), request.cached.is_for_an_hour) {
            (false, _) => usage.cache_read = cached,
            (true, false) => usage.cache_write_5m = cached,
            (true, true) => usage.cache_write_1h = cached,
        }
    }
}

#[cfg(test)]
mod tests;
