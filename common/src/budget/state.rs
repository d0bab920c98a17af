//! A budget: what is spent of it, what is leased to whom, and what its owner was told.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BudgetKey, Period};
use crate::id::OwnerId;
use crate::price::PicoUsd;
use crate::quota::Micros;

/// How long a lease lasts that is not asked for again: longer than a worker's, after which nobody starts calls from it.
const LEASE: Duration = Duration::from_secs(60);

/// How long jobs are looked for that began to wait for a budget when it was raised, or began anew.
const FRESH: Duration = Duration::from_secs(600);

/// What becomes of a job that a budget stops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExceed {
    /// It waits until the budget is raised, or begins anew.
    #[default]
    Wait,
    /// It ends with a `BudgetExceededError`.
    Fail,
}

/// A word that is neither.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither wait nor fail")]
pub struct UnknownOnExceed(String);

impl FromStr for OnExceed {
    type Err = UnknownOnExceed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "wait" => Ok(Self::Wait),
            "fail" => Ok(Self::Fail),
            other => Err(UnknownOnExceed(other.to_owned())),
        }
    }
}

impl fmt::Display for OnExceed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Wait => "wait",
            Self::Fail => "fail",
        })
    }
}

/// What a budget allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// The limit, in picodollars.
    pub limit: PicoUsd,
    /// Whether it only alerts; else no call starts that would exceed it.
    pub soft: bool,
    /// What becomes of a job that it stops.
    pub on_exceed: OnExceed,
    /// Percents of the limit at which its owner is told, each once a period.
    pub alert_at: Vec<u16>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { limit: PicoUsd(0), soft: false, on_exceed: OnExceed::Wait, alert_at: vec![50, 80, 100] }
    }
}

/// A budget, as the store keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    terms: Terms,
    /// When the period began that the sums are of.
    start: Micros,
    /// What calls cost.
    spent: i64,
    /// What calls were reserved that nobody saw the end of.
    unseen: i64,
    /// The highest percent that its owner was told of.
    alerted: u16,
    leases: BTreeMap<OwnerId, Lease>,
    set_by: String,
    set_at: Micros,
}

/// What one worker was leased in this period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    granted: i64,
    settled: i64,
    seen: Micros,
}

impl Lease {
    const fn outstanding(self) -> i64 {
        if self.granted > self.settled { self.granted - self.settled } else { 0 }
    }
}

/// What a worker asks of a budget; sums are of all its calls in the period that it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetAsk {
    /// The budget.
    pub key: BudgetKey,
    /// When the period began that it knows.
    pub start: Micros,
    /// What its calls cost whose results are written, in picodollars.
    pub settled: i64,
    /// What its calls cost and what is promised to running ones: it cannot do with less.
    pub used: i64,
    /// The same, and what it wants for further calls.
    pub wanted: i64,
    /// What one call takes: less is of no use.
    pub least: i64,
}

/// How a budget stands for one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetSight {
    /// The budget.
    pub key: BudgetKey,
    /// What it allows.
    pub terms: Terms,
    /// When its period began.
    pub start: Micros,
    /// What this worker was leased in this period, in picodollars; what it used is in it.
    pub granted: i64,
    /// What is not spent yet, whoever it is leased to.
    pub left: i64,
}

/// How a budget stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetStanding {
    /// The budget.
    pub key: BudgetKey,
    /// What it allows.
    pub terms: Terms,
    /// When its period began.
    pub start: Micros,
    /// What calls cost in this period.
    pub spent: PicoUsd,
    /// What calls were reserved in it that nobody saw the end of.
    pub unseen: PicoUsd,
    /// What is leased to workers for running and further calls.
    pub leased: PicoUsd,
    /// Who set it.
    pub set_by: String,
    /// When it was set.
    pub set_at: Micros,
}

/// A threshold that was crossed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// The percent of the limit.
    pub percent: u16,
    /// When the period began.
    pub start: Micros,
    /// What to tell.
    pub message: String,
}

impl Budget {
    /// Reads what [`Self::write`] wrote; what cannot be read is an empty budget, which stops all.
    pub fn read(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// Writes it as JSON text.
    pub fn write(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }

    /// Returns what it allows.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Sets what it allows.
    pub fn set(&mut self, now: Micros, terms: Terms, by: &str) {
        // Thresholds below what is spent are told again where the limit was raised past them.
        self.alerted = self.alerted.min(percent(self.spent.saturating_add(self.unseen), terms.limit.0));
        self.terms = terms;
        by.clone_into(&mut self.set_by);
        self.set_at = now;
    }

    /// Returns when the period began that the sums are of.
    pub fn period_start(&mut self, now: Micros, period: Period) -> Micros {
        self.roll(now, period);
        self.start
    }

    /// Leases what a worker asks for, as far as it goes.
    pub fn lease(&mut self, now: Micros, owner: OwnerId, ask: &BudgetAsk) -> BudgetSight {
        self.roll(now, ask.key.period);
        self.forget_silent(now, owner);
        let limit = self.terms.limit.0;
        let left = limit.saturating_sub(self.spent).saturating_sub(self.unseen).max(0);
        let others: i64 =
            self.leases.iter().filter(|(id, _)| **id != owner).map(|(_, lease)| lease.outstanding()).sum();
        let is_alone = self.leases.keys().all(|id| *id == owner);
        let knows = ask.start == self.start;
        // Who was silent for too long begins where it stands.
        let settled = if knows { ask.settled } else { 0 };
        let lease = self.leases.entry(owner).or_insert(Lease { granted: settled, settled, seen: now });
        lease.seen = now;
        // A worker that knows an older period has not used anything of this one.
        let (used, wanted) = if knows { (ask.used, ask.wanted) } else { (lease.settled, lease.settled) };
        let free = left.saturating_sub(others).max(0);
        // Half of what is free, so that who comes next finds some; near the end one call is worth more than half a call each.
        let most = if is_alone || free / 2 < ask.least { free } else { free / 2 };
        let needs = (used - lease.settled).max(0);
        let wants = (wanted - lease.settled).max(needs);
        // What it holds it may have promised since it asked.
        let holds = lease.outstanding().min(free);
        let given = if self.terms.soft { wants } else { wants.min(most.max(needs).max(holds)) };
        lease.granted = lease.settled.saturating_add(given);
        let granted = lease.granted;
        BudgetSight { key: ask.key.clone(), terms: self.terms.clone(), start: self.start, granted, left }
    }

    /// Says how it stands for a worker that asks for nothing.
    pub fn sight(&self, now: Micros, owner: OwnerId, key: &BudgetKey) -> BudgetSight {
        let mut rolled = self.clone();
        rolled.roll(now, key.period);
        let left = rolled.terms.limit.0.saturating_sub(rolled.spent).saturating_sub(rolled.unseen).max(0);
        let granted = rolled.leases.get(&owner).map_or(0, |lease| lease.granted);
        BudgetSight { key: key.clone(), terms: rolled.terms, start: rolled.start, granted, left }
    }

    /// Takes in what calls of a worker cost, and what was reserved for those that nobody saw the end of; returns the highest
    /// threshold that this crossed.
    pub fn spend(&mut self, now: Micros, owner: OwnerId, key: &BudgetKey, cost: i64, unseen: i64) -> Option<Alert> {
        self.roll(now, key.period);
        self.spent = self.spent.saturating_add(cost);
        self.unseen = self.unseen.saturating_add(unseen);
        if let Some(lease) = self.leases.get_mut(&owner) {
            lease.settled = lease.settled.saturating_add(cost).saturating_add(unseen);
            lease.seen = now;
        }
        self.alert(key)
    }

    /// Takes in what was spent before it was set; thresholds that this had crossed are not told.
    pub fn begin(&mut self, now: Micros, key: &BudgetKey, spent: i64) {
        self.roll(now, key.period);
        self.spent = spent;
        self.alerted = percent(spent, self.terms.limit.0);
    }

    /// Corrects what was spent by what the records say.
    pub fn correct(&mut self, now: Micros, key: &BudgetKey, spent: i64) -> Option<Alert> {
        self.roll(now, key.period);
        self.spent = spent;
        self.alert(key)
    }

    /// Tells whether it was set or began anew a short while ago.
    pub fn is_fresh(&self, now: Micros) -> bool {
        let since = now.saturating_sub(self.set_at.max(self.start));
        u128::try_from(since).is_ok_and(|since| since < FRESH.as_micros())
    }

    /// Tells whether anything is left.
    pub const fn has_left(&self) -> bool {
        self.spent.saturating_add(self.unseen) < self.terms.limit.0
    }

    fn alert(&mut self, key: &BudgetKey) -> Option<Alert> {
        let now = percent(self.spent.saturating_add(self.unseen), self.terms.limit.0);
        let crossed = self.terms.alert_at.iter().copied().filter(|at| *at <= now && *at > self.alerted).max()?;
        self.alerted = crossed;
        let (spent, limit) = (PicoUsd(self.spent.saturating_add(self.unseen)), self.terms.limit);
        let then = match (self.terms.soft, crossed >= 100, self.terms.on_exceed) {
            (true, ..) | (false, false, _) => "",
            (false, true, OnExceed::Wait) => "; its jobs wait until it is raised or begins anew",
            (false, true, OnExceed::Fail) => "; its jobs end with a BudgetExceededError",
        };
        let message = format!("budget {key}: {spent} of {limit} spent ({now} %){then}");
        Some(Alert { percent: crossed, start: self.start, message })
    }

    /// Returns how it stands, for people.
    pub fn standing(&self, now: Micros, key: BudgetKey) -> BudgetStanding {
        let mut rolled = self.clone();
        rolled.roll(now, key.period);
        BudgetStanding {
            key,
            start: rolled.start,
            spent: PicoUsd(rolled.spent),
            unseen: PicoUsd(rolled.unseen),
            leased: PicoUsd(rolled.leases.values().map(|lease| lease.outstanding()).sum()),
            terms: rolled.terms,
            set_by: rolled.set_by,
            set_at: rolled.set_at,
        }
    }

    fn roll(&mut self, now: Micros, period: Period) {
        let start = period.start_of(now);
        // A clock that was set back does not open a period again.
        if start > self.start {
            (self.start, self.spent, self.unseen, self.alerted) = (start, 0, 0, 0);
            self.leases.clear();
        }
    }

    fn forget_silent(&mut self, now: Micros, owner: OwnerId) {
        let silent = now.saturating_sub(Micros::try_from(LEASE.as_micros()).unwrap_or(Micros::MAX));
        self.leases.retain(|id, lease| *id == owner || lease.seen >= silent);
    }
}

/// Returns the whole percents of the limit; of nothing all is spent.
fn percent(spent: i64, limit: i64) -> u16 {
    if limit <= 0 {
        return 100;
    }
    u16::try_from(i128::from(spent.max(0)) * 100 / i128::from(limit)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
