//! A result as a row of named cells, and its text in each format. Pure.

use chrono::{DateTime, SecondsFormat, Utc};
use gristmill_common::batch::Batch;
use gristmill_common::job::is_users_tag;
use gristmill_common::outcome::ResultRow;
use gristmill_producer::output::csv::may_be_formula;
use gristmill_producer::output::usd;
use serde_json::value::{RawValue, to_raw_value};

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Text(String),
    Integer(i64),
    /// Picodollars, which are written as dollars.
    Usd(i64),
    Time(DateTime<Utc>),
    Bool(bool),
    /// A JSON text.
    Json(String),
}

/// The columns, in their order: those of the view `results`.
pub(super) const COLUMNS: [&str; 38] = [
    "job_id",
    "run",
    "custom_id",
    "batch_id",
    "batch",
    "project",
    "tags",
    "metadata",
    "status",
    "model",
    "provider",
    "deployment",
    "served_model",
    "finish_reason",
    "output_text",
    "response",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "cached",
    "attempts",
    "queued_at",
    "started_at",
    "finished_at",
    "queue_ms",
    "ttft_ms",
    "latency_ms",
    "error_class",
    "error_status",
    "error_code",
    "error_message",
    "error",
    "request_id",
    "saved_usd",
    "endpoint",
    "simulated",
];

/// The cells of a row, in the order of [`COLUMNS`].
pub(super) type Cells = [Cell; COLUMNS.len()];

/// The column that is left out where bodies are not wanted.
pub(super) const BODY: &str = "response";

/// Returns the cells of a result.
pub(super) fn cells(row: &ResultRow, batch: &Batch, with_bodies: bool) -> Cells {
    let result = &row.result;
    let error = result.error.as_deref();
    let usage = &result.usage;
    let tags = row.tags.iter().filter(|(name, _)| is_users_tag(name)).collect::<std::collections::BTreeMap<_, _>>();
    let response = result.response.as_deref().filter(|_| with_bodies);
    let waited = result.started_at.zip(result.queued_at).map(|(start, queued)| (start - queued).num_milliseconds());
    [
        text(row.job_id.to_string()),
        number(Some(row.run)),
        text(row.custom_id.clone()),
        text(row.batch_id.to_string()),
        text(batch.name.clone()),
        optional(batch.project.as_deref()),
        json(&tags),
        row.metadata.as_ref().map_or(Cell::Null, |metadata| Cell::Json(metadata.get().to_owned())),
        text(result.status.to_string()),
        text(row.model.clone()),
        optional(result.provider.as_deref()),
        optional(result.deployment.as_deref()),
        optional(result.served_model.as_deref()),
        optional(result.finish_reason.as_deref()),
        optional(result.output_text.as_deref()),
        response.map_or(Cell::Null, |body| Cell::Json(String::from_utf8_lossy(body).into_owned())),
        number(usage.input_tokens),
        number(usage.cached_input_tokens),
        number(usage.output_tokens),
        number(usage.reasoning_tokens),
        result.cost_pico_usd.map_or(Cell::Null, Cell::Usd),
        Cell::Bool(result.cached),
        number(Some(result.attempts)),
        time(result.queued_at),
        time(result.started_at),
        time(Some(result.finished_at)),
        number(waited),
        number(result.ttft_ms),
        number(result.latency_ms),
        optional(error.map(|error| error.class.as_str())),
        number(error.and_then(|error| error.status)),
        optional(error.and_then(|error| error.code.as_deref())),
        optional(error.map(|error| error.message.as_str())),
        error.map_or(Cell::Null, json),
        optional(result.request_id.as_deref()),
        result.saved_pico_usd.map_or(Cell::Null, Cell::Usd),
        text(row.endpoint.clone()),
        Cell::Bool(row.simulated),
    ]
}

/// Writes cells as one JSON object on a line.
pub(super) fn jsonl<'a>(cells: impl Iterator<Item = (&'a str, &'a Cell)>) -> String {
    let mut line = String::from("{");
    for (name, cell) in cells {
        if line.len() > 1 {
            line.push(',');
        }
        line.push_str(&format!("\"{name}\":"));
        match cell {
            Cell::Null => line.push_str("null"),
            Cell::Text(text) => line.push_str(&quoted(text)),
            Cell::Integer(number) => line.push_str(&number.to_string()),
            Cell::Usd(pico_usd) => line.push_str(&usd(*pico_usd)),
            Cell::Time(time) => line.push_str(&quoted(&instant(*time))),
            Cell::Bool(is_true) => line.push_str(if *is_true { "true" } else { "false" }),
            // What a provider sent may stand on several lines, or be no JSON.
            Cell::Json(json) => match serde_json::from_str::<&RawValue>(json) {
                Ok(raw) if !raw.get().contains(['\n', '\r']) => line.push_str(raw.get()),
                Ok(raw) => {
                    let value = serde_json::from_str::<serde_json::Value>(raw.get());
                    line.push_str(&value.map_or_else(|_| quoted(json), |value| value.to_string()));
                }
                Err(_) => line.push_str(&quoted(json)),
            },
        }
    }
    line.push_str("}\n");
    line
}

/// Writes cells as a record of RFC 4180.
pub(super) fn csv<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let cells: Vec<String> = cells.map(field).collect();
    cells.join(",") + "\r\n"
}

fn field(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Integer(number) => number.to_string(),
        Cell::Usd(pico_usd) => usd(*pico_usd),
        Cell::Time(time) => instant(*time),
        Cell::Bool(is_true) => is_true.to_string(),
        Cell::Text(text) | Cell::Json(text) => {
            let safe = if may_be_formula(text) { format!("'{text}") } else { text.clone() };
            if safe.contains([',', '"', '\n', '\r']) { format!("\"{}\"", safe.replace('"', "\"\"")) } else { safe }
        }
    }
}

/// Writes a text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

const fn text(text: String) -> Cell {
    Cell::Text(text)
}

fn optional(text: Option<&str>) -> Cell {
    text.map_or(Cell::Null, |text| Cell::Text(text.to_owned()))
}

fn number<N: Into<i64>>(number: Option<N>) -> Cell {
    number.map_or(Cell::Null, |number| Cell::Integer(number.into()))
}

fn time(time: Option<DateTime<Utc>>) -> Cell {
    time.map_or(Cell::Null, Cell::Time)
}

fn instant(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn json(value: &impl serde::Serialize) -> Cell {
    to_raw_value(value).map_or(Cell::Null, |raw| Cell::Json(raw.get().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_numbers_stay_numbers() {
        for (cell, wanted) in [
            (Cell::Text("=1+1".into()), "'=1+1"),
            (Cell::Text("+49 1".into()), "'+49 1"),
            (Cell::Text("-1".into()), "-1"),
            (Cell::Text("\n=1".into()), "\"'\n=1\""),
            (Cell::Text("@SUM(A1)".into()), "'@SUM(A1)"),
            (Cell::Text("\t=1".into()), "'\t=1"),
            (Cell::Text("\r=1".into()), "\"'\r=1\""),
            (Cell::Text("=A1,\"x\"".into()), "\"'=A1,\"\"x\"\"\""),
            (Cell::Text("＝1".into()), "'＝1"),
            (Cell::Text("a=1".into()), "a=1"),
            (Cell::Text("two\nlines".into()), "\"two\nlines\""),
            (Cell::Integer(-5), "-5"),
            (Cell::Usd(2_100_000_000), "0.0021"),
            (Cell::Time(DateTime::UNIX_EPOCH), "1970-01-01T00:00:00.000Z"),
            (Cell::Json("{\"a\":1}".into()), "\"{\"\"a\"\":1}\""),
            (Cell::Null, ""),
            (Cell::Bool(true), "true"),
        ] {
            assert_eq!(field(&cell), wanted);
        }
    }

    #[test]
    fn a_line_is_one_object_whatever_a_body_was() {
        for (body, wanted) in [
            ("{\"a\": 1e2}", "{\"r\":{\"a\": 1e2},\"s\":\"a\\nb\"}\n"),
            ("{\n\"a\":1}", "{\"r\":{\"a\":1},\"s\":\"a\\nb\"}\n"),
            ("no json", "{\"r\":\"no json\",\"s\":\"a\\nb\"}\n"),
        ] {
            let cells = [("r", Cell::Json(body.into())), ("s", Cell::Text("a\nb".into()))];
            assert_eq!(jsonl(cells.iter().map(|(name, cell)| (*name, cell))), wanted);
        }
    }
}
