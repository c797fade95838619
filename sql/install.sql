--
-- CREATE EXTENSION, retention.attach() and DROP EXTENSION, over every kind of
-- executions table.  Each part makes its own tables and drops them again.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA inst;
-- what the extension left on a table, by whom, and whether it goes with it
CREATE FUNCTION inst.indexes_of(rel regclass)
RETURNS TABLE (index text, owner name, valid boolean, goes_with text, def text)
LANGUAGE sql AS $$
    SELECT c.relname::text, pg_get_userbyid(c.relowner), i.indisvalid,
           (SELECT string_agg(e.extname, ',') FROM pg_depend d
            JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'x'),
           regexp_replace(pg_get_indexdef(c.oid), '^.* USING ', '')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = rel ORDER BY c.relname
$$;
-- the table that is cleaned, with its schema whatever the search_path
CREATE FUNCTION inst.target() RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ')
            FROM retention.target t JOIN pg_class c ON c.oid = t.relation
            JOIN pg_namespace n ON n.oid = c.relnamespace);
END $$;
CREATE FUNCTION inst.fill(rel regclass, rows integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %s (tenant_id, started_at, created_at)
        SELECT %L, CASE WHEN i %% 5 > 0 THEN at END, at FROM (
            SELECT i, timestamptz ''2020-01-01 00:00:00+00'' + i * interval ''1 hour'' AS at
            FROM generate_series(1, %s) i) s', rel, 'aaaaaaaa-0000-4000-8000-000000000001', rows);
END $$;
-- an error without the numbers that differ from run to run
CREATE FUNCTION inst.attempt(statement text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN format('%s: %s', SQLSTATE, regexp_replace(SQLERRM, 'pg_temp_\d+', 'pg_temp'));
END $$;
RESET client_min_messages;

--
-- No table yet: it installs, says so, and is told about the table later
--
CREATE EXTENSION retention;
SELECT extname, extversion, n.nspname AS schema, extrelocatable
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'retention';
SELECT count(*) FROM retention.target;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
\echo :SQLSTATE
SELECT retention.attach();
\echo :SQLSTATE
CREATE TABLE executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL,
    started_at timestamptz, created_at timestamptz NOT NULL DEFAULT now());
SELECT inst.fill('executions', 10);
-- there now, but nobody has said so
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
\echo :SQLSTATE
SELECT retention.attach();
SELECT inst.target();
SELECT index, valid, goes_with, def FROM inst.indexes_of('executions');
-- once more changes nothing
SELECT oid AS before FROM pg_class WHERE relname = 'idx_executions_retention_cleanup' \gset
SELECT retention.attach();
SELECT retention.attach('executions');
SELECT count(*), bool_and(oid = :before) AS same_index FROM pg_class WHERE relname = 'idx_executions_retention_cleanup';
SELECT inst.target();
SELECT count(*) FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = :before AND deptype = 'x';
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 4);
-- the table goes, another one comes
DROP TABLE executions;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
\echo :SQLSTATE
SELECT retention.attach();
\echo :SQLSTATE
CREATE TABLE executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL,
    started_at timestamptz, created_at timestamptz NOT NULL DEFAULT now());
SELECT retention.attach();
SELECT inst.target();
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
DROP EXTENSION retention;
SELECT index, valid, goes_with, def FROM inst.indexes_of('executions');
DROP TABLE executions;

--
-- The usual case: the table is there
--
CREATE TABLE executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL,
    started_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), payload jsonb);
CREATE INDEX my_own_index ON executions (tenant_id, id);
SELECT inst.fill('executions', 1000);
SELECT md5(string_agg(e::text, '|' ORDER BY id)) AS before FROM executions e \gset
CREATE EXTENSION retention;
SELECT inst.target();
SELECT index, valid, goes_with, def FROM inst.indexes_of('executions');
SELECT index, valid, goes_with, def FROM inst.indexes_of('execution_retention_policies');
-- what it puts outside its own schema
SELECT o.type, o.identity
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'retention',
     pg_identify_object(d.classid, d.objid, 0) o
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND o.type <> 'type' AND o.schema IS DISTINCT FROM 'retention'
ORDER BY o.type COLLATE "C", o.identity COLLATE "C";
-- every member has a comment, and so have the trigger, the indexes and the columns
SELECT o.type, o.identity
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'retention',
     pg_identify_object(d.classid, d.objid, 0) o
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND o.type NOT IN ('type', 'sequence')
  AND obj_description(d.objid, d.classid::regclass::name) IS NULL
ORDER BY o.type COLLATE "C", o.identity COLLATE "C";
SELECT c.relname FROM pg_class c
WHERE c.relname IN ('idx_executions_retention_cleanup', 'idx_executions_null_started_at', 'idx_retention_policies_tenant')
  AND obj_description(c.oid, 'pg_class') IS NULL ORDER BY c.relname;
SELECT tgname FROM pg_trigger
WHERE tgrelid = 'execution_retention_policies'::regclass AND NOT tgisinternal AND obj_description(oid, 'pg_trigger') IS NULL;
SELECT attrelid::regclass, attname FROM pg_attribute
WHERE attrelid IN ('execution_retention_policies'::regclass, 'retention.target'::regclass) AND attnum > 0
  AND NOT attisdropped AND col_description(attrelid, attnum) IS NULL ORDER BY 1, 2;
SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'retention';
-- dumped with their rows
SELECT c.oid::regclass AS dumped, w AS condition
FROM pg_extension e, unnest(extconfig, extcondition) AS u(o, w) JOIN pg_class c ON c.oid = u.o
WHERE extname = 'retention' AND c.relname IN ('execution_retention_policies', 'target') ORDER BY c.relname;
ALTER EXTENSION retention SET SCHEMA inst;
\echo :SQLSTATE
-- a DBA may drop the indexes
BEGIN;
DROP INDEX idx_executions_retention_cleanup;
ROLLBACK;
DROP EXTENSION retention;
SELECT index, valid, goes_with, def FROM inst.indexes_of('executions');
SELECT md5(string_agg(e::text, '|' ORDER BY id)) = :'before' AS all_rows_as_they_were, count(*) FROM executions e;
SELECT nspname FROM pg_namespace WHERE nspname = 'retention';
SELECT to_regclass('execution_retention_policies') AS policies;
SELECT proname FROM pg_proc WHERE proname ~ '^(cleanup_old_executions|update_execution_retention)';
-- and in again, over the same rows
CREATE EXTENSION retention;
SELECT index, goes_with FROM inst.indexes_of('executions');
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 990);
-- a transaction that did not happen leaves nothing
DROP EXTENSION retention;
BEGIN;
CREATE EXTENSION retention;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 900);
ROLLBACK;
SELECT index, goes_with FROM inst.indexes_of('executions');
SELECT count(*) FROM executions;
DROP TABLE executions;

--
-- Where the table is looked for
--
CREATE SCHEMA app;
CREATE SCHEMA "we""ird";
CREATE TABLE app.executions (id int, tenant_id uuid, started_at timestamptz, created_at timestamptz);
CREATE TABLE "we""ird".executions (LIKE app.executions);
-- nowhere on the path
CREATE EXTENSION retention;
SELECT inst.target();
-- told by name
SELECT retention.attach('app.executions');
SELECT inst.target();
DROP EXTENSION retention;
-- later on the path
SET search_path = public, app;
CREATE EXTENSION retention;
SELECT inst.target();
SELECT to_regclass('public.execution_retention_policies') AS policies;
SELECT index, goes_with FROM inst.indexes_of('app.executions');
DROP EXTENSION retention;
-- the first one on the path
SET search_path = "we""ird", public, app;
CREATE EXTENSION retention SCHEMA public;
SELECT inst.target();
SELECT index, goes_with FROM inst.indexes_of('"we""ird".executions');
SELECT index, goes_with FROM inst.indexes_of('app.executions');
INSERT INTO "we""ird".executions SELECT i, 'aaaaaaaa-0000-4000-8000-000000000001', '2020-01-01', '2020-01-01' FROM generate_series(1, 7) i;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 5);
SELECT count(*) FROM "we""ird".executions;
DROP EXTENSION retention;
TRUNCATE "we""ird".executions;
-- not on the path, but in the schema the extension goes to
RESET search_path;
CREATE EXTENSION retention SCHEMA app;
SELECT inst.target();
SELECT to_regclass('app.execution_retention_policies') AS policies,
       to_regprocedure('app.cleanup_old_executions(uuid,integer,integer,integer)') AS cleanup,
       to_regprocedure('app.update_execution_retention_policies_updated_at()') AS trigger_function;
INSERT INTO app.execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
VALUES ('aaaaaaaa-0000-4000-8000-000000000001', 7, 1);
INSERT INTO app.executions SELECT i, 'aaaaaaaa-0000-4000-8000-000000000001', '2020-01-01', '2020-01-01' FROM generate_series(1, 7) i;
SELECT deleted_count, execution_summary -> 'retention_days' AS days, execution_summary -> 'min_to_keep' AS min
FROM app.cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
DROP EXTENSION retention;
TRUNCATE app.executions;
-- the extension in a schema whose name needs quotes, the table in one whose name has some
CREATE SCHEMA "Odd One";
SET search_path = "we""ird";
CREATE EXTENSION retention SCHEMA "Odd One";
SELECT inst.target();
RESET search_path;
INSERT INTO "Odd One".execution_retention_policies (tenant_id) VALUES ('aaaaaaaa-0000-4000-8000-000000000001');
UPDATE "Odd One".execution_retention_policies SET retention_days = 7;
SELECT deleted_count, execution_summary -> 'retention_days' AS days
FROM "Odd One".cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
DROP EXTENSION retention;
DROP SCHEMA "Odd One";
-- its own schema is not to be had for anything else
CREATE EXTENSION retention SCHEMA retention;
\echo :SQLSTATE
CREATE SCHEMA retention;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP SCHEMA retention;
-- a policy table of that name is there already
CREATE TABLE execution_retention_policies (tenant_id uuid);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE execution_retention_policies;
-- temporary tables are never taken
CREATE TEMP TABLE executions (id int, tenant_id uuid, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
SELECT inst.attempt($$SELECT retention.attach('pg_temp.executions')$$);
SET search_path = public, app;
SELECT retention.attach();
SELECT inst.target();
DROP EXTENSION retention;
DROP TABLE pg_temp.executions;
RESET search_path;

--
-- Somebody else's table
--
CREATE ROLE inst_owner;
CREATE ROLE inst_other;
ALTER TABLE app.executions OWNER TO inst_owner;
GRANT USAGE ON SCHEMA app, inst TO inst_owner, inst_other;
SET search_path = public, app;
-- only a superuser can create the extension
SET ROLE inst_owner;
CREATE EXTENSION retention;
\echo :SQLSTATE
RESET ROLE;
CREATE EXTENSION retention;
SELECT index, owner, goes_with FROM inst.indexes_of('app.executions');
-- everybody can see what is cleaned, and nobody can change it without being allowed to
SET ROLE inst_owner;
SELECT retention.attach('app.executions');
\echo :SQLSTATE
SELECT inst.target();
RESET ROLE;
SET ROLE inst_other;
SELECT retention.attach();
\echo :SQLSTATE
SELECT inst.target();
RESET ROLE;
-- nor with somebody else's table
GRANT EXECUTE ON FUNCTION retention.attach TO inst_other;
GRANT INSERT, DELETE ON retention.target TO inst_other;
SET ROLE inst_other;
SELECT retention.attach('app.executions');
\echo :SQLSTATE
RESET ROLE;
REVOKE INSERT, DELETE ON retention.target FROM inst_other;
-- a restore may write the same row again; two tables are one too many
INSERT INTO retention.target VALUES ('app.executions');
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
INSERT INTO retention.target VALUES ('"we""ird".executions');
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001');
\echo :SQLSTATE
SELECT retention.attach('app.executions');
SELECT inst.target();
DROP EXTENSION retention;
SELECT index, valid, goes_with, def FROM inst.indexes_of('app.executions');
RESET search_path;

--
-- Shapes of the table
--
-- without created_at: rows that never started stay for ever
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at timestamptz);
CREATE EXTENSION retention;
SELECT index, goes_with, def FROM inst.indexes_of('executions');
INSERT INTO executions (tenant_id, started_at)
SELECT 'aaaaaaaa-0000-4000-8000-000000000001', CASE WHEN i > 3 THEN timestamptz '2020-01-01' END FROM generate_series(1, 10) i;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 0);
SELECT id, started_at FROM executions ORDER BY id;
DROP EXTENSION retention;
DROP TABLE executions;
-- without started_at
CREATE TABLE executions (id bigserial, tenant_id uuid, created_at timestamptz);
CREATE EXTENSION retention;
SELECT index, goes_with, def FROM inst.indexes_of('executions');
INSERT INTO executions (tenant_id, created_at)
SELECT 'aaaaaaaa-0000-4000-8000-000000000001', CASE WHEN i > 3 THEN timestamptz '2020-01-01' END FROM generate_series(1, 10) i;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 2);
SELECT count(*), count(created_at) FROM executions;
DROP EXTENSION retention;
DROP TABLE executions;
-- without both
CREATE TABLE executions (id bigserial, tenant_id uuid, finished_at timestamptz);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions;
-- without tenant_id
CREATE TABLE executions (id bigserial, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions;
-- tenant_id of another type
CREATE TABLE executions (id bigserial, tenant_id text, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions;
-- columns that were there once do not count
CREATE TABLE executions (id bigserial, tenant_id uuid, created_at timestamptz, started_at timestamptz);
ALTER TABLE executions DROP COLUMN created_at, DROP COLUMN started_at;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions;
-- timestamp without time zone, both and one of them
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at timestamp, created_at timestamp);
CREATE EXTENSION retention;
SELECT index, def FROM inst.indexes_of('executions');
INSERT INTO executions (tenant_id, started_at, created_at)
SELECT 'aaaaaaaa-0000-4000-8000-000000000001', CASE WHEN i > 3 THEN timestamp '2020-01-01' END, '2020-01-01' FROM generate_series(1, 10) i;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 1);
DROP EXTENSION retention;
DROP TABLE executions;
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at timestamp, created_at timestamptz);
CREATE EXTENSION retention;
DROP EXTENSION retention;
DROP TABLE executions;
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at timestamptz, created_at timestamp);
CREATE EXTENSION retention;
DROP EXTENSION retention;
DROP TABLE executions;
-- date and other types are refused
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at date, created_at timestamptz);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions;
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at timestamptz, created_at bigint);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions;
-- a table that did not fit at install time can be put right afterwards
CREATE EXTENSION retention;
CREATE TABLE executions (id bigserial, tenant_id text, started_at timestamptz, created_at timestamptz);
SELECT retention.attach();
\echo :SQLSTATE
SELECT count(*) FROM retention.target;
ALTER TABLE executions ALTER tenant_id TYPE uuid USING tenant_id::uuid;
SELECT retention.attach();
-- another name is refused
CREATE TABLE something_else (LIKE executions);
SELECT retention.attach('something_else');
\echo :SQLSTATE
SELECT retention.attach('execution_retention_policies');
\echo :SQLSTATE
SELECT inst.target();
DROP EXTENSION retention;
DROP TABLE executions, something_else;
-- an index, a sequence (the words are the server's, and differ)
CREATE EXTENSION retention;
CREATE TABLE something_else (id int);
CREATE INDEX executions ON something_else (id);
SELECT left(inst.attempt($$SELECT retention.attach('executions')$$), 5);
DROP TABLE something_else;
CREATE SEQUENCE executions;
SELECT left(inst.attempt($$SELECT retention.attach('executions')$$), 5);
DROP SEQUENCE executions;
DROP EXTENSION retention;
-- views and foreign tables
CREATE TABLE really (id bigserial, tenant_id uuid, started_at timestamptz, created_at timestamptz);
CREATE VIEW executions AS SELECT * FROM really;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP VIEW executions;
CREATE MATERIALIZED VIEW executions AS SELECT * FROM really;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP MATERIALIZED VIEW executions;
DROP TABLE really;
CREATE FOREIGN DATA WRAPPER inst_fdw;
CREATE SERVER inst_server FOREIGN DATA WRAPPER inst_fdw;
CREATE FOREIGN TABLE executions (id bigint, tenant_id uuid, started_at timestamptz, created_at timestamptz) SERVER inst_server;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP FOREIGN TABLE executions;
SET client_min_messages = warning;
DROP FOREIGN DATA WRAPPER inst_fdw CASCADE;
RESET client_min_messages;
-- inheritance by hand
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at timestamptz, created_at timestamptz);
CREATE TABLE executions_child () INHERITS (executions);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions_child, executions;
-- unlogged
CREATE UNLOGGED TABLE executions (id bigserial, tenant_id uuid, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
SELECT inst.target();
DROP EXTENSION retention;
DROP TABLE executions;
-- partitioned
CREATE TABLE executions (id bigserial, tenant_id uuid, started_at timestamptz, created_at timestamptz) PARTITION BY RANGE (created_at);
CREATE TABLE executions_old PARTITION OF executions FOR VALUES FROM ('2019-01-01') TO ('2020-01-02');
CREATE TABLE executions_rest PARTITION OF executions DEFAULT;
CREATE EXTENSION retention;
SELECT index, valid, goes_with, def FROM inst.indexes_of('executions');
SELECT count(*) FROM inst.indexes_of('executions_old');
SELECT count(*) FROM inst.indexes_of('executions_rest');
SELECT inst.fill('executions', 100);
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 90);
DROP EXTENSION retention;
SELECT count(*) FROM inst.indexes_of('executions');
SELECT count(*) FROM inst.indexes_of('executions_old');
SELECT count(*) FROM inst.indexes_of('executions_rest');
SELECT count(*) FROM executions;
DROP TABLE executions;

--
-- Indexes that are there already
--
CREATE TABLE executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
SELECT inst.fill('executions', 100);
CREATE INDEX CONCURRENTLY idx_executions_retention_cleanup ON executions (tenant_id, started_at) WHERE started_at IS NOT NULL;
CREATE INDEX CONCURRENTLY idx_executions_null_started_at ON executions (tenant_id, created_at) WHERE started_at IS NULL;
SELECT string_agg(format('%s %s', oid, relfilenode), ',' ORDER BY relname) AS before FROM pg_class WHERE relname ~ '^idx_executions_' \gset
CREATE EXTENSION retention;
SELECT string_agg(format('%s %s', oid, relfilenode), ',' ORDER BY relname) = :'before' AS same_indexes FROM pg_class WHERE relname ~ '^idx_executions_';
SELECT index, goes_with FROM inst.indexes_of('executions');
-- dropped by the DBA, and built again by attach()
DROP INDEX idx_executions_null_started_at;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 90);
\echo :SQLSTATE
SELECT retention.attach();
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 90);
DROP EXTENSION retention;
SELECT index FROM inst.indexes_of('executions');
-- other ways to write an index that serves: descending, without the condition, with more columns
CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, started_at DESC) WHERE started_at IS NOT NULL;
CREATE INDEX idx_executions_null_started_at ON executions (tenant_id DESC, created_at DESC) WHERE started_at IS NULL;
CREATE EXTENSION retention;
SELECT index, goes_with, def FROM inst.indexes_of('executions');
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 80, 3);
DROP EXTENSION retention;
CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, started_at);
CREATE EXTENSION retention;
SELECT index, goes_with, def FROM inst.indexes_of('executions');
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 70, 3);
DROP EXTENSION retention;
-- ones that do not: too narrow
CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, started_at) WHERE started_at IS NOT NULL AND id > 50;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP INDEX idx_executions_retention_cleanup;
-- columns the wrong way round
CREATE INDEX idx_executions_retention_cleanup ON executions (started_at, tenant_id);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP INDEX idx_executions_retention_cleanup;
-- a column too few
CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP INDEX idx_executions_retention_cleanup;
-- another access method
CREATE INDEX idx_executions_retention_cleanup ON executions USING brin (tenant_id, started_at);
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP INDEX idx_executions_retention_cleanup;
-- an expression
CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, COALESCE(started_at, created_at));
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP INDEX idx_executions_retention_cleanup;
-- the wrong condition on the leg of rows that never started
CREATE INDEX idx_executions_null_started_at ON executions (tenant_id, created_at) WHERE started_at IS NOT NULL;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP INDEX idx_executions_null_started_at;
-- no index at all
CREATE VIEW idx_executions_null_started_at AS SELECT 1 AS one;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP VIEW idx_executions_null_started_at;
-- an index of that name on another table
CREATE TABLE something_else (LIKE executions);
CREATE INDEX idx_executions_retention_cleanup ON something_else (tenant_id, started_at) WHERE started_at IS NOT NULL;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE something_else;
-- one that CREATE INDEX CONCURRENTLY did not finish
CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, started_at) WHERE started_at IS NOT NULL;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_executions_retention_cleanup'::regclass;
CREATE EXTENSION retention;
\echo :SQLSTATE
-- and one that was fine when it was attached
UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'idx_executions_retention_cleanup'::regclass;
CREATE EXTENSION retention;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_executions_retention_cleanup'::regclass;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 0);
\echo :SQLSTATE
REINDEX INDEX idx_executions_retention_cleanup;
SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 90, 60);
DROP EXTENSION retention;
DROP TABLE executions;

--
-- a partition that is a foreign table, and a table that is none
--
CREATE FOREIGN DATA WRAPPER inst_wrapper;
CREATE SERVER inst_server FOREIGN DATA WRAPPER inst_wrapper;
CREATE TABLE executions (tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz) PARTITION BY RANGE (started_at);
CREATE FOREIGN TABLE executions_far PARTITION OF executions FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') SERVER inst_server;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP TABLE executions;
DROP SERVER inst_server;
DROP FOREIGN DATA WRAPPER inst_wrapper;
CREATE EXTENSION retention;
SELECT retention.attach('-');
\echo :SQLSTATE
DROP EXTENSION retention;

--
-- CREATE EXTENSION ... CASCADE, IF NOT EXISTS, and a second time
--
CREATE EXTENSION IF NOT EXISTS retention CASCADE;
CREATE EXTENSION IF NOT EXISTS retention;
CREATE EXTENSION retention;
\echo :SQLSTATE
DROP EXTENSION retention;

SET client_min_messages = warning;
DROP SCHEMA app, "we""ird", inst CASCADE;
DROP ROLE inst_owner, inst_other;
