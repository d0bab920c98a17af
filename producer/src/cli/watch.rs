//! Looking at a batch while it runs: what is shown as progress, and a fault that only a person can mend.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_common::failure::ErrorClass;
use gristmill_common::id::BatchId;
use gristmill_common::store::{DeploymentReport, Store};
use gristmill_producer::ModelPace;

use super::disk;
use super::drive::{Drive, Shared};
use super::fault::{Exit, Fault};
use super::follow::Counts;
use super::progress::{Progress, View, top_error};
use super::table::plural;
use super::when::FailFast;

/// How often progress is shown.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// How often the database is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often errors are counted, which reads every failed row; and how often while they are few.
const ERRORS_EVERY: Duration = Duration::from_secs(10);
const FEW_ERRORS_EVERY: Duration = Duration::from_secs(1);
/// Failed rows that are few.
const FEW_ERRORS: u64 = 2_000;
/// Kinds of waiting that are counted.
const MOST_WAITS: u32 = 100;
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long nothing may end before the disk is looked at, and between two looks.
const DISK_CHECK: Duration = Duration::from_secs(4);
/// How long a full disk is waited for.
const DISK_PATIENCE: Duration = Duration::from_secs(20);
/// How long a wrong key or model may stand still before the run gives up.
const KEY_PATIENCE: Duration = Duration::from_secs(8);
/// How long a server that never answered may stand still before the run gives up.
const SERVER_PATIENCE: Duration = Duration::from_secs(20);

/// Watches one batch.
pub(super) struct Watch {
    store: Arc<dyn Store>,
    control: gristmill_producer::Control,
    counts: tokio::sync::watch::Receiver<Counts>,
    models: BTreeSet<Arc<str>>,
    /// Whether this process works the batch, so that nobody else will mend its deployments.
    in_process: bool,
    progress: Progress,
    view: View,
    paused: Vec<DeploymentReport>,
    in_flight: u64,
    stuck: Stuck,
    looked: Option<Instant>,
    counted: Option<Instant>,
    /// The embedded database, if it is one.
    file: Option<PathBuf>,
    full_since: Option<Instant>,
    disk_checked: Option<Instant>,
    /// Jobs of the input, and those of the batch that it comes beside.
    jobs: u64,
    beside: u64,
    fail_fast: Option<FailFast>,
}

impl Watch {
    pub(super) fn new(shared: &Shared, drive: &Drive<'_>, in_process: bool) -> Self {
        Self {
            store: Arc::clone(&drive.backend.store),
            control: shared.control.clone(),
            counts: shared.counts.subscribe(),
            models: drive.models().cloned().collect(),
            in_process,
            progress: Progress::new(drive.style, drive.global),
            view: View {
                batch: drive.spec.name.clone(),
                total: drive.checked.jobs,
                workers: u64::from(in_process),
                ..View::default()
            },
            paused: Vec::new(),
            in_flight: 0,
            stuck: Stuck::default(),
            looked: None,
            counted: None,
            file: drive.backend.file.clone(),
            full_since: None,
            disk_checked: None,
            jobs: drive.checked.jobs,
            beside: shared.beside,
            fail_fast: drive.fail_fast,
        }
    }

    /// Looks once, after a while; returns a fault that stops the run.
    pub(super) async fn next(&mut self) -> Option<Fault> {
        if let Some(fault) = self.until_it_shows().await {
            return Some(fault);
        }
        let submission = self.control.progress.borrow().clone();
        let counts = *self.counts.borrow();
        if let Some(batch) = submission.batch
            && self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY)
        {
            self.looked = Some(Instant::now());
            // A database that does not answer is told by those who need it.
            let _ = tokio::time::timeout(LOOK_TIMEOUT, self.look(batch, counts.unsuccessful())).await;
        }
        self.view.fill(&submission, self.note(counts.succeeded));
        if self.full_since.is_some() {
            self.view.waiting_for = Some("no space is left on the disk of the database: free some".to_owned());
        }
        self.count(counts, submission.already_there);
        self.progress.show(&mut self.view);
        if !self.in_process {
            return None;
        }
        let fault = self.stuck.look(counts.done(), counts.succeeded, &self.paused, self.in_flight);
        if fault.is_some() {
            return fault;
        }
        if self.stuck.still_for() < DISK_CHECK {
            self.full_since = None;
            return None;
        }
        self.check_disk().await
    }

    /// Waits until it is time to show; failures are looked at as they land. Returns a fault that stops the run.
    async fn until_it_shows(&mut self) -> Option<Fault> {
        let show = tokio::time::sleep(SHOW_EVERY);
        tokio::pin!(show);
        loop {
            tokio::select! {
                biased;
                Ok(()) = self.counts.changed(), if self.fail_fast.is_some() => {}
                () = &mut show => return None,
            }
            let counts = *self.counts.borrow_and_update();
            let batch = self.control.progress.borrow().batch;
            if let (Some(batch), Some(limit)) = (batch, self.fail_fast)
                && limit.is_reached(counts.failed_now, counts.done().saturating_sub(counts.before))
            {
                return Some(self.give_up(batch, counts.failed_now).await);
            }
        }
    }

    fn count(&mut self, counts: Counts, already_there: u64) {
        (self.view.done, self.view.before) = (counts.done(), counts.before);
        (self.view.succeeded, self.view.failed) = (counts.succeeded, counts.unsuccessful());
        self.view.total = Shared::total(self.beside, self.jobs, already_there);
    }

    /// Shows how it ended.
    pub(super) fn finish(mut self) {
        let already_there = self.control.progress.borrow().already_there;
        let counts = *self.counts.borrow();
        self.count(counts, already_there);
        (self.view.running, self.view.waiting_for) = (0, None);
        self.view.models.clear();
        self.progress.finish(&mut self.view);
    }

    /// Ends a batch of which too much fails; others than this process are told by cancelling it.
    async fn give_up(&mut self, batch: BatchId, failed: u64) -> Fault {
        self.fail_fast = None;
        let fault =
            Fault::new(format!("stopped by --fail-fast: {} failed", plural(failed, "job"))).exit(Exit::SomeFailed);
        if self.in_process {
            return fault.hint(
                "look at the errors; the same command goes on, with those that failed if --retry-failed is given",
            );
        }
        match self.store.cancel(batch).await {
            Ok(_) => fault.hint(format!(
                "the batch is cancelled; `gristmill retry {batch} --status cancelled` takes it up again"
            )),
            Err(error) => fault.because(&error).hint(format!("it goes on; `gristmill cancel {batch}` stops it")),
        }
    }

    /// Says which deployment is paused; why, only if the run's end will not tell it.
    fn note(&self, succeeded: u64) -> Option<String> {
        let report = self.paused.first()?;
        if self.in_process && patience(report.class.as_deref(), succeeded).is_some() {
            return Some(format!("deployment {} answers no call, trying again", report.deployment));
        }
        report.reason()
    }

    /// Finds out whether nothing ends because the embedded database has no room: that is waited for a while only.
    async fn check_disk(&mut self) -> Option<Fault> {
        if self.disk_checked.is_some_and(|checked| checked.elapsed() < DISK_CHECK) {
            return None;
        }
        self.disk_checked = Some(Instant::now());
        let file = self.file.clone()?;
        let folder = file.parent()?.to_owned();
        // A disk that does not answer is no full disk.
        let full = tokio::task::spawn_blocking(move || disk::is_full(&folder)).await.unwrap_or(false);
        if !full {
            self.full_since = None;
            return None;
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        (since.elapsed() >= DISK_PATIENCE).then(|| {
            Fault::new(format!("no space is left on the disk of {}", file.display()))
                .hint("nothing is lost: free space on that disk and run the same command again")
        })
    }

    async fn look(&mut self, batch: BatchId, failed: u64) -> gristmill_common::store::Result<()> {
        let found = self.store.batch(&gristmill_common::store::BatchSelector::Id(batch)).await?;
        self.view.cost_usd = found.as_ref().and_then(gristmill_common::batch::Batch::cost_usd);
        self.view.calls_per_job = found.map_or(1.0, |found| found.calls_per_job());
        let progress = self.store.progress(batch).await?;
        let waits = self.store.waits(batch, MOST_WAITS).await?;
        let standings = self.store.standings().await?;
        let models: Vec<&str> = self.models.iter().map(|model| &**model).collect();
        self.view.models = ModelPace::of_batch(&models, &progress, &waits, &standings);
        let held = progress.held;
        let workers = self.store.workers().await?;
        let alive = workers.iter().filter(|worker| worker.alive);
        self.in_flight = alive.clone().map(|worker| u64::from(worker.in_flight)).sum();
        // The worker of this process may only be about to start.
        self.view.workers = (alive.count() as u64).max(u64::from(self.in_process));
        // What is held may wait for its turn, and what is called may be another batch's.
        self.view.running = held.min(self.in_flight);
        self.paused = self.store.paused_deployments().await?;
        self.paused.retain(|report| self.models.contains(report.group.as_str()));
        let every = if failed <= FEW_ERRORS { FEW_ERRORS_EVERY } else { ERRORS_EVERY };
        if failed > 0 && self.counted.is_none_or(|counted| counted.elapsed() >= every) {
            self.counted = Some(Instant::now());
            let errors = self.store.errors(batch, 1).await?;
            self.view.top_error = errors.first().map(top_error);
        }
        Ok(())
    }
}

/// Notices that nothing goes on because of a deployment.
#[derive(Debug, Default)]
struct Stuck {
    done: u64,
    /// Since when a deployment is paused and nothing else goes on.
    since: Option<Instant>,
    /// When a job ended last.
    last_end: Option<Instant>,
}

impl Stuck {
    fn look(&mut self, done: u64, succeeded: u64, paused: &[DeploymentReport], in_flight: u64) -> Option<Fault> {
        let worst = paused.first();
        if done != self.done || self.last_end.is_none() {
            self.last_end = Some(Instant::now());
        }
        // More calls than the paused deployments' probes: somebody still gets answers.
        let (Some(report), true) = (worst, done == self.done && in_flight <= paused.len() as u64) else {
            (self.done, self.since) = (done, None);
            return None;
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        (since.elapsed() >= patience(report.class.as_deref(), succeeded)?).then(|| fault(report))
    }

    fn still_for(&self) -> Duration {
        self.last_end.map_or(Duration::ZERO, |last_end| last_end.elapsed())
    }
}

/// Returns how long a deployment may be paused before the run gives up; `None` is for ever.
fn patience(class: Option<&str>, succeeded: u64) -> Option<Duration> {
    match class.map(ErrorClass::from_name)? {
        ErrorClass::Authentication
        | ErrorClass::PermissionDenied
        | ErrorClass::NotFound
        | ErrorClass::InsufficientQuota => Some(KEY_PATIENCE),
        // A server that answered before may come back.
        _ if succeeded > 0 => None,
        _ => Some(SERVER_PATIENCE),
    }
}

fn fault(report: &DeploymentReport) -> Fault {
    let reason = report.reason().unwrap_or_else(|| format!("deployment {} does not work", report.deployment));
    Fault::new(reason)
        .hint("no job failed and nothing is lost: put it right and run the same command again")
        .exit(Exit::Setup)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused(class: &str) -> Vec<DeploymentReport> {
        vec![DeploymentReport {
            deployment: "gpt-4o".into(),
            group: "gpt-4o".into(),
            paused: Some("set OPENAI_API_KEY to a valid key (401 AuthenticationError: no)".into()),
            class: Some(class.into()),
        }]
    }

    #[test]
    fn a_wrong_key_stops_the_run_and_a_flaky_server_does_not() {
        assert_eq!(patience(Some("AuthenticationError"), 1_000), Some(KEY_PATIENCE));
        assert_eq!(patience(Some("APIConnectionError"), 0), Some(SERVER_PATIENCE));
        assert_eq!(patience(Some("APIConnectionError"), 1), None);
        assert_eq!(patience(None, 0), None);
        assert_eq!(fault(&paused("x")[0]).exit, Exit::Setup);
    }

    #[test]
    fn only_standing_still_counts() {
        let mut stuck = Stuck::default();
        let long_ago = Instant::now().checked_sub(KEY_PATIENCE).unwrap();
        let key = paused("AuthenticationError");
        assert!(stuck.look(0, 0, &key, 0).is_none());
        stuck.since = Some(long_ago);
        assert!(stuck.look(0, 0, &key, 0).is_some());
        stuck.since = Some(long_ago);
        assert!(stuck.look(1, 0, &key, 0).is_none(), "a job has ended");
        stuck.since = Some(long_ago);
        assert!(stuck.look(1, 0, &key, 9).is_none(), "calls are in flight elsewhere");
        stuck.since = Some(long_ago);
        assert!(stuck.look(1, 0, &[], 0).is_none(), "it works again");
    }
}
