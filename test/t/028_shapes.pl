# 028_shapes.pl - a run over each shape of the table: partitioned in several ways,
# timestamps without time zone, one time column only, schemas with odd names; with more
# rows of one instant than a batch has, and after the preview has said what will go.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('shapes', "timezone = 'America/New_York'");

my $columns = 'id bigint, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz';
my @shapes = (
	{
		name => 'plain', schema => 'public', times => ['started_at', 'created_at'],
		table => "($columns)"
	},
	{
		name => 'partitioned by tenant', schema => 'public', times => ['started_at', 'created_at'],
		table => "($columns) PARTITION BY HASH (tenant_id);"
		  . join(';', map { "CREATE TABLE executions_$_ PARTITION OF executions FOR VALUES WITH (MODULUS 3, REMAINDER $_)" } 0 .. 2)
	},
	{
		# partitions of several shapes, some behind dropped columns
		name => 'partitioned by time', schema => 'public', times => ['started_at', 'created_at'],
		table => "($columns) PARTITION BY RANGE (created_at);
			CREATE TABLE e_old PARTITION OF executions FOR VALUES FROM (MINVALUE) TO (now() - interval '30 days');
			CREATE TABLE e_mid (nothing text, created_at timestamptz, started_at timestamptz, id bigint, tenant_id uuid NOT NULL);
			ALTER TABLE e_mid DROP COLUMN nothing;
			ALTER TABLE executions ATTACH PARTITION e_mid FOR VALUES FROM (now() - interval '30 days') TO (now() - interval '10 days');
			CREATE TABLE e_new PARTITION OF executions FOR VALUES FROM (now() - interval '10 days') TO (MAXVALUE);
			CREATE TABLE e_default PARTITION OF executions DEFAULT"
	},
	{
		name => 'partitioned twice', schema => 'public', times => ['started_at', 'created_at'],
		table => "($columns) PARTITION BY LIST (tenant_id);
			CREATE TABLE e_rest PARTITION OF executions DEFAULT PARTITION BY HASH (id);
			CREATE TABLE e_rest0 PARTITION OF e_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			CREATE TABLE e_rest1 PARTITION OF e_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
	},
	{
		name => 'without time zone', schema => 'public', times => ['started_at', 'created_at'], utc => 1,
		table => '(id bigint, tenant_id uuid NOT NULL, started_at timestamp, created_at timestamp)'
	},
	{
		name => 'without created_at', schema => 'public', times => ['started_at'],
		table => '(id bigint, tenant_id uuid NOT NULL, started_at timestamptz)'
	},
	{
		name => 'without started_at', schema => 'public', times => ['created_at'],
		table => '(id bigint, tenant_id uuid NOT NULL, created_at timestamptz)'
	},
	{
		name => 'odd names', schema => '"An ""odd"" Schema"', extension => '"Another; Schema"', times => ['started_at', 'created_at'],
		table => "($columns)"
	});

my $number = 0;
foreach my $shape (@shapes)
{
	my ($name, $s) = ($shape->{name}, $shape->{schema});
	my $x = $shape->{extension} // $s;
	my $db = 'shape' . ++$number;
	my @times = @{ $shape->{times} };
	# how a column is read as a time, and written
	my $eff = 'COALESCE(' . join(', ', map { $shape->{utc} ? "$_ AT TIME ZONE 'UTC'" : $_ } @times) . ')';
	my %value = (started_at => 'CASE WHEN random() < 0.7 THEN t END', created_at => 'CASE WHEN random() < 0.9 THEN t END');
	my $write = join(', ', map { $shape->{utc} ? "($value{$_}) AT TIME ZONE 'UTC'" : $value{$_} } @times);

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, ($s eq 'public' ? '' : "CREATE SCHEMA $s; CREATE SCHEMA $x;") . "SET search_path = $s, $x;
		SET client_min_messages = warning;
		CREATE TABLE executions $shape->{table};
		CREATE EXTENSION retention SCHEMA $x;
		SELECT setseed(0.$number);
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
		SELECT lpad(n::text, 32, 'e')::uuid, 1 + n % 25, n * 7 % 40 FROM generate_series(1, 40) n;
		INSERT INTO executions (id, tenant_id, " . join(', ', @times) . ")
		SELECT row_number() OVER (), tenant_id, $write
		FROM (SELECT lpad(n::text, 32, 'e')::uuid AS tenant_id,
					 now() - interval '12 hours' - interval '1 day' * floor(random() * (1 + n * 13 % 50)) AS t
			  FROM generate_series(1, 40) n, generate_series(1, 60) i) x;
		CREATE TABLE public.oracle AS
		SELECT e.id, tenant_id, t, COALESCE(t < now() - p.retention_days * interval '24 hours'
										  AND rank > p.min_executions_to_keep, false) AS goes
		FROM (SELECT id, tenant_id, $eff AS t,
					 row_number() OVER (PARTITION BY tenant_id ORDER BY $eff DESC NULLS LAST) AS rank
			  FROM executions) AS e JOIN execution_retention_policies AS p USING (tenant_id);
		CREATE TABLE public.announced AS SELECT * FROM retention.preview()");
	my $goes = $node->safe_psql($db, 'SELECT count(*) FROM oracle WHERE goes');
	cmp_ok($goes, '>', 300, "$name: $goes rows are to go");
	is($node->safe_psql($db, 'SELECT sum(executions_to_delete) FROM announced'), $goes, "$name: preview knows");

	is($node->psql($db, 'CALL retention.run(batch_size => 7)', on_error_stop => 1), 0, "$name: ends well");
	is($node->safe_psql($db, "
			SELECT COALESCE(sum(greatest(have - want, 0)), 0), COALESCE(sum(greatest(want - have, 0)), 0)
			FROM (SELECT count(*) FILTER (WHERE NOT o.goes) AS want, count(e.id) AS have
				  FROM oracle AS o LEFT JOIN $s.executions AS e USING (id)
				  GROUP BY o.tenant_id, o.t) AS x"), '0|0', "$name: what the oracle says is gone");
	is($node->safe_psql($db, 'SELECT status, rows_deleted, tenants_failed FROM retention.run_history'),
		"succeeded|$goes|0", "$name: on record");
	is($node->safe_psql($db, '
			SELECT count(*) FROM announced AS a LEFT JOIN retention.run_tenant AS t USING (tenant_id)
			WHERE COALESCE(t.rows_deleted, 0) <> a.executions_to_delete'), '0', "$name: as announced, tenant by tenant");
	is($node->psql($db, 'CALL retention.run()', on_error_stop => 1), 0, "$name: once more");
	is($node->safe_psql($db, 'SELECT rows_deleted FROM retention.run_history ORDER BY id DESC LIMIT 1'), '0',
		"$name: nothing is left to do");

	# tenants without a policy are found in this shape, too
	$node->safe_psql($db, "TRUNCATE $x.execution_retention_policies");
	is($node->psql($db, 'SET retention.apply_default_policy = on; SET retention.default_retention_days = 0;
			SET retention.default_min_executions_to_keep = 3; CALL retention.run(batch_size => 7)', on_error_stop => 1), 0,
		"$name: default policy");
	is($node->safe_psql($db, "SELECT DISTINCT count($eff) FROM $s.executions GROUP BY tenant_id"), '3',
		"$name: of each tenant three are left");
}

$node->stop;
done_testing();
