//! Times and limits as people write them on the command line. Pure.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

/// A point in time, or a time from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    At(DateTime<Utc>),
    In(TimeDelta),
}

impl When {
    pub(super) fn from(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(time) => time,
            Self::In(delta) => now.checked_add_signed(delta).unwrap_or(DateTime::<Utc>::MAX_UTC),
        }
    }

    /// Takes a distance for one into the past.
    pub(super) fn before(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(time) => time,
            Self::In(delta) => now.checked_sub_signed(delta).unwrap_or(DateTime::<Utc>::MIN_UTC),
        }
    }
}

impl FromStr for When {
    type Err = String;

    /// Reads `90s`, `30m`, `8h`, `2d`, or a time such as `2026-12-01T08:00:00Z`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(time.to_utc()));
        }
        let wrong = || "write it like 30m, 8h or 2d, or as a time with its zone, 2026-12-01T08:00:00Z".to_owned();
        let unit = text.chars().last().ok_or_else(wrong)?;
        let number: u32 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        TimeDelta::try_seconds(i64::from(number) * seconds).map(Self::In).ok_or_else(wrong)
    }
}

/// Reads a point in the past: `8h` ago, a day such as `2026-12-01` from its beginning in UTC, or a time with its zone.
pub(super) fn past(text: &str) -> Result<When, String> {
    match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        Ok(day) => Ok(When::At(day.and_time(NaiveTime::MIN).and_utc())),
        Err(_) => text.parse(),
    }
}

/// When failures stop a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum FailFast {
    /// At so many.
    Count(u64),
    /// At this share of the jobs that have ended, in percent.
    Percent(f64),
}

/// Jobs that must have ended before their share of failures tells something.
const ENOUGH: u64 = 20;

impl FailFast {
    /// Tells whether to stop.
    pub(super) fn is_reached(self, failed: u64, done: u64) -> bool {
        match self {
            Self::Count(most) => failed >= most,
            #[expect(clippy::cast_precision_loss, reason = "a share of counts far below 2^52")]
            Self::Percent(most) => done >= ENOUGH && failed as f64 * 100.0 >= most * done as f64,
        }
    }
}

impl FromStr for FailFast {
    type Err = String;

    /// Reads `10` or `5%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write a number of failures, 10, or a share of what has ended, 5%".to_owned();
        match text.strip_suffix('%') {
            Some(share) => match share.trim().parse::<f64>() {
                Ok(share) if share > 0.0 && share <= 100.0 => Ok(Self::Percent(share)),
                _ => Err(wrong()),
            },
            None => match text.parse() {
                Ok(0) | Err(_) => Err(wrong()),
                Ok(count) => Ok(Self::Count(count)),
            },
        }
    }
}

/// Reads a tag: `team=search`.
pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("write it as name=value".to_owned()),
    }
}

/// Reads a model's name.
pub(super) fn model(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("write the model's name, such as gpt-4o".to_owned()),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_distances() {
        let now = DateTime::from_timestamp_millis(1_795_400_000_000).unwrap();
        let seconds = |text: &str| (text.parse::<When>().unwrap().from(now) - now).num_seconds();
        assert_eq!(["90s", "30m", "8h", "2d"].map(seconds), [90, 1_800, 28_800, 172_800]);
        let time: When = "2026-12-01T08:00:00+02:00".parse().unwrap();
        assert_eq!(time.from(now).to_rfc3339(), "2026-12-01T06:00:00+00:00");
        for text in ["", "8", "h", "-1h", "1.5h", "tomorrow", "2026-12-01", "1é"] {
            assert!(text.parse::<When>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_past_is_a_day_a_time_or_a_distance() {
        let now = DateTime::from_timestamp_millis(1_795_400_000_000).unwrap();
        let at = |text: &str| past(text).unwrap().before(now).to_rfc3339();
        assert_eq!(at("2026-11-01"), "2026-11-01T00:00:00+00:00");
        assert_eq!(at("2026-11-01T02:00:00+02:00"), "2026-11-01T00:00:00+00:00");
        assert_eq!(past("2h").unwrap().before(now), now - TimeDelta::hours(2));
        assert!(past("2026-13-01").is_err() && past("yesterday").is_err());
    }

    #[test]
    fn failures_are_counted_or_a_share() {
        let reached = |text: &str, failed, done| text.parse::<FailFast>().unwrap().is_reached(failed, done);
        assert!(reached("1", 1, 1) && !reached("3", 2, 2_000));
        assert!(reached("5%", 5, 100) && !reached("5%", 4, 100) && reached("100%", 20, 20));
        assert!(!reached("5%", 19, 19), "too few to tell");
        for text in ["", "0", "-1", "0%", "101%", "NaN%", "many"] {
            assert!(text.parse::<FailFast>().is_err(), "{text}");
        }
    }
}
