//! `show`: all that is known of one job.

use chrono::{DateTime, Utc};
use gristmill_common::backend::{Backend, Need};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::JobOptions;
use gristmill_common::outcome::{AttemptRecord, ResultRow, Status};
use gristmill_common::store::{JobDetail, JobSelector, LiveRow, STRIPPED_BODY};
use gristmill_producer::Producer;
use gristmill_producer::output::usd;
use serde_json::{Map, Value, json};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::plot::Canvas;
use super::table::{columns, plural, soon};
use super::timeline::timeline;
use super::ui;

/// Jobs that are named where more than one fits.
const SEVERAL: u32 = 5;

const EXAMPLES: &str = "\
Examples:
  gristmill show sweep-7/line-17        by batch and custom_id
  gristmill show @last/line-17 --json
  gristmill show 01a20748-397e-7000-8000-012cb9d08c84
  gristmill list --jobs --failed sweep-7    finds the ones to look at";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "these comments are the help text")]
pub(super) struct Args {
    /// The job: BATCH/CUSTOM_ID, its id, or the beginning of its id
    #[arg(value_name = "JOB")]
    job: String,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    let (batch, id) = find(&backend, &args.job).await?;
    let Some(detail) = backend.store.job(batch, id).await? else {
        return Err(Fault::new(format!("job {id} has a result and no recorded request"))
            .hint(format!("`gristmill results {batch}` shows its result")));
    };
    if global.json {
        ui::json(&machine(&detail))?;
    } else {
        ui::out(describe(&detail, SystemClock.now(), Canvas::of_stdout()).as_bytes())?;
    }
    Ok(Exit::Success)
}

/// Finds the one job that is meant.
async fn find(backend: &Backend, text: &str) -> Result<(BatchId, JobId), Fault> {
    let store = &backend.store;
    // The name of a batch may hold a slash, and so may a custom_id: the first one that names a batch counts.
    let mut unknown = None;
    for (position, _) in text.match_indices('/') {
        let (batch, custom_id) = (&text[..position], &text[position + 1..]);
        match Producer::on(backend).batch(&Producer::selector(batch)).await {
            Ok(batch) => {
                let selector = JobSelector::CustomId(batch.id, custom_id.to_owned());
                // The line may have been changed: the latest is meant.
                let found = store.find_jobs(&selector, 1).await?.pop();
                return found.ok_or_else(|| {
                    Fault::new(format!("batch `{}` has no job `{custom_id}`", batch.name))
                        .hint(format!("`gristmill list --jobs {}` shows its jobs", batch.name))
                });
            }
            Err(error) => unknown = unknown.or(Some(error)),
        }
    }
    if let Some(error) = unknown {
        return Err(error.into());
    }
    let selector = JobSelector::from_prefix(text).map_err(|_| {
        Fault::new(format!("`{text}` names no job"))
            .hint("name it by BATCH/CUSTOM_ID, by its id, or by at least four digits of its beginning")
    })?;
    let mut found = store.find_jobs(&selector, SEVERAL).await?;
    match (found.pop(), found.as_slice()) {
        (Some(only), []) => Ok(only),
        (None, _) => Err(Fault::new(format!("there is no job {text}")).hint("`gristmill list --jobs` shows jobs")),
        (Some(_), _) => Err(Fault::new(format!("more than one job's id begins with {text}; give more digits"))),
    }
}

fn describe(detail: &JobDetail, now: DateTime<Utc>, canvas: Canvas) -> String {
    let job = &detail.job;
    let holds = detail.live.as_ref().map(|live| (now, format!("run {}: {}", live.run, holder(live, now))));
    let mut rows = vec![
        vec!["job".to_owned(), format!("{}/{} ({})", detail.batch, job.custom_id, job.id)],
        vec!["state".to_owned(), state(detail, now)],
        vec!["model".to_owned(), format!("{}, priority {}", job.lane.group, job.lane.priority)],
    ];
    if let Some(options) = options(&job.options) {
        rows.push(vec!["options".to_owned(), options]);
    }
    let mut text = columns(&rows);
    let is_pruned = job.body == STRIPPED_BODY;
    let body = if is_pruned { "(its body was pruned)".to_owned() } else { pretty(&job.body) };
    text.push_str(&format!("\nrequest: POST {}\n{}", job.endpoint, indented(&body)));
    text.push_str(&format!("\ntimeline:\n{}", timeline(detail, holds, canvas)));
    if let Some(row) = detail.runs.last() {
        text.push_str(&end(row));
    }
    text
}

/// Says in short where the job is.
fn state(detail: &JobDetail, now: DateTime<Utc>) -> String {
    match (&detail.live, detail.runs.last()) {
        (Some(live), _) => format!("{}, run {}", holder(live, now), live.run),
        (None, Some(row)) => {
            let simulated = if row.simulated { ", simulated" } else { "" };
            let calls = plural(u64::from(row.result.attempts), "call");
            format!("{}, run {}, {calls}{simulated}", row.result.status, row.run)
        }
        (None, None) => "queued, no worker has taken it yet".to_owned(),
    }
}

fn holder(live: &LiveRow, now: DateTime<Utc>) -> String {
    let reason = live.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    match (live.owner, live.wake_at) {
        (Some(owner), _) => format!("held by worker {owner}"),
        (None, Some(wake_at)) => format!("waits{reason}, due {}", soon(wake_at, now)),
        (None, None) => format!("queued again{reason}"),
    }
}

/// Writes the options that differ from the defaults.
fn options(options: &JobOptions) -> Option<String> {
    let Ok(Value::Object(fields)) = serde_json::to_value(options.shown()) else { return None };
    let Ok(Value::Object(defaults)) = serde_json::to_value(JobOptions::default()) else { return None };
    let set = fields.into_iter().filter(|(name, value)| defaults.get(name) != Some(value)).collect::<Map<_, _>>();
    (!set.is_empty()).then(|| Value::Object(set).to_string())
}

/// Writes how the latest ended run ended: its answer, or the error whole.
fn end(row: &ResultRow) -> String {
    let result = &row.result;
    if let Some(error) = &result.error {
        let error = serde_json::to_string_pretty(error).unwrap_or_else(|_| error.to_string());
        return format!("\nerror of run {}:\n{}", row.run, indented(&error));
    }
    match (&result.output_text, &result.response) {
        (Some(text), _) => format!("\nanswer of run {}:\n{}", row.run, indented(text)),
        (None, Some(response)) => format!("\nresponse of run {}:\n{}", row.run, indented(&pretty(response))),
        (None, None) if result.status == Status::Succeeded => format!("\nanswer of run {}:\n  (pruned)\n", row.run),
        (None, None) => String::new(),
    }
}

fn pretty(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    match serde_json::from_str::<Value>(&text).and_then(|value| serde_json::to_string_pretty(&value)) {
        Ok(pretty) => pretty,
        Err(_) => text.into_owned(),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Makes the JSON of a job; request and responses are values in it, not text.
fn machine(detail: &JobDetail) -> Value {
    let job = &detail.job;
    json!({
        "job_id": job.id, "custom_id": job.custom_id, "batch_id": job.batch, "batch": detail.batch,
        "model": &*job.lane.group, "priority": job.lane.priority, "recorded_at": detail.created_at,
        "request": { "endpoint": job.endpoint, "options": job.options.shown(), "body": value(&job.body) },
        "live": detail.live.as_ref().map(|live| json!({
            "run": live.run, "worker": live.owner, "wake_at": live.wake_at, "reason": live.reason, "calls": live.calls,
            "deaths": live.deaths, "queued_at": live.queued_at,
        })),
        "attempts": detail.attempts.iter().map(|call| attempt(call, detail)).collect::<Vec<_>>(),
        "lost": detail.lost.iter().map(|lost| json!({
            "run": lost.run, "attempt": lost.attempt, "worker": lost.owner, "died_at": lost.died_at,
            "bound_usd": lost.bound_pico_usd.map(usd), "bound_pico_usd": lost.bound_pico_usd,
        })).collect::<Vec<_>>(),
        "runs": detail.runs.iter().map(|row| json!({
            "run": row.run, "status": row.result.status, "attempts": row.result.attempts,
            "finish_reason": row.result.finish_reason, "queued_at": row.result.queued_at,
            "started_at": row.result.started_at, "finished_at": row.result.finished_at,
            "cost_usd": row.result.cost_pico_usd.map(usd), "cost_pico_usd": row.result.cost_pico_usd,
            "unseen_bound_pico_usd": bound(detail, row.run), "cached": row.result.cached,
            "saved_usd": row.result.saved_pico_usd.map(usd), "saved_pico_usd": row.result.saved_pico_usd,
            "usage": row.result.usage,
            "response": row.result.response.as_deref().map(value), "error": row.result.error,
        })).collect::<Vec<_>>(),
    })
}

/// Sums up the most that calls of a run may have cost whose outcome nobody saw.
fn bound(detail: &JobDetail, of: u32) -> Option<i64> {
    let bounds = detail.attempts.iter().filter(|(run, _)| *run == of).filter_map(|(_, attempt)| attempt.bound_pico_usd);
    bounds.reduce(i64::saturating_add)
}

fn attempt((run, attempt): &(u32, AttemptRecord), detail: &JobDetail) -> Value {
    json!({
        "run": run, "attempt": attempt.attempt, "provider": &*attempt.provider, "deployment": &*attempt.deployment,
        "model": &*attempt.model, "served_model": attempt.served_model, "service_tier": attempt.service_tier,
        "started_at": attempt.started_at, "offset_ms": (attempt.started_at - detail.created_at).num_milliseconds(),
        "ttft_ms": attempt.ttft_ms, "latency_ms": attempt.latency_ms,
        "http_status": attempt.http_status, "counted": attempt.counted, "usage": attempt.usage,
        "cost_usd": attempt.cost_pico_usd.map(usd), "cost_pico_usd": attempt.cost_pico_usd, "cost_basis": attempt.cost_basis,
        "price": attempt.price_ref.as_deref(), "bound_usd": attempt.bound_pico_usd.map(usd),
        "bound_pico_usd": attempt.bound_pico_usd, "billed": attempt.billed.as_deref().map(|text| value(text.as_bytes())),
        "request_id": attempt.request_id, "error": attempt.error,
    })
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_else(|_| String::from_utf8_lossy(json).into())
}
