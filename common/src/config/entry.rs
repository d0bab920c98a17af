//! Reads the entries of `model_list`, and makes deployments of them.
//!
//! What is wrong with one entry's key, endpoint or provider is told when it is to be called, so that it is no fault of others.

use std::sync::Arc;
use std::time::Duration;

use crate::quota::Limits;

use super::account::{Key, account_headers, endpoint, is_own_host, resolve};
use super::env::Found;
use super::file::Section;
use super::models::{Route, timeouts};
use super::options::{Layers, Options, Parse};
use super::provider::{self, Provider};
use super::{Deployment, Dialect, Endpoint, Env, Error, Header, Timeouts, Wire};

/// One entry of `model_list`, checked; or what the template makes of a group, where there is no list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) group: Arc<str>,
    pub(super) model: String,
    pub(super) provider: Result<&'static Provider, String>,
    /// `None` where nobody says where the provider is, which is told when it is to be called.
    pub(super) api_base: Option<Endpoint>,
    pub(super) key: Key,
    pub(super) wire: Wire,
    pub(super) timeouts: Timeouts,
    pub(super) account: Arc<str>,
    pub(super) limits: Limits,
    pub(super) num_retries: Option<u16>,
}

impl Entry {
    pub(super) fn route(&self) -> Route {
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

    pub(super) fn deployment(&self) -> Result<Deployment, Error> {
        let unsupported = |name: &str| Error::UnsupportedProvider {
            known: provider::known(name),
            provider: name.to_owned(),
            model: self.model.clone(),
        };
        let provider = match &self.provider {
            Ok(provider) => *provider,
            Err(name) => return Err(unsupported(name)),
        };
        let Some(api_base) = self.api_base.clone() else {
            return Err(Error::MissingEndpoint {
                provider: provider.name.to_owned(),
                variable: provider.base_variables.first().copied().unwrap_or_default().to_owned(),
            });
        };
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
            Key::Required { provider, host, note } => {
                let (first, others) = provider.key_variables.split_first().map_or(("", &[][..]), |(a, b)| (*a, b));
                let others = others.iter().map(|name| format!(", {name}")).collect::<String>();
                let what = match provider.dialect {
                    Dialect::OpenAi if provider.name == "openai" => ", or name another endpoint with --api-base",
                    _ => "",
                };
                let variables = format!("{first} (or {first}_FILE{others}){what}");
                return Err(Error::MissingKey { host: host.clone(), variables, note: (*note).to_owned() });
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

pub(super) fn drops_params(layers: &Layers<'_>) -> Result<bool, Error> {
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

pub(super) fn read_list(list: &[Section<'_>], layers: &Layers<'_>, options: &Options) -> Result<Vec<Entry>, Error> {
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
            let (api_base, key) = match resolve(provider, own_base, own_key, env) {
                Ok((api_base, key)) => (Some(api_base), key),
                // What one entry lacks is no fault of the others.
                Err(Error::MissingEndpoint { .. }) => (None, Key::None),
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
