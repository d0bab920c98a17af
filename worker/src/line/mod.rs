//! The waiting line: jobs that were admitted wait here until a call may start, and get its permit.
//!
//! One step decides it all: who is next (priority by weight, batches in turn), which deployment takes it, and that the worker, the
//! model group, the deployment and the account's limits all have room for it. Nothing is held while a job waits, so a slow or
//! paused model keeps no slot from another. The line is this process's own; a job that waits is held by its live row.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gristmill_common::id::BatchId;
use gristmill_common::job::Priority;
use gristmill_common::quota::{Dimension, PerDimension};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::gate::{Gate, Shown};
use crate::group::Group;
use crate::quota::{Demand, Estimator, Ledger, Need, Size, Taken};
use crate::slot::{Slot, Slots};

mod queue;

use queue::Look;
pub(crate) use queue::Queue;

/// How soon a line that waits for a time looks again at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The waiting line of a process.
#[derive(Debug)]
pub(crate) struct Line {
    groups: Vec<Arc<Group>>,
    /// Calls that run.
    calls: Slots,
    /// Calls that run or whose results are not committed yet: what a crash of this process repeats.
    uncommitted: Slots,
    concurrency: usize,
    estimator: Arc<Estimator>,
    /// Rung when somebody may start who could not before.
    bell: Arc<Notify>,
    /// Rung when an account has nothing left to spend.
    hungry: Arc<Notify>,
    /// The group that is looked at first.
    turn: Mutex<usize>,
}

/// What a job needs.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) size: Size,
    /// Which of the group's deployments may take it; `None` is all.
    pub(crate) fit: Option<Vec<bool>>,
}

/// A job that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    wish: Wish,
    reply: oneshot::Sender<Answer>,
}

/// What a job's wait comes to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It may make one call.
    Go(Box<Permit>),
    /// It never may.
    TooLarge(String),
}

/// The right to make one call.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    group: Arc<Group>,
    size: Size,
    taken: Need,
    used: Need,
    probe: bool,
    told: bool,
    call: Option<Slot>,
    uncommitted: Option<Slot>,
}

/// What keeps a group's next job from starting.
enum Held {
    Started,
    /// Until then, or until the bell rings.
    Until(Option<Instant>),
}

impl Line {
    pub(crate) fn new(
        groups: Vec<Arc<Group>>,
        calls: Slots,
        uncommitted: Slots,
        concurrency: usize,
        bell: Arc<Notify>,
    ) -> Self {
        Self {
            groups,
            calls,
            uncommitted,
            concurrency,
            estimator: Arc::new(Estimator::default()),
            bell,
            hungry: Arc::new(Notify::new()),
            turn: Mutex::new(0),
        }
    }

    /// Puts a job into the line of its group. It leaves it when the receiver is dropped.
    pub(crate) fn enter(
        &self,
        group: &Group,
        priority: Priority,
        batch: BatchId,
        wish: Wish,
    ) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        group.came(wish.size);
        group.queue().push(priority, batch, Waiting { wish, reply });
        self.bell.notify_one();
        answer
    }

    /// Starts jobs as they may, until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            let next = self.start_all(Instant::now());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.bell.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Rings when an account has nothing left to spend for a job that waits.
    pub(crate) fn hungry(&self) -> &Notify {
        &self.hungry
    }

    /// Has the line looked at again: what may be spent has changed.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Tells whether jobs wait that a deployment could take.
    pub(crate) fn waits_for(&self, gate: &Arc<Gate>) -> bool {
        self.groups.iter().any(|group| {
            let Some(index) = group.gates.iter().position(|own| Arc::ptr_eq(own, gate)) else { return false };
            let may = |waiting: &Waiting| {
                !waiting.reply.is_closed() && waiting.wish.fit.as_ref().is_none_or(|fit| fit[index])
            };
            group.queue().next(may).is_some()
        })
    }

    /// Returns what waits for an account.
    pub(crate) fn demand(&self, ledger: &Arc<Ledger>) -> Demand {
        let mut demand = Demand { most: self.concurrency as u64, ..Demand::default() };
        for group in &self.groups {
            let is_its = |gate: &Arc<Gate>| Arc::ptr_eq(&gate.ledger, ledger);
            let Some(gate) = group.gates.iter().find(|gate| is_its(gate)) else { continue };
            let queue = group.queue();
            // What only others may take asks for nothing here.
            let may = |waiting: &Waiting| {
                let mut gates = group.gates.iter().enumerate();
                gates.any(|(index, gate)| is_its(gate) && waiting.wish.fit.as_ref().is_none_or(|fit| fit[index]))
            };
            let Some(next) = queue.next(may) else { continue };
            let waiting = queue.len() as u64;
            let usual = self.estimator.need(&gate.deployment, group.usual_size());
            let pace = group.pace.per_second();
            // Where limits leave room enough, what comes within the time of an ask does not wait for the next one.
            let is_ample = ledger.calls_per_second(&usual).is_none_or(|rate| rate > 2.0 * pace as f64);
            let coming = if is_ample { pace / 2 } else { 0 };
            let startable = (self.calls.free() + pace + 1).min(queue.len() + coming) as u64;
            let size = next.wish.size;
            let next = Some(self.estimator.need(&gate.deployment, size)).filter(|need| ledger.may_hold(need));
            let next = next.unwrap_or_else(|| self.estimator.least(&gate.deployment, size));
            demand.calls += waiting;
            for dimension in Dimension::ALL {
                let all = usual[dimension].saturating_mul(startable - 1).saturating_add(next[dimension]);
                demand.all[dimension] = demand.all[dimension].saturating_add(all);
                demand.next[dimension] = demand.next[dimension].max(next[dimension]);
            }
        }
        demand
    }

    /// Starts what may start, the groups in turn; returns when more may at the latest.
    fn start_all(&self, now: Instant) -> Option<Instant> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.groups.len();
        let mut active: Vec<&Arc<Group>> = (0..count).map(|n| &self.groups[(*turn + n) % count]).collect();
        *turn = (*turn + 1) % count.max(1);
        active.iter().for_each(|group| group.look(now));
        let mut next: Option<Instant> = None;
        while !active.is_empty() {
            active.retain(|group| match self.start_one(group, now) {
                Held::Started => true,
                Held::Until(at) => {
                    next = next.into_iter().chain(at).min();
                    false
                }
            });
        }
        next.map(|at| at.min(now + LOOK_AGAIN))
    }

    fn start_one(&self, group: &Arc<Group>, now: Instant) -> Held {
        if self.calls.free() == 0 || self.uncommitted.free() == 0 {
            return Held::Until(None);
        }
        if group.is_full(self.calls.free(), now) {
            // Nobody rings when what is kept for others is kept no more.
            return Held::Until((group.queue().len() > 0).then_some(now + LOOK_AGAIN));
        }
        let order = group.chooser.order(&group.gates, group.usual_size());
        let mut closed: Vec<bool> = group.gates.iter().map(|gate| !gate.is_passable()).collect();
        let mut until: Option<Instant> = None;
        let is_paused = closed.contains(&true);
        let mut is_hungry = false;
        let picked = group.queue().pick(|waiting| {
            if waiting.reply.is_closed() {
                return Look::Gone;
            }
            // A job that waits for a paused deployment is one that could be its probe.
            is_hungry |= is_paused;
            let may = |index: usize| waiting.wish.fit.as_ref().is_none_or(|fit| fit[index]);
            let mut refused = None;
            for &index in &order {
                if closed[index] || !may(index) {
                    continue;
                }
                let gate = &group.gates[index];
                let mut need = self.estimator.need(&gate.deployment, waiting.wish.size);
                let mut taken = gate.ledger.take(&need, now);
                if matches!(taken, Taken::TooLarge(_)) {
                    // What is estimated may be less.
                    need = self.estimator.least(&gate.deployment, waiting.wish.size);
                    taken = gate.ledger.take(&need, now);
                }
                match taken {
                    Taken::Yes => return Look::Go(Ok((index, need))),
                    Taken::TooLarge(why) => refused = Some(why),
                    Taken::Wait(at) => {
                        closed[index] = true;
                        is_hungry |= at.is_none();
                        until = until.into_iter().chain(at).min();
                    }
                }
            }
            match refused {
                // No deployment is left that could take it.
                Some(why) if (0..closed.len()).all(|index| !closed[index] || !may(index)) => Look::Go(Err(why)),
                _ if closed.iter().all(|closed| *closed) => Look::Stop,
                _ => Look::Wait,
            }
        });
        if is_hungry {
            self.hungry.notify_one();
        }
        let Some((waiting, went)) = picked else { return Held::Until(until) };
        let answer = match went {
            Err(why) => Answer::TooLarge(why),
            Ok((index, need)) => {
                let gate = Arc::clone(&group.gates[index]);
                let probe = gate.begin(now);
                group.chooser.chose(index);
                group.began(waiting.wish.size);
                Answer::Go(Box::new(Permit {
                    gate,
                    group: Arc::clone(group),
                    size: waiting.wish.size,
                    taken: need,
                    used: PerDimension::default(),
                    probe,
                    told: false,
                    call: self.calls.take(),
                    uncommitted: self.uncommitted.take(),
                }))
            }
        };
        // Who is gone by now drops its permit, which gives everything back.
        let _ = waiting.reply.send(answer);
        Held::Started
    }

    /// Returns what was learnt of the models' counts.
    pub(crate) const fn estimator(&self) -> &Arc<Estimator> {
        &self.estimator
    }
}

impl Permit {
    /// Returns the size of the job's request.
    pub(crate) const fn size(&self) -> Size {
        self.size
    }

    /// Returns the deployment to call.
    pub(crate) const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Takes out the slot that is kept until the call's result is committed.
    pub(crate) fn uncommitted(&mut self) -> Option<Slot> {
        self.uncommitted.take()
    }

    /// Notes that the call is made: until its usage is known it counts as it was reserved.
    pub(crate) const fn called(&mut self) {
        self.used = self.taken;
    }

    /// Settles the call by its usage, and learns from it.
    pub(crate) fn settle(&mut self, estimator: &Estimator, usage: &gristmill_common::outcome::Usage) {
        estimator.learn(&self.gate.deployment, self.size, usage);
        self.used = estimator.used(&self.gate.deployment, &self.taken, usage);
        self.gate.ledger.hear(|heard| heard.count(usage));
    }

    /// Says what the call showed and how long it took, and frees its slots.
    pub(crate) fn finish(mut self, shown: &Shown<'_>, latency_ms: u32) {
        self.told = true;
        if shown.is_answer() {
            self.gate.took(latency_ms);
        }
        self.gate.tell(self.probe, shown);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.told {
            self.gate.tell(self.probe, &Shown::Nothing);
        }
        self.gate.ledger.settle(&self.taken, &self.used);
        self.gate.ended();
        self.group.ended();
        // The last, since it rings.
        self.call = None;
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
