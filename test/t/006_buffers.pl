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

# ---- The nightly run of many tenants, with one row due of 300 in 500.  The index of rows that never
# started is asked for the oldest of all tenants (500) and for the newest of those 300; then again only
# for the 100 (200 to 299) where one is older than what the minimum keeps, and for the 50 (200 to 249)
# where it is due.  Policies are read once and written once (600).
{
	$node->safe_psql('postgres', 'CREATE DATABASE nightly');
	$node->safe_psql('nightly',
		    executions_table()
		  . "INSERT INTO executions (id, tenant_id, started_at, created_at)
			 SELECT i, md5('t' || i % 500)::uuid,
					CASE WHEN n % 10 = 0 AND n >= 60 OR t BETWEEN 200 AND 249 AND n = 0
							  OR t BETWEEN 250 AND 299 AND n = 5 THEN NULL ELSE at END, at
			 FROM generate_series(0, 64999) i,
				  LATERAL (SELECT i % 500, i / 500) AS x (t, n),
				  LATERAL (SELECT now() - interval '1 minute' * (130 - n)
							  - interval '1 day' * CASE WHEN i < 300 THEN 100 ELSE 10 END) y (at);
			 CREATE EXTENSION retention;
			 INSERT INTO execution_retention_policies (tenant_id) SELECT DISTINCT tenant_id FROM executions;
			 VACUUM ANALYZE");
	my $out = $node->safe_psql('nightly',
		"SELECT pg_stat_reset();
		CALL retention.run();
		SELECT pg_stat_force_next_flush();
		SELECT 'deleted ' || rows_deleted || ' of ' || tenants || CASE WHEN batches > 1 THEN ' in groups' END
		FROM retention.run_history;
		SELECT indexrelname || ' ' || idx_scan FROM pg_stat_user_indexes");

	like($out, qr/^deleted 300 of 300 in groups$/m, 'nightly: what was due went, and no walk over the table');
	my %scans = $out =~ /^(\w+) (\d+)$/mg;
	foreach (
		[ 'idx_executions_null_started_at', 950 ],
		[ 'unique_tenant_retention_policy', 600 ])
	{
		my ($index, $times) = @$_;
		cmp_ok($scans{$index}, '>=', $times, "nightly: $index, $times times");
		cmp_ok($scans{$index}, '<=', $times + 20, "nightly: $index, not much more often: $scans{$index}");
	}
	is($node->safe_psql('nightly', 'SELECT count(*), count(*) FILTER (WHERE started_at IS NULL), min(created_at) > now() - interval $$11 days$$ FROM executions'),
		'64700|3550|t', 'nightly: all others are there');
}

$node->stop;
done_testing();
