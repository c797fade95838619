# 024_cron.pl - pg_cron calls retention.run(), in both of its modes: background workers,
# and connections through the socket directory.  A run that it starts commits batch by
# batch, and another one that it starts meanwhile steps aside.
#
# The pg_cron of Debian 12 knows no seconds, so the test waits for the full minute, once,
# for both servers, and for a third one on which no connection is left.

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
my ($rows, $keep) = (3000, 100);
my %node;

sub prepare
{
	my ($mode, @more) = @_;
	my $node = PostgreSQL::Test::Cluster->new("run_by_cron_$mode");

	$node->init;
	# slow enough to be watched: six batches of 500, a second after each
	$node->append_conf('postgresql.conf', join("\n",
		'autovacuum = off', "shared_preload_libraries = 'pg_cron,retention'",
		"cron.database_name = 'postgres'", "cron.host = '" . $node->host . "'",
		"retention.pause_between_batches = '1s'", 'retention.batch_size = 500',
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
# refused once, it may be by one that is about to go
for (my $refused = 0; @sessions < 20 && $refused < 2;)
{
	my $session = eval { $full->background_psql('postgres', %patient) };

	push @sessions, $session if $session;
	sleep 1 if !$session && !$refused++;
}
cmp_ok(scalar(@sessions), '<=', 8, 'full: all connections are taken');

# Who watches is there before: to start a session takes longer than a batch on a busy machine.
my %seen;
my %watcher = map { $_ => $node{$_}->background_psql('postgres', %patient) } keys %settings;

# All of them have to be scheduled within one minute.
sleep 1 while time % 60 > 40;
$sessions[0]->query_safe(q{SELECT FROM retention.schedule('* * * * *')});

# The job of the extension, and a second one beside it at the same minute.
foreach my $mode (sort keys %settings)
{
	my $node = $node{$mode};

	is($node->safe_psql('postgres', q{
			SELECT command, database FROM retention.schedule('* * * * *')}),
		'CALL retention.run()|postgres', "$mode: scheduled");
	$node->safe_psql('postgres', q{SELECT cron.schedule('another', '* * * * *', 'CALL retention.run()')});
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM retention.scheduled_jobs
			WHERE kind = 'run' AND schedule = '* * * * *' AND active}), '2', "$mode: two jobs");
}

foreach my $mode (sort keys %settings)
{
	wait_for($node{$mode}, 'postgres', 'SELECT count(*) > 0 FROM gone', "$mode: the first batch is gone");
}
my $watched_until = time + $PostgreSQL::Test::Utils::timeout_default;
while (%watcher && time <= $watched_until)
{
	foreach my $mode (keys %watcher)
	{
		my $count = $watcher{$mode}->query_safe('SELECT count(*) FROM executions');

		$seen{$mode}{$count} = 1;
		delete($watcher{$mode})->quit if $count <= $keep;
	}
}
$_->quit foreach values %watcher;

foreach my $mode (sort keys %settings)
{
	my $node = $node{$mode};
	my @seen = sort { $b <=> $a } keys %{ $seen{$mode} };
	my @between = grep { $_ < $rows + $keep && $_ > $keep } @seen;

	cmp_ok(scalar(@between), '>=', 2, "$mode: another session sees the count fall: @seen");
	is(scalar(grep { ($_ - $keep) % 500 } @between), 0, "$mode: batch by batch");

	wait_for($node, 'postgres', q{
		SELECT count(*) >= 2 FROM cron.job_run_details
		WHERE status IN ('succeeded', 'failed') AND command ~ '^CALL'}, "$mode: both jobs have ended");
	is($node->safe_psql('postgres', q{
			SELECT status, return_message FROM cron.job_run_details
			WHERE command ~ '^CALL' ORDER BY runid LIMIT 2}), "succeeded|CALL\nsucceeded|CALL",
		"$mode: both have succeeded");
	is(verdict($node), '0|0', "$mode: all that is due is gone");
	is($node->safe_psql('postgres', 'SELECT count(DISTINCT xid) FROM gone'), int($rows / 500),
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
	unlike(slurp_file($node->logfile), qr/WARNING|ERROR|FATAL/, "$mode: nobody complains in the log");
	$node->stop;
}

# It says so, and nothing was begun; with a connection it goes on.
my $end = time + $PostgreSQL::Test::Utils::timeout_default;
my $failed = q{SELECT count(*) > 0 FROM cron.job_run_details WHERE status = 'failed'};
until ($sessions[0]->query_safe($failed) eq 't' || time > $end)
{
	$sessions[0]->query_safe('SELECT pg_sleep(0.1)');
}
is($sessions[0]->query_safe(q{SELECT DISTINCT status, return_message FROM cron.job_run_details}),
	'failed|connection failed', 'full: pg_cron could not connect');
like($sessions[0]->query_safe(q{SELECT severity, finding, advice FROM retention.check() WHERE object ~ '^job'}),
	qr/^warning\|Its last start failed: connection failed\.\|.*max_connections/m, 'full: check says so');
is($sessions[0]->query_safe('SELECT count(*) FROM retention.run_history'), '0', 'full: no run began');
$_->quit foreach @sessions;
run($full, 'max_rows_per_second => 0', name => 'full: with a connection');
is(verdict($full), '0|0', 'full: with a connection all that is due is gone');
$full->stop;

done_testing();
