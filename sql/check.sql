--
-- retention.check(): one finding after the other.  test/t has what takes pg_cron,
-- a second session or a standby.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE SCHEMA app;
CREATE SCHEMA ops;
SET search_path = app, public;
CREATE EXTENSION retention SCHEMA ops;
CREATE FUNCTION app.has_run() RETURNS void LANGUAGE sql AS $$
    INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid, stop_reason)
    VALUES (now(), now(), 'succeeded', 'me', 1, 'done')
$$;
-- what makes lines wide
\pset format unaligned
\pset fieldsep '\n    '
\pset tuples_only on
RESET client_min_messages;

--
-- Nothing is there
--
SELECT * FROM retention.check();
-- something called executions
CREATE VIEW app.executions AS SELECT 1 AS tenant_id;
SELECT * FROM retention.check_table();
DROP VIEW app.executions;
CREATE TABLE app.executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz DEFAULT now());
SELECT * FROM retention.check_table();
SELECT retention.attach('app.executions');

--
-- Nothing is wrong
--
SELECT app.has_run();
SELECT * FROM retention.check();

--
-- The table's shape
--
BEGIN;
ALTER TABLE app.executions ALTER COLUMN tenant_id DROP NOT NULL;
SELECT * FROM retention.check_table();
ALTER TABLE app.executions DROP COLUMN created_at;
SELECT * FROM retention.check_table();
ALTER TABLE app.executions DROP COLUMN started_at;
SELECT * FROM retention.check_table();
ALTER TABLE app.executions DROP COLUMN tenant_id;
SELECT * FROM retention.check_table();
ROLLBACK;
BEGIN;
ALTER TABLE app.executions ALTER COLUMN tenant_id TYPE text, ALTER COLUMN started_at TYPE date, ALTER COLUMN created_at TYPE text;
SELECT * FROM retention.check_table();
ROLLBACK;
-- domains over the right types are fine
BEGIN;
CREATE DOMAIN app.tenant AS uuid;
ALTER TABLE app.executions ALTER COLUMN tenant_id TYPE app.tenant;
SELECT * FROM retention.check_table();
ROLLBACK;
BEGIN;
CREATE TABLE app.child () INHERITS (app.executions);
SELECT * FROM retention.check_table();
ROLLBACK;
BEGIN;
ALTER TABLE app.executions RENAME TO runs;
SELECT * FROM retention.check_table();
ROLLBACK;
BEGIN;
CREATE TABLE ops.executions (LIKE app.executions INCLUDING ALL);
INSERT INTO retention.target VALUES ('ops.executions'), ('app.executions');
SELECT * FROM retention.check_table();
ROLLBACK;

--
-- Indexes
--
-- missing
BEGIN;
DROP INDEX app.idx_executions_retention_cleanup, app.idx_executions_null_started_at;
SELECT * FROM retention.check_table();
-- what it advises mends it, CONCURRENTLY aside
CREATE INDEX idx_executions_null_started_at ON app.executions (tenant_id, created_at) WHERE started_at IS NULL;
SELECT * FROM retention.check_table();
-- others that serve
CREATE INDEX other ON app.executions (tenant_id, started_at DESC, id);
SELECT * FROM retention.check_table();
DROP INDEX app.idx_executions_null_started_at;
CREATE INDEX another ON app.executions (tenant_id, created_at) INCLUDE (id) WHERE created_at IS NOT NULL AND started_at IS NULL;
SELECT * FROM retention.check_table();
-- others that do not
DROP INDEX app.other, app.another;
CREATE INDEX idx_executions_null_started_at ON app.executions (tenant_id, created_at);
CREATE INDEX wrong_1 ON app.executions (started_at, tenant_id);
CREATE INDEX wrong_2 ON app.executions (tenant_id, started_at) WHERE id > 0;
CREATE INDEX wrong_3 ON app.executions (tenant_id) INCLUDE (started_at);
CREATE INDEX wrong_4 ON app.executions USING brin (tenant_id, started_at);
CREATE INDEX wrong_5 ON app.executions ((tenant_id::text), started_at);
CREATE INDEX wrong_6 ON app.executions (tenant_id, created_at) WHERE created_at IS NOT NULL;
SELECT * FROM retention.check_table();
ROLLBACK;
-- invalid
BEGIN;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.idx_executions_retention_cleanup'::regclass;
SELECT * FROM retention.check_table();
ROLLBACK;

--
-- Foreign keys
--
CREATE TABLE app.steps (id bigint PRIMARY KEY, execution_id bigint REFERENCES app.executions ON DELETE CASCADE);
CREATE TABLE app."Step Logs" (n integer, "Step" bigint REFERENCES app.steps);
CREATE TABLE app.far (n integer PRIMARY KEY, step bigint);
SELECT * FROM retention.check_references() ORDER BY object COLLATE "C";
-- only cascades lead further
BEGIN;
ALTER TABLE app.steps DROP CONSTRAINT steps_execution_id_fkey,
    ADD FOREIGN KEY (execution_id) REFERENCES app.executions ON DELETE SET NULL;
SELECT object FROM retention.check_references() ORDER BY object COLLATE "C";
ROLLBACK;
-- indexes that serve
BEGIN;
CREATE INDEX ON app.steps (execution_id) WHERE execution_id IS NOT NULL;
CREATE INDEX ON app."Step Logs" ("Step", n) WHERE ("Step" IS NOT NULL);
SELECT * FROM retention.check_references() ORDER BY object COLLATE "C";
ROLLBACK;
-- indexes that do not
BEGIN;
CREATE INDEX ON app.steps (id, execution_id);
CREATE INDEX ON app.steps (execution_id) WHERE id > 0;
CREATE INDEX ON app.steps (execution_id) WHERE execution_id IS NULL;
CREATE INDEX ON app.steps USING brin (execution_id);
CREATE INDEX ON app.steps ((execution_id + 0));
SELECT object FROM retention.check_references() ORDER BY object COLLATE "C";
ROLLBACK;
-- several columns, in any order
BEGIN;
ALTER TABLE app.executions ADD UNIQUE (tenant_id, id);
CREATE TABLE app.notes (tenant_id uuid, note text, execution_id bigint,
    FOREIGN KEY (tenant_id, execution_id) REFERENCES app.executions (tenant_id, id));
CREATE INDEX ON app.notes (tenant_id, note, execution_id);
SELECT * FROM retention.check_references() WHERE object ~ 'notes' ORDER BY object COLLATE "C";
CREATE INDEX ON app.notes (execution_id, tenant_id, note) WHERE tenant_id IS NOT NULL AND execution_id IS NOT NULL;
SELECT * FROM retention.check_references() WHERE object ~ 'notes' ORDER BY object COLLATE "C";
ROLLBACK;
-- rings, partitions, the table itself
BEGIN;
ALTER TABLE app.executions ADD parent bigint REFERENCES app.executions ON DELETE CASCADE;
ALTER TABLE app.steps ADD log integer;
ALTER TABLE app.far ADD FOREIGN KEY (step) REFERENCES app.steps ON DELETE CASCADE;
ALTER TABLE app.steps ADD FOREIGN KEY (log) REFERENCES app.far ON DELETE CASCADE;
CREATE TABLE app.parts (n integer, execution_id bigint REFERENCES app.executions) PARTITION BY LIST (n);
CREATE TABLE app.part_1 PARTITION OF app.parts FOR VALUES IN (1);
SELECT * FROM retention.check_references() ORDER BY object COLLATE "C";
ROLLBACK;
DROP TABLE app."Step Logs", app.far;

--
-- Triggers
--
CREATE FUNCTION app.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TRIGGER each_row AFTER DELETE ON app.executions FOR EACH ROW EXECUTE FUNCTION app.noop();
CREATE TRIGGER before_each BEFORE INSERT OR DELETE ON app.steps FOR EACH ROW EXECUTE FUNCTION app.noop();
CREATE TRIGGER statement AFTER DELETE ON app.executions FOR EACH STATEMENT EXECUTE FUNCTION app.noop();
CREATE TRIGGER other_event BEFORE UPDATE ON app.executions FOR EACH ROW EXECUTE FUNCTION app.noop();
SELECT * FROM retention.check_triggers() ORDER BY object COLLATE "C";
ALTER TABLE app.executions DISABLE TRIGGER each_row;
ALTER TABLE app.steps DISABLE TRIGGER USER;
SELECT * FROM retention.check_triggers() ORDER BY object COLLATE "C";
DROP TABLE app.steps;

--
-- Row-level security, without a job
--
ALTER TABLE app.executions ENABLE ROW LEVEL SECURITY;
SELECT * FROM retention.check_rights();
ALTER TABLE app.executions DISABLE ROW LEVEL SECURITY;
SELECT * FROM retention.check_rights();

--
-- Vacuum
--
ALTER TABLE app.executions SET (autovacuum_enabled = off);
SELECT * FROM retention.check_vacuum();
ALTER TABLE app.executions RESET (autovacuum_enabled);
SELECT * FROM retention.check_vacuum();

--
-- Runs
--
BEGIN;
INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid, stop_reason, message, tenants_failed) VALUES
    (now(), now(), 'failed', 'me', 1, 'error', 'out of luck.', 0);
SELECT * FROM retention.check_schedule();
INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid) VALUES
    (now(), now(), 'cancelled', 'me', 1), (now(), NULL, 'running', 'me', 1);
SELECT * FROM retention.check_schedule();
INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid, stop_reason, tenants_failed) VALUES
    (now(), now(), 'partial', 'me', 1, 'done', 2);
SELECT severity, object, finding FROM retention.check_schedule();
ROLLBACK;
BEGIN;
SET LOCAL retention.enabled = off;
SELECT * FROM retention.check_schedule();
ROLLBACK;
BEGIN;
UPDATE retention.run_history SET started_at = now() - interval '100 hours';
SELECT * FROM retention.check_schedule();
ROLLBACK;

--
-- The worst comes first
--
BEGIN;
ALTER TABLE app.executions ALTER COLUMN tenant_id DROP NOT NULL;
ALTER TABLE app.executions SET (autovacuum_enabled = off);
DROP INDEX app.idx_executions_retention_cleanup;
SELECT severity, object FROM retention.check();
ROLLBACK;

--
-- Roles that may see little: fewer findings, no errors
--
CREATE ROLE chk_nobody;
CREATE ROLE chk_monitor;
GRANT pg_monitor TO chk_monitor;
SET ROLE chk_nobody;
SELECT * FROM retention.check();
SET ROLE chk_monitor;
SELECT * FROM retention.check();
RESET ROLE;

--
-- A partitioned table
--
DROP TABLE app.executions;
CREATE TABLE app.executions (id bigint, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz, PRIMARY KEY (id, tenant_id))
    PARTITION BY HASH (tenant_id);
CREATE TABLE app.e0 PARTITION OF app.executions FOR VALUES WITH (MODULUS 2, REMAINDER 0) WITH (autovacuum_enabled = off);
CREATE TABLE app.e1 PARTITION OF app.executions FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE app.steps (id bigint, tenant_id uuid, execution_id bigint, FOREIGN KEY (execution_id, tenant_id) REFERENCES app.executions);
CREATE TRIGGER each_row AFTER DELETE ON app.executions FOR EACH ROW EXECUTE FUNCTION app.noop();
CREATE TRIGGER of_one AFTER DELETE ON app.e1 FOR EACH ROW EXECUTE FUNCTION app.noop();
SELECT retention.attach('app.executions');
SELECT * FROM retention.check();
DROP INDEX app.idx_executions_null_started_at;
SELECT * FROM retention.check_table();

SET client_min_messages = warning;
DROP EXTENSION retention;
DROP SCHEMA app, ops CASCADE;
DROP ROLE chk_nobody, chk_monitor;
