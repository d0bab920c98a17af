//! A subscription to the lanes of one model group: the buffers that the lanes fill, and whose turn it is.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{Consumer, Delivery};
use crate::broker::turns::Turns;
use crate::job::{LaneKey, Priority};

/// What has arrived for one consumer. The lanes' windows bound it.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// In the order of [`LaneKey::all`].
    lanes: Vec<VecDeque<Delivery>>,
    turns: Turns,
}

impl Inbox {
    /// Makes a buffer for each lane of a group.
    pub(super) fn new(group: &str) -> Self {
        let lanes = LaneKey::all(group).map(|_| VecDeque::new()).collect();
        Self { state: Mutex::new(State { lanes, turns: Turns::default() }), arrived: Notify::new() }
    }

    /// Takes what arrived on a lane.
    pub(super) fn put(&self, lane: usize, deliveries: impl Iterator<Item = Delivery>) {
        if let Some(buffer) = self.lock().lanes.get_mut(lane) {
            buffer.extend(deliveries);
        }
        self.arrived.notify_one();
    }

    /// Returns how many deliveries of a lane wait here.
    pub(super) fn waiting(&self, lane: usize) -> usize {
        self.lock().lanes.get(lane).map_or(0, VecDeque::len)
    }

    /// Gives back whatever waits here for a lane.
    pub(super) fn clear(&self, lane: usize) {
        let cleared = self.lock().lanes.get_mut(lane).map(std::mem::take);
        // Outside the lock: dropping settles.
        drop(cleared);
    }

    /// Gives back what waits here for a lane beyond `most` messages, the latest first.
    pub(super) fn trim(&self, lane: usize, most: usize) {
        let beyond = self.lock().lanes.get_mut(lane).map(|buffer| buffer.split_off(most.min(buffer.len())));
        // Outside the lock: dropping settles.
        drop(beyond);
    }

    fn pick(&self) -> Option<Delivery> {
        let mut state = self.lock();
        let State { lanes, turns } = &mut *state;
        let waits = |priority, lane: usize| {
            lanes.get(first_lane(priority) + lane).is_some_and(|buffer: &VecDeque<_>| !buffer.is_empty())
        };
        let (priority, lane) = turns.pick(waits)?;
        lanes.get_mut(first_lane(priority) + lane)?.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the place of a priority's first lane in [`LaneKey::all`].
fn first_lane(priority: Priority) -> usize {
    Priority::ALL.into_iter().take_while(|other| *other != priority).map(|other| usize::from(other.lanes())).sum()
}

/// A subscription to the lanes of one model group. Dropped, its lanes unsubscribe; what was delivered can still be settled.
pub(super) struct RabbitConsumer {
    group: String,
    inbox: Arc<Inbox>,
    /// What its lanes follow.
    window: watch::Sender<u16>,
    stop: CancellationToken,
    _unsubscribe: DropGuard,
}

impl RabbitConsumer {
    /// `stop` must be the token of this consumer's lanes.
    pub(super) fn new(group: &str, inbox: Arc<Inbox>, window: watch::Sender<u16>, stop: CancellationToken) -> Self {
        Self { group: group.to_owned(), inbox, window, _unsubscribe: stop.clone().drop_guard(), stop }
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.try_next() {
                return Some(delivery);
            }
            tokio::select! {
                () = self.inbox.arrived.notified() => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        if self.stop.is_cancelled() { None } else { self.inbox.pick() }
    }

    fn resize(&mut self, window: u16) {
        let window = window.max(1);
        self.window.send_if_modified(|current| std::mem::replace(current, window) != window);
    }
}

impl fmt::Debug for RabbitConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitConsumer").field("group", &self.group).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_its_place_in_the_order_of_all_lanes() {
        for (index, lane) in LaneKey::all("m").enumerate() {
            assert_eq!(first_lane(lane.priority) + usize::from(lane.lane), index);
        }
    }
}
