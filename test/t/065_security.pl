# 065_security.pl - what is hostile: code of the table's owner in every place where it may
# stand, when a superuser runs the job; names that shadow those of the server; objects that
# wait for CREATE EXTENSION; text that wants to be SQL.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('security');
my $tenant = tenant(1);
my $attacks = 0;

# A database in which role app owns the table, every trap that an owner can set is set, and
# all that a trap sees is written down: by whom, and whether as a superuser.
sub trapped_database
{
	my ($db) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE SCHEMA app AUTHORIZATION app; SET SESSION AUTHORIZATION app; SET search_path = app;
		CREATE TABLE seen (trap text, who name DEFAULT current_user);
		CREATE FUNCTION look(trap text) RETURNS void LANGUAGE sql VOLATILE
		AS 'INSERT INTO app.seen (trap) VALUES (trap)';
		CREATE FUNCTION trap(trap text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
		AS 'BEGIN PERFORM app.look(trap); RETURN true; END';
		CREATE TABLE executions (id bigint, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
		CREATE INDEX predicate ON executions (tenant_id, started_at) WHERE trap('index predicate');
		CREATE INDEX predicate_of_leg ON executions (tenant_id, created_at) WHERE started_at IS NULL AND trap('index predicate');
		CREATE INDEX expression ON executions ((CASE WHEN trap('index expression') THEN id END));
		CREATE STATISTICS expressions ON (CASE WHEN trap('statistics') THEN id END), id FROM executions;
		ALTER TABLE executions ADD CONSTRAINT checked CHECK (trap('constraint') OR id > 0);
		CREATE FUNCTION trigger_trap() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			PERFORM app.look(format('trigger %s', TG_NAME));
			RETURN CASE WHEN TG_LEVEL = 'ROW' THEN OLD END;
		END \$\$;
		CREATE TRIGGER before_row BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION trigger_trap();
		CREATE TRIGGER before_statement BEFORE DELETE ON executions FOR EACH STATEMENT EXECUTE FUNCTION trigger_trap();
		CREATE TRIGGER after_statement AFTER DELETE ON executions FOR EACH STATEMENT EXECUTE FUNCTION trigger_trap();
		CREATE CONSTRAINT TRIGGER deferred AFTER DELETE ON executions DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION trigger_trap();
		INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day', now() FROM generate_series(1, 300) i;
		ANALYZE executions");
	return;
}

# What the traps have seen since the last time: the roles, and the traps.
sub seen
{
	my ($db) = @_;
	my $who = $node->safe_psql($db, 'SELECT DISTINCT who FROM app.seen ORDER BY 1');
	my $traps = $node->safe_psql($db, 'SELECT DISTINCT trap FROM app.seen ORDER BY 1');

	$node->safe_psql($db, 'TRUNCATE app.seen');
	return ($who, $traps);
}

$node->safe_psql('postgres', 'CREATE ROLE app LOGIN');

# ---- A superuser's call runs no code of the table's owner with a superuser's rights: not
# when the statement runs and not when it is planned.
{
	trapped_database('traps');
	seen('traps');
	my $path = 'SET search_path = app, public; SET constraint_exclusion = on;';
	my @calls = (
		[ 'CREATE EXTENSION', 'CREATE EXTENSION retention SCHEMA app', '' ],
		[ 'attach', "SELECT retention.attach('app.executions')", '' ],
		[ 'set_policy', "SELECT retention.set_policy('$tenant', 200, true, 0)", '' ],
		[ 'oldest_due', "SELECT retention.oldest_due('$tenant', 200, 0)", 'constraint|index|statistics' ],
		[ 'preview', 'SELECT * FROM retention.preview()', 'constraint|index|statistics' ],
		[ 'preview of one', "SELECT * FROM retention.preview('$tenant')", 'constraint|index|statistics' ],
		[ 'status', 'SELECT * FROM retention.status', 'constraint|index|statistics' ],
		[ 'health', 'SELECT * FROM retention.health()', 'constraint|index|statistics' ],
		[ 'check', 'SELECT * FROM retention.check()', '' ],
		[ 'lock_tenant', "SELECT retention.lock_tenant('$tenant')", '' ],
		[ 'run', 'CALL retention.run(batch_size => 7)', 'constraint|index|statistics|trigger' ],
		[ 'run of one', "SELECT retention.set_policy('$tenant', 150);\nCALL retention.run('$tenant', true)", 'trigger' ],
		[ 'run by default', "SET retention.apply_default_policy = on; SET retention.default_min_executions_to_keep = 1;
			DELETE FROM execution_retention_policies;\nCALL retention.run()", 'trigger' ],
		[ 'cleanup', "SELECT cleanup_old_executions('$tenant', 50, 0)", 'constraint|index|statistics|trigger' ],
		[ 'cleanup by the policy', "SELECT retention.set_policy('$tenant', 20, true, 0);
			SELECT cleanup_old_executions('$tenant')", 'trigger' ],
		[ 'cleanup_tenant', "SELECT retention.set_policy('$tenant', 10);
			SELECT * FROM retention.cleanup_tenant('$tenant')", 'trigger' ]);

	foreach my $call (@calls)
	{
		my ($name, $sql, $expected) = @$call;
		my ($rc, $out, $err) = $node->psql('traps', "$path $sql;", on_error_stop => 1);
		my ($who, $traps) = seen('traps');

		is($rc, 0, "owner's code: $name succeeds") or diag $err;
		# building an index evaluates it, as the owner: that is the server's care
		like($who, qr/^(app)?$/, "owner's code: $name runs none of it as a superuser")
		  or diag "seen by: $who\nin: $traps";
		like($traps, qr/\Q$_\E/, "owner's code: $name meets the $_ traps") foreach split /\|/, $expected;
		$attacks++;
	}
	is($node->safe_psql('traps', 'SELECT count(*) FROM app.executions'), '9', "owner's code: what was due is gone");
}


# ---- Nor code of whoever owns the policies: what an owner can put on a table that the job reads
# and writes.
{
	$node->safe_psql('traps', "CREATE ROLE keeper LOGIN; GRANT keeper TO app; GRANT CREATE, USAGE ON SCHEMA app TO keeper;
		SET search_path = app;
		ALTER TABLE execution_retention_policies OWNER TO keeper; GRANT INSERT ON seen TO keeper; SET SESSION AUTHORIZATION keeper;
		CREATE INDEX on_policies ON execution_retention_policies (tenant_id) WHERE trap('policies');
		CREATE TRIGGER on_policies BEFORE UPDATE ON execution_retention_policies FOR EACH ROW EXECUTE FUNCTION trigger_trap()");
	$node->safe_psql('traps', "SET search_path = app; SET SESSION AUTHORIZATION app; INSERT INTO executions
		SELECT i, '$tenant', now() - i * interval '1 day', now() FROM generate_series(50, 300) i");
	# in each a new session, that has nothing planned yet
	seen('traps');
	foreach my $call ([ 'run', 'CALL retention.run()', 'app,keeper' ], [ 'cleanup', "SELECT app.cleanup_old_executions('$tenant')", 'keeper' ],
		[ 'preview', 'SELECT * FROM retention.preview()', 'keeper' ], [ 'due_tenants', 'SELECT * FROM retention.due_tenants()', 'keeper' ])
	{
		my ($rc, $out, $err) = $node->psql('traps', "$call->[1];", on_error_stop => 1);
		my ($who, $traps) = seen('traps');

		is($rc, 0, "code of the policies' owner: $call->[0] succeeds") or diag $err;
		like($who, qr/^((app|keeper)\n?)*$/, "code of the policies' owner: $call->[0] runs none of it as a superuser");
		like($traps, qr/policies/, "code of the policies' owner: $call->[0] meets the traps");
		$attacks++;
	}
}

# ---- A trigger that tries everything, when a superuser cleans: none of it works, and the
# session is as it was.
my @mischief = (
	[ 'RESET ROLE', 'RESET ROLE', '42501' ], [ 'SET ROLE', 'SET ROLE postgres', '42501' ],
	[ 'SET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT', '42501' ], [ 'set_config role', q{SELECT set_config('role', 'none', false)}, '42501' ],
	[ 'ALTER ROLE', 'ALTER ROLE app SUPERUSER', '42501' ], [ 'CREATE ROLE', 'CREATE ROLE app2 SUPERUSER', '42501' ],
	[ 'GRANT', 'GRANT postgres TO app', '(42501|0LP01)' ], [ 'a function in retention', 'CREATE FUNCTION retention.evil() RETURNS int LANGUAGE sql AS $x$SELECT 1$x$', '42501' ],
	[ 'a temporary table', 'CREATE TEMP TABLE t ()', '42501' ], [ 'history', 'UPDATE retention.run_history SET rows_deleted = 0', '42501' ],
	[ 'history of tenants', 'DELETE FROM retention.run_tenant', '42501' ], [ 'the target', q{UPDATE retention.target SET relation = 'pg_class'}, '42501' ],
	[ 'policies', 'UPDATE public.execution_retention_policies SET retention_days = 1', '42501' ], [ 'a setting', 'SET retention.default_retention_days = 0', '42501' ],
	[ 'the switch', 'SET retention.enabled = off', '42501' ], [ 'ALTER SYSTEM', 'ALTER SYSTEM SET fsync = off', '(42501|25001|0A000)' ],
	[ 'COMMIT', 'COMMIT', '(0A000|2D000)' ], [ 'DISCARD', 'DISCARD ALL', '(42501|25001)' ], [ 'LISTEN', 'LISTEN x', '42501' ],
	[ 'a cursor that lasts', 'DECLARE c CURSOR WITH HOLD FOR SELECT 1', '(42501|0A000|42P11)' ], [ 'PREPARE', 'DEALLOCATE ALL', '(42501|00000)' ],
	[ 'a program', q{COPY (SELECT 1) TO PROGRAM 'true'}, '42501' ], [ 'a file', q{SELECT pg_read_file('postgresql.conf')}, '42501' ],
	[ 'LOAD', q{LOAD 'plpgsql'}, '(42501|00000)' ], [ 'a run', 'CALL retention.run()', '(2D000|42501)' ], [ 'attach', 'SELECT retention.attach()', '42501' ],
	[ 'replica', 'SET session_replication_role = replica', '42501' ],
	# what is allowed and must not last
	[ 'search_path', 'SET search_path = app, pg_catalog', '00000' ], [ 'row_security', 'SET row_security = on', '00000' ],
	[ 'lock_timeout', 'SET lock_timeout = 77777', '00000' ], [ 'statement_timeout', 'SET statement_timeout = 77777', '00000' ],
	[ 'work_mem', q{SELECT set_config('work_mem', '7777kB', false)}, '00000' ], [ 'planner', 'SET enable_indexscan = off', '00000' ],
	[ 'constraints', 'SET CONSTRAINTS ALL DEFERRED', '00000' ], [ 'plans', 'DISCARD PLANS', '(42501|00000)' ]);
{
	my $db = 'mischief';
	my $n = 0;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE SCHEMA app AUTHORIZATION app; CREATE EXTENSION retention;
		SET SESSION AUTHORIZATION app; SET search_path = app, public;
		CREATE TABLE executions (id bigint, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
		CREATE TABLE tried (n integer, state text, who name);
		CREATE TABLE todo (n integer, sql text);
		INSERT INTO todo VALUES " . join(', ', map { $n++; "($n, \$q\$$_->[1]\$q\$)" } @mischief) . ";
		CREATE FUNCTION try_all() RETURNS trigger LANGUAGE plpgsql AS \$\$
		DECLARE t app.todo; state text;
		BEGIN
			FOR t IN SELECT * FROM app.todo ORDER BY n LOOP
				state := '00000';
				BEGIN
					EXECUTE t.sql;
				EXCEPTION WHEN OTHERS THEN
					state := SQLSTATE;
				END;
				INSERT INTO app.tried VALUES (t.n, state, current_user);
			END LOOP;
			RETURN OLD;
		END \$\$;
		CREATE TRIGGER try_all BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION try_all();
		INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day', now() FROM generate_series(1, 10) i;");
	$node->safe_psql($db, "SELECT retention.attach('app.executions'); SELECT retention.set_policy('$tenant', 5, true, 0)");

	# pg_settings before and after, in one session
	my $settings = q{SELECT md5(string_agg(name || setting, '|' ORDER BY name)), current_user, session_user FROM pg_settings
		WHERE name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable') AND name NOT LIKE 'plpgsql.%'};
	foreach my $call ([ 'run', 'CALL retention.run();' ], [ 'cleanup', "SELECT deleted_count FROM cleanup_old_executions('$tenant', 2, 0);" ],
		[ 'cleanup_tenant', "SELECT retention.set_policy('$tenant', 1, true, 0); SELECT deleted_count FROM retention.cleanup_tenant('$tenant');" ])
	{
		my ($rc, $out, $err) = $node->psql($db, "SELECT retention.cutoff(now(), 0); \\o /dev/null\n\\o\n$settings;\n\\o /dev/null\n$call->[1]\n\\o\n$settings;", on_error_stop => 1);
		my (undef, $before, $after) = split /\n/, $out;
		is($rc, 0, "mischief: $call->[0] succeeds") or diag $err;
		is($after, $before, "mischief: $call->[0] leaves the session as it was");
		is($node->safe_psql($db, 'SELECT DISTINCT who FROM app.tried'), 'app', "mischief: $call->[0]: as the owner, to the end");
		my %state = map { split /\|/ } split /\n/, $node->safe_psql($db, "SELECT n, string_agg(DISTINCT state, ',') FROM app.tried GROUP BY n");
		for my $i (1 .. @mischief)
		{
			my ($what, undef, $expected) = @{ $mischief[ $i - 1 ] };
			like($state{$i} // 'not tried', qr/^$expected$/, "mischief: $call->[0]: $what");
			$attacks++;
		}
		$node->safe_psql($db, 'TRUNCATE app.tried');
	}
	is($node->safe_psql($db, q{SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname ~ 'app'}), '0', 'mischief: nobody has become a superuser');

	# a trigger that is put off until the commit would run as the superuser: it is an error instead
	$node->safe_psql($db, "SET search_path = app; DROP TRIGGER try_all ON executions;
		SET SESSION AUTHORIZATION app;
		CREATE FUNCTION put_off() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN SET CONSTRAINTS ALL DEFERRED; RETURN OLD; END';
		CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.tried VALUES (0, ''late'', current_user); RETURN NULL; END';
		CREATE TRIGGER put_off BEFORE DELETE ON executions FOR EACH STATEMENT EXECUTE FUNCTION put_off();
		CREATE CONSTRAINT TRIGGER late AFTER DELETE ON executions DEFERRABLE FOR EACH ROW EXECUTE FUNCTION late();
		INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day', now() FROM generate_series(100, 110) i");
	my ($rc, $out, $err) = $node->psql($db, 'CALL retention.run()');
	like($err, qr/cannot fire deferred trigger within security-restricted operation/, 'mischief: a trigger that is put off: run');
	($rc, $out, $err) = $node->psql($db, "BEGIN; SELECT cleanup_old_executions('$tenant', 5, 0); COMMIT;");
	like($err, qr/cannot fire deferred trigger within security-restricted operation/, 'mischief: a trigger that is put off: cleanup');
	is($node->safe_psql($db, q{SELECT count(*) FROM app.tried WHERE who <> 'app'}), '0', 'mischief: and never runs as the superuser');
	$attacks += 2;
}

# ---- Names that shadow those of the server, in a schema before pg_catalog and in pg_temp, when
# the extension is created and when it is used: nothing of theirs is ever called.
my $shadows = q{
	CREATE TABLE evil.called (what text);
	CREATE FUNCTION evil.note(what text) RETURNS void LANGUAGE sql VOLATILE AS 'INSERT INTO evil.called VALUES (what)';
	} . join('', map {
		my ($name, $arguments, $returns, $value) = @$_;
		"CREATE FUNCTION evil.$name($arguments) RETURNS $returns LANGUAGE plpgsql AS \$\$ BEGIN PERFORM evil.note('$name'); RETURN $value; END \$\$;\n"
	} ([ 'now', '', 'timestamptz', "'infinity'" ], [ 'clock_timestamp', '', 'timestamptz', "'infinity'" ], [ 'count', 'anyelement', 'bigint', '0' ],
		[ 'format', 'text, VARIADIC anyarray', 'text', "'DROP TABLE executions'" ], [ 'current_setting', 'text', 'text', "'0'" ],
		[ 'set_config', 'text, text, boolean', 'text', "'0'" ], [ 'timezone', 'text, timestamptz', 'timestamp', "'infinity'" ],
		[ 'gen_random_uuid', '', 'uuid', 'NULL' ], [ 'to_char', 'timestamptz, text', 'text', "'x'" ], [ 'concat_ws', 'text, VARIADIC text[]', 'text', "'x'" ],
		[ 'quote_ident', 'text', 'text', "'x'" ], [ 'unnest', 'uuid[]', 'uuid', 'NULL' ], [ 'isfinite', 'timestamptz', 'boolean', 'false' ],
		[ 'round', 'numeric, integer', 'numeric', '0' ], [ 'has_table_privilege', 'text, text', 'boolean', 'true' ],
		[ 'pg_has_role', 'text, text', 'boolean', 'true' ], [ 'current_database', '', 'name', "'x'" ],
		[ 'is_equal', 'uuid, uuid', 'boolean', 'true' ], [ 'is_before', 'timestamptz, timestamptz', 'boolean', 'true' ],
		[ 'int_is_less', 'integer, integer', 'boolean', 'true' ], [ 'text_is_equal', 'text, text', 'boolean', 'true' ], [ 'minus', 'timestamptz, interval', 'timestamptz', "'infinity'" ],
		[ 'join_texts', 'text, text', 'text', "'x'" ])) . q{
	CREATE OPERATOR evil.= (FUNCTION = evil.is_equal, LEFTARG = uuid, RIGHTARG = uuid);
	CREATE OPERATOR evil.= (FUNCTION = evil.text_is_equal, LEFTARG = text, RIGHTARG = text);
	CREATE OPERATOR evil.< (FUNCTION = evil.is_before, LEFTARG = timestamptz, RIGHTARG = timestamptz);
	CREATE OPERATOR evil.>= (FUNCTION = evil.is_before, LEFTARG = timestamptz, RIGHTARG = timestamptz);
	CREATE OPERATOR evil.> (FUNCTION = evil.is_before, LEFTARG = timestamptz, RIGHTARG = timestamptz);
	CREATE OPERATOR evil.< (FUNCTION = evil.int_is_less, LEFTARG = integer, RIGHTARG = integer);
	CREATE OPERATOR evil.>= (FUNCTION = evil.int_is_less, LEFTARG = integer, RIGHTARG = integer);
	CREATE OPERATOR evil.- (FUNCTION = evil.minus, LEFTARG = timestamptz, RIGHTARG = interval);
	CREATE OPERATOR evil.|| (FUNCTION = evil.join_texts, LEFTARG = text, RIGHTARG = text);
	CREATE DOMAIN evil.uuid AS text; CREATE DOMAIN evil.timestamptz AS text; CREATE DOMAIN evil.regclass AS text; CREATE DOMAIN evil.jsonb AS text;
	CREATE TABLE evil.pg_class (oid oid, relname name); CREATE TABLE evil.pg_extension (extname name, extnamespace oid);
	CREATE TABLE evil.pg_settings (name text, setting text); CREATE TABLE evil.target (relation regclass);
	CREATE TABLE evil.run_history (id bigint); CREATE TABLE evil.execution_retention_policies (tenant_id uuid);
	GRANT ALL ON ALL TABLES IN SCHEMA evil TO PUBLIC; GRANT USAGE ON SCHEMA evil TO PUBLIC;};
{
	my $db = 'shadows';
	my $path = 'SET search_path = evil, pg_catalog, app, public;
		CREATE TEMP TABLE pg_class (oid oid); CREATE TEMP TABLE run_history (id bigint); CREATE TEMP TABLE execution_retention_policies (id int);
		CREATE TEMP TABLE target (relation pg_catalog.text);';

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE SCHEMA evil; CREATE SCHEMA app; $shadows
		CREATE TABLE app.executions (id bigint, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
		INSERT INTO app.executions SELECT i, '$tenant', pg_catalog.now() - i * interval '1 day', pg_catalog.now() FROM generate_series(1, 300) i");
	my @calls = ('CREATE EXTENSION retention SCHEMA public', "SELECT retention.attach('app.executions')",
		"SELECT retention.set_policy('$tenant', 100, true, 0)", "SELECT retention.get_policy('$tenant')", 'SELECT retention.list_policies()',
		'SELECT * FROM retention.preview()', 'SELECT * FROM retention.status', 'SELECT * FROM retention.health()', 'SELECT * FROM retention.check()',
		'SELECT * FROM retention.metrics', 'SELECT * FROM retention.due_tenants()',
		'CALL retention.run(batch_size => 7)', 'SELECT * FROM retention.history', 'SELECT * FROM retention.progress', 'SELECT * FROM retention.scheduled_jobs',
		"SELECT public.cleanup_old_executions('$tenant', 50, 0)", "SELECT retention.set_policy('$tenant', 20)", "SELECT retention.cleanup_tenant('$tenant')",
		'SET retention.apply_default_policy = on; DELETE FROM public.execution_retention_policies; CALL retention.run()',
		"INSERT INTO public.execution_retention_policies (tenant_id) VALUES ('$tenant'); UPDATE public.execution_retention_policies SET retention_days = 4",
		"SELECT retention.remove_policy('$tenant')", 'SELECT retention.unschedule()');
	foreach my $call (@calls)
	{
		# each statement of its own: a run has to be able to commit
		my ($rc, $out, $err) = $node->psql($db, "$path\n" . ($call =~ s/; /;\n/gr) . ';', on_error_stop => 1);

		is($rc, 0, 'shadows: ' . substr($call, 0, 50) . ' succeeds') or diag $err;
		# what the statement itself names is the caller's business
		is($node->safe_psql($db, 'SELECT DISTINCT what FROM evil.called'), '', 'shadows: and calls none of them') unless $call =~ /DELETE FROM|INSERT INTO/;
		$node->safe_psql($db, 'TRUNCATE evil.called');
		$attacks++;
	}
	is($node->safe_psql($db, 'SELECT count(*) FROM app.executions'), '19', 'shadows: what is deleted is what the clock of the server says');
}

# ---- Objects that wait for CREATE EXTENSION under its names: it fails and leaves nothing, and
# takes none of them for its own.
{
	my $db = 'captured';

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'GRANT CREATE ON SCHEMA public TO app; GRANT CREATE ON DATABASE captured TO app');
	my %waiting = (
		'a schema of somebody else' => [ 'CREATE SCHEMA retention', '42P06', 'DROP SCHEMA retention' ],
		'a policy table' => [ 'CREATE TABLE execution_retention_policies (tenant_id uuid)', '42P07', 'DROP TABLE execution_retention_policies' ],
		'a type' => [ 'CREATE TYPE execution_retention_policies AS (a integer)', '(42710|42P07)', 'DROP TYPE execution_retention_policies' ],
		'a view' => [ 'CREATE VIEW execution_retention_policies AS SELECT 1 AS one', '42P07', 'DROP VIEW execution_retention_policies' ],
		'an index name' => [ 'CREATE TABLE idx_retention_policies_tenant ()', '42P07', 'DROP TABLE idx_retention_policies_tenant' ],
		'a key name' => [ 'CREATE TABLE unique_tenant_retention_policy ()', '42P07', 'DROP TABLE unique_tenant_retention_policy' ],
		'the cleanup' => [ "CREATE FUNCTION cleanup_old_executions(uuid, integer, integer, integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
			'(42723|42710)', 'DROP FUNCTION cleanup_old_executions' ],
		'the trigger function' => [ "CREATE FUNCTION update_execution_retention_policies_updated_at() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
			'(42723|42710)', 'DROP FUNCTION update_execution_retention_policies_updated_at' ]);
	foreach my $name (sort keys %waiting)
	{
		my ($sql, $state, $undo) = @{ $waiting{$name} };

		$node->safe_psql($db, "SET SESSION AUTHORIZATION app; $sql");
		my ($rc, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\nCREATE EXTENSION retention;", on_error_stop => 1);
		like($err, qr/ERROR:  $state:/, "captured: $name: an error");
		is($node->safe_psql($db, q{SELECT count(*) FROM pg_extension WHERE extname = 'retention'}), '0', "captured: $name: nothing is left");
		$node->safe_psql($db, "SET SESSION AUTHORIZATION app; $undo");
		$attacks++;
	}
	# overloads beside it neither capture the calls nor break them
	$node->safe_psql($db, "SET SESSION AUTHORIZATION app;
		CREATE TABLE executions (id bigint, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
		CREATE TABLE captured (by text);
		" . join('', map { "CREATE FUNCTION cleanup_old_executions($_) RETURNS TABLE (deleted_count integer, execution_summary jsonb) LANGUAGE sql
			AS 'INSERT INTO captured VALUES (''$_''); SELECT 0, NULL::jsonb';" } 'uuid', 'uuid, integer', 'uuid, integer, integer', 'uuid, bigint, bigint, bigint',
			'uuid, VARIADIC integer[]', 'anyelement, integer, integer, integer'));
	$node->safe_psql($db, "CREATE EXTENSION retention; INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day', now() FROM generate_series(1, 10) i;
		SELECT retention.set_policy('$tenant', 5, true, 0)");
	is($node->safe_psql($db, "SELECT deleted_count FROM retention.cleanup_tenant('$tenant')"), '6', 'captured: overloads do not stand in the way');
	is($node->safe_psql($db, 'SELECT count(*) FROM captured'), '0', 'captured: and are not called');
	$attacks++;
}

# ---- The owner of a database who is no superuser: cannot create the extension, is told what it
# takes, and can do with it what a superuser grants.
{
	$node->safe_psql('postgres', 'CREATE ROLE landlord LOGIN CREATEROLE; CREATE DATABASE house OWNER landlord');
	$node->safe_psql('house', 'SET SESSION AUTHORIZATION landlord; CREATE TABLE executions (id bigint, tenant_id uuid NOT NULL, started_at timestamptz)');
	my $err = psql_fails($node, 'house', 'SET SESSION AUTHORIZATION landlord; CREATE EXTENSION retention;', '42501', 'not trusted');
	like($err, qr/permission denied to create extension "retention".*\nHINT:  Must be superuser to create this extension\./, 'not trusted: says what it takes');
	is($node->safe_psql('house', q{SELECT count(*) FROM pg_namespace WHERE nspname = 'retention'}), '0', 'not trusted: leaves nothing');
	$node->safe_psql('house', 'CREATE EXTENSION retention;
		GRANT SELECT, INSERT, UPDATE, DELETE ON execution_retention_policies TO landlord;
		GRANT EXECUTE ON ALL ROUTINES IN SCHEMA retention, public TO landlord');
	$node->safe_psql('house', "SET SESSION AUTHORIZATION landlord; SELECT retention.set_policy('$tenant', 30);
		INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day' FROM generate_series(1, 200) i");
	is($node->psql('house', "SET SESSION AUTHORIZATION landlord;\nCALL retention.run();", on_error_stop => 1), 0, 'not trusted: with what is granted the owner runs it');
	is($node->safe_psql('house', 'SELECT count(*) FROM executions'), '100', 'not trusted: and cleans');
	foreach my $sql ('DROP EXTENSION retention', 'DROP SCHEMA retention CASCADE', 'DROP TABLE execution_retention_policies', 'DROP TABLE retention.run_history',
		'CREATE TABLE retention.t ()', 'ALTER SCHEMA retention RENAME TO r', 'ALTER TABLE retention.run_history OWNER TO landlord',
		'UPDATE retention.run_history SET rows_deleted = 0', q{CREATE SCHEMA other; CREATE TABLE other.executions (LIKE executions); SELECT retention.attach('other.executions')}, 'SET retention.default_retention_days = 0', 'SET retention.history_days = 1')
	{
		my ($rc, $out, $stderr) = $node->psql('house', "SET SESSION AUTHORIZATION landlord; SELECT retention.cutoff(now(), 0);\n\\set VERBOSITY verbose\n$sql;", on_error_stop => 1);
		like($stderr, qr/ERROR:  (42501|2BP01):/, "not trusted: the owner of the database cannot: $sql");
		$attacks++;
	}
	# a setting that is set before the library knows it is not kept
	foreach my $setting ('default_retention_days = 0', 'default_min_executions_to_keep = 0', 'apply_default_policy = on', 'enabled = off', 'history_days = 1')
	{
		my ($name) = $setting =~ /^(\w+)/;
		my $default = $node->safe_psql('house', "SELECT retention.cutoff(now(), 0); SELECT boot_val FROM pg_settings WHERE name = 'retention.$name'") =~ s/^.*\n//r;
		my ($rc, $out, $stderr) = $node->psql('house', "SET SESSION AUTHORIZATION landlord; SET retention.$setting;
			\\o /dev/null\nSELECT retention.cutoff(now(), 0);\n\\o\nSHOW retention.$name;", on_error_stop => 1);
		is($out, $default, "not trusted: retention.$name set before the library is there counts for nothing");
		$attacks++;
	}
}

# ---- A role with EXECUTE and nothing else, and one that sees its tenant's policy alone.
{
	my ($mine, $other) = (tenant(1), tenant(2));

	$node->safe_psql('house', "CREATE ROLE executor LOGIN; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA retention, public TO executor;
		CREATE ROLE of_tenant LOGIN; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA retention, public TO of_tenant;
		GRANT SELECT, INSERT, UPDATE, DELETE ON executions, execution_retention_policies TO of_tenant;
		ALTER TABLE execution_retention_policies ENABLE ROW LEVEL SECURITY;
		CREATE POLICY own ON execution_retention_policies TO of_tenant USING (tenant_id = '$mine');
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) VALUES ('$other', 10000, 10);
		INSERT INTO executions SELECT i, '$other', now() - i * interval '1 day' FROM generate_series(1, 200) i;
		CREATE TABLE before AS SELECT * FROM executions; CREATE TABLE policies_before AS SELECT * FROM execution_retention_policies");
	foreach my $sql ("SELECT cleanup_old_executions('$mine', 0, 0)", "SELECT retention.cleanup_tenant('$mine')", 'CALL retention.run()',
		"SELECT retention.set_policy('$mine', 1)", "SELECT retention.remove_policy('$mine')", 'SELECT * FROM retention.list_policies()',
		'SELECT * FROM retention.preview()', "SELECT retention.lock_tenant('$mine')", "SELECT retention.oldest_due('$mine', 1, 0)",
		"SELECT retention.attach('executions')", 'SELECT * FROM retention.due_tenants()', 'SELECT * FROM retention.run_history', 'SELECT * FROM retention.status')
	{
		my ($rc, $out, $err) = $node->psql('house', "SET SESSION AUTHORIZATION executor;\n\\set VERBOSITY verbose\n$sql;", on_error_stop => 1);
		like($err, qr/ERROR:  42501:/, "EXECUTE alone is not enough: $sql");
		$attacks++;
	}
	foreach my $case ([ "SELECT retention.get_policy('$other')", '42501' ], [ "SELECT retention.preview('$other')", '42501' ],
		[ "SELECT retention.set_policy('$other', 1, true, 0)", '42501' ], [ "SELECT retention.remove_policy('$other')", '42704' ],
		[ "SELECT cleanup_old_executions('$other')", '42501' ], [ "SELECT retention.cleanup_tenant('$other', true)", '(42704|42501)' ],
		[ "SELECT cleanup_old_executions('$other', 1)", '42501' ], [ 'CALL retention.run()', '42501' ], [ "CALL retention.run('$other', true)", '42501' ],
		[ "UPDATE execution_retention_policies SET tenant_id = '$other'", '(42501|23505)' ],
		[ "INSERT INTO execution_retention_policies (tenant_id) VALUES ('$other')", '(42501|23505)' ])
	{
		my ($rc, $out, $err) = $node->psql('house', "SET SESSION AUTHORIZATION of_tenant;\n\\set VERBOSITY verbose\n$case->[0];", on_error_stop => 1);
		like($err, qr/ERROR:  $case->[1]:/, "one tenant's policy: $case->[0]");
		$attacks++;
	}
	is($node->safe_psql('house', 'SELECT count(*) FROM (TABLE before EXCEPT TABLE executions) x'), '0', 'no row is gone');
	is($node->safe_psql('house', 'SELECT count(*) FROM (TABLE policies_before EXCEPT TABLE execution_retention_policies) x'), '0', 'no policy has changed');
	is($node->safe_psql('house', "SET SESSION AUTHORIZATION of_tenant; SELECT count(*) FROM retention.list_policies()"), '1', 'one policy is seen');
	is($node->safe_psql('house', "SET SESSION AUTHORIZATION of_tenant; SELECT (retention.set_policy('$mine', 20)).retention_days"), '20', 'and it can be changed');
	is($node->safe_psql('house', "SET SESSION AUTHORIZATION of_tenant; SELECT deleted_count FROM cleanup_old_executions('$mine', p_min_executions_to_keep => 0)"), '81', 'and obeyed');
}

# ---- Text that wants to be SQL: as an argument of every function that takes text, as a setting, as
# the name of a database that schedules its runs, and of a role.  Each statement is committed, what
# is stored and what is advised is run, and none of it makes a table.
{
	my $cron = have_library('pg_cron');
	my $victim = start_node('injection', $cron ? ("shared_preload_libraries = 'pg_cron'", "cron.database_name = 'postgres'") : ());
	# each with an expression that makes a statement of it in which it would work
	my @payloads = (
		[ q{x'); CREATE TABLE public.pwned();--}, q{'SELECT (''' || p || ''')'} ],
		[ q{x"; CREATE TABLE public.pwned();--}, q{'SELECT 1 AS "' || p || '"'} ],
		[ q{x$$; CREATE TABLE public.pwned();--}, q{'SELECT $$' || p || '$$'} ],
		[ q{x\'); CREATE TABLE public.pwned();--}, q{'SELECT (E''' || replace(p, '''', '''''') || ''')'} ],
		[ q{1; CREATE TABLE public.pwned();--}, q{'SELECT ' || p} ]);
	# and each with the five fields of a schedule
	my @texts = map { $_->[0], "* $_->[0]" } @payloads;
	my $literal = sub { return "'" . ($_[0] =~ s/'/''/gr) . "'" };
	my $found = sub {
		return grep { $victim->safe_psql($_, q{SELECT count(*) FROM pg_class WHERE relname = 'pwned'}) > 0 }
		  split /\n/, $victim->safe_psql('postgres', 'SELECT datname FROM pg_database WHERE datallowconn');
	};
	# An error is fine, unless it is of a parser that was given the text, or of a function in which
	# what the text wants cannot be done.
	my $attack = sub {
		my ($db, $sql, $name) = @_;
		my ($rc, $out, $err) = $victim->psql($db, "\\set VERBOSITY verbose\n$sql;");

		unlike($err, qr/(ERROR|FATAL|PANIC):  (42601|0A000|42P07|XX\d{3}):/, "injection: $name");
		$attacks++;
		return;
	};

	$victim->safe_psql('postgres', ($cron ? 'CREATE EXTENSION pg_cron;' : '') . executions_table()
		  . "CREATE EXTENSION retention; SELECT retention.set_policy('$tenant', 30)");
	foreach my $payload (@payloads)
	{
		$victim->safe_psql('postgres', 'DO ' . $literal->('DECLARE p text := ' . $literal->($payload->[0]) . "; BEGIN EXECUTE $payload->[1]; END"));
		is(join('', $found->()), 'postgres', "injection: it would work: $payload->[0]");
		$victim->safe_psql('postgres', 'DROP TABLE public.pwned');
	}

	my %plain = (uuid => "'$tenant'", integer => '1', bigint => '1', boolean => 'true', text => "'run'", name => "'run'", interval => "'1 day'",
		'timestamp with time zone' => 'now()', 'timestamp without time zone' => 'now()', tid => "'(0,1)'", regclass => "'executions'");
	my $taken = 0;
	foreach my $routine (split /\n/, $victim->safe_psql('postgres', q{
		SELECT p.prokind, p.oid::regproc, string_agg(format_type(t, NULL), ';' ORDER BY o)
		FROM pg_proc p, unnest(p.proargtypes::oid[]) WITH ORDINALITY u (t, o)
		WHERE EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'retention'
			WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
		GROUP BY p.oid, p.prokind ORDER BY p.oid::regprocedure::text}))
	{
		my ($kind, $name, $types) = split /\|/, $routine;
		my @types = split /;/, $types;

		foreach my $place (grep { $types[$_] =~ /^(text|name)$/ } 0 .. $#types)
		{
			foreach my $text (@texts)
			{
				my $arguments = join ', ', map {
					($_ == $place ? $literal->($text) : $plain{ $types[$_] } // die "teach this test values of type $types[$_]") . "::$types[$_]"
				} 0 .. $#types;
				$attack->('postgres', ($kind eq 'p' ? 'CALL ' : 'SELECT * FROM ') . "$name($arguments)", "$name($types), argument " . ($place + 1) . ": $text");
			}
			$taken++;
		}
		die "teach this test what to try for $name($types)" if grep { !$plain{$_} } @types;
	}
	cmp_ok($taken, '>=', 5, "injection: $taken arguments take text");
	foreach my $setting (split /\n/, $victim->safe_psql('postgres', q{SELECT retention.cutoff(now(), 0);
		SELECT name FROM pg_settings WHERE name LIKE 'retention.%' AND vartype = 'string'}) =~ s/^.*\n//r)
	{
		foreach my $text (@texts)
		{
			$attack->('postgres', "SET $setting = " . $literal->($text) . ";\n$_", "$setting = $text: $_")
			  foreach 'SELECT * FROM retention.schedule()', 'CALL retention.run()', 'SELECT * FROM retention.check()';
		}
	}
	is(join(', ', $found->()), '', 'injection: arguments and settings: no database has the table');

	# The commands of the jobs, where pg_cron would run them.
	my $run_jobs = sub {
		my ($in, $what, @expected) = @_;
		my @databases;

		foreach my $job (split /\n/, $victim->safe_psql($in, 'SELECT jobid FROM cron.job ORDER BY jobid'))
		{
			my ($db, $command) = map { $victim->safe_psql($in, "SELECT $_ FROM cron.job WHERE jobid = $job") } 'database', 'command';

			push @databases, $db;
			is($victim->psql($db, $command, on_error_stop => 1), 0, "injection: $what: this works: $command");
			$attacks++;
		}
		is(join("\n", sort @databases), join("\n", sort @expected), "injection: $what: the jobs are in the right databases");
		return;
	};
	my @views = ('SELECT * FROM retention.check()', 'SELECT * FROM retention.health()', 'SELECT * FROM retention.scheduled_jobs',
		'SELECT * FROM retention.metrics', 'CALL retention.run()');
	foreach my $name ($cron ? map { $_->[0] } @payloads : ())
	{
		my $quoted = '"' . ($name =~ s/"/""/gr) . '"';

		# a database beside that of pg_cron
		$victim->safe_psql('postgres', "CREATE DATABASE $quoted TEMPLATE template0");
		$victim->safe_psql($name, executions_table() . "CREATE EXTENSION retention; SELECT retention.set_policy('$tenant', 30)");
		$attack->('postgres', $victim->safe_psql($name, 'SELECT statement FROM retention.schedule(' . $literal->("* $name") . ')'),
			"database $name: what to run for a schedule like its name");
		$victim->safe_psql('postgres', $victim->safe_psql($name, q{SELECT statement FROM retention.schedule('30 1 * * *')}));
		$run_jobs->('postgres', "database $name", $name, 'postgres');
		$attack->($name, $_, "database $name: $_") foreach @views;
		$victim->safe_psql('postgres', $victim->safe_psql($name, 'SELECT statement FROM retention.unschedule()'));
		is($victim->safe_psql('postgres', 'SELECT count(*) FROM cron.job'), '0', "injection: database $name: no job is left");

		# a role that may not, is told what to grant, and then may
		$victim->safe_psql('postgres', "CREATE ROLE $quoted LOGIN; GRANT EXECUTE ON FUNCTION retention.schedule TO $quoted");
		my $error = psql_fails($victim, 'postgres', "SET SESSION AUTHORIZATION $quoted; SELECT * FROM retention.schedule()", '42501', "injection: role $name");
		my ($hint) = $error =~ /HINT:  (GRANT USAGE ON SCHEMA cron TO .*)/;
		$victim->safe_psql('postgres', $hint);
		$victim->safe_psql('postgres', "SET SESSION AUTHORIZATION $quoted; SELECT * FROM retention.schedule()");
		$victim->safe_psql('postgres', "GRANT EXECUTE ON PROCEDURE retention.run TO $quoted");
		$victim->safe_psql('postgres', $victim->safe_psql('postgres', q{SELECT string_agg(advice, E'\n') FROM retention.check_rights()}));
		is($victim->safe_psql('postgres', 'SELECT advice FROM retention.check_rights()'), '', "injection: role $name: the advice mends it");
		$run_jobs->('postgres', "role $name", 'postgres', 'postgres');
		$attack->('postgres', $_, "role $name: $_") foreach 'SELECT * FROM retention.check()', 'SELECT * FROM retention.unschedule()';

		# and pg_cron's own database
		$victim->append_conf('postgresql.conf', 'cron.database_name = ' . $literal->($name =~ s/\\/\\\\/gr));
		$victim->restart;
		$victim->safe_psql($name, q{CREATE EXTENSION pg_cron; SELECT * FROM retention.schedule('30 1 * * *')});
		$run_jobs->($name, "pg_cron in database $name", $name, $name);
		$attack->($name, $_, "pg_cron in database $name: $_") foreach @views;
		is($victim->safe_psql($name, 'SELECT jobs_removed FROM retention.unschedule(); SELECT count(*) FROM cron.job'), "2\n0",
			"injection: pg_cron in database $name: no job is left");
		$victim->append_conf('postgresql.conf', "cron.database_name = 'postgres'");
		$victim->restart;
	}
	is(join(', ', $found->()), '', 'injection: names: no database has the table');
	$victim->stop;
}

note("reliability: attacks on security tried: $attacks, succeeded: " . (Test::More->builder->is_passing ? 0 : 'some'));
$node->stop;
done_testing();
