//! Whom a budget limits, and for how long.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Datelike as _, Days, NaiveTime, Utc};

use crate::id::BatchId;
use crate::quota::Micros;

/// Whose calls a budget limits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All.
    All,
    /// Those of a batch.
    Batch(BatchId),
    /// Those of all batches of a project.
    Project(Arc<str>),
    /// Those to a provider.
    Provider(Arc<str>),
    /// Those to a deployment.
    Deployment(Arc<str>),
}

impl Scope {
    /// Returns the stable word of its kind.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Batch(_) => "batch",
            Self::Project(_) => "project",
            Self::Provider(_) => "provider",
            Self::Deployment(_) => "deployment",
        }
    }

    /// Returns the name of what it limits; empty for all.
    pub fn name(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Batch(id) => id.to_string(),
            Self::Project(name) | Self::Provider(name) | Self::Deployment(name) => name.to_string(),
        }
    }

    /// Makes one of its kind and name.
    ///
    /// # Errors
    ///
    /// [`InvalidScope`] for an unknown kind, a missing name, or a batch that is no id.
    pub fn of(kind: &str, name: &str) -> Result<Self, InvalidScope> {
        let invalid = || InvalidScope(if name.is_empty() { kind.to_owned() } else { format!("{kind}:{name}") });
        match (kind, name) {
            ("all", "") => Ok(Self::All),
            ("batch", name) => name.parse().map(Self::Batch).map_err(|_| invalid()),
            (_, "") => Err(invalid()),
            ("project", name) => Ok(Self::Project(name.into())),
            ("provider", name) => Ok(Self::Provider(name.into())),
            ("deployment", name) => Ok(Self::Deployment(name.into())),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            _ => write!(f, "{}:{}", self.kind(), self.name()),
        }
    }
}

/// A text that names nothing to limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of all, batch:NAME, project:NAME, provider:NAME, deployment:NAME")]
pub struct InvalidScope(pub String);

/// How long a budget lasts before it begins anew. Periods begin at midnight in UTC, weeks on Monday.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// For ever.
    #[default]
    Total,
    /// A day.
    Day,
    /// A week.
    Week,
    /// A month.
    Month,
}

impl Period {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Total, Self::Day, Self::Week, Self::Month];

    /// Returns the stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// Returns when the period began that holds a time.
    pub fn start(self, now: DateTime<Utc>) -> DateTime<Utc> {
        let today = now.date_naive();
        let day = match self {
            Self::Total => return DateTime::UNIX_EPOCH,
            Self::Day => Some(today),
            Self::Week => today.checked_sub_days(Days::new(today.weekday().num_days_from_monday().into())),
            Self::Month => today.with_day(1),
        };
        day.unwrap_or(today).and_time(NaiveTime::MIN).and_utc()
    }

    /// Returns when the period ends that holds a time; `None` where it never does.
    pub fn end(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let start = self.start(now);
        match self {
            Self::Total => None,
            Self::Day => start.checked_add_days(Days::new(1)),
            Self::Week => start.checked_add_days(Days::new(7)),
            Self::Month => start.checked_add_months(chrono::Months::new(1)),
        }
    }

    pub(super) fn start_of(self, now: Micros) -> Micros {
        let now = DateTime::from_timestamp_micros(now).unwrap_or_default();
        self.start(now).timestamp_micros()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A period that is none of the four.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of total, day, week, month")]
pub struct UnknownPeriod(String);

impl FromStr for Period {
    type Err = UnknownPeriod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|period| period.as_str() == text).ok_or_else(|| UnknownPeriod(text.to_owned()))
    }
}

/// What names a budget: there is one for each period of a scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetKey {
    /// Whose calls it limits.
    pub scope: Scope,
    /// For how long.
    pub period: Period,
}

impl fmt::Display for BudgetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.period {
            Period::Total => write!(f, "{}", self.scope),
            period => write!(f, "{} a {period}", self.scope),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_at_midnight_and_end_where_the_next_begins() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        // A Monday.
        let now = at("2026-11-23T17:30:00Z");
        for (period, start, end) in [
            (Period::Day, "2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"),
            (Period::Week, "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Period::Month, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ] {
            assert_eq!((period.start(now), period.end(now)), (at(start), Some(at(end))), "{period}");
            assert_eq!(period.start(at(start)), at(start));
        }
        assert_eq!(Period::Week.start(at("2027-01-03T00:00:00Z")), at("2026-12-28T00:00:00Z"), "a Sunday");
        assert_eq!(Period::Total.end(now), None);
    }

    #[test]
    fn a_scope_is_read_back_from_its_kind_and_name() {
        let batch = BatchId::new(DateTime::UNIX_EPOCH);
        for scope in [
            Scope::All,
            Scope::Batch(batch),
            Scope::Project("a:b".into()),
            Scope::Provider("openai".into()),
            Scope::Deployment("gpt-4o-eu".into()),
        ] {
            assert_eq!(Scope::of(scope.kind(), &scope.name()), Ok(scope));
        }
        for (kind, name) in [("all", "x"), ("batch", "x"), ("project", ""), ("team", "x")] {
            assert!(Scope::of(kind, name).is_err(), "{kind}:{name}");
        }
    }
}
