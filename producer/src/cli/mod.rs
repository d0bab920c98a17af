//! The command line: arguments, what people read, exit codes. Uses the library for everything it does.
//!
//! `ui` is the only file that prints.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod ask;
mod backends;
mod batch;
mod budgets;
mod cache;
mod call;
mod care;
mod check;
mod consent;
mod costs;
mod disk;
mod drive;
mod estimate;
mod export;
mod fault;
mod first;
mod follow;
mod forecast;
mod history;
mod jobs;
mod limits;
mod live;
mod look;
mod lost;
mod models;
mod pace;
mod place;
mod plot;
mod price;
mod progress;
mod prune;
mod reference;
mod report;
mod results;
mod resume;
mod run;
mod scope;
mod scratch;
mod settings;
mod show;
mod simulate;
mod standing;
mod stats;
mod steer;
mod stop;
mod submit;
mod summary;
mod table;
mod timeline;
mod ui;
mod watch;
mod when;
mod who;
mod work;

use fault::{Exit, Fault};
use progress::Style;

/// How long tasks that do not end by themselves hold the process after its work is done.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// Runs large numbers of LLM requests under the providers' rate limits, with retries; every request ends as one row.
#[derive(Debug, Parser)]
#[command(name = "gristmill", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  gristmill run prompts.jsonl -o out.jsonl               all in one process
  gristmill run prompts.jsonl -o out.jsonl --simulate    the same, without a key
  gristmill submit prompts.jsonl --name sweep-7 --wait   for workers anywhere
  gristmill worker                                       one of them

Exit codes:
  0    all succeeded
  1    usage or system
  2    key, model or server of a provider
  3    done, some jobs failed
  130  interrupted; the same command goes on";

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Everywhere")]
#[expect(clippy::doc_markdown, reason = "these comments are the help text")]
struct Global {
    /// The database: postgres://user:password@host/database, or sqlite:PATH [env: DATABASE_URL] [default: the nearest
    /// .gristmill/gristmill.db, upwards from here]
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// RabbitMQ, needed beside Postgres: amqp://user:password@host:5672/%2f [env: AMQP_URL]
    #[arg(long, global = true, value_name = "URL")]
    amqp_url: Option<String>,
    /// The SQLite file, in place of --database-url
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "database_url")]
    db: Option<PathBuf>,
    /// The configuration file [env: GRISTMILL_CONFIG] [default: gristmill.yaml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A newer table of prices, LiteLLM's model_prices_and_context_window.json [env: GRISTMILL_PRICES] [default: the program's
    /// own]
    #[arg(long, global = true, value_name = "FILE")]
    prices: Option<String>,
    /// Write for machines: JSON on standard output, errors as JSON on standard error; a worker's log in JSON
    #[arg(long, global = true)]
    json: bool,
    /// Say more; twice, say everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a file of requests to its end, all in one process
    Run(run::Args),
    /// Submit a file of requests as a batch, for workers to run
    Submit(submit::Args),
    /// Send one prompt through queue and worker
    Call(call::Args),
    /// Run one worker
    Worker(work::Args),
    /// List batches
    List(look::ListArgs),
    /// Show how a batch stands
    Status(look::StatusArgs),
    /// Show all that is known of one job: request, calls, answer or error
    Show(show::Args),
    /// Show the runs that ended last, over all batches
    History(history::Args),
    /// Read a batch's results
    Results(results::Args),
    /// Write a batch's results as a table: JSON lines, CSV or Parquet
    Export(export::Args),
    /// Cancel a batch: no further call starts
    Cancel(steer::CancelArgs),
    /// Run the failed jobs of a batch again
    Retry(steer::RetryArgs),
    /// Look at once whether paused deployments work again
    Resume(resume::Args),
    /// Show rate limits and what of them is in use; set them for all workers
    Limits(limits::Args),
    /// Show budgets and what of them is spent; set them for all workers
    Budgets(budgets::Args),
    /// Show what the response cache keeps and saved; clear it
    Cache(cache::Args),
    /// Check the database, the queue and every deployment
    Check(check::Args),
    /// Show which models workers serve and the configuration has
    Models(models::Args),
    /// Show what a model costs, or one call of it
    Price(price::Args),
    /// Show what calls cost, by model, project, day …
    Costs(costs::Args),
    /// Show how fast and how well calls went, with percentiles, errors and rates
    Stats(stats::Args),
    /// Estimate the tokens and the cost of a file of requests, before anything is sent
    Estimate(estimate::Args),
    /// Write what calls and jobs did: one page with plots, or JSON
    Report(report::Args),
    /// Show what is configured, and where each value comes from
    Config(settings::Args),
    /// Bring the database's schema to this version
    Migrate(care::MigrateArgs),
    /// Publish again what a broker lost
    Repair(care::RepairArgs),
    /// Delete ended batches that are old
    Prune(prune::Args),
    /// Stand in for an LLM provider: an OpenAI-compatible server with latency, limits and faults on demand
    Simulate(simulate::SimulateArgs),
    /// Write completions for a shell
    Completions(reference::CompletionsArgs),
    /// Write a man page
    Man(reference::ManArgs),
    /// Write a page of the reference
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && asks_for_json() => return ui::fault(&fault::of_usage(&error), true).into(),
        Err(error) => {
            // The text itself says what is wrong; where it cannot be written, nobody reads.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    let level = match (cli.global.quiet, cli.global.verbose) {
        (true, _) => "error",
        // Nobody watches a worker but through its log.
        (false, 0) if matches!(cli.command, Command::Worker(_)) => "info",
        // What a deployment of this process lacks is told by the progress and the end of the run.
        (false, 0) if matches!(cli.command, Command::Run(_) | Command::Call(_)) => "warn,gristmill_worker::gate=off",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let json = cli.global.json;
    // A worker's standard error is its log, and under --json nothing else stands in it.
    let is_worker_log = json && matches!(cli.command, Command::Worker(_));
    let shows_json = match &cli.command {
        Command::Run(args) => args.style() == Style::Json,
        Command::Submit(args) => args.style() == Style::Json,
        _ => false,
    };
    gristmill_common::telemetry::init(level, is_worker_log || shows_json);
    if is_worker_log {
        ui::tell_in_log();
    }
    if shows_json {
        ui::tell_as_json();
    }
    gristmill_worker::install_tls();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ui::fault(&Fault::new("starting the runtime failed").because(&error), json).into(),
    };
    let outcome = runtime.block_on(Box::pin(dispatch(cli)));
    runtime.shutdown_timeout(SHUTDOWN);
    match outcome {
        Ok(exit) => exit,
        Err(fault) => ui::fault(&fault, json),
    }
    .into()
}

/// Tells whether arguments that are wrong somewhere ask for JSON.
fn asks_for_json() -> bool {
    let arguments: Vec<_> = std::env::args_os().skip(1).take_while(|argument| argument != "--").collect();
    let follows = |pair: &[std::ffi::OsString]| pair[0] == "--progress" && pair[1] == "json";
    arguments.iter().any(|argument| argument == "--json" || argument == "--progress=json")
        || arguments.windows(2).any(follows)
}

async fn dispatch(Cli { global, command }: Cli) -> Result<Exit, Fault> {
    match command {
        Command::Run(args) => run::run(&global, args).await,
        Command::Submit(args) => submit::run(&global, args).await,
        Command::Call(args) => call::run(&global, args).await,
        Command::Worker(args) => work::run(&global, args).await,
        Command::List(args) => look::list(&global, &args).await,
        Command::Status(args) => look::status(&global, &args).await,
        Command::Show(args) => show::run(&global, &args).await,
        Command::History(args) => history::run(&global, &args).await,
        Command::Results(args) => results::run(&global, args).await,
        Command::Export(args) => export::run(&global, args).await,
        Command::Cancel(args) => steer::cancel(&global, &args).await,
        Command::Retry(args) => steer::retry(&global, &args).await,
        Command::Resume(args) => resume::run(&global, &args).await,
        Command::Limits(args) => limits::run(&global, args).await,
        Command::Budgets(args) => budgets::run(&global, args).await,
        Command::Cache(args) => cache::run(&global, args).await,
        Command::Check(args) => check::run(&global, &args).await,
        Command::Models(args) => models::run(&global, &args).await,
        Command::Price(args) => price::run(&global, &args),
        Command::Costs(args) => costs::run(&global, args).await,
        Command::Stats(args) => stats::run(&global, &args).await,
        Command::Estimate(args) => estimate::run(&global, args).await,
        Command::Report(args) => report::run(&global, &args).await,
        Command::Config(args) => settings::run(&global, &args),
        Command::Migrate(args) => care::migrate(&global, &args).await,
        Command::Repair(args) => care::repair(&global, &args).await,
        Command::Prune(args) => prune::run(&global, &args).await,
        Command::Simulate(args) => simulate::run(args).await,
        Command::Completions(args) => reference::completions(&args),
        Command::Man(args) => reference::man(&args),
        Command::Reference(args) => reference::reference(&args),
    }
}

/// The command tree.
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_tree_is_sound() {
        super::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        let root = super::command();
        let nested = root.get_subcommands().flat_map(clap::Command::get_subcommands);
        for command in root.get_subcommands().chain(nested) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(text.contains("Examples:"), "{} has none", command.get_name());
        }
    }
}
