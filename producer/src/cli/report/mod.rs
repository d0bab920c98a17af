//! `report`: what calls and jobs did, as JSON for programs or as one page for people.
//!
//! Every number is of the store's sums, so the page, the JSON and `gristmill costs` say the same.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use gristmill_common::backend::{Backend, Need};
use gristmill_common::batch::Batch;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::store::UsageScope;
use gristmill_common::tally::By;
use gristmill_producer::Producer;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::ui;
use super::when::When;

mod data;
mod page;
mod plot;
mod series;

use data::{Report, Scope};
use series::Series;

/// Batches that a report of several tells one by one, the newest.
const BATCHES: u32 = 200;
/// Classes of errors that a batch tells examples of.
const CLASSES: u32 = 50;
/// Seconds of the finest sums.
const FINEST_S: u32 = 10;

const EXAMPLES: &str = "\
Examples:
  gristmill report -o report.html                       the last batch, as a page
  gristmill report sweep-7 -o sweep-7.json              a batch, for programs
  gristmill report --since 7d --project search -o week.html
  gristmill report --json | jq .totals.cost_usd

The page is one file without scripts that needs no network. docs/reports.md describes the JSON.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The batch: its name, its id, the beginning of its id, or @last, which it is without --since and
    /// --project
    batch: Option<String>,
    /// All batches, what ended in the last time, 7d, or since then, 2026-11-01T00:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "batch")]
    since: Option<When>,
    /// All batches of a project
    #[arg(long, value_name = "NAME", conflicts_with = "batch")]
    project: Option<String>,
    /// Write to this file: .json or .html; `-` writes JSON to standard output, as --json does
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
}

/// How a report is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Stdout,
    Json(PathBuf),
    Html(PathBuf),
}

impl Args {
    fn target(&self, global: &Global) -> Result<Target, Fault> {
        let hint = "gristmill report -o report.html, or -o report.json";
        let Some(output) = &self.output else {
            return if global.json { Ok(Target::Stdout) } else { Err(Fault::new("-o says where to").hint(hint)) };
        };
        if output == Path::new("-") {
            return Ok(Target::Stdout);
        }
        let extension = output.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("json") => Ok(Target::Json(output.clone())),
            Some("html" | "htm") => Ok(Target::Html(output.clone())),
            _ => Err(Fault::new(format!("{} ends in neither .json nor .html", output.display())).hint(hint)),
        }
    }
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let target = args.target(global)?;
    let backend = backends::existing(global, Need::Store).await?;
    let report = gather(&backend, args, SystemClock.now()).await;
    backend.close().await;
    let report = report?;
    let written = match &target {
        Target::Stdout => {
            ui::json(&report.json())?;
            return Ok(Exit::Success);
        }
        Target::Json(path) => {
            let text = serde_json::to_string_pretty(&report.json()).map_err(|error| Fault::of(&error))?;
            write(path, &(text + "\n"))?;
            path
        }
        Target::Html(path) => {
            write(path, &page::html(&report))?;
            path
        }
    };
    if global.json {
        ui::json(&serde_json::json!({ "written": written }))?;
    } else if !global.quiet {
        ui::line(&format!("report of {} in {}", report.scope.title(), written.display()))?;
    }
    Ok(Exit::Success)
}

/// Puts a whole file in the place of the former one.
fn write(path: &Path, text: &str) -> Result<(), Fault> {
    let failed = |error: std::io::Error| Fault::new(format!("writing {} failed", path.display())).because(&error);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = directory.join(format!(".{name}.{}.part", std::process::id()));
    let written = std::fs::File::create(&part).and_then(|mut file| file.write_all(text.as_bytes()));
    written.and_then(|()| std::fs::rename(&part, path)).map_err(|error| {
        // What is half written is of no use.
        let _ = std::fs::remove_file(&part);
        failed(error)
    })
}

/// Reads all that a report tells.
async fn gather(backend: &Backend, args: &Args, now: DateTime<Utc>) -> Result<Report, Fault> {
    let store = &backend.store;
    let since = args.since.map(|since| match since {
        When::At(time) => time,
        When::In(ago) => now.checked_sub_signed(ago).unwrap_or(DateTime::UNIX_EPOCH),
    });
    let is_of_batch = args.since.is_none() && args.project.is_none();
    let batches = if is_of_batch {
        let selector = Producer::selector(args.batch.as_deref().unwrap_or("@last"));
        vec![Producer::on(backend).batch(&selector).await?]
    } else {
        let is_wanted = |batch: &Batch| {
            args.project.as_ref().is_none_or(|project| batch.project.as_ref() == Some(project))
                && since.is_none_or(|since| batch.finished_at.is_none_or(|finished| finished >= since))
        };
        store.batches(BATCHES).await?.into_iter().filter(is_wanted).collect()
    };
    let batch = batches.first().filter(|_| is_of_batch);
    let scope = UsageScope {
        batch: batch.map(|batch| batch.id),
        project: args.project.clone(),
        since,
        ..UsageScope::default()
    };
    let totals = store.usage(&scope, &[]).await?.pop().map(|part| part.sums).unwrap_or_default();
    let lost = store.lost_calls(&scope).await?;
    let mut by = Vec::new();
    for part in [By::Model, By::Provider, By::Deployment, By::ProviderModel, By::Project, By::Day, By::Batch] {
        by.push((part.clone(), store.usage(&scope, &[part]).await?));
    }
    let classes = store.usage(&scope, &[By::Class]).await?;
    let series = Series::of(&store.usage(&scope, &[By::Seconds(FINEST_S), By::Class]).await?);
    let mut failures = Vec::new();
    for batch in batches.iter().filter(|batch| batch.counters.done() > batch.counters.succeeded) {
        failures.extend(store.errors(batch.id, CLASSES).await?);
    }
    let workers = store.workers().await?;
    let scope = Scope { batch: batch.map(|batch| batch.name.clone()), project: args.project.clone(), since };
    Ok(Report { at: now, scope, batches, totals, lost, by, classes, failures, series, workers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_put_in_place_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.json");
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert!(write(&directory.path().join("no/r.json"), "three").is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
