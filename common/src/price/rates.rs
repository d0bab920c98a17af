//! The rates of one call: by its tier, the length of its prompt and the hour.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::decimal::Decimal;
use super::field::{
    CACHE_READ, CACHE_READ_AUDIO, CACHE_WRITE, CACHE_WRITE_1H, CACHE_WRITE_12H, INPUT, INPUT_AUDIO, INPUT_IMAGE,
    INPUT_VIDEO, OUTPUT, OUTPUT_AUDIO, OUTPUT_IMAGE, REASONING,
};
use super::row::Price;
use super::tier::ServiceTier;

/// What a call's rates depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) provider: &'a str,
    pub(super) tier: Option<ServiceTier>,
    pub(super) prompt_tokens: u64,
    pub(super) at: DateTime<Utc>,
}

/// The rates of one call, in dollars for one token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    pub(super) input: Decimal,
    pub(super) output: Decimal,
    pub(super) cache_read: Decimal,
    pub(super) cache_write: Decimal,
    pub(super) cache_write_1h: Decimal,
    pub(super) cache_write_12h: Decimal,
    pub(super) reasoning: Decimal,
    pub(super) input_audio: Decimal,
    pub(super) input_image: Decimal,
    pub(super) input_video: Decimal,
    pub(super) cached_audio: Decimal,
    pub(super) output_audio: Decimal,
    pub(super) output_image: Decimal,
}

/// Rates as far as a row says them.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    input: Option<Decimal>,
    output: Option<Decimal>,
    cache_read: Option<Decimal>,
    cache_write: Option<Decimal>,
    cache_write_1h: Option<Decimal>,
    cache_write_12h: Option<Decimal>,
    reasoning: Option<Decimal>,
}

impl Rates {
    pub(super) fn of(price: &Price, case: &Case<'_>) -> Self {
        let end = case.tier.map_or("", ServiceTier::suffix);
        let mut said = Said::in_range(price, case).unwrap_or_else(|| Said::by_length(price, case, end));
        if let Some(rates) = price.off_peak.as_ref().and_then(|off_peak| off_peak.at(case.at)) {
            said = said.replaced(rates);
        }
        let input = said.input.unwrap_or_default();
        let output = said.output.unwrap_or_default();
        let of_fireworks = (case.provider == "fireworks_ai").then(|| input.times(Decimal::HALF));
        let cache_read = said.cache_read.or(of_fireworks).unwrap_or(input);
        let cache_write = said.cache_write.unwrap_or(input);
        let own = |base: &str| price.rate(base, end).or_else(|| price.rate(base, ""));
        // A tier with its own price of output has no other one for reasoning.
        let reasoning = said.reasoning.or_else(|| price.rate(REASONING, end)).or_else(|| {
            let is_priced = !end.is_empty() && price.rate(OUTPUT, end).is_some();
            if is_priced { None } else { price.rate(REASONING, "") }
        });
        Self {
            input,
            output,
            cache_read,
            cache_write,
            cache_write_1h: said.cache_write_1h.unwrap_or(cache_write),
            cache_write_12h: said.cache_write_12h.unwrap_or(cache_write),
            reasoning: reasoning.unwrap_or(output),
            input_audio: own(INPUT_AUDIO).unwrap_or(input),
            input_image: own(INPUT_IMAGE).unwrap_or(input),
            input_video: own(INPUT_VIDEO).unwrap_or(input),
            cached_audio: own(CACHE_READ_AUDIO).unwrap_or(cache_read),
            output_audio: price.rate(OUTPUT_AUDIO, "").unwrap_or(output),
            output_image: price.rate(OUTPUT_IMAGE, "").unwrap_or(output),
        }
    }
}

impl Said {
    /// Reads the rates of the range that a prompt's length is in; all tokens of the call have them.
    fn in_range(price: &Price, case: &Case<'_>) -> Option<Self> {
        if case.prompt_tokens == 0 {
            return None;
        }
        let length = Decimal::new(case.prompt_tokens.into(), 0);
        let range = price.ranges.iter().find(|range| range.above < length && length <= range.to);
        let range = range.or_else(|| price.ranges.last())?;
        let rate = |base: &str| range.rates.get(base).copied();
        let input = rate(INPUT);
        Some(Self {
            input,
            output: rate(OUTPUT).or_else(|| price.rate(OUTPUT, "")),
            cache_read: rate(CACHE_READ).or(input),
            cache_write: rate(CACHE_WRITE).or(input),
            reasoning: rate(REASONING),
            ..Self::default()
        })
    }

    /// Reads the plain rates, or those of the highest threshold that the prompt has passed; all tokens of the call have them.
    fn by_length(price: &Price, case: &Case<'_>, end: &str) -> Self {
        let passed = |tokens: u64| {
            if case.provider == "xai" { case.prompt_tokens >= tokens } else { case.prompt_tokens > tokens }
        };
        let thresholds = price.thresholds(&["", end]);
        let passed: Vec<_> = thresholds.into_iter().filter(|threshold| passed(threshold.tokens)).collect();
        // Without a rate of the tier above a threshold, the plain one counts, also where it is lower than the tier's below it.
        let rate = |base: &str| {
            let above = passed.iter().rev().find_map(|threshold| {
                let name = format!("{base}_above_{}_tokens", threshold.text);
                price.rate(&name, end).or_else(|| price.rate(&name, ""))
            });
            above.or_else(|| price.rate(base, end)).or_else(|| price.rate(base, ""))
        };
        let of_images = || price.rate(OUTPUT_IMAGE, "");
        let plain_output = price.rate(OUTPUT, end).or_else(|| price.rate(OUTPUT, ""));
        let output = match (rate(OUTPUT), plain_output) {
            (Some(output), _) if !output.is_zero() => Some(output),
            (output, plain) if plain.is_none_or(Decimal::is_zero) => of_images().or(output),
            (output, _) => output,
        };
        Self {
            input: rate(INPUT),
            output,
            cache_read: rate(CACHE_READ),
            cache_write: rate(CACHE_WRITE),
            cache_write_1h: rate(CACHE_WRITE_1H),
            cache_write_12h: rate(CACHE_WRITE_12H),
            reasoning: None,
        }
    }

    fn replaced(self, rates: &BTreeMap<String, Decimal>) -> Self {
        let rate = |base: &str, own: Option<Decimal>| rates.get(base).copied().or(own);
        Self {
            input: rate(INPUT, self.input),
            output: rate(OUTPUT, self.output),
            cache_read: rate(CACHE_READ, self.cache_read),
            cache_write: rate(CACHE_WRITE, self.cache_write),
            reasoning: rate(REASONING, self.reasoning),
            ..self
        }
    }
}
