//! Prices that costs were computed from, and costs that are computed anew.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::super::{CallKey, Correction, CostedCall, KeptPrice, LostCalls, UsageScope};
use super::error::Done;
use super::row::{maybe_small, small, time};
use super::{Core, tally};
use crate::id::{BatchId, JobId, OwnerId};
use crate::outcome::{CostBasis, Usage};
use crate::tally::Tallies;

const KEEP_PRICE: &str = "-- a price that costs were computed from
INSERT INTO price (price_ref, price, seen_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

pub(super) async fn keep_prices(core: &Core, prices: &[KeptPrice]) -> Done<()> {
    let mut work = core.writer.begin().await?;
    for price in prices {
        let query = sqlx::query(KEEP_PRICE).bind(price.reference.to_string()).bind(price.row.to_string());
        query.bind(core.now()).execute(work.tx()).await?;
    }
    work.commit().await
}

const KEPT_PRICES: &str = "-- prices that costs were computed from
SELECT price_ref, price FROM price ORDER BY price_ref";

pub(super) async fn kept_prices(core: &Core) -> Done<Vec<KeptPrice>> {
    let rows = sqlx::query(KEPT_PRICES).fetch_all(&core.readers).await?;
    let price =
        |row: &SqliteRow| KeptPrice { reference: row.get::<&str, _>(0).into(), row: row.get::<&str, _>(1).into() };
    Ok(rows.iter().map(price).collect())
}

// Who was taken for dead and came back may have written its calls after all.
const LOST: &str = "-- calls that dead owners may have been making
SELECT count(*) AS workers, coalesce(sum(runs), 0) AS runs, coalesce(sum(min(runs, most)), 0) AS most,
       coalesce(sum(bound), 0) AS bound, coalesce(sum(min(without, most)), 0) AS without_bound
FROM (SELECT count(*) AS runs, max(most) AS most, sum(bound) FILTER (WHERE place <= most) AS bound,
             count(*) FILTER (WHERE bound IS NULL) AS without
FROM (SELECT owner, most, bound, row_number() OVER (PARTITION BY owner ORDER BY bound DESC NULLS LAST) AS place
      FROM (SELECT c.owner, c.most, coalesce(c.bound_pico_usd, max(c.bound_pico_usd) OVER (PARTITION BY c.model_group)) AS bound
            FROM lost_call c LEFT JOIN batch b ON b.batch_id = c.batch_id
            WHERE (?1 IS NULL OR c.batch_id = ?1) AND (?2 IS NULL OR b.project = ?2)
              AND (?3 IS NULL OR c.died_at >= ?3) AND (?4 IS NULL OR c.died_at < ?4)
              AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.job_id = c.job_id AND a.run = c.run
                                                        AND a.attempt = c.attempt AND a.owner = c.owner)))
GROUP BY owner)";

pub(super) async fn lost_calls(core: &Core, scope: &UsageScope) -> Done<LostCalls> {
    let query = sqlx::query(LOST).bind(scope.batch.map(BatchId::uuid)).bind(scope.project.clone());
    let millis = |time: Option<DateTime<Utc>>| time.map(|time| time.timestamp_millis());
    let row = query.bind(millis(scope.since)).bind(millis(scope.until)).fetch_one(&core.readers).await?;
    let count = |column| row.get::<i64, _>(column).unsigned_abs();
    Ok(LostCalls {
        workers: count("workers"),
        runs: count("runs"),
        most: count("most"),
        bound_pico_usd: row.get("bound"),
        without_bound: count("without_bound"),
    })
}

const COSTED: &str = "-- calls of which it is known what they used
SELECT job_id, run, attempt, owner, batch_id, model_group, provider, deployment, model, served_model, service_tier, started_at,
       input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage AS billed, cost_pico_usd,
       cost_basis, price_ref,
       (SELECT j.service_tier FROM job j WHERE j.batch_id = a.batch_id AND j.job_id = a.job_id) AS requested_tier
FROM attempt a
WHERE (job_id, run, attempt, owner) > (?1, ?2, ?3, ?4)
  AND (input_tokens IS NOT NULL OR output_tokens IS NOT NULL OR usage IS NOT NULL)
  AND (?5 IS NULL OR batch_id = ?5)
ORDER BY job_id, run, attempt, owner LIMIT ?6";

pub(super) async fn costed_calls(
    core: &Core,
    batch: Option<BatchId>,
    after: Option<CallKey>,
    limit: u32,
) -> Done<Vec<CostedCall>> {
    let rows = sqlx::query(COSTED)
        .bind(after.map_or(Uuid::nil(), |key| key.job.uuid()))
        .bind(after.map_or(0, |key| i64::from(key.run)))
        .bind(after.map_or(0, |key| i64::from(key.attempt)))
        .bind(after.map_or(Uuid::nil(), |key| key.owner.uuid()))
        .bind(batch.map(BatchId::uuid))
        .bind(i64::from(limit))
        .fetch_all(&core.readers)
        .await?;
    Ok(rows.iter().map(costed).collect())
}

fn costed(row: &SqliteRow) -> CostedCall {
    let name = |column| Arc::from(row.get::<&str, _>(column));
    CostedCall {
        key: CallKey {
            job: JobId::from_uuid(row.get("job_id")),
            run: small(row.get("run")),
            attempt: small(row.get("attempt")),
            owner: OwnerId::from_uuid(row.get("owner")),
        },
        batch: BatchId::from_uuid(row.get("batch_id")),
        group: name("model_group"),
        provider: name("provider"),
        deployment: name("deployment"),
        model: name("model"),
        served_model: row.get("served_model"),
        requested_tier: row.get("requested_tier"),
        service_tier: row.get("service_tier"),
        started_at: time(row.get("started_at")),
        usage: Usage {
            input_tokens: maybe_small(row, "input_tokens"),
            cached_input_tokens: maybe_small(row, "cached_input_tokens"),
            cache_write_tokens: maybe_small(row, "cache_write_tokens"),
            output_tokens: maybe_small(row, "output_tokens"),
            reasoning_tokens: maybe_small(row, "reasoning_tokens"),
        },
        billed: row.get("billed"),
        cost_pico_usd: row.get("cost_pico_usd"),
        cost_basis: CostBasis::parse_lenient(row.get("cost_basis")),
        price_ref: row.get::<Option<&str>, _>("price_ref").map(Into::into),
    }
}

const CORRECT: &str = "-- the new cost of a call
UPDATE attempt SET cost_pico_usd = ?6, price_ref = ?7,
                   cost_basis = CASE cost_basis WHEN 'estimated' THEN 'estimated' ELSE 'reported' END
WHERE job_id = ?1 AND run = ?2 AND attempt = ?3 AND owner = ?4 AND cost_pico_usd IS ?5";

const KEEP_OLD: &str = "-- the cost that a call had
INSERT INTO cost_change (changed_at, job_id, run, attempt, owner, batch_id, old_pico_usd, new_pico_usd, old_price, new_price)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

const CORRECT_RESULT: &str = "-- the new cost of a run
UPDATE result SET cost_pico_usd = coalesce(cost_pico_usd, 0) + ?3 WHERE job_id = ?1 AND run = ?2";

const CORRECT_LIVE: &str = "-- the new cost of a run that has not ended
UPDATE live SET spent_pico_usd = coalesce(spent_pico_usd, 0) + ?3 WHERE job_id = ?1 AND run = ?2";

const CORRECT_BATCH: &str = "-- the new cost of a batch
UPDATE batch SET cost_pico_usd = cost_pico_usd + ?2 WHERE batch_id = ?1";

pub(super) async fn correct(core: &Core, corrections: &[Correction]) -> Done<u64> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    let (mut changed, mut tallies) = (0, Tallies::default());
    for correction in corrections {
        let CostedCall { key, batch, cost_pico_usd, price_ref, .. } = &correction.call;
        let (job, run, attempt, owner) = (key.job.uuid(), i64::from(key.run), i64::from(key.attempt), key.owner.uuid());
        let new_price = correction.price_ref.to_string();
        let query = sqlx::query(CORRECT).bind(job).bind(run).bind(attempt).bind(owner).bind(*cost_pico_usd);
        let query = query.bind(correction.cost_pico_usd).bind(new_price.clone());
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            continue;
        }
        changed += 1;
        let query = sqlx::query(KEEP_OLD).bind(now).bind(job).bind(run).bind(attempt).bind(owner).bind(batch.uuid());
        let query = query.bind(*cost_pico_usd).bind(correction.cost_pico_usd);
        query.bind(price_ref.as_deref().map(str::to_owned)).bind(new_price).execute(&mut *tx).await?;
        let difference = correction.difference();
        for statement in [CORRECT_RESULT, CORRECT_LIVE] {
            sqlx::query(statement).bind(job).bind(run).bind(difference).execute(&mut *tx).await?;
        }
        sqlx::query(CORRECT_BATCH).bind(batch.uuid()).bind(difference).execute(&mut *tx).await?;
        let (key, sums) = correction.sums();
        tallies.add(key, &sums);
    }
    tally::write(tx, &tallies).await?;
    work.commit().await?;
    Ok(changed)
}
