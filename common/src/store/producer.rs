//! What producers hand to the store and hear from it.

use std::time::Duration;

use crate::batch::Batch;
use crate::id::{BatchId, OwnerId};
use crate::job::Job;

/// How people name a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchSelector {
    /// By id.
    Id(BatchId),
    /// By name.
    Name(String),
    /// By the beginning of the id, at least four hexadecimal digits.
    IdPrefix(String),
    /// The one opened last.
    Last,
}

/// What [`Store::open_batch`](super::Store::open_batch) did.
#[derive(Debug, Clone, PartialEq)]
pub enum Opened {
    /// It is new.
    Created(Batch),
    /// One of this name exists and this producer holds it now; go on at its `recorded`.
    Resumed(Batch),
    /// One of this name exists and another live producer is submitting it.
    Busy(Batch),
}

/// A part of a batch to record.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The batch.
    pub batch: BatchId,
    /// The producer that holds it.
    pub producer: OwnerId,
    /// How long the producer may be silent before it counts as vanished.
    pub producer_ttl: Duration,
    /// The jobs, in order of ordinal, the first at the batch's `recorded`.
    pub jobs: &'a [Job],
    /// The ordinal of the first job.
    pub first_ordinal: u64,
    /// Every job below this ordinal is confirmed by the broker.
    pub published_through: u64,
    /// Whether the simulator answers.
    pub simulated: bool,
}

/// What [`Store::record`](super::Store::record) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The rows are committed. Jobs with a future `not_before` wait in their live rows and must not be published.
    Committed,
    /// The batch was cancelled meanwhile; nothing was recorded.
    Cancelled,
    /// Another producer holds the batch; nothing was recorded.
    LostProducer,
}

/// What [`Store::seal`](super::Store::seal) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The total is known: by this call, by an earlier one whose answer was lost, or by another producer's.
    Committed,
    /// The hold was lost, and what was recorded is not sealed.
    LostProducer,
}
