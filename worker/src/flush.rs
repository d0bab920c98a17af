//! The flusher: gathers what jobs came to and commits it in groups.
//!
//! A job keeps its place in the window until its group is committed, so what waits here is bounded by the windows. A store
//! that is away is waited for; nothing is dropped. If the process dies, the live rows still say that it held the jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_common::failpoint;
use gristmill_common::id::OwnerId;
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{Error, Settlement, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::Budgets;
use crate::health::Health;
use crate::metrics::Counts;
use crate::slot::Slots;
use crate::trace::Recorder;
use crate::window::Place;

/// Most settlements in one transaction.
const GROUP: usize = 500;
/// Bytes of answers after which a group is full: one statement carries them all.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// How long the first settlement of a group waits for others.
const LINGER: Duration = Duration::from_millis(40);
/// Transactions under way at once.
const AT_ONCE: usize = 2;

/// A settlement with the place in the window that it frees.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) settlement: Settlement,
    pub(crate) place: Place,
}

/// Commits settlements until all senders are gone, then returns once the last group is committed. `abort` ends it at once.
/// `uncommitted` are the calls more that may start before a commit.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    owner: OwnerId,
    (health, counts): (Arc<Health>, Arc<Counts>),
    (budgets, recorder): (Arc<Budgets>, Recorder),
    mut settled: mpsc::UnboundedReceiver<Settled>,
    uncommitted: Slots,
    abort: CancellationToken,
) {
    let flushes = TaskTracker::new();
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(first) = settled.recv().await {
        let mut bytes = first.settlement.weight();
        let mut settlements = vec![first.settlement];
        let mut freed = vec![first.place];
        let linger = tokio::time::sleep(LINGER);
        let slot = Arc::clone(&at_once).acquire_owned();
        tokio::pin!(linger, slot);
        let (mut lingered, mut more) = (false, true);
        // While all transactions are under way the group goes on growing.
        let slot = loop {
            let room = more && settlements.len() < GROUP && bytes < GROUP_BYTES;
            // No company is waited for where no call can start before a commit.
            let ready = lingered || !room || uncommitted.free() == 0;
            tokio::select! {
                biased;
                next = settled.recv(), if room => match next {
                    Some(next) => {
                        bytes += next.settlement.weight();
                        settlements.push(next.settlement);
                        freed.push(next.place);
                    }
                    None => more = false,
                },
                () = &mut linger, if !lingered => lingered = true,
                slot = &mut slot, if ready => break slot.ok(),
                () = abort.cancelled() => return,
            }
        };
        let (store, health, counts) = (Arc::clone(&store), Arc::clone(&health), Arc::clone(&counts));
        let (abort, budgets, recorder) = (abort.clone(), Arc::clone(&budgets), recorder.clone());
        flushes.spawn(async move {
            let committed = commit(&*store, owner, (&health, &counts), &settlements, &abort).await;
            if committed {
                recorder.committed(settlements.iter().zip(freed.iter().map(Place::stay)));
            }
            settlements.iter().for_each(|settlement| budgets.settled(settlement));
            drop(freed);
            drop(slot);
        });
    }
    flushes.close();
    flushes.wait().await;
}

/// Writes a group; tells whether it was written, and not given up.
async fn commit(
    store: &dyn Store,
    owner: OwnerId,
    (health, counts): (&Health, &Counts),
    settlements: &[Settlement],
    abort: &CancellationToken,
) -> bool {
    failpoint::pass("worker.before_flush");
    let began = Instant::now();
    // Whatever the store says, results are kept until it takes them: they were paid for.
    let writing = until_ok(
        Schedule::RECONNECT,
        abort,
        || health.watch("writing results", store.flush(owner, settlements)),
        |_| true,
        |error: &Error, failures| {
            counts.flush_failed();
            if failures == 1 || (!error.is_transient() && failures % 60 == 0) {
                tracing::warn!(%error, results = settlements.len(), "results not written yet, trying again");
            }
        },
    );
    let flushed = abort.run_until_cancelled(writing).await.flatten();
    failpoint::pass("worker.after_flush");
    match &flushed {
        Some(Ok(flushed)) => counts.flushed(settlements, *flushed, began.elapsed()),
        Some(Err(_)) | None => counts.given_up(settlements.len()),
    }
    let committed = matches!(flushed, Some(Ok(_)));
    match flushed {
        Some(Ok(flushed)) if flushed.lost > 0 => {
            tracing::warn!(lost = flushed.lost, "results of runs that others hold now were not written");
        }
        Some(Ok(flushed)) => tracing::trace!(results = flushed.results, waiting = flushed.waiting, "flushed"),
        Some(Err(_)) | None => {}
    }
    committed
}
