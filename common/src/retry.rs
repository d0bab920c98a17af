//! When to try again: the delays between calls of a job, and the loops that reconnect. The only file that names `backoff`.
//!
//! Delays are exponential with full jitter (uniform between zero and the exponential step;
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>), and a provider's own wait is a minimum.

use std::future::Future;
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use tokio_util::sync::CancellationToken;

/// How delays grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The step before the first retry.
    pub base: Duration,
    /// The largest step.
    pub cap: Duration,
}

impl Schedule {
    /// Between calls of one job: steps of 1 s, 2 s, 4 s … 60 s.
    pub const CALLS: Self = Self { base: Duration::from_secs(1), cap: Duration::from_secs(60) };
    /// Between tries to reach a server of ours: steps of 200 ms … 5 s.
    pub const RECONNECT: Self = Self { base: Duration::from_millis(200), cap: Duration::from_secs(5) };

    /// Returns the largest delay after `failures` failures in a row, the first being 1.
    pub fn step(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1).min(30)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// Returns a delay uniform between zero and [`Self::step`].
    pub fn delay(&self, failures: u32) -> Duration {
        // `backoff` spreads its interval by a factor to both sides: factor 1 on half the step is the whole step.
        let half = self.step(failures) / 2;
        let mut backoff = ExponentialBackoff {
            current_interval: half,
            initial_interval: half,
            randomization_factor: 1.0,
            max_interval: half,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        backoff.next_backoff().unwrap_or(half)
    }

    /// Returns the delay before the next call when the provider asked for a wait: never less than it.
    ///
    /// The jitter is added on top, so that jobs which were refused together do not come back together.
    pub fn delay_at_least(&self, failures: u32, minimum: Option<Duration>) -> Duration {
        let delay = self.delay(failures);
        minimum.map_or(delay, |minimum| minimum.saturating_add(delay.min(minimum / 4 + self.base)))
    }
}

/// Repeats an operation until it succeeds, fails for good, or `stop` is cancelled (then `None`).
///
/// `transient` tells whether an error may pass; `tell` hears of each such error with the number of failures in a row.
pub async fn until_ok<T, E, F, Fut>(
    schedule: Schedule,
    stop: &CancellationToken,
    mut operation: F,
    transient: impl Fn(&E) -> bool,
    mut tell: impl FnMut(&E, u32),
) -> Option<Result<T, E>>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut failures = 0;
    loop {
        if stop.is_cancelled() {
            return None;
        }
        match operation().await {
            Err(error) if transient(&error) => {
                failures += 1;
                tell(&error, failures);
            }
            done => return Some(done),
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(schedule.delay(failures)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_stay_within_the_step(base_ms in 1u64..5_000, cap_ms in 1u64..100_000, failures in 1u32..100) {
            let schedule = Schedule { base: Duration::from_millis(base_ms), cap: Duration::from_millis(cap_ms) };
            let step = schedule.step(failures);
            prop_assert!(step <= schedule.cap);
            for _ in 0..20 {
                prop_assert!(schedule.delay(failures) <= step + Duration::from_nanos(1));
            }
        }

        #[test]
        fn a_wait_that_was_asked_for_is_a_minimum(wait_ms in 0u64..600_000, failures in 1u32..20) {
            let wait = Duration::from_millis(wait_ms);
            let delay = Schedule::CALLS.delay_at_least(failures, Some(wait));
            prop_assert!(delay >= wait);
            prop_assert!(delay <= wait + wait / 4 + Schedule::CALLS.base);
        }
    }

    #[test]
    fn steps_double_up_to_the_cap() {
        let steps: Vec<u64> = (1..9).map(|failures| Schedule::CALLS.step(failures).as_secs()).collect();
        assert_eq!(steps, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn jitter_uses_the_whole_step() {
        let delays: Vec<Duration> = (0..400).map(|_| Schedule::CALLS.delay(3)).collect();
        assert!(delays.iter().any(|delay| *delay < Duration::from_millis(400)));
        assert!(delays.iter().any(|delay| *delay > Duration::from_millis(3_600)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_loop_repeats_what_may_pass_and_stops_on_the_rest() {
        let stop = CancellationToken::new();
        let mut calls = 0;
        let mut told = 0;
        let outcome = until_ok(
            Schedule::RECONNECT,
            &stop,
            || {
                calls += 1;
                let call = calls;
                async move { if call < 4 { Err("later") } else { Err("never") } }
            },
            |error| *error == "later",
            |_, _| told += 1,
        )
        .await;
        assert_eq!(outcome, Some(Err::<(), _>("never")));
        assert_eq!(told, 3);
        stop.cancel();
        assert_eq!(
            until_ok(Schedule::RECONNECT, &stop, || async { Ok::<_, ()>(1) }, |()| true, |(), _| {}).await,
            None
        );
    }
}
