# 032_promotion.pl - the primary dies in the middle of a run and its standby is promoted:
# there, history and rows agree, too, the run that was under way is marked, and the next
# one does the rest.
#
# Each case takes the standby of the last one for its primary.  RETENTION_SEED repeats the
# choices of the random ones (not their timing).

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;
use Time::HiRes 'sleep';

my @tenants = map { tenant($_) } 1 .. 5;
my @more = map { tenant($_) } 6 .. 15;
my $seed = $ENV{RETENTION_SEED} || int(time) % 1_000_000;
my $primary = PostgreSQL::Test::Cluster->new('server_0');
my ($standby, $due);
my ($servers, $base, $promotions, $walks, $rows_before) = (0, 0, 0, 0, 0);
my ($log_size, @walked);

reliability("seed of the promotions: $seed (RETENTION_SEED)");
$primary->init(allows_streaming => 1);
# a dead primary's unwritten WAL is lost for good
$primary->append_conf('postgresql.conf',
	"autovacuum = off\nlog_statement = none\nwal_writer_delay = 10s\nshared_buffers = 32MB");
$primary->start;
srand($seed);
$primary->safe_psql('postgres', prepare_runs());

# A new standby, and rows of which 200, 400, ... 1000 go, ids from 1 on.  "walk": so that a
# run walks over the table, for ten tenants more, with as many rows, 300 each; mischief is
# then done after a row is deleted.
sub refill
{
	my ($name, %opt) = @_;
	my $when = $opt{walk} ? 'AFTER' : 'BEFORE';
	my @tables = $opt{walk} ? map { rows_of($more[$_], 320, newest => 50, first => 10_000 * ($_ + 5) + 1)
		  . policy($more[$_], 30, 20) } 0 .. $#more : ();

	note("---- $name");
	$standby = PostgreSQL::Test::Cluster->new('server_' . ++$servers);
	$primary->backup("for_$servers");
	$standby->init_from_backup($primary, "for_$servers", has_streaming => 1);
	$standby->start;
	$primary->safe_psql('postgres', 'TRUNCATE executions, execution_retention_policies;'
		  . "DROP TRIGGER mischief ON executions;
			 CREATE TRIGGER mischief $when DELETE ON executions FOR EACH ROW EXECUTE FUNCTION make_mischief();"
		  . join('', map {
				rows_of($tenants[$_], 200 * ($_ + 1) + 20, newest => 50, first => 10_000 * $_ + 1)
				  . policy($tenants[$_], 30, 20)
			} 0 .. $#tenants)
		  . join('', @tables));
	mischief($primary);
	remember($primary);
	@walked = ();
	$log_size = -s $primary->logfile;
	$due = $primary->safe_psql('postgres', 'SELECT count(*) FROM oracle WHERE goes');
	$base = $primary->safe_psql('postgres', 'SELECT COALESCE(max(id), 0) FROM retention.run_history');
	$primary->wait_for_catchup($standby);
	return;
}

# The primary dies under a run; its standby takes over.  Returns how many rows are gone there.
sub fail_over
{
	my ($name, $run, @sessions) = @_;

	$primary->stop('immediate');
	eval { $_->quit } foreach $run->{session}, @sessions;
	@walked = walks_of($primary, $run->{pid}, $log_size);
	$standby->promote;
	$primary = $standby;
	$promotions++;

	my ($is, $should, $gone) = split /\|/, $primary->safe_psql('postgres', truth_query($base, @walked));
	is($is, $should, "$name: on the new primary history claims the $gone rows that are gone there");
	return $gone;
}

# The next run on the new primary.
sub carry_on
{
	my ($name, $gone, $status) = @_;

	$walks++ if $status eq 'interrupted' && @walked;
	my $runs = "FROM retention.history WHERE id > $base";

	is($primary->safe_psql('postgres', "SELECT string_agg(status, ',') $runs"), $status,
		"$name: history shows it as $status");
	like($primary->safe_psql('postgres', 'SELECT message FROM retention.health()'),
		qr/The last run did not end well: interrupted/, "$name: so does health")
	  if $status eq 'interrupted';
	mischief($primary);
	run($primary, 'batch_size => 100', name => "$name: the next run");
	is(last_run($primary, 'status, rows_deleted'), 'succeeded|' . ($due - $gone),
		"$name: the next run does the rest");
	is(verdict($primary), '0|0', "$name: which is what the oracle says");
	is($primary->safe_psql('postgres', "
			SELECT string_agg(status || (finished_at >= started_at)::text, ',' ORDER BY id)
			FROM retention.run_history WHERE id > $base"),
		($status ne '' ? "${status}true," : '') . 'succeededtrue', "$name: and closes the one before");
	my ($is, $should) = split /\|/, $primary->safe_psql('postgres', truth_query($base, @walked));
	is($is, $should, "$name: all of it is in history");
	return;
}

# ---- The standby has all that was committed, and the batch that was under way.
{
	my $name = 'caught up';

	refill($name);
	mischief($primary, 40_350 => 'wait');
	my $holder = $primary->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($primary, 'batch_size => 100');
	wait_until_stopped($run, $name);
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$primary->wait_for_catchup($standby);
	my $committed = gone($primary);
	cmp_ok($committed, '>=', 300, "$name: some batches are committed");

	# the standby knows of the run, and not whether it goes on
	is($standby->safe_psql('postgres', 'SELECT status, rows_deleted FROM retention.progress JOIN retention.history ON run_id = id'
			=~ s/rows_deleted/history.rows_deleted/r), "running|$committed", "$name: the standby shows the run");
	psql_fails($standby, 'postgres', 'CALL retention.run();', '25006', "$name: no run on the standby");

	is(fail_over($name, $run, $holder), $committed, "$name: nothing is lost");
	carry_on($name, $committed, 'interrupted');
}

# ---- The standby was cut off while the run went on.
{
	my $name = 'cut off';

	refill($name);
	mischief($primary, 40_350 => 'wait', 40_750 => 'wait');
	my $holder = $primary->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($primary, 'batch_size => 100');
	wait_until_stopped($run, $name);
	# a run's commits do not wait for the disk; this brings them there
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$primary->wait_for_catchup($standby);
	my $known = $standby->safe_psql('postgres',
		"SELECT rows_deleted FROM retention.run_history WHERE id > $base");
	$standby->adjust_conf('postgresql.conf', 'primary_conninfo', "''");
	$standby->reload;
	wait_for($primary, 'postgres', 'SELECT count(*) = 0 FROM pg_stat_replication', "$name: it is");
	# on to the next row with mischief
	my $next = $primary->background_psql('postgres');
	$next->query_until(qr/waiting/, "\\echo waiting\nSELECT pg_advisory_lock(4711);\n");
	wait_for($primary, 'postgres', "SELECT count(*) = 2 FROM pg_locks WHERE objid = 4711 AND NOT granted",
		"$name: another session waits behind the run");
	release($holder);
	wait_for($primary, 'postgres', "SELECT rows_deleted >= $known + 400 FROM retention.run_history WHERE id > $base",
		"$name: the run goes on");

	my $gone = fail_over($name, $run, $holder, $next);
	is($gone, $known, "$name: the standby has what it had");
	carry_on($name, $gone, 'interrupted');
}

# ---- The primary dies while a run walks over the table, caught up with or not.
foreach my $caught_up (1, 0)
{
	my $name = 'in a walk' . ($caught_up ? '' : ', cut off');

	refill($name, walk => 1);
	# rows in the middle of the table, and one towards its end
	mischief($primary, 40_350 => 'wait', 100_150 => 'wait');
	my $holder = $primary->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($primary, 'batch_size => 100', before => 'SET log_min_messages = debug1');
	wait_until_stopped($run, $name);
	is(scalar(my @begun = walks_of($primary, $run->{pid}, $log_size)), 1, "$name: the run walks");
	$primary->safe_psql('postgres', 'SELECT pg_switch_wal()');
	$primary->wait_for_catchup($standby);
	my $known = gone($primary);
	cmp_ok($known, '>=', 1000, "$name: some batches are committed");
	my @others = $holder;
	if (!$caught_up)
	{
		$standby->adjust_conf('postgresql.conf', 'primary_conninfo', "''");
		$standby->reload;
		wait_for($primary, 'postgres', 'SELECT count(*) = 0 FROM pg_stat_replication', "$name: it is");
		# on to the next row with mischief
		push @others, $primary->background_psql('postgres');
		$others[1]->query_until(qr/waiting/, "\\echo waiting\nSELECT pg_advisory_lock(4711);\n");
		wait_for($primary, 'postgres', "SELECT count(*) = 2 FROM pg_locks WHERE objid = 4711 AND NOT granted",
			"$name: another session waits behind the run");
		release($holder);
		wait_for($primary, 'postgres', "SELECT rows_deleted >= $known + 400 FROM retention.run_history WHERE id > $base",
			"$name: the run goes on");
	}
	is(fail_over($name, $run, @others), $known, "$name: the standby has what it had");
	carry_on($name, $known, 'interrupted');
}

# ---- Who waits for the standby, and is told that the run has ended, finds it there.
{
	my $name = 'synchronous';

	refill($name);
	$primary->append_conf('postgresql.conf', "synchronous_standby_names = '*'");
	$primary->reload;
	wait_for($primary, 'postgres', q{SELECT sync_state = 'sync' FROM pg_stat_replication}, "$name: it is");
	run($primary, 'batch_size => 50', name => $name);
	$primary->stop('immediate');
	$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''");
	$standby->promote;
	$primary = $standby;
	$promotions++;
	my ($is, $should, $gone) = split /\|/, $primary->safe_psql('postgres', truth_query($base));
	is($is, $should, "$name: on the new primary history claims the $gone rows that are gone there");
	is($gone, $due, "$name: which are all that were due");
	carry_on($name, $gone, 'succeeded');
}

# ---- At random.
foreach my $i (1 .. 4)
{
	my $name = "at random, $i";

	refill($name, walk => $i % 2);
	my $run = start_run($primary, 'batch_size => ' . (5, 20, 100)[ int(rand(3)) ]
		  . ", pause_between_batches => '1 ms'",
		before => 'SET log_min_messages = debug1; SET synchronous_commit = ' . ('on', 'off')[ int(rand(2)) ]);
	sleep rand(0.2);
	my $gone = fail_over($name, $run);
	$rows_before += $gone;
	carry_on($name, $gone, $primary->safe_psql('postgres',
			"SELECT COALESCE(string_agg(status, ','), '') FROM retention.history WHERE id > $base"));
}

reliability("standbys promoted in the middle of a run or at its end: $promotions, in a walk over the table: $walks");
$primary->stop;
done_testing();
