//! Sums over every sliding stretch of time.

use std::time::{Duration, Instant};

/// Slots of a stretch: a minute is read as 59.99 to 60 s.
const SLOTS: u32 = 6_000;

/// Sums of `N` counts over the last stretch, in slots.
#[derive(Debug)]
pub(super) struct Sliding<const N: usize> {
    start: Instant,
    /// Of a slot; integers of 64 bits, because every call divides by it.
    width_ns: u64,
    /// The slot that is being filled, counted from the start.
    slot: u64,
    slots: Box<[[u64; N]]>,
    sums: [u64; N],
}

impl<const N: usize> Sliding<N> {
    pub(super) fn new(span: Duration, start: Instant) -> Self {
        let slots = vec![[0; N]; SLOTS as usize].into();
        Self { start, width_ns: nanoseconds(span / SLOTS).max(1), slot: 0, slots, sums: [0; N] }
    }

    /// Adds to the counts and returns those of the stretch that ends now.
    pub(super) fn add(&mut self, counts: [u64; N], now: Instant) -> [u64; N] {
        let slot = nanoseconds(now.saturating_duration_since(self.start)) / self.width_ns;
        for expired in (self.slot + 1..=slot).take(SLOTS as usize) {
            let expired = std::mem::replace(&mut self.slots[index(expired)], [0; N]);
            for (sum, expired) in self.sums.iter_mut().zip(expired) {
                *sum -= expired;
            }
        }
        self.slot = self.slot.max(slot);
        let current = &mut self.slots[index(self.slot)];
        for ((current, sum), count) in current.iter_mut().zip(&mut self.sums).zip(counts) {
            *current = current.saturating_add(count);
            *sum = sum.saturating_add(count);
        }
        self.sums
    }
}

/// Counts nanoseconds, up to 584 years of them.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn index(slot: u64) -> usize {
    usize::try_from(slot % u64::from(SLOTS)).expect("a remainder of 6,000 fits in a usize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_holds_one_stretch_and_no_more() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut sliding = Sliding::new(Duration::from_secs(60), start);
        assert_eq!(sliding.add([1, 10], at(0)), [1, 10]);
        assert_eq!(sliding.add([1, 0], at(30_000)), [2, 10]);
        assert_eq!(sliding.add([0, 5], at(59_990)), [2, 15]);
        assert_eq!(sliding.add([0, 0], at(60_000)), [1, 5]);
        // A clock that another thread has read a little earlier.
        assert_eq!(sliding.add([1, 0], at(59_000)), [2, 5]);
        assert_eq!(sliding.add([1, 1], at(10_000_000)), [1, 1]);
    }
}
