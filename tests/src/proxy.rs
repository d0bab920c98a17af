//! A TCP proxy for tests: faults of one connection that touch nobody else's.
#![expect(clippy::unwrap_used, reason = "a harness of tests: what fails must panic")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Stands between a program and a server, to cut, to refuse and to lie.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    connections: Mutex<Vec<Arc<Proxied>>>,
    refuses: AtomicBool,
    swallows: AtomicBool,
}

#[derive(Debug)]
struct Proxied {
    cut: CancellationToken,
    /// What the client said first, with the connection's name.
    hello: Mutex<Vec<u8>>,
    to_client: AsyncMutex<OwnedWriteHalf>,
}

impl Proxy {
    /// Listens, and passes on to the server of a URL.
    pub async fn start(target: &str) -> Self {
        let target = url::Url::parse(target).unwrap();
        let usual = if target.scheme().starts_with("postgres") { 5432 } else { 5672 };
        let target = format!("{}:{}", target.host_str().unwrap(), target.port().unwrap_or(usual));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, tasks, stop) = (Arc::<Shared>::default(), TaskTracker::new(), CancellationToken::new());
        let accepting = accept(listener, target, Arc::clone(&shared), tasks.clone(), stop.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self { address, shared, tasks, stop }
    }

    /// Returns `url` with the proxy in its place.
    pub fn url(&self, url: &str) -> SecretString {
        let mut url = url::Url::parse(url).unwrap();
        url.set_ip_host(self.address.ip()).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        SecretString::from(url.to_string())
    }

    /// Cuts all connections, without a word to either side; returns how many there were.
    pub fn cut(&self) -> usize {
        let cut = std::mem::take(&mut *self.shared.lock());
        cut.iter().for_each(|connection| connection.cut.cancel());
        cut.len()
    }

    /// Cuts all connections and lets no new one through, or lets them through again.
    pub fn refuse(&self, refuses: bool) {
        self.shared.refuses.store(refuses, Ordering::SeqCst);
        if refuses {
            self.cut();
        }
    }

    /// Swallows whatever either side says, as a network does that is gone without a word, or passes it on again.
    pub fn swallow(&self, swallows: bool) {
        self.shared.swallows.store(swallows, Ordering::SeqCst);
    }

    /// Says something to the clients whose connection's name contains `name`. They must be idle, or it lands within a frame.
    pub async fn say(&self, name: &str, bytes: &[u8]) {
        let connections = self.shared.lock().clone();
        let mut told = 0;
        for connection in connections {
            let hello = connection.hello.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if hello.windows(name.len()).any(|window| window == name.as_bytes()) {
                connection.to_client.lock().await.write_all(bytes).await.unwrap();
                told += 1;
            }
        }
        assert_eq!(told, 1, "connections named {name}");
    }

    /// Stops listening and cuts all connections.
    pub async fn stop(self) {
        self.stop.cancel();
        self.cut();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Proxied>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if shared.refuses.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(server) = TcpStream::connect(&target).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let proxied = Arc::new(Proxied {
            cut: stop.child_token(),
            hello: Mutex::default(),
            to_client: AsyncMutex::new(to_client),
        });
        shared.lock().push(Arc::clone(&proxied));
        tasks.spawn(until_cut(
            Arc::clone(&proxied),
            upwards(Arc::clone(&shared), Arc::clone(&proxied), from_client, to_server),
        ));
        tasks.spawn(until_cut(Arc::clone(&proxied), downwards(Arc::clone(&shared), Arc::clone(&proxied), from_server)));
    }
}

/// Runs one direction; the end of either ends both.
async fn until_cut(proxied: Arc<Proxied>, direction: impl Future<Output = ()> + Send) {
    tokio::select! {
        () = proxied.cut.cancelled() => {}
        () = direction => {}
    }
    proxied.cut.cancel();
    let _ = proxied.to_client.lock().await.shutdown().await;
}

async fn upwards(shared: Arc<Shared>, proxied: Arc<Proxied>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        {
            let mut hello = proxied.hello.lock().unwrap_or_else(PoisonError::into_inner);
            if hello.len() < 4_096 {
                hello.extend_from_slice(&buffer[..count]);
            }
        }
        if shared.swallows.load(Ordering::SeqCst) {
            continue;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn downwards(shared: Arc<Shared>, proxied: Arc<Proxied>, mut from: OwnedReadHalf) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if shared.swallows.load(Ordering::SeqCst) {
            continue;
        }
        if proxied.to_client.lock().await.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
