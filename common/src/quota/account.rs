//! An account at a provider: what is allowed there, over all workers, and what is leased to each.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::adapt::Adapt;
use super::clock::{Clock, HORIZON};
use super::pause::{self, Pause};
use super::recent::Recent;
use super::{Ask, Blocked, Dimension, Grant, Limits, Micros, PerDimension, Sight, Told};
use crate::id::OwnerId;

mod standing;

pub use standing::{Held, Paused, Standing, UsedUp};

const SECOND: Micros = 1_000_000;
const DAY: Micros = 86_400 * SECOND;
/// How long a worker counts that is not heard of: its calls may run yet.
const FORGOTTEN: Micros = 15 * SECOND;
/// How long its wishes count.
const STALE: Micros = 2 * SECOND;
/// How often a worker asks while its jobs wait, where few share an account.
const AGAIN: Micros = 200_000;
/// Shortest slice that many workers bring it down to.
const SHORTEST: Micros = 20_000;
/// How long what headers said counts.
const TOLD: Micros = 600 * SECOND;
/// Calls at once right after a pause; twice as many each [`RAMP_STEP`].
const RAMP: f64 = 8.0;
const RAMP_STEP: Micros = 500_000;
/// A clock that is this far behind was set back.
const SET_BACK: Micros = 5 * SECOND;
/// Changes that are kept.
const MOST_CHANGES: usize = 50;
/// How long a change of the workers' files is one, though each worker tells it.
const SAME_CHANGE: Micros = 60 * SECOND;
/// How long a model group counts that no worker speaks of.
const UNSERVED: Micros = 3_600 * SECOND;

/// The state of an account: JSON in the store, so that fields of later versions are no obstacle.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// What somebody set for the whole fleet; it wins over every worker's file.
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<Limits>,
    /// Who set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_by: Option<Change>,
    told: Option<(Told, Micros)>,
    clocks: PerDimension<Clock>,
    /// The limits that the clocks run at.
    rates: PerDimension<Option<f64>>,
    day: Day,
    adapt: Adapt,
    pauses: BTreeMap<Arc<str>, Pause>,
    opened_at: Option<Micros>,
    holders: BTreeMap<OwnerId, Holder>,
    /// The model groups whose calls count here, and when a worker last said so.
    models: BTreeMap<Arc<str>, Micros>,
    recent: Recent,
    changes: Vec<Change>,
    updated_at: Micros,
}

/// What was used of the limits of a day, which turns at midnight UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Day {
    number: i64,
    requests: i64,
    tokens: i64,
}

/// A worker that shares the account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Holder {
    configured: Limits,
    /// Calls that it may run at once.
    slots: u64,
    in_flight: u64,
    /// Calls that it would run at once.
    wants: u64,
    /// Whether it waits for quota.
    waits: bool,
    /// Where its last slice ends, in each dimension that it waits for.
    ends: PerDimension<Option<Micros>>,
    seen_at: Micros,
}

impl Holder {
    fn shift(&mut self, by: Micros) {
        self.seen_at -= by;
        for dimension in Dimension::ALL {
            self.ends[dimension] = self.ends[dimension].map(|end| end - by);
        }
    }
}

/// A change of limits, for the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, in microseconds since 1970 by the store's clock.
    pub at: Micros,
    /// Who: a person's name and machine, or `learnt`.
    pub by: String,
    /// What.
    pub what: String,
}

impl Account {
    /// Takes in what a worker tells, and leases it what it may use. `now` is the store's clock.
    pub fn lease(&mut self, now: Micros, owner: OwnerId, ask: &Ask) -> Grant {
        let now = self.follow(now);
        self.holders.retain(|_, holder| now - holder.seen_at < FORGOTTEN);
        self.hold(now, owner, ask);
        if !ask.told.is_empty() {
            let before = self.told.map(|(told, _)| told).unwrap_or_default();
            self.told = Some((before.with(ask.told), now));
        } else if self.told.is_some_and(|(_, at)| now - at > TOLD) {
            self.told = None;
        }
        let limits = self.limits();
        self.give_back(now, ask);
        self.recent.hear(now, ask.heard);
        let learnt = self.adapt.hear(now, ask.heard, self.in_flight(), ask.full, self.is_known(limits));
        if let Some(what) = &learnt {
            self.note(now, "learnt", what.clone());
        }
        self.turn(now, limits);
        let sights = self.look(now, owner, ask);
        let is_open = sights.iter().any(|sight| !matches!(sight, Sight::Paused { .. }));
        let blocked = self.blocked(now, limits, |dimension| {
            let want = ask.want[dimension];
            (want.units > 0).then_some(want.least.max(1))
        });
        let slices = PerDimension::from_fn(|dimension| {
            let may = (is_open || ask.looks.is_empty()) && blocked.is_none();
            may.then(|| self.slice(now, owner, dimension, limits, ask)).flatten()
        });
        Grant {
            per_minute: PerDimension::from_fn(|dimension| self.rates[dimension].map(whole)),
            slices,
            slots: self.slots(now, owner, limits, ask),
            sharers: self.sharers(now),
            blocked,
            sights,
            again: again(i64::try_from(self.sharers(now)).unwrap_or(8)),
            learnt,
            known: self.known(now, limits),
            drift: self.drift(),
        }
    }

    /// Reads a state as [`write`](Self::write) made it. What cannot be read is begun anew: it is learnt again in seconds.
    pub fn read(state: &str) -> Self {
        serde_json::from_str(state).unwrap_or_else(|error| {
            tracing::error!(%error, "the state of a rate limit cannot be read and begins anew");
            Self::default()
        })
    }

    /// Writes the state as JSON.
    pub fn write(&self) -> String {
        serde_json::to_string(self).expect("its keys are strings")
    }

    /// Sets the limits of the whole fleet, or leaves them to the workers' files again.
    pub fn set(&mut self, now: Micros, limits: Option<Limits>, by: &str) {
        let before = self.limits();
        self.set = limits;
        let what = match &limits {
            Some(limits) => format!("set {limits}; it was {before}"),
            None => format!("left to the workers' files; it was {before}"),
        };
        self.set_by = limits.map(|_| Change { at: now, by: by.to_owned(), what: what.clone() });
        self.begin_anew();
        self.note(now, by, what);
    }

    /// Lets a worker go that ends in an orderly way.
    pub fn leave(&mut self, owner: OwnerId) {
        self.holders.remove(&owner);
    }

    /// Returns what somebody set for the whole fleet.
    pub const fn set_limits(&self) -> Option<Limits> {
        self.set
    }

    /// Follows the store's clock, also where it was set back: every time that is kept moves along. Returns the time that counts.
    ///
    /// A little back is no such thing: the time was read before somebody else's lease was waited for.
    fn follow(&mut self, now: Micros) -> Micros {
        let back = self.updated_at - now;
        if (0..SET_BACK).contains(&back) {
            return self.updated_at;
        }
        if back > 0 {
            for dimension in Dimension::ALL {
                self.clocks[dimension].shift(back);
            }
            self.pauses.values_mut().for_each(|pause| pause.shift(back));
            self.holders.values_mut().for_each(|holder| holder.shift(back));
            self.opened_at = self.opened_at.map(|at| at - back);
            self.told = self.told.map(|(told, at)| (told, at - back));
            self.adapt.shift(back);
            self.recent.clear();
        }
        self.updated_at = now;
        let number = now.div_euclid(DAY);
        // A clock that was set back over midnight gives no second day.
        if number > self.day.number {
            self.day = Day { number, ..Day::default() };
        }
        now
    }

    fn hold(&mut self, now: Micros, owner: OwnerId, ask: &Ask) {
        if let Some(before) = self.holders.get(&owner).map(|holder| holder.configured)
            && before != ask.configured
        {
            self.note_file(now, before, ask.configured);
        }
        let holder = self.holders.entry(owner).or_default();
        holder.configured = ask.configured;
        holder.in_flight = ask.in_flight;
        holder.wants = ask.slots;
        holder.waits = ask.wants();
        for dimension in Dimension::ALL {
            let waits = ask.want[dimension].units > 0;
            holder.ends[dimension] = waits.then(|| holder.ends[dimension].unwrap_or_default());
        }
        holder.seen_at = now;
    }

    /// Notes that a worker's file says something else now. All of them read the same change, which is one.
    fn note_file(&mut self, now: Micros, before: Limits, after: Limits) {
        const BY: &str = "workers' files";

        if self.set.is_none() {
            self.begin_anew();
        }
        let what = format!("{after}; it was {before}");
        let is_same = |change: &Change| change.by == BY && change.what == what && now - change.at < SAME_CHANGE;
        if !self.changes.iter().any(is_same) {
            self.note(now, BY, what);
        }
    }

    /// Forgets what other limits taught.
    fn begin_anew(&mut self) {
        self.adapt.forget_pace();
        self.recent.clear();
    }

    /// Returns the limits that somebody wrote down: those of the fleet, else the lowest of the workers' files.
    fn limits(&self) -> Limits {
        self.set.unwrap_or_else(|| {
            self.holders.values().fold(Limits::default(), |all, holder| all.lower(&holder.configured))
        })
    }

    /// Returns what is allowed in a minute; what a day allows, where nothing else bounds it.
    fn rate(&self, dimension: Dimension, limits: Limits) -> Option<f64> {
        self.lowest(dimension, limits.per_minute(dimension))
    }

    /// Returns what is allowed in a minute, the limits of a day aside.
    fn of_a_minute(&self, dimension: Dimension, limits: Limits) -> Option<f64> {
        self.lowest(dimension, limits.of_a_minute(dimension))
    }

    /// Returns the lowest of what was written down, told and learnt.
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
    fn lowest(&self, dimension: Dimension, written: Option<u64>) -> Option<f64> {
        let told = self.told.and_then(|(told, _)| {
            // A day's limit bounds a minute as well, and what is not limited by the minute is not leased.
            let of_a_day = if dimension == Dimension::Requests { told.rpd } else { None };
            told.per_minute[dimension].or(of_a_day)
        });
        let known = lower(written, told).map(|known| known as f64);
        if dimension == Dimension::Requests { lower_f64(known, self.adapt.pace()) } else { known }
    }

    fn is_known(&self, limits: Limits) -> bool {
        Dimension::ALL.iter().any(|dimension| {
            limits.per_minute(*dimension).is_some()
                || self.told.is_some_and(|(told, _)| told.per_minute[*dimension].is_some())
        }) || limits.max_parallel_requests.is_some()
    }

    /// Runs the clocks at the rates that hold now.
    fn turn(&mut self, now: Micros, limits: Limits) {
        for dimension in Dimension::ALL {
            let rate = self.rate(dimension, limits);
            if let (Some(from), Some(to)) = (self.rates[dimension], rate) {
                self.clocks[dimension].turn(now, from, to);
            }
            self.rates[dimension] = rate;
        }
        // What is known and kept needs no second guess.
        if let (Some(pace), Some(known)) = (self.adapt.pace(), limits.per_minute(Dimension::Requests)) {
            #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
            if pace > known as f64 * 1.1 {
                self.adapt.forget_pace();
            }
        }
    }

    fn give_back(&mut self, now: Micros, ask: &Ask) {
        for dimension in Dimension::ALL {
            let units = ask.unused[dimension];
            self.recent.count(now, dimension, -units);
            if units != 0
                && let Some(rate) = self.rates[dimension]
            {
                self.clocks[dimension].give_back(now, rate, units);
            }
        }
        self.day.requests = (self.day.requests - ask.unused[Dimension::Requests]).max(0);
        self.day.tokens = (self.day.tokens - ask.unused[Dimension::Tokens]).max(0);
    }

    fn slice(
        &mut self,
        now: Micros,
        owner: OwnerId,
        dimension: Dimension,
        limits: Limits,
        ask: &Ask,
    ) -> Option<super::Slice> {
        let mut want = ask.want[dimension];
        let left = self.left_today(dimension, limits);
        if let Some(left) = left {
            want.units = want.units.min(left);
        }
        let others: Vec<Micros> = self
            .holders
            .iter()
            .filter(|(other, holder)| **other != owner && now - holder.seen_at < STALE)
            .filter_map(|(_, holder)| holder.ends[dimension])
            .collect();
        let sharers = i64::try_from(others.len() + 1).unwrap_or(1);
        // With many, what is leased until a worker asks again.
        let share = (HORIZON / sharers).max(again(sharers) * 5 / 4 / sharers).max(SHORTEST);
        // Who is a share ahead of another lets that one go first, while there is time left for it to come.
        let end = self.holders.get(&owner).and_then(|holder| holder.ends[dimension]).unwrap_or_default();
        let is_ahead = others.iter().any(|other| end >= other.max(&(now - HORIZON)) + share);
        if is_ahead && self.clocks[dimension].ahead(now) > HORIZON / 4 {
            return None;
        }
        let rate = self.rates[dimension]?;
        // What can never start takes nothing from the others.
        if want.least > whole(rate).max(1) {
            return None;
        }
        let slice = self.clocks[dimension].lease(now, rate, want, share)?;
        if let Some(holder) = self.holders.get_mut(&owner) {
            holder.ends[dimension] = Some(now + slice.ends);
        }
        let units = i64::try_from(slice.units).unwrap_or_default();
        self.recent.count(now, dimension, units);
        match dimension {
            Dimension::Requests => self.day.requests += units,
            Dimension::Tokens => self.day.tokens += units,
            Dimension::InputTokens | Dimension::OutputTokens => {}
        }
        Some(slice)
    }

    fn rpd(&self, limits: Limits) -> Option<u64> {
        lower(limits.rpd, self.told.and_then(|(told, _)| told.rpd))
    }

    fn left_today(&self, dimension: Dimension, limits: Limits) -> Option<u64> {
        let (limit, used) = match dimension {
            Dimension::Requests => (self.rpd(limits)?, self.day.requests),
            Dimension::Tokens => (limits.tpd?, self.day.tokens),
            Dimension::InputTokens | Dimension::OutputTokens => return None,
        };
        Some(limit.saturating_sub(u64::try_from(used).unwrap_or_default()))
    }

    /// Tells which limit is used up until tomorrow, of those of which so much is wanted at least.
    fn blocked(&self, now: Micros, limits: Limits, least: impl Fn(Dimension) -> Option<u64>) -> Option<Blocked> {
        [(Dimension::Requests, self.rpd(limits), "calls"), (Dimension::Tokens, limits.tpd, "tokens")]
            .into_iter()
            .find_map(|(dimension, limit, what)| {
                let left = self.left_today(dimension, limits)?;
                (left < least(dimension)?).then(|| Blocked {
                    length: standing::day_left(now),
                    reason: format!(
                        "the limit of {} {what} a day is used up; it begins anew at midnight UTC",
                        limit.unwrap_or_default()
                    ),
                })
            })
    }

    fn look(&mut self, now: Micros, owner: OwnerId, ask: &Ask) -> Vec<Sight> {
        let mut sights = Vec::with_capacity(ask.looks.len());
        if !ask.looks.is_empty() {
            self.models.retain(|_, seen_at| now - *seen_at < UNSERVED);
        }
        for look in &ask.looks {
            self.models.insert(Arc::clone(&look.group), now);
            let mut pause = self.pauses.remove(&look.deployment);
            let was_open = pause.is_none();
            if pause::see(&mut pause, now, owner, look) {
                self.opened_at = Some(now);
                self.note(now, "learnt", format!("deployment {} works again", look.deployment));
            }
            sights.push(pause::stand(&mut pause, now, owner, look));
            if let Some(pause) = pause {
                if was_open {
                    self.note(now, "learnt", format!("deployment {} paused: {}", look.deployment, pause.class));
                }
                self.pauses.insert(Arc::clone(&look.deployment), pause);
            }
        }
        self.pauses.retain(|_, pause| !pause.is_forgotten(now));
        sights
    }

    fn in_flight(&self) -> u64 {
        self.holders.values().map(|holder| holder.in_flight).sum()
    }

    /// Counts the workers that share the account now.
    fn sharers(&self, now: Micros) -> u64 {
        let active = |holder: &&Holder| now - holder.seen_at < STALE && (holder.waits || holder.in_flight > 0);
        (self.holders.values().filter(active).count() as u64).max(1)
    }

    #[expect(clippy::cast_precision_loss, reason = "calls at once, and a few steps")]
    fn total_slots(&self, now: Micros, limits: Limits) -> Option<u64> {
        let ramp = self.opened_at.and_then(|at| {
            let steps = (now - at) as f64 / RAMP_STEP as f64;
            (steps < 16.0).then(|| RAMP * steps.exp2())
        });
        let total =
            lower_f64(lower_f64(limits.max_parallel_requests.map(|most| most as f64), self.adapt.window()), ramp)?;
        Some(whole(total).max(1))
    }

    /// Divides the calls that may run at once: each worker gets what it wants while all fit, else its share; what others
    /// have, or have running yet, is never given twice.
    ///
    /// What it wants is what waits at this moment, and more may come before it asks again: while something waits, half of its share
    /// is its own, as far as it could run so many.
    fn slots(&mut self, now: Micros, owner: OwnerId, limits: Limits, ask: &Ask) -> Option<u64> {
        let total = self.total_slots(now, limits)?;
        let share = (total / self.sharers(now)).max(1);
        let others = || self.holders.iter().filter(|(other, _)| **other != owner).map(|(_, holder)| holder);
        let held: u64 = others().map(|holder| holder.slots.max(holder.in_flight)).sum();
        let short = others().any(|holder| holder.wants > holder.slots && holder.slots < share);
        let most = total.saturating_sub(held);
        let ahead = if ask.slots > ask.in_flight { (share / 2).min(ask.most) } else { 0 };
        let slots = ask.slots.max(ahead).min(most).min(if short { share } else { u64::MAX });
        if let Some(holder) = self.holders.get_mut(&owner) {
            holder.slots = slots;
        }
        Some(slots)
    }

    fn drift(&self) -> Option<String> {
        if self.set.is_some() {
            return None;
        }
        let mut files = self.holders.values().map(|holder| holder.configured);
        let first = files.next()?;
        let other = files.find(|other| *other != first)?;
        Some(format!("workers' files differ: {first} and {other}; the lowest of each counts"))
    }

    fn note(&mut self, at: Micros, by: &str, what: String) {
        self.changes.push(Change { at, by: by.to_owned(), what });
        let excess = self.changes.len().saturating_sub(MOST_CHANGES);
        self.changes.drain(..excess);
    }
}

/// Returns when a worker asks again while its jobs wait.
fn again(sharers: Micros) -> Micros {
    (AGAIN * sharers / 8).clamp(AGAIN, 5 * AGAIN)
}

fn lower(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    a.into_iter().chain(b).min()
}

fn lower_f64(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::min)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "figures of limits, never below zero")]
fn whole(value: f64) -> u64 {
    value.max(0.0).floor() as u64
}

#[cfg(test)]
mod tests;
