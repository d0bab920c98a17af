//! Which of a batch's jobs an input holds already: the rule by which submitting again continues.
//!
//! An input that is submitted again usually starts with the recorded jobs in their order, so they are compared position by
//! position, a page at a time. At the first that differs, all identities are read and sorted, 20 bytes a job.

use std::collections::VecDeque;

use gristmill_common::batch::Batch;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::Identity;

use super::Control;
use crate::error::Result;
use crate::producer::Producer;

/// Identities of one read.
const PAGE: u32 = 5_000;

/// The jobs of a batch that an input holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Every job at or above this ordinal is one.
    recorded_before: u64,
    /// One bit for each job below; `None` if all are members.
    matched: Option<Vec<u64>>,
}

impl Members {
    /// Says that the input holds every job of the batch.
    pub const fn all() -> Self {
        Self { recorded_before: 0, matched: None }
    }

    /// Tells whether the input holds the job.
    pub fn contains(&self, job: JobId) -> bool {
        let ordinal = u64::from(job.ordinal());
        match &self.matched {
            Some(bits) if ordinal < self.recorded_before => bit(bits, ordinal),
            _ => true,
        }
    }
}

fn bit(bits: &[u64], at: u64) -> bool {
    usize::try_from(at / 64).ok().and_then(|word| bits.get(word)).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set(bits: &mut [u64], at: u64) {
    if let Some(word) = usize::try_from(at / 64).ok().and_then(|word| bits.get_mut(word)) {
        *word |= 1 << (at % 64);
    }
}

/// What was recorded before, compared with what comes in.
#[derive(Debug)]
pub(super) struct Known {
    batch: BatchId,
    /// Jobs recorded when the batch was opened.
    recorded: u64,
    /// How many of them the input was found to hold.
    pub(super) matched: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Every job of the input so far is the one recorded at its position.
    InOrder { page: VecDeque<Identity>, after: Option<JobId> },
    /// The input differs; the recorded identities in order, each with its ordinal.
    Sorted { all: Vec<(Identity, u32)>, matched: Vec<u64> },
}

impl Known {
    pub(super) fn new(batch: &Batch) -> Self {
        let state = State::InOrder { page: VecDeque::new(), after: None };
        Self { batch: batch.id, recorded: batch.recorded, matched: 0, state }
    }

    /// Tells whether every recorded job was found in order, so that the rest of the input is new.
    pub(super) fn is_passed(&self) -> bool {
        matches!(self.state, State::InOrder { .. }) && self.matched >= self.recorded
    }

    /// Tells whether the job is recorded already, and notes that the input holds it.
    pub(super) async fn take(&mut self, producer: &Producer, control: &Control, job: Identity) -> Result<bool> {
        if self.is_passed() {
            return Ok(false);
        }
        if let State::InOrder { page, after } = &mut self.state {
            if page.is_empty() {
                let rows =
                    producer.patiently(control, || producer.store().identities(self.batch, *after, PAGE)).await?;
                *after = rows.last().map(|(id, _)| *id).or(*after);
                page.extend(rows.into_iter().map(|(_, identity)| identity));
            }
            if page.pop_front() == Some(job) {
                self.matched += 1;
                return Ok(true);
            }
            self.state = self.sort(producer, control).await?;
        }
        let State::Sorted { all, matched } = &mut self.state else { return Ok(false) };
        let start = all.partition_point(|(identity, _)| *identity < job);
        let same = all[start..].iter().take_while(|(identity, _)| *identity == job);
        for ordinal in same.map(|(_, ordinal)| u64::from(*ordinal)) {
            if !bit(matched, ordinal) {
                set(matched, ordinal);
                self.matched += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn sort(&self, producer: &Producer, control: &Control) -> Result<State> {
        let mut all = Vec::with_capacity(usize::try_from(self.recorded).unwrap_or(0));
        let mut after = None;
        loop {
            let rows = producer.patiently(control, || producer.store().identities(self.batch, after, PAGE)).await?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(*last);
            // What this submission records itself is not what was there before.
            let before = rows.iter().filter(|(id, _)| u64::from(id.ordinal()) < self.recorded);
            all.extend(before.map(|(id, identity)| (*identity, id.ordinal())));
        }
        all.sort_unstable();
        let words = usize::try_from(self.recorded.div_ceil(64)).unwrap_or(0);
        let mut matched = vec![0; words];
        for ordinal in 0..self.matched {
            set(&mut matched, ordinal);
        }
        Ok(State::Sorted { all, matched })
    }

    /// Returns the jobs that the input holds; final once the input has ended or [`Self::is_passed`].
    pub(super) fn members(&self) -> Members {
        let matched = match &self.state {
            State::InOrder { .. } if self.matched >= self.recorded => None,
            State::InOrder { .. } => {
                let mut bits = vec![0; usize::try_from(self.recorded.div_ceil(64)).unwrap_or(0)];
                (0..self.matched).for_each(|ordinal| set(&mut bits, ordinal));
                Some(bits)
            }
            State::Sorted { matched, .. } => Some(matched.clone()),
        };
        Members { recorded_before: self.recorded, matched }
    }

    /// Returns the first recorded jobs, at most `most`, that the input did not hold.
    pub(super) fn first_missing(&self, most: usize) -> Vec<JobId> {
        let is_missing = |ordinal: &u64| match &self.state {
            State::InOrder { .. } => *ordinal >= self.matched,
            State::Sorted { matched, .. } => !bit(matched, *ordinal),
        };
        let missing = (0..self.recorded).filter(is_missing).take(most);
        missing.filter_map(|ordinal| Some(JobId::derive(self.batch, u32::try_from(ordinal).ok()?))).collect()
    }

    /// Returns how many recorded jobs the input did not hold.
    pub(super) const fn missing(&self) -> u64 {
        self.recorded.saturating_sub(self.matched)
    }
}
