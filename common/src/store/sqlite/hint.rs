//! Hints that results may have been committed: at once for this process's commits, by polling for those of others.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::SqliteConnection;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::open;

/// How often other processes' commits are looked for while somebody waits for hints.
const POLL: Duration = Duration::from_millis(250);

// Moves when another connection has committed to the file, whichever process it is in.
const DATA_VERSION: &str = "-- has somebody committed
PRAGMA data_version";

#[derive(Debug)]
pub(super) struct Hints {
    count: watch::Sender<u64>,
    polling: Arc<AtomicBool>,
    path: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Hints {
    pub(super) fn new(path: PathBuf, stop: CancellationToken) -> Self {
        Self { count: watch::Sender::new(0), polling: Arc::default(), path, stop, tasks: TaskTracker::new() }
    }

    /// Says that something was committed.
    pub(super) fn tell(&self) {
        self.count.send_modify(|count| *count += 1);
    }

    /// Returns the counter, and looks at the file for as long as somebody holds one.
    pub(super) fn receiver(&self) -> watch::Receiver<u64> {
        let receiver = self.count.subscribe();
        if !self.polling.swap(true, Ordering::SeqCst)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (count, polling) = (self.count.clone(), Arc::clone(&self.polling));
            self.tasks.spawn_on(poll(self.path.clone(), count, polling, self.stop.clone()), &runtime);
        }
        receiver
    }
}

async fn poll(path: PathBuf, count: watch::Sender<u64>, polling: Arc<AtomicBool>, stop: CancellationToken) {
    let mut connection = None;
    let mut seen = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
        if count.receiver_count() == 0 {
            polling.store(false, Ordering::SeqCst);
            // One that subscribed just now saw the poll running and started none.
            if count.receiver_count() == 0 || polling.swap(true, Ordering::SeqCst) {
                return;
            }
        }
        match version(&path, &mut connection).await {
            Ok(version) if version != seen => {
                seen = version;
                count.send_modify(|count| *count += 1);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "looking for commits of other processes failed");
                connection = None;
            }
        }
    }
}

async fn version(path: &std::path::Path, connection: &mut Option<SqliteConnection>) -> sqlx::Result<i64> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(open::reader(path).await?),
    };
    sqlx::query_scalar(DATA_VERSION).fetch_one(connection).await
}
