//! Traces: one for each job, from its submission to its result, over all processes that have to do with it.
//!
//! A job's trace id is the job's id, and its root span's id follows from that: nothing has to be kept or sent for its spans to
//! meet, whoever makes them, and a message that is published again carries the same `traceparent`. A job that another program put
//! into the queue with a `traceparent` of its own belongs to that one's trace instead.
//!
//! Spans are made afterwards, of times that are known by then, so that nothing waits for them. They hold names and numbers, and
//! nothing of requests and answers. If the process dies, those that were not sent yet are lost with it. What sends them is built
//! in with the feature `otlp`; all else here is always there.

#[cfg(feature = "otlp")]
mod otlp;
mod parent;
mod sampler;
mod settings;
mod span;
mod tracer;

pub use parent::{SpanId, TraceId, Traceparent};
pub use span::{Kind, Span, Value};
pub use tracer::Tracer;
