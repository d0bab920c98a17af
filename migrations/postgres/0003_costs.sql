-- What calls cost: the details of their usage, the prices they were computed with, statistics, budgets, and the response cache.
--
-- Nothing was written to the tables that are made anew.

ALTER TABLE gristmill.attempt
    -- JSON of `common::price::Usage`, where the columns do not say all that was billed
    ADD COLUMN usage     json,
    -- the most that a call may have cost whose outcome nobody saw
    ADD COLUMN bound_usd numeric(20, 12);

ALTER TABLE gristmill.live
    -- what the run's calls have cost so far, as far as it is known
    ADD COLUMN spent_usd numeric(20, 12),
    -- the job whose answer it waits for, since both ask the same; its own id once it waited in vain and makes its own call
    ADD COLUMN waits_for uuid;
COMMENT ON COLUMN gristmill.live.reserved_usd IS 'the most that one call of it may cost';

CREATE INDEX live_waits_for ON gristmill.live (waits_for) WHERE waits_for IS NOT NULL;

-- The rows of the price table that costs were computed with, as they were.
CREATE TABLE gristmill.price (
    price_ref text        PRIMARY KEY,
    price     json        NOT NULL,
    seen_at   timestamptz NOT NULL DEFAULT now()
);

-- Calls that a worker may have been making when it died: one for each run that it held and is not known to have left alone.
CREATE TABLE gristmill.lost_call (
    job_id      uuid        NOT NULL,
    run         integer     NOT NULL,
    owner       uuid        NOT NULL,
    -- which call of the run it would have been
    attempt     integer     NOT NULL,
    batch_id    uuid        NOT NULL,
    model_group text        NOT NULL,
    died_at     timestamptz NOT NULL,
    -- how many of its owner's may have been made at most: it cannot have more calls without a written result
    most        integer     NOT NULL,
    -- the most that it may have cost, set when the run is called again
    bound_usd   numeric(20, 12),
    PRIMARY KEY (job_id, run, owner)
);

CREATE INDEX lost_call_batch ON gristmill.lost_call (batch_id);

-- Every change of a cost that was recorded before; the attempt has the newest.
CREATE TABLE gristmill.cost_change (
    id          bigint          GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    changed_at  timestamptz     NOT NULL DEFAULT now(),
    job_id      uuid            NOT NULL,
    run         integer         NOT NULL,
    attempt     integer         NOT NULL,
    owner       uuid            NOT NULL,
    batch_id    uuid            NOT NULL,
    old_usd     numeric(20, 12),
    new_usd     numeric(20, 12),
    old_price   text,
    new_price   text
);

CREATE INDEX cost_change_job ON gristmill.cost_change (job_id);
CREATE INDEX cost_change_batch ON gristmill.cost_change (batch_id);

-- Sums of calls and results, written in the transaction that writes these: one row of each kind of call a transaction. The keeper
-- adds up what is old. `at` is the beginning of its time, `span` the seconds of it.
DROP TABLE gristmill.hourly;
CREATE TABLE gristmill.tally (
    id                  bigint          GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at                  timestamptz     NOT NULL,
    span                integer         NOT NULL,
    batch_id            uuid            NOT NULL,
    -- its project, once the batch is deleted
    project             text            NOT NULL DEFAULT '',
    model_group         text            NOT NULL,
    provider            text            NOT NULL,
    deployment          text            NOT NULL,
    model               text            NOT NULL,
    error_class         text            NOT NULL,
    -- the jobs' own tags, a JSON object, or ''
    tags                text            NOT NULL,
    calls               bigint          NOT NULL,
    -- calls after the first of a run
    repeated            bigint          NOT NULL,
    -- calls that count against no retry: refusals
    uncounted           bigint          NOT NULL,
    -- calls that told what they used and have no price, and calls whose outcome nobody saw
    unpriced            bigint          NOT NULL,
    unseen              bigint          NOT NULL,
    input_tokens        bigint          NOT NULL,
    cached_input_tokens bigint          NOT NULL,
    cache_write_tokens  bigint          NOT NULL,
    output_tokens       bigint          NOT NULL,
    reasoning_tokens    bigint          NOT NULL,
    cost_usd            numeric(26, 12) NOT NULL,
    bound_usd           numeric(26, 12) NOT NULL,
    succeeded           bigint          NOT NULL,
    failed              bigint          NOT NULL,
    cancelled           bigint          NOT NULL,
    expired             bigint          NOT NULL,
    -- results that the response cache gave, and what they would have cost
    cached              bigint          NOT NULL,
    saved_usd           numeric(26, 12) NOT NULL,
    -- counts by duration, as `common::tally::Histogram` writes them: of calls, to their first byte, of waits before a run's call
    latency             text            NOT NULL,
    ttft                text            NOT NULL,
    queue               text            NOT NULL
);

CREATE INDEX tally_at ON gristmill.tally (span, at);
CREATE INDEX tally_batch ON gristmill.tally (batch_id, at);

-- Limits of what is spent. `state` is JSON of `common::budget::Budget`, read and written under the row's lock.
DROP TABLE gristmill.budget;
CREATE TABLE gristmill.budget (
    -- all, batch, project, provider, deployment
    scope      text        NOT NULL,
    -- the batch's id, or the name of what is limited; '' for all
    name       text        NOT NULL,
    -- total, day, week, month
    period     text        NOT NULL,
    state      text        NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, name, period)
-- A row is written a few times a second: room on its page keeps its index from growing.
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- What a budget's owner is told: written when a threshold is crossed, with what became of it.
CREATE TABLE gristmill.alert (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at   timestamptz NOT NULL DEFAULT now(),
    scope        text        NOT NULL,
    name         text        NOT NULL,
    period       text        NOT NULL,
    period_start timestamptz NOT NULL,
    percent      integer     NOT NULL,
    message      text        NOT NULL,
    -- tries to tell it, when the next one is due, and how the last one ended; all null where nobody is to be told
    tries        integer     NOT NULL DEFAULT 0,
    due_at       timestamptz,
    told_at      timestamptz,
    trouble      text
);

CREATE INDEX alert_due ON gristmill.alert (due_at) WHERE due_at IS NOT NULL;

-- Where answers stand, by what was asked. Without a run, the call of `job_id` is under way and others wait for it.
DROP TABLE gristmill.response_cache;
CREATE TABLE gristmill.response_cache (
    -- SHA-256 over all that changes the answer, the project included where answers are not shared
    key        bytea       PRIMARY KEY,
    project    text        NOT NULL DEFAULT '',
    job_id     uuid        NOT NULL,
    -- the result of this run has the answer
    run        integer,
    -- what the call cost that gave it
    cost_usd   numeric(20, 12),
    bytes      integer     NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- noted at most once in a while
    used_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
-- An answer is noted in the row of its call: room on the page, and no index over what changes then, keep all indexes from growing.
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX response_cache_job ON gristmill.response_cache (job_id);
CREATE INDEX response_cache_used ON gristmill.response_cache (used_at);

-- What is told of costs without opening anything: sums by hour.
CREATE VIEW gristmill.usage AS
SELECT date_trunc('hour', t.at) AS hour, t.batch_id, b.name AS batch, coalesce(b.project, nullif(t.project, '')) AS project, t.model_group AS model,
       t.provider, t.deployment, t.model AS provider_model, nullif(t.error_class, '') AS error_class,
       sum(t.calls)::bigint AS calls, sum(t.input_tokens)::bigint AS input_tokens,
       sum(t.cached_input_tokens)::bigint AS cached_input_tokens, sum(t.cache_write_tokens)::bigint AS cache_write_tokens,
       sum(t.output_tokens)::bigint AS output_tokens, sum(t.reasoning_tokens)::bigint AS reasoning_tokens,
       sum(t.cost_usd) AS cost_usd, sum(t.unpriced)::bigint AS unpriced_calls, sum(t.unseen)::bigint AS unseen_calls,
       sum(t.bound_usd) AS unseen_bound_usd, sum(t.succeeded)::bigint AS succeeded, sum(t.failed)::bigint AS failed,
       sum(t.cancelled)::bigint AS cancelled, sum(t.expired)::bigint AS expired, sum(t.cached)::bigint AS cached,
       sum(t.saved_usd) AS saved_usd
FROM gristmill.tally t
LEFT JOIN gristmill.batch b USING (batch_id)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;
COMMENT ON VIEW gristmill.usage IS 'Calls, tokens and costs by the hour.';

-- The views of 0001 with what costs came with, at their ends.
CREATE OR REPLACE VIEW gristmill.results AS
SELECT r.job_id, r.run, j.custom_id, r.batch_id, b.name AS batch, b.project, j.tags, j.metadata, r.status,
       r.model_group AS model, r.provider, r.deployment, r.served_model, r.finish_reason, r.output_text, r.response,
       r.input_tokens, r.cached_input_tokens, r.output_tokens, r.reasoning_tokens, r.cost_usd, r.cached, r.attempts,
       r.queued_at, r.started_at, r.finished_at,
       (extract(epoch FROM r.started_at - r.queued_at) * 1000)::bigint AS queue_ms,
       r.ttft_ms, r.latency_ms, r.error_class, r.error_status, r.error_code, r.error_message, r.error, r.request_id, r.saved_usd
FROM gristmill.result r
JOIN gristmill.batch b USING (batch_id)
LEFT JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
WHERE NOT EXISTS (SELECT 1 FROM gristmill.result n
                  WHERE n.job_id = r.job_id AND n.part_day = r.part_day AND n.run > r.run);

CREATE OR REPLACE VIEW gristmill.attempts AS
SELECT a.job_id, a.run, a.attempt, j.custom_id, a.batch_id, b.name AS batch, b.project, j.tags, a.model_group AS model,
       a.provider, a.deployment, a.model AS provider_model, a.served_model, a.service_tier, a.started_at, a.ttft_ms,
       a.latency_ms, a.http_status, a.counted, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens,
       a.output_tokens, a.reasoning_tokens, a.cost_usd, a.cost_basis, a.price_ref, a.request_id, a.error_class, a.error,
       a.bound_usd
FROM gristmill.attempt a
JOIN gristmill.batch b USING (batch_id)
LEFT JOIN gristmill.job j ON j.batch_id = a.batch_id AND j.job_id = a.job_id AND j.part_day = a.part_day;
