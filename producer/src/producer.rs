use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use gristmill_common::backend::Backend;
use gristmill_common::batch::Batch;
use gristmill_common::broker::Broker;
use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::config::nearest;
use gristmill_common::id::{BatchId, JobId, OwnerId};
use gristmill_common::outcome;
use gristmill_common::store::{
    BatchSelector, Cursor, DeploymentReport, ErrorCount, Page, Progress, Store, UsageScope, Wait,
};
use gristmill_common::trace::Tracer;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::pace::ModelPace;
use crate::submit::Members;
use crate::submit::publish::Publisher;
use crate::subscribe::Subscription;

/// Runs that one transaction reopens when a batch is retried.
const RETRY_CHUNK: u32 = 1_000;
/// Ended jobs of one read, where only some of them are reopened: each read looks through the batch.
const RETRY_PAGE: u32 = 20_000;
/// Jobs that one transaction looks at when a batch is repaired.
const REPAIR_CHUNK: u32 = 1_000;
/// Kinds of waiting that a status tells.
const SHOWN_WAITS: usize = 5;
/// Kinds of waiting that are counted.
const MOST_WAITS: u32 = 100;
/// Jobs that a status looks at, at each of a few places of the batch, to find the models that open jobs ask for.
const OPEN_SAMPLE: u32 = 1_000;
/// Batches among which a near name is looked for.
const NEAR_BATCHES: u32 = 500;

/// What a producer is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where jobs are recorded and results are read.
    pub store: Arc<dyn Store>,
    /// Where messages go; a producer that only reads needs none.
    pub broker: Option<Arc<dyn Broker>>,
    /// The time of new batches.
    pub clock: Arc<dyn Clock>,
    /// Small jobs of priority standard and bulk in one message at most. Default 10.
    pub jobs_per_message: usize,
    /// How long the process may be silent before others finish its submission. Default 30 s.
    pub producer_ttl: Duration,
    /// Where traces go. Default: nowhere.
    pub tracer: Tracer,
}

impl Options {
    /// Makes options with all defaults.
    pub fn new(store: Arc<dyn Store>, broker: Option<Arc<dyn Broker>>) -> Self {
        Self {
            store,
            broker,
            clock: Arc::new(SystemClock),
            jobs_per_message: 10,
            producer_ttl: Duration::from_secs(30),
            tracer: Tracer::default(),
        }
    }
}

/// Submits jobs, reads results and steers batches. Cheap to clone.
#[derive(Clone)]
pub struct Producer {
    pub(crate) options: Arc<Options>,
    pub(crate) owner: OwnerId,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// How a batch stands.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The batch with its counters.
    #[serde(flatten)]
    pub batch: Batch,
    /// Results that the response cache gave.
    pub cached: u64,
    /// Jobs held by a worker now.
    pub held: u64,
    /// Jobs waiting for their time.
    pub waiting: u64,
    /// Failed results by class, most frequent first.
    #[serde(serialize_with = "errors_as_json")]
    pub errors: Vec<ErrorCount>,
    /// Deployments that live workers report as paused.
    #[serde(serialize_with = "paused_as_json")]
    pub paused: Vec<DeploymentReport>,
    /// What the jobs that nobody holds wait for, the most first.
    #[serde(serialize_with = "waits_as_json")]
    pub waits: Vec<Wait>,
    /// Models that open jobs ask for and no live worker serves, as far as a sample of the jobs shows.
    pub unserved: Vec<Unserved>,
    /// Workers that are alive.
    pub workers: usize,
    /// Calls that they have in flight, for any batch, as they told last.
    pub in_flight: u64,
    /// How its models go, those that have open jobs.
    pub models: Vec<ModelPace>,
    /// Seconds that what is left takes at the pace of the last minute, or as the limits allow.
    pub eta_s: Option<u64>,
}

/// Returns how long what is left of a batch takes, as far as its models' pace of the last minute tells.
fn eta_s(batch: &Batch, models: &[ModelPace]) -> Option<u64> {
    let calls_per_job = batch.calls_per_job();
    let jobs_per_s = ModelPace::sum(models, |pace| pace.calls_per_s) / calls_per_job;
    ModelPace::to_go(models, batch.open(), calls_per_job, jobs_per_s).map(|left| left.as_secs())
}

/// A model that no live worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unserved {
    /// The model, as the requests name it.
    pub model: String,
    /// The one that looks most like it among those that are served.
    pub near: Option<String>,
}

fn errors_as_json<S: serde::Serializer>(errors: &[ErrorCount], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(
        errors
            .iter()
            .map(|error| serde_json::json!({ "class": error.class, "count": error.count, "example": error.example })),
    )
}

fn paused_as_json<S: serde::Serializer>(
    paused: &[DeploymentReport],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(paused.iter().map(|report| {
        serde_json::json!({
            "deployment": report.deployment, "model": report.group, "reason": report.paused, "class": report.class,
        })
    }))
}

fn waits_as_json<S: serde::Serializer>(waits: &[Wait], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(waits.iter().map(|wait| {
        serde_json::json!({ "model": wait.group, "reason": wait.reason, "jobs": wait.jobs, "until": wait.until })
    }))
}

/// What [`Producer::repair`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Repaired {
    /// Runs without a holder that were made due again.
    pub requeued: u64,
    /// Recorded jobs that were published again.
    pub published: u64,
}

impl Producer {
    /// Makes a producer; its identity is new with each call.
    pub fn connect(options: Options) -> Self {
        let owner = OwnerId::new(options.clock.now());
        Self { options: Arc::new(options), owner }
    }

    /// Makes a producer on a back end that is open, with all defaults.
    pub fn on(backend: &Backend) -> Self {
        let options = Options::new(Arc::clone(&backend.store), backend.broker.clone());
        Self::connect(Options { clock: Arc::clone(&backend.clock), tracer: backend.tracer.clone(), ..options })
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.options.store
    }

    /// Reads how a batch stands.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownBatch`], and what the store says.
    pub async fn status(&self, selector: &BatchSelector) -> Result<Status> {
        let batch = self.batch(selector).await?;
        let store = self.store();
        let progress = store.progress(batch.id).await?;
        let errors = store.errors(batch.id, 5).await?;
        let paused = store.paused_deployments().await?;
        let mut workers = store.workers().await?;
        workers.retain(|worker| worker.alive);
        let in_flight = workers.iter().map(|worker| u64::from(worker.in_flight)).sum();
        let (mut waits, mut unserved, mut models) = (Vec::new(), Vec::new(), Vec::new());
        if !batch.state.is_ended() {
            waits = store.waits(batch.id, MOST_WAITS).await?;
            models = ModelPace::of_batch(&[], &progress, &waits, &store.standings().await?);
            waits.truncate(SHOWN_WAITS);
            let served: BTreeSet<&str> =
                workers.iter().flat_map(|worker| worker.info.groups.iter().map(String::as_str)).collect();
            if !served.is_empty() {
                unserved = self.unserved(&batch, &waits, &served).await?;
            }
        }
        let eta_s = if batch.state.is_ended() { None } else { eta_s(&batch, &models) };
        let Progress { held, waiting, .. } = progress;
        let workers = workers.len();
        let cached = self.cached(batch.id).await?;
        Ok(Status { batch, cached, held, waiting, errors, paused, waits, unserved, workers, in_flight, models, eta_s })
    }

    /// Counts the results of a batch that the response cache gave.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn cached(&self, batch: BatchId) -> Result<u64> {
        let scope = UsageScope { batch: Some(batch), ..UsageScope::default() };
        let parts = self.store().usage(&scope, &[]).await?;
        Ok(parts.iter().map(|part| part.sums.cached.unsigned_abs()).sum())
    }

    /// Looks for open jobs at the front of the batch, where its work stands, and at its end.
    async fn unserved(&self, batch: &Batch, waits: &[Wait], served: &BTreeSet<&str>) -> Result<Vec<Unserved>> {
        let mut asked: BTreeSet<String> = waits.iter().map(|wait| wait.group.clone()).collect();
        for first in [0, batch.counters.done(), batch.recorded.saturating_sub(u64::from(OPEN_SAMPLE))] {
            let before = first.checked_sub(1).and_then(|ordinal| u32::try_from(ordinal).ok());
            let after = before.map(|ordinal| JobId::derive(batch.id, ordinal));
            let (open, _) = self.store().unfinished(batch.id, after, OPEN_SAMPLE).await?;
            asked.extend(open.iter().map(|job| job.lane.group.to_string()));
        }
        let unserved =
            |model: String| Unserved { near: nearest(&model, served.iter().copied()).map(str::to_owned), model };
        Ok(asked.into_iter().filter(|model| !served.contains(model.as_str())).map(unserved).collect())
    }

    /// Finds a batch.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownBatch`] with names that look like the one asked for; [`Error::NoBatches`].
    pub async fn batch(&self, selector: &BatchSelector) -> Result<Batch> {
        if let Some(batch) = self.store().batch(selector).await? {
            return Ok(batch);
        }
        // What looks like the beginning of an id may be a name, and the other way round.
        let (text, other) = match selector {
            BatchSelector::Id(id) => (id.to_string(), None),
            BatchSelector::Name(name) => (name.clone(), id_prefix(name).map(BatchSelector::IdPrefix)),
            BatchSelector::IdPrefix(prefix) => (prefix.clone(), Some(BatchSelector::Name(prefix.clone()))),
            BatchSelector::Last => ("@last".to_owned(), None),
        };
        if let Some(other) = other
            && let Some(batch) = self.store().batch(&other).await?
        {
            return Ok(batch);
        }
        let batches = self.store().batches(NEAR_BATCHES).await?;
        if batches.is_empty() {
            return Err(Error::NoBatches);
        }
        let names = batches.into_iter().map(|batch| batch.name);
        Err(Error::UnknownBatch { near: near(&text, names), selector: text })
    }

    /// Reads how people name a batch: `@last`, an id, a name, or the beginning of an id.
    pub fn selector(text: &str) -> BatchSelector {
        if text == "@last" {
            return BatchSelector::Last;
        }
        text.parse::<BatchId>().map_or_else(|_| BatchSelector::Name(text.to_owned()), BatchSelector::Id)
    }

    /// Reads one page of results; go on at the page's cursor.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn results(&self, batch: BatchId, cursor: Cursor, limit: u32) -> Result<Page> {
        Ok(self.store().results_after(batch, cursor, limit).await?)
    }

    /// Follows a batch's results from a cursor to the end of the batch.
    ///
    /// Outlasts an unreachable store; ends early when `stop` fires.
    pub fn subscribe(&self, batch: BatchId, from: Cursor, stop: CancellationToken) -> Subscription {
        Subscription::new(Arc::clone(&self.options.store), batch, from, stop)
    }

    /// Asks to cancel a batch: no further call starts. Returns whether it was open.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn cancel(&self, batch: BatchId) -> Result<bool> {
        Ok(self.store().cancel(batch).await?)
    }

    /// Opens a new run for every job whose latest run ended with one of `statuses`; returns how many.
    ///
    /// # Errors
    ///
    /// What the store says; runs opened by then stay open, and calling again goes on.
    pub async fn retry(&self, batch: BatchId, statuses: &[outcome::Status]) -> Result<u64> {
        let (mut total, mut next) = (0, Some(Cursor::default()));
        while let Some(after) = next {
            let opened;
            (opened, next) = self.store().retry(batch, statuses, after, RETRY_CHUNK).await?;
            total += opened;
        }
        Ok(total)
    }

    /// Opens a new run for every job among `members` whose latest run ended with one of `statuses`; returns how many.
    ///
    /// # Errors
    ///
    /// As [`Self::retry`].
    pub async fn retry_members(&self, batch: BatchId, statuses: &[outcome::Status], members: &Members) -> Result<u64> {
        let (mut total, mut after) = (0, None);
        loop {
            let ended = self.store().jobs(batch, Some(statuses), after, RETRY_PAGE).await?;
            let Some(last) = ended.last() else { return Ok(total) };
            after = Some(last.id);
            let jobs: Vec<JobId> = ended.iter().map(|job| job.id).filter(|job| members.contains(*job)).collect();
            for jobs in jobs.chunks(RETRY_CHUNK as usize) {
                total += self.store().retry_jobs(batch, statuses, jobs).await?;
            }
        }
    }

    /// Publishes again what has no result and nobody holds, after a broker lost its messages.
    ///
    /// Copies of messages that are still there do no harm.
    ///
    /// # Errors
    ///
    /// [`Error::NoBroker`], and what the store and the broker say; calling again starts over.
    pub async fn repair(&self, batch: BatchId) -> Result<Repaired> {
        let stop = CancellationToken::new();
        let requeued = self.store().requeue(batch).await?;
        let publisher = Publisher::new(self, stop, None)?;
        let published = publisher.unfinished(batch, None, REPAIR_CHUNK).await?;
        Ok(Repaired { requeued, published })
    }
}

/// Returns the text as the beginning of an id, if it can be one.
fn id_prefix(text: &str) -> Option<String> {
    let fits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (text.len() >= 4 && text.len() <= 36 && fits(text)).then(|| text.to_ascii_lowercase())
}

/// Picks at most three names that look like `text`.
fn near(text: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let names: Vec<String> = names.collect();
    let wanted = text.to_lowercase();
    let begins = names.iter().filter(|name| name.to_lowercase().starts_with(&wanted)).map(String::as_str);
    let mut near: Vec<&str> = nearest(text, names.iter().map(String::as_str)).into_iter().chain(begins).collect();
    let mut seen = BTreeSet::new();
    near.retain(|name| seen.insert(*name));
    near.truncate(3);
    near.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let names = || ["sweep-7", "sweep-70", "evals", "Sweep-8"].map(str::to_owned).into_iter();
        assert_eq!(near("swep-7", names()), ["sweep-7"]);
        assert_eq!(near("sweep", names()), ["sweep-7", "sweep-70", "Sweep-8"]);
        assert_eq!(near("nothing-like-it", names()), Vec::<String>::new());
    }

    #[test]
    fn texts_name_batches() {
        assert_eq!(Producer::selector("@last"), BatchSelector::Last);
        assert_eq!(Producer::selector("beef"), BatchSelector::Name("beef".into()));
        assert_eq!(id_prefix("BEEF"), Some("beef".into()));
        assert_eq!(id_prefix("bee"), None);
        assert_eq!(id_prefix("beefy"), None);
        let id = BatchId::new(SystemClock.now());
        assert_eq!(Producer::selector(&id.to_string()), BatchSelector::Id(id));
    }
}
