//! How a job ended, and what each call of it did: the rows that producers read.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::failure::ErrorRecord;
use crate::id::{BatchId, JobId};
use crate::job::Metadata;

/// The four ways in which a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The provider answered.
    Succeeded,
    /// It ended with an error.
    Failed,
    /// It was cancelled before an answer.
    Cancelled,
    /// Its deadline passed before a call could start.
    Expired,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Succeeded, Self::Failed, Self::Cancelled, Self::Expired];

    /// Returns the stable text used in tables and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A status that is none of the four.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("status `{0}` is none of succeeded, failed, cancelled, expired")]
pub struct UnknownStatus(String);

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

/// Tokens as the provider counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// All input, cached reads and writes included.
    pub input_tokens: Option<u32>,
    /// Input that was read from the provider's cache.
    pub cached_input_tokens: Option<u32>,
    /// Input that was written to the provider's cache.
    pub cache_write_tokens: Option<u32>,
    /// All output, reasoning included.
    pub output_tokens: Option<u32>,
    /// Output that was reasoning.
    pub reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Tells whether the provider said anything.
    pub const fn is_told(&self) -> bool {
        self.input_tokens.is_some() || self.output_tokens.is_some()
    }
}

/// How a cost was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostBasis {
    /// From the usage that the provider reported.
    Reported,
    /// From an estimate: the provider may have billed but told no usage.
    Estimated,
    /// Nothing was billed: the call was refused, or never sent.
    Unbilled,
    /// Not known: no price, or a crash or timeout hid the outcome.
    #[default]
    Unknown,
}

impl CostBasis {
    /// Returns the stable text used in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Estimated => "estimated",
            Self::Unbilled => "unbilled",
            Self::Unknown => "unknown",
        }
    }

    /// Reads [`Self::as_str`]; unknown text of a later version means [`Self::Unknown`].
    pub fn parse_lenient(text: &str) -> Self {
        match text {
            "reported" => Self::Reported,
            "estimated" => Self::Estimated,
            "unbilled" => Self::Unbilled,
            _ => Self::Unknown,
        }
    }
}

/// One call to a provider, as it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// Which call of the run it was, from 1.
    pub attempt: u32,
    /// The provider kind, for example `openai`.
    pub provider: Arc<str>,
    /// The deployment's name.
    pub deployment: Arc<str>,
    /// The model that was asked for at the provider.
    pub model: Arc<str>,
    /// The model that the provider says answered.
    pub served_model: Option<String>,
    /// The service tier that the provider says it served.
    pub service_tier: Option<String>,
    /// When the call began.
    pub started_at: DateTime<Utc>,
    /// Time to the first byte of the answer's head, in milliseconds.
    pub ttft_ms: Option<u32>,
    /// Time to the end of the call, in milliseconds.
    pub latency_ms: u32,
    /// The HTTP status, if one came.
    pub http_status: Option<u16>,
    /// Whether it counts against the job's retries; refusals do not.
    pub counted: bool,
    /// Tokens as reported.
    pub usage: Usage,
    /// Cost in picodollars, if known.
    pub cost_pico_usd: Option<i64>,
    /// How the cost was found.
    pub cost_basis: CostBasis,
    /// The most that it may have cost in picodollars, where nobody saw how it ended.
    pub bound_pico_usd: Option<i64>,
    /// The price row that the cost was computed from.
    pub price_ref: Option<Arc<str>>,
    /// What was billed, where `usage` does not say all of it: JSON of a price's usage.
    pub billed: Option<String>,
    /// The provider's id of the call.
    pub request_id: Option<String>,
    /// Why it failed, if it did.
    pub error: Option<Box<ErrorRecord>>,
}

/// The end of a run, as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct JobResult {
    /// How it ended.
    pub status: Status,
    /// The provider kind that answered last.
    pub provider: Option<Arc<str>>,
    /// The deployment that answered last.
    pub deployment: Option<Arc<str>>,
    /// The model that the provider says answered.
    pub served_model: Option<String>,
    /// Why the model stopped, in OpenAI's words.
    pub finish_reason: Option<String>,
    /// The text of the answer.
    pub output_text: Option<String>,
    /// The response's JSON text, byte for byte.
    pub response: Option<Bytes>,
    /// Tokens of the answering call.
    pub usage: Usage,
    /// Cost of all calls of the run in picodollars, if known.
    pub cost_pico_usd: Option<i64>,
    /// Whether the response cache answered.
    pub cached: bool,
    /// What the cache saved, in picodollars.
    pub saved_pico_usd: Option<i64>,
    /// Calls of the run, refusals included.
    pub attempts: u32,
    /// When the run was admitted.
    pub queued_at: Option<DateTime<Utc>>,
    /// When the last call began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// Time to the first byte of the last call, in milliseconds.
    pub ttft_ms: Option<u32>,
    /// Time of the last call, in milliseconds.
    pub latency_ms: Option<u32>,
    /// The provider's id of the last call.
    pub request_id: Option<String>,
    /// The error, if it did not succeed.
    pub error: Option<Box<ErrorRecord>>,
}

impl JobResult {
    /// Makes the row of a run that ended without a call's answer.
    pub fn without_answer(status: Status, error: ErrorRecord, attempts: u32, finished_at: DateTime<Utc>) -> Self {
        Self {
            status,
            provider: None,
            deployment: None,
            served_model: None,
            finish_reason: None,
            output_text: None,
            response: None,
            usage: Usage::default(),
            cost_pico_usd: None,
            cached: false,
            saved_pico_usd: None,
            attempts,
            queued_at: None,
            started_at: None,
            finished_at,
            ttft_ms: None,
            latency_ms: None,
            request_id: None,
            error: Some(Box::new(error)),
        }
    }
}

/// A terminal row as a subscriber reads it, with what its request said.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow {
    /// The job.
    pub job_id: JobId,
    /// Which run of the job it is, from 1.
    pub run: u32,
    /// The batch.
    pub batch_id: BatchId,
    /// The user's name for the job.
    pub custom_id: String,
    /// The path of the API.
    pub endpoint: String,
    /// The model group that was asked for.
    pub model: String,
    /// The job's tags.
    pub tags: BTreeMap<String, String>,
    /// The user's own JSON of the job.
    pub metadata: Option<Metadata>,
    /// Whether the simulator answered.
    pub simulated: bool,
    /// How it ended.
    pub result: JobResult,
}
