//! How fast the calls of a model group end: each end frees a slot, so it is how fast jobs start while all slots are taken.
//!
//! From it follows how many jobs may wait here for a slot without waiting long, and how many messages for that. The state is
//! this process's own; a crash forgets it, and the next process finds it out within seconds.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What ended within this time can start within it.
const SPAN_S: u64 = SECONDS as u64;
/// As many, as a length.
const SECONDS: usize = 8;
/// How slowly the usual message follows the messages that come.
const INERTIA: usize = 8;

/// The pace of one model group.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Calls that ended in a second, by the second's remainder, with the second.
    ends: [(u64, usize); SECONDS],
    /// Jobs of the usual message, and its bytes, both times [`INERTIA`].
    jobs: usize,
    bytes: usize,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), recent: Mutex::default() }
    }

    /// Notes that a call has ended.
    pub(crate) fn ended(&self) {
        self.lock().ended(self.began.elapsed().as_secs());
    }

    /// Notes a message that came.
    pub(crate) fn came(&self, jobs: usize, bytes: usize) {
        self.lock().came(jobs, bytes);
    }

    /// Returns how many jobs will start within the next seconds, if it goes on as it goes.
    pub(crate) fn ahead(&self) -> usize {
        self.lock().ahead(self.began.elapsed().as_secs())
    }

    /// Returns how many calls ended in a second, lately.
    pub(crate) fn per_second(&self) -> usize {
        self.ahead().div_ceil(SECONDS)
    }

    /// Returns how many messages these jobs make that weigh at most `most_bytes`.
    pub(crate) fn messages(&self, jobs: usize, most_bytes: usize) -> usize {
        self.lock().messages(jobs, most_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn ended(&mut self, second: u64) {
        let ends = &mut self.ends[usize::try_from(second % SPAN_S).unwrap_or_default()];
        *ends = if ends.0 == second { (second, ends.1 + 1) } else { (second, 1) };
    }

    fn ahead(&self, second: u64) -> usize {
        self.ends.iter().filter(|(when, _)| when + SPAN_S > second).map(|(_, ends)| ends).sum()
    }

    fn came(&mut self, jobs: usize, bytes: usize) {
        let follow = |usual: usize, new: usize| {
            if usual == 0 { new * INERTIA } else { usual - usual / INERTIA + new }
        };
        self.jobs = follow(self.jobs, jobs);
        self.bytes = follow(self.bytes, bytes);
    }

    fn messages(&self, jobs: usize, most_bytes: usize) -> usize {
        (jobs * INERTIA).div_ceil(self.jobs.max(INERTIA)).min(most_bytes / (self.bytes / INERTIA).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_lately_is_what_can_start_soon() {
        let mut recent = Recent::default();
        assert_eq!(recent.ahead(0), 0);
        for second in [0, 0, 0, 1, 5, 7] {
            recent.ended(second);
        }
        assert_eq!([0, 7, 8, 9, 12, 14, 15].map(|second| recent.ahead(second)), [6, 6, 3, 2, 2, 1, 0]);
        recent.ended(15);
        recent.ended(16);
        assert_eq!(recent.ahead(16), 2, "a second's place is used again");
    }

    #[test]
    fn messages_are_counted_by_their_usual_jobs_and_bytes() {
        let mut recent = Recent::default();
        assert_eq!(recent.messages(40, 1 << 20), 40, "nothing is known yet");
        recent.came(10, 4_000);
        assert_eq!(recent.messages(40, 1 << 20), 4);
        assert_eq!(recent.messages(40, 8_000), 2, "bytes bound them too");
        for _ in 0..50 {
            recent.came(1, 400_000);
        }
        assert_eq!(recent.messages(40, 8 << 20), 20);
        assert_eq!(recent.messages(2, 8 << 20), 2);
    }
}
