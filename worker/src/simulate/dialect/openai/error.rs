//! Errors in OpenAI's shape: `{"error":{"message","type","param","code"}}`.
//!
//! Statuses, types and codes follow <https://developers.openai.com/api/docs/guides/error-codes> (read 2026-11-23); 402 and
//! 529, which OpenAI does not send, follow `DeepSeek` and Anthropic.

use std::borrow::Cow;

use serde::Serialize;

use crate::simulate::duration;
use crate::simulate::limit::{self, Dimension};
use crate::simulate::refusal::{Reason, Refusal};

/// What most errors are of.
const REQUEST: &str = "invalid_request_error";

/// The codes of a prompt or an answer that a safety system stops.
pub(in crate::simulate::dialect) const POLICY_CODES: [&str; 4] =
    ["content_policy_violation", "invalid_prompt", "moderation_blocked", "content_filter"];

/// The codes of an account without money.
pub(in crate::simulate::dialect) const QUOTA_CODES: [&str; 5] = [
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
];

/// The object under `error`.
#[derive(Debug, Serialize)]
pub(in crate::simulate::dialect) struct ErrorObject {
    pub(in crate::simulate::dialect) message: Cow<'static, str>,
    #[serde(rename = "type")]
    kind: &'static str,
    pub(in crate::simulate::dialect) param: Option<Cow<'static, str>>,
    pub(in crate::simulate::dialect) code: Option<Cow<'static, str>>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorObject,
}

impl ErrorObject {
    fn new(kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), kind, param: None, code: None }
    }

    fn code(self, code: impl Into<Cow<'static, str>>) -> Self {
        Self { code: Some(code.into()), ..self }
    }

    fn param(self, param: impl Into<Cow<'static, str>>) -> Self {
        Self { param: Some(param.into()), ..self }
    }
}

/// Returns the JSON body.
pub(in crate::simulate::dialect) fn body(error: &ErrorObject) -> Vec<u8> {
    serde_json::to_vec(&Envelope { error }).expect("strings always make JSON")
}

/// Words a refusal.
pub(in crate::simulate::dialect) fn object(refusal: &Refusal) -> ErrorObject {
    match &refusal.reason {
        Reason::Fault { code, model } => {
            let usual = usual(refusal.status, code.as_deref(), model);
            if let Some(code) = code { usual.code(code.clone()) } else { usual }
        }
        Reason::NoKey => ErrorObject::new(REQUEST, "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."),
        Reason::WrongKey { masked, .. } => ErrorObject::new(REQUEST, format!("Incorrect API key provided: {masked}. You can find your API key at https://platform.openai.com/account/api-keys.")).code("invalid_api_key"),
        Reason::NoVersion => ErrorObject::new(REQUEST, "The version of the API is missing."),
        Reason::Malformed(malformed) => ErrorObject {
            message: malformed.message.clone().into(),
            kind: REQUEST,
            param: malformed.param.clone(),
            code: malformed.code.map(Cow::Borrowed),
        },
        Reason::Script(message) => ErrorObject::new(REQUEST, message.clone()).code("invalid_script"),
        Reason::Limited { refusal, model } => limited(refusal, model),
        Reason::Hidden { model } => usual(429, None, model),
        Reason::TooLarge { max_bytes } => ErrorObject::new(REQUEST, format!("The request is larger than {max_bytes} bytes.")),
        Reason::NoSuchPath { method, path } => ErrorObject::new(REQUEST, format!("Invalid URL ({method} {path})")),
        Reason::WrongMethod { method, path } => {
            ErrorObject::new(REQUEST, format!("Not allowed to {method} on {path}")).code("method_not_supported")
        }
        Reason::Steering(message) => ErrorObject::new(REQUEST, message.clone()),
    }
}

/// Returns what a provider usually says with a status.
fn usual(status: u16, code: Option<&str>, model: &str) -> ErrorObject {
    let new = |kind, message: Cow<'static, str>| ErrorObject::new(kind, message);
    let one_of = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code));
    match (status, code) {
        (400, Some("context_length_exceeded")) => new(REQUEST, "This model's maximum context length is 128000 tokens. However, your messages resulted in 131204 tokens. Please reduce the length of the messages.".into()).param("messages"),
        (400, _) if one_of(&POLICY_CODES) => new(REQUEST, "Your request was rejected as a result of our safety system.".into()),
        (400, _) => new(REQUEST, "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 200 instead.".into()).param("temperature").code("decimal_above_max_value"),
        (401, _) => new(REQUEST, "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.".into()).code("invalid_api_key"),
        (402, _) => new("insufficient_quota", "Insufficient Balance".into()).code("insufficient_balance"),
        (403, _) => new("request_forbidden", "Country, region, or territory not supported".into()).code("unsupported_country_region_territory"),
        (404, _) => new(REQUEST, format!("The model `{model}` does not exist or you do not have access to it.").into()).code("model_not_found"),
        (408, _) => new("timeout", "Request timed out.".into()),
        (409, _) => new(REQUEST, "Another request holds this resource.".into()),
        (413, _) => new(REQUEST, "The request is too large.".into()),
        (422, _) => new(REQUEST, "Unable to process the request.".into()),
        (429, _) if one_of(&QUOTA_CODES) => new("insufficient_quota", "You exceeded your current quota, please check your plan and billing details.".into()),
        (429, Some("slow_down")) => new("rate_limit_error", "Your request rate increased too quickly. Reduce your rate and increase it gradually.".into()),
        (429, _) => new("requests", format!("Rate limit reached for {model} in organization org-simulated on requests per min (RPM).").into()).code("rate_limit_exceeded"),
        (500, _) => new("server_error", "The server had an error while processing your request. Sorry about that!".into()),
        (502, _) => new("server_error", "Bad gateway.".into()),
        (503, _) => new("service_unavailable_error", "The requested model is temporarily overloaded.".into()).code("server_is_overloaded"),
        (504, _) => new("server_error", "Gateway timeout.".into()),
        (529, _) => new("overloaded_error", "Overloaded".into()),
        (400..500, _) => new(REQUEST, "The request was refused.".into()),
        _ => new("server_error", "The server had an error.".into()),
    }
}

fn limited(refusal: &limit::Refusal, model: &str) -> ErrorObject {
    let limit::Refusal { dimension, limit, requested, wait } = refusal;
    // OpenAI limits neither input nor output alone, nor calls at once; those who imitate it do.
    let (kind, unit) = match dimension {
        Dimension::Requests => ("requests", "requests per min (RPM)"),
        Dimension::Tokens => ("tokens", "tokens per min (TPM)"),
        Dimension::InputTokens => ("tokens", "input tokens per min (ITPM)"),
        Dimension::OutputTokens => ("tokens", "output tokens per min (OTPM)"),
        Dimension::RequestsPerDay => ("requests", "requests per day (RPD)"),
        Dimension::Parallel => ("requests", "concurrent requests"),
    };
    let message = match wait {
        None if *dimension == Dimension::Parallel => format!(
            "Rate limit reached for {model} in organization org-simulated on {unit}: Limit {limit}, Requested {requested}."
        ),
        Some(wait) => format!(
            "Rate limit reached for {model} in organization org-simulated on {unit}: Limit {limit}, Requested {requested}. Please try again in {}.",
            duration::go(*wait)
        ),
        None => format!(
            "Request too large for {model} in organization org-simulated on {unit}: Limit {limit}, Requested {requested}."
        ),
    };
    ErrorObject::new(kind, message).code("rate_limit_exceeded")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::simulate::fault::StatusFault;

    fn error(status: u16, code: Option<&str>, model: &str) -> Value {
        let fault = StatusFault { status, code: code.map(str::to_owned), retry_after: None };
        serde_json::from_slice::<Value>(&body(&object(&Refusal::fault(&fault, model)))).unwrap()["error"].take()
    }

    #[test]
    fn every_status_has_a_complete_error_object() {
        for status in 400..600 {
            let error = error(status, None, "m");
            assert_eq!(error.as_object().unwrap().len(), 4, "{error}");
            assert!(!error["message"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn codes_choose_the_text_and_stay() {
        let table = [
            (400, "context_length_exceeded", "invalid_request_error"),
            (429, "insufficient_quota", "insufficient_quota"),
            (429, "slow_down", "rate_limit_error"),
            (500, "anything", "server_error"),
        ];
        for (status, code, kind) in table {
            let error = error(status, Some(code), "m");
            assert_eq!((error["code"].as_str(), error["type"].as_str()), (Some(code), Some(kind)));
        }
    }

    #[test]
    fn a_missing_model_is_named() {
        assert_eq!(
            error(404, None, "gpt-9"),
            json!({
                "message": "The model `gpt-9` does not exist or you do not have access to it.",
                "type": "invalid_request_error", "param": null, "code": "model_not_found",
            })
        );
    }
}
