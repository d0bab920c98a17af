//! What a program that embeds the worker can see and change: every call, retry and result; requests and answers.
//!
//! ```text
//! cargo run -p gristmill-worker --example hooks
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gristmill_worker::common::config::Deployment;
use gristmill_worker::common::failure::{ErrorClass, ErrorRecord};
use gristmill_worker::common::outcome::JobResult;
use gristmill_worker::hooks::{HookCall, Hooks, Observer, Transformer};
use gristmill_worker::provider::{Answer, Reply};
use gristmill_worker::simulate::{self, Simulator};
use gristmill_worker::{Bytes, async_trait};
use serde_json::{Value, json};

mod support;

use support::Say;

/// Tells what happens to each job.
struct Narrator(Say);

impl Observer for Narrator {
    fn before_call(&self, call: HookCall<'_>) {
        (self.0)(format!("{}: call {} of {}", call.custom_id, call.attempt, call.deployment.name));
    }

    fn after_call(&self, call: HookCall<'_>, reply: &Reply) {
        let status = reply.http_status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        (self.0)(format!("{}: status {status}", call.custom_id));
    }

    fn on_retry(&self, call: HookCall<'_>, error: &ErrorRecord, _after: Duration) {
        (self.0)(format!("{}: comes back after {}", call.custom_id, error.class));
    }

    fn on_result(&self, call: HookCall<'_>, result: &JobResult) {
        (self.0)(format!("{}: {} after {} calls", call.custom_id, result.status, result.attempts));
    }
}

impl fmt::Debug for Narrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Narrator")
    }
}

/// Sends a system message with every request, and lets no answer out that names a stone.
#[derive(Debug)]
struct House;

#[async_trait]
impl Transformer for House {
    async fn request(&self, _call: HookCall<'_>, body: Bytes) -> Result<Bytes, Box<ErrorRecord>> {
        let refuse = |what: &str| Box::new(ErrorRecord::new(ErrorClass::BadRequest, what));
        let mut body: Value = serde_json::from_slice(&body).map_err(|_| refuse("the request is not JSON"))?;
        let messages = body["messages"].as_array_mut().ok_or_else(|| refuse("the request has no messages"))?;
        messages.insert(0, json!({ "role": "system", "content": "You are a miller." }));
        Ok(Bytes::from(body.to_string()))
    }

    async fn answer(&self, call: HookCall<'_>, answer: Answer) -> Result<Answer, Box<ErrorRecord>> {
        let text = String::from_utf8_lossy(&answer.body).replace("stone", "[removed]");
        // What was changed is read again, so that the columns of the row say the same as its body.
        Reply::read(call.endpoint, Bytes::from(text)).outcome
    }
}

/// Runs three prompts and tells what happens; returns the answers.
pub(crate) async fn run(say: Say) -> anyhow::Result<Vec<String>> {
    let simulator = Simulator::start(simulate::Options::default()).await?;
    let deployment = Deployment::new("millers", "openai", "sim-1", simulator.base_url().parse()?);
    let hooks = Hooks::default().with_observer(Narrator(say.clone())).with_transformer(House);
    // The simulator does what a prompt says: it fails once here, and gives back there what it was asked.
    let prompts = ["What is a mill?", "simulate:500,ok", "Which stone lies below? simulate:echo"];
    let rows = support::ask(deployment, hooks, &prompts).await?;
    simulator.shutdown().await;
    let answers = rows.into_iter().map(|row| {
        let text = row.result.output_text.context("every prompt was answered")?;
        say(format!("{}: {text}", row.custom_id));
        Ok(text)
    });
    answers.collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    gristmill_worker::install_tls();
    #[expect(clippy::print_stdout, reason = "an example shows what happens")]
    let say: Say = Arc::new(|line| println!("{line}"));
    run(say).await?;
    Ok(())
}
