//! Traces: one for each job, from the process that submits it to the ones that work it, and no job waits for a collector.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gristmill_common::broker::{Broker as _, Confirm, Outgoing};
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::{LaneKey, Priority};
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::BatchSelector;
use gristmill_common::trace::{SpanId, Traceparent};
use gristmill_tests::fleet::{self, Fleet, KEY, MODEL, eventually, job};
use gristmill_worker::simulate;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

const JOBS: usize = 30;
/// The job of which the first call fails.
const RETRIED: usize = 7;
const PROMPT: &str = "How many stones are in a mill?";
/// What another program enqueues with.
const FOREIGN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const FOREIGN_UNRECORDED: &str = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
/// What a process may take longer because nobody takes its traces: many times the patience of its end, half of [`SENDING_MS`].
const HELD_UP: Duration = Duration::from_secs(60);
/// How long sending traces may take, in milliseconds.
const SENDING_MS: &str = "120000";

/// A span as it arrived, with the service that sent it.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    sent: Sent,
}

impl Span {
    fn text(&self, name: &str) -> Option<String> {
        attribute(&self.sent.attributes, name).map(|value| match value {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        })
    }

    fn is_failed(&self) -> bool {
        self.sent.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }
}

fn attribute(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], name: &str) -> Option<Value> {
    attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value
}

/// Heads and bodies of requests.
type Posts = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Stands in for a collector: takes OTLP by HTTP and keeps it.
struct Collector {
    address: SocketAddr,
    posts: Posts,
    _stop: DropGuard,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let posts = Posts::default();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (kept, stopped, serving) = (Arc::clone(&posts), stop.clone(), tasks.clone());
        tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                serving.spawn(stopped.clone().run_until_cancelled_owned(take_posts(stream, kept)));
            }
        }));
        Self { address, posts, _stop: stop.drop_guard() }
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the spans that came.
    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (head, body) in &*self.posts.lock().unwrap() {
            assert!(head.starts_with("POST /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
            for resource in ExportTraceServiceRequest::decode(&**body).unwrap().resource_spans {
                let attributes = resource.resource.unwrap().attributes;
                let Some(Value::StringValue(service)) = attribute(&attributes, "service.name") else {
                    panic!("no service: {attributes:?}")
                };
                let sent = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(sent.map(|sent| Span { service: service.clone(), sent }));
            }
        }
        spans
    }

    /// Tells whether a text stands in anything that came.
    fn has(&self, text: &str) -> bool {
        let is_in = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        self.posts.lock().unwrap().iter().any(|(head, body)| is_in(head.as_bytes()) || is_in(body))
    }
}

/// Answers each POST of a connection with 200.
async fn take_posts(stream: TcpStream, posts: Posts) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        posts.lock().unwrap().push((head, body));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }
}

/// Runs the program beside the fleet; the test's own tasks go on meanwhile.
async fn run(fleet: &Fleet, arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = fleet.command(arguments);
    command.envs(env.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let Output { status, stderr, .. } = output;
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// Submits a file of jobs by the command line; returns the batch.
async fn submit(fleet: &Fleet, name: &str, env: &[(&str, &str)]) -> BatchId {
    let lines = (0..JOBS).map(|n| {
        let prompt = if n == RETRIED { "simulate:503,ok" } else { PROMPT };
        let body: serde_json::Value = serde_json::from_slice(&job(&format!("job-{n}"), prompt).body).unwrap();
        json!({"custom_id": format!("job-{n}"), "method": "POST", "url": "/v1/chat/completions", "body": body})
            .to_string()
            + "\n"
    });
    std::fs::write(fleet.dir.path().join("in.jsonl"), lines.collect::<String>()).unwrap();
    let (code, err) = run(fleet, &["submit", "in.jsonl", "--name", name], env).await;
    assert_eq!(code, Some(0), "{err}");
    fleet.store.batch(&BatchSelector::Name(name.to_owned())).await.unwrap().unwrap().id
}

/// Stops all workers cleanly, so that all they have to tell is told; returns how long it took.
async fn stop(fleet: &mut Fleet, workers: &[usize]) -> Duration {
    let started = Instant::now();
    workers.iter().for_each(|worker| fleet.signal(*worker, "TERM"));
    for worker in workers {
        assert!(fleet.ended(*worker).await);
    }
    started.elapsed()
}

/// Returns the spans of a trace by name, each with the earliest first.
fn by_name(spans: &[&Span]) -> BTreeMap<String, Vec<Span>> {
    let mut named: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for span in spans {
        named.entry(span.sent.name.clone()).or_default().push((*span).clone());
    }
    named.values_mut().for_each(|spans| spans.sort_by_key(|span| span.sent.start_time_unix_nano));
    named
}

/// Checks the trace of a job of ours: a root, what the workers did under it, the calls under that.
fn check_trace(spans: &[&Span], row: &ResultRow, calls: usize) {
    let named = by_name(spans);
    let call_name = format!("chat {MODEL}");
    assert_eq!(named.keys().map(String::as_str).collect::<Vec<_>>(), [&*call_name, "run", "submit"]);
    let [submit] = &*named["submit"] else { panic!("one root: {named:?}") };
    assert_eq!((submit.service.as_str(), submit.sent.kind()), ("gristmill", SpanKind::Producer));
    assert_eq!(submit.sent.span_id, SpanId::root(row.job_id).to_bytes());
    assert!(submit.sent.parent_span_id.is_empty());
    let runs = &named["run"];
    assert_eq!((runs.len(), named[&call_name].len()), (calls, calls));
    for (n, (run, call)) in runs.iter().zip(&named[&call_name]).enumerate() {
        let last = n + 1 == calls;
        assert_eq!((run.service.as_str(), run.sent.kind()), ("mill", SpanKind::Consumer));
        assert_eq!(run.sent.parent_span_id, submit.sent.span_id, "what the workers do is done for what was submitted");
        assert_eq!(call.sent.parent_span_id, run.sent.span_id, "a call is made for a run");
        assert_eq!(call.sent.kind(), SpanKind::Client);
        assert!(submit.sent.start_time_unix_nano <= run.sent.start_time_unix_nano, "{submit:?} {run:?}");
        // Times of calls are kept in milliseconds.
        assert!(run.sent.start_time_unix_nano / 1_000_000 <= call.sent.start_time_unix_nano / 1_000_000 + 1);
        assert!(call.sent.end_time_unix_nano <= run.sent.end_time_unix_nano + 2_000_000, "{run:?} {call:?}");
        assert_eq!(run.text("gristmill.status").as_deref(), Some(if last { "succeeded" } else { "waiting" }));
        assert_eq!(call.text("gristmill.attempt"), Some((n + 1).to_string()));
        for span in [run, call] {
            assert_eq!(span.text("gristmill.job"), Some(row.job_id.to_string()));
            assert_eq!(span.text("gristmill.batch"), Some(row.batch_id.to_string()));
        }
        let told =
            ["gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"].map(|name| call.text(name));
        assert_eq!(told, ["chat", "openai", MODEL].map(|text| Some(text.to_owned())));
        assert_eq!((call.is_failed(), run.is_failed()), (!last, false));
        if last {
            let usage = row.result.usage;
            let expected =
                [usage.input_tokens, usage.output_tokens].map(|tokens| tokens.map(|tokens| tokens.to_string()));
            assert_eq!(["input", "output"].map(|kind| call.text(&format!("gen_ai.usage.{kind}_tokens"))), expected);
            assert_eq!(call.text("http.response.status_code").as_deref(), Some("200"));
        } else {
            assert_eq!(call.text("http.response.status_code").as_deref(), Some("503"));
            assert_eq!(call.text("error.type").as_deref(), Some("ServiceUnavailableError"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_has_one_trace_from_its_submission_to_its_result() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let env = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let batch = submit(&fleet, "traced", &env).await;
    let broker = fleet.rabbit.broker().await;
    let mut consumer = broker.consume(MODEL, 1).await.unwrap();
    let message = tokio::time::timeout(fleet::LONG, consumer.next()).await.unwrap().unwrap();
    let first = gristmill_common::envelope::read(&message.payload).unwrap()[0].job.id;
    assert_eq!(message.traceparent, Some(Traceparent::of(first, true)), "the message says where it comes from");
    // It goes back.
    drop((message, consumer));
    broker.shutdown().await;

    let named = [env[0], ("OTEL_SERVICE_NAME", "mill")];
    let workers = [fleet.worker(&[], &named), fleet.worker(&[], &named)];
    let rows = fleet.agrees(batch, JOBS).await;
    stop(&mut fleet, &workers).await;

    let spans = collector.spans();
    let ids: BTreeSet<_> = spans.iter().map(|span| (&span.sent.trace_id, &span.sent.span_id)).collect();
    assert_eq!(ids.len(), spans.len(), "no span twice");
    let mut traces: BTreeMap<&[u8], Vec<&Span>> = BTreeMap::new();
    spans.iter().for_each(|span| traces.entry(&span.sent.trace_id).or_default().push(span));
    assert_eq!(traces.len(), JOBS, "a trace a job, and no other");
    for row in &rows {
        let calls = if row.custom_id == format!("job-{RETRIED}") { 2 } else { 1 };
        check_trace(&traces[&row.job_id.uuid().as_bytes()[..]], row, calls);
    }
    for secret in [KEY, PROMPT, "simulate:", "job-1", rows[0].result.output_text.as_deref().unwrap()] {
        assert!(!collector.has(secret), "{secret} is in a trace");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_program_stays_in_that_ones_trace() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let worker = fleet.worker(&[], &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("{endpoint}/v1/traces"))]);
    let broker = fleet.rabbit.broker().await;
    broker.declare(&[MODEL.to_owned()]).await.unwrap();
    let ids = [FOREIGN, FOREIGN_UNRECORDED].map(|parent| (JobId::from_uuid(uuid::Uuid::now_v7()), parent));
    for (id, parent) in ids {
        let custom_id = format!("foreign-{id}");
        let body: serde_json::Value = serde_json::from_slice(&job(&custom_id, "simulate:503,ok").body).unwrap();
        let request = json!({"custom_id": custom_id, "endpoint": "/v1/chat/completions", "body": body});
        let payload = json!({"v": 1, "group": MODEL, "jobs": [{"id": id, "request": request}]}).to_string().into();
        let lane = LaneKey { group: MODEL.into(), priority: Priority::Standard, lane: 0 };
        let traceparent = Some(parent.parse().unwrap());
        let confirms = broker.publish(vec![Outgoing { lane, payload, traceparent }]).await.unwrap();
        assert_eq!(confirms, [Confirm::Confirmed]);
    }
    let batch = BatchId::adhoc(ids[0].0.part_day());
    let rows = eventually("both are done", async || {
        let rows = fleet::everything(&*fleet.store, batch).await;
        (rows.len() == 2).then_some(rows)
    })
    .await;
    assert!(rows.iter().all(|row| row.result.status == Status::Succeeded && row.result.attempts == 2), "{rows:?}");
    broker.shutdown().await;
    stop(&mut fleet, &[worker]).await;

    let foreign: Traceparent = FOREIGN.parse().unwrap();
    let spans = collector.spans();
    assert!(
        spans.iter().all(|span| span.sent.trace_id == foreign.trace.to_bytes()),
        "what the other program does not record is not recorded here: {spans:?}"
    );
    let named = by_name(&spans.iter().collect::<Vec<_>>());
    let (runs, calls) = (&named["run"], &named[&format!("chat {MODEL}")]);
    assert_eq!((named.len(), runs.len(), calls.len()), (2, 2, 2), "also after the message is gone");
    for (run, call) in runs.iter().zip(calls) {
        assert_eq!(run.sent.parent_span_id, foreign.span.to_bytes());
        assert_eq!(call.sent.parent_span_id, run.sent.span_id);
        assert_eq!(run.text("gristmill.job"), Some(ids[0].0.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_silent_holds_nothing_up() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    // One port that refuses, and one where nobody ever answers.
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (name, address) in [("away", away), ("silent", silent.local_addr().unwrap())] {
        let endpoint = format!("http://{address}");
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", SENDING_MS),
        ];
        let worker = fleet.worker(&[], &env);
        let submitted = Instant::now();
        let batch = submit(&fleet, name, &env).await;
        fleet.agrees(batch, JOBS).await;
        assert!(submitted.elapsed() < Duration::from_secs(60), "{name}: {:?}", submitted.elapsed());
        let stopping = stop(&mut fleet, &[worker]).await;
        assert!(stopping < HELD_UP, "{name}: {stopping:?}");
        assert!(!fleet.logs().contains(&address.to_string()), "the address is in no log");
        if name == "away" {
            assert_eq!(fleet.logs().matches("the collector takes no traces").count(), 1, "{}", fleet.logs());
        }
    }
}
