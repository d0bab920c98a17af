//! One result as one line in OpenAI's Batch output format, with what is ours under the key `gristmill`.
//!
//! Format: <https://platform.openai.com/docs/guides/batch>, read 2026-11. An error with an HTTP status stands where OpenAI
//! puts it, in `response`; a job that got no answer has `response: null` and an `error`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gristmill_common::failure::ErrorRecord;
use gristmill_common::job::is_users_tag;
use gristmill_common::outcome::{ResultRow, Status};
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Line<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<Response<'a>>,
    error: Option<LineError<'a>>,
    gristmill: Ours<'a>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: Option<&'a str>,
    body: Box<RawValue>,
}

#[derive(Serialize)]
struct LineError<'a> {
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Ours<'a> {
    job_id: String,
    batch_id: String,
    run: u32,
    status: Status,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    served_model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a str>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_usd: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved_usd: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_input_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u32>,
    finished_at: DateTime<Utc>,
    /// Whether the answer was deleted, so that its place is empty.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pruned: bool,
    simulated: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorRecord>,
}

/// Writes a result as one line, its newline included.
pub fn line(row: &ResultRow) -> Vec<u8> {
    let result = &row.result;
    let error = result.error.as_deref();
    let succeeded = result.status == Status::Succeeded;
    let request_id =
        result.request_id.as_deref().or_else(|| error.and_then(|error: &ErrorRecord| error.request_id.as_deref()));
    let response = if succeeded {
        let body = result.response.as_deref().map_or_else(null, verbatim);
        Some(Response { status_code: 200, request_id, body })
    } else {
        error.and_then(|error| {
            let status_code = error.status?;
            Some(Response { status_code, request_id, body: error_body(error) })
        })
    };
    let line_error = (!succeeded && response.is_none()).then(|| LineError {
        code: match result.status {
            Status::Cancelled => "batch_cancelled",
            Status::Expired => "batch_expired",
            Status::Failed | Status::Succeeded => error.map_or("unknown", |error| error.class.as_str()),
        },
        message: match (error, result.status) {
            (Some(error), _) => &error.message,
            (None, Status::Cancelled) => "the batch was cancelled before this request was sent",
            (None, Status::Expired) => "the deadline passed before this request was sent",
            (None, _) => "no error was recorded",
        },
    });
    let usage = &result.usage;
    let line = Line {
        id: format!("batch_req_{}", row.job_id.uuid().simple()),
        custom_id: &row.custom_id,
        response,
        error: line_error,
        gristmill: Ours {
            job_id: row.job_id.to_string(),
            batch_id: row.batch_id.to_string(),
            run: row.run,
            status: result.status,
            model: &row.model,
            provider: result.provider.as_deref(),
            deployment: result.deployment.as_deref(),
            served_model: result.served_model.as_deref(),
            finish_reason: result.finish_reason.as_deref(),
            attempts: result.attempts,
            cost_usd: result.cost_pico_usd.and_then(|pico_usd| RawValue::from_string(usd(pico_usd)).ok()),
            cached: result.cached,
            saved_usd: result.saved_pico_usd.and_then(|pico_usd| RawValue::from_string(usd(pico_usd)).ok()),
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
            queue_ms: result
                .started_at
                .zip(result.queued_at)
                .map(|(start, queued)| (start - queued).num_milliseconds()),
            ttft_ms: result.ttft_ms,
            latency_ms: result.latency_ms,
            finished_at: result.finished_at,
            pruned: succeeded && result.response.is_none(),
            simulated: row.simulated,
            tags: row
                .tags
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .filter(|(name, _)| is_users_tag(name))
                .collect(),
            metadata: row.metadata.as_ref().map(|metadata| verbatim(metadata.get().as_bytes())),
            error,
        },
    };
    // Strings, numbers and JSON that was parsed: it cannot fail.
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// Returns a body as it came, but on one line; what is not JSON becomes a JSON string.
fn verbatim(body: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(body);
    let text = if text.contains(['\n', '\r']) { on_one_line(&text) } else { text.into_owned() };
    match RawValue::from_string(text) {
        Ok(raw) => raw,
        Err(_) => serde_json::value::to_raw_value(&String::from_utf8_lossy(body)).unwrap_or_else(|_| null()),
    }
}

/// Leaves out line breaks and the white space behind them; within JSON's strings there are none.
fn on_one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_string = false;
    let mut escaped = false;
    let mut at_margin = false;
    for character in text.chars() {
        match character {
            '\n' | '\r' if !in_string => at_margin = true,
            ' ' | '\t' if at_margin => {}
            _ => {
                at_margin = false;
                out.push(character);
            }
        }
        in_string ^= character == '"' && !escaped;
        escaped = in_string && character == '\\' && !escaped;
    }
    out
}

/// Returns the provider's error body where it is one, else one of OpenAI's shape.
fn error_body(error: &ErrorRecord) -> Box<RawValue> {
    #[derive(serde::Deserialize)]
    struct HasError {
        #[expect(dead_code, reason = "only its presence counts")]
        error: serde::de::IgnoredAny,
    }
    if let Some(body) = &error.body
        && !error.body_truncated
        && serde_json::from_str::<HasError>(body).is_ok()
    {
        return verbatim(body.as_bytes());
    }
    let body = serde_json::json!({ "error": {
        "message": error.message,
        "type": error.kind.as_deref().unwrap_or_else(|| error.class.as_str()),
        "param": error.param,
        "code": error.code,
    }});
    serde_json::value::to_raw_value(&body).unwrap_or_else(|_| null())
}

/// Writes picodollars as an exact decimal number of dollars, without trailing zeros.
pub fn usd(pico_usd: i64) -> String {
    const PICO: u64 = 1_000_000_000_000;
    let amount = pico_usd.unsigned_abs();
    let sign = if pico_usd < 0 { "-" } else { "" };
    let text = format!("{sign}{}.{:012}", amount / PICO, amount % PICO);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
