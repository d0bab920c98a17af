//! Deleting what is old, in bounded steps.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::super::{DroppedPartition, Forgotten, Result, STRIPPED_BODY, Stripped};
use super::failed;
use super::read::ENDED_BEFORE;
use super::row;
use crate::batch::Batch;
use crate::id::{BatchId, JobId, PartDay};

const DOING: &str = "deleting an ended batch";
const DROPPING: &str = "dropping an empty partition";

/// How long a partition's drop may wait for the table, while all others wait behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn ended_before(pool: &PgPool, time: DateTime<Utc>, limit: u32) -> Result<Vec<Batch>> {
    let query = sqlx::query(ENDED_BEFORE).bind(time).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(failed("reading ended batches"))?;
    Ok(rows.iter().map(row::batch).collect())
}

// Whoever opens a new run waits for this, and then finds no job.
const ENDED: &str = "-- is the batch ended
SELECT day_from, day_to FROM gristmill.batch WHERE batch_id = $1 AND finished_at IS NOT NULL FOR UPDATE";

const FORGET: &str = "-- delete requests with what belongs to them
WITH gone AS (SELECT job_id, part_day FROM gristmill.job
              WHERE batch_id = $1 AND part_day BETWEEN $3 AND $4 ORDER BY job_id LIMIT $2),
     attempts AS (DELETE FROM gristmill.attempt a USING gone g
                  WHERE a.job_id = g.job_id AND a.part_day = g.part_day AND a.part_day BETWEEN $3 AND $4 RETURNING 1),
     answers AS (DELETE FROM gristmill.response_cache
                 WHERE key IN (SELECT c.key FROM gristmill.response_cache c JOIN gone g ON g.job_id = c.job_id
                               WHERE c.run IS NOT NULL ORDER BY c.key FOR UPDATE OF c SKIP LOCKED)),
     results AS (DELETE FROM gristmill.result r USING gone g
                 WHERE r.job_id = g.job_id AND r.part_day = g.part_day AND r.part_day BETWEEN $3 AND $4 RETURNING 1),
     requests AS (DELETE FROM gristmill.job j USING gone g
                  WHERE j.batch_id = $1 AND j.job_id = g.job_id AND j.part_day = g.part_day
                    AND j.part_day BETWEEN $3 AND $4 RETURNING 1)
SELECT (SELECT count(*) FROM requests) AS requests, (SELECT count(*) FROM results) AS results,
       (SELECT count(*) FROM attempts) AS attempts";

const FORGET_STRANGERS: &str = "-- delete results of jobs that nobody recorded
DELETE FROM gristmill.result WHERE batch_id = $1 AND part_day BETWEEN $2 AND $3";

const KEEP_PROJECT: &str = "-- what a batch cost stays, under its project
UPDATE gristmill.tally t SET project = coalesce(b.project, '') FROM gristmill.batch b
WHERE b.batch_id = $1 AND t.batch_id = b.batch_id AND b.project IS NOT NULL";

const FORGET_BUDGET: &str = "-- delete a batch's budgets
DELETE FROM gristmill.budget WHERE scope = 'batch' AND name = $1::text";

const FORGET_CHANGES: &str = "-- delete what became of a batch's costs
DELETE FROM gristmill.cost_change WHERE batch_id = $1";

const FORGET_LOST: &str = "-- delete what may have been called of a batch
DELETE FROM gristmill.lost_call WHERE batch_id = $1";

const FORGET_BATCH: &str = "-- delete a batch of which nothing is left
DELETE FROM gristmill.batch WHERE batch_id = $1";

pub(super) async fn forget(pool: &PgPool, batch: BatchId, limit: u32) -> Result<Forgotten> {
    let mut tx = pool.begin().await.map_err(failed(DOING))?;
    let query = sqlx::query(ENDED).bind(batch.uuid());
    let Some(days) = query.fetch_optional(&mut *tx).await.map_err(failed(DOING))? else {
        return Ok(Forgotten::default());
    };
    let (from, to): (PartDay, PartDay) = (days.get(0), days.get(1));
    let query = sqlx::query(FORGET).bind(batch.uuid()).bind(i64::from(limit)).bind(from).bind(to);
    let row = query.fetch_one(&mut *tx).await.map_err(failed(DOING))?;
    let mut forgotten = Forgotten {
        requests: row::count(&row, "requests"),
        results: row::count(&row, "results"),
        attempts: row::count(&row, "attempts"),
        more: true,
    };
    if forgotten.requests < u64::from(limit) {
        let query = sqlx::query(FORGET_STRANGERS).bind(batch.uuid()).bind(from).bind(to);
        forgotten.results += query.execute(&mut *tx).await.map_err(failed(DOING))?.rows_affected();
        sqlx::query(KEEP_PROJECT).bind(batch.uuid()).execute(&mut *tx).await.map_err(failed(DOING))?;
        sqlx::query(FORGET_BUDGET).bind(batch.to_string()).execute(&mut *tx).await.map_err(failed(DOING))?;
        sqlx::query(FORGET_CHANGES).bind(batch.uuid()).execute(&mut *tx).await.map_err(failed(DOING))?;
        sqlx::query(FORGET_LOST).bind(batch.uuid()).execute(&mut *tx).await.map_err(failed(DOING))?;
        sqlx::query(FORGET_BATCH).bind(batch.uuid()).execute(&mut *tx).await.map_err(failed(DOING))?;
        forgotten.more = false;
    }
    tx.commit().await.map_err(failed(DOING))?;
    Ok(forgotten)
}

const STRIPPING: &str = "emptying bodies";

const STRIPPED_ALREADY: &str = "-- is the batch's last body empty
SELECT body::text FROM gristmill.job WHERE batch_id = $1 AND part_day BETWEEN $2 AND $3 ORDER BY job_id DESC LIMIT 1";

// An error may hold \u0000, which jsonb does not take: what is no character becomes the sign for that.
const STRIP: &str = "-- empty bodies of requests and of what belongs to them
WITH next AS (SELECT job_id, part_day FROM gristmill.job
              WHERE batch_id = $1 AND part_day BETWEEN $3 AND $4 AND job_id > $5 ORDER BY job_id LIMIT $2),
     attempts AS (UPDATE gristmill.attempt a
                  SET error = (replace(a.error::text, '\\u0000', '\\ufffd')::jsonb - 'body')::json
                  FROM next n WHERE a.job_id = n.job_id AND a.part_day = n.part_day AND a.part_day BETWEEN $3 AND $4
                    AND a.error IS NOT NULL AND replace(a.error::text, '\\u0000', '\\ufffd')::jsonb ? 'body' RETURNING 1),
     answers AS (DELETE FROM gristmill.response_cache
                 WHERE key IN (SELECT c.key FROM gristmill.response_cache c JOIN next n ON n.job_id = c.job_id
                               WHERE c.run IS NOT NULL ORDER BY c.key FOR UPDATE OF c SKIP LOCKED)),
     results AS (UPDATE gristmill.result r
                 SET response = NULL, output_text = NULL,
                     error = (replace(r.error::text, '\\u0000', '\\ufffd')::jsonb - 'body')::json
                 FROM next n WHERE r.job_id = n.job_id AND r.part_day = n.part_day AND r.part_day BETWEEN $3 AND $4
                   AND (r.response IS NOT NULL OR r.output_text IS NOT NULL
                        OR replace(r.error::text, '\\u0000', '\\ufffd')::jsonb ? 'body') RETURNING 1),
     requests AS (UPDATE gristmill.job j SET body = $6::json FROM next n
                  WHERE j.batch_id = $1 AND j.job_id = n.job_id AND j.part_day = n.part_day
                    AND j.part_day BETWEEN $3 AND $4 AND j.body::text <> $6 RETURNING 1)
SELECT (SELECT count(*) FROM requests) AS requests, (SELECT count(*) FROM results) AS results,
       (SELECT count(*) FROM attempts) AS attempts, (SELECT count(*) FROM next) AS seen,
       (SELECT job_id FROM next ORDER BY job_id DESC LIMIT 1) AS last";

const STRIP_STRANGERS: &str = "-- empty the answers to jobs that nobody recorded
UPDATE gristmill.result r
SET response = NULL, output_text = NULL,
    error = (replace(r.error::text, '\\u0000', '\\ufffd')::jsonb - 'body')::json
WHERE r.batch_id = $1 AND r.part_day BETWEEN $2 AND $3
  AND (r.response IS NOT NULL OR r.output_text IS NOT NULL OR replace(r.error::text, '\\u0000', '\\ufffd')::jsonb ? 'body')";

pub(super) async fn strip(pool: &PgPool, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Stripped> {
    let mut tx = pool.begin().await.map_err(failed(STRIPPING))?;
    let query = sqlx::query(ENDED).bind(batch.uuid());
    let Some(days) = query.fetch_optional(&mut *tx).await.map_err(failed(STRIPPING))? else {
        return Ok(Stripped::default());
    };
    let (from, to): (PartDay, PartDay) = (days.get(0), days.get(1));
    if after.is_none() {
        let query = sqlx::query_scalar(STRIPPED_ALREADY).bind(batch.uuid()).bind(from).bind(to);
        let last: Option<String> = query.fetch_optional(&mut *tx).await.map_err(failed(STRIPPING))?;
        if last.as_deref() == Some(STRIPPED_BODY) {
            return Ok(Stripped::default());
        }
    }
    let above = after.map_or_else(uuid::Uuid::nil, |job| job.uuid());
    let query = sqlx::query(STRIP).bind(batch.uuid()).bind(i64::from(limit)).bind(from).bind(to);
    let row = query.bind(above).bind(STRIPPED_BODY).fetch_one(&mut *tx).await.map_err(failed(STRIPPING))?;
    let last: Option<uuid::Uuid> = row.get("last");
    let mut stripped = Stripped {
        requests: row::count(&row, "requests"),
        results: row::count(&row, "results"),
        attempts: row::count(&row, "attempts"),
        next: last.filter(|_| row::count(&row, "seen") >= u64::from(limit)).map(JobId::from_uuid),
    };
    if stripped.next.is_none() {
        let query = sqlx::query(STRIP_STRANGERS).bind(batch.uuid()).bind(from).bind(to);
        stripped.results += query.execute(&mut *tx).await.map_err(failed(STRIPPING))?.rows_affected();
    }
    tx.commit().await.map_err(failed(STRIPPING))?;
    Ok(stripped)
}

const FORGETTING: &str = "deleting a project";

const FORGET_SUMS: &str = "-- delete the sums of a project's batches that are gone
DELETE FROM gristmill.tally t
WHERE t.project = $1 AND NOT EXISTS (SELECT 1 FROM gristmill.batch b WHERE b.batch_id = t.batch_id)";

const FORGET_CACHED: &str = "-- delete a project's cached answers
DELETE FROM gristmill.response_cache WHERE project = $1";

pub(super) async fn forget_project(pool: &PgPool, project: &str) -> Result<u64> {
    let mut tx = pool.begin().await.map_err(failed(FORGETTING))?;
    let query = sqlx::query(FORGET_SUMS).bind(project);
    let mut rows = query.execute(&mut *tx).await.map_err(failed(FORGETTING))?.rows_affected();
    let query = sqlx::query(FORGET_CACHED).bind(project);
    rows += query.execute(&mut *tx).await.map_err(failed(FORGETTING))?.rows_affected();
    tx.commit().await.map_err(failed(FORGETTING))?;
    Ok(rows)
}

const PARTITIONS: &str = "-- partitions of days before another
SELECT parent.relname AS parent, part.relname AS name, pg_total_relation_size(part.oid) AS bytes
FROM pg_inherits i JOIN pg_class part ON part.oid = i.inhrelid JOIN pg_class parent ON parent.oid = i.inhparent
JOIN pg_namespace n ON n.oid = parent.relnamespace
WHERE n.nspname = 'gristmill' AND parent.relname IN ('job', 'result', 'attempt')
  AND part.relname ~ '^(job|result|attempt)_[0-9]{8}$' AND right(part.relname, 8) < to_char($1::date, 'YYYYMMDD')
ORDER BY part.relname";

pub(super) async fn drop_empty_partitions(pool: &PgPool, day: PartDay) -> Result<Vec<DroppedPartition>> {
    let rows = sqlx::query(PARTITIONS).bind(day).fetch_all(pool).await.map_err(failed("reading partitions"))?;
    let mut dropped = Vec::new();
    for row in &rows {
        let name: String = row.get("name");
        if drop_if_empty(pool, row.get("parent"), &name).await? {
            dropped.push(DroppedPartition { bytes: bytes(row), name });
        }
    }
    Ok(dropped)
}

fn bytes(row: &PgRow) -> u64 {
    row.get::<i64, _>("bytes").unsigned_abs()
}

/// Drops one partition if nothing is in it, and nobody keeps its table busy. The names come from the catalogue, in the form that
/// `PARTITIONS` asks for.
async fn drop_if_empty(pool: &PgPool, parent: &str, name: &str) -> Result<bool> {
    let is_empty =
        || AssertSqlSafe(format!("-- is a partition empty\nSELECT NOT EXISTS (SELECT 1 FROM gristmill.{name})"));
    if !sqlx::query_scalar::<_, bool>(is_empty()).fetch_one(pool).await.map_err(failed(DROPPING))? {
        return Ok(false);
    }
    let mut tx = pool.begin().await.map_err(failed(DROPPING))?;
    let timeout = format!("SET LOCAL lock_timeout = {}", LOCK_TIMEOUT.as_millis());
    sqlx::query(AssertSqlSafe(timeout)).execute(&mut *tx).await.map_err(failed(DROPPING))?;
    // The parent first, as every statement on it does: the other way round would be a deadlock.
    let lock = format!("LOCK TABLE ONLY gristmill.{parent} IN ACCESS EXCLUSIVE MODE");
    match sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await {
        Err(error) if is_lock_timeout(&error) => return Ok(false),
        Err(error) => return Err(failed(DROPPING)(error)),
        Ok(_) => {}
    }
    if !sqlx::query_scalar::<_, bool>(is_empty()).fetch_one(&mut *tx).await.map_err(failed(DROPPING))? {
        return Ok(false);
    }
    let drop_it = format!("-- drop an empty partition\nDROP TABLE gristmill.{name}");
    match sqlx::query(AssertSqlSafe(drop_it)).execute(&mut *tx).await {
        Err(error) if is_lock_timeout(&error) => Ok(false),
        Err(error) => Err(failed(DROPPING)(error)),
        Ok(_) => {
            tx.commit().await.map_err(failed(DROPPING))?;
            Ok(true)
        }
    }
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    // lock_not_available, https://www.postgresql.org/docs/15/errcodes-appendix.html.
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
