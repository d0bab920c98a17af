use super::*;

/// A meter, and the calls that arrive at it.
struct Bench {
    meter: Meter,
    start: Instant,
    shape: LimitShape,
}

impl Bench {
    fn new(limits: &str) -> Self {
        Self::shaped(LimitShape::default(), limits)
    }

    fn shaped(shape: LimitShape, limits: &str) -> Self {
        let start = Instant::now();
        Self { meter: Meter::new(shape, read(limits), start), start, shape }
    }

    fn at(&self, ms: u64) -> Moment {
        let since_first = Duration::from_millis(ms);
        Moment { now: self.start + since_first, since_first, unix_ms: i64::try_from(ms).unwrap() }
    }

    fn arrive(&self, model: &str, tokens: u64, ms: u64) -> Arrival {
        self.meter.arrive(model, Cost { tokens, input_tokens: tokens }, self.at(ms))
    }

    /// Lets calls of five tokens arrive and counts those that are let in.
    fn admitted(&self, calls: u64, ms: u64) -> usize {
        (0..calls).filter(|_| self.arrive("m", 5, ms).verdict.is_ok()).count()
    }

    fn change(&self, model: Option<&str>, limits: &str, ms: u64) {
        self.meter.change(model, |_| read(limits), self.at(ms).now);
    }

    fn all(&self) -> ScopeStats {
        self.meter.read().0
    }
}

fn read(limits: &str) -> Limits {
    if limits.is_empty() { Limits::default() } else { limits.parse().unwrap() }
}

#[test]
fn every_shape_lets_in_what_it_holds_and_no_more() {
    let table = [
        // Shape, limits, and how many of 2,000 calls are let in at which time.
        ("bucket", "rpm:600", vec![(0, 10), (50, 0), (100, 1), (400, 3), (60_000, 10)]),
        ("bucket:5s", "rpm:600", vec![(0, 50), (1_000, 10), (2_500, 15), (60_000, 50)]),
        ("window", "rpm:600", vec![(0, 600), (59_999, 0), (60_000, 600), (61_000, 0)]),
        ("azure", "rpm:600", vec![(0, 100), (9_999, 0), (10_000, 100), (35_000, 100)]),
        ("azure:1s", "rpm:600", vec![(500, 10), (999, 0), (1_000, 10), (2_000, 10)]),
        // Azure's tokens are those of the minute.
        ("azure:1s", "tpm:500", vec![(500, 100), (59_999, 0), (60_000, 100)]),
    ];
    for (shape, limits, wanted) in table {
        let bench = Bench::shaped(shape.parse().unwrap(), limits);
        for (ms, admitted) in wanted {
            assert_eq!(bench.admitted(2_000, ms), admitted, "{:?} at {ms} ms", bench.shape);
        }
    }
}

#[test]
fn a_refusal_tells_the_wait_and_takes_nothing() {
    let bench = Bench::new("rpm:30");
    let first = bench.arrive("m", 1, 0);
    assert!(first.verdict.is_ok());
    assert_eq!(first.lefts.requests, Some(Left { limit: 30, remaining: 0, reset: Duration::from_secs(2) }));
    let refusal = bench.arrive("m", 1, 500).verdict.unwrap_err();
    let wait = Some(Duration::from_millis(1_500));
    assert_eq!(refusal, Refusal { dimension: Dimension::Requests, limit: 30, requested: 1, wait });
    assert!(bench.arrive("m", 1, 2_000).verdict.is_ok());
}

#[test]
fn a_refused_request_takes_no_tokens_and_hears_of_those_that_are_there() {
    let bench = Bench::new("rpm:60,tpm:60000");
    for (ms, remaining) in [(0, 900), (0, 900), (50, 950), (990, 1_000)] {
        assert_eq!(bench.arrive("m", 100, ms).lefts.tokens.unwrap().remaining, remaining, "at {ms} ms");
    }
    bench.change(None, "rpm:60,tpm:120000", 990);
    assert_eq!(bench.arrive("m", 100, 990).lefts.tokens.unwrap().remaining, 2_000);
}

#[test]
fn a_limit_of_zero_is_no_limit() {
    assert_eq!(Bench::new("rpm:0").admitted(1_000, 0), 1_000);
}

#[test]
fn output_is_taken_when_it_is_there_and_its_debt_must_be_paid() {
    for (shape, pays_at) in [("bucket", 10_000), ("window", 60_000)] {
        let bench = Bench::shaped(shape.parse().unwrap(), "otpm:6000");
        // However long the answer may become.
        let permits: Vec<_> = (0..10).map(|_| bench.arrive("m", 1_000_000, 0).verdict.unwrap().unwrap()).collect();
        let produced = if shape == "bucket" { 110 } else { 601 };
        for permit in permits {
            permit.settle(produced, bench.at(0));
        }
        let refusal = bench.arrive("m", 1, 1).verdict.unwrap_err();
        assert_eq!(refusal.dimension, Dimension::OutputTokens, "{shape}");
        assert!(refusal.wait.unwrap() <= Duration::from_millis(pays_at));
        assert!(bench.arrive("m", 1, pays_at - 10).verdict.is_err(), "{shape}");
        assert!(bench.arrive("m", 1, pays_at).verdict.is_ok(), "{shape}");
        let stats = bench.all();
        assert_eq!((stats.otpm.accepted, stats.otpm.peak_accepted), (10 * produced, 10 * produced));
        assert_eq!(stats.otpm.refusals, 2);
        assert_eq!(stats.seconds[0].output_tokens, 10 * produced);
    }
}

#[test]
fn calls_under_way_are_limited_until_they_end() {
    let bench = Bench::new("max_parallel:2");
    let permits: Vec<_> = (0..2).map(|_| bench.arrive("m", 1, 0).verdict.unwrap().unwrap()).collect();
    let refusal = bench.arrive("m", 1, 0).verdict.unwrap_err();
    assert_eq!((refusal.dimension, refusal.limit, refusal.requested), (Dimension::Parallel, 2, 3));
    for permit in permits {
        permit.settle(7, bench.at(10));
        assert!(bench.arrive("m", 1, 10).verdict.is_ok());
    }
    let stats = bench.all().max_parallel;
    assert_eq!((stats.accepted, stats.refused, stats.refusals), (4, 1, 1));
    assert_eq!((stats.peak_arrived, stats.peak_accepted), (3, 2));
    assert_eq!((stats.breaches, stats.accepted_breaches), (1, 0));
}

#[test]
fn a_day_holds_its_requests_at_any_time() {
    for shape in ["bucket", "window", "azure"] {
        let bench = Bench::shaped(shape.parse().unwrap(), "rpd:24");
        assert_eq!(bench.admitted(30, 0), 24, "{shape}");
        let refusal = bench.arrive("m", 1, 0).verdict.unwrap_err();
        let hours = if shape == "bucket" { 1 } else { 24 };
        assert_eq!(refusal.wait, Some(Duration::from_secs(hours * 3_600)), "{shape}");
        let stats = bench.all().rpd;
        assert_eq!((stats.peak_arrived, stats.peak_accepted, stats.breaches), (31, 24, 7));
    }
}

#[test]
fn a_model_has_limits_and_an_audit_of_its_own_beside_those_of_all() {
    let bench = Bench::new("rpm:1200");
    bench.change(Some("small"), "rpm:300", 0);
    bench.change(Some("watched"), "", 0);
    let admitted = |model: &str| (0..10).filter(|_| bench.arrive(model, 5, 0).verdict.is_ok()).count();
    assert_eq!((admitted("small"), admitted("watched"), admitted("other")), (5, 10, 5));
    let (all, models) = bench.meter.read();
    assert_eq!((all.accepted, all.refused, all.rpm.refusals), (20, 10, 5));
    let of = |name: &str| (models[name].accepted, models[name].refused, models[name].rpm.refusals);
    assert_eq!((of("small"), of("watched")), ((5, 5, 5), (10, 0, 0)));
    assert_eq!(models.len(), 2);
    // Refused by the limit of all, it takes nothing from the model's.
    assert_eq!(bench.arrive("small", 5, 250).lefts.requests.unwrap().remaining, 0);
    // Headers tell what is nearer.
    assert_eq!(bench.arrive("other", 5, 500).lefts.requests.unwrap().limit, 1_200);
    assert_eq!(bench.arrive("small", 5, 1_000).lefts.requests.unwrap().limit, 300);
}

#[test]
fn the_audit_sees_every_sliding_minute_of_arrivals_and_of_what_was_let_in() {
    let bench = Bench::new("rpm:60");
    for second in 0..240 {
        bench.arrive("m", 2, second * 1_000);
    }
    let stats = bench.all();
    assert_eq!((stats.rpm.peak_arrived, stats.tpm.peak_arrived, stats.rpm.breaches), (60, 120, 0));
    for _ in 0..5 {
        bench.arrive("m", 2, 239_500);
    }
    let stats = bench.all();
    assert_eq!((stats.rpm.peak_arrived, stats.tpm.peak_arrived, stats.rpm.breaches), (65, 130, 5));
    assert_eq!((stats.rpm.peak_accepted, stats.rpm.accepted_breaches), (60, 0));
    assert_eq!((stats.rpm.peak_arrived_permille, stats.rpm.peak_accepted_permille), (1_083, 1_000));
    assert_eq!((stats.rpm.accepted, stats.rpm.refused, stats.tpm.refused), (240, 5, 10));
    bench.arrive("m", 2, 10_000_000);
    let stats = bench.all();
    assert_eq!(stats.rpm.peak_arrived, 65);
    assert_eq!((stats.first_accepted_ms, stats.last_accepted_ms), (Some(0), Some(10_000_000)));
}

#[test]
fn the_audit_finds_what_windows_let_in_at_their_border() {
    let bench = Bench::shaped(LimitShape::Window, "rpm:100");
    assert_eq!((bench.admitted(100, 59_000), bench.admitted(100, 60_000)), (100, 100));
    let stats = bench.all().rpm;
    assert_eq!((stats.peak_accepted, stats.accepted_breaches, stats.peak_accepted_permille), (200, 100, 2_000));
    assert_eq!(stats.refusals, 0);
}

#[test]
fn a_limit_that_changes_is_audited_by_what_held() {
    let bench = Bench::new("rpm:600");
    let mut breaches = Vec::new();
    for tenth in 0..1_200 {
        match tenth {
            300 => bench.change(None, "rpm:6000", 30_000),
            600 => bench.change(None, "rpm:600", 60_000),
            _ => {}
        }
        // As fast as the limit allows at each time.
        let calls = if (300..600).contains(&tenth) { 10 } else { 1 };
        assert_eq!(bench.admitted(calls, tenth * 100), usize::try_from(calls).unwrap(), "{tenth}");
        breaches.push(bench.all().rpm.breaches);
    }
    // A slot of the audit is 10 ms wide, and calls come at its very border.
    assert!(bench.all().rpm.peak_arrived_permille <= 1_010, "{:?}", bench.all().rpm);
    assert_eq!(bench.all().rpm.limit, Some(600));
    bench.change(None, "", 120_000);
    bench.admitted(10_000, 120_010);
    let stats = bench.all().rpm;
    assert_eq!((stats.limit, stats.breaches), (None, *breaches.last().unwrap()));
}

#[test]
fn new_limits_find_the_old_ones_used_in_proportion() {
    let bench = Bench::shaped(LimitShape::Window, "rpm:100");
    assert_eq!(bench.admitted(50, 0), 50);
    bench.change(None, "rpm:1000", 1_000);
    assert_eq!(bench.admitted(2_000, 1_000), 500);
    bench.change(None, "", 2_000);
    assert_eq!(bench.admitted(2_000, 2_000), 2_000);
    bench.change(None, "rpm:10", 3_000);
    assert_eq!(bench.admitted(20, 3_000), 10);
}

#[test]
fn the_course_of_things_is_told_second_by_second() {
    let bench = Bench::new("rpm:60,tpm:1000000");
    for ms in [0, 100, 1_000, 3_000] {
        bench.arrive("m", 7, ms);
    }
    let seconds: Vec<_> = bench.all().seconds.iter().map(|s| (s.second, s.accepted, s.refused)).collect();
    assert_eq!(seconds, [(0, 1, 1), (1, 1, 0), (3, 1, 0)]);
    let first = bench.all().seconds[0];
    assert_eq!((first.accepted_tokens, first.refused_tokens, first.input_tokens), (7, 7, 7));
}
