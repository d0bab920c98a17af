//! `limits`: what providers allow over the whole fleet, what of it is in use, and setting it while workers run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use gristmill_common::backend::{Backend, Need};
use gristmill_common::clock::{Clock as _, SystemClock};
use gristmill_common::config::{Config, Overrides, nearest};
use gristmill_common::quota::{Limits, Standing};
use serde::Serialize;

use super::Global;
use super::backends;
use super::fault::{Exit, Fault};
use super::place::{self, Missing};
use super::standing::{describe, table};
use super::ui;
use super::who;

const EXAMPLES: &str = "\
Examples:
  gristmill limits                                  every account: what is allowed, what is in use
  gristmill limits gpt-4o                           one of them, with its workers and last changes
  gristmill limits set gpt-4o --rpm 600 --tpm none  for all workers, at once
  gristmill limits clear gpt-4o                     back to what the workers' files say
  gristmill limits apply -f gristmill.yaml          as a file says, every account that it limits

An account is where a provider counts: a deployment, or those that share a limit_account. Its
limits hold for all workers together, wherever they run. They come from the workers' files until
somebody sets them here.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    /// Show this account only, with its last changes
    #[arg(value_name = "ACCOUNT")]
    account: Option<String>,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set limits of an account for all workers; those that are not named stay
    Set(SetArgs),
    /// Leave an account's limits to the workers' files again
    Clear(ClearArgs),
    /// Set the limits of every account that a configuration file limits
    Apply(ApplyArgs),
}

const SET_EXAMPLES: &str = "\
Examples:
  gristmill limits set gpt-4o --rpm 600
  gristmill limits set gpt-4o --tpm none --max-parallel 64

Running workers follow within a second.";

#[derive(Debug, clap::Args)]
#[command(after_help = SET_EXAMPLES, override_usage = "gristmill limits set <ACCOUNT> --rpm <N> …")]
struct SetArgs {
    /// The account; `gristmill limits` shows all
    #[arg(value_name = "ACCOUNT")]
    account: String,
    #[command(flatten)]
    named: Named,
}

/// The limits that a command names; each is a number, or `none` to remove it.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Named {
    /// Calls in a minute, or none
    #[arg(long, value_name = "N", value_parser = limit)]
    rpm: Option<Limit>,
    /// Tokens in a minute, as the provider counts them, or none
    #[arg(long, value_name = "N", value_parser = limit)]
    tpm: Option<Limit>,
    /// Tokens of input in a minute, or none
    #[arg(long, value_name = "N", value_parser = limit)]
    itpm: Option<Limit>,
    /// Tokens of output in a minute, or none
    #[arg(long, value_name = "N", value_parser = limit)]
    otpm: Option<Limit>,
    /// Calls in a day, which begins at midnight UTC, or none
    #[arg(long, value_name = "N", value_parser = limit)]
    rpd: Option<Limit>,
    /// Tokens in a day, or none
    #[arg(long, value_name = "N", value_parser = limit)]
    tpd: Option<Limit>,
    /// Calls that run at once, over all workers, or none
    #[arg(long, visible_alias = "max-parallel-requests", value_name = "N", value_parser = limit)]
    max_parallel: Option<Limit>,
}

const CLEAR_EXAMPLES: &str = "\
Examples:
  gristmill limits clear gpt-4o";

#[derive(Debug, clap::Args)]
#[command(after_help = CLEAR_EXAMPLES)]
struct ClearArgs {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: String,
}

const APPLY_EXAMPLES: &str = "\
Examples:
  gristmill limits apply -f gristmill.yaml
  gristmill limits apply -f gristmill.yaml --dry-run

Accounts that the file does not limit stay as they are.";

#[derive(Debug, clap::Args)]
#[command(after_help = APPLY_EXAMPLES)]
struct ApplyArgs {
    /// The configuration file [default: as for every command]
    #[arg(long, short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Show what would change
    #[arg(long)]
    dry_run: bool,
}

/// A limit as a flag says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit(Option<u64>);

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    match text.replace(['_', ','], "").parse() {
        Ok(0) => Err("0 would let no call start; to stop a batch, cancel it".to_owned()),
        Ok(number) => Ok(Limit(Some(number))),
        Err(_) => Err("write a whole number, or none".to_owned()),
    }
}

impl Named {
    fn change(&self, limits: Limits) -> Limits {
        let changed = |named: Option<Limit>, before: Option<u64>| named.map_or(before, |Limit(limit)| limit);
        Limits {
            rpm: changed(self.rpm, limits.rpm),
            tpm: changed(self.tpm, limits.tpm),
            itpm: changed(self.itpm, limits.itpm),
            otpm: changed(self.otpm, limits.otpm),
            rpd: changed(self.rpd, limits.rpd),
            tpd: changed(self.tpd, limits.tpd),
            max_parallel_requests: changed(self.max_parallel, limits.max_parallel_requests),
        }
    }
}

/// One change of an account's limits.
#[derive(Debug, Serialize)]
struct Changed {
    account: String,
    before: Limits,
    after: Limits,
    /// Whether the workers' files count from now on.
    left_to_files: bool,
    by: String,
    dry_run: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<Exit, Fault> {
    match args.action {
        None => show(global, args.account.as_deref()).await,
        Some(Action::Set(args)) => set(global, &args).await,
        Some(Action::Clear(args)) => clear(global, &args).await,
        Some(Action::Apply(args)) => apply(global, args).await,
    }
}

async fn show(global: &Global, account: Option<&str>) -> Result<Exit, Fault> {
    let fleet = Fleet::open(global).await?;
    let now = SystemClock.now();
    if let Some(account) = account {
        let standing = fleet.standing(account)?;
        if global.json {
            ui::json(&standing)?;
        } else {
            ui::out(describe(&standing, now).as_bytes())?;
        }
        return Ok(Exit::Success);
    }
    let standings = fleet.all();
    if global.json {
        ui::json(&serde_json::json!({ "accounts": standings }))?;
    } else if standings.is_empty() {
        ui::line("no account is known yet: no worker has made a call, and no model_list is configured here")?;
    } else {
        ui::out(table(&standings, now).as_bytes())?;
    }
    Ok(Exit::Success)
}

async fn set(global: &Global, args: &SetArgs) -> Result<Exit, Fault> {
    let fleet = Fleet::open(global).await?;
    let before = fleet.standing(&args.account)?.limits;
    let change = Change { account: &args.account, before, after: Some(args.named.change(before)), dry_run: false };
    fleet.change(global, &[change]).await
}

async fn clear(global: &Global, args: &ClearArgs) -> Result<Exit, Fault> {
    let fleet = Fleet::open(global).await?;
    let standing = fleet.standing(&args.account)?;
    if standing.set.is_none() && !global.json {
        ui::line(&format!("{}: nobody has set limits; the workers' files count ({})", args.account, standing.limits))?;
        return Ok(Exit::Success);
    }
    let change = Change { account: &args.account, before: standing.limits, after: None, dry_run: false };
    fleet.change(global, &[change]).await
}

async fn apply(global: &Global, args: ApplyArgs) -> Result<Exit, Fault> {
    let global = Global { config: args.file.or_else(|| global.config.clone()), ..global.clone() };
    let fleet = Fleet::open(&global).await?;
    let limited: Vec<&(Arc<str>, Limits)> = fleet.configured.iter().filter(|(_, limits)| !limits.is_empty()).collect();
    if limited.is_empty() {
        return Err(Fault::new("the configuration limits no account")
            .hint("give rpm, tpm … in an entry of its model_list, or name another file with -f"));
    }
    let before = |account: &str| fleet.known.get(account).map(|standing| standing.limits).unwrap_or_default();
    let changes: Vec<Change<'_>> = limited
        .iter()
        .map(|(account, after)| Change { account, before: before(account), after: Some(*after), dry_run: args.dry_run })
        .collect();
    fleet.change(&global, &changes).await
}

/// A change that is to be made.
#[derive(Debug)]
struct Change<'a> {
    account: &'a str,
    before: Limits,
    /// `None`: as the workers' files say.
    after: Option<Limits>,
    dry_run: bool,
}

/// What the store and the configuration here know of accounts.
#[derive(Debug)]
struct Fleet {
    backend: Backend,
    known: BTreeMap<String, Standing>,
    configured: Vec<(Arc<str>, Limits)>,
}

impl Fleet {
    async fn open(global: &Global) -> Result<Self, Fault> {
        let config: Config = backends::config(global, Overrides::default(), None)?;
        let backend = backends::open(&place::find(global, &config, Missing::Refuse)?, &config, Need::Store).await?;
        let standings = backend.store.standings().await?;
        let known = standings.into_iter().map(|standing| (standing.account.clone(), standing)).collect();
        Ok(Self { backend, known, configured: config.limits() })
    }

    /// Returns how every account stands; those that only the configuration here knows, as it says.
    fn all(&self) -> Vec<Standing> {
        let names: BTreeSet<&str> =
            self.known.keys().map(String::as_str).chain(self.configured.iter().map(|(name, _)| &**name)).collect();
        names.into_iter().filter_map(|name| self.standing(name).ok()).collect()
    }

    fn standing(&self, account: &str) -> Result<Standing, Fault> {
        let configured = self.configured.iter().find(|(name, _)| **name == *account).map(|(_, limits)| *limits);
        let mut standing = match (self.known.get(account), configured) {
            (Some(known), _) => known.clone(),
            (None, Some(_)) => Standing { account: account.to_owned(), ..Standing::default() },
            (None, None) => return Err(self.unknown(account)),
        };
        // While no worker says what its file has, this one stands for it.
        if standing.set.is_none() && standing.workers.is_empty() {
            standing.limits = configured.unwrap_or_default();
        }
        Ok(standing)
    }

    fn unknown(&self, account: &str) -> Fault {
        let names = self.known.keys().map(String::as_str).chain(self.configured.iter().map(|(name, _)| &**name));
        let fault = Fault::new(format!("there is no account `{account}`"));
        match nearest(account, names) {
            Some(near) => fault.hint(format!("did you mean `{near}`?")),
            None => fault.hint("`gristmill limits` shows all of them"),
        }
    }

    /// Makes changes and tells them.
    async fn change(&self, global: &Global, changes: &[Change<'_>]) -> Result<Exit, Fault> {
        let by = who::am_i();
        let mut changed = Vec::with_capacity(changes.len());
        for Change { account, before, after, dry_run } in changes {
            if !dry_run {
                self.backend.store.set_limits(account, *after, &by).await?;
            }
            changed.push(Changed {
                account: (*account).to_owned(),
                before: *before,
                after: after.unwrap_or_default(),
                left_to_files: after.is_none(),
                by: by.clone(),
                dry_run: *dry_run,
            });
        }
        // What the files say is known to the store alone.
        if changed.iter().any(|changed| changed.left_to_files) {
            let standings = self.backend.store.standings().await?;
            for changed in changed.iter_mut().filter(|changed| changed.left_to_files) {
                let standing = standings.iter().find(|standing| standing.account == changed.account);
                changed.after = standing.map(|standing| standing.limits).unwrap_or_default();
            }
        }
        if global.json {
            ui::json(&serde_json::json!({ "changed": changed }))?;
            return Ok(Exit::Success);
        }
        for changed in &changed {
            ui::line(&changed.line())?;
        }
        Ok(Exit::Success)
    }
}

impl Changed {
    fn line(&self) -> String {
        let Self { account, before, after, left_to_files, .. } = self;
        let remark = match (left_to_files, self.dry_run) {
            (true, _) => " (the workers' files count)",
            (false, true) => " (not done: --dry-run)",
            (false, false) => "",
        };
        if before == after {
            format!("{account}: {after}, as before{remark}")
        } else {
            format!("{account}: {before} → {after}{remark}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_limits_change() {
        let named = Named {
            rpm: Some(Limit(Some(600))),
            tpm: Some(Limit(None)),
            itpm: None,
            otpm: None,
            rpd: None,
            tpd: None,
            max_parallel: Some(Limit(Some(8))),
        };
        let before = Limits { rpm: Some(60), tpm: Some(9_000), rpd: Some(10), ..Limits::default() };
        let after = named.change(before);
        assert_eq!(after.to_string(), "600 rpm, 10 rpd, 8 max_parallel_requests");
        let changed = Changed {
            account: "gpt-4o".to_owned(),
            before,
            after,
            left_to_files: false,
            by: "ada@mill".to_owned(),
            dry_run: true,
        };
        assert_eq!(
            changed.line(),
            "gpt-4o: 60 rpm, 9000 tpm, 10 rpd → 600 rpm, 10 rpd, 8 max_parallel_requests (not done: --dry-run)"
        );
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!(limit("1_000"), Ok(Limit(Some(1_000))));
        assert_eq!(limit("none"), Ok(Limit(None)));
        for text in ["0", "-1", "many", "1.5", ""] {
            assert!(limit(text).is_err(), "{text}");
        }
    }
}
