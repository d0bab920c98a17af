//! What a job is: one serialized request with its options. Owns the words for priority, lane and model group.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::id::{BatchId, JobId};
use crate::trace::Traceparent;

/// How urgent a batch is; each priority has its own queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits for each answer: one job a message.
    High,
    /// Ordinary batches.
    #[default]
    Standard,
    /// Sweeps that may wait behind everything else.
    Bulk,
}

impl Priority {
    /// All priorities, most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Standard, Self::Bulk];

    /// Returns the stable text used in queue names, messages and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }

    /// Returns how many lanes the priority has.
    pub const fn lanes(self) -> u8 {
        match self {
            Self::High => 1,
            Self::Standard | Self::Bulk => 4,
        }
    }

    /// Returns the share of a worker's slots that the priority gets while all of them have work.
    pub const fn weight(self) -> u32 {
        match self {
            Self::High => 6,
            Self::Standard => 3,
            Self::Bulk => 1,
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A priority that is none of `high`, `standard`, `bulk`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("priority `{0}` is none of high, standard, bulk")]
pub struct UnknownPriority(String);

impl FromStr for Priority {
    type Err = UnknownPriority;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == text).ok_or_else(|| UnknownPriority(text.to_owned()))
    }
}

/// One work queue: a model group at a priority, in one of the priority's lanes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// The model group that the queue's jobs ask for.
    pub group: Arc<str>,
    /// The priority of the queue's jobs.
    pub priority: Priority,
    /// The lane, below [`Priority::lanes`].
    pub lane: u8,
}

impl LaneKey {
    /// Returns every lane of a model group, most urgent first.
    pub fn all(group: &str) -> impl Iterator<Item = Self> + use<> {
        let group: Arc<str> = group.into();
        Priority::ALL.into_iter().flat_map(move |priority| {
            let group = Arc::clone(&group);
            (0..priority.lanes()).map(move |lane| Self { group: Arc::clone(&group), priority, lane })
        })
    }

    /// Returns the two lanes that a batch may take; it takes the emptier one.
    pub fn candidates(batch: BatchId, group: &str, priority: Priority) -> [Self; 2] {
        let hash = Sha256::digest(batch.uuid().as_bytes());
        let lanes = priority.lanes();
        let first = hash[0] % lanes;
        let second = if lanes == 1 { 0 } else { (first + 1 + hash[1] % (lanes - 1)) % lanes };
        let group: Arc<str> = group.into();
        [first, second].map(|lane| Self { group: Arc::clone(&group), priority, lane })
    }

    /// Returns `<group>.<priority>.<lane>` with the group percent-encoded: the routing key, and the end of the queue's name.
    pub fn routing_key(&self) -> String {
        format!("{}.{}.{}", percent_encode(&self.group), self.priority, self.lane)
    }
}

impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.routing_key())
    }
}

/// Encodes all but ASCII letters, digits, `-` and `_`, so that a group's dots and slashes cannot be read as structure.
fn percent_encode(text: &str) -> String {
    use fmt::Write as _;

    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// What decides whether two jobs are the same request: endpoint, model group, final body, sample index, simulated or not,
/// under the same `custom_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub [u8; 16]);

impl Identity {
    /// Computes the identity; every part is length-prefixed, so that no two lists of parts collide.
    pub fn compute(custom_id: &str, endpoint: &str, group: &str, body: &[u8], sample: u32, simulated: bool) -> Self {
        let mut hasher = Sha256::new();
        for part in [custom_id.as_bytes(), endpoint.as_bytes(), group.as_bytes(), body] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.update(sample.to_be_bytes());
        hasher.update([u8::from(simulated)]);
        let hash = hasher.finalize();
        let mut identity = [0; 16];
        identity.copy_from_slice(&hash[..16]);
        Self(identity)
    }
}

/// What the response cache does for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// Nothing.
    #[default]
    Off,
    /// It answers, and keeps what is new.
    On,
    /// It answers, and keeps nothing new.
    ReadOnly,
    /// It keeps, and never answers.
    WriteOnly,
}

/// Whether the response cache may answer a job, and may keep its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CachePolicy {
    /// What it does.
    pub mode: CacheMode,
    /// Whether it does so also for requests that ask for a random answer.
    pub sampled: bool,
}

impl CachePolicy {
    /// Neither answers nor keeps.
    pub const OFF: Self = Self { mode: CacheMode::Off, sampled: false };
    /// Answers and keeps.
    pub const ON: Self = Self { mode: CacheMode::On, sampled: false };
    /// All policies that there are.
    pub const ALL: [Self; 7] = [
        Self::OFF,
        Self::ON,
        Self { mode: CacheMode::ReadOnly, sampled: false },
        Self { mode: CacheMode::WriteOnly, sampled: false },
        Self { mode: CacheMode::On, sampled: true },
        Self { mode: CacheMode::ReadOnly, sampled: true },
        Self { mode: CacheMode::WriteOnly, sampled: true },
    ];

    /// Returns the stable text used in messages and tables.
    pub const fn as_str(self) -> &'static str {
        match (self.mode, self.sampled) {
            (CacheMode::Off, _) => "off",
            (CacheMode::On, false) => "on",
            (CacheMode::ReadOnly, false) => "read_only",
            (CacheMode::WriteOnly, false) => "write_only",
            (CacheMode::On, true) => "on+sampled",
            (CacheMode::ReadOnly, true) => "read_only+sampled",
            (CacheMode::WriteOnly, true) => "write_only+sampled",
        }
    }

    /// Reads [`Self::as_str`]; unknown text of a later version means [`Self::OFF`].
    pub fn parse_lenient(text: &str) -> Self {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).unwrap_or_default()
    }

    /// Tells whether it does nothing.
    pub fn is_off(self) -> bool {
        self.mode == CacheMode::Off
    }

    /// Tells whether it may answer.
    pub fn reads(self) -> bool {
        matches!(self.mode, CacheMode::On | CacheMode::ReadOnly)
    }

    /// Tells whether it may keep an answer.
    pub fn writes(self) -> bool {
        matches!(self.mode, CacheMode::On | CacheMode::WriteOnly)
    }
}

/// A policy that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cache mode `{0}` is none of off, on, read-only, write-only, of which all but off may end with +sampled")]
pub struct UnknownCachePolicy(String);

impl FromStr for CachePolicy {
    type Err = UnknownCachePolicy;

    /// Reads [`Self::as_str`], with `-` or `_`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.trim().replace('-', "_");
        Self::ALL.into_iter().find(|policy| policy.as_str() == plain).ok_or_else(|| UnknownCachePolicy(text.to_owned()))
    }
}

impl fmt::Display for CachePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.as_str().replace('_', "-"))
    }
}

impl Serialize for CachePolicy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for CachePolicy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Names the stream of a job's output: whoever waits for the job chooses it, and listens to it at the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId(uuid::Uuid);

impl StreamId {
    /// Makes one that nobody else has.
    pub fn random(now: DateTime<Utc>) -> Self {
        // A batch's id is a time and 74 random bits.
        Self(BatchId::new(now).uuid())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The tag that names a job's stream. It is a tag so that it is stored, and found again at every attempt.
const STREAM_TAG: &str = "gristmill.stream";

/// The tag that names the span which another program enqueued a job in.
const TRACE_TAG: &str = "gristmill.traceparent";

/// The user's own JSON as it was written: numbers keep their digits, and keys their order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(Box<RawValue>);

impl Metadata {
    /// Takes a JSON text; `None` if it is none.
    pub fn from_json(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    /// Returns the JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Metadata {
    /// Compares the texts.
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

/// What a producer may say of a job beside its request.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobOptions {
    /// No call starts after this time; the job then ends as `expired`.
    #[serde(skip_serializing_if = "Option::is_none", with = "chrono::serde::ts_milliseconds_option")]
    pub deadline: Option<DateTime<Utc>>,
    /// No call starts before this time.
    #[serde(skip_serializing_if = "Option::is_none", with = "chrono::serde::ts_milliseconds_option")]
    pub not_before: Option<DateTime<Utc>>,
    /// Tells apart repeated samples of one request.
    #[serde(skip_serializing_if = "is_zero")]
    pub sample: u32,
    /// Retries after the first call; attempts are one more. Absent: the worker's configuration decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_retries: Option<u16>,
    /// What the user groups costs and results by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The user's own JSON object, kept with the job; never looked into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// Whether the response cache takes part.
    pub cache: CachePolicy,
    /// The provider's service tier to ask for, for example `flex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// Estimated tokens of input and output together; what rate limits reserve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub est_tokens: Option<u32>,
}

impl JobOptions {
    /// Returns the stream that the job's output is to be told to as it comes, if somebody asked for that.
    pub fn stream(&self) -> Option<StreamId> {
        self.tags.get(STREAM_TAG)?.parse().ok().map(StreamId)
    }

    /// Has the job's output told to a stream as it comes.
    pub fn set_stream(&mut self, stream: StreamId) {
        self.tags.insert(STREAM_TAG.to_owned(), stream.to_string());
    }

    /// Returns the span that another program enqueued the job in, if it said so.
    pub fn traceparent(&self) -> Option<Traceparent> {
        self.tags.get(TRACE_TAG)?.parse().ok()
    }

    /// Has all that is done for the job belong to a span of another program.
    pub fn set_traceparent(&mut self, span: Traceparent) {
        self.tags.insert(TRACE_TAG.to_owned(), span.to_string());
    }

    /// Returns what the user said: the options without the tags that are ours.
    #[must_use]
    pub fn shown(&self) -> Self {
        let mut shown = self.clone();
        shown.tags.retain(|name, _| is_users_tag(name));
        shown
    }
}

/// Tells whether a tag is the user's, to be shown, and not one of ours.
pub fn is_users_tag(name: &str) -> bool {
    name != STREAM_TAG && name != TRACE_TAG
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// One request as it is submitted and stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The job's id.
    pub id: JobId,
    /// The batch that it belongs to.
    pub batch: BatchId,
    /// The user's name for it; echoed in the result.
    pub custom_id: String,
    /// The path of the API, for example `/v1/chat/completions`.
    pub endpoint: String,
    /// The queue that its messages go to.
    pub lane: LaneKey,
    /// The request's JSON text in OpenAI format, byte for byte as it was given.
    pub body: Bytes,
    /// Everything else.
    pub options: JobOptions,
}

impl Job {
    /// Computes what makes this the same request as another.
    pub fn identity(&self, simulated: bool) -> Identity {
        Identity::compute(&self.custom_id, &self.endpoint, &self.lane.group, &self.body, self.options.sample, simulated)
    }
}

/// A job by reference: what a message must carry at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRef {
    /// The job.
    pub id: JobId,
    /// Its batch.
    pub batch: BatchId,
    /// The run that the message wakes.
    pub run: u32,
    /// The queue that its messages go to.
    pub lane: LaneKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_keys_encode_the_group() {
        let key = |group: &str| LaneKey { group: group.into(), priority: Priority::Bulk, lane: 2 }.routing_key();
        assert_eq!(key("gpt-4o"), "gpt-4o.bulk.2");
        assert_eq!(key("openai/gpt-4.1 mini"), "openai%2Fgpt-4%2E1%20mini.bulk.2");
        assert_ne!(key("a.b"), key("a%2Eb"));
    }

    #[test]
    fn a_batch_has_two_different_lanes_where_there_are_several() {
        for ms in 0..200 {
            let batch = BatchId::new(DateTime::from_timestamp_millis(1_790_000_000_000 + ms).unwrap());
            let [a, b] = LaneKey::candidates(batch, "m", Priority::Bulk);
            assert_ne!(a, b);
            assert!(a.lane < Priority::Bulk.lanes() && b.lane < Priority::Bulk.lanes());
            let [a, b] = LaneKey::candidates(batch, "m", Priority::High);
            assert_eq!((a.lane, b.lane), (0, 0));
        }
    }

    #[test]
    fn a_stream_is_found_again_in_the_options() {
        let mut options = JobOptions::default();
        assert_eq!(options.stream(), None);
        let stream = StreamId::random(DateTime::UNIX_EPOCH);
        options.set_stream(stream);
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<JobOptions>(&text).unwrap().stream(), Some(stream));
        assert_eq!(options.shown(), JobOptions::default(), "nobody is shown it");
    }

    #[test]
    fn a_span_is_found_again_in_the_options() {
        let mut options = JobOptions::default();
        assert_eq!(options.traceparent(), None);
        let span = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        options.set_traceparent(span);
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<JobOptions>(&text).unwrap().traceparent(), Some(span));
        assert_eq!(options.shown(), JobOptions::default(), "nobody is shown it");
        options.tags.insert(TRACE_TAG.to_owned(), "nonsense".to_owned());
        assert_eq!(options.traceparent(), None);
    }

    #[test]
    fn metadata_stays_as_it_was_written() {
        let text = r#"{"metadata":{"z":12345678901234567890123,"a":1.10,"b":1e3}}"#;
        let options: JobOptions = serde_json::from_str(text).unwrap();
        let metadata = options.metadata.as_ref().unwrap();
        assert_eq!(metadata.get(), r#"{"z":12345678901234567890123,"a":1.10,"b":1e3}"#);
        assert!(serde_json::to_string(&options).unwrap().contains(metadata.get()));
        assert_eq!(serde_json::from_str::<JobOptions>(r#"{"metadata":null}"#).unwrap().metadata, None);
    }

    #[test]
    fn identity_covers_every_part() {
        let base = Identity::compute("a", "/v1/chat/completions", "m", b"{}", 0, false);
        assert_eq!(base, Identity::compute("a", "/v1/chat/completions", "m", b"{}", 0, false));
        for other in [
            Identity::compute("b", "/v1/chat/completions", "m", b"{}", 0, false),
            Identity::compute("a", "/v1/embeddings", "m", b"{}", 0, false),
            Identity::compute("a", "/v1/chat/completions", "n", b"{}", 0, false),
            Identity::compute("a", "/v1/chat/completions", "m", b"{ }", 0, false),
            Identity::compute("a", "/v1/chat/completions", "m", b"{}", 1, false),
            Identity::compute("a", "/v1/chat/completions", "m", b"{}", 0, true),
            Identity::compute("a/", "v1/chat/completions", "m", b"{}", 0, false),
        ] {
            assert_ne!(base, other);
        }
    }
}
