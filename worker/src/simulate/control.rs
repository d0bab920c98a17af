//! Steering a simulator while it runs: from the same process by [`Control`], from another under `/simulator/`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fault::FaultRule;
use super::limit::Limits;
use super::log::Log;
use super::outage;
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

    /// Replaces the limits of all calls together, of which no caller is told.
    ///
    /// What was used of the old limits is used of the new ones, in proportion; what had no limit is unused.
    pub fn set_limits(&self, limits: Limits) {
        self.0.change_limits(None, limits, Instant::now());
    }

    /// Replaces the limits of the calls to one model, as [`set_limits`](Self::set_limits) does for all.
    ///
    /// The model gets an audit of its own from now on, even without a limit.
    pub fn set_model_limits(&self, model: &str, limits: Limits) {
        self.0.change_limits(Some(model), limits, Instant::now());
    }

    /// Switches an outage on, in which calls meet this fault before anything else is looked at, or off.
    ///
    /// Planned outages come and go regardless.
    pub fn set_outage(&self, rule: Option<FaultRule>) {
        self.0.change(|settings| settings.outage = rule);
    }

    /// Sets whether headers and errors tell the limits, and whether refused calls are told how long to wait.
    pub fn set_limit_headers(&self, limit_headers: bool, retry_after: bool) {
        self.0.change(|settings| {
            settings.limit_headers = limit_headers;
            settings.retry_after = retry_after;
        });
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
    /// All limits are set together; what is absent is no limit.
    limits: Option<Limits>,
    /// So are those of each model that is named.
    model_limits: Option<BTreeMap<String, Limits>>,
    outage: Option<Switch>,
    limit_headers: Option<bool>,
    retry_after: Option<bool>,
}

/// An outage: on or off, or what calls meet in it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Switch {
    IsOn(bool),
    Rule(String),
}

impl Switch {
    fn into_rule(self) -> Result<Option<FaultRule>, Refusal> {
        let rule = match self {
            Self::IsOn(false) => return Ok(None),
            Self::IsOn(true) => outage::rule(""),
            Self::Rule(rule) => outage::rule(&rule),
        };
        rule.map(Some).map_err(|cause| Refusal::steering(cause.to_string()))
    }
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
            let outage = change.outage.map(Switch::into_rule).transpose()?;
            shared.change(|settings| {
                settings.latency = change.latency_ms.map_or(settings.latency, Duration::from_millis);
                settings.jitter = change.jitter_ms.map_or(settings.jitter, Duration::from_millis);
                settings.output_tokens = change.output_tokens.unwrap_or(settings.output_tokens);
                settings.token_latency = change.token_ms.map_or(settings.token_latency, Duration::from_millis);
                settings.limit_headers = change.limit_headers.unwrap_or(settings.limit_headers);
                settings.retry_after = change.retry_after.unwrap_or(settings.retry_after);
                if let Some(outage) = outage {
                    settings.outage = outage;
                }
            });
            if let Some(limits) = change.limits {
                control.set_limits(limits);
            }
            for (model, limits) in change.model_limits.unwrap_or_default() {
                control.set_model_limits(&model, limits);
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
