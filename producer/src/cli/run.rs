use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use gristmill_common::backend::{Backend, Need};
use gristmill_common::config::Overrides;

use super::Global;
use super::backends;
use super::batch::BatchArgs;
use super::drive::{Drive, Output};
use super::estimate::{self, Before};
use super::fault::{Exit, Fault};
use super::first;
use super::place::{self, Missing};
use super::progress::Style;
use super::scratch::Scratch;
use super::stop::Stop;
use super::ui;

const EXAMPLES: &str = "\
Examples:
  gristmill run prompts.jsonl -o out.jsonl
  gristmill run prompts.jsonl -o out.jsonl --simulate
  gristmill run prompts.jsonl -o out.jsonl --retry-failed
  gristmill run questions.csv -o out.jsonl --prompt-column question --model gpt-4o --set temperature=0,0.7
  gristmill run prompts.jsonl --limit 1 --dry-run
  gristmill run -i in.jsonl -o out.jsonl --model llama --api-base http://localhost:8000/v1

The key comes from OPENAI_API_KEY, or from gristmill.yaml. Beside RabbitMQ and Postgres, workers share the jobs.

Answers go to -o, errors to a file beside it (out.errors.jsonl), in OpenAI's Batch format.
Running the same command again goes on where it stopped: nothing is paid twice.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "these comments are the help text")]
pub(super) struct Args {
    #[command(flatten)]
    batch: BatchArgs,
    /// Write answers to this file as they come, errors beside it; `-` writes both to standard output
    #[arg(
        long,
        short = 'o',
        visible_alias = "output-file",
        alias = "output_file",
        value_name = "FILE",
        required_unless_present = "dry_run"
    )]
    output: Option<PathBuf>,
    /// Errors into the same file as answers
    #[arg(long)]
    combined: bool,
    /// Ask a simulator in this process instead of a provider; its answers never stand in for real ones
    #[arg(long, conflicts_with_all = ["api_base", "db", "database_url"])]
    simulate: bool,
    /// The OpenAI-compatible endpoint, such as http://localhost:8000/v1
    #[arg(long, value_name = "URL")]
    api_base: Option<String>,
    /// Calls that run at once at most [default: 128]
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Retries after the first call [default: 5]
    #[arg(long, value_name = "N")]
    num_retries: Option<u16>,
    /// How progress is shown
    #[arg(long, value_enum, default_value = "auto")]
    progress: Style,
}

impl Args {
    pub(super) const fn style(&self) -> Style {
        self.progress
    }
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let started = Instant::now();
    let checked = args.batch.check(global, None).await?;
    let simulator = if args.simulate { Some(backends::simulator().await?) } else { None };
    let api_base = args.api_base.is_some();
    let overrides = Overrides::default()
        .set("api_base", args.api_base)
        .set("concurrency", args.concurrency.map(|number| number.to_string()))
        .set("num_retries", args.num_retries.map(|number| number.to_string()));
    let (config, sources) = backends::config_and_sources(global, overrides, simulator.as_ref())?;
    let checked = checked.with_cache(args.batch.cache.unwrap_or(config.cache));
    backends::tell_notices(global, &config);
    let models: Vec<Arc<str>> = checked.models.keys().cloned().collect();
    let deployments = backends::deployments(&config, &models)?;
    let spec = args.batch.spec(&checked, args.simulate)?;
    first::check_endpoints(&checked, &deployments)?;
    let Some(output) = args.output.as_deref().filter(|_| !args.batch.dry_run) else {
        let forecast = if args.simulate { None } else { Some(estimate::of_dry_run(global, &config, &checked).await?) };
        return first::dry_run(global, &checked, &deployments, forecast.as_ref()).await;
    };
    let output = Output::new(output, args.combined);
    output.probe()?;
    if !args.simulate {
        first::examine_deployments(global, &checked, &deployments).await?;
    }
    let stop = Stop::on_signals(
        "stopping: running calls finish and are saved, the same command goes on later; once more to stop at once",
    )?;
    let mut scratch = None;
    let backend = if args.simulate {
        match Backend::try_throw_away(&place::simulated()?).await? {
            Some(backend) => backend,
            // Another simulated run is under way here: this one's rows go to its output alone.
            None => Backend::throw_away(&scratch.insert(Scratch::new()?).file()).await?,
        }
    } else {
        backends::open(&place::find(global, &config, Missing::Create)?, &config, Need::Work).await?
    };
    if backend.file.is_none() && api_base && !global.quiet {
        ui::tell(
            "warning: the workers of this RabbitMQ share the jobs and call their own endpoints; --api-base is for the calls \
             of this process alone",
        );
    }
    if !args.simulate {
        let before = Before {
            config: &config,
            backend: &backend,
            checked: &checked,
            args: &args.batch,
            spec: &spec,
            style: args.progress,
            stop: &stop,
        };
        if !before.show(global).await? {
            return Ok(Exit::Interrupted);
        }
    }
    let worker = gristmill_worker::Options {
        limits: gristmill_worker::reload::limits(&config, sources),
        ..gristmill_worker::Options::from_config(&config, &backend, deployments)?
    };
    let drive = Drive {
        global,
        backend: &backend,
        checked: &checked,
        spec,
        output,
        retry_failed: args.batch.retry_failed,
        append: args.batch.append,
        fail_fast: args.batch.fail_fast,
        style: args.progress,
        stop: &stop,
        started,
    };
    let worked = drive.to_the_end(Some(worker)).await?;
    backend.close().await;
    if let Some(simulator) = simulator {
        simulator.shutdown().await;
    }
    worked.report(global)
}
