//! The daemon `gristmill-worker`: one worker, configured by `gristmill.yaml`, the environment and a few flags.
//!
//! `gristmill worker` is the same with the command line around it; this one has no more in it than a machine needs.

#![expect(clippy::doc_markdown, reason = "the comments of flags are shown to people as they are")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;
use gristmill_common::backend::{self, Backend, Need, Place};
use gristmill_common::config::{self, Config, Env, Overrides, Sources};
use gristmill_common::telemetry;
use gristmill_worker::{Options, install_tls, reload};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const EXAMPLES: &str = "\
Examples:
  DATABASE_URL=postgres://… AMQP_URL=amqp://… gristmill-worker
  gristmill-worker --config /etc/gristmill/gristmill.yaml
  DATABASE_URL=sqlite:jobs.db gristmill-worker --model gpt-4o --concurrency 16

Exit codes: 0 drained after SIGTERM, 1 usage or system, 2 key, model or provider, 130 stopped by a second signal.";

/// Takes jobs from the queue, calls providers, writes results. Start as many as you like, on any machine.
#[derive(Debug, Parser)]
#[command(name = "gristmill-worker", version, after_help = EXAMPLES)]
struct Args {
    /// The configuration [default: ./gristmill.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve this model; may be repeated [default: all of the configuration's model_list]
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// The OpenAI-compatible endpoint, such as http://localhost:8000/v1
    #[arg(long, value_name = "URL")]
    api_base: Option<String>,
    /// Calls that run at once at most [default: 128]
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Retries after the first call [default: 5]
    #[arg(long, value_name = "N")]
    num_retries: Option<u16>,
    /// Answer `GET /live` and `GET /ready` there, such as 127.0.0.1:8787 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_listen: Option<String>,
    /// A newer table of prices, LiteLLM's `model_prices_and_context_window.json` [default: the program's own]
    #[arg(long, value_name = "FILE")]
    prices: Option<String>,
    /// Answer `GET /metrics` there, and the same, such as 127.0.0.1:9464 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<String>,
    /// Log JSON lines
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    install_tls();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output and are no error.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    telemetry::init("info", args.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(run(args)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "why the program ends, in one line")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    if let Some(remedy) = error.downcast_ref::<backend::Error>().and_then(backend::Error::remedy) {
        eprintln!("hint: {remedy}");
    }
    let setup = error.downcast_ref().is_some_and(config::Error::is_setup_fault)
        || error.downcast_ref().is_some_and(gristmill_worker::Error::is_setup_fault);
    ExitCode::from(if setup { 2 } else { 1 })
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let overrides = Overrides::default()
        .set("api_base", args.api_base)
        .set("concurrency", args.concurrency.map(|number| number.to_string()))
        .set("num_retries", args.num_retries.map(|number| number.to_string()))
        .set("health_listen", args.health_listen)
        .set("prices", args.prices)
        .set("metrics_addr", args.metrics_addr);
    let sources = Sources { file: args.config, env: Env::from_process(), overrides, ..Sources::default() };
    let config = Config::load(sources.clone())?;
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    config.notices().iter().for_each(|notice| tracing::info!("{notice}"));
    let deployments =
        if args.model.is_empty() { config.deployments()? } else { config.deployments_for(&args.model)? };
    if deployments.is_empty() {
        return Err(gristmill_worker::Error::NoDeployments.into());
    }
    let Some(url) = &config.database_url else {
        bail!("DATABASE_URL is not set; write postgres://user:password@host:5432/database, or sqlite:PATH");
    };
    let backend = Backend::open(&Place::from_url(url)?, &config, Need::Work, "gristmill-worker").await?;
    let options = Options {
        health_listen: config.health_listen,
        metrics_addr: config.metrics_addr,
        limits: reload::limits(&config, sources),
        ..Options::from_config(&config, &backend, deployments)?
    };
    let (drain, abort) = stop_on_signals()?;
    tokio::select! {
        ended = gristmill_worker::run(options, drain, abort.clone()) => ended?,
        () = abort.cancelled() => return Ok(ExitCode::from(130)),
    }
    backend.close().await;
    Ok(ExitCode::SUCCESS)
}

/// The first signal drains, the second ends at once.
fn stop_on_signals() -> anyhow::Result<(CancellationToken, CancellationToken)> {
    let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    let steps = [
        (drain.clone(), "stopping: running calls finish first; once more to stop at once"),
        (abort.clone(), "stopping at once: calls that were running are made again"),
    ];
    TaskTracker::new().spawn(async move {
        for (token, message) in steps {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            tracing::info!("{message}");
            token.cancel();
        }
    });
    Ok((drain, abort))
}
