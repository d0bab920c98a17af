//! Brings the schema to this version, or says that it is not.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{PgPool, SqlSafeStr};

use super::super::{Error, Result};
use super::failed;

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "core", include_str!("../../../../migrations/postgres/0001_core.sql")),
    (2, "account", include_str!("../../../../migrations/postgres/0002_account.sql")),
    (3, "costs", include_str!("../../../../migrations/postgres/0003_costs.sql")),
];

const APPLIED: &str = "-- applied versions
SELECT version FROM gristmill._sqlx_migrations ORDER BY version";

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.create_schema("gristmill");
    migrator.dangerous_set_table_name("gristmill._sqlx_migrations");
    migrator
}

fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

async fn applied(pool: &PgPool) -> Result<Vec<i64>> {
    match sqlx::query_scalar(APPLIED).fetch_all(pool).await {
        Ok(versions) => Ok(versions),
        Err(error) => match failed("reading the schema's version")(error) {
            Error::Setup(_) => Ok(Vec::new()),
            error => Err(error),
        },
    }
}

fn future(found: i64) -> Error {
    Error::Setup(format!(
        "the database is of schema version {found}, this program knows {}; use a newer gristmill",
        newest()
    ))
}

/// Applies what is missing, under the migrator's own lock.
pub(super) async fn migrate(pool: &PgPool) -> Result<Vec<i64>> {
    let before = applied(pool).await?;
    if let Some(&found) = before.last().filter(|found| **found > newest()) {
        return Err(future(found));
    }
    if before.last() == Some(&newest()) {
        // Whoever may not change the schema may say that it is right.
        return Ok(Vec::new());
    }
    migrator().run(pool).await.map_err(|error| match error {
        sqlx::migrate::MigrateError::Execute(source) | sqlx::migrate::MigrateError::ExecuteMigration(source, _) => {
            failed("migrating")(source)
        }
        error => Error::Setup(format!("migrating failed: {error}")),
    })?;
    Ok(MIGRATIONS.iter().map(|(version, ..)| *version).filter(|version| !before.contains(version)).collect())
}

/// Fails unless the schema is exactly of this version.
pub(super) async fn check(pool: &PgPool) -> Result<()> {
    match applied(pool).await?.last() {
        None => Err(Error::Setup("the database has no gristmill schema yet; run `gristmill migrate`".to_owned())),
        Some(&found) if found > newest() => Err(future(found)),
        Some(&found) if found < newest() => Err(Error::Setup(format!(
            "the database is of schema version {found}, this program needs {}; run `gristmill migrate`",
            newest()
        ))),
        Some(_) => Ok(()),
    }
}
