//! Looking: list, status.

use std::time::Duration;

use chrono::{DateTime, Utc};
use gristmill_common::backend::Need;
use gristmill_common::batch::Batch;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::store::{BatchSelector, DeploymentReport, Wait};
use gristmill_producer::{Producer, Status, Unserved};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::jobs;
use super::pace;
use super::progress::{Progress, Style, View};
use super::stop::Stop;
use super::table::{ago, cached_and_saved, columns, cost, count, duration, plural, soon};
use super::ui;

/// How often a batch that is watched is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Digits of an id that are shown in lists; enough to name a batch by.
const SHORT_ID: usize = 13;

const LIST_EXAMPLES: &str = "\
Examples:
  gristmill list
  gristmill list --limit 5 --json
  gristmill list --jobs sweep-7              the jobs of a batch
  gristmill list --jobs --failed sweep-7     those that failed or expired, with their errors";

#[derive(Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArgs {
    /// The batch whose jobs are listed: its name, its id, the beginning of its id, or @last
    #[arg(value_name = "BATCH", default_value = "@last", requires = "jobs")]
    batch: String,
    /// List the jobs of a batch
    #[arg(long)]
    jobs: bool,
    /// List only jobs that failed or expired
    #[arg(long, requires = "jobs")]
    failed: bool,
    /// Show at most this many, the newest batch or the first job first
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

pub(super) async fn list(global: &Global, args: &ListArgs) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    if args.jobs {
        return jobs::list(global, &backend, &args.batch, args.failed, args.limit).await;
    }
    let batches = backend.store.batches(args.limit).await?;
    if global.json {
        ui::json(&batches)?;
        return Ok(Exit::Success);
    }
    if batches.is_empty() {
        ui::line("no batches yet; make one with `gristmill submit FILE` or `gristmill run FILE -o OUT`")?;
        return Ok(Exit::Success);
    }
    let heading = ["NAME", "ID", "STATE", "DONE", "FAILED", "COST", "SUBMITTED"].map(str::to_owned).to_vec();
    let now = SystemClock.now();
    let row = |batch: &Batch| {
        vec![
            if batch.simulated { format!("{} (simulated)", batch.name) } else { batch.name.clone() },
            batch.id.to_string().chars().take(SHORT_ID).collect(),
            batch.state.as_str().to_owned(),
            format!("{}/{}", count(batch.counters.done()), count(batch.total.unwrap_or(batch.recorded))),
            count(batch.counters.failed + batch.counters.expired),
            cost(batch.cost_usd()),
            ago(batch.created_at, now),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(batches.iter().map(row)).collect();
    ui::out(columns(&rows).as_bytes())?;
    Ok(Exit::Success)
}

const STATUS_EXAMPLES: &str = "\
Examples:
  gristmill status sweep-7
  gristmill status --watch
  gristmill status @last --json";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(super) struct StatusArgs {
    /// The batch: its name, its id, the beginning of its id, or @last
    #[arg(default_value = "@last")]
    batch: String,
    /// Go on showing it until the batch has ended; with --json a line every second
    #[arg(long, short = 'w')]
    watch: bool,
    /// How --watch shows it
    #[arg(long, value_enum, default_value = "auto", requires = "watch")]
    progress: Style,
}

pub(super) async fn status(global: &Global, args: &StatusArgs) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    let producer = Producer::on(&backend);
    if args.watch {
        return watch(global, args, &producer).await;
    }
    let status = producer.status(&Producer::selector(&args.batch)).await?;
    if global.json {
        ui::json(&status)?;
    } else {
        ui::out(describe(&status, SystemClock.now()).as_bytes())?;
    }
    Ok(Exit::Success)
}

/// Shows a batch until it has ended; `@last` stays the one that it was.
async fn watch(global: &Global, args: &StatusArgs, producer: &Producer) -> Result<Exit, Fault> {
    let stop = Stop::on_signals("stopping to watch; the batch goes on")?;
    let batch = BatchSelector::Id(producer.batch(&Producer::selector(&args.batch)).await?.id);
    let mut progress = Progress::new(if global.json { Style::None } else { args.progress }, global);
    let mut before = None;
    loop {
        let status = producer.status(&batch).await?;
        let mut view = View::of_status(&status);
        view.before = *before.get_or_insert(view.done);
        if global.json {
            ui::json(&status)?;
        } else {
            progress.show(&mut view);
        }
        if status.batch.state.is_ended() {
            drop(progress);
            if !global.json {
                ui::out(describe(&status, SystemClock.now()).as_bytes())?;
            }
            return Ok(Exit::Success);
        }
        tokio::select! {
            () = stop.drain.cancelled() => return Ok(Exit::Interrupted),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

fn describe(status: &Status, now: DateTime<Utc>) -> String {
    let Status { batch, cached, held, waiting, errors, paused, waits, unserved, workers, in_flight: _, models, eta_s } =
        status;
    let counters = &batch.counters;
    let mut rows = vec![
        vec!["batch".to_owned(), format!("{} ({})", batch.name, batch.id)],
        vec!["state".to_owned(), state(batch)],
        vec![
            "done".to_owned(),
            format!("{} of {}", count(counters.done()), count(batch.total.unwrap_or(batch.recorded))),
        ],
    ];
    let mut add = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    for (name, number) in [
        ("succeeded", counters.succeeded),
        ("failed", counters.failed),
        ("cancelled", counters.cancelled),
        ("expired", counters.expired),
        ("running", *held),
        ("waiting", *waiting),
    ] {
        if number > 0 {
            add(name, count(number));
        }
    }
    add("calls", count(batch.calls));
    add("tokens", format!("{} in, {} out", count(batch.input_tokens), count(batch.output_tokens)));
    add("cost", cost(batch.cost_usd()));
    if *cached > 0 {
        add("cached", cached_and_saved(*cached, counters.done(), batch.saved_usd()));
    }
    if !batch.state.is_ended() {
        add("workers", count(*workers as u64));
        if *workers == 0 {
            add("waits for", "a worker: start one with `gristmill worker`".to_owned());
        }
        for Unserved { model, near } in unserved {
            let near = near.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            add("waits for", format!("a worker that serves `{model}`{near}"));
        }
        for pace in models {
            add("model", format!("{}: {}", pace.model, pace::describe(pace)));
        }
        if let Some(eta_s) = eta_s {
            add("to go", duration(Duration::from_secs(*eta_s)));
        }
        // Of pauses, deployments tell.
        for why in models.iter().filter(|pace| pace.is_used_up).filter_map(|pace| pace.held_up.as_ref()) {
            add("waits for", why.clone());
        }
        let paused: Vec<String> = paused.iter().filter_map(DeploymentReport::reason).collect();
        paused.iter().for_each(|reason| add("waits for", reason.clone()));
        for Wait { reason, jobs, until, .. } in waits {
            let Some(reason) = reason.as_ref().filter(|reason| !paused.contains(reason)) else { continue };
            let until = until.map(|until| format!(", next {}", soon(until, now))).unwrap_or_default();
            add("waits for", format!("{reason}: {}{until}", plural(*jobs, "job")));
        }
    }
    for error in errors {
        let example = error.example.lines().next().unwrap_or_default();
        add("error", format!("{} × {}: {example}", count(error.count), error.class));
    }
    columns(&rows)
}

fn state(batch: &Batch) -> String {
    use gristmill_common::batch::BatchState;

    let simulated = if batch.simulated { ", simulated" } else { "" };
    let remark = match batch.state {
        BatchState::Interrupted => " (its submission stopped early; submit the same input again to go on)",
        _ => "",
    };
    format!("{}{simulated}{remark}", batch.state.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gristmill_common::batch::{BatchState, Counters};
    use gristmill_common::id::BatchId;
    use gristmill_common::job::Priority;
    use gristmill_common::store::ErrorCount;

    #[test]
    fn a_status_says_what_counts_and_what_it_waits_for() {
        let time = DateTime::from_timestamp_millis(1_795_400_000_000).unwrap();
        let wait = |jobs, reason: &str, seconds: Option<i64>| Wait {
            group: "gpt-4o".into(),
            reason: Some(reason.into()),
            jobs,
            until: seconds.map(|seconds| time + chrono::TimeDelta::seconds(seconds)),
        };
        let batch = Batch {
            id: BatchId::new(time),
            name: "sweep-7".into(),
            project: None,
            priority: Priority::Standard,
            simulated: true,
            state: BatchState::Running,
            recorded: 1_500,
            published_through: 1_500,
            total: Some(1_500),
            counters: Counters { succeeded: 10, failed: 2, cancelled: 0, expired: 0 },
            calls: 15,
            input_tokens: 12_000,
            output_tokens: 900,
            cost_pico_usd: Some(12_300_000_000),
            saved_pico_usd: 2_500_000_000,
            created_at: time,
            finished_at: None,
            cancel_requested_at: None,
        };
        let status = Status {
            batch,
            cached: 3,
            held: 4,
            waiting: 0,
            errors: vec![ErrorCount { class: "Timeout".into(), count: 2, example: "too\nlate".into() }],
            paused: vec![DeploymentReport {
                deployment: "gpt-4o".into(),
                group: "gpt-4o".into(),
                paused: Some("set OPENAI_API_KEY (401)".into()),
                class: None,
            }],
            waits: vec![
                wait(3, "deployment gpt-4o: set OPENAI_API_KEY (401)", None),
                wait(1_200, "retry after Timeout", Some(90)),
                wait(1, "released", Some(0)),
            ],
            unserved: vec![
                Unserved { model: "gpt-4i".into(), near: Some("gpt-4o".into()) },
                Unserved { model: "llama".into(), near: None },
            ],
            workers: 1,
            in_flight: 4,
            models: vec![pace::of_a_busy_model()],
            eta_s: Some(149),
        };
        let text = describe(&status, time);
        let (_, rest) = text.split_once('\n').unwrap();
        assert_eq!(
            rest,
            "state      running, simulated\ndone       12 of 1,500\nsucceeded  10\nfailed     2\nrunning    4\ncalls      15\n\
             tokens     12,000 in, 900 out\ncost       $0.0123\ncached     3 (25 %), $0.00250 saved\nworkers    1\n\
             waits for  a worker that serves `gpt-4i`; did you mean `gpt-4o`?\nwaits for  a worker that serves `llama`\n\
             model      gpt-4o: 9.8 calls/s, 4,100 tokens/s, 98% of 600 rpm, 30 in flight, 1,312 wait for quota, 12 wait for a retry\n\
             to go      2m29s\n\
             waits for  deployment gpt-4o: set OPENAI_API_KEY (401)\nwaits for  retry after Timeout: 1,200 jobs, next in 1m30s\n\
             waits for  released: 1 job, next now\nerror      2 × Timeout: too\n"
        );
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["name"], &json["succeeded"], &json["held"]), (&"sweep-7".into(), &10.into(), &4.into()));
    }
}
