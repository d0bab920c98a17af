//! Budgets: leased to workers, settled with the results, corrected by the records.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::{AlertRow, Settlement};
use super::error::Done;
use super::row::{maybe_time, small, time};
use super::{Core, later};
use crate::budget::{Alert, Budget, BudgetAsk, BudgetKey, BudgetSight, BudgetStanding, Period, Scope, Terms};
use crate::id::OwnerId;
use crate::outcome::AttemptRecord;
use crate::quota::Micros;

const READ: &str = "-- a budget
SELECT state FROM budget WHERE scope = ?1 AND name = ?2 AND period = ?3";

const WRITE: &str = "-- what is spent and leased of a budget
UPDATE budget SET state = ?4, updated_at = ?5 WHERE scope = ?1 AND name = ?2 AND period = ?3";

const ALL: &str = "-- all budgets
SELECT scope, name, period, state FROM budget ORDER BY scope, name, period";

const IS_OPEN: &str = "-- is a batch open
SELECT 1 FROM batch WHERE batch_id = ?1 AND finished_at IS NULL";

fn micros(core: &Core) -> Micros {
    core.clock.now().timestamp_micros()
}

/// Reads a row; one of a later version's scope is passed over.
fn row(row: &SqliteRow) -> Option<(BudgetKey, Budget)> {
    let scope = Scope::of(row.get("scope"), row.get("name")).ok()?;
    let period = row.get::<&str, _>("period").parse().ok()?;
    Some((BudgetKey { scope, period }, Budget::read(row.get("state"))))
}

async fn read(tx: &mut SqliteConnection, key: &BudgetKey) -> Done<Option<Budget>> {
    let query = sqlx::query_scalar(READ).bind(key.scope.kind()).bind(key.scope.name()).bind(key.period.as_str());
    let state: Option<String> = query.fetch_optional(tx).await?;
    Ok(state.map(|state| Budget::read(&state)))
}

async fn write(tx: &mut SqliteConnection, key: &BudgetKey, budget: &Budget, now: i64) -> Done<()> {
    let query = sqlx::query(WRITE).bind(key.scope.kind()).bind(key.scope.name()).bind(key.period.as_str());
    query.bind(budget.write()).bind(now).execute(tx).await?;
    Ok(())
}

/// Reads the budgets of calls that may be made.
async fn open(connection: &mut SqliteConnection) -> Done<Vec<(BudgetKey, Budget)>> {
    let rows = sqlx::query(ALL).fetch_all(&mut *connection).await?;
    let mut open = Vec::with_capacity(rows.len());
    for (key, budget) in rows.iter().filter_map(row) {
        let is_open = match &key.scope {
            Scope::Batch(batch) => {
                sqlx::query(IS_OPEN).bind(batch.uuid()).fetch_optional(&mut *connection).await?.is_some()
            }
            _ => true,
        };
        if is_open {
            open.push((key, budget));
        }
    }
    Ok(open)
}

/// Leases what a worker asks for, and says how all open budgets stand for it.
pub(super) async fn lease(core: &Core, owner: OwnerId, asks: &[BudgetAsk]) -> Done<Vec<BudgetSight>> {
    let now = micros(core);
    let mut sights: BTreeMap<BudgetKey, BudgetSight> = BTreeMap::new();
    if !asks.is_empty() {
        let mut work = core.writer.begin().await?;
        for ask in asks {
            let Some(mut budget) = read(work.tx(), &ask.key).await? else { continue };
            sights.insert(ask.key.clone(), budget.lease(now, owner, ask));
            write(work.tx(), &ask.key, &budget, core.now()).await?;
        }
        work.commit().await?;
    }
    let mut reader = core.readers.acquire().await?;
    let open = open(&mut reader).await?;
    let sight =
        |(key, budget): (BudgetKey, Budget)| sights.remove(&key).unwrap_or_else(|| budget.sight(now, owner, &key));
    Ok(open.into_iter().map(sight).collect())
}

const ALERT: &str = "-- a budget's owner is to be told
INSERT INTO alert (created_at, scope, name, period, period_start, percent, message, due_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?1)";

async fn tell(tx: &mut SqliteConnection, key: &BudgetKey, alert: Option<Alert>, now: i64) -> Done<()> {
    let Some(alert) = alert else { return Ok(()) };
    sqlx::query(ALERT)
        .bind(now)
        .bind(key.scope.kind())
        .bind(key.scope.name())
        .bind(key.period.as_str())
        .bind(alert.start / 1000)
        .bind(i64::from(alert.percent))
        .bind(alert.message)
        .execute(tx)
        .await?;
    Ok(())
}

/// Takes what calls cost off the budgets that they were promised from.
pub(super) async fn spend(tx: &mut SqliteConnection, attempts: &[(&Settlement, &AttemptRecord)], now: i64) -> Done<()> {
    for ((key, owner), (cost, unseen)) in super::super::budget::spent(attempts) {
        let Some(mut budget) = read(&mut *tx, key).await? else { continue };
        let alert = budget.spend(now * 1000, owner, key, cost, unseen);
        write(&mut *tx, key, &budget, now).await?;
        tell(&mut *tx, key, alert, now).await?;
    }
    Ok(())
}

const INSERT: &str = "-- a budget that is new
INSERT INTO budget (scope, name, period, state, updated_at) VALUES (?1, ?2, ?3, '{}', ?4) ON CONFLICT DO NOTHING";

const DELETE: &str = "-- a budget that is no more
DELETE FROM budget WHERE scope = ?1 AND name = ?2 AND period = ?3";

const LIMIT_OF_BATCH: &str = "-- a batch's budget
UPDATE batch SET budget_pico_usd = ?2 WHERE batch_id = ?1";

const SPENT_BY_BATCH: &str = "-- what a batch cost
SELECT cost_pico_usd FROM batch WHERE batch_id = ?1";

const SPENT: &str = "-- what calls cost since a time
SELECT coalesce(sum(t.cost_pico_usd), 0)
FROM tally t LEFT JOIN batch b ON b.batch_id = t.batch_id
WHERE t.span IN (1, 10, 60, 3600) AND t.at >= ?1 AND (?2 IS NULL OR coalesce(b.project, t.project) = ?2)
  AND (?3 IS NULL OR t.provider = ?3) AND (?4 IS NULL OR t.deployment = ?4)";

const SPENT_OF_BATCH: &str = "-- what calls of a batch cost since a time
SELECT coalesce(sum(cost_pico_usd), 0) FROM tally WHERE at >= ?1 AND batch_id = ?2";

async fn spent_so_far(tx: &mut SqliteConnection, key: &BudgetKey, start: Micros) -> Done<i64> {
    if let (Scope::Batch(batch), Period::Total) = (&key.scope, key.period) {
        let query = sqlx::query_scalar(SPENT_BY_BATCH).bind(batch.uuid());
        return Ok(query.fetch_optional(tx).await?.unwrap_or(0));
    }
    if let Scope::Batch(batch) = &key.scope {
        let query = sqlx::query_scalar(SPENT_OF_BATCH).bind(start / 1000).bind(batch.uuid());
        return Ok(query.fetch_one(tx).await?);
    }
    let of = |kind: &str| (key.scope.kind() == kind).then(|| key.scope.name());
    let query = sqlx::query_scalar(SPENT).bind(start / 1000).bind(of("project")).bind(of("provider"));
    Ok(query.bind(of("deployment")).fetch_one(tx).await?)
}

/// Sets a budget, or takes it away; returns whether there was one.
pub(super) async fn set(core: &Core, key: &BudgetKey, terms: Option<&Terms>, by: &str) -> Done<bool> {
    let mut work = core.writer.begin().await?;
    let (now, tx) = (micros(core), work.tx());
    if let (Scope::Batch(batch), Period::Total) = (&key.scope, key.period) {
        let limit = terms.filter(|terms| !terms.soft).map(|terms| terms.limit.0);
        sqlx::query(LIMIT_OF_BATCH).bind(batch.uuid()).bind(limit).execute(&mut *tx).await?;
    }
    let named = |query: &'static str| {
        sqlx::query(query).bind(key.scope.kind()).bind(key.scope.name()).bind(key.period.as_str())
    };
    let Some(terms) = terms else {
        let gone = named(DELETE).execute(&mut *tx).await?.rows_affected() > 0;
        work.commit().await?;
        return Ok(gone);
    };
    let made = named(INSERT).bind(now / 1000).execute(&mut *tx).await?.rows_affected() > 0;
    let mut budget = read(&mut *tx, key).await?.unwrap_or_default();
    budget.set(now, terms.clone(), by);
    if made {
        let start = budget.period_start(now, key.period);
        let spent = spent_so_far(&mut *tx, key, start).await?;
        // What was spent before is known to who sets it.
        budget.begin(now, key, spent);
    }
    write(tx, key, &budget, now / 1000).await?;
    work.commit().await?;
    Ok(!made)
}

const WAKE: &str = "-- jobs that wait for a budget are due
UPDATE live SET wake_at = ?3, version = version + 1
WHERE job_id IN (SELECT job_id FROM live
                 WHERE state = 1 AND wake_at > ?3 AND substr(reason, 1, length(?1)) = ?1 ORDER BY job_id LIMIT ?2)";

/// Makes jobs due that wait for a budget; returns how many.
pub(super) async fn wake(core: &Core, key: &BudgetKey, limit: u32) -> Done<u64> {
    let mut work = core.writer.begin().await?;
    let query = sqlx::query(WAKE).bind(super::super::budget::reason_of(key)).bind(i64::from(limit)).bind(core.now());
    let woken = query.execute(work.tx()).await?.rows_affected();
    work.commit().await?;
    Ok(woken)
}

/// Reads how all budgets stand.
pub(super) async fn standings(core: &Core) -> Done<Vec<BudgetStanding>> {
    let rows = sqlx::query(ALL).fetch_all(&core.readers).await?;
    let now = micros(core);
    Ok(rows.iter().filter_map(row).map(|(key, budget)| budget.standing(now, key)).collect())
}

/// Corrects what was spent of each open budget by the records.
pub(super) async fn correct(core: &Core, all: bool) -> Done<Vec<BudgetKey>> {
    let mut reader = core.readers.acquire().await?;
    let open = open(&mut reader).await?;
    drop(reader);
    let mut fresh = Vec::new();
    for (key, _) in open.into_iter().filter(|(_, budget)| all || budget.is_fresh(micros(core))) {
        let mut work = core.writer.begin().await?;
        let (now, tx) = (micros(core), work.tx());
        let Some(mut budget) = read(&mut *tx, &key).await? else { continue };
        let start = budget.period_start(now, key.period);
        let spent = spent_so_far(&mut *tx, &key, start).await?;
        let alert = budget.correct(now, &key, spent);
        write(&mut *tx, &key, &budget, core.now()).await?;
        tell(tx, &key, alert, core.now()).await?;
        work.commit().await?;
        if budget.is_fresh(now) && budget.has_left() {
            fresh.push(key);
        }
    }
    Ok(fresh)
}

const ALERTS: &str = "-- alerts, the newest first; those that are to be told, the oldest
SELECT id, created_at, scope, name, period, percent, message, tries, due_at, told_at, trouble
FROM alert WHERE NOT ?2 OR due_at <= ?3 ORDER BY CASE WHEN ?2 THEN id ELSE -id END LIMIT ?1";

/// Reads alerts, the newest first; or those alone that are to be told now, the oldest first.
pub(super) async fn alerts(core: &Core, due: bool, limit: u32) -> Done<Vec<AlertRow>> {
    let query = sqlx::query(ALERTS).bind(i64::from(limit)).bind(due).bind(core.now());
    let rows = query.fetch_all(&core.readers).await?;
    let alert = |row: &SqliteRow| AlertRow {
        id: row.get("id"),
        created_at: time(row.get("created_at")),
        scope: row.get("scope"),
        name: row.get("name"),
        period: row.get("period"),
        percent: u16::try_from(row.get::<i64, _>("percent")).unwrap_or(0),
        message: row.get("message"),
        tries: small(row.get("tries")),
        is_due: row.get::<Option<i64>, _>("due_at").is_some(),
        told_at: maybe_time(row, "told_at"),
        trouble: row.get("trouble"),
    };
    Ok(rows.iter().map(alert).collect())
}

const TOLD: &str = "-- how telling an alert ended
UPDATE alert SET tries = tries + 1, told_at = CASE WHEN ?2 IS NULL THEN ?4 END, trouble = ?2, due_at = ?3 WHERE id = ?1";

/// Says how telling an alert ended, and when it is tried again, if it is.
pub(super) async fn told(core: &Core, id: i64, trouble: Option<&str>, again: Option<std::time::Duration>) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let query = sqlx::query(TOLD).bind(id).bind(trouble.map(str::to_owned)).bind(again.map(|after| later(now, after)));
    query.bind(now).execute(work.tx()).await?;
    work.commit().await
}

const OPEN_WITH_BATCH: &str = "-- the budget of a new batch
INSERT INTO budget (scope, name, period, state, updated_at) VALUES ('batch', ?1, 'total', ?2, ?3) ON CONFLICT DO NOTHING";

/// Makes the budget of a batch that is opened with a limit.
pub(super) async fn open_with_batch(tx: &mut SqliteConnection, batch: Uuid, limit: i64, now: i64) -> Done<()> {
    let mut budget = Budget::default();
    budget.set(now * 1000, Terms { limit: crate::price::PicoUsd(limit), ..Terms::default() }, "submit");
    sqlx::query(OPEN_WITH_BATCH).bind(batch.to_string()).bind(budget.write()).bind(now).execute(tx).await?;
    Ok(())
}
