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
SELECT plan(22);
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

SELECT throws_ok('SELECT retention.hold_walks()', '39P01', 'retention.hold_walks() must be called by a trigger', 'hold_walks(): by a trigger alone');

SELECT is(retention.cutoff('infinity', 3), 'infinity', 'cutoff(): no days before the end of time');

-- A superuser asks about another's table: it is looked at as its owner would.
CREATE ROLE corner_owner;
GRANT CREATE ON SCHEMA public TO corner_owner;
INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) VALUES (pg_temp.t(1), 170, 0);
CREATE TEMP TABLE asked AS SELECT tenant_id, oldest_due FROM retention.due_tenants(NULL);
ALTER TABLE executions OWNER TO corner_owner;
SELECT is(count(*), 1::bigint, 'due_tenants(): one is due') FROM asked;
SELECT set_eq('SELECT tenant_id, oldest_due FROM retention.due_tenants(NULL)', 'SELECT tenant_id, oldest_due FROM asked',
              'due_tenants(): the same of another''s table');

-- A policy that may be there but cannot be seen is no reason to show the defaults.
CREATE ROLE corner_reader;
GRANT USAGE ON SCHEMA retention TO corner_reader;
GRANT SELECT ON executions, execution_retention_policies TO corner_reader;
ALTER TABLE execution_retention_policies ENABLE ROW LEVEL SECURITY;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_temp TO corner_reader;
SET LOCAL ROLE corner_reader;
SELECT throws_ok($$ SELECT * FROM retention.preview('cccccccc-0000-4000-8000-000000000001') $$, '42501',
                 'row-level security may hide the policy of the tenant', 'preview(): a hidden policy');
RESET ROLE;
SELECT * FROM finish();
ROLLBACK;
