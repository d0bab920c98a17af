//! Which deployments there are, and which key goes where.
//!
//! A key that is meant for one host goes to no other: `OPENAI_API_KEY` goes to api.openai.com or to an endpoint that was
//! named beside it (`OPENAI_BASE_URL`, `OPENAI_API_BASE`, `--api-base`), the key of any other provider likewise to its own
//! host or the endpoint in its own variable, `LITELLM_API_KEY` to `LITELLM_API_BASE`, `GRISTMILL_API_KEY` to
//! `GRISTMILL_API_BASE` or `--api-base`, and the key of a `model_list` entry to that entry's endpoint.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::quota::Limits;

use super::entry::{self, Entry};
use super::file::Section;
use super::near::nearest;
use super::options::{Layers, Options};
use super::pricing::{Priced, Table};
use super::route::{Route, describe};
use super::routing::{Lead, Routing};
use super::template::Template;
use super::weight::{self, Weight};
use super::{Deployment, Endpoint, Error, Timeouts, Wire, is_pattern, provider, wildcard};

/// Where calls can go.
#[derive(Debug, Clone)]
pub(super) enum Models {
    /// The entries of `model_list`.
    List(Vec<Entry>),
    /// One endpoint for every group.
    Any(Box<Template>),
    /// The simulator for every group.
    Simulator(Endpoint, Timeouts),
}

impl Models {
    pub(super) fn read(
        layers: &Layers<'_>,
        options: &Options,
        timeouts: Timeouts,
        simulator: Option<&Url>,
        prices: &Table,
    ) -> Result<Self, Error> {
        if let Some(url) = simulator {
            return Ok(Self::Simulator(Endpoint(url.clone()), timeouts));
        }
        match layers.file.model_list()? {
            Some(list) => Ok(Self::List(read_list(&list, layers, options, prices)?)),
            None => Ok(Self::Any(Box::new(Template::read(layers, options, timeouts, prices.clone())?))),
        }
    }

    /// Returns the groups of `model_list`, patterns as they are written; `None` where any group is served.
    pub(super) fn groups(&self) -> Option<Vec<Arc<str>>> {
        let Self::List(entries) = self else { return None };
        let mut seen = HashSet::new();
        let groups = entries.iter().map(|entry| Arc::clone(&entry.group));
        Some(groups.filter(|group| seen.insert(Arc::clone(group))).collect())
    }

    pub(super) fn routes(&self) -> Vec<Route> {
        match self {
            Self::List(entries) => entries.iter().map(Entry::route).collect(),
            Self::Any(template) => {
                // The name stands for all of them.
                let route = template.entry("model").map(|entry| entry.route()).ok();
                route
                    .map(|route| Route { model: None, deployment: None, provider_model: None, account: None, ..route })
                    .into_iter()
                    .collect()
            }
            Self::Simulator(..) => Vec::new(),
        }
    }

    /// Returns where calls for one group of `model_list` can go; `model` is the group or what it is an alias of.
    pub(super) fn routes_for(&self, group: &str, model: &str) -> Vec<Route> {
        let found = serving(model, self.entries()).unwrap_or_default();
        found.into_iter().filter_map(|entry| Some(entry.serving(group, model).ok()?.route())).collect()
    }

    /// Returns the entries of `model_list`; none where any group is served.
    pub(super) fn entries(&self) -> &[Entry] {
        match self {
            Self::List(entries) => entries,
            Self::Any(_) | Self::Simulator(..) => &[],
        }
    }

    /// Returns how the calls of a group of `model_list` are billed; `model` is the group or what it is an alias of.
    pub(super) fn priced(&self, group: &str, model: &str) -> Vec<Priced> {
        let found = serving(model, self.entries()).unwrap_or_default();
        found.into_iter().filter_map(|entry| entry.serving(group, model).ok()?.priced()).collect()
    }

    /// Finds what serves a group: `model` by name, which is the group or what it is an alias of.
    pub(super) fn deployments_for(&self, group: &str, model: &str) -> Result<Vec<Deployment>, Error> {
        match self {
            Self::List(entries) => {
                let found = serving(model, entries)?;
                found.into_iter().map(|entry| entry.serving(group, model)?.deployment()).collect()
            }
            Self::Any(template) => {
                Ok(vec![Deployment { group: group.into(), name: group.into(), ..template.entry(model)?.deployment()? }])
            }
            Self::Simulator(endpoint, timeouts) => {
                // It speaks every dialect, and takes any name.
                let (provider, model) = match provider::split(group) {
                    (Ok(provider), model) if provider.name != "openai" => (provider, model),
                    _ => (provider::openai(), group.to_owned()),
                };
                Ok(vec![Deployment {
                    wire: Wire { dialect: provider.dialect, ..Wire::default() },
                    timeouts: *timeouts,
                    simulated: true,
                    ..Deployment::new(group, provider.name, &model, endpoint.clone())
                }])
            }
        }
    }

    /// Refuses fallbacks and aliases that lead to no group.
    pub(super) fn check(&self, routing: &Routing) -> Result<(), Error> {
        let Self::List(entries) = self else { return Ok(()) };
        for Lead { origin, group, is_alias } in routing.targets() {
            let model = if *is_alias { group } else { routing.aliased(group) };
            if let Err(Error::UnknownGroup { hint, .. }) = serving(model, entries) {
                let problem = format!("names model `{group}`, which no entry of model_list serves; {hint}");
                return Err(Error::Invalid { origin: origin.clone(), problem });
            }
        }
        Ok(())
    }

    /// Tells whether some group has this name, or a name of this form.
    pub(super) fn serves(&self, model: &str) -> bool {
        match self {
            Self::List(entries) => {
                serving(model, entries).is_ok() || entries.iter().any(|entry| *entry.group == *model)
            }
            Self::Any(_) | Self::Simulator(..) => true,
        }
    }
}

/// Finds the entries of a model: those of its name, else those of the longest pattern that takes it.
fn serving<'a>(model: &str, entries: &'a [Entry]) -> Result<Vec<&'a Entry>, Error> {
    let of_group = |group: &str| entries.iter().filter(|entry| *entry.group == *group).collect::<Vec<_>>();
    let exact = of_group(model);
    if is_pattern(model) && !exact.is_empty() {
        return Err(Error::Pattern { pattern: model.to_owned() });
    }
    if !exact.is_empty() {
        return Ok(exact);
    }
    let mut patterns: Vec<&str> = entries.iter().map(|entry| &*entry.group).filter(|group| is_pattern(group)).collect();
    patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.len()));
    match patterns.into_iter().find(|pattern| wildcard::captures(pattern, model).is_some()) {
        Some(pattern) => Ok(of_group(pattern)),
        None => Err(unknown_group(model, entries)),
    }
}

fn unknown_group(group: &str, entries: &[Entry]) -> Error {
    let names: Vec<&str> = entries.iter().map(|entry| &*entry.group).collect();
    let hint = match nearest(group, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let mut names = names;
            names.sort_unstable();
            names.dedup();
            let more = names.len().saturating_sub(10);
            names.truncate(10);
            let known = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            if more == 0 { format!("it has {known}") } else { format!("it has {known} and {more} more") }
        }
    };
    Error::UnknownGroup { group: group.to_owned(), hint }
}

fn read_list(
    list: &[Section<'_>],
    layers: &Layers<'_>,
    options: &Options,
    prices: &Table,
) -> Result<Vec<Entry>, Error> {
    let drop_params = entry::drops_params(layers)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    let mut weights: Vec<Option<Weight>> = Vec::with_capacity(list.len());
    for section in list {
        entries.push(entry::read(section, layers.variables, options, drop_params, &entries)?);
        weights.push(section.section("litellm_params").get("weight", layers.variables)?);
    }
    share_limits(&mut entries)?;
    let parallel = layers.file.top("router_settings").get("default_max_parallel_requests", layers.variables)?;
    for entry in &mut entries {
        entry.prices = Some(prices.clone());
        entry.limits.max_parallel_requests = entry.limits.max_parallel_requests.or(parallel);
    }
    weight::set(&mut entries, &weights);
    Ok(entries)
}

/// Gives all deployments of an account its limits, which one of them says, or several alike.
fn share_limits(entries: &mut [Entry]) -> Result<(), Error> {
    for at in 0..entries.len() {
        let (earlier, rest) = entries.split_at_mut(at);
        let Some((entry, later)) = rest.split_first_mut() else { break };
        if let Some(other) = earlier.iter().find(|other| other.account == entry.account) {
            entry.limits = other.limits;
            continue;
        }
        let sharing = later.iter().filter(|other| other.account == entry.account && !other.limits.is_empty());
        for other in sharing {
            if entry.limits.is_empty() {
                entry.limits = other.limits;
            } else if entry.limits != other.limits {
                return Err(Error::Relation(format!(
                    "`{}` ({}) and `{}` ({}) share the limits of account `{}` and have different ones; write them into one \
                     of the entries, or the same into each",
                    entry.name,
                    describe(&entry.limits),
                    other.name,
                    describe(&other.limits),
                    entry.account
                )));
            }
        }
    }
    Ok(())
}

/// Returns the limits of every account of `model_list`, each once, those without any included.
pub(super) fn limits(entries: &[Entry]) -> Vec<(Arc<str>, Limits)> {
    let mut seen = HashSet::new();
    let accounts = entries.iter().map(|entry| (Arc::clone(&entry.account), entry.limits));
    accounts.filter(|(account, _)| seen.insert(Arc::clone(account))).collect()
}

/// Fills in the defaults of the parts and checks that none is longer than the whole; the error is the problem.
pub(super) fn timeouts(
    total: Duration,
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    idle: Option<Duration>,
) -> Result<Timeouts, String> {
    if total.is_zero() {
        return Err("timeout must be longer than zero".to_owned());
    }
    for (name, part) in [("connect_timeout", connect), ("first_byte_timeout", first_byte), ("idle_timeout", idle)] {
        match part {
            Some(part) if part.is_zero() => return Err(format!("{name} must be longer than zero")),
            Some(part) if part > total => {
                return Err(format!(
                    "{name} ({part:?}) is longer than timeout ({total:?}); lower one or raise the other"
                ));
            }
            _ => {}
        }
    }
    let default = Timeouts::default();
    Ok(Timeouts {
        connect: connect.unwrap_or_else(|| default.connect.min(total)),
        first_byte: first_byte.unwrap_or(total),
        idle: idle.unwrap_or_else(|| default.idle.min(total)),
        total,
    })
}
