//! Values between rows and domain types.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::batch::{Batch, BatchState, Counters};
use crate::id::{BatchId, JobId};
use crate::job::{JobRef, LaneKey, Priority};

/// Reads a counter, which is never negative.
pub(super) fn count(row: &PgRow, column: &str) -> u64 {
    row.get::<i64, _>(column).unsigned_abs()
}

/// Reads an optional small number, which is never negative.
pub(super) fn small(row: &PgRow, column: &str) -> Option<u32> {
    row.get::<Option<i32>, _>(column).map(i32::unsigned_abs)
}

/// Converts for a column of type integer.
pub(super) fn int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Converts for a column of type bigint.
pub(super) fn big(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Converts for an interval in seconds.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// Replaces NUL, which no text column takes.
pub(super) fn text(value: &str) -> std::borrow::Cow<'_, str> {
    if value.contains('\0') { value.replace('\0', "\u{fffd}").into() } else { value.into() }
}

/// Reads the columns that every statement about live rows or jobs returns.
pub(super) fn job_ref(row: &PgRow) -> JobRef {
    JobRef {
        id: JobId::from_uuid(row.get::<Uuid, _>("job_id")),
        batch: BatchId::from_uuid(row.get::<Uuid, _>("batch_id")),
        run: row.get::<i32, _>("run").unsigned_abs(),
        lane: lane(row),
    }
}

/// Reads the columns of a lane.
pub(super) fn lane(row: &PgRow) -> LaneKey {
    LaneKey {
        group: row.get::<&str, _>("model_group").into(),
        priority: row.get::<&str, _>("priority").parse::<Priority>().unwrap_or_default(),
        lane: u8::try_from(row.get::<i16, _>("lane")).unwrap_or(0),
    }
}

/// Reads a batch as `BATCH_COLUMNS` selects it.
pub(super) fn batch(row: &PgRow) -> Batch {
    let state = match row.get::<&str, _>("state") {
        "submitting" => BatchState::Submitting,
        "interrupted" => BatchState::Interrupted,
        "cancelling" => BatchState::Cancelling,
        "cancelled" => BatchState::Cancelled,
        "finished" => BatchState::Finished,
        _ => BatchState::Running,
    };
    Batch {
        id: BatchId::from_uuid(row.get("batch_id")),
        name: row.get("name"),
        project: row.get("project"),
        priority: row.get::<&str, _>("priority").parse().unwrap_or_default(),
        simulated: row.get("simulated"),
        state,
        recorded: count(row, "recorded"),
        published_through: count(row, "published_through"),
        total: row.get::<Option<i64>, _>("total").map(i64::unsigned_abs),
        counters: Counters {
            succeeded: count(row, "succeeded"),
            failed: count(row, "failed"),
            cancelled: count(row, "cancelled"),
            expired: count(row, "expired"),
        },
        calls: count(row, "calls"),
        input_tokens: count(row, "input_tokens"),
        output_tokens: count(row, "output_tokens"),
        cost_pico_usd: Batch::known_cost(row.get("cost_pico_usd"), count(row, "calls")),
        saved_pico_usd: row.get("saved_pico_usd"),
        created_at: row.get("created_at"),
        finished_at: row.get("finished_at"),
        cancel_requested_at: row.get("cancel_requested_at"),
    }
}
