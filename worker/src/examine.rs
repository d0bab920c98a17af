//! A look at one deployment, before a batch is begun or for a person who asks: is it reachable, is its key taken, is its model
//! there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gristmill_common::clock::Clock;
use gristmill_common::config::{Deployment, Dialect, nearest};
use gristmill_common::failure::{Disposition, ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, JobId};

use crate::Error;
use crate::gate::complaint;
use crate::provider::{self, Call, Http, Limit, Provider};

/// How long a provider may take to tell its models.
const TO_LIST: Duration = Duration::from_secs(10);
/// How long a provider may take to answer the call.
const TO_ANSWER: Duration = Duration::from_secs(20);

/// The least that a chat model can be asked.
const SMALLEST: &[u8] = br#"{"model":"","messages":[{"role":"user","content":"1"}],"max_tokens":1}"#;

/// What the look showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// The provider lists the model for this key.
    Listed,
    /// The model answered a call, whose headers told these limits.
    Answered(Vec<Limit>),
    /// The provider lists a model of nearly this name, and not this one.
    Unlisted(String),
    /// It is reachable; the text says why no more is known.
    Unsettled(String),
    /// Calls would fail, for this class of fault; the text says what to do.
    Faulty(ErrorClass, String),
}

/// Examines one deployment. Costs nothing, unless `may_call`: then one call of one token is made where the list of models shows
/// no fault. A model that is listed and does not chat, such as one of embeddings, stays [`Examined::Listed`].
///
/// # Errors
///
/// [`Error::Provider`] if it cannot be called at all.
pub async fn examine(deployment: &Deployment, clock: Arc<dyn Clock>, may_call: bool) -> Result<Examined, Error> {
    let provider = provider::build(deployment, &Http::default(), Arc::clone(&clock))?;
    let listed = listed(&*provider, deployment).await;
    Ok(match listed {
        Examined::Listed if may_call => match called(&*provider, deployment, &*clock).await {
            Examined::Unsettled(_) | Examined::Faulty(ErrorClass::NotFound, _) => listed,
            called => called,
        },
        Examined::Unsettled(_) | Examined::Unlisted(_) if may_call => called(&*provider, deployment, &*clock).await,
        listed => listed,
    })
}

async fn listed(provider: &dyn Provider, deployment: &Deployment) -> Examined {
    let model = &*deployment.model;
    match provider.models(TO_LIST).await {
        // Some write a folder before the name: `models/gemini-2.5-pro`.
        Ok(models) if models.iter().any(|listed| listed.rsplit('/').next() == model.rsplit('/').next()) => {
            Examined::Listed
        }
        // Azure tells which models there are, not which deployments calls can name.
        Ok(_) if deployment.wire.dialect == Dialect::Azure => {
            let key = if deployment.api_key.is_some() { "it takes the key and" } else { "it asks for no key and" };
            Examined::Unsettled(format!("{key} does not tell whether it has the deployment `{model}`"))
        }
        Ok(models) if models.is_empty() => Examined::Unsettled("it lists no models".to_owned()),
        Ok(models) => match nearest(model, models.iter().map(String::as_str)) {
            Some(near) => Examined::Unlisted(format!("it does not list `{model}`; did you mean `{near}`?")),
            None => Examined::Unsettled(format!("it does not list `{model}` among {} models", models.len())),
        },
        Err(error) => match error.class {
            ErrorClass::Authentication
            | ErrorClass::InsufficientQuota
            | ErrorClass::ApiConnection
            | ErrorClass::Timeout => faulty(deployment, &error),
            // Not every provider tells its models, and not with every key.
            _ => Examined::Unsettled(format!("it does not tell its models ({})", error.class)),
        },
    }
}

fn faulty(deployment: &Deployment, error: &ErrorRecord) -> Examined {
    Examined::Faulty(error.class.clone(), complaint(deployment, error))
}

async fn called(provider: &dyn Provider, deployment: &Deployment, clock: &dyn Clock) -> Examined {
    let body = Bytes::from_static(SMALLEST);
    let call = Call {
        endpoint: "/v1/chat/completions",
        body: &body,
        job: JobId::derive(BatchId::new(clock.now()), 0),
        deadline: Some(TO_ANSWER),
        service_tier: None,
        tokens: None,
    };
    let reply = provider.call(call).await;
    match reply.outcome {
        Ok(_) => Examined::Answered(reply.limits),
        Err(error) if error.disposition() == Disposition::DeploymentFault || error.status.is_none() => {
            faulty(deployment, &error)
        }
        // It is there and takes the key, and has something against this one request.
        Err(error) => Examined::Unsettled(format!("it answered the call with {error}")),
    }
}
