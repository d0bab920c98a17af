//! What is asked of the costs of single calls, and told of them.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{BatchId, JobId, OwnerId};
use crate::outcome::{CostBasis, Usage};
use crate::tally::{Key, Sums};

/// Which call it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: u32,
    /// Which call of the run, from 1.
    pub attempt: u32,
    /// Who made it.
    pub owner: OwnerId,
}

/// A call that was recorded, with what its cost is computed from.
#[derive(Debug, Clone, PartialEq)]
pub struct CostedCall {
    /// Which call.
    pub key: CallKey,
    /// The batch.
    pub batch: BatchId,
    /// The model group.
    pub group: Arc<str>,
    /// The provider.
    pub provider: Arc<str>,
    /// The deployment.
    pub deployment: Arc<str>,
    /// The model that was asked for at the provider.
    pub model: Arc<str>,
    /// The model that the provider says answered.
    pub served_model: Option<String>,
    /// The service tier that the request asked for, while the request is there.
    pub requested_tier: Option<String>,
    /// The service tier that the provider says it served.
    pub service_tier: Option<String>,
    /// When the call began.
    pub started_at: DateTime<Utc>,
    /// Tokens as reported.
    pub usage: Usage,
    /// What was billed, where `usage` does not say all of it: JSON of a price's usage.
    pub billed: Option<String>,
    /// Its cost in picodollars, if known.
    pub cost_pico_usd: Option<i64>,
    /// How the cost was found.
    pub cost_basis: CostBasis,
    /// The price row that the cost was computed from.
    pub price_ref: Option<Arc<str>>,
}

/// A cost that was computed anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Correction {
    /// The call, with the cost that is recorded.
    pub call: CostedCall,
    /// Its new cost in picodollars.
    pub cost_pico_usd: i64,
    /// The price row that it was computed from.
    pub price_ref: Arc<str>,
}

impl Correction {
    /// Returns what is added to every sum, in picodollars.
    pub fn difference(&self) -> i64 {
        self.cost_pico_usd - self.call.cost_pico_usd.unwrap_or(0)
    }

    /// Returns the difference as sums, under the key that the call was counted by; its tags are not known any more.
    pub(super) fn sums(&self) -> (Key, Sums) {
        let call = &self.call;
        let key = Key {
            at_s: call.started_at.timestamp(),
            batch: call.batch,
            group: Arc::clone(&call.group),
            provider: Arc::clone(&call.provider),
            deployment: Arc::clone(&call.deployment),
            model: Arc::clone(&call.model),
            class: Arc::default(),
            tags: Arc::default(),
        };
        let unpriced = if call.cost_pico_usd.is_none() { -1 } else { 0 };
        (key, Sums { cost_pico_usd: self.difference(), unpriced, ..Sums::default() })
    }
}

/// Calls that a worker may have been making when it died. They are in no sum: nobody knows which of them were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LostCalls {
    /// Workers that died.
    pub workers: u64,
    /// Runs that they held.
    pub runs: u64,
    /// How many of these they may have been calling at most: a worker has no more than twice its concurrency of calls without a
    /// written result.
    pub most: u64,
    /// The most that as many may have cost, as far as that is known, in picodollars. A run that was not called again counts like the
    /// dearest of its model that was.
    pub bound_pico_usd: i64,
    /// Those among them of which no bound is known: no run of the model was called again yet, or it has no price.
    pub without_bound: u64,
}

/// A row of the price table that costs were computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPrice {
    /// What calls name it by.
    pub reference: Arc<str>,
    /// Its JSON text.
    pub row: Arc<str>,
}
