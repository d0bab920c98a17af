//! The store on Postgres.
//!
//! Owns the SQL of every transaction, the pools, the notifications. Two pools: `hot` for the transactions that every job
//! passes (its sessions forbid the plans that a planner with stale statistics falls into), `cold` for what people ask.
//! If the process dies inside a method, the transaction rolls back; if it dies after, the rows say what happened.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use sqlx::postgres::PgPool;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{
    Arrival, BatchSelector, Burial, Chunk, Cursor, DeadLetter, DeploymentReport, DroppedPartition, Due, Error,
    ErrorCount, Flushed, Forgotten, HistoryScope, JobDetail, JobId, JobLine, JobSelector, Keepership, Opened, Page,
    PastRun, Progress, Recorded, Renewal, Result, Sealed, Settlement, Store, Stripped, Unpublished, Verdict, Wait,
    WorkerInfo, WorkerRow,
};
use crate::batch::{Batch, NewBatch};
use crate::cache::CacheRules;
use crate::id::{BatchId, OwnerId, PartDay};
use crate::job::{Identity, JobRef};
use crate::outcome::Status;
use crate::quota::{Ask, Grant, Limits, Standing};
use crate::retry::Schedule;

mod admit;
mod books;
mod budget;
mod cache;
mod copy;
mod cost;
mod detail;
mod flush;
mod hint;
mod history;
mod keeper;
mod letter;
mod migrate;
mod open;
mod prune;
mod quota;
mod read;
mod row;
mod submit;
mod tally;
mod worker;

/// How long a call may go without an answer: a little longer than a worker's lease (15 s), after which nothing depends on it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same for calls that may have much to do or to read.
const LONG_PATIENCE: Duration = Duration::from_secs(120);
/// What a request that is read by reference is taken to weigh.
const REFERENCE_BYTES: usize = 1024 * 1024;

/// The store on Postgres. Cheap to share by `Arc`.
#[derive(Debug)]
pub struct PostgresStore {
    hot: PgPool,
    cold: PgPool,
    patience: Duration,
    cache: CacheRules,
    hints: hint::Hints,
    _stop: DropGuard,
}

impl PostgresStore {
    /// Connects to the database of a `postgres:` URL; `application` shows in `pg_stat_activity`.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] with what to do when there is no server, no such database, or the password is wrong.
    pub async fn connect(url: &SecretString, application: &str) -> Result<Self> {
        let open::Pools { hot, cold } = open::pools(url, application).await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let hints = hint::Hints::new(cold.clone(), hot.clone(), stop.clone(), tasks);
        Ok(Self { hot, cold, patience: PATIENCE, cache: CacheRules::default(), hints, _stop: stop.drop_guard() })
    }

    /// Replaces how long a call may go without an answer, 20 s by default; half as long again, and the keeper ends a session that
    /// stands still.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Replaces how answers are kept.
    #[must_use]
    pub fn with_cache(self, cache: CacheRules) -> Self {
        Self { cache, ..self }
    }

    /// Waits for a call that carries some bytes: a slow line takes a second for a MiB.
    async fn timely<T>(&self, bytes: usize, call: impl Future<Output = Result<T>>) -> Result<T> {
        within((self.patience + Duration::from_secs(bytes as u64 >> 20)).min(LONG_PATIENCE), call).await
    }

    /// Returns a store behind the seam.
    pub fn shared(self) -> Arc<dyn Store> {
        Arc::new(self)
    }
}

/// Gives a call up that gets no answer: a server may be gone without a word, and then nothing else would tell.
async fn within<T>(patience: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let given_up = |_| Err(failed("waiting for its answer")(no_answer(patience)));
    tokio::time::timeout(patience, call).await.unwrap_or_else(given_up)
}

fn no_answer(within: Duration) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {within:?}")))
}

/// Turns a driver's error into the seam's: what may pass is told from what will not.
fn failed(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| {
        let Some(error) = source.as_database_error() else {
            return match source {
                sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => {
                    Error::Refused { doing, source }
                }
                source => Error::Unavailable { doing, source },
            };
        };
        let code = error.code().unwrap_or_default().into_owned();
        match code.as_str() {
            // undefined table, schema, column, function: the schema is not there or not of this version
            "42P01" | "3F000" | "42703" | "42883" => {
                Error::Setup("the database has no schema of this version; run `gristmill migrate`".to_owned())
            }
            "53100" => Error::Full { doing, place: "PostgreSQL".to_owned(), source },
            "42501" => Error::Setup(format!("the database user may not do this: {}", error.message())),
            // 22 data, 23 integrity, 54 too large: the same row would be refused again. See the table of codes,
            // https://www.postgresql.org/docs/15/errcodes-appendix.html.
            _ if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => Error::Refused { doing, source },
            _ => Error::Unavailable { doing, source },
        }
    }
}

/// Repeats a transaction that lost a deadlock or a serialization race; others never see these two.
macro_rules! again {
    ($attempt:expr) => {{
        let mut tries = 0;
        loop {
            match $attempt.await {
                Err(Error::Unavailable { source, .. })
                    if tries < 5
                        && source
                            .as_database_error()
                            .and_then(|error| error.code())
                            .is_some_and(|code| code == "40P01" || code == "40001") =>
                {
                    tries += 1;
                }
                done => break done,
            }
        }
    }};
}
pub(crate) use again;

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self) -> Result<Vec<i64>> {
        migrate::migrate(&self.cold).await
    }

    async fn check_schema(&self) -> Result<()> {
        // The first thing that a process does: a server that restarts just then must not end it.
        let mut tries = 0;
        loop {
            match self.timely(0, migrate::check(&self.cold)).await {
                Err(error) if error.is_transient() && tries < 10 => {
                    tries += 1;
                    tokio::time::sleep(Schedule::RECONNECT.delay(tries)).await;
                }
                done => return done,
            }
        }
    }

    async fn open_batch(&self, batch: &NewBatch, producer_ttl: Duration) -> Result<Opened> {
        self.timely(0, submit::open_batch(&self.hot, batch, producer_ttl)).await
    }

    async fn record(&self, chunk: Chunk<'_>) -> Result<Recorded> {
        let bytes = chunk.jobs.iter().map(|job| job.body.len()).sum();
        self.timely(bytes, async { again!(submit::record(&self.hot, &chunk)) }).await
    }

    async fn mark_published(&self, batch: BatchId, through: u64) -> Result<()> {
        self.timely(0, submit::mark_published(&self.hot, batch, through)).await
    }

    async fn defer(&self, jobs: &[JobRef], after: Duration, reason: &str) -> Result<()> {
        self.timely(0, submit::defer(&self.hot, jobs, after, reason)).await
    }

    async fn seal(&self, batch: BatchId, producer: OwnerId) -> Result<Sealed> {
        let sealed = self.timely(0, submit::seal(&self.hot, batch, producer)).await?;
        self.hints.tell();
        Ok(sealed)
    }

    async fn leave(&self, batch: BatchId, producer: OwnerId) -> Result<()> {
        self.timely(0, submit::leave(&self.hot, batch, producer)).await
    }

    async fn renew_producer(&self, batch: BatchId, producer: OwnerId, ttl: Duration) -> Result<()> {
        self.timely(0, submit::renew_producer(&self.hot, batch, producer, ttl)).await
    }

    async fn identities(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, Identity)>> {
        self.timely(0, submit::identities(&self.hot, batch, after, limit)).await
    }

    async fn custom_ids(&self, batch: BatchId, jobs: &[JobId]) -> Result<Vec<String>> {
        self.timely(0, submit::custom_ids(&self.hot, batch, jobs)).await
    }

    async fn batch(&self, selector: &BatchSelector) -> Result<Option<Batch>> {
        self.timely(0, read::batch(&self.cold, selector)).await
    }

    async fn batches(&self, limit: u32) -> Result<Vec<Batch>> {
        self.timely(0, read::batches(&self.cold, limit)).await
    }

    async fn results_after(&self, batch: BatchId, cursor: Cursor, limit: u32) -> Result<Page> {
        within(LONG_PATIENCE, read::results_after(&self.hot, batch, cursor, limit)).await
    }

    async fn open_reruns(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, u32)>> {
        self.timely(0, read::open_reruns(&self.cold, batch, after, limit)).await
    }

    async fn errors(&self, batch: BatchId, limit: u32) -> Result<Vec<ErrorCount>> {
        within(LONG_PATIENCE, read::errors(&self.cold, batch, limit)).await
    }

    async fn progress(&self, batch: BatchId) -> Result<Progress> {
        within(LONG_PATIENCE, read::progress(&self.cold, batch)).await
    }

    async fn waits(&self, batch: BatchId, limit: u32) -> Result<Vec<Wait>> {
        within(LONG_PATIENCE, read::waits(&self.cold, batch, limit)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        self.timely(0, worker::workers(&self.cold)).await
    }

    async fn paused_deployments(&self) -> Result<Vec<DeploymentReport>> {
        self.timely(0, worker::paused_deployments(&self.cold)).await
    }

    fn hints(&self) -> watch::Receiver<u64> {
        self.hints.receiver()
    }

    async fn cancel(&self, batch: BatchId) -> Result<bool> {
        let open = self.timely(0, submit::cancel(&self.hot, batch)).await?;
        self.hints.tell();
        Ok(open)
    }

    async fn retry(
        &self,
        batch: BatchId,
        statuses: &[Status],
        after: Cursor,
        limit: u32,
    ) -> Result<(u64, Option<Cursor>)> {
        within(LONG_PATIENCE, async { again!(submit::retry(&self.hot, batch, statuses, after, limit)) }).await
    }

    async fn retry_jobs(&self, batch: BatchId, statuses: &[Status], jobs: &[JobId]) -> Result<u64> {
        within(LONG_PATIENCE, async { again!(submit::retry_jobs(&self.hot, batch, statuses, jobs)) }).await
    }

    async fn find_jobs(&self, selector: &JobSelector, limit: u32) -> Result<Vec<(BatchId, JobId)>> {
        within(LONG_PATIENCE, detail::find_jobs(&self.cold, selector, limit)).await
    }

    async fn job(&self, batch: BatchId, job: JobId) -> Result<Option<JobDetail>> {
        within(LONG_PATIENCE, detail::job(&self.cold, batch, job)).await
    }

    async fn jobs(
        &self,
        batch: BatchId,
        statuses: Option<&[Status]>,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobLine>> {
        within(LONG_PATIENCE, detail::jobs(&self.cold, batch, statuses, after, limit)).await
    }

    async fn history(&self, scope: &HistoryScope, limit: u32) -> Result<Vec<PastRun>> {
        within(LONG_PATIENCE, history::history(&self.cold, scope, limit)).await
    }

    async fn resume(&self, name: Option<&str>) -> Result<Vec<DeploymentReport>> {
        again!(self.timely(0, worker::resume(&self.cold, name)))
    }

    async fn ended_before(&self, time: DateTime<Utc>, limit: u32) -> Result<Vec<Batch>> {
        self.timely(0, prune::ended_before(&self.cold, time, limit)).await
    }

    async fn forget(&self, batch: BatchId, limit: u32) -> Result<Forgotten> {
        again!(within(LONG_PATIENCE, prune::forget(&self.cold, batch, limit)))
    }

    async fn strip(&self, batch: BatchId, after: Option<JobId>, limit: u32) -> Result<Stripped> {
        again!(within(LONG_PATIENCE, prune::strip(&self.cold, batch, after, limit)))
    }

    async fn forget_project(&self, project: &str) -> Result<u64> {
        again!(within(LONG_PATIENCE, prune::forget_project(&self.cold, project)))
    }

    async fn drop_empty_partitions(&self, day: PartDay) -> Result<Vec<DroppedPartition>> {
        within(LONG_PATIENCE, prune::drop_empty_partitions(&self.cold, day)).await
    }

    async fn register(&self, worker: &WorkerInfo, ttl: Duration) -> Result<()> {
        self.timely(0, worker::register(&self.hot, worker, ttl)).await
    }

    async fn renew(
        &self,
        owner: OwnerId,
        ttl: Duration,
        in_flight: u32,
        deployments: &[DeploymentReport],
    ) -> Result<Renewal> {
        self.timely(0, worker::renew(&self.hot, owner, ttl, in_flight, deployments)).await
    }

    async fn deregister(&self, owner: OwnerId) -> Result<()> {
        self.timely(0, worker::deregister(&self.hot, owner)).await
    }

    async fn lease_quota(&self, owner: OwnerId, asks: &[Ask]) -> Result<Vec<Grant>> {
        self.timely(0, async { again!(quota::lease(&self.hot, owner, asks)) }).await
    }

    async fn set_limits(&self, account: &str, limits: Option<Limits>, by: &str) -> Result<()> {
        self.timely(0, quota::set(&self.cold, account, limits, by)).await
    }

    async fn standings(&self) -> Result<Vec<Standing>> {
        self.timely(0, quota::standings(&self.cold)).await
    }

    async fn admit(&self, owner: OwnerId, arrivals: Vec<Arrival>) -> Result<Vec<Verdict>> {
        let to_read = arrivals.iter().filter(|arrival| arrival.request.is_none()).count() * REFERENCE_BYTES;
        self.timely(to_read, async { again!(admit::admit(&self.hot, self.cache, owner, &arrivals)) }).await
    }

    async fn calling(&self, owner: OwnerId, job: JobId, bound: Option<i64>) -> Result<bool> {
        self.timely(0, admit::calling(&self.hot, owner, job, bound)).await
    }

    async fn flush(&self, owner: OwnerId, settlements: &[Settlement]) -> Result<Flushed> {
        let bytes = settlements.iter().map(Settlement::weight).sum();
        let flushed = self.timely(bytes, flush::flush_splitting(&self.hot, self.cache, owner, settlements)).await?;
        self.hints.tell();
        Ok(flushed)
    }

    async fn keep(&self, owner: OwnerId, ttl: Duration) -> Result<Keepership> {
        self.timely(0, keeper::keep(&self.hot, owner, ttl)).await
    }

    async fn bury(&self, max_deaths: u32, limit: u32) -> Result<Burial> {
        // Whoever lives gives a call up before that: 2 minutes, as the longest may take.
        let stalled = self.patience * 6;
        let burying = async { again!(keeper::bury(&self.cold, stalled, max_deaths, limit)) };
        let burial = within(LONG_PATIENCE, burying).await?;
        if burial.poisoned > 0 {
            self.hints.tell();
        }
        Ok(burial)
    }

    async fn due(&self, limit: u32) -> Result<Vec<Due>> {
        self.timely(0, keeper::due(&self.hot, limit)).await
    }

    async fn mark_queued(&self, due: &[Due]) -> Result<()> {
        self.timely(0, async { again!(keeper::mark_queued(&self.hot, due)) }).await
    }

    async fn unpublished(&self, limit: u32) -> Result<Option<Unpublished>> {
        self.timely(0, keeper::unpublished(&self.hot, limit)).await
    }

    async fn close_cancelled(&self, limit: u32) -> Result<u64> {
        let closed = self.timely(0, async { again!(keeper::close_cancelled(&self.hot, limit)) }).await?;
        if closed > 0 {
            self.hints.tell();
        }
        Ok(closed)
    }

    async fn close_expired(&self, limit: u32) -> Result<u64> {
        let closed = self.timely(0, async { again!(keeper::close_expired(&self.hot, limit)) }).await?;
        if closed > 0 {
            self.hints.tell();
        }
        Ok(closed)
    }

    async fn bury_letter(&self, letter: &DeadLetter) -> Result<()> {
        self.timely(0, async { again!(letter::bury_letter(&self.hot, letter)) }).await?;
        self.hints.tell();
        Ok(())
    }

    async fn ensure_partitions(&self, today: PartDay) -> Result<()> {
        within(LONG_PATIENCE, keeper::ensure_partitions(&self.cold, today)).await
    }

    async fn unfinished(
        &self,
        batch: BatchId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<(Vec<JobRef>, Option<JobId>)> {
        self.timely(0, keeper::unfinished(&self.hot, batch, after, limit)).await
    }

    async fn requeue(&self, batch: BatchId) -> Result<u64> {
        within(LONG_PATIENCE, keeper::requeue(&self.cold, batch)).await
    }
}
