# 024_cron.pl - pg_cron calls retention.run(), in both of its modes: background workers,
# and connections through the socket directory.  A run that it starts commits batch by
# batch, and another one that it starts meanwhile steps aside.
#
# The pg_cron of Debian 12 knows no seconds, so the test waits for the next full minute of
# each of the two servers, and of a third one on which no connection is left.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

plan skip_all => 'pg_cron is not installed' unless have_library('pg_cron');

my %settings = (
	workers => ['cron.use_background_workers = on'],
	libpq => []);
my $t1 = tenant(1);
my ($rows, $keep, $batch) = (3000, 100, 500);
my (%node, %holders);

sub prepare
{
	my ($mode, @more) = @_;
	my $node = PostgreSQL::Test::Cluster->new("run_by_cron_$mode");

	$node->init;
	$node->append_conf('postgresql.conf', join("\n",
		'autovacuum = off', "shared_preload_libraries = 'pg_cron,retention'",
		"cron.database_name = 'postgres'", "cron.host = '" . $node->host . "'",
		# with a pause, others at work make no batch smaller
		"retention.pause_between_batches = '1ms'", "retention.batch_size = $batch",
		'log_statement = none', @{ $settings{$mode} // [] }, @more));
	$node->start;
	$node->safe_psql('postgres',
		'CREATE EXTENSION pg_cron;' . prepare_runs()
		  . rows_of($t1, $rows + $keep, newest => 50) . policy($t1, 30, $keep));
	remember($node);
	return $node;
}

foreach my $mode (sort keys %settings)
{
	$node{$mode} = prepare($mode);
}

# A server on which no connection is left when pg_cron wants one.
my $full = prepare('libpq_full', 'max_connections = 8', 'superuser_reserved_connections = 0');
my %patient = (timeout => 3 * $PostgreSQL::Test::Utils::timeout_default);
my @sessions = $full->background_psql('postgres', %patient);
# refused, it may be by one that is about to go
my $patience = time + $PostgreSQL::Test::Utils::timeout_default;
while (@sessions < 8 && time < $patience)
{
	my $session = eval { $full->background_psql('postgres', %patient) };

	push @sessions, $session if $session;
	sleep 1 if !$session;
}
is(scalar(@sessions), 8, 'full: all connections are taken');

# The runs stop in each batch.
foreach my $mode (sort keys %settings)
{
	mischief($node{$mode}, map { $_ => 'wait' } 1 .. $rows);
	$holders{$mode} = [ map { $node{$mode}->background_psql('postgres', %patient) } 1 .. 2 ];
	$holders{$mode}[0]->query_safe('SELECT pg_advisory_lock(4711)');
}
$sessions[0]->query_safe(q{SELECT FROM retention.schedule('* * * * *')});

# The job of the extension and a second one: both are there at the same minute.
foreach my $mode (sort keys %settings)
{
	my $node = $node{$mode};

	is($node->safe_psql('postgres', q{
			BEGIN;
			SELECT command, database FROM retention.schedule('* * * * *');
			SELECT FROM cron.schedule('another', '* * * * *', 'CALL retention.run()');
			COMMIT}), 'CALL retention.run()|postgres', "$mode: scheduled");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM retention.scheduled_jobs
			WHERE kind = 'run' AND schedule = '* * * * *' AND active}), '2', "$mode: two jobs");
}

my $waiting = q{FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted};

# While the one stands in its first batch, the other comes and goes.
foreach my $mode (sort keys %settings)
{
	my $node = $node{$mode};

	wait_for($node, 'postgres', "SELECT count(*) = 1 $waiting", "$mode: a run has begun");
	wait_for($node, 'postgres', q{
		SELECT count(*) > 0 FROM retention.run_history WHERE status <> 'running'}, "$mode: another one has ended");
	$node->safe_psql('postgres', q{SELECT cron.alter_job(jobid, schedule => '0 0 31 2 *') FROM cron.job});
}

foreach my $mode (sort keys %settings)
{
	my $node = $node{$mode};
	my @seen;

	for (my $n = 0; $n < $rows; $n += $batch)
	{
		my ($holder, $next) = @{ $holders{$mode} };

		wait_for($node, 'postgres', "SELECT count(*) = 1 $waiting", "$mode: it stands in its next batch");
		push @seen, $node->safe_psql('postgres', 'SELECT count(*) FROM executions');
		# who holds it next is in line before the run goes on, and has it when the batch is committed
		$next->query_until(qr/waiting/, "\\echo waiting\nSELECT pg_advisory_lock(4711);\n");
		wait_for($node, 'postgres', "SELECT count(*) = 2 $waiting", "$mode: the next one waits");
		release($holder);
		$next->query_safe('SELECT 1');
		$holders{$mode} = [ $next, $holder ];
	}
	is("@seen", join(' ', map { $keep + $rows - $batch * $_ } 0 .. $rows / $batch - 1),
		"$mode: another session sees the count fall batch by batch");
	$_->quit foreach @{ $holders{$mode} };

	# pg_cron gives up a start that takes ten seconds, and starts it again a minute later
	wait_for($node, 'postgres', q{
		SELECT count(*) FILTER (WHERE return_message = 'CALL') >= 2 AND bool_and(status IN ('succeeded', 'failed'))
		FROM cron.job_run_details WHERE command ~ '^CALL'}, "$mode: both jobs have ended");
	is($node->safe_psql('postgres', q{
			SELECT status, return_message FROM cron.job_run_details
			WHERE command ~ '^CALL' AND return_message <> 'job startup timeout' ORDER BY runid LIMIT 2}),
		"succeeded|CALL\nsucceeded|CALL", "$mode: both have succeeded");
	is(verdict($node), '0|0', "$mode: all that is due is gone");
	is($node->safe_psql('postgres', 'SELECT count(DISTINCT xid) FROM gone'), $rows / $batch,
		"$mode: in a transaction for each batch");
	is($node->safe_psql('postgres', q{
			SELECT status, stop_reason, tenants_due, tenants, tenants_busy, rows_deleted
			FROM (SELECT * FROM retention.run_history ORDER BY id LIMIT 2) AS r ORDER BY rows_deleted}),
		"succeeded|done|1|0|1|0\nsucceeded|done|1|1|0|$rows",
		"$mode: one of them did it all, the other stepped aside");
	is($node->safe_psql('postgres', q{
			SELECT last_status, kind FROM retention.scheduled_jobs
			WHERE kind = 'run' AND last_status = 'succeeded'}), "succeeded|run\nsucceeded|run",
		"$mode: retention.scheduled_jobs has it");
	is($node->safe_psql('postgres', q{
			SELECT severity, finding FROM retention.check_schedule() WHERE object = 'setting cron.use_background_workers'}),
		$mode eq 'workers' && cron_is_old($node)
		? 'warning|While a run goes on, this version of pg_cron starts no other job of the server.' : '',
		"$mode: check knows the one that waits for its workers");
	unlike(slurp_file($node->logfile), qr/WARNING|ERROR|FATAL/, "$mode: nobody complains in the log");
	$node->stop;
}

# It says so, and nothing was begun; with a connection it goes on.
my $end = time + $PostgreSQL::Test::Utils::timeout_default;
my $failed = q{SELECT count(*) > 0 FROM cron.job_run_details WHERE status = 'failed' AND return_message = 'connection failed'};
until ($sessions[0]->query_safe($failed) eq 't' || time > $end)
{
	$sessions[0]->query_safe('SELECT pg_sleep(0.1)');
}
is($sessions[0]->query_safe(q{SELECT cron.alter_job(jobid, schedule => '0 0 31 2 *') FROM cron.job; } . $failed), "\n\nt",
	'full: pg_cron could not connect');
like($sessions[0]->query_safe(q{SELECT severity, finding, advice FROM retention.check() WHERE object ~ '^job'}),
	qr/^warning\|Its last start failed: connection failed\.\|.*max_connections/m, 'full: check says so');
is($sessions[0]->query_safe('SELECT count(*) FROM retention.run_history'), '0', 'full: no run began');
$_->quit foreach @sessions;
run($full, 'max_rows_per_second => 0', name => 'full: with a connection');
is(verdict($full), '0|0', 'full: with a connection all that is due is gone');
$full->stop;

done_testing();
