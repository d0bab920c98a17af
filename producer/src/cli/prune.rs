//! `prune`: deletes ended batches that are old or of a project, or empties their bodies, in bounded steps.

use std::io::IsTerminal as _;

use chrono::{DateTime, TimeDelta, Utc};
use gristmill_common::backend::{Backend, Need};
use gristmill_common::batch::Batch;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::store::{DroppedPartition, Forgotten};

use super::Global;
use super::backends;
use super::consent;
use super::fault::{Exit, Fault};
use super::stop::Stop;
use super::table::{ago, columns, count, plural};
use super::ui;
use super::when::When;

/// Requests that one transaction deletes.
const CHUNK: u32 = 1_000;
/// Batches that one read looks at.
const PAGE: u32 = 500;

const EXAMPLES: &str = "\
Examples:
  gristmill prune --older-than 30d --dry-run           what would go
  gristmill prune --older-than 30d                     asks first
  gristmill prune --older-than 30d --yes               from cron
  gristmill prune --older-than 7d --bodies-only --yes  keeps the rows, empties requests and answers
  gristmill prune --project acme                       all that is kept of a project

Requests, results and attempts of a batch go together, and with the last of them the batch. The response cache asks again what
they had answered. What batches cost stays in the sums of their projects; --project deletes these, too.
With --bodies-only the request, the answer, its text and the bodies of errors go; names, tags, metadata, tokens, costs,
times and the messages of errors stay. The jobs cannot run again.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Delete batches that ended longer ago than this: 30d, 12h, or a number of days
    #[arg(long, value_name = "TIME", required_unless_present = "project", value_parser = age)]
    older_than: Option<TimeDelta>,
    /// Delete all ended batches of this project, with its sums and cached answers; refused while one of them is open
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Empty requests and answers, and keep everything else
    #[arg(long)]
    bodies_only: bool,
    /// Show what would be deleted and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

impl Args {
    const fn verb(&self) -> &'static str {
        if self.bodies_only { "empty" } else { "delete" }
    }
}

/// Reads how long ago: `30d`, `12h`, or `30` for days.
fn age(text: &str) -> Result<TimeDelta, String> {
    if let Ok(days) = text.parse::<u16>() {
        return Ok(TimeDelta::days(days.into()));
    }
    match text.parse::<When>() {
        Ok(When::In(age)) => Ok(age),
        _ => Err("write it like 30d or 12h".to_owned()),
    }
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    let now = SystemClock.now();
    let before = now.checked_sub_signed(args.older_than.unwrap_or_default()).unwrap_or(DateTime::UNIX_EPOCH);
    let mut batches = old(&backend, before).await?;
    if let Some(project) = &args.project {
        batches.retain(|batch| batch.project.as_ref() == Some(project));
        if args.older_than.is_none() {
            refuse_open(&backend, project).await?;
        }
    }
    // The sums of a project may be there when its batches are gone.
    let whole_project = args.project.as_deref().filter(|_| args.older_than.is_none() && !args.bodies_only);
    if args.dry_run || (batches.is_empty() && whole_project.is_none()) {
        return tell_plan(global, args, &batches, now);
    }
    if !args.yes && !confirm(args, &batches).await? {
        return Err(Fault::new(if args.bodies_only { "nothing was emptied" } else { "nothing was deleted" }));
    }
    let stop = Stop::on_signals("stopping after this step; the same command goes on")?;
    if args.bodies_only {
        return strip_all(global, &backend, &batches, &stop).await;
    }
    let mut pruned = Pruned::default();
    for batch in &batches {
        pruned.batches += u64::from(forget(&backend, batch, &stop, &mut pruned.rows).await?);
        if stop.drain.is_cancelled() {
            pruned.tell(global, &backend)?;
            return Ok(Exit::Interrupted);
        }
    }
    if let Some(project) = whole_project {
        let sums = backend.store.forget_project(project).await?;
        if batches.is_empty() && sums == 0 {
            return Err(Fault::new(format!("nothing is kept of a project `{project}`"))
                .hint("`gristmill costs --by project` names those that there are"));
        }
        pruned.sums = Some(sums);
    }
    match backend.store.drop_empty_partitions(before.date_naive()).await {
        Ok(partitions) => pruned.partitions = partitions,
        // Who may delete rows may not be the owner of the tables.
        Err(error) => ui::tell(&format!("warning: empty partitions stay: {}", Fault::from(error).message())),
    }
    pruned.tell(global, &backend)?;
    Ok(Exit::Success)
}

/// Refuses to delete a project of which a batch is open.
async fn refuse_open(backend: &Backend, project: &str) -> Result<(), Fault> {
    let is_open = |batch: &&Batch| batch.project.as_deref() == Some(project) && !batch.state.is_ended();
    match backend.store.batches(i32::MAX.unsigned_abs()).await?.iter().find(is_open) {
        Some(batch) => {
            Err(Fault::new(format!("batch {} of project {project} is {}", batch.name, batch.state.as_str()))
                .hint(format!("`gristmill cancel {}` ends it", batch.name)))
        }
        None => Ok(()),
    }
}

/// Empties the bodies of batches.
async fn strip_all(global: &Global, backend: &Backend, batches: &[Batch], stop: &Stop) -> Result<Exit, Fault> {
    let (mut emptied, mut requests, mut results, mut attempts) = (0_u64, 0, 0, 0);
    for batch in batches {
        let (mut after, before) = (None, requests);
        while !stop.drain.is_cancelled() {
            let stripped = backend.store.strip(batch.id, after, CHUNK).await?;
            requests += stripped.requests;
            results += stripped.results;
            attempts += stripped.attempts;
            after = stripped.next;
            if after.is_none() {
                break;
            }
        }
        emptied += u64::from(requests > before);
    }
    if global.json {
        ui::json(&serde_json::json!({
            "bodies_only": true, "batches": emptied, "requests": requests, "results": results, "attempts": attempts,
        }))?;
    } else {
        ui::line(&format!(
            "emptied {}: {}, {}, {}",
            number_of(emptied),
            plural(requests, "request"),
            plural(results, "result"),
            plural(attempts, "attempt"),
        ))?;
    }
    Ok(if stop.drain.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

/// Reads all batches that ended before a time.
async fn old(backend: &Backend, before: DateTime<Utc>) -> Result<Vec<Batch>, Fault> {
    let mut limit = PAGE;
    loop {
        let batches = backend.store.ended_before(before, limit).await?;
        if batches.len() < limit as usize {
            return Ok(batches);
        }
        limit = limit.saturating_mul(4);
    }
}

/// Deletes a batch step by step; returns whether all of it is gone.
async fn forget(backend: &Backend, batch: &Batch, stop: &Stop, rows: &mut Forgotten) -> Result<bool, Fault> {
    while !stop.drain.is_cancelled() {
        let forgotten = backend.store.forget(batch.id, CHUNK).await?;
        *rows += forgotten;
        if !forgotten.more {
            return Ok(true);
        }
    }
    Ok(false)
}

fn tell_plan(global: &Global, args: &Args, batches: &[Batch], now: DateTime<Utc>) -> Result<Exit, Fault> {
    if global.json {
        ui::json(&serde_json::json!({ "dry_run": true, "batches": batches, "requests": requests(batches) }))?;
        return Ok(Exit::Success);
    }
    if batches.is_empty() {
        let which = if args.project.is_some() { "no batch of this project ended" } else { "no batch ended" };
        let when = if args.older_than.is_some() { " that long ago" } else { "" };
        ui::line(&format!("{which}{when}: nothing to {}", args.verb()))?;
        return Ok(Exit::Success);
    }
    let heading = ["NAME", "REQUESTS", "ENDED"].map(str::to_owned).to_vec();
    let row = |batch: &Batch| {
        vec![
            batch.name.clone(),
            count(batch.total.unwrap_or(batch.recorded)),
            batch.finished_at.map(|time| ago(time, now)).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(batches.iter().map(row)).collect();
    ui::out(columns(&rows).as_bytes())?;
    ui::line(&format!("would {} {}", args.verb(), what(batches)))?;
    Ok(Exit::Success)
}

fn requests(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| batch.total.unwrap_or(batch.recorded)).sum()
}

fn what(batches: &[Batch]) -> String {
    format!("{} with {}", number_of(batches.len() as u64), plural(requests(batches), "request"))
}

fn number_of(batches: u64) -> String {
    format!("{} batch{}", count(batches), if batches == 1 { "" } else { "es" })
}

/// Asks a person; who cannot be asked must say so beforehand.
async fn confirm(args: &Args, batches: &[Batch]) -> Result<bool, Fault> {
    if !std::io::stdin().is_terminal() {
        let would = format!("this would {} {}, and nobody is there to ask", args.verb(), what(batches));
        let hint = format!("add --yes to {} them, or --dry-run to see them", args.verb());
        return Err(Fault::new(would).hint(hint));
    }
    consent::ask(&format!("{} {} for good?", args.verb(), what(batches))).await
}

/// What was deleted.
#[derive(Debug, Default)]
struct Pruned {
    batches: u64,
    rows: Forgotten,
    /// Sums and cached answers of a project, where these were deleted.
    sums: Option<u64>,
    partitions: Vec<DroppedPartition>,
}

impl Pruned {
    fn tell(&self, global: &Global, backend: &Backend) -> Result<(), Fault> {
        let Forgotten { requests, results, attempts, .. } = self.rows;
        let bytes: u64 = self.partitions.iter().map(|partition| partition.bytes).sum();
        if global.json {
            let partitions: Vec<_> = self.partitions.iter().map(|partition| partition.name.as_str()).collect();
            ui::json(&serde_json::json!({
                "batches": self.batches, "requests": requests, "results": results, "attempts": attempts,
                "sums_and_cached_answers": self.sums, "partitions": partitions, "bytes_freed": bytes,
            }))?;
            return Ok(());
        }
        ui::line(&format!(
            "deleted {}: {}, {}, {}",
            number_of(self.batches),
            plural(requests, "request"),
            plural(results, "result"),
            plural(attempts, "attempt"),
        ))?;
        if let Some(sums) = self.sums {
            ui::line(&format!("deleted {} of the project's sums and cached answers", plural(sums, "row")))?;
        }
        let place = if !self.partitions.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            let mib = bytes as f64 / f64::from(1 << 20);
            format!("dropped {}: {mib:.1} MiB are free again", plural(self.partitions.len() as u64, "empty partition"))
        } else if backend.file.is_some() {
            "the file keeps its size; what is free in it is used again".to_owned()
        } else {
            return Ok(());
        };
        ui::line(&place)?;
        Ok(())
    }
}
