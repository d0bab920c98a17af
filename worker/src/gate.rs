//! The gate of a deployment: whether calls may start there.
//!
//! Owns what this worker saw of the deployment and what it heard of the fleet: a pause that one worker finds holds for all, and
//! one probe over all of them ends it ([`gristmill_common::quota`]). A pause holds here at once and is told with the next ask;
//! a crash before that forgets it, and the next calls find it again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gristmill_common::config::Deployment;
use gristmill_common::failure::ErrorRecord;
use gristmill_common::quota::{Look, Pausing, Probed, Sight};
use gristmill_common::store::DeploymentReport;
use tokio::sync::{Notify, watch};

use crate::provider::Provider;
use crate::quota::Ledger;

mod cooling;

pub(crate) use cooling::Cooling;
use cooling::Minute;

/// Faults in a row after which a deployment is paused.
pub(crate) const FAULTS_IN_A_ROW: u32 = 3;
/// Failed calls in a row, without any that was answered, after which a deployment is paused: the provider is out.
const FAILURES_IN_A_ROW: u32 = 10;
/// Refusals in a row after which a wait that was asked for is the deployment's.
const REFUSALS_IN_A_ROW: u32 = 2;
/// A wait that is shorter is the job's alone.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// A wait that is longer is the deployment's at the first refusal.
const LONG_WAIT: Duration = Duration::from_secs(5);
/// The longest pause before somebody who was out is looked for again.
const LONGEST_OUTAGE: Duration = Duration::from_secs(8);
/// The longest pause for what only a person can mend.
const LONGEST_FAULT: Duration = Duration::from_secs(60);
/// Refusals come fast: a probe that is not refused within this time is taken.
const NOT_REFUSED: Duration = Duration::from_millis(1500);
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// A deployment with its gate.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) deployment: Deployment,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) ledger: Arc<Ledger>,
    cooling: Cooling,
    in_flight: AtomicU32,
    latency_ms: AtomicU32,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// Rung when there is something that the fleet should hear of at once.
    urgent: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    minute: Minute,
    /// Moves with every change made here, so that an answer to what was told before is known to be old.
    version: u64,
    untold: Option<Pausing>,
    probed: Option<Probed>,
    again: bool,
    fresh: bool,
    /// Whether a call of this process has shown something. Before that a pause whose time is over is hearsay.
    has_seen: bool,
}

#[derive(Debug)]
enum Mode {
    Open {
        works: bool,
        faults: u32,
        failures: u32,
        refusals: u32,
    },
    /// No call may start; at the end one worker of the fleet is told to probe.
    Resting {
        until: Instant,
        report: Report,
    },
    /// The next call is the probe.
    Ready {
        report: Report,
    },
    Probing {
        since: Instant,
        report: Report,
    },
}

#[derive(Debug, Clone)]
struct Report {
    text: String,
    class: String,
    refusal: bool,
}

/// What a call showed of its deployment.
#[derive(Debug)]
pub(crate) enum Shown<'a> {
    /// It answers.
    Works,
    /// It answers, and what it says is of this one request.
    Disliked(&'a ErrorRecord),
    /// It is at fault.
    Fault(&'a ErrorRecord),
    /// It failed, as it may at any time.
    Failed(&'a ErrorRecord),
    /// It took the call for too many.
    Refused(&'a ErrorRecord),
    /// Nothing: the call told nothing of it.
    Nothing,
}

impl Shown<'_> {
    /// Tells whether it answers; whether the job likes the answer is another matter.
    pub(crate) const fn is_answer(&self) -> bool {
        matches!(self, Self::Works | Self::Disliked(_))
    }

    const fn error(&self) -> Option<&ErrorRecord> {
        match self {
            Self::Disliked(error) | Self::Fault(error) | Self::Failed(error) | Self::Refused(error) => Some(error),
            Self::Works | Self::Nothing => None,
        }
    }
}

impl Mode {
    const OPEN: Self = Self::Open { works: false, faults: 0, failures: 0, refusals: 0 };

    const fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

impl Gate {
    pub(crate) fn new(
        deployment: Deployment,
        provider: Arc<dyn Provider>,
        ledger: Arc<Ledger>,
        cooling: Cooling,
        urgent: Arc<Notify>,
    ) -> Arc<Self> {
        let state = State {
            mode: Mode::OPEN,
            minute: Minute::new(Instant::now()),
            version: 0,
            untold: None,
            probed: None,
            again: false,
            fresh: true,
            has_seen: false,
        };
        Arc::new(Self {
            deployment,
            provider,
            ledger,
            cooling,
            in_flight: AtomicU32::new(0),
            latency_ms: AtomicU32::new(0),
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
            urgent,
        })
    }

    /// Tells whether a call may start now, as a probe or not.
    pub(crate) fn is_passable(&self) -> bool {
        matches!(self.lock().mode, Mode::Open { .. } | Mode::Ready { .. })
    }

    /// Returns how many calls run.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns how long calls take of late; 0 where none was made.
    pub(crate) fn latency_ms(&self) -> u32 {
        self.latency_ms.load(Ordering::Relaxed)
    }

    /// Notes how long a call took.
    pub(crate) fn took(&self, latency_ms: u32) {
        let before = self.latency_ms();
        let now = if before == 0 { latency_ms } else { before - before / 8 + latency_ms / 8 };
        self.latency_ms.store(now.max(1), Ordering::Relaxed);
    }

    /// A call has ended.
    pub(crate) fn ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Begins a call; returns whether it is the probe.
    pub(crate) fn begin(&self, now: Instant) -> bool {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let Mode::Ready { report } = &state.mode else { return false };
        state.mode = Mode::Probing { since: now, report: report.clone() };
        true
    }

    /// Tells whether calls may start now without being a probe.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().mode.is_open()
    }

    /// Tells whether the last call that told something of the deployment showed that it works.
    pub(crate) fn works(&self) -> bool {
        matches!(self.lock().mode, Mode::Open { works: true, .. })
    }

    /// Returns how long the pause lasts yet; zero when open.
    pub(crate) fn paused_for(&self) -> Duration {
        match &self.lock().mode {
            Mode::Open { .. } => Duration::ZERO,
            Mode::Resting { until, .. } => until.saturating_duration_since(Instant::now()),
            Mode::Ready { .. } | Mode::Probing { .. } => FIRST_PAUSE,
        }
    }

    /// Returns a receiver that hears of every opening and pause.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Says for people how it stands.
    pub(crate) fn report(&self) -> DeploymentReport {
        let state = self.lock();
        let paused = match &state.mode {
            Mode::Open { .. } => None,
            Mode::Resting { until, .. } if !state.has_seen && *until <= Instant::now() => None,
            Mode::Resting { report, .. } | Mode::Ready { report } | Mode::Probing { report, .. } => {
                Some(report.clone())
            }
        };
        drop(state);
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

    /// Ends the wait of a pause: the fleet's next call goes at once, as its probe.
    pub(crate) fn look_again(&self) {
        let mut state = self.lock();
        state.again = true;
        // An answer that is under way knows nothing of it.
        state.version += 1;
        drop(state);
        self.urgent.notify_one();
    }

    /// Says how it stands with this worker, and the version of that. `ready`: jobs wait for it.
    pub(crate) fn look(&self, ready: bool) -> (Look, u64) {
        let mut state = self.lock();
        if let Mode::Probing { since, report } = &state.mode
            && report.refusal
            && since.elapsed() >= NOT_REFUSED
        {
            state.change(Mode::OPEN);
            state.probed = Some(Probed::Works);
        }
        let look = Look {
            deployment: Arc::clone(&self.deployment.name),
            group: Arc::clone(&self.deployment.group),
            pause: state.untold.clone(),
            probed: state.probed,
            ready,
            probing: matches!(state.mode, Mode::Probing { .. }),
            again: state.again,
            fresh: state.fresh,
        };
        (look, state.version)
    }

    /// Takes in how it stands in the fleet, in answer to a look of this version.
    pub(crate) fn see(&self, sight: &Sight, version: u64, answered: Instant) {
        let mut state = self.lock();
        if state.version != version {
            return;
        }
        (state.untold, state.probed, state.again, state.fresh) = (None, None, false, false);
        let was_open = state.mode.is_open();
        match (sight, &state.mode) {
            (Sight::Open, Mode::Open { .. }) | (Sight::Probe | Sight::Paused { .. }, Mode::Probing { .. }) => return,
            (Sight::Open, _) => state.mode = Mode::OPEN,
            (Sight::Paused { length, reason, class, refusal }, _) => {
                let report = Report { text: reason.clone(), class: class.clone(), refusal: *refusal };
                state.mode = Mode::Resting { until: answered + *length, report };
            }
            (Sight::Probe, Mode::Resting { report, .. } | Mode::Ready { report }) => {
                state.mode = Mode::Ready { report: report.clone() };
            }
            // This process was told nothing of the pause yet: another's probe died.
            (Sight::Probe, Mode::Open { .. }) => {
                let report = Report { text: "it is tried again".to_owned(), class: String::new(), refusal: false };
                state.mode = Mode::Ready { report };
            }
        }
        let is_open = state.mode.is_open();
        drop(state);
        self.told(was_open, is_open);
    }

    /// Takes in what a call showed.
    pub(crate) fn tell(&self, probe: bool, shown: &Shown<'_>) {
        self.ledger.hear(|heard| match shown {
            Shown::Refused(_) => heard.refused += 1,
            Shown::Failed(error) if error.class == gristmill_common::failure::ErrorClass::Overloaded => {
                heard.overloaded += 1;
            }
            Shown::Failed(_) | Shown::Fault(_) => heard.troubled += 1,
            Shown::Works | Shown::Disliked(_) | Shown::Nothing => {}
        });
        let mut state = self.lock();
        let was_open = state.mode.is_open();
        state.has_seen |= !matches!(shown, Shown::Nothing);
        let is_bad_minute = state.minute.is_bad(shown, &self.cooling, Instant::now());
        let left_alone =
            |error: &ErrorRecord| Pausing { refusal: false, ..self.pausing(error, Some(self.cooling.length)) };
        match (&mut state.mode, shown) {
            (Mode::Open { works, faults, failures, refusals }, Shown::Works | Shown::Disliked(_)) => {
                (*works, *faults, *failures, *refusals) = (true, 0, 0, 0);
                if let (true, Shown::Disliked(error)) = (is_bad_minute, shown) {
                    self.rest(&mut state, left_alone(error));
                }
            }
            (Mode::Open { works, faults, .. }, Shown::Fault(error)) => {
                *works = false;
                *faults += 1;
                if *faults >= FAULTS_IN_A_ROW {
                    self.rest(&mut state, self.pausing(error, None));
                } else if is_bad_minute {
                    self.rest(&mut state, left_alone(error));
                }
            }
            (Mode::Open { failures, .. }, Shown::Failed(error)) => {
                *failures += 1;
                if *failures >= FAILURES_IN_A_ROW && !self.cooling.disabled {
                    self.rest(&mut state, self.pausing(error, None));
                } else if is_bad_minute {
                    self.rest(&mut state, left_alone(error));
                }
            }
            (Mode::Open { refusals, .. }, Shown::Refused(error)) => {
                *refusals += 1;
                let wait = wait(error);
                let is_meant = wait >= SHORT_WAIT || *refusals >= REFUSALS_IN_A_ROW;
                let is_one_too_many = match self.cooling.allowed_for(shown) {
                    Some(_) => is_bad_minute,
                    None => self.cooling.has_others && !self.cooling.disabled && is_meant,
                };
                if is_one_too_many {
                    self.rest(&mut state, self.pausing(error, Some(wait.max(self.cooling.length))));
                } else if wait >= LONG_WAIT || wait >= SHORT_WAIT && *refusals >= REFUSALS_IN_A_ROW {
                    self.rest(&mut state, self.pausing(error, Some(wait)));
                }
            }
            (Mode::Probing { .. }, Shown::Works | Shown::Disliked(_)) if probe => {
                state.change(Mode::Open { works: true, faults: 0, failures: 0, refusals: 0 });
                state.probed = Some(Probed::Works);
            }
            (Mode::Probing { .. }, Shown::Fault(error) | Shown::Failed(error)) if probe => {
                self.rest(&mut state, self.pausing(error, None));
            }
            (Mode::Probing { .. }, Shown::Refused(error)) if probe => {
                self.rest(&mut state, self.pausing(error, Some(wait(error).max(SHORT_WAIT))));
            }
            (Mode::Probing { report, .. }, Shown::Nothing) if probe => {
                let report = report.clone();
                state.change(Mode::Resting { until: Instant::now(), report });
                state.probed = Some(Probed::Nothing);
            }
            // Calls that began before the pause tell nothing new.
            _ => {}
        }
        let (is_open, is_urgent) = (state.mode.is_open(), state.untold.is_some() || state.probed.is_some());
        drop(state);
        if is_urgent {
            self.urgent.notify_one();
        }
        self.told(was_open, is_open);
    }

    fn told(&self, was_open: bool, is_open: bool) {
        if !was_open && is_open {
            tracing::info!(deployment = %self.deployment.name, "deployment works again");
        }
        if was_open != is_open {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pausing(&self, error: &ErrorRecord, length: Option<Duration>) -> Pausing {
        use gristmill_common::failure::ErrorClass as Class;

        let needs_a_person = matches!(
            error.class,
            Class::Authentication | Class::PermissionDenied | Class::NotFound | Class::InsufficientQuota
        );
        let reason = match length {
            Some(length) => {
                let first = error.message.lines().next().unwrap_or_default();
                let asked =
                    if error.retry_after_ms.is_some() { "it asked for a wait" } else { "it is left alone for a time" };
                format!("{asked} of {:.1} s ({}: {first})", length.as_secs_f64(), error.class)
            }
            None => complaint(&self.deployment, error),
        };
        Pausing {
            length,
            longest: if needs_a_person { LONGEST_FAULT } else { LONGEST_OUTAGE },
            reason,
            class: error.class.as_str().to_owned(),
            refusal: length.is_some(),
        }
    }

    /// Pauses here at once, and tells the fleet.
    fn rest(&self, state: &mut State, pausing: Pausing) {
        let report = Report { text: pausing.reason.clone(), class: pausing.class.clone(), refusal: pausing.refusal };
        if state.mode.is_open() {
            tracing::warn!(deployment = %self.deployment.name, failure.code = pausing.class, reason = pausing.reason, "deployment paused");
        }
        let until = Instant::now() + pausing.length.unwrap_or(FIRST_PAUSE);
        state.change(Mode::Resting { until, report });
        state.untold = Some(pausing);
    }
}

impl State {
    fn change(&mut self, mode: Mode) {
        self.mode = mode;
        self.version += 1;
    }
}

fn wait(error: &ErrorRecord) -> Duration {
    error.retry_after_ms.map(Duration::from_millis).unwrap_or_default()
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
        _ if error.status.is_some() => "wait for the provider, whose server fails".to_owned(),
        _ => "check that the server of its api_base runs and can be reached".to_owned(),
    };
    let status = error.status.map(|status| format!("{status} ")).unwrap_or_default();
    format!("{todo} ({status}{}: {})", error.class, error.message.lines().next().unwrap_or_default())
}
