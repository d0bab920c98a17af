//! Tells the owners of budgets of thresholds that were crossed: in the log, and to a webhook where there is one.
//!
//! Each is told once, by whoever is the keeper; what the webhook does not take is tried again, with what went wrong kept beside it. If
//! the process dies between telling and keeping that, it is told twice.

use std::time::Duration;

use gristmill_common::store::{self, Store};
use secrecy::SecretString;

use crate::provider::{self, Http};

/// Alerts that are told in one round.
const AT_ONCE: u32 = 10;
/// Tries after which nobody is told any more: some four hours.
const TRIES: u32 = 30;
/// The longest time between two tries.
const LONGEST: Duration = Duration::from_secs(600);

/// Who is told.
#[derive(Debug)]
pub(crate) struct Alerts {
    http: Http,
    webhook: Option<SecretString>,
}

impl Alerts {
    pub(crate) fn new(webhook: Option<SecretString>) -> Self {
        Self { http: Http::default(), webhook }
    }

    /// Tells what is due.
    pub(crate) async fn tell(&self, store: &dyn Store) -> Result<(), store::Error> {
        for alert in store.alerts(true, AT_ONCE).await? {
            if alert.tries == 0 {
                tracing::warn!(percent = alert.percent, alert = alert.message, "budget reached a threshold");
            }
            let told = match &self.webhook {
                Some(webhook) => provider::notify(&self.http, webhook, &alert.message).await,
                None => Ok(()),
            };
            match told {
                Ok(()) => store.alert_told(alert.id, None, None).await?,
                Err(trouble) => {
                    tracing::warn!(trouble, tries = alert.tries + 1, "the webhook did not take an alert");
                    let again = (alert.tries + 1 < TRIES).then(|| wait(alert.tries));
                    store.alert_told(alert.id, Some(&trouble), again).await?;
                }
            }
        }
        Ok(())
    }
}

/// Returns how long to wait after so many tries: twice as long each time.
fn wait(tries: u32) -> Duration {
    Duration::from_secs(1_u64 << tries.min(10)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_is_out_is_tried_for_some_hours() {
        let waits: Vec<Duration> = (0..TRIES).map(wait).collect();
        assert_eq!(waits[..3], [1, 2, 4].map(Duration::from_secs));
        let all: Duration = waits.iter().sum();
        assert!((3..5).contains(&(all.as_secs() / 3600)), "{all:?}");
    }
}
