//! Admission: the live row decides what an arrival is worth.
//!
//! One transaction reads what holds each job, decides, and writes the live rows that it takes; nobody else writes meanwhile.

use std::collections::{HashMap, HashSet};

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::cache::{Ask, Standing as BatchStanding, Standings, Told};
use super::super::{Arrival, Caching, Error, Request, Ticket, Verdict};
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row::{self, day, small, time};
use super::{Core, batch, cache, request, submit};
use crate::cache::CacheRules;
use crate::failure::EarlierAttempt;
use crate::id::{BatchId, JobId, OwnerId};
use crate::job::JobRef;

const IS_ALIVE: &str = "-- is this owner alive
SELECT 1 FROM worker WHERE owner = ? AND dead_at IS NULL AND left_at IS NULL";

static LIVE: Group = Group::new(
    "-- what holds these jobs
WITH wanted (job_id) AS (VALUES ",
    1,
    ") SELECT l.job_id, l.run, l.state, l.owner, l.wake_at, l.calls, l.attempts, l.faults, l.earlier, l.queued_at, l.deaths,
       l.spent_pico_usd, l.waits_for
FROM wanted CROSS JOIN live l ON l.job_id = wanted.job_id",
);

static RECORDED: Group = Group::new(
    "-- which of these are recorded
WITH wanted (batch_id, job_id) AS (VALUES ",
    2,
    ") SELECT j.job_id FROM wanted CROSS JOIN job j ON j.batch_id = wanted.batch_id AND j.job_id = wanted.job_id",
);

static HOLD: Group = Group::new(
    "-- admit new runs
INSERT INTO live (job_id, batch_id, model_group, priority, lane, run, state, owner, queued_at) VALUES ",
    9,
    "",
);

static TAKE: Group = Group::new(
    "-- admit runs that waited or were queued
UPDATE live SET state = 0, owner = ?, version = version + 1, wake_at = NULL, reason = NULL,
    waits_for = CASE WHEN waits_for = job_id THEN waits_for END
WHERE job_id IN (VALUES ",
    1,
    ")",
);

/// A live row as admission sees it.
struct Live {
    run: u32,
    state: i64,
    owner: Option<Uuid>,
    wake_at: Option<i64>,
    standing: Standing,
}

/// What a run has been through.
struct Standing {
    calls: u32,
    attempts: u32,
    faults: u32,
    deaths: u32,
    earlier: Vec<EarlierAttempt>,
    queued_at: i64,
    spent_pico_usd: Option<i64>,
    /// Whether it waits for equal requests.
    patient: bool,
}

impl Live {
    fn read(row: &SqliteRow) -> (JobId, Self) {
        let standing = Standing {
            calls: small(row.get(5)),
            attempts: small(row.get(6)),
            faults: small(row.get(7)),
            earlier: row::json(row.get(8)).unwrap_or_default(),
            queued_at: row.get(9),
            deaths: small(row.get(10)),
            spent_pico_usd: row.get(11),
            patient: row.get::<Option<Uuid>, _>(12) != Some(row.get(0)),
        };
        let live = Self { run: small(row.get(1)), state: row.get(2), owner: row.get(3), wake_at: row.get(4), standing };
        (JobId::from_uuid(row.get(0)), live)
    }
}

/// What becomes of one arrival.
enum Plan {
    /// Nothing is written.
    Answer(Verdict),
    /// This owner holds it already.
    Keep(u32, Standing),
    /// Its live row is taken.
    Take(u32, Standing),
    /// It gets a live row.
    Start,
}

pub(super) async fn admit(
    core: &Core,
    rules: CacheRules,
    owner: OwnerId,
    arrivals: Vec<Arrival>,
) -> Done<Vec<Verdict>> {
    if arrivals.is_empty() {
        return Ok(Vec::new());
    }
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    if sqlx::query(IS_ALIVE).bind(owner.uuid()).fetch_optional(&mut *tx).await?.is_none() {
        // A dead owner that held a row again would hold it for ever: the keeper has passed already.
        return Err(Error::Conflict("this worker's lease was lost".to_owned()).into());
    }
    let mut plans = plan(tx, owner, &arrivals, now).await?;
    let batches = standing_of_batches(tx, &arrivals, &mut plans, now).await?;
    let requests = find_requests(tx, arrivals, &mut plans, now).await?;
    write(tx, owner, &requests, &plans, now).await?;
    let mut asks = asks(rules, &requests, &plans, &batches, now);
    let mut told = cache::ask(tx, &mut asks, now).await?;
    work.commit().await?;
    let mut caching: HashMap<JobId, Caching> =
        asks.into_iter().filter(|ask| ask.caching.keep).map(|ask| (ask.job, ask.caching)).collect();

    let verdicts = requests.into_iter().zip(plans).map(|((job, request), plan)| {
        let (run, standing) = match plan {
            Plan::Answer(verdict) => return verdict,
            Plan::Keep(run, standing) | Plan::Take(run, standing) => (run, standing),
            Plan::Start => {
                let standing = Standing {
                    calls: 0,
                    attempts: 0,
                    faults: 0,
                    deaths: 0,
                    earlier: Vec::new(),
                    queued_at: now,
                    spent_pico_usd: None,
                    patient: true,
                };
                (job.run, standing)
            }
        };
        // What has no request was answered above.
        let Some(request) = request else { return Verdict::Unknown };
        let expired = request.options.deadline.is_some_and(|deadline| deadline.timestamp_millis() <= now);
        let batch = batches.get(&job.batch);
        let is_cancelled = batch.is_none_or(|standing| standing.cancelled);
        let job_id = job.id;
        let ticket = Box::new(Ticket {
            job: JobRef { run, ..job },
            request,
            calls: standing.calls,
            attempts: standing.attempts,
            faults: standing.faults,
            deaths: standing.deaths,
            queued_at: time(standing.queued_at),
            earlier: standing.earlier,
            spent_pico_usd: standing.spent_pico_usd,
            project: batch.and_then(|batch| batch.project.as_deref().map(Into::into)),
            has_budget: batch.is_some_and(|batch| batch.has_budget),
            caching: caching.remove(&job_id),
        });
        match told.remove(&job_id) {
            _ if is_cancelled => Verdict::Cancelled(ticket),
            _ if expired => Verdict::Expired(ticket),
            Some(Told::Answer(answer)) => Verdict::Cached(ticket, answer),
            Some(Told::Wait) => Verdict::Waiting,
            None => Verdict::Run(ticket),
        }
    });
    Ok(verdicts.collect())
}

/// Collects the runs that the cache has a part in; none where no job asked for it.
fn asks(
    rules: CacheRules,
    requests: &[(JobRef, Option<Request>)],
    plans: &[Plan],
    batches: &Standings,
    now: i64,
) -> Vec<Ask> {
    let ask = |((job, request), plan): (&(JobRef, Option<Request>), &Plan)| {
        let (run, patient) = match plan {
            Plan::Answer(_) => return None,
            Plan::Keep(run, standing) | Plan::Take(run, standing) => (*run, standing.patient),
            Plan::Start => (job.run, true),
        };
        let (request, standing) = (request.as_ref()?, batches.get(&job.batch)?);
        let expired = request.options.deadline.is_some_and(|deadline| deadline.timestamp_millis() <= now);
        if standing.cancelled || expired {
            return None;
        }
        Ask::of((job.id, run), &job.lane.group, request, standing, patient, rules.scope)
    };
    requests.iter().zip(plans).filter_map(ask).collect()
}

const CALLING: &str = "-- a run on which an owner died is called
UPDATE live SET called_by = ?2 WHERE job_id = ?1 AND owner = ?2 AND state = 0";

const BOUND: &str = "-- the most that its lost calls may have cost
UPDATE lost_call SET bound_pico_usd = ?2 WHERE job_id = ?1 AND bound_pico_usd IS NULL";

pub(super) async fn calling(core: &Core, owner: OwnerId, job: JobId, bound: Option<i64>) -> Done<bool> {
    let mut work = core.writer.begin().await?;
    let held = sqlx::query(CALLING).bind(job.uuid()).bind(owner.uuid()).execute(work.tx()).await?.rows_affected() == 1;
    if let Some(bound) = bound {
        sqlx::query(BOUND).bind(job.uuid()).bind(bound).execute(work.tx()).await?;
    }
    work.commit().await?;
    Ok(held)
}

/// Decides by what holds the jobs, or held them.
async fn plan(tx: &mut SqliteConnection, owner: OwnerId, arrivals: &[Arrival], now: i64) -> Done<Vec<Plan>> {
    let mut seen = HashSet::with_capacity(arrivals.len());
    let first: Vec<bool> = arrivals.iter().map(|arrival| seen.insert(arrival.job.id)).collect();
    let ids: Vec<Uuid> =
        arrivals.iter().zip(&first).filter(|(_, first)| **first).map(|(arrival, _)| arrival.job.id.uuid()).collect();
    let put = |values: &mut Values, id: &Uuid| values.put(*id);
    let mut live: HashMap<JobId, Live> = LIVE.fetch(&mut *tx, &ids, nothing, put, Live::read).await?;
    let without: Vec<Uuid> = ids.into_iter().filter(|id| !live.contains_key(&JobId::from_uuid(*id))).collect();
    let ended = submit::ended(tx, &without).await?;

    let plan = |(arrival, first): (&Arrival, bool)| {
        if !first {
            return Plan::Answer(Verdict::Held);
        }
        let Some(live) = live.remove(&arrival.job.id) else {
            return if ended.contains(&arrival.job.id.uuid()) { Plan::Answer(Verdict::Done) } else { Plan::Start };
        };
        match live.state {
            0 if live.owner == Some(owner.uuid()) => Plan::Keep(live.run, live.standing),
            0 => Plan::Answer(Verdict::Held),
            1 if live.wake_at.is_some_and(|wake_at| wake_at > now) => Plan::Answer(Verdict::Waiting),
            _ => Plan::Take(live.run, live.standing),
        }
    };
    Ok(arrivals.iter().zip(first).map(plan).collect())
}

/// Reads the batches of what is to run; returns how each stands, and makes the day's batch where a message needs it.
async fn standing_of_batches(
    tx: &mut SqliteConnection,
    arrivals: &[Arrival],
    plans: &mut [Plan],
    now: i64,
) -> Done<Standings> {
    let mut known: HashMap<BatchId, Option<BatchStanding>> = HashMap::new();
    for (arrival, plan) in arrivals.iter().zip(plans) {
        if matches!(plan, Plan::Answer(_)) {
            continue;
        }
        let id = arrival.job.batch;
        let mut standing = match known.remove(&id) {
            Some(standing) => standing,
            None => batch::standing(tx, id).await?,
        };
        let adoptable = !arrival.recorded && arrival.request.is_some();
        if standing.is_none() && adoptable && id == BatchId::adhoc(arrival.job.id.part_day()) {
            batch::make_adhoc(tx, id, now).await?;
            standing = Some(BatchStanding::default());
        }
        if standing.is_none() {
            *plan = Plan::Answer(Verdict::Unknown);
        }
        known.insert(id, standing);
    }
    Ok(known.into_iter().filter_map(|(id, standing)| Some((id, standing?))).collect())
}

/// Finds the request of each arrival that is to run, and records those that no producer did.
async fn find_requests(
    tx: &mut SqliteConnection,
    arrivals: Vec<Arrival>,
    plans: &mut [Plan],
    now: i64,
) -> Done<Vec<(JobRef, Option<Request>)>> {
    let put = |values: &mut Values, job: &&JobRef| {
        values.put(job.batch.uuid());
        values.put(job.id.uuid());
    };
    let wanted = || arrivals.iter().zip(&*plans).filter(|(_, plan)| !matches!(plan, Plan::Answer(_)));
    let unread: Vec<&JobRef> =
        wanted().filter(|(arrival, _)| arrival.request.is_none()).map(|(arrival, _)| &arrival.job).collect();
    let mut read = request::read(tx, &unread).await?;

    let strangers: Vec<(&JobRef, &Request)> = wanted()
        .filter(|(arrival, plan)| !arrival.recorded && matches!(plan, Plan::Start))
        .filter_map(|(arrival, _)| Some((&arrival.job, arrival.request.as_ref()?)))
        .collect();
    if !strangers.is_empty() {
        let jobs: Vec<&JobRef> = strangers.iter().map(|(job, _)| *job).collect();
        let recorded: HashSet<Uuid> = RECORDED.fetch(&mut *tx, &jobs, nothing, put, |row| row.get(0)).await?;
        let new: Vec<_> = strangers.into_iter().filter(|(job, _)| !recorded.contains(&job.id.uuid())).collect();
        submit::record_adopted(tx, &new, now).await?;
        count_adopted(tx, &new).await?;
    }

    let mut waiting: Vec<(JobRef, i64)> = Vec::new();
    let mut requests = Vec::with_capacity(arrivals.len());
    for (arrival, plan) in arrivals.into_iter().zip(plans) {
        let request = arrival.request.or_else(|| read.remove(&arrival.job.id.uuid()));
        match (&request, &*plan) {
            (_, Plan::Answer(_)) => {}
            (None, _) => *plan = Plan::Answer(Verdict::Unknown),
            (Some(request), Plan::Start) => {
                let not_before = request.options.not_before.map(|time| time.timestamp_millis());
                if let Some(wake_at) = not_before.filter(|wake_at| *wake_at > now) {
                    waiting.push((arrival.job.clone(), wake_at));
                    *plan = Plan::Answer(Verdict::Waiting);
                }
            }
            _ => {}
        }
        requests.push((arrival.job, request));
    }
    submit::wait(tx, &waiting, "not before", now).await?;
    Ok(requests)
}

async fn count_adopted(tx: &mut SqliteConnection, new: &[(&JobRef, &Request)]) -> Done<()> {
    let mut by_batch: HashMap<BatchId, (i64, (i64, i64))> = HashMap::new();
    for (job, _) in new {
        let day = day(job.id.unix_ms());
        let (count, days) = by_batch.entry(job.batch).or_insert((0, (day, day)));
        *count += 1;
        *days = (days.0.min(day), days.1.max(day));
    }
    for (id, (count, days)) in by_batch {
        batch::adopt(tx, id, count, days).await?;
    }
    Ok(())
}

/// Writes the live rows that are taken.
async fn write(
    tx: &mut SqliteConnection,
    owner: OwnerId,
    requests: &[(JobRef, Option<Request>)],
    plans: &[Plan],
    now: i64,
) -> Done<()> {
    let (mut start, mut take) = (Vec::new(), Vec::new());
    for ((job, _), plan) in requests.iter().zip(plans) {
        match plan {
            Plan::Start => start.push(job),
            Plan::Take(..) => take.push(job),
            Plan::Keep(..) | Plan::Answer(_) => {}
        }
    }
    let put = |values: &mut Values, job: &&JobRef| {
        values.put(job.id.uuid());
        values.put(job.batch.uuid());
        values.shared(&job.lane.group);
        values.text(job.lane.priority.as_str());
        values.put(i64::from(job.lane.lane));
        values.put(i64::from(job.run));
        values.put(0_i64);
        values.put(owner.uuid());
        values.put(now);
    };
    HOLD.execute(&mut *tx, &start, nothing, put).await?;
    let put = |values: &mut Values, job: &&JobRef| values.put(job.id.uuid());
    TAKE.execute(tx, &take, |values| values.put(owner.uuid()), put).await?;
    Ok(())
}
