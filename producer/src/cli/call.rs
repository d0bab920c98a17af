//! One prompt through queue and worker, as a batch of its own.
//!
//! Beside Postgres and RabbitMQ the fleet's workers make the call. On the embedded database this process does, as soon as no
//! other process works it; one that does may make the call as well. Whoever gives up cancels the call, so that nothing is
//! paid for an answer that nobody waits for.

use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use gristmill_common::backend::{Backend, Need, Place};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::{Config, Overrides, is_pattern, nearest, parse_duration};
use gristmill_common::failure::ErrorClass;
use gristmill_common::id::BatchId;
use gristmill_common::job::{CachePolicy, JobOptions, Priority};
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::{Cursor, WorkerRow};
use gristmill_producer::output::line;
use gristmill_producer::{BatchSpec, Control, NewJob, Producer};
use tokio_util::sync::CancellationToken;

use super::Global;
use super::ask::{Ask, Request};
use super::backends;
use super::fault::{Exit, Fault};
use super::live::Live;
use super::place::{self, Missing};
use super::scratch::Scratch;
use super::stop::Stop;
use super::ui;

/// How often the database is asked what keeps the call from being made.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often an embedded database that another process works is tried.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// How long another process may work the embedded database before it is told.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How long the model's deployment may be paused before the call is given up; three calls have failed by then.
const PAUSE_PATIENCE: Duration = Duration::from_secs(3);
/// How long past its time limit a call may take to be written down as expired.
const EXPIRY_GRACE: Duration = Duration::from_secs(5);
/// How long the worker of a call that was given up has to finish.
const FAULT_GRACE: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  gristmill call \"What is a mill?\" --model gpt-4o
  gristmill call \"What is a mill?\" --simulate
  gristmill call --stream \"Tell me of mills.\" --model gpt-4o        the answer as it comes
  git diff | gristmill call - --system \"Write a commit message for this diff.\"
  gristmill call --json - < request.json        the answer as a line of OpenAI's Batch format

Beside RabbitMQ, a worker of the fleet makes the call; else this process does.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "these comments are the help text")]
pub(super) struct Args {
    #[command(flatten)]
    ask: Ask,
    /// Start no call later than this, such as 30s or 5m; one that runs may finish
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Show the answer as it comes; with --json as lines of JSON, the last one being the answer's line
    #[arg(long)]
    stream: bool,
    /// Retries after the first call [default: the worker's]
    #[arg(long, value_name = "N")]
    num_retries: Option<u16>,
    /// Answer from kept answers, and keep new ones: off, on, read-only, write-only; on+sampled also where the answer is random
    /// [default: as configured, else off]
    #[arg(long, value_name = "MODE")]
    cache: Option<CachePolicy>,
    /// The OpenAI-compatible endpoint, such as http://localhost:8000/v1, where this process makes the call
    #[arg(long, value_name = "URL")]
    api_base: Option<String>,
    /// Ask a simulator in this process instead of a provider; nothing is kept
    #[arg(long, conflicts_with_all = ["api_base", "db", "database_url"])]
    simulate: bool,
    /// Take `openai/NAME` for NAME where nobody serves it under the whole name, as LiteLLM does
    #[arg(long, hide = true)]
    litellm_names: bool,
    /// Refuse to make the call where the environment's key is not what it is made with
    #[arg(long, hide = true)]
    own_key: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let request = args.ask.request(global.json).await?;
    let stop = Stop::on_signals("stopping: the call is cancelled; once more to stop at once")?;
    let simulator = if args.simulate { Some(backends::simulator().await?) } else { None };
    let overrides = Overrides::default().set("api_base", args.api_base.as_deref());
    let config = backends::config(global, overrides, simulator.as_ref())?;
    let scratch = if args.simulate { Some(Scratch::new()?) } else { None };
    let place = match &scratch {
        Some(scratch) => Place::Sqlite(scratch.file()),
        None => place::find(global, &config, Missing::Create)?,
    };
    let backend = backends::open(&place, &config, Need::Queue).await?;
    let workers = if backend.file.is_none() { Some(live_workers(&backend).await?) } else { None };
    if !args.simulate {
        check_own(&args, &config, workers.is_some())?;
    }
    let model = model(&args, &request, &config, workers.as_deref())?;
    let worker = match &workers {
        Some(workers) => {
            check_served(&model, workers)?;
            None
        }
        None => {
            let deployments = backends::deployments(&config, &[&model])?;
            Some(gristmill_worker::Options::from_config(&config, &backend, deployments)?)
        }
    };
    let call = Call { global, backend: &backend, stop: &stop, model, simulated: args.simulate, streams: args.stream };
    let options = JobOptions {
        num_retries: args.num_retries,
        cache: args.cache.unwrap_or(config.cache),
        deadline: args.timeout.and_then(|timeout| Some(SystemClock.now() + TimeDelta::from_std(timeout).ok()?)),
        ..JobOptions::default()
    };
    let answered = Box::pin(call.make(request, options, args.timeout, worker)).await;
    backend.close().await;
    if let Some(simulator) = simulator {
        simulator.shutdown().await;
    }
    answered
}

async fn live_workers(backend: &Backend) -> Result<Vec<WorkerRow>, Fault> {
    let mut workers = backend.store.workers().await?;
    workers.retain(|worker| worker.alive);
    Ok(workers)
}

/// Refuses an endpoint or a key of this call's own where others say what the call is made with.
fn check_own(args: &Args, config: &Config, fleet: bool) -> Result<(), Fault> {
    let own = match (args.api_base.is_some(), args.own_key) {
        (false, false) => return Ok(()),
        (true, false) => "an endpoint",
        (false, true) => "a key",
        (true, true) => "an endpoint and a key",
    };
    let (whose, place) = if fleet {
        (
            "the workers of this RabbitMQ make the call, with endpoints and keys of their own",
            "the workers' gristmill.yaml",
        )
    } else if config.groups().is_some() {
        ("the model_list of gristmill.yaml says where calls go, and with which key", "its entry there")
    } else {
        return Ok(());
    };
    Err(Fault::new(format!("{own} was given for this call, and would not be used: {whose}"))
        .hint(format!("leave it out, or write it into {place}"))
        .exit(Exit::Setup))
}

/// Finds the model: as asked for, as the request or the configuration says, else the only one that there is.
fn model(args: &Args, request: &Request, config: &Config, workers: Option<&[WorkerRow]>) -> Result<String, Fault> {
    let named = args.ask.model.as_ref().or(request.model.as_ref()).or(config.model.as_ref());
    let groups = groups(config, workers);
    if let Some(model) = named {
        let is_served = |name: &str| groups.iter().any(|group| group == name);
        return Ok(match model.strip_prefix("openai/").filter(|plain| !plain.is_empty()) {
            Some(plain) if args.litellm_names && !is_served(model) && (groups.is_empty() || is_served(plain)) => {
                plain.to_owned()
            }
            _ => model.clone(),
        });
    }
    match groups.as_slice() {
        [only] => Ok(only.clone()),
        // The simulator is whatever it is called.
        [] if args.simulate => Ok("simulated".to_owned()),
        [] => Err(Fault::new("no model is named").hint("add --model, or set `model` in gristmill.yaml")),
        several => Err(Fault::new("no model is named").hint(format!("add --model; there are {}", several.join(", ")))),
    }
}

/// Returns the model groups that are served, in order; none where any is.
fn groups(config: &Config, workers: Option<&[WorkerRow]>) -> Vec<String> {
    let mut groups: Vec<String> = match workers {
        Some(workers) => workers.iter().flat_map(|worker| worker.info.groups.iter().cloned()).collect(),
        // A pattern is no model that could be asked.
        None => config
            .groups()
            .into_iter()
            .flatten()
            .filter(|group| !is_pattern(group))
            .map(|group| group.to_string())
            .collect(),
    };
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Refuses a model that none of the workers serves; warns where there is no worker at all.
fn check_served(model: &str, workers: &[WorkerRow]) -> Result<(), Fault> {
    if workers.is_empty() {
        ui::tell("warning: no worker runs now; the call waits until one is started with `gristmill worker`");
        return Ok(());
    }
    let mut served: Vec<&str> =
        workers.iter().flat_map(|worker| worker.info.groups.iter().map(String::as_str)).collect();
    if served.contains(&model) {
        return Ok(());
    }
    served.sort_unstable();
    served.dedup();
    let fault =
        Fault::new(format!("no worker serves `{model}`")).class(ErrorClass::UnknownModelGroup).exit(Exit::Setup);
    Err(match nearest(model, served.iter().copied()) {
        Some(near) => fault.hint(format!("did you mean `{near}`?")),
        None => fault
            .hint(format!("they serve {}; start another with `gristmill worker --model {model}`", served.join(", "))),
    })
}

struct Call<'a> {
    global: &'a Global,
    backend: &'a Backend,
    stop: &'a Stop,
    model: String,
    simulated: bool,
    streams: bool,
}

impl Call<'_> {
    /// Makes the call and tells its answer.
    async fn make(
        &self,
        request: Request,
        mut options: JobOptions,
        timeout: Option<Duration>,
        worker: Option<gristmill_worker::Options>,
    ) -> Result<Exit, Fault> {
        let producer = Producer::on(self.backend);
        let mut live = match self.streams {
            true => Live::new(producer.listen(&mut options).await?, self.global),
            false => Live::silent(self.global),
        };
        let batch = self.submit(&producer, request, options).await?;
        let drain = CancellationToken::new();
        let mut working = pin!(self.work(worker, &drain));
        let answer = tokio::select! {
            biased;
            () = self.stop.abort.cancelled() => Err(interrupted()),
            answer = self.answer(&producer, batch, timeout, &mut live) => answer,
            fault = &mut working => Err(fault.err().unwrap_or_else(|| Fault::new("the worker ended early"))),
        };
        let told = match answer {
            Ok(row) => self.tell(&row, &live),
            Err(fault) => {
                live.end_line()?;
                // Where even that cannot be said, the call may still be made; its answer is kept.
                let _ = tokio::time::timeout(FAULT_GRACE, producer.cancel(batch)).await;
                Err(fault)
            }
        };
        drain.cancel();
        let gave_up = told.is_err();
        tokio::select! {
            _ = &mut working => {}
            () = self.stop.abort.cancelled() => {}
            () = tokio::time::sleep(FAULT_GRACE), if gave_up => self.stop.abort.cancel(),
        }
        told
    }

    async fn submit(&self, producer: &Producer, request: Request, options: JobOptions) -> Result<BatchId, Fault> {
        let id = BatchId::new(SystemClock.now()).uuid().simple().to_string();
        // The end of an id is its random part.
        let name = format!("call-{}", &id[20..]);
        let job = NewJob {
            custom_id: name.clone(),
            endpoint: "/v1/chat/completions".into(),
            model: self.model.as_str().into(),
            body: request.body,
            options,
        };
        let spec = BatchSpec { name, priority: Priority::High, simulated: self.simulated, ..BatchSpec::default() };
        let control = Control { stop: self.stop.drain.clone(), ..Control::default() };
        let jobs = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(job)]);
        Ok(producer.submit(spec, jobs, &control).await?.batch.id)
    }

    /// Works the embedded database while no other process does, until `drain`.
    async fn work(&self, worker: Option<gristmill_worker::Options>, drain: &CancellationToken) -> Result<(), Fault> {
        let Some(worker) = worker else {
            drain.cancelled().await;
            return Ok(());
        };
        let started = Instant::now();
        let mut told = self.global.quiet;
        let _lock = loop {
            if let Some(lock) = self.backend.try_lock().await? {
                break lock;
            }
            if !told && started.elapsed() >= LOCK_PATIENCE {
                told = true;
                ui::tell(&format!(
                    "another gristmill works on this database: it makes the call if it serves `{}`, else the call waits \
                     for its end",
                    self.model
                ));
            }
            tokio::select! {
                () = drain.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOCK_POLL) => {}
            }
        };
        Ok(gristmill_worker::run(worker, drain.clone(), self.stop.abort.clone()).await?)
    }

    /// Waits for the row of the call; fails when only a person can help, or nobody waits any more.
    async fn answer(
        &self,
        producer: &Producer,
        batch: BatchId,
        timeout: Option<Duration>,
        live: &mut Live<'_>,
    ) -> Result<ResultRow, Fault> {
        let mut reader = producer.subscribe(batch, Cursor::default(), self.stop.drain.clone());
        let mut reading = pin!(reader.next_page());
        let mut paused_since = None;
        let started = Instant::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.reset();
        loop {
            tokio::select! {
                biased;
                shown = live.show() => {
                    shown?;
                    continue;
                }
                page = &mut reading => {
                    let row = page?.and_then(|page| page.rows.into_iter().next());
                    return row.ok_or_else(interrupted);
                }
                _ = look.tick() => {}
            }
            if timeout.is_some_and(|timeout| started.elapsed() >= timeout + EXPIRY_GRACE) && !self.is_held(batch).await
            {
                return Err(Fault::new("no worker made the call in time")
                    .hint("`gristmill check` says what is wrong; `gristmill worker` starts a worker")
                    .class(ErrorClass::DeadlineExceeded)
                    .exit(Exit::SomeFailed));
            }
            match self.paused().await {
                Some(fault) if paused_since.get_or_insert_with(Instant::now).elapsed() >= PAUSE_PATIENCE => {
                    return Err(fault);
                }
                Some(_) => {}
                None => paused_since = None,
            }
        }
    }

    /// Tells whether a worker has the call in hand.
    async fn is_held(&self, batch: BatchId) -> bool {
        // A database that does not answer is waited for by the reader.
        self.backend.store.progress(batch).await.map_or(true, |progress| progress.held > 0)
    }

    /// Tells why the model's deployment is paused, if it is and no call to another one is under way.
    async fn paused(&self) -> Option<Fault> {
        let store = &self.backend.store;
        let mut paused = store.paused_deployments().await.ok()?;
        paused.retain(|report| report.group == self.model);
        let report = paused.first()?;
        let workers = store.workers().await.ok()?;
        let in_flight: usize =
            workers.iter().filter(|worker| worker.alive).map(|worker| worker.in_flight as usize).sum();
        // More calls than the paused deployments' probes: somebody still gets answers.
        (in_flight <= paused.len()).then(|| {
            let reason = report.reason().unwrap_or_else(|| format!("deployment {} does not work", report.deployment));
            let fault = Fault::new(reason).hint("the call is cancelled: put it right and call again").exit(Exit::Setup);
            match &report.class {
                Some(class) => fault.class(ErrorClass::from_name(class)),
                None => fault,
            }
        })
    }

    fn tell(&self, row: &ResultRow, live: &Live<'_>) -> Result<Exit, Fault> {
        let result = &row.result;
        let succeeded = result.status == Status::Succeeded;
        if !succeeded || result.output_text.is_none() {
            live.end_line()?;
        }
        if self.global.json {
            ui::out(&line(row))?;
            return Ok(if succeeded { Exit::Success } else { Exit::SomeFailed });
        }
        if !succeeded {
            let message = result.error.as_ref().map_or_else(|| result.status.to_string(), ToString::to_string);
            let fault = Fault::new(message).exit(Exit::SomeFailed);
            let look = format!("gristmill show {} tells all of it", row.job_id);
            return Err(if self.simulated { fault } else { fault.hint(look) });
        }
        match (&result.output_text, &result.response) {
            (Some(text), _) => live.complete(text)?,
            (None, Some(response)) => ui::line(&String::from_utf8_lossy(response))?,
            (None, None) => ui::line("")?,
        };
        if result.finish_reason.as_deref() == Some("length") && !self.global.quiet {
            ui::tell("the answer was cut at its limit of tokens");
        }
        Ok(Exit::Success)
    }
}

fn interrupted() -> Fault {
    Fault::new("the call was cancelled").exit(Exit::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gristmill_common::id::OwnerId;
    use gristmill_common::store::WorkerInfo;

    fn serving(groups: &[&str]) -> WorkerRow {
        WorkerRow {
            info: WorkerInfo {
                owner: OwnerId::new(SystemClock.now()),
                host: "h".into(),
                pid: 1,
                version: "0".into(),
                groups: groups.iter().map(|group| (*group).to_owned()).collect(),
                concurrency: 1,
            },
            alive: true,
            in_flight: 0,
        }
    }

    #[test]
    fn a_model_that_nobody_serves_is_refused_with_the_near_name() {
        let workers = [serving(&["gpt-4o", "llama"]), serving(&["llama"])];
        assert!(check_served("llama", &workers).is_ok());
        assert!(check_served("anything", &[]).is_ok());
        let near = check_served("gpt4o", &workers).unwrap_err();
        assert_eq!(near.exit, Exit::Setup);
        assert_eq!(near.to_string(), "error: no worker serves `gpt4o`\nhint: did you mean `gpt-4o`?");
        let far = check_served("claude", &workers).unwrap_err().to_string();
        assert!(far.contains("they serve gpt-4o, llama; start another"), "{far}");
    }
}
