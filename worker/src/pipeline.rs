//! The way of one admitted job: acquire → re-check → call → decide → settle, and again in another group where it may go on there.
//!
//! Owns the steps and their order; `decision` says what an error means, `route` where a call goes. Holds no lock and no
//! transaction across the call. If the process dies anywhere in here, the job's live row returns it to the queue when the owner's
//! lease has run out.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use gristmill_common::config::{Deployment, Dialect};
use gristmill_common::failpoint;
use gristmill_common::failure::{Disposition, EarlierAttempt, ErrorClass, ErrorRecord, FellBack};
use gristmill_common::outcome::{AttemptRecord, Status};
use gristmill_common::quota::{Dimension, Told};
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{self, End, Settlement, Ticket, Wake};

use crate::budget::Blocked;
use crate::cost::Costs;
use crate::gate::{Gate, Shown};
use crate::group::Group;
use crate::hooks::HookCall;
use crate::line::{Answer, Permit, Wish};
use crate::provider::{Call, Cooldown, Limit, Reply, Tokens, Verdict};
use crate::quota::Size;
use crate::route;
use crate::session::Session;
use crate::settle::{self, MOST_EARLIER, cancelled, cost_so_far, expired, settle, unspent, without_answer};
use crate::tokens::Teller;
use crate::window::Place;

/// How long an admitted job waits here for a paused deployment before it goes back to the store.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it waits here for its account's limits: a worker takes no more jobs than can start sooner, but limits change.
const QUOTA_PATIENCE: Duration = Duration::from_secs(30);
/// How long a job is put to wait for a paused deployment at most: limits are set anew, and providers come back early.
const LONGEST_PARKING: Duration = Duration::from_secs(300);

/// Why a job ends its stay here without a call.
#[derive(Debug, Clone, PartialEq)]
enum Early {
    /// This process drains.
    Released,
    /// The deployment is paused for longer than a job waits.
    Paused(Duration),
    /// Limits let nothing start for longer than a job waits.
    Waiting,
    /// A budget lets it not start.
    Budget(Blocked),
    /// A budget had enough for it and has no more.
    Overtaken,
    /// No deployment of its group can ever take it.
    Never(Box<ErrorRecord>),
    /// Its batch was cancelled.
    Cancelled,
    /// Its deadline has passed.
    Expired,
    /// Its owner's lease was lost: nothing may be written for it.
    Lost,
}

/// Works one job to its settlement; `None` if it belongs to another owner now.
///
/// A call that failed for good may be followed by one in another group: the call is committed with where the run goes on, so that
/// nothing that a crash would repeat waits in a line.
pub(crate) async fn work(
    session: &Session,
    home: &Arc<Group>,
    ticket: &Ticket,
    place: &mut Place,
) -> Option<Settlement> {
    let mut ticket = Cow::Borrowed(ticket);
    let mut group = session.routes.current(home, &ticket.earlier);
    let mut left: Vec<Arc<str>> = Vec::new();
    loop {
        let open_instead =
            |group: &Group, left: &[Arc<str>]| session.routes.open_instead(home, group, &ticket.earlier, left);
        if group.is_held_up()
            && let Some(open) = open_instead(&group, &left)
        {
            left.push(Arc::clone(&group.name));
            group = open;
        }
        let used_up = session.routes.used_up(home, &group, &ticket.earlier, &left);
        let ended = match once(session, &group, &ticket, place, used_up).await {
            Ok(ended) => ended,
            // Another group may have opened meanwhile.
            Err(Early::Paused(_)) if open_instead(&group, &left).is_some() => continue,
            Err(Early::Overtaken) => continue,
            Err(early) => {
                let Some((error, next)) = early.fall_back(session, home, &group, &ticket) else {
                    return early.settle(session, &group, &ticket);
                };
                session.counts.fell_back(&home.name, &next.name, &error.class);
                ticket = Cow::Owned(moved_on(&ticket, &error, &next, None));
                group = next;
                continue;
            }
        };
        let Ended { gate, mut settlement } = ended;
        let fallback = fallback(session, home, &group, &ticket, &settlement);
        observe(session, &gate, &ticket, &settlement, fallback.is_some());
        if let Some((error, next)) = fallback {
            let moved = moved_on(&ticket, &error, &next, settlement.attempts.last());
            settlement.end = End::Wake(Wake {
                after: Duration::ZERO,
                reason: format!("goes on in {} after {}", next.name, error.class),
                calls: moved.calls,
                attempts: moved.attempts,
                faults: moved.faults,
                earlier: moved.earlier,
                spent_pico_usd: moved.spent_pico_usd,
            });
        }
        return Some(settlement);
    }
}

/// A call that was made, and what it would mean if no other group could be asked.
struct Ended {
    gate: Arc<Gate>,
    settlement: Settlement,
}

/// Makes one call. `used_up` ends when it is better made elsewhere.
async fn once(
    session: &Session,
    group: &Arc<Group>,
    ticket: &Ticket,
    place: &mut Place,
    used_up: impl Future<Output = Duration>,
) -> Result<Ended, Early> {
    let waiting = session.counts.waiting(&group.name, ticket.job.lane.priority);
    let mut permit = acquire(session, group, ticket, used_up).await?;
    let promise = session.budgets.promise(ticket, &permit.gate().deployment, permit.size(), &*session.clock);
    let promise = promise.map_err(|_| Early::Overtaken)?;
    confess(session, group, ticket).await?;
    recheck(session, ticket).await?;
    place.keep(permit.uncommitted());
    permit.called();
    waiting.called();
    let started_at = session.clock.now();
    let (reply, is_cut_off) = tokio::select! {
        biased;
        reply = call(session, &permit, ticket) => (reply, false),
        () = session.abort.cancelled() => (settle::cut_off(started_at, session.clock.now()), true),
    };
    group.pace.ended();
    permit.settle(session.line.estimator(), &reply.usage);
    let gate = Arc::clone(permit.gate());
    gate.ledger.tell(told(&gate.deployment, &reply.limits));
    let mut settlement = settle(session, &gate, ticket, started_at, &reply);
    if is_cut_off {
        settle::put_back(ticket, &mut settlement);
    }
    let cost = settlement.attempts.last().and_then(|attempt| attempt.cost_pico_usd);
    settlement.spends = promise.and_then(|promise| promise.settle(cost));
    permit.finish(&shown(&reply), reply.latency_ms);
    Ok(Ended { gate, settlement })
}

/// Returns the group that a run goes on in, and why.
fn fallback(
    session: &Session,
    home: &Group,
    group: &Group,
    ticket: &Ticket,
    settlement: &Settlement,
) -> Option<(ErrorRecord, Arc<Group>)> {
    let error = settlement.attempts.last()?.error.as_deref()?;
    let is_over = match &settlement.end {
        End::Result(_) => true,
        // What only a person can mend is not waited for where another group is open.
        End::Wake(_) => error.disposition() == Disposition::DeploymentFault,
    };
    let next = is_over.then(|| session.routes.next(home, group, &ticket.earlier, error)).flatten()?;
    (matches!(settlement.end, End::Result(_)) || !next.is_held_up()).then(|| (error.clone(), next))
}

/// Returns the ticket with which a run goes on in another group.
fn moved_on(ticket: &Ticket, error: &ErrorRecord, next: &Group, made: Option<&AttemptRecord>) -> Ticket {
    let mut ticket = ticket.clone();
    if let Some(made) = made {
        ticket.calls = made.attempt;
        ticket.attempts += u32::from(made.counted);
        ticket.spent_pico_usd = cost_so_far(&ticket, made);
    }
    let fell_back = FellBack { to: next.name.to_string(), attempts: ticket.attempts };
    ticket.earlier.push(EarlierAttempt { fell_back: Some(fell_back), ..EarlierAttempt::of(ticket.calls, error) });
    route::keep_newest(&mut ticket.earlier, MOST_EARLIER);
    ticket
}

/// Waits in the line for the right to make a call.
async fn acquire(
    session: &Session,
    group: &Group,
    ticket: &Ticket,
    used_up: impl Future<Output = Duration>,
) -> Result<Permit, Early> {
    let (job, request) = (&ticket.job, &ticket.request);
    let size = tokio::select! {
        biased;
        () = session.lease.lost.cancelled() => return Err(Early::Lost),
        () = session.drain.cancelled() => return Err(Early::Released),
        size = group.size(&request.body, session.budgets.may_limit(ticket)) => size,
    };
    let fit = route::fit(&session.routes.routing, &group.gates, &request.options, size)
        .map_err(|unfit| Early::Never(Box::new(unfit.error(&group.name))))?;
    afford(session, group, ticket, size, fit.as_deref()).await?;
    let fit = session.budgets.narrow(ticket, &group.gates, size, &*session.clock, fit);
    let answer = session.line.enter(group, job.lane.priority, job.batch, Wish { size, fit });
    tokio::select! {
        biased;
        () = session.lease.lost.cancelled() => Err(Early::Lost),
        () = session.drain.cancelled() => Err(Early::Released),
        answer = answer => match answer {
            Ok(Answer::Go(permit)) => Ok(*permit),
            Ok(Answer::TooLarge(why)) => {
                Err(Early::Never(Box::new(ErrorRecord::new(ErrorClass::RequestTooLarge, why))))
            }
            Err(_) => Err(Early::Released),
        },
        pause = group.paused_longer_than(PATIENCE) => Err(Early::Paused(pause)),
        pause = used_up => Err(Early::Paused(pause)),
        () = tokio::time::sleep(QUOTA_PATIENCE) => Err(Early::Waiting),
        () = session.deadline(request.options.deadline) => Err(Early::Expired),
    }
}

/// Waits until budgets let a job start.
async fn afford(
    session: &Session,
    group: &Group,
    ticket: &Ticket,
    size: Size,
    fit: Option<&[bool]>,
) -> Result<(), Early> {
    let fits = |(at, _): &(usize, &Arc<Gate>)| fit.is_none_or(|fit| fit[*at]);
    let gates: Vec<Arc<Gate>> = group.gates.iter().enumerate().filter(fits).map(|(_, gate)| Arc::clone(gate)).collect();
    let Some(why) = session.budgets.all_blocked(ticket, &gates, size, &*session.clock) else { return Ok(()) };
    let options = &ticket.request.options;
    let why = tokio::select! {
        biased;
        () = session.lease.lost.cancelled() => return Err(Early::Lost),
        () = session.drain.cancelled() => return Err(Early::Released),
        why = session.budgets.ready(ticket, &gates, size, &*session.clock) => match why {
            None => return Ok(()),
            Some(why) => why,
        },
        () = tokio::time::sleep(PATIENCE) => why,
        () = session.deadline(options.deadline) => return Err(Early::Expired),
    };
    Err(match why.failure() {
        Some(text) => Early::Never(Box::new(ErrorRecord::new(ErrorClass::BudgetExceeded, text))),
        None => Early::Budget(why),
    })
}

/// Says of a job on which an owner died that it is called now, and what a call of it may cost. If this process dies as well, the job
/// is taken to be why.
async fn confess(session: &Session, group: &Group, ticket: &Ticket) -> Result<(), Early> {
    if ticket.deaths == 0 {
        return Ok(());
    }
    // Who died may have called any of them.
    let most = |gate: &Arc<Gate>| Costs::most(&gate.deployment, ticket, session.clock.now());
    let bound = group.gates.iter().map(most).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max());
    let say = || session.store.calling(session.lease.owner, ticket.job.id, bound);
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
fn observe(session: &Session, gate: &Gate, ticket: &Ticket, settlement: &Settlement, falls_back: bool) {
    let call = hook_call(gate, ticket);
    let error = settlement.attempts.last().and_then(|attempt| attempt.error.as_deref());
    session.hooks.observe(|observer| match (&settlement.end, error) {
        (_, Some(error)) if falls_back => observer.on_retry(call, error, Duration::ZERO),
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
        _ if reply.http_status.is_some() => Shown::Disliked(error),
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

impl Early {
    /// Returns the group that a run goes on with that its own can never take, and why.
    fn fall_back(
        &self,
        session: &Session,
        home: &Group,
        group: &Group,
        ticket: &Ticket,
    ) -> Option<(ErrorRecord, Arc<Group>)> {
        let Self::Never(error) = self else { return None };
        let next = session.routes.next(home, group, &ticket.earlier, error)?;
        Some(((**error).clone(), next))
    }

    fn settle(self, session: &Session, group: &Group, ticket: &Ticket) -> Option<Settlement> {
        let wake_for = |after, reason| {
            End::Wake(Wake {
                after,
                reason,
                calls: ticket.calls,
                attempts: ticket.attempts,
                faults: ticket.faults,
                earlier: ticket.earlier.clone(),
                spent_pico_usd: ticket.spent_pico_usd,
            })
        };
        // Who looks later finds why the job waits, also when this process has ended.
        let wake = |after, reason: &str| wake_for(after, group.pause().unwrap_or_else(|| reason.to_owned()));
        let end = match self {
            Self::Lost => return None,
            Self::Released => wake(Duration::ZERO, "released"),
            // A pause may end early, and nobody wakes what waits here.
            Self::Paused(pause) => wake(pause.min(LONGEST_PARKING) + Schedule::CALLS.delay(2), "deployment paused"),
            Self::Budget(why) => {
                let (after, reason) = why.wait(&*session.clock);
                wake_for(after, reason)
            }
            Self::Overtaken => wake(Duration::ZERO, "released"),
            Self::Waiting => wake(Schedule::CALLS.delay(4), &format!("waits for the rate limit ({})", group.limits())),
            Self::Never(error) => return Some(without_answer(session, ticket, Status::Failed, *error)),
            Self::Cancelled => return Some(cancelled(session, ticket)),
            Self::Expired => return Some(expired(session, ticket)),
        };
        Some(unspent(ticket, end))
    }
}
