//! Rows of a CSV file with a heading, each of bounded length.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use super::line::{self, Bad, Request, Rules};
use super::{MAX_LINE_BYTES, SHOWN_COLUMNS};

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Reads the rows of a table as requests.
pub(super) struct Table<R> {
    reader: csv::Reader<Rationed<R>>,
    columns: Vec<String>,
    record: csv::ByteRecord,
    left: Rc<Cell<usize>>,
    /// Rows read, the heading included: numbers as a spreadsheet shows them.
    rows: u64,
    ended: bool,
}

impl<R: Read> Table<R> {
    /// Reads the heading; the inner error is what is wrong with it.
    pub(super) fn new(reader: R, delimiter: u8, prompt_column: &str) -> io::Result<Result<Self, String>> {
        let left = Rc::new(Cell::new(MAX_LINE_BYTES));
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(Rationed { reader, left: Rc::clone(&left) });
        let columns: Vec<String> = match reader.byte_headers() {
            Ok(heading) => heading.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect(),
            Err(_) if left.get() == 0 => return Ok(Err("has no heading: its first row does not end".to_owned())),
            Err(error) => return Err(error.into()),
        };
        if columns.iter().all(String::is_empty) {
            return Ok(Err("holds no requests".to_owned()));
        }
        if !columns.iter().any(|name| name == prompt_column) {
            let shown: Vec<&str> = columns.iter().map(String::as_str).take(SHOWN_COLUMNS).collect();
            let what = format!("has no column `{prompt_column}`; name one with --prompt-column: {}", shown.join(", "));
            return Ok(Err(what));
        }
        if let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
            return Ok(Err(format!("has two columns `{}`; rename one", twice.1)));
        }
        Ok(Ok(Self { reader, columns, record: csv::ByteRecord::new(), left, rows: 1, ended: false }))
    }

    /// Reads the next row with its number; the heading is row 1.
    pub(super) fn next(&mut self, rules: Rules<'_>) -> io::Result<Option<(u64, Result<Request, Bad>)>> {
        if self.ended {
            return Ok(None);
        }
        self.rows += 1;
        // What stands in the buffer was read under the ration before.
        self.left.set(MAX_LINE_BYTES);
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(_) if self.left.get() == 0 => {
                self.ended = true;
                let reason =
                    format!("a field that begins here does not end within {MAX_LINE_BYTES} bytes; is a quote missing?");
                return Ok(Some((self.rows, Err(Bad { custom_id: None, reason }))));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Some((self.rows, self.request(rules))))
    }

    fn request(&self, rules: Rules<'_>) -> Result<Request, Bad> {
        let bad = |reason| Bad { custom_id: None, reason };
        let (found, expected) = (self.record.len(), self.columns.len());
        if found != expected {
            return Err(bad(format!("has {found} fields, the heading has {expected}")));
        }
        let mut cells = Vec::with_capacity(found);
        for (column, cell) in self.columns.iter().zip(&self.record) {
            cells.push((column, line::text(cell).map_err(|reason| bad(format!("{column} {reason}")))?.to_owned()));
        }
        line::of_row(self.rows, rules, cells.into_iter())
    }
}

/// Lets so many bytes through and then fails: a missing quote must not fill the memory.
struct Rationed<R> {
    reader: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.left.get());
        if room == 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.reader.read(&mut buffer[..room])?;
        self.left.set(self.left.get() - count);
        Ok(count)
    }
}
