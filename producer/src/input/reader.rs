//! Lines of bounded length from anything that reads.

use std::io::{self, BufRead, BufReader, Read};

use super::{BOM, MAX_LINE_BYTES};

/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// Reads lines without their ends; tells the number of each.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    number: u64,
}

/// What the next line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is in the buffer.
    Line(u64),
    /// It is longer than [`MAX_LINE_BYTES`] and was passed over; its length.
    TooLong(u64, usize),
    /// There is none.
    End,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, reader), number: 0 }
    }

    /// Reads the next line that is not blank into `line`.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Next> {
        loop {
            line.clear();
            let length = self.fill(line)?;
            if length == 0 {
                return Ok(Next::End);
            }
            self.number += 1;
            if length > MAX_LINE_BYTES {
                return Ok(Next::TooLong(self.number, length));
            }
            if self.number == 1 && line.starts_with(BOM) {
                line.drain(..BOM.len());
            }
            let end = line.trim_ascii_end().len();
            line.truncate(end);
            if !line.trim_ascii_start().is_empty() {
                return Ok(Next::Line(self.number));
            }
        }
    }

    /// Reads up to the end of a line; returns its length with its end, of which at most one byte too many is kept.
    fn fill(&mut self, line: &mut Vec<u8>) -> io::Result<usize> {
        let mut length = 0;
        loop {
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(available.len(), |end| end + 1);
            let room = (MAX_LINE_BYTES + 1).saturating_sub(line.len());
            line.extend_from_slice(&available[..used.min(room)]);
            self.reader.consume(used);
            length += used;
            if end.is_some() || used == 0 {
                return Ok(length);
            }
        }
    }
}
