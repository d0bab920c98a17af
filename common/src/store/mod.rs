//! The store seam: requests, live rows, results, attempts, batches, workers.
//!
//! Owns what holds a job between its message and its result. Every method is one whole transaction, named after what
//! happens; none returns a transaction. Leases are measured on the database's clock. Nothing above this seam knows which
//! back end it has; one conformance suite runs on all of them.
//!
//! At any moment exactly one thing holds a job that has not ended: its request row (recorded, not published), a message, or
//! its live row. Every write is idempotent, so a caller repeats a method whose answer was lost.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::batch::{Batch, NewBatch};
use crate::id::{BatchId, JobId, OwnerId, PartDay};
use crate::job::{Identity, JobRef};
use crate::outcome::Status;
use crate::quota::{Ask, Grant, Limits, Standing};

mod books;
mod budget;
mod cache;
mod cost;
mod detail;
mod error;
mod history;
mod keeper;
mod postgres;
mod producer;
mod reader;
mod sqlite;
mod usage;
mod worker;

pub use books::Books;
pub use budget::{AlertRow, Spends, reason_of as budget_reason};
pub use cache::{AnswerCache, CacheSize, CachedAnswer, Caching};
pub use cost::{CallKey, Correction, CostedCall, KeptPrice, LostCalls};
pub use detail::{
    DroppedPartition, Forgotten, JobDetail, JobLine, JobPlace, JobSelector, LiveRow, LostCall, STRIPPED_BODY, Stripped,
};
pub use error::{Error, Result};
pub use history::{HistoryScope, PastRun};
pub use keeper::{Burial, DeadLetter, Due, Keepership, Unpublished};
pub use postgres::PostgresStore;
pub use producer::{BatchSelector, Chunk, Opened, Recorded, Sealed};
pub use reader::{Cursor, ErrorCount, InvalidCursor, Page, Progress, Wait, WaitKind, WorkerRow};
pub(crate) use sqlite::Enqueued;
pub use sqlite::{SqliteStore, WorkerLock};
pub use usage::UsageScope;
pub use worker::{
    Arrival, DeploymentReport, End, Flushed, Renewal, Request, Settlement, Ticket, Verdict, Wake, WorkerInfo,
};

/// Calls without a written result that a worker has at most, for each one of its concurrency: one that runs, and one whose answer waits
/// to be committed, so that a call need not wait for the commit of the one before. A crash repeats no more.
pub const MOST_UNCOMMITTED: u32 = 2;

/// Owners that may die on a job before it ends as failed, by default.
pub const MAX_DEATHS: u32 = 3;

/// Requests, live rows, results, attempts, batches and workers; [`Books`] has what they cost, [`AnswerCache`] the answers.
#[async_trait]
pub trait Store: Books + AnswerCache + Send + Sync + fmt::Debug {
    // --- set-up ------------------------------------------------------------------------------------------------------

    /// Brings the schema to this version; returns the versions that were applied, the first time also those of the opening.
    async fn migrate(&self) -> Result<Vec<i64>>;

    /// Fails with a text that says what to do unless the schema is exactly of this version.
    async fn check_schema(&self) -> Result<()>;

    // --- producers ---------------------------------------------------------------------------------------------------

    /// Opens a batch, or takes up one of the same name whose producer is gone.
    async fn open_batch(&self, batch: &NewBatch, producer_ttl: Duration) -> Result<Opened>;

    /// Records a chunk of requests and moves `published_through`, in one transaction. Repeating it changes nothing.
    async fn record(&self, chunk: Chunk<'_>) -> Result<Recorded>;

    /// Moves `published_through` forward, never back.
    async fn mark_published(&self, batch: BatchId, through: u64) -> Result<()>;

    /// Puts jobs that the broker refused to wait, so that the keeper publishes them later.
    async fn defer(&self, jobs: &[JobRef], after: Duration, reason: &str) -> Result<()>;

    /// Says that the last job is recorded and all are published; the batch ends when all have ended. Lets the producer go.
    async fn seal(&self, batch: BatchId, producer: OwnerId) -> Result<Sealed>;

    /// Lets a producer go without sealing.
    async fn leave(&self, batch: BatchId, producer: OwnerId) -> Result<()>;

    /// Keeps a producer's hold on its batch.
    async fn renew_producer(&self, batch: BatchId, producer: OwnerId, ttl: Duration) -> Result<()>;

    /// Reads the identities of recorded jobs in order of id: at most `limit` with an id above `after`.
    async fn identities(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, Identity)>>;

    /// Reads the `custom_id`s of recorded jobs, in order of id; jobs that are not recorded have none.
    async fn custom_ids(&self, batch: BatchId, jobs: &[JobId]) -> Result<Vec<String>>;

    // --- readers -----------------------------------------------------------------------------------------------------

    /// Finds a batch.
    async fn batch(&self, selector: &BatchSelector) -> Result<Option<Batch>>;

    /// Reads batches, newest first.
    async fn batches(&self, limit: u32) -> Result<Vec<Batch>>;

    /// Reads results in the order in which they were committed; a reader that goes on at each page's cursor sees every row
    /// exactly once.
    async fn results_after(&self, batch: BatchId, cursor: Cursor, limit: u32) -> Result<Page>;

    /// Reads the jobs of which a run after the first is open, each with that run, in order of id: at most `limit` above
    /// `after`.
    async fn open_reruns(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, u32)>>;

    /// Counts failed results by class, most frequent first.
    async fn errors(&self, batch: BatchId, limit: u32) -> Result<Vec<ErrorCount>>;

    /// Counts the batch's live rows.
    async fn progress(&self, batch: BatchId) -> Result<Progress>;

    /// Reads what the batch's live rows that nobody holds wait for, the most first: at most `limit` kinds.
    async fn waits(&self, batch: BatchId, limit: u32) -> Result<Vec<Wait>>;

    /// Reads the workers that are alive or died within the last hour.
    async fn workers(&self) -> Result<Vec<WorkerRow>>;

    /// Reads the deployments that live workers report as paused.
    async fn paused_deployments(&self) -> Result<Vec<DeploymentReport>>;

    /// Returns a counter that moves after results may have been committed. A hint: the cursor read is the truth.
    fn hints(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Asks to cancel a batch: no further call starts, what is open ends as cancelled. Returns whether it was open.
    async fn cancel(&self, batch: BatchId) -> Result<bool>;

    /// Opens a new run for at most `limit` jobs whose latest run ended with one of `statuses`, in the order in which they ended
    /// from `after` on. Returns how many, and where to go on; `None` at the end.
    async fn retry(
        &self,
        batch: BatchId,
        statuses: &[Status],
        after: Cursor,
        limit: u32,
    ) -> Result<(u64, Option<Cursor>)>;

    /// Opens a new run for each of these jobs whose latest run ended with one of `statuses`; returns how many.
    async fn retry_jobs(&self, batch: BatchId, statuses: &[Status], jobs: &[JobId]) -> Result<u64>;

    /// Finds jobs, the newest first; at most `limit`. Looking for a `custom_id` reads the batch.
    async fn find_jobs(&self, selector: &JobSelector, limit: u32) -> Result<Vec<(BatchId, JobId)>>;

    /// Reads all that is known of a recorded job.
    async fn job(&self, batch: BatchId, job: JobId) -> Result<Option<JobDetail>>;

    /// Reads jobs of a batch in order of id: at most `limit` above `after`. With `statuses`, only jobs whose latest run ended
    /// with one of them and that no new run was opened for; without, all recorded jobs.
    async fn jobs(
        &self,
        batch: BatchId,
        statuses: Option<&[Status]>,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobLine>>;

    /// Reads the runs that ended last, over all batches, the newest first: of each batch those that were committed last, in order of
    /// the time at which they ended.
    async fn history(&self, scope: &HistoryScope, limit: u32) -> Result<Vec<PastRun>>;

    /// Asks every worker to look at once whether paused deployments work again: those of a name or a model group, or all. Makes
    /// jobs due that wait for them. Returns what is paused.
    async fn resume(&self, name: Option<&str>) -> Result<Vec<DeploymentReport>>;

    // --- looking after -----------------------------------------------------------------------------------------------

    /// Reads batches that ended before a time, the oldest first.
    async fn ended_before(&self, time: DateTime<Utc>, limit: u32) -> Result<Vec<Batch>>;

    /// Deletes at most `limit` requests of an ended batch with all that belongs to them, and the batch itself with the last.
    /// A batch that is open is left alone.
    async fn forget(&self, batch: BatchId, limit: u32) -> Result<Forgotten>;

    /// Empties the bodies of at most `limit` requests of an ended batch, in order of id from `after` on, with the answers and the
    /// bodies of errors that belong to them; all other columns stay. Such a job cannot run again. A batch that is open is left
    /// alone, one whose last request is empty already counts as done.
    async fn strip(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Stripped>;

    /// Deletes what is left of a project beside its batches: the sums of batches that were deleted, and cached answers. Returns
    /// how many rows.
    async fn forget_project(&self, project: &str) -> Result<u64>;

    /// Drops the partitions of days before `day` that hold nothing.
    async fn drop_empty_partitions(&self, day: PartDay) -> Result<Vec<DroppedPartition>>;

    // --- workers -----------------------------------------------------------------------------------------------------

    /// Makes a worker known and gives it its first lease.
    async fn register(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()>;

    /// Renews a worker's lease from now and reports what it does.
    async fn renew(
        &self,
        owner: OwnerId,
        ttl: Duration,
        in_flight: u32,
        deployments: &[DeploymentReport],
    ) -> Result<Renewal>;

    /// Ends a worker's lease. What it still holds is returned as if it had died, without counting as a death.
    async fn deregister(&self, owner: OwnerId) -> Result<()>;

    /// Leases rate limits of accounts at providers, and takes in what the worker found there: one transaction for all its
    /// accounts, each asked for once. The answers are in the order of the asks; their times are from now on, by the store's clock.
    async fn lease_quota(&self, owner: OwnerId, asks: &[Ask]) -> Result<Vec<Grant>>;

    /// Sets the limits of an account for all workers; `None` leaves them to the workers' files again. `by` is kept.
    async fn set_limits(&self, account: &str, limits: Option<Limits>, by: &str) -> Result<()>;

    /// Reads how the accounts stand, by name.
    async fn standings(&self) -> Result<Vec<Standing>>;

    /// Decides for each arrival, in one transaction; the answers are in the order of the arrivals.
    ///
    /// A run that is admitted is held by `owner` until [`Store::flush`] settles it or the owner's lease ends.
    async fn admit(&self, owner: OwnerId, arrivals: Vec<Arrival>) -> Result<Vec<Verdict>>;

    /// Says that the call of a run on which an owner died begins now, so that this owner's death would count as well.
    /// Returns whether the owner still holds it. Told of every call, it would cost a commit each; so the first death counts for
    /// all that the dead owner held, and a later one only for what it was calling.
    ///
    /// `bound` is the most that one call of it costs, in picodollars: so much may the calls have cost that were lost with an owner.
    async fn calling(&self, owner: OwnerId, job: JobId, bound: Option<i64>) -> Result<bool>;

    /// Writes results, wake-ups, attempts and counters in one transaction. Repeating it changes nothing.
    async fn flush(&self, owner: OwnerId, settlements: &[Settlement]) -> Result<Flushed>;

    // --- keeper ------------------------------------------------------------------------------------------------------

    /// Takes or renews the keeper's lease; a `ttl` of zero gives it up.
    async fn keep(&self, owner: OwnerId, ttl: Duration) -> Result<Keepership>;

    /// Declares owners dead whose lease ran out, and puts back at most `limit` runs that dead owners hold. A run on which
    /// `max_deaths` owners died ends as failed; see [`Store::calling`] for which deaths count.
    async fn bury(&self, max_deaths: u32, limit: u32) -> Result<Burial>;

    /// Reads runs that are due, soonest first.
    async fn due(&self, limit: u32) -> Result<Vec<Due>>;

    /// Says that messages of due runs are confirmed, so that they are due no more. A run that moved on meanwhile is left.
    async fn mark_queued(&self, due: &[Due]) -> Result<()>;

    /// Reads recorded, unconfirmed jobs of one batch whose producer vanished.
    async fn unpublished(&self, limit: u32) -> Result<Option<Unpublished>>;

    /// Ends jobs of cancelled batches that nobody holds; returns how many it looked at. Call again while it returns `limit`.
    async fn close_cancelled(&self, limit: u32) -> Result<u64>;

    /// Ends jobs past their deadline that nobody holds; returns how many it looked at.
    async fn close_expired(&self, limit: u32) -> Result<u64>;

    /// Keeps a dead letter, and ends the jobs in it that have no result and no holder.
    async fn bury_letter(&self, letter: &DeadLetter) -> Result<()>;

    /// Makes the partitions of `today` and the days after it.
    async fn ensure_partitions(&self, today: PartDay) -> Result<()>;

    /// Reads jobs of a batch with neither result nor live row, in order of id, for [`repair`](crate::store): at most `limit`
    /// jobs looked at above `after`. The second value is where to go on; `None` at the end.
    async fn unfinished(
        &self,
        batch: BatchId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<(Vec<JobRef>, Option<JobId>)>;

    /// Makes live rows that were published but have no holder due again, for repair. Returns how many.
    async fn requeue(&self, batch: BatchId) -> Result<u64>;
}
