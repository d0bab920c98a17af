//! Small plots in text: a line over time, bars of a histogram. Pure, but for asking the terminal.

use std::io::IsTerminal as _;

use gristmill_common::tally::Histogram;

/// Columns of a terminal that tells no width, and of what is no terminal.
const WIDTH: usize = 80;
/// Rows of a histogram at most.
const ROWS: usize = 8;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const LETTERS: [char; 8] = ['.', ':', '-', '=', '+', '*', '%', '#'];

/// What plots are drawn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Canvas {
    /// Whether it shows block characters.
    pub(super) blocks: bool,
    /// Columns.
    pub(super) width: usize,
}

impl Canvas {
    /// Asks what standard output is: blocks need a terminal whose locale has UTF-8.
    pub(super) fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let variable = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // The first of them that is set counts.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(variable).unwrap_or_default().to_lowercase();
        let has_utf8 = cfg!(windows) || locale.contains("utf-8") || locale.contains("utf8");
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = terminal_size::terminal_size_of(&stdout).map_or(WIDTH, |(width, _)| usize::from(width.0));
        Self { blocks: stdout.is_terminal() && has_utf8 && !is_dumb, width }
    }

    /// Draws values as one line, the largest as a full block and none as a blank.
    pub(super) fn line(self, values: &[u64]) -> String {
        let most = values.iter().copied().max().unwrap_or(0);
        let levels = if self.blocks { BLOCKS } else { LETTERS };
        let draw = |value: &u64| match share_of(*value, most, levels.len()) {
            0 => ' ',
            level => levels[level - 1],
        };
        values.iter().map(draw).collect()
    }

    /// Draws a bar of at most so many columns; what there is any of has at least one.
    fn bar(self, value: u64, most: u64, columns: usize) -> String {
        let full = if self.blocks { "█" } else { "#" };
        full.repeat(share_of(value, most, columns))
    }

    /// Draws counts by duration as rows of a label, a bar and a count.
    pub(super) fn histogram(self, histogram: &Histogram, columns: usize) -> Vec<[String; 3]> {
        let rows = steps(histogram);
        let most = rows.iter().map(|row| row.2).max().unwrap_or(0);
        let row = |&(from, to, count): &(u32, u32, u64)| {
            [label(from, to), self.bar(count, most, columns), super::table::count(count)]
        };
        rows.iter().map(row).collect()
    }
}

/// Scales a value so that `most` is `parts` and what is more than nothing at least 1.
fn share_of(value: u64, most: u64, parts: usize) -> usize {
    let share = u128::from(value) * parts as u128;
    usize::try_from(share.div_ceil(u128::from(most.max(1)))).unwrap_or(parts)
}

/// Adds counts up between 1, 2, 5, 10, 20 … milliseconds; of many rows the shortest durations share the first.
fn steps(histogram: &Histogram) -> Vec<(u32, u32, u64)> {
    let mut rows: Vec<(u32, u32, u64)> = Vec::new();
    for (from, _, count) in histogram.buckets() {
        let (start, end) = around(from);
        match rows.last_mut() {
            Some(row) if row.0 == start => row.2 += count,
            Some(row) => {
                // What nobody took stands between them, so that the rows are a scale.
                let mut next = row.1;
                while next < start {
                    let (gap, end) = around(next);
                    rows.push((gap, end, 0));
                    next = end;
                }
                rows.push((start, end, count));
            }
            None => rows.push((start, end, count)),
        }
    }
    if rows.len() > ROWS {
        let rest = rows.split_off(rows.len() - ROWS + 1);
        let shorter = rows.iter().map(|row| row.2).sum();
        let first = (0, rest[0].0, shorter);
        return std::iter::once(first).chain(rest).collect();
    }
    rows
}

/// Returns the step of the scale that a duration is in.
fn around(duration_ms: u32) -> (u32, u32) {
    if duration_ms == 0 {
        return (0, 1);
    }
    let decade = 10_u32.pow(duration_ms.ilog10());
    match duration_ms / decade {
        1 => (decade, decade.saturating_mul(2)),
        2..=4 => (decade.saturating_mul(2), decade.saturating_mul(5)),
        _ => (decade.saturating_mul(5), decade.saturating_mul(10)),
    }
}

fn label(from_ms: u32, to_ms: u32) -> String {
    if from_ms == 0 { format!("< {}", span(to_ms)) } else { format!("{}-{}", span(from_ms), span(to_ms)) }
}

/// Writes a duration in milliseconds: `850ms`, `1.2s`, `12s`, `2m05s`.
pub(super) fn span(duration_ms: u32) -> String {
    match duration_ms {
        0..1_000 => format!("{duration_ms}ms"),
        _ => super::table::duration(std::time::Duration::from_millis(duration_ms.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Canvas = Canvas { blocks: true, width: 80 };
    const LETTER: Canvas = Canvas { blocks: false, width: 80 };

    #[test]
    fn a_line_scales_to_its_largest_value() {
        assert_eq!(BLOCK.line(&[0, 1, 4, 8]), " ▁▄█");
        assert_eq!(LETTER.line(&[0, 1, 4, 8, 1_000_000]), " ....".replace("....", "...#"));
        assert_eq!(BLOCK.line(&[0, 0]), "  ");
        assert_eq!(BLOCK.line(&[u64::MAX, u64::MAX / 2]), "█▄");
        assert_eq!(BLOCK.line(&[]), "");
    }

    #[test]
    fn durations_are_shown_on_a_scale() {
        let mut histogram = Histogram::default();
        for duration in [110, 150, 160, 210, 900, 1_500] {
            histogram.add(duration);
        }
        let rows: Vec<String> = BLOCK.histogram(&histogram, 6).iter().map(|row| row.join("|")).collect();
        assert_eq!(rows, ["100ms-200ms|██████|3", "200ms-500ms|██|1", "500ms-1.0s|██|1", "1.0s-2.0s|██|1"]);
        histogram.add(1);
        histogram.add(30_000);
        let rows: Vec<String> = LETTER.histogram(&histogram, 3).iter().map(|row| row.join("|")).collect();
        assert_eq!(
            rows,
            [
                "< 200ms|###|4",
                "200ms-500ms|#|1",
                "500ms-1.0s|#|1",
                "1.0s-2.0s|#|1",
                "2.0s-5.0s||0",
                "5.0s-10s||0",
                "10s-20s||0",
                "20s-50s|#|1"
            ]
        );
        assert!(BLOCK.histogram(&Histogram::default(), 6).is_empty());
        histogram.add(u32::MAX);
        assert_eq!(BLOCK.histogram(&histogram, 6).len(), ROWS);
    }

    #[test]
    fn durations_have_short_names() {
        assert_eq!([0, 850, 1_200, 12_000, 125_000].map(span), ["0ms", "850ms", "1.2s", "12s", "2m05s"]);
    }
}
