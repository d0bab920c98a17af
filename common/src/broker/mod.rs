//! The broker seam: durable work queues by model group, priority and lane.
//!
//! A message is a wake-up: any number of copies of it may exist, and admission decides what one is worth. So a broker must
//! deliver each confirmed message at least once until it is acknowledged, and need not do more. One conformance suite runs
//! on all back ends.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::job::{LaneKey, StreamId};
use crate::trace::Traceparent;

mod embedded;
mod rabbitmq;
mod turns;

pub use embedded::EmbeddedBroker;
pub use rabbitmq::{RabbitBroker, RabbitOptions};

/// What went wrong with the broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached now; the same call may succeed later.
    #[error("the broker cannot be reached while {doing}: {reason}")]
    Unavailable {
        /// The operation.
        doing: &'static str,
        /// What the driver says.
        reason: String,
    },
    /// It accepts no publishes now: memory or disk alarm. The same call may succeed later.
    #[error("the broker blocks publishers: {reason}; free memory or disk on its machine")]
    Blocked {
        /// What the broker says.
        reason: String,
    },
    /// It cannot be used as it is; the text says what to do.
    #[error("{0}")]
    Setup(String),
}

impl Error {
    /// Tells whether the same call may succeed later.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Blocked { .. })
    }
}

/// The result of a broker call.
pub type Result<T> = std::result::Result<T, Error>;

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The work queue that it goes to.
    pub lane: LaneKey,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// The span that it comes from, for whoever reads headers; an embedded queue has none.
    pub traceparent: Option<Traceparent>,
}

/// What the broker said to one published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// It is durable.
    Confirmed,
    /// The queue is full or refused it; try later.
    Refused,
    /// There is no such queue.
    Unroutable,
}

/// How a queue or an exchange differs from what this program declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// A queue of this name is not there; a worker declares it when it starts.
    Missing(String),
    /// It is there with other arguments; the text says which and what to do.
    Differs(String),
}

/// What a message is put aside as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aside {
    /// It cannot be read or worked: for the keeper to turn into rows.
    Dead,
    /// Its envelope is of a later major version: it waits for a worker that can read it.
    Future,
}

/// A message that the broker itself put aside.
pub struct AsideMessage {
    /// Why, for people, as the broker tells it: `delivery_limit`, `rejected`, `unrouted`, or the reason given to
    /// [`Broker::put_aside`].
    pub reason: String,
    /// The routing key under which it was published first.
    pub routing_key: String,
    /// The envelope's bytes.
    pub payload: Bytes,
    /// The span that it came from, if it says so.
    pub traceparent: Option<Traceparent>,
    /// Takes it out of its queue; dropped unsettled, it stays there.
    pub settle: Settle,
}

impl fmt::Debug for AsideMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsideMessage")
            .field("reason", &self.reason)
            .field("routing_key", &self.routing_key)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Where the settlements of one channel go.
pub trait Settler: Send + Sync + fmt::Debug {
    /// Settles one delivery; never blocks. Acks are idempotent wake-ups: one that is lost makes a duplicate, no loss.
    fn settle(&self, tag: u64, how: Settled);
}

/// How a delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is taken care of elsewhere; the broker forgets it.
    Ack,
    /// It goes back to its queue.
    GiveBack,
    /// It stays in its queue for whoever comes after this process, and is not delivered to this one again.
    PassOver,
}

/// The right to settle one delivery, once. Dropped, the delivery goes back to its queue.
#[derive(Debug)]
pub struct Settle {
    tag: u64,
    settler: Option<Arc<dyn Settler>>,
}

impl Settle {
    pub(crate) fn new(tag: u64, settler: Arc<dyn Settler>) -> Self {
        Self { tag, settler: Some(settler) }
    }

    /// Says that another thing holds what the message brought.
    pub fn ack(mut self) {
        if let Some(settler) = self.settler.take() {
            settler.settle(self.tag, Settled::Ack);
        }
    }

    /// Leaves the message in its queue for a later process: this one is not given it again. A broker on a server, which
    /// other processes consume meanwhile, gives it back instead.
    pub fn pass_over(mut self) {
        if let Some(settler) = self.settler.take() {
            settler.settle(self.tag, Settled::PassOver);
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(settler) = self.settler.take() {
            settler.settle(self.tag, Settled::GiveBack);
        }
    }
}

/// A message as a consumer gets it.
#[derive(Debug)]
pub struct Delivery {
    /// The envelope's bytes.
    pub payload: Bytes,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The span that it comes from, if it says so.
    pub traceparent: Option<Traceparent>,
    /// Takes it out of its queue; dropped unsettled, it goes back.
    pub settle: Settle,
}

/// A running subscription to the lanes of one model group.
#[async_trait]
pub trait Consumer: Send + fmt::Debug {
    /// Waits for the next message; priorities take turns by weight, lanes of a priority by round robin.
    ///
    /// Survives lost connections by itself; `None` only after the broker was shut down. Cancel safe.
    async fn next(&mut self) -> Option<Delivery>;

    /// Returns a message that is here already, without waiting.
    fn try_next(&mut self) -> Option<Delivery>;

    /// Changes how many messages are delivered and not settled, in each lane; 0 counts as 1. It takes effect soon: what waits
    /// here beyond a smaller window goes back, what was delivered by then stays the caller's and may not count.
    fn resize(&mut self, window: u16);
}

/// The pieces of a job's output, for whoever waits for it.
#[async_trait]
pub trait Pieces: Send + fmt::Debug {
    /// Waits for the next piece; `None` when no more can come. Cancel safe.
    async fn next(&mut self) -> Option<Bytes>;
}

/// Work queues, and a channel for output as it comes.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug {
    /// Makes sure that the queues of these model groups exist. Idempotent.
    async fn declare(&self, groups: &[String]) -> Result<()>;

    /// Publishes messages in one pipelined window and waits for the confirms; the answers are in the order of the messages.
    ///
    /// On an error, some may have been published: publish them all again. A message of more than
    /// [`MAX_MESSAGE_BYTES`](crate::envelope::MAX_MESSAGE_BYTES), or to a group whose name cannot be a queue's, is [`Error::Setup`], and
    /// none is published.
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Confirm>>;

    /// Subscribes to all lanes of a model group, which it declares. `window` bounds the messages that are delivered and not
    /// settled, in each lane; 0 counts as 1. Dropping the consumer ends the subscription; what it delivered can still be settled.
    async fn consume(&self, group: &str, window: u16) -> Result<Box<dyn Consumer>>;

    /// Fails with the reason while messages of what is subscribed would not arrive. Asks nobody: it tells what is known.
    fn listens(&self) -> Result<()> {
        Ok(())
    }

    /// Returns how often a connection was opened again after it was lost.
    fn reconnects(&self) -> u64 {
        0
    }

    /// Sends a piece of output to whoever listens to this stream now. Never waits and never fails: what cannot go at once, since
    /// the broker is away or slow, and what nobody listens to, is dropped.
    fn tell(&self, stream: StreamId, piece: Bytes);

    /// Listens to a stream from now on, in the order in which its pieces are told. Pieces that come faster than they are taken
    /// are dropped, the oldest first or the newest, and so are those that come while the broker is away; its loss ends the
    /// listening.
    async fn listen(&self, stream: StreamId) -> Result<Box<dyn Pieces>>;

    /// Tells whether messages should carry requests. A broker that shares the store's disk gains nothing by it.
    fn carries_bodies(&self) -> bool {
        true
    }

    /// Returns how many messages each lane has ready.
    async fn depths(&self, lanes: &[LaneKey]) -> Result<Vec<u64>>;

    /// Puts a message aside durably, to be settled at its origin only after this returned. A long reason is cut.
    async fn put_aside(&self, aside: Aside, routing_key: &str, reason: &str, payload: Bytes) -> Result<()>;

    /// Takes at most `limit` messages that were put aside; `Dead` includes what the broker itself rejected and could not route.
    async fn take_aside(&self, aside: Aside, limit: u32) -> Result<Vec<AsideMessage>>;

    /// Fails with a text that says what to do if the broker cannot be reached.
    async fn check(&self) -> Result<()>;

    /// Compares the queues of these model groups, and what all groups share, with what this program declares. Queues that are
    /// missing are not made by it.
    async fn drift(&self, groups: &[String]) -> Result<Vec<Drift>>;

    /// Stops consumers and closes connections; unsettled deliveries go back.
    async fn shutdown(&self);
}
