//! A store and a broker in memory whose faults tests choose.
//!
//! There is one batch, whose jobs nobody works; what a submission does not use says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use gristmill_common::batch::{Batch, BatchState, Counters, NewBatch};
use gristmill_common::broker::{self, Aside, AsideMessage, Broker, Confirm, Consumer, Drift, Outgoing, Pieces};
use gristmill_common::id::{BatchId, JobId, OwnerId, PartDay};
use gristmill_common::job::{Identity, Job, JobRef, LaneKey, StreamId};
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::quota::{self, Limits};
use gristmill_common::store::{
    Arrival, BatchSelector, Burial, Chunk, Cursor, DeadLetter, DeploymentReport, DroppedPartition, Due, Error,
    ErrorCount, Flushed, Forgotten, HistoryScope, JobDetail, JobLine, JobSelector, Keepership, Opened, Page, PastRun,
    Progress, Recorded, Renewal, Result, Sealed, Settlement, Store, Stripped, Unpublished, Verdict, Wait, WorkerInfo,
    WorkerRow,
};
use tokio::sync::watch;

mod books;

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) batch: Option<Batch>,
    pub(crate) producer: Option<OwnerId>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) deferred: Vec<JobId>,
    pub(crate) results: Vec<ResultRow>,
    pub(crate) sealed: u32,
    pub(crate) left: u32,
    /// `published_through` of each chunk, in order.
    pub(crate) throughs: Vec<u64>,
    /// What the next calls of `record` answer instead of recording.
    pub(crate) record_answers: VecDeque<Recorded>,
    /// Who takes the batch at the next seal: nobody, so that it is free, or another producer.
    pub(crate) lost_at_seal: Option<Option<OwnerId>>,
}

#[derive(Debug)]
pub(crate) struct FakeStore {
    pub(crate) state: Mutex<State>,
    hints: watch::Sender<u64>,
}

impl Default for FakeStore {
    fn default() -> Self {
        Self { state: Mutex::default(), hints: watch::Sender::new(0) }
    }
}

impl FakeStore {
    pub(crate) fn tell(&self) {
        self.hints.send_modify(|hint| *hint += 1);
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn open_batch(&self, new: &NewBatch, _: Duration) -> Result<Opened> {
        let mut state = self.state.lock().unwrap();
        let Some(batch) = state.batch.clone() else {
            let batch = Batch {
                id: new.id,
                name: new.name.clone(),
                project: None,
                priority: new.priority,
                simulated: new.simulated,
                state: BatchState::Submitting,
                recorded: 0,
                published_through: 0,
                total: None,
                counters: Counters::default(),
                calls: 0,
                input_tokens: 0,
                output_tokens: 0,
                cost_pico_usd: Some(0),
                saved_pico_usd: 0,
                created_at: new.created_at,
                finished_at: None,
                cancel_requested_at: None,
            };
            state.batch = Some(batch.clone());
            state.producer = Some(new.producer);
            return Ok(Opened::Created(batch));
        };
        if state.producer.is_some_and(|producer| producer != new.producer) {
            return Ok(Opened::Busy(batch));
        }
        state.producer = Some(new.producer);
        Ok(Opened::Resumed(batch))
    }

    async fn record(&self, chunk: Chunk<'_>) -> Result<Recorded> {
        tokio::task::yield_now().await;
        let mut state = self.state.lock().unwrap();
        if let Some(answer) = state.record_answers.pop_front() {
            return Ok(answer);
        }
        if state.producer != Some(chunk.producer) {
            return Ok(Recorded::LostProducer);
        }
        assert_eq!(chunk.first_ordinal, state.jobs.len() as u64, "a chunk begins where the last one ended");
        assert!(chunk.published_through <= chunk.first_ordinal);
        state.throughs.push(chunk.published_through);
        state.jobs.extend_from_slice(chunk.jobs);
        let recorded = state.jobs.len() as u64;
        let batch = state.batch.as_mut().unwrap();
        batch.recorded = recorded;
        batch.published_through = batch.published_through.max(chunk.published_through);
        batch.total = None;
        Ok(Recorded::Committed)
    }

    async fn mark_published(&self, _: BatchId, through: u64) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let batch = state.batch.as_mut().unwrap();
        batch.published_through = batch.published_through.max(through);
        Ok(())
    }

    async fn defer(&self, jobs: &[JobRef], _: Duration, _: &str) -> Result<()> {
        self.state.lock().unwrap().deferred.extend(jobs.iter().map(|job| job.id));
        Ok(())
    }

    async fn seal(&self, _: BatchId, producer: OwnerId) -> Result<Sealed> {
        let mut state = self.state.lock().unwrap();
        if let Some(other) = state.lost_at_seal.take() {
            state.producer = other;
            return Ok(Sealed::LostProducer);
        }
        assert_eq!(state.producer.take(), Some(producer));
        state.sealed += 1;
        let batch = state.batch.as_mut().unwrap();
        batch.total = Some(batch.recorded);
        batch.published_through = batch.recorded;
        Ok(Sealed::Committed)
    }

    async fn leave(&self, _: BatchId, producer: OwnerId) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.producer == Some(producer) {
            state.producer = None;
            state.left += 1;
        }
        Ok(())
    }

    async fn renew_producer(&self, _: BatchId, _: OwnerId, _: Duration) -> Result<()> {
        Ok(())
    }

    async fn custom_ids(&self, _: BatchId, jobs: &[JobId]) -> Result<Vec<String>> {
        let state = self.state.lock().unwrap();
        Ok(state.jobs.iter().filter(|job| jobs.contains(&job.id)).map(|job| job.custom_id.clone()).collect())
    }

    async fn identities(&self, _: BatchId, after: Option<JobId>, limit: u32) -> Result<Vec<(JobId, Identity)>> {
        let state = self.state.lock().unwrap();
        let simulated = state.batch.as_ref().unwrap().simulated;
        let above = state.jobs.iter().filter(|job| after.is_none_or(|after| job.id > after));
        Ok(above.take(limit as usize).map(|job| (job.id, job.identity(simulated))).collect())
    }

    async fn batch(&self, _: &BatchSelector) -> Result<Option<Batch>> {
        Ok(self.state.lock().unwrap().batch.clone())
    }

    async fn results_after(&self, _: BatchId, cursor: Cursor, limit: u32) -> Result<Page> {
        let state = self.state.lock().unwrap();
        let start = usize::try_from(cursor.seq).unwrap();
        let rows: Vec<ResultRow> = state.results.iter().skip(start).take(limit as usize).cloned().collect();
        let end = start + rows.len();
        Ok(Page { rows, cursor: Cursor { xid: 0, seq: end as i64 }, more: end < state.results.len() })
    }

    fn hints(&self) -> watch::Receiver<u64> {
        self.hints.subscribe()
    }

    async fn unfinished(
        &self,
        batch: BatchId,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<(Vec<JobRef>, Option<JobId>)> {
        let state = self.state.lock().unwrap();
        let above = state.jobs.iter().filter(|job| after.is_none_or(|after| job.id > after));
        let jobs: Vec<JobRef> = above
            .take(limit as usize)
            .map(|job| JobRef { id: job.id, batch, run: 1, lane: job.lane.clone() })
            .collect();
        let next = (jobs.len() == limit as usize).then(|| jobs[jobs.len() - 1].id);
        Ok((jobs, next))
    }

    async fn batches(&self, _: u32) -> Result<Vec<Batch>> {
        Ok(self.state.lock().unwrap().batch.clone().into_iter().collect())
    }

    async fn migrate(&self) -> Result<Vec<i64>> {
        Ok(Vec::new())
    }
    async fn check_schema(&self) -> Result<()> {
        Ok(())
    }
    async fn open_reruns(&self, _: BatchId, _: Option<JobId>, _: u32) -> Result<Vec<(JobId, u32)>> {
        Ok(Vec::new())
    }
    async fn errors(&self, _: BatchId, _: u32) -> Result<Vec<ErrorCount>> {
        Err(Error::Setup(not_for("errors")))
    }
    async fn progress(&self, _: BatchId) -> Result<Progress> {
        Err(Error::Setup(not_for("progress")))
    }
    async fn waits(&self, _: BatchId, _: u32) -> Result<Vec<Wait>> {
        Ok(Vec::new())
    }
    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        Ok(Vec::new())
    }
    async fn paused_deployments(&self) -> Result<Vec<DeploymentReport>> {
        Ok(Vec::new())
    }
    async fn cancel(&self, _: BatchId) -> Result<bool> {
        Err(Error::Setup(not_for("cancel")))
    }
    async fn retry(&self, _: BatchId, _: &[Status], _: Cursor, _: u32) -> Result<(u64, Option<Cursor>)> {
        Err(Error::Setup(not_for("retry")))
    }
    async fn retry_jobs(&self, _: BatchId, _: &[Status], _: &[JobId]) -> Result<u64> {
        Err(Error::Setup(not_for("retry_jobs")))
    }
    async fn find_jobs(&self, _: &JobSelector, _: u32) -> Result<Vec<(BatchId, JobId)>> {
        Err(Error::Setup(not_for("find_jobs")))
    }
    async fn job(&self, _: BatchId, _: JobId) -> Result<Option<JobDetail>> {
        Err(Error::Setup(not_for("job")))
    }
    async fn jobs(&self, _: BatchId, _: Option<&[Status]>, _: Option<JobId>, _: u32) -> Result<Vec<JobLine>> {
        Err(Error::Setup(not_for("jobs")))
    }
    async fn history(&self, _: &HistoryScope, _: u32) -> Result<Vec<PastRun>> {
        Err(Error::Setup(not_for("history")))
    }
    async fn resume(&self, _: Option<&str>) -> Result<Vec<DeploymentReport>> {
        Ok(Vec::new())
    }
    async fn ended_before(&self, _: DateTime<Utc>, _: u32) -> Result<Vec<Batch>> {
        Err(Error::Setup(not_for("ended_before")))
    }
    async fn forget(&self, _: BatchId, _: u32) -> Result<Forgotten> {
        Err(Error::Setup(not_for("forget")))
    }
    async fn strip(&self, _: BatchId, _: Option<JobId>, _: u32) -> Result<Stripped> {
        Err(Error::Setup(not_for("strip")))
    }
    async fn forget_project(&self, _: &str) -> Result<u64> {
        Err(Error::Setup(not_for("forget_project")))
    }
    async fn drop_empty_partitions(&self, _: PartDay) -> Result<Vec<DroppedPartition>> {
        Ok(Vec::new())
    }
    async fn register(&self, _: &WorkerInfo, _: Duration) -> Result<()> {
        Err(Error::Setup(not_for("register")))
    }
    async fn renew(&self, _: OwnerId, _: Duration, _: u32, _: &[DeploymentReport]) -> Result<Renewal> {
        Err(Error::Setup(not_for("renew")))
    }
    async fn lease_quota(&self, _: OwnerId, _: &[quota::Ask]) -> Result<Vec<quota::Grant>> {
        Ok(Vec::new())
    }
    async fn set_limits(&self, _: &str, _: Option<Limits>, _: &str) -> Result<()> {
        Ok(())
    }
    async fn standings(&self) -> Result<Vec<quota::Standing>> {
        Ok(Vec::new())
    }
    async fn deregister(&self, _: OwnerId) -> Result<()> {
        Err(Error::Setup(not_for("deregister")))
    }
    async fn admit(&self, _: OwnerId, _: Vec<Arrival>) -> Result<Vec<Verdict>> {
        Err(Error::Setup(not_for("admit")))
    }
    async fn calling(&self, _: OwnerId, _: JobId, _: Option<i64>) -> Result<bool> {
        Err(Error::Setup(not_for("calling")))
    }
    async fn flush(&self, _: OwnerId, _: &[Settlement]) -> Result<Flushed> {
        Err(Error::Setup(not_for("flush")))
    }
    async fn keep(&self, _: OwnerId, _: Duration) -> Result<Keepership> {
        Err(Error::Setup(not_for("keep")))
    }
    async fn bury(&self, _: u32, _: u32) -> Result<Burial> {
        Err(Error::Setup(not_for("bury")))
    }
    async fn due(&self, _: u32) -> Result<Vec<Due>> {
        Err(Error::Setup(not_for("due")))
    }
    async fn mark_queued(&self, _: &[Due]) -> Result<()> {
        Err(Error::Setup(not_for("mark_queued")))
    }
    async fn unpublished(&self, _: u32) -> Result<Option<Unpublished>> {
        Err(Error::Setup(not_for("unpublished")))
    }
    async fn close_cancelled(&self, _: u32) -> Result<u64> {
        Err(Error::Setup(not_for("close_cancelled")))
    }
    async fn close_expired(&self, _: u32) -> Result<u64> {
        Err(Error::Setup(not_for("close_expired")))
    }
    async fn bury_letter(&self, _: &DeadLetter) -> Result<()> {
        Err(Error::Setup(not_for("bury_letter")))
    }
    async fn ensure_partitions(&self, _: PartDay) -> Result<()> {
        Ok(())
    }
    async fn requeue(&self, _: BatchId) -> Result<u64> {
        Ok(0)
    }
}

/// Says that a method is none that a submission calls.
fn not_for(method: &str) -> String {
    format!("a submission does not call `{method}`, and nothing stands in for it here")
}

/// What the broker does with one call of `publish`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It takes the messages, but the answer is lost.
    LostAnswer,
    /// The queue refuses every message.
    Refuse,
    /// There is no queue.
    Unroutable,
}

#[derive(Debug, Default)]
pub(crate) struct FakeBroker {
    pub(crate) published: Mutex<Vec<Outgoing>>,
    pub(crate) declared: Mutex<Vec<String>>,
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    pub(crate) depths: Mutex<BTreeMap<u8, u64>>,
}

impl FakeBroker {
    /// Returns the ids of all published jobs, sorted, each once.
    pub(crate) fn jobs(&self) -> Vec<JobId> {
        let published = self.published.lock().unwrap();
        let read = |message: &Outgoing| gristmill_common::envelope::read(&message.payload).unwrap();
        let mut jobs: Vec<JobId> = published.iter().flat_map(read).map(|arrival| arrival.job.id).collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs
    }
}

#[async_trait]
impl Broker for FakeBroker {
    async fn declare(&self, groups: &[String]) -> broker::Result<()> {
        self.declared.lock().unwrap().extend_from_slice(groups);
        Ok(())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> broker::Result<Vec<Confirm>> {
        tokio::task::yield_now().await;
        let fault = self.faults.lock().unwrap().pop_front();
        let answers = messages.len();
        match fault {
            Some(Fault::Refuse) => return Ok(vec![Confirm::Refused; answers]),
            Some(Fault::Unroutable) => return Ok(vec![Confirm::Unroutable; answers]),
            Some(Fault::LostAnswer) | None => self.published.lock().unwrap().extend(messages),
        }
        if fault.is_some() {
            return Err(broker::Error::Unavailable { doing: "publishing", reason: "connection reset".to_owned() });
        }
        Ok(vec![Confirm::Confirmed; answers])
    }

    async fn depths(&self, lanes: &[LaneKey]) -> broker::Result<Vec<u64>> {
        let depths = self.depths.lock().unwrap();
        Ok(lanes.iter().map(|lane| depths.get(&lane.lane).copied().unwrap_or(0)).collect())
    }

    fn tell(&self, _: StreamId, _: Bytes) {}

    async fn listen(&self, _: StreamId) -> broker::Result<Box<dyn Pieces>> {
        Err(broker::Error::Setup(not_for("listen")))
    }
    async fn consume(&self, _: &str, _: u16) -> broker::Result<Box<dyn Consumer>> {
        Err(broker::Error::Setup(not_for("consume")))
    }
    async fn put_aside(&self, _: Aside, _: &str, _: &str, _: Bytes) -> broker::Result<()> {
        Err(broker::Error::Setup(not_for("put_aside")))
    }
    async fn take_aside(&self, _: Aside, _: u32) -> broker::Result<Vec<AsideMessage>> {
        Ok(Vec::new())
    }
    async fn check(&self) -> broker::Result<()> {
        Ok(())
    }
    async fn drift(&self, _: &[String]) -> broker::Result<Vec<Drift>> {
        Ok(Vec::new())
    }
    async fn shutdown(&self) {}
}
