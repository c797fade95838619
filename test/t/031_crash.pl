# 031_crash.pl - random faults over runs: kill -9 of the backend, of another process of
# the server and of the postmaster, an immediate and a fast stop, cancel and terminate, at
# random points of one run or of two.  After each fault no row is gone that should stay,
# and history claims exactly what is gone, run by run and tenant by tenant; a finishing
# run then leaves what the oracle says.
#
# RETENTION_FAULTS is the number of faults, RETENTION_SEED repeats the choices of a run of
# this test (not its timing).  A fault counts when a run did not end by itself before it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;
use Time::HiRes qw(sleep time);

my $wanted = $ENV{RETENTION_FAULTS} || 60;
my $seed = $ENV{RETENTION_SEED} || int(time) % 1_000_000;

# What commits do not flush themselves is to stay unflushed for long.
my $node = start_node('crash', 'restart_after_crash = on', 'wal_writer_delay = 10s',
	'shared_buffers = 32MB', 'max_connections = 20');
my @tenants = map { tenant($_) } 1 .. 12;

$node->safe_psql('postgres', prepare_runs());
note("reliability: seed of the faults: $seed (RETENTION_SEED)");
srand($seed);

# How often each kind of fault is dealt out in a round.
my %deck = (
	'cancel' => 3,
	'cancel twice' => 1,
	'terminate' => 3,
	'kill backend' => 4,
	'kill another process' => 1,
	'kill postmaster' => 3,
	'immediate stop' => 2,
	'restart' => 2,
	'kill postmaster at the answer' => 1);
my (@cards, %survived);

# The next kind of fault.
sub deal
{
	if (!@cards)
	{
		my @fresh = map { ($_) x $deck{$_} } sort keys %deck;
		push @cards, splice(@fresh, int(rand(@fresh)), 1) while @fresh;
	}
	return shift @cards;
}

sub one_of
{
	return $_[ int(rand(@_)) ];
}

# ---- A session that looks, made anew after each crash.
my $observer;

sub observe
{
	$observer = $node->background_psql('postgres');
	return;
}

sub stop_observing
{
	eval { $observer->quit };
	$observer = undef;
	return;
}

sub look
{
	my ($sql) = @_;

	return $observer->query_safe($sql);
}

# ---- Processes.
sub is_there
{
	my ($pid) = @_;

	return 0 unless kill(0, $pid);
	# nobody may have asked for the end of a process that was left an orphan
	return (eval { slurp_file("/proc/$pid/stat") } // '') !~ /\) Z /;
}

# Waits until none of the processes is there.  Returns how long that took.
sub wait_for_end
{
	my ($what, @pids) = @_;
	my $begin = time;
	my $end = $begin + $PostgreSQL::Test::Utils::timeout_default;

	while (grep { is_there($_) } @pids)
	{
		die "gave up waiting for the end of $what" if time > $end;
		sleep 0.005;
	}
	return time - $begin;
}

# Waits until the session is idle, or not there.
sub wait_for_idle
{
	my ($pid) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	until (look("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid AND state = 'active'") eq 't')
	{
		die "gave up waiting for the end of a run" if time > $end;
		sleep 0.005;
	}
	return;
}

# ---- Data: a few tenants of many sizes, among them rows of one instant at the minimum.
my ($base, $due);

sub refill
{
	my ($sql, $first) = ('', 1);

	foreach my $tenant (@tenants)
	{
		my $rows = int(20 * 10**rand(2));
		my $keep = one_of(0, 5, 20, 100);

		$sql .= rows_of($tenant, $rows, newest => one_of(0, 29, 30, 50), first => $first)
		  . policy($tenant, 30, $keep);
		$first += $rows;
		# rows of one instant
		$sql .= "INSERT INTO executions (id, tenant_id, started_at, created_at)
			SELECT $first + i, '$tenant', CASE WHEN i % 3 > 0 THEN t END, t
			FROM generate_series(0, 299) AS i,
				 (SELECT COALESCE(started_at, created_at) AS t FROM executions
				  WHERE tenant_id = '$tenant' ORDER BY 1 DESC OFFSET least($keep, $rows - 1) LIMIT 1) AS x;\n";
		$first += 300;
	}
	# half of the time with triggers, which make a batch another kind of statement
	$sql .= 'ALTER TABLE executions ' . one_of('ENABLE', 'DISABLE') . " TRIGGER ALL;\n";
	$node->safe_psql('postgres', "TRUNCATE executions, execution_retention_policies;\n$sql");
	$node->safe_psql('postgres', 'ALTER SYSTEM SET fsync = ' . one_of('on', 'off', 'off', 'off'));
	remember($node);
	$node->reload;
	$due = $node->safe_psql('postgres', 'SELECT count(*) FROM oracle WHERE goes');
	$base = $node->safe_psql('postgres', 'SELECT COALESCE(max(id), 0) FROM retention.run_history');
	return;
}

# ---- What has to be true whenever no run is under way.  Returns how many rows are gone.
my ($checked, $worst_end) = (0, 0);

sub check_truth
{
	my ($name) = @_;
	my ($is, $should, $gone) = split /\|/, look(truth_query($base));

	$checked++;
	is($is, $should, "$name: no row is gone that should stay, and history claims the $gone that are gone");
	return $gone;
}

# ---- One fault.
my $scale = 0.3;	# seconds that a run may take, roughly

# A run that goes on in the background, with random arguments.
sub random_run
{
	my @arguments = ('batch_size => ' . one_of(3, 10, 50, 200, 1000));

	push @arguments, one_of("pause_between_batches => '1 ms'", 'max_rows_per_second => 20000') if rand() < 0.3;
	my $commit = one_of('on', 'on', 'on', 'off');
	my $run = start_run($node, join(', ', @arguments), before => "SET synchronous_commit = $commit");
	$run->{async} = $commit eq 'off';
	return $run;
}

# What history says of a run.
sub status_of
{
	my ($run) = @_;

	return look("SELECT COALESCE((SELECT status FROM retention.run_history
		WHERE pid = $run->{pid} AND id > $run->{after}), 'unknown')");
}

# Has the run told its caller that it ended well?
sub has_answered
{
	my ($run) = @_;

	eval { $run->{session}->{run}->pump_nb };
	return $run->{session}->{stderr} =~ /NOTICE:  00000: (retention run succeeded|all tenants)/;
}

# Starts the server after its processes are gone.
sub start_again
{
	my ($postmaster, @pids) = @_;
	my $took = wait_for_end('the server', $postmaster, @pids);

	$worst_end = $took if $took > $worst_end;
	# a server takes a zombie for alive; there is no process of it left
	unlink $node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock'
	  if kill(0, $postmaster);
	$node->start;
	return;
}

# Waits until a server that is in crash recovery is back.
sub wait_for_server
{
	my (@pids) = @_;

	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	wait_for_end('a process', @pids);
	# psql may be gone before it has read what it is sent
	while (system('pg_isready', '-q', '-h', $node->host, '-p', $node->port) != 0)
	{
		die 'the server did not come back' if time > $end;
		sleep 0.02;
	}
	return;
}

sub fault
{
	my ($kind, $number) = @_;
	my $name = "$number: $kind";
	my $after = look('SELECT COALESCE(max(id), 0) FROM retention.run_history');
	my @runs = random_run();
	my $victim = $runs[0];

	push @runs, random_run() if rand() < 0.25;
	$_->{after} = $after foreach @runs;
	my @pids = split /\n/, look('SELECT pid FROM pg_stat_activity ORDER BY pid');
	my $other = one_of(split /\n/, look("SELECT pid FROM pg_stat_activity
		WHERE backend_type IN ('checkpointer', 'background writer', 'walwriter') ORDER BY pid"));
	my $postmaster = $node->{_pid};
	my $answered = 0;

	if ($kind eq 'kill postmaster at the answer')
	{
		my $end = time + $PostgreSQL::Test::Utils::timeout_default;
		until ($answered = has_answered($victim))
		{
			die 'gave up waiting for an answer' if time > $end;
			sleep 0.0005;
		}
	}
	else
	{
		sleep rand($scale);
		$answered = has_answered($victim);
	}

	if ($kind =~ /^cancel/)
	{
		look("SELECT pg_cancel_backend($victim->{pid})");
		if ($kind eq 'cancel twice')
		{
			sleep rand(0.002);
			look("SELECT pg_cancel_backend($victim->{pid})");
		}
		wait_for_idle($_->{pid}) foreach @runs;
	}
	elsif ($kind eq 'terminate')
	{
		look("SELECT pg_terminate_backend($victim->{pid})");
		wait_for_end('a backend', $victim->{pid});
		wait_for_idle($_->{pid}) foreach @runs;
	}
	elsif ($kind eq 'kill backend' || $kind eq 'kill another process')
	{
		my $pid = $kind eq 'kill backend' ? $victim->{pid} : $other;
		kill 'KILL', $pid;
		stop_observing();
		wait_for_server(map { $_->{pid} } @runs);
		observe();
	}
	elsif ($kind =~ /^kill postmaster/)
	{
		$node->kill9;
		stop_observing();
		start_again($postmaster, @pids);
		observe();
	}
	else
	{
		$node->stop($kind eq 'restart' ? 'fast' : 'immediate');
		stop_observing();
		start_again($postmaster, @pids);
		observe();
	}

	foreach my $run (@runs)
	{
		$run->{answered} = has_answered($run);
		eval { $run->{session}->quit };
	}
	my $gone = check_truth($name);

	# Those who were not hit themselves, and not with the server, have ended well.
	foreach my $run (@runs)
	{
		my $hit = $run == $victim || $kind !~ /^(cancel|terminate)/;
		my $status = status_of($run);
		my @possible =
			!$hit || $run->{answered} ? 'succeeded'
		  : $kind eq 'cancel' ? ('cancelled', 'succeeded', 'unknown')
		  : $kind eq 'cancel twice' ? ('cancelled', 'running', 'succeeded', 'unknown')
		  : ('running', 'succeeded', 'unknown');

		# what is on record as running another one may find dead, if it begins only now
		push @possible, 'interrupted' if @runs > 1 && grep { $_ eq 'running' } @possible;

		# whoever lets commits be lost may lose the record as well
		push @possible, 'running', 'unknown' if $run->{answered} && $run->{async};
		is((grep { $_ eq $status } @possible) ? '' : $status, '',
			"$name: history has the run as $status" . ($run->{answered} ? ', which the caller was told' : ''));
		$run->{status} = $status;
	}

	my $counts = $kind eq 'kill postmaster at the answer' || $victim->{status} =~ /^(running|cancelled|interrupted)$/;
	$survived{$kind}++ if $counts;
	$scale *= $counts ? 1.05 : 0.85;
	return ($counts, $gone);
}

# ---- The finishing run.
my $finished = 0;

sub finish
{
	my ($name) = @_;

	run($node, '', name => "$name: the finishing run");
	my $gone = check_truth("$name: the finishing run");
	is($gone, $due, "$name: all that was due is gone");
	is(verdict($node), '0|0', "$name: exactly the rows of the oracle are left");
	is(look(qq{
		SELECT (SELECT status FROM retention.run_history ORDER BY id DESC LIMIT 1),
			   (SELECT count(*) FROM retention.run_history
				WHERE status = 'running' OR finished_at IS NULL OR waiting_for IS NOT NULL OR current_tenant IS NOT NULL)}),
		'succeeded|0', "$name: and no run looks as if it went on");
	$finished++;
	return;
}

refill();
observe();
my ($faults, $attempts) = (0, 0);
while ($faults < $wanted && $attempts < 3 * $wanted + 20)
{
	my $kind = deal();
	my ($counts, $gone) = fault($kind, ++$attempts);

	unshift @cards, $kind unless $counts;
	$faults++ if $counts;
	if ($due - $gone < 500 || rand() < 0.2)
	{
		finish($attempts);
		refill();
	}
}
finish('the end');

is($faults, $wanted, "$wanted faults in the middle of a run, in $attempts attempts");
note(sprintf('reliability: faults survived: %d (%s)', $faults,
	join(', ', map { "$_ $survived{$_}" } sort keys %survived)));
note("reliability: checks of history and rows against the oracle: $checked, finishing runs: $finished");
note(sprintf('the longest that a process of a server outlived its postmaster: %.1f s', $worst_end));
stop_observing();
$node->stop;
done_testing();
