//! Why a request is not sent, or an answer is none.

use std::fmt::Display;

use gristmill_common::failure::{ErrorClass, ErrorRecord};

/// Why something cannot be translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) struct Refusal {
    /// What kind of error it is: `BadRequest` or `UnsupportedParams` of a request, `ApiResponseValidation` of an answer.
    pub(in crate::provider) class: ErrorClass,
    /// The member at fault, for example `messages[2].content[0]`; several are parted by `, `.
    pub(in crate::provider) param: Option<String>,
    /// What is wrong and what to do about it.
    pub(in crate::provider) message: String,
}

impl Refusal {
    /// Refuses a request that is wrong.
    pub(super) fn bad(param: impl Display, what: impl Display) -> Self {
        let message = format!("`{param}` {what}");
        Self { class: ErrorClass::BadRequest, param: Some(param.to_string()), message }
    }

    /// Refuses a request that is right, but not for Anthropic.
    pub(super) fn unsupported(param: impl Display, what: impl Display) -> Self {
        Self { class: ErrorClass::UnsupportedParams, ..Self::bad(param, what) }
    }
}

impl From<Refusal> for ErrorRecord {
    fn from(refusal: Refusal) -> Self {
        Self { param: refusal.param, ..Self::new(refusal.class, refusal.message) }
    }
}

/// Why a body of success holds no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::provider) enum Unread {
    /// It holds an error, which its details tell.
    Error,
    /// It is no answer, for this reason.
    Because(Refusal),
}

/// What a request asks for and does not get.
#[derive(Debug, Default)]
pub(super) struct Lost(Vec<(String, String)>);

impl Lost {
    /// Notes a parameter that is left out, and why.
    pub(super) fn note(&mut self, param: impl Into<String>, why: impl Into<String>) {
        self.0.push((param.into(), why.into()));
    }

    /// Refuses the request if anything of it was left out, unless that is wanted.
    pub(super) fn settle(self, drop_params: bool) -> Result<(), Refusal> {
        if drop_params || self.0.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = self.0.iter().map(|(param, why)| format!("`{param}` ({why})")).collect();
        let params: Vec<String> = self.0.into_iter().map(|(param, _)| param).collect();
        Err(Refusal {
            class: ErrorClass::UnsupportedParams,
            param: Some(params.join(", ")),
            message: format!(
                "Anthropic cannot do what the request asks with {}; take it out, or set drop_params to have it left out",
                told.join(", ")
            ),
        })
    }
}
