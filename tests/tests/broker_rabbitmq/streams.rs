//! Output as it comes between processes, and what becomes of it when a connection does not go on.

use std::time::Duration;

use bytes::Bytes;
use gristmill_common::broker::{Broker as _, Error, Outgoing};
use gristmill_common::job::Priority;
use gristmill_tests::rabbit::TestRabbit;
use gristmill_tests::suite::broker::{heard, numbered, publish, stream, take, tell_until_heard, until};
use tokio::time::timeout;

use super::faults::{UNBLOCKED, blocked, proxied, until_err};
use super::{key, ready};

/// More than waits anywhere.
const FLOOD: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_go_from_one_process_to_another_and_the_listeners_queue_goes_with_it() {
    let rabbit = TestRabbit::new(&["m"]);
    let (teller, listener) = (ready(&rabbit).await, rabbit.broker().await);
    let stream = stream();
    let mut pieces = listener.listen(stream).await.unwrap();
    for piece in numbered("piece", 300) {
        teller.tell(stream, piece);
    }
    for piece in numbered("piece", 300) {
        assert_eq!(heard(&mut pieces).await, piece);
    }
    assert_eq!(rabbit.listeners().await, [format!("{}.tokens.{stream}", rabbit.prefix())]);
    drop(pieces);
    until("the queue is gone", async || rabbit.listeners().await.is_empty()).await;
    teller.tell(stream, Bytes::from_static(b"to nobody"));
    publish(&*teller, &key(Priority::High), &numbered("m", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_whose_connection_is_lost_ends_and_leaves_no_queue() {
    let rabbit = TestRabbit::new(&["m"]);
    let teller = ready(&rabbit).await;
    let (proxy, listener) = proxied(&rabbit, |_| {}).await;
    let stream = stream();
    let mut pieces = listener.listen(stream).await.unwrap();
    tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"piece")).await;
    proxy.cut();
    until("the listening ends", async || {
        let next = timeout(Duration::from_secs(1), pieces.next()).await;
        matches!(next, Ok(None))
    })
    .await;
    until("the queue is gone", async || rabbit.listeners().await.is_empty()).await;
    // Listening again works as soon as the connection does.
    let mut again = None;
    until("it is listened to again", async || {
        again = listener.listen(stream).await.ok();
        again.is_some()
    })
    .await;
    let mut pieces = again.unwrap();
    tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"anew")).await;
    drop(pieces);
    listener.shutdown().await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telling_while_the_connection_is_away_loses_pieces_and_holds_up_nothing() {
    let rabbit = TestRabbit::new(&["m"]);
    let listener = ready(&rabbit).await;
    let (proxy, teller) = proxied(&rabbit, |_| {}).await;
    let stream = stream();
    let mut pieces = listener.listen(stream).await.unwrap();
    tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"before")).await;
    proxy.refuse(true);
    for piece in numbered("lost", FLOOD) {
        teller.tell(stream, piece);
    }
    proxy.refuse(false);
    let others = tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"after")).await;
    assert!(others < FLOOD, "what waited is bounded: {others}");
    publish(&*teller, &key(Priority::High), &numbered("m", 2)).await;
    let mut consumer = teller.consume("m", 5).await.unwrap();
    assert_eq!(take(&mut consumer, 2).await, numbered("m", 2));
    drop(consumer);
    teller.shutdown().await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telling_on_a_blocked_connection_keeps_little_and_goes_on_when_it_is_free() {
    let rabbit = TestRabbit::new(&["m"]);
    let listener = ready(&rabbit).await;
    let (proxy, teller) = proxied(&rabbit, |options| options.publish_timeout = Duration::from_secs(2)).await;
    let stream = stream();
    let mut pieces = listener.listen(stream).await.unwrap();
    tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"before")).await;
    let publishing = format!("{} publish", rabbit.prefix());
    proxy.say(&publishing, &blocked()).await;
    // Until it is noticed, what is told is heard.
    let message = || {
        let lane = key(Priority::High);
        vec![Outgoing { lane, payload: Bytes::from_static(b"x"), traceparent: None }]
    };
    until_err(&teller, message, |error| matches!(error, Error::Blocked { .. })).await;
    while let Ok(Some(_)) = timeout(Duration::from_secs(2), pieces.next()).await {}
    for piece in numbered("lost", FLOOD) {
        teller.tell(stream, piece);
    }
    let silence = timeout(Duration::from_millis(300), pieces.next()).await;
    assert!(silence.is_err(), "the connection is blocked: {silence:?}");
    proxy.say(&publishing, &UNBLOCKED).await;
    let others = tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"after")).await;
    assert!(others < FLOOD / 10, "most of what was told meanwhile is dropped: {others} were kept");
    teller.shutdown().await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telling_into_a_silent_network_loses_pieces_and_holds_up_nothing() {
    let rabbit = TestRabbit::new(&["m"]);
    let listener = ready(&rabbit).await;
    let (proxy, teller) = proxied(&rabbit, |_| {}).await;
    let stream = stream();
    let mut pieces = listener.listen(stream).await.unwrap();
    tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"before")).await;
    proxy.swallow(true);
    for piece in numbered("swallowed", FLOOD) {
        teller.tell(stream, piece);
    }
    proxy.swallow(false);
    // Half a frame may have gone: the connection is not to be used any more.
    proxy.cut();
    tell_until_heard(&*teller, stream, &mut pieces, &Bytes::from_static(b"after")).await;
    teller.shutdown().await;
    proxy.stop().await;
}
