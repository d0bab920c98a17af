//! OpenAI's API, which most others imitate.
//!
//! The shapes follow <https://platform.openai.com/docs/api-reference> as the `openai` package 3.54.0 types them (read
//! 2026-11-23).

pub(super) mod error;
pub(super) mod read;
pub(super) mod render;
mod response;
mod wire;

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::{Dialect, Figures, Given, insert, insert_left, milliseconds};
use crate::simulate::answer::Answer;
use crate::simulate::body::Body;
use crate::simulate::duration;
use crate::simulate::refusal::Refusal;
use crate::simulate::request::{Malformed, Request};
use crate::simulate::route::{Operation, Route};

/// The one model that is listed; every model is answered.
pub(super) const MODELS: &str =
    r#"{"object":"list","data":[{"id":"simulated","object":"model","created":1795395600,"owned_by":"gristmill"}]}"#;

/// OpenAI itself.
#[derive(Debug)]
pub(in crate::simulate) struct OpenAi;

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn key<'h>(&self, headers: &'h HeaderMap) -> Option<Given<'h>> {
        Given::bearer(headers)
    }

    fn read<'b>(&self, route: &Route, body: &'b [u8]) -> Result<Request<'b>, Malformed> {
        read::read(route.operation().unwrap_or(Operation::Chat), None, body)
    }

    /// The larger of the answer's maximum and the prompt's estimate, as
    /// <https://developers.openai.com/api/docs/guides/rate-limits> (read 2026-11-23) says.
    fn charge(&self, request: &Request<'_>) -> u64 {
        request.prompt_tokens().max(request.max_tokens.unwrap_or(0)).max(1)
    }

    fn render(&self, route: &Route, request: &Request<'_>, answer: &Answer<'_>) -> Body {
        render::render(render::Host::OpenAi, route, request, answer)
    }

    fn late_error(
        &self,
        route: &Route,
        request: &Request<'_>,
        answer: &Answer<'_>,
        refusal: &Refusal,
        sent: usize,
    ) -> Vec<u8> {
        let error = error::object(refusal);
        if route.operation() == Some(Operation::Responses) {
            return response::failed(request, answer, refusal.status, &error, sent);
        }
        let error = error::body(&error);
        if request.stream { render::event(&error) } else { error }
    }

    fn error(&self, _route: &Route, refusal: &Refusal, _id: u64) -> Vec<u8> {
        error::body(&error::object(refusal))
    }

    fn insert_headers(&self, headers: &mut HeaderMap, _route: &Route, figures: &Figures<'_>) {
        insert(headers, HeaderName::from_static("x-request-id"), &format!("req_sim_{:016x}", figures.id));
        headers.insert(HeaderName::from_static("openai-processing-ms"), figures.elapsed_ms.into());
        headers.insert(HeaderName::from_static("openai-version"), HeaderValue::from_static("2020-10-01"));
        let Some(lefts) = figures.lefts else {
            return;
        };
        if let Some(left) = &lefts.requests {
            const NAMES: [&str; 3] =
                ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
            insert_left(headers, NAMES, left, &duration::go(left.reset));
        }
        if let Some(left) = &lefts.tokens {
            const NAMES: [&str; 3] =
                ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
            insert_left(headers, NAMES, left, &duration::go(left.reset));
        }
    }

    fn insert_wait(&self, headers: &mut HeaderMap, wait: Duration) {
        insert(headers, RETRY_AFTER, &fraction(wait));
        headers.insert(HeaderName::from_static("retry-after-ms"), milliseconds(wait).into());
    }

    fn models(&self) -> &'static str {
        MODELS
    }
}

/// Writes a wait in whole milliseconds as seconds, with a fraction only where there is one.
fn fraction(wait: Duration) -> String {
    let wait_ms = milliseconds(wait);
    match wait_ms % 1_000 {
        0 => (wait_ms / 1_000).to_string(),
        ms => format!("{}.{ms:03}", wait_ms / 1_000).trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_written_in_seconds_and_rounded_up() {
        let table = [(0, "0"), (7_000_000, "7"), (1_500_000, "1.5"), (1, "0.001"), (20_001_000, "20.001")];
        for (wait_us, text) in table {
            assert_eq!(fraction(Duration::from_micros(wait_us)), text);
        }
    }
}
