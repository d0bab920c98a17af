//! Dead letters: kept whole, and turned into failed rows where a job can be told.

use sqlx::postgres::{PgBindIterExt as _, PgPool};
use sqlx::{PgConnection, Row as _};

use super::super::{DeadLetter, Result};
use super::failed;
use super::keeper::{Ending, write_ends};
use super::row::text;
use crate::id::BatchId;
use crate::job::JobRef;
use crate::outcome::Status;

const DOING: &str = "keeping a dead letter";

const KEEP_LETTER: &str = "-- keep a dead letter
INSERT INTO gristmill.dead_letter (queue, reason, payload, jobs) VALUES ($1, $2, $3, $4)";

// Two workers may bury copies of one message at once; without a job row there is nothing else for the second to wait at.
const TAKE_TURNS: &str = "-- one letter of a job at a time
SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0))";

const HAS_ENDED: &str = "-- has the run ended, does somebody hold it, or is it an earlier one
SELECT CASE WHEN l.job_id IS NULL
            THEN EXISTS (SELECT 1 FROM gristmill.result WHERE job_id = $1 AND part_day = $2)
            ELSE l.state = 0 OR l.run > $3 END
FROM (SELECT 1) AS one LEFT JOIN gristmill.live l ON l.job_id = $1";

const RELEASE: &str = "-- the live row of a dead letter's job
DELETE FROM gristmill.live WHERE job_id = $1 AND state <> 0
RETURNING run, calls, (spent_usd * 1000000000000)::bigint AS spent_pico_usd";

const IS_RECORDED: &str = "-- is the job recorded
SELECT EXISTS (SELECT 1 FROM gristmill.job WHERE batch_id = $1 AND job_id = $2 AND part_day = $3)";

const HAS_BATCH: &str = "-- is there such a batch
SELECT EXISTS (SELECT 1 FROM gristmill.batch WHERE batch_id = $1)";

const ADHOC_BATCH: &str = "-- the batch of messages that name none
INSERT INTO gristmill.batch (batch_id, name, priority, day_from, day_to, total, created_at)
VALUES ($1, 'adhoc-' || $2::date, 'standard', $2, $2, 0, now())
ON CONFLICT DO NOTHING";

const COUNT_UNRECORDED: &str = "-- a job that was never recorded counts
UPDATE gristmill.batch
SET adopted = adopted + 1, total = total + 1, finished_at = NULL,
    day_from = least(day_from, $2), day_to = greatest(day_to, $2)
WHERE batch_id = $1";

pub(super) async fn bury_letter(pool: &PgPool, letter: &DeadLetter) -> Result<()> {
    let mut tx = pool.begin().await.map_err(failed(DOING))?;
    sqlx::query(KEEP_LETTER)
        .bind(text(&letter.queue))
        .bind(text(&letter.reason))
        .bind(letter.payload.as_ref())
        .bind(letter.jobs.iter().map(|job| job.id.uuid()).bind_iter())
        .execute(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    let mut jobs: Vec<&JobRef> = letter.jobs.iter().collect();
    jobs.sort_unstable_by_key(|job| (job.batch, job.id));
    jobs.dedup_by_key(|job| job.id);
    let mut ends = Vec::new();
    for job in jobs {
        ends.extend(end(&mut tx, job).await?);
    }
    if !ends.is_empty() {
        write_ends(&mut tx, &ends, Status::Failed, &letter.error).await?;
    }
    tx.commit().await.map_err(failed(DOING))
}

/// Finds out whether and under which batch the job ends here.
async fn end(tx: &mut PgConnection, job: &JobRef) -> Result<Option<Ending>> {
    let day = job.id.part_day();
    sqlx::query(TAKE_TURNS).bind(job.id.uuid()).execute(&mut *tx).await.map_err(failed(DOING))?;
    let ended: bool = sqlx::query_scalar(HAS_ENDED)
        .bind(job.id.uuid())
        .bind(day)
        .bind(super::row::int(job.run))
        .fetch_one(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    if ended {
        return Ok(None);
    }
    let released = sqlx::query(RELEASE).bind(job.id.uuid()).fetch_optional(&mut *tx).await.map_err(failed(DOING))?;
    let known: bool =
        sqlx::query_scalar(HAS_BATCH).bind(job.batch.uuid()).fetch_one(&mut *tx).await.map_err(failed(DOING))?;
    let batch = if known { job.batch } else { BatchId::adhoc(day) };
    if !known {
        let query = sqlx::query(ADHOC_BATCH).bind(batch.uuid()).bind(day);
        query.execute(&mut *tx).await.map_err(failed(DOING))?;
    }
    let query = sqlx::query_scalar(IS_RECORDED).bind(batch.uuid()).bind(job.id.uuid()).bind(day);
    let recorded: bool = query.fetch_one(&mut *tx).await.map_err(failed(DOING))?;
    if !recorded {
        let query = sqlx::query(COUNT_UNRECORDED).bind(batch.uuid()).bind(day);
        query.execute(&mut *tx).await.map_err(failed(DOING))?;
    }
    let number = |column| released.as_ref().map(|row| row.get::<i32, _>(column).unsigned_abs());
    Ok(Some(Ending {
        job: JobRef { batch, run: number("run").unwrap_or(job.run), ..job.clone() },
        calls: number("calls").unwrap_or(0),
        spent_pico_usd: released.as_ref().and_then(|row| row.get("spent_pico_usd")),
    }))
}
