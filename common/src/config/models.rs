//! Which deployments there are, and which key goes where.
//!
//! A key that is meant for one host goes to no other: `OPENAI_API_KEY` goes to api.openai.com or to an endpoint that was
//! named beside it (`OPENAI_BASE_URL`, `OPENAI_API_BASE`, `--api-base`), the key of any other provider likewise to its own
//! host or the endpoint in its own variable, `LITELLM_API_KEY` to `LITELLM_API_BASE`, `GRISTMILL_API_KEY` to
//! `GRISTMILL_API_BASE` or `--api-base`, and the key of a `model_list` entry to that entry's endpoint.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use url::Url;

use crate::quota::Limits;

use super::entry::{self, Entry};
use super::near::nearest;
use super::options::{Layers, Options};
use super::provider;
use super::template::Template;
use super::{Deployment, Endpoint, Error, Timeouts, Wire};

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

/// Where calls for a model group can go, for people: nothing of it is secret. No `Debug`: an endpoint is nothing for a log.
#[expect(missing_debug_implementations, reason = "its endpoint is nothing for a log")]
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The model group; `None` for every group that is asked for.
    pub model: Option<Arc<str>>,
    /// The deployment's name; `None` where it is the group's.
    pub deployment: Option<Arc<str>>,
    /// The provider kind.
    pub provider: String,
    /// The model's name at the provider; `None` where it is the group's.
    pub provider_model: Option<String>,
    /// The endpoint's scheme, host and port.
    pub endpoint: String,
    /// Where the key comes from; `None` where none is sent.
    pub key: Option<String>,
    /// Why it cannot be called, if it cannot.
    pub problem: Option<String>,
}

impl Models {
    pub(super) fn read(
        layers: &Layers<'_>,
        options: &Options,
        timeouts: Timeouts,
        simulator: Option<&Url>,
    ) -> Result<Self, Error> {
        if let Some(url) = simulator {
            return Ok(Self::Simulator(Endpoint(url.clone()), timeouts));
        }
        match layers.file.model_list()? {
            Some(list) => Ok(Self::List(entry::read_list(&list, layers, options)?)),
            None => Ok(Self::Any(Box::new(Template::read(layers, options, timeouts)?))),
        }
    }

    /// Returns the groups of `model_list`; `None` where any group is served.
    pub(super) fn groups(&self) -> Option<Vec<Arc<str>>> {
        let Self::List(entries) = self else { return None };
        let mut seen = HashSet::new();
        Some(
            entries
                .iter()
                .map(|entry| Arc::clone(&entry.group))
                .filter(|group| seen.insert(Arc::clone(group)))
                .collect(),
        )
    }

    pub(super) fn routes(&self) -> Vec<Route> {
        match self {
            Self::List(entries) => entries.iter().map(Entry::route).collect(),
            Self::Any(template) => {
                // The name stands for all of them.
                let route = template.entry("model").map(|entry| entry.route()).ok();
                route
                    .map(|route| Route { model: None, deployment: None, provider_model: None, ..route })
                    .into_iter()
                    .collect()
            }
            Self::Simulator(..) => Vec::new(),
        }
    }

    pub(super) fn deployments_for(&self, group: &str) -> Result<Vec<Deployment>, Error> {
        match self {
            Self::List(entries) => {
                let found: Vec<_> = entries.iter().filter(|entry| &*entry.group == group).collect();
                if found.is_empty() {
                    return Err(unknown_group(group, entries));
                }
                found.into_iter().map(Entry::deployment).collect()
            }
            Self::Any(template) => Ok(vec![template.entry(group)?.deployment()?]),
            Self::Simulator(endpoint, timeouts) => {
                // It speaks every dialect, and takes any name.
                let (provider, model) = match provider::split(group) {
                    (Ok(provider), model) if provider.name != "openai" => (provider, model),
                    _ => (provider::openai(), group.to_owned()),
                };
                Ok(vec![Deployment {
                    name: group.into(),
                    group: group.into(),
                    provider: provider.name.into(),
                    model: model.into(),
                    api_base: endpoint.clone(),
                    api_key: None,
                    key_source: None,
                    key_file: None,
                    wire: Wire { dialect: provider.dialect, ..Wire::default() },
                    timeouts: *timeouts,
                    account: group.into(),
                    limits: Limits::default(),
                    num_retries: None,
                    simulated: true,
                }])
            }
        }
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
