//! Whether the process moves: its event loop turns, and what it asks the store for comes to an end.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the event loop shows that it turns.
const BEAT: Duration = Duration::from_secs(1);
/// How long the event loop may stand still.
const STILL: Duration = Duration::from_secs(15);
/// How long one statement to the store may be under way: five times its longest statement timeout.
const STUCK: Duration = Duration::from_secs(300);

/// What shows that the process moves.
#[derive(Debug)]
pub(super) struct Pulse {
    last_beat: Mutex<Instant>,
    steps: Mutex<Steps>,
}

#[derive(Debug, Default)]
struct Steps {
    begun: u64,
    under_way: BTreeMap<u64, (Instant, &'static str)>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { last_beat: Mutex::new(Instant::now()), steps: Mutex::default() }
    }

    /// Shows that the event loop turns, until dropped.
    pub(super) async fn beat(&self) {
        loop {
            tokio::time::sleep(BEAT).await;
            *lock(&self.last_beat) = Instant::now();
        }
    }

    /// Runs a step to its end, and knows of it until then.
    pub(super) async fn watch<T>(&self, doing: &'static str, step: impl Future<Output = T>) -> T {
        let _step = self.begin(doing);
        step.await
    }

    fn begin(&self, doing: &'static str) -> Step<'_> {
        let mut steps = lock(&self.steps);
        steps.begun += 1;
        let id = steps.begun;
        steps.under_way.insert(id, (Instant::now(), doing));
        Step { pulse: self, id }
    }

    /// Says what does not move.
    pub(super) fn stuck(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let still = lock(&self.last_beat).elapsed();
        if still > STILL {
            reasons.push(format!("the event loop has not turned for {} s", still.as_secs()));
        }
        // They are in the order in which they began.
        if let Some((began, doing)) = lock(&self.steps).under_way.values().next()
            && began.elapsed() > STUCK
        {
            reasons.push(format!("{doing} has been under way for {} s", began.elapsed().as_secs()));
        }
        reasons
    }
}

/// A step under way; dropped at its end, or when it is given up.
struct Step<'a> {
    pulse: &'a Pulse,
    id: u64,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        lock(&self.pulse.steps).under_way.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_without_end_is_told_until_it_is_given_up() {
        let pulse = Pulse::new();
        assert_eq!(pulse.watch("adding", async { 1 + 1 }).await, 2);
        let begun = async {
            tokio::select! {
                () = pulse.watch("waiting", std::future::pending()) => {}
                () = async {
                    tokio::time::sleep(STUCK).await;
                    assert_eq!(pulse.stuck(), Vec::<String>::new());
                    tokio::time::sleep(Duration::from_secs(7)).await;
                    assert_eq!(pulse.stuck(), ["waiting has been under way for 307 s"]);
                } => {}
            }
        };
        tokio::select! {
            () = pulse.beat() => {}
            () = begun => {}
        }
        assert_eq!(pulse.stuck(), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_loop_that_stands_still_is_told() {
        let pulse = Pulse::new();
        tokio::time::advance(STILL).await;
        assert_eq!(pulse.stuck(), Vec::<String>::new());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse.stuck(), ["the event loop has not turned for 16 s"]);
    }
}
