//! The store on one SQLite file.
//!
//! Owns the SQL of every transaction, the connections, the hints. One connection writes, in turns, and some read; since
//! nothing else writes between a transaction's beginning and its end, what a transaction reads first holds when it writes.
//! If the process dies inside a method, the transaction rolls back; if it dies after, the rows say what happened, also
//! after a power cut. Other processes may read and submit; one at a time works the queue ([`SqliteStore::lock_exclusively`]).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqlitePool;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Arrival, BatchSelector, Burial, Chunk, Cursor, DeadLetter, DeploymentReport, DroppedPartition, Due, Error,
    ErrorCount, Flushed, Forgotten, HistoryScope, JobDetail, JobLine, JobSelector, Keepership, Opened, Page, PastRun,
    Progress, Recorded, Renewal, Result, Sealed, Settlement, Store, Stripped, Unpublished, Verdict, Wait, WorkerInfo,
    WorkerRow,
};
use crate::batch::{Batch, NewBatch};
use crate::cache::CacheRules;
use crate::clock::Clock;
use crate::id::{BatchId, JobId, OwnerId, PartDay};
use crate::job::{Identity, JobRef};
use crate::outcome::Status;
use crate::quota::{Ask, Grant, Limits, Standing};

mod admit;
mod batch;
mod books;
mod budget;
mod cache;
mod cost;
mod count;
mod detail;
mod end;
mod error;
mod flush;
mod group;
mod hint;
mod history;
mod keeper;
mod letter;
mod open;
mod prune;
mod queue;
mod quota;
mod read;
mod request;
mod result;
mod row;
mod submit;
mod tally;
mod worker;
mod writer;

use error::Fault;
pub use open::WorkerLock;
pub(crate) use queue::Enqueued;
use writer::Writer;

/// The store on one SQLite file. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    core: Arc<Core>,
    cache: CacheRules,
}

/// What the clones of a store share.
#[derive(Debug)]
struct Core {
    writer: Arc<Writer>,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    hints: hint::Hints,
    path: PathBuf,
    /// Versions that the opening applied and nobody was told of.
    applied: Mutex<Vec<i64>>,
    _stop: DropGuard,
}

impl SqliteStore {
    /// Opens a database file. Makes it if it is missing, and brings its schema to this version.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] with what to do when the file cannot be used.
    pub async fn open(path: impl AsRef<Path>, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = path.as_ref();
        let mut connection = open::writer(path).await?;
        let migrated = open::migrate(&mut connection, path).await;
        let applied = migrated.map_err(|fault| fault.named("opening the database", path))?;
        let stop = CancellationToken::new();
        let core = Core {
            writer: Arc::new(Writer::new(connection)),
            readers: open::readers(path),
            clock,
            hints: hint::Hints::new(path.to_owned(), stop.clone()),
            path: path.to_owned(),
            applied: Mutex::new(applied),
            _stop: stop.drop_guard(),
        };
        Ok(Self { core: Arc::new(core), cache: CacheRules::default() })
    }

    /// Replaces how answers are kept.
    #[must_use]
    pub fn with_cache(self, cache: CacheRules) -> Self {
        Self { cache, ..self }
    }

    /// Takes the right to work the queue of this database, which one process at a time has. Whoever had it before and did not
    /// leave is dead, lease or not: what it held is due at once.
    ///
    /// Who only reads, submits or cancels needs none.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] when another process has it, with its number.
    pub async fn lock_exclusively(&self) -> Result<WorkerLock> {
        let lock = open::lock(&self.core.path)?;
        self.take_over().await?;
        Ok(lock)
    }

    /// Does the same if no other process has it.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] when the lock file cannot be used.
    pub async fn try_lock(&self) -> Result<Option<WorkerLock>> {
        let Ok(lock) = open::try_lock(&self.core.path)? else { return Ok(None) };
        self.take_over().await?;
        Ok(Some(lock))
    }

    async fn take_over(&self) -> Result<()> {
        let buried =
            keeper::bury_former(&self.core).await.map_err(self.core.failed("taking over from a dead process"))?;
        if buried > 0 {
            tracing::info!(runs = buried, "took over from a process that died");
        }
        Ok(())
    }

    /// Takes that right before the file is opened, so that it may be removed first.
    ///
    /// # Errors
    ///
    /// As [`Self::lock_exclusively`].
    pub fn lock_path(path: impl AsRef<Path>) -> Result<WorkerLock> {
        open::lock(path.as_ref())
    }

    /// Takes the lock of a database file that need not be there yet, unless another process has it.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] when the lock file cannot be used.
    pub fn try_lock_path(path: impl AsRef<Path>) -> Result<Option<WorkerLock>> {
        Ok(open::try_lock(path.as_ref())?.ok())
    }

    /// Returns a store behind the seam.
    pub fn shared(self) -> Arc<dyn Store> {
        Arc::new(self)
    }
}

impl Core {
    /// Returns the database's time in milliseconds.
    fn now(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }

    /// Names what failed.
    fn failed(&self, doing: &'static str) -> impl FnOnce(Fault) -> Error {
        move |fault| fault.named(doing, &self.path)
    }
}

/// Adds a duration to a time, both in milliseconds, without overflow.
fn later(now: i64, by: Duration) -> i64 {
    now.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self) -> Result<Vec<i64>> {
        let mut line = self.core.writer.lend().await;
        let applied = open::migrate(line.tx(), &self.core.path).await.map_err(self.core.failed("migrating"))?;
        let mut untold = std::mem::take(&mut *self.core.applied.lock().unwrap_or_else(PoisonError::into_inner));
        untold.extend(applied);
        Ok(untold)
    }

    async fn check_schema(&self) -> Result<()> {
        let mut line = self.core.writer.lend().await;
        open::check(line.tx(), &self.core.path).await.map_err(self.core.failed("reading the schema's version"))
    }

    async fn open_batch(&self, batch: &NewBatch, producer_ttl: Duration) -> Result<Opened> {
        batch::open(&self.core, batch, producer_ttl).await.map_err(self.core.failed("opening a batch"))
    }

    async fn record(&self, chunk: Chunk<'_>) -> Result<Recorded> {
        submit::record(&self.core, &chunk).await.map_err(self.core.failed("recording requests"))
    }

    async fn mark_published(&self, batch: BatchId, through: u64) -> Result<()> {
        let marked = batch::mark_published(&self.core, batch, through).await;
        marked.map_err(self.core.failed("noting what is published"))
    }

    async fn defer(&self, jobs: &[JobRef], after: Duration, reason: &str) -> Result<()> {
        submit::defer(&self.core, jobs, after, reason).await.map_err(self.core.failed("deferring jobs"))
    }

    async fn seal(&self, batch: BatchId, producer: OwnerId) -> Result<Sealed> {
        let sealed = batch::seal(&self.core, batch, producer).await.map_err(self.core.failed("sealing a batch"))?;
        self.core.hints.tell();
        Ok(sealed)
    }

    async fn leave(&self, batch: BatchId, producer: OwnerId) -> Result<()> {
        batch::leave(&self.core, batch, producer).await.map_err(self.core.failed("leaving a batch"))
    }

    async fn renew_producer(&self, batch: BatchId, producer: OwnerId, ttl: Duration) -> Result<()> {
        let renewed = batch::renew_producer(&self.core, batch, producer, ttl).await;
        renewed.map_err(self.core.failed("renewing the producer's lease"))
    }

    async fn identities(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, Identity)>> {
        let read = read::identities(&self.core, batch, after, limit).await;
        read.map_err(self.core.failed("reading what is recorded"))
    }

    async fn custom_ids(&self, batch: BatchId, jobs: &[JobId]) -> Result<Vec<String>> {
        read::custom_ids(&self.core, batch, jobs).await.map_err(self.core.failed("reading names of jobs"))
    }

    async fn batch(&self, selector: &BatchSelector) -> Result<Option<Batch>> {
        batch::find(&self.core, selector).await.map_err(self.core.failed("reading a batch"))
    }

    async fn batches(&self, limit: u32) -> Result<Vec<Batch>> {
        batch::list(&self.core, limit).await.map_err(self.core.failed("reading batches"))
    }

    async fn results_after(&self, batch: BatchId, cursor: Cursor, limit: u32) -> Result<Page> {
        result::results_after(&self.core, batch, cursor, limit).await.map_err(self.core.failed("reading results"))
    }

    async fn open_reruns(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, u32)>> {
        read::open_reruns(&self.core, batch, after, limit).await.map_err(self.core.failed("reading open runs"))
    }

    async fn errors(&self, batch: BatchId, limit: u32) -> Result<Vec<ErrorCount>> {
        read::errors(&self.core, batch, limit).await.map_err(self.core.failed("counting errors"))
    }

    async fn progress(&self, batch: BatchId) -> Result<Progress> {
        read::progress(&self.core, batch).await.map_err(self.core.failed("counting live rows"))
    }

    async fn waits(&self, batch: BatchId, limit: u32) -> Result<Vec<Wait>> {
        read::waits(&self.core, batch, limit).await.map_err(self.core.failed("reading what is waited for"))
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        worker::workers(&self.core).await.map_err(self.core.failed("reading workers"))
    }

    async fn paused_deployments(&self) -> Result<Vec<DeploymentReport>> {
        worker::paused_deployments(&self.core).await.map_err(self.core.failed("reading paused deployments"))
    }

    fn hints(&self) -> watch::Receiver<u64> {
        self.core.hints.receiver()
    }

    async fn cancel(&self, batch: BatchId) -> Result<bool> {
        let open = batch::cancel(&self.core, batch).await.map_err(self.core.failed("cancelling a batch"))?;
        self.core.hints.tell();
        Ok(open)
    }

    async fn retry(
        &self,
        batch: BatchId,
        statuses: &[Status],
        after: Cursor,
        limit: u32,
    ) -> Result<(u64, Option<Cursor>)> {
        submit::retry(&self.core, batch, statuses, after, limit).await.map_err(self.core.failed("opening new runs"))
    }

    async fn retry_jobs(&self, batch: BatchId, statuses: &[Status], jobs: &[JobId]) -> Result<u64> {
        submit::retry_jobs(&self.core, batch, statuses, jobs).await.map_err(self.core.failed("opening new runs"))
    }

    async fn find_jobs(&self, selector: &JobSelector, limit: u32) -> Result<Vec<(BatchId, JobId)>> {
        detail::find_jobs(&self.core, selector, limit).await.map_err(self.core.failed("looking for a job"))
    }

    async fn job(&self, batch: BatchId, job: JobId) -> Result<Option<JobDetail>> {
        detail::job(&self.core, batch, job).await.map_err(self.core.failed("reading a job"))
    }

    async fn jobs(
        &self,
        batch: BatchId,
        statuses: Option<&[Status]>,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobLine>> {
        detail::jobs(&self.core, batch, statuses, after, limit).await.map_err(self.core.failed("listing jobs"))
    }

    async fn history(&self, scope: &HistoryScope, limit: u32) -> Result<Vec<PastRun>> {
        history::history(&self.core, scope, limit).await.map_err(self.core.failed("reading the history"))
    }

    async fn resume(&self, name: Option<&str>) -> Result<Vec<DeploymentReport>> {
        worker::resume(&self.core, name).await.map_err(self.core.failed("asking workers to look again"))
    }

    async fn ended_before(&self, time: DateTime<Utc>, limit: u32) -> Result<Vec<Batch>> {
        prune::ended_before(&self.core, time, limit).await.map_err(self.core.failed("reading ended batches"))
    }

    async fn forget(&self, batch: BatchId, limit: u32) -> Result<Forgotten> {
        prune::forget(&self.core, batch, limit).await.map_err(self.core.failed("deleting an ended batch"))
    }

    async fn strip(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Stripped> {
        prune::strip(&self.core, batch, after, limit).await.map_err(self.core.failed("emptying bodies"))
    }

    async fn forget_project(&self, project: &str) -> Result<u64> {
        prune::forget_project(&self.core, project).await.map_err(self.core.failed("deleting a project"))
    }

    async fn drop_empty_partitions(&self, _day: PartDay) -> Result<Vec<DroppedPartition>> {
        // Nothing is partitioned here.
        Ok(Vec::new())
    }

    async fn register(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
        worker::register(&self.core, worker, ttl).await.map_err(self.core.failed("registering the worker"))
    }

    async fn renew(
        &self,
        owner: OwnerId,
        ttl: Duration,
        in_flight: u32,
        deployments: &[DeploymentReport],
    ) -> Result<Renewal> {
        let renewed = worker::renew(&self.core, owner, ttl, in_flight, deployments).await;
        renewed.map_err(self.core.failed("renewing the worker's lease"))
    }

    async fn deregister(&self, owner: OwnerId) -> Result<()> {
        worker::deregister(&self.core, owner).await.map_err(self.core.failed("deregistering the worker"))
    }

    async fn lease_quota(&self, owner: OwnerId, asks: &[Ask]) -> Result<Vec<Grant>> {
        quota::lease(&self.core, owner, asks).await.map_err(self.core.failed("leasing rate limits"))
    }

    async fn set_limits(&self, account: &str, limits: Option<Limits>, by: &str) -> Result<()> {
        quota::set(&self.core, account, limits, by).await.map_err(self.core.failed("setting limits"))
    }

    async fn standings(&self) -> Result<Vec<Standing>> {
        quota::standings(&self.core).await.map_err(self.core.failed("reading limits"))
    }

    async fn admit(&self, owner: OwnerId, arrivals: Vec<Arrival>) -> Result<Vec<Verdict>> {
        admit::admit(&self.core, self.cache, owner, arrivals).await.map_err(self.core.failed("admitting jobs"))
    }

    async fn calling(&self, owner: OwnerId, job: JobId, bound: Option<i64>) -> Result<bool> {
        admit::calling(&self.core, owner, job, bound).await.map_err(self.core.failed("saying that a job is called"))
    }

    async fn flush(&self, owner: OwnerId, settlements: &[Settlement]) -> Result<Flushed> {
        let flushed = flush::flush_splitting(&self.core, self.cache, owner, settlements).await;
        let flushed = flushed.map_err(self.core.failed("writing results"))?;
        self.core.hints.tell();
        Ok(flushed)
    }

    async fn keep(&self, owner: OwnerId, ttl: Duration) -> Result<Keepership> {
        keeper::keep(&self.core, owner, ttl).await.map_err(self.core.failed("taking the keeper's lease"))
    }

    async fn bury(&self, max_deaths: u32, limit: u32) -> Result<Burial> {
        let burial = keeper::bury(&self.core, max_deaths, limit).await;
        let burial = burial.map_err(self.core.failed("taking over from dead workers"))?;
        if burial.poisoned > 0 {
            self.core.hints.tell();
        }
        Ok(burial)
    }

    async fn due(&self, limit: u32) -> Result<Vec<Due>> {
        keeper::due(&self.core, limit).await.map_err(self.core.failed("reading due runs"))
    }

    async fn mark_queued(&self, due: &[Due]) -> Result<()> {
        keeper::mark_queued(&self.core, due).await.map_err(self.core.failed("marking runs as queued"))
    }

    async fn unpublished(&self, limit: u32) -> Result<Option<Unpublished>> {
        let found = keeper::unpublished(&self.core, limit).await;
        found.map_err(self.core.failed("looking for jobs of vanished producers"))
    }

    async fn close_cancelled(&self, limit: u32) -> Result<u64> {
        let looked_at = end::close_cancelled(&self.core, limit).await;
        let looked_at = looked_at.map_err(self.core.failed("closing a cancelled batch"))?;
        if looked_at > 0 {
            self.core.hints.tell();
        }
        Ok(looked_at)
    }

    async fn close_expired(&self, limit: u32) -> Result<u64> {
        let looked_at = end::close_expired(&self.core, limit).await;
        let looked_at = looked_at.map_err(self.core.failed("closing expired jobs"))?;
        if looked_at > 0 {
            self.core.hints.tell();
        }
        Ok(looked_at)
    }

    async fn bury_letter(&self, letter: &DeadLetter) -> Result<()> {
        letter::bury(&self.core, letter).await.map_err(self.core.failed("keeping a dead letter"))?;
        self.core.hints.tell();
        Ok(())
    }

    async fn ensure_partitions(&self, _today: PartDay) -> Result<()> {
        // Nothing is partitioned here.
        Ok(())
    }

    async fn unfinished(
        &self,
        batch: BatchId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<(Vec<JobRef>, Option<JobId>)> {
        let found = keeper::unfinished(&self.core, batch, after, limit).await;
        found.map_err(self.core.failed("looking for unfinished jobs"))
    }

    async fn requeue(&self, batch: BatchId) -> Result<u64> {
        keeper::requeue(&self.core, batch).await.map_err(self.core.failed("making runs due again"))
    }
}
