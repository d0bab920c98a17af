//! The flush: results, wake-ups, attempts and counters of a group in one transaction.
//!
//! A live row that this owner still holds is the right to end or put off the run. Attempts are kept in any case: the calls
//! were made. Counters move by what was really inserted, so a flush that is repeated because its answer was lost moves
//! nothing.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::{End, Flushed, Settlement, Wake};
use super::count::Deltas;
use super::error::{Done, Fault};
use super::group::{Group, Values, nothing};
use super::row::{day, json_text};
use super::{Core, budget, cache, later};
use crate::cache::CacheRules;
use crate::failure::{ErrorClass, ErrorRecord};
use crate::id::OwnerId;
use crate::job::JobRef;
use crate::outcome::{AttemptRecord, JobResult, Status, Usage};

// One value for a whole group: a row each would wake its reader each time.
static HELD: Group = Group::new(
    "-- which of these does this owner hold
WITH mine (owner) AS (VALUES (?)), wanted (job_id) AS (VALUES ",
    1,
    ") SELECT group_concat(hex(l.job_id) || l.run) FROM wanted CROSS JOIN live l ON l.job_id = wanted.job_id
WHERE l.state = 0 AND l.owner = (SELECT owner FROM mine)",
);

static END: Group = Group::new("-- ended runs need no live row\nDELETE FROM live WHERE job_id IN (VALUES ", 1, ")");

static RESULTS: Group = Group::new(
    "-- results
INSERT INTO result (job_id, run, part_day, batch_id, status, model_group, provider, deployment, served_model,
                    finish_reason, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
                    cost_pico_usd, saved_pico_usd, cached, attempts, queued_at, started_at, finished_at, ttft_ms,
                    latency_ms, error_class, error_status, error_code, error_message, request_id, error, output_text,
                    response) VALUES ",
    32,
    "",
);

static DEADLINES: Group = Group::new(
    "-- deadlines of runs that are to wait
WITH wanted (batch_id, job_id) AS (VALUES ",
    2,
    ") SELECT j.job_id, j.deadline
FROM wanted CROSS JOIN job j ON j.batch_id = wanted.batch_id AND j.job_id = wanted.job_id WHERE j.deadline IS NOT NULL",
);

static WAKE: Group = Group::new(
    "-- runs that come back later
WITH later (job_id, wake_at, calls, attempts, faults, reason, earlier, spent_pico_usd) AS (VALUES ",
    8,
    ") UPDATE live SET state = 1, owner = NULL, version = version + 1, wake_at = later.wake_at, calls = later.calls,
       attempts = later.attempts, faults = later.faults, reason = later.reason, earlier = later.earlier,
       spent_pico_usd = later.spent_pico_usd
FROM later WHERE live.job_id = later.job_id",
);

static ATTEMPTS: Group = Group::new(
    "-- attempts
INSERT INTO attempt (job_id, run, attempt, owner, part_day, batch_id, model_group, provider, deployment, model,
                     served_model, service_tier, started_at, ttft_ms, latency_ms, http_status, counted, input_tokens,
                     cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_pico_usd, cost_basis,
                     price_ref, request_id, error_class, error, usage, bound_pico_usd) VALUES ",
    30,
    " ON CONFLICT DO NOTHING",
);

static KEPT: Group = Group::new(
    "-- which of these calls are kept already
WITH mine (owner) AS (VALUES (?)), wanted (job_id, run, attempt) AS (VALUES ",
    3,
    ") SELECT a.job_id, a.run, a.attempt
FROM wanted w CROSS JOIN attempt a ON a.job_id = w.job_id AND a.run = w.run AND a.attempt = w.attempt
WHERE a.owner = (SELECT owner FROM mine)",
);

/// Flushes a group; where the database refuses a row, finds it by halving and stores it as failed instead.
pub(super) async fn flush_splitting(
    core: &Core,
    rules: CacheRules,
    owner: OwnerId,
    settlements: &[Settlement],
) -> Done<Flushed> {
    let mut total = Flushed::default();
    let mut parts: Vec<Cow<'_, [Settlement]>> = vec![settlements.into()];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match flush(core, rules, owner, &part).await {
            Ok(flushed) => {
                total.results += flushed.results;
                total.waiting += flushed.waiting;
                total.attempts += flushed.attempts;
                total.lost += flushed.lost;
            }
            Err(fault) if !fault.is_refusal() => return Err(fault),
            Err(fault) if part.len() == 1 => {
                let Some(replaced) = replace_refused(&part[0], &fault) else { return Err(fault) };
                tracing::error!(job.id = %part[0].job.id, "row refused, storing the job as failed");
                total.rejected += 1;
                parts.push(vec![replaced].into());
            }
            Err(_) => {
                let (left, right) = part.split_at(part.len() / 2);
                parts.push(left.to_vec().into());
                parts.push(right.to_vec().into());
            }
        }
    }
    Ok(total)
}

/// Makes what is stored instead of a refused row: nothing in it comes from outside. `None` if it was replaced already.
fn replace_refused(settlement: &Settlement, fault: &Fault) -> Option<Settlement> {
    let (calls, finished_at) = match &settlement.end {
        End::Result(result) => {
            if result.error.as_ref().is_some_and(|error| error.class == ErrorClass::StoreRejected) {
                return None;
            }
            (result.attempts, result.finished_at)
        }
        End::Wake(wake) => (wake.calls, settlement.attempts.last()?.started_at),
    };
    let cause = match fault {
        Fault::Sql(error) => error.to_string(),
        Fault::Known(error) => error.to_string(),
    };
    let error = ErrorRecord::new(ErrorClass::StoreRejected, "the database refused to keep the result of this job")
        .caused_by("other", cause);
    let attempts = settlement.attempts.iter().map(|attempt| AttemptRecord {
        served_model: None,
        service_tier: None,
        price_ref: None,
        billed: None,
        request_id: None,
        error: None,
        ..attempt.clone()
    });
    Some(Settlement {
        job: settlement.job.clone(),
        tags: Arc::default(),
        spends: settlement.spends.clone(),
        attempts: attempts.collect(),
        caching: settlement.caching.clone(),
        end: End::Result(Box::new(JobResult::without_answer(Status::Failed, error, calls, finished_at))),
    })
}

async fn flush(core: &Core, rules: CacheRules, owner: OwnerId, settlements: &[Settlement]) -> Done<Flushed> {
    if let Some(flushed) = write(core, rules, owner, settlements, false).await? {
        return Ok(flushed);
    }
    let flushed = write(core, rules, owner, settlements, true).await?;
    Ok(flushed.unwrap_or_default())
}

/// Writes a group in one transaction. The calls of a run that is held are new, as far as anybody can tell; where that turns
/// out wrong nothing is written, and the answer is `None`: then `careful` looks before it writes.
async fn write(
    core: &Core,
    rules: CacheRules,
    owner: OwnerId,
    settlements: &[Settlement],
    careful: bool,
) -> Done<Option<Flushed>> {
    let mut work = core.writer.begin().await?;
    let now = core.now();
    let tx = work.tx();
    let mut held = held_runs(tx, owner, settlements).await?;
    let (mut results, mut wakes) = (Vec::new(), Vec::new());
    let (mut new, mut doubtful) = (Vec::new(), Vec::new());
    for settlement in settlements {
        let job = &settlement.job;
        // Taken out, so that a second settlement of the same run finds it ended.
        let is_held = held.remove(&(job.id.uuid(), job.run));
        let certain = is_held && !careful;
        for attempt in &settlement.attempts {
            if certain { &mut new } else { &mut doubtful }.push((settlement, attempt));
        }
        if is_held {
            match &settlement.end {
                End::Result(result) => results.push((settlement, &**result)),
                End::Wake(wake) => wakes.push((job, wake)),
            }
        }
    }
    let mut deltas = Deltas::default();
    let mut flushed = Flushed { results: results.len() as u64, waiting: wakes.len() as u64, ..Flushed::default() };
    flushed.lost = (settlements.len() as u64).saturating_sub(flushed.results + flushed.waiting);
    end_runs(tx, &results, &mut deltas).await?;
    wake_later(tx, &wakes, now).await?;
    let certain = new.len() as u64;
    if write_attempts(tx, owner, &new, &mut deltas).await? != certain {
        return Ok(None);
    }
    let doubtful = not_kept(tx, owner, doubtful).await?;
    flushed.attempts = certain + write_attempts(tx, owner, &doubtful, &mut deltas).await?;
    deltas.write(tx, now).await?;
    new.extend(doubtful);
    budget::spend(tx, &new, now).await?;
    cache::keep(tx, rules, &results, now).await?;
    work.commit().await?;
    Ok(Some(flushed))
}

/// Reads which runs of the settlements this owner holds.
async fn held_runs(
    tx: &mut SqliteConnection,
    owner: OwnerId,
    settlements: &[Settlement],
) -> Done<HashSet<(Uuid, u32)>> {
    let put = |values: &mut Values, settlement: &Settlement| values.put(settlement.job.id.uuid());
    let mine = |values: &mut Values| values.put(owner.uuid());
    let packs: Vec<Option<String>> = HELD.fetch(tx, settlements, mine, put, |row| row.get(0)).await?;
    let runs = packs.iter().flatten().flat_map(|pack| pack.split(',')).filter_map(|run| {
        let (id, run) = run.split_at_checked(32)?;
        Some((Uuid::try_parse(id).ok()?, run.parse().ok()?))
    });
    Ok(runs.collect())
}

/// Deletes live rows and inserts results.
async fn end_runs(tx: &mut SqliteConnection, results: &[(&Settlement, &JobResult)], deltas: &mut Deltas) -> Done<()> {
    let put = |values: &mut Values, (settlement, _): &(&Settlement, &JobResult)| values.put(settlement.job.id.uuid());
    END.execute(&mut *tx, results, nothing, put).await?;
    let rows: Vec<(&JobRef, &JobResult)> =
        results.iter().map(|(settlement, result)| (&settlement.job, *result)).collect();
    write_results(tx, &rows).await?;
    for (settlement, result) in results {
        deltas.result(settlement, result);
    }
    Ok(())
}

/// Inserts results.
pub(super) async fn write_results(tx: &mut SqliteConnection, results: &[(&JobRef, &JobResult)]) -> Done<()> {
    RESULTS.execute(tx, results, nothing, |values, (job, result)| put_result(values, job, result)).await?;
    Ok(())
}

fn put_result(values: &mut Values, job: &JobRef, result: &JobResult) {
    let error = result.error.as_deref();
    values.put(job.id.uuid());
    values.put(i64::from(job.run));
    values.put(day(job.id.unix_ms()));
    values.put(job.batch.uuid());
    values.text(result.status.as_str());
    values.shared(&job.lane.group);
    values.put(result.provider.clone());
    values.put(result.deployment.clone());
    values.maybe_text(result.served_model.as_deref());
    values.maybe_text(result.finish_reason.as_deref());
    put_usage(values, &result.usage);
    values.put(result.cost_pico_usd);
    values.put(result.saved_pico_usd);
    values.put(result.cached);
    values.put(i64::from(result.attempts));
    values.time(result.queued_at);
    values.time(result.started_at);
    values.put(result.finished_at.timestamp_millis());
    values.small(result.ttft_ms);
    values.small(result.latency_ms);
    values.put(error.map(|error| error.class.as_str()));
    values.put(error.and_then(|error| error.status).map(i64::from));
    values.put(error.and_then(|error| error.code.as_deref()));
    values.put(error.map(|error| error.message.as_str()));
    values.maybe_text(result.request_id.as_deref());
    values.put(error.and_then(|error| json_text(error, false)));
    values.maybe_text(result.output_text.as_deref());
    values.json(result.response.as_ref());
}

fn put_usage(values: &mut Values, usage: &Usage) {
    values.small(usage.input_tokens);
    values.small(usage.cached_input_tokens);
    values.small(usage.cache_write_tokens);
    values.small(usage.output_tokens);
    values.small(usage.reasoning_tokens);
}

async fn wake_later(tx: &mut SqliteConnection, wakes: &[(&JobRef, &Wake)], now: i64) -> Done<()> {
    let put = |values: &mut Values, (job, _): &(&JobRef, &Wake)| {
        values.put(job.batch.uuid());
        values.put(job.id.uuid());
    };
    let deadlines: HashMap<Uuid, i64> =
        DEADLINES.fetch(&mut *tx, wakes, nothing, put, |row| (row.get(0), row.get(1))).await?;
    let put = |values: &mut Values, (job, wake): &(&JobRef, &Wake)| {
        let wake_at = later(now, wake.after);
        values.put(job.id.uuid());
        values.put(deadlines.get(&job.id.uuid()).map_or(wake_at, |deadline| wake_at.min(*deadline)));
        values.put(i64::from(wake.calls));
        values.put(i64::from(wake.attempts));
        values.put(i64::from(wake.faults));
        values.text(wake.reason.as_str());
        values.put(json_text(&wake.earlier, wake.earlier.is_empty()));
        values.put(wake.spent_pico_usd);
    };
    WAKE.execute(tx, wakes, nothing, put).await?;
    Ok(())
}

/// Leaves out the calls that are kept already, from an earlier flush or twice in this one.
async fn not_kept<'a>(
    tx: &mut SqliteConnection,
    owner: OwnerId,
    attempts: Vec<(&'a Settlement, &'a AttemptRecord)>,
) -> Done<Vec<(&'a Settlement, &'a AttemptRecord)>> {
    let put = |values: &mut Values, (Settlement { job, .. }, attempt): &(&Settlement, &AttemptRecord)| {
        values.put(job.id.uuid());
        values.put(i64::from(job.run));
        values.put(i64::from(attempt.attempt));
    };
    let mine = |values: &mut Values| values.put(owner.uuid());
    let key = |row: &SqliteRow| (row.get::<Uuid, _>(0), row.get::<i64, _>(1), row.get::<i64, _>(2));
    let mut kept: HashSet<(Uuid, i64, i64)> = KEPT.fetch(tx, &attempts, mine, put, key).await?;
    let new = |(Settlement { job, .. }, attempt): &(&Settlement, &AttemptRecord)| {
        kept.insert((job.id.uuid(), i64::from(job.run), i64::from(attempt.attempt)))
    };
    Ok(attempts.into_iter().filter(new).collect())
}

/// Inserts calls; returns how many were new.
async fn write_attempts(
    tx: &mut SqliteConnection,
    owner: OwnerId,
    attempts: &[(&Settlement, &AttemptRecord)],
    deltas: &mut Deltas,
) -> Done<u64> {
    let put = |values: &mut Values, (settlement, attempt): &(&Settlement, &AttemptRecord)| {
        put_attempt(values, owner, &settlement.job, attempt);
    };
    for (settlement, attempt) in attempts {
        deltas.attempt(settlement, attempt);
    }
    Ok(ATTEMPTS.execute(tx, attempts, nothing, put).await?)
}

fn put_attempt(values: &mut Values, owner: OwnerId, job: &JobRef, attempt: &AttemptRecord) {
    let error = attempt.error.as_deref();
    values.put(job.id.uuid());
    values.put(i64::from(job.run));
    values.put(i64::from(attempt.attempt));
    values.put(owner.uuid());
    values.put(day(job.id.unix_ms()));
    values.put(job.batch.uuid());
    values.shared(&job.lane.group);
    values.shared(&attempt.provider);
    values.shared(&attempt.deployment);
    values.shared(&attempt.model);
    values.maybe_text(attempt.served_model.as_deref());
    values.maybe_text(attempt.service_tier.as_deref());
    values.put(attempt.started_at.timestamp_millis());
    values.small(attempt.ttft_ms);
    values.put(i64::from(attempt.latency_ms));
    values.put(attempt.http_status.map(i64::from));
    values.put(attempt.counted);
    put_usage(values, &attempt.usage);
    values.put(attempt.cost_pico_usd);
    values.text(attempt.cost_basis.as_str());
    values.maybe_text(attempt.price_ref.as_deref());
    values.maybe_text(attempt.request_id.as_deref());
    values.put(error.map(|error| error.class.as_str()));
    values.put(error.and_then(|error| json_text(error, false)));
    values.maybe_text(attempt.billed.as_deref());
    values.put(attempt.bound_pico_usd);
}
