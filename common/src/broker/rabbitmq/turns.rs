//! Whose turn it is: priorities by weight, the lanes of a priority one after the other.

use crate::job::Priority;

/// Picks among queues so that priorities with work share by weight and none starves.
///
/// Smooth weighted round robin (<https://github.com/nginx/nginx/blob/master/src/http/ngx_http_upstream_round_robin.c>): the shares hold
/// over every few picks, and an idle priority saves up nothing.
#[derive(Debug, Default)]
pub(super) struct Turns {
    credit: [i64; Priority::ALL.len()],
    next_lane: [usize; Priority::ALL.len()],
}

impl Turns {
    /// Returns the queue to take from, where `waiting` tells whether lane `lane` of a priority has work.
    pub(super) fn pick(&mut self, waiting: impl Fn(Priority, usize) -> bool) -> Option<(Priority, usize)> {
        let mut total = 0;
        let mut best: Option<(usize, usize)> = None;
        for (index, priority) in Priority::ALL.into_iter().enumerate() {
            let lanes = usize::from(priority.lanes());
            let start = self.next_lane[index];
            let Some(lane) = (0..lanes).map(|step| (start + step) % lanes).find(|lane| waiting(priority, *lane)) else {
                self.credit[index] = 0;
                continue;
            };
            let weight = i64::from(priority.weight());
            total += weight;
            self.credit[index] += weight;
            if best.is_none_or(|(other, _)| self.credit[index] > self.credit[other]) {
                best = Some((index, lane));
            }
        }
        let (index, lane) = best?;
        self.credit[index] -= total;
        self.next_lane[index] = lane + 1;
        Some((Priority::ALL[index], lane))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(turns: &mut Turns, picks: usize, waiting: impl Fn(Priority, usize) -> bool) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..picks {
            let (priority, _) = turns.pick(&waiting).unwrap();
            counts[Priority::ALL.iter().position(|other| *other == priority).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn priorities_with_work_share_by_weight() {
        let mut turns = Turns::default();
        assert_eq!(shares(&mut turns, 1_000, |_, _| true), [600, 300, 100]);
        assert_eq!(shares(&mut turns, 400, |priority, _| priority != Priority::High), [0, 300, 100]);
        assert_eq!(shares(&mut turns, 50, |priority, _| priority == Priority::Bulk), [0, 0, 50]);
        assert_eq!(shares(&mut turns, 10, |_, _| true), [6, 3, 1], "an idle priority saved up nothing");
        assert_eq!(turns.pick(|_, _| false), None);
    }

    #[test]
    fn lanes_of_a_priority_take_turns() {
        let mut turns = Turns::default();
        let bulk =
            |lanes: &'static [usize]| move |priority, lane: usize| priority == Priority::Bulk && lanes.contains(&lane);
        let mut next = |lanes| turns.pick(bulk(lanes)).unwrap().1;
        let all: &[usize] = &[0, 1, 2, 3];
        assert_eq!([next(all), next(all), next(all), next(all), next(all)], [0, 1, 2, 3, 0]);
        assert_eq!([next(&[0, 2]), next(&[0, 2]), next(&[0, 2]), next(all)], [2, 0, 2, 3]);
    }
}
