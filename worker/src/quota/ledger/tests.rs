#![expect(clippy::cast_possible_truncation, reason = "milliseconds and limits of a trial")]

use std::collections::BinaryHeap;

use gristmill_common::id::OwnerId;
use gristmill_common::quota::{Account, Micros};

use super::*;

fn call() -> Need {
    PerDimension::from_fn(|dimension| u64::from(dimension == Dimension::Requests))
}

fn grant(units: u64, begins: Micros, ends: Micros) -> Grant {
    let mut grant = Grant::default();
    grant.per_minute[Dimension::Requests] = Some(600);
    grant.slices[Dimension::Requests] = Some(Slice { units, begins, ends });
    grant
}

fn ms(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

#[test]
fn nothing_starts_before_the_store_has_answered() {
    let start = Instant::now();
    let ledger = Ledger::new("a".into(), Limits::default());
    assert_eq!(ledger.take(&call(), start), Taken::Wait(None));
    ledger.grant(&Grant::default(), start, start);
    assert_eq!(ledger.take(&call(), start), Taken::Yes);
}

#[test]
fn a_slice_is_paced_inside_and_void_after() {
    let start = Instant::now();
    let ledger = Ledger::new("a".into(), Limits::default());
    ledger.grant(&grant(4, 0, 400_000), start, ms(start, 2));
    assert_eq!(ledger.take(&call(), start), Taken::Wait(Some(ms(start, 2))));
    assert_eq!(ledger.take(&call(), ms(start, 2)), Taken::Yes);
    assert_eq!(ledger.take(&call(), ms(start, 50)), Taken::Wait(Some(ms(start, 102))));
    assert_eq!(ledger.take(&call(), ms(start, 300)), Taken::Yes, "what is late may catch up");
    assert_eq!(ledger.take(&call(), ms(start, 300)), Taken::Yes);
    assert_eq!(ledger.take(&call(), ms(start, 700)), Taken::Wait(None), "the last one is void");
    let ask = ledger.ask(&Demand::default(), ms(start, 700));
    assert_eq!((ask.unused[Dimension::Requests], ask.heard.started, ask.in_flight), (1, 3, 3));
}

#[test]
fn what_a_call_did_not_use_is_told() {
    let start = Instant::now();
    let ledger = Ledger::new("a".into(), Limits::default());
    let mut grant = Grant::default();
    grant.per_minute[Dimension::Tokens] = Some(60_000);
    grant.slices[Dimension::Tokens] = Some(Slice { units: 1_000, begins: 0, ends: 1_000_000 });
    ledger.grant(&grant, start, start);
    let taken = PerDimension::from_fn(|_| 400);
    assert_eq!(ledger.take(&taken, start), Taken::Yes);
    ledger.settle(&taken, &PerDimension::from_fn(|_| 550));
    assert_eq!(ledger.ask(&Demand::default(), start).unused[Dimension::Tokens], -150);
    let huge = PerDimension::from_fn(|_| 60_001);
    assert!(matches!(ledger.take(&huge, start), Taken::TooLarge(why) if why.contains("60000 tpm")));
}

#[test]
fn a_call_larger_than_what_is_there_asks_for_all_it_needs() {
    let start = Instant::now();
    let ledger = Ledger::new("a".into(), Limits::default());
    ledger.grant(&grant(4, 0, 400_000), start, start);
    let need = PerDimension::from_fn(|_| 10);
    let demand = Demand { calls: 1, most: 8, all: need, next: need };
    let want = ledger.ask(&demand, start).want[Dimension::Requests];
    assert_eq!((want.units, want.least), (6, 6));
}

#[test]
fn an_ask_without_an_answer_loses_no_refusal_and_gives_nothing_back_twice() {
    let start = Instant::now();
    let ledger = Ledger::new("a".into(), Limits::default());
    ledger.grant(&grant(4, 0, 1), start, start);
    ledger.hear(|heard| heard.refused = 3);
    let ask = ledger.ask(&Demand::default(), ms(start, 900));
    assert_eq!(ask.unused[Dimension::Requests], 4);
    ledger.take_back(&ask);
    let again = ledger.ask(&Demand::default(), ms(start, 900));
    assert_eq!((again.unused[Dimension::Requests], again.heard.refused), (0, 3));
}

/// A provider's bucket, workers that have more to do than it allows, and time that is made up.
struct Trial {
    workers: usize,
    concurrency: u64,
    latency: Duration,
    /// What somebody wrote down.
    limits: Limits,
    /// What the provider allows in a minute, from these seconds on.
    allows: Vec<(u64, f64)>,
    /// Whether it tells its limit in headers.
    tells: bool,
    seconds: u64,
}

/// Calls of a second that the provider took, and that it refused.
type Counts = Vec<(u64, u64)>;

impl Trial {
    fn new(workers: usize, allows: f64) -> Self {
        Self {
            workers,
            concurrency: 128,
            latency: Duration::from_millis(300),
            limits: Limits::default(),
            allows: vec![(0, allows)],
            tells: false,
            seconds: 60,
        }
    }

    fn run(&self) -> Counts {
        const STEP: u64 = 5;
        let start = Instant::now();
        let born = chrono::DateTime::from_timestamp(1_000, 0).unwrap();
        let owners: Vec<OwnerId> = (0..self.workers).map(|_| OwnerId::new(born)).collect();
        let ledgers: Vec<_> = owners.iter().map(|_| Ledger::new("a".into(), self.limits)).collect();
        let mut account = Account::default();
        let mut next_ask: Vec<u64> = (0..self.workers as u64).map(|n| n * 37).collect();
        let mut ends: Vec<BinaryHeap<std::cmp::Reverse<u64>>> = vec![BinaryHeap::new(); self.workers];
        let mut counts: Counts = Vec::new();
        let mut level = self.allows[0].1 / 60.0;
        for now_ms in (0..self.seconds * 1_000).step_by(STEP as usize) {
            let now = ms(start, now_ms);
            let second = now_ms / 1_000;
            let allowed = self.allows.iter().rev().find(|(from, _)| *from <= second).unwrap().1;
            let burst = allowed / 60.0;
            level = (level + burst * STEP as f64 / 1_000.0).min(burst);
            counts.resize(second as usize + 1, (0, 0));
            for (index, ledger) in ledgers.iter().enumerate() {
                while ends[index].peek().is_some_and(|end| end.0 <= now_ms) {
                    ends[index].pop();
                    ledger.settle(&call(), &call());
                    if self.tells {
                        let mut told = Told::default();
                        told.per_minute[Dimension::Requests] = Some(allowed as u64);
                        ledger.tell(told);
                    }
                }
                let mut refused = 0;
                while (ends[index].len() as u64) < self.concurrency && ledger.take(&call(), now) == Taken::Yes {
                    if level >= 1.0 {
                        level -= 1.0;
                        counts[second as usize].0 += 1;
                        ends[index].push(std::cmp::Reverse(now_ms + self.latency.as_millis() as u64));
                    } else {
                        counts[second as usize].1 += 1;
                        refused += 1;
                        ends[index].push(std::cmp::Reverse(now_ms + 10));
                    }
                }
                ledger.hear(|heard| heard.refused += refused);
                if next_ask[index] <= now_ms {
                    let most = PerDimension::from_fn(|_| 10_000);
                    let demand = Demand { calls: 10_000, most: self.concurrency, all: most, next: call() };
                    let ask = ledger.ask(&demand, now);
                    let at = 1_000_000_000_000 + Micros::try_from(now_ms).unwrap() * 1_000;
                    let grant = account.lease(at, owners[index], &ask);
                    ledger.grant(&grant, now, now);
                    next_ask[index] = now_ms + u64::try_from(grant.again / 1_000).unwrap();
                }
            }
        }
        counts
    }
}

fn sums(counts: &[(u64, u64)]) -> (u64, u64) {
    counts.iter().fold((0, 0), |(taken, refused), second| (taken + second.0, refused + second.1))
}

#[test]
fn a_known_limit_is_used_up_and_kept() {
    for workers in [1, 2, 4, 16] {
        let limits = Limits { rpm: Some(6_000), ..Limits::default() };
        let trial = Trial { limits, ..Trial::new(workers, 6_000.0) };
        let (taken, refused) = sums(&trial.run()[1..]);
        assert!(taken * 100 >= 59 * 100 * 98, "{workers} workers: {taken} taken in 59 s");
        assert!(refused * 200 <= taken, "{workers} workers: {refused} refused");
    }
}

#[test]
fn a_limit_that_nobody_told_is_found() {
    for workers in [1, 4] {
        let counts = Trial { seconds: 120, ..Trial::new(workers, 3_000.0) }.run();
        let (taken, refused) = sums(&counts[60..]);
        assert!(taken >= 2_700, "{workers} workers: {taken} taken in a minute: {counts:?}");
        assert!(refused * 50 <= taken, "{workers} workers: {refused} of {taken} refused: {counts:?}");
    }
}

#[test]
fn a_limit_that_is_halved_and_doubled_is_followed_within_15_s() {
    for (tells, configured) in [(true, None), (false, Some(6_000)), (false, None)] {
        let limits = Limits { rpm: configured, ..Limits::default() };
        let allows = vec![(0, 6_000.0), (40, 3_000.0), (80, 6_000.0)];
        let counts = Trial { tells, limits, allows, seconds: 120, ..Trial::new(2, 0.0) }.run();
        let (taken, refused) = sums(&counts[55..80]);
        assert!(
            (1_150..=1_280).contains(&taken) && refused * 40 <= taken,
            "{tells} {configured:?}: {taken} {refused} {counts:?}"
        );
        let (taken, refused) = sums(&counts[95..120]);
        assert!(taken >= 2_300 && refused * 40 <= taken, "{tells} {configured:?}: {taken} {refused} {counts:?}");
    }
}
