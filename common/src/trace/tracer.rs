//! Records spans where the environment says where they go.

use std::sync::Arc;

use super::parent::{TraceId, Traceparent};
use super::sampler::Sampler;
use super::settings::Settings;
use super::span::Span;
use crate::id::JobId;

#[cfg(feature = "otlp")]
use super::otlp::Sink;

/// Takes no spans: there are none in a build without the feature.
#[cfg(not(feature = "otlp"))]
#[derive(Debug)]
enum Sink {}

#[cfg(not(feature = "otlp"))]
impl Sink {
    fn take(&self, _: Span) {
        match *self {}
    }

    fn close(&self) -> std::future::Ready<()> {
        match *self {}
    }
}

/// Records spans; the default records none. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Active>>);

#[derive(Debug)]
struct Active {
    sampler: Sampler,
    sink: Sink,
}

impl Tracer {
    /// Makes one that does what the process's environment says: none where `OTEL_EXPORTER_OTLP_ENDPOINT` and
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` are unset. What is wrong is logged, and never an error of the caller's.
    ///
    /// `service` is the program's name in traces, unless the environment has one.
    pub fn from_env(service: &str) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(settings) = Settings::read(variable, |what| tracing::warn!("{what}")) else { return Self::default() };
        Self::start(settings, service)
    }

    #[cfg(feature = "otlp")]
    fn start(Settings { sampler }: Settings, service: &str) -> Self {
        match Sink::start(service) {
            Ok(sink) => Self(Some(Arc::new(Active { sampler, sink }))),
            Err(error) => {
                tracing::warn!(%error, "no traces are recorded");
                Self::default()
            }
        }
    }

    #[cfg(not(feature = "otlp"))]
    fn start(_: Settings, _: &str) -> Self {
        tracing::warn!(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build records no traces: build it with --features otlp"
        );
        Self::default()
    }

    /// Tells whether spans are recorded at all.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns what a message says of a job of ours, if anything.
    pub fn announce(&self, job: JobId) -> Option<Traceparent> {
        let active = self.0.as_ref()?;
        Some(Traceparent::of(job, active.sampler.takes(TraceId::of(job), None)))
    }

    /// Returns what spans of a job are children of, if they are to be recorded. `begun` is what it was enqueued with
    /// elsewhere.
    pub fn parent(&self, job: JobId, begun: Option<Traceparent>) -> Option<Traceparent> {
        let active = self.0.as_ref()?;
        let parent = begun.unwrap_or_else(|| Traceparent::of(job, true));
        active.sampler.takes(parent.trace, begun).then_some(parent)
    }

    /// Hands a span over to be sent; never waits. What is too much is dropped.
    pub fn record(&self, span: Span) {
        if let Some(active) = &self.0 {
            active.sink.take(span);
        }
    }

    /// Sends what is there, within some seconds. Nothing is recorded after it.
    pub async fn close(&self) {
        if let Some(active) = &self.0 {
            active.sink.close().await;
        }
    }
}
