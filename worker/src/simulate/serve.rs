//! What happens to a request, step by step: its call is counted, planned, delayed, answered and worded.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use tokio::time::sleep;

use super::call::Call;
use super::compose::Facts;
use super::control;
use super::delivery::Delivery;
use super::fault::{Fault, FaultRule, Mishap};
use super::payload::{Cut, Payload};
use super::plan::Plan;
use super::random::Random;
use super::refusal::Refusal;
use super::reply::{self, Reply};
use super::route::{Route, Target};
use super::shared::{Settings, Shared};
use super::socket::ResetOnDrop;
use super::stats::{Name, Outcome};

/// Answers one HTTP request; an error ends the connection without an answer.
pub(super) async fn serve(
    shared: Arc<Shared>,
    reset: ResetOnDrop,
    request: http::Request<Incoming>,
) -> Result<Response<Payload>, Cut> {
    let route = Route::of(request.uri().path(), request.uri().query(), request.headers());
    match route.target {
        Target::Call(operation) if request.method() == Method::POST => {
            let call = Call::arrive(Arc::clone(&shared), route.dialect, operation);
            serve_call(&shared, &reset, &route, call, request).await
        }
        _ => serve_aside(&shared, &route, request).await,
    }
}

/// Carries a call of the API from its body to its answer.
async fn serve_call(
    shared: &Shared,
    reset: &ResetOnDrop,
    route: &Route,
    mut call: Call,
    request: http::Request<Incoming>,
) -> Result<Response<Payload>, Cut> {
    let settings = shared.settings();
    let door = check_key(&settings, route, request.headers()).and_then(|()| route.dialect.check(route));
    let body = match read_body(route, request).await? {
        Ok(body) => body,
        Err(refusal) => return Ok(Reply::new(0, None).refuse(call, route, &refusal)),
    };
    let request = route.dialect.read(route, &body);
    let plan = match Plan::make(shared, &settings, route, &mut call, door, request) {
        Ok(plan) => plan,
        Err(refused) => {
            let (reply, refusal) = *refused;
            return Ok(reply.refuse(call, route, &refusal));
        }
    };

    // A request that is wrong is refused at once; everything else takes its time first.
    let is_refused = matches!(&plan.fault, Some(Fault::Status(fault)) if fault.status < 500);
    let latency = plan.draws.latency(&settings);
    if !is_refused && !latency.is_zero() {
        sleep(latency).await;
    }
    finish(shared, reset, &settings, route, call, plan).await
}

/// Ends a call as planned.
async fn finish(
    shared: &Shared,
    reset: &ResetOnDrop,
    settings: &Settings,
    route: &Route,
    mut call: Call,
    plan: Plan<'_>,
) -> Result<Response<Payload>, Cut> {
    let Plan { request, reply, fault, draws } = plan;
    match &fault {
        Some(Fault::Status(fault)) => {
            return Ok(reply.refuse(call, route, &Refusal::fault(fault, &request.model)));
        }
        Some(Fault::Timeout) => {
            call.decide(Outcome::Named(Name::Timeout), None, 0);
            call.hangs();
            shared.stop.cancelled().await;
            return Err(Cut);
        }
        Some(Fault::Reset) => {
            reset.set();
            call.decide(Outcome::Named(Name::Reset), None, 0);
            call.end();
            return Err(Cut);
        }
        Some(Fault::Close) => {
            call.decide(Outcome::Named(Name::Close), None, 0);
            call.end();
            return Err(Cut);
        }
        Some(Fault::Html { status }) => {
            call.decide(Outcome::Named(Name::Html), Some(*status), 0);
            call.end();
            return Ok(reply::html(*status));
        }
        _ => {}
    }

    let facts = Facts {
        id: reply.id,
        created: u64::try_from(call.arrived().unix_ms / 1_000).unwrap_or_default(),
        output_tokens: settings.output_tokens,
        draws,
        twist: if let Some(Fault::Twist(twist)) = &fault { Some(*twist) } else { None },
    };
    let answer = facts.compose(call.operation(), &request, route.dialect.model(route, &request.model));
    let body = route.dialect.render(route, &request, &answer);
    let is_stream = !body.events.is_empty();
    let token = match &fault {
        Some(Fault::Late(fault)) => fault.token.unwrap_or(settings.token_latency),
        _ => settings.token_latency,
    };
    if !is_stream && !token.is_zero() {
        // An answer that is no stream is silent until all of it is there.
        sleep(token.saturating_mul(u32::try_from(answer.usage.output).unwrap_or(u32::MAX))).await;
    }

    let name = fault.as_ref().and_then(Fault::name).unwrap_or(Name::Ok);
    call.decide(Outcome::Named(name), Some(200), answer.usage.output);
    let content_type = if is_stream { reply::EVENTS } else { reply::JSON };
    let mut response = reply.respond(&call, route, StatusCode::OK, content_type, Payload::whole(Bytes::new()));
    let delivery = match &fault {
        Some(Fault::Drip { every }) => {
            *response.body_mut() = Payload::drip(body.bytes, *every, call);
            return Ok(response);
        }
        Some(Fault::Empty) => {
            call.end();
            return Ok(response);
        }
        Some(Fault::Truncate) => Delivery::truncated(body),
        Some(Fault::Late(fault)) => Delivery::late(body, fault, token, route.dialect.keep_alive(), |sent| {
            // Only an error asks for it.
            let Mishap::Error(error) = &fault.mishap else { return Vec::new() };
            let refusal = Refusal::fault(error, &request.model);
            route.dialect.late_error(route, &request, &answer, &refusal, sent)
        }),
        _ => Delivery::plain(body, token),
    };
    if delivery.resets {
        reset.set();
    }
    if let Some(tokens) = delivery.tokens {
        call.deliver(tokens);
    }
    *response.body_mut() = Payload::deliver(delivery, call);
    Ok(response)
}

/// Answers what is not a call of an API: health, models, steering, and what does not exist.
async fn serve_aside(
    shared: &Arc<Shared>,
    route: &Route,
    request: http::Request<Incoming>,
) -> Result<Response<Payload>, Cut> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (method, path) = (method.as_str(), path.as_str());
    let body = match (method, path, route.target) {
        ("GET", "/health" | "/v1/health", _) => Ok(br#"{"status":"ok"}"#.to_vec()),
        ("GET", _, Target::Models) => models(shared, route, request.headers())?,
        _ if path.starts_with("/simulator/") => match read_body(route, request).await? {
            Ok(body) => control::steer(shared, method, path, &body),
            Err(refusal) => Err(refusal),
        },
        (_, _, Target::Call(_)) => Err(Refusal::wrong_method(method, path)),
        _ => Err(Refusal::no_such_path(method, path)),
    };
    Ok(reply::json(route, body))
}

/// Lists the models, unless the provider is away.
fn models(shared: &Shared, route: &Route, headers: &HeaderMap) -> Result<Result<Vec<u8>, Refusal>, Cut> {
    let settings = shared.settings();
    let at = shared.since_first(Instant::now());
    let met = FaultRule::choose(shared.outages(&settings, at), "", || Random::from_seed(shared.seed));
    Ok(match met {
        Some(Fault::Status(fault)) => Err(Refusal::fault(fault, "")),
        Some(_) => return Err(Cut),
        None => check_key(&settings, route, headers)
            .and_then(|()| route.dialect.check(route))
            .map(|()| route.dialect.models().as_bytes().to_vec()),
    })
}

/// Compares the key of a call with the one that is required.
fn check_key(settings: &Settings, route: &Route, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(required) = &settings.required_key else {
        return Ok(());
    };
    let given = route.dialect.key(headers);
    if given.is_some_and(|given| given.key == required) { Ok(()) } else { Err(Refusal::wrong_key(given)) }
}

/// Reads a body to its end; fails when the caller goes away.
async fn read_body(route: &Route, request: http::Request<Incoming>) -> Result<Result<Bytes, Refusal>, Cut> {
    let max_bytes = route.dialect.max_body_bytes();
    if request.body().size_hint().lower() > max_bytes as u64 {
        return Ok(Err(Refusal::too_large(max_bytes)));
    }
    match Limited::new(request.into_body(), max_bytes).collect().await {
        Ok(body) => Ok(Ok(body.to_bytes())),
        Err(cause) if cause.is::<LengthLimitError>() => Ok(Err(Refusal::too_large(max_bytes))),
        Err(_) => Err(Cut),
    }
}
