//! What a worker tells of an account, and what it is answered.

use std::sync::Arc;
use std::time::Duration;

use super::{Dimension, Heard, Limits, Micros, PerDimension, Slice, Want};

/// What a worker tells of one account since it told last, and what it could use.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ask {
    /// The account.
    pub account: Arc<str>,
    /// The limits that the worker's own configuration says.
    pub configured: Limits,
    /// What the provider's headers said.
    pub told: Told,
    /// What it could start soon.
    pub want: PerDimension<Want>,
    /// Units that were leased and not used; below zero, what was used beyond them.
    pub unused: PerDimension<i64>,
    /// Calls of this worker that run.
    pub in_flight: u64,
    /// Calls that it would run at once, the running ones included.
    pub slots: u64,
    /// Calls that it could run at once, whatever waits.
    pub most: u64,
    /// Whether its share of the calls at once, or of the pace, is used up.
    pub full: bool,
    /// How its calls went.
    pub heard: Heard,
    /// How its deployments of this account stand.
    pub looks: Vec<Look>,
}

/// The limits that a provider's headers said, where they did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Told {
    /// In a minute.
    pub per_minute: PerDimension<Option<u64>>,
    /// Calls in a day.
    pub rpd: Option<u64>,
}

impl Told {
    /// Returns this with what was said later in its place.
    #[must_use]
    pub fn with(self, later: Self) -> Self {
        let of = |dimension| later.per_minute[dimension].or(self.per_minute[dimension]);
        Self { per_minute: PerDimension::from_fn(of), rpd: later.rpd.or(self.rpd) }
    }

    /// Tells whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a deployment stands with one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The deployment's name.
    pub deployment: Arc<str>,
    /// The model group that it serves.
    pub group: Arc<str>,
    /// Why it must rest, if this worker found that.
    pub pause: Option<Pausing>,
    /// How the probe went that this worker was allowed.
    pub probed: Option<Probed>,
    /// Whether jobs wait here for it, of which one could be a probe.
    pub ready: bool,
    /// Whether a probe of this worker is under way.
    pub probing: bool,
    /// Whether somebody asked to look again at once.
    pub again: bool,
    /// Whether this worker has just started, perhaps with what was missing: it looks again, but waits as a provider asked to.
    pub fresh: bool,
}

/// Why a deployment must rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pausing {
    /// How long; `None` leaves it to how often it was paused in a row.
    pub length: Option<Duration>,
    /// The longest that it may grow to.
    pub longest: Duration,
    /// What to do and why, for people.
    pub reason: String,
    /// The error's class.
    pub class: String,
    /// Whether it was refused for its rate.
    pub refusal: bool,
}

/// How a probe went; what paused it again is told as a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// It was answered.
    Works,
    /// It told nothing.
    Nothing,
}

/// What a worker may do, from the moment of the answer on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grant {
    /// What is allowed in a minute, as far as it is known; a dimension without a limit needs no slice.
    pub per_minute: PerDimension<Option<u64>>,
    /// What to spend.
    pub slices: PerDimension<Option<Slice>>,
    /// Calls that this worker may run at once; `None` is no bound.
    pub slots: Option<u64>,
    /// Workers that share the account.
    pub sharers: u64,
    /// Why nothing more can be spent, where that lasts.
    pub blocked: Option<Blocked>,
    /// How the deployments stand, in the order of the looks.
    pub sights: Vec<Sight>,
    /// When to ask again while jobs wait.
    pub again: Micros,
    /// What was learnt just now, for the log.
    pub learnt: Option<String>,
    /// What is known of the account's limits.
    pub known: Known,
    /// Where the workers' files differ, for the log.
    pub drift: Option<String>,
}

/// What is known of an account's limits over all workers, by who said it; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// What is written down of a minute: for the fleet, else the lowest of the workers' files.
    pub written: PerDimension<Option<u64>>,
    /// What headers told of a minute.
    pub told: PerDimension<Option<u64>>,
    /// Calls in a minute that refusals taught.
    pub learnt: Option<u64>,
    /// Calls at once that overloads, or their absence, taught.
    pub learnt_at_once: Option<u64>,
    /// Calls at once, whoever said so.
    pub at_once: Option<u64>,
}

/// A limit that is used up for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// For how long yet.
    pub length: Duration,
    /// Which limit.
    pub reason: String,
}

/// How a deployment stands in the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Calls may start.
    Open,
    /// No call may start.
    Paused {
        /// For how long yet; a probe may run.
        length: Duration,
        /// What to do and why.
        reason: String,
        /// The error's class.
        class: String,
        /// Whether it was refused for its rate.
        refusal: bool,
    },
    /// This worker, and no other, may make one call.
    Probe,
}

impl Look {
    /// Makes a look that tells nothing and asks for nothing.
    pub fn of(deployment: Arc<str>, group: Arc<str>) -> Self {
        Self { deployment, group, pause: None, probed: None, ready: false, probing: false, again: false, fresh: false }
    }
}

impl Ask {
    /// Makes an ask that wants nothing and tells nothing.
    pub fn of(account: Arc<str>, configured: Limits) -> Self {
        Self { account, configured, ..Self::default() }
    }

    pub(super) fn wants(&self) -> bool {
        self.slots > 0 || Dimension::ALL.iter().any(|dimension| self.want[*dimension].units > 0)
    }
}
