//! What traces tell of a job's stay at a worker: a span from its admission to the commit, and one for each call within it.
//!
//! Nothing is done for it while the job is worked; the spans are made of what was committed. Requests, answers, keys and what
//! providers say of errors are in none.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use gristmill_common::clock::Clock;
use gristmill_common::outcome::{AttemptRecord, Status};
use gristmill_common::store::{End, Settlement, Ticket};
use gristmill_common::trace::{Kind, Span, SpanId, Traceparent, Tracer};

/// How the run of a job that comes back later left this worker.
const WAITING: &str = "waiting";

/// A job's stay at this worker, of which a trace is to tell.
#[derive(Debug)]
pub(crate) struct Stay {
    parent: Traceparent,
    started_at: DateTime<Utc>,
    operation: &'static str,
}

/// Makes the spans of what was committed.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    tracer: Tracer,
    clock: Arc<dyn Clock>,
}

impl Recorder {
    pub(crate) fn new(tracer: Tracer, clock: Arc<dyn Clock>) -> Self {
        Self { tracer, clock }
    }

    /// Returns what to keep of a job that was admitted, if a trace is to tell of it.
    pub(crate) fn stay(&self, ticket: &Ticket, started_at: DateTime<Utc>) -> Option<Box<Stay>> {
        let request = &ticket.request;
        let parent = self.tracer.parent(ticket.job.id, request.options.traceparent())?;
        Some(Box::new(Stay { parent, started_at, operation: operation(&request.endpoint) }))
    }

    /// Records settlements that are committed.
    pub(crate) fn committed<'a>(&self, settlements: impl Iterator<Item = (&'a Settlement, Option<&'a Stay>)>) {
        if !self.tracer.is_on() {
            return;
        }
        let now = self.clock.now();
        for (settlement, stay) in settlements {
            let spans = stay.map(|stay| spans(stay, settlement, now));
            spans.into_iter().flatten().for_each(|span| self.tracer.record(span));
        }
    }
}

/// Returns the spans of a stay, the stay itself first.
fn spans(stay: &Stay, settlement: &Settlement, ended_at: DateTime<Utc>) -> Vec<Span> {
    let job = &settlement.job;
    let (status, error) = match &settlement.end {
        End::Wake(_) => (WAITING, None),
        End::Result(result) => {
            let error = result.error.as_ref().filter(|_| matches!(result.status, Status::Failed | Status::Expired));
            (result.status.as_str(), error.map(|error| error.class.as_str().to_owned()))
        }
    };
    let id = SpanId::derive(job.id, "run", &[job.run.into(), nanos(stay.started_at)]);
    let mut attributes = vec![
        ("gristmill.job", job.id.to_string().into()),
        ("gristmill.batch", job.batch.to_string().into()),
        ("gristmill.group", (&*job.lane.group).into()),
        ("gristmill.run", job.run.into()),
        ("gristmill.status", status.into()),
    ];
    if matches!(&settlement.end, End::Result(result) if result.cached) {
        attributes.push(("gristmill.cached", "true".into()));
    }
    let run = Span {
        trace: stay.parent.trace,
        id,
        parent: Some(stay.parent.span),
        kind: Kind::Consumer,
        name: Cow::Borrowed("run"),
        started_at: stay.started_at,
        ended_at,
        attributes,
        error,
    };
    let calls = settlement.attempts.iter().map(|attempt| call(stay, settlement, id, attempt));
    std::iter::once(run).chain(calls).collect()
}

/// Returns the span of a call, in the words of the conventions for generative AI
/// (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/>, read 2026-11).
fn call(stay: &Stay, settlement: &Settlement, parent: SpanId, attempt: &AttemptRecord) -> Span {
    let job = &settlement.job;
    let status = if attempt.error.is_some() { Status::Failed } else { Status::Succeeded };
    let mut attributes = vec![
        ("gen_ai.operation.name", stay.operation.into()),
        ("gen_ai.provider.name", provider(&attempt.provider).into()),
        ("gen_ai.request.model", (&*attempt.model).into()),
        ("gristmill.job", job.id.to_string().into()),
        ("gristmill.batch", job.batch.to_string().into()),
        ("gristmill.deployment", (&*attempt.deployment).into()),
        ("gristmill.attempt", attempt.attempt.into()),
        ("gristmill.status", status.as_str().into()),
    ];
    let told = [
        ("gen_ai.usage.input_tokens", attempt.usage.input_tokens),
        ("gen_ai.usage.output_tokens", attempt.usage.output_tokens),
        ("http.response.status_code", attempt.http_status.map(u32::from)),
    ];
    attributes.extend(told.into_iter().filter_map(|(name, number)| Some((name, number?.into()))));
    attributes.extend(attempt.served_model.as_deref().map(|model| ("gen_ai.response.model", model.into())));
    Span {
        trace: stay.parent.trace,
        id: SpanId::derive(job.id, "call", &[job.run.into(), attempt.attempt.into(), nanos(attempt.started_at)]),
        parent: Some(parent),
        kind: Kind::Client,
        name: Cow::Owned(format!("{} {}", stay.operation, attempt.model)),
        started_at: attempt.started_at,
        ended_at: attempt.started_at + TimeDelta::milliseconds(attempt.latency_ms.into()),
        attributes,
        error: attempt.error.as_ref().map(|error| error.class.as_str().to_owned()),
    }
}

/// Returns what a call of this path does, in the conventions' words.
fn operation(endpoint: &str) -> &'static str {
    match endpoint.strip_prefix("/v1").unwrap_or(endpoint) {
        "/chat/completions" | "/responses" | "/messages" => "chat",
        "/completions" => "text_completion",
        "/embeddings" => "embeddings",
        _ => "generate_content",
    }
}

/// Returns a provider's name in the conventions' words.
fn provider(kind: &str) -> &str {
    match kind {
        "azure" => "azure.ai.openai",
        kind => kind,
    }
}

fn nanos(at: DateTime<Utc>) -> i64 {
    at.timestamp_nanos_opt().unwrap_or_else(|| at.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gristmill_common::failure::{ErrorClass, ErrorRecord};
    use gristmill_common::id::{BatchId, JobId};
    use gristmill_common::job::{JobRef, LaneKey, Priority};
    use gristmill_common::outcome::JobResult;
    use gristmill_common::store::Wake;
    use gristmill_common::trace::Value;

    fn settlement(end: End) -> Settlement {
        let batch = BatchId::new(DateTime::UNIX_EPOCH);
        let lane = LaneKey { group: "m".into(), priority: Priority::Bulk, lane: 0 };
        let job = JobRef { id: JobId::derive(batch, 0), batch, run: 1, lane };
        Settlement { job, tags: "".into(), spends: None, attempts: Vec::new(), caching: None, end }
    }

    #[test]
    fn a_stay_says_how_it_ended_and_what_failed() {
        let error = || ErrorRecord::new(ErrorClass::Timeout, "the text of a provider");
        let ended = |status| End::Result(Box::new(JobResult::without_answer(status, error(), 0, DateTime::UNIX_EPOCH)));
        let answered =
            JobResult { error: None, ..JobResult::without_answer(Status::Succeeded, error(), 1, DateTime::UNIX_EPOCH) };
        let wake = Wake {
            after: std::time::Duration::ZERO,
            reason: "retry after Timeout".to_owned(),
            calls: 1,
            attempts: 1,
            faults: 0,
            earlier: Vec::new(),
            spent_pico_usd: None,
        };
        for (end, status, failed, cached) in [
            (End::Result(Box::new(answered.clone())), "succeeded", None, false),
            (End::Result(Box::new(JobResult { cached: true, ..answered })), "succeeded", None, true),
            (ended(Status::Failed), "failed", Some("Timeout"), false),
            (ended(Status::Expired), "expired", Some("Timeout"), false),
            (ended(Status::Cancelled), "cancelled", None, false),
            (End::Wake(wake), "waiting", None, false),
        ] {
            let settlement = settlement(end);
            let job = settlement.job.id;
            let parent = Traceparent::of(job, true);
            let stay = Stay { parent, started_at: DateTime::UNIX_EPOCH, operation: "chat" };
            let [run] = &*spans(&stay, &settlement, DateTime::UNIX_EPOCH) else { panic!("no call was made") };
            let find = |name| run.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
            assert_eq!(find("gristmill.status"), Some(Value::from(status)));
            assert_eq!(find("gristmill.cached").is_some(), cached, "{status}");
            assert_eq!(run.error.as_deref(), failed, "{status}");
            assert_eq!((run.trace, run.parent), (parent.trace, Some(SpanId::root(job))));
        }
    }

    #[test]
    fn calls_and_providers_are_named_as_the_conventions_do() {
        for (endpoint, expected) in [
            ("/v1/chat/completions", "chat"),
            ("/chat/completions", "chat"),
            ("/v1/responses", "chat"),
            ("/v1/messages", "chat"),
            ("/v1/completions", "text_completion"),
            ("/v1/embeddings", "embeddings"),
            ("/v1/images/generations", "generate_content"),
        ] {
            assert_eq!(operation(endpoint), expected, "{endpoint}");
        }
        assert_eq!(["openai", "azure", "anthropic"].map(provider), ["openai", "azure.ai.openai", "anthropic"]);
    }
}
