//! What the keeper does, in bounded steps: its lease, dead owners, due runs, vanished producers, repair.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::{Burial, Due, Keepership, MAX_DEATHS, MOST_UNCOMMITTED, Unpublished};
use super::end::{Ending, Unheld, release, unheld, walk, write_ends};
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row::{job_ref, small};
use super::{Core, later};
use crate::failure::{ErrorClass, ErrorRecord};
use crate::id::{BatchId, JobId, OwnerId};
use crate::job::JobRef;
use crate::outcome::Status;

const KEEP: &str = "-- take or renew the keeper's lease
UPDATE keeper SET owner = ?1, lease_until = ?2 WHERE owner IS NULL OR owner = ?1 OR lease_until <= ?3";

pub(super) async fn keep(core: &Core, owner: OwnerId, ttl: Duration) -> Done<Keepership> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let query = sqlx::query(KEEP).bind(owner.uuid()).bind(later(now, ttl)).bind(now);
    let held = query.execute(work.tx()).await?.rows_affected() == 1;
    work.commit().await?;
    Ok(if held { Keepership::Held { server_up: None } } else { Keepership::Elsewhere })
}

const TO_BURY: &str = "-- is anybody to be buried
SELECT 1 FROM worker WHERE (lease_until < ?1 AND dead_at IS NULL AND left_at IS NULL)
                        OR (dead_at IS NOT NULL AND buried_at IS NULL) LIMIT 1";

const DECLARE_DEAD: &str = "-- owners whose lease ran out are dead
UPDATE worker SET dead_at = ?1, in_flight = 0 WHERE lease_until < ?1 AND dead_at IS NULL AND left_at IS NULL";

const HELD_BY_DEAD: &str = "-- runs that dead owners hold
SELECT l.job_id, l.batch_id, l.model_group, l.priority, l.lane, l.run, l.calls, l.spent_pico_usd,
       l.deaths + (l.deaths = 0 OR l.called_by IS l.owner) AS deaths
FROM live l
WHERE l.state = 0 AND l.owner IN (SELECT owner FROM worker WHERE dead_at IS NOT NULL AND buried_at IS NULL)
LIMIT ?1";

static LOSE: Group = Group::new(
    "-- calls that dead owners may have been making
INSERT INTO lost_call (job_id, run, owner, attempt, batch_id, model_group, died_at, most)
SELECT l.job_id, l.run, l.owner, l.calls + 1, l.batch_id, l.model_group, w.dead_at, ? * w.concurrency
FROM live l JOIN worker w ON w.owner = l.owner
WHERE (l.deaths = 0 OR l.called_by IS l.owner) AND l.job_id IN (VALUES ",
    1,
    ") ON CONFLICT DO NOTHING",
);

static RETURN: Group = Group::new(
    "-- runs of dead owners are due at once
UPDATE live SET state = 1, owner = NULL, version = version + 1, wake_at = ?, reason = 'worker died',
    deaths = deaths + (deaths = 0 OR called_by IS owner)
WHERE job_id IN (VALUES ",
    1,
    ")",
);

// Admission refuses dead owners, so nothing is added after this.
const BURY: &str = "-- nothing is held by them any more
UPDATE worker SET buried_at = ?1 WHERE dead_at IS NOT NULL AND buried_at IS NULL";

pub(super) async fn bury(core: &Core, max_deaths: u32, limit: u32) -> Done<Burial> {
    if sqlx::query(TO_BURY).bind(core.now()).fetch_optional(&core.readers).await?.is_none() {
        return Ok(Burial::default());
    }
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    let owners = sqlx::query(DECLARE_DEAD).bind(now).execute(&mut *tx).await?.rows_affected();
    let rows = sqlx::query(HELD_BY_DEAD).bind(i64::from(limit)).fetch_all(&mut *tx).await?;
    let deaths = |row: &SqliteRow| small(row.get("deaths"));
    let (poisoned, returned): (Vec<&SqliteRow>, Vec<&SqliteRow>) =
        rows.iter().partition(|row| deaths(row) >= max_deaths);
    let id = |row: &&SqliteRow| row.get::<Uuid, _>("job_id");
    let held: Vec<Uuid> = rows.iter().map(|row| id(&row)).collect();
    LOSE.execute(&mut *tx, &held, |values| values.put(i64::from(MOST_UNCOMMITTED)), |values, id| values.put(*id))
        .await?;
    let ids: Vec<Uuid> = returned.iter().map(id).collect();
    RETURN.execute(&mut *tx, &ids, |values| values.put(now), |values, id| values.put(*id)).await?;
    end_poisoned(tx, &poisoned, now).await?;
    let more = rows.len() >= limit as usize;
    if !more {
        sqlx::query(BURY).bind(now).execute(&mut *tx).await?;
    }
    let burial = Burial { owners, returned: returned.len() as u64, poisoned: poisoned.len() as u64, more };
    work.commit().await?;
    Ok(burial)
}

async fn end_poisoned(tx: &mut SqliteConnection, rows: &[&SqliteRow], now: i64) -> Done<()> {
    let ids: Vec<Uuid> = rows.iter().map(|row| row.get("job_id")).collect();
    release(tx, &ids).await?;
    for row in rows {
        let deaths = row.get::<i64, _>("deaths");
        let text = format!("{deaths} workers died while they ran this job; the request may crash whoever runs it");
        let error = ErrorRecord::new(ErrorClass::WorkerCrashed, text);
        let (calls, spent_pico_usd) = (small(row.get("calls")), row.get("spent_pico_usd"));
        let end = Ending { job: job_ref(row), calls, spent_pico_usd };
        write_ends(tx, &[end], Status::Failed, &error, now).await?;
    }
    Ok(())
}

const END_LEASES: &str = "-- leases of former processes end
UPDATE worker SET lease_until = 0 WHERE dead_at IS NULL AND left_at IS NULL";

const END_KEEPER: &str = "-- so does the keeper's
UPDATE keeper SET lease_until = 0";

/// Runs of dead owners that one step takes over.
const BURY_CHUNK: u32 = 1000;

/// Takes over from all workers that there were; only for whoever has the right to work the queue. Returns how many runs.
pub(super) async fn bury_former(core: &Core) -> Done<u64> {
    let mut work = core.writer.begin().await?;
    sqlx::query(END_LEASES).execute(work.tx()).await?;
    sqlx::query(END_KEEPER).execute(work.tx()).await?;
    work.commit().await?;
    let mut runs = 0;
    loop {
        let burial = bury(core, MAX_DEATHS, BURY_CHUNK).await?;
        runs += burial.returned + burial.poisoned;
        if !burial.more {
            return Ok(runs);
        }
    }
}

const DUE: &str = "-- runs that are due
SELECT job_id, batch_id, model_group, priority, lane, run, version
FROM live WHERE state = 1 AND wake_at <= ?1 ORDER BY wake_at LIMIT ?2";

pub(super) async fn due(core: &Core, limit: u32) -> Done<Vec<Due>> {
    let rows = sqlx::query(DUE).bind(core.now()).bind(i64::from(limit)).fetch_all(&core.readers).await?;
    Ok(rows.iter().map(|row| Due { job: job_ref(row), version: row.get("version") }).collect())
}

static MARK_QUEUED: Group = Group::new(
    "-- due runs whose message is out
WITH due (job_id, version) AS (VALUES ",
    2,
    ") UPDATE live SET state = 2, version = live.version + 1, wake_at = NULL
FROM due WHERE live.job_id = due.job_id AND live.version = due.version AND live.state = 1",
);

pub(super) async fn mark_queued(core: &Core, due: &[Due]) -> Done<()> {
    if due.is_empty() {
        return Ok(());
    }
    let mut work = core.writer.begin().await?;
    let put = |values: &mut Values, due: &Due| {
        values.put(due.job.id.uuid());
        values.put(due.version);
    };
    MARK_QUEUED.execute(work.tx(), due, nothing, put).await?;
    work.commit().await
}

const UNPUBLISHED_BATCH: &str = "-- a batch whose producer vanished before everything was confirmed
SELECT batch_id, published_through, recorded FROM batch
WHERE finished_at IS NULL AND published_through < recorded AND cancel_requested_at IS NULL
  AND (producer IS NULL OR producer_lease <= ?)
ORDER BY batch_id LIMIT 1";

static RECORDED: Group = Group::new(
    "-- recorded jobs
WITH wanted (batch_id, job_id) AS (VALUES ",
    2,
    ") SELECT j.job_id, j.batch_id, j.model_group, j.priority, j.lane, 1 AS run
FROM wanted CROSS JOIN job j ON j.batch_id = wanted.batch_id AND j.job_id = wanted.job_id",
);

pub(super) async fn unpublished(core: &Core, limit: u32) -> Done<Option<Unpublished>> {
    let mut reader = core.readers.acquire().await?;
    let query = sqlx::query(UNPUBLISHED_BATCH).bind(core.now());
    let Some(row) = query.fetch_optional(&mut *reader).await? else { return Ok(None) };
    let batch = BatchId::from_uuid(row.get("batch_id"));
    let (from, recorded): (i64, i64) = (row.get("published_through"), row.get("recorded"));
    let through = recorded.min(from + i64::from(limit));
    let ids: Vec<JobId> =
        (from..through).filter_map(|ordinal| u32::try_from(ordinal).ok()).map(|n| JobId::derive(batch, n)).collect();
    let put = |values: &mut Values, id: &JobId| {
        values.put(batch.uuid());
        values.put(id.uuid());
    };
    let mut jobs: Vec<JobRef> = RECORDED.fetch(&mut reader, &ids, nothing, put, job_ref).await?;
    let open = unheld(&mut reader, &jobs).await?;
    jobs.retain(|job| open.get(&job.id.uuid()).is_some_and(is_nowhere));
    Ok(Some(Unpublished { batch, jobs, through: through.unsigned_abs() }))
}

/// Tells whether nothing holds the job: it is recorded and that is all.
fn is_nowhere(unheld: &Unheld) -> bool {
    !unheld.live
}

pub(super) async fn unfinished(
    core: &Core,
    batch: BatchId,
    after: Option<JobId>,
    limit: u32,
) -> Done<(Vec<JobRef>, Option<JobId>)> {
    let mut reader = core.readers.acquire().await?;
    let after = after.map_or(Uuid::nil(), JobId::uuid);
    let mut jobs = walk(&mut reader, batch.uuid(), after, i64::from(limit)).await?;
    let next = if jobs.len() < limit as usize { None } else { jobs.last().map(|job| job.id) };
    let open = unheld(&mut reader, &jobs).await?;
    jobs.retain(|job| open.get(&job.id.uuid()).is_some_and(is_nowhere));
    Ok((jobs, next))
}

const REQUEUE: &str = "-- published runs without a holder are due again
UPDATE live SET state = 1, version = version + 1, wake_at = ?2, reason = 'repair' WHERE batch_id = ?1 AND state = 2";

pub(super) async fn requeue(core: &Core, batch: BatchId) -> Done<u64> {
    let mut work = core.writer.begin().await?;
    let query = sqlx::query(REQUEUE).bind(batch.uuid()).bind(core.now());
    let done = query.execute(work.tx()).await?;
    work.commit().await?;
    Ok(done.rows_affected())
}
