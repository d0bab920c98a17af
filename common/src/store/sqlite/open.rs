//! Opening a database file, bringing its schema to this version, and the lock of processes that work its queue.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlSafeStr as _, SqliteConnection};

use super::super::{Error, Result};
use super::error::{Done, Fault};

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "core", include_str!("../../../../migrations/sqlite/0001_core.sql")),
    (2, "account", include_str!("../../../../migrations/sqlite/0002_account.sql")),
    (3, "costs", include_str!("../../../../migrations/sqlite/0003_costs.sql")),
];

const APPLIED: &str = "-- applied versions
SELECT version FROM _sqlx_migrations ORDER BY version";

const TABLES: &str = "-- tables of the file
SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";

/// How long a write waits for another process's.
const BUSY: Duration = Duration::from_secs(10);
/// How soon a file that another process is just making is tried again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Connections that read.
const READERS: u32 = 4;

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        // The statements for groups exist in five sizes each; the default of 100 would throw some out.
        .statement_cache_capacity(400)
        // Rows that wait between the connection's thread and the reader; the default of 50 makes them take turns.
        .row_buffer_size(512)
        .disable_statement_logging()
}

/// Opens the connection that writes; makes the file if it is missing.
pub(super) async fn writer(path: &Path) -> Result<SqliteConnection> {
    if path.is_dir() {
        return Err(Error::Setup(format!("{} is a folder; the database must be a file", path.display())));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    if !folder.is_dir() {
        return Err(Error::Setup(format!(
            "the folder {} of the database does not exist; create it or use another file",
            folder.display()
        )));
    }
    let options = options(path)
        .create_if_missing(true)
        // Readers never wait for the writer, and a commit is one append.
        .journal_mode(SqliteJournalMode::Wal)
        // What is confirmed outlives a power cut: the log is synced at each commit.
        .synchronous(SqliteSynchronous::Full)
        // Copying the log into the file syncs both; by default that happens every 4 MB.
        .pragma("wal_autocheckpoint", "8000")
        // The log shrinks to this after a reader has kept it from being reused.
        .pragma("journal_size_limit", "67108864")
        .pragma("cache_size", "-32768")
        .pragma("temp_store", "memory");
    let started = Instant::now();
    loop {
        match options.connect().await {
            // While another process makes a new file's log, SQLite refuses at once: it waits by `busy_timeout` for other locks.
            Err(error) if is_busy(&error) && started.elapsed() < BUSY => tokio::time::sleep(LOOK_AGAIN).await,
            opened => return opened.map_err(|error| Fault::from(error).named("opening the database", path)),
        }
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // The low byte is SQLITE_BUSY, whatever the extended code says (https://www.sqlite.org/rescode.html, read 2026-11).
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| code & 0xff == 5)
}

/// Makes the pool of connections that read; they are opened when they are needed.
pub(super) fn readers(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options(path).read_only(true))
}

/// Opens a connection that reads, beside the pool.
pub(super) async fn reader(path: &Path) -> sqlx::Result<SqliteConnection> {
    options(path).read_only(true).connect().await
}

fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

fn future(found: i64) -> Error {
    Error::Setup(format!(
        "the database is of schema version {found}, this program knows {}: use a newer gristmill",
        newest()
    ))
}

async fn applied(connection: &mut SqliteConnection, path: &Path) -> Done<Vec<i64>> {
    let tables: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(&mut *connection).await?;
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    if !tables.iter().any(|table| table == "_sqlx_migrations") {
        let text = format!("{} is the database of another program; use another file with --db", path.display());
        return Err(Error::Setup(text).into());
    }
    Ok(sqlx::query_scalar(APPLIED).fetch_all(connection).await?)
}

/// Applies what is missing; returns the versions that were applied.
pub(super) async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Done<Vec<i64>> {
    let known = |versions: &[i64]| match versions.last() {
        Some(&found) if found > newest() => Err(future(found)),
        last => Ok(last == Some(&newest())),
    };
    if known(&applied(connection, path).await?)? {
        return Ok(Vec::new());
    }
    // The migrator takes no lock on SQLite: without one, two processes would make the same tables.
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let before = applied(&mut tx, path).await?;
    if known(&before)? {
        return Ok(Vec::new());
    }
    migrator().run_direct(None, &mut *tx, false).await.map_err(|error| match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => Fault::Sql(source),
        error => Fault::Known(Error::Setup(format!("migrating {} failed: {error}", path.display()))),
    })?;
    tx.commit().await?;
    Ok(MIGRATIONS.iter().map(|(version, ..)| *version).filter(|version| !before.contains(version)).collect())
}

/// Fails unless the schema is exactly of this version.
pub(super) async fn check(connection: &mut SqliteConnection, path: &Path) -> Done<()> {
    match applied(connection, path).await?.last() {
        None => Err(Error::Setup(format!(
            "the database {} has no gristmill schema yet; run `gristmill migrate`",
            path.display()
        ))
        .into()),
        Some(&found) if found > newest() => Err(future(found).into()),
        Some(&found) if found < newest() => Err(Error::Setup(format!(
            "the database is of schema version {found}, this program needs {}; run `gristmill migrate`",
            newest()
        ))
        .into()),
        Some(_) => Ok(()),
    }
}

/// The right to work the queue of a database; one process at a time has it, until it is dropped or the process ends.
#[derive(Debug)]
pub struct WorkerLock {
    _file: File,
}

/// Takes the lock beside the database file, or says who has it.
pub(super) fn lock(path: &Path) -> Result<WorkerLock> {
    try_lock(path)?.map_err(|pid| {
        let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
        Error::Setup(format!(
            "another gristmill works on {}{pid}; wait for it, or use --db with another file",
            path.display()
        ))
    })
}

/// Takes the lock beside the database file; where another process has it, the inner error is its number, if it can be read.
pub(super) fn try_lock(path: &Path) -> Result<std::result::Result<WorkerLock, Option<u32>>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let unusable = |error: std::io::Error| {
        Error::Setup(format!("the lock file {} cannot be used: {error}; check its rights", name.display()))
    };
    // Not truncated: the file may hold the other process's number.
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&name).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The number is a help; without it the message still says what to do.
            let _ = file.take(20).read_to_string(&mut pid);
            return Ok(Err(pid.trim().parse().ok()));
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(unusable)?;
    Ok(Ok(WorkerLock { _file: file }))
}
