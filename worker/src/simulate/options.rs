//! How a simulator behaves from its start.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::fault::FaultRule;
use super::limit::{LimitChange, LimitShape, Limits, ModelLimits};
use super::outage::Outage;

/// The behaviour of a simulator; [`Control`](super::Control) changes most of it later.
#[derive(Clone)]
pub struct Options {
    /// The address to listen on; port 0 (the default, on 127.0.0.1) takes a free port.
    pub listen: SocketAddr,
    /// Decides faults, latencies and answers; 0 by default.
    pub seed: u64,
    /// Time until an answer is sent; zero by default.
    pub latency: Duration,
    /// The latency varies evenly by this much to both sides; zero by default.
    pub jitter: Duration,
    /// Mean length of an answer in tokens, 100 by default; lengths vary evenly from half to one and a half of it.
    pub output_tokens: u32,
    /// Time for each token of an answer: a stream comes piece by piece, any other answer when all of it is there. Zero by
    /// default.
    pub token_latency: Duration,
    /// What all calls may take together; no limits by default.
    pub limits: Limits,
    /// What the calls to single models may take, beside what all may; at Azure a deployment stands for the model. A model
    /// without limits has an audit of its own as soon as it stands here.
    pub model_limits: Vec<ModelLimits>,
    /// Changes of limits in mid-run, of which no caller is told.
    pub limit_changes: Vec<LimitChange>,
    /// How limits are enforced; by default as buckets with a burst of one second.
    pub limit_shape: LimitShape,
    /// Whether headers and errors tell limits, and what is left of them; true by default.
    pub limit_headers: bool,
    /// Whether a call that a limit refuses is told how long to wait; true by default.
    pub retry_after: bool,
    /// Times in which the provider is away.
    pub outages: Vec<Outage>,
    /// What goes wrong, and how often.
    pub faults: Vec<FaultRule>,
    /// The key that calls must carry, where their provider takes it: `Authorization: Bearer`, `api-key` (Azure) or
    /// `x-api-key` (Anthropic); none by default.
    pub require_key: Option<String>,
    /// The file to which a JSON line is appended for each call that ended.
    pub log: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            seed: 0,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            output_tokens: 100,
            token_latency: Duration::ZERO,
            limits: Limits::default(),
            model_limits: Vec::new(),
            limit_changes: Vec::new(),
            limit_shape: LimitShape::default(),
            limit_headers: true,
            retry_after: true,
            outages: Vec::new(),
            faults: Vec::new(),
            require_key: None,
            log: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("seed", &self.seed)
            .field("latency", &self.latency)
            .field("jitter", &self.jitter)
            .field("output_tokens", &self.output_tokens)
            .field("token_latency", &self.token_latency)
            .field("limits", &self.limits)
            .field("model_limits", &self.model_limits)
            .field("limit_changes", &self.limit_changes)
            .field("limit_shape", &self.limit_shape)
            .field("limit_headers", &self.limit_headers)
            .field("retry_after", &self.retry_after)
            .field("outages", &self.outages)
            .field("faults", &self.faults)
            .field("require_key", &self.require_key.as_ref().map(|_| "[redacted]"))
            .field("log", &self.log)
            .finish()
    }
}
