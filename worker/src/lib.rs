//! The worker: takes jobs from the broker, calls providers, writes results to the store; and the keeper that looks after
//! what no single job's way does.
//!
//! A process runs any number of sessions one after the other, each with an owner id of its own. See `pipeline` for the way
//! of one job.
//!
//! A program that embeds it opens a [`common::backend::Backend`], makes [`Options`], adds [`hooks`] and calls [`run`]; what it
//! needs of other crates for that is here.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use gristmill_common::broker;
use gristmill_common::id::OwnerId;
use gristmill_common::retry::{Schedule, until_ok};
use gristmill_common::store::{self, WorkerInfo};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

mod alert;
mod budget;
mod cost;
mod decision;
mod examine;
mod flush;
mod gate;
mod group;
pub mod health;
pub mod hooks;
mod intake;
mod keeper;
mod lease;
mod line;
pub mod metrics;
mod options;
mod pace;
mod pipeline;
pub mod provider;
mod quota;
pub mod reload;
mod route;
mod serve;
mod session;
mod settle;
mod share;
pub mod simulate;
mod slot;
mod tokens;
mod trace;
mod window;

pub use async_trait::async_trait;
pub use bytes::Bytes;
pub use examine::{Examined, examine};
pub use gristmill_common as common;
pub use options::{Options, Scope};
pub use tokio_util::sync::CancellationToken;

use alert::Alerts;
use budget::Budgets;
use cost::Costs;
use gate::Gate;
use group::Group;
use health::{Doors, Health};
use keeper::Keeper;
use lease::Lease;
use line::Line;
use metrics::{Counts, Metrics, Parts};
use quota::Accounts;
use route::Routes;
use session::Session;
use slot::Slots;
use trace::Recorder;

/// Why a worker could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker refuses.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// A deployment cannot be called.
    #[error(transparent)]
    Provider(#[from] provider::Error),
    /// The health endpoints, or the metrics, cannot be served.
    #[error(transparent)]
    Health(#[from] health::Error),
    /// There is nothing to serve.
    #[error("there is no deployment to serve; give --model, or a model_list in gristmill.yaml")]
    NoDeployments,
    /// There is nowhere to take work from.
    #[error("a worker needs a queue")]
    NoQueue,
}

impl Error {
    /// Tells whether a key, model or endpoint is what is missing. Programs end with 2 then, else with 1.
    pub const fn is_setup_fault(&self) -> bool {
        matches!(self, Self::Provider(_) | Self::NoDeployments)
    }
}

/// Makes `ring` the process's TLS provider. Call it first in `main`; again, it does nothing.
pub fn install_tls() {
    // Fails only if one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Runs a worker until `drain`: then it takes no more jobs, lets running calls finish and their results be written, and
/// returns. `abort` ends it at once; what it held comes back when its lease has run out.
///
/// # Errors
///
/// Fails when the store, the broker or a deployment cannot be used as they are. What may pass is waited for.
pub async fn run(options: Options, drain: CancellationToken, abort: CancellationToken) -> Result<(), Error> {
    if options.deployments.is_empty() {
        return Err(Error::NoDeployments);
    }
    install_tls();
    let health = Arc::new(Health::new(Arc::clone(&options.broker), options.lease, drain.clone()));
    let counts = Arc::new(Counts::default());
    let metrics = Arc::new(Metrics::new(Arc::clone(&counts), Arc::clone(&health)));
    let doors = Doors { health: options.health_listen, metrics: options.metrics_addr };
    let _serving = health::serve(doors, Arc::clone(&health), Arc::clone(&metrics)).await?;
    options.store.check_schema().await?;
    let urgent = Arc::new(Notify::new());
    let (groups, spare, accounts) = serve::serve(&options, &urgent)?;
    let all: Vec<Arc<Group>> = groups.iter().chain(&spare).cloned().collect();
    let routes = Arc::new(Routes::new(Arc::clone(&options.routing), &all));
    let names: Vec<String> = groups.iter().map(|group| group.name.to_string()).collect();
    let declare = || options.broker.declare(&names);
    match until_ok(Schedule::RECONNECT, &drain, declare, broker::Error::is_transient, |_, _| {}).await {
        Some(declared) => declared?,
        None => return Ok(()),
    }

    let budgets = Budgets::new(OwnerId::new(options.clock.now()));
    let learn = || budgets.learn(&*options.store);
    match until_ok(Schedule::RECONNECT, &drain, learn, store::Error::is_transient, |_, _| {}).await {
        Some(learnt) => learnt?,
        None => return Ok(()),
    }
    let recorder = Recorder::new(options.tracer.clone(), Arc::clone(&options.clock));
    let in_flight = Arc::new(AtomicU32::new(0));
    let concurrency = options.concurrency.max(1) as usize;
    let bell = Arc::new(Notify::new());
    let uncommitted = Slots::new(store::MOST_UNCOMMITTED as usize * concurrency, Arc::clone(&bell));
    let last_chances = Slots::new(1, Arc::clone(&bell));
    let calls = Slots::new(concurrency, Arc::clone(&bell));
    metrics.watch(Parts {
        groups: all.clone(),
        ledgers: accounts.iter().map(|account| Arc::clone(&account.ledger)).collect(),
        calls: calls.clone(),
        concurrency,
    });
    let line = Arc::new(Line::new(all.clone(), calls, uncommitted.clone(), concurrency, bell));
    let finishing = TaskTracker::new();
    let keeping = TaskTracker::new();
    let stop_keeping = CancellationToken::new();
    let (costs, prices) = Costs::new();
    let costs = Arc::new(costs);
    keeping.spawn(cost::keep(Arc::clone(&options.store), prices, stop_keeping.clone()));
    let keeper = Keeper {
        store: Arc::clone(&options.store),
        broker: Arc::clone(&options.broker),
        clock: Arc::clone(&options.clock),
        counts: Arc::clone(&counts),
        tracer: options.tracer.clone(),
        owner: OwnerId::new(options.clock.now()),
        lease: options.lease,
        max_deaths: options.max_deaths,
        groups: names.clone(),
        alerts: Arc::new(Alerts::new(options.alert_webhook.clone())),
        telling: TaskTracker::new(),
    };
    keeping.spawn(keeper.run(stop_keeping.clone()));
    keeping.spawn({
        let (line, stop) = (Arc::clone(&line), stop_keeping.clone());
        async move { unharmed("the waiting line", || line.run(stop.clone())).await }
    });
    keeping.spawn({
        let (budgets, store, stop) = (Arc::clone(&budgets), Arc::clone(&options.store), stop_keeping.clone());
        async move { unharmed("the leasing of budgets", || budgets.run(Arc::clone(&store), stop.clone())).await }
    });
    let accounts = Accounts {
        store: Arc::clone(&options.store),
        owner: OwnerId::new(options.clock.now()),
        line: Arc::clone(&line),
        accounts,
        urgent,
        counts: Arc::clone(&counts),
    };
    keeping.spawn(accounts.follow().run(options.limits.clone(), stop_keeping.clone()));
    keeping.spawn({
        let stop = stop_keeping.clone();
        async move { unharmed("the leasing of limits", || accounts.run(stop.clone())).await }
    });
    loop {
        let owner = OwnerId::new(options.clock.now());
        let Some(lease) = register(&options, owner, &names, &drain).await? else { break };
        tracing::info!(%owner, groups = ?names, concurrency = options.concurrency, "worker ready");
        let (settled, settlements) = mpsc::unbounded_channel();
        let lease = Arc::new(lease);
        health.begin(Arc::clone(&lease));
        counts.session_began();
        let session = Arc::new(Session {
            store: Arc::clone(&options.store),
            broker: Arc::clone(&options.broker),
            clock: Arc::clone(&options.clock),
            lease,
            health: Arc::clone(&health),
            drain: drain.clone(),
            abort: abort.child_token(),
            hooks: options.hooks.clone(),
            counts: Arc::clone(&counts),
            num_retries: options.num_retries,
            max_deaths: options.max_deaths,
            settled,
            line: Arc::clone(&line),
            routes: Arc::clone(&routes),
            last_chances: last_chances.clone(),
            in_flight: Arc::clone(&in_flight),
            costs: Arc::clone(&costs),
            budgets: Arc::clone(&budgets),
            recorder: recorder.clone(),
        });
        let give_up = abort.child_token();
        let flusher = flush::run(
            Arc::clone(&options.store),
            owner,
            (Arc::clone(&health), Arc::clone(&counts)),
            (Arc::clone(&budgets), recorder.clone()),
            settlements,
            uncommitted.clone(),
            give_up.clone(),
        );
        let ended = one_session(&options, &groups, &all, session, flusher, give_up, &finishing).await?;
        if matches!(ended, Ended::Drained) {
            break;
        }
    }
    stop_keeping.cancel();
    keeping.close();
    finishing.close();
    tokio::select! {
        () = abort.cancelled() => {}
        () = async { keeping.wait().await; finishing.wait().await } => {}
    }
    Ok(())
}

/// Runs a task of which there is one in the process, and again where it panicked: without it no call would start.
async fn unharmed<F: Future<Output = ()>>(what: &str, mut task: impl FnMut() -> F) {
    while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
        tracing::error!(what, "panicked, starting it again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn register(
    options: &Options,
    owner: OwnerId,
    groups: &[String],
    stop: &CancellationToken,
) -> Result<Option<Lease>, Error> {
    let info = WorkerInfo {
        owner,
        host: host(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        groups: groups.to_vec(),
        concurrency: options.concurrency,
    };
    let mut sent = Instant::now();
    let register = || {
        sent = Instant::now();
        options.store.register(&info, options.lease)
    };
    let told = |error: &store::Error, failures| {
        if failures == 1 {
            tracing::warn!(%error, "worker not registered yet, trying again");
        }
    };
    match until_ok(Schedule::RECONNECT, stop, register, store::Error::is_transient, told).await {
        None => Ok(None),
        Some(Ok(())) => Ok(Some(Lease::new(owner, sent, options.lease))),
        Some(Err(error)) => Err(error.into()),
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

enum Ended {
    Drained,
    LeaseLost,
}

/// Runs one session until it is drained or its lease is lost. Calls that outlive a lost lease go on in `finishing`;
/// `give_up` ends the flusher.
async fn one_session(
    options: &Options,
    groups: &[Arc<Group>],
    all: &[Arc<Group>],
    session: Arc<Session>,
    flusher: impl Future<Output = ()> + Send + 'static,
    give_up: CancellationToken,
    finishing: &TaskTracker,
) -> Result<Ended, Error> {
    let stop = session.drain.child_token();
    let intakes = TaskTracker::new();
    let jobs = TaskTracker::new();
    let flushing = TaskTracker::new();
    flushing.spawn(flusher);
    flushing.close();
    let renewing = TaskTracker::new();
    let stop_renewing = CancellationToken::new();
    renewing.spawn({
        let (store, lease, in_flight) =
            (Arc::clone(&session.store), Arc::clone(&session.lease), Arc::clone(&session.in_flight));
        let (stop, ttl, every) = (stop_renewing.clone(), options.lease, options.renew_interval);
        let counts = Arc::clone(&session.counts);
        let gates: Vec<Arc<Gate>> = all.iter().flat_map(|group| group.gates.iter().cloned()).collect();
        async move {
            lease.keep(&*store, ttl, every, &gates, (|| in_flight.load(Ordering::Relaxed), &counts), &stop).await;
        }
    });
    renewing.close();
    let window = u16::try_from((options.concurrency / 4).clamp(8, 200)).unwrap_or(200);
    for group in groups {
        let subscribe = || options.broker.consume(&group.name, window);
        let told = |error: &broker::Error, failures| {
            if failures == 1 {
                tracing::warn!(%error, "not subscribed yet, trying again");
            }
        };
        let consumer = match until_ok(Schedule::RECONNECT, &stop, subscribe, broker::Error::is_transient, told).await {
            Some(consumer) => consumer?,
            None => break,
        };
        let (session, broker, group) = (Arc::clone(&session), Arc::clone(&options.broker), Arc::clone(group));
        let (jobs, stop, scope) = (jobs.clone(), stop.clone(), options.scope.clone());
        intakes.spawn(async move {
            let (lost, name) = (session.lease.lost.clone(), Arc::clone(&group.name));
            let intake = intake::run(session, broker, group, scope, (consumer, window), jobs, stop.clone());
            let ended = AssertUnwindSafe(intake).catch_unwind().await;
            // An intake that ends by itself would leave its group unserved: the session starts over.
            if ended.is_err() || !(stop.is_cancelled() || lost.is_cancelled()) {
                tracing::error!(group = %name, "the intake of a model group ended, starting over");
                lost.cancel();
            }
        });
    }
    intakes.close();
    intakes.wait().await;
    jobs.close();
    let lost = session.lease.lost.is_cancelled();
    let (store, owner) = (Arc::clone(&options.store), session.lease.owner);
    let (grace, ttl) = (options.grace, options.lease);
    let finish = async move {
        if tokio::time::timeout(grace, jobs.wait()).await.is_err() {
            tracing::warn!("calls still run after the grace period, they will be made again");
            session.abort.cancel();
            jobs.wait().await;
        }
        // The last way to the flusher goes with the session.
        drop(session);
        if tokio::time::timeout(grace, flushing.wait()).await.is_err() {
            tracing::warn!(
                "the store did not take all results within the grace period, their calls will be made again"
            );
            give_up.cancel();
            flushing.wait().await;
        }
        stop_renewing.cancel();
        renewing.wait().await;
        if !lost && !give_up.is_cancelled() {
            let leave = || store.deregister(owner);
            let leave = until_ok(Schedule::RECONNECT, &give_up, leave, store::Error::is_transient, |_, _| {});
            // Nothing is unwritten here; after a lease the keeper knows by itself that this owner is gone.
            let _ = tokio::time::timeout(ttl, leave).await;
        }
    };
    if lost {
        finishing.spawn(finish);
        return Ok(Ended::LeaseLost);
    }
    finish.await;
    Ok(Ended::Drained)
}
