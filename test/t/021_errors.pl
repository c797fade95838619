# 021_errors.pl - one tenant's trouble stops no other's cleanup: failing triggers,
# foreign keys, locked rows, deadlocks, serialization failures, other cleanups.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('errors', 'max_connections = 30');
my ($ta, $tb, $tc) = map { tenant($_) } 1 .. 3;

$node->safe_psql('postgres', prepare_runs() . 'ALTER TABLE executions ADD COLUMN note text');

# Three tenants with 314 rows each, of which 290 go, the other 24 being too young; or,
# with "newest" 50, 304 go and the minimum keeps 10.  Ids are from 1, 1001 and 2001 on,
# the oldest rows are those of the first tenant.
sub refill
{
	my (%opt) = @_;
	my $newest = $opt{newest} // 29;

	$node->safe_psql('postgres', 'TRUNCATE executions, execution_retention_policies CASCADE;'
		  . join('', map { policy($_, 30, 10) } $ta, $tb, $tc)
		  . rows_of($ta, 314, newest => $newest)
		  . rows_of($tb, 314, newest => $newest, first => 1001)
		  . rows_of($tc, 314, newest => $newest, first => 2001));
	mischief($node);
	remember($node);
	return;
}

# The rows of the latest run, tenant by tenant.
sub last_tenants
{
	my ($columns) = @_;

	return $node->safe_psql('postgres', "
		SELECT right(tenant_id::text, 1), $columns FROM retention.run_tenant
		WHERE run_id = (SELECT max(id) FROM retention.run_history) ORDER BY 1");
}

sub stayed
{
	my ($tenant) = @_;

	return $node->safe_psql('postgres',
		"SELECT count(*) FROM executions WHERE tenant_id = '$tenant'");
}

# ---- A trigger fails for one tenant.
{
	refill();
	mischief($node, 1001 => 'raise');
	my $err = run($node, '', name => 'trigger');

	like($err, qr/WARNING:  RT001: could not clean tenant $tb/, 'trigger: names the tenant');
	like($err, qr/DETAIL:  row 1001 may not go \(SQLSTATE RT001\)/, 'trigger: and the reason');
	like($err, qr/NOTICE:  00000: retention run partial after \d+\.\d s: 580 rows deleted/, 'trigger: sums up');
	like($err, qr/WARNING:  01000: 1 tenant could not be cleaned/, 'trigger: warns');
	is(last_run($node, 'status, stop_reason, tenants, tenants_failed, rows_deleted, message IS NULL'),
		'partial|done|3|1|580|t', 'trigger: history of the run');
	is(last_tenants('rows_deleted, sqlstate, message'),
		"1|290||\n2|0|RT001|row 1001 may not go\n3|290||", 'trigger: history of the tenants');
	is(verdict($node), '290|0', 'trigger: the others are clean');
	is(stayed($tb), '314', 'trigger: the one is as it was');
	is($node->safe_psql('postgres', 'SELECT count(last_cleanup_at) FROM execution_retention_policies'),
		'2', 'trigger: it has no last cleanup');

	# in its third batch
	mischief($node, 1250 => 'raise');
	$err = run($node, 'batch_size => 100', name => 'third batch');
	is(last_run($node, 'status, tenants_failed, rows_deleted'), 'partial|1|200',
		'third batch: history of the run');
	is(last_tenants('rows_deleted, batches, sqlstate'), '2|200|2|RT001',
		'third batch: what was done before is on record');
	is($node->safe_psql('postgres', "SELECT count(*), min(id) FROM executions WHERE tenant_id = '$tb'"),
		'114|1201', 'third batch: and stays done');
	is($node->safe_psql('postgres', "SELECT last_cleanup_deleted_count FROM execution_retention_policies
			WHERE tenant_id = '$tb'"), '200', 'third batch: the policy has it, too');

	# nothing but failures
	mischief($node, 1201 => 'raise');
	$err = run($node, '', name => 'nothing but failures');
	is(last_run($node, 'status, tenants_due, tenants_failed, rows_deleted'), 'failed|1|1|0',
		'nothing but failures: failed');

	mischief($node);
	run($node, '', name => 'mended');
	is(last_run($node, 'status, rows_deleted'), 'succeeded|90', 'mended: succeeded');
	is(verdict($node), '0|0', 'mended: all that is due is gone');
	no_locks_left($node, 'trigger');
}

# ---- What looks like a cancel, and what PL/pgSQL does not catch unless it is told to, is one
# tenant's trouble as well.
foreach my $case (
	[ 'P0004', "ASSERT OLD.tenant_id <> '$ta'" ],
	[ '57014', "IF OLD.tenant_id = '$ta' THEN RAISE query_canceled; END IF" ])
{
	my ($sqlstate, $statement) = @$case;

	refill();
	$node->safe_psql('postgres', "
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN $statement; RETURN NULL; END \$\$;
		CREATE TRIGGER fail AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION fail()");
	my $err = run($node, '', name => $sqlstate);
	like($err, qr/WARNING:  $sqlstate: could not clean tenant $ta/, "$sqlstate in a trigger: names the tenant");
	is(last_run($node, 'status, stop_reason, tenants, tenants_failed, rows_deleted'), 'partial|done|3|1|580',
		"$sqlstate in a trigger: the run goes on");
	is(last_tenants('rows_deleted, sqlstate'), "1|0|$sqlstate\n2|290|\n3|290|", "$sqlstate in a trigger: history of the tenants");
	$node->safe_psql('postgres', 'DROP FUNCTION fail() CASCADE');
}

# ---- A trigger keeps rows: that is no error of the run, and nobody turns in circles, but
# ---- history and status have it, whether the tenant is cleaned alone or with others.
{
	refill();
	# twenty more of the oldest instant, so that there are more of them than a batch has
	$node->safe_psql('postgres', "
		INSERT INTO executions SELECT 3000 + i, tenant_id, started_at, created_at
		FROM executions, generate_series(1, 20) i WHERE id = 1");
	my @kept = (1, 50, 51, 52, 290, 3001, 3002, 3020);
	mischief($node, map { $_ => 'keep' } @kept);
	remember($node);
	$node->safe_psql('postgres', 'UPDATE oracle SET goes = false WHERE id IN (' . join(',', @kept) . ')');
	run($node, 'batch_size => 7', name => 'kept by a trigger');
	is(verdict($node), '0|0', 'kept by a trigger: the others are gone');
	is(last_run($node, 'status, rows_deleted, rows_skipped_locked, rows_skipped_protected'),
		'succeeded|' . (3 * 290 + 20 - @kept) . '|0|0', 'kept by a trigger: not counted for the run');
	is(last_tenants('rows_deleted, rows_kept, sqlstate'), "1|302|8|\n2|290|0|\n3|290|0|",
		'kept by a trigger: counted for the tenant');

	my $status = "SELECT severity, message FROM retention.status WHERE tenant_id = '$ta'";
	is($node->safe_psql('postgres', $status),
		'info|Up to 8 due rows stay because a trigger or row-level security keeps them.',
		'kept by a trigger: status says so');
	$node->safe_psql('postgres', rows_of($tb, 2, newest => 40, first => 4001));
	run($node, '', name => 'kept again');
	is(last_tenants('rows_deleted, batches, rows_kept'), "1|0|0|8\n2|2|1|0", 'kept again: counted in a group');
	run($node, "'$ta'", name => 'kept alone');
	is(last_tenants('rows_deleted, rows_kept'), '1|0|8', 'kept alone: counted');
	mischief($node);
	run($node, '', name => 'kept no more');
	is(last_tenants('rows_deleted, rows_kept'), '1|8|0', 'kept no more: nothing is left');
	is($node->safe_psql('postgres', $status), 'ok|Nothing is due.', 'kept no more: status says so');
}

# ---- Rows that foreign keys protect.
{
	$node->safe_psql('postgres', q{
		CREATE TABLE by_no_action (e bigint REFERENCES executions);
		CREATE TABLE by_restrict (e bigint REFERENCES executions ON DELETE RESTRICT);
		CREATE TABLE by_deferred (e bigint REFERENCES executions DEFERRABLE INITIALLY DEFERRED);
		CREATE TABLE by_cascade (e bigint REFERENCES executions ON DELETE CASCADE);
		CREATE TABLE by_set_null (e bigint REFERENCES executions ON DELETE SET NULL);
		CREATE INDEX ON by_no_action (e); CREATE INDEX ON by_restrict (e); CREATE INDEX ON by_deferred (e);
		CREATE INDEX ON by_cascade (e); CREATE INDEX ON by_set_null (e)});
	refill();
	$node->safe_psql('postgres', q{
		INSERT INTO by_no_action VALUES (1), (150), (314);
		INSERT INTO by_restrict VALUES (1001), (1290), (1291);
		INSERT INTO by_deferred VALUES (2001), (2100), (2101), (2102);
		INSERT INTO by_cascade SELECT id FROM executions WHERE id % 10 = 5;
		INSERT INTO by_set_null SELECT id FROM executions WHERE id % 10 = 6;
		UPDATE oracle SET goes = false WHERE id IN (SELECT e FROM by_no_action
			UNION ALL SELECT e FROM by_restrict UNION ALL SELECT e FROM by_deferred)});
	my $err = run($node, 'batch_size => 100', name => 'foreign keys');

	is(verdict($node), '0|0', 'foreign keys: all but the protected rows are gone');
	is(last_tenants('rows_deleted, rows_skipped_protected, sqlstate'),
		"1|288|2|\n2|288|2|\n3|286|4|", 'foreign keys: counted, tenant by tenant');
	is(last_run($node, 'tenants_failed, rows_deleted, rows_skipped_protected'), '0|862|8',
		'foreign keys: and for the run');
	is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM by_cascade),
			(SELECT count(e) FROM by_set_null), (SELECT count(*) FROM by_set_null)'),
		'6|6|93', 'foreign keys: what goes along went');

	# they stop nothing the next time, and go once nothing refers to them
	run($node, '', name => 'foreign keys again');
	is(last_run($node, 'rows_deleted, rows_skipped_protected'), '0|8',
		'foreign keys again: still protected');
	is(verdict($node), '0|0', 'foreign keys again: still there');
	$node->safe_psql('postgres', q{
		TRUNCATE by_no_action, by_restrict, by_deferred});
	run($node, '', name => 'unprotected');
	is(last_run($node, 'status, rows_deleted, rows_skipped_protected'), 'succeeded|8|0',
		'unprotected: they go');
	$node->safe_psql('postgres',
		'DROP TABLE by_no_action, by_restrict, by_deferred, by_cascade, by_set_null');
}

# ---- Rows that others hold: of tenants with younger rows, and of those whose last rows
# ---- the minimum keeps, where a locked row may be the next one to keep.
foreach my $newest (29, 50)
{
	my $goes = $newest == 29 ? 290 : 304;
	my $where = $newest == 29 ? 'behind younger rows' : 'next to the minimum';
	my $holder = $node->background_psql('postgres');

	refill(newest => $newest);
	$holder->query_safe("BEGIN; UPDATE executions SET note = 'mine' WHERE id IN (10, 150, 151, 2001)");
	run($node, 'batch_size => 100', before => "SET retention.lock_timeout = '100ms'", name => "locked $where");
	$node->safe_psql('postgres',
		'UPDATE oracle SET goes = false WHERE id IN (10, 150, 151, 2001)');
	is(verdict($node), '0|0', "locked $where: all other rows are gone");
	is(last_tenants('rows_deleted, rows_skipped_locked, sqlstate'),
		join("\n", '1|' . ($goes - 3) . '|3|', "2|$goes|0|", '3|' . ($goes - 1) . '|1|'),
		"locked $where: counted, tenant by tenant");
	is(last_run($node, 'tenants_failed, rows_deleted, rows_skipped_locked'),
		'0|' . (3 * $goes - 4) . '|4', "locked $where: and for the run");

	# night after night, as by a prepared transaction that nobody remembers
	$node->safe_psql('postgres', "
		UPDATE execution_retention_policies SET updated_at = now() - interval '40 days';
		UPDATE retention.run_history SET started_at = started_at - interval '80 hours', finished_at = finished_at - interval '80 hours'");
	run($node, '', before => "SET retention.lock_timeout = '100ms'", name => "still locked $where");
	is($node->safe_psql('postgres', q{
			SELECT right(tenant_id::text, 1), severity, regexp_replace(message, '\d{4}-\d\d-\d\d', '...') FROM retention.status
			WHERE severity = 'warning' ORDER BY 1}),
		"1|warning|Rows have been due since ... and others hold them, 3 in the last run: "
		  . "look for old transactions in pg_prepared_xacts and pg_stat_activity.\n"
		  . "3|warning|Rows have been due since ... and others hold them, 1 in the last run: "
		  . "look for old transactions in pg_prepared_xacts and pg_stat_activity.",
		"still locked $where: status says so, of the tenants whose rows they are");
	$holder->query_safe('ROLLBACK');
	run($node, '', name => "no longer locked $where");
	is(last_run($node, 'status, rows_deleted, rows_skipped_locked'), 'succeeded|4|0',
		"no longer locked $where: they go");

	# let go of while the run is at it: tried again
	refill(newest => $newest);
	$holder->query_safe("BEGIN; UPDATE executions SET note = 'mine' WHERE id IN (10, 150)");
	my $run = start_run($node, 'batch_size => 100', before => "SET retention.lock_timeout = '3min'");
	wait_for($node, 'postgres', "
		SELECT count(*) = 0 FROM executions
		WHERE tenant_id = '$ta' AND (id <= 200 AND id NOT IN (10, 150))",
		"held $where: the first two batches go on");
	# the first time it waits 100 ms at most, so this is the second time
	wait_for($node, 'postgres', "
		SELECT count(*) = 1 FROM pg_locks
		WHERE pid = $run->{pid} AND NOT granted AND clock_timestamp() - waitstart > '1 s'",
		"held $where: the run waits for the rows");
	$holder->query_safe('COMMIT');
	wait_until_over($run, "held $where");
	is(verdict($node), '0|0', "held $where: the rows are gone, too");
	is(last_run($node, 'status, rows_deleted, rows_skipped_locked'),
		'succeeded|' . 3 * $goes . '|0', "held $where: and none is counted as locked");
	finish_run($run);
	$holder->quit;
}

# ---- Somebody holds a policy: what was deleted stays and is on record.
{
	refill();
	my $holder = $node->background_psql('postgres');

	my $pid = $holder->query_safe('SELECT pg_backend_pid()');
	$holder->query_safe("BEGIN; UPDATE execution_retention_policies SET retention_days = 31 WHERE tenant_id = '$tb'");
	# until it waits for its client it counts as at work
	wait_for($node, 'postgres', "SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = $pid", 'held policy: it is held');
	my $err = run($node, '', before => "SET retention.lock_timeout = '100ms'", name => 'held policy');
	is(verdict($node), '0|0', 'held policy: the rows are gone, by the policy as committed');
	is(last_tenants('rows_deleted, sqlstate'), "1|290|\n2|290|\n3|290|", 'held policy: history');
	is(last_run($node, 'status, rows_deleted'), 'succeeded|870', 'held policy: history of the run');
	like($err, qr/WARNING:  55P03: could not note in all policies .*\n.*Other sessions hold 1 of them, that of tenant $tb among them/,
		'held policy: says so');
	is($node->safe_psql('postgres', 'SELECT count(last_cleanup_at) FROM execution_retention_policies'), '2',
		'held policy: it alone has no last cleanup');
	$holder->query_safe('ROLLBACK');
	$holder->quit;
}

# ---- A deadlock with the application: the run loses it and tries again.
{
	my $deadlocks = q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'};
	my $before = $node->safe_psql('postgres', $deadlocks);

	# A slow server may commit before the second tenant, or find a row locked for too long
	# before it finds the deadlock.
	for (1 .. 5)
	{
		refill();
		my $holder = $node->background_psql('postgres');
		my $app = $node->background_psql('postgres', on_error_stop => 0);

		# The run deletes rows of the first tenant and stands at one of the second, in the
		# same transaction; the application holds a row that it will come to.
		mischief($node, 1005 => 'wait');
		$holder->query_safe('SELECT pg_advisory_lock(4711)');
		$app->query_safe("SET deadlock_timeout = '1h'; BEGIN;
			UPDATE executions SET note = 'mine' WHERE id = 1100");
		my $run = start_run($node, '',
			before => "SET deadlock_timeout = '10ms'; SET retention.lock_timeout = '3min'");
		wait_until_stopped($run, 'deadlock');
		if (stayed($ta) eq '314')
		{
			$app->query_until(qr/updating/, "\\echo updating\nUPDATE executions SET note = 'mine' WHERE id = 100;\n");
			wait_for($node, 'postgres', "
				SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted",
				'deadlock: the application waits for the run');
		}
		release($holder);
		# it goes on when the run has committed, before its second attempt
		$app->query_safe('COMMIT');
		wait_until_over($run, 'deadlock');
		is(verdict($node), '0|0', 'deadlock: all that is due is gone');
		is(last_run($node, 'status, tenants_failed, rows_deleted, rows_skipped_locked'),
			'succeeded|0|870|0', 'deadlock: no error is left');
		unlike(finish_run($run), qr/WARNING|ERROR/, 'deadlock: nor said');
		$app->quit;
		$holder->quit;
		# with it go its numbers to where all can see them
		wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $run->{pid}",
			'deadlock: the session is gone');
		last if $node->safe_psql('postgres', $deadlocks) > $before;
	}
	is($node->safe_psql('postgres', $deadlocks), $before + 1, 'deadlock: it was one');
	no_locks_left($node, 'deadlock');
}

# ---- Under REPEATABLE READ and SERIALIZABLE, an update that gets in between.
foreach my $level ('repeatable read', 'serializable')
{
	refill();
	my $holder = $node->background_psql('postgres');

	mischief($node, 1005 => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, 'batch_size => 100',
		before => "SET default_transaction_isolation = '$level'");
	wait_until_stopped($run, $level);
	$node->safe_psql('postgres', "UPDATE executions SET note = 'changed' WHERE id = 1050");
	release($holder);
	wait_until_over($run, $level);
	is(verdict($node), '0|0', "$level: all that is due is gone");
	is(last_run($node, 'status, tenants_failed, rows_deleted'), 'succeeded|0|870',
		"$level: after another attempt");
	unlike(finish_run($run), qr/WARNING|ERROR/, "$level: no error is said");
	$holder->quit;
}

# ---- What a block does after a run is at the session's level.
{
	my (undef, undef, $err) = $node->psql('postgres', q{SET default_transaction_isolation = 'repeatable read';
		DO $$ BEGIN CALL retention.run(); RAISE NOTICE 'then: %', current_setting('transaction_isolation'); END $$});

	like($err, qr/NOTICE:  then: repeatable read/, 'after a run: the level is what it was');
}

# ---- Nor when two runs begin at once, and both find one that was interrupted.
foreach my $level ('repeatable read', 'serializable')
{
	my $name = "two at once, $level";
	my $blocker = $node->background_psql('postgres');
	my $waiting = q{FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted};

	refill();
	$node->safe_psql('postgres', q{INSERT INTO retention.run_history (started_at, run_by, pid) VALUES (now(), 'nobody', 1)});
	hold_history($node, 4711, 'BEFORE UPDATE ON retention.run_history FOR EACH STATEMENT');
	$blocker->query_safe('SELECT pg_advisory_lock(4711)');
	my @runs = map { start_run($node, '', before => "SET default_transaction_isolation = '$level'") } 1 .. 2;
	wait_for($node, 'postgres', "SELECT count(*) = 2 $waiting", "$name: they begin");
	release($blocker);
	$blocker->quit;
	foreach my $run (@runs)
	{
		wait_until_over($run, $name);
		unlike(finish_run($run), qr/WARNING|ERROR/, "$name: no error");
	}
	is($node->safe_psql('postgres', q{SELECT string_agg(status, ' ' ORDER BY id) FROM
			(SELECT * FROM retention.run_history ORDER BY id DESC LIMIT 3) AS x}), 'interrupted succeeded succeeded',
		"$name: both do their work");
	unhold_history($node);
}

# ---- Several runs share the tenants.
{
	refill();
	my $holder = $node->background_psql('postgres');
	my $runs = $node->safe_psql('postgres', 'SELECT max(id) FROM retention.run_history');

	mischief($node, 5 => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $first = start_run($node, '');
	wait_until_stopped($first, 'several');
	my $err = run($node, '', name => 'the second');
	like($err, qr/NOTICE:  00000: retention run succeeded after \d+\.\d s: 580 rows deleted, tenants cleaned: 2, left to others: 1/,
		'the second: cleans what is free');
	is(last_run($node, 'status, tenants_due, tenants, tenants_busy, rows_deleted'),
		'succeeded|3|2|1|580', 'the second: history');
	$err = run($node, '', name => 'the third');
	like($err, qr/NOTICE:  00000: all tenants that are due are being cleaned by others/,
		'the third: says that all is taken');
	unlike($err, qr/WARNING|ERROR/, 'the third: without complaint');
	is(last_run($node, 'status, tenants_due, tenants, tenants_busy, rows_deleted'),
		'succeeded|1|0|1|0', 'the third: history');
	release($holder);
	wait_until_over($first, 'the first');
	finish_run($first);
	is(verdict($node), '0|0', 'several: all that is due is gone');
	is($node->safe_psql('postgres', "
			SELECT id - $runs, status, tenants_due, tenants_busy, rows_deleted
			FROM retention.run_history WHERE id > $runs ORDER BY 1"),
		"1|succeeded|3|0|290\n2|succeeded|3|1|580\n3|succeeded|1|1|0",
		'several: the sums are right');
	is($node->safe_psql('postgres', "
			SELECT count(*), count(DISTINCT tenant_id), sum(rows_deleted)
			FROM retention.run_tenant WHERE run_id > $runs"), '3|3|870',
		'several: each tenant once');
	$holder->quit;
	no_locks_left($node, 'several');
}

# ---- A cleanup by hand that is not committed yet.
{
	refill();
	my $session = $node->background_psql('postgres');

	$session->query_safe("BEGIN; SELECT deleted_count FROM cleanup_old_executions('$ta')");
	run($node, '', name => 'by hand');
	is(last_run($node, 'status, tenants_due, tenants, tenants_busy, rows_deleted'),
		'succeeded|3|2|1|580', 'by hand: its tenant is left to it');
	$session->query_safe('ROLLBACK');
	run($node, '', name => 'not by hand');
	is(last_run($node, 'tenants, tenants_busy, rows_deleted'), '1|0|290',
		'not by hand: the next run cleans it');
	is(verdict($node), '0|0', 'not by hand: all that is due is gone');
	$session->quit;

	# and the other way round
	refill();
	my $holder = $node->background_psql('postgres');
	mischief($node, 5 => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, '');
	wait_until_stopped($run, 'other way');
	psql_fails($node, 'postgres', "SET lock_timeout = '50ms';
		SELECT cleanup_old_executions('$ta');", '55P03', 'other way: a call waits for the run');
	is(cleanup($node, 'postgres', $tb)->{deleted}, 290, 'other way: not for other tenants');
	release($holder);
	wait_until_over($run, 'other way');
	finish_run($run);
	is(verdict($node), '0|0', 'other way: all that is due is gone');
	$holder->quit;
}

# ---- Many tenants, four runs at once.
{
	my @tenants = map { tenant(1000 + $_) } 1 .. 150;

	$node->safe_psql('postgres', 'TRUNCATE executions; TRUNCATE execution_retention_policies;'
		  . join('', map {
				rows_of($tenants[$_], 20 + $_ % 60, newest => 31 + $_ % 7, first => 1000 * $_)
				  . policy($tenants[$_], 30, $_ % 30)
			} 0 .. $#tenants));
	remember($node);
	mischief($node);
	my $runs = $node->safe_psql('postgres', 'SELECT max(id) FROM retention.run_history');
	my $script = $node->basedir . '/run.sql';
	append_to_file($script, "CALL retention.run(batch_size => 25);\n");
	$node->command_ok([ 'pgbench', '-n', '-c', '4', '-t', '2', '-f', $script, 'postgres' ],
		'at once: four runs, twice');
	is(verdict($node), '0|0', 'at once: all that is due is gone');
	is($node->safe_psql('postgres', "
			SELECT count(*), count(*) FILTER (WHERE status = 'succeeded'),
				   sum(rows_deleted) = (SELECT count(*) FROM oracle WHERE goes),
				   sum(tenants_failed)
			FROM retention.run_history WHERE id > $runs"), '8|8|t|0', 'at once: the sums are right');
	is($node->safe_psql('postgres', "
			SELECT count(*) = count(DISTINCT tenant_id), sum(rows_deleted) = (SELECT count(*) FROM oracle WHERE goes)
			FROM retention.run_tenant WHERE run_id > $runs"), 't|t', 'at once: each tenant once');
	is($node->safe_psql('postgres', 'SELECT count(*) = count(DISTINCT id) FROM gone'), 't',
		'at once: each row once');
	no_locks_left($node, 'at once');
}

# ---- The extended protocol, as drivers speak it.
foreach my $protocol ('extended', 'prepared')
{
	refill();
	my $script = $node->basedir . "/$protocol.sql";
	append_to_file($script, "CALL retention.run(batch_size => 50);\n");
	$node->command_ok([ 'pgbench', '-n', '-c', '1', '-t', '2', '-M', $protocol, '-f', $script, 'postgres' ],
		"$protocol protocol: two runs");
	is(verdict($node), '0|0', "$protocol protocol: all that is due is gone");
}

# ---- Runs and calls by hand while the application inserts rows, old and new ones, starts
# ---- old ones that had never been started, and holds others for a moment.
{
	my $dir = $node->basedir;

	$node->safe_psql('postgres', q{
		TRUNCATE executions, execution_retention_policies;
		CREATE SEQUENCE ids START 1000000;
		CREATE TABLE ever (id bigint PRIMARY KEY, tenant_id uuid, t timestamptz);
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
		SELECT lpad(n::text, 32, '0')::uuid, 30, n * 3 FROM generate_series(1, 20) n;
		CREATE FUNCTION add_rows(tenant integer, rows integer) RETURNS void LANGUAGE sql AS $$
			WITH fresh AS (
				INSERT INTO public.executions (id, tenant_id, started_at, created_at)
				SELECT nextval('public.ids'), lpad(tenant::text, 32, '0')::uuid,
					   CASE WHEN random() < 0.6 THEN t END, t
				FROM (SELECT now() - interval '1 hour' * floor(random() * 100 * 24) AS t
					  FROM generate_series(1, rows)) AS x
				RETURNING *)
			INSERT INTO public.ever SELECT id, tenant_id, COALESCE(started_at, created_at) FROM fresh
		$$;
		CREATE FUNCTION start_row(tenant integer) RETURNS void LANGUAGE sql AS $$
			WITH started AS (
				UPDATE public.executions SET started_at = now(), note = 'started'
				WHERE id = (SELECT id FROM public.executions
							WHERE tenant_id = lpad(tenant::text, 32, '0')::uuid AND started_at IS NULL
							ORDER BY created_at LIMIT 1)
					  AND started_at IS NULL
				RETURNING id)
			UPDATE public.ever SET t = now() FROM started WHERE ever.id = started.id
		$$;
		SELECT add_rows(n, 200) FROM generate_series(1, 20) n});
	my %script = (
		run => 'CALL retention.run(batch_size => 20);',
		call => "\\set n random(1, 20)\nSELECT cleanup_old_executions(lpad(:n::text, 32, '0')::uuid, p_batch_size => 10);",
		insert => "\\set n random(1, 20)\nSELECT add_rows(:n, 10);",
		start => "\\set n random(1, 20)\nSELECT start_row(:n);",
		hold => "\\set n random(1, 20)\nBEGIN;\nUPDATE executions SET note = 'held' WHERE id IN
			(SELECT id FROM executions WHERE tenant_id = lpad(:n::text, 32, '0')::uuid ORDER BY created_at LIMIT 5
			 FOR UPDATE SKIP LOCKED);\n\\sleep 30 ms\nCOMMIT;");
	append_to_file("$dir/$_.sql", ($script{$_} =~ s/\n\t+/ /gr) . "\n") foreach keys %script;
	$node->command_ok([ 'pgbench', '-n', '-c', '8', '-T', '5',
			'-f', "$dir/run.sql\@2", '-f', "$dir/call.sql\@2", '-f', "$dir/insert.sql\@6",
			'-f', "$dir/start.sql\@6", '-f', "$dir/hold.sql\@2", 'postgres' ],
		'in the middle of it all: nobody fails');
	note($node->safe_psql('postgres', q{
		SELECT format('%s rows ever, %s deleted in %s runs, %s rows held, %s errors', (SELECT count(*) FROM ever),
			(SELECT count(*) FROM ever WHERE id NOT IN (SELECT id FROM executions)), count(*),
			sum(rows_skipped_locked), sum(tenants_failed)) FROM retention.run_history
		UNION ALL SELECT format('%s times %s %s', count(*), sqlstate, message) FROM retention.run_tenant
		WHERE sqlstate <> 'RT001' GROUP BY sqlstate, message}));
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM ever WHERE t > now() - interval '29 days' AND id NOT IN (SELECT id FROM executions)}),
		'0', 'in the middle of it all: no young row is gone, nor one that was started in time');
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM execution_retention_policies AS p,
				LATERAL (SELECT t FROM ever WHERE tenant_id = p.tenant_id ORDER BY t DESC
						 OFFSET p.min_executions_to_keep - 1 LIMIT 1) AS edge,
				LATERAL (SELECT count(*) AS have FROM ever AS x
						 WHERE x.tenant_id = p.tenant_id AND x.t >= edge.t
							   AND id IN (SELECT id FROM executions)) AS left_over
			WHERE have < p.min_executions_to_keep}),
		'0', 'in the middle of it all: each tenant has the newest that it has to keep');
	is($node->safe_psql('postgres', 'SELECT count(*) = count(DISTINCT id) FROM gone'), 't',
		'in the middle of it all: each row went once');
	remember($node);
	run($node, '', name => 'in the middle of it all: a last run');
	is(verdict($node), '0|0', 'in the middle of it all: leaves what the oracle says');
	no_locks_left($node, 'in the middle of it all');
}

$node->stop;
done_testing();
