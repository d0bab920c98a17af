//! A model group as one worker serves it: its deployments' gates and its window.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::select_all;

use crate::gate::{Gate, Permit};
use crate::window::Window;

/// A model group with its deployments.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) gates: Vec<Arc<Gate>>,
    pub(crate) window: Arc<Window>,
    turn: AtomicUsize,
}

impl Group {
    pub(crate) fn new(name: Arc<str>, gates: Vec<Arc<Gate>>, window: Arc<Window>) -> Self {
        Self { name, gates, window, turn: AtomicUsize::new(0) }
    }

    /// Takes a free slot of an open deployment, in turn.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..self.gates.len()).find_map(|n| self.gates[(first + n) % self.gates.len()].try_acquire())
    }

    /// Waits for a slot of whichever deployment has one first. Cancel safe.
    pub(crate) async fn acquire(&self) -> Permit {
        select_all(self.gates.iter().map(|gate| Box::pin(gate.acquire()))).await.0
    }

    /// Waits until every deployment has been paused for as long as `patience`; returns how long the shortest pause still is.
    pub(crate) async fn paused_longer_than(&self, patience: Duration) -> Duration {
        loop {
            tokio::time::sleep(patience).await;
            if !self.is_open() {
                return self.gates.iter().map(|gate| gate.paused_for()).min().unwrap_or_default();
            }
        }
    }

    /// Tells whether any deployment takes calls.
    pub(crate) fn is_open(&self) -> bool {
        self.gates.iter().any(|gate| gate.is_open())
    }

    /// Waits for room for more jobs: one alone, as a probe, while every deployment is paused. Cancel safe.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let mut watches: Vec<_> = self.gates.iter().map(|gate| gate.watch()).collect();
            let limit = if self.is_open() { usize::MAX } else { 1 };
            let changed = select_all(watches.iter_mut().map(|watch| Box::pin(watch.changed())));
            tokio::select! {
                biased;
                room = self.window.room(limit) => return room,
                _ = changed => {}
            }
        }
    }
}
