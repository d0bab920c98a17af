-- The core of Gristmill: batches, requests, live rows, results, attempts, workers, and what later parts build on.
--
-- The same tables as on Postgres. Times are INTEGER milliseconds of Unix time, ids BLOBs of 16 bytes, money INTEGER
-- picodollars, days INTEGER days of Unix time; nothing is partitioned. JSON stands in TEXT columns as it was given and is
-- never opened in SQL. The views show ids, times and money in the form that people and other programs read.

CREATE TABLE batch (
    batch_id            BLOB    PRIMARY KEY,
    name                TEXT    NOT NULL UNIQUE,
    project             TEXT,
    priority            TEXT    NOT NULL,
    simulated           INTEGER NOT NULL DEFAULT 0,
    metadata            TEXT,
    tags                TEXT,
    budget_pico_usd     INTEGER,
    day_from            INTEGER NOT NULL,
    day_to              INTEGER NOT NULL,
    -- submission: jobs recorded (the next ordinal), jobs confirmed by the broker, and the total once it is sealed
    recorded            INTEGER NOT NULL DEFAULT 0,
    published_through   INTEGER NOT NULL DEFAULT 0,
    total               INTEGER,
    -- jobs that came as messages and were never recorded by a producer; they have no ordinal
    adopted             INTEGER NOT NULL DEFAULT 0,
    producer            BLOB,
    producer_lease      INTEGER,
    -- counters, moved in the transaction that writes the rows
    succeeded           INTEGER NOT NULL DEFAULT 0,
    failed              INTEGER NOT NULL DEFAULT 0,
    cancelled           INTEGER NOT NULL DEFAULT 0,
    expired             INTEGER NOT NULL DEFAULT 0,
    calls               INTEGER NOT NULL DEFAULT 0,
    input_tokens        INTEGER NOT NULL DEFAULT 0,
    output_tokens       INTEGER NOT NULL DEFAULT 0,
    cost_pico_usd       INTEGER NOT NULL DEFAULT 0,
    saved_pico_usd      INTEGER NOT NULL DEFAULT 0,
    created_at          INTEGER NOT NULL,
    finished_at         INTEGER,
    cancel_requested_at INTEGER,
    -- how far the keeper has closed a cancelled batch; all ones once every job was looked at
    closed_through      BLOB
);

CREATE INDEX batch_open ON batch (batch_id) WHERE finished_at IS NULL;

-- Requests as submitted; append-only.
CREATE TABLE job (
    batch_id     BLOB    NOT NULL,
    job_id       BLOB    NOT NULL,
    part_day     INTEGER NOT NULL,
    custom_id    TEXT    NOT NULL,
    endpoint     TEXT    NOT NULL,
    model_group  TEXT    NOT NULL,
    priority     TEXT    NOT NULL,
    lane         INTEGER NOT NULL,
    identity     BLOB    NOT NULL,
    deadline     INTEGER,
    not_before   INTEGER,
    sample       INTEGER NOT NULL DEFAULT 0,
    num_retries  INTEGER,
    tags         TEXT,
    metadata     TEXT,
    cache_policy TEXT,
    cache_key    BLOB,
    service_tier TEXT,
    est_tokens   INTEGER,
    created_at   INTEGER NOT NULL,
    -- last, so that reading the other columns touches no overflow page of a large one
    body         TEXT    NOT NULL,
    -- the batch first: walking a batch is walking its key, and ids of a batch are in order of ordinal
    PRIMARY KEY (batch_id, job_id)
);

CREATE INDEX job_deadline ON job (deadline, job_id) WHERE deadline IS NOT NULL;

-- What holds a job between its message and its result. Small and hot.
CREATE TABLE live (
    job_id            BLOB    PRIMARY KEY,
    batch_id          BLOB    NOT NULL,
    model_group       TEXT    NOT NULL,
    priority          TEXT    NOT NULL,
    lane              INTEGER NOT NULL,
    run               INTEGER NOT NULL DEFAULT 1,
    -- 0 held by `owner`, 1 waiting until `wake_at`, 2 queued: a message is out, nobody holds it
    state             INTEGER NOT NULL,
    owner             BLOB,
    version           INTEGER NOT NULL DEFAULT 0,
    calls             INTEGER NOT NULL DEFAULT 0,
    attempts          INTEGER NOT NULL DEFAULT 0,
    faults            INTEGER NOT NULL DEFAULT 0,
    -- owners that died on it: the first that held it, and later ones only while they called it, as `called_by` says
    deaths            INTEGER NOT NULL DEFAULT 0,
    called_by         BLOB,
    wake_at           INTEGER,
    reason            TEXT,
    earlier           TEXT,
    queued_at         INTEGER NOT NULL,
    -- cost reserved against budgets, for later limits
    reserved_pico_usd INTEGER
) WITHOUT ROWID;

CREATE INDEX live_wake ON live (wake_at) WHERE state = 1;

-- The terminal row of each run; append-only.
CREATE TABLE result (
    -- the cursor: one writer at a time, so numbers are committed in order; never used again, also after a prune
    seq                 INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id              BLOB    NOT NULL,
    run                 INTEGER NOT NULL,
    part_day            INTEGER NOT NULL,
    batch_id            BLOB    NOT NULL,
    status              TEXT    NOT NULL,
    model_group         TEXT    NOT NULL,
    provider            TEXT,
    deployment          TEXT,
    served_model        TEXT,
    finish_reason       TEXT,
    input_tokens        INTEGER,
    cached_input_tokens INTEGER,
    cache_write_tokens  INTEGER,
    output_tokens       INTEGER,
    reasoning_tokens    INTEGER,
    cost_pico_usd       INTEGER,
    saved_pico_usd      INTEGER,
    cached              INTEGER NOT NULL DEFAULT 0,
    attempts            INTEGER NOT NULL,
    queued_at           INTEGER,
    started_at          INTEGER,
    finished_at         INTEGER NOT NULL,
    ttft_ms             INTEGER,
    latency_ms          INTEGER,
    error_class         TEXT,
    error_status        INTEGER,
    error_code          TEXT,
    error_message       TEXT,
    request_id          TEXT,
    error               TEXT,
    output_text         TEXT,
    response            TEXT,
    UNIQUE (job_id, run)
);

-- The row number follows the batch in the index.
CREATE INDEX result_cursor ON result (batch_id);

-- What people ask about and run again; nothing is added to it while jobs succeed.
CREATE INDEX result_unsuccessful ON result (batch_id) WHERE status <> 'succeeded';

-- One row per call; append-only.
CREATE TABLE attempt (
    job_id              BLOB    NOT NULL,
    run                 INTEGER NOT NULL,
    attempt             INTEGER NOT NULL,
    -- two owners may both have called, when the first lost its lease while it called
    owner               BLOB    NOT NULL,
    part_day            INTEGER NOT NULL,
    batch_id            BLOB    NOT NULL,
    model_group         TEXT    NOT NULL,
    provider            TEXT    NOT NULL,
    deployment          TEXT    NOT NULL,
    model               TEXT    NOT NULL,
    served_model        TEXT,
    service_tier        TEXT,
    started_at          INTEGER NOT NULL,
    ttft_ms             INTEGER,
    latency_ms          INTEGER NOT NULL,
    http_status         INTEGER,
    counted             INTEGER NOT NULL,
    input_tokens        INTEGER,
    cached_input_tokens INTEGER,
    cache_write_tokens  INTEGER,
    output_tokens       INTEGER,
    reasoning_tokens    INTEGER,
    cost_pico_usd       INTEGER,
    cost_basis          TEXT    NOT NULL,
    price_ref           TEXT,
    request_id          TEXT,
    error_class         TEXT,
    error               TEXT,
    PRIMARY KEY (job_id, run, attempt, owner)
) WITHOUT ROWID;

CREATE TABLE worker (
    owner       BLOB    PRIMARY KEY,
    host        TEXT    NOT NULL,
    pid         INTEGER NOT NULL,
    version     TEXT    NOT NULL,
    -- a JSON array of names
    groups      TEXT    NOT NULL,
    concurrency INTEGER NOT NULL,
    in_flight   INTEGER NOT NULL DEFAULT 0,
    started_at  INTEGER NOT NULL,
    renewed_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    -- set by the keeper, never cleared: a dead owner stays dead; `left_at` is set by the owner itself
    dead_at     INTEGER,
    left_at     INTEGER,
    -- nothing is held by it any more
    buried_at   INTEGER
);

CREATE TABLE deployment (
    owner       BLOB    NOT NULL REFERENCES worker ON DELETE CASCADE,
    deployment  TEXT    NOT NULL,
    model_group TEXT    NOT NULL,
    paused      TEXT    NOT NULL,
    error_class TEXT,
    since       INTEGER NOT NULL,
    PRIMARY KEY (owner, deployment)
) WITHOUT ROWID;

CREATE TABLE keeper (
    one             INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    owner           BLOB,
    lease_until     INTEGER NOT NULL DEFAULT 0,
    -- every deadline up to here has been looked at
    expired_through INTEGER NOT NULL DEFAULT 0,
    expired_job     BLOB    NOT NULL DEFAULT x'00000000000000000000000000000000'
);
INSERT INTO keeper DEFAULT VALUES;

CREATE TABLE dead_letter (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    received_at INTEGER NOT NULL,
    queue       TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    payload     BLOB    NOT NULL,
    -- a JSON array of ids
    jobs        TEXT    NOT NULL
);

-- Names that workers serve; submit checks against them.
CREATE TABLE model_group (
    name    TEXT    PRIMARY KEY,
    seen_at INTEGER NOT NULL
) WITHOUT ROWID;

-- One clock per deployment and dimension, leased in intervals.
CREATE TABLE quota (
    resource       TEXT    NOT NULL,
    dimension      TEXT    NOT NULL,
    per_minute     INTEGER,
    learnt         INTEGER NOT NULL DEFAULT 0,
    -- the time at which the next unit may start, by the generic cell rate algorithm; in microseconds
    theoretical_at INTEGER NOT NULL,
    paused_until   INTEGER,
    updated_at     INTEGER NOT NULL,
    PRIMARY KEY (resource, dimension)
) WITHOUT ROWID;

CREATE TABLE budget (
    scope           TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    period          TEXT    NOT NULL,
    period_start    INTEGER NOT NULL,
    limit_pico_usd  INTEGER NOT NULL,
    soft_pico_usd   INTEGER,
    spent_pico_usd  INTEGER NOT NULL DEFAULT 0,
    leased_pico_usd INTEGER NOT NULL DEFAULT 0,
    alerted         INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (scope, name, period, period_start)
) WITHOUT ROWID;

CREATE TABLE response_cache (
    cache_key     BLOB    NOT NULL,
    project       TEXT    NOT NULL DEFAULT '',
    job_id        BLOB,
    -- null while a call for this key is in flight
    response      TEXT,
    usage         TEXT,
    cost_pico_usd INTEGER,
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    PRIMARY KEY (cache_key, project)
);

-- Statistics rolled up by the hour.
CREATE TABLE hourly (
    hour          INTEGER NOT NULL,
    batch_id      BLOB    NOT NULL,
    model_group   TEXT    NOT NULL,
    provider      TEXT    NOT NULL,
    deployment    TEXT    NOT NULL,
    error_class   TEXT    NOT NULL DEFAULT '',
    calls         INTEGER NOT NULL DEFAULT 0,
    input_tokens  INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cost_pico_usd INTEGER NOT NULL DEFAULT 0,
    latency_ms    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (hour, batch_id, model_group, provider, deployment, error_class)
) WITHOUT ROWID;

-- The embedded broker: messages that are not acknowledged. A number is never used again, so that a late acknowledgement
-- cannot take away another message.
CREATE TABLE queue (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    model_group TEXT    NOT NULL,
    priority    TEXT    NOT NULL,
    lane        INTEGER NOT NULL,
    payload     BLOB    NOT NULL
);

CREATE INDEX queue_lane ON queue (model_group, priority, lane);

-- Messages put aside: `dead` for the keeper to turn into rows, `future` for a worker that can read them.
CREATE TABLE aside (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        TEXT    NOT NULL,
    routing_key TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    payload     BLOB    NOT NULL
);

CREATE INDEX aside_kind ON aside (kind);

-- The public face: documented in docs/tables.md, kept stable. Ids as text, times as ISO 8601 in UTC, money in dollars as a
-- floating-point number and, exact, in picodollars.

-- The latest run of each job that has ended.
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
       r.cost_pico_usd, r.seq
FROM result r
JOIN batch b ON b.batch_id = r.batch_id
LEFT JOIN job j ON j.batch_id = r.batch_id AND j.job_id = r.job_id
WHERE NOT EXISTS (SELECT 1 FROM result n WHERE n.job_id = r.job_id AND n.run > r.run);

-- Every call to a provider.
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
       a.error_class, a.error, a.cost_pico_usd
FROM attempt a
JOIN batch b ON b.batch_id = a.batch_id
LEFT JOIN job j ON j.batch_id = a.batch_id AND j.job_id = a.job_id;

-- Batches with their counters.
CREATE VIEW batches AS
SELECT lower(substr(hex(batch_id), 1, 8) || '-' || substr(hex(batch_id), 9, 4) || '-' || substr(hex(batch_id), 13, 4)
             || '-' || substr(hex(batch_id), 17, 4) || '-' || substr(hex(batch_id), 21)) AS batch_id,
       name, project, priority, simulated, metadata, tags,
       CASE WHEN finished_at IS NOT NULL AND cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN finished_at IS NOT NULL THEN 'finished'
            WHEN cancel_requested_at IS NOT NULL THEN 'cancelling'
            WHEN total IS NOT NULL THEN 'running'
            WHEN producer_lease > unixepoch('subsec') * 1000 THEN 'submitting'
            ELSE 'interrupted' END AS state,
       coalesce(total, recorded + adopted) AS total, succeeded, failed, cancelled, expired, calls, input_tokens,
       output_tokens, cost_pico_usd / 1e12 AS cost_usd,
       strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', finished_at / 1000.0, 'unixepoch') AS finished_at,
       cost_pico_usd
FROM batch;
