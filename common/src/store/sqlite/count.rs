//! The counters of batches, moved in the transaction that writes the rows.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::error::Done;
use crate::id::BatchId;
use crate::outcome::{AttemptRecord, Status};

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

/// What a transaction adds to the counters of all batches.
#[derive(Debug, Default)]
pub(super) struct Deltas(BTreeMap<BatchId, Delta>);

impl Deltas {
    /// Counts a result.
    pub(super) fn result(&mut self, batch: BatchId, status: Status, saved_pico: Option<i64>) {
        let delta = self.0.entry(batch).or_default();
        let index = match status {
            Status::Succeeded => 0,
            Status::Failed => 1,
            Status::Cancelled => 2,
            Status::Expired => 3,
        };
        delta.statuses[index] += 1;
        delta.saved_pico += saved_pico.unwrap_or(0);
    }

    /// Counts a call.
    pub(super) fn attempt(&mut self, batch: BatchId, attempt: &AttemptRecord) {
        let delta = self.0.entry(batch).or_default();
        delta.calls += 1;
        delta.input_tokens += attempt.usage.input_tokens.map_or(0, i64::from);
        delta.output_tokens += attempt.usage.output_tokens.map_or(0, i64::from);
        delta.cost_pico += attempt.cost_pico_usd.unwrap_or(0);
    }

    /// Moves the counters, and finishes the batches whose last job has ended.
    pub(super) async fn write(&self, tx: &mut SqliteConnection, now: i64) -> Done<()> {
        for (batch, delta) in &self.0 {
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
        Ok(())
    }
}
