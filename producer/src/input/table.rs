//! Rows of a CSV file with a heading, each of bounded length.
//!
//! Strict where a lenient reader loses rows without a word: a quote that is missing or too many makes one field of many
//! rows. From there on nobody can tell which line breaks end rows, so the reading stops there and says so.
//!
//! Format: RFC 4180, with any line ends and a quote within an unquoted field taken as it stands, as spreadsheets do.

use std::io::{self, BufRead, BufReader, Read};

use super::line::{self, Bad, Request, Rules};
use super::{BOM, MAX_LINE_BYTES, SHOWN_COLUMNS};

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// What stands behind the reason why the reading stopped.
const UNREAD: &str = "the rows behind it were not read, for it cannot be told where they begin";

/// Reads the rows of a table as requests.
pub(super) struct Table<R> {
    rows: Rows<R>,
    columns: Vec<String>,
    ended: bool,
}

impl<R: Read> Table<R> {
    /// Reads the heading; the inner error is what is wrong with it.
    pub(super) fn new(reader: R, delimiter: u8, prompt_column: &str) -> io::Result<Result<Self, String>> {
        let mut rows = Rows::new(reader, delimiter);
        let mut columns: Vec<String> = match rows.next()? {
            Next::Row => rows.fields().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect(),
            Next::TooLong(_) => return Ok(Err("has no heading: its first row does not end".to_owned())),
            Next::Ambiguous(what) => return Ok(Err(format!("has no heading that can be read: {what}"))),
            Next::Blank | Next::End => Vec::new(),
        };
        // Spreadsheets write as many fields as any row has.
        columns.truncate(columns.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1));
        if columns.is_empty() {
            return Ok(Err("holds no requests".to_owned()));
        }
        if !columns.iter().any(|name| name == prompt_column) {
            return Ok(Err(no_column(&columns, delimiter, prompt_column)));
        }
        if let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
            return Ok(Err(format!("has two columns `{}`; rename one", twice.1)));
        }
        Ok(Ok(Self { rows, columns, ended: false }))
    }

    /// Reads the next row with its number; the heading is row 1.
    pub(super) fn next(&mut self, rules: Rules<'_>) -> io::Result<Option<(u64, Result<Request, Bad>)>> {
        if self.ended {
            return Ok(None);
        }
        let bad = |reason| Err(Bad { custom_id: None, reason });
        let request = match self.rows.next()? {
            Next::Blank | Next::End => return Ok(None),
            Next::Row => self.request(rules),
            Next::TooLong(bytes) => bad(format!("has {bytes} bytes, at most {MAX_LINE_BYTES} are taken")),
            Next::Ambiguous(what) => {
                self.ended = true;
                bad(format!("{what}; {UNREAD}"))
            }
        };
        Ok(Some((self.rows.number, request)))
    }

    /// Tells whether the reading stopped at a row, so that nobody knows what is behind it.
    pub(super) const fn is_cut_short(&self) -> bool {
        self.ended
    }

    fn request(&self, rules: Rules<'_>) -> Result<Request, Bad> {
        let bad = |reason| Bad { custom_id: None, reason };
        let (found, expected) = (self.rows.ends.len(), self.columns.len());
        if found < expected || self.rows.fields().skip(expected).any(|field| !field.is_empty()) {
            return Err(bad(format!("has {found} fields, the heading has {expected}")));
        }
        let mut cells = Vec::with_capacity(expected);
        for (column, cell) in self.columns.iter().zip(self.rows.fields()) {
            cells.push((column, line::text(cell).map_err(|reason| bad(format!("{column} {reason}")))?.to_owned()));
        }
        line::of_row(self.rows.number, rules, cells.into_iter())
    }
}

/// Says that a column is not there; what is parted by something else is told with it.
fn no_column(columns: &[String], delimiter: u8, prompt_column: &str) -> String {
    if let [only] = columns {
        let others = [(b';', "`;`"), (b'\t', "tabs"), (b'|', "`|`"), (b',', "commas")];
        let found = others.into_iter().find(|(other, _)| *other != delimiter && only.as_bytes().contains(other));
        if let Some((_, name)) = found {
            let expected = if delimiter == b'\t' { "tabs, as .tsv has it" } else { "commas" };
            return format!(
                "has its columns parted by {name}, not by {expected}; save it as CSV with commas, or as .tsv with tabs"
            );
        }
    }
    let shown: Vec<&str> = columns.iter().map(String::as_str).take(SHOWN_COLUMNS).collect();
    format!("has no column `{prompt_column}`; name one with --prompt-column: {}", shown.join(", "))
}

/// Where the reading stands within a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first byte of a field.
    Start,
    Plain,
    Quoted,
    /// Behind a quote within quotes: it ends the field, or is the first of two that mean one.
    Behind,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// A row; its fields can be read.
    Row,
    /// A row that holds nothing at all.
    Blank,
    /// A row of so many bytes, which was passed over.
    TooLong(usize),
    /// A row of which the end cannot be told; why, and what to do.
    Ambiguous(&'static str),
    End,
}

/// Takes rows apart.
struct Rows<R> {
    reader: BufReader<R>,
    delimiter: u8,
    /// The number of the row that was read last, as a spreadsheet shows it: blank rows count, line breaks within quotes do
    /// not.
    number: u64,
    /// The fields of the row one behind the other, and where each of them ends.
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Whether the row before ended with CR: an LF then belongs to it.
    after_cr: bool,
}

impl<R: Read> Rows<R> {
    fn new(reader: R, delimiter: u8) -> Self {
        let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        Self { reader, delimiter, number: 0, text: Vec::new(), ends: Vec::new(), after_cr: false }
    }

    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end])
    }

    /// Reads the next row that is not blank.
    fn next(&mut self) -> io::Result<Next> {
        loop {
            self.text.clear();
            self.ends.clear();
            if self.number == 0 {
                self.skip_mark()?;
            }
            let next = self.row()?;
            if next != Next::Blank {
                return Ok(next);
            }
        }
    }

    fn row(&mut self) -> io::Result<Next> {
        const OPEN: &str = "a quoted field that begins in this row does not end; add the quote that is missing";
        const BEHIND: &str = "text stands behind a closing quote: a quote is missing before, or one within a field is not doubled (\"\")";

        let mut state = State::Start;
        let mut length = 0_usize;
        loop {
            let available = fill(&mut self.reader)?;
            if available.is_empty() {
                let is_nothing = length == 0;
                self.number += u64::from(!is_nothing);
                return Ok(match state {
                    _ if is_nothing => Next::End,
                    State::Quoted => Next::Ambiguous(OPEN),
                    _ if length > MAX_LINE_BYTES => Next::TooLong(length),
                    _ => {
                        self.ends.push(self.text.len());
                        Next::Row
                    }
                });
            }
            let mut used = 0;
            let mut ended = false;
            let mut is_strange = false;
            for byte in available.iter().copied() {
                used += 1;
                if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                    continue;
                }
                length += 1;
                let is_kept = length <= MAX_LINE_BYTES;
                state = match (state, byte) {
                    (State::Quoted, b'"') => State::Behind,
                    (State::Quoted, _) => {
                        if !is_kept {
                            break;
                        }
                        self.text.push(byte);
                        State::Quoted
                    }
                    (State::Start, b'"') => State::Quoted,
                    (State::Behind, b'"') => {
                        self.text.push(byte);
                        State::Quoted
                    }
                    (_, b'\r' | b'\n') => {
                        self.after_cr = byte == b'\r';
                        ended = true;
                        break;
                    }
                    (_, byte) if byte == self.delimiter => {
                        if is_kept {
                            self.ends.push(self.text.len());
                        }
                        State::Start
                    }
                    (State::Behind, _) => {
                        is_strange = true;
                        break;
                    }
                    (State::Start | State::Plain, _) => {
                        if is_kept {
                            self.text.push(byte);
                        }
                        State::Plain
                    }
                };
            }
            self.reader.consume(used);
            if ended {
                self.number += 1;
                self.ends.push(self.text.len());
                // Its end is no part of it.
                return Ok(match length - 1 {
                    0 => Next::Blank,
                    bytes if bytes > MAX_LINE_BYTES => Next::TooLong(bytes),
                    _ => Next::Row,
                });
            }
            if is_strange {
                self.number += 1;
                return Ok(Next::Ambiguous(BEHIND));
            }
            if state == State::Quoted && length > MAX_LINE_BYTES {
                self.number += 1;
                return Ok(Next::Ambiguous(TOO_LONG));
            }
        }
    }

    fn skip_mark(&mut self) -> io::Result<()> {
        if fill(&mut self.reader)?.starts_with(BOM) {
            self.reader.consume(BOM.len());
        }
        Ok(())
    }
}

/// Written out, for the limit stands in no constant text: [`MAX_LINE_BYTES`].
const TOO_LONG: &str =
    "a quoted field that begins in this row does not end within 16 MiB; add the quote that is missing";

fn fill<R: Read>(reader: &mut BufReader<R>) -> io::Result<&[u8]> {
    loop {
        match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Asked again, since the borrow of a first answer would last.
            Err(error) => return Err(error),
            Ok(_) => return Ok(reader.buffer()),
        }
    }
}

/// Reads all rows; for tests.
#[cfg(test)]
pub(super) fn read_all(text: &[u8], delimiter: u8) -> Vec<Vec<String>> {
    // One byte at a time, so that nothing hangs on where a buffer ends.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }

    let mut rows = Rows::new(Slow(text), delimiter);
    let mut read = Vec::new();
    while rows.next().unwrap() == Next::Row {
        read.push(rows.fields().map(|field| String::from_utf8(field.to_vec()).unwrap()).collect());
    }
    read
}
