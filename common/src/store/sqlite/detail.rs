//! What people ask of single jobs.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::super::detail::batches_of;
use super::super::{JobDetail, JobLine, JobPlace, JobSelector, LiveRow, LostCall};
use super::error::Done;
use super::row::{job_ref, json, maybe_small, maybe_time, small, time};
use super::{Core, request, result};
use crate::id::{BatchId, JobId, OwnerId};
use crate::job::Job;
use crate::outcome::{AttemptRecord, CostBasis, Status, Usage};

// A job has the time of its batch in its id, unless it was adopted: then its live row or its result names the batch.
const BY_ID: &str = "-- jobs by the beginning of their ids
SELECT DISTINCT batch_id, job_id FROM (
    SELECT j.batch_id, j.job_id FROM batch b CROSS JOIN job j ON j.batch_id = b.batch_id AND j.job_id BETWEEN ?1 AND ?2
    WHERE b.batch_id BETWEEN ?3 AND ?4
    UNION ALL SELECT batch_id, job_id FROM live WHERE job_id BETWEEN ?1 AND ?2
    UNION ALL SELECT batch_id, job_id FROM result WHERE job_id BETWEEN ?1 AND ?2
) ORDER BY job_id DESC LIMIT ?5";

const BY_CUSTOM_ID: &str = "-- jobs by the user's name
SELECT batch_id, job_id FROM job WHERE batch_id = ?1 AND custom_id = ?2 ORDER BY job_id DESC LIMIT ?3";

pub(super) async fn find_jobs(core: &Core, selector: &JobSelector, limit: u32) -> Done<Vec<(BatchId, JobId)>> {
    let query = match selector {
        JobSelector::Ids(first, last) => {
            let (earliest, latest) = batches_of(*first, *last);
            sqlx::query(BY_ID).bind(first.uuid()).bind(last.uuid()).bind(earliest).bind(latest)
        }
        JobSelector::CustomId(batch, name) => sqlx::query(BY_CUSTOM_ID).bind(batch.uuid()).bind(name.clone()),
    };
    let rows = query.bind(i64::from(limit)).fetch_all(&core.readers).await?;
    Ok(rows.iter().map(|row| (BatchId::from_uuid(row.get(0)), JobId::from_uuid(row.get(1)))).collect())
}

const JOB: &str = "-- a recorded request
SELECT j.batch_id, j.job_id, 1 AS run, j.model_group, j.priority, j.lane, j.custom_id, j.endpoint, j.body, j.deadline,
       j.not_before, j.sample, j.num_retries, j.tags, j.metadata, j.cache_policy, j.service_tier, j.est_tokens,
       j.created_at, b.name AS batch
FROM job j JOIN batch b ON b.batch_id = j.batch_id WHERE j.batch_id = ?1 AND j.job_id = ?2";

const LIVE: &str = "-- what holds a job
SELECT run, owner, wake_at, reason, calls, deaths, queued_at FROM live WHERE job_id = ?1";

const RUNS: &str = concat!(
    "-- the runs of a job
SELECT ",
    result::head!(),
    ", r.output_text, r.response
FROM result r LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id
WHERE r.job_id = ?1 ORDER BY r.run"
);

const ATTEMPTS: &str = "-- the calls of a job
SELECT run, attempt, provider, deployment, model, served_model, service_tier, started_at, ttft_ms, latency_ms, http_status,
       counted, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_pico_usd,
       cost_basis, bound_pico_usd, price_ref, usage AS billed, request_id, error
FROM attempt WHERE job_id = ?1 ORDER BY started_at, run, attempt";

const LOST: &str = "-- calls of a job that dead owners may have been making
SELECT run, attempt, owner, died_at, bound_pico_usd FROM lost_call c
WHERE job_id = ?1 AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.job_id = c.job_id AND a.run = c.run
                                                            AND a.attempt = c.attempt AND a.owner = c.owner)
ORDER BY died_at, run, owner";

pub(super) async fn job(core: &Core, batch: BatchId, id: JobId) -> Done<Option<JobDetail>> {
    let mut tx = core.readers.begin().await?;
    let Some(row) = sqlx::query(JOB).bind(batch.uuid()).bind(id.uuid()).fetch_optional(&mut *tx).await? else {
        return Ok(None);
    };
    let live = sqlx::query(LIVE).bind(id.uuid()).fetch_optional(&mut *tx).await?;
    let runs = sqlx::query(RUNS).bind(id.uuid()).fetch_all(&mut *tx).await?;
    let runs = runs.iter().map(|row| Ok(result::whole(row)?.1)).collect::<Done<_>>()?;
    let attempts = sqlx::query(ATTEMPTS).bind(id.uuid()).fetch_all(&mut *tx).await?;
    let lost = sqlx::query(LOST).bind(id.uuid()).fetch_all(&mut *tx).await?;
    let request = request::from_row(&row);
    Ok(Some(JobDetail {
        job: Job {
            id,
            batch,
            custom_id: request.custom_id,
            endpoint: request.endpoint,
            lane: job_ref(&row).lane,
            body: request.body,
            options: request.options,
        },
        batch: row.get("batch"),
        created_at: time(row.get("created_at")),
        live: live.as_ref().map(live_row),
        runs,
        attempts: attempts.iter().map(attempt).collect(),
        lost: lost.iter().map(lost_call).collect(),
    }))
}

fn live_row(row: &SqliteRow) -> LiveRow {
    LiveRow {
        run: small(row.get("run")),
        owner: row.get::<Option<Uuid>, _>("owner").map(OwnerId::from_uuid),
        wake_at: maybe_time(row, "wake_at"),
        reason: row.get("reason"),
        calls: small(row.get("calls")),
        deaths: small(row.get("deaths")),
        queued_at: time(row.get("queued_at")),
    }
}

fn lost_call(row: &SqliteRow) -> LostCall {
    LostCall {
        run: small(row.get("run")),
        attempt: small(row.get("attempt")),
        owner: OwnerId::from_uuid(row.get("owner")),
        died_at: time(row.get("died_at")),
        bound_pico_usd: row.get("bound_pico_usd"),
    }
}

fn attempt(row: &SqliteRow) -> (u32, AttemptRecord) {
    let record = AttemptRecord {
        attempt: small(row.get("attempt")),
        provider: row.get::<&str, _>("provider").into(),
        deployment: row.get::<&str, _>("deployment").into(),
        model: row.get::<&str, _>("model").into(),
        served_model: row.get("served_model"),
        service_tier: row.get("service_tier"),
        started_at: time(row.get("started_at")),
        ttft_ms: maybe_small(row, "ttft_ms"),
        latency_ms: small(row.get("latency_ms")),
        http_status: maybe_small(row, "http_status").and_then(|status| u16::try_from(status).ok()),
        counted: row.get("counted"),
        usage: Usage {
            input_tokens: maybe_small(row, "input_tokens"),
            cached_input_tokens: maybe_small(row, "cached_input_tokens"),
            cache_write_tokens: maybe_small(row, "cache_write_tokens"),
            output_tokens: maybe_small(row, "output_tokens"),
            reasoning_tokens: maybe_small(row, "reasoning_tokens"),
        },
        cost_pico_usd: row.get("cost_pico_usd"),
        cost_basis: CostBasis::parse_lenient(row.get("cost_basis")),
        bound_pico_usd: row.get("bound_pico_usd"),
        price_ref: row.get::<Option<&str>, _>("price_ref").map(Into::into),
        billed: row.get("billed"),
        request_id: row.get("request_id"),
        error: json(row.get("error")),
    };
    (small(row.get("run")), record)
}

const JOBS: &str = "-- jobs of a batch in order of id
SELECT j.job_id, j.custom_id, j.model_group, l.state, coalesce(l.run, r.run, 0) AS run,
       coalesce(l.calls, r.attempts, 0) AS calls, r.status, r.error_class, r.error_message
FROM job j
LEFT JOIN live l ON l.job_id = j.job_id
LEFT JOIN result r ON r.job_id = j.job_id AND r.run = (SELECT max(n.run) FROM result n WHERE n.job_id = j.job_id)
WHERE j.batch_id = ?1 AND j.job_id > ?2
ORDER BY j.job_id LIMIT ?3";

const JOBS_ENDED: &str = "-- jobs of a batch that ended so
SELECT r.job_id, j.custom_id, r.model_group, NULL AS state, r.run, r.attempts AS calls, r.status, r.error_class,
       r.error_message
FROM result r
LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id
WHERE r.batch_id = ?1 AND r.job_id > ?2 AND r.status IN (?4, ?5, ?6, ?7)
  AND NOT EXISTS (SELECT 1 FROM live l WHERE l.job_id = r.job_id)
  AND NOT EXISTS (SELECT 1 FROM result n WHERE n.job_id = r.job_id AND n.run > r.run)
ORDER BY r.job_id LIMIT ?3";

pub(super) async fn jobs(
    core: &Core,
    batch: BatchId,
    statuses: Option<&[Status]>,
    after: Option<JobId>,
    limit: u32,
) -> Done<Vec<JobLine>> {
    let text = if statuses.is_some() { JOBS_ENDED } else { JOBS };
    let after = after.map_or(Uuid::nil(), JobId::uuid);
    let mut query = sqlx::query(text).bind(batch.uuid()).bind(after).bind(i64::from(limit));
    if let Some(statuses) = statuses {
        for status in Status::ALL {
            query = query.bind(statuses.contains(&status).then_some(status.as_str()));
        }
    }
    let rows = query.fetch_all(&core.readers).await?;
    Ok(rows.iter().map(line).collect())
}

fn line(row: &SqliteRow) -> JobLine {
    let id = JobId::from_uuid(row.get("job_id"));
    let ended = row.get::<Option<&str>, _>("status").and_then(|status| status.parse().ok());
    JobLine {
        id,
        custom_id: row.get::<Option<String>, _>("custom_id").unwrap_or_else(|| id.to_string()),
        model: row.get("model_group"),
        place: JobPlace::read(row.get("state"), ended),
        run: small(row.get("run")),
        attempts: small(row.get("calls")),
        class: row.get("error_class"),
        message: row.get("error_message"),
    }
}
