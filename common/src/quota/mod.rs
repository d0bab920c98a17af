//! Rate limits that hold over all workers: the account of a provider's key, as a value that the store keeps.
//!
//! Owns what is allowed, what is leased to whom, and what refusals and headers taught. Pure: the store reads an [`Account`]
//! under a lock, lets a worker [`lease`](Account::lease), and writes it back, in one transaction on its own clock; a worker spends
//! what it was leased without asking again. A worker that dies leaves its slices to run out: they are void after their end, so
//! what is lost is below a second of the rate.

mod account;
mod adapt;
mod ask;
mod clock;
mod limits;
mod pause;
mod recent;

pub use account::{Account, Change, Held, Paused, Standing, UsedUp};
pub use adapt::Heard;
pub use ask::{Ask, Blocked, Grant, Known, Look, Pausing, Probed, Sight, Told};
pub use clock::{Slice, Want};
pub use limits::Limits;

use serde::{Deserialize, Serialize};

/// Microseconds: of a time since 1970, or of a length.
pub type Micros = i64;

/// What a provider counts in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Calls.
    Requests,
    /// Tokens of any kind.
    Tokens,
    /// Tokens of input.
    InputTokens,
    /// Tokens of output.
    OutputTokens,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Tokens, Self::InputTokens, Self::OutputTokens];

    /// Returns the stable text used in tables and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
        }
    }

    /// Returns what people call its limit.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Requests => "rpm",
            Self::Tokens => "tpm",
            Self::InputTokens => "itpm",
            Self::OutputTokens => "otpm",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// One value for each dimension.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerDimension<T>([T; 4]);

impl<T> PerDimension<T> {
    /// Makes one from each dimension's value.
    pub fn from_fn(mut value: impl FnMut(Dimension) -> T) -> Self {
        Self(Dimension::ALL.map(&mut value))
    }
}

impl<T> std::ops::Index<Dimension> for PerDimension<T> {
    type Output = T;

    fn index(&self, dimension: Dimension) -> &T {
        &self.0[dimension.index()]
    }
}

impl<T> std::ops::IndexMut<Dimension> for PerDimension<T> {
    fn index_mut(&mut self, dimension: Dimension) -> &mut T {
        &mut self.0[dimension.index()]
    }
}
