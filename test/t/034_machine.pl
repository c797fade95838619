# 034_machine.pl - the machine is in trouble: the postmaster is gone, no connection is
# left, sessions and transactions are timed, the clock jumps.  Each time there is a clear
# state, and nothing is lost.  (021 and 022 have locks and statement_timeout, 029 has full
# disks, 031 has crashes.)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;
use Time::HiRes 'usleep';

# ---- A clock that the test sets: what the server takes for the time of day is shifted
# ---- by what stands in a file.  Needs a compiler.
my $clock_file = PostgreSQL::Test::Utils::tempdir() . '/clock';
my $library = "$clock_file.so";
my ($faults, $jumps) = (0, 0);

sub set_clock
{
	my ($seconds) = @_;

	open my $file, '+<', $clock_file or die "$clock_file: $!";
	binmode $file;
	syswrite $file, pack('q', $seconds) or die "$clock_file: $!";
	close $file;
	$jumps++ if $seconds != 0;
	return;
}

sub make_clock
{
	my ($compiler) = (`pg_config --cc` || "cc") =~ /^(\S+)/;

	append_to_file($clock_file, pack('q', 0));
	append_to_file("$clock_file.c", <<'END');
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile int64_t *shift;

__attribute__((constructor)) static void
open_clock(void)
{
	int			fd = open(getenv("TEST_CLOCK"), O_RDONLY);

	if (fd >= 0)
		shift = mmap(NULL, sizeof(*shift), PROT_READ, MAP_SHARED, fd, 0);
}

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec + (shift && shift != MAP_FAILED ? *shift : 0);
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}
END
	return system("$compiler -shared -fPIC -O1 -o '$library' '$clock_file.c' >/dev/null 2>&1") == 0;
}

my $have_clock = make_clock();
my $node = PostgreSQL::Test::Cluster->new('machine');
$node->init;
$node->append_conf('postgresql.conf',
	join("\n", 'autovacuum = off', 'log_statement = none', 'max_connections = 12', 'superuser_reserved_connections = 2'));
{
	local $ENV{LD_PRELOAD} = $library if $have_clock;
	local $ENV{TEST_CLOCK} = $clock_file;
	$node->start;
}
$node->safe_psql('postgres', prepare_runs());

my $tenant = tenant(1);
my $other = tenant(2);
my $base;

# Two tenants of which "rows" and 200 rows go, ids from 1 and from 100001 on; both keep 20.
sub refill
{
	my ($name, $rows, %stop) = @_;

	note("---- $name");
	$faults++;
	$node->safe_psql('postgres', 'TRUNCATE executions, execution_retention_policies;'
		  . rows_of($tenant, $rows + 20, newest => 50) . policy($tenant, 30, 20)
		  . rows_of($other, 220, newest => 50, first => 100_001) . policy($other, 30, 20));
	mischief($node, %stop);
	remember($node);
	$base = $node->safe_psql('postgres', 'SELECT COALESCE(max(id), 0) FROM retention.run_history');
	return;
}

sub truth
{
	my ($name) = @_;
	my ($is, $should, $gone) = split /\|/, $node->safe_psql('postgres', truth_query($base));

	is($is, $should, "$name: no row is gone that should stay, and history claims the $gone that are gone");
	return $gone;
}

# All of it is done, by runs with these statuses.
sub done
{
	my ($name, $statuses) = @_;

	truth($name);
	is(verdict($node), '0|0', "$name: all that is due is gone");
	is($node->safe_psql('postgres', "SELECT string_agg(status, ',' ORDER BY id)
			FROM retention.run_history WHERE id > $base"), $statuses, "$name: history has it as $statuses");
	is($node->safe_psql('postgres', "SELECT count(*) FROM retention.run_history
			WHERE finished_at IS NULL OR finished_at < started_at OR waited_ms < 0 OR waiting_for IS NOT NULL"), '0',
		"$name: with times that make sense");
	return;
}

# ---- No connection is left: a run needs none but its own.
{
	my $name = 'no connection left';
	my @sessions;

	refill($name, 1000, 250 => 'wait');
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, 'batch_size => 100');
	wait_until_stopped($run, $name);
	# who looked last may not be gone yet
	for (my $i = 0; @sessions < 10 && $i < 500; $i++)
	{
		my $session = eval { $node->background_psql('postgres') };

		push @sessions, $session if $session;
		usleep(100_000) if !$session;
	}
	is(scalar(@sessions), 10, "$name: the sessions are taken");
	my ($rc, $out, $err) = $node->psql('postgres', 'CALL retention.run()');
	is($rc, 2, "$name: no run can begin");
	like($err, qr/FATAL:  (sorry, too many clients already|remaining connection slots)/, "$name: and says why");
	release($holder);
	until ($holder->query_safe(over_query($run)) eq 't') { }
	unlike(finish_run($run), qr/WARNING|ERROR/, "$name: the run that was under way does not care");
	$_->quit foreach @sessions;
	# those who have gone may still take a connection each
	until ($holder->query_safe(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'}) eq '1')
	{
		usleep(100_000);
	}
	$holder->quit;
	done($name, 'succeeded');
}

# ---- Sessions that are idle are ended; a run is not idle, and leaves none behind.
{
	my $name = 'idle sessions';

	refill($name, 500);
	my $run = start_run($node, "batch_size => 100, pause_between_batches => '0.3 s'",
		before => "SET idle_in_transaction_session_timeout = '50ms'");
	wait_until_over($run, $name);
	unlike(finish_run($run), qr/WARNING|ERROR|FATAL/, "$name: not the run's");
	done($name, 'succeeded');

	# a call by hand in a transaction that is forgotten
	refill("$name, by hand", 500);
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe("BEGIN; SELECT deleted_count FROM cleanup_old_executions('$tenant');
		SET idle_in_transaction_session_timeout = '1s'");
	run($node, '', name => "$name, by hand");
	like(last_run($node, 'status, tenants_busy, rows_deleted'), qr/^succeeded\|(1\|200|0\|700)$/,
		"$name, by hand: a run leaves the tenant to it");
	wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid",
		"$name, by hand: the session is ended");
	eval { $session->quit };
	truth("$name, by hand");
	run($node, '', name => "$name, by hand: the next run");
	done("$name, by hand", 'succeeded,succeeded');
}

# ---- transaction_timeout: each batch has its own, and so has each rest.
SKIP:
{
	my $name = 'transaction_timeout';

	skip 'transaction_timeout came with PostgreSQL 17', 1
	  if $node->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'}) eq '0';
	refill($name, 500);
	my $run = start_run($node, "batch_size => 400, pause_between_batches => '45 s'",
		before => "SET transaction_timeout = '20s'");
	wait_until_over($run, $name);
	unlike(finish_run($run), qr/WARNING|ERROR|FATAL/, "$name: rests longer than that do not matter");
	done($name, 'succeeded');

	refill("$name, slow", 500);
	$run = start_run($node, 'batch_size => 50, max_rows_per_second => 20', before => "SET transaction_timeout = '20s'");
	wait_until_over($run, "$name, slow");
	unlike(finish_run($run), qr/WARNING|ERROR|FATAL/, "$name, slow: nor does the whole run");
	done("$name, slow", 'succeeded');

	# a batch that takes longer
	refill("$name, a long batch", 500, 250 => '600');
	$run = start_run($node, 'batch_size => 100', before => "SET transaction_timeout = '10s'");
	wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $run->{pid}",
		"$name, a long batch: ends the session");
	eval { $run->{session}->quit };
	truth("$name, a long batch");
	is($node->safe_psql('postgres', "SELECT status FROM retention.history WHERE id > $base"), 'interrupted',
		"$name, a long batch: seen as interrupted");
	mischief($node);
	run($node, '', name => "$name, a long batch: the next run");
	done("$name, a long batch", 'interrupted,succeeded');
}

# ---- The clock.
SKIP:
{
	skip 'no compiler to make a clock with', 1 unless $have_clock;
	my $hour = 3600;
	my %change = (
		'the clock goes back an hour' => -$hour,
		'the clock goes back a year' => -365 * 24 * $hour,
		'the clock goes on by an hour' => $hour);

	set_clock(-100 * $hour);
	is($node->safe_psql('postgres', "SELECT extract(epoch FROM clock_timestamp()) < " . (time - 99 * $hour)), 't',
		'the clock can be set');
	set_clock(0);

	foreach my $change (sort keys %change)
	{
		# while it rests, in one way or another
		foreach my $arguments ("pause_between_batches => '0.2 s'", 'max_rows_per_second => 500')
		{
			my $name = "$change, " . ($arguments =~ /^(\w+)/)[0];

			refill($name, 500);
			my $run = start_run($node, "batch_size => 100, $arguments", before => "SET retention.lock_timeout = '1s'");
			wait_for($node, 'postgres', "SELECT rows_deleted > 0 FROM retention.run_history WHERE id > $base",
				"$name: the run is under way");
			set_clock($change{$change});
			wait_until_over($run, $name);
			unlike(finish_run($run), qr/WARNING|ERROR|FATAL|after -/, "$name: the run goes on");
			done($name, 'succeeded');
			like($node->safe_psql('postgres', 'SELECT severity, message FROM retention.health()'),
				qr/^(ok|warning)\|(All is well|The clock|No run has started lately)/, "$name: health can be told");
			set_clock(0);
		}

		# its time
		my $name = "$change, max_runtime";
		refill($name, 500, 250 => 'wait');
		my $holder = $node->background_psql('postgres');
		$holder->query_safe('SELECT pg_advisory_lock(4711)');
		my $run = start_run($node, "batch_size => 100, max_runtime => '30 min'");
		wait_until_stopped($run, $name);
		set_clock($change{$change});
		release($holder);
		wait_until_over($run, $name);
		unlike(finish_run($run), qr/WARNING|ERROR|FATAL/, "$name: it has what it was given");
		$holder->quit;
		done($name, 'succeeded');
		set_clock(0);

		# rows that others hold: it changes while the run comes back to them
		$name = "$change, held rows";
		refill($name, 500, 150 => 'wait', 450 => 'wait');
		$holder = $node->background_psql('postgres');
		my ($app, $other_app, $next) = map { $node->background_psql('postgres') } 1 .. 3;
		$holder->query_safe('SELECT pg_advisory_lock(4711)');
		$app->query_safe('BEGIN; SELECT id FROM executions WHERE id IN (10, 250) FOR UPDATE');
		$other_app->query_safe('BEGIN; SELECT id FROM executions WHERE id = 150 FOR UPDATE');
		$run = start_run($node, 'batch_size => 100', before => "SET retention.lock_timeout = '1s'");
		wait_until_stopped($run, $name);
		$other_app->query_safe('ROLLBACK');
		$next->query_until(qr/waiting/, "\\echo waiting\nSELECT pg_advisory_lock(4711);\n");
		wait_for($node, 'postgres', 'SELECT count(*) = 2 FROM pg_locks WHERE objid = 4711 AND NOT granted',
			"$name: another session waits behind the run");
		release($holder);
		wait_for($node, 'postgres', "
			SELECT count(*) = 1 FROM executions WHERE id IN (150, 449) AND EXISTS (
				SELECT FROM pg_locks WHERE pid = $run->{pid} AND objid = 4711 AND NOT granted)",
			"$name: the run stands at a row that it came back to");
		set_clock($change{$change});
		$next->query_safe('SELECT pg_advisory_unlock(4711)');
		wait_until_over($run, $name);
		unlike(finish_run($run), qr/WARNING|ERROR|FATAL/, "$name: it does not wait for long");
		$app->query_safe('ROLLBACK');
		$_->quit foreach $app, $other_app, $next, $holder;
		is(last_run($node, 'rows_skipped_locked'), '2', "$name: they are counted");
		set_clock(0);
		run($node, '', name => "$name: the next run");
		done($name, 'succeeded,succeeded');
	}

	# A run, policies and rows from a future that did not come.
	my $name = 'a future that did not come';
	$node->safe_psql('postgres', 'TRUNCATE retention.run_history CASCADE');
	set_clock(1000 * $hour);
	refill($name, 500);
	$node->safe_psql('postgres', "SELECT retention.set_policy('$tenant', 31)");
	run($node, "tenant => '$other'", name => "$name: a run");
	run($node, "batch_size => 100, max_runtime => '0.001 s'", name => "$name: another run");
	my $victim = start_run($node, "batch_size => 100, pause_between_batches => '1 h'");
	wait_for($node, 'postgres', "SELECT waiting_for IS NOT NULL FROM retention.run_history ORDER BY id DESC LIMIT 1",
		"$name: one that rests");
	$node->safe_psql('postgres', "INSERT INTO executions SELECT 200000 + i, '$tenant', now(), now() FROM generate_series(1, 30) i");
	set_clock(0);
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($victim->{pid})");
	wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $victim->{pid}",
		"$name: which is ended");
	eval { $victim->{session}->quit };
	like($node->safe_psql('postgres', 'SELECT severity, message FROM retention.health()'),
		qr/^warning\|.*The clock has gone back: 2 runs/, "$name: health says so");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.status WHERE severity IS NULL OR message IS NULL'), '0',
		"$name: status has an answer");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.check() WHERE severity IS NULL OR finding IS NULL'), '0',
		"$name: check, too");
	# rows from the future are young
	$node->safe_psql('postgres', rows_of($tenant, 300, newest => 60, first => 300_001));
	remember($node);
	my $goes = $node->safe_psql('postgres', 'SELECT count(*) FROM oracle WHERE goes');
	run($node, '', name => "$name: the next run");
	is(last_run($node, 'status, rows_deleted'), "succeeded|$goes", "$name: the next run does the rest");
	is(verdict($node), '0|0', "$name: which is what the oracle says");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_history WHERE finished_at < started_at OR finished_at IS NULL'),
		'0', "$name: no run ended before it began");
}

# ---- The postmaster is killed while a run is busy: the run does not outlive it by more
# ---- than a batch.
{
	my $name = 'the postmaster is gone';
	my $postmaster = $node->{_pid};

	# twenty milliseconds of work a row, without ever waiting for anything: 400 s
	$node->safe_psql('postgres', q{
		CREATE FUNCTION be_busy() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE
			began timestamptz := clock_timestamp();
		BEGIN
			WHILE clock_timestamp() < began + interval '20 ms' LOOP END LOOP;
			RETURN OLD;
		END $$;
		CREATE TRIGGER busy BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION be_busy()});
	refill($name, 20_000);
	my $run = start_run($node, 'batch_size => 10');
	wait_for($node, 'postgres', "SELECT rows_deleted > 0 FROM retention.run_history WHERE id > $base",
		"$name: the run is under way");
	my @pids = split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity');
	$node->kill9;
	foreach my $pid ($postmaster, @pids)
	{
		until (!kill(0, $pid) || (eval { slurp_file("/proc/$pid/stat") } // '') =~ /\) Z /)
		{
			select(undef, undef, undef, 0.01);
		}
	}
	eval { $run->{session}->quit };
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock';
	$node->start;
	cmp_ok(truth($name), '<', 20_000, "$name: so is the run, before its work is done");
	$node->safe_psql('postgres', 'DROP TRIGGER busy ON executions');
	run($node, '', name => "$name: the next run");
	done($name, 'interrupted,succeeded');
}

reliability("faults of the machine survived: $faults (jumps of the clock $jumps)");
$node->stop;
done_testing();
