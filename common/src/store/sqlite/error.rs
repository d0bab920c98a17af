//! What SQLite's result codes mean to a caller.

use std::path::Path;

use super::super::Error;

/// Why a transaction stopped, before its operation is named.
#[derive(Debug)]
pub(super) enum Fault {
    /// What the driver says.
    Sql(sqlx::Error),
    /// What the store itself says.
    Known(Error),
}

/// The result of a step of a transaction.
pub(super) type Done<T> = std::result::Result<T, Fault>;

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

impl Fault {
    /// Tells whether the database refuses the rows themselves.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Sql(error) => matches!(kind(error), Kind::Refused),
            Self::Known(error) => matches!(error, Error::Refused { .. }),
        }
    }

    /// Names the operation on the database at `path`.
    pub(super) fn named(self, doing: &'static str, path: &Path) -> Error {
        let source = match self {
            Self::Sql(source) => source,
            Self::Known(error) => return error,
        };
        let path = path.display();
        match kind(&source) {
            Kind::Full => Error::Full { doing, place: path.to_string(), source },
            Kind::NoDatabase => {
                Error::Setup(format!("{path} is not a SQLite database, or is damaged; use another file with --db"))
            }
            Kind::NoAccess => Error::Setup(format!(
                "the database {path} cannot be opened for writing; check the rights on the file and its folder"
            )),
            Kind::NoSchema => {
                Error::Setup(format!("the database {path} has no schema of this version; run `gristmill migrate`"))
            }
            Kind::Refused => Error::Refused { doing, source },
            Kind::Passing => Error::Unavailable { doing, source },
        }
    }
}

enum Kind {
    Full,
    NoDatabase,
    NoAccess,
    NoSchema,
    Refused,
    Passing,
}

/// Sorts errors by SQLite's primary result code (<https://www.sqlite.org/rescode.html>, read 2026-11).
fn kind(error: &sqlx::Error) -> Kind {
    let Some(error) = error.as_database_error() else {
        return match error {
            sqlx::Error::Encode(_) | sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Kind::Refused,
            _ => Kind::Passing,
        };
    };
    let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or(0);
    match code & 0xff {
        // SQLITE_FULL, and SQLITE_IOERR_SHMSIZE, which a full disk causes before that.
        13 => Kind::Full,
        10 if code == 4874 => Kind::Full,
        // SQLITE_CORRUPT, SQLITE_NOTADB
        11 | 26 => Kind::NoDatabase,
        // SQLITE_PERM, SQLITE_READONLY, SQLITE_CANTOPEN
        3 | 8 | 14 => Kind::NoAccess,
        // SQLITE_ERROR: the statements are fixed, so it is the schema that they do not fit.
        1 if error.message().starts_with("no such table") || error.message().starts_with("no such column") => {
            Kind::NoSchema
        }
        // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH, SQLITE_ERROR
        1 | 18 | 19 | 20 => Kind::Refused,
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_NOMEM, SQLITE_INTERRUPT, SQLITE_IOERR and what is left
        _ => Kind::Passing,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sqlx::ConnectOptions as _;
    use sqlx::sqlite::SqliteConnectOptions;

    use super::super::writer::Writer;

    #[tokio::test]
    async fn a_full_disk_is_said_and_may_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.db");
        // SQLite answers the same when it may not grow the file as when the disk is full.
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true).pragma("max_page_count", "8");
        let mut connection = options.connect().await.unwrap();
        let create = "CREATE TABLE t (a BLOB); CREATE TABLE queue (seq INTEGER PRIMARY KEY);";
        sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
        let writer = Arc::new(Writer::new(connection));
        for size in [100_000_i64, 10, 100_000, 10] {
            let write = async {
                let mut work = writer.begin().await?;
                sqlx::query("INSERT INTO t VALUES (zeroblob(?))").bind(size).execute(work.tx()).await?;
                work.commit().await
            };
            let written = write.await;
            if size == 10 {
                written.unwrap();
                continue;
            }
            let error = written.unwrap_err().named("writing results", &path);
            assert!(error.is_transient(), "{error:?}");
            let said = format!("no space is left on the disk of {} while writing results; free some", path.display());
            assert_eq!(error.to_string(), said);
        }
    }
}
