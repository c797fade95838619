# 045_service_roles.pl - the roles of docs/service.md, made by its own statements, and what they
# must not be able to do: other tenants' policies and rows, fewer days, a smaller minimum.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use MigrationTest;
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('service_roles');
my $db = 'postgres';
my ($t1, $t2, $t3) = map { "00000000-0000-0000-0000-00000000000$_" } 1 .. 3;

# The statements of the page that make a role, by a word in them.
my %statements;
{
	my @blocks = PostgreSQL::Test::Utils::slurp_file(top() . '/docs/service.md') =~ /^```sql\n(.*?)^```$/msg;

	foreach my $part ('CREATE ROLE app_tenant', 'CREATE ROLE app_cleaner', 'CREATE POLICY own_rows')
	{
		my @found = grep { index($_, $part) >= 0 } @blocks;
		is(scalar(@found), 1, "docs/service.md has one block with $part");
		$statements{$part} = $found[0];
	}
}

$node->safe_psql($db, application(3, 900) . "CREATE ROLE app_owner LOGIN; ALTER TABLE executions OWNER TO app_owner;
	CREATE EXTENSION retention;
	INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
	VALUES ('$t1', 30, 20), ('$t2', 30, 20)");
$node->safe_psql($db, $statements{'CREATE ROLE app_tenant'});
$node->safe_psql($db, $statements{'CREATE ROLE app_cleaner'});

# SQL in a session of the tenant-facing role that works for a tenant.
sub tenant_does
{
	my ($tenant, $sql) = @_;
	return $node->safe_psql($db, "SET SESSION AUTHORIZATION app_tenant;" . (defined $tenant ? "SET app.tenant_id = '$tenant';" : '') . $sql);
}

sub tenant_fails
{
	my ($tenant, $sql, $sqlstate, $name) = @_;
	return psql_fails($node, $db,
		"SET SESSION AUTHORIZATION app_tenant;" . (defined $tenant ? "SET app.tenant_id = '$tenant';" : '') . "$sql;", $sqlstate, $name);
}

sub rows_of_tenants
{
	return $node->safe_psql($db, 'SELECT string_agg(n::text, $$ $$ ORDER BY tenant_id) FROM (SELECT tenant_id, count(*) AS n FROM executions GROUP BY 1) x');
}

sub policies
{
	return $node->safe_psql($db, 'SELECT right(tenant_id::text, 1), retention_days, min_executions_to_keep, is_enabled FROM execution_retention_policies ORDER BY 1');
}

# ---- What a tenant may do.
is(tenant_does($t1, 'SELECT tenant_id FROM execution_retention_policies'), $t1, 'a tenant sees its own policy');
is(tenant_does($t1, 'UPDATE execution_retention_policies SET retention_days = 60, is_enabled = false, updated_by = gen_random_uuid();
	UPDATE execution_retention_policies SET is_enabled = true; SELECT retention_days FROM execution_retention_policies'), '60',
	'and changes it');
is(tenant_does($t1, "INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) VALUES ('$t1', 50, 20)
	ON CONFLICT (tenant_id) DO UPDATE SET tenant_id = EXCLUDED.tenant_id, retention_days = EXCLUDED.retention_days RETURNING retention_days"),
	'50', 'also by ON CONFLICT');
is(tenant_does($t3, "INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES ('$t3', 90) RETURNING min_executions_to_keep"),
	'100', 'and makes one');
is(policies(), "1|50|20|t\n2|30|20|t\n3|90|100|t", 'no other is touched');
is(rows_of_tenants(), '300 300 300', 'nothing is deleted yet');
my $due = $node->safe_psql($db, "SELECT count(*) FROM executions WHERE tenant_id = '$t1' AND coalesce(started_at, created_at) < now() - interval '1200 hours'");
is(tenant_does($t1, 'SELECT total_executions, executions_to_delete FROM preview_own_executions()'), "300|$due", 'a tenant previews');
is(tenant_does($t1, 'SELECT deleted_count, execution_summary ->> $$retention_days$$ FROM clean_own_executions()'), "$due|50", 'and cleans by its policy');
is(rows_of_tenants(), (300 - $due) . ' 300 300', 'its own rows');
is(tenant_does($t1, "SELECT deleted_count, last_cleanup_deleted_count FROM clean_own_executions(), execution_retention_policies"), "0|$due",
	'which is on record');

# ---- What it may not: other policies.
my $before = policies();
my $rows = rows_of_tenants();
is(tenant_does($t1, "SELECT count(*) FROM execution_retention_policies WHERE tenant_id = '$t2'"), '0', 'another policy is not there');
is(tenant_does($t1, "SELECT count(*) FROM retention.list_policies()"), '1', 'nor in a list');
tenant_fails($t1, "SELECT * FROM retention.get_policy('$t2')", '42501', 'nor by get_policy()');
is(tenant_does($t1, "WITH u AS (UPDATE execution_retention_policies SET retention_days = 7 WHERE tenant_id <> '$t1' RETURNING 1) SELECT count(*) FROM u"),
	'0', 'nor to be changed');
tenant_fails($t1, "UPDATE execution_retention_policies SET tenant_id = gen_random_uuid()", '42501', 'a policy cannot be given away');
tenant_fails($t1, "INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES (gen_random_uuid(), 90)", '42501', 'nor made for others');
tenant_fails($t1, "INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES ('$t2', 90)
	ON CONFLICT (tenant_id) DO UPDATE SET retention_days = 7", '42501', 'nor replaced by ON CONFLICT');
tenant_fails($t1, 'DELETE FROM execution_retention_policies', '42501', 'nor removed');
tenant_fails($t1, 'TRUNCATE execution_retention_policies', '42501', 'nor truncated');
tenant_fails($t1, "SELECT retention.set_policy('$t2', 7)", '42501', 'nor by set_policy()');
tenant_fails($t1, "SELECT retention.remove_policy('$t2')", '42501', 'nor by remove_policy()');
tenant_fails($t1, 'ALTER TABLE execution_retention_policies DISABLE ROW LEVEL SECURITY', '42501', 'row-level security stays on');
tenant_fails($t1, 'SET row_security = off; SELECT * FROM execution_retention_policies', '42501', 'row_security = off is an error');
tenant_fails($t1, 'CREATE POLICY more ON execution_retention_policies USING (true)', '42501', 'no further policy');
tenant_fails($t1, 'CREATE TRIGGER t BEFORE UPDATE ON execution_retention_policies FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger()', '42501', 'no trigger');
tenant_fails($t1, "SELECT * FROM retention.$_", '42501', "nor what is due of others: $_") foreach 'status', 'metrics', 'history';

# fewer days, a smaller minimum, what is the cleaner's to write
tenant_fails($t1, 'UPDATE execution_retention_policies SET retention_days = 6', '42501', 'fewer days than the limit');
tenant_fails($t1, 'UPDATE execution_retention_policies SET min_executions_to_keep = 9', '42501', 'a smaller minimum than the limit');
tenant_fails($t1, 'UPDATE execution_retention_policies SET last_cleanup_at = now()', '42501', 'the time of the last cleanup');
tenant_fails($t1, "SELECT retention.run_is_alive(1); SET retention.default_retention_days = 1", '42501', 'the default days');
tenant_fails($t1, "SELECT retention.run_is_alive(1); SET retention.apply_default_policy = on", '42501', 'the default policy');

# rows
tenant_fails($t1, "SELECT * FROM cleanup_old_executions('$t1')", '42501', 'cleanup_old_executions(), its own');
tenant_fails($t1, "SELECT * FROM cleanup_old_executions('$t2', 0, 0)", '42501', 'cleanup_old_executions(), another\'s');
tenant_fails($t1, "SELECT * FROM retention.cleanup_tenant('$t2')", '42501', 'cleanup_tenant()');
tenant_fails($t1, 'CALL retention.run()', '42501', 'run()');
tenant_fails($t1, "SELECT * FROM retention.preview('$t2')", '42501', 'preview()');
tenant_fails($t1, 'SELECT * FROM retention.preview()', '42501', 'preview() of all');
tenant_fails($t1, "SELECT retention.oldest_due('$t2', 1, 0)", '42501', 'oldest_due()');
tenant_fails($t1, "SELECT retention.lock_tenant('$t2')", '42501', 'lock_tenant(): others cannot be kept from being cleaned');
tenant_fails($t1, 'DELETE FROM executions', '42501', 'DELETE');
tenant_fails($t1, 'SELECT FROM executions', '42501', 'SELECT');
tenant_fails($t1, 'SELECT FROM retention.run_history', '42501', 'the history');
tenant_fails($t1, 'SET ROLE app_cleaner', '42501', 'being the cleaner');

# whoever it works for is not said, or empty, as after SET LOCAL
is(tenant_does(undef, 'SELECT count(*) FROM execution_retention_policies'), '0', 'no tenant: no policy');
tenant_fails(undef, 'SELECT * FROM preview_own_executions()', '42704', 'no tenant: no preview');
tenant_fails(undef, 'SELECT * FROM clean_own_executions()', '42704', 'no tenant: no cleanup');
is(tenant_does('', 'SELECT count(*) FROM execution_retention_policies'), '0', 'empty tenant: no policy');
tenant_fails('', 'SELECT * FROM preview_own_executions()', '22P02', 'empty tenant: no preview, least of all everybody\'s');
tenant_fails('', 'SELECT * FROM clean_own_executions()', '22P02', 'empty tenant: no cleanup');
is(tenant_does(undef, "BEGIN; SET LOCAL app.tenant_id = '$t1'; COMMIT; SELECT count(*) FROM execution_retention_policies"), '0',
	'after the transaction: no policy');

# names put in the way of the two functions
$node->safe_psql($db, 'CREATE SCHEMA playground; GRANT ALL ON SCHEMA playground TO app_tenant');
is(tenant_does($t1, q{
	CREATE FUNCTION playground.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT '} . $t2 . q{'::text $$;
	CREATE FUNCTION playground.eq(uuid, uuid) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
	CREATE OPERATOR playground.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = playground.eq);
	CREATE TEMP TABLE execution_retention_policies (tenant_id uuid, retention_days int, min_executions_to_keep int, is_enabled boolean);
	INSERT INTO pg_temp.execution_retention_policies VALUES ('} . $t1 . q{', 1, 0, true);
	CREATE TEMP TABLE executions (tenant_id uuid);
	SET search_path = playground, pg_temp, pg_catalog, public;
	SELECT deleted_count, execution_summary ->> 'tenant_id', execution_summary ->> 'retention_days' FROM public.clean_own_executions()}),
	"0|$t1|50", 'what its search_path finds does not count');
is(policies(), $before, 'after all that: policies as they were');
is(rows_of_tenants(), $rows, 'after all that: rows as they were');

# ---- The scheduler's role.
{
	my $cleaner = sub { return $node->safe_psql($db, "SET SESSION AUTHORIZATION app_cleaner; $_[0]") };
	my $fails = sub { psql_fails($node, $db, "SET SESSION AUTHORIZATION app_cleaner; $_[0];", $_[1], "scheduler: $_[2]") };

	is($cleaner->("SELECT count(*) FROM execution_retention_policies"), '3', 'scheduler: sees all policies');
	my $due2 = $cleaner->("SELECT executions_to_delete FROM retention.preview('$t2')");
	cmp_ok($due2, '>', 200, 'scheduler: previews');
	is($cleaner->("SELECT deleted_count FROM cleanup_old_executions(p_tenant_id => '$t2');
		UPDATE execution_retention_policies SET last_cleanup_at = now(), last_cleanup_deleted_count = $due2 WHERE tenant_id = '$t2'"),
		$due2, 'scheduler: cleans one and notes it down');
	$cleaner->('CALL retention.run()');
	is($node->safe_psql($db, 'SELECT run_by, status FROM retention.run_history ORDER BY id DESC LIMIT 1'), 'app_cleaner|succeeded', 'scheduler: runs');
	is($node->safe_psql($db, 'SELECT sum(executions_to_delete) FROM retention.preview()'), '0', 'scheduler: nothing is left to do');

	$fails->('UPDATE execution_retention_policies SET retention_days = 1', '42501', 'the days of a policy');
	$fails->('UPDATE execution_retention_policies SET min_executions_to_keep = 0', '42501', 'the minimum of a policy');
	$fails->('UPDATE execution_retention_policies SET is_enabled = true', '42501', 'whether it is enabled');
	$fails->("INSERT INTO execution_retention_policies (tenant_id) VALUES (gen_random_uuid())", '42501', 'a new policy');
	$fails->('DELETE FROM execution_retention_policies', '42501', 'removing policies');
	$fails->("SELECT retention.set_policy('$t1', 1)", '42501', 'set_policy()');
	$fails->('TRUNCATE executions', '42501', 'TRUNCATE');
	$fails->('INSERT INTO executions (id, tenant_id) VALUES (0, gen_random_uuid())', '42501', 'INSERT');
	$fails->('UPDATE executions SET started_at = NULL', '42501', 'UPDATE');
	$fails->('DROP INDEX idx_executions_retention_cleanup', '42501', 'the indexes');
	$fails->("SELECT retention.attach('executions')", '42501', 'which table is cleaned');
	$fails->("SELECT retention.run_is_alive(1); SET retention.default_min_executions_to_keep = 0", '42501', 'the default minimum');
	$fails->('DELETE FROM retention.run_history', '42501', 'the history');

	# row-level security on, without BYPASSRLS: an error, not a smaller run
	$node->safe_psql($db, 'ALTER ROLE app_cleaner NOBYPASSRLS');
	$fails->('CALL retention.run()', '42501', 'a run that cannot see all');
	$node->safe_psql($db, 'ALTER ROLE app_cleaner BYPASSRLS');
}

# ---- Direct calls.  With row-level security on executions:
my $fill = 'TRUNCATE executions; ' . (application(3, 900) =~ /(INSERT INTO executions.*)/s)[0];
$node->safe_psql($db, $fill);
$node->safe_psql($db, $statements{'CREATE POLICY own_rows'});
is(tenant_does($t1, "SELECT deleted_count, execution_summary ->> 'reason' FROM cleanup_old_executions('$t2', 0, 0)"), '0|no executions',
	'direct: another tenant, everything: nothing is deleted');
is(tenant_does($t1, "SELECT deleted_count FROM cleanup_old_executions('$t3', 30, 0, 1)"), '0', 'direct: nor in small batches');
tenant_fails($t1, "SELECT * FROM cleanup_old_executions('$t2')", '42501', 'direct: another tenant, by its policy');
is(rows_of_tenants(), '300 300 300', 'direct: all rows are there');
tenant_fails($t1, "SELECT * FROM retention.preview('$t2')", '42501', 'direct: preview of another');
is(tenant_does($t1, 'SELECT count(*), sum(total_executions) FROM retention.preview()'), '1|300', 'direct: preview of all shows its own');
is(tenant_does($t1, "SELECT retention.oldest_due('$t2', 1, 0) IS NULL"), 't', 'direct: nothing of another is due to it');
tenant_fails($t1, 'CALL retention.run()', '42501', 'direct: still no run');
$due = $node->safe_psql($db, "SELECT count(*) FROM executions WHERE tenant_id = '$t1' AND coalesce(started_at, created_at) < now() - interval '1200 hours'");
is(tenant_does($t1, "SELECT deleted_count FROM cleanup_old_executions(p_tenant_id => '$t1')"), $due, 'direct: its own, by its policy');
is(tenant_does($t1, "SELECT deleted_count FROM cleanup_old_executions('$t1', 0, 0)"), 300 - $due, 'direct: its own, all of it, as the page warns');
is(rows_of_tenants(), '300 300', 'direct: of its own');
$node->safe_psql($db, 'SET SESSION AUTHORIZATION app_cleaner; CALL retention.run()');
is(rows_of_tenants() =~ /^(\d+) / && $1 < 300, 1, 'direct: the scheduler still sees all');

# without it they delete what they are told to, as the page warns
$node->safe_psql($db, "$fill; ALTER TABLE executions DISABLE ROW LEVEL SECURITY");
is(tenant_does($t1, "SELECT deleted_count FROM cleanup_old_executions('$t2', 0, 0)"), '300',
	'direct, without row-level security on executions: the rows of another are gone');

# ---- A dump has the grants and not the row-level security of the policies, as the page warns.
{
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

	$node->command_ok([ 'pg_dump', '-f', $dump, $db ], 'pg_dump');
	$node->safe_psql($db, 'CREATE DATABASE copy');
	$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', 'copy', '-f', $dump ], 'restore');
	is($node->safe_psql('copy', "SET SESSION AUTHORIZATION app_tenant; SET app.tenant_id = '$t1'; SELECT count(*) FROM execution_retention_policies"),
		'3', 'after a restore the tenant sees all policies');
	my ($again) = $statements{'CREATE ROLE app_tenant'} =~ /(ALTER TABLE.*?)GRANT/s;
	$node->safe_psql('copy', $again);
	is($node->safe_psql('copy', "SET SESSION AUTHORIZATION app_tenant; SET app.tenant_id = '$t1'; SELECT count(*) FROM execution_retention_policies"),
		'1', 'and its own only, once the statements are run again');
}

$node->stop;
done_testing();
