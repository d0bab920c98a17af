//! What is handed over to be written of a job: its last call's record and the run's end, or when and why it comes back.
//!
//! Owns how these rows are made; `decision` says whether a run that failed ends, `cost` what the call cost. Nothing here waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gristmill_common::failure::{Disposition, EarlierAttempt, ErrorClass, ErrorRecord};
use gristmill_common::job::is_users_tag;
use gristmill_common::outcome::{AttemptRecord, JobResult, Status};
use gristmill_common::store::{CachedAnswer, Caching, End, Settlement, Ticket, Wake};

use crate::decision::{Allowed, Next, Spent, decide};
use crate::gate::Gate;
use crate::provider::Reply;
use crate::route;
use crate::session::Session;

/// Earlier attempts that a live row and an error keep; what is older is counted in them.
pub(crate) const MOST_EARLIER: usize = 8;

/// Makes what becomes of a job after a call: its record, and the run's end or its wait.
pub(crate) fn settle(
    session: &Session,
    gate: &Gate,
    ticket: &Ticket,
    started_at: DateTime<Utc>,
    reply: &Reply,
) -> Settlement {
    let error = reply.outcome.as_ref().err();
    let counted = error.is_none_or(|error| matches!(error.disposition(), Disposition::Retry | Disposition::Final));
    let cost = session.costs.of(&gate.deployment, ticket, reply, started_at);
    let attempt = AttemptRecord {
        attempt: ticket.calls + 1,
        provider: gate.deployment.provider.clone(),
        deployment: gate.deployment.name.clone(),
        model: gate.deployment.model.clone(),
        served_model: reply.served_model.clone(),
        service_tier: reply.service_tier.clone(),
        started_at,
        ttft_ms: reply.ttft_ms,
        latency_ms: reply.latency_ms,
        http_status: reply.http_status,
        counted,
        usage: reply.usage,
        cost_pico_usd: cost.pico_usd,
        cost_basis: cost.basis,
        bound_pico_usd: cost.bound_pico_usd,
        price_ref: cost.price_ref,
        billed: cost.billed,
        request_id: reply.request_id.clone(),
        error: error.cloned(),
    };
    let caching = caching(ticket, &gate.deployment.group);
    let end = match &reply.outcome {
        Ok(answer) => End::Result(Box::new(JobResult {
            finish_reason: answer.finish_reason.clone(),
            output_text: answer.output_text.clone(),
            response: Some(answer.body.clone()),
            error: None,
            ..result(session, Status::Succeeded, ticket, &attempt)
        })),
        Err(error) => after_error(session, gate, ticket, &attempt, error.disposition(), error),
    };
    Settlement { job: ticket.job.clone(), tags: tags(ticket), spends: None, attempts: vec![attempt], caching, end }
}

/// Makes the reply of a call that this process ends in the middle, since it stops: nobody will see its outcome.
pub(crate) fn cut_off(started_at: DateTime<Utc>, now: DateTime<Utc>) -> Reply {
    let error = ErrorRecord::new(ErrorClass::Cancelled, "the worker was stopped in the middle of this call");
    let latency_ms = u32::try_from((now - started_at).num_milliseconds()).unwrap_or(0);
    Reply { sent: true, latency_ms, ..Reply::new(Err(Box::new(error))) }
}

/// Has a run come back at once whose call was cut off here; that counts against nothing.
pub(crate) fn put_back(ticket: &Ticket, settlement: &mut Settlement) {
    settlement.attempts.iter_mut().for_each(|attempt| attempt.counted = false);
    settlement.end = End::Wake(Wake {
        after: Duration::ZERO,
        reason: "the worker was stopped in the middle of a call".to_owned(),
        calls: ticket.calls + 1,
        attempts: ticket.attempts,
        faults: ticket.faults,
        earlier: ticket.earlier.clone(),
        spent_pico_usd: ticket.spent_pico_usd,
    });
}

/// Returns what a run has cost with its last call, as far as it is known.
pub(crate) fn cost_so_far(ticket: &Ticket, attempt: &AttemptRecord) -> Option<i64> {
    match (ticket.spent_pico_usd, attempt.cost_pico_usd) {
        (Some(before), Some(now)) => Some(before.saturating_add(now)),
        (before, now) => now.or(before),
    }
}

/// Writes the user's tags as statistics keep them.
fn tags(ticket: &Ticket) -> Arc<str> {
    let tags: BTreeMap<&str, &str> =
        ticket.request.options.tags.iter().filter(|(name, _)| is_users_tag(name)).map(|(k, v)| (&**k, &**v)).collect();
    if tags.is_empty() { Arc::default() } else { serde_json::to_string(&tags).unwrap_or_default().into() }
}

/// Makes the row of a run whose last call is `attempt`, without its answer.
fn result(session: &Session, status: Status, ticket: &Ticket, attempt: &AttemptRecord) -> JobResult {
    JobResult {
        status,
        provider: Some(attempt.provider.clone()),
        deployment: Some(attempt.deployment.clone()),
        served_model: attempt.served_model.clone(),
        finish_reason: None,
        output_text: None,
        response: None,
        usage: attempt.usage,
        cost_pico_usd: cost_so_far(ticket, attempt),
        cached: false,
        saved_pico_usd: None,
        attempts: attempt.attempt,
        queued_at: Some(ticket.queued_at),
        started_at: Some(attempt.started_at),
        finished_at: session.clock.now(),
        ttft_ms: attempt.ttft_ms,
        latency_ms: Some(attempt.latency_ms),
        request_id: attempt.request_id.clone(),
        error: None,
    }
}

/// Decides whether the run ends with this error or comes back.
fn after_error(
    session: &Session,
    gate: &Gate,
    ticket: &Ticket,
    attempt: &AttemptRecord,
    disposition: Disposition,
    error: &ErrorRecord,
) -> End {
    let spent = Spent { attempts: ticket.attempts, calls: ticket.calls, faults: ticket.faults };
    let own = ticket.request.options.num_retries;
    let usual = gate.deployment.num_retries.unwrap_or(session.num_retries);
    let (routing, group) = (&session.routes.routing, &gate.deployment.group);
    let allowed = Allowed::of(routing, group, own, usual, error, &ticket.earlier);
    match decide(disposition, error, spent, allowed, gate.works(), gate.paused_for()) {
        Next::Fail(verdict) => {
            let error = ErrorRecord { verdict: Some(verdict), earlier: ticket.earlier.clone(), ..error.clone() };
            let error = Some(Box::new(error));
            End::Result(Box::new(JobResult { error, ..result(session, Status::Failed, ticket, attempt) }))
        }
        Next::Wake { after, reason, spent } => {
            let reason = match disposition {
                Disposition::DeploymentFault => gate.fault(error),
                _ => reason,
            };
            let mut kept = ticket.earlier.clone();
            kept.push(EarlierAttempt::of(attempt.attempt, error));
            route::keep_newest(&mut kept, MOST_EARLIER);
            End::Wake(Wake {
                after,
                reason,
                calls: spent.calls,
                attempts: spent.attempts,
                faults: spent.faults,
                earlier: kept,
                spent_pico_usd: cost_so_far(ticket, attempt),
            })
        }
    }
}

/// Ends a run with an answer that was kept: no call is made. Its tokens are those of the call that gave the answer, which cost what
/// is saved.
pub(crate) fn cached(session: &Session, ticket: &Ticket, answer: CachedAnswer) -> Settlement {
    let now = session.clock.now();
    let result = JobResult {
        status: Status::Succeeded,
        provider: answer.provider,
        deployment: answer.deployment,
        served_model: answer.served_model,
        finish_reason: answer.finish_reason,
        output_text: answer.output_text,
        response: Some(answer.response),
        usage: answer.usage,
        // Earlier calls of the run that failed are still paid for.
        cost_pico_usd: Some(ticket.spent_pico_usd.unwrap_or(0)),
        cached: true,
        saved_pico_usd: answer.cost_pico_usd,
        attempts: ticket.calls,
        queued_at: Some(ticket.queued_at),
        started_at: Some(now),
        finished_at: now,
        ttft_ms: None,
        latency_ms: None,
        request_id: None,
        error: None,
    };
    unspent(ticket, End::Result(Box::new(result)))
}

/// Returns what the response cache is to keep of a run: an answer only of the group that was asked.
fn caching(ticket: &Ticket, group: &str) -> Option<Caching> {
    let caching = ticket.caching.clone()?;
    Some(Caching { keep: caching.keep && group == &*ticket.job.lane.group, ..caching })
}

/// Ends a run of a cancelled batch.
pub(crate) fn cancelled(session: &Session, ticket: &Ticket) -> Settlement {
    let error = ErrorRecord::new(ErrorClass::Cancelled, "the batch was cancelled before this job was answered");
    without_answer(session, ticket, Status::Cancelled, error)
}

/// Ends a run whose deadline has passed.
pub(crate) fn expired(session: &Session, ticket: &Ticket) -> Settlement {
    let error = ErrorRecord::new(ErrorClass::DeadlineExceeded, "the deadline passed before a call could start");
    without_answer(session, ticket, Status::Expired, error)
}

/// Ends a run whose work panicked here: a fault of this program, which another try would only repeat.
pub(crate) fn panicked(session: &Session, ticket: &Ticket) -> Settlement {
    let error = ErrorRecord::new(ErrorClass::WorkerCrashed, "the worker panicked while it ran this job; see its log");
    without_answer(session, ticket, Status::Failed, error)
}

/// Ends a run without a call's answer.
pub(crate) fn without_answer(session: &Session, ticket: &Ticket, status: Status, error: ErrorRecord) -> Settlement {
    let error = ErrorRecord { earlier: ticket.earlier.clone(), ..error };
    let result = JobResult {
        queued_at: Some(ticket.queued_at),
        cost_pico_usd: ticket.spent_pico_usd,
        ..JobResult::without_answer(status, error, ticket.calls, session.clock.now())
    };
    unspent(ticket, End::Result(Box::new(result)))
}

/// Makes the settlement of a job of which no call is to be recorded.
pub(crate) fn unspent(ticket: &Ticket, end: End) -> Settlement {
    Settlement {
        job: ticket.job.clone(),
        tags: tags(ticket),
        spends: None,
        attempts: Vec::new(),
        caching: ticket.caching.clone(),
        end,
    }
}
