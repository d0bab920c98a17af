//! What workers hand to the store and hear from it: admission, settlement, leases.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{CachedAnswer, Caching, Spends};
use crate::id::{BatchId, OwnerId};
use crate::job::JobRef;
use crate::outcome::{AttemptRecord, JobResult};

/// A job that a message brought, as admission needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// The job, run and queue.
    pub job: JobRef,
    /// The request, where the message carries it; else admission reads the recorded row.
    pub request: Option<Request>,
    /// Whether its producer says that the request row is recorded. If not, admission adopts the job.
    pub recorded: bool,
}

/// What a call needs of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The user's name for the job.
    pub custom_id: String,
    /// The path of the API.
    pub endpoint: String,
    /// The request's JSON text.
    pub body: Bytes,
    /// Everything else.
    pub options: crate::job::JobOptions,
}

/// What a live row says of a run that was admitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    /// The job, with the run that is current.
    pub job: JobRef,
    /// The request.
    pub request: Request,
    /// Calls made so far in this run, refusals included.
    pub calls: u32,
    /// Calls that count against the retries.
    pub attempts: u32,
    /// Faults of deployments that the job met so far.
    pub faults: u32,
    /// Owners that died on it so far; if any, [`Store::calling`](super::Store::calling) must be told before a call.
    pub deaths: u32,
    /// When the run was first admitted.
    pub queued_at: DateTime<Utc>,
    /// The run's earlier failed calls, newest last, at most eight; JSON of [`crate::failure::EarlierAttempt`]s.
    pub earlier: Vec<crate::failure::EarlierAttempt>,
    /// What the run's calls have cost so far in picodollars, as far as it is known.
    pub spent_pico_usd: Option<i64>,
    /// The project of its batch.
    pub project: Option<Arc<str>>,
    /// Whether its batch has a budget.
    pub has_budget: bool,
    /// What the response cache is to keep of it, if anything.
    pub caching: Option<Caching>,
}

/// What admission decides for one arrival.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// This owner holds it now: run it.
    Run(Box<Ticket>),
    /// This owner holds it now, but its batch was cancelled: end it as cancelled.
    Cancelled(Box<Ticket>),
    /// This owner holds it now, but its deadline has passed: end it as expired.
    Expired(Box<Ticket>),
    /// This owner holds it now, and the response cache has its answer: end it with that.
    Cached(Box<Ticket>, Box<CachedAnswer>),
    /// It has ended; drop the message.
    Done,
    /// Another owner holds it; drop the message.
    Held,
    /// It waits for its time, or for an equal request; drop the message, the keeper publishes it when due.
    Waiting,
    /// Its batch or request is not known, and the message carries too little to adopt it; it is a dead letter.
    Unknown,
}

impl Verdict {
    /// Returns the run, where this owner holds it now.
    pub fn ticket(&self) -> Option<&Ticket> {
        match self {
            Self::Run(ticket) | Self::Cancelled(ticket) | Self::Expired(ticket) | Self::Cached(ticket, _) => {
                Some(ticket)
            }
            Self::Done | Self::Held | Self::Waiting | Self::Unknown => None,
        }
    }
}

/// What a worker hands over for one held run.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The job and run.
    pub job: JobRef,
    /// The job's own tags as a JSON object, as statistics keep them; empty where it has none.
    pub tags: Arc<str>,
    /// What its calls are taken off, where budgets limit them.
    pub spends: Option<Spends>,
    /// Calls made since the last settlement.
    pub attempts: Vec<AttemptRecord>,
    /// What the response cache is to keep of it, as the ticket says.
    pub caching: Option<Caching>,
    /// What becomes of the run.
    pub end: End,
}

impl Settlement {
    /// Returns the bytes of its answer.
    pub fn weight(&self) -> usize {
        match &self.end {
            End::Result(result) => {
                result.response.as_ref().map_or(0, Bytes::len) + result.output_text.as_ref().map_or(0, String::len)
            }
            End::Wake(_) => 0,
        }
    }
}

/// What becomes of a held run.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It ends with this row.
    Result(Box<JobResult>),
    /// It comes back later.
    Wake(Wake),
}

/// When and how a run comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct Wake {
    /// How long from now, by the database's clock.
    pub after: Duration,
    /// Why it waits, for people: `retry after Timeout`, `rate limited by the provider`, `released`.
    pub reason: String,
    /// Calls made so far in this run.
    pub calls: u32,
    /// Calls that count against the retries.
    pub attempts: u32,
    /// Faults of deployments so far.
    pub faults: u32,
    /// The run's earlier failed calls to keep.
    pub earlier: Vec<crate::failure::EarlierAttempt>,
    /// What the run's calls have cost so far in picodollars, as far as it is known.
    pub spent_pico_usd: Option<i64>,
}

/// What [`Store::flush`](super::Store::flush) did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Results written.
    pub results: u64,
    /// Runs put to wait.
    pub waiting: u64,
    /// Attempts written.
    pub attempts: u64,
    /// Settlements of runs that this owner no longer held; only their attempts were kept.
    pub lost: u64,
    /// Rows that the database refused and that were stored as failed instead.
    pub rejected: u64,
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerInfo {
    /// This start of the process.
    pub owner: OwnerId,
    /// The machine's name.
    pub host: String,
    /// The process id.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// The model groups that it serves.
    pub groups: Vec<String>,
    /// Calls that it runs at once at most.
    pub concurrency: u32,
}

/// A deployment's state as one worker sees it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentReport {
    /// The deployment's name.
    pub deployment: String,
    /// The model group.
    pub group: String,
    /// What to do and why it is paused; `None` when it works.
    pub paused: Option<String>,
    /// The error class that paused it.
    pub class: Option<String>,
}

impl DeploymentReport {
    /// Says for people what waits for this deployment and why, if it is paused.
    pub fn reason(&self) -> Option<String> {
        self.paused.as_ref().map(|paused| format!("deployment {}: {paused}", self.deployment))
    }
}

/// What renewing a lease showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The lease holds; these unfinished batches are cancelled.
    Alive {
        /// Batches of which no further call may start.
        cancelled: Vec<BatchId>,
        /// Paused deployments of this owner that somebody asked to look at again; each is told once.
        resumed: Vec<String>,
    },
    /// The keeper declared this owner dead: everything that it held belongs to others.
    Lost,
}
