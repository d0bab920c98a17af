//! Workers that are asked to stop: what they leave behind is there for others at once, and nothing holds them up for ever.

use std::time::{Duration, Instant};

use gristmill_tests::fleet::{Fleet, eventually};
use gristmill_tests::proxy::Proxy;
use gristmill_worker::simulate;
use secrecy::ExposeSecret as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_stops_gives_its_lease_up() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    let keeper = fleet.keeper(&[]).await;
    fleet.signal(keeper, "TERM");
    assert!(fleet.ended(keeper).await, "it ends well");
    let keepers = "SELECT count(*) FROM gristmill.keeper WHERE lease_until > now()";
    let keepers: i64 = sqlx::query_scalar(keepers).fetch_one(&mut fleet.database.connect().await).await.unwrap();
    assert_eq!(keepers, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_bounded_time_when_the_store_is_gone_without_a_word() {
    let slow = simulate::Options { latency: Duration::from_secs(1), ..Default::default() };
    let mut fleet = Fleet::start(slow).await;
    let url = fleet.database.url().expose_secret();
    let proxy = Proxy::start(url).await;
    let through = proxy.url(url).expose_secret().to_owned();
    let batch = fleet.submit("sweep", 3, |_, _| {}).await;
    let worker = fleet.worker(&[], &[("DATABASE_URL", &through), ("GRISTMILL_GRACE", "2")]);
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().in_flight == 3).then_some(())).await;
    proxy.swallow(true);
    let started = Instant::now();
    fleet.signal(worker, "TERM");
    assert!(fleet.ended(worker).await, "it ends well");
    // The grace for the calls, the same for their results, and what it takes to give up.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(fleet.batch(batch).await.counters.done(), 0);
    fleet.worker(&[], &[]);
    fleet.agrees(batch, 3).await;
    assert_eq!(fleet.calls().await.len(), 6, "what was not written is called again, once");
    proxy.stop().await;
}
