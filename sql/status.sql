--
-- retention.status, health(), history and progress: what they say about policies and
-- runs.  The runs here are rows written by hand; test/t has real ones.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
CREATE SCHEMA st;
CREATE FUNCTION st.t(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
-- a policy that has been there for 30 days
CREATE FUNCTION st.policy(n integer, days integer, keep integer, enabled boolean DEFAULT true) RETURNS void LANGUAGE sql AS $$
    INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, is_enabled, created_at, updated_at)
    VALUES (st.t(n), days, keep, enabled, now() - interval '720 hours', now() - interval '720 hours')
$$;
-- rows, one an hour, the newest so old
CREATE SEQUENCE st.ids;
CREATE FUNCTION st.fill(n integer, rows integer, newest interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO executions SELECT nextval('st.ids'), st.t(n), now() - newest - i * interval '1 hour', now() FROM generate_series(0, rows - 1) i
$$;
-- a run that started so long ago and took an hour
CREATE FUNCTION st.run(ago interval, status text DEFAULT 'succeeded', stop text DEFAULT 'done', deleted bigint DEFAULT 0, estimated bigint DEFAULT 0,
    tenant uuid DEFAULT NULL, busy integer DEFAULT 0, message text DEFAULT NULL) RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid, stop_reason, rows_deleted, rows_estimated, only_tenant,
        tenants_busy, message)
    VALUES (now() - ago, CASE status WHEN 'running' THEN NULL ELSE now() - ago + interval '1 hour' END, status, 'me', 1, stop, deleted, estimated,
        tenant, busy, message)
    RETURNING id
$$;
CREATE VIEW st.status AS
SELECT right(tenant_id::text, 2) AS tenant, oldest_due IS NOT NULL AS due, date_trunc('hour', overdue) AS overdue, failed_runs AS failed, growing,
       severity, regexp_replace(replace(message, 'aaaaaaaa-0000-4000-8000-0000000000', ''), '\d{4}-\d\d-\d\d', '...') AS message
FROM retention.status ORDER BY tenant_id;
CREATE VIEW st.health AS
SELECT severity, message, policies, tenants_overdue AS late, date_trunc('hour', oldest_overdue) AS by, last_run_status AS last,
       now() - last_run_finished_at AS ended, now() - last_success_at AS success, runs_failed_in_a_row AS failed, schedule, schedule_active AS active, running
FROM retention.health();
RESET client_min_messages;

--
-- Nothing at all
--
SELECT * FROM st.status;
SELECT * FROM st.health;
SELECT count(*) FROM retention.history;
SELECT count(*) FROM retention.progress;
SELECT count(*) FROM retention.scheduled_jobs;
SELECT retention.patience();
BEGIN;
SET LOCAL retention.apply_default_policy = on;
SELECT severity, message FROM st.health;
ROLLBACK;

--
-- Policies without runs
--
SELECT st.policy(1, 30, 10);
SELECT st.policy(2, 30, 10);
SELECT st.policy(3, 30, 10);
SELECT st.policy(4, 30, 10, false);
SELECT st.policy(5, 30, 10);
SELECT st.fill(1, 20, '1 hour');      -- all young
SELECT st.fill(2, 10, '2400 hours');  -- all protected by the minimum
SELECT st.fill(3, 24, '721 hours');   -- due for 24 hours at most
SELECT st.fill(4, 20, '2400 hours');  -- due, but the policy is disabled
SELECT st.fill(5, 20, '2400 hours');  -- due for 70 days
SELECT * FROM st.status;
SELECT * FROM st.health;
-- the oldest that is due is the oldest that a cleanup would delete
SELECT right(s.tenant_id::text, 2) AS tenant, s.oldest_due IS NOT DISTINCT FROM min(e.started_at) AS is_oldest
FROM retention.status s JOIN executions e USING (tenant_id) WHERE s.oldest_due IS NOT NULL GROUP BY s.tenant_id, s.oldest_due ORDER BY 1;
-- a policy that has just been made is not late
BEGIN;
DELETE FROM execution_retention_policies WHERE tenant_id = st.t(5);
SELECT retention_days FROM retention.set_policy(st.t(5), 30, min_executions_to_keep => 10);
SELECT * FROM st.status WHERE tenant = '05';
ROLLBACK;
-- between the two limits
UPDATE execution_retention_policies SET updated_at = now() - interval '96 hours' WHERE tenant_id = st.t(5);
SELECT * FROM st.status WHERE tenant = '05';
SELECT * FROM st.health;

--
-- Runs
--
-- one that dealt with everything: what is due now became so, or came, later
BEGIN;
SELECT st.run('10 hours') > 0 AS run;
SELECT * FROM st.status WHERE tenant IN ('03', '05');
SELECT * FROM st.health;
ROLLBACK;
-- ... but not one that stopped early, left tenants to another run, or was for another tenant
BEGIN;
SELECT st.run('10 hours', stop => 'max_runtime') > 0 AND st.run('9 hours', busy => 1) > 0 AND st.run('8 hours', tenant => st.t(1)) > 0 AS run;
SELECT * FROM st.status WHERE tenant = '05';
ROLLBACK;
-- runs once a week: patience is two weeks
BEGIN;
SELECT count(st.run(w * interval '168 hours')) FROM generate_series(5, 1, -1) w;
SELECT retention.patience();
SELECT * FROM st.status WHERE tenant = '05';
ROLLBACK;
-- failures, the last three in a row
BEGIN;
SELECT st.run('100 hours') > 0 AS run;
SELECT st.run('40 hours', 'failed', 'error', message => 'out of luck.') > 0 AS run;
SELECT * FROM st.health;
SELECT st.run('30 hours', 'cancelled', 'error') > 0 AND st.run('20 hours', 'interrupted', NULL) > 0 AS run;
SELECT * FROM st.health;
SELECT st.run('10 hours', 'partial', 'max_runtime') > 0 AS run;
SELECT * FROM st.health;
ROLLBACK;
-- a run for one tenant is no proof for the others
BEGIN;
SELECT st.run('1 hour', tenant => st.t(1)) > 0 AS run;
SELECT last, ended, success, failed FROM st.health;
ROLLBACK;

--
-- Errors of one tenant
--
BEGIN;
SELECT st.run('100 hours') > 0 AS run;
CREATE FUNCTION st.fail(n integer, ago interval) RETURNS void LANGUAGE sql AS $$
    INSERT INTO retention.run_tenant (run_id, tenant_id, sqlstate, message, finished_at)
    VALUES (st.run(ago, 'partial', 'done'), st.t(n), '23503', 'table "steps" refers to it', now() - ago)
$$;
CREATE FUNCTION st.succeed(n integer, ago interval, protected bigint DEFAULT 0) RETURNS void LANGUAGE sql AS $$
    INSERT INTO retention.run_tenant (run_id, tenant_id, rows_deleted, rows_skipped_protected, finished_at)
    VALUES (st.run(ago), st.t(n), 1, protected, now() - ago)
$$;
SELECT st.fail(3, '60 hours');
SELECT * FROM st.status WHERE tenant IN ('01', '03');
SELECT last_error FROM retention.status WHERE tenant_id = st.t(3);
SELECT st.fail(3, '50 hours'), st.fail(3, '40 hours');
SELECT * FROM st.status WHERE tenant IN ('01', '03');
SELECT severity, message, late FROM st.health;
-- over
SAVEPOINT over;
SELECT st.succeed(3, '30 hours');
SELECT * FROM st.status WHERE tenant = '03';
SELECT st.fail(3, '20 hours');
SELECT * FROM st.status WHERE tenant = '03';
ROLLBACK TO over;
-- the tenant had nothing to delete in a run that dealt with all
SELECT st.run('20 hours') > 0 AS run;
SELECT * FROM st.status WHERE tenant = '03';
ROLLBACK TO over;
-- ... or in one that failed for another tenant
SELECT st.fail(1, '20 hours');
SELECT * FROM st.status WHERE tenant IN ('01', '03');
SELECT labels ->> 'tenant' = st.t(1)::text AS tenant, value FROM retention.metrics WHERE name = 'retention_failing_tenant_runs';
ROLLBACK TO over;
-- rows that foreign keys protect
SELECT st.succeed(3, '30 hours', 7);
SELECT * FROM st.status WHERE tenant = '03';
ROLLBACK;
-- ... while runs fail for another tenant, night by night: late is the other alone
BEGIN;
UPDATE execution_retention_policies SET updated_at = now() - interval '720 hours' WHERE tenant_id = st.t(5);
CREATE FUNCTION st.night(ago interval, stop text DEFAULT 'done') RETURNS void LANGUAGE sql AS $$
    WITH run AS (SELECT st.run(ago, 'partial', stop) AS id)
    INSERT INTO retention.run_tenant (run_id, tenant_id, rows_skipped_protected, sqlstate, message, finished_at)
    SELECT id, st.t(5), 7, NULL, NULL, now() - ago FROM run UNION ALL
    SELECT id, st.t(3), 0, '23503', 'table "steps" refers to it', now() - ago FROM run
$$;
SAVEPOINT before;
SELECT count(*) FROM generate_series(226, 10, -24) h, st.night(h * interval '1 hour');
SELECT * FROM st.status WHERE tenant IN ('03', '05');
SELECT severity, message, late FROM st.health;
SELECT value FROM retention.metrics WHERE name = 'retention_overdue_tenants';
ROLLBACK TO before;
-- nor come to all tenants: late, with the reason
SELECT count(*) FROM generate_series(226, 10, -24) h, st.night(h * interval '1 hour', 'max_runtime');
SELECT * FROM st.status WHERE tenant = '05';
ROLLBACK;
-- a run by a clock that has gone back is no proof
BEGIN;
UPDATE execution_retention_policies SET updated_at = now() - interval '720 hours' WHERE tenant_id = st.t(5);
SELECT count(st.run(h * interval '1 hour')) FROM unnest(ARRAY[274, 250, 226, -500]) h;
SELECT * FROM st.status WHERE tenant = '05';
SELECT name, labels ->> 'tenant' = st.t(5)::text AS tenant,
    round(CASE WHEN name ~ 'timestamp' THEN extract(epoch FROM now()) - value ELSE value END / CASE WHEN name ~ 'seconds' THEN 3600 ELSE 1 END) AS value
FROM retention.metrics WHERE name ~ 'overdue_tenant|last_success' ORDER BY name COLLATE "C", value;
ROLLBACK;

--
-- Rows of one tenant that runs leave, night by night
--
BEGIN;
SELECT st.policy(6, 30, 10);
SELECT st.fill(6, 20, '2400 hours');  -- as tenant 5: due for 70 days
UPDATE execution_retention_policies SET updated_at = now() - interval '720 hours' WHERE tenant_id = st.t(5);
-- a run at night that left so many rows of tenant 5
CREATE FUNCTION st.leave(ago interval, locked bigint, kept bigint DEFAULT 0) RETURNS void LANGUAGE sql AS $$
    INSERT INTO retention.run_tenant (run_id, tenant_id, rows_deleted, rows_skipped_locked, rows_kept, finished_at)
    VALUES (st.run(ago), st.t(5), 1, locked, kept, now() - ago)
$$;
SELECT st.run('226 hours') > 0 AS run;
-- one night
SAVEPOINT before;
SELECT st.run('34 hours') > 0 AS run;
SELECT st.leave('10 hours', 3);
SELECT * FROM st.status WHERE tenant IN ('05', '06');
-- then none was left, or none was found
SELECT st.leave('9 hours', 0);
SELECT * FROM st.status WHERE tenant IN ('05', '06');
SELECT st.run('8 hours') > 0 AS run;
SELECT * FROM st.status WHERE tenant IN ('05', '06');
ROLLBACK TO before;
-- three nights: late; the others are not
SELECT st.run('82 hours') > 0 AS run;
SELECT count(*) FROM generate_series(58, 10, -24) h, st.leave(h * interval '1 hour', 3);
SELECT * FROM st.status WHERE tenant IN ('05', '06');
SELECT severity, message, late FROM st.health;
-- a limit stopped the next run before it came to the tenant
SELECT st.run('9 hours', 'partial', 'max_runtime') > 0 AS run;
SELECT * FROM st.status WHERE tenant = '05';
ROLLBACK TO before;
-- nine nights, and others have been met meanwhile
SELECT count(*) FROM generate_series(202, 10, -24) h, st.leave(h * interval '1 hour', 3);
SELECT * FROM st.status WHERE tenant IN ('05', '06');
-- what history says of the runs goes with them: what is left is no proof of the contrary
SAVEPOINT pruning;
DELETE FROM retention.run_tenant WHERE run_id IN (SELECT id FROM retention.run_history WHERE started_at < now() - interval '20 hours');
DELETE FROM retention.run_history WHERE started_at < now() - interval '20 hours';
SELECT * FROM st.status WHERE tenant IN ('05', '06');
ROLLBACK TO pruning;
-- that the tenant is cleaned ends it
SELECT st.run('9 hours') > 0 AS run;
SELECT * FROM st.status WHERE tenant IN ('05', '06');
ROLLBACK TO before;
-- rows that a trigger keeps: one night, three, nine
SELECT st.run('34 hours') > 0 AS run;
SELECT st.leave('10 hours', 0, 4);
SELECT * FROM st.status WHERE tenant IN ('05', '06');
ROLLBACK TO before;
SELECT st.run('82 hours') > 0 AS run;
SELECT count(*) FROM generate_series(58, 10, -24) h, st.leave(h * interval '1 hour', 0, 4);
SELECT * FROM st.status WHERE tenant IN ('05', '06');
ROLLBACK TO before;
SELECT count(*) FROM generate_series(202, 10, -24) h, st.leave(h * interval '1 hour', 0, 4);
SELECT * FROM st.status WHERE tenant IN ('05', '06');
-- metrics go by the same clock
SELECT value FROM retention.metrics WHERE name = 'retention_overdue_tenants';
SELECT labels ->> 'tenant' = st.t(5)::text AS tenant, round(value / 3600) AS hours FROM retention.metrics WHERE name = 'retention_overdue_tenant_seconds';
-- once they are gone, what becomes due later is none of them
DELETE FROM executions WHERE tenant_id = st.t(5);
SELECT st.fill(5, 20, '721 hours');
DELETE FROM executions WHERE tenant_id = st.t(5) AND started_at < now() - interval '728 hours';
UPDATE execution_retention_policies SET min_executions_to_keep = 0 WHERE tenant_id = st.t(5);
SELECT * FROM st.status WHERE tenant = '05';
ROLLBACK;

--
-- More arrives than leaves
--
BEGIN;
UPDATE execution_retention_policies SET updated_at = now() - interval '40 hours' WHERE tenant_id = st.t(5);
SELECT st.run('30 hours', 'partial', 'max_runtime', 100, 500) > 0 AND st.run('20 hours', 'partial', 'max_runtime', 100, 600) > 0 AS run;
SELECT * FROM st.status WHERE tenant IN ('03', '05');
SELECT st.run('15 hours', 'partial', 'max_runtime', 100, 550) > 0 AS run;
SELECT * FROM st.status WHERE tenant IN ('01', '03', '04', '05');
SELECT severity, message FROM st.health;
-- not while the backlog falls
SELECT st.run('14 hours', 'partial', 'max_runtime', 300, 500) > 0 AND st.run('13 hours', 'partial', 'max_runtime', 200, 300) > 0 AS run;
SELECT * FROM st.status WHERE tenant = '05';
ROLLBACK;

--
-- Running, and on record as running
--
BEGIN;
SELECT st.run('2 hours', 'running', NULL) > 0 AS run;
SELECT status, finished_at FROM retention.run_history;
SELECT status, finished_at FROM retention.history;
SELECT count(*) FROM retention.progress;
SELECT last, failed, running FROM st.health;
ROLLBACK;

--
-- The master switch
--
BEGIN;
SET LOCAL retention.enabled = off;
SELECT severity, message FROM st.health;
ROLLBACK;

--
-- The extremes of time
--
BEGIN;
INSERT INTO executions SELECT nextval('st.ids'), st.t(2), '-infinity', NULL;
SELECT * FROM st.status WHERE tenant = '02';
UPDATE execution_retention_policies SET retention_days = 2147483647;
SELECT * FROM st.status;
SELECT severity, message FROM st.health;
ROLLBACK;

--
-- Without the table, without its index, without the right to read it
--
BEGIN;
DROP INDEX idx_executions_retention_cleanup;
SELECT * FROM st.status WHERE tenant = '01';
ROLLBACK;
CREATE ROLE st_monitor;
GRANT pg_monitor TO st_monitor;
GRANT USAGE ON SCHEMA st TO st_monitor;
CREATE ROLE st_nobody;
SET ROLE st_monitor;
SELECT severity, message FROM retention.status ORDER BY tenant_id LIMIT 1;
SELECT severity, message, policies FROM retention.health();
RESET ROLE;
GRANT SELECT (tenant_id, started_at, created_at) ON executions TO st_monitor;
SET ROLE st_monitor;
SELECT severity, message, policies FROM retention.health();
SELECT count(*) FROM retention.progress;
SELECT count(*) FROM retention.history;
SET ROLE st_nobody;
SELECT * FROM retention.status;
\echo :SQLSTATE
SELECT * FROM retention.health();
\echo :SQLSTATE
SELECT * FROM retention.progress;
\echo :SQLSTATE
RESET ROLE;
DROP TABLE executions;
SELECT * FROM st.status WHERE tenant = '01';
SELECT severity, message FROM st.health;

SET client_min_messages = warning;
DROP SCHEMA st CASCADE;
DROP EXTENSION retention;
DROP ROLE st_monitor, st_nobody;
