//! The newest runs over all batches.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::super::history::{Candidate, HistoryScope, Newest, PastRun};
use super::Core;
use super::error::Done;
use super::row::{maybe_small, maybe_time, small, time};
use crate::id::{BatchId, JobId};
use crate::outcome::{Status, Usage};

const CANDIDATES: &str = "-- batches that may have the newest results
SELECT b.batch_id, b.finished_at FROM batch b
WHERE (?1 IS NULL OR b.batch_id = ?1)
  AND CASE WHEN ?2 THEN b.failed + b.expired ELSE b.succeeded + b.failed + b.cancelled + b.expired END > 0
  AND (?3 IS NULL OR EXISTS (SELECT 1 FROM tally t WHERE t.batch_id = b.batch_id AND t.model_group = ?3))
ORDER BY b.finished_at DESC NULLS FIRST, b.created_at DESC";

// The inner select walks numbers of rows only; the index has them in order.
macro_rules! newest {
    ($name:literal, $which:literal, $looked:literal) => {
        concat!(
            "-- ",
            $name,
            "
SELECT r.job_id, r.run, r.batch_id, b.name AS batch, b.simulated, j.custom_id, r.model_group, r.provider, r.deployment, r.status,
       r.finished_at, r.attempts, r.latency_ms, r.ttft_ms, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens,
       r.output_tokens, r.reasoning_tokens, r.cost_pico_usd, r.cached, r.error_class, r.error_message
FROM result r
JOIN batch b ON b.batch_id = r.batch_id
LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id
WHERE r.batch_id = ?1",
            $which,
            " AND (?3 IS NULL OR r.model_group = ?3)
  AND r.seq > coalesce((SELECT i.seq FROM result i WHERE i.batch_id = ?1",
            $looked,
            " ORDER BY i.seq DESC LIMIT 1 OFFSET ?4), 0)
ORDER BY r.seq DESC LIMIT ?2"
        )
    };
}

const NEWEST: &str = newest!("the newest results of a batch", "", "");
// The inequality is what the index on unsuccessful results asks for.
const NEWEST_FAILED: &str = newest!(
    "the newest failed results of a batch",
    " AND r.status <> 'succeeded' AND r.status IN ('failed', 'expired')",
    " AND i.status <> 'succeeded' AND i.status IN ('failed', 'expired')"
);

pub(super) async fn history(core: &Core, scope: &HistoryScope, limit: u32) -> Done<Vec<PastRun>> {
    let mut reader = core.readers.acquire().await?;
    let rows = sqlx::query(CANDIDATES)
        .bind(scope.batch.map(BatchId::uuid))
        .bind(scope.failed)
        .bind(scope.model.clone())
        .fetch_all(&mut *reader)
        .await?;
    let mut newest = Newest::new(limit);
    for row in &rows {
        let candidate =
            Candidate { batch: BatchId::from_uuid(row.get("batch_id")), finished_at: maybe_time(row, "finished_at") };
        if newest.is_newer_than(&candidate) {
            break;
        }
        let rows = sqlx::query(if scope.failed { NEWEST_FAILED } else { NEWEST })
            .bind(candidate.batch.uuid())
            .bind(i64::from(limit))
            .bind(scope.model.clone())
            .bind(scope.window(limit))
            .fetch_all(&mut *reader)
            .await?;
        newest.add(rows.iter().map(past_run).collect());
    }
    Ok(newest.into_runs())
}

fn past_run(row: &SqliteRow) -> PastRun {
    let job_id = JobId::from_uuid(row.get("job_id"));
    PastRun {
        job_id,
        run: small(row.get("run")),
        batch_id: BatchId::from_uuid(row.get("batch_id")),
        batch: row.get("batch"),
        simulated: row.get("simulated"),
        custom_id: row.get::<Option<String>, _>("custom_id").unwrap_or_else(|| job_id.to_string()),
        model: row.get("model_group"),
        provider: row.get("provider"),
        deployment: row.get("deployment"),
        status: row.get::<&str, _>("status").parse().unwrap_or(Status::Failed),
        finished_at: time(row.get("finished_at")),
        attempts: small(row.get("attempts")),
        latency_ms: maybe_small(row, "latency_ms"),
        ttft_ms: maybe_small(row, "ttft_ms"),
        usage: Usage {
            input_tokens: maybe_small(row, "input_tokens"),
            cached_input_tokens: maybe_small(row, "cached_input_tokens"),
            cache_write_tokens: maybe_small(row, "cache_write_tokens"),
            output_tokens: maybe_small(row, "output_tokens"),
            reasoning_tokens: maybe_small(row, "reasoning_tokens"),
        },
        cost_pico_usd: row.get("cost_pico_usd"),
        cached: row.get("cached"),
        class: row.get::<Option<&str>, _>("error_class").map(Into::into),
        message: row.get("error_message"),
    }
}
