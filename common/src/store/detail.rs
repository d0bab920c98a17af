//! What people ask of single jobs, and of what is old.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::id::{BatchId, InvalidId, JobId, OwnerId};
use crate::job::Job;
use crate::outcome::{AttemptRecord, ResultRow, Status};

/// How people name a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobSelector {
    /// By its id, or the beginning of one: every id from the first to the last.
    Ids(JobId, JobId),
    /// By the user's name for it, within a batch.
    CustomId(BatchId, String),
}

impl JobSelector {
    /// Reads an id or the beginning of one, at least four hexadecimal digits.
    ///
    /// # Errors
    ///
    /// [`InvalidId`] for what begins no id.
    pub fn from_prefix(text: &str) -> std::result::Result<Self, InvalidId> {
        let digits: String = text.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
        let edge = |fill: &str| format!("{digits}{}", fill.repeat(32_usize.saturating_sub(digits.len())));
        let parse = |text: String| Uuid::try_parse(&text).ok().map(JobId::from_uuid);
        let is_prefix = (4..=32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (parse(edge("0")), parse(edge("f"))) {
            (Some(first), Some(last)) if is_prefix => Ok(Self::Ids(first, last)),
            _ => Err(InvalidId::of(text)),
        }
    }
}

/// Returns the first and the last id that a batch of a time between those of two jobs may have.
pub(super) fn batches_of(first: JobId, last: JobId) -> (Uuid, Uuid) {
    const BELOW_TIME: u128 = (1 << 80) - 1;
    (Uuid::from_u128(first.uuid().as_u128() & !BELOW_TIME), Uuid::from_u128(last.uuid().as_u128() | BELOW_TIME))
}

/// All that is known of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobDetail {
    /// The request as it was recorded.
    pub job: Job,
    /// Its batch's name.
    pub batch: String,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
    /// What holds it now, if it has not ended.
    pub live: Option<LiveRow>,
    /// Its runs that have ended, the first one first.
    pub runs: Vec<ResultRow>,
    /// Every call, with its run, in the order in which they began.
    pub attempts: Vec<(u32, AttemptRecord)>,
    /// Calls that workers may have been making when they died.
    pub lost: Vec<LostCall>,
}

/// A call that a worker may have been making when it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostCall {
    /// The run.
    pub run: u32,
    /// Which call of the run it would have been.
    pub attempt: u32,
    /// Who died.
    pub owner: OwnerId,
    /// When it was found to be dead.
    pub died_at: DateTime<Utc>,
    /// The most that it may have cost, in picodollars, once the run was called again.
    pub bound_pico_usd: Option<i64>,
}

/// The live row of a run, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveRow {
    /// Which run it is.
    pub run: u32,
    /// Who holds it, if anybody does.
    pub owner: Option<OwnerId>,
    /// When it is due, if it waits for its time.
    pub wake_at: Option<DateTime<Utc>>,
    /// Why it waits.
    pub reason: Option<String>,
    /// Calls made so far.
    pub calls: u32,
    /// Owners that died on it.
    pub deaths: u32,
    /// When it was first admitted.
    pub queued_at: DateTime<Utc>,
}

/// One job in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLine {
    /// The job.
    pub id: JobId,
    /// The user's name for it.
    pub custom_id: String,
    /// The model group that it asks for.
    pub model: String,
    /// Where it is.
    pub place: JobPlace,
    /// The latest run that there is; 0 where none was admitted.
    pub run: u32,
    /// Calls of that run.
    pub attempts: u32,
    /// The class of the error that the latest ended run ended with.
    pub class: Option<String>,
    /// The message of that error.
    pub message: Option<String>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPlace {
    /// It has ended.
    Ended(Status),
    /// A worker holds it.
    Held,
    /// It waits for its time.
    Waiting,
    /// A message of it is out, or will be.
    Queued,
}

impl JobPlace {
    /// Reads the state of a live row, and how the latest run ended that did; a live row comes before.
    pub(super) fn read(live: Option<i64>, ended: Option<Status>) -> Self {
        match (live, ended) {
            (Some(0), _) => Self::Held,
            (Some(1), _) => Self::Waiting,
            (Some(_), _) | (None, None) => Self::Queued,
            (None, Some(status)) => Self::Ended(status),
        }
    }

    /// Returns the stable text shown to people and machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ended(status) => status.as_str(),
            Self::Held => "held",
            Self::Waiting => "waiting",
            Self::Queued => "queued",
        }
    }
}

/// What [`Store::forget`](super::Store::forget) deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Requests.
    pub requests: u64,
    /// Results.
    pub results: u64,
    /// Attempt records.
    pub attempts: u64,
    /// Whether more is left to delete.
    pub more: bool,
}

impl std::ops::AddAssign for Forgotten {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.results += other.results;
        self.attempts += other.attempts;
        self.more = other.more;
    }
}

/// What stands in the place of a request's body that was emptied: JSON that no request is.
pub const STRIPPED_BODY: &str = "null";

/// What one step of emptying bodies emptied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stripped {
    /// Requests.
    pub requests: u64,
    /// Results.
    pub results: u64,
    /// Attempt records that held the body of an error.
    pub attempts: u64,
    /// Where the next step goes on; `None` at the end.
    pub next: Option<JobId>,
}

/// A partition that was dropped because nothing was left in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedPartition {
    /// Its name.
    pub name: String,
    /// What it took on disk, in bytes.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_batch_is_among_those_of_its_time() {
        let at = |ms: i64| BatchId::new(DateTime::from_timestamp_millis(1_795_400_000_000 + ms).unwrap());
        let job = JobId::derive(at(0), 70_000);
        let (first, last) = batches_of(job, job);
        assert!((first..=last).contains(&at(0).uuid()));
        assert!(!(first..=last).contains(&at(1).uuid()) && !(first..=last).contains(&at(-1).uuid()));
    }

    #[test]
    fn the_beginning_of_an_id_names_all_ids_that_begin_so() {
        let Ok(JobSelector::Ids(first, last)) = JobSelector::from_prefix("01A20748-397e-7") else { panic!("a prefix") };
        assert_eq!(first.to_string(), "01a20748-397e-7000-0000-000000000000");
        assert_eq!(last.to_string(), "01a20748-397e-7fff-ffff-ffffffffffff");
        let whole = "01a20748-397e-7000-8000-012cb9d08c84";
        let id = whole.parse().unwrap();
        assert_eq!(JobSelector::from_prefix(whole), Ok(JobSelector::Ids(id, id)));
        for text in ["", "01a", "line-17", "01a20748-397e-7000-8000-012cb9d08c84f", "ümläut"] {
            assert!(JobSelector::from_prefix(text).is_err(), "{text}");
        }
    }
}
