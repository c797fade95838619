# 009_pg_upgrade.pl - pg_upgrade takes everything along: policies, the attached table, the
# indexes that go with the extension, and, other than a dump, the history of runs.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $old = start_node('old');
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
my ($t1, $t2) = (tenant(1), tenant(2));

$old->safe_psql('postgres', executions_table() . fill_tenant($t1, 300, newest => 50) . fill_tenant($t2, 300) . "
	CREATE EXTENSION retention;
	INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
	VALUES ('$t1', 30, 10), ('$t2', 40, 0);");
$old->safe_psql('postgres', 'CALL retention.run()');

sub state_of
{
	my ($node) = @_;

	return join("\n", contract_indexes($node, 'postgres'), $node->safe_psql('postgres', q{
		SELECT p::text FROM execution_retention_policies AS p
		UNION ALL SELECT t::text FROM retention.target AS t
		UNION ALL SELECT h::text FROM retention.run_history AS h
		UNION ALL SELECT t::text FROM retention.run_tenant AS t ORDER BY 1}));
}

my $before = state_of($old);
like($before, qr/^idx_executions_null_started_at\|t\|t\nidx_executions_retention_cleanup\|t\|t\n/, 'indexes of the extension');
like($before, qr/,290,/, 'a run on record');
$old->stop;

chdir PostgreSQL::Test::Utils::tempdir() or die;
$old->command_ok(
	[
		'pg_upgrade', '--no-sync',
		'-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
		'-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade');

$new->start;
is(state_of($new), $before, 'the same on the new server');
$new->safe_psql('postgres', "INSERT INTO executions (id, tenant_id, started_at) VALUES (0, '$t1', now() - interval '60 days')");
$new->safe_psql('postgres', 'CALL retention.run()');
is($new->safe_psql('postgres', 'SELECT count(*), min(id) FROM executions WHERE tenant_id = ' . "'$t1'"), '10|291', 'a run cleans');
is($new->safe_psql('postgres', 'SELECT id, status, rows_deleted FROM retention.run_history ORDER BY id DESC LIMIT 1'),
	'2|succeeded|1', 'and is the next one in history');
$new->safe_psql('postgres', 'DROP EXTENSION retention');
is(contract_indexes($new, 'postgres'), '', 'the indexes go with the extension');

$new->stop;
done_testing();
