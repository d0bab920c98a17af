//! The shapes of chat completions, completions and embeddings on the wire.

use serde::Serialize;

use crate::simulate::embedding::Written;

#[derive(Serialize)]
pub(super) struct Completion<'a, C> {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt_filter_results: Option<[PromptFilter; 1]>,
    pub(super) choices: Vec<C>,
    pub(super) usage: WireUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
    pub(super) system_fingerprint: &'static str,
}

#[derive(Serialize)]
pub(super) struct ChatChoice<'a> {
    pub(super) index: usize,
    pub(super) message: Message<'a>,
    pub(super) logprobs: (),
    pub(super) finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_filter_results: Option<Filters>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub(super) role: &'static str,
    pub(super) content: Option<&'a str>,
    pub(super) refusal: Option<&'a str>,
    pub(super) annotations: [(); 0],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<Call<'a>>,
}

#[derive(Serialize)]
pub(super) struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<&'static str>,
    pub(super) function: Function<'a>,
}

#[derive(Serialize)]
pub(super) struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    pub(super) arguments: &'a str,
}

#[derive(Serialize)]
pub(super) struct TextChoice<'a> {
    pub(super) text: &'a str,
    pub(super) index: usize,
    pub(super) logprobs: (),
    pub(super) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_filter_results: Option<Filters>,
}

/// One event of a stream; `usage` is absent, null or there.
#[derive(Serialize)]
pub(super) struct Chunk<'a, C> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
    pub(super) system_fingerprint: &'static str,
    pub(super) choices: &'a [C],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<WireUsage>>,
}

#[derive(Serialize)]
pub(super) struct ChunkChoice<'a> {
    pub(super) index: usize,
    pub(super) delta: Delta<'a>,
    pub(super) logprobs: (),
    pub(super) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content_filter_results: Option<Filters>,
}

/// What is new; a field is absent, null or there.
#[derive(Default, Serialize)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_calls: Option<[Call<'a>; 1]>,
}

#[derive(Serialize)]
pub(super) struct WireUsage {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) total_tokens: u64,
    pub(super) prompt_tokens_details: PromptDetails,
    pub(super) completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
pub(super) struct PromptDetails {
    pub(super) cached_tokens: u64,
    pub(super) audio_tokens: u64,
}

#[derive(Serialize)]
pub(super) struct CompletionDetails {
    pub(super) reasoning_tokens: u64,
    pub(super) audio_tokens: u64,
    pub(super) accepted_prediction_tokens: u64,
    pub(super) rejected_prediction_tokens: u64,
}

#[derive(Serialize)]
pub(super) struct Embeddings<'a> {
    pub(super) object: &'static str,
    pub(super) data: Vec<Embedding<'a>>,
    pub(super) model: &'a str,
    pub(super) usage: EmbeddingUsage,
}

#[derive(Serialize)]
pub(super) struct Embedding<'a> {
    pub(super) object: &'static str,
    pub(super) index: usize,
    pub(super) embedding: Written<'a>,
}

#[derive(Serialize)]
pub(super) struct EmbeddingUsage {
    pub(super) prompt_tokens: u64,
    pub(super) total_tokens: u64,
}

/// What Azure's content filter found, by category.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Filters {
    pub(super) hate: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jailbreak: Option<Detection>,
    pub(super) self_harm: Severity,
    pub(super) sexual: Severity,
    pub(super) violence: Severity,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Severity {
    pub(super) filtered: bool,
    pub(super) severity: &'static str,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Detection {
    pub(super) filtered: bool,
    pub(super) detected: bool,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct PromptFilter {
    pub(super) prompt_index: u64,
    pub(super) content_filter_results: Filters,
}

/// The first event of Azure's streams, which holds no choice.
#[derive(Serialize)]
pub(super) struct PromptChunk {
    pub(super) choices: [(); 0],
    pub(super) created: u64,
    pub(super) id: &'static str,
    pub(super) model: &'static str,
    pub(super) object: &'static str,
    pub(super) prompt_filter_results: [PromptFilter; 1],
}

pub(super) const SAFE: Severity = Severity { filtered: false, severity: "safe" };

/// What the filter says of prompts; one that it stops is refused before it comes here.
pub(super) const PROMPT_FILTER: [PromptFilter; 1] = [PromptFilter {
    prompt_index: 0,
    content_filter_results: Filters {
        hate: SAFE,
        jailbreak: Some(Detection { filtered: false, detected: false }),
        self_harm: SAFE,
        sexual: SAFE,
        violence: SAFE,
    },
}];
