//! Statistics, line by line, as people and programs read them. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use gristmill_common::price::PicoUsd;
use gristmill_common::tally::{By, Histogram, Part, Sums};
use serde_json::{Map, Value, json};

use crate::cli::plot::{Canvas, span};
use crate::cli::scope::Scope;
use crate::cli::table::{columns, count, duration, money, plural};

/// Seconds of the finest sums that there are.
pub(super) const FINEST_S: u32 = 10;
/// Classes of errors that people are shown.
const SHOWN_ERRORS: usize = 4;
/// Columns of the line over time at most, and of a histogram's bars.
const LINE: usize = 60;
const BAR: usize = 24;
/// Steps of the line over time, in seconds.
const STEPS: [i64; 13] = [10, 30, 60, 120, 300, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800];
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

/// Statistics by what was asked for.
#[derive(Debug)]
pub(super) struct Report<'a> {
    by: &'a [By],
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    step_s: i64,
    lines: Vec<Line>,
}

#[derive(Debug, Default)]
struct Line {
    names: Vec<String>,
    sums: Sums,
    /// By class of error; what went well has none.
    errors: BTreeMap<String, Count>,
    /// By the beginning of a step.
    over_time: BTreeMap<i64, Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    calls: u64,
    ended: u64,
    failed: u64,
}

impl Count {
    fn add(&mut self, sums: &Sums) {
        self.calls += whole(sums.calls);
        self.ended += whole(sums.ended());
        self.failed += whole(sums.failed + sums.expired);
    }
}

impl<'a> Report<'a> {
    /// Reads sums by `by`, then class, then time; the line with the most calls comes first, times in their order.
    pub(super) fn new(by: &'a [By], parts: Vec<Part>, scope: &Scope, now: DateTime<Utc>) -> Self {
        let parts: Vec<(Part, i64)> = parts
            .into_iter()
            .map(|part| {
                let at = time_of(&part);
                (part, at)
            })
            .collect();
        let first = parts.iter().map(|(_, at)| *at).min().and_then(at);
        let last = parts.iter().map(|(_, at)| *at + i64::from(FINEST_S)).max().and_then(at);
        let batch = scope.batch.as_ref();
        let from = scope.usage.since.or_else(|| batch.map(|batch| batch.created_at)).or(first).unwrap_or(now);
        let open_end = if scope.usage.since.is_some() || batch.is_some() { Some(now) } else { last };
        let to = scope.usage.until.or_else(|| batch.and_then(|batch| batch.finished_at)).or(open_end).unwrap_or(now);
        let to = to.max(from + TimeDelta::seconds(1));
        let step_s = step(from, to, now);
        let mut lines: BTreeMap<Vec<String>, Line> = BTreeMap::new();
        for (Part { mut names, sums }, at) in parts {
            names.pop();
            let class = names.pop().unwrap_or_default();
            let line = lines.entry(names).or_default();
            line.sums += &sums;
            line.over_time.entry(at.div_euclid(step_s) * step_s).or_default().add(&sums);
            if !class.is_empty() {
                line.errors.entry(class).or_default().add(&sums);
            }
        }
        let named = |(names, line): (Vec<String>, Line)| Line { names, ..line };
        let mut lines: Vec<Line> = lines.into_iter().map(named).collect();
        if !by.iter().any(|by| matches!(by, By::Day | By::Hour | By::Seconds(_))) {
            lines.sort_by_key(|line| std::cmp::Reverse((line.sums.calls, line.sums.ended())));
        }
        Self { by, from, to, step_s, lines }
    }

    #[expect(clippy::cast_precision_loss, reason = "a time of at most centuries")]
    fn seconds(&self) -> f64 {
        (self.to - self.from).num_milliseconds() as f64 / 1_000.0
    }

    pub(super) fn text(&self, scope: &Scope, canvas: Canvas) -> String {
        let of = scope.whose().map(|of| format!("{of}: ")).unwrap_or_default();
        if self.lines.is_empty() {
            return format!("{of}nothing has been called or ended\n");
        }
        let time = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S").to_string();
        let length = duration((self.to - self.from).to_std().unwrap_or_default());
        let mut text = format!("{of}{} to {} UTC ({length})\n", time(self.from), time(self.to));
        for line in &self.lines {
            text.push('\n');
            text.push_str(&self.block(line, canvas));
        }
        text
    }

    fn block(&self, line: &Line, canvas: Canvas) -> String {
        let sums = &line.sums;
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut add = |name: &str, text: String| rows.push(vec![format!("  {name}"), text]);
        if sums.ended() > 0 {
            add("jobs", jobs(sums));
        }
        add("calls", self.calls(sums));
        if let Some(errors) = errors(line) {
            add("errors", errors);
        }
        if let Some(hits) = cache(sums) {
            add("cache", hits);
        }
        add("tokens", self.tokens(sums));
        add("cost", self.cost(sums));
        for (name, histogram) in [("queue", &sums.queue), ("first byte", &sums.ttft), ("call", &sums.latency)] {
            if !histogram.is_empty() {
                let of =
                    |(name, share): (&str, f64)| format!("{name} {}", span(histogram.quantile(share).unwrap_or(0)));
                add(name, [QUANTILES[0], QUANTILES[1], QUANTILES[3]].map(of).join("  "));
            }
        }
        let (values, what) = self.over_time(line);
        let width = canvas.width.saturating_sub(LABELS).clamp(10, LINE);
        let (values, step_s) = fitted(values, self.step_s, width);
        if values.len() > 1 {
            let most = values.iter().copied().max().unwrap_or(0);
            let step = duration(TimeDelta::seconds(step_s).to_std().unwrap_or_default());
            add("over time", format!("{}| {} {what} in {step} at most", canvas.line(&values), count(most)));
        }
        let mut text = self.name(line);
        text.push_str(&columns(&rows));
        let bars = canvas.histogram(&sums.latency, canvas.width.saturating_sub(LABELS).clamp(4, BAR));
        if bars.len() > 1 {
            let widest = bars.iter().map(|[label, ..]| label.chars().count()).max().unwrap_or(0);
            for [label, bar, calls] in bars {
                text.push_str(&format!("    {label:>widest$}  {bar} {calls}\n"));
            }
        }
        text
    }

    fn name(&self, line: &Line) -> String {
        let name = |name: &String| if name.is_empty() { "-".to_owned() } else { clean(name) };
        let names: Vec<String> = line.names.iter().map(name).collect();
        if names.is_empty() { String::new() } else { format!("{}\n", names.join(", ")) }
    }

    fn calls(&self, sums: &Sums) -> String {
        let mut text = format!("{}, {}", count(whole(sums.calls)), rate(sums.calls, self.seconds()));
        for (number, what) in [(sums.repeated, "repeated"), (sums.uncounted, "refused")] {
            if number > 0 {
                text.push_str(&format!(", {} {what} ({})", count(whole(number)), percent(number, sums.calls)));
            }
        }
        text
    }

    fn tokens(&self, sums: &Sums) -> String {
        let of = |tokens: i64| format!("{} ({})", count(whole(tokens)), rate(tokens, self.seconds()));
        format!("{} in, {} out", of(sums.input_tokens), of(sums.output_tokens))
    }

    fn cost(&self, sums: &Sums) -> String {
        let cost = PicoUsd(sums.cost_pico_usd).dollars();
        let unknown = sums.unpriced + sums.unseen;
        if cost <= 0.0 && unknown > 0 {
            return format!("unknown of {}", plural(whole(unknown), "call"));
        }
        let rest = if unknown > 0 { format!(", unknown of {}", plural(whole(unknown), "call")) } else { String::new() };
        format!("{}, {} a second{rest}", money(cost), money(cost / self.seconds()))
    }

    /// Returns what ended in each step, or what was called where nothing ended, and its name.
    fn over_time(&self, line: &Line) -> (Vec<u64>, &'static str) {
        let ended = line.sums.ended() > 0;
        let value = |count: &Count| if ended { count.ended } else { count.calls };
        (self.steps(line, value), if ended { "jobs" } else { "calls" })
    }

    fn steps(&self, line: &Line, value: impl Fn(&Count) -> u64) -> Vec<u64> {
        let start = |time: DateTime<Utc>| time.timestamp().div_euclid(self.step_s) * self.step_s;
        let mut values = Vec::new();
        let mut at = start(self.from);
        while at <= start(self.to - TimeDelta::milliseconds(1)) {
            values.push(line.over_time.get(&at).map_or(0, &value));
            at += self.step_s;
        }
        values
    }

    pub(super) fn json(&self, scope: &Scope) -> Value {
        let by: Vec<String> = self.by.iter().map(By::to_string).collect();
        json!({
            "scope": scope.json(), "by": by, "from": self.from, "to": self.to, "seconds": self.seconds(),
            "lines": self.lines.iter().map(|line| self.fields(line, &by)).collect::<Vec<_>>(),
        })
    }

    fn fields(&self, line: &Line, by: &[String]) -> Value {
        let sums = &line.sums;
        let name = |name: &String| if name.is_empty() { Value::Null } else { name.as_str().into() };
        let names: Map<String, Value> = by.iter().cloned().zip(line.names.iter().map(name)).collect();
        let seconds = self.seconds();
        let errors: Vec<Value> = sorted(&line.errors)
            .into_iter()
            .map(|(class, count)| {
                json!({
                    "class": class, "calls": count.calls, "results": count.ended,
                    "share_of_calls": share(count.calls.cast_signed(), sums.calls),
                })
            })
            .collect();
        json!({
            "names": names, "calls": sums.calls, "repeated_calls": sums.repeated, "refused_calls": sums.uncounted,
            "calls_per_s": per(sums.calls, seconds), "ended": sums.ended(), "succeeded": sums.succeeded, "failed": sums.failed,
            "cancelled": sums.cancelled, "expired": sums.expired, "success_rate": share(sums.succeeded, sums.ended()),
            "ended_per_s": per(sums.ended(), seconds), "errors": errors, "cached_results": sums.cached,
            "cache_hit_rate": share(sums.cached, sums.ended()), "input_tokens": sums.input_tokens,
            "cached_input_tokens": sums.cached_input_tokens,
            "cached_input_rate": share(sums.cached_input_tokens, sums.input_tokens), "output_tokens": sums.output_tokens,
            "reasoning_tokens": sums.reasoning_tokens, "input_tokens_per_s": per(sums.input_tokens, seconds),
            "output_tokens_per_s": per(sums.output_tokens, seconds), "cost_pico_usd": sums.cost_pico_usd,
            "unpriced_calls": sums.unpriced, "unseen_calls": sums.unseen,
            "cost_usd_per_s": PicoUsd(sums.cost_pico_usd).dollars() / seconds, "saved_pico_usd": sums.saved_pico_usd,
            "queue_ms": times(&sums.queue), "ttft_ms": times(&sums.ttft), "latency_ms": times(&sums.latency),
            "over_time": {
                "step_s": self.step_s,
                "from": at(self.from.timestamp().div_euclid(self.step_s) * self.step_s),
                "ended": self.steps(line, |count| count.ended),
                "failed": self.steps(line, |count| count.failed),
                "calls": self.steps(line, |count| count.calls),
            },
        })
    }
}

/// Columns of what stands beside a plot.
const LABELS: usize = 40;

fn time_of(part: &Part) -> i64 {
    let time = part.names.last().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    time.map_or(0, |time| time.timestamp())
}

fn at(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

/// Chooses the step of the line over time: at most [`LINE`] of them, and none shorter than sums of that age are kept apart by.
fn step(from: DateTime<Utc>, to: DateTime<Utc>, now: DateTime<Utc>) -> i64 {
    let kept_s = match now - from {
        age if age > TimeDelta::days(2) => 3_600,
        age if age > TimeDelta::hours(1) => 60,
        _ => i64::from(FINEST_S),
    };
    let range_s = (to - from).num_seconds();
    let fits = |step: &i64| *step >= kept_s && range_s / step < LINE as i64;
    STEPS.into_iter().find(fits).unwrap_or_else(|| range_s / LINE as i64 + 1)
}

/// Adds neighbours up until there are no more than `width` values.
fn fitted(mut values: Vec<u64>, mut step_s: i64, width: usize) -> (Vec<u64>, i64) {
    while values.len() > width {
        values = values.chunks(2).map(|pair| pair.iter().sum()).collect();
        step_s *= 2;
    }
    (values, step_s)
}

fn jobs(sums: &Sums) -> String {
    let ended = sums.ended();
    let mut text = format!("{} ended, {} succeeded", count(whole(ended)), percent(sums.succeeded, ended));
    for (number, what) in [(sums.failed, "failed"), (sums.cancelled, "cancelled"), (sums.expired, "expired")] {
        if number > 0 {
            text.push_str(&format!(", {} {what}", count(whole(number))));
        }
    }
    text
}

/// Says the most frequent errors of calls, and those that jobs ended with.
fn errors(line: &Line) -> Option<String> {
    let all = sorted(&line.errors);
    let all: Vec<_> = all.into_iter().filter(|(_, count)| count.calls > 0 || count.failed > 0).collect();
    let one = |(class, count): &(&str, Count)| match count.calls {
        0 => format!("{class}: {}", plural(count.failed, "job")),
        calls => {
            let ended = if count.failed > 0 {
                format!(", {} ended so", crate::cli::table::count(count.failed))
            } else {
                String::new()
            };
            format!(
                "{class} {} ({}{ended})",
                crate::cli::table::count(calls),
                percent(calls.cast_signed(), line.sums.calls)
            )
        }
    };
    let mut texts: Vec<String> = all.iter().take(SHOWN_ERRORS).map(one).collect();
    if all.len() > SHOWN_ERRORS {
        texts.push(format!("{} more classes", all.len() - SHOWN_ERRORS));
    }
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Returns the most frequent first.
fn sorted(errors: &BTreeMap<String, Count>) -> Vec<(&str, Count)> {
    let mut all: Vec<(&str, Count)> = errors.iter().map(|(class, count)| (class.as_str(), *count)).collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse((count.calls, count.ended)));
    all
}

fn cache(sums: &Sums) -> Option<String> {
    let mut texts = Vec::new();
    if sums.cached > 0 {
        texts.push(format!("{} of jobs from the response cache", percent(sums.cached, sums.ended())));
    }
    if sums.cached_input_tokens > 0 {
        texts.push(format!("{} of input from the provider's", percent(sums.cached_input_tokens, sums.input_tokens)));
    }
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn times(histogram: &Histogram) -> Value {
    let mut fields: Map<String, Value> =
        QUANTILES.iter().map(|(name, share)| ((*name).to_owned(), histogram.quantile(*share).into())).collect();
    fields.insert("max".to_owned(), histogram.quantile(1.0).into());
    fields.insert("count".to_owned(), histogram.count().into());
    let buckets: Vec<Value> = histogram.buckets().map(|(from, to, count)| json!([from, to, count])).collect();
    fields.insert("histogram".to_owned(), buckets.into());
    fields.into()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn share(part: i64, whole: i64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per(number: i64, seconds: f64) -> f64 {
    number as f64 / seconds
}

/// Writes a share; one that is not the whole is never shown as 100.0%, and one that is more than nothing never as 0.0%.
fn percent(part: i64, whole: i64) -> String {
    let Some(share) = share(part, whole) else { return "-".to_owned() };
    let shown = share * 100.0;
    match share {
        share if share > 0.0 && shown < 0.1 => "<0.1%".to_owned(),
        share if share < 1.0 && shown > 99.9 => "99.9%".to_owned(),
        _ => format!("{shown:.1}%"),
    }
}

/// Writes how much it is in a second, or of what is slow in a minute or an hour.
fn rate(number: i64, seconds: f64) -> String {
    let each = per(number, seconds);
    let units = [(each, "second"), (each * 60.0, "minute")];
    let fast = units.into_iter().find(|(rate, _)| *rate >= 0.1 || number == 0);
    let (rate, unit) = fast.unwrap_or((each * 3_600.0, "hour"));
    let article = if unit == "hour" { "an" } else { "a" };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown whole; casts saturate")]
    let shown = if rate >= 100.0 { count(rate.round() as u64) } else { format!("{rate:.1}") };
    format!("{shown} {article} {unit}")
}

fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Makes a name fit for a line of a terminal.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
