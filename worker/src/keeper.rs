//! The keeper: the caretaker, one active in the fleet.
//!
//! Owns what no single job's way does: it publishes what was recorded and not queued, what is due, and what dead owners held;
//! ends cancelled and expired jobs that nobody holds; looks after dead letters and partitions. Everything goes in bounded
//! chunks, and every step may be repeated: if it dies after a publish, the same message comes twice and admission drops one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gristmill_common::broker::{self, Aside, AsideMessage, Broker, Confirm, Outgoing};
use gristmill_common::clock::Clock;
use gristmill_common::envelope::{self, MAX_MESSAGE_BYTES};
use gristmill_common::failpoint;
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, OwnerId};
use gristmill_common::job::{JobRef, LaneKey, Priority};
use gristmill_common::store::{self, DeadLetter, Due, Keepership, Store};
use gristmill_common::trace::Tracer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alert::Alerts;

use crate::metrics::{Counts, Kept};

/// How long the keeper's own lease lasts.
const TTL: Duration = Duration::from_secs(10);
/// How long giving it up may take: it runs out by itself.
const GIVE_UP: Duration = Duration::from_secs(2);
/// How often it looks for due runs while there were none.
const TICK: Duration = Duration::from_millis(250);
/// How often it looks for everything else.
const ROUND: Duration = Duration::from_secs(1);
/// How often it corrects all budgets by the records.
const ALL_BUDGETS: Duration = Duration::from_secs(600);
/// How often it corrects those that were set or began anew of late.
const BUDGETS: Duration = Duration::from_secs(15);
/// How often it makes partitions and looks at messages of later versions.
const HOUR: Duration = Duration::from_secs(3600);
/// How often it looks whether the response cache is too large, and whether somebody waits there in vain.
const CACHE: Duration = Duration::from_secs(30);
/// Rows in a chunk.
const CHUNK: u32 = 1000;
/// Rows of the response cache in a chunk, which are small.
const CACHE_CHUNK: u32 = 10_000;
/// Sums that are added up at once.
const ROLL_UP: u32 = 5000;
/// References in a message of standard or bulk priority.
const REFERENCES: usize = 50;

/// What went wrong in a round; the next round tries again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Broker(#[from] broker::Error),
}

/// The keeper of one process.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) tracer: Tracer,
    pub(crate) owner: OwnerId,
    /// How long a worker's lease lasts.
    pub(crate) lease: Duration,
    /// Owners that may die on a job.
    pub(crate) max_deaths: u32,
    /// The groups that this process serves.
    pub(crate) groups: Vec<String>,
    pub(crate) alerts: Arc<Alerts>,
    /// The telling of alerts, one at a time.
    pub(crate) telling: TaskTracker,
}

/// What the keeper remembers between rounds.
struct Rounds {
    kept_until: Instant,
    /// Since when the store has answered without a break.
    in_touch: Option<Instant>,
    next_round: Instant,
    next_budgets: Instant,
    next_all_budgets: Instant,
    next_hour: Instant,
    next_cache: Instant,
    server_up: Option<Duration>,
}

impl Keeper {
    /// Looks after everything until `stop`, whenever this process is the keeper; then the next one can take over at once.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep_house()).await;
        self.counts.keeps_until(None);
        let given_up = tokio::time::timeout(GIVE_UP, self.store.keep(self.owner, Duration::ZERO)).await;
        if !matches!(given_up, Ok(Ok(_))) {
            tracing::debug!("the keeper's lease was not given up");
        }
    }

    async fn keep_house(&self) {
        let now = Instant::now();
        let mut rounds = Rounds {
            kept_until: now,
            in_touch: None,
            next_round: now,
            next_budgets: now,
            next_all_budgets: now,
            next_hour: now,
            next_cache: now,
            server_up: None,
        };
        let mut failing = false;
        loop {
            let wait = match self.round(&mut rounds).await {
                Ok(busy) => {
                    failing = false;
                    if busy { Duration::ZERO } else { TICK }
                }
                Err(error) => {
                    self.counts.keeper_failed();
                    if !failing {
                        tracing::warn!(%error, "keeping house failed, trying again");
                    }
                    failing = true;
                    if matches!(&error, Error::Store(error) if error.is_transient()) {
                        rounds.in_touch = None;
                    }
                    ROUND
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Does what there is to do; returns whether more is likely.
    async fn round(&self, rounds: &mut Rounds) -> Result<bool, Error> {
        let now = Instant::now();
        if now + TTL / 2 > rounds.kept_until {
            match self.store.keep(self.owner, TTL).await? {
                Keepership::Held { server_up } => {
                    // A lease that had run out means that this process stood still: others may have, too.
                    if now > rounds.kept_until {
                        rounds.in_touch = None;
                    }
                    rounds.kept_until = now + TTL;
                    self.counts.keeps_until(Some(rounds.kept_until));
                    rounds.server_up = server_up;
                    rounds.in_touch.get_or_insert(now);
                }
                Keepership::Elsewhere => {
                    rounds.in_touch = None;
                    self.counts.keeps_until(None);
                    tokio::time::sleep(ROUND).await;
                    return Ok(false);
                }
            }
        }
        let mut busy = self.publish_due().await?;
        if now < rounds.next_round {
            return Ok(busy);
        }
        busy |= self.publish_abandoned().await?;
        if self.may_bury(rounds) {
            let burial = self.store.bury(self.max_deaths, CHUNK).await?;
            if burial.owners > 0 || burial.returned > 0 || burial.poisoned > 0 {
                failpoint::pass("keeper.after_bury");
                tracing::warn!(
                    owners = burial.owners,
                    returned = burial.returned,
                    poisoned = burial.poisoned,
                    "took over from dead workers"
                );
            }
            self.counts.took_over(&burial);
            busy |= burial.more;
        }
        let (cancelled, expired) = (self.store.close_cancelled(CHUNK).await?, self.store.close_expired(CHUNK).await?);
        self.counts.kept(Kept::Cancelled, cancelled);
        self.counts.kept(Kept::Expired, expired);
        busy |= cancelled >= u64::from(CHUNK) || expired >= u64::from(CHUNK);
        busy |= self.dead_letters().await?;
        busy |= self.store.roll_up(ROLL_UP).await? >= u64::from(ROLL_UP);
        if now >= rounds.next_budgets {
            let all = now >= rounds.next_all_budgets;
            let mut woken = 0;
            for key in self.store.correct_budgets(all).await? {
                // Jobs that began to wait while it was raised.
                woken = self.store.wake_for_budget(&key, CHUNK).await?.max(woken);
            }
            if all {
                rounds.next_all_budgets = now + ALL_BUDGETS;
            }
            if woken >= u64::from(CHUNK) {
                busy = true;
            } else {
                rounds.next_budgets = now + BUDGETS;
            }
        }
        // A slow webhook keeps nothing else waiting.
        if self.telling.is_empty() {
            let (alerts, store) = (Arc::clone(&self.alerts), Arc::clone(&self.store));
            self.telling.spawn(async move {
                if let Err(error) = alerts.tell(&*store).await {
                    tracing::debug!(%error, "alerts not told yet");
                }
            });
        }
        if now >= rounds.next_cache {
            if self.store.prune_cache(CACHE_CHUNK).await? >= u64::from(CACHE_CHUNK) {
                busy = true;
            } else {
                rounds.next_cache = now + CACHE;
            }
        }
        if now >= rounds.next_hour {
            self.store.ensure_partitions(self.clock.now().date_naive()).await?;
            self.future_messages().await?;
            rounds.next_hour = now + HOUR;
        }
        if !busy {
            rounds.next_round = now + ROUND;
        }
        Ok(busy)
    }

    /// Tells whether the store has been up and in touch for a lease: until then, silence proves nobody dead.
    fn may_bury(&self, rounds: &Rounds) -> bool {
        rounds.in_touch.is_some_and(|since| since.elapsed() >= self.lease)
            && rounds.server_up.is_none_or(|up| up >= self.lease)
    }

    async fn publish_due(&self) -> Result<bool, Error> {
        let due = self.store.due(CHUNK).await?;
        if due.is_empty() {
            return Ok(false);
        }
        let full = due.len() >= CHUNK as usize;
        let refs: Vec<JobRef> = due.iter().map(|due| due.job.clone()).collect();
        let confirmed = self.publish(&refs).await?;
        failpoint::pass("keeper.after_publish");
        let queued: Vec<Due> = due.into_iter().filter(|due| confirmed.contains(&due.job.id)).collect();
        let all = queued.len() == refs.len();
        self.store.mark_queued(&queued).await?;
        self.counts.kept(Kept::Due, queued.len() as u64);
        // Where the broker refused some, wait a tick before they are tried again.
        Ok(full && all)
    }

    async fn publish_abandoned(&self) -> Result<bool, Error> {
        let Some(found) = self.store.unpublished(CHUNK).await? else { return Ok(false) };
        let confirmed = self.publish(&found.jobs).await?;
        failpoint::pass("keeper.after_publish_abandoned");
        let refused: Vec<JobRef> = found.jobs.iter().filter(|job| !confirmed.contains(&job.id)).cloned().collect();
        if !refused.is_empty() {
            self.store.defer(&refused, ROUND, "the queue is full").await?;
        }
        tracing::info!(batch.id = %found.batch, jobs = found.jobs.len(), "published jobs of a producer that is gone");
        self.store.mark_published(found.batch, found.through).await?;
        self.counts.kept(Kept::Abandoned, confirmed.len() as u64);
        Ok(true)
    }

    /// Publishes references, several to a message; returns the jobs whose message is confirmed.
    async fn publish(&self, jobs: &[JobRef]) -> Result<std::collections::HashSet<gristmill_common::id::JobId>, Error> {
        let mut by_queue: BTreeMap<(BatchId, &LaneKey), Vec<JobRef>> = BTreeMap::new();
        for job in jobs {
            by_queue.entry((job.batch, &job.lane)).or_default().push(job.clone());
        }
        let mut messages = Vec::new();
        let mut carried = Vec::new();
        for ((_, lane), jobs) in by_queue {
            let size = if lane.priority == Priority::High { 1 } else { REFERENCES };
            for jobs in jobs.chunks(size) {
                let Ok(payload) = envelope::write_references(jobs) else { continue };
                let traceparent = jobs.first().and_then(|job| self.tracer.announce(job.id));
                messages.push(Outgoing { lane: lane.clone(), payload, traceparent });
                carried.push(jobs.iter().map(|job| job.id).collect::<Vec<_>>());
            }
        }
        let groups: Vec<String> = messages.iter().map(|message| message.lane.group.to_string()).collect();
        let confirms = self.broker.publish(messages).await?;
        if confirms.contains(&Confirm::Unroutable) {
            self.broker.declare(&groups).await?;
        }
        let confirmed = confirms.into_iter().zip(carried).filter(|(confirm, _)| *confirm == Confirm::Confirmed);
        Ok(confirmed.flat_map(|(_, jobs)| jobs).collect())
    }

    /// Turns what was put aside into rows, or puts the innocent back.
    async fn dead_letters(&self) -> Result<bool, Error> {
        let messages = self.broker.take_aside(Aside::Dead, 100).await?;
        let full = messages.len() >= 100;
        for message in messages {
            let (routing_key, payload) = (message.routing_key.clone(), message.payload.clone());
            match self.dead_letter(message).await {
                Err(Error::Store(error)) if error.is_transient() => return Err(error.into()),
                Err(Error::Broker(error)) if error.is_transient() => return Err(error.into()),
                // It goes back; what cannot be dealt with must not keep the rest waiting.
                Err(error) => {
                    tracing::error!(%error, queue = routing_key, bytes = payload.len(), "dead letter not dealt with");
                }
                Ok(()) => {}
            }
        }
        Ok(full)
    }

    async fn dead_letter(&self, message: AsideMessage) -> Result<(), Error> {
        let (jobs, error) = match envelope::read(&message.payload) {
            Ok(arrivals) => {
                let Some(lane) = arrivals.first().map(|arrival| arrival.job.lane.clone()) else { return Ok(()) };
                // A queue that was there is somebody's; only what had none may name a group that nobody serves.
                let served = message.reason != "unrouted" || self.is_served(&lane.group).await?;
                let bytes = message.payload.len();
                if served && bytes <= MAX_MESSAGE_BYTES {
                    // What made the broker give up on it was not the message: whether a job is poison, its own row says.
                    tracing::info!(reason = message.reason, jobs = arrivals.len(), "message put back into its queue");
                    return self.put_back(message, lane).await;
                }
                let error = if served {
                    let text = format!(
                        "the message has {bytes} bytes, at most {MAX_MESSAGE_BYTES} are taken; send fewer jobs in one"
                    );
                    ErrorRecord::new(ErrorClass::InvalidMessage, text)
                } else {
                    let group = &lane.group;
                    let text =
                        format!("no worker serves the model group `{group}`; start one that does, or correct `model`");
                    ErrorRecord::new(ErrorClass::UnknownModelGroup, text)
                };
                (arrivals.into_iter().map(|arrival| arrival.job).collect(), error)
            }
            Err(envelope::Error::Future(_)) => {
                self.broker
                    .put_aside(Aside::Future, &message.routing_key, "future version", message.payload.clone())
                    .await?;
                message.settle.ack();
                return Ok(());
            }
            Err(envelope::Error::Unreadable { reason, jobs }) => {
                let text = format!("the message cannot be read: {reason}");
                (jobs, ErrorRecord::new(ErrorClass::InvalidMessage, text))
            }
        };
        let payload = message.payload.slice(..message.payload.len().min(64 * 1024));
        tracing::warn!(reason = message.reason, jobs = jobs.len(), bytes = payload.len(), "message is a dead letter");
        let letter =
            DeadLetter { reason: message.reason.clone(), queue: message.routing_key.clone(), payload, jobs, error };
        self.store.bury_letter(&letter).await?;
        message.settle.ack();
        self.counts.keeper_buried();
        Ok(())
    }

    async fn put_back(&self, message: AsideMessage, lane: LaneKey) -> Result<(), Error> {
        self.broker.declare(&[lane.group.to_string()]).await?;
        let payload: Bytes = message.payload.clone();
        let traceparent = message.traceparent;
        let confirms = self.broker.publish(vec![Outgoing { lane, payload, traceparent }]).await?;
        if confirms == [Confirm::Confirmed] {
            message.settle.ack();
            self.counts.keeper_put_back();
        }
        Ok(())
    }

    async fn is_served(&self, group: &str) -> Result<bool, Error> {
        if self.groups.iter().any(|served| served == group) {
            return Ok(true);
        }
        let workers = self.store.workers().await?;
        Ok(workers.iter().any(|worker| worker.alive && worker.info.groups.iter().any(|served| served == group)))
    }

    /// Queues messages of a version that this program can read by now.
    async fn future_messages(&self) -> Result<(), Error> {
        for message in self.broker.take_aside(Aside::Future, 1000).await? {
            let Ok(arrivals) = envelope::read(&message.payload) else { continue };
            let Some(lane) = arrivals.first().map(|arrival| arrival.job.lane.clone()) else { continue };
            self.put_back(message, lane).await?;
        }
        Ok(())
    }
}
