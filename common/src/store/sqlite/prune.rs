//! Deleting what is old, in bounded steps. The file keeps its size; what is freed is used again.

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::super::{Forgotten, STRIPPED_BODY, Stripped};
use super::batch::ENDED_BEFORE;
use super::error::Done;
use super::{Core, row};
use crate::batch::Batch;
use crate::id::{BatchId, JobId};

pub(super) async fn ended_before(core: &Core, before: DateTime<Utc>, limit: u32) -> Done<Vec<Batch>> {
    let query = sqlx::query(ENDED_BEFORE).bind(before.timestamp_millis()).bind(i64::from(limit));
    let now = core.now();
    Ok(query.fetch_all(&core.readers).await?.iter().map(|found: &SqliteRow| row::batch(found, now)).collect())
}

const ENDED: &str = "-- is the batch ended
SELECT 1 FROM batch WHERE batch_id = ?1 AND finished_at IS NOT NULL";

const FORGET_ATTEMPTS: &str = "-- delete the calls of a batch's first requests
DELETE FROM attempt
WHERE job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 ORDER BY job_id LIMIT ?2)";

const FORGET_ANSWERS: &str = "-- whose answers others find no more
DELETE FROM response_cache
WHERE run IS NOT NULL AND job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 ORDER BY job_id LIMIT ?2)";

const FORGET_RESULTS: &str = "-- delete the results of a batch's first requests
DELETE FROM result
WHERE job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 ORDER BY job_id LIMIT ?2)";

const FORGET_REQUESTS: &str = "-- delete a batch's first requests
DELETE FROM job
WHERE batch_id = ?1 AND job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 ORDER BY job_id LIMIT ?2)";

const FORGET_STRANGERS: &str = "-- delete results of jobs that nobody recorded
DELETE FROM result WHERE batch_id = ?1";

const KEEP_PROJECT: &str = "-- what a batch cost stays, under its project
UPDATE tally SET project = coalesce((SELECT project FROM batch WHERE batch_id = ?1), '') WHERE batch_id = ?1";

const FORGET_BUDGET: &str = "-- delete a batch's budgets
DELETE FROM budget WHERE scope = 'batch' AND name = ?1";

const FORGET_CHANGES: &str = "-- delete what became of a batch's costs
DELETE FROM cost_change WHERE batch_id = ?1";

const FORGET_LOST: &str = "-- delete what may have been called of a batch
DELETE FROM lost_call WHERE batch_id = ?1";

const FORGET_BATCH: &str = "-- delete a batch of which nothing is left
DELETE FROM batch WHERE batch_id = ?1";

pub(super) async fn forget(core: &Core, batch: BatchId, limit: u32) -> Done<Forgotten> {
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    if sqlx::query(ENDED).bind(batch.uuid()).fetch_optional(&mut *tx).await?.is_none() {
        return Ok(Forgotten::default());
    }
    let query = sqlx::query(FORGET_ANSWERS).bind(batch.uuid()).bind(i64::from(limit));
    query.execute(&mut *tx).await?;
    let mut counts = [0; 3];
    for (count, statement) in counts.iter_mut().zip([FORGET_ATTEMPTS, FORGET_RESULTS, FORGET_REQUESTS]) {
        let query = sqlx::query(statement).bind(batch.uuid()).bind(i64::from(limit));
        *count = query.execute(&mut *tx).await?.rows_affected();
    }
    let [attempts, results, requests] = counts;
    let mut forgotten = Forgotten { requests, results, attempts, more: requests >= u64::from(limit) };
    if !forgotten.more {
        forgotten.results += sqlx::query(FORGET_STRANGERS).bind(batch.uuid()).execute(&mut *tx).await?.rows_affected();
        sqlx::query(KEEP_PROJECT).bind(batch.uuid()).execute(&mut *tx).await?;
        sqlx::query(FORGET_BUDGET).bind(batch.to_string()).execute(&mut *tx).await?;
        sqlx::query(FORGET_CHANGES).bind(batch.uuid()).execute(&mut *tx).await?;
        sqlx::query(FORGET_LOST).bind(batch.uuid()).execute(&mut *tx).await?;
        sqlx::query(FORGET_BATCH).bind(batch.uuid()).execute(&mut *tx).await?;
    }
    work.commit().await?;
    Ok(forgotten)
}

const STRIPPED_ALREADY: &str = "-- is the batch's last body empty
SELECT body FROM job WHERE batch_id = ?1 ORDER BY job_id DESC LIMIT 1";

const NEXT: &str = "-- a batch's next requests
SELECT job_id FROM job WHERE batch_id = ?1 AND job_id > ?2 ORDER BY job_id LIMIT ?3";

const STRIP_REQUESTS: &str = "-- empty the bodies of requests
UPDATE job SET body = ?4 WHERE batch_id = ?1 AND job_id > ?2 AND job_id <= ?3 AND body <> ?4";

// By the key, one job after the other; a range of them would not be one of the key.
const STRIP_RESULTS: &str = "-- empty the answers to requests
UPDATE result SET response = NULL, output_text = NULL, error = json_remove(error, '$.body')
WHERE job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 AND job_id > ?2 AND job_id <= ?3)
  AND (response IS NOT NULL OR output_text IS NOT NULL OR json_extract(error, '$.body') IS NOT NULL)";

const STRIP_ANSWERS: &str = "-- whose answers others find no more
DELETE FROM response_cache
WHERE run IS NOT NULL AND job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 AND job_id > ?2 AND job_id <= ?3)";

const STRIP_ATTEMPTS: &str = "-- empty the bodies of errors of calls
UPDATE attempt SET error = json_remove(error, '$.body')
WHERE job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 AND job_id > ?2 AND job_id <= ?3)
  AND json_extract(error, '$.body') IS NOT NULL";

const STRIP_STRANGERS: &str = "-- empty the answers to jobs that nobody recorded
UPDATE result SET response = NULL, output_text = NULL, error = json_remove(error, '$.body')
WHERE batch_id = ?1 AND (response IS NOT NULL OR output_text IS NOT NULL OR json_extract(error, '$.body') IS NOT NULL)";

pub(super) async fn strip(core: &Core, batch: BatchId, after: Option<JobId>, limit: u32) -> Done<Stripped> {
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    if sqlx::query(ENDED).bind(batch.uuid()).fetch_optional(&mut *tx).await?.is_none() {
        return Ok(Stripped::default());
    }
    if after.is_none() {
        let last: Option<String> =
            sqlx::query_scalar(STRIPPED_ALREADY).bind(batch.uuid()).fetch_optional(&mut *tx).await?;
        if last.as_deref() == Some(STRIPPED_BODY) {
            return Ok(Stripped::default());
        }
    }
    let from = after.map_or_else(uuid::Uuid::nil, |job| job.uuid());
    let query = sqlx::query(NEXT).bind(batch.uuid()).bind(from).bind(i64::from(limit));
    let jobs = query.fetch_all(&mut *tx).await?;
    let mut stripped = Stripped::default();
    if let Some(last) = jobs.last() {
        let to: uuid::Uuid = last.get("job_id");
        sqlx::query(STRIP_ANSWERS).bind(batch.uuid()).bind(from).bind(to).execute(&mut *tx).await?;
        let mut counts = [0; 3];
        for (count, statement) in counts.iter_mut().zip([STRIP_ATTEMPTS, STRIP_RESULTS, STRIP_REQUESTS]) {
            let mut query = sqlx::query(statement).bind(batch.uuid()).bind(from).bind(to);
            if statement == STRIP_REQUESTS {
                query = query.bind(STRIPPED_BODY);
            }
            *count = query.execute(&mut *tx).await?.rows_affected();
        }
        [stripped.attempts, stripped.results, stripped.requests] = counts;
        stripped.next = (jobs.len() >= limit as usize).then(|| JobId::from_uuid(to));
    }
    if stripped.next.is_none() {
        stripped.results += sqlx::query(STRIP_STRANGERS).bind(batch.uuid()).execute(&mut *tx).await?.rows_affected();
    }
    work.commit().await?;
    Ok(stripped)
}

const FORGET_SUMS: &str = "-- delete the sums of a project's batches that are gone
DELETE FROM tally WHERE project = ?1 AND batch_id NOT IN (SELECT batch_id FROM batch)";

const FORGET_CACHED: &str = "-- delete a project's cached answers
DELETE FROM response_cache WHERE project = ?1";

pub(super) async fn forget_project(core: &Core, project: &str) -> Done<u64> {
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    let mut rows = sqlx::query(FORGET_SUMS).bind(project).execute(&mut *tx).await?.rows_affected();
    rows += sqlx::query(FORGET_CACHED).bind(project).execute(&mut *tx).await?.rows_affected();
    work.commit().await?;
    Ok(rows)
}
