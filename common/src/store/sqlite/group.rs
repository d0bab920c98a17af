//! Statements for groups of rows, and the values that they bind.
//!
//! A statement with a `VALUES` list exists in a few sizes; a group is cut into parts of these sizes. The text of each is
//! made once, so the connection's prepared statement is found again. One execution costs a round trip to the connection's
//! thread, so groups, not rows, are what is executed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, Encode, Sqlite, SqliteConnection, Type, query_with};

/// The sizes of parts, largest first.
const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

/// A statement around a list of rows.
#[derive(Debug)]
pub(super) struct Group {
    head: &'static str,
    columns: usize,
    tail: &'static str,
    texts: [OnceLock<String>; SIZES.len()],
}

impl Group {
    /// Makes the statement `head` + `(?, …), …` + `tail` with `columns` values a row.
    pub(super) const fn new(head: &'static str, columns: usize, tail: &'static str) -> Self {
        Self { head, columns, tail, texts: [const { OnceLock::new() }; SIZES.len()] }
    }

    fn text(&'static self, size: usize) -> &'static str {
        self.texts[size].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(","));
            format!("{}{}{}", self.head, vec![row.as_str(); SIZES[size]].join(","), self.tail)
        })
    }

    /// Executes for all items; `fixed` puts the values before the list, `put` those of a row. Returns the rows affected.
    pub(super) async fn execute<T>(
        &'static self,
        tx: &mut SqliteConnection,
        items: &[T],
        fixed: impl Fn(&mut Values),
        put: impl Fn(&mut Values, &T),
    ) -> sqlx::Result<u64> {
        let mut affected = 0;
        for (size, part) in parts(items.len()) {
            let values = self.values(&items[part], &fixed, &put);
            affected += query_with(self.text(size), values.0).execute(&mut *tx).await?.rows_affected();
        }
        Ok(affected)
    }

    /// Executes for all items and collects what `read` makes of each row that comes back.
    pub(super) async fn fetch<T, R, C: FromIterator<R>>(
        &'static self,
        tx: &mut SqliteConnection,
        items: &[T],
        fixed: impl Fn(&mut Values),
        put: impl Fn(&mut Values, &T),
        read: impl Fn(&SqliteRow) -> R,
    ) -> sqlx::Result<C> {
        let mut collected = Vec::with_capacity(items.len());
        for (size, part) in parts(items.len()) {
            let values = self.values(&items[part], &fixed, &put);
            let rows = query_with(self.text(size), values.0).fetch_all(&mut *tx).await?;
            collected.extend(rows.iter().map(&read));
        }
        Ok(collected.into_iter().collect())
    }

    fn values<T>(&self, items: &[T], fixed: impl Fn(&mut Values), put: impl Fn(&mut Values, &T)) -> Values {
        let mut values = Values::default();
        values.0.reserve(items.len() * self.columns + 8, 0);
        fixed(&mut values);
        let before = values.0.len();
        for item in items {
            put(&mut values, item);
        }
        debug_assert_eq!(values.0.len() - before, items.len() * self.columns, "{}", self.head);
        values
    }
}

/// Cuts a group into parts: the index of each part's size, and its items.
fn parts(len: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let size = SIZES.iter().position(|size| *size <= len - start)?;
        let part = start..start + SIZES[size];
        start = part.end;
        Some((size, part))
    })
}

/// Puts nothing before the list.
pub(super) fn nothing(_: &mut Values) {}

/// Values to bind, in order.
#[derive(Debug, Default)]
pub(super) struct Values(SqliteArguments);

impl Values {
    /// Adds a value.
    pub(super) fn put<'t>(&mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) {
        self.0.add(value).expect("numbers, text and bytes always encode");
    }

    /// Adds an optional number that is never negative.
    pub(super) fn small(&mut self, value: Option<u32>) {
        self.put(value.map(i64::from));
    }

    /// Adds a time in milliseconds.
    pub(super) fn time(&mut self, value: Option<DateTime<Utc>>) {
        self.put(value.map(|time| time.timestamp_millis()));
    }

    /// Adds text.
    pub(super) fn text(&mut self, value: &str) {
        // One allocation; a string behind a counter, which is what `&str` becomes, takes two.
        self.put(Arc::<str>::from(value));
    }

    /// Adds text, or nothing.
    pub(super) fn maybe_text(&mut self, value: Option<&str>) {
        self.put(value.map(Arc::<str>::from));
    }

    /// Adds shared text without a copy.
    pub(super) fn shared(&mut self, value: &Arc<str>) {
        self.put(Arc::clone(value));
    }

    /// Adds JSON as it was given; as text, which it is unless a provider answered with bytes that are none.
    pub(super) fn json(&mut self, value: Option<&Bytes>) {
        let Some(bytes) = value else { return self.put(None::<i64>) };
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(_) => self.put(bytes.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_cut_into_known_sizes() {
        for len in [0, 1, 3, 5, 63, 64, 65, 500, 1237] {
            let mut next = 0;
            for (size, part) in parts(len) {
                assert_eq!((part.start, part.len()), (next, SIZES[size]));
                next = part.end;
            }
            assert_eq!(next, len);
        }
        assert_eq!(parts(500).count(), 8);
    }

    #[test]
    fn the_text_of_a_statement_is_made_once() {
        static STATEMENT: Group = Group::new("INSERT INTO t VALUES ", 2, " RETURNING a");
        assert_eq!(STATEMENT.text(4), "INSERT INTO t VALUES (?,?) RETURNING a");
        assert_eq!(STATEMENT.text(3), "INSERT INTO t VALUES (?,?),(?,?),(?,?),(?,?) RETURNING a");
        assert!(std::ptr::eq(STATEMENT.text(3), STATEMENT.text(3)));
    }
}
