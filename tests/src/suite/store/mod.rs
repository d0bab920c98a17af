//! The behaviour of a [`Store`], one function a behaviour; [`store_suite!`](crate::store_suite) makes tests of all of them.
//!
//! Every test has a database of its own, seen through two handles as two processes have them. Nothing here knows which
//! database it is: leases are short and are waited for by polling, since a store measures them on its own clock.
#![expect(clippy::unwrap_used, reason = "a suite of tests: what fails must panic")]

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gristmill_common::batch::{Batch, NewBatch};
use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, JobId, OwnerId};
use gristmill_common::job::{Job, JobOptions, JobRef, LaneKey, Priority};
use gristmill_common::outcome::{AttemptRecord, CostBasis, JobResult, ResultRow, Status, Usage};
use gristmill_common::store::{
    Arrival, BatchSelector, Chunk, Cursor, End, Opened, Recorded, Request, Settlement, Store, Ticket, Verdict, Wake,
    WorkerInfo,
};

pub mod admission;
pub mod adoption;
pub mod asking;
pub mod booking;
pub mod budgeting;
pub mod caching;
pub mod cancelling;
pub mod closing;
pub mod flushing;
pub mod keeping;
pub mod letters;
pub mod limiting;
mod list;
pub mod looking;
pub mod producing;
pub mod random;
pub mod reading;
pub mod retrying;
pub mod values;
pub mod waiting;
pub mod working;

/// Longer than any test takes.
pub const LONG: Duration = Duration::from_secs(600);
/// A lease that ends within a test.
pub const SHORT: Duration = Duration::from_millis(60);
/// A time that a test waits for, and that several calls on a slow machine still come before.
pub const SOON: Duration = Duration::from_secs(5);

/// An empty database of the current schema.
pub struct Lab {
    /// One handle.
    pub store: Arc<dyn Store>,
    /// Another handle on the same database, as a second process has.
    pub other: Arc<dyn Store>,
    /// A handle with the rights of the schema's owner, who alone deletes.
    pub owner: Arc<dyn Store>,
    /// A handle that keeps answers for a short time, small ones, and few of them; see [`caching::BRIEF`].
    pub brief: Arc<dyn Store>,
    /// What lives as long as the database.
    pub guard: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("store", &self.store).finish_non_exhaustive()
    }
}

/// A sealed batch of recorded jobs.
#[derive(Debug)]
pub struct Submitted {
    pub id: BatchId,
    pub jobs: Vec<Job>,
}

impl Submitted {
    pub fn refs(&self) -> Vec<JobRef> {
        self.jobs.iter().map(|job| reference(job, 1)).collect()
    }
}

pub fn now() -> DateTime<Utc> {
    // Whole milliseconds: the coarsest that a store keeps.
    DateTime::from_timestamp_millis(SystemClock.now().timestamp_millis()).unwrap()
}

pub fn owner() -> OwnerId {
    OwnerId::new(now())
}

pub fn lane() -> LaneKey {
    LaneKey { group: "gpt-4o".into(), priority: Priority::Standard, lane: 2 }
}

pub fn new_batch(name: &str, producer: OwnerId) -> NewBatch {
    NewBatch {
        id: BatchId::new(now()),
        name: name.to_owned(),
        project: Some("suite".to_owned()),
        priority: Priority::Standard,
        simulated: false,
        metadata: Some(serde_json::json!({"purpose": "conformance"})),
        tags: BTreeMap::from([("team".to_owned(), "store".to_owned())]),
        budget_pico_usd: Some(5_000_000_000_000),
        producer,
        created_at: now(),
    }
}

pub fn job(batch: BatchId, ordinal: u32) -> Job {
    Job {
        id: JobId::derive(batch, ordinal),
        batch,
        custom_id: format!("line-{ordinal}"),
        endpoint: "/v1/chat/completions".to_owned(),
        lane: lane(),
        body: Bytes::from(format!(r#"{{"model":"gpt-4o","n":{ordinal}}}"#)),
        options: JobOptions::default(),
    }
}

pub fn jobs(batch: BatchId, ordinals: std::ops::Range<u32>) -> Vec<Job> {
    ordinals.map(|ordinal| job(batch, ordinal)).collect()
}

pub fn chunk(producer: OwnerId, jobs: &[Job], first_ordinal: u64) -> Chunk<'_> {
    let batch = jobs.first().map_or_else(|| BatchId::new(now()), |job| job.batch);
    Chunk { batch, producer, producer_ttl: LONG, jobs, first_ordinal, published_through: 0, simulated: false }
}

pub fn reference(job: &Job, run: u32) -> JobRef {
    JobRef { id: job.id, batch: job.batch, run, lane: job.lane.clone() }
}

pub fn request(job: &Job) -> Request {
    Request {
        custom_id: job.custom_id.clone(),
        endpoint: job.endpoint.clone(),
        body: job.body.clone(),
        options: job.options.clone(),
    }
}

/// What a message of a recorded job brings that refers to its request.
pub fn arrival(job: &Job) -> Arrival {
    Arrival { job: reference(job, 1), request: None, recorded: true }
}

pub fn arrivals(jobs: &[Job]) -> Vec<Arrival> {
    jobs.iter().map(arrival).collect()
}

/// What a message brings whose sender did not record the job.
pub fn stranger(job: &Job) -> Arrival {
    Arrival { job: reference(job, 1), request: Some(request(job)), recorded: false }
}

pub fn attempt(number: u32) -> AttemptRecord {
    AttemptRecord {
        attempt: number,
        provider: "openai".into(),
        deployment: "gpt-4o-eu".into(),
        model: "gpt-4o-2024-11-20".into(),
        served_model: None,
        service_tier: None,
        started_at: now(),
        ttft_ms: None,
        latency_ms: 12,
        http_status: Some(200),
        counted: true,
        usage: Usage { input_tokens: Some(100), output_tokens: Some(10), ..Usage::default() },
        cost_pico_usd: Some(1_500_000),
        cost_basis: CostBasis::Reported,
        bound_pico_usd: None,
        price_ref: None,
        billed: None,
        request_id: None,
        error: None,
    }
}

pub fn success(text: &str) -> JobResult {
    JobResult {
        status: Status::Succeeded,
        provider: Some("openai".into()),
        deployment: Some("gpt-4o-eu".into()),
        served_model: Some("gpt-4o-2024-11-20".to_owned()),
        finish_reason: Some("stop".to_owned()),
        output_text: Some(text.to_owned()),
        response: Some(Bytes::from(serde_json::json!({"text": text}).to_string())),
        usage: Usage { input_tokens: Some(100), output_tokens: Some(10), ..Usage::default() },
        cost_pico_usd: Some(1_500_000),
        cached: false,
        saved_pico_usd: None,
        attempts: 1,
        queued_at: Some(now()),
        started_at: Some(now()),
        finished_at: now(),
        ttft_ms: Some(3),
        latency_ms: Some(12),
        request_id: Some("req-1".to_owned()),
        error: None,
    }
}

pub fn ended(status: Status, class: ErrorClass, message: &str) -> JobResult {
    JobResult::without_answer(status, ErrorRecord::new(class, message), 1, now())
}

pub fn failure(message: &str) -> JobResult {
    ended(Status::Failed, ErrorClass::BadRequest, message)
}

/// A run that ends after one call.
pub fn settle(job: &JobRef, result: JobResult) -> Settlement {
    Settlement {
        job: job.clone(),
        tags: Arc::default(),
        spends: None,
        attempts: vec![attempt(1)],
        caching: None,
        end: End::Result(Box::new(result)),
    }
}

/// A run that comes back after one call.
pub fn wake(job: &JobRef, after: Duration) -> Settlement {
    let wake = Wake {
        after,
        reason: "retry".to_owned(),
        calls: 1,
        attempts: 1,
        faults: 0,
        earlier: Vec::new(),
        spent_pico_usd: None,
    };
    Settlement {
        job: job.clone(),
        tags: Arc::default(),
        spends: None,
        attempts: vec![attempt(1)],
        caching: None,
        end: End::Wake(wake),
    }
}

pub fn ticket(verdict: &Verdict) -> &Ticket {
    match verdict {
        Verdict::Run(ticket) => ticket,
        other => panic!("expected a run, got {other:?}"),
    }
}

impl Lab {
    /// Opens a batch, records `count` jobs and says that they are published; it stays open.
    pub async fn recorded(&self, name: &str, producer: OwnerId, count: u32) -> Submitted {
        let new = new_batch(name, producer);
        let Opened::Created(batch) = self.store.open_batch(&new, LONG).await.unwrap() else { panic!("must be new") };
        let jobs = jobs(batch.id, 0..count);
        if !jobs.is_empty() {
            let chunk = Chunk { published_through: u64::from(count), ..chunk(producer, &jobs, 0) };
            assert_eq!(self.store.record(chunk).await.unwrap(), Recorded::Committed);
        }
        Submitted { id: batch.id, jobs }
    }

    /// Submits a whole batch.
    pub async fn submitted(&self, name: &str, count: u32) -> Submitted {
        let producer = owner();
        let submitted = self.recorded(name, producer, count).await;
        self.store.seal(submitted.id, producer).await.unwrap();
        submitted
    }

    /// Submits a whole batch of jobs that `edit` changed.
    pub async fn submitted_with(&self, name: &str, count: u32, edit: impl Fn(u32, &mut Job)) -> Submitted {
        let producer = owner();
        let id = self.recorded(name, producer, 0).await.id;
        let mut jobs = jobs(id, 0..count);
        for (ordinal, job) in (0..).zip(&mut jobs) {
            edit(ordinal, job);
        }
        assert_eq!(self.store.record(chunk(producer, &jobs, 0)).await.unwrap(), Recorded::Committed);
        self.store.seal(id, producer).await.unwrap();
        Submitted { id, jobs }
    }

    /// Opens new runs from the first job on, at most `limit`; returns how many.
    pub async fn retried(&self, batch: BatchId, statuses: &[Status], limit: u32) -> u64 {
        self.store.retry(batch, statuses, Cursor::default(), limit).await.unwrap().0
    }

    /// Registers a worker.
    pub async fn worker(&self, ttl: Duration) -> OwnerId {
        let owner = owner();
        self.store.register(&worker_info(owner), ttl).await.unwrap();
        owner
    }

    /// Admits jobs that must all run, and returns their references with the current run.
    pub async fn admitted(&self, owner: OwnerId, jobs: &[Job]) -> Vec<JobRef> {
        let verdicts = self.store.admit(owner, arrivals(jobs)).await.unwrap();
        verdicts.iter().map(|verdict| ticket(verdict).job.clone()).collect()
    }

    /// Admits and ends jobs.
    pub async fn ended(&self, owner: OwnerId, jobs: &[Job], result: &JobResult) {
        let held = self.admitted(owner, jobs).await;
        let settlements: Vec<_> = held.iter().map(|job| settle(job, result.clone())).collect();
        assert_eq!(self.store.flush(owner, &settlements).await.unwrap().lost, 0);
    }

    pub async fn batch(&self, id: BatchId) -> Batch {
        self.other.batch(&BatchSelector::Id(id)).await.unwrap().expect("the batch exists")
    }

    /// Reads all of a batch's rows, which must be `count`.
    pub async fn rows(&self, batch: BatchId, count: usize) -> Vec<ResultRow> {
        let rows = eventually("the rows are there", || async {
            let rows = self.everything(batch).await;
            (rows.len() >= count).then_some(rows)
        })
        .await;
        assert_eq!(rows.len(), count, "no row too many");
        rows
    }

    pub async fn everything(&self, batch: BatchId) -> Vec<ResultRow> {
        let mut rows = Vec::new();
        let mut cursor = Cursor::default();
        loop {
            let page = self.other.results_after(batch, cursor, 100).await.unwrap();
            let held_back = page.more && page.rows.is_empty();
            rows.extend(page.rows);
            cursor = page.cursor;
            if !page.more {
                return rows;
            }
            if held_back {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Waits until an owner's lease has ended and buries it; returns how many runs were returned and poisoned.
    pub async fn buried(&self, max_deaths: u32) -> (u64, u64) {
        eventually("an owner is declared dead", || async {
            let burial = self.store.bury(max_deaths, 1000).await.unwrap();
            (burial.owners > 0).then_some((burial.returned, burial.poisoned))
        })
        .await
    }

    /// Waits until a job is due, and takes it out of the waiting.
    pub async fn due(&self, count: usize) -> Vec<JobRef> {
        let due = eventually("jobs are due", || async {
            let due = self.store.due(1000).await.unwrap();
            (due.len() >= count).then_some(due)
        })
        .await;
        assert_eq!(due.len(), count);
        self.store.mark_queued(&due).await.unwrap();
        due.into_iter().map(|due| due.job).collect()
    }
}

pub fn worker_info(owner: OwnerId) -> WorkerInfo {
    WorkerInfo {
        owner,
        host: "mill".to_owned(),
        pid: 4711,
        version: "0.1.0".to_owned(),
        groups: vec!["gpt-4o".to_owned(), "claude/opus".to_owned()],
        concurrency: 64,
    }
}

/// Asks until there is an answer; fails after two minutes.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "not within two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
