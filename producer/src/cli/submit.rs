use std::path::PathBuf;
use std::time::Instant;

use gristmill_common::backend::{Backend, Need};
use gristmill_common::config::{Overrides, nearest};
use gristmill_producer::input::Checked;

use super::Global;
use super::backends;
use super::batch::{BatchArgs, describe, left_out};
use super::drive::{Drive, Output};
use super::estimate::{self, Before};
use super::fault::{Exit, Fault};
use super::first;
use super::place::{self, Missing};
use super::progress::Style;
use super::stop::Stop;
use super::table::plural;
use super::ui;

const EXAMPLES: &str = "\
Examples:
  gristmill submit prompts.jsonl --name sweep-7
  gristmill submit prompts.jsonl --name sweep-7 --wait -o out.jsonl
  gristmill submit more.jsonl --name sweep-7 --append
  generate | gristmill submit - --model gpt-4o --priority bulk";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    batch: BatchArgs,
    /// Retries after the first call [default: the worker's]
    #[arg(long, value_name = "N")]
    num_retries: Option<u16>,
    /// Wait until every job has ended
    #[arg(long)]
    wait: bool,
    /// Write the results to this file as they come, errors beside it; waits
    #[arg(long, short = 'o', alias = "output_file", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Errors into the same file as answers
    #[arg(long, requires = "output")]
    combined: bool,
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
    let follows = args.wait || args.output.is_some();
    if args.batch.fail_fast.is_some() && !follows {
        return Err(Fault::new("--fail-fast needs somebody to watch").hint("give --wait or -o as well"));
    }
    let checked = args.batch.check(global, args.num_retries).await?;
    let config = backends::config(global, Overrides::default(), None)?;
    let checked = checked.with_cache(args.batch.cache.unwrap_or(config.cache));
    let spec = args.batch.spec(&checked, false)?;
    if args.batch.dry_run {
        let forecast = estimate::of_dry_run(global, &config, &checked).await?;
        return first::dry_run(global, &checked, &[], Some(&forecast)).await;
    }
    let output = match &args.output {
        Some(path) => Output::new(path, args.combined),
        None => Output::Count,
    };
    output.probe()?;
    let place = place::find(global, &config, Missing::Create)?;
    let stop = Stop::on_signals("stopping the submission; what is submitted goes on")?;
    let backend = backends::open(&place, &config, Need::Queue).await?;
    if !global.quiet {
        warn_of_unserved(&backend, &checked).await?;
    }
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
    if follows {
        let worked = drive.to_the_end(None).await?;
        backend.close().await;
        return worked.report(global);
    }
    let submitted = drive.submit_only().await;
    backend.close().await;
    let submitted = submitted?;
    if checked.left_out() > 0 && !global.quiet {
        ui::tell(&left_out(checked.left_out()));
    }
    if submitted.batch.cancel_requested_at.is_some() {
        return Err(gristmill_producer::Error::Cancelled(submitted.batch.name).into());
    }
    if global.json {
        ui::json(&serde_json::json!({
            "batch": submitted.batch.name, "id": submitted.batch.id, "recorded": submitted.recorded_now,
            "already_there": submitted.already_there, "changed": submitted.changed,
        }))?;
    } else {
        ui::line(&describe(&submitted, args.batch.append))?;
        if !global.quiet {
            let name = &submitted.batch.name;
            ui::tell(&format!("look: gristmill status {name} · results: gristmill results {name} --follow"));
        }
    }
    Ok(Exit::Success)
}

/// Warns of models that no live worker serves.
async fn warn_of_unserved(backend: &Backend, checked: &Checked) -> Result<(), Fault> {
    let workers = backend.store.workers().await?;
    let served: Vec<&str> = workers
        .iter()
        .filter(|worker| worker.alive)
        .flat_map(|worker| worker.info.groups.iter().map(String::as_str))
        .collect();
    if served.is_empty() {
        ui::tell("warning: no worker runs now; the jobs wait until one is started with `gristmill worker`");
        return Ok(());
    }
    for (model, jobs) in checked.models.iter().filter(|(model, _)| !served.contains(&&***model)) {
        let hint = nearest(model, served.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
        ui::tell(&format!(
            "warning: no worker serves `{model}` now, the model of {}{}",
            plural(*jobs, "job"),
            hint.unwrap_or_default()
        ));
    }
    Ok(())
}
