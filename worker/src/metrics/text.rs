//! The text that a scrape gets: Prometheus's format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, read 2026-11), or OpenMetrics 1.0
//! (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>, read 2026-11).

use std::fmt::{self, Write as _};

use super::family::{Family, Kind};

/// A format of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// Chooses by a request's `Accept`: Prometheus's format unless OpenMetrics is named.
    pub(crate) fn of(accept: &str) -> Self {
        let mut ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
        let is_named = ranges.any(|range| range.eq_ignore_ascii_case("application/openmetrics-text"));
        if is_named { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page that is being written.
#[derive(Debug)]
pub(super) struct Page {
    format: Format,
    text: String,
}

/// Where a family's samples go.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    family: &'a Family,
    text: &'a mut String,
}

impl Page {
    pub(super) fn new(format: Format) -> Self {
        Self { format, text: String::with_capacity(16 * 1024) }
    }

    /// Writes a family's head and then its samples.
    pub(super) fn family(&mut self, family: &Family, samples: impl FnOnce(&mut Samples<'_>)) {
        // OpenMetrics names a counter without its ending.
        let name = match self.format {
            Format::OpenMetrics if family.kind == Kind::Counter => family.name.trim_end_matches("_total"),
            _ => family.name,
        };
        let (text, kind) = (&mut self.text, family.kind.as_str());
        text.extend(["# HELP ", name, " "]);
        escape(text, family.help, self.format == Format::OpenMetrics);
        text.extend(["\n# TYPE ", name, " ", kind, "\n"]);
        samples(&mut Samples { family, text });
    }

    /// Writes a family that has one sample.
    pub(super) fn one(&mut self, family: &Family, value: f64) {
        self.family(family, |samples| samples.value(&[], value));
    }

    /// Writes a family that is true or not.
    pub(super) fn flag(&mut self, family: &Family, is_true: bool) {
        self.one(family, f64::from(u8::from(is_true)));
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Samples<'_> {
    /// Writes a value; the labels' values are in the order of their names.
    pub(super) fn value(&mut self, labels: &[&str], value: f64) {
        self.line("", labels, None, value);
    }

    /// Writes a histogram: the values counted up to each bound, and above the last one.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(super) fn histogram(&mut self, labels: &[&str], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut all = 0;
        for (bound, count) in bounds.iter().copied().chain([f64::INFINITY]).zip(counts) {
            all += count;
            self.line("_bucket", labels, Some(bound), all as f64);
        }
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, all as f64);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], bound: Option<f64>, value: f64) {
        debug_assert_eq!(self.family.labels.len(), labels.len(), "{}", self.family.name);
        self.text.extend([self.family.name, suffix]);
        let mut separator = "{";
        for (name, value) in self.family.labels.iter().zip(labels) {
            self.text.extend([separator, name, "=\""]);
            escape(self.text, value, true);
            self.text.push('"');
            separator = ",";
        }
        if let Some(bound) = bound {
            self.text.extend([separator, "le=\""]);
            // Writing to a string does not fail.
            let _ = write!(self.text, "{}", Number(bound));
            self.text.push('"');
        }
        if !labels.is_empty() || bound.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {}", Number(value));
    }
}

/// A number as both formats have it; OpenMetrics wants whole bounds with a point.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value == f64::INFINITY => f.write_str("+Inf"),
            value => write!(f, "{value:?}"),
        }
    }
}

fn escape(text: &mut String, raw: &str, quotes: bool) {
    for c in raw.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: Family = Family {
        name: "x_calls_total",
        kind: Kind::Counter,
        unit: "calls",
        labels: &["who", "how"],
        help: "Calls \\ \"all\".",
    };
    const TIME: Family =
        Family { name: "x_seconds", kind: Kind::Histogram, unit: "seconds", labels: &["who"], help: "Time." };
    const UP: Family = Family { name: "x_up", kind: Kind::Gauge, unit: "0 or 1", labels: &[], help: "Up." };

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.family(&CALLS, |samples| {
            samples.value(&["a\"b\\c\nd", "ok"], 3.0);
            samples.value(&["e", "ok"], 1_000_000_000.0);
        });
        page.family(&TIME, |samples| samples.histogram(&["a"], &[0.1, 1.0], &[2, 0, 1], 7.25));
        page.flag(&UP, true);
        page.finish()
    }

    #[test]
    fn the_page_is_prometheuss_text() {
        assert_eq!(
            page(Format::Prometheus),
            r#"# HELP x_calls_total Calls \\ "all".
# TYPE x_calls_total counter
x_calls_total{who="a\"b\\c\nd",how="ok"} 3.0
x_calls_total{who="e",how="ok"} 1000000000.0
# HELP x_seconds Time.
# TYPE x_seconds histogram
x_seconds_bucket{who="a",le="0.1"} 2.0
x_seconds_bucket{who="a",le="1.0"} 2.0
x_seconds_bucket{who="a",le="+Inf"} 3.0
x_seconds_sum{who="a"} 7.25
x_seconds_count{who="a"} 3.0
# HELP x_up Up.
# TYPE x_up gauge
x_up 1.0
"#
        );
    }

    #[test]
    fn open_metrics_names_counters_without_their_ending_and_has_an_end() {
        let text = page(Format::OpenMetrics);
        assert!(
            text.starts_with("# HELP x_calls Calls \\\\ \\\"all\\\".\n# TYPE x_calls counter\nx_calls_total{"),
            "{text}"
        );
        assert!(text.ends_with("x_up 1.0\n# EOF\n"), "{text}");
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Prometheus),
            (prometheus, Format::OpenMetrics),
        ] {
            assert_eq!(Format::of(accept), format, "{accept:?}");
        }
    }
}
