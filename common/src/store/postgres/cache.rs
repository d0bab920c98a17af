//! The response cache: asked in the transaction of an admission, filled in that of a flush.
//!
//! Whoever waits for a call locks the call's row first (`FOR SHARE`), and whoever ends the call changes that row before it looks for
//! those who wait: so either the one sees the answer, or the other sees the one who waits. Rows of the cache are locked in order of
//! key, behind everything else of their transaction; of the live rows that are woken only those that nobody holds are taken.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgBindIterExt as _, PgPool, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row as _};
use uuid::Uuid;

use super::super::cache::{
    ASK_AGAIN, Ask, DOUBTED_AFTER, Found, Left, MOST_WOKEN, Plan, Told, USED_EVERY, WAITS, claims, cost_of_answer,
    is_in_vain, plan,
};
use super::super::{AnswerCache, CacheSize, CachedAnswer, Error, Result, Settlement};
use super::row::{big, count, int, seconds, small, text};
use super::{LONG_PATIENCE, PostgresStore, again, failed, within};
use crate::cache::{CacheKey, CacheRules};
use crate::id::{JobId, OwnerId, PartDay};
use crate::outcome::{JobResult, Status, Usage};

const ASKING: &str = "asking the response cache";
const KEEPING: &str = "keeping answers in the response cache";
const PRUNING: &str = "pruning the response cache";

const SUCCEEDED: &str = "-- which of these have succeeded before
SELECT DISTINCT job_id FROM gristmill.result WHERE part_day = $1 AND job_id = ANY ($2) AND status = 'succeeded'";

const LOOK: &str = "-- what stands under these keys
SELECT key, job_id, run IS NULL AS open, coalesce(expires_at <= now(), false) AS expired,
       used_at < now() - make_interval(secs => $2) AS stale, bytes
FROM gristmill.response_cache WHERE key = ANY ($1)";

const CLAIM: &str = "-- these calls are under way
INSERT INTO gristmill.response_cache AS c (key, project, job_id)
SELECT t.key, t.project, t.job_id FROM UNNEST($1::bytea[], $2::text[], $3::uuid[]) AS t (key, project, job_id)
ORDER BY t.key
ON CONFLICT (key) DO UPDATE
SET project = EXCLUDED.project, job_id = EXCLUDED.job_id, run = NULL, cost_usd = NULL, bytes = 0, created_at = now(),
    used_at = now(), expires_at = NULL
WHERE c.run IS NOT NULL AND c.expires_at <= now()
RETURNING key";

const LOOK_AND_LOCK: &str = "-- whose calls are these, until this commits
SELECT key, job_id, run IS NULL AS open, coalesce(expires_at <= now(), false) AS expired, false AS stale, bytes
FROM gristmill.response_cache WHERE key = ANY ($1) ORDER BY key FOR SHARE";

// By the day, which names the partition.
const ANSWERS: &str = "-- answers
SELECT c.key, r.response::text AS response, r.provider, r.deployment, r.served_model, r.finish_reason, r.output_text,
       r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.output_tokens, r.reasoning_tokens,
       (c.cost_usd * 1000000000000)::bigint AS cost_pico_usd
FROM gristmill.response_cache c
JOIN gristmill.result r ON r.part_day = $2 AND r.job_id = c.job_id AND r.run = c.run
WHERE c.key = ANY ($1) AND r.response IS NOT NULL";

const GONE: &str = "-- answers whose results were deleted
DELETE FROM gristmill.response_cache
WHERE key IN (SELECT c.key FROM gristmill.response_cache c
              JOIN UNNEST($1::bytea[], $2::uuid[]) AS t (key, job_id) ON t.key = c.key AND t.job_id = c.job_id
              WHERE c.run IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM gristmill.result r
                                WHERE r.part_day = $3 AND r.job_id = c.job_id AND r.run = c.run AND r.response IS NOT NULL)
              ORDER BY c.key FOR UPDATE OF c SKIP LOCKED)";

const USED: &str = "-- answers that were used
UPDATE gristmill.response_cache SET used_at = now()
WHERE key IN (SELECT key FROM gristmill.response_cache WHERE key = ANY ($1) ORDER BY key FOR UPDATE SKIP LOCKED)";

const WAIT: &str = "-- runs that wait for an equal one
UPDATE gristmill.live l
SET state = 1, owner = NULL, version = l.version + 1, reason = $6, waits_for = t.waits_for,
    wake_at = least(now() + make_interval(secs => t.after), t.deadline)
FROM UNNEST($2::uuid[], $3::uuid[], $4::double precision[], $5::timestamptz[]) AS t (job_id, waits_for, after, deadline)
WHERE l.job_id = t.job_id AND l.owner = $1 AND l.state = 0";

/// Tells each of the runs what the cache has for it; those that are not told make their call.
pub(super) async fn ask(tx: &mut PgConnection, owner: OwnerId, asks: &mut [Ask]) -> Result<HashMap<JobId, Told>> {
    if asks.is_empty() {
        return Ok(HashMap::new());
    }
    ask_anew(tx, asks).await?;
    let keys: HashSet<CacheKey> = asks.iter().filter(|ask| ask.reads).map(|ask| ask.caching.key).collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let mut found = look(tx, keys).await?;
    let claims = claims(asks, &found);
    // Calls that others have under way, and those that others claimed meanwhile.
    let mut others: HashSet<CacheKey> = asks
        .iter()
        .filter(|ask| found.get(&ask.caching.key).is_some_and(|found| found.open && found.job != ask.job))
        .map(|ask| ask.caching.key)
        .collect();
    if !claims.is_empty() {
        let claimed = claim(tx, &claims).await?;
        for (key, ask) in claims {
            if claimed.contains(&key) {
                found.insert(key, Found::claimed(ask.job));
            } else {
                others.insert(key);
            }
        }
    }
    if !others.is_empty() {
        let locked = look_and_lock(tx, &others).await?;
        found.retain(|key, _| !others.contains(key));
        found.extend(locked);
    }
    carry_out(tx, owner, plan(asks, &found), &found).await
}

/// A new run of a job that had succeeded is a wish for another answer: it is not answered from here.
async fn ask_anew(tx: &mut PgConnection, asks: &mut [Ask]) -> Result<()> {
    let mut by_day: BTreeMap<PartDay, Vec<Uuid>> = BTreeMap::new();
    for ask in asks.iter().filter(|ask| ask.run > 1 && ask.reads) {
        by_day.entry(ask.job.part_day()).or_default().push(ask.job.uuid());
    }
    for (day, ids) in by_day {
        let query = sqlx::query_scalar::<_, Uuid>(SUCCEEDED).bind(day).bind(ids);
        let succeeded = query.fetch_all(&mut *tx).await.map_err(failed(ASKING))?;
        for ask in asks.iter_mut().filter(|ask| succeeded.contains(&ask.job.uuid())) {
            ask.reads = false;
        }
    }
    Ok(())
}

fn bytes<'a>(keys: impl IntoIterator<Item = &'a CacheKey>) -> Vec<Vec<u8>> {
    keys.into_iter().map(|key| key.0.to_vec()).collect()
}

fn key(row: &PgRow) -> CacheKey {
    let mut key = [0; 32];
    let bytes: &[u8] = row.get("key");
    if bytes.len() == key.len() {
        key.copy_from_slice(bytes);
    }
    CacheKey(key)
}

fn found(row: &PgRow) -> (CacheKey, Found) {
    let found = Found {
        job: JobId::from_uuid(row.get("job_id")),
        open: row.get("open"),
        expired: row.get("expired"),
        stale: row.get("stale"),
        bytes: row.get::<i32, _>("bytes").unsigned_abs().into(),
    };
    (key(row), found)
}

async fn look(tx: &mut PgConnection, keys: HashSet<CacheKey>) -> Result<HashMap<CacheKey, Found>> {
    let query = sqlx::query(LOOK).bind(bytes(&keys)).bind(seconds(USED_EVERY));
    let rows = query.fetch_all(&mut *tx).await.map_err(failed(ASKING))?;
    Ok(rows.iter().map(found).collect())
}

async fn claim(tx: &mut PgConnection, claims: &BTreeMap<CacheKey, &Ask>) -> Result<HashSet<CacheKey>> {
    let rows = sqlx::query(CLAIM)
        .bind(bytes(claims.keys()))
        .bind(claims.values().map(|ask| text(&ask.caching.project)).bind_iter())
        .bind(claims.values().map(|ask| ask.job.uuid()).bind_iter())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed(ASKING))?;
    Ok(rows.iter().map(key).collect())
}

async fn look_and_lock(tx: &mut PgConnection, keys: &HashSet<CacheKey>) -> Result<HashMap<CacheKey, Found>> {
    let rows = sqlx::query(LOOK_AND_LOCK).bind(bytes(keys)).fetch_all(&mut *tx).await.map_err(failed(ASKING))?;
    Ok(rows.iter().map(found).collect())
}

async fn carry_out(
    tx: &mut PgConnection,
    owner: OwnerId,
    mut plan: Plan<'_>,
    found: &HashMap<CacheKey, Found>,
) -> Result<HashMap<JobId, Told>> {
    let mut told = HashMap::new();
    if !plan.read.is_empty() {
        let answers = answers(tx, &plan.read, found).await?;
        for ask in plan.answered {
            match answers.get(&ask.caching.key) {
                Some(answer) => {
                    told.insert(ask.job, Told::Answer(Box::new(answer.clone())));
                }
                // It was deleted: whoever asks next finds nothing under the key.
                None => plan.waiting.push((ask, None)),
            }
        }
    }
    if !plan.used.is_empty() {
        sqlx::query(USED).bind(bytes(&plan.used)).execute(&mut *tx).await.map_err(failed(ASKING))?;
    }
    if !plan.waiting.is_empty() {
        let all = || plan.waiting.iter();
        sqlx::query(WAIT)
            .bind(owner.uuid())
            .bind(all().map(|(ask, _)| ask.job.uuid()).bind_iter())
            .bind(all().map(|(_, waits_for)| waits_for.map(JobId::uuid)).bind_iter())
            .bind(all().map(|(_, waits_for)| waits_for.map_or(0.0, |_| seconds(ASK_AGAIN))).bind_iter())
            .bind(all().map(|(ask, _)| ask.deadline).bind_iter())
            .bind(WAITS)
            .execute(&mut *tx)
            .await
            .map_err(failed(ASKING))?;
        told.extend(all().map(|(ask, _)| (ask.job, Told::Wait)));
    }
    Ok(told)
}

/// Reads what stands under these keys, and lets go of those whose results are gone.
async fn answers(
    tx: &mut PgConnection,
    keys: &[CacheKey],
    found: &HashMap<CacheKey, Found>,
) -> Result<HashMap<CacheKey, CachedAnswer>> {
    let mut by_day: BTreeMap<PartDay, Vec<(&CacheKey, Uuid)>> = BTreeMap::new();
    for key in keys {
        let Some(found) = found.get(key) else { continue };
        by_day.entry(found.job.part_day()).or_default().push((key, found.job.uuid()));
    }
    let mut answers: HashMap<CacheKey, CachedAnswer> = HashMap::with_capacity(keys.len());
    for (day, keys) in by_day {
        let query = sqlx::query(ANSWERS).bind(bytes(keys.iter().map(|(key, _)| *key))).bind(day);
        let rows = query.fetch_all(&mut *tx).await.map_err(failed(ASKING))?;
        answers.extend(rows.iter().map(|row| (key(row), answer(row))));
        let gone: Vec<_> = keys.iter().filter(|(key, _)| !answers.contains_key(key)).collect();
        if !gone.is_empty() {
            let query = sqlx::query(GONE)
                .bind(bytes(gone.iter().map(|(key, _)| *key)))
                .bind(gone.iter().map(|(_, job)| *job).bind_iter())
                .bind(day);
            query.execute(&mut *tx).await.map_err(failed(ASKING))?;
        }
    }
    Ok(answers)
}

fn answer(row: &PgRow) -> CachedAnswer {
    CachedAnswer {
        provider: row.get::<Option<&str>, _>("provider").map(Into::into),
        deployment: row.get::<Option<&str>, _>("deployment").map(Into::into),
        served_model: row.get("served_model"),
        finish_reason: row.get("finish_reason"),
        output_text: row.get("output_text"),
        response: Bytes::copy_from_slice(row.get::<&str, _>("response").as_bytes()),
        usage: Usage {
            input_tokens: small(row, "input_tokens"),
            cached_input_tokens: small(row, "cached_input_tokens"),
            cache_write_tokens: small(row, "cache_write_tokens"),
            output_tokens: small(row, "output_tokens"),
            reasoning_tokens: small(row, "reasoning_tokens"),
        },
        cost_pico_usd: row.get("cost_pico_usd"),
    }
}

const LOCK: &str = "-- whose calls are under these keys
SELECT key, job_id, run IS NULL AS open FROM gristmill.response_cache WHERE key = ANY ($1) ORDER BY key FOR UPDATE";

// Nothing changes that has an index, the time of its last use included, which is that of the claim.
const KEEP: &str = "-- keep answers of calls that were claimed
UPDATE gristmill.response_cache c
SET run = t.run, cost_usd = t.cost_pico::numeric / 1000000000000, bytes = t.bytes,
    expires_at = now() + make_interval(secs => $5)
FROM UNNEST($1::bytea[], $2::integer[], $3::bigint[], $4::integer[]) AS t (key, run, cost_pico, bytes)
WHERE c.key = t.key";

const KEEP_INSTEAD: &str = "-- keep answers in the place of others
INSERT INTO gristmill.response_cache AS c (key, run, cost_usd, bytes, expires_at, job_id, project)
SELECT t.key, t.run, t.cost_pico::numeric / 1000000000000, t.bytes, now() + make_interval(secs => $5), t.job_id, t.project
FROM UNNEST($1::bytea[], $2::integer[], $3::bigint[], $4::integer[], $6::uuid[], $7::text[])
     AS t (key, run, cost_pico, bytes, job_id, project)
ORDER BY t.key
ON CONFLICT (key) DO UPDATE
SET job_id = EXCLUDED.job_id, run = EXCLUDED.run, cost_usd = EXCLUDED.cost_usd, bytes = EXCLUDED.bytes,
    project = EXCLUDED.project, created_at = now(), used_at = now(), expires_at = EXCLUDED.expires_at";

const LET_GO: &str = "-- calls that ended without an answer
DELETE FROM gristmill.response_cache
WHERE key IN (SELECT key FROM gristmill.response_cache WHERE job_id = ANY ($1) AND run IS NULL ORDER BY key FOR UPDATE)
RETURNING job_id";

// The sum keeps the planner from the index of all that waits, which it would walk for the life of the statement.
const WAKE: &str = "-- who waited for these
UPDATE gristmill.live l
SET version = l.version + 1, wake_at = now(), waits_for = CASE WHEN l.waits_for = ANY ($2) THEN l.job_id END
WHERE l.job_id = ANY (ARRAY(
    SELECT q.job_id FROM gristmill.live q
    WHERE q.waits_for = ANY ($1) AND q.waits_for IS NOT NULL AND q.state + 0 = 1 AND q.job_id <> q.waits_for
    ORDER BY q.job_id LIMIT $3 FOR UPDATE SKIP LOCKED))";

/// Keeps the answers of runs that have ended, and wakes who waited for these.
pub(super) async fn keep(
    tx: &mut PgConnection,
    rules: CacheRules,
    results: &[(&Settlement, &JobResult)],
) -> Result<()> {
    let left = Left::of(results, rules);
    if left.is_nothing() {
        return Ok(());
    }
    if !left.answers.is_empty() {
        keep_answers(tx, rules, &left).await?;
    }
    if !left.without.is_empty() {
        let query = sqlx::query(LET_GO).bind(left.without.iter().map(|(_, job)| job.uuid()).bind_iter());
        query.execute(&mut *tx).await.map_err(failed(KEEPING))?;
    }
    wake(tx, &left.ended).await
}

async fn keep_answers(tx: &mut PgConnection, rules: CacheRules, left: &Left<'_>) -> Result<()> {
    // All that this transaction touches, since what follows does so in turns.
    let keys: BTreeSet<&CacheKey> = left.answers.keys().chain(left.without.iter().map(|(key, _)| key)).collect();
    let rows = sqlx::query(LOCK).bind(bytes(keys)).fetch_all(&mut *tx).await.map_err(failed(KEEPING))?;
    let open = rows.iter().filter(|row| row.get("open"));
    let claims: HashMap<CacheKey, Uuid> = open.map(|row| (key(row), row.get("job_id"))).collect();
    let is_claimed = |(key, settlement): &(&CacheKey, &Settlement)| claims.get(key) == Some(&settlement.job.id.uuid());
    let answers = left.answers.iter().map(|(key, (settlement, _))| (key, *settlement));
    let (claimed, others): (Vec<_>, Vec<_>) = answers.partition(is_claimed);
    if !claimed.is_empty() {
        keeping(KEEP, rules, &claimed).execute(&mut *tx).await.map_err(failed(KEEPING))?;
    }
    if !others.is_empty() {
        let caching = others.iter().filter_map(|(_, settlement)| settlement.caching.as_ref());
        keeping(KEEP_INSTEAD, rules, &others)
            .bind(others.iter().map(|(_, settlement)| settlement.job.id.uuid()).bind_iter())
            .bind(caching.map(|caching| text(&caching.project)).bind_iter())
            .execute(&mut *tx)
            .await
            .map_err(failed(KEEPING))?;
    }
    Ok(())
}

/// Binds what both statements that keep answers begin with.
fn keeping<'a>(
    statement: &'static str,
    rules: CacheRules,
    answers: &'a [(&CacheKey, &Settlement)],
) -> Query<'a, Postgres, PgArguments> {
    let settlements = || answers.iter().map(|(_, settlement)| *settlement);
    sqlx::query(statement)
        .bind(bytes(answers.iter().map(|(key, _)| *key)))
        .bind(settlements().map(|settlement| int(settlement.job.run)).bind_iter())
        .bind(settlements().map(cost_of_answer).bind_iter())
        .bind(settlements().map(|settlement| i32::try_from(settlement.weight()).unwrap_or(i32::MAX)).bind_iter())
        .bind(seconds(rules.ttl))
}

/// Lets go of the calls of jobs that nobody answers any more, and wakes who waited for these.
pub(super) async fn let_go(tx: &mut PgConnection, jobs: impl Iterator<Item = JobId>, status: Status) -> Result<()> {
    let query = sqlx::query_scalar::<_, Uuid>(LET_GO).bind(jobs.map(JobId::uuid).bind_iter());
    let ended = query.fetch_all(&mut *tx).await.map_err(failed(KEEPING))?;
    let ended: Vec<(JobId, bool)> = ended.into_iter().map(|id| (JobId::from_uuid(id), is_in_vain(status))).collect();
    if ended.is_empty() { Ok(()) } else { wake(tx, &ended).await }
}

async fn wake(tx: &mut PgConnection, ended: &[(JobId, bool)]) -> Result<()> {
    sqlx::query(WAKE)
        .bind(ended.iter().map(|(job, _)| job.uuid()).bind_iter())
        .bind(ended.iter().filter(|(_, in_vain)| *in_vain).map(|(job, _)| job.uuid()).bind_iter())
        .bind(MOST_WOKEN)
        .execute(&mut *tx)
        .await
        .map_err(failed("waking who waits for an equal request"))?;
    Ok(())
}

const SIZE: &str = "-- how large the response cache is
SELECT count(*) FILTER (WHERE run IS NOT NULL) AS answers, coalesce(sum(bytes), 0)::bigint AS bytes,
       count(*) FILTER (WHERE run IS NULL) AS open
FROM gristmill.response_cache
WHERE ($1::text IS NULL OR project = $1) AND (run IS NULL OR expires_at > now())";

const CLEAR: &str = "-- delete answers
DELETE FROM gristmill.response_cache
WHERE key IN (SELECT key FROM gristmill.response_cache
              WHERE run IS NOT NULL AND ($1::text IS NULL OR project = $1) LIMIT $2 FOR UPDATE SKIP LOCKED)";

const EXPIRED: &str = "-- delete answers whose time is over
DELETE FROM gristmill.response_cache
WHERE key IN (SELECT key FROM gristmill.response_cache WHERE expires_at <= now() AND run IS NOT NULL
              LIMIT $1 FOR UPDATE SKIP LOCKED)";

// The job and its call come and go together; only what was lost on the way is found here.
const DOUBTED: &str = "-- calls that nobody makes
DELETE FROM gristmill.response_cache c
WHERE c.run IS NULL AND c.created_at < now() - make_interval(secs => $1)
  AND NOT EXISTS (SELECT 1 FROM gristmill.live l WHERE l.job_id = c.job_id)";

// From one to the next job that is waited for, by the index: as many steps as there are such jobs, whoever waits.
const WAITED_FOR: &str = "-- jobs that are waited for and have ended
WITH RECURSIVE waited AS (
    (SELECT waits_for FROM gristmill.live WHERE waits_for IS NOT NULL ORDER BY waits_for LIMIT 1)
    UNION ALL
    SELECT (SELECT l.waits_for FROM gristmill.live l WHERE l.waits_for > w.waits_for ORDER BY l.waits_for LIMIT 1)
    FROM waited w WHERE w.waits_for IS NOT NULL)
SELECT w.waits_for FROM waited w
WHERE w.waits_for IS NOT NULL AND NOT EXISTS (SELECT 1 FROM gristmill.live l WHERE l.job_id = w.waits_for) LIMIT $1";

// One look at all rows, which are small, in place of an index that each call would have to change.
const TO_PRUNE: &str = "-- what there is to prune
SELECT coalesce(sum(bytes) FILTER (WHERE run IS NULL OR expires_at > now()), 0)::bigint AS bytes,
       coalesce(bool_or(run IS NOT NULL AND expires_at <= now()), false) AS expired,
       coalesce(bool_or(run IS NULL AND created_at < now() - make_interval(secs => $1)), false) AS doubted
FROM gristmill.response_cache";

const LEAST_USED: &str = "-- delete answers that were not used for longest
DELETE FROM gristmill.response_cache
WHERE key IN (SELECT o.key FROM (SELECT c.key, sum(c.bytes) OVER (ORDER BY c.used_at, c.key) - c.bytes AS before
                                 FROM (SELECT key, used_at, bytes FROM gristmill.response_cache
                                       WHERE run IS NOT NULL ORDER BY used_at, key LIMIT $2 FOR UPDATE SKIP LOCKED) c) o
              WHERE o.before < $1)";

async fn size(pool: &PgPool, project: Option<&str>) -> Result<CacheSize> {
    let row = sqlx::query(SIZE).bind(project).fetch_one(pool).await.map_err(failed("reading the response cache"))?;
    Ok(CacheSize { answers: count(&row, "answers"), bytes: count(&row, "bytes"), open: count(&row, "open") })
}

async fn prune(pool: &PgPool, rules: CacheRules, limit: u32) -> Result<u64> {
    let limit = i64::from(limit);
    let mut tx = pool.begin().await.map_err(failed(PRUNING))?;
    let mut changed = 0;
    let seen = sqlx::query(TO_PRUNE).bind(seconds(DOUBTED_AFTER)).fetch_one(&mut *tx).await.map_err(failed(PRUNING))?;
    if seen.get("expired") {
        let query = sqlx::query(EXPIRED).bind(limit);
        changed += query.execute(&mut *tx).await.map_err(failed(PRUNING))?.rows_affected();
    }
    let too_many = seen.get::<i64, _>("bytes").saturating_sub(big(rules.max_bytes));
    if too_many > 0 {
        let query = sqlx::query(LEAST_USED).bind(too_many).bind(limit);
        changed += query.execute(&mut *tx).await.map_err(failed(PRUNING))?.rows_affected();
    }
    if seen.get("doubted") {
        let query = sqlx::query(DOUBTED).bind(seconds(DOUBTED_AFTER));
        changed += query.execute(&mut *tx).await.map_err(failed(PRUNING))?.rows_affected();
    }
    let query = sqlx::query_scalar::<_, Uuid>(WAITED_FOR).bind(limit);
    let ended = query.fetch_all(&mut *tx).await.map_err(failed(PRUNING))?;
    if !ended.is_empty() {
        let ended: Vec<(JobId, bool)> = ended.into_iter().map(|id| (JobId::from_uuid(id), false)).collect();
        wake(&mut tx, &ended).await?;
    }
    tx.commit().await.map_err(failed(PRUNING))?;
    Ok(changed)
}

async fn clear(pool: &PgPool, project: Option<&str>, limit: u32) -> Result<u64> {
    let query = sqlx::query(CLEAR).bind(project).bind(i64::from(limit));
    Ok(query.execute(pool).await.map_err(failed("clearing the response cache"))?.rows_affected())
}

#[async_trait]
impl AnswerCache for PostgresStore {
    async fn cache_size(&self, project: Option<&str>) -> Result<CacheSize> {
        within(LONG_PATIENCE, size(&self.cold, project)).await
    }

    async fn prune_cache(&self, limit: u32) -> Result<u64> {
        again!(within(LONG_PATIENCE, prune(&self.cold, self.cache, limit)))
    }

    async fn clear_cache(&self, project: Option<&str>, limit: u32) -> Result<u64> {
        again!(within(LONG_PATIENCE, clear(&self.cold, project, limit)))
    }
}
