//! What all connections of one simulator share.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use gristmill_common::clock::{Clock, SystemClock};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::fault::FaultRule;
use super::limit::{Limits, Meter, Moment};
use super::log::Log;
use super::options::Options;
use super::outage::Casualties;
use super::stats::{Counters, Stats};
use super::tally::Tally;
use super::timeline::Timeline;

/// What can be changed while the simulator runs.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) latency: Duration,
    pub(super) jitter: Duration,
    pub(super) output_tokens: u32,
    pub(super) token_latency: Duration,
    pub(super) faults: Vec<FaultRule>,
    pub(super) required_key: Option<String>,
    /// What calls meet while an outage is switched on.
    pub(super) outage: Option<FaultRule>,
    pub(super) limit_headers: bool,
    pub(super) retry_after: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out.
        f.debug_struct("Settings").field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// The state of a running simulator.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) seed: u64,
    settings: RwLock<Arc<Settings>>,
    pub(super) meter: Meter,
    pub(super) timeline: Timeline,
    pub(super) casualties: Casualties,
    pub(super) tally: Tally,
    pub(super) counters: Counters,
    pub(super) log: Option<Log>,
    clock: SystemClock,
    /// Ends everything.
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        let now = Instant::now();
        let meter = Meter::new(options.limit_shape, options.limits, now);
        for of_model in options.model_limits {
            meter.change(Some(&of_model.model), |_| of_model.limits, now);
        }
        Ok(Self {
            seed: options.seed,
            meter,
            timeline: Timeline::new(options.outages, options.limit_changes),
            casualties: Casualties::default(),
            tally: Tally::default(),
            counters: Counters::default(),
            log: options.log.as_deref().map(Log::open).transpose()?,
            clock: SystemClock,
            stop: CancellationToken::new(),
            settings: RwLock::new(Arc::new(Settings {
                latency: options.latency,
                jitter: options.jitter,
                output_tokens: options.output_tokens,
                token_latency: options.token_latency,
                faults: options.faults,
                required_key: options.require_key,
                outage: None,
                limit_headers: options.limit_headers,
                retry_after: options.retry_after,
            })),
        })
    }

    /// Returns the settings as they stand.
    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the settings for the calls that arrive from now on.
    pub(super) fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut settings));
    }

    /// Says when something happens that happens now.
    pub(super) fn moment(&self, now: Instant) -> Moment {
        self.timeline.moment(now, self.unix_ms())
    }

    /// Returns the time since the first call; zero before it.
    pub(super) fn since_first(&self, now: Instant) -> Duration {
        self.timeline.since_first(now)
    }

    /// Replaces the limits of all calls together, or of those to a model.
    pub(super) fn change_limits(&self, model: Option<&str>, limits: Limits, now: Instant) {
        self.catch_up(now);
        self.meter.change(model, |_| limits, now);
    }

    /// Changes the limits whose time has come.
    pub(super) fn catch_up(&self, now: Instant) {
        self.timeline.catch_up(now, |change, when| {
            self.meter.change(change.model.as_deref(), |limits| limits.changed(change.limits), when);
        });
    }

    /// Returns what calls meet because of outages, so long after the first one.
    pub(super) fn outages<'a>(
        &'a self,
        settings: &'a Settings,
        since_first: Duration,
    ) -> impl Iterator<Item = &'a FaultRule> {
        settings.outage.iter().chain(self.timeline.outages(since_first))
    }

    pub(super) fn stats(&self) -> Stats {
        self.catch_up(Instant::now());
        // First what is counted when a call has ended: who then sees nothing in flight sees all of the rest.
        let counted = self.counters.read();
        let (limits, models) = self.meter.read();
        Stats {
            first_call_ms: self.timeline.first_ms(),
            outage: self.casualties.read(),
            limits,
            models,
            log_lines_lost: self.log.as_ref().map_or(0, Log::lost),
            ..counted
        }
    }

    /// Returns the time of day.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Returns the Unix time in milliseconds.
    pub(super) fn unix_ms(&self) -> i64 {
        self.now().timestamp_millis()
    }
}
