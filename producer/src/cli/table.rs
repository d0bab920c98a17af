//! Numbers, times and columns as people read them. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Writes a count with a comma at each thousand.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a time in its two largest units.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", time.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Writes how long ago something was.
pub(super) fn ago(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ago", duration((now - then).to_std().unwrap_or_default()))
}

/// Writes when something will be.
pub(super) fn soon(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match (then - now).to_std() {
        Ok(wait) if !wait.is_zero() => format!("in {}", duration(wait)),
        _ => "now".to_owned(),
    }
}

/// Writes a count of things whose plural ends in s.
pub(super) fn plural(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Writes dollars: cents from one dollar on, four digits that count below.
pub(super) fn money(usd: f64) -> String {
    if usd >= 1.0 {
        return format!("${usd:.2}");
    }
    let decimals = if usd > 0.0 { (-usd.log10()).floor() + 3.0 } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 12")]
    let decimals = decimals.clamp(2.0, 12.0) as usize;
    format!("${usd:.decimals$}")
}

/// Writes a cost that may not be known.
pub(super) fn cost(usd: Option<f64>) -> String {
    usd.map_or_else(|| "unknown".to_owned(), money)
}

/// Writes how many results the response cache gave, which share that is, and what it saved.
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub(super) fn cached_and_saved(cached: u64, of: u64, saved_usd: f64) -> String {
    let share = if of > 0 { format!(" ({:.0} %)", cached.min(of) as f64 * 100.0 / of as f64) } else { String::new() };
    let saved = if saved_usd > 0.0 { format!(", {} saved", money(saved_usd)) } else { String::new() };
    format!("{}{share}{saved}", count(cached))
}

/// Lays rows out in columns; the first row is the heading.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..width).map(widest).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Lays rows out in columns, the first `names` of them to the left and the others, which are numbers, to the right.
pub(super) fn sheet(rows: &[Vec<String>], names: usize) -> String {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..width).map(widest).collect();
    let mut text = String::new();
    for row in rows {
        let cell = |(column, (cell, width)): (usize, (&String, &usize))| {
            if column < names { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        };
        let cells: Vec<String> = row.iter().zip(&widths).enumerate().map(cell).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 9_940, 59_000, 61_000, 7_260_000, 90_000_000].map(|ms| duration(Duration::from_millis(ms))),
            ["0.0s", "9.9s", "59s", "1m01s", "2h01m", "1d01h"]
        );
        assert_eq!(
            [0.0, 12.345, 0.5, 0.01234, 0.000_045_6].map(money),
            ["$0.00", "$12.35", "$0.500", "$0.0123", "$0.0000456"]
        );
        assert_eq!([None, Some(0.0)].map(cost), ["unknown", "$0.00"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["NAME".to_owned(), "N".to_owned()], vec!["a".to_owned(), "1".to_owned()]];
        assert_eq!(columns(&rows), "NAME  N\na     1\n");
    }

    #[test]
    fn numbers_of_a_sheet_line_up_at_their_end() {
        let rows = [["MODEL", "N", "COST"], ["a", "1,000", "$1.00"], ["gpt", "1", ""]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(sheet(&rows, 1), "MODEL      N   COST\na      1,000  $1.00\ngpt        1\n");
    }
}
