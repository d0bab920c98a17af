//! How a simulator behaves from its start.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::fault::FaultRule;

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
    /// Requests per minute; none by default.
    pub rpm: Option<u32>,
    /// Tokens per minute, counted as each provider does; none by default. OpenAI takes the larger of the prompt's estimate
    /// and the maximum of the answer, Azure takes both, Anthropic the prompt alone.
    pub tpm: Option<u32>,
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
            rpm: None,
            tpm: None,
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
            .field("rpm", &self.rpm)
            .field("tpm", &self.tpm)
            .field("faults", &self.faults)
            .field("require_key", &self.require_key.as_ref().map(|_| "[redacted]"))
            .field("log", &self.log)
            .finish()
    }
}
