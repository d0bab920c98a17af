//! One request and its answer over HTTP: time limits, the size limit, and nothing of what either says.

use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gristmill_common::config::Timeouts;
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::stream::{Event, Parser, begins_as_stream};
use super::transport;

/// How long the end of a stream is waited for once all of it was heard.
const TO_END: Duration = Duration::from_millis(20);
/// How much blank space may stand before an answer while it is told from a stream.
const MOST_BLANKS: usize = 16 * 1024;

/// What one exchange may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) timeouts: Timeouts,
    /// A shorter total that the caller asks for.
    pub(super) deadline: Option<Duration>,
    pub(super) max_response_bytes: usize,
}

/// How an exchange went.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Whether any byte of the request may have left.
    pub(super) sent: bool,
    /// Time to the head of the answer; of a stream, to its first output.
    pub(super) first_byte: Option<Duration>,
    /// Time of it all.
    pub(super) total: Duration,
    /// The head, if one came.
    pub(super) head: Option<(StatusCode, HeaderMap)>,
    /// Whether the answer was a stream, whose events went to the listener.
    pub(super) streamed: bool,
    /// The whole body, or why there is none; of a stream, nothing, or why it broke.
    pub(super) body: Result<Bytes, ErrorRecord>,
}

/// What a listener makes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Somebody is there.
    Alive,
    /// Output.
    Output,
    /// There is nothing more to hear.
    End,
}

/// Hears the events of a stream.
pub(super) type Listener<'a> = &'a mut (dyn FnMut(Event<'_>) -> Heard + Send);

/// Sends a request and reads its answer. `body` becomes the request's body; an answer that is a stream, by its content type or by
/// how it begins, goes to the listener, if there is one.
pub(super) async fn exchange(
    client: &reqwest::Client,
    mut request: reqwest::Request,
    body: Bytes,
    limits: Limits,
    listener: Option<Listener<'_>>,
) -> Exchange {
    let started = Instant::now();
    let sent = Arc::new(OnceLock::new());
    *request.body_mut() = Some(reqwest::Body::wrap(Outgoing { data: Some(body), sent: Arc::clone(&sent) }));
    let clock = Watch { started, limits };
    let mut exchange = Exchange {
        sent: false,
        first_byte: None,
        total: Duration::ZERO,
        head: None,
        streamed: false,
        body: Ok(Bytes::new()),
    };
    exchange.body = match clock.head(client.execute(request), &sent).await {
        Ok(mut response) => {
            exchange.first_byte = Some(started.elapsed());
            let body = match listener.filter(|_| response.status().is_success()) {
                None => clock.body(&mut response, Bytes::new()).await,
                Some(listener) => match clock.opening(&mut response).await {
                    Err(record) => Err(record),
                    Ok(Opening::Plain(head)) => clock.body(&mut response, head).await,
                    Ok(Opening::Stream(head)) => {
                        exchange.streamed = true;
                        let since = sent.get().copied().unwrap_or(started);
                        let (first, ended) = clock.stream(&mut response, head, since, listener).await;
                        exchange.first_byte = first.map(|first| first.duration_since(started));
                        ended.map(|()| Bytes::new())
                    }
                },
            };
            exchange.head = Some((response.status(), std::mem::take(response.headers_mut())));
            body
        }
        Err(record) => Err(record),
    };
    exchange.sent = sent.get().is_some();
    exchange.total = started.elapsed();
    exchange
}

/// What an answer is, by its beginning; holds what was read to tell.
#[derive(Debug)]
enum Opening {
    Plain(Bytes),
    Stream(Bytes),
}

/// The limits of an exchange that has begun.
#[derive(Debug, Clone, Copy)]
struct Watch {
    started: Instant,
    limits: Limits,
}

impl Watch {
    fn total(&self) -> Instant {
        let total = self.limits.timeouts.total;
        self.started + self.limits.deadline.map_or(total, |deadline| deadline.min(total))
    }

    /// Waits for the head. The time to the first byte counts from when the request's body begins to be sent.
    async fn head(
        &self,
        response: impl Future<Output = reqwest::Result<reqwest::Response>>,
        sent: &OnceLock<Instant>,
    ) -> Result<reqwest::Response, ErrorRecord> {
        let Timeouts { connect, first_byte, .. } = self.limits.timeouts;
        // The client ends a slow connect itself; this limit is for whatever else may come before sending.
        let unsent = self.started + connect + Duration::from_secs(1);
        let mut limit = unsent.min(self.started + first_byte);
        let mut response = pin!(response);
        loop {
            let until = limit.min(self.total());
            match timeout_at(until, &mut response).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => return Err(transport::failure(error, &self.limits.timeouts)),
                Err(_) if until == self.total() => return Err(self.total_passed()),
                Err(_) => {}
            }
            let now = Instant::now();
            limit = match sent.get() {
                Some(at) if *at + first_byte > now => *at + first_byte,
                Some(_) => return Err(first_byte_passed(first_byte)),
                None if now < unsent => unsent.min(now + first_byte),
                None => return Err(transport::connect_timed_out(connect)),
            };
        }
    }

    /// Tells whether the answer is a stream. Servers and gateways send streams as `text/plain`, as `application/octet-stream` or
    /// under no type: what does not say that it is one is known by its first bytes, which are usually all in the first piece.
    async fn opening(&self, response: &mut reqwest::Response) -> Result<Opening, ErrorRecord> {
        if is_event_stream(response.headers()) {
            return Ok(Opening::Stream(Bytes::new()));
        }
        let cap = self.limits.max_response_bytes;
        if announced(response) > Some(cap) {
            return Err(too_large(cap));
        }
        let mut head = Bytes::new();
        while let Some(chunk) = self.chunk(response).await? {
            head = if head.is_empty() { chunk } else { [&head[..], &chunk].concat().into() };
            match begins_as_stream(&head) {
                Some(true) => return Ok(Opening::Stream(head)),
                None if head.len() <= MOST_BLANKS => {}
                _ => break,
            }
        }
        Ok(Opening::Plain(head))
    }

    /// Reads a whole body, which begins with what was read of it already.
    async fn body(&self, response: &mut reqwest::Response, head: Bytes) -> Result<Bytes, ErrorRecord> {
        let cap = self.limits.max_response_bytes;
        let announced = announced(response);
        if announced > Some(cap) {
            return Err(too_large(cap));
        }
        // Most answers come in one piece, which is then not copied.
        let first = match head {
            head if head.is_empty() => self.chunk(response).await?.unwrap_or_default(),
            head => head,
        };
        if announced == Some(first.len()) {
            // Reads the end, so that the connection can be used again.
            while self.chunk(response).await?.is_some() {}
            return Ok(first);
        }
        let mut all: Option<BytesMut> = None;
        let mut length = first.len();
        while length <= cap {
            let Some(chunk) = self.chunk(response).await? else {
                return Ok(all.map_or(first, BytesMut::freeze));
            };
            length += chunk.len();
            let all = all.get_or_insert_with(|| {
                let mut all = BytesMut::with_capacity(announced.unwrap_or(length * 2).min(cap));
                all.extend_from_slice(&first);
                all
            });
            all.extend_from_slice(&chunk);
        }
        Err(too_large(cap))
    }

    /// Hears a stream to its end; returns when the first output came. The time to it counts from `since`, and comments do not
    /// count as events: a server that keeps a connection alive for ever is waited for no longer than any other.
    async fn stream(
        &self,
        response: &mut reqwest::Response,
        head: Bytes,
        since: Instant,
        listener: Listener<'_>,
    ) -> (Option<Instant>, Result<(), ErrorRecord>) {
        let Timeouts { first_byte, idle, .. } = self.limits.timeouts;
        let cap = self.limits.max_response_bytes;
        let mut parser = Parser::default();
        let (mut first, mut limit, mut read) = (None, since + first_byte, 0usize);
        let mut head = Some(head).filter(|head| !head.is_empty());
        loop {
            let until = limit.min(self.total());
            let next = async {
                match head.take() {
                    Some(head) => Ok(Some(head)),
                    None => response.chunk().await,
                }
            };
            let chunk = match timeout_at(until, next).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => {
                    parser.finish(|event| listener(event) != Heard::End);
                    return (first, Ok(()));
                }
                Ok(Err(error)) => return (first, Err(transport::failure(error, &self.limits.timeouts))),
                Err(_) if until == self.total() => return (first, Err(self.total_passed())),
                Err(_) if first.is_none() => return (first, Err(first_token_passed(first_byte))),
                Err(_) => return (first, Err(silent(idle))),
            };
            read += chunk.len();
            if read > cap {
                return (first, Err(too_large(cap)));
            }
            let (mut is_alive, mut has_output) = (false, false);
            let goes_on = parser.feed(&chunk, |event| {
                let heard = listener(event);
                is_alive = true;
                has_output |= heard == Heard::Output;
                heard != Heard::End
            });
            let now = Instant::now();
            if has_output && first.is_none() {
                first = Some(now);
            }
            if !goes_on {
                // Reads the end, so that the connection can be used again, if it is there already.
                let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
                let _ = timeout_at(now + TO_END, rest).await;
                return (first, Ok(()));
            }
            if now >= self.total() {
                return (first, Err(self.total_passed()));
            }
            if is_alive && first.is_some() {
                limit = now + idle;
            }
        }
    }

    async fn chunk(&self, response: &mut reqwest::Response) -> Result<Option<Bytes>, ErrorRecord> {
        let idle = self.limits.timeouts.idle;
        let until = (Instant::now() + idle).min(self.total());
        match timeout_at(until, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(transport::failure(error, &self.limits.timeouts)),
            Err(_) if until == self.total() => Err(self.total_passed()),
            Err(_) => Err(idle_passed(idle)),
        }
    }

    fn total_passed(&self) -> ErrorRecord {
        let total = self.limits.timeouts.total;
        match self.limits.deadline {
            Some(deadline) if deadline < total => timed_out(
                "timeout.total",
                format!("the call did not end within the {deadline:?} left for it; give the job more time"),
            ),
            _ => timed_out(
                "timeout.total",
                format!("the call did not end within timeout ({total:?}); raise timeout, or ask for less output"),
            ),
        }
    }
}

fn first_byte_passed(limit: Duration) -> ErrorRecord {
    timed_out(
        "timeout.first_byte",
        format!(
            "no answer began within first_byte_timeout ({limit:?}); raise first_byte_timeout, or ask for less output"
        ),
    )
}

fn first_token_passed(limit: Duration) -> ErrorRecord {
    timed_out(
        "timeout.first_token",
        format!(
            "no output came within first_byte_timeout ({limit:?}); raise first_byte_timeout if the model thinks longer"
        ),
    )
}

fn silent(limit: Duration) -> ErrorRecord {
    timed_out(
        "timeout.idle",
        format!(
            "the stream was silent for idle_timeout ({limit:?}) before its end; raise idle_timeout if the provider is slow"
        ),
    )
}

/// Returns how long the body says it is.
fn announced(response: &reqwest::Response) -> Option<usize> {
    response.content_length().and_then(|length| usize::try_from(length).ok())
}

/// Tells whether a body is declared as a stream of events.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let stream = b"text/event-stream";
    kind.len() >= stream.len() && kind[..stream.len()].eq_ignore_ascii_case(stream)
}

fn idle_passed(limit: Duration) -> ErrorRecord {
    timed_out(
        "timeout.idle",
        format!(
            "the answer was silent for idle_timeout ({limit:?}) before its end; raise idle_timeout if the provider is slow"
        ),
    )
}

pub(super) fn timed_out(kind: &str, message: String) -> ErrorRecord {
    ErrorRecord::new(ErrorClass::Timeout, message).caused_by(kind, "the time limit passed")
}

/// An answer beyond the limit would be so again: it ends the run.
fn too_large(cap: usize) -> ErrorRecord {
    let message = format!(
        "the answer is larger than max_response_bytes ({cap}); raise max_response_bytes, or ask for less output"
    );
    let mut record = ErrorRecord::new(ErrorClass::ApiResponseValidation, message);
    record.retryable = false;
    record
}

/// A request's body that notes when it begins to be sent.
struct Outgoing {
    data: Option<Bytes>,
    sent: Arc<OnceLock<Instant>>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // The first time counts.
        let _ = self.sent.set(Instant::now());
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}
