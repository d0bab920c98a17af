//! A model group as one worker serves it: its deployments' gates, its line, its pace and its window.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::select_all;
use gristmill_common::config::Strategy;
use gristmill_common::job::LaneKey;
use gristmill_common::quota::Dimension;
use gristmill_tokens::Model;

use crate::gate::Gate;
use crate::line::{Queue, Waiting};
use crate::pace::Pace;
use crate::quota::{Estimator, Size, admits_by_length};
use crate::route::Chooser;
use crate::share::Share;
use crate::window::Window;

/// Seconds of an account's rate of which jobs may wait here: more would be kept from other workers.
const AHEAD_S: f64 = 10.0;
/// A body of fewer bytes than the window has tokens, over this, is not counted: only images by their addresses have more tokens
/// than bytes.
const BYTES_IN_WINDOW: u64 = 4;
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
    usual: Mutex<Size>,
    share: Share,
    /// Bytes of messages that wait at most, in each lane.
    most_waiting_bytes: usize,
    pub(crate) chooser: Chooser,
}

impl Group {
    /// Makes one of whose calls as many run at once as its share allows.
    pub(crate) fn new(
        name: Arc<str>,
        gates: Vec<Arc<Gate>>,
        strategy: Strategy,
        window: Arc<Window>,
        share: Share,
    ) -> Self {
        let chooser = Chooser::new(strategy, &gates);
        let most_waiting_bytes = window.most_bytes() / LaneKey::all(&name).count().max(1);
        Self {
            name,
            gates,
            window,
            pace: Pace::new(),
            queue: Mutex::new(Queue::new()),
            usual: Mutex::default(),
            share,
            most_waiting_bytes,
            chooser,
        }
    }

    /// Returns the jobs that wait.
    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how much it has to do: who has nothing, or is paused, is kept no slots for.
    pub(crate) fn look(&self, now: Instant) {
        // What waits for limits has no use for slots: it starts as fast as it did of late.
        let startable = self.queue().len().min(self.pace.per_second() + 1);
        let is_open = || self.gates.iter().any(|gate| gate.is_passable());
        self.share.wants(if startable > 0 && is_open() { startable } else { 0 }, now);
    }

    /// Tells whether it may start no call while others have work, with as many slots free.
    pub(crate) fn is_full(&self, free: usize, now: Instant) -> bool {
        self.share.is_full(free, now)
    }

    /// Counts a call of this size.
    pub(crate) fn began(&self, size: Size) {
        self.share.began();
        self.learn(size);
    }

    /// Takes in the size of a job that waits: the first one is the usual one until calls begin.
    pub(crate) fn came(&self, size: Size) {
        if self.usual_size() == Size::default() {
            self.learn(size);
        }
    }

    fn learn(&self, size: Size) {
        let mut usual = self.usual.lock().unwrap_or_else(PoisonError::into_inner);
        let follow = |usual: u64, new: u64| {
            if usual == 0 { new } else { usual.saturating_mul(INERTIA - 1).saturating_add(new).div_ceil(INERTIA) }
        };
        usual.input = follow(usual.input, size.input);
        usual.by_length = size.by_length.map(|length| follow(usual.by_length.unwrap_or_default(), length));
        (usual.choices, usual.is_open) = (size.choices, size.is_open);
        usual.most_output = size.most_output.map(|most| follow(usual.most_output.unwrap_or_default(), most));
    }

    /// Counts a call no more.
    pub(crate) fn ended(&self) {
        self.share.ended(Instant::now());
    }

    /// Returns the usual size of its jobs.
    pub(crate) fn usual_size(&self) -> Size {
        *self.usual.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures a request, as well as it is worth here: as the first deployment counts for which it is. Cancel safe.
    ///
    /// Its text is counted where a limit or the window depends on it; for the window alone only what may be near it: a token is a
    /// byte at least. For other limits of tokens, and where it `matters` otherwise, it is read and its text estimated.
    pub(crate) async fn size(&self, body: &Bytes, matters: bool) -> Size {
        let bytes = body.len() as u64;
        let may_exceed = |window: u64| bytes > window / BYTES_IN_WINDOW;
        let is_counted = |gate: &&Arc<Gate>| {
            let limited = gate.ledger.limited();
            let counts = limited[Dimension::Tokens] && !admits_by_length(&gate.deployment);
            counts || limited[Dimension::InputTokens] || gate.deployment.max_input_tokens.is_some_and(may_exceed)
        };
        let is_limited = |gate: &&Arc<Gate>| {
            let limited = gate.ledger.limited();
            matters || limited[Dimension::Tokens] || limited[Dimension::OutputTokens]
        };
        let model = |gate: &Arc<Gate>| Model::of(&gate.deployment.provider, &gate.deployment.model);
        if let Some(gate) = self.gates.iter().find(is_counted) {
            return Size::count(body, model(gate)).await;
        }
        match self.gates.iter().find(is_limited) {
            Some(gate) => Size::count(body, model(gate).rough()).await,
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

    /// Waits until no deployment takes calls, some since their limit of a day is used up, and `is_enough`; returns how long that
    /// will be yet. Cancel safe.
    pub(crate) async fn used_up(&self, is_enough: impl Fn() -> bool) -> Duration {
        let mut watches: Vec<_> = self.gates.iter().map(|gate| gate.ledger.watch()).collect();
        loop {
            if self.gates.iter().any(|gate| gate.ledger.blocked().is_some())
                && let Some((left, _)) = self.held_up()
                && is_enough()
            {
                return left;
            }
            select_all(watches.iter_mut().map(|watch| Box::pin(watch.changed()))).await.0.ok();
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
    pub(crate) async fn room(&self, estimator: &Estimator) -> usize {
        loop {
            let mut watches: Vec<_> = self.gates.iter().map(|gate| gate.watch()).collect();
            let limit = || if self.held_up().is_none() { self.startable(estimator) } else { 1 };
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
    fn startable(&self, estimator: &Estimator) -> usize {
        let ahead = self.pace.ahead();
        let unlimited = self.share.most(Instant::now()) + ahead.max(1);
        let usual = self.usual_size();
        let rate = |gate: &Arc<Gate>| gate.ledger.calls_per_second(&estimator.need(&gate.deployment, usual));
        let rates: Option<f64> = self.gates.iter().map(rate).sum();
        match rates {
            // Calls that come to use less than they reserve go faster than that.
            Some(rate) => {
                let soon = ((rate * AHEAD_S) as usize).max(ahead);
                unlimited.min(self.share.in_flight() + 1 + soon)
            }
            None => unlimited,
        }
    }
}
