//! The audit: who kept the limits, over every sliding minute, of all that arrived and of what was let in.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::history::History;
use super::limits::Limits;
use super::series::{Second, Series};
use super::sliding::Sliding;
use super::{Cost, Dimension, Moment};

/// What the audit found of the calls that share limits: of all, or of those to one model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ScopeStats {
    /// Calls that the limits let in, whatever became of them then.
    pub accepted: u64,
    /// Calls that a limit refused with status 429, here or in the other scope that they belong to.
    pub refused: u64,
    /// When the first call was let in, Unix time in milliseconds.
    pub first_accepted_ms: Option<i64>,
    /// When the last call was let in, Unix time in milliseconds.
    pub last_accepted_ms: Option<i64>,
    /// Of requests per minute.
    pub rpm: LimitStats,
    /// Of tokens per minute.
    pub tpm: LimitStats,
    /// Of tokens of input per minute.
    pub itpm: LimitStats,
    /// Of tokens of output per minute. They are counted while `otpm` or `max_parallel` is limited; each was accepted.
    pub otpm: LimitStats,
    /// Of requests in 24 h, counted from the first limit on them.
    pub rpd: LimitStats,
    /// Of calls under way, counted while `otpm` or `max_parallel` is limited.
    pub max_parallel: LimitStats,
    /// The seconds in which something came, of the last two hours at least.
    pub seconds: Vec<Second>,
}

/// What the audit found of one limit, in the unit that it limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitStats {
    /// The limit that holds now.
    pub limit: Option<u32>,
    /// What calls took that were let in.
    pub accepted: u64,
    /// What calls would have taken that were refused, by whichever limit.
    pub refused: u64,
    /// Calls that this limit refused.
    pub refusals: u64,
    /// Most that arrived in any 60 s (`rpd`: 24 h, `max_parallel`: at once), refused calls included.
    pub peak_arrived: u64,
    /// Most that was let in during any 60 s.
    pub peak_accepted: u64,
    /// Arrivals with which the last 60 s held more than the limit allowed.
    ///
    /// Where the limit has changed within these 60 s, they may hold its mean over them, and anything if a part of them had
    /// no limit.
    pub breaches: u64,
    /// Calls let in with which those of the last 60 s were more than the limit allowed: by its burst, or at the border of
    /// two windows.
    pub accepted_breaches: u64,
    /// Most that ever arrived in 60 s, in thousandths of what the limit allowed: 1,050 is 5 % too many.
    pub peak_arrived_permille: u64,
    /// Most that ever was let in during 60 s, in thousandths of what the limit allowed.
    pub peak_accepted_permille: u64,
}

/// What is watched of one scope.
#[derive(Debug)]
pub(super) struct Audit {
    start: Instant,
    /// Requests, tokens and tokens of input: those that arrived, then those that were let in.
    minute: Sliding<6>,
    /// Tokens of output; made when they are first counted.
    output: Option<Sliding<1>>,
    /// Requests that arrived and that were let in; made with the first limit on them.
    day: Option<Sliding<2>>,
    findings: [Finding; Dimension::ALL.len()],
    accepted: u64,
    refused: u64,
    first_accepted_ms: Option<i64>,
    last_accepted_ms: Option<i64>,
    series: Series,
}

#[derive(Debug)]
struct Finding {
    stats: LimitStats,
    /// Whether any limit held so far; most calls need not ask which.
    was_limited: bool,
    history: History,
}

impl Audit {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        let finding = |dimension: Dimension| {
            let limit = limits.of(dimension);
            let history = History::new(dimension.window(), limit, now);
            Finding { stats: LimitStats::default(), was_limited: limit.is_some(), history }
        };
        let mut audit = Self {
            start: now,
            minute: Sliding::new(Dimension::Requests.window(), now),
            output: None,
            day: None,
            findings: Dimension::ALL.map(finding),
            accepted: 0,
            refused: 0,
            first_accepted_ms: None,
            last_accepted_ms: None,
            series: Series::default(),
        };
        audit.open(limits);
        audit
    }

    /// Notes which limits hold from now on; before the first call, that is from the start.
    pub(super) fn change(&mut self, limits: Limits, now: Instant) {
        let has_begun = self.accepted + self.refused > 0;
        for dimension in Dimension::ALL {
            let (finding, limit) = (&mut self.findings[dimension as usize], limits.of(dimension));
            finding.was_limited |= limit.is_some();
            if has_begun {
                finding.history.change(limit, now);
            } else {
                finding.history = History::new(dimension.window(), limit, now);
            }
        }
        self.open(limits);
    }

    /// Starts to count what only its limit has counted.
    fn open(&mut self, limits: Limits) {
        if limits.of(Dimension::RequestsPerDay).is_some() && self.day.is_none() {
            self.day = Some(Sliding::new(Dimension::RequestsPerDay.window(), self.start));
        }
    }

    /// Counts an arrival; `under_way` are the calls that were let in before and have not ended, where they are counted.
    pub(super) fn arrive(&mut self, cost: Cost, is_accepted: bool, under_way: Option<u32>, at: Moment) {
        let Cost { tokens, input_tokens } = cost;
        let second = self.series.at(at.since_first);
        if is_accepted {
            self.accepted += 1;
            self.first_accepted_ms.get_or_insert(at.unix_ms);
            self.last_accepted_ms = Some(at.unix_ms);
            second.accepted += 1;
            second.accepted_tokens += tokens;
            second.input_tokens += input_tokens;
        } else {
            self.refused += 1;
            second.refused += 1;
            second.refused_tokens += tokens;
        }

        let share = u64::from(is_accepted);
        let counts = [1, tokens, input_tokens, share, share * tokens, share * input_tokens];
        let [requests, tokens, input, accepted_requests, accepted_tokens, accepted_input] =
            self.minute.add(counts, at.now);
        for (dimension, arrived, accepted) in [
            (Dimension::Requests, requests, accepted_requests),
            (Dimension::Tokens, tokens, accepted_tokens),
            (Dimension::InputTokens, input, accepted_input),
        ] {
            self.findings[dimension as usize].note(cost.of(dimension), is_accepted, arrived, accepted, at.now);
        }
        if let Some(day) = &mut self.day {
            let [arrived, accepted] = day.add([1, share], at.now);
            self.findings[Dimension::RequestsPerDay as usize].note(1, is_accepted, arrived, accepted, at.now);
        }
        if let Some(under_way) = under_way.map(u64::from) {
            self.findings[Dimension::Parallel as usize].note(1, is_accepted, under_way + 1, under_way + share, at.now);
        }
    }

    /// Counts that a limit of this scope refused a call.
    pub(super) fn refuse(&mut self, dimension: Dimension) {
        self.findings[dimension as usize].stats.refusals += 1;
    }

    /// Counts the output of a call that has ended.
    pub(super) fn settle(&mut self, output_tokens: u64, at: Moment) {
        self.series.at(at.since_first).output_tokens += output_tokens;
        let output = self.output.get_or_insert_with(|| Sliding::new(Dimension::OutputTokens.window(), self.start));
        let [sum] = output.add([output_tokens], at.now);
        self.findings[Dimension::OutputTokens as usize].note(output_tokens, true, sum, sum, at.now);
    }

    pub(super) fn read(&self) -> ScopeStats {
        let of = |dimension: Dimension| {
            let Finding { history, stats, .. } = &self.findings[dimension as usize];
            LimitStats { limit: history.current(), ..*stats }
        };
        ScopeStats {
            accepted: self.accepted,
            refused: self.refused,
            first_accepted_ms: self.first_accepted_ms,
            last_accepted_ms: self.last_accepted_ms,
            rpm: of(Dimension::Requests),
            tpm: of(Dimension::Tokens),
            itpm: of(Dimension::InputTokens),
            otpm: of(Dimension::OutputTokens),
            rpd: of(Dimension::RequestsPerDay),
            max_parallel: of(Dimension::Parallel),
            seconds: self.series.read(),
        }
    }
}

impl Finding {
    /// Adds a call of which the sums of its window tell already.
    fn note(&mut self, cost: u64, is_accepted: bool, arrived: u64, accepted: u64, now: Instant) {
        let stats = &mut self.stats;
        let taken = if is_accepted { &mut stats.accepted } else { &mut stats.refused };
        *taken = taken.saturating_add(cost);
        stats.peak_arrived = stats.peak_arrived.max(arrived);
        stats.peak_accepted = stats.peak_accepted.max(accepted);
        if !self.was_limited {
            return;
        }
        let Some(allowance) = self.history.allowance(now) else { return };
        stats.breaches += u64::from(arrived > allowance);
        stats.accepted_breaches += u64::from(is_accepted && accepted > allowance);
        let permille = |sum: u64| sum.saturating_mul(1_000) / allowance.max(1);
        stats.peak_arrived_permille = stats.peak_arrived_permille.max(permille(arrived));
        stats.peak_accepted_permille = stats.peak_accepted_permille.max(permille(accepted));
    }
}

impl Dimension {
    /// Returns the time over which the audit sums; calls under way are counted at once.
    fn window(self) -> Duration {
        if self == Self::Parallel { Duration::ZERO } else { self.period() }
    }
}
