//! Chance that repeats: every draw is a pure function of what it is about.
//!
//! Owns the hash of markers and the generator. Nothing here depends on time, on the order of arrival or on the process.

/// The step of `SplitMix64` (Steele, Lea, Flood 2014; <https://prng.di.unimi.it/splitmix64.c>, read 2026-11-23).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits of a number into all bits of the result: the finaliser of `SplitMix64`.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Hashes bytes to the same number on every machine and in every release.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = mix((bytes.len() as u64).wrapping_add(STEP));
    for word in words {
        state = mix(state ^ u64::from_le_bytes(*word)).wrapping_add(STEP);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(state ^ u64::from_le_bytes(last))
}

/// What a draw decides, so that one decision does not move when another is added.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Fault = 1,
    Latency = 2,
    Answer = 3,
    RequestId = 4,
    Thinking = 5,
}

/// A deterministic stream of random numbers.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// Starts the stream of one decision about the `turn`-th call of a marker.
    pub(super) fn new(seed: u64, marker: u64, turn: u32, purpose: Purpose) -> Self {
        let call = mix(mix(seed.wrapping_add(STEP)) ^ marker);
        Self(mix(call ^ (u64::from(turn) << 8) ^ purpose as u64))
    }

    /// Starts a stream from a bare seed.
    pub(super) const fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws 64 random bits.
    pub(super) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// Draws evenly from 0 (included) to 1 (not included).
    pub(super) fn unit(&mut self) -> f64 {
        // 53 bits are what an f64 can hold exactly.
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws evenly from 0 to `end` (not included); `end` must not be 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        let scaled = (u128::from(self.bits()) * end as u128) >> 64;
        usize::try_from(scaled).expect("a number below a usize fits in one")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_never_changes_between_releases() {
        assert_eq!(hash(b""), hash(b""));
        let hashes = [hash(b"job-1"), hash(b"job-2"), hash(b"job-1\0"), hash(b"a marker of 23 letters")];
        for (i, left) in hashes.iter().enumerate() {
            for right in &hashes[i + 1..] {
                assert_ne!(left, right);
            }
        }
        assert_eq!(hash(b"job-1"), 9_901_962_552_853_664_898);
    }

    #[test]
    fn units_are_spread_evenly_over_markers_and_turns() {
        for purpose in [Purpose::Fault, Purpose::Latency, Purpose::Answer, Purpose::RequestId, Purpose::Thinking] {
            let mut below_a_tenth = 0;
            for marker in 0..1_000_u64 {
                for turn in 1..=10 {
                    let draw = Random::new(7, hash(&marker.to_le_bytes()), turn, purpose).unit();
                    assert!((0.0..1.0).contains(&draw));
                    below_a_tenth += u32::from(draw < 0.1);
                }
            }
            assert!((900..1_100).contains(&below_a_tenth), "{purpose:?}: {below_a_tenth} of 10,000");
        }
    }

    #[test]
    fn below_covers_its_range() {
        let mut random = Random::from_seed(1);
        let mut seen = [false; 7];
        for _ in 0..200 {
            seen[random.below(7)] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}
