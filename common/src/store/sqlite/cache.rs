//! The response cache: asked in the transaction of an admission, filled in that of a flush. Nobody else writes meanwhile.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use uuid::Uuid;

use super::super::cache::{
    ASK_AGAIN, Ask, DOUBTED_AFTER, Found, Left, MOST_WOKEN, Plan, Told, USED_EVERY, WAITS, claims, cost_of_answer,
    is_in_vain, plan,
};
use super::super::{AnswerCache, CacheSize, CachedAnswer, Result, Settlement};
use super::error::Done;
use super::group::{Group, Values, nothing};
use super::row::{self, count, maybe_small};
use super::{Core, SqliteStore, later};
use crate::cache::{CacheKey, CacheRules};
use crate::id::JobId;
use crate::outcome::{JobResult, Status, Usage};

static SUCCEEDED: Group = Group::new(
    "-- which of these have succeeded before
WITH wanted (job_id) AS (VALUES ",
    1,
    ") SELECT job_id FROM wanted
WHERE EXISTS (SELECT 1 FROM result r WHERE r.job_id = wanted.job_id AND r.status = 'succeeded')",
);

static LOOK: Group = Group::new(
    "-- what stands under these keys
WITH wanted (key) AS (VALUES ",
    1,
    ") SELECT c.key, c.job_id, c.run IS NULL AS open, c.expires_at, c.used_at, c.bytes
FROM wanted CROSS JOIN response_cache c ON c.key = wanted.key",
);

static CLAIM: Group = Group::new(
    "-- these calls are under way
INSERT INTO response_cache (key, project, job_id, created_at, used_at) VALUES ",
    5,
    " ON CONFLICT (key) DO UPDATE
SET project = excluded.project, job_id = excluded.job_id, run = NULL, cost_pico_usd = NULL, bytes = 0,
    created_at = excluded.created_at, used_at = excluded.used_at, expires_at = NULL",
);

static ANSWERS: Group = Group::new(
    "-- answers
WITH wanted (key) AS (VALUES ",
    1,
    ") SELECT c.key, r.response, r.provider, r.deployment, r.served_model, r.finish_reason, r.output_text, r.input_tokens,
       r.cached_input_tokens, r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, c.cost_pico_usd
FROM wanted CROSS JOIN response_cache c ON c.key = wanted.key CROSS JOIN result r ON r.job_id = c.job_id AND r.run = c.run
WHERE r.response IS NOT NULL",
);

static GONE: Group = Group::new(
    "-- answers whose results were deleted
DELETE FROM response_cache WHERE run IS NOT NULL AND key IN (VALUES ",
    1,
    ")",
);

static USED: Group = Group::new(
    "-- answers that were used
UPDATE response_cache SET used_at = ? WHERE key IN (VALUES ",
    1,
    ")",
);

static WAIT: Group = Group::new(
    "-- runs that wait for an equal one
WITH later (job_id, waits_for, wake_at, reason) AS (VALUES ",
    4,
    ") UPDATE live SET state = 1, owner = NULL, version = version + 1, waits_for = later.waits_for, wake_at = later.wake_at,
       reason = later.reason
FROM later WHERE live.job_id = later.job_id",
);

/// Tells each of the runs what the cache has for it; those that are not told make their call.
pub(super) async fn ask(tx: &mut SqliteConnection, asks: &mut [Ask], now: i64) -> Done<HashMap<JobId, Told>> {
    if asks.is_empty() {
        return Ok(HashMap::new());
    }
    ask_anew(tx, asks).await?;
    let keys: HashSet<CacheKey> = asks.iter().filter(|ask| ask.reads).map(|ask| ask.caching.key).collect();
    let keys: Vec<CacheKey> = keys.into_iter().collect();
    let found = |row: &SqliteRow| {
        let found = Found {
            job: JobId::from_uuid(row.get("job_id")),
            open: row.get("open"),
            expired: row.get::<Option<i64>, _>("expires_at").is_some_and(|expires_at| expires_at <= now),
            stale: later(row.get("used_at"), USED_EVERY) < now,
            bytes: count(row, "bytes"),
        };
        (key(row), found)
    };
    let mut found: HashMap<CacheKey, Found> = LOOK.fetch(&mut *tx, &keys, nothing, put_key, found).await?;
    let claims: Vec<&Ask> = claims(asks, &found).into_values().collect();
    let put = |values: &mut Values, ask: &&Ask| {
        put_key(values, &ask.caching.key);
        values.text(&ask.caching.project);
        values.put(ask.job.uuid());
        values.put(now);
        values.put(now);
    };
    CLAIM.execute(&mut *tx, &claims, nothing, put).await?;
    for ask in claims {
        found.insert(ask.caching.key, Found::claimed(ask.job));
    }
    carry_out(tx, plan(asks, &found), now).await
}

fn put_key(values: &mut Values, key: &CacheKey) {
    values.put(key.0.to_vec());
}

fn key(row: &SqliteRow) -> CacheKey {
    let mut key = [0; 32];
    let bytes: &[u8] = row.get("key");
    if bytes.len() == key.len() {
        key.copy_from_slice(bytes);
    }
    CacheKey(key)
}

/// A new run of a job that had succeeded is a wish for another answer: it is not answered from here.
async fn ask_anew(tx: &mut SqliteConnection, asks: &mut [Ask]) -> Done<()> {
    let again: Vec<Uuid> = asks.iter().filter(|ask| ask.run > 1 && ask.reads).map(|ask| ask.job.uuid()).collect();
    let succeeded: HashSet<Uuid> =
        SUCCEEDED.fetch(tx, &again, nothing, |values, id| values.put(*id), |row| row.get(0)).await?;
    for ask in asks.iter_mut().filter(|ask| succeeded.contains(&ask.job.uuid())) {
        ask.reads = false;
    }
    Ok(())
}

async fn carry_out(tx: &mut SqliteConnection, mut plan: Plan<'_>, now: i64) -> Done<HashMap<JobId, Told>> {
    let mut told = HashMap::new();
    let answers: HashMap<CacheKey, CachedAnswer> =
        ANSWERS.fetch(&mut *tx, &plan.read, nothing, put_key, |row| (key(row), answer(row))).await?;
    for ask in plan.answered {
        match answers.get(&ask.caching.key) {
            Some(answer) => {
                told.insert(ask.job, Told::Answer(Box::new(answer.clone())));
            }
            // It was deleted: whoever asks next finds nothing under the key.
            None => plan.waiting.push((ask, None)),
        }
    }
    let gone: Vec<CacheKey> = plan.read.iter().copied().filter(|key| !answers.contains_key(key)).collect();
    GONE.execute(&mut *tx, &gone, nothing, put_key).await?;
    USED.execute(&mut *tx, &plan.used, |values| values.put(now), put_key).await?;
    let put = |values: &mut Values, (ask, waits_for): &(&Ask, Option<JobId>)| {
        let wake_at = waits_for.map_or(now, |_| later(now, ASK_AGAIN));
        values.put(ask.job.uuid());
        values.put(waits_for.map(JobId::uuid));
        values.put(ask.deadline.map_or(wake_at, |deadline| wake_at.min(deadline.timestamp_millis())));
        values.text(WAITS);
    };
    WAIT.execute(tx, &plan.waiting, nothing, put).await?;
    told.extend(plan.waiting.iter().map(|(ask, _)| (ask.job, Told::Wait)));
    Ok(told)
}

fn answer(row: &SqliteRow) -> CachedAnswer {
    CachedAnswer {
        provider: row.get::<Option<&str>, _>("provider").map(Into::into),
        deployment: row.get::<Option<&str>, _>("deployment").map(Into::into),
        served_model: row.get("served_model"),
        finish_reason: row.get("finish_reason"),
        output_text: row.get("output_text"),
        response: row::json_bytes(row, "response").unwrap_or_default(),
        usage: Usage {
            input_tokens: maybe_small(row, "input_tokens"),
            cached_input_tokens: maybe_small(row, "cached_input_tokens"),
            cache_write_tokens: maybe_small(row, "cache_write_tokens"),
            output_tokens: maybe_small(row, "output_tokens"),
            reasoning_tokens: maybe_small(row, "reasoning_tokens"),
        },
        cost_pico_usd: row.get("cost_pico_usd"),
    }
}

static KEEP: Group = Group::new(
    "-- keep answers
INSERT OR REPLACE INTO response_cache (
    key, project, job_id, run, cost_pico_usd, bytes, created_at, used_at, expires_at) VALUES ",
    9,
    "",
);

static LET_GO: Group = Group::new(
    "-- calls that ended without an answer
DELETE FROM response_cache WHERE run IS NULL AND job_id IN (VALUES ",
    1,
    ") RETURNING job_id",
);

const WAKE: &str = "-- who waited for this
UPDATE live SET version = version + 1, wake_at = ?2, waits_for = CASE WHEN ?3 THEN job_id END
WHERE job_id IN (SELECT job_id FROM live WHERE waits_for = ?1 AND state = 1 AND job_id <> ?1 LIMIT ?4)";

static WAITED_FOR: Group = Group::new(
    "-- which of these are waited for
WITH wanted (job_id) AS (VALUES ",
    1,
    ") SELECT job_id FROM wanted WHERE EXISTS (SELECT 1 FROM live l WHERE l.waits_for = wanted.job_id)",
);

/// Keeps the answers of runs that have ended, and wakes who waited for these.
pub(super) async fn keep(
    tx: &mut SqliteConnection,
    rules: CacheRules,
    results: &[(&Settlement, &JobResult)],
    now: i64,
) -> Done<()> {
    let left = Left::of(results, rules);
    if left.is_nothing() {
        return Ok(());
    }
    let answers: Vec<(&CacheKey, &(&Settlement, &JobResult))> = left.answers.iter().collect();
    let put = |values: &mut Values, (key, (settlement, _)): &(&CacheKey, &(&Settlement, &JobResult))| {
        let project = settlement.caching.as_ref().map_or("", |caching| &*caching.project);
        put_key(values, key);
        values.text(project);
        values.put(settlement.job.id.uuid());
        values.put(i64::from(settlement.job.run));
        values.put(cost_of_answer(settlement));
        values.put(i64::try_from(settlement.weight()).unwrap_or(i64::MAX));
        values.put(now);
        values.put(now);
        values.put(later(now, rules.ttl));
    };
    KEEP.execute(&mut *tx, &answers, nothing, put).await?;
    let put = |values: &mut Values, (_, id): &(CacheKey, JobId)| values.put(id.uuid());
    LET_GO.execute(&mut *tx, &left.without, nothing, put).await?;
    wake(tx, &left.ended, now).await
}

/// Lets go of the calls of jobs that nobody answers any more, and wakes who waited for these.
pub(super) async fn let_go(
    tx: &mut SqliteConnection,
    jobs: impl Iterator<Item = JobId>,
    status: Status,
    now: i64,
) -> Done<()> {
    let jobs: Vec<JobId> = jobs.collect();
    let put = |values: &mut Values, id: &JobId| values.put(id.uuid());
    let ended: Vec<Uuid> = LET_GO.fetch(&mut *tx, &jobs, nothing, put, |row| row.get(0)).await?;
    let ended: Vec<(JobId, bool)> = ended.into_iter().map(|id| (JobId::from_uuid(id), is_in_vain(status))).collect();
    wake(tx, &ended, now).await
}

async fn wake(tx: &mut SqliteConnection, ended: &[(JobId, bool)], now: i64) -> Done<()> {
    let put = |values: &mut Values, (id, _): &(JobId, bool)| values.put(id.uuid());
    let waited_for: HashSet<Uuid> = WAITED_FOR.fetch(&mut *tx, ended, nothing, put, |row| row.get(0)).await?;
    for (job, in_vain) in ended.iter().filter(|(job, _)| waited_for.contains(&job.uuid())) {
        let query = sqlx::query(WAKE).bind(job.uuid()).bind(now).bind(*in_vain).bind(MOST_WOKEN);
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

const SIZE: &str = "-- how large the response cache is
SELECT count(*) FILTER (WHERE run IS NOT NULL) AS answers, coalesce(sum(bytes), 0) AS bytes,
       count(*) FILTER (WHERE run IS NULL) AS open
FROM response_cache WHERE (?1 IS NULL OR project = ?1) AND (run IS NULL OR expires_at > ?2)";

const CLEAR: &str = "-- delete answers
DELETE FROM response_cache
WHERE key IN (SELECT key FROM response_cache WHERE run IS NOT NULL AND (?1 IS NULL OR project = ?1) LIMIT ?2)";

const TO_PRUNE: &str = "-- is there anything in the response cache
SELECT coalesce(sum(bytes), 0) AS bytes, count(*) AS rows,
       EXISTS (SELECT 1 FROM response_cache WHERE expires_at <= ?1) AS expired
FROM response_cache";

const EXPIRED: &str = "-- delete answers whose time is over
DELETE FROM response_cache
WHERE key IN (SELECT key FROM response_cache WHERE expires_at <= ?1 AND run IS NOT NULL LIMIT ?2)";

const DOUBTED: &str = "-- calls that nobody makes
DELETE FROM response_cache
WHERE run IS NULL AND created_at < ?1
  AND NOT EXISTS (SELECT 1 FROM live l WHERE l.job_id = response_cache.job_id)";

const ENDED: &str = "-- jobs that are waited for and have ended
SELECT DISTINCT w.waits_for FROM live w
WHERE w.waits_for IS NOT NULL AND NOT EXISTS (SELECT 1 FROM live l WHERE l.job_id = w.waits_for) LIMIT ?1";

const BYTES: &str = "-- bytes of all answers
SELECT coalesce(sum(bytes), 0) FROM response_cache";

const LEAST_USED: &str = "-- delete answers that were not used for longest
DELETE FROM response_cache
WHERE key IN (SELECT o.key FROM (SELECT c.key, sum(c.bytes) OVER (ORDER BY c.used_at, c.key) - c.bytes AS before
                                 FROM (SELECT key, used_at, bytes FROM response_cache
                                       WHERE run IS NOT NULL ORDER BY used_at, key LIMIT ?2) c) o
              WHERE o.before < ?1)";

async fn size(core: &Core, project: Option<&str>) -> Done<CacheSize> {
    let row = sqlx::query(SIZE).bind(project.map(str::to_owned)).bind(core.now()).fetch_one(&core.readers).await?;
    Ok(CacheSize { answers: count(&row, "answers"), bytes: count(&row, "bytes"), open: count(&row, "open") })
}

async fn prune(core: &Core, rules: CacheRules, limit: u32) -> Done<u64> {
    let most = i64::try_from(rules.max_bytes).unwrap_or(i64::MAX);
    let limit = i64::from(limit);
    let seen = sqlx::query(TO_PRUNE).bind(core.now()).fetch_one(&core.readers).await?;
    let waited_for: Vec<Uuid> = sqlx::query_scalar(ENDED).bind(limit).fetch_all(&core.readers).await?;
    let (bytes, rows): (i64, i64) = (seen.get("bytes"), seen.get("rows"));
    if rows == 0 && waited_for.is_empty() {
        return Ok(0);
    }
    let now = core.now();
    let doubted = now.saturating_sub(i64::try_from(DOUBTED_AFTER.as_millis()).unwrap_or(i64::MAX));
    let mut work = core.writer.begin().await?;
    let tx = work.tx();
    let mut changed = 0;
    if seen.get::<bool, _>("expired") {
        changed += sqlx::query(EXPIRED).bind(now).bind(limit).execute(&mut *tx).await?.rows_affected();
    }
    if bytes > most {
        let bytes: i64 = sqlx::query_scalar(BYTES).fetch_one(&mut *tx).await?;
        let query = sqlx::query(LEAST_USED).bind(bytes.saturating_sub(most)).bind(limit);
        changed += query.execute(&mut *tx).await?.rows_affected();
    }
    changed += sqlx::query(DOUBTED).bind(doubted).execute(&mut *tx).await?.rows_affected();
    let waited_for: Vec<Uuid> = sqlx::query_scalar(ENDED).bind(limit).fetch_all(&mut *tx).await?;
    let ended: Vec<(JobId, bool)> = waited_for.into_iter().map(|id| (JobId::from_uuid(id), false)).collect();
    wake(tx, &ended, now).await?;
    work.commit().await?;
    Ok(changed)
}

async fn clear(core: &Core, project: Option<&str>, limit: u32) -> Done<u64> {
    let mut work = core.writer.begin().await?;
    let query = sqlx::query(CLEAR).bind(project.map(str::to_owned)).bind(i64::from(limit));
    let gone = query.execute(work.tx()).await?.rows_affected();
    work.commit().await?;
    Ok(gone)
}

#[async_trait]
impl AnswerCache for SqliteStore {
    async fn cache_size(&self, project: Option<&str>) -> Result<CacheSize> {
        size(&self.core, project).await.map_err(self.core.failed("reading the response cache"))
    }

    async fn prune_cache(&self, limit: u32) -> Result<u64> {
        prune(&self.core, self.cache, limit).await.map_err(self.core.failed("pruning the response cache"))
    }

    async fn clear_cache(&self, project: Option<&str>, limit: u32) -> Result<u64> {
        clear(&self.core, project, limit).await.map_err(self.core.failed("clearing the response cache"))
    }
}
