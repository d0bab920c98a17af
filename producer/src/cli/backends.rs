//! Opens what the configuration names: store, broker, simulator, worker. The only file that knows which there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gristmill_common::broker::{Broker, EmbeddedBroker, RabbitBroker, RabbitOptions};
use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::config::{Config, Deployment, Env, Overrides, Sources};
use gristmill_common::store::{PostgresStore, SqliteStore, Store, WorkerLock};
use gristmill_producer::{Options, Producer};
use gristmill_worker::simulate::{self, Simulator};
use secrecy::SecretString;

use super::Global;
use super::fault::{Exit, Fault};
use super::place::Place;
use super::ui;

/// An answer of the simulator takes about this long, so that a first run looks like a run.
const SIMULATED_LATENCY: Duration = Duration::from_millis(200);

/// What a command does with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Reads and steers.
    Store,
    /// Publishes as well.
    Queue,
    /// Works, so that no other process may work an embedded database.
    Work,
    /// Changes the schema.
    Schema,
}

/// The store and the broker of a process.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) store: Arc<dyn Store>,
    pub(super) broker: Option<Arc<dyn Broker>>,
    pub(super) clock: Arc<dyn Clock>,
    /// The embedded database.
    pub(super) file: Option<PathBuf>,
    /// The right to work an embedded database, given back when the process ends.
    _lock: Option<WorkerLock>,
}

/// Reads the configuration; `simulator` takes every model group's place.
pub(super) fn config(global: &Global, overrides: Overrides, simulator: Option<&Simulator>) -> Result<Config, Fault> {
    let overrides =
        overrides.set("database_url", global.database_url.as_deref()).set("amqp_url", global.amqp_url.as_deref());
    let simulator = simulator.map(|simulator| simulator.base_url().parse()).transpose().map_err(|_| {
        // It names a host and a port of its own.
        Fault::new("the simulator's address is no URL")
    })?;
    let sources = Sources {
        directory: PathBuf::new(),
        file: global.config.clone(),
        env: Env::from_process(),
        overrides,
        simulator,
    };
    let config = Config::load(sources)?;
    if !global.quiet {
        config.warnings().iter().for_each(|warning| ui::tell(&format!("warning: {warning}")));
    }
    Ok(config)
}

impl Backend {
    /// Opens the database and, where the command needs it, the queue.
    pub(super) async fn open(place: &Place, config: &Config, need: Need) -> Result<Self, Fault> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        match place {
            Place::Sqlite(path) => sqlite(path, clock, need, None).await,
            Place::Postgres(url) => postgres(url, clock, config, need).await,
        }
    }

    /// Opens the throw-away database of simulated runs, empty.
    pub(super) async fn simulated(path: &Path) -> Result<Self, Fault> {
        // A run that still goes on keeps its database.
        let lock = SqliteStore::lock_path(path)?;
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            let file = PathBuf::from(name);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Fault::new(format!("removing {} failed", file.display())).because(&error));
                }
                _ => {}
            }
        }
        sqlite(path, Arc::new(SystemClock), Need::Work, Some(lock)).await
    }

    /// Makes a producer of it.
    pub(super) fn producer(&self) -> Producer {
        let options = Options::new(Arc::clone(&self.store), self.broker.clone());
        Producer::connect(Options { clock: Arc::clone(&self.clock), ..options })
    }

    /// Returns what a worker is started with.
    pub(super) fn worker(
        &self,
        config: &Config,
        deployments: Vec<Deployment>,
    ) -> Result<gristmill_worker::Options, Fault> {
        let Some(broker) = &self.broker else { return Err(Fault::new("a worker needs a queue")) };
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        Ok(gristmill_worker::Options {
            concurrency: config.concurrency,
            num_retries: config.num_retries,
            lease: config.lease_ttl,
            renew_interval: config.renew_interval,
            grace: config.grace,
            max_response_bytes: config.max_response_bytes,
            ..gristmill_worker::Options::new(store, Arc::clone(broker), clock, deployments)
        })
    }

    /// Closes the queue's connections.
    pub(super) async fn close(&self) {
        if let Some(broker) = &self.broker {
            // What it does not settle in time comes again.
            let _ = tokio::time::timeout(Duration::from_secs(5), broker.shutdown()).await;
        }
    }
}

async fn sqlite(path: &Path, clock: Arc<dyn Clock>, need: Need, lock: Option<WorkerLock>) -> Result<Backend, Fault> {
    let store = SqliteStore::open(path, Arc::clone(&clock)).await?;
    let lock = match (need, lock) {
        (Need::Work, None) => Some(store.lock_exclusively()?),
        (_, lock) => lock,
    };
    let broker: Option<Arc<dyn Broker>> = match need {
        Need::Store | Need::Schema => None,
        Need::Queue | Need::Work => Some(Arc::new(EmbeddedBroker::new(&store))),
    };
    Ok(Backend { store: store.shared(), broker, clock, file: Some(path.to_owned()), _lock: lock })
}

async fn postgres(url: &SecretString, clock: Arc<dyn Clock>, config: &Config, need: Need) -> Result<Backend, Fault> {
    let store = PostgresStore::connect(url, "gristmill").await?.shared();
    if need != Need::Schema {
        store.check_schema().await?;
    }
    let broker = match need {
        Need::Store | Need::Schema => None,
        Need::Queue | Need::Work => {
            let Some(url) = config.amqp_url.clone() else {
                return Err(Fault::new("AMQP_URL is not set: beside Postgres, the queue is RabbitMQ").hint(
                    "set AMQP_URL=amqp://user:password@host:5672/%2f, or leave DATABASE_URL unset to need no server",
                ));
            };
            let options = RabbitOptions { prefix: config.prefix.clone(), ..RabbitOptions::new(url) };
            let broker: Arc<dyn Broker> = Arc::new(RabbitBroker::connect(options).await?);
            Some(broker)
        }
    };
    Ok(Backend { store, broker, clock, file: None, _lock: None })
}

/// Starts a simulator on a free port of this machine.
pub(super) async fn simulator() -> Result<Simulator, Fault> {
    let options =
        simulate::Options { latency: SIMULATED_LATENCY, jitter: SIMULATED_LATENCY / 2, ..simulate::Options::default() };
    Ok(Simulator::start(options).await?)
}

/// Returns the deployments of some model groups.
pub(super) fn deployments<G: AsRef<str>>(config: &Config, groups: &[G]) -> Result<Vec<Deployment>, Fault> {
    let deployments = config.deployments_for(groups)?;
    if deployments.is_empty() {
        return Err(Fault::new("no deployment serves these requests").exit(Exit::Setup));
    }
    Ok(deployments)
}
