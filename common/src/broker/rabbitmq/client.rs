//! The back end as a whole: its connections, its tasks, and their end.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::super::{Aside, AsideMessage, Broker, Confirm, Consumer, Drift, Error, Outgoing, Pieces, Result};
use super::consumer::{Inbox, RabbitConsumer};
use super::lane::{Lane, Pulse};
use super::link::{Dialer, Groups, Link, Supervisor};
use super::management::Management;
use super::options::{Address, CALL_TIMEOUT, CLOSE_TIMEOUT, RabbitOptions};
use super::pieces::{self, Teller};
use super::publisher::{Draft, Publisher};
use super::topology::Names;
use super::watchdog::Watchdog;
use super::{aside, drift, failure, header};
use crate::envelope::MAX_MESSAGE_BYTES;
use crate::job::{LaneKey, Priority, StreamId};

/// Work queues on RabbitMQ.
pub struct RabbitBroker {
    options: RabbitOptions,
    address: Address,
    names: Names,
    publisher: Publisher,
    teller: Teller,
    consuming: Link,
    publishing: Link,
    management: Arc<Management>,
    /// Connections and publishing.
    tasks: TaskTracker,
    /// What consumes; it ends first.
    lanes: TaskTracker,
    stop: CancellationToken,
    unsubscribe: CancellationToken,
    subscriptions: Mutex<Vec<Subscribed>>,
    _stop_when_dropped: DropGuard,
}

/// The lanes of a consumer, until its token is cancelled.
struct Subscribed {
    lanes: Vec<(LaneKey, Arc<Pulse>)>,
    stop: CancellationToken,
}

impl RabbitBroker {
    /// Connects and declares what all groups share. Tries once; the error says what to do.
    pub async fn connect(options: RabbitOptions) -> Result<Self> {
        let address = options.address()?;
        let names = Names::new(&options.prefix);
        let stop = CancellationToken::new();
        let stop_when_dropped = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        let groups = Arc::new(Groups::default());
        let supervisor = |role: &str, queues| Supervisor {
            dialer: Dialer::new(address.clone(), format!("{} {role}", options.name), tasks.clone(), stop.clone()),
            queues,
            stop: stop.clone(),
        };
        let consume = supervisor("consume", Some((names.clone(), Arc::clone(&groups))));
        let publish = supervisor("publish", None);
        let first = consume.dialer.open().await?;
        let consuming = consume.start(first, &tasks);
        let management = Arc::new(Management::new(consuming.clone(), names.clone(), groups));
        management.declare_base().await?;
        let first = publish.dialer.open().await?;
        let publishing = publish.start(first, &tasks);
        let teller = Teller::start(publishing.clone(), names.clone(), stop.clone(), &tasks);
        let publisher = Publisher::start(
            publishing.clone(),
            names.clone(),
            options.publish_window,
            options.publish_timeout,
            stop.clone(),
            &tasks,
        );
        Ok(Self {
            address,
            names,
            publisher,
            teller,
            consuming,
            publishing,
            management,
            tasks,
            lanes: TaskTracker::new(),
            unsubscribe: stop.child_token(),
            stop,
            subscriptions: Mutex::default(),
            _stop_when_dropped: stop_when_dropped,
            options,
        })
    }
}

impl fmt::Debug for RabbitBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitBroker")
            .field("options", &self.options)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for RabbitBroker {
    async fn declare(&self, groups: &[String]) -> Result<()> {
        for group in groups {
            self.management.declare(group).await?;
        }
        Ok(())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Confirm>> {
        let exchange = self.names.submit();
        let mut drafts: Vec<Draft> = Vec::with_capacity(messages.len());
        let mut last: Option<LaneKey> = None;
        for Outgoing { lane, payload, traceparent } in messages {
            if payload.len() > MAX_MESSAGE_BYTES {
                let bytes = payload.len();
                return Err(Error::Setup(format!(
                    "a message of {bytes} bytes is too large, the limit is {MAX_MESSAGE_BYTES}: keep its requests in the \
                     store and publish references"
                )));
            }
            // Most messages of a call go to one lane.
            let routing_key = match drafts.last() {
                Some(draft) if last.as_ref() == Some(&lane) => draft.routing_key.clone(),
                _ => self.names.key(&lane)?,
            };
            let headers = traceparent.map(header::traceparent);
            drafts.push(Draft { exchange: exchange.clone(), routing_key, headers, payload });
            last = Some(lane);
        }
        self.publisher.publish(drafts).await
    }

    async fn consume(&self, group: &str, window: u16) -> Result<Box<dyn Consumer>> {
        if self.unsubscribe.is_cancelled() {
            return Err(failure::shut_down("subscribing"));
        }
        self.management.declare(group).await?;
        // To AMQP 0 means no limit.
        let (resize, window) = watch::channel(window.max(1));
        let stop = self.unsubscribe.child_token();
        let inbox = Arc::new(Inbox::new(group));
        let mut pulses = Vec::new();
        for (index, key) in LaneKey::all(group).enumerate() {
            let pulse = Arc::new(Pulse::new());
            pulses.push((key.clone(), Arc::clone(&pulse)));
            let lane = Lane {
                key,
                index,
                window: window.clone(),
                names: self.names.clone(),
                link: self.consuming.clone(),
                inbox: Arc::clone(&inbox),
                pulse,
                tasks: self.lanes.clone(),
                stop: stop.clone(),
                shutdown: self.unsubscribe.clone(),
            };
            self.lanes.spawn(lane.run());
        }
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        subscriptions.retain(|subscribed| !subscribed.stop.is_cancelled());
        subscriptions.push(Subscribed { lanes: pulses.clone(), stop: stop.clone() });
        drop(subscriptions);
        let watchdog = Watchdog {
            lanes: pulses,
            inbox: Arc::clone(&inbox),
            management: Arc::clone(&self.management),
            window,
            deaf_after: self.options.deaf_after,
            stop: stop.clone(),
        };
        self.lanes.spawn(watchdog.run());
        Ok(Box::new(RabbitConsumer::new(group, inbox, resize, stop)))
    }

    fn reconnects(&self) -> u64 {
        self.consuming.reconnects() + self.publishing.reconnects()
    }

    fn listens(&self) -> Result<()> {
        let deaf = |reason: String| Error::Unavailable { doing: "consuming", reason };
        self.consuming.now().map_err(|reason| deaf(reason.to_string()))?;
        let subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lanes = subscriptions.iter().filter(|subscribed| !subscribed.stop.is_cancelled()).peekable();
        if lanes.peek().is_none() {
            return Err(deaf("nothing is subscribed".to_owned()));
        }
        let mut lanes = lanes.flat_map(|subscribed| &subscribed.lanes);
        match lanes.find(|(_, pulse)| !pulse.subscribed()) {
            Some((key, _)) => Err(deaf(format!("the queue {key} is not subscribed"))),
            None => Ok(()),
        }
    }

    fn tell(&self, stream: StreamId, piece: Bytes) {
        self.teller.tell(stream, piece);
    }

    async fn listen(&self, stream: StreamId) -> Result<Box<dyn Pieces>> {
        if self.unsubscribe.is_cancelled() {
            return Err(failure::shut_down("listening to output"));
        }
        pieces::listen(&self.consuming, &self.names, stream, self.unsubscribe.clone(), &self.lanes).await
    }

    async fn depths(&self, lanes: &[LaneKey]) -> Result<Vec<u64>> {
        let mut depths = Vec::with_capacity(lanes.len());
        for lane in lanes {
            depths.push(self.management.ready(lane).await?);
        }
        Ok(depths)
    }

    async fn put_aside(&self, aside: Aside, routing_key: &str, reason: &str, payload: Bytes) -> Result<()> {
        aside::put(&self.publisher, &self.names, aside, routing_key, reason, payload).await
    }

    async fn take_aside(&self, aside: Aside, limit: u32) -> Result<Vec<AsideMessage>> {
        aside::take(&self.consuming, &self.names, &self.lanes, &self.unsubscribe, aside, limit).await
    }

    async fn check(&self) -> Result<()> {
        // A connection of its own, since the supervisors' errors tell of the past.
        let name = format!("{} check", self.options.name);
        let dialer = Dialer::new(self.address.clone(), name, self.tasks.clone(), self.stop.clone());
        let connection = dialer.open().await?;
        let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "checked".into())).await;
        self.management.declare_base().await?;
        // Any lane does: counting what is not there answers 0.
        let lane = LaneKey { group: "check".into(), priority: Priority::Standard, lane: 0 };
        self.management.ready(&lane).await.map(drop)
    }

    async fn drift(&self, groups: &[String]) -> Result<Vec<Drift>> {
        drift::find(&self.consuming, &self.names, groups).await
    }

    async fn shutdown(&self) {
        self.unsubscribe.cancel();
        self.lanes.close();
        // Whatever does not end in time ends with its connection, and RabbitMQ gives back what it held.
        let _ = timeout(CALL_TIMEOUT, self.lanes.wait()).await;
        self.stop.cancel();
        self.tasks.close();
        let _ = timeout(CALL_TIMEOUT, self.tasks.wait()).await;
    }
}
