# 005_cron.pl - pg_cron runs the plain-SQL schedule, in both of its modes: background
# workers, and connections through the socket directory; as a superuser, and as a role
# that has just the rights it needs.
#
# The pg_cron of Debian 12 knows no seconds, so the test waits for the full minute, once,
# for both servers.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

plan skip_all => 'pg_cron is not installed' unless have_library('pg_cron');

my %settings = (
	workers => ['cron.use_background_workers = on'],
	libpq => []);
my ($enabled, $disabled, $protected, $nobody) = map { tenant($_) } 1 .. 4;
my %node;

sub prepare
{
	my ($mode) = @_;
	my $node = PostgreSQL::Test::Cluster->new("cron_$mode");

	$node->init;
	$node->append_conf('postgresql.conf', join("\n",
		'autovacuum = off', "shared_preload_libraries = 'pg_cron'",
		"cron.database_name = 'postgres'", "cron.host = '" . $node->host . "'",
		'log_statement = none', @{ $settings{$mode} }));
	$node->start;
	$node->safe_psql('postgres',
		    'CREATE EXTENSION pg_cron;'
		  . executions_table()
		  . fill_tenant($enabled, 3000, newest => 50)
		  . fill_tenant($disabled, 300, newest => 50, first => 10001)
		  . fill_tenant($protected, 80, newest => 50, first => 20001)
		  . fill_tenant($nobody, 300, newest => 50, first => 30001)
		  . "CREATE EXTENSION retention;
			 INSERT INTO execution_retention_policies
				(tenant_id, retention_days, min_executions_to_keep, is_enabled)
			 VALUES ('$enabled', 30, 100, true), ('$disabled', 30, 100, false),
					('$protected', 30, 100, true);
			 CREATE ROLE janitor LOGIN;
			 GRANT USAGE ON SCHEMA cron TO janitor;
			 GRANT SELECT ON execution_retention_policies TO janitor;
			 GRANT SELECT, DELETE ON executions TO janitor;
			 GRANT EXECUTE ON FUNCTION cleanup_old_executions TO janitor");
	return $node;
}

foreach my $mode (sort keys %settings)
{
	$node{$mode} = prepare($mode);
}

# The superuser's job on one server, the janitor's on the other.
my %who = (workers => 'janitor', libpq => undef);
foreach my $mode (sort keys %settings)
{
	$node{$mode}->safe_psql('postgres',
		($who{$mode} ? "SET ROLE $who{$mode};" : '') . q{
		SELECT cron.schedule('cleanup', '* * * * *', $$
			SELECT p.tenant_id, c.deleted_count
			FROM execution_retention_policies AS p,
				 cleanup_old_executions(p.tenant_id) AS c
			WHERE p.is_enabled$$)});
}

foreach my $mode (sort keys %settings)
{
	my $node = $node{$mode};
	# on a slow server pg_cron may give up before the job has begun; a minute later it tries again
	my $ended = q{status IN ('succeeded', 'failed') AND return_message IS DISTINCT FROM 'job startup timeout'};

	wait_for($node, 'postgres', "
		SELECT count(*) > 0 FROM cron.job_run_details
		WHERE $ended", "$mode: the job has run");
	is($node->safe_psql('postgres', "
			SELECT status, regexp_replace(return_message, '^SELECT | rows\$', ''), username FROM cron.job_run_details
			WHERE $ended
			ORDER BY runid LIMIT 1"),
		'succeeded|2|'
		  . ($who{$mode} // $node->safe_psql('postgres', 'SELECT current_user')),
		"$mode: two tenants cleaned");
	# a worker says so before it commits
	$node->safe_psql('postgres', 'BEGIN; LOCK TABLE executions; COMMIT');
	is($node->safe_psql('postgres', q{
			SELECT tenant_id, count(*), min(id) FROM executions
			GROUP BY 1 ORDER BY 1}),
		join("\n", "$enabled|100|2901", "$disabled|300|10001",
			"$protected|80|20001", "$nobody|300|30001"),
		"$mode: the enabled tenant kept its newest hundred, the others everything");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM execution_retention_policies
			WHERE updated_at = created_at}),
		'3', "$mode: no policy counts as modified");
	$node->stop;
}

done_testing();
