//! Error answers in OpenAI's shape: `{"error":{"message","type","param","code"}}`.
//!
//! Statuses, types and codes follow <https://developers.openai.com/api/docs/guides/error-codes> (read 2026-11-23); 402 and
//! 529, which OpenAI does not send, follow `DeepSeek` and Anthropic.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::fault::StatusFault;
use super::limit::{self, Dimension};
use super::request::Malformed;

/// An error answer before it is sent.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    error: ErrorObject,
}

#[derive(Debug, Serialize)]
struct ErrorObject {
    message: Cow<'static, str>,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<Cow<'static, str>>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a ErrorObject,
}

impl Refusal {
    fn new(status: u16, kind: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let error = ErrorObject { message: message.into(), kind, param: None, code: None };
        Self { status, retry_after: None, error }
    }

    fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.error.code = Some(code.into());
        self
    }

    fn param(mut self, param: &'static str) -> Self {
        self.error.param = Some(param);
        self
    }

    /// A fault rule or a script wants this status.
    pub(super) fn fault(fault: &StatusFault, model: &str) -> Self {
        let mut refusal = Self::usual(fault.status, fault.code.as_deref(), model);
        if let Some(code) = &fault.code {
            refusal.error.code = Some(Cow::Owned(code.clone()));
        }
        refusal.retry_after = fault.retry_after;
        refusal
    }

    /// Returns what a provider usually says with a status.
    fn usual(status: u16, code: Option<&str>, model: &str) -> Self {
        const REQUEST: &str = "invalid_request_error";
        match (status, code) {
            (400, Some("context_length_exceeded")) => Self::new(400, REQUEST, "This model's maximum context length is 128000 tokens. However, your messages resulted in 131204 tokens. Please reduce the length of the messages.").param("messages"),
            (400, Some("content_policy_violation" | "invalid_prompt" | "moderation_blocked")) => Self::new(400, REQUEST, "Your request was rejected as a result of our safety system."),
            (400, _) => Self::new(400, REQUEST, "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 200 instead.").param("temperature").code("decimal_above_max_value"),
            (401, _) => Self::new(401, REQUEST, "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.").code("invalid_api_key"),
            (402, _) => Self::new(402, "insufficient_quota", "Insufficient Balance").code("insufficient_balance"),
            (403, _) => Self::new(403, "request_forbidden", "Country, region, or territory not supported").code("unsupported_country_region_territory"),
            (404, _) => Self::new(404, REQUEST, format!("The model `{model}` does not exist or you do not have access to it.")).code("model_not_found"),
            (408, _) => Self::new(408, "timeout", "Request timed out."),
            (409, _) => Self::new(409, REQUEST, "Another request holds this resource."),
            (413, _) => Self::new(413, REQUEST, "The request is too large."),
            (422, _) => Self::new(422, REQUEST, "Unable to process the request."),
            (429, Some("insufficient_quota" | "credit_balance_exhausted" | "organization_spend_limit_exceeded" | "project_spend_limit_exceeded" | "organization_usage_limit_exceeded")) => Self::new(429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
            (429, Some("slow_down")) => Self::new(429, "rate_limit_error", "Your request rate increased too quickly. Reduce your rate and increase it gradually."),
            (429, _) => Self::new(429, "requests", format!("Rate limit reached for {model} in organization org-simulated on requests per min (RPM).")).code("rate_limit_exceeded"),
            (500, _) => Self::new(500, "server_error", "The server had an error while processing your request. Sorry about that!"),
            (502, _) => Self::new(502, "server_error", "Bad gateway."),
            (503, _) => Self::new(503, "service_unavailable_error", "The requested model is temporarily overloaded.").code("server_is_overloaded"),
            (504, _) => Self::new(504, "server_error", "Gateway timeout."),
            (529, _) => Self::new(529, "overloaded_error", "Overloaded"),
            (400..500, _) => Self::new(status, REQUEST, "The request was refused."),
            _ => Self::new(status, "server_error", "The server had an error."),
        }
    }

    /// The call does not carry the key that is required; `given` is shown masked, as OpenAI does.
    pub(super) fn wrong_key(given: Option<&str>) -> Self {
        const REQUEST: &str = "invalid_request_error";
        match given {
            None => Self::new(401, REQUEST, "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."),
            Some(given) => Self::new(401, REQUEST, format!("Incorrect API key provided: {}. You can find your API key at https://platform.openai.com/account/api-keys.", mask(given))).code("invalid_api_key"),
        }
    }

    /// The body is one that no provider takes.
    pub(super) fn malformed(malformed: Malformed) -> Self {
        let mut refusal = Self::new(400, "invalid_request_error", malformed.message);
        refusal.error.param = malformed.param;
        refusal.error.code = malformed.code.map(Cow::Borrowed);
        refusal
    }

    /// The script that the call carries cannot be read.
    pub(super) fn script(reason: &str) -> Self {
        Self::new(400, "invalid_request_error", format!("The call's simulate script cannot be read: {reason}."))
            .code("invalid_script")
    }

    /// A rate limit is reached, or could never be met.
    pub(super) fn limited(refusal: &limit::Refusal, model: &str) -> Self {
        let limit::Refusal { dimension, limit, requested, wait } = refusal;
        let (kind, unit) = match dimension {
            Dimension::Requests => ("requests", "requests per min (RPM)"),
            Dimension::Tokens => ("tokens", "tokens per min (TPM)"),
        };
        let message = match wait {
            Some(wait) => format!(
                "Rate limit reached for {model} in organization org-simulated on {unit}: Limit {limit}, Requested {requested}. Please try again in {}.",
                duration::go(*wait)
            ),
            None => format!(
                "Request too large for {model} in organization org-simulated on {unit}: Limit {limit}, Requested {requested}."
            ),
        };
        let mut answer = Self::new(429, kind, message).code("rate_limit_exceeded");
        answer.retry_after = *wait;
        answer
    }

    /// The body is larger than what is read.
    pub(super) fn too_large(max_bytes: usize) -> Self {
        Self::new(413, "invalid_request_error", format!("The request is larger than {max_bytes} bytes."))
    }

    /// Nothing answers at this path.
    pub(super) fn no_such_path(method: &str, path: &str) -> Self {
        Self::new(404, "invalid_request_error", format!("Invalid URL ({method} {path})"))
    }

    /// The path answers another method.
    pub(super) fn wrong_method(method: &str, path: &str) -> Self {
        Self::new(405, "invalid_request_error", format!("Not allowed to {method} on {path}"))
            .code("method_not_supported")
    }

    /// A steering call under `/simulator/` that cannot be read.
    pub(super) fn steering(message: String) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// Returns the JSON body.
    pub(super) fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&Body { error: &self.error }).expect("strings always make JSON")
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
    use serde_json::{Value, json};

    use super::*;

    fn body(refusal: &Refusal) -> Value {
        serde_json::from_slice::<Value>(&refusal.body()).unwrap()["error"].take()
    }

    #[test]
    fn every_status_has_a_complete_error_object() {
        for status in 400..600 {
            let refusal = Refusal::fault(&StatusFault { status, code: None, retry_after: None }, "m");
            assert_eq!(refusal.status, status);
            let error = body(&refusal);
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
            let error =
                body(&Refusal::fault(&StatusFault { status, code: Some(code.to_owned()), retry_after: None }, "m"));
            assert_eq!((error["code"].as_str(), error["type"].as_str()), (Some(code), Some(kind)));
        }
    }

    #[test]
    fn a_missing_model_is_named() {
        let error = body(&Refusal::fault(&StatusFault { status: 404, code: None, retry_after: None }, "gpt-9"));
        assert_eq!(
            error,
            json!({
                "message": "The model `gpt-9` does not exist or you do not have access to it.",
                "type": "invalid_request_error", "param": null, "code": "model_not_found",
            })
        );
    }

    #[test]
    fn a_key_is_never_echoed_whole() {
        for key in ["", "sk-1", "sk-123456789012", "sk-proj-abcdefghijklmnop"] {
            let message = body(&Refusal::wrong_key(Some(key)))["message"].as_str().unwrap().to_owned();
            assert!(key.is_empty() || !message.contains(key), "{message}");
        }
        assert_eq!(mask("sk-proj-abcdefghijklmnop"), "sk-****mnop");
    }
}
