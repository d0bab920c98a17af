//! Dead letters: kept whole, and turned into failed rows where a job can be told.

use sqlx::{Row as _, SqliteConnection};

use super::super::DeadLetter;
use super::end::{Ending, release, unheld, write_ends};
use super::error::Done;
use super::row::{day, json_text};
use super::{Core, batch};
use crate::id::BatchId;
use crate::job::JobRef;
use crate::outcome::Status;

const KEEP_LETTER: &str = "-- keep a dead letter
INSERT INTO dead_letter (received_at, queue, reason, payload, jobs) VALUES (?, ?, ?, ?, ?)";

const IS_RECORDED: &str = "-- is the job recorded
SELECT EXISTS (SELECT 1 FROM job WHERE batch_id = ? AND job_id = ?)";

pub(super) async fn bury(core: &Core, letter: &DeadLetter) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    let mut jobs = letter.jobs.clone();
    jobs.sort_unstable_by_key(|job| job.id);
    jobs.dedup_by_key(|job| job.id);
    let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    sqlx::query(KEEP_LETTER)
        .bind(now)
        .bind(letter.queue.clone())
        .bind(letter.reason.clone())
        .bind(letter.payload.to_vec())
        .bind(json_text(&ids, false))
        .execute(&mut *tx)
        .await?;
    let mut open = unheld(tx, &jobs).await?;
    let mut ends = Vec::new();
    for job in jobs {
        let Some(found) = open.remove(&job.id.uuid()) else { continue };
        // A late copy of an earlier run's message says nothing of the run that is current.
        if found.live && job.run < found.run {
            continue;
        }
        release(tx, &[job.id.uuid()]).await?;
        let run = if found.live { found.run } else { job.run };
        let batch = batch_of(tx, &job, now).await?;
        let job = JobRef { batch, run, ..job };
        ends.push(Ending { job, calls: found.calls, spent_pico_usd: found.spent_pico_usd });
    }
    write_ends(tx, &ends, Status::Failed, &letter.error, now).await?;
    work.commit().await
}

/// Finds the batch under which the job shows, and counts it there if no producer did.
async fn batch_of(tx: &mut SqliteConnection, job: &JobRef, now: i64) -> Done<BatchId> {
    let mut id = job.batch;
    if batch::standing(tx, id).await?.is_none() {
        id = BatchId::adhoc(job.id.part_day());
        batch::make_adhoc(tx, id, now).await?;
    }
    let query = sqlx::query(IS_RECORDED).bind(id.uuid()).bind(job.id.uuid());
    if !query.fetch_one(&mut *tx).await?.get::<bool, _>(0) {
        let day = day(job.id.unix_ms());
        batch::adopt(tx, id, 1, (day, day)).await?;
    }
    Ok(id)
}
