//! The counters of batches, moved in the transaction that writes the rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::SqliteConnection;

use super::super::Settlement;
use super::error::Done;
use super::tally;
use crate::id::BatchId;
use crate::job::JobRef;
use crate::outcome::{AttemptRecord, JobResult, Status};
use crate::tally::Tallies;

const COUNT: &str = "-- move the counters
UPDATE batch
SET succeeded = succeeded + ?2, failed = failed + ?3, cancelled = cancelled + ?4, expired = expired + ?5,
    calls = calls + ?6, input_tokens = input_tokens + ?7, output_tokens = output_tokens + ?8,
    cost_pico_usd = cost_pico_usd + ?9, saved_pico_usd = saved_pico_usd + ?10,
    finished_at = CASE WHEN total <= succeeded + failed + cancelled + expired + ?2 + ?3 + ?4 + ?5
                       THEN coalesce(finished_at, ?11) END
WHERE batch_id = ?1";

/// What a transaction adds to a batch's counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delta {
    statuses: [i64; 4],
    calls: i64,
    input_tokens: i64,
    output_tokens: i64,
    cost_pico: i64,
    saved_pico: i64,
}

/// What a transaction adds to the counters of all batches, and to the sums that statistics are read from.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    batches: BTreeMap<BatchId, Delta>,
    tallies: Tallies,
}

impl Deltas {
    /// Counts a result.
    pub(super) fn result(&mut self, settlement: &Settlement, result: &JobResult) {
        self.status(settlement.job.batch, result.status).saved_pico += result.saved_pico_usd.unwrap_or(0);
        self.tallies.result(settlement, result);
    }

    /// Counts a run that ended without a worker.
    pub(super) fn end(&mut self, job: &JobRef, status: Status, class: &str, now: DateTime<Utc>) {
        self.status(job.batch, status);
        self.tallies.ended(job.batch, Arc::clone(&job.lane.group), status, class, now, 1);
    }

    fn status(&mut self, batch: BatchId, status: Status) -> &mut Delta {
        let delta = self.batches.entry(batch).or_default();
        let index = match status {
            Status::Succeeded => 0,
            Status::Failed => 1,
            Status::Cancelled => 2,
            Status::Expired => 3,
        };
        delta.statuses[index] += 1;
        delta
    }

    /// Counts a call.
    pub(super) fn attempt(&mut self, settlement: &Settlement, attempt: &AttemptRecord) {
        let delta = self.batches.entry(settlement.job.batch).or_default();
        delta.calls += 1;
        delta.input_tokens += attempt.usage.input_tokens.map_or(0, i64::from);
        delta.output_tokens += attempt.usage.output_tokens.map_or(0, i64::from);
        delta.cost_pico += attempt.cost_pico_usd.unwrap_or(0);
        self.tallies.call(settlement, attempt);
    }

    /// Moves the counters, and finishes the batches whose last job has ended.
    pub(super) async fn write(&self, tx: &mut SqliteConnection, now: i64) -> Done<()> {
        for (batch, delta) in &self.batches {
            let mut query = sqlx::query(COUNT).bind(batch.uuid());
            for status in delta.statuses {
                query = query.bind(status);
            }
            query
                .bind(delta.calls)
                .bind(delta.input_tokens)
                .bind(delta.output_tokens)
                .bind(delta.cost_pico)
                .bind(delta.saved_pico)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        }
        tally::write(tx, &self.tallies).await
    }
}
