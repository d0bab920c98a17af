//! Bodies of answers, whole ones and those that take their time or misbehave on the wire.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::call::Call;
use super::delivery::{Delivery, Step};

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
    /// Step by step.
    Steps(Steps),
}

/// A body that comes byte by byte; the call ends with it.
#[derive(Debug)]
pub(super) struct Drip {
    rest: Bytes,
    every: Duration,
    pause: Pin<Box<Sleep>>,
    call: Option<Call>,
}

/// A body that comes as planned; the call ends with it.
#[derive(Debug)]
pub(super) struct Steps {
    rest: VecDeque<Step>,
    /// What is left of the length that was promised.
    promised: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Whether what was sent has had the time to leave.
    is_flushed: bool,
    /// Whether the wait without an end has been counted.
    is_hung: bool,
    call: Option<Call>,
}

impl Payload {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn drip(bytes: Vec<u8>, every: Duration, call: Call) -> Self {
        Self::Drip(Drip { rest: bytes.into(), every, pause: Box::pin(sleep(Duration::ZERO)), call: Some(call) })
    }

    /// Carries out a plan; one that only sends a whole body ends the call at once.
    pub(super) fn deliver(delivery: Delivery, call: Call) -> Self {
        match (delivery.steps.as_slice(), delivery.promised) {
            ([], _) => {
                call.end();
                return Self::Whole(None);
            }
            ([Step::Send(bytes)], Some(_)) => {
                call.end();
                return Self::whole(bytes.clone());
            }
            _ => {}
        }
        Self::Steps(Steps {
            rest: delivery.steps.into(),
            promised: delivery.promised,
            pause: None,
            is_flushed: false,
            is_hung: false,
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

impl Steps {
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.rest.front() {
                None => {
                    self.end();
                    return Poll::Ready(None);
                }
                Some(Step::Hang) => {
                    self.hang();
                    return Poll::Pending;
                }
                Some(Step::Repeat(bytes, every)) => {
                    let (bytes, every) = (bytes.clone(), *every);
                    self.hang();
                    self.pause = Some(Box::pin(sleep(every)));
                    return Poll::Ready(Some(Ok(bytes)));
                }
                // An error drops what hyper has buffered; pausing once makes it send that first.
                Some(Step::Cut) if !self.is_flushed => {
                    self.is_flushed = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Step::Cut) => {
                    self.end();
                    return Poll::Ready(Some(Err(Cut)));
                }
                Some(Step::Pause(_) | Step::Send(_)) => {}
            }
            match self.rest.pop_front() {
                Some(Step::Pause(pause)) => self.pause = Some(Box::pin(sleep(pause))),
                Some(Step::Send(bytes)) => {
                    self.promised = self.promised.map(|promised| promised.saturating_sub(bytes.len() as u64));
                    if self.rest.is_empty() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                _ => {}
            }
        }
    }

    fn end(&mut self) {
        if let Some(call) = self.call.take() {
            call.end();
        }
    }

    fn hang(&mut self) {
        if let Some(call) = self.call.as_ref().filter(|_| !self.is_hung) {
            call.hangs();
        }
        self.is_hung = true;
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Drip(drip) => drip.poll_byte(cx).map(|byte| byte.map(|byte| Ok(Frame::data(byte)))),
            Self::Steps(steps) => steps.poll_step(cx).map(|bytes| bytes.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Drip(drip) => drip.rest.is_empty(),
            Self::Steps(steps) => steps.rest.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Drip(drip) => SizeHint::with_exact(drip.rest.len() as u64),
            Self::Steps(steps) => steps.promised.map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}
