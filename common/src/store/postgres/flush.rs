//! The flush: results, wake-ups, attempts and counters of a group in one transaction.
//!
//! A live row that this owner still holds is the right to write the run's result: it is deleted in the transaction that
//! inserts the result. Rows are locked in one order everywhere: live rows, then results and attempts,
//! then kept answers by key, then batches by id.
//! Counters move by what is really inserted, so a flush that is repeated because its answer was lost moves nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sqlx::postgres::{PgBindIterExt as _, PgPool};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::{End, Error, Flushed, Result, Settlement, Wake};
use super::copy::{self, Rows};
use super::row::{int, seconds, text};
use super::submit::json_text;
use super::{again, budget, cache, failed, tally};
use crate::cache::CacheRules;
use crate::failure::{ErrorClass, ErrorRecord};
use crate::id::OwnerId;
use crate::job::JobRef;
use crate::outcome::{AttemptRecord, JobResult, Status, Usage};
use crate::tally::Tallies;

const DOING: &str = "writing results";

// Deleting and inserting in one statement would join the two sets, which the planner, blind to the size of an array, does by
// comparing each with each.
const LET_GO: &str = "-- live rows of ended runs go
DELETE FROM gristmill.live l USING UNNEST($2::uuid[], $3::integer[]) AS t (job_id, run)
WHERE l.job_id = t.job_id AND l.owner = $1 AND l.state = 0 AND l.run = t.run
RETURNING l.job_id";

const END_RUNS: &str = "-- results come
COPY gristmill.result (
    job_id, run, part_day, batch_id, status, model_group, provider, deployment, served_model, finish_reason, output_text,
    response, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, saved_usd,
    cached, attempts, queued_at, started_at, finished_at, ttft_ms, latency_ms, error_class, error_status, error_code,
    error_message, error, request_id)
FROM STDIN (FORMAT binary)";

const ENDED_RUNS: &str = "-- which of these runs have ended
SELECT r.job_id, r.run FROM UNNEST($1::uuid[], $2::integer[], $3::date[]) AS t (job_id, run, part_day)
JOIN gristmill.result r ON r.job_id = t.job_id AND r.run = t.run AND r.part_day = t.part_day";

const WAKE_LATER: &str = "-- runs that come back later
UPDATE gristmill.live l
SET state = 1, owner = NULL, version = l.version + 1, calls = t.calls, attempts = t.attempts, faults = t.faults,
    reason = t.reason, earlier = t.earlier::json, spent_usd = t.spent_pico::numeric / 1000000000000,
    wake_at = least(now() + make_interval(secs => t.after),
                    (SELECT j.deadline FROM gristmill.job j
                     WHERE j.batch_id = l.batch_id AND j.job_id = l.job_id AND j.part_day = t.part_day))
FROM UNNEST($2::uuid[], $3::integer[], $4::integer[], $5::integer[], $6::integer[], $7::text[], $8::text[],
            $9::double precision[], $10::date[], $11::bigint[])
     AS t (job_id, run, calls, attempts, faults, reason, earlier, after, part_day, spent_pico)
WHERE l.job_id = t.job_id AND l.owner = $1 AND l.state = 0 AND l.run = t.run";

const KEEP_ATTEMPTS: &str = "-- keep attempts
COPY gristmill.attempt (
    job_id, run, attempt, owner, part_day, batch_id, model_group, provider, deployment, model, served_model, service_tier,
    started_at, ttft_ms, latency_ms, http_status, counted, input_tokens, cached_input_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, cost_usd, cost_basis, price_ref, request_id, error_class, error, usage, bound_usd)
FROM STDIN (FORMAT binary)";

const KEPT_ATTEMPTS: &str = "-- which of these attempts are kept
SELECT a.job_id, a.run, a.attempt
FROM UNNEST($2::uuid[], $3::integer[], $4::integer[], $5::date[]) AS t (job_id, run, attempt, part_day)
JOIN gristmill.attempt a ON a.job_id = t.job_id AND a.run = t.run AND a.attempt = t.attempt AND a.owner = $1
                        AND a.part_day = t.part_day";

const COUNT: &str = "-- move the counters
UPDATE gristmill.batch b
SET succeeded = b.succeeded + d.succeeded, failed = b.failed + d.failed, cancelled = b.cancelled + d.cancelled,
    expired = b.expired + d.expired, calls = b.calls + d.calls, input_tokens = b.input_tokens + d.input_tokens,
    output_tokens = b.output_tokens + d.output_tokens, cost_usd = b.cost_usd + d.cost_pico::numeric / 1000000000000,
    saved_usd = b.saved_usd + d.saved_pico::numeric / 1000000000000,
    finished_at = CASE
        WHEN b.total <= b.succeeded + b.failed + b.cancelled + b.expired
                        + d.succeeded + d.failed + d.cancelled + d.expired THEN coalesce(b.finished_at, now()) END
FROM (SELECT t.* FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                             $8::bigint[], $9::bigint[], $10::bigint[])
                 AS t (batch_id, succeeded, failed, cancelled, expired, calls, input_tokens, output_tokens, cost_pico,
                       saved_pico)
      JOIN gristmill.batch l ON l.batch_id = t.batch_id
      ORDER BY t.batch_id FOR UPDATE OF l) d
WHERE b.batch_id = d.batch_id";

/// What a transaction adds to a batch's counters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) statuses: [i64; 4],
    pub(super) calls: i64,
    pub(super) input_tokens: i64,
    pub(super) output_tokens: i64,
    pub(super) cost_pico: i64,
    pub(super) saved_pico: i64,
}

impl Delta {
    pub(super) fn add(&mut self, status: &str, count: i64) {
        if let Some(index) = Status::ALL.iter().position(|known| known.as_str() == status) {
            self.statuses[index] += count;
        }
    }

    fn result(&mut self, result: &JobResult) {
        self.add(result.status.as_str(), 1);
        self.saved_pico += result.saved_pico_usd.unwrap_or(0);
    }

    fn attempt(&mut self, attempt: &AttemptRecord) {
        self.calls += 1;
        self.input_tokens += attempt.usage.input_tokens.map_or(0, i64::from);
        self.output_tokens += attempt.usage.output_tokens.map_or(0, i64::from);
        self.cost_pico += attempt.cost_pico_usd.unwrap_or(0);
    }
}

/// Moves counters, batches in order of id.
pub(super) async fn count(tx: &mut PgConnection, deltas: &BTreeMap<Uuid, Delta>) -> Result<()> {
    if deltas.is_empty() {
        return Ok(());
    }
    let all = || deltas.values();
    sqlx::query(COUNT)
        .bind(deltas.keys().copied().bind_iter())
        .bind(all().map(|delta| delta.statuses[0]).bind_iter())
        .bind(all().map(|delta| delta.statuses[1]).bind_iter())
        .bind(all().map(|delta| delta.statuses[2]).bind_iter())
        .bind(all().map(|delta| delta.statuses[3]).bind_iter())
        .bind(all().map(|delta| delta.calls).bind_iter())
        .bind(all().map(|delta| delta.input_tokens).bind_iter())
        .bind(all().map(|delta| delta.output_tokens).bind_iter())
        .bind(all().map(|delta| delta.cost_pico).bind_iter())
        .bind(all().map(|delta| delta.saved_pico).bind_iter())
        .execute(&mut *tx)
        .await
        .map_err(failed("moving counters"))?;
    Ok(())
}

/// Flushes a group; where the database refuses a row, finds it by halving and stores it as failed instead.
pub(super) async fn flush_splitting(
    pool: &PgPool,
    rules: CacheRules,
    owner: OwnerId,
    settlements: &[Settlement],
) -> Result<Flushed> {
    let mut total = Flushed::default();
    let mut parts: Vec<std::borrow::Cow<'_, [Settlement]>> = vec![settlements.into()];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match again!(flush_looking(pool, rules, owner, &part)) {
            Ok(flushed) => {
                total.results += flushed.results;
                total.waiting += flushed.waiting;
                total.attempts += flushed.attempts;
                total.lost += flushed.lost;
            }
            Err(Error::Refused { doing, source }) if part.len() == 1 => {
                let Some(replaced) = replace_refused(&part[0], &source) else {
                    return Err(Error::Refused { doing, source });
                };
                tracing::error!(job.id = %part[0].job.id, error = %source, "row refused, storing the job as failed");
                total.rejected += 1;
                parts.push(vec![replaced].into());
            }
            Err(Error::Refused { .. }) => {
                let (left, right) = part.split_at(part.len() / 2);
                parts.push(left.to_vec().into());
                parts.push(right.to_vec().into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Makes what is stored instead of a refused row: nothing in it comes from outside. `None` if it was replaced already.
fn replace_refused(settlement: &Settlement, source: &sqlx::Error) -> Option<Settlement> {
    let (calls, finished_at, cost_pico_usd) = match &settlement.end {
        End::Result(result) => {
            let already = result.error.as_ref().is_some_and(|error| error.class == ErrorClass::StoreRejected);
            if already {
                return None;
            }
            (result.attempts, result.finished_at, result.cost_pico_usd)
        }
        End::Wake(wake) => (wake.calls, settlement.attempts.last()?.started_at, wake.spent_pico_usd),
    };
    let error = ErrorRecord::new(ErrorClass::StoreRejected, "the database refused to keep the result of this job")
        .caused_by("other", source.to_string());
    let attempts = settlement.attempts.iter().map(|attempt| AttemptRecord {
        served_model: None,
        service_tier: None,
        price_ref: None,
        billed: None,
        request_id: None,
        error: None,
        ..attempt.clone()
    });
    let result = JobResult { cost_pico_usd, ..JobResult::without_answer(Status::Failed, error, calls, finished_at) };
    Some(Settlement {
        job: settlement.job.clone(),
        tags: Arc::default(),
        spends: settlement.spends.clone(),
        attempts: attempts.collect(),
        caching: settlement.caching.clone(),
        end: End::Result(Box::new(result)),
    })
}

/// Flushes a group as if all of it were new, which it is unless the answer to an earlier flush was lost; then it looks first.
async fn flush_looking(
    pool: &PgPool,
    rules: CacheRules,
    owner: OwnerId,
    settlements: &[Settlement],
) -> Result<Flushed> {
    let mut looks = 0;
    loop {
        match flush(pool, rules, owner, settlements, looks > 0).await {
            Err(error) if copy::is_there_already(&error, looks) => looks += 1,
            done => return done,
        }
    }
}

async fn flush(
    pool: &PgPool,
    rules: CacheRules,
    owner: OwnerId,
    settlements: &[Settlement],
    look: bool,
) -> Result<Flushed> {
    let mut results: Vec<(&Settlement, &JobResult)> = Vec::with_capacity(settlements.len());
    let mut wakes: Vec<(&JobRef, &Wake)> = Vec::new();
    let mut attempts: Vec<(&Settlement, &AttemptRecord)> = Vec::with_capacity(settlements.len());
    for settlement in settlements {
        match &settlement.end {
            End::Result(result) => results.push((settlement, result)),
            End::Wake(wake) => wakes.push((&settlement.job, wake)),
        }
        attempts.extend(settlement.attempts.iter().map(|attempt| (settlement, attempt)));
    }
    results.sort_unstable_by_key(|(settlement, _)| settlement.job.id);
    wakes.sort_unstable_by_key(|(job, _)| job.id);
    attempts.sort_unstable_by_key(|(settlement, attempt)| (settlement.job.id, attempt.attempt));

    let mut flushed = Flushed::default();
    let mut tx = pool.begin().await.map_err(failed(DOING))?;
    if !results.is_empty() {
        let gone = let_go(&mut tx, owner, &results).await?;
        results.retain(|(settlement, _)| gone.contains(&settlement.job.id.uuid()));
    }
    if !wakes.is_empty() {
        flushed.waiting = wake_later(&mut tx, owner, &wakes).await?;
    }
    if look {
        leave_out_ended(&mut tx, &mut results).await?;
        leave_out_kept(&mut tx, owner, &mut attempts).await?;
    }
    end_runs(&mut tx, &results).await?;
    keep_attempts(&mut tx, owner, &attempts).await?;
    let mut deltas: BTreeMap<Uuid, Delta> = BTreeMap::new();
    let mut tallies = Tallies::default();
    for (settlement, result) in &results {
        deltas.entry(settlement.job.batch.uuid()).or_default().result(result);
        tallies.result(settlement, result);
    }
    for (settlement, attempt) in &attempts {
        deltas.entry(settlement.job.batch.uuid()).or_default().attempt(attempt);
        tallies.call(settlement, attempt);
    }
    cache::keep(&mut tx, rules, &results).await?;
    tally::write(&mut tx, &tallies).await?;
    // Late, since all flushes of a batch wait for its row.
    count(&mut tx, &deltas).await?;
    budget::spend(&mut tx, &attempts).await?;
    tx.commit().await.map_err(failed(DOING))?;
    flushed.results = results.len() as u64;
    flushed.attempts = attempts.len() as u64;
    flushed.lost = (settlements.len() as u64).saturating_sub(flushed.results + flushed.waiting);
    Ok(flushed)
}

async fn let_go(tx: &mut PgConnection, owner: OwnerId, results: &[(&Settlement, &JobResult)]) -> Result<HashSet<Uuid>> {
    let gone: Vec<Uuid> = sqlx::query_scalar(LET_GO)
        .bind(owner.uuid())
        .bind(results.iter().map(|(settlement, _)| settlement.job.id.uuid()).bind_iter())
        .bind(results.iter().map(|(settlement, _)| int(settlement.job.run)).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    Ok(gone.into_iter().collect())
}

/// Leaves out runs that have a result, or that come twice.
async fn leave_out_ended(tx: &mut PgConnection, results: &mut Vec<(&Settlement, &JobResult)>) -> Result<()> {
    let jobs = || results.iter().map(|(settlement, _)| &settlement.job);
    let rows = sqlx::query(ENDED_RUNS)
        .bind(jobs().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs().map(|job| int(job.run)).bind_iter())
        .bind(jobs().map(|job| job.id.part_day()).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    let mut ended: HashSet<(Uuid, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    results.retain(|(settlement, _)| ended.insert((settlement.job.id.uuid(), int(settlement.job.run))));
    Ok(())
}

async fn end_runs(tx: &mut PgConnection, results: &[(&Settlement, &JobResult)]) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new(32);
    for (Settlement { job, .. }, result) in results {
        let error = result.error.as_deref();
        rows.row();
        rows.put(job.id.uuid());
        rows.put(int(job.run));
        rows.put(job.id.part_day());
        rows.put(job.batch.uuid());
        rows.put(result.status.as_str());
        rows.put(&*job.lane.group);
        rows.put(result.provider.as_deref());
        rows.put(result.deployment.as_deref());
        rows.put(result.served_model.as_deref().map(text));
        rows.put(result.finish_reason.as_deref().map(text));
        rows.put(result.output_text.as_deref().map(text));
        rows.put(result.response.as_deref().and_then(|body| std::str::from_utf8(body).ok()));
        put_usage(&mut rows, &result.usage);
        rows.usd(result.cost_pico_usd);
        rows.usd(result.saved_pico_usd);
        rows.put(result.cached);
        rows.put(int(result.attempts));
        rows.put(result.queued_at);
        rows.put(result.started_at);
        rows.put(result.finished_at);
        rows.put(result.ttft_ms.map(int));
        rows.put(result.latency_ms.map(int));
        rows.put(error.map(|error| error.class.as_str()));
        rows.put(error.and_then(|error| error.status).map(i32::from));
        rows.put(error.and_then(|error| error.code.as_deref()).map(text));
        rows.put(error.map(|error| text(&error.message)));
        rows.put(error.and_then(|error| json_text(error, false)));
        rows.put(result.request_id.as_deref().map(text));
    }
    rows.copy(tx, END_RUNS).await.map_err(failed(DOING))
}

fn put_usage(rows: &mut Rows, usage: &Usage) {
    rows.put(usage.input_tokens.map(int));
    rows.put(usage.cached_input_tokens.map(int));
    rows.put(usage.cache_write_tokens.map(int));
    rows.put(usage.output_tokens.map(int));
    rows.put(usage.reasoning_tokens.map(int));
}

async fn wake_later(tx: &mut PgConnection, owner: OwnerId, wakes: &[(&JobRef, &Wake)]) -> Result<u64> {
    let all = || wakes.iter().map(|(_, wake)| *wake);
    let done = sqlx::query(WAKE_LATER)
        .bind(owner.uuid())
        .bind(wakes.iter().map(|(job, _)| job.id.uuid()).bind_iter())
        .bind(wakes.iter().map(|(job, _)| int(job.run)).bind_iter())
        .bind(all().map(|wake| int(wake.calls)).bind_iter())
        .bind(all().map(|wake| int(wake.attempts)).bind_iter())
        .bind(all().map(|wake| int(wake.faults)).bind_iter())
        .bind(all().map(|wake| text(&wake.reason)).bind_iter())
        .bind(all().map(|wake| json_text(&wake.earlier, wake.earlier.is_empty())).bind_iter())
        .bind(all().map(|wake| seconds(wake.after)).bind_iter())
        .bind(wakes.iter().map(|(job, _)| job.id.part_day()).bind_iter())
        .bind(all().map(|wake| wake.spent_pico_usd).bind_iter())
        .execute(&mut *tx)
        .await
        .map_err(failed("putting runs to wait"))?;
    Ok(done.rows_affected())
}

/// Leaves out calls that are kept, or that come twice.
async fn leave_out_kept(
    tx: &mut PgConnection,
    owner: OwnerId,
    attempts: &mut Vec<(&Settlement, &AttemptRecord)>,
) -> Result<()> {
    let jobs = || attempts.iter().map(|(settlement, _)| &settlement.job);
    let rows = sqlx::query(KEPT_ATTEMPTS)
        .bind(owner.uuid())
        .bind(jobs().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs().map(|job| int(job.run)).bind_iter())
        .bind(attempts.iter().map(|(_, attempt)| int(attempt.attempt)).bind_iter())
        .bind(jobs().map(|job| job.id.part_day()).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("keeping attempts"))?;
    let mut kept: HashSet<(Uuid, i32, i32)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    attempts
        .retain(|(Settlement { job, .. }, attempt)| kept.insert((job.id.uuid(), int(job.run), int(attempt.attempt))));
    Ok(())
}

async fn keep_attempts(
    tx: &mut PgConnection,
    owner: OwnerId,
    attempts: &[(&Settlement, &AttemptRecord)],
) -> Result<()> {
    if attempts.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::new(30);
    for (Settlement { job, .. }, attempt) in attempts {
        let error = attempt.error.as_deref();
        rows.row();
        rows.put(job.id.uuid());
        rows.put(int(job.run));
        rows.put(int(attempt.attempt));
        rows.put(owner.uuid());
        rows.put(job.id.part_day());
        rows.put(job.batch.uuid());
        rows.put(&*job.lane.group);
        rows.put(&*attempt.provider);
        rows.put(&*attempt.deployment);
        rows.put(&*attempt.model);
        rows.put(attempt.served_model.as_deref().map(text));
        rows.put(attempt.service_tier.as_deref().map(text));
        rows.put(attempt.started_at);
        rows.put(attempt.ttft_ms.map(int));
        rows.put(int(attempt.latency_ms));
        rows.put(attempt.http_status.map(i32::from));
        rows.put(attempt.counted);
        put_usage(&mut rows, &attempt.usage);
        rows.usd(attempt.cost_pico_usd);
        rows.put(attempt.cost_basis.as_str());
        rows.put(attempt.price_ref.as_deref());
        rows.put(attempt.request_id.as_deref().map(text));
        rows.put(error.map(|error| error.class.as_str()));
        rows.put(error.and_then(|error| json_text(error, false)));
        rows.put(attempt.billed.as_deref());
        rows.usd(attempt.bound_pico_usd);
    }
    rows.copy(tx, KEEP_ATTEMPTS).await.map_err(failed("keeping attempts"))
}
