//! Sends spans to a collector by OTLP, from a thread of OpenTelemetry's own. The one file that names its crates.
//!
//! Owns the bound on what waits, and what is said when the collector is away. What does not fit, and what the collector does not
//! take, is dropped: traces never hold up a job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{self, BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanProcessor as _};

use super::span::{Kind, Span, Value};

/// Spans that wait at most, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise: the standard's 2,048 are less than what two
/// transactions of 500 results bring at once.
const WAITING: usize = 16 * 1024;
/// How long the last spans may take at the end of the process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where spans go.
#[derive(Debug)]
pub(super) struct Sink {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
    closing: Arc<AtomicBool>,
}

impl Sink {
    /// Starts sending to where the environment says.
    pub(super) fn start(service: &str) -> Result<Self, ExporterBuildError> {
        // The HTTP client looks for one as soon as it is made; fails only if one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let closing = Arc::new(AtomicBool::new(false));
        let exporter = Exporter {
            inner: SpanExporter::builder().with_http().build()?,
            dropped: AtomicU64::new(0),
            closing: Arc::clone(&closing),
        };
        let mut batches = BatchConfigBuilder::default();
        if std::env::var_os("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
            batches = batches.with_max_queue_size(WAITING);
        }
        let mut processor = BatchSpanProcessor::new(exporter, batches.build());
        processor.set_resource(&resource(service));
        let scope = InstrumentationScope::builder("gristmill").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor: Arc::new(processor), scope, closing })
    }

    /// Takes a span, or drops it where too many wait.
    pub(super) fn take(&self, span: Span) {
        self.processor.on_end(data(span, self.scope.clone()));
    }

    /// Sends what waits, within [`PATIENCE`].
    pub(super) async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let processor = Arc::clone(&self.processor);
        // It blocks its thread for as long, and logs by itself what went wrong.
        let _ = tokio::task::spawn_blocking(move || processor.shutdown_with_timeout(PATIENCE)).await;
    }
}

/// Returns what all spans of this process have in common. The environment's names go before the program's.
fn resource(service: &str) -> Resource {
    let is_named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|list| list.contains("service.name="));
    let builder = Resource::builder();
    let builder = if is_named { builder } else { builder.with_service_name(service.to_owned()) };
    builder.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build()
}

fn data(span: Span, scope: InstrumentationScope) -> SpanData {
    let trace = opentelemetry::TraceId::from_bytes(span.trace.to_bytes());
    let id = |id: super::SpanId| opentelemetry::SpanId::from_bytes(id.to_bytes());
    let mut attributes: Vec<KeyValue> = Vec::with_capacity(span.attributes.len() + 1);
    attributes.extend(span.attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
    }));
    let status = match span.error {
        None => Status::Unset,
        Some(class) => {
            attributes.push(KeyValue::new("error.type", class.clone()));
            Status::error(class)
        }
    };
    SpanData {
        span_context: SpanContext::new(trace, id(span.id), TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: span.parent.map_or(opentelemetry::SpanId::INVALID, id),
        parent_span_is_remote: span.parent.is_some() && span.kind != Kind::Client,
        span_kind: match span.kind {
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Client => SpanKind::Client,
        },
        name: span.name,
        start_time: SystemTime::from(span.started_at),
        end_time: SystemTime::from(span.ended_at.max(span.started_at)),
        attributes,
        dropped_attributes_count: 0,
        events: trace::SpanEvents::default(),
        links: trace::SpanLinks::default(),
        status,
        instrumentation_scope: scope,
    }
}

/// The exporter, with one line in the log when the collector goes and one when it is back.
#[derive(Debug)]
struct Exporter {
    inner: SpanExporter,
    /// Spans that were dropped since it answered last.
    dropped: AtomicU64,
    /// Set when the process ends: a collector that is away is asked no more.
    closing: Arc<AtomicBool>,
}

impl trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        if self.closing.load(Ordering::Relaxed) && self.dropped.load(Ordering::Relaxed) > 0 {
            self.dropped.fetch_add(count, Ordering::Relaxed);
            return Ok(());
        }
        match trace::SpanExporter::export(&self.inner, batch).await {
            Ok(()) => {
                let dropped = self.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    tracing::warn!(dropped, "the collector of traces takes them again");
                }
            }
            Err(error) => {
                if self.dropped.fetch_add(count, Ordering::Relaxed) == 0 {
                    // Its own text names the address, which may hold a password.
                    let why = match error {
                        OTelSdkError::Timeout(_) => "it does not answer in time",
                        _ => "it cannot be reached, or refuses them",
                    };
                    tracing::warn!(why, "the collector takes no traces, they are dropped until it does");
                }
            }
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "spans dropped, the collector did not take them");
        }
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
