//! One connection that is always there or coming back.
//!
//! Owns connecting, noticing a loss, connecting again with growing pauses, and what RabbitMQ says of alarms. What runs on
//! the connection finds the current one here and rebuilds itself.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::super::{Error, Result};
use super::failure;
use super::options::{Address, CALL_TIMEOUT, CLOSE_TIMEOUT};
use super::topology::{self, Names};
use crate::retry::{Schedule, until_ok};

/// Attempts to connect that may hang at once. lapin cannot abandon one: each holds a thread until its socket ends.
const HANGING_ATTEMPTS: usize = 4;

/// How often the state of a connection is looked at, in case an event was missed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Longest time that the queues of all remembered groups may take to declare.
const REDECLARE_TIMEOUT: Duration = Duration::from_secs(60);

/// One connection, from its opening to its loss.
pub(super) struct Live {
    pub(super) connection: Connection,
    /// Cancelled when the connection is lost.
    pub(super) lost: CancellationToken,
    blocked: watch::Receiver<Option<String>>,
}

impl Live {
    /// Returns why RabbitMQ takes no messages on this connection now, if so.
    pub(super) fn blocked(&self) -> Option<String> {
        self.blocked.borrow().clone()
    }
}

#[derive(Clone)]
enum State {
    Up(Arc<Live>),
    Down(Arc<str>),
}

/// Access to the current connection.
#[derive(Clone)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    reconnects: Arc<AtomicU64>,
}

impl Link {
    /// Waits until there is a connection; fails only after the shutdown. Cancel safe.
    pub(super) async fn live(&self, doing: &'static str) -> Result<Arc<Live>> {
        let mut state = self.state.clone();
        let up = state.wait_for(|state| matches!(state, State::Up(_))).await;
        match up.as_deref() {
            Ok(State::Up(live)) => Ok(Arc::clone(live)),
            _ => Err(failure::shut_down(doing)),
        }
    }

    /// Makes the error of an operation that got no answer in time.
    pub(super) fn overdue(&self, doing: &'static str) -> Error {
        match self.now() {
            Ok(_) => failure::timed_out(doing),
            Err(reason) => Error::Unavailable { doing, reason: reason.to_string() },
        }
    }

    /// Returns how often the connection was opened again.
    pub(super) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    /// Returns the current connection or why there is none.
    pub(super) fn now(&self) -> std::result::Result<Arc<Live>, Arc<str>> {
        match &*self.state.borrow() {
            State::Up(live) => Ok(Arc::clone(live)),
            State::Down(reason) => Err(Arc::clone(reason)),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("down", &self.now().err()).finish()
    }
}

/// Opens connections.
pub(super) struct Dialer {
    address: Address,
    name: String,
    attempts: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Dialer {
    pub(super) fn new(address: Address, name: String, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { address, name, attempts: Arc::new(Semaphore::new(HANGING_ATTEMPTS)), tasks, stop }
    }

    /// Tries once.
    pub(super) async fn open(&self) -> Result<Connection> {
        let attempts = Arc::clone(&self.attempts);
        let Ok(Ok(permit)) = timeout(CALL_TIMEOUT, attempts.acquire_owned()).await else {
            return Err(failure::silent(&self.address));
        };
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let connecting = Connection::connect_uri(self.address.uri.clone(), properties);
        let (sender, receiver) = oneshot::channel();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                // One that comes too late is dropped by this, and so closed.
                connection = connecting => drop(sender.send(connection)),
                () = stop.cancelled() => {}
            }
        });
        match timeout(CALL_TIMEOUT, receiver).await {
            Ok(Ok(Ok(connection))) => Ok(connection),
            Ok(Ok(Err(error))) => Err(failure::connecting(&self.address, &error)),
            Ok(Err(_)) => Err(failure::shut_down("connecting")),
            Err(_) => Err(failure::silent(&self.address)),
        }
    }
}

/// The model groups whose queues must be there.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<BTreeSet<String>>);

impl Groups {
    pub(super) fn remember(&self, group: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group.to_owned());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Keeps a connection alive until `stop`; then closes it.
pub(super) struct Supervisor {
    pub(super) dialer: Dialer,
    /// The queues to declare on each new connection before it is used; `None` for the one that only publishes.
    pub(super) queues: Option<(Names, Arc<Groups>)>,
    pub(super) stop: CancellationToken,
}

impl Supervisor {
    /// Starts with a connection that is open.
    pub(super) fn start(self, first: Connection, tasks: &TaskTracker) -> Link {
        let (live, blocked) = begin(first);
        let (state, receiver) = watch::channel(State::Up(Arc::clone(&live)));
        let reconnects = Arc::default();
        tasks.spawn(self.run(live, blocked, state, Arc::clone(&reconnects)));
        Link { state: receiver, reconnects }
    }

    async fn run(
        self,
        live: Arc<Live>,
        blocked: watch::Sender<Option<String>>,
        state: watch::Sender<State>,
        reconnects: Arc<AtomicU64>,
    ) {
        let mut current = (live, blocked);
        loop {
            let (live, blocked) = &current;
            let reason = tokio::select! {
                () = self.stop.cancelled() => break,
                reason = until_lost(live, blocked) => reason,
            };
            live.lost.cancel();
            warn!(connection = %self.dialer.name, %reason, "connection to rabbitmq lost");
            state.send_replace(State::Down(reason.into()));
            let Some(next) = self.again(&state).await else { return };
            info!(connection = %self.dialer.name, "connected to rabbitmq again");
            reconnects.fetch_add(1, Ordering::Relaxed);
            state.send_replace(State::Up(Arc::clone(&next.0)));
            current = next;
        }
        let (live, _) = current;
        live.lost.cancel();
        state.send_replace(State::Down("it was shut down".into()));
        // An orderly close is for RabbitMQ's log; without it the same happens.
        let _ = timeout(CLOSE_TIMEOUT, live.connection.close(200, "shutdown".into())).await;
    }

    /// Connects again and declares what was declared; `None` when stopped.
    async fn again(&self, state: &watch::Sender<State>) -> Option<(Arc<Live>, watch::Sender<Option<String>>)> {
        let connection = until_ok(
            Schedule::RECONNECT,
            &self.stop,
            || async {
                let connection = self.dialer.open().await?;
                self.declare(&connection).await?;
                Ok(connection)
            },
            // A server that restarts refuses users and virtual hosts for a while, so nothing is final here.
            |_: &Error| true,
            |error, failures| {
                warn!(connection = %self.dialer.name, failures, %error, "connecting to rabbitmq failed");
                state.send_replace(State::Down(error.to_string().into()));
            },
        )
        .await?;
        connection.ok().map(begin)
    }

    async fn declare(&self, connection: &Connection) -> Result<()> {
        let Some((names, groups)) = &self.queues else { return Ok(()) };
        let declaring = async {
            let channel =
                connection.create_channel().await.map_err(|error| failure::unavailable("declaring queues", &error))?;
            topology::declare_base(&channel, names).await?;
            for group in groups.all() {
                topology::declare_group(&channel, names, &group).await?;
            }
            Ok(())
        };
        timeout(REDECLARE_TIMEOUT, declaring).await.unwrap_or_else(|_| Err(failure::timed_out("declaring queues")))
    }
}

fn begin(connection: Connection) -> (Arc<Live>, watch::Sender<Option<String>>) {
    let (sender, blocked) = watch::channel(None);
    (Arc::new(Live { connection, lost: CancellationToken::new(), blocked }), sender)
}

/// Follows a connection; returns why it was lost.
async fn until_lost(live: &Live, blocked: &watch::Sender<Option<String>>) -> String {
    // One listener only: lapin's listeners compete for the events. Those of before are found by the looks.
    let mut events = live.connection.events_listener();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(%reason, "rabbitmq blocks publishers");
                    blocked.send_replace(Some(reason));
                }
                Some(Event::ConnectionUnblocked) => {
                    info!("rabbitmq takes messages again");
                    blocked.send_replace(None);
                }
                // A refusal closes the channel that it came on, whose user knows; the connection goes on. lapin 4.12 tells of it
                // here as well (`channel.rs`, `on_channel_close_ok_sent`).
                Some(Event::Error(error)) if failure::soft(&error).is_some() => {}
                Some(Event::Error(error)) => return error.to_string(),
                Some(_) => {}
                None => return "its driver ended".to_owned(),
            },
            _ = looks.tick() => {
                let status = live.connection.status();
                if !status.connected() {
                    return "it is no longer connected".to_owned();
                }
                if status.blocked() != blocked.borrow().is_some() {
                    blocked.send_replace(status.blocked().then(|| "resource alarm".to_owned()));
                }
            }
        }
    }
}
