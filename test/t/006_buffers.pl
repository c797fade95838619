# 006_buffers.pl - finding nothing to do costs the same for a tenant with a million
# rows as for one with a thousand: a two-digit number of buffers.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP ();
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('buffers', 'shared_buffers = 512MB', 'max_wal_size = 4GB');
my ($big, $small, $old, $none) = map { tenant($_) } 1 .. 4;

# Everything retained, one row a second, 11 days back; and an old tenant that its
# minimum protects.
$node->safe_psql('postgres',
	    executions_table()
	  . "INSERT INTO executions (id, tenant_id, started_at, created_at)
		 SELECT i, CASE WHEN i % 1000 = 0 THEN '$small' ELSE '$big' END::uuid,
				CASE WHEN i % 50 <> 0 THEN t END, t
		 FROM generate_series(1, 1001000) i,
			  LATERAL (SELECT now() - interval '1 second' * (i::bigint * 9973 % 1001000)) x (t);"
	  . fill_tenant($old, 1000, newest => 50)
	  . 'CREATE EXTENSION retention; VACUUM ANALYZE');

# Buffers touched by the second call in a session, and what the call said.
sub buffers_of
{
	my ($tenant, $args) = @_;
	my $call = "SELECT * FROM cleanup_old_executions('$tenant'$args)";
	my $out = $node->safe_psql('postgres',
		"$call;\n\\echo ---\nEXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) $call;\n");
	my ($first, $explain) = split /^---\n/m, $out;
	my $plan = JSON::PP::decode_json($explain)->[0]{Plan};
	my ($count, $json) = split /\|/, $first, 2;

	return (
		$plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'},
		JSON::PP::decode_json($json));
}

my %cost;
foreach my $case (
	[ 'a million retained rows', $big, '', 'nothing that old' ],
	[ 'a thousand retained rows', $small, '', 'nothing that old' ],
	[ 'a minimum of a hundred in a million rows', $big, ', 90, 100', 'nothing that old' ],
	[ 'all old, all protected', $old, ', 30, 1000', 'protected by the minimum' ],
	[ 'no rows', $none, '', 'no executions' ])
{
	my ($name, $tenant, $args, $reason) = @$case;
	my ($buffers, $s) = buffers_of($tenant, $args);

	is($s->{deleted}, 0, "$name: nothing to do");
	is($s->{reason}, $reason, "$name: $reason");
	cmp_ok($buffers, '>', 0, "$name: buffers are counted");
	cmp_ok($buffers, '<', 100, "$name: $buffers buffers")
	  unless $tenant eq $old;
	$cost{$name} = $buffers;
}
cmp_ok($cost{'a million retained rows'}, '<=', $cost{'a thousand retained rows'} + 10,
	'a million rows cost what a thousand do');

# ---- The nightly run of many tenants, each with a few started rows due: for rows that never started
# the index is asked for the oldest and for the newest, and not again; policies are read once, and
# written once.
{
	$node->safe_psql('postgres', "CREATE DATABASE nightly");
	$node->safe_psql('nightly',
		    executions_table()
		  . "INSERT INTO executions (id, tenant_id, started_at, created_at)
			 SELECT i, md5('t' || i % 500)::uuid, CASE WHEN i < 1000 OR i / 500 % 10 <> 0 THEN t END, t
			 FROM generate_series(0, 59999) i,
				  LATERAL (SELECT now() - interval '1 day' * CASE WHEN i < 1000 THEN 100 ELSE 10 END) x (t);
			 CREATE EXTENSION retention;
			 INSERT INTO execution_retention_policies (tenant_id) SELECT DISTINCT tenant_id FROM executions;
			 VACUUM ANALYZE");
	my $out = $node->safe_psql('nightly',
		"SELECT pg_stat_reset();
		CALL retention.run();
		SELECT pg_stat_force_next_flush();
		SELECT 'deleted ' || rows_deleted FROM retention.run_history;
		SELECT indexrelname || ' ' || idx_scan FROM pg_stat_user_indexes");

	like($out, qr/^deleted 1000$/m, 'nightly: two rows of each went');
	my %scans = $out =~ /^(\w+) (\d+)$/mg;
	cmp_ok($scans{idx_executions_retention_cleanup}, '>=', 1000, "nightly: the index of started rows is asked");
	foreach my $index ('idx_executions_null_started_at', 'unique_tenant_retention_policy')
	{
		cmp_ok($scans{$index}, '>=', 1000, "nightly: $index, twice a tenant");
		cmp_ok($scans{$index}, '<=', 1150, "nightly: $index, not much more often: $scans{$index}");
	}
	is($node->safe_psql('nightly', "SELECT count(*), count(*) FILTER (WHERE started_at IS NULL) FROM executions"),
		'59000|5500', 'nightly: all others are there');
}

$node->stop;
done_testing();
