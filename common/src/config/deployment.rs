//! One provider endpoint that serves a model group, as plain data: what a worker needs to call it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Map, Value};
use url::Url;

use crate::price::Tariff;
use crate::quota::Limits;

use super::options::Parse;
use super::{Dialect, Error};

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
    /// Its share of the group's work beside the others of the same `order`: LiteLLM's `weight`, by default 1. Where the group
    /// has no weights, its requests in a minute, else its tokens in a minute, as LiteLLM's simple shuffle weighs. With 0 it is
    /// called only where no other can be.
    pub weight: u32,
    /// Its place in the group: those of a lower number are called before those of a higher one. Default 1.
    pub order: u32,
    /// What a request's tags can choose it by.
    pub tags: Vec<Arc<str>>,
    /// Parameters of the body that a request gets where it does not set them, such as `temperature`. `max_tokens` and
    /// `max_completion_tokens` are one: neither is set where the request has the other.
    pub defaults: Arc<Map<String, Value>>,
    /// Tokens of input that the model takes: as configured, else as the table of prices said at start; `None` where neither does.
    pub max_input_tokens: Option<u64>,
    /// How the price of its calls is found; `None` where calls have no costs.
    pub price: Option<Tariff>,
    /// How long it is left alone after too many failures, where it has a time of its own.
    pub cooldown: Option<Duration>,
    /// Failures in a minute that it may have before it is left alone, where it has a number of its own.
    pub allowed_fails: Option<u32>,
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
            weight: 1,
            order: 1,
            tags: Vec::new(),
            defaults: Arc::default(),
            max_input_tokens: None,
            price: None,
            cooldown: None,
            allowed_fails: None,
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
        Parse::parse(text).map_err(|problem| Error::Invalid { origin: "the endpoint".to_owned(), problem })
    }
}

impl Endpoint {
    /// Returns where data stays at OpenAI's regional hosts (<https://platform.openai.com/docs/guides/your-data>, read 2026-11).
    pub fn data_residency(&self) -> Option<&'static str> {
        match self.0.host_str()? {
            "eu.api.openai.com" => Some("eu"),
            "us.api.openai.com" => Some("us"),
            _ => None,
        }
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
