//! The store seam: requests, live rows, results, attempts, batches, workers.
//!
//! Owns what holds a job between its message and its result. Every method is one whole transaction, named after what
//! happens; none returns a transaction. Leases are measured on the database's clock. Nothing above this seam knows which
//! back end it has; one conformance suite runs on all of them.
//!
//! At any moment exactly one thing holds a job that has not ended: its request row (recorded, not published), a message, or
//! its live row. Every write is idempotent, so a caller repeats a method whose answer was lost.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::batch::{Batch, NewBatch};
use crate::failure::ErrorRecord;
use crate::id::{BatchId, JobId, OwnerId, PartDay};
use crate::job::{Identity, Job, JobRef};
use crate::outcome::{AttemptRecord, JobResult, ResultRow, Status};

mod postgres;
mod sqlite;

pub use postgres::PostgresStore;
pub(crate) use sqlite::Enqueued;
pub use sqlite::{SqliteStore, WorkerLock};

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached now; the same call may succeed later.
    #[error("the database cannot be reached while {doing}")]
    Unavailable {
        /// The operation.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// It refuses the data; the same call would fail again.
    #[error("the database refused {doing}")]
    Refused {
        /// The operation.
        doing: &'static str,
        /// What the driver says.
        #[source]
        source: sqlx::Error,
    },
    /// The database cannot be used as it is; the text says what to do.
    #[error("{0}")]
    Setup(String),
    /// A batch of this name, in this state, cannot take this call.
    #[error("{0}")]
    Conflict(String),
}

impl Error {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The result of a store call.
pub type Result<T> = std::result::Result<T, Error>;

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

/// What [`Store::open_batch`] did.
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

/// What [`Store::record`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The rows are committed. Jobs with a future `not_before` wait in their live rows and must not be published.
    Committed,
    /// The batch was cancelled meanwhile; nothing was recorded.
    Cancelled,
    /// Another producer holds the batch; nothing was recorded.
    LostProducer,
}

/// A job that a message brought, as admission needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// The job, run and queue.
    pub job: JobRef,
    /// The request, where the message carries it; else admission reads the recorded row.
    pub request: Option<Request>,
    /// Whether its producer says that the request row is recorded. If not, admission adopts the job.
    pub recorded: bool,
}

/// What a call needs of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The user's name for the job.
    pub custom_id: String,
    /// The path of the API.
    pub endpoint: String,
    /// The request's JSON text.
    pub body: Bytes,
    /// Everything else.
    pub options: crate::job::JobOptions,
}

/// What a live row says of a run that was admitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// The job, with the run that is current.
    pub job: JobRef,
    /// The request.
    pub request: Request,
    /// Calls made so far in this run, refusals included.
    pub calls: u32,
    /// Calls that count against the retries.
    pub attempts: u32,
    /// Faults of deployments that the job met so far.
    pub faults: u32,
    /// Owners that died on it so far; if any, [`Store::calling`] must be told before a call.
    pub deaths: u32,
    /// When the run was first admitted.
    pub queued_at: DateTime<Utc>,
    /// The run's earlier failed calls, newest last, at most eight; JSON of [`crate::failure::EarlierAttempt`]s.
    pub earlier: Vec<crate::failure::EarlierAttempt>,
}

/// What admission decides for one arrival.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// This owner holds it now: run it.
    Run(Box<Ticket>),
    /// This owner holds it now, but its batch was cancelled: end it as cancelled.
    Cancelled(Box<Ticket>),
    /// This owner holds it now, but its deadline has passed: end it as expired.
    Expired(Box<Ticket>),
    /// It has ended; drop the message.
    Done,
    /// Another owner holds it; drop the message.
    Held,
    /// It waits for its time; drop the message, the keeper publishes it when due.
    Waiting,
    /// Its batch or request is not known, and the message carries too little to adopt it; it is a dead letter.
    Unknown,
}

/// What a worker hands over for one held run.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The job and run.
    pub job: JobRef,
    /// Calls made since the last settlement.
    pub attempts: Vec<AttemptRecord>,
    /// What becomes of the run.
    pub end: End,
}

/// What becomes of a held run.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It ends with this row.
    Result(Box<JobResult>),
    /// It comes back later.
    Wake(Wake),
}

/// When and how a run comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct Wake {
    /// How long from now, by the database's clock.
    pub after: Duration,
    /// Why it waits, for people: `retry`, `rate limit`, `deployment paused`, `released`.
    pub reason: String,
    /// Calls made so far in this run.
    pub calls: u32,
    /// Calls that count against the retries.
    pub attempts: u32,
    /// Faults of deployments so far.
    pub faults: u32,
    /// The run's earlier failed calls to keep.
    pub earlier: Vec<crate::failure::EarlierAttempt>,
}

/// What [`Store::flush`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Results written.
    pub results: u64,
    /// Runs put to wait.
    pub waiting: u64,
    /// Attempts written.
    pub attempts: u64,
    /// Settlements of runs that this owner no longer held; only their attempts were kept.
    pub lost: u64,
    /// Rows that the database refused and that were stored as failed instead.
    pub rejected: u64,
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerInfo {
    /// This start of the process.
    pub owner: OwnerId,
    /// The machine's name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// The model groups that it serves.
    pub groups: Vec<String>,
    /// Calls that it runs at once at most.
    pub concurrency: u32,
}

/// A deployment's state as one worker sees it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentReport {
    /// The deployment's name.
    pub deployment: String,
    /// The model group.
    pub group: String,
    /// Why it is paused and what to do; `None` when it works.
    pub paused: Option<String>,
    /// The error class that paused it.
    pub class: Option<String>,
}

/// What renewing a lease showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The lease holds; these unfinished batches are cancelled.
    Alive {
        /// Batches of which no further call may start.
        cancelled: Vec<BatchId>,
    },
    /// The keeper declared this owner dead: everything that it held belongs to others.
    Lost,
}

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

/// What [`Store::bury`] did.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Held by a worker.
    pub held: u64,
    /// Waiting for their time.
    pub waiting: u64,
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

/// Requests, live rows, results, attempts, batches and workers.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    // --- set-up ------------------------------------------------------------------------------------------------------

    /// Brings the schema to this version; returns the versions that were applied.
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
    async fn seal(&self, batch: BatchId, producer: OwnerId) -> Result<()>;

    /// Lets a producer go without sealing.
    async fn leave(&self, batch: BatchId, producer: OwnerId) -> Result<()>;

    /// Keeps a producer's hold on its batch.
    async fn renew_producer(&self, batch: BatchId, producer: OwnerId, ttl: Duration) -> Result<()>;

    /// Reads the identities of recorded jobs in order of id: at most `limit` with an id above `after`.
    async fn identities(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, Identity)>>;

    // --- readers -----------------------------------------------------------------------------------------------------

    /// Finds a batch.
    async fn batch(&self, selector: &BatchSelector) -> Result<Option<Batch>>;

    /// Reads batches, newest first.
    async fn batches(&self, limit: u32) -> Result<Vec<Batch>>;

    /// Reads results in the order in which they were committed; a reader that goes on at each page's cursor sees every row
    /// exactly once.
    async fn results_after(&self, batch: BatchId, cursor: Cursor, limit: u32) -> Result<Page>;

    /// Counts failed results by class, most frequent first.
    async fn errors(&self, batch: BatchId, limit: u32) -> Result<Vec<ErrorCount>>;

    /// Counts the batch's live rows.
    async fn progress(&self, batch: BatchId) -> Result<Progress>;

    /// Reads the workers that are alive or died within the last hour.
    async fn workers(&self) -> Result<Vec<WorkerRow>>;

    /// Reads the deployments that live workers report as paused.
    async fn paused_deployments(&self) -> Result<Vec<DeploymentReport>>;

    /// Returns a counter that moves after results may have been committed. A hint: the cursor read is the truth.
    fn hints(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Asks to cancel a batch: no further call starts, what is open ends as cancelled. Returns whether it was open.
    async fn cancel(&self, batch: BatchId) -> Result<bool>;

    /// Opens a new run for at most `limit` jobs whose latest run ended with one of `statuses`; returns how many.
    /// Call again until it returns 0.
    async fn retry(&self, batch: BatchId, statuses: &[Status], limit: u32) -> Result<u64>;

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

    /// Decides for each arrival, in one transaction; the answers are in the order of the arrivals.
    ///
    /// A run that is admitted is held by `owner` until [`Store::flush`] settles it or the owner's lease ends.
    async fn admit(&self, owner: OwnerId, arrivals: Vec<Arrival>) -> Result<Vec<Verdict>>;

    /// Says that the call of a run on which an owner died begins now, so that this owner's death would count as well.
    /// Returns whether the owner still holds it. Told of every call, it would cost a commit each; so the first death counts for
    /// all that the dead owner held, and a later one only for what it was calling.
    async fn calling(&self, owner: OwnerId, job: JobId) -> Result<bool>;

    /// Writes results, wake-ups, attempts and counters in one transaction. Repeating it changes nothing.
    async fn flush(&self, owner: OwnerId, settlements: &[Settlement]) -> Result<Flushed>;

    // --- keeper ------------------------------------------------------------------------------------------------------

    /// Takes or renews the keeper's lease.
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
