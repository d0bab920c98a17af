//! What readers ask: identities, errors, progress, waits.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::super::{ErrorCount, Progress, Wait};
use super::Core;
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row::{count, maybe_time, small};
use crate::id::{BatchId, JobId};
use crate::job::Identity;

const IDENTITIES: &str = "-- identities in order of id
SELECT job_id, identity FROM job WHERE batch_id = ?1 AND job_id > ?2 ORDER BY job_id LIMIT ?3";

pub(super) async fn identities(
    core: &Core,
    batch: BatchId,
    after: Option<JobId>,
    limit: u32,
) -> Done<Vec<(JobId, Identity)>> {
    let rows = sqlx::query(IDENTITIES)
        .bind(batch.uuid())
        .bind(after.map_or(Uuid::nil(), JobId::uuid))
        .bind(i64::from(limit))
        .fetch_all(&core.readers)
        .await?;
    let pair = |row: &SqliteRow| (JobId::from_uuid(row.get(0)), Identity(row.get::<Uuid, _>(1).into_bytes()));
    Ok(rows.iter().map(pair).collect())
}

const OPEN_RERUNS: &str = "-- jobs that are run again
SELECT job_id, run FROM live WHERE batch_id = ?1 AND run > 1 AND job_id > ?2 ORDER BY job_id LIMIT ?3";

pub(super) async fn open_reruns(
    core: &Core,
    batch: BatchId,
    after: Option<JobId>,
    limit: u32,
) -> Done<Vec<(JobId, u32)>> {
    let rows = sqlx::query(OPEN_RERUNS)
        .bind(batch.uuid())
        .bind(after.map_or(Uuid::nil(), JobId::uuid))
        .bind(i64::from(limit))
        .fetch_all(&core.readers)
        .await?;
    Ok(rows.iter().map(|row| (JobId::from_uuid(row.get("job_id")), small(row.get("run")))).collect())
}

static CUSTOM_IDS: Group = Group::new(
    "-- what these jobs are called
WITH wanted (batch_id, job_id) AS (VALUES ",
    2,
    ") SELECT j.custom_id FROM wanted CROSS JOIN job j ON j.batch_id = wanted.batch_id AND j.job_id = wanted.job_id",
);

pub(super) async fn custom_ids(core: &Core, batch: BatchId, jobs: &[JobId]) -> Done<Vec<String>> {
    let mut reader = core.readers.acquire().await?;
    let mut jobs = jobs.to_vec();
    jobs.sort_unstable();
    let put = |values: &mut Values, job: &JobId| {
        values.put(batch.uuid());
        values.put(job.uuid());
    };
    Ok(CUSTOM_IDS.fetch(&mut reader, &jobs, nothing, put, |row| row.get(0)).await?)
}

// The inequality is what the index on unsuccessful results asks for.
const ERRORS: &str = "-- failed results by class
SELECT coalesce(r.error_class, 'unknown') AS class, count(*) AS n, min(r.error_message) AS example
FROM result r
WHERE r.batch_id = ?1 AND r.status <> 'succeeded' AND r.status = 'failed'
  AND NOT EXISTS (SELECT 1 FROM live l WHERE l.job_id = r.job_id)
  AND NOT EXISTS (SELECT 1 FROM result n WHERE n.job_id = r.job_id AND n.run > r.run)
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ?2";

pub(super) async fn errors(core: &Core, batch: BatchId, limit: u32) -> Done<Vec<ErrorCount>> {
    let query = sqlx::query(ERRORS).bind(batch.uuid()).bind(i64::from(limit));
    let rows = query.fetch_all(&core.readers).await?;
    let read = |row: &SqliteRow| ErrorCount {
        class: row.get("class"),
        count: count(row, "n"),
        example: row.get::<Option<String>, _>("example").unwrap_or_default(),
    };
    Ok(rows.iter().map(read).collect())
}

const PROGRESS: &str = "-- live rows of a batch
SELECT model_group, count(*) FILTER (WHERE state = 0) AS held, count(*) FILTER (WHERE state = 1) AS waiting
FROM live WHERE batch_id = ? GROUP BY model_group";

pub(super) async fn progress(core: &Core, batch: BatchId) -> Done<Progress> {
    let mut progress = Progress::default();
    for row in sqlx::query(PROGRESS).bind(batch.uuid()).fetch_all(&core.readers).await? {
        progress.add(row.get("model_group"), count(&row, "held"), count(&row, "waiting"));
    }
    Ok(progress)
}

const WAITS: &str = "-- what a batch waits for
SELECT model_group, reason, count(*) AS jobs, CASE WHEN state = 1 THEN min(wake_at) END AS until
FROM live WHERE batch_id = ?1 AND state <> 0
GROUP BY model_group, state, reason ORDER BY jobs DESC, model_group, reason LIMIT ?2";

pub(super) async fn waits(core: &Core, batch: BatchId, limit: u32) -> Done<Vec<Wait>> {
    let rows = sqlx::query(WAITS).bind(batch.uuid()).bind(i64::from(limit)).fetch_all(&core.readers).await?;
    let wait = |row: &SqliteRow| Wait {
        group: row.get("model_group"),
        reason: row.get("reason"),
        jobs: count(row, "jobs"),
        until: maybe_time(row, "until"),
    };
    Ok(rows.iter().map(wait).collect())
}
