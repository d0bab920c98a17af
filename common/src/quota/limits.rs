//! What a provider allows, as its operator writes it down.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Dimension;

/// The limits of an account at a provider, over all workers; `None` is no limit that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Calls in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpm: Option<u64>,
    /// Tokens in a minute, as the provider counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<u64>,
    /// Tokens of input in a minute, where the provider counts them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itpm: Option<u64>,
    /// Tokens of output in a minute, where the provider counts them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otpm: Option<u64>,
    /// Calls in a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpd: Option<u64>,
    /// Tokens in a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpd: Option<u64>,
    /// Calls that run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_requests: Option<u64>,
}

impl Limits {
    /// Tells whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what may be used of a dimension in a minute, also where only a day's limit bounds it.
    pub fn per_minute(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::Requests => self.rpm.or(self.rpd),
            Dimension::Tokens => self.tpm.or(self.tpd),
            Dimension::InputTokens => self.itpm,
            Dimension::OutputTokens => self.otpm,
        }
    }

    /// Returns what may be used of a dimension in a minute, the limits of a day aside.
    pub const fn of_a_minute(&self, dimension: Dimension) -> Option<u64> {
        match dimension {
            Dimension::Requests => self.rpm,
            Dimension::Tokens => self.tpm,
            Dimension::InputTokens => self.itpm,
            Dimension::OutputTokens => self.otpm,
        }
    }

    /// Returns the lower of each two limits; what one does not limit, the other does.
    #[must_use]
    pub fn lower(&self, other: &Self) -> Self {
        let lower = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            rpm: lower(self.rpm, other.rpm),
            tpm: lower(self.tpm, other.tpm),
            itpm: lower(self.itpm, other.itpm),
            otpm: lower(self.otpm, other.otpm),
            rpd: lower(self.rpd, other.rpd),
            tpd: lower(self.tpd, other.tpd),
            max_parallel_requests: lower(self.max_parallel_requests, other.max_parallel_requests),
        }
    }

    /// Returns each limit by the name of its setting.
    pub const fn named(&self) -> [(&'static str, Option<u64>); 7] {
        [
            ("rpm", self.rpm),
            ("tpm", self.tpm),
            ("itpm", self.itpm),
            ("otpm", self.otpm),
            ("rpd", self.rpd),
            ("tpd", self.tpd),
            ("max_parallel_requests", self.max_parallel_requests),
        ]
    }
}

/// Shows `600 rpm, 100000 tpm`, or `no limit`.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, limit) in self.named() {
            if let Some(limit) = limit {
                write!(f, "{separator}{limit} {name}")?;
                separator = ", ";
            }
        }
        if separator.is_empty() { f.write_str("no limit") } else { Ok(()) }
    }
}
