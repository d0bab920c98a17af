//! The command line: arguments, what people read, exit codes. Uses the library for everything it does.
//!
//! `backends` is the only file that knows which store, broker, worker and simulator there are; `ui` the only one that
//! prints.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

mod backends;
mod batch;
mod care;
mod disk;
mod drive;
mod fault;
mod follow;
mod look;
mod place;
mod progress;
mod results;
mod run;
mod simulate;
mod steer;
mod stop;
mod submit;
mod summary;
mod table;
mod ui;
mod watch;
mod work;

use fault::{Exit, Fault};

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
    /// Write for machines: JSON on standard output
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
    /// Run one worker
    Worker(work::Args),
    /// List batches
    List(look::ListArgs),
    /// Show how a batch stands
    Status(look::StatusArgs),
    /// Read a batch's results
    Results(results::Args),
    /// Cancel a batch: no further call starts
    Cancel(steer::CancelArgs),
    /// Run the failed jobs of a batch again
    Retry(steer::RetryArgs),
    /// Bring the database's schema to this version
    Migrate(care::MigrateArgs),
    /// Publish again what a broker lost
    Repair(care::RepairArgs),
    /// Stand in for an LLM provider: an OpenAI-compatible server with latency, limits and faults on demand
    Simulate(simulate::SimulateArgs),
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
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
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    gristmill_common::telemetry::init(level, false);
    gristmill_worker::install_tls();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ui::fault(&Fault::new("starting the runtime failed").because(&error)).into(),
    };
    let outcome = runtime.block_on(Box::pin(dispatch(cli)));
    runtime.shutdown_timeout(SHUTDOWN);
    match outcome {
        Ok(exit) => exit,
        Err(fault) => ui::fault(&fault),
    }
    .into()
}

async fn dispatch(Cli { global, command }: Cli) -> Result<Exit, Fault> {
    match command {
        Command::Run(args) => run::run(&global, args).await,
        Command::Submit(args) => submit::run(&global, args).await,
        Command::Worker(args) => work::run(&global, args).await,
        Command::List(args) => look::list(&global, &args).await,
        Command::Status(args) => look::status(&global, &args).await,
        Command::Results(args) => results::run(&global, args).await,
        Command::Cancel(args) => steer::cancel(&global, &args).await,
        Command::Retry(args) => steer::retry(&global, &args).await,
        Command::Migrate(args) => care::migrate(&global, &args).await,
        Command::Repair(args) => care::repair(&global, &args).await,
        Command::Simulate(args) => simulate::run(args).await,
    }
}

/// The command tree, for checks.
#[cfg(test)]
pub(crate) fn command() -> clap::Command {
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
        for command in super::command().get_subcommands() {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(text.contains("Examples:"), "{} has none", command.get_name());
        }
    }
}
