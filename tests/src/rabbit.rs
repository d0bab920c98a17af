//! RabbitMQ for tests: queues of a test's own, removed with the value, and faults that touch nobody else.
#![expect(clippy::unwrap_used, reason = "a harness of tests: what fails must panic")]

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gristmill_common::broker::{Broker, RabbitBroker, RabbitOptions};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::job::LaneKey;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Names the variable that holds the address of a RabbitMQ whose user may configure, write and read everything.
pub const URL: &str = "GRISTMILL_TEST_AMQP_URL";
/// Names the variable that holds the command to run `rabbitmqctl` with, where that is not `rabbitmqctl`.
pub const CTL: &str = "GRISTMILL_TEST_RABBITMQCTL";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Returns the address of the tests' RabbitMQ.
pub fn url() -> String {
    std::env::var(URL).unwrap_or_else(|_| panic!("{URL} is not set: run the tests by ./scripts/test"))
}

/// Queues of a test's own.
pub struct TestRabbit {
    url: String,
    prefix: String,
    groups: Vec<String>,
    brokers: Mutex<Vec<Arc<RabbitBroker>>>,
    policies: Mutex<Vec<String>>,
}

impl TestRabbit {
    /// Chooses a prefix; the queues of these groups are removed in the end.
    pub fn new(groups: &[&str]) -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("gristmill-test-{}-{}-{count}", SystemClock.now().timestamp(), std::process::id());
        Self {
            url: url(),
            prefix,
            groups: groups.iter().copied().map(str::to_owned).collect(),
            brokers: Mutex::default(),
            policies: Mutex::default(),
        }
    }

    /// Returns what the names of the test's queues and connections begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the name of a work queue.
    pub fn queue(&self, lane: &LaneKey) -> String {
        format!("{}.work.{lane}", self.prefix)
    }

    /// Returns options for these queues.
    pub fn options(&self) -> RabbitOptions {
        let mut options = RabbitOptions::new(SecretString::from(self.url.clone()));
        options.prefix.clone_from(&self.prefix);
        options.name.clone_from(&self.prefix);
        options
    }

    /// Opens a broker.
    pub async fn broker(&self) -> Arc<RabbitBroker> {
        self.broker_with(self.options()).await
    }

    /// Opens a broker with options that began as [`Self::options`].
    pub async fn broker_with(&self, options: RabbitOptions) -> Arc<RabbitBroker> {
        let broker = Arc::new(RabbitBroker::connect(options).await.unwrap());
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&broker));
        broker
    }

    /// Opens a connection of the test's own, to look or to break things.
    pub async fn connect(&self) -> Connection {
        Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap()
    }

    /// Limits the work queues' lengths by a policy; it is cleared in the end.
    pub async fn limit_queues(&self, messages: u32) {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).push(self.prefix.clone());
        let pattern = format!("^{}\\.work\\.", self.prefix.replace('.', "\\."));
        let definition = format!("{{\"max-length\":{messages}}}");
        rabbitmqctl(&["set_policy", "--apply-to", "queues", &self.prefix, &pattern, &definition]).await;
    }

    /// Closes all connections of this test's brokers, as an operator would.
    pub async fn close_connections(&self) {
        let name = erlang_binary(&self.prefix);
        rabbitmqctl_eval(&format!(
            "Ours = fun(C) -> [{{_, Table}}] = rabbit_networking:connection_info(C, [client_properties]), \
               {{_, _, Name}} = lists:keyfind(<<\"connection_name\">>, 1, Table), \
               string:prefix(Name, {name}) =/= nomatch end, \
             [rabbit_networking:close_connection(C, \"test\") || C <- rabbit_networking:connections(), \
               try Ours(C) catch _:_ -> false end], ok."
        ))
        .await;
    }

    /// Has a queue forget its consumers, who are not told: they stay subscribed and get nothing.
    pub async fn deafen(&self, lane: &LaneKey) {
        let queue = erlang_binary(&self.queue(lane));
        rabbitmqctl_eval(&format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, {queue})), \
             Server = amqqueue:get_pid(Q), \
             [ra:process_command(Server, rabbit_fifo:make_checkout({{element(2, C), element(1, C)}}, cancel, #{{}})) \
               || C <- rabbit_amqqueue:consumers(Q)], ok."
        ))
        .await;
    }

    /// Returns the windows of the consumers of the test's queues.
    pub async fn windows(&self) -> Vec<u16> {
        let table = rabbitmqctl(&["--quiet", "list_consumers", "queue_name", "prefetch_count"]).await;
        let ours = table.lines().filter(|line| line.starts_with(&self.prefix));
        ours.map(|line| line.split('\t').nth(1).unwrap().parse().unwrap()).collect()
    }

    async fn clean(&self) {
        let brokers = std::mem::take(&mut *self.brokers.lock().unwrap_or_else(PoisonError::into_inner));
        for broker in brokers {
            // A broker that runs would declare its queues again.
            broker.shutdown().await;
        }
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let asides = ["dead", "unrouted", "future"].map(|role| format!("{}.{role}", self.prefix));
        let work = self.groups.iter().flat_map(|group| LaneKey::all(group)).map(|lane| self.queue(&lane));
        for queue in work.chain(asides.clone()) {
            if queue.len() <= 255 {
                channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
            }
        }
        for exchange in asides.into_iter().chain([format!("{}.submit", self.prefix)]) {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
        let policies = std::mem::take(&mut *self.policies.lock().unwrap_or_else(PoisonError::into_inner));
        for policy in policies {
            rabbitmqctl(&["clear_policy", &policy]).await;
        }
    }
}

impl Drop for TestRabbit {
    fn drop(&mut self) {
        // The test's runtime may be gone or busy: clean from a thread with its own.
        std::thread::scope(|scope| {
            let cleaning = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), self.clean()).await.unwrap() });
            });
            let cleaned = cleaning.join();
            assert!(cleaned.is_ok() || std::thread::panicking(), "the queues of {} are left behind", self.prefix);
        });
    }
}

impl fmt::Debug for TestRabbit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestRabbit").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Runs `rabbitmqctl`; returns what it prints.
pub async fn rabbitmqctl(arguments: &[&str]) -> String {
    let command = std::env::var(CTL).unwrap_or_else(|_| "rabbitmqctl".to_owned());
    let mut words = command.split_whitespace();
    let run = tokio::process::Command::new(words.next().expect("a command"))
        .args(words)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await;
    let output =
        run.unwrap_or_else(|error| panic!("`{command}` cannot be run: {error}; {CTL} can name another command"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {arguments:?}: {text} {errors}");
    text
}

async fn rabbitmqctl_eval(expression: &str) {
    let answer = rabbitmqctl(&["eval", expression]).await;
    assert_eq!(answer.trim(), "ok", "{expression}");
}

fn erlang_binary(text: &str) -> String {
    assert!(!text.contains(['"', '\\']), "{text}");
    format!("<<\"{text}\">>")
}

/// Stands between a broker and RabbitMQ, to cut and to lie.
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
}

#[derive(Debug)]
struct Proxied {
    cut: CancellationToken,
    /// What the client said first, with the connection's name.
    hello: Mutex<Vec<u8>>,
    to_client: AsyncMutex<OwnedWriteHalf>,
}

impl Proxy {
    /// Listens, and passes on to the RabbitMQ of `url`.
    pub async fn start(target: &str) -> Self {
        let target = url::Url::parse(target).unwrap();
        let target = format!("{}:{}", target.host_str().unwrap(), target.port().unwrap_or(5672));
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
        tasks.spawn(until_cut(Arc::clone(&proxied), upwards(Arc::clone(&proxied), from_client, to_server)));
        tasks.spawn(until_cut(Arc::clone(&proxied), downwards(Arc::clone(&proxied), from_server)));
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

async fn upwards(proxied: Arc<Proxied>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        {
            let mut hello = proxied.hello.lock().unwrap_or_else(PoisonError::into_inner);
            if hello.len() < 4_096 {
                hello.extend_from_slice(&buffer[..count]);
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

async fn downwards(proxied: Arc<Proxied>, mut from: OwnedReadHalf) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if proxied.to_client.lock().await.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
