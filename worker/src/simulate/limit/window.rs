//! Fixed windows, each with its own share of a limit.

use std::time::{Duration, Instant};

use super::Left;

/// What is left of the share of the current window.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// Per period.
    limit: u32,
    period: Duration,
    width: Duration,
    /// When the first window began.
    start: Instant,
    /// The current window, from 0.
    index: u128,
    used: u64,
}

impl Window {
    /// Cuts time from `start` into windows; nothing of the current one is used.
    pub(super) fn new(limit: u32, period: Duration, width: Duration, start: Instant) -> Self {
        Self { limit, period, width, start, index: 0, used: 0 }
    }

    /// Makes the window of another limit, of which as large a part is used.
    pub(super) fn scaled(mut self, limit: u32, now: Instant) -> Self {
        self.advance(now);
        let used = u128::from(self.used) * u128::from(limit) / u128::from(self.limit);
        Self { limit, used: u64::try_from(used).unwrap_or(u64::MAX), ..self }
    }

    /// Returns what a window may take; the shares of a period add up to the limit, however few there are to share.
    fn share(&self, index: u128) -> u64 {
        let until = |end: u128| end * self.width.as_millis() * u128::from(self.limit) / self.period.as_millis();
        u64::try_from(until(index + 1) - until(index)).unwrap_or(u64::MAX)
    }

    fn advance(&mut self, now: Instant) {
        let index = now.saturating_duration_since(self.start).as_nanos() / self.width.as_nanos();
        if index > self.index {
            self.index = index;
            self.used = 0;
        }
    }

    /// Returns the time until a window begins.
    fn until(&self, index: u128, now: Instant) -> Duration {
        let begins = u64::try_from(index * self.width.as_nanos()).map_or(Duration::MAX, Duration::from_nanos);
        begins.saturating_sub(now.saturating_duration_since(self.start))
    }

    /// Returns the wait until a cost can be taken; `None` when no window holds so much.
    pub(super) fn wait(&mut self, cost: u64, now: Instant) -> Option<Duration> {
        self.advance(now);
        if self.used.saturating_add(cost) <= self.share(self.index) {
            return Some(Duration::ZERO);
        }
        let windows = self.period.as_nanos().div_ceil(self.width.as_nanos());
        let fitting = (self.index + 1..=self.index + windows).find(|index| self.share(*index) >= cost)?;
        Some(self.until(fitting, now))
    }

    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        self.advance(now);
        self.used = self.used.saturating_add(cost);
    }

    pub(super) fn left(&mut self, now: Instant) -> Left {
        self.advance(now);
        Left {
            limit: self.limit,
            remaining: self.share(self.index).saturating_sub(self.used),
            reset: if self.used == 0 { Duration::ZERO } else { self.until(self.index + 1, now) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Takes one after the other until no more fits, and returns how many did.
    fn fill(window: &mut Window, now: Instant) -> u64 {
        let mut taken = 0;
        while window.wait(1, now) == Some(Duration::ZERO) {
            window.take(1, now);
            taken += 1;
        }
        taken
    }

    #[test]
    fn each_window_begins_with_its_share() {
        let seconds = Duration::from_secs;
        let table = [
            // Limit, width, what fits into one window after another.
            (600, 60, vec![600, 600]),
            (600, 10, vec![100; 6]),
            (600, 1, vec![10; 6]),
            (100, 10, vec![16, 17, 17, 16, 17, 17, 16]),
            (1, 10, vec![0, 0, 0, 0, 0, 1, 0]),
            (90, 1, vec![1, 2, 1, 2]),
        ];
        for (limit, width, wanted) in table {
            let start = Instant::now();
            let mut window = Window::new(limit, MINUTE, seconds(width), start);
            let taken: Vec<_> = (0..)
                .take(wanted.len())
                .map(|n| fill(&mut window, start + seconds(width) * n + seconds(1) / 2))
                .collect();
            assert_eq!(taken, wanted, "{limit} in windows of {width} s");
        }
    }

    #[test]
    fn a_wait_ends_with_the_next_window_that_holds_the_cost() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut minute = Window::new(100, MINUTE, MINUTE, start);
        minute.take(70, at(20_000));
        assert_eq!(minute.wait(30, at(20_000)), Some(Duration::ZERO));
        assert_eq!(minute.wait(31, at(20_000)), Some(Duration::from_secs(40)));
        assert_eq!(minute.wait(101, at(20_000)), None);
        let left = Left { limit: 100, remaining: 30, reset: Duration::from_secs(40) };
        assert_eq!(minute.left(at(20_000)), left);

        let mut rare = Window::new(1, MINUTE, Duration::from_secs(10), start);
        assert_eq!(rare.wait(1, at(1_000)), Some(Duration::from_secs(49)));
    }

    #[test]
    fn a_debt_ends_with_its_window() {
        let start = Instant::now();
        let mut window = Window::new(100, MINUTE, MINUTE, start);
        window.take(100, start);
        assert_eq!(window.wait(0, start), Some(Duration::ZERO));
        window.take(400, start);
        assert_eq!(window.wait(0, start), Some(MINUTE));
        assert_eq!(window.wait(0, start + MINUTE), Some(Duration::ZERO));
    }

    #[test]
    fn of_another_limit_as_large_a_part_is_used() {
        let start = Instant::now();
        let mut window = Window::new(100, MINUTE, MINUTE, start);
        window.take(25, start);
        assert_eq!(window.scaled(1_000, start).left(start).remaining, 750);
    }
}
