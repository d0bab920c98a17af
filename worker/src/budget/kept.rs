//! What one worker knows of budgets: what it was leased of each, what it used, and what it asks for. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use gristmill_common::budget::{BudgetAsk, BudgetKey, BudgetSight, OnExceed, Period, Scope, Terms};
use gristmill_common::clock::Clock;
use gristmill_common::config::Deployment;
use gristmill_common::quota::Micros;
use gristmill_common::store::{Ticket, budget_reason};

use super::CALM;

/// How soon a job looks again for which others hold what is left.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a job waits for a budget at most; it is woken when the budget is raised, but another one may be what let it wait.
const LONG: Duration = Duration::from_secs(3_600);
/// How slowly the ratio of costs to expectations falls: one dear call in a hundred is still expected.
const DECAY: f64 = 0.02;
/// What a ratio may be.
const RATIOS: std::ops::RangeInclusive<f64> = 1.0 / 64.0..=64.0;

/// The budgets of a process.
#[derive(Debug, Default)]
pub(super) struct State {
    budgets: BTreeMap<BudgetKey, Kept>,
    /// What calls cost of what was expected of them, by deployment.
    ratios: BTreeMap<Arc<str>, f64>,
    /// What calls cost of deployments of which nothing can be expected, since only their provider knows its prices.
    told: BTreeMap<Arc<str>, f64>,
}

/// One budget as this worker keeps it; sums are of its period, in picodollars.
#[derive(Debug, Default)]
struct Kept {
    terms: Terms,
    start: Micros,
    granted: i64,
    left: i64,
    /// What calls cost.
    actual: i64,
    /// What calls cost whose results are written.
    settled: i64,
    /// What running calls were promised.
    promised: i64,
    /// What calls took since the store was asked.
    taken: i64,
    /// What jobs asked for in vain since the store was asked.
    missing: i64,
    /// What one of them takes.
    least: i64,
}

impl Kept {
    const fn used(&self) -> i64 {
        self.actual.saturating_add(self.promised)
    }

    const fn has(&self, amount: i64) -> bool {
        self.terms.soft || self.granted.saturating_sub(self.used()) >= amount
    }

    /// Tells whether so much is not left, whoever holds the rest. What was spent and is not written yet may cost less in the end
    /// than the store was told: it is waited for.
    const fn is_exhausted_for(&self, amount: i64) -> bool {
        self.left < amount
    }
}

/// Why a job may not start by a budget.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Blocked {
    /// It is spent.
    Exhausted { key: BudgetKey, terms: Terms, start: Micros },
    /// What is left is held for other calls, or was not asked for yet.
    Short(BudgetKey),
    /// Its batch has a budget that this worker has not heard of yet.
    Unknown,
}

impl State {
    /// Tells whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.budgets.is_empty()
    }

    /// Returns what a call is promised of which this is expected: as calls of its deployment cost of late.
    pub(super) fn amount(&self, deployment: &Deployment, expected: i64) -> i64 {
        #[expect(clippy::cast_precision_loss, reason = "an expectation")]
        let amount = if expected > 0 {
            expected as f64 * self.ratios.get(&deployment.name).copied().unwrap_or(1.0)
        } else {
            self.told.get(&deployment.name).copied().unwrap_or(0.0)
        };
        #[expect(clippy::cast_possible_truncation, reason = "an expectation")]
        let amount = amount.ceil() as i64;
        amount
    }

    /// Returns the budgets that limit a call.
    pub(super) fn keys(&self, ticket: &Ticket, deployment: &Deployment) -> Result<Vec<BudgetKey>, Blocked> {
        let mut scopes = vec![
            Scope::All,
            Scope::Batch(ticket.job.batch),
            Scope::Provider(Arc::clone(&deployment.provider)),
            Scope::Deployment(Arc::clone(&deployment.name)),
        ];
        scopes.extend(ticket.project.clone().map(Scope::Project));
        let mut keys = Vec::new();
        for scope in scopes {
            for period in Period::ALL {
                let key = BudgetKey { scope: scope.clone(), period };
                if self.budgets.contains_key(&key) {
                    keys.push(key);
                }
            }
        }
        let knows_batch = || keys.iter().any(|key| matches!(key.scope, Scope::Batch(_)));
        if ticket.has_budget && !knows_batch() { Err(Blocked::Unknown) } else { Ok(keys) }
    }

    /// Returns the budget that does not have so much, if there is one; one that is spent before one that is short.
    pub(super) fn blocked(&mut self, keys: &[BudgetKey], amount: i64) -> Option<Blocked> {
        let mut short = None;
        for key in keys {
            let Some(kept) = self.budgets.get_mut(key) else { continue };
            // What has no price is limited by none.
            if amount == 0 || kept.has(amount) {
                continue;
            }
            if kept.is_exhausted_for(amount) {
                let (terms, start) = (kept.terms.clone(), kept.start);
                return Some(Blocked::Exhausted { key: key.clone(), terms, start });
            }
            kept.missing = kept.missing.saturating_add(amount).min(kept.left);
            kept.least = amount;
            short = Some(Blocked::Short(key.clone()));
        }
        short
    }

    /// Returns what to ask for: twice what calls took since the last time, what was missing, and no more.
    pub(super) fn asks(&mut self) -> Vec<BudgetAsk> {
        let mut asks = Vec::new();
        for (key, kept) in &mut self.budgets {
            if kept.terms.soft {
                continue;
            }
            let used = kept.used();
            let more = kept.taken.saturating_mul(2).saturating_add(kept.missing);
            let wanted = used.saturating_add(more);
            // While calls run it asks all the same: who is not heard of for long loses its lease.
            if more == 0 && kept.granted <= used && kept.promised == 0 {
                continue;
            }
            // What it does not ask for is gone when the answer comes.
            kept.granted = kept.granted.min(wanted.max(used));
            asks.push(BudgetAsk {
                key: key.clone(),
                start: kept.start,
                settled: kept.settled,
                used,
                wanted,
                least: kept.least,
            });
            (kept.taken, kept.missing) = (0, 0);
        }
        asks
    }

    /// Promises so much of each.
    pub(super) fn promise(&mut self, keys: &[BudgetKey], amount: i64) {
        for key in keys {
            if let Some(kept) = self.budgets.get_mut(key) {
                kept.promised = kept.promised.saturating_add(amount);
                kept.taken = kept.taken.saturating_add(amount);
            }
        }
    }

    /// Takes a promise back. A budget may have gone and come back meanwhile, and know nothing of it.
    pub(super) fn release(&mut self, keys: &[BudgetKey], amount: i64) {
        for key in keys {
            if let Some(kept) = self.budgets.get_mut(key) {
                kept.promised = kept.promised.saturating_sub(amount).max(0);
            }
        }
    }

    /// Takes in what a call cost.
    pub(super) fn spend(&mut self, keys: &[BudgetKey], cost: i64) {
        for key in keys {
            if let Some(kept) = self.budgets.get_mut(key) {
                kept.actual = kept.actual.saturating_add(cost);
            }
        }
    }

    /// Takes in that so much of what calls cost is written.
    pub(super) fn settle(&mut self, keys: &[BudgetKey], cost: i64) {
        for key in keys {
            if let Some(kept) = self.budgets.get_mut(key) {
                kept.settled = kept.settled.saturating_add(cost).min(kept.actual);
            }
        }
    }

    /// Learns what a deployment's calls cost of what is expected of them: the most of late.
    pub(super) fn learn(&mut self, deployment: &Arc<str>, expected: i64, cost: i64) {
        if cost <= 0 {
            return;
        }
        if expected <= 0 {
            let told = self.told.entry(Arc::clone(deployment)).or_insert(0.0);
            #[expect(clippy::cast_precision_loss, reason = "an expectation")]
            let new = cost as f64;
            *told = new.max(*told + DECAY * (new - *told));
            return;
        }
        let ratio = self.ratios.entry(Arc::clone(deployment)).or_insert(1.0);
        #[expect(clippy::cast_precision_loss, reason = "a ratio of costs")]
        let new = cost as f64 / expected as f64;
        *ratio = new.max(*ratio + DECAY * (new - *ratio)).clamp(*RATIOS.start(), *RATIOS.end());
    }

    /// Returns what gives back all that is not used.
    pub(super) fn farewell(&mut self) -> Vec<BudgetAsk> {
        for kept in self.budgets.values_mut() {
            (kept.taken, kept.missing) = (0, 0);
        }
        self.asks()
    }

    pub(super) fn see(&mut self, sights: Vec<BudgetSight>) {
        let mut seen = BTreeMap::new();
        for BudgetSight { key, terms, start, granted, left } in sights {
            let new = Kept { terms, start, granted, left, ..Kept::default() };
            let kept = match self.budgets.remove(&key) {
                Some(kept) if kept.start == start => Kept { terms: new.terms, granted, left, ..kept },
                // Running calls are of the new period when they end.
                Some(Kept { promised, least, .. }) => Kept { promised, missing: least, least, ..new },
                None => new,
            };
            seen.insert(key, kept);
        }
        self.budgets = seen;
    }
}

impl Blocked {
    /// Orders reasons by how soon they pass: what fails jobs counts only where every deployment's does.
    pub(super) fn rank(&self) -> (u8, Period) {
        match self {
            Self::Short(_) | Self::Unknown => (0, Period::Total),
            Self::Exhausted { key, terms, .. } if terms.on_exceed == OnExceed::Fail => (3, key.period),
            Self::Exhausted { key, .. } if key.period == Period::Total => (2, key.period),
            Self::Exhausted { key, .. } => (1, key.period),
        }
    }

    /// Says for how long a job goes back to the store, and why.
    pub(crate) fn wait(&self, clock: &dyn Clock) -> (Duration, String) {
        match self {
            Self::Exhausted { key, terms, start } => {
                let begun = DateTime::from_timestamp_micros(*start).unwrap_or_default();
                let end = key.period.end(begun).map(|end| (end - clock.now()).to_std().unwrap_or_default());
                let reason = format!("{}{} are spent", budget_reason(key), terms.limit);
                (end.unwrap_or(LONG).clamp(CALM, LONG), reason)
            }
            Self::Short(key) => (AGAIN, format!("{}what is left is held for running calls", budget_reason(key))),
            Self::Unknown => (CALM, "its batch's budget is not known yet".to_owned()),
        }
    }

    /// Returns what to say where the job ends instead of waiting.
    pub(crate) fn failure(&self) -> Option<String> {
        match self {
            Self::Exhausted { key, terms, .. } if terms.on_exceed == OnExceed::Fail => {
                Some(format!("the budget {key} of {} is spent; raise it with `gristmill budgets set`", terms.limit))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
