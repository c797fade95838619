# 062_corners.pl - ways through a run and a cleanup that others seldom take: rows held in
# more ranges than a plan has room for at first, two limits that both make a run wait, the
# extension made anew under a run, or another table attached.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('corners');
my $t1 = tenant(1);
my ($rows, $keep) = (400, 100);

$node->safe_psql('postgres', prepare_runs());

sub refill
{
	$node->safe_psql('postgres', 'TRUNCATE executions, execution_retention_policies;'
		  . rows_of($t1, $rows + $keep, newest => 50) . policy($t1, 30, $keep));
	mischief($node);
	remember($node);
	return;
}

# ---- Others hold a row in each of thirty batches, and in the end let go of none.
{
	refill();
	my $holder = $node->background_psql('postgres');

	$holder->query_safe('BEGIN; SELECT id FROM executions WHERE id <= 300 AND id % 10 = 5 FOR UPDATE');
	run($node, 'batch_size => 10', name => 'held', before => q{SET retention.lock_timeout = '1ms'});
	is($node->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE id % 10 = 5 AND id <= 300) FROM executions'),
		($keep + 30) . '|30', 'held: thirty rows are left, in as many ranges');
	is(last_run($node, 'rows_deleted, rows_skipped_locked'), ($rows - 30) . '|30', 'held: history counts them');
	$holder->quit;

	# and when they let go while the run is at the last ones
	refill();
	$holder = $node->background_psql('postgres');
	my $gate = $node->background_psql('postgres');
	$holder->query_safe('BEGIN; SELECT id FROM executions WHERE id <= 300 AND id % 10 = 5 FOR UPDATE');
	$gate->query_safe('SELECT pg_advisory_lock(4711)');
	mischief($node, 395 => 'wait');
	my $run = start_run($node, 'batch_size => 10');
	wait_until_stopped($run, 'let go');
	$holder->query_safe('COMMIT');
	release($gate);
	wait_until_over($run, 'let go');
	finish_run($run);
	is(verdict($node), '0|0', 'let go: exactly the due rows went');
	is(last_run($node, 'rows_deleted, rows_skipped_locked'), "$rows|0", 'let go: all went');
	$_->quit foreach $holder, $gate;
}

# ---- A pace and a pause: the run waits for both, and says so.
{
	my $waited = '';

	# a batch's 200 rows are four seconds by the pace, whose rest ends before the pause after them
	for (my $attempt = 0; $attempt < 5 && $waited !~ /pause_between_batches/; $attempt++)
	{
		refill();
		run($node, q{batch_size => 200, max_rows_per_second => 50, pause_between_batches => '4500 ms'},
			name => 'two limits');
		is(verdict($node), '0|0', 'two limits: exactly the due rows went');
		$waited = $node->safe_psql('postgres',
			q{SELECT waited_for FROM retention.run_history ORDER BY id DESC LIMIT 1});
	}
	like($waited, qr/max_rows_per_second/, 'two limits: history names the one');
	like($waited, qr/pause_between_batches/, 'two limits: and the other');
	is(() = $waited =~ /pause_between_batches/g, 1, 'two limits: once');
}

# ---- The extension is dropped and made anew while a run is under way.
{
	refill();
	my $gate = $node->background_psql('postgres');
	$gate->query_safe('SELECT pg_advisory_lock(4711)');
	mischief($node, 50 => 'wait');
	my $run = start_run($node, 'batch_size => 100', before => q{SET retention.lock_timeout = '1min'; SET deadlock_timeout = '20s'; SET log_lock_waits = on});
	wait_until_stopped($run, 'anew');

	# It waits for the batch under way, then holds the table and wants what the run has read
	# before it waits for that.  The run is to let go before anybody finds a deadlock: here
	# it alone would, late and with patience.
	my $log = -s $node->logfile;
	my $other = $node->background_psql('postgres');
	$other->query_safe(q{SET deadlock_timeout = '1h'});
	my $pid = $other->query_safe('SELECT pg_backend_pid()');
	$other->query_until(qr/dropping/, "\\echo dropping\nBEGIN; LOCK TABLE executions; DROP EXTENSION retention;
		CREATE EXTENSION retention; COMMIT;\n");
	wait_for($node, 'postgres', "SELECT count(*) > 0 FROM pg_locks WHERE pid = $pid AND NOT granted",
		'anew: the other session waits for the run');
	my $began = time;
	release($gate);
	wait_until_over($run, 'anew');
	my $took = time - $began;
	my $err = finish_run($run);
	$other->query_safe('SELECT 1');

	# or, where that takes longer than a run waits to record its end, that it could not
	my $anew = qr/ERROR:  55000: (extension "retention" has been created anew during the run|history of the run is gone)/;
	like($err, $took < 20 ? $anew : qr/$anew|ERROR:  55P03: canceling statement due to lock timeout/,
		'anew: the run stops with a clear error');
	unlike(slurp_file($node->logfile, $log), qr/detected deadlock/, 'anew: and nobody was in a deadlock');
	is(gone($node), '100', 'anew: the batch that was under way is done, and no more');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_history'), '0',
		'anew: the new history knows nothing of it');
	no_locks_left($node, 'anew');

	# the next one goes on from there
	$node->safe_psql('postgres', policy($t1, 30, $keep));
	mischief($node);
	run($node, '', name => 'after that');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM executions'), $keep, 'after that: all is well');
	$_->quit foreach $gate, $other;
}

# ---- The same while a run rests for long, and now and then writes down that it does.
{
	refill();
	my $run = start_run($node, q{batch_size => 100, pause_between_batches => '1 hour'});
	wait_for($node, 'postgres', 'SELECT count(*) > 0 FROM retention.run_history WHERE waiting_for IS NOT NULL', 'anew, at rest: it rests');
	my $id = last_run($node, 'id');
	# the history made anew has a run of the same number
	$node->safe_psql('postgres', qq{
		BEGIN;
		DROP EXTENSION retention;
		CREATE EXTENSION retention;
		INSERT INTO retention.run_history (id, started_at, status, run_by, pid) OVERRIDING SYSTEM VALUE
		VALUES ($id, now(), 'succeeded', 'somebody', 1);
		COMMIT});
	wait_until_over($run, 'anew, at rest');
	# or, where that takes longer than a run waits to record that it rests, that it could not
	like(finish_run($run), qr/ERROR:  (55000: history of the run is gone|55P03: canceling statement due to lock timeout)/,
		'anew, at rest: the run stops with a clear error');
	is(gone($node), '100', 'anew, at rest: and deletes no more');
	is(last_run($node, 'id, status, run_by, rows_deleted'), "$id|succeeded|somebody|0",
		'anew, at rest: the other run of its number is as it was');
	$node->safe_psql('postgres', 'DELETE FROM retention.run_history; ' . policy($t1, 30, $keep));
}

# ---- Another table is attached while a run is under way.
{
	refill();
	$node->safe_psql('postgres', 'CREATE SCHEMA other;' . executions_table(schema => 'other'));
	my $gate = $node->background_psql('postgres');
	$gate->query_safe('SELECT pg_advisory_lock(4711)');
	mischief($node, 50 => 'wait');
	my $run = start_run($node, 'batch_size => 100');
	wait_until_stopped($run, 'another table');
	$node->safe_psql('postgres', q{SELECT retention.attach('other.executions')});
	release($gate);
	wait_until_over($run, 'another table');
	like(finish_run($run), qr/ERROR:  55000: another table has been attached during the run/,
		'another table: the run stops with a clear error');
	is(gone($node), '100', 'another table: the batch that was under way is done, and no more');
	is(last_run($node, 'status'), 'failed', 'another table: history says so');
	no_locks_left($node, 'another table');
	$gate->quit;
}

$node->stop;
done_testing();
