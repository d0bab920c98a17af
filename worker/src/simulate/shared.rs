//! What all connections of one simulator share.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use gristmill_common::clock::{Clock, SystemClock};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::fault::FaultRule;
use super::limit::Meter;
use super::log::Log;
use super::options::Options;
use super::stats::{Counters, Stats};
use super::tally::Tally;

/// What can be changed while the simulator runs.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) latency: Duration,
    pub(super) jitter: Duration,
    pub(super) output_tokens: u32,
    pub(super) token_latency: Duration,
    pub(super) faults: Vec<FaultRule>,
    pub(super) required_key: Option<String>,
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
    pub(super) tally: Tally,
    pub(super) counters: Counters,
    pub(super) log: Option<Log>,
    clock: SystemClock,
    /// Ends everything.
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        Ok(Self {
            seed: options.seed,
            meter: Meter::new(options.rpm, options.tpm, Instant::now()),
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

    pub(super) fn stats(&self) -> Stats {
        self.counters.read(self.meter.audit(), self.log.as_ref().map_or(0, Log::lost))
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
