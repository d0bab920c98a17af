//! The HTTP side: `GET /live` and `GET /ready`, 200 or 503 with the reasons as JSON; and `GET /metrics`, where that is asked for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Health;
use crate::metrics::{Format, Metrics};

/// Connections that are served at once; a probe needs one for a moment.
const CONNECTIONS: usize = 32;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after the operating system refused a connection, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a worker is listened to, and for what.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Doors {
    pub(crate) health: Option<SocketAddr>,
    /// For metrics, and health as well.
    pub(crate) metrics: Option<SocketAddr>,
}

/// The health endpoints, or the metrics, cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another program listens there.
    #[error(
        "cannot serve {what} on {address}: the port is in use; stop the program that has it, or pass another {flag}",
        what = what.name(), flag = what.flag()
    )]
    InUse {
        /// What was to be served.
        what: Served,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on for another reason.
    #[error(
        "cannot serve {what} on {address}: pass an address of this machine and a port that you may open with {flag}",
        what = what.name(), flag = what.flag()
    )]
    Listen {
        /// What was to be served.
        what: Served,
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// What a worker tells those outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Whether it lives and is ready.
    Health,
    /// Its metrics, and its health.
    Metrics,
}

impl Served {
    const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Metrics => "metrics",
        }
    }

    const fn flag(self) -> &'static str {
        match self {
            Self::Health => "--health-listen",
            Self::Metrics => "--metrics-addr",
        }
    }
}

/// What the answers are made of.
#[derive(Debug, Clone)]
struct Desk {
    health: Arc<Health>,
    /// Where they are served.
    metrics: Option<Arc<Metrics>>,
}

/// Serves what is asked for until the guard is dropped; where both addresses are one, at one listener.
pub(crate) async fn serve(doors: Doors, health: Arc<Health>, metrics: Arc<Metrics>) -> Result<DropGuard, Error> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let guard = stop.clone().drop_guard();
    let is_one = doors.health == doors.metrics;
    let mut desks = Vec::new();
    if let Some(address) = doors.health {
        let metrics = is_one.then(|| Arc::clone(&metrics));
        desks.push((Served::Health, address, Desk { health: Arc::clone(&health), metrics }));
    }
    if let Some(address) = doors.metrics.filter(|_| !is_one) {
        desks.push((Served::Metrics, address, Desk { health: Arc::clone(&health), metrics: Some(metrics) }));
    }
    for (what, address, desk) in desks {
        let (listener, address) = listen(what, address).await?;
        if what == Served::Health {
            tracing::info!(%address, "health is served");
        }
        if desk.metrics.is_some() {
            tracing::info!(%address, "metrics are served");
        }
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept(listener, desk, tasks.clone())));
    }
    if doors.health.is_some() || doors.metrics.is_some() {
        tasks.spawn(stop.run_until_cancelled_owned(async move { health.pulse.beat().await }));
    }
    Ok(guard)
}

async fn listen(what: Served, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { what, address, source },
        _ => Error::Listen { what, address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

async fn accept(listener: TcpListener, desk: Desk, tasks: TaskTracker) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = desk.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    // Whoever is slower, or breaks off, asks again.
                    let _ = tokio::time::timeout(PATIENCE, connection(stream, &desk)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection for health failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, desk: &Desk) -> Result<(), hyper::Error> {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(desk, &request)));
    http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(desk: &Desk, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let metrics = desk.metrics.as_ref().filter(|_| path == "/metrics");
    if metrics.is_none() && !matches!(path, "/live" | "/ready") {
        let paths: &[&str] =
            if desk.metrics.is_some() { &["/live", "/ready", "/metrics"] } else { &["/live", "/ready"] };
        return json(StatusCode::NOT_FOUND, &json!({ "paths": paths }));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "methods": ["GET", "HEAD"] }));
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if let Some(metrics) = metrics {
        let accept: Vec<&str> =
            request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let format = Format::of(&accept.join(","));
        return respond(StatusCode::OK, format.content_type(), metrics.page(format));
    }
    let (good, reasons) =
        if path == "/live" { ("live", desk.health.wedged()) } else { ("ready", desk.health.unready()) };
    if reasons.is_empty() {
        json(StatusCode::OK, &json!({ "status": good, "reasons": [] }))
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": format!("not {good}"), "reasons": reasons }))
    }
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    respond(status, "application/json", body.to_string())
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
