//! Measures the whole system on one machine: the bare HTTP client, the scaled way (publish and work at once, two workers), and
//! the embedded way; when asked, the scaled way also with limits that do not bind (`limits`), with a price and a budget that is not
//! met (`budget`), and with the response cache, which has none of the answers (`cache`). Prints jobs/s, CPU-seconds per 1,000 jobs of each process, and peak memory, as Markdown.
//!
//! Run it by `./scripts/bench [JOBS]`. Everything shares this machine's cores, the provider included: a simulator without
//! latency.
#![expect(clippy::unwrap_used, reason = "a tool for developers: what fails must panic")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::store::{BatchSelector, Store};
use gristmill_tests::database::TestDatabase;
use gristmill_tests::fleet::gristmill;
use gristmill_tests::rabbit::{self, TestRabbit};
use gristmill_worker::provider::{self, Call};
use secrecy::ExposeSecret;

const MODEL: &str = "sim-1";
/// Calls at once of each process that calls: with no latency, answers are on their way to the store at any moment, which count.
const CONCURRENCY: &str = "500";

#[tokio::main]
async fn main() {
    let jobs: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(50_000);
    let ways = std::env::args().nth(2).unwrap_or_else(|| "http,scaled,embedded".to_owned());
    let dir = tempfile::tempdir().unwrap();
    write_input(&dir.path().join("input.jsonl"), jobs);
    println!("| way | jobs | jobs/s | process | CPU s per 1,000 jobs | peak RSS MB |\n|---|---|---|---|---|---|");
    if ways.contains("http") {
        bare_client(dir.path(), jobs).await;
    }
    for (way, extra) in
        [("scaled", Extra::Nothing), ("limits", Extra::Limits), ("budget", Extra::Budget), ("cache", Extra::Cache)]
    {
        if ways.contains(way) {
            scaled(dir.path(), jobs, extra).await;
        }
    }
    if ways.contains("embedded") {
        embedded(dir.path(), jobs).await;
    }
}

fn body(n: usize) -> serde_json::Value {
    serde_json::json!({
        "model": MODEL, "max_tokens": 100, "temperature": 0, "user": format!("line-{n}"),
        "messages": [{"role": "system", "content": "You are a careful evaluator. ".repeat(10)},
                     {"role": "user", "content": format!("Question {n}: {}", "what does the mill grind? ".repeat(35))}],
    })
}

fn write_input(path: &Path, jobs: usize) {
    let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
    for n in 0..jobs {
        let line = serde_json::json!({
            "custom_id": format!("line-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body(n),
        });
        writeln!(file, "{line}").unwrap();
    }
}

/// A process with its CPU time and memory, read from /proc until it ends.
struct Watched {
    name: &'static str,
    child: Child,
    cpu_s: f64,
    peak_mb: f64,
}

impl Watched {
    fn start(name: &'static str, mut command: Command) -> Self {
        Self { name, child: command.stdin(Stdio::null()).spawn().unwrap(), cpu_s: 0.0, peak_mb: 0.0 }
    }

    fn look(&mut self) {
        if let Some((cpu_s, peak_mb)) = usage(self.child.id()) {
            (self.cpu_s, self.peak_mb) = (cpu_s, peak_mb);
        }
    }

    fn print(&self, way: &str, jobs: usize, rate: f64) {
        row(way, jobs, rate, self.name, self.cpu_s, self.peak_mb);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn row(way: &str, jobs: usize, rate: f64, process: &str, cpu_s: f64, peak_mb: f64) {
    let per_thousand = cpu_s / jobs as f64 * 1000.0;
    println!("| {way} | {jobs} | {rate:.0} | {process} | {per_thousand:.4} | {peak_mb:.0} |");
}

/// Returns the CPU seconds and the peak resident megabytes of a process.
fn usage(pid: u32) -> Option<(f64, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let peak_kb: f64 = peak.trim().trim_end_matches(" kB").parse().ok()?;
    Some((ticks / 100.0, peak_kb / 1024.0))
}

/// Sums the CPU seconds of all processes of a program, reaped children included.
fn total_cpu(name: &str) -> (f64, f64) {
    let (mut cpu_s, mut most_mb) = (0.0, 0.0f64);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        if !head.ends_with(&format!("({name}")) {
            continue;
        }
        let fields: Vec<f64> = tail.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
        cpu_s += (fields[11] + fields[12] + fields[13] + fields[14]) / 100.0;
        if let Some((_, peak_mb)) = entry.file_name().to_str().and_then(|pid| usage(pid.parse().ok()?)) {
            most_mb = most_mb.max(peak_mb);
        }
    }
    (cpu_s, most_mb)
}

fn simulator(dir: &Path) -> (Watched, String) {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = gristmill(dir);
    command.args(["simulate", "--listen", &format!("127.0.0.1:{port}"), "--latency", "0ms"]).stdout(Stdio::null());
    let watched = Watched::start("provider (simulator)", command);
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the simulator does not start");
        std::thread::yield_now();
    }
    (watched, format!("http://127.0.0.1:{port}/v1"))
}

async fn bare_client(dir: &Path, jobs: usize) {
    gristmill_worker::install_tls();
    let (mut server, base) = simulator(dir);
    let endpoint = gristmill_common::config::Endpoint(base.parse().unwrap());
    let deployment = gristmill_common::config::Deployment {
        simulated: true,
        ..gristmill_common::config::Deployment::new(MODEL, "openai", MODEL, endpoint)
    };
    let provider = provider::build(&deployment, &provider::Http::default(), Arc::new(SystemClock)).unwrap();
    let batch = BatchId::new(SystemClock.now());
    let bodies: Arc<Vec<Bytes>> = Arc::new((0..jobs).map(|n| Bytes::from(body(n).to_string())).collect());
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (before, _) = usage(std::process::id()).unwrap();
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..128 {
        let (provider, bodies, next) = (Arc::clone(&provider), Arc::clone(&bodies), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(body) = bodies.get(n) else { return };
                let job = JobId::derive(batch, u32::try_from(n).unwrap());
                let call = Call {
                    endpoint: "/v1/chat/completions",
                    body,
                    job,
                    deadline: None,
                    service_tier: None,
                    tokens: None,
                };
                assert!(provider.call(call).await.outcome.is_ok());
            }
        });
    }
    tasks.join_all().await;
    let rate = jobs as f64 / started.elapsed().as_secs_f64();
    let (after, peak_mb) = usage(std::process::id()).unwrap();
    server.look();
    row("bare HTTP client", jobs, rate, "client", after - before, peak_mb);
    server.print("bare HTTP client", jobs, rate);
}

/// What the scaled way is measured with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    Nothing,
    /// Limits of calls and tokens that do not bind.
    Limits,
    /// A price, and a budget that is not met.
    Budget,
    /// The response cache, which has none of the answers.
    Cache,
}

impl Extra {
    const fn way(self) -> &'static str {
        match self {
            Self::Nothing => "scaled, 2 workers",
            Self::Limits => "scaled, with limits",
            Self::Budget => "scaled, with price and budget",
            Self::Cache => "scaled, with response cache",
        }
    }

    /// Writes the configuration; without anything extra there is none.
    fn configure(self, dir: &Path, base: &str) {
        let params = match self {
            Self::Nothing => return,
            Self::Limits => "rpm: 10000000, tpm: 10000000000",
            Self::Budget | Self::Cache => "input_cost_per_token: 2.5e-6, output_cost_per_token: 0.00001",
        };
        let yaml = format!(
            "model_list:\n- model_name: {MODEL}\n  litellm_params: {{model: openai/gpt-4o, api_base: '{base}', api_key: sk-bench, \
             {params}}}\n"
        );
        fs::write(dir.join("gristmill.yaml"), yaml).unwrap();
    }
}

async fn scaled(dir: &Path, jobs: usize, extra: Extra) {
    let (mut server, base) = simulator(dir);
    extra.configure(dir, &base);
    let database = TestDatabase::create().await;
    let rabbit = TestRabbit::new(&[MODEL]);
    let store = database.store().await;
    let command = |arguments: &[&str]| {
        let mut command = gristmill(dir);
        command
            .args(arguments)
            .env("DATABASE_URL", database.url().expose_secret())
            .env("AMQP_URL", rabbit::url())
            .env("GRISTMILL_PREFIX", rabbit.prefix())
            .env("OPENAI_BASE_URL", &base)
            .env("OPENAI_API_KEY", "sk-bench")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let worker = ["worker", "--model", MODEL, "--concurrency", CONCURRENCY];
    let mut workers = [Watched::start("worker 1", command(&worker)), Watched::start("worker 2", command(&worker))];
    while store.workers().await.unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (rabbit_before, _) = total_cpu("beam.smp");
    let (postgres_before, _) = total_cpu("postgres");
    let mut submit = vec!["submit", "input.jsonl", "--name", "bench", "--priority", "bulk", "--yes"];
    match extra {
        Extra::Nothing | Extra::Limits => {}
        Extra::Budget => submit.extend(["--max-budget", "100000"]),
        Extra::Cache => submit.extend(["--cache", "on"]),
    }
    let mut producer = Watched::start("producer", command(&submit));
    let mut samples: Vec<(f64, u64)> = Vec::new();
    let started = Instant::now();
    let batch = loop {
        for watched in workers.iter_mut().chain([&mut producer, &mut server]) {
            watched.look();
        }
        let _ = producer.child.try_wait();
        if let Some(batch) = store.batch(&BatchSelector::Name("bench".into())).await.unwrap() {
            samples.push((started.elapsed().as_secs_f64(), batch.counters.done()));
            if batch.state.is_ended() {
                break batch;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (rabbit_after, rabbit_mb) = total_cpu("beam.smp");
    let (postgres_after, postgres_mb) = total_cpu("postgres");
    assert_eq!(batch.counters.succeeded, jobs as u64);
    let took = (batch.finished_at.unwrap() - batch.created_at).to_std().unwrap();
    let rate = jobs as f64 / took.as_secs_f64();
    if extra != Extra::Nothing {
        fs::remove_file(dir.join("gristmill.yaml")).unwrap();
    }
    let way = extra.way();
    for watched in workers.iter().chain([&producer, &server]) {
        watched.print(way, jobs, rate);
    }
    row(way, jobs, rate, "RabbitMQ", rabbit_after - rabbit_before, rabbit_mb);
    row(way, jobs, rate, "Postgres (largest process)", postgres_after - postgres_before, postgres_mb);
    if jobs >= 500_000 {
        print_course(&samples, jobs as u64);
    }
}

/// Prints the rate of each tenth of the jobs: a long run must not grow slower.
fn print_course(samples: &[(f64, u64)], jobs: u64) {
    let reached = |done: u64| samples.iter().find(|(_, count)| *count >= done).map_or(0.0, |(at, _)| *at);
    let tenth = jobs / 10;
    let rates = (0..10).map(|n| {
        let (from, to) = (reached(n * tenth + 1), reached((n + 1) * tenth));
        format!("{:.0}", tenth as f64 / (to - from).max(0.001))
    });
    println!("\njobs/s of each tenth: {}", rates.collect::<Vec<_>>().join(", "));
}

async fn embedded(dir: &Path, jobs: usize) {
    let (mut server, base) = simulator(dir);
    let mut command = gristmill(dir);
    command
        .args(["run", "input.jsonl", "-o", "out.jsonl", "--name", "bench", "--progress", "none"])
        .args(["--concurrency", CONCURRENCY])
        .env("OPENAI_BASE_URL", &base)
        .env("OPENAI_API_KEY", "sk-bench")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = Instant::now();
    let mut run = Watched::start("gristmill run", command);
    loop {
        run.look();
        server.look();
        if let Some(status) = run.child.try_wait().unwrap() {
            assert!(status.success(), "gristmill run failed: {status}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rate = jobs as f64 / started.elapsed().as_secs_f64();
    let lines = fs::read_to_string(dir.join("out.jsonl")).unwrap().lines().count();
    assert_eq!(lines, jobs);
    run.print("embedded, process start to last line", jobs, rate);
    server.print("embedded, process start to last line", jobs, rate);
}
