//! When a deployment is left alone beside what its pauses say: by how many calls of a minute failed. Pure.

use std::time::{Duration, Instant};

use gristmill_common::config::AllowedFailsPolicy;
use gristmill_common::failure::{ErrorClass, ErrorRecord};

use super::Shown;

/// Calls of a minute of which half must not fail.
const ENOUGH: u32 = 5;
const MINUTE: Duration = Duration::from_secs(60);

/// When a deployment is left alone: LiteLLM's rules, version 1.109.1 (`router_utils/cooldown_handlers.py`, read 2026-11).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cooling {
    /// Whether other deployments of the group can take its calls.
    pub(crate) has_others: bool,
    /// How long.
    pub(crate) length: Duration,
    /// Failures in a minute that are allowed; without it, half of at least [`ENOUGH`] calls.
    pub(crate) allowed_fails: Option<u32>,
    /// The same for single classes, in the place of that.
    pub(crate) by_class: AllowedFailsPolicy,
    /// Whether none of this counts.
    pub(crate) disabled: bool,
}

impl Cooling {
    /// Returns the failures in a minute that are allowed for the class of this one; `None` where nothing is said of it.
    pub(super) fn allowed_for(&self, shown: &Shown<'_>) -> Option<u32> {
        let of = |error: &ErrorRecord, say: &dyn Fn(&ErrorClass) -> Option<u32>| {
            say(error.counts_as()).or_else(|| say(&error.class))
        };
        match shown {
            Shown::Fault(error) | Shown::Failed(error) | Shown::Refused(error) => {
                of(error, &|class| self.by_class.allowed_for(class))
            }
            // What a request did wrong says nothing of a deployment, unless somebody says that it does.
            Shown::Disliked(error) => of(error, &|class| self.by_class.named_for(class)),
            Shown::Works | Shown::Nothing => None,
        }
    }
}

/// Calls of a minute.
#[derive(Debug)]
pub(super) struct Minute {
    since: Instant,
    calls: u32,
    failures: u32,
    /// Failures of classes of which something is said.
    by_class: Vec<(ErrorClass, u32)>,
}

impl Minute {
    pub(super) const fn new(since: Instant) -> Self {
        Self { since, calls: 0, failures: 0, by_class: Vec::new() }
    }

    /// Counts a call; tells whether too many of its minute failed.
    pub(super) fn is_bad(&mut self, shown: &Shown<'_>, cooling: &Cooling, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= MINUTE {
            *self = Self::new(now);
        }
        self.calls += 1;
        let bad = match (cooling.allowed_for(shown), shown.error()) {
            (Some(allowed), Some(error)) => self.count(error.counts_as()) > allowed,
            _ => self.is_bad_over_all(shown, cooling),
        };
        if bad {
            *self = Self::new(now);
        }
        bad && !cooling.disabled
    }

    fn is_bad_over_all(&mut self, shown: &Shown<'_>, cooling: &Cooling) -> bool {
        if !matches!(shown, Shown::Failed(_) | Shown::Fault(_)) {
            return false;
        }
        self.failures += 1;
        match cooling.allowed_fails {
            Some(allowed) => self.failures > allowed,
            None => cooling.has_others && self.calls >= ENOUGH && self.failures * 2 > self.calls,
        }
    }

    fn count(&mut self, class: &ErrorClass) -> u32 {
        if let Some((_, count)) = self.by_class.iter_mut().find(|(other, _)| other == class) {
            *count += 1;
            return *count;
        }
        self.by_class.push((class.clone(), 1));
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLING: Cooling = Cooling {
        has_others: false,
        length: Duration::from_secs(5),
        allowed_fails: None,
        by_class: AllowedFailsPolicy {
            bad_request: None,
            authentication: None,
            timeout: None,
            rate_limit: None,
            content_policy_violation: None,
            internal_server: None,
            service_unavailable: None,
            bad_gateway: None,
            not_found: None,
            default: None,
        },
        disabled: false,
    };

    fn error(class: ErrorClass) -> ErrorRecord {
        ErrorRecord::new(class, "m")
    }

    /// Returns which of the calls, each at its second, is one too many for the first time.
    fn first_bad(cooling: &Cooling, calls: &[(u64, Shown<'_>)]) -> Option<usize> {
        let start = Instant::now();
        let mut minute = Minute::new(start);
        calls.iter().position(|(second, shown)| minute.is_bad(shown, cooling, start + Duration::from_secs(*second)))
    }

    #[test]
    fn a_class_has_its_own_number_and_counts_against_no_other() {
        let by_class = AllowedFailsPolicy {
            timeout: Some(2),
            rate_limit: Some(1),
            authentication: Some(0),
            bad_request: Some(1),
            ..AllowedFailsPolicy::default()
        };
        let cooling = Cooling { allowed_fails: Some(1), by_class, ..COOLING };
        let [timeout, server, refused, key, request, policy] = [
            ErrorClass::Timeout,
            ErrorClass::InternalServer,
            ErrorClass::RateLimit,
            ErrorClass::Authentication,
            ErrorClass::BadRequest,
            ErrorClass::ContentPolicyViolation,
        ]
        .map(error);
        let broken = ErrorRecord { underlying: Some(ErrorClass::Timeout), ..error(ErrorClass::MidStream) };
        let at = |second, shown| (second, shown);
        for (what, calls, bad) in [
            ("within its number", vec![at(0, Shown::Failed(&timeout)), at(9, Shown::Failed(&timeout))], None),
            ("beyond it", (0..3).map(|second| at(second, Shown::Failed(&timeout))).collect(), Some(2)),
            ("not in one minute", (0..6).map(|n| at(n * 31, Shown::Failed(&timeout))).collect(), None),
            (
                "a broken stream is what broke it",
                vec![at(0, Shown::Failed(&timeout)), at(1, Shown::Failed(&broken)), at(2, Shown::Failed(&timeout))],
                Some(2),
            ),
            (
                "others count together, without those",
                vec![
                    at(0, Shown::Failed(&timeout)),
                    at(1, Shown::Failed(&server)),
                    at(2, Shown::Failed(&timeout)),
                    at(3, Shown::Failed(&server)),
                ],
                Some(3),
            ),
            ("refusals", vec![at(0, Shown::Refused(&refused)), at(1, Shown::Refused(&refused))], Some(1)),
            ("none is allowed", vec![at(0, Shown::Works), at(1, Shown::Fault(&key))], Some(1)),
            (
                "requests that are wrong, where the policy names them",
                vec![at(0, Shown::Disliked(&request)), at(1, Shown::Disliked(&request))],
                Some(1),
            ),
            ("those of a class below", vec![at(0, Shown::Disliked(&policy)), at(1, Shown::Disliked(&policy))], Some(1)),
        ] {
            assert_eq!(first_bad(&cooling, &calls), bad, "{what}");
            assert_eq!(first_bad(&Cooling { disabled: true, ..cooling }, &calls), None, "{what}, disabled");
        }
    }

    #[test]
    fn the_default_is_for_failures_and_not_for_what_requests_did_wrong() {
        let by_class = AllowedFailsPolicy { default: Some(1), ..AllowedFailsPolicy::default() };
        let cooling = Cooling { by_class, ..COOLING };
        let (server, request) = (error(ErrorClass::InternalServer), error(ErrorClass::BadRequest));
        let failed: Vec<_> = (0..4).map(|second| (second, Shown::Failed(&server))).collect();
        assert_eq!(first_bad(&cooling, &failed), Some(1));
        let disliked: Vec<_> = (0..4).map(|second| (second, Shown::Disliked(&request))).collect();
        assert_eq!(first_bad(&cooling, &disliked), None);
    }

    #[test]
    fn without_numbers_half_of_enough_calls_must_not_fail_where_others_can_take_them() {
        let server = error(ErrorClass::InternalServer);
        let calls: Vec<_> =
            (0..8).map(|n| (n, if n % 2 == 0 || n == 7 { Shown::Failed(&server) } else { Shown::Works })).collect();
        assert_eq!(first_bad(&COOLING, &calls), None);
        let cooling = Cooling { has_others: true, ..COOLING };
        assert_eq!(first_bad(&cooling, &calls), Some(4));
        let request = error(ErrorClass::BadRequest);
        let mut calls: Vec<_> = (0..4).map(|n| (n, Shown::Failed(&server))).collect();
        calls.extend([(4, Shown::Disliked(&request)), (5, Shown::Works)]);
        assert_eq!(first_bad(&cooling, &calls), None, "an answer is not what pauses");
        calls.push((6, Shown::Failed(&server)));
        assert_eq!(first_bad(&cooling, &calls), Some(6));
    }
}
