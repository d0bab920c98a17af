//! The accounts at providers: leases of their limits.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgPool};

use super::super::Result;
use super::failed;
use crate::id::OwnerId;
use crate::quota::{Account, Ask, Grant, Limits, Micros, Standing};

// In order of name, as everybody locks them. The time is read before the lock is waited for; an account never goes back in time.
const LOCK: &str = "-- accounts, locked
SELECT account, state, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
FROM gristmill.account WHERE account = ANY ($1) ORDER BY account FOR UPDATE";

const OPEN: &str = "-- accounts that are new
INSERT INTO gristmill.account (account, state) SELECT name, '{}' FROM UNNEST($1::text[]) AS t (name) ORDER BY name
ON CONFLICT DO NOTHING";

const WRITE: &str = "-- what was leased of accounts
UPDATE gristmill.account a SET state = t.state, updated_at = now()
FROM UNNEST($1::text[], $2::text[]) AS t (account, state) WHERE a.account = t.account";

const ALL: &str = "-- all accounts
SELECT account, state, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now
FROM gristmill.account ORDER BY account";

/// Leases what a worker asks for, of all its accounts in one transaction.
pub(super) async fn lease(pool: &PgPool, owner: OwnerId, asks: &[Ask]) -> Result<Vec<Grant>> {
    let doing = "leasing rate limits";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let names: Vec<&str> = asks.iter().map(|ask| &*ask.account).collect();
    let mut accounts = lock(&mut tx, &names, doing).await?;
    let mut grants = Vec::with_capacity(asks.len());
    for ask in asks {
        let granted = accounts
            .iter_mut()
            .find(|(name, ..)| **name == *ask.account)
            .map(|(_, account, now)| account.lease(*now, owner, ask));
        grants.push(granted.unwrap_or_default());
    }
    write(&mut tx, &accounts, doing).await?;
    tx.commit().await.map_err(failed(doing))?;
    Ok(grants)
}

/// Sets the limits of an account for the whole fleet.
pub(super) async fn set(pool: &PgPool, account: &str, limits: Option<Limits>, by: &str) -> Result<()> {
    let doing = "setting limits";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let mut accounts = lock(&mut tx, &[account], doing).await?;
    for (_, account, now) in &mut accounts {
        account.set(*now, limits, by);
    }
    write(&mut tx, &accounts, doing).await?;
    tx.commit().await.map_err(failed(doing))
}

/// Reads how all accounts stand.
pub(super) async fn standings(pool: &PgPool) -> Result<Vec<Standing>> {
    let rows = sqlx::query(ALL).fetch_all(pool).await.map_err(failed("reading limits"))?;
    Ok(rows.iter().map(|row| Account::read(row.get("state")).standing(row.get("account"), row.get("now"))).collect())
}

type Locked = (String, Account, Micros);

async fn lock(tx: &mut PgConnection, names: &[&str], doing: &'static str) -> Result<Vec<Locked>> {
    let mut rows = sqlx::query(LOCK).bind(names).fetch_all(&mut *tx).await.map_err(failed(doing))?;
    if names.iter().any(|name| rows.iter().all(|row| row.get::<&str, _>("account") != *name)) {
        sqlx::query(OPEN).bind(names).execute(&mut *tx).await.map_err(failed(doing))?;
        rows = sqlx::query(LOCK).bind(names).fetch_all(&mut *tx).await.map_err(failed(doing))?;
    }
    Ok(rows.iter().map(|row| (row.get("account"), Account::read(row.get("state")), row.get("now"))).collect())
}

async fn write(tx: &mut PgConnection, accounts: &[Locked], doing: &'static str) -> Result<()> {
    let names: Vec<&str> = accounts.iter().map(|(name, ..)| name.as_str()).collect();
    let states: Vec<String> = accounts.iter().map(|(_, account, _)| account.write()).collect();
    sqlx::query(WRITE).bind(names).bind(states).execute(tx).await.map_err(failed(doing))?;
    Ok(())
}
