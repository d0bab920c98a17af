//! Budgets: leased to workers, settled with the results, corrected by the records.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use sqlx::postgres::{PgBindIterExt as _, PgPool, PgRow};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::{AlertRow, Result, Settlement};
use super::failed;
use super::row::text;
use crate::budget::{Alert, Budget, BudgetAsk, BudgetKey, BudgetSight, BudgetStanding, Scope, Terms};
use crate::id::OwnerId;
use crate::outcome::AttemptRecord;
use crate::quota::Micros;

const LEASING: &str = "leasing budgets";
const SETTING: &str = "setting a budget";

// In order of key, as everybody locks them.
const LOCK: &str = "-- budgets, locked
SELECT b.scope, b.name, b.period, b.state, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
FROM gristmill.budget b
JOIN UNNEST($1::text[], $2::text[], $3::text[]) AS t (scope, name, period)
  ON b.scope = t.scope AND b.name = t.name AND b.period = t.period
ORDER BY b.scope, b.name, b.period FOR UPDATE OF b";

const WRITE: &str = "-- what is spent and leased of budgets
UPDATE gristmill.budget b SET state = t.state, updated_at = now()
FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[]) AS t (scope, name, period, state)
WHERE b.scope = t.scope AND b.name = t.name AND b.period = t.period";

const OPEN: &str = "-- budgets of calls that may be made
SELECT b.scope, b.name, b.period, b.state, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
FROM gristmill.budget b
WHERE CASE WHEN b.scope = 'batch'
           THEN EXISTS (SELECT FROM gristmill.batch t WHERE t.batch_id = b.name::uuid AND t.finished_at IS NULL)
           ELSE true END
ORDER BY b.scope, b.name, b.period";

const ALL: &str = "-- all budgets
SELECT scope, name, period, state, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
FROM gristmill.budget ORDER BY scope, name, period";

/// A budget as it was read.
struct Row {
    key: BudgetKey,
    budget: Budget,
    now: Micros,
}

/// Reads a row; one of a later version's scope is passed over.
fn read(row: &PgRow) -> Option<Row> {
    let scope = Scope::of(row.get("scope"), row.get("name")).ok()?;
    let period = row.get::<&str, _>("period").parse().ok()?;
    Some(Row { key: BudgetKey { scope, period }, budget: Budget::read(row.get("state")), now: row.get("now") })
}

async fn lock(tx: &mut PgConnection, keys: &[&BudgetKey], doing: &'static str) -> Result<Vec<Row>> {
    let rows = sqlx::query(LOCK)
        .bind(keys.iter().map(|key| key.scope.kind()).bind_iter())
        .bind(keys.iter().map(|key| key.scope.name()).bind_iter())
        .bind(keys.iter().map(|key| key.period.as_str()).bind_iter())
        .fetch_all(tx)
        .await
        .map_err(failed(doing))?;
    Ok(rows.iter().filter_map(read).collect())
}

async fn write(tx: &mut PgConnection, rows: &[Row], doing: &'static str) -> Result<()> {
    sqlx::query(WRITE)
        .bind(rows.iter().map(|row| row.key.scope.kind()).bind_iter())
        .bind(rows.iter().map(|row| row.key.scope.name()).bind_iter())
        .bind(rows.iter().map(|row| row.key.period.as_str()).bind_iter())
        .bind(rows.iter().map(|row| row.budget.write()).bind_iter())
        .execute(tx)
        .await
        .map_err(failed(doing))?;
    Ok(())
}

/// Leases what a worker asks for, and says how all open budgets stand for it.
pub(super) async fn lease(pool: &PgPool, owner: OwnerId, asks: &[BudgetAsk]) -> Result<Vec<BudgetSight>> {
    let mut sights: BTreeMap<BudgetKey, BudgetSight> = BTreeMap::new();
    if !asks.is_empty() {
        let mut tx = pool.begin().await.map_err(failed(LEASING))?;
        let keys: Vec<&BudgetKey> = asks.iter().map(|ask| &ask.key).collect();
        let mut rows = lock(&mut tx, &keys, LEASING).await?;
        for row in &mut rows {
            if let Some(ask) = asks.iter().find(|ask| ask.key == row.key) {
                sights.insert(row.key.clone(), row.budget.lease(row.now, owner, ask));
            }
        }
        write(&mut tx, &rows, LEASING).await?;
        tx.commit().await.map_err(failed(LEASING))?;
    }
    let rows = sqlx::query(OPEN).fetch_all(pool).await.map_err(failed(LEASING))?;
    let open: Vec<Row> = rows.iter().filter_map(read).collect();
    let sight = |row: Row| sights.remove(&row.key).unwrap_or_else(|| row.budget.sight(row.now, owner, &row.key));
    Ok(open.into_iter().map(sight).collect())
}

const ALERT: &str = "-- a budget's owner is to be told
INSERT INTO gristmill.alert (scope, name, period, period_start, percent, message, due_at)
VALUES ($1, $2, $3, $4, $5, $6, now())";

async fn tell(tx: &mut PgConnection, key: &BudgetKey, alert: Option<Alert>) -> Result<()> {
    let Some(alert) = alert else { return Ok(()) };
    sqlx::query(ALERT)
        .bind(key.scope.kind())
        .bind(key.scope.name())
        .bind(key.period.as_str())
        .bind(DateTime::from_timestamp_micros(alert.start).unwrap_or_default())
        .bind(i32::from(alert.percent))
        .bind(text(&alert.message))
        .execute(tx)
        .await
        .map_err(failed("keeping an alert"))?;
    Ok(())
}

/// Takes what calls cost off the budgets that they were promised from; the last that a flush locks.
pub(super) async fn spend(tx: &mut PgConnection, attempts: &[(&Settlement, &AttemptRecord)]) -> Result<()> {
    let spent = super::super::budget::spent(attempts);
    if spent.is_empty() {
        return Ok(());
    }
    let keys: Vec<&BudgetKey> = spent.keys().map(|(key, _)| *key).collect::<BTreeSet<_>>().into_iter().collect();
    let mut rows = lock(tx, &keys, "settling budgets").await?;
    let mut alerts = Vec::new();
    for row in &mut rows {
        for ((_, owner), (cost, unseen)) in spent.iter().filter(|((key, _), _)| **key == row.key) {
            alerts.push((row.key.clone(), row.budget.spend(row.now, *owner, &row.key, *cost, *unseen)));
        }
    }
    write(tx, &rows, "settling budgets").await?;
    for (key, alert) in alerts {
        tell(tx, &key, alert).await?;
    }
    Ok(())
}

const INSERT: &str = "-- a budget that is new
INSERT INTO gristmill.budget (scope, name, period, state) VALUES ($1, $2, $3, '{}') ON CONFLICT DO NOTHING";

const DELETE: &str = "-- a budget that is no more
DELETE FROM gristmill.budget WHERE scope = $1 AND name = $2 AND period = $3";

const LIMIT_OF_BATCH: &str = "-- a batch's budget
UPDATE gristmill.batch SET budget_usd = $2::numeric / 1000000000000 WHERE batch_id = $1";

const SPENT_BY_BATCH: &str = "-- what a batch cost
SELECT (cost_usd * 1000000000000)::bigint FROM gristmill.batch WHERE batch_id = $1";

const SPENT: &str = "-- what calls cost since a time
SELECT (coalesce(sum(t.cost_usd), 0) * 1000000000000)::bigint
FROM gristmill.tally t LEFT JOIN gristmill.batch b USING (batch_id)
WHERE t.span IN (1, 10, 60, 3600) AND t.at >= $1
  AND ($2::text IS NULL OR coalesce(b.project, t.project) = $2) AND ($3::text IS NULL OR t.provider = $3)
  AND ($4::text IS NULL OR t.deployment = $4)";

async fn spent_so_far(tx: &mut PgConnection, row: &mut Row) -> Result<i64> {
    let doing = "adding up what was spent";
    let start = row.budget.period_start(row.now, row.key.period);
    if let (Scope::Batch(batch), crate::budget::Period::Total) = (&row.key.scope, row.key.period) {
        let query = sqlx::query_scalar(SPENT_BY_BATCH).bind(batch.uuid());
        return Ok(query.fetch_optional(tx).await.map_err(failed(doing))?.unwrap_or(0));
    }
    let of = |kind: &str| (row.key.scope.kind() == kind).then(|| row.key.scope.name());
    let query = sqlx::query_scalar(if let Scope::Batch(_) = row.key.scope { SPENT_OF_BATCH } else { SPENT })
        .bind(DateTime::from_timestamp_micros(start).unwrap_or_default());
    let query = match &row.key.scope {
        Scope::Batch(batch) => query.bind(batch.uuid()),
        _ => query.bind(of("project")).bind(of("provider")).bind(of("deployment")),
    };
    query.fetch_one(tx).await.map_err(failed(doing))
}

const SPENT_OF_BATCH: &str = "-- what calls of a batch cost since a time
SELECT (coalesce(sum(cost_usd), 0) * 1000000000000)::bigint FROM gristmill.tally WHERE at >= $1 AND batch_id = $2";

/// Sets a budget, or takes it away; returns whether there was one.
pub(super) async fn set(pool: &PgPool, key: &BudgetKey, terms: Option<&Terms>, by: &str) -> Result<bool> {
    let mut tx = pool.begin().await.map_err(failed(SETTING))?;
    if let Scope::Batch(batch) = &key.scope
        && key.period == crate::budget::Period::Total
    {
        let limit = terms.filter(|terms| !terms.soft).map(|terms| terms.limit.0);
        let query = sqlx::query(LIMIT_OF_BATCH).bind(batch.uuid()).bind(limit);
        query.execute(&mut *tx).await.map_err(failed(SETTING))?;
    }
    let named = |query: &'static str| {
        sqlx::query(query).bind(key.scope.kind()).bind(key.scope.name()).bind(key.period.as_str())
    };
    let Some(terms) = terms else {
        let done = named(DELETE).execute(&mut *tx).await.map_err(failed(SETTING))?;
        tx.commit().await.map_err(failed(SETTING))?;
        return Ok(done.rows_affected() > 0);
    };
    let made = named(INSERT).execute(&mut *tx).await.map_err(failed(SETTING))?.rows_affected() > 0;
    let mut rows = lock(&mut tx, &[key], SETTING).await?;
    for row in &mut rows {
        row.budget.set(row.now, terms.clone(), by);
        if made {
            let spent = spent_so_far(&mut tx, row).await?;
            // What was spent before is known to who sets it.
            row.budget.begin(row.now, &row.key, spent);
        }
    }
    write(&mut tx, &rows, SETTING).await?;
    tx.commit().await.map_err(failed(SETTING))?;
    Ok(!made)
}

const WAKE: &str = "-- jobs that wait for a budget are due
UPDATE gristmill.live SET wake_at = now(), version = version + 1
WHERE job_id IN (SELECT job_id FROM gristmill.live
                 WHERE state = 1 AND wake_at > now() AND starts_with(reason, $1) ORDER BY job_id LIMIT $2 FOR UPDATE)";

/// Makes jobs due that wait for a budget; returns how many.
pub(super) async fn wake(pool: &PgPool, key: &BudgetKey, limit: u32) -> Result<u64> {
    let reason = super::super::budget::reason_of(key);
    let query = sqlx::query(WAKE).bind(reason).bind(i64::from(limit));
    Ok(query.execute(pool).await.map_err(failed("waking jobs that wait for a budget"))?.rows_affected())
}

/// Reads how all budgets stand.
pub(super) async fn standings(pool: &PgPool) -> Result<Vec<BudgetStanding>> {
    let rows = sqlx::query(ALL).fetch_all(pool).await.map_err(failed("reading budgets"))?;
    Ok(rows.iter().filter_map(read).map(|row| row.budget.standing(row.now, row.key)).collect())
}

/// Corrects what was spent of each open budget by the records.
pub(super) async fn correct(pool: &PgPool, all: bool) -> Result<Vec<BudgetKey>> {
    let doing = "correcting budgets";
    let rows = sqlx::query(OPEN).fetch_all(pool).await.map_err(failed(doing))?;
    let mut fresh = Vec::new();
    for open in rows.iter().filter_map(read).filter(|row| all || row.budget.is_fresh(row.now)) {
        let mut tx = pool.begin().await.map_err(failed(doing))?;
        let mut locked = lock(&mut tx, &[&open.key], doing).await?;
        for row in &mut locked {
            let spent = spent_so_far(&mut tx, row).await?;
            let alert = row.budget.correct(row.now, &row.key, spent);
            if row.budget.is_fresh(row.now) && row.budget.has_left() {
                fresh.push(row.key.clone());
            }
            tell(&mut tx, &row.key, alert).await?;
        }
        write(&mut tx, &locked, doing).await?;
        tx.commit().await.map_err(failed(doing))?;
    }
    Ok(fresh)
}

const ALERTS: &str = "-- alerts, the newest first; those that are to be told, the oldest
SELECT id, created_at, scope, name, period, percent, message, tries, due_at, told_at, trouble
FROM gristmill.alert WHERE NOT $2 OR due_at <= now() ORDER BY CASE WHEN $2 THEN id ELSE -id END LIMIT $1";

/// Reads alerts, the newest first; or those alone that are to be told now, the oldest first.
pub(super) async fn alerts(pool: &PgPool, due: bool, limit: u32) -> Result<Vec<AlertRow>> {
    let query = sqlx::query(ALERTS).bind(i64::from(limit)).bind(due);
    let rows = query.fetch_all(pool).await.map_err(failed("reading alerts"))?;
    let alert = |row: &PgRow| AlertRow {
        id: row.get("id"),
        created_at: row.get("created_at"),
        scope: row.get("scope"),
        name: row.get("name"),
        period: row.get("period"),
        percent: u16::try_from(row.get::<i32, _>("percent")).unwrap_or(0),
        message: row.get("message"),
        tries: row.get::<i32, _>("tries").unsigned_abs(),
        is_due: row.get::<Option<DateTime<chrono::Utc>>, _>("due_at").is_some(),
        told_at: row.get("told_at"),
        trouble: row.get("trouble"),
    };
    Ok(rows.iter().map(alert).collect())
}

const TOLD: &str = "-- how telling an alert ended
UPDATE gristmill.alert
SET tries = tries + 1, told_at = CASE WHEN $2::text IS NULL THEN now() END, trouble = $2,
    due_at = now() + make_interval(secs => $3)
WHERE id = $1";

/// Says how telling an alert ended, and when it is tried again, if it is.
pub(super) async fn told(
    pool: &PgPool,
    id: i64,
    trouble: Option<&str>,
    again: Option<std::time::Duration>,
) -> Result<()> {
    let query = sqlx::query(TOLD).bind(id).bind(trouble.map(text)).bind(again.map(super::row::seconds));
    query.execute(pool).await.map_err(failed("keeping how an alert was told"))?;
    Ok(())
}

/// Makes the budget of a batch that is opened with a limit.
pub(super) async fn open_with_batch(tx: &mut PgConnection, batch: Uuid, limit: i64, now: Micros) -> Result<()> {
    let mut budget = Budget::default();
    budget.set(now, Terms { limit: crate::price::PicoUsd(limit), ..Terms::default() }, "submit");
    sqlx::query(OPEN_WITH_BATCH)
        .bind(batch.to_string())
        .bind(budget.write())
        .execute(tx)
        .await
        .map_err(failed("opening a batch's budget"))?;
    Ok(())
}

const OPEN_WITH_BATCH: &str = "-- the budget of a new batch
INSERT INTO gristmill.budget (scope, name, period, state) VALUES ('batch', $1, 'total', $2) ON CONFLICT DO NOTHING";
