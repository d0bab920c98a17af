-- What calls cost: the details of their usage, the prices they were computed with, statistics, budgets, and the response cache.
--
-- Nothing was written to the tables that are made anew.

-- JSON of `common::price::Usage`, where the columns do not say all that was billed
ALTER TABLE attempt ADD COLUMN usage TEXT;
-- the most that a call may have cost whose outcome nobody saw
ALTER TABLE attempt ADD COLUMN bound_pico_usd INTEGER;

-- what the run's calls have cost so far, as far as it is known; `reserved_pico_usd` is the most that one call of it may cost
ALTER TABLE live ADD COLUMN spent_pico_usd INTEGER;
-- the job whose answer it waits for, since both ask the same; its own id once it waited in vain and makes its own call
ALTER TABLE live ADD COLUMN waits_for BLOB;

CREATE INDEX live_waits_for ON live (waits_for) WHERE waits_for IS NOT NULL;

-- The rows of the price table that costs were computed with, as they were.
CREATE TABLE price (
    price_ref TEXT    NOT NULL PRIMARY KEY,
    price     TEXT    NOT NULL,
    seen_at   INTEGER NOT NULL
) WITHOUT ROWID;

-- Calls that a process may have been making when it died: one for each run that it held and is not known to have left alone.
CREATE TABLE lost_call (
    job_id         BLOB    NOT NULL,
    run            INTEGER NOT NULL,
    owner          BLOB    NOT NULL,
    -- which call of the run it would have been
    attempt        INTEGER NOT NULL,
    batch_id       BLOB    NOT NULL,
    model_group    TEXT    NOT NULL,
    died_at        INTEGER NOT NULL,
    -- how many of its owner's may have been made at most: it cannot have more calls without a written result
    most           INTEGER NOT NULL,
    -- the most that it may have cost, set when the run is called again
    bound_pico_usd INTEGER,
    PRIMARY KEY (job_id, run, owner)
) WITHOUT ROWID;

CREATE INDEX lost_call_batch ON lost_call (batch_id);

-- Every change of a cost that was recorded before; the attempt has the newest.
CREATE TABLE cost_change (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    changed_at   INTEGER NOT NULL,
    job_id       BLOB    NOT NULL,
    run          INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    owner        BLOB    NOT NULL,
    batch_id     BLOB    NOT NULL,
    old_pico_usd INTEGER,
    new_pico_usd INTEGER,
    old_price    TEXT,
    new_price    TEXT
);

CREATE INDEX cost_change_job ON cost_change (job_id);
CREATE INDEX cost_change_batch ON cost_change (batch_id);

-- Sums of calls and results, written in the transaction that writes these: one row of each kind of call a transaction. The keeper
-- adds up what is old. `at` is the beginning of its time, `span` the seconds of it.
DROP TABLE hourly;
CREATE TABLE tally (
    id                  INTEGER PRIMARY KEY AUTOINCREMENT,
    at                  INTEGER NOT NULL,
    span                INTEGER NOT NULL,
    batch_id            BLOB    NOT NULL,
    -- its project, once the batch is deleted
    project             TEXT    NOT NULL DEFAULT '',
    model_group         TEXT    NOT NULL,
    provider            TEXT    NOT NULL,
    deployment          TEXT    NOT NULL,
    model               TEXT    NOT NULL,
    error_class         TEXT    NOT NULL,
    -- the jobs' own tags, a JSON object, or ''
    tags                TEXT    NOT NULL,
    calls               INTEGER NOT NULL,
    -- calls after the first of a run
    repeated            INTEGER NOT NULL,
    -- calls that count against no retry: refusals
    uncounted           INTEGER NOT NULL,
    -- calls that told what they used and have no price, and calls whose outcome nobody saw
    unpriced            INTEGER NOT NULL,
    unseen              INTEGER NOT NULL,
    input_tokens        INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    cache_write_tokens  INTEGER NOT NULL,
    output_tokens       INTEGER NOT NULL,
    reasoning_tokens    INTEGER NOT NULL,
    cost_pico_usd       INTEGER NOT NULL,
    bound_pico_usd      INTEGER NOT NULL,
    succeeded           INTEGER NOT NULL,
    failed              INTEGER NOT NULL,
    cancelled           INTEGER NOT NULL,
    expired             INTEGER NOT NULL,
    -- results that the response cache gave, and what they would have cost
    cached              INTEGER NOT NULL,
    saved_pico_usd      INTEGER NOT NULL,
    -- counts by duration, as `common::tally::Histogram` writes them: of calls, to their first byte, of waits before a run's call
    latency             TEXT    NOT NULL,
    ttft                TEXT    NOT NULL,
    queue               TEXT    NOT NULL
);

CREATE INDEX tally_at ON tally (span, at);
CREATE INDEX tally_batch ON tally (batch_id, at);

-- Limits of what is spent. `state` is JSON of `common::budget::Budget`, read and written in one transaction.
DROP TABLE budget;
CREATE TABLE budget (
    -- all, batch, project, provider, deployment
    scope      TEXT    NOT NULL,
    -- the batch's id, or the name of what is limited; '' for all
    name       TEXT    NOT NULL,
    -- total, day, week, month
    period     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (scope, name, period)
) WITHOUT ROWID;

-- What a budget's owner is told: written when a threshold is crossed, with what became of it.
CREATE TABLE alert (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at   INTEGER NOT NULL,
    scope        TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    period       TEXT    NOT NULL,
    period_start INTEGER NOT NULL,
    percent      INTEGER NOT NULL,
    message      TEXT    NOT NULL,
    -- tries to tell it, when the next one is due, and how the last one ended; all null where nobody is to be told
    tries        INTEGER NOT NULL DEFAULT 0,
    due_at       INTEGER,
    told_at      INTEGER,
    trouble      TEXT
);

CREATE INDEX alert_due ON alert (due_at) WHERE due_at IS NOT NULL;

-- Where answers stand, by what was asked. Without a run, the call of `job_id` is under way and others wait for it.
DROP TABLE response_cache;
CREATE TABLE response_cache (
    -- SHA-256 over all that changes the answer, the project included where answers are not shared
    key           BLOB    NOT NULL PRIMARY KEY,
    project       TEXT    NOT NULL DEFAULT '',
    job_id        BLOB    NOT NULL,
    -- the result of this run has the answer
    run           INTEGER,
    -- what the call cost that gave it
    cost_pico_usd INTEGER,
    bytes         INTEGER NOT NULL DEFAULT 0,
    created_at    INTEGER NOT NULL,
    -- noted at most once in a while
    used_at       INTEGER NOT NULL,
    expires_at    INTEGER
);

CREATE INDEX response_cache_job ON response_cache (job_id);
-- with the bytes, so that their sum is read from here
CREATE INDEX response_cache_used ON response_cache (used_at, bytes);
CREATE INDEX response_cache_expires ON response_cache (expires_at) WHERE run IS NOT NULL;
CREATE INDEX response_cache_open ON response_cache (created_at) WHERE run IS NULL;

-- What is told of costs without opening anything: sums by hour.
CREATE VIEW usage AS
SELECT strftime('%Y-%m-%dT%H:00:00Z', t.at / 1000.0, 'unixepoch') AS hour,
       lower(substr(hex(t.batch_id), 1, 8) || '-' || substr(hex(t.batch_id), 9, 4) || '-' || substr(hex(t.batch_id), 13, 4)
             || '-' || substr(hex(t.batch_id), 17, 4) || '-' || substr(hex(t.batch_id), 21)) AS batch_id,
       b.name AS batch, coalesce(b.project, nullif(t.project, '')) AS project, t.model_group AS model, t.provider, t.deployment,
       t.model AS provider_model, nullif(t.error_class, '') AS error_class, sum(t.calls) AS calls,
       sum(t.input_tokens) AS input_tokens, sum(t.cached_input_tokens) AS cached_input_tokens,
       sum(t.cache_write_tokens) AS cache_write_tokens, sum(t.output_tokens) AS output_tokens,
       sum(t.reasoning_tokens) AS reasoning_tokens, sum(t.cost_pico_usd) / 1e12 AS cost_usd, sum(t.unpriced) AS unpriced_calls,
       sum(t.unseen) AS unseen_calls, sum(t.bound_pico_usd) / 1e12 AS unseen_bound_usd, sum(t.succeeded) AS succeeded,
       sum(t.failed) AS failed, sum(t.cancelled) AS cancelled, sum(t.expired) AS expired, sum(t.cached) AS cached,
       sum(t.saved_pico_usd) / 1e12 AS saved_usd, sum(t.cost_pico_usd) AS cost_pico_usd
FROM tally t
LEFT JOIN batch b ON b.batch_id = t.batch_id
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;

-- The views of 0001 with what costs came with, at their ends.
DROP VIEW results;
CREATE VIEW results AS
SELECT lower(substr(hex(r.job_id), 1, 8) || '-' || substr(hex(r.job_id), 9, 4) || '-' || substr(hex(r.job_id), 13, 4)
             || '-' || substr(hex(r.job_id), 17, 4) || '-' || substr(hex(r.job_id), 21)) AS job_id,
       r.run, j.custom_id,
       lower(substr(hex(r.batch_id), 1, 8) || '-' || substr(hex(r.batch_id), 9, 4) || '-' || substr(hex(r.batch_id), 13, 4)
             || '-' || substr(hex(r.batch_id), 17, 4) || '-' || substr(hex(r.batch_id), 21)) AS batch_id,
       b.name AS batch, b.project, j.tags, j.metadata, r.status, r.model_group AS model, r.provider, r.deployment,
       r.served_model, r.finish_reason, r.output_text, r.response, r.input_tokens, r.cached_input_tokens, r.output_tokens,
       r.reasoning_tokens, r.cost_pico_usd / 1e12 AS cost_usd, r.cached, r.attempts,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.queued_at / 1000.0, 'unixepoch') AS queued_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.started_at / 1000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.finished_at / 1000.0, 'unixepoch') AS finished_at,
       r.started_at - r.queued_at AS queue_ms,
       r.ttft_ms, r.latency_ms, r.error_class, r.error_status, r.error_code, r.error_message, r.error, r.request_id,
       r.cost_pico_usd, r.seq, r.saved_pico_usd / 1e12 AS saved_usd, r.saved_pico_usd
FROM result r
JOIN batch b ON b.batch_id = r.batch_id
LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id
WHERE NOT EXISTS (SELECT 1 FROM result n WHERE n.job_id = r.job_id AND n.run > r.run);

DROP VIEW attempts;
CREATE VIEW attempts AS
SELECT lower(substr(hex(a.job_id), 1, 8) || '-' || substr(hex(a.job_id), 9, 4) || '-' || substr(hex(a.job_id), 13, 4)
             || '-' || substr(hex(a.job_id), 17, 4) || '-' || substr(hex(a.job_id), 21)) AS job_id,
       a.run, a.attempt, j.custom_id,
       lower(substr(hex(a.batch_id), 1, 8) || '-' || substr(hex(a.batch_id), 9, 4) || '-' || substr(hex(a.batch_id), 13, 4)
             || '-' || substr(hex(a.batch_id), 17, 4) || '-' || substr(hex(a.batch_id), 21)) AS batch_id,
       b.name AS batch, b.project, j.tags, a.model_group AS model, a.provider, a.deployment, a.model AS provider_model,
       a.served_model, a.service_tier,
       strftime('%Y-%m-%dT%H:%M:%fZ', a.started_at / 1000.0, 'unixepoch') AS started_at,
       a.ttft_ms, a.latency_ms, a.http_status, a.counted, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens,
       a.output_tokens, a.reasoning_tokens, a.cost_pico_usd / 1e12 AS cost_usd, a.cost_basis, a.price_ref, a.request_id,
       a.error_class, a.error, a.cost_pico_usd, a.bound_pico_usd / 1e12 AS bound_usd, a.bound_pico_usd
FROM attempt a
JOIN batch b ON b.batch_id = a.batch_id
LEFT JOIN job j ON j.batch_id = a.batch_id AND j.job_id = a.job_id;
