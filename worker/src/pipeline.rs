//! The way of one admitted job: acquire → re-check → call → decide → settle.
//!
//! Owns the decision of what an outcome means for the job. Holds no lock and no transaction across the call. If the process
//! dies anywhere in here, the job's live row returns it to the queue when the owner's lease has run out.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gristmill_common::config::{Deployment, Dialect};
use gristmill_common::failpoint;
use gristmill_common::failure::{Disposition, EarlierAttempt, ErrorClass, ErrorRecord};
use gristmill_common::outcome::{AttemptRecord, CostBasis, JobResult, Status};
use gristmill_common::quota::{Dimension, Told};
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{self, End, Settlement, Ticket, Wake};

use crate::gate::{Gate, Shown};
use crate::group::Group;
use crate::hooks::HookCall;
use crate::line::{Answer, Permit};
use crate::provider::{Call, Cooldown, Limit, Reply, Tokens, Verdict};
use crate::session::Session;
use crate::tokens::Teller;
use crate::window::Place;

/// How long an admitted job waits here for a paused deployment before it goes back to the store.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it waits here for its account's limits: a worker takes no more jobs than can start sooner, but limits change.
const QUOTA_PATIENCE: Duration = Duration::from_secs(30);
/// Faults of deployments that one job may meet while others are answered; then the fault is taken to be the job's own.
const MOST_FAULTS: u32 = 5;
/// Earlier attempts that a live row and an error keep.
const MOST_EARLIER: usize = 8;

/// Why a job ends its stay here without a call.
#[derive(Debug, Clone, PartialEq)]
enum Early {
    /// This process drains.
    Released,
    /// The deployment is paused for longer than a job waits.
    Paused(Duration),
    /// Limits let nothing start for longer than a job waits.
    Waiting,
    /// It is larger than a limit.
    TooLarge(String),
    /// Its batch was cancelled.
    Cancelled,
    /// Its deadline has passed.
    Expired,
    /// Its owner's lease was lost: nothing may be written for it.
    Lost,
}

/// Works one job to its settlement; `None` if it belongs to another owner now.
pub(crate) async fn work(session: &Session, group: &Group, ticket: &Ticket, place: &mut Place) -> Option<Settlement> {
    let mut permit = match acquire(session, group, ticket).await {
        Ok(permit) => permit,
        Err(early) => return early.settle(session, group, ticket),
    };
    if let Err(early) = confess(session, ticket).await {
        return early.settle(session, group, ticket);
    }
    if let Err(early) = recheck(session, ticket).await {
        return early.settle(session, group, ticket);
    }
    place.keep(permit.uncommitted());
    permit.called();
    let started_at = session.clock.now();
    let reply = call(session, &permit, ticket).await;
    group.pace.ended();
    permit.settle(session.line.estimator(), &reply.usage);
    permit.gate().ledger.tell(told(&permit.gate().deployment, &reply.limits));
    let settlement = settle(session, permit.gate(), ticket, started_at, &reply);
    observe(session, permit.gate(), ticket, &settlement);
    permit.finish(&shown(&reply));
    Some(settlement)
}

/// Waits in the line for the right to make a call.
async fn acquire(session: &Session, group: &Group, ticket: &Ticket) -> Result<Permit, Early> {
    let (job, request) = (&ticket.job, &ticket.request);
    let answer = session.line.enter(group, job.lane.priority, job.batch, &request.body);
    tokio::select! {
        biased;
        () = session.lease.lost.cancelled() => Err(Early::Lost),
        () = session.drain.cancelled() => Err(Early::Released),
        answer = answer => match answer {
            Ok(Answer::Go(permit)) => Ok(*permit),
            Ok(Answer::TooLarge(why)) => Err(Early::TooLarge(why)),
            Err(_) => Err(Early::Released),
        },
        pause = group.paused_longer_than(PATIENCE) => Err(Early::Paused(pause)),
        () = tokio::time::sleep(QUOTA_PATIENCE) => Err(Early::Waiting),
        () = session.deadline(request.options.deadline) => Err(Early::Expired),
    }
}

/// Says of a job on which an owner died that it is called now. If this process dies as well, the job is taken to be why.
async fn confess(session: &Session, ticket: &Ticket) -> Result<(), Early> {
    if ticket.deaths == 0 {
        return Ok(());
    }
    let say = || session.store.calling(session.lease.owner, ticket.job.id);
    match until_ok(Schedule::RECONNECT, &session.drain, say, store::Error::is_transient, |_, _| {}).await {
        None => Err(Early::Released),
        Some(Ok(true)) => Ok(()),
        Some(Ok(false)) => Err(Early::Lost),
        Some(Err(error)) => {
            tracing::error!(%error, job.id = %ticket.job.id, "a job on which a worker died is called without a note of it");
            Ok(())
        }
    }
}

/// Asks once more, right before the money is spent.
async fn recheck(session: &Session, ticket: &Ticket) -> Result<(), Early> {
    if !session.lease.holds().await {
        return Err(Early::Lost);
    }
    if session.drain.is_cancelled() {
        return Err(Early::Released);
    }
    if session.lease.is_cancelled(ticket.job.batch) {
        return Err(Early::Cancelled);
    }
    if ticket.request.options.deadline.is_some_and(|deadline| deadline <= session.clock.now()) {
        return Err(Early::Expired);
    }
    Ok(())
}

async fn call(session: &Session, permit: &Permit, ticket: &Ticket) -> Reply {
    failpoint::pass_for("worker.before_call", &ticket.request.custom_id);
    let _in_flight = session.in_flight();
    let request = &ticket.request;
    let gate = permit.gate();
    let hook = hook_call(gate, ticket);
    let body = match session.hooks.request(hook, &request.body).await {
        Ok(body) => body,
        Err(error) => {
            let mut reply = Reply::new(Err(error));
            reply.sign(&gate.deployment);
            return reply;
        }
    };
    session.hooks.observe(|observer| observer.before_call(hook));
    let told = request
        .options
        .stream()
        .map(|stream| Teller::new(Arc::clone(&session.broker), stream, hook.attempt, session.lease.owner));
    let call = Call {
        endpoint: &request.endpoint,
        body: &body,
        job: ticket.job.id,
        deadline: None,
        service_tier: request.options.service_tier.as_deref(),
        tokens: told.as_ref().map(|told| told as &dyn Tokens),
    };
    let mut reply = gate.provider.call(call).await;
    session.hooks.answer(hook, &mut reply).await;
    reply.sign(&gate.deployment);
    session.hooks.observe(|observer| observer.after_call(hook, &reply));
    failpoint::pass("worker.after_call");
    reply
}

fn hook_call<'a>(gate: &'a Gate, ticket: &'a Ticket) -> HookCall<'a> {
    HookCall {
        job: ticket.job.id,
        batch: ticket.job.batch,
        custom_id: &ticket.request.custom_id,
        endpoint: &ticket.request.endpoint,
        deployment: &gate.deployment,
        attempt: ticket.calls + 1,
    }
}

/// Shows observers how the call's job goes on.
fn observe(session: &Session, gate: &Gate, ticket: &Ticket, settlement: &Settlement) {
    let call = hook_call(gate, ticket);
    let error = settlement.attempts.last().and_then(|attempt| attempt.error.as_deref());
    session.hooks.observe(|observer| match (&settlement.end, error) {
        (End::Result(result), _) => observer.on_result(call, result),
        (End::Wake(wake), Some(error)) => observer.on_retry(call, error, wake.after),
        (End::Wake(_), None) => {}
    });
}

fn shown(reply: &Reply) -> Shown<'_> {
    let Err(error) = &reply.outcome else { return Shown::Works };
    match (error.disposition(), Verdict::of(error).cooldown) {
        (Disposition::DeploymentFault, _) => Shown::Fault(error),
        (Disposition::RetryUncounted, Cooldown::Deployment) => Shown::Refused(error),
        (_, Cooldown::Count) => Shown::Failed(error),
        // An answer of any kind shows that somebody is there and takes the key.
        _ if reply.http_status.is_some() => Shown::Works,
        _ => Shown::Nothing,
    }
}

/// Reads what headers told of limits. Groq's word `requests` means those of a day (<https://console.groq.com/docs/rate-limits>,
/// read 2026-11); Anthropic's `tokens` is whichever of its limits is nearest
/// (<https://platform.claude.com/docs/en/api/rate-limits>, read 2026-11).
fn told(deployment: &Deployment, limits: &[Limit]) -> Told {
    let mut told = Told::default();
    for limit in limits {
        let dimension = match limit.dimension.as_str() {
            "requests" if &*deployment.provider == "groq" => {
                told.rpd = Some(limit.limit);
                continue;
            }
            "requests" => Dimension::Requests,
            "tokens" if deployment.wire.dialect != Dialect::Anthropic => Dimension::Tokens,
            "input-tokens" => Dimension::InputTokens,
            "output-tokens" => Dimension::OutputTokens,
            _ => continue,
        };
        told.per_minute[dimension] = Some(limit.limit).filter(|limit| *limit > 0);
    }
    told
}

fn settle(session: &Session, gate: &Gate, ticket: &Ticket, started_at: DateTime<Utc>, reply: &Reply) -> Settlement {
    let error = reply.outcome.as_ref().err();
    let counted = error.is_none_or(|error| matches!(error.disposition(), Disposition::Retry | Disposition::Final));
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
        cost_pico_usd: None,
        cost_basis: CostBasis::Unknown,
        price_ref: None,
        request_id: reply.request_id.clone(),
        error: error.cloned(),
    };
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
    Settlement { job: ticket.job.clone(), attempts: vec![attempt], end }
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
        cost_pico_usd: attempt.cost_pico_usd,
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
    let num_retries = ticket.request.options.num_retries.or(gate.deployment.num_retries).unwrap_or(session.num_retries);
    let spent = Spent { attempts: ticket.attempts, calls: ticket.calls, faults: ticket.faults };
    let allowed = Allowed::of(u32::from(num_retries), error, &ticket.earlier);
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
            let mut earlier = ticket.earlier.clone();
            earlier.push(EarlierAttempt {
                attempt: attempt.attempt,
                class: error.class.clone(),
                status: error.status,
                message: error.message.chars().take(300).collect(),
            });
            let excess = earlier.len().saturating_sub(MOST_EARLIER);
            earlier.drain(..excess);
            End::Wake(Wake {
                after,
                reason,
                calls: spent.calls,
                attempts: spent.attempts,
                faults: spent.faults,
                earlier,
            })
        }
    }
}

/// What a run has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spent {
    attempts: u32,
    calls: u32,
    faults: u32,
}

/// What a run whose last call ended with an error may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allowed {
    /// Calls that count, over the whole run.
    attempts: u32,
    /// Retries for errors of this class, if they are fewer, and those that were made.
    alike: Option<(u32, u32)>,
}

impl Allowed {
    /// Reads it off the configured retries, the error, and those of the earlier calls that are kept.
    fn of(num_retries: u32, error: &ErrorRecord, earlier: &[EarlierAttempt]) -> Self {
        let made = || earlier.iter().filter(|earlier| earlier.class == error.class).count();
        let alike = Verdict::of(error).most_retries.map(|most| (most, u32::try_from(made()).unwrap_or(u32::MAX)));
        Self { attempts: num_retries + 1, alike }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Next {
    Fail(String),
    Wake { after: Duration, reason: String, spent: Spent },
}

/// Decides from what was spent before this call. `others_work`: the deployment answers other jobs.
fn decide(
    disposition: Disposition,
    error: &ErrorRecord,
    before: Spent,
    allowed: Allowed,
    others_work: bool,
    paused_for: Duration,
) -> Next {
    let asked = error.retry_after_ms.map(Duration::from_millis);
    let spent = Spent { calls: before.calls + 1, ..before };
    match disposition {
        Disposition::Final => Next::Fail(format!("not retried: {} is not retryable", error.class)),
        Disposition::Retry => {
            let spent = Spent { attempts: before.attempts + 1, ..spent };
            if spent.attempts >= allowed.attempts {
                return Next::Fail(format!("gave up after {} of {} attempts", spent.attempts, allowed.attempts));
            }
            if let Some((most, made)) = allowed.alike
                && made >= most
            {
                let class = &error.class;
                return Next::Fail(format!(
                    "gave up after {} attempts: {class} is retried {most}× at most",
                    spent.attempts
                ));
            }
            let after = Schedule::CALLS.delay_at_least(spent.attempts, asked);
            Next::Wake { after, reason: format!("retry after {}", error.class), spent }
        }
        Disposition::RetryUncounted => {
            let refusals = spent.calls.saturating_sub(spent.attempts);
            let after = Schedule::CALLS.delay_at_least(refusals, asked);
            Next::Wake { after, reason: "rate limited by the provider".to_owned(), spent }
        }
        Disposition::DeploymentFault => {
            let spent = Spent { faults: before.faults + 1, ..spent };
            if others_work && spent.faults >= MOST_FAULTS {
                return Next::Fail(format!(
                    "met {} {} times while other jobs were answered",
                    error.class, spent.faults
                ));
            }
            let after = paused_for + Schedule::CALLS.delay_at_least(spent.faults.min(3), asked);
            Next::Wake { after, reason: format!("the deployment answered {}", error.class), spent }
        }
    }
}

impl Early {
    fn settle(self, session: &Session, group: &Group, ticket: &Ticket) -> Option<Settlement> {
        // Who looks later finds why the job waits, also when this process has ended.
        let wake = |after, reason: &str| {
            End::Wake(Wake {
                after,
                reason: group.pause().unwrap_or_else(|| reason.to_owned()),
                calls: ticket.calls,
                attempts: ticket.attempts,
                faults: ticket.faults,
                earlier: ticket.earlier.clone(),
            })
        };
        let end = match self {
            Self::Lost => return None,
            Self::Released => wake(Duration::ZERO, "released"),
            Self::Paused(pause) => wake(pause + Schedule::CALLS.delay(2), "deployment paused"),
            Self::Waiting => wake(Schedule::CALLS.delay(4), &format!("waits for the rate limit ({})", group.limits())),
            Self::TooLarge(why) => {
                let error = ErrorRecord::new(ErrorClass::RequestTooLarge, why);
                return Some(without_answer(session, ticket, Status::Failed, error));
            }
            Self::Cancelled => return Some(cancelled(session, ticket)),
            Self::Expired => return Some(expired(session, ticket)),
        };
        Some(Settlement { job: ticket.job.clone(), attempts: Vec::new(), end })
    }
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

fn without_answer(session: &Session, ticket: &Ticket, status: Status, error: ErrorRecord) -> Settlement {
    let error = ErrorRecord { earlier: ticket.earlier.clone(), ..error };
    let result = JobResult {
        queued_at: Some(ticket.queued_at),
        ..JobResult::without_answer(status, error, ticket.calls, session.clock.now())
    };
    Settlement { job: ticket.job.clone(), attempts: Vec::new(), end: End::Result(Box::new(result)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Spent = Spent { attempts: 0, calls: 0, faults: 0 };

    fn error(class: ErrorClass) -> ErrorRecord {
        ErrorRecord::new(class, "m")
    }

    fn next(class: ErrorClass, before: Spent, others_work: bool) -> Next {
        let error = error(class);
        decide(error.class.disposition(), &error, before, Allowed::of(2, &error, &[]), others_work, Duration::ZERO)
    }

    #[test]
    fn faults_of_the_request_end_the_run_at_once() {
        for class in [ErrorClass::BadRequest, ErrorClass::UnprocessableEntity, ErrorClass::ContentPolicyViolation] {
            assert!(matches!(next(class, FRESH, true), Next::Fail(_)));
        }
    }

    #[test]
    fn transient_errors_come_back_until_the_attempts_are_spent() {
        let mut spent = FRESH;
        for attempt in 1..=3 {
            match next(ErrorClass::InternalServer, spent, true) {
                Next::Wake { spent: after, .. } => {
                    assert!(attempt < 3);
                    assert_eq!(after, Spent { attempts: attempt, calls: attempt, faults: 0 });
                    spent = after;
                }
                Next::Fail(verdict) => {
                    assert_eq!(attempt, 3);
                    assert_eq!(verdict, "gave up after 3 of 3 attempts");
                }
            }
        }
    }

    #[test]
    fn answers_that_are_none_are_asked_for_less_often_than_the_retries_allow() {
        let (schema, answer, server) =
            (ErrorClass::JsonSchemaValidation, ErrorClass::ApiResponseValidation, ErrorClass::InternalServer);
        let (schema_s, answer_s) =
            ("JSONSchemaValidationError is retried 1× at most", "APIResponseValidationError is retried 2× at most");
        for (num_retries, classes, verdict) in [
            (9, vec![&schema; 2], format!("gave up after 2 attempts: {schema_s}")),
            (9, vec![&answer; 3], format!("gave up after 3 attempts: {answer_s}")),
            (9, vec![&server, &answer, &schema, &schema], format!("gave up after 4 attempts: {schema_s}")),
            (9, vec![&server; 10], "gave up after 10 of 10 attempts".to_owned()),
            (0, vec![&schema], "gave up after 1 of 1 attempts".to_owned()),
            (1, vec![&answer; 2], "gave up after 2 of 2 attempts".to_owned()),
        ] {
            let mut earlier: Vec<EarlierAttempt> = Vec::new();
            let mut spent = FRESH;
            for (attempt, class) in (1..).zip(&classes) {
                let error = error((*class).clone());
                let allowed = Allowed::of(num_retries, &error, &earlier);
                match decide(error.disposition(), &error, spent, allowed, true, Duration::ZERO) {
                    Next::Wake { spent: after, .. } => spent = after,
                    Next::Fail(why) => assert_eq!((earlier.len() + 1, why), (classes.len(), verdict.clone())),
                }
                earlier.push(EarlierAttempt { attempt, class: error.class, status: None, message: String::new() });
            }
            assert_eq!(spent.attempts as usize, classes.len() - 1, "the last one ended it: {classes:?}");
        }
    }

    #[test]
    fn refusals_do_not_use_attempts_and_wait_at_least_as_asked() {
        let error = ErrorRecord { retry_after_ms: Some(7_000), ..error(ErrorClass::RateLimit) };
        let mut spent = FRESH;
        for call in 1..50 {
            let allowed = Allowed::of(2, &error, &[]);
            let next = decide(error.class.disposition(), &error, spent, allowed, true, Duration::ZERO);
            let Next::Wake { after, spent: now, .. } = next else { panic!("a refusal never ends a run") };
            assert!(after >= Duration::from_secs(7));
            assert_eq!(now, Spent { attempts: 0, calls: call, faults: 0 });
            spent = now;
        }
    }

    #[test]
    fn a_deployments_fault_keeps_the_job_unless_others_are_answered() {
        let many = Spent { attempts: 0, calls: 90, faults: 90 };
        assert!(matches!(next(ErrorClass::Authentication, many, false), Next::Wake { .. }));
        let four = Spent { attempts: 0, calls: 4, faults: 4 };
        assert!(matches!(next(ErrorClass::PermissionDenied, four, true), Next::Fail(_)));
        assert!(matches!(next(ErrorClass::PermissionDenied, FRESH, true), Next::Wake { .. }));
    }
}
