//! What workers say of themselves, and what others see of them.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::{DeploymentReport, Renewal, WorkerInfo, WorkerRow};
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row::{json, json_text, small};
use super::{Core, later};
use crate::id::{BatchId, OwnerId};

const REGISTER: &str = "-- a worker starts
INSERT INTO worker (owner, host, pid, version, groups, concurrency, started_at, renewed_at, lease_until)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, ?8)
ON CONFLICT (owner) DO UPDATE SET lease_until = excluded.lease_until";

static NAME_GROUPS: Group = Group::new(
    "-- the model groups that are served
INSERT INTO model_group (name, seen_at) VALUES ",
    2,
    " ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at",
);

pub(super) async fn register(core: &Core, worker: &WorkerInfo, ttl: Duration) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    sqlx::query(REGISTER)
        .bind(worker.owner.uuid())
        .bind(worker.host.clone())
        .bind(i64::from(worker.pid))
        .bind(worker.version.clone())
        .bind(json_text(&worker.groups, false))
        .bind(i64::from(worker.concurrency))
        .bind(now)
        .bind(later(now, ttl))
        .execute(&mut *tx)
        .await?;
    let put = |values: &mut Values, name: &String| {
        values.text(name.as_str());
        values.put(now);
    };
    NAME_GROUPS.execute(tx, &worker.groups, nothing, put).await?;
    work.commit().await
}

// A lease that ran out and was not declared dead lives again: nobody took anything over.
const RENEW: &str = "-- renew a worker's lease
UPDATE worker SET lease_until = ?2, renewed_at = ?3, in_flight = ?4
WHERE owner = ?1 AND dead_at IS NULL AND left_at IS NULL";

const CANCELLED: &str = "-- cancelled batches that have not ended
SELECT batch_id FROM batch WHERE finished_at IS NULL AND cancel_requested_at IS NOT NULL";

const REPORTED: &str = "-- what a worker reported as paused
SELECT deployment, paused FROM deployment WHERE owner = ?";

const REPORTS_END: &str = "-- its reports end
DELETE FROM deployment WHERE owner = ?";

static REPORT: Group = Group::new(
    "-- paused deployments of a worker
INSERT INTO deployment (owner, deployment, model_group, paused, error_class, since) VALUES ",
    6,
    " ON CONFLICT DO NOTHING",
);

// A report that is to be looked at again is paused since before all times.
const RESUMED: &str = "-- which paused deployments are to be looked at again
UPDATE deployment SET since = ?2 WHERE owner = ?1 AND since = 0 RETURNING deployment";

const RESUME: &str = "-- ask every worker to look again
UPDATE deployment SET since = 0
WHERE owner IN (SELECT owner FROM worker WHERE dead_at IS NULL AND left_at IS NULL)
  AND (?1 IS NULL OR ?1 IN (deployment, model_group))
RETURNING deployment, model_group, paused, error_class";

// Some are enough: once their calls are answered, the deployment is open, and the others are due within a minute.
const WAKE: &str = "-- jobs that wait for a paused deployment are due
UPDATE live SET wake_at = ?1, version = version + 1
WHERE job_id IN (SELECT job_id FROM live
                 WHERE state = 1 AND wake_at > ?1 AND model_group = ?2
                   AND reason LIKE 'deployment %'
                 ORDER BY wake_at LIMIT 1000)";

pub(super) async fn resume(core: &Core, name: Option<&str>) -> Done<Vec<DeploymentReport>> {
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    let rows = sqlx::query(RESUME).bind(name.map(str::to_owned)).fetch_all(&mut *tx).await?;
    let mut paused: Vec<DeploymentReport> = rows.iter().map(paused_report).collect();
    paused.sort_by(|a, b| (&a.deployment, &a.paused).cmp(&(&b.deployment, &b.paused)));
    paused.dedup();
    for report in &paused {
        sqlx::query(WAKE).bind(core.now()).bind(report.group.clone()).execute(&mut *tx).await?;
    }
    work.commit().await?;
    Ok(paused)
}

pub(super) async fn renew(
    core: &Core,
    owner: OwnerId,
    ttl: Duration,
    in_flight: u32,
    deployments: &[DeploymentReport],
) -> Done<Renewal> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    let query = sqlx::query(RENEW).bind(owner.uuid()).bind(later(now, ttl)).bind(now).bind(i64::from(in_flight));
    if query.execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(Renewal::Lost);
    }
    let mut resumed = Vec::new();
    if deployments.iter().any(|report| report.paused.is_some()) {
        resumed = sqlx::query_scalar(RESUMED).bind(owner.uuid()).bind(now).fetch_all(&mut *tx).await?;
    }
    report(tx, owner, deployments, now).await?;
    let cancelled: Vec<Uuid> = sqlx::query_scalar(CANCELLED).fetch_all(&mut *tx).await?;
    work.commit().await?;
    Ok(Renewal::Alive { cancelled: cancelled.into_iter().map(BatchId::from_uuid).collect(), resumed })
}

/// Replaces a worker's reports if they changed.
async fn report(tx: &mut SqliteConnection, owner: OwnerId, deployments: &[DeploymentReport], now: i64) -> Done<()> {
    let paused: Vec<(&DeploymentReport, &String)> =
        deployments.iter().filter_map(|report| Some((report, report.paused.as_ref()?))).collect();
    let rows: Vec<(String, String)> = sqlx::query_as(REPORTED).bind(owner.uuid()).fetch_all(&mut *tx).await?;
    let before: BTreeMap<&str, &str> = rows.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let after: BTreeMap<&str, &str> =
        paused.iter().map(|(report, text)| (report.deployment.as_str(), text.as_str())).collect();
    if before == after {
        return Ok(());
    }
    sqlx::query(REPORTS_END).bind(owner.uuid()).execute(&mut *tx).await?;
    let put = |values: &mut Values, (report, text): &(&DeploymentReport, &String)| {
        values.put(owner.uuid());
        values.text(report.deployment.as_str());
        values.text(report.group.as_str());
        values.text(text.as_str());
        values.maybe_text(report.class.as_deref());
        values.put(now);
    };
    REPORT.execute(tx, &paused, nothing, put).await?;
    Ok(())
}

const LEAVE: &str = "-- a worker leaves
UPDATE worker SET left_at = ?2, in_flight = 0 WHERE owner = ?1 AND dead_at IS NULL AND left_at IS NULL";

const LET_GO: &str = "-- what it held is due at once
UPDATE live SET state = 1, owner = NULL, version = version + 1, wake_at = ?2, reason = 'released'
WHERE owner = ?1 AND state = 0";

pub(super) async fn deregister(core: &Core, owner: OwnerId) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    if sqlx::query(LEAVE).bind(owner.uuid()).bind(now).execute(&mut *tx).await?.rows_affected() == 1 {
        sqlx::query(LET_GO).bind(owner.uuid()).bind(now).execute(&mut *tx).await?;
        sqlx::query(REPORTS_END).bind(owner.uuid()).execute(&mut *tx).await?;
    }
    work.commit().await
}

const WORKERS: &str = "-- workers, alive or lately gone
SELECT owner, host, pid, version, groups, concurrency, in_flight,
       dead_at IS NULL AND left_at IS NULL AND lease_until > ?1 AS alive
FROM worker
WHERE (dead_at IS NULL AND left_at IS NULL) OR coalesce(dead_at, left_at) > ?1 - 3600000
ORDER BY started_at, owner";

pub(super) async fn workers(core: &Core) -> Done<Vec<WorkerRow>> {
    let rows = sqlx::query(WORKERS).bind(core.now()).fetch_all(&core.readers).await?;
    let worker = |row: &SqliteRow| WorkerRow {
        info: WorkerInfo {
            owner: OwnerId::from_uuid(row.get("owner")),
            host: row.get("host"),
            pid: small(row.get("pid")),
            version: row.get("version"),
            groups: json(row.get("groups")).unwrap_or_default(),
            concurrency: small(row.get("concurrency")),
        },
        alive: row.get("alive"),
        in_flight: small(row.get("in_flight")),
    };
    Ok(rows.iter().map(worker).collect())
}

const PAUSED: &str = "-- deployments that live workers report as paused
SELECT DISTINCT d.deployment, d.model_group, d.paused, d.error_class
FROM deployment d JOIN worker w ON w.owner = d.owner
WHERE w.dead_at IS NULL AND w.left_at IS NULL AND w.lease_until > ?
ORDER BY d.deployment";

pub(super) async fn paused_deployments(core: &Core) -> Done<Vec<DeploymentReport>> {
    let rows = sqlx::query(PAUSED).bind(core.now()).fetch_all(&core.readers).await?;
    Ok(rows.iter().map(paused_report).collect())
}

fn paused_report(row: &SqliteRow) -> DeploymentReport {
    DeploymentReport {
        deployment: row.get("deployment"),
        group: row.get("model_group"),
        paused: row.get("paused"),
        class: row.get("error_class"),
    }
}
