//! The limits themselves, and how people write them: `rpm:600,tpm:100000`.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Dimension;
use crate::simulate::duration;
use crate::simulate::error::Error;

/// What calls may take together; `None` and 0 are no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests per minute.
    pub rpm: Option<u32>,
    /// Tokens per minute, taken at arrival as each provider counts them: OpenAI the larger of the prompt's estimate and the
    /// maximum of the answer, Azure both, Anthropic the prompt alone.
    pub tpm: Option<u32>,
    /// Tokens of input per minute, taken at arrival without those that are read from a cache.
    pub itpm: Option<u32>,
    /// Tokens of output per minute, taken when an answer ends; calls are refused while more was taken than there is.
    pub otpm: Option<u32>,
    /// Requests per day.
    pub rpd: Option<u32>,
    /// Calls under way at once.
    pub max_parallel: Option<u32>,
}

impl Limits {
    /// Returns one of them, where it limits.
    pub(super) fn of(self, dimension: Dimension) -> Option<u32> {
        let limit = match dimension {
            Dimension::Requests => self.rpm,
            Dimension::Tokens => self.tpm,
            Dimension::InputTokens => self.itpm,
            Dimension::OutputTokens => self.otpm,
            Dimension::RequestsPerDay => self.rpd,
            Dimension::Parallel => self.max_parallel,
        };
        limit.filter(|limit| *limit > 0)
    }

    /// Replaces those that the change names; 0 lifts one.
    pub(in crate::simulate) fn changed(self, change: Self) -> Self {
        Self {
            rpm: change.rpm.or(self.rpm),
            tpm: change.tpm.or(self.tpm),
            itpm: change.itpm.or(self.itpm),
            otpm: change.otpm.or(self.otpm),
            rpd: change.rpd.or(self.rpd),
            max_parallel: change.max_parallel.or(self.max_parallel),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut limits = Self::default();
        for part in text.split(',') {
            let (name, number) = part.split_once(':').ok_or_else(|| format!("`{part}` is not NAME:NUMBER"))?;
            let limit = match name {
                "rpm" => &mut limits.rpm,
                "tpm" => &mut limits.tpm,
                "itpm" => &mut limits.itpm,
                "otpm" => &mut limits.otpm,
                "rpd" => &mut limits.rpd,
                "max_parallel" => &mut limits.max_parallel,
                _ => return Err(format!("`{name}` is no limit: use rpm, tpm, itpm, otpm, rpd or max_parallel")),
            };
            if limit.is_some() {
                return Err(format!("{name} is there twice"));
            }
            *limit = Some(number.parse().map_err(|_| format!("`{number}` is no number from 0 to {}", u32::MAX))?);
        }
        Ok(limits)
    }
}

impl FromStr for Limits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).map_err(|reason| Error::Setting { what: "limit", text: text.to_owned(), reason })
    }
}

/// The limits of one model, as a command line has them: `MODEL=rpm:600,tpm:100000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLimits {
    /// As calls name it; at Azure the deployment.
    pub model: String,
    /// What holds for its calls, beside what holds for all.
    pub limits: Limits,
}

impl FromStr for ModelLimits {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Setting { what: "limit", text: text.to_owned(), reason };
        match text.rsplit_once('=') {
            None | Some(("", _)) => Err(wrong("it is not MODEL=NAME:NUMBER".to_owned())),
            Some((model, limits)) => {
                Ok(Self { model: model.to_owned(), limits: Limits::parse(limits).map_err(wrong)? })
            }
        }
    }
}

/// A change of limits at its time: `30s=rpm:3000`, `30s=MODEL=rpm:3000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitChange {
    /// Time from the first call.
    pub after: Duration,
    /// Whose limits change; `None` are those of all calls together.
    pub model: Option<String>,
    /// Those that change, the rest stays; 0 lifts one.
    pub limits: Limits,
}

impl FromStr for LimitChange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Setting { what: "change of limits", text: text.to_owned(), reason };
        let (after, rest) =
            text.split_once('=').ok_or_else(|| wrong("it is not TIME=NAME:NUMBER or TIME=MODEL=NAME:NUMBER".into()))?;
        let (model, limits) = match rest.rsplit_once('=') {
            None => (None, rest),
            Some((model, limits)) => (Some(model.to_owned()), limits),
        };
        Ok(Self { after: duration::parse(after).map_err(wrong)?, model, limits: Limits::parse(limits).map_err(wrong)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        let some = |rpm, tpm| Limits { rpm, tpm, ..Limits::default() };
        assert_eq!("rpm:600,tpm:100000".parse::<Limits>().unwrap(), some(Some(600), Some(100_000)));
        let all =
            Limits { rpm: Some(1), tpm: Some(2), itpm: Some(3), otpm: Some(4), rpd: Some(5), max_parallel: Some(6) };
        assert_eq!("max_parallel:6,rpd:5,otpm:4,itpm:3,tpm:2,rpm:1".parse::<Limits>().unwrap(), all);

        let one: ModelLimits = "ft:gpt=4=rpm:600".parse().unwrap();
        assert_eq!((one.model.as_str(), one.limits), ("ft:gpt=4", some(Some(600), None)));

        let change: LimitChange = "30s=tpm:0".parse().unwrap();
        assert_eq!(change, LimitChange { after: Duration::from_secs(30), model: None, limits: some(None, Some(0)) });
        let change: LimitChange = "2m=gpt-4o=rpm:3000".parse().unwrap();
        assert_eq!((change.after, change.model.as_deref()), (Duration::from_secs(120), Some("gpt-4o")));
    }

    #[test]
    fn a_wrong_limit_says_what_is_wrong() {
        let table = [
            ("", "`` is not NAME:NUMBER"),
            ("600", "`600` is not NAME:NUMBER"),
            ("rpx:1", "`rpx` is no limit: use rpm, tpm, itpm, otpm, rpd or max_parallel"),
            ("rpm:-1", "`-1` is no number from 0 to 4294967295"),
            ("rpm:1,rpm:2", "rpm is there twice"),
        ];
        for (text, reason) in table {
            let error = text.parse::<Limits>().unwrap_err().to_string();
            assert_eq!(error, format!("limit `{text}` cannot be read: {reason}"));
        }
        assert!("rpm:600".parse::<ModelLimits>().is_err());
        assert!("=rpm:600".parse::<ModelLimits>().is_err());
        for text in ["rpm:600", "30=rpm:600", "30s"] {
            let error = text.parse::<LimitChange>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("change of limits `{text}` cannot be read: ")), "{error}");
        }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let old = Limits { rpm: Some(60), tpm: Some(1_000), ..Limits::default() };
        let new = old.changed(Limits { rpm: Some(0), otpm: Some(5), ..Limits::default() });
        assert_eq!(new.of(Dimension::Requests), None);
        assert_eq!((new.of(Dimension::Tokens), new.of(Dimension::OutputTokens)), (Some(1_000), Some(5)));
    }
}
