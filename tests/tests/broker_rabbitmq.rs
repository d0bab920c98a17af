//! The broker suite on RabbitMQ, and what only RabbitMQ can do to us.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gristmill_common::broker::{Aside, Broker, Confirm, Error, Outgoing, RabbitBroker, RabbitOptions};
use gristmill_common::job::{LaneKey, Priority};
use gristmill_tests::broker_suite;
use gristmill_tests::rabbit::{Proxy, TestRabbit, rabbitmqctl, url};
use gristmill_tests::suite::broker::{GROUPS, Scene, lane, next, numbered, publish, take, until};
use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

#[expect(clippy::unused_async, reason = "the suite's signature")]
async fn scene() -> Scene {
    let rabbit = Arc::new(TestRabbit::new(&GROUPS));
    let connect = {
        let rabbit = Arc::clone(&rabbit);
        move || {
            let rabbit = Arc::clone(&rabbit);
            async move { rabbit.broker().await as Arc<dyn Broker> }
        }
    };
    Scene::new(connect, rabbit)
}

broker_suite!(scene);

fn key(priority: Priority) -> LaneKey {
    lane("m", priority, 0)
}

async fn ready(rabbit: &TestRabbit) -> Arc<RabbitBroker> {
    let broker = rabbit.broker().await;
    broker.declare(&["m".to_owned()]).await.unwrap();
    broker
}

/// A broker behind a proxy, with the queues of `m`.
async fn proxied(rabbit: &TestRabbit, change: impl FnOnce(&mut RabbitOptions)) -> (Proxy, Arc<RabbitBroker>) {
    let proxy = Proxy::start(&url()).await;
    let mut options = rabbit.options();
    options.url = proxy.url(&url());
    change(&mut options);
    let broker = rabbit.broker_with(options).await;
    broker.declare(&["m".to_owned()]).await.unwrap();
    (proxy, broker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_again_and_again_lose_no_confirmed_message() {
    const CUTS: usize = 10;
    let rabbit = TestRabbit::new(&["m"]);
    let (proxy, broker) = proxied(&rabbit, |_| {}).await;
    let mut consumer = broker.consume("m", 7).await.unwrap();
    let lanes: Vec<LaneKey> = LaneKey::all("m").collect();

    let cutting = async {
        for _ in 0..CUTS {
            sleep(Duration::from_millis(300)).await;
            proxy.cut();
        }
    };
    let publishing = async {
        let mut confirmed = BTreeSet::new();
        let mut call = 0;
        let cutting = async { cutting.await };
        tokio::pin!(cutting);
        let mut cut = false;
        while !cut || call < 200 {
            let payloads = numbered(&call.to_string(), 10);
            let key = &lanes[call % lanes.len()];
            let messages = |payloads: &[Bytes]| {
                payloads.iter().map(|payload| Outgoing { lane: key.clone(), payload: payload.clone() }).collect()
            };
            let answer = tokio::select! {
                answer = broker.publish(messages(&payloads)) => answer.unwrap(),
                () = &mut cutting, if !cut => {
                    cut = true;
                    broker.publish(messages(&payloads)).await.unwrap()
                }
            };
            assert_eq!(answer, [Confirm::Confirmed; 10]);
            confirmed.extend(payloads);
            call += 1;
        }
        confirmed
    };
    let (done, mut finished) = tokio::sync::watch::channel(None);
    let receiving = async {
        let mut seen = BTreeSet::new();
        loop {
            tokio::select! {
                delivery = next(&mut consumer) => {
                    seen.insert(delivery.payload.clone());
                    delivery.settle.ack();
                }
                Ok(_) = finished.wait_for(|all: &Option<BTreeSet<Bytes>>| all.as_ref().is_some_and(|all| all.is_subset(&seen))) => break,
            }
            if done.borrow().as_ref().is_some_and(|all| all.is_subset(&seen)) {
                break;
            }
        }
    };
    let publishing = async {
        let confirmed = publishing.await;
        assert!(confirmed.len() >= 2_000);
        done.send_replace(Some(confirmed));
    };
    timeout(Duration::from_secs(90), async { tokio::join!(publishing, receiving) }).await.unwrap();

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
    let high = key(Priority::High);
    publish(&*broker, &high, &numbered("m", 20)).await;
    let mut consumer = broker.consume("m", 10).await.unwrap();
    let mut old = Vec::new();
    for _ in 0..10 {
        old.push(next(&mut consumer).await);
    }
    assert_eq!(proxy.cut(), 2);
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
    let one = || vec![Outgoing { lane: standard.clone(), payload: Bytes::from_static(b"x") }];
    // The policy reaches the queue a little later, and a quorum queue goes over its limit by what is on the way.
    until("refused", async || broker.publish(one()).await.unwrap() == [Confirm::Refused]).await;
    let mut mixed = one();
    mixed.push(Outgoing { lane: key(Priority::High), payload: Bytes::from_static(b"y") });
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
                let lost = |n: usize| (n * 7 + caller + round) % 3 == 0;
                let group = |n| if lost(n) { "nowhere" } else { "m" };
                let messages = (0..9)
                    .map(|n| Outgoing { lane: lane(group(n), Priority::High, 0), payload: Bytes::from_static(b"x") });
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
    let options = RabbitOptions { deaf_after: Duration::from_secs(1), ..rabbit.options() };
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
    let (proxy, broker) = proxied(&rabbit, |options| options.publish_timeout = Duration::from_secs(2)).await;
    let high = key(Priority::High);
    publish(&*broker, &high, &numbered("m", 5)).await;
    // An alarm would block everybody's publishers, so the proxy says what RabbitMQ would: connection.blocked("low on memory"),
    // to the connection that has published.
    let mut blocked = vec![1, 0, 0, 0, 0, 0, 18, 0, 10, 0, 60, 13];
    blocked.extend_from_slice(b"low on memory");
    blocked.push(0xCE);
    let publishing = format!("{} publish", rabbit.prefix());
    proxy.say(&publishing, &blocked).await;
    let message = || vec![Outgoing { lane: high.clone(), payload: Bytes::from_static(b"late") }];
    let began = Instant::now();
    let error = until_err(&broker, message).await;
    assert!(matches!(&error, Error::Blocked { reason } if reason == "low on memory"), "{error}");
    assert!(error.is_transient() && began.elapsed() < Duration::from_secs(10));
    // The rest goes on.
    let mut consumer = broker.consume("m", 10).await.unwrap();
    take(&mut consumer, 5).await;
    assert_eq!(broker.depths(std::slice::from_ref(&high)).await.unwrap(), [0]);

    let unblocked = [1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 61, 0xCE];
    proxy.say(&publishing, &unblocked).await;
    let confirms = broker.publish(message()).await.unwrap();
    assert_eq!(confirms, [Confirm::Confirmed]);
    assert_eq!(take(&mut consumer, 1).await, [Bytes::from_static(b"late")]);
    broker.shutdown().await;
    proxy.stop().await;
}

/// Publishes until it fails: what RabbitMQ said may not have been heard yet.
async fn until_err(broker: &RabbitBroker, message: impl Fn() -> Vec<Outgoing>) -> Error {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Err(error) = broker.publish(message()).await {
            return error;
        }
        assert!(Instant::now() < deadline, "publishing never fails");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_told_after_a_bounded_time() {
    let rabbit = TestRabbit::new(&["m"]);
    let (proxy, broker) = proxied(&rabbit, |options| options.publish_timeout = Duration::from_secs(2)).await;
    proxy.stop().await;
    let message = || vec![Outgoing { lane: key(Priority::High), payload: Bytes::from_static(b"x") }];
    let error = until_err(&broker, message).await;
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("no RabbitMQ at 127.0.0.1:"), "{error}");
    let error = broker.check().await.unwrap_err().to_string();
    assert!(error.contains("start it or set AMQP_URL"), "{error}");
    timeout(Duration::from_secs(15), broker.shutdown()).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_named_with_what_to_do() {
    let rabbit = TestRabbit::new(&["m"]);
    let connection = rabbit.connect().await;
    let channel = connection.create_channel().await.unwrap();
    let high = rabbit.queue(&key(Priority::High));
    channel.queue_declare(high.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
    let broker = rabbit.broker().await;
    for answer in [broker.declare(&["m".to_owned()]).await, broker.consume("m", 1).await.map(drop)] {
        let Err(Error::Setup(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains(&format!("the queue `{high}` exists with other arguments")), "{text}");
        assert!(text.contains(&format!("rabbitmqctl delete_queue {high}")), "{text}");
    }
    broker.declare(&[]).await.unwrap();
    drop(broker);

    let other = TestRabbit::new(&[]);
    let dead = format!("{}.dead", other.prefix());
    channel.queue_declare(dead.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
    let Err(Error::Setup(text)) = RabbitBroker::connect(other.options()).await else { panic!("it must not connect") };
    assert!(text.contains(&format!("the queue `{dead}` exists with other arguments")), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_longer_than_amqp_allows_are_refused_before_anything_is_sent() {
    let rabbit = TestRabbit::new(&[]);
    let broker = rabbit.broker().await;
    let group = "x".repeat(300);
    let message = Outgoing { lane: lane(&group, Priority::High, 0), payload: Bytes::new() };
    let answers = [
        broker.declare(std::slice::from_ref(&group)).await,
        broker.publish(vec![message]).await.map(drop),
        broker.consume(&group, 1).await.map(drop),
        broker.put_aside(Aside::Dead, &group, "reason", Bytes::new()).await,
    ];
    for answer in answers {
        assert!(matches!(&answer, Err(Error::Setup(text)) if text.contains("255")), "{answer:?}");
    }
    broker.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_address_is_told_in_one_line_without_the_password() {
    let connect = async |url: String| {
        let options = RabbitOptions::new(SecretString::from(url));
        RabbitBroker::connect(options).await.map(drop).unwrap_err()
    };
    let real = url::Url::parse(&url()).unwrap();
    let with = |change: &dyn Fn(&mut url::Url)| {
        let mut url = real.clone();
        change(&mut url);
        url.to_string()
    };
    // A port that nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = free.local_addr().unwrap().port();
    drop(free);
    // Something else listens, and says something else.
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let another = other.local_addr().unwrap().port();
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    // Something listens, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let quiet = silent.local_addr().unwrap().port();

    let server = format!("{}:{}", real.host_str().unwrap(), real.port().unwrap_or(5672));
    let local = |port: u16| format!("amqp://canary-user:canary-password@127.0.0.1:{port}/%2f");
    let cases = [
        (local(nobody), true, format!("no RabbitMQ at 127.0.0.1:{nobody}; start it or set AMQP_URL")),
        (local(another), false, format!("what listens at 127.0.0.1:{another} is not RabbitMQ")),
        (local(quiet), true, format!("no answer in time from 127.0.0.1:{quiet}")),
        (
            "amqp://canary-user:canary-password@gristmill.invalid/".to_owned(),
            true,
            "no RabbitMQ at gristmill.invalid:5672".to_owned(),
        ),
        (
            with(&|url| url.set_password(Some("canary-password")).unwrap()),
            false,
            format!("RabbitMQ at {server} refuses the user or the password"),
        ),
        (
            with(&|url| url.set_path("/no-such-vhost")),
            false,
            format!("RabbitMQ at {server} refuses the virtual host `no-such-vhost`"),
        ),
        ("canary-password".to_owned(), false, "AMQP_URL is not an address like".to_owned()),
    ];
    for (url, transient, expected) in cases {
        let error = connect(url).await;
        let text = error.to_string();
        assert!(text.contains(&expected), "{text}");
        assert_eq!(error.is_transient(), transient, "{text}");
        assert!(!text.contains("canary") && !text.contains('\n') && !format!("{error:?}").contains("canary"), "{text}");
    }
}

/// Prints rates; run it alone: `cargo test --release -p gristmill-tests --test broker_rabbitmq -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "what it is for")]
async fn rates() {
    const MESSAGES: usize = 50_000;
    let rabbit = TestRabbit::new(&["m"]);
    let broker = ready(&rabbit).await;
    let lanes: Vec<LaneKey> = LaneKey::all("m").collect();
    let payload = Bytes::from(vec![b'x'; 1_500]);
    for (name, callers, in_a_call) in
        [("one call of 500 after the other", 1, 500), ("1,000 callers of 1", 1_000, 1), ("8 callers of 100", 8, 100)]
    {
        let began = Instant::now();
        let calls = (0..callers).map(|caller| {
            let (broker, key, payload) = (Arc::clone(&broker), lanes[caller % lanes.len()].clone(), payload.clone());
            async move {
                for _ in 0..MESSAGES / callers / in_a_call {
                    publish(&*broker, &key, &vec![payload.clone(); in_a_call]).await;
                }
            }
        });
        futures_util::future::join_all(calls).await;
        let published = began.elapsed();
        let mut consumer = broker.consume("m", 2_000).await.unwrap();
        let began = Instant::now();
        take(&mut consumer, MESSAGES / callers / in_a_call * callers * in_a_call).await;
        let taken = began.elapsed();
        let rate = |time: Duration| format!("{:.0}/s", MESSAGES as f64 / time.as_secs_f64());
        println!("{name}: published {}, taken and acked {}", rate(published), rate(taken));
    }
    println!("{}", rabbitmqctl(&["--version"]).await);
}
