//! How an account stands, for people and for the figures that they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Account, Change, DAY, whole};
use crate::id::OwnerId;
use crate::quota::{Dimension, Known, Limits, Micros, PerDimension};

/// How an account stands, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Standing {
    /// The account.
    pub account: String,
    /// The model groups whose calls count there.
    pub models: Vec<String>,
    /// What is allowed, by `rpm`, `tpm`, `itpm`, `otpm`; learnt figures included.
    pub per_minute: BTreeMap<&'static str, u64>,
    /// What somebody wrote down: the fleet's limits, else the lowest of the workers' files.
    pub limits: Limits,
    /// What somebody set for the fleet.
    pub set: Option<Limits>,
    /// Who set it, and when.
    pub set_by: Option<Change>,
    /// What the workers' files say, by how many say it.
    pub configured: Vec<(Limits, usize)>,
    /// How the workers' files differ.
    pub drift: Option<String>,
    /// Calls per minute that refusals taught; none where they taught nothing.
    pub learnt_rpm: Option<u64>,
    /// What headers told, by `rpm`, `tpm`, `itpm`, `otpm`.
    pub told: BTreeMap<&'static str, u64>,
    /// Calls in a day, where they are limited, by whoever said so.
    pub rpd: Option<u64>,
    /// Calls at once, over all workers; none where there is no bound.
    pub slots: Option<u64>,
    /// Calls that run.
    pub in_flight: u64,
    /// Calls that workers would run beside those.
    pub waiting: u64,
    /// Calls of the last minute.
    pub calls_per_minute: f64,
    /// Tokens of the last minute, as they were billed.
    pub tokens_per_minute: f64,
    /// What the last minute used of the limit that is used most, between 0 and 1; none where nothing is limited.
    pub share_in_use: Option<f64>,
    /// Which limit that is, by the name of its setting.
    pub tightest: Option<&'static str>,
    /// Used today, of the limits of a day.
    pub requests_today: i64,
    /// Tokens used today, of the limits of a day.
    pub tokens_today: i64,
    /// Seconds until the limits of a day begin anew.
    pub day_left_s: f64,
    /// What is used up until tomorrow.
    pub used_up: Option<UsedUp>,
    /// Workers that share it.
    pub workers: Vec<Held>,
    /// Pauses by deployment.
    pub pauses: BTreeMap<String, Paused>,
    /// The last changes, oldest first.
    pub changes: Vec<Change>,
}

/// What a worker holds of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// The worker.
    pub owner: OwnerId,
    /// Calls that run.
    pub in_flight: u64,
    /// Calls that it may run at once.
    pub slots: u64,
    /// Whether it waits for quota.
    pub waits: bool,
}

/// A limit of a day that is used up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UsedUp {
    /// Seconds until it begins anew.
    pub left_s: f64,
    /// Which limit.
    pub reason: String,
}

/// A deployment's pause.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paused {
    /// Seconds until one worker tries again; 0 while one does.
    pub left_s: f64,
    /// The error's class.
    pub class: String,
    /// What to do and why.
    pub reason: String,
}

/// Returns how long the day is yet.
pub(super) fn day_left(now: Micros) -> Duration {
    Duration::from_micros(u64::try_from(DAY - now.rem_euclid(DAY)).unwrap_or_default())
}

impl Account {
    /// Returns what is known of its limits, beside what is written down.
    pub(super) fn known(&self, now: Micros, limits: Limits) -> Known {
        Known {
            written: PerDimension::from_fn(|dimension| limits.of_a_minute(dimension)),
            told: self.told.map(|(told, _)| told.per_minute).unwrap_or_default(),
            learnt: self.adapt.pace().map(whole),
            learnt_at_once: self.adapt.window().map(whole),
            at_once: self.total_slots(now, limits),
        }
    }

    /// Returns how it stands at `now`.
    pub fn standing(&self, account: &str, now: Micros) -> Standing {
        let by_unit = |value: &dyn Fn(Dimension) -> Option<u64>| {
            Dimension::ALL.into_iter().filter_map(|dimension| Some((dimension.unit(), value(dimension)?))).collect()
        };
        let mut configured: Vec<(Limits, usize)> = Vec::new();
        for holder in self.holders.values() {
            match configured.iter_mut().find(|(limits, _)| *limits == holder.configured) {
                Some((_, count)) => *count += 1,
                None => configured.push((holder.configured, 1)),
            }
        }
        let limits = self.limits();
        let today = self.day.number == now.div_euclid(DAY);
        let share = self.share_in_use(now, limits);
        Standing {
            account: account.to_owned(),
            models: self.models.keys().map(ToString::to_string).collect(),
            per_minute: by_unit(&|dimension| self.of_a_minute(dimension, limits).map(whole)),
            limits,
            set: self.set,
            set_by: self.set_by.clone(),
            configured,
            drift: self.drift(),
            learnt_rpm: self.adapt.pace().map(whole),
            told: by_unit(&|dimension| self.told?.0.per_minute[dimension]),
            rpd: self.rpd(limits),
            slots: self.total_slots(now, limits),
            in_flight: self.in_flight(),
            waiting: self.holders.values().map(|holder| holder.wants.saturating_sub(holder.in_flight)).sum(),
            calls_per_minute: self.recent.calls_per_minute(now),
            tokens_per_minute: self.recent.tokens_per_minute(now),
            share_in_use: share.map(|(share, _)| share),
            tightest: share.map(|(_, unit)| unit),
            requests_today: if today { self.day.requests } else { 0 },
            tokens_today: if today { self.day.tokens } else { 0 },
            day_left_s: day_left(now).as_secs_f64(),
            used_up: self
                .blocked(now, limits, |_| Some(1))
                .filter(|_| today)
                .map(|blocked| UsedUp { left_s: blocked.length.as_secs_f64(), reason: blocked.reason }),
            workers: self
                .holders
                .iter()
                .map(|(owner, holder)| Held {
                    owner: *owner,
                    in_flight: holder.in_flight,
                    slots: holder.slots,
                    waits: holder.waits,
                })
                .collect(),
            pauses: self
                .pauses
                .iter()
                .filter(|(_, pause)| !pause.is_forgotten(now))
                .map(|(name, pause)| {
                    let left = Duration::from_micros(u64::try_from(pause.until - now).unwrap_or_default());
                    let (class, reason) = (pause.class.clone(), pause.reason.clone());
                    (name.to_string(), Paused { left_s: left.as_secs_f64(), class, reason })
                })
                .collect(),
            changes: self.changes.clone(),
        }
    }

    /// Returns what is used of the limit that is used most, and its name.
    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
    fn share_in_use(&self, now: Micros, limits: Limits) -> Option<(f64, &'static str)> {
        let share = |used: f64, limit: f64| (used / limit.max(1.0)).min(1.0);
        let of_a_minute = |dimension| {
            let limit = self.of_a_minute(dimension, limits)?;
            Some((share(self.recent.units_per_minute(now, dimension), limit), dimension.unit()))
        };
        let at_once = limits
            .max_parallel_requests
            .map(|most| (share(self.in_flight() as f64, most as f64), "max_parallel_requests"));
        Dimension::ALL
            .into_iter()
            .filter_map(of_a_minute)
            .chain(at_once)
            .reduce(|most, other| if other.0 > most.0 { other } else { most })
    }
}
