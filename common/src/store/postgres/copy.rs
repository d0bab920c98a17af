//! Rows in the binary format of COPY, by which the server takes them in at a third of the price of an INSERT from arrays.
//!
//! COPY knows no `ON CONFLICT`: one row that is there already refuses all. So callers copy at once what should be new, and
//! where that fails ([`is_there_already`]) roll back, look, and copy the rest.
//!
//! Format: <https://www.postgresql.org/docs/15/sql-copy.html>, "Binary Format", read 2026-11.

use sqlx::error::BoxDynError;
use sqlx::postgres::PgArgumentBuffer;
use sqlx::{Encode, PgConnection, Postgres};

use super::super::Error;

/// The signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &(-1_i16).to_be_bytes();
const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// How often a transaction looks again after a row turned out to be there already.
const LOOKS: u32 = 5;

/// Rows to copy, written column by column.
#[derive(Debug)]
pub(super) struct Rows {
    buffer: PgArgumentBuffer,
    columns: i16,
    /// The first value that could not be written.
    fault: Option<BoxDynError>,
}

impl Rows {
    /// Makes an empty set of rows with so many columns.
    pub(super) fn new(columns: i16) -> Self {
        let mut buffer = PgArgumentBuffer::default();
        buffer.extend_from_slice(HEADER);
        Self { buffer, columns, fault: None }
    }

    /// Begins a row.
    pub(super) fn row(&mut self) {
        self.buffer.extend_from_slice(&self.columns.to_be_bytes());
    }

    /// Writes the next column; its type must be the table's.
    pub(super) fn put<'t>(&mut self, value: impl Encode<'t, Postgres>) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&NULL);
        let length = match value.encode(&mut self.buffer) {
            Ok(null) if null.is_null() => return,
            Ok(_) => i32::try_from(self.buffer.len() - start - NULL.len()).map_err(BoxDynError::from),
            Err(error) => Err(error),
        };
        match length {
            Ok(length) => self.buffer[start..start + NULL.len()].copy_from_slice(&length.to_be_bytes()),
            Err(error) => self.fault = Some(error),
        }
    }

    /// Writes picodollars into a column of type numeric.
    pub(super) fn usd(&mut self, pico_usd: Option<i64>) {
        let Some(pico_usd) = pico_usd else { return self.buffer.extend_from_slice(&NULL) };
        self.buffer.extend_from_slice(&18_i32.to_be_bytes());
        for word in numeric(pico_usd) {
            self.buffer.extend_from_slice(&word.to_be_bytes());
        }
    }

    /// Sends the rows by a statement `COPY … FROM STDIN (FORMAT binary)`.
    pub(super) async fn copy(mut self, tx: &mut PgConnection, statement: &str) -> sqlx::Result<()> {
        if let Some(fault) = self.fault {
            return Err(sqlx::Error::Encode(fault));
        }
        self.buffer.extend_from_slice(TRAILER);
        let mut copy = tx.copy_in_raw(statement).await?;
        copy.send(self.buffer.as_slice()).await?;
        copy.finish().await?;
        Ok(())
    }
}

/// Returns the words of a numeric: digits, weight, sign, scale, then the digits to base 10,000, three of them behind the point.
fn numeric(pico_usd: i64) -> [u16; 9] {
    let sign = if pico_usd < 0 { 0x4000 } else { 0 };
    let mut words = [5, 1, sign, 12, 0, 0, 0, 0, 0];
    let mut rest = pico_usd.unsigned_abs();
    for word in words[4..].iter_mut().rev() {
        *word = u16::try_from(rest % 10_000).unwrap_or_default();
        rest /= 10_000;
    }
    words
}

/// Tells whether a transaction failed because a row is there already, and may look once more after `looks` times.
pub(super) fn is_there_already(error: &Error, looks: u32) -> bool {
    // unique_violation, https://www.postgresql.org/docs/15/errcodes-appendix.html
    let Error::Refused { source, .. } = error else { return false };
    looks < LOOKS && source.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "23505")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_in_digits_to_base_ten_thousand() {
        for (pico_usd, words) in [
            (0, [5, 1, 0, 12, 0, 0, 0, 0, 0]),
            (1, [5, 1, 0, 12, 0, 0, 0, 0, 1]),
            (-12_345_678_901_234, [5, 1, 0x4000, 12, 0, 12, 3456, 7890, 1234]),
            (i64::MAX, [5, 1, 0, 12, 922, 3372, 368, 5477, 5807]),
        ] {
            assert_eq!(numeric(pico_usd), words, "{pico_usd}");
        }
    }
}
