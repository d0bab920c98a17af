//! What a worker tells Prometheus: the numbers are those of the store, and no label grows with the work.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use gristmill_common::failure::ErrorClass;
use gristmill_common::job::Priority;
use gristmill_common::outcome::Status;
use gristmill_tests::fleet::{self, Fleet, KEY, MODEL, eventually, program};
use gristmill_tests::proxy::Proxy;
use gristmill_tests::rabbit;
use gristmill_worker::metrics::{FAMILIES, Kind};
use gristmill_worker::simulate;
use secrecy::ExposeSecret as _;
use sqlx::Row as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const JOBS: usize = 50;

/// Samples by name and labels, as they are written.
type Samples = BTreeMap<String, f64>;

/// Finds in a worker's log where it serves something.
async fn address(log: &Path, what: &str) -> SocketAddr {
    let served = format!("{what} served address=");
    eventually(&served, async || {
        let text = std::fs::read_to_string(log).unwrap();
        let (_, rest) = text.split_once(&served)?;
        rest.split_whitespace().next()?.parse().ok()
    })
    .await
}

/// Asks for a path; returns the head and the body.
async fn ask(address: SocketAddr, path: &str, header: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: metrics\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

/// Scrapes a worker, and checks what holds of every scrape.
async fn scrape(address: SocketAddr) -> Samples {
    let (head, body) = ask(address, "/metrics", "").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let types: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let families: BTreeSet<String> =
        FAMILIES.iter().map(|family| format!("{} {}", family.name, family.kind.as_str())).collect();
    assert_eq!(types.len(), families.len(), "each once");
    assert_eq!(types.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>(), families, "what is documented");
    let mut samples = Samples::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = value.replace("+Inf", "inf").parse().unwrap();
        assert_eq!(samples.insert(series.to_owned(), value), None, "{series} is there twice");
        let name = series.split('{').next().unwrap();
        assert!(
            FAMILIES.iter().any(|family| {
                let suffixes: &[&str] =
                    if family.kind == Kind::Histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
                suffixes.iter().any(|suffix| name.strip_suffix(suffix) == Some(family.name))
            }),
            "{series}"
        );
    }
    samples
}

/// Sums the samples of a name whose labels include these, each as `name="value"`.
fn sum(samples: &Samples, name: &str, labels: &[&str]) -> f64 {
    let of_name = samples.iter().filter(|(series, _)| series.split('{').next() == Some(name));
    of_name.filter(|(series, _)| labels.iter().all(|label| series.contains(label))).map(|(_, value)| value).sum()
}

fn is(samples: &Samples, name: &str, labels: &[&str], expected: f64) {
    let value = sum(samples, name, labels);
    assert!((value - expected).abs() < 1e-6, "{name} {labels:?}: {value}, expected {expected}");
}

/// Submits jobs of which one in ten is refused, one in ten fails twice and one in ten succeeds at the second call.
async fn submit(fleet: &Fleet, name: &str) -> gristmill_common::id::BatchId {
    fleet
        .submit(name, JOBS, |n, job| {
            let script = match n % 10 {
                0 => "simulate:400",
                1 => "simulate:500,500",
                2 => "simulate:503,ok",
                _ => "How many stones are in a mill?",
            };
            let tags = job.options.tags.clone();
            *job = fleet::job(&job.custom_id, script);
            job.options.tags = tags;
            job.options.tags.insert("sweep".to_owned(), format!("tag-of-{name}"));
            job.options.num_retries = Some(1);
        })
        .await
}

/// Waits until the worker has counted so many runs as ended and holds nothing any more.
async fn settled(address: SocketAddr, runs: usize) -> Samples {
    eventually("everything is counted", async || {
        let samples = scrape(address).await;
        let ended = sum(&samples, "gristmill_jobs_ended_total", &[]);
        let open = sum(&samples, "gristmill_jobs_held", &[]) + sum(&samples, "gristmill_results_uncommitted", &[]);
        (ended >= runs as f64 && open == 0.0).then_some(samples)
    })
    .await
}

fn write_config(fleet: &Fleet) {
    let url = fleet.simulator.base_url();
    let text = format!(
        "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      api_base: {url}\n      \
         api_key: {KEY}\n      rpm: 6000\n      tpm: 900000\n"
    );
    std::fs::write(fleet.dir.path().join("gristmill.yaml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scraped_equals_what_the_store_says() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    write_config(&fleet);
    let worker = fleet.worker(&["--metrics-addr", "127.0.0.1:0"], &[]);
    let address = address(&fleet.dir.path().join(format!("worker-{worker}.log")), "metrics are").await;
    let batch = submit(&fleet, "counted").await;
    let rows = fleet.agrees(batch, JOBS).await;
    let samples = settled(address, JOBS).await;

    for status in Status::ALL {
        let count = rows.iter().filter(|row| row.result.status == status).count();
        let status = format!("status=\"{status}\"");
        is(&samples, "gristmill_jobs_ended_total", &["group=\"sim-1\"", &status], count as f64);
    }
    is(&samples, "gristmill_jobs_ended_total", &["status=\"failed\""], 10.0);

    let mut connection = fleet.database.connect().await;
    let attempts = "SELECT deployment, coalesce(error_class, 'ok') AS outcome, coalesce(http_status / 100, 0) AS hundreds, \
                    count(*) AS calls, sum(latency_ms) AS latency_ms, count(ttft_ms) AS first_bytes, \
                    coalesce(sum(input_tokens), 0) AS input, coalesce(sum(output_tokens), 0) AS output, \
                    coalesce(sum(cost_usd), 0)::float8 AS cost, count(*) FILTER (WHERE cost_usd IS NULL) AS free \
                    FROM gristmill.attempts WHERE batch_id = $1 GROUP BY 1, 2, 3";
    let attempts = sqlx::query(attempts).bind(batch.uuid()).fetch_all(&mut connection).await.unwrap();
    assert_eq!(attempts.len(), 4, "ok, 400, 500 and 503");
    let all = |column: &str| -> f64 { attempts.iter().map(|row| row.get::<i64, _>(column) as f64).sum() };
    for row in &attempts {
        let (deployment, outcome): (&str, &str) = (row.get("deployment"), row.get("outcome"));
        let labels = [
            format!("deployment=\"{deployment}\""),
            format!("outcome=\"{outcome}\""),
            format!("http_status=\"{}xx\"", row.get::<i32, _>("hundreds")),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        is(&samples, "gristmill_calls_total", &labels, row.get::<i64, _>("calls") as f64);
    }
    is(&samples, "gristmill_calls_total", &[], all("calls"));
    is(&samples, "gristmill_call_duration_seconds_count", &[], all("calls"));
    is(&samples, "gristmill_call_duration_seconds_bucket", &["le=\"+Inf\""], all("calls"));
    is(&samples, "gristmill_call_duration_seconds_sum", &[], all("latency_ms") / 1e3);
    is(&samples, "gristmill_call_first_byte_seconds_count", &[], all("first_bytes"));
    is(&samples, "gristmill_queue_wait_seconds_count", &[], all("calls"));
    is(&samples, "gristmill_tokens_total", &["kind=\"input\""], all("input"));
    is(&samples, "gristmill_tokens_total", &["kind=\"output\""], all("output"));
    is(&samples, "gristmill_cost_usd_total", &[], attempts.iter().map(|row| row.get::<f64, _>("cost")).sum());
    is(&samples, "gristmill_calls_of_unknown_cost_total", &[], all("free"));
    is(&samples, "gristmill_limit_used_units_total", &["dimension=\"requests\""], all("calls"));
    assert!(sum(&samples, "gristmill_limit_used_units_total", &["dimension=\"tokens\""]) > 0.0);
    assert!(sum(&samples, "gristmill_limit_leased_units_total", &["dimension=\"requests\""]) >= all("calls"));

    // Five jobs came back after each of the errors that may pass, once.
    is(&samples, "gristmill_retries_total", &["class=\"InternalServerError\""], 5.0);
    is(&samples, "gristmill_retries_total", &["class=\"ServiceUnavailableError\""], 5.0);
    is(&samples, "gristmill_retries_total", &[], 10.0);
    is(&samples, "gristmill_admissions_total", &["verdict=\"run\""], JOBS as f64 + 10.0);
    is(&samples, "gristmill_keeper_jobs_total", &["action=\"due\""], 10.0);
    is(&samples, "gristmill_flush_size_sum", &[], JOBS as f64 + 10.0);
    assert!(sum(&samples, "gristmill_messages_acked_total", &[]) > 0.0);

    for (name, expected) in [
        ("gristmill_jobs_waiting", 0.0),
        ("gristmill_calls_in_flight", 0.0),
        ("gristmill_slots", 128.0),
        ("gristmill_slots_used", 0.0),
        ("gristmill_deployment_paused", 0.0),
        ("gristmill_deployment_info", 1.0),
        ("gristmill_flush_failures_total", 0.0),
        ("gristmill_limit_blocked", 0.0),
        ("gristmill_limit_refused_calls_total", 0.0),
        ("gristmill_sessions_total", 1.0),
        ("gristmill_ready", 1.0),
        ("gristmill_draining", 0.0),
        ("gristmill_store_up", 1.0),
        ("gristmill_broker_up", 1.0),
        ("gristmill_broker_reconnects_total", 0.0),
        ("gristmill_keeper_active", 1.0),
        ("gristmill_build_info", 1.0),
    ] {
        is(&samples, name, &[], expected);
    }
    for (dimension, limit) in [("requests", 6_000.0), ("tokens", 900_000.0)] {
        for source in ["configured", "written", "effective"] {
            let labels = [format!("dimension=\"{dimension}\""), format!("source=\"{source}\"")];
            is(&samples, "gristmill_limit_per_minute", &labels.each_ref().map(String::as_str), limit);
        }
    }
    let left = sum(&samples, "gristmill_lease_remaining_seconds", &[]);
    assert!(left > 0.0 && left <= fleet::LEASE.as_secs_f64(), "{left}");
    if cfg!(target_os = "linux") {
        assert!(sum(&samples, "process_resident_memory_bytes", &[]) > 1e6);
        assert!(sum(&samples, "process_open_fds", &[]) > 3.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_label_grows_with_the_work() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    write_config(&fleet);
    let worker = fleet.worker(&["--metrics-addr", "127.0.0.1:0"], &[]);
    let address = address(&fleet.dir.path().join(format!("worker-{worker}.log")), "metrics are").await;
    let mut before: Option<BTreeSet<String>> = None;
    for (round, name) in [(1, "quern-one"), (2, "quern-two")] {
        let batch = submit(&fleet, name).await;
        fleet.agrees(batch, JOBS).await;
        let series: BTreeSet<String> = settled(address, round * JOBS).await.into_keys().collect();
        for text in [KEY, &fleet.simulator.base_url(), name, &format!("tag-of-{name}"), &batch.to_string()] {
            assert!(!series.iter().any(|series| series.contains(text)), "{text}");
        }
        if let Some(before) = &before {
            assert_eq!(&series, before, "other jobs, the same series");
        }
        before = Some(series);
    }

    let series = before.unwrap();
    let classes = || ErrorClass::KNOWN.iter().map(ErrorClass::as_str).chain(["other"]);
    let deployment = series.iter().find(|series| series.starts_with("gristmill_deployment_info{")).unwrap();
    let of_configuration: Vec<&str> = deployment.split('"').skip(1).step_by(2).collect();
    let mut seen = BTreeSet::new();
    for series in &series {
        let Some((_, labels)) = series.split_once('{') else { continue };
        for label in labels.trim_end_matches('}').split("\",") {
            let (name, value) = label.split_once("=\"").unwrap();
            let value = value.trim_end_matches('"');
            seen.insert(name);
            let is_closed = match name {
                "account" | "deployment" | "group" | "model" | "provider" | "to" => of_configuration.contains(&value),
                "class" => classes().any(|class| class == value),
                "outcome" => classes().chain(["ok"]).any(|class| class == value),
                "status" => value.parse::<Status>().is_ok(),
                "priority" => value.parse::<Priority>().is_ok(),
                "http_status" => ["1xx", "2xx", "3xx", "4xx", "5xx", "none", "other"].contains(&value),
                "version" => value == env!("CARGO_PKG_VERSION"),
                "le" => value == "+Inf" || value.parse::<f64>().is_ok(),
                // Words of the program: neither numbers nor ids.
                "action" | "change" | "dimension" | "kind" | "source" | "verdict" => {
                    value.len() < 20 && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
                }
                _ => false,
            };
            assert!(is_closed, "{series}");
        }
    }
    assert!(seen.len() > 12, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_limits_and_pauses_are_seen_and_logged() {
    let limits = "rpm:6000".parse().unwrap();
    let mut fleet = Fleet::start(simulate::Options { limits, ..Default::default() }).await;
    write_config(&fleet);
    let worker = fleet.worker(&["--metrics-addr", "127.0.0.1:0"], &[]);
    let log = fleet.dir.path().join(format!("worker-{worker}.log"));
    let address = address(&log, "metrics are").await;
    let first = fleet.submit("told", 20, |_, _| {}).await;
    fleet.agrees(first, 20).await;
    let limit = ["dimension=\"requests\"", "source=\"told\""];
    eventually("what headers told is seen", async || {
        (sum(&scrape(address).await, "gristmill_limit_per_minute", &limit) == 6_000.0).then_some(())
    })
    .await;

    let mut set = fleet.command(&["limits", "set", MODEL, "--rpm", "3000"]);
    let output = tokio::task::spawn_blocking(move || set.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let second = fleet.submit("written", 20, |_, _| {}).await;
    fleet.agrees(second, 20).await;
    let samples = eventually("the fleet's limit is seen", async || {
        let samples = scrape(address).await;
        let limit = ["dimension=\"requests\"", "source=\"effective\""];
        (sum(&samples, "gristmill_limit_per_minute", &limit) == 3_000.0).then_some(samples)
    })
    .await;
    is(&samples, "gristmill_limit_changes_total", &["dimension=\"requests\"", "change=\"told\""], 1.0);
    is(&samples, "gristmill_limit_changes_total", &["dimension=\"requests\"", "change=\"written\""], 1.0);
    is(&samples, "gristmill_deployment_paused", &[], 0.0);
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("INFO limit changed")).collect();
    let told = |line: &&&str| line.contains(r#"dimension="requests" change="told" to=6000"#);
    let written = |line: &&&str| line.contains(r#"dimension="requests" change="written" from=6000 to=3000"#);
    assert_eq!((lines.iter().filter(told).count(), lines.iter().filter(written).count()), (1, 1), "{lines:#?}");

    fleet.simulator.control().set_faults(vec!["401".parse().unwrap()]);
    fleet.submit("refused", 20, |_, _| {}).await;
    let samples = eventually("the pause is seen", async || {
        let samples = scrape(address).await;
        (sum(&samples, "gristmill_deployment_paused", &[]) == 1.0).then_some(samples)
    })
    .await;
    is(&samples, "gristmill_deployment_pause_reason", &["class=\"AuthenticationError\""], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_are_seen() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let (database_url, broker_url) = (fleet.database.url().clone(), rabbit::url());
    let database = Proxy::start(database_url.expose_secret()).await;
    let broker = Proxy::start(&broker_url).await;
    let (database_url, broker_url) = (database.url(database_url.expose_secret()), broker.url(&broker_url));
    let env = [("DATABASE_URL", database_url.expose_secret()), ("AMQP_URL", broker_url.expose_secret())];
    let worker = fleet.worker(&["--metrics-addr", "127.0.0.1:0"], &env);
    let address = address(&fleet.dir.path().join(format!("worker-{worker}.log")), "metrics are").await;
    let becomes = async |name: &str, value: f64| {
        eventually(name, async || {
            let samples = scrape(address).await;
            ((sum(&samples, name, &[]) - value).abs() < 1e-6).then_some(samples)
        })
        .await
    };
    becomes("gristmill_ready", 1.0).await;
    database.refuse(true);
    is(&becomes("gristmill_store_up", 0.0).await, "gristmill_ready", &[], 0.0);
    database.refuse(false);
    becomes("gristmill_store_up", 1.0).await;
    eventually("it is told that the store answers again", async || {
        (sum(&scrape(address).await, "gristmill_store_reconnects_total", &[]) >= 1.0).then_some(())
    })
    .await;
    broker.refuse(true);
    becomes("gristmill_broker_up", 0.0).await;
    broker.refuse(false);
    let samples = becomes("gristmill_broker_up", 1.0).await;
    assert!(sum(&samples, "gristmill_broker_reconnects_total", &[]) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_an_address_of_their_own_or_that_of_health() {
    let dir = tempfile::tempdir().unwrap();
    let start = |log: &Path, arguments: &[&str]| {
        let mut daemon = Command::new(program("gristmill-worker"));
        daemon.current_dir(dir.path()).env_clear().env("DATABASE_URL", "sqlite:jobs.db").args(arguments);
        daemon.args(["--model", "m", "--api-base", "http://127.0.0.1:9/v1"]);
        daemon.stdin(Stdio::null()).stderr(File::create(log).unwrap());
        daemon.spawn().unwrap()
    };

    // Another address than that of health, of IPv6 where the machine has it.
    let has_ipv6 = TcpListener::bind("[::1]:0").await.is_ok();
    let other = if has_ipv6 { "[::1]:0" } else { "127.0.0.2:0" };
    let log = dir.path().join("two");
    let mut worker = start(&log, &["--health-listen", "127.0.0.1:0", "--metrics-addr", other]);
    let (health, metrics) = (address(&log, "health is").await, address(&log, "metrics are").await);
    assert_ne!(health, metrics);
    let (head, body) = ask(health, "/metrics", "").await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert_eq!(body, r#"{"paths":["/live","/ready"]}"#);
    assert_eq!(ask(metrics, "/nothing", "").await.1, r#"{"paths":["/live","/ready","/metrics"]}"#);
    for address in [health, metrics] {
        assert!(ask(address, "/live", "").await.0.starts_with("http/1.1 200"));
        eventually("the worker is ready", async || {
            ask(address, "/ready", "").await.0.starts_with("http/1.1 200").then_some(())
        })
        .await;
    }
    is(&scrape(metrics).await, "gristmill_ready", &[], 1.0);
    let accept = "accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5\r\n";
    let (head, body) = ask(metrics, "/metrics", accept).await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(
        body.contains("\n# TYPE gristmill_jobs_ended counter\ngristmill_jobs_ended_total{")
            && body.ends_with("\n# EOF\n")
    );
    worker.kill().unwrap();
    worker.wait().unwrap();

    let log = dir.path().join("one");
    let mut worker = start(&log, &["--health-listen", "127.0.0.1:0", "--metrics-addr", "127.0.0.1:0"]);
    let (health, metrics) = (address(&log, "health is").await, address(&log, "metrics are").await);
    assert_eq!(health, metrics, "one listener serves both");
    scrape(metrics).await;
    worker.kill().unwrap();
    worker.wait().unwrap();

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let log = dir.path().join("taken");
    assert_eq!(start(&log, &["--metrics-addr", &taken]).wait().unwrap().code(), Some(1));
    let text = std::fs::read_to_string(&log).unwrap();
    let expected = format!(
        "error: cannot serve metrics on {taken}: the port is in use; stop the program that has it, or pass another \
         --metrics-addr"
    );
    assert!(text.contains(&expected), "{text}");
}
