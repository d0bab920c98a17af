//! What happened when: sums in times of one length, without gaps. Pure.

use std::collections::BTreeMap;

use chrono::DateTime;
use gristmill_common::tally::{Part, Sums};

/// Times that a series has at most.
const MOST_POINTS: i64 = 120;
/// Lengths that people count in, in seconds.
const LENGTHS_S: [i64; 12] = [10, 30, 60, 300, 900, 1_800, 3_600, 14_400, 43_200, 86_400, 604_800, 2_592_000];

/// Sums by time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Series {
    /// How long each time is, in seconds.
    pub(super) length_s: i64,
    pub(super) points: Vec<Point>,
}

/// What happened in one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Point {
    /// When it began, in seconds since 1970.
    pub(super) at_s: i64,
    pub(super) sums: Sums,
    /// Calls that ended with an error.
    pub(super) failed_calls: i64,
}

impl Series {
    /// Makes one of sums by time and class of error.
    pub(super) fn of(parts: &[Part]) -> Self {
        let mut by_time: BTreeMap<i64, (Sums, i64)> = BTreeMap::new();
        for Part { names, sums } in parts {
            let [time, class] = names.as_slice() else { continue };
            let Ok(time) = DateTime::parse_from_rfc3339(time) else { continue };
            let (all, failed_calls) = by_time.entry(time.timestamp()).or_default();
            *all += sums;
            *failed_calls += if class.is_empty() { 0 } else { sums.calls };
        }
        let (Some(first), Some(last)) = (by_time.keys().next().copied(), by_time.keys().last().copied()) else {
            return Self::default();
        };
        let length_s = length(first, last, by_time.keys().copied());
        let begin = |at_s: i64| at_s.div_euclid(length_s) * length_s;
        let mut points: Vec<Point> = (0..=(begin(last) - begin(first)) / length_s)
            .map(|index| Point { at_s: begin(first) + index * length_s, ..Point::default() })
            .collect();
        for (at_s, (sums, failed_calls)) in by_time {
            let index = usize::try_from((begin(at_s) - begin(first)) / length_s).unwrap_or(0);
            if let Some(point) = points.get_mut(index) {
                point.sums += &sums;
                point.failed_calls += failed_calls;
            }
        }
        Self { length_s, points }
    }
}

/// Returns the length of a series' times: few enough of them, and none finer than the sums are, which grow coarse with age.
fn length(first: i64, last: i64, mut times: impl Iterator<Item = i64> + Clone) -> i64 {
    let grain = if times.clone().all(|at_s| at_s % 3_600 == 0) {
        3_600
    } else if times.all(|at_s| at_s % 60 == 0) {
        60
    } else {
        10
    };
    // Sums of one time may be fine ones that happened to fall there.
    let grain = if first == last { 10 } else { grain };
    let is_enough = |length: &&i64| **length >= grain && (last - first) / **length < MOST_POINTS;
    LENGTHS_S.iter().find(is_enough).copied().unwrap_or((last - first) / MOST_POINTS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(at_s: i64, class: &str, calls: i64) -> Part {
        let time = DateTime::from_timestamp(at_s, 0).unwrap().format("%Y-%m-%dT%H:%M:%SZ").to_string();
        Part { names: vec![time, class.to_owned()], sums: Sums { calls, ..Sums::default() } }
    }

    #[test]
    fn times_follow_without_gaps_and_add_up() {
        let series = Series::of(&[part(20, "", 3), part(20, "Timeout", 2), part(50, "", 1)]);
        let points: Vec<(i64, i64, i64)> =
            series.points.iter().map(|point| (point.at_s, point.sums.calls, point.failed_calls)).collect();
        assert_eq!((series.length_s, points), (10, vec![(20, 5, 2), (30, 0, 0), (40, 0, 0), (50, 1, 0)]));
        assert_eq!(Series::of(&[]), Series::default());
    }

    #[test]
    fn long_times_have_long_steps_and_coarse_sums_no_fine_ones() {
        for (times, wanted) in [
            (vec![0, 10], 10),
            (vec![0, 1_190], 10),
            (vec![0, 1_200, 10], 30),
            (vec![0, 60, 120], 60),
            (vec![0, 3_600], 3_600),
            (vec![0, 86_400 * 30], 43_200),
            (vec![7_200], 10),
        ] {
            let parts: Vec<Part> = times.iter().map(|at_s| part(*at_s, "", 1)).collect();
            let series = Series::of(&parts);
            assert_eq!(series.length_s, wanted, "{times:?}");
            let calls: i64 = series.points.iter().map(|point| point.sums.calls).sum();
            assert!(calls == times.len() as i64 && series.points.len() <= 121, "{times:?}");
        }
    }
}
