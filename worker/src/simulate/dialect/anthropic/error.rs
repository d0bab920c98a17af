//! Errors in Anthropic's shape: `{"type":"error","error":{"type","message","details"},"request_id"}`.
//!
//! Statuses, types and codes follow <https://platform.claude.com/docs/en/api/errors> and the `anthropic` package 2.12.0,
//! `_error_classes.py` (both read 2026-11-23).

use serde_json::{Value, json};

use super::super::openai::error::{POLICY_CODES, QUOTA_CODES};
use super::request_id;
use crate::simulate::limit::{self, Dimension};
use crate::simulate::refusal::{Reason, Refusal};

/// What is said where no limit is told.
const LIMITED: &str = "This request would exceed your account's rate limit. Please try again later.";

/// What is said of too many calls at once (<https://github.com/anthropics/anthropic-sdk-python/issues/496>, read
/// 2026-11-23).
const CONCURRENT: &str = "Number of concurrent connections has exceeded your rate limit. Please try again later or contact sales at https://www.anthropic.com/contact-sales to discuss your options for a rate limit increase.";

/// Words a refusal.
pub(super) fn envelope(refusal: &Refusal, id: u64) -> Value {
    let (message, code) = words(refusal);
    let mut error = json!({ "type": kind(refusal.status), "message": message });
    if let Some(code) = code {
        error["details"] = json!({ "error_code": code });
    }
    json!({ "type": "error", "error": error, "request_id": request_id(id) })
}

const fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        409 => "conflict_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    }
}

/// Returns the message, and the code under `details` where there is one.
fn words(refusal: &Refusal) -> (String, Option<&str>) {
    let message = match &refusal.reason {
        Reason::Fault { code, model } => return usual(refusal.status, code.as_deref(), model),
        Reason::NoKey => "x-api-key header is required",
        Reason::WrongKey { is_bearer: false, .. } => "invalid x-api-key",
        Reason::WrongKey { is_bearer: true, .. } => "Invalid bearer token",
        Reason::NoVersion => "anthropic-version: header is required",
        Reason::Malformed(malformed) => &malformed.message,
        Reason::Script(message) | Reason::Steering(message) => message,
        Reason::Hidden { .. } => LIMITED,
        Reason::Limited { refusal, .. } => return (limited(refusal), None),
        Reason::TooLarge { .. } => "Request exceeds the maximum size",
        Reason::NoSuchPath { .. } => "Not Found",
        Reason::WrongMethod { .. } => "Method Not Allowed",
    };
    (message.to_owned(), None)
}

/// Returns what Anthropic usually says with a status; codes of OpenAI's mean what they mean there.
fn usual<'a>(status: u16, code: Option<&'a str>, model: &str) -> (String, Option<&'a str>) {
    let one_of = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code));
    let message = match status {
        400 if code == Some("context_length_exceeded") => {
            return ("prompt is too long: 1014233 tokens > 1000000 maximum".to_owned(), None);
        }
        400 if one_of(&POLICY_CODES) => return ("Output blocked by content filtering policy".to_owned(), None),
        400 if one_of(&QUOTA_CODES) || code == Some("usage_limit") => {
            let message =
                "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.";
            return (message.to_owned(), None);
        }
        400 => "temperature: range: 0..1",
        401 => "invalid x-api-key",
        402 => "There is an issue with your billing or payment information.",
        403 => "Your API key does not have permission to use the specified resource.",
        404 => return (format!("model: {model}"), code),
        408 => "The request timed out.",
        409 => "The request conflicts with the current state of a resource.",
        413 => "Request exceeds the maximum size",
        429 if one_of(&QUOTA_CODES) || code == Some("enforced_spend_limit_reached") => {
            let message = "You have reached your API usage limits: your organization has crossed its monthly API usage threshold. You will regain access on 2026-12-01 at 00:00 UTC.";
            return (message.to_owned(), Some("enforced_spend_limit_reached"));
        }
        429 if matches!(code, Some("slow_down" | "ramp_limit_exceeded")) => {
            return ("Request would exceed a ramp limit.".to_owned(), Some("ramp_limit_exceeded"));
        }
        429 => "This request would exceed your organization's rate limit of 50 requests per minute.",
        504 => "The request timed out while processing.",
        529 => "Overloaded",
        _ if status < 500 => "The request was refused.",
        _ => "Internal server error",
    };
    (message.to_owned(), code)
}

fn limited(refusal: &limit::Refusal) -> String {
    let what = match refusal.dimension {
        Dimension::Requests => "requests per minute",
        Dimension::Tokens | Dimension::InputTokens => "input tokens per minute",
        Dimension::OutputTokens => "output tokens per minute",
        Dimension::RequestsPerDay => "requests per day",
        Dimension::Parallel => return CONCURRENT.to_owned(),
    };
    format!("This request would exceed your organization's rate limit of {} {what}.", grouped(refusal.limit))
}

/// Writes a number with commas between thousands.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::fault::StatusFault;

    fn error(status: u16, code: Option<&str>) -> Value {
        let fault = StatusFault { status, code: code.map(str::to_owned), retry_after: None };
        envelope(&Refusal::fault(&fault, "claude-9"), 0xab)
    }

    #[test]
    fn every_status_has_a_whole_envelope() {
        for status in 400..600 {
            let error = error(status, None);
            assert_eq!(error["type"], "error");
            assert_eq!(error["request_id"], "req_sim00000000000000ab");
            assert!(!error["error"]["message"].as_str().unwrap().is_empty());
            assert!(error["error"]["details"].is_null());
        }
        assert_eq!(error(404, None)["error"]["message"], "model: claude-9");
    }

    #[test]
    fn types_follow_the_status_and_codes_stand_in_the_details() {
        let table = [
            (400, None, "invalid_request_error", Value::Null),
            (400, Some("context_length_exceeded"), "invalid_request_error", Value::Null),
            (402, None, "billing_error", Value::Null),
            (422, None, "invalid_request_error", Value::Null),
            (429, Some("insufficient_quota"), "rate_limit_error", "enforced_spend_limit_reached".into()),
            (429, Some("slow_down"), "rate_limit_error", "ramp_limit_exceeded".into()),
            (503, Some("cmek_key_unreachable"), "api_error", "cmek_key_unreachable".into()),
            (529, None, "overloaded_error", Value::Null),
        ];
        for (status, code, kind, detail) in table {
            let error = &error(status, code)["error"];
            assert_eq!((&error["type"], &error["details"]["error_code"]), (&kind.into(), &detail), "{error}");
        }
    }

    #[test]
    fn limits_are_written_with_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (50_000, "50,000"), (2_000_000, "2,000,000")] {
            assert_eq!(grouped(number), text);
        }
    }
}
