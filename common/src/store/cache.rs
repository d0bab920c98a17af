//! The response cache: what admission asks of it, what it answers, and what a settlement leaves in it.
//!
//! Owns the decision who is answered, who calls and who waits; the back ends read and write the rows. A row says which result has
//! the answer; one without says that the call of its job is under way. If a process dies, the live row of that job says who goes on
//! with the call, or that nobody does: such rows are cleared away by [`AnswerCache::prune_cache`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{Request, Result, Settlement};
use crate::cache::{Asked, CacheKey, CacheRules, CacheScope};
use crate::id::{BatchId, JobId};
use crate::outcome::{JobResult, Status, Usage};

/// How long a run waits for an equal one at most before it asks again; its end wakes it much sooner.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(300);
/// Why it waits, for people.
pub(super) const WAITS: &str = "waits for an equal request";
/// Bytes of answers in one admission; who is not among them asks again at once.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// How old the note of an answer's last use becomes before it is written again.
pub(super) const USED_EVERY: Duration = Duration::from_secs(600);
/// How old a row without an answer is before it is doubted.
pub(super) const DOUBTED_AFTER: Duration = Duration::from_secs(60);
/// Runs that one end wakes at most; the others are found by [`AnswerCache::prune_cache`].
pub(super) const MOST_WOKEN: i64 = 50_000;

/// How a run and the response cache belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caching {
    /// What is asked.
    pub key: CacheKey,
    /// The project of its batch, or nothing.
    pub project: Arc<str>,
    /// Whether its answer may be kept.
    pub keep: bool,
}

/// An answer that was kept.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedAnswer {
    /// The provider kind that gave it.
    pub provider: Option<Arc<str>>,
    /// The deployment that gave it.
    pub deployment: Option<Arc<str>>,
    /// The model that the provider says answered.
    pub served_model: Option<String>,
    /// Why the model stopped.
    pub finish_reason: Option<String>,
    /// The text of the answer.
    pub output_text: Option<String>,
    /// The response's JSON text.
    pub response: Bytes,
    /// Tokens of the call that gave it.
    pub usage: Usage,
    /// What that call cost in picodollars, if known.
    pub cost_pico_usd: Option<i64>,
}

/// How large the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheSize {
    /// Answers that are kept.
    pub answers: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Calls under way that others may wait for.
    pub open: u64,
}

/// The looking after of the response cache. A part of the store's seam; answers are read by
/// [`Store::admit`](super::Store::admit) and kept by [`Store::flush`](super::Store::flush).
#[async_trait]
pub trait AnswerCache: Send + Sync {
    /// Reads how much is kept: of a project, or of all.
    async fn cache_size(&self, project: Option<&str>) -> Result<CacheSize>;

    /// Deletes at most `limit` answers whose time is over, or that were not used for longest where all are too large together; and
    /// wakes who waits for a call that nobody makes. Returns how many rows it changed; call again while it returns `limit` or more.
    async fn prune_cache(&self, limit: u32) -> Result<u64>;

    /// Deletes at most `limit` answers: of a project, or of all. Returns how many.
    async fn clear_cache(&self, project: Option<&str>, limit: u32) -> Result<u64>;
}

/// What is known of a batch whose runs ask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) cancelled: bool,
    pub(super) project: Option<String>,
    pub(super) simulated: bool,
    pub(super) has_budget: bool,
}

/// A run that may ask the cache.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    pub(super) job: JobId,
    pub(super) run: u32,
    pub(super) caching: Caching,
    pub(super) reads: bool,
    /// Whether it waits for a call under way. Who waited for one that failed makes its own.
    pub(super) patient: bool,
    pub(super) deadline: Option<DateTime<Utc>>,
}

impl Ask {
    /// Returns what a run that was admitted asks; nothing if it may not be cached.
    pub(super) fn of(
        (job, run): (JobId, u32),
        group: &str,
        request: &Request,
        standing: &Standing,
        patient: bool,
        scope: CacheScope,
    ) -> Option<Self> {
        let Request { endpoint, body, options, .. } = request;
        if options.cache.is_off() {
            return None;
        }
        let project = standing.project.as_deref();
        let asked = Asked { project, simulated: standing.simulated, endpoint, group, body, options };
        let caching = Caching {
            key: asked.key(scope)?,
            project: project.unwrap_or_default().into(),
            keep: options.cache.writes(),
        };
        Some(Self { job, run, caching, reads: options.cache.reads(), patient, deadline: options.deadline })
    }
}

/// What stands under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Whose call it is or was.
    pub(super) job: JobId,
    /// Whether the call is under way.
    pub(super) open: bool,
    pub(super) expired: bool,
    /// Whether its last use is to be noted again.
    pub(super) stale: bool,
    pub(super) bytes: u64,
}

impl Found {
    pub(super) const fn claimed(job: JobId) -> Self {
        Self { job, open: true, expired: false, stale: false, bytes: 0 }
    }
}

/// What becomes of a run that asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    /// It was put to wait.
    Wait,
    /// It is answered.
    Answer(Box<CachedAnswer>),
}

/// Returns who is to claim each key under which nothing stands that counts, in order of key.
pub(super) fn claims<'a>(asks: &'a [Ask], found: &HashMap<CacheKey, Found>) -> BTreeMap<CacheKey, &'a Ask> {
    let mut claims: BTreeMap<CacheKey, &Ask> = BTreeMap::new();
    for ask in asks.iter().filter(|ask| ask.reads && ask.caching.keep) {
        if found.get(&ask.caching.key).is_none_or(|found| !found.open && found.expired) {
            let first = claims.entry(ask.caching.key).or_insert(ask);
            if ask.job < first.job {
                *first = ask;
            }
        }
    }
    claims
}

/// Who is answered, who waits for whom, and what is to be read and noted for it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan<'a> {
    /// The keys of answers to read, in order.
    pub(super) read: Vec<CacheKey>,
    /// Those of them whose use is to be noted.
    pub(super) used: Vec<CacheKey>,
    pub(super) answered: Vec<&'a Ask>,
    /// Runs that wait for a job, or that ask again at once.
    pub(super) waiting: Vec<(&'a Ask, Option<JobId>)>,
}

/// Decides for all, by what stands under their keys now.
pub(super) fn plan<'a>(asks: &'a [Ask], found: &HashMap<CacheKey, Found>) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut reads: BTreeMap<CacheKey, bool> = BTreeMap::new();
    let mut bytes = 0;
    for ask in asks.iter().filter(|ask| ask.reads) {
        let key = ask.caching.key;
        match found.get(&key) {
            // Its call ended just now without an answer; whoever claims the key next is to be found.
            None if ask.caching.keep => plan.waiting.push((ask, None)),
            None => {}
            Some(found) if found.open && (found.job == ask.job || !ask.patient) => {}
            Some(found) if found.open => plan.waiting.push((ask, Some(found.job))),
            Some(found) if found.expired => {}
            Some(found) => {
                let fits = *reads.entry(key).or_insert_with(|| {
                    let fits = bytes == 0 || bytes + found.bytes <= MOST_BYTES;
                    bytes += if fits { found.bytes.max(1) } else { 0 };
                    fits
                });
                if fits {
                    plan.answered.push(ask);
                } else {
                    plan.waiting.push((ask, None));
                }
            }
        }
    }
    plan.read = reads.into_iter().filter(|(_, fits)| *fits).map(|(key, _)| key).collect();
    plan.used = plan.read.iter().copied().filter(|key| found.get(key).is_some_and(|found| found.stale)).collect();
    plan
}

/// What settlements leave in the cache.
#[derive(Debug, Default)]
pub(super) struct Left<'a> {
    /// Answers to keep, one for each key, in order of key.
    pub(super) answers: BTreeMap<CacheKey, (&'a Settlement, &'a JobResult)>,
    /// Jobs that end without one, with what they asked.
    pub(super) without: Vec<(CacheKey, JobId)>,
    /// All of these jobs, each with whether those who wait for it are to call by themselves.
    pub(super) ended: Vec<(JobId, bool)>,
}

impl<'a> Left<'a> {
    /// Collects it from runs that have ended.
    pub(super) fn of(results: &[(&'a Settlement, &'a JobResult)], rules: CacheRules) -> Self {
        let mut left = Self::default();
        for (settlement, result) in results {
            let Some(caching) = &settlement.caching else { continue };
            if result.cached {
                continue;
            }
            let job = settlement.job.id;
            let fits = settlement.weight() <= rules.max_answer_bytes;
            let answered = result.status == Status::Succeeded && result.response.is_some();
            if answered && fits && caching.keep {
                left.answers.insert(caching.key, (settlement, result));
            } else {
                left.without.push((caching.key, job));
            }
            left.ended.push((job, is_in_vain(result.status) || (answered && !(fits && caching.keep))));
        }
        left
    }

    /// Tells whether there is nothing to do.
    pub(super) fn is_nothing(&self) -> bool {
        self.ended.is_empty()
    }
}

/// Tells whether those who waited for a run that ended so are to call by themselves: what failed once may fail each time, and one
/// after the other would take for ever.
pub(super) fn is_in_vain(status: Status) -> bool {
    status == Status::Failed
}

/// Returns what the call that answered cost.
pub(super) fn cost_of_answer(settlement: &Settlement) -> Option<i64> {
    settlement.attempts.iter().rev().find(|attempt| attempt.error.is_none())?.cost_pico_usd
}

/// What is known of the batches of an admission.
pub(super) type Standings = HashMap<BatchId, Standing>;
