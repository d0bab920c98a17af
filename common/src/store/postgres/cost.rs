//! Prices that costs were computed from, and costs that are computed anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::postgres::{PgBindIterExt as _, PgPool, PgRow};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::{CallKey, Correction, CostedCall, KeptPrice, LostCalls, Result, UsageScope};
use super::flush::{Delta, count};
use super::row::{self, int, small};
use super::{failed, tally};
use crate::id::{BatchId, JobId, OwnerId, PartDay};
use crate::outcome::{CostBasis, Usage};
use crate::tally::{Key, Sums, Tallies};

const KEEP_PRICES: &str = "-- prices that costs were computed from
INSERT INTO gristmill.price (price_ref, price)
SELECT t.price_ref, t.price::json FROM UNNEST($1::text[], $2::text[]) AS t (price_ref, price)
ORDER BY t.price_ref ON CONFLICT DO NOTHING";

pub(super) async fn keep_prices(pool: &PgPool, prices: &[KeptPrice]) -> Result<()> {
    sqlx::query(KEEP_PRICES)
        .bind(prices.iter().map(|price| &*price.reference).bind_iter())
        .bind(prices.iter().map(|price| &*price.row).bind_iter())
        .execute(pool)
        .await
        .map_err(failed("keeping prices"))?;
    Ok(())
}

const KEPT_PRICES: &str = "-- prices that costs were computed from
SELECT price_ref, price::text AS price FROM gristmill.price ORDER BY price_ref";

pub(super) async fn kept_prices(pool: &PgPool) -> Result<Vec<KeptPrice>> {
    let rows = sqlx::query(KEPT_PRICES).fetch_all(pool).await.map_err(failed("reading prices"))?;
    let price = |row: &PgRow| KeptPrice {
        reference: row.get::<&str, _>("price_ref").into(),
        row: row.get::<&str, _>("price").into(),
    };
    Ok(rows.iter().map(price).collect())
}

// Who was taken for dead and came back may have written its calls after all.
const LOST: &str = "-- calls that dead owners may have been making
SELECT count(*) AS workers, coalesce(sum(runs), 0)::bigint AS runs, coalesce(sum(least(runs, most)), 0)::bigint AS most,
       coalesce(sum(bound), 0)::bigint AS bound, coalesce(sum(least(without, most)), 0)::bigint AS without_bound
FROM (SELECT count(*) AS runs, max(most) AS most, sum(bound) FILTER (WHERE place <= most) AS bound,
             count(*) FILTER (WHERE bound IS NULL) AS without
FROM (SELECT owner, most, bound, row_number() OVER (PARTITION BY owner ORDER BY bound DESC NULLS LAST) AS place
      FROM (SELECT c.owner, c.most,
                   coalesce(c.bound_usd, max(c.bound_usd) OVER (PARTITION BY c.model_group)) * 1000000000000 AS bound
            FROM gristmill.lost_call c LEFT JOIN gristmill.batch b USING (batch_id)
            WHERE ($1::uuid IS NULL OR c.batch_id = $1) AND ($2::text IS NULL OR b.project = $2)
              AND ($3::timestamptz IS NULL OR c.died_at >= $3) AND ($4::timestamptz IS NULL OR c.died_at < $4)
              AND NOT EXISTS (SELECT FROM gristmill.attempt a WHERE a.job_id = c.job_id AND a.run = c.run
                                                                AND a.attempt = c.attempt AND a.owner = c.owner)) bounded
     ) placed GROUP BY owner) owners";

pub(super) async fn lost_calls(pool: &PgPool, scope: &UsageScope) -> Result<LostCalls> {
    let query = sqlx::query(LOST).bind(scope.batch.map(BatchId::uuid)).bind(scope.project.clone());
    let query = query.bind(scope.since).bind(scope.until);
    let row = query.fetch_one(pool).await.map_err(failed("reading calls that were lost"))?;
    Ok(LostCalls {
        workers: row::count(&row, "workers"),
        runs: row::count(&row, "runs"),
        most: row::count(&row, "most"),
        bound_pico_usd: row.get("bound"),
        without_bound: row::count(&row, "without_bound"),
    })
}

const COSTED: &str = "-- calls of which it is known what they used
SELECT job_id, run, attempt, owner, batch_id, model_group, provider, deployment, model, served_model, service_tier, started_at,
       input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage::text AS billed,
       (cost_usd * 1000000000000)::bigint AS cost_pico_usd, cost_basis, price_ref,
       (SELECT j.service_tier FROM gristmill.job j
        WHERE j.batch_id = a.batch_id AND j.job_id = a.job_id AND j.part_day = a.part_day) AS requested_tier
FROM gristmill.attempt a
WHERE (job_id, run, attempt, owner) > ($1, $2, $3, $4)
  AND (input_tokens IS NOT NULL OR output_tokens IS NOT NULL OR usage IS NOT NULL)
  AND ($5::uuid IS NULL OR batch_id = $5)
  AND part_day BETWEEN coalesce((SELECT day_from FROM gristmill.batch WHERE batch_id = $5), '-infinity')
                   AND coalesce((SELECT day_to FROM gristmill.batch WHERE batch_id = $5), 'infinity')
ORDER BY job_id, run, attempt, owner LIMIT $6";

pub(super) async fn costed_calls(
    pool: &PgPool,
    batch: Option<BatchId>,
    after: Option<CallKey>,
    limit: u32,
) -> Result<Vec<CostedCall>> {
    let rows = sqlx::query(COSTED)
        .bind(after.map_or(Uuid::nil(), |key| key.job.uuid()))
        .bind(after.map_or(0, |key| int(key.run)))
        .bind(after.map_or(0, |key| int(key.attempt)))
        .bind(after.map_or(Uuid::nil(), |key| key.owner.uuid()))
        .bind(batch.map(BatchId::uuid))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(failed("reading costs"))?;
    Ok(rows.iter().map(costed).collect())
}

fn costed(row: &PgRow) -> CostedCall {
    let name = |column| Arc::from(row.get::<&str, _>(column));
    CostedCall {
        key: CallKey {
            job: JobId::from_uuid(row.get("job_id")),
            run: row.get::<i32, _>("run").unsigned_abs(),
            attempt: row.get::<i32, _>("attempt").unsigned_abs(),
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
        started_at: row.get("started_at"),
        usage: Usage {
            input_tokens: small(row, "input_tokens"),
            cached_input_tokens: small(row, "cached_input_tokens"),
            cache_write_tokens: small(row, "cache_write_tokens"),
            output_tokens: small(row, "output_tokens"),
            reasoning_tokens: small(row, "reasoning_tokens"),
        },
        billed: row.get("billed"),
        cost_pico_usd: row.get("cost_pico_usd"),
        cost_basis: CostBasis::parse_lenient(row.get("cost_basis")),
        price_ref: row.get::<Option<&str>, _>("price_ref").map(Into::into),
    }
}

// The rows are locked in the order in which a flush writes them: attempts, results, then batches.
const CORRECT: &str = "-- new costs of calls
WITH changed AS (
    UPDATE gristmill.attempt a
    SET cost_usd = t.new_pico::numeric / 1000000000000, price_ref = t.new_price,
        cost_basis = CASE cost_basis WHEN 'estimated' THEN 'estimated' ELSE 'reported' END
    FROM (SELECT * FROM UNNEST($1::uuid[], $2::integer[], $3::integer[], $4::uuid[], $5::date[], $6::bigint[], $7::bigint[],
                               $8::text[], $9::text[])
               AS t (job_id, run, attempt, owner, part_day, old_pico, new_pico, old_price, new_price)
          ORDER BY job_id, run, attempt, owner) t
    WHERE a.job_id = t.job_id AND a.run = t.run AND a.attempt = t.attempt AND a.owner = t.owner AND a.part_day = t.part_day
      AND a.cost_usd IS NOT DISTINCT FROM t.old_pico::numeric / 1000000000000
    RETURNING a.job_id, a.run, a.attempt, a.owner, a.batch_id, t.old_pico, t.new_pico, t.old_price, t.new_price
), kept AS (
    INSERT INTO gristmill.cost_change (job_id, run, attempt, owner, batch_id, old_usd, new_usd, old_price, new_price)
    SELECT job_id, run, attempt, owner, batch_id, old_pico::numeric / 1000000000000, new_pico::numeric / 1000000000000,
           old_price, new_price
    FROM changed
)
SELECT job_id, run, attempt, owner FROM changed";

const CORRECT_RESULTS: &str = "-- new costs of runs
UPDATE gristmill.result r SET cost_usd = coalesce(r.cost_usd, 0) + t.pico::numeric / 1000000000000
FROM UNNEST($1::uuid[], $2::integer[], $3::date[], $4::bigint[]) AS t (job_id, run, part_day, pico)
WHERE r.job_id = t.job_id AND r.run = t.run AND r.part_day = t.part_day";

const CORRECT_LIVE: &str = "-- new costs of runs that have not ended
UPDATE gristmill.live l SET spent_usd = coalesce(l.spent_usd, 0) + t.pico::numeric / 1000000000000
FROM UNNEST($1::uuid[], $2::integer[], $3::bigint[]) AS t (job_id, run, pico)
WHERE l.job_id = t.job_id AND l.run = t.run";

pub(super) async fn correct(pool: &PgPool, corrections: &[Correction]) -> Result<u64> {
    let doing = "correcting costs";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let changed = write(&mut tx, corrections).await?;
    let changed: Vec<&Correction> =
        corrections.iter().filter(|correction| changed.contains(&correction.call.key)).collect();
    let (mut deltas, mut tallies) = (BTreeMap::<Uuid, Delta>::new(), Tallies::default());
    let mut runs: BTreeMap<(Uuid, i32, PartDay), i64> = BTreeMap::new();
    for correction in &changed {
        let call = &correction.call;
        let pico = correction.difference();
        deltas.entry(call.batch.uuid()).or_default().cost_pico += pico;
        *runs.entry((call.key.job.uuid(), int(call.key.run), call.key.job.part_day())).or_default() += pico;
        let (key, sums): (Key, Sums) = correction.sums();
        tallies.add(key, &sums);
    }
    sqlx::query(CORRECT_LIVE)
        .bind(runs.keys().map(|key| key.0).bind_iter())
        .bind(runs.keys().map(|key| key.1).bind_iter())
        .bind(runs.values().copied().bind_iter())
        .execute(&mut *tx)
        .await
        .map_err(failed(doing))?;
    sqlx::query(CORRECT_RESULTS)
        .bind(runs.keys().map(|key| key.0).bind_iter())
        .bind(runs.keys().map(|key| key.1).bind_iter())
        .bind(runs.keys().map(|key| key.2).bind_iter())
        .bind(runs.values().copied().bind_iter())
        .execute(&mut *tx)
        .await
        .map_err(failed(doing))?;
    count(&mut tx, &deltas).await?;
    tally::write(&mut tx, &tallies).await?;
    tx.commit().await.map_err(failed(doing))?;
    Ok(changed.len() as u64)
}

/// Writes the new costs where the old ones still stand; returns the calls.
async fn write(tx: &mut PgConnection, corrections: &[Correction]) -> Result<std::collections::HashSet<CallKey>> {
    let keys = || corrections.iter().map(|correction| correction.call.key);
    let rows = sqlx::query(CORRECT)
        .bind(keys().map(|key| key.job.uuid()).bind_iter())
        .bind(keys().map(|key| int(key.run)).bind_iter())
        .bind(keys().map(|key| int(key.attempt)).bind_iter())
        .bind(keys().map(|key| key.owner.uuid()).bind_iter())
        .bind(keys().map(|key| key.job.part_day()).bind_iter())
        .bind(corrections.iter().map(|correction| correction.call.cost_pico_usd).bind_iter())
        .bind(corrections.iter().map(|correction| correction.cost_pico_usd).bind_iter())
        .bind(corrections.iter().map(|correction| correction.call.price_ref.as_deref()).bind_iter())
        .bind(corrections.iter().map(|correction| &*correction.price_ref).bind_iter())
        .fetch_all(tx)
        .await
        .map_err(failed("correcting costs"))?;
    let key = |row: &PgRow| CallKey {
        job: JobId::from_uuid(row.get("job_id")),
        run: row.get::<i32, _>("run").unsigned_abs(),
        attempt: row.get::<i32, _>("attempt").unsigned_abs(),
        owner: OwnerId::from_uuid(row.get("owner")),
    };
    Ok(rows.iter().map(key).collect())
}
