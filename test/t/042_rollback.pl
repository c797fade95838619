# 042_rollback.pl - migrations/rollback_execution_retention_policy.sql: everything gone, or the
# policies in a plain table from which the way leads back again; never a row of executions.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use MigrationTest;
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $has_cron = have_library('pg_cron');
my $node = start_node('rollback',
	$has_cron ? ("shared_preload_libraries = 'pg_cron'", "cron.database_name = 'back'", 'cron.use_background_workers = on') : ());
my $db = 'back';
my $rows = 'SELECT count(*), md5(string_agg(e::text, chr(10) ORDER BY id)) FROM executions e';
my $on = "SET retention_migration.keep_policies = 'on'";
my $off = "SET retention_migration.keep_policies = 'off'";

# What is left of the extension's objects.
sub remains
{
	return $node->safe_psql($db, q{
		SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE nspname = 'retention' OR relname LIKE '%retention%' OR relname LIKE 'idx_executions_%'
		UNION SELECT nspname FROM pg_namespace WHERE nspname = 'retention'
		UNION SELECT proname FROM pg_proc WHERE proname ~ '^(cleanup_old|update_execution_ret)'
		ORDER BY 1});
}

# ---- Everything gone.
{
	new_database($node, $db);
	$node->safe_psql($db, application(6, 3000) . 'CREATE EXTENSION retention;
		INSERT INTO execution_retention_policies (tenant_id) SELECT id FROM tenants');
	my $before = $node->safe_psql($db, $rows);
	my $err = migration_fails($node, $db, '55000', 'undecided', script => 'rollback');
	like($err, qr/what becomes of 6 policies is not decided/, 'undecided: how many');
	like($err, qr/HINT:  SET retention_migration.keep_policies = 'on'/, 'undecided: what to do');
	$err = rollback($node, $db, 'all gone', before => $off);
	like($err, qr/is dropped with its 6 policies/, 'all gone: said');
	is(remains(), '', 'all gone');
	is($node->safe_psql($db, $rows), $before, 'all gone: but executions');
	my $state = state_of($node, $db);
	like(rollback($node, $db, 'again'), qr/is not installed/, 'again: nothing to do');
	is(state_of($node, $db), $state, 'again: changes nothing');

	migrate($node, $db, 'in once more');
	rollback($node, $db, 'without policies there is nothing to decide');
	is(remains(), '', 'without policies: all gone');
}

# ---- There and back and there again, with all that a table can have.
{
	new_database($node, $db);
	$node->safe_psql($db, 'CREATE ROLE app_owner LOGIN; CREATE ROLE app_web LOGIN; CREATE ROLE app_cron LOGIN;
		CREATE ROLE app_report LOGIN; CREATE SCHEMA app AUTHORIZATION app_owner;
		GRANT USAGE ON SCHEMA app TO app_web, app_cron, app_report;
		ALTER DATABASE back SET search_path = app, public');
	$node->safe_psql($db, 'SET ROLE app_owner;' . application(6, 3000) . fixture('grown') . q{
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, last_cleanup_at)
			SELECT id::text, 10 + n, n, now() FROM tenants;
		INSERT INTO retention_exceptions SELECT 1, id FROM execution_retention_policies LIMIT 1;
		TRUNCATE retention_audit;});
	my $before = $node->safe_psql($db, $rows);
	my $files = index_files($node, $db);
	migrate($node, $db, 'there');
	my $policies = policies_of($node, $db);

	# what the table has, but for the name of its trigger function and its owner
	my $about = sub {
		return join "\n", $node->safe_psql($db, q{
			SELECT conname, conrelid::regclass, pg_get_constraintdef(oid) FROM pg_constraint
			WHERE 'execution_retention_policies'::regclass IN (conrelid, confrelid) ORDER BY 1;
			SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'execution_retention_policies'::regclass ORDER BY 1;
			SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE tgrelid = 'execution_retention_policies'::regclass
				AND NOT tgisinternal AND tgname NOT LIKE 'trigger_update%' AND tgname <> 'hold_walks' ORDER BY 1;
			SELECT * FROM pg_policies ORDER BY policyname;
			SELECT attname, format_type(atttypid, atttypmod), attnotnull, attacl, pg_get_expr(adbin, adrelid)
			FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
			WHERE attrelid = 'execution_retention_policies'::regclass AND attnum > 0 ORDER BY attnum;
			SELECT relrowsecurity, relforcerowsecurity, (SELECT array_agg(a ORDER BY a::text) FROM unnest(relacl) a)
			FROM pg_class WHERE oid = 'execution_retention_policies'::regclass});
	};
	my $table = $about->();

	my $err = rollback($node, $db, 'back', before => $on);
	like($err, qr/6 policies stay in table app.execution_retention_policies/, 'back: said');
	is(policies_of($node, $db), $policies, 'back: all policies');
	is($about->(), $table, 'back: with constraints, indexes, triggers, row-level security and grants');
	is($node->safe_psql($db, q{SELECT count(*) FROM pg_depend WHERE deptype = 'e' AND objid = 'execution_retention_policies'::regclass}),
		'0', 'back: a table like any other');
	is($node->safe_psql($db, $rows), $before, 'back: executions untouched');
	is(contract_indexes($node, $db), '', 'back: the indexes on executions are gone');
	is($node->safe_psql($db, 'SELECT count(*) FROM retention_audit'), '0', 'back: no trigger has fired');
	is($node->safe_psql($db, 'SELECT count(*) FROM retention_exceptions'), '1', 'back: no cascade has either');

	migrate($node, $db, 'there again');
	is(policies_of($node, $db), $policies, 'there again: all policies');
	is($about->(), $table, 'there again: and all that belongs to them');

	# the indexes may stay
	$files = index_files($node, $db);
	$err = rollback($node, $db, 'with indexes', before => "$on; SET retention_migration.keep_indexes = 'on'");
	is(index_files($node, $db), $files, 'with indexes: they stay');
	migrate($node, $db, 'and in again');
	is(index_files($node, $db), $files, 'and in again: without building them');
	is(contract_indexes($node, $db), "idx_executions_null_started_at|t|t\nidx_executions_retention_cleanup|t|t",
		'and in again: they go with the extension');
	is($node->safe_psql($db, $rows), $before, 'and executions are untouched after all that');
	rollback($node, $db, 'before the hand-written function', before => "$on; SET retention_migration.keep_indexes = 'on'");
	$node->safe_psql($db, 'SET client_min_messages = warning; SET search_path = app;' . fixture('handwritten'));
	is($node->safe_psql($db, "SELECT deleted_count > 0 FROM cleanup_old_executions('00000000-0000-0000-0000-000000000001', 50, 1)"),
		't', 'the application\'s own migration goes on from there');
	migrate($node, $db, 'and back');
	is(policies_of($node, $db), $policies, 'and back: all policies');
}

# ---- What stands in the way; who may; a failure in the middle.
{
	new_database($node, $db);
	$node->safe_psql($db, application(6, 3000) . 'CREATE EXTENSION retention;
		INSERT INTO execution_retention_policies (tenant_id) SELECT id FROM tenants;
		CREATE VIEW strict AS SELECT * FROM execution_retention_policies WHERE retention_days < 30');
	my $err = migration_fails($node, $db, '2BP01', 'a view', script => 'rollback', before => $off);
	like($err, qr/DETAIL:  view public.strict depends on/, 'a view: it is named');
	$node->safe_psql($db, 'DROP VIEW strict; CREATE TABLE plan (policy uuid REFERENCES execution_retention_policies)');
	migration_fails($node, $db, '2BP01', 'a foreign key', script => 'rollback', before => $off);
	migration_fails($node, $db, '42501', 'not the owner', script => 'rollback', before => "SET ROLE app_owner; $off");
	migration_fails($node, $db, '22P02', 'neither on nor off', script => 'rollback', before => "SET retention_migration.keep_policies = 'perhaps'");
	$node->safe_psql($db, q{
		CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'retention') THEN
				RAISE 'not today' USING ERRCODE = 'MT001';
			END IF;
		END $$;
		CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION refuse();
		INSERT INTO plan SELECT id FROM execution_retention_policies});
	my $policies = policies_of($node, $db);
	migration_fails($node, $db, 'MT001', 'a failure in the middle', script => 'rollback', before => $on);
	is(policies_of($node, $db), $policies, 'a failure in the middle: no policy is lost');
	$node->safe_psql($db, 'DROP EVENT TRIGGER refuse');
	rollback($node, $db, 'a foreign key, policies kept', before => $on);
	psql_fails($node, $db, 'DELETE FROM execution_retention_policies;', '23503', 'a foreign key: is there again');
}

# ---- The jobs of pg_cron go, others stay.
SKIP:
{
	skip 'there is no pg_cron for this server', 3 unless $has_cron;
	new_database($node, $db);
	$node->restart;
	$node->safe_psql($db, q{CREATE EXTENSION pg_cron; CREATE EXTENSION retention;
		SELECT FROM retention.schedule(); SELECT cron.schedule('other', '0 0 * * *', 'SELECT 1')});
	my $err = rollback($node, $db, 'jobs');
	like($err, qr/No run is scheduled any more/, 'jobs: said');
	is($node->safe_psql($db, 'SELECT jobname FROM cron.job'), 'other', 'jobs: ours are gone');
}

$node->stop;
done_testing();
