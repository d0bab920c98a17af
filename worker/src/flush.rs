//! The flusher: gathers what jobs came to and commits it in groups.
//!
//! A job keeps its place in the window until its group is committed, so what waits here is bounded by the windows. A store
//! that is away is waited for; nothing is dropped. If the process dies, the live rows still say that it held the jobs.

use std::sync::Arc;
use std::time::Duration;

use gristmill_common::failpoint;
use gristmill_common::id::OwnerId;
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{End, Error, Settlement, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::window::Place;

/// Most settlements in one transaction.
const GROUP: usize = 500;
/// Bytes of answers after which a group is full: one statement carries them all.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// How long the first settlement of a group waits for others.
const LINGER: Duration = Duration::from_millis(40);
/// Transactions under way at once.
const AT_ONCE: usize = 2;

/// A settlement with the place in the window, and the turn of a last chance, that it frees.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) settlement: Settlement,
    pub(crate) place: Place,
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

/// Commits settlements until all senders are gone, then returns once the last group is committed. `abort` ends it at once.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    owner: OwnerId,
    mut settled: mpsc::UnboundedReceiver<Settled>,
    abort: CancellationToken,
) {
    let flushes = TaskTracker::new();
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(first) = settled.recv().await {
        let mut bytes = weight(&first.settlement);
        let mut settlements = vec![first.settlement];
        let mut freed = vec![(first.place, first.turn)];
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        // While both transactions are under way the group goes on growing.
        let mut slot = None;
        loop {
            tokio::select! {
                biased;
                next = settled.recv(), if settlements.len() < GROUP && bytes < GROUP_BYTES => match next {
                    Some(next) => {
                        bytes += weight(&next.settlement);
                        settlements.push(next.settlement);
                        freed.push((next.place, next.turn));
                        if settlements.len() < GROUP && bytes < GROUP_BYTES {
                            continue;
                        }
                        slot = Arc::clone(&at_once).acquire_owned().await.ok();
                        break;
                    }
                    None => break,
                },
                () = &mut linger => {}
                () = abort.cancelled() => return,
            }
            slot = Arc::clone(&at_once).acquire_owned().await.ok();
            break;
        }
        if slot.is_none() {
            slot = Arc::clone(&at_once).acquire_owned().await.ok();
        }
        let (store, abort) = (Arc::clone(&store), abort.clone());
        flushes.spawn(async move {
            commit(&*store, owner, &settlements, &abort).await;
            drop(freed);
            drop(slot);
        });
    }
    flushes.close();
    flushes.wait().await;
}

/// Returns the bytes of a settlement's answer.
fn weight(settlement: &Settlement) -> usize {
    match &settlement.end {
        End::Result(result) => {
            result.response.as_ref().map_or(0, bytes::Bytes::len) + result.output_text.as_ref().map_or(0, String::len)
        }
        End::Wake(_) => 0,
    }
}

async fn commit(store: &dyn Store, owner: OwnerId, settlements: &[Settlement], abort: &CancellationToken) {
    failpoint::pass("worker.before_flush");
    // Whatever the store says, results are kept until it takes them: they were paid for.
    let flushed = until_ok(
        Schedule::RECONNECT,
        abort,
        || store.flush(owner, settlements),
        |_| true,
        |error: &Error, failures| {
            if failures == 1 || (!error.is_transient() && failures % 60 == 0) {
                tracing::warn!(%error, results = settlements.len(), "results not written yet, trying again");
            }
        },
    )
    .await;
    failpoint::pass("worker.after_flush");
    match flushed {
        Some(Ok(flushed)) if flushed.lost > 0 => {
            tracing::warn!(lost = flushed.lost, "results of runs that others hold now were not written");
        }
        Some(Ok(flushed)) => tracing::trace!(results = flushed.results, waiting = flushed.waiting, "flushed"),
        Some(Err(_)) | None => {}
    }
}
