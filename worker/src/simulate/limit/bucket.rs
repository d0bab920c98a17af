//! A bucket that fills evenly.

use std::time::{Duration, Instant};

use super::Left;

/// What is left of a limit that fills evenly. Its level goes below zero by what was taken on credit.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    /// Per period.
    limit: u32,
    period: Duration,
    /// What it holds when full, at least 1.
    burst: f64,
    level: f64,
    refilled: Instant,
}

impl Bucket {
    /// Starts full, with what flows in during `burst`.
    pub(super) fn new(limit: u32, period: Duration, burst: Duration, now: Instant) -> Self {
        let burst = (f64::from(limit) * burst.as_secs_f64() / period.as_secs_f64()).max(1.0);
        Self { limit, period, burst, level: burst, refilled: now }
    }

    /// Makes the bucket of another limit, as full as this one, its debts as long.
    pub(super) fn scaled(mut self, limit: u32, burst: Duration, now: Instant) -> Self {
        self.refill(now);
        let new = Self::new(limit, self.period, burst, now);
        let share = if self.level < 0.0 { f64::from(limit) / f64::from(self.limit) } else { new.burst / self.burst };
        Self { level: self.level * share, ..new }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.limit) / self.period.as_secs_f64()
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.level = (self.level + elapsed.as_secs_f64() * self.per_second()).min(self.burst);
        self.refilled = self.refilled.max(now);
    }

    /// Returns the wait until a cost can be taken; `None` when it never can.
    ///
    /// What costs more than the burst waits for a full bucket and then leaves it in debt, so that the rate holds; what
    /// costs more than the limit of a period never fits.
    pub(super) fn wait(&mut self, cost: u64, now: Instant) -> Option<Duration> {
        self.refill(now);
        let cost = cost as f64;
        if cost > f64::from(self.limit).max(self.burst) {
            return None;
        }
        let missing = cost.min(self.burst) - self.level;
        // What is missing by rounding alone is not missing.
        Some(if missing <= 1e-9 { Duration::ZERO } else { Duration::from_secs_f64(missing / self.per_second()) })
    }

    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        self.refill(now);
        self.level -= cost as f64;
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of a float saturates")]
    pub(super) fn left(&mut self, now: Instant) -> Left {
        self.refill(now);
        let full_in = ((self.burst - self.level) / self.per_second()).max(0.0);
        Left {
            limit: self.limit,
            remaining: self.level.max(0.0).floor() as u64,
            reset: Duration::from_secs_f64(full_in),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_cost_beyond_the_burst_leaves_a_debt_and_one_beyond_the_limit_never_fits() {
        let start = Instant::now();
        let mut bucket = Bucket::new(6_000, MINUTE, SECOND, start);
        assert_eq!(bucket.wait(1_000, start), Some(Duration::ZERO));
        bucket.take(1_000, start);
        assert_eq!(bucket.wait(1_000, start), Some(10 * SECOND));
        assert_eq!(bucket.wait(0, start), Some(9 * SECOND));
        assert_eq!(bucket.wait(6_001, at(start, 60_000)), None);
        assert_eq!(bucket.wait(6_000, at(start, 60_000)), Some(Duration::ZERO));
    }

    #[test]
    fn a_larger_burst_lets_more_start_at_once_at_the_same_rate() {
        let start = Instant::now();
        for (burst_seconds, at_once) in [(0, 1), (1, 10), (5, 50), (120, 1_200)] {
            let mut bucket = Bucket::new(600, MINUTE, burst_seconds * SECOND, start);
            let mut taken = |ms| {
                let now = at(start, ms);
                let fits = (0..5_000).take_while(|_| {
                    let fits = bucket.wait(1, now) == Some(Duration::ZERO);
                    if fits {
                        bucket.take(1, now);
                    }
                    fits
                });
                fits.count()
            };
            assert_eq!((taken(0), taken(100), taken(200)), (at_once, 1, 1), "{burst_seconds} s");
        }
    }

    #[test]
    fn another_limit_finds_the_bucket_as_full_as_it_was_and_debts_as_long() {
        let start = Instant::now();
        let mut half = Bucket::new(600, MINUTE, SECOND, start);
        half.take(5, start);
        assert_eq!(half.scaled(6_000, SECOND, start).left(start).remaining, 50);
        let mut debt = Bucket::new(600, MINUTE, SECOND, start);
        debt.take(30, start);
        assert_eq!(debt.clone().wait(0, start), Some(2 * SECOND));
        assert_eq!(debt.scaled(60, SECOND, start).wait(0, start), Some(2 * SECOND));
    }
}
