use std::path::{Path, PathBuf};
use std::sync::Arc;

use gristmill_common::backend::Need;
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::id::BatchId;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::Cursor;
use gristmill_producer::output::{Files, line};
use gristmill_producer::{Latest, Members, Producer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Global;
use super::backends;
use super::batch::paths;
use super::fault::{Exit, Fault};
use super::follow::{Counts, Follower, Sink, Sought};
use super::stop::Stop;
use super::table::plural;
use super::ui;

/// Rows of one read.
const PAGE_ROWS: u32 = 1_000;
/// Characters of an answer that are shown.
const EXCERPT: usize = 80;

const EXAMPLES: &str = "\
Examples:
  gristmill results sweep-7                    a line of text for each result
  gristmill results sweep-7 -o out.jsonl       as files, errors in out.errors.jsonl
  gristmill results sweep-7 --json --follow    OpenAI Batch lines, as they come
  gristmill results sweep-7 --json --cursor 0-1000 --limit 500

Each custom_id stands once, with the latest run of its job. With --follow, --cursor or --limit results come as they were
written: a later run is a line of its own, and says which run it is.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The batch: its name, its id, the beginning of its id, or @last
    #[arg(default_value = "@last")]
    batch: String,
    /// Wait for more until the batch has ended
    #[arg(long, short = 'f')]
    follow: bool,
    /// Go on behind this cursor, which an earlier call told on standard error
    #[arg(long, value_name = "CURSOR", conflicts_with = "output")]
    cursor: Option<Cursor>,
    /// Read at most this many
    #[arg(long, value_name = "N", conflicts_with_all = ["output", "follow"])]
    limit: Option<u64>,
    /// Write OpenAI Batch lines to this file, errors beside it; `-` for standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Errors into the same file as answers
    #[arg(long, requires = "output")]
    combined: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let producer = Producer::on(&backends::existing(global, Need::Store).await?);
    let batch = producer.batch(&Producer::selector(&args.batch)).await?;
    let stop = Stop::on_signals("stopping")?.drain;
    let mut latest = Latest::default();
    let as_written = args.output.as_deref().is_none_or(|output| output == Path::new("-"))
        && (args.follow || args.cursor.is_some() || args.limit.is_some());
    if !as_written {
        latest.learn_results(&producer, batch.id, true).await?;
    }
    if let Some(paths) = args.output.as_deref().and_then(|output| paths(output, args.combined)) {
        let files = Box::new(Files::create(&paths, batch.id)?);
        let counts = watch::Sender::new(Counts::default());
        let sought = Sought { members: Arc::new(Members::all()), latest, since: SystemClock.now() };
        let mut follower = Follower::new(producer, batch.id, sought, Sink::Files(files), counts.clone());
        if args.follow {
            let submitted = CancellationToken::new();
            submitted.cancel();
            // To the end of the batch, however many they are.
            if !follower.run(&submitted, &stop, || u64::MAX).await? {
                return Ok(Exit::Interrupted);
            }
        } else {
            follower.catch_up().await?;
        }
        let (counts, errors) = (*counts.borrow(), follower.errors_path());
        let beside = errors.map(|path| format!(", errors in {}", path.display())).unwrap_or_default();
        ui::tell(&format!("{} in {}{beside}", plural(counts.done(), "result"), paths.answers.display()));
        return Ok(Exit::Success);
    }
    let machine = global.json || args.output.is_some();
    let text = |rows: &[ResultRow]| -> Vec<u8> {
        let rows = rows.iter().filter(|row| latest.counts(row));
        rows.flat_map(|row| if machine { line(row) } else { brief(row).into_bytes() }).collect()
    };
    let (cursor, more) = print(&producer, batch.id, &args, text, &stop).await?;
    if global.json {
        ui::tell(&serde_json::json!({ "cursor": cursor.to_string(), "more": more }).to_string());
    } else if more {
        ui::tell(&format!("more: add --cursor {cursor}"));
    }
    Ok(if stop.is_cancelled() { Exit::Interrupted } else { Exit::Success })
}

/// Prints results; returns where the next read goes on, and whether more were there.
async fn print(
    producer: &Producer,
    batch: BatchId,
    args: &Args,
    text: impl Fn(&[ResultRow]) -> Vec<u8>,
    stop: &CancellationToken,
) -> Result<(Cursor, bool), Fault> {
    let mut cursor = args.cursor.unwrap_or_default();
    if args.follow {
        let mut reader = producer.subscribe(batch, cursor, stop.clone());
        while let Some(page) = reader.next_page().await? {
            cursor = page.cursor;
            if !ui::out(&text(&page.rows))? {
                break;
            }
        }
        return Ok((cursor, false));
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let rows = u32::try_from(left.min(u64::from(PAGE_ROWS))).unwrap_or(PAGE_ROWS);
        let page = producer.results(batch, cursor, rows).await?;
        cursor = page.cursor;
        left = left.saturating_sub(page.rows.len() as u64);
        if !ui::out(&text(&page.rows))? || left == 0 || !page.more || page.rows.is_empty() {
            return Ok((cursor, page.more));
        }
    }
}

/// Says a result in one line.
fn brief(row: &ResultRow) -> String {
    let result = &row.result;
    let text = match (result.status, &result.error) {
        (Status::Succeeded, _) if result.response.is_none() => "(pruned)".to_owned(),
        (Status::Succeeded, _) => result.output_text.clone().unwrap_or_else(|| "(no text)".to_owned()),
        (_, Some(error)) => error.to_string(),
        (_, None) => String::new(),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    let run = if row.run > 1 { format!(" (run {})", row.run) } else { String::new() };
    format!("{:<9}  {}{run}  {shown}\n", row.result.status, row.custom_id)
}
