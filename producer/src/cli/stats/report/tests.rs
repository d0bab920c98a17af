use gristmill_common::store::UsageScope;

use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn part(class: &str, time: &str, sums: Sums) -> Part {
    Part { names: ["gpt-4o", class, time].map(str::to_owned).to_vec(), sums }
}

fn durations(of: &[u32]) -> Histogram {
    let mut histogram = Histogram::default();
    of.iter().for_each(|duration| histogram.add(*duration));
    histogram
}

fn parts() -> Vec<Part> {
    let good = Sums {
        calls: 90,
        succeeded: 95,
        repeated: 4,
        input_tokens: 90_000,
        cached_input_tokens: 45_000,
        output_tokens: 900,
        cost_pico_usd: 720_000_000_000,
        cached: 5,
        queue: durations(&[1, 2, 3]),
        ttft: durations(&[120, 130]),
        latency: durations(&[150, 160, 170, 1_200]),
        ..Sums::default()
    };
    let refused = Sums { calls: 9, uncounted: 9, ..Sums::default() };
    let late = Sums { calls: 1, unseen: 1, failed: 1, latency: Histogram::default(), ..Sums::default() };
    let more = Sums { succeeded: 5, calls: 5, ..Sums::default() };
    vec![
        part("", "2026-11-23T11:10:00Z", good),
        part("", "2026-11-23T11:59:50Z", more),
        part("RateLimitError", "2026-11-23T11:20:10Z", refused),
        part("Timeout", "2026-11-23T11:30:00Z", late),
    ]
}

fn scope(since: Option<DateTime<Utc>>) -> Scope {
    Scope { usage: UsageScope { since, ..UsageScope::default() }, batch: None }
}

#[test]
fn people_read_a_block_for_each_line() {
    let by = [By::Model];
    let scope = scope(Some(now() - TimeDelta::hours(1)));
    let report = Report::new(&by, parts(), &scope, now());
    let canvas = Canvas { blocks: true, width: 80 };
    assert_eq!(
        report.text(&scope, canvas),
        "2026-11-23 11:00:00 to 2026-11-23 12:00:00 UTC (1h00m)\n\n\
         gpt-4o\n  \
         jobs        101 ended, 99.0% succeeded, 1 failed\n  \
         calls       105, 1.8 a minute, 4 repeated (3.8%), 9 refused (8.6%)\n  \
         errors      RateLimitError 9 (8.6%), Timeout 1 (1.0%, 1 ended so)\n  \
         cache       5.0% of jobs from the response cache, 50.0% of input from the provider's\n  \
         tokens      90,000 (25.0 a second) in, 900 (0.2 a second) out\n  \
         cost        $0.720, $0.000200 a second, unknown of 1 call\n  \
         queue       p50 2ms  p90 3ms  p99 3ms\n  \
         first byte  p50 121ms  p90 131ms  p99 131ms\n  \
         call        p50 163ms  p90 1.2s  p99 1.2s\n  \
         over time        █         ▁             ▁| 95 jobs in 2m00s at most\n    \
         100ms-200ms  ████████████████████████ 3\n    \
         200ms-500ms   0\n     \
         500ms-1.0s   0\n      \
         1.0s-2.0s  ████████ 1\n"
    );
}

#[test]
fn programs_read_all_of_it() {
    let by = [By::Model];
    let scope = scope(None);
    let json = Report::new(&by, parts(), &scope, now()).json(&scope);
    assert_eq!((&json["from"], &json["seconds"]), (&"2026-11-23T11:10:00Z".into(), &3_000.0.into()));
    let line = &json["lines"][0];
    assert_eq!((&line["names"]["model"], &line["calls"]), (&"gpt-4o".into(), &105.into()));
    assert_eq!(line["errors"][0]["class"], "RateLimitError");
    assert_eq!((&line["ttft_ms"]["count"], &line["latency_ms"]["max"]), (&2.into(), &1_183.into()));
    let over_time = &line["over_time"];
    let ended: u64 = over_time["ended"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((&over_time["step_s"], ended), (&60.into(), 101));
    assert_eq!(line["cache_hit_rate"], 5.0 / 101.0);
}

#[test]
fn nothing_is_told_of_nothing() {
    let by = [By::Model];
    let report = Report::new(&by, Vec::new(), &scope(None), now());
    assert_eq!(report.text(&scope(None), Canvas { blocks: false, width: 80 }), "nothing has been called or ended\n");
}

#[test]
fn steps_are_as_fine_as_the_sums_and_the_width_allow() {
    let ago = |from: TimeDelta, to: TimeDelta| step(now() - from, now() - to, now());
    assert_eq!(ago(TimeDelta::minutes(5), TimeDelta::zero()), 10);
    assert_eq!(ago(TimeDelta::minutes(59), TimeDelta::zero()), 60);
    assert_eq!(ago(TimeDelta::hours(3), TimeDelta::hours(3) - TimeDelta::minutes(2)), 60);
    assert_eq!(ago(TimeDelta::days(3), TimeDelta::days(3) - TimeDelta::minutes(2)), 3_600);
    assert_eq!(ago(TimeDelta::days(365), TimeDelta::zero()), 604_800);
    assert!(ago(TimeDelta::days(3_650), TimeDelta::zero()) > 604_800);
    assert_eq!(fitted((0..50).collect(), 60, 20), (vec![6, 22, 38, 54, 70, 86, 102, 118, 134, 150, 166, 182, 97], 240));
}

#[test]
fn shares_are_never_rounded_to_all_or_nothing() {
    let shown = [(1, 1), (99_999, 100_000), (1, 100_000), (0, 5), (0, 0)].map(|(part, whole)| percent(part, whole));
    assert_eq!(shown, ["100.0%", "99.9%", "<0.1%", "0.0%", "-"]);
}
