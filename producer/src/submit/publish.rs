//! Publishing recorded jobs: which lane, which messages, and what a refusal means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gristmill_common::broker::{self, Broker, Confirm, Outgoing};
use gristmill_common::envelope;
use gristmill_common::failpoint;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::{Job, JobRef, LaneKey, Priority};
use gristmill_common::store;
use gristmill_common::trace::Tracer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pack::{Parcel, parcels};
use super::{Submission, patiently, trace};
use crate::error::{Error, Result};
use crate::producer::Producer;

/// How long a refused job waits; then the keeper publishes it.
const REFUSED_WAIT: Duration = Duration::from_secs(5);
/// Times that messages without a queue are published again after declaring it.
const DECLARE_ROUNDS: u32 = 3;
/// A `not_before` within this is published all the same: the store's clock may say that it is past, and then nothing else
/// would wake the job. A message that comes too early does no harm.
const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::minutes(1);

/// A chunk that is recorded and not yet published.
pub(super) struct Recording {
    pub(super) jobs: Vec<Job>,
    /// Every job below this ordinal is confirmed once this is published.
    pub(super) through: u64,
    /// When it began to be recorded.
    pub(super) began_at: DateTime<Utc>,
}

/// Publishes recorded jobs.
#[derive(Clone)]
pub(crate) struct Publisher {
    producer: Producer,
    stop: CancellationToken,
    progress: Option<watch::Sender<Submission>>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

struct Message {
    outgoing: Outgoing,
    jobs: Vec<JobRef>,
}

impl Publisher {
    pub(crate) fn new(
        producer: &Producer,
        stop: CancellationToken,
        progress: Option<watch::Sender<Submission>>,
    ) -> Result<Self> {
        if producer.options.broker.is_none() {
            return Err(Error::NoBroker);
        }
        Ok(Self { producer: producer.clone(), stop, progress })
    }

    fn broker(&self) -> Result<&dyn Broker> {
        self.producer.options.broker.as_deref().ok_or(Error::NoBroker)
    }

    async fn ask_broker<T, F, Fut>(&self, operation: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = broker::Result<T>>,
    {
        patiently(&self.stop, self.progress.as_ref(), operation, broker::Error::is_transient).await
    }

    async fn ask_store<T, F, Fut>(&self, operation: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = store::Result<T>>,
    {
        patiently(&self.stop, self.progress.as_ref(), operation, store::Error::is_transient).await
    }

    /// Declares a model group's queues and takes the emptier of the batch's two lanes.
    pub(super) async fn choose_lane(&self, batch: BatchId, group: &str, priority: Priority) -> Result<LaneKey> {
        let broker = self.broker()?;
        let groups = [group.to_owned()];
        self.ask_broker(|| broker.declare(&groups)).await?;
        let [first, second] = LaneKey::candidates(batch, group, priority);
        if first == second {
            return Ok(first);
        }
        let lanes = [first, second];
        let depths = self.ask_broker(|| broker.depths(&lanes)).await?;
        let [first, second] = lanes;
        Ok(if depths.get(1) < depths.first() { second } else { first })
    }

    /// Publishes a chunk; returns how far everything is confirmed.
    pub(super) async fn recording(&self, recording: Recording) -> Result<u64> {
        let Recording { jobs, through, began_at } = recording;
        let tracer = &self.producer.options.tracer;
        let submissions = trace::Submissions::of(tracer, &jobs, began_at);
        let soon = self.producer.options.clock.now() + CLOCK_SKEW;
        let now = |job: &Job| job.options.not_before.is_none_or(|not_before| not_before <= soon);
        let most = self.producer.options.jobs_per_message;
        let messages = if self.broker()?.carries_bodies() {
            messages(tracer, jobs, now, most)?
        } else {
            let refer = |job: Job| JobRef { id: job.id, batch: job.batch, run: 1, lane: job.lane };
            references(tracer, jobs.into_iter().filter(now).map(refer).collect(), most * REFERENCES_FACTOR)?
        };
        self.publish(messages).await?;
        failpoint::pass("producer.after_publish");
        submissions.confirmed(tracer, &*self.producer.options.clock);
        Ok(through)
    }

    /// Publishes by reference every recorded job above `after` that has neither a result nor a holder.
    pub(crate) async fn unfinished(&self, batch: BatchId, mut after: Option<JobId>, chunk: u32) -> Result<u64> {
        let store = self.producer.store();
        let mut published = 0;
        let mut declared = BTreeSet::new();
        loop {
            let (jobs, next) = self.ask_store(|| store.unfinished(batch, after, chunk)).await?;
            published += jobs.len() as u64;
            let groups = jobs.iter().map(|job| job.lane.group.to_string());
            let new: Vec<String> = groups.filter(|group| declared.insert(group.clone())).collect();
            if !new.is_empty() {
                let broker = self.broker()?;
                self.ask_broker(|| broker.declare(&new)).await?;
            }
            let options = &self.producer.options;
            self.publish(references(&options.tracer, jobs, options.jobs_per_message)?).await?;
            let Some(next) = next else { return Ok(published) };
            after = Some(next);
        }
    }

    async fn publish(&self, mut messages: Vec<Message>) -> Result<()> {
        let broker = self.broker()?;
        for round in 0.. {
            if messages.is_empty() {
                return Ok(());
            }
            let outgoing = || messages.iter().map(|message| message.outgoing.clone()).collect();
            let confirms = self.ask_broker(|| broker.publish(outgoing())).await?;
            let mut refused = Vec::new();
            let mut unroutable = Vec::new();
            // An answer that is missing counts as a refusal.
            let confirms = confirms.into_iter().chain(std::iter::repeat(Confirm::Refused));
            for (message, confirm) in messages.into_iter().zip(confirms) {
                match confirm {
                    Confirm::Confirmed => {}
                    Confirm::Refused => refused.extend(message.jobs),
                    Confirm::Unroutable if round >= DECLARE_ROUNDS => refused.extend(message.jobs),
                    Confirm::Unroutable => unroutable.push(message),
                }
            }
            if !refused.is_empty() {
                let store = self.producer.store();
                self.ask_store(|| store.defer(&refused, REFUSED_WAIT, "the queue refused it")).await?;
            }
            if !unroutable.is_empty() {
                let groups: BTreeSet<String> =
                    unroutable.iter().map(|message| message.outgoing.lane.group.to_string()).collect();
                let groups: Vec<String> = groups.into_iter().collect();
                self.ask_broker(|| broker.declare(&groups)).await?;
            }
            messages = unroutable;
        }
        Ok(())
    }
}

/// References that fit where one request would.
const REFERENCES_FACTOR: usize = 5;

/// Makes a message; its header tells the span of the first of its jobs, from which no other's differs but by its id.
fn message(tracer: &Tracer, lane: LaneKey, payload: Bytes, jobs: Vec<JobRef>) -> Message {
    let traceparent = jobs.first().and_then(|job| tracer.announce(job.id));
    Message { outgoing: Outgoing { lane, payload, traceparent }, jobs }
}

/// Writes the messages of a chunk.
fn messages(
    tracer: &Tracer,
    jobs: Vec<Job>,
    publish: impl Fn(&Job) -> bool,
    jobs_per_message: usize,
) -> Result<Vec<Message>> {
    let parcels = parcels(&jobs, publish, jobs_per_message);
    let mut jobs: Vec<Option<Job>> = jobs.into_iter().map(Some).collect();
    let mut messages = Vec::with_capacity(parcels.len());
    for Parcel { jobs: positions, carries } in parcels {
        let jobs: Vec<Job> = positions.into_iter().filter_map(|position| jobs.get_mut(position)?.take()).collect();
        let Some(lane) = jobs.first().map(|job| job.lane.clone()) else { continue };
        let references: Vec<JobRef> =
            jobs.iter().map(|job| JobRef { id: job.id, batch: job.batch, run: 1, lane: lane.clone() }).collect();
        let payload = if carries { envelope::write(&jobs) } else { envelope::write_references(&references) };
        // Each body was parsed before it was recorded.
        let custom_id = || jobs.first().map_or_else(String::new, |job| job.custom_id.clone());
        let payload = payload.map_err(|source| Error::BodyNotJson { custom_id: custom_id(), source })?;
        messages.push(message(tracer, lane, payload, references));
    }
    Ok(messages)
}

/// Writes messages that refer to recorded jobs.
fn references(tracer: &Tracer, jobs: Vec<JobRef>, jobs_per_message: usize) -> Result<Vec<Message>> {
    let mut lanes: BTreeMap<LaneKey, Vec<JobRef>> = BTreeMap::new();
    for job in jobs {
        lanes.entry(job.lane.clone()).or_default().push(job);
    }
    let mut messages = Vec::new();
    for (lane, jobs) in lanes {
        let most = if lane.priority == Priority::High { 1 } else { jobs_per_message.max(1) };
        for jobs in jobs.chunks(most) {
            let payload = envelope::write_references(jobs)
                .map_err(|source| Error::BodyNotJson { custom_id: String::new(), source })?;
            messages.push(message(tracer, lane.clone(), payload, jobs.to_vec()));
        }
    }
    Ok(messages)
}
