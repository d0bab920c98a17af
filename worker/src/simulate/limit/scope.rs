//! The calls that share limits: all of them, or those to one model.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::audit::{Audit, ScopeStats};
use super::limits::Limits;
use super::quota::Quota;
use super::shape::LimitShape;
use super::{Cost, Dimension, Left, Moment, Refusal};

/// What is left of the limits of a scope, and their audit, behind one lock.
#[derive(Debug)]
pub(super) struct Scope(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    shape: LimitShape,
    start: Instant,
    limits: Limits,
    /// Whether there is any limit, so that calls need not ask for each while there is none.
    is_limited: bool,
    /// What is left, by dimension; calls under way are counted apart.
    quotas: [Option<Quota>; Dimension::ALL.len()],
    /// Calls that were let in and have not ended, of those that [`State::settles`] was true for.
    under_way: u32,
    audit: Audit,
}

impl Scope {
    /// Starts with nothing used; windows are counted from `start`.
    pub(super) fn new(shape: LimitShape, limits: Limits, start: Instant, now: Instant) -> Self {
        let audit = Audit::new(limits, now);
        let mut state =
            State { shape, start, limits, is_limited: false, quotas: Default::default(), under_way: 0, audit };
        state.fit(now);
        Self(Mutex::new(state))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limits; what was used of the old ones is used of the new ones, in proportion.
    pub(super) fn change(&self, change: impl FnOnce(Limits) -> Limits, now: Instant) {
        let mut state = self.lock();
        state.limits = change(state.limits);
        let limits = state.limits;
        state.audit.change(limits, now);
        state.fit(now);
    }

    pub(super) fn read(&self) -> ScopeStats {
        self.lock().audit.read()
    }
}

impl State {
    /// Makes the quotas fit the limits.
    fn fit(&mut self, now: Instant) {
        self.is_limited = Dimension::ALL.into_iter().any(|dimension| self.limits.of(dimension).is_some());
        for dimension in Dimension::ALL {
            let quota = &mut self.quotas[dimension as usize];
            *quota = match (self.limits.of(dimension), quota.take()) {
                (None, _) => None,
                (Some(_), _) if dimension == Dimension::Parallel => None,
                (Some(limit), Some(quota)) => Some(quota.scaled(limit, now)),
                (Some(limit), None) => Some(Quota::new(self.shape, dimension, limit, self.start, now)),
            };
        }
    }

    /// Tells whether there is any limit.
    pub(super) fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Tells whether calls must tell their end.
    fn settles(&self) -> bool {
        self.is_limited
            && [Dimension::OutputTokens, Dimension::Parallel].into_iter().any(|end| self.limits.of(end).is_some())
    }

    /// Looks for a limit that a call does not fit in.
    pub(super) fn refusal(&mut self, cost: Cost, now: Instant) -> Option<Refusal> {
        for dimension in Dimension::ALL {
            let Some(quota) = &mut self.quotas[dimension as usize] else { continue };
            let requested = cost.of(dimension);
            let wait = quota.wait(requested, now);
            if wait != Some(Duration::ZERO) {
                let limit = self.limits.of(dimension).unwrap_or_default();
                return Some(Refusal { dimension, limit, requested, wait });
            }
        }
        let limit = self.limits.of(Dimension::Parallel).filter(|limit| self.under_way >= *limit)?;
        let requested = u64::from(self.under_way) + 1;
        Some(Refusal { dimension: Dimension::Parallel, limit, requested, wait: None })
    }

    /// Counts a call and takes it where it was let in; tells whether its end must be told.
    pub(super) fn arrive(&mut self, cost: Cost, is_accepted: bool, at: Moment) -> bool {
        let settles = self.settles();
        self.audit.arrive(cost, is_accepted, settles.then_some(self.under_way), at);
        if !is_accepted || !self.is_limited {
            return false;
        }
        for dimension in Dimension::ALL {
            if let Some(quota) = &mut self.quotas[dimension as usize] {
                quota.take(cost.of(dimension), at.now);
            }
        }
        self.under_way += u32::from(settles);
        settles
    }

    /// Counts that a limit of this scope refused a call.
    pub(super) fn refuse(&mut self, dimension: Dimension) {
        self.audit.refuse(dimension);
    }

    /// Counts the end of a call and takes its output, on credit if need be.
    pub(super) fn settle(&mut self, output_tokens: u64, at: Moment) {
        self.under_way = self.under_way.saturating_sub(1);
        self.audit.settle(output_tokens, at);
        if let Some(quota) = &mut self.quotas[Dimension::OutputTokens as usize] {
            quota.take(output_tokens, at.now);
        }
    }

    /// Returns what headers say of a limit.
    pub(super) fn left(&mut self, dimension: Dimension, now: Instant) -> Option<Left> {
        self.quotas[dimension as usize].as_mut().map(|quota| quota.left(now))
    }
}
