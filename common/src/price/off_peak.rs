//! Prices that hold at certain hours.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, FixedOffset, NaiveTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::row::number;

/// Rates that replace the others at some hours.
#[derive(Debug, Clone)]
pub(super) struct OffPeak {
    rates: BTreeMap<String, Decimal>,
    windows: Vec<Window>,
    /// The zone that days of the week are told in; `None` is one that is not known here.
    zone: Option<FixedOffset>,
}

#[derive(Debug, Clone)]
struct Window {
    /// From the first, before the second; past midnight where the second is earlier, the whole day where they are equal.
    hours: Vec<(NaiveTime, NaiveTime)>,
    /// 1 is Monday; empty is every day.
    weekdays: Vec<u32>,
}

#[derive(Deserialize)]
struct Written {
    hours_utc: Option<Hours>,
    weekdays: Option<Vec<u32>>,
    windows: Option<Vec<WrittenWindow>>,
    weekday_timezone: Option<String>,
}

#[derive(Deserialize)]
struct WrittenWindow {
    hours_utc: Option<Hours>,
    weekdays: Option<Vec<u32>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Hours {
    One(String),
    Many(Vec<String>),
}

impl OffPeak {
    /// Reads `off_peak_pricing`; `None` where it is written in a way that is not known.
    pub(super) fn read(raw: &RawValue) -> Option<Self> {
        let written: Written = serde_json::from_str(raw.get()).ok()?;
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get()).ok()?;
        let mut windows = written.windows.unwrap_or_default();
        if written.hours_utc.is_some() {
            windows.push(WrittenWindow { hours_utc: written.hours_utc, weekdays: written.weekdays });
        }
        Some(Self {
            rates: fields.iter().filter_map(|(name, raw)| Some((name.clone(), number(raw)?))).collect(),
            windows: windows.into_iter().map(Window::of).collect::<Option<_>>()?,
            zone: zone(written.weekday_timezone.as_deref().unwrap_or("UTC")),
        })
    }

    /// Returns the rates that hold at an instant, by their names.
    pub(super) fn at(&self, instant: DateTime<Utc>) -> Option<&BTreeMap<String, Decimal>> {
        let zone = self.zone?;
        let time = instant.time();
        let weekday = instant.with_timezone(&zone).weekday().number_from_monday();
        let is_open = |window: &Window| {
            let is_day = window.weekdays.is_empty() || window.weekdays.contains(&weekday);
            is_day && window.hours.iter().any(|hours| is_within(*hours, time))
        };
        self.windows.iter().any(is_open).then_some(&self.rates)
    }
}

impl Window {
    fn of(written: WrittenWindow) -> Option<Self> {
        let texts = match written.hours_utc? {
            Hours::One(text) => vec![text],
            Hours::Many(texts) => texts,
        };
        let hours = texts.iter().map(|text| hours(text)).collect::<Option<_>>()?;
        Some(Self { hours, weekdays: written.weekdays.unwrap_or_default() })
    }
}

fn is_within((from, to): (NaiveTime, NaiveTime), time: NaiveTime) -> bool {
    match from.cmp(&to) {
        std::cmp::Ordering::Less => from <= time && time < to,
        std::cmp::Ordering::Equal => true,
        std::cmp::Ordering::Greater => from <= time || time < to,
    }
}

/// Reads `00:30-16:30`.
fn hours(text: &str) -> Option<(NaiveTime, NaiveTime)> {
    let (from, to) = text.split_once('-')?;
    let time = |text: &str| NaiveTime::parse_from_str(text.trim(), "%H:%M").ok();
    Some((time(from)?, time(to)?))
}

/// Finds a time zone: those without a summer time that prices name, and offsets such as `+08:00`.
fn zone(name: &str) -> Option<FixedOffset> {
    match name {
        "UTC" | "Etc/UTC" => FixedOffset::east_opt(0),
        "Asia/Shanghai" | "Asia/Singapore" | "Asia/Hong_Kong" => FixedOffset::east_opt(8 * 3_600),
        "Asia/Tokyo" | "Asia/Seoul" => FixedOffset::east_opt(9 * 3_600),
        offset => offset.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_open(json: &str, at: &str) -> bool {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        OffPeak::read(&raw).is_some_and(|prices| prices.at(at.parse().unwrap()).is_some())
    }

    #[test]
    fn windows_open_at_their_start_and_are_closed_at_their_end() {
        let day = r#"{"hours_utc":"04:00-06:00"}"#;
        let night = r#"{"hours_utc":["22:00-02:00"]}"#;
        let always = r#"{"hours_utc":"00:00-00:00"}"#;
        for (json, time, open) in [
            (day, "04:00:00", true),
            (day, "05:59:59", true),
            (day, "06:00:00", false),
            (night, "23:00:00", true),
            (night, "01:59:59", true),
            (night, "02:00:00", false),
            (always, "13:00:00", true),
        ] {
            assert_eq!(is_open(json, &format!("2026-11-23T{time}Z")), open, "{json} {time}");
        }
    }

    #[test]
    fn weekdays_are_those_of_the_zone() {
        // 2026-11-22 is a Sunday, and Monday in Shanghai from 16:00 on.
        let window = |zone: &str| {
            format!(
                r#"{{"windows":[{{"hours_utc":"10:00-00:00","weekdays":[1,2,3,4,5]}}],"weekday_timezone":"{zone}"}}"#
            )
        };
        for (zone, at, open) in [
            ("UTC", "2026-11-22T17:00:00Z", false),
            ("Asia/Shanghai", "2026-11-22T17:00:00Z", true),
            ("Asia/Shanghai", "2026-11-22T15:00:00Z", false),
            ("+08:00", "2026-11-22T17:00:00Z", true),
            // Where the zone is not known, the full price counts.
            ("Europe/Berlin", "2026-11-23T17:00:00Z", false),
        ] {
            assert_eq!(is_open(&window(zone), at), open, "{zone} {at}");
        }
    }

    #[test]
    fn what_is_written_in_another_way_never_opens() {
        for json in [r#"{"hours_utc":"night"}"#, r#"{"hours_utc":7}"#, "{}", r#"{"windows":[{}]}"#] {
            assert!(!is_open(json, "2026-11-23T12:00:00Z"), "{json}");
        }
    }
}
