//! Which limit held when.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The limits that held during the last period.
#[derive(Debug)]
pub(super) struct History {
    period: Duration,
    /// From when on each held; the first one also before, the last one until now.
    limits: VecDeque<(Instant, Option<u32>)>,
}

impl History {
    pub(super) fn new(period: Duration, limit: Option<u32>, now: Instant) -> Self {
        Self { period, limits: VecDeque::from([(now, limit)]) }
    }

    /// Notes that another limit holds from now on.
    pub(super) fn change(&mut self, limit: Option<u32>, now: Instant) {
        self.forget(now);
        if self.current() != limit {
            self.limits.push_back((now, limit));
        }
    }

    /// Returns the limit that holds.
    pub(super) fn current(&self) -> Option<u32> {
        self.limits.back().and_then(|(_, limit)| *limit)
    }

    /// Returns what the period that ends now may hold: the limits that held in it, each by its share of the time.
    ///
    /// Nothing is told while a part of the period was without a limit.
    pub(super) fn allowance(&mut self, now: Instant) -> Option<u64> {
        if self.limits.len() > 1 {
            self.forget(now);
        }
        if self.limits.len() == 1 {
            return self.current().map(u64::from);
        }
        let (mut weighed, mut accounted) = (0, Duration::ZERO);
        for (number, (since, limit)) in self.limits.iter().enumerate().rev() {
            // The first one may have begun before the period, or not at all before the simulator.
            let age = if number == 0 { self.period } else { now.saturating_duration_since(*since) };
            let held = age.saturating_sub(accounted);
            if !held.is_zero() {
                weighed += u128::from((*limit)?) * held.as_nanos();
                accounted += held;
            }
        }
        u64::try_from(weighed.div_ceil(self.period.as_nanos())).ok()
    }

    /// Drops what ended before the period.
    fn forget(&mut self, now: Instant) {
        while self.limits.get(1).is_some_and(|(since, _)| now.saturating_duration_since(*since) >= self.period) {
            self.limits.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_weighs_the_limits_of_its_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut history = History::new(Duration::from_secs(60), Some(600), start);
        assert_eq!(history.allowance(at(5)), Some(600));
        history.change(Some(3_000), at(10));
        history.change(Some(3_000), at(11));
        let table = [(10, 600), (25, 600 + 2_400 / 4), (40, 1_800), (70, 3_000), (100, 3_000)];
        for (seconds, allowance) in table {
            assert_eq!(history.allowance(at(seconds)), Some(allowance), "at {seconds} s");
        }
        history.change(None, at(100));
        assert_eq!((history.allowance(at(100)), history.allowance(at(101))), (Some(3_000), None));
        history.change(Some(60), at(110));
        assert_eq!(history.current(), Some(60));
        assert_eq!((history.allowance(at(169)), history.allowance(at(170))), (None, Some(60)));
    }

    #[test]
    fn what_has_no_period_holds_at_once() {
        let now = Instant::now();
        let mut history = History::new(Duration::ZERO, Some(4), now);
        history.change(Some(2), now);
        assert_eq!(history.allowance(now), Some(2));
    }
}
