//! What is asked of sums, and how often the keeper adds them up.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::id::BatchId;

/// Which calls and results are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageScope {
    /// Only those of a batch.
    pub batch: Option<BatchId>,
    /// Only those of a project.
    pub project: Option<String>,
    /// Only what ended then or later; sums of an hour count from its beginning.
    pub since: Option<DateTime<Utc>>,
    /// Only what ended before.
    pub until: Option<DateTime<Utc>>,
    /// Leaves counts by duration out, which take most of the time to read.
    pub without_durations: bool,
}

/// A step of adding up: sums of so many seconds that are so old become sums of more seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Seconds of the sums that are added up; 1 are those that a flush wrote.
    pub(super) from_s: i32,
    /// Seconds of the sums that come of it.
    pub(super) to_s: i32,
    /// How old they are.
    pub(super) age: Duration,
}

/// Seconds of what a flush writes: it is apart by 10 s already, and written many times.
pub(super) const WRITTEN_S: i32 = 1;

/// How sums are added up as they grow old: within an hour apart by 10 s, within two days by the minute, then by the hour.
pub(super) const STEPS: [Step; 3] = [
    Step { from_s: WRITTEN_S, to_s: 10, age: Duration::from_secs(60) },
    Step { from_s: 10, to_s: 60, age: Duration::from_secs(3600) },
    Step { from_s: 60, to_s: 3600, age: Duration::from_secs(2 * 86_400) },
];
