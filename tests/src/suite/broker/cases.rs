//! The behaviours, one function each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use gristmill_common::broker::{Aside, Confirm, Error, Outgoing};
use gristmill_common::envelope::MAX_MESSAGE_BYTES;
use gristmill_common::job::{LaneKey, Priority};
use tokio::time::{Instant, sleep, timeout};

use super::{
    GROUPS, PATIENCE, SILENCE, Scene, depth, expect_silence, lane, next, numbered, publish, take, until, until_taken,
    within,
};

/// Declares the same queues again and again, and looks after the broker.
pub async fn declaring_and_checking_can_be_repeated(scene: Scene) {
    let broker = scene.open().await;
    let groups = ["alpha".to_owned(), "beta".to_owned()];
    for _ in 0..3 {
        broker.declare(&groups).await.unwrap();
        broker.check().await.unwrap();
    }
    broker.declare(&[]).await.unwrap();
    assert_eq!(broker.publish(Vec::new()).await.unwrap(), []);
    assert!(broker.depths(&[]).await.unwrap().is_empty());
    broker.shutdown().await;
}

/// Carries any bytes, from none to the limit.
pub async fn bytes_arrive_unchanged(scene: Scene) {
    let broker = scene.alpha().await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let payloads: Vec<Bytes> =
        [Vec::new(), b"{}".to_vec(), vec![0], vec![0xCE; 131_072], every_byte, vec![b'x'; MAX_MESSAGE_BYTES]]
            .map(Bytes::from)
            .into();
    publish(&*broker, &lane("alpha", Priority::Standard, 2), &payloads).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    for payload in &payloads {
        let delivery = next(&mut consumer).await;
        assert!(delivery.payload == *payload, "{} bytes came as {}", payload.len(), delivery.payload.len());
        assert!(!delivery.redelivered);
        delivery.settle.ack();
    }
    broker.shutdown().await;
}

/// Forgets what was acked, also for the next subscription and after a restart.
pub async fn acked_messages_do_not_come_again(scene: Scene) {
    let broker = scene.alpha().await;
    let bulk = lane("alpha", Priority::Bulk, 1);
    let payloads = numbered("first", 200);
    publish(&*broker, &bulk, &payloads).await;
    let mut consumer = broker.consume("alpha", 50).await.unwrap();
    assert_eq!(take(&mut consumer, 200).await, payloads, "in order");
    drop(consumer);
    // The queue is in order, so what came again would come before this.
    publish(&*broker, &bulk, &numbered("second", 1)).await;
    let mut consumer = broker.consume("alpha", 50).await.unwrap();
    assert_eq!(take(&mut consumer, 1).await, numbered("second", 1));
    broker.shutdown().await;

    let broker = scene.alpha().await;
    publish(&*broker, &bulk, &numbered("third", 1)).await;
    let mut consumer = broker.consume("alpha", 50).await.unwrap();
    assert_eq!(take(&mut consumer, 1).await, numbered("third", 1));
    broker.shutdown().await;
}

/// Delivers again what was dropped unsettled.
pub async fn unsettled_messages_come_again_marked_as_such(scene: Scene) {
    let broker = scene.alpha().await;
    let high = lane("alpha", Priority::High, 0);
    publish(&*broker, &high, &numbered("m", 3)).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    let first = next(&mut consumer).await;
    assert!(!first.redelivered);
    let payload = first.payload.clone();
    drop(first);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.redelivered, delivery.payload == payload, "{:?}", delivery.payload);
        seen.push(delivery.payload.clone());
        delivery.settle.ack();
    }
    seen.sort();
    assert_eq!(seen, numbered("m", 3));
    expect_silence(&mut consumer).await;
    broker.shutdown().await;
}

/// Keeps the right to settle alive longer than the subscription.
pub async fn what_a_dropped_consumer_delivered_can_still_be_settled(scene: Scene) {
    let broker = scene.alpha().await;
    let high = lane("alpha", Priority::High, 0);
    publish(&*broker, &high, &numbered("m", 4)).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(next(&mut consumer).await);
    }
    drop(consumer);
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    // The two that nobody had taken come again at once.
    let mut others = take(&mut consumer, 2).await;
    others.sort();
    assert_eq!(others, numbered("m", 4)[2..]);
    expect_silence(&mut consumer).await;
    let back = held.pop().unwrap();
    let payload = back.payload.clone();
    held.pop().unwrap().settle.ack();
    drop(back);
    assert_eq!(take(&mut consumer, 1).await, [payload]);
    expect_silence(&mut consumer).await;
    broker.shutdown().await;
}

/// Keeps lanes, priorities and groups apart.
pub async fn each_lane_of_each_group_is_a_queue_of_its_own(scene: Scene) {
    let broker = scene.alpha().await;
    broker.declare(&["beta".to_owned()]).await.unwrap();
    for group in ["alpha", "beta"] {
        for key in LaneKey::all(group) {
            publish(&*broker, &key, &[Bytes::from(key.to_string())]).await;
        }
    }
    for group in ["alpha", "beta"] {
        let lanes: Vec<LaneKey> = LaneKey::all(group).collect();
        assert_eq!(broker.depths(&lanes).await.unwrap(), vec![1; lanes.len()]);
        let mut consumer = broker.consume(group, 10).await.unwrap();
        let got: BTreeSet<Bytes> = take(&mut consumer, lanes.len()).await.into_iter().collect();
        assert_eq!(got, lanes.iter().map(|key| Bytes::from(key.to_string())).collect());
        expect_silence(&mut consumer).await;
    }
    broker.shutdown().await;
}

/// Serves high, standard and bulk 6 : 3 : 1 while all have work.
pub async fn priorities_share_by_weight_and_none_starves(scene: Scene) {
    let broker = scene.alpha().await;
    let lanes: Vec<LaneKey> = Priority::ALL.into_iter().map(|priority| lane("alpha", priority, 0)).collect();
    for key in &lanes {
        publish(&*broker, key, &numbered(key.priority.as_str(), 100)).await;
    }
    let mut consumer = broker.consume("alpha", 200).await.unwrap();
    until_taken(&*broker, &lanes).await;
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    let mut since_bulk = 0;
    for payload in take(&mut consumer, 100).await {
        let priority = std::str::from_utf8(&payload).unwrap().split(' ').next().unwrap().to_owned();
        since_bulk = if priority == "bulk" { 0 } else { since_bulk + 1 };
        assert!(since_bulk <= 30, "bulk starves");
        *shares.entry(priority).or_default() += 1;
    }
    let expected = [("high", 60), ("standard", 30), ("bulk", 10)];
    for (priority, share) in expected {
        assert!(shares[priority].abs_diff(share) <= 5, "{shares:?} instead of {expected:?}");
    }
    // With the others empty, the rest comes at once.
    take(&mut consumer, 200).await;
    broker.shutdown().await;
}

/// Serves the lanes of a priority in turn, so that a long one does not hold back a short one.
pub async fn lanes_of_a_priority_take_turns(scene: Scene) {
    let broker = scene.alpha().await;
    let lanes: Vec<LaneKey> = (0..4).map(|n| lane("alpha", Priority::Bulk, n)).collect();
    publish(&*broker, &lanes[0], &numbered("0", 100)).await;
    for (n, key) in lanes.iter().enumerate().skip(1) {
        publish(&*broker, key, &numbered(&n.to_string(), 5)).await;
    }
    let mut consumer = broker.consume("alpha", 200).await.unwrap();
    until_taken(&*broker, &lanes).await;
    let first = take(&mut consumer, 24).await;
    let long = first.iter().filter(|payload| payload.starts_with(b"0 ")).count();
    assert!((5..=12).contains(&long), "{long} of the first 24 are of the long lane");
    take(&mut consumer, 91).await;
    broker.shutdown().await;
}

/// A window that is made smaller lets less out, one that is made larger lets more out, and nothing is lost on the way.
pub async fn the_window_can_be_changed(scene: Scene) {
    // More than the waiting for the smaller window takes.
    const MESSAGES: usize = 700;
    let broker = scene.alpha().await;
    publish(&*broker, &lane("alpha", Priority::Standard, 3), &numbered("m", MESSAGES)).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    let mut seen = take(&mut consumer, 5).await;
    consumer.resize(2);
    // It takes effect soon: until then a third may come.
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "the window stays as it was");
        let two = [next(&mut consumer).await, next(&mut consumer).await];
        let third = timeout(SILENCE, consumer.next()).await.ok().flatten();
        let small = third.is_none();
        for delivery in two.into_iter().chain(third) {
            seen.push(delivery.payload.clone());
            delivery.settle.ack();
        }
        if small {
            break;
        }
        sleep(SILENCE).await;
    }
    consumer.resize(6);
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(next(&mut consumer).await);
    }
    for delivery in held {
        seen.push(delivery.payload.clone());
        delivery.settle.ack();
    }
    let left = MESSAGES - seen.len();
    seen.extend(take(&mut consumer, left).await);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), MESSAGES, "each message once");
    broker.shutdown().await;
}

/// Delivers no more than the window before something is settled.
pub async fn the_window_bounds_unacknowledged_deliveries(scene: Scene) {
    let broker = scene.alpha().await;
    let standard = lane("alpha", Priority::Standard, 3);
    publish(&*broker, &standard, &numbered("m", 40)).await;
    let mut consumer = broker.consume("alpha", 5).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut consumer).await);
    }
    expect_silence(&mut consumer).await;
    assert_eq!(depth(&*broker, &standard).await, 35);
    held.pop().unwrap().settle.ack();
    held.push(next(&mut consumer).await);
    expect_silence(&mut consumer).await;
    // Another lane has its own window.
    publish(&*broker, &lane("alpha", Priority::High, 0), &numbered("other", 1)).await;
    assert_eq!(take(&mut consumer, 1).await, numbered("other", 1));
    held.drain(..).for_each(|delivery| delivery.settle.ack());
    take(&mut consumer, 34).await;
    broker.shutdown().await;
}

/// Confirms and delivers 10,000 messages of many callers, each once while nothing fails.
pub async fn concurrent_publishes_are_all_confirmed_and_delivered_once(scene: Scene) {
    const CALLERS: usize = 100;
    const MESSAGES: usize = 100;
    let broker = scene.alpha().await;
    let mut consumer = broker.consume("alpha", 500).await.unwrap();
    let lanes: Vec<LaneKey> = LaneKey::all("alpha").collect();
    let callers = (0..CALLERS).map(|caller| {
        let (broker, key) = (Arc::clone(&broker), lanes[caller % lanes.len()].clone());
        async move {
            for payload in numbered(&caller.to_string(), MESSAGES) {
                publish(&*broker, &key, &[payload]).await;
            }
        }
    });
    let received = async {
        let mut seen = BTreeSet::new();
        for payload in take(&mut consumer, CALLERS * MESSAGES).await {
            assert!(seen.insert(payload.clone()), "{payload:?} came twice");
        }
        seen
    };
    let (_, seen) = tokio::join!(join_all(callers), received);
    assert_eq!(seen, (0..CALLERS).flat_map(|caller| numbered(&caller.to_string(), MESSAGES)).collect());
    expect_silence(&mut consumer).await;
    broker.shutdown().await;
}

/// Answers a call that is larger than any window.
pub async fn a_large_call_is_confirmed_message_by_message(scene: Scene) {
    let broker = scene.alpha().await;
    let lanes: Vec<LaneKey> = LaneKey::all("alpha").collect();
    let messages: Vec<Outgoing> = numbered("m", 5_000)
        .into_iter()
        .enumerate()
        .map(|(n, payload)| Outgoing { lane: lanes[n % lanes.len()].clone(), payload, traceparent: None })
        .collect();
    let confirms = within("publishing", broker.publish(messages)).await.unwrap();
    assert_eq!(confirms, vec![Confirm::Confirmed; 5_000]);
    let depths = broker.depths(&lanes).await.unwrap();
    assert_eq!(depths.iter().sum::<u64>(), 5_000);
    broker.shutdown().await;
}

/// Gives each message to one of several consumers.
pub async fn consumers_of_a_group_share_its_messages(scene: Scene) {
    let broker = scene.alpha().await;
    let mut consumers = [broker.consume("alpha", 10).await.unwrap(), broker.consume("alpha", 10).await.unwrap()];
    let payloads = numbered("m", 300);
    publish(&*broker, &lane("alpha", Priority::Standard, 0), &payloads).await;
    let [one, two] = &mut consumers;
    let mut seen = BTreeSet::new();
    while seen.len() < payloads.len() {
        let delivery = tokio::select! {
            delivery = next(one) => delivery,
            delivery = next(two) => delivery,
        };
        assert!(seen.insert(delivery.payload.clone()), "{:?} came twice", delivery.payload);
        delivery.settle.ack();
    }
    broker.shutdown().await;
}

/// Loses nothing when the wait for the next message is given up.
pub async fn waiting_for_a_message_is_cancel_safe(scene: Scene) {
    let broker = scene.alpha().await;
    let mut consumer = broker.consume("alpha", 100).await.unwrap();
    let payloads = numbered("m", 500);
    let high = lane("alpha", Priority::High, 0);
    let publishing = async {
        for chunk in payloads.chunks(7) {
            publish(&*broker, &high, chunk).await;
        }
    };
    let receiving = async {
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while seen.len() < payloads.len() {
            assert!(Instant::now() < deadline, "only {} came", seen.len());
            tokio::select! {
                biased;
                delivery = consumer.next() => {
                    let delivery = delivery.unwrap();
                    seen.push(delivery.payload.clone());
                    delivery.settle.ack();
                }
                () = tokio::task::yield_now() => {}
            }
        }
        seen
    };
    let ((), seen) = tokio::join!(publishing, receiving);
    assert_eq!(seen, payloads);
    broker.shutdown().await;
}

/// Counts what is ready, lane by lane, and nothing where there is no queue.
pub async fn depths_tell_what_is_ready(scene: Scene) {
    let broker = scene.alpha().await;
    let keys =
        [lane("alpha", Priority::High, 0), lane("alpha", Priority::Bulk, 3), lane("undeclared", Priority::Bulk, 0)];
    publish(&*broker, &keys[0], &numbered("m", 3)).await;
    publish(&*broker, &keys[1], &numbered("m", 70)).await;
    until("depths 3, 70, 0", async || broker.depths(&keys).await.unwrap() == [3, 70, 0]).await;
    let mut consumer = broker.consume("alpha", 100).await.unwrap();
    take(&mut consumer, 73).await;
    until("depths 0, 0, 0", async || broker.depths(&keys).await.unwrap() == [0, 0, 0]).await;
    broker.shutdown().await;
}

/// Keeps what was put aside, with its reason and origin, until it is settled.
pub async fn messages_put_aside_come_back_with_reason_and_origin(scene: Scene) {
    let broker = scene.alpha().await;
    let key = lane("alpha", Priority::Standard, 1).routing_key();
    let asides = [(Aside::Dead, "unreadable: it is \u{fc}berhaupt no JSON"), (Aside::Future, "version 9")];
    for (aside, reason) in asides {
        for payload in numbered(reason, 3) {
            broker.put_aside(aside, &key, reason, payload).await.unwrap();
        }
    }
    broker.put_aside(Aside::Dead, &key, &"long ".repeat(10_000), Bytes::from_static(b"long")).await.unwrap();
    for (aside, reason) in asides {
        // Dropped unsettled, they stay; the limit holds.
        let two = broker.take_aside(aside, 2).await.unwrap();
        assert_eq!(two.len(), 2);
        drop(two);
        let mut seen = BTreeSet::new();
        until("all taken", async || {
            for message in broker.take_aside(aside, 100).await.unwrap() {
                assert_eq!(message.routing_key, key);
                assert!(message.reason == reason || message.reason.starts_with("long long"), "{message:?}");
                seen.insert(message.payload.clone());
                message.settle.ack();
            }
            seen.len() == if aside == Aside::Dead { 4 } else { 3 }
        })
        .await;
        assert!(numbered(reason, 3).iter().all(|payload| seen.contains(payload)));
    }
    broker.shutdown().await;

    let broker = scene.open().await;
    for (aside, _) in asides {
        assert!(broker.take_aside(aside, 100).await.unwrap().is_empty(), "{aside:?} comes again");
    }
    broker.shutdown().await;
}

/// Does not lose a message to a group that nobody has declared: it is answered so, or found among the dead, or delivered.
pub async fn a_message_without_a_queue_is_not_lost(scene: Scene) {
    let broker = scene.open().await;
    let key = lane("undeclared", Priority::Standard, 0);
    let payload = Bytes::from_static(b"to nowhere");
    let message = Outgoing { lane: key.clone(), payload: payload.clone(), traceparent: None };
    let confirms = broker.publish(vec![message]).await.unwrap();
    if confirms == [Confirm::Confirmed] {
        let aside = broker.take_aside(Aside::Dead, 10).await.unwrap();
        if aside.is_empty() {
            let mut consumer = broker.consume("undeclared", 10).await.unwrap();
            assert_eq!(take(&mut consumer, 1).await, [payload]);
        } else {
            assert_eq!(aside.len(), 1);
            assert_eq!((aside[0].reason.as_str(), &aside[0].routing_key), ("unrouted", &key.routing_key()));
            assert_eq!(aside[0].payload, payload);
        }
    }
    broker.shutdown().await;
}

/// Ends consumers at the shutdown, and delivers what they had to others.
pub async fn shutdown_gives_back_what_is_unsettled(scene: Scene) {
    let broker = scene.alpha().await;
    let key = lane("alpha", Priority::Standard, 0);
    publish(&*broker, &key, &numbered("m", 20)).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    let acked = take(&mut consumer, 3).await;
    let held = next(&mut consumer).await;
    within("shutting down", broker.shutdown()).await;
    assert!(consumer.next().await.is_none() && consumer.try_next().is_none());
    // Too late to count.
    held.settle.ack();
    assert!(
        broker.publish(vec![Outgoing { lane: key.clone(), payload: Bytes::new(), traceparent: None }]).await.is_err()
    );
    assert!(broker.consume("alpha", 1).await.is_err());
    within("shutting down again", broker.shutdown()).await;

    let broker = scene.alpha().await;
    let mut consumer = broker.consume("alpha", 100).await.unwrap();
    let mut seen = acked;
    seen.extend(take(&mut consumer, 17).await);
    seen.sort();
    let mut all = numbered("m", 20);
    all.sort();
    assert_eq!(seen, all);
    expect_silence(&mut consumer).await;
    broker.shutdown().await;
}

/// Works with groups whose names look like structure, or hold any letters.
pub async fn any_text_can_name_a_group(scene: Scene) {
    let broker = scene.open().await;
    let names = &GROUPS[3..];
    broker.declare(&names.iter().copied().map(str::to_owned).collect::<Vec<_>>()).await.unwrap();
    for name in names {
        publish(&*broker, &lane(name, Priority::High, 0), &[Bytes::from(*name)]).await;
    }
    for name in names {
        let mut consumer = broker.consume(name, 10).await.unwrap();
        assert_eq!(take(&mut consumer, 1).await, [Bytes::from(*name)]);
    }
    broker.shutdown().await;
}

/// Refuses for good what is too large to be carried, and goes on.
pub async fn a_message_above_the_limit_is_refused(scene: Scene) {
    let broker = scene.alpha().await;
    let key = lane("alpha", Priority::High, 0);
    let payload = Bytes::from(vec![b'x'; MAX_MESSAGE_BYTES + 1]);
    let refused = broker.publish(vec![Outgoing { lane: key.clone(), payload, traceparent: None }]).await;
    assert!(matches!(&refused, Err(Error::Setup(text)) if text.contains("too large")), "{refused:?}");
    publish(&*broker, &key, &numbered("m", 1)).await;
    broker.shutdown().await;
}
