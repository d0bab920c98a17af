//! A batch under watch, and what it proved.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use gristmill_common::batch::Batch;
use gristmill_common::id::JobId;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::{BatchSelector, Cursor, Store};
use gristmill_producer::{Options, Producer};
use gristmill_tests::fleet::{self, Called};
use gristmill_worker::simulate::Control;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The name of every batch here.
pub(crate) const NAME: &str = "soak";
/// Longer than any scenario takes that works.
const LIMIT: Duration = Duration::from_secs(1200);
const PAGE_ROWS: u32 = 1000;

/// What a scenario showed.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    pub(crate) jobs: u64,
    pub(crate) rows: Rows,
    pub(crate) seen: Rows,
    pub(crate) calls: u64,
    pub(crate) bound: u64,
    pub(crate) seconds: f64,
    /// Figures that belong to the scenario alone.
    pub(crate) notes: Vec<String>,
    /// The promises that were broken.
    pub(crate) broken: Vec<String>,
}

impl Proof {
    pub(crate) const HEAD: &str = "\
| scenario | jobs | rows | twice | calls received | P3's bound | subscriber's rows | seconds | verdict |
|---|---|---|---|---|---|---|---|---|";

    /// Writes the row of the table.
    pub(crate) fn row(&self, scenario: &str) -> String {
        let verdict =
            if self.broken.is_empty() { "kept".to_owned() } else { format!("BROKEN: {}", self.broken.join("; ")) };
        let verdict = std::iter::once(verdict).chain(self.notes.iter().cloned()).collect::<Vec<_>>().join("; ");
        format!(
            "| {scenario} | {} | {} | {} | {} | {} | {} | {:.0} | {verdict} |",
            self.jobs,
            self.rows.count,
            self.rows.twice(),
            self.calls,
            self.bound,
            self.seen.count,
            self.seconds,
        )
    }

    /// Notes a promise as broken unless it holds.
    pub(crate) fn check(&mut self, holds: bool, promise: impl Into<String>) {
        if !holds {
            self.broken.push(promise.into());
        }
    }
}

/// Rows that somebody read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) count: u64,
    by_status: [u64; 4],
    runs: BTreeSet<(JobId, u32)>,
}

impl Rows {
    fn add(&mut self, row: &ResultRow) {
        self.count += 1;
        let status = Status::ALL.iter().position(|status| *status == row.result.status).unwrap();
        self.by_status[status] += 1;
        self.runs.insert((row.job_id, row.run));
    }

    pub(crate) fn twice(&self) -> u64 {
        self.count - self.runs.len() as u64
    }

    pub(crate) fn of(&self, status: Status) -> u64 {
        let status = Status::ALL.iter().position(|each| *each == status).unwrap();
        self.by_status[status]
    }
}

/// A batch that is being worked, with a subscriber attached.
pub(crate) struct Watch {
    store: Arc<dyn Store>,
    control: Control,
    log: PathBuf,
    started: Instant,
    reader: JoinHandle<Rows>,
}

impl Watch {
    /// Attaches a subscriber as soon as the batch is there.
    pub(crate) fn start(store: Arc<dyn Store>, control: Control, log: PathBuf) -> Self {
        let reader = TaskTracker::new().spawn(subscribe(Arc::clone(&store)));
        Self { store, control, log, started: Instant::now(), reader }
    }

    /// Waits until this many calls were made.
    pub(crate) async fn reached(&self, calls: u64) {
        fleet::eventually("calls are made", async || (self.control.stats().received >= calls).then_some(())).await;
    }

    pub(crate) fn received(&self) -> u64 {
        self.control.stats().received
    }

    /// Reads the batch, however long the store is away.
    pub(crate) async fn batch(&self) -> Batch {
        batch(&*self.store).await
    }

    /// Waits until the subscriber has come to the end; judges the promises that all scenarios share. `allowed` are the ways in
    /// which jobs may end.
    pub(crate) async fn judge(mut self, jobs: u64, bound: u64, allowed: &[Status]) -> (Proof, Vec<Called>) {
        let mut proof = Proof { jobs, bound, ..Proof::default() };
        let read = tokio::time::timeout(LIMIT, &mut self.reader).await;
        proof.seconds = self.started.elapsed().as_secs_f64();
        match read {
            Ok(seen) => proof.seen = seen.unwrap(),
            Err(_) => {
                self.reader.abort();
                proof.broken.push(format!("the batch did not end: {:?}", self.batch().await));
            }
        }
        let batch = self.batch().await;
        proof.rows = everything(&*self.store, &batch).await;
        let calls = fleet::calls(&self.control, &self.log).await;
        proof.calls = calls.len() as u64;

        let counters = batch.counters;
        let counted = [counters.succeeded, counters.failed, counters.cancelled, counters.expired];
        let rows = &proof.rows;
        let ended: u64 = allowed.iter().map(|status| rows.of(*status)).sum();
        let checks = [
            (rows.count == jobs && rows.twice() == 0, "P1/P2: not one row a job".to_owned()),
            (ended == rows.count, format!("rows by status: {:?}", rows.by_status)),
            (counted == rows.by_status, format!("P2: counters {counted:?} against rows {:?}", rows.by_status)),
            (proof.calls <= bound, "P3: calls beyond the bound".to_owned()),
            (proof.seen == *rows, "P5: the subscriber did not see every row once".to_owned()),
        ];
        for (holds, promise) in checks {
            proof.check(holds, promise);
        }
        let repeated = calls.len() - fleet::by_job(&calls).len();
        if repeated > 0 {
            proof.notes.push(format!("{repeated} calls repeated"));
        }
        (proof, calls)
    }
}

async fn subscribe(store: Arc<dyn Store>) -> Rows {
    let batch = batch(&*store).await.id;
    let producer = Producer::connect(Options::new(store, None));
    let mut rows = pin!(producer.subscribe(batch, Cursor::default(), CancellationToken::new()).rows());
    let mut seen = Rows::default();
    while let Some(row) = rows.next().await {
        seen.add(&row.unwrap());
    }
    seen
}

/// Waits for the batch to be there, and for the store.
async fn batch(store: &dyn Store) -> Batch {
    let selector = BatchSelector::Name(NAME.to_owned());
    fleet::eventually("the batch can be read", async || match store.batch(&selector).await {
        Err(error) if !error.is_transient() => panic!("{error}"),
        found => found.ok().flatten(),
    })
    .await
}

/// Reads all rows of a batch from the beginning.
async fn everything(store: &dyn Store, batch: &Batch) -> Rows {
    let (mut rows, mut cursor) = (Rows::default(), Cursor::default());
    loop {
        let page = match store.results_after(batch.id, cursor, PAGE_ROWS).await {
            // A session that was terminated is noticed by the next one who uses it.
            Err(error) if error.is_transient() => continue,
            page => page.unwrap(),
        };
        page.rows.iter().for_each(|row| rows.add(row));
        cursor = page.cursor;
        if page.rows.is_empty() && !page.more {
            return rows;
        }
    }
}
