/*
 * migrations/rollback_execution_retention_policy.sql
 *
 * The way back from the extension retention: drops it, its jobs of pg_cron in
 * this database, and, if so decided, leaves the policies in a plain table of
 * the same name, with the constraints, indexes, row-level security and grants
 * that the table had.  Rows of executions are not touched.  The history of
 * runs goes.  add_execution_retention_policy.sql takes the policies up again.
 *
 * One statement, so one transaction, with psql and with any migration tool;
 * run again, it does nothing.  Run it as the owner of the extension.
 *
 * Settings, with SET, before it:
 *   retention_migration.keep_policies  'on': the policies stay, in a plain
 *                                      table; 'off': they go.  No default
 *                                      while there are any.
 *   retention_migration.keep_indexes   'on': the two indexes on executions
 *                                      stay; by default they go
 */
DO $retention$
DECLARE
	caller_path text;
	caller_row_security text;
	schema_name name;
	old_table oid;
	new_table text;
	columns text;
	keep_policies boolean;
	keep_indexes boolean;
	total bigint;
	before_drop text[] := '{}';
	afterwards text[] := '{}';
	item record;
	statement text;
	detail text;
BEGIN
	caller_path := pg_catalog.current_setting('search_path');
	caller_row_security := pg_catalog.current_setting('row_security');
	PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
	PERFORM set_config('row_security', 'off', true);
	-- one at a time: the second one finds what the first has done
	PERFORM pg_advisory_xact_lock(hashtext('retention_migration'));

	keep_policies := nullif(current_setting('retention_migration.keep_policies', true), '');
	keep_indexes := coalesce(nullif(
		current_setting('retention_migration.keep_indexes', true), ''), 'off');

	SELECT n.nspname INTO schema_name
	FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
	WHERE e.extname = 'retention';
	IF NOT FOUND THEN
		RAISE NOTICE 'extension "retention" is not installed';
		PERFORM set_config('row_security', caller_row_security, true);
		PERFORM set_config('search_path', caller_path, true);
		RETURN;
	END IF;
	IF NOT EXISTS (SELECT FROM pg_extension AS e
		WHERE e.extname = 'retention' AND pg_has_role(e.extowner, 'USAGE'))
	THEN
		RAISE EXCEPTION 'must be owner of extension "retention"'
			USING ERRCODE = 'insufficient_privilege',
				HINT = 'Run the script as that role or as a superuser; for other roles it has nothing to do after that.';
	END IF;

	new_table := format('%I.execution_retention_policies', schema_name);
	old_table := new_table::regclass;
	EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', new_table);
	EXECUTE format('SELECT count(*) FROM %s', new_table) INTO total;
	IF keep_policies IS NULL AND total > 0 THEN
		RAISE EXCEPTION 'what becomes of % policies is not decided', total
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'SET retention_migration.keep_policies = ''on'' leaves them in a plain table, ''off'' drops them.';
	END IF;

	-- ---- What belongs to the table, as statements that make it anew.

	IF keep_policies THEN
		SELECT string_agg(format('%I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
			' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid),
			CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END), ', ' ORDER BY a.attnum)
		INTO columns
		FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = old_table AND a.attnum > 0 AND NOT a.attisdropped;

		FOR item IN
			SELECT 1 AS step, c.conname AS name,
				format('ALTER TABLE %s ADD CONSTRAINT %I %s', new_table, c.conname, pg_get_constraintdef(c.oid)) AS statement,
				NULL::text AS drop_statement
			FROM pg_constraint AS c
			WHERE c.conrelid = old_table AND c.contype IN ('c', 'f', 'p', 'u', 'x')
				AND c.conparentid = 0
			UNION ALL
			SELECT 2, c.relname, pg_get_indexdef(i.indexrelid), NULL
			FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
			WHERE i.indrelid = old_table
				AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid AND k.conrelid = old_table)
			UNION ALL
			SELECT 3, t.tgname,
				pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' ELSE format('; ALTER TABLE %s %s TRIGGER %I', new_table,
					CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE REPLICA' END, t.tgname) END,
				NULL
			FROM pg_trigger AS t
			WHERE t.tgrelid = old_table AND NOT t.tgisinternal
				AND t.tgname NOT IN ('trigger_update_execution_retention_policies_updated_at', 'hold_walks')
			UNION ALL
			SELECT 4, p.polname,
				format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, new_table,
					CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
					CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
						WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
					(SELECT string_agg(CASE WHEN r.role = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.role)) END, ', ')
						FROM unnest(p.polroles) AS r (role)),
					' USING (' || pg_get_expr(p.polqual, old_table) || ')',
					' WITH CHECK (' || pg_get_expr(p.polwithcheck, old_table) || ')'),
				NULL
			FROM pg_policy AS p WHERE p.polrelid = old_table
			UNION ALL
			SELECT 5, NULL, format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', new_table), NULL
			FROM pg_class AS c WHERE c.oid = old_table AND c.relrowsecurity
			UNION ALL
			SELECT 6, NULL, format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', new_table), NULL
			FROM pg_class AS c WHERE c.oid = old_table AND c.relforcerowsecurity
			UNION ALL
			SELECT 7, c.conname,
				format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)),
				format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass, c.conname)
			FROM pg_constraint AS c
			WHERE c.confrelid = old_table AND c.conrelid <> old_table AND c.contype = 'f' AND c.conparentid = 0
			UNION ALL
			SELECT 8, g.grantee, format('GRANT %s ON TABLE %s TO %s%s', g.privileges, new_table, g.grantee,
				CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), NULL
			FROM (SELECT CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee,
					x.is_grantable,
					string_agg(x.privilege_type || coalesce(' (' || quote_ident(x.attname) || ')', ''), ', ') AS privileges
				FROM (SELECT e.grantee, e.is_grantable, e.privilege_type, NULL::name AS attname
					FROM pg_class AS c, aclexplode(c.relacl) AS e
					WHERE c.oid = old_table AND e.grantee <> c.relowner
					UNION ALL
					SELECT e.grantee, e.is_grantable, e.privilege_type, a.attname
					FROM pg_attribute AS a, aclexplode(a.attacl) AS e
					WHERE a.attrelid = old_table AND NOT a.attisdropped) AS x
				GROUP BY 1, 2) AS g
			ORDER BY 1, 2
		LOOP
			afterwards := afterwards || item.statement;
			IF item.drop_statement IS NOT NULL THEN
				before_drop := before_drop || item.drop_statement;
			END IF;
		END LOOP;

		EXECUTE format('CREATE TEMPORARY TABLE retention_migration_policy ON COMMIT DROP AS TABLE %s', new_table);
	END IF;

	-- ---- The change itself.

	FOR item IN SELECT u.message, u.statement FROM retention.unschedule() AS u LOOP
		RAISE NOTICE '%', item.message;
		IF item.statement IS NOT NULL THEN
			RAISE NOTICE '%', item.statement;
		END IF;
	END LOOP;
	IF keep_indexes THEN
		FOR item IN
			SELECT d.objid::regclass AS index
			FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
			WHERE d.refclassid = 'pg_extension'::regclass AND e.extname = 'retention'
				AND d.classid = 'pg_class'::regclass AND d.deptype = 'x'
			ORDER BY 1
		LOOP
			EXECUTE format('ALTER INDEX %s NO DEPENDS ON EXTENSION retention', item.index);
			RAISE NOTICE 'index % stays', item.index;
		END LOOP;
	END IF;

	BEGIN
		FOREACH statement IN ARRAY before_drop LOOP
			EXECUTE statement;
		END LOOP;
		DROP EXTENSION retention;
	EXCEPTION WHEN dependent_objects_still_exist THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		RAISE EXCEPTION 'other objects depend on extension "retention"'
			USING ERRCODE = 'dependent_objects_still_exist', DETAIL = detail,
				HINT = 'Drop them and run the script again.';
	END;

	IF keep_policies THEN
		EXECUTE format('CREATE TABLE %s (%s)', new_table, columns);
		EXECUTE format('INSERT INTO %s SELECT * FROM pg_temp.retention_migration_policy', new_table);
		DROP TABLE pg_temp.retention_migration_policy;
		FOREACH statement IN ARRAY afterwards LOOP
			EXECUTE statement;
		END LOOP;
		RAISE NOTICE 'extension "retention" is dropped; % policies stay in table %', total, new_table
			USING HINT = 'Nothing cleans by them any more, and nothing sets updated_at.';
	ELSE
		RAISE NOTICE 'extension "retention" is dropped with its % policies', total;
	END IF;
	PERFORM set_config('row_security', caller_row_security, true);
	PERFORM set_config('search_path', caller_path, true);
END $retention$;
