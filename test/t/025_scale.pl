# 025_scale.pl - ten thousand tenants, with everything due and with nothing due; and a
# run of a hundred thousand commits, which ends with the memory it began with.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;
use Time::HiRes 'time';

my $node = start_node('scale', 'shared_buffers = 512MB', 'max_wal_size = 8GB',
	"shared_preload_libraries = 'pg_stat_statements'", 'fsync = off');
my $tenants = 10_000;

sub query { return $node->safe_psql('postgres', $_[0]) }

# Calls a run with these arguments; returns seconds and buffers.
sub measure
{
	my ($arguments, $before) = @_;
	my $began;

	query('SELECT pg_stat_statements_reset()');
	$began = time;
	query(($before ? "$before;" : '') . "CALL retention.run($arguments)");
	return (time - $began,
		query("SELECT shared_blks_hit + shared_blks_read FROM pg_stat_statements
			WHERE query ILIKE 'CALL retention.run%'"));
}

# ---- Ten thousand tenants with 40 rows each, of which 25 go and 15 are young; every
# ---- tenth one has nothing that is due.
{
	query(executions_table()
		  . "CREATE EXTENSION retention; CREATE EXTENSION pg_stat_statements;
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
		SELECT lpad(n::text, 32, '0')::uuid, 30, 10 FROM generate_series(1, $tenants) n;
		INSERT INTO executions
		SELECT i * $tenants + n, lpad(n::text, 32, '0')::uuid,
			   CASE WHEN (i + n) % 9 > 0 THEN t END, t
		FROM generate_series(1, 40) i, generate_series(1, $tenants) n,
			 LATERAL (SELECT now() - interval '12 hours'
						- interval '1 day' * CASE WHEN n % 10 = 0 THEN i % 20
												  WHEN i <= 25 THEN 30 + i ELSE i - 25 END) x (t);
		VACUUM ANALYZE;");
	my $due = $tenants * 9 / 10;

	my ($seconds, $buffers) = measure('');
	note(sprintf('all due: %d rows of %d tenants in %.2f s, %.0f rows per second, %.1f buffers per row',
			$due * 25, $due, $seconds, $due * 25 / $seconds, $buffers / ($due * 25)));
	is(query('SELECT status, tenants_due, tenants, tenants_failed, rows_deleted FROM retention.run_history'),
		"succeeded|$due|$due|0|" . $due * 25, 'all due: history');
	is(query(q{
			SELECT min(n), max(n), count(*), bool_and(young) FROM
				(SELECT count(*) n, bool_and(COALESCE(started_at, created_at) > now() - interval '30 days') young
				 FROM executions GROUP BY tenant_id) x}),
		"15|40|$tenants|t", 'all due: what is left is young');
	is(query('SELECT count(*), sum(rows_deleted) FROM retention.run_tenant'), "$due|" . $due * 25,
		'all due: every tenant on record');
	is(query('SELECT count(*), min(last_cleanup_deleted_count), max(last_cleanup_deleted_count)
			FROM execution_retention_policies WHERE last_cleanup_at IS NOT NULL'), "$due|25|25",
		'all due: every policy, too');
	my ($batches) = query('SELECT batches FROM retention.run_history');
	note("$batches batches");

	# nothing due
	query('VACUUM ANALYZE');
	my $policies = 'SELECT md5(string_agg(p::text || xmin::text, $$,$$ ORDER BY tenant_id))
		FROM execution_retention_policies p';
	my $before = query($policies);
	my $xid = query('SELECT pg_snapshot_xmax(pg_current_snapshot())');
	($seconds, $buffers) = measure('');
	note(sprintf('nothing due: %.3f s, %.1f buffers per tenant', $seconds, $buffers / $tenants));
	is(query('SELECT status, tenants_due, tenants, rows_deleted FROM retention.run_history ORDER BY id DESC LIMIT 1'),
		'succeeded|0|0|0', 'nothing due: history');
	is(query($policies), $before, 'nothing due: no policy is touched');
	cmp_ok(query('SELECT pg_snapshot_xmax(pg_current_snapshot())') - $xid, '<', 10,
		'nothing due: a handful of transaction ids, not one for each tenant');
	cmp_ok($buffers / $tenants, '<', 15, 'nothing due: a few buffers for each tenant');
	# the best of three where that is slow: the machine may have been
	for (my $more = 2; $seconds >= 20 && $more > 0; $more--)
	{
		($seconds) = measure('');
	}
	cmp_ok($seconds, '<', 20, 'nothing due: in seconds');

	# old, but the minimum keeps what is there; of the tenants that had nothing due, rows go
	query('UPDATE execution_retention_policies SET min_executions_to_keep = 15, retention_days = 10; VACUUM ANALYZE');
	($seconds, $buffers) = measure('');
	note(sprintf('old but kept by the minimum: %.3f s, %.1f buffers per tenant', $seconds, $buffers / $tenants));
	is(query('SELECT status, rows_deleted, (SELECT count(*) FROM executions WHERE right(tenant_id::text, 1) <> $$0$$)
			FROM retention.run_history ORDER BY id DESC LIMIT 1'), 'succeeded|20000|' . $due * 15,
		'old but kept: what the minimum keeps is there');

	# tenants are found without policies, too
	query('TRUNCATE execution_retention_policies');
	$before = query('SELECT count(*) FROM executions');
	($seconds, $buffers) = measure('', 'SET retention.apply_default_policy = on');
	note(sprintf('no policies, nothing due: %.3f s, %.1f buffers per tenant', $seconds, $buffers / $tenants));
	is(query('SELECT status, rows_deleted FROM retention.run_history ORDER BY id DESC LIMIT 1'),
		'succeeded|0', 'no policies: nothing due');
	query('TRUNCATE executions');
}

# ---- Memory: a trigger looks at the backend at a few rows far apart.  The heap of the
# ---- process counts as well as what PostgreSQL knows of.
sub memory_of
{
	my ($name, $rows, $arguments, $limit) = @_;
	my $every = $rows / 10;
	my $tenant = tenant(1);

	query("TRUNCATE executions, execution_retention_policies;" . fill_tenant($tenant, $rows, newest => 50)
		  . "INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
			 VALUES ('$tenant', 30, 0);
		VACUUM ANALYZE executions;
		CREATE OR REPLACE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			RAISE NOTICE 'row % contexts % process %', OLD.id,
				(SELECT sum(total_bytes) FROM pg_backend_memory_contexts),
				substring(pg_read_file('/proc/self/status') FROM 'RssAnon:\\s+(\\d+)')::bigint * 1024;
			RETURN OLD;
		END \$\$;
		CREATE OR REPLACE TRIGGER look BEFORE DELETE ON executions FOR EACH ROW
			WHEN (OLD.id % $every = $every / 5) EXECUTE FUNCTION look()");
	my $began = time;
	my ($rc, $out, $err) = $node->psql('postgres', "CALL retention.run($arguments)");
	my $seconds = time - $began;
	is($rc, 0, "$name: ends well") or diag $err;
	is(query('SELECT status, rows_deleted, batches >= rows_deleted / 10 FROM retention.run_history ORDER BY id DESC LIMIT 1'),
		"succeeded|$rows|t", "$name: in batches of ten");
	my @contexts = $err =~ /contexts (\d+)/g;
	my @process = $err =~ /process (\d+)/g;
	is(scalar(@contexts), 10, "$name: ten readings");
	note(sprintf('%s: %d rows in %.1f s; contexts %s; process %s', $name, $rows, $seconds, "@contexts", "@process"));
	cmp_ok($contexts[9] - $contexts[0], '<', $limit,
		"$name: " . ($contexts[9] - $contexts[0]) . ' bytes more in contexts');
	cmp_ok($process[9] - $process[0], '<', 2 * $limit,
		"$name: " . ($process[9] - $process[0]) . ' bytes more in the process');
	return;
}

SKIP:
{
	skip 'no /proc/self/status', 10 unless -r '/proc/self/status';
	memory_of('memory', 1_000_000, 'batch_size => 10', 2 * 1024 * 1024);
	memory_of('memory, waiting for nobody', 50_000,
		q{batch_size => 10, max_replication_lag => '1GB', max_runtime => '1 hour', pause_between_batches => '1 microsecond'},
		512 * 1024);
}

$node->stop;
done_testing();
