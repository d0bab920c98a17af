//! The HTTP side: `GET /live` and `GET /ready`, 200 or 503 with the reasons as JSON.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
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

/// Connections that are served at once; a probe needs one for a moment.
const CONNECTIONS: usize = 32;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after the operating system refused a connection, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The health endpoints cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another program listens there.
    #[error(
        "cannot serve health on {address}: the port is in use; stop the program that has it, or pass another --health-listen"
    )]
    InUse {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on for another reason.
    #[error(
        "cannot serve health on {address}: pass an address of this machine and a port that you may open with --health-listen"
    )]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Serves health on an address until the guard is dropped.
pub(crate) async fn serve(address: SocketAddr, health: Arc<Health>) -> Result<DropGuard, Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { address, source },
        _ => Error::Listen { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "health is served");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let beating = Arc::clone(&health);
    tasks.spawn(stop.clone().run_until_cancelled_owned(async move { beating.pulse.beat().await }));
    tasks.spawn(stop.clone().run_until_cancelled_owned(accept(listener, health, tasks.clone())));
    Ok(stop.drop_guard())
}

async fn accept(listener: TcpListener, health: Arc<Health>, tasks: TaskTracker) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = Arc::clone(&health);
                tasks.spawn(async move {
                    let _permit = permit;
                    // Whoever is slower, or breaks off, asks again.
                    let _ = tokio::time::timeout(PATIENCE, connection(stream, &health)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection for health failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, health: &Health) -> Result<(), hyper::Error> {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(health, &request)));
    http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(health: &Health, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (good, reasons) = match request.uri().path() {
        "/live" => ("live", health.wedged()),
        "/ready" => ("ready", health.unready()),
        _ => return json(StatusCode::NOT_FOUND, &json!({ "paths": ["/live", "/ready"] })),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "methods": ["GET", "HEAD"] }));
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if reasons.is_empty() {
        json(StatusCode::OK, &json!({ "status": good, "reasons": [] }))
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": format!("not {good}"), "reasons": reasons }))
    }
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
