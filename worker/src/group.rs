//! A model group as one worker serves it: its deployments' gates, its pace and its window.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::select_all;
use gristmill_common::job::LaneKey;

use crate::gate::{Gate, Permit};
use crate::pace::Pace;
use crate::window::Window;

/// A model group with its deployments.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) gates: Vec<Arc<Gate>>,
    pub(crate) window: Arc<Window>,
    pub(crate) pace: Pace,
    /// Calls that run at once at most.
    slots: usize,
    /// Bytes of messages that wait at most, in each lane.
    most_waiting_bytes: usize,
    turn: AtomicUsize,
}

impl Group {
    pub(crate) fn new(name: Arc<str>, gates: Vec<Arc<Gate>>, window: Arc<Window>, concurrency: usize) -> Self {
        let slots = gates.iter().map(|gate| gate.slots()).sum::<usize>().min(concurrency);
        let most_waiting_bytes = window.most_bytes() / LaneKey::all(&name).count().max(1);
        Self { name, gates, window, pace: Pace::new(), slots, most_waiting_bytes, turn: AtomicUsize::new(0) }
    }

    /// Returns how many messages of a lane may wait for room, of at most `most`: as many as can start soon, half of it, since
    /// other lanes' wait too.
    pub(crate) fn prefetch(&self, most: u16) -> u16 {
        let messages = self.pace.messages(self.pace.ahead() / 2, self.most_waiting_bytes);
        u16::try_from(messages).unwrap_or(u16::MAX).clamp(1, most)
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

    /// Returns why no deployment takes calls and what to do, if none does.
    pub(crate) fn pause(&self) -> Option<String> {
        if self.is_open() {
            return None;
        }
        self.gates.iter().find_map(|gate| gate.report().reason())
    }

    /// Tells whether any deployment takes calls.
    pub(crate) fn is_open(&self) -> bool {
        self.gates.iter().any(|gate| gate.is_open())
    }

    /// Waits for room for more jobs than have a slot, as many as can start soon: a worker that took more would keep them from
    /// others. One alone, as a probe, while every deployment is paused. Cancel safe.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let mut watches: Vec<_> = self.gates.iter().map(|gate| gate.watch()).collect();
            let open = self.is_open();
            let limit = || if open { self.slots + self.pace.ahead().max(1) } else { 1 };
            let changed = select_all(watches.iter_mut().map(|watch| Box::pin(watch.changed())));
            tokio::select! {
                biased;
                room = self.window.room(limit) => return room,
                _ = changed => {}
            }
        }
    }
}
