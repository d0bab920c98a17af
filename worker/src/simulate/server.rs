//! The running server: its listener, its connections, its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::control::Control;
use super::error::Error;
use super::log::{self, Log};
use super::options::Options;
use super::serve::serve;
use super::shared::Shared;
use super::socket::{ResetOnDrop, Socket};

/// The pause after the operating system refused a connection, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A simulator that listens. Dropping it stops it too, without waiting for its connections and its log.
#[derive(Debug)]
pub struct Simulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Simulator {
    /// Opens the log and the port, and serves until [`shutdown`](Self::shutdown) or drop.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let addr = options.listen;
        let not_open = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => Error::AddressInUse { addr, source },
            _ => Error::Listen { addr, source },
        };
        let listener = TcpListener::bind(addr).await.map_err(not_open)?;
        let addr = listener.local_addr().map_err(not_open)?;
        let shared = Arc::new(Shared::new(options)?);
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
        if shared.log.is_some() {
            tasks.spawn(flush_log(Arc::clone(&shared)));
        }
        Ok(Self { addr, shared, tasks })
    }

    /// Returns the address that callers reach.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns what to set as a provider's base URL: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// Returns a handle that steers and observes this simulator.
    pub fn control(&self) -> Control {
        Control::new(Arc::clone(&self.shared))
    }

    /// Closes the port and all connections at once, calls in flight included, and writes the log to its end.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.shared.log.iter().for_each(Log::flush);
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// Takes connections until the simulator stops.
async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    while let Some(accepted) = shared.stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                tasks.spawn(connection(stream, Arc::clone(&shared)));
            }
            Err(cause) => {
                warn!(error = %cause, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection to its end; what the caller breaks ends only this one.
async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without it small answers may wait for an acknowledgement; where it fails, they do.
    let _ = stream.set_nodelay(true);
    // A token of its own keeps the connections from sharing one lock at every wake-up.
    let stop = shared.stop.child_token();
    let reset = ResetOnDrop::default();
    let socket = Socket::new(stream, reset.clone());
    let service = service_fn(move |request| serve(Arc::clone(&shared), reset.clone(), request));
    let served = http1::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(socket), service);
    let _ = stop.run_until_cancelled(served).await;
}

/// Keeps the lines of the log young until the simulator stops.
async fn flush_log(shared: Arc<Shared>) {
    let mut ticks = interval(log::FLUSH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shared.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        shared.log.iter().for_each(Log::flush);
    }
}
