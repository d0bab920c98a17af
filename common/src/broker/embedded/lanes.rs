//! What of the queue is in memory: pure bookkeeping, no database.
//!
//! Each lane is read in order of the rows' numbers; one writer commits at a time, so a number that was passed never appears
//! later. What a lane holds, delivered or not, is at most the windows of its subscriptions together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::super::turns::Turns;
use crate::job::{LaneKey, Priority};
use crate::store::Enqueued;

/// The lanes of all groups that somebody subscribed to.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    groups: HashMap<Arc<str>, Group>,
    /// Delivered and not settled, by number.
    out: HashMap<i64, Out>,
    /// Messages put aside that somebody took and did not return.
    asides: HashSet<i64>,
    /// Those of them that are settled; their rows are about to be deleted.
    asides_settled: Vec<i64>,
}

#[derive(Debug)]
struct Group {
    lanes: Vec<Lane>,
    /// The windows of all subscriptions together.
    window: usize,
}

#[derive(Debug)]
struct Lane {
    key: LaneKey,
    /// Every message up to here was read.
    read_through: i64,
    ready: BTreeMap<i64, Ready>,
    out: usize,
    /// Whether there was nothing more when it was read last.
    drained: bool,
    /// How often messages were published to it here.
    publishes: u64,
}

#[derive(Debug)]
struct Ready {
    payload: Bytes,
    redelivered: bool,
}

#[derive(Debug)]
struct Out {
    group: Arc<str>,
    lane: usize,
    payload: Bytes,
}

/// A message to deliver.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) seq: i64,
    pub(super) payload: Bytes,
    pub(super) redelivered: bool,
}

/// A lane to read on.
#[derive(Debug)]
pub(super) struct Hungry {
    pub(super) key: LaneKey,
    pub(super) after: i64,
    pub(super) room: usize,
    publishes: u64,
}

/// Returns where a lane stands among its group's, in the order of [`LaneKey::all`].
fn index(priority: Priority, lane: usize) -> usize {
    let before = Priority::ALL.into_iter().take_while(|other| *other != priority);
    before.map(|other| usize::from(other.lanes())).sum::<usize>() + lane
}

impl Lanes {
    pub(super) fn subscribe(&mut self, group: &Arc<str>, window: usize) {
        let entry = self.groups.entry(Arc::clone(group)).or_insert_with(|| Group {
            lanes: LaneKey::all(group)
                .map(|key| Lane { key, read_through: 0, ready: BTreeMap::new(), out: 0, drained: false, publishes: 0 })
                .collect(),
            window: 0,
        });
        entry.window += window;
    }

    pub(super) fn unsubscribe(&mut self, group: &str, window: usize) {
        if let Some(group) = self.groups.get_mut(group) {
            group.window = group.window.saturating_sub(window);
        }
    }

    /// Takes the next message of a group.
    pub(super) fn take(&mut self, group: &str, turns: &mut Turns) -> Option<Delivered> {
        let (name, entry) = self.groups.get_key_value(group)?;
        let name = Arc::clone(name);
        let deliverable = |lane: &Lane| !lane.ready.is_empty() && lane.out < entry.window;
        let waiting = |priority, lane| entry.lanes.get(index(priority, lane)).is_some_and(deliverable);
        let (priority, lane) = turns.pick(waiting)?;
        let lane = index(priority, lane);
        let from = self.groups.get_mut(group)?.lanes.get_mut(lane)?;
        let (seq, Ready { payload, redelivered }) = from.ready.pop_first()?;
        from.out += 1;
        self.out.insert(seq, Out { group: name, lane, payload: payload.clone() });
        Some(Delivered { seq, payload, redelivered })
    }

    /// Forgets a delivered message; tells whether it was there.
    pub(super) fn forget(&mut self, seq: i64) -> bool {
        self.settled(seq).is_some()
    }

    /// Makes a delivered message deliverable again.
    pub(super) fn give_back(&mut self, seq: i64) {
        if let Some((lane, payload)) = self.settled(seq) {
            lane.ready.insert(seq, Ready { payload, redelivered: true });
        }
    }

    fn settled(&mut self, seq: i64) -> Option<(&mut Lane, Bytes)> {
        let Out { group, lane, payload } = self.out.remove(&seq)?;
        let lane = self.groups.get_mut(&group)?.lanes.get_mut(lane)?;
        lane.out -= 1;
        Some((lane, payload))
    }

    /// Notes that messages were published here.
    pub(super) fn published<'a>(&mut self, keys: impl Iterator<Item = &'a LaneKey>) {
        for key in keys {
            let lane = index(key.priority, usize::from(key.lane));
            if let Some(lane) = self.groups.get_mut(&key.group).and_then(|group| group.lanes.get_mut(lane)) {
                lane.drained = false;
                lane.publishes += 1;
            }
        }
    }

    /// Notes that other processes may have published.
    pub(super) fn look_again(&mut self) {
        for lane in self.groups.values_mut().flat_map(|group| &mut group.lanes) {
            lane.drained = false;
        }
    }

    /// Returns the lanes that have room and may have more to read.
    pub(super) fn hungry(&self) -> Vec<Hungry> {
        let hungry = |group: &Group, lane: &Lane| {
            let room = group.window.saturating_sub(lane.ready.len() + lane.out);
            // Half a window at a time, unless there is nothing else to deliver.
            let worth_it = room > 0 && (lane.ready.is_empty() || room * 2 >= group.window);
            (worth_it && !lane.drained).then(|| Hungry {
                key: lane.key.clone(),
                after: lane.read_through,
                room,
                publishes: lane.publishes,
            })
        };
        self.groups.values().flat_map(|group| group.lanes.iter().filter_map(|lane| hungry(group, lane))).collect()
    }

    /// Takes in what was read; tells whether it was anything.
    pub(super) fn fill(&mut self, hungry: &Hungry, messages: Vec<Enqueued>) -> bool {
        let index = index(hungry.key.priority, usize::from(hungry.key.lane));
        let Some(lane) = self.groups.get_mut(&hungry.key.group).and_then(|group| group.lanes.get_mut(index)) else {
            return false;
        };
        // What was published since it was read may stand above.
        lane.drained = messages.len() < hungry.room && lane.publishes == hungry.publishes;
        let some = !messages.is_empty();
        for Enqueued { seq, payload } in messages {
            lane.read_through = lane.read_through.max(seq);
            lane.ready.insert(seq, Ready { payload, redelivered: false });
        }
        some
    }

    /// Returns up to where a lane was read, and how many messages above that came back to it.
    pub(super) fn standing(&self, key: &LaneKey) -> (i64, u64) {
        let index = index(key.priority, usize::from(key.lane));
        let lane =
            self.groups.get(&key.group).filter(|group| group.window == 0).and_then(|group| group.lanes.get(index));
        let read_through = self.groups.get(&key.group).and_then(|group| group.lanes.get(index));
        // With nobody subscribed, what was read and not delivered is as ready as what was not read.
        (read_through.map_or(0, |lane| lane.read_through), lane.map_or(0, |lane| lane.ready.len() as u64))
    }

    pub(super) fn asides_taken(&self) -> usize {
        self.asides.len()
    }

    /// Takes a message that was put aside; tells whether nobody had.
    pub(super) fn take_aside(&mut self, id: i64) -> bool {
        self.asides.insert(id)
    }

    /// Notes that a message that was put aside is settled.
    pub(super) fn settle_aside(&mut self, id: i64) {
        self.asides_settled.push(id);
    }

    /// Returns which messages that were put aside are settled.
    pub(super) fn asides_settled(&self) -> Vec<i64> {
        self.asides_settled.clone()
    }

    /// Forgets messages that were put aside, once their rows are deleted.
    pub(super) fn forget_asides(&mut self, gone: &[i64]) {
        self.asides_settled.retain(|id| !gone.contains(id));
        for id in gone {
            self.asides.remove(id);
        }
    }

    /// Gives back a message that was put aside.
    pub(super) fn return_aside(&mut self, id: i64) {
        self.asides.remove(&id);
    }
}
