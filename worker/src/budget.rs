//! Budgets as one worker keeps them: what it was leased of each, what its calls were promised, and the task that asks for more.
//!
//! A call is promised what it is expected to cost before it starts; what it really cost is taken off once it is known, and off the
//! store's budget in the transaction that writes its result. No call waits for a round trip of its own. What is spent exceeds a
//! limit by no more than what the running calls cost above their promises, and by calls that began within a second of the budget
//! being set. A worker that dies leaves its leases to run out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gristmill_common::budget::{BudgetKey, BudgetSight};
use gristmill_common::clock::Clock;
use gristmill_common::config::Deployment;
use gristmill_common::id::OwnerId;
use gristmill_common::outcome::AttemptRecord;
use gristmill_common::price::PicoUsd;
use gristmill_common::store::{self, Settlement, Spends, Store, Ticket};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;
use crate::quota::Size;

mod kept;

pub(crate) use kept::Blocked;
use kept::State;

/// How often the store is asked while nothing waits: a budget that is set counts from then on.
const CALM: Duration = Duration::from_secs(1);
/// How often it is asked at most.
const SHORTEST: Duration = Duration::from_millis(50);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the farewell may take: leases run out by themselves.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Output that is expected where a request names no limit and nothing was learnt.
const FIRST_OUTPUT: u64 = 256;
/// The budgets of a process.
#[derive(Debug)]
pub(crate) struct Budgets {
    /// Whom budgets are leased to: this process, however many leases as a worker it has.
    owner: OwnerId,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    hungry: Notify,
}

/// What a call was promised; dropped, it is given back.
#[derive(Debug)]
pub(crate) struct Promise {
    budgets: Arc<Budgets>,
    keys: Arc<[BudgetKey]>,
    amount: i64,
    expected: i64,
    deployment: Arc<str>,
}

impl Promise {
    /// Takes in what the call cost, if it is known; returns what the store is to take it off.
    pub(crate) fn settle(self, cost: Option<i64>) -> Option<Spends> {
        let mut state = self.budgets.lock();
        state.spend(&self.keys, cost.unwrap_or(self.amount));
        state.learn(&self.deployment, self.expected, cost.unwrap_or(0));
        drop(state);
        let budgets = Arc::clone(&self.keys);
        let owner = self.budgets.owner;
        (!budgets.is_empty()).then_some(Spends { owner, budgets, promised_pico_usd: self.amount })
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.budgets.lock().release(&self.keys, self.amount);
    }
}

impl Budgets {
    pub(crate) fn new(owner: OwnerId) -> Arc<Self> {
        Arc::new(Self { owner, state: Mutex::default(), changed: watch::Sender::new(0), hungry: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether no budget limits any call.
    pub(crate) fn is_idle(&self) -> bool {
        self.lock().is_empty()
    }

    /// Tells whether a budget may limit a job's calls.
    pub(crate) fn may_limit(&self, ticket: &Ticket) -> bool {
        ticket.has_budget || !self.is_idle()
    }

    /// Promises a call what it is expected to cost; `None` where no budget limits it.
    pub(crate) fn promise(
        self: &Arc<Self>,
        ticket: &Ticket,
        deployment: &Deployment,
        size: Size,
        clock: &dyn Clock,
    ) -> Result<Option<Promise>, Blocked> {
        if !self.may_limit(ticket) {
            return Ok(None);
        }
        let expected = expected(deployment, size, clock);
        let mut state = self.lock();
        let amount = state.amount(deployment, expected);
        let keys = state.keys(ticket, deployment)?;
        if let Some(blocked) = state.blocked(&keys, amount) {
            drop(state);
            self.hungry.notify_one();
            return Err(blocked);
        }
        state.promise(&keys, amount);
        drop(state);
        let (budgets, deployment) = (Arc::clone(self), Arc::clone(&deployment.name));
        Ok(Some(Promise { budgets, keys: keys.into(), amount, expected, deployment }))
    }

    /// Waits until budgets let a job start at one of a group's deployments, or are spent: then it returns why. Cancel safe.
    pub(crate) async fn ready(
        &self,
        ticket: &Ticket,
        gates: &[Arc<Gate>],
        size: Size,
        clock: &dyn Clock,
    ) -> Option<Blocked> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let blocked = self.all_blocked(ticket, gates, size, clock);
            if matches!(blocked, None | Some(Blocked::Exhausted { .. })) {
                return blocked;
            }
            // The sender lives as long as this does.
            let _ = changed.changed().await;
        }
    }

    /// Returns why no deployment of a group may take a job by its budgets, if so: the reason that passes first.
    pub(crate) fn all_blocked(
        &self,
        ticket: &Ticket,
        gates: &[Arc<Gate>],
        size: Size,
        clock: &dyn Clock,
    ) -> Option<Blocked> {
        if !self.may_limit(ticket) {
            return None;
        }
        let mut least: Option<Blocked> = None;
        for gate in gates {
            let blocked = self.look(ticket, &gate.deployment, size, clock)?;
            if least.as_ref().is_none_or(|least| blocked.rank() < least.rank()) {
                least = Some(blocked);
            }
        }
        if least.is_some() {
            self.hungry.notify_one();
        }
        least
    }

    /// Leaves out the deployments that a job's budgets close.
    pub(crate) fn narrow(
        &self,
        ticket: &Ticket,
        gates: &[Arc<Gate>],
        size: Size,
        clock: &dyn Clock,
        fit: Option<Vec<bool>>,
    ) -> Option<Vec<bool>> {
        if self.is_idle() {
            return fit;
        }
        let open = |gate: &Arc<Gate>| self.look(ticket, &gate.deployment, size, clock).is_none();
        let mut narrowed = fit.clone().unwrap_or_else(|| vec![true; gates.len()]);
        for (fit, gate) in narrowed.iter_mut().zip(gates) {
            *fit &= open(gate);
        }
        match (narrowed.contains(&true), narrowed.contains(&false)) {
            (true, true) => Some(narrowed),
            (true, false) => None,
            (false, _) => fit,
        }
    }

    fn look(&self, ticket: &Ticket, deployment: &Deployment, size: Size, clock: &dyn Clock) -> Option<Blocked> {
        let expected = expected(deployment, size, clock);
        let mut state = self.lock();
        let amount = state.amount(deployment, expected);
        match state.keys(ticket, deployment) {
            Ok(keys) => state.blocked(&keys, amount),
            Err(blocked) => Some(blocked),
        }
    }

    /// Takes in that results are written.
    pub(crate) fn settled(&self, settlement: &Settlement) {
        let Some(spends) = &settlement.spends else { return };
        let cost = |attempt: &AttemptRecord| attempt.cost_pico_usd.unwrap_or(spends.promised_pico_usd);
        let cost: i64 = settlement.attempts.iter().map(cost).sum();
        self.lock().settle(&spends.budgets, cost);
    }

    /// Asks the store for what is needed, until `stop`; then gives back what is left.
    pub(crate) async fn run(&self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut is_failing = false;
        loop {
            let asked = Instant::now();
            let asks = self.lock().asks();
            let asking = tokio::time::timeout(PATIENCE, store.lease_budgets(self.owner, &asks));
            let Some(answer) = stop.run_until_cancelled(asking).await else { break };
            match answer {
                Ok(Ok(sights)) => {
                    is_failing = false;
                    self.see(sights);
                }
                Ok(Err(error)) if !is_failing => {
                    is_failing = true;
                    tracing::warn!(%error, "budgets not leased, trying again");
                }
                Ok(Err(_)) | Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(CALM) => {}
                () = self.hungry.notified() => {}
            }
            tokio::time::sleep_until((asked + SHORTEST).into()).await;
        }
        let asks = self.lock().farewell();
        if !asks.is_empty() {
            let _ = tokio::time::timeout(GIVE_UP, store.lease_budgets(self.owner, &asks)).await;
        }
    }

    /// Asks once, so that no call starts before it is known what limits it.
    pub(crate) async fn learn(&self, store: &dyn Store) -> store::Result<()> {
        let sights = store.lease_budgets(self.owner, &[]).await?;
        self.see(sights);
        Ok(())
    }

    fn see(&self, sights: Vec<BudgetSight>) {
        let mut state = self.lock();
        state.see(sights);
        drop(state);
        self.changed.send_modify(|version| *version += 1);
    }
}

/// Returns what a call costs by its size alone, in picodollars; nothing where the deployment has no price.
fn expected(deployment: &Deployment, size: Size, clock: &dyn Clock) -> i64 {
    let price = deployment.price.as_ref().and_then(|tariff| tariff.price(Instant::now()));
    let output = size.most_output.unwrap_or(FIRST_OUTPUT);
    let cost = price.and_then(|price| price.estimate(&deployment.provider, size.input, output, clock.now()));
    cost.map_or(0, |PicoUsd(cost)| cost)
}
