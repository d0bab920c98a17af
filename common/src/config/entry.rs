//! Reads the entries of `model_list`, and makes deployments of them.
//!
//! What is wrong with one entry's key, endpoint or provider is told when it is to be called, so that it is no fault of others.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::quota::Limits;

use super::account::{Key, account_headers, endpoint, is_own_host, missing_endpoint, resolve};
use super::env::Found;
use super::file::Section;
use super::models::timeouts;
use super::options::{Layers, Options};
use super::pricing::{Priced, Pricing, Table};
use super::provider::{self, Provider};
use super::route::Route;
use super::{Deployment, Dialect, Endpoint, Env, Error, Header, Timeouts, Wire, is_pattern, keys, wildcard};

/// One entry of `model_list`, checked; or what the template makes of a group, where there is no list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) group: Arc<str>,
    pub(super) target: Target,
    pub(super) timeouts: Timeouts,
    pub(super) account: Arc<str>,
    pub(super) limits: Limits,
    pub(super) weight: u32,
    pub(super) num_retries: Option<u16>,
    order: u32,
    tags: Vec<Arc<str>>,
    defaults: Arc<Map<String, Value>>,
    /// The defaults as they are written, for people.
    written_defaults: Map<String, Value>,
    max_input_tokens: Option<u64>,
    pricing: Pricing,
    /// The table that its prices are found in.
    pub(super) prices: Option<Table>,
    cooldown: Option<Duration>,
    allowed_fails: Option<u32>,
    /// Whether `model_info.id` names it.
    has_id: bool,
    /// Where its models go, if its group is a pattern.
    pattern: Option<Box<Given>>,
    /// Where it stands in the file.
    origin: Option<String>,
}

/// Whom an entry calls, and how.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) provider: Result<&'static Provider, String>,
    pub(super) model: String,
    /// `None` where nobody says where the provider is, which is told when it is to be called.
    pub(super) api_base: Option<Endpoint>,
    pub(super) key: Key,
    pub(super) wire: Wire,
}

/// What an entry says of whom it calls, from which the target of each of its models is made.
#[derive(Debug, Clone)]
struct Given {
    /// `litellm_params.model`.
    model: String,
    custom_provider: Option<String>,
    api_base: Option<Endpoint>,
    key: Key,
    wire: Wire,
    env: Env,
}

impl Entry {
    /// Makes an entry that says nothing but whom it calls.
    pub(super) fn new(group: &str, target: Target, timeouts: Timeouts) -> Self {
        Self {
            name: group.into(),
            group: group.into(),
            target,
            timeouts,
            account: group.into(),
            limits: Limits::default(),
            weight: 1,
            num_retries: None,
            order: 1,
            tags: Vec::new(),
            defaults: Arc::default(),
            written_defaults: Map::new(),
            max_input_tokens: None,
            pricing: Pricing::default(),
            prices: None,
            cooldown: None,
            allowed_fails: None,
            has_id: false,
            pattern: None,
            origin: None,
        }
    }

    /// Returns the entry as it serves `group`, where `model` is the group that it was found by: `group` itself, or what it is
    /// an alias of. Its name is `group`'s then, and its account stays the same.
    pub(super) fn serving(&self, group: &str, model: &str) -> Result<Self, Error> {
        let mut entry = self.clone();
        if let Some(given) = entry.pattern.take()
            && let Some(captures) = wildcard::captures(&self.group, model)
        {
            entry.target = given.target(&wildcard::fill(&given.model, &captures, model))?;
        }
        if *self.group != *group {
            entry.group = group.into();
            entry.name = match self.name.strip_prefix(&*self.group) {
                Some(number) if !self.has_id => format!("{group}{number}").into(),
                _ => format!("{}:{group}", self.name).into(),
            };
        }
        Ok(entry)
    }

    pub(super) fn route(&self) -> Route {
        let target = &self.target;
        let route = Route {
            model: Some(Arc::clone(&self.group)),
            deployment: Some(Arc::clone(&self.name)),
            provider: target.provider.clone().map_or_else(|name| name, |provider| provider.name.to_owned()),
            provider_model: Some(target.model.clone()),
            endpoint: target
                .api_base
                .as_ref()
                .map_or_else(|| "no endpoint".to_owned(), |base| base.0.origin().ascii_serialization()),
            key: match &target.key {
                Key::Found(found) => Some(found.name.clone()),
                Key::Missing { variable, .. } => Some(variable.clone()),
                Key::None | Key::Required { .. } | Key::Unreadable(_) => None,
            },
            problem: self.deployment().err().map(|error| error.to_string()),
            account: Some(Arc::clone(&self.account)),
            limits: self.limits,
            weight: self.weight,
            order: self.order,
            tags: self.tags.clone(),
            defaults: self.written_defaults.clone(),
            headers: target.wire.headers.iter().map(|header| Arc::clone(&header.name)).collect(),
            origin: self.origin.clone(),
        };
        if self.pattern.as_ref().is_some_and(|given| given.takes_any_provider()) {
            let each = "each its own".to_owned();
            return Route {
                provider: "any".to_owned(),
                endpoint: each.clone(),
                key: Some(each),
                problem: None,
                ..route
            };
        }
        route
    }

    /// Returns how its calls are billed; a key that is missing here is no matter.
    pub(super) fn priced(&self) -> Option<Priced> {
        let Target { provider: Ok(provider), model, api_base, .. } = &self.target else { return None };
        Some(Priced {
            deployment: Arc::clone(&self.name),
            provider: provider.name,
            model: model.clone(),
            tariff: self.pricing.tariff(self.prices.as_ref()?, provider.name, model),
            data_residency: api_base.as_ref().and_then(Endpoint::data_residency),
        })
    }

    pub(super) fn deployment(&self) -> Result<Deployment, Error> {
        let target = &self.target;
        let unsupported = |name: &str| Error::UnsupportedProvider {
            known: provider::known(name),
            provider: name.to_owned(),
            model: target.model.clone(),
        };
        let provider = match &target.provider {
            Ok(provider) => *provider,
            Err(name) => return Err(unsupported(name)),
        };
        let Some(api_base) = target.api_base.clone() else { return Err(missing_endpoint(provider, &target.key)) };
        // No model of OpenAI's own has a slash in its name: what stands before it was meant to be a provider.
        if let Some((prefix, _)) = target.model.split_once('/')
            && provider.name == "openai"
            && is_own_host(provider, &api_base)
        {
            return Err(unsupported(prefix));
        }
        let found = match &target.key {
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
        let (price, window) =
            self.prices.as_ref().map_or((None, None), |table| self.pricing.of(table, provider.name, &target.model));
        let mut wire = target.wire.clone();
        wire.dialect = provider.dialect;
        wire.bearer |= found.as_ref().is_some_and(|found| provider::is_token(&found.name));
        Ok(Deployment {
            name: Arc::clone(&self.name),
            group: Arc::clone(&self.group),
            provider: provider.name.into(),
            model: target.model.as_str().into(),
            api_base,
            api_key,
            key_source: found.as_ref().map(|found| found.name.clone()),
            key_file: found.and_then(|found| found.file),
            wire,
            timeouts: self.timeouts,
            account: Arc::clone(&self.account),
            limits: self.limits,
            weight: self.weight,
            order: self.order,
            tags: self.tags.clone(),
            defaults: Arc::clone(&self.defaults),
            max_input_tokens: self.max_input_tokens.or(window),
            price,
            cooldown: self.cooldown,
            allowed_fails: self.allowed_fails,
            num_retries: self.num_retries,
            simulated: false,
        })
    }
}

impl Given {
    /// Tells whether the name of each model says whose it is, and so where it goes.
    fn takes_any_provider(&self) -> bool {
        self.model.starts_with('*') && self.custom_provider.is_none() && self.api_base.is_none()
    }

    /// Finds whom a model's calls go to, by its name as `litellm_params.model` has it.
    fn target(&self, model: &str) -> Result<Target, Error> {
        let (provider, model) = match &self.custom_provider {
            Some(name) => {
                let model = model.strip_prefix(&format!("{name}/")).unwrap_or(model).to_owned();
                (provider::find(name).ok_or_else(|| name.clone()), model)
            }
            None => provider::split(model),
        };
        let mut wire = self.wire.clone();
        let Ok(known) = provider else {
            // What is wrong with it is told when it is to be called.
            return Ok(Target { provider, model, api_base: self.api_base.clone(), key: self.key.clone(), wire });
        };
        let (api_base, key) = match resolve(known, self.api_base.clone(), self.key.clone(), &self.env) {
            Ok((api_base, key)) => (Some(api_base), key),
            // What one entry lacks is no fault of the others.
            Err(Error::MissingEndpoint { .. }) => (None, self.key.clone()),
            Err(error) => return Err(error),
        };
        if known.dialect == Dialect::Azure && self.api_base.is_none() && wire.api_version.is_none() {
            wire.api_version = self.env.get("AZURE_API_VERSION").map(Into::into);
        }
        let mut headers =
            api_base.as_ref().map_or_else(Vec::new, |api_base| account_headers(known, api_base, &self.env));
        headers.retain(|header| !wire.headers.iter().any(|own| own.name.eq_ignore_ascii_case(&header.name)));
        wire.headers.extend(headers);
        Ok(Target { provider, model, api_base, key, wire })
    }
}

pub(super) fn drops_params(layers: &Layers<'_>) -> Result<bool, Error> {
    Ok(layers.file.top("litellm_settings").get("drop_params", layers.variables)?.unwrap_or(false))
}

/// Reads an entry; `earlier` are those before it. Its weight is what it says itself, if anything.
pub(super) fn read(
    section: &Section<'_>,
    env: &Env,
    options: &Options,
    drop_params: bool,
    earlier: &[Entry],
) -> Result<Entry, Error> {
    let params = section.section("litellm_params");
    let info = section.section("model_info");
    let missing = |origin: String| Error::Invalid { origin, problem: "is missing".to_owned() };
    let group = section.text("model_name", env)?.ok_or_else(|| missing(section.origin("model_name")))?;
    let model = params.text("model", env)?.ok_or_else(|| missing(params.origin("model")))?;
    if is_pattern(&model) && !is_pattern(&group) {
        let problem = format!("must be one model's name: `{group}` has no `*` that would stand for one");
        return Err(Error::Invalid { origin: params.origin("model"), problem });
    }
    let (key, bearer) = read_keys(&params, env)?;
    let given = Given {
        model,
        custom_provider: params.text("custom_llm_provider", env)?,
        api_base: match params.text("api_base", env)? {
            Some(text) => endpoint(Some(&text), &params.origin("api_base"))?,
            None => endpoint(params.text("base_url", env)?.as_deref(), &params.origin("base_url"))?,
        },
        key,
        wire: Wire { bearer, ..read_wire(&params, env, drop_params)? },
        env: env.clone(),
    };
    let (name, has_id) = read_name(&info, env, &group, earlier)?;
    let target = given.target(&given.model)?;
    Ok(Entry {
        account: info.text("limit_account", env)?.unwrap_or_else(|| name.clone()).into(),
        name: name.into(),
        limits: read_limits(&params, env)?,
        num_retries: either(params.get("num_retries", env)?, || params.get("max_retries", env))?,
        order: params.get("order", env)?.unwrap_or(1),
        tags: params.texts("tags", env)?.into_iter().map(Into::into).collect(),
        defaults: Arc::new(read_defaults(&params, env)?),
        written_defaults: written_defaults(&params),
        max_input_tokens: info.get("max_input_tokens", env)?,
        pricing: Pricing::read(&params, &info, env)?,
        cooldown: either(info.get("cooldown_time", env)?, || params.get("cooldown_time", env))?,
        allowed_fails: either(info.get("allowed_fails", env)?, || params.get("allowed_fails", env))?,
        has_id,
        pattern: is_pattern(&group).then(|| Box::new(given)),
        origin: Some(section.here()),
        ..Entry::new(&group, target, read_timeouts(&params, env, options)?)
    })
}

/// Returns the first value, else the second.
fn either<T>(first: Option<T>, second: impl FnOnce() -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    if first.is_some() { Ok(first) } else { second() }
}

/// Reads what an entry is called, and whether it says so itself.
fn read_name(info: &Section<'_>, env: &Env, group: &str, earlier: &[Entry]) -> Result<(String, bool), Error> {
    let same_group = earlier.iter().filter(|entry| *entry.group == *group).count();
    let invalid = |problem: String| Error::Invalid { origin: info.origin("id"), problem };
    let (name, has_id) = match info.text("id", env)? {
        Some(id) if id.contains("://") => {
            return Err(invalid("is shown to people and must not be an address".to_owned()));
        }
        Some(id) => (id, true),
        None if same_group == 0 => (group.to_owned(), false),
        None => (format!("{group}#{}", same_group + 1), false),
    };
    if earlier.iter().any(|other| *other.name == *name) {
        return Err(invalid(format!("is `{name}`, which another entry has; give each entry its own")));
    }
    Ok((name, has_id))
}

fn read_limits(params: &Section<'_>, env: &Env) -> Result<Limits, Error> {
    Ok(Limits {
        rpm: params.get("rpm", env)?,
        tpm: params.get("tpm", env)?,
        itpm: params.get("itpm", env)?,
        otpm: params.get("otpm", env)?,
        rpd: params.get("rpd", env)?,
        tpd: params.get("tpd", env)?,
        max_parallel_requests: params.get("max_parallel_requests", env)?,
    })
}

/// Reads the parameters that requests get; those of `extra_body` win, as in OpenAI's client.
fn read_defaults(params: &Section<'_>, env: &Env) -> Result<Map<String, Value>, Error> {
    let body = params.section("extra_body");
    let mut defaults = Map::new();
    for (section, key) in default_keys(params, &body) {
        defaults.extend(section.resolved(key, env)?.map(|value| (key.to_owned(), value)));
    }
    Ok(defaults)
}

/// Returns the same as they are written: what `os.environ/NAME` stands for is not for people.
fn written_defaults(params: &Section<'_>) -> Map<String, Value> {
    let body = params.section("extra_body");
    default_keys(params, &body)
        .filter_map(|(section, key)| Some((key.to_owned(), section.value(key)?.clone())))
        .collect()
}

fn default_keys<'a, 's>(
    params: &'s Section<'a>,
    body: &'s Section<'a>,
) -> impl Iterator<Item = (&'s Section<'a>, &'a str)> {
    let own = params.names().filter(|key| keys::BODY.contains(key)).map(move |key| (params, key));
    let extra = body.names().filter(|key| !keys::NOT_IN_BODY.contains(key)).map(move |key| (body, key));
    own.chain(extra)
}

/// Reads how a deployment is spoken to.
fn read_wire(params: &Section<'_>, env: &Env, drop_params: bool) -> Result<Wire, Error> {
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
        drop_params: params.get("drop_params", env)?.unwrap_or(drop_params),
        stream: params.get("stream", env)?.unwrap_or(false),
        max_tokens: either(params.get("max_tokens", env)?, || params.get("max_completion_tokens", env))?,
        ..Wire::default()
    })
}

/// Reads the key, and whether it goes as a bearer token.
fn read_keys(params: &Section<'_>, env: &Env) -> Result<(Key, bool), Error> {
    let key = read_key(params, "api_key", env)?;
    if !matches!(key, Key::None) {
        return Ok((key, false));
    }
    let token = read_key(params, "azure_ad_token", env)?;
    let is_token = !matches!(token, Key::None);
    Ok((token, is_token))
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

fn read_timeouts(params: &Section<'_>, env: &Env, options: &Options) -> Result<Timeouts, Error> {
    let read = |key| params.get::<Duration>(key, env);
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
