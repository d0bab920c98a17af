//! Anthropic's Messages API.
//!
//! Headers, versions and shapes follow <https://platform.claude.com/docs/en/api/overview> and its pages on errors, rate
//! limits and versions, and the `anthropic` package 2.12.0 (both read 2026-11-23).

mod check;
mod error;
mod read;
mod render;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::{Dialect, Figures, Given, insert, insert_left, seconds};
use crate::simulate::answer::Answer;
use crate::simulate::body::Body;
use crate::simulate::limit::Left;
use crate::simulate::refusal::Refusal;
use crate::simulate::request::{Malformed, Request};
use crate::simulate::route::{Operation, Route};

/// Versions that are answered.
const VERSIONS: [&str; 3] = ["2023-01-01", "2023-06-01", SAMPLING_REMOVED];

/// The version without `temperature`, `top_p` and `top_k`
/// (<https://platform.claude.com/docs/en/api/migration-2026-10-21>, read 2026-11-23).
const SAMPLING_REMOVED: &str = "2026-10-21";

/// Limits from which on the figure of what is left is rounded to thousands, as it always is there.
const ROUNDED_FROM: u32 = 60_000;

/// The names of the limit of input tokens.
const INPUT: [&str; 3] = [
    "anthropic-ratelimit-input-tokens-limit",
    "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-input-tokens-reset",
];

/// The names of the limit of output tokens.
const OUTPUT: [&str; 3] = [
    "anthropic-ratelimit-output-tokens-limit",
    "anthropic-ratelimit-output-tokens-remaining",
    "anthropic-ratelimit-output-tokens-reset",
];

/// The names of the tightest limit of tokens.
const ALL: [&str; 3] =
    ["anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"];

/// The one model that is listed; every model is answered.
const MODELS: &str = r#"{"data":[{"type":"model","id":"simulated","display_name":"Simulated","created_at":"2026-11-23T01:00:00Z"}],"has_more":false,"first_id":"simulated","last_id":"simulated"}"#;

/// Anthropic.
#[derive(Debug)]
pub(in crate::simulate) struct Anthropic;

impl Dialect for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn max_body_bytes(&self) -> usize {
        32 * 1024 * 1024
    }

    fn key<'h>(&self, headers: &'h HeaderMap) -> Option<Given<'h>> {
        Given::header(headers, "x-api-key").or_else(|| Given::bearer(headers))
    }

    fn check(&self, route: &Route) -> Result<(), Refusal> {
        match route.version.as_deref() {
            None => Err(Refusal::no_version(400)),
            Some(version) if VERSIONS.contains(&version) => Ok(()),
            Some(version) => Err(Refusal::malformed(Malformed::new(format!(
                "anthropic-version: \"{version}\" is not a valid version"
            )))),
        }
    }

    fn read<'b>(&self, route: &Route, body: &'b [u8]) -> Result<Request<'b>, Malformed> {
        let is_without_sampling = route.version.as_deref() == Some(SAMPLING_REMOVED);
        read::read(route.operation().unwrap_or(Operation::Messages), is_without_sampling, body)
    }

    /// The prompt alone: tokens of output are counted as they are produced
    /// (<https://platform.claude.com/docs/en/api/rate-limits>, read 2026-11-23). A cached prompt is taken in full; the
    /// limit of input alone does without what is read.
    fn charge(&self, request: &Request<'_>) -> u64 {
        request.prompt_tokens().max(1)
    }

    fn render(&self, _route: &Route, request: &Request<'_>, answer: &Answer<'_>) -> Body {
        render::render(request, answer)
    }

    fn late_error(
        &self,
        _route: &Route,
        request: &Request<'_>,
        answer: &Answer<'_>,
        refusal: &Refusal,
        _sent: usize,
    ) -> Vec<u8> {
        let error = error::envelope(refusal, answer.id);
        if !request.stream {
            return Body::json(&error).bytes;
        }
        let mut body = Body::stream();
        body.event("error", &error, 0);
        body.bytes
    }

    fn error(&self, _route: &Route, refusal: &Refusal, id: u64) -> Vec<u8> {
        Body::json(&error::envelope(refusal, id)).bytes
    }

    fn insert_headers(&self, headers: &mut HeaderMap, _route: &Route, figures: &Figures<'_>) {
        insert(headers, HeaderName::from_static("request-id"), &request_id(figures.id));
        let organization = HeaderValue::from_static("00000000-0000-4000-8000-000000000000");
        headers.insert(HeaderName::from_static("anthropic-organization-id"), organization);
        let Some(lefts) = figures.lefts else {
            return;
        };
        if let Some(left) = &lefts.requests {
            const NAMES: [&str; 3] = [
                "anthropic-ratelimit-requests-limit",
                "anthropic-ratelimit-requests-remaining",
                "anthropic-ratelimit-requests-reset",
            ];
            insert_left(headers, NAMES, left, &full_at(figures.now, left.reset));
        }
        // One limit of tokens is that of input, where this has none of its own.
        let input = lefts.input_tokens.as_ref().or(lefts.tokens.as_ref());
        let output = lefts.output_tokens.as_ref();
        // Tokens alone are the tightest of all limits on them.
        let all =
            [&lefts.tokens, &lefts.input_tokens, &lefts.output_tokens].into_iter().flatten().min_by_key(tightness);
        for (names, left) in [(INPUT, input), (OUTPUT, output), (ALL, all)] {
            if let Some(left) = left {
                insert_left(headers, names, &rounded(left), &full_at(figures.now, left.reset));
            }
        }
    }

    fn insert_wait(&self, headers: &mut HeaderMap, wait: Duration) {
        headers.insert(RETRY_AFTER, seconds(wait).into());
        headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("true"));
    }

    fn keep_alive(&self) -> &'static [u8] {
        b"event: ping\ndata: {\"type\": \"ping\"}\n\n"
    }

    fn models(&self) -> &'static str {
        MODELS
    }
}

/// Writes the id of a request, which errors repeat in their bodies.
fn request_id(id: u64) -> String {
    format!("req_sim{id:016x}")
}

/// Orders limits by the share of them that is left.
fn tightness(left: &&Left) -> u128 {
    u128::from(left.remaining) * 1_000_000 / u128::from(left.limit.max(1))
}

/// Rounds what is left of a larger limit of tokens to thousands.
fn rounded(left: &Left) -> Left {
    let remaining = if left.limit >= ROUNDED_FROM { (left.remaining + 500) / 1_000 * 1_000 } else { left.remaining };
    Left { remaining, ..left.clone() }
}

/// Writes when a limit will be full: an absolute time in whole seconds, rounded up.
fn full_at(now: DateTime<Utc>, reset: Duration) -> String {
    let at = now + reset;
    let at = if at.timestamp_subsec_nanos() > 0 { at + Duration::from_secs(1) } else { at };
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_absolute_and_rounded_up() {
        let now = DateTime::from_timestamp(1_795_395_600, 250_000_000).unwrap();
        assert_eq!(full_at(now, Duration::from_millis(750)), "2026-11-23T01:00:01Z");
        assert_eq!(full_at(now, Duration::from_millis(751)), "2026-11-23T01:00:02Z");
        assert_eq!(full_at(now, Duration::from_secs(60)), "2026-11-23T01:01:01Z");
    }
}
