//! How many of a worker's slots each model group may take: all of them while no other has work, else as many as leave the others that
//! have work an equal share, or what they had to do of late if that is less. A group that is busy anew gets its share as the calls of
//! the others end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what a group had to do is kept slots for.
const LATELY: Duration = Duration::from_secs(3);

/// A model group's share of the slots.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    own: usize,
}

#[derive(Debug)]
struct Shares {
    slots: usize,
    groups: Mutex<Vec<Work>>,
}

/// What a group does.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    in_flight: usize,
    /// The most calls that it had or could have had at once of late, and when it was seen.
    peak: usize,
    seen: Option<Instant>,
}

impl Share {
    /// Shares slots among as many groups.
    pub(crate) fn among(groups: usize, slots: usize) -> impl Iterator<Item = Self> {
        let shares = Arc::new(Shares { slots, groups: Mutex::new(vec![Work::default(); groups]) });
        (0..groups).map(move |own| Self { shares: Arc::clone(&shares), own })
    }

    /// Notes how many jobs of the group could start now, had they slots.
    pub(crate) fn wants(&self, startable: usize, now: Instant) {
        let work = &mut self.lock()[self.own];
        work.note(work.in_flight + startable, now);
    }

    /// Counts a call of the group.
    pub(crate) fn began(&self) {
        self.lock()[self.own].in_flight += 1;
    }

    /// Counts a call no more.
    pub(crate) fn ended(&self, now: Instant) {
        let work = &mut self.lock()[self.own];
        work.note(work.in_flight, now);
        work.in_flight = work.in_flight.saturating_sub(1);
    }

    /// Returns how many calls the group has.
    pub(crate) fn in_flight(&self) -> usize {
        self.lock()[self.own].in_flight
    }

    /// Tells whether the group may start no call, with as many slots free: it has its share, and the others are owed what is free.
    pub(crate) fn is_full(&self, free: usize, now: Instant) -> bool {
        let groups = self.lock();
        let equal = self.equal(&groups, now);
        let owed = |work: &Work| work.wanted(now).min(equal).saturating_sub(work.in_flight);
        groups[self.own].in_flight >= equal && free <= self.others(&groups).map(owed).sum()
    }

    /// Returns how many calls it may have at once.
    pub(crate) fn most(&self, now: Instant) -> usize {
        let groups = self.lock();
        let equal = self.equal(&groups, now);
        let kept: usize = self.others(&groups).map(|work| work.wanted(now).min(equal)).sum();
        self.shares.slots.saturating_sub(kept).max(1)
    }

    /// Returns the share of each while all have enough to do.
    fn equal(&self, groups: &[Work], now: Instant) -> usize {
        self.shares.slots / (self.others(groups).filter(|work| work.wanted(now) > 0).count() + 1)
    }

    fn others<'a>(&self, groups: &'a [Work]) -> impl Iterator<Item = &'a Work> + use<'a> {
        let own = self.own;
        groups.iter().enumerate().filter(move |(group, _)| *group != own).map(|(_, work)| work)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Work>> {
        self.shares.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn note(&mut self, wanted: usize, now: Instant) {
        if wanted > 0 && wanted >= self.wanted(now) {
            (self.peak, self.seen) = (wanted, Some(now));
        }
    }

    /// Returns how many calls it had to make at once of late.
    fn wanted(&self, now: Instant) -> usize {
        match self.seen {
            Some(seen) if now.saturating_duration_since(seen) < LATELY => self.peak,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(shares: &[Share], now: Instant) -> Vec<usize> {
        shares.iter().map(|share| share.most(now)).collect()
    }

    #[test]
    fn a_group_has_all_slots_but_what_others_had_to_do_of_late_up_to_an_equal_share() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let shares: Vec<Share> = Share::among(3, 120).collect();
        assert_eq!(most(&shares, at(0)), [120, 120, 120]);
        shares[0].wants(500, at(0));
        assert_eq!(most(&shares, at(0)), [120, 60, 60], "who begins leaves its share to who has work");
        shares[1].wants(5, at(1_000));
        assert_eq!(most(&shares, at(1_500)), [115, 60, 75], "who has little to do is kept no more than that");
        shares[2].wants(500, at(2_000));
        assert_eq!(most(&shares, at(2_500)), [75, 40, 75]);
        assert_eq!(most(&shares, at(3_500)), [75, 60, 115], "the first has had nothing to do for 3 s");
        shares[1].wants(1, at(3_600));
        assert_eq!(shares[0].most(at(3_700)), 75, "a peak is remembered");
        assert_eq!(shares[0].most(at(4_900)), 60, "for a time");
    }

    #[test]
    fn few_slots_are_shared_as_far_as_they_go() {
        let now = Instant::now();
        let shares: Vec<Share> = Share::among(4, 2).collect();
        shares.iter().for_each(|share| share.wants(9, now));
        assert!(shares.iter().all(|share| share.most(now) == 2 && !share.is_full(1, now)), "none can be kept");
        assert_eq!(Share::among(1, 0).next().unwrap().most(now), 1);
    }

    #[test]
    fn slow_groups_together_leave_a_third_its_share() {
        let now = Instant::now();
        let shares: Vec<Share> = Share::among(3, 60).collect();
        shares.iter().for_each(|share| share.wants(100, now));
        let mut free = 60;
        let mut start = |group: usize| {
            let before = free;
            while free > 0 && !shares[group].is_full(free, now) {
                shares[group].began();
                free -= 1;
            }
            before - free
        };
        assert_eq!([0, 1, 0, 2, 1].map(&mut start), [20, 20, 0, 20, 0]);
        shares[0].ended(now);
        assert!(shares[1].is_full(1, now) && !shares[0].is_full(1, now), "what comes free is owed to who had it");
    }

    #[test]
    fn a_group_that_is_busy_anew_takes_what_comes_free_up_to_its_share() {
        let now = Instant::now();
        let shares: Vec<Share> = Share::among(2, 16).collect();
        (0..16).for_each(|_| shares[0].began());
        shares[0].wants(100, now);
        shares[1].wants(100, now);
        for _ in 0..8 {
            shares[0].ended(now);
            assert!(shares[0].is_full(1, now), "the other is owed it");
            assert!(!shares[1].is_full(1, now));
            shares[1].began();
        }
        shares[0].ended(now);
        assert!(!shares[0].is_full(1, now) && shares[1].is_full(1, now));
    }

    #[test]
    fn what_a_group_cannot_use_others_take() {
        let now = Instant::now();
        let shares: Vec<Share> = Share::among(2, 16).collect();
        shares[0].wants(100, now);
        shares[1].wants(2, now);
        for free in (3..=16).rev() {
            assert!(!shares[0].is_full(free, now), "{free} are free");
            shares[0].began();
        }
        assert!(shares[0].is_full(2, now));
    }
}
