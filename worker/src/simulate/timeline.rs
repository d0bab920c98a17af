//! What happens at its time, counted from the first call: changes of limits and outages.
//!
//! There is no clock that ticks: whoever comes next, a call or a look at the counters, finds what is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::fault::FaultRule;
use super::limit::{LimitChange, Moment};
use super::outage::Outage;

/// The time of a change that will never come.
const NEVER: u64 = u64::MAX;

/// What was planned from the start.
#[derive(Debug)]
pub(super) struct Timeline {
    first: OnceLock<First>,
    outages: Vec<Outage>,
    /// Those to come, the earliest last.
    changes: Mutex<Vec<LimitChange>>,
    /// When the next change is due, in nanoseconds from the first call.
    next_ns: AtomicU64,
}

/// The first call.
#[derive(Debug, Clone, Copy)]
struct First {
    at: Instant,
    unix_ms: i64,
}

impl Timeline {
    pub(super) fn new(outages: Vec<Outage>, mut changes: Vec<LimitChange>) -> Self {
        changes.sort_by_key(|change| std::cmp::Reverse(change.after));
        let next_ns = AtomicU64::new(next(&changes));
        Self { first: OnceLock::new(), outages, changes: Mutex::new(changes), next_ns }
    }

    /// Says when something happens; the first who asks is the first call.
    pub(super) fn moment(&self, now: Instant, unix_ms: i64) -> Moment {
        let first = self.first.get_or_init(|| First { at: now, unix_ms });
        Moment { now, since_first: now.saturating_duration_since(first.at), unix_ms }
    }

    /// Returns the time since the first call; zero before it.
    pub(super) fn since_first(&self, now: Instant) -> Duration {
        self.first.get().map_or(Duration::ZERO, |first| now.saturating_duration_since(first.at))
    }

    /// Returns when the first call came, Unix time in milliseconds.
    pub(super) fn first_ms(&self) -> Option<i64> {
        self.first.get().map(|first| first.unix_ms)
    }

    /// Returns what calls meet in the outages that are on.
    pub(super) fn outages(&self, since_first: Duration) -> impl Iterator<Item = &FaultRule> {
        self.outages.iter().filter(move |outage| outage.is_on(since_first)).map(|outage| &outage.rule)
    }

    /// Makes the changes that are due, each as of its own time.
    pub(super) fn catch_up(&self, now: Instant, mut make: impl FnMut(&LimitChange, Instant)) {
        let Some(first) = self.first.get() else { return };
        let since_first = self.since_first(now);
        if since_first < Duration::from_nanos(self.next_ns.load(Ordering::Acquire)) {
            return;
        }
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(change) = changes.pop_if(|change| change.after <= since_first) {
            make(&change, first.at + change.after);
        }
        self.next_ns.store(next(&changes), Ordering::Release);
    }
}

/// Returns when the next change is due.
fn next(changes: &[LimitChange]) -> u64 {
    changes.last().map_or(NEVER, |change| u64::try_from(change.after.as_nanos()).unwrap_or(NEVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_made_once_in_their_order_and_as_of_their_time() {
        let changes = ["30s=rpm:2", "10s=rpm:1", "50s=rpm:3"].map(|text| text.parse().unwrap()).into();
        let timeline = Timeline::new(Vec::new(), changes);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let made = |seconds| {
            let mut made = Vec::new();
            timeline.catch_up(at(seconds), |change, when| made.push((change.limits.rpm, when)));
            made
        };
        assert_eq!(made(100), [], "nothing happens before the first call");
        assert_eq!(timeline.moment(start, 7).since_first, Duration::ZERO);
        assert_eq!((timeline.moment(at(3), 3_007).since_first, timeline.first_ms()), (Duration::from_secs(3), Some(7)));
        assert_eq!(made(9), []);
        assert_eq!(made(35), [(Some(1), at(10)), (Some(2), at(30))]);
        assert_eq!(made(40), []);
        assert_eq!(made(50), [(Some(3), at(50))]);
        assert_eq!(made(1_000), []);
    }
}
