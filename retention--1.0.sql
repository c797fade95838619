/* retention--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION retention" to load this file. \quit

-- Names below have their schema; operators are those of pg_catalog.
SET LOCAL search_path = pg_catalog, pg_temp;

-- What is there under the names of the SQL contract was written by hand: a
-- script brings its policies over.  Said before anything is created.
DO $$
DECLARE
	hint text := 'It was perhaps written by hand: the script migrations/add_execution_retention_policy.sql creates the extension and keeps the policies.  Run that instead of CREATE EXTENSION.';
	function text;
BEGIN
	IF to_regclass('@extschema@.execution_retention_policies') IS NOT NULL THEN
		RAISE EXCEPTION 'relation "%" already exists', '@extschema@.execution_retention_policies'
			USING ERRCODE = 'duplicate_table', HINT = hint;
	END IF;
	FOREACH function IN ARRAY ARRAY[
		'@extschema@.cleanup_old_executions(uuid,integer,integer,integer)',
		'@extschema@.update_execution_retention_policies_updated_at()']
	LOOP
		IF to_regprocedure(function) IS NOT NULL THEN
			RAISE EXCEPTION 'function % already exists', function
				USING ERRCODE = 'duplicate_object', HINT = hint;
		END IF;
	END LOOP;
END $$;

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
)
-- room in each page for the rows that a run updates: no index is touched then
WITH (fillfactor = 50);

CREATE INDEX idx_retention_policies_tenant
	ON @extschema@.execution_retention_policies (tenant_id) WHERE is_enabled;

SELECT pg_catalog.pg_extension_config_dump(
	'@extschema@.execution_retention_policies', '');

-- no unique constraint: a restore into a database in which the table is
-- attached already adds the same row again
CREATE TABLE retention.target
(
	relation regclass NOT NULL,
	time_columns text NOT NULL DEFAULT 'started_at, created_at'
);

SELECT pg_catalog.pg_extension_config_dump('retention.target', '');

CREATE TABLE retention.run_history
(
	id bigint GENERATED ALWAYS AS IDENTITY,
	started_at timestamptz NOT NULL,
	finished_at timestamptz,
	status text NOT NULL DEFAULT 'running',
	run_by name NOT NULL,
	pid integer NOT NULL,
	only_tenant uuid,
	tenants_due integer NOT NULL DEFAULT 0,
	tenants integer NOT NULL DEFAULT 0,
	tenants_busy integer NOT NULL DEFAULT 0,
	tenants_failed integer NOT NULL DEFAULT 0,
	batches bigint NOT NULL DEFAULT 0,
	rows_deleted bigint NOT NULL DEFAULT 0,
	rows_estimated bigint,
	rows_skipped_locked bigint NOT NULL DEFAULT 0,
	rows_skipped_protected bigint NOT NULL DEFAULT 0,
	wal_bytes bigint NOT NULL DEFAULT 0,
	waited_ms bigint NOT NULL DEFAULT 0,
	waited_for text,
	waiting_for text,
	current_tenant uuid,
	stop_reason text,
	message text,
	CONSTRAINT run_history_pkey PRIMARY KEY (id),
	CONSTRAINT status_must_be_known CHECK (status IN ('running', 'succeeded',
		'partial', 'failed', 'interrupted', 'cancelled'))
);

CREATE TABLE retention.run_tenant
(
	run_id bigint NOT NULL,
	tenant_id uuid NOT NULL,
	rows_deleted bigint NOT NULL DEFAULT 0,
	batches bigint NOT NULL DEFAULT 0,
	rows_skipped_locked bigint NOT NULL DEFAULT 0,
	rows_skipped_protected bigint NOT NULL DEFAULT 0,
	rows_kept bigint NOT NULL DEFAULT 0,
	sqlstate text,
	message text,
	finished_at timestamptz NOT NULL,
	-- no foreign key: it would be checked for each of a run's tenants
	CONSTRAINT run_tenant_pkey PRIMARY KEY (run_id, tenant_id)
);

CREATE INDEX run_tenant_tenant_id_run_id_idx
	ON retention.run_tenant (tenant_id, run_id);

CREATE INDEX run_tenant_error_idx
	ON retention.run_tenant (run_id, tenant_id) WHERE sqlstate IS NOT NULL;

-- what totals need of runs that are no longer in history
CREATE TABLE retention.run_pruned
(
	status text NOT NULL,
	runs bigint NOT NULL,
	last_finished_at timestamptz,
	tenants_failed bigint NOT NULL,
	batches bigint NOT NULL,
	rows_deleted bigint NOT NULL,
	rows_skipped_locked bigint NOT NULL,
	rows_skipped_protected bigint NOT NULL,
	wal_bytes bigint NOT NULL,
	waited_ms bigint NOT NULL,
	took_ms bigint NOT NULL,
	CONSTRAINT run_pruned_pkey PRIMARY KEY (status)
);

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

-- Commits, so it has no SET clause: that would make it atomic.
CREATE PROCEDURE retention.run(
	tenant uuid DEFAULT NULL,
	force boolean DEFAULT false,
	max_runtime interval DEFAULT NULL,
	max_rows_per_second integer DEFAULT NULL,
	max_replication_lag text DEFAULT NULL,
	pause_between_batches interval DEFAULT NULL,
	batch_size integer DEFAULT NULL)
LANGUAGE C
AS 'MODULE_PATHNAME', 'retention_run';

CREATE FUNCTION retention.preview(tenant uuid DEFAULT NULL)
RETURNS TABLE (
	tenant_id uuid,
	total_executions bigint,
	old_executions_count bigint,
	executions_to_delete bigint,
	cutoff_date timestamptz,
	retention_days integer,
	min_executions_to_keep integer,
	would_delete boolean,
	is_enabled boolean)
LANGUAGE C STABLE PARALLEL UNSAFE COST 100000
AS 'MODULE_PATHNAME', 'retention_preview';

CREATE FUNCTION retention.cutoff(at timestamptz, days integer)
RETURNS timestamptz
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'retention_cutoff';

-- what a statement of a run asks about each row; false for everybody else
CREATE FUNCTION retention.is_due(
	tenant uuid,
	started timestamptz,
	created timestamptz,
	place tid)
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'retention_is_due';

CREATE FUNCTION retention.is_due(
	tenant uuid,
	started timestamp,
	created timestamp,
	place tid)
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'retention_is_due';

CREATE FUNCTION retention.oldest_due(
	tenant uuid,
	retention_days integer,
	min_executions_to_keep integer)
RETURNS timestamptz
LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 1000
AS 'MODULE_PATHNAME', 'retention_oldest_due';

CREATE FUNCTION retention.due_tenants(late interval DEFAULT NULL)
RETURNS TABLE (tenant_id uuid, oldest_due timestamptz)
LANGUAGE C STABLE PARALLEL UNSAFE COST 100000
AS 'MODULE_PATHNAME', 'retention_due_tenants';

CREATE FUNCTION retention.lock_tenant(tenant uuid)
RETURNS void
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'retention_lock_tenant';

CREATE FUNCTION retention.hold_walks()
RETURNS trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'retention_hold_walks';

CREATE FUNCTION retention.run_is_alive(run_id bigint)
RETURNS boolean
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'retention_run_is_alive';

-- SQL functions: settings and arguments

CREATE FUNCTION retention.setting(name text)
RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- any C function: the settings are there once the library is loaded
	PERFORM retention.cutoff('epoch', 0);
	RETURN current_setting('retention.' || name);
END $$;

CREATE FUNCTION retention.require_tenant(tenant uuid)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF tenant IS NULL THEN
		RAISE EXCEPTION 'argument "tenant" must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Name the tenant by its uuid.';
	END IF;
END $$;

CREATE FUNCTION retention.raise_no_policy(tenant uuid)
RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'tenant "%" has no retention policy', tenant
		USING ERRCODE = 'undefined_object',
			HINT = format('Give it one: SELECT * FROM retention.set_policy(%L, retention_days => 90);', tenant);
END $$;

-- SQL functions: policies

CREATE FUNCTION retention.get_policy(tenant uuid)
RETURNS TABLE (
	tenant_id uuid,
	retention_days integer,
	retention_days_from text,
	is_enabled boolean,
	is_enabled_from text,
	min_executions_to_keep integer,
	min_executions_to_keep_from text,
	last_cleanup_at timestamptz,
	last_cleanup_deleted_count bigint,
	created_at timestamptz,
	updated_at timestamptz,
	created_by uuid,
	updated_by uuid)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	PERFORM retention.require_tenant(tenant);

	RETURN QUERY
	SELECT p.tenant_id,
		p.retention_days, 'policy',
		p.is_enabled, 'policy',
		p.min_executions_to_keep, 'policy',
		p.last_cleanup_at, p.last_cleanup_deleted_count,
		p.created_at, p.updated_at, p.created_by, p.updated_by
	FROM @extschema@.execution_retention_policies AS p
	WHERE p.tenant_id = get_policy.tenant;

	IF NOT FOUND THEN
		IF row_security_active('@extschema@.execution_retention_policies') THEN
			RAISE EXCEPTION 'row-level security may hide the policy of the tenant'
				USING ERRCODE = 'insufficient_privilege',
					HINT = 'Ask as a role that sees the policy.';
		END IF;
		tenant_id := tenant;
		retention_days := retention.setting('default_retention_days');
		retention_days_from := 'default';
		is_enabled := retention.setting('apply_default_policy');
		is_enabled_from := 'default';
		min_executions_to_keep :=
			retention.setting('default_min_executions_to_keep');
		min_executions_to_keep_from := 'default';
		RETURN NEXT;
	END IF;
END $$;

CREATE FUNCTION retention.set_policy(
	tenant uuid,
	retention_days integer DEFAULT NULL,
	is_enabled boolean DEFAULT NULL,
	min_executions_to_keep integer DEFAULT NULL,
	by_user uuid DEFAULT NULL)
RETURNS @extschema@.execution_retention_policies
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	policy @extschema@.execution_retention_policies;
BEGIN
	PERFORM retention.require_tenant(tenant);
	IF set_policy.retention_days < 1 THEN
		RAISE EXCEPTION 'argument "retention_days" must be at least 1'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'NULL leaves the days as they are.  To stop cleaning the tenant, set is_enabled to false.';
	END IF;
	IF set_policy.min_executions_to_keep < 0 THEN
		RAISE EXCEPTION 'argument "min_executions_to_keep" must not be negative'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'NULL leaves the minimum as it is; 0 means no minimum.';
	END IF;

	INSERT INTO @extschema@.execution_retention_policies AS p
		(tenant_id, retention_days, is_enabled, min_executions_to_keep,
		created_by, updated_by)
	VALUES (set_policy.tenant,
		coalesce(set_policy.retention_days,
			greatest(retention.setting('default_retention_days')::integer, 1)),
		coalesce(set_policy.is_enabled, true),
		coalesce(set_policy.min_executions_to_keep,
			retention.setting('default_min_executions_to_keep')::integer),
		by_user, by_user)
	ON CONFLICT (tenant_id) DO UPDATE SET
		retention_days =
			coalesce(set_policy.retention_days, p.retention_days),
		is_enabled = coalesce(set_policy.is_enabled, p.is_enabled),
		min_executions_to_keep = coalesce(set_policy.min_executions_to_keep,
			p.min_executions_to_keep),
		updated_by = coalesce(set_policy.by_user, p.updated_by)
	RETURNING * INTO policy;
	RETURN policy;
END $$;

CREATE FUNCTION retention.remove_policy(tenant uuid)
RETURNS @extschema@.execution_retention_policies
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	policy @extschema@.execution_retention_policies;
BEGIN
	PERFORM retention.require_tenant(tenant);
	DELETE FROM @extschema@.execution_retention_policies AS p
	WHERE p.tenant_id = tenant
	RETURNING * INTO policy;
	IF NOT FOUND THEN
		PERFORM retention.raise_no_policy(tenant);
	END IF;
	RETURN policy;
END $$;

CREATE FUNCTION retention.list_policies()
RETURNS SETOF @extschema@.execution_retention_policies
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT * FROM @extschema@.execution_retention_policies ORDER BY tenant_id
$$;

CREATE FUNCTION retention.cleanup_tenant(
	tenant uuid,
	force boolean DEFAULT false)
RETURNS TABLE (
	tenant_id uuid,
	deleted_count integer,
	execution_summary jsonb,
	skipped boolean,
	reason text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	is_enabled boolean;
	days integer;
	minimum integer;
BEGIN
	PERFORM retention.require_tenant(tenant);
	-- the policy counts as it is once no other cleanup is under way
	PERFORM retention.lock_tenant(tenant);
	SELECT p.is_enabled, p.retention_days, p.min_executions_to_keep
	INTO is_enabled, days, minimum
	FROM @extschema@.execution_retention_policies AS p
	WHERE p.tenant_id = tenant;
	IF NOT FOUND THEN
		is_enabled := retention.setting('apply_default_policy');
		IF NOT is_enabled THEN
			PERFORM retention.raise_no_policy(tenant);
		END IF;
	END IF;

	tenant_id := tenant;
	deleted_count := 0;
	skipped := true;
	IF NOT retention.setting('enabled')::boolean THEN
		reason := 'retention.enabled is off';
	ELSIF NOT is_enabled AND force IS NOT TRUE THEN
		reason := 'the policy is disabled';
	ELSE
		-- The policy row is locked after the tenant, as a run does it.  All
		-- arguments are given: others may put functions into that schema.
		SELECT c.deleted_count, c.execution_summary, false,
			c.execution_summary ->> 'reason'
		INTO deleted_count, execution_summary, skipped, reason
		FROM @extschema@.cleanup_old_executions(tenant, days, minimum, NULL::integer) AS c;

		UPDATE @extschema@.execution_retention_policies AS p
		SET last_cleanup_at = clock_timestamp(),
			last_cleanup_deleted_count =
				(execution_summary ->> 'deleted')::bigint
		WHERE p.tenant_id = tenant;
	END IF;
	RETURN NEXT;
END $$;

-- SQL functions: status

CREATE FUNCTION retention.run_status(run_id bigint)
RETURNS text
LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	recorded text;
BEGIN
	-- a standby has the rows of the primary, but not its locks
	IF NOT pg_is_in_recovery() AND NOT retention.run_is_alive(run_id) THEN
		-- read after the lock was seen gone: the run may just have ended
		SELECT nullif(r.status, 'running') INTO recorded
		FROM retention.run_history AS r WHERE r.id = run_id;
		RETURN coalesce(recorded, 'interrupted');
	END IF;
	RETURN 'running';
END $$;

CREATE FUNCTION retention.patience()
RETURNS interval
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT greatest(interval '2 days',
		2 * percentile_cont(0.5) WITHIN GROUP (ORDER BY r.started_at - r.before))
	FROM (SELECT started_at, lag(started_at) OVER (ORDER BY id) AS before
		FROM (SELECT id, started_at FROM retention.run_history
			WHERE only_tenant IS NULL ORDER BY id DESC LIMIT 8) AS l) AS r
$$;

CREATE FUNCTION retention.last_complete_run(
	tenant uuid DEFAULT NULL,
	least_id bigint DEFAULT 0,
	OUT id bigint,
	OUT started_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	-- Came to every tenant, failed for some perhaps, and left no row of this
	-- one that the next run may delete.  What it left goes from history
	-- together with the run.
	SELECT r.id, r.started_at
	FROM retention.run_history AS r
	WHERE r.only_tenant IS NULL AND r.stop_reason = 'done'
		AND r.tenants_busy = 0 AND r.id >= least_id
		-- by a clock that has gone back
		AND r.started_at <= clock_timestamp()
		AND NOT EXISTS (SELECT FROM retention.run_tenant AS t
			WHERE t.run_id = r.id AND t.tenant_id = tenant
				AND (t.rows_skipped_locked > 0 OR t.rows_kept > 0
					OR t.sqlstate IS NOT NULL))
	ORDER BY r.id DESC LIMIT 1
$$;

CREATE FUNCTION retention.due(
	tenant uuid,
	retention_days integer,
	min_executions_to_keep integer,
	OUT oldest_due timestamptz,
	OUT problem text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE COST 1000
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	oldest_due := retention.oldest_due(tenant, retention_days,
		min_executions_to_keep);
EXCEPTION WHEN OTHERS THEN
	problem := format('%s (%s)', SQLERRM, SQLSTATE);
END $$;

CREATE FUNCTION retention.health()
RETURNS TABLE (
	severity text,
	message text,
	policies bigint,
	tenants_overdue bigint,
	oldest_overdue interval,
	last_run_status text,
	last_run_finished_at timestamptz,
	last_success_at timestamptz,
	runs_failed_in_a_row integer,
	schedule text,
	schedule_active boolean,
	running boolean)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	enabled bigint;
	expected boolean;
	worst text;
	needing bigint;
	last_started timestamptz;
	last_message text;
	patience interval;
	unseen bigint;
	runs_ahead bigint;
	ahead timestamptz := clock_timestamp() + interval '1 minute';
BEGIN
	IF NOT has_table_privilege('retention.run_history', 'SELECT') THEN
		RAISE EXCEPTION 'permission denied for table "run_history"'
			USING ERRCODE = 'insufficient_privilege',
				HINT = format('GRANT pg_monitor TO %I;', current_user);
	END IF;
	patience := retention.patience();

	SELECT count(*), count(*) FILTER (WHERE s.is_enabled),
		count(*) FILTER (WHERE s.is_enabled AND s.oldest_due IS NOT NULL
			AND s.severity IN ('warning', 'critical')),
		max(s.overdue) FILTER (WHERE s.is_enabled
			AND s.severity IN ('warning', 'critical')),
		count(*) FILTER (WHERE s.severity IN ('warning', 'critical')
			AND NOT s.hidden),
		CASE WHEN bool_or(s.severity = 'critical') THEN 'critical'
			ELSE 'warning' END,
		count(*) FILTER (WHERE s.hidden)
	INTO policies, enabled, tenants_overdue, oldest_overdue, needing, worst,
		unseen
	FROM (SELECT *, message LIKE 'You may not see what is due:%' AS hidden
		FROM retention.status) AS s;
	-- whether anybody waits for runs
	expected := enabled > 0 OR retention.setting('apply_default_policy')::boolean;

	SELECT r.status, r.finished_at, r.message
	INTO last_run_status, last_run_finished_at, last_message
	FROM retention.history AS r
	WHERE r.only_tenant IS NULL AND r.status <> 'running'
	ORDER BY r.id DESC LIMIT 1;

	-- runs that started in a future that did not come prove nothing
	SELECT max(r.started_at) FILTER (WHERE r.started_at <= ahead),
		count(*) FILTER (WHERE r.started_at > ahead),
		coalesce(bool_or(r.status = 'running'), false),
		max(r.finished_at) FILTER (WHERE r.status = 'succeeded'),
		count(*) FILTER (WHERE r.status IN ('failed', 'interrupted', 'cancelled')
			AND NOT EXISTS (SELECT FROM retention.run_history AS later
				WHERE later.id > r.id AND later.only_tenant IS NULL
				AND later.status IN ('succeeded', 'partial')))
	INTO last_started, runs_ahead, running, last_success_at, runs_failed_in_a_row
	FROM retention.history AS r
	WHERE r.only_tenant IS NULL;

	SELECT j.schedule, j.active INTO schedule, schedule_active
	FROM retention.scheduled_jobs() AS j
	WHERE j.kind = 'run'
	ORDER BY j.active DESC, j.job_id LIMIT 1;

	WITH finding (severity, text) AS (
		SELECT worst, format('Policies that need attention: %s of %s.  See retention.status.',
			needing, policies)
		WHERE needing > 0
		UNION ALL
		SELECT DISTINCT 'warning', format('You may not see what is due for %s of %s policies: GRANT SELECT (tenant_id, %s) ON %s TO %I;',
			unseen, policies, t.time_columns, t.relation, current_user)
		FROM retention.target AS t
		WHERE unseen > 0 AND t.relation = retention.executions()
		UNION ALL
		SELECT CASE WHEN runs_failed_in_a_row >= 3 THEN 'critical' ELSE 'warning' END,
			format('The last %s did not end well: %s.  See retention.history.',
				CASE runs_failed_in_a_row WHEN 1 THEN 'run'
					ELSE runs_failed_in_a_row || ' runs' END,
				concat_ws(', ', last_run_status, rtrim(last_message, '.')))
		WHERE runs_failed_in_a_row > 0
		UNION ALL
		SELECT 'warning', 'The setting retention.enabled is off: runs do nothing.'
		WHERE NOT retention.setting('enabled')::boolean
		UNION ALL
		SELECT 'warning', 'No run has started lately and none is scheduled here: SELECT * FROM retention.schedule();'
		WHERE expected AND schedule IS NULL
			AND coalesce(last_started, '-infinity') < now() - patience
		UNION ALL
		SELECT 'warning', format('The scheduled job is inactive: SELECT * FROM retention.schedule(%L);', schedule)
		WHERE NOT schedule_active
		UNION ALL
		SELECT 'critical', 'The schedule does not fire: SELECT * FROM retention.check();'
		WHERE expected AND schedule_active AND last_started < now() - patience
		UNION ALL
		SELECT CASE WHEN tenants_overdue > 0 THEN 'critical' ELSE 'info' END,
			'No run has started yet, though one is scheduled: SELECT * FROM retention.check();'
		WHERE expected AND schedule_active AND last_started IS NULL
			AND runs_ahead = 0
		UNION ALL
		SELECT 'warning', format('The clock has gone back: %s in retention.history started at a time that is yet to come.  Runs that went by such a clock may have deleted too much.',
			CASE runs_ahead WHEN 1 THEN 'one run' ELSE runs_ahead || ' runs' END)
		WHERE runs_ahead > 0
		UNION ALL
		SELECT 'info', 'There is no policy: nothing is ever deleted.'
		WHERE policies = 0
			AND NOT retention.setting('apply_default_policy')::boolean)
	SELECT (array_agg(f.severity ORDER BY rank))[1],
		string_agg(f.text, '  ' ORDER BY rank)
	INTO severity, message
	FROM finding AS f,
		array_position(ARRAY['critical', 'warning', 'info'], f.severity) AS rank;

	severity := coalesce(severity, 'ok');
	message := coalesce(message, 'All is well.');
	RETURN NEXT;
END $$;

-- SQL functions: what retention.metrics is made of

CREATE FUNCTION retention.overdue_totals(
	OUT known boolean,
	OUT overdue interval,
	OUT tenants_overdue bigint,
	OUT worst jsonb)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
	patience interval := retention.patience();
	-- before it, nothing matters any more
	first_run bigint := (SELECT min(r.id) FROM retention.run_history AS r
		WHERE r.started_at > now() - 3 * patience);
BEGIN
	-- as in retention.status, but one error decides for all tenants
	WITH due AS MATERIALIZED (
		SELECT p.tenant_id, o.overdue,
			now() - (SELECT max(t) FROM (VALUES (now() - o.overdue), (p.updated_at),
				(CASE WHEN l.left_some THEN (SELECT c.started_at
						FROM retention.last_complete_run(p.tenant_id, first_run) AS c)
					ELSE complete.started_at END)) AS known (t)
				WHERE t <= clock_timestamp() AND isfinite(t)) AS unattended
		FROM retention.due_tenants(patience) AS t
			JOIN @extschema@.execution_retention_policies AS p
				ON p.tenant_id = t.tenant_id
			CROSS JOIN retention.last_complete_run() AS complete
			CROSS JOIN LATERAL (SELECT CASE WHEN isfinite(t.oldest_due)
				THEN retention.cutoff(now(), p.retention_days) - t.oldest_due
				END AS overdue) AS o
			CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM retention.run_tenant AS r
				WHERE r.run_id = complete.id AND r.tenant_id = p.tenant_id
					AND (r.rows_skipped_locked > 0 OR r.rows_kept > 0
						OR r.sqlstate IS NOT NULL)) AS left_some) AS l
	), late AS MATERIALIZED (
		SELECT d.tenant_id, d.unattended
		FROM due AS d WHERE d.unattended > patience
	)
	SELECT true, coalesce(max(d.overdue), '0'), (SELECT count(*) FROM late),
		(SELECT coalesce(jsonb_object_agg(w.tenant_id,
				extract(epoch FROM w.unattended)), '{}')
			FROM (SELECT * FROM late
				ORDER BY late.unattended DESC, late.tenant_id LIMIT 5) AS w)
	INTO known, overdue, tenants_overdue, worst
	FROM due AS d;
EXCEPTION WHEN OTHERS THEN
	known := false;
END $$;

-- SQL functions: scheduling.  pg_cron may be absent, so what is said to it is
-- text that runs only when it is there.

CREATE FUNCTION retention.job_name(kind text)
RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	-- pg_cron keeps it as a name
	SELECT (CASE kind WHEN 'run' THEN 'retention:' ELSE 'retention-prune:' END
		|| current_database())::name::text
$$;

CREATE FUNCTION retention.has_cron()
RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_cron')
$$;

CREATE FUNCTION retention.job_command(kind text)
RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
	-- Details of failed jobs have no time, but runid counts up with it.  In
	-- another database the extension, and so its setting, may be absent.
	SELECT CASE kind WHEN 'run' THEN 'CALL retention.run()'
		ELSE format('DELETE FROM cron.job_run_details WHERE (database = %L AND command = %L'
			|| ' OR jobid IN (SELECT jobid FROM cron.job WHERE jobname IN (%L, %L)))'
			|| ' AND runid <= (SELECT max(runid) FROM cron.job_run_details'
			|| ' WHERE end_time < now() - %s * interval ''24 hours'')',
			current_database(), retention.job_command('run'),
			retention.job_name('run'), retention.job_name('prune'),
			CASE WHEN retention.has_cron()
				THEN '(SELECT retention.setting(''history_days'')::integer)'
				ELSE retention.setting('history_days') END)
		END
$$;

CREATE FUNCTION retention.visible_setting(name text)
RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	-- NULL, and no error, when the role may not see it or nobody defines it
	SELECT s.setting FROM pg_settings AS s WHERE s.name = visible_setting.name
$$;

CREATE FUNCTION retention.scheduled_jobs()
RETURNS TABLE (
	job_id bigint,
	job_name text,
	kind text,
	schedule text,
	command text,
	database text,
	username text,
	active boolean,
	last_status text,
	last_message text,
	last_started_at timestamptz,
	last_finished_at timestamptz)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE ROWS 2
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT retention.has_cron() OR NOT has_schema_privilege('cron', 'USAGE') THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE
		'SELECT j.jobid, j.jobname::text,
			CASE WHEN j.command ~* ''^DELETE FROM cron\.job_run_details'' THEN ''prune''
				WHEN j.command ~* ''\mretention\.run\M'' THEN ''run''
				ELSE ''other'' END,
			j.schedule, j.command, j.database, j.username, j.active,
			d.status, d.return_message, d.start_time, d.end_time
		FROM cron.job AS j LEFT JOIN LATERAL (
			SELECT * FROM cron.job_run_details AS r
			WHERE r.jobid = j.jobid ORDER BY r.runid DESC LIMIT 1) AS d ON true
		WHERE j.jobname IN ($1, $2)
			OR (j.database = current_database()
				AND j.command ~* ''\mretention\.run\M'')
		ORDER BY 3 DESC, 1'
	USING retention.job_name('run'), retention.job_name('prune');
END $$;

CREATE FUNCTION retention.schedule(cron text DEFAULT NULL)
RETURNS TABLE (
	job_id bigint,
	job_name text,
	schedule text,
	command text,
	database text,
	message text,
	statement text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	cron_database text := retention.visible_setting('cron.database_name');
	libraries text := retention.visible_setting('shared_preload_libraries');
	prune_name text := retention.job_name('prune');
	prune_schedule text := '17 3 * * *';
	prune_command text := retention.job_command('prune');
	schedule_hint text := 'A schedule has five fields: minute, hour, day of month, month, day of week; ''0 2 * * *'' is every night at two.';
	setting_hint text := CASE WHEN cron IS NULL THEN 'This one is the setting retention.schedule.' END;
	other_role text;
	wanted record;
	made_id bigint;
	is_fit boolean;
	error_code text;
	error_message text;
	error_hint text;
BEGIN
	job_name := retention.job_name('run');
	schedule := coalesce(cron, retention.setting('schedule'));
	command := retention.job_command('run');
	database := current_database();

	IF NOT retention.has_cron() AND cron_database <> database THEN
		-- pg_cron says this itself, but where the statement is run
		IF schedule !~* '^\s*(@[a-z]+|\d+\s+seconds?|\S+(\s+\S+){4})\s*$' THEN
			RAISE EXCEPTION 'invalid schedule: %', schedule
				USING ERRCODE = 'invalid_parameter_value',
					HINT = concat_ws('  ', schedule_hint, setting_hint);
		END IF;
		message := format('pg_cron keeps its jobs in database "%s": run the statement there.',
			cron_database);
		statement := format(E'SELECT cron.schedule_in_database(%L, %L, %L, %L);\n'
			'SELECT cron.schedule(%L, %L, %L);',
			job_name, schedule, command, database,
			prune_name, prune_schedule, prune_command);
		RETURN NEXT;
		RETURN;
	ELSIF NOT retention.has_cron() THEN
		RAISE EXCEPTION 'pg_cron is not available in database "%"', database
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = CASE WHEN cron_database IS NOT NULL
					THEN 'The server has it: CREATE EXTENSION pg_cron;'
					ELSE format(E'Set these, restart the server, and create the extension:\n'
					'shared_preload_libraries = %L\n'
					'cron.database_name = %L\n'
					'CREATE EXTENSION pg_cron;',
					CASE WHEN libraries ~ '\mpg_cron\M' THEN libraries
						ELSE concat_ws(', ', nullif(libraries, ''), 'pg_cron') END,
					database) END;
	END IF;

	BEGIN
		EXECUTE 'SELECT min(username) FROM cron.job
			WHERE jobname = $1 AND username <> current_user'
		INTO other_role USING job_name;
		IF other_role IS NULL THEN
			FOR wanted IN SELECT * FROM (VALUES (job_name, schedule, command),
				(prune_name, prune_schedule, prune_command)) AS w (name, schedule, command)
			LOOP
				EXECUTE 'SELECT cron.schedule($1, $2, $3)'
				INTO made_id USING wanted.name, wanted.schedule, wanted.command;
				EXECUTE 'SELECT active AND database = $2 AND nodeport = current_setting(''port'')::integer
						AND nodename = coalesce($3, nodename)
					FROM cron.job WHERE jobid = $1'
				INTO is_fit USING made_id, database, retention.visible_setting('cron.host');
				IF NOT is_fit THEN
					-- what it does not change by itself; this way every role may
					EXECUTE 'SELECT cron.unschedule($1)' USING made_id;
					EXECUTE 'SELECT cron.schedule($1, $2, $3)'
					INTO made_id USING wanted.name, wanted.schedule, wanted.command;
				END IF;
				job_id := coalesce(job_id, made_id);
			END LOOP;
		END IF;
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS error_code = RETURNED_SQLSTATE,
			error_message = MESSAGE_TEXT, error_hint = PG_EXCEPTION_HINT;
		RAISE EXCEPTION '%', error_message
			USING ERRCODE = error_code,
				HINT = CASE
					-- from 1.5 on pg_cron has a hint of its own
					WHEN error_message ~ '^invalid schedule' THEN concat_ws('  ',
						coalesce(rtrim(nullif(error_hint, ''), '.') || '.', schedule_hint), setting_hint)
					WHEN error_hint <> '' THEN error_hint
					WHEN error_code = '42501'
					THEN format('GRANT USAGE ON SCHEMA cron TO %I;', current_user)
					ELSE concat_ws('  ', schedule_hint, setting_hint) END;
	END;
	IF other_role IS NOT NULL THEN
		RAISE EXCEPTION 'job "%" belongs to role "%"', job_name, other_role
			USING ERRCODE = 'duplicate_object',
				HINT = 'Schedule it as that role, or remove it first: SELECT * FROM retention.unschedule();';
	END IF;

	message := format('Job %s runs in database "%s" as role "%s".', job_id,
		database, current_user);
	RETURN NEXT;
END $$;

CREATE FUNCTION retention.unschedule()
RETURNS TABLE (
	jobs_removed integer,
	message text,
	statement text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	cron_database text := retention.visible_setting('cron.database_name');
	names text[] := ARRAY[retention.job_name('run'), retention.job_name('prune')];
BEGIN
	jobs_removed := 0;
	IF retention.has_cron() THEN
		EXECUTE 'SELECT count(cron.unschedule(jobid)) FROM cron.job
			WHERE jobname = ANY ($1)'
		INTO jobs_removed USING names;
		message := CASE WHEN jobs_removed = 0 THEN 'Nothing was scheduled.'
			ELSE 'No run is scheduled any more.' END;
	ELSIF cron_database <> current_database() THEN
		message := format('pg_cron keeps its jobs in database "%s": run the statement there.',
			cron_database);
		statement := format('SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname IN (%L, %L);',
			names[1], names[2]);
	ELSE
		message := 'Nothing was scheduled: pg_cron is not available here.';
	END IF;
	RETURN NEXT;
END $$;

-- SQL functions: checks.  Each returns what is wrong in its field, and nothing
-- when all is well; none fails because something is absent.

CREATE FUNCTION retention.executions()
RETURNS regclass
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.relation FROM retention.target AS t
		JOIN pg_class AS c ON c.oid = t.relation
	WHERE c.relname = 'executions'
	ORDER BY t.relation LIMIT 1
$$;

CREATE FUNCTION retention.with_partitions(relation regclass)
RETURNS SETOF regclass
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT relation UNION SELECT p.relid FROM pg_partition_tree(relation) AS p
$$;

CREATE FUNCTION retention.referencing(referenced regclass)
RETURNS TABLE (constraint_id oid, relation regclass, cascades boolean)
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE reached (constraint_id, relation, cascades) AS (
		SELECT k.oid, k.conrelid, k.confdeltype = 'c'
		FROM pg_constraint AS k
		WHERE k.contype = 'f' AND k.conparentid = 0
			AND k.confrelid IN (SELECT retention.with_partitions(referenced))
		UNION
		SELECT k.oid, k.conrelid, k.confdeltype = 'c'
		FROM reached AS r, pg_constraint AS k
		WHERE r.cascades AND k.contype = 'f' AND k.conparentid = 0
			AND k.confrelid IN (SELECT retention.with_partitions(r.relation)))
	SELECT * FROM reached
$$;

CREATE FUNCTION retention.check_table()
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	executions regclass := retention.executions();
	tenant_type regtype;
	tenant_is_required boolean;
	started_type regtype;
	created_type regtype;
	kind "char";
	virtual_columns name[];
	attached text;
	leg record;
BEGIN
	IF executions IS NULL THEN
		RETURN QUERY SELECT 'critical', 'table executions',
			CASE WHEN EXISTS (SELECT FROM retention.target)
				THEN 'The table that was attached has been dropped or renamed.'
				ELSE 'No table is attached: nothing is cleaned.' END,
			coalesce((SELECT format('SELECT retention.attach(%L);', c.oid::regclass)
				FROM pg_class AS c JOIN pg_extension AS e ON e.extname = 'retention'
				WHERE c.relname = 'executions' AND c.relkind IN ('r', 'p')
					AND c.relpersistence <> 't'
					-- its own schema, or the tables of its own owner
					AND (c.relnamespace = e.extnamespace OR c.relowner = e.extowner)
				ORDER BY c.relnamespace = e.extnamespace DESC, c.oid LIMIT 1),
				'Create the table, then SELECT retention.attach();');
		RETURN;
	END IF;

	RETURN QUERY SELECT 'critical', 'table executions',
		format('%s tables are attached: %s.', count(*), string_agg(a.name, ', ' ORDER BY a.name)),
		format('SELECT retention.attach(%L);', executions)
	FROM (SELECT DISTINCT t.relation::regclass::text
		FROM retention.target AS t JOIN pg_class AS c ON c.oid = t.relation
		WHERE c.relname = 'executions') AS a (name)
	HAVING count(*) > 1;

	SELECT c.relkind INTO kind FROM pg_class AS c WHERE c.oid = executions;
	SELECT t.time_columns INTO attached
	FROM retention.target AS t WHERE t.relation = executions;
	SELECT max(type) FILTER (WHERE attname = 'tenant_id'),
		bool_or(attnotnull) FILTER (WHERE attname = 'tenant_id'),
		max(type) FILTER (WHERE attname = 'started_at'),
		max(type) FILTER (WHERE attname = 'created_at'),
		-- from PostgreSQL 18 on
		coalesce(array_agg(attname) FILTER (WHERE attgenerated = 'v'
			AND attname IN ('tenant_id', 'started_at', 'created_at')), '{}')
	INTO tenant_type, tenant_is_required, started_type, created_type, virtual_columns
	FROM (SELECT a.attname, a.attnotnull, a.attgenerated,
			-- what a domain, or a domain over a domain, is made of
			(WITH RECURSIVE base (type) AS (
				SELECT a.atttypid
				UNION ALL
				SELECT t.typbasetype FROM base AS b
					JOIN pg_type AS t ON t.oid = b.type AND t.typtype = 'd')
			SELECT b.type FROM base AS b
				JOIN pg_type AS t ON t.oid = b.type AND t.typtype <> 'd') AS type
		FROM pg_attribute AS a
		WHERE a.attrelid = executions AND a.attnum > 0 AND NOT a.attisdropped) AS columns;

	RETURN QUERY
	SELECT shape.severity, 'table ' || executions, shape.finding,
		format(shape.advice, executions)
	FROM (VALUES
		(kind NOT IN ('r', 'p'), 'critical',
			'It is not a table: only tables can be cleaned.',
			'Attach the table that holds the rows: SELECT retention.attach(''your_schema.executions'');'),
		(kind = 'r' AND EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = executions),
			'critical', 'It has inheritance children, which its indexes do not cover.',
			'Use declarative partitioning instead.'),
		(EXISTS (SELECT FROM pg_rewrite AS w WHERE w.ev_class = executions AND w.ev_type = '4' AND w.ev_enabled <> 'D'),
			'critical', 'It has a rule on DELETE, which would change what a cleanup deletes.',
			'Drop the rule, or use a trigger instead.'),
		(EXISTS (SELECT FROM retention.with_partitions(executions) AS p
				JOIN pg_class AS c ON c.oid = p WHERE c.relkind = 'f'),
			'critical', 'It has a partition that is a foreign table.',
			'Detach the partition.'),
		(attached IS DISTINCT FROM concat_ws(', ', CASE WHEN started_type IS NOT NULL THEN 'started_at' END,
				CASE WHEN created_type IS NOT NULL THEN 'created_at' END), 'critical',
			format('Its time columns have changed since it was attached: the age of its rows came from %s.', coalesce(attached, 'nowhere')),
			'If that is right: SELECT retention.attach(%1$L);'),
		(tenant_type IS NULL, 'critical', 'It has no column "tenant_id".',
			'ALTER TABLE %1$s ADD COLUMN tenant_id uuid;'),
		(tenant_type <> 'uuid'::regtype, 'critical',
			format('Column "tenant_id" is of type %s but must be uuid.', tenant_type),
			'ALTER TABLE %1$s ALTER COLUMN tenant_id TYPE uuid USING tenant_id::text::uuid;'),
		(NOT tenant_is_required, 'info',
			'Column "tenant_id" may be null: rows without a tenant are never deleted.',
			'ALTER TABLE %1$s ALTER COLUMN tenant_id SET NOT NULL;'),
		(coalesce(started_type, created_type) IS NULL, 'critical',
			'It has neither a column "started_at" nor a column "created_at".',
			'ALTER TABLE %1$s ADD COLUMN created_at timestamptz DEFAULT now();'),
		(started_type NOT IN ('timestamptz'::regtype, 'timestamp'::regtype), 'critical',
			format('Column "started_at" is of type %s but must be a timestamp.', started_type),
			'ALTER TABLE %1$s ALTER COLUMN started_at TYPE timestamptz USING started_at::timestamptz;'),
		(created_type NOT IN ('timestamptz'::regtype, 'timestamp'::regtype), 'critical',
			format('Column "created_at" is of type %s but must be a timestamp.', created_type),
			'ALTER TABLE %1$s ALTER COLUMN created_at TYPE timestamptz USING created_at::timestamptz;'),
		(started_type IS NOT NULL AND created_type IS NULL, 'info',
			'It has no column "created_at": rows that were never started are never deleted.',
			'ALTER TABLE %1$s ADD COLUMN created_at timestamptz DEFAULT now(); SELECT retention.attach(%1$L);')
		) AS shape (applies, severity, finding, advice)
	WHERE shape.applies;
	RETURN QUERY SELECT 'critical', 'table ' || executions,
		format('Column "%s" is virtual, and no index can have it: the table is not cleaned.', name),
		'Drop the column and add it again as GENERATED ALWAYS AS (...) STORED.'
	FROM unnest(virtual_columns) AS name;
	IF kind NOT IN ('r', 'p') OR tenant_type IS NULL OR virtual_columns <> '{}' THEN
		RETURN;
	END IF;

	FOR leg IN
		SELECT l.*, format('CREATE INDEX %s%I ON %s (tenant_id, %I) WHERE %s',
			CASE kind WHEN 'r' THEN 'CONCURRENTLY ' END, l.index_name, executions,
			l.time_column, l.condition) AS create_index
		FROM (VALUES
			('started_at', 'idx_executions_retention_cleanup',
				'started_at IS NOT NULL', started_type IS NOT NULL),
			('created_at', 'idx_executions_null_started_at',
				'started_at IS NULL', started_type IS NOT NULL AND created_type IS NOT NULL),
			('created_at', 'idx_executions_retention_cleanup',
				'created_at IS NOT NULL', started_type IS NULL AND created_type IS NOT NULL)
			) AS l (time_column, index_name, condition, applies)
		WHERE l.applies
	LOOP
		CONTINUE WHEN EXISTS (
			SELECT FROM pg_index AS i
				JOIN pg_class AS c ON c.oid = i.indexrelid
				JOIN pg_am AS m ON m.oid = c.relam AND m.amname = 'btree',
				string_to_array(translate(pg_get_expr(i.indpred, i.indrelid), '()', ''),
					' AND ') AS condition
			WHERE i.indrelid = executions
				AND i.indisvalid AND i.indisready AND i.indislive
				AND i.indnkeyatts >= 2
				AND pg_get_indexdef(i.indexrelid, 1, true) = 'tenant_id'
				AND pg_get_indexdef(i.indexrelid, 2, true) = leg.time_column
				AND coalesce(condition, '{}')
					<@ ARRAY[leg.condition, leg.time_column || ' IS NOT NULL']
				AND (leg.condition <> 'started_at IS NULL'
					OR condition @> ARRAY[leg.condition]));

		SELECT 'critical', format('index %I.%I', n.nspname, leg.index_name),
			CASE WHEN c.oid IS NULL
					THEN format('Table %s lacks this index: it is not cleaned.', executions)
				WHEN i.indisvalid
					THEN format('It does not fit: table %s is not cleaned.', executions)
				ELSE format('It is invalid, because a build of it failed or is under way: table %s is not cleaned.', executions)
				END,
			CASE WHEN c.oid IS NOT NULL
				THEN format('DROP INDEX %s%s; ', CASE kind WHEN 'r' THEN 'CONCURRENTLY ' END,
					c.oid::regclass) ELSE '' END
			|| CASE kind WHEN 'r' THEN leg.create_index || '; ' ELSE '' END
			|| format('SELECT retention.attach(%L);', executions)
		INTO severity, object, finding, advice
		FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace
			LEFT JOIN pg_class AS c
				ON c.relnamespace = n.oid AND c.relname = leg.index_name
			LEFT JOIN pg_index AS i ON i.indexrelid = c.oid
		WHERE t.oid = executions;
		RETURN NEXT;
	END LOOP;
END $$;

CREATE FUNCTION retention.check_references()
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE sql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'warning', format('table %s (%s)', k.conrelid::regclass, cols.list),
		format('Foreign key "%s" has no index here: each row deleted from %s reads all of the table.',
			k.conname, k.confrelid::regclass),
		format('CREATE INDEX %sON %s (%s);',
			CASE c.relkind WHEN 'r' THEN 'CONCURRENTLY ' END, k.conrelid::regclass, cols.list)
	FROM retention.referencing(retention.executions()) AS r
		JOIN pg_constraint AS k ON k.oid = r.constraint_id
		JOIN pg_class AS c ON c.oid = k.conrelid,
		LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place),
				array_agg(quote_ident(a.attname) || ' IS NOT NULL')
			FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
				JOIN pg_attribute AS a
					ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS cols (list, not_null)
	WHERE NOT EXISTS (
		SELECT FROM pg_index AS i
			JOIN pg_class AS ic ON ic.oid = i.indexrelid
			JOIN pg_am AS m ON m.oid = ic.relam,
			LATERAL (SELECT array_agg(u.attnum) FROM unnest(i.indkey::smallint[])
				WITH ORDINALITY AS u (attnum, place)
				WHERE u.place <= cardinality(k.conkey)) AS h (keys)
		WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indisready
			AND (m.amname = 'btree' OR m.amname = 'hash')
			AND i.indnkeyatts >= cardinality(k.conkey)
			AND h.keys @> k.conkey AND h.keys <@ k.conkey
			AND coalesce(string_to_array(translate(pg_get_expr(i.indpred, i.indrelid), '()', ''),
				' AND '), '{}') <@ cols.not_null)
$$;

CREATE FUNCTION retention.check_cascades()
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE sql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'warning', format('table %s', k.conrelid::regclass),
		format('Foreign key "%s" cascades into the table that is cleaned: rows go with those that they refer to, however young.',
			k.conname),
		'Let it do something else ON DELETE: rows that others refer to then stay until those are due.'
	FROM retention.referencing(retention.executions()) AS r
		JOIN pg_constraint AS k ON k.oid = r.constraint_id
	WHERE r.cascades
		AND r.relation IN (SELECT retention.with_partitions(retention.executions()))
$$;

CREATE FUNCTION retention.check_triggers()
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE sql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'info', format('trigger %I on table %s', t.tgname, t.tgrelid::regclass),
		format('It calls %s for each row that a cleanup deletes%s.', t.tgfoid::regprocedure,
			CASE WHEN t.tgtype & 2 <> 0 THEN ', and can keep the row' ELSE '' END),
		'If it takes long, make it FOR EACH STATEMENT with a transition table.'
	FROM pg_trigger AS t
	WHERE NOT t.tgisinternal AND t.tgparentid = 0
		AND t.tgtype & 1 <> 0 AND t.tgtype & 8 <> 0 AND t.tgenabled IN ('O', 'A')
		AND t.tgrelid IN (
			SELECT retention.with_partitions(retention.executions())
			UNION ALL
			SELECT retention.with_partitions(r.relation)
			FROM retention.referencing(retention.executions()) AS r
			WHERE r.cascades)
$$;

CREATE FUNCTION retention.check_schedule()
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	patience interval := interval '2 days';
	last_started timestamptz;
	is_recent boolean;
	cron_database text := retention.visible_setting('cron.database_name');
	cron_zone text := retention.visible_setting('cron.timezone');
	-- before 1.5 there is no such setting
	cron_is_old boolean := cron_zone IS NULL AND cron_database IS NOT NULL;
	server_zone text;
	again text;
BEGIN
	RETURN QUERY SELECT 'warning', 'setting retention.enabled',
		'It is off: runs do nothing.',
		'ALTER SYSTEM SET retention.enabled = on; SELECT pg_reload_conf();'
	WHERE NOT retention.setting('enabled')::boolean;

	IF has_table_privilege('retention.run_history', 'SELECT') THEN
		patience := retention.patience();
		SELECT max(h.started_at) INTO last_started
		FROM retention.run_history AS h WHERE h.only_tenant IS NULL
			AND h.started_at <= clock_timestamp();

		RETURN QUERY SELECT CASE WHEN count(*) >= 3 THEN 'critical' ELSE 'warning' END,
			'procedure retention.run()',
			format('The last %s did not end well: %s.',
				CASE count(*) WHEN 1 THEN 'run' ELSE count(*) || ' runs' END,
				concat_ws(', ', (array_agg(h.status ORDER BY h.id DESC))[1],
					rtrim((array_agg(h.message ORDER BY h.id DESC))[1], '.'))),
			'SELECT * FROM retention.history ORDER BY id DESC;'
		FROM retention.history AS h
		WHERE h.only_tenant IS NULL
			AND h.status IN ('failed', 'interrupted', 'cancelled')
			AND NOT EXISTS (SELECT FROM retention.run_history AS later
				WHERE later.id > h.id AND later.only_tenant IS NULL
					AND later.status IN ('succeeded', 'partial'))
		HAVING count(*) > 0;

		RETURN QUERY SELECT 'warning', 'procedure retention.run()',
			format('The last run failed for %s.', CASE h.tenants_failed
				WHEN 1 THEN '1 tenant' ELSE h.tenants_failed || ' tenants' END),
			format('SELECT * FROM retention.run_tenant WHERE run_id = %s AND sqlstate IS NOT NULL;', h.id)
		FROM (SELECT * FROM retention.run_history AS h
			WHERE h.only_tenant IS NULL AND h.finished_at IS NOT NULL
			ORDER BY h.id DESC LIMIT 1) AS h
		WHERE h.tenants_failed > 0;
		is_recent := coalesce(last_started > now() - patience, false);
	ELSE
		RETURN QUERY SELECT 'info', 'table retention.run_history',
			'You may not see what runs did.',
			format('GRANT pg_monitor TO %I;', current_user);
		is_recent := true;
	END IF;

	IF NOT retention.has_cron() AND cron_database <> current_database() THEN
		RETURN QUERY SELECT CASE WHEN is_recent THEN 'info' ELSE 'warning' END,
			'extension pg_cron',
			format('It keeps its jobs in database "%s": whether one is there for this database cannot be seen from here.%s',
				cron_database, CASE WHEN is_recent THEN '' ELSE '  No run has started lately.' END),
			'SELECT statement FROM retention.schedule();';
	ELSIF NOT retention.has_cron() THEN
		RETURN QUERY SELECT 'warning', 'extension pg_cron',
			'It is not available here and no run has started lately.',
			'SELECT * FROM retention.schedule();  It says what to set up.'
		WHERE NOT is_recent;
	ELSIF NOT has_schema_privilege('cron', 'USAGE') THEN
		RETURN QUERY SELECT 'info', 'extension pg_cron',
			'You may not see its jobs.',
			format('GRANT USAGE ON SCHEMA cron TO %I;', current_user);
	ELSE
		-- the schedule that it has, not that of the setting
		SELECT format('SELECT * FROM retention.schedule(%L);', j.schedule) INTO again
		FROM retention.scheduled_jobs() AS j WHERE j.kind = 'run'
		ORDER BY j.job_name IS NOT DISTINCT FROM retention.job_name('run') DESC, j.active DESC, j.job_id LIMIT 1;
		again := coalesce(again, 'SELECT * FROM retention.schedule();');

		RETURN QUERY SELECT 'warning', 'extension pg_cron',
			'No job that you can see runs retention.run(), and no run has started lately.',
			'SELECT * FROM retention.schedule();'
		WHERE NOT is_recent
			AND NOT EXISTS (SELECT FROM retention.scheduled_jobs() AS j WHERE j.kind = 'run');

		RETURN QUERY SELECT 'critical', 'extension pg_cron',
			'Its launcher is not running: no schedule fires.',
			'Add pg_cron to shared_preload_libraries and restart the server.'
		WHERE pg_has_role('pg_read_all_stats', 'USAGE')
			AND NOT EXISTS (SELECT FROM pg_stat_activity AS a
				WHERE a.backend_type = 'pg_cron launcher');

		RETURN QUERY
		SELECT f.severity, 'job ' || coalesce(j.job_name, j.job_id::text), f.finding, f.advice
		FROM retention.scheduled_jobs() AS j, LATERAL (VALUES
			(j.kind = 'other', 'warning',
				format('It has the name of ours and does something else, as role "%s".', j.username),
				format('SELECT cron.unschedule(%s);', j.job_id)),
			(NOT j.active, 'warning', 'It is inactive.', again),
			(j.database <> current_database() AND j.kind = 'run', 'critical',
				format('It runs in database "%s" and not here.', j.database), again),
			(j.active AND j.last_started_at < now() - CASE j.kind WHEN 'run' THEN patience
					ELSE interval '2 days' END, 'critical',
				'It has not been started lately.',
				'Look for pg_cron in the server''s log.'),
			(j.last_status = 'failed', 'warning',
				format('Its last start failed: %s.', rtrim(j.last_message, E'.\n ')),
				CASE j.last_message WHEN 'connection failed'
					THEN format('pg_cron needs one of max_connections, and cron.host and pg_hba.conf such that it can connect%s.  After a change of cron.* and the restart: %s',
						CASE WHEN NOT cron_is_old THEN '; or cron.use_background_workers = on' END, again) END)
			) AS f (applies, severity, finding, advice)
		WHERE f.applies;

		RETURN QUERY SELECT 'info', 'extension pg_cron',
			format('%s active jobs run retention.run().', count(*)),
			'SELECT * FROM retention.scheduled_jobs; then cron.unschedule() those that are too many.'
		FROM retention.scheduled_jobs() AS j WHERE j.kind = 'run' AND j.active
		HAVING count(*) > 1;

		-- its launcher waits for the worker to say something
		RETURN QUERY SELECT 'warning', 'setting cron.use_background_workers',
			'While a run goes on, this version of pg_cron starts no other job of the server.',
			'Upgrade pg_cron to 1.5 or later; or set this to off, and cron.host and pg_hba.conf so that pg_cron can connect.  After the restart: ' || again
		WHERE cron_is_old AND retention.visible_setting('cron.use_background_workers') = 'on'
			AND EXISTS (SELECT FROM retention.scheduled_jobs() AS j WHERE j.kind = 'run' AND j.active);

		IF cron_is_old THEN
			cron_zone := 'GMT';
		END IF;
		SELECT s.reset_val INTO server_zone FROM pg_settings AS s WHERE s.name = 'TimeZone';
		RETURN QUERY SELECT 'info', 'extension pg_cron',
			format('It reads schedules in time zone %s; yours is %s.', cron_zone, server_zone),
			'Write the schedule in its time zone.'
		WHERE EXISTS (SELECT FROM retention.scheduled_jobs() AS j WHERE j.kind = 'run')
			AND EXISTS (SELECT FROM unnest(ARRAY[now(), now() + interval '182 days']) AS t
				WHERE t AT TIME ZONE cron_zone <> t AT TIME ZONE server_zone);
	END IF;
END $$;

CREATE FUNCTION retention.deleted_since(since timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT has_table_privilege('retention.run_history', 'SELECT') THEN
		RETURN 0;
	END IF;
	RETURN (SELECT coalesce(sum(r.rows_deleted), 0) FROM retention.run_history AS r
		WHERE coalesce(r.finished_at, now()) >= since);
END $$;

CREATE FUNCTION retention.check_vacuum(open_for interval DEFAULT '1 hour')
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE sql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'warning', 'setting ' || s.name,
		'It is off: what cleanups delete stays on disk.',
		format('ALTER SYSTEM SET %s = on; SELECT pg_reload_conf();', s.name)
	FROM pg_settings AS s
	WHERE s.name IN ('autovacuum', 'track_counts') AND s.setting = 'off'
	UNION ALL
	SELECT 'warning', 'table ' || c.oid::regclass,
		'Autovacuum is disabled for it: what cleanups delete stays on disk.',
		format('ALTER TABLE %s RESET (autovacuum_enabled);', c.oid::regclass)
	FROM retention.with_partitions(retention.executions()) AS relation
		JOIN pg_class AS c ON c.oid = relation,
		pg_options_to_table(c.reloptions) AS o
	WHERE o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean
	UNION ALL
	SELECT 'warning', 'table ' || c.oid::regclass,
		format('Autovacuum is behind: %s dead rows, more than three times what should start it; last vacuumed: %s.',
			s.n_dead_tup, coalesce(date_trunc('second', greatest(s.last_vacuum, s.last_autovacuum))::text, 'never')),
		format('VACUUM (ANALYZE) %s;', c.oid::regclass)
	FROM retention.with_partitions(retention.executions()) AS relation
		JOIN pg_class AS c ON c.oid = relation
		JOIN pg_stat_all_tables AS s ON s.relid = c.oid,
		LATERAL (SELECT
			coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'autovacuum_vacuum_threshold'),
				current_setting('autovacuum_vacuum_threshold'))::float8
			+ coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'autovacuum_vacuum_scale_factor'),
				current_setting('autovacuum_vacuum_scale_factor'))::float8 * greatest(c.reltuples, 0)
			FROM pg_options_to_table(c.reloptions) AS o) AS v (threshold)
	-- what runs deleted within a day does not count, nor a vacuum under way
	WHERE s.n_dead_tup - retention.deleted_since(now() - interval '1 day')
			> greatest(3 * v.threshold, 10000)
		AND coalesce(greatest(s.last_vacuum, s.last_autovacuum), '-infinity')
			< now() - interval '1 day'
		AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS w WHERE w.relid = c.oid)
	UNION ALL
	SELECT 'warning', 'process ' || a.pid,
		format('Its transaction has been open since %s: rows deleted after that cannot be vacuumed.',
			date_trunc('second', a.xact_start)),
		format('SELECT pg_terminate_backend(%s);', a.pid)
	FROM pg_stat_activity AS a
	WHERE a.datname = current_database() AND a.backend_type <> 'autovacuum worker'
		AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
		AND a.xact_start < now() - open_for AND a.pid <> pg_backend_pid()
	UNION ALL
	SELECT 'info', 'view pg_stat_activity',
		'You cannot see the transactions of others, which may keep rows from being vacuumed.',
		format('GRANT pg_read_all_stats TO %I;', current_user)
	WHERE NOT pg_has_role('pg_read_all_stats', 'USAGE')
	UNION ALL
	SELECT 'warning', 'prepared transaction ' || quote_literal(x.gid),
		format('It has been open since %s: rows deleted after that cannot be vacuumed.',
			date_trunc('second', x.prepared)),
		format('COMMIT PREPARED %L; or ROLLBACK PREPARED %L;', x.gid, x.gid)
	FROM pg_prepared_xacts AS x
	WHERE x.database = current_database() AND x.prepared < now() - open_for
	UNION ALL
	SELECT 'warning', 'replication slot ' || s.slot_name,
		format('It keeps rows that were deleted in the last %s transactions from being vacuumed.', age(s.xmin)),
		CASE WHEN s.active THEN 'End the long query on the standby that uses it.'
			ELSE format('Start the standby that uses it, or SELECT pg_drop_replication_slot(%L);', s.slot_name) END
	FROM pg_replication_slots AS s
	WHERE s.xmin IS NOT NULL AND (NOT s.active OR age(s.xmin) > 1000000)
$$;

CREATE FUNCTION retention.check_rights()
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	executions regclass := retention.executions();
	policies regclass;
	username text;
	schedule text;
	role pg_roles;
	may_run boolean;
BEGIN
	RETURN QUERY
	SELECT 'warning', 'table ' || p.oid::regclass,
		format('It is a partition of %s and belongs to role "%s", whose triggers run with the rights of whoever cleans.',
			executions, pg_get_userbyid(p.relowner)),
		format('ALTER TABLE %s OWNER TO %I;', p.oid::regclass, pg_get_userbyid(t.relowner))
	FROM retention.with_partitions(executions) AS relation
		JOIN pg_class AS p ON p.oid = relation
		JOIN pg_class AS t ON t.oid = executions AND t.relowner <> p.relowner
	WHERE p.relkind <> 'f' AND NOT pg_has_role(p.relowner, t.relowner, 'USAGE');

	-- not by name: the caller may lack USAGE on its schema
	SELECT c.oid INTO policies
	FROM pg_extension AS e JOIN pg_class AS c ON c.relnamespace = e.extnamespace
	WHERE e.extname = 'retention' AND c.relname = 'execution_retention_policies';

	FOR username, schedule IN
		SELECT j.username, min(j.schedule) FROM retention.scheduled_jobs() AS j
		WHERE j.kind = 'run' AND j.database = current_database() GROUP BY 1 ORDER BY 1
	LOOP
		SELECT * INTO role FROM pg_roles AS r WHERE r.rolname = username;
		IF NOT FOUND THEN
			RETURN QUERY SELECT 'critical', 'role ' || quote_ident(username),
				'A job runs as this role, which does not exist.',
				format('SELECT * FROM retention.unschedule(); SELECT * FROM retention.schedule(%L);', schedule);
			CONTINUE;
		END IF;

		-- no advice to give rights to whoever has made a job
		SELECT has_function_privilege(role.oid, p.oid, 'EXECUTE') INTO may_run
		FROM pg_proc AS p
		WHERE p.proname = 'run' AND p.pronamespace = 'retention'::regnamespace;

		RETURN QUERY
		SELECT 'critical', 'role ' || quote_ident(username),
			format('A job runs as this role, which lacks %s.', f.lacking), f.statement
		FROM (
			SELECT 1, 'the right to log in', format('ALTER ROLE %I LOGIN;', username)
			WHERE NOT role.rolcanlogin
			UNION ALL
			SELECT 2, 'EXECUTE on procedure retention.run',
				'Remove the job, unless the role is meant to clean.'
			WHERE NOT may_run
			UNION ALL
			SELECT 3, format('USAGE on schema %s', s.schema),
				format('GRANT USAGE ON SCHEMA %s TO %I;', s.schema, username)
			FROM (SELECT DISTINCT c.relnamespace::regnamespace FROM pg_class AS c
				WHERE c.oid IN (executions, policies)) AS s (schema)
			WHERE may_run AND NOT has_schema_privilege(role.oid, s.schema, 'USAGE')
			UNION ALL
			SELECT 4, format('%s on table %s', t.privilege, t.relation),
				format('GRANT %s ON %s TO %I;', t.privilege, t.relation, username)
			FROM (VALUES (executions, 'SELECT'), (executions, 'DELETE'),
				(policies, 'SELECT')) AS t (relation, privilege)
			WHERE may_run AND NOT has_table_privilege(role.oid, t.relation, t.privilege)
			UNION ALL
			SELECT 5, format('UPDATE of %s on table %s', u.name, policies),
				format('GRANT UPDATE (%s) ON %s TO %I;', u.name, policies, username)
			FROM (VALUES ('last_cleanup_at'), ('last_cleanup_deleted_count')) AS u (name)
			WHERE may_run AND NOT has_column_privilege(role.oid, policies, u.name, 'UPDATE')
			) AS f (place, lacking, statement)
		ORDER BY f.place, f.lacking;

		RETURN QUERY
		SELECT 'critical', 'table ' || c.oid::regclass,
			format('Row-level security hides rows from role "%s", as which a job runs: runs fail.', acting.rolname),
			format('ALTER ROLE %I BYPASSRLS;', acting.rolname)
		FROM pg_class AS c
			JOIN pg_roles AS acting
				-- a superuser's batches run as the owner of the executions
				ON acting.oid = CASE WHEN role.rolsuper AND c.oid = executions
					THEN c.relowner ELSE role.oid END
		WHERE c.oid IN (executions, policies) AND c.relrowsecurity
			AND NOT acting.rolsuper AND NOT acting.rolbypassrls
			AND (c.relforcerowsecurity OR NOT pg_has_role(acting.oid, c.relowner, 'USAGE'));
	END LOOP;

	IF username IS NULL THEN
		RETURN QUERY
		SELECT 'info', 'table ' || c.oid::regclass,
			'It has row-level security: runs fail unless they see all of its rows.',
			'Run as its owner, or as a role with BYPASSRLS.'
		FROM pg_class AS c
		WHERE c.oid IN (executions, policies) AND c.relrowsecurity;
	END IF;
END $$;

CREATE FUNCTION retention.check()
RETURNS TABLE (severity text, object text, finding text, advice text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT f.* FROM (
		SELECT * FROM retention.check_table()
		UNION ALL SELECT * FROM retention.check_references()
		UNION ALL SELECT * FROM retention.check_cascades()
		UNION ALL SELECT * FROM retention.check_triggers()
		UNION ALL SELECT * FROM retention.check_rights()
		UNION ALL SELECT * FROM retention.check_schedule()
		UNION ALL SELECT * FROM retention.check_vacuum()) AS f
	ORDER BY array_position(ARRAY['critical', 'warning', 'info'], f.severity),
		f.object COLLATE "C", f.finding COLLATE "C";
	IF NOT FOUND THEN
		severity := 'ok';
		object := 'extension retention';
		finding := 'Nothing is wrong.';
		RETURN NEXT;
	END IF;
END $$;

-- views

CREATE VIEW retention.history WITH (security_invoker = true) AS
	SELECT r.id, r.started_at, r.finished_at,
		CASE r.status WHEN 'running' THEN retention.run_status(r.id)
			ELSE r.status END AS status,
		r.run_by, r.pid, r.only_tenant, r.tenants_due, r.tenants,
		r.tenants_busy, r.tenants_failed, r.batches, r.rows_deleted,
		r.rows_estimated, r.rows_skipped_locked, r.rows_skipped_protected,
		r.wal_bytes, r.waited_ms, r.waited_for, r.waiting_for,
		r.current_tenant, r.stop_reason, r.message
	FROM retention.run_history AS r;

CREATE VIEW retention.progress WITH (security_invoker = true) AS
	SELECT r.id AS run_id, r.pid, r.started_at, r.current_tenant AS tenant,
		r.tenants AS tenants_done, r.tenants_due, r.rows_deleted,
		r.rows_estimated,
		round(100.0 * least(r.rows_deleted, r.rows_estimated)
			/ nullif(r.rows_estimated, 0), 1) AS percent,
		round(r.rows_deleted / t.seconds) AS rows_per_second,
		CASE WHEN r.rows_deleted > 0 AND r.rows_estimated IS NOT NULL
			THEN clock_timestamp() + make_interval(secs => least(1e9, t.seconds
				* greatest(r.rows_estimated - r.rows_deleted, 0)
				/ r.rows_deleted)::float8) END AS estimated_end,
		r.waiting_for
	FROM retention.run_history AS r,
		LATERAL (SELECT greatest(0.001,
			extract(epoch FROM clock_timestamp() - r.started_at))) AS t (seconds)
	WHERE CASE r.status WHEN 'running'
		THEN retention.run_status(r.id) = 'running' END;

CREATE VIEW retention.status WITH (security_invoker = true) AS
	WITH complete AS MATERIALIZED (
		SELECT c.id, c.started_at, (SELECT max(r.id) FROM retention.run_history AS r
				WHERE r.only_tenant IS NULL AND r.status = 'succeeded'
					AND r.tenants_busy = 0) AS without_errors
		FROM retention.last_complete_run() AS c
	), backlog AS MATERIALIZED (
		-- whether the last of three runs left more than the first of them
		SELECT min(l.started_at) AS since,
			count(*) = 3 AND (array_agg(l.left_over ORDER BY l.id DESC))[1]
				> (array_agg(l.left_over ORDER BY l.id))[1] AS rises
		FROM (SELECT r.id, r.started_at,
				r.rows_estimated - r.rows_deleted AS left_over
			FROM retention.run_history AS r
			WHERE r.only_tenant IS NULL AND r.status IN ('succeeded', 'partial')
			ORDER BY r.id DESC LIMIT 3) AS l
	), patience AS MATERIALIZED (
		SELECT v.value, (SELECT min(r.id) FROM retention.run_history AS r
				WHERE r.started_at > now() - 3 * v.value) AS first_run
		FROM (SELECT retention.patience() AS value) AS v
	)
	SELECT p.tenant_id, p.is_enabled, p.retention_days,
		p.min_executions_to_keep, p.last_cleanup_at,
		p.last_cleanup_deleted_count, d.oldest_due, o.overdue,
		f.failed_runs, f.last_error, g.growing, v.severity, v.message
	FROM @extschema@.execution_retention_policies AS p
		CROSS JOIN backlog CROSS JOIN patience CROSS JOIN complete
		CROSS JOIN LATERAL retention.due(p.tenant_id, p.retention_days,
			p.min_executions_to_keep) AS d
		CROSS JOIN LATERAL (SELECT CASE WHEN isfinite(d.oldest_due)
			THEN retention.cutoff(now(), p.retention_days) - d.oldest_due
			END AS overdue) AS o
		-- since when a run should have deleted the row; one that left rows of
		-- the tenant is no proof, and then one looks no further back than it
		-- matters.  OFFSET: once, not at each use
		CROSS JOIN LATERAL (SELECT CASE WHEN d.oldest_due IS NOT NULL
			THEN (SELECT max(t) FROM (VALUES (now() - o.overdue), (p.updated_at),
				(CASE WHEN EXISTS (SELECT FROM retention.run_tenant AS r
						WHERE r.run_id = complete.id AND r.tenant_id = p.tenant_id
							AND (r.rows_skipped_locked > 0 OR r.rows_kept > 0
								OR r.sqlstate IS NOT NULL))
					THEN (SELECT c.started_at
						FROM retention.last_complete_run(p.tenant_id,
							patience.first_run) AS c)
					ELSE complete.started_at END)) AS known (t)
				-- not a time that is yet to come
				WHERE t <= clock_timestamp() AND isfinite(t)) END AS since OFFSET 0) AS w
		CROSS JOIN LATERAL (SELECT coalesce(backlog.rises AND p.is_enabled
			AND d.oldest_due IS NOT NULL
			AND greatest(now() - o.overdue, least(p.updated_at, now())) < backlog.since,
			false) AS growing) AS g
		-- what was left of it, unless a later run found nothing to do
		LEFT JOIN LATERAL (SELECT t.rows_skipped_locked, t.rows_skipped_protected,
				t.rows_kept, t.finished_at
			FROM retention.run_tenant AS t WHERE t.tenant_id = p.tenant_id
				AND t.run_id >= coalesce(complete.id, 0)
			ORDER BY t.run_id DESC LIMIT 1) AS last ON true
		-- and was it due then?
		CROSS JOIN LATERAL (SELECT d.oldest_due IS NOT NULL
			AND coalesce(now() - o.overdue < last.finished_at, true) AS due) AS stays
		CROSS JOIN LATERAL (SELECT to_char(w.since, 'YYYY-MM-DD') AS day) AS since
		CROSS JOIN LATERAL (SELECT CASE
			WHEN stays.due AND last.rows_skipped_locked > 0 THEN format(
				'Rows have been due since %s and others hold them, %s in the last run: look for old transactions in pg_prepared_xacts and pg_stat_activity.',
				since.day, last.rows_skipped_locked)
			WHEN stays.due AND last.rows_kept > 0 THEN format(
				'Rows have been due since %s and a trigger or row-level security keeps them, up to %s in the last run: see retention.check().',
				since.day, last.rows_kept)
			WHEN stays.due AND last.rows_skipped_protected > 0 THEN format(
				'Rows have been due since %s, rows of other tables refer to %s of them, and no run has come to all tenants: see retention.history.',
				since.day, last.rows_skipped_protected)
			ELSE format(
				'Rows have been due since %s and no run has deleted them: see retention.health().',
				since.day) END AS message) AS late
		CROSS JOIN LATERAL (
			-- errors since the tenant was last dealt with in full
			SELECT count(*)::integer AS failed_runs,
				(array_agg(format('%s (%s)', t.message, t.sqlstate)
					ORDER BY t.run_id DESC))[1] AS last_error
			FROM retention.run_tenant AS t
			WHERE t.tenant_id = p.tenant_id AND t.sqlstate IS NOT NULL
				AND t.run_id > coalesce(complete.without_errors, 0)
				AND NOT EXISTS (SELECT FROM retention.run_tenant AS later
					WHERE later.tenant_id = p.tenant_id
						AND later.run_id > t.run_id
						AND later.sqlstate IS NULL)
				-- the last one that came to it failed, too
				AND EXISTS (SELECT FROM retention.run_tenant AS latest
					WHERE latest.tenant_id = p.tenant_id
						AND latest.run_id >= coalesce(complete.id, 0)
						AND latest.sqlstate IS NOT NULL)) AS f
		CROSS JOIN LATERAL (SELECT s.severity, s.message FROM (VALUES
			(1, NOT p.is_enabled, 'info',
				'The policy is disabled: runs leave the tenant alone.'),
			(2, d.problem LIKE '%(42501)', 'warning',
				'You may not see what is due: ' || d.problem || '.'),
			(3, d.problem IS NOT NULL, 'critical',
				'The tenant cannot be cleaned: ' || d.problem
				|| '.  See retention.check().'),
			(4, f.failed_runs >= 3, 'critical', format(
				'The last %s runs failed for this tenant: %s.  Mend that, then CALL retention.run(%L).',
				f.failed_runs, f.last_error, p.tenant_id)),
			(5, now() - w.since > 3 * patience.value, 'critical', late.message),
			(6, f.failed_runs > 0, 'warning', format(
				'The last run failed for this tenant: %s.  The next run tries again.',
				f.last_error)),
			(7, now() - w.since > patience.value, 'warning', late.message),
			(8, g.growing, 'warning',
				'More becomes due than the runs delete: schedule more of them or raise their limits.'),
			(9, last.rows_skipped_protected > 0 AND d.oldest_due IS NOT NULL,
				'info', format(
				'%s due rows stay because rows of other tables refer to them.',
				last.rows_skipped_protected)),
			(10, last.rows_kept > 0 AND stays.due, 'info', format(
				'Up to %s due rows stay because a trigger or row-level security keeps them.',
				last.rows_kept)),
			(11, d.oldest_due IS NOT NULL, 'ok',
				'Rows are due: the next run deletes them.'),
			(12, true, 'ok', 'Nothing is due.')
			) AS s (place, applies, severity, message)
			WHERE s.applies ORDER BY s.place LIMIT 1) AS v;

-- Names that are literals and parts that stand alone let a query that asks for
-- some names do without the parts that the others come from.
CREATE VIEW retention.metrics WITH (security_invoker = true) AS
	WITH due AS MATERIALIZED (
		SELECT * FROM retention.overdue_totals()
	), run AS MATERIALIZED (
		-- by status, of all times
		SELECT r.status, sum(r.runs) AS runs,
			max(r.last_finished_at) AS last_finished_at,
			sum(r.tenants_failed) AS tenants_failed,
			sum(r.batches) AS batches, sum(r.rows_deleted) AS rows_deleted,
			sum(r.rows_skipped_locked) AS rows_skipped_locked,
			sum(r.rows_skipped_protected) AS rows_skipped_protected,
			sum(r.wal_bytes) AS wal_bytes, sum(r.waited_ms) AS waited_ms,
			sum(r.took_ms) AS took_ms
		FROM (SELECT h.status, count(*) AS runs,
				-- not a time that is yet to come, by a clock that has gone back
				max(h.finished_at) FILTER (WHERE h.only_tenant IS NULL
					AND h.finished_at <= clock_timestamp()) AS last_finished_at,
				sum(h.tenants_failed) AS tenants_failed,
				sum(h.batches) AS batches,
				sum(h.rows_deleted) AS rows_deleted,
				sum(h.rows_skipped_locked) AS rows_skipped_locked,
				sum(h.rows_skipped_protected) AS rows_skipped_protected,
				sum(h.wal_bytes) AS wal_bytes, sum(h.waited_ms) AS waited_ms,
				-- nobody knows when an interrupted run ended
				sum(1000 * date_part('epoch', h.finished_at - h.started_at))
					FILTER (WHERE h.status <> 'interrupted') AS took_ms
			FROM retention.history AS h GROUP BY h.status
			UNION ALL TABLE retention.run_pruned) AS r
		GROUP BY r.status
	), total AS MATERIALIZED (
		SELECT coalesce(sum(r.rows_deleted), 0)::float8 AS rows_deleted,
			coalesce(sum(r.batches), 0)::float8 AS batches,
			coalesce(sum(r.tenants_failed), 0)::float8 AS tenants_failed,
			coalesce(sum(r.wal_bytes), 0)::float8 AS wal_bytes,
			coalesce(sum(r.waited_ms), 0)::float8 AS waited_ms,
			coalesce(sum(r.took_ms), 0)::float8 AS took_ms,
			coalesce(sum(r.rows_skipped_locked), 0)::float8
				AS rows_skipped_locked,
			coalesce(sum(r.rows_skipped_protected), 0)::float8
				AS rows_skipped_protected,
			max(r.last_finished_at) FILTER (WHERE r.status = 'succeeded')
				AS last_success_at
		FROM run AS r
	), last_run AS MATERIALIZED (
		SELECT max(l.started_at) AS started_at,
			max(l.finished_at) AS finished_at,
			coalesce(bool_or(l.status = 'succeeded'), false) AS succeeded,
			coalesce(max(l.rows_deleted), 0) AS rows_deleted,
			coalesce(max(l.tenants_failed), 0) AS tenants_failed
		FROM (SELECT * FROM retention.run_history AS h
			WHERE h.only_tenant IS NULL AND CASE h.status WHEN 'running'
				THEN retention.run_status(h.id) <> 'running' ELSE true END
			ORDER BY h.id DESC LIMIT 1) AS l
	), progress AS MATERIALIZED (
		SELECT count(*) AS runs, min(p.started_at) AS started_at,
			coalesce(sum(p.rows_deleted), 0) AS rows_deleted,
			coalesce(sum(p.rows_estimated), 0) AS rows_estimated
		FROM retention.progress AS p
	), failing AS MATERIALIZED (
		-- tenants with errors since they were last dealt with, as in retention.status
		SELECT t.tenant_id, count(*) AS failed_runs,
			(array_agg(t.sqlstate ORDER BY t.run_id DESC))[1] AS sqlstate
		FROM retention.run_tenant AS t
		WHERE t.sqlstate IS NOT NULL
			AND t.run_id > coalesce((SELECT max(r.id) FROM retention.run_history AS r
				WHERE r.only_tenant IS NULL AND r.status = 'succeeded'
					AND r.tenants_busy = 0), 0)
			AND NOT EXISTS (SELECT FROM retention.run_tenant AS later
				WHERE later.tenant_id = t.tenant_id
					AND later.run_id > t.run_id AND later.sqlstate IS NULL)
		GROUP BY t.tenant_id
		HAVING max(t.run_id) >= coalesce(
			(SELECT c.id FROM retention.last_complete_run() AS c), 0)
	), failing_most AS MATERIALIZED (
		-- not below: a LIMIT in one part of a union keeps conditions from all of them
		SELECT * FROM failing AS f
		ORDER BY f.failed_runs DESC, f.tenant_id LIMIT 5
	)
	SELECT 'retention_extension_info' AS name,
		jsonb_build_object('version', e.extversion, 'table',
			coalesce(retention.executions()::text, '')) AS labels,
		1::float8 AS value,
		'Version of the extension and the table that it cleans' AS help,
		'gauge' AS type
	FROM pg_extension AS e WHERE e.extname = 'retention'
	UNION ALL
	SELECT 'retention_enabled', '{}',
		retention.setting('enabled')::boolean::integer,
		'Whether runs delete anything: the setting retention.enabled',
		'gauge'
	UNION ALL
	SELECT m.name, '{}', m.value, m.help, 'gauge'
	FROM (SELECT count(*) FILTER (WHERE p.is_enabled) AS enabled,
			count(*) FILTER (WHERE NOT p.is_enabled) AS disabled
		FROM @extschema@.execution_retention_policies AS p) AS p,
		LATERAL (VALUES
			('retention_default_policy',
				retention.setting('apply_default_policy')::boolean::integer,
				'Whether runs clean tenants without a policy: the setting retention.apply_default_policy'),
			('retention_enabled_policies', p.enabled,
				'Policies that runs follow'),
			('retention_disabled_policies', p.disabled,
				'Policies of tenants that runs leave alone')
		) AS m (name, value, help)
	UNION ALL
	SELECT 'retention_overdue_known', '{}', d.known::integer,
		'Whether it could be found out what is overdue; if not, see retention.status',
		'gauge'
	FROM due AS d
	UNION ALL
	SELECT 'retention_overdue_age_seconds', '{}',
		extract(epoch FROM d.overdue),
		'For how long the oldest row that is due has been older than the retention of its tenant; 0: nothing is due',
		'gauge'
	FROM due AS d WHERE d.known
	UNION ALL
	SELECT 'retention_overdue_tenants', '{}', d.tenants_overdue,
		'Tenants for whom rows have been due for longer than retention_patience_seconds without a run that dealt with them',
		'gauge'
	FROM due AS d WHERE d.known
	UNION ALL
	SELECT 'retention_overdue_tenant_seconds',
		jsonb_build_object('tenant', w.tenant), w.seconds::float8,
		'For how long rows of a tenant have been due that no run has dealt with, counted anew when its policy changes; the worst of the overdue tenants, at most 5',
		'gauge'
	FROM due AS d, jsonb_each(d.worst) AS w (tenant, seconds)
	UNION ALL
	SELECT 'retention_patience_seconds', '{}',
		extract(epoch FROM retention.patience()),
		'How long rows may be due before that is a warning: twice the usual time between runs, at least 2 days',
		'gauge'
	UNION ALL
	SELECT 'retention_failing_tenants', '{}', count(*),
		'Tenants whose last cleanup by a run ended with an error', 'gauge'
	FROM failing AS f
	UNION ALL
	SELECT 'retention_failing_tenant_runs',
		jsonb_build_object('tenant', f.tenant_id, 'sqlstate', f.sqlstate),
		f.failed_runs,
		'Runs that failed for a tenant since it was last dealt with; the worst tenants, at most 5',
		'gauge'
	FROM failing_most AS f
	UNION ALL
	SELECT m.name, '{}', m.value, m.help, 'counter'
	FROM total AS t, LATERAL (VALUES
		('retention_deleted_rows_total', t.rows_deleted,
			'Rows deleted by runs'),
		('retention_batches_total', t.batches,
			'Batches carried out by runs'),
		('retention_tenant_errors_total', t.tenants_failed,
			'Tenants that runs failed for, counted once a run'),
		('retention_wal_bytes_total', t.wal_bytes,
			'WAL written by runs'),
		('retention_run_wait_seconds_total', t.waited_ms / 1000,
			'Time that runs spent waiting for their limits'),
		('retention_run_duration_seconds_total', t.took_ms / 1000,
			'Time that runs took which have ended and were not interrupted')
		) AS m (name, value, help)
	UNION ALL
	SELECT 'retention_skipped_rows_total',
		jsonb_build_object('reason', m.reason), m.value,
		'Due rows that runs left: others held them, or foreign keys protect them',
		'counter'
	FROM total AS t, LATERAL (VALUES
		('locked', t.rows_skipped_locked),
		('protected', t.rows_skipped_protected)) AS m (reason, value)
	UNION ALL
	SELECT 'retention_runs_total', jsonb_build_object('status', s.status),
		coalesce(r.runs, 0), 'Runs that have ended', 'counter'
	FROM unnest(ARRAY['succeeded', 'partial', 'failed', 'interrupted',
			'cancelled']) AS s (status)
		LEFT JOIN run AS r ON r.status = s.status
	UNION ALL
	SELECT 'retention_last_success_timestamp_seconds', '{}',
		coalesce(extract(epoch FROM t.last_success_at), 0),
		'When the last run for all tenants ended that succeeded; 0: never',
		'gauge'
	FROM total AS t
	UNION ALL
	SELECT m.name, '{}', m.value, m.help, 'gauge'
	FROM last_run AS l, LATERAL (VALUES
		('retention_last_run_start_timestamp_seconds',
			coalesce(extract(epoch FROM l.started_at), 0),
			'When the last run for all tenants that has ended began; 0: never'),
		('retention_last_run_end_timestamp_seconds',
			coalesce(extract(epoch FROM l.finished_at), 0),
			'When the last run for all tenants ended; 0: never, or its session is gone and nobody knows'),
		('retention_last_run_succeeded', l.succeeded::integer,
			'Whether the last run for all tenants succeeded'),
		('retention_last_run_deleted_rows', l.rows_deleted,
			'Rows that the last run for all tenants deleted'),
		('retention_last_run_tenant_errors', l.tenants_failed,
			'Tenants that the last run for all tenants failed for')
		) AS m (name, value, help)
	UNION ALL
	SELECT 'retention_failed_runs_in_a_row', '{}', count(*),
		'Runs for all tenants that failed, were cancelled or interrupted since the last that did not',
		'gauge'
	FROM retention.history AS h
	WHERE h.only_tenant IS NULL
		AND h.status IN ('failed', 'interrupted', 'cancelled')
		AND h.id > coalesce((SELECT g.id FROM retention.run_history AS g
			WHERE g.only_tenant IS NULL AND g.status IN ('succeeded', 'partial')
			ORDER BY g.id DESC LIMIT 1), 0)
	UNION ALL
	SELECT m.name, '{}', m.value, m.help, 'gauge'
	FROM progress AS p, LATERAL (VALUES
		('retention_run_in_progress', p.runs,
			'Runs under way'),
		('retention_run_in_progress_seconds', coalesce(
			extract(epoch FROM clock_timestamp() - p.started_at), 0),
			'For how long the oldest run under way has been that'),
		('retention_run_in_progress_deleted_rows', p.rows_deleted,
			'Rows that the runs under way have deleted so far'),
		('retention_run_in_progress_estimated_rows', p.rows_estimated,
			'Rows that the runs under way expect to delete')
		) AS m (name, value, help);

CREATE VIEW retention.scheduled_jobs WITH (security_invoker = true) AS
	SELECT j.job_id, j.job_name, j.kind, j.schedule, j.command, j.database,
		j.username, j.active, j.last_status, j.last_message,
		j.last_started_at, j.last_finished_at
	FROM retention.scheduled_jobs() AS j;

-- trigger

CREATE TRIGGER trigger_update_execution_retention_policies_updated_at
	BEFORE UPDATE OF tenant_id, retention_days, is_enabled,
		min_executions_to_keep, updated_by
	ON @extschema@.execution_retention_policies
	FOR EACH ROW
	WHEN (OLD.tenant_id IS DISTINCT FROM NEW.tenant_id
		OR OLD.retention_days IS DISTINCT FROM NEW.retention_days
		OR OLD.is_enabled IS DISTINCT FROM NEW.is_enabled
		OR OLD.min_executions_to_keep IS DISTINCT FROM NEW.min_executions_to_keep
		OR OLD.updated_by IS DISTINCT FROM NEW.updated_by)
	EXECUTE FUNCTION @extschema@.update_execution_retention_policies_updated_at();

-- A run that walks over the table reads the policies now and then only.
CREATE TRIGGER hold_walks
	BEFORE INSERT OR DELETE OR TRUNCATE OR UPDATE OF tenant_id, retention_days,
		is_enabled, min_executions_to_keep
	ON @extschema@.execution_retention_policies
	FOR EACH STATEMENT
	EXECUTE FUNCTION retention.hold_walks();

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
COMMENT ON COLUMN retention.target.time_columns IS
	'The columns that the age of a row comes from, the first that is not null; the table is not cleaned when they have changed';

COMMENT ON FUNCTION @extschema@.cleanup_old_executions(uuid, integer, integer, integer) IS
	'Deletes the executions of a tenant that are older than p_retention_days (days of 24 hours) and not among its newest p_min_executions_to_keep, oldest first, p_batch_size rows at a time, in the caller''s transaction and with the caller''s rights. NULL means the tenant''s policy, else the settings retention.*. Returns the number of deleted rows and a summary.';
COMMENT ON FUNCTION @extschema@.update_execution_retention_policies_updated_at() IS
	'Trigger function: sets updated_at to the current time';
COMMENT ON FUNCTION retention.attach(regclass) IS
	'Makes a table named executions the one that is cleaned: uses or builds its indexes, which go with the extension, and records it. NULL looks for it on the search path and in the extension''s schema. Returns the table.';

COMMENT ON TABLE retention.run_history IS
	'Runs of retention.run(), one row each; written by the runs themselves, kept for retention.history_days';
COMMENT ON COLUMN retention.run_history.id IS
	'Number of the run';
COMMENT ON COLUMN retention.run_history.started_at IS
	'When it started';
COMMENT ON COLUMN retention.run_history.finished_at IS
	'When it ended; NULL: not yet';
COMMENT ON COLUMN retention.run_history.status IS
	'running, succeeded, partial (a limit stopped it, or some tenants had errors), failed, interrupted (its session is gone) or cancelled; see retention.history for a running one whose session is gone';
COMMENT ON COLUMN retention.run_history.run_by IS
	'The role that called it';
COMMENT ON COLUMN retention.run_history.pid IS
	'The process that carries it out';
COMMENT ON COLUMN retention.run_history.only_tenant IS
	'The tenant that it was called for; NULL: all';
COMMENT ON COLUMN retention.run_history.tenants_due IS
	'Tenants with something to delete when it began';
COMMENT ON COLUMN retention.run_history.tenants IS
	'Tenants dealt with';
COMMENT ON COLUMN retention.run_history.tenants_busy IS
	'Tenants left, with all or some of their rows, to another run';
COMMENT ON COLUMN retention.run_history.tenants_failed IS
	'Tenants with an error';
COMMENT ON COLUMN retention.run_history.batches IS
	'Batches carried out';
COMMENT ON COLUMN retention.run_history.rows_deleted IS
	'Rows deleted';
COMMENT ON COLUMN retention.run_history.rows_estimated IS
	'Rows that it expected to delete; NULL: unknown';
COMMENT ON COLUMN retention.run_history.rows_skipped_locked IS
	'Rows left because others held them';
COMMENT ON COLUMN retention.run_history.rows_skipped_protected IS
	'Rows left because foreign keys protect them';
COMMENT ON COLUMN retention.run_history.wal_bytes IS
	'WAL written';
COMMENT ON COLUMN retention.run_history.waited_ms IS
	'Time spent waiting for its limits, in milliseconds';
COMMENT ON COLUMN retention.run_history.waited_for IS
	'What it waited for: limits, a lock on the table, other sessions that were at work';
COMMENT ON COLUMN retention.run_history.waiting_for IS
	'What it is waiting for now; NULL: nothing';
COMMENT ON COLUMN retention.run_history.current_tenant IS
	'The tenant that it is at';
COMMENT ON COLUMN retention.run_history.stop_reason IS
	'Why it ended: done, or the limit that it reached';
COMMENT ON COLUMN retention.run_history.message IS
	'The error that ended it';
COMMENT ON SEQUENCE retention.run_history_id_seq IS
	'Numbers the runs';
COMMENT ON TABLE retention.run_tenant IS
	'What a run did for a tenant; one row for each tenant with deletions, rows left or an error';
COMMENT ON COLUMN retention.run_tenant.run_id IS
	'The run';
COMMENT ON COLUMN retention.run_tenant.tenant_id IS
	'The tenant';
COMMENT ON COLUMN retention.run_tenant.rows_deleted IS
	'Rows deleted';
COMMENT ON COLUMN retention.run_tenant.batches IS
	'Batches that deleted rows of the tenant; one may have rows of several tenants';
COMMENT ON COLUMN retention.run_tenant.rows_skipped_locked IS
	'Rows left because others held them';
COMMENT ON COLUMN retention.run_tenant.rows_skipped_protected IS
	'Rows left because foreign keys protect them';
COMMENT ON COLUMN retention.run_tenant.rows_kept IS
	'Rows that a trigger or row-level security kept or that were gone meanwhile';
COMMENT ON COLUMN retention.run_tenant.sqlstate IS
	'SQLSTATE of the error that stopped it; NULL: none';
COMMENT ON COLUMN retention.run_tenant.message IS
	'Text of that error';
COMMENT ON COLUMN retention.run_tenant.finished_at IS
	'When the tenant was left';
COMMENT ON INDEX retention.run_tenant_tenant_id_run_id_idx IS
	'Finds the last runs of a tenant';
COMMENT ON INDEX retention.run_tenant_error_idx IS
	'Finds the errors of the last runs';
COMMENT ON TABLE retention.run_pruned IS
	'What runs did that are no longer in run_history, summed by status, so that totals never fall; written with the removal';
COMMENT ON COLUMN retention.run_pruned.status IS
	'How the runs ended';
COMMENT ON COLUMN retention.run_pruned.runs IS
	'How many there were';
COMMENT ON COLUMN retention.run_pruned.last_finished_at IS
	'When the last of them ended that was called for all tenants';
COMMENT ON COLUMN retention.run_pruned.tenants_failed IS
	'Tenants with an error, counted once a run';
COMMENT ON COLUMN retention.run_pruned.batches IS
	'Batches carried out';
COMMENT ON COLUMN retention.run_pruned.rows_deleted IS
	'Rows deleted';
COMMENT ON COLUMN retention.run_pruned.rows_skipped_locked IS
	'Rows left because others held them';
COMMENT ON COLUMN retention.run_pruned.rows_skipped_protected IS
	'Rows left because foreign keys protect them';
COMMENT ON COLUMN retention.run_pruned.wal_bytes IS
	'WAL written';
COMMENT ON COLUMN retention.run_pruned.waited_ms IS
	'Time spent waiting for their limits, in milliseconds';
COMMENT ON COLUMN retention.run_pruned.took_ms IS
	'Time that they took unless they were interrupted, in milliseconds';

COMMENT ON PROCEDURE retention.run(uuid, boolean, interval, integer, text, interval, integer) IS
	'Cleans all tenants whose policy is enabled, or one, batch by batch with a commit after each; force: disabled policies too. NULL means the setting of the same name. Cannot be called in a transaction block or a function.';
COMMENT ON FUNCTION retention.preview(uuid) IS
	'What a run would delete now, for each policy or one tenant; changes nothing';
COMMENT ON FUNCTION retention.is_due(uuid, timestamptz, timestamptz, tid) IS
	'Used by runs: whether the run at work deletes this row; false for everybody else';
COMMENT ON FUNCTION retention.is_due(uuid, timestamp, timestamp, tid) IS
	'Used by runs: whether the run at work deletes this row; false for everybody else';
COMMENT ON FUNCTION retention.cutoff(timestamptz, integer) IS
	'The time so many days of 24 hours before; -infinity where the calendar ends';
COMMENT ON FUNCTION retention.oldest_due(uuid, integer, integer) IS
	'Time of the oldest execution that a cleanup of the tenant would delete now; NULL: none';
COMMENT ON FUNCTION retention.due_tenants(interval) IS
	'The tenants whose policy is enabled and for whom something is due, with the time of their oldest such execution, the longest overdue first, down to the first that is not overdue for longer than late; NULL: all';
COMMENT ON FUNCTION retention.lock_tenant(uuid) IS
	'Waits until no cleanup of the tenant is under way and keeps others out until the transaction ends; needs DELETE on executions';
COMMENT ON TRIGGER hold_walks
	ON @extschema@.execution_retention_policies IS
	'Lets no run go by policies that are being changed';
COMMENT ON FUNCTION retention.hold_walks() IS
	'Trigger function: waits for runs that walk over the table';
COMMENT ON FUNCTION retention.run_is_alive(bigint) IS
	'Whether a session carries out this run';
COMMENT ON FUNCTION retention.setting(text) IS
	'Value of a setting retention.*, also where the library is not loaded yet';
COMMENT ON FUNCTION retention.require_tenant(uuid) IS
	'Fails when the tenant is null';
COMMENT ON FUNCTION retention.raise_no_policy(uuid) IS
	'Fails: the tenant has no policy';
COMMENT ON FUNCTION retention.get_policy(uuid) IS
	'What applies to a tenant, and whether it comes from its policy or is the default of the settings; is_enabled: whether runs clean it';
COMMENT ON FUNCTION retention.set_policy(uuid, integer, boolean, integer, uuid) IS
	'Makes or changes the policy of a tenant and returns it. NULL leaves a field as it is; a new policy takes it from the settings and is enabled. by_user becomes updated_by, and created_by of a new policy.';
COMMENT ON FUNCTION retention.remove_policy(uuid) IS
	'Removes the policy of a tenant and returns what it was';
COMMENT ON FUNCTION retention.list_policies() IS
	'All policies in order of tenant';
COMMENT ON FUNCTION retention.cleanup_tenant(uuid, boolean) IS
	'Cleans one tenant by its policy in the callers transaction and records that with the policy; force: although the policy is disabled. Returns what was deleted, or that and why it was skipped; has_more in the summary says that rows were left.';
COMMENT ON FUNCTION retention.run_status(bigint) IS
	'Status of a run that is on record as running: interrupted when its session is gone';
COMMENT ON FUNCTION retention.patience() IS
	'How long rows may be due before that is a warning: twice the usual time between runs, at least 2 days';
COMMENT ON FUNCTION retention.last_complete_run(uuid, bigint) IS
	'The last run, of this number or a later one, that came to every tenant and left nothing of this tenant but what foreign keys protect; NULLs: none. Without a tenant: whatever was left, and though some tenants failed.';
COMMENT ON FUNCTION retention.overdue_totals() IS
	'What is overdue over all enabled policies; known is false when that cannot be found out';
COMMENT ON FUNCTION retention.due(uuid, integer, integer) IS
	'retention.oldest_due(), or the error that it ends with';
COMMENT ON FUNCTION retention.health() IS
	'One row about everything: the worst severity, in words what to do, the last runs and the schedule';
COMMENT ON FUNCTION retention.job_name(text) IS
	'Name of our job in pg_cron: kind is run or prune';
COMMENT ON FUNCTION retention.job_command(text) IS
	'Command of our job in pg_cron: run calls retention.run(), prune removes old details of our jobs';
COMMENT ON FUNCTION retention.visible_setting(text) IS
	'Value of a setting; NULL when there is none or you may not see it';
COMMENT ON FUNCTION retention.has_cron() IS
	'Whether pg_cron is installed in this database';
COMMENT ON FUNCTION retention.scheduled_jobs() IS
	'The jobs of pg_cron in this database that clean, and how each went last';
COMMENT ON FUNCTION retention.schedule(text) IS
	'Lets pg_cron call retention.run(), by default on the schedule of the setting retention.schedule; again: changes that, wakes the job, and makes it anew where cron.host, the port or the database has changed. A second job removes the details of our jobs after retention.history_days. Where pg_cron is in another database, returns the statement to run there.';
COMMENT ON FUNCTION retention.unschedule() IS
	'Removes the jobs of retention.schedule()';
COMMENT ON FUNCTION retention.executions() IS
	'The table that is cleaned; NULL: none';
COMMENT ON FUNCTION retention.with_partitions(regclass) IS
	'A table and its partitions';
COMMENT ON FUNCTION retention.referencing(regclass) IS
	'Foreign keys that a deletion in the table leads to, through those that cascade too';
COMMENT ON FUNCTION retention.check() IS
	'What is wrong with the setup, the worst first, and the statement that mends it';
COMMENT ON FUNCTION retention.check_table() IS
	'Part of retention.check(): the table and its indexes';
COMMENT ON FUNCTION retention.check_references() IS
	'Part of retention.check(): foreign keys without an index';
COMMENT ON FUNCTION retention.check_cascades() IS
	'Part of retention.check(): foreign keys that let rows go that are not due';
COMMENT ON FUNCTION retention.check_triggers() IS
	'Part of retention.check(): triggers that fire per deleted row';
COMMENT ON FUNCTION retention.check_schedule() IS
	'Part of retention.check(): the last runs and pg_cron';
COMMENT ON FUNCTION retention.deleted_since(timestamptz) IS
	'Rows deleted by the runs that ended since then or go on; 0 if you may not see them';
COMMENT ON FUNCTION retention.check_vacuum(interval) IS
	'Part of retention.check(): what keeps deleted rows from being vacuumed; transactions count once they have been open for so long';
COMMENT ON FUNCTION retention.check_rights() IS
	'Part of retention.check(): privileges and row-level security of the roles that jobs run as';

COMMENT ON VIEW retention.history IS
	'retention.run_history, where a run whose session is gone is interrupted at once';
COMMENT ON VIEW retention.progress IS
	'How far the running runs are. rows_per_second counts from the start, waits included; estimated_end assumes that it goes on like that.';
COMMENT ON VIEW retention.status IS
	'How each policy is doing, with a severity (ok, info, warning, critical) and what to do';
COMMENT ON COLUMN retention.status.oldest_due IS
	'Time of the oldest execution that a cleanup would delete now; NULL: none';
COMMENT ON COLUMN retention.status.overdue IS
	'How long that execution has been older than the retention';
COMMENT ON COLUMN retention.status.failed_runs IS
	'Runs with an error of the tenant since it was last dealt with';
COMMENT ON COLUMN retention.status.last_error IS
	'The last of these errors';
COMMENT ON COLUMN retention.status.growing IS
	'Rows that were due before the last three runs are still there, and the last of these left more rows than the first';
COMMENT ON COLUMN retention.status.severity IS
	'critical: three failed runs, or rows due for three times retention.patience(); warning: a failed run, rows due for longer than that, or growing';
COMMENT ON COLUMN retention.status.message IS
	'What is the matter and what to do';
COMMENT ON VIEW retention.metrics IS
	'What monitoring systems collect, named as Prometheus has it';
COMMENT ON COLUMN retention.metrics.name IS
	'Name of the metric';
COMMENT ON COLUMN retention.metrics.labels IS
	'Its labels, an object of strings';
COMMENT ON COLUMN retention.metrics.value IS
	'Its value';
COMMENT ON COLUMN retention.metrics.help IS
	'What it says';
COMMENT ON COLUMN retention.metrics.type IS
	'counter (never falls) or gauge';
COMMENT ON VIEW retention.scheduled_jobs IS
	'The jobs of pg_cron in this database that clean, and how each went last';

-- privileges

REVOKE EXECUTE ON FUNCTION
	@extschema@.cleanup_old_executions(uuid, integer, integer, integer),
	@extschema@.update_execution_retention_policies_updated_at(),
	retention.hold_walks(),
	retention.attach(regclass)
FROM PUBLIC;

GRANT USAGE ON SCHEMA retention TO PUBLIC;
GRANT SELECT ON retention.target TO PUBLIC;

REVOKE EXECUTE ON PROCEDURE
	retention.run(uuid, boolean, interval, integer, text, interval, integer)
FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION
	retention.set_policy(uuid, integer, boolean, integer, uuid),
	retention.remove_policy(uuid),
	retention.cleanup_tenant(uuid, boolean),
	retention.schedule(text),
	retention.unschedule()
FROM PUBLIC;

-- Views show what their caller may see.
GRANT SELECT ON retention.history, retention.progress, retention.status,
	retention.metrics, retention.scheduled_jobs TO PUBLIC;
REVOKE ALL ON retention.run_history, retention.run_tenant, retention.run_pruned
	FROM PUBLIC;
GRANT SELECT ON retention.run_history, retention.run_tenant, retention.run_pruned,
	@extschema@.execution_retention_policies TO pg_monitor;

-- The table to clean, if it exists: its indexes are built or adopted now.
SELECT retention.attach();
