//! What a process is configured to do: where its store and broker are, and which deployments it may call.
//!
//! Layers, later ones winning: defaults, `gristmill.yaml`, environment, flags. Owns the option list, its defaults and
//! checks; knows nothing of the command line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// One provider endpoint that serves a model group.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Unique in the process; shown to people, so it never holds the endpoint or the key.
    pub name: Arc<str>,
    /// The model group that it serves: what users write as `model`.
    pub group: Arc<str>,
    /// The provider kind, for example `openai`.
    pub provider: Arc<str>,
    /// The model's name at the provider.
    pub model: Arc<str>,
    /// The endpoint, for example `https://api.openai.com/v1`; never shown.
    pub api_base: Endpoint,
    /// The key; never shown.
    pub api_key: Option<SecretString>,
    /// The name of the variable or file that the key came from; what a message about a wrong key names.
    pub key_source: Option<String>,
    /// Time limits of a call.
    pub timeouts: Timeouts,
    /// Calls that may run at once in this process; `None` leaves it to the worker's concurrency.
    pub max_parallel_requests: Option<u32>,
    /// Retries after the first call, where the deployment has a number of its own; a job's own number comes first.
    pub num_retries: Option<u16>,
    /// Whether it is the simulator.
    pub simulated: bool,
}

/// An endpoint whose `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(pub Url);

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoint(..)")
    }
}

/// Time limits of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connection, TLS included. Default 10 s.
    pub connect: Duration,
    /// From the request being sent to the first byte of the answer's head. Default: as `total`.
    pub first_byte: Duration,
    /// Between two reads of the answer's body. Default 60 s.
    pub idle: Duration,
    /// Of the whole call. Default 600 s, the default of OpenAI's own clients.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let total = Duration::from_secs(600);
        Self { connect: Duration::from_secs(10), first_byte: total, idle: Duration::from_secs(60), total }
    }
}
