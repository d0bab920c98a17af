//! The broker suite on the embedded broker, and what is its own.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::path::Path;
use std::sync::Arc;

use gristmill_common::broker::{Broker, EmbeddedBroker};
use gristmill_common::clock::SystemClock;
use gristmill_common::job::Priority;
use gristmill_common::store::{SqliteStore, Store};
use gristmill_tests::suite::broker::{Scene, lane, next, numbered, publish, take};
use gristmill_tests::suite::store::{LONG, new_batch, owner};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

async fn scene() -> Scene {
    let folder = Arc::new(TempDir::new().unwrap());
    let path = folder.path().join("gristmill.db");
    let connect = move || {
        let path = path.clone();
        async move { Arc::new(open(&path).await.1) as Arc<dyn Broker> }
    };
    Scene::new(connect, folder)
}

async fn open(path: &Path) -> (SqliteStore, EmbeddedBroker) {
    let store = SqliteStore::open(path, Arc::new(SystemClock)).await.unwrap();
    let broker = EmbeddedBroker::new(&store);
    (store, broker)
}

gristmill_tests::broker_suite!(scene);

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_another_process_are_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gristmill.db");
    let ((_, here), (_, elsewhere)) = (open(&path).await, open(&path).await);
    let mut consumer = here.consume("alpha", 5).await.unwrap();
    let bulk = lane("alpha", Priority::Bulk, 1);
    for round in 0..3 {
        let payloads = numbered(&round.to_string(), 12);
        publish(&elsewhere, &bulk, &payloads).await;
        assert_eq!(take(&mut consumer, 12).await, payloads);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_leaves_its_messages_to_the_next() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gristmill.db");
    let bulk = lane("alpha", Priority::Bulk, 1);
    let (store, broker) = open(&path).await;
    publish(&broker, &bulk, &numbered("m", 10)).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    take(&mut consumer, 4).await;
    let held = next(&mut consumer).await;
    // Whatever is committed takes the acknowledgements with it.
    store.open_batch(&new_batch("sweep", owner()), LONG).await.unwrap();
    let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 6);
    // Neither shut down nor settled.
    std::mem::forget(held);
    drop((consumer, broker, store));
    let (_, broker) = open(&path).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    assert_eq!(take(&mut consumer, 6).await, numbered("m", 10)[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_passes_over_is_left_to_the_next_and_holds_nothing_up() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gristmill.db");
    let bulk = lane("alpha", Priority::Bulk, 1);
    let (store, broker) = open(&path).await;
    let payloads = numbered("m", 30);
    publish(&broker, &bulk, &payloads).await;
    // Far more than the window lets out at once.
    let mut consumer = broker.consume("alpha", 2).await.unwrap();
    for payload in &payloads[..20] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.payload, *payload);
        delivery.settle.pass_over();
    }
    assert_eq!(take(&mut consumer, 10).await, payloads[20..]);
    publish(&broker, &bulk, &numbered("n", 1)).await;
    assert_eq!(take(&mut consumer, 1).await, numbered("n", 1), "and what was passed over does not come again");
    broker.shutdown().await;
    drop((consumer, broker, store));
    let (_, broker) = open(&path).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    assert_eq!(take(&mut consumer, 20).await, payloads[..20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_comes_before_what_is_new() {
    let folder = TempDir::new().unwrap();
    let (_, broker) = open(&folder.path().join("gristmill.db")).await;
    let bulk = lane("alpha", Priority::Bulk, 1);
    let payloads = numbered("m", 6);
    publish(&broker, &bulk, &payloads).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    drop((second, first));
    assert_eq!(take(&mut consumer, 6).await, payloads);
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_are_committed_without_any_other_write() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gristmill.db");
    let (_, broker) = open(&path).await;
    publish(&broker, &lane("alpha", Priority::High, 0), &numbered("m", 3)).await;
    let mut consumer = broker.consume("alpha", 10).await.unwrap();
    take(&mut consumer, 3).await;
    let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    gristmill_tests::suite::broker::until("the queue is empty", async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&mut connection).await.unwrap();
        left == 0
    })
    .await;
}
