--
-- The policy calls: get, set, remove, list, and the cleanup of one tenant by its
-- policy.  One result row each, and errors that say what to do.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
CREATE SCHEMA pc;
CREATE FUNCTION pc.t(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
-- a policy without its times
CREATE FUNCTION pc.flat(p execution_retention_policies)
RETURNS TABLE (tenant text, days integer, enabled boolean, min integer, created_by text, updated_by text, modified boolean)
LANGUAGE sql AS $$ SELECT right(p.tenant_id::text, 2), p.retention_days, p.is_enabled, p.min_executions_to_keep,
    right(p.created_by::text, 2), right(p.updated_by::text, 2), p.updated_at > p.created_at $$;
RESET client_min_messages;

--
-- No policy yet: the defaults, and they say so
--
SELECT retention_days, retention_days_from AS "from", is_enabled, is_enabled_from AS "from",
       min_executions_to_keep AS min, min_executions_to_keep_from AS "from", last_cleanup_at, created_at
FROM retention.get_policy(pc.t(1));
SELECT count(*) FROM retention.list_policies();
SET retention.default_retention_days = 10;
SET retention.default_min_executions_to_keep = 11;
SET retention.apply_default_policy = on;
SELECT retention_days, retention_days_from AS "from", is_enabled, is_enabled_from AS "from",
       min_executions_to_keep AS min, min_executions_to_keep_from AS "from", last_cleanup_at, created_at
FROM retention.get_policy(pc.t(1));
RESET retention.default_retention_days;
RESET retention.default_min_executions_to_keep;
RESET retention.apply_default_policy;

--
-- Insert
--
SELECT f.* FROM retention.set_policy(pc.t(1)) p, pc.flat(p) f;
SELECT f.* FROM retention.set_policy(pc.t(2), 30, false, 5, pc.t(77)) p, pc.flat(p) f;
SELECT f.* FROM retention.set_policy(pc.t(3), min_executions_to_keep => 0) p, pc.flat(p) f;
-- what is not said comes from the settings, but a policy has one day at least
BEGIN;
SET LOCAL retention.default_retention_days = 0;
SET LOCAL retention.default_min_executions_to_keep = 11;
SELECT f.* FROM retention.set_policy(pc.t(4)) p, pc.flat(p) f;
ROLLBACK;
SELECT retention_days, retention_days_from AS "from", is_enabled, is_enabled_from AS "from",
       min_executions_to_keep AS min, min_executions_to_keep_from AS "from", last_cleanup_at, created_at = updated_at AS untouched
FROM retention.get_policy(pc.t(2));

--
-- Change: NULL leaves a field alone, updated_by is who changed it
--
SELECT f.* FROM retention.set_policy(pc.t(2), 31) p, pc.flat(p) f;
SELECT f.* FROM retention.set_policy(pc.t(2), is_enabled => true, by_user => pc.t(78)) p, pc.flat(p) f;
SELECT f.* FROM retention.set_policy(pc.t(2), NULL, NULL, 6, pc.t(78)) p, pc.flat(p) f;
-- the same once more does not move updated_at
SELECT updated_at AS before FROM execution_retention_policies WHERE tenant_id = pc.t(2) \gset
SELECT updated_at = :'before' AS untouched FROM retention.set_policy(pc.t(2), 31, true, 6, pc.t(78));
SELECT f.* FROM retention.list_policies() p, pc.flat(p) f;

--
-- What is refused
--
SELECT retention.set_policy(NULL, 30);
\echo :SQLSTATE
SELECT retention.set_policy(pc.t(1), 0);
\echo :SQLSTATE
SELECT retention.set_policy(pc.t(1), -1);
\echo :SQLSTATE
SELECT retention.set_policy(pc.t(1), min_executions_to_keep => -1);
\echo :SQLSTATE
SELECT * FROM retention.get_policy(NULL);
\echo :SQLSTATE
SELECT retention.remove_policy(NULL);
\echo :SQLSTATE
SELECT retention.remove_policy(pc.t(9));
\echo :SQLSTATE
SELECT * FROM retention.cleanup_tenant(NULL);
\echo :SQLSTATE
SELECT * FROM retention.cleanup_tenant(pc.t(9));
\echo :SQLSTATE
SELECT * FROM retention.cleanup_tenant(pc.t(9), true);
\echo :SQLSTATE
SELECT f.* FROM retention.list_policies() p, pc.flat(p) f;

--
-- Remove
--
SELECT f.* FROM retention.remove_policy(pc.t(3)) p, pc.flat(p) f;
SELECT retention.remove_policy(pc.t(3));
\echo :SQLSTATE
SELECT f.tenant FROM retention.list_policies() p, pc.flat(p) f;

--
-- Cleanup of one tenant
--
CREATE FUNCTION pc.clean(n integer, force boolean DEFAULT false)
RETURNS TABLE (tenant text, deleted integer, in_summary integer, days integer, more boolean, skipped boolean, reason text)
LANGUAGE sql AS $$
    SELECT right(tenant_id::text, 2), deleted_count, (execution_summary ->> 'deleted')::integer,
           (execution_summary ->> 'retention_days')::integer, (execution_summary ->> 'has_more')::boolean, skipped, reason
    FROM retention.cleanup_tenant(pc.t(n), force)
$$;
CREATE VIEW pc.recorded AS
SELECT right(tenant_id::text, 2) AS tenant, last_cleanup_at > now() - interval '1 hour' AS recent,
       last_cleanup_deleted_count AS deleted, updated_at = created_at AS untouched
FROM execution_retention_policies ORDER BY tenant_id;
INSERT INTO executions SELECT i, pc.t(1 + i % 2), timestamptz '2020-01-01' + i * interval '1 hour', '2020-01-01' FROM generate_series(1, 400) i;
INSERT INTO executions SELECT 1000 + i, pc.t(5), timestamptz '2020-01-01' + i * interval '1 hour', '2020-01-01' FROM generate_series(1, 400) i;
-- never cleaned
SELECT * FROM pc.recorded;
SELECT * FROM pc.clean(1);
SELECT * FROM pc.recorded;
SELECT right(tenant_id::text, 2) AS tenant, count(*), min(id) FROM executions GROUP BY 1 ORDER BY 1;
-- again: nothing to do, which is on record too
SELECT * FROM pc.clean(1);
SELECT * FROM pc.recorded;
-- a limit is no reason to go on by itself; the summary says that there is more
SET retention.batch_size = 10;
SET retention.max_batches_per_call = 3;
SELECT * FROM pc.clean(2);
RESET retention.batch_size;
RESET retention.max_batches_per_call;
SELECT * FROM pc.recorded;
-- disabled
SELECT f.* FROM retention.set_policy(pc.t(2), is_enabled => false) p, pc.flat(p) f;
SELECT * FROM pc.clean(2);
SELECT * FROM pc.clean(2, NULL);
SELECT tenant, deleted FROM pc.recorded;
SELECT * FROM pc.clean(2, true);
SELECT tenant, deleted FROM pc.recorded;
-- the master switch
SET retention.enabled = off;
SELECT * FROM pc.clean(1);
SELECT * FROM pc.clean(2, true);
RESET retention.enabled;
-- no policy, but the defaults cover it
SET retention.apply_default_policy = on;
SELECT * FROM pc.clean(5);
RESET retention.apply_default_policy;
SELECT right(tenant_id::text, 2) AS tenant, count(*), min(id) FROM executions GROUP BY 1 ORDER BY 1;
SELECT * FROM pc.clean(5);
\echo :SQLSTATE

--
-- Privileges
--
CREATE ROLE pc_nobody;
CREATE ROLE pc_reader;
CREATE ROLE pc_admin;
GRANT USAGE ON SCHEMA pc TO pc_nobody, pc_reader, pc_admin;
GRANT SELECT ON execution_retention_policies TO pc_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON execution_retention_policies TO pc_admin;
GRANT EXECUTE ON FUNCTION retention.set_policy, retention.remove_policy TO pc_admin;
SET ROLE pc_nobody;
SELECT retention.set_policy(pc.t(1), 30);
\echo :SQLSTATE
SELECT retention.remove_policy(pc.t(1));
\echo :SQLSTATE
SELECT * FROM retention.cleanup_tenant(pc.t(1));
\echo :SQLSTATE
SELECT * FROM retention.get_policy(pc.t(1));
\echo :SQLSTATE
SELECT * FROM retention.list_policies();
\echo :SQLSTATE
SET ROLE pc_reader;
SELECT retention_days, retention_days_from FROM retention.get_policy(pc.t(1));
SELECT retention.set_policy(pc.t(1), 30);
\echo :SQLSTATE
SET ROLE pc_admin;
SELECT f.days FROM retention.set_policy(pc.t(6), 33) p, pc.flat(p) f;
SELECT f.days FROM retention.remove_policy(pc.t(6)) p, pc.flat(p) f;
RESET ROLE;
-- the search_path of the caller does not matter
SET search_path = pc, pg_temp;
CREATE TEMP TABLE execution_retention_policies (tenant_id uuid);
SELECT retention_days, retention_days_from FROM retention.get_policy(pc.t(1));
RESET search_path;

SET client_min_messages = warning;
DROP TABLE executions;
DROP SCHEMA pc CASCADE;
DROP EXTENSION retention;
DROP ROLE pc_nobody, pc_reader, pc_admin;
