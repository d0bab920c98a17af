//! What an error means for its run: it ends, or it comes back, and when. Pure.

use std::time::Duration;

use gristmill_common::config::Routing;
use gristmill_common::failure::{Disposition, EarlierAttempt, ErrorRecord};
use gristmill_common::retry::Schedule;

use crate::provider::Verdict;
use crate::route;

/// Faults of deployments that one job may meet while others are answered; then the fault is taken to be the job's own.
const MOST_FAULTS: u32 = 5;

/// Refusals after which a job's own wait grows no more.
const MOST_REFUSALS: u32 = 3;

/// What a run has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) attempts: u32,
    pub(crate) calls: u32,
    pub(crate) faults: u32,
}

/// What a run whose last call ended with an error may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Calls that count, over the whole run.
    attempts: u32,
    /// Retries for errors of this class, if they are fewer, and those that were made.
    alike: Option<(u32, u32)>,
    /// Retries that a policy names for this class.
    policy: Option<u32>,
    /// The least wait before a retry.
    least: Duration,
}

impl Allowed {
    /// Reads it off the configuration, the error, and those of the earlier calls that are kept. `own`: the job's own number of
    /// retries, before which no policy comes; `usual`: that of its deployment or worker.
    pub(crate) fn of(
        routing: &Routing,
        group: &str,
        own: Option<u16>,
        usual: u16,
        error: &ErrorRecord,
        earlier: &[EarlierAttempt],
    ) -> Self {
        // A broken stream is retried as what broke it; where nothing is said of that, as what it is.
        let says = || {
            // What would fail again is tried again only where it is named.
            let is_final = error.disposition() == Disposition::Final;
            let of = |class| {
                if is_final { routing.named_retries_for(group, class) } else { routing.retries_for(group, class) }
            };
            of(error.counts_as()).or_else(|| of(&error.class))
        };
        let policy = if own.is_some() { None } else { says() };
        let made = || {
            let alike = earlier.iter().rev().take_while(|earlier| earlier.fell_back.is_none());
            let alike = alike.filter(|earlier| earlier.counts_as() == error.counts_as());
            alike.map(|earlier| earlier.times).fold(0, u32::saturating_add)
        };
        let most = policy.map(u32::from).into_iter().chain(Verdict::of(error).most_retries).min();
        let retries = u32::from(own.or(policy).unwrap_or(usual)).max(policy.map_or(0, |_| u32::from(usual)));
        Self {
            attempts: route::attempts_before(earlier) + retries + 1,
            alike: most.map(|most| (most, made())),
            policy: policy.map(u32::from),
            least: routing.retry_after,
        }
    }
}

/// What is to become of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// It ends, for this reason.
    Fail(String),
    /// It comes back.
    Wake { after: Duration, reason: String, spent: Spent },
}

/// Decides from what was spent before this call. `others_work`: the deployment answers other jobs.
pub(crate) fn decide(
    disposition: Disposition,
    error: &ErrorRecord,
    before: Spent,
    allowed: Allowed,
    others_work: bool,
    paused_for: Duration,
) -> Next {
    let asked = error.retry_after_ms.map(Duration::from_millis).into_iter().chain(Some(allowed.least)).max();
    let spent = Spent { calls: before.calls + 1, ..before };
    let class = &error.class;
    let used_up = |spent: Spent| {
        let (most, made) = allowed.alike?;
        let (tried, class) = (spent.attempts, error.counts_as());
        (made >= most).then(|| format!("gave up after {tried} attempts: {class} is retried {most}× at most"))
    };
    // What a policy names is retried as it says, and counts, whatever the error would mean without it.
    let disposition = match (disposition, allowed.policy) {
        (Disposition::Final, Some(1..)) | (Disposition::RetryUncounted | Disposition::DeploymentFault, Some(_)) => {
            Disposition::Retry
        }
        (disposition, _) => disposition,
    };
    match disposition {
        Disposition::Final => Next::Fail(format!("not retried: {class} is not retryable")),
        Disposition::Retry => {
            let spent = Spent { attempts: before.attempts + 1, ..spent };
            if spent.attempts >= allowed.attempts {
                return Next::Fail(format!("gave up after {} of {} attempts", spent.attempts, allowed.attempts));
            }
            if let Some(verdict) = used_up(spent) {
                return Next::Fail(verdict);
            }
            let after = Schedule::CALLS.delay_at_least(spent.attempts, asked);
            Next::Wake { after, reason: format!("retry after {class}"), spent }
        }
        Disposition::RetryUncounted => {
            // How fast calls may come is the account's business; the job only gets out of the way of the others.
            let refusals = spent.calls.saturating_sub(spent.attempts).min(MOST_REFUSALS);
            let after = Schedule::CALLS.delay_at_least(refusals, asked);
            Next::Wake { after, reason: "rate limited by the provider".to_owned(), spent }
        }
        Disposition::DeploymentFault => {
            let spent = Spent { faults: before.faults + 1, ..spent };
            if others_work && spent.faults >= MOST_FAULTS {
                return Next::Fail(format!("met {class} {} times while other jobs were answered", spent.faults));
            }
            let after = paused_for + Schedule::CALLS.delay_at_least(spent.faults.min(3), asked);
            Next::Wake { after, reason: format!("the deployment answered {class}"), spent }
        }
    }
}

#[cfg(test)]
mod tests {
    use gristmill_common::config::RetryPolicy;
    use gristmill_common::failure::ErrorClass;

    use super::*;

    const FRESH: Spent = Spent { attempts: 0, calls: 0, faults: 0 };

    fn error(class: ErrorClass) -> ErrorRecord {
        ErrorRecord::new(class, "m")
    }

    fn allowed(num_retries: u16, error: &ErrorRecord, earlier: &[EarlierAttempt]) -> Allowed {
        Allowed::of(&Routing::default(), "m", None, num_retries, error, earlier)
    }

    fn next(class: ErrorClass, before: Spent, others_work: bool) -> Next {
        let error = error(class);
        decide(error.class.disposition(), &error, before, allowed(2, &error, &[]), others_work, Duration::ZERO)
    }

    #[test]
    fn faults_of_the_request_end_the_run_at_once() {
        for class in [ErrorClass::BadRequest, ErrorClass::UnprocessableEntity, ErrorClass::ContentPolicyViolation] {
            assert!(matches!(next(class, FRESH, true), Next::Fail(_)));
        }
    }

    #[test]
    fn transient_errors_come_back_until_the_attempts_are_spent() {
        let mut spent = FRESH;
        for attempt in 1..=3 {
            match next(ErrorClass::InternalServer, spent, true) {
                Next::Wake { spent: after, .. } => {
                    assert!(attempt < 3);
                    assert_eq!(after, Spent { attempts: attempt, calls: attempt, faults: 0 });
                    spent = after;
                }
                Next::Fail(verdict) => {
                    assert_eq!(attempt, 3);
                    assert_eq!(verdict, "gave up after 3 of 3 attempts");
                }
            }
        }
    }

    #[test]
    fn answers_that_are_none_are_asked_for_less_often_than_the_retries_allow() {
        let (schema, answer, server) =
            (ErrorClass::JsonSchemaValidation, ErrorClass::ApiResponseValidation, ErrorClass::InternalServer);
        let (schema_s, answer_s) =
            ("JSONSchemaValidationError is retried 1× at most", "APIResponseValidationError is retried 2× at most");
        for (num_retries, classes, verdict) in [
            (9, vec![&schema; 2], format!("gave up after 2 attempts: {schema_s}")),
            (9, vec![&answer; 3], format!("gave up after 3 attempts: {answer_s}")),
            (9, vec![&server, &answer, &schema, &schema], format!("gave up after 4 attempts: {schema_s}")),
            (9, vec![&server; 10], "gave up after 10 of 10 attempts".to_owned()),
            (0, vec![&schema], "gave up after 1 of 1 attempts".to_owned()),
            (1, vec![&answer; 2], "gave up after 2 of 2 attempts".to_owned()),
        ] {
            let mut earlier: Vec<EarlierAttempt> = Vec::new();
            let mut spent = FRESH;
            for (attempt, class) in (1..).zip(&classes) {
                let error = error((*class).clone());
                let allowed = allowed(num_retries, &error, &earlier);
                match decide(error.disposition(), &error, spent, allowed, true, Duration::ZERO) {
                    Next::Wake { spent: after, .. } => spent = after,
                    Next::Fail(why) => assert_eq!((earlier.len() + 1, why), (classes.len(), verdict.clone())),
                }
                earlier.push(EarlierAttempt::new(attempt, error.class));
            }
            assert_eq!(spent.attempts as usize, classes.len() - 1, "the last one ended it: {classes:?}");
        }
    }

    #[test]
    fn a_broken_stream_is_retried_as_what_broke_it_where_a_policy_names_that() {
        let broken = |by: Option<ErrorClass>| ErrorRecord { underlying: by, ..error(ErrorClass::MidStream) };
        let (timeout, server) = (Some(ErrorClass::Timeout), Some(ErrorClass::InternalServer));
        let policy = |timeout, service_unavailable, default| {
            let retry_policy = RetryPolicy { timeout, service_unavailable, default, ..RetryPolicy::default() };
            let mut routing = Routing::default();
            routing.retry_policy = retry_policy;
            routing
        };
        for (routing, error, retries) in [
            (policy(Some(4), Some(1), None), broken(timeout.clone()), Some(4)),
            (policy(None, Some(1), None), broken(timeout.clone()), Some(1)),
            (policy(None, Some(1), Some(6)), broken(server.clone()), Some(6)),
            (policy(Some(4), Some(1), None), broken(None), Some(1)),
            (policy(None, None, None), broken(timeout.clone()), None),
        ] {
            let allowed = Allowed::of(&routing, "m", None, 2, &error, &[]);
            assert_eq!(allowed.policy, retries, "{:?}", error.underlying);
        }
        let earlier = [
            EarlierAttempt { underlying: timeout.clone(), ..EarlierAttempt::new(1, ErrorClass::MidStream) },
            EarlierAttempt { underlying: server, ..EarlierAttempt::new(2, ErrorClass::MidStream) },
            EarlierAttempt::new(3, ErrorClass::Timeout),
        ];
        let (error, routing) = (broken(timeout), policy(Some(2), None, None));
        let allowed = Allowed::of(&routing, "m", None, 9, &error, &earlier);
        let spent = Spent { attempts: 3, calls: 3, faults: 0 };
        let next = decide(error.disposition(), &error, spent, allowed, true, Duration::ZERO);
        assert_eq!(next, Next::Fail("gave up after 4 attempts: Timeout is retried 2× at most".to_owned()));
    }

    #[test]
    fn a_policy_counts_more_retries_than_earlier_calls_are_kept() {
        let mut routing = Routing::default();
        routing.retry_policy = RetryPolicy { rate_limit: Some(30), timeout: Some(11), ..RetryPolicy::default() };
        let (refused, timeout) = (error(ErrorClass::RateLimit), error(ErrorClass::Timeout));
        for (error, other, verdict) in [
            (&refused, &timeout, "gave up after 37 attempts: RateLimitError is retried 30× at most"),
            (&timeout, &refused, "gave up after 14 attempts: Timeout is retried 11× at most"),
        ] {
            let (mut earlier, mut spent, mut end) = (Vec::new(), FRESH, None);
            for attempt in 1..100 {
                // One in six is of the other class.
                let error = if attempt % 6 == 0 { other } else { error };
                let allowed = Allowed::of(&routing, "m", None, 90, error, &earlier);
                match decide(error.disposition(), error, spent, allowed, true, Duration::ZERO) {
                    Next::Wake { spent: after, .. } => spent = after,
                    Next::Fail(why) => {
                        end = Some(why);
                        break;
                    }
                }
                earlier.push(EarlierAttempt::new(attempt, error.class.clone()));
                route::keep_newest(&mut earlier, 8);
            }
            assert_eq!(end.as_deref(), Some(verdict));
            assert!(earlier.len() <= 8);
        }
    }

    #[test]
    fn refusals_do_not_use_attempts_and_wait_at_least_as_asked() {
        let error = ErrorRecord { retry_after_ms: Some(7_000), ..error(ErrorClass::RateLimit) };
        let mut spent = FRESH;
        for call in 1..50 {
            let allowed = allowed(2, &error, &[]);
            let next = decide(error.class.disposition(), &error, spent, allowed, true, Duration::ZERO);
            let Next::Wake { after, spent: now, .. } = next else { panic!("a refusal never ends a run") };
            assert!(after >= Duration::from_secs(7));
            assert_eq!(now, Spent { attempts: 0, calls: call, faults: 0 });
            spent = now;
        }
    }

    #[test]
    fn a_deployments_fault_keeps_the_job_unless_others_are_answered() {
        let many = Spent { attempts: 0, calls: 90, faults: 90 };
        assert!(matches!(next(ErrorClass::Authentication, many, false), Next::Wake { .. }));
        let four = Spent { attempts: 0, calls: 4, faults: 4 };
        assert!(matches!(next(ErrorClass::PermissionDenied, four, true), Next::Fail(_)));
        assert!(matches!(next(ErrorClass::PermissionDenied, FRESH, true), Next::Wake { .. }));
    }
}
