//! How accounts stand, as people read it. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use gristmill_common::quota::{Limits, Paused, Standing};

use super::table::{ago, columns, count, duration};

/// Changes that are shown of one account.
const SHOWN_CHANGES: usize = 20;
/// Workers that are shown of one account.
const SHOWN_WORKERS: usize = 20;
/// Digits of a worker's id; enough to tell it from others.
const SHORT_ID: usize = 13;

/// Lays out all accounts, one a line, and below what somebody should know.
pub(super) fn table(standings: &[Standing], now: DateTime<Utc>) -> String {
    let heading = ["ACCOUNT", "ALLOWED", "FROM", "IN USE", "IN FLIGHT", "WORKERS"].map(str::to_owned).to_vec();
    let row = |standing: &Standing| {
        vec![
            standing.account.clone(),
            allowed(standing),
            source(standing, now),
            in_use(standing).unwrap_or_else(|| "-".to_owned()),
            in_flight(standing),
            standing.workers.len().to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(standings.iter().map(row)).collect();
    let mut text = columns(&rows);
    for standing in standings {
        for remark in remarks(standing) {
            text.push_str(&format!("{}: {remark}\n", standing.account));
        }
    }
    text
}

/// Tells all of one account, its last changes included.
pub(super) fn describe(standing: &Standing, now: DateTime<Utc>) -> String {
    let mut rows = Vec::new();
    let mut add = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    add("account", standing.account.clone());
    if !standing.models.is_empty() {
        add("models", standing.models.join(", "));
    }
    add("allowed", allowed(standing));
    add("from", source(standing, now));
    for (limits, workers) in &standing.configured {
        add("file", format!("{limits}: {}", workers_of(*workers)));
    }
    if !standing.told.is_empty() {
        let told = standing.told.iter().map(|(unit, limit)| format!("{} {unit}", count(*limit)));
        add("headers", told.collect::<Vec<_>>().join(", "));
    }
    if let Some(rpm) = standing.learnt_rpm {
        add("learnt", format!("{} rpm, from refusals", count(rpm)));
    }
    if let Some(share) = in_use(standing) {
        add("in use", share);
    }
    let pace = |value: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown whole; casts saturate")]
        let whole = value.round() as u64;
        count(whole)
    };
    add(
        "pace",
        format!("{} calls, {} tokens a minute", pace(standing.calls_per_minute), pace(standing.tokens_per_minute)),
    );
    add("in flight", in_flight(standing));
    if standing.waiting > 0 {
        add("waiting", format!("{} at the workers", count(standing.waiting)));
    }
    today(standing).into_iter().for_each(|text| add("today", text));
    remarks(standing).into_iter().for_each(|remark| add("note", remark));
    for held in standing.workers.iter().take(SHOWN_WORKERS) {
        let id: String = held.owner.to_string().chars().take(SHORT_ID).collect();
        let waits = if held.waits && held.in_flight == 0 { ", waits" } else { "" };
        add("worker", format!("{id}: {} in flight{waits}", count(held.in_flight)));
    }
    let more = standing.workers.len().saturating_sub(SHOWN_WORKERS);
    if more > 0 {
        add("worker", format!("{more} more"));
    }
    for change in standing.changes.iter().rev().take(SHOWN_CHANGES) {
        let at = DateTime::from_timestamp_micros(change.at).unwrap_or_default();
        add("change", format!("{}  {}: {}", at.format("%Y-%m-%d %H:%M:%S"), change.by, change.what));
    }
    columns(&rows)
}

/// Says what is allowed: what was written down, told and learnt, the lowest of each.
fn allowed(standing: &Standing) -> String {
    let rest = Limits { rpm: None, tpm: None, itpm: None, otpm: None, ..standing.limits };
    let written = Limits { rpd: None, tpd: None, max_parallel_requests: None, ..standing.limits };
    // A worker has not asked yet: what is written down will count.
    let of_a_minute: Vec<(&str, u64)> = if standing.per_minute.is_empty() {
        written.named().into_iter().filter_map(|(name, limit)| Some((name, limit?))).collect()
    } else {
        ["rpm", "tpm", "itpm", "otpm"]
            .into_iter()
            .filter_map(|unit| Some((unit, *standing.per_minute.get(unit)?)))
            .collect()
    };
    let rpd = standing.rpd.or(rest.rpd).map(|rpd| ("rpd", rpd));
    let parts: Vec<String> = of_a_minute
        .into_iter()
        .chain(rpd)
        .chain(rest.tpd.map(|tpd| ("tpd", tpd)))
        .chain(rest.max_parallel_requests.map(|most| ("at once", most)))
        .map(|(unit, limit)| format!("{} {unit}", count(limit)))
        .collect();
    if parts.is_empty() { "no limit known".to_owned() } else { parts.join(", ") }
}

/// Says who said so.
fn source(standing: &Standing, now: DateTime<Utc>) -> String {
    let mut parts = Vec::new();
    match (&standing.set, &standing.set_by) {
        (Some(_), Some(by)) => {
            let at = DateTime::from_timestamp_micros(by.at).unwrap_or_default();
            parts.push(format!("set by {} {}", by.by, ago(at, now)));
        }
        (Some(_), None) => parts.push("set".to_owned()),
        (None, _) if standing.limits.is_empty() => {}
        (None, _) if standing.workers.is_empty() => parts.push("the file here".to_owned()),
        (None, _) => parts.push("workers' files".to_owned()),
    }
    if !standing.told.is_empty() {
        parts.push("headers".to_owned());
    }
    if standing.learnt_rpm.is_some() {
        parts.push("refusals".to_owned());
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn in_use(standing: &Standing) -> Option<String> {
    let unit = match standing.tightest? {
        "max_parallel_requests" => "calls at once",
        unit => unit,
    };
    Some(format!("{:.0}% of {unit}", standing.share_in_use? * 100.0))
}

fn in_flight(standing: &Standing) -> String {
    match standing.slots {
        Some(slots) => format!("{} of {}", count(standing.in_flight), count(slots)),
        None => count(standing.in_flight),
    }
}

fn today(standing: &Standing) -> Option<String> {
    let used = |used: i64, limit: Option<u64>, what: &str| {
        Some(format!("{} of {} {what}", count(u64::try_from(used).unwrap_or_default()), count(limit?)))
    };
    let parts: Vec<String> = [
        used(standing.requests_today, standing.rpd, "calls"),
        used(standing.tokens_today, standing.limits.tpd, "tokens"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| {
        let left = duration(Duration::try_from_secs_f64(standing.day_left_s).unwrap_or_default());
        format!("{}; it begins anew in {left}", parts.join(", "))
    })
}

/// Says what somebody should know or do.
fn remarks(standing: &Standing) -> Vec<String> {
    let mut remarks: Vec<String> = Vec::new();
    if let Some(used_up) = &standing.used_up {
        remarks.push(used_up.reason.clone());
    }
    for (name, Paused { left_s, reason, .. }) in &standing.pauses {
        let left = if *left_s > 0.0 {
            format!("tried again in {}", duration(Duration::try_from_secs_f64(*left_s).unwrap_or_default()))
        } else {
            "tried again with the next job".to_owned()
        };
        remarks.push(format!("deployment {name} is paused, {left}: {reason}"));
    }
    if let Some(drift) = &standing.drift {
        remarks.push(format!("{drift}; give all workers the same file, or `gristmill limits set`"));
    }
    remarks
}

fn workers_of(count: usize) -> String {
    format!("{count} worker{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gristmill_common::id::OwnerId;
    use gristmill_common::quota::{Change, Held};

    use super::*;

    fn standing() -> Standing {
        let now = DateTime::from_timestamp(1_795_400_000, 0).unwrap();
        let at = (now.timestamp() - 7_200) * 1_000_000;
        let set = Limits { rpm: Some(600), tpm: Some(100_000), rpd: Some(10_000), ..Limits::default() };
        let by = |by: &str, what: &str| Change { at, by: by.to_owned(), what: what.to_owned() };
        Standing {
            account: "gpt-4o".to_owned(),
            models: vec!["gpt-4o".to_owned(), "gpt-4o-mini".to_owned()],
            per_minute: BTreeMap::from([("rpm", 600), ("tpm", 100_000)]),
            limits: set,
            set: Some(set),
            set_by: Some(by("ada@mill", "set 600 rpm")),
            configured: vec![(Limits { rpm: Some(60), ..Limits::default() }, 2)],
            rpd: Some(10_000),
            slots: Some(64),
            in_flight: 30,
            waiting: 98,
            calls_per_minute: 588.2,
            tokens_per_minute: 41_000.0,
            share_in_use: Some(0.98),
            tightest: Some("rpm"),
            requests_today: 4_200,
            day_left_s: 3_700.0,
            workers: vec![Held { owner: OwnerId::new(now), in_flight: 30, slots: 64, waits: true }],
            pauses: BTreeMap::from([(
                "eu".to_owned(),
                Paused {
                    left_s: 12.4,
                    class: "AuthenticationError".to_owned(),
                    reason: "set AZURE_API_KEY".to_owned(),
                },
            )]),
            changes: vec![by("workers' files", "60 rpm; it was 90 rpm"), by("ada@mill", "set 600 rpm; it was 60 rpm")],
            ..Standing::default()
        }
    }

    #[test]
    fn every_account_is_a_line_and_what_to_do_stands_below() {
        let now = DateTime::from_timestamp(1_795_400_000, 0).unwrap();
        let drift = Standing {
            account: "claude".to_owned(),
            limits: Limits { rpm: Some(50), max_parallel_requests: Some(4), ..Limits::default() },
            drift: Some("workers' files differ: 50 rpm and 60 rpm; the lowest of each counts".to_owned()),
            ..Standing::default()
        };
        let unknown = Standing { account: "local".to_owned(), slots: Some(32), ..Standing::default() };
        assert_eq!(
            table(&[drift, standing(), unknown], now),
            "ACCOUNT  ALLOWED                           FROM                       IN USE      IN FLIGHT  WORKERS\n\
             claude   50 rpm, 4 at once                 the file here              -           0          0\n\
             gpt-4o   600 rpm, 100,000 tpm, 10,000 rpd  set by ada@mill 2h00m ago  98% of rpm  30 of 64   1\n\
             local    no limit known                    -                          -           0 of 32    0\n\
             claude: workers' files differ: 50 rpm and 60 rpm; the lowest of each counts; give all workers the same file, or \
             `gristmill limits set`\n\
             gpt-4o: deployment eu is paused, tried again in 12s: set AZURE_API_KEY\n"
        );
    }

    #[test]
    fn one_account_is_told_with_its_changes_the_last_first() {
        let now = DateTime::from_timestamp(1_795_400_000, 0).unwrap();
        let standing = standing();
        let id: String = standing.workers[0].owner.to_string().chars().take(SHORT_ID).collect();
        assert_eq!(
            describe(&standing, now),
            format!(
                "account    gpt-4o\nmodels     gpt-4o, gpt-4o-mini\nallowed    600 rpm, 100,000 tpm, 10,000 rpd\n\
                 from       set by ada@mill 2h00m ago\nfile       60 rpm: 2 workers\nin use     98% of rpm\n\
                 pace       588 calls, 41,000 tokens a minute\nin flight  30 of 64\nwaiting    98 at the workers\n\
                 today      4,200 of 10,000 calls; it begins anew in 1h01m\n\
                 note       deployment eu is paused, tried again in 12s: set AZURE_API_KEY\n\
                 worker     {id}: 30 in flight\n\
                 change     2026-11-23 00:13:20  ada@mill: set 600 rpm; it was 60 rpm\n\
                 change     2026-11-23 00:13:20  workers' files: 60 rpm; it was 90 rpm\n"
            )
        );
    }
}
