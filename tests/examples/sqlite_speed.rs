//! Measures the SQLite store and the embedded broker: jobs a second for each step and for all of them one after the other.
//!
//! `cargo run --release -p gristmill-tests --example sqlite_speed [JOBS] [FOLDER]`
#![expect(clippy::print_stdout, reason = "a program that prints what it measured")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use gristmill_common::batch::NewBatch;
use gristmill_common::broker::{Broker, EmbeddedBroker, Outgoing};
use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::envelope;
use gristmill_common::id::{BatchId, JobId, OwnerId};
use gristmill_common::job::{Job, JobOptions, JobRef, LaneKey, Priority};
use gristmill_common::outcome::{AttemptRecord, CostBasis, JobResult, Status, Usage};
use gristmill_common::store::{Chunk, Cursor, End, Settlement, SqliteStore, Store, Verdict, WorkerInfo};

const LONG: Duration = Duration::from_secs(3600);
/// Jobs in one transaction of the store.
const GROUP: usize = 500;
/// Jobs in one message.
const MESSAGE: usize = 10;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count: u32 = arguments.next().map_or(Ok(50_000), |text| text.parse()).context("reading the number of jobs")?;
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    for whole in [false, true] {
        let folder = tempfile::tempdir_in(&folder).context("making a folder for the database")?;
        measure(&folder.path().join("speed.db"), count, whole).await?;
    }
    Ok(())
}

/// Runs all jobs once; their messages refer to the requests, or carry the whole of them.
async fn measure(path: &std::path::Path, count: u32, whole: bool) -> anyhow::Result<()> {
    let store = SqliteStore::open(path, Arc::new(SystemClock)).await?;
    let broker = EmbeddedBroker::new(&store);
    let (batch, producer, worker) = (BatchId::new(SystemClock.now()), owner(), owner());
    let lane = LaneKey { group: "gpt-4o".into(), priority: Priority::Bulk, lane: 1 };
    let jobs: Vec<Job> = (0..count).map(|ordinal| job(batch, ordinal, &lane)).collect();
    println!("{count} jobs, messages {}", if whole { "with requests" } else { "that refer to requests" });
    let mut total = Duration::ZERO;
    let mut tell = |step: &str, started: Instant| {
        let took = started.elapsed();
        total += took;
        println!("{step:>8} {:>9.0} jobs/s", f64::from(count) / took.as_secs_f64());
        total
    };

    store.open_batch(&new_batch(batch, producer), LONG).await?;
    let started = Instant::now();
    for (index, jobs) in jobs.chunks(GROUP).enumerate() {
        let first_ordinal = (index * GROUP) as u64;
        let chunk = Chunk {
            batch,
            producer,
            producer_ttl: LONG,
            jobs,
            first_ordinal,
            published_through: first_ordinal,
            simulated: true,
        };
        store.record(chunk).await?;
    }
    tell("record", started);

    let started = Instant::now();
    for jobs in jobs.chunks(GROUP) {
        let message = |jobs: &[Job]| {
            let references: Vec<JobRef> =
                jobs.iter().map(|job| JobRef { id: job.id, batch, run: 1, lane: lane.clone() }).collect();
            let payload = if whole { envelope::write(jobs) } else { envelope::write_references(&references) };
            payload.map(|payload| Outgoing { lane: lane.clone(), payload, traceparent: None })
        };
        broker.publish(jobs.chunks(MESSAGE).map(message).collect::<Result<_, _>>()?).await?;
    }
    store.seal(batch, producer).await?;
    tell("publish", started);

    let info = WorkerInfo {
        owner: worker,
        host: "here".to_owned(),
        pid: std::process::id(),
        version: "0".to_owned(),
        groups: vec!["gpt-4o".to_owned()],
        concurrency: 1,
    };
    store.register(&info, LONG).await?;
    let mut consumer = broker.consume("gpt-4o", 200).await?;
    let (mut admitting, mut flushing) = (Duration::ZERO, Duration::ZERO);
    let started = Instant::now();
    let mut done = 0;
    while done < count as usize {
        let mut deliveries = Vec::new();
        while deliveries.len() * MESSAGE < GROUP.min(count as usize - done) {
            deliveries.push(consumer.next().await.context("the broker was shut down")?);
        }
        let mut arrivals = Vec::with_capacity(GROUP);
        for delivery in &deliveries {
            arrivals.extend(envelope::read(&delivery.payload)?);
        }
        let before = Instant::now();
        let verdicts = store.admit(worker, arrivals).await?;
        admitting += before.elapsed();
        deliveries.into_iter().for_each(|delivery| delivery.settle.ack());
        let mut settlements = Vec::with_capacity(verdicts.len());
        for verdict in verdicts {
            let Verdict::Run(ticket) = verdict else { anyhow::bail!("not admitted: {verdict:?}") };
            settlements.push(Settlement {
                job: ticket.job,
                tags: Arc::default(),
                spends: None,
                attempts: vec![attempt()],
                caching: None,
                end: End::Result(Box::new(result())),
            });
        }
        let before = Instant::now();
        let flushed = store.flush(worker, &settlements).await?;
        flushing += before.elapsed();
        ensure!(flushed.results == settlements.len() as u64, "{flushed:?}");
        done += settlements.len();
    }
    let whole_way = tell("work", started);
    for (step, took) in [("admit", admitting), ("flush", flushing), ("all", whole_way)] {
        println!("{step:>8} {:>9.0} jobs/s", f64::from(count) / took.as_secs_f64());
    }

    let started = Instant::now();
    let mut cursor = Cursor::default();
    loop {
        let page = store.results_after(batch, cursor, 1000).await?;
        cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    tell("read", started);
    broker.shutdown().await;
    Ok(())
}

fn owner() -> OwnerId {
    OwnerId::new(SystemClock.now())
}

fn new_batch(id: BatchId, producer: OwnerId) -> NewBatch {
    NewBatch {
        id,
        name: "speed".to_owned(),
        project: None,
        priority: Priority::Bulk,
        simulated: true,
        metadata: None,
        tags: std::collections::BTreeMap::new(),
        budget_pico_usd: None,
        producer,
        created_at: SystemClock.now(),
    }
}

fn job(batch: BatchId, ordinal: u32, lane: &LaneKey) -> Job {
    let prompt = "x".repeat(1300);
    Job {
        id: JobId::derive(batch, ordinal),
        batch,
        custom_id: format!("line-{ordinal}"),
        endpoint: "/v1/chat/completions".to_owned(),
        lane: lane.clone(),
        body: Bytes::from(format!(
            r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{ordinal} {prompt}"}}]}}"#
        )),
        options: JobOptions::default(),
    }
}

fn attempt() -> AttemptRecord {
    AttemptRecord {
        attempt: 1,
        provider: "openai".into(),
        deployment: "gpt-4o-eu".into(),
        model: "gpt-4o-2024-11-20".into(),
        served_model: Some("gpt-4o-2024-11-20".to_owned()),
        service_tier: None,
        started_at: SystemClock.now(),
        ttft_ms: Some(200),
        latency_ms: 210,
        http_status: Some(200),
        counted: true,
        usage: Usage { input_tokens: Some(300), output_tokens: Some(60), ..Usage::default() },
        cost_pico_usd: Some(1_350_000_000),
        cost_basis: CostBasis::Reported,
        bound_pico_usd: None,
        price_ref: Some("gpt-4o@0123abcd".into()),
        billed: None,
        request_id: Some("req_0123456789abcdef".to_owned()),
        error: None,
    }
}

fn result() -> JobResult {
    let text = "y".repeat(250);
    JobResult {
        status: Status::Succeeded,
        provider: Some("openai".into()),
        deployment: Some("gpt-4o-eu".into()),
        served_model: Some("gpt-4o-2024-11-20".to_owned()),
        finish_reason: Some("stop".to_owned()),
        response: Some(Bytes::from(format!(
            r#"{{"id":"chatcmpl-0123456789","object":"chat.completion","created":1795392000,"model":"gpt-4o-2024-11-20","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":300,"completion_tokens":60,"total_tokens":360}}}}"#
        ))),
        output_text: Some(text),
        usage: Usage { input_tokens: Some(300), output_tokens: Some(60), ..Usage::default() },
        cost_pico_usd: Some(1_350_000_000),
        cached: false,
        saved_pico_usd: None,
        attempts: 1,
        queued_at: Some(SystemClock.now()),
        started_at: Some(SystemClock.now()),
        finished_at: SystemClock.now(),
        ttft_ms: Some(200),
        latency_ms: Some(210),
        request_id: Some("req_0123456789abcdef".to_owned()),
        error: None,
    }
}
