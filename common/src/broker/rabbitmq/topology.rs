//! The names of exchanges and queues, and how they are declared. Declaring is idempotent and repeated at each connection, so a
//! server that lost its disk is set up again.
//!
//! Arguments of a queue cannot be changed once it exists, so only what the promises need stands here; lengths and ages are
//! for the operator's policies.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::super::{Error, Result};
use super::failure::{self, Part};
use crate::job::{LaneKey, StreamId};

/// Longest name in AMQP, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// How often a work queue delivers a message that comes back, before it puts it aside. Explicit and positive, since versions
/// disagree on the default (none before 4.0, then 20) and on -1 (before 4.0: none at all). What kills workers is decided
/// by our own count, much earlier.
const WORK_DELIVERY_LIMIT: i64 = 1_000;

/// The same for messages put aside, which have nowhere else to go: RabbitMQ 4 would drop them after 20 looks at them.
const ASIDE_DELIVERY_LIMIT: i64 = i32::MAX as i64;

/// The names of exchanges and queues with one prefix.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// Takes a prefix that `RabbitOptions::address` has checked.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The exchange for all work.
    pub(super) fn submit(&self) -> ShortString {
        self.fixed("submit")
    }

    /// The exchange and the queue of what cannot be worked.
    pub(super) fn dead(&self) -> ShortString {
        self.fixed("dead")
    }

    /// The exchange and the queue of what has no work queue.
    pub(super) fn unrouted(&self) -> ShortString {
        self.fixed("unrouted")
    }

    /// The exchange and the queue of what waits for a later version.
    pub(super) fn future(&self) -> ShortString {
        self.fixed("future")
    }

    /// The exchange of output as it comes.
    pub(super) fn tokens(&self) -> ShortString {
        self.fixed("tokens")
    }

    /// The queue of one listener to a stream.
    pub(super) fn listener(&self, stream: StreamId) -> ShortString {
        format!("{}.tokens.{stream}", self.prefix).into()
    }

    /// The name of a work queue.
    pub(super) fn work(&self, lane: &LaneKey) -> Result<ShortString> {
        let name = format!("{}.work.{}", self.prefix, lane.routing_key());
        if name.len() > MAX_NAME_BYTES {
            return Err(too_long(&lane.group, name.len()));
        }
        Ok(name.into())
    }

    /// The routing key of a work queue.
    pub(super) fn key(&self, lane: &LaneKey) -> Result<ShortString> {
        let key = lane.routing_key();
        // The queue's name is the longer one; what cannot have a queue must not be published.
        let name_bytes = self.prefix.len() + ".work.".len() + key.len();
        if name_bytes > MAX_NAME_BYTES {
            return Err(too_long(&lane.group, name_bytes));
        }
        Ok(key.into())
    }

    fn fixed(&self, role: &str) -> ShortString {
        format!("{}.{role}", self.prefix).into()
    }
}

fn too_long(group: &str, name_bytes: usize) -> Error {
    let start: String = group.chars().take(32).collect();
    Error::Setup(format!(
        "the model group `{start}...` is too long: its queue's name would have {name_bytes} bytes, AMQP allows \
         {MAX_NAME_BYTES}; use a shorter name in model_list"
    ))
}

/// Declares what all groups share.
pub(super) async fn declare_base(channel: &Channel, names: &Names) -> Result<()> {
    // The exchange that another one refers to comes first: a missing dead-letter exchange keeps messages for ever.
    for name in [names.dead(), names.unrouted(), names.future()] {
        exchange(channel, &name, ExchangeKind::Fanout, FieldTable::default()).await?;
        let mut arguments = quorum();
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(ASIDE_DELIVERY_LIMIT));
        queue(channel, &name, arguments).await?;
        bind(channel, &name, &name, "".into()).await?;
    }
    let mut arguments = FieldTable::default();
    // What has no queue is kept where the keeper finds it, instead of being returned to a producer that may be gone.
    arguments.insert("alternate-exchange".into(), text(&names.unrouted()));
    exchange(channel, &names.submit(), ExchangeKind::Direct, arguments).await
}

/// Declares all work queues of a group.
pub(super) async fn declare_group(channel: &Channel, names: &Names, group: &str) -> Result<()> {
    for lane in LaneKey::all(group) {
        declare_lane(channel, names, &lane).await?;
    }
    Ok(())
}

/// Declares one work queue.
pub(super) async fn declare_lane(channel: &Channel, names: &Names, lane: &LaneKey) -> Result<()> {
    let name = names.work(lane)?;
    let mut arguments = quorum();
    // A queue that an operator's policy limits refuses new messages; by default it would drop the oldest.
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments.insert("x-dead-letter-exchange".into(), text(&names.dead()));
    // A dead letter leaves its queue only when the other one has it; needs `reject-publish`, else RabbitMQ silently takes
    // at-most-once (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).
    arguments.insert("x-dead-letter-strategy".into(), AMQPValue::LongString("at-least-once".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(WORK_DELIVERY_LIMIT));
    queue(channel, &name, arguments).await?;
    bind(channel, &name, &names.submit(), names.key(lane)?).await
}

/// Begins the arguments of a queue whose messages survive the loss of a node, and of power.
fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments
}

fn text(name: &ShortString) -> AMQPValue {
    AMQPValue::LongString(name.as_str().into())
}

async fn exchange(channel: &Channel, name: &ShortString, kind: ExchangeKind, arguments: FieldTable) -> Result<()> {
    // Durable: it is there after a restart.
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(name.clone(), kind, options, arguments).await;
    declared.map_err(|error| failure::declaring(Part::Exchange, name.as_str(), &error))
}

async fn queue(channel: &Channel, name: &ShortString, arguments: FieldTable) -> Result<()> {
    // Durable: quorum queues are nothing else.
    let declared = channel.queue_declare(name.clone(), QueueDeclareOptions::durable(), arguments).await;
    declared.map(drop).map_err(|error| failure::declaring(Part::Queue, name.as_str(), &error))
}

async fn bind(channel: &Channel, queue: &ShortString, exchange: &ShortString, key: ShortString) -> Result<()> {
    let bound = channel
        .queue_bind(queue.clone(), exchange.clone(), key, QueueBindOptions::default(), FieldTable::default())
        .await;
    bound.map_err(|error| failure::declaring(Part::Binding, queue.as_str(), &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Priority;

    fn lane(group: &str) -> LaneKey {
        LaneKey { group: group.into(), priority: Priority::Bulk, lane: 3 }
    }

    #[test]
    fn names_hold_the_prefix_and_the_encoded_group() {
        let names = Names::new("p");
        assert_eq!(
            names.work(&lane("openai/gpt-4.1 mini")).unwrap().as_str(),
            "p.work.openai%2Fgpt-4%2E1%20mini.bulk.3"
        );
        assert_eq!(names.key(&lane("m")).unwrap().as_str(), "m.bulk.3");
        assert_eq!(names.unrouted().as_str(), "p.unrouted");
    }

    #[test]
    fn a_group_too_long_for_amqp_is_told_before_anything_is_sent() {
        let names = Names::new("p");
        let longest = MAX_NAME_BYTES - "p.work..bulk.3".len();
        assert!(names.work(&lane(&"x".repeat(longest))).is_ok());
        assert!(names.key(&lane(&"x".repeat(longest))).is_ok());
        for group in ["x".repeat(longest + 1), "é".repeat(100)] {
            let error = names.work(&lane(&group)).unwrap_err();
            assert_eq!(names.key(&lane(&group)).unwrap_err().to_string(), error.to_string());
            assert!(error.to_string().contains("too long") && !error.is_transient(), "{error}");
        }
    }
}
