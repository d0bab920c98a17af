//! The names of price fields: `<base>[_above_1hr|_above_12hr][_above_<N>k_tokens][_<tier>|_batches]`.

pub(super) const INPUT: &str = "input_cost_per_token";
pub(super) const OUTPUT: &str = "output_cost_per_token";
pub(super) const CACHE_READ: &str = "cache_read_input_token_cost";
pub(super) const CACHE_WRITE: &str = "cache_creation_input_token_cost";
pub(super) const CACHE_WRITE_1H: &str = "cache_creation_input_token_cost_above_1hr";
pub(super) const CACHE_WRITE_12H: &str = "cache_creation_input_token_cost_above_12hr";
pub(super) const REASONING: &str = "output_cost_per_reasoning_token";
pub(super) const INPUT_AUDIO: &str = "input_cost_per_audio_token";
pub(super) const INPUT_IMAGE: &str = "input_cost_per_image_token";
pub(super) const INPUT_VIDEO: &str = "input_cost_per_video_token";
pub(super) const OUTPUT_AUDIO: &str = "output_cost_per_audio_token";
pub(super) const OUTPUT_IMAGE: &str = "output_cost_per_image_token";
pub(super) const CACHE_READ_AUDIO: &str = "cache_read_input_audio_token_cost";
pub(super) const CITATION: &str = "citation_cost_per_token";
pub(super) const BATCHES: &str = "_batches";

/// What names of rates begin with; a longer one comes before the one that it begins with.
const BASES: [&str; 14] = [
    INPUT,
    OUTPUT,
    CACHE_READ,
    CACHE_WRITE_12H,
    CACHE_WRITE_1H,
    CACHE_WRITE,
    REASONING,
    INPUT_AUDIO,
    INPUT_IMAGE,
    INPUT_VIDEO,
    OUTPUT_AUDIO,
    OUTPUT_IMAGE,
    CACHE_READ_AUDIO,
    CITATION,
];

const ENDS: [&str; 6] = ["", "_flex", "_balanced", "_priority", "_ultrafast", BATCHES];

/// Fields of a price that are no rates, or hold several.
const OTHERS: [&str; 9] = [
    "litellm_provider",
    "off_peak_pricing",
    "provider_specific_entry",
    "regional_endpoint_uplift_multiplier",
    "regional_processing_uplift_multiplier_eu",
    "regional_processing_uplift_multiplier_us",
    "search_context_cost_per_query",
    "tiered_pricing",
    "web_search_billing_unit",
];

/// A number of tokens above which a whole call has other rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Threshold<'a> {
    pub(super) tokens: u64,
    /// As names of fields have it, such as `200k`.
    pub(super) text: &'a str,
}

/// The parts of a rate's name behind its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub(super) base: &'static str,
    pub(super) threshold: Option<Threshold<'a>>,
    /// `_flex`, `_batches` …, or nothing.
    pub(super) end: &'a str,
}

/// Reads the name of a rate.
pub(super) fn parts(name: &str) -> Option<Parts<'_>> {
    let (base, rest) = BASES.iter().find_map(|base| Some((*base, name.strip_prefix(base)?)))?;
    let (threshold, end) = match rest.strip_prefix("_above_") {
        Some(rest) => {
            let (text, end) = rest.split_once("_tokens")?;
            (Some(Threshold { tokens: tokens(text)?, text }), end)
        }
        None => (None, rest),
    };
    ENDS.contains(&end).then_some(Parts { base, threshold, end })
}

fn tokens(text: &str) -> Option<u64> {
    match text.strip_suffix('k') {
        Some(thousands) => thousands.parse::<u64>().ok()?.checked_mul(1_000),
        None => text.parse().ok(),
    }
}

/// Tells whether a field of LiteLLM's says one rate of tokens, such as `input_cost_per_token_flex`.
pub fn is_rate(name: &str) -> bool {
    parts(name).is_some()
}

/// Tells whether bills depend on a field.
pub(super) fn is_billed(name: &str) -> bool {
    is_rate(name) || OTHERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rates_are_told_from_others() {
        for (name, base, tokens, end) in [
            (INPUT, INPUT, None, ""),
            ("output_cost_per_token_flex", OUTPUT, None, "_flex"),
            ("input_cost_per_token_above_272k_tokens_priority", INPUT, Some(272_000), "_priority"),
            (
                "cache_creation_input_token_cost_above_12hr_above_272k_tokens_flex",
                CACHE_WRITE_12H,
                Some(272_000),
                "_flex",
            ),
            ("cache_creation_input_token_cost_above_1hr", CACHE_WRITE_1H, None, ""),
            ("input_cost_per_token_above_500_tokens_batches", INPUT, Some(500), BATCHES),
        ] {
            let parts = parts(name).unwrap();
            assert_eq!((parts.base, parts.threshold.map(|it| it.tokens), parts.end), (base, tokens, end), "{name}");
        }
        for name in
            ["input_cost_per_character", "input_cost_per_token_cache_hit", "input_cost_per_token_above_x_tokens"]
        {
            assert!(!is_rate(name), "{name}");
        }
        assert!(is_billed("tiered_pricing") && !is_billed("supports_vision"));
    }
}
