//! The HTTP side of answers: statuses, headers, bodies.

use http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use http::{Response, StatusCode};

use super::call::Call;
use super::dialect::Figures;
use super::limit::Lefts;
use super::payload::Payload;
use super::refusal::Refusal;
use super::route::Route;
use super::stats::Outcome;

/// What a body of JSON is called.
pub(super) const JSON: &str = "application/json";

/// What a stream of events is called.
pub(super) const EVENTS: &str = "text/event-stream; charset=utf-8";

/// What a proxy in front of a provider sends when the provider is away.
const BAD_GATEWAY: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n";

/// What a captive portal or a wrong base URL sends.
const SIGN_IN: &str = "<!doctype html><title>Sign in</title>";

/// What the headers of an API answer say, whatever its body.
#[derive(Debug)]
pub(super) struct Reply {
    /// Makes the request id and the id of the answer.
    pub(super) id: u64,
    lefts: Option<Lefts>,
}

impl Reply {
    /// Starts the answer to a call; without figures it says nothing of limits.
    pub(super) fn new(id: u64, lefts: Option<Lefts>) -> Self {
        Self { id, lefts }
    }

    /// Ends a call with an error answer.
    pub(super) fn refuse(self, mut call: Call, route: &Route, refusal: &Refusal) -> Response<Payload> {
        call.decide(Outcome::Status(refusal.status), Some(refusal.status), 0);
        let body = Payload::whole(route.dialect.error(route, refusal, self.id));
        let mut response = self.respond(&call, route, status(refusal.status), JSON, body);
        if let Some(wait) = refusal.retry_after {
            route.dialect.insert_wait(response.headers_mut(), wait);
        }
        call.end();
        response
    }

    /// Makes the answer to a call with the headers that its provider sends.
    pub(super) fn respond(
        self,
        call: &Call,
        route: &Route,
        status: StatusCode,
        content_type: &'static str,
        payload: Payload,
    ) -> Response<Payload> {
        let mut response = with_type(status, content_type, payload);
        let figures = Figures {
            id: self.id,
            elapsed_ms: u64::try_from(call.elapsed().as_millis()).unwrap_or(u64::MAX),
            now: call.now(),
            lefts: self.lefts.as_ref(),
        };
        route.dialect.insert_headers(response.headers_mut(), route, &figures);
        response
    }
}

/// Answers JSON without the headers of the API.
pub(super) fn json(route: &Route, body: Result<Vec<u8>, Refusal>) -> Response<Payload> {
    match body {
        Ok(body) => with_type(StatusCode::OK, JSON, Payload::whole(body)),
        Err(refusal) => {
            with_type(status(refusal.status), JSON, Payload::whole(route.dialect.error(route, &refusal, 0)))
        }
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

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
