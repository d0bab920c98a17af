//! Sums of calls and results: written with them, added up when old, read for statistics.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::usage::{STEPS, Step, UsageScope, WRITTEN_S};
use super::Core;
use super::error::Done;
use super::group::{Group, Values, nothing};
use crate::id::BatchId;
use crate::tally::{By, Fold, Histogram, Key, Part, Sums, Tallies};

static WRITE: Group = Group::new(
    "-- sums of calls and results
INSERT INTO tally (at, span, batch_id, project, model_group, provider, deployment, model, error_class, tags, calls, repeated,
                   uncounted, unpriced, unseen, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
                   reasoning_tokens, cost_pico_usd, bound_pico_usd, succeeded, failed, cancelled, expired, cached,
                   saved_pico_usd, latency, ttft, queue) VALUES ",
    31,
    "",
);

/// Writes the sums of a transaction.
pub(super) async fn write(tx: &mut SqliteConnection, tallies: &Tallies) -> Done<()> {
    let sums: Vec<(&Key, &str, &Sums)> = tallies.sorted().into_iter().map(|(key, sums)| (key, "", sums)).collect();
    write_sums(tx, WRITTEN_S, &sums).await
}

async fn write_sums(tx: &mut SqliteConnection, span_s: i32, sums: &[(&Key, &str, &Sums)]) -> Done<()> {
    let put = |values: &mut Values, (key, project, sums): &(&Key, &str, &Sums)| {
        values.put(key.at_s * 1000);
        values.put(i64::from(span_s));
        values.put(key.batch.uuid());
        values.text(project);
        for name in [&key.group, &key.provider, &key.deployment, &key.model, &key.class, &key.tags] {
            values.shared(name);
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
            sums.cost_pico_usd,
            sums.bound_pico_usd,
            sums.succeeded,
            sums.failed,
            sums.cancelled,
            sums.expired,
            sums.cached,
            sums.saved_pico_usd,
        ] {
            values.put(count);
        }
        for histogram in [&sums.latency, &sums.ttft, &sums.queue] {
            values.text(&histogram.to_string());
        }
    };
    WRITE.execute(tx, sums, nothing, put).await?;
    Ok(())
}

macro_rules! sums {
    () => {
        "t.at, t.batch_id, t.project, t.model_group, t.provider, t.deployment, t.model, t.error_class, t.tags, t.calls,
       t.repeated, t.uncounted, t.unpriced, t.unseen, t.input_tokens, t.cached_input_tokens, t.cache_write_tokens,
       t.output_tokens, t.reasoning_tokens, t.cost_pico_usd, t.bound_pico_usd, t.succeeded, t.failed, t.cancelled, t.expired,
       t.cached, t.saved_pico_usd"
    };
}

macro_rules! durations {
    () => {
        "CASE WHEN ?4 THEN '' ELSE t.latency END AS latency, CASE WHEN ?4 THEN '' ELSE t.ttft END AS ttft,
       CASE WHEN ?4 THEN '' ELSE t.queue END AS queue"
    };
}

fn read(row: &SqliteRow) -> (Key, Sums) {
    let name = |column| Arc::from(row.get::<&str, _>(column));
    let count = |column| row.get::<i64, _>(column);
    let histogram = |column| row.get::<&str, _>(column).parse::<Histogram>().unwrap_or_default();
    let key = Key {
        at_s: count("at").div_euclid(1000),
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
        cost_pico_usd: count("cost_pico_usd"),
        bound_pico_usd: count("bound_pico_usd"),
        succeeded: count("succeeded"),
        failed: count("failed"),
        cancelled: count("cancelled"),
        expired: count("expired"),
        cached: count("cached"),
        saved_pico_usd: count("saved_pico_usd"),
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
FROM tally t LEFT JOIN batch b ON b.batch_id = t.batch_id
WHERE t.batch_id = ?5 AND t.at >= ?1 AND t.at < ?2 AND (?3 IS NULL OR coalesce(b.project, t.project) = ?3)"
);

// Every length by itself, so that the index on it is used.
const OF_ALL: &str = concat!(
    "-- sums of all batches
SELECT ",
    sums!(),
    ", ",
    durations!(),
    ", coalesce(b.project, t.project) AS of_project, b.name AS batch
FROM tally t LEFT JOIN batch b ON b.batch_id = t.batch_id
WHERE t.span IN (1, 10, 60, 3600) AND t.at >= ?1 AND t.at < ?2 AND (?3 IS NULL OR coalesce(b.project, t.project) = ?3)"
);

/// Adds up what was asked for.
pub(super) async fn usage(core: &Core, scope: &UsageScope, by: &[By]) -> Done<Vec<Part>> {
    let query = sqlx::query(if scope.batch.is_some() { OF_BATCH } else { OF_ALL })
        .bind(scope.since.map_or(0, |time| time.timestamp_millis()))
        .bind(scope.until.map_or(i64::MAX, |time| time.timestamp_millis()))
        .bind(scope.project.clone())
        .bind(scope.without_durations);
    let query = match scope.batch {
        Some(batch) => query.bind(batch.uuid()),
        None => query,
    };
    let mut fold = Fold::new(by);
    let mut rows = query.fetch(&core.readers);
    while let Some(row) = rows.try_next().await? {
        let (key, sums) = read(&row);
        let name = |id: BatchId| row.get::<Option<String>, _>("batch").unwrap_or_else(|| id.to_string());
        fold.add(&key, row.get::<Option<&str>, _>("of_project").unwrap_or_default(), name, &sums);
    }
    Ok(fold.into_parts())
}

const OLD: &str = concat!(
    "-- sums that are old
SELECT t.id, ",
    sums!(),
    ", t.latency, t.ttft, t.queue
FROM tally t WHERE t.span = ?1 AND t.at < ?2 ORDER BY t.at LIMIT ?3"
);

static ADDED_UP: Group = Group::new("-- sums that are added up\nDELETE FROM tally WHERE id IN (VALUES ", 1, ")");

/// Adds up what is old; returns how many rows it took.
pub(super) async fn roll_up(core: &Core, limit: u32) -> Done<u64> {
    let mut taken = 0;
    for step in STEPS {
        taken += add_up(core, step, limit).await?;
    }
    Ok(taken)
}

async fn add_up(core: &Core, step: Step, limit: u32) -> Done<u64> {
    let age_ms = i64::try_from(step.age.as_millis()).unwrap_or(i64::MAX);
    let old = |limit: u32| sqlx::query(OLD).bind(step.from_s).bind(core.now() - age_ms).bind(i64::from(limit));
    if old(1).fetch_optional(&core.readers).await?.is_none() {
        return Ok(0);
    }
    let mut work = core.writer.begin().await?;
    let rows = old(limit).fetch_all(work.tx()).await?;
    let mut all = Tallies::default();
    let mut projects: HashMap<Uuid, String> = HashMap::new();
    let mut ids: Vec<i64> = Vec::with_capacity(rows.len());
    for row in &rows {
        let (key, sums) = read(row);
        let project: &str = row.get("project");
        if !project.is_empty() {
            projects.insert(key.batch.uuid(), project.to_owned());
        }
        ids.push(row.get("id"));
        all.add(key.within(i64::from(step.to_s)), &sums);
    }
    ADDED_UP.execute(work.tx(), &ids, nothing, |values, id| values.put(*id)).await?;
    let project = |key: &Key| projects.get(&key.batch.uuid()).map_or("", String::as_str);
    let sums: Vec<(&Key, &str, &Sums)> =
        all.sorted().into_iter().map(|(key, sums)| (key, project(key), sums)).collect();
    write_sums(work.tx(), step.to_s, &sums).await?;
    work.commit().await?;
    Ok(rows.len() as u64)
}
