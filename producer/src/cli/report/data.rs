//! What a report holds, and its JSON. `docs/reports.md` describes it; a change of what is there already is a new version. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use gristmill_common::batch::Batch;
use gristmill_common::price::PicoUsd;
use gristmill_common::store::{ErrorCount, LostCalls, WorkerRow};
use gristmill_common::tally::{By, Histogram, Part, Sums};
use serde_json::{Map, Value, json};

use super::series::Series;
use crate::cli::lost;

/// The version of the JSON.
const VERSION: u32 = 1;

/// What a report is of.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    pub(super) batch: Option<String>,
    pub(super) project: Option<String>,
    pub(super) since: Option<DateTime<Utc>>,
}

impl Scope {
    /// Says it for people.
    pub(super) fn title(&self) -> String {
        let since = self.since.map(|since| format!(" since {}", since.to_rfc3339_opts(SecondsFormat::Secs, true)));
        let since = since.unwrap_or_default();
        match (&self.batch, &self.project) {
            (Some(batch), _) => format!("batch {batch}"),
            (None, Some(project)) => format!("project {project}{since}"),
            (None, None) => format!("all batches{since}"),
        }
    }
}

/// All that a report tells.
#[derive(Debug)]
pub(super) struct Report {
    /// When it was made.
    pub(super) at: DateTime<Utc>,
    pub(super) scope: Scope,
    /// The batch, or the newest of several.
    pub(super) batches: Vec<Batch>,
    pub(super) totals: Sums,
    /// What died workers may have called.
    pub(super) lost: LostCalls,
    pub(super) by: Vec<(By, Vec<Part>)>,
    /// Sums by the class of the error, the empty one included.
    pub(super) classes: Vec<Part>,
    /// Jobs that failed, by class, of each batch.
    pub(super) failures: Vec<ErrorCount>,
    pub(super) series: Series,
    pub(super) workers: Vec<WorkerRow>,
}

/// A class of errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) name: String,
    /// Calls that ended with it.
    pub(super) calls: i64,
    /// Runs that ended with it.
    pub(super) runs: i64,
    /// Jobs whose latest run ended with it.
    pub(super) jobs: u64,
    /// A message of one of these jobs.
    pub(super) example: Option<String>,
}

impl Report {
    /// Returns the seconds from the first thing that happened to the last.
    pub(super) fn seconds(&self) -> i64 {
        self.series.points.len() as i64 * self.series.length_s
    }

    /// Returns the sums by something.
    pub(super) fn by(&self, by: &By) -> &[Part] {
        self.by.iter().find(|(own, _)| own == by).map_or(&[], |(_, parts)| parts)
    }

    /// Returns the classes of errors, those of most calls first.
    pub(super) fn classes(&self) -> Vec<Class> {
        let mut jobs: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
        for failure in &self.failures {
            let entry = jobs.entry(&failure.class).or_insert((0, &failure.example));
            entry.0 += failure.count;
        }
        let class = |part: &Part| {
            let name = part.names.first().filter(|name| !name.is_empty())?;
            let (jobs, example) = jobs.get(name.as_str()).copied().unzip();
            let sums = &part.sums;
            let class = Class {
                name: name.clone(),
                calls: sums.calls,
                runs: sums.ended(),
                jobs: jobs.unwrap_or(0),
                example: example.map(str::to_owned),
            };
            (class.calls > 0 || class.runs > 0).then_some(class)
        };
        let mut classes: Vec<Class> = self.classes.iter().filter_map(class).collect();
        classes.sort_by_key(|class| std::cmp::Reverse(class.calls.max(class.runs)));
        classes
    }

    /// Returns how many calls ended with an error.
    pub(super) fn failed_calls(&self) -> i64 {
        self.classes
            .iter()
            .filter(|part| part.names.first().is_some_and(|name| !name.is_empty()))
            .map(|part| part.sums.calls)
            .sum()
    }

    /// Returns it for programs.
    pub(super) fn json(&self) -> Value {
        let by = self.by.iter().map(|(by, parts)| {
            let part = |part: &Part| {
                let mut object = Map::new();
                object.insert("name".to_owned(), part.names.first().cloned().into());
                object.extend(sums(&part.sums));
                Value::from(object)
            };
            (by.to_string().replace('-', "_"), Value::from(parts.iter().map(part).collect::<Vec<_>>()))
        });
        let classes = self.classes().into_iter().map(|class| {
            json!({
                "class": class.name, "calls": class.calls, "runs": class.runs, "jobs": class.jobs, "example": class.example,
            })
        });
        let points = self.series.points.iter().map(|point| {
            let sums = &point.sums;
            json!({
                "at": instant(point.at_s), "succeeded": sums.succeeded, "failed": sums.failed, "cancelled": sums.cancelled,
                "expired": sums.expired, "calls": sums.calls, "failed_calls": point.failed_calls,
                "input_tokens": sums.input_tokens, "output_tokens": sums.output_tokens,
                "cost_pico_usd": sums.cost_pico_usd,
            })
        });
        let buckets = self.totals.latency.buckets();
        let buckets = buckets.map(|(from, to, calls)| json!({ "from_ms": from, "to_ms": to, "calls": calls }));
        let workers = self.workers.iter().map(|worker| {
            let info = &worker.info;
            json!({
                "host": info.host, "pid": info.pid, "version": info.version, "models": info.groups,
                "concurrency": info.concurrency, "alive": worker.alive, "in_flight": worker.in_flight,
            })
        });
        let seconds = self.seconds();
        let rate = |count: i64| (seconds > 0).then(|| ratio(count, seconds));
        let first = self.series.points.first().map(|point| instant(point.at_s));
        let last = self.series.points.last().map(|point| instant(point.at_s + self.series.length_s));
        json!({
            "version": VERSION,
            "at": self.at,
            "scope": { "batch": self.scope.batch, "project": self.scope.project, "since": self.scope.since },
            "span": { "from": first, "to": last, "seconds": seconds },
            "totals": sums(&self.totals),
            "lost": lost::json(&self.lost),
            "rates": {
                "ended_per_s": rate(self.totals.ended()),
                "calls_per_s": rate(self.totals.calls),
                "tokens_per_s": rate(self.totals.input_tokens + self.totals.output_tokens),
                "failed_calls": self.failed_calls(),
                "failed_calls_share": (self.totals.calls > 0).then(|| ratio(self.failed_calls(), self.totals.calls)),
                "succeeded_share":
                    (self.totals.ended() > 0).then(|| ratio(self.totals.succeeded, self.totals.ended())),
            },
            "batches": self.batches,
            "by": by.collect::<Map<_, _>>(),
            "errors": classes.collect::<Vec<_>>(),
            "series": { "seconds": self.series.length_s, "points": points.collect::<Vec<_>>() },
            "latency": buckets.collect::<Vec<_>>(),
            "workers": workers.collect::<Vec<_>>(),
        })
    }
}

/// Tells whether anything is known of what calls cost.
pub(super) const fn is_cost_known(sums: &Sums) -> bool {
    sums.cost_pico_usd != 0 || sums.unpriced + sums.unseen == 0
}

/// Divides counts.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(super) fn ratio(part: i64, whole: i64) -> f64 {
    part as f64 / whole as f64
}

fn instant(at_s: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at_s, 0)
}

fn sums(sums: &Sums) -> Map<String, Value> {
    let cost = is_cost_known(sums).then_some(PicoUsd(sums.cost_pico_usd));
    let value = json!({
        "calls": sums.calls,
        "repeated": sums.repeated,
        "uncounted": sums.uncounted,
        "unpriced": sums.unpriced,
        "unseen": sums.unseen,
        "input_tokens": sums.input_tokens,
        "cached_input_tokens": sums.cached_input_tokens,
        "cache_write_tokens": sums.cache_write_tokens,
        "output_tokens": sums.output_tokens,
        "reasoning_tokens": sums.reasoning_tokens,
        "cost_usd": cost.map(PicoUsd::dollars),
        "cost_pico_usd": cost,
        "unseen_bound_usd": PicoUsd(sums.bound_pico_usd).dollars(),
        "unseen_bound_pico_usd": sums.bound_pico_usd,
        "succeeded": sums.succeeded,
        "failed": sums.failed,
        "cancelled": sums.cancelled,
        "expired": sums.expired,
        "cached": sums.cached,
        "saved_usd": PicoUsd(sums.saved_pico_usd).dollars(),
        "saved_pico_usd": sums.saved_pico_usd,
        "latency_ms": percentiles(&sums.latency),
        "ttft_ms": percentiles(&sums.ttft),
        "queue_ms": percentiles(&sums.queue),
    });
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn percentiles(histogram: &Histogram) -> Value {
    let at = |share: f64| histogram.quantile(share);
    json!({
        "count": histogram.count(), "p50": at(0.5), "p90": at(0.9), "p95": at(0.95), "p99": at(0.99), "max": at(1.0),
    })
}
