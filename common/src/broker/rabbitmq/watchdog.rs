//! Notices consumers that are subscribed and get nothing although their queue has messages, and has their lanes rebuilt.
//!
//! Such consumers have been seen with several brokers and clients after partitions and failovers; nothing else tells of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::consumer::Inbox;
use super::lane::Pulse;
use super::management::Management;
use crate::job::LaneKey;

/// The watchdog of one consumer's lanes.
pub(super) struct Watchdog {
    /// In the order of the inbox.
    pub(super) lanes: Vec<(LaneKey, Arc<Pulse>)>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) management: Arc<Management>,
    pub(super) window: watch::Receiver<u16>,
    pub(super) deaf_after: Duration,
    pub(super) stop: CancellationToken,
}

impl Watchdog {
    /// Runs until stopped.
    pub(super) async fn run(self) {
        // Lanes that looked deaf at the last look, with the arrivals they had: a message that has just been published makes
        // a sound lane look deaf once.
        let mut suspects: HashMap<usize, u64> = HashMap::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.deaf_after / 2) => {}
            }
            for (index, (key, pulse)) in self.lanes.iter().enumerate() {
                let arrivals = pulse.arrivals();
                if !self.may_be_deaf(index, pulse) || !self.has_messages(key).await || pulse.arrivals() != arrivals {
                    suspects.remove(&index);
                } else if suspects.remove(&index) == Some(arrivals) {
                    warn!(queue = %key, "consumer gets nothing from a queue that has messages");
                    pulse.rebuild();
                } else {
                    suspects.insert(index, arrivals);
                }
            }
        }
    }

    fn may_be_deaf(&self, index: usize, pulse: &Pulse) -> bool {
        pulse.unsettled().is_some_and(|unsettled| {
            let window = *self.window.borrow();
            should_hear(pulse.quiet_for(), self.deaf_after, self.inbox.waiting(index), unsettled, window)
        })
    }

    async fn has_messages(&self, key: &LaneKey) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            ready = self.management.ready(key) => match ready {
                Ok(ready) => ready > 0,
                Err(error) => {
                    debug!(queue = %key, %error, "watchdog could not count");
                    false
                }
            }
        }
    }
}

/// Tells whether a lane that got nothing for `quiet` would have got a message if there was one.
fn should_hear(quiet: Duration, deaf_after: Duration, waiting: usize, unsettled: usize, window: u16) -> bool {
    quiet >= deaf_after && waiting == 0 && unsettled < usize::from(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quiet_lane_with_room_should_hear() {
        let seconds = Duration::from_secs;
        let cases = [
            ("quiet, nothing out", seconds(30), 0, 0, true),
            ("quiet, some out", seconds(31), 0, 9, true),
            ("not long enough", seconds(29), 0, 0, false),
            ("its window is used up", seconds(99), 0, 10, false),
            ("the worker is slow", seconds(99), 1, 1, false),
        ];
        for (name, quiet, waiting, unsettled, expected) in cases {
            assert_eq!(should_hear(quiet, seconds(30), waiting, unsettled, 10), expected, "{name}");
        }
    }
}
