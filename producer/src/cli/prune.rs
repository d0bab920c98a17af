//! `prune`: deletes ended batches that are old, in bounded steps.

use std::io::IsTerminal as _;

use chrono::{DateTime, TimeDelta, Utc};
use gristmill_common::backend::{Backend, Need};
use gristmill_common::batch::Batch;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::store::{DroppedPartition, Forgotten};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::stop::Stop;
use super::table::{ago, columns, count, plural};
use super::ui;

/// Requests that one transaction deletes.
const CHUNK: u32 = 1_000;
/// Batches that one read looks at.
const PAGE: u32 = 500;

const EXAMPLES: &str = "\
Examples:
  gristmill prune --older-than 30 --dry-run    what would go
  gristmill prune --older-than 30              asks first
  gristmill prune --older-than 30 --yes        from cron

Requests, results and attempts of a batch go together, and with the last of them the batch.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Delete batches that ended more than this many days ago
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16))]
    older_than: u16,
    /// Show what would be deleted and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    let now = SystemClock.now();
    let before = now - TimeDelta::days(i64::from(args.older_than));
    let batches = old(&backend, before).await?;
    if args.dry_run || batches.is_empty() {
        return tell_plan(global, &batches, now);
    }
    if !args.yes && !confirm(&batches).await? {
        return Err(Fault::new("nothing was deleted"));
    }
    let stop = Stop::on_signals("stopping after this step; the same command goes on")?;
    let mut pruned = Pruned::default();
    for batch in &batches {
        pruned.batches += u64::from(forget(&backend, batch, &stop, &mut pruned.rows).await?);
        if stop.drain.is_cancelled() {
            pruned.tell(global, &backend)?;
            return Ok(Exit::Interrupted);
        }
    }
    match backend.store.drop_empty_partitions(before.date_naive()).await {
        Ok(partitions) => pruned.partitions = partitions,
        // Who may delete rows may not be the owner of the tables.
        Err(error) => ui::tell(&format!("warning: empty partitions stay: {}", Fault::from(error).message())),
    }
    pruned.tell(global, &backend)?;
    Ok(Exit::Success)
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

fn tell_plan(global: &Global, batches: &[Batch], now: DateTime<Utc>) -> Result<Exit, Fault> {
    if global.json {
        ui::json(&serde_json::json!({ "dry_run": true, "batches": batches, "requests": requests(batches) }))?;
        return Ok(Exit::Success);
    }
    if batches.is_empty() {
        ui::line("no batch ended that long ago: nothing to delete")?;
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
    ui::line(&format!("would delete {}", what(batches)))?;
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
async fn confirm(batches: &[Batch]) -> Result<bool, Fault> {
    if !std::io::stdin().is_terminal() {
        return Err(Fault::new(format!("this would delete {}, and nobody is there to ask", what(batches)))
            .hint("add --yes to delete them, or --dry-run to see them"));
    }
    ui::tell(&format!("delete {} for good? [y/N]", what(batches)));
    let reading = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = reading.await.map_err(|error| Fault::of(&error))?.map_err(|error| Fault::of(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What was deleted.
#[derive(Debug, Default)]
struct Pruned {
    batches: u64,
    rows: Forgotten,
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
                "partitions": partitions, "bytes_freed": bytes,
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
