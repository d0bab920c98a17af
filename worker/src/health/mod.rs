//! Whether this worker lives and is ready, for those who watch it from outside; and the server that tells them, and its metrics.
//!
//! Looks at what the tasks leave in memory, so that asking costs nothing and cannot hang; decides nothing and ends nothing.
//! *Live* means that starting the process anew would not help: an absent database or broker makes it unready, never dead,
//! since a restart would only lose answers that were paid for and wait here to be written.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gristmill_common::broker::Broker;
use tokio_util::sync::CancellationToken;

use crate::lease::Lease;

mod pulse;
mod server;

use pulse::Pulse;
pub(crate) use server::{Doors, serve};
pub use server::{Error, Served};

/// What is known of a worker's health.
#[derive(Debug)]
pub(crate) struct Health {
    broker: Arc<dyn Broker>,
    /// How long a worker's lease lasts.
    ttl: Duration,
    drain: CancellationToken,
    lease: Mutex<Option<Arc<Lease>>>,
    pulse: Pulse,
}

impl Health {
    pub(crate) fn new(broker: Arc<dyn Broker>, ttl: Duration, drain: CancellationToken) -> Self {
        Self { broker, ttl, drain, lease: Mutex::default(), pulse: Pulse::new() }
    }

    /// Takes the lease of a new session in place of the last one's.
    pub(crate) fn begin(&self, lease: Arc<Lease>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    /// Runs one step to its end, and tells of it if it has none.
    pub(crate) async fn watch<T>(&self, doing: &'static str, step: impl Future<Output = T>) -> T {
        self.pulse.watch(doing, step).await
    }

    /// Returns the broker whose messages it waits for.
    pub(crate) fn broker(&self) -> &dyn Broker {
        &*self.broker
    }

    /// Tells whether the worker was asked to stop.
    pub(crate) fn drains(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Tells whether jobs are taken and called.
    pub(crate) fn is_ready(&self) -> bool {
        self.unready().is_empty()
    }

    /// Returns the lease of the session that began last.
    pub(crate) fn lease(&self) -> Option<Arc<Lease>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says why a restart is due; empty while none is.
    fn wedged(&self) -> Vec<String> {
        let mut reasons = self.pulse.stuck();
        if let Some(lease) = self.lease().filter(|lease| !lease.lost.is_cancelled()) {
            // A renewal is given up after one lease.
            let asked = lease.contact().asked.elapsed();
            if asked > self.ttl * 4 {
                reasons.push(format!("the lease has not been renewed, nor tried to be, for {} s", asked.as_secs()));
            }
        }
        reasons
    }

    /// Says why no call can start; empty while jobs are taken and called.
    fn unready(&self) -> Vec<String> {
        let mut reasons = self.wedged();
        if self.drain.is_cancelled() {
            reasons.push("draining: running calls finish, no job is taken".to_owned());
        }
        match self.lease() {
            None => reasons.push("not registered with the database yet".to_owned()),
            Some(lease) => {
                if lease.lost.is_cancelled() {
                    reasons.push("the lease was lost, the next session has not begun".to_owned());
                } else if let Some(over) = lease.over_for() {
                    reasons.push(format!("the lease ran out {} s ago", over.as_secs()));
                }
                let contact = lease.contact();
                match contact.failure {
                    Some(failure) => reasons.push(format!("the database: {failure}")),
                    None if contact.answered.elapsed() > self.ttl / 2 => {
                        let silent = contact.answered.elapsed().as_secs();
                        reasons.push(format!("the database: no answer for {silent} s"));
                    }
                    None => {}
                }
            }
        }
        if let Err(error) = self.broker.listens() {
            reasons.push(error.to_string());
        }
        reasons
    }
}
