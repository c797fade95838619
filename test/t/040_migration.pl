# 040_migration.pl - migrations/add_execution_retention_policy.sql: from the objects that
# applications write by hand, with 100,000 executions, and from nothing.  Nothing is lost,
# nothing is rebuilt, and what is cleaned afterwards is what plain SQL says.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use MigrationTest;
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('migration');

# The hand-written objects and a policy for each of the first twenty tenants, every one
# different, some without a minimum.
sub handwritten
{
	return 'SET client_min_messages = warning;' . fixture('handwritten') . q{
	INSERT INTO execution_retention_policies (tenant_id, retention_days, is_enabled, min_executions_to_keep,
		last_cleanup_at, last_cleanup_deleted_count, created_at, updated_at, created_by, updated_by)
	SELECT id, 5 + 9 * n, n % 5 > 0, CASE WHEN n % 6 > 0 THEN n * 300 END,
		   CASE WHEN n % 2 > 0 THEN timestamptz '2024-02-29 23:59:59.123456+00' + n * interval '1 hour' END,
		   CASE WHEN n % 3 > 0 THEN n * 1000 END,
		   timestamptz '2023-01-01 00:00:00.000001+00' + n * interval '1 day', timestamptz '2023-06-01 12:00+00',
		   CASE WHEN n % 4 > 0 THEN gen_random_uuid() END, CASE WHEN n % 4 > 1 THEN gen_random_uuid() END
	FROM tenants WHERE n <= 20;};
}

# ---- The main case.
{
	new_database($node, 'app');
	$node->safe_psql('app', application(22, 100_000) . handwritten() . 'VACUUM ANALYZE;');

	my $minimum = 'coalesce(min_executions_to_keep, 100)';
	my $expected = policies_of($node, 'app', columns => "id, tenant_id, retention_days, is_enabled, $minimum,
		last_cleanup_at, coalesce(last_cleanup_deleted_count, 0), created_at, updated_at, created_by, updated_by");
	my $rows = 'SELECT count(*), md5(string_agg(e::text, chr(10) ORDER BY id)) FROM executions e';
	my $rows_before = $node->safe_psql('app', $rows);
	my $files_before = index_files($node, 'app');

	like($rows_before, qr/^100000\|/, '100,000 executions');
	like($files_before, qr/^idx_executions_null_started_at\|.*\|.*^idx_executions_retention_cleanup\|/ms,
		'the indexes are there');

	# what a cleanup has to delete, from the old table, in plain SQL
	$node->safe_psql('app', "
		CREATE TABLE oracle AS
		SELECT e.id, e.tenant_id, p.is_enabled,
			   COALESCE(p.id IS NOT NULL AND rank > $minimum
						AND at < now() - retention_days * interval '24 hours', false) AS goes
		FROM (SELECT id, tenant_id, COALESCE(started_at, created_at) AS at,
					 row_number() OVER (PARTITION BY tenant_id ORDER BY COALESCE(started_at, created_at) DESC, id DESC) AS rank
			  FROM executions) AS e LEFT JOIN execution_retention_policies AS p USING (tenant_id)");

	# as a user does it, by a file
	my ($out, $err) = ('', '');
	my $file = top() . '/migrations/add_execution_retention_policy.sql';
	my @psql = ('psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('app'), '-f', $file);
	IPC::Run::run(\@psql, '>', \$out, '2>', \$err) or fail("psql -f: $err");

	like($err, qr/NOTICE:  column "min_executions_to_keep": NULL becomes 100 in 3 of 20 policies/,
		'what becomes of a NULL minimum is said');
	like($err, qr/NOTICE:  column "last_cleanup_deleted_count": NULL becomes 0 in 6 of 20 policies/,
		'and of a NULL count');
	like($err, qr/WARNING:  EXECUTE on function "cleanup_old_executions" is not carried over to PUBLIC/,
		'the right of PUBLIC to delete is not carried over, and that is said');
	like($err, qr/NOTICE:  carried over: constraint "execution_retention_policies_tenant_id_fkey"/,
		'the foreign key is carried over');
	like($err, qr/does not dump 1 of these\s+DETAIL:  ALTER TABLE .* FOREIGN KEY/, 'and pg_dump would not have it');
	like($err, qr/installed in schema "public" with the 20 policies there were/, 'how it ended is said');

	is(policies_of($node, 'app'), $expected, 'all policies with all their values');
	is($node->safe_psql('app', $rows), $rows_before, 'all executions as they were');
	is(index_files($node, 'app'), $files_before, 'no file of executions or its indexes is another one');
	is(contract_indexes($node, 'app'),
		"idx_executions_null_started_at|t|t\nidx_executions_retention_cleanup|t|t",
		'the indexes go with the extension now');
	is($node->safe_psql('app', q{
			SELECT p.oid::regprocedure, l.lanname, d.deptype FROM pg_proc p JOIN pg_language l ON l.oid = prolang
			JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
			WHERE proname IN ('cleanup_old_executions', 'update_execution_retention_policies_updated_at') ORDER BY 1}),
		"cleanup_old_executions(uuid,integer,integer,integer)|c|e\nupdate_execution_retention_policies_updated_at()|c|e",
		'the functions are the extension\'s');
	is($node->safe_psql('app', q{
			SELECT tgname, tgfoid::regproc FROM pg_trigger
			WHERE tgrelid = 'execution_retention_policies'::regclass AND NOT tgisinternal ORDER BY 1}),
		"hold_walks|retention.hold_walks\ntrigger_update_execution_retention_policies_updated_at|update_execution_retention_policies_updated_at",
		'the triggers are there, once');
	is($node->safe_psql('app', "
			SELECT attname FROM pg_attribute WHERE attrelid = 'execution_retention_policies'::regclass
			AND attnum > 0 AND NOT attisdropped AND NOT attnotnull ORDER BY 1"),
		"created_by\nlast_cleanup_at\nupdated_by", 'the table is the extension\'s');
	is($node->safe_psql('app', 'SHOW search_path'), '"$user", public', 'settings are as before');

	# again
	my $state = state_of($node, 'app');
	$err = migrate($node, 'app', 'again');
	like($err, qr/NOTICE:  00000: extension "retention" is installed already, in schema "public"/, 'again: says so');
	is(state_of($node, 'app'), $state, 'again: changes nothing');
	is(policies_of($node, 'app'), $expected, 'again: no policy either');
	unlike($err, qr/WARNING|DETAIL/, 'again: and says no more');

	# preview, cleanup and run against the oracle
	is($node->safe_psql('app', q{
			SELECT count(*), count(*) FILTER (WHERE v.executions_to_delete > 0)
			FROM retention.preview() v LEFT JOIN (SELECT tenant_id, count(*) AS n FROM oracle WHERE goes GROUP BY 1) o USING (tenant_id)
			WHERE v.executions_to_delete = COALESCE(o.n, 0)}),
		'20|' . $node->safe_psql('app', 'SELECT count(DISTINCT tenant_id) FROM oracle WHERE goes'),
		'preview agrees with plain SQL for each tenant');
	my $tenant = $node->safe_psql('app', 'SELECT id FROM tenants WHERE n = 3');
	is($node->safe_psql('app', "SELECT deleted_count FROM cleanup_old_executions(p_tenant_id => '$tenant')"),
		$node->safe_psql('app', "SELECT count(*) FROM oracle WHERE goes AND tenant_id = '$tenant'"),
		'a cleanup deletes as many');
	$node->safe_psql('app', 'CALL retention.run()');
	is($node->safe_psql('app', q{
			SELECT count(*) FILTER (WHERE o.goes AND o.is_enabled AND e.id IS NOT NULL),
				   count(*) FILTER (WHERE NOT (o.goes AND o.is_enabled) AND e.id IS NULL)
			FROM oracle o LEFT JOIN executions e USING (id)}),
		'0|0', 'and a run all that has to go and no more');
	cmp_ok($node->safe_psql('app', 'SELECT count(*) FROM oracle WHERE goes AND is_enabled'), '>', 10_000,
		'which was a lot');
	is($node->safe_psql('app', "DELETE FROM executions WHERE tenant_id = '$tenant'; DELETE FROM tenants WHERE n = 3;
			SELECT count(*) FROM execution_retention_policies WHERE tenant_id = '$tenant'"), '0',
		'the foreign key does its work');
}

# ---- CREATE EXTENSION over such objects.
{
	new_database($node, 'over');
	$node->safe_psql('over', application(3, 30) . handwritten());
	my $state = state_of($node, 'over');
	my $hint = qr/HINT:  .*migrations\/add_execution_retention_policy\.sql/;

	like(psql_fails($node, 'over', 'CREATE EXTENSION retention', '42P07', 'over a table'), $hint,
		'over a table: names the script');
	psql_fails($node, 'over', 'CREATE EXTENSION IF NOT EXISTS retention', '42P07', 'IF NOT EXISTS');
	psql_fails($node, 'over', 'SET search_path = pg_temp; CREATE EXTENSION retention SCHEMA public',
		'42P07', 'the schema it goes to counts, not the search path');
	is(state_of($node, 'over'), $state, 'over a table: nothing has happened');
	# what stands elsewhere is no obstacle
	$node->safe_psql('over', 'CREATE SCHEMA free;
		CREATE FUNCTION free.to_regclass(text) RETURNS regclass LANGUAGE sql AS $$ SELECT 1 / 0; SELECT NULL::regclass $$;
		SET search_path = free, pg_catalog, public; CREATE EXTENSION retention; DROP EXTENSION retention');
	$node->safe_psql('over', 'DROP TABLE execution_retention_policies');
	like(psql_fails($node, 'over', 'CREATE EXTENSION retention', '42710', 'over a function'), $hint,
		'over a function: names the script');
	$node->safe_psql('over', 'DROP FUNCTION cleanup_old_executions');
	like(psql_fails($node, 'over', 'CREATE EXTENSION retention', '42710', 'over a trigger function'), $hint,
		'over a trigger function: names the script');
	migrate($node, 'over', 'remains');
	is($node->safe_psql('over', 'SELECT count(*) FROM retention.preview()'), '0', 'remains: are replaced');
}

# ---- From nothing.
{
	new_database($node, 'fresh');
	$node->safe_psql('fresh', application(3, 3000));
	my $err = migrate($node, 'fresh', 'from nothing');
	unlike($err, qr/WARNING/, 'from nothing: no warning');
	is(contract_indexes($node, 'fresh'),
		"idx_executions_null_started_at|t|t\nidx_executions_retention_cleanup|t|t", 'from nothing: indexes are built');
	my $state = state_of($node, 'fresh');
	migrate($node, 'fresh', 'from nothing, again');
	is(state_of($node, 'fresh'), $state, 'from nothing, again: changes nothing');
	$node->safe_psql('fresh', 'DROP EXTENSION retention; CREATE EXTENSION retention');
	is(state_of($node, 'fresh') =~ s/^relation\|.*$//mgr, $state =~ s/^relation\|.*$//mgr,
		'from nothing: the same as CREATE EXTENSION');

	new_database($node, 'early');
	$err = migrate($node, 'early', 'without executions');
	like($err, qr/NOTICE:  00000: table "executions" does not exist yet/, 'without executions: says so');
	$node->safe_psql('early', application(3, 3000) . 'SELECT retention.attach()');
	is($node->safe_psql('early', 'SELECT count(*) FROM retention.preview(gen_random_uuid())'), '1',
		'without executions: works once it is attached');

	# hand-written policies, but the table comes later
	new_database($node, 'early');
	$node->safe_psql('early', 'CREATE TABLE execution_retention_policies (tenant_id uuid, retention_days int);
		INSERT INTO execution_retention_policies VALUES (gen_random_uuid(), 7)');
	migrate($node, 'early', 'policies without executions');
	is(policies_of($node, 'early', columns => 'retention_days, min_executions_to_keep, is_enabled'), '7|100|t',
		'policies without executions: kept');
}

# ---- A failure in the middle leaves all as it was.
{
	new_database($node, 'fail');
	$node->safe_psql('fail', application(22, 3000) . handwritten() . q{
		CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF EXISTS (SELECT FROM pg_extension WHERE extname = 'retention') THEN
				RAISE 'not today' USING ERRCODE = 'MT001';
			END IF;
		END $$;});
	my $before = policies_of($node, 'fail');
	foreach my $tag ('CREATE EXTENSION', 'ALTER TABLE', 'GRANT')
	{
		$node->safe_psql('fail', "GRANT SELECT ON execution_retention_policies TO pg_monitor;
			CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('$tag') EXECUTE FUNCTION refuse()");
		migration_fails($node, 'fail', 'MT001', "failure at $tag");
		is(policies_of($node, 'fail'), $before, "failure at $tag: no policy is lost");
		$node->safe_psql('fail', 'DROP EVENT TRIGGER refuse');
	}

	# objects that depend on what is replaced
	$node->safe_psql('fail', 'CREATE VIEW strict AS SELECT * FROM execution_retention_policies WHERE retention_days < 30');
	my $err = migration_fails($node, 'fail', '2BP01', 'a view');
	like($err, qr/DETAIL:  view public.strict depends on table public.execution_retention_policies/, 'a view: it is named');
	like($err, qr/HINT:  .*create them anew/, 'a view: and what to do');
	$node->safe_psql('fail', 'DROP VIEW strict;
		CREATE TRIGGER moved BEFORE UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION update_execution_retention_policies_updated_at()');
	$err = migration_fails($node, 'fail', '2BP01', 'the trigger function is used elsewhere');
	like($err, qr/trigger moved on table public.tenants depends on function/, 'the trigger function is used elsewhere: by what');
	$node->safe_psql('fail', 'DROP TRIGGER moved ON tenants');

	# an index of the name that is another one
	$node->safe_psql('fail', 'DROP INDEX idx_executions_null_started_at;
		CREATE INDEX idx_executions_null_started_at ON executions (created_at)');
	$err = migration_fails($node, 'fail', '42710', 'an index that does not fit');
	like($err, qr/DETAIL:  It must be a btree index on \(tenant_id, created_at\)/, 'an index that does not fit: says what would');
	$node->safe_psql('fail', 'DROP INDEX idx_executions_null_started_at');

	# in a transaction of the caller, who changes his mind
	my $state = state_of($node, 'fail');
	$node->safe_psql('fail', 'BEGIN;' . script('add') . 'CREATE TEMP TABLE t (); ROLLBACK');
	is(state_of($node, 'fail'), $state, 'ROLLBACK: all as it was');
	migrate($node, 'fail', 'after all that');
	is($node->safe_psql('fail', 'SELECT count(*) FROM retention.list_policies()'), 20, 'after all that: 20 policies');
}

# ---- While the service is at work: a call under way ends as it began, the next one is the
# extension's, also that of a prepared statement.
{
	new_database($node, 'busy');
	$node->safe_psql('busy', application(6, 3000) . handwritten() . q{
		CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN OLD; END $$;
		CREATE TRIGGER hold BEFORE DELETE ON executions FOR EACH ROW WHEN (OLD.tenant_id = '00000000-0000-0000-0000-000000000002')
			EXECUTE FUNCTION hold()});
	my $call = 'SELECT deleted_count, execution_summary ? $$total_before$$ AS old FROM cleanup_old_executions($1, $2, $3, $4)';
	my $holder = $node->background_psql('busy');
	my $worker = $node->background_psql('busy');
	my $service = $node->background_psql('busy');

	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	$service->query_safe("PREPARE clean (uuid, integer, integer, integer) AS $call");
	is($service->query_safe("EXECUTE clean ('00000000-0000-0000-0000-000000000001', 100, 5, 10)"), '251|t', 'at work: before');
	$worker->query_until(qr/calling/, "\\echo calling\nSELECT deleted_count, execution_summary ? 'total_before'
		FROM cleanup_old_executions('00000000-0000-0000-0000-000000000002', 100, 5, 10);\n");
	wait_for($node, 'busy', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted",
		'at work: a call is under way');
	migrate($node, 'busy', 'at work');
	$holder->query_safe('SELECT pg_advisory_unlock(4711)');
	is($worker->query_safe('SELECT 1'), "250|t\n1", 'at work: it ends as it began');
	is($service->query_safe("EXECUTE clean ('00000000-0000-0000-0000-000000000003', 100, 5, 10)"), '250|f',
		'at work: the next one is the extension\'s');
	$_->quit foreach $holder, $worker, $service;
}

# ---- Two at the same time, as when two instances of a service start.
{
	new_database($node, 'twice');
	$node->safe_psql('twice', application(22, 3000) . handwritten());
	my $first = $node->background_psql('twice');
	my $second = $node->background_psql('twice', on_error_stop => 0);
	my $script = script('add') =~ s{\A/\*.*?\*/\s*}{}sr;

	$first->query_safe("SET client_min_messages = error; BEGIN; $script");
	$second->query_until(qr/starting/, "\\echo starting\n$script\n");
	wait_for($node, 'twice', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted",
		'twice at once: the second waits');
	$first->query_safe('COMMIT');
	$second->query('SELECT 1');
	like($second->{stderr}, qr/is installed already/, 'twice at once: and finds that it is done');
	unlike($second->{stderr}, qr/ERROR/, 'twice at once: without an error');
	$second->{stderr} = '';
	$_->quit foreach $first, $second;
	is($node->safe_psql('twice', 'SELECT count(*) FROM retention.list_policies()'), '20', 'twice at once: 20 policies');
}

# ---- Schemas, and whose names count.
{
	new_database($node, 'schemas');
	$node->safe_psql('schemas', 'CREATE SCHEMA "Ops 1"; SET search_path = "Ops 1";' . application(22, 3000) . handwritten());
	my $files = index_files($node, 'schemas', '"Ops 1".executions');
	my $policies = policies_of($node, 'schemas', table => '"Ops 1".execution_retention_policies',
		columns => 'id, tenant_id, retention_days');

	# what somebody put in the way
	$node->safe_psql('schemas', q{CREATE SCHEMA evil;
		CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'nonsense' $$;
		CREATE FUNCTION evil.to_regclass(text) RETURNS regclass LANGUAGE sql AS $$ SELECT NULL::regclass $$;
		CREATE FUNCTION evil.eq(name, name) RETURNS boolean LANGUAGE sql AS $$ SELECT false $$;
		CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.eq);
		CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;});
	my $err = migrate($node, 'schemas', 'odd schema', before => 'SET search_path = evil, pg_catalog, "Ops 1"');
	like($err, qr/installed in schema "Ops 1" with the 20 policies/, 'odd schema: where the table was');
	is(policies_of($node, 'schemas', table => '"Ops 1".execution_retention_policies',
			columns => 'id, tenant_id, retention_days'), $policies, 'odd schema: policies kept');
	is(index_files($node, 'schemas', '"Ops 1".executions'), $files, 'odd schema: no index is rebuilt');
	is($node->safe_psql('schemas', 'SELECT count(*) FROM retention.preview()'), '20', 'odd schema: attached');

	# named by the setting; a temporary table of the name is none of ours
	new_database($node, 'schemas');
	$node->safe_psql('schemas', 'CREATE SCHEMA app; SET search_path = app;' . application(22, 3000) . handwritten());
	migration_fails($node, 'schemas', '3F000', 'no such schema', before => "SET retention_migration.schema = 'nowhere'");
	migration_fails($node, 'schemas', '3F000', 'no schema', before => "SET search_path = ''");
	$err = migrate($node, 'schemas', 'named', before => "SET retention_migration.schema = 'app';
		CREATE TEMP TABLE execution_retention_policies (x int); CREATE TEMP TABLE executions (x int)");
	like($err, qr/installed in schema "app" with the 20 policies/, 'named: there');
	is($node->safe_psql('schemas', 'SELECT count(*) FROM retention.preview()'), '20', 'named: attached');

	# the same names in another schema of the search path
	new_database($node, 'schemas');
	$node->safe_psql('schemas', 'CREATE SCHEMA app; CREATE TABLE public.execution_retention_policies ();
		SET client_min_messages = error; SET search_path = app;' . application(22, 3000) . handwritten()
		. 'ALTER FUNCTION cleanup_old_executions SET SCHEMA public');
	$err = migrate($node, 'schemas', 'elsewhere, too', before => 'SET search_path = app, public');
	like($err, qr/WARNING:  01000: function public.cleanup_old_executions\(uuid,integer,integer,integer\) stays/,
		'elsewhere, too: the function is named');
	like($err, qr/WARNING:  01000: table public.execution_retention_policies stays/, 'elsewhere, too: so is the table');

	# installed in one schema, hand-written objects in another
	new_database($node, 'schemas');
	$node->safe_psql('schemas', 'CREATE SCHEMA ops; CREATE EXTENSION retention SCHEMA ops;' . application(22, 3000) . handwritten());
	$err = migration_fails($node, 'schemas', '55000', 'two of them');
	like($err, qr/installed in schema "ops", and table public.execution_retention_policies is none of its own/,
		'two of them: says which');
}

# ---- Who may run it.
{
	new_database($node, 'who');
	$node->safe_psql('who', 'CREATE ROLE app_owner LOGIN; GRANT CREATE ON DATABASE who TO app_owner;
		GRANT CREATE ON SCHEMA public TO app_owner; SET ROLE app_owner;' . application(22, 3000) . handwritten());
	my $err = migration_fails($node, 'who', '42501', 'the owner of the tables', before => 'SET SESSION AUTHORIZATION app_owner');
	like($err, qr/HINT:  Have a superuser run this script once/, 'the owner of the tables: says who can');
	migrate($node, 'who', 'a superuser');
	$err = migrate($node, 'who', 'the owner after that', before => 'SET SESSION AUTHORIZATION app_owner');
	like($err, qr/is installed already/, 'the owner after that: nothing to do');

	# and the owner goes on as before
	my $t = $node->safe_psql('who', 'SELECT id FROM tenants WHERE n = 1');
	is($node->safe_psql('who', "SET SESSION AUTHORIZATION app_owner;
			SELECT deleted_count > 0 FROM cleanup_old_executions(p_tenant_id => '$t', p_retention_days => 30,
				p_min_executions_to_keep => 5, p_batch_size => 10);
			UPDATE execution_retention_policies SET last_cleanup_at = now(), last_cleanup_deleted_count = 1 WHERE tenant_id = '$t';
			INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES ('$t', 12)
				ON CONFLICT (tenant_id) DO UPDATE SET retention_days = EXCLUDED.retention_days RETURNING retention_days;
			DELETE FROM execution_retention_policies WHERE tenant_id <> '$t';
			SELECT count(*) FROM execution_retention_policies"),
		"t\n12\n1", 'the owner goes on as before');
}

$node->stop;
done_testing();
