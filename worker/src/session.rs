//! What the tasks of one session share: the lease, the clock, the way to the flusher.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, Utc};
use gristmill_common::broker::Broker;
use gristmill_common::clock::Clock;
use gristmill_common::store::{Settlement, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::budget::Budgets;
use crate::cost::Costs;
use crate::flush::Settled;
use crate::health::Health;
use crate::hooks::Hooks;
use crate::lease::Lease;
use crate::line::Line;
use crate::metrics::Counts;
use crate::route::Routes;
use crate::slot::{Slot, Slots};
use crate::trace::Recorder;
use crate::window::Place;

/// One session of a worker.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) health: Arc<Health>,
    /// Cancelled when no new call may start because the process goes.
    pub(crate) drain: CancellationToken,
    /// Cancelled when everything ends at once.
    pub(crate) abort: CancellationToken,
    pub(crate) hooks: Hooks,
    pub(crate) counts: Arc<Counts>,
    pub(crate) num_retries: u16,
    /// Owners that may die on a job.
    pub(crate) max_deaths: u32,
    pub(crate) settled: mpsc::UnboundedSender<Settled>,
    pub(crate) line: Arc<Line>,
    pub(crate) routes: Arc<Routes>,
    /// One call at a time of jobs that one more death would end: then it is known which job it was.
    pub(crate) last_chances: Slots,
    pub(crate) in_flight: Arc<AtomicU32>,
    pub(crate) costs: Arc<Costs>,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) recorder: Recorder,
}

/// Counts a call while it lives.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Waits for the turn of a job that one more death would end; other jobs need none. To be kept until the job's settlement
    /// is committed.
    pub(crate) async fn last_chance(&self, deaths: u32) -> Option<Slot> {
        if deaths == 0 || deaths + 1 < self.max_deaths {
            return None;
        }
        self.last_chances.wait().await
    }

    /// Counts a call as in flight until the value is dropped.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Waits for a job's deadline; for ever if it has none.
    pub(crate) async fn deadline(&self, deadline: Option<DateTime<Utc>>) {
        match deadline {
            Some(deadline) => {
                let left = (deadline - self.clock.now()).to_std().unwrap_or_default();
                tokio::time::sleep(left).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Hands a settlement to the flusher, which frees the place once it is committed.
    pub(crate) fn settle(&self, settlement: Settlement, place: Place) {
        // Fails only when the flusher was aborted; then the live row still holds the job.
        self.counts.settled();
        if self.settled.send(Settled { settlement, place }).is_err() {
            self.counts.given_up(1);
        }
    }
}
