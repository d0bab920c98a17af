//! Money, in whole picodollars.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::decimal::Decimal;

/// Picodollars in a dollar.
const IN_A_DOLLAR: u64 = 1_000_000_000_000;
/// Digits of a picodollar behind the dollar's point.
const SCALE: u32 = 12;

/// An amount in picodollars, 1e-12 USD: at most some 9.2 million dollars, where sums stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoUsd(pub i64);

impl PicoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Adds, and stays at the largest amount.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Returns the dollars, for people and files; sums are made of whole picodollars.
    #[expect(clippy::cast_precision_loss, reason = "the loss is below what anybody reads")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / IN_A_DOLLAR as f64
    }

    /// Rounds half to even.
    pub(super) fn of(amount: Decimal) -> Self {
        Self(amount.rounded(SCALE).and_then(|digits| i64::try_from(digits).ok()).unwrap_or(i64::MAX))
    }
}

impl std::iter::Sum for PicoUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Self::saturating_add)
    }
}

/// Shows dollars with every digit that counts, and cents at least: `$0.0000456`, `$12.50`.
impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let amount = self.0.unsigned_abs();
        let fraction = format!("{:0>12}", amount % IN_A_DOLLAR);
        let shown = fraction.trim_end_matches('0').len().max(2);
        f.pad(&format!("{sign}${}.{}", amount / IN_A_DOLLAR, &fraction[..shown]))
    }
}

/// A text that is no amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be an amount of dollars such as 12.50, not `{0}`")]
pub struct NotDollars(String);

/// Reads dollars, with or without the sign: `12.50`, `$0.003`.
impl FromStr for PicoUsd {
    type Err = NotDollars;

    fn from_str(text: &str) -> Result<Self, NotDollars> {
        let wrong = || NotDollars(text.to_owned());
        let trimmed = text.trim();
        let (is_negative, trimmed) = trimmed.strip_prefix('-').map_or((false, trimmed), |rest| (true, rest));
        let trimmed = trimmed.strip_prefix('$').unwrap_or(trimmed);
        if trimmed.starts_with('-') {
            return Err(wrong());
        }
        let amount: Decimal = trimmed.parse().map_err(|_| wrong())?;
        let pico = amount.rounded(SCALE).and_then(|digits| i64::try_from(digits).ok()).ok_or_else(wrong)?;
        Ok(Self(if is_negative { -pico } else { pico }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_as_dollars_and_read_back() {
        for (pico, shown) in [
            (0, "$0.00"),
            (45_600_000, "$0.0000456"),
            (12_500_000_000_000, "$12.50"),
            (1, "$0.000000000001"),
            (-1_250_000_000_000, "-$1.25"),
            (i64::MAX, "$9223372.036854775807"),
        ] {
            assert_eq!(PicoUsd(pico).to_string(), shown);
            assert_eq!(shown.parse(), Ok(PicoUsd(pico)));
        }
        assert_eq!("0.5".parse(), Ok(PicoUsd(500_000_000_000)));
        for text in ["", "$", "five", "--1", "-$-1", "99999999"] {
            assert!(text.parse::<PicoUsd>().is_err(), "{text}");
        }
    }

    #[test]
    fn sums_stay_at_the_largest_amount() {
        assert_eq!([PicoUsd(i64::MAX), PicoUsd(5)].into_iter().sum::<PicoUsd>(), PicoUsd(i64::MAX));
        assert_eq!(PicoUsd::of(Decimal::MAX), PicoUsd(i64::MAX));
    }
}
