//! Counts by duration, in buckets that grow with it.

use std::fmt;
use std::str::FromStr;

/// Buckets to a doubling: each is a sixteenth of its lower end wide, so that a percentile is within 3.2 % of the truth.
const PER_DOUBLING: u32 = 16;

/// Counts of durations in milliseconds. Below 16 ms each has a bucket of its own, above that 16 share a doubling.
///
/// Its text is `bucket:count` for each bucket that has any, in order, separated by blanks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Bucket and count, in order of bucket.
    counts: Vec<(u16, u64)>,
}

impl Histogram {
    /// Counts a duration.
    pub fn add(&mut self, duration_ms: u32) {
        self.add_to(bucket(duration_ms), 1);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        // Both are in order, and sums that are added up have mostly the same buckets: each is looked for behind the one before it.
        let mut at = 0;
        for &(bucket, count) in &other.counts {
            while self.counts.get(at).is_some_and(|entry| entry.0 < bucket) {
                at += 1;
            }
            match self.counts.get_mut(at) {
                Some(entry) if entry.0 == bucket => entry.1 += count,
                _ => self.counts.insert(at, (bucket, count)),
            }
        }
    }

    fn add_to(&mut self, bucket: u16, count: u64) {
        // So it is wherever counts are read in order.
        if self.counts.last().is_none_or(|entry| entry.0 < bucket) {
            self.counts.push((bucket, count));
            return;
        }
        match self.counts.binary_search_by_key(&bucket, |entry| entry.0) {
            Ok(index) => self.counts[index].1 += count,
            Err(index) => self.counts.insert(index, (bucket, count)),
        }
    }

    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// Tells whether none was counted.
    pub const fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Returns the duration in milliseconds that this share of the counted ones does not exceed, for example 0.95; in the middle of
    /// its bucket. `None` where none was counted.
    pub fn quantile(&self, share: f64) -> Option<u32> {
        let total = self.count();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among at most 2^52 counts; the share is clamped"
        )]
        let rank = ((share.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts.iter().find_map(|&(bucket, count)| {
            seen += count;
            (seen >= rank).then(|| middle(bucket))
        })
    }

    /// Returns each bucket that has any: its lower end and its upper end in milliseconds, the upper one left out, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u32, u64)> + '_ {
        self.counts.iter().map(|&(bucket, count)| (lower(bucket), lower(bucket + 1), count))
    }
}

fn bucket(duration_ms: u32) -> u16 {
    if duration_ms < PER_DOUBLING {
        return u16::try_from(duration_ms).unwrap_or(u16::MAX);
    }
    let shift = duration_ms.ilog2() - PER_DOUBLING.ilog2();
    u16::try_from((shift << PER_DOUBLING.ilog2()) + (duration_ms >> shift)).unwrap_or(u16::MAX)
}

/// Returns the shortest duration of a bucket.
fn lower(bucket: u16) -> u32 {
    let bucket = u32::from(bucket);
    if bucket < 2 * PER_DOUBLING {
        return bucket;
    }
    let shift = bucket / PER_DOUBLING - 1;
    let start = u64::from(bucket % PER_DOUBLING + PER_DOUBLING) << shift.min(32);
    u32::try_from(start).unwrap_or(u32::MAX)
}

fn middle(bucket: u16) -> u32 {
    let (from, to) = (lower(bucket), lower(bucket.saturating_add(1)));
    from + (to.saturating_sub(from).saturating_sub(1)) / 2
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (bucket, count)) in self.counts.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{bucket}:{count}")?;
        }
        Ok(())
    }
}

/// A text that is no histogram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a count of durations")]
pub struct InvalidHistogram(String);

impl FromStr for Histogram {
    type Err = InvalidHistogram;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // An entry is rarely shorter than five characters, with its blank.
        let mut histogram = Self { counts: Vec::with_capacity(text.len() / 5) };
        for entry in text.split(' ').filter(|entry| !entry.is_empty()) {
            let read = || {
                let (bucket, count) = entry.split_once(':')?;
                Some((bucket.parse::<u16>().ok()?, count.parse::<u64>().ok()?))
            };
            let (bucket, count) = read().ok_or_else(|| InvalidHistogram(entry.to_owned()))?;
            histogram.add_to(bucket, count);
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_duration_lies_in_its_bucket() {
        let edges = (0..32).flat_map(|bit| {
            let edge = 1_u32 << bit;
            [edge - 1, edge, edge + 1, edge + edge / 3]
        });
        for duration in edges.chain([0, u32::MAX]) {
            let bucket = bucket(duration);
            assert!(lower(bucket) <= duration, "{duration}");
            assert!(duration < lower(bucket + 1) || lower(bucket + 1) == u32::MAX, "{duration}");
        }
    }

    #[test]
    fn quantiles_of_few_durations_are_these_durations() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for duration in [1, 2, 3, 4, 15] {
            histogram.add(duration);
        }
        assert_eq!([0.0, 0.5, 0.8, 1.0].map(|share| histogram.quantile(share)), [Some(1), Some(3), Some(4), Some(15)]);
    }

    #[test]
    fn what_is_no_histogram_is_told() {
        for text in ["1", "a:1", "1:b", "70000:1", "1:-1"] {
            assert!(text.parse::<Histogram>().is_err(), "{text}");
        }
        assert_eq!("".parse(), Ok(Histogram::default()));
    }

    proptest! {
        #[test]
        fn quantiles_are_within_their_promise(mut durations in prop::collection::vec(0_u32..10_000_000, 1..200), share in 0.0_f64..1.0) {
            let mut histogram = Histogram::default();
            for duration in &durations {
                histogram.add(*duration);
            }
            durations.sort_unstable();
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few")]
            let rank = ((share * durations.len() as f64).ceil() as usize).max(1);
            let truth = f64::from(durations[rank - 1]);
            let found = f64::from(histogram.quantile(share).unwrap());
            prop_assert!((found - truth).abs() <= truth * 0.032 + 1.0, "{found} for {truth}");
        }

        #[test]
        fn text_and_sum_keep_every_count(a in prop::collection::vec(0_u32..100_000, 0..50), b in prop::collection::vec(0_u32..100_000, 0..50)) {
            let of = |durations: &[u32]| {
                let mut histogram = Histogram::default();
                durations.iter().for_each(|duration| histogram.add(*duration));
                histogram
            };
            let (left, right) = (of(&a), of(&b));
            prop_assert_eq!(&left.to_string().parse::<Histogram>().unwrap(), &left);
            let mut sum = left;
            sum.merge(&right);
            prop_assert_eq!(sum, of(&[a, b].concat()));
        }
    }
}
