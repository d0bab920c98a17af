//! The broker suite on RabbitMQ, and what only RabbitMQ can do to us.
#![expect(clippy::unwrap_used, reason = "tests: what fails must panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gristmill_common::broker::{Broker, RabbitBroker};
use gristmill_common::job::{LaneKey, Priority};
use gristmill_tests::broker_suite;
use gristmill_tests::rabbit::TestRabbit;
use gristmill_tests::suite::broker::{GROUPS, Scene, lane, publish, take};
use tokio::time::Instant;

mod faults;
mod setup;
mod streams;

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

/// Prints rates; run it alone: `cargo test --release -p gristmill-tests --test broker_rabbitmq rates -- --ignored --nocapture`.
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
}
