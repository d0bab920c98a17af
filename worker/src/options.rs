//! What a worker is started with.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gristmill_common::backend::Backend;
use gristmill_common::broker::Broker;
use gristmill_common::clock::Clock;
use gristmill_common::config::{Config, Deployment, Routing};
use gristmill_common::job::JobRef;
use gristmill_common::store::{self, Store};
use gristmill_common::trace::Tracer;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::hooks::Hooks;
use crate::{Error, provider, reload, serve};

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where requests and results are.
    pub store: Arc<dyn Store>,
    /// Where work comes from.
    pub broker: Arc<dyn Broker>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What it serves.
    pub deployments: Vec<Deployment>,
    /// What it may call beside them: the groups that [`Self::routing`] falls back to. Default: nothing.
    pub spare: Vec<Deployment>,
    /// How calls are spread and where they go when one fails. Default: by weight, and nowhere.
    pub routing: Arc<Routing>,
    /// Calls that run at once at most. Default 128.
    pub concurrency: u32,
    /// Retries after the first call, for jobs that do not say. Default 5.
    pub num_retries: u16,
    /// How long it may be silent before its jobs go to others. Default 15 s.
    pub lease: Duration,
    /// How often the lease is renewed; also how soon a cancelled batch is heard of. Default 700 ms.
    pub renew_interval: Duration,
    /// How long running calls may go on after it was asked to drain, and then as long again their results may wait for the
    /// store. Default 30 s.
    pub grace: Duration,
    /// Longest answer of a provider that is taken, in bytes. Default 64 MiB.
    pub max_response_bytes: usize,
    /// Owners that may die on a job before it ends as failed. Default 3.
    pub max_deaths: u32,
    /// Where `GET /live` and `GET /ready` are answered. Default: nowhere.
    pub health_listen: Option<SocketAddr>,
    /// Where `GET /metrics` is answered, and health as well; it may be the same address. Default: nowhere.
    pub metrics_addr: Option<SocketAddr>,
    /// The jobs that it takes. Default: all.
    pub scope: Scope,
    /// What the program adds: providers, observers, changes. Default: nothing.
    pub hooks: Hooks,
    /// Limits of accounts that change while it runs, such as [`reload::limits`](crate::reload::limits) has. Default: those of the deployments stay.
    pub limits: Option<watch::Receiver<reload::LimitsByAccount>>,
    /// Where alerts of budgets are posted; a secret. Default: nowhere.
    pub alert_webhook: Option<SecretString>,
    /// Where traces go. Default: nowhere.
    pub tracer: Tracer,
}

/// The jobs that a worker takes; the messages of others stay in their queues for later processes.
///
/// For the embedded broker: one on a server would be given back, and bring again, what is left out.
#[derive(Clone, Default)]
pub struct Scope(Option<Arc<Takes>>);

type Takes = dyn Fn(&JobRef) -> bool + Send + Sync;

impl Scope {
    /// Takes only jobs of which `takes` says so; it must not change its mind.
    pub fn new(takes: impl Fn(&JobRef) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(takes)))
    }

    pub(crate) fn takes(&self, job: &JobRef) -> bool {
        self.0.as_ref().is_none_or(|takes| takes(job))
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Scope(some jobs)" } else { "Scope(all jobs)" })
    }
}

impl Options {
    /// Makes options with the defaults.
    pub fn new(
        store: Arc<dyn Store>,
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        deployments: Vec<Deployment>,
    ) -> Self {
        Self {
            store,
            broker,
            clock,
            deployments,
            spare: Vec::new(),
            routing: Arc::default(),
            concurrency: 128,
            num_retries: 5,
            lease: Duration::from_secs(15),
            renew_interval: Duration::from_millis(700),
            grace: Duration::from_secs(30),
            max_response_bytes: provider::DEFAULT_MAX_RESPONSE_BYTES,
            max_deaths: store::MAX_DEATHS,
            health_listen: None,
            metrics_addr: None,
            scope: Scope::default(),
            hooks: Hooks::default(),
            limits: None,
            alert_webhook: None,
            tracer: Tracer::default(),
        }
    }

    /// Makes the options that a configuration says, on a back end that was opened to work.
    ///
    /// # Errors
    ///
    /// [`Error::NoQueue`] if it was opened without one.
    pub fn from_config(config: &Config, backend: &Backend, deployments: Vec<Deployment>) -> Result<Self, Error> {
        let broker = backend.broker.clone().ok_or(Error::NoQueue)?;
        Ok(Self {
            spare: serve::spare(config, &deployments),
            routing: Arc::new(config.routing().clone()),
            concurrency: config.concurrency,
            num_retries: config.num_retries,
            lease: config.lease_ttl,
            renew_interval: config.renew_interval,
            grace: config.grace,
            max_response_bytes: config.max_response_bytes,
            alert_webhook: config.alert_webhook.clone(),
            tracer: backend.tracer.clone(),
            ..Self::new(Arc::clone(&backend.store), broker, Arc::clone(&backend.clock), deployments)
        })
    }
}
