//! The pauses of a deployment, over the whole fleet: one at a time, and one probe at its end.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Look, Micros, Pausing, Probed, Sight};
use crate::id::OwnerId;

const FIRST: Duration = Duration::from_secs(2);
/// How long a probe may be out, or not be made, before another worker's turn comes: the first may have died with its worker, or have
/// no slot for it.
const PROBE: Micros = 30_000_000;
/// How long others have to take a probe that a worker was promised and did not make, before it is promised to that worker again.
const OTHERS: Micros = 2_000_000;
/// How long a pause whose time is over is kept for a deployment that no worker speaks of.
const FORGOTTEN: Micros = 3_600_000_000;

/// A pause that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pause {
    pub(super) until: Micros,
    /// Pauses in a row without an answer between them.
    pub(super) pauses: u32,
    pub(super) reason: String,
    pub(super) class: String,
    #[serde(default)]
    pub(super) refusal: bool,
    /// Whose probe is out, and until when it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) probe: Option<(OwnerId, Micros)>,
    /// When a worker last spoke of the deployment.
    #[serde(default)]
    seen_at: Micros,
}

impl Pause {
    fn new(now: Micros, pausing: &Pausing, pauses: u32) -> Self {
        let grown = FIRST.saturating_mul(1 << (pauses - 1).min(8)).min(pausing.longest);
        Self {
            until: now + micros(pausing.length.unwrap_or(grown)),
            pauses,
            reason: pausing.reason.clone(),
            class: pausing.class.clone(),
            refusal: pausing.refusal,
            probe: None,
            seen_at: now,
        }
    }

    /// Tells whether no worker has the deployment any more, as far as can be told: a wait that was asked for is kept in any case.
    pub(super) fn is_forgotten(&self, now: Micros) -> bool {
        now - self.until.max(self.seen_at) > FORGOTTEN
    }

    pub(super) fn shift(&mut self, by: Micros) {
        self.until -= by;
        self.seen_at -= by;
        if let Some((_, until)) = &mut self.probe {
            *until -= by;
        }
    }
}

/// Takes in what a worker saw of a deployment. Returns whether it was opened again.
pub(super) fn see(pause: &mut Option<Pause>, now: Micros, owner: OwnerId, look: &Look) -> bool {
    let is_prober = |pause: &Pause| pause.probe.is_some_and(|(prober, _)| prober == owner);
    let mut opened = false;
    if let Some(held) = pause
        && (look.again || look.fresh && !held.refusal)
    {
        (held.until, held.probe) = (held.until.min(now), None);
    }
    match (pause.as_mut(), look.probed) {
        (Some(held), Some(Probed::Works)) if is_prober(held) => {
            *pause = None;
            opened = true;
        }
        (Some(held), Some(Probed::Nothing)) if is_prober(held) => held.probe = None,
        _ => {}
    }
    if let Some(pausing) = &look.pause {
        match pause.as_mut() {
            None => *pause = Some(Pause::new(now, pausing, 1)),
            Some(held) if is_prober(held) => *pause = Some(Pause::new(now, pausing, held.pauses + 1)),
            // What was under way when the pause began tells nothing new, but a wait that was asked for is kept.
            Some(held) => {
                if let Some(length) = pausing.length {
                    held.until = held.until.max(now + micros(length));
                }
            }
        }
    }
    if let Some(held) = pause {
        held.seen_at = now;
    }
    opened
}

/// Says how a deployment stands for this worker, and hands out the probe.
pub(super) fn stand(pause: &mut Option<Pause>, now: Micros, owner: OwnerId, look: &Look) -> Sight {
    let Some(held) = pause else { return Sight::Open };
    let is_promised = |(prober, until): (OwnerId, Micros)| prober == owner && until > now;
    let may_have = match held.probe {
        None => look.ready,
        Some((prober, _)) if prober == owner && look.probing => true,
        Some((prober, until)) => look.ready && until + if prober == owner { OTHERS } else { 0 } <= now,
    };
    if held.until <= now && may_have {
        held.probe = Some((owner, now + PROBE));
        return Sight::Probe;
    }
    if held.until <= now && look.ready && held.probe.is_some_and(is_promised) {
        return Sight::Probe;
    }
    let left = if held.until > now { held.until - now } else { held.probe.map_or(0, |(_, until)| until - now) };
    Sight::Paused {
        length: Duration::from_micros(u64::try_from(left).unwrap_or_default()),
        reason: held.reason.clone(),
        class: held.class.clone(),
        refusal: held.refusal,
    }
}

pub(super) fn micros(length: Duration) -> Micros {
    Micros::try_from(length.as_micros()).unwrap_or(Micros::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    fn owners() -> (OwnerId, OwnerId) {
        let now = chrono::DateTime::from_timestamp(1_000, 0).unwrap();
        (OwnerId::new(now), OwnerId::new(now))
    }

    fn look() -> Look {
        Look { ready: true, ..Look::of("d".into(), "m".into()) }
    }

    fn fault(length: Option<Duration>) -> Look {
        let longest = Duration::from_secs(60);
        let pausing =
            Pausing { length, longest, reason: "set the key".to_owned(), class: "X".to_owned(), refusal: false };
        Look { pause: Some(pausing), ..look() }
    }

    #[test]
    fn one_worker_probes_and_its_answer_opens() {
        let (a, b) = owners();
        let mut pause = None;
        see(&mut pause, 0, a, &fault(None));
        assert!(matches!(stand(&mut pause, 0, b, &look()), Sight::Paused { length, .. } if length.as_secs() == 2));
        assert_eq!(stand(&mut pause, 2 * SECOND, b, &look()), Sight::Probe);
        assert!(matches!(stand(&mut pause, 2 * SECOND, a, &look()), Sight::Paused { .. }), "one at a time");
        assert!(!see(&mut pause, 3 * SECOND, a, &Look { probed: Some(Probed::Works), ..look() }), "not its probe");
        assert!(see(&mut pause, 3 * SECOND, b, &Look { probed: Some(Probed::Works), ..look() }));
        assert_eq!(stand(&mut pause, 3 * SECOND, a, &look()), Sight::Open);
    }

    #[test]
    fn pauses_grow_while_probes_fail_and_late_failures_change_nothing() {
        let (a, b) = owners();
        let mut pause = None;
        let mut now = 0;
        see(&mut pause, now, a, &fault(None));
        let mut lengths = Vec::new();
        for _ in 0..7 {
            let left = pause.as_ref().unwrap().until - now;
            lengths.push(left / SECOND);
            see(&mut pause, now, b, &fault(None));
            assert_eq!(pause.as_ref().unwrap().until - now, left);
            now += left;
            assert_eq!(stand(&mut pause, now, a, &look()), Sight::Probe);
            see(&mut pause, now, a, &fault(None));
        }
        assert_eq!(lengths, [2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_and_a_probe_that_died_is_replaced() {
        let (a, b) = owners();
        let mut pause = None;
        see(&mut pause, 0, a, &fault(Some(Duration::from_secs(7))));
        see(&mut pause, SECOND, b, &fault(Some(Duration::from_secs(3))));
        assert_eq!(pause.as_ref().unwrap().until, 7 * SECOND);
        assert_eq!(stand(&mut pause, 7 * SECOND, a, &look()), Sight::Probe);
        assert!(matches!(stand(&mut pause, 36 * SECOND, b, &look()), Sight::Paused { .. }));
        assert_eq!(stand(&mut pause, 37 * SECOND, b, &look()), Sight::Probe);
    }

    #[test]
    fn a_probe_that_is_not_made_goes_to_another_and_one_that_runs_stays_the_only_one() {
        let (a, b) = owners();
        let mut pause = None;
        see(&mut pause, 0, a, &fault(Some(Duration::from_secs(1))));
        for second in [1, 10, 30] {
            assert_eq!(stand(&mut pause, second * SECOND, a, &look()), Sight::Probe, "it is promised for 30 s");
            assert!(matches!(stand(&mut pause, second * SECOND, b, &look()), Sight::Paused { .. }));
        }
        assert!(matches!(stand(&mut pause, 31 * SECOND, a, &look()), Sight::Paused { .. }), "others come first");
        assert_eq!(stand(&mut pause, 32 * SECOND, b, &look()), Sight::Probe);
        let runs = Look { ready: false, probing: true, ..look() };
        for second in [40, 60, 80] {
            assert_eq!(stand(&mut pause, second * SECOND, b, &runs), Sight::Probe);
        }
        assert!(matches!(stand(&mut pause, 100 * SECOND, a, &look()), Sight::Paused { .. }), "it runs");
        assert_eq!(stand(&mut pause, 110 * SECOND, a, &look()), Sight::Probe, "it was not heard of for 30 s");
        assert_eq!(stand(&mut pause, 143 * SECOND, a, &look()), Sight::Probe, "nobody else wanted it");
    }

    #[test]
    fn who_asks_to_look_again_need_not_wait() {
        let (a, _) = owners();
        let mut pause = None;
        see(&mut pause, 0, a, &fault(None));
        see(&mut pause, 1, a, &Look { again: true, ..look() });
        assert_eq!(stand(&mut pause, 1, a, &look()), Sight::Probe);
    }

    #[test]
    fn who_has_just_started_tries_again_at_once_unless_a_wait_was_asked_for() {
        let (a, b) = owners();
        for refusal in [false, true] {
            let mut pause = None;
            let mut look_of_a = fault(None);
            look_of_a.pause.as_mut().unwrap().refusal = refusal;
            see(&mut pause, 0, a, &look_of_a);
            see(&mut pause, 1, b, &Look { fresh: true, ..look() });
            assert_eq!(stand(&mut pause, 1, b, &look()) == Sight::Probe, !refusal);
        }
    }

    #[test]
    fn a_pause_is_forgotten_an_hour_after_anybody_spoke_of_it_and_never_before_its_end() {
        const HOUR: Micros = 3_600 * SECOND;
        let (a, b) = owners();
        let mut pause = None;
        see(&mut pause, 0, a, &fault(None));
        let is_forgotten = |pause: &Option<Pause>, now| pause.as_ref().unwrap().is_forgotten(now);
        assert!(!is_forgotten(&pause, HOUR) && is_forgotten(&pause, HOUR + 3 * SECOND));
        see(&mut pause, HOUR, b, &Look { ready: false, ..look() });
        assert!(!is_forgotten(&pause, 2 * HOUR) && is_forgotten(&pause, 2 * HOUR + 1));
        let mut long = None;
        see(&mut long, 0, a, &fault(Some(Duration::from_secs(86_400))));
        assert!(!is_forgotten(&long, 24 * HOUR) && is_forgotten(&long, 25 * HOUR + 1));
    }

    #[test]
    fn a_worker_without_jobs_does_not_take_the_probe() {
        let (a, b) = owners();
        let mut pause = None;
        see(&mut pause, 0, a, &fault(None));
        assert!(matches!(stand(&mut pause, 9 * SECOND, a, &Look { ready: false, ..look() }), Sight::Paused { .. }));
        assert_eq!(stand(&mut pause, 9 * SECOND, b, &look()), Sight::Probe);
    }
}
