//! A provider of one's own: a gateway that speaks OpenAI's API and wants a token that expires and can be revoked.
//!
//! ```text
//! cargo run -p gristmill-worker --example custom_provider
//! ```
//!
//! The way over the network is the built-in one; only the header is ours. A provider that speaks another protocol makes its call
//! itself and hands what it got to `Reply::read`.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use gristmill_worker::async_trait;
use gristmill_worker::common::clock::{Clock, SystemClock};
use gristmill_worker::common::config::{Deployment, Header};
use gristmill_worker::common::failure::{ErrorClass, ErrorRecord};
use gristmill_worker::hooks::Hooks;
use gristmill_worker::provider::{self, Call, Http, Provider, Reply};
use gristmill_worker::simulate::{self, Simulator};

mod support;

use support::Say;

/// How long before its end a token is renewed.
const MARGIN: TimeDelta = TimeDelta::minutes(1);

/// A token with its end.
struct Token {
    text: String,
    expires_at: DateTime<Utc>,
}

/// Stands for the service that gives out tokens; a real one is asked over the network, and awaited.
struct Identity {
    given_out: AtomicU32,
    clock: Arc<dyn Clock>,
    say: Say,
}

impl Identity {
    fn token(&self) -> Result<Token, String> {
        let number = self.given_out.fetch_add(1, Ordering::SeqCst) + 1;
        (self.say)(format!("signing in: token {number}"));
        Ok(Token { text: format!("token-{number}"), expires_at: self.clock.now() + TimeDelta::hours(1) })
    }
}

/// The gateway, with the token of now.
struct Gateway {
    deployment: Deployment,
    http: Http,
    identity: Arc<Identity>,
    signed_in: Mutex<Option<SignedIn>>,
}

/// A way to the gateway, and when it ends.
type SignedIn = (DateTime<Utc>, Arc<dyn Provider>);

impl Gateway {
    /// Returns the way to the gateway with a token that holds; signs in where there is none.
    fn way(&self) -> Result<Arc<dyn Provider>, Box<ErrorRecord>> {
        let now = self.identity.clock.now();
        let known = self.signed_in.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, way)) = known.filter(|(expires_at, _)| now + MARGIN < *expires_at) {
            return Ok(way);
        }
        // The class says what becomes of the job: this one comes back, and three in a row pause the deployment.
        let failed = |why: String| Box::new(ErrorRecord::new(ErrorClass::Authentication, why));
        let token = self.identity.token().map_err(failed)?;
        let mut deployment = self.deployment.clone();
        // The values of these headers are taken out of every error.
        let value = format!("Bearer {}", token.text).into();
        deployment.wire.headers.push(Header { name: "authorization".into(), value });
        let way = provider::build(&deployment, &self.http, Arc::clone(&self.identity.clock));
        let way = way.map_err(|error| failed(error.to_string()))?;
        let signed_in = (token.expires_at, Arc::clone(&way));
        *self.signed_in.lock().unwrap_or_else(PoisonError::into_inner) = Some(signed_in);
        Ok(way)
    }
}

#[async_trait]
impl Provider for Gateway {
    async fn call(&self, call: Call<'_>) -> Reply {
        let way = match self.way() {
            Ok(way) => way,
            Err(error) => return Reply::new(Err(error)),
        };
        let reply = way.call(call).await;
        (self.identity.say)(format!("the gateway answered {}", reply.http_status.unwrap_or_default()));
        if reply.http_status == Some(401) {
            // Revoked before its time. The queue brings the job back, and then there is a new token.
            *self.signed_in.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        reply
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("deployment", &self.deployment.name).finish_non_exhaustive()
    }
}

/// Asks the gateway two things and tells what happens; returns how many calls each of them took.
pub(crate) async fn run(say: Say) -> anyhow::Result<Vec<u32>> {
    // The simulator is the gateway. It takes the second token only, as if the first had been revoked.
    let options = simulate::Options { require_key: Some("token-2".to_owned()), ..simulate::Options::default() };
    let simulator = Simulator::start(options).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let identity = Arc::new(Identity { given_out: AtomicU32::new(0), clock, say: Arc::clone(&say) });
    let hooks = Hooks::default().with_provider("gateway", move |deployment| {
        Ok(Gateway {
            deployment: deployment.clone(),
            http: Http::default(),
            identity: Arc::clone(&identity),
            signed_in: Mutex::default(),
        })
    });
    let deployment = Deployment::new("corporate", "gateway", "sim-1", simulator.base_url().parse()?);
    let rows = support::ask(deployment, hooks, &["What is a mill?", "What is a stone?"]).await?;
    simulator.shutdown().await;
    for row in &rows {
        say(format!("{}: {} after {} calls", row.custom_id, row.result.status, row.result.attempts));
    }
    Ok(rows.into_iter().map(|row| row.result.attempts).collect())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    gristmill_worker::install_tls();
    #[expect(clippy::print_stdout, reason = "an example shows what happens")]
    let say: Say = Arc::new(|line| println!("{line}"));
    run(say).await?;
    Ok(())
}
