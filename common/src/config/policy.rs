//! Numbers by class of error, in LiteLLM's names: how often to call again, how many failures a deployment may have.
//!
//! Which class takes which number is LiteLLM's rule, version 1.109.1 (`litellm_core_utils/get_retry_from_policy.py`, read
//! 2026-11-23): the class's own, else that of the class above it, else the default.

use std::collections::BTreeMap;

use crate::failure::ErrorClass;

use super::file::Section;
use super::options::Parse;
use super::{Env, Error};

/// Retries by class of error: `retry_policy`. The policy says how often, never whether an error may pass.
pub type RetryPolicy = ByClass<u16>;

/// Failures in a minute that a deployment may have before it is left alone, by class of error: `allowed_fails_policy`.
pub type AllowedFailsPolicy = ByClass<u32>;

/// A number for each class of error that has one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByClass<T> {
    /// `BadRequestError…`: the request is wrong, also by its length, parameters or size.
    pub bad_request: Option<T>,
    /// `AuthenticationError…`.
    pub authentication: Option<T>,
    /// `TimeoutError…`.
    pub timeout: Option<T>,
    /// `RateLimitError…`: also an account without quota.
    pub rate_limit: Option<T>,
    /// `ContentPolicyViolationError…`; else that of `BadRequestError…`.
    pub content_policy_violation: Option<T>,
    /// `InternalServerError…`: also 529, as LiteLLM reads it.
    pub internal_server: Option<T>,
    /// `ServiceUnavailableError…`: also a stream that broke, where nothing is said of what broke it.
    pub service_unavailable: Option<T>,
    /// `BadGatewayError…`.
    pub bad_gateway: Option<T>,
    /// `NotFoundError…`.
    pub not_found: Option<T>,
    /// `Default…`: all other classes of a provider.
    pub default: Option<T>,
}

/// The keys of `retry_policy`.
pub(super) const RETRY_KEYS: &[&str] = &[
    "BadRequestErrorRetries",
    "AuthenticationErrorRetries",
    "TimeoutErrorRetries",
    "RateLimitErrorRetries",
    "ContentPolicyViolationErrorRetries",
    "InternalServerErrorRetries",
    "ServiceUnavailableErrorRetries",
    "BadGatewayErrorRetries",
    "NotFoundErrorRetries",
    "DefaultRetries",
];

/// The keys of `allowed_fails_policy`, in the same order.
pub(super) const ALLOWED_FAILS_KEYS: &[&str] = &[
    "BadRequestErrorAllowedFails",
    "AuthenticationErrorAllowedFails",
    "TimeoutErrorAllowedFails",
    "RateLimitErrorAllowedFails",
    "ContentPolicyViolationErrorAllowedFails",
    "InternalServerErrorAllowedFails",
    "ServiceUnavailableErrorAllowedFails",
    "BadGatewayErrorAllowedFails",
    "NotFoundErrorAllowedFails",
    "DefaultAllowedFails",
];

impl RetryPolicy {
    /// Returns the retries after an error of a class; `None` where the policy says nothing of it.
    pub fn retries_for(&self, class: &ErrorClass) -> Option<u16> {
        self.get(class)
    }

    /// Returns the retries after an error of a class where the policy names it: the default is not looked at.
    pub fn named_for(&self, class: &ErrorClass) -> Option<u16> {
        Self { default: None, ..*self }.get(class)
    }
}

impl AllowedFailsPolicy {
    /// Returns the failures of a class that are allowed; `None` where the policy says nothing of it.
    pub fn allowed_for(&self, class: &ErrorClass) -> Option<u32> {
        self.get(class)
    }

    /// Returns the failures of a class that are allowed where the policy names it: the default is not looked at.
    pub fn named_for(&self, class: &ErrorClass) -> Option<u32> {
        Self { default: None, ..*self }.get(class)
    }
}

impl<T: Copy> ByClass<T> {
    fn get(&self, class: &ErrorClass) -> Option<T> {
        let own = match class {
            ErrorClass::BadRequest
            | ErrorClass::UnsupportedParams
            | ErrorClass::ContextWindowExceeded
            | ErrorClass::RequestTooLarge => self.bad_request,
            ErrorClass::ContentPolicyViolation => self.content_policy_violation.or(self.bad_request),
            ErrorClass::Authentication => self.authentication,
            ErrorClass::Timeout => self.timeout,
            ErrorClass::RateLimit | ErrorClass::InsufficientQuota => self.rate_limit,
            ErrorClass::InternalServer | ErrorClass::Overloaded => self.internal_server,
            ErrorClass::ServiceUnavailable | ErrorClass::MidStream => self.service_unavailable,
            ErrorClass::BadGateway => self.bad_gateway,
            ErrorClass::NotFound => self.not_found,
            ErrorClass::PermissionDenied
            | ErrorClass::UnprocessableEntity
            | ErrorClass::Conflict
            | ErrorClass::ApiConnection
            | ErrorClass::ApiResponseValidation
            | ErrorClass::JsonSchemaValidation
            | ErrorClass::LengthFinishReason
            | ErrorClass::Api
            | ErrorClass::Other(_) => None,
            // No provider said these.
            ErrorClass::BudgetExceeded
            | ErrorClass::Cancelled
            | ErrorClass::DeadlineExceeded
            | ErrorClass::WorkerCrashed
            | ErrorClass::InvalidMessage
            | ErrorClass::UnknownModelGroup
            | ErrorClass::StoreRejected => return None,
        };
        own.or(self.default)
    }
}

/// Reads a policy by its keys, which are [`RETRY_KEYS`] or [`ALLOWED_FAILS_KEYS`].
pub(super) fn read<T: Parse>(section: &Section<'_>, keys: &[&str], env: &Env) -> Result<ByClass<T>, Error> {
    let mut numbers = BTreeMap::new();
    for key in keys {
        if let Some(number) = section.get::<T>(key, env)? {
            let stem = key.trim_end_matches("AllowedFails").trim_end_matches("Retries").trim_end_matches("Error");
            numbers.insert(stem, number);
        }
    }
    let mut take = |stem: &str| numbers.remove(stem);
    Ok(ByClass {
        bad_request: take("BadRequest"),
        authentication: take("Authentication"),
        timeout: take("Timeout"),
        rate_limit: take("RateLimit"),
        content_policy_violation: take("ContentPolicyViolation"),
        internal_server: take("InternalServer"),
        service_unavailable: take("ServiceUnavailable"),
        bad_gateway: take("BadGateway"),
        not_found: take("NotFound"),
        default: take("Default"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_takes_its_own_number_else_the_one_above_it_else_the_default() {
        let policy = RetryPolicy {
            bad_request: Some(1),
            authentication: Some(2),
            timeout: Some(3),
            rate_limit: Some(4),
            content_policy_violation: Some(5),
            internal_server: Some(6),
            service_unavailable: Some(7),
            bad_gateway: Some(8),
            not_found: Some(9),
            default: Some(10),
        };
        for (name, retries) in [
            ("BadRequestError", Some(1)),
            ("ContextWindowExceededError", Some(1)),
            ("UnsupportedParamsError", Some(1)),
            ("RequestTooLargeError", Some(1)),
            ("AuthenticationError", Some(2)),
            ("Timeout", Some(3)),
            ("RateLimitError", Some(4)),
            ("InsufficientQuotaError", Some(4)),
            ("ContentPolicyViolationError", Some(5)),
            ("InternalServerError", Some(6)),
            ("OverloadedError", Some(6)),
            ("ServiceUnavailableError", Some(7)),
            ("MidStreamError", Some(7)),
            ("BadGatewayError", Some(8)),
            ("NotFoundError", Some(9)),
            ("PermissionDeniedError", Some(10)),
            ("APIConnectionError", Some(10)),
            ("APIResponseValidationError", Some(10)),
            ("ErrorOfALaterVersion", Some(10)),
            ("CancelledError", None),
            ("DeadlineExceededError", None),
            ("BudgetExceededError", None),
        ] {
            assert_eq!(policy.retries_for(&ErrorClass::from_name(name)), retries, "{name}");
        }
        let few = RetryPolicy { bad_request: Some(1), ..RetryPolicy::default() };
        assert_eq!(few.retries_for(&ErrorClass::ContentPolicyViolation), Some(1));
        assert_eq!(few.retries_for(&ErrorClass::Timeout), None);
    }

    #[test]
    fn no_policy_says_nothing() {
        for class in ErrorClass::KNOWN {
            assert_eq!(RetryPolicy::default().retries_for(class), None);
            assert_eq!(AllowedFailsPolicy::default().allowed_for(class), None);
        }
    }
}
