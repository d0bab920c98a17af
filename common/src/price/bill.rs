//! What one call costs, and why.
//!
//! LiteLLM's rules, version 1.109.1 (`cost_calculator.py`, `litellm_core_utils/llm_cost_calc/utils.py`, read 2026-11-23).

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::decimal::Decimal;
use super::field::{self, OUTPUT};
use super::rates::{Case, Rates};
use super::split::{Completion, Prompt};
use super::{PicoUsd, Price, ServiceTier, Usage, batch};

/// What Gemini bills for a search where a row does not say (LiteLLM 1.109.1, `llms/gemini/cost_calculator.py`).
const GEMINI_SEARCH: Decimal = Decimal::thousandths(35);

/// Providers whose answers say what they cost.
const REPORTING: [&str; 3] = ["openrouter", "perplexity", "xai"];

/// What kind of call was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Call {
    /// One request and its answer.
    #[default]
    Completion,
    /// One request of a provider's own batch API.
    Batch,
    /// An embedding.
    Embedding,
}

/// What a bill depends on beside the usage.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The provider's name, as [`Deployment`](crate::config::Deployment) has it; where it is not known, the row's own.
    pub provider: Option<&'a str>,
    /// The service tier that was asked for.
    pub requested_tier: Option<&'a str>,
    /// The service tier that the answer says was served; where it says none, the usage may.
    pub served_tier: Option<&'a str>,
    /// What kind of call it was.
    pub call: Call,
    /// When it was made; some prices change by the hour.
    pub at: DateTime<Utc>,
    /// Where the data stays, `eu` or `us`, if the call went to such an endpoint; at Vertex AI, a region that is not `global`.
    pub data_residency: Option<&'a str>,
}

impl Terms<'_> {
    /// Makes the terms of a plain call at an instant.
    pub const fn at(at: DateTime<Utc>) -> Self {
        Self {
            provider: None,
            requested_tier: None,
            served_tier: None,
            call: Call::Completion,
            at,
            data_residency: None,
        }
    }
}

/// Which sum of a bill a term counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The input.
    Prompt,
    /// The output.
    Completion,
    /// Fees of tools.
    Tools,
}

/// One term of a bill: a quantity at a rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Term {
    /// The sum that it counts in.
    pub part: Part,
    /// What was used, for people.
    pub what: &'static str,
    /// How much of it: tokens, or searches.
    pub quantity: u64,
    /// Dollars for one, multipliers included.
    pub rate: Decimal,
    /// The quantity at the rate, rounded.
    #[serde(rename = "pico_usd")]
    pub amount: PicoUsd,
}

/// A multiplier that all rates of tokens have in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Factor {
    /// What it is for, for people.
    pub why: String,
    /// The multiplier.
    pub factor: Decimal,
}

/// What one call costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Bill {
    /// The input.
    #[serde(rename = "prompt_pico_usd")]
    pub prompt: PicoUsd,
    /// The output; all of it where the provider says no more than the sum.
    #[serde(rename = "completion_pico_usd")]
    pub completion: PicoUsd,
    /// Fees of tools.
    #[serde(rename = "tools_pico_usd")]
    pub tools: PicoUsd,
    /// All of it, rounded once.
    #[serde(rename = "total_pico_usd")]
    pub total: PicoUsd,
    /// Whether the provider says so itself.
    pub is_reported: bool,
    /// What the sums are made of.
    pub terms: Vec<Term>,
    /// Multipliers that are in the terms' rates.
    pub factors: Vec<Factor>,
}

impl Bill {
    /// Makes the bill of a call whose provider says what it cost, which counts more than any table; `None` where it does not,
    /// or where what it says is not known to be what it bills.
    pub fn reported(usage: &Usage, provider: &str) -> Option<Self> {
        let cost = usage.cost_pico_usd.filter(|_| REPORTING.contains(&provider))?;
        Some(Self { completion: cost, total: cost, is_reported: true, ..Self::default() })
    }
}

impl Price {
    /// Returns what a call costs; `None` where the row has no price of tokens and the provider tells no cost.
    pub fn bill(&self, usage: &Usage, terms: &Terms<'_>) -> Option<Bill> {
        let provider = terms.provider.or(self.provider.as_deref()).unwrap_or_default();
        if let Some(bill) = Bill::reported(usage, provider) {
            return Some(bill);
        }
        if !self.has_token_prices() {
            return None;
        }
        let served = terms.served_tier.or(usage.service_tier.as_deref());
        let tier = ServiceTier::resolve(terms.requested_tier, served);
        let case = Case {
            provider,
            tier: tier.filter(|_| ServiceTier::counts_at(provider)),
            prompt_tokens: usage.prompt_tokens,
            at: terms.at,
        };
        let mut lines = Lines::default();
        if terms.call == Call::Batch {
            batch::add(&mut lines, self, usage, &case);
        } else {
            lines.factors = self.factors_of(usage, provider, terms.data_residency);
            self.add_tokens(&mut lines, usage, &case);
        }
        self.add_searches(&mut lines, usage, provider);
        Some(lines.bill())
    }

    /// Returns what the tokens of many calls cost at the plain rates: of no tier, of short prompts, at no special hour, without
    /// what a provider says itself; `None` where the row has no price of tokens.
    pub fn bill_sum(&self, usage: &Usage) -> Option<Bill> {
        if !self.has_token_prices() {
            return None;
        }
        let mut plain = self.clone();
        plain.off_peak = None;
        let provider = self.provider.as_deref().unwrap_or_default();
        // The sum says nothing of the length of any prompt.
        let case = Case { provider, tier: None, prompt_tokens: 1, at: DateTime::UNIX_EPOCH };
        let mut lines = Lines::default();
        plain.add_tokens(&mut lines, usage, &case);
        Some(lines.bill())
    }

    fn add_tokens(&self, lines: &mut Lines, usage: &Usage, case: &Case<'_>) {
        let rates = Rates::of(self, case);
        let completion_tokens = usage.completion_tokens;
        let (prompt, completion) = match case.provider {
            "dashscope" | "qwencloud" | "qwen_ai_platform" => {
                let reasoning = usage.reasoning_tokens;
                let text = completion_tokens.saturating_sub(reasoning);
                (Prompt::of_text(usage), Completion { text, reasoning, ..Completion::default() })
            }
            // Its completion has the reasoning in it, or not; the total tells.
            "xai" => {
                let sum = usage.prompt_tokens.saturating_add(completion_tokens);
                let is_apart = usage.total_tokens.is_some_and(|total| total != sum);
                let reasoning = if is_apart { usage.reasoning_tokens } else { 0 };
                let text = completion_tokens.saturating_add(reasoning);
                (Prompt::of(usage), Completion { text, ..Completion::default() })
            }
            "perplexity" => {
                let own = self.rate(field::REASONING, "").is_some();
                let reasoning = if own { usage.reasoning_tokens } else { 0 };
                let prompt = Prompt { text: usage.prompt_tokens, ..Prompt::default() };
                (prompt, Completion { text: completion_tokens, reasoning, ..Completion::default() })
            }
            _ => (Prompt::of(usage), Completion::of(usage)),
        };
        lines.prompt("input", prompt.text, rates.input);
        lines.prompt("cached input", prompt.cached, rates.cache_read);
        lines.prompt("cached audio input", prompt.cached_audio, rates.cached_audio);
        lines.prompt("audio input", prompt.audio, rates.input_audio);
        lines.prompt("image input", prompt.image, rates.input_image);
        lines.prompt("video input", prompt.video, rates.input_video);
        lines.prompt("cache writes", prompt.written, rates.cache_write);
        lines.prompt("cache writes for 1 h", prompt.written_1h, rates.cache_write_1h);
        lines.prompt("cache writes for 12 h", prompt.written_12h, rates.cache_write_12h);
        if let Some(rate) = self.rate(field::CITATION, "") {
            lines.prompt("cited sources", usage.citation_tokens, rate);
        }
        lines.completion("output", completion.text, rates.output);
        lines.completion("reasoning", completion.reasoning, rates.reasoning);
        lines.completion("audio output", completion.audio, rates.output_audio);
        lines.completion("image output", completion.image, rates.output_image);
    }

    /// Finds what multiplies all rates of tokens.
    fn factors_of(&self, usage: &Usage, provider: &str, residency: Option<&str>) -> Vec<Factor> {
        let mut factors = Vec::new();
        let mut add = |why: String, factor: Option<&Decimal>| {
            factors.extend(factor.map(|factor| Factor { why, factor: *factor }));
        };
        if provider == "anthropic" {
            let place = usage.inference_geo.as_deref().map(str::to_lowercase);
            if let Some(place) = place.filter(|place| !matches!(place.as_str(), "global" | "not_available")) {
                add(format!("inference in {place}"), self.factors.get(&place));
            }
            if usage.speed.as_deref() == Some("fast") {
                add("fast".to_owned(), self.factors.get("fast"));
            }
        }
        if let Some(residency) = residency {
            let name = format!("regional_processing_uplift_multiplier_{residency}");
            add(format!("data kept in {residency}"), self.uplifts.get(&name));
            if provider.starts_with("vertex_ai") && residency != "global" {
                add(format!("endpoint in {residency}"), self.uplifts.get("regional_endpoint_uplift_multiplier"));
            }
        }
        factors
    }

    fn add_searches(&self, lines: &mut Lines, usage: &Usage, provider: &str) {
        let searches = usage.web_search_requests;
        let is_gemini =
            provider == "gemini" || self.provider.as_deref().is_some_and(|own| own == "vertex_ai-language-models");
        let fee = |size: &str| self.searches.get(size).copied();
        let (quantity, fee) = match provider {
            _ if is_gemini && self.bills_each_search => (searches, fee("medium").or(Some(GEMINI_SEARCH))),
            _ if is_gemini => (searches.min(1), fee("medium").or(Some(GEMINI_SEARCH))),
            "perplexity" => (searches, fee("low")),
            _ => (searches, fee("medium")),
        };
        if let Some(fee) = fee {
            lines.add(Part::Tools, "web searches", quantity, fee);
        }
    }

    /// Returns what a call of so many tokens costs with nothing cached and at no special tier, for a choice between prices;
    /// `None` where the row has no price of tokens.
    pub fn estimate(
        &self,
        provider: &str,
        prompt_tokens: u64,
        completion_tokens: u64,
        at: DateTime<Utc>,
    ) -> Option<PicoUsd> {
        let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
        self.bill(&usage, &Terms { provider: Some(provider), ..Terms::at(at) }).map(|bill| bill.total)
    }

    /// Returns the plain rates of one token of input and of output, in dollars; `None` for what the row does not say.
    pub fn plain_rates(&self) -> (Option<Decimal>, Option<Decimal>) {
        let first = |base: &str| self.ranges.first().and_then(|range| range.rates.get(base).copied());
        let rate = |base: &str| self.rate(base, "").or_else(|| first(base));
        (rate(field::INPUT), rate(OUTPUT))
    }
}

/// The terms of a bill in the making, and their exact sums.
#[derive(Debug, Default)]
pub(super) struct Lines {
    terms: Vec<Term>,
    sums: [Decimal; 3],
    factors: Vec<Factor>,
}

impl Lines {
    pub(super) fn prompt(&mut self, what: &'static str, quantity: u64, rate: Decimal) {
        let rate = self.factors.iter().fold(rate, |rate, factor| rate.times(factor.factor));
        self.add(Part::Prompt, what, quantity, rate);
    }

    pub(super) fn completion(&mut self, what: &'static str, quantity: u64, rate: Decimal) {
        let rate = self.factors.iter().fold(rate, |rate, factor| rate.times(factor.factor));
        self.add(Part::Completion, what, quantity, rate);
    }

    fn add(&mut self, part: Part, what: &'static str, quantity: u64, rate: Decimal) {
        if quantity == 0 {
            return;
        }
        let amount = rate.times_count(quantity);
        let sum = &mut self.sums[part as usize];
        *sum = sum.plus(amount);
        self.terms.push(Term { part, what, quantity, rate, amount: PicoUsd::of(amount) });
    }

    fn bill(self) -> Bill {
        let [prompt, completion, tools] = self.sums;
        Bill {
            prompt: PicoUsd::of(prompt),
            completion: PicoUsd::of(completion),
            tools: PicoUsd::of(tools),
            total: PicoUsd::of(prompt.plus(completion).plus(tools)),
            is_reported: false,
            terms: self.terms,
            factors: self.factors,
        }
    }
}
