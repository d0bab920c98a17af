//! The newest runs over all batches, without looking at all of them.
//!
//! Results have no index by time: it would cost every insert. Each batch's are read from their end by the cursor's index, the
//! batches that are open first, then those that ended last, until what is found is newer than the next batch's end.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::id::{BatchId, JobId};
use crate::outcome::{Status, Usage};

/// Results of a batch that are looked through at most for those of a model.
pub(super) const WINDOW: i64 = 100_000;
/// Results that one read of several batches takes at most.
const TAKEN: u32 = 1_000;
/// Batches of one read at most.
const BATCHES: u32 = 50;
/// How far clocks of workers may be from the store's.
const MARGIN: TimeDelta = TimeDelta::minutes(5);

/// Which runs are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryScope {
    /// Only those of a batch.
    pub batch: Option<BatchId>,
    /// Only those that failed or expired.
    pub failed: bool,
    /// Only those of a model group; of each batch its last 100,000 results are looked through for them.
    pub model: Option<String>,
}

impl HistoryScope {
    /// Returns how many results of a batch are looked through for `limit` of them.
    pub(super) fn window(&self, limit: u32) -> i64 {
        if self.model.is_some() { WINDOW.max(limit.into()) } else { limit.into() }
    }
}

/// A run that has ended, in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct PastRun {
    /// The job.
    pub job_id: JobId,
    /// Which run of it.
    pub run: u32,
    /// The batch.
    pub batch_id: BatchId,
    /// Its name.
    pub batch: String,
    /// Whether the simulator answered.
    pub simulated: bool,
    /// The user's name for the job.
    pub custom_id: String,
    /// The model group that was asked for.
    pub model: String,
    /// The provider kind that answered last.
    pub provider: Option<String>,
    /// The deployment that answered last.
    pub deployment: Option<String>,
    /// How it ended.
    pub status: Status,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// Calls, refusals included.
    pub attempts: u32,
    /// Time of the last call, in milliseconds.
    pub latency_ms: Option<u32>,
    /// Time to the first byte of the last call, in milliseconds.
    pub ttft_ms: Option<u32>,
    /// Tokens of the answering call.
    pub usage: Usage,
    /// Cost of all its calls in picodollars, if known.
    pub cost_pico_usd: Option<i64>,
    /// Whether the response cache answered.
    pub cached: bool,
    /// The class of the error, if it did not succeed.
    pub class: Option<Arc<str>>,
    /// The error's message.
    pub message: Option<String>,
}

/// A batch that may have some of what is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) batch: BatchId,
    /// `None` while it is open.
    pub(super) finished_at: Option<DateTime<Utc>>,
}

/// The newest runs that were found so far.
#[derive(Debug)]
pub(super) struct Newest {
    limit: usize,
    runs: Vec<PastRun>,
}

impl Newest {
    pub(super) const fn new(limit: u32) -> Self {
        Self { limit: limit as usize, runs: Vec::new() }
    }

    /// Takes a batch's last runs in, the one committed last first.
    pub(super) fn add(&mut self, runs: Vec<PastRun>) {
        self.runs.extend(runs);
        // Stable: of one time, that which was committed later stays first.
        self.runs.sort_by_key(|run| std::cmp::Reverse(run.finished_at));
        self.runs.truncate(self.limit);
    }

    /// Tells whether a batch, and so every one behind it, has nothing newer.
    pub(super) fn is_newer_than(&self, next: &Candidate) -> bool {
        let oldest = self.runs.last().filter(|_| self.runs.len() >= self.limit);
        self.limit == 0 || oldest.zip(next.finished_at).is_some_and(|(oldest, end)| end + MARGIN < oldest.finished_at)
    }

    pub(super) fn into_runs(self) -> Vec<PastRun> {
        self.runs
    }
}

/// Returns how many batches one read looks at.
pub(super) fn batches_of_a_read(limit: u32) -> usize {
    (TAKEN / limit.max(1)).clamp(1, BATCHES) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_400_000 + seconds, 0).unwrap()
    }

    fn run(seconds: i64) -> PastRun {
        let batch_id = BatchId::new(at(0));
        PastRun {
            job_id: JobId::derive(batch_id, 0),
            run: 1,
            batch_id,
            batch: String::new(),
            simulated: false,
            custom_id: seconds.to_string(),
            model: String::new(),
            provider: None,
            deployment: None,
            status: Status::Succeeded,
            finished_at: at(seconds),
            attempts: 1,
            latency_ms: None,
            ttft_ms: None,
            usage: Usage::default(),
            cost_pico_usd: None,
            cached: false,
            class: None,
            message: None,
        }
    }

    #[test]
    fn it_ends_where_the_next_batch_is_older_than_what_was_found() {
        let next = |finished_at| Candidate { batch: BatchId::new(at(0)), finished_at };
        let mut newest = Newest::new(2);
        newest.add(vec![run(1_000)]);
        assert!(!newest.is_newer_than(&next(Some(at(0)))), "one is missing");
        newest.add(vec![run(3_000), run(2_000), run(500)]);
        assert!(!newest.is_newer_than(&next(None)), "it is open");
        assert!(!newest.is_newer_than(&next(Some(at(1_800)))), "clocks differ");
        assert!(newest.is_newer_than(&next(Some(at(1_600)))));
        let names: Vec<String> = newest.into_runs().into_iter().map(|run| run.custom_id).collect();
        assert_eq!(names, ["3000", "2000"]);
        assert!(Newest::new(0).is_newer_than(&next(None)));
    }

    #[test]
    fn reads_stay_bounded() {
        assert_eq!([0, 1, 10, 100, 5_000].map(batches_of_a_read), [50, 50, 50, 10, 1]);
    }
}
