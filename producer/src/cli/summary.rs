//! What a run tells at its end.

use std::path::PathBuf;
use std::time::Duration;

use gristmill_common::batch::Batch;
use gristmill_common::store::ErrorCount;
use serde::Serialize;

use super::Global;
use super::drive::Output;
use super::fault::{Exit, Fault};
use super::follow::Counts;
use super::table::{cached_and_saved, count, duration, money};
use super::ui;

/// The end of a run.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) batch: Batch,
    /// Results of the batch that the response cache gave.
    pub(super) cached: u64,
    /// Jobs of the input.
    pub(super) total: u64,
    pub(super) counts: Counts,
    /// Whether everything was submitted and has ended.
    pub(super) complete: bool,
    /// Whether this process worked the batch.
    pub(super) in_process: bool,
    pub(super) elapsed: Duration,
    pub(super) errors: Vec<ErrorCount>,
    pub(super) output: Output,
    pub(super) errors_path: Option<PathBuf>,
}

#[derive(Serialize)]
struct Machine<'a> {
    batch: &'a str,
    id: String,
    complete: bool,
    total: u64,
    before: u64,
    succeeded: u64,
    failed: u64,
    cancelled: u64,
    expired: u64,
    seconds: f64,
    cost_usd: Option<f64>,
    cached: u64,
    saved_usd: f64,
    simulated: bool,
    output: Option<String>,
    errors_output: Option<String>,
    errors: Vec<serde_json::Value>,
}

impl Summary {
    /// Tells it, and returns how the program ends.
    ///
    /// Why it is not complete is told by the fault, if there is one.
    pub(super) fn tell(&self, global: &Global, fault: bool) -> Result<Exit, Fault> {
        if global.json {
            let machine = self.machine();
            if matches!(self.output, Output::Stdout) {
                ui::event(&machine);
            } else {
                ui::json(&machine)?;
            }
        } else if !global.quiet {
            ui::tell(&self.text(fault));
        }
        Ok(self.exit())
    }

    /// Returns how the program ends.
    pub(super) fn exit(&self) -> Exit {
        if !self.complete {
            Exit::Interrupted
        } else if self.counts.succeeded >= self.total {
            Exit::Success
        } else {
            Exit::SomeFailed
        }
    }

    fn text(&self, fault: bool) -> String {
        let Counts { succeeded, failed, cancelled, expired, before, .. } = self.counts;
        let mut text = format!("{}: {} of {} succeeded", self.batch.name, count(succeeded), count(self.total));
        for (number, name) in [(failed, "failed"), (cancelled, "cancelled"), (expired, "expired")] {
            if number > 0 {
                text.push_str(&format!(", {} {name}", count(number)));
            }
        }
        let seconds = self.elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
        let rate = self.counts.done().saturating_sub(before) as f64 / seconds.max(0.001);
        if before > 0 {
            text.push_str(&format!("; {} done before", count(before)));
        }
        text.push_str(&format!("; {}", duration(self.elapsed)));
        if rate >= 0.1 {
            text.push_str(&format!(", {rate:.1}/s"));
        }
        if let Some(usd) = self.batch.cost_usd().filter(|usd| *usd > 0.0) {
            text.push_str(&format!(", {}", money(usd)));
        }
        if self.cached > 0 {
            let done = self.batch.counters.done();
            text.push_str(&format!(", cached {}", cached_and_saved(self.cached, done, self.batch.saved_usd())));
        }
        if self.batch.simulated {
            text.push_str(", simulated");
        }
        if let Output::Files(paths) = &self.output {
            text.push_str(&format!("\n  answers: {}", paths.answers.display()));
            if let Some(errors) = &self.errors_path {
                text.push_str(&format!("\n  errors:  {}", errors.display()));
            }
        }
        for error in &self.errors {
            let example = error.example.lines().next().unwrap_or_default();
            text.push_str(&format!("\n  {} × {}: {example}", count(error.count), error.class));
        }
        if fault {
            return text;
        }
        if !self.complete {
            text.push_str("\ninterrupted: the same command goes on where this one stopped");
        } else if self.counts.unsuccessful() > 0 {
            text.push_str(&match self.in_process {
                true => "\nto run these again: the same command with --retry-failed".to_owned(),
                false => format!("\nto run these again: gristmill retry {}", self.batch.name),
            });
        }
        text
    }

    fn machine(&self) -> Machine<'_> {
        let Counts { succeeded, failed, cancelled, expired, before, .. } = self.counts;
        let show = |path: &PathBuf| path.display().to_string();
        Machine {
            batch: &self.batch.name,
            id: self.batch.id.to_string(),
            complete: self.complete,
            total: self.total,
            before,
            succeeded,
            failed,
            cancelled,
            expired,
            seconds: self.elapsed.as_secs_f64(),
            cost_usd: self.batch.cost_usd(),
            cached: self.cached,
            saved_usd: self.batch.saved_usd(),
            simulated: self.batch.simulated,
            output: match &self.output {
                Output::Files(paths) => Some(show(&paths.answers)),
                Output::Stdout | Output::Count => None,
            },
            errors_output: self.errors_path.as_ref().map(show),
            errors: self
                .errors
                .iter()
                .map(
                    |error| serde_json::json!({ "class": error.class, "count": error.count, "example": error.example }),
                )
                .collect(),
        }
    }
}
