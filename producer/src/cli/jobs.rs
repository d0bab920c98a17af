//! `list --jobs`: the jobs of a batch with how they stand.

use gristmill_common::backend::Backend;
use gristmill_common::outcome::Status;
use gristmill_common::store::JobLine;
use gristmill_producer::Producer;

use super::Global;
use super::fault::{Exit, Fault};
use super::table::columns;
use super::ui;

/// Characters of an error's message that are shown.
const EXCERPT: usize = 80;

/// Lists at most `limit` jobs, those that failed or expired if `failed`.
pub(super) async fn list(
    global: &Global,
    backend: &Backend,
    batch: &str,
    failed: bool,
    limit: u32,
) -> Result<Exit, Fault> {
    let batch = Producer::on(backend).batch(&Producer::selector(batch)).await?;
    let statuses: Option<&[Status]> = failed.then_some(&[Status::Failed, Status::Expired]);
    let mut jobs = backend.store.jobs(batch.id, statuses, None, limit.saturating_add(1)).await?;
    let more = jobs.len() > limit as usize;
    jobs.truncate(limit as usize);
    if global.json {
        let lines: Vec<_> = jobs.iter().map(machine).collect();
        ui::json(&serde_json::json!({ "batch": batch.name, "id": batch.id, "jobs": lines, "more": more }))?;
        return Ok(Exit::Success);
    }
    if jobs.is_empty() {
        ui::line(&format!("{}: no {}jobs", batch.name, if failed { "failed " } else { "" }))?;
        return Ok(Exit::Success);
    }
    let heading = ["CUSTOM_ID", "STATE", "CALLS", "CLASS", "MESSAGE"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(heading).chain(jobs.iter().map(row)).collect();
    ui::out(columns(&rows).as_bytes())?;
    if !global.quiet {
        if more {
            ui::tell(&format!("more: add --limit {}", limit.saturating_mul(10)));
        }
        ui::tell(&format!("all of one: gristmill show '{}/{}'", batch.name, jobs[0].custom_id));
    }
    Ok(Exit::Success)
}

fn row(job: &JobLine) -> Vec<String> {
    let message = job.message.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let message = match message.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    };
    let state =
        if job.run > 1 { format!("{}, run {}", job.place.as_str(), job.run) } else { job.place.as_str().to_owned() };
    let class = job.class.clone().unwrap_or_default();
    vec![job.custom_id.clone(), state, job.attempts.to_string(), class, message]
}

fn machine(job: &JobLine) -> serde_json::Value {
    serde_json::json!({
        "job_id": job.id, "custom_id": job.custom_id, "model": job.model, "state": job.place.as_str(), "run": job.run,
        "attempts": job.attempts, "class": job.class, "message": job.message,
    })
}
