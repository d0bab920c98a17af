//! How to reach RabbitMQ, and the limits that the back end keeps.

use std::fmt;
use std::time::Duration;

use lapin::uri::AMQPUri;
use secrecy::{ExposeSecret as _, SecretString};

use super::super::{Error, Result};

/// Longest time that one request to the server may take, connecting included.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that an orderly end may take; RabbitMQ does the same when it is cut short.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest prefix, in bytes: AMQP names end at 255, and the rest is for the model group.
const MAX_PREFIX_BYTES: usize = 64;

/// How to reach RabbitMQ, and the limits that the back end keeps.
#[derive(Clone)]
pub struct RabbitOptions {
    /// `amqp://user:password@host:port/vhost`, or `amqps://`; never shown. `heartbeat` (seconds, default 10) and
    /// `connection_timeout` (milliseconds, default 5,000) may stand in its query.
    pub url: SecretString,
    /// What the names of all queues and exchanges begin with. Default `gristmill`.
    pub prefix: String,
    /// The name that the connections have in RabbitMQ's own lists. Default `gristmill`.
    pub name: String,
    /// Messages that may be unconfirmed at once. Default 1,000.
    pub publish_window: usize,
    /// Longest time that a publish waits without progress: for a lost connection, an alarm, a confirm. Default 30 s.
    pub publish_timeout: Duration,
    /// A consumer that gets nothing for this long although its queue has messages is built anew. Default 30 s.
    pub deaf_after: Duration,
}

impl RabbitOptions {
    /// Takes the defaults for all but the address.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            prefix: "gristmill".to_owned(),
            name: "gristmill".to_owned(),
            publish_window: 1_000,
            publish_timeout: Duration::from_secs(30),
            deaf_after: Duration::from_secs(30),
        }
    }

    /// Checks the options and reads the address.
    pub(super) fn address(&self) -> Result<Address> {
        let prefix_is_plain = self.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if self.prefix.is_empty() || self.prefix.len() > MAX_PREFIX_BYTES || !prefix_is_plain {
            return Err(Error::Setup(format!(
                "the queue prefix must be 1 to {MAX_PREFIX_BYTES} ASCII letters, digits, `-`, `_` or `.`"
            )));
        }
        if self.publish_window == 0 {
            return Err(Error::Setup("the publish window must be at least 1".to_owned()));
        }
        // The parser's own message may repeat the address, and with it the password.
        let mut uri: AMQPUri = self.url.expose_secret().parse().map_err(|_| {
            Error::Setup("AMQP_URL is not an address like amqp://user:password@host:5672/%2f".to_owned())
        })?;
        // Without it RabbitMQ asks for 60 s: too long to hold jobs on a connection that is dead. 5 to 20 s are advised
        // (https://www.rabbitmq.com/docs/heartbeats).
        uri.query.heartbeat.get_or_insert(10);
        uri.query.connection_timeout.get_or_insert(5_000);
        Ok(Address { uri })
    }
}

impl fmt::Debug for RabbitOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitOptions")
            .field("prefix", &self.prefix)
            .field("name", &self.name)
            .field("publish_window", &self.publish_window)
            .field("publish_timeout", &self.publish_timeout)
            .field("deaf_after", &self.deaf_after)
            .finish_non_exhaustive()
    }
}

/// A checked address. What it shows holds neither user nor password.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) uri: AMQPUri,
}

impl Address {
    /// Returns the virtual host.
    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uri.authority.host, self.uri.authority.port)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> RabbitOptions {
        RabbitOptions::new(SecretString::from(url))
    }

    #[test]
    fn heartbeat_and_timeout_have_defaults_that_the_url_overrides() {
        let query = |url: &str| options(url).address().unwrap().uri.query;
        let defaults = query("amqp://h");
        assert_eq!((defaults.heartbeat, defaults.connection_timeout), (Some(10), Some(5_000)));
        let given = query("amqp://h?heartbeat=20&connection_timeout=100");
        assert_eq!((given.heartbeat, given.connection_timeout), (Some(20), Some(100)));
    }

    #[test]
    fn no_text_shows_user_or_password() {
        let good = options("amqp://canary-user:canary-key@h:1/v");
        let address = good.address().unwrap();
        let mut texts = vec![format!("{good:?}"), format!("{address} {address:?}")];
        for bad in ["http://canary-user:canary-key@h/", "amqp://canary-user:canary-key@h:canary-key/", "canary-key"] {
            texts.push(options(bad).address().unwrap_err().to_string());
        }
        assert_eq!(texts[1], "h:1 Address(h:1)");
        assert!(texts.iter().all(|text| !text.contains("canary")), "{texts:?}");
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for prefix in ["", "a b", "ü", &"x".repeat(65)] {
            let refused = RabbitOptions { prefix: prefix.to_owned(), ..options("amqp://h") }.address();
            assert!(matches!(refused, Err(Error::Setup(_))), "{prefix}");
        }
        assert!(RabbitOptions { prefix: "team-a.gristmill_2".to_owned(), ..options("amqp://h") }.address().is_ok());
    }
}
