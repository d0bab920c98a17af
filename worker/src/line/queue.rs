//! Who is next: priorities by weight, batches in turn, the jobs of a batch in the order in which they came.

use std::collections::VecDeque;

use gristmill_common::id::BatchId;
use gristmill_common::job::Priority;

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
    pub(super) const fn len(&self) -> usize {
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

    /// Returns the job that is next, if none is looked at.
    pub(super) fn next(&self) -> Option<&T> {
        let class =
            self.order().into_iter().map(|index| &self.classes[index]).find(|class| !class.batches.is_empty())?;
        class.batches.front()?.1.front()
    }

    /// Looks at the first job of each batch, the fairest first, until one goes.
    pub(super) fn pick<R>(&mut self, mut look: impl FnMut(&T) -> Look<R>) -> Option<(T, R)> {
        for index in self.order() {
            let class = &mut self.classes[index];
            let mut turn = 0;
            while turn < class.batches.len() {
                let (_, jobs) = &mut class.batches[turn];
                let Some(job) = jobs.front() else {
                    class.batches.remove(turn);
                    continue;
                };
                match look(job) {
                    Look::Go(why) => {
                        let Some(job) = jobs.pop_front() else { continue };
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
                        jobs.pop_front();
                        self.len -= 1;
                    }
                    Look::Wait => turn += 1,
                    Look::Stop => return None,
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
        assert_eq!(queue.next(), Some(&"a1"));
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
    fn who_must_wait_holds_up_its_batch_alone_unless_all_must() {
        let ids = batches(2);
        let mut queue = Queue::new();
        queue.push(Priority::Standard, ids[0], "large");
        queue.push(Priority::Standard, ids[0], "small");
        queue.push(Priority::Standard, ids[1], "other");
        let mut unless_large = |held: fn() -> Look<()>| {
            queue.pick(|job| if *job == "large" { held() } else { Look::Go(()) }).map(|(job, ())| job)
        };
        assert_eq!(unless_large(|| Look::Wait), Some("other"));
        assert_eq!(unless_large(|| Look::Stop), None);
        assert_eq!(unless_large(|| Look::Gone), Some("small"));
        assert_eq!(queue.len(), 0);
    }
}
