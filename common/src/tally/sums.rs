//! What is added up, and under which keys.

use std::collections::HashMap;
use std::ops::AddAssign;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::Histogram;
use crate::id::BatchId;
use crate::outcome::{AttemptRecord, CostBasis, JobResult, Status};
use crate::store::Settlement;

/// Seconds of the shortest time that sums are kept apart by.
const SHORTEST_S: i64 = 10;

/// What sums are kept apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The beginning of the time in which it ended, in seconds of Unix time.
    pub at_s: i64,
    /// The batch.
    pub batch: BatchId,
    /// The model group.
    pub group: Arc<str>,
    /// The provider; empty where none was called.
    pub provider: Arc<str>,
    /// The deployment; empty where none was called.
    pub deployment: Arc<str>,
    /// The model at the provider; empty where none was called.
    pub model: Arc<str>,
    /// The class of the error; empty where there was none.
    pub class: Arc<str>,
    /// The job's tags as a JSON object; empty where there are none.
    pub tags: Arc<str>,
}

impl Key {
    /// Returns the same key in a time of so many seconds.
    #[must_use]
    pub fn within(&self, span_s: i64) -> Self {
        Self { at_s: self.at_s.div_euclid(span_s) * span_s, ..self.clone() }
    }
}

/// Sums of calls and of results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Calls.
    pub calls: i64,
    /// Calls after the first of a run.
    pub repeated: i64,
    /// Calls that count against no retry: refusals.
    pub uncounted: i64,
    /// Calls that told what they used and have no price.
    pub unpriced: i64,
    /// Calls whose outcome nobody saw, and so their cost.
    pub unseen: i64,
    /// All input, cached reads and writes included.
    pub input_tokens: i64,
    /// Input that was read from the provider's cache.
    pub cached_input_tokens: i64,
    /// Input that was written to the provider's cache.
    pub cache_write_tokens: i64,
    /// All output, reasoning included.
    pub output_tokens: i64,
    /// Output that was reasoning.
    pub reasoning_tokens: i64,
    /// What calls cost, as far as it is known, in picodollars.
    pub cost_pico_usd: i64,
    /// The most that unseen calls may have cost, as far as it is known, in picodollars.
    pub bound_pico_usd: i64,
    /// Runs that succeeded.
    pub succeeded: i64,
    /// Runs that failed.
    pub failed: i64,
    /// Runs that were cancelled.
    pub cancelled: i64,
    /// Runs whose deadline passed.
    pub expired: i64,
    /// Runs that the response cache answered.
    pub cached: i64,
    /// What these would have cost, in picodollars.
    pub saved_pico_usd: i64,
    /// How long calls took that were answered.
    pub latency: Histogram,
    /// How long their first byte took.
    pub ttft: Histogram,
    /// How long runs waited from their admission to their last call.
    pub queue: Histogram,
}

impl AddAssign<&Self> for Sums {
    fn add_assign(&mut self, other: &Self) {
        self.calls += other.calls;
        self.repeated += other.repeated;
        self.uncounted += other.uncounted;
        self.unpriced += other.unpriced;
        self.unseen += other.unseen;
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
        self.output_tokens += other.output_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.cost_pico_usd += other.cost_pico_usd;
        self.bound_pico_usd += other.bound_pico_usd;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.expired += other.expired;
        self.cached += other.cached;
        self.saved_pico_usd += other.saved_pico_usd;
        self.latency.merge(&other.latency);
        self.ttft.merge(&other.ttft);
        self.queue.merge(&other.queue);
    }
}

impl Sums {
    /// Returns how many runs have ended.
    pub const fn ended(&self) -> i64 {
        self.succeeded + self.failed + self.cancelled + self.expired
    }

    /// Counts runs that ended so.
    pub fn end(&mut self, status: Status, runs: i64) {
        match status {
            Status::Succeeded => self.succeeded += runs,
            Status::Failed => self.failed += runs,
            Status::Cancelled => self.cancelled += runs,
            Status::Expired => self.expired += runs,
        }
    }

    fn call(&mut self, attempt: &AttemptRecord) {
        let tokens = |count: Option<u32>| count.map_or(0, i64::from);
        let usage = &attempt.usage;
        self.calls += 1;
        self.repeated += i64::from(attempt.attempt > 1);
        self.uncounted += i64::from(!attempt.counted);
        self.input_tokens += tokens(usage.input_tokens);
        self.cached_input_tokens += tokens(usage.cached_input_tokens);
        self.cache_write_tokens += tokens(usage.cache_write_tokens);
        self.output_tokens += tokens(usage.output_tokens);
        self.reasoning_tokens += tokens(usage.reasoning_tokens);
        self.cost_pico_usd += attempt.cost_pico_usd.unwrap_or(0);
        self.bound_pico_usd += attempt.bound_pico_usd.unwrap_or(0);
        if attempt.cost_pico_usd.is_none() {
            let is_unseen = attempt.cost_basis == CostBasis::Unknown && !usage.is_told();
            *if is_unseen { &mut self.unseen } else { &mut self.unpriced } += 1;
        }
        if attempt.error.is_none() {
            self.latency.add(attempt.latency_ms);
            if let Some(ttft_ms) = attempt.ttft_ms {
                self.ttft.add(ttft_ms);
            }
        }
    }

    fn result(&mut self, result: &JobResult) {
        self.end(result.status, 1);
        self.cached += i64::from(result.cached);
        self.saved_pico_usd += result.saved_pico_usd.unwrap_or(0);
        if let (Some(queued_at), Some(started_at)) = (result.queued_at, result.started_at) {
            let waited_ms = (started_at - queued_at).num_milliseconds().max(0);
            self.queue.add(u32::try_from(waited_ms).unwrap_or(u32::MAX));
        }
    }
}

/// Sums by key.
#[derive(Debug, Clone, Default)]
pub struct Tallies(HashMap<Key, Sums>);

impl Tallies {
    /// Adds a call of a settlement.
    pub fn call(&mut self, settlement: &Settlement, attempt: &AttemptRecord) {
        let ended = attempt.started_at.timestamp_millis() + i64::from(attempt.latency_ms);
        let key = Key {
            at_s: slot(ended.div_euclid(1000)),
            batch: settlement.job.batch,
            group: Arc::clone(&settlement.job.lane.group),
            provider: Arc::clone(&attempt.provider),
            deployment: Arc::clone(&attempt.deployment),
            model: Arc::clone(&attempt.model),
            class: attempt.error.as_ref().map_or_else(Arc::default, |error| error.class.as_str().into()),
            tags: Arc::clone(&settlement.tags),
        };
        self.0.entry(key).or_default().call(attempt);
    }

    /// Adds the end of a settlement's run.
    pub fn result(&mut self, settlement: &Settlement, result: &JobResult) {
        let model = settlement.attempts.last().map(|attempt| Arc::clone(&attempt.model));
        let key = Key {
            at_s: slot(result.finished_at.timestamp()),
            batch: settlement.job.batch,
            group: Arc::clone(&settlement.job.lane.group),
            provider: result.provider.clone().unwrap_or_default(),
            deployment: result.deployment.clone().unwrap_or_default(),
            model: model.unwrap_or_default(),
            class: result.error.as_ref().map_or_else(Arc::default, |error| error.class.as_str().into()),
            tags: Arc::clone(&settlement.tags),
        };
        self.0.entry(key).or_default().result(result);
    }

    /// Adds runs that ended with an error and without a worker.
    pub fn ended(
        &mut self,
        batch: BatchId,
        group: Arc<str>,
        status: Status,
        class: &str,
        at: DateTime<Utc>,
        runs: i64,
    ) {
        let key = Key {
            at_s: slot(at.timestamp()),
            batch,
            group,
            provider: Arc::default(),
            deployment: Arc::default(),
            model: Arc::default(),
            class: class.into(),
            tags: Arc::default(),
        };
        self.0.entry(key).or_default().end(status, runs);
    }

    /// Adds sums of a key.
    pub fn add(&mut self, key: Key, sums: &Sums) {
        *self.0.entry(key).or_default() += sums;
    }

    /// Tells whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the sums in order of key.
    pub fn sorted(&self) -> Vec<(&Key, &Sums)> {
        let mut all: Vec<(&Key, &Sums)> = self.0.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

fn slot(at_s: i64) -> i64 {
    at_s.div_euclid(SHORTEST_S) * SHORTEST_S
}
