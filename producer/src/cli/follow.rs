//! Following a batch's results into files or standard output.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::{Cursor, ErrorCount};
use gristmill_producer::output::{Files, line};
use gristmill_producer::{ByJob, Latest, Members, Producer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;
use super::ui;

/// Rows of one read when catching up.
const PAGE_ROWS: u32 = 1_000;
/// How long a batch that has ended waits for its submission to go on.
const RESUBMIT_POLL: Duration = Duration::from_millis(100);

/// Where results go.
#[derive(Debug)]
pub(super) enum Sink {
    /// To a pair of files.
    Files(Box<Files>),
    /// To standard output, one line each; a run that begins later comes as a later line, with its number.
    Stdout,
    /// Nowhere: they are only counted.
    Count,
}

/// How jobs ended, by each job's latest run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) expired: u64,
    /// Those of them that had ended before the following began.
    pub(super) before: u64,
    /// Those that failed since.
    pub(super) failed_now: u64,
}

/// How the latest run of a job ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    status: Status,
    before: bool,
    /// Its error's place among the [`Errors`].
    error: Option<u16>,
}

/// The errors of failed jobs by class.
#[derive(Debug, Default)]
struct Errors(Vec<ErrorCount>);

impl Errors {
    /// Counts the error of a row, if it failed.
    fn add(&mut self, row: &ResultRow) -> Option<u16> {
        if row.result.status != Status::Failed {
            return None;
        }
        let error = row.result.error.as_deref();
        let class = error.map_or("unknown", |error| error.class.as_str());
        let example = error.map_or("", |error| error.message.as_str());
        let at = self.0.iter().position(|known| known.class == class).unwrap_or_else(|| {
            self.0.push(ErrorCount { class: class.to_owned(), count: 0, example: example.to_owned() });
            self.0.len() - 1
        });
        self.0[at].count += 1;
        u16::try_from(at).ok()
    }

    fn take_back(&mut self, at: Option<u16>) {
        if let Some(error) = at.and_then(|at| self.0.get_mut(usize::from(at))) {
            error.count -= 1;
        }
    }
}

impl Ended {
    fn failed_now(self) -> bool {
        self.status == Status::Failed && !self.before
    }
}

/// Which rows of a batch count.
#[derive(Debug)]
pub(super) struct Sought {
    /// The jobs of the input.
    pub(super) members: Arc<Members>,
    /// What was replaced before the following began.
    pub(super) latest: Latest,
    /// When it began, by this machine's clock.
    pub(super) since: DateTime<Utc>,
}

impl Counts {
    pub(super) const fn done(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled + self.expired
    }

    pub(super) const fn unsuccessful(&self) -> u64 {
        self.failed + self.cancelled + self.expired
    }

    fn slot(&mut self, status: Status) -> &mut u64 {
        match status {
            Status::Succeeded => &mut self.succeeded,
            Status::Failed => &mut self.failed,
            Status::Cancelled => &mut self.cancelled,
            Status::Expired => &mut self.expired,
        }
    }
}

/// Reads results and hands them to a sink.
#[derive(Debug)]
pub(super) struct Follower {
    producer: Producer,
    batch: BatchId,
    sought: Sought,
    sink: Sink,
    cursor: Cursor,
    ended: ByJob<Option<Ended>>,
    /// Recorded jobs that have ended: those that other programs queued are nobody's input.
    recorded_done: u64,
    errors: Errors,
    counts: watch::Sender<Counts>,
}

impl Follower {
    pub(super) fn new(
        producer: Producer,
        batch: BatchId,
        sought: Sought,
        sink: Sink,
        counts: watch::Sender<Counts>,
    ) -> Self {
        Self {
            producer,
            batch,
            sought,
            sink,
            cursor: Cursor::default(),
            ended: ByJob::new(batch),
            recorded_done: 0,
            errors: Errors::default(),
            counts,
        }
    }

    /// Follows until `wanted` jobs have ended, or to the end of the batch; returns false if `stop` fired before.
    ///
    /// The end counts only once `submitted` has fired: a batch that had ended may be getting more jobs.
    pub(super) async fn run(
        &mut self,
        submitted: &CancellationToken,
        stop: &CancellationToken,
        wanted: impl Fn() -> u64,
    ) -> Result<bool, Fault> {
        loop {
            let complete = submitted.is_cancelled();
            let mut reader = self.producer.subscribe(self.batch, self.cursor, stop.clone());
            let mut behind = true;
            let mut has_all = complete && self.recorded_done >= wanted();
            while !has_all {
                let page = tokio::select! {
                    biased;
                    page = reader.next_page() => page?,
                    // What was read by now may be all.
                    () = submitted.cancelled(), if !complete => break,
                };
                let Some(page) = page else { break };
                self.take(&page.rows)?;
                self.cursor = page.cursor;
                // What earlier runs left is out of the files as soon as everything old has been read.
                if behind && !page.more {
                    behind = false;
                    self.settle()?;
                }
                has_all = complete && self.recorded_done >= wanted();
            }
            if stop.is_cancelled() && !has_all {
                return Ok(false);
            }
            if complete {
                self.settle()?;
                return Ok(true);
            }
            tokio::select! {
                () = submitted.cancelled() => {}
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(RESUBMIT_POLL) => {}
            }
        }
    }

    /// Reads what can be read, without waiting for more.
    pub(super) async fn catch_up(&mut self) -> Result<(), Fault> {
        loop {
            let page = self.producer.results(self.batch, self.cursor, PAGE_ROWS).await?;
            self.take(&page.rows)?;
            self.cursor = page.cursor;
            if !page.more || page.rows.is_empty() {
                return self.settle();
            }
        }
    }

    fn take(&mut self, rows: &[ResultRow]) -> Result<(), Fault> {
        let mut counts = *self.counts.borrow();
        let Sought { members, latest, since } = &self.sought;
        let rows: Vec<&ResultRow> =
            rows.iter().filter(|row| members.contains(row.job_id) && latest.counts(row)).collect();
        for row in &rows {
            let error = self.errors.add(row);
            let now = Ended { status: row.result.status, before: row.result.finished_at < *since, error };
            // Rows come in the order of their commits, so a later one is of a later run.
            if let Some(earlier) = self.ended.entry(row.job_id).replace(now) {
                *counts.slot(earlier.status) -= 1;
                counts.before -= u64::from(earlier.before);
                counts.failed_now -= u64::from(earlier.failed_now());
                self.errors.take_back(earlier.error);
            } else {
                let is_recorded = JobId::derive(self.batch, row.job_id.ordinal()) == row.job_id;
                self.recorded_done += u64::from(is_recorded);
            }
            *counts.slot(now.status) += 1;
            counts.before += u64::from(now.before);
            counts.failed_now += u64::from(now.failed_now());
        }
        match &mut self.sink {
            // The disk may be slow; other tasks go on meanwhile.
            Sink::Files(files) => tokio::task::block_in_place(|| files.write(rows.iter().copied()))?,
            Sink::Stdout => {
                let text: Vec<u8> = rows.iter().flat_map(|row| line(row)).collect();
                if !text.is_empty() && !ui::out(&text)? {
                    return Err(Fault::new("nobody reads standard output any more"));
                }
            }
            Sink::Count => {}
        }
        self.counts.send_replace(counts);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), Fault> {
        if let Sink::Files(files) = &mut self.sink {
            tokio::task::block_in_place(|| files.settle())?;
        }
        Ok(())
    }

    /// Returns the most frequent errors of what was followed.
    pub(super) fn errors(&self, most: usize) -> Vec<ErrorCount> {
        let mut errors: Vec<ErrorCount> = self.errors.0.iter().filter(|error| error.count > 0).cloned().collect();
        errors.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.class.cmp(&b.class)));
        errors.truncate(most);
        errors
    }

    /// Returns the file of errors, if there is one.
    pub(super) fn errors_path(&self) -> Option<PathBuf> {
        match &self.sink {
            Sink::Files(files) => files.errors_path().map(ToOwned::to_owned),
            Sink::Stdout | Sink::Count => None,
        }
    }
}
