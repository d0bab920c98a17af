//! The HTTP side of answers: statuses, headers, bodies.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, SERVER};
use http::{Response, StatusCode};

use super::call::Call;
use super::json::Json;
use super::limit::{Arrival, Left};
use super::payload::Payload;
use super::refusal::Refusal;
use super::stats::Outcome;

/// What a proxy in front of a provider sends when the provider is away.
const BAD_GATEWAY: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n";

/// What a captive portal or a wrong base URL sends.
const SIGN_IN: &str = "<!doctype html><title>Sign in</title>";

/// What the headers of an API answer say, whatever its body.
#[derive(Debug)]
pub(super) struct Reply {
    /// Makes the request id and the id of the answer.
    pub(super) id: u64,
    arrival: Option<Arrival>,
}

impl Reply {
    /// Starts the answer to a call; without an arrival it says nothing of limits.
    pub(super) fn new(id: u64, arrival: Option<Arrival>) -> Self {
        Self { id, arrival }
    }

    /// Ends a call with an error answer.
    pub(super) fn refuse(self, mut call: Call, refusal: &Refusal) -> Response<Payload> {
        call.decide(Outcome::Status(refusal.status), Some(refusal.status), 0);
        let body = Payload::whole(refusal.body());
        let mut response = self.respond(&call, status(refusal.status), "application/json", body);
        if let Some(wait) = refusal.retry_after {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, text(seconds(wait)));
            let wait_ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            headers.insert(HeaderName::from_static("retry-after-ms"), wait_ms.into());
        }
        call.end();
        response
    }

    /// Makes the answer to a call with the headers that OpenAI sends.
    pub(super) fn respond(
        self,
        call: &Call,
        status: StatusCode,
        content_type: &'static str,
        payload: Payload,
    ) -> Response<Payload> {
        let mut response = with_type(status, content_type, payload);
        let headers = response.headers_mut();
        let mut id = Json::with_capacity(24);
        id.raw("req_sim_").hex(self.id);
        if let Ok(id) = HeaderValue::from_maybe_shared(Bytes::from(id.into_bytes())) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        let elapsed_ms = u64::try_from(call.elapsed().as_millis()).unwrap_or(u64::MAX);
        headers.insert(HeaderName::from_static("openai-processing-ms"), elapsed_ms.into());
        headers.insert(HeaderName::from_static("openai-version"), HeaderValue::from_static("2020-10-01"));
        let Some(arrival) = self.arrival else {
            return response;
        };
        if let Some(left) = arrival.requests {
            const NAMES: [&str; 3] =
                ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
            insert_left(headers, NAMES, left);
        }
        if let Some(left) = arrival.tokens {
            const NAMES: [&str; 3] =
                ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
            insert_left(headers, NAMES, left);
        }
        response
    }
}

/// Answers JSON without the headers of the API.
pub(super) fn json(body: Result<Vec<u8>, Refusal>) -> Response<Payload> {
    match body {
        Ok(body) => with_type(StatusCode::OK, "application/json", Payload::whole(body)),
        Err(refusal) => with_type(status(refusal.status), "application/json", Payload::whole(refusal.body())),
    }
}

/// Answers an HTML page, as something between the caller and the provider would.
pub(super) fn html(code: u16) -> Response<Payload> {
    let page = if code < 300 { SIGN_IN } else { BAD_GATEWAY };
    let mut response = with_type(status(code), "text/html; charset=UTF-8", Payload::whole(page));
    response.headers_mut().insert(SERVER, HeaderValue::from_static("cloudflare"));
    response
}

fn with_type(status: StatusCode, content_type: &'static str, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn insert_left(headers: &mut HeaderMap, [limit, remaining, reset]: [&'static str; 3], left: Left) {
    headers.insert(HeaderName::from_static(limit), left.limit.into());
    headers.insert(HeaderName::from_static(remaining), left.remaining.into());
    headers.insert(HeaderName::from_static(reset), text(left.reset));
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Writes a wait in whole milliseconds as seconds, with a fraction only where there is one.
fn seconds(wait: Duration) -> String {
    let wait_ms = wait.as_nanos().div_ceil(1_000_000);
    match wait_ms % 1_000 {
        0 => (wait_ms / 1_000).to_string(),
        ms => format!("{}.{ms:03}", wait_ms / 1_000).trim_end_matches('0').to_owned(),
    }
}

fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("durations are written in ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_written_in_seconds_and_rounded_up() {
        let table = [(0, "0"), (7_000_000, "7"), (1_500_000, "1.5"), (1, "0.001"), (20_001_000, "20.001")];
        for (wait_us, text) in table {
            assert_eq!(seconds(Duration::from_micros(wait_us)), text);
        }
    }
}
