//! Admission: the live row decides what an arrival is worth.
//!
//! One short transaction. First each arrival's live row is inserted or taken, in order of key; then, with a new snapshot, the
//! rows that were inserted fresh are checked against results. In this order no duplicate slips through: whoever ended the
//! job deleted its live row and wrote its result in one commit, so an insert that found no live row sees that result.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgBindIterExt as _, PgPool, PgRow};
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::cache::{Ask, Standing, Standings, Told};
use super::super::{Arrival, Caching, Error, Request, Result, Ticket, Verdict};
use super::row::{int, text};
use super::submit::json_text;
use super::{cache, failed};
use crate::cache::CacheRules;
use crate::id::{BatchId, JobId, OwnerId, PartDay};
use crate::job::{CachePolicy, Identity, JobOptions, JobRef};

const DOING: &str = "admitting jobs";

const TAKE: &str = "-- take live rows
INSERT INTO gristmill.live AS l (job_id, batch_id, model_group, priority, lane, run, state, owner)
SELECT t.job_id, t.batch_id, t.model_group, t.priority, t.lane, t.run, 0, $7
FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::integer[])
     AS t (job_id, batch_id, model_group, priority, lane, run)
ORDER BY t.job_id
ON CONFLICT (job_id) DO UPDATE
SET state = 0, owner = EXCLUDED.owner, version = l.version + 1, wake_at = NULL, reason = NULL,
    waits_for = CASE WHEN l.waits_for = l.job_id THEN l.waits_for END
WHERE l.state = 2 OR (l.state = 1 AND l.wake_at <= now()) OR (l.state = 0 AND l.owner = EXCLUDED.owner)
RETURNING job_id, run, calls, attempts, faults, deaths, earlier, queued_at, xmax::text = '0' AS fresh, now() AS now,
          (spent_usd * 1000000000000)::bigint AS spent_pico_usd, waits_for IS NULL AS patient";

const ENDED: &str = "-- which of these have ended
SELECT DISTINCT job_id FROM gristmill.result WHERE part_day = $1 AND job_id = ANY ($2)";

const GIVE_UP: &str = "-- ended jobs need no live row
DELETE FROM gristmill.live WHERE job_id = ANY ($1) AND owner = $2";

const LEFT_ALONE: &str = "-- why a live row was not taken
SELECT job_id, state FROM gristmill.live WHERE job_id = ANY ($1)";

const BATCHES: &str = "-- which of these batches there are and which are cancelled, and is this owner alive
SELECT batch_id AS id, cancel_requested_at IS NOT NULL AS cancelled, project, simulated, budget_usd IS NOT NULL AS has_budget
FROM gristmill.batch WHERE batch_id = ANY ($1)
UNION ALL SELECT owner, false, NULL, false, false FROM gristmill.worker WHERE owner = $2 AND dead_at IS NULL AND left_at IS NULL";

const REQUESTS: &str = "-- recorded requests
SELECT job_id, custom_id, endpoint, body::text AS body, deadline, not_before, sample, num_retries, tags, metadata,
       cache_policy, service_tier, est_tokens
FROM gristmill.job WHERE batch_id = $1 AND part_day = $2 AND job_id = ANY ($3)";

/// What was taken, before its request is known.
struct Taken {
    run: u32,
    calls: u32,
    attempts: u32,
    faults: u32,
    deaths: u32,
    earlier: Vec<crate::failure::EarlierAttempt>,
    queued_at: DateTime<Utc>,
    spent_pico_usd: Option<i64>,
    fresh: bool,
    /// Whether it waits for equal requests.
    patient: bool,
    now: DateTime<Utc>,
}

pub(super) async fn admit(
    pool: &PgPool,
    rules: CacheRules,
    owner: OwnerId,
    arrivals: &[Arrival],
) -> Result<Vec<Verdict>> {
    if arrivals.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = pool.begin().await.map_err(failed(DOING))?;
    let strange = adopt(&mut tx, arrivals).await?;
    let mut seen = HashSet::with_capacity(arrivals.len());
    let first: Vec<&Arrival> = arrivals
        .iter()
        .filter(|arrival| !strange.contains_key(&arrival.job.id) && seen.insert(arrival.job.id))
        .collect();
    let mut taken = take(&mut tx, owner, &first).await?;
    drop_ended(&mut tx, owner, &mut taken).await?;
    let untaken: Vec<Uuid> =
        first.iter().map(|arrival| arrival.job.id).filter(|id| !taken.contains_key(id)).map(JobId::uuid).collect();
    let states = states(&mut tx, &untaken).await?;
    let batches = batches(&mut tx, owner, &first).await?;
    let mut requests = requests(&mut tx, &first, &taken).await?;
    let unknown: Vec<Uuid> = first
        .iter()
        .filter(|arrival| {
            let requested = arrival.request.is_some() || requests.contains_key(&arrival.job.id);
            taken.contains_key(&arrival.job.id) && (!requested || !batches.contains_key(&arrival.job.batch))
        })
        .map(|arrival| arrival.job.id.uuid())
        .collect();
    if !unknown.is_empty() {
        let query = sqlx::query(GIVE_UP).bind(unknown).bind(owner.uuid());
        query.execute(&mut *tx).await.map_err(failed(DOING))?;
    }
    let mut asks = asks(rules, &first, &taken, &requests, &batches);
    let mut told = cache::ask(&mut tx, owner, &mut asks).await?;
    tx.commit().await.map_err(failed(DOING))?;
    let mut caching: HashMap<JobId, Caching> =
        asks.into_iter().filter(|ask| ask.caching.keep).map(|ask| (ask.job, ask.caching)).collect();

    let mut verdicts = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let id = arrival.job.id;
        if let Some(verdict) = strange.get(&id) {
            verdicts.push(verdict.clone());
            continue;
        }
        // A second copy in the same group finds its row taken out of the map already.
        let Some(taken) = taken.remove(&id) else {
            verdicts.push(match states.get(&id) {
                Some(1) => Verdict::Waiting,
                None if !seen_again(&verdicts, arrivals, id) => Verdict::Done,
                _ => Verdict::Held,
            });
            continue;
        };
        let request = arrival.request.clone().or_else(|| requests.remove(&id));
        let (Some(request), Some(standing)) = (request, batches.get(&arrival.job.batch)) else {
            verdicts.push(Verdict::Unknown);
            continue;
        };
        let expired = request.options.deadline.is_some_and(|deadline| deadline <= taken.now);
        let ticket = Box::new(Ticket {
            job: JobRef { run: taken.run, ..arrival.job.clone() },
            request,
            calls: taken.calls,
            attempts: taken.attempts,
            faults: taken.faults,
            deaths: taken.deaths,
            queued_at: taken.queued_at,
            earlier: taken.earlier,
            spent_pico_usd: taken.spent_pico_usd,
            project: standing.project.as_deref().map(Into::into),
            has_budget: standing.has_budget,
            caching: caching.remove(&id),
        });
        verdicts.push(match told.remove(&id) {
            _ if standing.cancelled => Verdict::Cancelled(ticket),
            _ if expired => Verdict::Expired(ticket),
            Some(Told::Answer(answer)) => Verdict::Cached(ticket, answer),
            Some(Told::Wait) => Verdict::Waiting,
            None => Verdict::Run(ticket),
        });
    }
    Ok(verdicts)
}

/// Collects the runs that the cache has a part in; none where no job asked for it.
fn asks(
    rules: CacheRules,
    arrivals: &[&Arrival],
    taken: &HashMap<JobId, Taken>,
    requests: &HashMap<JobId, Request>,
    batches: &Standings,
) -> Vec<Ask> {
    let ask = |arrival: &&Arrival| {
        let id = arrival.job.id;
        let (taken, standing) = (taken.get(&id)?, batches.get(&arrival.job.batch)?);
        let request = arrival.request.as_ref().or_else(|| requests.get(&id))?;
        let expired = request.options.deadline.is_some_and(|deadline| deadline <= taken.now);
        if standing.cancelled || expired {
            return None;
        }
        Ask::of((id, taken.run), &arrival.job.lane.group, request, standing, taken.patient, rules.scope)
    };
    arrivals.iter().filter_map(ask).collect()
}

/// Tells whether an earlier arrival of the group was of the same job.
fn seen_again(verdicts: &[Verdict], arrivals: &[Arrival], id: JobId) -> bool {
    arrivals[..verdicts.len()].iter().any(|earlier| earlier.job.id == id)
}

async fn take(tx: &mut PgConnection, owner: OwnerId, arrivals: &[&Arrival]) -> Result<HashMap<JobId, Taken>> {
    let jobs = || arrivals.iter().map(|arrival| &arrival.job);
    let rows = sqlx::query(TAKE)
        .bind(jobs().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs().map(|job| job.batch.uuid()).bind_iter())
        .bind(jobs().map(|job| &*job.lane.group).bind_iter())
        .bind(jobs().map(|job| job.lane.priority.as_str()).bind_iter())
        .bind(jobs().map(|job| i16::from(job.lane.lane)).bind_iter())
        .bind(jobs().map(|job| int(job.run)).bind_iter())
        .bind(owner.uuid())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    let taken = |row: &PgRow| {
        let taken = Taken {
            run: row.get::<i32, _>("run").unsigned_abs(),
            calls: row.get::<i32, _>("calls").unsigned_abs(),
            attempts: row.get::<i32, _>("attempts").unsigned_abs(),
            faults: row.get::<i32, _>("faults").unsigned_abs(),
            deaths: row.get::<i32, _>("deaths").unsigned_abs(),
            earlier: row.get::<Option<Json<_>>, _>("earlier").map(|Json(earlier)| earlier).unwrap_or_default(),
            queued_at: row.get("queued_at"),
            spent_pico_usd: row.get("spent_pico_usd"),
            fresh: row.get("fresh"),
            patient: row.get("patient"),
            now: row.get("now"),
        };
        (JobId::from_uuid(row.get("job_id")), taken)
    };
    Ok(rows.iter().map(taken).collect())
}

async fn drop_ended(tx: &mut PgConnection, owner: OwnerId, taken: &mut HashMap<JobId, Taken>) -> Result<()> {
    let mut by_day: BTreeMap<PartDay, Vec<Uuid>> = BTreeMap::new();
    for (id, _) in taken.iter().filter(|(_, taken)| taken.fresh) {
        by_day.entry(id.part_day()).or_default().push(id.uuid());
    }
    let mut ended: Vec<Uuid> = Vec::new();
    for (day, ids) in by_day {
        let query = sqlx::query_scalar::<_, Uuid>(ENDED).bind(day).bind(ids);
        ended.extend(query.fetch_all(&mut *tx).await.map_err(failed(DOING))?);
    }
    if ended.is_empty() {
        return Ok(());
    }
    for id in &ended {
        taken.remove(&JobId::from_uuid(*id));
    }
    let query = sqlx::query(GIVE_UP).bind(ended).bind(owner.uuid());
    query.execute(&mut *tx).await.map_err(failed(DOING))?;
    Ok(())
}

const CALLING: &str = "-- a run on which an owner died is called
WITH held AS (UPDATE gristmill.live SET called_by = $2 WHERE job_id = $1 AND owner = $2 AND state = 0 RETURNING 1),
     bounded AS (UPDATE gristmill.lost_call SET bound_usd = $3::bigint * 0.000000000001
                 WHERE job_id = $1 AND bound_usd IS NULL AND $3 IS NOT NULL)
SELECT EXISTS (SELECT FROM held)";

pub(super) async fn calling(pool: &PgPool, owner: OwnerId, job: JobId, bound: Option<i64>) -> Result<bool> {
    let query = sqlx::query_scalar(CALLING).bind(job.uuid()).bind(owner.uuid()).bind(bound);
    query.fetch_one(pool).await.map_err(failed("saying that a job is called"))
}

async fn states(tx: &mut PgConnection, untaken: &[Uuid]) -> Result<HashMap<JobId, i16>> {
    if untaken.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query(LEFT_ALONE).bind(untaken).fetch_all(&mut *tx).await.map_err(failed(DOING))?;
    Ok(rows.iter().map(|row| (JobId::from_uuid(row.get("job_id")), row.get("state"))).collect())
}

/// Returns the batches that there are, and how each stands.
async fn batches(tx: &mut PgConnection, owner: OwnerId, arrivals: &[&Arrival]) -> Result<Standings> {
    let asked: HashSet<BatchId> = arrivals.iter().map(|arrival| arrival.job.batch).collect();
    let query = sqlx::query(BATCHES).bind(asked.into_iter().map(BatchId::uuid).bind_iter()).bind(owner.uuid());
    let rows = query.fetch_all(&mut *tx).await.map_err(failed(DOING))?;
    let standing = |row: &PgRow| Standing {
        cancelled: row.get("cancelled"),
        project: row.get("project"),
        simulated: row.get("simulated"),
        has_budget: row.get("has_budget"),
    };
    let mut found: Standings = rows.iter().map(|row| (BatchId::from_uuid(row.get("id")), standing(row))).collect();
    // A dead owner that held a row again would hold it for ever: the keeper has passed already.
    if found.remove(&BatchId::from_uuid(owner.uuid())).is_none() {
        return Err(Error::Conflict("this worker's lease was lost".to_owned()));
    }
    Ok(found)
}

async fn requests(
    tx: &mut PgConnection,
    arrivals: &[&Arrival],
    taken: &HashMap<JobId, Taken>,
) -> Result<HashMap<JobId, Request>> {
    let mut by_key: BTreeMap<(BatchId, PartDay), Vec<Uuid>> = BTreeMap::new();
    for arrival in arrivals.iter().filter(|arrival| arrival.request.is_none() && taken.contains_key(&arrival.job.id)) {
        let key = (arrival.job.batch, arrival.job.id.part_day());
        by_key.entry(key).or_default().push(arrival.job.id.uuid());
    }
    let mut requests = HashMap::new();
    for ((batch, day), ids) in by_key {
        let query = sqlx::query(REQUESTS).bind(batch.uuid()).bind(day).bind(ids);
        for row in query.fetch_all(&mut *tx).await.map_err(failed(DOING))? {
            requests.insert(JobId::from_uuid(row.get("job_id")), request(&row));
        }
    }
    Ok(requests)
}

pub(super) fn request(row: &PgRow) -> Request {
    Request {
        custom_id: row.get("custom_id"),
        endpoint: row.get("endpoint"),
        body: Bytes::copy_from_slice(row.get::<&str, _>("body").as_bytes()),
        options: JobOptions {
            deadline: row.get("deadline"),
            not_before: row.get("not_before"),
            sample: row.get::<i32, _>("sample").unsigned_abs(),
            num_retries: row.get::<Option<i16>, _>("num_retries").map(i16::unsigned_abs),
            tags: row.get::<Option<Json<_>>, _>("tags").map(|Json(tags)| tags).unwrap_or_default(),
            metadata: row.get::<Option<Json<_>>, _>("metadata").map(|Json(metadata)| metadata),
            cache: CachePolicy::parse_lenient(row.get::<Option<&str>, _>("cache_policy").unwrap_or("off")),
            service_tier: row.get("service_tier"),
            est_tokens: row.get::<Option<i32>, _>("est_tokens").map(i32::unsigned_abs),
        },
    }
}

const ADOPT_BATCH: &str = "-- the batch of messages that name none
INSERT INTO gristmill.batch (batch_id, name, priority, day_from, day_to, total, created_at)
VALUES ($1, 'adhoc-' || $2::date, 'standard', $2, $2, 0, now())
ON CONFLICT DO NOTHING";

const ADOPT_JOB: &str = "-- adopt a request that its producer did not record
INSERT INTO gristmill.job (batch_id, job_id, part_day, custom_id, endpoint, model_group, priority, lane, body, identity,
                           deadline, not_before, sample, num_retries, tags, metadata, cache_policy, service_tier, est_tokens)
SELECT b.batch_id, $2, $3, $4, $5, $6, $7, $8, $9::json, $10, $11, $12, $13, $14, $15::json, $16::json, $17, $18, $19
FROM gristmill.batch b WHERE b.batch_id = $1
ON CONFLICT DO NOTHING";

const ADOPTED: &str = "-- an adopted job counts
UPDATE gristmill.batch
SET adopted = adopted + 1, total = total + 1, finished_at = NULL,
    day_from = least(day_from, $2), day_to = greatest(day_to, $2)
WHERE batch_id = $1";

const ADOPT_WAITING: &str = "-- an adopted job that may not start yet
INSERT INTO gristmill.live (job_id, batch_id, model_group, priority, lane, state, wake_at, reason)
SELECT $1, $2, $3, $4, $5, 1, $6, 'not before' WHERE $6 > now()
  AND NOT EXISTS (SELECT 1 FROM gristmill.result WHERE job_id = $1 AND part_day = $7)
ON CONFLICT DO NOTHING";

const KNOWN: &str = "-- is the job recorded
SELECT count(*) FROM gristmill.job WHERE batch_id = $1 AND job_id = $2 AND part_day = $3";

/// Records what foreign producers did not; returns the verdicts of those that cannot go on.
async fn adopt(tx: &mut PgConnection, arrivals: &[Arrival]) -> Result<HashMap<JobId, Verdict>> {
    let mut strange = HashMap::new();
    let mut foreign: Vec<&Arrival> = arrivals.iter().filter(|arrival| !arrival.recorded).collect();
    foreign.sort_by_key(|arrival| (arrival.job.batch, arrival.job.id));
    for arrival in foreign {
        let (job, day) = (&arrival.job, arrival.job.id.part_day());
        if job.batch == BatchId::adhoc(day) {
            let query = sqlx::query(ADOPT_BATCH).bind(job.batch.uuid()).bind(day);
            query.execute(&mut *tx).await.map_err(failed(DOING))?;
        }
        let known = || sqlx::query_scalar::<_, i64>(KNOWN).bind(job.batch.uuid()).bind(job.id.uuid()).bind(day);
        let Some(request) = &arrival.request else {
            if known().fetch_one(&mut *tx).await.map_err(failed(DOING))? == 0 {
                strange.insert(job.id, Verdict::Unknown);
            }
            continue;
        };
        if adopt_job(tx, job, request, day).await? {
            let query = sqlx::query(ADOPTED).bind(job.batch.uuid()).bind(day);
            query.execute(&mut *tx).await.map_err(failed(DOING))?;
        } else if known().fetch_one(&mut *tx).await.map_err(failed(DOING))? == 0 {
            strange.insert(job.id, Verdict::Unknown);
            continue;
        }
        if let Some(not_before) = request.options.not_before {
            let waiting = sqlx::query(ADOPT_WAITING)
                .bind(job.id.uuid())
                .bind(job.batch.uuid())
                .bind(&*job.lane.group)
                .bind(job.lane.priority.as_str())
                .bind(i16::from(job.lane.lane))
                .bind(not_before)
                .bind(day)
                .execute(&mut *tx)
                .await
                .map_err(failed(DOING))?
                .rows_affected();
            if waiting == 1 {
                strange.insert(job.id, Verdict::Waiting);
            }
        }
    }
    Ok(strange)
}

async fn adopt_job(tx: &mut PgConnection, job: &JobRef, request: &Request, day: PartDay) -> Result<bool> {
    let options = &request.options;
    let identity =
        Identity::compute(&request.custom_id, &request.endpoint, &job.lane.group, &request.body, options.sample, false);
    let done = sqlx::query(ADOPT_JOB)
        .bind(job.batch.uuid())
        .bind(job.id.uuid())
        .bind(day)
        .bind(text(&request.custom_id))
        .bind(text(&request.endpoint))
        .bind(&*job.lane.group)
        .bind(job.lane.priority.as_str())
        .bind(i16::from(job.lane.lane))
        .bind(std::str::from_utf8(&request.body).unwrap_or("null"))
        .bind(Uuid::from_bytes(identity.0))
        .bind(options.deadline)
        .bind(options.not_before)
        .bind(int(options.sample))
        .bind(options.num_retries.map(|n| i16::try_from(n).unwrap_or(i16::MAX)))
        .bind(json_text(&options.tags, options.tags.is_empty()))
        .bind(json_text(&options.metadata, options.metadata.is_none()))
        .bind(options.cache.as_str())
        .bind(options.service_tier.as_deref())
        .bind(options.est_tokens.map(int))
        .execute(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    Ok(done.rows_affected() == 1)
}
