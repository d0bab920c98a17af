//! How long a provider asks to wait, in whatever way it says so.
//!
//! The order, best first: `retry-after-ms`; `retry-after` as a number or a date; on a refusal, the reset of the dimensions of
//! which nothing remains; the body's `RetryInfo`; "try again in …" in its message. Zero, negative values and times in the
//! past say nothing.

use chrono::{DateTime, Utc};
use http::HeaderMap;

/// The longest wait that is believed: a week. A number beyond it is a mistake, and would park a job for good.
const LONGEST_MS: f64 = 7.0 * 86_400_000.0;

/// Reads the wait from the headers that name one.
pub(super) fn from_retry_headers(headers: &HeaderMap, now: DateTime<Utc>) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let ms = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()).and_then(whole_ms);
    ms.or_else(|| {
        let text = text("retry-after")?;
        match text.parse::<f64>() {
            Ok(seconds) => whole_ms(seconds * 1000.0),
            Err(_) => until(DateTime::parse_from_rfc2822(text).ok()?.to_utc(), now),
        }
    })
}

/// Reads the wait from the resets of the limits of which nothing remains; the longest of them.
///
/// OpenAI writes relative times (`x-ratelimit-reset-tokens: 6m0s`), Anthropic absolute ones
/// (`anthropic-ratelimit-requests-reset: 2026-11-23T01:00:01Z`).
pub(super) fn from_resets(headers: &HeaderMap, now: DateTime<Utc>) -> Option<u64> {
    let mut longest = None;
    for (name, remaining) in headers {
        if remaining.as_bytes().trim_ascii() != b"0" {
            continue;
        }
        let name = name.as_str();
        let reset = if let Some(dimension) = name.strip_prefix("x-ratelimit-remaining-") {
            headers.get(format!("x-ratelimit-reset-{dimension}"))
        } else if let Some(dimension) =
            name.strip_prefix("anthropic-ratelimit-").and_then(|name| name.strip_suffix("-remaining"))
        {
            headers.get(format!("anthropic-ratelimit-{dimension}-reset"))
        } else {
            None
        };
        let wait = reset.and_then(|value| value.to_str().ok()).and_then(|text| duration_or_time(text.trim(), now));
        longest = longest.max(wait);
    }
    longest
}

/// Reads the wait from a message such as `Please try again in 6.823s.` or `Please retry after 26 seconds.`.
pub(super) fn from_text(message: &str) -> Option<u64> {
    let lower = message.to_ascii_lowercase();
    ["try again in ", "retry in ", "retry after ", "try again after "].iter().find_map(|lead| {
        let rest = &lower[lower.find(lead)? + lead.len()..];
        let word = rest.split([' ', ',']).next()?.trim_end_matches('.');
        duration_ms(word).filter(|_| word.ends_with(char::is_alphabetic)).or_else(|| {
            let unit = rest.split_whitespace().nth(1)?;
            let scale = if unit.starts_with("minute") {
                60_000.0
            } else if unit.starts_with("second") {
                1_000.0
            } else if unit.starts_with("millisecond") || unit.starts_with("ms") {
                1.0
            } else {
                return None;
            };
            whole_ms(word.parse::<f64>().ok()? * scale)
        })
    })
}

fn duration_or_time(text: &str, now: DateTime<Utc>) -> Option<u64> {
    duration_ms(text).or_else(|| until(DateTime::parse_from_rfc3339(text).ok()?.to_utc(), now))
}

fn until(time: DateTime<Utc>, now: DateTime<Utc>) -> Option<u64> {
    u64::try_from((time - now).num_milliseconds()).ok().filter(|ms| *ms > 0)
}

/// Parses one or more of `<decimal><unit>`, as Go writes durations; a bare number is seconds, as Azure sends it.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return whole_ms(seconds * 1000.0);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "d" => 86_400_000.0,
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "µs" | "μs" => 0.001,
            "ns" => 0.000_001,
            _ => return None,
        };
        total += number * scale;
        rest = &rest[unit..];
    }
    whole_ms(total)
}

/// Rounds up to whole milliseconds: a wait is a minimum.
fn whole_ms(ms: f64) -> Option<u64> {
    // Sums of decimals miss by less than this; rounding it up would make 62.5 s into 62501 ms.
    if ms.is_nan() {
        return None;
    }
    let ms = (ms - 1e-6).ceil().min(LONGEST_MS);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and a week, in whole numbers"
    )]
    (ms >= 1.0).then_some(ms as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn now() -> DateTime<Utc> {
        "2026-11-23T01:00:00Z".parse().unwrap()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn durations_as_they_are_seen() {
        for (text, ms) in [
            ("12ms", 12),
            ("1s", 1_000),
            ("6m0s", 360_000),
            ("1m2.5s", 62_500),
            ("2m59.56s", 179_560),
            ("333.333ms", 334),
            ("8h2m3s", 28_923_000),
            ("1d", 86_400_000),
            ("26", 26_000),
            ("1500us", 2),
            ("99999999d", 604_800_000),
        ] {
            assert_eq!(duration_ms(text), Some(ms), "{text}");
        }
        for text in ["", "0s", "0", "-1", "s", "1x", "1m2", "nan", "1 s", ".s"] {
            assert_eq!(duration_ms(text), None, "{text}");
        }
    }

    #[test]
    fn retry_headers_in_their_order() {
        for (pairs, ms) in [
            (&[("retry-after-ms", "6823"), ("retry-after", "7")][..], Some(6823)),
            (&[("retry-after-ms", "x"), ("retry-after", "7")], Some(7_000)),
            (&[("retry-after", "0.5")], Some(500)),
            (&[("retry-after", "Mon, 23 Nov 2026 01:00:30 GMT")], Some(30_000)),
            (&[("retry-after", "Mon, 23 Nov 2026 00:59:30 GMT")], None),
            (&[("retry-after", "-5")], None),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "1e300")], Some(604_800_000)),
            (&[], None),
        ] {
            assert_eq!(from_retry_headers(&headers(pairs), now()), ms, "{pairs:?}");
        }
    }

    #[test]
    fn only_exhausted_limits_tell_a_wait() {
        for (pairs, ms) in [
            (&[("x-ratelimit-remaining-requests", "1"), ("x-ratelimit-reset-requests", "6m")][..], None),
            (&[("x-ratelimit-remaining-tokens", "-1"), ("x-ratelimit-reset-tokens", "0")], None),
            (
                &[
                    ("x-ratelimit-remaining-requests", "0"),
                    ("x-ratelimit-reset-requests", "2s"),
                    ("x-ratelimit-remaining-tokens_usage_based", "0"),
                    ("x-ratelimit-reset-tokens_usage_based", "3s"),
                ],
                Some(3_000),
            ),
            (
                &[
                    ("anthropic-ratelimit-output-tokens-remaining", "0"),
                    ("anthropic-ratelimit-output-tokens-reset", "2026-11-23T01:00:20Z"),
                ],
                Some(20_000),
            ),
        ] {
            assert_eq!(from_resets(&headers(pairs), now()), ms, "{pairs:?}");
        }
    }

    #[test]
    fn messages_tell_waits() {
        for (text, ms) in [
            ("Please try again in 6.823s.", Some(6_823)),
            ("Please try again in 1m30s. Visit …", Some(90_000)),
            ("please try again in 750ms", Some(750)),
            ("Please retry after 26 seconds.", Some(26_000)),
            ("Please retry in 12.4s.", Some(12_400)),
            ("Try again in 2 minutes", Some(120_000)),
            ("Please try again in a moment", None),
            ("try again in 20", None),
            ("Please try again later.", None),
        ] {
            assert_eq!(from_text(text), ms, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(try again in )?[0-9a-zµ. ,-]{0,20}") {
            let _ = (from_text(&text), duration_ms(&text));
        }

        #[test]
        fn what_go_writes_is_read_back(hours in 0u64..40, minutes in 0u64..60, ms in 1u64..60_000) {
            let text = format!("{hours}h{minutes}m{}s", ms as f64 / 1000.0);
            prop_assert_eq!(duration_ms(&text), Some(hours * 3_600_000 + minutes * 60_000 + ms));
        }
    }
}
