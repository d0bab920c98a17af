//! The intake of one model group: deliveries, as many as can start → admission → ack → a task per job.
//!
//! A delivery is acknowledged after the admission's commit and not before; from then on the live row holds its jobs. A copy
//! of a job that this process holds already waits until that one is settled, and is then asked about like any other: what
//! this process remembers of a job is never trusted against the live row.
//!
//! A message that holds jobs outside the worker's scope is passed over: it stays in its queue for a later process, to which
//! those of its jobs that were taken here come a second time and are done by then.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use gristmill_common::broker::{Aside, Broker, Consumer, Delivery, Settle};
use gristmill_common::envelope;
use gristmill_common::failpoint;
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::job::JobRef;
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{Arrival, DeadLetter, Error, Verdict};
use gristmill_common::trace::Traceparent;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Scope;
use crate::group::Group;
use crate::pipeline;
use crate::session::Session;
use crate::settle;
use crate::window::Place;

/// How long a job has to hand over what became of it when calls are cut off.
const CUT_OFF: Duration = Duration::from_secs(1);
/// Most jobs in one admission.
const GROUP: usize = 500;
/// How long the first message of an admission waits for others: a transaction costs the same for one job and for fifty.
const LINGER: Duration = Duration::from_millis(25);
/// How long there is no room before the consumer's window follows the pace.
const BLOCKED: Duration = Duration::from_secs(1);
/// How often copies of held jobs are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Most bytes of a message that a dead letter keeps.
const LETTER_BYTES: usize = 64 * 1024;

/// A message that was read.
struct Message {
    payload: bytes::Bytes,
    arrivals: Vec<Arrival>,
    settle: Settle,
    /// Whether all its jobs are taken here.
    whole: bool,
}

impl Message {
    /// Settles it once what was taken of it is admitted; tells whether it was acknowledged.
    fn settle(self) -> bool {
        if self.whole {
            self.settle.ack();
        } else {
            self.settle.pass_over();
        }
        self.whole
    }
}

/// Takes in jobs of one group until `stop`, or until the lease is lost. The consumer comes with its window, the largest.
pub(crate) async fn run(
    session: Arc<Session>,
    broker: Arc<dyn Broker>,
    group: Arc<Group>,
    scope: Scope,
    (mut consumer, most): (Box<dyn Consumer>, u16),
    jobs: TaskTracker,
    stop: CancellationToken,
) {
    let mut copies: Vec<Message> = Vec::new();
    let mut window = most;
    loop {
        let next = async {
            let room = loop {
                tokio::select! {
                    biased;
                    room = group.room(session.line.estimator()) => break room,
                    // What waits for room is not to wait long: others may have some.
                    () = tokio::time::sleep(BLOCKED) => resize(&mut *consumer, &mut window, group.prefetch(most)),
                }
            };
            let prefetch = group.prefetch(most).max(window);
            resize(&mut *consumer, &mut window, prefetch);
            let mut messages = take_settled(&mut copies, &group);
            while messages.is_empty() {
                tokio::select! {
                    delivery = consumer.next() => match delivery {
                        Some(delivery) => messages.extend(read(&session, &*broker, &group, &scope, delivery).await),
                        None => return None,
                    },
                    () = tokio::time::sleep(LOOK_AGAIN), if !copies.is_empty() => {
                        messages = take_settled(&mut copies, &group);
                    }
                }
            }
            let mut count: usize = messages.iter().map(|message| message.arrivals.len()).sum();
            let linger = tokio::time::sleep(LINGER);
            tokio::pin!(linger);
            while count < room.min(GROUP) {
                let delivery = tokio::select! {
                    biased;
                    delivery = consumer.next() => delivery,
                    () = &mut linger => None,
                };
                let Some(delivery) = delivery else { break };
                if let Some(message) = read(&session, &*broker, &group, &scope, delivery).await {
                    count += message.arrivals.len();
                    messages.push(message);
                }
            }
            session.lease.holds().await.then_some(messages)
        };
        let messages = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = session.lease.lost.cancelled() => return,
            messages = next => messages,
        };
        let Some(messages) = messages else { return };
        failpoint::pass("worker.after_delivery");
        let mut places: Vec<(Message, Vec<Place>)> = Vec::with_capacity(messages.len());
        for message in messages {
            match enter(&group, &message) {
                Some(entered) => places.push((message, entered)),
                None => copies.push(message),
            }
        }
        if admit(&session, &group, places, &jobs, &stop).await.is_none() {
            return;
        }
    }
}

/// Changes the consumer's window where it is worth it: it costs a subscription in each lane.
fn resize(consumer: &mut dyn Consumer, window: &mut u16, wanted: u16) {
    if wanted <= *window / 2 || wanted >= window.saturating_mul(2) {
        consumer.resize(wanted);
        *window = wanted;
    }
}

/// Takes those copies of which no job is held any more.
fn take_settled(copies: &mut Vec<Message>, group: &Group) -> Vec<Message> {
    let (held, settled): (Vec<_>, Vec<_>) = std::mem::take(copies)
        .into_iter()
        .partition(|message| message.arrivals.iter().any(|arrival| group.window.holds(arrival.job.id)));
    *copies = held;
    settled
}

/// Takes places for all jobs of a message; `None` if one of them is held already.
fn enter(group: &Group, message: &Message) -> Option<Vec<Place>> {
    let bytes = message.payload.len() / message.arrivals.len().max(1);
    message.arrivals.iter().map(|arrival| group.window.enter(arrival.job.id, bytes)).collect()
}

/// Reads a delivery. What cannot be read is put aside, durably, before it is acknowledged.
async fn read(
    session: &Session,
    broker: &dyn Broker,
    group: &Group,
    scope: &Scope,
    delivery: Delivery,
) -> Option<Message> {
    let Delivery { payload, settle, traceparent, .. } = delivery;
    match envelope::read(&payload) {
        Ok(arrivals) if arrivals.iter().any(|arrival| arrival.job.lane.group != group.name) => {
            let text = format!("the message is of another model group than its queue, `{}`", group.name);
            let error = ErrorRecord::new(ErrorClass::InvalidMessage, text);
            let refs = arrivals.into_iter().map(|arrival| arrival.job).collect();
            if bury(session, "work", &payload, refs, error).await.is_some() {
                settle.ack();
            }
            None
        }
        Ok(mut arrivals) => {
            let mut seen = HashSet::with_capacity(arrivals.len());
            arrivals.retain(|arrival| seen.insert(arrival.job.id));
            let count = arrivals.len();
            arrivals.retain(|arrival| scope.takes(&arrival.job));
            if arrivals.is_empty() {
                settle.pass_over();
                return None;
            }
            group.pace.came(arrivals.len(), payload.len());
            let whole = arrivals.len() == count;
            traceparent.iter().for_each(|span| belong(&mut arrivals, *span));
            Some(Message { payload, arrivals, settle, whole })
        }
        Err(error @ envelope::Error::Future(_)) => {
            tracing::warn!(%error, "message put aside until a later version of this program reads it");
            let aside = || broker.put_aside(Aside::Future, "", "future version", payload.clone());
            let transient = gristmill_common::broker::Error::is_transient;
            if let Some(Ok(())) = until_ok(Schedule::RECONNECT, &session.abort, aside, transient, |_, _| {}).await {
                settle.ack();
            }
            None
        }
        Err(envelope::Error::Unreadable { reason, jobs }) => {
            let error = ErrorRecord::new(ErrorClass::InvalidMessage, format!("the message cannot be read: {reason}"));
            if bury(session, "work", &payload, jobs, error).await.is_some() {
                settle.ack();
            }
            None
        }
    }
}

/// Has jobs that another program put into the queue belong to the span that it did so in. It is kept with each, since the run may
/// come back without this message; jobs that were recorded have their own.
fn belong(arrivals: &mut [Arrival], span: Traceparent) {
    let adopted = arrivals.iter_mut().filter(|arrival| !arrival.recorded);
    for request in adopted.filter_map(|arrival| arrival.request.as_mut()) {
        request.options.set_traceparent(span);
    }
}

/// Keeps a dead letter; `None` if the process ends first.
async fn bury(
    session: &Session,
    queue: &str,
    payload: &bytes::Bytes,
    jobs: Vec<JobRef>,
    error: ErrorRecord,
) -> Option<()> {
    tracing::warn!(reason = error.message, bytes = payload.len(), jobs = jobs.len(), "message is a dead letter");
    let letter = DeadLetter {
        reason: error.message.clone(),
        queue: queue.to_owned(),
        payload: payload.slice(..payload.len().min(LETTER_BYTES)),
        jobs,
        error,
    };
    session.counts.dead_letter();
    let keep = || session.store.bury_letter(&letter);
    match until_ok(Schedule::RECONNECT, &session.abort, keep, Error::is_transient, |_, _| {}).await? {
        Ok(()) => Some(()),
        // The jobs that it names may be what the store refuses; the message itself is bytes.
        Err(error) => {
            tracing::error!(%error, jobs = letter.jobs.len(), "dead letter kept without its jobs");
            let bare = DeadLetter { jobs: Vec::new(), reason: "refused by the database".to_owned(), ..letter };
            let keep = || session.store.bury_letter(&bare);
            until_ok(Schedule::RECONNECT, &session.abort, keep, Error::is_transient, |_, _| {}).await?.ok();
            Some(())
        }
    }
}

/// Admits messages, acknowledges them, and starts their jobs. `None` ends the intake.
async fn admit(
    session: &Arc<Session>,
    group: &Arc<Group>,
    messages: Vec<(Message, Vec<Place>)>,
    jobs: &TaskTracker,
    stop: &CancellationToken,
) -> Option<()> {
    let taken_at = session.clock.now();
    let mut parts = vec![messages];
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let arrivals: Vec<Arrival> = part.iter().flat_map(|(message, _)| message.arrivals.iter().cloned()).collect();
        let ask = || {
            let admission = session.store.admit(session.lease.owner, arrivals.clone());
            session.health.watch("admitting jobs", admission)
        };
        let tell = |error: &Error, failures| {
            if failures == 1 {
                tracing::warn!(%error, "jobs not admitted yet, trying again");
            }
        };
        let verdicts = match until_ok(Schedule::RECONNECT, stop, ask, Error::is_transient, tell).await? {
            Ok(verdicts) => verdicts,
            Err(Error::Refused { source, .. }) if part.len() == 1 => {
                let (message, places) = part.remove(0);
                let error = ErrorRecord::new(ErrorClass::InvalidMessage, "the database refused to keep this request")
                    .caused_by("other", source.to_string());
                let refs = message.arrivals.iter().map(|arrival| arrival.job.clone()).collect();
                bury(session, "work", &message.payload, refs, error).await?;
                drop(places);
                message.settle();
                continue;
            }
            Err(Error::Refused { .. }) => {
                let rest = part.split_off(part.len() / 2);
                parts.push(rest);
                parts.push(part);
                continue;
            }
            Err(Error::Conflict(_)) => {
                session.lease.lost.cancel();
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "the store admits no jobs");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        failpoint::pass("worker.after_admit");
        let mut verdicts = verdicts.into_iter();
        for (message, places) in part {
            let mut unknown = Vec::new();
            for (arrival, mut place) in message.arrivals.iter().zip(places) {
                let verdict = verdicts.next();
                let ticket = verdict.as_ref().and_then(Verdict::ticket);
                place.trace(ticket.and_then(|ticket| session.recorder.stay(ticket, taken_at)));
                verdict.iter().for_each(|verdict| session.counts.admitted(&group.name, verdict));
                match verdict {
                    Some(Verdict::Run(ticket)) => start(session, group, ticket, place, jobs),
                    Some(Verdict::Cancelled(ticket)) => {
                        session.settle(settle::cancelled(session, &ticket), place);
                    }
                    Some(Verdict::Expired(ticket)) => session.settle(settle::expired(session, &ticket), place),
                    Some(Verdict::Cached(ticket, answer)) => {
                        session.settle(settle::cached(session, &ticket, *answer), place);
                    }
                    Some(Verdict::Unknown) => unknown.push(arrival.job.clone()),
                    Some(Verdict::Done | Verdict::Held | Verdict::Waiting) | None => {}
                }
            }
            if !unknown.is_empty() {
                let error = ErrorRecord::new(
                    ErrorClass::InvalidMessage,
                    "the message refers to a job that is not recorded, or to a batch that does not exist",
                );
                bury(session, "work", &message.payload, unknown, error).await?;
            }
            if message.settle() {
                session.counts.acked(&group.name);
            }
        }
        failpoint::pass("worker.after_ack");
    }
    Some(())
}

fn start(
    session: &Arc<Session>,
    group: &Arc<Group>,
    ticket: Box<gristmill_common::store::Ticket>,
    mut place: Place,
    jobs: &TaskTracker,
) {
    place.weigh(ticket.request.body.len());
    let (session, group) = (Arc::clone(session), Arc::clone(group));
    jobs.spawn(async move {
        let work = async {
            place.keep(session.last_chance(ticket.deaths).await);
            pipeline::work(&session, &group, &ticket, &mut place).await
        };
        // A panic must not leave the job held for as long as this process lives.
        let worked = tokio::select! {
            worked = AssertUnwindSafe(work).catch_unwind() => worked,
            // A call that is cut off is written down as such; who hangs elsewhere goes with the process.
            () = async {
                session.abort.cancelled().await;
                tokio::time::sleep(CUT_OFF).await;
            } => Ok(None),
        };
        match worked {
            Ok(Some(settlement)) => session.settle(settlement, place),
            Ok(None) => {}
            Err(_) => session.settle(settle::panicked(&session, &ticket), place),
        }
    });
}
