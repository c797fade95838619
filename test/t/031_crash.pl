# 031_crash.pl - random faults over runs: kill -9 of the backend, of another process of
# the server and of the postmaster, an immediate and a fast stop, cancel and terminate, at
# random points of one run or of two.  After each fault no row is gone that should stay,
# and history claims exactly what is gone, run by run and tenant by tenant; a finishing
# run then leaves what the oracle says.
#
# Between them the table is made anew, and so that the runs go on by another way: by a walk
# over it, by groups of tenants, tenant by tenant, with RETURNING or without.  Each way
# gets its share of the faults.
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

$node->safe_psql('postgres', prepare_runs());
reliability("seed of the faults: $seed (RETENTION_SEED)");
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
	$observer->set_query_timer_restart();
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

# ---- Data.
my ($base, $due, $kind, @walked);

# The kinds of data: what share of the faults each is to get, and batch sizes for which it is
# made.  Beside "walk" and "groups" each tenant is done by itself: "plain" by a DELETE that
# returns nothing, and the others by one that does, for triggers and partitions may keep rows.
my %data = (
	'walk' => { share => 3, sizes => [ 3, 10, 50, 200, 1000 ] },
	'groups' => { share => 2, sizes => [ 20, 50, 200, 1000 ] },
	'plain' => { share => 1, sizes => [ 3, 10, 50, 200 ] },
	'trigger' => { share => 2, sizes => [ 3, 10, 50, 200, 1000 ] },
	'partitions' => { share => 1, sizes => [ 3, 10, 50, 200, 1000 ] });

# how many faults there were in each, where one of "walk" counts only within a walk; and
# how long a run may take until the fault, in seconds, roughly
my %hits = map { $_ => 0 } keys %data;
my %scale = map { $_ => $_ eq 'groups' ? 0.1 : 0.3 } keys %data;

# An empty table of that kind.
sub table_of
{
	my ($partitioned, $trigger, $fillfactor) = @_;
	my $options = $partitioned ? 'PARTITION BY HASH (id)' : "WITH (fillfactor = $fillfactor)";

	return 'DROP TABLE IF EXISTS executions; TRUNCATE execution_retention_policies;'
	  . executions_table(extra => $options)
	  . 'ALTER TABLE executions ADD PRIMARY KEY (id), ADD filler text;
		ALTER TABLE executions ALTER filler SET STORAGE PLAIN;
		SELECT retention.attach();
		CREATE TRIGGER write_down AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION write_down();'
	  . join('', map { "CREATE TABLE part_$_ PARTITION OF executions FOR VALUES WITH (MODULUS 3, REMAINDER $_);" }
		  $partitioned ? (0 .. 2) : ())
	  . ($trigger ? 'CREATE TRIGGER mischief BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION make_mischief();' : '');
}

# Tenants whose rows lie side by side, most of them due.  Each sixth one has rows of one
# instant, which are no matter for a walk.
sub walk_rows
{
	my $tenants = 12 + int(rand(49));
	my $rows = 100 + int(rand(200));

	return "INSERT INTO executions (id, tenant_id, started_at, created_at)
		SELECT row_number() OVER (ORDER BY n, k), ('00000000-0000-4000-8000-' || lpad(k::text, 12, '0'))::uuid,
			   CASE WHEN (n + k) % 7 > 0 THEN t END, t
		FROM generate_series(1, $tenants) AS k, generate_series(1, $rows + k) AS n,
			 LATERAL (SELECT now() - interval '30 minutes' - k % 3 * interval '240 hours'
						 - interval '12 hours' * CASE WHEN k % 6 = 0 THEN n / 10 * 10 ELSE n END AS t) AS x
		ORDER BY n, k;\n"
	  . join('', map { policy(tenant($_), 30, one_of(0, 5, 20, 50)) } 1 .. $tenants);
}

# Many tenants with a few rows that are due, in a table that is large for so few of them.
sub group_rows
{
	my $tenants = 400;

	return "INSERT INTO executions (id, tenant_id, started_at, created_at, filler)
		SELECT row_number() OVER (ORDER BY n, k), ('00000000-0000-4000-8000-' || lpad(k::text, 12, '0'))::uuid,
			   CASE WHEN (n + k) % 7 > 0 THEN t END, t, CASE WHEN n <= 4 THEN repeat('.', 7000) END
		FROM generate_series(1, $tenants) AS k, generate_series(1, 5 + k % 12) AS n,
			 LATERAL (SELECT now() - interval '30 minutes' - n * interval '1 hour'
						 - CASE WHEN n > 4 THEN interval '960 hours' ELSE '0' END AS t) AS x
		ORDER BY n, k;\n"
	  . join('', map { policy(tenant($_), 30, one_of(0, 2, 4)) } 1 .. $tenants);
}

# A few tenants of many sizes, among them rows of one instant at the minimum.
sub tenant_rows
{
	my ($tenants) = @_;
	my ($sql, $first) = ('', 1);

	foreach my $tenant (map { tenant($_) } 1 .. $tenants)
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
	return $sql;
}

# Data of the kind that has least of its share.
sub refill
{
	my %rank = map { $_ => $hits{$_} / $data{$_}{share} + rand(0.01) } sort keys %data;

	($kind) = sort { $rank{$a} <=> $rank{$b} } keys %data;
	# with few rows a block, a walk has parts that several runs can share
	my $sql = table_of($kind eq 'partitions', $kind eq 'trigger', $kind eq 'walk' ? one_of(10, 100) : 100)
	  # fewer than ten tenants are not walked for
	  . ($kind eq 'walk' ? walk_rows() : $kind eq 'groups' ? group_rows() : tenant_rows($kind eq 'plain' ? 9 : 12))
	  # a disabled trigger counts, too
	  . 'ALTER TABLE executions ' . one_of('ENABLE', 'DISABLE') . " TRIGGER ALL;\n";
	$node->safe_psql('postgres', "BEGIN; $sql COMMIT");
	$node->safe_psql('postgres', 'ALTER SYSTEM SET fsync = ' . one_of('on', 'off', 'off', 'off'));
	remember($node);
	$node->reload;
	@walked = ();
	$due = $node->safe_psql('postgres', 'SELECT count(*) FROM oracle WHERE goes');
	$base = $node->safe_psql('postgres', 'SELECT COALESCE(max(id), 0) FROM retention.run_history');
	return;
}

# ---- What has to be true whenever no run is under way.  Returns how many rows are gone.
my ($checked, $worst_end) = (0, 0);

sub check_truth
{
	my ($name) = @_;
	my ($is, $should, $gone) = split /\|/, look(truth_query($base, @walked));

	$checked++;
	is($is, $should, "$name: no row is gone that should stay, and history claims the $gone that are gone");
	return $gone;
}

# ---- One fault.
# A run that goes on in the background, with random arguments.
sub random_run
{
	my @arguments = ('batch_size => ' . one_of(@{ $data{$kind}{sizes} }));

	push @arguments, one_of("pause_between_batches => '1 ms'", 'max_rows_per_second => 20000') if rand() < 0.3;
	my $commit = one_of('on', 'on', 'on', 'off');
	my $run = start_run($node, join(', ', @arguments), before => "SET synchronous_commit = $commit; SET log_min_messages = debug1");
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
	my ($what, $number) = @_;
	my $name = "$number: $kind: $what";
	my $log = -s $node->logfile;
	my $after = look('SELECT COALESCE(max(id), 0) FROM retention.run_history');
	my @pids = split /\n/, look('SELECT pid FROM pg_stat_activity ORDER BY pid');
	my $other = one_of(split /\n/, look("SELECT pid FROM pg_stat_activity
		WHERE backend_type IN ('checkpointer', 'background writer', 'walwriter') ORDER BY pid"));
	my $postmaster = $node->{_pid};
	# last: what is asked from here on is asked while it runs
	my @runs = random_run();
	my $victim = $runs[0];

	push @runs, random_run() if rand() < 0.25;
	$_->{after} = $after foreach @runs;
	push @pids, map { $_->{pid} } @runs;
	my $answered = 0;

	if ($what eq 'kill postmaster at the answer')
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
		# mostly from when the walk has begun
		if ($kind eq 'walk' && rand() < 0.8)
		{
			my $end = time + $PostgreSQL::Test::Utils::timeout_default;
			until (walks_of($node, $victim->{pid}, $log) || has_answered($victim))
			{
				die 'gave up waiting for a walk' if time > $end;
				sleep 0.001;
			}
		}
		sleep rand($scale{$kind});
		$answered = has_answered($victim);
	}

	if ($what =~ /^cancel/)
	{
		look("SELECT pg_cancel_backend($victim->{pid})");
		if ($what eq 'cancel twice')
		{
			sleep rand(0.002);
			look("SELECT pg_cancel_backend($victim->{pid})");
		}
		wait_for_idle($_->{pid}) foreach @runs;
	}
	elsif ($what eq 'terminate')
	{
		look("SELECT pg_terminate_backend($victim->{pid})");
		wait_for_end('a backend', $victim->{pid});
		wait_for_idle($_->{pid}) foreach @runs;
	}
	elsif ($what eq 'kill backend' || $what eq 'kill another process')
	{
		my $pid = $what eq 'kill backend' ? $victim->{pid} : $other;
		kill 'KILL', $pid;
		stop_observing();
		wait_for_server(map { $_->{pid} } @runs);
		observe();
	}
	elsif ($what =~ /^kill postmaster/)
	{
		$node->kill9;
		stop_observing();
		start_again($postmaster, @pids);
		observe();
	}
	else
	{
		$node->stop($what eq 'restart' ? 'fast' : 'immediate');
		stop_observing();
		start_again($postmaster, @pids);
		observe();
	}

	foreach my $run (@runs)
	{
		$run->{answered} = has_answered($run);
		eval { $run->{session}->quit };
	}
	foreach my $run (@runs)
	{
		$run->{status} = status_of($run);
		$run->{walks} = [ walks_of($node, $run->{pid}, $log) ];
		push @walked, @{ $run->{walks} } if $run->{status} =~ /^(running|interrupted)$/;
	}
	my $gone = check_truth($name);

	# Those who were not hit themselves, and not with the server, have ended well.
	foreach my $run (@runs)
	{
		my $hit = $run == $victim || $what !~ /^(cancel|terminate)/;
		my $status = $run->{status};
		my @possible =
			!$hit || $run->{answered} ? 'succeeded'
		  : $what eq 'cancel' ? ('cancelled', 'succeeded', 'unknown')
		  : $what eq 'cancel twice' ? ('cancelled', 'running', 'succeeded', 'unknown')
		  : ('running', 'succeeded', 'unknown');

		# what is on record as running another one may find dead, if it begins only now
		push @possible, 'interrupted' if @runs > 1 && grep { $_ eq 'running' } @possible;

		# whoever lets commits be lost may lose the record as well
		push @possible, 'running', 'unknown' if $run->{answered} && $run->{async};
		is((grep { $_ eq $status } @possible) ? '' : $status, '',
			"$name: history has the run as $status" . ($run->{answered} ? ', which the caller was told' : ''));
	}

	my $counts = $what eq 'kill postmaster at the answer' || $victim->{status} =~ /^(running|cancelled|interrupted)$/;
	$survived{$what}++ if $counts;
	$hits{$kind}++
	  if $counts && $what ne 'kill postmaster at the answer' && ($kind ne 'walk' || @{ $victim->{walks} });
	$scale{$kind} *= $answered && !$counts ? 0.85 : 1.05;
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
my $since_refill = 0;
while ($faults < $wanted && $attempts < 3 * $wanted + 20)
{
	my $what = deal();
	my ($counts, $gone) = fault($what, ++$attempts);

	unshift @cards, $what unless $counts;
	$faults++ if $counts;
	$since_refill++ if $counts;
	# often enough for each kind of data to come
	if ($due - $gone < 500 || rand() < 0.2 || $since_refill > $wanted / 20)
	{
		finish($attempts);
		refill();
		$since_refill = 0;
	}
}
finish('the end');

is($faults, $wanted, "$wanted faults in the middle of a run, in $attempts attempts");
my $returning = $hits{trigger} + $hits{partitions};
my $alone = $returning + $hits{plain};
cmp_ok($hits{walk}, '>=', int($wanted / 10), "$hits{walk} of them after a walk had begun");
cmp_ok($hits{groups}, '>=', int($wanted / 20), "$hits{groups} where groups of tenants are cleaned");
cmp_ok($hits{plain}, '>=', int($wanted / 20), "$hits{plain} where tenants are cleaned one by one");
cmp_ok($returning, '>=', int($wanted / 20), "$returning where that is done with RETURNING");
reliability(sprintf('faults survived: %d (%s)', $faults, join(', ', map { "$_ $survived{$_}" } sort keys %survived)));
reliability("faults in a walk: $hits{walk}, in groups of tenants: $hits{groups}, in batches of one tenant: $alone"
	  . " (with a trigger that may keep rows $hits{trigger}, on a partitioned table $hits{partitions})");
reliability("checks of history and rows against the oracle: $checked, finishing runs: $finished");
note(sprintf('the longest that a process of a server outlived its postmaster: %.1f s', $worst_end));
stop_observing();
$node->stop;
done_testing();
