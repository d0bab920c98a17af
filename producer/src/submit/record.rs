//! The loop of a submission: read and record one chunk while the one before it is published.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use gristmill_common::batch::{Batch, NewBatch};
use gristmill_common::failpoint;
use gristmill_common::id::JobId;
use gristmill_common::job::{Job, LaneKey};
use gristmill_common::store::{Chunk, Opened, Recorded, Sealed};
use tokio::time::Instant;

use super::known::Known;
use super::publish::{Publisher, Recording};
use super::{Control, MAX_BODY_BYTES, MOST_LISTED, NewJob, Submitted};
use crate::error::{Error, Result};
use crate::producer::Producer;

/// Jobs of one chunk at most.
const CHUNK_JOBS: usize = 1_000;
/// Bytes of bodies after which a chunk is full.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// How long a chunk waits for more jobs of a slow stream.
const LINGER: Duration = Duration::from_millis(200);
/// Jobs left behind by an earlier submission that are published at once.
const LEFT_BEHIND_CHUNK: u32 = 1_000;
/// Known jobs after which the watcher hears of them.
const TELL_EVERY: u64 = 10_000;

/// One submission in progress.
pub(super) struct Submitter<'a> {
    publisher: Publisher,
    recorder: Recorder<'a>,
}

impl<'a> Submitter<'a> {
    pub(super) fn new(
        producer: &'a Producer,
        control: &'a Control,
        new: NewBatch,
        batch: Batch,
        publisher: Publisher,
    ) -> Self {
        let known = Known::new(&batch);
        let next = batch.recorded;
        let recorder = Recorder {
            producer,
            control,
            new,
            known,
            next,
            lanes: HashMap::new(),
            publisher: publisher.clone(),
            batch,
            recorded_now: 0,
            already_there: 0,
            announced: false,
            read_all: false,
        };
        Self { publisher, recorder }
    }

    pub(super) async fn run<S, E>(&mut self, mut jobs: Pin<&mut S>) -> Result<Submitted>
    where
        S: Stream<Item = std::result::Result<NewJob, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let batch = self.recorder.batch.id;
        let mut through = self.publish_left_behind().await?;
        let mut recorded: Option<Recording> = None;
        loop {
            let publisher = &self.publisher;
            let pending = recorded.take();
            let publishing = async {
                match pending {
                    Some(recording) => publisher.recording(recording).await,
                    None => Ok(through),
                }
            };
            // The reading's own error waits until the publishing is done; a failed publishing stops the reading.
            let reading = async { Ok(self.recorder.next(jobs.as_mut(), through).await) };
            let (read, published) = tokio::try_join!(reading, publishing)?;
            through = published;
            match read {
                Ok(Some(recording)) => recorded = Some(recording),
                Ok(None) => break,
                Err(error) => {
                    // Only spares the keeper a repetition.
                    let _ = self.recorder.producer.store().mark_published(batch, through).await;
                    return Err(error);
                }
            }
        }
        self.recorder.finish().await
    }

    /// Publishes what an earlier submission recorded and may not have published.
    async fn publish_left_behind(&self) -> Result<u64> {
        let Batch { id, recorded, published_through, .. } = self.recorder.batch;
        if published_through < recorded {
            let last = published_through.checked_sub(1).and_then(|ordinal| u32::try_from(ordinal).ok());
            let after = last.map(|ordinal| JobId::derive(id, ordinal));
            self.publisher.unfinished(id, after, LEFT_BEHIND_CHUNK).await?;
        }
        Ok(recorded)
    }
}

/// Reads the stream, leaves out what is known, and records the rest.
struct Recorder<'a> {
    producer: &'a Producer,
    control: &'a Control,
    publisher: Publisher,
    new: NewBatch,
    batch: Batch,
    known: Known,
    /// The ordinal of the next job.
    next: u64,
    lanes: HashMap<Arc<str>, LaneKey>,
    recorded_now: u64,
    already_there: u64,
    announced: bool,
    read_all: bool,
}

impl Recorder<'_> {
    /// Reads and records the next chunk; `None` when the stream has ended.
    async fn next<S, E>(&mut self, mut jobs: Pin<&mut S>, published_through: u64) -> Result<Option<Recording>>
    where
        S: Stream<Item = std::result::Result<NewJob, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        let mut full_at: Option<Instant> = None;
        self.announce();
        // A stream that has ended is not asked again: not every one takes that.
        while !self.read_all && chunk.len() < CHUNK_JOBS && bytes < CHUNK_BYTES && !self.control.stop.is_cancelled() {
            let next = tokio::select! {
                biased;
                next = jobs.next() => next,
                () = self.control.stop.cancelled() => break,
                () = sleep_until(full_at) => break,
            };
            let Some(job) = next else {
                self.read_all = true;
                break;
            };
            let job = job.map_err(|error| Error::Input(error.into()))?;
            let identity = job.identity(self.batch.simulated);
            if self.known.take(self.producer, self.control, identity).await? {
                self.already_there += 1;
                self.announce();
                continue;
            }
            bytes += job.body.len();
            let ordinal = self.next + chunk.len() as u64;
            chunk.push(self.make(job, ordinal).await?);
            full_at = full_at.or_else(|| Some(Instant::now() + LINGER));
        }
        if self.control.stop.is_cancelled() {
            return Err(Error::Interrupted);
        }
        if chunk.is_empty() {
            return Ok(None);
        }
        let began_at = self.producer.options.clock.now();
        self.record(&chunk, published_through).await?;
        let first = self.next;
        self.next += chunk.len() as u64;
        self.recorded_now += chunk.len() as u64;
        let recorded_now = self.recorded_now;
        self.control.progress.send_modify(|progress| progress.recorded_now = recorded_now);
        debug_assert_eq!(u64::from(chunk[0].id.ordinal()), first);
        Ok(Some(Recording { jobs: chunk, through: self.next, began_at }))
    }

    /// Makes the job at the next ordinal of the chunk.
    async fn make(&mut self, job: NewJob, ordinal: u64) -> Result<Job> {
        let NewJob { custom_id, endpoint, model, body, options } = job;
        if body.len() > MAX_BODY_BYTES {
            return Err(Error::BodyTooLarge { custom_id, bytes: body.len(), max: MAX_BODY_BYTES });
        }
        if let Err(source) = serde_json::from_slice::<&serde_json::value::RawValue>(&body) {
            return Err(Error::BodyNotJson { custom_id, source });
        }
        let ordinal = u32::try_from(ordinal).map_err(|_| Error::Full(self.batch.name.clone()))?;
        let lane = match self.lanes.get(&model) {
            Some(lane) => lane.clone(),
            None => {
                let lane = self.publisher.choose_lane(self.batch.id, &model, self.batch.priority).await?;
                self.lanes.insert(model, lane.clone());
                lane
            }
        };
        let id = JobId::derive(self.batch.id, ordinal);
        Ok(Job { id, batch: self.batch.id, custom_id, endpoint: endpoint.to_string(), lane, body, options })
    }

    async fn record(&mut self, jobs: &[Job], published_through: u64) -> Result<()> {
        let producer = self.producer;
        loop {
            let chunk = || Chunk {
                batch: self.batch.id,
                producer: producer.owner,
                producer_ttl: producer.options.producer_ttl,
                jobs,
                first_ordinal: self.next,
                published_through,
                simulated: self.batch.simulated,
            };
            match producer.patiently(self.control, || producer.store().record(chunk())).await? {
                Recorded::Committed => {
                    failpoint::pass("producer.after_record");
                    return Ok(());
                }
                Recorded::Cancelled => return Err(Error::Cancelled(self.batch.name.clone())),
                Recorded::LostProducer => self.take_back(jobs.len() as u64).await?,
            }
        }
    }

    /// Takes the batch back after an outage that outlasted the lease, unless somebody else has gone on with it.
    async fn take_back(&self, pending: u64) -> Result<()> {
        let producer = self.producer;
        let ttl = producer.options.producer_ttl;
        let opened = producer.patiently(self.control, || producer.store().open_batch(&self.new, ttl)).await?;
        match opened {
            Opened::Resumed(batch)
                if batch.id == self.batch.id && (self.next..=self.next + pending).contains(&batch.recorded) =>
            {
                Ok(())
            }
            Opened::Resumed(batch) | Opened::Created(batch) => {
                let _ = producer.store().leave(batch.id, producer.owner).await;
                Err(Error::Replaced(batch.name))
            }
            Opened::Busy(batch) => Err(Error::Replaced(batch.name)),
        }
    }

    /// Tells the watcher how far it is, and which jobs are the input's, as soon as that is known.
    fn announce(&mut self) {
        let passed = !self.announced && self.known.is_passed();
        if !passed && !self.already_there.is_multiple_of(TELL_EVERY) {
            return;
        }
        let members = passed.then(|| Arc::new(self.known.members()));
        self.announced |= passed;
        let already_there = self.already_there;
        self.control.progress.send_modify(|progress| {
            progress.already_there = already_there;
            progress.members = members.or_else(|| progress.members.take());
        });
    }

    async fn finish(&mut self) -> Result<Submitted> {
        let producer = self.producer;
        failpoint::pass("producer.before_seal");
        loop {
            let sealing = || producer.store().seal(self.batch.id, producer.owner);
            match producer.patiently(self.control, sealing).await? {
                Sealed::Committed => break,
                Sealed::LostProducer => self.take_back(0).await?,
            }
        }
        let members = Arc::new(self.known.members());
        let already_there = self.already_there;
        self.control.progress.send_modify(|progress| {
            progress.already_there = already_there;
            progress.members = Some(Arc::clone(&members));
        });
        let changed = self.known.first_missing(MOST_LISTED);
        let changed_ids = if changed.is_empty() {
            Vec::new()
        } else {
            // The batch is sealed: whoever stops here misses names to show, and nothing else.
            let names = producer.patiently(self.control, || producer.store().custom_ids(self.batch.id, &changed)).await;
            names.unwrap_or_default()
        };
        Ok(Submitted {
            batch: self.batch.clone(),
            recorded_now: self.recorded_now,
            already_there,
            changed: self.known.missing(),
            changed_ids,
            members,
        })
    }
}

/// Sleeps until a time, or for ever.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
