//! Recorded requests, read for admission.
//!
//! A row that crosses from the connection's thread wakes its reader; for hundreds of small rows that costs more than reading
//! them. So small requests come packed, a group in one value: lengths, the id, then the texts.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::Request;
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row;
use crate::job::{CachePolicy, JobOptions, JobRef};

// 64 KiB at most each, so that a group stays below 16 MiB.
static PACKED: Group = Group::new(
    "-- small recorded requests, packed
WITH wanted (batch_id, job_id) AS (VALUES ",
    2,
    ") SELECT group_concat(format('%d %d %d %d ', octet_length(custom_id), octet_length(endpoint), octet_length(body),
                                  octet_length(options)) || hex(job_id) || custom_id || endpoint || body || options, '')
FROM (SELECT j.job_id, j.custom_id, j.endpoint, j.body,
             CASE WHEN coalesce(j.deadline, j.not_before, nullif(j.sample, 0), j.num_retries, j.tags, j.metadata,
                                nullif(j.cache_policy, 'off'), j.service_tier, j.est_tokens) IS NULL THEN ''
                  ELSE json_array(j.deadline, j.not_before, j.sample, j.num_retries, j.tags, j.metadata, j.cache_policy,
                                  j.service_tier, j.est_tokens) END AS options
      FROM wanted CROSS JOIN job j ON j.batch_id = wanted.batch_id AND j.job_id = wanted.job_id
      WHERE octet_length(j.body) <= 65536)",
);

static WHOLE: Group = Group::new(
    "-- recorded requests, row by row
WITH wanted (batch_id, job_id) AS (VALUES ",
    2,
    ") SELECT j.job_id, j.custom_id, j.endpoint, j.body, j.deadline, j.not_before, j.sample, j.num_retries, j.tags,
       j.metadata, j.cache_policy, j.service_tier, j.est_tokens
FROM wanted CROSS JOIN job j ON j.batch_id = wanted.batch_id AND j.job_id = wanted.job_id",
);

/// Reads the recorded requests of jobs.
pub(super) async fn read(tx: &mut SqliteConnection, jobs: &[&JobRef]) -> Done<HashMap<Uuid, Request>> {
    let put = |values: &mut Values, job: &&JobRef| {
        values.put(job.batch.uuid());
        values.put(job.id.uuid());
    };
    let packs: Vec<Option<Vec<u8>>> = PACKED.fetch(&mut *tx, jobs, nothing, put, |row| row.get(0)).await?;
    let mut requests = HashMap::with_capacity(jobs.len());
    for pack in packs.iter().flatten() {
        let mut rest = pack.as_slice();
        while let Some((id, request)) = unpack(&mut rest) {
            requests.insert(id, request);
        }
    }
    let missing: Vec<&JobRef> = jobs.iter().filter(|job| !requests.contains_key(&job.id.uuid())).copied().collect();
    let whole: Vec<(Uuid, Request)> =
        WHOLE.fetch(tx, &missing, nothing, put, |row| (row.get(0), from_row(row))).await?;
    requests.extend(whole);
    Ok(requests)
}

/// Takes the next request off a pack; nothing at its end, or where it cannot be read.
fn unpack(rest: &mut &[u8]) -> Option<(Uuid, Request)> {
    let mut lengths = [0; 4];
    for length in &mut lengths {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        *length = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
        *rest = &rest[end + 1..];
    }
    let mut take = |length: usize| -> Option<&[u8]> { rest.split_off(..length) };
    let id = Uuid::try_parse_ascii(take(32)?).ok()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (custom_id, endpoint) = (text(take(lengths[0])?), text(take(lengths[1])?));
    // Copied: a slice would keep the whole pack for as long as one of its jobs runs.
    let body = Bytes::copy_from_slice(take(lengths[2])?);
    let options = take(lengths[3])?;
    let options =
        if options.is_empty() { JobOptions::default() } else { serde_json::from_slice::<Packed>(options).ok()?.into() };
    Some((id, Request { custom_id, endpoint, body, options }))
}

/// Options as they are packed: what is JSON itself stands in a string.
#[derive(Deserialize)]
struct Packed(
    Option<i64>,
    Option<i64>,
    u32,
    Option<u16>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<u32>,
);

impl From<Packed> for JobOptions {
    fn from(packed: Packed) -> Self {
        let Packed(deadline, not_before, sample, num_retries, tags, metadata, cache, service_tier, est_tokens) = packed;
        Self {
            deadline: deadline.map(row::time),
            not_before: not_before.map(row::time),
            sample,
            num_retries,
            tags: row::json(tags.as_deref()).unwrap_or_default(),
            metadata: row::json(metadata.as_deref()),
            cache: CachePolicy::parse_lenient(cache.as_deref().unwrap_or("off")),
            service_tier,
            est_tokens,
        }
    }
}

pub(super) fn from_row(row: &SqliteRow) -> Request {
    Request {
        custom_id: row.get("custom_id"),
        endpoint: row.get("endpoint"),
        body: row::json_bytes(row, "body").unwrap_or_default(),
        options: JobOptions {
            deadline: row::maybe_time(row, "deadline"),
            not_before: row::maybe_time(row, "not_before"),
            sample: row::small(row.get("sample")),
            num_retries: row.get::<Option<i64>, _>("num_retries").and_then(|number| u16::try_from(number).ok()),
            tags: row::json(row.get("tags")).unwrap_or_default(),
            metadata: row::json(row.get("metadata")),
            cache: CachePolicy::parse_lenient(row.get::<Option<&str>, _>("cache_policy").unwrap_or("off")),
            service_tier: row.get("service_tier"),
            est_tokens: row::maybe_small(row, "est_tokens"),
        },
    }
}
