//! One row of the price table: what one model costs.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::Error;
use super::decimal::Decimal;
use super::field::{self, Threshold};
use super::off_peak::OffPeak;

/// The fields of a row as they are written.
pub(super) type Fields = BTreeMap<String, Box<RawValue>>;

/// What one model costs.
#[derive(Debug, Clone)]
pub struct Price {
    key: String,
    row: String,
    is_custom: bool,
    pub(super) provider: Option<String>,
    pub(super) rates: BTreeMap<String, Decimal>,
    pub(super) ranges: Vec<Range>,
    pub(super) off_peak: Option<OffPeak>,
    /// Multipliers of Anthropic's, by place or speed.
    pub(super) factors: BTreeMap<String, Decimal>,
    /// Multipliers of places where data is kept or processed, by their fields' names.
    pub(super) uplifts: BTreeMap<String, Decimal>,
    /// Fees of one web search, by `low`, `medium` and `high`.
    pub(super) searches: BTreeMap<String, Decimal>,
    /// Whether each search of a call is billed, or the call once.
    pub(super) bills_each_search: bool,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
}

/// Rates of all calls whose prompt has a length within a range.
#[derive(Debug, Clone)]
pub(super) struct Range {
    /// Prompts that are longer, in tokens, and no longer than `to`.
    pub(super) above: Decimal,
    pub(super) to: Decimal,
    pub(super) rates: BTreeMap<String, Decimal>,
}

impl Price {
    /// Reads a row; fields that are not known, or not written as they should be, count as not there.
    pub(super) fn read(key: &str, fields: &Fields, is_custom: bool) -> Self {
        let numbers = |name: &str| fields.get(name).map(|raw| numbers(raw)).unwrap_or_default();
        let text = |name: &str| fields.get(name).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let tokens = |name: &str| {
            let whole = fields.get(name).and_then(|raw| number(raw)).and_then(|number| number.rounded(0))?;
            u64::try_from(whole).ok().filter(|tokens| *tokens > 0)
        };
        let uplifts = fields.iter().filter(|(name, _)| name.contains("_uplift_multiplier"));
        Self {
            key: key.to_owned(),
            row: canonical(fields),
            is_custom,
            provider: text("litellm_provider"),
            rates: rates(fields),
            ranges: fields.get("tiered_pricing").map(|raw| ranges(raw)).unwrap_or_default(),
            off_peak: fields.get("off_peak_pricing").and_then(|raw| OffPeak::read(raw)),
            factors: numbers("provider_specific_entry"),
            uplifts: uplifts.filter_map(|(name, raw)| Some((name.clone(), number(raw)?))).collect(),
            searches: numbers("search_context_cost_per_query")
                .into_iter()
                .map(|(size, fee)| (size.trim_start_matches("search_context_size_").to_owned(), fee))
                .collect(),
            bills_each_search: text("web_search_billing_unit").is_some_and(|unit| unit == "per_query"),
            max_input_tokens: tokens("max_input_tokens"),
            max_output_tokens: tokens("max_output_tokens"),
        }
    }

    /// Makes the price of a deployment that has rates of its own, over those of `base` if there is one.
    ///
    /// `name` is what the price is called where there is no `base`. Each field is one of LiteLLM's, such as
    /// `input_cost_per_token_priority`, with dollars for one token as its text.
    ///
    /// # Errors
    ///
    /// A field that is no rate, or a text that is no number of dollars.
    pub fn with_overrides<'a>(
        base: Option<&Self>,
        name: &str,
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let mut fields: Fields = base.map(|base| serde_json::from_str(&base.row)).transpose()?.unwrap_or_default();
        for (field, text) in overrides {
            let invalid = |problem: String| Error::Override { field: field.to_owned(), problem };
            if !field::is_rate(field) {
                return Err(invalid("is no price of tokens".to_owned()));
            }
            let rate: Decimal = text.parse().map_err(|error| invalid(format!("{error}")))?;
            fields.insert(field.to_owned(), RawValue::from_string(rate.to_string())?);
        }
        let mut price = Self::read(base.map_or(name, |base| &base.key), &fields, true);
        if let Some(base) = base {
            price.max_input_tokens = base.max_input_tokens;
            price.max_output_tokens = base.max_output_tokens;
        }
        Ok(price)
    }

    /// Returns the name of its row in the table.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns a short text that names this row with these prices: `gpt-4o@1a2b3c4d`, with `custom-` behind the sign where
    /// the configuration set some of them.
    pub fn reference(&self) -> String {
        let hash: String = Sha256::digest(&self.row).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("{}@{}{hash}", self.key, if self.is_custom { "custom-" } else { "" })
    }

    /// Returns the JSON text of all fields that a bill depends on, in the order of their names.
    pub fn row(&self) -> &str {
        &self.row
    }

    /// Tells whether anything says what tokens cost; else a cost is not known, which is not the same as nothing.
    pub fn has_token_prices(&self) -> bool {
        self.rates.contains_key(field::INPUT) || self.rates.contains_key(field::OUTPUT) || !self.ranges.is_empty()
    }

    /// Returns the tokens of input that the model takes, if the row says so.
    pub const fn max_input_tokens(&self) -> Option<u64> {
        self.max_input_tokens
    }

    /// Returns the tokens of output that the model gives, if the row says so.
    pub const fn max_output_tokens(&self) -> Option<u64> {
        self.max_output_tokens
    }

    /// Returns each rate of one token, in dollars, by its field, in the order of their names.
    pub fn rates(&self) -> impl Iterator<Item = (&str, Decimal)> {
        self.rates.iter().map(|(name, rate)| (name.as_str(), *rate))
    }

    /// Returns the lengths of prompt that have rates of their own: above how many tokens, up to how many, and the rates.
    pub fn ranges(&self) -> impl Iterator<Item = (Decimal, Decimal, impl Iterator<Item = (&str, Decimal)>)> {
        self.ranges
            .iter()
            .map(|range| (range.above, range.to, range.rates.iter().map(|(name, rate)| (name.as_str(), *rate))))
    }

    /// Returns the fees of one web search, in dollars, by how much of it is read: `low`, `medium`, `high`.
    pub fn search_fees(&self) -> impl Iterator<Item = (&str, Decimal)> {
        self.searches.iter().map(|(size, fee)| (size.as_str(), *fee))
    }

    /// Returns the thresholds that count for a tier, or for `_batches`, in ascending order.
    pub(super) fn thresholds(&self, ends: &[&str]) -> Vec<Threshold<'_>> {
        let mut thresholds: Vec<_> = self
            .rates
            .keys()
            .filter_map(|name| field::parts(name))
            .filter(|parts| ends.contains(&parts.end))
            .filter_map(|parts| parts.threshold)
            .collect();
        thresholds.sort_unstable();
        thresholds.dedup();
        thresholds
    }

    /// Returns one rate.
    pub(super) fn rate(&self, base: &str, end: &str) -> Option<Decimal> {
        self.rates.get(&[base, end].concat()).copied()
    }
}

/// Reads a price; texts of numbers are taken as numbers, as LiteLLM does.
pub(super) fn number(raw: &RawValue) -> Option<Decimal> {
    raw.get().trim_matches('"').parse().ok()
}

fn numbers(raw: &RawValue) -> BTreeMap<String, Decimal> {
    let fields: Fields = serde_json::from_str(raw.get()).unwrap_or_default();
    fields.into_iter().filter_map(|(name, raw)| Some((name, number(&raw)?))).collect()
}

fn rates(fields: &Fields) -> BTreeMap<String, Decimal> {
    let rates = fields.iter().filter(|(name, _)| field::is_rate(name));
    rates.filter_map(|(name, raw)| Some((name.clone(), number(raw)?))).collect()
}

fn ranges(raw: &RawValue) -> Vec<Range> {
    #[derive(Deserialize)]
    struct Bounds {
        range: (Box<RawValue>, Box<RawValue>),
    }
    let entries: Vec<Box<RawValue>> = serde_json::from_str(raw.get()).unwrap_or_default();
    let range = |raw: &RawValue| {
        let Bounds { range: (above, to) } = serde_json::from_str(raw.get()).ok()?;
        Some(Range { above: number(&above)?, to: number(&to)?, rates: rates(&serde_json::from_str(raw.get()).ok()?) })
    };
    let mut ranges: Vec<Range> = entries.iter().filter_map(|raw| range(raw)).collect();
    ranges.sort_by_key(|range| range.above);
    ranges
}

/// Writes the fields that bills depend on without the blanks that a file may have, so that its look does not count.
fn canonical(fields: &Fields) -> String {
    let compact = |raw: &RawValue| match raw.get() {
        text if text.contains([' ', '\n', '\t', '\r']) => {
            serde_json::from_str::<Value>(text).map_or_else(|_| text.to_owned(), |value| value.to_string())
        }
        text => text.to_owned(),
    };
    let billed = fields.iter().filter(|(name, _)| field::is_billed(name));
    let written: Vec<String> = billed.map(|(name, raw)| format!("\"{name}\":{}", compact(raw))).collect();
    format!("{{{}}}", written.join(","))
}
