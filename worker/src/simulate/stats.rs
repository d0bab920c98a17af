//! The counters: what has been received, how it ended, how much was in flight.
//!
//! Only calls to the API are counted, not `/health`, lists of models and `/simulator`. They start at zero and are lost with
//! the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::limit::ScopeStats;
use super::outage::OutageStats;

/// One above the largest status that is counted.
const STATUSES: usize = 600;

/// How a call ended, as the call log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An error answer with this status, from a fault or because the call deserved it.
    Status(u16),
    Named(Name),
}

/// The outcomes that are not a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Ok,
    Timeout,
    Reset,
    Close,
    Truncate,
    Html,
    Drip,
    Empty,
    Cut,
    Error,
    Stall,
    KeepAlive,
    Slow,
    Refusal,
    ContentFilter,
    Length,
    ToolCall,
    BadJson,
    NoJson,
    Echo,
    /// The caller went away while it waited.
    ClientGone,
    /// The simulator was shut down while the caller waited.
    Shutdown,
}

impl Name {
    const ALL: [Self; 22] = [
        Self::Ok,
        Self::Timeout,
        Self::Reset,
        Self::Close,
        Self::Truncate,
        Self::Html,
        Self::Drip,
        Self::Empty,
        Self::Cut,
        Self::Error,
        Self::Stall,
        Self::KeepAlive,
        Self::Slow,
        Self::Refusal,
        Self::ContentFilter,
        Self::Length,
        Self::ToolCall,
        Self::BadJson,
        Self::NoJson,
        Self::Echo,
        Self::ClientGone,
        Self::Shutdown,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Close => "close",
            Self::Truncate => "truncate",
            Self::Html => "html",
            Self::Drip => "drip",
            Self::Empty => "empty",
            Self::Cut => "cut",
            Self::Error => "error",
            Self::Stall => "stall",
            Self::KeepAlive => "keep_alive",
            Self::Slow => "slow",
            Self::Refusal => "refusal",
            Self::ContentFilter => "content_filter",
            Self::Length => "length",
            Self::ToolCall => "tool_call",
            Self::BadJson => "bad_json",
            Self::NoJson => "no_json",
            Self::Echo => "echo",
            Self::ClientGone => "client_gone",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What the simulator has counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that arrived, whatever became of them.
    pub received: u64,
    /// Calls that arrived and have not ended.
    pub in_flight: u64,
    /// Most calls that were in flight at once.
    pub max_in_flight: u64,
    /// Calls that a fault has left waiting for good, those that still wait included: `timeout`, `stall` without an end,
    /// endless `keep_alive`.
    pub hung: u64,
    /// Calls that the rate limits refused (status 429); those that a fault answered with 429 are not among them.
    pub refused: u64,
    /// Ended calls by the status that was sent; resets and hangs have none.
    pub by_status: BTreeMap<u16, u64>,
    /// Ended calls by the outcome that the call log names: `ok`, `429`, `timeout`, `client_gone` …
    pub by_outcome: BTreeMap<String, u64>,
    /// When the first call arrived, Unix time in milliseconds.
    pub first_call_ms: Option<i64>,
    /// The calls that met an outage; no limit counts them.
    pub outage: OutageStats,
    /// What the audit of the limits found of all calls together.
    pub limits: ScopeStats,
    /// What it found of the calls to each model that has limits of its own.
    pub models: BTreeMap<String, ScopeStats>,
    /// Lines that the call log could not write.
    pub log_lines_lost: u64,
}

/// The counters behind [`Stats`].
#[derive(Debug)]
pub(super) struct Counters {
    received: AtomicU64,
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
    hung: AtomicU64,
    refused: AtomicU64,
    statuses: Box<[AtomicU64]>,
    errors: Box<[AtomicU64]>,
    named: [AtomicU64; Name::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        let zeros = || (0..STATUSES).map(|_| AtomicU64::new(0)).collect();
        Self {
            received: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            max_in_flight: AtomicU64::new(0),
            hung: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            statuses: zeros(),
            errors: zeros(),
            named: Default::default(),
        }
    }
}

impl Counters {
    pub(super) fn arrived(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        if in_flight > self.max_in_flight.load(Ordering::Relaxed) {
            self.max_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        }
    }

    pub(super) fn hangs(&self) {
        self.hung.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a call. Who then sees nothing in flight sees the counts of its end, too.
    pub(super) fn ended(&self, outcome: Outcome, status: Option<u16>) {
        if let Some(counter) = status.and_then(|status| self.statuses.get(usize::from(status))) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let counter = match outcome {
            Outcome::Named(name) => self.named.get(name as usize),
            Outcome::Status(status) => self.errors.get(usize::from(status)),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.in_flight.fetch_sub(1, Ordering::Release);
    }

    /// Reads the counters; what others count is left at zero.
    pub(super) fn read(&self) -> Stats {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        let mut by_outcome = BTreeMap::new();
        for (name, count) in Name::ALL.iter().zip(&self.named) {
            note(&mut by_outcome, name.as_str().to_owned(), count);
        }
        let mut by_status = BTreeMap::new();
        for ((status, sent), errors) in (0_u16..).zip(&self.statuses).zip(&self.errors) {
            note(&mut by_status, status, sent);
            note(&mut by_outcome, status.to_string(), errors);
        }
        Stats {
            received: self.received.load(Ordering::Relaxed),
            in_flight,
            max_in_flight: self.max_in_flight.load(Ordering::Relaxed),
            hung: self.hung.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            by_status,
            by_outcome,
            ..Stats::default()
        }
    }
}

fn note<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, count: &AtomicU64) {
    let count = count.load(Ordering::Relaxed);
    if count > 0 {
        counts.insert(key, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_counted_by_status_and_by_outcome() {
        let counters = Counters::default();
        for _ in 0..4 {
            counters.arrived();
        }
        counters.ended(Outcome::Named(Name::Ok), Some(200));
        counters.ended(Outcome::Named(Name::Html), Some(502));
        counters.ended(Outcome::Status(502), Some(502));
        counters.ended(Outcome::Named(Name::Timeout), None);
        counters.arrived();
        let stats = counters.read();
        assert_eq!((stats.received, stats.in_flight, stats.max_in_flight), (5, 1, 4));
        assert_eq!(stats.by_status, BTreeMap::from([(200, 1), (502, 2)]));
        let outcomes = [("502", 1), ("html", 1), ("ok", 1), ("timeout", 1)];
        assert_eq!(stats.by_outcome, outcomes.map(|(name, n)| (name.to_owned(), n)).into());
    }
}
