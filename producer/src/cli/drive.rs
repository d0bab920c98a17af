//! One batch from its input to its output: submitting, working, following and showing progress at once.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use gristmill_common::backend::Backend;
use gristmill_common::outcome;
use gristmill_common::store::BatchSelector;
use gristmill_producer::input::Checked;
use gristmill_producer::output::{Files, Paths, WriteError};
use gristmill_producer::{BatchSpec, Control, Error, Latest, Members, Producer, Submission, Submitted};
use gristmill_worker::Scope;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Global;
use super::batch::{describe, paths};
use super::fault::{Exit, Fault};
use super::follow::{Counts, Follower, Sink, Sought};
use super::progress::{Progress, Style, View};
use super::stop::Stop;
use super::summary::Summary;
use super::ui;
use super::watch::Watch;
use super::when::FailFast;

/// How often a submission that nobody follows shows how far it is.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// How long the worker has to finish after a fault.
const FAULT_GRACE: Duration = Duration::from_secs(10);

/// Kinds of errors that the end of a run tells.
const SHOWN_ERRORS: usize = 3;

type WorkerTask = JoinHandle<Result<(), gristmill_worker::Error>>;

/// Where results go.
#[derive(Debug, Clone)]
pub(super) enum Output {
    Files(Paths),
    Stdout,
    Count,
}

impl Output {
    pub(super) fn new(path: &Path, combined: bool) -> Self {
        paths(path, combined).map_or(Self::Stdout, Self::Files)
    }

    /// Fails if nothing can be written there.
    pub(super) fn probe(&self) -> Result<(), Fault> {
        match self {
            Self::Files(paths) => Ok(Files::probe(paths)?),
            Self::Stdout | Self::Count => Ok(()),
        }
    }
}

/// A batch to bring to its end.
#[derive(Debug)]
pub(super) struct Drive<'a> {
    pub(super) global: &'a Global,
    pub(super) backend: &'a Backend,
    pub(super) checked: &'a Checked,
    pub(super) spec: BatchSpec,
    pub(super) output: Output,
    pub(super) retry_failed: bool,
    /// Whether the input comes beside the jobs that the batch has.
    pub(super) append: bool,
    pub(super) fail_fast: Option<FailFast>,
    pub(super) style: Style,
    pub(super) stop: &'a Stop,
    pub(super) started: Instant,
}

/// How it went.
#[derive(Debug)]
pub(super) struct Worked {
    summary: Option<Summary>,
    fault: Option<Fault>,
    /// Whether the last line of progress tells how it went.
    is_told: bool,
}

impl Worked {
    /// Tells the summary and returns how the program ends.
    pub(super) fn report(self, global: &Global) -> Result<Exit, Fault> {
        let exit = match self.summary {
            Some(summary) if self.is_told && !global.json => summary.exit(),
            Some(summary) => summary.tell(global, self.fault.is_some())?,
            None => Exit::Interrupted,
        };
        self.fault.map_or(Ok(exit), Err)
    }
}

/// What the parts of a run share.
pub(super) struct Shared {
    pub(super) control: Control,
    pub(super) counts: watch::Sender<Counts>,
    /// Fires when the submission has ended, well or not.
    submitted: CancellationToken,
    /// Stops submitting and following.
    halt: CancellationToken,
    /// When it all began.
    since: DateTime<Utc>,
    /// Jobs of the batch that the input comes beside, those that it holds too included.
    pub(super) beside: u64,
}

impl Shared {
    /// Returns how many jobs are to end, those of the input being given.
    pub(super) fn total(beside: u64, jobs: u64, already_there: u64) -> u64 {
        jobs + beside.saturating_sub(already_there)
    }
}

/// How submitting and following ended.
struct Ended {
    submitted: Result<Submitted, Error>,
    /// Whether the batch has ended and everything was read.
    followed: Result<bool, Fault>,
}

impl Drive<'_> {
    /// Submits, and leaves the work to others.
    pub(super) async fn submit_only(&self) -> Result<Submitted, Fault> {
        let producer = Producer::on(self.backend);
        self.prepare(&producer).await?;
        let control = Control { stop: self.stop.drain.clone(), ..Control::default() };
        let mut progress = Progress::new(self.style, self.global);
        let mut submitting = pin!(producer.submit(self.spec.clone(), self.checked.stream(), &control));
        let view = || View::of_submission(&self.spec.name, self.checked.jobs, &control.progress.borrow());
        loop {
            tokio::select! {
                outcome = &mut submitting => {
                    progress.finish(&mut view());
                    return Ok(outcome?);
                }
                () = self.stop.abort.cancelled() => return Err(aborted()),
                () = tokio::time::sleep(SHOW_EVERY) => progress.show(&mut view()),
            }
        }
    }

    /// Brings the batch to its end, with a worker in this process if one is given.
    pub(super) async fn to_the_end(&self, worker: Option<gristmill_worker::Options>) -> Result<Worked, Fault> {
        let producer = Producer::on(self.backend);
        let since = self.backend.clock.now();
        let beside = self.prepare(&producer).await?;
        let halt = self.stop.drain.child_token();
        let shared = Shared {
            control: Control { stop: halt.clone(), ..Control::default() },
            counts: watch::Sender::new(Counts::default()),
            submitted: CancellationToken::new(),
            halt,
            since,
            beside,
        };
        let drain = CancellationToken::new();
        let in_process = worker.is_some();
        let mut watching = Watch::new(&shared, self, in_process);
        let mut known = shared.control.progress.subscribe();
        let (mut to_start, mut worker): (_, Option<WorkerTask>) = (worker, None);
        let mut follower = None;
        let mut early = None;
        let ended = {
            let mut work = pin!(self.work(&producer, &shared, &mut follower));
            loop {
                tokio::select! {
                    ended = &mut work => break ended,
                    () = self.stop.abort.cancelled() => return Err(aborted()),
                    scope = self.scope(&mut known), if to_start.is_some() => {
                        worker = to_start.take().map(|options| {
                            let options = gristmill_worker::Options { scope, ..options };
                            let run = gristmill_worker::run(options, drain.clone(), self.stop.abort.clone());
                            TaskTracker::new().spawn(run)
                        });
                    }
                    fault = watching.next() => early = early.or(fault),
                    fault = ending(&mut worker) => {
                        worker = None;
                        early = Some(fault);
                    }
                }
                if early.is_some() {
                    shared.halt.cancel();
                }
            }
        };
        drain.cancel();
        if let Some(worker) = worker {
            tokio::select! {
                fault = ended_worker(worker) => early = early.or(fault),
                () = self.stop.abort.cancelled() => return Err(aborted()),
                // It cannot write down what it has, and would wait until it can.
                () = tokio::time::sleep(FAULT_GRACE), if early.as_ref().is_some_and(Fault::is_of_the_system) => {
                    self.stop.abort.cancel();
                }
            }
        }
        if let (Some(follower), Ok(false)) = (&mut follower, &ended.followed) {
            follower.catch_up().await?;
        }
        watching.finish();
        self.conclude(&producer, &shared, follower, ended, early, in_process).await
    }

    /// Returns which jobs a worker in this process takes, as soon as it is known which are the input's: other batches on the
    /// same file are others' business, and may be meant for another endpoint.
    async fn scope(&self, progress: &mut watch::Receiver<Submission>) -> Scope {
        // On servers every worker takes what comes.
        if self.backend.file.is_none() {
            return Scope::default();
        }
        let is_known = |known: &Submission| known.batch.is_some() && (self.append || known.members.is_some());
        let known = match progress.wait_for(is_known).await {
            Ok(known) => known.batch.map(|batch| (batch, known.members.clone())),
            Err(_) => None,
        };
        // The submission is over, and with it the run.
        let Some((batch, members)) = known else { return std::future::pending().await };
        let members = members.filter(|_| !self.append).unwrap_or_else(|| Arc::new(Members::all()));
        Scope::new(move |job| job.batch == batch && members.contains(job.id))
    }

    /// Refuses an output that is somebody else's, and opens new runs where they were asked for.
    ///
    /// Returns how many jobs the batch has that the input comes beside.
    async fn prepare(&self, producer: &Producer) -> Result<u64, Fault> {
        let name = BatchSelector::Name(self.spec.name.clone());
        let batch = self.backend.store.batch(&name).await?.filter(|batch| batch.name == self.spec.name);
        if let Output::Files(paths) = &self.output {
            let id = batch.as_ref().map(|batch| batch.id);
            if let Err(error) = tokio::task::block_in_place(|| Files::check(paths, id)) {
                return Err(self.foreign(error).await);
            }
        }
        let Some(batch) = batch else {
            if self.append {
                let what = format!("there is no batch `{}` to append to", self.spec.name);
                return Err(Fault::new(what).hint("leave --append away to begin it, or see `gristmill list`"));
            }
            return Ok(0);
        };
        if self.retry_failed && batch.simulated == self.spec.simulated {
            use outcome::Status::{Cancelled, Expired, Failed};

            let control = Control { stop: self.stop.drain.clone(), ..Control::default() };
            let members = producer.members(&batch, self.checked.stream(), &control).await?;
            producer.retry_members(batch.id, &[Failed, Expired, Cancelled], &members).await?;
        }
        Ok(if self.append { batch.recorded } else { 0 })
    }

    /// Says of an output of another batch which one it is.
    async fn foreign(&self, error: WriteError) -> Fault {
        let other = match &error {
            WriteError::OtherBatch { batch, .. } => self.backend.store.batch(&BatchSelector::Id(*batch)).await,
            _ => Ok(None),
        };
        let fault = Fault::from(error);
        match other {
            Ok(Some(other)) => {
                let name = other.name;
                fault.hint(format!("or go on with that batch, whose name is {name}: add --name {name}"))
            }
            _ => fault,
        }
    }

    async fn work(&self, producer: &Producer, shared: &Shared, follower: &mut Option<Follower>) -> Ended {
        let submitting = async {
            let outcome = producer.submit(self.spec.clone(), self.checked.stream(), &shared.control).await;
            match &outcome {
                Ok(submitted) if !self.global.quiet => ui::tell(&describe(submitted, self.append)),
                Ok(_) => {}
                Err(_) => shared.halt.cancel(),
            }
            shared.submitted.cancel();
            outcome
        };
        let following = async {
            let outcome = self.follow(producer, shared, follower).await;
            if outcome.is_err() {
                shared.halt.cancel();
            }
            outcome
        };
        let (submitted, followed) = tokio::join!(submitting, following);
        Ended { submitted, followed }
    }

    /// Follows as soon as it is known which jobs of the batch are the input's.
    async fn follow(
        &self,
        producer: &Producer,
        shared: &Shared,
        follower: &mut Option<Follower>,
    ) -> Result<bool, Fault> {
        let mut progress = shared.control.progress.subscribe();
        let known = tokio::select! {
            known = progress.wait_for(|known| known.batch.is_some() && known.members.is_some()) => known,
            () = shared.halt.cancelled() => return Ok(false),
        };
        let Some((batch, members)) = known.ok().and_then(|known| known.batch.zip(known.members.clone())) else {
            return Ok(false);
        };
        let members = if self.append { Arc::new(Members::all()) } else { members };
        let mut latest = Latest::default();
        latest.learn_open_runs(producer, batch).await?;
        let sink = match &self.output {
            Output::Files(paths) => {
                let keep = |job, run| members.contains(job) && latest.is_latest_run(job, run);
                // The files may be long, and other tasks go on meanwhile.
                Sink::Files(Box::new(tokio::task::block_in_place(|| Files::resume(paths, batch, keep))?))
            }
            Output::Stdout => {
                // A line that was printed cannot be taken out again, as one of a file can.
                latest.learn_results(producer, batch, false).await?;
                Sink::Stdout
            }
            Output::Count => Sink::Count,
        };
        let sought = Sought { members, latest, since: shared.since };
        let follower = follower.insert(Follower::new(producer.clone(), batch, sought, sink, shared.counts.clone()));
        let wanted = || {
            let already_there = shared.control.progress.borrow().already_there;
            Shared::total(shared.beside, self.checked.jobs, already_there)
        };
        follower.run(&shared.submitted, &shared.halt, wanted).await
    }

    async fn conclude(
        &self,
        producer: &Producer,
        shared: &Shared,
        follower: Option<Follower>,
        ended: Ended,
        early: Option<Fault>,
        in_process: bool,
    ) -> Result<Worked, Fault> {
        let Ended { submitted, followed } = ended;
        let complete = matches!(followed, Ok(true)) && submitted.is_ok();
        let fault = early.or_else(|| followed.err()).or_else(|| match submitted {
            Ok(_) | Err(Error::Interrupted) => None,
            Err(error) => Some(error.into()),
        });
        let Submission { batch, already_there, .. } = shared.control.progress.borrow().clone();
        let is_told = self.style == Style::Json && !self.global.quiet;
        let Some(id) = batch else { return Ok(Worked { summary: None, fault, is_told }) };
        let batch = producer.batch(&BatchSelector::Id(id)).await?;
        let cached = producer.cached(id).await?;
        let counts = *shared.counts.borrow();
        let left_out = self.checked.left_out();
        if left_out > 0 && !self.global.quiet {
            ui::tell(&super::batch::left_out(left_out));
        }
        let summary = Summary {
            batch,
            cached,
            total: Shared::total(shared.beside, self.checked.jobs, already_there),
            counts,
            complete,
            in_process,
            elapsed: self.started.elapsed(),
            errors: follower.as_ref().map(|follower| follower.errors(SHOWN_ERRORS)).unwrap_or_default(),
            output: self.output.clone(),
            errors_path: follower.as_ref().and_then(Follower::errors_path),
        };
        Ok(Worked { summary: Some(summary), fault, is_told })
    }

    /// Returns the model groups that the input asks for.
    pub(super) fn models(&self) -> impl Iterator<Item = &Arc<str>> {
        self.checked.models.keys()
    }
}

/// Waits until the worker ends although nobody asked it to.
async fn ending(worker: &mut Option<WorkerTask>) -> Fault {
    match worker {
        Some(task) => {
            let fault = ended_task(task.await);
            fault.unwrap_or_else(|| Fault::new("the worker ended early").hint("run the same command again to go on"))
        }
        None => std::future::pending().await,
    }
}

async fn ended_worker(worker: WorkerTask) -> Option<Fault> {
    ended_task(worker.await)
}

fn ended_task(ended: Result<Result<(), gristmill_worker::Error>, tokio::task::JoinError>) -> Option<Fault> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.into()),
        Err(error) => Some(Fault::of(&error)),
    }
}

fn aborted() -> Fault {
    Fault::new("stopped at once; calls that were running are made again")
        .hint("the same command goes on where this one stopped")
        .exit(Exit::Interrupted)
}
