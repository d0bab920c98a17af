//! Accounts at providers: what is leased of them to several workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gristmill_common::id::OwnerId;
use gristmill_common::quota::{Ask, Dimension, Limits, Look, Pausing, PerDimension, Sight, Want};
use gristmill_common::store::Store;

use super::{LONG, Lab, now};

/// An ask for as many calls as there are, of an account of 6,000 a minute.
fn ask() -> Ask {
    let limits = Limits { rpm: Some(6_000), ..Limits::default() };
    let want = PerDimension::from_fn(|_| Want { units: 1_000, least: 1 });
    Ask { want, slots: 64, ..Ask::of("account".into(), limits) }
}

async fn leased(store: &Arc<dyn Store>, owner: OwnerId, ask: Ask) -> u64 {
    let grant = store.lease_quota(owner, &[ask]).await.unwrap().remove(0);
    grant.slices[Dimension::Requests].map_or(0, |slice| slice.units)
}

pub async fn workers_that_lease_at_once_get_no_more_than_the_rate(lab: Lab) {
    let owners = [OwnerId::new(now()), OwnerId::new(now())];
    let started = Instant::now();
    let mut all = 0;
    // A slow machine leases less, and takes longer.
    while all < 50 || started.elapsed() < Duration::from_millis(1_500) {
        assert!(started.elapsed() < Duration::from_secs(30), "only {all} in {:?}", started.elapsed());
        let (a, b) = tokio::join!(leased(&lab.store, owners[0], ask()), leased(&lab.other, owners[1], ask()));
        all += a + b;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    // What is leased ahead, and what the account began with, is below 2 s of the rate.
    #[expect(clippy::cast_precision_loss, reason = "some hundred units")]
    let rate = all as f64 / (seconds + 2.0);
    assert!(rate <= 100.0, "{all} in {seconds:.1} s");
}

pub async fn accounts_are_leased_in_the_order_of_the_asks_and_each_apart(lab: Lab) {
    let owner = OwnerId::new(now());
    let none = Ask::of("b".into(), Limits::default());
    let asks = [Ask { account: "c".into(), ..ask() }, none, Ask { account: "a".into(), ..ask() }];
    let grants = lab.store.lease_quota(owner, &asks).await.unwrap();
    let limits: Vec<_> = grants.iter().map(|grant| grant.per_minute[Dimension::Requests]).collect();
    assert_eq!(limits, [Some(6_000), None, Some(6_000)]);
    let names: Vec<String> = lab.other.standings().await.unwrap().into_iter().map(|found| found.account).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

pub async fn limits_that_somebody_sets_hold_for_every_worker_and_are_recorded(lab: Lab) {
    let owner = OwnerId::new(now());
    leased(&lab.store, owner, ask()).await;
    let limits = Limits { rpm: Some(60), ..Limits::default() };
    lab.other.set_limits("account", Some(limits), "ada@host").await.unwrap();
    let grant = lab.store.lease_quota(owner, &[ask()]).await.unwrap().remove(0);
    assert_eq!(grant.per_minute[Dimension::Requests], Some(60));
    let found = lab.store.standings().await.unwrap().remove(0);
    assert_eq!(found.set, Some(limits));
    let change = found.changes.last().unwrap();
    assert_eq!((change.by.as_str(), change.what.as_str()), ("ada@host", "set 60 rpm; it was 6000 rpm"));
    lab.other.set_limits("account", None, "ada@host").await.unwrap();
    let grant = lab.store.lease_quota(owner, &[ask()]).await.unwrap().remove(0);
    assert_eq!(grant.per_minute[Dimension::Requests], Some(6_000));
}

pub async fn a_pause_that_one_worker_finds_holds_for_the_other(lab: Lab) {
    let owners = [OwnerId::new(now()), OwnerId::new(now())];
    let look = Look { ready: true, ..Look::of("d".into(), "m".into()) };
    let pausing = Pausing {
        length: Some(LONG),
        longest: LONG,
        reason: "set the key".to_owned(),
        class: "AuthenticationError".to_owned(),
        refusal: false,
    };
    let paused = Ask { looks: vec![Look { pause: Some(pausing), ..look.clone() }], ..ask() };
    lab.store.lease_quota(owners[0], &[paused]).await.unwrap();
    let grant =
        lab.other.lease_quota(owners[1], &[Ask { looks: vec![look.clone()], ..ask() }]).await.unwrap().remove(0);
    assert!(matches!(&grant.sights[..], [Sight::Paused { reason, .. }] if reason == "set the key"), "{grant:?}");
    assert!(grant.slices[Dimension::Requests].is_none());
    let again = Ask { looks: vec![Look { again: true, ..look }], ..ask() };
    let grant = lab.other.lease_quota(owners[1], &[again]).await.unwrap().remove(0);
    assert_eq!(grant.sights, [Sight::Probe]);
}
