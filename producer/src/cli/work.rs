use gristmill_common::backend::Need;
use gristmill_common::config::Overrides;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::stop::Stop;
use super::ui;

const EXAMPLES: &str = "\
Examples:
  gristmill worker                                  serves the model_list of gristmill.yaml
  gristmill worker --model gpt-4o --concurrency 64
  DATABASE_URL=postgres://… AMQP_URL=amqp://… gristmill worker";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::doc_markdown, reason = "these comments are the help text")]
pub(super) struct Args {
    /// Serve this model; may be repeated [default: all that the configuration's model_list names]
    #[arg(long, value_name = "MODEL", value_parser = super::when::model)]
    model: Vec<String>,
    /// The OpenAI-compatible endpoint, such as http://localhost:8000/v1
    #[arg(long, value_name = "URL")]
    api_base: Option<String>,
    /// Calls that run at once at most
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Retries after the first call
    #[arg(long, value_name = "N")]
    num_retries: Option<u16>,
    /// Answer `GET /live` and `GET /ready` there, such as 127.0.0.1:8787 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_listen: Option<String>,
    /// Answer `GET /metrics` there, and the same, such as 127.0.0.1:9464 [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<String>,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let overrides = Overrides::default()
        .set("api_base", args.api_base)
        .set("concurrency", args.concurrency.map(|number| number.to_string()))
        .set("num_retries", args.num_retries.map(|number| number.to_string()))
        .set("health_listen", args.health_listen)
        .set("metrics_addr", args.metrics_addr);
    let (config, sources) = backends::config_and_sources(global, overrides, None)?;
    backends::tell_notices(global, &config);
    let deployments =
        if args.model.is_empty() { config.deployments()? } else { backends::deployments(&config, &args.model)? };
    if deployments.is_empty() {
        return Err(Fault::from(gristmill_worker::Error::NoDeployments));
    }
    let place = place::find(global, &config, Missing::Create)?;
    let stop = Stop::on_signals("stopping: running calls finish first; once more to stop at once")?;
    let backend = backends::open(&place, &config, Need::Work).await?;
    if !global.quiet {
        let serves: Vec<String> =
            deployments.iter().map(|deployment| format!("{} ({})", deployment.group, deployment.provider)).collect();
        ui::tell(&format!("worker: serves {}; up to {} calls at once", serves.join(", "), config.concurrency));
    }
    let options = gristmill_worker::Options {
        health_listen: config.health_listen,
        metrics_addr: config.metrics_addr,
        limits: gristmill_worker::reload::limits(&config, sources),
        ..gristmill_worker::Options::from_config(&config, &backend, deployments)?
    };
    let abort = stop.abort.clone();
    tokio::select! {
        outcome = gristmill_worker::run(options, stop.drain.clone(), stop.abort.clone()) => outcome?,
        () = abort.cancelled() => return Ok(Exit::Interrupted),
    }
    backend.close().await;
    Ok(Exit::Success)
}
