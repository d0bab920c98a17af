//! One lane of a subscription: a channel with its window, its consumer and its acker, built again whenever it is lost.
//!
//! One channel for each lane, so that what closes a channel (a deleted queue, an ack that came too late) touches one queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, message};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::super::{Delivery, Error, Result};
use super::acker::{self, ChannelSettler};
use super::consumer::Inbox;
use super::failure;
use super::header;
use super::link::{Link, Live};
use super::options::{CALL_TIMEOUT, CLOSE_TIMEOUT};
use super::topology::{self, Names};
use crate::job::LaneKey;
use crate::retry::{Schedule, until_ok};

const DOING: &str = "subscribing";

/// What others see of a lane.
#[derive(Debug)]
pub(super) struct Pulse {
    subscribed: AtomicBool,
    last_arrival: Mutex<Instant>,
    arrivals: AtomicU64,
    settler: Mutex<Weak<ChannelSettler>>,
    rebuild: Notify,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            subscribed: AtomicBool::new(false),
            last_arrival: Mutex::new(Instant::now()),
            arrivals: AtomicU64::new(0),
            settler: Mutex::new(Weak::new()),
            rebuild: Notify::new(),
        }
    }

    /// Tells whether the lane has a channel with a consumer.
    pub(super) fn subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    /// Returns the time since something arrived, or since the lane subscribed.
    pub(super) fn quiet_for(&self) -> Duration {
        self.last_arrival.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Returns a number that changes with each arrival and each channel.
    pub(super) fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Relaxed)
    }

    /// Returns how many deliveries are not settled; `None` while there is no channel.
    pub(super) fn unsettled(&self) -> Option<usize> {
        let settler = self.settler.lock().unwrap_or_else(PoisonError::into_inner).upgrade()?;
        Some(settler.unsettled())
    }

    /// Has the lane build a new channel.
    pub(super) fn rebuild(&self) {
        self.rebuild.notify_one();
    }

    fn beat(&self) {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
        *self.last_arrival.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn begin(&self, settler: &Arc<ChannelSettler>) {
        self.beat();
        *self.settler.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(settler);
        self.subscribed.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        self.subscribed.store(false, Ordering::Relaxed);
    }
}

/// The task of one lane.
pub(super) struct Lane {
    pub(super) key: LaneKey,
    /// Its place in the inbox.
    pub(super) index: usize,
    pub(super) window: watch::Receiver<u16>,
    pub(super) names: Names,
    pub(super) link: Link,
    pub(super) inbox: Arc<Inbox>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) tasks: TaskTracker,
    /// The consumer was dropped, or the broker shuts down.
    pub(super) stop: CancellationToken,
    /// The broker shuts down.
    pub(super) shutdown: CancellationToken,
}

/// A channel with its consumer.
struct Subscription {
    live: Arc<Live>,
    channel: Channel,
    deliveries: lapin::Consumer,
    settler: Arc<ChannelSettler>,
    acker: JoinHandle<()>,
    finish: CancellationToken,
}

/// How a subscription ended.
enum End {
    Stopped,
    Lost(String),
}

impl Lane {
    /// Runs until stopped.
    pub(super) async fn run(mut self) {
        let mut losses = 0;
        loop {
            let subscribed = until_ok(
                Schedule::RECONNECT,
                &self.stop,
                || async {
                    tokio::select! {
                        subscription = self.subscribe() => subscription,
                        // Otherwise a server that does not answer would hold up the shutdown.
                        () = self.stop.cancelled() => Err(failure::shut_down(DOING)),
                    }
                },
                |_: &Error| true,
                |error, failures| {
                    if !self.stop.is_cancelled() {
                        warn!(queue = %self.key, failures, %error, "subscribing failed");
                    }
                },
            )
            .await;
            let Some(Ok(mut subscription)) = subscribed else { return };
            let began = Instant::now();
            let end = self.receive(&mut subscription).await;
            self.pulse.end();
            match end {
                End::Stopped => return self.end(subscription).await,
                End::Lost(reason) => {
                    self.drop_lost(subscription, &reason).await;
                }
            }
            // A channel that is closed as soon as it is built must not be built without pause.
            losses = if began.elapsed() > CALL_TIMEOUT { 0 } else { losses + 1 };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Schedule::RECONNECT.delay(losses)) => {}
            }
        }
    }

    async fn subscribe(&self) -> Result<Subscription> {
        let live = self.link.live(DOING).await?;
        let subscribing = async {
            let failed = |error: lapin::Error| failure::unavailable(DOING, &error);
            let mut channel = live.connection.create_channel().await.map_err(failed)?;
            if topology::declare_lane(&channel, &self.names, &self.key).await.is_err() {
                // The exchanges that it refers to may be gone; the error has closed the channel.
                channel = live.connection.create_channel().await.map_err(failed)?;
                topology::declare_base(&channel, &self.names).await?;
                topology::declare_lane(&channel, &self.names, &self.key).await?;
            }
            let window = *self.window.borrow();
            let deliveries = self.consume(&channel, window).await?;
            Ok((channel, window, deliveries))
        };
        let subscribed = timeout(CALL_TIMEOUT, subscribing).await;
        let (channel, window, deliveries) = subscribed.unwrap_or_else(|_| Err(self.link.overdue(DOING)))?;
        let finish = CancellationToken::new();
        let (settler, acker) = acker::start(&self.tasks, channel.clone(), window, finish.clone());
        self.pulse.begin(&settler);
        Ok(Subscription { live, channel, deliveries, settler, acker, finish })
    }

    async fn consume(&self, channel: &Channel, window: u16) -> Result<lapin::Consumer> {
        let failed = |error: lapin::Error| failure::unavailable(DOING, &error);
        // For consumers that come after it, of this channel: quorum queues refuse `global`. It bounds what waits here.
        channel.basic_qos(window, BasicQosOptions { global: false }).await.map_err(failed)?;
        let queue = self.names.work(&self.key)?;
        let options = BasicConsumeOptions::default();
        channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.map_err(failed)
    }

    /// Replaces the consumer by one with the window that is wanted now, which RabbitMQ cannot change in place.
    async fn resize(&mut self, subscription: &mut Subscription) -> Result<()> {
        let window = *self.window.borrow_and_update();
        let Subscription { channel, deliveries, settler, .. } = subscription;
        let replacing = async {
            let cancelled = channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()).await;
            cancelled.map_err(|error| failure::unavailable(DOING, &error))?;
            let before = std::iter::from_fn(|| deliveries.next().now_or_never().flatten()?.ok());
            self.inbox.put(self.index, before.map(|delivery| deliver(settler, delivery)));
            self.inbox.trim(self.index, usize::from(window));
            self.consume(channel, window).await
        };
        let replaced = timeout(CALL_TIMEOUT, replacing).await;
        *deliveries = replaced.unwrap_or_else(|_| Err(self.link.overdue(DOING)))?;
        Ok(())
    }

    /// Moves deliveries into the inbox until stopped or lost.
    async fn receive(&mut self, subscription: &mut Subscription) -> End {
        let mut arrived = Vec::new();
        loop {
            let Subscription { live, deliveries, settler, .. } = &mut *subscription;
            let mut item = tokio::select! {
                () = self.stop.cancelled() => return End::Stopped,
                () = live.lost.cancelled() => return End::Lost("the connection was lost".to_owned()),
                () = self.pulse.rebuild.notified() => return End::Lost("it got nothing from a queue that has messages".to_owned()),
                Ok(()) = self.window.changed() => match self.resize(subscription).await {
                    Ok(()) => continue,
                    Err(error) => return End::Lost(error.to_string()),
                },
                item = deliveries.next() => Some(item),
            };
            let mut end = None;
            while let Some(next) = item {
                match next {
                    Some(Ok(delivery)) => arrived.push(deliver(settler, delivery)),
                    Some(Err(error)) => end = Some(error.to_string()),
                    None => end = Some("rabbitmq ended the subscription".to_owned()),
                }
                item = if end.is_none() { deliveries.next().now_or_never() } else { None };
            }
            self.pulse.beat();
            self.inbox.put(self.index, arrived.drain(..));
            if let Some(reason) = end {
                return End::Lost(reason);
            }
        }
    }

    /// Unsubscribes and gives back what nobody took; waits until the rest is settled, unless the broker shuts down.
    async fn end(&self, subscription: Subscription) {
        let Subscription { channel, mut deliveries, settler, mut acker, finish, .. } = subscription;
        let cancelled = channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default());
        if timeout(CLOSE_TIMEOUT, cancelled).await.is_ok() {
            // What came before RabbitMQ heard of it.
            while let Some(Some(Ok(delivery))) = deliveries.next().now_or_never() {
                drop(deliver(&settler, delivery));
            }
        }
        self.inbox.clear(self.index);
        // The acker ends when the last delivery that somebody holds is settled.
        drop(settler);
        let settled = tokio::select! {
            _ = &mut acker => true,
            () = self.shutdown.cancelled() => false,
        };
        if !settled {
            finish.cancel();
            let _ = timeout(CLOSE_TIMEOUT, acker).await;
        }
        // RabbitMQ gives back what is still unsettled.
        let _ = timeout(CLOSE_TIMEOUT, channel.close(200, "unsubscribed".into())).await;
    }

    /// Forgets the deliveries of a channel that is lost; RabbitMQ delivers them again.
    async fn drop_lost(&self, subscription: Subscription, reason: &str) {
        let Subscription { live, channel, settler, acker, .. } = subscription;
        if live.lost.is_cancelled() || !live.connection.status().connected() {
            debug!(queue = %self.key, reason, "lane went with its connection");
        } else {
            warn!(queue = %self.key, reason, "lane lost its channel");
        }
        acker.abort();
        drop(settler);
        self.inbox.clear(self.index);
        if channel.status().connected() {
            let _ = timeout(CLOSE_TIMEOUT, channel.close(200, "replaced".into())).await;
        }
    }
}

fn deliver(settler: &Arc<ChannelSettler>, delivery: message::Delivery) -> Delivery {
    Delivery {
        traceparent: header::told_traceparent(&delivery.properties),
        payload: Bytes::from(delivery.data),
        redelivered: delivery.redelivered,
        settle: settler.right(delivery.delivery_tag),
    }
}
