//! Values between rows and domain types.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::batch::{Batch, BatchState, Counters};
use crate::id::{BatchId, JobId};
use crate::job::{JobRef, LaneKey, Priority};

/// Returns the UTC day that an id carries, in days of Unix time.
pub(super) fn day(unix_ms: i64) -> i64 {
    unix_ms.div_euclid(86_400_000)
}

/// Reads a time.
pub(super) fn time(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// Reads an optional time.
pub(super) fn maybe_time(row: &SqliteRow, column: &str) -> Option<DateTime<Utc>> {
    row.get::<Option<i64>, _>(column).map(time)
}

/// Reads a counter, which is never negative.
pub(super) fn count(row: &SqliteRow, column: &str) -> u64 {
    row.get::<i64, _>(column).unsigned_abs()
}

/// Reads a small number, which is never negative.
pub(super) fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// Reads an optional small number, which is never negative.
pub(super) fn maybe_small(row: &SqliteRow, column: &str) -> Option<u32> {
    row.get::<Option<i64>, _>(column).map(small)
}

/// Reads a JSON column; nothing where it is null.
pub(super) fn json<T: DeserializeOwned>(text: Option<&str>) -> Option<T> {
    text.and_then(|text| serde_json::from_str(text).ok())
}

/// Writes a value as JSON text, or nothing where it is empty.
pub(super) fn json_text(value: &impl serde::Serialize, empty: bool) -> Option<String> {
    if empty { None } else { serde_json::to_string(value).ok() }
}

/// Reads JSON text byte for byte.
pub(super) fn json_bytes(row: &SqliteRow, column: &str) -> Option<Bytes> {
    row.get::<Option<Vec<u8>>, _>(column).map(Bytes::from)
}

/// Reads the columns that every statement about live rows or jobs returns.
pub(super) fn job_ref(row: &SqliteRow) -> JobRef {
    JobRef {
        id: JobId::from_uuid(row.get::<Uuid, _>("job_id")),
        batch: BatchId::from_uuid(row.get::<Uuid, _>("batch_id")),
        run: small(row.get("run")),
        lane: LaneKey {
            group: row.get::<&str, _>("model_group").into(),
            priority: row.get::<&str, _>("priority").parse::<Priority>().unwrap_or_default(),
            lane: u8::try_from(row.get::<i64, _>("lane")).unwrap_or(0),
        },
    }
}

/// Reads a batch, with its state at `now`.
pub(super) fn batch(row: &SqliteRow, now: i64) -> Batch {
    let finished_at = maybe_time(row, "finished_at");
    let cancel_requested_at = maybe_time(row, "cancel_requested_at");
    let total: Option<i64> = row.get("total");
    let state = match (finished_at, cancel_requested_at) {
        (Some(_), Some(_)) => BatchState::Cancelled,
        (Some(_), None) => BatchState::Finished,
        (None, Some(_)) => BatchState::Cancelling,
        (None, None) if total.is_some() => BatchState::Running,
        (None, None) if row.get::<Option<i64>, _>("producer_lease").is_some_and(|lease| lease > now) => {
            BatchState::Submitting
        }
        (None, None) => BatchState::Interrupted,
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
        total: total.map(i64::unsigned_abs),
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
        created_at: time(row.get("created_at")),
        finished_at,
        cancel_requested_at,
    }
}
