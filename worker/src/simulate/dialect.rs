//! The APIs that the simulator speaks: how each reads calls and words answers, errors and headers.
//!
//! Owns nothing of what happens to a call: that is decided once, between [`Dialect::read`] and [`Dialect::render`], for
//! all of them alike.

pub(super) mod anthropic;
pub(super) mod azure;
pub(super) mod openai;

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::answer::Answer;
use super::body::Body;
use super::limit::{Left, Lefts};
use super::refusal::Refusal;
use super::request::{Malformed, Request};
use super::route::Route;

/// An API.
pub(super) trait Dialect: fmt::Debug + Send + Sync {
    /// Returns its name in the call log.
    fn name(&self) -> &'static str;

    /// Returns the largest body that is read.
    fn max_body_bytes(&self) -> usize {
        64 * 1024 * 1024
    }

    /// Finds the key that a call carries.
    fn key<'h>(&self, headers: &'h HeaderMap) -> Option<Given<'h>>;

    /// Checks what must stand beside the body, the key apart.
    fn check(&self, _route: &Route) -> Result<(), Refusal> {
        Ok(())
    }

    /// Reads a body; fails only for one from which nothing can be read.
    fn read<'b>(&self, route: &Route, body: &'b [u8]) -> Result<Request<'b>, Malformed>;

    /// Names the model that answers for the one that was asked.
    fn model<'a>(&self, _route: &Route, asked: &'a str) -> &'a str {
        asked
    }

    /// Counts the tokens that the rate limit takes at arrival.
    fn charge(&self, request: &Request<'_>) -> u64;

    /// Words an answer, as a stream where one is asked for.
    fn render(&self, route: &Route, request: &Request<'_>, answer: &Answer<'_>) -> Body;

    /// Words an error that comes after status 200, behind `sent` events of a stream or in place of the whole body.
    fn late_error(
        &self,
        route: &Route,
        request: &Request<'_>,
        answer: &Answer<'_>,
        refusal: &Refusal,
        sent: usize,
    ) -> Vec<u8>;

    /// Words an error.
    fn error(&self, route: &Route, refusal: &Refusal, id: u64) -> Vec<u8>;

    /// Adds the headers of an answer from the API.
    fn insert_headers(&self, headers: &mut HeaderMap, route: &Route, figures: &Figures<'_>);

    /// Adds the headers that ask for a wait.
    fn insert_wait(&self, headers: &mut HeaderMap, wait: Duration);

    /// Returns what is sent as a sign of life while a stream has nothing to say.
    fn keep_alive(&self) -> &'static [u8] {
        b": keep-alive\n\n"
    }

    /// Returns the list of models as JSON.
    fn models(&self) -> &'static str;
}

/// A key as a call carries it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'h> {
    pub(super) key: &'h str,
    /// Whether it stands in `Authorization`, not in a header of the vendor's.
    pub(super) is_bearer: bool,
}

impl<'h> Given<'h> {
    /// Reads `Authorization: Bearer`.
    fn bearer(headers: &'h HeaderMap) -> Option<Self> {
        let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        Some(Self { key: value.strip_prefix("Bearer ")?.trim(), is_bearer: true })
    }

    /// Reads a header of the vendor's.
    fn header(headers: &'h HeaderMap, name: &str) -> Option<Self> {
        Some(Self { key: headers.get(name)?.to_str().ok()?.trim(), is_bearer: false })
    }
}

/// What the headers of an answer say.
#[derive(Debug)]
pub(super) struct Figures<'a> {
    /// Makes the request's id.
    pub(super) id: u64,
    pub(super) elapsed_ms: u64,
    pub(super) now: DateTime<Utc>,
    /// `None` for calls that never reached the limits, and where limits are not told.
    pub(super) lefts: Option<&'a Lefts>,
}

/// Adds the figures of one limit under three names, the time until it is full in the words of the dialect.
fn insert_left(headers: &mut HeaderMap, names: [&'static str; 3], left: &Left, reset: &str) {
    let [limit, remaining, until_full] = names.map(HeaderName::from_static);
    headers.insert(limit, left.limit.into());
    headers.insert(remaining, left.remaining.into());
    insert(headers, until_full, reset);
}

/// Adds a header; what cannot stand in one is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Rounds a wait up to whole milliseconds.
fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Rounds a wait up to whole seconds.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
