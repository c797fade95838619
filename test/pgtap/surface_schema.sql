--
-- The schema retention: what is in it, how it is declared, who may use it.  A
-- change here is a change of the interface.
--
BEGIN;
SET client_min_messages = warning;
CREATE TABLE executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE EXTENSION retention;
SELECT no_plan();

-- The functions: volatility, and whether PUBLIC may call them
CREATE TEMP TABLE declared (name text, volatility text, is_public boolean);
INSERT INTO declared VALUES
    ('attach(regclass)', 'v', false),
    ('"check"()', 'v', true),
    ('check_cascades()', 's', true),
    ('check_references()', 's', true),
    ('check_rights()', 's', true),
    ('check_schedule()', 'v', true),
    ('check_table()', 's', true),
    ('check_triggers()', 's', true),
    ('check_vacuum(interval)', 's', true),
    ('cleanup_tenant(uuid,boolean)', 'v', false),
    ('cutoff(timestamp with time zone,integer)', 'i', true),
    ('deleted_since(timestamp with time zone)', 's', true),
    ('due(uuid,integer,integer)', 's', true),
    ('due_tenants(interval)', 's', true),
    ('executions()', 's', true),
    ('get_policy(uuid)', 's', true),
    ('has_cron()', 's', true),
    ('health()', 'v', true),
    ('hold_walks()', 'v', false),
    ('is_due(uuid,timestamp with time zone,timestamp with time zone,tid)', 'v', true),
    ('is_due(uuid,timestamp without time zone,timestamp without time zone,tid)', 'v', true),
    ('job_command(text)', 's', true),
    ('job_name(text)', 's', true),
    ('last_complete_run(uuid,bigint)', 's', true),
    ('list_policies()', 's', true),
    ('lock_tenant(uuid)', 'v', true),
    ('oldest_due(uuid,integer,integer)', 's', true),
    ('overdue_totals()', 's', true),
    ('patience()', 's', true),
    ('preview(uuid)', 's', true),
    ('raise_no_policy(uuid)', 'i', true),
    ('referencing(regclass)', 's', true),
    ('remove_policy(uuid)', 'v', false),
    ('require_tenant(uuid)', 'i', true),
    ('run(uuid,boolean,interval,integer,text,interval,integer)', 'v', false),
    ('run_is_alive(bigint)', 'v', true),
    ('run_status(bigint)', 'v', true),
    ('schedule(text)', 'v', false),
    ('scheduled_jobs()', 's', true),
    ('set_policy(uuid,integer,boolean,integer,uuid)', 'v', false),
    ('setting(text)', 's', true),
    ('unschedule()', 'v', false),
    ('visible_setting(text)', 's', true),
    ('with_partitions(regclass)', 's', true);
CREATE VIEW members AS
SELECT d.classid, d.objid, o.type, replace(replace(o.identity, 'pg_catalog.', ''), 'retention.', '') AS name
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'retention',
     pg_identify_object(d.classid, d.objid, 0) o
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND o.type <> 'type' AND o.identity ~ '^retention[.]';
CREATE VIEW functions AS
SELECT p.*, l.lanname, m.name
FROM members m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid JOIN pg_language l ON l.oid = p.prolang;

SELECT set_eq('SELECT name FROM functions', 'SELECT name FROM declared', 'the functions');
SELECT set_eq($$SELECT type || ' ' || name FROM members WHERE classid <> 'pg_proc'::regclass$$,
    ARRAY['table target', 'table run_history', 'sequence run_history_id_seq', 'table run_tenant',
        'table run_pruned', 'view history', 'view metrics', 'view progress', 'view status', 'view scheduled_jobs'], 'tables and views');

-- Declarations
SELECT is(provolatile::text, volatility, name || ' is declared ' || volatility) FROM functions JOIN declared USING (name) ORDER BY name;
SELECT is(proparallel::text, 'u', name || ' is PARALLEL UNSAFE') FROM functions
WHERE provolatile = 'v' OR (lanname = 'c' AND proname <> 'cutoff') ORDER BY name;
SELECT is(count(*), 0::bigint, 'every function that is not in C fixes its search_path') FROM functions
WHERE lanname <> 'c' AND NOT coalesce(proconfig::text ~ 'search_path=pg_catalog, pg_temp', false);
SELECT is(prokind::text, 'p', 'run is a procedure') FROM functions WHERE proname = 'run';
SELECT is(proconfig, NULL, 'which no SET clause keeps from committing') FROM functions WHERE proname = 'run';
SELECT is(count(*), 0::bigint, 'every function runs with the rights of the caller') FROM functions WHERE prosecdef;
SELECT is(count(*), 0::bigint, 'every view shows what its caller may see') FROM members m JOIN pg_class c
    ON m.classid = 'pg_class'::regclass AND c.oid = m.objid AND c.relkind = 'v'
WHERE NOT coalesce('security_invoker=true' = ANY (c.reloptions), false);

-- Signatures
SELECT is(pg_get_function_arguments(f), a, 'the arguments of ' || f)
FROM (VALUES
    ('retention.run'::regproc, 'IN tenant uuid DEFAULT NULL::uuid, IN force boolean DEFAULT false, IN max_runtime interval DEFAULT NULL::interval, '
        || 'IN max_rows_per_second integer DEFAULT NULL::integer, IN max_replication_lag text DEFAULT NULL::text, '
        || 'IN pause_between_batches interval DEFAULT NULL::interval, IN batch_size integer DEFAULT NULL::integer'),
    ('retention.preview', 'tenant uuid DEFAULT NULL::uuid'),
    ('retention.get_policy', 'tenant uuid'),
    ('retention.set_policy', 'tenant uuid, retention_days integer DEFAULT NULL::integer, is_enabled boolean DEFAULT NULL::boolean, '
        || 'min_executions_to_keep integer DEFAULT NULL::integer, by_user uuid DEFAULT NULL::uuid'),
    ('retention.remove_policy', 'tenant uuid'),
    ('retention.cleanup_tenant', 'tenant uuid, force boolean DEFAULT false'),
    ('retention.list_policies', ''),
    ('retention.health', ''),
    ('retention.check', ''),
    ('retention.schedule', 'cron text DEFAULT NULL::text'),
    ('retention.unschedule', '')) v (f, a);
SELECT is(pg_get_function_result(f), r, 'the result of ' || f)
FROM (VALUES
    ('retention.preview'::regproc, 'TABLE(tenant_id uuid, total_executions bigint, old_executions_count bigint, executions_to_delete bigint, '
        || 'cutoff_date timestamp with time zone, retention_days integer, min_executions_to_keep integer, would_delete boolean, is_enabled boolean)'),
    ('retention.set_policy', 'execution_retention_policies'),
    ('retention.remove_policy', 'execution_retention_policies'),
    ('retention.list_policies', 'SETOF execution_retention_policies'),
    ('retention.cleanup_tenant', 'TABLE(tenant_id uuid, deleted_count integer, execution_summary jsonb, skipped boolean, reason text)'),
    ('retention.check', 'TABLE(severity text, object text, finding text, advice text)')) v (f, r);
SELECT columns_are('retention', 'status', ARRAY['tenant_id', 'is_enabled', 'retention_days', 'min_executions_to_keep', 'last_cleanup_at',
    'last_cleanup_deleted_count', 'oldest_due', 'overdue', 'failed_runs', 'last_error', 'growing', 'severity', 'message']);
SELECT columns_are('retention', 'progress', ARRAY['run_id', 'pid', 'started_at', 'tenant', 'tenants_done', 'tenants_due', 'rows_deleted',
    'rows_estimated', 'percent', 'rows_per_second', 'estimated_end', 'waiting_for']);
SELECT columns_are('retention', 'run_history', ARRAY['id', 'started_at', 'finished_at', 'status', 'run_by', 'pid', 'only_tenant', 'tenants_due',
    'tenants', 'tenants_busy', 'tenants_failed', 'batches', 'rows_deleted', 'rows_estimated', 'rows_skipped_locked', 'rows_skipped_protected',
    'wal_bytes', 'waited_ms', 'waited_for', 'waiting_for', 'current_tenant', 'stop_reason', 'message']);
SELECT set_eq($$SELECT attname FROM pg_attribute WHERE attrelid = 'retention.history'::regclass AND attnum > 0$$,
    $$SELECT attname FROM pg_attribute WHERE attrelid = 'retention.run_history'::regclass AND attnum > 0$$, 'history has all of run_history');
SELECT columns_are('retention', 'run_tenant', ARRAY['run_id', 'tenant_id', 'rows_deleted', 'batches', 'rows_skipped_locked',
    'rows_skipped_protected', 'rows_kept', 'sqlstate', 'message', 'finished_at']);
SELECT columns_are('retention', 'run_pruned', ARRAY['status', 'runs', 'last_finished_at', 'tenants_failed', 'batches', 'rows_deleted',
    'rows_skipped_locked', 'rows_skipped_protected', 'wal_bytes', 'waited_ms', 'took_ms']);
SELECT columns_are('retention', 'metrics', ARRAY['name', 'labels', 'value', 'help', 'type']);
SELECT col_type_is('retention', 'metrics', c, t, format('metrics.%s is %s', c, t))
FROM (VALUES ('name', 'text'), ('labels', 'jsonb'), ('value', 'double precision'), ('help', 'text'), ('type', 'text')) v (c, t);
SELECT throws_ok($$INSERT INTO retention.run_history (started_at, run_by, pid, status) VALUES (now(), 'me', 1, 'perhaps')$$, '23514', NULL,
    'a status is one of those known');

-- Privileges
CREATE ROLE surface_nobody;
SELECT is(has_function_privilege('surface_nobody', oid, 'EXECUTE'), is_public,
    format('PUBLIC %s call %s', CASE WHEN is_public THEN 'can' ELSE 'cannot' END, name))
FROM functions JOIN declared USING (name) ORDER BY name;
CREATE TEMP TABLE guarded (name text);
INSERT INTO guarded VALUES ('retention.run_history'), ('retention.run_tenant'), ('retention.run_pruned'),
    ('execution_retention_policies');
SELECT ok(NOT has_table_privilege('surface_nobody', name, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'),
    'PUBLIC has no right on ' || name) FROM guarded;
SELECT ok(has_table_privilege('pg_monitor', name, 'SELECT'), 'pg_monitor can read ' || name) FROM guarded;
SELECT ok(NOT has_table_privilege('pg_monitor', name, 'INSERT, UPDATE, DELETE, TRUNCATE'), 'pg_monitor cannot write ' || name) FROM guarded;
SELECT ok(has_table_privilege('surface_nobody', 'retention.' || name, 'SELECT'), 'PUBLIC can ask ' || name)
FROM members WHERE type = 'view' ORDER BY name;
SELECT ok(NOT has_table_privilege('surface_nobody', 'retention.' || name, 'INSERT, UPDATE, DELETE'), 'PUBLIC cannot write ' || name)
FROM members WHERE type = 'view' ORDER BY name;

-- Comments: on all members, columns of tables, indexes that no constraint owns
SELECT is(count(*), 0::bigint, 'a comment on every member') FROM members
WHERE coalesce(obj_description(objid, classid::regclass::name), '') = '';
SELECT is(string_agg(format('%s.%s', attrelid::regclass, attname), ', '), NULL, 'a comment on every column')
FROM members m JOIN pg_attribute ON m.classid = 'pg_class'::regclass AND attrelid = m.objid
WHERE m.type = 'table' AND attnum > 0 AND NOT attisdropped AND coalesce(col_description(attrelid, attnum), '') = '';
SELECT ok(obj_description(i::regclass, 'pg_class') <> '', 'a comment on the index ' || i)
FROM unnest(ARRAY['retention.run_tenant_tenant_id_run_id_idx', 'retention.run_tenant_error_idx']) i;

-- History is not dumped
SELECT is(count(*), 0::bigint, 'history is not dumped') FROM pg_extension, unnest(extconfig) u (o)
WHERE extname = 'retention' AND u.o IN ('retention.run_history'::regclass, 'retention.run_tenant'::regclass, 'retention.run_pruned'::regclass);

-- Settings
SELECT set_has($$SELECT name, context, vartype, boot_val, min_val, max_val, unit FROM pg_settings WHERE name LIKE 'retention.%'$$,
    $$VALUES ('retention.apply_default_policy', 'superuser', 'bool', 'off', NULL, NULL, NULL),
        ('retention.enabled', 'superuser', 'bool', 'on', NULL, NULL, NULL),
        ('retention.history_days', 'superuser', 'integer', '90', '1', '2147483647', NULL),
        ('retention.log_min_duration', 'user', 'integer', '0', '-1', '2147483647', 'ms'),
        ('retention.max_replication_lag', 'user', 'integer', '0', '0', '2147483647', 'kB'),
        ('retention.max_rows_per_second', 'user', 'integer', '0', '0', '2147483647', NULL),
        ('retention.max_runtime', 'user', 'integer', '0', '0', '2147483647', 'ms'),
        ('retention.pause_between_batches', 'user', 'integer', '0', '0', '2147483647', 'ms'),
        ('retention.schedule', 'user', 'string', '0 2 * * *', NULL, NULL, NULL)$$,
    'the settings of runs: who may set them, and to what');

SELECT * FROM finish();
ROLLBACK;
