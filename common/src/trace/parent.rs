//! The context of a span as other processes are told it, `traceparent`
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>, read 2026-11), and ids that follow from a job's. Pure.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::id::JobId;

/// Characters of a `traceparent` of version 00; those of later versions begin with as many that mean the same.
const LENGTH: usize = 55;

/// The id of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(NonZeroU128);

impl TraceId {
    /// Returns the id of a job's own trace: the job's id.
    pub fn of(job: JobId) -> Self {
        Self(NonZeroU128::new(job.uuid().as_u128()).unwrap_or(NonZeroU128::MIN))
    }

    /// Returns its bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The id of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// Returns the id of the span with which a job's own trace begins.
    pub fn root(job: JobId) -> Self {
        Self::derive(job, "submit", &[])
    }

    /// Returns the id of what was done for a job, told apart from all else by a word and numbers.
    pub fn derive(job: JobId, what: &str, numbers: &[i64]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(job.uuid().as_bytes());
        hasher.update(what);
        numbers.iter().for_each(|number| hasher.update(number.to_be_bytes()));
        Self(NonZeroU64::new(first_bytes(hasher)).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns its bytes.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Returns the first eight bytes of a digest as a number.
pub(super) fn first_bytes(hasher: Sha256) -> u64 {
    hasher.finalize().iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// A span of some process, as another is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Traceparent {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Whether it is recorded.
    pub sampled: bool,
}

impl Traceparent {
    /// The name of the header that carries it.
    pub const HEADER: &str = "traceparent";

    /// Returns the root of a job's own trace.
    pub fn of(job: JobId, sampled: bool) -> Self {
        Self { trace: TraceId::of(job), span: SpanId::root(job), sampled }
    }
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no traceparent, such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct Invalid;

impl FromStr for Traceparent {
    type Err = Invalid;

    /// Reads one of any version, as the recommendation says: a later one may have more behind a dash.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (known, more) = text.split_at_checked(LENGTH).ok_or(Invalid)?;
        let mut parts = known.split('-');
        let mut part = |digits| parts.next().filter(|part| part.len() == digits).and_then(hex).ok_or(Invalid);
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let is_whole = match version {
            0x00 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more.starts_with('-'),
        };
        let trace = NonZeroU128::new(trace).filter(|_| is_whole).ok_or(Invalid)?;
        let span = u64::try_from(span).ok().and_then(NonZeroU64::new).ok_or(Invalid)?;
        Ok(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
    }
}

/// Reads lower-case hexadecimal digits, and nothing else.
fn hex(text: &str) -> Option<u128> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BatchId;
    use chrono::DateTime;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn job(ordinal: u32) -> JobId {
        let batch = BatchId::from_uuid(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));
        JobId::derive(batch, ordinal)
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        const SPAN: &str = "00f067aa0ba902b7";
        let zeros = (&"0".repeat(32), &"0".repeat(16));
        for (text, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-03"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-fe"), Some(false)),
            // A later version may have more, behind a dash.
            (format!("01-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01-"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01.more"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("0g-{TRACE}-{SPAN}-01"), None),
            // All zeros are no ids.
            (format!("00-{}-{SPAN}-01", zeros.0), None),
            (format!("00-{TRACE}-{}-01", zeros.1), None),
            // Upper case is not allowed.
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{TRACE}-{}-01", SPAN.to_uppercase()), None),
            (format!("0A-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-0A"), None),
            // Lengths, signs, other dashes.
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("0-{TRACE}-{SPAN}-001"), None),
            (format!("00-{}-{SPAN}0-01", &TRACE[1..]), None),
            (format!("+0-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-+{}-01", &SPAN[1..]), None),
            (format!("00_{TRACE}_{SPAN}_01"), None),
            (format!(" 00-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-0é"), None),
            (String::new(), None),
        ] {
            let read = text.parse::<Traceparent>();
            assert_eq!(read.map(|parent| parent.sampled).ok(), expected, "{text}");
            if let Ok(read) = read {
                assert_eq!((read.trace.to_string(), read.span.to_string()), (TRACE.to_owned(), SPAN.to_owned()));
            }
        }
    }

    #[test]
    fn a_jobs_trace_is_its_id_and_its_root_never_changes() {
        let parent = Traceparent::of(job(7), true);
        assert_eq!(parent.trace.to_string(), job(7).uuid().simple().to_string());
        assert_eq!(parent, Traceparent::of(job(7), true));
        assert_ne!(parent.span, SpanId::root(job(8)));
        assert_eq!(parent.to_string().parse(), Ok(parent));
        assert_eq!(Traceparent::of(JobId::from_uuid(Uuid::nil()), true).trace.to_string(), format!("{:032x}", 1));
        // Written down, since processes of several versions must agree on it.
        let fixed = JobId::from_uuid(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(SpanId::root(fixed).to_string(), "8c3923315d57972f");
    }

    #[test]
    fn what_is_done_for_a_job_is_told_apart() {
        let time = DateTime::UNIX_EPOCH.timestamp_micros();
        let ids = [
            SpanId::root(job(1)),
            SpanId::derive(job(1), "run", &[1, time]),
            SpanId::derive(job(1), "run", &[2, time]),
            SpanId::derive(job(1), "call", &[1, time]),
            SpanId::derive(job(2), "run", &[1, time]),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let parent = Traceparent {
                trace: TraceId(NonZeroU128::new(trace).unwrap()),
                span: SpanId(NonZeroU64::new(span).unwrap()),
                sampled,
            };
            let text = parent.to_string();
            prop_assert_eq!(text.len(), LENGTH);
            prop_assert_eq!(text.parse(), Ok(parent));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text: String) {
            let _ = text.parse::<Traceparent>();
        }
    }
}
