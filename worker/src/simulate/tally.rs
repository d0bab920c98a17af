//! How often each marker has called.
//!
//! Memory is bounded: counts stand in two generations, and the older one is forgotten when the younger is full. A marker
//! is remembered for at least [`GENERATION`] other markers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Locks that share the markers.
const SHARDS: usize = 16;

/// Markers of one shard that fill a generation: what a table of 65,536 slots holds, 18 MB over all shards.
const GENERATION: usize = 57_344;

/// The numbers of one call among those of its marker, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Among all calls.
    pub(super) call: u32,
    /// Among the calls that were let in: faults and scripts go by this one, so that a refusal shifts nothing.
    pub(super) admitted: u32,
}

impl Turn {
    /// The turn of a call that was not counted.
    pub(super) const UNCOUNTED: Self = Self { call: 1, admitted: 1 };
}

/// Calls so far: all, and let in.
type Seen = (u32, u32);

#[derive(Debug, Default)]
struct Shard {
    young: HashMap<u64, Seen>,
    old: HashMap<u64, Seen>,
}

/// The counts of all markers, by the markers' hashes.
#[derive(Debug)]
pub(super) struct Tally {
    shards: [Mutex<Shard>; SHARDS],
    generation: usize,
}

impl Default for Tally {
    fn default() -> Self {
        Self::with_generation(GENERATION)
    }
}

impl Tally {
    fn with_generation(generation: usize) -> Self {
        Self { shards: Default::default(), generation }
    }

    /// Returns the numbers that the marker's next call will have, if it is let in.
    pub(super) fn next(&self, marker: u64) -> Turn {
        let shard = self.shard(marker).lock().unwrap_or_else(PoisonError::into_inner);
        shard.next(marker)
    }

    /// Counts a call and returns its numbers; a refused call does not move the count of admitted ones.
    pub(super) fn count(&self, marker: u64, admitted: bool) -> Turn {
        let mut shard = self.shard(marker).lock().unwrap_or_else(PoisonError::into_inner);
        let shard = &mut *shard;
        let turn = shard.next(marker);
        let seen = (turn.call, if admitted { turn.admitted } else { turn.admitted - 1 });
        if shard.young.insert(marker, seen).is_none() && shard.young.len() >= self.generation {
            shard.old = std::mem::take(&mut shard.young);
        }
        turn
    }

    fn shard(&self, marker: u64) -> &Mutex<Shard> {
        &self.shards[usize::try_from(marker % SHARDS as u64).expect("a remainder of 16 fits in a usize")]
    }
}

impl Shard {
    fn next(&self, marker: u64) -> Turn {
        let (calls, admitted) = self.young.get(&marker).or_else(|| self.old.get(&marker)).copied().unwrap_or_default();
        Turn { call: calls.saturating_add(1), admitted: admitted.saturating_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_per_marker_and_refusals_apart() {
        let tally = Tally::default();
        assert_eq!(tally.next(1), Turn { call: 1, admitted: 1 });
        assert_eq!(tally.count(1, true), Turn { call: 1, admitted: 1 });
        assert_eq!(tally.count(1, false), Turn { call: 2, admitted: 2 });
        assert_eq!(tally.count(1, true), Turn { call: 3, admitted: 2 });
        assert_eq!(tally.count(17, true), Turn { call: 1, admitted: 1 });
    }

    #[test]
    fn memory_is_bounded_and_recent_markers_stay() {
        let tally = Tally::with_generation(100);
        let generation = 100 * SHARDS as u64;
        let markers = 3 * generation;
        for marker in 0..markers {
            tally.count(marker, true);
        }
        let held = |shard: &Mutex<Shard>| shard.lock().map(|shard| shard.young.len() + shard.old.len()).unwrap();
        let held: usize = tally.shards.iter().map(held).sum();
        assert!(held as u64 <= 2 * generation, "{held}");
        assert_eq!(tally.count(markers - 1, true).call, 2);
        assert_eq!(tally.count(markers - generation, true).call, 2);
        assert_eq!(tally.count(0, true).call, 1);
    }
}
