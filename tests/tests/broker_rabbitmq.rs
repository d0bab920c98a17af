//! The broker suite on RabbitMQ.

use std::sync::Arc;

use gristmill_common::broker::Broker;
use gristmill_tests::broker_suite;
use gristmill_tests::rabbit::TestRabbit;
use gristmill_tests::suite::broker::{GROUPS, Scene};

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
