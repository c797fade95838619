# 022_faults.pl - whatever ends a run, or changes under it: no row goes that should stay,
# history tells the truth, no lock is left, and the next run finishes.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('faults', 'restart_after_crash = on');
my $big = tenant(1);
my @small = map { tenant(10 + $_) } 1 .. 4;
my $holder;

$node->safe_psql('postgres', prepare_runs());

# Four small tenants with 30 due rows each, ids from 10001 on, which share a transaction,
# and after them one with 1000 due rows, ids from 1 on, in batches of 100; all keep 20
# more rows.  A session holds the lock at which the run is to stop.
sub refill
{
	my ($name, %stop) = @_;

	note("---- $name");
	$node->safe_psql('postgres', 'TRUNCATE executions, execution_retention_policies;'
		  . join('', map {
				rows_of($small[$_], 50, newest => 90, first => 10_001 + 1000 * $_)
				  . policy($small[$_], 30, 20)
			} 0 .. $#small)
		  . rows_of($big, 1020, newest => 30) . policy($big, 30, 20)
		  . 'UPDATE execution_retention_policies SET updated_at = updated_at');
	mischief($node, %stop);
	remember($node);
	$holder = $node->background_psql('postgres', on_error_stop => 0);
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	return;
}

# After the end of a run that was not to be: the rows that are gone, and no others, are
# in history, which has the run with this status; then the next run finishes.
sub aftermath
{
	my ($name, $status, %opt) = @_;
	my $gone = gone($node);

	is((split /\|/, verdict($node))[1], '0', "$name: no row is gone that should stay");
	is($gone, $opt{gone}, "$name: rows are gone as far as they were committed")
	  if defined $opt{gone};
	is($node->safe_psql('postgres', 'SELECT count(*) FROM gone'), $gone,
		"$name: nothing is half done");
	is(last_run($node, 'status, rows_deleted'), "$status|$gone",
		"$name: history has it as $status, with the rows that are gone");
	is($node->safe_psql('postgres', '
			SELECT COALESCE(sum(rows_deleted), 0) FROM retention.run_tenant
			WHERE run_id = (SELECT max(id) FROM retention.run_history)'), $gone,
		"$name: and so have its tenants");
	is(last_run($node, 'retention.run_is_alive(id)'), 'f', "$name: the run is not alive");
	is(last_run($node, 'waiting_for IS NULL AND current_tenant IS NULL AND finished_at >= started_at'), 't',
		"$name: nor does it look so") if $status ne 'running';
	no_locks_left($node, $name);

	mischief($node);
	run($node, '', name => "$name: the next run");
	is(last_run($node, 'status, rows_deleted'),
		'succeeded|' . $node->safe_psql('postgres', "SELECT count(*) - $gone FROM oracle WHERE goes"),
		"$name: the next run does the rest");
	is(verdict($node), '0|0', "$name: which is what the oracle says");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM retention.run_history
			WHERE status = 'running' OR finished_at IS NULL}), '0',
		"$name: no run is left running");
	is($node->safe_psql('postgres', q{
			SELECT status, finished_at >= started_at FROM retention.run_history
			ORDER BY id DESC OFFSET 1 LIMIT 1}),
		($status eq 'running' ? 'interrupted' : $status) . '|t', "$name: the one before is closed");
	no_locks_left($node, "$name: the next run");
	return;
}

# ---- Cancelled in the third batch of the large tenant.
{
	refill('cancel', 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100');

	wait_until_stopped($run, 'cancel');
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})"), 't', 'cancel: sent');
	wait_until_over($run, 'cancel');
	is(last_run($node, 'status, stop_reason, message'),
		'cancelled|cancelled|canceling statement due to user request', 'cancel: on record');
	# the session is still there: it must not keep a lock
	no_locks_left($node, 'cancel: with the session alive');
	is($run->{session}->query('SELECT current_setting($$lock_timeout$$), current_setting($$row_security$$),
			current_setting($$search_path$$), current_user = session_user'),
		'0|on|"$user", public|t', 'cancel: its settings are as before');
	like($run->{session}->{stderr}, qr/ERROR:  57014: canceling statement due to user request/,
		'cancel: the caller is told');
	$run->{session}->{stderr} = '';
	$holder->quit;
	aftermath('cancel', 'cancelled', gone => 4 * 30 + 200);

	# the session can go on with it
	$node->safe_psql('postgres', rows_of($big, 40, newest => 90, first => 20_001));
	remember($node);
	$run->{session}->query('CALL retention.run()');
	unlike(finish_run($run), qr/ERROR|WARNING/, 'cancel: another run in the same session');
	is(verdict($node), '0|0', 'cancel: another run in the same session deletes');
}

# ---- Cancelled with others' rows in the same transaction, which go back, too.
{
	my $run;
	for my $attempt (1 .. 5)
	{
		refill('cancel among small tenants', 13_005 => 'wait');
		$run = start_run($node, 'batch_size => 100');
		wait_until_stopped($run, 'cancel among small tenants');
		last if gone($node) eq '0';
		die 'the transaction took a second, again and again' if $attempt == 5;
		# and so was committed before
		release($holder);
		finish_run($run);
		$holder->quit;
	}
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
	wait_until_over($run, 'cancel among small tenants');
	finish_run($run);
	$holder->quit;
	is(last_run($node, 'tenants, batches'), '0|0',
		'cancel among small tenants: what was undone does not count');
	aftermath('cancel among small tenants', 'cancelled', gone => 0);
}

# ---- Cancelled again while it records that it was cancelled.
{
	refill('cancelled twice', 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100');
	my $blocker = $node->background_psql('postgres');

	hold_history($node, 4712, q{BEFORE UPDATE ON retention.run_history FOR EACH ROW WHEN (NEW.status = 'cancelled')});
	$blocker->query_safe('SELECT pg_advisory_lock(4712)');
	wait_until_stopped($run, 'cancelled twice');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
	wait_for($node, 'postgres', "
		SELECT count(*) = 1 FROM pg_locks WHERE pid = $run->{pid} AND NOT granted AND locktype = 'advisory' AND objid = 4712",
		'cancelled twice: it wants to record the first');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
	wait_until_over($run, 'cancelled twice');
	$blocker->quit;
	unhold_history($node);
	no_locks_left($node, 'cancelled twice: with the session alive');
	is(last_run($node, 'retention.run_is_alive(id)'), 'f',
		'cancelled twice: the run is not alive with the session alive');
	like(finish_run($run), qr/ERROR:  57014: canceling statement due to user request/,
		'cancelled twice: the caller is told');
	$holder->quit;
	my $status = last_run($node, 'status');
	like($status, qr/^(running|cancelled)$/, 'cancelled twice: on record, or still to be found');
	aftermath('cancelled twice', $status, gone => 4 * 30 + 200);
}

# ---- Cancelled while it looks for what is due.
{
	refill('cancelled early');
	my $blocker = $node->background_psql('postgres');

	$blocker->query_safe('BEGIN; LOCK TABLE execution_retention_policies');
	my $run = start_run($node, '', before => "SET retention.lock_timeout = '3min'");
	wait_for($node, 'postgres', "
		SELECT count(*) = 1 FROM pg_locks WHERE pid = $run->{pid} AND NOT granted
			   AND relation = 'execution_retention_policies'::regclass",
		'cancelled early: it wants to see the policies');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
	wait_until_over($run, 'cancelled early');
	$blocker->query_safe('ROLLBACK');
	$blocker->quit;
	no_locks_left($node, 'cancelled early: with the session alive');
	like(finish_run($run), qr/ERROR:  57014: canceling statement due to user request/,
		'cancelled early: the caller is told');
	$holder->quit;
	aftermath('cancelled early', 'cancelled', gone => 0);
}

# ---- Terminated.
{
	refill('terminate', 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100');

	wait_until_stopped($run, 'terminate');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($run->{pid})");
	wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $run->{pid}",
		'terminate: the backend is gone');
	eval { $run->{session}->quit };
	$holder->quit;
	aftermath('terminate', 'running', gone => 4 * 30 + 200);
}

# ---- kill -9.
{
	refill('kill -9', 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100');

	wait_until_stopped($run, 'kill -9');
	$node->safe_psql('postgres', 'CHECKPOINT');
	is(system_log('pg_ctl', 'kill', 'KILL', $run->{pid}), 0, 'kill -9: sent');
	eval { $run->{session}->quit };
	eval { $holder->quit };
	wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $run->{pid}",
		'kill -9: the server is back');
	aftermath('kill -9', 'running', gone => 4 * 30 + 200);
}

# ---- The server stops at once.
{
	refill('immediate stop', 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100');

	wait_until_stopped($run, 'immediate stop');
	# a run's inner commits reach the disk a little later; a common one takes them along
	$node->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'flush', '')");
	$node->stop('immediate');
	eval { $run->{session}->quit };
	eval { $holder->quit };
	$node->start;
	aftermath('immediate stop', 'running', gone => 4 * 30 + 200);
}

# ---- The server stops in order, fast.
{
	refill('fast stop', 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100');

	wait_until_stopped($run, 'fast stop');
	$node->stop('fast');
	eval { $run->{session}->quit };
	eval { $holder->quit };
	$node->start;
	aftermath('fast stop', 'running', gone => 4 * 30 + 200);
}

# ---- statement_timeout: no time to stop in order.
{
	my ($run, $gone) = (undef, 4 * 30 + 200);
	for (1 .. 5)
	{
		refill('statement_timeout', 250 => 'wait');
		$run = start_run($node, 'batch_size => 100', before => "SET statement_timeout = '9s'");
		wait_until_over($run, 'statement_timeout');
		# before that row a slow server may find that it has to stop
		last if gone($node) == $gone;
		finish_run($run);
		$holder->quit;
	}
	is(last_run($node, 'status, message'),
		'cancelled|canceling statement due to statement timeout', 'statement_timeout: on record');
	no_locks_left($node, 'statement_timeout: with the session alive');
	like(finish_run($run), qr/ERROR:  57014: canceling statement due to statement timeout/,
		'statement_timeout: the caller is told');
	$holder->quit;
	aftermath('statement_timeout', 'cancelled', gone => $gone);
}

# ---- statement_timeout: it sees it coming, and stops between two batches.
{
	my ($rc, $err);
	for (1 .. 5)
	{
		refill('time runs out');
		($rc, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose
			SET statement_timeout = '4600ms';
			CALL retention.run(batch_size => 100, max_rows_per_second => 100);");
		# a server that stands still at the wrong moment is too late
		last if $err !~ /canceling statement due to statement timeout/;
		$holder->quit;
	}
	is($rc, 0, 'time runs out: ends well') or diag $err;
	like($err, qr/NOTICE:  00000: retention run partial/, 'time runs out: says so');
	is(last_run($node, 'status, stop_reason, rows_deleted BETWEEN 30 AND 900'),
		'partial|statement_timeout|t', 'time runs out: on record');
	$holder->quit;
	aftermath('time runs out', 'partial');
}

# ---- The policy is dropped, disabled or widened under the run: from the next batch on.
{
	my %change = (
		'policy dropped' => ["DELETE FROM execution_retention_policies WHERE tenant_id = '$big'", 720],
		'policy disabled' => ["UPDATE execution_retention_policies SET is_enabled = false WHERE tenant_id = '$big'", 720],
		'longer retention' => ["UPDATE execution_retention_policies SET retention_days = 50 WHERE tenant_id = '$big'", undef],
		'larger minimum' => ["UPDATE execution_retention_policies SET min_executions_to_keep = 600 WHERE tenant_id = '$big'", 600]);
	# of rows that are 30 days, half an hour and 0 to 1019 hours old
	foreach my $name (sort keys %change)
	{
		my ($sql, $left) = @{ $change{$name} };

		refill($name, 250 => 'wait');
		my $run = start_run($node, 'batch_size => 100');
		wait_until_stopped($run, $name);
		$node->safe_psql('postgres', $sql);
		release($holder);
		wait_until_over($run, $name);
		finish_run($run);
		$holder->quit;
		my $committed = $node->safe_psql('postgres',
			"SELECT count(*) FROM gone WHERE tenant_id = '$big'");
		if ($name eq 'longer retention')
		{
			is($node->safe_psql('postgres', "
					SELECT count(*) FILTER (WHERE COALESCE(started_at, created_at) < now() - interval '1200 hours')
					FROM executions WHERE tenant_id = '$big'"), '0', "$name: what is older went");
			$left = $node->safe_psql('postgres', "
				SELECT count(*) FROM oracle WHERE tenant_id = '$big' AND t >= now() - interval '1200 hours'");
			cmp_ok($left, '<', 720, "$name: after the batch at hand came others");
			cmp_ok($left, '>', 20, "$name: and it mattered");
		}
		is($node->safe_psql('postgres', "SELECT count(*) FROM executions WHERE tenant_id = '$big'"),
			$left, "$name: honoured from the next batch on");
		is(last_run($node, 'status, rows_deleted'), 'succeeded|' . gone($node), "$name: on record");
		no_locks_left($node, $name);
		remember($node);
		mischief($node);
		run($node, '', name => "$name: the next run");
		is(verdict($node), '0|0', "$name: the next run honours it, too");
	}
}

# ---- Somebody locks the table for long: the run waits, holds nothing meanwhile, and goes
# ---- on; it can be cancelled, and its time can run out.
foreach my $end ('goes on', 'is cancelled', 'has no time')
{
	my $name = "table locked, the run $end";

	my $run;
	for (1 .. 5)
	{
		refill($name, 250 => 'wait');
		$run = start_run($node, 'batch_size => 100'
			  . ($end eq 'has no time' ? ", max_runtime => '6 s'" : ''),
			before => "SET retention.lock_timeout = '100ms'");
		last if $end ne 'has no time';
		# a slow server may have no time left before it comes to that row
		wait_for($node, 'postgres', "SELECT count(*) = 1 OR (" . over_query($run) . ") FROM pg_locks
			WHERE pid = $run->{pid} AND locktype = 'advisory' AND objid = 4711 AND NOT granted", "$name: it stands, or is over");
		last if $node->safe_psql('postgres', over_query($run)) ne 't';
		finish_run($run);
		$holder->quit;
	}
	wait_until_stopped($run, $name);
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/going/, "\\echo going\nBEGIN; LOCK TABLE executions;\n");
	wait_for($node, 'postgres', "SELECT count(*) > 0 FROM pg_locks WHERE pid = $pid AND NOT granted",
		"$name: waits for the run's transaction");
	release($holder);
	if ($end ne 'has no time')
	{
		wait_for($node, 'postgres', qq{
			SELECT waiting_for = 'a lock on the table' FROM retention.run_history
			WHERE pid = $run->{pid} AND status = 'running'}, "$name: history says for what it waits");
		wait_for($node, 'postgres', "
			SELECT wait_event_type = 'Extension' AND backend_xmin IS NULL
				   AND NOT EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND relation IS NOT NULL)
			FROM pg_stat_activity AS a WHERE pid = $run->{pid}", "$name: it sleeps and holds nothing");
	}
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})") if $end eq 'is cancelled';
	wait_until_over($run, $name) if $end ne 'goes on';
	$session->query('ROLLBACK');
	$session->quit;
	wait_until_over($run, $name);
	my $err = finish_run($run);
	$holder->quit;
	if ($end eq 'goes on')
	{
		unlike($err, qr/WARNING|ERROR/, "$name: without complaint");
		is(verdict($node), '0|0', "$name: all that is due is gone");
		is(last_run($node, 'status, rows_deleted, waited_ms > 0, waited_for, waiting_for IS NULL'),
			'succeeded|1120|t|a lock on the table|t', "$name: the wait is on record");
	}
	elsif ($end eq 'is cancelled')
	{
		like($err, qr/ERROR:  57014/, "$name: told");
		aftermath($name, 'cancelled', gone => 4 * 30 + 300);
	}
	else
	{
		is(last_run($node, 'status, stop_reason'), 'partial|max_runtime', "$name: stops");
		aftermath($name, 'partial', gone => 4 * 30 + 300);
	}
}

# ---- The table changes under the run, between two batches.
sub change_under_run
{
	my ($name, $sql, %opt) = @_;

	refill($name, 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100', before => $opt{before});
	wait_until_stopped($run, $name);
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/going/, "\\echo going\n$sql;\n");
	wait_for($node, 'postgres',
		"SELECT count(*) > 0 FROM pg_locks WHERE pid = $pid AND NOT granted",
		"$name: waits for the run's transaction");
	release($holder);
	wait_until_over($run, $name);
	$session->query('SELECT 1');
	is($session->{stderr}, '', "$name: no error there");
	$session->quit;
	$holder->quit;
	return finish_run($run);
}

{
	my $err = change_under_run('column added', 'ALTER TABLE executions ADD COLUMN more text DEFAULT $$x$$');
	unlike($err, qr/WARNING|ERROR/, 'column added: does not matter');
	is(verdict($node), '0|0', 'column added: all that is due is gone');

	$err = change_under_run('index dropped', 'DROP INDEX idx_executions_null_started_at');
	like($err, qr/ERROR:  55000: index "idx_executions_null_started_at" on table "public.executions" is missing/,
		'index dropped: the run ends');
	is(last_run($node, 'status, rows_deleted, message ~ $$idx_executions_null_started_at$$'),
		'failed|' . gone($node) . '|t', 'index dropped: on record');
	$node->safe_psql('postgres', 'SELECT retention.attach()');
	aftermath('index dropped', 'failed', gone => 4 * 30 + 300);

	$err = change_under_run('table renamed', 'ALTER TABLE executions RENAME TO gone_away');
	like($err, qr/ERROR:  (42P01: no table "executions" is attached|22023: table "public.gone_away" is not named "executions")/,
		'table renamed: the run ends');
	$node->safe_psql('postgres', 'ALTER TABLE gone_away RENAME TO executions');
	aftermath('table renamed', 'failed', gone => 4 * 30 + 300);

	$err = change_under_run('table dropped', 'DROP TABLE executions CASCADE');
	like($err, qr/ERROR:  42P01: /, 'table dropped: the run ends');
	is(last_run($node, 'status, rows_deleted, message IS NOT NULL, finished_at IS NOT NULL'),
		'failed|420|t|t', 'table dropped: on record');
	psql_fails($node, 'postgres', 'CALL retention.run();', '42P01', 'table dropped: the next run');
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid IN (7265, 7266)}),
		'0', 'table dropped: no lock is left');
}

# ---- The extension is dropped, or made anew, under the run.
sub fresh
{
	$node->safe_psql('postgres',
		'DROP TABLE IF EXISTS executions, gone, mischief, oracle CASCADE; DROP EXTENSION IF EXISTS retention;
		 DROP FUNCTION IF EXISTS make_mischief, write_down, cutoff_of;' . prepare_runs());
	return;
}

# While it works, the one who drops waits, or finds a deadlock with it.
fresh();
{
	my $name = 'extension dropped at work';

	refill($name, 250 => 'wait');
	my $run = start_run($node, 'batch_size => 100');
	wait_until_stopped($run, $name);
	psql_fails($node, 'postgres', "SET lock_timeout = '50ms'; DROP EXTENSION retention;", '55P03', $name);
	release($holder);
	wait_until_over($run, $name);
	unlike(finish_run($run), qr/WARNING|ERROR/, "$name: does not disturb the run");
	$holder->quit;
	is(verdict($node), '0|0', "$name: all that is due is gone");
}

# While it sleeps, nothing stands in the way.
my %drop = (
	'extension dropped' => ['', 'DROP EXTENSION retention'],
	# indexes that are not the extension's, so that they alone do not stop the run
	'extension dropped, indexes of others' => [
		'CREATE INDEX mine ON executions (tenant_id, started_at);
		 CREATE INDEX mine_too ON executions (tenant_id, created_at) WHERE started_at IS NULL',
		'DROP EXTENSION retention' ],
	# the new history has other runs under the same numbers
	'extension made anew' => ['', q{
		BEGIN; DROP EXTENSION retention; CREATE EXTENSION retention;
		INSERT INTO retention.run_history (started_at, finished_at, run_by, pid, status)
		SELECT now(), now(), 'other', 1, 'succeeded' FROM generate_series(1, 3);
		COMMIT} ]);
foreach my $name (sort keys %drop)
{
	my ($before, $sql) = @{ $drop{$name} };

	fresh();
	$node->safe_psql('postgres', $before) if $before;
	refill($name);
	$holder->quit;
	# so many batches that it is not over if the server is slow to drop
	my $run = start_run($node, "batch_size => 30, pause_between_batches => '3 s'");
	wait_for($node, 'postgres', "
		SELECT wait_event_type = 'Extension' AND query ~ '^retention: waiting for pause_between_batches'
		FROM pg_stat_activity WHERE pid = $run->{pid}", "$name: the run sleeps");
	$node->safe_psql('postgres', $sql);
	my $gone = gone($node);
	wait_for($node, 'postgres', "
		SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $run->{pid} AND state = 'active'",
		"$name: the run has ended");
	my $err = eval { finish_run($run) } // 'the connection was lost';
	like($err, qr/ERROR:  (42|55)/, "$name: with an error that is meant");
	unlike($err, qr/ERROR:  XX|connection/, "$name: and the server is well");
	is(gone($node), $gone, "$name: no more rows are gone");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid IN (7265, 7266)}),
		'0', "$name: no lock is left");
	if ($sql =~ /CREATE/)
	{
		is($node->safe_psql('postgres', q{
				SELECT count(*), count(*) FILTER (WHERE run_by = 'other' AND status = 'succeeded' AND message IS NULL)
				FROM retention.run_history}), '3|3', "$name: the run does not show in the new history");
	}
}

$node->stop;
done_testing();
