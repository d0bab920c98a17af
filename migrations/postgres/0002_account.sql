-- Limits of accounts at providers: one row each, its clocks, leases and what was learnt in one value, which is read and written
-- under the row's lock. Nothing was written to the table that it takes the place of.
DROP TABLE gristmill.quota;

CREATE TABLE gristmill.account (
    account    text        PRIMARY KEY,
    -- JSON of `common::quota::Account`, as text: it is never opened in SQL
    state      text        NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
-- A row is written a few times a second: room on its page keeps its index from growing.
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);
