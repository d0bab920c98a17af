//! What an error of a provider means: a pure function from the wire to an [`ErrorRecord`].
//!
//! Decides by the status, then the code, then the type, and by text only where nothing else tells. Providers echo prompts, so
//! no text ever overrides a status: a 400 that talks of "429" is a 400. Shared by all providers; bodies of every shape in
//! `tests/fixtures/wire` are read. Sources of codes and texts: `docs` of the providers and LiteLLM 1.109
//! (`exception_mapping_utils.py`), read 2026-11-20.

use chrono::{DateTime, Utc};
use gristmill_common::failure::{Disposition, ErrorClass, ErrorRecord};
use http::HeaderMap;

use super::details::Details;
use super::wait;

/// Headers that are kept with an error, beside those that begin with [`KEPT_PREFIXES`].
const KEPT: &[&str] = &[
    "apim-request-id",
    "cf-ray",
    "content-type",
    "date",
    "openai-processing-ms",
    "openai-version",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "x-envoy-upstream-service-time",
    "x-ms-region",
    "x-request-id",
    "x-should-retry",
];
const KEPT_PREFIXES: &[&str] = &["x-ratelimit-", "anthropic-ratelimit-"];

/// Longest header value that is kept.
const HEADER_CAP_BYTES: usize = 256;

/// Bytes of a body that are kept for redaction; more than an error keeps, so that no half of a secret stays.
const BODY_WINDOW_BYTES: usize = 64 * 1024;

/// How Anthropic says that its filter stopped an answer, in an error without a code. LiteLLM 1.106
/// (`exception_mapping_utils.py`, read 2026-11-23) tells it by this text too.
const ANTHROPIC_FILTER: &str = "Output blocked by content filtering policy";

/// Reads an error answer. `status` may be one of success, where a body of success holds an error.
pub(super) fn classify(status: u16, headers: &HeaderMap, body: &[u8], now: DateTime<Utc>) -> ErrorRecord {
    record(status, headers, body, Details::parse(body), now)
}

/// Makes the record of an answer whose error is known already.
pub(super) fn record(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    details: Details,
    now: DateTime<Utc>,
) -> ErrorRecord {
    // Inside an answer of success the code is the status, where it is a number (OpenRouter).
    let effective = if (200..300).contains(&status) { details.numeric_code() } else { Some(status) };
    let class = class_of(effective, &details);
    let mut record = ErrorRecord::new(class, message(status, body, &details));
    record.retryable = is_retryable(&record.class, headers, &details);
    record.retry_after_ms = retry_after_ms(effective, &record.class, headers, &details, now);
    record.status = Some(status);
    record.request_id = request_id(headers).map(str::to_owned).or(details.request_id);
    record.code = details.code;
    record.kind = details.kind;
    record.param = details.param;
    record.headers = kept_headers(headers);
    record.body = kept_body(body);
    record.body_truncated = body.len() > BODY_WINDOW_BYTES;
    record
}

/// Makes the record of an answer of success that is none.
pub(super) fn fault(class: ErrorClass, message: String, headers: &HeaderMap, body: &[u8]) -> ErrorRecord {
    let mut record = ErrorRecord::new(class, message);
    record.headers = kept_headers(headers);
    record.body = kept_body(body);
    record.body_truncated = body.len() > BODY_WINDOW_BYTES;
    record
}

/// Keeps more of a body than an error may hold in the end; it is cut when it is redacted.
pub(super) fn kept_body(body: &[u8]) -> Option<String> {
    let window = &body[..body.len().min(BODY_WINDOW_BYTES)];
    (!window.is_empty()).then(|| String::from_utf8_lossy(window).into_owned())
}

/// Returns the provider's id of a call.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&str> {
    ["x-request-id", "request-id", "apim-request-id"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= HEADER_CAP_BYTES)
}

pub(super) fn kept_headers(headers: &HeaderMap) -> std::collections::BTreeMap<String, String> {
    headers
        .iter()
        .filter(|(name, _)| {
            KEPT.contains(&name.as_str()) || KEPT_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
        })
        .filter_map(|(name, value)| {
            let value = value.to_str().ok().filter(|value| value.len() <= HEADER_CAP_BYTES)?;
            Some((name.as_str().to_owned(), value.to_owned()))
        })
        .collect()
}

fn class_of(status: Option<u16>, details: &Details) -> ErrorClass {
    if matches!(status, None | Some(400 | 402 | 403 | 429)) && is_billing(status, details) {
        return ErrorClass::InsufficientQuota;
    }
    match status {
        Some(status @ (400..=499)) => class_of_4xx(status, details),
        Some(500..=599) => class_of_5xx(status.unwrap_or_default(), details),
        // Redirects are not followed: the endpoint is not where it is said to be, and that is no fault of the job.
        Some(300..=399) => ErrorClass::NotFound,
        _ => class_of_code(details).unwrap_or(ErrorClass::InternalServer),
    }
}

fn class_of_4xx(status: u16, details: &Details) -> ErrorClass {
    match status {
        401 => ErrorClass::Authentication,
        402 if details.limit_source.as_deref() == Some("openrouter_in_flight_budget") => ErrorClass::RateLimit,
        402 => ErrorClass::InsufficientQuota,
        403 if is_policy(details) || details.is_moderated => ErrorClass::ContentPolicyViolation,
        403 | 407 => ErrorClass::PermissionDenied,
        404 => ErrorClass::NotFound,
        408 => ErrorClass::Timeout,
        409 => ErrorClass::Conflict,
        413 if is_context_window(details) => ErrorClass::ContextWindowExceeded,
        413 => ErrorClass::RequestTooLarge,
        422 | 424 => ErrorClass::UnprocessableEntity,
        425 => ErrorClass::ServiceUnavailable,
        429 => ErrorClass::RateLimit,
        // Groq's answer where its flex tier has no capacity.
        498 => ErrorClass::ServiceUnavailable,
        499 => ErrorClass::Cancelled,
        _ if details.has_code("API_KEY_INVALID") || details.has_code("invalid_api_key") => ErrorClass::Authentication,
        _ if details.has_code("model_not_found") => ErrorClass::NotFound,
        _ if is_policy(details) => ErrorClass::ContentPolicyViolation,
        _ if is_context_window(details) => ErrorClass::ContextWindowExceeded,
        _ => class_of_litellm(details).unwrap_or(ErrorClass::BadRequest),
    }
}

/// Reads the 400 of a LiteLLM proxy, which stands for more than bad requests: its words of version 1.106, as its proxy sent
/// them on 2026-11-23. An echoed prompt does not stand at a message's beginning.
fn class_of_litellm(details: &Details) -> Option<ErrorClass> {
    // A proxy without a database knows its master key alone, and any other key leads to this.
    if details.has_code("no_db_connection") {
        return Some(ErrorClass::Authentication);
    }
    let message = details.message.as_deref()?;
    let named = message.strip_prefix("litellm.").and_then(|rest| rest.split(':').next());
    match (named, message.split_once(": ")) {
        (Some("ContextWindowExceededError"), _) => Some(ErrorClass::ContextWindowExceeded),
        (Some("ContentPolicyViolationError"), _) => Some(ErrorClass::ContentPolicyViolation),
        // It names the operation first: `/chat/completions` or `anthropic_messages`.
        (None, Some((operation, rest))) => {
            let is_unknown = rest.starts_with("Invalid model name passed in model=") && !operation.contains(' ');
            is_unknown.then_some(ErrorClass::NotFound)
        }
        _ => None,
    }
}

fn class_of_5xx(status: u16, details: &Details) -> ErrorClass {
    match status {
        // A server that lacks the feature lacks it tomorrow.
        501 => ErrorClass::BadRequest,
        502 | 521 | 523 | 525 | 526 | 530 => ErrorClass::BadGateway,
        // OpenAI's answer to a ramp that is too steep was a 503 before it was a 429.
        503 if details.has_code("slow_down") => ErrorClass::RateLimit,
        503 => ErrorClass::ServiceUnavailable,
        504 | 522 | 524 => ErrorClass::Timeout,
        529 => ErrorClass::Overloaded,
        _ => ErrorClass::InternalServer,
    }
}

/// Decides by code and type alone: inside an answer of success there is no status.
fn class_of_code(details: &Details) -> Option<ErrorClass> {
    if is_policy(details) {
        return Some(ErrorClass::ContentPolicyViolation);
    }
    if is_context_window(details) {
        return Some(ErrorClass::ContextWindowExceeded);
    }
    details.codes().find_map(|code| {
        Some(match code {
            "rate_limit_exceeded"
            | "rate_limit_error"
            | "rate_limited"
            | "slow_down"
            | "ramp_limit_exceeded"
            | "too_many_requests"
            | "RESOURCE_EXHAUSTED" => ErrorClass::RateLimit,
            "server_is_overloaded"
            | "unavailable_error"
            | "service_unavailable_error"
            | "UNAVAILABLE"
            | "insufficient_system_resource" => ErrorClass::ServiceUnavailable,
            "overloaded_error" => ErrorClass::Overloaded,
            "timeout" | "timeout_error" | "vector_store_timeout" | "DEADLINE_EXCEEDED" => ErrorClass::Timeout,
            "invalid_api_key" | "authentication_error" | "API_KEY_INVALID" | "UNAUTHENTICATED" => {
                ErrorClass::Authentication
            }
            "permission_error" | "PERMISSION_DENIED" => ErrorClass::PermissionDenied,
            "model_not_found" | "not_found_error" | "NOT_FOUND" => ErrorClass::NotFound,
            "request_too_large" => ErrorClass::RequestTooLarge,
            "invalid_request_error" | "INVALID_ARGUMENT" | "BadRequestError" | "data_residency_mismatch" => {
                ErrorClass::BadRequest
            }
            // OpenAI's Responses API has thirteen of these, `invalid_image` to `image_file_not_found`.
            code if code.contains("image") => ErrorClass::BadRequest,
            _ => return None,
        })
    })
}

/// Tells whether the account, not the rate, is exhausted: waiting does not help.
fn is_billing(status: Option<u16>, details: &Details) -> bool {
    let is_billing_code = |code: &str| {
        matches!(code, "insufficient_quota" | "credit_balance_exhausted" | "billing_error" | "billing_not_active")
            || code == "billing_hard_limit_reached"
            || code.ends_with("spend_limit_exceeded")
            || code.ends_with("spend_limit_reached")
            || code.ends_with("usage_limit_exceeded")
    };
    // Anthropic's spend limits: a 400 or 429 that only its text tells from others.
    let says_so = || {
        let message = details.message.as_deref().unwrap_or_default();
        message.starts_with("You have reached your") && message.contains("API usage limits")
    };
    details.codes().any(is_billing_code) || (status == Some(429) && details.is_daily_quota) || says_so()
}

fn is_policy(details: &Details) -> bool {
    // An echoed prompt does not stand at a message's beginning.
    let says_so = || details.message.as_deref().is_some_and(|text| text.starts_with(ANTHROPIC_FILTER));
    let has_code = details.codes().any(|code| {
        matches!(
            code,
            "content_policy_violation"
                | "content_filter"
                | "ResponsibleAIPolicyViolation"
                | "invalid_prompt"
                | "moderation_blocked"
                | "bio_policy"
                | "misalignment_policy_violation"
        )
    });
    has_code || says_so()
}

/// Tells whether a request is larger than the limit itself, so that no wait makes it fit.
fn is_never_fitting(details: &Details) -> bool {
    details.message.as_deref().is_some_and(|message| message.starts_with("Request too large"))
}

/// Tells whether the prompt is longer than the model's window: by code or type, else by text.
fn is_context_window(details: &Details) -> bool {
    if details.codes().any(|code| matches!(code, "context_length_exceeded" | "exceed_context_size_error")) {
        return true;
    }
    let message = details.message.as_deref().unwrap_or_default().to_lowercase();
    if details.has_code("string_above_max_length") || message.contains("invalid 'user'") {
        return false;
    }
    let any = [
        "exceed context limit",
        "this model's maximum context length is",
        "requested token count exceeds the model's maximum context length",
        "model's maximum context limit",
        "is longer than the model's context length",
        "input tokens exceed the configured limit",
        "`inputs` tokens + `max_new_tokens` must be",
        "exceeds the available context size",
        "exceeds the maximum number of tokens allowed",
        "prompt is too long",
    ];
    let both = [
        ("current length is", "while limit is"),
        ("maximum input length is", "tokens"),
        ("input too long:", "input tokens, limit is"),
    ];
    any.iter().any(|part| message.contains(part))
        || both.iter().any(|(first, second)| message.contains(first) && message.contains(second))
}

/// Tells whether the same call may succeed later: by class, unless the provider says otherwise of this answer.
///
/// A fault of the deployment keeps its own rule whatever a header says: a retry does not fill an empty account.
fn is_retryable(class: &ErrorClass, headers: &HeaderMap, details: &Details) -> bool {
    let disposition = class.disposition();
    let by_class = disposition != Disposition::Final;
    if disposition == Disposition::DeploymentFault {
        return by_class;
    }
    if *class == ErrorClass::RateLimit && is_never_fitting(details) {
        return false;
    }
    match headers.get("x-should-retry").map(http::HeaderValue::as_bytes) {
        Some(b"true") => true,
        Some(b"false") => false,
        // Groq's word for a sample that was no valid tool call; the next one may be.
        _ => by_class || details.has_code("tool_use_failed"),
    }
}

fn retry_after_ms(
    status: Option<u16>,
    class: &ErrorClass,
    headers: &HeaderMap,
    details: &Details,
    now: DateTime<Utc>,
) -> Option<u64> {
    if *class == ErrorClass::InsufficientQuota {
        return None;
    }
    let waits = matches!(class, ErrorClass::RateLimit | ErrorClass::ServiceUnavailable | ErrorClass::Overloaded);
    wait::from_retry_headers(headers, now)
        .or_else(|| wait::from_resets(headers, now).filter(|_| status == Some(429)))
        .or_else(|| wait::duration_ms(details.retry_delay.as_deref()?).filter(|_| waits))
        .or_else(|| wait::from_text(details.message.as_deref()?).filter(|_| waits))
}

fn message(status: u16, body: &[u8], details: &Details) -> String {
    if (300..400).contains(&status) {
        return format!(
            "the endpoint answered with a redirect (status {status}), which is not followed; set api_base to its final address"
        );
    }
    if let Some(message) = &details.message {
        return message.clone();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(2048)]);
    let text = text.trim();
    if let Some(title) = html_title(text) {
        return format!("status {status} with an HTML page: {title}");
    }
    if text.is_empty() {
        return format!("status {status} with an empty body");
    }
    let is_short_line = text.chars().count() <= 300 && !text.contains('\n') && !text.starts_with(['<', '{', '[']);
    if is_short_line { text.to_owned() } else { format!("status {status} without a message") }
}

/// Returns the title of an HTML page, or a word for a page that has none; `None` for what is no page.
pub(super) fn html_title(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("<!doctype html") && !lower.starts_with("<html") && !lower.contains("<head") {
        return None;
    }
    let title = lower.find("<title>").and_then(|start| {
        let start = start + "<title>".len();
        let end = start + lower[start..].find("</title>")?;
        Some(text[start..end].trim())
    });
    Some(shorten(title.filter(|title| !title.is_empty()).unwrap_or("without a title")))
}

/// Keeps whole words of a long text: half of a key would be known by nobody as what it is.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 200;
    let Some((end, _)) = text.char_indices().nth(SHOWN) else { return text.to_owned() };
    text[..end].rsplit_once(char::is_whitespace).map_or("too long to show", |(words, _)| words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(body: &str) -> ErrorClass {
        classify(400, &HeaderMap::new(), body.as_bytes(), DateTime::UNIX_EPOCH).class
    }

    #[test]
    fn a_long_title_is_not_cut_within_a_word() {
        let page = |title: &str| html_title(&format!("<html><head><title>{title}</title>")).unwrap();
        assert_eq!(page("Sign in"), "Sign in");
        assert_eq!(page(&format!("{} sk-secret-of-many-letters", "x".repeat(190))), "x".repeat(190));
        assert_eq!(page(&"x".repeat(300)), "too long to show");
    }

    #[test]
    fn a_400_of_a_proxy_is_what_stands_behind_it() {
        for (body, wanted) in [
            (
                r#"{"error":{"message":"No connected db.","type":"no_db_connection","param":null,"code":"400"}}"#,
                ErrorClass::Authentication,
            ),
            (
                r#"{"error":{"message":"/chat/completions: Invalid model name passed in model=x. Call `/v1/models`","type":"invalid_request_error","code":"400"}}"#,
                ErrorClass::NotFound,
            ),
            (
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"anthropic_messages: Invalid model name passed in model=x."}}"#,
                ErrorClass::NotFound,
            ),
            (
                r#"{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: too long","code":"400"}}"#,
                ErrorClass::ContextWindowExceeded,
            ),
            (
                r#"{"error":{"message":"litellm.ContentPolicyViolationError: AzureException - filtered","code":"400"}}"#,
                ErrorClass::ContentPolicyViolation,
            ),
            (
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}"#,
                ErrorClass::ContentPolicyViolation,
            ),
            (
                r#"{"error":{"message":"cannot read: \"litellm.ContextWindowExceededError: Output blocked by content filtering policy\""}}"#,
                ErrorClass::BadRequest,
            ),
            (
                r#"{"error":{"message":"the prompt says: Invalid model name passed in model=x"}}"#,
                ErrorClass::BadRequest,
            ),
        ] {
            assert_eq!(class(body), wanted, "{body}");
        }
    }
}
