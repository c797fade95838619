# MigrationTest.pm - what the tests of migrations/ share: the scripts, a database as
# applications have it before the extension, and its state as comparable text.

package MigrationTest;

use strict;
use warnings FATAL => 'all';

use Cwd ();
use Exporter 'import';
use File::Basename ();
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

our @EXPORT = qw(top script fixture migrate rollback migration_fails
  application policies_of index_files state_of);

my $top = Cwd::realpath(File::Basename::dirname(__FILE__) . '/../../..');

# The directory of the project.
sub top
{
	return $top;
}

# The text of a script of migrations/, "add" or "rollback".
sub script
{
	my ($name) = @_;
	return PostgreSQL::Test::Utils::slurp_file(
		"$top/migrations/${name}_execution_retention_policy.sql");
}

# The text of a file of test/migrations/.
sub fixture
{
	my ($name) = @_;
	return PostgreSQL::Test::Utils::slurp_file("$top/test/migrations/$name.sql");
}

sub _psql
{
	my ($node, $db, $name, %opt) = @_;
	my $before = $opt{before} ? "$opt{before};\n" : '';

	return $node->psql($db, $before . "\\set VERBOSITY verbose\n" . script($name),
		on_error_stop => 1);
}

# Runs the script, "before" being SQL that goes first.  Must succeed.  Returns what psql
# printed to stderr.
sub migrate
{
	my ($node, $db, $what, %opt) = @_;
	my ($rc, $out, $err) = _psql($node, $db, $opt{script} // 'add', %opt);

	is($rc, 0, "$what: the script runs") or diag $err;
	return $err;
}

sub rollback
{
	return migrate(@_, script => 'rollback');
}

# The script must fail with this SQLSTATE and leave all as it was.  Returns what psql
# printed to stderr.
sub migration_fails
{
	my ($node, $db, $sqlstate, $what, %opt) = @_;
	my $state = state_of($node, $db);
	my ($rc, $out, $err) = _psql($node, $db, $opt{script} // 'add', %opt);

	isnt($rc, 0, "$what: fails");
	like($err, qr/ERROR:  \Q$sqlstate\E:/, "$what: SQLSTATE $sqlstate");
	is(state_of($node, $db), $state, "$what: and all is as it was");
	return $err;
}

# SQL that makes the application's own tables, with "rows" executions of "tenants"
# tenants: whole days and 6 to 9 hours old, so that none comes due while a test goes on,
# and no two of one time.
sub application
{
	my ($tenants, $rows) = @_;

	return "
	CREATE TABLE tenants (id uuid PRIMARY KEY, n integer);
	INSERT INTO tenants SELECT lpad(to_hex(n), 32, '0')::uuid, n FROM generate_series(1, $tenants) n;
	CREATE TABLE users (id text PRIMARY KEY);
	CREATE TABLE executions (id bigint PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES tenants,
		status text, started_at timestamptz, created_at timestamptz NOT NULL, payload jsonb);
	INSERT INTO executions
	SELECT i, lpad(to_hex(1 + i % $tenants), 32, '0')::uuid, 'done', CASE WHEN i % 7 > 0 THEN t END, t,
		   jsonb_build_object('i', i)
	FROM generate_series(1, $rows) i,
		 LATERAL (SELECT now() - interval '6 hours' - interval '24 hours' * (i * 200 / $rows)
						 - interval '0.1 seconds' * i AS t) x;";
}

# All policies, in full, by tenant.
sub policies_of
{
	my ($node, $db, %opt) = @_;
	my $table = $opt{table} // 'execution_retention_policies';
	my $columns = $opt{columns} // 'id, tenant_id, retention_days, is_enabled, min_executions_to_keep,
		last_cleanup_at, last_cleanup_deleted_count, created_at, updated_at, created_by, updated_by';

	return $node->safe_psql($db, "SELECT $columns FROM $table ORDER BY tenant_id");
}

# Which files executions and its indexes are in: another one after a rebuild.
sub index_files
{
	my ($node, $db, $table) = @_;
	$table //= 'executions';

	return $node->safe_psql($db, "
		SELECT c.relname, c.oid, pg_relation_filenode(c.oid)
		FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
		WHERE '$table'::regclass IN (c.oid, i.indrelid) ORDER BY 1");
}

# Everything in a database but its own schemas' internals: relations with their files and
# grants, constraints, indexes, functions, triggers, policies, extensions.
sub state_of
{
	my ($node, $db) = @_;

	return $node->safe_psql($db, q{
		SELECT 'relation', c.oid, n.nspname, c.relname, c.relkind, pg_get_userbyid(c.relowner),
			   pg_relation_filenode(c.oid), c.relacl, c.relrowsecurity
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 2;
		SELECT 'constraint', conname, conrelid::regclass, pg_get_constraintdef(oid)
		FROM pg_constraint WHERE conrelid > 0 ORDER BY 2, 3;
		SELECT 'function', p.oid::regprocedure, md5(pg_get_functiondef(p.oid)), proacl
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 2;
		SELECT 'trigger', pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 2;
		SELECT 'policy', * FROM pg_policies ORDER BY 2, 3, 4;
		SELECT 'extension', extname, extnamespace::regnamespace FROM pg_extension ORDER BY 2;
		SELECT 'depends', objid::regclass FROM pg_depend WHERE deptype = 'x' ORDER BY 2;});
}

1;
