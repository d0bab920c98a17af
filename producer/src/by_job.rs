use std::collections::HashMap;

use gristmill_common::id::{BatchId, JobId};

/// A value for each job of a batch, kept by ordinal where the id carries one.
///
/// Jobs that other programs put into the queue have ids of their own making, whose bits are no ordinals.
#[derive(Debug)]
pub struct ByJob<T> {
    batch: BatchId,
    recorded: Vec<T>,
    adopted: HashMap<JobId, T>,
}

impl<T: Default + Clone> ByJob<T> {
    /// Makes an empty one for the jobs of a batch.
    pub fn new(batch: BatchId) -> Self {
        Self { batch, recorded: Vec::new(), adopted: HashMap::new() }
    }

    /// Returns a job's value, which begins as the default.
    pub fn entry(&mut self, job: JobId) -> &mut T {
        let ordinal = job.ordinal();
        if JobId::derive(self.batch, ordinal) != job {
            return self.adopted.entry(job).or_default();
        }
        let at = ordinal as usize;
        if at >= self.recorded.len() {
            self.recorded.resize(at + 1, T::default());
        }
        &mut self.recorded[at]
    }

    /// Goes through all values, in no order that counts.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.recorded.iter_mut().chain(self.adopted.values_mut())
    }
}

#[cfg(test)]
mod tests {
    use gristmill_common::clock::{Clock as _, SystemClock};

    use super::*;

    #[test]
    fn ids_from_elsewhere_take_no_room_for_ordinals_and_stay_apart() {
        let batch = BatchId::new(SystemClock.now());
        let own = JobId::derive(batch, 2);
        let foreign = JobId::derive(BatchId::new(SystemClock.now()), u32::MAX);
        let twin = JobId::derive(BatchId::new(SystemClock.now()), u32::MAX);
        let mut values = ByJob::new(batch);
        for (number, job) in [own, foreign, twin].into_iter().enumerate() {
            *values.entry(job) = number;
        }
        assert_eq!([own, foreign, twin].map(|job| *values.entry(job)), [0, 1, 2]);
        assert_eq!((values.recorded.len(), values.values_mut().count()), (3, 5));
    }
}
