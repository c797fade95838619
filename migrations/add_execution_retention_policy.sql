/*
 * migrations/add_execution_retention_policy.sql
 *
 * Brings a database to the extension retention: from nothing, or from objects
 * of the same names that were written by hand: a table
 * execution_retention_policies, a function cleanup_old_executions(uuid,
 * integer, integer, integer), a trigger with its function, and indexes on
 * executions.  Policies are kept with all their values, and with them what
 * belongs to their table: foreign keys, checks, indexes, triggers, row-level
 * security, grants.  Indexes on executions that fit are kept as they are.
 * Rows of executions are not touched.  docs/migrations.md has the details.
 *
 * One statement, so one transaction, with psql and with any migration tool;
 * run again, it does nothing.  Run it as a superuser, with the search_path of
 * the application.  On a large table build the indexes CONCURRENTLY before.
 *
 * Settings, with SET, before it:
 *   retention_migration.schema          where the extension goes; by default
 *                                       to the table or function written by
 *                                       hand, else to the first schema of
 *                                       search_path
 *   retention_migration.keep_old_table  'on': what was in the table stays, as
 *                                       execution_retention_policies_old;
 *                                       needed when it has columns that the
 *                                       extension does not
 *
 * The way back is rollback_execution_retention_policy.sql.
 */
DO $retention$
DECLARE
	caller_path text;
	caller_schemas name[];
	caller_row_security text;
	schema_name name;
	new_table text;
	old_table oid;
	old_owner oid;
	old_kind "char";
	old_function oid;
	old_trigger_function oid;
	keep_old_table boolean;
	installed_in name;
	is_superuser boolean;
	sources text[] := '{}';
	kept_columns name[] := '{}';
	same_type name[] := '{}';
	misfits text[] := '{}';
	low numeric;
	high numeric;
	bad bigint;
	total bigint;
	carried text[] := '{}';
	undumped text[] := '{}';
	grants text[] := '{}';
	before_drop text[] := '{}';
	item record;
	statement text;
	detail text;
BEGIN
	-- What the caller's search_path finds counts; all else is named in full.
	caller_path := pg_catalog.current_setting('search_path');
	caller_schemas := pg_catalog.current_schemas(false);
	caller_row_security := pg_catalog.current_setting('row_security');
	PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
	PERFORM set_config('row_security', 'off', true);
	-- one at a time: the second one finds what the first has done
	PERFORM pg_advisory_xact_lock(hashtext('retention_migration'));

	keep_old_table := coalesce(nullif(
		current_setting('retention_migration.keep_old_table', true), ''), 'off');

	-- Where: the schema that is asked for, or has the table, or the function.
	schema_name := nullif(current_setting('retention_migration.schema', true), '');
	IF schema_name IS NULL THEN
		SELECT n.nspname INTO schema_name
		FROM unnest(caller_schemas) WITH ORDINALITY AS s (name, place)
			JOIN pg_namespace AS n ON n.nspname = s.name
		WHERE NOT pg_is_other_temp_schema(n.oid) AND n.oid <> pg_my_temp_schema()
		ORDER BY CASE
				WHEN to_regclass(format('%I.execution_retention_policies', s.name)) IS NOT NULL THEN 1
				WHEN to_regprocedure(format('%I.cleanup_old_executions(uuid, integer, integer, integer)', s.name)) IS NOT NULL THEN 2
				ELSE 3
			END, place
		LIMIT 1;
	END IF;
	IF schema_name IS NULL OR NOT EXISTS
		(SELECT FROM pg_namespace AS n WHERE n.nspname = schema_name)
	THEN
		RAISE EXCEPTION 'no schema to install the extension in: %',
			coalesce(format('"%s" does not exist', schema_name), 'search_path names none that exists')
			USING ERRCODE = 'invalid_schema_name',
				HINT = 'SET search_path, or name one: SET retention_migration.schema = ''public'';';
	END IF;
	new_table := format('%I.execution_retention_policies', schema_name);

	SELECT c.oid, c.relowner, c.relkind INTO old_table, old_owner, old_kind
	FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
	WHERE n.nspname = schema_name AND c.relname = 'execution_retention_policies';
	old_function := to_regprocedure(format(
		'%I.cleanup_old_executions(uuid, integer, integer, integer)', schema_name));
	old_trigger_function := to_regprocedure(format(
		'%I.update_execution_retention_policies_updated_at()', schema_name));

	-- ---- Is there something to do, and may the caller do it?

	SELECT n.nspname INTO installed_in
	FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
	WHERE e.extname = 'retention';
	IF FOUND THEN
		IF old_table IS NOT NULL AND installed_in <> schema_name THEN
			RAISE EXCEPTION 'extension "retention" is installed in schema "%", and table % is none of its own', installed_in, new_table
				USING ERRCODE = 'object_not_in_prerequisite_state',
					DETAIL = 'Two tables of policies cannot be made one without knowing which of them counts.',
					HINT = 'Drop the extension if nobody uses it yet, or the table, and run the script again.';
		END IF;
		RAISE NOTICE 'extension "retention" is installed already, in schema "%"', installed_in;
		PERFORM set_config('row_security', caller_row_security, true);
		PERFORM set_config('search_path', caller_path, true);
		RETURN;
	END IF;

	SELECT r.rolsuper INTO is_superuser
	FROM pg_roles AS r WHERE r.rolname = current_user;
	IF NOT is_superuser THEN
		RAISE EXCEPTION 'permission denied to create extension "retention"'
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Its functions are written in C.',
				HINT = 'Have a superuser run this script once, with psql; for other roles it has nothing to do after that, so that your migration tool can go on.';
	END IF;

	-- ---- The table written by hand: what of it the extension can hold.

	IF old_table IS NOT NULL THEN
		IF old_kind <> 'r' THEN
			RAISE EXCEPTION '% is not an ordinary table', new_table
				USING ERRCODE = 'wrong_object_type',
					HINT = 'Rename or drop it.';
		END IF;
		EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', new_table);
		EXECUTE format('SELECT count(*) FROM %s', new_table) INTO total;

		FOR item IN
			SELECT w.name, w.target, w.required, a.attnum, t.typcategory,
				coalesce(nullif(t.typbasetype, 0), t.oid)::regtype::text AS type,
				w.low, w.high
			FROM (VALUES
				(1, 'id', 'uuid', false, NULL::numeric, NULL::numeric),
				(2, 'tenant_id', 'uuid', true, NULL, NULL),
				(3, 'retention_days', 'integer', true, 1, 2147483647),
				(4, 'is_enabled', 'boolean', false, NULL, NULL),
				(5, 'min_executions_to_keep', 'integer', false, 0, 2147483647),
				(6, 'last_cleanup_at', 'timestamp with time zone', false, NULL, NULL),
				(7, 'last_cleanup_deleted_count', 'bigint', false, -9223372036854775808, 9223372036854775807),
				(8, 'created_at', 'timestamp with time zone', false, NULL, NULL),
				(9, 'updated_at', 'timestamp with time zone', false, NULL, NULL),
				(10, 'created_by', 'uuid', false, NULL, NULL),
				(11, 'updated_by', 'uuid', false, NULL, NULL)
				) AS w (place, name, target, required, low, high)
				LEFT JOIN pg_attribute AS a
					ON a.attrelid = old_table AND a.attname = w.name
						AND a.attnum > 0 AND NOT a.attisdropped
				LEFT JOIN pg_type AS t ON t.oid = a.atttypid
			ORDER BY w.place
		LOOP
			statement := NULL;
			IF item.attnum IS NULL THEN
				IF item.required THEN
					RAISE EXCEPTION 'table % has no column "%"', new_table, item.name
						USING ERRCODE = 'undefined_column',
							HINT = 'Rename its column of that meaning, or rename the table if it is about something else.';
				END IF;
				statement := CASE item.name WHEN 'is_enabled' THEN 'true'
					ELSE format('NULL::%s', item.target) END;
			ELSIF item.type = item.target THEN
				statement := format('o.%I', item.name);
				same_type := same_type || item.name::name;
			ELSIF item.target = 'uuid' AND item.type IN ('text', 'character varying', 'character') THEN
				EXECUTE format('SELECT count(*) FROM %s AS o WHERE o.%I::text !~* %L', new_table, item.name,
					'^\s*[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\s*$') INTO bad;
				IF bad = 0 THEN
					statement := format('trim(o.%I::text)::uuid', item.name);
				END IF;
			ELSIF item.low IS NOT NULL AND item.type IN ('smallint', 'integer', 'bigint', 'numeric') THEN
				statement := format('o.%I::%s', item.name, item.target);
			ELSIF item.target LIKE 'timestamp%' AND item.type LIKE 'timestamp%' THEN
				statement := format('o.%I AT TIME ZONE ''UTC''', item.name);
			END IF;

			IF statement IS NULL AND item.required THEN
				RAISE EXCEPTION 'column "%" of table % is of type %, which does not become %', item.name, new_table, item.type, item.target
					USING ERRCODE = 'datatype_mismatch',
						HINT = format('Change it first: ALTER TABLE %s ALTER COLUMN %I TYPE %s USING ...;', new_table, item.name, item.target);
			ELSIF statement IS NULL THEN
				misfits := misfits || format('%I %s', item.name, item.type);
				statement := format('NULL::%s', item.target);
			ELSIF item.attnum IS NOT NULL THEN
				kept_columns := kept_columns || item.name::name;
			END IF;
			sources := sources || format('%s AS %I', statement, item.name);

			-- whole numbers in the range of the extension's checks
			IF item.name = ANY (kept_columns) AND item.low IS NOT NULL THEN
				low := item.low;
				high := item.high;
				EXECUTE format('SELECT count(*) FROM %s AS o WHERE o.%I NOT BETWEEN $1 AND $2 OR o.%2$I <> trunc(o.%2$I::numeric)',
					new_table, item.name) INTO bad USING low, high;
				IF bad > 0 THEN
					RAISE EXCEPTION 'table % has % policies with a value of "%" that the extension does not allow', new_table, bad, item.name
						USING ERRCODE = 'check_violation',
							DETAIL = format('Allowed are whole numbers from %s to %s.', low, high),
							HINT = format('Correct them and run the script again.  To see them: SELECT * FROM %s WHERE %I NOT BETWEEN %s AND %s OR %2$I <> trunc(%2$I);',
								new_table, item.name, low, high);
				END IF;
			END IF;
		END LOOP;

		EXECUTE format('CREATE TEMPORARY TABLE retention_migration_policy ON COMMIT DROP AS SELECT %s FROM %s AS o',
			array_to_string(sources, ', '), new_table);
		SELECT count(*) INTO bad
		FROM pg_temp.retention_migration_policy AS p WHERE p.tenant_id IS NULL;
		IF bad > 0 THEN
			RAISE EXCEPTION 'table % has % policies without a tenant', new_table, bad
				USING ERRCODE = 'not_null_violation',
					HINT = 'Delete them.  What is meant for tenants without a policy of their own are the settings retention.default_retention_days and retention.apply_default_policy.';
		END IF;
		SELECT count(*) - count(DISTINCT p.tenant_id) INTO bad
		FROM pg_temp.retention_migration_policy AS p;
		IF bad > 0 THEN
			RAISE EXCEPTION 'table % has tenants with several policies', new_table
				USING ERRCODE = 'unique_violation',
					HINT = format('Keep one of each.  To see them: SELECT tenant_id FROM %s GROUP BY tenant_id HAVING count(*) > 1;', new_table);
		END IF;

		SELECT misfits || coalesce(array_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum), '{}')
		INTO misfits
		FROM pg_attribute AS a
		WHERE a.attrelid = old_table AND a.attnum > 0 AND NOT a.attisdropped
			AND a.attname <> ALL (kept_columns)
			AND a.attname NOT IN ('id', 'is_enabled', 'min_executions_to_keep',
				'last_cleanup_at', 'last_cleanup_deleted_count', 'created_at',
				'updated_at', 'created_by', 'updated_by');
		IF misfits <> '{}' AND NOT keep_old_table THEN
			RAISE EXCEPTION 'table % has columns that the extension cannot hold: %', new_table, array_to_string(misfits, ', ')
				USING ERRCODE = 'object_not_in_prerequisite_state',
					HINT = 'To leave the old table beside the new one, as execution_retention_policies_old: SET retention_migration.keep_old_table = ''on'';  Or drop the columns.  Then run the script again.';
		END IF;

		-- ---- What belongs to the table, as statements that make it anew.
		-- "fits": it is about columns that are kept.  "trusted": it runs no
		-- code of roles below the extension's owner with that owner's rights.
		-- "dumped": pg_dump has it although the table is the extension's.

		FOR item IN
			SELECT 1 AS step, format('constraint "%s"', c.conname) AS what,
				format('ALTER TABLE %s ADD CONSTRAINT %I %s', new_table, c.conname, pg_get_constraintdef(c.oid)) AS statement,
				c.oid, 'pg_constraint'::regclass AS class, false AS dumped, c.contype = 'f' AS needs_type
			FROM pg_constraint AS c
			WHERE c.conrelid = old_table AND c.contype IN ('c', 'f', 'u', 'x')
				AND c.conparentid = 0
				AND NOT (c.contype = 'u' AND array_length(c.conkey, 1) = 1
					AND EXISTS (SELECT FROM pg_attribute AS a
						WHERE a.attrelid = old_table AND a.attnum = c.conkey[1]
							AND a.attname IN ('tenant_id', 'id')))
				AND NOT (c.contype = 'c' AND pg_get_constraintdef(c.oid) IN (
					'CHECK ((retention_days > 0))', 'CHECK ((retention_days >= 1))',
					'CHECK ((min_executions_to_keep >= 0))'))
			UNION ALL
			SELECT 2, format('index "%s"', c.relname), pg_get_indexdef(i.indexrelid),
				i.indexrelid, 'pg_class', false, false
			FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
			WHERE i.indrelid = old_table AND c.relname <> 'idx_retention_policies_tenant'
				AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid AND k.conrelid = old_table)
				-- no more than the extension's own
				AND NOT (i.indnatts = 1 AND i.indexprs IS NULL
					AND (i.indpred IS NULL OR pg_get_expr(i.indpred, old_table) IN ('is_enabled', '(is_enabled = true)'))
					AND (SELECT a.attname FROM pg_attribute AS a
						WHERE a.attrelid = old_table AND a.attnum = i.indkey[0]) IN ('tenant_id', 'id'))
			UNION ALL
			SELECT 3, format('default of column "%s"', a.attname),
				format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', new_table, a.attname, pg_get_expr(d.adbin, old_table)),
				d.oid, 'pg_attrdef', false, false
			FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
			WHERE d.adrelid = old_table AND a.attgenerated = ''
				AND (a.attname, regexp_replace(pg_get_expr(d.adbin, old_table), '^''(-?\d+)''::\w+$', '\1')) NOT IN
					(('retention_days', '90'), ('is_enabled', 'true'), ('min_executions_to_keep', '100'))
				AND a.attname IN ('retention_days', 'is_enabled', 'min_executions_to_keep')
			UNION ALL
			SELECT 4, format('trigger "%s"', t.tgname),
				pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' ELSE format('; ALTER TABLE %s %s TRIGGER %I', new_table,
					CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END, t.tgname) END,
				t.oid, 'pg_trigger', false, false
			FROM pg_trigger AS t
			WHERE t.tgrelid = old_table AND NOT t.tgisinternal
				AND t.tgname <> 'trigger_update_execution_retention_policies_updated_at'
			UNION ALL
			SELECT 5, format('policy "%s"', p.polname),
				format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, new_table,
					CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
					CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
						WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
					(SELECT string_agg(CASE WHEN r.role = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.role)) END, ', ')
						FROM unnest(p.polroles) AS r (role)),
					' USING (' || pg_get_expr(p.polqual, old_table) || ')',
					' WITH CHECK (' || pg_get_expr(p.polwithcheck, old_table) || ')'),
				p.oid, 'pg_policy', false, false
			FROM pg_policy AS p WHERE p.polrelid = old_table
			UNION ALL
			SELECT 6, 'row-level security', format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', new_table),
				NULL, 'pg_class', false, false
			FROM pg_class AS c WHERE c.oid = old_table AND c.relrowsecurity
			UNION ALL
			SELECT 7, 'forced row-level security', format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', new_table),
				NULL, 'pg_class', false, false
			FROM pg_class AS c WHERE c.oid = old_table AND c.relforcerowsecurity
			UNION ALL
			-- the old owner was above row-level security, as the new one is
			SELECT 8, format('policy "owner_before_retention" for role "%s"', r.rolname),
				format('CREATE POLICY owner_before_retention ON %s TO %I USING (true) WITH CHECK (true)', new_table, r.rolname),
				NULL, 'pg_class', false, false
			FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner
			WHERE c.oid = old_table AND c.relrowsecurity AND NOT c.relforcerowsecurity
				AND NOT r.rolsuper AND NOT r.rolbypassrls
			UNION ALL
			SELECT 9, format('constraint "%s" of table %s', c.conname, c.conrelid::regclass),
				format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)),
				c.oid, 'pg_constraint', true, true
			FROM pg_constraint AS c
			WHERE c.confrelid = old_table AND c.conrelid <> old_table AND c.contype = 'f' AND c.conparentid = 0
			ORDER BY 1, 2
		LOOP
			IF item.step = 9 THEN
				SELECT before_drop || format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass, c.conname)
				INTO before_drop FROM pg_constraint AS c WHERE c.oid = item.oid;
			END IF;
			detail := NULL;
			IF EXISTS (SELECT FROM pg_depend AS d JOIN pg_attribute AS a
					ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
				WHERE d.classid = item.class AND d.objid = item.oid
					AND d.refclassid = 'pg_class'::regclass AND d.refobjid = old_table
					AND a.attname <> ALL (CASE WHEN item.needs_type THEN same_type ELSE kept_columns END))
			THEN
				detail := 'It is about a column that is not kept, or not with its type.';
			ELSIF item.step = 4 AND EXISTS (SELECT FROM pg_trigger AS t
				WHERE t.oid = item.oid AND t.tgfoid = old_trigger_function)
			THEN
				detail := 'Its function is replaced.';
			ELSIF item.step < 5 AND EXISTS (SELECT FROM pg_depend AS d
					JOIN pg_proc AS p ON p.oid = d.refobjid
					JOIN pg_roles AS r ON r.oid = p.proowner
				WHERE d.classid = item.class AND d.objid = item.oid
					AND d.refclassid = 'pg_proc'::regclass
					AND NOT p.prosecdef AND NOT r.rolsuper)
			THEN
				detail := 'It calls a function of a role that is no superuser, which would then run as whoever cleans, a superuser perhaps.';
			END IF;
			IF detail IS NOT NULL THEN
				RAISE WARNING '% is not carried over', item.what
					USING DETAIL = detail, HINT = item.statement || ';';
				CONTINUE;
			END IF;
			carried := carried || ARRAY[[item.what, item.statement]];
			IF NOT item.dumped THEN
				undumped := undumped || (item.statement || ';');
			END IF;
		END LOOP;

		FOR item IN
			SELECT format('publication "%s"', p.pubname) AS what,
				format('ALTER PUBLICATION %I ADD TABLE %s', p.pubname, new_table) AS hint
			FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
			WHERE r.prrelid = old_table
			UNION ALL
			SELECT format('rule "%s"', r.rulename), pg_get_ruledef(r.oid)
			FROM pg_rewrite AS r WHERE r.ev_class = old_table
			ORDER BY 1
		LOOP
			RAISE WARNING '% is not carried over', item.what
				USING HINT = item.hint;
		END LOOP;

		-- Grants, those of the owner by his ownership among them.  Who could
		-- add triggers or the like would reach beyond the table now.
		SELECT grants || coalesce(array_agg(format('GRANT %s ON TABLE %s TO %s%s', a.privileges, new_table, a.grantee,
			CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) ORDER BY a.grantee), '{}')
		INTO grants
		FROM (SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee,
				x.is_grantable,
				string_agg(x.privilege_type || coalesce(' (' || quote_ident(x.attname) || ')', ''), ', ') AS privileges
			FROM (SELECT e.grantee, e.is_grantable, e.privilege_type, NULL::name AS attname
				FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS e
				WHERE c.oid = old_table
				UNION ALL
				SELECT e.grantee, e.is_grantable, e.privilege_type, a.attname
				FROM pg_attribute AS a, aclexplode(a.attacl) AS e
				WHERE a.attrelid = old_table AND NOT a.attisdropped
					AND (a.attname = ANY (kept_columns))) AS x
				LEFT JOIN pg_roles AS r ON r.oid = x.grantee
			WHERE x.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES')
				AND r.rolsuper IS NOT TRUE
			GROUP BY 1, 2) AS a;
		FOR item IN
			SELECT e.privilege_type, CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END AS grantee
			FROM pg_class AS c, aclexplode(c.relacl) AS e LEFT JOIN pg_roles AS r ON r.oid = e.grantee
			WHERE c.oid = old_table AND e.grantee <> c.relowner AND r.rolsuper IS NOT TRUE
				AND e.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES')
			ORDER BY 1, 2
		LOOP
			RAISE WARNING '% on table % is not carried over to %', item.privilege_type, new_table, item.grantee
				USING DETAIL = 'A trigger on the table would run as whoever cleans, a superuser perhaps.';
		END LOOP;
	END IF;

	-- ---- The function written by hand.

	IF old_function IS NOT NULL THEN
		SELECT grants || coalesce(array_agg(DISTINCT format('GRANT EXECUTE ON FUNCTION %I.cleanup_old_executions(uuid, integer, integer, integer) TO %I%s',
			schema_name, r.rolname, CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)), '{}')
		INTO grants
		FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS e
			JOIN pg_roles AS r ON r.oid = e.grantee
		WHERE p.oid = old_function AND NOT r.rolsuper;

		FOR item IN
			SELECT p.prosecdef, EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS e
				WHERE e.grantee = 0) AS for_public
			FROM pg_proc AS p WHERE p.oid = old_function
		LOOP
			IF item.for_public THEN
				RAISE WARNING 'EXECUTE on function "cleanup_old_executions" is not carried over to PUBLIC'
					USING DETAIL = 'It deletes rows; its owner and the roles with a grant of their own have it.',
						HINT = format('GRANT EXECUTE ON FUNCTION %I.cleanup_old_executions(uuid, integer, integer, integer) TO your_role;', schema_name);
			END IF;
			IF item.prosecdef THEN
				RAISE WARNING 'function "cleanup_old_executions" ran with the rights of its owner; now it runs with the caller''s'
					USING HINT = 'Grant SELECT and DELETE on executions to the roles that call it.';
			END IF;
		END LOOP;
	END IF;
	FOR item IN
		SELECT format('function %s', p.oid::regprocedure) AS what,
			'Calls that fit it may go there, or are ambiguous.' AS detail,
			format('DROP FUNCTION %s;', p.oid::regprocedure) AS hint
		FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
		WHERE n.nspname = ANY (caller_schemas || schema_name)
			AND p.proname = 'cleanup_old_executions' AND p.oid IS DISTINCT FROM old_function
		UNION ALL
		SELECT format('table %s', c.oid::regclass), 'Statements may go there: search_path decides.',
			format('DROP TABLE %s;', c.oid::regclass)
		FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
		WHERE n.nspname = ANY (caller_schemas)
			AND c.relname = 'execution_retention_policies' AND c.oid IS DISTINCT FROM old_table
		ORDER BY 1
	LOOP
		RAISE WARNING '% stays beside the extension''s', item.what
			USING DETAIL = item.detail, HINT = item.hint;
	END LOOP;

	-- ---- The change itself.

	IF old_table IS NOT NULL AND keep_old_table THEN
		EXECUTE format('CREATE TABLE %I.execution_retention_policies_old AS TABLE %s', schema_name, new_table);
		EXECUTE format('ALTER TABLE %I.execution_retention_policies_old OWNER TO %I', schema_name, pg_get_userbyid(old_owner));
		RAISE NOTICE 'the old table is kept as %.execution_retention_policies_old', quote_ident(schema_name);
	END IF;

	BEGIN
		FOREACH statement IN ARRAY before_drop LOOP
			EXECUTE statement;
		END LOOP;
		IF old_table IS NOT NULL THEN
			EXECUTE format('DROP TABLE %s', new_table);
		END IF;
		IF old_function IS NOT NULL THEN
			EXECUTE format('DROP ROUTINE %s', old_function::regprocedure);
		END IF;
		IF old_trigger_function IS NOT NULL THEN
			EXECUTE format('DROP ROUTINE %s', old_trigger_function::regprocedure);
		END IF;
	EXCEPTION WHEN dependent_objects_still_exist THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		RAISE EXCEPTION 'other objects depend on what the extension replaces'
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = detail,
				HINT = 'Drop them, run the script again, and create them anew: the new objects have the same names.';
	END;

	PERFORM set_config('search_path', caller_path, true);
	EXECUTE pg_catalog.format('CREATE EXTENSION retention SCHEMA %I', schema_name);
	PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

	IF old_table IS NOT NULL THEN
		-- a NULL becomes what a new policy gets that says nothing
		FOR item IN
			SELECT w.name, w.value
			FROM (VALUES
				('retention_days', greatest(retention.setting('default_retention_days')::integer, 1)::text),
				('is_enabled', 'false'),
				('min_executions_to_keep', retention.setting('default_min_executions_to_keep')),
				('last_cleanup_deleted_count', '0'),
				('created_at', now()::text),
				('updated_at', now()::text)) AS w (name, value)
		LOOP
			EXECUTE format('UPDATE pg_temp.retention_migration_policy SET %I = %L WHERE %1$I IS NULL', item.name, item.value);
			GET DIAGNOSTICS bad = ROW_COUNT;
			IF bad > 0 THEN
				RAISE NOTICE 'column "%": NULL becomes % in % of % policies', item.name, item.value, bad, total;
			END IF;
		END LOOP;
		EXECUTE format('INSERT INTO %s (id, tenant_id, retention_days, is_enabled, min_executions_to_keep, last_cleanup_at,'
			' last_cleanup_deleted_count, created_at, updated_at, created_by, updated_by)'
			' SELECT coalesce(id, gen_random_uuid()), tenant_id, retention_days, is_enabled, min_executions_to_keep, last_cleanup_at,'
			' last_cleanup_deleted_count, created_at, updated_at, created_by, updated_by'
			' FROM pg_temp.retention_migration_policy', new_table);
		DROP TABLE pg_temp.retention_migration_policy;
	END IF;

	FOR i IN 1 .. coalesce(array_length(carried, 1), 0) LOOP
		BEGIN
			EXECUTE carried[i][2];
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
			RAISE EXCEPTION 'could not carry over %: %', carried[i][1], SQLERRM
				USING ERRCODE = SQLSTATE,
					DETAIL = concat_ws(E'\n', nullif(detail, ''), carried[i][2]),
					HINT = 'Drop it from the old table, run the script again, and create it anew.';
		END;
		RAISE NOTICE 'carried over: %', carried[i][1];
	END LOOP;
	FOREACH statement IN ARRAY grants LOOP
		EXECUTE statement;
	END LOOP;

	IF undumped <> '{}' THEN
		RAISE WARNING 'pg_dump does not dump % of these', array_length(undumped, 1)
			USING DETAIL = array_to_string(undumped, E'\n'),
				HINT = 'Keep these statements, and run them after restoring a dump.';
	END IF;
	IF old_table IS NOT NULL THEN
		RAISE NOTICE 'extension "retention" is installed in schema "%" with the % policies there were', schema_name, total;
	ELSE
		RAISE NOTICE 'extension "retention" is installed in schema "%"', schema_name;
	END IF;
	PERFORM set_config('row_security', caller_row_security, true);
	PERFORM set_config('search_path', caller_path, true);
END $retention$;
