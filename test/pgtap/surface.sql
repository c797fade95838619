--
-- The public surface of policies and cleanup: what exists, how it is declared,
-- who may use it.  A change here is a change of the interface.  Some rules hold
-- for every member of the extension.
--
BEGIN;
SET client_min_messages = warning;
CREATE TABLE executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE EXTENSION retention;
SELECT no_plan();

-- Members
CREATE VIEW members AS
SELECT d.classid, d.objid, o.type, o.identity
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'retention',
     pg_identify_object(d.classid, d.objid, 0) o
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND o.type <> 'type';
SELECT set_eq($$SELECT type || ' ' || identity FROM members WHERE identity !~ '^retention[.]' AND type <> 'schema'$$, ARRAY[
    'table public.execution_retention_policies',
    'function public.cleanup_old_executions(pg_catalog.uuid,integer,integer,integer)',
    'function public.update_execution_retention_policies_updated_at()'
], 'outside its own schema the extension has what the SQL contract names, and nothing else');
SELECT set_eq($$SELECT identity FROM members WHERE type = 'schema'$$, ARRAY['retention'], 'its own schema');
SELECT set_has($$SELECT type || ' ' || identity FROM members$$,
    $$VALUES ('table retention.target'), ('function retention.attach(pg_catalog.regclass)')$$, 'which table is cleaned');
SELECT is(extversion, '1.0', 'version') FROM pg_extension WHERE extname = 'retention';
SELECT ok(NOT extrelocatable, 'not relocatable') FROM pg_extension WHERE extname = 'retention';

-- The policy table
SELECT columns_are('public', 'execution_retention_policies', ARRAY['id', 'tenant_id', 'retention_days', 'is_enabled',
    'min_executions_to_keep', 'last_cleanup_at', 'last_cleanup_deleted_count', 'created_at', 'updated_at', 'created_by', 'updated_by']);
SELECT col_type_is('public', 'execution_retention_policies', c, t, format('%s is %s', c, t))
FROM (VALUES ('id', 'uuid'), ('tenant_id', 'uuid'), ('retention_days', 'integer'), ('is_enabled', 'boolean'),
    ('min_executions_to_keep', 'integer'), ('last_cleanup_at', 'timestamp with time zone'), ('last_cleanup_deleted_count', 'bigint'),
    ('created_at', 'timestamp with time zone'), ('updated_at', 'timestamp with time zone'), ('created_by', 'uuid'), ('updated_by', 'uuid')) v(c, t);
SELECT col_not_null('public', 'execution_retention_policies', c, c || ' is NOT NULL')
FROM unnest(ARRAY['id', 'tenant_id', 'retention_days', 'is_enabled', 'min_executions_to_keep', 'created_at', 'updated_at']) c;
SELECT col_is_null('public', 'execution_retention_policies', c, c || ' may be NULL')
FROM unnest(ARRAY['last_cleanup_at', 'created_by', 'updated_by']) c;
SELECT col_default_is('public', 'execution_retention_policies', c, d, format('the default of %s is %s', c, d))
FROM (VALUES ('retention_days', '90'), ('is_enabled', 'true'), ('min_executions_to_keep', '100'), ('last_cleanup_deleted_count', '0'),
    ('created_at', 'now()'), ('updated_at', 'now()')) v(c, d);
SELECT col_is_pk('public', 'execution_retention_policies', 'id', 'id is the key');
SELECT col_is_unique('public', 'execution_retention_policies', 'tenant_id', 'one policy for each tenant');
SELECT set_eq($$SELECT conname FROM pg_constraint WHERE conrelid = 'execution_retention_policies'::regclass AND contype <> 'n'$$,
    ARRAY['execution_retention_policies_pkey', 'unique_tenant_retention_policy', 'retention_days_must_be_at_least_1',
        'min_executions_to_keep_must_not_be_negative'], 'the constraints by name');
SELECT has_trigger('public', 'execution_retention_policies', 'trigger_update_execution_retention_policies_updated_at', 'the trigger');
SELECT trigger_is('public', 'execution_retention_policies', 'trigger_update_execution_retention_policies_updated_at',
    'public', 'update_execution_retention_policies_updated_at', 'the trigger calls its function');
SELECT columns_are('retention', 'target', ARRAY['relation', 'time_columns']);
SELECT col_type_is('retention', 'target', 'relation', 'regclass', 'a regclass, which survives pg_upgrade and dumps as a name');
SELECT col_not_null('retention', 'target', 'relation', 'never NULL');

-- The three indexes
SELECT matches(pg_get_indexdef(i::regclass), d, i)
FROM (VALUES ('idx_executions_retention_cleanup', 'ON public\.executions USING btree \(tenant_id, started_at\) WHERE \(started_at IS NOT NULL\)$'),
    ('idx_executions_null_started_at', 'ON public\.executions USING btree \(tenant_id, created_at\) WHERE \(started_at IS NULL\)$'),
    ('idx_retention_policies_tenant', 'ON public\.execution_retention_policies USING btree \(tenant_id\) WHERE (is_enabled|\(is_enabled = true\))$')) v(i, d);
SELECT set_eq(
    $$SELECT c.relname::text FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
      WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'x'$$,
    ARRAY['idx_executions_null_started_at', 'idx_executions_retention_cleanup'], 'two indexes go with the extension');

-- Functions: signatures, languages, declarations
CREATE VIEW functions AS
SELECT p.*, l.lanname, p.oid::regprocedure::text AS signature
FROM members m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid JOIN pg_language l ON l.oid = p.prolang;
CREATE VIEW ours AS SELECT * FROM functions
WHERE proname IN ('cleanup_old_executions', 'update_execution_retention_policies_updated_at', 'attach');
SELECT is(pg_get_function_arguments('cleanup_old_executions'::regproc),
    'p_tenant_id uuid, p_retention_days integer DEFAULT NULL::integer, p_min_executions_to_keep integer DEFAULT NULL::integer, '
    || 'p_batch_size integer DEFAULT NULL::integer', 'the arguments of cleanup_old_executions');
SELECT is(pg_get_function_result('cleanup_old_executions'::regproc),
    'TABLE(deleted_count integer, execution_summary jsonb)', 'the result of cleanup_old_executions');
SELECT is(pg_get_function_arguments('retention.attach'::regproc), 'executions regclass DEFAULT NULL::regclass', 'the arguments of attach');
SELECT is(pg_get_function_result('retention.attach'::regproc), 'regclass', 'the result of attach');
SELECT function_lang_is('public', 'cleanup_old_executions', ARRAY['uuid', 'integer', 'integer', 'integer'], 'c', 'cleanup_old_executions is in C');
SELECT function_returns('public', 'update_execution_retention_policies_updated_at', ARRAY[]::name[], 'trigger', 'a trigger function');
SELECT is(provolatile::text, 'v', signature || ' writes: VOLATILE') FROM ours ORDER BY signature;
SELECT is(proparallel::text, 'u', signature || ' is PARALLEL UNSAFE') FROM ours ORDER BY signature;
SELECT ok(NOT proisstrict, signature || ' is not STRICT') FROM ours ORDER BY signature;
SELECT is(count(*), 0::bigint, 'every function runs with the rights of the caller') FROM functions WHERE prosecdef;
SELECT is(count(*), 0::bigint, 'no function is LEAKPROOF') FROM functions WHERE proleakproof;
SELECT is(prorows, 1::real, 'the planner expects one row') FROM functions WHERE proname = 'cleanup_old_executions';
SELECT is(count(*), 0::bigint, 'every function that is not in C fixes its search_path') FROM functions
WHERE lanname <> 'c' AND prokind = 'f' AND NOT coalesce(proconfig::text ~ 'search_path=pg_catalog, pg_temp', false);

-- Privileges
CREATE ROLE surface_nobody;
SELECT ok(NOT has_function_privilege('surface_nobody', 'cleanup_old_executions(uuid,integer,integer,integer)', 'EXECUTE'),
    'PUBLIC cannot clean');
SELECT ok(NOT has_function_privilege('surface_nobody', 'retention.attach(regclass)', 'EXECUTE'), 'PUBLIC cannot attach');
SELECT ok(has_schema_privilege('surface_nobody', 'retention', 'USAGE'), 'PUBLIC can look into the schema');
SELECT ok(NOT has_schema_privilege('surface_nobody', 'retention', 'CREATE'), 'PUBLIC cannot put anything there');
SELECT ok(has_table_privilege('surface_nobody', 'retention.target', 'SELECT'), 'PUBLIC can see what is cleaned');
SELECT ok(NOT has_table_privilege('surface_nobody', t, p), format('PUBLIC: no %s on %s', p, t))
FROM unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER', 'REFERENCES']) p,
     unnest(ARRAY['retention.target', 'execution_retention_policies']) t;
SELECT ok(NOT has_table_privilege('surface_nobody', 'execution_retention_policies', 'SELECT'), 'PUBLIC cannot read policies');

-- Comments
SELECT ok(coalesce(obj_description(objid, classid::regclass::name), '') <> '', 'a comment on ' || type || ' ' || identity)
FROM members WHERE type <> 'sequence' ORDER BY type, identity;
SELECT ok(coalesce(obj_description(i::regclass, 'pg_class'), '') <> '', 'a comment on ' || i)
FROM unnest(ARRAY['idx_executions_retention_cleanup', 'idx_executions_null_started_at', 'idx_retention_policies_tenant']) i;
SELECT ok(obj_description(oid, 'pg_trigger') <> '', 'a comment on ' || tgname) FROM pg_trigger
WHERE tgrelid = 'execution_retention_policies'::regclass AND NOT tgisinternal;
SELECT ok(col_description(attrelid, attnum) <> '', format('a comment on %s.%s', attrelid::regclass, attname)) FROM pg_attribute
WHERE attrelid IN ('execution_retention_policies'::regclass, 'retention.target'::regclass) AND attnum > 0 AND NOT attisdropped
ORDER BY attrelid, attnum;

-- Dumped with their rows, and whole
SELECT set_has($$SELECT u.o::regclass::text, u.w FROM pg_extension, unnest(extconfig, extcondition) u(o, w)
      WHERE extname = 'retention'$$,
    $$VALUES ('execution_retention_policies', ''), ('retention.target', '')$$, 'the tables that are dumped');

-- Settings
-- (that some exist that are not named here is no fault)
SELECT set_has($$SELECT name, context, vartype, boot_val, min_val, max_val, unit FROM pg_settings WHERE name LIKE 'retention.%'$$,
    $$VALUES ('retention.batch_size', 'user', 'integer', '1000', '1', '1000000', NULL),
        ('retention.default_min_executions_to_keep', 'superuser', 'integer', '100', '0', '2147483647', NULL),
        ('retention.default_retention_days', 'superuser', 'integer', '90', '0', '2147483647', NULL),
        ('retention.lock_timeout', 'user', 'integer', '2000', '1', '2147483647', 'ms'),
        ('retention.max_batches_per_call', 'user', 'integer', '0', '0', '2147483647', NULL)$$,
    'who may set them, and to what');
SELECT ok(short_desc ~ '^Sets ', name || ' is described: ' || short_desc) FROM pg_settings WHERE name LIKE 'retention.%' ORDER BY name;

SELECT * FROM finish();
ROLLBACK;
