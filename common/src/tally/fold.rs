//! Adds sums up by what a person asks for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::DateTime;

use super::{Key, Sums};
use crate::id::BatchId;

/// What sums are asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The batch.
    Batch,
    /// The batch's project.
    Project,
    /// The model group: what users write as `model`.
    Model,
    /// The provider.
    Provider,
    /// The deployment.
    Deployment,
    /// The model at the provider.
    ProviderModel,
    /// The class of the error.
    Class,
    /// The value of a job's tag.
    Tag(String),
    /// The day, in UTC.
    Day,
    /// The hour, in UTC.
    Hour,
    /// Times of so many seconds.
    Seconds(u32),
}

/// A word that names nothing to add up by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is none of model, provider, deployment, provider-model, project, batch, error, day, hour, tag:NAME (the name of a tag)"
)]
pub struct UnknownBy(String);

impl FromStr for By {
    type Err = UnknownBy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "batch" => Self::Batch,
            "project" => Self::Project,
            "model" => Self::Model,
            "provider" => Self::Provider,
            "deployment" => Self::Deployment,
            "provider-model" => Self::ProviderModel,
            "error" => Self::Class,
            "day" => Self::Day,
            "hour" => Self::Hour,
            other => match other.strip_prefix("tag:").filter(|name| !name.is_empty()) {
                Some(name) => Self::Tag(name.to_owned()),
                None => return Err(UnknownBy(other.to_owned())),
            },
        })
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch => f.write_str("batch"),
            Self::Project => f.write_str("project"),
            Self::Model => f.write_str("model"),
            Self::Provider => f.write_str("provider"),
            Self::Deployment => f.write_str("deployment"),
            Self::ProviderModel => f.write_str("provider-model"),
            Self::Class => f.write_str("error"),
            Self::Tag(name) => write!(f, "tag:{name}"),
            Self::Day => f.write_str("day"),
            Self::Hour => f.write_str("hour"),
            Self::Seconds(seconds) => write!(f, "{seconds} s"),
        }
    }
}

/// One line of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name by each of what was asked by; empty where there is none.
    pub names: Vec<String>,
    /// Its sums.
    pub sums: Sums,
}

/// Adds up what a store reads, row by row.
#[derive(Debug)]
pub struct Fold<'a> {
    by: &'a [By],
    parts: BTreeMap<Vec<String>, Sums>,
    tags: HashMap<Arc<str>, BTreeMap<String, String>>,
}

impl<'a> Fold<'a> {
    /// Makes one that nothing was added to; without anything to add up by there is one line.
    pub fn new(by: &'a [By]) -> Self {
        Self { by, parts: BTreeMap::new(), tags: HashMap::new() }
    }

    /// Adds sums; `batch` names their batch.
    pub fn add(&mut self, key: &Key, project: &str, batch: impl Fn(BatchId) -> String, sums: &Sums) {
        let names = self.by.iter().map(|by| match by {
            By::Batch => batch(key.batch),
            By::Project => project.to_owned(),
            By::Model => key.group.to_string(),
            By::Provider => key.provider.to_string(),
            By::Deployment => key.deployment.to_string(),
            By::ProviderModel => key.model.to_string(),
            By::Class => key.class.to_string(),
            By::Tag(name) => {
                let read = |text: &str| serde_json::from_str(text).unwrap_or_default();
                let tags = self.tags.entry(Arc::clone(&key.tags)).or_insert_with(|| read(&key.tags));
                tags.get(name).cloned().unwrap_or_default()
            }
            By::Day => time(key.at_s, 86_400, "%Y-%m-%d"),
            By::Hour => time(key.at_s, 3600, "%Y-%m-%dT%H:00Z"),
            By::Seconds(seconds) => time(key.at_s, i64::from(*seconds).max(1), "%Y-%m-%dT%H:%M:%SZ"),
        });
        let names: Vec<String> = names.collect();
        *self.parts.entry(names).or_default() += sums;
    }

    /// Returns the lines in order of their names.
    pub fn into_parts(self) -> Vec<Part> {
        self.parts.into_iter().map(|(names, sums)| Part { names, sums }).collect()
    }
}

fn time(at_s: i64, span_s: i64, format: &str) -> String {
    let start = at_s.div_euclid(span_s) * span_s;
    DateTime::from_timestamp(start, 0).unwrap_or_default().format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(at_s: i64, group: &str, tags: &str) -> Key {
        Key {
            at_s,
            batch: BatchId::new(DateTime::UNIX_EPOCH),
            group: group.into(),
            provider: "openai".into(),
            deployment: Arc::default(),
            model: Arc::default(),
            class: Arc::default(),
            tags: tags.into(),
        }
    }

    #[test]
    fn lines_are_by_all_that_was_asked_for() {
        let by = ["model", "tag:team", "day"].map(|text| text.parse().unwrap());
        let mut fold = Fold::new(&by);
        let one = Sums { calls: 1, cost_pico_usd: 5, ..Sums::default() };
        for key in [
            key(10, "a", r#"{"team":"x"}"#),
            key(86_399, "a", r#"{"team":"x","n":"2"}"#),
            key(86_400, "a", r#"{"team":"x"}"#),
            key(0, "b", ""),
        ] {
            fold.add(&key, "p", |_| "batch".to_owned(), &one);
        }
        let lines: Vec<(String, i64)> =
            fold.into_parts().into_iter().map(|part| (part.names.join(" "), part.sums.calls)).collect();
        let expected = [("a x 1970-01-01", 2), ("a x 1970-01-02", 1), ("b  1970-01-01", 1)];
        assert_eq!(lines, expected.map(|(names, calls)| (names.to_owned(), calls)));
    }

    #[test]
    fn without_anything_to_add_up_by_there_is_one_line() {
        let mut fold = Fold::new(&[]);
        for at in 0..5 {
            let sums = Sums { cost_pico_usd: at, ..Sums::default() };
            fold.add(&key(at, "m", ""), "", |_| String::new(), &sums);
        }
        let parts = fold.into_parts();
        assert_eq!((parts.len(), parts[0].sums.cost_pico_usd), (1, 10));
    }

    #[test]
    fn what_names_nothing_is_told() {
        for text in ["", "tag:", "colour"] {
            assert!(text.parse::<By>().is_err(), "{text}");
        }
        for text in ["batch", "tag:team", "provider-model", "error", "hour"] {
            assert_eq!(text.parse::<By>().unwrap().to_string(), text);
        }
    }
}
