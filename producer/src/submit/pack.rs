//! How the jobs of a chunk share messages. Pure.

use std::collections::BTreeMap;

use gristmill_common::job::{Job, LaneKey, Priority};

/// Bytes of bodies after which a message is full.
const MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes above which a body stays in the store and the message refers to it.
pub(super) const INLINE_BYTES: usize = 32 * 1024;
/// What a job adds to a message beside its body, roughly.
const JOB_OVERHEAD_BYTES: usize = 300;

/// One message to be: positions of its jobs in the chunk, and whether it carries their requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) jobs: Vec<usize>,
    pub(super) carries: bool,
}

/// Groups jobs into messages: one lane each, large bodies by reference, in the order of the chunk.
pub(super) fn parcels(jobs: &[Job], publish: impl Fn(&Job) -> bool, jobs_per_message: usize) -> Vec<Parcel> {
    let mut done = Vec::new();
    let mut open: BTreeMap<(&LaneKey, bool), (Parcel, usize)> = BTreeMap::new();
    for (position, job) in jobs.iter().enumerate().filter(|(_, job)| publish(job)) {
        let carries = job.body.len() <= INLINE_BYTES;
        let most = if job.lane.priority == Priority::High { 1 } else { jobs_per_message.max(1) };
        let bytes = JOB_OVERHEAD_BYTES + if carries { job.body.len() + job.custom_id.len() } else { 0 };
        let empty = || (Parcel { jobs: Vec::new(), carries }, 0);
        let slot = open.entry((&job.lane, carries)).or_insert_with(empty);
        if slot.0.jobs.len() >= most || (!slot.0.jobs.is_empty() && slot.1 + bytes > MESSAGE_BYTES) {
            done.push(std::mem::replace(slot, empty()).0);
        }
        slot.0.jobs.push(position);
        slot.1 += bytes;
    }
    done.extend(open.into_values().map(|(parcel, _)| parcel));
    done.sort_by_key(|parcel| parcel.jobs.first().copied());
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use gristmill_common::clock::{Clock as _, SystemClock};
    use gristmill_common::id::{BatchId, JobId};
    use gristmill_common::job::JobOptions;
    use proptest::prelude::*;

    fn jobs(sizes: &[(usize, u8)], priority: Priority) -> Vec<Job> {
        let batch = BatchId::new(SystemClock.now());
        let job = |(ordinal, (bytes, group)): (usize, &(usize, u8))| Job {
            id: JobId::derive(batch, u32::try_from(ordinal).unwrap()),
            batch,
            custom_id: ordinal.to_string(),
            endpoint: "/v1/chat/completions".to_owned(),
            lane: LaneKey { group: group.to_string().into(), priority, lane: 0 },
            body: Bytes::from(vec![b'1'; *bytes]),
            options: JobOptions::default(),
        };
        sizes.iter().enumerate().map(job).collect()
    }

    proptest! {
        #[test]
        fn every_job_is_in_one_message_of_its_lane(
            sizes in proptest::collection::vec((1usize..50_000, 0u8..3), 0..60),
            high: bool,
        ) {
            let priority = if high { Priority::High } else { Priority::Bulk };
            let most = if high { 1 } else { 10 };
            let jobs = jobs(&sizes, priority);
            let parcels = parcels(&jobs, |_| true, 10);
            let mut seen: Vec<usize> = parcels.iter().flat_map(|parcel| parcel.jobs.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..jobs.len()).collect::<Vec<_>>());
            for parcel in &parcels {
                let of = |position: &usize| &jobs[*position];
                prop_assert!(parcel.jobs.len() <= most);
                prop_assert!(parcel.jobs.iter().map(of).all(|job| job.lane == of(&parcel.jobs[0]).lane));
                prop_assert!(parcel.jobs.iter().map(of).all(|job| (job.body.len() <= INLINE_BYTES) == parcel.carries));
                let bytes: usize = parcel.jobs.iter().map(of).map(|job| job.body.len()).sum();
                prop_assert!(!parcel.carries || bytes <= MESSAGE_BYTES);
            }
        }
    }

    #[test]
    fn ten_small_jobs_share_a_message() {
        let jobs = jobs(&[(1_000, 0); 25], Priority::Standard);
        let sizes: Vec<usize> = parcels(&jobs, |_| true, 10).iter().map(|parcel| parcel.jobs.len()).collect();
        assert_eq!(sizes, [10, 10, 5]);
        assert_eq!(parcels(&jobs, |job| job.custom_id == "3", 10)[0].jobs, [3]);
    }
}
