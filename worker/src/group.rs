//! A model group as one worker serves it: its deployments' gates, its line, its pace and its window.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use gristmill_common::config::Strategy;
use gristmill_common::job::LaneKey;
use gristmill_tokens::Model;

use crate::gate::Gate;
use crate::line::{Queue, Waiting};
use crate::pace::Pace;
use crate::quota::Size;
use crate::route::Chooser;
use crate::window::Window;

/// Seconds of an account's rate of which jobs may wait here: more would be kept from other workers.
const AHEAD_S: f64 = 10.0;
/// How slowly the usual size follows the jobs that start.
const INERTIA: u64 = 16;

/// A model group with its deployments.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) gates: Vec<Arc<Gate>>,
    pub(crate) window: Arc<Window>,
    pub(crate) pace: Pace,
    queue: Mutex<Queue<Waiting>>,
    in_flight: AtomicUsize,
    usual: Mutex<Size>,
    /// Calls that run at once at most.
    most: usize,
    /// Bytes of messages that wait at most, in each lane.
    most_waiting_bytes: usize,
    pub(crate) chooser: Chooser,
}

impl Group {
    /// Makes one of which `most` calls run at once at most.
    pub(crate) fn new(
        name: Arc<str>,
        gates: Vec<Arc<Gate>>,
        strategy: Strategy,
        window: Arc<Window>,
        most: usize,
    ) -> Self {
        let chooser = Chooser::new(strategy, &gates);
        let most_waiting_bytes = window.most_bytes() / LaneKey::all(&name).count().max(1);
        Self {
            name,
            gates,
            window,
            pace: Pace::new(),
            queue: Mutex::new(Queue::new()),
            in_flight: AtomicUsize::new(0),
            usual: Mutex::default(),
            most,
            most_waiting_bytes,
            chooser,
        }
    }

    /// Returns the jobs that wait.
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether it has as many calls as it may have while others have work.
    pub(crate) fn is_full(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) >= self.most
    }

    /// Counts a call of this size.
    pub(crate) fn began(&self, size: Size) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut usual = self.usual.lock().unwrap_or_else(PoisonError::into_inner);
        let follow = |usual: u64, new: u64| {
            if usual == 0 { new } else { usual.saturating_mul(INERTIA - 1).saturating_add(new).div_ceil(INERTIA) }
        };
        usual.input = follow(usual.input, size.input);
        usual.by_length = size.by_length.map(|length| follow(usual.by_length.unwrap_or_default(), length));
        usual.most_output = size.most_output.map(|most| follow(usual.most_output.unwrap_or_default(), most));
    }

    /// Counts a call no more.
    pub(crate) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the usual size of its jobs.
    pub(crate) fn usual_size(&self) -> Size {
        *self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures a request, as well as it is worth here: as the first deployment counts for which it is. Cancel safe.
    pub(crate) async fn size(&self, body: &Bytes) -> Size {
        let is_worth_it = |gate: &&Arc<Gate>| gate.ledger.counts_tokens() || gate.deployment.max_input_tokens.is_some();
        match self.gates.iter().find(is_worth_it) {
            Some(gate) => Size::count(body, Model::of(&gate.deployment.provider, &gate.deployment.model)).await,
            None => Size::of_bytes(body.len()),
        }
    }

    /// Tells whether no call can start now for longer than it takes to ask.
    pub(crate) fn is_held_up(&self) -> bool {
        self.held_up().is_some()
    }

    /// Returns how many messages of a lane may wait for room, of at most `most`: as many as can start soon, half of it, since
    /// other lanes' wait too.
    pub(crate) fn prefetch(&self, most: u16) -> u16 {
        let messages = self.pace.messages(self.pace.ahead() / 2, self.most_waiting_bytes);
        u16::try_from(messages).unwrap_or(u16::MAX).clamp(1, most)
    }

    /// Waits until no call could start for as long as `patience`; returns how long that will be yet.
    pub(crate) async fn paused_longer_than(&self, patience: Duration) -> Duration {
        loop {
            tokio::time::sleep(patience).await;
            if let Some((left, _)) = self.held_up() {
                return left;
            }
        }
    }

    /// Returns why no deployment takes calls and what to do, if none does.
    pub(crate) fn pause(&self) -> Option<String> {
        self.held_up().map(|(_, why)| why)
    }

    /// Returns for how long yet no deployment takes calls, and why; none while one does.
    fn held_up(&self) -> Option<(Duration, String)> {
        let of = |gate: &Arc<Gate>| match gate.report().reason() {
            Some(reason) => Some((gate.paused_for(), reason)),
            None => gate.ledger.blocked(),
        };
        let all: Option<Vec<_>> = self.gates.iter().map(of).collect();
        all?.into_iter().min_by_key(|(left, _)| *left)
    }

    /// Says what its calls wait for while none is paused.
    pub(crate) fn limits(&self) -> String {
        self.gates.first().map(|gate| gate.ledger.limits()).unwrap_or_default()
    }

    /// Waits for room for more jobs than run, as many as can start soon: a worker that took more would keep them from others.
    /// One alone, as a probe, while nothing can start. Cancel safe.
    pub(crate) async fn room(&self) -> usize {
        loop {
            let mut watches: Vec<_> = self.gates.iter().map(|gate| gate.watch()).collect();
            let limit = || if self.held_up().is_none() { self.startable() } else { 1 };
            let changed = select_all(watches.iter_mut().map(|watch| Box::pin(watch.changed())));
            tokio::select! {
                biased;
                room = self.window.room(limit) => return room,
                _ = changed => {}
            }
        }
    }

    /// Returns how many jobs it may hold: those that run, and those that can start within some seconds.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far below 2^52 and never below zero")]
    fn startable(&self) -> usize {
        let unlimited = self.most + self.pace.ahead().max(1);
        let rates: Option<f64> = self.gates.iter().map(|gate| gate.ledger.calls_per_second()).sum();
        match rates {
            Some(rate) => unlimited.min(self.in_flight.load(Ordering::Relaxed) + 1 + (rate * AHEAD_S) as usize),
            None => unlimited,
        }
    }
}
