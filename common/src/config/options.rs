//! The options: each is defined once, here, with its type, default, unit, places and meaning.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Serialize;
use url::Url;

use super::file::File;
use super::{Endpoint, Env, Error};
use crate::cache::CacheScope;
use crate::job::CachePolicy;

/// What the reference page tells of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionDoc {
    /// Its key in `gristmill.yaml`; its flag is the same with dashes.
    pub name: &'static str,
    /// The default as it would be written; empty where there is none.
    pub default: &'static str,
    /// The unit or form of its values.
    pub unit: &'static str,
    /// The environment variables, the first that is set winning. A secret can also come from a file, by `<NAME>_FILE`.
    pub env: &'static [&'static str],
    /// Further keys that set it in `gristmill.yaml`, in LiteLLM's words, the first that is set winning.
    pub also: &'static [&'static str],
    /// What it does.
    pub doc: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
}

/// An option's value as it counts, for people: where it comes from, and nothing secret. `Debug` hides the value all the same,
/// since an address is nothing for a log.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The option.
    pub name: &'static str,
    /// The value as it was written, redacted; nothing where there is none.
    pub value: Option<String>,
    /// The layer that it comes from.
    pub layer: Layer,
    /// The flag, variable or key that set it; nothing for a default.
    pub origin: Option<String>,
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("name", &self.name).field("layer", &self.layer).finish_non_exhaustive()
    }
}

/// Where a value comes from; later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Built in.
    Default,
    /// `gristmill.yaml`.
    File,
    /// The environment, or `./.env`.
    Env,
    /// The command line.
    Flag,
}

/// Values given by the caller, such as flags, by option; they win over everything else.
///
/// They are text and are parsed as the values of every other layer.
#[derive(Clone, Default)]
pub struct Overrides(Vec<(&'static str, String)>);

impl Overrides {
    /// Sets an option of [`OPTIONS`] where a value is given.
    ///
    /// # Panics
    ///
    /// When there is no such option.
    #[must_use]
    pub fn set(mut self, option: &'static str, value: Option<impl Into<String>>) -> Self {
        assert!(OPTIONS.iter().any(|known| known.name == option), "`{option}` is no option");
        self.0.extend(value.map(|value| (option, value.into())));
        self
    }

    pub(super) fn get(&self, option: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| *name == option).map(|(_, value)| value.as_str())
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// The text of an option, what messages call it, and its layer.
struct Found {
    text: String,
    origin: String,
    layer: Layer,
}

/// Shows an address without what may be secret in it: the password and all behind the path; of an endpoint, its path as well.
fn redact(text: &str) -> String {
    let Ok(mut url) = Url::parse(text.trim()) else { return "(not shown)".to_owned() };
    if matches!(url.scheme(), "http" | "https") {
        return url.origin().ascii_serialization();
    }
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "(not shown)".to_owned();
    }
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// The layers that a value is looked for in.
pub(super) struct Layers<'a> {
    pub(super) file: &'a File,
    pub(super) env: &'a Env,
    /// What `os.environ/NAME` and providers' keys are read from: the environment, and what the file's
    /// `environment_variables` set below it.
    pub(super) variables: &'a Env,
    pub(super) overrides: &'a Overrides,
}

impl Layers<'_> {
    fn read<T: Parse>(&self, option: &OptionDoc) -> Result<T, Error> {
        let Found { text, origin, .. } = self.find(option, T::SECRET)?;
        T::parse(&text).map_err(|problem| Error::Invalid { origin, problem })
    }

    /// Returns every option with where its value comes from.
    pub(super) fn settings(&self) -> Result<Vec<Setting>, Error> {
        let setting = |option: &OptionDoc| {
            let Found { text, origin, layer } = self.find(option, option.secret)?;
            let value = match option.unit {
                _ if text.is_empty() => None,
                "URL" => Some(redact(&text)),
                _ if option.secret => Some("(not shown)".to_owned()),
                _ => Some(text),
            };
            Ok(Setting { name: option.name, value, layer, origin: (layer != Layer::Default).then_some(origin) })
        };
        OPTIONS.iter().map(setting).collect()
    }

    /// Returns the text that counts, what to call it, and its layer.
    fn find(&self, option: &OptionDoc, secret: bool) -> Result<Found, Error> {
        let found = |text: &str, origin: String, layer| Ok(Found { text: text.to_owned(), origin, layer });
        if let Some(text) = self.overrides.get(option.name) {
            return found(text, format!("--{}", option.name.replace('_', "-")), Layer::Flag);
        }
        for name in option.env {
            if secret {
                use secrecy::ExposeSecret as _;
                if let Some(secret) = self.env.secret(name)? {
                    let value = secret.value.map_err(Error::Address)?;
                    return found(value.expose_secret(), self.env.origin(&secret.name), Layer::Env);
                }
            } else if let Some(text) = self.env.get(name) {
                return found(text, self.env.origin(name), Layer::Env);
            }
        }
        for path in std::iter::once(&option.name).chain(option.also) {
            if let Some(text) = self.file.text(path, self.variables)? {
                return found(&text, format!("{path} in {}", self.file.name()), Layer::File);
            }
        }
        found(option.default, option.name.to_owned(), Layer::Default)
    }

    /// Tells whether the caller, and not the environment or a file, set an option.
    pub(super) fn is_overridden(&self, option: &str) -> bool {
        self.overrides.get(option).is_some()
    }
}

/// A type that options can have. Messages hold no value of a secret type.
pub(super) trait Parse: Sized {
    const SECRET: bool = false;

    /// Parses; the error continues a sentence that begins with where the value stands.
    fn parse(text: &str) -> Result<Self, String>;
}

impl<T: Parse> Parse for Option<T> {
    const SECRET: bool = T::SECRET;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
}

impl Parse for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "True" | "1" | "yes" => Ok(true),
            "false" | "False" | "0" | "no" => Ok(false),
            other => Err(format!("must be true or false, not `{other}`")),
        }
    }
}

impl Parse for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Parse for PathBuf {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl Parse for SecretString {
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned().into())
    }
}

impl Parse for Endpoint {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = "must be an address such as http://localhost:8000/v1 (not shown here: it may hold a password)";
        let url = Url::parse(text.trim()).map_err(|_| wrong.to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(wrong.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user name or password; put the key into its own setting".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must end with its path, without `?` or `#`".to_owned());
        }
        Ok(Self(url))
    }
}

impl Parse for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.trim().parse().map_err(|_| format!("must be an address and a port, such as 127.0.0.1:8787, not `{text}`"))
    }
}

impl Parse for CachePolicy {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            // As YAML may read `on` and `off`.
            "true" => Ok(Self::ON),
            "false" => Ok(Self::OFF),
            _ => text.parse().map_err(|_| {
                format!("must be off, on, read-only or write-only, or one of these with +sampled, not `{text}`")
            }),
        }
    }
}

impl Parse for CacheScope {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "project" => Ok(Self::Project),
            "shared" => Ok(Self::Shared),
            other => Err(format!("must be project or shared, not `{other}`")),
        }
    }
}

macro_rules! parse_integer {
    ($($type:ty),*) => {$(
        impl Parse for $type {
            fn parse(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("must be a whole number of at most {}, not `{text}`", Self::MAX))
            }
        }
    )*};
}
parse_integer!(u16, u32, u64, usize);

impl Parse for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let scale = match &trimmed[digits.len()..] {
            "" | "s" => 1.0,
            "ms" => 0.001,
            "m" => 60.0,
            "h" => 3600.0,
            _ => f64::NAN,
        };
        digits
            .trim_end()
            .parse::<f64>()
            .ok()
            .and_then(|number| Self::try_from_secs_f64(number * scale).ok())
            .filter(|duration| *duration <= Self::from_secs(30 * 86_400))
            .ok_or_else(|| {
                format!("must be seconds, or a time such as 500ms, 30s, 10m, 2h, of at most 30 days, not `{text}`")
            })
    }
}

/// Reads a time as options have it: seconds, or `500ms`, `30s`, `10m`, `2h`.
///
/// # Errors
///
/// What to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text)
}

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:literal, $unit:literal, [$($env:literal),*], [$($also:literal),*];)*) => {
        /// The options of a process, merged from all layers.
        #[derive(Debug, Clone)]
        pub struct Options {
            $($(#[doc = $doc])+ pub $name: $type,)*
        }

        /// Every option, for the reference page and `gristmill config`.
        pub const OPTIONS: &[OptionDoc] = &[$(OptionDoc { secret: <$type as Parse>::SECRET, ..$name::DOC }),*];

        $(mod $name {
            pub(super) const DOC: super::OptionDoc = super::OptionDoc {
                name: stringify!($name),
                default: $default,
                unit: $unit,
                env: &[$($env),*],
                also: &[$($also),*],
                doc: concat!($($doc),+),
                secret: false,
            };
        })*

        impl Options {
            pub(super) fn read(layers: &Layers<'_>) -> Result<Self, Error> {
                Ok(Self { $($name: layers.read(&$name::DOC)?),* })
            }
        }
    };
}

options! {
    /// The store: a Postgres or SQLite address. Default: the file `.gristmill/gristmill.db`, looked for upwards.
    database_url: Option<SecretString> = "", "URL", ["GRISTMILL_DATABASE_URL", "DATABASE_URL"], [];
    /// The broker: a RabbitMQ address. Without one, everything runs in one process.
    amqp_url: Option<SecretString> = "", "URL", ["GRISTMILL_AMQP_URL", "AMQP_URL"], [];
    /// Begins the names of all queues and exchanges, so that several installations share one broker.
    prefix: String = "gristmill", "letters, digits, - and _", ["GRISTMILL_PREFIX"], [];
    /// Calls in flight at once in this process.
    concurrency: u32 = "128", "calls", ["GRISTMILL_CONCURRENCY"], [];
    /// Calls after the first one that may follow a failure; attempts are one more.
    num_retries: u16 = "5", "calls", ["GRISTMILL_NUM_RETRIES", "LITELLM_MAX_RETRIES"], ["router_settings.num_retries", "litellm_settings.num_retries"];
    /// The longest that one call may take.
    timeout: Duration = "600", "seconds", ["GRISTMILL_TIMEOUT", "LITELLM_TIMEOUT"], ["router_settings.timeout", "litellm_settings.request_timeout"];
    /// The longest that connecting may take, TLS included. Default: 10 s, or `timeout` where that is shorter.
    connect_timeout: Option<Duration> = "", "seconds", ["GRISTMILL_CONNECT_TIMEOUT"], [];
    /// The longest from sending the request to the head of the answer. Default: as `timeout`.
    first_byte_timeout: Option<Duration> = "", "seconds", ["GRISTMILL_FIRST_BYTE_TIMEOUT"], [];
    /// The longest silence within an answer's body. Default: 60 s, or `timeout` where that is shorter.
    idle_timeout: Option<Duration> = "", "seconds", ["GRISTMILL_IDLE_TIMEOUT"], [];
    /// The largest answer that is read.
    max_response_bytes: usize = "67108864", "bytes", ["GRISTMILL_MAX_RESPONSE_BYTES"], [];
    /// How long a worker that was not heard of keeps its jobs; they return to the queue after it.
    lease_ttl: Duration = "15", "seconds", ["GRISTMILL_LEASE_TTL"], [];
    /// How often a worker renews its lease.
    renew_interval: Duration = "0.7", "seconds", ["GRISTMILL_RENEW_INTERVAL"], [];
    /// How long calls in flight may go on after a stop was asked for.
    grace: Duration = "30", "seconds", ["GRISTMILL_GRACE"], [];
    /// Where a worker answers `GET /live` and `GET /ready`. Default: nowhere.
    health_listen: Option<SocketAddr> = "", "address:port", ["GRISTMILL_HEALTH_LISTEN"], [];
    /// Where a worker answers `GET /metrics`, and `/live` and `/ready` as well; it may be the address of `health_listen`. Default:
    /// nowhere.
    metrics_addr: Option<SocketAddr> = "", "address:port", ["GRISTMILL_METRICS_ADDR"], [];
    /// The model that a worker serves where it is told none and `model_list` names none, and that `call` asks where it names
    /// none.
    model: Option<String> = "", "name", ["GRISTMILL_MODEL", "LITELLM_MODEL"], [];
    /// A newer table of prices: LiteLLM's `model_prices_and_context_window.json`. Default: the table that is in the program.
    prices: Option<PathBuf> = "", "path", ["GRISTMILL_PRICES"], [];
    /// How long the prices of a file are kept; a worker reads it again then, if it has changed.
    price_ttl: Duration = "3600", "seconds", ["GRISTMILL_PRICE_TTL", "LITELLM_COST_CACHE_TTL"], [];
    /// Whether calls have costs.
    cost_tracking: bool = "true", "true or false", ["GRISTMILL_COST_TRACKING", "LITELLM_ENABLE_COST_TRACKING"], [];
    /// Where alerts of budgets are posted as JSON that Slack's incoming webhooks take. Default: they are in the log alone.
    alert_webhook: Option<SecretString> = "", "URL", ["GRISTMILL_ALERT_WEBHOOK"], [];
    /// Whether kept answers are given to requests that ask the same, and new answers are kept, where a batch does not say:
    /// `off`, `on`, `read-only` or `write-only`; with `+sampled` also for requests whose answer is random.
    cache: CachePolicy = "off", "mode", ["GRISTMILL_CACHE"], [];
    /// How long a worker keeps an answer.
    cache_ttl: Duration = "2592000", "seconds", ["GRISTMILL_CACHE_TTL"], [];
    /// Who shares answers: `project`, the batches of one project, or `shared`, all. The same for all workers.
    cache_scope: CacheScope = "project", "project or shared", ["GRISTMILL_CACHE_SCOPE"], [];
    /// How large all kept answers together may be; those that were not used for longest go first.
    cache_max_bytes: u64 = "1073741824", "bytes", ["GRISTMILL_CACHE_MAX_BYTES"], [];
    /// The OpenAI-compatible endpoint for every model, where there is no `model_list`.
    api_base: Option<Endpoint> = "", "URL", ["GRISTMILL_API_BASE"], [];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_carry_a_unit() {
        for (text, ms) in
            [("30", 30_000), ("0.5", 500), ("250ms", 250), ("2 m", 120_000), ("1h", 3_600_000), ("15s", 15_000)]
        {
            assert_eq!(Duration::parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "-1", "x", "5 days", "NaN", "inf", "1e9"] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints_are_http_addresses_without_secrets_and_are_never_shown() {
        assert!(Endpoint::parse("http://localhost:8000/v1").is_ok());
        for text in ["canary", "ftp://canary", "http://", "https://u:canary@h/v1", "https://h/v1?key=canary"] {
            let problem = Endpoint::parse(text).unwrap_err();
            assert!(!problem.contains("canary"), "{problem}");
        }
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        assert_eq!(redact("postgres://u:canary@h:5432/d?sslkey=canary"), "postgres://u:***@h:5432/d");
        assert_eq!(redact("amqp://guest@h/%2f"), "amqp://guest@h/%2f");
        assert_eq!(redact("http://h:8000/canary/v1"), "http://h:8000");
        assert_eq!(redact("canary"), "(not shown)");
    }

    #[test]
    fn every_option_is_documented_once() {
        for (index, option) in OPTIONS.iter().enumerate() {
            assert!(option.doc.trim().ends_with('.') && !option.unit.is_empty(), "{}", option.name);
            assert!(OPTIONS[..index].iter().all(|other| other.name != option.name), "{}", option.name);
            assert!(option.env.iter().any(|name| *name == format!("GRISTMILL_{}", option.name.to_uppercase())));
        }
    }
}
