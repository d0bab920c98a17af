//! Any endpoint that speaks OpenAI's API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_common::clock::Clock;
use gristmill_common::config::Deployment;
use gristmill_common::failure::{BODY_CAP_BYTES, Cause, ErrorClass, ErrorRecord};
use gristmill_common::id::JobId;
use gristmill_common::outcome::Usage;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::Url;

use super::address::{self, Api};
use super::answer::{self, Fault};
use super::classify;
use super::details::Details;
use super::exchange::{Exchange, Limits, exchange};
use super::key::{Credentials, Key};
use super::splice;
use super::{Answer, Call, Error, Http, Preview, Provider, Reply};

/// The path of Anthropic's own API, which asks and answers otherwise.
const ANTHROPIC_PATH: &str = "messages";
/// The least that a call of the flex tier may take: <https://platform.openai.com/docs/guides/flex-processing>, read 2026-11,
/// advises 15 minutes.
const FLEX_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// One deployment of an OpenAI-compatible endpoint.
pub(super) struct OpenAi {
    name: Arc<str>,
    kind: Arc<str>,
    model: Arc<str>,
    client: reqwest::Client,
    base: Url,
    /// The addresses of the known APIs, in the order of [`Api::KNOWN`].
    addresses: [Url; Api::KNOWN.len()],
    key: Key,
    limits: Limits,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi").field("name", &self.name).field("model", &self.model).finish_non_exhaustive()
    }
}

impl OpenAi {
    pub(super) fn new(deployment: &Deployment, http: &Http, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let name = || deployment.name.to_string();
        let base = deployment.api_base.0.clone();
        if !matches!(base.scheme(), "http" | "https") {
            return Err(Error::InvalidEndpoint { deployment: name() });
        }
        let join = |(_, path)| address::join(&base, path).ok_or_else(|| Error::InvalidEndpoint { deployment: name() });
        let [chat, responses, embeddings, completions] = Api::KNOWN.map(join);
        let addresses = [chat?, responses?, embeddings?, completions?];
        let key = Key::new(deployment)?;
        let client = http.client(&base, deployment.timeouts.connect).map_err(|reason| Error::Client {
            deployment: name(),
            reason: key.known().redactor.text(&reason).into_owned(),
        })?;
        Ok(Self {
            name: Arc::clone(&deployment.name),
            kind: Arc::clone(&deployment.provider),
            model: Arc::clone(&deployment.model),
            client,
            addresses,
            key,
            limits: Limits {
                timeouts: deployment.timeouts,
                deadline: None,
                max_response_bytes: http.max_response_bytes(),
            },
            base,
            clock,
        })
    }

    /// Finds the address of an API path; the error says why there is none.
    fn address(&self, endpoint: &str) -> Result<(Api, Url), String> {
        let path = address::path_below_version(endpoint);
        if path == ANTHROPIC_PATH {
            return Err(format!(
                "deployment `{}` speaks OpenAI's API and cannot serve {endpoint}, which is Anthropic's; send this \
                 request to a deployment of provider anthropic, or write it as /v1/chat/completions",
                self.name
            ));
        }
        let known = Api::KNOWN.iter().zip(&self.addresses).find(|((_, known), _)| *known == path);
        if let Some(((api, _), url)) = known {
            return Ok((*api, url.clone()));
        }
        let url = address::join(&self.base, path).ok_or_else(|| {
            let shown = endpoint.chars().take(80).collect::<String>();
            format!("`{}` is not the path of an API; use one such as /v1/chat/completions", shown.escape_debug())
        })?;
        Ok((Api::Other, url))
    }

    /// Finds the address of a call and fits its body.
    fn fit(&self, call: &Call<'_>) -> Result<(Api, Url, Bytes), String> {
        let (api, url) = self.address(call.endpoint)?;
        let body = splice::fit(call.body, &self.model, call.service_tier)
            .map_err(|_| "the request's body is not a JSON object".to_owned())?;
        Ok((api, url, body))
    }

    fn request(&self, credentials: &Credentials, url: Url, job: JobId) -> reqwest::Request {
        let mut request = reqwest::Request::new(Method::POST, url);
        let headers = request.headers_mut();
        headers.reserve(8);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(bearer) = &credentials.bearer {
            headers.insert(header::AUTHORIZATION, bearer.clone());
        }
        let mut text = [0; 36];
        let text: &str = job.uuid().hyphenated().encode_lower(&mut text);
        // The digits and dashes of an id are always a header's value.
        if let Ok(id) = HeaderValue::from_str(text) {
            headers.insert(CLIENT_REQUEST_ID, id);
        }
        request
    }

    /// Makes the reply to a request that was not sent, since it cannot be.
    fn refuse(&self, message: String) -> Reply {
        let mut reply = Reply {
            sent: false,
            http_status: None,
            ttft_ms: None,
            latency_ms: 0,
            request_id: None,
            usage: Usage::default(),
            served_model: None,
            service_tier: None,
            outcome: Err(Box::new(ErrorRecord::new(ErrorClass::BadRequest, message))),
        };
        self.sign(&self.key.known(), &mut reply);
        reply
    }

    /// Reads what came back to a call with these credentials.
    pub(super) fn reply(&self, credentials: &Credentials, api: Api, body: &Bytes, exchange: Exchange) -> Reply {
        let mut reply = Reply {
            sent: exchange.sent,
            http_status: None,
            ttft_ms: exchange.first_byte.map(whole_ms),
            latency_ms: whole_ms(exchange.total),
            request_id: None,
            usage: Usage::default(),
            served_model: None,
            service_tier: None,
            outcome: Err(Box::new(ErrorRecord::new(ErrorClass::ApiConnection, "no answer"))),
        };
        let headers = exchange.head.as_ref().map(|(_, headers)| headers);
        reply.http_status = exchange.head.as_ref().map(|(status, _)| status.as_u16());
        reply.request_id = headers.and_then(classify::request_id).map(str::to_owned);
        match (exchange.body, &exchange.head) {
            (Ok(answer), Some((status, headers))) if status.is_success() => {
                self.read(&mut reply, api, body, *status, headers, answer);
            }
            (Ok(answer), Some((status, headers))) => {
                let record = classify::classify(status.as_u16(), headers, &answer, self.clock.now());
                reply.outcome = Err(Box::new(record));
            }
            // An error status whose body was lost is still that error.
            (Err(lost), Some((status, headers))) if !status.is_success() => {
                let mut record = classify::classify(status.as_u16(), headers, b"", self.clock.now());
                record.causes.push(Cause { kind: "body".to_owned(), message: lost.message });
                reply.outcome = Err(Box::new(record));
            }
            (Err(record), _) => reply.outcome = Err(Box::new(record)),
            (Ok(_), None) => {}
        }
        self.sign(credentials, &mut reply);
        reply
    }

    /// Reads an answer of success, which may be none.
    fn read(&self, reply: &mut Reply, api: Api, request: &Bytes, status: StatusCode, headers: &HeaderMap, body: Bytes) {
        let read = answer::read(api, &body);
        reply.usage = read.usage;
        reply.served_model = read.model;
        reply.service_tier = read.service_tier;
        let was_cut = read.finish_reason.as_deref() == Some("length");
        let fault = read.fault.or_else(|| {
            (was_cut && answer::asks_for_schema(request)).then(|| {
                let what = "the output was cut at the length limit and cannot fit the JSON schema; raise max_completion_tokens";
                Fault::Because(ErrorClass::LengthFinishReason, what.to_owned())
            })
        });
        let mut record = match fault {
            None => {
                reply.outcome = Ok(Answer { body, finish_reason: read.finish_reason, output_text: read.output_text });
                return;
            }
            Some(Fault::Error) => {
                let details = Details::of_answer(&body);
                classify::record(status.as_u16(), headers, &body, details, self.clock.now())
            }
            Some(Fault::Because(class, message)) => classify::fault(class, message, headers, &body),
        };
        record.status = Some(status.as_u16());
        reply.outcome = Err(Box::new(record));
    }

    /// Writes into an error where it happened, and takes out what must not be shown.
    fn sign(&self, credentials: &Credentials, reply: &mut Reply) {
        let Err(record) = &mut reply.outcome else { return };
        record.provider = Some(self.kind.to_string());
        record.model = Some(self.model.to_string());
        record.deployment = Some(self.name.to_string());
        record.status = record.status.or(reply.http_status);
        if reply.request_id.is_none() {
            reply.request_id.clone_from(&record.request_id);
        } else {
            record.request_id.clone_from(&reply.request_id);
        }
        credentials.redactor.record(record);
        // Cut only now: a cut through a secret would hide it from redaction.
        if let Some(body) = record.body.as_mut().filter(|body| body.len() > BODY_CAP_BYTES) {
            body.truncate(body.floor_char_boundary(BODY_CAP_BYTES));
            record.body_truncated = true;
        }
        reply.request_id.clone_from(&record.request_id);
    }
}

#[async_trait]
impl Provider for OpenAi {
    async fn call(&self, call: Call<'_>) -> Reply {
        let (api, url, body) = match self.fit(&call) {
            Ok(fitted) => fitted,
            Err(message) => return self.refuse(message),
        };
        let mut limits = Limits { deadline: call.deadline, ..self.limits };
        if call.service_tier == Some("flex") {
            limits.timeouts.total = limits.timeouts.total.max(FLEX_TIMEOUT);
            limits.timeouts.first_byte = limits.timeouts.first_byte.max(FLEX_TIMEOUT);
        }
        let credentials = self.key.current().await;
        let request = self.request(&credentials, url, call.job);
        let exchange = exchange(&self.client, request, body.clone(), limits).await;
        let reply = self.reply(&credentials, api, &body, exchange);
        if reply.http_status == Some(401) {
            self.key.doubt();
        }
        reply
    }

    fn preview(&self, call: Call<'_>) -> Result<Preview, Box<ErrorRecord>> {
        let (_, mut url, body) = match self.fit(&call) {
            Ok(fitted) => fitted,
            Err(message) => return Err(Box::new(ErrorRecord::new(ErrorClass::BadRequest, message))),
        };
        let show = |(name, value): (&HeaderName, &HeaderValue)| {
            let value = if value.is_sensitive() { "***" } else { value.to_str().unwrap_or("***") };
            (name.to_string(), value.to_owned())
        };
        let request = self.request(&self.key.known(), url.clone(), call.job);
        let headers = request.headers().iter().map(show).collect();
        // Neither can fail: the address has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        Ok(Preview { url: url.into(), headers, body })
    }

    async fn models(&self, limit: Duration) -> Result<Vec<String>, Box<ErrorRecord>> {
        let Some(url) = address::join(&self.base, "models") else { return Ok(Vec::new()) };
        let mut request = reqwest::Request::new(Method::GET, url);
        let credentials = self.key.current().await;
        if let Some(bearer) = &credentials.bearer {
            request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
        }
        let limits = Limits { deadline: Some(limit), ..self.limits };
        let exchange = exchange(&self.client, request, Bytes::new(), limits).await;
        let reply = self.reply(&credentials, Api::Other, &Bytes::new(), exchange);
        let answer = reply.outcome?;
        Ok(serde_json::from_slice::<ModelList>(&answer.body)
            .unwrap_or_default()
            .data
            .into_iter()
            .map(|m| m.id)
            .collect())
    }
}

/// The answer of `GET /models`, <https://platform.openai.com/docs/api-reference/models/list>, read 2026-11.
#[derive(Default, serde::Deserialize)]
struct ModelList {
    data: Vec<Model>,
}

#[derive(serde::Deserialize)]
struct Model {
    id: String,
}

fn whole_ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
