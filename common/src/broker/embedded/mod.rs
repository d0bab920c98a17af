//! The broker without a server: messages are rows of the store's SQLite file.
//!
//! A message is durable when its insert is committed, and gone when its deletion is; the deletion rides on whatever the
//! store commits next. What is delivered and not settled is remembered in memory only, so a process that comes after a
//! crash delivers every row that is left. Any number of processes may publish; one consumes
//! ([`SqliteStore::lock_exclusively`]).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::turns::Turns;
use super::{
    Aside, AsideMessage, Broker, Confirm, Consumer, Delivery, Drift, Error, Outgoing, Pieces, Result, Settle, Settled,
    Settler,
};
use crate::envelope::MAX_MESSAGE_BYTES;
use crate::job::{LaneKey, StreamId};
use crate::store::{Error as StoreError, SqliteStore};

mod lanes;
mod pieces;

use lanes::{Delivered, Lanes};
use pieces::Streams;

/// How long an acknowledgement waits for a commit to ride on.
const ACK_WITHIN: Duration = Duration::from_millis(50);
/// How often messages of other processes are looked for.
const POLL: Duration = Duration::from_millis(250);
/// Most messages that are published in one transaction.
const GROUP: usize = 2_000;
/// Most bytes of messages that are published in one transaction.
const GROUP_BYTES: usize = 16 * 1024 * 1024;
/// Calls to publish that wait for a transaction.
const CALLS: usize = 1_024;
/// Longest reason that is kept, in bytes.
const REASON_BYTES: usize = 1_000;

/// Work queues in the SQLite file of a store.
#[derive(Debug)]
pub struct EmbeddedBroker {
    shared: Arc<Shared>,
    calls: mpsc::Sender<Call>,
    tasks: TaskTracker,
    streams: Arc<Streams>,
    _stop: DropGuard,
}

/// What the broker, its consumers and its tasks share.
struct Shared {
    store: SqliteStore,
    lanes: Mutex<Lanes>,
    /// Something is there to deliver.
    arrived: Notify,
    /// Something is there to read: a lane has room, or messages were published.
    hungry: Notify,
    stop: CancellationToken,
}

/// One call to publish.
#[derive(Debug)]
struct Call {
    messages: Vec<Outgoing>,
    done: oneshot::Sender<Result<()>>,
}

impl EmbeddedBroker {
    /// Makes a broker on a store's file. Must be called within a Tokio runtime, in which its tasks run.
    pub fn new(store: &SqliteStore) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            store: store.clone(),
            lanes: Mutex::default(),
            arrived: Notify::new(),
            hungry: Notify::new(),
            stop: stop.clone(),
        });
        let tasks = TaskTracker::new();
        let (calls, waiting) = mpsc::channel(CALLS);
        tasks.spawn(publish_calls(Arc::clone(&shared), waiting));
        tasks.spawn(feed(Arc::clone(&shared)));
        tasks.spawn(forget(Arc::clone(&shared)));
        Self { shared, calls, tasks, streams: Arc::default(), _stop: stop.drop_guard() }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails once the broker was shut down.
    fn running(&self, doing: &'static str) -> Result<()> {
        if self.stop.is_cancelled() { Err(shut_down(doing)) } else { Ok(()) }
    }

    fn take(self: &Arc<Self>, group: &str, turns: &mut Turns) -> Option<Delivery> {
        if self.stop.is_cancelled() {
            return None;
        }
        let Delivered { seq, payload, redelivered } = self.lanes().take(group, turns)?;
        let settle = Settle::new(seq.unsigned_abs(), Arc::clone(self) as Arc<dyn Settler>);
        Some(Delivery { payload, redelivered, traceparent: None, settle })
    }
}

impl Settler for Shared {
    fn settle(&self, tag: u64, how: Settled) {
        // After the shutdown the rows stay, for the next process.
        let Ok(seq) = i64::try_from(tag) else { return };
        if self.stop.is_cancelled() {
            return;
        }
        match how {
            Settled::Ack => {
                if self.lanes().forget(seq) {
                    self.store.acknowledge(seq);
                    self.hungry.notify_one();
                    // A window that was made smaller holds back what was read.
                    self.arrived.notify_waiters();
                }
            }
            Settled::GiveBack => {
                self.lanes().give_back(seq);
                self.arrived.notify_waiters();
            }
            // Its row stays, and stands before what this process reads next.
            Settled::PassOver => {
                if self.lanes().forget(seq) {
                    self.hungry.notify_one();
                    self.arrived.notify_waiters();
                }
            }
        }
    }
}

/// Settles messages that were put aside.
#[derive(Debug)]
struct AsideSettler(Arc<Shared>);

impl Settler for AsideSettler {
    fn settle(&self, tag: u64, how: Settled) {
        let Ok(id) = i64::try_from(tag) else { return };
        if self.0.stop.is_cancelled() {
            return;
        }
        match how {
            Settled::Ack => {
                self.0.lanes().settle_aside(id);
                self.0.store.acknowledge_aside(id);
            }
            Settled::GiveBack | Settled::PassOver => self.0.lanes().return_aside(id),
        }
    }
}

fn shut_down(doing: &'static str) -> Error {
    Error::Unavailable { doing, reason: "it was shut down".to_owned() }
}

fn failed(doing: &'static str) -> impl Fn(StoreError) -> Error {
    move |error| match error {
        StoreError::Unavailable { source, .. } => Error::Unavailable { doing, reason: source.to_string() },
        full @ StoreError::Full { .. } => Error::Unavailable { doing, reason: full.to_string() },
        StoreError::Refused { source, .. } => Error::Setup(format!("the database refused {doing}: {source}")),
        StoreError::Setup(text) | StoreError::Conflict(text) => Error::Setup(text),
    }
}

/// Writes the messages of all calls that wait in one transaction, one transaction after the other.
async fn publish_calls(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Call>) {
    loop {
        let first = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            call = waiting.recv() => match call {
                Some(call) => call,
                None => return,
            },
        };
        let size = |call: &Call| call.messages.iter().map(|message| message.payload.len()).sum::<usize>();
        let mut bytes = size(&first);
        let mut calls = vec![first];
        let mut count = calls[0].messages.len();
        while count < GROUP
            && bytes < GROUP_BYTES
            && let Ok(call) = waiting.try_recv()
        {
            count += call.messages.len();
            bytes += size(&call);
            calls.push(call);
        }
        let mut messages = Vec::with_capacity(count);
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            messages.extend(call.messages);
            answers.push(call.done);
        }
        let written = shared.store.enqueue(&messages).await;
        if written.is_ok() {
            shared.lanes().published(messages.iter().map(|message| &message.lane));
            shared.hungry.notify_one();
        }
        let reason = written.err().map(failed("publishing"));
        for answer in answers {
            // A caller that has gone needs no answer.
            let _ = answer.send(reason.as_ref().map_or(Ok(()), |error| Err(copy(error))));
        }
    }
}

fn copy(error: &Error) -> Error {
    match error {
        Error::Unavailable { doing, reason } => Error::Unavailable { doing, reason: reason.clone() },
        Error::Blocked { reason } => Error::Blocked { reason: reason.clone() },
        Error::Setup(text) => Error::Setup(text.clone()),
    }
}

/// Reads messages into lanes that have room.
async fn feed(shared: Arc<Shared>) {
    let mut poll = tokio::time::interval(POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = shared.hungry.notified() => {}
            _ = poll.tick() => shared.lanes().look_again(),
        }
        let hungry = shared.lanes().hungry();
        for lane in hungry {
            match shared.store.read_lane(&lane.key, lane.after, lane.room).await {
                Ok(messages) => {
                    if shared.lanes().fill(&lane, messages) {
                        shared.arrived.notify_waiters();
                    }
                }
                Err(error) => tracing::warn!(%error, "messages not read yet, trying again"),
            }
        }
    }
}

/// Deletes what is acknowledged where no other commit does.
async fn forget(shared: Arc<Shared>) {
    loop {
        let wait = async {
            shared.store.acknowledged().await;
            tokio::time::sleep(ACK_WITHIN).await;
        };
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = wait => {}
        }
        if let Err(error) = shared.store.forget_acknowledged().await {
            tracing::debug!(%error, "acknowledged messages not forgotten yet");
        }
    }
}

/// One subscription.
#[derive(Debug)]
struct Subscription {
    shared: Arc<Shared>,
    group: Arc<str>,
    window: usize,
    turns: Turns,
}

#[async_trait]
impl Consumer for Subscription {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            // Listens before it looks.
            arrived.as_mut().enable();
            if let Some(delivery) = self.shared.take(&self.group, &mut self.turns) {
                return Some(delivery);
            }
            tokio::select! {
                () = self.shared.stop.cancelled() => return None,
                () = arrived => {}
            }
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        self.shared.take(&self.group, &mut self.turns)
    }

    // What was read stays in memory: one process at a time works the queue, so there is nobody to give it back to.
    fn resize(&mut self, window: u16) {
        let before = std::mem::replace(&mut self.window, usize::from(window.max(1)));
        let mut lanes = self.shared.lanes();
        lanes.unsubscribe(&self.group, before);
        lanes.subscribe(&self.group, self.window);
        drop(lanes);
        self.shared.hungry.notify_one();
        self.shared.arrived.notify_waiters();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.lanes().unsubscribe(&self.group, self.window);
    }
}

#[async_trait]
impl Broker for EmbeddedBroker {
    async fn declare(&self, _groups: &[String]) -> Result<()> {
        // A lane is a value in a column: there is nothing to make.
        self.shared.running("declaring queues")
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<Confirm>> {
        self.shared.running("publishing")?;
        if let Some(large) = messages.iter().find(|message| message.payload.len() > MAX_MESSAGE_BYTES) {
            return Err(Error::Setup(format!(
                "a message of {} bytes is too large: {MAX_MESSAGE_BYTES} is the most",
                large.payload.len()
            )));
        }
        let routable = |message: &Outgoing| message.lane.lane < message.lane.priority.lanes();
        let confirm = |message| if routable(message) { Confirm::Confirmed } else { Confirm::Unroutable };
        let confirms: Vec<Confirm> = messages.iter().map(confirm).collect();
        let messages: Vec<Outgoing> = messages.into_iter().filter(routable).collect();
        if !messages.is_empty() {
            let (done, answer) = oneshot::channel();
            self.calls.send(Call { messages, done }).await.map_err(|_| shut_down("publishing"))?;
            answer.await.map_err(|_| shut_down("publishing"))??;
        }
        Ok(confirms)
    }

    async fn consume(&self, group: &str, window: u16) -> Result<Box<dyn Consumer>> {
        self.shared.running("subscribing")?;
        let (group, window): (Arc<str>, _) = (group.into(), usize::from(window.max(1)));
        self.shared.lanes().subscribe(&group, window);
        self.shared.hungry.notify_one();
        Ok(Box::new(Subscription { shared: Arc::clone(&self.shared), group, window, turns: Turns::default() }))
    }

    fn tell(&self, stream: StreamId, piece: Bytes) {
        self.streams.tell(stream, piece);
    }

    async fn listen(&self, stream: StreamId) -> Result<Box<dyn Pieces>> {
        self.shared.running("listening")?;
        Ok(self.streams.listen(stream, self.shared.stop.clone()))
    }

    fn carries_bodies(&self) -> bool {
        false
    }

    async fn depths(&self, lanes: &[LaneKey]) -> Result<Vec<u64>> {
        let doing = "counting messages";
        self.shared.running(doing)?;
        self.shared.store.forget_acknowledged().await.map_err(failed(doing))?;
        let mut depths = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let (read_through, returned) = self.shared.lanes().standing(lane);
            let unread = self.shared.store.count_lane(lane, read_through).await.map_err(failed(doing))?;
            depths.push(unread + returned);
        }
        Ok(depths)
    }

    async fn put_aside(&self, aside: Aside, routing_key: &str, reason: &str, payload: Bytes) -> Result<()> {
        let doing = "putting a message aside";
        self.shared.running(doing)?;
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES)];
        self.shared.store.put_aside(kind(aside), routing_key, reason, &payload).await.map_err(failed(doing))
    }

    async fn take_aside(&self, aside: Aside, limit: u32) -> Result<Vec<AsideMessage>> {
        let doing = "taking what was put aside";
        self.shared.running(doing)?;
        let settled = self.shared.lanes().asides_settled();
        self.shared.store.forget_acknowledged().await.map_err(failed(doing))?;
        self.shared.lanes().forget_asides(&settled);
        // Those that are taken already may stand before the others.
        let most = self.shared.lanes().asides_taken().saturating_add(limit as usize);
        let rows = self.shared.store.read_aside(kind(aside), most).await.map_err(failed(doing))?;
        let settler = Arc::new(AsideSettler(Arc::clone(&self.shared)));
        let mut lanes = self.shared.lanes();
        let mut messages = Vec::new();
        for row in rows {
            if messages.len() < limit as usize && lanes.take_aside(row.id) {
                messages.push(AsideMessage {
                    reason: row.reason,
                    routing_key: row.routing_key,
                    payload: row.payload,
                    traceparent: None,
                    settle: Settle::new(row.id.unsigned_abs(), Arc::clone(&settler) as Arc<dyn Settler>),
                });
            }
        }
        Ok(messages)
    }

    async fn check(&self) -> Result<()> {
        let doing = "checking the broker";
        self.shared.running(doing)?;
        self.shared.store.read_aside(kind(Aside::Dead), 0).await.map_err(failed(doing))?;
        Ok(())
    }

    async fn drift(&self, _groups: &[String]) -> Result<Vec<Drift>> {
        // Its tables are part of the schema.
        Ok(Vec::new())
    }

    async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.shared.store.forget_acknowledged().await {
            tracing::warn!(%error, "acknowledged messages not forgotten; they will come again");
        }
    }
}

const fn kind(aside: Aside) -> &'static str {
    match aside {
        Aside::Dead => "dead",
        Aside::Future => "future",
    }
}
