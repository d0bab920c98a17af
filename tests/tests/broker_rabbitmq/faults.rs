//! What RabbitMQ, its operators and the network can do to us.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gristmill_common::broker::{Aside, Broker as _, Confirm, Error, Outgoing, RabbitBroker, RabbitOptions};
use gristmill_common::job::{LaneKey, Priority};
use gristmill_tests::proxy::Proxy;
use gristmill_tests::rabbit::{TestRabbit, url};
use gristmill_tests::suite::broker::{lane, next, numbered, publish, take, until};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{key, ready};

/// A broker behind a proxy, with the queues of `m`.
pub(super) async fn proxied(
    rabbit: &TestRabbit,
    change: impl FnOnce(&mut RabbitOptions),
) -> (Proxy, Arc<RabbitBroker>) {
    let proxy = Proxy::start(&url()).await;
    let mut options = rabbit.options();
    options.url = proxy.url(&url());
    change(&mut options);
    let broker = rabbit.broker_with(options).await;
    broker.declare(&["m".to_owned()]).await.unwrap();
    (proxy, broker)
}

/// What RabbitMQ says to a connection that publishes during an alarm: connection.blocked("low on memory"). A real alarm would
/// block everybody's publishers.
pub(super) fn blocked() -> Vec<u8> {
    let mut blocked = vec![1, 0, 0, 0, 0, 0, 18, 0, 10, 0, 60, 13];
    blocked.extend_from_slice(b"low on memory");
    blocked.push(0xCE);
    blocked
}

/// What it says when the alarm is over: connection.unblocked.
pub(super) const UNBLOCKED: [u8; 12] = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 61, 0xCE];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_again_and_again_lose_no_confirmed_message() {
    const CUTS: usize = 10;
    let rabbit = TestRabbit::new(&["m"]);
    let (proxy, broker) = proxied(&rabbit, |_| {}).await;
    let mut consumer = broker.consume("m", 7).await.unwrap();
    let lanes: Vec<LaneKey> = LaneKey::all("m").collect();

    let cuts_over = CancellationToken::new();
    let cutting = async {
        for _ in 0..CUTS {
            sleep(Duration::from_millis(300)).await;
            proxy.cut();
        }
        cuts_over.cancel();
    };
    let (all, mut all_known) = watch::channel(None);
    let publishing = async {
        let mut confirmed = BTreeSet::new();
        let mut call = 0;
        while !cuts_over.is_cancelled() || call < 200 {
            let payloads = numbered(&call.to_string(), 10);
            publish(&*broker, &lanes[call % lanes.len()], &payloads).await;
            confirmed.extend(payloads);
            call += 1;
        }
        all.send_replace(Some(confirmed));
    };
    let receiving = async {
        let mut seen = BTreeSet::new();
        while !all_known.borrow().as_ref().is_some_and(|all| all.is_subset(&seen)) {
            tokio::select! {
                Ok(()) = all_known.changed() => {}
                delivery = next(&mut consumer) => {
                    seen.insert(delivery.payload.clone());
                    delivery.settle.ack();
                }
            }
        }
    };
    timeout(Duration::from_secs(240), async { tokio::join!(cutting, publishing, receiving) }).await.unwrap();

    // Each lane has subscribed again, with its window.
    until("nine consumers with a window of 7", async || rabbit.windows().await == [7; 9]).await;
    publish(&*broker, &key(Priority::High), &numbered("last", 1)).await;
    while take(&mut consumer, 1).await != numbered("last", 1) {}
    broker.shutdown().await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_by_an_operator_come_back_with_their_windows() {
    let rabbit = TestRabbit::new(&["m"]);
    let broker = ready(&rabbit).await;
    let mut consumer = broker.consume("m", 11).await.unwrap();
    until("nine consumers", async || rabbit.windows().await == [11; 9]).await;
    for round in ["one", "two"] {
        rabbit.close_connections().await;
        publish(&*broker, &key(Priority::Bulk), &numbered(round, 50)).await;
        let mut seen = BTreeSet::new();
        until("all delivered", async || {
            seen.extend(take(&mut consumer, 1).await);
            numbered(round, 50).iter().all(|payload| seen.contains(payload))
        })
        .await;
    }
    until("nine consumers again", async || rabbit.windows().await == [11; 9]).await;
    broker.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_of_a_lost_connection_are_ignored() {
    let rabbit = TestRabbit::new(&["m"]);
    let (proxy, broker) = proxied(&rabbit, |_| {}).await;
    let onlooker = rabbit.broker().await;
    let high = key(Priority::High);
    publish(&*broker, &high, &numbered("m", 20)).await;
    let mut consumer = broker.consume("m", 10).await.unwrap();
    let mut old = Vec::new();
    for _ in 0..10 {
        old.push(next(&mut consumer).await);
    }
    proxy.refuse(true);
    // RabbitMQ has noticed before anybody subscribes again.
    until("all 20 are ready", async || onlooker.depths(std::slice::from_ref(&high)).await.unwrap() == [20]).await;
    proxy.refuse(false);
    let mut fresh = vec![next(&mut consumer).await];
    assert!(fresh[0].redelivered);
    // The tags are those of the new channel, too.
    for (n, delivery) in old.drain(..).enumerate() {
        if n % 2 == 0 {
            delivery.settle.ack();
        }
    }
    for _ in 0..9 {
        fresh.push(next(&mut consumer).await);
    }
    assert!(timeout(Duration::from_millis(300), consumer.next()).await.is_err(), "an old ack freed a place");
    fresh.drain(..).for_each(|delivery| delivery.settle.ack());
    let mut rest = take(&mut consumer, 10).await;
    rest.sort();
    let mut expected = numbered("m", 20).split_off(10);
    expected.sort();
    assert_eq!(rest, expected);
    broker.shutdown().await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_from_many_tasks_in_any_order_keeps_the_channel() {
    const MESSAGES: usize = 5_000;
    let rabbit = TestRabbit::new(&["m"]);
    let broker = ready(&rabbit).await;
    publish(&*broker, &key(Priority::Standard), &numbered("m", MESSAGES)).await;
    let mut consumer = broker.consume("m", 500).await.unwrap();
    let tasks = TaskTracker::new();
    let mut seen = BTreeSet::new();
    let mut given_back = 0;
    while seen.len() < MESSAGES {
        let delivery = next(&mut consumer).await;
        assert!(seen.insert(delivery.payload.clone()) || delivery.redelivered);
        if !delivery.redelivered && seen.len() % 50 == 0 {
            given_back += 1;
            seen.remove(&delivery.payload);
            tasks.spawn(async move { drop(delivery) });
        } else {
            tasks.spawn(async move {
                sleep(Duration::from_micros(u64::from(delivery.payload.last().copied().unwrap() % 7) * 300)).await;
                delivery.settle.ack();
            });
        }
    }
    assert!(given_back > 50);
    tasks.close();
    tasks.wait().await;
    // A channel that was closed would deliver again.
    assert!(timeout(Duration::from_millis(500), consumer.next()).await.is_err());
    assert_eq!(broker.depths(&[key(Priority::Standard)]).await.unwrap(), [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_deleted_while_it_is_consumed_is_built_again() {
    let rabbit = TestRabbit::new(&["m"]);
    let broker = ready(&rabbit).await;
    let mut consumer = broker.consume("m", 10).await.unwrap();
    let bulk = key(Priority::Bulk);
    publish(&*broker, &bulk, &numbered("before", 3)).await;
    take(&mut consumer, 3).await;
    let connection = rabbit.connect().await;
    let channel = connection.create_channel().await.unwrap();
    channel.queue_delete(rabbit.queue(&bulk).into(), QueueDeleteOptions::default()).await.unwrap();
    // What is published in between goes to the unrouted, so a new message is published until one comes.
    let mut n = 0;
    until("the queue is there again", async || {
        n += 1;
        publish(&*broker, &bulk, &numbered(&format!("after {n}"), 1)).await;
        timeout(Duration::from_millis(200), consumer.next()).await.is_ok()
    })
    .await;

    // All of it: the exchanges, too.
    channel
        .exchange_delete(format!("{}.submit", rabbit.prefix()).into(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    for key in LaneKey::all("m") {
        channel.queue_delete(rabbit.queue(&key).into(), QueueDeleteOptions::default()).await.unwrap();
    }
    until("everything is there again", async || {
        n += 1;
        publish(&*broker, &bulk, &numbered(&format!("again {n}"), 1)).await;
        timeout(Duration::from_millis(200), consumer.next()).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses() {
    let rabbit = TestRabbit::new(&["m"]);
    let broker = ready(&rabbit).await;
    rabbit.limit_queues(5).await;
    let standard = key(Priority::Standard);
    let one = || vec![Outgoing { lane: standard.clone(), payload: Bytes::from_static(b"x"), traceparent: None }];
    // The policy reaches the queue a little later, and a quorum queue goes over its limit by what is on the way.
    until("refused", async || broker.publish(one()).await.unwrap() == [Confirm::Refused]).await;
    let mut mixed = one();
    mixed.push(Outgoing { lane: key(Priority::High), payload: Bytes::from_static(b"y"), traceparent: None });
    mixed.extend(one());
    let expected = [Confirm::Refused, Confirm::Confirmed, Confirm::Refused];
    assert_eq!(broker.publish(mixed).await.unwrap(), expected);
    let mut consumer = broker.consume("m", 100).await.unwrap();
    until("accepted again", async || {
        while let Some(delivery) = consumer.try_next() {
            delivery.settle.ack();
        }
        broker.publish(one()).await.unwrap() == [Confirm::Confirmed]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_no_queue_is_told_to_the_one_who_published_it() {
    let rabbit = TestRabbit::new(&["m"]);
    let broker = ready(&rabbit).await;
    // Without the exchange for what has no queue, RabbitMQ returns messages.
    let channel = rabbit.connect().await.create_channel().await.unwrap();
    channel
        .exchange_delete(format!("{}.unrouted", rabbit.prefix()).into(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    let callers = (0..40).map(|caller| {
        let broker = Arc::clone(&broker);
        async move {
            for round in 0..25 {
                let lost = |n: usize| (n * 7 + caller + round).is_multiple_of(3);
                let group = |n| if lost(n) { "nowhere" } else { "m" };
                let messages = (0..9).map(|n| Outgoing {
                    lane: lane(group(n), Priority::High, 0),
                    payload: Bytes::from_static(b"x"),
                    traceparent: None,
                });
                let expected: Vec<Confirm> =
                    (0..9).map(|n| if lost(n) { Confirm::Unroutable } else { Confirm::Confirmed }).collect();
                assert_eq!(broker.publish(messages.collect()).await.unwrap(), expected);
            }
        }
    });
    futures_util::future::join_all(callers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_rabbitmq_forgot_is_built_again() {
    let rabbit = TestRabbit::new(&["m"]);
    let options = RabbitOptions { deaf_after: Duration::from_secs(5), ..rabbit.options() };
    let broker = rabbit.broker_with(options).await;
    let mut consumer = broker.consume("m", 10).await.unwrap();
    let standard = key(Priority::Standard);
    publish(&*broker, &standard, &numbered("before", 1)).await;
    take(&mut consumer, 1).await;
    rabbit.deafen(&standard).await;
    publish(&*broker, &standard, &numbered("after", 3)).await;
    assert_eq!(take(&mut consumer, 3).await, numbered("after", 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_blocks_publishing_for_a_bounded_time_and_nothing_else() {
    let rabbit = TestRabbit::new(&["m"]);
    let (proxy, broker) = proxied(&rabbit, |options| options.publish_timeout = Duration::from_secs(5)).await;
    let high = key(Priority::High);
    publish(&*broker, &high, &numbered("m", 5)).await;
    let publishing = format!("{} publish", rabbit.prefix());
    proxy.say(&publishing, &blocked()).await;
    let message = || vec![Outgoing { lane: high.clone(), payload: Bytes::from_static(b"late"), traceparent: None }];
    let error = until_err(&broker, message, |error| matches!(error, Error::Blocked { .. })).await;
    assert!(matches!(&error, Error::Blocked { reason } if reason == "low on memory"), "{error}");
    assert!(error.is_transient());
    // The rest goes on.
    let mut consumer = broker.consume("m", 10).await.unwrap();
    take(&mut consumer, 5).await;
    until("the queue is empty", async || {
        while let Some(delivery) = consumer.try_next() {
            delivery.settle.ack();
        }
        broker.depths(std::slice::from_ref(&high)).await.unwrap() == [0]
    })
    .await;

    proxy.say(&publishing, &UNBLOCKED).await;
    until("it is confirmed", async || {
        broker.publish(message()).await.is_ok_and(|confirms| confirms == [Confirm::Confirmed])
    })
    .await;
    assert_eq!(take(&mut consumer, 1).await, [Bytes::from_static(b"late")]);
    broker.shutdown().await;
    proxy.stop().await;
}

/// Publishes until it fails as expected: what happened may not have been noticed yet.
pub(super) async fn until_err(
    broker: &RabbitBroker,
    message: impl Fn() -> Vec<Outgoing>,
    is_expected: impl Fn(&Error) -> bool,
) -> Error {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = timeout(Duration::from_secs(60), broker.publish(message())).await.expect("publishing ends");
        match answer {
            Err(error) if is_expected(&error) => return error,
            other => assert!(Instant::now() < deadline, "publishing never fails so: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_told_after_a_bounded_time() {
    let rabbit = TestRabbit::new(&["m"]);
    let (proxy, broker) = proxied(&rabbit, |options| options.publish_timeout = Duration::from_secs(2)).await;
    proxy.stop().await;
    let message = || vec![Outgoing { lane: key(Priority::High), payload: Bytes::from_static(b"x"), traceparent: None }];
    let is_told = |error: &Error| error.to_string().contains("no RabbitMQ at 127.0.0.1:");
    let error = until_err(&broker, message, is_told).await;
    assert!(error.is_transient(), "{error}");
    let error = broker.check().await.unwrap_err().to_string();
    assert!(error.contains("start it or set AMQP_URL"), "{error}");
    timeout(Duration::from_secs(60), broker.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_back_too_often_is_put_aside() {
    let rabbit = TestRabbit::new(&["m"]);
    let broker = ready(&rabbit).await;
    let standard = key(Priority::Standard);
    publish(&*broker, &standard, &numbered("poison", 1)).await;
    let mut consumer = broker.consume("m", 1).await.unwrap();
    let mut dead = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while dead.is_empty() {
        assert!(Instant::now() < deadline, "it comes back for ever");
        tokio::select! {
            delivery = next(&mut consumer) => drop(delivery),
            () = sleep(Duration::from_millis(300)) => dead = broker.take_aside(Aside::Dead, 10).await.unwrap(),
        }
    }
    assert_eq!((dead.len(), &dead[0].payload), (1, &numbered("poison", 1)[0]));
    assert_eq!((dead[0].reason.as_str(), &dead[0].routing_key), ("delivery_limit", &standard.routing_key()));
}
