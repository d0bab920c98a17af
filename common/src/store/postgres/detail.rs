//! What people ask of single jobs.

use sqlx::Row as _;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::types::Json;
use uuid::Uuid;

use super::super::detail::batches_of;
use super::super::{JobDetail, JobLine, JobPlace, JobSelector, LiveRow, LostCall, Result};
use super::admit::request;
use super::failed;
use super::read::{above, result_row};
use super::row::{lane, small};
use crate::id::{BatchId, JobId, OwnerId};
use crate::job::Job;
use crate::outcome::{AttemptRecord, CostBasis, Status, Usage};

const DOING: &str = "reading a job";

// A job has the time of its batch in its id, unless it was adopted: then its live row or its result names the batch.
const BY_ID: &str = "-- jobs by the beginning of their ids
SELECT DISTINCT batch_id, job_id FROM (
    (SELECT j.batch_id, j.job_id FROM gristmill.batch b
     CROSS JOIN LATERAL (SELECT i.batch_id, i.job_id FROM gristmill.job i
                         WHERE i.batch_id = b.batch_id AND i.job_id BETWEEN $1 AND $2
                           AND i.part_day BETWEEN b.day_from AND b.day_to
                         ORDER BY i.job_id DESC LIMIT $5) j
     WHERE b.batch_id BETWEEN $3 AND $4 ORDER BY j.job_id DESC LIMIT $5)
    UNION ALL
    (SELECT batch_id, job_id FROM gristmill.live WHERE job_id BETWEEN $1 AND $2 ORDER BY job_id DESC LIMIT $5)
    UNION ALL
    (SELECT batch_id, job_id FROM gristmill.result WHERE job_id BETWEEN $1 AND $2 ORDER BY job_id DESC LIMIT $5)
) found ORDER BY job_id DESC LIMIT $5";

const BY_CUSTOM_ID: &str = "-- jobs by the user's name
SELECT j.batch_id, j.job_id FROM gristmill.job j
WHERE j.batch_id = $1 AND j.custom_id = $2
  AND j.part_day BETWEEN (SELECT day_from FROM gristmill.batch WHERE batch_id = $1)
                     AND (SELECT day_to FROM gristmill.batch WHERE batch_id = $1)
ORDER BY j.job_id DESC LIMIT $3";

pub(super) async fn find_jobs(pool: &PgPool, selector: &JobSelector, limit: u32) -> Result<Vec<(BatchId, JobId)>> {
    let query = match selector {
        JobSelector::Ids(first, last) => {
            let (earliest, latest) = batches_of(*first, *last);
            sqlx::query(BY_ID).bind(first.uuid()).bind(last.uuid()).bind(earliest).bind(latest)
        }
        JobSelector::CustomId(batch, name) => sqlx::query(BY_CUSTOM_ID).bind(batch.uuid()).bind(name.clone()),
    };
    let rows = query.bind(i64::from(limit)).fetch_all(pool).await.map_err(failed("looking for a job"))?;
    let pair = |row: &PgRow| (BatchId::from_uuid(row.get("batch_id")), JobId::from_uuid(row.get("job_id")));
    Ok(rows.iter().map(pair).collect())
}

const JOB: &str = "-- a recorded request
SELECT j.model_group, j.priority, j.lane, j.custom_id, j.endpoint, j.body::text AS body, j.deadline, j.not_before, j.sample,
       j.num_retries, j.tags, j.metadata, j.cache_policy, j.service_tier, j.est_tokens, j.created_at, b.name AS batch
FROM gristmill.job j JOIN gristmill.batch b USING (batch_id)
WHERE j.batch_id = $1 AND j.job_id = $2 AND j.part_day = $3";

const LIVE: &str = "-- what holds a job
SELECT run, owner, wake_at, reason, calls, deaths, queued_at FROM gristmill.live WHERE job_id = $1";

const RUNS: &str = "-- the runs of a job
SELECT r.job_id, r.run, r.batch_id, r.status, r.model_group, r.provider, r.deployment, r.served_model, r.finish_reason,
       r.output_text, r.response::text AS response, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens,
       r.output_tokens, r.reasoning_tokens, (r.cost_usd * 1000000000000)::bigint AS cost_pico_usd,
       (r.saved_usd * 1000000000000)::bigint AS saved_pico_usd, r.cached, r.attempts, r.queued_at, r.started_at,
       r.finished_at, r.ttft_ms, r.latency_ms, r.error, r.request_id, j.custom_id, j.endpoint, j.tags, j.metadata,
       b.simulated
FROM gristmill.result r
JOIN gristmill.batch b ON b.batch_id = r.batch_id
LEFT JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
WHERE r.job_id = $1 AND r.part_day = $2 ORDER BY r.run";

const ATTEMPTS: &str = "-- the calls of a job
SELECT run, attempt, provider, deployment, model, served_model, service_tier, started_at, ttft_ms, latency_ms, http_status,
       counted, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
       (cost_usd * 1000000000000)::bigint AS cost_pico_usd, (bound_usd * 1000000000000)::bigint AS bound_pico_usd, cost_basis,
       price_ref, usage::text AS billed, request_id, error
FROM gristmill.attempt WHERE job_id = $1 AND part_day = $2 ORDER BY started_at, run, attempt";

const LOST: &str = "-- calls of a job that dead owners may have been making
SELECT run, attempt, owner, died_at, (bound_usd * 1000000000000)::bigint AS bound_pico_usd
FROM gristmill.lost_call c
WHERE job_id = $1 AND NOT EXISTS (SELECT FROM gristmill.attempt a WHERE a.job_id = c.job_id AND a.part_day = $2 AND a.run = c.run
                                                                    AND a.attempt = c.attempt AND a.owner = c.owner)
ORDER BY died_at, run, owner";

pub(super) async fn job(pool: &PgPool, batch: BatchId, id: JobId) -> Result<Option<JobDetail>> {
    let mut tx = pool.begin().await.map_err(failed(DOING))?;
    let day = id.part_day();
    let query = sqlx::query(JOB).bind(batch.uuid()).bind(id.uuid()).bind(day);
    let Some(row) = query.fetch_optional(&mut *tx).await.map_err(failed(DOING))? else { return Ok(None) };
    let live = sqlx::query(LIVE).bind(id.uuid()).fetch_optional(&mut *tx).await.map_err(failed(DOING))?;
    let runs = sqlx::query(RUNS).bind(id.uuid()).bind(day).fetch_all(&mut *tx).await.map_err(failed(DOING))?;
    let attempts = sqlx::query(ATTEMPTS).bind(id.uuid()).bind(day).fetch_all(&mut *tx).await.map_err(failed(DOING))?;
    let lost = sqlx::query(LOST).bind(id.uuid()).bind(day).fetch_all(&mut *tx).await.map_err(failed(DOING))?;
    let request = request(&row);
    Ok(Some(JobDetail {
        job: Job {
            id,
            batch,
            custom_id: request.custom_id,
            endpoint: request.endpoint,
            lane: lane(&row),
            body: request.body,
            options: request.options,
        },
        batch: row.get("batch"),
        created_at: row.get("created_at"),
        live: live.as_ref().map(live_row),
        runs: runs.iter().map(result_row).collect(),
        attempts: attempts.iter().map(attempt).collect(),
        lost: lost.iter().map(lost_call).collect(),
    }))
}

fn live_row(row: &PgRow) -> LiveRow {
    LiveRow {
        run: row.get::<i32, _>("run").unsigned_abs(),
        owner: row.get::<Option<Uuid>, _>("owner").map(OwnerId::from_uuid),
        wake_at: row.get("wake_at"),
        reason: row.get("reason"),
        calls: row.get::<i32, _>("calls").unsigned_abs(),
        deaths: row.get::<i32, _>("deaths").unsigned_abs(),
        queued_at: row.get("queued_at"),
    }
}

fn lost_call(row: &PgRow) -> LostCall {
    LostCall {
        run: row.get::<i32, _>("run").unsigned_abs(),
        attempt: row.get::<i32, _>("attempt").unsigned_abs(),
        owner: OwnerId::from_uuid(row.get("owner")),
        died_at: row.get("died_at"),
        bound_pico_usd: row.get("bound_pico_usd"),
    }
}

fn attempt(row: &PgRow) -> (u32, AttemptRecord) {
    let record = AttemptRecord {
        attempt: row.get::<i32, _>("attempt").unsigned_abs(),
        provider: row.get::<&str, _>("provider").into(),
        deployment: row.get::<&str, _>("deployment").into(),
        model: row.get::<&str, _>("model").into(),
        served_model: row.get("served_model"),
        service_tier: row.get("service_tier"),
        started_at: row.get("started_at"),
        ttft_ms: small(row, "ttft_ms"),
        latency_ms: row.get::<i32, _>("latency_ms").unsigned_abs(),
        http_status: small(row, "http_status").and_then(|status| u16::try_from(status).ok()),
        counted: row.get("counted"),
        usage: Usage {
            input_tokens: small(row, "input_tokens"),
            cached_input_tokens: small(row, "cached_input_tokens"),
            cache_write_tokens: small(row, "cache_write_tokens"),
            output_tokens: small(row, "output_tokens"),
            reasoning_tokens: small(row, "reasoning_tokens"),
        },
        cost_pico_usd: row.get("cost_pico_usd"),
        cost_basis: CostBasis::parse_lenient(row.get("cost_basis")),
        bound_pico_usd: row.get("bound_pico_usd"),
        price_ref: row.get::<Option<&str>, _>("price_ref").map(Into::into),
        billed: row.get("billed"),
        request_id: row.get("request_id"),
        error: row.get::<Option<Json<_>>, _>("error").map(|Json(error)| error),
    };
    (row.get::<i32, _>("run").unsigned_abs(), record)
}

const JOBS: &str = "-- jobs of a batch in order of id
SELECT j.job_id, j.custom_id, j.model_group, l.state, coalesce(l.run, r.run, 0) AS run, coalesce(l.calls, r.attempts, 0) AS calls,
       r.status, r.error_class, r.error_message
FROM gristmill.job j
LEFT JOIN gristmill.live l ON l.job_id = j.job_id
LEFT JOIN LATERAL (SELECT i.run, i.attempts, i.status, i.error_class, i.error_message FROM gristmill.result i
                   WHERE i.job_id = j.job_id AND i.part_day = j.part_day ORDER BY i.run DESC LIMIT 1) r ON true
WHERE j.batch_id = $1 AND j.job_id > $2
  AND j.part_day BETWEEN (SELECT day_from FROM gristmill.batch WHERE batch_id = $1)
                     AND (SELECT day_to FROM gristmill.batch WHERE batch_id = $1)
ORDER BY j.job_id LIMIT $3";

const JOBS_ENDED: &str = "-- jobs of a batch that ended so
SELECT r.job_id, coalesce(j.custom_id, r.job_id::text) AS custom_id, r.model_group, NULL::smallint AS state, r.run,
       r.attempts AS calls, r.status, r.error_class, r.error_message
FROM gristmill.result r
LEFT JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
WHERE r.batch_id = $1 AND r.job_id > $2 AND r.status = ANY ($4)
  AND r.part_day BETWEEN (SELECT day_from FROM gristmill.batch WHERE batch_id = $1)
                     AND (SELECT day_to FROM gristmill.batch WHERE batch_id = $1)
  AND NOT EXISTS (SELECT 1 FROM gristmill.live l WHERE l.job_id = r.job_id)
  AND NOT EXISTS (SELECT 1 FROM gristmill.result n WHERE n.job_id = r.job_id AND n.part_day = r.part_day AND n.run > r.run)
ORDER BY r.job_id LIMIT $3";

pub(super) async fn jobs(
    pool: &PgPool,
    batch: BatchId,
    statuses: Option<&[Status]>,
    after: Option<JobId>,
    limit: u32,
) -> Result<Vec<JobLine>> {
    let text = if statuses.is_some() { JOBS_ENDED } else { JOBS };
    let mut query = sqlx::query(text).bind(batch.uuid()).bind(above(after)).bind(i64::from(limit));
    if let Some(statuses) = statuses {
        query = query.bind(statuses.iter().map(|status| status.as_str()).collect::<Vec<_>>());
    }
    let rows = query.fetch_all(pool).await.map_err(failed("listing jobs"))?;
    Ok(rows.iter().map(line).collect())
}

fn line(row: &PgRow) -> JobLine {
    let ended = row.get::<Option<&str>, _>("status").and_then(|status| status.parse().ok());
    JobLine {
        id: JobId::from_uuid(row.get("job_id")),
        custom_id: row.get("custom_id"),
        model: row.get("model_group"),
        place: JobPlace::read(row.get::<Option<i16>, _>("state").map(i64::from), ended),
        run: row.get::<i32, _>("run").unsigned_abs(),
        attempts: row.get::<i32, _>("calls").unsigned_abs(),
        class: row.get("error_class"),
        message: row.get("error_message"),
    }
}
