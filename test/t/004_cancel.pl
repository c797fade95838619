# 004_cancel.pl - a cleanup that is cancelled, timed out, terminated or killed leaves
# every row and no lock, and one that sees its time run out stops in time instead.
#
# A trigger of the test's own table acts at an exact row: it cancels or ends its own
# backend, waits for an advisory lock, or dawdles.  A sequence, which no rollback turns
# back, counts the rows that the trigger has seen.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('cancel', 'restart_after_crash = on');
my $t1 = tenant(1);
my $rows = 5000;

$node->safe_psql('postgres',
	    executions_table()
	  . fill_tenant($t1, $rows, newest => 50)
	  . q{
	CREATE EXTENSION retention;
	CREATE SEQUENCE seen;
	CREATE TABLE mischief (at_row bigint, what text);
	-- what waits in here does so for good: a batch has a lock_timeout of its own
	CREATE FUNCTION make_mischief() RETURNS trigger LANGUAGE plpgsql
		SET lock_timeout = 0 AS $$
	DECLARE
		w text;
	BEGIN
		PERFORM nextval('public.seen');
		FOR w IN SELECT what FROM public.mischief WHERE at_row IN (0, OLD.id)
		LOOP
			CASE w
				WHEN 'cancel' THEN PERFORM pg_cancel_backend(pg_backend_pid());
				WHEN 'terminate' THEN PERFORM pg_terminate_backend(pg_backend_pid());
				WHEN 'wait' THEN PERFORM pg_advisory_xact_lock(4711);
				WHEN 'dawdle' THEN PERFORM pg_sleep(0.005);
				WHEN 'sleep' THEN PERFORM pg_sleep(600);
			END CASE;
		END LOOP;
		RETURN OLD;
	END $$;
	CREATE TRIGGER mischief BEFORE DELETE ON executions
		FOR EACH ROW EXECUTE FUNCTION make_mischief();
});

# Sets what the trigger does at which row, from now on.
sub mischief
{
	my ($at_row, $what) = @_;

	$node->safe_psql('postgres',
		"DELETE FROM mischief; SELECT setval('seen', 1, false);"
		  . (defined $what ? "INSERT INTO mischief VALUES ($at_row, '$what')" : ''));
	return;
}

sub seen
{
	return $node->safe_psql('postgres',
		'SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM seen');
}

my $call = "SELECT * FROM cleanup_old_executions('$t1', 30, 0, 100)";

# All rows are there, no session of the test is in a transaction, and nobody holds
# a lock that a cleanup takes.
sub untouched
{
	my ($name) = @_;

	is($node->safe_psql('postgres', 'SELECT count(*), sum(id) FROM executions'),
		"$rows|" . ($rows * ($rows + 1) / 2), "$name: every row is there");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM pg_locks
			WHERE pid <> pg_backend_pid()
				  AND (locktype = 'advisory'
					   OR relation IN ('executions'::regclass,
									   'execution_retention_policies'::regclass))}),
		'0', "$name: and no lock is left");
	return;
}

# ---- Cancelled by pg_cancel_backend() in the middle of a batch.
{
	mischief(2050, 'cancel');
	my $err = psql_fails($node, 'postgres', $call, '57014', 'cancel');
	like($err, qr/canceling statement due to user request/, 'cancel: by request');
	my $seen = seen();
	cmp_ok($seen, '>=', 2050, 'cancel: in the middle');
	cmp_ok($seen, '<=', 2100, 'cancel: took effect within the batch');
	untouched('cancel');
}

# ---- The session goes on after it, with its settings as they were, and inside a
# ---- savepoint, too.
{
	mischief(2050, 'cancel');
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe("SET search_path = public, pg_catalog; SET lock_timeout = '7s'");
	my $state = q{SELECT current_user, current_setting('search_path'),
		current_setting('lock_timeout'), current_setting('row_security'),
		(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory')};
	my $before = $session->query_safe($state);

	$session->query_safe('BEGIN');
	$session->query_safe('SAVEPOINT a');
	my ($out, $failed) = $session->query($call);
	is($failed, 1, 'savepoint: the call fails');
	like($session->{stderr}, qr/canceling statement/, 'savepoint: cancelled');
	$session->{stderr} = '';
	$session->query_safe('ROLLBACK TO a');
	is($session->query_safe($state), $before, 'savepoint: settings are as before');
	is($session->query_safe('SELECT count(*) FROM executions'), $rows,
		'savepoint: every row is there');
	mischief(0, undef);
	is($session->query_safe("SELECT deleted_count FROM cleanup_old_executions('$t1', 30, 0, 100)"),
		$rows, 'savepoint: the next call in the same transaction does it all');
	my ($settings) = $session->query_safe($state) =~ /^(.*)\|/s;
	like($before, qr/^\Q$settings\E\|/, 'savepoint: settings are as before');
	$session->query_safe('ROLLBACK');
	is($session->query_safe($state), $before, 'rollback: and the lock is gone');
	$session->quit;
	untouched('savepoint and rollback');
}

# ---- Cancelled from outside while it waits.
{
	mischief(1234, 'wait');
	my $holder = $node->background_psql('postgres');
	my $cleaner = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $cleaner->query_safe('SELECT pg_backend_pid()');

	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	$cleaner->query_until(qr/calling/, "\\echo calling\n$call;\n");
	wait_for($node, 'postgres',
		"SELECT count(*) = 1 FROM pg_locks WHERE pid = $pid AND NOT granted",
		'outside: the cleanup waits in the middle');
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)"), 't',
		'outside: cancel sent');
	wait_for($node, 'postgres',
		"SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid",
		'outside: the call has ended, the session has not');
	$cleaner->query('SELECT 1');
	like($cleaner->{stderr}, qr/canceling statement due to user request/,
		'outside: with an error');
	$holder->query_safe('SELECT pg_advisory_unlock(4711)');
	$holder->quit;
	$cleaner->quit;
	untouched('outside');
}

# ---- statement_timeout in the middle of a batch: no time left to stop in order.
{
	mischief(1, 'sleep');
	my ($rc, $err);
	for (1 .. 5)
	{
		($rc, undef, $err) = $node->psql('postgres',
			"\\set VERBOSITY verbose\nSET statement_timeout = '5s'; $call");
		last if $rc != 0;
		# a slow server has come so late to the batch that it did not begin it
	}
	isnt($rc, 0, 'statement_timeout: fails');
	like($err, qr/ERROR:  57014: canceling statement due to statement timeout/,
		'statement_timeout: by the timeout');
	untouched('statement_timeout');
}

# ---- lock_timeout is the caller's, where it waits for the whole table.
{
	mischief(0, undef);
	my $holder = $node->background_psql('postgres');

	$holder->query_safe('BEGIN');
	$holder->query_safe('LOCK TABLE executions IN SHARE MODE');
	psql_fails($node, 'postgres', "SET lock_timeout = '50ms'; $call", '55P03',
		'lock_timeout on the table');
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	untouched('lock_timeout');
}

# ---- A statement_timeout that is too short for all of it: the call stops between two
# ---- batches and keeps what it has done.  Each row takes 5 ms and more, all of them 25 s.
{
	mischief(0, 'dawdle');
	my $s;
	for my $attempt (1 .. 5)
	{
		$s = eval {
			cleanup($node, 'postgres', $t1, before => "SET statement_timeout = '10s'",
				retention_days => 30, min_executions_to_keep => 0, batch_size => 10);
		};
		last if $s && $s->{deleted} > 0;
		# a server that stands still for seconds is too late to stop, or to begin
		die $@ if !$s && ($attempt == 5 || $@ !~ /canceling statement due to statement timeout/);
	}

	is($s->{stop_reason}, 'time', 'time: stops by itself');
	ok($s->{has_more}, 'time: and says that there is more');
	cmp_ok($s->{deleted}, '>', 0, "time: having deleted $s->{deleted} rows");
	cmp_ok($s->{deleted}, '<', $rows, 'time: not all');
	is($s->{deleted}, $s->{batches} * 10, 'time: in whole batches');
	is($node->safe_psql('postgres', 'SELECT count(*), min(id) FROM executions'),
		($rows - $s->{deleted}) . '|' . ($s->{deleted} + 1), 'time: the oldest first');

	# Put them back.
	$node->safe_psql('postgres',
		'TRUNCATE executions;' . fill_tenant($t1, $rows, newest => 50));
}

# ---- Without a time limit nothing like it happens.
{
	mischief(0, undef);
	my $session = $node->background_psql('postgres');

	$session->query_safe("SET statement_timeout = '10min'");
	$session->query_safe('BEGIN');
	my $s = session_cleanup($session, $t1, retention_days => 30,
		min_executions_to_keep => 0, batch_size => 10);
	is($s->{stop_reason}, 'done', 'time enough: done');
	is($s->{deleted}, $rows, 'time enough: all of it');
	$session->query_safe('ROLLBACK');
	$session->quit;
	untouched('time enough');
}

# ---- Terminated.
{
	mischief(2050, 'terminate');
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$call");

	isnt($rc, 0, 'terminate: fails');
	like($err, qr/terminating connection due to administrator command/,
		'terminate: by the administrator');
	cmp_ok(seen(), '<=', 2100, 'terminate: took effect within the batch');
	wait_for($node, 'postgres', q{
		SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()},
		'terminate: the backend is gone');
	untouched('terminate');
}

# ---- kill -9 in the middle: the server recovers, and the call never happened.
{
	mischief(1234, 'wait');
	my $holder = $node->background_psql('postgres', on_error_stop => 0);
	my $cleaner = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $cleaner->query_safe('SELECT pg_backend_pid()');

	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	$cleaner->query_until(qr/calling/, "\\echo calling\n$call;\n");
	wait_for($node, 'postgres',
		"SELECT count(*) = 1 FROM pg_locks WHERE pid = $pid AND NOT granted",
		'kill -9: the cleanup waits in the middle');
	# What it has written so far is on its way to disk.
	$node->safe_psql('postgres', 'CHECKPOINT');
	is(PostgreSQL::Test::Utils::system_log('pg_ctl', 'kill', 'KILL', $pid), 0,
		'kill -9: sent');
	eval { $cleaner->quit };
	eval { $holder->quit };
	wait_for($node, 'postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid",
		'kill -9: the server is back');
	untouched('kill -9');
	mischief(0, undef);
	my $s = cleanup($node, 'postgres', $t1, retention_days => 30,
		min_executions_to_keep => 10);
	is($s->{deleted}, $rows - 10, 'kill -9: the next call does it all');
	is($node->safe_psql('postgres', 'SELECT count(*), min(id) FROM executions'),
		'10|' . ($rows - 9), 'kill -9: but for the newest');
}

$node->stop;
done_testing();
