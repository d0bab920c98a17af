//! `stats`: how fast, how often, how well, and what it costs, by what people ask for.

use gristmill_common::backend::Need;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::tally::By;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::plot::Canvas;
use super::scope::ScopeArgs;
use super::ui;

mod report;

use report::{FINEST_S, Report};

const EXAMPLES: &str = "\
Examples:
  gristmill stats                            by model, of everything
  gristmill stats sweep-7
  gristmill stats --by provider,deployment --since 1h
  gristmill stats --by error --since 2026-12-01
  gristmill stats @last --json

docs/costs.md has the fields of --json.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    scope: ScopeArgs,
    /// What is told apart, several with commas: model, provider, deployment, provider-model, project, batch, error, day, hour,
    /// tag:NAME
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "model")]
    by: Vec<By>,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    let now = SystemClock.now();
    let scope = args.scope.find(&backend, now).await?;
    // Errors and times are told within each line.
    let by = [&args.by[..], &[By::Class, By::Seconds(FINEST_S)]].concat();
    let parts = backend.store.usage(&scope.usage, &by).await?;
    let report = Report::new(&args.by, parts, &scope, now);
    if global.json {
        ui::json(&report.json(&scope))?;
    } else {
        ui::out(report.text(&scope, Canvas::of_stdout()).as_bytes())?;
    }
    Ok(Exit::Success)
}
