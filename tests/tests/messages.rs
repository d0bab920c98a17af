//! Messages that other programs publish: adopted, dead, of a later version, for nobody, poisonous.
#![expect(clippy::unwrap_used, reason = "what fails in a test must panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use gristmill_common::broker::{Aside, Broker as _};
use gristmill_common::failure::ErrorClass;
use gristmill_common::id::{BatchId, JobId};
use gristmill_common::job::LaneKey;
use gristmill_common::outcome::{ResultRow, Status};
use gristmill_common::store::BatchSelector;
use gristmill_tests::fleet::{self, Fleet, MODEL, by_job, eventually};
use gristmill_worker::simulate;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use serde_json::{Value, json};

/// A producer that knows the published schema and nothing of ours.
struct Foreign {
    channel: Channel,
    exchange: String,
    _connection: lapin::Connection,
}

impl Foreign {
    async fn connect(fleet: &Fleet) -> Self {
        let connection = fleet.rabbit.connect().await;
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { channel, exchange: format!("{}.submit", fleet.rabbit.prefix()), _connection: connection }
    }

    async fn publish(&self, routing_key: &str, payload: &[u8]) {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish =
            self.channel.basic_publish(self.exchange.as_str().into(), routing_key.into(), options, payload, properties);
        let confirm = publish.await.unwrap().await.unwrap();
        assert!(matches!(confirm, Confirmation::Ack(None)), "{confirm:?}");
    }
}

fn new_id() -> JobId {
    JobId::from_uuid(uuid::Uuid::now_v7())
}

fn request(custom_id: &str) -> Value {
    let body =
        json!({"model": MODEL, "messages": [{"role": "user", "content": "How many stones?"}], "user": custom_id});
    json!({"custom_id": custom_id, "endpoint": "/v1/chat/completions", "body": body})
}

async fn letters(fleet: &Fleet) -> Vec<(String, Vec<u8>, Vec<uuid::Uuid>)> {
    let mut connection = fleet.database.connect().await;
    sqlx::query_as("SELECT reason, payload, jobs FROM gristmill.dead_letter ORDER BY id")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

/// Waits until as many rows of a batch are there.
async fn rows(fleet: &Fleet, batch: BatchId, count: usize) -> BTreeMap<JobId, ResultRow> {
    let rows = eventually("the rows are there", async || {
        let rows = fleet::everything(&*fleet.store, batch).await;
        (rows.len() >= count).then_some(rows)
    })
    .await;
    assert_eq!(rows.len(), count);
    rows.into_iter().map(|row| (row.job_id, row)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_program_that_names_no_batch_is_adopted_by_its_day() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    // A worker declares the queues.
    fleet.worker(&[], &[]);
    let ours = fleet.submit("ours", 1, |_, _| {}).await;
    fleet.agrees(ours, 1).await;

    let foreign = Foreign::connect(&fleet).await;
    let ids: Vec<JobId> = (0..6).map(|_| new_id()).collect();
    for (n, pair) in ids.chunks(2).enumerate() {
        let jobs: Vec<Value> =
            pair.iter().map(|id| json!({"id": id, "request": request(&format!("foreign-{id}"))})).collect();
        let message = json!({"v": 1, "group": MODEL, "lane": n, "jobs": jobs, "x-unknown": [1, 2]});
        // A sender that is not sure sends again.
        for _ in 0..2 {
            foreign.publish(&format!("{MODEL}.standard.{n}"), message.to_string().as_bytes()).await;
        }
    }
    let day = ids[0].part_day();
    let batch = BatchId::adhoc(day);
    let rows = rows(&fleet, batch, 6).await;
    for id in &ids {
        let row = &rows[id];
        assert_eq!(row.custom_id, format!("foreign-{id}"));
        assert_eq!((row.result.status, row.run), (Status::Succeeded, 1));
    }
    let found = fleet.store.batch(&BatchSelector::Name(format!("adhoc-{day}"))).await.unwrap().unwrap();
    assert_eq!((found.id, found.counters.succeeded, found.counters.done()), (batch, 6, 6));
    assert!(found.state.is_ended(), "{found:?}");
    assert_eq!(fleet.calls().await.len(), 7);
    assert_eq!(letters(&fleet).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_another_program_joins_the_batch_that_it_names() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let batch = fleet.submit("shared", 20, |_, _| {}).await;
    let foreign = Foreign::connect(&fleet).await;
    let id = new_id();
    let job = json!({"id": id, "request": request("guest")});
    let message = json!({"v": 1, "batch": batch, "group": MODEL, "priority": "high", "jobs": [job]});
    foreign.publish(&format!("{MODEL}.high.0"), message.to_string().as_bytes()).await;
    // Neither recorded, nor with a request.
    let unknown = new_id();
    let message = json!({"v": 1, "batch": batch, "group": MODEL, "jobs": [{"id": unknown}]});
    foreign.publish(&format!("{MODEL}.standard.0"), message.to_string().as_bytes()).await;
    fleet.worker(&[], &[]);

    let rows = rows(&fleet, batch, 22).await;
    assert_eq!(rows[&id].custom_id, "guest");
    assert_eq!(rows[&id].result.status, Status::Succeeded);
    let error = rows[&unknown].result.error.as_ref().unwrap();
    assert_eq!((rows[&unknown].result.status, &error.class), (Status::Failed, &ErrorClass::InvalidMessage));
    let ended = fleet.finished(batch).await;
    assert_eq!((ended.counters.succeeded, ended.counters.failed), (21, 1));
    assert_eq!(fleet.calls().await.len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_becomes_a_dead_letter_and_a_failed_row_where_a_job_can_be_told() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let batch = fleet.submit("fine", 50, |_, _| {}).await;
    let foreign = Foreign::connect(&fleet).await;
    let key = format!("{MODEL}.bulk.0");
    let named = new_id();
    let deep = format!(r#"{{"v":1,"group":"{MODEL}","jobs":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let half = format!(
        r#"{{"v":1,"batch":"{batch}","group":"{MODEL}","jobs":[{{"id":"{named}","request":{{"custom_id":7}}}}]}}"#
    );
    let broken = ["", "{\"v\":1,", "\u{0}\u{1}", "[]", deep.as_str(), half.as_str()];
    for payload in broken {
        foreign.publish(&key, payload.as_bytes()).await;
    }
    foreign.publish(&key, &[0xff, 0xfe, 0x80]).await;
    foreign.publish(&key, &vec![b'x'; 1024 * 1024]).await;
    fleet.worker(&[], &[]);

    let rows = rows(&fleet, batch, 51).await;
    let error = rows[&named].result.error.as_ref().unwrap();
    assert_eq!((rows[&named].result.status, &error.class), (Status::Failed, &ErrorClass::InvalidMessage));
    assert!(error.message.contains("cannot be read"), "{error:?}");
    let ended = fleet.finished(batch).await;
    assert_eq!((ended.counters.succeeded, ended.counters.failed), (50, 1), "its neighbours complete");
    let letters = eventually("all dead letters are kept", async || {
        let letters = letters(&fleet).await;
        (letters.len() >= broken.len() + 2).then_some(letters)
    })
    .await;
    assert_eq!(letters.len(), broken.len() + 2);
    assert!(letters.iter().all(|letter| letter.1.len() <= 64 * 1024), "a letter is bounded");
    for payload in broken {
        assert!(letters.iter().any(|letter| letter.1 == payload.as_bytes()), "{payload}");
    }
    assert_eq!(letters.iter().filter(|letter| letter.2 == [named.uuid()]).count(), 1);
    assert_eq!(fleet.calls().await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_later_version_waits_and_fails_nothing() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let batch = fleet.submit("now", 20, |_, _| {}).await;
    let foreign = Foreign::connect(&fleet).await;
    let message = json!({"v": 2, "group": MODEL, "jobs": {"packed": [new_id()]}}).to_string();
    foreign.publish(&format!("{MODEL}.bulk.1"), message.as_bytes()).await;
    let worker = fleet.worker(&[], &[]);
    fleet.agrees(batch, 20).await;
    let broker = fleet.rabbit.broker().await;
    let waiting = async || {
        let found = broker.take_aside(Aside::Future, 10).await.unwrap();
        let payloads: Vec<_> = found.iter().map(|message| message.payload.clone()).collect();
        // Unsettled, they stay.
        drop(found);
        (!payloads.is_empty()).then_some(payloads)
    };
    assert_eq!(eventually("it is put aside", waiting).await, [message.as_bytes()]);
    fleet.signal(worker, "TERM");
    fleet.ended(worker).await;
    fleet.worker(&[], &[]);
    let after = fleet.submit("after", 20, |_, _| {}).await;
    fleet.agrees(after, 20).await;
    assert_eq!(eventually("it still waits", waiting).await, [message.as_bytes()]);
    assert_eq!(letters(&fleet).await, []);
    assert_eq!(fleet.calls().await.len(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_a_model_group_that_nobody_serves_ends_with_an_error_that_says_so() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let batch = fleet.submit("served", 10, |_, _| {}).await;
    let foreign = Foreign::connect(&fleet).await;
    let id = new_id();
    let job = json!({"id": id, "request": request("lost")});
    let message = json!({"v": 1, "batch": batch, "group": "no-such/model", "jobs": [job]});
    foreign.publish("no-such%2Fmodel.standard.0", message.to_string().as_bytes()).await;
    fleet.worker(&[], &[]);

    let rows = rows(&fleet, batch, 11).await;
    let error = rows[&id].result.error.as_ref().unwrap();
    assert_eq!((rows[&id].result.status, &error.class), (Status::Failed, &ErrorClass::UnknownModelGroup));
    assert_eq!(error.class.as_str(), "UnknownModelGroupError");
    assert!(error.message.contains("no-such/model"), "{}", error.message);
    let ended = fleet.finished(batch).await;
    assert_eq!((ended.counters.succeeded, ended.counters.failed), (10, 1));
    let letters = letters(&fleet).await;
    assert_eq!((letters.len(), letters[0].2.as_slice()), (1, [id.uuid()].as_slice()));
    assert_eq!(fleet.calls().await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_routed_to_nobody_goes_to_the_group_once_it_is_served() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    // The exchange is there, and no queue of the group is.
    let broker = fleet.rabbit.broker().await;
    broker.declare(&[]).await.unwrap();
    let foreign = Foreign::connect(&fleet).await;
    let id = new_id();
    let job = json!({"id": id, "request": request("early")});
    let message = json!({"v": 1, "group": MODEL, "jobs": [job]});
    foreign.publish(&format!("{MODEL}.standard.2"), message.to_string().as_bytes()).await;
    fleet.worker(&[], &[]);
    let rows = rows(&fleet, BatchId::adhoc(id.part_day()), 1).await;
    assert_eq!(rows[&id].result.status, Status::Succeeded);
    assert_eq!(letters(&fleet).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_routed_to_nobody_and_is_too_large_to_send_again_fails_once() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let batch = fleet.submit("ours", 1, |_, _| {}).await;
    let foreign = Foreign::connect(&fleet).await;
    let id = new_id();
    let mut job = json!({"id": id, "request": request("large")});
    job["request"]["body"]["user"] = json!("x".repeat(1024 * 1024));
    let message = json!({"v": 1, "batch": batch, "group": MODEL, "jobs": [job]});
    // A lane that no queue has.
    foreign.publish(&format!("{MODEL}.standard.77"), message.to_string().as_bytes()).await;
    fleet.worker(&[], &[]);
    let rows = rows(&fleet, batch, 2).await;
    let error = rows[&id].result.error.as_ref().unwrap();
    assert_eq!((rows[&id].result.status, &error.class), (Status::Failed, &ErrorClass::InvalidMessage));
    assert!(error.message.contains("1048576"), "{}", error.message);
    let letters = letters(&fleet).await;
    assert_eq!((letters.len(), letters[0].2.as_slice()), (1, [id.uuid()].as_slice()));
    let aside = fleet.rabbit.broker().await.take_aside(Aside::Dead, 10).await.unwrap();
    assert!(aside.is_empty(), "it is settled: {aside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_which_three_workers_died_fails_and_what_they_called_beside_it_completes() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    fleet.keeper(&[]).await;
    let batch = fleet.submit("poison", 40, |_, _| {}).await;
    for death in 1..=3 {
        let crash = [("GRISTMILL_FAILPOINT", "worker.before_call@poison-20")];
        let dying = fleet.worker(&["--concurrency", "6"], &crash);
        assert!(!fleet.ended(dying).await, "death {death}");
        fleet.end_lease(dying).await;
    }
    let called = fleet.calls().await.len();
    let recorded = fleet.batch(batch).await.calls;
    fleet.worker(&["--concurrency", "6"], &[]);
    let rows = fleet.agrees(batch, 40).await;
    let failed: Vec<_> = rows.iter().filter(|row| row.result.status != Status::Succeeded).collect();
    let names: Vec<_> = failed.iter().map(|row| row.custom_id.as_str()).collect();
    assert_eq!(names, ["poison-20"], "its neighbours complete");
    let error = failed[0].result.error.as_ref().unwrap();
    assert_eq!((failed[0].result.status, &error.class), (Status::Failed, &ErrorClass::WorkerCrashed));
    let calls = fleet.calls().await;
    assert_eq!(by_job(&calls).len(), 39);
    let lost = called - usize::try_from(recorded).unwrap();
    assert!(calls.len() <= 39 + lost, "{} calls, {lost} of them unwritten when a worker died", calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_die_again_and_again_fail_no_job() {
    let slow = simulate::Options { latency: Duration::from_millis(150), ..Default::default() };
    let mut fleet = Fleet::start(slow).await;
    fleet.keeper(&[]).await;
    let batch = fleet.submit("again", 60, |_, _| {}).await;
    for _ in 0..3 {
        // Each holds most of the jobs and calls a few.
        let dying = fleet.worker(&["--concurrency", "2"], &[("GRISTMILL_FAILPOINT", "worker.after_flush:3")]);
        assert!(!fleet.ended(dying).await);
        fleet.end_lease(dying).await;
    }
    fleet.worker(&["--concurrency", "8"], &[]);
    let rows = fleet.agrees(batch, 60).await;
    let failed: Vec<_> = rows.iter().filter(|row| row.result.status != Status::Succeeded).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(fleet.calls().await.len() <= 60 + 3 * 4, "a few calls were in flight");
}

#[test]
fn the_lanes_of_the_schema_are_those_of_the_queues() {
    let schema = include_str!("../../docs/message.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    let maximum = schema["properties"]["lane"]["maximum"].as_u64().unwrap();
    let lanes = LaneKey::all(MODEL).map(|lane| u64::from(lane.lane)).max().unwrap();
    assert_eq!(maximum, lanes);
}
