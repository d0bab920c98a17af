//! What every broker must do. [`broker_suite!`](crate::broker_suite) makes one test of each function for a back end.
#![expect(clippy::unwrap_used, reason = "a suite of tests: what fails must panic")]

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gristmill_common::broker::{Broker, Confirm, Consumer, Delivery, Outgoing};
use gristmill_common::job::{LaneKey, Priority};
use tokio::time::{Instant, sleep, timeout};

mod cases;
mod streams;

pub use cases::*;
pub use streams::*;

/// Longest time that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a message that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(300);

/// The model groups that the suite uses, so that a harness can remove their queues.
pub const GROUPS: [&str; 6] = ["alpha", "beta", "undeclared", "openai/gpt-4.1 mini", "a.b.bulk.0", "模型 100% +&?#"];

/// A back end under test: opens brokers on the same queues, one after the other.
pub struct Scene {
    connect: Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Broker>> + Send + Sync>,
    _guard: Box<dyn Send + Sync>,
}

impl Scene {
    /// Takes what opens a broker, and what removes its queues when it is dropped.
    pub fn new<F>(connect: impl Fn() -> F + Send + Sync + 'static, guard: impl Send + Sync + 'static) -> Self
    where
        F: Future<Output = Arc<dyn Broker>> + Send + 'static,
    {
        Self { connect: Box::new(move || Box::pin(connect())), _guard: Box::new(guard) }
    }

    async fn open(&self) -> Arc<dyn Broker> {
        (self.connect)().await
    }

    /// Opens a broker that has the queues of `alpha`.
    async fn alpha(&self) -> Arc<dyn Broker> {
        let broker = self.open().await;
        broker.declare(&["alpha".to_owned()]).await.unwrap();
        broker
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scene").finish_non_exhaustive()
    }
}

/// Makes one test of each behaviour for a back end: `broker_suite!(scene)`, where `scene` is an `async fn() -> Scene`.
#[macro_export]
macro_rules! broker_suite {
    ($scene:path) => {
        $crate::broker_suite!($scene:
            declaring_and_checking_can_be_repeated,
            bytes_arrive_unchanged,
            acked_messages_do_not_come_again,
            unsettled_messages_come_again_marked_as_such,
            what_a_dropped_consumer_delivered_can_still_be_settled,
            each_lane_of_each_group_is_a_queue_of_its_own,
            priorities_share_by_weight_and_none_starves,
            lanes_of_a_priority_take_turns,
            the_window_bounds_unacknowledged_deliveries,
            the_window_can_be_changed,
            concurrent_publishes_are_all_confirmed_and_delivered_once,
            a_large_call_is_confirmed_message_by_message,
            consumers_of_a_group_share_its_messages,
            waiting_for_a_message_is_cancel_safe,
            depths_tell_what_is_ready,
            messages_put_aside_come_back_with_reason_and_origin,
            a_message_without_a_queue_is_not_lost,
            shutdown_gives_back_what_is_unsettled,
            any_text_can_name_a_group,
            a_message_above_the_limit_is_refused,
            pieces_are_heard_in_the_order_in_which_they_are_told,
            streams_do_not_mix_and_one_that_nobody_hears_harms_nobody,
            a_listener_that_is_slow_or_gone_holds_nobody_up_and_keeps_little,
            waiting_for_a_piece_is_cancel_safe,
            shutdown_ends_the_listening,
        );
    };
    ($scene:path: $($name:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::suite::broker::$name($scene().await).await;
            }
        )+
    };
}

/// Makes the key of a lane.
pub fn lane(group: &str, priority: Priority, lane: u8) -> LaneKey {
    LaneKey { group: group.into(), priority, lane }
}

/// Makes numbered payloads.
pub fn numbered(label: &str, count: usize) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from(format!("{label} {n}"))).collect()
}

/// Publishes to a lane; all must be confirmed.
pub async fn publish(broker: &dyn Broker, lane: &LaneKey, payloads: &[Bytes]) {
    let messages = payloads
        .iter()
        .map(|payload| Outgoing { lane: lane.clone(), payload: payload.clone(), traceparent: None })
        .collect();
    let confirms = within("publishing", broker.publish(messages)).await.unwrap();
    assert_eq!(confirms, vec![Confirm::Confirmed; payloads.len()]);
}

/// Waits for the next message.
pub async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    within("waiting for a message", consumer.next()).await.expect("the consumer goes on")
}

/// Waits for messages and acks them.
pub async fn take(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Bytes> {
    let mut payloads = Vec::with_capacity(count);
    for _ in 0..count {
        let delivery = next(consumer).await;
        payloads.push(delivery.payload.clone());
        delivery.settle.ack();
    }
    payloads
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("too long: {what}"))
}

async fn depth(broker: &dyn Broker, lane: &LaneKey) -> u64 {
    broker.depths(std::slice::from_ref(lane)).await.unwrap()[0]
}

/// Waits until a consumer whose window is large enough has got all messages, and has had the time to sort them.
async fn until_taken(broker: &dyn Broker, lanes: &[LaneKey]) {
    let mut empty = 0;
    until("all messages are delivered", async || {
        let left: u64 = broker.depths(lanes).await.unwrap().iter().sum();
        empty = if left == 0 { empty + 1 } else { 0 };
        empty > 10
    })
    .await;
}

async fn expect_silence(consumer: &mut Box<dyn Consumer>) {
    let got = timeout(SILENCE, consumer.next()).await;
    assert!(got.is_err(), "nothing should come: {got:?}");
    assert!(consumer.try_next().is_none());
}
