//! Prints the plan of each hot Postgres statement with five million results behind it, as Markdown.
//!
//! The statements are not copied: the store's own methods run, and the server explains what it ran (`auto_explain`). Run it by
//! `./scripts/explain`, which keeps its output in `docs/explain.md`.
#![expect(clippy::unwrap_used, reason = "a tool for developers: what fails must panic")]
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gristmill_common::clock::{Clock, SystemClock};
use gristmill_common::id::{BatchId, JobId, OwnerId};
use gristmill_common::job::{Job, JobOptions, JobRef, LaneKey, Priority};
use gristmill_common::outcome::{AttemptRecord, CostBasis, JobResult, Status, Usage};
use gristmill_common::store::{Arrival, Chunk, Cursor, End, PostgresStore, Settlement, Store, WorkerInfo};
use gristmill_tests::database::TestDatabase;
use secrecy::ExposeSecret;
use sqlx::Connection as _;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

const BATCHES: i64 = 50;
const JOBS_EACH: i64 = 100_000;

/// Gathers the server's notices.
struct Notices(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Notices {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    let _ = write!(self.0, "{value:?}");
                }
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        if text.0.contains("Query Text:") {
            // The driver hands the text over as a quoted string.
            let text = text.0.trim_matches('"').replace("\\n", "\n").replace("\\\"", "\"");
            self.0.lock().unwrap().push(text);
        }
    }
}

#[tokio::main]
async fn main() {
    let notices = Arc::new(Mutex::new(Vec::new()));
    tracing_subscriber::registry().with(Notices(Arc::clone(&notices))).init();
    let database = TestDatabase::create().await;
    let batch = fill(&database).await;
    let mut url = url::Url::parse(database.url().expose_secret()).unwrap();
    let options = "-c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 \
                   -c auto_explain.log_level=notice -c auto_explain.log_analyze=on -c auto_explain.log_buffers=on \
                   -c auto_explain.log_nested_statements=off";
    url.query_pairs_mut().append_pair("options", options);
    let store = PostgresStore::connect(&url.to_string().into(), "explain").await.unwrap();
    exercise(&store, batch).await;
    drop(store);
    print(&notices.lock().unwrap());
}

/// Writes 50 batches of 100,000 ended jobs, and 100,000 live rows.
async fn fill(database: &TestDatabase) -> BatchId {
    let mut connection = database.connect().await;
    let day = SystemClock.now().date_naive();
    let base = day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
    let mut last = BatchId::new(SystemClock.now());
    for n in 0..BATCHES {
        let batch = BatchId::new(chrono::DateTime::from_timestamp_millis(base + n * 60_000).unwrap());
        last = batch;
        let sql = "
            INSERT INTO gristmill.batch (batch_id, name, priority, day_from, day_to, recorded, published_through, total,
                                         succeeded, created_at, finished_at)
            VALUES ($1, 'b' || $2, 'bulk', $3, $3, $4, $4, $4, $4, now(), now())";
        sqlx::query(sql).bind(batch.uuid()).bind(n).bind(day).bind(JOBS_EACH).execute(&mut connection).await.unwrap();
        let ids: Vec<uuid::Uuid> =
            (0..u32::try_from(JOBS_EACH).unwrap()).map(|ordinal| JobId::derive(batch, ordinal).uuid()).collect();
        for statement in [
            "INSERT INTO gristmill.job (batch_id, job_id, part_day, custom_id, endpoint, model_group, priority, lane, body,
                                        identity)
             SELECT $1, id, $2, 'line-' || n, '/v1/chat/completions', 'gpt-4o', 'bulk', 0, '{\"model\":\"gpt-4o\"}', id
             FROM UNNEST($3::uuid[]) WITH ORDINALITY AS t (id, n)",
            "INSERT INTO gristmill.result (job_id, run, part_day, batch_id, status, model_group, attempts, finished_at,
                                           output_text, response)
             SELECT id, 1, $2, $1, 'succeeded', 'gpt-4o', 1, now(), 'text', '{\"id\":1}' FROM UNNEST($3::uuid[]) AS t (id)",
        ] {
            sqlx::query(statement).bind(batch.uuid()).bind(day).bind(&ids).execute(&mut connection).await.unwrap();
        }
    }
    let live = "
        INSERT INTO gristmill.live (job_id, batch_id, model_group, priority, lane, state, wake_at)
        SELECT gen_random_uuid(), $1, 'gpt-4o', 'bulk', 0, 1, now() + n * interval '1 second'
        FROM generate_series(1, 100000) AS n";
    sqlx::query(live).bind(last.uuid()).execute(&mut connection).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    last
}

async fn exercise(store: &PostgresStore, full: BatchId) {
    let now = SystemClock.now();
    let owner = OwnerId::new(now);
    let info = WorkerInfo {
        owner,
        host: "explain".into(),
        pid: 1,
        version: "0".into(),
        groups: vec!["gpt-4o".into()],
        concurrency: 1,
    };
    let ttl = Duration::from_secs(60);
    store.register(&info, ttl).await.unwrap();
    let lane = LaneKey { group: "gpt-4o".into(), priority: Priority::Bulk, lane: 0 };
    let new = gristmill_common::batch::NewBatch {
        id: BatchId::new(now),
        name: "explained".into(),
        project: None,
        priority: Priority::Bulk,
        simulated: false,
        metadata: None,
        tags: BTreeMap::new(),
        budget_pico_usd: None,
        producer: owner,
        created_at: now,
    };
    store.open_batch(&new, ttl).await.unwrap();
    let jobs: Vec<Job> = (0..500)
        .map(|ordinal| Job {
            id: JobId::derive(new.id, ordinal),
            batch: new.id,
            custom_id: format!("line-{ordinal}"),
            endpoint: "/v1/chat/completions".into(),
            lane: lane.clone(),
            body: "{}".into(),
            options: JobOptions::default(),
        })
        .collect();
    // COPY has no plan; what is written twice is looked for first.
    for _ in 0..2 {
        let chunk = Chunk {
            batch: new.id,
            producer: owner,
            producer_ttl: ttl,
            jobs: &jobs,
            first_ordinal: 0,
            published_through: 0,
            simulated: false,
        };
        store.record(chunk).await.unwrap();
    }
    let refs: Vec<JobRef> =
        jobs.iter().map(|job| JobRef { id: job.id, batch: new.id, run: 1, lane: lane.clone() }).collect();
    let arrivals = refs.iter().map(|job| Arrival { job: job.clone(), request: None, recorded: true }).collect();
    store.admit(owner, arrivals).await.unwrap();
    store.renew(owner, ttl, 1, &[]).await.unwrap();
    let twice = refs.iter().chain(&refs[..1]);
    let settlements: Vec<Settlement> = twice.map(|job| settlement(job, now)).collect();
    store.flush(owner, &settlements).await.unwrap();
    store.seal(new.id, owner).await.unwrap();
    let first = store.results_after(full, Cursor::default(), 1000).await.unwrap();
    store.results_after(full, first.cursor, 1000).await.unwrap();
    let due = store.due(1000).await.unwrap();
    store.mark_queued(&due).await.unwrap();
    store.unpublished(1000).await.unwrap();
    store.keep(owner, ttl).await.unwrap();
    let gone = OwnerId::new(now);
    store.register(&WorkerInfo { owner: gone, ..info }, ttl).await.unwrap();
    store.deregister(gone).await.unwrap();
    store.bury(3, 1000).await.unwrap();
    store.close_cancelled(1000).await.unwrap();
    store.close_expired(1000).await.unwrap();
    let ended: Vec<JobId> =
        store.identities(full, None, 1000).await.unwrap().into_iter().map(|(job, _)| job).take(500).collect();
    assert_eq!(store.retry_jobs(full, &[Status::Succeeded], &ended).await.unwrap(), 500);
}

fn settlement(job: &JobRef, now: chrono::DateTime<chrono::Utc>) -> Settlement {
    let attempt = AttemptRecord {
        attempt: 1,
        provider: "openai".into(),
        deployment: "gpt-4o".into(),
        model: "gpt-4o".into(),
        served_model: None,
        service_tier: None,
        started_at: now,
        ttft_ms: Some(1),
        latency_ms: 1,
        http_status: Some(200),
        counted: true,
        usage: Usage::default(),
        cost_pico_usd: None,
        cost_basis: CostBasis::Unknown,
        price_ref: None,
        request_id: None,
        error: None,
    };
    let error = gristmill_common::failure::ErrorRecord::new(gristmill_common::failure::ErrorClass::Api, "none");
    let result = JobResult { error: None, ..JobResult::without_answer(Status::Succeeded, error, 1, now) };
    Settlement { job: job.clone(), attempts: vec![attempt], end: End::Result(Box::new(result)) }
}

fn print(notices: &[String]) {
    println!("# Plans of the hot statements\n");
    println!(
        "Printed by `./scripts/explain`: {BATCHES} batches of {JOBS_EACH} jobs, as many results, 100,000 live rows. Times include \
         the instrumentation; a first run of a statement includes planning and cold pages. Requests, results and attempts go in by \
         COPY, which has no plan.\n"
    );
    for notice in notices {
        let Some((_, statement)) = notice.split_once("Query Text: ") else { continue };
        let Some(name) = statement.lines().next().and_then(|line| line.strip_prefix("-- ")) else { continue };
        let plan = statement.lines().skip_while(|line| !line.contains("(cost=")).collect::<Vec<_>>().join("\n");
        let time = notice.lines().next().unwrap_or_default();
        println!("## {name}\n\n{time}\n\n```\n{plan}\n```\n");
    }
}
