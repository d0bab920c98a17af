//! Submitting: record a chunk, then publish it, while the next one is recorded.
//!
//! At most three chunks are in memory: one being read, one being recorded, one being published. If the process dies, the
//! keeper publishes what was recorded, and a submission of the same input goes on at the batch's `recorded`.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use gristmill_common::batch::{Batch, NewBatch};
use gristmill_common::budget::{BudgetKey, Period, Scope, Terms};
use gristmill_common::id::BatchId;
use gristmill_common::job::{Identity, JobOptions, Priority};
use gristmill_common::price::PicoUsd;
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{self, Opened};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, with_causes};
use crate::producer::Producer;

#[cfg(test)]
pub(crate) mod fake;
mod known;
mod name;
mod pack;
pub(crate) mod publish;
mod record;
#[cfg(test)]
mod tests;
mod trace;

use known::Known;
pub use known::Members;
use publish::Publisher;
use record::Submitter;

/// Largest body that is taken, in bytes: images and documents fit, a file given by mistake does not.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Changed jobs of which a submission tells the `custom_id`.
pub const MOST_LISTED: usize = 20;

/// Jobs that are woken in one transaction.
const WAKE_AT_ONCE: u32 = 5_000;
/// How often a busy batch is tried again.
const BUSY_POLL: Duration = Duration::from_secs(1);

/// What a batch is to be.
#[derive(Debug, Clone, Default)]
pub struct BatchSpec {
    /// What people call it; a batch of this name that exists is continued.
    pub name: String,
    /// The project that costs are grouped by.
    pub project: Option<String>,
    /// The priority of all its jobs.
    pub priority: Priority,
    /// Whether the simulator answers.
    pub simulated: bool,
    /// The user's own JSON object.
    pub metadata: Option<serde_json::Value>,
    /// Tags of all its jobs.
    pub tags: BTreeMap<String, String>,
    /// Most that the batch may cost, in picodollars.
    pub budget_pico_usd: Option<i64>,
}

impl BatchSpec {
    /// Fails where [`Producer::submit`] would refuse it, without a look at the store.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], which says what a name may be.
    pub fn validate(&self) -> Result<()> {
        name::check(&self.name)
    }
}

/// One request to submit.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// The user's name for it; echoed in the result.
    pub custom_id: String,
    /// The path of the API, for example `/v1/chat/completions`.
    pub endpoint: Arc<str>,
    /// The model group that is to answer it.
    pub model: Arc<str>,
    /// The request's JSON text in OpenAI format; submitted byte for byte.
    pub body: Bytes,
    /// Everything else.
    pub options: JobOptions,
}

impl NewJob {
    fn identity(&self, simulated: bool) -> Identity {
        Identity::compute(&self.custom_id, &self.endpoint, &self.model, &self.body, self.options.sample, simulated)
    }
}

/// How a caller watches and stops a submission.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Stops the submission; what was recorded goes on.
    pub stop: CancellationToken,
    /// Hears how far the submission is.
    pub progress: watch::Sender<Submission>,
}

/// How far a submission is.
#[derive(Debug, Clone, Default)]
pub struct Submission {
    /// The batch, once it is open.
    pub batch: Option<BatchId>,
    /// Jobs recorded by this submission.
    pub recorded_now: u64,
    /// Jobs that were recorded before.
    pub already_there: u64,
    /// Which of the batch's jobs the input holds, once that is known.
    pub members: Option<Arc<Members>>,
    /// The server that it waits for, with what it says.
    pub waiting_for: Option<String>,
}

/// What a submission did.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The batch as it was opened.
    pub batch: Batch,
    /// Jobs recorded by this submission.
    pub recorded_now: u64,
    /// Jobs of the input that were recorded before.
    pub already_there: u64,
    /// Jobs recorded before that the input does not hold any more: their lines were changed or removed.
    pub changed: u64,
    /// The `custom_id`s of the first [`MOST_LISTED`] of these, in the order in which they were recorded.
    pub changed_ids: Vec<String>,
    /// Which of the batch's jobs the input holds.
    pub members: Arc<Members>,
}

impl Producer {
    /// Submits a stream of jobs as a batch and seals it; continues a batch of this name that exists.
    ///
    /// A job is already there if one of the same identity is recorded; it is not recorded again. Lost connections are
    /// waited for. Not cancel safe: stop it by `control.stop`, so that the batch is let go.
    ///
    /// # Errors
    ///
    /// [`Error::Name`]; [`Error::Interrupted`] after `control.stop`; what the input, the store or the broker refuse for good. What was
    /// recorded by then is run all the same, and submitting the same input again goes on behind it.
    pub async fn submit<S, E>(&self, spec: BatchSpec, jobs: S, control: &Control) -> Result<Submitted>
    where
        S: Stream<Item = std::result::Result<NewJob, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        spec.validate()?;
        let publisher = Publisher::new(self, control.stop.clone(), Some(control.progress.clone()))?;
        let new = self.new_batch(&spec);
        let batch = self.open(&new, control).await?;
        let id = batch.id;
        control.progress.send_modify(|progress| progress.batch = Some(id));
        let mut submitter = Submitter::new(self, control, new, batch, publisher);
        let jobs = pin!(jobs);
        let outcome = tokio::select! {
            outcome = submitter.run(jobs) => outcome,
            never = self.stay_alive(id) => match never {},
        };
        if outcome.is_err() {
            self.leave(id).await;
        }
        outcome
    }

    /// Finds out which of a batch's jobs a stream of jobs holds, as a submission of it would, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] after `control.stop`; what the input and the store refuse for good.
    pub async fn members<S, E>(&self, batch: &Batch, jobs: S, control: &Control) -> Result<Members>
    where
        S: Stream<Item = std::result::Result<NewJob, E>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut known = Known::new(batch);
        let mut jobs = pin!(jobs);
        while !known.is_passed() {
            let Some(job) = jobs.next().await else { break };
            let job = job.map_err(|error| Error::Input(error.into()))?;
            known.take(self, control, job.identity(batch.simulated)).await?;
        }
        Ok(known.members())
    }

    fn new_batch(&self, spec: &BatchSpec) -> NewBatch {
        let now = self.options.clock.now();
        NewBatch {
            id: BatchId::new(now),
            name: spec.name.clone(),
            project: spec.project.clone(),
            priority: spec.priority,
            simulated: spec.simulated,
            metadata: spec.metadata.clone(),
            tags: spec.tags.clone(),
            budget_pico_usd: spec.budget_pico_usd,
            producer: self.owner,
            created_at: now,
        }
    }

    /// Opens the batch; waits for the lease of a producer that died to run out.
    async fn open(&self, new: &NewBatch, control: &Control) -> Result<Batch> {
        let ttl = self.options.producer_ttl;
        let give_up = Instant::now() + ttl + 2 * BUSY_POLL;
        loop {
            let opened = self.patiently(control, || self.store().open_batch(new, ttl)).await?;
            match opened {
                Opened::Created(batch) if batch.simulated == new.simulated => {
                    control.progress.send_modify(|progress| progress.waiting_for = None);
                    return Ok(batch);
                }
                Opened::Resumed(batch) if batch.simulated == new.simulated => {
                    self.limit(batch.id, new, control).await?;
                    control.progress.send_modify(|progress| progress.waiting_for = None);
                    return Ok(batch);
                }
                Opened::Created(batch) | Opened::Resumed(batch) => {
                    let _ = self.store().leave(batch.id, self.owner).await;
                    return Err(Error::Simulated(batch.name));
                }
                Opened::Busy(batch) if Instant::now() >= give_up => return Err(Error::Busy(batch.name)),
                Opened::Busy(_) => {
                    let waiting = "another submission of this batch to end, or its lease to run out";
                    control.progress.send_modify(|progress| progress.waiting_for = Some(waiting.to_owned()));
                }
            }
            tokio::select! {
                () = control.stop.cancelled() => return Err(Error::Interrupted),
                () = tokio::time::sleep(BUSY_POLL) => {}
            }
        }
    }

    /// Sets the budget that a batch is continued with; without one, that which it has stays. Jobs that wait for it go on.
    async fn limit(&self, batch: BatchId, new: &NewBatch, control: &Control) -> Result<()> {
        let Some(limit) = new.budget_pico_usd else { return Ok(()) };
        let key = BudgetKey { scope: Scope::Batch(batch), period: Period::Total };
        let known = self.patiently(control, || self.store().budgets()).await?;
        let known = known.into_iter().find(|standing| standing.key == key).map(|standing| standing.terms);
        let terms = Terms { limit: PicoUsd(limit), ..known.unwrap_or_default() };
        self.patiently(control, || self.store().set_budget(&key, Some(&terms), "submit")).await?;
        while self.patiently(control, || self.store().wake_for_budget(&key, WAKE_AT_ONCE)).await? > 0 {}
        Ok(())
    }

    /// Renews the lease for as long as it is polled.
    async fn stay_alive(&self, batch: BatchId) -> std::convert::Infallible {
        let ttl = self.options.producer_ttl;
        loop {
            tokio::time::sleep(ttl / 4).await;
            // An unreachable store is waited for where chunks are recorded, which also tells whether the hold is lost.
            if let Err(error) = self.store().renew_producer(batch, self.owner, ttl).await {
                tracing::debug!(error = %error, "the producer's lease was not renewed");
            }
        }
    }

    /// Lets the batch go; if that fails, the lease runs out by itself.
    async fn leave(&self, batch: BatchId) {
        let leaving = self.store().leave(batch, self.owner);
        match tokio::time::timeout(Duration::from_secs(5), leaving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = %error, "the batch was not let go"),
            Err(_) => tracing::debug!("the batch was not let go in time"),
        }
    }

    /// Repeats a call of the store until it answers; tells the watcher what is waited for.
    pub(crate) async fn patiently<T, F, Fut>(&self, control: &Control, operation: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = store::Result<T>>,
    {
        patiently(&control.stop, Some(&control.progress), operation, store::Error::is_transient).await
    }
}

/// Repeats an operation until it succeeds or fails for good; tells the watcher what is waited for.
pub(crate) async fn patiently<T, E, F, Fut>(
    stop: &CancellationToken,
    progress: Option<&watch::Sender<Submission>>,
    operation: F,
    transient: impl Fn(&E) -> bool,
) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = std::result::Result<T, E>>,
    E: std::error::Error + 'static,
    Error: From<E>,
{
    let mut waited = false;
    let tell = |error: &E, failures: u32| {
        let text = with_causes(error);
        if failures == 1 {
            tracing::warn!(error = text, "the submission waits");
        }
        waited = true;
        if let Some(progress) = progress {
            progress.send_modify(|progress| progress.waiting_for = Some(text));
        }
    };
    let outcome = until_ok(Schedule::RECONNECT, stop, operation, transient, tell).await;
    if waited && let Some(progress) = progress {
        progress.send_modify(|progress| progress.waiting_for = None);
    }
    Ok(outcome.ok_or(Error::Interrupted)??)
}
