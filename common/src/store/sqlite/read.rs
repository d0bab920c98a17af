//! What readers ask: results by cursor, identities, errors, progress.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::super::{Cursor, ErrorCount, Page, Progress};
use super::Core;
use super::error::Done;
use super::row::{count, json, json_bytes, maybe_small, maybe_time, small, time};
use crate::id::{BatchId, JobId};
use crate::job::Identity;
use crate::outcome::{JobResult, ResultRow, Status, Usage};

const RESULTS_AFTER: &str = "-- results after a cursor
SELECT r.seq, r.job_id, r.run, r.batch_id, r.status, r.model_group, r.provider, r.deployment, r.served_model,
       r.finish_reason, r.output_text, r.response, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens,
       r.output_tokens, r.reasoning_tokens, r.cost_pico_usd, r.saved_pico_usd, r.cached, r.attempts, r.queued_at,
       r.started_at, r.finished_at, r.ttft_ms, r.latency_ms, r.error, r.request_id, j.custom_id, j.endpoint, j.tags,
       j.metadata, coalesce(b.simulated, 0) AS simulated
FROM result r
LEFT JOIN batch b ON b.batch_id = r.batch_id
LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id
WHERE r.batch_id = ?1 AND r.seq > ?2 ORDER BY r.seq LIMIT ?3";

pub(super) async fn results_after(core: &Core, batch: BatchId, cursor: Cursor, limit: u32) -> Done<Page> {
    let rows = sqlx::query(RESULTS_AFTER)
        .bind(batch.uuid())
        .bind(cursor.seq)
        .bind(i64::from(limit))
        .fetch_all(&core.readers)
        .await?;
    let cursor = rows.last().map_or(cursor, |row| Cursor { xid: 0, seq: row.get("seq") });
    Ok(Page { more: rows.len() >= limit as usize, rows: rows.iter().map(result_row).collect(), cursor })
}

fn result_row(row: &SqliteRow) -> ResultRow {
    let job_id = JobId::from_uuid(row.get("job_id"));
    let shared = |column: &str| row.get::<Option<&str>, _>(column).map(Into::into);
    ResultRow {
        job_id,
        run: small(row.get("run")),
        batch_id: BatchId::from_uuid(row.get("batch_id")),
        custom_id: row.get::<Option<String>, _>("custom_id").unwrap_or_else(|| job_id.to_string()),
        endpoint: row.get::<Option<String>, _>("endpoint").unwrap_or_default(),
        model: row.get("model_group"),
        tags: json(row.get("tags")).unwrap_or_default(),
        metadata: json(row.get("metadata")),
        simulated: row.get("simulated"),
        result: JobResult {
            status: row.get::<&str, _>("status").parse().unwrap_or(Status::Failed),
            provider: shared("provider"),
            deployment: shared("deployment"),
            served_model: row.get("served_model"),
            finish_reason: row.get("finish_reason"),
            output_text: row.get("output_text"),
            response: json_bytes(row, "response"),
            usage: Usage {
                input_tokens: maybe_small(row, "input_tokens"),
                cached_input_tokens: maybe_small(row, "cached_input_tokens"),
                cache_write_tokens: maybe_small(row, "cache_write_tokens"),
                output_tokens: maybe_small(row, "output_tokens"),
                reasoning_tokens: maybe_small(row, "reasoning_tokens"),
            },
            cost_pico_usd: row.get("cost_pico_usd"),
            cached: row.get("cached"),
            saved_pico_usd: row.get("saved_pico_usd"),
            attempts: small(row.get("attempts")),
            queued_at: maybe_time(row, "queued_at"),
            started_at: maybe_time(row, "started_at"),
            finished_at: time(row.get("finished_at")),
            ttft_ms: maybe_small(row, "ttft_ms"),
            latency_ms: maybe_small(row, "latency_ms"),
            request_id: row.get("request_id"),
            error: json(row.get("error")),
        },
    }
}

const IDENTITIES: &str = "-- identities in order of id
SELECT job_id, identity FROM job WHERE batch_id = ?1 AND job_id > ?2 ORDER BY job_id LIMIT ?3";

pub(super) async fn identities(
    core: &Core,
    batch: BatchId,
    after: Option<JobId>,
    limit: u32,
) -> Done<Vec<(JobId, Identity)>> {
    let rows = sqlx::query(IDENTITIES)
        .bind(batch.uuid())
        .bind(after.map_or(Uuid::nil(), JobId::uuid))
        .bind(i64::from(limit))
        .fetch_all(&core.readers)
        .await?;
    let pair = |row: &SqliteRow| (JobId::from_uuid(row.get(0)), Identity(row.get::<Uuid, _>(1).into_bytes()));
    Ok(rows.iter().map(pair).collect())
}

// The inequality is what the index on unsuccessful results asks for.
const ERRORS: &str = "-- failed results by class
SELECT coalesce(r.error_class, 'unknown') AS class, count(*) AS n, min(r.error_message) AS example
FROM result r
WHERE r.batch_id = ?1 AND r.status <> 'succeeded' AND r.status = 'failed'
  AND NOT EXISTS (SELECT 1 FROM live l WHERE l.job_id = r.job_id)
  AND NOT EXISTS (SELECT 1 FROM result n WHERE n.job_id = r.job_id AND n.run > r.run)
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?2";

pub(super) async fn errors(core: &Core, batch: BatchId, limit: u32) -> Done<Vec<ErrorCount>> {
    let query = sqlx::query(ERRORS).bind(batch.uuid()).bind(i64::from(limit));
    let rows = query.fetch_all(&core.readers).await?;
    let read = |row: &SqliteRow| ErrorCount {
        class: row.get("class"),
        count: count(row, "n"),
        example: row.get::<Option<String>, _>("example").unwrap_or_default(),
    };
    Ok(rows.iter().map(read).collect())
}

const PROGRESS: &str = "-- live rows of a batch
SELECT count(*) FILTER (WHERE state = 0) AS held, count(*) FILTER (WHERE state = 1) AS waiting
FROM live WHERE batch_id = ?";

pub(super) async fn progress(core: &Core, batch: BatchId) -> Done<Progress> {
    let row = sqlx::query(PROGRESS).bind(batch.uuid()).fetch_one(&core.readers).await?;
    Ok(Progress { held: count(&row, "held"), waiting: count(&row, "waiting") })
}
