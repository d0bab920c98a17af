//! Which deployments there are, and which key goes where.
//!
//! A key that is meant for one host goes to no other: `OPENAI_API_KEY` goes to api.openai.com or to an endpoint that was
//! named beside it (`OPENAI_BASE_URL`, `OPENAI_API_BASE`, `--api-base`), `LITELLM_API_KEY` to `LITELLM_API_BASE`,
//! `GRISTMILL_API_KEY` to `GRISTMILL_API_BASE` or `--api-base`, and the key of a `model_list` entry to that entry's endpoint.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use url::Url;

use super::env::Found;
use super::file::Section;
use super::near::nearest;
use super::options::{Layers, Options, Parse};
use super::{Deployment, Endpoint, Env, Error, Timeouts};

/// OpenAI's own endpoint, <https://platform.openai.com/docs/api-reference>, read 2026-11-20.
const OPENAI: &str = "https://api.openai.com/v1";

/// Prefixes of model names that are providers in LiteLLM 1.109 (`types/utils.py`, `LlmProviders`), the common ones.
const PROVIDERS: &str = "ai21 anthropic anyscale azure azure_ai azure_text baseten bedrock bedrock_converse cerebras cloudflare \
    codestral cohere cohere_chat custom_openai dashscope databricks deepinfra deepseek fireworks_ai \
    friendliai gemini github github_copilot groq hosted_vllm huggingface hyperbolic jina_ai litellm_proxy \
    llamafile lm_studio mistral moonshot nebius novita nscale nvidia_nim ollama ollama_chat openai_like \
    openrouter perplexity replicate sagemaker sagemaker_chat sambanova snowflake text-completion-openai \
    together_ai triton vercel_ai_gateway vertex_ai vllm volcengine voyage watsonx xai xinference";

/// A key, or why there is none.
#[derive(Debug, Clone)]
enum Key {
    /// None is sent.
    None,
    /// This one.
    Found(Found),
    /// It should come from a variable that is not set.
    Missing { place: String, variable: String },
    /// OpenAI's own endpoint needs one; the note says what else was found.
    MissingForOpenAi { note: &'static str },
}

/// One entry of `model_list`, checked; or the template for every group, where there is no list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    name: Arc<str>,
    group: Arc<str>,
    model: String,
    provider: Result<String, String>,
    api_base: Endpoint,
    key: Key,
    timeouts: Timeouts,
    max_parallel_requests: Option<u32>,
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

/// One endpoint for every model group that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Template {
    api_base: Endpoint,
    key: Key,
    /// Whether names are LiteLLM's, `provider/model`; else they go to the endpoint as they are.
    litellm_names: bool,
    timeouts: Timeouts,
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
            Some(list) => Ok(Self::List(read_list(&list, layers.env, options)?)),
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
                let route = template.entry("model").route();
                vec![Route { model: None, deployment: None, provider_model: None, ..route }]
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
            Self::Any(template) => Ok(vec![template.entry(group).deployment()?]),
            Self::Simulator(endpoint, timeouts) => Ok(vec![Deployment {
                name: group.into(),
                group: group.into(),
                provider: "openai".into(),
                model: group.into(),
                api_base: endpoint.clone(),
                api_key: None,
                key_source: None,
                key_file: None,
                timeouts: *timeouts,
                max_parallel_requests: None,
                num_retries: None,
                simulated: true,
            }]),
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
            provider: self.provider.clone().unwrap_or_else(|provider| provider),
            provider_model: Some(self.model.clone()),
            endpoint: self.api_base.0.origin().ascii_serialization(),
            key: match &self.key {
                Key::Found(found) => Some(found.name.clone()),
                Key::Missing { variable, .. } => Some(variable.clone()),
                Key::None | Key::MissingForOpenAi { .. } => None,
            },
            problem: self.deployment().err().map(|error| error.to_string()),
        }
    }

    fn deployment(&self) -> Result<Deployment, Error> {
        let provider = match &self.provider {
            Ok(provider) => provider.as_str(),
            Err(provider) => {
                return Err(Error::UnsupportedProvider { provider: provider.clone(), model: self.model.clone() });
            }
        };
        let found = match &self.key {
            Key::None => None,
            Key::Found(found) => Some(found.clone()),
            Key::Missing { place, variable } => {
                return Err(Error::MissingVariable { place: place.clone(), variable: variable.clone() });
            }
            Key::MissingForOpenAi { note } => return Err(Error::MissingKey { note: (*note).to_owned() }),
        };
        let api_key = found.as_ref().map(|found| found.value.clone().map_err(Error::Key)).transpose()?;
        Ok(Deployment {
            name: Arc::clone(&self.name),
            group: Arc::clone(&self.group),
            provider: provider.into(),
            model: self.model.as_str().into(),
            api_base: self.api_base.clone(),
            api_key,
            key_source: found.as_ref().map(|found| found.name.clone()),
            key_file: found.and_then(|found| found.file),
            timeouts: self.timeouts,
            max_parallel_requests: self.max_parallel_requests,
            num_retries: self.num_retries,
            simulated: false,
        })
    }
}

/// Splits a LiteLLM model name into provider and model; the error is a provider that is not built in.
fn split_model(name: &str) -> (Result<String, String>, String) {
    match name.split_once('/') {
        Some(("openai", model)) if !model.is_empty() => (Ok("openai".to_owned()), model.to_owned()),
        Some((prefix, _)) if PROVIDERS.split_whitespace().any(|provider| provider == prefix) => {
            (Err(prefix.to_owned()), name.to_owned())
        }
        // `meta-llama/Llama-3.1-8B` is a name, not a provider.
        _ => (Ok("openai".to_owned()), name.to_owned()),
    }
}

/// The endpoint and key of OpenAI's own variables.
struct OpenAi {
    api_base: Option<Endpoint>,
    key: Option<Found>,
}

impl OpenAi {
    fn read(env: &Env) -> Result<Self, Error> {
        let mut api_base = None;
        for name in ["OPENAI_BASE_URL", "OPENAI_API_BASE"] {
            if api_base.is_none() {
                api_base = endpoint(env.get(name), name)?;
            }
        }
        Ok(Self { api_base, key: env.secret("OPENAI_API_KEY")? })
    }

    fn key(&self) -> Key {
        self.key.as_ref().map_or(Key::None, |found| Key::Found(found.clone()))
    }

    /// Returns the key for OpenAI's own endpoint, which takes no call without one.
    fn required_key(&self, note: &'static str) -> Key {
        match self.key() {
            Key::None => Key::MissingForOpenAi { note },
            key => key,
        }
    }
}

fn endpoint(text: Option<&str>, origin: &str) -> Result<Option<Endpoint>, Error> {
    text.map(|text| Endpoint::parse(text).map_err(|problem| Error::Invalid { origin: origin.to_owned(), problem }))
        .transpose()
}

fn openai_endpoint() -> Result<Endpoint, Error> {
    Endpoint::parse(OPENAI).map_err(|problem| Error::Invalid { origin: "the address of OpenAI".to_owned(), problem })
}

/// Tells whether this is OpenAI's own host, data-residency hosts included.
fn is_openai(endpoint: &Endpoint) -> bool {
    let host = endpoint.0.host_str().unwrap_or_default();
    endpoint.0.scheme() == "https" && (host == "api.openai.com" || host.ends_with(".api.openai.com"))
}

impl Template {
    fn read(layers: &Layers<'_>, options: &Options, timeouts: Timeouts) -> Result<Self, Error> {
        let env = layers.env;
        let openai = OpenAi::read(env)?;
        let found = |name| Ok::<_, Error>(env.secret(name)?.map_or(Key::None, Key::Found));
        let or = |key: Key, other: Key| if matches!(key, Key::None) { other } else { key };

        let litellm_base = endpoint(env.get("LITELLM_API_BASE"), "LITELLM_API_BASE")?;
        let mut litellm_names = false;
        let (api_base, key) = if let Some(api_base) = &options.api_base {
            let key = found("GRISTMILL_API_KEY")?;
            let key = if layers.is_overridden("api_base") { or(key, openai.key()) } else { key };
            (api_base.clone(), key)
        } else if let Some(api_base) = litellm_base {
            litellm_names = true;
            (api_base, found("LITELLM_API_KEY")?)
        } else if let Some(api_base) = &openai.api_base {
            (api_base.clone(), openai.key())
        } else {
            (openai_endpoint()?, Key::None)
        };
        let key = match key {
            Key::None if is_openai(&api_base) => {
                let note = match (env.get("LITELLM_API_KEY"), env.get("GRISTMILL_API_KEY")) {
                    (Some(_), _) => " (LITELLM_API_KEY is sent to LITELLM_API_BASE only)",
                    (_, Some(_)) => " (GRISTMILL_API_KEY is sent to GRISTMILL_API_BASE or --api-base only)",
                    _ => "",
                };
                openai.required_key(note)
            }
            key => key,
        };
        Ok(Self { litellm_names: litellm_names || is_openai(&api_base), api_base, key, timeouts })
    }

    fn entry(&self, group: &str) -> Entry {
        let (provider, model) =
            if self.litellm_names { split_model(group) } else { (Ok("openai".to_owned()), group.to_owned()) };
        Entry {
            name: group.into(),
            group: group.into(),
            model,
            provider,
            api_base: self.api_base.clone(),
            key: self.key.clone(),
            timeouts: self.timeouts,
            max_parallel_requests: None,
            num_retries: None,
        }
    }
}

fn read_list(list: &[Section<'_>], env: &Env, options: &Options) -> Result<Vec<Entry>, Error> {
    let openai = OpenAi::read(env)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(list.len());
    for section in list {
        let entry = read_entry(section, env, options, &openai, &entries)?;
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
    openai: &OpenAi,
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
    let (provider, model) = match params.text("custom_llm_provider", env)?.as_deref() {
        Some("openai") => (Ok("openai".to_owned()), written),
        Some(other) => (Err(other.to_owned()), written),
        None => split_model(&written),
    };

    let own_base = match params.text("api_base", env)? {
        Some(text) => endpoint(Some(&text), &params.origin("api_base"))?,
        None => endpoint(params.text("base_url", env)?.as_deref(), &params.origin("base_url"))?,
    };
    let own_key = read_key(&params, env)?;
    // A key of the entry's own, without an endpoint, is meant for OpenAI; the key in OPENAI_API_KEY goes where OPENAI_BASE_URL
    // says.
    let shares_key = match &own_key {
        Key::None => true,
        Key::Found(found) => found.name == "OPENAI_API_KEY",
        _ => false,
    };
    let has_own_base = own_base.is_some();
    let api_base = match (own_base, &openai.api_base) {
        (Some(own), _) => own,
        (None, Some(shared)) if shares_key => shared.clone(),
        (None, _) => openai_endpoint()?,
    };
    let key = match own_key {
        Key::None if is_openai(&api_base) => openai.required_key(""),
        // An endpoint of its own without a key is a server that needs none.
        Key::None if has_own_base => Key::None,
        Key::None => openai.key(),
        key => key,
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
        name: name.into(),
        group: group.into(),
        model,
        provider,
        timeouts: read_timeouts(&params, env, options)?,
        max_parallel_requests: number(&params, "max_parallel_requests", env)?,
        num_retries: match number(&params, "num_retries", env)? {
            Some(retries) => Some(retries),
            None => number(&params, "max_retries", env)?,
        },
        api_base,
        key,
    })
}

fn read_key(params: &Section<'_>, env: &Env) -> Result<Key, Error> {
    let Some(text) = params.raw("api_key")? else { return Ok(Key::None) };
    let place = params.origin("api_key");
    let Some(variable) = text.strip_prefix("os.environ/") else {
        return Ok(Key::Found(Found { name: place, value: Ok(text.into()), file: None }));
    };
    Ok(match env.secret(variable)? {
        // Named by its variable, also where the value came from the file beside it.
        Some(found) => Key::Found(Found { name: variable.to_owned(), ..found }),
        None => Key::Missing { place, variable: variable.to_owned() },
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
