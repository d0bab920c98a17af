//! What is counted as it happens.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gristmill_common::failure::ErrorClass;
use gristmill_common::job::Priority;
use gristmill_common::outcome::{AttemptRecord, Status};
use gristmill_common::store::{Burial, End, Flushed, Settlement, Verdict};

use super::count::{Histogram, Tally};
use super::family;
use super::text::Page;

/// Upper bounds of waits, in seconds: from those of an idle worker to those of a long queue.
const WAITS_S: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Upper bounds of calls, in seconds: models answer in seconds, some in minutes; the default time limit is 600 s.
const CALLS_S: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0];
/// Upper bounds of the time to an answer's first byte, in seconds.
const FIRST_BYTES_S: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Upper bounds of flushes, in seconds.
const FLUSHES_S: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];
/// Upper bounds of the runs of a flush.
const FLUSH_SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

/// The counters of a process, whatever its sessions.
#[derive(Debug)]
pub(crate) struct Counts {
    jobs_ended: Tally<2>,
    admissions: Tally<2>,
    acks: Tally<1>,
    dead_letters: AtomicU64,
    waiting: Tally<2>,
    queue_wait: Histogram<1>,
    put_back: Tally<1>,
    retries: Tally<2>,
    fallbacks: Tally<3>,
    calls: Tally<3>,
    call_duration: Histogram<1>,
    first_byte: Histogram<1>,
    tokens: Tally<2>,
    cost: Tally<1>,
    cost_unknown: Tally<1>,
    uncommitted: AtomicU64,
    flush_duration: Histogram<0>,
    flush_size: Histogram<0>,
    flush_failures: AtomicU64,
    results_lost: AtomicU64,
    results_rejected: AtomicU64,
    limit_changes: Tally<3>,
    limit_failures: AtomicU64,
    sessions: AtomicU64,
    store_reconnects: AtomicU64,
    kept_until: Mutex<Option<Instant>>,
    keeper_jobs: Tally<1>,
    keeper_messages: Tally<1>,
    keeper_failures: AtomicU64,
}

/// What the keeper did with jobs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kept {
    Due,
    Abandoned,
    Cancelled,
    Expired,
}

impl Default for Counts {
    fn default() -> Self {
        let counts = Self {
            jobs_ended: Tally::default(),
            admissions: Tally::default(),
            acks: Tally::default(),
            dead_letters: AtomicU64::default(),
            waiting: Tally::default(),
            queue_wait: Histogram::new(WAITS_S),
            put_back: Tally::default(),
            retries: Tally::default(),
            fallbacks: Tally::default(),
            calls: Tally::default(),
            call_duration: Histogram::new(CALLS_S),
            first_byte: Histogram::new(FIRST_BYTES_S),
            tokens: Tally::default(),
            cost: Tally::default(),
            cost_unknown: Tally::default(),
            uncommitted: AtomicU64::default(),
            flush_duration: Histogram::new(FLUSHES_S),
            flush_size: Histogram::new(FLUSH_SIZES),
            flush_failures: AtomicU64::default(),
            results_lost: AtomicU64::default(),
            results_rejected: AtomicU64::default(),
            limit_changes: Tally::default(),
            limit_failures: AtomicU64::default(),
            sessions: AtomicU64::default(),
            store_reconnects: AtomicU64::default(),
            kept_until: Mutex::default(),
            keeper_jobs: Tally::default(),
            keeper_messages: Tally::default(),
            keeper_failures: AtomicU64::default(),
        };
        for action in ["due", "abandoned", "returned", "poisoned", "cancelled", "expired"] {
            counts.keeper_jobs.add([action], 0.0);
        }
        for action in ["buried", "put_back"] {
            counts.keeper_messages.add([action], 0.0);
        }
        counts
    }
}

impl Counts {
    /// Makes the labels of a group known, so that the first of its jobs is seen as an increase.
    pub(crate) fn know_group(&self, group: &str) {
        for status in Status::ALL {
            self.jobs_ended.add([group, status.as_str()], 0.0);
        }
        for priority in Priority::ALL {
            self.waiting.add([group, priority.as_str()], 0.0);
        }
        self.admissions.add([group, "run"], 0.0);
        self.acks.add([group], 0.0);
        self.put_back.add([group], 0.0);
    }

    /// Makes the labels of a deployment known.
    pub(crate) fn know_deployment(&self, deployment: &str) {
        self.calls.add([deployment, "ok", "2xx"], 0.0);
    }

    pub(crate) fn admitted(&self, group: &str, verdict: &Verdict) {
        let verdict = match verdict {
            Verdict::Run(_) => "run",
            Verdict::Cancelled(_) => "cancelled",
            Verdict::Expired(_) => "expired",
            Verdict::Cached(..) => "cached",
            Verdict::Done => "done",
            Verdict::Held => "held",
            Verdict::Waiting => "waiting",
            Verdict::Unknown => "unknown",
        };
        self.admissions.count([group, verdict]);
    }

    pub(crate) fn acked(&self, group: &str) {
        self.acks.count([group]);
    }

    pub(crate) fn dead_letter(&self) {
        add(&self.dead_letters, 1);
    }

    /// Counts a job as waiting for a call until the value is dropped.
    pub(crate) fn waiting<'a>(&'a self, group: &'a str, priority: Priority) -> Waiting<'a> {
        self.waiting.count([group, priority.as_str()]);
        Waiting { counts: self, group, priority, since: Instant::now() }
    }

    /// Counts a run that goes on in another group without a call.
    pub(crate) fn fell_back(&self, group: &str, to: &str, class: &ErrorClass) {
        self.fallbacks.count([group, to, label(class)]);
    }

    /// Counts a settlement as uncommitted, until [`Self::flushed`] or [`Self::given_up`].
    pub(crate) fn settled(&self) {
        add(&self.uncommitted, 1);
    }

    pub(crate) fn flush_failed(&self) {
        add(&self.flush_failures, 1);
    }

    /// Counts what the store took, in this time.
    #[expect(clippy::cast_precision_loss, reason = "runs of a flush")]
    pub(crate) fn flushed(&self, settlements: &[Settlement], flushed: Flushed, took: Duration) {
        self.given_up(settlements.len());
        self.flush_duration.observe([], took.as_secs_f64());
        self.flush_size.observe([], settlements.len() as f64);
        add(&self.results_lost, flushed.lost);
        add(&self.results_rejected, flushed.rejected);
        for settlement in settlements {
            self.ended(settlement);
            settlement.attempts.iter().for_each(|attempt| self.called(attempt));
        }
    }

    /// Counts settlements no more that will not be committed.
    pub(crate) fn given_up(&self, settlements: usize) {
        self.uncommitted.fetch_sub(settlements as u64, Ordering::Relaxed);
    }

    fn ended(&self, settlement: &Settlement) {
        let group = &*settlement.job.lane.group;
        match &settlement.end {
            End::Result(result) => self.jobs_ended.count([group, result.status.as_str()]),
            End::Wake(wake) => {
                let error = settlement.attempts.last().and_then(|attempt| attempt.error.as_deref());
                let to = wake.earlier.last().and_then(|earlier| earlier.fell_back.as_ref());
                match (error, to) {
                    (Some(error), Some(fell_back)) => self.fell_back(group, &fell_back.to, &error.class),
                    (Some(error), None) => self.retries.count([group, label(&error.class)]),
                    (None, _) => self.put_back.count([group]),
                }
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a call costs far below 2^52 picodollars")]
    fn called(&self, attempt: &AttemptRecord) {
        let deployment = &*attempt.deployment;
        let outcome = attempt.error.as_ref().map_or("ok", |error| label(&error.class));
        self.calls.count([deployment, outcome, status(attempt.http_status)]);
        self.call_duration.observe([deployment], f64::from(attempt.latency_ms) / 1e3);
        if let Some(ms) = attempt.ttft_ms {
            self.first_byte.observe([deployment], f64::from(ms) / 1e3);
        }
        let usage = &attempt.usage;
        for (kind, tokens) in [
            ("input", usage.input_tokens),
            ("input_cached", usage.cached_input_tokens),
            ("input_cache_write", usage.cache_write_tokens),
            ("output", usage.output_tokens),
            ("output_reasoning", usage.reasoning_tokens),
        ] {
            if let Some(tokens) = tokens {
                self.tokens.add([deployment, kind], tokens.into());
            }
        }
        match attempt.cost_pico_usd {
            Some(pico) => self.cost.add([deployment], pico.max(0) as f64 / 1e12),
            None => self.cost_unknown.count([deployment]),
        }
    }

    pub(crate) fn limit_changed(&self, account: &str, dimension: &str, change: &str) {
        self.limit_changes.count([account, dimension, change]);
    }

    pub(crate) fn limits_not_leased(&self) {
        add(&self.limit_failures, 1);
    }

    pub(crate) fn session_began(&self) {
        add(&self.sessions, 1);
    }

    pub(crate) fn store_answers_again(&self) {
        add(&self.store_reconnects, 1);
    }

    /// Notes until when this process is the keeper; `None` is not at all.
    pub(crate) fn keeps_until(&self, until: Option<Instant>) {
        *self.kept_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    #[expect(clippy::cast_precision_loss, reason = "jobs of a round")]
    pub(crate) fn kept(&self, what: Kept, jobs: u64) {
        let action = match what {
            Kept::Due => "due",
            Kept::Abandoned => "abandoned",
            Kept::Cancelled => "cancelled",
            Kept::Expired => "expired",
        };
        self.keeper_jobs.add([action], jobs as f64);
    }

    #[expect(clippy::cast_precision_loss, reason = "jobs of a round")]
    pub(crate) fn took_over(&self, burial: &Burial) {
        self.keeper_jobs.add(["returned"], burial.returned as f64);
        self.keeper_jobs.add(["poisoned"], burial.poisoned as f64);
    }

    pub(crate) fn keeper_buried(&self) {
        self.keeper_messages.count(["buried"]);
    }

    pub(crate) fn keeper_put_back(&self) {
        self.keeper_messages.count(["put_back"]);
    }

    pub(crate) fn keeper_failed(&self) {
        add(&self.keeper_failures, 1);
    }

    /// Writes all that is counted.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(super) fn show(&self, page: &mut Page) {
        let one = |page: &mut Page, family, count: &AtomicU64| page.one(family, count.load(Ordering::Relaxed) as f64);
        self.jobs_ended.show(page, &family::JOBS_ENDED);
        self.admissions.show(page, &family::ADMISSIONS);
        self.acks.show(page, &family::ACKS);
        one(page, &family::DEAD_LETTERS, &self.dead_letters);
        self.waiting.show(page, &family::JOBS_WAITING);
        self.queue_wait.show(page, &family::QUEUE_WAIT);
        self.put_back.show(page, &family::PUT_BACK);
        self.retries.show(page, &family::RETRIES);
        self.fallbacks.show(page, &family::FALLBACKS);
        self.calls.show(page, &family::CALLS);
        self.call_duration.show(page, &family::CALL_DURATION);
        self.first_byte.show(page, &family::FIRST_BYTE);
        self.tokens.show(page, &family::TOKENS);
        self.cost.show(page, &family::COST);
        self.cost_unknown.show(page, &family::COST_UNKNOWN);
        one(page, &family::UNCOMMITTED, &self.uncommitted);
        self.flush_duration.show(page, &family::FLUSH_DURATION);
        self.flush_size.show(page, &family::FLUSH_SIZE);
        one(page, &family::FLUSH_FAILURES, &self.flush_failures);
        one(page, &family::RESULTS_LOST, &self.results_lost);
        one(page, &family::RESULTS_REJECTED, &self.results_rejected);
        self.limit_changes.show(page, &family::LIMIT_CHANGES);
        one(page, &family::LIMIT_FAILURES, &self.limit_failures);
        one(page, &family::SESSIONS, &self.sessions);
        one(page, &family::STORE_RECONNECTS, &self.store_reconnects);
        let kept_until = *self.kept_until.lock().unwrap_or_else(PoisonError::into_inner);
        page.flag(&family::KEEPER, kept_until.is_some_and(|until| Instant::now() < until));
        self.keeper_jobs.show(page, &family::KEEPER_JOBS);
        self.keeper_messages.show(page, &family::KEEPER_MESSAGES);
        one(page, &family::KEEPER_FAILURES, &self.keeper_failures);
    }
}

/// A job that waits for a call.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    counts: &'a Counts,
    group: &'a str,
    priority: Priority,
    since: Instant,
}

impl Waiting<'_> {
    /// Its call begins.
    pub(crate) fn called(self) {
        self.counts.queue_wait.observe([self.group], self.since.elapsed().as_secs_f64());
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.counts.waiting.add([self.group, self.priority.as_str()], -1.0);
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// Returns an error class's label: one of those that are known here, since a provider may name any.
pub(super) fn label(class: &ErrorClass) -> &str {
    match class {
        ErrorClass::Other(_) => "other",
        known => known.as_str(),
    }
}

fn status(http_status: Option<u16>) -> &'static str {
    match http_status {
        None => "none",
        Some(100..=199) => "1xx",
        Some(200..=299) => "2xx",
        Some(300..=399) => "3xx",
        Some(400..=499) => "4xx",
        Some(500..=599) => "5xx",
        Some(_) => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, Utc};
    use gristmill_common::failure::{EarlierAttempt, ErrorRecord, FellBack};
    use gristmill_common::id::{BatchId, JobId};
    use gristmill_common::job::{JobRef, LaneKey};
    use gristmill_common::outcome::{CostBasis, JobResult, Usage};
    use gristmill_common::store::Wake;

    use super::super::text::Format;
    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn attempt(http_status: Option<u16>, class: Option<ErrorClass>, cost_pico_usd: Option<i64>) -> AttemptRecord {
        AttemptRecord {
            attempt: 1,
            provider: "p".into(),
            deployment: "d".into(),
            model: "m".into(),
            served_model: None,
            service_tier: None,
            started_at: NOW,
            ttft_ms: None,
            latency_ms: 1_500,
            http_status,
            counted: true,
            usage: Usage { input_tokens: Some(7), reasoning_tokens: Some(2), ..Usage::default() },
            cost_pico_usd,
            cost_basis: CostBasis::Unknown,
            bound_pico_usd: None,
            price_ref: None,
            billed: None,
            request_id: None,
            error: class.map(|class| Box::new(ErrorRecord::new(class, "m"))),
        }
    }

    fn settlement(attempts: Vec<AttemptRecord>, end: End) -> Settlement {
        let lane = LaneKey { group: Arc::from("g"), priority: Priority::Bulk, lane: 0 };
        let batch = BatchId::new(NOW);
        let job = JobRef { id: JobId::derive(batch, 0), batch, run: 1, lane };
        Settlement { job, tags: Arc::default(), spends: None, attempts, caching: None, end }
    }

    fn wake(to: Option<&str>) -> End {
        let fell_back = to.map(|to| FellBack { to: to.to_owned(), attempts: 1 });
        let earlier = EarlierAttempt {
            attempt: 1,
            class: ErrorClass::Timeout,
            status: None,
            message: String::new(),
            underlying: None,
            times: 1,
            fell_back,
        };
        let (calls, attempts) = (1, 1);
        End::Wake(Wake {
            after: Duration::ZERO,
            reason: String::new(),
            calls,
            attempts,
            faults: 0,
            earlier: vec![earlier],
            spent_pico_usd: None,
        })
    }

    #[test]
    fn a_flush_counts_what_it_settles_by_labels_that_are_known() {
        let counts = Counts::default();
        let foreign = || ErrorClass::from_name("SomethingOfTheProvidersError");
        let error = ErrorRecord::new(ErrorClass::Cancelled, "m");
        let cancelled = JobResult::without_answer(Status::Cancelled, error, 0, NOW);
        let settlements = [
            settlement(Vec::new(), End::Result(Box::new(cancelled))),
            settlement(vec![attempt(Some(418), Some(foreign()), Some(2_500_000_000_000))], wake(None)),
            settlement(vec![attempt(None, Some(ErrorClass::Timeout), None)], wake(Some("h"))),
            settlement(Vec::new(), wake(Some("h"))),
        ];
        settlements.iter().for_each(|_| counts.settled());
        let waiting = counts.waiting("g", Priority::Bulk);
        counts.flushed(&settlements, Flushed { lost: 1, ..Flushed::default() }, Duration::from_millis(30));
        waiting.called();
        let mut page = Page::new(Format::Prometheus);
        counts.show(&mut page);
        let text = page.finish();
        for line in [
            r#"gristmill_jobs_ended_total{group="g",status="cancelled"} 1.0"#,
            r#"gristmill_retries_total{group="g",class="other"} 1.0"#,
            r#"gristmill_fallbacks_total{group="g",to="h",class="Timeout"} 1.0"#,
            r#"gristmill_jobs_put_back_total{group="g"} 1.0"#,
            r#"gristmill_calls_total{deployment="d",outcome="other",http_status="4xx"} 1.0"#,
            r#"gristmill_calls_total{deployment="d",outcome="Timeout",http_status="none"} 1.0"#,
            r#"gristmill_call_duration_seconds_sum{deployment="d"} 3.0"#,
            r#"gristmill_tokens_total{deployment="d",kind="input"} 14.0"#,
            r#"gristmill_tokens_total{deployment="d",kind="output_reasoning"} 4.0"#,
            r#"gristmill_cost_usd_total{deployment="d"} 2.5"#,
            r#"gristmill_calls_of_unknown_cost_total{deployment="d"} 1.0"#,
            r#"gristmill_flush_size_sum 4.0"#,
            r#"gristmill_flush_duration_seconds_bucket{le="0.05"} 1.0"#,
            r#"gristmill_results_lost_total 1.0"#,
            r#"gristmill_results_uncommitted 0.0"#,
            r#"gristmill_jobs_waiting{group="g",priority="bulk"} 0.0"#,
            r#"gristmill_queue_wait_seconds_count{group="g"} 1.0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("SomethingOfTheProviders"));
    }
}
