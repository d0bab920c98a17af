//! What workers say of themselves, and what others see of them.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgBindIterExt as _, PgPool, PgRow};
use uuid::Uuid;

use super::super::{DeploymentReport, Renewal, Result, WorkerInfo, WorkerRow};
use super::failed;
use super::row::{int, seconds};
use crate::id::{BatchId, OwnerId};

const REGISTER: &str = "-- a worker starts
INSERT INTO gristmill.worker (owner, host, pid, version, groups, concurrency, lease_until)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
ON CONFLICT (owner) DO UPDATE SET lease_until = EXCLUDED.lease_until";

const NAME_GROUPS: &str = "-- the model groups that are served
INSERT INTO gristmill.model_group (name, seen_at) SELECT name, now() FROM UNNEST($1::text[]) AS t (name) ORDER BY name
ON CONFLICT (name) DO UPDATE SET seen_at = now()";

pub(super) async fn register(pool: &PgPool, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
    let doing = "registering the worker";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    sqlx::query(REGISTER)
        .bind(worker.owner.uuid())
        .bind(&worker.host)
        .bind(int(worker.pid))
        .bind(&worker.version)
        .bind(&worker.groups)
        .bind(int(worker.concurrency))
        .bind(seconds(ttl))
        .execute(&mut *tx)
        .await
        .map_err(failed(doing))?;
    sqlx::query(NAME_GROUPS).bind(&worker.groups).execute(&mut *tx).await.map_err(failed(doing))?;
    tx.commit().await.map_err(failed(doing))
}

// A lease that ran out and was not declared dead lives again: nobody took anything over.
const RENEW: &str = "-- renew a worker's lease
UPDATE gristmill.worker
SET lease_until = now() + make_interval(secs => $2), renewed_at = now(), in_flight = $3
WHERE owner = $1 AND dead_at IS NULL AND left_at IS NULL";

const CANCELLED: &str = "-- cancelled batches that have not ended
SELECT batch_id FROM gristmill.batch WHERE finished_at IS NULL AND cancel_requested_at IS NOT NULL";

const REPORT: &str = "-- paused deployments of a worker
INSERT INTO gristmill.deployment (owner, deployment, model_group, paused, error_class)
SELECT $1, * FROM UNNEST($2::text[], $3::text[], $4::text[], $5::text[])
ON CONFLICT (owner, deployment) DO UPDATE SET paused = EXCLUDED.paused, error_class = EXCLUDED.error_class
WHERE gristmill.deployment.paused <> EXCLUDED.paused";

// A report that is to be looked at again is paused since before all times.
const RESUMED: &str = "-- which paused deployments are to be looked at again
UPDATE gristmill.deployment SET since = now() WHERE owner = $1 AND since = '-infinity' RETURNING deployment";

const RESUME: &str = "-- ask every worker to look again
UPDATE gristmill.deployment d SET since = '-infinity' FROM gristmill.worker w
WHERE w.owner = d.owner AND w.dead_at IS NULL AND w.left_at IS NULL
  AND ($1::text IS NULL OR $1 IN (d.deployment, d.model_group))
RETURNING d.deployment, d.model_group, d.paused, d.error_class";

// Some are enough: once their calls are answered, the deployment is open, and the others are due within a minute.
const WAKE: &str = "-- jobs that wait for a paused deployment are due
UPDATE gristmill.live SET wake_at = now(), version = version + 1
WHERE job_id IN (SELECT job_id FROM gristmill.live
                 WHERE state = 1 AND wake_at > now() AND model_group = ANY ($1)
                   AND reason LIKE 'deployment %'
                 ORDER BY wake_at LIMIT 1000 FOR UPDATE SKIP LOCKED)";

pub(super) async fn resume(pool: &PgPool, name: Option<&str>) -> Result<Vec<DeploymentReport>> {
    let doing = "asking workers to look again";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let rows = sqlx::query(RESUME).bind(name).fetch_all(&mut *tx).await.map_err(failed(doing))?;
    let mut paused: Vec<DeploymentReport> = rows.iter().map(report).collect();
    paused.sort_by(|a, b| (&a.deployment, &a.paused).cmp(&(&b.deployment, &b.paused)));
    paused.dedup();
    let groups: Vec<&str> = paused.iter().map(|report| report.group.as_str()).collect();
    sqlx::query(WAKE).bind(groups).execute(&mut *tx).await.map_err(failed(doing))?;
    tx.commit().await.map_err(failed(doing))?;
    Ok(paused)
}

const REPORT_GONE: &str = "-- deployments that work again
DELETE FROM gristmill.deployment WHERE owner = $1 AND deployment <> ALL ($2)";

pub(super) async fn renew(
    pool: &PgPool,
    owner: OwnerId,
    ttl: Duration,
    in_flight: u32,
    deployments: &[DeploymentReport],
) -> Result<Renewal> {
    let doing = "renewing the worker's lease";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let query = sqlx::query(RENEW).bind(owner.uuid()).bind(seconds(ttl)).bind(int(in_flight));
    if query.execute(&mut *tx).await.map_err(failed(doing))?.rows_affected() == 0 {
        return Ok(Renewal::Lost);
    }
    let paused: Vec<&DeploymentReport> = deployments.iter().filter(|report| report.paused.is_some()).collect();
    let names: Vec<&str> = paused.iter().map(|report| report.deployment.as_str()).collect();
    sqlx::query(REPORT_GONE).bind(owner.uuid()).bind(names.clone()).execute(&mut *tx).await.map_err(failed(doing))?;
    let mut resumed = Vec::new();
    if !paused.is_empty() {
        let query = sqlx::query_scalar(RESUMED).bind(owner.uuid());
        resumed = query.fetch_all(&mut *tx).await.map_err(failed(doing))?;
        sqlx::query(REPORT)
            .bind(owner.uuid())
            .bind(names)
            .bind(paused.iter().map(|report| report.group.as_str()).bind_iter())
            .bind(paused.iter().map(|report| report.paused.as_deref()).bind_iter())
            .bind(paused.iter().map(|report| report.class.as_deref()).bind_iter())
            .execute(&mut *tx)
            .await
            .map_err(failed(doing))?;
    }
    let cancelled: Vec<Uuid> = sqlx::query_scalar(CANCELLED).fetch_all(&mut *tx).await.map_err(failed(doing))?;
    tx.commit().await.map_err(failed(doing))?;
    Ok(Renewal::Alive { cancelled: cancelled.into_iter().map(BatchId::from_uuid).collect(), resumed })
}

const LEFT: &str = "-- a worker leaves
UPDATE gristmill.worker SET left_at = now(), in_flight = 0 WHERE owner = $1 AND dead_at IS NULL";

const LET_GO: &str = "-- what it held is due at once
UPDATE gristmill.live SET state = 1, owner = NULL, version = version + 1, wake_at = now(), reason = 'released'
WHERE owner = $1 AND state = 0";

const REPORTS_END: &str = "-- its reports end with it
DELETE FROM gristmill.deployment WHERE owner = $1";

pub(super) async fn deregister(pool: &PgPool, owner: OwnerId) -> Result<()> {
    let doing = "deregistering the worker";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    for statement in [LEFT, LET_GO, REPORTS_END] {
        sqlx::query(statement).bind(owner.uuid()).execute(&mut *tx).await.map_err(failed(doing))?;
    }
    tx.commit().await.map_err(failed(doing))
}

const WORKERS: &str = "-- workers, alive or lately dead
SELECT owner, host, pid, version, groups, concurrency, in_flight,
       dead_at IS NULL AND left_at IS NULL AND lease_until > now() AS alive
FROM gristmill.worker
WHERE dead_at IS NULL AND left_at IS NULL OR greatest(dead_at, left_at) > now() - interval '1 hour'
ORDER BY started_at";

pub(super) async fn workers(pool: &PgPool) -> Result<Vec<WorkerRow>> {
    let rows = sqlx::query(WORKERS).fetch_all(pool).await.map_err(failed("reading workers"))?;
    let worker = |row: &PgRow| WorkerRow {
        info: WorkerInfo {
            owner: OwnerId::from_uuid(row.get("owner")),
            host: row.get("host"),
            pid: row.get::<i32, _>("pid").unsigned_abs(),
            version: row.get("version"),
            groups: row.get("groups"),
            concurrency: row.get::<i32, _>("concurrency").unsigned_abs(),
        },
        alive: row.get("alive"),
        in_flight: row.get::<i32, _>("in_flight").unsigned_abs(),
    };
    Ok(rows.iter().map(worker).collect())
}

const PAUSED: &str = "-- deployments that live workers report as paused
SELECT DISTINCT d.deployment, d.model_group, d.paused, d.error_class
FROM gristmill.deployment d JOIN gristmill.worker w USING (owner)
WHERE w.dead_at IS NULL AND w.left_at IS NULL AND w.lease_until > now()
ORDER BY d.deployment";

pub(super) async fn paused_deployments(pool: &PgPool) -> Result<Vec<DeploymentReport>> {
    let rows = sqlx::query(PAUSED).fetch_all(pool).await.map_err(failed("reading paused deployments"))?;
    Ok(rows.iter().map(report).collect())
}

fn report(row: &PgRow) -> DeploymentReport {
    DeploymentReport {
        deployment: row.get("deployment"),
        group: row.get("model_group"),
        paused: row.get("paused"),
        class: row.get("error_class"),
    }
}
