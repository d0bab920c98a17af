//! Output as it comes, over RabbitMQ: messages that nothing keeps, from an exchange to a queue that its listener alone has.
//!
//! Telling shares the publishing connection and nothing else: a channel of its own, opened at the first piece, and a short line
//! in front of it. What finds the line full, the connection blocked or the channel lost is dropped; the piece that is just sent
//! when a connection is blocked waits for its end, and the line with it. A listener's queue is bounded, and gone when the
//! listener or its connection is.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer, ExchangeKind};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::super::{Pieces, Result};
use super::failure;
use super::link::Link;
use super::options::{CALL_TIMEOUT, CLOSE_TIMEOUT};
use super::topology::Names;
use crate::job::StreamId;

/// Pieces of all streams that wait to be sent.
const WAITING: usize = 1_024;
/// Pieces that wait in a listener's queue; the oldest are dropped for newer ones.
const QUEUED: i64 = 10_000;
/// Pieces on their way to a listener.
const WINDOW: u16 = 256;

const TELLING: &str = "telling output";
const LISTENING: &str = "listening to output";

/// Hands pieces to the task that sends them.
#[derive(Debug)]
pub(super) struct Teller(mpsc::Sender<(StreamId, Bytes)>);

impl Teller {
    pub(super) fn start(link: Link, names: Names, stop: CancellationToken, tasks: &TaskTracker) -> Self {
        let (sender, pieces) = mpsc::channel(WAITING);
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = send(link, names, pieces) => {}
            }
        });
        Self(sender)
    }

    pub(super) fn tell(&self, stream: StreamId, piece: Bytes) {
        // A full line is dropped from, never waited for.
        let _ = self.0.try_send((stream, piece));
    }
}

async fn send(link: Link, names: Names, mut pieces: mpsc::Receiver<(StreamId, Bytes)>) {
    let mut channel: Option<Channel> = None;
    while let Some((stream, piece)) = pieces.recv().await {
        let Ok(live) = link.now() else {
            channel = None;
            continue;
        };
        if live.blocked().is_some() {
            continue;
        }
        let open = match channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => match timeout(CALL_TIMEOUT, open(&live.connection, &names, TELLING)).await {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => {
                    debug!(%error, "a piece of output was not told");
                    continue;
                }
                Err(_) => continue,
            },
        };
        let properties = BasicProperties::default().with_delivery_mode(1).with_content_type("application/json".into());
        let options = BasicPublishOptions::default();
        let key = stream.to_string().into();
        match open.basic_publish(names.tokens(), key, options, &piece, properties).await {
            Ok(_) => channel = Some(open),
            Err(error) => debug!(%error, "a piece of output was not told"),
        }
    }
}

/// Opens a channel on which the exchange is known to be.
async fn open(connection: &lapin::Connection, names: &Names, doing: &'static str) -> Result<Channel> {
    let failed = |error: lapin::Error| failure::unavailable(doing, &error);
    let channel = connection.create_channel().await.map_err(failed)?;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(names.tokens(), ExchangeKind::Direct, options, FieldTable::default())
        .await
        .map_err(failed)?;
    Ok(channel)
}

/// Listens to a stream with a queue that goes with the listener, until `stop`.
pub(super) async fn listen(
    link: &Link,
    names: &Names,
    stream: StreamId,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<Box<dyn Pieces>> {
    let failed = |error: lapin::Error| failure::unavailable(LISTENING, &error);
    let live = timeout(CALL_TIMEOUT, link.live(LISTENING)).await.map_err(|_| link.overdue(LISTENING))??;
    let listening = async {
        let channel = open(&live.connection, names, LISTENING).await?;
        let queue = names.listener(stream);
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(QUEUED));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone(), options, arguments).await.map_err(failed)?;
        let key = stream.to_string().into();
        channel
            .queue_bind(queue.clone(), names.tokens(), key, QueueBindOptions::default(), FieldTable::default())
            .await
            .map_err(failed)?;
        channel.basic_qos(WINDOW, BasicQosOptions::default()).await.map_err(failed)?;
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.map_err(failed)?;
        let (sender, pieces) = mpsc::channel(1);
        let lost = live.lost.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = lost.cancelled() => {}
                () = hear(consumer, sender) => {}
            }
            // The queue goes when its consumer does.
            let _ = timeout(CLOSE_TIMEOUT, channel.close(200, "heard".into())).await;
        });
        Ok(Box::new(Listening(pieces)) as Box<dyn Pieces>)
    };
    timeout(CALL_TIMEOUT, listening).await.unwrap_or_else(|_| Err(failure::timed_out(LISTENING)))
}

/// Hands on what comes until nobody takes it any more. It is acknowledged when it is taken: the window bounds what waits here.
async fn hear(mut consumer: Consumer, pieces: mpsc::Sender<Bytes>) {
    loop {
        let delivery = tokio::select! {
            () = pieces.closed() => return,
            delivery = consumer.next() => delivery,
        };
        let Some(Ok(delivery)) = delivery else { return };
        if pieces.send(delivery.data.into()).await.is_err() {
            return;
        }
        // An ack that is lost loses nothing that counts.
        let _ = delivery.acker.ack(BasicAckOptions::default()).await;
    }
}

/// What the task has heard.
#[derive(Debug)]
struct Listening(mpsc::Receiver<Bytes>);

#[async_trait]
impl Pieces for Listening {
    async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}
