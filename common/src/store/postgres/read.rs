//! What readers ask: batches, results by cursor, errors, progress.

use bytes::Bytes;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::{BatchSelector, Cursor, Error, ErrorCount, Page, Progress, Result, Wait};
use super::failed;
use super::row::{self, small};
use crate::batch::Batch;
use crate::id::{BatchId, JobId};
use crate::outcome::{JobResult, ResultRow, Status, Usage};

macro_rules! select_batch {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- ",
            $name,
            "
SELECT b.batch_id, b.name, b.project, b.priority, b.simulated, v.state, b.recorded, b.published_through, b.total,
       b.succeeded, b.failed, b.cancelled, b.expired, b.calls, b.input_tokens, b.output_tokens,
       (b.cost_usd * 1000000000000)::bigint AS cost_pico_usd,
       (b.saved_usd * 1000000000000)::bigint AS saved_pico_usd, b.created_at, b.finished_at, b.cancel_requested_at
FROM gristmill.batch b JOIN gristmill.batches v USING (batch_id)
",
            $rest
        )
    };
}

const BATCH_BY_ID: &str = select_batch!("batch by id", "WHERE b.batch_id = $1");
const BATCH_BY_NAME: &str = select_batch!("batch by name", "WHERE b.name = $1");
const BATCH_LAST: &str = select_batch!("the batch opened last", "ORDER BY b.created_at DESC, b.batch_id DESC LIMIT 1");
const BATCH_BY_PREFIX: &str = select_batch!(
    "batch by the beginning of its id",
    "WHERE length($1) >= 4 AND starts_with(replace(b.batch_id::text, '-', ''), $1) LIMIT 2"
);
pub(super) const ENDED_BEFORE: &str = select_batch!(
    "batches that ended before a time",
    "WHERE b.finished_at < $1 ORDER BY b.finished_at, b.batch_id LIMIT $2"
);
const BATCHES: &str = select_batch!("batches, newest first", "ORDER BY b.created_at DESC, b.batch_id DESC LIMIT $1");

pub(super) async fn batch_by_name(tx: &mut PgConnection, name: &str) -> Result<Option<Batch>> {
    let row = sqlx::query(BATCH_BY_NAME).bind(name).fetch_optional(tx).await.map_err(failed("reading a batch"))?;
    Ok(row.as_ref().map(row::batch))
}

pub(super) async fn batch(pool: &PgPool, selector: &BatchSelector) -> Result<Option<Batch>> {
    let query = match selector {
        BatchSelector::Id(id) => sqlx::query(BATCH_BY_ID).bind(id.uuid()),
        BatchSelector::Name(name) => sqlx::query(BATCH_BY_NAME).bind(name.clone()),
        BatchSelector::Last => sqlx::query(BATCH_LAST),
        BatchSelector::IdPrefix(prefix) => sqlx::query(BATCH_BY_PREFIX).bind(prefix.replace('-', "").to_lowercase()),
    };
    let rows = query.fetch_all(pool).await.map_err(failed("reading a batch"))?;
    if rows.len() > 1 {
        return Err(Error::Conflict("more than one batch id begins so; give more digits".to_owned()));
    }
    Ok(rows.first().map(row::batch))
}

pub(super) async fn batches(pool: &PgPool, limit: u32) -> Result<Vec<Batch>> {
    let query = sqlx::query(BATCHES).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(failed("reading batches"))?;
    Ok(rows.iter().map(row::batch).collect())
}

const RESULTS_AFTER: &str = "-- results after a cursor
SELECT r.*, j.custom_id, j.endpoint, j.tags, j.metadata, b.simulated
FROM (SELECT xid::text::bigint AS xid, seq, job_id, part_day, run, batch_id, status, model_group, provider, deployment,
             served_model, finish_reason, output_text, response::text AS response, input_tokens, cached_input_tokens,
             cache_write_tokens, output_tokens, reasoning_tokens, (cost_usd * 1000000000000)::bigint AS cost_pico_usd,
             (saved_usd * 1000000000000)::bigint AS saved_pico_usd, cached, attempts, queued_at, started_at, finished_at,
             ttft_ms, latency_ms, error, request_id
      FROM gristmill.result
      WHERE batch_id = $1 AND (xid, seq) > ($2::text::xid8, $3)
        AND part_day BETWEEN (SELECT day_from FROM gristmill.batch WHERE batch_id = $1)
                         AND (SELECT day_to FROM gristmill.batch WHERE batch_id = $1)
        AND xid < pg_snapshot_xmin(pg_current_snapshot())
      ORDER BY result.xid, result.seq LIMIT $4) r
JOIN gristmill.batch b ON b.batch_id = r.batch_id
LEFT JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
ORDER BY r.xid, r.seq";

const HELD_BACK: &str = "-- results behind a transaction that has not ended
SELECT EXISTS (SELECT 1 FROM gristmill.result
               WHERE batch_id = $1 AND (xid, seq) > ($2::text::xid8, $3)
                 AND part_day BETWEEN (SELECT day_from FROM gristmill.batch WHERE batch_id = $1)
                                  AND (SELECT day_to FROM gristmill.batch WHERE batch_id = $1))";

pub(super) async fn results_after(pool: &PgPool, batch: BatchId, cursor: Cursor, limit: u32) -> Result<Page> {
    let rows = sqlx::query(RESULTS_AFTER)
        .bind(batch.uuid())
        .bind(cursor.xid.to_string())
        .bind(cursor.seq)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(failed("reading results"))?;
    let cursor =
        rows.last().map_or(cursor, |row| Cursor { xid: row.get::<i64, _>("xid").unsigned_abs(), seq: row.get("seq") });
    // Asked after the rows were read: what was committed before is either among them or found here, so a batch that has
    // ended is never taken for read.
    let more = rows.len() >= limit as usize || held_back(pool, batch, cursor).await?;
    Ok(Page { more, rows: rows.iter().map(result_row).collect(), cursor })
}

async fn held_back(pool: &PgPool, batch: BatchId, cursor: Cursor) -> Result<bool> {
    let query = sqlx::query_scalar(HELD_BACK).bind(batch.uuid()).bind(cursor.xid.to_string()).bind(cursor.seq);
    query.fetch_one(pool).await.map_err(failed("reading results"))
}

pub(super) fn result_row(row: &PgRow) -> ResultRow {
    let job_id = JobId::from_uuid(row.get("job_id"));
    let shared = |column: &str| row.get::<Option<&str>, _>(column).map(Into::into);
    ResultRow {
        job_id,
        run: row.get::<i32, _>("run").unsigned_abs(),
        batch_id: BatchId::from_uuid(row.get("batch_id")),
        custom_id: row.get::<Option<String>, _>("custom_id").unwrap_or_else(|| job_id.to_string()),
        endpoint: row.get::<Option<String>, _>("endpoint").unwrap_or_default(),
        model: row.get("model_group"),
        tags: row.get::<Option<Json<_>>, _>("tags").map(|Json(tags)| tags).unwrap_or_default(),
        metadata: row.get::<Option<Json<_>>, _>("metadata").map(|Json(metadata)| metadata),
        simulated: row.get("simulated"),
        result: JobResult {
            status: row.get::<&str, _>("status").parse().unwrap_or(Status::Failed),
            provider: shared("provider"),
            deployment: shared("deployment"),
            served_model: row.get("served_model"),
            finish_reason: row.get("finish_reason"),
            output_text: row.get("output_text"),
            response: row.get::<Option<&str>, _>("response").map(|text| Bytes::copy_from_slice(text.as_bytes())),
            usage: Usage {
                input_tokens: small(row, "input_tokens"),
                cached_input_tokens: small(row, "cached_input_tokens"),
                cache_write_tokens: small(row, "cache_write_tokens"),
                output_tokens: small(row, "output_tokens"),
                reasoning_tokens: small(row, "reasoning_tokens"),
            },
            cost_pico_usd: row.get("cost_pico_usd"),
            cached: row.get("cached"),
            saved_pico_usd: row.get("saved_pico_usd"),
            attempts: row.get::<i32, _>("attempts").unsigned_abs(),
            queued_at: row.get("queued_at"),
            started_at: row.get("started_at"),
            finished_at: row.get("finished_at"),
            ttft_ms: small(row, "ttft_ms"),
            latency_ms: small(row, "latency_ms"),
            request_id: row.get("request_id"),
            error: row.get::<Option<Json<_>>, _>("error").map(|Json(error)| error),
        },
    }
}

const OPEN_RERUNS: &str = "-- jobs that are run again
SELECT job_id, run FROM gristmill.live WHERE batch_id = $1 AND run > 1 AND job_id > $2 ORDER BY job_id LIMIT $3";

pub(super) async fn open_reruns(
    pool: &PgPool,
    batch: BatchId,
    after: Option<JobId>,
    limit: u32,
) -> Result<Vec<(JobId, u32)>> {
    let query = sqlx::query(OPEN_RERUNS).bind(batch.uuid()).bind(above(after)).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(failed("reading open runs"))?;
    Ok(rows.iter().map(|row| (JobId::from_uuid(row.get("job_id")), row.get::<i32, _>("run").unsigned_abs())).collect())
}

const ERRORS: &str = "-- failed results by class
SELECT coalesce(r.error_class, 'unknown') AS class, count(*) AS n, min(r.error_message) AS example
FROM gristmill.result r
WHERE r.batch_id = $1 AND r.status <> 'succeeded' AND r.status = 'failed'
  AND NOT EXISTS (SELECT 1 FROM gristmill.live l WHERE l.job_id = r.job_id)
  AND NOT EXISTS (SELECT 1 FROM gristmill.result n
                  WHERE n.job_id = r.job_id AND n.part_day = r.part_day AND n.run > r.run)
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $2";

pub(super) async fn errors(pool: &PgPool, batch: BatchId, limit: u32) -> Result<Vec<ErrorCount>> {
    let query = sqlx::query(ERRORS).bind(batch.uuid()).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(failed("counting errors"))?;
    let count = |row: &PgRow| ErrorCount {
        class: row.get("class"),
        count: row::count(row, "n"),
        example: row.get::<Option<String>, _>("example").unwrap_or_default(),
    };
    Ok(rows.iter().map(count).collect())
}

const PROGRESS: &str = "-- live rows of a batch
SELECT model_group, count(*) FILTER (WHERE state = 0) AS held, count(*) FILTER (WHERE state = 1) AS waiting
FROM gristmill.live WHERE batch_id = $1 GROUP BY model_group";

pub(super) async fn progress(pool: &PgPool, batch: BatchId) -> Result<Progress> {
    let query = sqlx::query(PROGRESS).bind(batch.uuid());
    let mut progress = Progress::default();
    for row in query.fetch_all(pool).await.map_err(failed("counting live rows"))? {
        progress.add(row.get("model_group"), row::count(&row, "held"), row::count(&row, "waiting"));
    }
    Ok(progress)
}

const WAITS: &str = "-- what a batch waits for
SELECT model_group, reason, count(*) AS jobs, CASE WHEN state = 1 THEN min(wake_at) END AS until
FROM gristmill.live WHERE batch_id = $1 AND state <> 0
GROUP BY model_group, state, reason ORDER BY jobs DESC, model_group, reason LIMIT $2";

pub(super) async fn waits(pool: &PgPool, batch: BatchId, limit: u32) -> Result<Vec<Wait>> {
    let query = sqlx::query(WAITS).bind(batch.uuid()).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(failed("reading what is waited for"))?;
    let wait = |row: &PgRow| Wait {
        group: row.get("model_group"),
        reason: row.get("reason"),
        jobs: row::count(row, "jobs"),
        until: row.get("until"),
    };
    Ok(rows.iter().map(wait).collect())
}

/// Turns nothing into the nil id, below every other.
pub(super) fn above(after: Option<JobId>) -> Uuid {
    after.map_or(Uuid::nil(), JobId::uuid)
}
