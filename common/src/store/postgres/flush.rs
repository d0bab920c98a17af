//! The flush: results, wake-ups, attempts and counters of a group in one transaction.
//!
//! A live row that this owner still holds is the right to write the run's result: it is deleted in the transaction that
//! inserts the result. Rows are locked in one order everywhere: live rows, then results and attempts, then batches by id.
//! Counters move by what was really inserted, so a flush that is repeated because its answer was lost moves nothing.

use std::collections::{BTreeMap, HashSet};

use sqlx::postgres::{PgBindIterExt as _, PgPool};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::{End, Error, Flushed, Result, Settlement, Wake};
use super::row::{int, seconds, text};
use super::submit::json_text;
use super::{again, failed};
use crate::failure::{ErrorClass, ErrorRecord};
use crate::id::OwnerId;
use crate::job::JobRef;
use crate::outcome::{AttemptRecord, JobResult, Status};

const DOING: &str = "writing results";

// Deleting and inserting in one statement would join the two sets, which the planner, blind to the size of an array, does by
// comparing each with each.
const LET_GO: &str = "-- live rows of ended runs go
DELETE FROM gristmill.live l USING UNNEST($2::uuid[], $3::integer[]) AS t (job_id, run)
WHERE l.job_id = t.job_id AND l.owner = $1 AND l.state = 0 AND l.run = t.run
RETURNING l.job_id";

const END_RUNS: &str = "-- results come
WITH ended AS (
    INSERT INTO gristmill.result (
        job_id, run, part_day, batch_id, status, model_group, provider, deployment, served_model, finish_reason,
        output_text, response, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        cost_usd, saved_usd, cached, attempts, queued_at, started_at, finished_at, ttft_ms, latency_ms, error_class,
        error_status, error_code, error_message, error, request_id)
    SELECT t.job_id, t.run, t.part_day, t.batch_id, t.status, t.model_group, t.provider, t.deployment, t.served_model,
           t.finish_reason, t.output_text, t.response::json, t.input_tokens, t.cached_input_tokens, t.cache_write_tokens,
           t.output_tokens, t.reasoning_tokens, t.cost_pico::numeric / 1000000000000,
           t.saved_pico::numeric / 1000000000000, t.cached, t.attempts, t.queued_at, t.started_at, t.finished_at,
           t.ttft_ms, t.latency_ms, t.error_class, t.error_status, t.error_code, t.error_message, t.error::json,
           t.request_id
    FROM UNNEST($1::uuid[], $2::integer[], $3::date[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::text[], $10::text[], $11::text[], $12::text[], $13::integer[], $14::integer[], $15::integer[],
                $16::integer[], $17::integer[], $18::bigint[], $19::bigint[], $20::boolean[], $21::integer[],
                $22::timestamptz[], $23::timestamptz[], $24::timestamptz[], $25::integer[], $26::integer[], $27::text[],
                $28::integer[], $29::text[], $30::text[], $31::text[], $32::text[])
         AS t (job_id, run, part_day, batch_id, status, model_group, provider, deployment, served_model, finish_reason,
               output_text, response, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
               reasoning_tokens, cost_pico, saved_pico, cached, attempts, queued_at, started_at, finished_at, ttft_ms,
               latency_ms, error_class, error_status, error_code, error_message, error, request_id)
    ON CONFLICT DO NOTHING
    RETURNING batch_id, status, saved_usd
)
SELECT batch_id, status, count(*), (coalesce(sum(saved_usd), 0) * 1000000000000)::bigint FROM ended GROUP BY batch_id, status";

const WAKE_LATER: &str = "-- runs that come back later
UPDATE gristmill.live l
SET state = 1, owner = NULL, version = l.version + 1, calls = t.calls, attempts = t.attempts, faults = t.faults,
    reason = t.reason, earlier = t.earlier::json,
    wake_at = least(now() + make_interval(secs => t.after),
                    (SELECT j.deadline FROM gristmill.job j
                     WHERE j.batch_id = l.batch_id AND j.job_id = l.job_id AND j.part_day = t.part_day))
FROM UNNEST($2::uuid[], $3::integer[], $4::integer[], $5::integer[], $6::integer[], $7::text[], $8::text[],
            $9::double precision[], $10::date[])
     AS t (job_id, run, calls, attempts, faults, reason, earlier, after, part_day)
WHERE l.job_id = t.job_id AND l.owner = $1 AND l.state = 0 AND l.run = t.run";

const KEEP_ATTEMPTS: &str = "-- keep attempts
WITH kept AS (
    INSERT INTO gristmill.attempt (
        job_id, run, attempt, owner, part_day, batch_id, model_group, provider, deployment, model, served_model,
        service_tier, started_at, ttft_ms, latency_ms, http_status, counted, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, cost_basis, price_ref, request_id, error_class, error)
    SELECT t.job_id, t.run, t.attempt, $1, t.part_day, t.batch_id, t.model_group, t.provider, t.deployment, t.model,
           t.served_model, t.service_tier, t.started_at, t.ttft_ms, t.latency_ms, t.http_status, t.counted, t.input_tokens,
           t.cached_input_tokens, t.cache_write_tokens, t.output_tokens, t.reasoning_tokens,
           t.cost_pico::numeric / 1000000000000, t.cost_basis, t.price_ref, t.request_id, t.error_class, t.error::json
    FROM UNNEST($2::uuid[], $3::integer[], $4::integer[], $5::date[], $6::uuid[], $7::text[], $8::text[], $9::text[],
                $10::text[], $11::text[], $12::text[], $13::timestamptz[], $14::integer[], $15::integer[], $16::integer[],
                $17::boolean[], $18::integer[], $19::integer[], $20::integer[], $21::integer[], $22::integer[],
                $23::bigint[], $24::text[], $25::text[], $26::text[], $27::text[], $28::text[])
         AS t (job_id, run, attempt, part_day, batch_id, model_group, provider, deployment, model, served_model,
               service_tier, started_at, ttft_ms, latency_ms, http_status, counted, input_tokens, cached_input_tokens,
               cache_write_tokens, output_tokens, reasoning_tokens, cost_pico, cost_basis, price_ref, request_id,
               error_class, error)
    ON CONFLICT DO NOTHING
    RETURNING batch_id, input_tokens, output_tokens, cost_usd
)
SELECT batch_id, count(*), coalesce(sum(input_tokens), 0)::bigint, coalesce(sum(output_tokens), 0)::bigint,
       (coalesce(sum(cost_usd), 0) * 1000000000000)::bigint
FROM kept GROUP BY batch_id";

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
pub(super) async fn flush_splitting(pool: &PgPool, owner: OwnerId, settlements: &[Settlement]) -> Result<Flushed> {
    let mut total = Flushed::default();
    let mut parts: Vec<std::borrow::Cow<'_, [Settlement]>> = vec![settlements.into()];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match again!(flush(pool, owner, &part)) {
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
    let (calls, finished_at) = match &settlement.end {
        End::Result(result) => {
            let already = result.error.as_ref().is_some_and(|error| error.class == ErrorClass::StoreRejected);
            if already {
                return None;
            }
            (result.attempts, result.finished_at)
        }
        End::Wake(wake) => (wake.calls, settlement.attempts.last()?.started_at),
    };
    let error = ErrorRecord::new(ErrorClass::StoreRejected, "the database refused to keep the result of this job")
        .caused_by("other", source.to_string());
    let attempts = settlement.attempts.iter().map(|attempt| AttemptRecord {
        served_model: None,
        service_tier: None,
        price_ref: None,
        request_id: None,
        error: None,
        ..attempt.clone()
    });
    Some(Settlement {
        job: settlement.job.clone(),
        attempts: attempts.collect(),
        end: End::Result(Box::new(JobResult::without_answer(Status::Failed, error, calls, finished_at))),
    })
}

async fn flush(pool: &PgPool, owner: OwnerId, settlements: &[Settlement]) -> Result<Flushed> {
    let mut results: Vec<(&JobRef, &JobResult)> = Vec::with_capacity(settlements.len());
    let mut wakes: Vec<(&JobRef, &Wake)> = Vec::new();
    let mut attempts: Vec<(&JobRef, &AttemptRecord)> = Vec::with_capacity(settlements.len());
    for settlement in settlements {
        match &settlement.end {
            End::Result(result) => results.push((&settlement.job, result)),
            End::Wake(wake) => wakes.push((&settlement.job, wake)),
        }
        attempts.extend(settlement.attempts.iter().map(|attempt| (&settlement.job, attempt)));
    }
    results.sort_unstable_by_key(|(job, _)| job.id);
    wakes.sort_unstable_by_key(|(job, _)| job.id);
    attempts.sort_unstable_by_key(|(job, attempt)| (job.id, attempt.attempt));

    let mut deltas: BTreeMap<Uuid, Delta> = BTreeMap::new();
    let mut flushed = Flushed::default();
    let mut tx = pool.begin().await.map_err(failed(DOING))?;
    if !results.is_empty() {
        let gone = let_go(&mut tx, owner, &results).await?;
        if gone.len() < results.len() {
            results.retain(|(job, _)| gone.contains(&job.id.uuid()));
        }
        flushed.results = end_runs(&mut tx, &results, &mut deltas).await?;
    }
    if !wakes.is_empty() {
        flushed.waiting = wake_later(&mut tx, owner, &wakes).await?;
    }
    if !attempts.is_empty() {
        flushed.attempts = keep_attempts(&mut tx, owner, &attempts, &mut deltas).await?;
    }
    count(&mut tx, &deltas).await?;
    tx.commit().await.map_err(failed(DOING))?;
    flushed.lost = (settlements.len() as u64).saturating_sub(flushed.results + flushed.waiting);
    Ok(flushed)
}

async fn let_go(tx: &mut PgConnection, owner: OwnerId, results: &[(&JobRef, &JobResult)]) -> Result<HashSet<Uuid>> {
    let gone: Vec<Uuid> = sqlx::query_scalar(LET_GO)
        .bind(owner.uuid())
        .bind(results.iter().map(|(job, _)| job.id.uuid()).bind_iter())
        .bind(results.iter().map(|(job, _)| int(job.run)).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    Ok(gone.into_iter().collect())
}

async fn end_runs(
    tx: &mut PgConnection,
    results: &[(&JobRef, &JobResult)],
    deltas: &mut BTreeMap<Uuid, Delta>,
) -> Result<u64> {
    if results.is_empty() {
        return Ok(0);
    }
    let jobs = || results.iter().map(|(job, _)| *job);
    let all = || results.iter().map(|(_, result)| *result);
    let usage = || all().map(|result| &result.usage);
    let errors = || all().map(|result| result.error.as_deref());
    let rows = sqlx::query(END_RUNS)
        .bind(jobs().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs().map(|job| int(job.run)).bind_iter())
        .bind(jobs().map(|job| job.id.part_day()).bind_iter())
        .bind(jobs().map(|job| job.batch.uuid()).bind_iter())
        .bind(all().map(|result| result.status.as_str()).bind_iter())
        .bind(jobs().map(|job| &*job.lane.group).bind_iter())
        .bind(all().map(|result| result.provider.as_deref()).bind_iter())
        .bind(all().map(|result| result.deployment.as_deref()).bind_iter())
        .bind(all().map(|result| result.served_model.as_deref().map(text)).bind_iter())
        .bind(all().map(|result| result.finish_reason.as_deref().map(text)).bind_iter())
        .bind(all().map(|result| result.output_text.as_deref().map(text)).bind_iter())
        .bind(
            all().map(|result| result.response.as_deref().and_then(|body| std::str::from_utf8(body).ok())).bind_iter(),
        )
        .bind(usage().map(|usage| usage.input_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.cached_input_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.cache_write_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.output_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.reasoning_tokens.map(int)).bind_iter())
        .bind(all().map(|result| result.cost_pico_usd).bind_iter())
        .bind(all().map(|result| result.saved_pico_usd).bind_iter())
        .bind(all().map(|result| result.cached).bind_iter())
        .bind(all().map(|result| int(result.attempts)).bind_iter())
        .bind(all().map(|result| result.queued_at).bind_iter())
        .bind(all().map(|result| result.started_at).bind_iter())
        .bind(all().map(|result| result.finished_at).bind_iter())
        .bind(all().map(|result| result.ttft_ms.map(int)).bind_iter())
        .bind(all().map(|result| result.latency_ms.map(int)).bind_iter())
        .bind(errors().map(|error| error.map(|error| error.class.as_str())).bind_iter())
        .bind(errors().map(|error| error.and_then(|error| error.status).map(i32::from)).bind_iter())
        .bind(errors().map(|error| error.and_then(|error| error.code.as_deref()).map(text)).bind_iter())
        .bind(errors().map(|error| error.map(|error| text(&error.message))).bind_iter())
        .bind(errors().map(|error| error.and_then(|error| json_text(error, false))).bind_iter())
        .bind(all().map(|result| result.request_id.as_deref().map(text)).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(DOING))?;
    let mut inserted = 0;
    for row in rows {
        let count: i64 = row.get(2);
        let delta = deltas.entry(row.get(0)).or_default();
        delta.add(row.get(1), count);
        delta.saved_pico += row.get::<i64, _>(3);
        inserted += count.unsigned_abs();
    }
    Ok(inserted)
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
        .execute(&mut *tx)
        .await
        .map_err(failed("putting runs to wait"))?;
    Ok(done.rows_affected())
}

async fn keep_attempts(
    tx: &mut PgConnection,
    owner: OwnerId,
    attempts: &[(&JobRef, &AttemptRecord)],
    deltas: &mut BTreeMap<Uuid, Delta>,
) -> Result<u64> {
    let jobs = || attempts.iter().map(|(job, _)| *job);
    let all = || attempts.iter().map(|(_, attempt)| *attempt);
    let usage = || all().map(|attempt| &attempt.usage);
    let errors = || all().map(|attempt| attempt.error.as_deref());
    let rows = sqlx::query(KEEP_ATTEMPTS)
        .bind(owner.uuid())
        .bind(jobs().map(|job| job.id.uuid()).bind_iter())
        .bind(jobs().map(|job| int(job.run)).bind_iter())
        .bind(all().map(|attempt| int(attempt.attempt)).bind_iter())
        .bind(jobs().map(|job| job.id.part_day()).bind_iter())
        .bind(jobs().map(|job| job.batch.uuid()).bind_iter())
        .bind(jobs().map(|job| &*job.lane.group).bind_iter())
        .bind(all().map(|attempt| &*attempt.provider).bind_iter())
        .bind(all().map(|attempt| &*attempt.deployment).bind_iter())
        .bind(all().map(|attempt| &*attempt.model).bind_iter())
        .bind(all().map(|attempt| attempt.served_model.as_deref().map(text)).bind_iter())
        .bind(all().map(|attempt| attempt.service_tier.as_deref().map(text)).bind_iter())
        .bind(all().map(|attempt| attempt.started_at).bind_iter())
        .bind(all().map(|attempt| attempt.ttft_ms.map(int)).bind_iter())
        .bind(all().map(|attempt| int(attempt.latency_ms)).bind_iter())
        .bind(all().map(|attempt| attempt.http_status.map(i32::from)).bind_iter())
        .bind(all().map(|attempt| attempt.counted).bind_iter())
        .bind(usage().map(|usage| usage.input_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.cached_input_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.cache_write_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.output_tokens.map(int)).bind_iter())
        .bind(usage().map(|usage| usage.reasoning_tokens.map(int)).bind_iter())
        .bind(all().map(|attempt| attempt.cost_pico_usd).bind_iter())
        .bind(all().map(|attempt| attempt.cost_basis.as_str()).bind_iter())
        .bind(all().map(|attempt| attempt.price_ref.as_deref()).bind_iter())
        .bind(all().map(|attempt| attempt.request_id.as_deref().map(text)).bind_iter())
        .bind(errors().map(|error| error.map(|error| error.class.as_str())).bind_iter())
        .bind(errors().map(|error| error.and_then(|error| json_text(error, false))).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("keeping attempts"))?;
    let mut kept = 0;
    for row in rows {
        let calls: i64 = row.get(1);
        let delta = deltas.entry(row.get(0)).or_default();
        delta.calls += calls;
        delta.input_tokens += row.get::<i64, _>(2);
        delta.output_tokens += row.get::<i64, _>(3);
        delta.cost_pico += row.get::<i64, _>(4);
        kept += calls.unsigned_abs();
    }
    Ok(kept)
}
