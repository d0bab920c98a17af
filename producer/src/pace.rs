//! How fast a batch's models go, what holds them up, and how long what is left takes. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use gristmill_common::quota::Standing;
use gristmill_common::store::{Progress, Wait, WaitKind};
use serde::Serialize;

/// A share below which a pace says nothing of what the limit allows.
const TELLING: f64 = 0.05;
const DAY_S: f64 = 86_400.0;

/// How the calls of one model go. Rates and limits are those of its accounts over all batches; the jobs are this batch's.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelPace {
    /// The model.
    pub model: String,
    /// Calls that were started, in a second of the last minute.
    pub calls_per_s: f64,
    /// Tokens of calls that ended, in a second of the last minute.
    pub tokens_per_s: f64,
    /// What its limits allow, in calls of the usual size; none where nothing is limited.
    pub limit_calls_per_s: Option<f64>,
    /// How much of the limit is in use that is used most, between 0 and 1.
    pub share_in_use: Option<f64>,
    /// Which limit that is, such as `600 rpm`; none where several accounts have one each.
    pub limit: Option<String>,
    /// Jobs whose call runs.
    pub in_flight: u64,
    /// Jobs that wait for a rate limit.
    pub waiting_for_quota: u64,
    /// Jobs that wait for their next call, after one that failed or was refused.
    pub backing_off: u64,
    /// Jobs that wait for the answer to an equal request.
    pub waiting_for_equal: u64,
    /// Jobs that wait for a deployment that is paused.
    pub paused: u64,
    /// Why nothing starts, and for how long yet.
    pub held_up: Option<String>,
    /// Whether that is a day's limit, and no pause, which its deployment reports.
    #[serde(skip)]
    pub is_used_up: bool,
    /// What is left of a day's limit, in calls, and the whole of it; where one account has all calls.
    #[serde(skip)]
    pub day: Option<DayLeft>,
}

/// A limit of a day, in calls of the usual size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DayLeft {
    /// What is left today.
    pub left: f64,
    /// What a whole day allows.
    pub whole: f64,
    /// Seconds until it begins anew.
    pub begins_anew_s: f64,
}

impl ModelPace {
    /// Makes one for each model that has open jobs or is among `models`.
    pub fn of_batch(models: &[&str], progress: &Progress, waits: &[Wait], standings: &[Standing]) -> Vec<Self> {
        let open =
            progress.held_by_model.keys().map(String::as_str).chain(waits.iter().map(|wait| wait.group.as_str()));
        let models: BTreeSet<&str> = models.iter().copied().chain(open).collect();
        models.into_iter().map(|model| Self::of_model(model, progress, waits, standings)).collect()
    }

    fn of_model(model: &str, progress: &Progress, waits: &[Wait], standings: &[Standing]) -> Self {
        let accounts: Vec<&Standing> =
            standings.iter().filter(|standing| standing.models.iter().any(|name| name == model)).collect();
        let held = progress.held_by_model.get(model).copied().unwrap_or_default();
        let running: u64 = accounts.iter().map(|account| account.in_flight).sum();
        let in_flight = if accounts.is_empty() { held } else { held.min(running) };
        // Who waits in a worker's line waits for a limit, where the worker would run more than it may.
        let waits_for_limit = accounts.iter().any(|account| is_limited(account) && account.waiting > 0);
        let kind = |kind| {
            waits.iter().filter(|wait| wait.group == model && wait.kind() == kind).map(|wait| wait.jobs).sum::<u64>()
        };
        let limits: Option<Vec<f64>> = accounts.iter().map(|account| calls_per_s(account)).collect();
        let calls_per_s: f64 = accounts.iter().map(|account| account.calls_per_minute / 60.0).sum::<f64>() + 0.0;
        let limit_calls_per_s = limits.filter(|limits| !limits.is_empty()).map(|limits| limits.iter().sum::<f64>());
        let held_up = held_up(&accounts);
        let is_used_up = held_up.is_some() && accounts.iter().any(|account| account.used_up.is_some());
        let in_line = held - in_flight;
        let (for_quota, for_pause) = match (&held_up, waits_for_limit) {
            (Some(_), _) if !is_used_up => (0, in_line),
            (_, true) => (in_line, 0),
            _ => (0, 0),
        };
        let only = if let [only] = accounts[..] { Some(only) } else { None };
        Self {
            model: model.to_owned(),
            calls_per_s,
            tokens_per_s: accounts.iter().map(|account| account.tokens_per_minute / 60.0).sum(),
            limit_calls_per_s,
            share_in_use: match only {
                Some(only) => only.share_in_use,
                None => limit_calls_per_s.filter(|limit| *limit > 0.0).map(|limit| (calls_per_s / limit).min(1.0)),
            },
            limit: only.and_then(tightest),
            in_flight,
            waiting_for_quota: kind(WaitKind::Quota) + for_quota,
            backing_off: kind(WaitKind::BackOff),
            waiting_for_equal: kind(WaitKind::Equal),
            paused: kind(WaitKind::Paused) + for_pause,
            held_up,
            is_used_up,
            day: only.and_then(day),
        }
    }

    /// Returns how long this many jobs take: at the pace of now, but no faster than the limits allow, those of the day included;
    /// none where nobody knows. `calls_per_job`: how often a job was called so far.
    pub fn to_go(paces: &[Self], jobs: u64, calls_per_job: f64, jobs_per_s: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "jobs of a batch")]
        let calls = jobs as f64 * calls_per_job.max(1.0);
        let now = jobs_per_s * calls_per_job.max(1.0);
        let limits: Option<Vec<f64>> = paces.iter().map(|pace| pace.limit_calls_per_s).collect();
        let limit = limits.filter(|limits| !limits.is_empty()).map(|limits| limits.iter().sum::<f64>());
        let is_held_up = !paces.is_empty() && paces.iter().all(|pace| pace.held_up.is_some());
        let rate = match limit.filter(|limit| *limit > 0.0) {
            Some(limit) if now > 0.0 => Some(now.min(limit)),
            Some(limit) => Some(limit),
            None => (now > 0.0).then_some(now),
        };
        let day = if let [only] = paces { only.day } else { None };
        let seconds = match (day, rate) {
            (Some(day), rate) if calls > day.left && day.whole >= 1.0 => {
                let over = calls - day.left;
                let whole_days = ((over - 1.0) / day.whole).floor().max(0.0);
                let last = over - whole_days * day.whole;
                day.begins_anew_s + whole_days * DAY_S + rate.map_or(0.0, |rate| last / rate)
            }
            // A pause ends when somebody has mended what it is for.
            _ if is_held_up => return None,
            (_, rate) => calls / rate?,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Adds up one figure of all models.
    pub fn sum<T: std::iter::Sum>(paces: &[Self], of: impl Fn(&Self) -> T) -> T {
        paces.iter().map(of).sum()
    }
}

fn is_limited(account: &Standing) -> bool {
    !account.per_minute.is_empty() || account.slots.is_some() || account.used_up.is_some()
}

/// Returns the calls of a second that an account's limits allow: by the limit of calls, and by what the tightest one has shown.
#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
fn calls_per_s(account: &Standing) -> Option<f64> {
    let of_calls = account.per_minute.get("rpm").map(|rpm| *rpm as f64 / 60.0);
    let shown = account
        .share_in_use
        .filter(|share| *share >= TELLING && account.calls_per_minute > 0.0)
        .map(|share| account.calls_per_minute / share / 60.0);
    of_calls.into_iter().chain(shown).reduce(f64::min)
}

fn tightest(account: &Standing) -> Option<String> {
    let unit = account.tightest?;
    match account.per_minute.get(unit) {
        Some(limit) => Some(format!("{limit} {unit}")),
        None => Some(format!("{} calls at once", account.limits.max_parallel_requests?)),
    }
}

/// Says why none of the accounts takes calls, and for how long yet the first of them does not.
fn held_up(accounts: &[&Standing]) -> Option<String> {
    let of = |account: &&Standing| {
        if let Some(used_up) = &account.used_up {
            return Some((used_up.left_s, format!("account {}: {}", account.account, used_up.reason)));
        }
        // Its deployments that are open take the calls.
        let (name, pause) = account.pauses.iter().min_by(|a, b| a.1.left_s.total_cmp(&b.1.left_s))?;
        (account.in_flight == 0).then(|| (pause.left_s, format!("deployment {name}: {}", pause.reason)))
    };
    let all: Option<Vec<(f64, String)>> = accounts.iter().map(of).collect();
    let (left_s, why) = all?.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    let left = left_s.ceil();
    Some(if left >= 1.0 { format!("{why}; it goes on in {}", length(left)) } else { why })
}

fn length(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a pause; casts saturate")]
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Returns what is left of a day, in calls.
#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
fn day(account: &Standing) -> Option<DayLeft> {
    let used = |used: i64| used.max(0) as f64;
    let of_calls = account.rpd.map(|rpd| (rpd as f64 - used(account.requests_today), rpd as f64));
    let per_call = account.tokens_per_minute / account.calls_per_minute;
    let of_tokens = account
        .limits
        .tpd
        .filter(|_| per_call.is_normal())
        .map(|tpd| ((tpd as f64 - used(account.tokens_today)) / per_call, tpd as f64 / per_call));
    let (left, whole) =
        of_calls.into_iter().chain(of_tokens).reduce(|least, other| if other.0 < least.0 { other } else { least })?;
    Some(DayLeft { left: left.max(0.0), whole, begins_anew_s: account.day_left_s })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gristmill_common::quota::{Limits, UsedUp};

    use super::*;

    fn standing() -> Standing {
        Standing {
            account: "a".to_owned(),
            models: vec!["m".to_owned()],
            per_minute: BTreeMap::from([("rpm", 600), ("tpm", 90_000)]),
            in_flight: 30,
            waiting: 34,
            calls_per_minute: 300.0,
            tokens_per_minute: 81_000.0,
            share_in_use: Some(0.9),
            tightest: Some("tpm"),
            ..Standing::default()
        }
    }

    fn wait(reason: &str, jobs: u64) -> Wait {
        let until = chrono::DateTime::from_timestamp_millis(1_795_400_000_000);
        Wait { group: "m".to_owned(), reason: Some(reason.to_owned()), jobs, until }
    }

    fn progress(held: u64) -> Progress {
        Progress { held, waiting: 0, held_by_model: BTreeMap::from([("m".to_owned(), held)]) }
    }

    fn seconds(paces: &[ModelPace], jobs: u64, jobs_per_s: f64) -> Option<u64> {
        ModelPace::to_go(paces, jobs, 1.0, jobs_per_s).map(|left| left.as_secs())
    }

    #[test]
    fn every_job_is_counted_where_it_waits() {
        let waits =
            [wait("retry after Timeout", 7), wait("waits for the rate limit (600 rpm)", 5), wait("deployment d: x", 3)];
        let paces = ModelPace::of_batch(&[], &progress(100), &waits, &[standing()]);
        let [pace] = &paces[..] else { panic!("one model") };
        assert_eq!((pace.in_flight, pace.waiting_for_quota, pace.backing_off, pace.paused), (30, 75, 7, 3));
        assert_eq!(pace.limit.as_deref(), Some("90000 tpm"));
        assert!((pace.calls_per_s - 5.0).abs() < 1e-9 && (pace.tokens_per_s - 1_350.0).abs() < 1e-9);
        // The tokens of these calls leave 5.6 of the 10 that rpm alone would allow.
        assert!(pace.limit_calls_per_s.is_some_and(|limit| (limit - 5.555).abs() < 0.01));
    }

    #[test]
    fn what_is_held_while_all_is_paused_waits_for_the_pause() {
        let pause = gristmill_common::quota::Paused {
            left_s: 90.4,
            class: "AuthenticationError".to_owned(),
            reason: "set OPENAI_API_KEY".to_owned(),
        };
        let pauses = BTreeMap::from([("d".to_owned(), pause)]);
        let paces = ModelPace::of_batch(&[], &progress(40), &[], &[Standing { pauses, in_flight: 0, ..standing() }]);
        assert_eq!((paces[0].waiting_for_quota, paces[0].paused, paces[0].is_used_up), (0, 40, false));
        assert_eq!(paces[0].held_up.as_deref(), Some("deployment d: set OPENAI_API_KEY; it goes on in 1m31s"));
        assert_eq!(seconds(&paces, 40, 0.0), None, "nobody knows when");
    }

    #[test]
    fn what_is_left_takes_no_less_than_the_limit_allows() {
        let paces = ModelPace::of_batch(&["m"], &progress(0), &[], &[Standing { share_in_use: None, ..standing() }]);
        assert_eq!(seconds(&paces, 1_000, 50.0), Some(100), "600 rpm");
        assert_eq!(seconds(&paces, 1_000, 5.0), Some(200), "its own pace is slower");
        assert_eq!(seconds(&paces, 1_000, 0.0), Some(100), "it has not begun");
        assert_eq!(ModelPace::to_go(&paces, 1_000, 2.0, 50.0).map(|left| left.as_secs()), Some(200), "two calls a job");
        assert_eq!(seconds(&[], 1_000, 5.0), Some(200));
        assert_eq!(seconds(&[], 1_000, 0.0), None);
    }

    #[test]
    fn a_limit_of_a_day_makes_what_is_left_take_days() {
        let standing = Standing {
            per_minute: BTreeMap::from([("rpm", 600)]),
            rpd: Some(1_000),
            requests_today: 900,
            day_left_s: 3_600.0,
            share_in_use: None,
            ..standing()
        };
        let paces = ModelPace::of_batch(&["m"], &progress(0), &[], std::slice::from_ref(&standing));
        assert_eq!(seconds(&paces, 100, 0.0), Some(10));
        assert_eq!(seconds(&paces, 600, 0.0), Some(3_600 + 50));
        assert_eq!(seconds(&paces, 2_600, 0.0), Some(3_600 + 2 * 86_400 + 50));
        let used_up = Some(UsedUp { left_s: 3_600.0, reason: "the limit of 1000 calls a day is used up".to_owned() });
        let standing = Standing { requests_today: 1_000, used_up, limits: Limits::default(), ..standing };
        let paces = ModelPace::of_batch(&["m"], &progress(0), &[], &[standing]);
        assert_eq!(
            paces[0].held_up.as_deref(),
            Some("account a: the limit of 1000 calls a day is used up; it goes on in 1h00m")
        );
        assert_eq!(seconds(&paces, 600, 0.0), Some(3_600 + 60));
    }
}
