//! What else an error tells beside its class: how often it is worth another call, whether another deployment may be asked, and
//! which must rest.

use gristmill_common::failure::{Disposition, ErrorClass, ErrorRecord};

/// What must rest after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cooldown {
    /// Nothing.
    None,
    /// Nothing yet: it counts as a failure of the deployment.
    Count,
    /// The deployment.
    Deployment,
    /// Every deployment of the same key.
    Key,
}

/// What an error means for the deployment that it came from, and for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the same deployment may be asked again, nothing of its answer having been used.
    pub retryable: bool,
    /// Most retries of one run for errors of this class, where it is worth fewer than the configured ones.
    pub most_retries: Option<u32>,
    /// Whether another deployment may be asked.
    pub fallback: bool,
    /// What must rest.
    pub cooldown: Cooldown,
}

impl Verdict {
    /// Reads an error. Pure.
    pub fn of(record: &ErrorRecord) -> Self {
        let again = matches!(record.disposition(), Disposition::Retry | Disposition::RetryUncounted);
        Self {
            // Output was on its way: whoever may begin it anew says so, as the queue does.
            retryable: again && record.class != ErrorClass::MidStream,
            most_retries: most_retries(&record.class),
            fallback: again || falls_back(record),
            cooldown: cooldown(record, record.counts_as()),
        }
    }
}

/// A model that was sampled anew may fit its schema, and does rarely after that; who answers twice what is no answer is no provider.
const fn most_retries(class: &ErrorClass) -> Option<u32> {
    match class {
        ErrorClass::JsonSchemaValidation => Some(1),
        ErrorClass::ApiResponseValidation => Some(2),
        _ => None,
    }
}

fn falls_back(record: &ErrorRecord) -> bool {
    match record.class {
        ErrorClass::Authentication
        | ErrorClass::PermissionDenied
        | ErrorClass::NotFound
        | ErrorClass::InsufficientQuota
        | ErrorClass::ContextWindowExceeded
        | ErrorClass::ContentPolicyViolation
        | ErrorClass::RequestTooLarge
        | ErrorClass::UnsupportedParams
        | ErrorClass::RateLimit
        | ErrorClass::Conflict
        | ErrorClass::Timeout
        | ErrorClass::InternalServer
        | ErrorClass::BadGateway
        | ErrorClass::ServiceUnavailable
        | ErrorClass::Overloaded
        | ErrorClass::ApiConnection
        | ErrorClass::ApiResponseValidation
        | ErrorClass::JsonSchemaValidation
        | ErrorClass::MidStream => true,
        // Anthropic says so of what one model cannot do and another can.
        ErrorClass::BadRequest => record.message.contains("This model does not support"),
        _ => false,
    }
}

/// Decides by the class of what went wrong, also below a stream that broke.
fn cooldown(record: &ErrorRecord, class: &ErrorClass) -> Cooldown {
    // No room for this one request, or none in a tier: that says nothing of other requests.
    let is_of_the_request = !record.retryable
        || matches!(record.status, Some(402 | 498))
        || record.code.as_deref() == Some("resource_unavailable");
    match class {
        ErrorClass::Authentication | ErrorClass::PermissionDenied | ErrorClass::InsufficientQuota => Cooldown::Key,
        ErrorClass::NotFound => Cooldown::Deployment,
        ErrorClass::RateLimit if is_of_the_request => Cooldown::None,
        ErrorClass::RateLimit => Cooldown::Deployment,
        ErrorClass::ServiceUnavailable if record.status == Some(498) => Cooldown::None,
        ErrorClass::Timeout
        | ErrorClass::InternalServer
        | ErrorClass::BadGateway
        | ErrorClass::ServiceUnavailable
        | ErrorClass::Overloaded
        | ErrorClass::ApiConnection
        | ErrorClass::ApiResponseValidation
        | ErrorClass::MidStream => Cooldown::Count,
        _ => Cooldown::None,
    }
}
