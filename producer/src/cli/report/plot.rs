//! Plots as SVG: their colours and letters come from the page's style sheet, so they follow light, dark and paper. Pure.

use std::fmt::Write as _;

use chrono::DateTime;

use super::page::escape;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 30.0;
/// Height of the part that is plotted in.
const HEIGHT: f64 = 210.0;
/// Lines across a plot, at most.
const LINES: f64 = 5.0;
/// Labels of times below a plot, at most.
const TIMES: usize = 6;
/// Height of a row of horizontal bars.
const ROW: f64 = 28.0;
/// Room for the names of horizontal bars, and letters that fit there.
const NAMES: f64 = 200.0;
const LETTERS: usize = 28;
/// Bars of a histogram to a doubling.
const PER_DOUBLING: f64 = 4.0;

/// One of several amounts that are drawn on top of each other: its style and its values.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) style: &'static str,
    pub(super) name: &'static str,
    pub(super) values: Vec<i64>,
}

/// A bar of a histogram: from, to, and how many.
pub(super) type Bucket = (u32, u32, u64);

struct Svg {
    text: String,
}

impl Svg {
    /// Begins a picture; `about` is read out in its place.
    fn new(height: f64, about: &str) -> Self {
        let about = escape(about);
        Self {
            text: format!(
                "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{about}\"><title>{about}</title>\n"
            ),
        }
    }

    fn line(&mut self, style: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = writeln!(
            self.text,
            "<line class=\"{style}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn bar(&mut self, style: &str, at: (f64, f64), size: (f64, f64), tip: &str) {
        let _ = writeln!(
            self.text,
            "<rect class=\"{style}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
            at.0,
            at.1,
            size.0.max(0.5),
            size.1.max(0.5),
            escape(tip)
        );
    }

    fn label(&mut self, anchor: &str, at: (f64, f64), text: &str) {
        let _ =
            writeln!(self.text, "<text class=\"{anchor}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", at.0, at.1, escape(text));
    }

    /// Draws the lines across with their numbers, up to at least `most`; returns the number at the top.
    fn scale(&mut self, most: i64, top: f64) -> f64 {
        let step = step_of(most);
        #[expect(clippy::cast_precision_loss, reason = "drawn by the pixel")]
        let lines = (most.max(1) as f64 / step).ceil();
        for line in 0..=whole(lines) {
            let value = f64::from(line) * step;
            let y = top + HEIGHT - HEIGHT * f64::from(line) / lines;
            self.line(if line == 0 { "axis" } else { "grid" }, (LEFT, y), (WIDTH - RIGHT, y));
            self.label("end", (LEFT - 6.0, y + 4.0), &short(value));
        }
        lines * step
    }

    /// Writes times below.
    fn times(&mut self, times: &[i64], length_s: i64, top: f64) {
        let span_s = length_s * times.len() as i64;
        let format = match (span_s, length_s) {
            (259_200.., _) => "%b %-d",
            (86_400.., _) => "%b %-d %H:%M",
            (_, 60..) => "%H:%M",
            _ => "%H:%M:%S",
        };
        let shown = times.len().div_ceil(TIMES).max(1);
        let width = (WIDTH - LEFT - RIGHT) / times.len().max(1) as f64;
        for (index, at_s) in times.iter().enumerate().step_by(shown) {
            let x = LEFT + width * index as f64;
            // The last one would hang over the edge.
            if WIDTH - RIGHT - x < 40.0 && index > 0 {
                continue;
            }
            let text = DateTime::from_timestamp(*at_s, 0).unwrap_or_default().format(format).to_string();
            self.line("axis", (x, top + HEIGHT), (x, top + HEIGHT + 4.0));
            self.label("start", (x, top + HEIGHT + 18.0), &text);
        }
    }

    fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// Draws amounts that grow over time, on top of each other.
pub(super) fn areas(about: &str, times: &[i64], length_s: i64, layers: &[Layer]) -> String {
    let mut svg = Svg::new(TOP + HEIGHT + BOTTOM, about);
    let grown: Vec<Vec<i64>> = layers
        .iter()
        .map(|layer| {
            let sums = layer.values.iter().scan(0, |sum, value| {
                *sum += value;
                Some(*sum)
            });
            std::iter::once(0).chain(sums).collect()
        })
        .collect();
    let most = grown.iter().filter_map(|sums| sums.last()).sum();
    let top = svg.scale(most, TOP);
    let x = |index: usize| LEFT + (WIDTH - LEFT - RIGHT) * index as f64 / times.len().max(1) as f64;
    let y = |value: i64| TOP + HEIGHT - HEIGHT * value as f64 / top;
    let mut below = vec![0; times.len() + 1];
    for (layer, sums) in layers.iter().zip(&grown) {
        if sums.last() == Some(&0) {
            continue;
        }
        let above: Vec<i64> = below.iter().zip(sums).map(|(below, own)| below + own).collect();
        let mut path = String::new();
        let upper = above.iter().enumerate();
        let lower = below.iter().enumerate().rev();
        for (index, value) in upper.chain(lower) {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x(index), y(*value));
        }
        let last = sums.last().copied().unwrap_or(0);
        let _ = writeln!(
            svg.text,
            "<path class=\"{}\" d=\"{path}Z\"><title>{}: {last}</title></path>",
            layer.style,
            escape(layer.name)
        );
        below = above;
    }
    svg.times(times, length_s, TOP);
    svg.end()
}

/// Draws amounts of each time as bars, on top of each other.
pub(super) fn columns(about: &str, times: &[i64], length_s: i64, layers: &[Layer]) -> String {
    let mut svg = Svg::new(TOP + HEIGHT + BOTTOM, about);
    let sum = |index: usize| layers.iter().filter_map(|layer| layer.values.get(index)).sum::<i64>();
    let most = (0..times.len()).map(sum).max().unwrap_or(0);
    let top = svg.scale(most, TOP);
    let width = (WIDTH - LEFT - RIGHT) / times.len().max(1) as f64;
    // A single bar as wide as the page says less than a narrow one.
    let drawn = (width * 0.86).min(60.0);
    for (index, at_s) in times.iter().enumerate() {
        let mut y = TOP + HEIGHT;
        for layer in layers {
            let value = layer.values.get(index).copied().unwrap_or(0);
            if value == 0 {
                continue;
            }
            let height = HEIGHT * value as f64 / top;
            y -= height;
            let time = DateTime::from_timestamp(*at_s, 0).unwrap_or_default().format("%Y-%m-%d %H:%M:%S");
            let tip = format!("{time} UTC: {value} {}", layer.name);
            svg.bar(layer.style, (LEFT + width * index as f64 + (width - drawn) / 2.0, y), (drawn, height), &tip);
        }
    }
    svg.times(times, length_s, TOP);
    svg.end()
}

/// Draws how long calls took, with marks.
pub(super) fn histogram(about: &str, buckets: &[Bucket], marks: &[(&str, u32)]) -> String {
    let head = 16.0 * marks.len() as f64 + 4.0;
    let mut svg = Svg::new(head + HEIGHT + BOTTOM, about);
    let place = |ms: u32| f64::from(ms.max(1)).log2() * PER_DOUBLING;
    let bar_of = |ms: u32| whole(place(ms).floor());
    let first = buckets.first().map_or(0, |bucket| bar_of(bucket.0)).saturating_sub(1);
    let last = buckets.last().map_or(0, |bucket| bar_of(bucket.0)) + 2;
    let mut bars = vec![0_i64; (last - first) as usize];
    for &(from, _, calls) in buckets {
        if let Some(bar) = bars.get_mut((bar_of(from) - first) as usize) {
            *bar += i64::try_from(calls).unwrap_or(i64::MAX);
        }
    }
    let top = svg.scale(bars.iter().copied().max().unwrap_or(0), head);
    let width = (WIDTH - LEFT - RIGHT) / bars.len() as f64;
    let x = |place: f64| LEFT + width * (place - f64::from(first));
    let edge = |bar: u32| milliseconds(2_f64.powf(f64::from(bar) / PER_DOUBLING));
    for (index, calls) in (first..).zip(&bars) {
        if *calls > 0 {
            let height = HEIGHT * *calls as f64 / top;
            let tip = format!("{} to {}: {calls} calls", edge(index), edge(index + 1));
            svg.bar("calls", (x(f64::from(index)) + 1.0, head + HEIGHT - height), (width - 2.0, height), &tip);
        }
    }
    let mut free = f64::MIN;
    for ms in (0..7).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u32.pow(power))) {
        let at = x(place(ms));
        if place(ms) < f64::from(first) || place(ms) > f64::from(last) || at < free || at > WIDTH - 30.0 {
            continue;
        }
        free = at + 64.0;
        svg.line("axis", (at, head + HEIGHT), (at, head + HEIGHT + 4.0));
        svg.label("middle", (at, head + HEIGHT + 18.0), &milliseconds(f64::from(ms)));
    }
    for (index, (name, ms)) in marks.iter().enumerate() {
        let at = x(place(*ms));
        let y = 16.0 * index as f64 + 12.0;
        svg.line("mark", (at, y - 8.0), (at, head + HEIGHT));
        let text = format!("{name} {}", milliseconds(f64::from(*ms)));
        let (anchor, beside) = if at > WIDTH - 140.0 { ("end", -5.0) } else { ("start", 5.0) };
        svg.label(anchor, (at + beside, y), &text);
    }
    svg.end()
}

/// Draws one bar a row, each with its name, its length and what stands behind it.
pub(super) fn rows(about: &str, style: &'static str, rows: &[(String, i64, String)]) -> String {
    let mut svg = Svg::new(ROW * rows.len() as f64 + 8.0, about);
    let most = rows.iter().map(|row| row.1).max().unwrap_or(0).max(1);
    // What stands behind a bar has to fit as well.
    let room = WIDTH - NAMES - RIGHT - 150.0;
    for (index, (name, value, behind)) in rows.iter().enumerate() {
        let y = ROW * index as f64 + 4.0;
        let shown = match name.char_indices().nth(LETTERS) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name.clone(),
        };
        svg.label("end", (NAMES - 8.0, y + 16.0), &shown);
        let length = room * (*value).max(0) as f64 / most as f64;
        svg.bar(style, (NAMES, y + 3.0), (length, ROW - 10.0), &format!("{name}: {behind}"));
        svg.label("start", (NAMES + length + 7.0, y + 16.0), behind);
    }
    svg.end()
}

/// Returns the distance of the lines across a plot: 1, 2 or 5 with zeros.
fn step_of(most: i64) -> f64 {
    let least = most.max(1) as f64 / LINES;
    let power = 10_f64.powf(least.log10().floor()).max(1.0);
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= least).unwrap_or(power * 10.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; it is drawn by the pixel")]
fn whole(number: f64) -> u32 {
    number as u32
}

/// Writes a number of a scale: 1.5k, 2M.
fn short(number: f64) -> String {
    let (number, unit) = match number {
        1e9.. => (number / 1e9, "G"),
        1e6.. => (number / 1e6, "M"),
        1e3.. => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let text = format!("{number:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// Writes a time that calls take.
pub(super) fn milliseconds(ms: f64) -> String {
    let (number, unit) = match ms {
        60_000.0.. => (ms / 60_000.0, "min"),
        1_000.0.. => (ms / 1_000.0, "s"),
        _ => (ms, "ms"),
    };
    let text = if number < 10.0 && unit != "ms" { format!("{number:.1}") } else { format!("{number:.0}") };
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_numbers() {
        for (most, step) in [(0, 1.0), (1, 1.0), (7, 2.0), (10, 2.0), (99, 20.0), (1_234, 500.0), (5_000_000, 1e6)] {
            assert_eq!(step_of(most), step, "{most}");
        }
        assert_eq!([0.0, 20.0, 1_500.0, 2e6].map(short), ["0", "20", "1.5k", "2M"]);
        assert_eq!(
            [4.0, 999.0, 1_500.0, 20_000.0, 90_000.0].map(milliseconds),
            ["4 ms", "999 ms", "1.5 s", "20 s", "1.5 min"]
        );
    }

    #[test]
    fn a_plot_has_what_was_given_and_no_markup_of_names() {
        let layer = |values: &[i64]| Layer { style: "ok", name: "<b>", values: values.to_vec() };
        for text in [
            areas("a < b", &[0, 10], 10, &[layer(&[1, 2])]),
            columns("a < b", &[0, 10], 10, &[layer(&[1, 2])]),
            rows("a < b", "ok", &[("<script>".to_owned(), 5, "$1".to_owned()), (String::new(), 0, String::new())]),
            histogram("a < b", &[(16, 17, 3), (1_000, 1_064, 1)], &[("p50", 16), ("p99", 1_030)]),
            histogram("a < b", &[], &[]),
            areas("a < b", &[], 0, &[]),
        ] {
            assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"), "{text}");
            assert!(text.contains("aria-label=\"a &lt; b\""), "{text}");
            for markup in ["<b>", "<script", "NaN", "inf"] {
                assert!(!text.contains(markup), "{markup}: {text}");
            }
        }
    }
}
