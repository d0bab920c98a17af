//! Exact decimal numbers that are never negative: rates, multipliers, and sums of money before they are rounded.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The most digits behind the point; what is finer is rounded half to even. The longest rate of the shipped table has 22.
const MOST_SCALE: u32 = 30;
/// The most digits of a number that is read; those behind them are below any money.
const MOST_DIGITS: usize = 36;

/// A decimal number that is not negative: `digits / 10^scale`, in lowest terms.
///
/// What is too large stays at its largest value, far above any amount of [`PicoUsd`](super::PicoUsd).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Decimal {
    digits: u128,
    scale: u32,
}

/// A text that is no decimal number, or a negative one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a number of dollars that is not negative, such as 2.5e-06, not `{0}`")]
pub struct NotDecimal(String);

impl Decimal {
    pub(super) const ZERO: Self = Self { digits: 0, scale: 0 };
    pub(super) const HALF: Self = Self { digits: 5, scale: 1 };
    pub(super) const MAX: Self = Self { digits: u128::MAX, scale: 0 };

    /// Makes `digits / 10^scale`.
    pub(super) fn new(digits: u128, scale: u32) -> Self {
        let mut number = Self { digits, scale };
        if number.scale > MOST_SCALE {
            number = Self { digits: shorten(digits, scale - MOST_SCALE), scale: MOST_SCALE };
        }
        while number.scale > 0 && number.digits.is_multiple_of(10) {
            number.digits /= 10;
            number.scale -= 1;
        }
        number
    }

    /// Makes so many thousandths.
    pub(super) const fn thousandths(digits: u128) -> Self {
        Self { digits, scale: 3 }
    }

    pub(super) const fn is_zero(self) -> bool {
        self.digits == 0
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let scale = self.scale.max(other.scale);
        let sum = match (self.digits_at(scale), other.digits_at(scale)) {
            (Some(one), Some(two)) => one.checked_add(two),
            _ => None,
        };
        sum.map_or(Self::MAX, |digits| Self::new(digits, scale))
    }

    pub(super) fn times(self, other: Self) -> Self {
        if self == Self::MAX || other == Self::MAX {
            return if self.is_zero() || other.is_zero() { Self::ZERO } else { Self::MAX };
        }
        let digits = self.digits.checked_mul(other.digits);
        digits.map_or(Self::MAX, |digits| Self::new(digits, self.scale + other.scale))
    }

    /// Multiplies by a whole number.
    #[must_use]
    pub fn times_count(self, count: u64) -> Self {
        self.times(Self::new(count.into(), 0))
    }

    /// Returns the number in units of `10^-scale`, rounded half to even; `None` where that is too large.
    pub(super) fn rounded(self, scale: u32) -> Option<u128> {
        if scale >= self.scale { self.digits_at(scale) } else { Some(shorten(self.digits, self.scale - scale)) }
    }

    fn digits_at(self, scale: u32) -> Option<u128> {
        10_u128.checked_pow(scale.checked_sub(self.scale)?)?.checked_mul(self.digits)
    }
}

/// Divides by a power of ten, rounding half to even.
fn shorten(digits: u128, places: u32) -> u128 {
    let Some(unit) = 10_u128.checked_pow(places) else { return 0 };
    let (whole, rest) = (digits / unit, digits % unit);
    let up = match rest.cmp(&(unit - rest)) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => !whole.is_multiple_of(2),
    };
    whole + u128::from(up)
}

/// Reads `2.5e-06` and what else JSON and Python write as a number.
impl FromStr for Decimal {
    type Err = NotDecimal;

    fn from_str(text: &str) -> Result<Self, NotDecimal> {
        read(text.trim()).ok_or_else(|| NotDecimal(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Decimal> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok().filter(|power| power.abs() < 1_000)?),
        None => (text, 0),
    };
    let is_negative = mantissa.starts_with('-');
    let mantissa = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let all: String = [whole, fraction].concat();
    let significant = all.trim_start_matches('0');
    let kept = &significant[..significant.len().min(MOST_DIGITS)];
    let digits: u128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    if digits == 0 {
        return Some(Decimal::ZERO);
    }
    let places = i32::try_from(fraction.len()).ok()? - i32::try_from(significant.len() - kept.len()).ok()? - exponent;
    let number = match u32::try_from(places) {
        Ok(scale) => Decimal::new(digits, scale),
        Err(_) => Decimal::new(digits.checked_mul(10_u128.checked_pow(places.unsigned_abs())?)?, 0),
    };
    (!is_negative).then_some(number)
}

/// Shows every digit, without an exponent.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale == 0 {
            return f.pad(&self.digits.to_string());
        }
        let places = self.scale as usize;
        let digits = format!("{:0>width$}", self.digits, width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        f.pad(&format!("{whole}.{fraction}"))
    }
}

/// As a text, so that no reader makes a float of it.
impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        match (self.digits_at(scale), other.digits_at(scale)) {
            (Some(one), Some(two)) => one.cmp(&two),
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            // Both are too large to be told apart finely.
            (None, None) => self.rounded(0).cmp(&other.rounded(0)),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_read_exactly_and_shown_in_full() {
        for (text, shown) in [
            ("0", "0"),
            ("-0.0", "0"),
            ("2.5e-06", "0.0000025"),
            ("2.857142857142857e-07", "0.0000002857142857142857"),
            ("256000.0", "256000"),
            ("1E3", "1000"),
            (".5", "0.5"),
            ("1.10", "1.1"),
            (" 0.07 ", "0.07"),
            ("1e-40", "0"),
        ] {
            assert_eq!(decimal(text).to_string(), shown, "{text}");
        }
        for text in ["", ".", "-1", "x", "1e", "1e9999", "1e60", "0x1", "1,5", "NaN", "inf", "--1"] {
            assert!(text.parse::<Decimal>().is_err(), "{text}");
        }
    }

    #[test]
    fn arithmetic_is_exact_until_it_saturates() {
        assert_eq!(decimal("0.1").plus(decimal("0.2")), decimal("0.3"));
        assert_eq!(decimal("2.5e-06").times_count(1_000_000), decimal("2.5"));
        assert_eq!(decimal("1.1").times(decimal("1.1")), decimal("1.21"));
        assert_eq!(decimal("1e30").times(decimal("1e30")), Decimal::MAX);
        assert_eq!(Decimal::MAX.times(Decimal::HALF), Decimal::MAX);
        assert_eq!(Decimal::MAX.times(Decimal::ZERO), Decimal::ZERO);
        assert_eq!(Decimal::MAX.plus(decimal("0.5")), Decimal::MAX);
    }

    #[test]
    fn halves_are_rounded_to_even() {
        for (text, scale, wanted) in [("2.5", 0, 2), ("3.5", 0, 4), ("2.51", 0, 3), ("0.125", 2, 12), ("7", 2, 700)] {
            assert_eq!(decimal(text).rounded(scale), Some(wanted), "{text}");
        }
        assert_eq!(Decimal::MAX.rounded(12), None);
    }

    #[test]
    fn numbers_are_in_order() {
        let numbers = ["0", "1e-30", "2.5e-06", "0.1", "1", "1e30"].map(decimal);
        assert!(numbers.is_sorted() && numbers[5] < Decimal::MAX);
    }
}
