--
-- retention.metrics: names and values, totals that never fall, what a monitoring role
-- sees.  The runs here are rows written by hand, but for the last; test/t has real ones.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
CREATE SCHEMA mt;
CREATE FUNCTION mt.t(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
CREATE FUNCTION mt.policy(n integer, days integer, keep integer, enabled boolean DEFAULT true) RETURNS void LANGUAGE sql AS $$
    INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, is_enabled, created_at, updated_at)
    VALUES (mt.t(n), days, keep, enabled, now() - interval '720 hours', now() - interval '720 hours')
$$;
CREATE SEQUENCE mt.ids;
CREATE FUNCTION mt.fill(n integer, rows integer, newest interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO executions SELECT nextval('mt.ids'), mt.t(n), now() - newest - i * interval '1 hour', now() FROM generate_series(0, rows - 1) i
$$;
-- a run that started so long ago, took an hour, and did something of everything
CREATE FUNCTION mt.run(ago interval, status text DEFAULT 'succeeded', deleted bigint DEFAULT 0, stop text DEFAULT 'done', failed integer DEFAULT 0,
    tenant uuid DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid, stop_reason, rows_deleted, rows_estimated, only_tenant,
        tenants_failed, batches, rows_skipped_locked, rows_skipped_protected, wal_bytes, waited_ms)
    VALUES (now() - ago, CASE status WHEN 'running' THEN NULL ELSE now() - ago + interval '1 hour' END, status, 'me', 1, stop, deleted, deleted,
        tenant, failed, 2, 3, 4, 1000, 500)
    RETURNING id
$$;
-- ages in whole hours, instants as ages; no names of tenants
CREATE VIEW mt.metrics AS
SELECT name, replace(labels::text, 'aaaaaaaa-0000-4000-8000-0000000000', '') AS labels,
    CASE WHEN name ~ '_timestamp_seconds$' AND value > 0 THEN round((extract(epoch FROM now()) - value) / 3600) || ' h ago'
         WHEN name ~ '_seconds$' AND value >= 3600 THEN round(value / 3600) || ' h'
         ELSE value::text END AS value, type, help
FROM retention.metrics;
RESET client_min_messages;

--
-- Nothing at all: every metric is there but those of tenants
--
SELECT name, labels, value, type, help FROM mt.metrics ORDER BY name COLLATE "C", labels;
SELECT count(*) FROM retention.metrics WHERE name !~ '^retention_[a-z_]+$' OR help !~ '^[A-Z].*[^.]$' OR type NOT IN ('counter', 'gauge')
    OR (type = 'counter') <> (name ~ '_total$') OR value IS NULL OR labels IS NULL
    OR EXISTS (SELECT FROM jsonb_each(labels) AS l WHERE jsonb_typeof(l.value) <> 'string');
SELECT name, labels FROM retention.metrics GROUP BY name, labels HAVING count(*) > 1;
SELECT name FROM retention.metrics GROUP BY name HAVING count(DISTINCT help) > 1 OR count(DISTINCT type) > 1;

--
-- Policies, what is overdue, who is late
--
SELECT count(mt.policy(n, 30, 10, enabled => n <> 9)) FROM generate_series(1, 9) n;
-- 1 to 7 are late, 8 is kept by the minimum, 9 is disabled
SELECT count(mt.fill(n, CASE n WHEN 8 THEN 10 ELSE 20 END, interval '35 days' + n * interval '1 day')) FROM generate_series(1, 9) n;
CREATE VIEW mt.due AS SELECT name, labels, value FROM mt.metrics WHERE name ~ 'policies|overdue|patience';
SELECT * FROM mt.due ORDER BY name COLLATE "C", labels;
-- the same as what is said of one tenant, with any limit down to the first that is in time
SELECT count(*) FILTER (WHERE d.oldest_due = s.oldest_due) AS same, count(*) AS of
FROM retention.due_tenants() d FULL JOIN (SELECT * FROM retention.status WHERE is_enabled AND oldest_due IS NOT NULL) s USING (tenant_id);
BEGIN;
SELECT count(mt.policy(n, 20 + n % 5, n % 7)) FROM generate_series(10, 80) n;
INSERT INTO executions      -- some never started, some of equal times, some of unknown age
SELECT nextval('mt.ids'), mt.t(n), CASE WHEN i % 3 > 0 THEN t END, CASE WHEN i % 5 > 0 THEN t END
FROM generate_series(10, 80) n, generate_series(1, n % 11) i, LATERAL (SELECT now() - interval '24 hours' * (18 + (n * 7 + i / 2 * 3) % 13)) x (t);
SELECT count(*) FILTER (WHERE d.oldest_due = s.oldest_due) AS same, count(*) AS of
FROM retention.due_tenants() d FULL JOIN (SELECT * FROM retention.status WHERE is_enabled AND oldest_due IS NOT NULL) s USING (tenant_id);
ROLLBACK;
SELECT late, (SELECT count(*) FROM retention.due_tenants(late)) FROM unnest(ARRAY['1 day', '10 days', '11 days', '100 days']::interval[]) late;
-- a policy that was changed just now is not late
BEGIN;
UPDATE execution_retention_policies SET retention_days = 29 WHERE tenant_id <> mt.t(3);
SELECT * FROM mt.due WHERE name ~ 'overdue_tenant' ORDER BY name COLLATE "C", labels;
ROLLBACK;
-- nor is anybody after a run that dealt with all
BEGIN;
SELECT mt.run('1 hour') > 0 AS run;
SELECT * FROM mt.due ORDER BY name COLLATE "C", labels;
ROLLBACK;
-- rows of -infinity are due and of no age
BEGIN;
INSERT INTO executions VALUES (0, mt.t(7), '-infinity');
SELECT * FROM mt.due WHERE name ~ 'overdue_age' ORDER BY name COLLATE "C", labels;
ROLLBACK;

--
-- Runs: all statuses, tenants alone, errors; a run whose session is gone
--
SELECT mt.run('5 days', deleted => 100), mt.run('4 days', 'partial', 20, 'max_runtime', failed => 2), mt.run('3 days', 'failed', 3, 'failed'),
    mt.run('2 days', 'cancelled', 4, 'cancelled'), mt.run('30 hours', 'interrupted', 5), mt.run('26 hours', deleted => 1000, tenant => mt.t(1)) \gset n
SELECT mt.run('25 hours', 'running', 10000) AS n \gset
CREATE VIEW mt.runs AS SELECT name, labels, value FROM mt.metrics WHERE name ~ 'run|success|_total|failing|failed';
SELECT * FROM mt.runs ORDER BY name COLLATE "C", labels;
-- tenants with errors: since they were last dealt with
INSERT INTO retention.run_tenant (run_id, tenant_id, sqlstate, message, finished_at)
SELECT r.id, mt.t(i), '5501' || i, 'because', now() FROM retention.run_history r, generate_series(1, 7) i WHERE i <= r.id;
SELECT * FROM mt.runs WHERE name ~ 'failing' ORDER BY name COLLATE "C", labels;
SELECT mt.run('1 hour', 'partial', stop => 'max_runtime') AS n \gset
INSERT INTO retention.run_tenant (run_id, tenant_id, rows_deleted, finished_at) VALUES (:n, mt.t(4), 1, now());
SELECT * FROM mt.runs WHERE name ~ 'failing' ORDER BY name COLLATE "C", labels;

--
-- Totals never fall: runs that leave the history leave their sums
--
CREATE TABLE mt.before AS SELECT name, labels, value FROM retention.metrics WHERE type = 'counter';
CREATE TABLE mt.success AS SELECT value FROM retention.metrics WHERE name = 'retention_last_success_timestamp_seconds';
SET retention.history_days = 1;
SET client_min_messages = warning;
SELECT min(value) > 0 AS all_set FROM mt.before WHERE name <> 'retention_run_wait_seconds_total';
CALL retention.run(tenant => mt.t(8));
SELECT count(*) AS left_over FROM retention.run_history WHERE started_at < now() - interval '24 hours';
SELECT name, labels, m.value - b.value AS more FROM retention.metrics m FULL JOIN mt.before b USING (name, labels)
WHERE m.type IS DISTINCT FROM 'gauge' AND m.value IS DISTINCT FROM b.value AND name !~ 'wal_bytes|duration|wait' ORDER BY name COLLATE "C", labels;
SELECT m.value >= b.value AS grew FROM retention.metrics m JOIN mt.before b USING (name, labels) WHERE name ~ 'wal_bytes|duration|wait';
SELECT m.value = s.value AS kept FROM retention.metrics m, mt.success s WHERE name = 'retention_last_success_timestamp_seconds';
-- and again, onto what is there
UPDATE retention.run_history SET started_at = now() - interval '10 days', rows_deleted = 50 WHERE status = 'succeeded';
SELECT value AS total FROM retention.metrics WHERE name = 'retention_deleted_rows_total' \gset
CALL retention.run(tenant => mt.t(8));
SELECT value - :total AS more FROM retention.metrics WHERE name = 'retention_deleted_rows_total';
SELECT status, runs, batches FROM retention.run_pruned ORDER BY status;
RESET retention.history_days;
RESET client_min_messages;

--
-- Who may see them
--
CREATE ROLE regress_retention_exporter IN ROLE pg_monitor;
SET ROLE regress_retention_exporter;
SELECT name, value FROM retention.metrics WHERE name IN ('retention_overdue_known', 'retention_overdue_tenants', 'retention_deleted_rows_total') ORDER BY 1;
RESET ROLE;
GRANT SELECT (tenant_id, started_at, created_at) ON executions TO regress_retention_exporter;
SET ROLE regress_retention_exporter;
SELECT name, value > 0 AS value FROM retention.metrics WHERE name IN ('retention_overdue_known', 'retention_overdue_tenants', 'retention_deleted_rows_total') ORDER BY 1;
RESET ROLE;
DROP OWNED BY regress_retention_exporter;
DROP ROLE regress_retention_exporter;
CREATE ROLE regress_retention_nobody;
SET ROLE regress_retention_nobody;
\set VERBOSITY sqlstate
SELECT count(*) FROM retention.metrics;
\set VERBOSITY default
RESET ROLE;
DROP ROLE regress_retention_nobody;

--
-- When nobody can say what is due, the rest is there
--
BEGIN;
DELETE FROM retention.target;
SELECT name, labels, value FROM mt.metrics WHERE name ~ 'overdue|info' ORDER BY name COLLATE "C", labels;
ROLLBACK;
BEGIN;
SET LOCAL retention.enabled = off;
SELECT value FROM retention.metrics WHERE name = 'retention_enabled';
ROLLBACK;

-- A query that names what it wants does without the rest: without a look at executions
CREATE FUNCTION mt.looks(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT * FROM retention.metrics WHERE ' || condition LOOP
        IF line ~ 'overdue_totals' THEN
            RETURN line !~ 'never executed';
        END IF;
    END LOOP;
    RETURN false;
END $$;
SELECT condition, mt.looks(condition) FROM unnest(ARRAY['true', $$name = 'retention_overdue_tenants'$$, $$name = 'retention_runs_total'$$,
    $$name IN ('retention_deleted_rows_total', 'retention_failing_tenant_runs')$$]) condition;

SET client_min_messages = warning;
DROP SCHEMA mt CASCADE;
DROP EXTENSION retention;
DROP TABLE executions;
