//! Durations as people write them on a command line and as OpenAI writes them in headers.

use std::time::Duration;

/// Reads `200ms`, `1.5s`, `2m`, `1h` or `0`.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write it like 200ms, 1.5s or 2m");
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit_seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "" if number == 0.0 => 1.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| wrong())
}

/// Writes a duration as Go prints it and OpenAI's rate-limit headers carry it, rounded up to whole milliseconds.
///
/// `12ms`, `1s`, `1m2.5s`, `6m0s`, `8h2m3s`, as in
/// <https://developers.openai.com/api/docs/guides/rate-limits> (read 2026-11-23).
pub(super) fn go(duration: Duration) -> String {
    let total_ms = duration.as_nanos().div_ceil(1_000_000);
    if total_ms == 0 {
        return "0s".to_owned();
    }
    if total_ms < 1_000 {
        return format!("{total_ms}ms");
    }
    let (minutes, ms) = (total_ms / 60_000, total_ms % 60_000);
    let mut text = match (minutes / 60, minutes % 60) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    text.push_str(&(ms / 1_000).to_string());
    if !ms.is_multiple_of(1_000) {
        text.push_str(format!(".{:03}", ms % 1_000).trim_end_matches('0'));
    }
    text.push('s');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, ms) in [("0", 0), ("0ms", 0), ("200ms", 200), ("1.5s", 1_500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "ms", "-1s", "1d", "1 s", "infs", "NaNs"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn go_durations_look_like_those_of_openai() {
        let table = [
            (0, "0s"),
            (12, "12ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (59_010, "59.01s"),
            (60_000, "1m0s"),
            (62_500, "1m2.5s"),
            (179_560, "2m59.56s"),
            (360_000, "6m0s"),
            (28_923_000, "8h2m3s"),
        ];
        for (ms, text) in table {
            assert_eq!(go(Duration::from_millis(ms)), text);
        }
        assert_eq!(go(Duration::from_micros(1)), "1ms");
    }
}
