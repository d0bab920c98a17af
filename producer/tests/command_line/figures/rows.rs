//! What SQL finds of calls and results, row by row, and how a figure is held against it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _, SqliteConnection};

use crate::desk::Desk;

/// Figures of calls, and what each call `a` adds to them.
pub(super) const OF_CALLS: [(&str, &str); 12] = [
    ("calls", "1"),
    ("repeated", "a.attempt > 1"),
    ("uncounted", "NOT a.counted"),
    (
        "unseen",
        "a.cost_pico_usd IS NULL AND a.cost_basis = 'unknown' AND coalesce(a.input_tokens, a.output_tokens) IS NULL",
    ),
    (
        "unpriced",
        "a.cost_pico_usd IS NULL AND (a.cost_basis <> 'unknown' OR coalesce(a.input_tokens, a.output_tokens) IS NOT NULL)",
    ),
    ("input_tokens", "a.input_tokens"),
    ("cached_input_tokens", "a.cached_input_tokens"),
    ("cache_write_tokens", "a.cache_write_tokens"),
    ("output_tokens", "a.output_tokens"),
    ("reasoning_tokens", "a.reasoning_tokens"),
    ("cost_pico_usd", "a.cost_pico_usd"),
    ("unseen_bound_pico_usd", "a.bound_pico_usd"),
];
/// Of calls as well, but of no list of sums.
pub(super) const FAILED_CALLS: (&str, &str) = ("failed_calls", "a.error_class IS NOT NULL");
/// Figures of runs, and what each result `r` adds to them.
pub(super) const OF_RUNS: [(&str, &str); 6] = [
    ("succeeded", "r.status = 'succeeded'"),
    ("failed", "r.status = 'failed'"),
    ("cancelled", "r.status = 'cancelled'"),
    ("expired", "r.status = 'expired'"),
    ("cached", "r.cached"),
    ("saved_pico_usd", "r.saved_pico_usd"),
];

/// When a call ended and when a run did, in milliseconds of Unix time.
pub(super) const ENDED: (&str, &str) = ("a.started_at + a.latency_ms", "r.finished_at");

/// What the report takes its figures apart by: of a call and of a run.
pub(super) const BY: [(&str, &str, &str); 7] = [
    ("model", "a.model_group", "r.model_group"),
    ("provider", "a.provider", "coalesce(r.provider, '')"),
    ("deployment", "a.deployment", "coalesce(r.deployment, '')"),
    (
        "provider_model",
        "a.model",
        "coalesce((SELECT a.model FROM attempt a WHERE a.job_id = r.job_id AND a.run = r.run ORDER BY a.attempt DESC LIMIT 1), '')",
    ),
    ("project", "coalesce(b.project, '')", "coalesce(b.project, '')"),
    ("day", "date((a.started_at + a.latency_ms) / 1000, 'unixepoch')", "date(r.finished_at / 1000, 'unixepoch')"),
    ("batch", "b.name", "b.name"),
];

/// What SQL finds of some calls and runs.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) counts: BTreeMap<&'static str, i64>,
    /// Durations in order: of answered calls, to their first byte, and of runs before their last call.
    pub(super) latency_ms: Vec<i64>,
    pub(super) ttft_ms: Vec<i64>,
    pub(super) queue_ms: Vec<i64>,
}

impl Found {
    pub(super) fn count(&self, name: &str) -> i64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    pub(super) fn ended(&self) -> i64 {
        ["succeeded", "failed", "cancelled", "expired"].map(|name| self.count(name)).iter().sum()
    }

    pub(super) fn cost_pico_usd(&self) -> Option<i64> {
        let cost = self.count("cost_pico_usd");
        (cost != 0 || self.count("unpriced") + self.count("unseen") == 0).then_some(cost)
    }

    /// Checks a list of sums, whichever it has.
    pub(super) fn equals(&self, what: &str, told: &Value) {
        for (name, value) in told.as_object().unwrap() {
            let at = format!("{what}: {name}");
            match name.as_str() {
                "name" => {}
                "cost_pico_usd" => assert_eq!(value.as_i64(), self.cost_pico_usd(), "{at}"),
                "cost_usd" => assert_eq!(value.as_f64(), self.cost_pico_usd().map(dollars), "{at}"),
                "saved_usd" => assert_eq!(value.as_f64(), Some(dollars(self.count("saved_pico_usd"))), "{at}"),
                "unseen_bound_usd" => {
                    assert_eq!(value.as_f64(), Some(dollars(self.count("unseen_bound_pico_usd"))), "{at}");
                }
                "latency_ms" => is_summary(&at, value, &self.latency_ms),
                "ttft_ms" => is_summary(&at, value, &self.ttft_ms),
                "queue_ms" => is_summary(&at, value, &self.queue_ms),
                name => assert_eq!(value.as_i64(), Some(self.count(name)), "{at}"),
            }
        }
    }
}

pub(super) fn dollars(pico_usd: i64) -> f64 {
    pico_usd as f64 / 1e12
}

/// Returns the duration that so many percent of them do not exceed.
pub(super) fn quantile(durations_ms: &[i64], percent: usize) -> Option<i64> {
    let rank = (percent * durations_ms.len()).div_ceil(100);
    durations_ms.get(rank.max(1) - 1).copied()
}

/// Checks a percentile: within 3.2 %, and within a millisecond.
pub(super) fn is_near(what: &str, told_ms: Option<f64>, truth_ms: Option<i64>, rounding_ms: f64) {
    match (told_ms, truth_ms) {
        (None, None) => {}
        (Some(told), Some(truth)) => {
            let truth = truth as f64;
            assert!((told - truth).abs() <= truth * 0.032 + 1.0 + rounding_ms, "{what}: {told} ms for {truth} ms");
        }
        _ => panic!("{what}: {told_ms:?} for {truth_ms:?}"),
    }
}

pub(super) fn is_summary(what: &str, told: &Value, durations_ms: &[i64]) {
    assert_eq!(told["count"], durations_ms.len(), "{what}");
    for (name, percent) in [("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99), ("max", 100)] {
        is_near(&format!("{what} {name}"), told[name].as_f64(), quantile(durations_ms, percent), 0.0);
    }
}

/// The database of a desk, and the batches that are reported on.
pub(super) struct Rows {
    database: SqliteConnection,
    /// A condition on the batch `b`.
    pub(super) scope: &'static str,
}

impl Rows {
    pub(super) async fn of(desk: &Desk, scope: &'static str) -> Self {
        let options = SqliteConnectOptions::new().filename(desk.path(".gristmill/gristmill.db"));
        Self { database: options.connect().await.unwrap(), scope }
    }

    pub(super) async fn read(&mut self, sql: String) -> Vec<SqliteRow> {
        sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.database).await.unwrap()
    }

    /// Adds everything up by an expression of the call and one of the run.
    pub(super) async fn by(&mut self, of_call: &str, of_run: &str) -> BTreeMap<String, Found> {
        let scope = self.scope;
        let sums = |figures: &[(&str, &str)]| {
            let sum = |(name, each): &(&str, &str)| format!("coalesce(sum({each}), 0) AS {name}");
            figures.iter().map(sum).collect::<Vec<_>>().join(", ")
        };
        let calls_figures = [&OF_CALLS[..], &[FAILED_CALLS]].concat();
        let calls = format!(
            "SELECT {of_call} AS name, {}, json_group_array(a.latency_ms) FILTER (WHERE a.error_class IS NULL) AS latency, \
             json_group_array(a.ttft_ms) FILTER (WHERE a.error_class IS NULL AND a.ttft_ms IS NOT NULL) AS ttft \
             FROM attempt a JOIN batch b ON b.batch_id = a.batch_id WHERE {scope} GROUP BY 1",
            sums(&calls_figures)
        );
        let runs = format!(
            "SELECT {of_run} AS name, {}, json_group_array(r.started_at - r.queued_at) \
             FILTER (WHERE r.started_at IS NOT NULL AND r.queued_at IS NOT NULL) AS queue \
             FROM result r JOIN batch b ON b.batch_id = r.batch_id WHERE {scope} GROUP BY 1",
            sums(&OF_RUNS)
        );
        let sorted = |row: &SqliteRow, name: &str| {
            let mut durations: Vec<i64> = serde_json::from_str(row.get(name)).unwrap();
            durations.sort_unstable();
            durations
        };
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for row in self.read(calls).await {
            let entry = found.entry(row.get("name")).or_default();
            entry.counts.extend(calls_figures.iter().map(|(name, _)| (*name, row.get::<i64, _>(*name))));
            (entry.latency_ms, entry.ttft_ms) = (sorted(&row, "latency"), sorted(&row, "ttft"));
        }
        for row in self.read(runs).await {
            let entry = found.entry(row.get("name")).or_default();
            entry.counts.extend(OF_RUNS.iter().map(|(name, _)| (*name, row.get::<i64, _>(*name))));
            entry.queue_ms = sorted(&row, "queue");
        }
        found
    }

    pub(super) async fn all(&mut self) -> Found {
        self.by("''", "''").await.remove("").unwrap_or_default()
    }

    /// Adds up by times of so many seconds.
    pub(super) async fn by_time(&mut self, seconds: i64) -> BTreeMap<i64, Found> {
        let time = |ended: &str| format!("CAST(({ended}) / 1000 / {seconds} * {seconds} AS TEXT)");
        let found = self.by(&time(ENDED.0), &time(ENDED.1)).await;
        found.into_iter().map(|(time, found)| (time.parse().unwrap(), found)).collect()
    }

    /// Counts the jobs whose latest run failed, by class, with the messages of each.
    pub(super) async fn failed_jobs(&mut self) -> BTreeMap<String, (i64, BTreeSet<String>)> {
        let sql = format!(
            "SELECT r.error_class, count(*), json_group_array(r.error_message) \
             FROM result r JOIN batch b ON b.batch_id = r.batch_id WHERE {} AND r.status = 'failed' \
             AND r.run = (SELECT max(n.run) FROM result n WHERE n.job_id = r.job_id) GROUP BY 1",
            self.scope
        );
        let read = |row: &SqliteRow| (row.get(0), (row.get(1), serde_json::from_str(row.get(2)).unwrap()));
        self.read(sql).await.iter().map(read).collect()
    }
}
