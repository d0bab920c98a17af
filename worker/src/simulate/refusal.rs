//! Calls that are refused: the status and the reason, before any dialect puts them into words.

use std::time::Duration;

use super::dialect::Given;
use super::fault::StatusFault;
use super::limit;
use super::request::Malformed;
use super::shared::Settings;

/// An error answer before it is worded.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) reason: Reason,
}

/// Why a call is refused.
#[derive(Debug)]
pub(super) enum Reason {
    /// A fault rule or a script wants it; the code is `None` for the usual one.
    Fault { code: Option<String>, model: String },
    /// There is no key.
    NoKey,
    /// The key is another than the one required; it is shown masked.
    WrongKey { masked: String, is_bearer: bool },
    /// The header or the parameter with the version of the API is absent, or names none.
    NoVersion,
    /// The body is one that no provider takes.
    Malformed(Malformed),
    /// The script that the call carries cannot be read.
    Script(String),
    /// A rate limit is reached, or could never be met.
    Limited { refusal: limit::Refusal, model: String },
    /// A rate limit is reached of which nothing is told.
    Hidden { model: String },
    /// The body is larger than what is read.
    TooLarge { max_bytes: usize },
    /// Nothing answers at this path.
    NoSuchPath { method: String, path: String },
    /// The path answers another method.
    WrongMethod { method: String, path: String },
    /// A steering call under `/simulator/` that cannot be read.
    Steering(String),
}

impl Refusal {
    fn new(status: u16, reason: Reason) -> Self {
        Self { status, retry_after: None, reason }
    }

    pub(super) fn fault(fault: &StatusFault, model: &str) -> Self {
        let reason = Reason::Fault { code: fault.code.clone(), model: model.to_owned() };
        Self { status: fault.status, retry_after: fault.retry_after, reason }
    }

    pub(super) fn wrong_key(given: Option<Given<'_>>) -> Self {
        Self::new(
            401,
            match given {
                None => Reason::NoKey,
                Some(given) => Reason::WrongKey { masked: mask(given.key), is_bearer: given.is_bearer },
            },
        )
    }

    /// The version of the API is not told; providers differ in the status.
    pub(super) fn no_version(status: u16) -> Self {
        Self::new(status, Reason::NoVersion)
    }

    pub(super) fn malformed(malformed: Malformed) -> Self {
        Self::new(400, Reason::Malformed(malformed))
    }

    pub(super) fn script(reason: &str) -> Self {
        Self::new(400, Reason::Script(format!("The call's simulate script cannot be read: {reason}.")))
    }

    /// A limit is reached; the figures are told only where headers tell them, too.
    pub(super) fn limited(refusal: limit::Refusal, model: &str, settings: &Settings) -> Self {
        let retry_after = refusal.wait.filter(|_| settings.retry_after);
        let model = model.to_owned();
        let reason = if settings.limit_headers && settings.retry_after {
            Reason::Limited { refusal, model }
        } else {
            Reason::Hidden { model }
        };
        Self { status: 429, retry_after, reason }
    }

    pub(super) fn too_large(max_bytes: usize) -> Self {
        Self::new(413, Reason::TooLarge { max_bytes })
    }

    pub(super) fn no_such_path(method: &str, path: &str) -> Self {
        Self::new(404, Reason::NoSuchPath { method: method.to_owned(), path: path.to_owned() })
    }

    pub(super) fn wrong_method(method: &str, path: &str) -> Self {
        Self::new(405, Reason::WrongMethod { method: method.to_owned(), path: path.to_owned() })
    }

    pub(super) fn steering(message: String) -> Self {
        Self::new(400, Reason::Steering(message))
    }
}

/// Hides a key: its first three and last four characters stay when it is long enough for that to give nothing away.
fn mask(key: &str) -> String {
    let chars = key.chars().count();
    if chars < 16 {
        return "****".to_owned();
    }
    let start: String = key.chars().take(3).collect();
    let end: String = key.chars().skip(chars - 4).collect();
    format!("{start}****{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown_whole() {
        for key in ["sk-1", "sk-123456789012", "sk-proj-abcdefghijklmnop"] {
            assert!(!mask(key).contains(key), "{key}");
        }
        assert_eq!(mask("sk-proj-abcdefghijklmnop"), "sk-****mnop");
    }
}
