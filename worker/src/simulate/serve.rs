//! What happens to a request, step by step: its call is counted, planned, delayed and answered.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use tokio::time::sleep;

use super::answer::Facts;
use super::call::Call;
use super::control;
use super::fault::Fault;
use super::payload::{Cut, Payload};
use super::plan::Plan;
use super::random::Purpose;
use super::refusal::Refusal;
use super::reply::{self, Reply};
use super::request::{Endpoint, Request};
use super::shared::{Settings, Shared};
use super::socket::ResetOnDrop;
use super::stats::{Name, Outcome};

/// The largest body that is read.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The one model that is listed; every model is answered.
const MODELS: &str =
    r#"{"object":"list","data":[{"id":"simulated","object":"model","created":1795395600,"owned_by":"gristmill"}]}"#;

/// Answers one HTTP request; an error ends the connection without an answer.
pub(super) async fn serve(
    shared: Arc<Shared>,
    reset: ResetOnDrop,
    request: http::Request<Incoming>,
) -> Result<Response<Payload>, Cut> {
    match Endpoint::of(request.uri().path()) {
        Some(endpoint) if request.method() == Method::POST => {
            let call = Call::arrive(Arc::clone(&shared), endpoint);
            serve_call(&shared, &reset, call, request).await
        }
        _ => serve_aside(&shared, request).await,
    }
}

/// Carries a call of the API from its body to its answer.
async fn serve_call(
    shared: &Shared,
    reset: &ResetOnDrop,
    mut call: Call,
    request: http::Request<Incoming>,
) -> Result<Response<Payload>, Cut> {
    let settings = shared.settings();
    let key = check_key(&settings, request.headers());
    let body = match read_body(request).await? {
        Ok(body) => body,
        Err(refusal) => return Ok(Reply::new(0, None).refuse(call, &refusal)),
    };
    let plan = match Plan::make(shared, &settings, &mut call, key, Request::parse(&body)) {
        Ok(plan) => plan,
        Err(refused) => {
            let (reply, refusal) = *refused;
            return Ok(reply.refuse(call, &refusal));
        }
    };

    // A request that is wrong is refused at once; everything else takes its time first.
    let is_refused = matches!(&plan.fault, Some(Fault::Status(fault)) if fault.status < 500);
    let latency = plan.draws.latency(&settings);
    if !is_refused && !latency.is_zero() {
        sleep(latency).await;
    }
    finish(shared, reset, &settings, call, plan).await
}

/// Ends a call as planned.
async fn finish(
    shared: &Shared,
    reset: &ResetOnDrop,
    settings: &Settings,
    mut call: Call,
    plan: Plan<'_>,
) -> Result<Response<Payload>, Cut> {
    let Plan { request, reply, fault, draws } = plan;
    let name = match &fault {
        Some(Fault::Status(fault)) => {
            return Ok(reply.refuse(call, &Refusal::fault(fault, request.model())));
        }
        Some(Fault::Timeout) => {
            call.decide(Outcome::Named(Name::Timeout), None, 0);
            shared.counters.hangs();
            shared.stop.cancelled().await;
            return Err(Cut);
        }
        Some(Fault::Reset) => {
            reset.set();
            call.decide(Outcome::Named(Name::Reset), None, 0);
            call.end();
            return Err(Cut);
        }
        Some(Fault::Html { status }) => {
            call.decide(Outcome::Named(Name::Html), Some(*status), 0);
            call.end();
            return Ok(reply::html(*status));
        }
        Some(Fault::Empty) => Name::Empty,
        Some(Fault::Drip { .. }) => Name::Drip,
        Some(Fault::Truncate) => Name::Truncate,
        None => Name::Ok,
    };

    let facts = Facts {
        id: reply.id,
        created: u64::try_from(call.arrived_ms() / 1_000).unwrap_or_default(),
        output_tokens: settings.output_tokens,
        random: draws.random(Purpose::Answer),
    };
    let answer = facts.answer(call.endpoint(), &request);
    call.decide(Outcome::Named(name), Some(200), answer.completion_tokens);
    let mut response = reply.respond(&call, StatusCode::OK, answer.content_type, Payload::whole(Bytes::new()));
    *response.body_mut() = match fault {
        Some(Fault::Drip { every }) => Payload::drip(answer.body, every, call),
        Some(Fault::Truncate) => Payload::truncated(answer.body, call),
        fault => {
            call.end();
            Payload::whole(if fault.is_none() { answer.body } else { Vec::new() })
        }
    };
    Ok(response)
}

/// Answers what is not a call of the API: health, models, steering, and what does not exist.
async fn serve_aside(shared: &Arc<Shared>, request: http::Request<Incoming>) -> Result<Response<Payload>, Cut> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (method, path) = (method.as_str(), path.as_str());
    let body = match (method, path.strip_prefix("/v1").unwrap_or(path)) {
        ("GET", "/health") => Ok(br#"{"status":"ok"}"#.to_vec()),
        ("GET", "/models") => check_key(&shared.settings(), request.headers()).map(|()| MODELS.as_bytes().to_vec()),
        _ if path.starts_with("/simulator/") => match read_body(request).await? {
            Ok(body) => control::steer(shared, method, path, &body),
            Err(refusal) => Err(refusal),
        },
        _ if Endpoint::of(path).is_some() => Err(Refusal::wrong_method(method, path)),
        _ => Err(Refusal::no_such_path(method, path)),
    };
    Ok(reply::json(body))
}

/// Compares the key of a call with the one that is required.
fn check_key(settings: &Settings, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(required) = &settings.required_key else {
        return Ok(());
    };
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    if given == Some(required) { Ok(()) } else { Err(Refusal::wrong_key(given)) }
}

/// Reads a body to its end; fails when the caller goes away.
async fn read_body(request: http::Request<Incoming>) -> Result<Result<Bytes, Refusal>, Cut> {
    if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Ok(Err(Refusal::too_large(MAX_BODY_BYTES)));
    }
    match Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(Ok(body.to_bytes())),
        Err(cause) if cause.is::<LengthLimitError>() => Ok(Err(Refusal::too_large(MAX_BODY_BYTES))),
        Err(_) => Err(Cut),
    }
}
