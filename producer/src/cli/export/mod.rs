//! `export`: a batch's results as a table for other programs, row by row.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use gristmill_common::backend::Need;
use gristmill_common::store::Cursor;
use gristmill_producer::{Latest, Producer};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::stop::Stop;
use super::table::plural;
use super::ui;

#[cfg(feature = "parquet")]
mod parquet;
mod place;
mod row;
mod text;

use row::Cells;
use text::{Style, Text};

/// Rows of one read.
const PAGE_ROWS: u32 = 1_000;

const EXAMPLES: &str = "\
Examples:
  gristmill export sweep-7 -o sweep-7.csv
  gristmill export sweep-7 --format jsonl --with-bodies -o sweep-7.jsonl.gz
  gristmill export sweep-7 -o sweep-7.parquet
  gristmill export --format csv | head

A row is the latest run of a job that has ended; the columns are those of the view `results` (docs/tables.md), and
endpoint and simulated. In CSV a text that a spreadsheet would take for a formula has an apostrophe in front.
Parquet has the types that docs/reports.md lists, and is written where the program was built with --features parquet.
Without: duckdb -c \"COPY (FROM 'sweep-7.jsonl') TO 'sweep-7.parquet'\"";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The batch: its name, its id, the beginning of its id, or @last
    #[arg(default_value = "@last")]
    batch: String,
    /// How rows are written [default: as the file's name ends, else jsonl]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to this file; packed if its name ends in .gz or .zst [default: standard output]
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    /// Have the providers' whole responses as a column
    #[arg(long)]
    with_bodies: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line
    Jsonl,
    /// RFC 4180, with a heading
    Csv,
    /// Columns with types, into a file; of a program that was built with --features parquet
    Parquet,
}

/// How rows are written, and where to; standard output where there is no file.
enum Target<'a> {
    Text(Style, Option<&'a Path>),
    #[cfg(feature = "parquet")]
    Parquet(&'a Path),
}

impl Args {
    fn target(&self) -> Result<Target<'_>, Fault> {
        let file = self.output.as_deref().filter(|output| *output != Path::new("-"));
        let name = file.unwrap_or_else(|| Path::new("")).to_string_lossy().to_lowercase();
        let packed = [".gz", ".zst"].into_iter().find_map(|ending| name.strip_suffix(ending));
        let plain = packed.unwrap_or(&name);
        let of_name = if plain.ends_with(".csv") {
            Format::Csv
        } else if plain.ends_with(".parquet") {
            Format::Parquet
        } else {
            Format::Jsonl
        };
        match self.format.unwrap_or(of_name) {
            Format::Jsonl => Ok(Target::Text(Style::Jsonl, file)),
            Format::Csv => Ok(Target::Text(Style::Csv, file)),
            Format::Parquet => Target::parquet(file, packed.is_some()),
        }
    }
}

impl<'a> Target<'a> {
    #[cfg(feature = "parquet")]
    fn parquet(file: Option<&'a Path>, is_packed: bool) -> Result<Self, Fault> {
        let Some(file) = file else {
            return Err(Fault::new("Parquet is written into a file").hint("gristmill export -o rows.parquet"));
        };
        if is_packed {
            return Err(Fault::new("Parquet is packed in itself").hint("give a file that ends in .parquet"));
        }
        Ok(Self::Parquet(file))
    }

    #[cfg(not(feature = "parquet"))]
    fn parquet(_: Option<&'a Path>, _: bool) -> Result<Self, Fault> {
        Err(Fault::new("this program was built without Parquet")
            .hint("build it with `--features parquet`")
            .hint("or export JSON lines, and: duckdb -c \"COPY (FROM 'rows.jsonl') TO 'rows.parquet'\""))
    }

    fn open(&self, with_bodies: bool) -> Result<Box<dyn Table>, Fault> {
        Ok(match *self {
            Self::Text(style, file) => Box::new(Text::open(style, file, with_bodies)?),
            #[cfg(feature = "parquet")]
            Self::Parquet(file) => Box::new(parquet::Groups::open(file, with_bodies)?),
        })
    }
}

/// What rows are written to. A file takes the place of the former one once it is finished, and never if this is dropped before.
trait Table {
    /// Adds a row.
    fn add(&mut self, cells: Cells) -> Result<(), Fault>;

    /// Passes rows on; false where nobody reads any more.
    fn flush(&mut self) -> Result<bool, Fault>;

    /// Ends the table and returns the file that it is in, if it is in one.
    fn finish(self: Box<Self>) -> Result<Option<PathBuf>, Fault>;
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let target = args.target()?;
    let producer = Producer::on(&backends::existing(global, Need::Store).await?);
    let batch = producer.batch(&Producer::selector(&args.batch)).await?;
    let stop = Stop::on_signals("stopping")?.drain;
    let mut latest = Latest::default();
    latest.learn_results(&producer, batch.id, false).await?;
    let mut table = target.open(args.with_bodies)?;
    let (mut cursor, mut rows) = (Cursor::default(), 0);
    loop {
        let page = producer.results(batch.id, cursor, PAGE_ROWS).await?;
        cursor = page.cursor;
        for found in page.rows.iter().filter(|found| latest.counts(found)) {
            table.add(row::cells(found, &batch, args.with_bodies))?;
            rows += 1;
        }
        if stop.is_cancelled() {
            return Ok(Exit::Interrupted);
        }
        if !table.flush()? || !page.more || page.rows.is_empty() {
            break;
        }
    }
    if let Some(path) = table.finish()?
        && !global.quiet
    {
        ui::tell(&format!("{} of {} in {}", plural(rows, "row"), batch.name, path.display()));
    }
    Ok(Exit::Success)
}
