//! `costs`: what calls cost, by what people ask for, and what the same tokens would have cost elsewhere.

use clap::Subcommand;
use gristmill_common::backend::Need;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::Overrides;
use gristmill_common::tally::By;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::scope::ScopeArgs;
use super::ui;

mod compare;
mod recompute;
mod sheet;

use compare::Other;
use sheet::Sheet;
pub(super) use sheet::dollars;

const EXAMPLES: &str = "\
Examples:
  gristmill costs                                by model, of everything
  gristmill costs sweep-7 --by deployment
  gristmill costs --by project,model --since 30d
  gristmill costs --by tag:team --since 2026-12-01 --until 2027-01-01 --csv > december.csv
  gristmill costs --by day --since 14d
  gristmill costs recompute --dry-run            after a price was corrected
  gristmill costs sweep-7 --compare gpt-4o-mini,claude-haiku-4-5

A cost that nobody knows is never counted as $0.00. docs/costs.md has the fields of --json.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(flatten)]
    scope: ScopeArgs,
    /// What costs are added up by, several with commas: model, provider, deployment, provider-model, project, batch, error,
    /// day, hour, tag:NAME
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "model")]
    by: Vec<By>,
    /// Say what the same tokens would have cost with these models, by their plain prices
    #[arg(long, value_name = "MODEL,…", value_delimiter = ',')]
    compare: Vec<String>,
    /// Write CSV, for a spreadsheet
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bill recorded calls by today's prices, after one was corrected; what they cost before is kept
    Recompute(recompute::Args),
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    if let Some(Action::Recompute(args)) = &args.action {
        return recompute::run(global, args).await;
    }
    let config = backends::config(global, Overrides::default(), None)?;
    let others = args.compare.iter().map(|name| Other::find(&config, name)).collect::<Result<Vec<_>, _>>()?;
    let backend = backends::open(&place::find(global, &config, Missing::Refuse)?, &config, Need::Store).await?;
    let mut scope = args.scope.find(&backend, SystemClock.now()).await?;
    scope.usage.without_durations = true;
    let parts = backend.store.usage(&scope.usage, &args.by).await?;
    let lost = backend.store.lost_calls(&scope.usage).await?;
    let sheet = Sheet::new(&args.by, parts, lost, &others);
    if global.json {
        ui::json(&sheet.json(&scope))?;
    } else if args.csv {
        ui::out(sheet.csv().as_bytes())?;
    } else {
        ui::out(sheet.text(&scope).as_bytes())?;
    }
    Ok(Exit::Success)
}
