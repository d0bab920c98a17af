//! A report as one page: no scripts, nothing from elsewhere, readable without colours, in the dark and on paper. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use gristmill_common::price::PicoUsd;
use gristmill_common::tally::{By, Histogram, Part, Sums};

use super::data::{Class, Report, is_cost_known, ratio};
use super::plot::{self, Layer, milliseconds};
use crate::cli::lost;
use crate::cli::table::{count, duration, money, plural};

/// Bars of a plot at most; a table has all of them.
const BARS: usize = 12;

const STYLE: &str = include_str!("page.css");

/// Writes a text so that it is shown as it is, whatever it holds.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            // Signs that nobody sees, among them those that turn the direction of text.
            character
                if character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.push('\u{fffd}');
            }
            character => out.push(character),
        }
    }
    out
}

/// Writes a report as a page.
pub(super) fn html(report: &Report) -> String {
    let title = escape(&format!("Gristmill: {}", report.scope.title()));
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    text.push_str(&heading(report));
    text.push_str(&cards(report));
    text.push_str(&progress(report));
    text.push_str(&calls(report));
    text.push_str(&latency(report));
    text.push_str(&costs(report));
    text.push_str(&errors(report));
    text.push_str(&breakdowns(report));
    text.push_str(&batches(report));
    text.push_str(&workers(report));
    let at = report.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let _ = write!(
        text,
        "<footer>Made by gristmill {} at {at}. All times are UTC. Percentiles are within 3.2&nbsp;%. \
         Counts are of runs: a job that was run again counts once for each run.</footer>\n</main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    text
}

fn heading(report: &Report) -> String {
    let mut about = Vec::new();
    if let (Some(_), Some(batch)) = (&report.scope.batch, report.batches.first()) {
        about.push(batch.state.as_str().to_owned());
        if batch.simulated {
            about.push("simulated".to_owned());
        }
        about.extend(batch.project.as_ref().map(|project| format!("project {project}")));
        about.push(format!(
            "{} of {} jobs ended",
            count(batch.counters.done()),
            count(batch.total.unwrap_or(batch.recorded))
        ));
        about.push(batch.id.to_string());
    }
    let points = &report.series.points;
    if let (Some(first), Some(last)) = (points.first(), points.last()) {
        about.push(format!("{} to {}", time(first.at_s), time(last.at_s + report.series.length_s)));
    }
    format!("<header>\n<h1>{}</h1>\n<p>{}</p>\n</header>\n", escape(&report.scope.title()), escape(&about.join(" · ")))
}

fn cards(report: &Report) -> String {
    let totals = &report.totals;
    let mut cards: Vec<(&str, String, String)> = Vec::new();
    let ended = totals.ended();
    cards.push(("Runs that ended", number(ended), share(totals.succeeded, ended, "succeeded")));
    let failed = totals.failed + totals.expired + totals.cancelled;
    let parts = [(totals.failed, "failed"), (totals.cancelled, "cancelled"), (totals.expired, "expired")];
    let parts: Vec<String> =
        parts.iter().filter(|(of, _)| *of > 0).map(|(of, name)| format!("{} {name}", number(*of))).collect();
    let none = if parts.is_empty() { "none".to_owned() } else { parts.join(", ") };
    cards.push(("Did not succeed", number(failed), none));
    cards.push(("Calls", number(totals.calls), format!("{} after the first of a run", number(totals.repeated))));
    let unknown = totals.unpriced + totals.unseen;
    let unknown =
        if unknown > 0 { format!("{} calls of unknown cost", number(unknown)) } else { "of all calls".to_owned() };
    cards.push(("Cost", cost(totals), unknown));
    let cached = format!("{} of input from the provider’s cache", number(totals.cached_input_tokens));
    cards.push(("Tokens in", number(totals.input_tokens), cached));
    cards.push(("Tokens out", number(totals.output_tokens), format!("{} reasoning", number(totals.reasoning_tokens))));
    let p95 = totals.latency.quantile(0.95).map(|ms| format!("95 % within {}", milliseconds(f64::from(ms))));
    let median = totals.latency.quantile(0.5).map_or_else(|| "–".to_owned(), |ms| milliseconds(f64::from(ms)));
    cards.push(("Median latency", median, p95.unwrap_or_else(|| "no call was answered".to_owned())));
    let seconds = report.seconds();
    let rate = if seconds > 0 { format!("{:.2} calls a second", ratio(totals.calls, seconds)) } else { String::new() };
    cards.push(("Time", duration(Duration::from_secs(seconds.unsigned_abs())), rate));
    if totals.cached > 0 {
        let saved = format!("{} saved", money(PicoUsd(totals.saved_pico_usd).dollars()));
        cards.push(("From the response cache", number(totals.cached), saved));
    }
    if totals.unseen > 0 {
        let bound = format!("at most {} more", money(PicoUsd(totals.bound_pico_usd).dollars()));
        cards.push(("Calls nobody saw the end of", number(totals.unseen), bound));
    }
    if report.lost.most > 0 {
        let note = format!("{}; {}", plural(report.lost.workers, "dead worker"), lost::bound(&report.lost));
        cards.push(("Calls that may be lost", format!("≤ {}", count(report.lost.most)), note));
    }
    let mut text = "<dl class=\"cards\">\n".to_owned();
    for (name, value, note) in cards {
        let (value, note) = (escape(&value), escape(&note));
        let _ = writeln!(text, "<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>");
    }
    text + "</dl>\n"
}

fn progress(report: &Report) -> String {
    let layers = [
        layer(report, "ok", "succeeded", |sums, _| sums.succeeded),
        layer(report, "bad", "failed", |sums, _| sums.failed),
        layer(report, "idle", "cancelled", |sums, _| sums.cancelled),
        layer(report, "late", "expired", |sums, _| sums.expired),
    ];
    if report.totals.ended() == 0 {
        return section("Progress", "<p class=\"empty\">No run has ended.</p>\n", "");
    }
    let about = format!("Runs that had ended, by status, over time; {} at the end.", number(report.totals.ended()));
    let plot = plot::areas(&about, &times(report), report.series.length_s, &layers);
    section("Progress", &(legend(&layers) + &plot), &by_time(report, &layers))
}

fn calls(report: &Report) -> String {
    let layers = [
        layer(report, "ok", "answered", |sums, failed| sums.calls - failed),
        layer(report, "bad", "with an error", |_, failed| failed),
    ];
    if report.totals.calls == 0 {
        return section("Calls and errors", "<p class=\"empty\">No call was made.</p>\n", "");
    }
    let length = duration(Duration::from_secs(report.series.length_s.unsigned_abs()));
    let about =
        format!("Calls in each {length}, answered or ended with an error; {} in all.", number(report.totals.calls));
    let plot = plot::columns(&about, &times(report), report.series.length_s, &layers);
    section(&format!("Calls and errors, each {length}"), &(legend(&layers) + &plot), &by_time(report, &layers))
}

fn latency(report: &Report) -> String {
    let Sums { latency, ttft, queue, .. } = &report.totals;
    let buckets: Vec<plot::Bucket> = latency.buckets().collect();
    let shares = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];
    let marks: Vec<(&str, u32)> =
        shares.iter().filter_map(|(name, share)| Some((*name, latency.quantile(*share)?))).collect();
    if buckets.is_empty() {
        return section("Latency", "<p class=\"empty\">No call was answered.</p>\n", "");
    }
    let about = format!("How long {} answered calls took.", count(latency.count()));
    let plot = plot::histogram(&about, &buckets, &marks);
    let row = |name: &str, histogram: &Histogram| {
        let at =
            |share: f64| histogram.quantile(share).map_or_else(|| "–".to_owned(), |ms| milliseconds(f64::from(ms)));
        vec![name.to_owned(), count(histogram.count()), at(0.5), at(0.95), at(0.99), at(1.0)]
    };
    let rows = [row("whole call", latency), row("first byte", ttft), row("wait before it", queue)];
    let table = table("Latency", &["Time", "Count", "p50", "p95", "p99", "most"], &rows);
    section("Latency of answered calls", &plot, &table)
}

fn costs(report: &Report) -> String {
    let parts = sorted(report.by(&By::Model), |sums| sums.cost_pico_usd);
    if parts.is_empty() {
        return section("Cost by model", "<p class=\"empty\">Nothing was called.</p>\n", "");
    }
    let bars: Vec<(String, i64, String)> =
        parts.iter().take(BARS).map(|part| (name(part), part.sums.cost_pico_usd, cost(&part.sums))).collect();
    let plot = plot::rows(&format!("Cost by model; {} in all.", cost(&report.totals)), "cost", &bars);
    // The table is too wide to stand beside it.
    section("Cost by model", &format!("<figure class=\"half\">\n{plot}</figure>\n{}", breakdown("Model", &parts)), "")
}

fn errors(report: &Report) -> String {
    let classes = report.classes();
    if classes.is_empty() {
        return section("Errors by class", "<p class=\"empty\">No call and no run ended with an error.</p>\n", "");
    }
    let bars: Vec<(String, i64, String)> = classes
        .iter()
        .take(BARS)
        .map(|class| {
            let behind = format!("{} calls, {} runs", number(class.calls), number(class.runs));
            (class.name.clone(), class.calls.max(class.runs), behind)
        })
        .collect();
    let plot = plot::rows("Calls and runs that ended with an error, by its class.", "bad", &bars);
    let row = |class: &Class| {
        let example = class.example.clone().unwrap_or_else(|| "–".to_owned());
        vec![class.name.clone(), number(class.calls), number(class.runs), count(class.jobs), example]
    };
    let rows: Vec<Vec<String>> = classes.iter().map(row).collect();
    let table = table("Errors by class", &["Class", "Calls", "Runs", "Jobs", "Example"], &rows);
    section("Errors by class", &plot, &table)
}

fn breakdowns(report: &Report) -> String {
    let mut text = String::new();
    for (by, title, first) in [
        (By::Provider, "By provider", "Provider"),
        (By::Deployment, "By deployment", "Deployment"),
        (By::ProviderModel, "By model at the provider", "Model"),
        (By::Project, "By project", "Project"),
        (By::Day, "By day", "Day"),
    ] {
        let parts: Vec<&Part> = report.by(&by).iter().collect();
        if !parts.is_empty() {
            text.push_str(&section(title, "", &breakdown(first, &parts)));
        }
    }
    text
}

fn batches(report: &Report) -> String {
    if report.scope.batch.is_some() || report.batches.is_empty() {
        return String::new();
    }
    let row = |batch: &gristmill_common::batch::Batch| {
        vec![
            batch.name.clone(),
            batch.state.as_str().to_owned(),
            batch.project.clone().unwrap_or_default(),
            format!("{} of {}", count(batch.counters.done()), count(batch.total.unwrap_or(batch.recorded))),
            count(batch.counters.failed + batch.counters.expired),
            crate::cli::table::cost(batch.cost_usd()),
            batch.created_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        ]
    };
    let rows: Vec<Vec<String>> = report.batches.iter().map(row).collect();
    let heading = ["Batch", "State", "Project", "Ended", "Failed", "Cost, all its time", "Submitted"];
    section("Batches", "", &table("Batches", &heading, &rows))
}

fn workers(report: &Report) -> String {
    if report.workers.is_empty() {
        return section("Workers", "<p class=\"empty\">No worker was alive within the last hour.</p>\n", "");
    }
    let row = |worker: &gristmill_common::store::WorkerRow| {
        let info = &worker.info;
        vec![
            format!("{}:{}", info.host, info.pid),
            info.version.clone(),
            if worker.alive { "alive" } else { "gone" }.to_owned(),
            count(worker.in_flight.into()),
            count(info.concurrency.into()),
            info.groups.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = report.workers.iter().map(row).collect();
    let heading = ["Worker", "Version", "State", "In flight", "At most", "Models"];
    section("Workers of the last hour", "", &table("Workers", &heading, &rows))
}

/// Puts a plot beside its table.
fn section(title: &str, plot: &str, table: &str) -> String {
    let title = escape(title);
    match (plot.is_empty(), table.is_empty()) {
        (false, false) => format!(
            "<section>\n<h2>{title}</h2>\n<div class=\"pair\">\n<figure>\n{plot}</figure>\n{table}</div>\n</section>\n"
        ),
        _ => format!("<section>\n<h2>{title}</h2>\n{plot}{table}</section>\n"),
    }
}

/// Lays out a table; all columns but the first are numbers where they look like it.
fn table(caption: &str, heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\">\n<table>\n<caption>{0}</caption>\n<thead><tr>",
        escape(caption)
    );
    let is_number = |column: usize| {
        column > 0
            && rows
                .iter()
                .filter_map(|row| row.get(column))
                .all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || "$–-".contains(c)) || cell == "unknown")
    };
    let class = |column: usize| if is_number(column) { " class=\"n\"" } else { "" };
    for (column, cell) in heading.iter().enumerate() {
        let _ = write!(text, "<th scope=\"col\"{}>{}</th>", class(column), escape(cell));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    let classes: Vec<&str> = (0..heading.len()).map(class).collect();
    for row in rows {
        text.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            match column {
                0 => _ = write!(text, "<th scope=\"row\">{cell}</th>"),
                _ => _ = write!(text, "<td{}>{cell}</td>", classes.get(column).copied().unwrap_or_default()),
            }
        }
        text.push_str("</tr>\n");
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn breakdown(first: &str, parts: &[&Part]) -> String {
    let row = |part: &&Part| {
        let sums = &part.sums;
        let p95 = sums.latency.quantile(0.95).map_or_else(|| "–".to_owned(), |ms| milliseconds(f64::from(ms)));
        vec![
            name(part),
            cost(sums),
            number(sums.unpriced + sums.unseen),
            number(sums.calls),
            number(sums.succeeded),
            number(sums.ended() - sums.succeeded),
            number(sums.input_tokens),
            number(sums.output_tokens),
            p95,
        ]
    };
    let rows: Vec<Vec<String>> = parts.iter().map(row).collect();
    let heading =
        [first, "Cost", "Calls of unknown cost", "Calls", "Succeeded", "Did not", "Tokens in", "Tokens out", "p95"];
    table(&format!("By {}", first.to_lowercase()), &heading, &rows)
}

fn by_time(report: &Report, layers: &[Layer]) -> String {
    let used: Vec<&Layer> = layers.iter().filter(|layer| layer.values.iter().any(|value| *value != 0)).collect();
    let heading: Vec<&str> = std::iter::once("From").chain(used.iter().map(|layer| layer.name)).collect();
    let row = |(index, point): (usize, &super::series::Point)| {
        let values = used.iter().map(|layer| number(layer.values.get(index).copied().unwrap_or(0)));
        std::iter::once(time(point.at_s)).chain(values).collect()
    };
    let rows: Vec<Vec<String>> = report.series.points.iter().enumerate().map(row).collect();
    table("By time", &heading, &rows)
}

fn legend(layers: &[Layer]) -> String {
    let shown = layers.iter().filter(|layer| layer.values.iter().any(|value| *value != 0));
    let entry = |layer: &Layer| {
        let sum: i64 = layer.values.iter().sum();
        format!("<li><span class=\"key {}\"></span>{} {}</li>", layer.style, escape(layer.name), number(sum))
    };
    format!("<ul class=\"legend\">{}</ul>\n", shown.map(entry).collect::<String>())
}

fn layer(report: &Report, style: &'static str, name: &'static str, of: fn(&Sums, i64) -> i64) -> Layer {
    let values = report.series.points.iter().map(|point| of(&point.sums, point.failed_calls)).collect();
    Layer { style, name, values }
}

fn times(report: &Report) -> Vec<i64> {
    report.series.points.iter().map(|point| point.at_s).collect()
}

fn sorted(parts: &[Part], of: fn(&Sums) -> i64) -> Vec<&Part> {
    let mut parts: Vec<&Part> = parts.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(of(&part.sums)));
    parts
}

fn name(part: &Part) -> String {
    part.names.first().filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| "(none)".to_owned())
}

fn cost(sums: &Sums) -> String {
    if is_cost_known(sums) { money(PicoUsd(sums.cost_pico_usd).dollars()) } else { "unknown".to_owned() }
}

fn number(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", count(number.unsigned_abs()))
}

fn share(part: i64, whole: i64, name: &str) -> String {
    if whole == 0 { String::new() } else { format!("{:.1} % {name}", 100.0 * ratio(part, whole)) }
}

fn time(at_s: i64) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp(at_s, 0).unwrap_or_default();
    time.format("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::report::data::Scope;
    use crate::cli::report::series::Series;

    fn report(parts: &[(&str, Sums)], scope: &str) -> Report {
        let part = |names: &[&str], sums: &Sums| Part {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            sums: sums.clone(),
        };
        let mut totals = Sums::default();
        parts.iter().for_each(|(_, sums)| totals += sums);
        let timed: Vec<Part> = parts.iter().map(|(class, sums)| part(&["2026-11-23T10:00:00Z", class], sums)).collect();
        Report {
            at: DateTime::UNIX_EPOCH,
            scope: Scope { batch: Some(scope.to_owned()), ..Scope::default() },
            batches: Vec::new(),
            by: vec![(By::Model, vec![part(&["<i>model</i>"], &totals)])],
            classes: parts.iter().map(|(class, sums)| part(&[class], sums)).collect(),
            failures: vec![gristmill_common::store::ErrorCount {
                class: "Timeout".to_owned(),
                count: 1,
                example: "<script>alert(1)</script>".to_owned(),
            }],
            series: Series::of(&timed),
            workers: Vec::new(),
            totals,
            lost: gristmill_common::store::LostCalls::default(),
        }
    }

    #[test]
    fn whatever_people_and_providers_write_is_shown_as_text() {
        let failed = Sums { calls: 2, failed: 1, ..Sums::default() };
        let page = html(&report(&[("Timeout", failed)], "\"><script>x</script>"));
        assert!(!page.contains("<script") && !page.contains("<i>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && page.contains("&lt;i&gt;model&lt;/i&gt;"));
        assert_eq!(escape("a\u{202e}b\u{0}c\nd'"), "a\u{fffd}b\u{fffd}c d&#39;");
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let page = html(&report(&[("", Sums { calls: 1, succeeded: 1, ..Sums::default() })], "b"));
        for word in ["http://", "https://", "src=", "href=", "@import", "url("] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("default-src 'none'") && page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn calls_that_may_be_lost_are_shown_where_there_are_any() {
        let mut report = report(&[], "b");
        assert!(!html(&report).contains("may be lost"));
        report.lost.workers = 2;
        (report.lost.runs, report.lost.most, report.lost.bound_pico_usd) = (300, 128, 1_250_000_000_000);
        let page = html(&report);
        assert!(page.contains("Calls that may be lost"), "{page}");
        assert!(page.contains("≤ 128<small>2 dead workers; at most $1.25 in all"), "{page}");
    }

    #[test]
    fn what_is_empty_says_so() {
        let page = html(&report(&[], "b"));
        for text in [
            "No run has ended.",
            "No call was made.",
            "No call was answered.",
            "No call and no run ended with an error.",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
