//! Publishing with confirms: one task owns the publishing channel, so that the order in which lapin numbers messages is the
//! order in which it sends them, whoever publishes.
//!
//! A message that was not confirmed when the channel was lost is sent again on the next one, as long as its caller waits: a
//! caller sees a lost connection as waiting, and a copy may exist.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::super::{Confirm, Error, Result};
use super::failure;
use super::link::{Link, Live};
use super::options::{CALL_TIMEOUT, CLOSE_TIMEOUT};
use super::topology::{self, Names};
use crate::retry::Schedule;

/// Requests that wait for the publishing task.
const QUEUED_REQUESTS: usize = 256;
/// Most messages of one request, so that a large call shares the channel with small ones.
const REQUEST_MESSAGES: usize = 64;
/// Most bytes of one request, unless one message alone has more.
const REQUEST_BYTES: usize = 256 * 1024;

const DOING: &str = "publishing";

/// A message for RabbitMQ.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) headers: Option<FieldTable>,
    pub(super) payload: Bytes,
}

/// Hands messages to the publishing task.
#[derive(Debug)]
pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    link: Link,
    timeout: Duration,
    trouble: Trouble,
}

/// Why the publishing channel could not be opened, for the caller's error.
type Trouble = Arc<Mutex<Option<String>>>;

struct Request {
    drafts: Vec<Draft>,
    reply: oneshot::Sender<Vec<Confirm>>,
}

impl Publisher {
    /// Starts the publishing task. `patience` bounds each wait without progress.
    pub(super) fn start(
        link: Link,
        names: Names,
        window: usize,
        patience: Duration,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUED_REQUESTS);
        let trouble = Trouble::default();
        let task = Task {
            link: link.clone(),
            names,
            window,
            patience,
            stop,
            trouble: Arc::clone(&trouble),
            requests: receiver,
            open: HashMap::new(),
            backlog: VecDeque::new(),
            next_request: 0,
        };
        tasks.spawn(task.run());
        Self { requests, link, timeout: patience, trouble }
    }

    /// Publishes and waits for the confirms, which come in the order of the messages.
    pub(super) async fn publish(&self, drafts: Vec<Draft>) -> Result<Vec<Confirm>> {
        let mut confirms = Vec::with_capacity(drafts.len());
        let mut replies = Vec::with_capacity(drafts.len().div_ceil(REQUEST_MESSAGES));
        let mut drafts = drafts.into_iter().peekable();
        while drafts.peek().is_some() {
            let mut bytes = 0;
            let mut request = Vec::with_capacity(drafts.len().min(REQUEST_MESSAGES));
            while request.len() < REQUEST_MESSAGES && bytes < REQUEST_BYTES {
                let Some(draft) = drafts.next() else { break };
                bytes += draft.payload.len();
                request.push(draft);
            }
            let (sender, reply) = oneshot::channel();
            let sent = timeout(self.timeout, self.requests.send(Request { drafts: request, reply: sender })).await;
            sent.map_err(|_| self.stuck())?.map_err(|_| failure::shut_down(DOING))?;
            replies.push(reply);
        }
        for reply in replies {
            let answers = timeout(self.timeout, reply).await;
            confirms.extend(answers.map_err(|_| self.stuck())?.map_err(|_| failure::shut_down(DOING))?);
        }
        Ok(confirms)
    }

    /// Says why nothing moved.
    fn stuck(&self) -> Error {
        let reason = match self.link.now() {
            Err(reason) => reason.to_string(),
            Ok(live) => match live.blocked() {
                Some(reason) => return Error::Blocked { reason },
                None => {
                    let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                    trouble.clone().unwrap_or_else(|| "no confirm in time".to_owned())
                }
            },
        };
        Error::Unavailable { doing: DOING, reason }
    }
}

/// One message of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Ticket {
    request: u64,
    index: usize,
}

impl Ticket {
    fn to_message_id(self) -> ShortString {
        self.to_string().into()
    }

    /// Reads the id of a message that RabbitMQ returned.
    fn of(returned: &BasicReturnMessage) -> Option<Self> {
        let (request, index) = returned.properties.message_id().as_ref()?.as_str().split_once('-')?;
        Some(Self { request: request.parse().ok()?, index: index.parse().ok()? })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.request, self.index)
    }
}

/// A request with the answers so far.
struct Open {
    drafts: Vec<Draft>,
    answers: Vec<Option<Confirm>>,
    missing: usize,
    reply: oneshot::Sender<Vec<Confirm>>,
}

struct Task {
    link: Link,
    names: Names,
    window: usize,
    patience: Duration,
    stop: CancellationToken,
    trouble: Trouble,
    requests: mpsc::Receiver<Request>,
    open: HashMap<u64, Open>,
    backlog: VecDeque<Ticket>,
    next_request: u64,
}

/// How the use of a channel ended.
enum End {
    Stopped,
    Lost(String),
}

impl Task {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let live = tokio::select! {
                () = self.stop.cancelled() => return,
                live = self.link.live(DOING) => live,
            };
            let Ok(live) = live else { return };
            let opened = timeout(CALL_TIMEOUT, open_channel(&live, &self.names)).await;
            let reason = match opened.unwrap_or_else(|_| Err(failure::timed_out("opening a channel"))) {
                Ok(channel) => {
                    *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    let began = Instant::now();
                    let end = self.serve(&channel, &live).await;
                    if began.elapsed() > CALL_TIMEOUT {
                        failures = 0;
                    }
                    let End::Lost(reason) = end else { return };
                    // Closed here, or its unconfirmed messages would stay with the driver.
                    let _ = timeout(CLOSE_TIMEOUT, channel.close(200, "replaced".into())).await;
                    reason
                }
                Err(error) => {
                    let reason = error.to_string();
                    *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
                    reason
                }
            };
            failures += 1;
            if live.lost.is_cancelled() {
                debug!(reason, "publishing channel went with its connection");
            } else {
                warn!(reason, failures, "publishing channel lost");
            }
            self.rewind();
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(Schedule::RECONNECT.delay(failures)) => {}
            }
        }
    }

    /// Publishes on one channel until it is lost.
    async fn serve(&mut self, channel: &Channel, live: &Live) -> End {
        let mut in_flight = FuturesUnordered::new();
        let mut arrivals = Vec::new();
        let mut confirmed = Vec::new();
        let mut returned = HashSet::new();
        let mut progress = Instant::now();
        loop {
            while in_flight.len() < self.window
                && let Some(ticket) = self.backlog.pop_front()
            {
                if in_flight.is_empty() {
                    progress = Instant::now();
                }
                if let Some(draft) = self.draft(ticket) {
                    in_flight.push(send(channel, ticket, draft));
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return End::Stopped,
                () = live.lost.cancelled() => return End::Lost("the connection was lost".to_owned()),
                Some(first) = in_flight.next(), if !in_flight.is_empty() => {
                    confirmed.push(first);
                    while let Some(Some(next)) = in_flight.next().now_or_never() {
                        confirmed.push(next);
                    }
                    progress = Instant::now();
                    if let Err(error) = self.settle(&mut confirmed, &mut returned) {
                        return End::Lost(error.to_string());
                    }
                }
                count = self.requests.recv_many(&mut arrivals, QUEUED_REQUESTS), if self.backlog.len() < self.window => {
                    if count == 0 {
                        return End::Stopped;
                    }
                    arrivals.drain(..).for_each(|request| self.admit(request));
                }
                () = sleep_until(progress + self.patience), if !in_flight.is_empty() => {
                    if live.blocked().is_none() {
                        return End::Lost("no confirm in time".to_owned());
                    }
                    // The alarm is the caller's to hear of; the messages go out when it ends.
                    progress = Instant::now();
                }
            }
        }
    }

    fn admit(&mut self, request: Request) {
        let id = self.next_request;
        self.next_request += 1;
        let missing = request.drafts.len();
        self.backlog.extend((0..missing).map(|index| Ticket { request: id, index }));
        self.open
            .insert(id, Open { drafts: request.drafts, answers: vec![None; missing], missing, reply: request.reply });
    }

    /// Returns a message to send, unless its caller has gone.
    fn draft(&mut self, ticket: Ticket) -> Option<Draft> {
        let open = self.open.get(&ticket.request)?;
        if open.reply.is_closed() {
            self.open.remove(&ticket.request);
            return None;
        }
        open.drafts.get(ticket.index).cloned()
    }

    /// Reads all confirms that are there; `returned` are messages known to be unroutable whose own confirm is still out.
    ///
    /// RabbitMQ returns an unroutable message before it confirms it, but lapin hands the return to whichever confirm completes
    /// next. So a confirm that brings another message's return says nothing of its own, and is asked for again.
    fn settle(
        &mut self,
        confirmed: &mut Vec<(Ticket, lapin::Result<Confirmation>)>,
        returned: &mut HashSet<Ticket>,
    ) -> lapin::Result<()> {
        let mut answers = Vec::with_capacity(confirmed.len());
        for (ticket, confirmation) in confirmed.drain(..) {
            let (confirm, with) = match confirmation? {
                Confirmation::Ack(with) => (Confirm::Confirmed, with),
                Confirmation::Nack(with) => (Confirm::Refused, with),
                // Not on a channel that selected confirms.
                Confirmation::NotRequested => (Confirm::Refused, None),
            };
            match with.as_ref().map(Ticket::of) {
                None => answers.push((ticket, confirm)),
                Some(other) => {
                    returned.extend(other);
                    if other == Some(ticket) {
                        answers.push((ticket, Confirm::Unroutable));
                    } else {
                        self.backlog.push_back(ticket);
                    }
                }
            }
        }
        for (ticket, confirm) in answers {
            let unroutable = !returned.is_empty() && returned.remove(&ticket);
            self.answer(ticket, if unroutable { Confirm::Unroutable } else { confirm });
        }
        Ok(())
    }

    fn answer(&mut self, ticket: Ticket, confirm: Confirm) {
        let Some(open) = self.open.get_mut(&ticket.request) else { return };
        let Some(answer @ None) = open.answers.get_mut(ticket.index) else { return };
        *answer = Some(confirm);
        open.missing -= 1;
        if open.missing == 0
            && let Some(open) = self.open.remove(&ticket.request)
        {
            // Fails when the caller has gone, who will then publish again.
            let _ = open.reply.send(open.answers.into_iter().flatten().collect());
        }
    }

    /// Puts whatever is not answered back in the line, oldest first.
    fn rewind(&mut self) {
        self.open.retain(|_, open| !open.reply.is_closed());
        let mut requests: Vec<u64> = self.open.keys().copied().collect();
        requests.sort_unstable();
        self.backlog.clear();
        for request in requests {
            let Some(open) = self.open.get(&request) else { continue };
            let unanswered = open.answers.iter().enumerate().filter(|(_, answer)| answer.is_none());
            self.backlog.extend(unanswered.map(|(index, _)| Ticket { request, index }));
        }
    }
}

async fn open_channel(live: &Live, names: &Names) -> Result<Channel> {
    let failed = |error: lapin::Error| failure::unavailable("opening a channel", &error);
    let channel = live.connection.create_channel().await.map_err(failed)?;
    topology::declare_base(&channel, names).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
    Ok(channel)
}

/// Sends one message and waits for its confirm. The first poll numbers it and hands it to lapin.
async fn send(channel: &Channel, ticket: Ticket, draft: Draft) -> (Ticket, lapin::Result<Confirmation>) {
    // Mandatory: what reaches no queue is returned before it is confirmed.
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let mut properties = BasicProperties::default()
        // Persistent. Quorum queues store everything, but what passes through a classic queue should be too.
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        // What a returned message is known by.
        .with_message_id(ticket.to_message_id());
    if let Some(headers) = draft.headers {
        properties = properties.with_headers(headers);
    }
    let published = channel.basic_publish(draft.exchange, draft.routing_key, options, &draft.payload, properties).await;
    let confirmation = match published {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (ticket, confirmation)
}
