# 027_rights.pl - whose rights a run needs and uses: a role with the documented minimum,
# roles with less, the table's owner for a superuser, and row-level security.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('rights');
my ($t1, $t2) = (tenant(1), tenant(2));

$node->safe_psql('postgres', prepare_runs() . q{
	CREATE ROLE app;
	CREATE ROLE janitor LOGIN;
	CREATE ROLE reader LOGIN;
	CREATE ROLE stranger LOGIN;
	CREATE ROLE watcher LOGIN IN ROLE pg_monitor;
	ALTER TABLE executions OWNER TO app;
	GRANT SELECT ON mischief TO PUBLIC;
	GRANT INSERT ON gone TO PUBLIC;
	GRANT EXECUTE ON PROCEDURE retention.run TO janitor, reader;
	GRANT SELECT, DELETE ON executions TO janitor;
	GRANT SELECT ON executions TO reader;
	GRANT SELECT, UPDATE ON execution_retention_policies TO janitor, reader;
	} . policy($t1, 30, 10) . policy($t2, 30, 10));

# The two tenants with all their rows.
sub refill
{
	$node->safe_psql('postgres', 'TRUNCATE executions;'
		  . rows_of($t1, 300, newest => 50)
		  . rows_of($t2, 300, newest => 50, first => 1001));
	remember($node);
	return;
}

# ---- The minimum is enough.
{
	refill();
	run($node, 'batch_size => 100', before => 'SET SESSION AUTHORIZATION janitor',
		name => 'minimum');
	is(verdict($node), '0|0', 'minimum: what the oracle says');
	is(last_run($node, 'status, run_by, rows_deleted'), 'succeeded|janitor|580',
		'minimum: and it is written down');
	is($node->safe_psql('postgres', 'SELECT DISTINCT who FROM gone'), 'janitor',
		'minimum: triggers run as the caller');
	is($node->safe_psql('postgres',
			'SELECT string_agg(last_cleanup_deleted_count::text, $$ $$) FROM execution_retention_policies'),
		'290 290', 'minimum: with the policies, too');
	foreach my $sql ('INSERT INTO retention.run_history (started_at, run_by, pid) VALUES (now(), $$x$$, 1)',
		'UPDATE retention.run_history SET rows_deleted = 0', 'DELETE FROM retention.run_history',
		'DELETE FROM retention.run_tenant', 'TRUNCATE retention.run_history CASCADE')
	{
		foreach my $role ('janitor', 'watcher', 'app')
		{
			psql_fails($node, 'postgres', "SET SESSION AUTHORIZATION $role; $sql", '42501',
				"$role cannot: " . substr($sql, 0, 38));
		}
	}
	is($node->safe_psql('postgres',
			'SET SESSION AUTHORIZATION watcher; SELECT count(*) FROM retention.run_history, retention.run_tenant'),
		'2', 'pg_monitor may read it');
}

# ---- Less is not.
{
	refill();
	my $runs = $node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_history');

	psql_fails($node, 'postgres', 'SET SESSION AUTHORIZATION stranger; CALL retention.run();',
		'42501', 'no EXECUTE');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_history'), $runs,
		'no EXECUTE: no run');

	my $err = psql_fails($node, 'postgres',
		'SET SESSION AUTHORIZATION reader; CALL retention.run();', '42501', 'no DELETE');
	like($err, qr/permission denied for table "?executions"?/, 'no DELETE: says where');
	is(last_run($node, 'status, run_by, rows_deleted, message ~ $$permission denied$$, finished_at IS NOT NULL'),
		'failed|reader|0|t|t', 'no DELETE: the run is on record as failed');
	is(gone($node), '0', 'no DELETE: nothing is deleted');

	# What a delete needs beside DELETE is found out tenant by tenant.
	$node->safe_psql('postgres', 'REVOKE INSERT ON gone FROM PUBLIC; GRANT INSERT ON gone TO app');
	$err = run($node, '', before => 'SET SESSION AUTHORIZATION janitor', name => 'no right in a trigger');
	like($err, qr/WARNING:  42501: could not clean tenant $t1/, 'no right in a trigger: says so');
	is(last_run($node, 'status, tenants_failed, rows_deleted'), 'failed|2|0',
		'no right in a trigger: each tenant failed');
	is(gone($node), '0', 'no right in a trigger: nothing is deleted');
	no_locks_left($node, 'less');
}

# ---- A superuser's run does nothing in triggers that the table's owner could not do.
{
	refill();
	$node->safe_psql('postgres', q{
		CREATE TABLE seen (what text, who name, superuser text);
		GRANT INSERT ON seen TO app;
		CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.seen VALUES (TG_NAME, current_user,
				(SELECT rolsuper FROM pg_roles WHERE rolname = current_user));
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER deferred AFTER DELETE ON executions
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (OLD.id % 100 = 5)
			EXECUTE FUNCTION look();
		CREATE TRIGGER statement AFTER DELETE ON executions
			FOR EACH STATEMENT EXECUTE FUNCTION look()});
	run($node, '', name => 'superuser');
	is(verdict($node), '0|0', 'superuser: what the oracle says');
	is($node->safe_psql('postgres', 'SELECT DISTINCT who FROM gone'), 'app',
		'superuser: row triggers run as the owner');
	is($node->safe_psql('postgres', 'SELECT DISTINCT what, who, superuser FROM seen ORDER BY 1'),
		"deferred|app|false\nstatement|app|false",
		'superuser: so do statement triggers and deferred ones');
	is(last_run($node, 'run_by = current_user, status'), 't|succeeded', 'superuser: the run is its own');
	$node->safe_psql('postgres', 'DROP TRIGGER deferred ON executions; DROP TRIGGER statement ON executions');
}

# ---- Row-level security that would hide rows is an error, not a smaller delete.
{
	refill();
	$node->safe_psql('postgres', "
		GRANT INSERT ON gone TO PUBLIC;
		ALTER TABLE executions ENABLE ROW LEVEL SECURITY;
		CREATE POLICY mine ON executions TO janitor USING (tenant_id = '$t1')");
	my $err = psql_fails($node, 'postgres',
		'SET SESSION AUTHORIZATION janitor; CALL retention.run();', '42501', 'row-level security');
	like($err, qr/query would be affected by row-level security policy for table "executions"/,
		'row-level security: says so');
	is(gone($node), '0', 'row-level security: nothing is deleted');
	is(last_run($node, 'status, rows_deleted, message ~ $$row-level security$$'), 'failed|0|t',
		'row-level security: on record');

	# who is above it is not hindered
	$node->safe_psql('postgres', 'ALTER ROLE janitor BYPASSRLS');
	run($node, "'$t1'", before => 'SET SESSION AUTHORIZATION janitor', name => 'BYPASSRLS');
	is(last_run($node, 'status, rows_deleted'), 'succeeded|290', 'BYPASSRLS: deletes');
	run($node, '', name => 'superuser and row-level security');
	is(verdict($node), '0|0', 'superuser and row-level security: deletes');
	refill();
	$node->safe_psql('postgres', 'ALTER TABLE executions FORCE ROW LEVEL SECURITY');
	run($node, '', name => 'superuser and forced row-level security');
	is(verdict($node), '0|0', 'superuser and forced row-level security: deletes as the owner');

	# the policy table may have it, too
	refill();
	$node->safe_psql('postgres', "
		ALTER ROLE janitor NOBYPASSRLS;
		ALTER TABLE executions DISABLE ROW LEVEL SECURITY;
		ALTER TABLE execution_retention_policies ENABLE ROW LEVEL SECURITY");
	psql_fails($node, 'postgres', 'SET SESSION AUTHORIZATION janitor; CALL retention.run();',
		'42501', 'row-level security on policies');
	is(gone($node), '0', 'row-level security on policies: nothing is deleted');
	$node->safe_psql('postgres', 'ALTER TABLE execution_retention_policies DISABLE ROW LEVEL SECURITY');
}

# ---- Settings that widen what goes are a superuser's.
foreach my $setting ('enabled = on', 'apply_default_policy = on', 'default_retention_days = 1',
	'default_min_executions_to_keep = 0')
{
	# the library is loaded by then
	psql_fails($node, 'postgres', "SELECT retention.run_is_alive(1);
		SET SESSION AUTHORIZATION janitor; SET retention.$setting", '42501', "retention.$setting");
}

$node->stop;
done_testing();
