//! How each dialect is spoken: addresses, headers, and what becomes of a request on its way out.

use bytes::Bytes;
use gristmill_common::config::{Deployment, Dialect};
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::ExposeSecret as _;

use super::address::{self, Api};
use super::anthropic;
use super::splice::{self, Streaming};
use super::structured::Wanted;
use super::{Call, Error};

/// The version of Anthropic's API that is spoken unless another is configured. Later ones refuse sampling parameters:
/// <https://platform.claude.com/docs/en/api/versioning>, read 2026-11.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What bounds the answer's length in chat completions, by two names of which a request has one.
const ANSWER_BOUNDS: &[&str] = &["max_tokens", "max_completion_tokens"];

/// Tokens of output beyond which Anthropic's own clients make no call without a stream: it would take longer than ten minutes
/// at the rate that they reckon with (Python client 2.12, `_calculate_nonstreaming_timeout`, read 2026-11).
const MOST_UNSTREAMED_TOKENS: u32 = 21_333;

/// Lets a request name files by their id: <https://platform.claude.com/docs/en/build-with-claude/files>, read 2026-08-22.
const ANTHROPIC_FILES: (HeaderName, HeaderValue) =
    (HeaderName::from_static("anthropic-beta"), HeaderValue::from_static("files-api-2025-04-14"));

/// Why a request is not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) class: ErrorClass,
    pub(super) param: Option<String>,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self { class: ErrorClass::BadRequest, param: None, message: message.into() }
    }

    pub(super) fn into_record(self) -> Box<ErrorRecord> {
        let mut record = ErrorRecord::new(self.class, self.message);
        record.param = self.param;
        Box::new(record)
    }
}

impl From<anthropic::Refusal> for Refusal {
    fn from(refusal: anthropic::Refusal) -> Self {
        Self { class: refusal.class, param: refusal.param, message: refusal.message }
    }
}

/// A call made ready for the wire.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is asked for at the provider.
    pub(super) api: Api,
    pub(super) url: Url,
    pub(super) body: Bytes,
    /// A header of this call alone.
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    /// How many choices are asked for.
    pub(super) choices: usize,
    /// What an answer must be translated by.
    pub(super) translation: Option<anthropic::Context>,
    /// What the answer's text must be.
    pub(super) wanted: Wanted,
}

/// Speaks one dialect to one deployment.
#[derive(Debug)]
pub(super) struct Speech {
    dialect: Dialect,
    provider: String,
    deployment: String,
    model: String,
    base: Url,
    version: Option<String>,
    drop_params: bool,
    always_streams: bool,
    is_simulated: bool,
    max_tokens: Option<u32>,
    /// Parameters for requests that do not set them, as JSON texts.
    defaults: Vec<(String, String)>,
    /// Headers of every call.
    headers: HeaderMap,
    /// The addresses of the known APIs, in the order of [`Api::KNOWN`].
    addresses: Vec<Url>,
}

impl Speech {
    pub(super) fn new(deployment: &Deployment) -> Result<Self, Error> {
        let invalid = || Error::InvalidEndpoint { deployment: deployment.name.to_string() };
        let base = deployment.api_base.0.clone();
        if !matches!(base.scheme(), "http" | "https") {
            return Err(invalid());
        }
        let wire = &deployment.wire;
        let mut headers = HeaderMap::new();
        let wrong =
            |name: &str| Error::InvalidHeader { deployment: deployment.name.to_string(), name: name.to_owned() };
        if wire.dialect == Dialect::Anthropic || deployment.simulated {
            let version = wire.api_version.as_deref().unwrap_or(ANTHROPIC_VERSION);
            let version = HeaderValue::try_from(version).map_err(|_| wrong("anthropic-version"))?;
            headers.insert(HeaderName::from_static("anthropic-version"), version);
        }
        for header in &wire.headers {
            let name = HeaderName::try_from(&*header.name).map_err(|_| wrong(&header.name))?;
            let mut value = HeaderValue::try_from(header.value.expose_secret()).map_err(|_| wrong(&header.name))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let mut speech = Self {
            dialect: wire.dialect,
            provider: deployment.provider.to_string(),
            deployment: deployment.name.to_string(),
            model: deployment.model.to_string(),
            base,
            version: wire.api_version.as_deref().map(str::to_owned),
            drop_params: wire.drop_params,
            always_streams: wire.stream,
            is_simulated: deployment.simulated,
            max_tokens: wire.max_tokens,
            defaults: deployment.defaults.iter().map(|(name, value)| (name.clone(), value.to_string())).collect(),
            headers,
            addresses: Vec::new(),
        };
        for (_, path) in Api::KNOWN {
            let url = speech.join(path).ok_or_else(invalid)?;
            speech.addresses.push(url);
        }
        Ok(speech)
    }

    /// Returns the headers of every call, without the key's.
    pub(super) const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the address at which the provider tells its models.
    pub(super) fn models(&self) -> Option<Url> {
        self.join("models")
    }

    /// Tells whether the names that [`Self::models`] gives are those that calls name: Azure's calls name deployments.
    pub(super) fn lists_what_it_serves(&self) -> bool {
        self.dialect != Dialect::Azure
    }

    fn join(&self, path: &str) -> Option<Url> {
        match self.dialect {
            Dialect::OpenAi => address::join(&self.base, path),
            Dialect::Azure => {
                address::join_azure(&self.base, Api::of(path), path, &self.model, self.version.as_deref())
            }
            Dialect::Anthropic => address::join_anthropic(&self.base, path),
        }
    }

    /// Makes a call ready, or says why it cannot be made.
    pub(super) fn plan(&self, call: &Call<'_>) -> Result<Plan, Refusal> {
        let path = address::path_below_version(call.endpoint);
        let api = Api::of(path);
        let is_translated = match (self.dialect, api) {
            (Dialect::Anthropic, Api::Chat) => true,
            (Dialect::Anthropic, Api::Messages) => false,
            // Such as messages/count_tokens.
            (Dialect::Anthropic, Api::Other) if path.starts_with("messages/") => false,
            (Dialect::Anthropic, _) => return Err(self.not_served(call.endpoint)),
            // The simulator speaks every dialect.
            (_, Api::Messages) if self.is_simulated => false,
            (_, Api::Messages) => {
                return Err(Refusal::bad(format!(
                    "deployment `{}` speaks OpenAI's API and cannot serve {}, which is Anthropic's; send this request to a \
                     deployment of provider anthropic, or write it as /v1/chat/completions",
                    self.deployment, call.endpoint
                )));
            }
            _ => false,
        };
        let body = self.with_defaults(api, call.body)?;
        let call = &Call { body: &body, ..*call };
        let wanted = Wanted::of(api, call.body)?;
        if is_translated {
            return self.plan_translated(call, wanted);
        }
        let url = match Api::KNOWN.iter().zip(&self.addresses).find(|((_, known), _)| *known == path) {
            Some((_, url)) => url.clone(),
            None => self.join(path).ok_or_else(|| {
                let shown = call.endpoint.chars().take(80).collect::<String>();
                Refusal::bad(format!(
                    "`{}` is not the path of an API; use one such as /v1/chat/completions",
                    shown.escape_debug()
                ))
            })?,
        };
        // Mistral refuses parameters that it does not know, and always tells usage.
        let is_mistral = self.provider == "mistral";
        let with_usage = matches!(api, Api::Chat | Api::Completions) && !is_mistral;
        let streaming = match api {
            _ if !api.streams() => Streaming::Never,
            _ if self.always_streams || call.tokens.is_some() => Streaming::Always { with_usage },
            _ => Streaming::AsAsked { with_usage },
        };
        let not_an_object = |_| Refusal::bad("the request's body is not a JSON object");
        let mut body = splice::fit(call.body, &self.model, call.service_tier, streaming).map_err(not_an_object)?;
        if is_mistral {
            body = splice::rename(&body, "seed", "random_seed").map_err(not_an_object)?;
        }
        let choices = if splice::mentions(&body, b"\"n\"") { splice::asks(&body).choices } else { 1 };
        Ok(Plan { api, url, body, header: None, choices, translation: None, wanted })
    }

    /// Plans a chat completion at Anthropic's.
    fn plan_translated(&self, call: &Call<'_>, wanted: Wanted) -> Result<Plan, Refusal> {
        let asks = splice::asks(call.body);
        let most = self.max_tokens.unwrap_or_else(|| anthropic::max_output_tokens(&self.model));
        let streams = asks.stream
            || self.always_streams
            || call.tokens.is_some()
            || asks.max_tokens.unwrap_or(most) > MOST_UNSTREAMED_TOKENS;
        let options = anthropic::Options {
            model: &self.model,
            drop_params: self.drop_params,
            default_max_tokens: most,
            stream: streams,
            service_tier: call.service_tier,
        };
        let (body, context) = anthropic::to_messages(call.body, &options)?;
        let url = self.join("messages").ok_or_else(|| self.not_served(call.endpoint))?;
        let names_a_file = !self.headers.contains_key(&ANTHROPIC_FILES.0) && splice::mentions(&body, b"\"file_id\"");
        let header = names_a_file.then_some(ANTHROPIC_FILES);
        Ok(Plan { api: Api::Chat, url, body, header, choices: 1, translation: Some(context), wanted })
    }

    /// Sets what the deployment says and the request does not, for APIs that make text.
    fn with_defaults(&self, api: Api, body: &Bytes) -> Result<Bytes, Refusal> {
        if self.defaults.is_empty() || matches!(api, Api::Embeddings | Api::Other) {
            return Ok(body.clone());
        }
        // Each API has its own word for the longest answer.
        let is_spoken = |name: &str| api != Api::Responses || !ANSWER_BOUNDS.contains(&name);
        let defaults = self.defaults.iter().filter(|(name, _)| is_spoken(name));
        let defaults: Vec<(&str, &str)> = defaults.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        splice::with_defaults(body, &defaults, ANSWER_BOUNDS)
            .map_err(|_| Refusal::bad("the request's body is no JSON object"))
    }

    fn not_served(&self, endpoint: &str) -> Refusal {
        Refusal::bad(format!(
            "deployment `{}` is Anthropic's, which serves /v1/messages and, translated, /v1/chat/completions, and not {}",
            self.deployment,
            endpoint.chars().take(80).collect::<String>().escape_debug()
        ))
    }
}
