//! Results, read for people and their programs.
//!
//! A row that crosses from the connection's thread wakes its reader, and each of its columns is copied with an allocation;
//! for a page of small results that costs more than reading them. So they come packed, a page in one value: an array of the
//! small columns, two lengths, the two texts. Of a large result comes its number, and then the row.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use sqlx::Row as _;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::super::{Cursor, Page};
use super::Core;
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row::{json, json_bytes, time};
use crate::id::{BatchId, JobId};
use crate::outcome::{JobResult, ResultRow, Status, Usage};

/// The columns of a result that are small, as one array; `r` is the result, `j` its request.
macro_rules! head {
    () => {
        "json_array(r.seq, hex(r.job_id), r.run, hex(r.batch_id), r.status, r.model_group, r.provider, r.deployment,
                    r.served_model, r.finish_reason, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens,
                    r.output_tokens, r.reasoning_tokens, r.cost_pico_usd, r.saved_pico_usd, r.cached, r.attempts,
                    r.queued_at, r.started_at, r.finished_at, r.ttft_ms, r.latency_ms, r.error, r.request_id, j.custom_id,
                    j.endpoint, j.tags, j.metadata, (SELECT simulated FROM batch b WHERE b.batch_id = r.batch_id))"
    };
}

pub(super) use head;

// 16 KiB at most each, so that a page of 1,000 stays below 16 MiB.
const RESULTS_AFTER: &str = concat!(
    "-- results after a cursor, packed
SELECT group_concat(
    CASE WHEN coalesce(octet_length(r.output_text), 0) + coalesce(octet_length(r.response), 0)
                + coalesce(octet_length(r.error), 0) + coalesce(octet_length(j.tags), 0)
                + coalesce(octet_length(j.metadata), 0) > 16384 THEN r.seq || ' '
         ELSE ",
    head!(),
    " || format(' %s %s ', coalesce(octet_length(r.output_text), '-'), coalesce(octet_length(r.response), '-'))
              || coalesce(r.output_text, '') || coalesce(r.response, '') END, '')
FROM (SELECT seq FROM result WHERE batch_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3) AS page
CROSS JOIN result r ON r.seq = page.seq
LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id"
);

static LARGE: Group = Group::new(
    "-- large results
WITH wanted (seq) AS (VALUES ",
    1,
    concat!(
        ") SELECT ",
        head!(),
        ", r.output_text, r.response
FROM wanted CROSS JOIN result r ON r.seq = wanted.seq LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id"
    ),
);

pub(super) async fn results_after(core: &Core, batch: BatchId, cursor: Cursor, limit: u32) -> Done<Page> {
    let mut reader = core.readers.acquire().await?;
    let pack: Option<Vec<u8>> = sqlx::query_scalar(RESULTS_AFTER)
        .bind(batch.uuid())
        .bind(cursor.seq)
        .bind(i64::from(limit))
        .fetch_one(&mut *reader)
        .await?;
    let (mut rows, mut large) = (BTreeMap::new(), Vec::new());
    let mut rest = pack.as_deref().unwrap_or_default();
    while !rest.is_empty() {
        match unpack(&mut rest).map_err(sqlx::Error::Decode)? {
            (seq, Some(row)) => drop(rows.insert(seq, row)),
            (seq, None) => large.push(seq),
        }
    }
    let put = |values: &mut Values, seq: &i64| values.put(*seq);
    let large: Vec<Done<(i64, ResultRow)>> = LARGE.fetch(&mut reader, &large, nothing, put, whole).await?;
    for row in large {
        rows.extend([row?]);
    }
    let cursor = rows.last_key_value().map_or(cursor, |(seq, _)| Cursor { xid: 0, seq: *seq });
    Ok(Page { more: rows.len() >= limit as usize, rows: rows.into_values().collect(), cursor })
}

/// Reads a result from `head!`, its output text and its response.
pub(super) fn whole(row: &SqliteRow) -> Done<(i64, ResultRow)> {
    let head: Head = serde_json::from_str(row.get(0)).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok((head.seq, head.into_row(row.get(1), json_bytes(row, "response"))))
}

/// Takes the next result off a pack; of a large one its number.
fn unpack(rest: &mut &[u8]) -> Result<(i64, Option<ResultRow>), BoxDynError> {
    if rest.first() != Some(&b'[') {
        return Ok((word(rest)?.parse()?, None));
    }
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Head>();
    let head = values.next().ok_or("a result is missing")??;
    // The space before the lengths goes too.
    let end = values.byte_offset() + 1;
    rest.split_off(..end).ok_or("a result is cut off")?;
    let lengths = [word(rest)?, word(rest)?];
    let mut take = |length: &str| match length {
        "-" => Ok::<_, BoxDynError>(None),
        length => Ok(Some(rest.split_off(..length.parse()?).ok_or("a text is cut off")?)),
    };
    let output_text = take(lengths[0])?.map(|text| String::from_utf8_lossy(text).into_owned());
    // Copied: a slice would keep the whole pack for as long as one of its rows lives.
    let response = take(lengths[1])?.map(Bytes::copy_from_slice);
    Ok((head.seq, Some(head.into_row(output_text, response))))
}

/// Takes what stands before the next space, and the space.
fn word<'a>(rest: &mut &'a [u8]) -> Result<&'a str, BoxDynError> {
    let end = rest.iter().position(|byte| *byte == b' ').ok_or("a space is missing")?;
    let (word, behind) = rest.split_at(end);
    *rest = &behind[1..];
    Ok(std::str::from_utf8(word)?)
}

/// The small columns, in the order of the array; what is JSON itself stands in a string.
#[derive(Deserialize)]
struct Head {
    seq: i64,
    job_id: Uuid,
    run: u32,
    batch_id: Uuid,
    status: String,
    model: String,
    provider: Option<String>,
    deployment: Option<String>,
    served_model: Option<String>,
    finish_reason: Option<String>,
    input_tokens: Option<u32>,
    cached_input_tokens: Option<u32>,
    cache_write_tokens: Option<u32>,
    output_tokens: Option<u32>,
    reasoning_tokens: Option<u32>,
    cost_pico_usd: Option<i64>,
    saved_pico_usd: Option<i64>,
    cached: u8,
    attempts: u32,
    queued_at: Option<i64>,
    started_at: Option<i64>,
    finished_at: i64,
    ttft_ms: Option<u32>,
    latency_ms: Option<u32>,
    error: Option<String>,
    request_id: Option<String>,
    custom_id: Option<String>,
    endpoint: Option<String>,
    tags: Option<String>,
    metadata: Option<String>,
    simulated: Option<u8>,
}

impl Head {
    fn into_row(self, output_text: Option<String>, response: Option<Bytes>) -> ResultRow {
        let job_id = JobId::from_uuid(self.job_id);
        ResultRow {
            job_id,
            run: self.run,
            batch_id: BatchId::from_uuid(self.batch_id),
            custom_id: self.custom_id.unwrap_or_else(|| job_id.to_string()),
            endpoint: self.endpoint.unwrap_or_default(),
            model: self.model,
            tags: json(self.tags.as_deref()).unwrap_or_default(),
            metadata: json(self.metadata.as_deref()),
            simulated: self.simulated == Some(1),
            result: JobResult {
                status: self.status.parse().unwrap_or(Status::Failed),
                provider: self.provider.map(Into::into),
                deployment: self.deployment.map(Into::into),
                served_model: self.served_model,
                finish_reason: self.finish_reason,
                output_text,
                response,
                usage: Usage {
                    input_tokens: self.input_tokens,
                    cached_input_tokens: self.cached_input_tokens,
                    cache_write_tokens: self.cache_write_tokens,
                    output_tokens: self.output_tokens,
                    reasoning_tokens: self.reasoning_tokens,
                },
                cost_pico_usd: self.cost_pico_usd,
                cached: self.cached == 1,
                saved_pico_usd: self.saved_pico_usd,
                attempts: self.attempts,
                queued_at: self.queued_at.map(time),
                started_at: self.started_at.map(time),
                finished_at: time(self.finished_at),
                ttft_ms: self.ttft_ms,
                latency_ms: self.latency_ms,
                request_id: self.request_id,
                error: json(self.error.as_deref()),
            },
        }
    }
}
