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
use secrecy::ExposeSecret as _;

use super::address::{self, Api};
use super::answer::{self, Fault};
use super::classify;
use super::details::Details;
use super::exchange::{Exchange, Limits, exchange};
use super::redact::Redactor;
use super::splice;
use super::{Answer, Call, Error, Http, Provider, Reply};

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
    /// What every request sends.
    headers: HeaderMap,
    limits: Limits,
    redactor: Redactor,
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
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &deployment.api_key {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", key.expose_secret())).map_err(|_| {
                let source_name = deployment.key_source.clone().unwrap_or_else(|| "of unknown source".to_owned());
                Error::InvalidKey { deployment: name(), source_name }
            })?;
            bearer.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, bearer);
        }
        let redactor = Redactor::new(deployment.api_key.as_ref(), &base);
        let client = http
            .client(&base, deployment.timeouts.connect)
            .map_err(|reason| Error::Client { deployment: name(), reason: redactor.text(&reason).into_owned() })?;
        Ok(Self {
            name: Arc::clone(&deployment.name),
            kind: Arc::clone(&deployment.provider),
            model: Arc::clone(&deployment.model),
            client,
            addresses,
            headers,
            limits: Limits {
                timeouts: deployment.timeouts,
                deadline: None,
                max_response_bytes: http.max_response_bytes(),
            },
            redactor,
            base,
            clock,
        })
    }

    /// Finds the address of an API path; `None` for what is no plain path.
    fn address(&self, endpoint: &str) -> Option<(Api, Url)> {
        let path = address::path_below_version(endpoint);
        let known = Api::KNOWN.iter().zip(&self.addresses).find(|((_, known), _)| *known == path);
        match known {
            Some(((api, _), url)) => Some((*api, url.clone())),
            None => Some((Api::Other, address::join(&self.base, path)?)),
        }
    }

    fn request(&self, url: Url, job: JobId) -> reqwest::Request {
        let mut request = reqwest::Request::new(Method::POST, url);
        request.headers_mut().clone_from(&self.headers);
        let mut text = [0; 36];
        let text: &str = job.uuid().hyphenated().encode_lower(&mut text);
        // The digits and dashes of an id are always a header's value.
        if let Ok(id) = HeaderValue::from_str(text) {
            request.headers_mut().insert(CLIENT_REQUEST_ID, id);
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
        self.sign(&mut reply);
        reply
    }

    /// Reads what came back.
    pub(super) fn reply(&self, api: Api, body: &Bytes, exchange: Exchange) -> Reply {
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
        self.sign(&mut reply);
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
    fn sign(&self, reply: &mut Reply) {
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
        self.redactor.record(record);
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
        let Some((api, url)) = self.address(call.endpoint) else {
            return self.refuse(format!(
                "`{}` is not the path of an API; use one such as /v1/chat/completions",
                call.endpoint.chars().take(80).collect::<String>().escape_debug()
            ));
        };
        let Ok(body) = splice::fit(call.body, &self.model, call.service_tier) else {
            return self.refuse("the request's body is not a JSON object".to_owned());
        };
        let limits = Limits { deadline: call.deadline, ..self.limits };
        let exchange = exchange(&self.client, self.request(url, call.job), body.clone(), limits).await;
        self.reply(api, &body, exchange)
    }
}

fn whole_ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
