//! One call from its arrival to its end, whatever the end is.
//!
//! A call is counted when it arrives. When it is dropped, by an answer, by a caller who went away or by shutdown, it is
//! counted as ended and gets its line in the call log. So lines equal arrivals as soon as nothing is in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::dialect::Dialect;
use super::limit::{Moment, Permit};
use super::log::Line;
use super::route::Operation;
use super::shared::Shared;
use super::stats::{Name, Outcome};

/// A call in flight.
#[derive(Debug)]
pub(super) struct Call {
    shared: Arc<Shared>,
    dialect: &'static dyn Dialect,
    operation: Operation,
    arrived: Moment,
    /// What the limits get back when the call ends.
    permit: Option<Permit>,
    meets_outage: bool,
    /// Kept for the log only.
    marker: Option<Box<str>>,
    number: u32,
    prompt_tokens: u64,
    completion_tokens: u64,
    /// `None` until it is decided.
    outcome: Option<Outcome>,
    status: Option<u16>,
    has_ended: bool,
}

impl Call {
    /// Counts the arrival.
    pub(super) fn arrive(shared: Arc<Shared>, dialect: &'static dyn Dialect, operation: Operation) -> Self {
        shared.counters.arrived();
        Self {
            dialect,
            operation,
            arrived: shared.moment(Instant::now()),
            permit: None,
            meets_outage: false,
            marker: None,
            number: 0,
            prompt_tokens: 0,
            completion_tokens: 0,
            outcome: None,
            status: None,
            has_ended: false,
            shared,
        }
    }

    pub(super) fn arrived(&self) -> Moment {
        self.arrived
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.arrived.now.elapsed()
    }

    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    /// Returns the time of day.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.shared.now()
    }

    /// Notes what the body tells about the call.
    pub(super) fn identify(&mut self, marker: &str, prompt_tokens: u64) {
        if self.shared.log.is_some() {
            self.marker = Some(marker.into());
        }
        self.prompt_tokens = prompt_tokens;
    }

    /// Notes the number of the call among all of its marker.
    pub(super) fn number(&mut self, number: u32) {
        self.number = number;
    }

    /// Decides the outcome, which then holds even if the caller does not wait for it.
    pub(super) fn decide(&mut self, outcome: Outcome, status: Option<u16>, completion_tokens: u64) {
        self.outcome = Some(outcome);
        self.status = status;
        self.completion_tokens = completion_tokens;
    }

    /// Corrects the output to what the caller will get of it.
    pub(super) fn deliver(&mut self, completion_tokens: u64) {
        self.completion_tokens = completion_tokens;
    }

    /// Keeps what the limits get back when the call ends.
    pub(super) fn hold(&mut self, permit: Option<Permit>) {
        self.permit = permit;
    }

    /// Counts that the call met an outage.
    pub(super) fn meet_outage(&mut self) {
        self.shared.casualties.arrived();
        self.meets_outage = true;
    }

    /// Counts that the caller waits for good.
    pub(super) fn hangs(&self) {
        self.shared.counters.hangs();
    }

    /// Ends the call as decided, with the caller still there.
    pub(super) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let is_stopping = self.shared.stop.is_cancelled();
        let outcome =
            self.outcome.unwrap_or(Outcome::Named(if is_stopping { Name::Shutdown } else { Name::ClientGone }));
        if let Some(log) = &self.shared.log {
            let text;
            let outcome = match outcome {
                Outcome::Named(name) => name.as_str(),
                Outcome::Status(status) => {
                    text = status.to_string();
                    &text
                }
            };
            log.write(&Line {
                t_ms: self.arrived.unix_ms,
                t_end_ms: self.shared.unix_ms(),
                marker: self.marker.as_deref(),
                n: self.number,
                outcome,
                status: self.status,
                dialect: self.dialect.name(),
                path: self.operation.path(),
                client_gone: !self.has_ended && !is_stopping,
                prompt_tokens: self.prompt_tokens,
                completion_tokens: self.completion_tokens,
            });
        }
        if let Some(permit) = self.permit.take() {
            permit.settle(self.completion_tokens, self.shared.moment(Instant::now()));
        }
        if self.meets_outage {
            self.shared.casualties.ended();
        }
        self.shared.counters.ended(outcome, self.status);
    }
}
