//! Where a provider's calls go and with which key, from its variables and from what is given for one place.
//!
//! Owns the rule that a key which is meant for one host goes to no other; `models` says for which hosts each is meant.

use super::env::Found;
use super::options::Parse as _;
use super::provider::Provider;
use super::{Dialect, Endpoint, Env, Error, Header};

/// A key, or why there is none.
#[derive(Debug, Clone)]
pub(super) enum Key {
    /// None is sent.
    None,
    /// This one.
    Found(Found),
    /// It should come from a variable that is not set.
    Missing { place: String, variable: String },
    /// The provider's own endpoint needs one; the note says what else was found.
    Required { provider: &'static Provider, host: String, note: &'static str },
    /// It is set and cannot be read, for this reason.
    Unreadable(String),
}

/// Returns the key in a provider's variables.
pub(super) fn account_key(provider: &Provider, env: &Env) -> Key {
    for variable in provider.key_variables {
        match env.secret(variable) {
            Ok(Some(found)) => return Key::Found(found),
            Ok(None) => {}
            Err(error) => return Key::Unreadable(error.to_string()),
        }
    }
    Key::None
}

/// Returns the endpoint in a provider's variables.
pub(super) fn account_base(provider: &Provider, env: &Env) -> Result<Option<Endpoint>, Error> {
    for variable in provider.base_variables {
        if let Some(found) = endpoint(env.get(variable), variable)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Finds where a provider's calls go and with which key, from what is given for this one place and from its variables.
pub(super) fn resolve(
    provider: &'static Provider,
    own_base: Option<Endpoint>,
    own_key: Key,
    env: &Env,
) -> Result<(Endpoint, Key), Error> {
    // A key of its own, without an endpoint, is meant for the provider; the key in its variable goes where the variable beside
    // it says.
    let shares_key = match &own_key {
        Key::None => true,
        Key::Found(found) => provider.key_variables.contains(&found.name.as_str()),
        _ => false,
    };
    let has_own_base = own_base.is_some();
    let shared = account_base(provider, env)?;
    let api_base = match (own_base, &shared) {
        (Some(own), _) => own,
        (None, Some(shared)) if shares_key => shared.clone(),
        (None, _) => own_endpoint(provider)?,
    };
    let needed = || match account_key(provider, env) {
        Key::None => required(provider, &api_base, ""),
        key => key,
    };
    let key = match own_key {
        // Every customer of Azure's has a host of his own: his key goes to the one that it was named beside.
        Key::None
            if provider.dialect == Dialect::Azure
                && has_own_base
                && shared.as_ref().is_some_and(|shared| shared.0.host_str() != api_base.0.host_str()) =>
        {
            let note =
                " (AZURE_API_KEY is sent to AZURE_API_BASE only: name the key of this endpoint in its own api_key)";
            required(provider, &api_base, note)
        }
        Key::None if is_own_host(provider, &api_base) && provider.needs_key => needed(),
        // An endpoint of its own without a key is a server that needs none.
        Key::None if has_own_base => Key::None,
        Key::None => account_key(provider, env),
        key => key,
    };
    Ok((api_base, key))
}

pub(super) fn endpoint(text: Option<&str>, origin: &str) -> Result<Option<Endpoint>, Error> {
    text.map(|text| Endpoint::parse(text).map_err(|problem| Error::Invalid { origin: origin.to_owned(), problem }))
        .transpose()
}

pub(super) fn own_endpoint(provider: &Provider) -> Result<Endpoint, Error> {
    let Some(text) = provider.api_base else {
        return Err(Error::MissingEndpoint {
            provider: provider.name.to_owned(),
            variable: provider.base_variables.first().copied().unwrap_or_default().to_owned(),
        });
    };
    Endpoint::parse(text)
        .map_err(|problem| Error::Invalid { origin: format!("the address of {}", provider.name), problem })
}

/// Tells whether this is a host of the provider's own: OpenAI's data-residency hosts and Azure's customers included.
pub(super) fn is_own_host(provider: &Provider, endpoint: &Endpoint) -> bool {
    let host = endpoint.0.host_str().unwrap_or_default();
    if endpoint.0.scheme() != "https" {
        return false;
    }
    match (provider.dialect, provider.api_base) {
        (Dialect::Azure, _) => [".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"]
            .iter()
            .any(|end| host.ends_with(end)),
        (_, Some(own)) => {
            let own = own.strip_prefix("https://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
            host == own || (provider.name == "openai" && host.ends_with(".api.openai.com"))
        }
        (_, None) => false,
    }
}

/// Returns the headers that choose among the accounts of a key: those of OpenAI's own clients, for OpenAI's own host.
pub(super) fn account_headers(provider: &Provider, api_base: &Endpoint, env: &Env) -> Vec<Header> {
    if provider.name != "openai" || !is_own_host(provider, api_base) {
        return Vec::new();
    }
    let header = |name: &str, variables: [&str; 2]| {
        let value = variables.iter().find_map(|variable| env.get(variable))?;
        Some(Header { name: name.into(), value: value.to_owned().into() })
    };
    [
        header("openai-organization", ["OPENAI_ORG_ID", "OPENAI_ORGANIZATION"]),
        header("openai-project", ["OPENAI_PROJECT_ID", "OPENAI_PROJECT"]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Says that an endpoint takes no call without a key.
pub(super) fn required(provider: &'static Provider, api_base: &Endpoint, note: &'static str) -> Key {
    Key::Required { provider, host: api_base.0.host_str().unwrap_or_default().to_owned(), note }
}
