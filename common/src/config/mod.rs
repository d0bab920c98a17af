//! What a process is configured to do: where its store and broker are, and which deployments it may call.
//!
//! Layers, later ones winning: defaults, `gristmill.yaml`, the environment (with `./.env` below it), the caller's overrides.
//! Owns the option list, its defaults and checks; knows nothing of the command line. Reads the environment and two files
//! once, in [`Config::load`], and writes nothing.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;

mod account;
mod deployment;
mod entry;
mod env;
mod error;
mod file;
mod keys;
mod models;
mod near;
mod notice;
mod options;
mod policy;
mod pricing;
mod provider;
mod route;
mod routing;
mod template;
mod weight;
mod wildcard;

pub use deployment::{Deployment, Endpoint, Header, Timeouts, Wire};
pub use env::{Env, Unread, read_secret};
pub use error::Error;
pub use near::nearest;
pub use options::{Layer, OPTIONS, OptionDoc, Options, Overrides, Setting, parse_duration};
pub use policy::{AllowedFailsPolicy, ByClass, RetryPolicy};
pub use pricing::Priced;
pub use provider::Dialect;
pub use route::Route;
pub use routing::{Alias, FallbackKind, Fallbacks, Routing, Strategy};
pub use wildcard::is_pattern;

use crate::cache::CacheRules;
use crate::price::Book;
use crate::quota::Limits;
use file::File;
use models::Models;
use options::Layers;
use pricing::Table;

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
    file: Option<PathBuf>,
    options: Options,
    timeouts: Timeouts,
    models: Models,
    prices: Table,
    routing: Routing,
    settings: Vec<Setting>,
    warnings: Vec<String>,
    notices: Vec<String>,
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
        let named = file.or_else(|| env.get("GRISTMILL_CONFIG").map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| directory.join(DEFAULT_FILE));
        let file = read_file(&directory, named, &mut unused)?;

        let mut variables = env.clone();
        let kept_variables = variables.add_below(file.variables(&env)?);
        let layers = Layers { file: &file, env: &env, variables: &variables, overrides: &overrides };
        let options = Options::read(&layers)?;
        let timeouts = models::timeouts(
            options.timeout,
            options.connect_timeout,
            options.first_byte_timeout,
            options.idle_timeout,
        )
        .map_err(Error::Relation)?;
        let prices = Table::open(&options, &directory)?;
        let models = Models::read(&layers, &options, timeouts, simulator.as_ref(), &prices)?;
        let routing = Routing::read(&layers)?;
        models.check(&routing)?;
        let settings = layers.settings()?;
        let mut warnings = warnings(&file, &unused, &env);
        warnings.extend(unknown_sources(&file, &models, &routing));
        let notices = notice::notices(&notice::Loaded {
            file: &file,
            entries: models.entries(),
            routing: &routing,
            settings: &settings,
            kept_variables: &kept_variables,
        });
        let path = path.exists().then_some(path);
        let config = Self { file: path, options, timeouts, models, prices, routing, settings, warnings, notices };
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

    /// Returns how answers are kept.
    pub fn cache_rules(&self) -> CacheRules {
        CacheRules {
            scope: self.cache_scope,
            ttl: self.cache_ttl,
            max_bytes: self.cache_max_bytes,
            ..CacheRules::default()
        }
    }

    /// Returns the time limits of calls, where a deployment has none of its own.
    pub const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Returns what was found and is not used: one line each, to be shown once.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns what a LiteLLM configuration means here that it does not mean there: one line each, to be shown at start.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Returns every option with its value, redacted, and where that comes from.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Returns how calls are spread over deployments, and where they go when one fails.
    pub const fn routing(&self) -> &Routing {
        &self.routing
    }

    /// Returns the prices of calls.
    pub const fn prices(&self) -> &Arc<Book> {
        self.prices.book()
    }

    /// Returns how the calls of one group of `model_list` are billed, which may be an alias or have a name that a pattern takes.
    pub fn priced(&self, group: &str) -> Vec<Priced> {
        self.models.priced(group, self.routing.aliased(group))
    }

    /// Returns where calls can go, for people; nothing of it is secret, and nothing that is missing is an error.
    pub fn routes(&self) -> Vec<Route> {
        self.models.routes()
    }

    /// Returns the same for one group of `model_list`, which may be an alias or have a name that a pattern takes.
    pub fn routes_for(&self, group: &str) -> Vec<Route> {
        self.models.routes_for(group, self.routing.aliased(group))
    }

    /// Returns the file that was read, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns the limits of every account of `model_list`, each once, those without any included.
    pub fn limits(&self) -> Vec<(Arc<str>, Limits)> {
        models::limits(self.models.entries())
    }

    /// Returns the model groups of `model_list`, each once, in its order, then the aliases that are not hidden; `None` where
    /// any group is served.
    ///
    /// A pattern such as `openai/*` is among them as it is written; [`is_pattern`] tells.
    pub fn groups(&self) -> Option<Vec<Arc<str>>> {
        let aliases = self.routing.aliases.iter().filter(|(_, alias)| !alias.hidden).map(|(name, _)| name);
        self.groups_and(aliases)
    }

    fn groups_and<'a>(&self, aliases: impl Iterator<Item = &'a Arc<str>>) -> Option<Vec<Arc<str>>> {
        let mut groups = self.models.groups()?;
        for alias in aliases {
            if !groups.contains(alias) {
                groups.push(Arc::clone(alias));
            }
        }
        Some(groups)
    }

    /// Returns the deployments of the groups, each group once.
    ///
    /// Without a `model_list` every group has one deployment, at the one endpoint that is configured. With one, a group is
    /// served by the entries of its name, else by those of the longest pattern that takes it; an alias, by those of what it
    /// stands for, under its own name. A group that `model_list` lacks, a pattern, and a key that is missing, are errors.
    pub fn deployments_for<G: AsRef<str>>(&self, groups: &[G]) -> Result<Vec<Deployment>, Error> {
        let mut seen = std::collections::HashSet::new();
        let mut deployments = Vec::new();
        for group in groups.iter().map(AsRef::as_ref).filter(|group| seen.insert(*group)) {
            deployments.extend(self.models.deployments_for(group, self.routing.aliased(group))?);
        }
        Ok(deployments)
    }

    /// Returns every deployment of `model_list`, aliases included; without one, that of `model`, if it is set.
    ///
    /// The models of a pattern are unknown until they are named: with nothing but patterns, `model` counts as without a list,
    /// and where it is not set, that is an error.
    pub fn deployments(&self) -> Result<Vec<Deployment>, Error> {
        let Some(groups) = self.groups_and(self.routing.aliases.keys()) else {
            return self.options.model.as_ref().map_or_else(|| Ok(Vec::new()), |model| self.deployments_for(&[model]));
        };
        let (patterns, named): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| is_pattern(group));
        match (patterns.first(), &self.options.model) {
            (Some(_), Some(model)) if named.is_empty() => self.deployments_for(&[model]),
            (Some(pattern), None) if named.is_empty() => Err(Error::Pattern { pattern: pattern.to_string() }),
            _ => self.deployments_for(&named),
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

/// Tells of fallbacks and retry policies that are kept for a group that there is not.
fn unknown_sources(file: &File, models: &Models, routing: &Routing) -> Option<String> {
    let is_unknown = |group: &&Arc<str>| !routing.aliases.contains_key(&***group) && !models.serves(group);
    let unknown: BTreeSet<String> = routing.sources().filter(is_unknown).map(|group| format!("`{group}`")).collect();
    let unknown: Vec<String> = unknown.into_iter().collect();
    (!unknown.is_empty()).then(|| {
        format!(
            "{} has fallbacks or retries for models that no entry of model_list serves: {}",
            file.name(),
            unknown.join(", ")
        )
    })
}

/// Tells what is set and has no effect.
fn warnings(file: &File, unused: &BTreeSet<String>, env: &Env) -> Vec<String> {
    let mut warnings = Vec::new();
    if !unused.is_empty() {
        let keys: Vec<&str> = unused.iter().map(String::as_str).collect();
        warnings.push(format!("{} sets keys that have no effect here: {}", file.name(), keys.join(", ")));
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

#[cfg(test)]
mod tests;
