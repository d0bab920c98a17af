//! The course of things, second by second.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Seconds that are kept: two hours with something in every one.
const SECONDS: usize = 7_200;

/// What came in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Second {
    /// Whole seconds since the simulator's first call.
    pub second: u64,
    /// Calls that were let in.
    pub accepted: u64,
    /// Calls that the limits refused.
    pub refused: u64,
    /// Tokens of the calls that were let in, counted as `tpm` counts them.
    pub accepted_tokens: u64,
    /// Tokens of the calls that were refused, counted so too.
    pub refused_tokens: u64,
    /// Tokens of input of the calls that were let in, counted as `itpm` counts them.
    pub input_tokens: u64,
    /// Tokens of output of the calls that ended, where `otpm` or `max_parallel` is limited.
    pub output_tokens: u64,
}

/// The last seconds in which something came.
#[derive(Debug, Default)]
pub(super) struct Series(VecDeque<Second>);

impl Series {
    /// Returns the second to add to; one that is over counts as the last.
    pub(super) fn at(&mut self, since_first: Duration) -> &mut Second {
        let second = since_first.as_secs();
        if self.0.back().is_none_or(|last| last.second < second) {
            if self.0.len() == SECONDS {
                self.0.pop_front();
            }
            self.0.push_back(Second { second, ..Second::default() });
        }
        self.0.back_mut().expect("one was just put there")
    }

    pub(super) fn read(&self) -> Vec<Second> {
        self.0.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_bounded_and_hold_what_came_in_them() {
        let mut series = Series::default();
        for tenth in 0..10 * (SECONDS as u64 + 5) {
            series.at(Duration::from_millis(tenth * 100)).accepted += 1;
        }
        series.at(Duration::ZERO).refused += 1;
        let read = series.read();
        assert_eq!((read.len(), read[0].second), (SECONDS, 5));
        assert!(read.iter().all(|second| second.accepted == 10));
        assert_eq!(read.last().unwrap().refused, 1);
    }
}
