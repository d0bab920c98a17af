//! What the keeper does, in chunks and in order of key.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgBindIterExt as _, PgPool, PgRow};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::{Burial, Due, Keepership, MOST_UNCOMMITTED, Result, Unpublished};
use super::flush::{Delta, count};
use super::read::above;
use super::row::{int, job_ref, seconds};
use super::submit::json_text;
use super::{cache, failed, tally};
use crate::failure::{ErrorClass, ErrorRecord};
use crate::id::{BatchId, JobId, OwnerId, PartDay};
use crate::job::JobRef;
use crate::outcome::Status;
use crate::tally::Tallies;

const KEEP: &str = "-- take or renew the keeper's lease
UPDATE gristmill.keeper SET owner = $1, lease_until = now() + make_interval(secs => $2)
WHERE owner = $1 OR lease_until <= now()
RETURNING extract(epoch FROM now() - pg_postmaster_start_time())::double precision";

pub(super) async fn keep(pool: &PgPool, owner: OwnerId, ttl: Duration) -> Result<Keepership> {
    let query = sqlx::query_scalar::<_, f64>(KEEP).bind(owner.uuid()).bind(seconds(ttl));
    Ok(match query.fetch_optional(pool).await.map_err(failed("taking the keeper's lease"))? {
        Some(up) => Keepership::Held { server_up: Some(Duration::from_secs_f64(up.max(0.0))) },
        None => Keepership::Elsewhere,
    })
}

const DECLARE_DEAD: &str = "-- owners whose lease ran out are dead
UPDATE gristmill.worker SET dead_at = now(), in_flight = 0
WHERE lease_until < now() AND dead_at IS NULL AND left_at IS NULL";

const UNBURIED: &str = "-- is somebody dead and not buried
SELECT count(*) FROM gristmill.worker WHERE (dead_at IS NOT NULL OR left_at IS NOT NULL) AND buried_at IS NULL";

const HELD_BY_DEAD: &str = "-- runs that dead owners hold
SELECT l.job_id, l.batch_id, l.model_group, l.priority, l.lane, l.run, l.calls,
       (l.spent_usd * 1000000000000)::bigint AS spent_pico_usd,
       l.deaths + (l.deaths = 0 OR l.called_by IS NOT DISTINCT FROM l.owner)::integer AS deaths
FROM gristmill.live l JOIN gristmill.worker w ON w.owner = l.owner
WHERE l.state = 0 AND (w.dead_at IS NOT NULL OR w.left_at IS NOT NULL) AND w.buried_at IS NULL
ORDER BY l.job_id LIMIT $1
FOR UPDATE OF l SKIP LOCKED";

const LOSE: &str = "-- calls that dead owners may have been making
INSERT INTO gristmill.lost_call (job_id, run, owner, attempt, batch_id, model_group, died_at, most)
SELECT l.job_id, l.run, l.owner, l.calls + 1, l.batch_id, l.model_group, w.dead_at, $2 * w.concurrency
FROM gristmill.live l JOIN gristmill.worker w ON w.owner = l.owner
WHERE l.job_id = ANY ($1) AND w.dead_at IS NOT NULL AND (l.deaths = 0 OR l.called_by IS NOT DISTINCT FROM l.owner)
ON CONFLICT DO NOTHING";

const RETURN_RUNS: &str = "-- runs of dead owners are due at once
UPDATE gristmill.live
SET state = 1, owner = NULL, version = version + 1, wake_at = now(), reason = 'worker died',
    deaths = deaths + (deaths = 0 OR called_by IS NOT DISTINCT FROM owner)::integer
WHERE job_id = ANY ($1)";

const DROP_LIVE: &str = "-- ended runs need no live row
DELETE FROM gristmill.live WHERE job_id = ANY ($1)";

// An admission that was under way when its owner was declared dead, or left, cannot take longer than the session allows; what a
// flush under way has locked is still seen here, and may come back if that flush fails.
const BURY: &str = "-- nothing more can be held by them
UPDATE gristmill.worker w SET buried_at = now()
WHERE coalesce(w.dead_at, w.left_at) < now() - interval '2 minutes' AND w.buried_at IS NULL
  AND NOT EXISTS (SELECT FROM gristmill.live l WHERE l.owner = w.owner AND l.state = 0)";

// Sessions whose process stands still, as one that was stopped does: their transaction holds the jobs of a dead owner, and no time
// limit of the server's ends it while it waits for the client. Every statement begins with its name, in a line of its own.
const END_STALLED: &str = "-- sessions that stand still in the middle of a COPY end
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
  AND state = 'active' AND wait_event = 'ClientRead' AND query ~ '(?n)^COPY gristmill'
  AND query_start < clock_timestamp() - make_interval(secs => $1)";

/// Takes over from the dead; sessions that have been in one COPY for longer than `stalled` are ended.
pub(super) async fn bury(pool: &PgPool, stalled: Duration, max_deaths: u32, limit: u32) -> Result<Burial> {
    let doing = "taking over from dead workers";
    let owners = sqlx::query(DECLARE_DEAD).execute(pool).await.map_err(failed(doing))?.rows_affected();
    let unburied: i64 = sqlx::query_scalar(UNBURIED).fetch_one(pool).await.map_err(failed(doing))?;
    if unburied == 0 {
        return Ok(Burial { owners, ..Burial::default() });
    }
    let query = sqlx::query_scalar(END_STALLED).bind(seconds(stalled));
    let ended: i64 = query.fetch_one(pool).await.map_err(failed(doing))?;
    if ended > 0 {
        tracing::warn!(ended, "ended sessions of processes that stand still in the middle of writing");
    }
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let query = sqlx::query(HELD_BY_DEAD).bind(i64::from(limit));
    let rows = query.fetch_all(&mut *tx).await.map_err(failed(doing))?;
    let deaths = |row: &PgRow| row.get::<i32, _>("deaths").unsigned_abs();
    let ids: Vec<Uuid> = rows.iter().map(|row| row.get("job_id")).collect();
    sqlx::query(LOSE).bind(ids).bind(int(MOST_UNCOMMITTED)).execute(&mut *tx).await.map_err(failed(doing))?;
    let (poisoned, returned): (Vec<&PgRow>, Vec<&PgRow>) = rows.iter().partition(|row| deaths(row) >= max_deaths);
    if !returned.is_empty() {
        let ids: Vec<Uuid> = returned.iter().map(|row| row.get("job_id")).collect();
        sqlx::query(RETURN_RUNS).bind(ids).execute(&mut *tx).await.map_err(failed(doing))?;
    }
    if !poisoned.is_empty() {
        let ids: Vec<Uuid> = poisoned.iter().map(|row| row.get("job_id")).collect();
        sqlx::query(DROP_LIVE).bind(ids).execute(&mut *tx).await.map_err(failed(doing))?;
        let error = ErrorRecord::new(
            ErrorClass::WorkerCrashed,
            format!("{max_deaths} workers died while they ran this job; the request may crash whoever runs it"),
        );
        let ends: Vec<Ending> = poisoned
            .iter()
            .map(|row| Ending {
                job: job_ref(row),
                calls: row.get::<i32, _>("calls").unsigned_abs(),
                spent_pico_usd: row.get("spent_pico_usd"),
            })
            .collect();
        write_ends(&mut tx, &ends, Status::Failed, &error).await?;
    }
    if rows.is_empty() {
        sqlx::query(BURY).execute(&mut *tx).await.map_err(failed(doing))?;
    }
    tx.commit().await.map_err(failed(doing))?;
    Ok(Burial {
        owners,
        returned: returned.len() as u64,
        poisoned: poisoned.len() as u64,
        more: rows.len() >= limit as usize,
    })
}

/// A run to end without an answer.
pub(super) struct Ending {
    pub(super) job: JobRef,
    pub(super) calls: u32,
    /// What its calls cost, as far as it is known.
    pub(super) spent_pico_usd: Option<i64>,
}

const WRITE_ENDS: &str = "-- results of runs that nobody answers
WITH ended AS (
    INSERT INTO gristmill.result (job_id, run, part_day, batch_id, status, model_group, attempts, finished_at, error_class,
                                  error_message, error, cost_usd)
    SELECT t.job_id, t.run, t.part_day, t.batch_id, $7, t.model_group, t.calls, now(), $8, $9, $10::json,
           t.spent_pico * 0.000000000001
    FROM UNNEST($1::uuid[], $2::integer[], $3::date[], $4::uuid[], $5::text[], $6::integer[], $11::bigint[])
         AS t (job_id, run, part_day, batch_id, model_group, calls, spent_pico)
    ORDER BY t.job_id
    ON CONFLICT DO NOTHING
    RETURNING batch_id, model_group, finished_at
)
SELECT batch_id, count(*), model_group, finished_at FROM ended GROUP BY batch_id, model_group, finished_at";

/// Writes terminal rows with one error and moves the counters; returns how many were new.
pub(super) async fn write_ends(
    tx: &mut PgConnection,
    ends: &[Ending],
    status: Status,
    error: &ErrorRecord,
) -> Result<u64> {
    let jobs = || ends.iter().map(|end| &end.job);
    let rows = sqlx::query(WRITE_ENDS)
        .bind(jobs().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs().map(|job| int(job.run)).bind_iter())
        .bind(jobs().map(|job| job.id.part_day()).bind_iter())
        .bind(jobs().map(|job| job.batch.uuid()).bind_iter())
        .bind(jobs().map(|job| super::row::text(&job.lane.group)).bind_iter())
        .bind(ends.iter().map(|end| int(end.calls)).bind_iter())
        .bind(status.as_str())
        .bind(error.class.as_str())
        .bind(super::row::text(&error.message))
        .bind(json_text(error, false))
        .bind(ends.iter().map(|end| end.spent_pico_usd).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("ending runs"))?;
    let mut deltas: BTreeMap<Uuid, Delta> = BTreeMap::new();
    let mut tallies = Tallies::default();
    for row in &rows {
        deltas.entry(row.get(0)).or_default().add(status.as_str(), row.get(1));
        let (batch, group) = (BatchId::from_uuid(row.get(0)), row.get::<&str, _>(2).into());
        tallies.ended(batch, group, status, error.class.as_str(), row.get(3), row.get(1));
    }
    cache::let_go(tx, jobs().map(|job| job.id), status).await?;
    tally::write(tx, &tallies).await?;
    count(tx, &deltas).await?;
    Ok(rows.iter().map(|row| row.get::<i64, _>(1).unsigned_abs()).sum())
}

const DUE: &str = "-- runs that are due
SELECT job_id, batch_id, model_group, priority, lane, run, version
FROM gristmill.live WHERE state = 1 AND wake_at <= now() ORDER BY wake_at LIMIT $1";

pub(super) async fn due(pool: &PgPool, limit: u32) -> Result<Vec<Due>> {
    let rows = sqlx::query(DUE).bind(i64::from(limit)).fetch_all(pool).await.map_err(failed("reading due runs"))?;
    Ok(rows.iter().map(|row| Due { job: job_ref(row), version: row.get("version") }).collect())
}

const MARK_QUEUED: &str = "-- due runs whose message is out
UPDATE gristmill.live l SET state = 2, version = l.version + 1, wake_at = NULL
FROM (SELECT q.job_id FROM gristmill.live q
      JOIN UNNEST($1::uuid[], $2::bigint[]) AS t (job_id, version) ON q.job_id = t.job_id AND q.version = t.version
      WHERE q.state = 1 ORDER BY q.job_id FOR UPDATE OF q) t
WHERE l.job_id = t.job_id";

pub(super) async fn mark_queued(pool: &PgPool, due: &[Due]) -> Result<()> {
    sqlx::query(MARK_QUEUED)
        .bind(due.iter().map(|due| due.job.id.uuid()).bind_iter())
        .bind(due.iter().map(|due| due.version).bind_iter())
        .execute(pool)
        .await
        .map_err(failed("marking runs as queued"))?;
    Ok(())
}

const UNPUBLISHED_BATCH: &str = "-- a batch whose producer vanished before everything was confirmed
SELECT batch_id, published_through, recorded FROM gristmill.batch
WHERE finished_at IS NULL AND published_through < recorded AND cancel_requested_at IS NULL
  AND (producer IS NULL OR producer_lease <= now())
ORDER BY batch_id LIMIT 1";

const UNPUBLISHED_JOBS: &str = "-- which of these nothing holds
SELECT j.job_id, j.batch_id, j.model_group, j.priority, j.lane, 1 AS run
FROM gristmill.job j
WHERE j.batch_id = $1 AND j.part_day = $2 AND j.job_id = ANY ($3)
  AND NOT EXISTS (SELECT 1 FROM gristmill.live l WHERE l.job_id = j.job_id)
  AND NOT EXISTS (SELECT 1 FROM gristmill.result r WHERE r.job_id = j.job_id AND r.part_day = j.part_day)
ORDER BY j.job_id";

pub(super) async fn unpublished(pool: &PgPool, limit: u32) -> Result<Option<Unpublished>> {
    let doing = "looking for jobs of vanished producers";
    let Some(row) = sqlx::query(UNPUBLISHED_BATCH).fetch_optional(pool).await.map_err(failed(doing))? else {
        return Ok(None);
    };
    let batch = BatchId::from_uuid(row.get("batch_id"));
    let (from, recorded): (i64, i64) = (row.get("published_through"), row.get("recorded"));
    let through = recorded.min(from + i64::from(limit));
    let ids: Vec<Uuid> =
        (from..through).filter_map(|n| u32::try_from(n).ok()).map(|n| JobId::derive(batch, n).uuid()).collect();
    let query = sqlx::query(UNPUBLISHED_JOBS).bind(batch.uuid()).bind(batch.part_day()).bind(ids);
    let rows = query.fetch_all(pool).await.map_err(failed(doing))?;
    Ok(Some(Unpublished { batch, jobs: rows.iter().map(job_ref).collect(), through: through.unsigned_abs() }))
}

const CANCELLED: &str = "-- cancelled batches that have not ended
SELECT batch_id FROM gristmill.batch WHERE finished_at IS NULL AND cancel_requested_at IS NOT NULL ORDER BY batch_id";

const STILL_CANCELLED: &str = "-- how far a cancelled batch is closed
SELECT closed_through FROM gristmill.batch
WHERE batch_id = $1 AND finished_at IS NULL AND cancel_requested_at IS NOT NULL";

const LEFT: &str = "-- what a walk found held and is held no more
SELECT job_id, batch_id, model_group, priority, lane, run FROM gristmill.live
WHERE batch_id = $1 AND state <> 0 ORDER BY job_id LIMIT $2";

const WALK: &str = "-- jobs of a batch in order of id
SELECT job_id, batch_id, model_group, priority, lane, 1 AS run
FROM gristmill.job WHERE batch_id = $1 AND job_id > $2 ORDER BY job_id LIMIT $3";

const RELEASE_UNHELD: &str = "-- live rows that nobody holds
DELETE FROM gristmill.live WHERE job_id = ANY ($1) AND state <> 0
RETURNING job_id, run, calls, (spent_usd * 1000000000000)::bigint AS spent_pico_usd";

const OPEN_WITHOUT_LIVE: &str = "-- which of these have neither live row nor result
SELECT t.job_id FROM UNNEST($1::uuid[], $2::date[]) AS t (job_id, part_day)
WHERE NOT EXISTS (SELECT 1 FROM gristmill.live l WHERE l.job_id = t.job_id)
  AND NOT EXISTS (SELECT 1 FROM gristmill.result r WHERE r.job_id = t.job_id AND r.part_day = t.part_day)";

const CLOSED_THROUGH: &str = "-- how far the batch is closed
UPDATE gristmill.batch SET closed_through = $2 WHERE batch_id = $1";

const CLOSING: &str = "closing a cancelled batch";

/// Ends those of the jobs that have not ended and that nobody holds.
async fn end_unheld(tx: &mut PgConnection, jobs: Vec<JobRef>, status: Status, error: &ErrorRecord) -> Result<u64> {
    let doing = "ending jobs that nobody holds";
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id.uuid()).collect();
    let days: Vec<PartDay> = jobs.iter().map(|job| job.id.part_day()).collect();
    let released = sqlx::query(RELEASE_UNHELD).bind(&ids).fetch_all(&mut *tx).await.map_err(failed(doing))?;
    let released: BTreeMap<Uuid, (u32, u32, Option<i64>)> = released
        .iter()
        .map(|row| {
            let number = |column| row.get::<i32, _>(column).unsigned_abs();
            (row.get("job_id"), (number("run"), number("calls"), row.get("spent_pico_usd")))
        })
        .collect();
    let open: Vec<Uuid> =
        sqlx::query_scalar(OPEN_WITHOUT_LIVE).bind(&ids).bind(days).fetch_all(&mut *tx).await.map_err(failed(doing))?;
    let open: std::collections::HashSet<Uuid> = open.into_iter().collect();
    let ends: Vec<Ending> = jobs
        .into_iter()
        .filter_map(|job| match released.get(&job.id.uuid()) {
            Some(&(run, calls, spent_pico_usd)) => Some(Ending { job: JobRef { run, ..job }, calls, spent_pico_usd }),
            None => open.contains(&job.id.uuid()).then_some(Ending { job, calls: 0, spent_pico_usd: None }),
        })
        .collect();
    if ends.is_empty() {
        return Ok(0);
    }
    write_ends(tx, &ends, status, error).await
}

/// Walks each cancelled batch once. Every job that has no live row then has ended and stays so; from then on only live rows
/// need be looked at.
pub(super) async fn close_cancelled(pool: &PgPool, limit: u32) -> Result<u64> {
    let query = sqlx::query_scalar(CANCELLED);
    let open: Vec<Uuid> = query.fetch_all(pool).await.map_err(failed(CLOSING))?;
    let mut left = limit as usize;
    for batch in open {
        if left == 0 {
            break;
        }
        left -= close(pool, batch, left).await?;
    }
    Ok(u64::from(limit) - left as u64)
}

/// Ends what nobody holds among at most `most` jobs of a cancelled batch; returns how many it looked at.
async fn close(pool: &PgPool, batch: Uuid, most: usize) -> Result<usize> {
    let mut tx = pool.begin().await.map_err(failed(CLOSING))?;
    let query = sqlx::query_scalar(STILL_CANCELLED).bind(batch);
    let Some(through) = query.fetch_optional(&mut *tx).await.map_err(failed(CLOSING))? else { return Ok(0) };
    let (through, limit): (Option<Uuid>, _) = (through, i64::try_from(most).unwrap_or(i64::MAX));
    let walked = through == Some(Uuid::max());
    let query = if walked {
        sqlx::query(LEFT).bind(batch).bind(limit)
    } else {
        sqlx::query(WALK).bind(batch).bind(through.unwrap_or(Uuid::nil())).bind(limit)
    };
    let rows = query.fetch_all(&mut *tx).await.map_err(failed(CLOSING))?;
    let jobs: Vec<JobRef> = rows.iter().map(job_ref).collect();
    let looked_at = jobs.len();
    if !walked {
        let through = if looked_at < most { Some(Uuid::max()) } else { jobs.last().map(|job| job.id.uuid()) };
        sqlx::query(CLOSED_THROUGH).bind(batch).bind(through).execute(&mut *tx).await.map_err(failed(CLOSING))?;
    }
    if !jobs.is_empty() {
        let error = ErrorRecord::new(ErrorClass::Cancelled, "the batch was cancelled before this job was answered");
        end_unheld(&mut tx, jobs, Status::Cancelled, &error).await?;
    }
    tx.commit().await.map_err(failed(CLOSING))?;
    Ok(looked_at)
}

const LATE: &str = "-- jobs past their deadline that were not looked at yet
SELECT j.job_id, j.batch_id, j.model_group, j.priority, j.lane, 1 AS run, j.deadline
FROM gristmill.job j
WHERE j.deadline IS NOT NULL AND j.deadline <= now()
  AND (j.deadline, j.job_id) > ((SELECT expired_through FROM gristmill.keeper), (SELECT expired_job FROM gristmill.keeper))
ORDER BY j.deadline, j.job_id LIMIT $1";

const LATE_THROUGH: &str = "-- how far deadlines have been looked at
UPDATE gristmill.keeper SET expired_through = $1, expired_job = $2";

pub(super) async fn close_expired(pool: &PgPool, limit: u32) -> Result<u64> {
    let doing = "closing expired jobs";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let rows = sqlx::query(LATE).bind(i64::from(limit)).fetch_all(&mut *tx).await.map_err(failed(doing))?;
    let Some(last) = rows.last() else { return Ok(0) };
    let through: (DateTime<Utc>, Uuid) = (last.get("deadline"), last.get("job_id"));
    let error = ErrorRecord::new(ErrorClass::DeadlineExceeded, "the deadline passed before a call could start");
    let mut jobs: Vec<JobRef> = rows.iter().map(job_ref).collect();
    jobs.sort_unstable_by_key(|job| job.id);
    end_unheld(&mut tx, jobs, Status::Expired, &error).await?;
    let query = sqlx::query(LATE_THROUGH).bind(through.0).bind(through.1);
    query.execute(&mut *tx).await.map_err(failed(doing))?;
    tx.commit().await.map_err(failed(doing))?;
    Ok(rows.len() as u64)
}

const ENSURE_PARTITION: &str = "-- make a day's partitions
SELECT gristmill.ensure_partition($1)";

pub(super) async fn ensure_partitions(pool: &PgPool, today: PartDay) -> Result<()> {
    for day in today.iter_days().take(8) {
        sqlx::query(ENSURE_PARTITION).bind(day).execute(pool).await.map_err(failed("making partitions"))?;
    }
    Ok(())
}

pub(super) async fn unfinished(
    pool: &PgPool,
    batch: BatchId,
    after: Option<JobId>,
    limit: u32,
) -> Result<(Vec<JobRef>, Option<JobId>)> {
    let doing = "looking for unfinished jobs";
    let query = sqlx::query(WALK).bind(batch.uuid()).bind(above(after)).bind(i64::from(limit));
    let rows = query.fetch_all(pool).await.map_err(failed(doing))?;
    let jobs: Vec<JobRef> = rows.iter().map(job_ref).collect();
    let next = if jobs.len() < limit as usize { None } else { jobs.last().map(|job| job.id) };
    let open: Vec<Uuid> = sqlx::query_scalar(OPEN_WITHOUT_LIVE)
        .bind(jobs.iter().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs.iter().map(|job| job.id.part_day()).bind_iter())
        .fetch_all(pool)
        .await
        .map_err(failed(doing))?;
    let open: std::collections::HashSet<Uuid> = open.into_iter().collect();
    Ok((jobs.into_iter().filter(|job| open.contains(&job.id.uuid())).collect(), next))
}

const REQUEUE: &str = "-- published runs without a holder are due again
UPDATE gristmill.live SET state = 1, version = version + 1, wake_at = now(), reason = 'repair'
WHERE batch_id = $1 AND state = 2";

pub(super) async fn requeue(pool: &PgPool, batch: BatchId) -> Result<u64> {
    let query = sqlx::query(REQUEUE).bind(batch.uuid());
    Ok(query.execute(pool).await.map_err(failed("making runs due again"))?.rows_affected())
}
