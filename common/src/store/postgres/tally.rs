//! Sums of calls and results: written with them, added up when old, read for statistics.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::super::Result;
use super::super::usage::{STEPS, Step, UsageScope, WRITTEN_S};
use super::copy::Rows;
use super::failed;
use super::row::{seconds, text};
use crate::id::BatchId;
use crate::tally::{By, Fold, Histogram, Key, Part, Sums, Tallies};

const WRITE: &str = "-- sums of calls and results
COPY gristmill.tally (
    at, span, batch_id, project, model_group, provider, deployment, model, error_class, tags, calls, repeated, uncounted,
    unpriced, unseen, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd,
    bound_usd, succeeded, failed, cancelled, expired, cached, saved_usd, latency, ttft, queue)
FROM STDIN (FORMAT binary)";

/// Writes the sums of a transaction.
pub(super) async fn write(tx: &mut PgConnection, tallies: &Tallies) -> Result<()> {
    let sums = tallies.sorted().into_iter().map(|(key, sums)| (key, "", sums));
    write_sums(tx, WRITTEN_S, sums).await
}

async fn write_sums<'a>(
    tx: &mut PgConnection,
    span_s: i32,
    sums: impl Iterator<Item = (&'a Key, &'a str, &'a Sums)>,
) -> Result<()> {
    let mut rows = Rows::new(31);
    let mut is_empty = true;
    for (key, project, sums) in sums {
        is_empty = false;
        rows.row();
        rows.put(DateTime::<Utc>::from_timestamp(key.at_s, 0).unwrap_or_default());
        rows.put(span_s);
        rows.put(key.batch.uuid());
        rows.put(project);
        for name in [&key.group, &key.provider, &key.deployment, &key.model, &key.class, &key.tags] {
            rows.put(text(name));
        }
        for count in [
            sums.calls,
            sums.repeated,
            sums.uncounted,
            sums.unpriced,
            sums.unseen,
            sums.input_tokens,
            sums.cached_input_tokens,
            sums.cache_write_tokens,
            sums.output_tokens,
            sums.reasoning_tokens,
        ] {
            rows.put(count);
        }
        rows.usd(Some(sums.cost_pico_usd));
        rows.usd(Some(sums.bound_pico_usd));
        for count in [sums.succeeded, sums.failed, sums.cancelled, sums.expired, sums.cached] {
            rows.put(count);
        }
        rows.usd(Some(sums.saved_pico_usd));
        for histogram in [&sums.latency, &sums.ttft, &sums.queue] {
            rows.put(histogram.to_string());
        }
    }
    if is_empty {
        return Ok(());
    }
    rows.copy(tx, WRITE).await.map_err(failed("writing statistics"))
}

macro_rules! sums {
    () => {
        "extract(epoch FROM t.at)::bigint AS at, t.batch_id, t.project, t.model_group, t.provider, t.deployment, t.model,
       t.error_class, t.tags, t.calls, t.repeated, t.uncounted, t.unpriced, t.unseen, t.input_tokens, t.cached_input_tokens,
       t.cache_write_tokens, t.output_tokens, t.reasoning_tokens, (t.cost_usd * 1000000000000)::bigint AS cost_pico,
       (t.bound_usd * 1000000000000)::bigint AS bound_pico, t.succeeded, t.failed, t.cancelled, t.expired, t.cached,
       (t.saved_usd * 1000000000000)::bigint AS saved_pico"
    };
}

macro_rules! durations {
    () => {
        "CASE WHEN $4::boolean THEN '' ELSE t.latency END AS latency, CASE WHEN $4::boolean THEN '' ELSE t.ttft END AS ttft,
       CASE WHEN $4::boolean THEN '' ELSE t.queue END AS queue"
    };
}

fn read(row: &PgRow) -> (Key, Sums) {
    let name = |column| Arc::from(row.get::<&str, _>(column));
    let count = |column| row.get::<i64, _>(column);
    let histogram = |column| row.get::<&str, _>(column).parse::<Histogram>().unwrap_or_default();
    let key = Key {
        at_s: count("at"),
        batch: BatchId::from_uuid(row.get("batch_id")),
        group: name("model_group"),
        provider: name("provider"),
        deployment: name("deployment"),
        model: name("model"),
        class: name("error_class"),
        tags: name("tags"),
    };
    let sums = Sums {
        calls: count("calls"),
        repeated: count("repeated"),
        uncounted: count("uncounted"),
        unpriced: count("unpriced"),
        unseen: count("unseen"),
        input_tokens: count("input_tokens"),
        cached_input_tokens: count("cached_input_tokens"),
        cache_write_tokens: count("cache_write_tokens"),
        output_tokens: count("output_tokens"),
        reasoning_tokens: count("reasoning_tokens"),
        cost_pico_usd: count("cost_pico"),
        bound_pico_usd: count("bound_pico"),
        succeeded: count("succeeded"),
        failed: count("failed"),
        cancelled: count("cancelled"),
        expired: count("expired"),
        cached: count("cached"),
        saved_pico_usd: count("saved_pico"),
        latency: histogram("latency"),
        ttft: histogram("ttft"),
        queue: histogram("queue"),
    };
    (key, sums)
}

const OF_BATCH: &str = concat!(
    "-- sums of a batch
SELECT ",
    sums!(),
    ", ",
    durations!(),
    ", coalesce(b.project, t.project) AS of_project, b.name AS batch
FROM gristmill.tally t LEFT JOIN gristmill.batch b USING (batch_id)
WHERE t.batch_id = $5 AND t.at >= $1 AND t.at < $2 AND ($3::text IS NULL OR coalesce(b.project, t.project) = $3)"
);

// Every length by itself, so that the index on it is used.
const OF_ALL: &str = concat!(
    "-- sums of all batches
SELECT ",
    sums!(),
    ", ",
    durations!(),
    ", coalesce(b.project, t.project) AS of_project, b.name AS batch
FROM gristmill.tally t LEFT JOIN gristmill.batch b USING (batch_id)
WHERE t.span IN (1, 10, 60, 3600) AND t.at >= $1 AND t.at < $2
  AND ($3::text IS NULL OR coalesce(b.project, t.project) = $3)"
);

/// Adds up what was asked for.
pub(super) async fn usage(pool: &PgPool, scope: &UsageScope, by: &[By]) -> Result<Vec<Part>> {
    let doing = "reading statistics";
    let query = sqlx::query(if scope.batch.is_some() { OF_BATCH } else { OF_ALL })
        .bind(scope.since.unwrap_or(DateTime::UNIX_EPOCH))
        .bind(scope.until.unwrap_or(FAR))
        .bind(scope.project.clone())
        .bind(scope.without_durations);
    let query = match scope.batch {
        Some(batch) => query.bind(batch.uuid()),
        None => query,
    };
    let mut fold = Fold::new(by);
    let mut rows = query.fetch(pool);
    while let Some(row) = rows.try_next().await.map_err(failed(doing))? {
        let (key, sums) = read(&row);
        let name = |id: BatchId| row.get::<Option<String>, _>("batch").unwrap_or_else(|| id.to_string());
        fold.add(&key, row.get::<Option<&str>, _>("of_project").unwrap_or_default(), name, &sums);
    }
    Ok(fold.into_parts())
}

/// Later than all that there is.
const FAR: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("a time in the year 9999");

const OLD: &str = concat!(
    "-- sums that are old, to be added up
DELETE FROM gristmill.tally t
USING (SELECT id FROM gristmill.tally WHERE span = $1 AND at < now() - make_interval(secs => $2) ORDER BY at LIMIT $3) old
WHERE t.id = old.id RETURNING ",
    sums!(),
    ", t.latency, t.ttft, t.queue"
);

/// Adds up what is old; returns how many rows it took.
pub(super) async fn roll_up(pool: &PgPool, limit: u32) -> Result<u64> {
    let mut taken = 0;
    for step in STEPS {
        taken += add_up(pool, step, limit).await?;
    }
    Ok(taken)
}

async fn add_up(pool: &PgPool, step: Step, limit: u32) -> Result<u64> {
    let doing = "adding up statistics";
    let mut tx = pool.begin().await.map_err(failed(doing))?;
    let query = sqlx::query(OLD).bind(step.from_s).bind(seconds(step.age)).bind(i64::from(limit));
    let rows = query.fetch_all(&mut *tx).await.map_err(failed(doing))?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut all = Tallies::default();
    let mut projects: HashMap<Uuid, String> = HashMap::new();
    for row in &rows {
        let (key, sums) = read(row);
        let project: &str = row.get("project");
        if !project.is_empty() {
            projects.insert(key.batch.uuid(), project.to_owned());
        }
        all.add(key.within(i64::from(step.to_s)), &sums);
    }
    let sorted = all.sorted();
    let project = |key: &Key| projects.get(&key.batch.uuid()).map_or("", String::as_str);
    write_sums(&mut tx, step.to_s, sorted.into_iter().map(|(key, sums)| (key, project(key), sums))).await?;
    tx.commit().await.map_err(failed(doing))?;
    Ok(rows.len() as u64)
}
