//! What producers write: requests, jobs to come back to, new runs.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::error::STRIPPED;
use super::super::{Chunk, Cursor, Error, Recorded, Request};
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row::{day, job_ref, json_text};
use super::{Core, later};
use crate::id::{BatchId, JobId};
use crate::job::{Identity, Job, JobOptions, JobRef, LaneKey};
use crate::outcome::Status;

static RECORD: Group = Group::new(
    "-- record requests
INSERT INTO job (batch_id, job_id, part_day, custom_id, endpoint, model_group, priority, lane, identity, deadline,
                 not_before, sample, num_retries, tags, metadata, cache_policy, service_tier, est_tokens, created_at, body)
VALUES ",
    20,
    " ON CONFLICT DO NOTHING",
);

static RECORD_TELLING: Group = Group::new(
    "-- record requests, of which some may not start yet
INSERT INTO job (batch_id, job_id, part_day, custom_id, endpoint, model_group, priority, lane, identity, deadline,
                 not_before, sample, num_retries, tags, metadata, cache_policy, service_tier, est_tokens, created_at, body)
VALUES ",
    20,
    " ON CONFLICT DO NOTHING RETURNING job_id",
);

static WAIT: Group = Group::new(
    "-- runs that wait
INSERT INTO live (job_id, batch_id, model_group, priority, lane, run, state, wake_at, reason, queued_at) VALUES ",
    10,
    " ON CONFLICT DO NOTHING",
);

const STANDING: &str = "-- who submits a batch, and is it cancelled
SELECT producer, cancel_requested_at IS NOT NULL FROM batch WHERE batch_id = ?";

const MOVE_BATCH: &str = "-- move the batch on with its chunk
UPDATE batch
SET recorded = max(recorded, ?2), published_through = max(published_through, ?3), producer_lease = ?4,
    total = CASE WHEN ?2 > recorded THEN NULL ELSE total END,
    finished_at = CASE WHEN ?2 > recorded THEN NULL ELSE finished_at END
WHERE batch_id = ?1";

/// A request as its row is written, borrowed from wherever it stands.
struct Columns<'a> {
    batch: BatchId,
    id: JobId,
    lane: &'a LaneKey,
    custom_id: &'a str,
    endpoint: &'a str,
    body: &'a Bytes,
    options: &'a JobOptions,
    identity: Identity,
}

impl Columns<'_> {
    fn put(&self, values: &mut Values, now: i64) {
        let options = self.options;
        values.put(self.batch.uuid());
        values.put(self.id.uuid());
        values.put(day(self.id.unix_ms()));
        values.text(self.custom_id);
        values.text(self.endpoint);
        values.shared(&self.lane.group);
        values.text(self.lane.priority.as_str());
        values.put(i64::from(self.lane.lane));
        values.put(Uuid::from_bytes(self.identity.0));
        values.time(options.deadline);
        values.time(options.not_before);
        values.put(i64::from(options.sample));
        values.put(options.num_retries.map(i64::from));
        values.put(json_text(&options.tags, options.tags.is_empty()));
        values.put(json_text(&options.metadata, options.metadata.is_none()));
        values.text(options.cache.as_str());
        values.maybe_text(options.service_tier.as_deref());
        values.small(options.est_tokens);
        values.put(now);
        values.json(Some(self.body));
    }
}

pub(super) async fn record(core: &Core, chunk: &Chunk<'_>) -> Done<Recorded> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    let Some(standing) = sqlx::query(STANDING).bind(chunk.batch.uuid()).fetch_optional(&mut *tx).await? else {
        return Ok(Recorded::LostProducer);
    };
    if standing.get::<bool, _>(1) {
        return Ok(Recorded::Cancelled);
    }
    if standing.get::<Option<Uuid>, _>(0) != Some(chunk.producer.uuid()) {
        return Ok(Recorded::LostProducer);
    }
    insert_jobs(tx, chunk, now).await?;
    let last = chunk.first_ordinal.saturating_add(chunk.jobs.len() as u64);
    sqlx::query(MOVE_BATCH)
        .bind(chunk.batch.uuid())
        .bind(i64::try_from(last).unwrap_or(i64::MAX))
        .bind(i64::try_from(chunk.published_through).unwrap_or(i64::MAX))
        .bind(later(now, chunk.producer_ttl))
        .execute(&mut *tx)
        .await?;
    work.commit().await?;
    Ok(Recorded::Committed)
}

async fn insert_jobs(tx: &mut SqliteConnection, chunk: &Chunk<'_>, now: i64) -> Done<()> {
    let put = |values: &mut Values, job: &Job| {
        let columns = Columns {
            batch: job.batch,
            id: job.id,
            lane: &job.lane,
            custom_id: &job.custom_id,
            endpoint: &job.endpoint,
            body: &job.body,
            options: &job.options,
            identity: job.identity(chunk.simulated),
        };
        columns.put(values, now);
    };
    let waits = |job: &Job| job.options.not_before.is_some_and(|time| time.timestamp_millis() > now);
    if !chunk.jobs.iter().any(waits) {
        RECORD.execute(tx, chunk.jobs, nothing, put).await?;
        return Ok(());
    }
    // Only what is new may wait: what was recorded before may have ended since.
    let new: HashSet<Uuid> = RECORD_TELLING.fetch(&mut *tx, chunk.jobs, nothing, put, |row| row.get(0)).await?;
    let waiting: Vec<(&Job, i64)> = chunk
        .jobs
        .iter()
        .filter(|job| waits(job) && new.contains(&job.id.uuid()))
        .filter_map(|job| Some((job, job.options.not_before?.timestamp_millis())))
        .collect();
    let put = |values: &mut Values, (job, wake_at): &(&Job, i64)| {
        let job = JobRef { id: job.id, batch: job.batch, run: 1, lane: job.lane.clone() };
        put_wait(values, &job, *wake_at, "not before", now);
    };
    WAIT.execute(tx, &waiting, nothing, put).await?;
    Ok(())
}

/// Records requests that came as messages; those that are recorded already stay as they are.
pub(super) async fn record_adopted(tx: &mut SqliteConnection, jobs: &[(&JobRef, &Request)], now: i64) -> Done<()> {
    let put = |values: &mut Values, (job, request): &(&JobRef, &Request)| {
        let Request { custom_id, endpoint, body, options } = *request;
        let identity = Identity::compute(custom_id, endpoint, &job.lane.group, body, options.sample, false);
        let columns =
            Columns { batch: job.batch, id: job.id, lane: &job.lane, custom_id, endpoint, body, options, identity };
        columns.put(values, now);
    };
    RECORD.execute(tx, jobs, nothing, put).await?;
    Ok(())
}

fn put_wait(values: &mut Values, job: &JobRef, wake_at: i64, reason: &str, now: i64) {
    values.put(job.id.uuid());
    values.put(job.batch.uuid());
    values.shared(&job.lane.group);
    values.text(job.lane.priority.as_str());
    values.put(i64::from(job.lane.lane));
    values.put(i64::from(job.run));
    values.put(1_i64);
    values.put(wake_at);
    values.text(reason);
    values.put(now);
}

/// Puts runs to wait that have no live row.
pub(super) async fn wait(tx: &mut SqliteConnection, jobs: &[(JobRef, i64)], reason: &str, now: i64) -> Done<()> {
    let put = |values: &mut Values, (job, wake_at): &(JobRef, i64)| put_wait(values, job, *wake_at, reason, now);
    WAIT.execute(tx, jobs, nothing, put).await?;
    Ok(())
}

static ENDED: Group = Group::new(
    "-- which of these have ended
WITH wanted (job_id) AS (VALUES ",
    1,
    ") SELECT job_id FROM wanted WHERE EXISTS (SELECT 1 FROM result r WHERE r.job_id = wanted.job_id)",
);

/// Tells which of the jobs have a result, of whatever run.
pub(super) async fn ended(tx: &mut SqliteConnection, jobs: &[Uuid]) -> Done<HashSet<Uuid>> {
    let put = |values: &mut Values, id: &Uuid| values.put(*id);
    Ok(ENDED.fetch(tx, jobs, nothing, put, |row| row.get(0)).await?)
}

pub(super) async fn defer(core: &Core, jobs: &[JobRef], after: Duration, reason: &str) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id.uuid()).collect();
    let ended = ended(work.tx(), &ids).await?;
    let wake_at = later(now, after);
    let open: Vec<(JobRef, i64)> =
        jobs.iter().filter(|job| !ended.contains(&job.id.uuid())).map(|job| (job.clone(), wake_at)).collect();
    wait(work.tx(), &open, reason, now).await?;
    work.commit().await
}

const CANCELLING: &str = "-- is the batch still being cancelled
SELECT name FROM batch WHERE batch_id = ? AND cancel_requested_at IS NOT NULL AND finished_at IS NULL";

macro_rules! select_ended {
    ($which:literal) => {
        concat!(
            "-- jobs whose latest run ended so
SELECT j.job_id, j.batch_id, j.model_group, j.priority, j.lane, r.run, r.status, r.seq
FROM result r JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id
WHERE r.batch_id = ?1 AND r.status IN (?2, ?3, ?4, ?5) AND r.seq > ?6",
            $which,
            "
  AND NOT EXISTS (SELECT 1 FROM live l WHERE l.job_id = r.job_id)
  AND NOT EXISTS (SELECT 1 FROM result n WHERE n.job_id = r.job_id AND n.run > r.run)
ORDER BY r.seq LIMIT ?7"
        )
    };
}

const ENDED_SO: &str = select_ended!("");
// The inequality is what the index on unsuccessful results asks for.
const ENDED_BADLY: &str = select_ended!(" AND r.status <> 'succeeded'");

const REOPEN: &str = "-- a batch with new runs is open again
UPDATE batch
SET succeeded = succeeded - ?2, failed = failed - ?3, cancelled = cancelled - ?4, expired = expired - ?5,
    finished_at = NULL, cancel_requested_at = NULL, closed_through = NULL
WHERE batch_id = ?1";

static ENDED_OF_THESE: Group = Group::new(
    "-- those of these jobs whose latest run has ended
WITH wanted (batch_id, job_id) AS (VALUES ",
    2,
    ") SELECT j.job_id, j.batch_id, j.model_group, j.priority, j.lane, r.run, r.status
FROM wanted
CROSS JOIN job j ON j.batch_id = wanted.batch_id AND j.job_id = wanted.job_id
CROSS JOIN result r ON r.job_id = j.job_id
WHERE NOT EXISTS (SELECT 1 FROM live l WHERE l.job_id = r.job_id)
  AND NOT EXISTS (SELECT 1 FROM result n WHERE n.job_id = r.job_id AND n.run > r.run)",
);

pub(super) async fn retry_jobs(core: &Core, batch: BatchId, statuses: &[Status], jobs: &[JobId]) -> Done<u64> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    refuse_cancelling(work.tx(), batch).await?;
    let put = |values: &mut Values, job: &JobId| {
        values.put(batch.uuid());
        values.put(job.uuid());
    };
    let read = |row: &SqliteRow| (job_ref(row), row.get::<String, _>("status"));
    let mut ended: Vec<(JobRef, String)> = ENDED_OF_THESE.fetch(work.tx(), jobs, nothing, put, read).await?;
    ended.retain(|(_, status)| statuses.iter().any(|wanted| wanted.as_str() == status));
    reopen(work.tx(), batch, &ended, now).await?;
    work.commit().await?;
    Ok(ended.len() as u64)
}

async fn refuse_cancelling(tx: &mut SqliteConnection, batch: BatchId) -> Done<()> {
    let cancelling: Option<String> = sqlx::query_scalar(CANCELLING).bind(batch.uuid()).fetch_optional(&mut *tx).await?;
    match cancelling {
        Some(name) => {
            let text = format!("batch `{name}` is still being cancelled; retry it once it has ended");
            Err(Error::Conflict(text).into())
        }
        None => refuse_stripped(tx, batch).await,
    }
}

const FIRST_BODY: &str = "-- a batch's first body
SELECT body = 'null' FROM job WHERE batch_id = ?1 ORDER BY job_id LIMIT 1";

/// Refuses to run requests again whose bodies were emptied: they are in order of id from the first on.
async fn refuse_stripped(tx: &mut SqliteConnection, batch: BatchId) -> Done<()> {
    let stripped: Option<bool> = sqlx::query_scalar(FIRST_BODY).bind(batch.uuid()).fetch_optional(tx).await?;
    if stripped == Some(true) {
        return Err(Error::Conflict(STRIPPED.to_owned()).into());
    }
    Ok(())
}

/// Opens a new run of each of these jobs, given with how the latest one ended.
async fn reopen(tx: &mut SqliteConnection, batch: BatchId, ended: &[(JobRef, String)], now: i64) -> Done<()> {
    if ended.is_empty() {
        return Ok(());
    }
    let mut counts = [0_i64; 4];
    let mut runs = Vec::with_capacity(ended.len());
    for (job, status) in ended {
        for (count, known) in counts.iter_mut().zip(Status::ALL) {
            *count += i64::from(known.as_str() == status);
        }
        runs.push((JobRef { run: job.run + 1, ..job.clone() }, now));
    }
    wait(tx, &runs, "retry", now).await?;
    let mut query = sqlx::query(REOPEN).bind(batch.uuid());
    for count in counts {
        query = query.bind(count);
    }
    query.execute(tx).await?;
    Ok(())
}

pub(super) async fn retry(
    core: &Core,
    batch: BatchId,
    statuses: &[Status],
    after: Cursor,
    limit: u32,
) -> Done<(u64, Option<Cursor>)> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    refuse_cancelling(tx, batch).await?;
    let statement = if statuses.contains(&Status::Succeeded) { ENDED_SO } else { ENDED_BADLY };
    let mut query = sqlx::query(statement).bind(batch.uuid());
    for status in Status::ALL {
        query = query.bind(statuses.contains(&status).then_some(status.as_str()));
    }
    let rows = query.bind(after.seq).bind(i64::from(limit)).fetch_all(&mut *tx).await?;
    if rows.is_empty() {
        return Ok((0, None));
    }
    let ended: Vec<(JobRef, String)> = rows.iter().map(|row| (job_ref(row), row.get("status"))).collect();
    reopen(tx, batch, &ended, now).await?;
    work.commit().await?;
    let last = rows.last().filter(|_| rows.len() >= limit as usize);
    Ok((rows.len() as u64, last.map(|row| Cursor { xid: 0, seq: row.get("seq") })))
}
