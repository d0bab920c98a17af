-- What each kind of program may do, as three roles without a login of their own.
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/grants.sql          as the user who ran `gristmill migrate`
--   CREATE ROLE worker_1 LOGIN PASSWORD '…' IN ROLE gristmill_worker;
--
-- Run it again after each migration; it may be run at any time. No role may create, alter or drop anything: only `gristmill
-- migrate` needs that. Days' partitions are made by a function that runs with the rights of its owner. Rows of requests,
-- results and attempts are only ever added. The store's conformance suite runs with these rights.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['gristmill_worker', 'gristmill_producer', 'gristmill_reader'] LOOP
        IF to_regrole(role) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA gristmill TO gristmill_worker, gristmill_producer, gristmill_reader;
-- Everybody reads: programs check the schema's version, the views and `results_after` are for all.
GRANT SELECT ON ALL TABLES IN SCHEMA gristmill TO gristmill_worker, gristmill_producer, gristmill_reader;

-- Workers and the keeper among them.
GRANT INSERT, UPDATE, DELETE ON gristmill.live, gristmill.deployment TO gristmill_worker;
GRANT INSERT, UPDATE ON gristmill.batch, gristmill.worker, gristmill.model_group, gristmill.account TO gristmill_worker;
GRANT UPDATE ON gristmill.keeper TO gristmill_worker;
GRANT INSERT ON gristmill.job, gristmill.result, gristmill.attempt, gristmill.dead_letter, gristmill.price TO gristmill_worker;
GRANT INSERT, DELETE ON gristmill.tally TO gristmill_worker;
GRANT INSERT, UPDATE, DELETE ON gristmill.response_cache TO gristmill_worker;
GRANT INSERT, UPDATE ON gristmill.budget, gristmill.alert, gristmill.lost_call TO gristmill_worker;
REVOKE EXECUTE ON FUNCTION gristmill.ensure_partition(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gristmill.ensure_partition(date) TO gristmill_worker;

-- Producers: submit, cancel, retry, repair, resume, limits.
GRANT INSERT, UPDATE ON gristmill.account TO gristmill_producer;
GRANT INSERT, UPDATE, DELETE ON gristmill.budget TO gristmill_producer;
GRANT INSERT, UPDATE ON gristmill.batch, gristmill.live TO gristmill_producer;
GRANT INSERT ON gristmill.job TO gristmill_producer;
GRANT UPDATE ON gristmill.deployment TO gristmill_producer;
