//! The provider's rate limits, and the audit of who kept them.
//!
//! Owns two continuous buckets (requests, tokens), each with a burst of one second's worth, and the count of arrivals in
//! every sliding minute. All of it is in memory and starts full and at zero.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Width of one slot of the audit. A sliding minute is read as 59.99 to 60 s.
const SLOT: Duration = Duration::from_millis(10);

/// Slots in a minute.
const SLOTS: usize = 6_000;

/// The dimension that a limit counts, by the name it has in error bodies and headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dimension {
    Requests,
    Tokens,
}

/// A call that does not fit now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) dimension: Dimension,
    /// The limit per minute.
    pub(super) limit: u32,
    /// What the call would have taken from the bucket.
    pub(super) requested: u64,
    /// The wait until it fits; `None` when it never will.
    pub(super) wait: Option<Duration>,
}

/// What the rate-limit headers say of one dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) limit: u32,
    /// What may start at once.
    pub(super) remaining: u64,
    /// The time until the bucket is full.
    pub(super) reset: Duration,
}

/// What the audit found since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Most calls that arrived in any 60 s.
    pub(super) peak_requests: u64,
    /// Most tokens that arrived in any 60 s, as the limit counts them.
    pub(super) peak_tokens: u64,
    /// Arrivals with which the last 60 s held more than a limit.
    pub(super) breaches: u64,
}

/// Both buckets and the audit, behind one lock.
#[derive(Debug)]
pub(super) struct Meter(Mutex<State>);

#[derive(Debug)]
struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    window: Window,
    audit: Audit,
}

/// The answer to an arrival: the headers' figures for requests and tokens, and the verdict.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) requests: Option<Left>,
    pub(super) tokens: Option<Left>,
    pub(super) verdict: Result<(), Refusal>,
}

impl Meter {
    /// Starts with full buckets; `None` or 0 is no limit.
    pub(super) fn new(rpm: Option<u32>, tpm: Option<u32>, now: Instant) -> Self {
        Self(Mutex::new(State {
            requests: Bucket::new(rpm, now),
            tokens: Bucket::new(tpm, now),
            window: Window::new(now),
            audit: Audit::default(),
        }))
    }

    /// Replaces the limits; the new buckets are full. The audit goes on.
    pub(super) fn set(&self, rpm: Option<u32>, tpm: Option<u32>, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests = Bucket::new(rpm, now);
        state.tokens = Bucket::new(tpm, now);
    }

    /// Returns the findings of the audit.
    pub(super) fn audit(&self) -> Audit {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).audit
    }

    /// Counts an arrival and takes it from both buckets, or from neither.
    ///
    /// A call that needs more tokens than the burst waits for a full bucket and then leaves it in debt, so that the
    /// rate holds; one that needs more than a minute's worth never fits.
    pub(super) fn arrive(&self, tokens: u64, now: Instant) -> Arrival {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let (recent_requests, recent_tokens) = state.window.add(tokens, now);
        state.audit.peak_requests = state.audit.peak_requests.max(recent_requests);
        state.audit.peak_tokens = state.audit.peak_tokens.max(recent_tokens);
        let over = |bucket: &Option<Bucket>, recent| bucket.as_ref().is_some_and(|b| recent > u64::from(b.limit));
        if over(&state.requests, recent_requests) || over(&state.tokens, recent_tokens) {
            state.audit.breaches += 1;
        }

        let mut verdict = Ok(());
        for (bucket, dimension, cost) in
            [(&mut state.requests, Dimension::Requests, 1), (&mut state.tokens, Dimension::Tokens, tokens)]
        {
            let Some(bucket) = bucket else { continue };
            bucket.refill(now);
            let wait = if cost > u64::from(bucket.limit) { None } else { Some(bucket.wait(cost)) };
            if verdict.is_ok() && wait != Some(Duration::ZERO) {
                verdict = Err(Refusal { dimension, limit: bucket.limit, requested: cost, wait });
            }
        }
        if verdict.is_ok() {
            for (bucket, cost) in [(&mut state.requests, 1), (&mut state.tokens, tokens)] {
                if let Some(bucket) = bucket {
                    bucket.level -= cost as f64;
                }
            }
        }
        Arrival {
            requests: state.requests.as_ref().map(Bucket::left),
            tokens: state.tokens.as_ref().map(Bucket::left),
            verdict,
        }
    }
}

/// A bucket that fills evenly.
#[derive(Debug)]
struct Bucket {
    /// Per minute.
    limit: u32,
    /// What it holds when full: one second's worth, at least 1.
    burst: f64,
    level: f64,
    refilled: Instant,
}

impl Bucket {
    fn new(limit: Option<u32>, now: Instant) -> Option<Self> {
        let limit = limit.filter(|limit| *limit > 0)?;
        let burst = (f64::from(limit) / 60.0).max(1.0);
        Some(Self { limit, burst, level: burst, refilled: now })
    }

    fn per_second(&self) -> f64 {
        f64::from(self.limit) / 60.0
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.level = (self.level + elapsed.as_secs_f64() * self.per_second()).min(self.burst);
        self.refilled = self.refilled.max(now);
    }

    fn wait(&self, cost: u64) -> Duration {
        let missing = (cost as f64).min(self.burst) - self.level;
        // What is missing by rounding alone is not missing.
        if missing <= 1e-9 { Duration::ZERO } else { Duration::from_secs_f64(missing / self.per_second()) }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the burst, a u32")]
    fn left(&self) -> Left {
        let full_in = ((self.burst - self.level) / self.per_second()).max(0.0);
        Left {
            limit: self.limit,
            remaining: self.level.max(0.0).floor() as u64,
            reset: Duration::from_secs_f64(full_in),
        }
    }
}

/// Counts of the last minute, in slots of 10 ms.
#[derive(Debug)]
struct Window {
    start: Instant,
    /// The slot that is being filled, counted from the start.
    slot: u128,
    slots: Box<[(u64, u64)]>,
    requests: u64,
    tokens: u64,
}

impl Window {
    fn new(start: Instant) -> Self {
        Self { start, slot: 0, slots: vec![(0, 0); SLOTS].into(), requests: 0, tokens: 0 }
    }

    /// Adds a call and returns the requests and tokens of the minute that ends now.
    fn add(&mut self, tokens: u64, now: Instant) -> (u64, u64) {
        let slot = now.saturating_duration_since(self.start).as_nanos() / SLOT.as_nanos();
        for expired in (self.slot + 1..=slot).take(SLOTS) {
            let expired = std::mem::take(&mut self.slots[Self::index(expired)]);
            self.requests -= expired.0;
            self.tokens -= expired.1;
        }
        self.slot = self.slot.max(slot);
        let current = &mut self.slots[Self::index(self.slot)];
        current.0 += 1;
        current.1 += tokens;
        self.requests += 1;
        self.tokens += tokens;
        (self.requests, self.tokens)
    }

    fn index(slot: u128) -> usize {
        usize::try_from(slot % SLOTS as u128).expect("a remainder of 6,000 fits in a usize")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_one_seconds_worth_and_then_the_rate_holds() {
        let start = Instant::now();
        let meter = Meter::new(Some(600), None, start);
        let admitted = |ms| (0..50).filter(|_| meter.arrive(5, at(start, ms)).verdict.is_ok()).count();
        assert_eq!(admitted(0), 10);
        assert_eq!(admitted(50), 0);
        assert_eq!(admitted(100), 1);
        assert_eq!(admitted(400), 3);
        assert_eq!(admitted(60_000), 10);
    }

    #[test]
    fn a_refusal_tells_the_wait_and_takes_nothing() {
        let start = Instant::now();
        let meter = Meter::new(Some(30), None, start);
        let first = meter.arrive(1, start);
        assert_eq!(first.verdict, Ok(()));
        assert_eq!(first.requests, Some(Left { limit: 30, remaining: 0, reset: Duration::from_secs(2) }));
        let refusal = meter.arrive(1, at(start, 500)).verdict.unwrap_err();
        assert_eq!(refusal.dimension, Dimension::Requests);
        assert_eq!(refusal.wait, Some(Duration::from_millis(1_500)));
        assert_eq!(meter.arrive(1, at(start, 2_000)).verdict, Ok(()));
    }

    #[test]
    fn a_call_beyond_the_burst_leaves_a_debt_and_one_beyond_the_minute_never_fits() {
        let start = Instant::now();
        let meter = Meter::new(None, Some(6_000), start);
        assert_eq!(meter.arrive(1_000, start).verdict, Ok(()));
        let refusal = meter.arrive(1_000, start).verdict.unwrap_err();
        assert_eq!((refusal.dimension, refusal.wait), (Dimension::Tokens, Some(Duration::from_secs(10))));
        assert_eq!(meter.arrive(6_001, at(start, 60_000)).verdict.unwrap_err().wait, None);
        assert_eq!(meter.arrive(6_000, at(start, 60_000)).verdict, Ok(()));
    }

    #[test]
    fn a_refused_request_takes_no_tokens() {
        let start = Instant::now();
        let meter = Meter::new(Some(60), Some(60_000), start);
        assert_eq!(meter.arrive(100, start).tokens.unwrap().remaining, 900);
        assert_eq!(meter.arrive(100, start).tokens.unwrap().remaining, 900);
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let start = Instant::now();
        let meter = Meter::new(Some(0), None, start);
        assert!((0..1_000).all(|_| meter.arrive(1, start).verdict.is_ok()));
    }

    #[test]
    fn the_audit_sees_every_sliding_minute() {
        let start = Instant::now();
        let meter = Meter::new(Some(60), None, start);
        for second in 0..240 {
            meter.arrive(2, at(start, second * 1_000));
        }
        assert_eq!(meter.audit(), Audit { peak_requests: 60, peak_tokens: 120, breaches: 0 });
        for _ in 0..5 {
            meter.arrive(2, at(start, 239_500));
        }
        assert_eq!(meter.audit(), Audit { peak_requests: 65, peak_tokens: 130, breaches: 5 });
        meter.arrive(2, at(start, 10_000_000));
        assert_eq!(meter.audit().peak_requests, 65);
    }

    #[test]
    fn new_limits_apply_at_once() {
        let start = Instant::now();
        let meter = Meter::new(Some(60), None, start);
        assert!(meter.arrive(1, start).verdict.is_ok());
        assert!(meter.arrive(1, start).verdict.is_err());
        meter.set(None, None, start);
        assert!(meter.arrive(1, start).verdict.is_ok());
    }
}
