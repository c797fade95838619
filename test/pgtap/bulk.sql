--
-- 200,000 rows in batches of 1,000, and which indexes do the work
--
BEGIN;
SET client_min_messages = warning;
CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz, payload text);
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
-- tenant 1: 200,000 due, 5,000 young; tenants 2 to 51: 1,000 due each
INSERT INTO executions
SELECT i, pg_temp.t(1), CASE WHEN i % 50 > 0 THEN at END, at, repeat('x', 50)
FROM (SELECT i, timestamptz '2020-01-01' + i * interval '1 minute' AS at FROM generate_series(1, 200000) i) s;
INSERT INTO executions SELECT 200000 + i, pg_temp.t(1), at, at FROM (SELECT i, now() - i * interval '1 minute' AS at FROM generate_series(1, 5000) i) s;
INSERT INTO executions SELECT 300000 + i, pg_temp.t(2 + i % 50), at, at
FROM (SELECT i, timestamptz '2020-01-01' + i * interval '1 minute' AS at FROM generate_series(1, 50000) i) s;
CREATE EXTENSION retention;
SELECT plan(12);

CREATE TEMP TABLE scans AS SELECT pg_stat_get_xact_numscans('executions'::regclass) AS before;
CREATE TEMP TABLE result AS SELECT * FROM cleanup_old_executions(pg_temp.t(1), 90, 100, 1000);
SELECT is(deleted_count, 200000, '200,000 rows deleted') FROM result;
SELECT is((execution_summary ->> 'batches')::integer, 200, 'in 200 batches') FROM result;
SELECT is(execution_summary ->> 'stop_reason', 'done', 'done') FROM result;
SELECT is((execution_summary ->> 'oldest_deleted')::timestamptz, '2020-01-01'::timestamptz + interval '1 minute', 'from the oldest') FROM result;
SELECT is((execution_summary ->> 'newest_deleted')::timestamptz, '2020-01-01'::timestamptz + interval '200000 minutes', 'to the newest that is due') FROM result;
SELECT is(pg_stat_get_xact_numscans('executions'::regclass), before, 'without a sequential scan') FROM scans;
SELECT cmp_ok(pg_stat_get_xact_numscans(i::regclass), '>', 0::bigint, 'with ' || i)
FROM unnest(ARRAY['idx_executions_retention_cleanup', 'idx_executions_null_started_at']) i;
SELECT is(pg_stat_get_xact_numscans('executions_pkey'::regclass), 0::bigint, 'with no other index');
SELECT is(count(*), 5000::bigint, 'the young rows are there') FROM executions WHERE tenant_id = pg_temp.t(1) AND id > 200000;
SELECT is(count(*), 50000::bigint, 'the other tenants'' rows are there') FROM executions WHERE tenant_id <> pg_temp.t(1);
-- again: nothing to do, and that without looking at the rows that stay
SELECT is(execution_summary ->> 'reason', 'nothing that old', 'nothing is left to do')
FROM cleanup_old_executions(pg_temp.t(1), 90, 100, 1000);
SELECT * FROM finish();
ROLLBACK;
