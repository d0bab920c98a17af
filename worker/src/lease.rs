//! One session of a worker: an owner id, its lease, and which batches are cancelled.
//!
//! The lease lasts from the moment before a renewal was sent, so this process never believes in it longer than the store
//! does. Without a valid lease no call starts. A lease that was lost ends the session: the next one has a fresh owner.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gristmill_common::id::{BatchId, OwnerId};
use gristmill_common::store::{Renewal, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gate::Gate;
use crate::metrics::Counts;

/// The lease of one owner.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) owner: OwnerId,
    /// Cancelled when the keeper declared this owner dead.
    pub(crate) lost: CancellationToken,
    valid_until: watch::Sender<Instant>,
    contact: Mutex<Contact>,
    cancelled: Mutex<Arc<HashSet<BatchId>>>,
}

/// When the store was asked and answered last.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    /// When the last renewal was begun.
    pub(crate) asked: Instant,
    /// When the store answered last.
    pub(crate) answered: Instant,
    /// What came instead of an answer since.
    pub(crate) failure: Option<String>,
}

impl Lease {
    /// Makes the lease of an owner that was registered just after `sent`.
    pub(crate) fn new(owner: OwnerId, sent: Instant, ttl: Duration) -> Self {
        Self {
            owner,
            lost: CancellationToken::new(),
            valid_until: watch::Sender::new(sent + ttl),
            contact: Mutex::new(Contact { asked: sent, answered: sent, failure: None }),
            cancelled: Mutex::default(),
        }
    }

    /// Waits until the lease holds; returns false when it is lost for good.
    pub(crate) async fn holds(&self) -> bool {
        if self.lost.is_cancelled() {
            return false;
        }
        if Instant::now() < *self.valid_until.borrow() {
            return true;
        }
        let mut valid_until = self.valid_until.subscribe();
        tokio::select! {
            () = self.lost.cancelled() => false,
            held = valid_until.wait_for(|until| Instant::now() < *until) => held.is_ok(),
        }
    }

    /// Returns how long ago the lease ran out; `None` while it holds.
    pub(crate) fn over_for(&self) -> Option<Duration> {
        let until = *self.valid_until.borrow();
        Instant::now().checked_duration_since(until)
    }

    /// Returns how long the lease holds yet; zero once it ran out.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.valid_until.borrow().saturating_duration_since(now)
    }

    /// Returns when the store was heard of last.
    pub(crate) fn contact(&self) -> Contact {
        self.contact_mut().clone()
    }

    fn contact_mut(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, failure: Option<String>) {
        let mut contact = self.contact_mut();
        if failure.is_none() {
            contact.answered = Instant::now();
        }
        contact.failure = failure;
    }

    /// Tells whether a batch was cancelled, as of the last renewal.
    pub(crate) fn is_cancelled(&self, batch: BatchId) -> bool {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).contains(&batch)
    }

    /// Renews the lease in intervals of `every` until `stop`, or until it is lost.
    pub(crate) async fn keep(
        &self,
        store: &dyn Store,
        ttl: Duration,
        every: Duration,
        gates: &[Arc<Gate>],
        (in_flight, counts): (impl Fn() -> u32, &Counts),
        stop: &CancellationToken,
    ) {
        let mut failures = 0u32;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let reports: Vec<_> = gates.iter().map(|gate| gate.report()).collect();
            let sent = Instant::now();
            self.contact_mut().asked = sent;
            // A server that is gone without a word answers never.
            let renewing = tokio::time::timeout(ttl, store.renew(self.owner, ttl, in_flight(), &reports));
            let Some(renewal) = stop.run_until_cancelled(renewing).await else { return };
            let Ok(renewal) = renewal else {
                tracing::warn!("the store does not answer, no call starts until it does");
                self.heard(Some("it does not answer".to_owned()));
                failures += 1;
                continue;
            };
            self.heard(renewal.as_ref().err().map(ToString::to_string));
            match renewal {
                Ok(Renewal::Alive { cancelled, resumed }) => {
                    gates
                        .iter()
                        .filter(|gate| resumed.iter().any(|name| **name == *gate.deployment.name))
                        .for_each(|gate| gate.look_again());
                    *self.cancelled.lock().unwrap_or_else(PoisonError::into_inner) =
                        Arc::new(cancelled.into_iter().collect());
                    self.valid_until.send_replace(sent + ttl);
                    if failures > 0 {
                        tracing::info!("the store answers again");
                        counts.store_answers_again();
                    }
                    failures = 0;
                }
                Ok(Renewal::Lost) => {
                    tracing::warn!(owner = %self.owner, "lease lost, starting over with a new one");
                    self.lost.cancel();
                    return;
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%error, "lease not renewed, no call starts once it has run out");
                    }
                }
            }
        }
    }
}
