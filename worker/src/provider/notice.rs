//! Posts notices for people to an address of their own: JSON that Slack's incoming webhooks, and those that speak like them, take.

use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};

use super::Http;

/// How long a notice may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Posts `{"text": …}` (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>, read 2026-11).
///
/// # Errors
///
/// Why it was not taken, in words that do not show the address, which is a secret.
pub(crate) async fn post(http: &Http, url: &SecretString, text: &str) -> Result<(), String> {
    let url = Url::parse(url.expose_secret()).map_err(|_| "the webhook's address is no URL".to_owned())?;
    let body = serde_json::json!({ "text": text }).to_string();
    let request =
        http.client(&url, PATIENCE)?.post(url).timeout(PATIENCE).header("content-type", "application/json").body(body);
    let answer = request.send().await.map_err(|error| super::client::root_cause(&error.without_url()))?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("it was answered with {status}")) }
}
