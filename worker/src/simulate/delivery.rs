//! How the body of an answer goes over the wire: at once, at the pace of its tokens, or with something in its way.
//!
//! Owns the plan, step by step; `payload` carries it out.

use std::time::Duration;

use bytes::Bytes;

use super::body::Body;
use super::fault::{Ending, LateFault, Mishap};

/// One thing that happens on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Send(Bytes),
    Pause(Duration),
    /// These bytes again and again, each time with a pause; nothing after is reached.
    Repeat(Bytes, Duration),
    /// Nothing more, and the connection stays.
    Hang,
    /// The connection ends here, whatever was promised.
    Cut,
}

/// The steps of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) steps: Vec<Step>,
    /// The length that the headers tell; without one the body is chunked.
    pub(super) promised: Option<u64>,
    /// Whether the connection ends with a TCP RST.
    pub(super) resets: bool,
    /// Tokens of output that arrive; `None` is all.
    pub(super) tokens: Option<u64>,
}

impl Delivery {
    /// Sends a body as it is, its tokens at this pace.
    pub(super) fn plain(body: Body, token: Duration) -> Self {
        if body.events.is_empty() {
            return Self::promised(vec![Step::Send(body.bytes.into())], None);
        }
        let mut steps = Vec::new();
        Parts::of(body).send(&mut steps, 0, usize::MAX, token);
        Self { steps, promised: None, resets: false, tokens: None }
    }

    /// Sends half of what the headers promise, then ends the connection.
    pub(super) fn truncated(body: Body) -> Self {
        let whole = Bytes::from(body.bytes);
        let half = whole.slice(..whole.len() / 2);
        Self::promised(vec![Step::Send(half), Step::Cut], Some(whole.len()))
    }

    /// Sends a body with a mishap on its way; `error` words an error behind so many events.
    pub(super) fn late(
        body: Body,
        fault: &LateFault,
        token: Duration,
        keep_alive: &'static [u8],
        error: impl FnOnce(usize) -> Vec<u8>,
    ) -> Self {
        if body.events.is_empty() {
            return Self::late_whole(body, &fault.mishap, error);
        }
        let parts = Parts::of(body);
        let mut steps = Vec::new();
        let (mut resets, mut tokens) = (false, None);
        let stop = parts.after(fault.after);
        match &fault.mishap {
            Mishap::Slow => parts.send(&mut steps, 0, usize::MAX, token),
            Mishap::KeepAlive { count, every } => {
                signs(&mut steps, Bytes::from_static(keep_alive), *count, *every);
                parts.send(&mut steps, 0, usize::MAX, token);
            }
            Mishap::Cut { how } => {
                parts.send(&mut steps, 0, stop, token);
                resets = *how == Ending::Reset;
                tokens = Some(parts.tokens(stop));
                if *how != Ending::End {
                    steps.push(Step::Cut);
                }
            }
            Mishap::Error(_) => {
                parts.send(&mut steps, 0, stop, token);
                tokens = Some(parts.tokens(stop));
                steps.push(Step::Send(error(stop).into()));
            }
            Mishap::Stall { resumes_after: None } => {
                parts.send(&mut steps, 0, stop, token);
                tokens = Some(parts.tokens(stop));
                steps.push(Step::Hang);
            }
            Mishap::Stall { resumes_after: Some(pause) } => {
                parts.send(&mut steps, 0, stop, token);
                steps.push(Step::Pause(*pause));
                parts.send(&mut steps, stop, usize::MAX, token);
            }
        }
        Self { steps, promised: None, resets, tokens }
    }

    /// The same for a body that is no stream; it has no pace.
    fn late_whole(body: Body, mishap: &Mishap, error: impl FnOnce(usize) -> Vec<u8>) -> Self {
        let whole = Bytes::from(body.bytes);
        let (first, second) = (whole.slice(..whole.len() / 2), whole.slice(whole.len() / 2..));
        let promised = Some(whole.len());
        match mishap {
            Mishap::Slow => Self::promised(vec![Step::Send(whole)], None),
            Mishap::KeepAlive { count, every } => {
                // White space before JSON is JSON; some providers send it while a call waits.
                let mut steps = Vec::new();
                signs(&mut steps, Bytes::from_static(b"\n"), *count, *every);
                steps.push(Step::Send(whole));
                Self { steps, promised: None, resets: false, tokens: None }
            }
            Mishap::Cut { how: Ending::End } => Self::promised(vec![Step::Send(first)], None),
            Mishap::Cut { how } => {
                let resets = *how == Ending::Reset;
                Self { resets, ..Self::promised(vec![Step::Send(first), Step::Cut], promised) }
            }
            Mishap::Error(_) => {
                let error = Self::promised(vec![Step::Send(error(0).into())], None);
                Self { tokens: Some(0), ..error }
            }
            Mishap::Stall { resumes_after: None } => Self::promised(vec![Step::Send(first), Step::Hang], promised),
            Mishap::Stall { resumes_after: Some(pause) } => {
                Self::promised(vec![Step::Send(first), Step::Pause(*pause), Step::Send(second)], promised)
            }
        }
    }

    /// Promises a length: that of what is sent, where no other is given.
    fn promised(steps: Vec<Step>, length: Option<usize>) -> Self {
        let sent = steps.iter().map(|step| if let Step::Send(bytes) = step { bytes.len() } else { 0 }).sum();
        Self { promised: Some(length.unwrap_or(sent) as u64), steps, resets: false, tokens: None }
    }
}

/// Adds signs of life before the first byte.
fn signs(steps: &mut Vec<Step>, sign: Bytes, count: Option<u32>, every: Duration) {
    let Some(count) = count else {
        steps.push(Step::Repeat(sign, every));
        return;
    };
    for _ in 0..count {
        steps.push(Step::Send(sign.clone()));
        steps.push(Step::Pause(every));
    }
}

/// The events of a stream: where each ends, and its tokens.
struct Parts {
    bytes: Bytes,
    events: Vec<super::body::Event>,
}

impl Parts {
    fn of(body: Body) -> Self {
        Self { bytes: body.bytes.into(), events: body.events }
    }

    /// Returns how many events there are up to the `pieces`-th that carries output, or to the last one that does.
    fn after(&self, pieces: u32) -> usize {
        if pieces == 0 {
            return 0;
        }
        let with_output = self.events.iter().enumerate().filter(|(_, event)| event.tokens > 0);
        let ends = with_output.map(|(index, _)| index + 1).take(usize::try_from(pieces).unwrap_or(usize::MAX));
        // A stream without output is stopped before the event that ends it.
        ends.last().unwrap_or_else(|| self.events.len().saturating_sub(1))
    }

    /// Counts the output of the first events.
    fn tokens(&self, events: usize) -> u64 {
        self.events.iter().take(events).map(|event| event.tokens).sum()
    }

    /// Adds the steps of some events; those that need not wait go together.
    fn send(&self, steps: &mut Vec<Step>, first: usize, end: usize, token: Duration) {
        let end = end.min(self.events.len());
        let start_of = |index: usize| index.checked_sub(1).map_or(0, |before| self.events[before].end);
        let mut from = start_of(first);
        for (index, event) in self.events.iter().enumerate().take(end).skip(first) {
            if event.tokens > 0 && !token.is_zero() {
                if start_of(index) > from {
                    steps.push(Step::Send(self.bytes.slice(from..start_of(index))));
                }
                steps.push(Step::Pause(token * u32::try_from(event.tokens).unwrap_or(u32::MAX)));
                from = start_of(index);
            }
        }
        if start_of(end) > from {
            steps.push(Step::Send(self.bytes.slice(from..start_of(end))));
        }
    }
}

#[cfg(test)]
mod tests;
