//! The span with which each job's trace begins: from when it begins to be recorded until the broker has confirmed it.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gristmill_common::clock::Clock;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::Job;
use gristmill_common::trace::{Kind, Span, SpanId, TraceId, Tracer};

/// The jobs of a chunk of which traces are recorded.
#[derive(Debug)]
pub(super) struct Submissions {
    jobs: Vec<(JobId, BatchId, Arc<str>)>,
    began_at: DateTime<Utc>,
}

impl Submissions {
    /// Notes which of these jobs are traced.
    pub(super) fn of(tracer: &Tracer, jobs: &[Job], began_at: DateTime<Utc>) -> Self {
        let traced = jobs.iter().filter(|job| tracer.parent(job.id, None).is_some());
        let jobs = traced.map(|job| (job.id, job.batch, Arc::clone(&job.lane.group))).collect();
        Self { jobs, began_at }
    }

    /// Records that they are in the queue.
    pub(super) fn confirmed(self, tracer: &Tracer, clock: &dyn Clock) {
        let ended_at = clock.now();
        for (job, batch, group) in self.jobs {
            tracer.record(span(job, batch, &group, (self.began_at, ended_at)));
        }
    }
}

fn span(job: JobId, batch: BatchId, group: &str, (started_at, ended_at): (DateTime<Utc>, DateTime<Utc>)) -> Span {
    Span {
        trace: TraceId::of(job),
        id: SpanId::root(job),
        parent: None,
        kind: Kind::Producer,
        name: Cow::Borrowed("submit"),
        started_at,
        ended_at,
        attributes: vec![
            ("gristmill.job", job.to_string().into()),
            ("gristmill.batch", batch.to_string().into()),
            ("gristmill.group", group.into()),
        ],
        error: None,
    }
}
