//! Notifications that results may have been committed: at most one in 50 ms from a process, in a transaction of its own.
//!
//! `NOTIFY` takes a lock over the whole cluster from before the commit until after it, so it never rides on a commit that
//! matters. A lost notification costs a reader one poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::PATIENCE;

const CHANNEL: &str = "gristmill_results";
const QUIET: Duration = Duration::from_millis(50);

const NOTIFY: &str = "-- hint that results were committed
SELECT pg_notify('gristmill_results', '')";

/// Sends hints, and hears those of other processes once somebody asks for them.
#[derive(Debug)]
pub(super) struct Hints {
    heard: watch::Sender<u64>,
    dirty: Arc<Notify>,
    listening: AtomicBool,
    cold: PgPool,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Hints {
    pub(super) fn new(cold: PgPool, hot: PgPool, stop: CancellationToken, tasks: TaskTracker) -> Self {
        let dirty = Arc::new(Notify::new());
        tasks.spawn(send(hot, Arc::clone(&dirty), stop.clone()));
        Self { heard: watch::Sender::new(0), dirty, listening: AtomicBool::new(false), cold, stop, tasks }
    }

    /// Says that something was committed.
    pub(super) fn tell(&self) {
        self.dirty.notify_one();
        self.heard.send_modify(|count| *count += 1);
    }

    /// Returns the counter, and starts to listen if nobody did before.
    pub(super) fn receiver(&self) -> watch::Receiver<u64> {
        if !self.listening.swap(true, Ordering::SeqCst) {
            self.tasks.spawn(listen(self.cold.clone(), self.heard.clone(), self.stop.clone()));
        }
        self.heard.subscribe()
    }
}

async fn send(pool: PgPool, dirty: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = dirty.notified() => {}
        }
        match tokio::time::timeout(PATIENCE, sqlx::query(NOTIFY).execute(&pool)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "hint not sent"),
            Err(_) => tracing::debug!("hint not sent in time"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(QUIET) => {}
        }
    }
}

async fn listen(pool: PgPool, heard: watch::Sender<u64>, stop: CancellationToken) {
    loop {
        let hear = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            loop {
                // `None` is a reconnection, in which notifications may have been lost: a hint as well.
                listener.try_recv().await?;
                heard.send_modify(|count| *count += 1);
            }
        };
        let outcome: Result<(), sqlx::Error> = tokio::select! {
            () = stop.cancelled() => return,
            outcome = hear => outcome,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "listening for results failed");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
