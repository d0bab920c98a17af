//! Slots that somebody waits for elsewhere: whoever frees one rings.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// A number of slots.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    semaphore: Arc<Semaphore>,
    bell: Arc<Notify>,
}

/// One of them; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    bell: Arc<Notify>,
}

impl Slots {
    pub(crate) fn new(count: usize, bell: Arc<Notify>) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(count)), bell }
    }

    /// Takes a free one.
    pub(crate) fn take(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(Slot { permit: Some(permit), bell: Arc::clone(&self.bell) })
    }

    /// Waits for a free one.
    pub(crate) async fn wait(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await.ok()?;
        Some(Slot { permit: Some(permit), bell: Arc::clone(&self.bell) })
    }

    /// Returns how many are free.
    pub(crate) fn free(&self) -> usize {
        self.semaphore.available_permits()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permit = None;
        self.bell.notify_one();
    }
}
