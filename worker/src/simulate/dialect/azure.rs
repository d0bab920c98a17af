//! Azure's hosting of OpenAI's models: deployments in the path, filters in the answers, errors in three shapes.
//!
//! Addresses and headers follow the `openai` package 3.54.0, `lib/azure.py`; that a missing or unknown `api-version` is a
//! 404 follows <https://github.com/MicrosoftDocs/azure-docs/issues/114602> (both read 2026-11-23). What Azure does not
//! document, such as the names of headers and the flat errors of its gateway, follows what users of it show.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

use super::openai::error::{self, POLICY_CODES, QUOTA_CODES};
use super::openai::{OpenAi, read, render};
use super::{Dialect, Figures, Given, insert, insert_left, milliseconds, seconds};
use crate::simulate::answer::Answer;
use crate::simulate::body::Body;
use crate::simulate::instance::uuid;
use crate::simulate::limit::{self, Dimension};
use crate::simulate::random::Random;
use crate::simulate::refusal::{Reason, Refusal};
use crate::simulate::request::{Malformed, Request};
use crate::simulate::route::{Operation, Route};

/// The model behind all deployments of text.
const TEXT_MODEL: &str = "gpt-4o-2024-11-20";

/// The model behind all deployments of embeddings.
const EMBEDDING_MODEL: &str = "text-embedding-3-small";

/// Where the simulator stands.
const REGION: &str = "Simulated Central";

/// Azure.
#[derive(Debug)]
pub(in crate::simulate) struct Azure;

impl Dialect for Azure {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn key<'h>(&self, headers: &'h HeaderMap) -> Option<Given<'h>> {
        Given::header(headers, "api-key").or_else(|| Given::bearer(headers))
    }

    fn check(&self, route: &Route) -> Result<(), Refusal> {
        let is_known = match &route.version {
            Some(version) => is_version(version),
            None => !route.needs_version,
        };
        if is_known { Ok(()) } else { Err(Refusal::no_version(404)) }
    }

    fn read<'b>(&self, route: &Route, body: &'b [u8]) -> Result<Request<'b>, Malformed> {
        read::read(route.operation().unwrap_or(Operation::Chat), route.deployment.as_deref(), body)
    }

    fn model<'a>(&self, route: &Route, _asked: &'a str) -> &'a str {
        if route.operation() == Some(Operation::Embeddings) { EMBEDDING_MODEL } else { TEXT_MODEL }
    }

    /// The prompt's estimate and the answer's maximum, as Microsoft's page on quotas says
    /// (<https://learn.microsoft.com/azure/ai-services/openai/how-to/quota>).
    fn charge(&self, request: &Request<'_>) -> u64 {
        request.prompt_tokens().saturating_add(request.max_tokens.unwrap_or(0)).max(1)
    }

    fn render(&self, route: &Route, request: &Request<'_>, answer: &Answer<'_>) -> Body {
        render::render(render::Host::Azure, route, request, answer)
    }

    fn late_error(
        &self,
        route: &Route,
        request: &Request<'_>,
        answer: &Answer<'_>,
        refusal: &Refusal,
        sent: usize,
    ) -> Vec<u8> {
        if route.operation() == Some(Operation::Responses) {
            return OpenAi.late_error(route, request, answer, refusal, sent);
        }
        let error = self.error(route, refusal, answer.id);
        if request.stream { render::event(&error) } else { error }
    }

    fn error(&self, route: &Route, refusal: &Refusal, _id: u64) -> Vec<u8> {
        words(route, refusal).to_string().into_bytes()
    }

    fn insert_headers(&self, headers: &mut HeaderMap, route: &Route, figures: &Figures<'_>) {
        let mut random = Random::from_seed(figures.id);
        let id = uuid(random.bits(), random.bits());
        for name in ["apim-request-id", "x-request-id"] {
            insert(headers, HeaderName::from_static(name), &id);
        }
        insert(headers, HeaderName::from_static("x-ms-region"), REGION);
        if let Some(deployment) = &route.deployment {
            insert(headers, HeaderName::from_static("x-ms-deployment-name"), deployment);
        }
        headers.insert(HeaderName::from_static("x-ms-rai-invoked"), HeaderValue::from_static("true"));
        headers.insert(HeaderName::from_static("azureml-model-session"), HeaderValue::from_static("simulated-1"));
        let Some(lefts) = figures.lefts else {
            return;
        };
        if let Some(left) = &lefts.requests {
            const NAMES: [&str; 3] =
                ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
            insert_left(headers, NAMES, left, &seconds(left.reset).to_string());
        }
        if let Some(left) = &lefts.tokens {
            const NAMES: [&str; 3] =
                ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
            insert_left(headers, NAMES, left, &seconds(left.reset).to_string());
            if route.operation() == Some(Operation::Responses) {
                // As seen there, and not documented: tokens that nobody has counted.
                for (name, value) in NAMES.into_iter().zip(["-1", "-1", "0"]) {
                    headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
            }
        }
    }

    fn insert_wait(&self, headers: &mut HeaderMap, wait: Duration) {
        headers.insert(RETRY_AFTER, seconds(wait).into());
        headers.insert(HeaderName::from_static("retry-after-ms"), milliseconds(wait).into());
    }

    fn models(&self) -> &'static str {
        super::openai::MODELS
    }
}

/// Tells whether a text is a version of the API: a date, perhaps a preview, or a name that is always the newest.
fn is_version(text: &str) -> bool {
    let date = text.strip_suffix("-preview").unwrap_or(text);
    let is_date = date.len() == 10
        && date.bytes().enumerate().all(|(at, b)| if at == 4 || at == 7 { b == b'-' } else { b.is_ascii_digit() });
    is_date || matches!(text, "preview" | "latest" | "v1")
}

/// Words a refusal, in the shape that its source has at Azure: the gateway's, the service's or the model's.
fn words(route: &Route, refusal: &Refusal) -> Value {
    let named = |code: &str, message: &str| json!({ "error": { "code": code, "message": message } });
    match &refusal.reason {
        Reason::Fault { code, .. } => usual(refusal, code.as_deref()),
        Reason::WrongKey { is_bearer: false, .. } => named("401", BAD_KEY),
        Reason::NoKey | Reason::WrongKey { .. } => json!({ "statusCode": 401, "message": UNAUTHORIZED }),
        Reason::NoVersion | Reason::NoSuchPath { .. } => named("404", "Resource not found"),
        Reason::WrongMethod { .. } => named("405", "Method not allowed"),
        Reason::TooLarge { .. } => named("413", "Request body too large"),
        Reason::Hidden { .. } => usual(refusal, None),
        Reason::Limited { refusal: limit, .. } => named("429", &limited(route, limit)),
        Reason::Malformed(_) | Reason::Script(_) | Reason::Steering(_) => json!({ "error": error::object(refusal) }),
    }
}

const BAD_KEY: &str = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.";
const UNAUTHORIZED: &str = "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or have expired.";

/// Returns what Azure usually says with a status.
fn usual(refusal: &Refusal, code: Option<&str>) -> Value {
    let status = refusal.status;
    let named = |usual: &str, message: &str| json!({ "error": { "code": code.unwrap_or(usual), "message": message } });
    let one_of = |codes: &[&str]| code.is_some_and(|code| codes.contains(&code));
    let wait = refusal.retry_after.map(seconds);
    let again = wait.map_or_else(String::new, |wait| format!(" Please retry after {wait} seconds."));
    match status {
        400 if one_of(&POLICY_CODES) => filtered(),
        // The model's own complaints pass through.
        400 | 422 => json!({ "error": error::object(refusal) }),
        401 if code.is_some() => named("401", BAD_KEY),
        401 => json!({ "statusCode": 401, "message": UNAUTHORIZED }),
        403 => named("403", "Access denied due to Virtual Network/Firewall rules."),
        404 => named(
            "DeploymentNotFound",
            "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again.",
        ),
        408 => named("Timeout", "The operation was timeout."),
        429 if one_of(&QUOTA_CODES) => json!({ "error": error::object(refusal) }),
        429 => named("429", &format!("Requests have exceeded the rate limit of your current pricing tier.{again}")),
        500 => named("500", "The server had an error while processing your request."),
        503 => named(
            "503",
            "The service is temporarily unable to process your request. System is experiencing high demand. Please try again later.",
        ),
        _ => named(&status.to_string(), "The request could not be processed."),
    }
}

/// Writes what Azure says of a prompt that its filter stops.
fn filtered() -> Value {
    let safe = json!({ "filtered": false, "severity": "safe" });
    json!({ "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.",
        "type": null,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {
                "hate": safe,
                "jailbreak": { "filtered": true, "detected": true },
                "self_harm": safe,
                "sexual": safe,
                "violence": { "filtered": true, "severity": "medium" },
            },
        },
    } })
}

fn limited(route: &Route, refusal: &limit::Refusal) -> String {
    let operation = match route.operation() {
        Some(Operation::Completions) => "Completions_Create",
        Some(Operation::Embeddings) => "Embeddings_Create",
        Some(Operation::Responses) => "Responses_Create",
        _ => "ChatCompletions_Create",
    };
    let version = route.version.as_deref().unwrap_or("v1");
    let kind = match refusal.dimension {
        Dimension::Requests | Dimension::RequestsPerDay | Dimension::Parallel => "call",
        Dimension::Tokens | Dimension::InputTokens | Dimension::OutputTokens => "token",
    };
    let again = match refusal.wait {
        None if refusal.dimension == Dimension::Parallel => "Please retry later.".to_owned(),
        Some(wait) => format!("Please retry after {} seconds.", seconds(wait)),
        None => format!("The request needs {} of {}.", refusal.requested, refusal.limit),
    };
    format!(
        "Requests to the {operation} Operation under Azure OpenAI API version {version} have exceeded {kind} rate limit of your current pricing tier. {again}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::fault::StatusFault;

    fn fault(status: u16, code: Option<&str>) -> Value {
        let route = Route::of("/openai/deployments/d/chat/completions", None, &HeaderMap::new());
        let fault =
            StatusFault { status, code: code.map(str::to_owned), retry_after: Some(Duration::from_millis(1_500)) };
        words(&route, &Refusal::fault(&fault, "m"))
    }

    #[test]
    fn errors_have_the_shapes_of_their_sources() {
        for (status, code, wanted) in [
            (429, None, "429"),
            (429, Some("RateLimitReached"), "RateLimitReached"),
            (429, Some("insufficient_quota"), "insufficient_quota"),
            (404, None, "DeploymentNotFound"),
            (401, Some("401"), "401"),
            (500, None, "500"),
            (418, None, "418"),
            (400, Some("content_filter"), "content_filter"),
            (400, Some("context_length_exceeded"), "context_length_exceeded"),
        ] {
            let error = fault(status, code);
            assert_eq!(error["error"]["code"], wanted, "{error}");
        }
        assert_eq!(fault(401, None)["statusCode"], 401);
        assert!(fault(429, None)["error"]["message"].as_str().unwrap().ends_with("retry after 2 seconds."));
        let filtered = fault(400, Some("content_policy_violation"));
        assert_eq!(filtered["error"]["innererror"]["content_filter_result"]["violence"]["filtered"], true);
    }

    #[test]
    fn a_version_is_a_date_or_a_name() {
        for (text, is_one) in [
            ("2024-10-21", true),
            ("2025-01-01-preview", true),
            ("preview", true),
            ("latest", true),
            ("0613", false),
            ("2024-1021x", false),
            ("", false),
        ] {
            assert_eq!(is_version(text), is_one, "{text}");
        }
    }
}
