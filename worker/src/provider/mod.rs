//! The provider seam: one call of one job to one deployment, and its answer or error as plain data.
//!
//! Owns the wire: addresses, headers, timeouts, sizes, and what an answer or an error means. Does not retry, wait, choose a
//! deployment or count money: the queue owns retries. Nothing is kept between calls but connections, so a crash loses the
//! calls in flight and nothing else.
//!
//! No message, header, body or cause in an [`ErrorRecord`] that leaves this module names the key or the endpoint.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use gristmill_common::clock::Clock;
use gristmill_common::config::Deployment;
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::JobId;
use gristmill_common::outcome::Usage;
use http::HeaderMap;

use address::Api;
use answer::Fault;
use details::Details;

mod address;
mod answer;
mod anthropic;
mod classify;
mod client;
mod details;
mod exchange;
mod hearing;
mod key;
mod lenient;
mod notice;
mod redact;
mod remote;
mod speech;
mod splice;
mod stream;
mod structured;
mod told;
mod transport;
mod verdict;
mod wait;

#[cfg(test)]
mod tests;

pub use client::{DEFAULT_MAX_RESPONSE_BYTES, Http};
pub(crate) use notice::post as notify;
pub use stream::Delta;
pub use told::Limit;
pub use verdict::{Cooldown, Verdict};

/// A deployment that cannot be built; the text says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its key cannot be sent.
    #[error(
        "the key of deployment `{deployment}` ({source_name}) has characters that no HTTP header may hold; set it again without line breaks or blanks"
    )]
    InvalidKey {
        /// The deployment's name.
        deployment: String,
        /// Where the key came from.
        source_name: String,
    },
    /// A header of its own cannot be sent.
    #[error("the header `{name}` of deployment `{deployment}` is no HTTP header; see extra_headers and api_version")]
    InvalidHeader {
        /// The deployment's name.
        deployment: String,
        /// The header's name.
        name: String,
    },
    /// Its endpoint is no `http` or `https` address.
    #[error("the api_base of deployment `{deployment}` is not an http:// or https:// address")]
    InvalidEndpoint {
        /// The deployment's name.
        deployment: String,
    },
    /// A provider that was added refuses it.
    #[error("deployment `{deployment}` cannot be called: {reason}")]
    Refused {
        /// The deployment's name.
        deployment: String,
        /// What to change.
        reason: String,
    },
    /// No HTTP client could be made.
    #[error(
        "making the HTTP client of deployment `{deployment}` failed: {reason}; are the system's root certificates (ca-certificates) installed?"
    )]
    Client {
        /// The deployment's name.
        deployment: String,
        /// What the HTTP library says.
        reason: String,
    },
}

/// One call, as the pipeline asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The path of the API, for example `/v1/chat/completions`.
    pub endpoint: &'a str,
    /// The request's JSON text in OpenAI format.
    ///
    /// Sent byte for byte where the provider takes that format, except that at the top level `model` becomes the deployment's
    /// model and `service_tier` what is asked for here. An answer that comes as a stream, since the body or the deployment says
    /// so, somebody waits for its tokens or the server has no other, is put together to what a plain call would have answered.
    pub body: &'a Bytes,
    /// The job; sent as `x-client-request-id`.
    pub job: JobId,
    /// The longest that this call may take, where that is shorter than the deployment's total.
    pub deadline: Option<Duration>,
    /// The service tier to ask for; `None` leaves what the body says.
    pub service_tier: Option<&'a str>,
    /// Who is shown the output as it comes, if somebody is.
    pub tokens: Option<&'a dyn Tokens>,
}

/// Somebody who is shown output as it comes.
pub trait Tokens: Send + Sync + fmt::Debug {
    /// Takes a piece of the first choice's output. Called within the call: it must not block.
    fn take(&self, delta: Delta<'_>);
}

/// How a call went.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Whether any byte of the request may have left: if not, the provider did no work and billed nothing.
    pub sent: bool,
    /// The HTTP status, if one came.
    pub http_status: Option<u16>,
    /// Time to the head of the answer, in milliseconds; where it comes as a stream, to its first output.
    pub ttft_ms: Option<u32>,
    /// Time of the whole call, in milliseconds.
    pub latency_ms: u32,
    /// The provider's id of the call.
    pub request_id: Option<String>,
    /// Tokens as the provider counted them; an error may come with usage.
    pub usage: Usage,
    /// All that the provider says was used: the JSON text of `usage`, of which costs are computed.
    pub usage_text: Option<String>,
    /// The model that the provider says answered.
    pub served_model: Option<String>,
    /// The service tier that the provider says it served; it decides the price.
    pub service_tier: Option<String>,
    /// What the answer's headers tell of the deployment's rate limits.
    pub limits: Vec<Limit>,
    /// The answer, or why there is none.
    pub outcome: Result<Answer, Box<ErrorRecord>>,
}

impl Reply {
    /// Makes a reply that says nothing but its outcome: nothing was sent, and nothing took any time.
    pub fn new(outcome: Result<Answer, Box<ErrorRecord>>) -> Self {
        Self {
            sent: false,
            http_status: None,
            ttft_ms: None,
            latency_ms: 0,
            request_id: None,
            usage: Usage::default(),
            usage_text: None,
            served_model: None,
            service_tier: None,
            limits: Vec::new(),
            outcome,
        }
    }

    /// Reads a body in OpenAI's format as the answer of a call to this path, as a provider of one's own gets or makes it.
    ///
    /// Usage, model and service tier are what the body says; a body that is no answer makes the error that says why.
    pub fn read(endpoint: &str, body: Bytes) -> Self {
        let read = answer::read(Api::of(address::path_below_version(endpoint)), &body);
        let none = HeaderMap::new();
        // Only a header could name a time.
        let now = DateTime::UNIX_EPOCH;
        let outcome = match read.fault {
            None => Ok(Answer { body, finish_reason: read.finish_reason, output_text: read.output_text }),
            Some(Fault::Error) => {
                let details = Details::of_answer(&body);
                Err(Box::new(classify::record(200, &none, &body, details, now)))
            }
            Some(Fault::Because(class, message)) => Err(Box::new(classify::fault(class, message, &none, &body))),
            Some(Fault::Schema(mismatch)) => {
                let class = ErrorClass::JsonSchemaValidation;
                Err(Box::new(classify::fault(class, mismatch.message, &none, &body)))
            }
        };
        let (served_model, service_tier) = (read.model, read.service_tier);
        let (usage, usage_text) = (read.usage, read.usage_text);
        Self { sent: true, usage, usage_text, served_model, service_tier, ..Self::new(outcome) }
    }

    /// Writes into an error where it happened, as far as it does not say.
    pub(crate) fn sign(&mut self, deployment: &Deployment) {
        let Err(record) = &mut self.outcome else { return };
        record.provider.get_or_insert_with(|| deployment.provider.to_string());
        record.model.get_or_insert_with(|| deployment.model.to_string());
        record.deployment.get_or_insert_with(|| deployment.name.to_string());
        record.status = record.status.or(self.http_status);
        if record.request_id.is_none() {
            record.request_id.clone_from(&self.request_id);
        }
    }
}

/// A provider's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The response's JSON text, byte for byte.
    pub body: Bytes,
    /// Why the model stopped, in OpenAI's words.
    pub finish_reason: Option<String>,
    /// The text of the answer; absent where there is none, as with tool calls and embeddings.
    pub output_text: Option<String>,
}

/// A request as it would be sent, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The address, without what may be secret in it.
    pub url: String,
    /// The headers; those that are secret read `***`.
    pub headers: Vec<(String, String)>,
    /// The body, to the byte.
    pub body: Bytes,
}

/// Calls one deployment.
#[async_trait]
pub trait Provider: Send + Sync + fmt::Debug {
    /// Makes one call and never a second one: retries are the queue's.
    ///
    /// An error says by its class what becomes of the job. It must name neither key nor endpoint; provider, model and deployment
    /// are written into it where they are missing. Dropping the future ends the connection; the provider may still have done, and billed, the work.
    async fn call(&self, call: Call<'_>) -> Reply;

    /// Shows what [`Provider::call`] would send; unless it is written anew, nothing.
    ///
    /// # Errors
    ///
    /// The error with which the call would end before anything was sent.
    fn preview(&self, _call: Call<'_>) -> Result<Preview, Box<ErrorRecord>> {
        Err(Box::new(ErrorRecord::new(ErrorClass::Api, "this provider does not show what it sends")))
    }

    /// Reads which models the provider says it has, which costs nothing; within `limit`. Unless it is written anew, none.
    ///
    /// # Errors
    ///
    /// What the provider, or the way to it, says. Not every provider tells its models, and not with every key: only a refused
    /// key and a failed connection say that calls would fail too.
    async fn models(&self, _limit: Duration) -> Result<Vec<String>, Box<ErrorRecord>> {
        Ok(Vec::new())
    }
}

/// Makes the provider of a deployment. Deployments built from one [`Http`] share connections.
///
/// # Errors
///
/// What cannot be sent: a key or a header that HTTP does not allow, an endpoint that is no address.
pub fn build(deployment: &Deployment, http: &Http, clock: Arc<dyn Clock>) -> Result<Arc<dyn Provider>, Error> {
    Ok(Arc::new(remote::Remote::new(deployment, http, clock)?))
}
