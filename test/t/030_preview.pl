# 030_preview.pl - retention.preview() announces what retention.run() then deletes, for
# random tenants: ties, rows that were never started, rows of no known age, rows right at
# the edge of the minimum; and both agree with an oracle in plain SQL.
#
# Another seed: PREVIEW_SEED=0.42.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('preview');
my $seed = $ENV{PREVIEW_SEED} // sprintf('%.6f', rand());
my $tenants = 300;

note("seed $seed");
$node->safe_psql('postgres', prepare_runs());

# What preview says against the oracle, tenant by tenant; of the rows that differ, all.
my $differences = q{
	WITH want AS (
		SELECT p.tenant_id, count(o.id) AS total_executions,
			   count(o.id) FILTER (WHERE o.t < cutoff_of(p.retention_days)) AS old_executions_count,
			   count(o.id) FILTER (WHERE o.goes) AS executions_to_delete,
			   p.retention_days, p.min_executions_to_keep,
			   p.is_enabled AND count(o.id) FILTER (WHERE o.goes) > 0 AS would_delete, p.is_enabled
		FROM execution_retention_policies AS p LEFT JOIN oracle AS o USING (tenant_id)
		GROUP BY p.id),
	have AS (
		SELECT tenant_id, total_executions, old_executions_count, executions_to_delete,
			   retention_days, min_executions_to_keep, would_delete, is_enabled FROM announced)
	(SELECT 'oracle', * FROM want EXCEPT ALL SELECT 'oracle', * FROM have)
	UNION ALL (SELECT 'preview', * FROM have EXCEPT ALL SELECT 'preview', * FROM want)
	ORDER BY 2, 1};

foreach my $round (1 .. 3)
{
	# Times are on a grid of so many instants over 40 days, none within an hour of any
	# cutoff in whole days.
	$node->safe_psql('postgres', qq{
		SELECT setseed($seed / $round);
		TRUNCATE executions, execution_retention_policies;
		CREATE TEMP TABLE shape AS
		SELECT lpad(n::text, 32, '0')::uuid AS tenant_id,
			   (ARRAY[0, 1, 5, 20, 60, 120])[1 + floor(random() * 6)] AS rows,
			   (ARRAY[1, 2, 3, 10, 40, 200])[1 + floor(random() * 6)] AS grain,
			   (ARRAY[0, 0, 0.1, 0.5, 0.9, 1])[1 + floor(random() * 6)] AS never_started,
			   (ARRAY[0, 0, 0.1, 0.5])[1 + floor(random() * 4)] AS no_created,
			   (ARRAY[1, 2, 5, 10, 20, 30, 100000000])[1 + floor(random() * 7)] AS days,
			   (ARRAY[0, 0, 1, 2, 5, 10, 19, 20, 21, 59, 60, 100, 2147483647])[1 + floor(random() * 13)] AS keep,
			   random() < 0.85 AS enabled
		FROM generate_series(1, $tenants) n;
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, is_enabled)
		SELECT tenant_id, days, keep, enabled FROM shape;
		INSERT INTO executions
		SELECT row_number() OVER (), tenant_id,
			   CASE WHEN random() >= never_started THEN t END,
			   CASE WHEN random() >= no_created THEN CASE WHEN random() < 0.5 THEN t ELSE other END END
		FROM (SELECT tenant_id, never_started, no_created,
					 now() - interval '12 hours' - interval '1 day' * floor(40 * floor(random() * grain) / grain) AS t,
					 now() - interval '12 hours' - interval '1 day' * floor(40 * floor(random() * grain) / grain) AS other
			  FROM shape, generate_series(1, rows::integer)) AS x;
		UPDATE executions SET started_at = 'infinity' WHERE id % 97 = 0;
		UPDATE executions SET started_at = '-infinity' WHERE id % 89 = 0;});
	remember($node, force => 1);
	$node->safe_psql('postgres', '
		DROP TABLE IF EXISTS announced; CREATE TABLE announced AS SELECT * FROM retention.preview()');

	is($node->safe_psql('postgres', $differences), '', "round $round: preview says what the oracle says");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM announced WHERE cutoff_date NOT BETWEEN
				retention.cutoff(now() - interval '10 minutes', retention_days) AND
				retention.cutoff(now(), retention_days)}), '0', "round $round: cutoffs are of now");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM announced AS a, retention.preview(a.tenant_id) AS p
			WHERE (a.total_executions, a.old_executions_count, a.executions_to_delete, a.would_delete, a.is_enabled)
				= (p.total_executions, p.old_executions_count, p.executions_to_delete, p.would_delete, p.is_enabled)}),
		$tenants, "round $round: for one tenant it says the same");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM announced AS a
				 LEFT JOIN (SELECT tenant_id, min(t) AS t FROM oracle WHERE goes GROUP BY 1) AS o USING (tenant_id)
			WHERE o.t IS DISTINCT FROM retention.oldest_due(a.tenant_id, a.retention_days, a.min_executions_to_keep)}),
		'0', "round $round: oldest_due() finds the oldest row that goes");

	# enabled policies, then all
	foreach my $force ('false', 'true')
	{
		my $batch = (1, 3, 7, 50, 1000)[ rand 5 ];
		$node->safe_psql('postgres', 'TRUNCATE gone');
		run($node, "force => $force, batch_size => $batch", name => "round $round, force $force, batches of $batch");
		is($node->safe_psql('postgres', "
				SELECT count(*) FROM announced AS a
					 FULL JOIN (SELECT tenant_id, count(*) AS n FROM gone GROUP BY 1) AS g USING (tenant_id)
				WHERE COALESCE(g.n, 0) <> CASE WHEN is_enabled <> $force THEN executions_to_delete ELSE 0 END"),
			'0', "round $round: the run deletes what preview said");
		is($node->safe_psql('postgres', "
				SELECT count(*) FROM announced AS a
					 FULL JOIN (SELECT * FROM retention.run_tenant
						WHERE run_id = (SELECT max(id) FROM retention.run_history)) AS g USING (tenant_id)
				WHERE COALESCE(g.rows_deleted, 0) <> CASE WHEN is_enabled <> $force THEN executions_to_delete ELSE 0 END"),
			'0', "round $round: and history says so");
	}
	is(verdict($node), '0|0', "round $round: which is what the oracle said");
	my $tally = $node->safe_psql('postgres', '
		SELECT sum(executions_to_delete), count(*) FILTER (WHERE executions_to_delete > 0),
			   count(*) FILTER (WHERE executions_to_delete BETWEEN 1 AND old_executions_count - 1)
		FROM announced');
	note("round $round: rows, tenants with any, tenants where the minimum kept some: $tally");
	my ($goes, $with, $kept) = split /\|/, $tally;
	ok($goes > 1000 && $with > 50 && $kept > 5, "round $round: the shapes are worth something");
	is($node->safe_psql('postgres', '
			SELECT sum(executions_to_delete), count(*) FILTER (WHERE would_delete) FROM retention.preview()'),
		'0|0', "round $round: nothing is announced any more");
}

# ---- Preview writes nothing, so a read-only transaction may have it; a tenant without a
# ---- policy is shown by the default settings.
{
	my $t = tenant(7);
	$node->safe_psql('postgres', 'TRUNCATE executions, execution_retention_policies;'
		  . rows_of($t, 40, newest => 100));
	my $sql = "SELECT total_executions, old_executions_count, executions_to_delete, retention_days,
		min_executions_to_keep, would_delete, is_enabled FROM retention.preview('$t')";
	is($node->safe_psql('postgres', "SET default_transaction_read_only = on; $sql"),
		'40|40|0|90|100|f|f', 'no policy: by the defaults');
	is($node->safe_psql('postgres', "SET retention.apply_default_policy = on;
			SET retention.default_min_executions_to_keep = 10; $sql"), '40|40|30|90|10|t|t',
		'no policy, with defaults applied: a run would');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.preview()'), '0',
		'no policy: not in the list');
	is($node->safe_psql('postgres', 'SELECT total_executions FROM retention.preview(gen_random_uuid())'), '0',
		'unknown tenant: no rows');
}

$node->stop;
done_testing();
