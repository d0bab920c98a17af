//! The requests of an input one by one, whatever its format: the same in each pass.

use std::io::{self, Read};

use super::line::{self, Bad, Request, Rules};
use super::reader::{Lines, Next};
use super::source::Layout;
use super::sweep::Naming;
use super::table::Table;
use super::{Defaults, Error, MAX_LINE_BYTES, Source, Unit};

/// What a plain line calls its prompt unless the user says otherwise.
const PROMPT: &str = "prompt";

/// Reads an input from its beginning.
pub(super) struct Requests<'a> {
    source: &'a Source,
    rules: Rules<'a>,
    naming: Naming,
    format: Format,
    /// Requests that may still be read.
    left: u64,
}

enum Format {
    Lines(Lines<Box<dyn Read>>),
    Table(Table<Box<dyn Read>>),
}

/// A line or row that holds something.
pub(super) struct Item {
    /// The number of its line or row, from 1.
    pub(super) number: u64,
    pub(super) request: Result<Request, Bad>,
}

impl<'a> Requests<'a> {
    pub(super) fn open(source: &'a Source, defaults: &'a Defaults) -> Result<Self, Error> {
        let column = defaults.prompt_column.as_deref();
        let rules = Rules {
            needs_model: defaults.sweep.models.is_empty(),
            prompt_key: column.unwrap_or(PROMPT),
            directory: source.directory(),
        };
        let reader = source.reader()?;
        let format = match source.layout(column.is_some()) {
            Layout::Lines => Format::Lines(Lines::new(reader)),
            Layout::Table { delimiter } => {
                let table = Table::new(reader, delimiter, rules.prompt_key).map_err(|error| failed(source, error))?;
                Format::Table(table.map_err(|what| Error::Kind { path: source.path().to_owned(), what })?)
            }
        };
        let naming = defaults.sweep.naming();
        Ok(Self { source, rules, naming, format, left: defaults.limit.unwrap_or(u64::MAX) })
    }

    /// Returns what its numbers count.
    pub(super) const fn unit(&self) -> Unit {
        match self.format {
            Format::Lines(_) => Unit::Line,
            Format::Table(_) => Unit::Row,
        }
    }

    /// Tells whether the reading stopped before the end, at a row that makes what follows unreadable.
    pub(super) const fn is_cut_short(&self) -> bool {
        match &self.format {
            Format::Lines(_) => false,
            Format::Table(table) => table.is_cut_short(),
        }
    }

    /// Reads the next one; `None` at the end, or when as many good ones as are wanted have been read.
    pub(super) fn next(&mut self) -> Result<Option<Item>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        let read = match &mut self.format {
            Format::Lines(lines) => next_line(lines, self.rules),
            Format::Table(table) => table.next(self.rules),
        };
        let Some((number, request)) = read.map_err(|error| failed(self.source, error))? else { return Ok(None) };
        let request = request.and_then(|request| self.naming.allow(request));
        self.left -= u64::from(request.is_ok());
        Ok(Some(Item { number, request }))
    }
}

impl Requests<'_> {
    /// Passes over so many lines without a look at what they hold. Of a table, rows.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), Error> {
        let mut text = Vec::new();
        for _ in 0..count.min(self.left) {
            let Format::Lines(lines) = &mut self.format else {
                if self.next()?.is_none() {
                    break;
                }
                continue;
            };
            if lines.next(&mut text).map_err(|error| failed(self.source, error))? == Next::End {
                break;
            }
            self.left -= 1;
        }
        Ok(())
    }
}

type Read1 = Option<(u64, Result<Request, Bad>)>;

fn next_line(lines: &mut Lines<Box<dyn Read>>, rules: Rules<'_>) -> io::Result<Read1> {
    let mut text = Vec::new();
    Ok(match lines.next(&mut text)? {
        Next::End => None,
        Next::TooLong(number, bytes) => {
            let reason = format!("has {bytes} bytes, at most {MAX_LINE_BYTES} are taken");
            Some((number, Err(Bad { custom_id: None, reason })))
        }
        Next::Line(number) => Some((number, line::read(text, number, rules))),
    })
}

fn failed(source: &Source, error: io::Error) -> Error {
    Error::Io { path: source.path().to_owned(), source: error }
}
