//! What a process is configured to do: where its store and broker are, and which deployments it may call.
//!
//! Layers, later ones winning: defaults, `gristmill.yaml`, the environment (with `./.env` below it), the caller's overrides.
//! Owns the option list, its defaults and checks; knows nothing of the command line. Reads the environment and two files
//! once, in [`Config::load`], and writes nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

mod account;
mod entry;
mod env;
mod error;
mod file;
mod models;
mod near;
mod options;
mod provider;
mod template;

pub use env::{Env, Unread, read_secret};
pub use error::Error;
pub use models::Route;
pub use near::nearest;
pub use options::{Layer, OPTIONS, OptionDoc, Options, Overrides, Setting, parse_duration};
pub use provider::Dialect;

use crate::quota::Limits;
use file::File;
use models::Models;
use options::Layers;

/// The configuration file that is read when none is named.
const DEFAULT_FILE: &str = "gristmill.yaml";

/// The largest answer that may be allowed: it goes to the database twice, as a body and as text, in a statement of which
/// Postgres takes 1 GiB (<https://www.postgresql.org/docs/15/limits.html>, read 2026-11).
const MOST_RESPONSE_BYTES: usize = 256 * 1024 * 1024;

/// Variables of ours that are no options: they steer logging, tests and scripts.
const OTHER_VARIABLES: &[&str] = &[
    "GRISTMILL_API_KEY",
    "GRISTMILL_API_KEY_FILE",
    // The Python package looks for the program there.
    "GRISTMILL_BINARY",
    "GRISTMILL_BIND_ADDRESS",
    "GRISTMILL_CONFIG",
    "GRISTMILL_IMAGE",
    "GRISTMILL_LOG",
    // The Python package ends what it started by it.
    "GRISTMILL_PARENT_PIPE",
    "GRISTMILL_POSTGRES_PORT",
    "GRISTMILL_RABBITMQ_PORT",
    "GRISTMILL_SECRETS",
    "GRISTMILL_SERVICES",
];

/// Begin the names of variables that only tests read.
const TEST_PREFIXES: &[&str] = &["GRISTMILL_TEST_", "GRISTMILL_FAIL"];

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The directory that holds `gristmill.yaml` and `.env`; the current one if empty.
    pub directory: PathBuf,
    /// The file that was named; it must be there. Else `GRISTMILL_CONFIG`, else `gristmill.yaml` if there is one.
    pub file: Option<PathBuf>,
    /// The environment.
    pub env: Env,
    /// Values that win over all others.
    pub overrides: Overrides,
    /// Where the simulator listens: every model group then goes there, and no key is read or sent.
    pub simulator: Option<Url>,
}

/// What a process is configured to do; its [`Options`] by `Deref`.
#[derive(Debug, Clone)]
pub struct Config {
    options: Options,
    timeouts: Timeouts,
    models: Models,
    settings: Vec<Setting>,
    warnings: Vec<String>,
}

impl Deref for Config {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.options
    }
}

impl Config {
    /// Reads and checks all layers.
    pub fn load(sources: Sources) -> Result<Self, Error> {
        let Sources { directory, file, mut env, overrides, simulator } = sources;
        if let Some(text) = read_if_there(&directory.join(".env"))? {
            env.add_dotenv(&text)?;
        }
        let mut unused = BTreeSet::new();
        let file = read_file(&directory, file.or_else(|| env.get("GRISTMILL_CONFIG").map(PathBuf::from)), &mut unused)?;

        let layers = Layers { file: &file, env: &env, overrides: &overrides };
        let options = Options::read(&layers)?;
        let timeouts = models::timeouts(
            options.timeout,
            options.connect_timeout,
            options.first_byte_timeout,
            options.idle_timeout,
        )
        .map_err(Error::Relation)?;
        let models = Models::read(&layers, &options, timeouts, simulator.as_ref())?;
        let warnings = warnings(&file, &unused, &env);
        let settings = layers.settings()?;
        let config = Self { options, timeouts, models, settings, warnings };
        config.validate()?;
        Ok(config)
    }

    /// Checks what two options say together, and the ranges of single ones.
    pub fn validate(&self) -> Result<(), Error> {
        let options = &self.options;
        let invalid = |origin: &str, problem: &str| {
            Err(Error::Invalid { origin: origin.to_owned(), problem: problem.to_owned() })
        };
        if options.concurrency == 0 {
            return invalid("concurrency", "must be at least 1");
        }
        if options.max_response_bytes < 1024 {
            return invalid("max_response_bytes", "must be at least 1024");
        }
        if options.max_response_bytes > MOST_RESPONSE_BYTES {
            return invalid("max_response_bytes", "must be at most 268435456 (256 MiB): more fits in no row");
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if options.prefix.is_empty() || options.prefix.len() > 60 || !options.prefix.chars().all(is_plain) {
            return invalid("prefix", "must be 1 to 60 letters, digits, - or _");
        }
        if options.renew_interval.is_zero() {
            return invalid("renew_interval", "must be longer than zero");
        }
        if options.lease_ttl <= options.renew_interval * 3 {
            return Err(Error::Relation(format!(
                "lease_ttl ({:?}) must be longer than three times renew_interval ({:?}), so that two lost renewals lose no \
                 job; raise lease_ttl or lower renew_interval",
                options.lease_ttl, options.renew_interval
            )));
        }
        Ok(())
    }

    /// Returns the time limits of calls, where a deployment has none of its own.
    pub const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Returns what was found and is not used: one line each, to be shown once.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns every option with its value, redacted, and where that comes from.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Returns where calls can go, for people; nothing of it is secret, and nothing that is missing is an error.
    pub fn routes(&self) -> Vec<Route> {
        self.models.routes()
    }

    /// Returns the model groups of `model_list`, each once, in its order; `None` where any group is served.
    pub fn groups(&self) -> Option<Vec<Arc<str>>> {
        self.models.groups()
    }

    /// Returns the deployments of the groups, each group once.
    ///
    /// Without a `model_list` every group has one deployment, at the one endpoint that is configured. A group that
    /// `model_list` lacks, and a key that is missing, are errors.
    pub fn deployments_for<G: AsRef<str>>(&self, groups: &[G]) -> Result<Vec<Deployment>, Error> {
        let mut seen = std::collections::HashSet::new();
        let mut deployments = Vec::new();
        for group in groups.iter().map(AsRef::as_ref).filter(|group| seen.insert(*group)) {
            deployments.extend(self.models.deployments_for(group)?);
        }
        Ok(deployments)
    }

    /// Returns every deployment of `model_list`; without one, that of `model`, if it is set.
    pub fn deployments(&self) -> Result<Vec<Deployment>, Error> {
        match (self.groups(), &self.options.model) {
            (Some(groups), _) => self.deployments_for(&groups),
            (None, Some(model)) => self.deployments_for(&[model]),
            (None, None) => Ok(Vec::new()),
        }
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn read_file(directory: &Path, named: Option<PathBuf>, unused: &mut BTreeSet<String>) -> Result<File, Error> {
    let (name, text) = match named {
        Some(path) => {
            let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
            (path.display().to_string(), Some(text))
        }
        None => (DEFAULT_FILE.to_owned(), read_if_there(&directory.join(DEFAULT_FILE))?),
    };
    text.map_or_else(|| Ok(File::default()), |text| File::parse(&name, &text, unused))
}

/// Tells what is set and has no effect.
fn warnings(file: &File, unused: &BTreeSet<String>, env: &Env) -> Vec<String> {
    let mut warnings = Vec::new();
    if !unused.is_empty() {
        let keys: Vec<&str> = unused.iter().map(String::as_str).collect();
        warnings.push(format!("{} sets keys of LiteLLM that have no effect here: {}", file.name(), keys.join(", ")));
    }
    let known: Vec<&str> = OPTIONS.iter().flat_map(|option| option.env).copied().collect();
    for name in env.names().filter(|name| name.starts_with("GRISTMILL_")) {
        let is_known = known.contains(&name)
            || name.strip_suffix("_FILE").is_some_and(|name| known.contains(&name))
            || OTHER_VARIABLES.contains(&name)
            || TEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !is_known {
            let hint =
                nearest(name, known.iter().copied()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
            warnings.push(format!("the environment variable {name} is not one of ours{hint}"));
        }
    }
    warnings
}

/// One provider endpoint that serves a model group.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// Unique in the process; shown to people, so it never holds the endpoint or the key.
    pub name: Arc<str>,
    /// The model group that it serves: what users write as `model`.
    pub group: Arc<str>,
    /// The provider's name, for example `openai` or `groq`; what costs and errors are filed under.
    pub provider: Arc<str>,
    /// The model's name at the provider.
    pub model: Arc<str>,
    /// The endpoint, for example `https://api.openai.com/v1`; never shown.
    pub api_base: Endpoint,
    /// The key; never shown.
    pub api_key: Option<SecretString>,
    /// The name of the variable or file that the key came from; what a message about a wrong key names.
    pub key_source: Option<String>,
    /// The file that the key came from; it is read again when it changes.
    pub key_file: Option<PathBuf>,
    /// How it is spoken to.
    pub wire: Wire,
    /// Time limits of a call.
    pub timeouts: Timeouts,
    /// The account at the provider that its limits are counted in, over all workers. Deployments of one account share them.
    pub account: Arc<str>,
    /// The limits of the account.
    pub limits: Limits,
    /// Retries after the first call, where the deployment has a number of its own; a job's own number comes first.
    pub num_retries: Option<u16>,
    /// Whether it is the simulator.
    pub simulated: bool,
}

impl Deployment {
    /// Makes a deployment without a key, named as its group, with all defaults; for programs that bring their own configuration.
    pub fn new(group: &str, provider: &str, model: &str, api_base: Endpoint) -> Self {
        Self {
            name: group.into(),
            group: group.into(),
            provider: provider.into(),
            model: model.into(),
            api_base,
            api_key: None,
            key_source: None,
            key_file: None,
            wire: Wire::default(),
            timeouts: Timeouts::default(),
            account: group.into(),
            limits: Limits::default(),
            num_retries: None,
            simulated: false,
        }
    }
}

/// How a deployment is spoken to.
#[derive(Debug, Clone, Default)]
pub struct Wire {
    /// The API that it speaks.
    pub dialect: Dialect,
    /// The version of the API: Azure's `api-version`, without which `/openai/v1` is called, or the `anthropic-version` header,
    /// by default `2023-06-01`. OpenAI's has none.
    pub api_version: Option<Arc<str>>,
    /// Whether the key goes as a bearer token, where the dialect has a header of its own for keys.
    pub bearer: bool,
    /// Headers that every call sends beside the dialect's own.
    pub headers: Vec<Header>,
    /// Whether parameters that the provider does not take are left out; else they are an error.
    pub drop_params: bool,
    /// Whether answers are always asked for as a stream, and watched; else only where the request, or who waits for it, asks.
    pub stream: bool,
    /// Tokens of output that are asked for where a request names no limit and the dialect needs one (Anthropic's).
    pub max_tokens: Option<u32>,
}

/// A header of a request; its value may be a secret.
#[derive(Debug, Clone)]
pub struct Header {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its value.
    pub value: SecretString,
}

/// An endpoint whose `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(pub Url);

impl std::str::FromStr for Endpoint {
    type Err = Error;

    /// Reads an `http` or `https` address; the error does not show it.
    fn from_str(text: &str) -> Result<Self, Error> {
        options::Parse::parse(text).map_err(|problem| Error::Invalid { origin: "the endpoint".to_owned(), problem })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoint(..)")
    }
}

/// Time limits of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connection, TLS included. Default 10 s.
    pub connect: Duration,
    /// From the request being sent to the first byte of the answer's head. Default: as `total`.
    pub first_byte: Duration,
    /// Between two reads of the answer's body. Default 60 s.
    pub idle: Duration,
    /// Of the whole call. Default 600 s, the default of OpenAI's own clients.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let total = Duration::from_secs(600);
        Self { connect: Duration::from_secs(10), first_byte: total, idle: Duration::from_secs(60), total }
    }
}

#[cfg(test)]
mod tests;
