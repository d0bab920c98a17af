//! What this worker holds of an account: slices to spend, and what to tell of them.
//!
//! Slices are paced inside and void after their end. What is not used, and what was used beyond a reservation, is told with the
//! next ask. Nothing is kept: a process that dies leaves its slices to run out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gristmill_common::quota::{Ask, Blocked, Dimension, Grant, Heard, Known, Limits, PerDimension, Slice, Told, Want};
use tokio::sync::watch;

/// How long after its end a slice may be spent: a timer is late by some milliseconds.
const GRACE: Duration = Duration::from_millis(250);

/// Units that a call takes, by dimension.
pub(crate) type Need = PerDimension<u64>;

/// This worker's part of an account.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) account: Arc<str>,
    state: Mutex<State>,
    /// Whether something is used up for long.
    used_up: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    configured: Limits,
    /// What is allowed in a minute; a dimension without it is not limited.
    per_minute: PerDimension<Option<u64>>,
    stock: PerDimension<VecDeque<Piece>>,
    unused: PerDimension<i64>,
    /// Whether the store has answered yet: before that nothing starts.
    granted: bool,
    slots: Option<u64>,
    sharers: u64,
    in_flight: u64,
    heard: Heard,
    told: Told,
    full: bool,
    blocked: Option<(Instant, String)>,
    known: Known,
    /// Since the start of this process.
    leased: PerDimension<u64>,
    used: PerDimension<u64>,
    refused: u64,
}

/// How an account stands with this worker, for its metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// What this worker's configuration says.
    pub(crate) configured: Limits,
    /// What is allowed in a minute, over all workers.
    pub(crate) per_minute: PerDimension<Option<u64>>,
    pub(crate) known: Known,
    /// Calls that this worker may run at once.
    pub(crate) slots: Option<u64>,
    /// Whether something is used up for long.
    pub(crate) blocked: bool,
    /// Units that this process was leased.
    pub(crate) leased: PerDimension<u64>,
    /// Units that its calls used.
    pub(crate) used: PerDimension<u64>,
    /// Calls that were refused for their rate.
    pub(crate) refused: u64,
}

/// A slice, or what is left of it.
#[derive(Debug)]
struct Piece {
    left: u64,
    /// When the next unit may be spent.
    next: Instant,
    unit: f64,
    ends: Instant,
}

/// What came of the wish to start a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Taken {
    /// It may start; the account counts it.
    Yes,
    /// It must wait: until then, or until the next grant.
    Wait(Option<Instant>),
    /// It never can: it is larger than the limit.
    TooLarge(String),
}

impl Ledger {
    pub(crate) fn new(account: Arc<str>, configured: Limits) -> Arc<Self> {
        let state = State {
            configured,
            per_minute: PerDimension::from_fn(|dimension| configured.per_minute(dimension)),
            stock: PerDimension::default(),
            unused: PerDimension::default(),
            granted: false,
            slots: None,
            sharers: 1,
            in_flight: 0,
            heard: Heard::default(),
            told: Told::default(),
            full: false,
            blocked: None,
            known: Known::default(),
            leased: PerDimension::default(),
            used: PerDimension::default(),
            refused: 0,
        };
        Arc::new(Self { account, state: Mutex::new(state), used_up: watch::Sender::new(false) })
    }

    /// Takes what a call needs, if it may start now.
    pub(crate) fn take(&self, need: &Need, now: Instant) -> Taken {
        self.lock().take(need, now)
    }

    /// Tells whether a minute's limit is enough for a call.
    pub(crate) fn may_hold(&self, need: &Need) -> bool {
        self.lock().too_large(need).is_none()
    }

    /// Gives back what a call took and did not use; below zero, takes what it used beyond that. The call has ended.
    pub(crate) fn settle(&self, taken: &Need, used: &Need) {
        let mut state = self.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        for dimension in Dimension::ALL {
            if state.per_minute[dimension].is_some() {
                state.unused[dimension] += signed(taken[dimension]) - signed(used[dimension]);
                state.used[dimension] += used[dimension];
            }
        }
    }

    /// Notes how a call went.
    pub(crate) fn hear(&self, note: impl FnOnce(&mut Heard)) {
        let mut state = self.lock();
        let refused = state.heard.refused;
        note(&mut state.heard);
        state.refused += state.heard.refused - refused;
    }

    /// Notes what headers told.
    pub(crate) fn tell(&self, told: Told) {
        let mut state = self.lock();
        state.told = state.told.with(told);
    }

    /// Replaces the limits that this worker's file says; returns what it said before.
    pub(crate) fn configure(&self, limits: Limits) -> Limits {
        std::mem::replace(&mut self.lock().configured, limits)
    }

    /// Returns which dimensions are limited.
    pub(crate) fn limited(&self) -> PerDimension<bool> {
        let state = self.lock();
        PerDimension::from_fn(|dimension| state.per_minute[dimension].is_some())
    }

    /// Returns how the account stands with this worker.
    pub(crate) fn figures(&self) -> Figures {
        let state = self.lock();
        Figures {
            configured: state.configured,
            per_minute: state.per_minute,
            known: state.known,
            slots: state.slots,
            blocked: state.blocked.is_some(),
            leased: state.leased,
            used: state.used,
            refused: state.refused,
        }
    }

    /// Returns why nothing can start for long, and for how long yet.
    pub(crate) fn blocked(&self) -> Option<(Duration, String)> {
        let state = self.lock();
        let (until, reason) = state.blocked.as_ref()?;
        Some((until.saturating_duration_since(Instant::now()), reason.clone()))
    }

    /// Returns a receiver that hears when something is used up for long, and when that is over.
    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.used_up.subscribe()
    }

    /// Returns how many calls of the usual need can start here in a second, where that is limited: this worker's share.
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
    pub(crate) fn calls_per_second(&self, usual: &Need) -> Option<f64> {
        let state = self.lock();
        let of = |dimension| {
            let share = state.per_minute[dimension]? as f64 / 60.0 / state.sharers.max(1) as f64;
            (usual[dimension] > 0).then(|| share / usual[dimension] as f64)
        };
        Dimension::ALL.into_iter().filter_map(of).reduce(f64::min)
    }

    /// Says for people what is limited.
    pub(crate) fn limits(&self) -> String {
        let state = self.lock();
        let parts: Vec<String> = Dimension::ALL
            .into_iter()
            .filter_map(|dimension| Some(format!("{} {}", state.per_minute[dimension]?, dimension.unit())))
            .collect();
        if parts.is_empty() { "its concurrency".to_owned() } else { parts.join(", ") }
    }

    /// Makes an ask of what happened since the last one. `waiting`: calls that could start within a second, and what they and
    /// the next of them need; `slots`: calls that this worker would run at once.
    pub(crate) fn ask(&self, waiting: &Demand, now: Instant) -> Ask {
        let mut state = self.lock();
        state.expire(now);
        let want = PerDimension::from_fn(|dimension| {
            if state.per_minute[dimension].is_none() && dimension != Dimension::Requests {
                return Want::default();
            }
            let have = state.stock(dimension);
            let least = waiting.next[dimension].saturating_sub(have);
            Want { units: waiting.all[dimension].saturating_sub(have).max(least), least }
        });
        let ask = Ask {
            told: state.told,
            want,
            unused: state.unused,
            in_flight: state.in_flight,
            slots: (state.in_flight + waiting.calls).min(waiting.most),
            most: waiting.most,
            full: state.full,
            heard: state.heard,
            ..Ask::of(Arc::clone(&self.account), state.configured)
        };
        (state.unused, state.heard, state.told, state.full) =
            (PerDimension::default(), Heard::default(), Told::default(), false);
        ask
    }

    /// Takes an ask back that had no answer. What was not used is lost: the store may have heard of it.
    pub(crate) fn take_back(&self, ask: &Ask) {
        let mut state = self.lock();
        state.heard.started += ask.heard.started;
        state.heard.refused += ask.heard.refused;
        state.heard.overloaded += ask.heard.overloaded;
        state.heard.troubled += ask.heard.troubled;
        state.heard.input_tokens += ask.heard.input_tokens;
        state.heard.output_tokens += ask.heard.output_tokens;
        for dimension in Dimension::ALL {
            state.unused[dimension] += ask.unused[dimension].min(0);
        }
        if state.told.is_empty() {
            state.told = ask.told;
        }
    }

    /// Takes in what was granted to an ask that was sent and answered at these times.
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
    pub(crate) fn grant(&self, grant: &Grant, sent: Instant, answered: Instant) {
        let mut state = self.lock();
        state.granted = true;
        for dimension in Dimension::ALL {
            if let (Some(from), Some(to)) = (state.per_minute[dimension], grant.per_minute[dimension])
                && to < from
            {
                // What was leased at a faster rate is spent at the new one.
                let slower = from as f64 / to.max(1) as f64;
                state.stock[dimension].iter_mut().for_each(|piece| piece.unit *= slower);
            }
        }
        state.per_minute = grant.per_minute;
        state.slots = grant.slots;
        state.known = grant.known;
        state.sharers = grant.sharers;
        state.blocked = grant.blocked.as_ref().map(|Blocked { length, reason }| (answered + *length, reason.clone()));
        for dimension in Dimension::ALL {
            if state.per_minute[dimension].is_none() {
                state.stock[dimension].clear();
            }
            if let Some(slice) = grant.slices[dimension] {
                state.leased[dimension] += slice.units;
                state.stock[dimension].push_back(Piece::new(
                    slice,
                    grant.per_minute[dimension].unwrap_or(1),
                    sent,
                    answered,
                ));
            }
        }
        drop(state);
        let is_used_up = grant.blocked.is_some();
        self.used_up.send_if_modified(|before| std::mem::replace(before, is_used_up) != is_used_up);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits for an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Calls that wait.
    pub(crate) calls: u64,
    /// Calls that this worker runs at once at most.
    pub(crate) most: u64,
    /// Units of what can start within about a second.
    pub(crate) all: Need,
    /// Units of the call that is next.
    pub(crate) next: Need,
}

impl State {
    fn take(&mut self, need: &Need, now: Instant) -> Taken {
        self.expire(now);
        // Until the store has answered, only this worker's file is known.
        if !self.granted {
            return Taken::Wait(None);
        }
        if let Some(why) = self.too_large(need) {
            return Taken::TooLarge(why);
        }
        if self.slots.is_some_and(|slots| self.in_flight >= slots) {
            self.full = true;
            return Taken::Wait(None);
        }
        let mut wait: Option<Option<Instant>> = None;
        for dimension in Dimension::ALL {
            if self.per_minute[dimension].is_none() {
                continue;
            }
            let needed = need[dimension];
            if needed == 0 {
                continue;
            }
            let at = match self.stock[dimension].front() {
                Some(front) if self.stock(dimension) >= needed => Some(front.next),
                _ => None,
            };
            if at.is_none_or(|at| at > now) {
                self.full |= dimension == Dimension::Requests;
                // The longest wait of all dimensions; one without an end counts as longest.
                wait = Some(match (wait, at) {
                    (Some(None), _) | (_, None) => None,
                    (Some(Some(before)), Some(at)) => Some(before.max(at)),
                    (None, at) => at,
                });
            }
        }
        if let Some(wait) = wait {
            return Taken::Wait(wait);
        }
        for dimension in Dimension::ALL {
            if self.per_minute[dimension].is_some() {
                spend(&mut self.stock[dimension], need[dimension]);
            }
        }
        self.in_flight += 1;
        self.heard.started += 1;
        Taken::Yes
    }

    /// Says why a call can never start, if it needs more tokens than a minute allows.
    fn too_large(&self, need: &Need) -> Option<String> {
        Dimension::ALL.into_iter().skip(1).find_map(|dimension| {
            let (needed, per_minute) = (need[dimension], self.per_minute[dimension]?);
            (needed > per_minute).then(|| {
                let unit = dimension.unit();
                format!(
                    "it needs at least {needed} tokens and the limit is {per_minute} {unit}: it can never start; shorten it, lower \
                     max_tokens, or raise the limit"
                )
            })
        })
    }

    fn stock(&self, dimension: Dimension) -> u64 {
        self.stock[dimension].iter().map(|piece| piece.left).sum()
    }

    /// Voids what is past its end.
    fn expire(&mut self, now: Instant) {
        for dimension in Dimension::ALL {
            while let Some(piece) = self.stock[dimension].front()
                && (piece.left == 0 || piece.ends + GRACE < now)
            {
                self.unused[dimension] += signed(piece.left);
                self.stock[dimension].pop_front();
            }
        }
    }
}

impl Piece {
    /// Begins no earlier and ends no later than the store meant: the answer took its time.
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
    fn new(slice: Slice, per_minute: u64, sent: Instant, answered: Instant) -> Self {
        let at = |from: Instant, micros: i64| match u64::try_from(micros) {
            Ok(ahead) => from + Duration::from_micros(ahead),
            Err(_) => from.checked_sub(Duration::from_micros(micros.unsigned_abs())).unwrap_or(from),
        };
        Self {
            left: slice.units,
            next: at(answered, slice.begins),
            unit: 60.0 / per_minute.max(1) as f64,
            ends: at(sent, slice.ends),
        }
    }
}

/// Spends units from the front on.
#[expect(clippy::cast_precision_loss, reason = "units of a slice")]
fn spend(stock: &mut VecDeque<Piece>, mut units: u64) {
    while let Some(piece) = stock.front_mut() {
        let now = units.min(piece.left);
        piece.left -= now;
        piece.next += Duration::from_secs_f64(piece.unit * now as f64);
        units -= now;
        if piece.left > 0 || units == 0 {
            return;
        }
        stock.pop_front();
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests;
