//! The accounts at providers: leases of their limits.

use sqlx::{Row as _, SqliteConnection};

use super::Core;
use super::error::Done;
use crate::id::OwnerId;
use crate::quota::{Account, Ask, Grant, Limits, Micros, Standing};

const READ: &str = "-- an account
SELECT state FROM account WHERE account = ?";

const WRITE: &str = "-- what was leased of an account
INSERT INTO account (account, state, updated_at) VALUES (?1, ?2, ?3)
ON CONFLICT (account) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at";

const ALL: &str = "-- all accounts
SELECT account, state FROM account ORDER BY account";

/// Leases what a worker asks for, of all its accounts in one transaction.
pub(super) async fn lease(core: &Core, owner: OwnerId, asks: &[Ask]) -> Done<Vec<Grant>> {
    let mut work = core.writer.begin().await?;
    let now = micros(core);
    let mut grants = Vec::with_capacity(asks.len());
    for ask in asks {
        let mut account = read(work.tx(), &ask.account).await?;
        grants.push(account.lease(now, owner, ask));
        write(work.tx(), &ask.account, &account, core.now()).await?;
    }
    work.commit().await?;
    Ok(grants)
}

/// Sets the limits of an account for the whole fleet.
pub(super) async fn set(core: &Core, name: &str, limits: Option<Limits>, by: &str) -> Done<()> {
    let mut work = core.writer.begin().await?;
    let mut account = read(work.tx(), name).await?;
    account.set(micros(core), limits, by);
    write(work.tx(), name, &account, core.now()).await?;
    work.commit().await
}

/// Reads how all accounts stand.
pub(super) async fn standings(core: &Core) -> Done<Vec<Standing>> {
    let rows = sqlx::query(ALL).fetch_all(&core.readers).await?;
    let now = micros(core);
    Ok(rows.iter().map(|row| Account::read(row.get("state")).standing(row.get("account"), now)).collect())
}

async fn read(tx: &mut SqliteConnection, name: &str) -> Done<Account> {
    let state: Option<String> = sqlx::query_scalar(READ).bind(name.to_owned()).fetch_optional(tx).await?;
    Ok(Account::read(state.as_deref().unwrap_or("{}")))
}

async fn write(tx: &mut SqliteConnection, name: &str, account: &Account, now: i64) -> Done<()> {
    sqlx::query(WRITE).bind(name.to_owned()).bind(account.write()).bind(now).execute(tx).await?;
    Ok(())
}

fn micros(core: &Core) -> Micros {
    core.clock.now().timestamp_micros()
}
