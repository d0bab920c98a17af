//! How the deployments of a group share its work, by their weights, or as LiteLLM weighs those that have none.

use std::collections::HashSet;

use super::entry::Entry;
use super::options::Parse;

/// A weight as it is written, such as `3` or `0.25`, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Weight(u64);

impl Weight {
    const ONE: Self = Self(1_000_000);
    /// Weights of a group that are not all whole numbers are counted in thousandths.
    const THOUSANDTH: u64 = 1_000;

    fn whole(number: u64) -> Self {
        Self(number.saturating_mul(Self::ONE.0))
    }
}

impl Parse for Weight {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("must be a number such as 3 or 0.25, not `{text}`");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        if !fraction.chars().all(|c| c.is_ascii_digit()) {
            return Err(wrong());
        }
        let millionths: String = fraction.chars().chain("000000".chars()).take(6).collect();
        let millionths: u64 = millionths.parse().map_err(|_| wrong())?;
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        Ok(Self(Self::whole(whole).0.saturating_add(millionths)))
    }
}

/// Sets the weights of all entries, from those that are written beside them.
///
/// LiteLLM's simple shuffle (version 1.109.1, `router_strategy/simple_shuffle.py`, read 2026-11-23) takes the first of
/// `weight`, `rpm` and `tpm` that some deployment of the group has. There, one that lacks it is never called; here it weighs 1,
/// or as the largest of the group, since it has no limit.
pub(super) fn set(entries: &mut [Entry], written: &[Option<Weight>]) {
    let groups: HashSet<_> = entries.iter().map(|entry| entry.group.clone()).collect();
    for group in groups {
        let members: Vec<usize> = (0..entries.len()).filter(|at| entries[*at].group == group).collect();
        let weights = members.iter().map(|at| written.get(*at).copied().flatten()).collect::<Vec<_>>();
        let limits = |limit: fn(&Entry) -> Option<u64>| {
            members.iter().map(|at| limit(&entries[*at]).map(Weight::whole)).collect::<Vec<_>>()
        };
        let (rpm, tpm) = (limits(|entry| entry.limits.rpm), limits(|entry| entry.limits.tpm));
        let shares = shares(&weights, &rpm, &tpm);
        for (at, share) in members.into_iter().zip(shares) {
            entries[at].weight = share;
        }
    }
}

/// Returns the weights of a group's deployments.
fn shares(weights: &[Option<Weight>], rpm: &[Option<Weight>], tpm: &[Option<Weight>]) -> Vec<u32> {
    let largest = |numbers: &[Option<Weight>]| numbers.iter().flatten().max().copied().filter(|most| most.0 > 0);
    let (numbers, missing) = if largest(weights).is_some() {
        (weights, Weight::ONE)
    } else if let Some(most) = largest(rpm) {
        (rpm, most)
    } else if let Some(most) = largest(tpm) {
        (tpm, most)
    } else {
        return vec![1; weights.len()];
    };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.unwrap_or(missing).0).collect();
    let are_whole = numbers.iter().all(|number| number % Weight::ONE.0 == 0);
    let unit = if are_whole { Weight::ONE.0 } else { Weight::THOUSANDTH };
    numbers
        .into_iter()
        // What is more than nothing stays so.
        .map(|number| if number == 0 { 0 } else { u32::try_from(number / unit).unwrap_or(u32::MAX).max(1) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_first_then_requests_then_tokens() {
        let read = |texts: &[&str]| -> Vec<Option<Weight>> {
            texts.iter().map(|text| (!text.is_empty()).then(|| Weight::parse(text).unwrap())).collect()
        };
        for (weights, rpm, tpm, shares_of) in [
            (["", "", ""], ["", "", ""], ["", "", ""], [1, 1, 1]),
            (["3", "1", ""], ["60", "600", "6"], ["", "", ""], [3, 1, 1]),
            (["0.9", "0.1", ""], ["", "", ""], ["", "", ""], [900, 100, 1000]),
            (["0.00001", "1", "0"], ["", "", ""], ["", "", ""], [1, 1000, 0]),
            (["2", "0", ""], ["", "", ""], ["", "", ""], [2, 0, 1]),
            // Without any share of the work the group would stand still.
            (["0", "0", "0"], ["60", "30", ""], ["", "", ""], [60, 30, 60]),
            (["", "", ""], ["900", "100", ""], ["5", "6", "7"], [900, 100, 900]),
            (["", "", ""], ["", "", ""], ["100000", "50000", ""], [100_000, 50_000, 100_000]),
            (["", "", ""], ["", "", ""], ["99999999999", "1", "1"], [u32::MAX, 1, 1]),
        ] {
            assert_eq!(shares(&read(&weights), &read(&rpm), &read(&tpm)), shares_of, "{weights:?} {rpm:?} {tpm:?}");
        }
    }

    #[test]
    fn weights_are_numbers() {
        assert_eq!(Weight::parse("1.5"), Ok(Weight(1_500_000)));
        for text in ["", "-1", "many", "1.x", "1e3"] {
            assert!(Weight::parse(text).unwrap_err().contains("must be a number such as 3 or 0.25"), "{text}");
        }
    }
}
