/* retention--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION retention" to load this file. \quit

-- schema

CREATE SCHEMA retention;

-- tables

CREATE TABLE @extschema@.execution_retention_policies
(
	id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
	tenant_id uuid NOT NULL,
	retention_days integer NOT NULL DEFAULT 90,
	is_enabled boolean NOT NULL DEFAULT true,
	min_executions_to_keep integer NOT NULL DEFAULT 100,
	last_cleanup_at timestamptz,
	last_cleanup_deleted_count bigint NOT NULL DEFAULT 0,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	created_by uuid,
	updated_by uuid,
	CONSTRAINT execution_retention_policies_pkey PRIMARY KEY (id),
	CONSTRAINT unique_tenant_retention_policy UNIQUE (tenant_id),
	CONSTRAINT retention_days_must_be_at_least_1
		CHECK (retention_days OPERATOR(pg_catalog.>=) 1),
	CONSTRAINT min_executions_to_keep_must_not_be_negative
		CHECK (min_executions_to_keep OPERATOR(pg_catalog.>=) 0)
);

CREATE INDEX idx_retention_policies_tenant
	ON @extschema@.execution_retention_policies (tenant_id) WHERE is_enabled;

SELECT pg_catalog.pg_extension_config_dump(
	'@extschema@.execution_retention_policies', '');

-- no unique constraint: a restore into a database in which the table is
-- attached already adds the same row again
CREATE TABLE retention.target
(
	relation regclass NOT NULL
);

SELECT pg_catalog.pg_extension_config_dump('retention.target', '');

-- C functions

CREATE FUNCTION @extschema@.cleanup_old_executions(
	p_tenant_id uuid,
	p_retention_days integer DEFAULT NULL,
	p_min_executions_to_keep integer DEFAULT NULL,
	p_batch_size integer DEFAULT NULL)
RETURNS TABLE (deleted_count integer, execution_summary jsonb)
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1 COST 100000
AS 'MODULE_PATHNAME', 'cleanup_old_executions';

CREATE FUNCTION @extschema@.update_execution_retention_policies_updated_at()
RETURNS trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'update_execution_retention_policies_updated_at';

CREATE FUNCTION retention.attach(executions regclass DEFAULT NULL)
RETURNS regclass
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'retention_attach';

-- trigger

CREATE TRIGGER trigger_update_execution_retention_policies_updated_at
	BEFORE UPDATE ON @extschema@.execution_retention_policies
	FOR EACH ROW
	WHEN (OLD.tenant_id IS DISTINCT FROM NEW.tenant_id
		OR OLD.retention_days IS DISTINCT FROM NEW.retention_days
		OR OLD.is_enabled IS DISTINCT FROM NEW.is_enabled
		OR OLD.min_executions_to_keep IS DISTINCT FROM NEW.min_executions_to_keep
		OR OLD.updated_by IS DISTINCT FROM NEW.updated_by)
	EXECUTE FUNCTION @extschema@.update_execution_retention_policies_updated_at();

-- comments

COMMENT ON SCHEMA retention IS
	'What the extension retention offers beside its policy table and cleanup function';

COMMENT ON TABLE @extschema@.execution_retention_policies IS
	'How long the executions of each tenant are kept; one row a tenant';
COMMENT ON COLUMN @extschema@.execution_retention_policies.id IS
	'Key of the policy';
COMMENT ON COLUMN @extschema@.execution_retention_policies.tenant_id IS
	'The tenant; has one policy at most';
COMMENT ON COLUMN @extschema@.execution_retention_policies.retention_days IS
	'Executions older than so many days of 24 hours are due; at least 1';
COMMENT ON COLUMN @extschema@.execution_retention_policies.is_enabled IS
	'Whether scheduled cleanups clean the tenant';
COMMENT ON COLUMN @extschema@.execution_retention_policies.min_executions_to_keep IS
	'So many of the tenant''s newest executions stay, whatever their age';
COMMENT ON COLUMN @extschema@.execution_retention_policies.last_cleanup_at IS
	'When the tenant was cleaned last; NULL: never';
COMMENT ON COLUMN @extschema@.execution_retention_policies.last_cleanup_deleted_count IS
	'How many executions the last cleanup deleted';
COMMENT ON COLUMN @extschema@.execution_retention_policies.created_at IS
	'When the policy was made';
COMMENT ON COLUMN @extschema@.execution_retention_policies.updated_at IS
	'When tenant_id, retention_days, is_enabled, min_executions_to_keep or updated_by changed last';
COMMENT ON COLUMN @extschema@.execution_retention_policies.created_by IS
	'Who made the policy, as the application has it';
COMMENT ON COLUMN @extschema@.execution_retention_policies.updated_by IS
	'Who changed the policy last, as the application has it';
COMMENT ON CONSTRAINT unique_tenant_retention_policy
	ON @extschema@.execution_retention_policies IS
	'One policy a tenant';
COMMENT ON INDEX @extschema@.idx_retention_policies_tenant IS
	'Finds the tenants whose policy is enabled';
COMMENT ON TRIGGER trigger_update_execution_retention_policies_updated_at
	ON @extschema@.execution_retention_policies IS
	'Moves updated_at when a setting of the policy changes';

COMMENT ON TABLE retention.target IS
	'The table that is cleaned; written by retention.attach()';
COMMENT ON COLUMN retention.target.relation IS
	'The table';

COMMENT ON FUNCTION @extschema@.cleanup_old_executions(uuid, integer, integer, integer) IS
	'Deletes the executions of a tenant that are older than p_retention_days (days of 24 hours) and not among its newest p_min_executions_to_keep, oldest first, p_batch_size rows at a time, in the caller''s transaction and with the caller''s rights. NULL means the tenant''s policy, else the settings retention.*. Returns the number of deleted rows and a summary.';
COMMENT ON FUNCTION @extschema@.update_execution_retention_policies_updated_at() IS
	'Trigger function: sets updated_at to the current time';
COMMENT ON FUNCTION retention.attach(regclass) IS
	'Makes a table named executions the one that is cleaned: uses or builds its indexes, which go with the extension, and records it. NULL looks for it on the search path and in the extension''s schema. Returns the table.';

-- privileges

REVOKE EXECUTE ON FUNCTION
	@extschema@.cleanup_old_executions(uuid, integer, integer, integer),
	@extschema@.update_execution_retention_policies_updated_at(),
	retention.attach(regclass)
FROM PUBLIC;

GRANT USAGE ON SCHEMA retention TO PUBLIC;
GRANT SELECT ON retention.target TO PUBLIC;

-- The table to clean, if it exists: its indexes are built or adopted now.
SELECT retention.attach();
