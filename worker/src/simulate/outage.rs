//! Outages: times in which a provider answers nothing but errors, or not at all.
//!
//! Owns the text form of an outage and the count of the calls that met one. What such a call meets is a fault like any
//! other; it is refused before key, limits and scripts are looked at.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::error::Error;
use super::fault::FaultRule;

/// What calls meet when nothing else is said.
const UNAVAILABLE: &str = "503";

/// An outage at its time: `10s+60s`, `10s+60s:refuse`, `10s+60s:timeout:0.5`.
#[derive(Debug, Clone, PartialEq)]
pub struct Outage {
    /// Time from the first call.
    pub after: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What calls meet during it: status 503, or `close` for `refuse`, or whatever rule was given.
    pub rule: FaultRule,
}

impl Outage {
    /// Tells whether it is on, so long after the first call.
    pub(super) fn is_on(&self, since_first: Duration) -> bool {
        since_first >= self.after && since_first - self.after < self.lasts
    }
}

impl FromStr for Outage {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Setting { what: "outage", text: text.to_owned(), reason };
        let (times, fault) = text.split_once(':').unwrap_or((text, UNAVAILABLE));
        let (after, lasts) =
            times.split_once('+').ok_or_else(|| wrong("it is not START+DURATION, such as 10s+60s".to_owned()))?;
        Ok(Self {
            after: duration::parse(after).map_err(wrong)?,
            lasts: duration::parse(lasts).map_err(wrong)?,
            rule: rule(fault)?,
        })
    }
}

/// Reads what calls meet: `refuse`, or a fault rule; nothing is status 503.
pub(super) fn rule(text: &str) -> Result<FaultRule, Error> {
    match text {
        "" => UNAVAILABLE.parse(),
        "refuse" => "close".parse(),
        rule => rule.parse(),
    }
}

/// The calls that met an outage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutageStats {
    /// Calls that arrived during an outage and met it.
    pub calls: u64,
    /// Those of them that have not ended.
    pub in_flight: u64,
    /// Most of them that were in flight at once.
    pub max_in_flight: u64,
}

/// The counters behind [`OutageStats`].
#[derive(Debug, Default)]
pub(super) struct Casualties {
    calls: AtomicU64,
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
}

impl Casualties {
    pub(super) fn arrived(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.max_in_flight.fetch_max(in_flight, Ordering::Relaxed);
    }

    pub(super) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> OutageStats {
        OutageStats {
            calls: self.calls.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            max_in_flight: self.max_in_flight.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_read() {
        let seconds = Duration::from_secs;
        let table = [
            ("10s+60s", 10, 60, "503:1"),
            ("0+1m:refuse", 0, 60, "close:1"),
            ("1h+2s:timeout:0.5:model=gpt-4o", 3_600, 2, "timeout:0.5:model=gpt-4o"),
        ];
        for (text, after, lasts, rule) in table {
            let outage: Outage = text.parse().unwrap();
            assert_eq!((outage.after, outage.lasts), (seconds(after), seconds(lasts)), "{text}");
            assert_eq!(outage.rule.to_string(), rule);
        }
        for (text, reason) in [
            ("10s", "outage `10s` cannot be read: it is not START+DURATION, such as 10s+60s"),
            ("10+60s", "outage `10+60s` cannot be read: `10` is not a duration: write it like 200ms, 1.5s or 2m"),
            ("1s+1s:200", "fault rule `200` cannot be read: "),
        ] {
            let error = text.parse::<Outage>().unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn an_outage_is_on_from_its_start_until_its_end() {
        let outage: Outage = "10s+60s".parse().unwrap();
        for (ms, is_on) in [(0, false), (9_999, false), (10_000, true), (69_999, true), (70_000, false)] {
            assert_eq!(outage.is_on(Duration::from_millis(ms)), is_on, "{ms}");
        }
    }
}
