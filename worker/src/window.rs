//! The window of a model group: how many of its jobs this process holds, from admission to the committed flush.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gristmill_common::id::JobId;
use tokio::sync::Notify;

use crate::slot::Slot;
use crate::trace::Stay;

/// Jobs that are held, and the bounds on their number and bytes.
#[derive(Debug)]
pub(crate) struct Window {
    held: Mutex<Held>,
    freed: Notify,
    most_jobs: usize,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct Held {
    jobs: HashSet<JobId>,
    bytes: usize,
}

/// A job's place in the window; dropped, the job is held no more.
#[derive(Debug)]
pub(crate) struct Place {
    window: Arc<Window>,
    job: JobId,
    bytes: usize,
    kept: Vec<Slot>,
    stay: Option<Box<Stay>>,
}

impl Window {
    pub(crate) fn new(most_jobs: usize, most_bytes: usize) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), freed: Notify::new(), most_jobs, most_bytes })
    }

    /// Waits until at least one more job fits while at most `limit` are held; returns how many fit. Cancel safe.
    pub(crate) async fn room(&self, limit: impl Fn() -> usize) -> usize {
        loop {
            let freed = self.freed.notified();
            {
                let held = self.lock();
                let most = self.most_jobs.min(limit());
                if held.jobs.len() < most && held.bytes < self.most_bytes {
                    return most - held.jobs.len();
                }
            }
            freed.await;
        }
    }

    /// Takes a place for a job, even beyond the bound: a message is taken whole. `None` if the job is held already.
    pub(crate) fn enter(self: &Arc<Self>, job: JobId, bytes: usize) -> Option<Place> {
        let mut held = self.lock();
        if !held.jobs.insert(job) {
            return None;
        }
        held.bytes += bytes;
        Some(Place { window: Arc::clone(self), job, bytes, kept: Vec::new(), stay: None })
    }

    /// Returns the bytes that it holds at most.
    pub(crate) const fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    /// Returns how many jobs are held.
    pub(crate) fn held(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Tells whether a job is held.
    pub(crate) fn holds(&self, job: JobId) -> bool {
        self.lock().jobs.contains(&job)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Counts further bytes that the job holds: a body that was read by reference.
    pub(crate) fn weigh(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        self.bytes += more;
        self.window.lock().bytes += more;
    }

    /// Keeps a slot for as long as the place.
    pub(crate) fn keep(&mut self, slot: Option<Slot>) {
        self.kept.extend(slot);
    }

    /// Keeps what a trace is to tell of the job's stay here.
    pub(crate) fn trace(&mut self, stay: Option<Box<Stay>>) {
        self.stay = stay;
    }

    /// Returns what a trace is to tell of the job's stay here, if anything.
    pub(crate) fn stay(&self) -> Option<&Stay> {
        self.stay.as_deref()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.window.lock();
        held.jobs.remove(&self.job);
        held.bytes -= self.bytes;
        drop(held);
        self.window.freed.notify_waiters();
    }
}
