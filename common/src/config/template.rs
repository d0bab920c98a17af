//! What serves every model group, where there is no `model_list`.

use std::sync::Arc;

use super::account::{
    Key, account_base, account_headers, account_key, endpoint, is_own_host, own_endpoint, required, resolve,
};
use super::entry::{Entry, Target, drops_params};
use super::options::{Layers, Options};
use super::pricing::Table;
use super::provider;
use super::{Dialect, Endpoint, Env, Error, Timeouts, Wire};

/// What serves every model group that is asked for.
#[derive(Clone)]
pub(super) struct Template {
    /// The one endpoint that was named; none where each provider has its own.
    named: Option<Named>,
    env: Env,
    timeouts: Timeouts,
    drop_params: bool,
    prices: Table,
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

impl Template {
    /// Says of keys that are set why they are not OpenAI's.
    fn other_keys(&self) -> &'static str {
        match (self.env.get("LITELLM_API_KEY"), self.env.get("GRISTMILL_API_KEY")) {
            (Some(_), _) => " (LITELLM_API_KEY is sent to LITELLM_API_BASE only)",
            (_, Some(_)) => " (GRISTMILL_API_KEY is sent to GRISTMILL_API_BASE or --api-base only)",
            _ => "",
        }
    }

    pub(super) fn read(
        layers: &Layers<'_>,
        options: &Options,
        timeouts: Timeouts,
        prices: Table,
    ) -> Result<Self, Error> {
        let env = layers.variables;
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
        Ok(Self { named, env: env.clone(), timeouts, drop_params, prices })
    }

    pub(super) fn entry(&self, group: &str) -> Result<Entry, Error> {
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
        let target = Target { provider, model, api_base: Some(api_base), key, wire };
        let mut entry = Entry::new(group, target, self.timeouts);
        entry.prices = Some(self.prices.clone());
        Ok(entry)
    }
}
