//! What a program that embeds the worker may add: providers of its own, observers, and changes to requests and answers.
//!
//! Hooks run in the task of their job, one after the other in the order in which they were added, and hold up that job alone. An
//! observer that panics is told of in the log, and changes nothing; a transformer that panics fails its job as
//! `WorkerCrashedError`, and no other. Nothing that a hook does is kept across a crash: a job that is called again meets its hooks
//! again. `examples/hooks.rs` and `examples/custom_provider.rs` show both.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use gristmill_common::config::Deployment;
use gristmill_common::failure::{ErrorClass, ErrorRecord};
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::outcome::JobResult;

use crate::provider::{self, Answer, Provider, Reply};

/// The job that a hook is called for.
#[derive(Debug, Clone, Copy)]
pub struct HookCall<'a> {
    /// The job.
    pub job: JobId,
    /// Its batch.
    pub batch: BatchId,
    /// The user's name for it.
    pub custom_id: &'a str,
    /// The path of the API.
    pub endpoint: &'a str,
    /// The deployment that is, or was, called.
    pub deployment: &'a Deployment,
    /// Which call of the run it is, from 1.
    pub attempt: u32,
}

/// Sees what happens, and changes nothing. Every method does nothing unless it is written anew.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A call begins.
    fn before_call(&self, _call: HookCall<'_>) {}

    /// A call has ended, well or not.
    fn after_call(&self, _call: HookCall<'_>, _reply: &Reply) {}

    /// The job comes back after this wait; the error is that of the last call.
    fn on_retry(&self, _call: HookCall<'_>, _error: &ErrorRecord, _after: Duration) {}

    /// The run has ended with this result, which is about to be written.
    fn on_result(&self, _call: HookCall<'_>, _result: &JobResult) {}
}

/// Changes requests on their way out and answers on their way in.
#[async_trait]
pub trait Transformer: Send + Sync + fmt::Debug {
    /// Changes the body that is sent; the stored request stays as it was submitted.
    ///
    /// # Errors
    ///
    /// The error that the call ends with, unsent.
    async fn request(&self, _call: HookCall<'_>, body: Bytes) -> Result<Bytes, Box<ErrorRecord>> {
        Ok(body)
    }

    /// Changes an answer before it is stored.
    ///
    /// # Errors
    ///
    /// The error that the call ends with: it was made, and its usage counts. Unless the error has a body, it gets that of the
    /// provider's answer.
    async fn answer(&self, _call: HookCall<'_>, answer: Answer) -> Result<Answer, Box<ErrorRecord>> {
        Ok(answer)
    }
}

/// Makes providers of kinds that are not built in, or others for those that are.
pub trait ProviderFactory: Send + Sync + fmt::Debug {
    /// Makes the provider of a deployment; `None` leaves it to the next factory, and in the end to what is built in.
    ///
    /// # Errors
    ///
    /// Why the deployment cannot be called; the worker does not start then.
    fn provider(&self, deployment: &Deployment) -> Option<Result<Arc<dyn Provider>, provider::Error>>;
}

/// Everything that was added.
///
/// ```
/// # use gristmill_worker::hooks::{HookCall, Hooks, Observer};
/// # use gristmill_worker::provider::Reply;
/// #[derive(Debug)]
/// struct Latency;
///
/// impl Observer for Latency {
///     fn after_call(&self, call: HookCall<'_>, reply: &Reply) {
///         println!("{} took {} ms", call.custom_id, reply.latency_ms);
///     }
/// }
///
/// let hooks = Hooks::default().with_observer(Latency);
/// # assert_eq!(hooks.observers.len(), 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// See what happens.
    pub observers: Vec<Arc<dyn Observer>>,
    /// Change requests in this order, and answers in the reverse one.
    pub transformers: Vec<Arc<dyn Transformer>>,
    /// Make providers; the first that makes one counts.
    pub providers: Vec<Arc<dyn ProviderFactory>>,
}

impl Hooks {
    /// Adds an observer behind the others.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Observer + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Adds a transformer behind the others.
    #[must_use]
    pub fn with_transformer(mut self, transformer: impl Transformer + 'static) -> Self {
        self.transformers.push(Arc::new(transformer));
        self
    }

    /// Has deployments whose provider has this name called by what `make` returns; a built-in name may be taken as well.
    #[must_use]
    pub fn with_provider<P, F>(mut self, name: &str, make: F) -> Self
    where
        P: Provider + 'static,
        F: Fn(&Deployment) -> Result<P, provider::Error> + Send + Sync + 'static,
    {
        self.providers.push(Arc::new(Named { name: name.to_owned(), make }));
        self
    }

    pub(crate) fn provider(&self, deployment: &Deployment) -> Option<Result<Arc<dyn Provider>, provider::Error>> {
        self.providers.iter().find_map(|factory| factory.provider(deployment))
    }

    /// Shows something to every observer.
    pub(crate) fn observe(&self, show: impl Fn(&dyn Observer)) {
        for observer in &self.observers {
            if catch_unwind(AssertUnwindSafe(|| show(&**observer))).is_err() {
                tracing::error!(?observer, "an observer panicked, the job goes on");
            }
        }
    }

    pub(crate) async fn request(&self, call: HookCall<'_>, body: &Bytes) -> Result<Bytes, Box<ErrorRecord>> {
        let mut body = body.clone();
        for transformer in &self.transformers {
            let changed = AssertUnwindSafe(transformer.request(call, body)).catch_unwind().await;
            body = changed.unwrap_or_else(|_| Err(panicked()))?;
        }
        Ok(body)
    }

    pub(crate) async fn answer(&self, call: HookCall<'_>, reply: &mut Reply) {
        if self.transformers.is_empty() {
            return;
        }
        let no_answer = || Err(Box::new(ErrorRecord::new(gristmill_common::failure::ErrorClass::Api, "no answer")));
        let mut outcome = std::mem::replace(&mut reply.outcome, no_answer());
        let body = outcome.as_ref().ok().map(|answer| answer.body.clone());
        for transformer in self.transformers.iter().rev() {
            outcome = match outcome {
                Ok(answer) => {
                    let changed = AssertUnwindSafe(transformer.answer(call, answer)).catch_unwind().await;
                    changed.unwrap_or_else(|_| Err(panicked()))
                }
                error => error,
            };
        }
        // What was paid for is kept, whatever a transformer thinks of it.
        reply.outcome = outcome.map_err(|error| match body {
            Some(body) if error.body.is_none() => Box::new(error.with_body(&body)),
            _ => error,
        });
    }
}

/// Makes the provider of one name.
struct Named<F> {
    name: String,
    make: F,
}

impl<F> fmt::Debug for Named<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<P, F> ProviderFactory for Named<F>
where
    P: Provider + 'static,
    F: Fn(&Deployment) -> Result<P, provider::Error> + Send + Sync,
{
    fn provider(&self, deployment: &Deployment) -> Option<Result<Arc<dyn Provider>, provider::Error>> {
        (*deployment.provider == *self.name).then(|| {
            let provider: Arc<dyn Provider> = Arc::new((self.make)(deployment)?);
            Ok(provider)
        })
    }
}

/// Another try would meet the same transformer.
fn panicked() -> Box<ErrorRecord> {
    Box::new(ErrorRecord::new(
        ErrorClass::WorkerCrashed,
        "a transformer panicked while it had this job; see the worker's log",
    ))
}
