//! A fleet for end-to-end tests: a database, queues and a simulator of the test's own, workers as real processes.
//!
//! Workers are the binary that users run, so a kill is a kill. Their leases are longer than a busy machine stands still; who
//! lets one die ends its lease, so that what it held comes back soon. Everything ends with the value: processes by their id,
//! queues, the database.
#![expect(clippy::unwrap_used, reason = "a harness of tests: what fails must panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gristmill_common::batch::Batch;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::{JobOptions, Priority};
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::{BatchSelector, Cursor, Store};
use gristmill_producer::{BatchSpec, Control, NewJob, Options, Producer};
use gristmill_worker::simulate::{self, Simulator};
use secrecy::ExposeSecret;
use tempfile::TempDir;

use crate::database::TestDatabase;
use crate::rabbit::{self, TestRabbit};

/// The model group of all tests.
pub const MODEL: &str = "sim-1";
/// A model group that no job asks for.
pub const IDLE: &str = "idle";
/// The key of all tests; it must turn up nowhere.
pub const KEY: &str = "sk-canary-4f1d7c0a9b";
/// How long a worker may be silent.
pub const LEASE: Duration = Duration::from_secs(20);
/// How long [`Fleet::keeper`] is in touch with the store before it takes over from the dead.
const KEEPER_LEASE: &str = "3s";
/// Longer than anything takes that works: a process that stands still in the middle of writing is given up after two minutes.
pub const LONG: Duration = Duration::from_secs(240);

/// A database, queues, a simulator and workers.
#[derive(Debug)]
pub struct Fleet {
    /// The database.
    pub database: TestDatabase,
    /// The queues.
    pub rabbit: TestRabbit,
    /// The provider.
    pub simulator: Simulator,
    /// The files of the fleet.
    pub dir: TempDir,
    /// A store of the test's own.
    pub store: Arc<dyn Store>,
    workers: Vec<Child>,
}

/// One line of the simulator's log.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Called {
    /// The job's `custom_id`; empty where the caller went away before its request was read.
    #[serde(deserialize_with = "text_or_nothing")]
    pub marker: String,
    /// How it went.
    pub outcome: String,
    /// When it arrived, in Unix milliseconds.
    pub t_ms: u64,
}

fn text_or_nothing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text: Option<String> = serde::Deserialize::deserialize(deserializer)?;
    Ok(text.unwrap_or_default())
}

impl Fleet {
    /// Starts everything but workers.
    pub async fn start(options: simulate::Options) -> Self {
        let dir = TempDir::new().unwrap();
        let log = dir.path().join("calls.jsonl");
        let simulator = Simulator::start(simulate::Options { log: Some(log), ..options }).await.unwrap();
        let database = TestDatabase::create().await;
        let store = database.store().await.shared();
        Self { database, rabbit: TestRabbit::new(&[MODEL, IDLE]), simulator, dir, store, workers: Vec::new() }
    }

    /// Returns the environment that processes of the fleet have.
    pub fn env(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("DATABASE_URL", self.database.url().expose_secret().to_owned()),
            ("AMQP_URL", rabbit::url()),
            ("GRISTMILL_PREFIX", self.rabbit.prefix().to_owned()),
            ("OPENAI_BASE_URL", self.simulator.base_url()),
            ("OPENAI_API_KEY", KEY.to_owned()),
            ("GRISTMILL_LEASE_TTL", format!("{}ms", LEASE.as_millis())),
            ("GRISTMILL_RENEW_INTERVAL", "300ms".to_owned()),
        ])
    }

    /// Makes a command of the program with the fleet's environment and nothing else of ours in it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = gristmill(self.dir.path());
        command.args(arguments).envs(self.env());
        command
    }

    /// Starts a worker; returns its number.
    pub fn worker(&mut self, arguments: &[&str], env: &[(&str, &str)]) -> usize {
        self.worker_for(MODEL, arguments, env)
    }

    /// Starts a worker that gets no jobs and waits until it is the keeper, so that others can die without being missed there.
    pub async fn keeper(&mut self, env: &[(&str, &str)]) -> usize {
        let env = [&[("GRISTMILL_LEASE_TTL", KEEPER_LEASE)][..], env].concat();
        let number = self.worker_for(IDLE, &[], &env);
        let mut connection = self.database.connect().await;
        loop {
            let keeper = "SELECT count(*) FROM gristmill.keeper WHERE lease_until > now()";
            let keepers: i64 = sqlx::query_scalar(keeper).fetch_one(&mut connection).await.unwrap();
            if keepers == 1 {
                return number;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn worker_for(&mut self, group: &str, arguments: &[&str], env: &[(&str, &str)]) -> usize {
        let number = self.workers.len();
        let log = File::create(self.dir.path().join(format!("worker-{number}.log"))).unwrap();
        let mut command = self.command(&["worker", "--model", group]);
        command.args(arguments).envs(env.iter().copied());
        command.stdout(Stdio::null()).stderr(log);
        self.workers.push(command.spawn().unwrap());
        number
    }

    /// Returns the process id of a worker.
    pub fn pid(&self, worker: usize) -> u32 {
        self.workers[worker].id()
    }

    /// Sends a signal to a worker, by name: `KILL`, `TERM`, `STOP`, `CONT`.
    pub fn signal(&mut self, worker: usize, name: &str) {
        signal(&self.workers[worker], name);
        if name == "KILL" {
            self.workers[worker].wait().unwrap();
        }
    }

    /// Kills a worker, and ends its lease.
    pub async fn kill(&mut self, worker: usize) {
        self.signal(worker, "KILL");
        self.end_lease(worker).await;
    }

    /// Ends the lease of a worker that is dead, as time would.
    pub async fn end_lease(&self, worker: usize) {
        let end = "UPDATE gristmill.worker SET lease_until = now() - interval '1 second'
                   WHERE pid = $1 AND dead_at IS NULL AND left_at IS NULL";
        let pid = i32::try_from(self.pid(worker)).unwrap();
        sqlx::query(end).bind(pid).execute(&mut self.database.connect().await).await.unwrap();
    }

    /// Waits until no session is at work: what a dead worker sent last is committed by then, or never.
    pub async fn quiet(&self) {
        let at_work = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid()
                         AND backend_type = 'client backend' AND state <> 'idle'";
        eventually("no session is at work", async || {
            let mut connection = self.database.connect().await;
            let at_work: i64 = sqlx::query_scalar(at_work).fetch_one(&mut connection).await.unwrap();
            (at_work == 0).then_some(())
        })
        .await;
    }

    /// Waits until a worker serves the tests' model group.
    pub async fn serving(&self) {
        eventually("a worker serves", async || {
            let workers = self.store.workers().await.ok()?;
            let serves = |groups: &[String]| groups.iter().any(|group| group == MODEL);
            workers.iter().any(|worker| worker.alive && serves(&worker.info.groups)).then_some(())
        })
        .await;
    }

    /// Waits for a worker to end; returns whether it ended well.
    pub async fn ended(&mut self, worker: usize) -> bool {
        let started = Instant::now();
        loop {
            if let Some(status) = self.workers[worker].try_wait().unwrap() {
                return status.success();
            }
            assert!(started.elapsed() < LONG, "the worker does not end: {}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes a producer in this process.
    pub async fn producer(&self) -> Producer {
        let broker = self.rabbit.broker().await;
        Producer::connect(Options::new(Arc::clone(&self.store), Some(broker)))
    }

    /// Submits a batch of this many jobs and returns its id. Job `n` has the `custom_id` `<name>-<n>`.
    pub async fn submit(&self, name: &str, count: usize, edit: impl Fn(usize, &mut NewJob) + Send) -> BatchId {
        self.submit_at(Priority::Bulk, name, count, edit).await
    }

    /// Does the same at another priority.
    pub async fn submit_at(
        &self,
        priority: Priority,
        name: &str,
        count: usize,
        edit: impl Fn(usize, &mut NewJob) + Send,
    ) -> BatchId {
        let producer = self.producer().await;
        let spec = BatchSpec { name: name.to_owned(), priority, ..BatchSpec::default() };
        let jobs = (0..count).map(|n| {
            let mut job = job(&format!("{name}-{n}"), "How many stones are in a mill?");
            edit(n, &mut job);
            Ok::<_, std::convert::Infallible>(job)
        });
        let jobs = futures_util::stream::iter(jobs.collect::<Vec<_>>());
        producer.submit(spec, jobs, &Control::default()).await.unwrap().batch.id
    }

    /// Reads a batch.
    pub async fn batch(&self, id: BatchId) -> Batch {
        self.store.batch(&BatchSelector::Id(id)).await.unwrap().unwrap()
    }

    /// Waits until a batch has ended.
    pub async fn finished(&self, id: BatchId) -> Batch {
        let started = Instant::now();
        loop {
            if let Ok(Some(batch)) = self.store.batch(&BatchSelector::Id(id)).await {
                if batch.state.is_ended() {
                    return batch;
                }
                assert!(started.elapsed() < LONG, "the batch does not end: {batch:?}\n{}", self.logs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads all rows of a batch, each run once.
    pub async fn rows(&self, id: BatchId) -> Vec<ResultRow> {
        let done = usize::try_from(self.batch(id).await.counters.done()).unwrap();
        eventually("all rows can be read", async || {
            let rows = everything(&*self.store, id).await;
            (rows.len() >= done).then_some(rows)
        })
        .await
    }

    /// Waits for a batch's end, and checks that its rows are one a job and agree with its counters.
    pub async fn agrees(&self, id: BatchId, jobs: usize) -> Vec<ResultRow> {
        let batch = self.finished(id).await;
        let rows = self.rows(id).await;
        assert_eq!(rows.len(), jobs, "one row a job");
        let ids: BTreeSet<JobId> = rows.iter().map(|row| row.job_id).collect();
        assert_eq!(ids.len(), jobs, "no job twice");
        let count = |status| rows.iter().filter(|row| row.result.status == status).count() as u64;
        let counters = batch.counters;
        assert_eq!(
            [counters.succeeded, counters.failed, counters.cancelled, counters.expired],
            Status::ALL.map(count),
            "counters equal rows"
        );
        rows
    }

    /// Reads what was called; waits until the log has all of it.
    pub async fn calls(&self) -> Vec<Called> {
        calls(&self.simulator.control(), &self.dir.path().join("calls.jsonl")).await
    }

    /// Returns what the workers logged.
    pub fn logs(&self) -> String {
        let logs = (0..self.workers.len()).map(|number| {
            let text = std::fs::read_to_string(self.dir.path().join(format!("worker-{number}.log")));
            format!("--- worker {number}\n{}", text.unwrap_or_default())
        });
        logs.collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            // It may have ended already.
            let _ = worker.kill();
            let _ = worker.wait();
        }
        if std::thread::panicking() {
            eprint_logs(&self.logs());
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test shows what its workers said")]
fn eprint_logs(logs: &str) {
    eprintln!("{logs}");
}

/// Makes a job whose body carries its `custom_id` for the simulator's log.
pub fn job(custom_id: &str, prompt: &str) -> NewJob {
    let body = serde_json::json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "user": custom_id,
        "max_tokens": 20,
    });
    NewJob {
        custom_id: custom_id.to_owned(),
        endpoint: "/v1/chat/completions".into(),
        model: MODEL.into(),
        body: Bytes::from(body.to_string()),
        options: JobOptions::default(),
    }
}

/// Reads what a simulator was called with; waits until its log has all of it.
pub async fn calls(control: &simulate::Control, log: &Path) -> Vec<Called> {
    eventually("the call log is whole", async || {
        let stats = control.stats();
        if stats.in_flight > 0 {
            return None;
        }
        control.flush_log();
        let text = std::fs::read_to_string(log).unwrap();
        let calls: Vec<Called> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (calls.len() as u64 == stats.received).then_some(calls)
    })
    .await
}

/// Counts calls by job.
pub fn by_job(calls: &[Called]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for call in calls {
        *counts.entry(call.marker.as_str()).or_default() += 1;
    }
    counts
}

/// Reads all rows of a batch from the beginning.
pub async fn everything(store: &dyn Store, batch: BatchId) -> Vec<ResultRow> {
    let (mut rows, mut cursor) = (Vec::new(), Cursor::default());
    loop {
        let page = match store.results_after(batch, cursor, 1000).await {
            // A session that a test terminated is noticed by the next one who uses it.
            Err(error) if error.is_transient() => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            page => page.unwrap(),
        };
        rows.extend(page.rows);
        cursor = page.cursor;
        if !page.more {
            return rows;
        }
    }
}

/// Makes a command of the program under test, in a directory, without our own environment.
pub fn gristmill(directory: &Path) -> Command {
    let mut command = Command::new(program("gristmill"));
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null());
    command
}

/// Finds a binary of the workspace beside the test's own.
pub fn program(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") || path.ends_with("examples") {
        path.pop();
    }
    path.push(name);
    assert!(path.exists(), "{} is not built: run the tests by ./scripts/test", path.display());
    path
}

/// Sends a signal to a process that the test started, by its id.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap();
    assert!(status.success(), "signal {name} was not sent");
}

/// Asks until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < LONG, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
