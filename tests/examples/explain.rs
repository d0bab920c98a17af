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
use gristmill_common::store::{
    Arrival, Books as _, Chunk, Cursor, End, HistoryScope, PostgresStore, Settlement, Store, UsageScope, WorkerInfo,
};
use gristmill_common::tally::By;
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
    head();
    println!("What people ask, from the call of the store to its answer:\n");
    ask(&store, batch).await;
    println!();
    exercise(&store, batch).await;
    drop(store);
    print(&notices.lock().unwrap());
}

/// Writes 50 batches of 100,000 ended jobs, every fifth with its calls, the sums of all, and 100,000 live rows.
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
                                         succeeded, failed, created_at, finished_at)
            VALUES ($1, 'b' || $2, 'bulk', $3, $3, $4, $4, $4, $4 - $4 / 1000, $4 / 1000, now(), now())";
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
             SELECT id, 1, $2, $1, CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'succeeded' END, 'gpt-4o', 1, now(), 'text',
                    '{\"id\":1}'
             FROM UNNEST($3::uuid[]) WITH ORDINALITY AS t (id, n)",
            "INSERT INTO gristmill.attempt (job_id, run, attempt, owner, part_day, batch_id, model_group, provider, deployment, model,
                                            started_at, latency_ms, counted, input_tokens, output_tokens, cost_usd, cost_basis,
                                            price_ref)
             SELECT id, 1, 1, id, $2, $1, 'gpt-4o', 'openai', 'gpt-4o', 'gpt-4o', now(), 900, true, 1000, 100, 0.0035, 'reported',
                    'gpt-4o@0'
             FROM UNNEST($3::uuid[]) AS t (id) WHERE hashtext($1::uuid::text) % 5 = 0",
        ] {
            sqlx::query(statement).bind(batch.uuid()).bind(day).bind(&ids).execute(&mut connection).await.unwrap();
        }
    }
    fill_tally(&mut connection).await;
    let live = "
        INSERT INTO gristmill.live (job_id, batch_id, model_group, priority, lane, state, wake_at)
        SELECT gen_random_uuid(), $1, 'gpt-4o', 'bulk', 0, 1, now() + n * interval '1 second'
        FROM generate_series(1, 100000) AS n";
    sqlx::query(live).bind(last.uuid()).execute(&mut connection).await.unwrap();
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    last
}

/// Writes the sums that flushes of these results leave: by the hour for a week, by the minute for two days, by ten seconds for an hour,
/// and a minute of what is not added up yet; of twenty deployments and tags, with histograms of a hundred buckets.
async fn fill_tally(connection: &mut sqlx::PgConnection) {
    let sql = "
        INSERT INTO gristmill.tally (
            at, span, batch_id, model_group, provider, deployment, model, error_class, tags, calls, repeated, uncounted, unpriced,
            unseen, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd, bound_usd,
            succeeded, failed, cancelled, expired, cached, saved_usd, latency, ttft, queue)
        SELECT now() - n * make_interval(secs => $1), $2, b.batch_id, 'gpt-4o', 'openai', 'd-' || d, 'gpt-4o', '',
               '{\"team\":\"t' || d || '\"}', 100, 1, 1, 0, 0, 100000, 1000, 0, 10000, 0, 0.35, 0, 100, 0, 0, 0, 0, 0, h.t, h.t, h.t
        FROM gristmill.batch b, generate_series(1, $3::integer) AS n, generate_series(1, $4::integer) AS d,
             (SELECT string_agg(k || ':1', ' ' ORDER BY k) AS t FROM generate_series(60, 160) AS k) AS h
        WHERE (hashtext(b.batch_id::text) + n) % $5 = 0";
    // The batches take turns, each step of time has a few of them.
    for (step_s, span_s, steps, deployments, of) in
        [(3_600, 3_600, 168, 20, 10), (60, 60, 2_880, 4, 25), (10, 10, 360, 4, 10), (1, 1, 60, 4, 1)]
    {
        let query = sqlx::query(sql).bind(f64::from(step_s)).bind(span_s).bind(steps).bind(deployments).bind(of);
        query.execute(&mut *connection).await.unwrap();
    }
}

/// Asks what people ask: costs, statistics, history.
async fn ask(store: &PostgresStore, batch: BatchId) {
    let by = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect::<Vec<By>>();
    let everything = UsageScope::default();
    let costs = UsageScope { without_durations: true, ..UsageScope::default() };
    let of_batch = UsageScope { batch: Some(batch), ..costs.clone() };
    let last_hour = UsageScope { since: Some(SystemClock.now() - Duration::from_secs(3_600)), ..UsageScope::default() };
    let stats = [by(&["model", "error"]), vec![By::Seconds(10)]].concat();
    for (what, scope, by) in [
        ("costs --by model", &costs, by(&["model"])),
        ("costs --by tag:team,day", &costs, by(&["tag:team", "day"])),
        ("costs BATCH --by deployment", &of_batch, by(&["deployment"])),
        ("stats", &everything, stats.clone()),
        ("stats --since 1h", &last_hour, stats),
    ] {
        timed(what, store.usage(scope, &by)).await;
    }
    let all = HistoryScope::default();
    for (what, scope) in [
        ("history", all.clone()),
        ("history --failed", HistoryScope { failed: true, ..all.clone() }),
        ("history --model gpt-4o", HistoryScope { model: Some("gpt-4o".to_owned()), ..all.clone() }),
        ("history --batch BATCH", HistoryScope { batch: Some(batch), ..all }),
    ] {
        timed(what, store.history(&scope, 10)).await;
    }
    timed("show JOB", store.job(batch, JobId::derive(batch, 77))).await;
    timed("costs recompute, a page", store.costed_calls(None, None, 1_000)).await;
}

/// Says how long the store takes, plans included.
async fn timed<T>(what: &str, asked: impl Future<Output = gristmill_common::store::Result<T>>) {
    let begin = std::time::Instant::now();
    asked.await.unwrap();
    println!("- `{what}`: {} ms", begin.elapsed().as_millis());
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
        bound_pico_usd: None,
        price_ref: None,
        billed: None,
        request_id: None,
        error: None,
    };
    let error = gristmill_common::failure::ErrorRecord::new(gristmill_common::failure::ErrorClass::Api, "none");
    let result = JobResult { error: None, ..JobResult::without_answer(Status::Succeeded, error, 1, now) };
    Settlement {
        job: job.clone(),
        tags: Arc::default(),
        spends: None,
        attempts: vec![attempt],
        caching: None,
        end: End::Result(Box::new(result)),
    }
}

fn head() {
    println!("# Plans of the hot statements\n");
    println!(
        "Printed by `./scripts/explain`: {BATCHES} batches of {JOBS_EACH} jobs, as many results, 100,000 live rows. Times include \
         the instrumentation; a first run of a statement includes planning and cold pages. Requests, results and attempts go in by \
         COPY, which has no plan.\n"
    );
}

fn print(notices: &[String]) {
    for notice in notices {
        let Some((_, statement)) = notice.split_once("Query Text: ") else { continue };
        let Some(name) = statement.lines().next().and_then(|line| line.strip_prefix("-- ")) else { continue };
        let plan = statement.lines().skip_while(|line| !line.contains("(cost=")).collect::<Vec<_>>().join("\n");
        let time = notice.lines().next().unwrap_or_default();
        println!("## {name}\n\n{time}\n\n```\n{plan}\n```\n");
    }
}
