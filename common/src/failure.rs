//! The error of a call or a job as plain data: it can be stored, read on another machine, and be the same error.
//!
//! Owns the classes, their names and what may be done after each (one pure function, [`ErrorClass::disposition`]). Does not
//! classify wire responses; a provider does. A class or field of a later version survives a round trip through this one.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The version of the JSON that [`ErrorRecord`] is written as.
pub const SCHEMA_VERSION: u16 = 1;

/// Most bytes of a provider's body that an error keeps.
pub const BODY_CAP_BYTES: usize = 16 * 1024;
/// Most characters of an earlier call's message.
const EARLIER_CHARS: usize = 300;

macro_rules! classes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What went wrong, by LiteLLM's and OpenAI's class names where they have one.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorClass {
            $($(#[$doc])* $variant,)*
            /// A class of a later version; its name is kept.
            Other(String),
        }

        impl ErrorClass {
            /// Every class that this version knows.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the stable name.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }

            /// Reads a name; an unknown one is kept.
            pub fn from_name(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }
    };
}

classes! {
    /// 401: the key is missing or wrong.
    Authentication = "AuthenticationError",
    /// 403: the key may not do this.
    PermissionDenied = "PermissionDeniedError",
    /// 404: no such model or path.
    NotFound = "NotFoundError",
    /// 400 and its kin: the request is wrong.
    BadRequest = "BadRequestError",
    /// 422: the request is understood and refused.
    UnprocessableEntity = "UnprocessableEntityError",
    /// A parameter that the provider does not take.
    UnsupportedParams = "UnsupportedParamsError",
    /// The prompt is longer than the model's window.
    ContextWindowExceeded = "ContextWindowExceededError",
    /// The provider's safety system refused.
    ContentPolicyViolation = "ContentPolicyViolationError",
    /// 413, or a request that no limit can ever fit.
    RequestTooLarge = "RequestTooLargeError",
    /// The account has no money or quota left.
    InsufficientQuota = "InsufficientQuotaError",
    /// 429: too many requests or tokens for now.
    RateLimit = "RateLimitError",
    /// 409.
    Conflict = "ConflictError",
    /// No answer in time: connect, first byte, idle or total.
    Timeout = "Timeout",
    /// 500.
    InternalServer = "InternalServerError",
    /// 502.
    BadGateway = "BadGatewayError",
    /// 503.
    ServiceUnavailable = "ServiceUnavailableError",
    /// 529.
    Overloaded = "OverloadedError",
    /// No connection, or it broke before the answer was whole.
    ApiConnection = "APIConnectionError",
    /// An answer with status 200 that cannot be read.
    ApiResponseValidation = "APIResponseValidationError",
    /// The answer does not fit the schema that was asked for.
    JsonSchemaValidation = "JSONSchemaValidationError",
    /// Structured output was cut by the length limit.
    LengthFinishReason = "LengthFinishReasonError",
    /// A stream that broke after output began.
    MidStream = "MidStreamError",
    /// A budget would be exceeded.
    BudgetExceeded = "BudgetExceededError",
    /// Somebody cancelled it.
    Cancelled = "CancelledError",
    /// Its deadline passed before a call could start.
    DeadlineExceeded = "DeadlineExceededError",
    /// Workers died holding the job, too many times.
    WorkerCrashed = "WorkerCrashedError",
    /// The message could not be read.
    InvalidMessage = "InvalidMessageError",
    /// No worker serves the model group.
    UnknownModelGroup = "UnknownModelGroupError",
    /// The store refused to keep the row.
    StoreRejected = "StoreRejectedError",
    /// Any other answer of a provider.
    Api = "APIError",
}

/// What may be done with the job after an error of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// End the run: the same request would fail again.
    Final,
    /// Call again, later; counts against the retries.
    Retry,
    /// Call again, later; the provider did no work, so it does not count.
    RetryUncounted,
    /// The deployment is at fault: keep the job, pause the deployment after several in a row.
    DeploymentFault,
}

impl ErrorClass {
    /// Decides what may be done with the job, where only the class is known; with [`ErrorRecord::disposition`] the only place
    /// that does.
    pub const fn disposition(&self) -> Disposition {
        match self {
            Self::Authentication | Self::PermissionDenied | Self::NotFound | Self::InsufficientQuota => {
                Disposition::DeploymentFault
            }
            Self::RateLimit => Disposition::RetryUncounted,
            Self::Conflict
            | Self::Timeout
            | Self::InternalServer
            | Self::BadGateway
            | Self::ServiceUnavailable
            | Self::Overloaded
            | Self::ApiConnection
            | Self::ApiResponseValidation
            | Self::JsonSchemaValidation
            | Self::MidStream => Disposition::Retry,
            Self::BadRequest
            | Self::UnprocessableEntity
            | Self::UnsupportedParams
            | Self::ContextWindowExceeded
            | Self::ContentPolicyViolation
            | Self::RequestTooLarge
            | Self::LengthFinishReason
            | Self::BudgetExceeded
            | Self::Cancelled
            | Self::DeadlineExceeded
            | Self::WorkerCrashed
            | Self::InvalidMessage
            | Self::UnknownModelGroup
            | Self::StoreRejected
            | Self::Api
            | Self::Other(_) => Disposition::Final,
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for ErrorClass {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorClass {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Ok(Self::from_name(&name))
    }
}

/// One link of the chain of causes below an error, outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of cause: `dns`, `tls`, `connect`, `reset`, `timeout.connect`, `timeout.first_byte`, `timeout.first_token`,
    /// `timeout.idle`, `timeout.total`, `body`, `decode`, `stream`, `schema`, `other`.
    pub kind: String,
    /// Its text.
    pub message: String,
}

/// An earlier call of the same run, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlierAttempt {
    /// Which call of the run it was, from 1.
    pub attempt: u32,
    /// Its class.
    pub class: ErrorClass,
    /// Its HTTP status, if one came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    /// Its message.
    pub message: String,
    /// What broke its stream, under a [`ErrorClass::MidStream`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub underlying: Option<ErrorClass>,
    /// Calls of its class that it stands for, the last of which it is.
    #[serde(skip_serializing_if = "is_one", default = "one")]
    pub times: u32,
    /// Where the run went after it, if it left its model group.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fell_back: Option<FellBack>,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
const fn is_one(times: &u32) -> bool {
    *times == 1
}

impl EarlierAttempt {
    /// Makes one with a class and nothing else.
    pub const fn new(attempt: u32, class: ErrorClass) -> Self {
        Self { attempt, class, status: None, message: String::new(), underlying: None, times: 1, fell_back: None }
    }

    /// Says in short how a call ended.
    pub fn of(attempt: u32, error: &ErrorRecord) -> Self {
        Self {
            status: error.status,
            message: error.message.chars().take(EARLIER_CHARS).collect(),
            underlying: error.underlying.clone(),
            ..Self::new(attempt, error.class.clone())
        }
    }

    /// Returns the class that it counts as: what broke a stream, else its own.
    pub fn counts_as(&self) -> &ErrorClass {
        self.underlying.as_ref().unwrap_or(&self.class)
    }
}

/// That a run went on in another model group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FellBack {
    /// The group.
    pub to: String,
    /// The calls until then that count against the retries.
    pub attempts: u32,
}

/// An error as plain data. Its JSON is what tables, files and messages hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// [`SCHEMA_VERSION`] of the writer.
    pub v: u16,
    /// What went wrong.
    pub class: ErrorClass,
    /// The provider's own message, or ours where no provider spoke.
    pub message: String,
    /// The HTTP status, if one came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
    /// The provider's code, as text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<String>,
    /// The provider's type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    /// The parameter at fault, as the provider names it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub param: Option<String>,
    /// The provider kind.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider: Option<String>,
    /// The model that was asked for at the provider.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// The deployment's name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deployment: Option<String>,
    /// The provider's id of the call.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// The least wait that the provider asks for, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_ms: Option<u64>,
    /// Rate-limit and diagnostic headers of the answer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub headers: BTreeMap<String, String>,
    /// The provider's body, at most [`BODY_CAP_BYTES`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body: Option<String>,
    /// Whether `body` was cut.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub body_truncated: bool,
    /// The chain of causes below it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub causes: Vec<Cause>,
    /// What broke a stream, under a [`ErrorClass::MidStream`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub underlying: Option<ErrorClass>,
    /// The text of the answer as far as it came, where it was cut; at most [`BODY_CAP_BYTES`] of its end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partial_output: Option<String>,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// Why the run ended although, or because, it is so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verdict: Option<String>,
    /// The run's earlier calls.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub earlier: Vec<EarlierAttempt>,
    /// Fields of a later version.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl ErrorRecord {
    /// Makes an error with a class and a message and nothing else.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        let retryable = !matches!(class.disposition(), Disposition::Final);
        Self {
            v: SCHEMA_VERSION,
            class,
            message: message.into(),
            status: None,
            code: None,
            kind: None,
            param: None,
            provider: None,
            model: None,
            deployment: None,
            request_id: None,
            retry_after_ms: None,
            headers: BTreeMap::new(),
            body: None,
            body_truncated: false,
            causes: Vec::new(),
            underlying: None,
            partial_output: None,
            retryable,
            verdict: None,
            earlier: Vec::new(),
            extra: serde_json::Map::new(),
        }
    }

    /// Decides what may be done with the job, by the class and by what this one error tells beyond it.
    ///
    /// `retryable` overrides the class where a provider says so of a single answer. No connection at all is a fault of the
    /// deployment: nothing was sent.
    pub fn disposition(&self) -> Disposition {
        if let (ErrorClass::MidStream, Some(underlying)) = (&self.class, &self.underlying) {
            return match underlying.disposition() {
                Disposition::DeploymentFault => Disposition::DeploymentFault,
                // Output was made, and is paid for: it counts, whatever broke it.
                _ if self.retryable => Disposition::Retry,
                _ => Disposition::Final,
            };
        }
        let unconnected = ["dns", "tls", "connect", "timeout.connect"];
        match (self.class.disposition(), self.retryable) {
            (Disposition::DeploymentFault, _) => Disposition::DeploymentFault,
            (Disposition::Retry, _)
                if matches!(self.class, ErrorClass::ApiConnection | ErrorClass::Timeout)
                    && self.causes.first().is_some_and(|cause| unconnected.contains(&cause.kind.as_str())) =>
            {
                Disposition::DeploymentFault
            }
            (Disposition::Retry | Disposition::RetryUncounted, false) => Disposition::Final,
            // Groq's flex tier without capacity: nothing was done or billed.
            (Disposition::Retry, true) if self.status == Some(498) => Disposition::RetryUncounted,
            (Disposition::Final, true) => Disposition::Retry,
            (disposition, _) => disposition,
        }
    }

    /// Returns the class that it counts as: what broke a stream, else its own.
    pub fn counts_as(&self) -> &ErrorClass {
        self.underlying.as_ref().unwrap_or(&self.class)
    }

    /// Adds a cause below the others.
    #[must_use]
    pub fn caused_by(mut self, kind: &str, message: impl Into<String>) -> Self {
        self.causes.push(Cause { kind: kind.to_owned(), message: message.into() });
        self
    }

    /// Keeps a provider's body, cut at a character boundary where it is too long.
    #[must_use]
    pub fn with_body(mut self, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&body[..body.len().min(BODY_CAP_BYTES + 4)]);
        let mut end = text.len().min(BODY_CAP_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.body_truncated = body.len() > BODY_CAP_BYTES;
        self.body = Some(if self.body_truncated { text[..end].to_owned() } else { text.into_owned() });
        self
    }
}

impl fmt::Display for ErrorRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.message)
    }
}

impl std::error::Error for ErrorRecord {}

#[cfg(test)]
mod tests;
