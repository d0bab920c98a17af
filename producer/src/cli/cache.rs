//! `cache`: what the response cache keeps and what it saved; clearing and pruning it.

use gristmill_common::backend::{Backend, Need};
use gristmill_common::store::{CacheSize, UsageScope};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::table::{cached_and_saved, columns, count, plural};
use super::ui;

/// Answers that one transaction forgets.
const CHUNK: u32 = 10_000;

const EXAMPLES: &str = "\
Examples:
  gristmill cache                        what is kept, and what it saved
  gristmill cache clear --project eval   forget the answers of a project; their batches keep them
  gristmill cache prune                  forget now what a worker would forget by and by

Answers are kept for batches that were submitted with --cache on; how long, how many and for whom say cache_ttl,
cache_max_bytes and cache_scope of the workers' configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only the answers of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Forget all answers, or those of a project; the batches that have them keep them
    Clear(ClearArgs),
    /// Forget answers whose time is over, and the least recently used where they are too large together
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gristmill cache clear\n  gristmill cache clear --project eval")]
struct ClearArgs {
    /// Only the answers of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gristmill cache prune\n  GRISTMILL_CACHE_MAX_BYTES=100000000 gristmill cache prune"
)]
struct PruneArgs {}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    match args.command {
        None => show(global, &backend, args.project).await?,
        Some(Command::Clear(clear)) => {
            let project = clear.project.or(args.project);
            let mut forgotten = 0;
            loop {
                let step = backend.store.clear_cache(project.as_deref(), CHUNK).await?;
                forgotten += step;
                if step < u64::from(CHUNK) {
                    break;
                }
            }
            tell(global, forgotten)?;
        }
        Some(Command::Prune(PruneArgs {})) => {
            let mut forgotten = 0;
            loop {
                let step = backend.store.prune_cache(CHUNK).await?;
                forgotten += step;
                if step < u64::from(CHUNK) {
                    break;
                }
            }
            tell(global, forgotten)?;
        }
    }
    Ok(Exit::Success)
}

fn tell(global: &Global, forgotten: u64) -> Result<(), Fault> {
    if global.json {
        ui::json(&serde_json::json!({ "forgotten": forgotten }))?;
    } else {
        ui::line(&format!("{} forgotten", plural(forgotten, "answer")))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
async fn show(global: &Global, backend: &Backend, project: Option<String>) -> Result<(), Fault> {
    let CacheSize { answers, bytes: size, open } = backend.store.cache_size(project.as_deref()).await?;
    let parts = backend.store.usage(&UsageScope { project, ..UsageScope::default() }, &[]).await?;
    let sum = |of: fn(&gristmill_common::tally::Sums) -> i64| parts.iter().map(|part| of(&part.sums)).sum::<i64>();
    let hits = sum(|sums| sums.cached).unsigned_abs();
    let results = sum(|sums| sums.succeeded + sums.failed + sums.cancelled + sums.expired).unsigned_abs();
    let saved_usd = sum(|sums| sums.saved_pico_usd) as f64 / 1e12;
    if global.json {
        ui::json(&serde_json::json!({
            "answers": answers, "bytes": size, "calls_under_way": open, "hits": hits, "results": results,
            "saved_usd": saved_usd,
        }))?;
        return Ok(());
    }
    let rows = [
        ("answers", count(answers)),
        ("size", format!("{:.1} MiB", size as f64 / f64::from(1 << 20))),
        ("under way", count(open)),
        ("hits", cached_and_saved(hits, results, saved_usd)),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(name, text)| vec![name.to_owned(), text]).collect();
    ui::out(columns(&rows).as_bytes())?;
    Ok(())
}
