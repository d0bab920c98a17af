//! What readers of results and of the fleet get.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::WorkerInfo;
use crate::outcome::ResultRow;

/// A place in the order in which a batch's results were committed. Opaque; save it as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Cursor {
    /// The transaction; 0 where the store commits one at a time.
    pub xid: u64,
    /// The row within the order.
    pub seq: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.xid, self.seq)
    }
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cursor; use one that an earlier read returned")]
pub struct InvalidCursor(String);

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidCursor> {
        let parse = || {
            let (xid, seq) = text.split_once('-')?;
            Some(Self { xid: xid.parse().ok()?, seq: seq.parse().ok()? })
        };
        parse().ok_or_else(|| InvalidCursor(text.to_owned()))
    }
}

/// One page of results.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The rows, in the order of the cursor.
    pub rows: Vec<ResultRow>,
    /// Where the next read goes on.
    pub cursor: Cursor,
    /// Whether more rows were there when it was read. Beside fewer rows than were asked for it means that they are held back
    /// until a transaction that began before them has ended: wait, and read again.
    pub more: bool,
}

/// A count of results by error class, with one of their messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorCount {
    /// The class.
    pub class: String,
    /// Results with it.
    pub count: u64,
    /// One message of them.
    pub example: String,
}

/// How many jobs of a batch are where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Held by a worker.
    pub held: u64,
    /// Waiting for their time.
    pub waiting: u64,
    /// Those held by a worker, by model group.
    pub held_by_model: BTreeMap<String, u64>,
}

impl Progress {
    /// Adds what one model group has.
    pub(super) fn add(&mut self, model: String, held: u64, waiting: u64) {
        self.held += held;
        self.waiting += waiting;
        if held > 0 {
            self.held_by_model.insert(model, held);
        }
    }
}

/// A worker as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRow {
    /// What it says of itself.
    pub info: WorkerInfo,
    /// Whether its lease holds.
    pub alive: bool,
    /// Calls in flight when it last renewed.
    pub in_flight: u32,
}

/// Jobs of a batch that nobody holds and that wait for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The model group that they ask for.
    pub group: String,
    /// Why they wait, as [`Wake::reason`](super::Wake::reason) says it.
    pub reason: Option<String>,
    /// How many they are.
    pub jobs: u64,
    /// When the first of them is due; `None` where they are queued already.
    pub until: Option<DateTime<Utc>>,
}

/// What kind of wait it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitKind {
    /// For a rate limit, or a budget.
    Quota,
    /// For its next call, after one that failed or was refused.
    BackOff,
    /// For a deployment that is paused.
    Paused,
    /// For the answer to an equal request.
    Equal,
    /// For a worker to take it.
    Queued,
}

impl Wait {
    /// Tells which kind it is, for people: nothing is decided by it.
    pub fn kind(&self) -> WaitKind {
        let Some(reason) = self.reason.as_deref().filter(|reason| *reason != "released") else {
            return WaitKind::Queued;
        };
        if self.until.is_none() {
            WaitKind::Queued
        } else if ["waits for the rate limit", "the limit of ", "budget "].iter().any(|what| reason.starts_with(what)) {
            WaitKind::Quota
        } else if reason == super::cache::WAITS {
            WaitKind::Equal
        } else if reason.starts_with("deployment ") {
            WaitKind::Paused
        } else {
            WaitKind::BackOff
        }
    }
}
