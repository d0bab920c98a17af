//! The message: one or more jobs of one batch, model group, priority and lane, as JSON.
//!
//! Owns the format, versioned by its `v`; the JSON Schema is `docs/message.schema.json`. A body's bytes stand in the message
//! as they were submitted and are never re-encoded. Unknown fields are ignored, so a later minor version may add some; a
//! later major version is not read at all, it waits for a worker that can.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{BatchId, JobId};
use crate::job::{Job, JobOptions, JobRef, LaneKey, Priority};
use crate::store::{Arrival, Request};

/// The major version that this program writes and reads.
pub const VERSION: u32 = 1;

/// Largest message that is published, in bytes. RabbitMQ 4 refuses messages above 16 MiB by default
/// (<https://www.rabbitmq.com/docs/configure>, `max_message_size`, read 2026-11).
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Why a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its major version is later than [`VERSION`]; it waits.
    #[error("the message is of version {0}, this program reads version {VERSION}")]
    Future(u32),
    /// It is no envelope. The jobs whose ids could be read come with it.
    #[error("the message cannot be read: {reason}")]
    Unreadable {
        /// What is wrong.
        reason: String,
        /// The jobs that could be told.
        jobs: Vec<JobRef>,
    },
}

#[derive(Serialize)]
struct EnvelopeOut<'a> {
    v: u32,
    batch: BatchId,
    group: &'a str,
    priority: Priority,
    lane: u8,
    recorded: bool,
    jobs: Vec<JobOut<'a>>,
}

#[derive(Serialize)]
struct JobOut<'a> {
    id: JobId,
    #[serde(skip_serializing_if = "is_one")]
    run: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestOut<'a>>,
}

#[derive(Serialize)]
struct RequestOut<'a> {
    custom_id: &'a str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    options: &'a JobOptions,
    body: &'a RawValue,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_one(run: &u32) -> bool {
    *run == 1
}

fn is_default(options: &&JobOptions) -> bool {
    **options == JobOptions::default()
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Deserialize)]
struct EnvelopeIn<'a> {
    batch: Option<BatchId>,
    group: String,
    #[serde(default)]
    priority: Priority,
    #[serde(default)]
    lane: u8,
    #[serde(default)]
    recorded: bool,
    #[serde(borrow)]
    jobs: Vec<JobIn<'a>>,
}

#[derive(Deserialize)]
struct JobIn<'a> {
    id: JobId,
    #[serde(default = "one")]
    run: u32,
    #[serde(borrow)]
    request: Option<RequestIn<'a>>,
}

#[derive(Deserialize)]
struct RequestIn<'a> {
    custom_id: String,
    endpoint: String,
    #[serde(default)]
    options: JobOptions,
    #[serde(borrow)]
    body: &'a RawValue,
}

const fn one() -> u32 {
    1
}

/// What can still be read of a message that is no envelope.
#[derive(Deserialize)]
struct Remains {
    batch: Option<serde_json::Value>,
    group: Option<serde_json::Value>,
    jobs: Option<Vec<serde_json::Value>>,
}

/// Writes a message that carries its requests.
///
/// All jobs must be of one batch and lane. A body that is not JSON is an error of the caller's reading.
pub fn write(jobs: &[Job]) -> Result<Bytes, serde_json::Error> {
    let Some(first) = jobs.first() else { return Ok(Bytes::new()) };
    let mut out = Vec::with_capacity(jobs.len());
    for job in jobs {
        let body: &RawValue = serde_json::from_slice(&job.body)?;
        out.push(JobOut {
            id: job.id,
            run: 1,
            request: Some(RequestOut {
                custom_id: &job.custom_id,
                endpoint: &job.endpoint,
                options: &job.options,
                body,
            }),
        });
    }
    encode(first.batch, &first.lane, out)
}

/// Writes a message that refers to recorded jobs. All must be of one batch and lane.
pub fn write_references(jobs: &[JobRef]) -> Result<Bytes, serde_json::Error> {
    let Some(first) = jobs.first() else { return Ok(Bytes::new()) };
    encode(
        first.batch,
        &first.lane,
        jobs.iter().map(|job| JobOut { id: job.id, run: job.run, request: None }).collect(),
    )
}

fn encode(batch: BatchId, lane: &LaneKey, jobs: Vec<JobOut<'_>>) -> Result<Bytes, serde_json::Error> {
    let envelope = EnvelopeOut {
        v: VERSION,
        batch,
        group: &lane.group,
        priority: lane.priority,
        lane: lane.lane,
        recorded: true,
        jobs,
    };
    serde_json::to_vec(&envelope).map(Bytes::from)
}

/// Reads a message. Bodies are slices of `payload`, not copies.
pub fn read(payload: &Bytes) -> Result<Vec<Arrival>, Error> {
    let version = serde_json::from_slice::<Version>(payload);
    match version {
        Ok(Version { v }) if v > VERSION => return Err(Error::Future(v)),
        Ok(Version { v: VERSION }) => {}
        Ok(Version { v }) => return Err(unreadable(payload, format!("there is no version {v}"))),
        Err(error) => return Err(unreadable(payload, error.to_string())),
    }
    let envelope: EnvelopeIn<'_> =
        serde_json::from_slice(payload).map_err(|error| unreadable(payload, error.to_string()))?;
    if envelope.lane >= envelope.priority.lanes() {
        let reason = format!("priority {} has no lane {}", envelope.priority, envelope.lane);
        return Err(unreadable(payload, reason));
    }
    if envelope.jobs.is_empty() {
        return Err(unreadable(payload, "it holds no jobs".to_owned()));
    }
    let lane = LaneKey { group: Arc::from(envelope.group.as_str()), priority: envelope.priority, lane: envelope.lane };
    let arrivals = envelope.jobs.into_iter().map(|job| Arrival {
        job: JobRef {
            id: job.id,
            batch: envelope.batch.unwrap_or_else(|| BatchId::adhoc(job.id.part_day())),
            run: job.run.max(1),
            lane: lane.clone(),
        },
        request: job.request.map(|request| Request {
            custom_id: request.custom_id,
            endpoint: request.endpoint,
            body: payload.slice_ref(request.body.get().as_bytes()),
            options: request.options,
        }),
        recorded: envelope.recorded,
    });
    Ok(arrivals.collect())
}

/// Collects what jobs can be told from a message that is no envelope.
fn unreadable(payload: &[u8], reason: String) -> Error {
    let mut jobs = Vec::new();
    if let Ok(remains) = serde_json::from_slice::<Remains>(payload) {
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let group = remains.group.as_ref().and_then(text).unwrap_or_else(|| "unknown".to_owned());
        let batch = remains.batch.as_ref().and_then(text).and_then(|id| id.parse::<BatchId>().ok());
        let lane = LaneKey { group: group.into(), priority: Priority::Standard, lane: 0 };
        for job in remains.jobs.unwrap_or_default() {
            let Some(id) = job.get("id").and_then(text).and_then(|id| id.parse::<JobId>().ok()) else { continue };
            let batch = batch.unwrap_or_else(|| BatchId::adhoc(id.part_day()));
            jobs.push(JobRef { id, batch, run: 1, lane: lane.clone() });
        }
    }
    Error::Unreadable { reason, jobs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use proptest::prelude::*;

    fn batch() -> BatchId {
        BatchId::new(DateTime::from_timestamp_millis(1_795_400_000_000).unwrap())
    }

    fn lane() -> LaneKey {
        LaneKey { group: "gpt-4o".into(), priority: Priority::Bulk, lane: 3 }
    }

    fn job(batch: BatchId, ordinal: u32, custom_id: &str, body: &str) -> Job {
        Job {
            id: JobId::derive(batch, ordinal),
            batch,
            custom_id: custom_id.to_owned(),
            endpoint: "/v1/chat/completions".to_owned(),
            lane: lane(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            options: JobOptions::default(),
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                proptest::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bodies in proptest::collection::vec((any::<String>(), any_json(), any::<bool>()), 1..12)) {
            let batch = batch();
            let jobs: Vec<Job> = bodies.iter().enumerate().map(|(ordinal, (custom_id, body, pretty))| {
                let text = if *pretty { serde_json::to_string_pretty(body) } else { serde_json::to_string(body) }.unwrap();
                job(batch, u32::try_from(ordinal).unwrap(), custom_id, &text)
            }).collect();
            let read = read(&write(&jobs).unwrap()).unwrap();
            prop_assert_eq!(read.len(), jobs.len());
            for (arrival, job) in read.iter().zip(&jobs) {
                prop_assert_eq!(arrival.job.id, job.id);
                prop_assert_eq!(arrival.job.batch, batch);
                prop_assert_eq!(&arrival.job.lane, &job.lane);
                prop_assert!(arrival.recorded);
                let request = arrival.request.as_ref().unwrap();
                prop_assert_eq!(&request.custom_id, &job.custom_id);
                prop_assert_eq!(&request.body, &job.body, "bytes verbatim");
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = read(&Bytes::from(bytes));
        }
    }

    #[test]
    fn references_carry_the_run_and_no_request() {
        let batch = batch();
        let jobs: Vec<JobRef> =
            (0..3).map(|n| JobRef { id: JobId::derive(batch, n), batch, run: n + 1, lane: lane() }).collect();
        let read = read(&write_references(&jobs).unwrap()).unwrap();
        assert_eq!(read.iter().map(|arrival| arrival.job.clone()).collect::<Vec<_>>(), jobs);
        assert!(read.iter().all(|arrival| arrival.request.is_none()));
    }

    #[test]
    fn a_later_major_version_is_told_apart_whatever_it_holds() {
        let message = Bytes::from_static(br#"{"v":2,"jobs":{"packed":true}}"#);
        assert!(matches!(read(&message), Err(Error::Future(2))));
    }

    #[test]
    fn unknown_fields_are_ignored_and_defaults_fill_in() {
        let id = JobId::derive(batch(), 0);
        let message = Bytes::from(format!(
            r#"{{"v":1,"group":"m","new":1,"jobs":[{{"id":"{id}","later":[],"request":{{"custom_id":"a","endpoint":"/v1/embeddings","body":{{"x":1}}}}}}]}}"#
        ));
        let arrival = read(&message).unwrap().remove(0);
        assert!(!arrival.recorded);
        assert_eq!(arrival.job.batch, BatchId::adhoc(id.part_day()));
        assert_eq!(arrival.job.lane.priority, Priority::Standard);
        assert_eq!(arrival.request.unwrap().body, r#"{"x":1}"#);
    }

    #[test]
    fn readable_ids_are_told_of_an_unreadable_message() {
        let batch = batch();
        let id = JobId::derive(batch, 5);
        for broken in [
            format!(r#"{{"v":1,"batch":"{batch}","group":"m","jobs":[{{"id":"{id}","request":{{"custom_id":7}}}}]}}"#),
            format!(r#"{{"v":1,"batch":"{batch}","group":"m","lane":9,"jobs":[{{"id":"{id}"}},{{"id":"nonsense"}}]}}"#),
            format!(r#"{{"batch":"{batch}","group":"m","jobs":[{{"id":"{id}"}}]}}"#),
        ] {
            let Err(Error::Unreadable { jobs, .. }) = read(&Bytes::from(broken)) else { panic!("must be unreadable") };
            assert_eq!(jobs.iter().map(|job| (job.id, job.batch)).collect::<Vec<_>>(), [(id, batch)]);
        }
        for broken in ["", "hello", "[1]", r#"{"v":0}"#, r#"{"v":1,"group":"m","jobs":[]}"#] {
            assert!(matches!(read(&Bytes::from_static(broken.as_bytes())), Err(Error::Unreadable { .. })), "{broken}");
        }
        let deep = Bytes::from(format!(r#"{{"v":1,"group":"m","jobs":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000)));
        assert!(matches!(read(&deep), Err(Error::Unreadable { .. })));
    }
}
