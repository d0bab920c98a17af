//! The one connection that writes.
//!
//! All writes of the process, the store's and the embedded broker's, take turns on it, each in a transaction of its own that
//! takes the database's write lock at once. Acknowledgements of messages have no transaction: they ride on the next one, or
//! on one of their own soon after. A transaction whose future is dropped is rolled back before the next begins.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::SqliteConnection;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use super::error::Done;
use super::group::{Group, nothing};

// IMMEDIATE takes the write lock now: a transaction that reads first and writes later may find that it cannot.
const BEGIN: &str = "-- begin
BEGIN IMMEDIATE";

const COMMIT: &str = "-- commit
COMMIT";

const ROLLBACK: &str = "-- roll back
ROLLBACK";

static FORGET: Group = Group::new("-- acknowledged messages\nDELETE FROM queue WHERE seq IN (VALUES ", 1, ")");

static FORGET_ASIDE: Group =
    Group::new("-- messages that were put aside and are taken care of\nDELETE FROM aside WHERE id IN (VALUES ", 1, ")");

/// What is acknowledged and not yet deleted.
#[derive(Debug, Default)]
struct Acked {
    messages: Vec<i64>,
    asides: Vec<i64>,
}

impl Acked {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.asides.is_empty()
    }
}

/// The connection, and whether a transaction is open on it.
#[derive(Debug)]
struct Line {
    connection: SqliteConnection,
    open: bool,
}

/// The writer of one database.
#[derive(Debug)]
pub(super) struct Writer {
    line: Arc<AsyncMutex<Line>>,
    pending: Mutex<Acked>,
    acked: Notify,
    tasks: TaskTracker,
}

impl Writer {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self {
            line: Arc::new(AsyncMutex::new(Line { connection, open: false })),
            pending: Mutex::default(),
            acked: Notify::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Waits for its turn and begins a transaction.
    pub(super) async fn begin(self: &Arc<Self>) -> Done<Work> {
        let line = Arc::clone(&self.line).lock_owned().await;
        let mut work = Work { line: Some(line), writer: Arc::clone(self) };
        let line = work.line();
        if line.open {
            line.roll_back().await;
        }
        line.open = true;
        sqlx::query(BEGIN).execute(&mut line.connection).await?;
        Ok(work)
    }

    /// Lends the connection without a transaction.
    pub(super) async fn lend(self: &Arc<Self>) -> Work {
        let line = Arc::clone(&self.line).lock_owned().await;
        let mut work = Work { line: Some(line), writer: Arc::clone(self) };
        if work.line().open {
            work.line().roll_back().await;
        }
        work
    }

    /// Notes that a message is taken care of; never blocks. It is gone with the next commit.
    pub(super) fn ack(&self, seq: i64) {
        self.pending().messages.push(seq);
        self.acked.notify_one();
    }

    /// Notes that a message which was put aside is taken care of; never blocks. It is gone with the next commit.
    pub(super) fn ack_aside(&self, id: i64) {
        self.pending().asides.push(id);
        self.acked.notify_one();
    }

    /// Waits until there is something to acknowledge.
    pub(super) async fn acked(&self) {
        while self.pending().is_empty() {
            self.acked.notified().await;
        }
    }

    /// Commits what is acknowledged, if another commit has not done so meanwhile.
    pub(super) async fn flush_acks(self: &Arc<Self>) -> Done<()> {
        if self.pending().is_empty() {
            // They may be riding on a commit that is under way.
            drop(self.lend().await);
            return Ok(());
        }
        self.begin().await?.commit().await
    }

    fn pending(&self) -> MutexGuard<'_, Acked> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    async fn roll_back(&mut self) {
        // It fails where SQLite has rolled back by itself, which some errors make it do.
        let _ = sqlx::query(ROLLBACK).execute(&mut self.connection).await;
        self.open = false;
    }
}

/// A transaction under way; dropped, it is rolled back.
#[derive(Debug)]
pub(super) struct Work {
    line: Option<OwnedMutexGuard<Line>>,
    writer: Arc<Writer>,
}

impl Work {
    fn line(&mut self) -> &mut Line {
        self.line.as_mut().expect("it is taken only by commit and drop")
    }

    /// Returns the connection.
    pub(super) fn tx(&mut self) -> &mut SqliteConnection {
        &mut self.line().connection
    }

    /// Commits, and with it what was acknowledged meanwhile.
    pub(super) async fn commit(mut self) -> Done<()> {
        let acks = Riding { taken: std::mem::take(&mut *self.writer.pending()), writer: Arc::clone(&self.writer) };
        if !acks.taken.is_empty() {
            FORGET.execute(self.tx(), &acks.taken.messages, nothing, |values, seq| values.put(*seq)).await?;
            FORGET_ASIDE.execute(self.tx(), &acks.taken.asides, nothing, |values, id| values.put(*id)).await?;
        }
        let line = self.line();
        sqlx::query(COMMIT).execute(&mut line.connection).await?;
        line.open = false;
        acks.committed();
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        if !line.open {
            return;
        }
        // Without a runtime the next transaction rolls back first.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let roll_back = async move { line.roll_back().await };
            self.writer.tasks.spawn_on(roll_back, &runtime);
        }
    }
}

/// Acknowledgements in a transaction; dropped before it is committed, they wait for another.
#[derive(Debug)]
struct Riding {
    taken: Acked,
    writer: Arc<Writer>,
}

impl Riding {
    fn committed(mut self) {
        self.taken = Acked::default();
    }
}

impl Drop for Riding {
    fn drop(&mut self) {
        if !self.taken.is_empty() {
            let taken = std::mem::take(&mut self.taken);
            let mut pending = self.writer.pending();
            pending.messages.extend(taken.messages);
            pending.asides.extend(taken.asides);
        }
    }
}
