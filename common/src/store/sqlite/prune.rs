//! Deleting what is old, in bounded steps. The file keeps its size; what is freed is used again.

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;

use super::super::Forgotten;
use super::batch::ENDED_BEFORE;
use super::error::Done;
use super::{Core, row};
use crate::batch::Batch;
use crate::id::BatchId;

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

const FORGET_RESULTS: &str = "-- delete the results of a batch's first requests
DELETE FROM result
WHERE job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 ORDER BY job_id LIMIT ?2)";

const FORGET_REQUESTS: &str = "-- delete a batch's first requests
DELETE FROM job
WHERE batch_id = ?1 AND job_id IN (SELECT job_id FROM job WHERE batch_id = ?1 ORDER BY job_id LIMIT ?2)";

const FORGET_STRANGERS: &str = "-- delete results of jobs that nobody recorded
DELETE FROM result WHERE batch_id = ?1";

const FORGET_BATCH: &str = "-- delete a batch of which nothing is left
DELETE FROM batch WHERE batch_id = ?1";

pub(super) async fn forget(core: &Core, batch: BatchId, limit: u32) -> Done<Forgotten> {
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    if sqlx::query(ENDED).bind(batch.uuid()).fetch_optional(&mut *tx).await?.is_none() {
        return Ok(Forgotten::default());
    }
    let mut counts = [0; 3];
    for (count, statement) in counts.iter_mut().zip([FORGET_ATTEMPTS, FORGET_RESULTS, FORGET_REQUESTS]) {
        let query = sqlx::query(statement).bind(batch.uuid()).bind(i64::from(limit));
        *count = query.execute(&mut *tx).await?.rows_affected();
    }
    let [attempts, results, requests] = counts;
    let mut forgotten = Forgotten { requests, results, attempts, more: requests >= u64::from(limit) };
    if !forgotten.more {
        forgotten.results += sqlx::query(FORGET_STRANGERS).bind(batch.uuid()).execute(&mut *tx).await?.rows_affected();
        sqlx::query(FORGET_BATCH).bind(batch.uuid()).execute(&mut *tx).await?;
    }
    work.commit().await?;
    Ok(forgotten)
}
