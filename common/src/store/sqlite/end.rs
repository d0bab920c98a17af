//! Runs that end without a worker: cancelled, past their deadline, given up.

use std::collections::{HashMap, HashSet};

use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::count::Deltas;
use super::error::Done;
use super::flush::write_results;
use super::group::{Group, Values, nothing};
use super::row::{job_ref, small, time};
use super::{Core, cache};
use crate::failure::{ErrorClass, ErrorRecord};
use crate::job::JobRef;
use crate::outcome::{JobResult, Status};

/// A run to end without an answer.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) job: JobRef,
    pub(super) calls: u32,
    /// What its calls cost, as far as it is known.
    pub(super) spent_pico_usd: Option<i64>,
}

/// Writes terminal rows with one error and moves the counters. The live rows must be gone already.
pub(super) async fn write_ends(
    tx: &mut SqliteConnection,
    ends: &[Ending],
    status: Status,
    error: &ErrorRecord,
    now: i64,
) -> Done<()> {
    let mut deltas = Deltas::default();
    let row = |end: &Ending| JobResult {
        cost_pico_usd: end.spent_pico_usd,
        ..JobResult::without_answer(status, error.clone(), end.calls, time(now))
    };
    let rows: Vec<JobResult> = ends.iter().map(row).collect();
    let results: Vec<(&JobRef, &JobResult)> = ends.iter().map(|end| &end.job).zip(&rows).collect();
    write_results(tx, &results).await?;
    for end in ends {
        deltas.end(&end.job, status, error.class.as_str(), time(now));
    }
    deltas.write(tx, now).await?;
    cache::let_go(tx, ends.iter().map(|end| end.job.id), status, now).await
}

static LIVE: Group = Group::new(
    "-- what holds these jobs
WITH wanted (job_id) AS (VALUES ",
    1,
    ") SELECT l.job_id, l.run, l.state, l.calls, l.spent_pico_usd FROM wanted CROSS JOIN live l ON l.job_id = wanted.job_id",
);

static RELEASE: Group = Group::new("-- ended runs need no live row\nDELETE FROM live WHERE job_id IN (VALUES ", 1, ")");

static ENDED: Group = Group::new(
    "-- which of these have ended
WITH wanted (job_id) AS (VALUES ",
    1,
    ") SELECT job_id FROM wanted WHERE EXISTS (SELECT 1 FROM result r WHERE r.job_id = wanted.job_id)",
);

/// A run that has not ended and that nobody holds.
#[derive(Debug)]
pub(super) struct Unheld {
    pub(super) run: u32,
    pub(super) calls: u32,
    /// What its calls cost, as far as it is known.
    pub(super) spent_pico_usd: Option<i64>,
    /// Whether it has a live row.
    pub(super) live: bool,
}

/// Finds those of the jobs that have not ended and that nobody holds. A job without live row and result is in run 1.
pub(super) async fn unheld(tx: &mut SqliteConnection, jobs: &[JobRef]) -> Done<HashMap<Uuid, Unheld>> {
    let put = |values: &mut Values, job: &JobRef| values.put(job.id.uuid());
    let live: Vec<(Uuid, i64, Unheld)> = LIVE
        .fetch(&mut *tx, jobs, nothing, put, |row| {
            let (run, calls) = (small(row.get(1)), small(row.get(3)));
            let unheld = Unheld { run, calls, spent_pico_usd: row.get(4), live: true };
            (row.get(0), row.get(2), unheld)
        })
        .await?;
    let mut held: HashSet<Uuid> = HashSet::new();
    let mut unheld: HashMap<Uuid, Unheld> = HashMap::new();
    for (id, state, found) in live {
        if state == 0 {
            held.insert(id);
        } else {
            unheld.insert(id, found);
        }
    }
    let without: Vec<&JobRef> =
        jobs.iter().filter(|job| !held.contains(&job.id.uuid()) && !unheld.contains_key(&job.id.uuid())).collect();
    let put = |values: &mut Values, job: &&JobRef| values.put(job.id.uuid());
    let ended: HashSet<Uuid> = ENDED.fetch(tx, &without, nothing, put, |row| row.get(0)).await?;
    for job in without.into_iter().filter(|job| !ended.contains(&job.id.uuid())) {
        unheld.insert(job.id.uuid(), Unheld { run: 1, calls: 0, spent_pico_usd: None, live: false });
    }
    Ok(unheld)
}

/// Deletes the live rows of jobs.
pub(super) async fn release(tx: &mut SqliteConnection, jobs: &[Uuid]) -> Done<()> {
    RELEASE.execute(tx, jobs, nothing, |values, id| values.put(*id)).await?;
    Ok(())
}

/// Ends those of the jobs that have not ended and that nobody holds.
async fn end_unheld(
    tx: &mut SqliteConnection,
    jobs: Vec<JobRef>,
    status: Status,
    error: &ErrorRecord,
    now: i64,
) -> Done<()> {
    let mut unheld = unheld(tx, &jobs).await?;
    let live: Vec<Uuid> = unheld.iter().filter(|(_, unheld)| unheld.live).map(|(id, _)| *id).collect();
    release(tx, &live).await?;
    let ends: Vec<Ending> = jobs
        .into_iter()
        .filter_map(|job| {
            let Unheld { run, calls, spent_pico_usd, .. } = unheld.remove(&job.id.uuid())?;
            Some(Ending { job: JobRef { run, ..job }, calls, spent_pico_usd })
        })
        .collect();
    write_ends(tx, &ends, status, error, now).await
}

const CANCELLED: &str = "-- cancelled batches that have not ended
SELECT batch_id, closed_through FROM batch
WHERE finished_at IS NULL AND cancel_requested_at IS NOT NULL ORDER BY batch_id";

const WALK: &str = "-- jobs of a batch in order of id
SELECT job_id, batch_id, model_group, priority, lane, 1 AS run
FROM job WHERE batch_id = ?1 AND job_id > ?2 ORDER BY job_id LIMIT ?3";

const LEFT: &str = "-- what a walk found held and is held no more
SELECT job_id, batch_id, model_group, priority, lane, run FROM live WHERE batch_id = ?1 AND state <> 0 LIMIT ?2";

const CLOSED_THROUGH: &str = "-- how far the batch is closed
UPDATE batch SET closed_through = ?2 WHERE batch_id = ?1";

/// Reads jobs of a batch in order of id.
pub(super) async fn walk(tx: &mut SqliteConnection, batch: Uuid, after: Uuid, limit: i64) -> Done<Vec<JobRef>> {
    let rows = sqlx::query(WALK).bind(batch).bind(after).bind(limit).fetch_all(tx).await?;
    Ok(rows.iter().map(job_ref).collect())
}

/// Walks each cancelled batch once. Every job that has no live row then has ended and stays so; from then on only live rows
/// need be looked at.
pub(super) async fn close_cancelled(core: &Core, limit: u32) -> Done<u64> {
    let open: Vec<(Uuid, Option<Uuid>)> = sqlx::query_as(CANCELLED).fetch_all(&core.readers).await?;
    if open.is_empty() {
        return Ok(0);
    }
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    let error = ErrorRecord::new(ErrorClass::Cancelled, "the batch was cancelled before this job was answered");
    let mut left = i64::from(limit);
    // Again under the lock: meanwhile a retry may have opened one of them.
    let open: Vec<(Uuid, Option<Uuid>)> = sqlx::query_as(CANCELLED).fetch_all(&mut *tx).await?;
    for (batch, through) in open {
        if left == 0 {
            break;
        }
        let walked = through == Some(Uuid::max());
        let jobs = if walked {
            let rows = sqlx::query(LEFT).bind(batch).bind(left).fetch_all(&mut *tx).await?;
            rows.iter().map(job_ref).collect()
        } else {
            walk(tx, batch, through.unwrap_or(Uuid::nil()), left).await?
        };
        let looked_at = i64::try_from(jobs.len()).unwrap_or(left);
        if !walked {
            let through = if looked_at < left { Some(Uuid::max()) } else { jobs.last().map(|job| job.id.uuid()) };
            sqlx::query(CLOSED_THROUGH).bind(batch).bind(through).execute(&mut *tx).await?;
        }
        left -= looked_at;
        end_unheld(tx, jobs, Status::Cancelled, &error, now).await?;
    }
    work.commit().await?;
    Ok(u64::try_from(i64::from(limit) - left).unwrap_or(0))
}

const LATE: &str = "-- jobs past their deadline that were not looked at yet
SELECT j.job_id, j.batch_id, j.model_group, j.priority, j.lane, 1 AS run, j.deadline
FROM job j
WHERE j.deadline IS NOT NULL AND j.deadline <= ?1
  AND (j.deadline, j.job_id) > (SELECT expired_through, expired_job FROM keeper)
ORDER BY j.deadline, j.job_id LIMIT ?2";

const LATE_THROUGH: &str = "-- how far deadlines have been looked at
UPDATE keeper SET expired_through = ?1, expired_job = ?2";

pub(super) async fn close_expired(core: &Core, limit: u32) -> Done<u64> {
    let now = core.now();
    let late = || sqlx::query(LATE).bind(now);
    if late().bind(1).fetch_optional(&core.readers).await?.is_none() {
        return Ok(0);
    }
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    let rows = late().bind(i64::from(limit)).fetch_all(&mut *tx).await?;
    let Some(last) = rows.last() else { return Ok(0) };
    let through: (i64, Uuid) = (last.get("deadline"), last.get("job_id"));
    let error = ErrorRecord::new(ErrorClass::DeadlineExceeded, "the deadline passed before a call could start");
    end_unheld(tx, rows.iter().map(job_ref).collect(), Status::Expired, &error, now).await?;
    sqlx::query(LATE_THROUGH).bind(through.0).bind(through.1).execute(&mut *tx).await?;
    work.commit().await?;
    Ok(rows.len() as u64)
}
