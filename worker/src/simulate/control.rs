//! Steering a simulator while it runs: from the same process by [`Control`], from another under `/simulator/`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fault::FaultRule;
use super::log::Log;
use super::refusal::Refusal;
use super::shared::Shared;
use super::stats::Stats;

/// Steers and observes a running simulator; clones are cheap and act on the same one.
///
/// A change applies to the calls that arrive after it.
#[derive(Debug, Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Reads the counters.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Returns the fault rules that apply.
    pub fn faults(&self) -> Vec<FaultRule> {
        self.0.settings().faults.clone()
    }

    /// Replaces all fault rules; none is no faults.
    pub fn set_faults(&self, faults: Vec<FaultRule>) {
        self.0.change(|settings| settings.faults = faults);
    }

    /// Sets how long an answer takes: `latency`, give or take `jitter`.
    pub fn set_latency(&self, latency: Duration, jitter: Duration) {
        self.0.change(|settings| {
            settings.latency = latency;
            settings.jitter = jitter;
        });
    }

    /// Sets the mean length of an answer in tokens.
    pub fn set_output_tokens(&self, output_tokens: u32) {
        self.0.change(|settings| settings.output_tokens = output_tokens);
    }

    /// Sets the time for each token of an answer.
    pub fn set_token_latency(&self, token_latency: Duration) {
        self.0.change(|settings| settings.token_latency = token_latency);
    }

    /// Sets the limits of requests and tokens per minute; `None` or 0 is no limit. The new buckets are full.
    pub fn set_limits(&self, rpm: Option<u32>, tpm: Option<u32>) {
        self.0.meter.set(rpm, tpm, Instant::now());
    }

    /// Sets the key that calls must carry; `None` lets every call in.
    pub fn set_required_key(&self, key: Option<String>) {
        self.0.change(|settings| settings.required_key = key);
    }

    /// Writes the lines of all ended calls to the log file.
    pub fn flush_log(&self) {
        if let Some(log) = &self.0.log {
            Log::flush(log);
        }
    }
}

/// The body of `POST /simulator/settings`; what is absent stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    latency_ms: Option<u64>,
    jitter_ms: Option<u64>,
    output_tokens: Option<u32>,
    token_ms: Option<u64>,
    /// Both limits are set together; 0 is no limit.
    limits: Option<Limits>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default)]
    rpm: u32,
    #[serde(default)]
    tpm: u32,
}

/// Carries out a call under `/simulator/` and returns the JSON to answer with.
pub(super) fn steer(shared: &Arc<Shared>, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let control = Control::new(Arc::clone(shared));
    let answer = match (method, path) {
        ("GET", "/simulator/stats") => to_value(control.stats()),
        ("GET", "/simulator/faults") => faults(&control),
        ("POST", "/simulator/faults") => {
            let rules: Vec<String> = read(body)?;
            let rules: Result<Vec<FaultRule>, _> = rules.iter().map(|rule| rule.parse()).collect();
            control.set_faults(rules.map_err(|cause| Refusal::steering(cause.to_string()))?);
            faults(&control)
        }
        ("POST", "/simulator/settings") => {
            let change: Change = read(body)?;
            shared.change(|settings| {
                settings.latency = change.latency_ms.map_or(settings.latency, Duration::from_millis);
                settings.jitter = change.jitter_ms.map_or(settings.jitter, Duration::from_millis);
                settings.output_tokens = change.output_tokens.unwrap_or(settings.output_tokens);
                settings.token_latency = change.token_ms.map_or(settings.token_latency, Duration::from_millis);
            });
            if let Some(limits) = change.limits {
                control.set_limits(Some(limits.rpm), Some(limits.tpm));
            }
            json!({ "ok": true })
        }
        (_, "/simulator/stats" | "/simulator/faults" | "/simulator/settings") => {
            return Err(Refusal::wrong_method(method, path));
        }
        _ => return Err(Refusal::no_such_path(method, path)),
    };
    Ok(answer.to_string().into_bytes())
}

fn faults(control: &Control) -> Value {
    let rules: Vec<String> = control.faults().iter().map(ToString::to_string).collect();
    json!({ "faults": rules })
}

fn to_value(stats: impl Serialize) -> Value {
    serde_json::to_value(stats).expect("counters under string keys always make JSON")
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|cause| Refusal::steering(format!("The body cannot be read: {cause}.")))
}
