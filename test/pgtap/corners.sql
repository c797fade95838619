--
-- Corners: rules on the table, a path with pg_temp, arguments and triggers put wrongly
--
BEGIN;
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.t(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT ('cccccccc-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
CREATE TABLE executions (tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
INSERT INTO executions SELECT pg_temp.t(1), now() - i * interval '1 day' FROM generate_series(1, 200) i;
-- temporary tables of that name are not for it, wherever they are on the path
CREATE TEMP TABLE unrelated (LIKE executions);
ALTER TABLE unrelated RENAME TO executions;
SET LOCAL search_path = pg_temp, "$user", public;
CREATE EXTENSION retention SCHEMA public;
SET LOCAL search_path = public;
SELECT plan(17);
SELECT is((SELECT relation::oid FROM retention.target), 'public.executions'::regclass::oid, 'the permanent table is attached');
DROP TABLE pg_temp.executions;

-- A rule on DELETE would make something else of a cleanup.
CREATE TABLE taken_down (t timestamptz);
CREATE RULE spared AS ON DELETE TO executions DO INSTEAD NOTHING;
CREATE FUNCTION pg_temp.refused(what text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT throws_ok('SELECT cleanup_old_executions(pg_temp.t(1))', '0A000', 'table "public.executions" has a rule on DELETE', what || ': cleanup')
    UNION ALL
    SELECT throws_ok('SELECT retention.attach(''executions'')', '0A000', 'table "public.executions" has a rule on DELETE', what || ': attach')
    UNION ALL
    SELECT is(count(*), 1::bigint, what || ': check() tells') FROM retention.check()
    WHERE severity = 'critical' AND finding LIKE 'It has a rule on DELETE%' $$;
SELECT pg_temp.refused('instead nothing');
DROP RULE spared ON executions;
CREATE RULE spared AS ON DELETE TO executions DO ALSO INSERT INTO taken_down VALUES (OLD.started_at);
SELECT pg_temp.refused('also');
ALTER TABLE executions DISABLE RULE spared;
SELECT is(deleted_count, 10, 'a rule that is disabled is not in the way')
FROM cleanup_old_executions(pg_temp.t(1), 190, 0);
ALTER TABLE executions ENABLE ALWAYS RULE spared;
SELECT pg_temp.refused('always');
DROP RULE spared ON executions;
CREATE RULE other AS ON UPDATE TO executions DO ALSO NOTHING;
SELECT is(deleted_count, 10, 'nor is one for UPDATE') FROM cleanup_old_executions(pg_temp.t(1), 180, 0);
SELECT is(count(*), 180::bigint, 'nothing else went') FROM executions;
SELECT is(count(*), 0::bigint, 'and nothing was taken down') FROM taken_down;

SELECT throws_ok($$ SELECT retention.oldest_due(pg_temp.t(1), -1, 0) $$, '22023',
                 'arguments "retention_days" and "min_executions_to_keep" must not be negative', 'oldest_due(): days');
SELECT throws_ok($$ SELECT retention.oldest_due(pg_temp.t(1), 0, -1) $$, '22023',
                 'arguments "retention_days" and "min_executions_to_keep" must not be negative', 'oldest_due(): minimum');

-- The trigger function on a table that has no updated_at, or one of another type.
CREATE TABLE other_table (id integer, updated_at date);
CREATE TRIGGER wrong BEFORE UPDATE ON other_table FOR EACH ROW EXECUTE FUNCTION update_execution_retention_policies_updated_at();
INSERT INTO other_table VALUES (1, '2020-01-01');
SELECT throws_ok('UPDATE other_table SET id = 2', '42703',
                 'table "other_table" has no column "updated_at" of type timestamp with time zone', 'updated_at of another type');
SELECT * FROM finish();
ROLLBACK;
