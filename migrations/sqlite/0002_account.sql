-- Limits of accounts at providers: one row each, its clocks, leases and what was learnt in one value, which is read and written
-- in one transaction. Nothing was written to the table that it takes the place of.
DROP TABLE quota;

CREATE TABLE account (
    account    TEXT    NOT NULL PRIMARY KEY,
    -- JSON of `common::quota::Account`
    state      TEXT    NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;
