//! What the keeper hands to the store and hears from it.

use std::time::Duration;

use bytes::Bytes;

use crate::failure::ErrorRecord;
use crate::id::BatchId;
use crate::job::JobRef;

/// How the keeper's lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepership {
    /// This owner is the keeper.
    Held {
        /// How long the database server has been up, by its own word; `None` where it cannot restart by itself.
        server_up: Option<Duration>,
    },
    /// Another owner is.
    Elsewhere,
}

/// What [`Store::bury`](super::Store::bury) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Burial {
    /// Owners declared dead.
    pub owners: u64,
    /// Runs put back to wait.
    pub returned: u64,
    /// Runs ended because too many owners died on them.
    pub poisoned: u64,
    /// Whether more is left to do.
    pub more: bool,
}

/// A waiting run whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The job and run.
    pub job: JobRef,
    /// The live row's version when it was read; each change of the row moves it.
    pub version: i64,
}

/// Recorded jobs whose producer vanished before the broker confirmed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpublished {
    /// The batch.
    pub batch: BatchId,
    /// The jobs.
    pub jobs: Vec<JobRef>,
    /// Where `published_through` stands once they are confirmed.
    pub through: u64,
}

/// A message that could not be worked.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Why, for people.
    pub reason: String,
    /// The queue it came from.
    pub queue: String,
    /// The message, at most 64 KiB of it.
    pub payload: Bytes,
    /// The jobs that could be read from it; each gets a failed row if it has none and nobody holds it.
    pub jobs: Vec<JobRef>,
    /// The error of those rows.
    pub error: ErrorRecord,
}
