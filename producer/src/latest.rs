//! Which rows of a batch count where each job, or each name, may stand once only.
//!
//! A job has a row for each of its runs, and a name has a job for each text of its line. Rows are read in the order in which
//! they were committed, so what replaces a row comes behind it; whoever writes a row once has to know before.

use std::collections::HashMap;

use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::ResultRow;
use gristmill_common::store::Cursor;
use sha2::{Digest as _, Sha256};

use crate::error::Result;
use crate::producer::Producer;

/// Rows of one read.
const PAGE: u32 = 1_000;

/// What is known of later runs and later jobs. Rows of which it knows nothing count.
///
/// Holds the jobs that ran more than once and, if it was asked to, some 50 bytes for each name.
#[derive(Debug, Default)]
pub struct Latest {
    runs: HashMap<JobId, u32>,
    /// By a hash of the name.
    names: HashMap<[u8; 16], JobId>,
}

impl Latest {
    /// Learns which jobs are run again now: their earlier runs count no more.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn learn_open_runs(&mut self, producer: &Producer, batch: BatchId) -> Result<()> {
        let mut after = None;
        loop {
            let open = producer.store().open_reruns(batch, after, PAGE).await?;
            let Some((last, _)) = open.last() else { return Ok(()) };
            after = Some(*last);
            open.into_iter().for_each(|(job, run)| self.learn_run(job, run));
        }
    }

    /// Learns the latest of the runs that have ended, by reading all results; and with `names` the latest job of each name.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn learn_results(&mut self, producer: &Producer, batch: BatchId, names: bool) -> Result<()> {
        let mut cursor = Cursor::default();
        loop {
            let page = producer.results(batch, cursor, PAGE).await?;
            cursor = page.cursor;
            for row in &page.rows {
                self.learn_run(row.job_id, row.run);
                if names {
                    let latest = self.names.entry(name(row)).or_insert(row.job_id);
                    *latest = row.job_id.max(*latest);
                }
            }
            if !page.more || page.rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// Tells whether a row is of the latest run of its job, and of the latest job of its name.
    pub fn counts(&self, row: &ResultRow) -> bool {
        self.is_latest_run(row.job_id, row.run)
            && (self.names.is_empty() || self.names.get(&name(row)).is_none_or(|latest| row.job_id >= *latest))
    }

    /// Tells whether a job has no later run.
    pub fn is_latest_run(&self, job: JobId, run: u32) -> bool {
        self.runs.get(&job).is_none_or(|latest| run >= *latest)
    }

    fn learn_run(&mut self, job: JobId, run: u32) {
        if run > 1 {
            let latest = self.runs.entry(job).or_insert(run);
            *latest = run.max(*latest);
        }
    }
}

fn name(row: &ResultRow) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(&row.custom_id)[..16]);
    short
}
