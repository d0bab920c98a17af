//! Following a batch's results into files or standard output.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gristmill_common::id::BatchId;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::Cursor;
use gristmill_producer::output::{Files, line};
use gristmill_producer::{Members, Producer};
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
    /// To standard output, one line each; a later run of a job comes as a later line.
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
    members: Arc<Members>,
    sink: Sink,
    cursor: Cursor,
    /// By ordinal: how the job's latest run ended.
    latest: Vec<Option<Status>>,
    counts: watch::Sender<Counts>,
    before: Option<Counts>,
}

impl Follower {
    pub(super) fn new(
        producer: Producer,
        batch: BatchId,
        members: Arc<Members>,
        sink: Sink,
        counts: watch::Sender<Counts>,
    ) -> Self {
        Self { producer, batch, members, sink, cursor: Cursor::default(), latest: Vec::new(), counts, before: None }
    }

    /// Follows to the end of the batch; returns false if `stop` fired before.
    ///
    /// The end counts only once `submitted` has fired: a batch that had ended may be getting more jobs.
    pub(super) async fn run(&mut self, submitted: &CancellationToken, stop: &CancellationToken) -> Result<bool, Fault> {
        loop {
            let complete = submitted.is_cancelled();
            let mut reader = self.producer.subscribe(self.batch, self.cursor, stop.clone());
            let mut behind = true;
            while let Some(page) = reader.next_page().await? {
                self.take(&page.rows)?;
                self.cursor = page.cursor;
                // What earlier runs left is out of the files as soon as everything old has been read.
                if behind && !page.more {
                    behind = false;
                    self.before.get_or_insert_with(|| *self.counts.borrow());
                    self.settle()?;
                }
            }
            if stop.is_cancelled() {
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
        let rows: Vec<&ResultRow> = rows.iter().filter(|row| self.members.contains(row.job_id)).collect();
        for row in &rows {
            let ordinal = row.job_id.ordinal() as usize;
            if ordinal >= self.latest.len() {
                self.latest.resize(ordinal + 1, None);
            }
            // Rows come in the order of their commits, so a later one is of a later run.
            if let Some(before) = self.latest[ordinal].replace(row.result.status) {
                *counts.slot(before) -= 1;
            }
            *counts.slot(row.result.status) += 1;
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

    /// Returns how many jobs had ended when the following began; of those that ran again, only what had succeeded.
    pub(super) fn before(&self, retried: bool) -> u64 {
        self.before.map_or(0, |before| if retried { before.succeeded } else { before.done() })
    }

    /// Returns the file of errors, if there is one.
    pub(super) fn errors_path(&self) -> Option<PathBuf> {
        match &self.sink {
            Sink::Files(files) => files.errors_path().map(ToOwned::to_owned),
            Sink::Stdout | Sink::Count => None,
        }
    }
}
