//! Looking: list, status.

use gristmill_common::batch::Batch;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::Overrides;
use gristmill_producer::{Producer, Status};

use super::Global;
use super::backends::{self, Backend, Need};
use super::fault::{Exit, Fault};
use super::place::{Missing, Place};
use super::table::{ago, columns, count, money};
use super::ui;

/// Digits of an id that are shown in lists; enough to name a batch by.
const SHORT_ID: usize = 13;

const LIST_EXAMPLES: &str = "\
Examples:
  gristmill list
  gristmill list --limit 5 --json";

#[derive(Debug, clap::Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(super) struct ListArgs {
    /// Show at most this many, the newest first
    #[arg(long, default_value_t = 20)]
    limit: u32,
}

pub(super) async fn list(global: &Global, args: &ListArgs) -> Result<Exit, Fault> {
    let backend = open(global).await?;
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
            money(usd(batch)),
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
  gristmill status @last --json";

#[derive(Debug, clap::Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub(super) struct StatusArgs {
    /// The batch: its name, its id, the beginning of its id, or @last
    #[arg(default_value = "@last")]
    batch: String,
}

pub(super) async fn status(global: &Global, args: &StatusArgs) -> Result<Exit, Fault> {
    let backend = open(global).await?;
    let status = backend.producer().status(&Producer::selector(&args.batch)).await?;
    if global.json {
        ui::json(&status)?;
    } else {
        ui::out(describe(&status).as_bytes())?;
    }
    Ok(Exit::Success)
}

async fn open(global: &Global) -> Result<Backend, Fault> {
    let config = backends::config(global, Overrides::default(), None)?;
    let place = Place::find(global, &config, Missing::Refuse)?;
    Backend::open(&place, &config, Need::Store).await
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn usd(batch: &Batch) -> f64 {
    batch.cost_pico_usd as f64 / 1e12
}

fn describe(status: &Status) -> String {
    let Status { batch, held, waiting, errors, paused, workers, in_flight: _ } = status;
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
    add("cost", money(usd(batch)));
    if !batch.state.is_ended() {
        add("workers", count(*workers as u64));
        if *workers == 0 {
            add("waits for", "a worker: start one with `gristmill worker`".to_owned());
        }
        for report in paused {
            let reason = report.paused.as_deref().unwrap_or("unknown");
            add("waits for", format!("deployment {}: {reason}", report.deployment));
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
    use chrono::DateTime;
    use gristmill_common::batch::{BatchState, Counters};
    use gristmill_common::id::BatchId;
    use gristmill_common::job::Priority;
    use gristmill_common::store::{DeploymentReport, ErrorCount};

    #[test]
    fn a_status_says_what_counts_and_what_it_waits_for() {
        let time = DateTime::from_timestamp_millis(1_795_400_000_000).unwrap();
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
            cost_pico_usd: 12_300_000_000,
            created_at: time,
            finished_at: None,
            cancel_requested_at: None,
        };
        let status = Status {
            batch,
            held: 4,
            waiting: 0,
            errors: vec![ErrorCount { class: "Timeout".into(), count: 2, example: "too\nlate".into() }],
            paused: vec![DeploymentReport {
                deployment: "gpt-4o".into(),
                group: "gpt-4o".into(),
                paused: Some("401: set OPENAI_API_KEY".into()),
                class: None,
            }],
            workers: 1,
            in_flight: 4,
        };
        let text = describe(&status);
        let (_, rest) = text.split_once('\n').unwrap();
        assert_eq!(
            rest,
            "state      running, simulated\ndone       12 of 1,500\nsucceeded  10\nfailed     2\nrunning    4\ncalls      15\n\
             tokens     12,000 in, 900 out\ncost       $0.0123\nworkers    1\n\
             waits for  deployment gpt-4o: 401: set OPENAI_API_KEY\nerror      2 × Timeout: too\n"
        );
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["name"], &json["succeeded"], &json["held"]), (&"sweep-7".into(), &10.into(), &4.into()));
    }
}
