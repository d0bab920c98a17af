//! Messages put aside: where they go, and why they went there.

use bytes::Bytes;
use lapin::message::BasicGetMessage;
use lapin::options::BasicGetOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Aside, AsideMessage, Confirm, Error, Result};
use super::acker;
use super::failure;
use super::header;
use super::link::Link;
use super::options::{CALL_TIMEOUT, CLOSE_TIMEOUT};
use super::publisher::{Draft, Publisher};
use super::topology::Names;

const TAKING: &str = "taking messages that were put aside";
const PUTTING: &str = "putting a message aside";

/// The header that says why a message was put aside.
const REASON: &str = "x-gristmill-reason";

/// Longest reason that is kept, in bytes: all headers must fit into one frame.
const MAX_REASON_BYTES: usize = 1_024;

/// Puts a message aside and waits until it is durable there.
pub(super) async fn put(
    publisher: &Publisher,
    names: &Names,
    aside: Aside,
    routing_key: &str,
    reason: &str,
    payload: Bytes,
) -> Result<()> {
    // The exchange goes to one queue whatever the key, so the key keeps where the message came from.
    let routing_key = ShortString::try_new(routing_key)
        .map_err(|_| Error::Setup("a routing key cannot have more than 255 bytes".to_owned()))?;
    let mut headers = FieldTable::default();
    let end = reason.floor_char_boundary(MAX_REASON_BYTES);
    headers.insert(REASON.into(), AMQPValue::LongString(reason[..end].into()));
    let exchange = match aside {
        Aside::Dead => names.dead(),
        Aside::Future => names.future(),
    };
    let confirms = publisher.publish(vec![Draft { exchange, routing_key, headers: Some(headers), payload }]).await?;
    if confirms == [Confirm::Confirmed] {
        Ok(())
    } else {
        Err(Error::Unavailable { doing: PUTTING, reason: "its queue is full or gone".to_owned() })
    }
}

/// Takes messages that were put aside, on a channel of their own that lives until they are settled.
pub(super) async fn take(
    link: &Link,
    names: &Names,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
    aside: Aside,
    limit: u32,
) -> Result<Vec<AsideMessage>> {
    let failed = |error: lapin::Error| failure::unavailable(TAKING, &error);
    let queues = match aside {
        Aside::Dead => vec![(names.dead(), "dead"), (names.unrouted(), "unrouted")],
        Aside::Future => vec![(names.future(), "future")],
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let taking = async {
        let live = link.live(TAKING).await?;
        let channel = live.connection.create_channel().await.map_err(failed)?;
        let mut taken = Vec::new();
        for (queue, kind) in queues {
            while taken.len() < limit {
                let got = channel.basic_get(queue.clone(), BasicGetOptions::default()).await.map_err(failed)?;
                let Some(message) = got else { break };
                taken.push((message, kind));
            }
        }
        Ok((channel, taken))
    };
    let taken = timeout(CALL_TIMEOUT, taking).await;
    let (channel, taken) = taken.unwrap_or_else(|_| Err(link.overdue(TAKING)))?;
    let (settler, acker) = acker::start(tasks, channel.clone(), u16::MAX, shutdown.clone());
    let messages = taken.into_iter().map(|(message, kind)| AsideMessage {
        reason: reason(&message, kind),
        routing_key: message.routing_key.to_string(),
        traceparent: header::told_traceparent(&message.properties),
        settle: settler.right(message.delivery_tag),
        payload: Bytes::from(message.delivery.data),
    });
    let messages = messages.collect();
    drop(settler);
    tasks.spawn(async move {
        // Ends with the last settlement, which is written by then; a panic there leaves nothing to wait for.
        let _ = acker.await;
        let _ = timeout(CLOSE_TIMEOUT, channel.close(200, "settled".into())).await;
    });
    Ok(messages)
}

/// Tells why a message is where it is.
fn reason(message: &BasicGetMessage, kind: &str) -> String {
    let headers = message.properties.headers().as_ref().map(FieldTable::inner);
    let ours = headers.and_then(|headers| headers.get(REASON)).and_then(text);
    // https://www.rabbitmq.com/docs/dlx#effects: one table for each time that RabbitMQ dead-lettered it, the latest first.
    let death = || match headers?.get("x-death")?.as_array()?.as_slice().first()? {
        AMQPValue::FieldTable(table) => table.inner().get("reason").and_then(text),
        _ => None,
    };
    ours.or_else(death).unwrap_or_else(|| kind.to_owned())
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}
