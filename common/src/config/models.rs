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

use super::account::{
    Key, account_base, account_headers, account_key, endpoint, is_own_host, missing_endpoint, own_endpoint, required,
    resolve,
};
use super::env::Found;
use super::file::Section;
use super::near::nearest;
use super::options::{Layers, Options, Parse};
use super::provider::{self, Provider};
use super::{Deployment, Dialect, Endpoint, Env, Error, Header, Timeouts, Wire};

/// One entry of `model_list`, checked; or what the template makes of a group, where there is no list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    name: Arc<str>,
    group: Arc<str>,
    model: String,
    provider: Result<&'static Provider, String>,
    /// `None` where nobody says where the provider is, which is told when it is to be called.
    api_base: Option<Endpoint>,
    key: Key,
    wire: Wire,
    timeouts: Timeouts,
    account: Arc<str>,
    limits: Limits,
    num_retries: Option<u16>,
}

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

/// What serves every model group that is asked for.
#[derive(Clone)]
pub(super) struct Template {
    /// The one endpoint that was named; none where each provider has its own.
    named: Option<Named>,
    env: Env,
    timeouts: Timeouts,
    drop_params: bool,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("named", &self.named).finish_non_exhaustive()
    }
}

/// An endpoint that was named for every group.
#[derive(Debug, Clone)]
struct Named {
    api_base: Endpoint,
    key: Key,
    api_version: Option<Arc<str>>,
    /// Whether names are LiteLLM's, `provider/model`; else they go to the endpoint as they are.
    litellm_names: bool,
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
            Some(list) => Ok(Self::List(read_list(&list, layers, options)?)),
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

impl Entry {
    fn route(&self) -> Route {
        Route {
            model: Some(Arc::clone(&self.group)),
            deployment: Some(Arc::clone(&self.name)),
            provider: self.provider.clone().map_or_else(|name| name, |provider| provider.name.to_owned()),
            provider_model: Some(self.model.clone()),
            endpoint: self
                .api_base
                .as_ref()
                .map_or_else(|| "no endpoint".to_owned(), |base| base.0.origin().ascii_serialization()),
            key: match &self.key {
                Key::Found(found) => Some(found.name.clone()),
                Key::Missing { variable, .. } => Some(variable.clone()),
                Key::None | Key::Required { .. } | Key::Unreadable(_) => None,
            },
            problem: self.deployment().err().map(|error| error.to_string()),
        }
    }

    fn deployment(&self) -> Result<Deployment, Error> {
        let unsupported = |name: &str| Error::UnsupportedProvider {
            known: provider::known(name),
            provider: name.to_owned(),
            model: self.model.clone(),
        };
        let provider = match &self.provider {
            Ok(provider) => *provider,
            Err(name) => return Err(unsupported(name)),
        };
        let Some(api_base) = self.api_base.clone() else { return Err(missing_endpoint(provider, &self.key)) };
        // No model of OpenAI's own has a slash in its name: what stands before it was meant to be a provider.
        if let Some((prefix, _)) = self.model.split_once('/')
            && provider.name == "openai"
            && is_own_host(provider, &api_base)
        {
            return Err(unsupported(prefix));
        }
        let found = match &self.key {
            Key::None => None,
            Key::Found(found) => Some(found.clone()),
            Key::Missing { place, variable } => {
                return Err(Error::MissingVariable { place: place.clone(), variable: variable.clone() });
            }
            Key::Required { host, remedy, note, .. } => {
                return Err(Error::MissingKey { host: host.clone(), remedy: remedy.clone(), note: note.clone() });
            }
            Key::Unreadable(why) => return Err(Error::UnreadableKey(why.clone())),
        };
        let api_key = found.as_ref().map(|found| found.value.clone().map_err(Error::Key)).transpose()?;
        let mut wire = self.wire.clone();
        wire.dialect = provider.dialect;
        wire.bearer |= found.as_ref().is_some_and(|found| provider::is_token(&found.name));
        Ok(Deployment {
            name: Arc::clone(&self.name),
            group: Arc::clone(&self.group),
            provider: provider.name.into(),
            model: self.model.as_str().into(),
            api_base,
            api_key,
            key_source: found.as_ref().map(|found| found.name.clone()),
            key_file: found.and_then(|found| found.file),
            wire,
            timeouts: self.timeouts,
            account: Arc::clone(&self.account),
            limits: self.limits,
            num_retries: self.num_retries,
            simulated: false,
        })
    }
}

impl Template {
    /// Says of keys that are set why they are not OpenAI's.
    fn other_keys(&self) -> &'static str {
        match (self.env.get("LITELLM_API_KEY"), self.env.get("GRISTMILL_API_KEY")) {
            (Some(_), _) => " (LITELLM_API_KEY is sent to LITELLM_API_BASE only)",
            (_, Some(_)) => " (GRISTMILL_API_KEY is sent to GRISTMILL_API_BASE or --api-base only)",
            _ => "",
        }
    }

    fn read(layers: &Layers<'_>, options: &Options, timeouts: Timeouts) -> Result<Self, Error> {
        let env = layers.env;
        let openai = provider::openai();
        let found = |name| match env.secret(name) {
            Ok(found) => found.map_or(Key::None, Key::Found),
            Err(error) => Key::Unreadable(error.to_string()),
        };
        let or = |key: Key, other: Key| if matches!(key, Key::None) { other } else { key };

        let litellm_base = endpoint(env.get("LITELLM_API_BASE"), "LITELLM_API_BASE")?;
        let openai_base = account_base(openai, env)?;
        let named = if let Some(api_base) = &options.api_base {
            let key = found("GRISTMILL_API_KEY");
            let key = if layers.is_overridden("api_base") { or(key, account_key(openai, env)) } else { key };
            let litellm_names = is_own_host(openai, api_base);
            Some(Named { api_base: api_base.clone(), key, api_version: None, litellm_names })
        } else if let Some(api_base) = litellm_base {
            let api_version = env.get("LITELLM_API_VERSION").map(Into::into);
            Some(Named { api_base, key: found("LITELLM_API_KEY"), api_version, litellm_names: true })
        } else {
            openai_base.filter(|base| !is_own_host(openai, base)).map(|api_base| Named {
                api_base,
                key: account_key(openai, env),
                api_version: None,
                litellm_names: false,
            })
        };
        // OpenAI's own key goes to OpenAI's own host, whoever named that.
        let named = named.map(|mut named| {
            if is_own_host(openai, &named.api_base) && matches!(named.key, Key::None) {
                named.key = account_key(openai, env);
            }
            named
        });
        let drop_params = drops_params(layers)?;
        Ok(Self { named, env: env.clone(), timeouts, drop_params })
    }

    fn entry(&self, group: &str) -> Result<Entry, Error> {
        let openai = provider::openai();
        let (provider, model) = match &self.named {
            Some(Named { litellm_names: false, .. }) => (Ok(openai), group.to_owned()),
            _ => provider::split(group),
        };
        // Another provider's model does not go to OpenAI's own host.
        let named = self.named.as_ref().filter(|named| {
            provider.as_ref().is_ok_and(|provider| provider.name == "openai") || !is_own_host(openai, &named.api_base)
        });
        let mut wire = Wire { drop_params: self.drop_params, ..Wire::default() };
        let (api_base, key) = match (named, &provider) {
            (Some(named), _) => {
                wire.api_version.clone_from(&named.api_version);
                (named.api_base.clone(), named.key.clone())
            }
            (None, Ok(provider)) => {
                if provider.dialect == Dialect::Azure {
                    wire.api_version = self.env.get("AZURE_API_VERSION").map(Into::into);
                }
                resolve(provider, None, Key::None, &self.env)?
            }
            // What is wrong with it is told when it is to be called.
            (None, Err(_)) => (own_endpoint(openai)?, Key::None),
        };
        let key = match key {
            Key::None if is_own_host(openai, &api_base) => required(openai, &api_base, self.other_keys()),
            Key::Required { provider, .. } if provider.name == "openai" => {
                required(provider, &api_base, self.other_keys())
            }
            key => key,
        };
        if let Ok(provider) = &provider {
            wire.headers = account_headers(provider, &api_base, &self.env);
        }
        Ok(Entry {
            name: group.into(),
            group: group.into(),
            model,
            provider,
            api_base: Some(api_base),
            key,
            wire,
            timeouts: self.timeouts,
            account: group.into(),
            limits: Limits::default(),
            num_retries: None,
        })
    }
}

fn drops_params(layers: &Layers<'_>) -> Result<bool, Error> {
    match layers.file.text("litellm_settings.drop_params", layers.env)? {
        None => Ok(false),
        Some(text) => flag(&text).map_err(|problem| Error::Invalid {
            origin: format!("litellm_settings.drop_params in {}", layers.file.name()),
            problem,
        }),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "1" | "yes" => Ok(true),
        "false" | "False" | "0" | "no" => Ok(false),
        other => Err(format!("must be true or false, not `{other}`")),
    }
}

fn read_list(list: &[Section<'_>], layers: &Layers<'_>, options: &Options) -> Result<Vec<Entry>, Error> {
    let drop_params = drops_params(layers)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for section in list {
        let entry = read_entry(section, layers.env, options, drop_params, &entries)?;
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(Error::Invalid {
                origin: section.section("model_info").origin("id"),
                problem: format!("is `{}`, which another entry has; give each entry its own", entry.name),
            });
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn read_entry(
    section: &Section<'_>,
    env: &Env,
    options: &Options,
    drop_params: bool,
    earlier: &[Entry],
) -> Result<Entry, Error> {
    let params = section.section("litellm_params");
    let missing = |origin: String| Error::Invalid { origin, problem: "is missing".to_owned() };
    let group = section.text("model_name", env)?.ok_or_else(|| missing(section.origin("model_name")))?;
    let written = params.text("model", env)?.ok_or_else(|| missing(params.origin("model")))?;
    for (origin, name) in [(section.origin("model_name"), &group), (params.origin("model"), &written)] {
        if name.contains('*') {
            let problem =
                "must be one model's name: `*` is not supported; list each model, or leave model_list out".to_owned();
            return Err(Error::Invalid { origin, problem });
        }
    }
    let (provider, model) = match params.text("custom_llm_provider", env)? {
        Some(name) => {
            let model = written.strip_prefix(&format!("{name}/")).unwrap_or(&written).to_owned();
            (provider::find(&name).ok_or(name), model)
        }
        None => provider::split(&written),
    };

    let own_base = match params.text("api_base", env)? {
        Some(text) => endpoint(Some(&text), &params.origin("api_base"))?,
        None => endpoint(params.text("base_url", env)?.as_deref(), &params.origin("base_url"))?,
    };
    let mut wire = read_wire(&params, env, drop_params)?;
    let own_key = match read_key(&params, "api_key", env)? {
        Key::None => {
            let token = read_key(&params, "azure_ad_token", env)?;
            wire.bearer = !matches!(token, Key::None);
            token
        }
        key => key,
    };
    let (api_base, key) = match &provider {
        Ok(provider) => {
            let uses_account = own_base.is_none();
            let (api_base, key) = match resolve(provider, own_base, own_key.clone(), env) {
                Ok((api_base, key)) => (Some(api_base), key),
                // What one entry lacks is no fault of the others.
                Err(Error::MissingEndpoint { .. }) => (None, own_key),
                Err(error) => return Err(error),
            };
            if provider.dialect == Dialect::Azure && uses_account && wire.api_version.is_none() {
                wire.api_version = env.get("AZURE_API_VERSION").map(Into::into);
            }
            let mut headers =
                api_base.as_ref().map_or_else(Vec::new, |api_base| account_headers(provider, api_base, env));
            headers.retain(|header| !wire.headers.iter().any(|own| own.name.eq_ignore_ascii_case(&header.name)));
            wire.headers.extend(headers);
            (api_base, key)
        }
        // What is wrong with it is told when it is to be called.
        Err(_) => (own_base, own_key),
    };

    let same_group = earlier.iter().filter(|entry| *entry.group == *group).count();
    let name = match section.section("model_info").text("id", env)? {
        Some(id) if id.contains("://") => {
            let origin = section.section("model_info").origin("id");
            return Err(Error::Invalid { origin, problem: "is shown to people and must not be an address".to_owned() });
        }
        Some(id) => id,
        None if same_group == 0 => group.clone(),
        None => format!("{group}#{}", same_group + 1),
    };
    Ok(Entry {
        account: name.as_str().into(),
        name: name.into(),
        group: group.into(),
        model,
        provider,
        wire,
        timeouts: read_timeouts(&params, env, options)?,
        limits: Limits {
            rpm: number(&params, "rpm", env)?,
            tpm: number(&params, "tpm", env)?,
            itpm: number(&params, "itpm", env)?,
            otpm: number(&params, "otpm", env)?,
            rpd: number(&params, "rpd", env)?,
            tpd: number(&params, "tpd", env)?,
            max_parallel_requests: number(&params, "max_parallel_requests", env)?,
        },
        num_retries: match number(&params, "num_retries", env)? {
            Some(retries) => Some(retries),
            None => number(&params, "max_retries", env)?,
        },
        api_base,
        key,
    })
}

/// Reads how a deployment is spoken to.
fn read_wire(params: &Section<'_>, env: &Env, drop_params: bool) -> Result<Wire, Error> {
    let read_flag = |key: &str| -> Result<Option<bool>, Error> {
        let Some(text) = params.text(key, env)? else { return Ok(None) };
        flag(&text).map(Some).map_err(|problem| Error::Invalid { origin: params.origin(key), problem })
    };
    let mut headers = Vec::new();
    for (key, name) in [("organization", "openai-organization"), ("project", "openai-project")] {
        if let Some(value) = params.text(key, env)? {
            headers.push(Header { name: name.into(), value: value.into() });
        }
    }
    for key in ["extra_headers", "headers"] {
        let section = params.section(key);
        for name in section.names() {
            let value = section.text(name, env)?.unwrap_or_default();
            headers.push(Header { name: name.to_ascii_lowercase().into(), value: value.into() });
        }
    }
    Ok(Wire {
        api_version: params.text("api_version", env)?.map(Into::into),
        headers,
        drop_params: read_flag("drop_params")?.unwrap_or(drop_params),
        stream: read_flag("stream")?.unwrap_or(false),
        max_tokens: match number(params, "max_tokens", env)? {
            Some(most) => Some(most),
            None => number(params, "max_completion_tokens", env)?,
        },
        ..Wire::default()
    })
}

fn read_key(params: &Section<'_>, key: &str, env: &Env) -> Result<Key, Error> {
    let Some(text) = params.raw(key)? else { return Ok(Key::None) };
    let place = params.origin(key);
    let Some(variable) = text.strip_prefix("os.environ/") else {
        return Ok(Key::Found(Found { name: place, value: Ok(text.into()), file: None }));
    };
    Ok(match env.secret(variable) {
        // Named by its variable, also where the value came from the file beside it.
        Ok(Some(found)) => Key::Found(Found { name: variable.to_owned(), ..found }),
        Ok(None) => Key::Missing { place, variable: variable.to_owned() },
        Err(error) => Key::Unreadable(error.to_string()),
    })
}

fn number<T: Parse>(params: &Section<'_>, key: &str, env: &Env) -> Result<Option<T>, Error> {
    let Some(text) = params.text(key, env)? else { return Ok(None) };
    T::parse(&text).map(Some).map_err(|problem| Error::Invalid { origin: params.origin(key), problem })
}

fn read_timeouts(params: &Section<'_>, env: &Env, options: &Options) -> Result<Timeouts, Error> {
    let read = |key| number::<Duration>(params, key, env);
    let own_total = read("timeout")?;
    let total = own_total.unwrap_or(options.timeout);
    // A limit that was set for all is no contradiction to a shorter total of one deployment.
    let shared =
        |limit: Option<Duration>| limit.map(|limit| if own_total.is_some() { limit.min(total) } else { limit });
    timeouts(
        total,
        read("connect_timeout")?.or_else(|| shared(options.connect_timeout)),
        read("first_byte_timeout")?.or_else(|| shared(options.first_byte_timeout)),
        read("idle_timeout")?.or_else(|| shared(options.idle_timeout)),
    )
    .map_err(|problem| Error::Relation(format!("{}: {problem}", params.origin("timeout"))))
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
