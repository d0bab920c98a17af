//! What a call used, in one shape for all providers.

use serde::{Deserialize, Serialize};

use super::PicoUsd;
use crate::outcome;

/// What a call used: OpenAI's way of counting, in which a prompt has its cached tokens in it and a completion its reasoning.
///
/// Stored as JSON beside attempts, without what is zero or absent: names are never changed, and a reader takes one that it does
/// not know for absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// All input, cached reads and writes included.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_tokens: u64,
    /// All output, reasoning included.
    #[serde(skip_serializing_if = "is_zero")]
    pub completion_tokens: u64,
    /// All tokens, as the provider sums them up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_tokens: Option<u64>,
    /// Input that was read from the provider's cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
    /// Those of them that are audio.
    #[serde(skip_serializing_if = "is_zero")]
    pub cached_audio_tokens: u64,
    /// Input that was written to the provider's cache, for however long.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Those of them that are kept for 5 minutes.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_5m_tokens: u64,
    /// Those of them that are kept for 30 minutes.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_30m_tokens: u64,
    /// Those of them that are kept for an hour.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_1h_tokens: u64,
    /// Those of them that are kept for 12 hours.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_12h_tokens: u64,
    /// Input that is text, where the provider counts it apart.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_text_tokens: u64,
    /// Input that is audio.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_audio_tokens: u64,
    /// Input that is images.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_image_tokens: u64,
    /// Input that is video.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_video_tokens: u64,
    /// Output that is text, where the provider counts it apart.
    #[serde(skip_serializing_if = "is_zero")]
    pub completion_text_tokens: u64,
    /// Output that is audio.
    #[serde(skip_serializing_if = "is_zero")]
    pub completion_audio_tokens: u64,
    /// Output that is images.
    #[serde(skip_serializing_if = "is_zero")]
    pub completion_image_tokens: u64,
    /// Output that is reasoning.
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
    /// Tokens of sources that Perplexity cites.
    #[serde(skip_serializing_if = "is_zero")]
    pub citation_tokens: u64,
    /// Searches of the web.
    #[serde(skip_serializing_if = "is_zero")]
    pub web_search_requests: u64,
    /// The service tier that the provider says it served, where the usage says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// Anthropic's speed, such as `fast`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<String>,
    /// Where Anthropic ran the model, such as `us`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference_geo: Option<String>,
    /// What the provider says the call cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_pico_usd: Option<PicoUsd>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The details that a summary has; what it lacks counts as none.
impl From<&outcome::Usage> for Usage {
    fn from(summary: &outcome::Usage) -> Self {
        let count = |tokens: Option<u32>| tokens.unwrap_or(0).into();
        Self {
            prompt_tokens: count(summary.input_tokens),
            completion_tokens: count(summary.output_tokens),
            cached_tokens: count(summary.cached_input_tokens),
            cache_write_tokens: count(summary.cache_write_tokens),
            reasoning_tokens: count(summary.reasoning_tokens),
            ..Self::default()
        }
    }
}
