//! Opens the connections of a store, and says what is wrong where that fails.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::super::{Error, Result};
use super::no_answer;

/// How long a connection may take to show that it is fit for the next call.
const FIT_WITHIN: Duration = Duration::from_secs(2);

/// The connections of a store.
pub(super) struct Pools {
    /// Of what workers do for each job.
    pub(super) hot: PgPool,
    /// Of everything else.
    pub(super) cold: PgPool,
}

/// Connects to the database of a `postgres:` URL.
pub(super) async fn pools(url: &SecretString, application: &str) -> Result<Pools> {
    let options: PgConnectOptions = url.expose_secret().parse().map_err(|_| {
        Error::Setup(
            "DATABASE_URL is not a Postgres URL; its form is postgres://user:password@host:5432/database".into(),
        )
    })?;
    let options = options.application_name(application).disable_statement_logging();
    let place = format!("{}:{}", options.get_host(), options.get_port());
    let database = options.get_database().unwrap_or_else(|| options.get_username()).to_owned();
    let cold = pool(options.clone().options([("jit", "off")]), 4)
        .await
        .map_err(|error| connect_error(error, &place, &database))?;
    // Every statement of the hot path is a lookup by key. A planner that saw the tables empty would scan or hash them
    // for the life of the prepared statement; forbidding that costs nothing, since the keys are always there.
    let hot_options = options.options([
        ("jit", "off"),
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        // A worker that is stopped in mid-transaction holds its batch's row: others wait for this long at most.
        ("idle_in_transaction_session_timeout", "3s"),
        ("statement_timeout", "60s"),
        // Neither of them ends a COPY whose sender is gone without a word; the server finds out by asking, within 11 s.
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
    ]);
    let hot = pool(hot_options, 8).await.map_err(|error| connect_error(error, &place, &database))?;
    Ok(Pools { hot, cold })
}

// Answers above 2 kB are compressed when they are stored; lz4 takes a fifth of the time of what is the default, pglz. A server
// may be built without it, or be older than version 14, which knows the setting first.
const COMPRESS: &str = "-- compress with lz4 where the server can
SELECT set_config(name, 'lz4', false) FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)";

const FIT: &str = "-- is this connection fit
SELECT 20260913";
/// What [`FIT`] selects, and no other statement does.
const FIT_ANSWER: i32 = 20_260_913;

async fn pool(options: PgConnectOptions, size: u32) -> std::result::Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .after_connect(|connection, _| Box::pin(async { sqlx::query(COMPRESS).execute(connection).await.map(drop) }))
        .max_connections(size)
        .acquire_timeout(Duration::from_secs(5))
        // A dead connection is found by the statement that uses it, which is repeated anyway.
        .test_before_acquire(false)
        // A call that was given up leaves its connection behind; without this the pool would wait for its answer for ever, or
        // hand on a connection whose next answer is an earlier statement's: the value is what shows that it is not.
        .after_release(|connection, _| {
            Box::pin(async {
                let asking = sqlx::query_scalar(FIT).fetch_one(connection);
                let answer: i32 =
                    tokio::time::timeout(FIT_WITHIN, asking).await.unwrap_or_else(|_| Err(no_answer(FIT_WITHIN)))?;
                Ok(answer == FIT_ANSWER)
            })
        })
        .connect_with(options)
        .await
}

fn connect_error(error: sqlx::Error, place: &str, database: &str) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
    match code.as_deref() {
        Some("28P01" | "28000") => {
            Error::Setup(format!("PostgreSQL at {place} refuses the user or password; check DATABASE_URL"))
        }
        Some("3D000") => Error::Setup(format!(
            "PostgreSQL at {place} has no database `{database}`; create it (createdb {database}) or change DATABASE_URL"
        )),
        Some("53300") => Error::Setup(format!("PostgreSQL at {place} has no connection left; raise max_connections")),
        _ if matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => {
            Error::Setup(format!("no PostgreSQL answers at {place}; start it or change DATABASE_URL"))
        }
        _ => Error::Unavailable { doing: "connecting", source: error },
    }
}
