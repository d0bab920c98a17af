//! Identifiers. Owns their layout; says nothing of what they name.
//!
//! Every id has the layout of UUID version 7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds first, so that indexes
//! stay local and the day of a row can be read from its key.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// An id that is not a UUID in version 7 layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version 7 UUID")]
pub struct InvalidId(String);

impl InvalidId {
    pub(crate) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// The UTC day by which requests, results and attempts are partitioned.
pub type PartDay = NaiveDate;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that a store or a message holds; its layout is not checked.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Returns the UUID as databases bind it.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Returns the Unix time in milliseconds that the id carries.
            pub fn unix_ms(self) -> i64 {
                unix_ms(self.0)
            }

            /// Returns the UTC day that the id carries.
            pub fn part_day(self) -> PartDay {
                part_day(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let uuid = Uuid::parse_str(text).map_err(|_| InvalidId(text.to_owned()))?;
                if uuid.get_version_num() != 7 {
                    return Err(InvalidId(text.to_owned()));
                }
                Ok(Self(uuid))
            }
        }
    };
}

uuid_id!(
    /// Names a batch: jobs submitted together.
    BatchId
);
uuid_id!(
    /// Names a job: one request, whatever number of runs it takes.
    JobId
);
uuid_id!(
    /// Names one start of one process; never used again after it ends.
    OwnerId
);

impl BatchId {
    /// Makes a new id that carries `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(v7_at(now))
    }

    /// Returns the batch of a day that adopts messages which name none.
    ///
    /// The same on every machine, so that workers that adopt at once agree.
    pub fn adhoc(day: PartDay) -> Self {
        let ms = day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis();
        let hash = Sha256::digest(b"gristmill adhoc batch");
        Self(layout(
            ms,
            u64::from_be_bytes(first_eight(&hash)),
            u32::from_be_bytes([hash[8], hash[9], hash[10], hash[11]]),
        ))
    }
}

impl OwnerId {
    /// Makes a new id that carries `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(v7_at(now))
    }
}

impl JobId {
    /// Returns the id of the job with this ordinal in a batch.
    ///
    /// Deterministic, so that a resumed submission makes the same ids; ordered by ordinal within a batch, so that walking a
    /// batch is walking its key. The batch's time comes first, then 32 bits of ordinal, then 42 bits of a hash of both.
    pub fn derive(batch: BatchId, ordinal: u32) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(batch.0.as_bytes());
        hasher.update(ordinal.to_be_bytes());
        let hash = hasher.finalize();
        let tail = u64::from_be_bytes(first_eight(&hash)) >> 22;
        let high = (u64::from(ordinal) << 32) | (tail >> 10);
        Self(layout(batch.unix_ms(), high, u32::try_from(tail & 0x3ff).unwrap_or(0) << 22))
    }

    /// Returns the ordinal that [`JobId::derive`] put into the id; meaningless for ids made elsewhere.
    pub fn ordinal(self) -> u32 {
        let value = self.0.as_u128();
        // 74 free bits: 12 in rand_a, 62 in rand_b; the ordinal is the first 32 of them.
        let rand_a = (value >> 64) & 0xfff;
        let rand_b_high = (value >> 42) & 0xf_ffff;
        u32::try_from((rand_a << 20) | rand_b_high).unwrap_or(u32::MAX)
    }
}

/// Returns the UTC day that a version 7 UUID carries.
pub fn part_day(uuid: Uuid) -> PartDay {
    DateTime::<Utc>::from_timestamp_millis(unix_ms(uuid)).map_or(NaiveDate::MIN, |time| time.date_naive())
}

fn unix_ms(uuid: Uuid) -> i64 {
    // 48 bits always fit.
    i64::try_from(uuid.as_u128() >> 80).unwrap_or(i64::MAX)
}

fn v7_at(now: DateTime<Utc>) -> Uuid {
    let millis = now.timestamp_millis().max(0);
    let fresh = Uuid::now_v7().as_u128();
    let random = fresh & ((1 << 80) - 1);
    Uuid::from_u128((u128::from(millis.unsigned_abs()) << 80) | random)
}

/// Lays 96 bits (of which the first 74 are used) behind a time, around the version and variant bits.
fn layout(unix_ms: i64, high: u64, low: u32) -> Uuid {
    let free = ((u128::from(high) << 32) | u128::from(low)) >> 22;
    let rand_a = (free >> 62) & 0xfff;
    let rand_b = free & ((1 << 62) - 1);
    let time = u128::from(unix_ms.max(0).unsigned_abs()) & 0xffff_ffff_ffff;
    Uuid::from_u128((time << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b)
}

fn first_eight(hash: &[u8]) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn batch_at(ms: i64) -> BatchId {
        BatchId::new(DateTime::from_timestamp_millis(ms).unwrap())
    }

    proptest! {
        #[test]
        fn job_ids_are_version_7_and_carry_time_and_ordinal(ms in 0i64..(1 << 47), ordinal: u32) {
            let batch = batch_at(ms);
            let job = JobId::derive(batch, ordinal);
            prop_assert_eq!(job.uuid().get_version_num(), 7);
            prop_assert_eq!(job.uuid().get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(job.unix_ms(), ms);
            prop_assert_eq!(job.ordinal(), ordinal);
            prop_assert_eq!(job, JobId::derive(batch, ordinal));
            prop_assert_eq!(job.to_string().parse::<JobId>().unwrap(), job);
        }

        #[test]
        fn job_ids_sort_by_ordinal(ms in 0i64..(1 << 47), a: u32, b: u32) {
            let batch = batch_at(ms);
            prop_assert_eq!(JobId::derive(batch, a).cmp(&JobId::derive(batch, b)), a.cmp(&b));
        }
    }

    #[test]
    fn batches_of_one_millisecond_share_no_job() {
        let (a, b) = (batch_at(1_790_000_000_000), batch_at(1_790_000_000_000));
        assert_ne!(a, b);
        assert_ne!(JobId::derive(a, 7), JobId::derive(b, 7));
    }

    #[test]
    fn the_day_is_read_from_the_id() {
        let batch = batch_at(1_795_392_000_000);
        assert_eq!(batch.part_day().to_string(), "2026-11-23");
        assert_eq!(JobId::derive(batch, 0).part_day(), batch.part_day());
    }

    #[test]
    fn the_adhoc_batch_of_a_day_is_the_same_everywhere() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 23).unwrap();
        assert_eq!(BatchId::adhoc(day), BatchId::adhoc(day));
        assert_eq!(BatchId::adhoc(day).part_day(), day);
        assert_eq!(BatchId::adhoc(day).to_string().parse::<BatchId>().unwrap(), BatchId::adhoc(day));
    }

    #[test]
    fn other_versions_are_refused() {
        assert!("936da01f-9abd-4d9d-80c7-02af85c822a8".parse::<JobId>().is_err());
        assert!("hello".parse::<JobId>().is_err());
    }
}
