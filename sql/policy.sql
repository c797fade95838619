--
-- The policy table: its columns, rules, trigger, and the ways people write to it
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION retention;
RESET client_min_messages;
CREATE SCHEMA pol;
-- says what an error says, with its code
CREATE FUNCTION pol.attempt(statement text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    con text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS con = CONSTRAINT_NAME;
    RETURN format('%s [%s] %s', SQLSTATE, con, SQLERRM);
END $$;

--
-- The table
--
SELECT column_name, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_name = 'execution_retention_policies' ORDER BY ordinal_position;
SELECT conname, pg_get_constraintdef(oid) AS def FROM pg_constraint
WHERE conrelid = 'execution_retention_policies'::regclass AND contype <> 'n' ORDER BY conname COLLATE "C";
SELECT pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = 'execution_retention_policies'::regclass ORDER BY indexrelid::regclass::text COLLATE "C";
SELECT tgname, tgfoid::regprocedure, tgenabled FROM pg_trigger
WHERE tgrelid = 'execution_retention_policies'::regclass AND NOT tgisinternal ORDER BY tgname;

--
-- Sample policies
--
INSERT INTO execution_retention_policies (tenant_id) VALUES ('aaaaaaaa-0000-4000-8000-000000000001');
INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, created_by, updated_by) VALUES
    ('aaaaaaaa-0000-4000-8000-000000000002', 30, 50, 'cccccccc-0000-4000-8000-000000000001', 'cccccccc-0000-4000-8000-000000000001'),
    ('aaaaaaaa-0000-4000-8000-000000000003', 365, 1000, NULL, NULL);
INSERT INTO execution_retention_policies (tenant_id, retention_days, is_enabled, min_executions_to_keep)
VALUES ('aaaaaaaa-0000-4000-8000-000000000004', 1, false, 0);
INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
VALUES ('aaaaaaaa-0000-4000-8000-000000000005', 2147483647, 2147483647);
SELECT right(tenant_id::text, 1) AS tenant, retention_days, is_enabled, min_executions_to_keep AS min,
       last_cleanup_at, last_cleanup_deleted_count AS last_count,
       created_by, updated_by, id IS NOT NULL AS has_id,
       created_at = updated_at AS untouched, created_at > now() - interval '1 hour' AS recent
FROM execution_retention_policies ORDER BY tenant_id;
SELECT count(DISTINCT id) FROM execution_retention_policies;

--
-- Its rules
--
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES (gen_random_uuid(), 0)$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES (gen_random_uuid(), -1)$$);
SELECT pol.attempt($$UPDATE execution_retention_policies SET retention_days = 0$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES (gen_random_uuid(), NULL)$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, min_executions_to_keep) VALUES (gen_random_uuid(), -1)$$);
SELECT pol.attempt($$UPDATE execution_retention_policies SET min_executions_to_keep = -5$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, min_executions_to_keep) VALUES (gen_random_uuid(), NULL)$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id) VALUES (NULL)$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, is_enabled) VALUES (gen_random_uuid(), NULL)$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies DEFAULT VALUES$$);
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES (gen_random_uuid(), 2147483648)$$);
-- one policy per tenant
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id) VALUES ('aaaaaaaa-0000-4000-8000-000000000001')$$);
SELECT pol.attempt($$UPDATE execution_retention_policies SET tenant_id = 'aaaaaaaa-0000-4000-8000-000000000001'$$);
-- as it looks in psql (the row it quotes has a time in it)
\set VERBOSITY terse
INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES ('aaaaaaaa-0000-4000-8000-000000000009', 0);
INSERT INTO execution_retention_policies (tenant_id, min_executions_to_keep) VALUES ('aaaaaaaa-0000-4000-8000-000000000009', -1);
\set VERBOSITY default
INSERT INTO execution_retention_policies (tenant_id) VALUES ('aaaaaaaa-0000-4000-8000-000000000001');
-- the smallest values that are allowed
SELECT pol.attempt($$INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
    VALUES ('aaaaaaaa-0000-4000-8000-000000000006', 1, 0)$$);
SELECT count(*) FROM execution_retention_policies;

--
-- updated_at moves when a policy is modified, and only then
--
CREATE FUNCTION pol.moved(statement text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    before timestamptz;
    after  timestamptz;
BEGIN
    SELECT updated_at INTO before FROM execution_retention_policies WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000001';
    EXECUTE 'UPDATE execution_retention_policies SET ' || statement
        || $q$ WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000001'$q$;
    SELECT updated_at INTO after FROM execution_retention_policies WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000001';
    RETURN CASE WHEN after > before THEN 'moved' WHEN after = before THEN 'as it was' ELSE 'went back' END;
END $$;
SELECT pol.moved('retention_days = 60');
SELECT pol.moved('retention_days = 60');
SELECT pol.moved('is_enabled = false');
SELECT pol.moved('min_executions_to_keep = 10');
SELECT pol.moved($$updated_by = 'cccccccc-0000-4000-8000-000000000002'$$);
SELECT pol.moved('updated_by = NULL');
SELECT pol.moved('updated_by = NULL');
SELECT pol.moved('last_cleanup_at = clock_timestamp(), last_cleanup_deleted_count = 5');
SELECT pol.moved('last_cleanup_deleted_count = 9223372036854775807');
SELECT pol.moved($$created_by = 'cccccccc-0000-4000-8000-000000000003'$$);
SELECT pol.moved('tenant_id = tenant_id');
SELECT pol.moved('retention_days = 61, last_cleanup_at = clock_timestamp()');
-- a change of tenant, seen from outside
SELECT updated_at AS before FROM execution_retention_policies WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000006' \gset
UPDATE execution_retention_policies SET tenant_id = 'aaaaaaaa-0000-4000-8000-000000000007'
WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000006' RETURNING updated_at > :'before' AS moved, updated_at > created_at AS after_creation;
-- twice in one transaction it moves twice: it is the clock, not the transaction's start
BEGIN;
SELECT pol.moved('retention_days = 62');
SELECT pol.moved('retention_days = 63');
COMMIT;
-- the other rows are left alone
SELECT right(tenant_id::text, 1) AS tenant, updated_at > created_at AS modified FROM execution_retention_policies ORDER BY tenant_id;
-- the trigger does its work whatever the search_path, and is no function to call by hand
SET search_path = pg_catalog;
UPDATE public.execution_retention_policies SET retention_days = 64
WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000003' RETURNING updated_at > created_at AS modified;
RESET search_path;
SELECT update_execution_retention_policies_updated_at();
\echo :SQLSTATE

--
-- Upsert, the way a settings page does it
--
INSERT INTO execution_retention_policies AS p (tenant_id, retention_days, min_executions_to_keep)
VALUES ('aaaaaaaa-0000-4000-8000-000000000002', 14, 20)
ON CONFLICT (tenant_id) DO UPDATE
    SET retention_days = EXCLUDED.retention_days, min_executions_to_keep = EXCLUDED.min_executions_to_keep
RETURNING p.retention_days, p.min_executions_to_keep, p.updated_at > p.created_at AS modified;
INSERT INTO execution_retention_policies AS p (tenant_id, retention_days)
VALUES ('aaaaaaaa-0000-4000-8000-000000000008', 21)
ON CONFLICT (tenant_id) DO UPDATE SET retention_days = EXCLUDED.retention_days
RETURNING p.retention_days, p.min_executions_to_keep, p.updated_at > p.created_at AS modified;
INSERT INTO execution_retention_policies (tenant_id, retention_days)
VALUES ('aaaaaaaa-0000-4000-8000-000000000008', 22)
ON CONFLICT ON CONSTRAINT unique_tenant_retention_policy DO NOTHING;
\set VERBOSITY terse
INSERT INTO execution_retention_policies (tenant_id, retention_days)
VALUES ('aaaaaaaa-0000-4000-8000-000000000008', 0)
ON CONFLICT (tenant_id) DO UPDATE SET retention_days = EXCLUDED.retention_days;
\echo :SQLSTATE
\set VERBOSITY default
SELECT retention_days FROM execution_retention_policies WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000008';

--
-- Privileges: nobody sets policy without being allowed to
--
CREATE ROLE pol_nobody;
CREATE ROLE pol_admin;
GRANT USAGE ON SCHEMA pol TO pol_nobody, pol_admin;
SET ROLE pol_nobody;
SELECT pol.attempt('UPDATE execution_retention_policies SET retention_days = 1');
SELECT pol.attempt('INSERT INTO execution_retention_policies (tenant_id) VALUES (gen_random_uuid())');
SELECT pol.attempt('DELETE FROM execution_retention_policies');
SELECT pol.attempt('TRUNCATE execution_retention_policies');
SELECT pol.attempt($$INSERT INTO retention.target VALUES ('pg_class')$$);
RESET ROLE;
-- who is allowed needs nothing else for the trigger to work
GRANT SELECT, INSERT, UPDATE ON execution_retention_policies TO pol_admin;
SET ROLE pol_admin;
UPDATE execution_retention_policies SET retention_days = 23
WHERE tenant_id = 'aaaaaaaa-0000-4000-8000-000000000008' RETURNING updated_at > created_at AS modified;
RESET ROLE;

SET client_min_messages = warning;
DROP EXTENSION retention;
DROP SCHEMA pol CASCADE;
DROP ROLE pol_nobody, pol_admin;
