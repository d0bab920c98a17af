//! RabbitMQ for tests: queues of a test's own, removed with the value, and faults that touch nobody else.
#![expect(clippy::unwrap_used, reason = "a harness of tests: what fails must panic")]

use std::fmt;
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
    users: Mutex<Vec<String>>,
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
            users: Mutex::default(),
        }
    }

    /// Adds a model group, whose queues go with the others.
    pub fn add(&mut self, group: &str) {
        self.groups.push(group.to_owned());
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

    /// Makes a user who may use what begins with the prefix and a dot, and nothing else; returns its URL. It is removed in the end.
    pub async fn user(&self) -> String {
        let (name, password) = (&self.prefix, "granted");
        self.users.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        rabbitmqctl(&["add_user", name, password]).await;
        let ours = format!("^{}\\.", self.prefix.replace('.', "\\."));
        rabbitmqctl(&["set_permissions", "--vhost", "/", name, &ours, &ours, &ours]).await;
        let mut url = url::Url::parse(&self.url).unwrap();
        url.set_username(name).unwrap();
        url.set_password(Some(password)).unwrap();
        url.to_string()
    }

    /// Closes all connections of this test's brokers, as an operator would.
    pub async fn close_connections(&self) {
        let name = erlang_binary(&self.prefix);
        rabbitmqctl_eval(&format!(
            "Ours = fun(C) -> [{{_, Table}}] = rabbit_networking:connection_info(C, [client_properties]), \
               {{_, _, Name}} = lists:keyfind(<<\"connection_name\">>, 1, Table), \
               string:prefix(Name, {name}) =/= nomatch end, \
             [try rabbit_networking:close_connection(C, \"test\") catch _:_ -> ok end \
               || C <- rabbit_networking:connections(), try Ours(C) catch _:_ -> false end], ok."
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

    /// Returns the names of the queues in which listeners hear output.
    pub async fn listeners(&self) -> Vec<String> {
        let names = rabbitmqctl(&["--quiet", "list_queues", "name"]).await;
        let ours = format!("{}.tokens.", self.prefix);
        names.lines().filter(|name| name.starts_with(&ours)).map(str::to_owned).collect()
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
        for exchange in asides.into_iter().chain(["submit", "tokens"].map(|role| format!("{}.{role}", self.prefix))) {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
        let policies = std::mem::take(&mut *self.policies.lock().unwrap_or_else(PoisonError::into_inner));
        for policy in policies {
            rabbitmqctl(&["clear_policy", &policy]).await;
        }
        let users = std::mem::take(&mut *self.users.lock().unwrap_or_else(PoisonError::into_inner));
        for user in users {
            rabbitmqctl(&["delete_user", &user]).await;
        }
    }
}

impl Drop for TestRabbit {
    fn drop(&mut self) {
        // The test's runtime may be gone or busy: clean from a thread with its own.
        std::thread::scope(|scope| {
            let cleaning = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), self.clean()).await.unwrap() });
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
