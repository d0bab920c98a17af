//! What a worker serves: its configuration's deployments as gates, groups and accounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use gristmill_common::config::{Config, Deployment, FallbackKind};
use tokio::sync::Notify;

use crate::gate::{Cooling, Gate};
use crate::group::Group;
use crate::quota::{Account, Ledger};
use crate::share::Share;
use crate::window::Window;
use crate::{Error, Options, provider};

/// Bytes of requests that a process holds at most, over all model groups.
const MOST_BYTES: usize = 256 * 1024 * 1024;

/// Returns the deployments of the groups that those of `deployments` may fall back to. One that cannot be called is told of and
/// left out: nobody asked for it by name.
pub(crate) fn spare(config: &Config, deployments: &[Deployment]) -> Vec<Deployment> {
    let routing = config.routing();
    let served: Vec<Arc<str>> = deployments.iter().map(|deployment| Arc::clone(&deployment.group)).collect();
    let mut wanted: Vec<Arc<str>> = Vec::new();
    for group in &served {
        for kind in [FallbackKind::General, FallbackKind::ContextWindow, FallbackKind::ContentPolicy] {
            for next in routing.fallbacks_of(group, kind) {
                if !served.contains(next) && !wanted.contains(next) {
                    wanted.push(Arc::clone(next));
                }
            }
        }
    }
    let mut spare = Vec::new();
    for group in wanted {
        match config.deployments_for(&[&group]) {
            Ok(found) => spare.extend(found),
            Err(error) => tracing::warn!(%error, %group, "a group to fall back to cannot be called"),
        }
    }
    spare
}

/// The groups that are served, those that are only fallen back to, and the accounts of them all.
pub(crate) type Served = (Vec<Arc<Group>>, Vec<Arc<Group>>, Vec<Account>);

/// Builds the gates and windows of all model groups, and the accounts that they share.
pub(crate) fn serve(options: &Options, urgent: &Arc<Notify>) -> Result<Served, Error> {
    let http = provider::Http::new(options.max_response_bytes);
    let routing = &options.routing;
    let mut gates: BTreeMap<Arc<str>, Vec<Arc<Gate>>> = BTreeMap::new();
    let mut accounts: BTreeMap<Arc<str>, Account> = BTreeMap::new();
    let all = || options.deployments.iter().chain(&options.spare);
    for deployment in all() {
        let provider = match options.hooks.provider(deployment) {
            Some(provider) => provider?,
            None => provider::build(deployment, &http, Arc::clone(&options.clock))?,
        };
        let account = accounts.entry(Arc::clone(&deployment.account)).or_insert_with(|| Account {
            ledger: Ledger::new(Arc::clone(&deployment.account), deployment.limits),
            gates: Vec::new(),
        });
        let cooling = Cooling {
            has_others: all().any(|other| other.group == deployment.group && other.account != deployment.account),
            length: deployment.cooldown.unwrap_or(routing.cooldown),
            allowed_fails: deployment.allowed_fails.or(routing.allowed_fails),
            by_class: routing.allowed_fails_policy,
            disabled: routing.disable_cooldowns,
        };
        let gate = Gate::new(deployment.clone(), provider, Arc::clone(&account.ledger), cooling, Arc::clone(urgent));
        account.gates.push(Arc::clone(&gate));
        gates.entry(Arc::clone(&deployment.group)).or_default().push(gate);
    }
    let most_bytes = MOST_BYTES / gates.len().max(1);
    let concurrency = options.concurrency.max(1) as usize;
    // What can start, and as much again for what admission and flushing hold.
    let most_jobs = concurrency + concurrency.max(1000);
    let shares = Share::among(gates.len(), concurrency);
    let group = |((name, gates), share)| {
        Arc::new(Group::new(name, gates, routing.strategy, Window::new(most_jobs, most_bytes), share))
    };
    let is_served = |group: &Arc<Group>| options.deployments.iter().any(|deployment| deployment.group == group.name);
    let (served, spare) = gates.into_iter().zip(shares).map(group).partition(is_served);
    Ok((served, spare, accounts.into_values().collect()))
}
