//! What producers do: open, record, publish, seal, cancel, retry.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::postgres::{PgBindIterExt as _, PgPool, PgRow};
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::error::STRIPPED;
use super::super::{Chunk, Cursor, Error, Opened, Recorded, Result, Sealed};
use super::copy::{self, Rows};
use super::row::{big, int, seconds, text};
use super::{budget, failed, read};
use crate::batch::{Batch, NewBatch};
use crate::id::{BatchId, JobId, OwnerId};
use crate::job::{Identity, JobRef};
use crate::outcome::Status;

const CREATE_BATCH: &str = "-- create a batch
INSERT INTO gristmill.batch (batch_id, name, project, priority, simulated, metadata, tags, budget_usd, day_from, day_to,
                             producer, producer_lease, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::bigint::numeric / 1000000000000, $9, $9, $10,
        now() + make_interval(secs => $11), $12)
ON CONFLICT (name) DO NOTHING";

const TAKE_BATCH: &str = "-- take up a batch whose producer is gone
UPDATE gristmill.batch SET producer = $2, producer_lease = now() + make_interval(secs => $3)
WHERE name = $1 AND (producer IS NULL OR producer = $2 OR producer_lease <= now())";

pub(super) async fn open_batch(pool: &PgPool, new: &NewBatch, ttl: Duration) -> Result<Opened> {
    let doing = "opening a batch";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let created = sqlx::query(CREATE_BATCH)
        .bind(new.id.uuid())
        .bind(&new.name)
        .bind(&new.project)
        .bind(new.priority.as_str())
        .bind(new.simulated)
        .bind(new.metadata.as_ref().map(Json))
        .bind((!new.tags.is_empty()).then_some(Json(&new.tags)))
        .bind(new.budget_pico_usd)
        .bind(new.id.part_day())
        .bind(new.producer.uuid())
        .bind(seconds(ttl))
        .bind(new.created_at)
        .execute(&mut *tx)
        .await
        .map_err(failed(doing))?
        .rows_affected()
        == 1;
    if let Some(limit) = new.budget_pico_usd.filter(|_| created) {
        budget::open_with_batch(&mut tx, new.id.uuid(), limit, new.created_at.timestamp_micros()).await?;
    }
    let taken = created
        || sqlx::query(TAKE_BATCH)
            .bind(&new.name)
            .bind(new.producer.uuid())
            .bind(seconds(ttl))
            .execute(&mut *tx)
            .await
            .map_err(failed(doing))?
            .rows_affected()
            == 1;
    let batch: Batch = read::batch_by_name(&mut tx, &new.name).await?.ok_or_else(|| vanished(&new.name))?;
    if batch.simulated != new.simulated {
        let (is, asked) = if batch.simulated { ("simulated", "real") } else { ("real", "simulated") };
        return Err(Error::Conflict(format!(
            "batch `{}` holds {is} answers and cannot take {asked} ones; give the new one another --name",
            new.name
        )));
    }
    tx.commit().await.map_err(failed(doing))?;
    Ok(match (created, taken) {
        (true, _) => Opened::Created(batch),
        (false, true) => Opened::Resumed(batch),
        (false, false) => Opened::Busy(batch),
    })
}

fn vanished(name: &str) -> Error {
    Error::Conflict(format!("batch `{name}` was removed while it was opened; try again"))
}

const RECORD_JOBS: &str = "-- record requests
COPY gristmill.job (batch_id, job_id, part_day, custom_id, endpoint, model_group, priority, lane, body, identity, deadline,
                    not_before, sample, num_retries, tags, metadata, cache_policy, service_tier, est_tokens)
FROM STDIN (FORMAT binary)";

const RECORDED: &str = "-- which of these are recorded
SELECT job_id FROM gristmill.job WHERE batch_id = $1 AND part_day = $2 AND job_id = ANY($3)";

const RECORD_WAITING: &str = "-- jobs that may not start yet wait in their live rows
INSERT INTO gristmill.live (job_id, batch_id, model_group, priority, lane, state, wake_at, reason)
SELECT job_id, batch_id, model_group, priority, lane, 1, not_before, 'not before'
FROM gristmill.job
WHERE batch_id = $1 AND part_day = $2 AND job_id = ANY($3) AND not_before > now()
ORDER BY job_id
ON CONFLICT DO NOTHING";

const MOVE_BATCH: &str = "-- move the batch on with its chunk
UPDATE gristmill.batch
SET recorded = greatest(recorded, $3), published_through = greatest(published_through, $4),
    producer_lease = now() + make_interval(secs => $5),
    total = CASE WHEN $3 > recorded THEN NULL ELSE total END,
    finished_at = CASE WHEN $3 > recorded THEN NULL ELSE finished_at END
WHERE batch_id = $1 AND producer = $2 AND cancel_requested_at IS NULL";

const IS_CANCELLED: &str = "-- is the batch cancelled
SELECT cancel_requested_at IS NOT NULL FROM gristmill.batch WHERE batch_id = $1";

/// Records a chunk as if all of it were new, which it is unless an answer was lost or jobs were adopted; then it looks first.
pub(super) async fn record(pool: &PgPool, chunk: &Chunk<'_>) -> Result<Recorded> {
    let mut looks = 0;
    loop {
        match record_looking(pool, chunk, looks > 0).await {
            Err(error) if copy::is_there_already(&error, looks) => looks += 1,
            done => return done,
        }
    }
}

async fn record_looking(pool: &PgPool, chunk: &Chunk<'_>, look: bool) -> Result<Recorded> {
    let doing = "recording requests";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let recorded = if look { recorded(&mut tx, chunk).await? } else { HashSet::new() };
    insert_jobs(&mut tx, chunk, recorded).await?;
    // The batch's row is locked last and for the commit only: flushes of the same batch wait for it.
    let moved = sqlx::query(MOVE_BATCH)
        .bind(chunk.batch.uuid())
        .bind(chunk.producer.uuid())
        .bind(big(chunk.first_ordinal) + i64::try_from(chunk.jobs.len()).unwrap_or(i64::MAX))
        .bind(big(chunk.published_through))
        .bind(seconds(chunk.producer_ttl))
        .execute(&mut *tx)
        .await
        .map_err(failed(doing))?
        .rows_affected();
    if moved == 1 {
        tx.commit().await.map_err(failed(doing))?;
        return Ok(Recorded::Committed);
    }
    tx.rollback().await.map_err(failed(doing))?;
    let cancelled: Option<bool> =
        sqlx::query_scalar(IS_CANCELLED).bind(chunk.batch.uuid()).fetch_optional(pool).await.map_err(failed(doing))?;
    Ok(if cancelled == Some(true) { Recorded::Cancelled } else { Recorded::LostProducer })
}

async fn recorded(tx: &mut PgConnection, chunk: &Chunk<'_>) -> Result<HashSet<Uuid>> {
    let rows: Vec<Uuid> = sqlx::query_scalar(RECORDED)
        .bind(chunk.batch.uuid())
        .bind(chunk.batch.part_day())
        .bind(chunk.jobs.iter().map(|job| job.id.uuid()).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("recording requests"))?;
    Ok(rows.into_iter().collect())
}

async fn insert_jobs(tx: &mut PgConnection, chunk: &Chunk<'_>, mut recorded: HashSet<Uuid>) -> Result<()> {
    let doing = "recording requests";
    let jobs = chunk.jobs;
    if jobs.is_empty() {
        return Ok(());
    }
    let day = chunk.batch.part_day();
    let mut rows = Rows::new(19);
    for job in jobs {
        if !recorded.insert(job.id.uuid()) {
            continue;
        }
        let options = &job.options;
        rows.row();
        rows.put(chunk.batch.uuid());
        rows.put(job.id.uuid());
        rows.put(day);
        rows.put(text(&job.custom_id));
        rows.put(text(&job.endpoint));
        rows.put(&*job.lane.group);
        rows.put(job.lane.priority.as_str());
        rows.put(i16::from(job.lane.lane));
        rows.put(std::str::from_utf8(&job.body).unwrap_or("null"));
        rows.put(Uuid::from_bytes(job.identity(chunk.simulated).0));
        rows.put(options.deadline);
        rows.put(options.not_before);
        rows.put(int(options.sample));
        rows.put(options.num_retries.map(|n| i16::try_from(n).unwrap_or(i16::MAX)));
        rows.put(json_text(&options.tags, options.tags.is_empty()));
        rows.put(json_text(&options.metadata, options.metadata.is_none()));
        rows.put(options.cache.as_str());
        rows.put(options.service_tier.as_deref());
        rows.put(options.est_tokens.map(int));
    }
    rows.copy(&mut *tx, RECORD_JOBS).await.map_err(failed(doing))?;
    let later: Vec<Uuid> =
        jobs.iter().filter(|job| job.options.not_before.is_some()).map(|job| job.id.uuid()).collect();
    if !later.is_empty() {
        sqlx::query(RECORD_WAITING)
            .bind(chunk.batch.uuid())
            .bind(day)
            .bind(later)
            .execute(&mut *tx)
            .await
            .map_err(failed(doing))?;
    }
    Ok(())
}

/// Writes a value as JSON text, or nothing where it is empty.
pub(super) fn json_text(value: &impl serde::Serialize, empty: bool) -> Option<String> {
    if empty { None } else { serde_json::to_string(value).ok() }
}

const MARK_PUBLISHED: &str = "-- everything below is confirmed
UPDATE gristmill.batch SET published_through = greatest(published_through, $2) WHERE batch_id = $1";

pub(super) async fn mark_published(pool: &PgPool, batch: BatchId, through: u64) -> Result<()> {
    let query = sqlx::query(MARK_PUBLISHED).bind(batch.uuid()).bind(big(through));
    query.execute(pool).await.map_err(failed("noting what is published"))?;
    Ok(())
}

const DEFER: &str = "-- jobs that the broker refused wait
INSERT INTO gristmill.live (job_id, batch_id, model_group, priority, lane, run, state, wake_at, reason)
SELECT t.job_id, t.batch_id, t.model_group, t.priority, t.lane, t.run, 1, now() + make_interval(secs => $7), $8
FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::integer[], $9::date[])
     AS t (job_id, batch_id, model_group, priority, lane, run, part_day)
WHERE NOT EXISTS (SELECT 1 FROM gristmill.result r WHERE r.job_id = t.job_id AND r.part_day = t.part_day)
ORDER BY t.job_id
ON CONFLICT DO NOTHING";

pub(super) async fn defer(pool: &PgPool, jobs: &[JobRef], after: Duration, reason: &str) -> Result<()> {
    sqlx::query(DEFER)
        .bind(jobs.iter().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs.iter().map(|job| job.batch.uuid()).bind_iter())
        .bind(jobs.iter().map(|job| &*job.lane.group).bind_iter())
        .bind(jobs.iter().map(|job| job.lane.priority.as_str()).bind_iter())
        .bind(jobs.iter().map(|job| i16::from(job.lane.lane)).bind_iter())
        .bind(jobs.iter().map(|job| int(job.run)).bind_iter())
        .bind(seconds(after))
        .bind(reason)
        .bind(jobs.iter().map(|job| job.id.part_day()).bind_iter())
        .execute(pool)
        .await
        .map_err(failed("deferring jobs"))?;
    Ok(())
}

const SEAL: &str = "-- the last job is recorded and published
UPDATE gristmill.batch
SET total = recorded + adopted, published_through = recorded, producer = NULL, producer_lease = NULL,
    finished_at = CASE WHEN succeeded + failed + cancelled + expired >= recorded + adopted
                       THEN coalesce(finished_at, now()) END
WHERE batch_id = $1 AND producer = $2";

// Recording more takes the total away: one that is there covers all that this producer recorded.
const IS_SEALED: &str = "-- is the total known
SELECT total IS NOT NULL FROM gristmill.batch WHERE batch_id = $1";

pub(super) async fn seal(pool: &PgPool, batch: BatchId, producer: OwnerId) -> Result<Sealed> {
    let doing = "sealing a batch";
    let query = sqlx::query(SEAL).bind(batch.uuid()).bind(producer.uuid());
    if query.execute(pool).await.map_err(failed(doing))?.rows_affected() == 1 {
        return Ok(Sealed::Committed);
    }
    let query = sqlx::query_scalar(IS_SEALED).bind(batch.uuid());
    let sealed = query.fetch_optional(pool).await.map_err(failed(doing))?.unwrap_or(false);
    Ok(if sealed { Sealed::Committed } else { Sealed::LostProducer })
}

const LEAVE: &str = "-- the producer goes, the batch stays open
UPDATE gristmill.batch SET producer = NULL, producer_lease = NULL WHERE batch_id = $1 AND producer = $2";

pub(super) async fn leave(pool: &PgPool, batch: BatchId, producer: OwnerId) -> Result<()> {
    let query = sqlx::query(LEAVE).bind(batch.uuid()).bind(producer.uuid());
    query.execute(pool).await.map_err(failed("leaving a batch"))?;
    Ok(())
}

const RENEW_PRODUCER: &str = "-- the producer is alive
UPDATE gristmill.batch SET producer_lease = now() + make_interval(secs => $3) WHERE batch_id = $1 AND producer = $2";

pub(super) async fn renew_producer(pool: &PgPool, batch: BatchId, producer: OwnerId, ttl: Duration) -> Result<()> {
    let query = sqlx::query(RENEW_PRODUCER).bind(batch.uuid()).bind(producer.uuid()).bind(seconds(ttl));
    query.execute(pool).await.map_err(failed("renewing the producer's lease"))?;
    Ok(())
}

const IDENTITIES: &str = "-- identities in order of id
SELECT job_id, identity FROM gristmill.job WHERE batch_id = $1 AND job_id > $2 ORDER BY job_id LIMIT $3";

pub(super) async fn identities(
    pool: &PgPool,
    batch: BatchId,
    after: Option<JobId>,
    limit: u32,
) -> Result<Vec<(JobId, Identity)>> {
    let rows = sqlx::query(IDENTITIES)
        .bind(batch.uuid())
        .bind(after.map_or(Uuid::nil(), JobId::uuid))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(failed("reading what is recorded"))?;
    let pair = |row: &sqlx::postgres::PgRow| {
        (JobId::from_uuid(row.get("job_id")), Identity(row.get::<Uuid, _>("identity").into_bytes()))
    };
    Ok(rows.iter().map(pair).collect())
}

const CUSTOM_IDS: &str = "-- what these jobs are called
SELECT custom_id FROM gristmill.job WHERE batch_id = $1 AND part_day = $2 AND job_id = ANY ($3) ORDER BY job_id";

pub(super) async fn custom_ids(pool: &PgPool, batch: BatchId, jobs: &[JobId]) -> Result<Vec<String>> {
    let query = sqlx::query_scalar(CUSTOM_IDS).bind(batch.uuid()).bind(batch.part_day());
    let query = query.bind(jobs.iter().map(|job| job.uuid()).bind_iter());
    query.fetch_all(pool).await.map_err(failed("reading names of jobs"))
}

const CANCEL: &str = "-- ask to cancel
UPDATE gristmill.batch
SET cancel_requested_at = coalesce(cancel_requested_at, now()), total = coalesce(total, recorded + adopted),
    finished_at = CASE WHEN succeeded + failed + cancelled + expired >= coalesce(total, recorded + adopted)
                       THEN now() END
WHERE batch_id = $1 AND finished_at IS NULL";

pub(super) async fn cancel(pool: &PgPool, batch: BatchId) -> Result<bool> {
    let query = sqlx::query(CANCEL).bind(batch.uuid());
    Ok(query.execute(pool).await.map_err(failed("cancelling a batch"))?.rows_affected() == 1)
}

const LOCK_FOR_RETRY: &str = "-- the batch, locked, and whether it is still cancelling
SELECT cancel_requested_at IS NOT NULL AND finished_at IS NULL FROM gristmill.batch WHERE batch_id = $1 FOR UPDATE";

// Bodies are emptied in order of id from the first on.
const FIRST_BODY: &str = "-- is a batch's first body empty
SELECT body::text = 'null' FROM gristmill.job
WHERE batch_id = $1 AND part_day BETWEEN (SELECT day_from FROM gristmill.batch WHERE batch_id = $1)
                                     AND (SELECT day_to FROM gristmill.batch WHERE batch_id = $1)
ORDER BY job_id LIMIT 1";

macro_rules! retry {
    ($which:literal) => {
        concat!(
            "-- open new runs
WITH latest AS (
    SELECT r.job_id, r.part_day, r.run, r.status, r.xid, r.seq
    FROM gristmill.result r
    JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
    WHERE r.batch_id = $1 AND r.status = ANY($2) AND (r.xid, r.seq) > ($3::text::xid8, $4)
      AND r.part_day BETWEEN (SELECT day_from FROM gristmill.batch WHERE batch_id = $1)
                         AND (SELECT day_to FROM gristmill.batch WHERE batch_id = $1)",
            $which,
            "
      AND NOT EXISTS (SELECT 1 FROM gristmill.live l WHERE l.job_id = r.job_id)
      AND NOT EXISTS (SELECT 1 FROM gristmill.result n
                      WHERE n.job_id = r.job_id AND n.part_day = r.part_day AND n.run > r.run)
    ORDER BY r.xid, r.seq LIMIT $5
), opened AS (
    INSERT INTO gristmill.live (job_id, batch_id, model_group, priority, lane, run, state, wake_at, reason)
    SELECT j.job_id, j.batch_id, j.model_group, j.priority, j.lane, latest.run + 1, 1, now(), 'retry'
    FROM latest JOIN gristmill.job j ON j.batch_id = $1 AND j.job_id = latest.job_id AND j.part_day = latest.part_day
    ORDER BY j.job_id
    ON CONFLICT DO NOTHING
    RETURNING job_id
)
SELECT latest.status, opened.job_id IS NOT NULL AS opened, latest.xid::text::bigint AS xid, latest.seq
FROM latest LEFT JOIN opened USING (job_id) ORDER BY latest.xid, latest.seq"
        )
    };
}

const RETRY: &str = retry!("");
// The inequality is what the index on unsuccessful results asks for.
const RETRY_UNSUCCESSFUL: &str = retry!(" AND r.status <> 'succeeded'");
const RETRY_THESE: &str = retry!(" AND r.job_id = ANY($6)");

const REOPEN: &str = "-- a batch with new runs is open again
UPDATE gristmill.batch
SET succeeded = succeeded - $2, failed = failed - $3, cancelled = cancelled - $4, expired = expired - $5,
    finished_at = NULL, cancel_requested_at = NULL, closed_through = NULL
WHERE batch_id = $1";

pub(super) async fn retry(
    pool: &PgPool,
    batch: BatchId,
    statuses: &[Status],
    after: Cursor,
    limit: u32,
) -> Result<(u64, Option<Cursor>)> {
    let statement = if statuses.contains(&Status::Succeeded) { RETRY } else { RETRY_UNSUCCESSFUL };
    let (total, rows) = open_runs(pool, statement, batch, statuses, after, i64::from(limit), None).await?;
    let last = rows.last().filter(|_| rows.len() >= limit as usize);
    let next = last.map(|row| Cursor { xid: row.get::<i64, _>("xid").unsigned_abs(), seq: row.get("seq") });
    Ok((total, next))
}

pub(super) async fn retry_jobs(pool: &PgPool, batch: BatchId, statuses: &[Status], jobs: &[JobId]) -> Result<u64> {
    let (total, _) = open_runs(pool, RETRY_THESE, batch, statuses, Cursor::default(), i64::MAX, Some(jobs)).await?;
    Ok(total)
}

/// Opens new runs by one of the statements above; returns how many, and the runs that it found ended.
async fn open_runs(
    pool: &PgPool,
    statement: &'static str,
    batch: BatchId,
    statuses: &[Status],
    after: Cursor,
    limit: i64,
    jobs: Option<&[JobId]>,
) -> Result<(u64, Vec<PgRow>)> {
    let doing = "opening new runs";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let cancelling: Option<bool> =
        sqlx::query_scalar(LOCK_FOR_RETRY).bind(batch.uuid()).fetch_optional(&mut *tx).await.map_err(failed(doing))?;
    if cancelling == Some(true) {
        return Err(Error::Conflict("the batch is still being cancelled; retry it once it has ended".to_owned()));
    }
    let query = sqlx::query_scalar(FIRST_BODY).bind(batch.uuid());
    let stripped: Option<bool> = query.fetch_optional(&mut *tx).await.map_err(failed(doing))?;
    if stripped == Some(true) {
        return Err(Error::Conflict(STRIPPED.to_owned()));
    }
    let names: Vec<&str> = statuses.iter().map(|status| status.as_str()).collect();
    let mut query =
        sqlx::query(statement).bind(batch.uuid()).bind(names).bind(after.xid.to_string()).bind(after.seq).bind(limit);
    if let Some(jobs) = jobs {
        query = query.bind(jobs.iter().map(|job| job.uuid()).bind_iter());
    }
    let rows = query.fetch_all(&mut *tx).await.map_err(failed(doing))?;
    let opened = |status: Status| {
        let such = rows.iter().filter(|row| row.get("opened") && row.get::<&str, _>("status") == status.as_str());
        i64::try_from(such.count()).unwrap_or(i64::MAX)
    };
    let counts = [Status::Succeeded, Status::Failed, Status::Cancelled, Status::Expired].map(opened);
    let total: i64 = counts.iter().sum();
    if total > 0 {
        let mut query = sqlx::query(REOPEN).bind(batch.uuid());
        for count in counts {
            query = query.bind(count);
        }
        query.execute(&mut *tx).await.map_err(failed(doing))?;
    }
    tx.commit().await.map_err(failed(doing))?;
    Ok((total.unsigned_abs(), rows))
}
