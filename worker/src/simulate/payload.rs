//! Bodies of answers, whole ones and those that misbehave on the wire.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::call::Call;

/// The connection must end without (the rest of) an answer.
#[derive(Debug, thiserror::Error)]
#[error("the simulator cut the connection")]
pub(super) struct Cut;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Payload {
    /// All bytes at once; `None` when they have been taken.
    Whole(Option<Bytes>),
    /// One byte, a pause, one byte …
    Drip(Drip),
    /// Half of what the headers promise.
    Truncated(Truncated),
}

/// A body that comes byte by byte; the call ends with it.
#[derive(Debug)]
pub(super) struct Drip {
    rest: Bytes,
    every: Duration,
    pause: Pin<Box<Sleep>>,
    call: Option<Call>,
}

/// A body that ends too early; the call ends with it.
#[derive(Debug)]
pub(super) struct Truncated {
    promised: u64,
    half: Option<Bytes>,
    is_flushed: bool,
    call: Option<Call>,
}

impl Payload {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn drip(bytes: Vec<u8>, every: Duration, call: Call) -> Self {
        Self::Drip(Drip { rest: bytes.into(), every, pause: Box::pin(sleep(Duration::ZERO)), call: Some(call) })
    }

    pub(super) fn truncated(bytes: Vec<u8>, call: Call) -> Self {
        let whole = Bytes::from(bytes);
        let half = whole.slice(..whole.len() / 2);
        Self::Truncated(Truncated {
            promised: whole.len() as u64,
            half: Some(half),
            is_flushed: false,
            call: Some(call),
        })
    }
}

impl Drip {
    fn poll_byte(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if self.pause.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.pause = Box::pin(sleep(self.every));
        let byte = self.rest.split_to(1);
        if self.rest.is_empty()
            && let Some(call) = self.call.take()
        {
            call.end();
        }
        Poll::Ready(Some(byte))
    }
}

impl Truncated {
    fn poll_half(&mut self, cx: &Context<'_>) -> Poll<Result<Bytes, Cut>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Ok(half));
        }
        // An error drops what hyper has buffered; pausing once makes it send the half first.
        if !self.is_flushed {
            self.is_flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(call) = self.call.take() {
            call.end();
        }
        Poll::Ready(Err(Cut))
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Drip(drip) => drip.poll_byte(cx).map(|byte| byte.map(|byte| Ok(Frame::data(byte)))),
            Self::Truncated(truncated) => truncated.poll_half(cx).map(|half| Some(half.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Drip(drip) => drip.rest.is_empty(),
            Self::Truncated(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, Bytes::len) as u64,
            Self::Drip(drip) => drip.rest.len() as u64,
            Self::Truncated(truncated) => truncated.promised,
        })
    }
}
