//! Which calls a command looks at: of a batch, a project, a time.

use chrono::{DateTime, Utc};
use gristmill_common::backend::Backend;
use gristmill_common::batch::Batch;
use gristmill_common::store::UsageScope;
use gristmill_producer::Producer;
use serde_json::{Value, json};

use super::fault::Fault;
use super::when::{self, When};

/// The flags that say which calls are looked at.
#[derive(Debug, clap::Args)]
pub(super) struct ScopeArgs {
    /// Only this batch: its name, its id, the beginning of its id, or @last
    #[arg(value_name = "BATCH")]
    batch: Option<String>,
    /// Only batches of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Only what ended then or later: 8h ago, 2026-12-01, or 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = when::past)]
    since: Option<When>,
    /// Only what ended before: 1h ago, 2026-12-02, or 2026-12-02T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = when::past)]
    until: Option<When>,
}

/// Which calls are looked at.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) usage: UsageScope,
    pub(super) batch: Option<Batch>,
}

impl ScopeArgs {
    /// Finds what the flags name.
    pub(super) async fn find(&self, backend: &Backend, now: DateTime<Utc>) -> Result<Scope, Fault> {
        let (since, until) = (self.since.map(|when| when.before(now)), self.until.map(|when| when.before(now)));
        if since.zip(until).is_some_and(|(since, until)| since >= until) {
            return Err(Fault::new("--since is not before --until"));
        }
        let batch = match &self.batch {
            Some(batch) => Some(Producer::on(backend).batch(&Producer::selector(batch)).await?),
            None => None,
        };
        let usage = UsageScope {
            batch: batch.as_ref().map(|batch| batch.id),
            project: self.project.clone(),
            since,
            until,
            without_durations: false,
        };
        Ok(Scope { usage, batch })
    }
}

impl Scope {
    /// Says what is looked at, where that is not everything: `sweep-7, project web, since 2026-12-01 08:00:00Z`.
    pub(super) fn describe(&self) -> Option<String> {
        let time = |time: &DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%SZ").to_string();
        let UsageScope { since, until, .. } = &self.usage;
        let parts = [
            self.whose(),
            since.as_ref().map(|since| format!("since {}", time(since))),
            until.as_ref().map(|until| format!("until {}", time(until))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Says the same without the times.
    pub(super) fn whose(&self) -> Option<String> {
        let project = self.usage.project.as_ref().map(|project| format!("project {project}"));
        let parts: Vec<String> = self.batch.iter().map(|batch| batch.name.clone()).chain(project).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    pub(super) fn json(&self) -> Value {
        let UsageScope { batch: id, project, since, until, .. } = &self.usage;
        let name = self.batch.as_ref().map(|batch| &batch.name);
        json!({ "batch": name, "batch_id": id, "project": project, "since": since, "until": until })
    }
}
