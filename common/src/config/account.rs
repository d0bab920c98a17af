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
    /// The provider's own endpoint needs one; the remedy says what to set, the note what else was found.
    Required { provider: &'static Provider, host: String, remedy: String, note: String },
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
    Ok(named_base(provider, env)?.map(|(_, found)| found))
}

/// Returns the endpoint in a provider's variables, with the variable.
fn named_base(provider: &Provider, env: &Env) -> Result<Option<(&'static str, Endpoint)>, Error> {
    for variable in provider.base_variables {
        if let Some(found) = endpoint(env.get(variable), variable)? {
            return Ok(Some((variable, found)));
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
        Key::Found(Found { name, .. }) | Key::Missing { variable: name, .. } => {
            provider.key_variables.contains(&name.as_str())
        }
        _ => false,
    };
    let has_own_base = own_base.is_some();
    let shared = named_base(provider, env)?;
    let api_base = match (own_base, &shared) {
        (Some(own), _) => own,
        (None, Some((_, shared))) if shares_key => shared.clone(),
        (None, _) => own_endpoint(provider)?,
    };
    // Every customer of Azure's has a host of his own: his key goes to the one that it was named beside.
    let elsewhere = shared.filter(|(_, shared)| {
        provider.dialect == Dialect::Azure && has_own_base && shared.0.host_str() != api_base.0.host_str()
    });
    let needed = || match account_key(provider, env) {
        Key::None => required(provider, &api_base, ""),
        key => key,
    };
    let key = match own_key {
        Key::None if let Some((base_variable, _)) = elsewhere => {
            let key_variable = match account_key(provider, env) {
                Key::Found(found) => found.name,
                _ => provider.key_variables.first().copied().unwrap_or_default().to_owned(),
            };
            Key::Required {
                provider,
                host: api_base.0.host_str().unwrap_or_default().to_owned(),
                remedy: "api_key in its entry of model_list".to_owned(),
                note: format!(" ({key_variable} is sent to {base_variable} only)"),
            }
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
    let Some(text) = provider.api_base else { return Err(missing_endpoint(provider, &Key::None)) };
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

/// Says what a provider of which everybody has an endpoint of his own lacks, where it was given this key.
pub(super) fn missing_endpoint(provider: &Provider, key: &Key) -> Error {
    let in_entry = "api_base in its entry of model_list";
    let remedy = match key {
        Key::Missing { place, variable } => {
            return Error::MissingVariable { place: place.clone(), variable: variable.clone() };
        }
        Key::Unreadable(why) => return Error::UnreadableKey(why.clone()),
        // The endpoint of the account is for the key of the account: to set it, or to have set it, changes nothing.
        Key::Found(found) if !provider.key_variables.contains(&found.name.as_str()) => {
            format!("{in_entry} (its key, {}, is not sent to {})", found.name, provider.base_variables.join(" or "))
        }
        _ => format!("{}, or {in_entry}", provider.base_variables.first().copied().unwrap_or_default()),
    };
    Error::MissingEndpoint { provider: provider.name.to_owned(), remedy }
}

/// Says that an endpoint takes no call without a key of the account.
pub(super) fn required(provider: &'static Provider, api_base: &Endpoint, note: &str) -> Key {
    let (first, others) = provider.key_variables.split_first().map_or(("", &[][..]), |(a, b)| (*a, b));
    let others = others.iter().map(|name| format!(", {name}")).collect::<String>();
    let what = match provider.dialect {
        Dialect::OpenAi if provider.name == "openai" => ", or name another endpoint with --api-base",
        _ => "",
    };
    Key::Required {
        provider,
        host: api_base.0.host_str().unwrap_or_default().to_owned(),
        remedy: format!("{first} (or {first}_FILE{others}){what}"),
        note: note.to_owned(),
    }
}
