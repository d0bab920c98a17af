//! Batches: opened, found, sealed, cancelled.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::super::cache::Standing;
use super::super::{BatchSelector, Error, Opened, Sealed};
use super::error::Done;
use super::row::{self, day, json_text};
use super::{Core, budget, later};
use crate::batch::{Batch, NewBatch};
use crate::id::{BatchId, OwnerId};

macro_rules! select_batch {
    ($name:literal, $rest:literal) => {
        concat!(
            "-- ",
            $name,
            "
SELECT batch_id, name, project, priority, simulated, recorded, published_through, total, producer, producer_lease,
       succeeded, failed, cancelled, expired, calls, input_tokens, output_tokens, cost_pico_usd, saved_pico_usd, created_at, finished_at,
       cancel_requested_at
FROM batch ",
            $rest
        )
    };
}

const BY_ID: &str = select_batch!("batch by id", "WHERE batch_id = ?");
const BY_NAME: &str = select_batch!("batch by name", "WHERE name = ?");
const LAST: &str = select_batch!("the batch opened last", "ORDER BY created_at DESC, batch_id DESC LIMIT 1");
const BY_PREFIX: &str =
    select_batch!("batch by the beginning of its id", "WHERE substr(lower(hex(batch_id)), 1, length(?1)) = ?1 LIMIT 2");
pub(super) const ENDED_BEFORE: &str =
    select_batch!("batches that ended before a time", "WHERE finished_at < ?1 ORDER BY finished_at, batch_id LIMIT ?2");
const NEWEST: &str = select_batch!("batches, newest first", "ORDER BY created_at DESC, batch_id DESC LIMIT ?");

const CREATE: &str = "-- create a batch
INSERT INTO batch (batch_id, name, project, priority, simulated, metadata, tags, budget_pico_usd, day_from, day_to,
                   producer, producer_lease, created_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10, ?11, ?12)
ON CONFLICT (name) DO NOTHING";

const TAKE: &str = "-- take up a batch whose producer is gone
UPDATE batch SET producer = ?2, producer_lease = ?3
WHERE name = ?1 AND (producer IS NULL OR producer = ?2 OR producer_lease <= ?4)";

pub(super) async fn open(core: &Core, new: &NewBatch, ttl: Duration) -> Done<Opened> {
    let now = core.now();
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    let created = sqlx::query(CREATE)
        .bind(new.id.uuid())
        .bind(new.name.clone())
        .bind(new.project.clone())
        .bind(new.priority.as_str())
        .bind(new.simulated)
        .bind(json_text(&new.metadata, new.metadata.is_none()))
        .bind(json_text(&new.tags, new.tags.is_empty()))
        .bind(new.budget_pico_usd)
        .bind(day(new.id.unix_ms()))
        .bind(new.producer.uuid())
        .bind(later(now, ttl))
        .bind(new.created_at.timestamp_millis())
        .execute(&mut *tx)
        .await?
        .rows_affected()
        == 1;
    if let Some(limit) = new.budget_pico_usd.filter(|_| created) {
        budget::open_with_batch(&mut *tx, new.id.uuid(), limit, now).await?;
    }
    let taken = created
        || sqlx::query(TAKE)
            .bind(new.name.clone())
            .bind(new.producer.uuid())
            .bind(later(now, ttl))
            .bind(now)
            .execute(&mut *tx)
            .await?
            .rows_affected()
            == 1;
    let batch = row::batch(&sqlx::query(BY_NAME).bind(new.name.clone()).fetch_one(&mut *tx).await?, now);
    if batch.simulated != new.simulated {
        let (is, asked) = if batch.simulated { ("simulated", "real") } else { ("real", "simulated") };
        let text = format!(
            "batch `{}` holds {is} answers and cannot take {asked} ones; give the new one another --name",
            new.name
        );
        return Err(Error::Conflict(text).into());
    }
    work.commit().await?;
    Ok(match (created, taken) {
        (true, _) => Opened::Created(batch),
        (false, true) => Opened::Resumed(batch),
        (false, false) => Opened::Busy(batch),
    })
}

pub(super) async fn find(core: &Core, selector: &BatchSelector) -> Done<Option<Batch>> {
    let query = match selector {
        BatchSelector::Id(id) => sqlx::query(BY_ID).bind(id.uuid()),
        BatchSelector::Name(name) => sqlx::query(BY_NAME).bind(name.clone()),
        BatchSelector::Last => sqlx::query(LAST),
        BatchSelector::IdPrefix(prefix) => {
            let digits = prefix.replace('-', "").to_lowercase();
            if digits.len() < 4 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Ok(None);
            }
            sqlx::query(BY_PREFIX).bind(digits)
        }
    };
    let rows = query.fetch_all(&core.readers).await?;
    if rows.len() > 1 {
        return Err(Error::Conflict("more than one batch id begins so; give more digits".to_owned()).into());
    }
    Ok(rows.first().map(|found| row::batch(found, core.now())))
}

pub(super) async fn list(core: &Core, limit: u32) -> Done<Vec<Batch>> {
    let rows = sqlx::query(NEWEST).bind(i64::from(limit)).fetch_all(&core.readers).await?;
    Ok(rows.iter().map(|found| row::batch(found, core.now())).collect())
}

const MARK_PUBLISHED: &str = "-- everything below is confirmed
UPDATE batch SET published_through = max(published_through, ?2) WHERE batch_id = ?1";

pub(super) async fn mark_published(core: &Core, batch: BatchId, through: u64) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let through = i64::try_from(through).unwrap_or(i64::MAX);
    sqlx::query(MARK_PUBLISHED).bind(batch.uuid()).bind(through).execute(work.tx()).await?;
    work.commit().await
}

const SEAL: &str = "-- the last job is recorded and published
UPDATE batch
SET total = recorded + adopted, published_through = recorded, producer = NULL, producer_lease = NULL,
    finished_at = CASE WHEN succeeded + failed + cancelled + expired >= recorded + adopted
                       THEN coalesce(finished_at, ?3) END
WHERE batch_id = ?1 AND producer = ?2";

// Recording more takes the total away: one that is there covers all that this producer recorded.
const IS_SEALED: &str = "-- is the total known
SELECT total IS NOT NULL FROM batch WHERE batch_id = ?";

pub(super) async fn seal(core: &Core, batch: BatchId, producer: OwnerId) -> Done<Sealed> {
    let mut work = core.writer.begin().await?;
    sqlx::query(SEAL).bind(batch.uuid()).bind(producer.uuid()).bind(core.now()).execute(work.tx()).await?;
    let sealed = sqlx::query_scalar(IS_SEALED).bind(batch.uuid()).fetch_optional(work.tx()).await?.unwrap_or(false);
    work.commit().await?;
    Ok(if sealed { Sealed::Committed } else { Sealed::LostProducer })
}

const LEAVE: &str = "-- the producer goes, the batch stays open
UPDATE batch SET producer = NULL, producer_lease = NULL WHERE batch_id = ?1 AND producer = ?2";

pub(super) async fn leave(core: &Core, batch: BatchId, producer: OwnerId) -> Done<()> {
    let mut work = core.writer.begin().await?;
    sqlx::query(LEAVE).bind(batch.uuid()).bind(producer.uuid()).execute(work.tx()).await?;
    work.commit().await
}

const RENEW_PRODUCER: &str = "-- the producer is alive
UPDATE batch SET producer_lease = ?3 WHERE batch_id = ?1 AND producer = ?2";

pub(super) async fn renew_producer(core: &Core, batch: BatchId, producer: OwnerId, ttl: Duration) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let until = later(core.now(), ttl);
    sqlx::query(RENEW_PRODUCER).bind(batch.uuid()).bind(producer.uuid()).bind(until).execute(work.tx()).await?;
    work.commit().await
}

const CANCEL: &str = "-- ask to cancel
UPDATE batch
SET cancel_requested_at = coalesce(cancel_requested_at, ?2), total = coalesce(total, recorded + adopted),
    finished_at = CASE WHEN succeeded + failed + cancelled + expired >= coalesce(total, recorded + adopted) THEN ?2 END
WHERE batch_id = ?1 AND finished_at IS NULL";

pub(super) async fn cancel(core: &Core, batch: BatchId) -> Done<bool> {
    let mut work = core.writer.begin().await?;
    let done = sqlx::query(CANCEL).bind(batch.uuid()).bind(core.now()).execute(work.tx()).await?;
    work.commit().await?;
    Ok(done.rows_affected() == 1)
}

const ADHOC: &str = "-- the batch of messages that name none
INSERT INTO batch (batch_id, name, priority, day_from, day_to, total, created_at)
VALUES (?1, ?2, 'standard', ?3, ?3, 0, ?4)
ON CONFLICT DO NOTHING";

/// Makes the day's batch of messages that name none.
pub(super) async fn make_adhoc(tx: &mut SqliteConnection, batch: BatchId, now: i64) -> Done<()> {
    let name = format!("adhoc-{}", batch.part_day());
    let query = sqlx::query(ADHOC).bind(batch.uuid()).bind(name).bind(day(batch.unix_ms())).bind(now);
    query.execute(tx).await?;
    Ok(())
}

const ADOPT: &str = "-- jobs that no producer recorded count
UPDATE batch
SET adopted = adopted + ?2, total = total + ?2, finished_at = NULL,
    day_from = min(day_from, ?3), day_to = max(day_to, ?4)
WHERE batch_id = ?1";

/// Counts jobs into a batch that no producer recorded there.
pub(super) async fn adopt(tx: &mut SqliteConnection, batch: BatchId, count: i64, days: (i64, i64)) -> Done<()> {
    sqlx::query(ADOPT).bind(batch.uuid()).bind(count).bind(days.0).bind(days.1).execute(tx).await?;
    Ok(())
}

const HOW_IT_STANDS: &str = "-- how a batch stands for admission
SELECT cancel_requested_at IS NOT NULL, project, simulated, budget_pico_usd IS NOT NULL FROM batch WHERE batch_id = ?";

/// Reads how a batch stands; nothing if there is none.
pub(super) async fn standing(tx: &mut SqliteConnection, batch: BatchId) -> Done<Option<Standing>> {
    let row = sqlx::query(HOW_IT_STANDS).bind(batch.uuid()).fetch_optional(tx).await?;
    let standing = |row: SqliteRow| Standing {
        cancelled: row.get(0),
        project: row.get(1),
        simulated: row.get(2),
        has_budget: row.get(3),
    };
    Ok(row.map(standing))
}
