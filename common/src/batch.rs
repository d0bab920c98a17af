//! What a batch is: jobs submitted together, and how far they are.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{BatchId, OwnerId};
use crate::job::Priority;

/// What a producer says when it opens a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBatch {
    /// The batch's id; its time is the batch's time.
    pub id: BatchId,
    /// Unique within the database; what people call it.
    pub name: String,
    /// The project that costs are grouped by.
    pub project: Option<String>,
    /// The priority of all its jobs.
    pub priority: Priority,
    /// Whether the simulator answers; such rows can never stand in for real answers.
    pub simulated: bool,
    /// The user's own JSON object.
    pub metadata: Option<serde_json::Value>,
    /// Tags of all its jobs.
    pub tags: BTreeMap<String, String>,
    /// Most that the batch may cost, in picodollars.
    pub budget_pico_usd: Option<i64>,
    /// The producer process that submits it.
    pub producer: OwnerId,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
}

/// Where a batch is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Its producer still records jobs.
    Submitting,
    /// Its producer vanished before it had recorded everything; submitting the same input again goes on.
    Interrupted,
    /// All jobs are recorded, not all have ended.
    Running,
    /// It was cancelled, not all jobs have ended.
    Cancelling,
    /// It was cancelled and every job has ended.
    Cancelled,
    /// Every job has ended.
    Finished,
}

impl BatchState {
    /// Returns the stable text shown to people and machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitting => "submitting",
            Self::Interrupted => "interrupted",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Finished => "finished",
        }
    }

    /// Tells whether every job has ended.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Cancelled | Self::Finished)
    }
}

/// How many jobs of a batch ended how, by each job's latest run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Jobs with a response.
    pub succeeded: u64,
    /// Jobs with an error.
    pub failed: u64,
    /// Jobs that were cancelled before an answer.
    pub cancelled: u64,
    /// Jobs whose deadline passed first.
    pub expired: u64,
}

impl Counters {
    /// Returns how many jobs have ended.
    pub const fn done(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled + self.expired
    }
}

/// A batch as the store knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Batch {
    /// The batch's id.
    pub id: BatchId,
    /// What people call it.
    pub name: String,
    /// The project that costs are grouped by.
    pub project: Option<String>,
    /// The priority of all its jobs.
    pub priority: Priority,
    /// Whether the simulator answers.
    pub simulated: bool,
    /// Where it is in its life.
    pub state: BatchState,
    /// Jobs recorded so far; the next ordinal.
    pub recorded: u64,
    /// Jobs of which every one below this ordinal has been confirmed by the broker.
    pub published_through: u64,
    /// Jobs in all, once the producer has recorded the last one.
    pub total: Option<u64>,
    /// How the jobs ended.
    #[serde(flatten)]
    pub counters: Counters,
    /// Provider calls recorded.
    pub calls: u64,
    /// Input tokens as reported.
    pub input_tokens: u64,
    /// Output tokens as reported.
    pub output_tokens: u64,
    /// Cost so far in picodollars, of the calls whose cost is known; `None` if calls were made and none is.
    pub cost_pico_usd: Option<i64>,
    /// What the response cache saved, in picodollars.
    pub saved_pico_usd: i64,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When the last job ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// When somebody asked to cancel it.
    pub cancel_requested_at: Option<DateTime<Utc>>,
}

impl Batch {
    /// Returns what a sum of known costs says of so many calls: nothing, if calls were made and none had a cost.
    pub(crate) const fn known_cost(sum_pico_usd: i64, calls: u64) -> Option<i64> {
        if sum_pico_usd == 0 && calls > 0 { None } else { Some(sum_pico_usd) }
    }

    /// Returns the cost so far in dollars, if it is known. For people: it is rounded.
    #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
    pub fn cost_usd(&self) -> Option<f64> {
        self.cost_pico_usd.map(|pico_usd| pico_usd as f64 / 1e12)
    }

    /// Returns what the response cache saved, in dollars. For people: it is rounded.
    #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
    pub fn saved_usd(&self) -> f64 {
        self.saved_pico_usd as f64 / 1e12
    }

    /// Returns how often a job was called so far, on average: 1 while few have ended, since others' retries would count for them.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn calls_per_job(&self) -> f64 {
        let done = self.counters.done();
        if done < 10 { 1.0 } else { (self.calls as f64 / done as f64).clamp(1.0, 10.0) }
    }

    /// Returns how many jobs have not ended, as far as is known.
    pub fn open(&self) -> u64 {
        self.total.unwrap_or(self.recorded).saturating_sub(self.counters.done())
    }
}
