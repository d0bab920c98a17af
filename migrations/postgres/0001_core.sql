-- The core of Gristmill: batches, requests, live rows, results, attempts, workers, and what later parts build on.
--
-- Bodies are `json`, which keeps the exact text (`jsonb` refuses \u0000, which model output contains); they are never
-- opened in SQL. Money is NUMERIC(20,12) US dollars. Everything partitioned is partitioned by the UTC day that the id
-- carries, so that the day is always known from the key.

CREATE SCHEMA IF NOT EXISTS gristmill;

CREATE TABLE gristmill.batch (
    batch_id            uuid        PRIMARY KEY,
    name                text        NOT NULL UNIQUE,
    project             text,
    priority            text        NOT NULL,
    simulated           boolean     NOT NULL DEFAULT false,
    metadata            json,
    tags                json,
    budget_usd          numeric(20, 12),
    -- the days of its jobs' ids; more than one only where messages were adopted into it
    day_from            date        NOT NULL,
    day_to              date        NOT NULL,
    -- submission: jobs recorded (the next ordinal), jobs confirmed by the broker, and the total once it is sealed
    recorded            bigint      NOT NULL DEFAULT 0,
    published_through   bigint      NOT NULL DEFAULT 0,
    total               bigint,
    -- jobs that came as messages and were never recorded by a producer; they have no ordinal
    adopted             bigint      NOT NULL DEFAULT 0,
    producer            uuid,
    producer_lease      timestamptz,
    -- counters, moved in the transaction that writes the rows
    succeeded           bigint      NOT NULL DEFAULT 0,
    failed              bigint      NOT NULL DEFAULT 0,
    cancelled           bigint      NOT NULL DEFAULT 0,
    expired             bigint      NOT NULL DEFAULT 0,
    calls               bigint      NOT NULL DEFAULT 0,
    input_tokens        bigint      NOT NULL DEFAULT 0,
    output_tokens       bigint      NOT NULL DEFAULT 0,
    cost_usd            numeric(20, 12) NOT NULL DEFAULT 0,
    saved_usd           numeric(20, 12) NOT NULL DEFAULT 0,
    created_at          timestamptz NOT NULL,
    finished_at         timestamptz,
    cancel_requested_at timestamptz,
    -- how far the keeper has closed a cancelled batch; all ones once every job was looked at
    closed_through      uuid
) WITH (fillfactor = 50); -- counters are updated in place, without touching an index

CREATE INDEX batch_open ON gristmill.batch (batch_id) WHERE finished_at IS NULL;

-- Requests as submitted; append-only.
CREATE TABLE gristmill.job (
    batch_id      uuid        NOT NULL,
    job_id        uuid        NOT NULL,
    part_day      date        NOT NULL,
    custom_id     text        NOT NULL,
    endpoint      text        NOT NULL,
    model_group   text        NOT NULL,
    priority      text        NOT NULL,
    lane          smallint    NOT NULL,
    body          json        NOT NULL,
    identity      uuid        NOT NULL,
    deadline      timestamptz,
    not_before    timestamptz,
    sample        integer     NOT NULL DEFAULT 0,
    num_retries   smallint,
    tags          json,
    metadata      json,
    cache_policy  text,
    cache_key     bytea,
    service_tier  text,
    est_tokens    integer,
    created_at    timestamptz NOT NULL DEFAULT now(),
    -- the batch first: walking a batch is walking its key, and ids of a batch are in order of ordinal
    PRIMARY KEY (batch_id, job_id, part_day)
) PARTITION BY RANGE (part_day);

CREATE INDEX job_deadline ON gristmill.job (deadline, job_id) WHERE deadline IS NOT NULL;

-- What holds a job between its message and its result. Small and hot.
CREATE TABLE gristmill.live (
    job_id       uuid        PRIMARY KEY,
    batch_id     uuid        NOT NULL,
    model_group  text        NOT NULL,
    priority     text        NOT NULL,
    lane         smallint    NOT NULL,
    run          integer     NOT NULL DEFAULT 1,
    -- 0 held by `owner`, 1 waiting until `wake_at`, 2 queued: a message is out, nobody holds it
    state        smallint    NOT NULL,
    owner        uuid,
    version      bigint      NOT NULL DEFAULT 0,
    calls        integer     NOT NULL DEFAULT 0,
    attempts     integer     NOT NULL DEFAULT 0,
    faults       integer     NOT NULL DEFAULT 0,
    -- owners that died on it: the first that held it, and later ones only while they called it, as `called_by` says
    deaths       integer     NOT NULL DEFAULT 0,
    called_by    uuid,
    wake_at      timestamptz,
    reason       text,
    earlier      json,
    queued_at    timestamptz NOT NULL DEFAULT now(),
    -- cost reserved against budgets, and the permits held, for later limits
    reserved_usd numeric(20, 12)
) WITH (
    fillfactor = 70,
    -- thresholds in rows, not in shares: the table swings between empty and a million rows
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX live_wake ON gristmill.live (wake_at) WHERE state = 1;

-- The terminal row of each run; append-only.
CREATE TABLE gristmill.result (
    job_id              uuid        NOT NULL,
    run                 integer     NOT NULL,
    part_day            date        NOT NULL,
    batch_id            uuid        NOT NULL,
    -- the cursor: a reader takes rows of transactions below the snapshot's xmin, in this order, and so misses none
    xid                 xid8        NOT NULL DEFAULT pg_current_xact_id(),
    seq                 bigint      GENERATED ALWAYS AS IDENTITY,
    status              text        NOT NULL,
    model_group         text        NOT NULL,
    provider            text,
    deployment          text,
    served_model        text,
    finish_reason       text,
    output_text         text,
    response            json,
    input_tokens        integer,
    cached_input_tokens integer,
    cache_write_tokens  integer,
    output_tokens       integer,
    reasoning_tokens    integer,
    cost_usd            numeric(20, 12),
    saved_usd           numeric(20, 12),
    cached              boolean     NOT NULL DEFAULT false,
    attempts            integer     NOT NULL,
    queued_at           timestamptz,
    started_at          timestamptz,
    finished_at         timestamptz NOT NULL,
    ttft_ms             integer,
    latency_ms          integer,
    error_class         text,
    error_status        integer,
    error_code          text,
    error_message       text,
    error               json,
    request_id          text,
    PRIMARY KEY (job_id, run, part_day)
) PARTITION BY RANGE (part_day);

CREATE INDEX result_cursor ON gristmill.result (batch_id, xid, seq);

-- What people ask about and run again; nothing is added to it while jobs succeed.
CREATE INDEX result_unsuccessful ON gristmill.result (batch_id, xid, seq) WHERE status <> 'succeeded';

-- One row per call; append-only.
CREATE TABLE gristmill.attempt (
    job_id              uuid        NOT NULL,
    run                 integer     NOT NULL,
    attempt             integer     NOT NULL,
    -- two owners may both have called, when the first lost its lease while it called
    owner               uuid        NOT NULL,
    part_day            date        NOT NULL,
    batch_id            uuid        NOT NULL,
    model_group         text        NOT NULL,
    provider            text        NOT NULL,
    deployment          text        NOT NULL,
    model               text        NOT NULL,
    served_model        text,
    service_tier        text,
    started_at          timestamptz NOT NULL,
    ttft_ms             integer,
    latency_ms          integer     NOT NULL,
    http_status         integer,
    counted             boolean     NOT NULL,
    input_tokens        integer,
    cached_input_tokens integer,
    cache_write_tokens  integer,
    output_tokens       integer,
    reasoning_tokens    integer,
    cost_usd            numeric(20, 12),
    cost_basis          text        NOT NULL,
    price_ref           text,
    request_id          text,
    error_class         text,
    error               json,
    PRIMARY KEY (job_id, run, attempt, owner, part_day)
) PARTITION BY RANGE (part_day);

-- Rows of a day without a partition land here; nothing is ever refused for its date.
CREATE TABLE gristmill.job_other     PARTITION OF gristmill.job     DEFAULT;
CREATE TABLE gristmill.result_other  PARTITION OF gristmill.result  DEFAULT;
CREATE TABLE gristmill.attempt_other PARTITION OF gristmill.attempt DEFAULT;

-- Makes the partitions of a day. SECURITY DEFINER: workers need no right to create tables.
CREATE FUNCTION gristmill.ensure_partition(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent text;
    part   text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['job', 'result', 'attempt'] LOOP
        part := parent || '_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('gristmill.' || part) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE gristmill.%I PARTITION OF gristmill.%I FOR VALUES FROM (%L) TO (%L) '
                    || 'WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)',
                    part, parent, day, day + 1);
            EXCEPTION
                -- somebody else made it, or the default partition holds rows of that day already and keeps them
                WHEN duplicate_table OR check_violation THEN NULL;
            END;
        END IF;
    END LOOP;
END $$;

SELECT gristmill.ensure_partition(day::date)
FROM generate_series(current_date - 1, current_date + 7, interval '1 day') AS day;

CREATE TABLE gristmill.worker (
    owner       uuid        PRIMARY KEY,
    host        text        NOT NULL,
    pid         integer     NOT NULL,
    version     text        NOT NULL,
    groups      text[]      NOT NULL,
    concurrency integer     NOT NULL,
    in_flight   integer     NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL DEFAULT now(),
    renewed_at  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL,
    -- set by the keeper, never cleared: a dead owner stays dead; `left_at` is set by the owner itself
    dead_at     timestamptz,
    left_at     timestamptz,
    -- nothing is held by it any more, and nothing in flight can be
    buried_at   timestamptz
);

CREATE TABLE gristmill.deployment (
    owner       uuid        NOT NULL REFERENCES gristmill.worker ON DELETE CASCADE,
    deployment  text        NOT NULL,
    model_group text        NOT NULL,
    paused      text        NOT NULL,
    error_class text,
    since       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, deployment)
);

CREATE TABLE gristmill.keeper (
    one             boolean     PRIMARY KEY DEFAULT true CHECK (one),
    owner           uuid,
    lease_until     timestamptz NOT NULL DEFAULT '-infinity',
    -- every deadline up to here has been looked at
    expired_through timestamptz NOT NULL DEFAULT '-infinity',
    expired_job     uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
INSERT INTO gristmill.keeper DEFAULT VALUES;

CREATE TABLE gristmill.dead_letter (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    queue       text        NOT NULL,
    reason      text        NOT NULL,
    payload     bytea       NOT NULL,
    jobs        uuid[]      NOT NULL
);

-- Names that workers serve; submit checks against them.
CREATE TABLE gristmill.model_group (
    name    text        PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);

-- One clock per deployment and dimension, leased in intervals.
CREATE TABLE gristmill.quota (
    resource        text        NOT NULL,
    dimension       text        NOT NULL,
    per_minute      bigint,
    learnt          boolean     NOT NULL DEFAULT false,
    -- the time at which the next unit may start, by the generic cell rate algorithm
    theoretical_at  timestamptz NOT NULL DEFAULT now(),
    paused_until    timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (resource, dimension)
);

CREATE TABLE gristmill.budget (
    scope        text            NOT NULL,
    name         text            NOT NULL,
    period       text            NOT NULL,
    period_start timestamptz     NOT NULL,
    limit_usd    numeric(20, 12) NOT NULL,
    soft_usd     numeric(20, 12),
    spent_usd    numeric(20, 12) NOT NULL DEFAULT 0,
    leased_usd   numeric(20, 12) NOT NULL DEFAULT 0,
    alerted      smallint        NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, name, period, period_start)
);

CREATE TABLE gristmill.response_cache (
    cache_key  bytea       NOT NULL,
    project    text        NOT NULL DEFAULT '',
    job_id     uuid,
    -- null while a call for this key is in flight
    response   json,
    usage      json,
    cost_usd   numeric(20, 12),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    PRIMARY KEY (cache_key, project)
);

-- Statistics rolled up by the hour.
CREATE TABLE gristmill.hourly (
    hour          timestamptz NOT NULL,
    batch_id      uuid        NOT NULL,
    model_group   text        NOT NULL,
    provider      text        NOT NULL,
    deployment    text        NOT NULL,
    error_class   text        NOT NULL DEFAULT '',
    calls         bigint      NOT NULL DEFAULT 0,
    input_tokens  bigint      NOT NULL DEFAULT 0,
    output_tokens bigint      NOT NULL DEFAULT 0,
    cost_usd      numeric(20, 12) NOT NULL DEFAULT 0,
    latency_ms    bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, batch_id, model_group, provider, deployment, error_class)
);

-- The public face: documented in docs/tables.md, kept stable.

CREATE VIEW gristmill.results AS
SELECT r.job_id, r.run, j.custom_id, r.batch_id, b.name AS batch, b.project, j.tags, j.metadata, r.status,
       r.model_group AS model, r.provider, r.deployment, r.served_model, r.finish_reason, r.output_text, r.response,
       r.input_tokens, r.cached_input_tokens, r.output_tokens, r.reasoning_tokens, r.cost_usd, r.cached, r.attempts,
       r.queued_at, r.started_at, r.finished_at,
       (extract(epoch FROM r.started_at - r.queued_at) * 1000)::bigint AS queue_ms,
       r.ttft_ms, r.latency_ms, r.error_class, r.error_status, r.error_code, r.error_message, r.error, r.request_id
FROM gristmill.result r
JOIN gristmill.batch b USING (batch_id)
LEFT JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
WHERE NOT EXISTS (SELECT 1 FROM gristmill.result n
                  WHERE n.job_id = r.job_id AND n.part_day = r.part_day AND n.run > r.run);
COMMENT ON VIEW gristmill.results IS 'The latest run of each job that has ended.';

CREATE VIEW gristmill.attempts AS
SELECT a.job_id, a.run, a.attempt, j.custom_id, a.batch_id, b.name AS batch, b.project, j.tags, a.model_group AS model,
       a.provider, a.deployment, a.model AS provider_model, a.served_model, a.service_tier, a.started_at, a.ttft_ms,
       a.latency_ms, a.http_status, a.counted, a.input_tokens, a.cached_input_tokens, a.cache_write_tokens,
       a.output_tokens, a.reasoning_tokens, a.cost_usd, a.cost_basis, a.price_ref, a.request_id, a.error_class, a.error
FROM gristmill.attempt a
JOIN gristmill.batch b USING (batch_id)
LEFT JOIN gristmill.job j ON j.batch_id = a.batch_id AND j.job_id = a.job_id AND j.part_day = a.part_day;
COMMENT ON VIEW gristmill.attempts IS 'Every call to a provider.';

CREATE VIEW gristmill.batches AS
SELECT batch_id, name, project, priority, simulated, metadata, tags,
       CASE WHEN finished_at IS NOT NULL AND cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN finished_at IS NOT NULL THEN 'finished'
            WHEN cancel_requested_at IS NOT NULL THEN 'cancelling'
            WHEN total IS NOT NULL THEN 'running'
            WHEN producer_lease > now() THEN 'submitting'
            ELSE 'interrupted' END AS state,
       coalesce(total, recorded + adopted) AS total, succeeded, failed, cancelled, expired, calls, input_tokens, output_tokens,
       cost_usd, created_at, finished_at
FROM gristmill.batch;
COMMENT ON VIEW gristmill.batches IS 'Batches with their counters.';

-- Reads a batch's results in the order in which they were committed: pass the cursor of the last row read, '' at first.
-- A reader that goes on until it has read everything sees every row exactly once; later runs of a job come as new rows.
CREATE FUNCTION gristmill.results_after(batch uuid, after text, n integer)
RETURNS TABLE (cursor text, job_id uuid, run integer, custom_id text, status text, model text, finish_reason text,
               output_text text, response json, input_tokens integer, output_tokens integer, cost_usd numeric,
               attempts integer, finished_at timestamptz, error_class text, error_message text, error json)
LANGUAGE sql STABLE AS $$
    SELECT r.xid::text || '-' || r.seq, r.job_id, r.run, j.custom_id, r.status, r.model_group, r.finish_reason,
           r.output_text, r.response, r.input_tokens, r.output_tokens, r.cost_usd, r.attempts, r.finished_at,
           r.error_class, r.error_message, r.error
    FROM (SELECT * FROM gristmill.result q
          WHERE q.batch_id = results_after.batch
            AND (q.xid, q.seq) > (coalesce(nullif(split_part(after, '-', 1), ''), '0')::xid8,
                                  coalesce(nullif(split_part(after, '-', 2), ''), '0')::bigint)
            AND q.xid < pg_snapshot_xmin(pg_current_snapshot())
          ORDER BY q.xid, q.seq LIMIT n) r
    LEFT JOIN gristmill.job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id AND j.part_day = r.part_day
    ORDER BY r.xid, r.seq
$$;
