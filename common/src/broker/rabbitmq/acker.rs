//! Settling the deliveries of one channel: one task, so that acks leave in order.
//!
//! Two tasks that ack with `multiple` race: the lower tag then arrives second, is unknown by then, and RabbitMQ closes the
//! channel. Acking one by one costs a third of the throughput. So all settlements of a channel come here, and what has
//! arrived is sent as few frames. A settlement that is lost makes a copy, never a loss.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::super::{Settle, Settled, Settler};

/// Most settlements that one round takes.
const ROUND: usize = 4_096;

/// How long an ack waits for the deliveries before it to be settled too, so that one frame does for all.
const HOLD: Duration = Duration::from_millis(20);

/// Where the settlements of one channel go. A channel that replaces it has another one, so old tags cannot reach it.
#[derive(Debug)]
pub(super) struct ChannelSettler {
    // Unbounded, and yet bounded: by the deliveries that the channel's window lets out.
    settled: UnboundedSender<(u64, Settled)>,
    unsettled: AtomicUsize,
}

impl ChannelSettler {
    /// Makes the right to settle one delivery.
    pub(super) fn right(self: &Arc<Self>, tag: u64) -> Settle {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
        Settle::new(tag, Arc::<Self>::clone(self))
    }

    /// Returns how many deliveries are not settled yet.
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.load(Ordering::Relaxed)
    }
}

impl Settler for ChannelSettler {
    fn settle(&self, tag: u64, how: Settled) {
        self.unsettled.fetch_sub(1, Ordering::Relaxed);
        // Fails when the channel is gone; RabbitMQ has taken its deliveries back then.
        let _ = self.settled.send((tag, how));
    }
}

/// Starts the acking task of a channel, whose tags must begin at 1 and all be given out by [`ChannelSettler::right`].
///
/// It ends when all rights are used and the settler is dropped, when `finish` is cancelled (after sending what has arrived),
/// or with the channel.
pub(super) fn start(
    tasks: &TaskTracker,
    channel: Channel,
    window: u16,
    finish: CancellationToken,
) -> (Arc<ChannelSettler>, JoinHandle<()>) {
    let (sender, receiver) = unbounded_channel();
    let task = tasks.spawn(run(channel, receiver, usize::from(window), finish));
    (Arc::new(ChannelSettler { settled: sender, unsettled: AtomicUsize::new(0) }), task)
}

async fn run(
    channel: Channel,
    mut settled: UnboundedReceiver<(u64, Settled)>,
    window: usize,
    finish: CancellationToken,
) {
    let mut coalescer = Coalescer::default();
    let mut round = Vec::new();
    let mut held_since: Option<Instant> = None;
    loop {
        let hold_ends = held_since.map(|since| since + HOLD);
        let last = tokio::select! {
            biased;
            count = settled.recv_many(&mut round, ROUND) => count == 0,
            () = finish.cancelled() => {
                while let Ok(one) = settled.try_recv() {
                    round.push(one);
                }
                true
            }
            () = tokio::time::sleep_until(hold_ends.unwrap_or_else(Instant::now)), if hold_ends.is_some() => false,
        };
        let mut frames = coalescer.take(round.drain(..));
        // A held ack keeps a place of the window; a small window has none to spare.
        let hold_is_over = hold_ends.is_some_and(|end| end <= Instant::now());
        if last || hold_is_over || coalescer.held() * 4 >= window {
            coalescer.release(&mut frames);
        }
        held_since = if coalescer.held() == 0 { None } else { held_since.or_else(|| Some(Instant::now())) };
        for frame in frames {
            let sent = match frame {
                Frame::Ack { tag, multiple } => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
                // `nack`, not `reject`: RabbitMQ 4.3 counts only the latter towards the delivery limit.
                Frame::GiveBack { tag } => {
                    channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
                }
            };
            if let Err(error) = sent {
                debug!(%error, "settling on a lost channel");
                return;
            }
        }
        if last {
            return;
        }
    }
}

/// What is sent to RabbitMQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// `basic.ack`; `multiple` includes all lower tags.
    Ack { tag: u64, multiple: bool },
    /// `basic.nack` with `requeue`.
    GiveBack { tag: u64 },
}

/// Turns settlements in any order into few frames.
#[derive(Debug, Default)]
struct Coalescer {
    /// All tags up to here are settled and sent.
    floor: u64,
    /// Settled tags above the floor, and whether they are acks still to be sent.
    above: BTreeMap<u64, bool>,
    held: usize,
}

impl Coalescer {
    /// Takes settlements; returns the frames that should go out now.
    ///
    /// An ack above a delivery that is not settled yet is held; [`Self::release`] lets it go.
    fn take(&mut self, settled: impl Iterator<Item = (u64, Settled)>) -> Vec<Frame> {
        let mut frames = Vec::new();
        for (tag, how) in settled {
            let ack = how == Settled::Ack;
            if !ack {
                // Before every ack of this round: one with `multiple` must not take it along.
                frames.push(Frame::GiveBack { tag });
            }
            self.held += usize::from(ack);
            self.above.insert(tag, ack);
        }
        let mut highest = None;
        while let Some(ack) = self.above.remove(&(self.floor + 1)) {
            self.floor += 1;
            if ack {
                self.held -= 1;
                highest = Some(self.floor);
            }
        }
        if let Some(tag) = highest {
            frames.push(Frame::Ack { tag, multiple: true });
        }
        frames
    }

    /// Returns how many acks are held.
    const fn held(&self) -> usize {
        self.held
    }

    /// Adds what was held, one frame each.
    fn release(&mut self, frames: &mut Vec<Frame>) {
        if self.held == 0 {
            return;
        }
        for (tag, ack) in &mut self.above {
            if std::mem::take(ack) {
                frames.push(Frame::Ack { tag: *tag, multiple: false });
            }
        }
        self.held = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const ACK: Settled = Settled::Ack;
    const BACK: Settled = Settled::GiveBack;

    fn up_to(tag: u64) -> Frame {
        Frame::Ack { tag, multiple: true }
    }

    fn one(tag: u64) -> Frame {
        Frame::Ack { tag, multiple: false }
    }

    #[test]
    fn rounds_become_few_frames() {
        type Round = (&'static [(u64, Settled)], bool, Vec<Frame>);
        let back = |tag| Frame::GiveBack { tag };
        let cases: [(&str, Vec<Round>); 6] = [
            (
                "in order",
                vec![(&[(1, ACK), (2, ACK), (3, ACK)], false, vec![up_to(3)]), (&[(4, ACK)], false, vec![up_to(4)])],
            ),
            ("any order", vec![(&[(3, ACK), (1, ACK), (2, ACK)], false, vec![up_to(3)])]),
            ("held, then closed", vec![(&[(2, ACK), (3, ACK)], false, vec![]), (&[(1, ACK)], false, vec![up_to(3)])]),
            (
                "released",
                vec![
                    (&[(2, ACK), (4, ACK)], true, vec![one(2), one(4)]),
                    (&[(1, ACK), (3, ACK)], false, vec![up_to(3)]),
                ],
            ),
            ("give-backs first", vec![(&[(1, ACK), (3, ACK), (2, BACK)], false, vec![back(2), up_to(3)])]),
            (
                "give-back below",
                vec![
                    (&[(2, ACK)], true, vec![one(2)]),
                    (&[(1, BACK)], false, vec![back(1)]),
                    (&[(3, ACK)], false, vec![up_to(3)]),
                ],
            ),
        ];
        for (name, rounds) in cases {
            let mut coalescer = Coalescer::default();
            for (settled, release, expected) in rounds {
                let mut frames = coalescer.take(settled.iter().copied());
                if release {
                    coalescer.release(&mut frames);
                }
                assert_eq!(frames, expected, "{name}");
            }
        }
    }

    /// RabbitMQ's side of a channel: knows what is outstanding and refuses tags that are not.
    struct Peer {
        outstanding: BTreeSet<u64>,
        acked: BTreeSet<u64>,
        given_back: BTreeSet<u64>,
    }

    impl Peer {
        fn receive(&mut self, frame: Frame) {
            let (Frame::Ack { tag, .. } | Frame::GiveBack { tag }) = frame;
            assert!(self.outstanding.remove(&tag), "unknown delivery tag {tag}");
            match frame {
                Frame::Ack { multiple, .. } => {
                    self.acked.insert(tag);
                    if multiple {
                        let above = self.outstanding.split_off(&tag);
                        self.acked.append(&mut self.outstanding);
                        self.outstanding = above;
                    }
                }
                Frame::GiveBack { .. } => {
                    self.given_back.insert(tag);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_delivery_ends_as_it_was_settled(
            order in (1u64..200).prop_flat_map(|count| Just((1..=count).collect::<Vec<_>>()).prop_shuffle()),
            acks in proptest::collection::vec(proptest::bool::weighted(0.8), 200),
            rounds in proptest::collection::vec((1usize..20, any::<bool>()), 200),
        ) {
            let how = |tag: u64| if acks[usize::try_from(tag).unwrap()] { ACK } else { BACK };
            let all: BTreeSet<u64> = order.iter().copied().collect();
            let mut peer = Peer { outstanding: all.clone(), acked: BTreeSet::new(), given_back: BTreeSet::new() };
            let mut coalescer = Coalescer::default();
            let mut rest = order.as_slice();
            for (size, release) in rounds {
                let (round, later) = rest.split_at(size.min(rest.len()));
                rest = later;
                let mut frames = coalescer.take(round.iter().map(|tag| (*tag, how(*tag))));
                if release {
                    coalescer.release(&mut frames);
                }
                frames.into_iter().for_each(|frame| peer.receive(frame));
            }
            prop_assert!(rest.is_empty() && peer.outstanding.is_empty() && coalescer.held() == 0);
            prop_assert!(coalescer.above.is_empty());
            prop_assert!(peer.acked.iter().all(|tag| how(*tag) == ACK));
            prop_assert!(peer.given_back.iter().all(|tag| how(*tag) == BACK));
            prop_assert_eq!(peer.acked.len() + peer.given_back.len(), all.len());
        }
    }
}
