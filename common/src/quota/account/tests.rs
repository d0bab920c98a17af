use std::time::Duration;

use super::*;
use crate::quota::{Heard, Look, Pausing, Want};

const START: Micros = 1_000 * DAY;

fn owners(count: usize) -> Vec<OwnerId> {
    let now = chrono::DateTime::from_timestamp(1_000, 0).unwrap();
    (0..count).map(|_| OwnerId::new(now)).collect()
}

fn limits(rpm: u64) -> Limits {
    Limits { rpm: Some(rpm), ..Limits::default() }
}

fn ask(limits: Limits, units: u64) -> Ask {
    let want = Want { units, least: 1 };
    let want = PerDimension::from_fn(|_| want);
    Ask { want, slots: 64, full: true, ..Ask::of("a".into(), limits) }
}

fn units(grant: &Grant) -> u64 {
    grant.slices[Dimension::Requests].map_or(0, |slice| slice.units)
}

#[test]
fn workers_together_get_what_one_alone_would() {
    for count in [1, 2, 4, 16] {
        let mut account = Account::default();
        let owners = owners(count);
        let mut got = vec![0; count];
        for tick in 0..50 {
            for (owner, got) in owners.iter().zip(&mut got) {
                *got += units(&account.lease(START + tick * AGAIN, *owner, &ask(limits(6_000), 1_000)));
            }
        }
        let all: u64 = got.iter().sum();
        assert!((980..=1_120).contains(&all), "{count} workers: {all} in 10 s");
        let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
        assert!(*most <= 3 * least, "{count} workers: {got:?}");
    }
}

#[test]
fn the_lowest_of_the_files_counts_until_somebody_sets_limits() {
    let mut account = Account::default();
    let owners = owners(2);
    let rpm = |grant: &Grant| grant.per_minute[Dimension::Requests];
    account.lease(START, owners[0], &ask(limits(600), 1));
    let grant = account.lease(START, owners[1], &ask(limits(900), 1));
    assert_eq!(rpm(&grant), Some(600));
    assert!(grant.drift.unwrap().contains("differ"));
    account.set(START, Some(limits(1_200)), "ada@host");
    let grant = account.lease(START, owners[1], &ask(limits(900), 1));
    assert_eq!((rpm(&grant), grant.drift), (Some(1_200), None));
    let change = account.standing("a", START).changes.pop().unwrap();
    assert_eq!((change.by.as_str(), change.what.as_str()), ("ada@host", "set 1200 rpm; it was 600 rpm"));
    account.set(START, None, "ada@host");
    assert_eq!(rpm(&account.lease(START, owners[0], &ask(limits(600), 1))), Some(600));
}

#[test]
fn a_state_survives_being_written_and_read() {
    let mut account = Account::default();
    account.lease(START, owners(1)[0], &ask(limits(600), 5));
    account.set(START, Some(limits(60)), "x");
    assert_eq!(Account::read(&account.write()), account);
    assert_eq!(Account::read("{\"later\":1}"), Account::default());
    assert_eq!(Account::read("no state"), Account::default());
}

#[test]
fn a_clock_that_was_set_back_stops_nothing_and_gives_nothing_away() {
    let mut account = Account::default();
    let owner = owners(1)[0];
    let ask = ask(limits(6_000), 1_000);
    let mut before = 0;
    for tick in 0..10 {
        before += units(&account.lease(START + tick * AGAIN, owner, &ask));
    }
    let mut after = 0;
    for tick in 0..10 {
        after += units(&account.lease(START - 3_600 * SECOND + tick * AGAIN, owner, &ask));
    }
    assert!(before > 200 && (150..=220).contains(&after), "{before} {after}");
}

#[test]
fn a_days_limit_ends_with_the_day() {
    let mut account = Account::default();
    let owner = owners(1)[0];
    let ask = ask(Limits { rpd: Some(100), ..Limits::default() }, 1_000);
    let mut got = 0;
    let mut blocked = None;
    for tick in 0..3_000 {
        let grant = account.lease(START + DAY / 2 + tick * AGAIN, owner, &ask);
        got += units(&grant);
        blocked = grant.blocked;
    }
    assert_eq!(got, 100);
    let blocked = blocked.unwrap();
    assert!(blocked.reason.contains("100 calls a day") && blocked.length.as_secs() > 40_000, "{blocked:?}");
    assert!(units(&account.lease(START + DAY, owner, &ask)) > 0);
}

#[test]
fn calls_at_once_are_never_given_twice_and_end_up_shared() {
    let mut account = Account::default();
    let owners = owners(3);
    let most = Limits { max_parallel_requests: Some(30), ..Limits::default() };
    let mut slots = [0_u64; 3];
    for round in 0..20 {
        for (i, owner) in owners.iter().enumerate().take(if round < 5 { 1 } else { 3 }) {
            let ask = Ask { in_flight: slots[i], ..ask(most, 0) };
            slots[i] = account.lease(START + round * AGAIN, *owner, &ask).slots.unwrap();
            assert!(slots.iter().sum::<u64>() <= 30, "{slots:?}");
        }
    }
    assert_eq!(slots, [10, 10, 10]);
}

#[test]
fn what_comes_between_two_asks_has_room_and_takes_nobody_elses() {
    let mut account = Account::default();
    let owners = owners(2);
    let most = Limits { max_parallel_requests: Some(40), ..Limits::default() };
    let mut lease = |owner: usize, slots: u64, in_flight: u64| {
        let ask = Ask { slots, in_flight, most: 64, full: false, ..ask(most, 0) };
        account.lease(START, owners[owner], &ask).slots
    };
    assert_eq!(lease(0, 1, 0), Some(20), "alone, with one job that waits");
    assert_eq!(lease(1, 64, 0), Some(20), "what nobody holds");
    assert_eq!(lease(0, 64, 20), Some(20));
    assert_eq!(lease(0, 1, 1), Some(1), "nothing waits");
    assert_eq!(lease(1, 64, 20), Some(39));
    let few = Ask { slots: 1, most: 8, ..ask(most, 0) };
    assert_eq!(Account::default().lease(START, owners[0], &few).slots, Some(8), "as many as it could run");
}

#[test]
fn a_pause_stops_the_fleet_and_its_end_is_a_ramp() {
    let mut account = Account::default();
    let owners = owners(2);
    let look = Look { ready: true, ..Look::of("d".into(), "m".into()) };
    let pausing = Pausing {
        length: Some(Duration::from_secs(5)),
        longest: Duration::from_secs(60),
        reason: "wait".to_owned(),
        class: "RateLimitError".to_owned(),
        refusal: true,
    };
    let with = |look: Look| Ask { looks: vec![look], ..ask(limits(6_000), 100) };
    account.lease(START, owners[0], &with(Look { pause: Some(pausing), ..look.clone() }));
    let grant = account.lease(START + SECOND, owners[1], &with(look.clone()));
    assert!(matches!(&grant.sights[..], [Sight::Paused { refusal: true, .. }]) && units(&grant) == 0, "{grant:?}");
    let probe = account.lease(START + 5 * SECOND, owners[1], &with(look.clone()));
    assert!(probe.sights == [Sight::Probe] && units(&probe) > 0, "{probe:?}");
    let works = Look { probed: Some(crate::quota::Probed::Works), ..look.clone() };
    let grant = account.lease(START + 6 * SECOND, owners[1], &with(works));
    assert_eq!((&grant.sights[..], grant.slots), (&[Sight::Open][..], Some(8)));
    let later = account.lease(START + 8 * SECOND, owners[1], &with(look));
    assert_eq!(later.slots, Some(64));
}

#[test]
fn a_pause_of_a_deployment_that_nobody_has_any_more_is_dropped() {
    let mut account = Account::default();
    let owner = owners(1)[0];
    let pausing = Pausing {
        length: None,
        longest: Duration::from_secs(60),
        reason: "set the key".to_owned(),
        class: "AuthenticationError".to_owned(),
        refusal: false,
    };
    let look = |name: &str, pause| Look { pause, ..Look::of(name.into(), "m".into()) };
    let with = |looks| Ask { looks, ..ask(limits(6_000), 0) };
    account.lease(START, owner, &with(vec![look("gone", Some(pausing.clone())), look("kept", Some(pausing))]));
    let paused = |account: &Account, now| account.standing("a", now).pauses.into_keys().collect::<Vec<_>>();
    assert_eq!(paused(&account, START), ["gone", "kept"]);
    let later = START + 3_700 * SECOND;
    assert!(paused(&account, later).is_empty(), "no worker asked about any");
    for hour in 1..=2 {
        account.lease(START + hour * 1_800 * SECOND, owner, &with(vec![look("kept", None)]));
    }
    assert_eq!(paused(&account, later), ["kept"]);
    account.lease(later, owner, &with(vec![look("kept", None)]));
    assert_eq!(account.pauses.len(), 1);
    let of_old = account.write().replace("\"seen_at\":", "\"unknown\":");
    assert_eq!(
        paused(&Account::read(&of_old), START + 60 * SECOND),
        ["kept"],
        "a row without the time counts from its end"
    );
}

#[test]
fn what_headers_tell_limits_what_nobody_wrote_down() {
    let mut account = Account::default();
    let owner = owners(1)[0];
    let told = |rpm| {
        let mut told = Told::default();
        told.per_minute[Dimension::Requests] = Some(rpm);
        told
    };
    let grant = account.lease(START, owner, &Ask { told: told(300), ..ask(Limits::default(), 10) });
    assert_eq!(grant.per_minute[Dimension::Requests], Some(300));
    let grant = account.lease(START + SECOND, owner, &Ask { told: told(900), ..ask(limits(600), 10) });
    assert_eq!(grant.per_minute[Dimension::Requests], Some(600), "one's own limit is the lower one");
    let grant = account.lease(START + 2 * SECOND, owner, &Ask { told: told(200), ..ask(limits(600), 10) });
    assert_eq!(grant.per_minute[Dimension::Requests], Some(200), "the provider lowered it");
}

#[test]
fn refusals_below_the_written_limit_lower_the_pace_and_quiet_raises_it_again() {
    let mut account = Account::default();
    let owner = owners(1)[0];
    for tick in 0..10 {
        let heard = Heard { started: 10, ..Heard::default() };
        account.lease(START + tick * AGAIN, owner, &Ask { heard, ..ask(limits(6_000), 50) });
    }
    let heard = Heard { started: 20, refused: 12, ..Heard::default() };
    let grant = account.lease(START + 10 * AGAIN, owner, &Ask { heard, ..ask(limits(6_000), 50) });
    let lowered = grant.per_minute[Dimension::Requests].unwrap();
    assert!(grant.learnt.is_some() && lowered < 6_000, "{lowered}");
    let mut raised = lowered;
    for tick in 11..200 {
        let heard = Heard { started: 10, ..Heard::default() };
        let grant = account.lease(START + tick * AGAIN, owner, &Ask { heard, ..ask(limits(6_000), 50) });
        raised = grant.per_minute[Dimension::Requests].unwrap();
    }
    assert_eq!(raised, 6_000);
}

#[test]
fn a_standing_tells_what_the_last_minute_used_of_the_tightest_limit() {
    let mut account = Account::default();
    let owner = owners(1)[0];
    let limits = Limits { rpm: Some(600), tpm: Some(1_000_000), ..Limits::default() };
    let look = Look { ready: true, ..Look::of("d".into(), "m".into()) };
    let mut now = START;
    for _ in 0..100 {
        let heard = Heard { started: 2, input_tokens: 100, output_tokens: 20, ..Heard::default() };
        account.lease(now, owner, &Ask { in_flight: 3, heard, looks: vec![look.clone()], ..ask(limits, 50) });
        now += AGAIN;
    }
    let standing = account.standing("a", now);
    assert_eq!(standing.models, ["m"]);
    assert!((550.0..=660.0).contains(&standing.calls_per_minute), "{standing:?}");
    assert!((33_000.0..=40_000.0).contains(&standing.tokens_per_minute), "{standing:?}");
    assert!(standing.share_in_use.is_some_and(|share| share > 0.9), "{standing:?}");
    assert_eq!((standing.tightest, standing.in_flight, standing.waiting), (Some("rpm"), 3, 61));
    account.set(now, Some(Limits { rpm: Some(6_000), ..Limits::default() }), "ada@host");
    let standing = account.standing("a", now);
    assert_eq!(standing.share_in_use, Some(0.0), "what was used of the old limit is not used of the new one");
    assert_eq!(standing.set_by.map(|change| change.by).as_deref(), Some("ada@host"));
}

#[test]
fn a_limit_of_a_day_is_told_as_used_up_and_never_as_one_of_a_minute() {
    let mut account = Account::default();
    let owner = owners(1)[0];
    let ask = ask(Limits { rpd: Some(10), ..Limits::default() }, 1_000);
    for tick in 0..1_000 {
        account.lease(START + tick * AGAIN, owner, &ask);
    }
    let standing = account.standing("a", START + 1_000 * AGAIN);
    assert!(standing.per_minute.is_empty() && standing.share_in_use.is_none(), "{standing:?}");
    assert_eq!((standing.rpd, standing.requests_today), (Some(10), 10));
    assert!(standing.used_up.is_some_and(|used_up| used_up.reason.contains("10 calls a day")));
    assert_eq!(account.standing("a", START + DAY).used_up, None);
}

#[test]
fn a_change_of_the_workers_files_is_noted_once() {
    let mut account = Account::default();
    let owners = owners(3);
    for rpm in [600, 900] {
        for owner in &owners {
            account.lease(START, *owner, &ask(limits(rpm), 1));
        }
    }
    let changes = account.standing("a", START).changes;
    let told: Vec<_> = changes.iter().map(|change| (change.by.as_str(), change.what.as_str())).collect();
    assert_eq!(told, [("workers' files", "900 rpm; it was 600 rpm")]);
}
