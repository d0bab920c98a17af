//! The HTTP clients that deployments share.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;

/// Most bytes of an answer's body that are read: 64 MiB.
pub const DEFAULT_MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// What two deployments must have in common to share a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    connect_timeout: Duration,
    tls: bool,
    proxy: bool,
}

/// The HTTP clients of a process, one per kind, and what they have in common.
#[derive(Debug)]
pub struct Http {
    clients: Mutex<HashMap<Kind, reqwest::Client>>,
    /// Whether `HTTP_PROXY` and its kin are followed; tests do not.
    uses_proxy: bool,
    max_response_bytes: usize,
}

impl Default for Http {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_RESPONSE_BYTES)
    }
}

impl Http {
    /// Makes an empty set; `max_response_bytes` bounds the body of any answer.
    pub fn new(max_response_bytes: usize) -> Self {
        Self { clients: Mutex::default(), uses_proxy: true, max_response_bytes }
    }

    #[cfg(test)]
    pub(super) fn without_proxy(max_response_bytes: usize) -> Self {
        Self { uses_proxy: false, ..Self::new(max_response_bytes) }
    }

    pub(super) const fn max_response_bytes(&self) -> usize {
        self.max_response_bytes
    }

    /// Returns the client for an endpoint, the same one for the same kind.
    pub(super) fn client(&self, base: &Url, connect_timeout: Duration) -> Result<reqwest::Client, String> {
        let kind =
            Kind { connect_timeout, tls: base.scheme() == "https", proxy: self.uses_proxy && !is_loopback(base) };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&kind) {
            return Ok(client.clone());
        }
        let client = kind.build().map_err(|error| root_cause(&error.without_url()))?;
        clients.insert(kind, client.clone());
        Ok(client)
    }
}

impl Kind {
    fn build(self) -> reqwest::Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("gristmill/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect_timeout)
            // One connection per call in flight, as OpenAI's and Anthropic's own clients do: over HTTP/2 one lost connection
            // would lose, and pay for, every call on it, and servers limit the calls on one.
            .http1_only()
            .pool_idle_timeout(Duration::from_secs(60))
            // A paid POST and its key go where they were sent, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            // The queue owns retries.
            .retry(reqwest::retry::never())
            .referer(false);
        if !self.proxy {
            // HTTP_PROXY is not meant for this machine itself.
            builder = builder.no_proxy();
        }
        if !self.tls {
            // Without TLS the system's root certificates need not be there, nor be read.
            builder = builder.tls_certs_only([]);
        }
        builder.build()
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
