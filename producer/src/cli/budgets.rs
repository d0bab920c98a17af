//! `budgets`: what may be spent, what is spent of it, and setting it while workers run.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use gristmill_common::backend::{Backend, Need};
use gristmill_common::budget::{BudgetKey, BudgetStanding, OnExceed, Period, Scope, Terms};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::price::PicoUsd;
use gristmill_common::quota::Micros;
use gristmill_common::store::{AlertRow, BatchSelector};
use gristmill_producer::Producer;
use serde_json::{Value, json};

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::table::{ago, columns, soon};
use super::ui;
use super::who;

const EXAMPLES: &str = "\
Examples:
  gristmill budgets                                         every budget: what is spent, what is left
  gristmill budgets set batch:sweep-7 25                    a batch may cost 25 dollars; @last names the last one
  gristmill budgets set project:thesis 100 --per month
  gristmill budgets set provider:openai 20 --per day --on-exceed fail
  gristmill budgets set all 500 --per month --soft          alert at 50, 80 and 100 %, stop nothing
  gristmill budgets clear project:thesis --per month
  gristmill budgets alerts                                  what was told, and whether the webhook took it

A budget holds for all workers together. A call starts once what it is expected to cost is put
aside for it; so what is spent exceeds a limit by no more than the running calls cost above what
was expected. Jobs that a budget stops wait until it is raised or begins anew, or fail. Periods
begin at midnight UTC, weeks on Monday. docs/costs.md has the details.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set a budget for all workers, at once; jobs that wait for it go on
    Set(SetArgs),
    /// Take a budget away; jobs that wait for it go on
    Clear(ClearArgs),
    /// Show the alerts, the newest first
    Alerts(AlertsArgs),
}

const SET_EXAMPLES: &str = "\
Examples:
  gristmill budgets set batch:@last 25
  gristmill budgets set project:thesis 100 --per month --alert-at 80,100
  gristmill budgets set deployment:gpt-4o-eu 5 --per day --on-exceed fail";

#[derive(Debug, clap::Args)]
#[command(after_help = SET_EXAMPLES)]
struct SetArgs {
    /// Whose calls: all, batch:NAME, project:NAME, provider:NAME, deployment:NAME
    #[arg(value_name = "SCOPE")]
    scope: String,
    /// The limit in US dollars, such as 25 or 0.5
    #[arg(value_name = "DOLLARS", value_parser = dollars, allow_negative_numbers = true)]
    limit: PicoUsd,
    /// How long it lasts: total, day, week, month
    #[arg(long, value_name = "PERIOD", default_value = "total")]
    per: Period,
    /// Only alert; stop nothing
    #[arg(long, conflicts_with = "on_exceed")]
    soft: bool,
    /// What becomes of jobs that it stops: wait, fail
    #[arg(long, value_name = "WHAT", default_value = "wait")]
    on_exceed: OnExceed,
    /// Percents of the limit at which to alert, each once a period
    #[arg(long, value_name = "PERCENT,…", value_delimiter = ',', default_value = "50,80,100",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    alert_at: Vec<u16>,
}

const CLEAR_EXAMPLES: &str = "\
Examples:
  gristmill budgets clear project:thesis --per month";

#[derive(Debug, clap::Args)]
#[command(after_help = CLEAR_EXAMPLES)]
struct ClearArgs {
    /// Whose calls it limits, as for `set`
    #[arg(value_name = "SCOPE")]
    scope: String,
    /// Its period
    #[arg(long, value_name = "PERIOD", default_value = "total")]
    per: Period,
}

const ALERTS_EXAMPLES: &str = "\
Examples:
  gristmill budgets alerts
  gristmill budgets alerts --limit 100 --json";

#[derive(Debug, clap::Args)]
#[command(after_help = ALERTS_EXAMPLES)]
struct AlertsArgs {
    /// Show the last N
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

/// Reads an amount of dollars that is not negative.
pub(super) fn dollars(text: &str) -> Result<PicoUsd, String> {
    let amount: PicoUsd = text.parse().map_err(|_| "write US dollars, such as 25 or 0.5".to_owned())?;
    if amount.0 < 0 { Err("it cannot be negative".to_owned()) } else { Ok(amount) }
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    let backend = backends::existing(global, Need::Store).await?;
    match args.action {
        None => show(global, &backend).await,
        Some(Action::Set(args)) => set(global, &backend, args).await,
        Some(Action::Clear(args)) => clear(global, &backend, &args).await,
        Some(Action::Alerts(args)) => alerts(global, &backend, args.limit).await,
    }
}

async fn show(global: &Global, backend: &Backend) -> Result<Exit, Fault> {
    let standings = backend.store.budgets().await?;
    let mut named = Vec::with_capacity(standings.len());
    for standing in standings {
        let name = match &standing.key.scope {
            Scope::Batch(id) => {
                backend.store.batch(&BatchSelector::Id(*id)).await?.map_or_else(|| id.to_string(), |batch| batch.name)
            }
            scope => scope.name(),
        };
        named.push((name, standing));
    }
    let now = SystemClock.now();
    if global.json {
        let budgets: Vec<Value> = named.iter().map(|(name, standing)| value(name, standing, now)).collect();
        ui::json(&json!({ "budgets": budgets }))?;
    } else if named.is_empty() {
        ui::line("nothing limits what is spent; `gristmill budgets set` does")?;
    } else {
        ui::out(table(&named, now).as_bytes())?;
    }
    Ok(Exit::Success)
}

/// Returns the whole percents of a budget that are spent.
fn percent(standing: &BudgetStanding) -> u64 {
    let spent = u128::from((standing.spent.0.saturating_add(standing.unseen.0)).unsigned_abs());
    let limit = u128::from(standing.terms.limit.0.unsigned_abs());
    (spent * 100).checked_div(limit).map_or(100, |percent| u64::try_from(percent).unwrap_or(u64::MAX))
}

fn title(name: &str, scope: &Scope) -> String {
    if name.is_empty() { scope.kind().to_owned() } else { format!("{}:{name}", scope.kind()) }
}

fn ends(standing: &BudgetStanding, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    standing.key.period.end(now)
}

fn table(named: &[(String, BudgetStanding)], now: DateTime<Utc>) -> String {
    let heading = ["BUDGET", "PER", "LIMIT", "SPENT", "", "HELD", "BEGINS ANEW", "WHEN SPENT"].map(str::to_owned);
    let mut rows = vec![heading.to_vec()];
    for (name, standing) in named {
        let then = match (standing.terms.soft, standing.terms.on_exceed) {
            (true, _) => "alerts only",
            (false, OnExceed::Wait) => "jobs wait",
            (false, OnExceed::Fail) => "jobs fail",
        };
        let unseen = if standing.unseen.0 > 0 { format!(" ({} of it unseen)", standing.unseen) } else { String::new() };
        let spent = PicoUsd(standing.spent.0.saturating_add(standing.unseen.0));
        rows.push(vec![
            title(name, &standing.key.scope),
            standing.key.period.to_string(),
            standing.terms.limit.to_string(),
            format!("{spent}{unseen}"),
            format!("{} %", percent(standing)),
            standing.leased.to_string(),
            ends(standing, now).map_or_else(|| "never".to_owned(), |end| soon(end, now)),
            then.to_owned(),
        ]);
    }
    columns(&rows)
}

fn time(at: Micros) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(at).filter(|at| *at > DateTime::UNIX_EPOCH)
}

fn value(name: &str, standing: &BudgetStanding, now: DateTime<Utc>) -> Value {
    json!({
        "scope": standing.key.scope.kind(),
        "name": name,
        "period": standing.key.period.as_str(),
        "limit_pico_usd": standing.terms.limit,
        "spent_pico_usd": standing.spent,
        "unseen_pico_usd": standing.unseen,
        "held_pico_usd": standing.leased,
        "percent": percent(standing),
        "soft": standing.terms.soft,
        "on_exceed": standing.terms.on_exceed,
        "alert_at": standing.terms.alert_at,
        "began": time(standing.start),
        "begins_anew": ends(standing, now),
        "set_by": standing.set_by,
        "set_at": time(standing.set_at),
    })
}

/// Finds whose calls a text names; a batch by its name, id, beginning of an id, or `@last`.
async fn scope(backend: &Backend, text: &str) -> Result<Scope, Fault> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    if kind == "batch" && !name.is_empty() {
        let batch = backend.store.batch(&Producer::selector(name)).await?;
        let missing = || Fault::new(format!("no batch is named `{name}`")).hint("gristmill list shows them");
        return Ok(Scope::Batch(batch.ok_or_else(missing)?.id));
    }
    Scope::of(kind, name).map_err(|error| Fault::new(error.to_string()))
}

async fn set(global: &Global, backend: &Backend, args: SetArgs) -> Result<Exit, Fault> {
    let key = BudgetKey { scope: scope(backend, &args.scope).await?, period: args.per };
    let SetArgs { limit, soft, on_exceed, mut alert_at, .. } = args;
    alert_at.sort_unstable();
    alert_at.dedup();
    let terms = Terms { limit, soft, on_exceed, alert_at };
    let was_there = backend.store.set_budget(&key, Some(&terms), &who::am_i()).await?;
    let woken = wake(backend, &key).await?;
    if global.json {
        ui::json(&json!({ "budget": args.scope, "period": key.period.as_str(), "limit_pico_usd": limit,
                          "changed": was_there, "jobs_woken": woken }))?;
    } else {
        let what = if was_there { "changed" } else { "set" };
        let woken = if woken > 0 { format!("; {woken} jobs that waited for it go on") } else { String::new() };
        ui::line(&format!("{} a {}: {what} to {limit}{woken}", args.scope, key.period).replace(" a total", ""))?;
    }
    Ok(Exit::Success)
}

async fn clear(global: &Global, backend: &Backend, args: &ClearArgs) -> Result<Exit, Fault> {
    let key = BudgetKey { scope: scope(backend, &args.scope).await?, period: args.per };
    let was_there = backend.store.set_budget(&key, None, &who::am_i()).await?;
    let woken = wake(backend, &key).await?;
    if global.json {
        ui::json(
            &json!({ "budget": args.scope, "period": key.period.as_str(), "cleared": was_there, "jobs_woken": woken }),
        )?;
        return Ok(Exit::Success);
    }
    if !was_there {
        let hint = "gristmill budgets shows them; the budget of a month is named with --per month";
        return Err(Fault::new(format!("there is no budget {key}")).hint(hint));
    }
    let woken = if woken > 0 { format!("; {woken} jobs that waited for it go on") } else { String::new() };
    ui::line(&format!("{}: no budget any more{woken}", args.scope))?;
    Ok(Exit::Success)
}

/// Jobs that are woken in one transaction.
const WAKE_AT_ONCE: u32 = 5_000;

/// Makes all jobs due that wait for a budget; returns how many.
pub(super) async fn wake(backend: &Backend, key: &BudgetKey) -> Result<u64, Fault> {
    let mut woken = 0;
    loop {
        let some = backend.store.wake_for_budget(key, WAKE_AT_ONCE).await?;
        woken += some;
        if some < u64::from(WAKE_AT_ONCE) {
            return Ok(woken);
        }
    }
}

async fn alerts(global: &Global, backend: &Backend, limit: u32) -> Result<Exit, Fault> {
    let alerts = backend.store.alerts(false, limit).await?;
    if global.json {
        let alerts: Vec<Value> = alerts.iter().map(alert).collect();
        ui::json(&json!({ "alerts": alerts }))?;
    } else if alerts.is_empty() {
        ui::line("no budget has reached a threshold")?;
    } else {
        let now = SystemClock.now();
        let mut rows = vec![["WHEN", "ALERT", "TOLD"].map(str::to_owned).to_vec()];
        rows.extend(alerts.iter().map(|alert| {
            let told = match (&alert.trouble, alert.told_at, alert.is_due) {
                (None, Some(at), _) => ago(at, now),
                (Some(trouble), _, true) => format!("trying again: {trouble}"),
                (Some(trouble), _, false) => format!("given up after {} tries: {trouble}", alert.tries),
                (None, None, _) => "by the next worker".to_owned(),
            };
            vec![ago(alert.created_at, now), alert.message.clone(), told]
        }));
        ui::out(columns(&rows).as_bytes())?;
    }
    Ok(Exit::Success)
}

fn alert(alert: &AlertRow) -> Value {
    json!({
        "id": alert.id, "created_at": alert.created_at, "scope": alert.scope, "name": alert.name, "period": alert.period,
        "percent": alert.percent, "message": alert.message, "tries": alert.tries, "due": alert.is_due,
        "told_at": alert.told_at, "trouble": alert.trouble,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_dollars() {
        assert_eq!(dollars("25"), Ok(PicoUsd(25_000_000_000_000)));
        assert_eq!(dollars("0.0007"), Ok(PicoUsd(700_000_000)));
        for text in ["", "x", "-1", "1e3x"] {
            assert!(dollars(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_budget_is_a_line() {
        let now = "2026-11-23T18:00:00Z".parse().unwrap();
        let standing = BudgetStanding {
            key: BudgetKey { scope: Scope::Project("thesis".into()), period: Period::Day },
            terms: Terms { limit: PicoUsd(10_000_000_000_000), ..Terms::default() },
            start: 0,
            spent: PicoUsd(2_500_000_000_000),
            unseen: PicoUsd(0),
            leased: PicoUsd(500_000_000),
            set_by: "somebody".to_owned(),
            set_at: 0,
        };
        let text = table(&[("thesis".to_owned(), standing)], now);
        assert_eq!(
            text,
            "BUDGET          PER  LIMIT   SPENT        HELD     BEGINS ANEW  WHEN SPENT\n\
             project:thesis  day  $10.00  $2.50  25 %  $0.0005  in 6h00m     jobs wait\n"
        );
    }
}
