//! A deployment somewhere on the network, in whichever of the dialects that are built in.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_common::clock::Clock;
use gristmill_common::config::Deployment;
use gristmill_common::failure::{BODY_CAP_BYTES, Cause, ErrorClass, ErrorRecord};
use gristmill_common::id::JobId;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::address::Api;
use super::answer::{self, Fault, Read};
use super::anthropic;
use super::classify;
use super::details::Details;
use super::exchange::{Exchange, Limits, exchange};
use super::hearing::{Hearing, Stream};
use super::key::{Credentials, Key};
use super::speech::{Plan, Refusal, Speech};
use super::stream::Event;
use super::structured::Wanted;
use super::told;
use super::{Answer, Call, Error, Http, Preview, Provider, Reply};

/// The least that a call of the flex tier may take: <https://platform.openai.com/docs/guides/flex-processing>, read 2026-11,
/// advises 15 minutes.
const FLEX_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");

/// One deployment.
pub(super) struct Remote {
    name: Arc<str>,
    kind: Arc<str>,
    model: Arc<str>,
    client: reqwest::Client,
    speech: Speech,
    key: Key,
    limits: Limits,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("name", &self.name).field("model", &self.model).finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn new(deployment: &Deployment, http: &Http, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let speech = Speech::new(deployment)?;
        let key = Key::new(deployment)?;
        let base = &deployment.api_base.0;
        let client = http.client(base, deployment.timeouts.connect).map_err(|reason| Error::Client {
            deployment: deployment.name.to_string(),
            reason: key.known().redactor.text(&reason).into_owned(),
        })?;
        Ok(Self {
            name: Arc::clone(&deployment.name),
            kind: Arc::clone(&deployment.provider),
            model: Arc::clone(&deployment.model),
            client,
            speech,
            key,
            limits: Limits {
                timeouts: deployment.timeouts,
                deadline: None,
                max_response_bytes: http.max_response_bytes(),
            },
            clock,
        })
    }

    pub(super) fn plan(&self, call: &Call<'_>) -> Result<Plan, Refusal> {
        self.speech.plan(call)
    }

    fn request(&self, credentials: &Credentials, plan: &Plan, job: JobId) -> reqwest::Request {
        let mut request = reqwest::Request::new(Method::POST, plan.url.clone());
        let headers = request.headers_mut();
        headers.reserve(10);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut text = [0; 36];
        let text: &str = job.uuid().hyphenated().encode_lower(&mut text);
        // The digits and dashes of an id are always a header's value.
        if let Ok(id) = HeaderValue::from_str(text) {
            headers.insert(CLIENT_REQUEST_ID, id);
        }
        self.authorise(credentials, headers);
        headers.extend(plan.header.clone());
        request
    }

    fn authorise(&self, credentials: &Credentials, headers: &mut HeaderMap) {
        if let Some((name, value)) = &credentials.header {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in self.speech.headers() {
            headers.insert(name.clone(), value.clone());
        }
    }

    /// Makes the reply to a request that was not sent, since it cannot be.
    fn refuse(&self, refusal: Refusal) -> Reply {
        let mut reply = Reply::new(Err(refusal.into_record()));
        self.sign(&self.key.known(), &mut reply);
        reply
    }

    /// Reads what came back to a call with these credentials.
    pub(super) fn reply(
        &self,
        credentials: &Credentials,
        plan: &Plan,
        exchange: Exchange,
        stream: Option<Stream>,
    ) -> Reply {
        let mut reply = Reply::new(Err(Box::new(ErrorRecord::new(ErrorClass::ApiConnection, "no answer"))));
        reply.sent = exchange.sent;
        reply.ttft_ms = exchange.first_byte.map(whole_ms);
        reply.latency_ms = whole_ms(exchange.total);
        let headers = exchange.head.as_ref().map(|(_, headers)| headers);
        reply.http_status = exchange.head.as_ref().map(|(status, _)| status.as_u16());
        reply.request_id = headers.and_then(classify::request_id).map(str::to_owned);
        reply.limits = headers.map(told::limits).unwrap_or_default();
        match (exchange.body, &exchange.head, stream) {
            (ended, Some((_, headers)), Some(stream)) if exchange.streamed => {
                self.read_stream(&mut reply, plan, headers, ended.err(), stream);
            }
            (Ok(answer), Some((status, headers)), _) if status.is_success() => {
                self.read(&mut reply, plan, *status, headers, answer);
            }
            (Ok(answer), Some((status, headers)), _) => {
                let record = classify::classify(status.as_u16(), headers, &answer, self.clock.now());
                reply.outcome = Err(Box::new(record));
            }
            // An error status whose body was lost is still that error.
            (Err(lost), Some((status, headers)), _) if !status.is_success() => {
                let mut record = classify::classify(status.as_u16(), headers, b"", self.clock.now());
                record.causes.push(Cause { kind: "body".to_owned(), message: lost.message });
                reply.outcome = Err(Box::new(record));
            }
            (Err(record), ..) => reply.outcome = Err(Box::new(record)),
            (Ok(_), None, _) => {}
        }
        self.sign(credentials, &mut reply);
        reply
    }

    /// Turns a body into OpenAI's shape where it has another, and reads it.
    fn translate(&self, plan: &Plan, body: Bytes) -> (Bytes, Read) {
        let Some(context) = &plan.translation else {
            let read = answer::read(plan.api, &body);
            return (body, read);
        };
        match anthropic::to_chat(&body, context, self.clock.now().timestamp()) {
            Ok(chat) => {
                let read = answer::read(plan.api, &chat);
                (chat, read)
            }
            Err(unread) => (body, Read { fault: Some(unread.into()), ..Read::default() }),
        }
    }

    /// Reads an answer of success, which may be none.
    fn read(&self, reply: &mut Reply, plan: &Plan, status: StatusCode, headers: &HeaderMap, body: Bytes) {
        let (body, read) = self.translate(plan, body);
        reply.usage = read.usage;
        reply.usage_text = read.usage_text;
        reply.served_model = read.model;
        reply.service_tier = read.service_tier;
        let wanted = &plan.wanted;
        let is_broken = read.fault.is_some();
        let fault = read.fault.or_else(|| fault_of(wanted, read.finish_reason.as_deref(), read.output_text.as_deref()));
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
            Some(Fault::Schema(mismatch)) => {
                let mut record = classify::fault(ErrorClass::JsonSchemaValidation, mismatch.message, headers, &body);
                let cause = |message| Cause { kind: "schema".to_owned(), message };
                record.causes.extend(mismatch.places.into_iter().map(cause));
                record
            }
        };
        if is_broken {
            record.partial_output = read.output_text.filter(|text| !text.is_empty());
        }
        record.status = Some(status.as_u16());
        reply.outcome = Err(Box::new(record));
    }

    /// Reads what was heard of a stream.
    fn read_stream(
        &self,
        reply: &mut Reply,
        plan: &Plan,
        headers: &HeaderMap,
        broken: Option<ErrorRecord>,
        stream: Stream,
    ) {
        let Stream { assembled, failed, unreadable } = stream;
        let status = StatusCode::from_u16(reply.http_status.unwrap_or(200)).unwrap_or(StatusCode::OK);
        // A connection that is lost behind the end of an answer takes nothing with it.
        if assembled.is_whole && failed.is_none() {
            return self.read(reply, plan, status, headers, assembled.body);
        }
        let (body, read) = self.translate(plan, assembled.body);
        reply.usage = read.usage;
        reply.usage_text = read.usage_text;
        reply.served_model = read.model;
        reply.service_tier = read.service_tier;
        let mut record = match (failed, broken) {
            (Some(error), _) => {
                let body = error.to_string();
                classify::record(status.as_u16(), headers, body.as_bytes(), Details::of(&error), self.clock.now())
            }
            (None, Some(record)) => record,
            (None, None) if unreadable.is_some() => {
                let what =
                    "an event of the stream cannot be read: it is not JSON text, or there are too many of its kind";
                let event = unreadable.unwrap_or_default();
                classify::fault(ErrorClass::ApiResponseValidation, what.to_owned(), headers, event.as_bytes())
                    .caused_by("stream", "an event cannot be read")
            }
            (None, None) => {
                let what = if assembled.began {
                    "the stream ended before the answer was whole"
                } else {
                    "the stream ended before anything of the answer came"
                };
                ErrorRecord::new(ErrorClass::ApiConnection, what).caused_by("stream", what)
            }
        };
        if assembled.began {
            // Whether it may be tried again is for what broke it to say.
            record.underlying = Some(std::mem::replace(&mut record.class, ErrorClass::MidStream));
            record.partial_output = Some(assembled.text).filter(|text| !text.is_empty());
            // Calls of tools stand nowhere else.
            record.body = record.body.or_else(|| classify::kept_body(&body));
        }
        if record.headers.is_empty() {
            record.headers = classify::kept_headers(headers);
        }
        record.status = Some(status.as_u16());
        reply.outcome = Err(Box::new(record));
    }

    /// Writes into an error where it happened, and takes out what must not be shown.
    fn sign(&self, credentials: &Credentials, reply: &mut Reply) {
        let record = match &mut reply.outcome {
            Ok(answer) => {
                credentials.redactor.answer(answer);
                for text in
                    [&mut reply.request_id, &mut reply.served_model, &mut reply.service_tier].into_iter().flatten()
                {
                    if let Cow::Owned(redacted) = credentials.redactor.text(text) {
                        *text = redacted;
                    }
                }
                return;
            }
            Err(record) => record,
        };
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
        record.partial_output = record.partial_output.take().map(last_of);
        reply.request_id.clone_from(&record.request_id);
    }
}

/// Says why a whole answer is not what was asked for. A refusal and a tool call are answers of another kind, and fit.
fn fault_of(wanted: &Wanted, finish_reason: Option<&str>, text: Option<&str>) -> Option<Fault> {
    match finish_reason {
        Some("length") if wanted.is_schema() => {
            let what =
                "the output was cut at the length limit and cannot fit the JSON schema; raise max_completion_tokens";
            Some(Fault::Because(ErrorClass::LengthFinishReason, what.to_owned()))
        }
        Some("length") => wanted.fault(text?).map(|_| {
            let what = "the output was cut at the length limit and is no JSON object; raise max_completion_tokens";
            Fault::Because(ErrorClass::LengthFinishReason, what.to_owned())
        }),
        Some("stop") | None => wanted.fault(text?).map(Fault::Schema),
        Some(_) => None,
    }
}

/// Keeps the end of a long text.
fn last_of(text: String) -> String {
    match text.len().checked_sub(BODY_CAP_BYTES) {
        None | Some(0) => text,
        Some(excess) => text[text.ceil_char_boundary(excess)..].to_owned(),
    }
}

#[async_trait]
impl Provider for Remote {
    async fn call(&self, call: Call<'_>) -> Reply {
        let plan = match self.plan(&call) {
            Ok(plan) => plan,
            Err(refusal) => return self.refuse(refusal),
        };
        let mut limits = Limits { deadline: call.deadline, ..self.limits };
        if call.service_tier == Some("flex") {
            limits.timeouts.total = limits.timeouts.total.max(FLEX_TIMEOUT);
            limits.timeouts.first_byte = limits.timeouts.first_byte.max(FLEX_TIMEOUT);
        }
        let credentials = self.key.current().await;
        let request = self.request(&credentials, &plan, call.job);
        // A server may stream what was not asked for as a stream, and the other way round.
        let mut hearing = Hearing::new(&plan, call.tokens, &credentials.redactor);
        let mut listen = |event: Event<'_>| hearing.hear(event);
        let exchange = exchange(&self.client, request, plan.body.clone(), limits, Some(&mut listen)).await;
        let stream = exchange.streamed.then(|| hearing.finish());
        let reply = self.reply(&credentials, &plan, exchange, stream);
        if reply.http_status == Some(401) {
            self.key.doubt();
        }
        reply
    }

    fn preview(&self, call: Call<'_>) -> Result<Preview, Box<ErrorRecord>> {
        let plan = match self.plan(&call) {
            Ok(plan) => plan,
            Err(refusal) => return Err(refusal.into_record()),
        };
        let show = |(name, value): (&HeaderName, &HeaderValue)| {
            let value = if value.is_sensitive() { "***" } else { value.to_str().unwrap_or("***") };
            (name.to_string(), value.to_owned())
        };
        let request = self.request(&self.key.known(), &plan, call.job);
        let headers = request.headers().iter().map(show).collect();
        let mut url = plan.url;
        // Neither can fail: the address has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Preview { url: url.into(), headers, body: plan.body })
    }

    async fn models(&self, limit: Duration) -> Result<Vec<String>, Box<ErrorRecord>> {
        let Some(url) = self.speech.models() else { return Ok(Vec::new()) };
        let plan = Plan {
            api: Api::Other,
            url,
            body: Bytes::new(),
            header: None,
            choices: 1,
            translation: None,
            wanted: Wanted::Anything,
        };
        let mut request = reqwest::Request::new(Method::GET, plan.url.clone());
        let credentials = self.key.current().await;
        self.authorise(&credentials, request.headers_mut());
        let limits = Limits { deadline: Some(limit), ..self.limits };
        let exchange = exchange(&self.client, request, Bytes::new(), limits, None).await;
        let answer = self.reply(&credentials, &plan, exchange, None).outcome?;
        if !self.speech.lists_what_it_serves() {
            return Ok(Vec::new());
        }
        let list = serde_json::from_slice::<ModelList>(&answer.body).unwrap_or_default();
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }
}

/// The answer of `GET /models`: OpenAI's (<https://platform.openai.com/docs/api-reference/models/list>) and Anthropic's
/// (<https://platform.claude.com/docs/en/api/models-list>), read 2026-11.
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
