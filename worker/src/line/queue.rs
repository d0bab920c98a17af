//! Who is next: priorities by weight, batches in turn, the jobs of a batch in the order in which they came. One that must wait is passed
//! by those behind it that need not.

use std::collections::VecDeque;

use gristmill_common::id::BatchId;
use gristmill_common::job::Priority;

/// Jobs of a batch that are looked at while those before them must wait.
const MOST_LOOKS: usize = 32;

/// What becomes of a job that is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look<R> {
    /// It goes; the queue is done with it.
    Go(R),
    /// It is not there any more.
    Gone,
    /// It must wait, and others may go meanwhile.
    Wait,
    /// It must wait, and so must all others.
    Stop,
}

/// Jobs that wait.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    classes: [Class<T>; Priority::ALL.len()],
    len: usize,
}

/// The jobs of one priority.
#[derive(Debug)]
struct Class<T> {
    weight: i64,
    /// Grows while others go; who goes pays it.
    credit: i64,
    batches: VecDeque<(BatchId, VecDeque<T>)>,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let class =
            |priority: Priority| Class { weight: priority.weight().into(), credit: 0, batches: VecDeque::new() };
        Self { classes: Priority::ALL.map(class), len: 0 }
    }

    /// Returns how many wait, those included that are gone and were not looked at since.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, priority: Priority, batch: BatchId, job: T) {
        let class = &mut self.classes[priority as usize];
        self.len += 1;
        match class.batches.iter_mut().find(|(other, _)| *other == batch) {
            Some((_, jobs)) => jobs.push_back(job),
            None => class.batches.push_back((batch, VecDeque::from([job]))),
        }
    }

    /// Returns the job that is next of those that may go, if none of the others is looked at.
    pub(super) fn next(&self, may: impl Fn(&T) -> bool) -> Option<&T> {
        let classes = self.order().into_iter().map(|index| &self.classes[index]);
        let batches = classes.flat_map(|class| class.batches.iter());
        batches.flat_map(|(_, jobs)| jobs.iter().take(MOST_LOOKS)).find(|job| may(job))
    }

    /// Looks at the jobs of each batch, the fairest first, until one goes. Behind one that must wait the next [`MOST_LOOKS`] of its
    /// batch are looked at: it stays the first.
    pub(super) fn pick<R>(&mut self, mut look: impl FnMut(&T) -> Look<R>) -> Option<(T, R)> {
        for index in self.order() {
            let class = &mut self.classes[index];
            let mut turn = 0;
            while turn < class.batches.len() {
                let (_, jobs) = &mut class.batches[turn];
                let mut place = 0;
                while place < MOST_LOOKS
                    && let Some(job) = jobs.get(place)
                {
                    match look(job) {
                        Look::Go(why) => {
                            let Some(job) = jobs.remove(place) else { break };
                            self.len -= 1;
                            if let Some((batch, jobs)) = class.batches.remove(turn)
                                && !jobs.is_empty()
                            {
                                class.batches.push_back((batch, jobs));
                            }
                            self.pay(index);
                            return Some((job, why));
                        }
                        Look::Gone => {
                            jobs.remove(place);
                            self.len -= 1;
                        }
                        Look::Wait => place += 1,
                        Look::Stop => return None,
                    }
                }
                if jobs.is_empty() {
                    class.batches.remove(turn);
                } else {
                    turn += 1;
                }
            }
        }
        None
    }

    /// Returns the priorities, the one that is owed most first.
    fn order(&self) -> [usize; Priority::ALL.len()] {
        let mut order = [0, 1, 2];
        order.sort_by_key(|index| {
            let class = &self.classes[*index];
            std::cmp::Reverse(if class.batches.is_empty() { i64::MIN } else { class.credit + class.weight })
        });
        order
    }

    /// Smooth weighted round robin among the priorities that have jobs.
    fn pay(&mut self, paid: usize) {
        let mut all = 0;
        for (index, class) in self.classes.iter_mut().enumerate() {
            if !class.batches.is_empty() || index == paid {
                class.credit += class.weight;
                all += class.weight;
            } else {
                // Who has nothing to do saves nothing up.
                class.credit = 0;
            }
        }
        self.classes[paid].credit -= all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn batches(count: usize) -> Vec<BatchId> {
        let now = chrono::DateTime::from_timestamp(1_000, 0).unwrap();
        (0..count).map(|_| BatchId::new(now)).collect()
    }

    fn all(queue: &mut Queue<&'static str>, count: usize) -> Vec<&'static str> {
        (0..count).filter_map(|_| queue.pick(|_| Look::Go(()))).map(|(job, ())| job).collect()
    }

    #[test]
    fn batches_take_turns_and_a_batch_keeps_its_order() {
        let ids = batches(2);
        let mut queue = Queue::new();
        for job in ["a1", "a2", "a3", "a4"] {
            queue.push(Priority::Standard, ids[0], job);
        }
        for job in ["b1", "b2"] {
            queue.push(Priority::Standard, ids[1], job);
        }
        assert_eq!(queue.next(|_| true), Some(&"a1"));
        assert_eq!(all(&mut queue, 9), ["a1", "b1", "a2", "b2", "a3", "a4"]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn priorities_share_by_weight_and_none_starves() {
        let ids = batches(3);
        let mut queue = Queue::new();
        for _ in 0..100 {
            for (priority, batch) in Priority::ALL.into_iter().zip(&ids) {
                queue.push(priority, *batch, priority.as_str());
            }
        }
        let mut counts = BTreeMap::new();
        for job in all(&mut queue, 100) {
            *counts.entry(job).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([("high", 60), ("standard", 30), ("bulk", 10)]));
    }

    #[test]
    fn an_idle_priority_saves_nothing_up() {
        let ids = batches(2);
        let mut queue = Queue::new();
        for _ in 0..50 {
            queue.push(Priority::Standard, ids[0], "standard");
        }
        all(&mut queue, 40);
        for _ in 0..50 {
            queue.push(Priority::Bulk, ids[1], "bulk");
        }
        assert!(all(&mut queue, 8).iter().filter(|job| **job == "bulk").count() <= 2);
    }

    #[test]
    fn who_must_wait_is_passed_by_others_unless_all_must() {
        let ids = batches(2);
        let mut queue = Queue::new();
        for job in ["large", "large too", "small", "small too"] {
            queue.push(Priority::Standard, ids[0], job);
        }
        queue.push(Priority::Standard, ids[1], "other");
        assert_eq!(queue.next(|_| true), Some(&"large"));
        assert_eq!(queue.next(|job| job.starts_with("small")), Some(&"small"));
        let mut unless_large = |held: fn() -> Look<()>| {
            queue.pick(|job| if job.starts_with("large") { held() } else { Look::Go(()) }).map(|(job, ())| job)
        };
        assert_eq!(unless_large(|| Look::Wait), Some("small"));
        assert_eq!(unless_large(|| Look::Wait), Some("other"), "batches take turns as ever");
        assert_eq!(unless_large(|| Look::Stop), None);
        assert_eq!(all(&mut queue, 1), ["large"], "who has waited is the first when it may go");
        assert_eq!(
            queue.pick(|job| if *job == "large too" { Look::Gone } else { Look::Go(()) }).unwrap().0,
            "small too"
        );
        assert_eq!((queue.len(), queue.next(|_| true)), (0, None));
    }

    #[test]
    fn only_so_many_are_looked_at_behind_one_that_must_wait() {
        let ids = batches(2);
        let mut queue = Queue::new();
        for n in 0..1_000 {
            queue.push(Priority::Standard, ids[0], n);
        }
        let mut looks = 0;
        let wait_all = |job: &i32| {
            looks += 1;
            if *job < 500 { Look::Wait } else { Look::Go(()) }
        };
        assert_eq!(queue.pick(wait_all), None);
        assert_eq!(looks, MOST_LOOKS);
        assert_eq!(queue.next(|job| *job >= 500), None);
        queue.push(Priority::Standard, ids[1], 999);
        assert_eq!(queue.pick(|job| if *job < 500 { Look::Wait } else { Look::Go(()) }), Some((999, ())));
    }
}
