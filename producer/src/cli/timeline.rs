//! What became of a job, event by event, as people read it. Pure.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use gristmill_common::outcome::{AttemptRecord, CostBasis, ResultRow};
use gristmill_common::price::PicoUsd;
use gristmill_common::store::{JobDetail, LostCall};

use super::plot::{Canvas, span};
use super::table::{columns, count};

/// Columns of the bars.
const BAR: usize = 24;

/// Lays out the events of a job: when, how long after it was recorded, a bar of where a call lies, what it was.
///
/// `now` is what holds it now, if it has not ended.
pub(super) fn timeline(detail: &JobDetail, now: Option<(DateTime<Utc>, String)>, canvas: Canvas) -> String {
    let mut events = vec![Event::at(detail.created_at, "recorded".to_owned())];
    for (run, attempt) in &detail.attempts {
        let took = TimeDelta::milliseconds(attempt.latency_ms.into());
        events.push(Event { at: attempt.started_at, took: Some(took), text: call(*run, attempt) });
    }
    events.extend(detail.lost.iter().map(|lost| Event::at(lost.died_at, loss(lost))));
    events.extend(detail.runs.iter().map(|row| Event::at(row.result.finished_at, end(row))));
    // An end of the same millisecond as its call stands behind it.
    events.sort_by_key(|event| event.at);
    events.extend(now.map(|(at, text)| Event::at(at, text)));
    let first = events[0].at;
    let last = events.iter().map(Event::end).max().unwrap_or(first);
    let row = |event: &Event| {
        let offset = u32::try_from((event.at - first).num_milliseconds()).unwrap_or(u32::MAX);
        let bar = event.took.map(|took| canvas.stretch(event.at - first, took, last - first, BAR)).unwrap_or_default();
        vec![format!("  {}", clock(event.at)), format!("+{}", span(offset)), bar, event.text.clone()]
    };
    columns(&events.iter().map(row).collect::<Vec<_>>())
}

/// Something that happened to a job.
#[derive(Debug)]
struct Event {
    at: DateTime<Utc>,
    /// How long it took, if it is a call.
    took: Option<TimeDelta>,
    text: String,
}

impl Event {
    const fn at(at: DateTime<Utc>, text: String) -> Self {
        Self { at, took: None, text }
    }

    fn end(&self) -> DateTime<Utc> {
        self.took.map_or(self.at, |took| self.at + took)
    }
}

impl Canvas {
    /// Draws where a time lies in a whole, in so many columns; it takes one at least.
    fn stretch(self, from: TimeDelta, took: TimeDelta, whole: TimeDelta, columns: usize) -> String {
        let whole = whole.num_milliseconds().max(1);
        let column = |time: TimeDelta| {
            let share = time.num_milliseconds().clamp(0, whole).saturating_mul(columns.try_into().unwrap_or(0)) / whole;
            usize::try_from(share).unwrap_or(0)
        };
        let start = column(from).min(columns - 1);
        let end = column(from + took).clamp(start + 1, columns);
        let (full, edge) = if self.blocks { ("█", "│") } else { ("#", "|") };
        format!("{edge}{}{}{}{edge}", " ".repeat(start), full.repeat(end - start), " ".repeat(columns - end))
    }
}

fn clock(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true).replace('T', " ")
}

/// Says one call in a line.
fn call(run: u32, attempt: &AttemptRecord) -> String {
    let AttemptRecord { deployment, latency_ms, usage, .. } = attempt;
    let status = attempt.http_status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    let mut text = format!("run {run}, call {}: {deployment}, {status} after {latency_ms} ms", attempt.attempt);
    match &attempt.error {
        Some(error) => {
            let message = error.message.lines().next().unwrap_or_default();
            text.push_str(&format!(", {}: {message}", error.class));
        }
        None => {
            let tokens = |tokens: Option<u32>| tokens.map_or_else(|| "?".to_owned(), |n| count(u64::from(n)));
            text.push_str(&format!(", {} tokens in", tokens(usage.input_tokens)));
            if let Some(cached) = usage.cached_input_tokens.filter(|cached| *cached > 0) {
                text.push_str(&format!(" ({} cached)", count(u64::from(cached))));
            }
            text.push_str(&format!(", {} out", tokens(usage.output_tokens)));
        }
    }
    text.push_str(&format!(", {}", cost(attempt)));
    if !attempt.counted {
        text.push_str(" (does not count against the retries)");
    }
    text
}

/// Says what a call cost, how that is known, and by which price.
fn cost(attempt: &AttemptRecord) -> String {
    let price = attempt.price_ref.as_ref().map(|price| format!(" by {price}")).unwrap_or_default();
    match (attempt.cost_pico_usd, attempt.cost_basis, attempt.bound_pico_usd) {
        (Some(_), CostBasis::Unbilled, _) => "not billed".to_owned(),
        (Some(cost), CostBasis::Estimated, _) => format!("{} as estimated{price}", PicoUsd(cost)),
        (Some(cost), CostBasis::Reported | CostBasis::Unknown, _) => format!("{}{price}", PicoUsd(cost)),
        (None, _, Some(bound)) => format!("cost unknown, at most {}{price}", PicoUsd(bound)),
        (None, _, None) => "cost unknown".to_owned(),
    }
}

/// Says what a dead worker may have called.
fn loss(lost: &LostCall) -> String {
    let bound = lost.bound_pico_usd.map(|bound| format!(", at most {}", PicoUsd(bound))).unwrap_or_default();
    format!("run {}, call {}: worker {} died, a call of it may be billed{bound}", lost.run, lost.attempt, lost.owner)
}

/// Says how a run ended, and what it cost in all.
fn end(row: &ResultRow) -> String {
    let result = &row.result;
    let mut text = format!("run {} {}", row.run, result.status);
    if result.cached {
        text.push_str(" from the response cache");
    }
    match result.cost_pico_usd {
        Some(cost) => text.push_str(&format!(", {} in all", PicoUsd(cost))),
        None if result.attempts > 0 => text.push_str(", cost unknown"),
        None => {}
    }
    if let Some(saved) = result.saved_pico_usd {
        text.push_str(&format!(", {} saved", PicoUsd(saved)));
    }
    text
}

#[cfg(test)]
mod tests {
    use gristmill_common::failure::{ErrorClass, ErrorRecord};
    use gristmill_common::outcome::Usage;

    use super::*;

    fn attempt() -> AttemptRecord {
        AttemptRecord {
            attempt: 1,
            provider: "openai".into(),
            deployment: "gpt-4o".into(),
            model: "gpt-4o".into(),
            served_model: None,
            service_tier: None,
            started_at: DateTime::from_timestamp_millis(1_795_400_000_000).unwrap(),
            ttft_ms: None,
            latency_ms: 900,
            http_status: Some(200),
            counted: true,
            usage: Usage {
                input_tokens: Some(1_000),
                cached_input_tokens: Some(400),
                output_tokens: Some(10),
                ..Usage::default()
            },
            cost_pico_usd: Some(2_100_000_000),
            cost_basis: CostBasis::Reported,
            bound_pico_usd: None,
            price_ref: Some("gpt-4o@1a2b3c4d".into()),
            billed: None,
            request_id: None,
            error: None,
        }
    }

    #[test]
    fn a_call_says_what_it_cost_and_how_that_is_known() {
        let unseen = AttemptRecord { cost_pico_usd: None, cost_basis: CostBasis::Unknown, ..attempt() };
        for (attempt, shown) in [
            (attempt(), "$0.0021 by gpt-4o@1a2b3c4d"),
            (
                AttemptRecord { cost_basis: CostBasis::Estimated, ..attempt() },
                "$0.0021 as estimated by gpt-4o@1a2b3c4d",
            ),
            (AttemptRecord { cost_pico_usd: Some(0), ..attempt() }, "$0.00 by gpt-4o@1a2b3c4d"),
            (AttemptRecord { cost_pico_usd: Some(0), cost_basis: CostBasis::Unbilled, ..attempt() }, "not billed"),
            (
                AttemptRecord { bound_pico_usd: Some(5_000_000_000), ..unseen.clone() },
                "cost unknown, at most $0.005 by gpt-4o@1a2b3c4d",
            ),
            (unseen, "cost unknown"),
        ] {
            assert_eq!(cost(&attempt), shown);
        }
        assert_eq!(
            call(1, &attempt()),
            "run 1, call 1: gpt-4o, 200 after 900 ms, 1,000 tokens in (400 cached), 10 out, $0.0021 by gpt-4o@1a2b3c4d"
        );
        let error = Some(Box::new(ErrorRecord::new(ErrorClass::RateLimit, "slow down\nplease")));
        let refused = AttemptRecord {
            error,
            http_status: Some(429),
            counted: false,
            cost_pico_usd: Some(0),
            cost_basis: CostBasis::Unbilled,
            ..attempt()
        };
        assert_eq!(
            call(2, &refused),
            "run 2, call 1: gpt-4o, 429 after 900 ms, RateLimitError: slow down, not billed (does not count against the retries)"
        );
    }

    #[test]
    fn calls_are_bars_in_the_whole_time() {
        let draw = |blocks, from, took, whole| {
            let time = TimeDelta::milliseconds;
            Canvas { blocks, width: 80 }.stretch(time(from), time(took), time(whole), 8)
        };
        assert_eq!(draw(true, 0, 500, 1_000), "│████    │");
        assert_eq!(draw(false, 500, 1, 1_000), "|    #   |");
        assert_eq!(draw(false, 1_000, 0, 1_000), "|       #|");
        assert_eq!(draw(false, 0, 0, 0), "|#       |");
    }
}
