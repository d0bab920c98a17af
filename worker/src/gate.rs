//! The gate of a deployment: how many calls may run at once, and whether any may.
//!
//! Owns the pause after faults that are the deployment's, not a job's (a wrong key, no model, nobody listening): after
//! [`FAULTS_IN_A_ROW`] of them no call starts until a probe has shown that it works again. The state is this process's own;
//! a crash forgets it, and the next process finds the fault again with a few calls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gristmill_common::config::Deployment;
use gristmill_common::failure::ErrorRecord;
use gristmill_common::store::DeploymentReport;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::provider::Provider;

/// Faults in a row after which a deployment is paused.
pub(crate) const FAULTS_IN_A_ROW: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A deployment with its gate.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) deployment: Deployment,
    pub(crate) provider: Arc<dyn Provider>,
    slots: usize,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
enum State {
    Open { faults: u32, works: bool },
    Paused { until: Instant, pauses: u32, report: Report },
    Probing { pauses: u32, report: Report },
}

#[derive(Debug, Clone)]
struct Report {
    text: String,
    class: String,
}

/// The right to make one call.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    probe: bool,
    told: bool,
    _slot: OwnedSemaphorePermit,
}

/// What a call showed of its deployment.
#[derive(Debug)]
pub(crate) enum Shown<'a> {
    /// It answers; whether the job liked the answer is another matter.
    Works,
    /// It is at fault.
    Fault(&'a ErrorRecord),
    /// Nothing: the call told nothing of it.
    Nothing,
}

impl Gate {
    pub(crate) fn new(deployment: Deployment, provider: Arc<dyn Provider>, concurrency: u32) -> Arc<Self> {
        let limit = deployment.limits.max_parallel_requests.and_then(|limit| u32::try_from(limit).ok());
        let slots = limit.unwrap_or(concurrency).max(1) as usize;
        Arc::new(Self {
            deployment,
            provider,
            slots,
            permits: Arc::new(Semaphore::new(slots)),
            state: Mutex::new(State::Open { faults: 0, works: false }),
            changed: watch::Sender::new(0),
        })
    }

    /// Returns how many calls may run at once.
    pub(crate) const fn slots(&self) -> usize {
        self.slots
    }

    /// Waits for the right to make a call: for a free slot, and while the deployment is paused. Cancel safe.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let wait = match self.pass() {
                Pass::Go { probe } => {
                    let mut permit = PendingProbe { gate: self, probe };
                    // The semaphore is never closed.
                    let Ok(slot) = Arc::clone(&self.permits).acquire_owned().await else { continue };
                    permit.probe = false;
                    // It may have been paused while this call waited for its slot.
                    if !probe && matches!(*self.lock(), State::Paused { .. } | State::Probing { .. }) {
                        continue;
                    }
                    return Permit { gate: Arc::clone(self), probe, told: false, _slot: slot };
                }
                Pass::Wait { until } => until,
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep_until(wait) => {}
            }
        }
    }

    /// Takes a free slot if calls may start now.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        if !self.is_open() {
            return None;
        }
        let slot = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(Permit { gate: Arc::clone(self), probe: false, told: false, _slot: slot })
    }

    /// Tells whether calls may start now.
    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.lock(), State::Open { .. })
    }

    /// Tells whether the last call that told something of the deployment showed that it works.
    pub(crate) fn works(&self) -> bool {
        matches!(*self.lock(), State::Open { works: true, .. })
    }

    /// Returns how long the pause lasts yet; zero when open.
    pub(crate) fn paused_for(&self) -> Duration {
        match &*self.lock() {
            State::Open { .. } => Duration::ZERO,
            State::Paused { until, .. } => until.saturating_duration_since(Instant::now()),
            State::Probing { .. } => FIRST_PAUSE,
        }
    }

    /// Returns a receiver that hears of every opening and pause.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says for people how it stands.
    pub(crate) fn report(&self) -> DeploymentReport {
        let paused = match &*self.lock() {
            State::Open { .. } => None,
            State::Paused { report, .. } | State::Probing { report, .. } => Some(report.clone()),
        };
        DeploymentReport {
            deployment: self.deployment.name.to_string(),
            group: self.deployment.group.to_string(),
            class: paused.as_ref().map(|report| report.class.clone()),
            paused: paused.map(|report| report.text),
        }
    }

    /// Says of a fault what a pause for it would say.
    pub(crate) fn fault(&self, error: &ErrorRecord) -> String {
        DeploymentReport { paused: Some(complaint(&self.deployment, error)), ..self.report() }
            .reason()
            .unwrap_or_default()
    }

    /// Ends the wait of a pause: the next call goes at once, as its probe.
    pub(crate) fn look_again(&self) {
        if let State::Paused { until, .. } = &mut *self.lock() {
            *until = Instant::now();
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self) -> Pass {
        let mut state = self.lock();
        match &*state {
            State::Open { .. } => Pass::Go { probe: false },
            State::Paused { until, .. } if Instant::now() < *until => Pass::Wait { until: Some(*until) },
            State::Paused { pauses, report, .. } => {
                *state = State::Probing { pauses: *pauses, report: report.clone() };
                Pass::Go { probe: true }
            }
            State::Probing { .. } => Pass::Wait { until: None },
        }
    }

    fn tell(&self, probe: bool, shown: &Shown<'_>) {
        let mut state = self.lock();
        let next = match (&*state, shown) {
            (State::Open { .. }, Shown::Works) => Some(State::Open { faults: 0, works: true }),
            (State::Open { faults, .. }, Shown::Fault(error)) if faults + 1 >= FAULTS_IN_A_ROW => {
                Some(self.pause(0, error))
            }
            (State::Open { faults, .. }, Shown::Fault(_)) => Some(State::Open { faults: faults + 1, works: false }),
            (State::Probing { .. }, Shown::Works) if probe => Some(State::Open { faults: 0, works: true }),
            (State::Probing { pauses, .. }, Shown::Fault(error)) if probe => Some(self.pause(*pauses, error)),
            // The probe told nothing: let another one go at once.
            (State::Probing { pauses, report }, Shown::Nothing) if probe => {
                Some(State::Paused { until: Instant::now(), pauses: *pauses, report: report.clone() })
            }
            // Calls that began before the pause tell nothing new.
            _ => None,
        };
        let Some(next) = next else { return };
        let (was_open, is_open) = (matches!(*state, State::Open { .. }), matches!(next, State::Open { .. }));
        *state = next;
        drop(state);
        if was_open && is_open {
            return;
        }
        if is_open {
            tracing::info!(deployment = %self.deployment.name, "deployment works again");
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn pause(&self, pauses: u32, error: &ErrorRecord) -> State {
        let length = FIRST_PAUSE.saturating_mul(1 << pauses.min(8)).min(LONGEST_PAUSE);
        let report = Report { text: complaint(&self.deployment, error), class: error.class.as_str().to_owned() };
        if pauses == 0 {
            tracing::warn!(deployment = %self.deployment.name, failure.code = %error.class, reason = report.text, "deployment paused");
        }
        State::Paused { until: Instant::now() + length, pauses: pauses + 1, report }
    }
}

/// Says what to do about a fault of a deployment and, behind it, what the fault is.
pub(crate) fn complaint(deployment: &Deployment, error: &ErrorRecord) -> String {
    use gristmill_common::failure::ErrorClass as Class;

    let key = deployment
        .key_source
        .as_deref()
        .unwrap_or("api_key in its entry of model_list, or the variable beside its api_base,");
    let todo = match error.class {
        Class::Authentication if deployment.key_file.is_some() => {
            format!("write a valid key into the file of {key}; it is read again by itself")
        }
        Class::Authentication => format!("set {key} to a valid key"),
        Class::PermissionDenied => format!("allow the key from {key} to use model `{}`", deployment.model),
        Class::NotFound => format!("check the model name `{}` and the api_base", deployment.model),
        Class::InsufficientQuota => "add credit or raise the spending limit at the provider".to_owned(),
        _ => "check that the server of its api_base runs and can be reached".to_owned(),
    };
    let status = error.status.map(|status| format!("{status} ")).unwrap_or_default();
    format!("{todo} ({status}{}: {})", error.class, error.message.lines().next().unwrap_or_default())
}

enum Pass {
    Go { probe: bool },
    Wait { until: Option<Instant> },
}

/// Gives the probe's turn back when its call was given up before it had a slot.
struct PendingProbe<'a> {
    gate: &'a Gate,
    probe: bool,
}

impl Drop for PendingProbe<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.gate.tell(true, &Shown::Nothing);
        }
    }
}

impl Permit {
    /// Returns the deployment to call.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Says what the call showed, and frees the slot.
    pub(crate) fn finish(mut self, shown: &Shown<'_>) {
        self.told = true;
        self.gate.tell(self.probe, shown);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.told {
            self.gate.tell(self.probe, &Shown::Nothing);
        }
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}
