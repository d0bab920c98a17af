//! The newest runs over all batches.

use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgPool, PgRow};

use super::super::Result;
use super::super::history::{Candidate, HistoryScope, Newest, PastRun, batches_of_a_read};
use super::failed;
use super::row::small;
use crate::id::{BatchId, JobId};
use crate::outcome::{Status, Usage};

const CANDIDATES: &str = "-- batches that may have the newest results
SELECT b.batch_id, b.finished_at FROM gristmill.batch b
WHERE ($1::uuid IS NULL OR b.batch_id = $1)
  AND CASE WHEN $2 THEN b.failed + b.expired ELSE b.succeeded + b.failed + b.cancelled + b.expired END > 0
  AND ($3::text IS NULL OR EXISTS (SELECT 1 FROM gristmill.tally t WHERE t.batch_id = b.batch_id AND t.model_group = $3))
ORDER BY b.finished_at DESC NULLS FIRST, b.created_at DESC";

macro_rules! newest {
    ($name:literal, $which:literal) => {
        concat!(
            "-- ",
            $name,
            "
SELECT r.*, b.name AS batch, b.simulated, j.custom_id
FROM UNNEST($1::uuid[]) AS t (batch_id)
JOIN gristmill.batch b USING (batch_id)
CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT i.xid, i.seq, i.job_id, i.part_day, i.run, i.batch_id, i.status, i.model_group, i.provider, i.deployment,
               i.finished_at, i.attempts, i.latency_ms, i.ttft_ms, i.input_tokens, i.cached_input_tokens, i.cache_write_tokens,
               i.output_tokens, i.reasoning_tokens, (i.cost_usd * 1000000000000)::bigint AS cost_pico_usd, i.cached,
               i.error_class, i.error_message
        FROM gristmill.result i
        WHERE i.batch_id = b.batch_id AND i.part_day BETWEEN b.day_from AND b.day_to",
            $which,
            "
        ORDER BY i.xid DESC, i.seq DESC LIMIT $4) looked
    WHERE $3::text IS NULL OR model_group = $3
    ORDER BY xid DESC, seq DESC LIMIT $2) r
LEFT JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
ORDER BY r.finished_at DESC, r.xid DESC, r.seq DESC LIMIT $2"
        )
    };
}

const NEWEST: &str = newest!("the newest results of batches", "");
// The inequality is what the index on unsuccessful results asks for.
const NEWEST_FAILED: &str = newest!(
    "the newest failed results of batches",
    " AND i.status <> 'succeeded' AND i.status IN ('failed', 'expired')"
);

pub(super) async fn history(pool: &PgPool, scope: &HistoryScope, limit: u32) -> Result<Vec<PastRun>> {
    let doing = "reading the history";
    let query = sqlx::query(CANDIDATES).bind(scope.batch.map(BatchId::uuid)).bind(scope.failed).bind(&scope.model);
    let rows = query.fetch_all(pool).await.map_err(failed(doing))?;
    let candidate =
        |row: &PgRow| Candidate { batch: BatchId::from_uuid(row.get("batch_id")), finished_at: row.get("finished_at") };
    let candidates: Vec<Candidate> = rows.iter().map(candidate).collect();
    let mut newest = Newest::new(limit);
    for page in candidates.chunks(batches_of_a_read(limit)) {
        if newest.is_newer_than(&page[0]) {
            break;
        }
        let rows = sqlx::query(if scope.failed { NEWEST_FAILED } else { NEWEST })
            .bind(page.iter().map(|candidate| candidate.batch.uuid()).bind_iter())
            .bind(i64::from(limit))
            .bind(&scope.model)
            .bind(scope.window(limit))
            .fetch_all(pool)
            .await
            .map_err(failed(doing))?;
        newest.add(rows.iter().map(past_run).collect());
    }
    Ok(newest.into_runs())
}

fn past_run(row: &PgRow) -> PastRun {
    let job_id = JobId::from_uuid(row.get("job_id"));
    PastRun {
        job_id,
        run: row.get::<i32, _>("run").unsigned_abs(),
        batch_id: BatchId::from_uuid(row.get("batch_id")),
        batch: row.get("batch"),
        simulated: row.get("simulated"),
        custom_id: row.get::<Option<String>, _>("custom_id").unwrap_or_else(|| job_id.to_string()),
        model: row.get("model_group"),
        provider: row.get("provider"),
        deployment: row.get("deployment"),
        status: row.get::<&str, _>("status").parse().unwrap_or(Status::Failed),
        finished_at: row.get("finished_at"),
        attempts: row.get::<i32, _>("attempts").unsigned_abs(),
        latency_ms: small(row, "latency_ms"),
        ttft_ms: small(row, "ttft_ms"),
        usage: Usage {
            input_tokens: small(row, "input_tokens"),
            cached_input_tokens: small(row, "cached_input_tokens"),
            cache_write_tokens: small(row, "cache_write_tokens"),
            output_tokens: small(row, "output_tokens"),
            reasoning_tokens: small(row, "reasoning_tokens"),
        },
        cost_pico_usd: row.get("cost_pico_usd"),
        cached: row.get("cached"),
        class: row.get::<Option<&str>, _>("error_class").map(Into::into),
        message: row.get("error_message"),
    }
}
