//! What an account used in the last minute: figures for people, which decide nothing.

use serde::{Deserialize, Serialize};

use super::{Dimension, Heard, Micros, PerDimension};

/// The length of a slot.
const SLOT: Micros = 5_000_000;
/// Slots that are kept, the one that runs included.
const SLOTS: i64 = 12;
/// A pace is not taken over less.
const SHORTEST: Micros = 2_000_000;
const MINUTE: f64 = 60e6;

/// Slots of a few seconds, the oldest first; those in which nothing happened are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Recent {
    /// When something happened after a minute in which nothing did.
    began: Micros,
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Slot {
    number: i64,
    /// Calls that were started.
    calls: u64,
    /// Tokens of calls that ended, as they were billed.
    tokens: u64,
    /// Units that were leased and not given back, as the limits count them.
    units: PerDimension<i64>,
}

impl Recent {
    /// Takes in how calls went.
    pub(super) fn hear(&mut self, now: Micros, heard: Heard) {
        if heard.started > 0 || heard.input_tokens > 0 || heard.output_tokens > 0 {
            let slot = self.slot(now);
            slot.calls += heard.started;
            slot.tokens += heard.input_tokens + heard.output_tokens;
        }
    }

    /// Counts units that were leased; below zero, that were given back.
    pub(super) fn count(&mut self, now: Micros, dimension: Dimension, units: i64) {
        if units != 0 {
            self.slot(now).units[dimension] += units;
        }
    }

    /// Begins anew: what was used of other limits tells nothing of these.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the calls that were started, by the minute.
    #[expect(clippy::cast_precision_loss, reason = "calls of a minute")]
    pub(super) fn calls_per_minute(&self, now: Micros) -> f64 {
        self.pace(now, |slot| slot.calls as f64)
    }

    /// Returns the tokens of calls that ended, by the minute.
    #[expect(clippy::cast_precision_loss, reason = "tokens of a minute")]
    pub(super) fn tokens_per_minute(&self, now: Micros) -> f64 {
        self.pace(now, |slot| slot.tokens as f64)
    }

    /// Returns what was used of a limit, by the minute.
    #[expect(clippy::cast_precision_loss, reason = "units of a minute")]
    pub(super) fn units_per_minute(&self, now: Micros, dimension: Dimension) -> f64 {
        self.pace(now, |slot| slot.units[dimension] as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of a minute")]
    fn pace(&self, now: Micros, of: impl Fn(&Slot) -> f64) -> f64 {
        let first = now.div_euclid(SLOT) - SLOTS + 1;
        let sum: f64 = self.slots.iter().filter(|slot| slot.number >= first).map(of).sum();
        let length = (now - self.began.max(first * SLOT)).max(SHORTEST);
        // An empty sum is a negative zero, which people would see.
        (sum / length as f64 * MINUTE).max(0.0) + 0.0
    }

    fn slot(&mut self, now: Micros) -> &mut Slot {
        let number = now.div_euclid(SLOT);
        self.slots.retain(|slot| slot.number > number - SLOTS && slot.number <= number);
        if self.slots.is_empty() {
            self.began = now;
        }
        if self.slots.last().is_none_or(|last| last.number != number) {
            self.slots.push(Slot { number, ..Slot::default() });
        }
        let last = self.slots.len() - 1;
        &mut self.slots[last]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    fn heard(started: u64, input_tokens: u64, output_tokens: u64) -> Heard {
        Heard { started, input_tokens, output_tokens, ..Heard::default() }
    }

    #[test]
    fn a_steady_pace_shows_at_once_and_stays() {
        let mut recent = Recent::default();
        for second in 0..300 {
            let now = 1_000 * SECOND + second * SECOND;
            recent.hear(now, heard(10, 700, 300));
            if second >= 10 {
                let (calls, tokens) = (recent.calls_per_minute(now), recent.tokens_per_minute(now));
                assert!((580.0..=670.0).contains(&calls), "{second} s: {calls}");
                assert!((58_000.0..=67_000.0).contains(&tokens), "{second} s: {tokens}");
            }
            assert!(recent.slots.len() <= 12);
        }
    }

    #[test]
    fn what_is_over_for_a_minute_is_forgotten_and_what_was_given_back_is_not_used() {
        let mut recent = Recent::default();
        recent.hear(0, heard(60, 0, 0));
        recent.count(0, Dimension::Requests, 60);
        recent.count(SECOND, Dimension::Requests, -20);
        assert!((recent.units_per_minute(40 * SECOND, Dimension::Requests) - 60.0).abs() < 1e-6);
        assert!(recent.calls_per_minute(70 * SECOND).abs() < 1e-6);
        recent.count(80 * SECOND, Dimension::Requests, -5);
        assert!(recent.units_per_minute(80 * SECOND, Dimension::Requests).abs() < 1e-6, "never below zero");
    }
}
