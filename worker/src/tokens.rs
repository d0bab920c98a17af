//! Tells a job's output as it comes to whoever listens to its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gristmill_common::broker::Broker;
use gristmill_common::id::OwnerId;
use gristmill_common::job::StreamId;
use gristmill_common::piece::{Content, Piece};

use crate::provider::{Delta, Tokens};

/// Tells the output of one call.
#[derive(Debug)]
pub(crate) struct Teller {
    broker: Arc<dyn Broker>,
    stream: StreamId,
    attempt: u32,
    worker: OwnerId,
    seq: AtomicU64,
}

impl Teller {
    pub(crate) const fn new(broker: Arc<dyn Broker>, stream: StreamId, attempt: u32, worker: OwnerId) -> Self {
        Self { broker, stream, attempt, worker, seq: AtomicU64::new(0) }
    }
}

impl Tokens for Teller {
    fn take(&self, delta: Delta<'_>) {
        let content = match delta {
            Delta::Text("") | Delta::Reasoning("") => return,
            Delta::Text(text) => Content::Text(text.to_owned()),
            Delta::Reasoning(text) => Content::Reasoning(text.to_owned()),
        };
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        self.broker.tell(self.stream, Piece::new(self.attempt, self.worker, seq, content).to_bytes());
    }
}
