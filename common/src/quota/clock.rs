//! One dimension of an account as a clock: the generic cell rate algorithm, leased in slices.
//!
//! Every unit takes its time at the rate that is allowed, one behind the other; the clock says when the next one may start. A
//! lease is a piece of that time with the units that fit into it, so that no two workers ever spend the same instant. What was
//! not spent comes back by turning the clock back. (GCRA: ITU-T I.371, annex; as a limiter of calls
//! <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>, read 2026-11.)

use serde::{Deserialize, Serialize};

use super::Micros;

/// How far behind the time a clock may stay: time that nobody leased and that still counts.
pub(super) const SLACK: Micros = 300_000;
/// How far ahead of the time slices may begin.
pub(super) const HORIZON: Micros = 800_000;
const MINUTE: f64 = 60e6;

/// When the next unit may start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Clock(Micros);

/// A piece of an account's time, and the units that fit into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Units to spend: calls or tokens.
    pub units: u64,
    /// When it begins, in microseconds from the moment of the grant; a little before it, where time was left over.
    pub begins: Micros,
    /// When it is void: at its end, or, where it is of time that was left over, a little from now.
    pub ends: Micros,
}

/// How much of a dimension a worker could use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Want {
    /// Units that it could start within about a second, beyond what it has.
    pub units: u64,
    /// Units of the job that is next: fewer are of no use.
    pub least: u64,
}

impl Clock {
    /// Leases a slice of at most `share` microseconds, or as long as the next job needs.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "limits are far below 2^52"
    )]
    pub(super) fn lease(&mut self, now: Micros, per_minute: f64, want: Want, share: Micros) -> Option<Slice> {
        self.0 = self.0.max(now - SLACK);
        if want.units == 0 || self.0 >= now + HORIZON || per_minute <= 0.0 {
            return None;
        }
        let fits = (share as f64 * per_minute / MINUTE).floor() as u64;
        let units = want.units.min(fits.max(1)).max(want.least);
        let begins = self.0;
        self.0 += length(units as f64, per_minute);
        Some(Slice { units, begins: begins - now, ends: (self.0 - now).max(SLACK) })
    }

    /// Gives units back that were leased and not used; below zero, takes what was used beyond them.
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
    pub(super) fn give_back(&mut self, now: Micros, per_minute: f64, units: i64) {
        if per_minute > 0.0 {
            self.0 = (self.0 - length(units as f64, per_minute)).max(now - SLACK);
        }
    }

    /// Moves with the store's clock, where that was set back.
    pub(super) fn shift(&mut self, by: Micros) {
        self.0 -= by;
    }

    /// Returns how far it is ahead of the time.
    pub(super) const fn ahead(self, now: Micros) -> Micros {
        self.0 - now
    }

    /// Turns it to a new rate: what is leased ahead keeps its share of it.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a fraction of a clock's lead")]
    pub(super) fn turn(&mut self, now: Micros, from: f64, to: f64) {
        if self.0 > now && from > 0.0 && to > 0.0 {
            self.0 = now + ((self.0 - now) as f64 * from / to) as Micros;
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "microseconds of a lease")]
fn length(units: f64, per_minute: f64) -> Micros {
    (units * MINUTE / per_minute).round() as Micros
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Micros = 1_000_000;

    fn want(units: u64) -> Want {
        Want { units, least: 1 }
    }

    #[test]
    fn slices_follow_each_other_without_a_gap() {
        let mut clock = Clock::default();
        let now = 100 * SECOND;
        let first = clock.lease(now, 600.0, want(100), 200_000).unwrap();
        assert_eq!(first, Slice { units: 2, begins: -SLACK, ends: SLACK });
        let second = clock.lease(now, 600.0, want(1), 200_000).unwrap();
        assert_eq!((second.units, second.begins), (1, -SLACK + 200_000));
    }

    #[test]
    fn a_short_slice_of_time_that_was_left_over_can_still_be_spent() {
        let mut clock = Clock::default();
        let slice = clock.lease(100 * SECOND, 600_000.0, want(120), 200_000).unwrap();
        assert_eq!((slice.units, slice.ends), (120, SLACK));
    }

    #[test]
    fn nothing_is_leased_far_ahead() {
        let mut clock = Clock::default();
        let mut leased = 0;
        while let Some(slice) = clock.lease(100 * SECOND, 600.0, want(100), SECOND) {
            leased += slice.units;
        }
        assert_eq!(leased, 20, "two seconds' worth at most, with the slack");
    }

    #[test]
    fn a_job_larger_than_a_slice_gets_what_it_needs_and_the_next_waits_for_it() {
        let mut clock = Clock::default();
        let big = clock.lease(0, 60_000.0, Want { units: 30_000, least: 30_000 }, 250_000).unwrap();
        assert_eq!((big.units, big.ends), (30_000, 30 * SECOND));
        assert_eq!(clock.lease(20 * SECOND, 60_000.0, want(1), 250_000), None);
        assert!(clock.lease(30 * SECOND, 60_000.0, want(1), 250_000).is_some());
    }

    #[test]
    fn what_was_not_used_can_be_leased_again_but_not_saved_up() {
        let mut clock = Clock::default();
        let now = 100 * SECOND;
        clock.lease(now, 600.0, want(10), SECOND).unwrap();
        clock.give_back(now, 600.0, 5);
        assert_eq!(clock.ahead(now), 200_000);
        clock.give_back(now, 600.0, 1_000);
        assert_eq!(clock.ahead(now), -SLACK);
        clock.give_back(now, 600.0, -10);
        assert_eq!(clock.ahead(now), SECOND - SLACK, "what was used beyond the lease is taken");
    }

    proptest! {
        /// However workers ask and give back, no stretch of time holds more units than the rate and the slack allow.
        #[test]
        fn the_rate_holds_over_every_stretch(
            rate in 60.0f64..60_000.0,
            asks in proptest::collection::vec((1u64..50, 0i64..400_000), 1..200),
        ) {
            let mut clock = Clock::default();
            let (mut now, mut spent) = (0, Vec::new());
            for (units, pause) in asks {
                now += pause;
                if let Some(slice) = clock.lease(now, rate, want(units), 250_000) {
                    let begins = now + slice.begins;
                    spent.push((begins, begins + length(slice.units as f64, rate), slice.units));
                }
            }
            for (i, (from, ..)) in spent.iter().enumerate() {
                let mut units = 0;
                for (_, to, more) in &spent[i..] {
                    units += more;
                    let allowed = (to - from) as f64 * rate / MINUTE;
                    prop_assert!(units as f64 <= allowed + 1.0, "{units} in {} us, {allowed} allowed", to - from);
                }
            }
        }
    }
}
