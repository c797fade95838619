# 023_throttle.pl - the limits of a run: a standby and a logical slot that are behind,
# time, rows per second, pauses; and what it is like while it sleeps.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;
use Time::HiRes 'time';

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 'logical');
# a standby that stands still for a minute is not to be given up
$node->append_conf('postgresql.conf',
	"autovacuum = off\nlog_statement = none\nwal_sender_timeout = 0\nwal_receiver_timeout = 0");
$node->start;
my $t1 = tenant(1);
$node->safe_psql('postgres', prepare_runs() . policy($t1, 30, 10));

sub refill
{
	my ($rows) = @_;

	$node->safe_psql('postgres', 'TRUNCATE executions;' . rows_of($t1, $rows + 10, newest => 50));
	mischief($node);
	remember($node);
	return;
}

# Waits until history says that the run waits for this.
sub wait_until_waiting
{
	my ($run, $for, $name) = @_;

	wait_for($node, 'postgres', qq{
		SELECT waiting_for = '$for' FROM retention.run_history
		WHERE pid = $run->{pid} AND status = 'running'}, "$name: history says for what it waits");
	return;
}

# What a sleeping run is like: it has no snapshot and no transaction that would keep
# VACUUM from removing what it deleted, no lock on the table, and says what it does.
sub looks_asleep
{
	my ($run, $for, $name) = @_;
	my $gone = gone($node);

	cmp_ok($gone, '>', 0, "$name: some rows are gone");
	# while it looks at who is behind it has a snapshot, for a moment
	wait_for($node, 'postgres', "
		SELECT state = 'active' AND wait_event_type = 'Extension'
			   AND backend_xid IS NULL AND backend_xmin IS NULL
			   AND query = 'retention: waiting for $for, $gone rows deleted'
		FROM pg_stat_activity WHERE pid = $run->{pid}",
		"$name: it sleeps without a snapshot, and says for what it waits");
	wait_for($node, 'postgres', "
		SELECT count(*) = 0 FROM pg_locks WHERE pid = $run->{pid} AND relation IS NOT NULL",
		"$name: without a lock on a table");
	my ($rc, $out, $err) = $node->psql('postgres', 'VACUUM (VERBOSE) executions');
	my $rest = $node->safe_psql('postgres', 'SELECT count(*) FROM executions');
	like($err, qr/tuples: \d+ removed, $rest remain, 0 are dead but not yet removable/,
		"$name: VACUUM can remove the rows");
	is(last_run($node, "status, rows_deleted = $gone, rows_estimated >= rows_deleted, retention.run_is_alive(id)"),
		'running|t|t|t', "$name: history goes along");
	return;
}

# ---- A standby.
my $standby = PostgreSQL::Test::Cluster->new('standby_one');
{
	$node->backup('base');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby);

	my $err = psql_fails($standby, 'postgres', 'CALL retention.run();', '25006', 'on a standby');
	like($err, qr/cannot execute retention\.run\(\) during recovery/, 'on a standby: says so');
	like($err, qr/HINT:  Run it on the primary server/, 'on a standby: and what to do');

	# not behind: no wait
	refill(3000);
	$node->wait_for_catchup($standby);
	run($node, "max_replication_lag => '1GB'", name => 'standby within limits');
	is(last_run($node, 'status, rows_deleted, waited_ms, waited_for IS NULL'), 'succeeded|3000|0|t',
		'standby within limits: no wait');

	refill(3000);
	$node->wait_for_catchup($standby);
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	wait_for($standby, 'postgres', q{SELECT pg_get_wal_replay_pause_state() = 'paused'},
		'standby: replay is paused');
	my $run = start_run($node, "max_replication_lag => '64kB', batch_size => 200");
	wait_until_waiting($run, 'standby "standby_one"', 'standby');
	cmp_ok(gone($node), '<', 3000, 'standby: not all is done');
	looks_asleep($run, 'standby "standby_one"', 'standby');
	is(gone($node), last_run($node, 'rows_deleted'), 'standby: it does not go on');
	# by this a monitor tells it from a run that is stuck
	wait_for($node, 'postgres', "SELECT waited_ms > 3000 FROM retention.run_history WHERE pid = $run->{pid} AND status = 'running'",
		'standby: history says how long while it waits');
	looks_asleep($run, 'standby "standby_one"', 'standby, later');
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
	wait_until_over($run, 'standby');
	unlike(finish_run($run), qr/WARNING|ERROR/, 'standby: it goes on when the standby does');
	is(last_run($node, 'status, rows_deleted, waiting_for IS NULL, waited_ms > 0, waited_for'),
		'succeeded|3000|t|t|standby "standby_one"', 'standby: the wait is on record');
	is(verdict($node), '0|0', 'standby: all that is due is gone');
	$node->wait_for_catchup($standby);
	is($standby->safe_psql('postgres', 'SELECT count(*) FROM executions'), '10',
		'standby: there, too');

	# time runs out while it waits; a cancel is noticed
	refill(3000);
	$node->wait_for_catchup($standby);
	$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	for (1 .. 5)
	{
		$run = start_run($node, "max_replication_lag => '64kB', batch_size => 200, max_runtime => '4 s'");
		wait_until_over($run, 'standby and max_runtime');
		finish_run($run);
		# a slow server may have no time left to wait
		last if last_run($node, 'waited_for') ne '';
	}
	is(last_run($node, "status, stop_reason, rows_deleted BETWEEN 100 AND 2900, waited_for, finished_at - started_at < '5min'"),
		'partial|max_runtime|t|standby "standby_one"|t', 'standby and max_runtime: stops');
	$run = start_run($node, "max_replication_lag => '64kB', batch_size => 200");
	wait_until_waiting($run, 'standby "standby_one"', 'standby and cancel');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
	wait_until_over($run, 'standby and cancel');
	no_locks_left($node, 'standby and cancel');
	like(finish_run($run), qr/ERROR:  57014/, 'standby and cancel: told');
	is(last_run($node, 'status, waiting_for IS NULL'), 'cancelled|t', 'standby and cancel: on record');
	is((split /\|/, verdict($node))[1], '0', 'standby and cancel: no row too many');

	# a role that may not see pg_stat_replication waits as well
	$node->safe_psql('postgres', q{
		CREATE ROLE janitor;
		GRANT EXECUTE ON PROCEDURE retention.run TO janitor;
		GRANT SELECT, DELETE ON executions TO janitor;
		GRANT SELECT, UPDATE ON execution_retention_policies TO janitor;
		GRANT SELECT ON mischief TO janitor;
		GRANT INSERT ON gone TO janitor});
	$run = start_run($node, "max_replication_lag => '64kB', batch_size => 200",
		before => 'SET SESSION AUTHORIZATION janitor');
	wait_until_waiting($run, 'standby "standby_one"', 'common role');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($run->{pid})");
	eval { $run->{session}->quit };
	$standby->stop('immediate');
	wait_for($node, 'postgres', 'SELECT count(*) = 0 FROM pg_stat_replication', 'the standby is gone');
}

# ---- A logical slot.
{
	refill(2000);
	$node->safe_psql('postgres', q{SELECT pg_create_logical_replication_slot('cdc', 'test_decoding')});
	my $run = start_run($node, "max_replication_lag => '64kB', batch_size => 200");
	wait_until_waiting($run, 'logical slot "cdc"', 'slot');
	looks_asleep($run, 'logical slot "cdc"', 'slot');
	# its consumer comes back
	my $deadline = time + 900;
	while (last_run($node, 'status') eq 'running' && time < $deadline)
	{
		$node->safe_psql('postgres', q{SELECT count(*) FROM pg_logical_slot_get_changes('cdc', NULL, NULL)});
	}
	wait_until_over($run, 'slot');
	unlike(finish_run($run), qr/WARNING|ERROR/, 'slot: it goes on when the consumer does');
	is(last_run($node, 'status, rows_deleted, waited_ms > 0, waited_for'),
		'succeeded|2000|t|logical slot "cdc"', 'slot: the wait is on record');
	is(verdict($node), '0|0', 'slot: all that is due is gone');
	$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('cdc')});
}

# ---- max_rows_per_second.
{
	my ($run, $status, $rate, $waited, $for);
	for (1 .. 3)
	{
		refill(800);
		$run = start_run($node, 'max_rows_per_second => 200, batch_size => 100');
		wait_until_over($run, 'rate');
		finish_run($run);
		($status, $rate, $waited, $for) = split /\|/, last_run($node, '
			status, rows_deleted / extract(epoch FROM finished_at - started_at), waited_ms, waited_for');
		note("$rate rows per second, waited $waited ms");
		last if $rate >= 200 * 0.2 && $waited > 500;
		# what is too slow for that once is not so each time
	}
	is($status, 'succeeded', 'rate: succeeded');
	cmp_ok($rate, '<=', 200 * 1.2, 'rate: not above the limit');
	cmp_ok($rate, '>=', 200 * 0.2, 'rate: nor far below');
	cmp_ok($waited, '>', 500, 'rate: the wait is on record');
	is($for, 'max_rows_per_second', 'rate: with its reason');
	is(verdict($node), '0|0', 'rate: all that is due is gone');

	# time that passes without work is not saved up: no burst after a stop
	refill(1200);
	my $holder = $node->background_psql('postgres');
	mischief($node, 450 => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	$run = start_run($node, 'max_rows_per_second => 700, batch_size => 100');
	wait_until_stopped($run, 'no burst');
	my $began = time;
	wait_for($node, 'postgres', "
		SELECT clock_timestamp() - waitstart > '1.5 s' FROM pg_locks WHERE pid = $run->{pid} AND NOT granted",
		'no burst: it has stood for a while');
	$began = time;
	release($holder);
	wait_until_over($run, 'no burst');
	my $took = time - $began;
	finish_run($run);
	$holder->quit;
	# what is left after the batch at hand is 700 rows
	cmp_ok($took, '>', 0.7, "no burst: the rest took $took s");
	is(verdict($node), '0|0', 'no burst: all that is due is gone');
}

# ---- pause_between_batches; the last batch needs no rest.
{
	refill(500);
	run($node, "pause_between_batches => '200 ms', batch_size => 100", name => 'pause');
	is(last_run($node, "status, rows_deleted, waited_ms >= 800, waited_for,
			finished_at - started_at > '800 ms'"),
		'succeeded|500|t|pause_between_batches|t', 'pause: it rests after each commit');

	foreach my $rest ("pause_between_batches => '1 hour'", 'max_rows_per_second => 1')
	{
		refill(100);
		my $run = start_run($node, "$rest, batch_size => 100", before => "SET statement_timeout = '10min'");
		wait_until_over($run, "$rest, and nothing left");
		finish_run($run);
		is(last_run($node, "status, stop_reason, rows_deleted, waited_ms < 1000"), 'succeeded|done|100|t',
			"$rest, and nothing left: it ends without a rest");
	}
}

# ---- max_runtime.
{
	refill(3000);
	my $err = run($node, q{max_runtime => '700 ms', max_rows_per_second => 1000, batch_size => 100}, name => 'max_runtime');
	like($err, qr/NOTICE:  00000: retention run partial/, 'max_runtime: says so');
	is(last_run($node, "status, stop_reason, rows_deleted BETWEEN 100 AND 1500"),
		'partial|max_runtime|t', 'max_runtime: stops in time');
	is(last_run($node, 'rows_deleted'), gone($node), 'max_runtime: on record');
	is($node->safe_psql('postgres', 'SELECT last_cleanup_deleted_count FROM execution_retention_policies'),
		gone($node), 'max_runtime: with the policy, too');
	run($node, "max_runtime => '1 hour'", name => 'time enough');
	is(last_run($node, 'status, stop_reason'), 'succeeded|done', 'time enough: all of it');
	is(verdict($node), '0|0', 'time enough: all that is due is gone');

	# as settings
	for (1 .. 5)
	{
		refill(300);
		run($node, '', before => "SET retention.max_runtime = '4s'; SET retention.pause_between_batches = '10s';
			SET retention.batch_size = 100", name => 'settings');
		# a slow server may have no time left to rest
		last if last_run($node, 'waited_for') ne '';
	}
	is(last_run($node, 'status, stop_reason, rows_deleted, waited_for'),
		'partial|max_runtime|100|pause_between_batches', 'settings: they count');
	run($node, q{max_runtime => '0', pause_between_batches => '0', batch_size => 1000},
		before => "SET retention.max_runtime = '300ms'; SET retention.pause_between_batches = '10s';
		SET retention.batch_size = 100", name => 'arguments');
	is(last_run($node, 'status, stop_reason, rows_deleted, batches < 3'), 'succeeded|done|200|t',
		'arguments: go before settings');
}

# ---- A long rest: what it is like, and a cancel and a terminate in the middle of it.
{
	my ($run, $took);
	# what is slow once, as a server may be that has other things to do, is not slow each time
	for (1 .. 5)
	{
		refill(300);
		$run = start_run($node, "pause_between_batches => '1 hour', batch_size => 100");
		wait_until_waiting($run, 'pause_between_batches', 'rest');
		looks_asleep($run, 'pause_between_batches', 'rest');
		my $began = time;
		$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
		wait_until_over($run, 'rest');
		$took = time - $began;
		no_locks_left($node, 'rest');
		like(finish_run($run), qr/ERROR:  57014/, 'rest: told');
		is(last_run($node, 'status, rows_deleted, waiting_for IS NULL'), 'cancelled|100|t', 'rest: on record');
		last if $took < 3;
	}
	cmp_ok($took, '<', 3, 'rest: a cancel is noticed at once');

	$run = start_run($node, "pause_between_batches => '1 hour', batch_size => 100");
	wait_until_waiting($run, 'pause_between_batches', 'rest, terminated');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($run->{pid})");
	wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $run->{pid}",
		'rest, terminated: the session is gone');
	eval { $run->{session}->quit };

	# new settings of the server do not wake it for good, nor does a NOTIFY
	refill(300);
	$run = start_run($node, "pause_between_batches => '1 hour', batch_size => 100", before => 'LISTEN something');
	wait_for($node, 'postgres', "SELECT wait_event_type = 'Extension' AND query ~ '^retention: waiting for' FROM pg_stat_activity WHERE pid = $run->{pid}",
		'woken: it sleeps');
	$node->safe_psql('postgres', 'NOTIFY something') for 1 .. 3;
	$node->reload;
	my $waited = last_run($node, 'waited_ms');
	wait_for($node, 'postgres', "SELECT waited_ms > $waited AND rows_deleted = 100 FROM retention.run_history
		WHERE pid = $run->{pid} AND status = 'running'", 'woken: it rests on');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
	wait_until_over($run, 'woken');
	finish_run($run);
	is(last_run($node, 'status, rows_deleted'), 'cancelled|100', 'woken: it rested until it was cancelled');
}

# ---- Other sessions at work: small batches, and a rest after each; not for those that wait, nor
# for other runs, nor where a pace is set.
{
	my $name = 'others at work';
	my $worker = $node->background_psql('postgres', on_error_stop => 0);
	my $idler = $node->background_psql('postgres');

	my $idle = $idler->query_safe('SELECT pg_backend_pid()');
	$idler->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()');
	wait_for($node, 'postgres', "SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = $idle", "$name: one is idle");
	refill(5000);
	run($node, 'batch_size => 1000', name => "$name: none");
	is(last_run($node, 'rows_deleted, batches, waited_for, waited_ms'), '5000|5||0', "$name: alone it goes on and on");

	my $pid = $worker->query_safe('SELECT pg_backend_pid()');
	$worker->query_until(qr/working/, "\\echo working\nSELECT count(*) FROM (SELECT generate_series(1, 1000000000000)) AS s;\n");
	wait_for($node, 'postgres', "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = $pid", "$name: one works");
	refill(5000);
	run($node, 'batch_size => 1000', name => $name);
	is(last_run($node, 'rows_deleted, batches >= 50, waited_for, waited_ms >= 95'), '5000|t|other sessions|t',
		"$name: batches are small, and it rests after each");
	is(verdict($node), '0|0', "$name: as the oracle says");

	refill(5000);
	run($node, 'batch_size => 30', name => "$name: smaller batches");
	is(last_run($node, 'rows_deleted, batches, waited_for'), '5000|167|other sessions', "$name: batches do not grow");

	refill(5000);
	run($node, 'batch_size => 1000, max_rows_per_second => 1000000000', name => "$name: a pace");
	is(last_run($node, 'rows_deleted, batches >= 50, waited_for, waited_ms'), '5000|t||0', "$name: a pace is what counts");
	refill(5000);
	run($node, "batch_size => 1000, pause_between_batches => '2 ms'", name => "$name: a pause");
	is(last_run($node, 'rows_deleted, batches, waited_for'), '5000|5|pause_between_batches', "$name: so is a pause");

	# where a batch and the rest after it take longer than others count as at work once seen
	$node->safe_psql('postgres', q{
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.003); RETURN OLD; END $$;
		CREATE TRIGGER slow BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION slow()});
	refill(400);
	run($node, 'batch_size => 1000', name => "$name: slow batches");
	is(last_run($node, 'rows_deleted, batches >= 4, waited_for, waited_ms > 2500'), '400|t|other sessions|t',
		"$name: slow batches: it rests after each");
	$node->safe_psql('postgres', 'DROP FUNCTION slow CASCADE');

	# to wait for the table is no work to rest for
	refill(50);
	$idler->query_safe('ROLLBACK; BEGIN; LOCK TABLE executions');
	my $waiter = start_run($node, '');
	wait_until_waiting($waiter, 'a lock on the table', "$name: locked table");
	$idler->query_safe('COMMIT');
	wait_until_over($waiter, "$name: locked table");
	finish_run($waiter);
	is($node->safe_psql('postgres', 'SELECT rows_deleted, waited_for FROM retention.run_history ORDER BY id DESC LIMIT 1'),
		'50|a lock on the table', "$name: locked table: it rests for nobody");

	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	wait_for($node, 'postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid", "$name: it works no more");
	refill(20000);
	# both begin when the table is free, and no session of the test works until both are over
	my @sessions = map { $node->background_psql('postgres') } 1 .. 2;
	$idler->query_safe('BEGIN; LOCK TABLE executions');
	$_->query_until(qr/calling/, "\\echo calling\nCALL retention.run(batch_size => 100);\n\\echo over\n") foreach @sessions;
	wait_for($node, 'postgres', "SELECT count(*) = 2 FROM retention.run_history WHERE status = 'running' AND waiting_for = 'a lock on the table'",
		"$name: two runs wait");
	$idler->query_safe('COMMIT');
	$_->query_until(qr/over/, '') foreach @sessions;
	is($node->safe_psql('postgres', q{SELECT string_agg(waited_for, '; ') FROM (SELECT waited_for FROM retention.run_history ORDER BY id DESC LIMIT 2) AS x}),
		'a lock on the table; a lock on the table', "$name: runs do not rest for each other");
	$_->quit foreach $worker, $idler, @sessions;
}

$node->stop;
done_testing();
