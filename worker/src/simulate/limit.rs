//! The provider's rate limits, and the audit of who kept them.
//!
//! Owns what is left of every limit, for all calls together and for those to single models, and the audit of each of
//! these scopes: what arrived and what was let in during every sliding minute. All of it is in memory and starts full and
//! at zero. A call is taken from all of its limits, or from none.

mod audit;
mod bucket;
mod history;
mod limits;
mod quota;
mod scope;
mod series;
mod shape;
mod sliding;
mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub use audit::{LimitStats, ScopeStats};
pub use limits::{LimitChange, Limits, ModelLimits};
pub use series::Second;
pub use shape::LimitShape;

use scope::Scope;

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dimension {
    Requests,
    Tokens,
    InputTokens,
    OutputTokens,
    RequestsPerDay,
    Parallel,
}

impl Dimension {
    const ALL: [Self; 6] =
        [Self::Requests, Self::Tokens, Self::InputTokens, Self::OutputTokens, Self::RequestsPerDay, Self::Parallel];

    /// Returns the time that a limit is for.
    const fn period(self) -> Duration {
        match self {
            Self::RequestsPerDay => Duration::from_secs(24 * 60 * 60),
            _ => Duration::from_secs(60),
        }
    }
}

/// What a call takes when it arrives.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// As its dialect counts them for `tpm`.
    pub(super) tokens: u64,
    /// Of the prompt, without those that are read from a cache.
    pub(super) input_tokens: u64,
}

impl Cost {
    fn of(self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Requests | Dimension::RequestsPerDay | Dimension::Parallel => 1,
            Dimension::Tokens => self.tokens,
            Dimension::InputTokens => self.input_tokens,
            // Nobody knows yet; it is taken when the call ends.
            Dimension::OutputTokens => 0,
        }
    }
}

/// A point in time, by every clock that is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// The time since the simulator's first call.
    pub(super) since_first: Duration,
    pub(super) unix_ms: i64,
}

/// A call that does not fit now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) dimension: Dimension,
    /// The limit for its period.
    pub(super) limit: u32,
    /// What the call would have taken; for calls under way, how many there would have been.
    pub(super) requested: u64,
    /// The wait until it fits; `None` when it never will, and for calls under way, of which nobody knows when they end.
    pub(super) wait: Option<Duration>,
}

/// What the rate-limit headers say of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) limit: u32,
    /// What may start at once.
    pub(super) remaining: u64,
    /// The time until all of it is there.
    pub(super) reset: Duration,
}

/// What headers say of all limits: of each the nearer one, where there is one for all calls and one for the model.
#[derive(Debug, Default)]
pub(super) struct Lefts {
    pub(super) requests: Option<Left>,
    pub(super) tokens: Option<Left>,
    pub(super) input_tokens: Option<Left>,
    pub(super) output_tokens: Option<Left>,
}

/// The answer to an arrival.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) lefts: Lefts,
    pub(super) verdict: Result<Option<Permit>, Refusal>,
}

/// What a call that was let in must give back when it ends.
#[derive(Debug)]
pub(super) struct Permit([Option<Arc<Scope>>; 2]);

impl Permit {
    /// Ends the call, which has produced so many tokens.
    pub(super) fn settle(self, output_tokens: u64, at: Moment) {
        for scope in self.0.into_iter().flatten() {
            scope.lock().settle(output_tokens, at);
        }
    }
}

/// All limits, each scope behind one lock.
#[derive(Debug)]
pub(super) struct Meter {
    shape: LimitShape,
    start: Instant,
    all: Arc<Scope>,
    models: RwLock<BTreeMap<String, Arc<Scope>>>,
    /// Whether there are any, so that calls need not ask while there are none.
    has_models: AtomicBool,
}

impl Meter {
    /// Starts with nothing used.
    pub(super) fn new(shape: LimitShape, limits: Limits, now: Instant) -> Self {
        Self {
            shape,
            start: now,
            all: Arc::new(Scope::new(shape, limits, now, now)),
            models: RwLock::default(),
            has_models: AtomicBool::new(false),
        }
    }

    /// Changes the limits of all calls together, or of those to a model; the audit goes on.
    ///
    /// What was used of the old limits is used of the new ones, in proportion. A model that had none gets an audit of its
    /// own from now on.
    pub(super) fn change(&self, model: Option<&str>, change: impl FnOnce(Limits) -> Limits, now: Instant) {
        let Some(model) = model else {
            self.all.change(change, now);
            return;
        };
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = models.get(model) {
            scope.change(change, now);
            return;
        }
        let scope = Scope::new(self.shape, change(Limits::default()), self.start, now);
        models.insert(model.to_owned(), Arc::new(scope));
        self.has_models.store(true, Ordering::Release);
    }

    /// Returns what the audit found of all calls, and of those to each model with limits of its own.
    pub(super) fn read(&self) -> (ScopeStats, BTreeMap<String, ScopeStats>) {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        (self.all.read(), models.iter().map(|(model, scope)| (model.clone(), scope.read())).collect())
    }

    /// Counts an arrival and takes it from all of its limits, or from none.
    pub(super) fn arrive(&self, model: &str, cost: Cost, at: Moment) -> Arrival {
        let of_model = self.scope(model);
        if of_model.is_none() {
            let mut all = self.all.lock();
            if !all.is_limited() {
                all.arrive(cost, true, at);
                return Arrival { lefts: Lefts::default(), verdict: Ok(None) };
            }
        }
        let scopes = [Some(&self.all), of_model.as_ref()];
        // Always in this order, so that no two calls wait for each other.
        let mut states = scopes.map(|scope| scope.map(|scope| scope.lock()));
        let mut refusal = None;
        for state in states.iter_mut().flatten() {
            refusal = state.refusal(cost, at.now);
            if let Some(refusal) = &refusal {
                state.refuse(refusal.dimension);
                break;
            }
        }
        let mut settles = [false; 2];
        for (settles, state) in settles.iter_mut().zip(&mut states) {
            *settles = state.as_mut().is_some_and(|state| state.arrive(cost, refusal.is_none(), at));
        }

        let mut left = |dimension| {
            let lefts = states.iter_mut().flatten().filter_map(|state| state.left(dimension, at.now));
            lefts.min_by_key(|left| (left.remaining, left.limit))
        };
        let lefts = Lefts {
            requests: left(Dimension::Requests),
            tokens: left(Dimension::Tokens),
            input_tokens: left(Dimension::InputTokens),
            output_tokens: left(Dimension::OutputTokens),
        };
        let verdict = match refusal {
            Some(refusal) => Err(refusal),
            None if settles == [false; 2] => Ok(None),
            None => {
                let [all, of_model] = scopes;
                Ok(Some(Permit([all.filter(|_| settles[0]).cloned(), of_model.filter(|_| settles[1]).cloned()])))
            }
        };
        Arrival { lefts, verdict }
    }

    /// Finds the scope of a model that has limits of its own.
    fn scope(&self, model: &str) -> Option<Arc<Scope>> {
        if !self.has_models.load(Ordering::Acquire) {
            return None;
        }
        self.models.read().unwrap_or_else(PoisonError::into_inner).get(model).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests;
