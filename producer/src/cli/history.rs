//! `history`: the runs that ended last, over all batches.

use chrono::{DateTime, Utc};
use gristmill_common::backend::Need;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::price::PicoUsd;
use gristmill_common::store::{HistoryScope, PastRun};
use gristmill_producer::Producer;
use serde_json::{Value, json};

use super::Global;
use super::backends;
use super::costs::dollars;
use super::fault::{Exit, Fault};
use super::plot::span;
use super::table::{ago, columns, count, money};
use super::ui;
use super::when;

/// Characters of an error's message that are shown.
const EXCERPT: usize = 60;

const EXAMPLES: &str = "\
Examples:
  gristmill history                          the last ten
  gristmill history --failed --limit 20
  gristmill history --model gpt-4o --json
  gristmill show BATCH/CUSTOM_ID             all of one

The newest first, by the time at which they ended; of each batch those that were committed last.
With --model the last 100,000 results of each batch are looked through.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Show only what failed or expired
    #[arg(long)]
    failed: bool,
    /// Show only requests for this model
    #[arg(long, value_name = "MODEL", value_parser = when::model)]
    model: Option<String>,
    /// Show only those of this batch: its name, its id, the beginning of its id, or @last
    #[arg(long, value_name = "BATCH")]
    batch: Option<String>,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    let batch = match &args.batch {
        Some(batch) => Some(Producer::on(&backend).batch(&Producer::selector(batch)).await?.id),
        None => None,
    };
    let scope = HistoryScope { batch, failed: args.failed, model: args.model.clone() };
    let runs = backend.store.history(&scope, args.limit).await?;
    if global.json {
        ui::json(&json!({ "runs": runs.iter().map(machine).collect::<Vec<_>>() }))?;
    } else if runs.is_empty() {
        ui::line(if args.failed { "nothing has failed" } else { "nothing has ended yet" })?;
    } else {
        ui::out(table(&runs, SystemClock.now()).as_bytes())?;
    }
    Ok(Exit::Success)
}

fn table(runs: &[PastRun], now: DateTime<Utc>) -> String {
    let shows_errors = runs.iter().any(|run| run.class.is_some());
    let mut heading = ["WHEN", "JOB", "MODEL", "STATUS", "CALLS", "TOOK", "TOKENS", "COST"].map(str::to_owned).to_vec();
    if shows_errors {
        heading.push("ERROR".to_owned());
    }
    let rows: Vec<_> = std::iter::once(heading).chain(runs.iter().map(|run| row(run, now))).collect();
    columns(&rows)
}

fn row(run: &PastRun, now: DateTime<Utc>) -> Vec<String> {
    let again = if run.run > 1 { format!(" (run {})", run.run) } else { String::new() };
    let tokens = |tokens: Option<u32>| tokens.map_or_else(|| "?".to_owned(), |tokens| count(u64::from(tokens)));
    let status = match (run.cached, run.simulated) {
        (true, _) => format!("{}, cached", run.status),
        (false, true) => format!("{}, simulated", run.status),
        (false, false) => run.status.to_string(),
    };
    vec![
        ago(run.finished_at, now),
        format!("{}/{}{again}", run.batch, clean(&run.custom_id)),
        run.model.clone(),
        status,
        count(u64::from(run.attempts)),
        run.latency_ms.map(span).unwrap_or_else(|| "-".to_owned()),
        match run.usage.is_told() {
            true => format!("{} in, {} out", tokens(run.usage.input_tokens), tokens(run.usage.output_tokens)),
            false => "-".to_owned(),
        },
        match run.cost_pico_usd {
            Some(cost) => money(PicoUsd(cost).dollars()),
            None if run.attempts == 0 => "-".to_owned(),
            None => "unknown".to_owned(),
        },
        error(run),
    ]
}

fn error(run: &PastRun) -> String {
    let Some(class) = &run.class else { return String::new() };
    let message = run.message.as_deref().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let message = clean(&message);
    match message.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{class}: {}…", &message[..end]),
        None if message.is_empty() => class.to_string(),
        None => format!("{class}: {message}"),
    }
}

/// Makes a text fit for a line of a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn machine(run: &PastRun) -> Value {
    json!({
        "finished_at": run.finished_at, "batch_id": run.batch_id, "batch": run.batch, "job_id": run.job_id, "run": run.run,
        "custom_id": run.custom_id, "model": run.model, "provider": run.provider, "deployment": run.deployment,
        "status": run.status, "simulated": run.simulated, "cached": run.cached, "attempts": run.attempts,
        "latency_ms": run.latency_ms, "ttft_ms": run.ttft_ms, "usage": run.usage, "cost_pico_usd": run.cost_pico_usd,
        "cost_usd": run.cost_pico_usd.map(|cost| dollars(PicoUsd(cost))), "error_class": run.class.as_deref(),
        "error_message": run.message,
    })
}

#[cfg(test)]
mod tests {
    use gristmill_common::id::{BatchId, JobId};
    use gristmill_common::outcome::{Status, Usage};

    use super::*;

    fn past() -> PastRun {
        let now = DateTime::from_timestamp_millis(1_795_400_000_000).unwrap();
        let batch_id = BatchId::new(now);
        PastRun {
            job_id: JobId::derive(batch_id, 0),
            run: 1,
            batch_id,
            batch: "sweep".to_owned(),
            simulated: false,
            custom_id: "line-0".to_owned(),
            model: "gpt-4o".to_owned(),
            provider: Some("openai".to_owned()),
            deployment: Some("gpt-4o".to_owned()),
            status: Status::Succeeded,
            finished_at: now,
            attempts: 1,
            latency_ms: Some(1_240),
            ttft_ms: Some(300),
            usage: Usage { input_tokens: Some(1_200), output_tokens: Some(30), ..Usage::default() },
            cost_pico_usd: Some(3_300_000_000),
            cached: false,
            class: None,
            message: None,
        }
    }

    #[test]
    fn a_line_says_what_counts() {
        let failed = PastRun {
            run: 2,
            custom_id: "line\n1".to_owned(),
            status: Status::Failed,
            attempts: 4,
            usage: Usage::default(),
            cost_pico_usd: None,
            class: Some("APIError".into()),
            message: Some(format!("no\n  more {}", "x".repeat(80))),
            ..past()
        };
        let cancelled = PastRun {
            status: Status::Cancelled,
            attempts: 0,
            latency_ms: None,
            class: Some("CancelledError".into()),
            ..failed.clone()
        };
        let cached = PastRun { cached: true, cost_pico_usd: Some(0), ..past() };
        let now = past().finished_at + chrono::TimeDelta::seconds(90);
        let excerpt = format!("no more {}…", "x".repeat(EXCERPT - 8));
        assert_eq!(
            table(&[past(), failed, PastRun { message: None, ..cancelled }, cached], now),
            format!(
                "WHEN       JOB                   MODEL   STATUS             CALLS  TOOK  TOKENS            COST      ERROR\n\
                 1m30s ago  sweep/line-0          gpt-4o  succeeded          1      1.2s  1,200 in, 30 out  $0.00330\n\
                 1m30s ago  sweep/line 1 (run 2)  gpt-4o  failed             4      1.2s  -                 unknown   APIError: {excerpt}\n\
                 1m30s ago  sweep/line 1 (run 2)  gpt-4o  cancelled          0      -     -                 -         CancelledError\n\
                 1m30s ago  sweep/line-0          gpt-4o  succeeded, cached  1      1.2s  1,200 in, 30 out  $0.00\n"
            )
        );
    }

    #[test]
    fn programs_read_exact_amounts() {
        let json = machine(&past());
        assert_eq!((&json["cost_pico_usd"], &json["cost_usd"]), (&3_300_000_000_i64.into(), &"0.003300000000".into()));
        assert_eq!((&json["usage"]["input_tokens"], &json["status"]), (&1_200.into(), &"succeeded".into()));
    }
}
