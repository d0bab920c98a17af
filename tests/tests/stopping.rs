//! Workers that are asked to stop: what they leave behind is there for others at once, and nothing holds them up for ever.

use std::time::{Duration, Instant};

use gristmill_common::store::{LostCalls, UsageScope};
use gristmill_tests::fleet::{Fleet, eventually};
use gristmill_tests::money;
use gristmill_tests::proxy::Proxy;
use gristmill_worker::simulate;
use secrecy::ExposeSecret as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_stops_gives_its_lease_up() {
    let mut fleet = Fleet::start(simulate::Options::default()).await;
    // A keeper leaves without it where the store takes too long.
    for _ in 0..3 {
        let keeper = fleet.keeper(&[]).await;
        fleet.signal(keeper, "TERM");
        assert!(fleet.ended(keeper).await, "it ends well");
        let left = "UPDATE gristmill.keeper SET lease_until = now() WHERE lease_until > now()";
        let left = sqlx::query(left).execute(&mut fleet.database.connect().await).await.unwrap().rows_affected();
        if left == 0 {
            return;
        }
    }
    panic!("the lease is still held: {}", fleet.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_bounded_time_when_the_store_is_gone_without_a_word() {
    let slow = simulate::Options { latency: Duration::from_secs(3), ..Default::default() };
    let mut fleet = Fleet::start(slow).await;
    let url = fleet.database.url().expose_secret();
    let proxy = Proxy::start(url).await;
    let through = proxy.url(url).expose_secret().to_owned();
    let batch = fleet.submit("sweep", 3, |_, _| {}).await;
    let worker = fleet.worker(&[], &[("DATABASE_URL", &through), ("GRISTMILL_GRACE", "6")]);
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().in_flight == 3).then_some(())).await;
    proxy.swallow(true);
    let started = Instant::now();
    fleet.signal(worker, "TERM");
    assert!(fleet.ended(worker).await, "it ends well");
    // The grace for the calls, the same for their results, and what it takes to give up.
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert_eq!(fleet.batch(batch).await.counters.done(), 0);
    fleet.end_lease(worker).await;
    fleet.keeper(&[]).await;
    fleet.worker(&[], &[]);
    fleet.agrees(batch, 3).await;
    assert_eq!(fleet.calls().await.len(), 6, "what was not written is called again, once");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_a_stop_cuts_off_are_recorded_with_a_bound_and_made_again() {
    const JOBS: usize = 5;
    let slow = simulate::Options { latency: Duration::from_secs(600), ..Default::default() };
    let mut fleet = Fleet::start(slow).await;
    money::configure(&fleet, "");
    let batch = fleet.submit("sweep", JOBS, |_, _| {}).await;
    let worker = fleet.worker(&[], &[("GRISTMILL_GRACE", "5")]);
    let control = fleet.simulator.control();
    eventually("calls are made", async || (control.stats().in_flight == JOBS as u64).then_some(())).await;
    fleet.signal(worker, "TERM");
    assert!(fleet.ended(worker).await, "it ends well");
    let scope = UsageScope { batch: Some(batch), ..UsageScope::default() };
    let sums = fleet.store.usage(&scope, &[]).await.unwrap().remove(0).sums;
    assert_eq!((sums.calls, sums.unseen, sums.uncounted), (5, 5, 5), "{}", fleet.logs());
    assert!(sums.bound_pico_usd > 0);
    assert_eq!(money::lost(&fleet, batch).await, LostCalls::default(), "all of them are known");
    control.set_latency(Duration::ZERO, Duration::ZERO);
    fleet.worker(&[], &[]);
    let rows = fleet.agrees(batch, JOBS).await;
    assert!(rows.iter().all(|row| row.result.attempts == 2));
}
