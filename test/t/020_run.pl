# 020_run.pl - CALL retention.run(): what it cleans and what it leaves alone, what it
# commits together, what it writes down, and where it refuses to work.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('run');
my ($big, $small, $disabled, $nobody, $new, $few, $ties, $unknown) =
  map { tenant($_) } 1 .. 8;
my @tiny = map { tenant(100 + $_) } 1 .. 50;

$node->safe_psql('postgres', prepare_runs()
	  # 3000 hours are 125 days, of which 30 stay
	  . rows_of($big, 3000) . policy($big, 30, 100)
	  . rows_of($small, 500, newest => 50, nulls => 3, first => 10_001)
	  . policy($small, 30, 10)
	  . rows_of($disabled, 200, newest => 50, first => 20_001)
	  . policy($disabled, 30, 10, enabled => 0)
	  . rows_of($nobody, 200, newest => 50, first => 30_001)
	  . rows_of($new, 200, newest => 1, first => 40_001)
	  . policy($new, 30, 10)
	  . rows_of($few, 80, newest => 50, first => 50_001)
	  . policy($few, 30, 100)
	  . policy($ties, 30, 100)
	  . "INSERT INTO executions
		 SELECT 60000 + i, '$ties', CASE WHEN i % 2 = 0 THEN now() - interval '50 days' END,
				now() - interval '50 days'
		 FROM generate_series(1, 150) i;"
	  . rows_of($unknown, 30, newest => 50, nulls => 2, first => 70_001)
	  . policy($unknown, 30, 0)
	  . "INSERT INTO executions SELECT 71000 + i, '$unknown', NULL, NULL FROM generate_series(1, 20) i;"
	  . join('', map {
			rows_of($tiny[$_], 30, newest => 40 + $_, first => 100_001 + 100 * $_)
			  . policy($tiny[$_], 30, 5)
		} 0 .. $#tiny));

# Policies as they are, to see what a run changes.
my $policies = q{
	SELECT tenant_id, xmin, last_cleanup_at, last_cleanup_deleted_count, updated_at
	FROM execution_retention_policies ORDER BY 1};

# ---- Where it cannot commit it does not begin.
{
	my %refused = (
		'a transaction block' => 'BEGIN; CALL retention.run();',
		'a function' => q{
			CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL retention.run(); END';
			SELECT f();},
		'a SQL procedure' => q{
			CREATE PROCEDURE p() LANGUAGE sql AS 'CALL retention.run()';
			CALL p();},
		'a procedure with a SET clause' => q{
			CREATE PROCEDURE q() LANGUAGE plpgsql SET work_mem = '4MB'
			AS 'BEGIN CALL retention.run(); END';
			CALL q();},
		'an exception block' =>
		  'DO $$ BEGIN CALL retention.run(); EXCEPTION WHEN division_by_zero THEN NULL; END $$;',
		'a string of several statements' => 'SELECT 1 \; CALL retention.run();');

	foreach my $where (sort keys %refused)
	{
		my $err = psql_fails($node, 'postgres', $refused{$where}, '2D000', $where);

		like($err, qr/retention\.run\(\) cannot run inside a transaction block/,
			"$where: says why");
		like($err, qr/HINT:  Send CALL retention\.run\(\) as a statement of its own/,
			"$where: and what to do");
	}
	psql_fails($node, 'postgres',
		'SET default_transaction_read_only = on; CALL retention.run();', '25006',
		'a read-only transaction');
}

# ---- Arguments that mean nothing.
{
	my %bad = (
		q{batch_size => 0} => qr/argument "batch_size" must be between 1 and 1000000/,
		q{batch_size => 1000001} => qr/argument "batch_size" must be between/,
		q{max_rows_per_second => -1} => qr/argument "max_rows_per_second" must not be negative/,
		q{max_replication_lag => 'much'} => qr/argument "max_replication_lag" must be an amount of WAL/,
		q{max_replication_lag => '-1MB'} => qr/argument "max_replication_lag" must be/,
		q{max_runtime => '-1 second'} => qr/argument "max_runtime" must not be negative/,
		q{pause_between_batches => '-1 second'} => qr/argument "pause_between_batches" must not be negative/);

	foreach my $argument (sort keys %bad)
	{
		like(psql_fails($node, 'postgres', "CALL retention.run($argument);", '22023', $argument),
			$bad{$argument}, "$argument: text");
	}
}

# ---- The master switch.
{
	my $err = run($node, '', before => 'SET retention.enabled = off', name => 'switched off');
	like($err, qr/WARNING:  01000: retention is switched off/, 'switched off: says so');
	like($err, qr/HINT:  Set retention\.enabled to on/, 'switched off: and what to do');
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_history'), '0',
	'none of these is a run');
is($node->safe_psql('postgres', 'SELECT count(*) FROM gone'), '0', 'nor did it delete a row');

# ---- One run over everything, stopped once to look at it.
{
	my $holder = $node->background_psql('postgres');

	remember($node);
	my $goes = $node->safe_psql('postgres', 'SELECT count(*) FROM oracle WHERE goes');
	my $of_big = $node->safe_psql('postgres',
		"SELECT count(*) FROM oracle WHERE goes AND tenant_id = '$big'");
	mischief($node, 250 => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');

	my $run = start_run($node, 'batch_size => 100');
	wait_until_stopped($run, 'run');
	is($node->safe_psql('postgres',
			"SELECT count(*), min(id) FROM executions WHERE tenant_id = '$big'"),
		'2800|201', 'run: another session sees that two batches are committed');
	is(last_run($node, "status, finished_at IS NULL, stop_reason IS NULL, tenants_due,
			current_tenant, retention.run_is_alive(id), pid = $run->{pid}"),
		"running|t|t|55|$big|t|t", 'run: history says that it is running');
	is(last_run($node, 'rows_deleted'), gone($node), 'run: and how many rows are gone');
	is($node->safe_psql('postgres',
			"SELECT rows_deleted, batches FROM retention.run_tenant WHERE tenant_id = '$big'"),
		'200|2', 'run: and how many of this tenant');
	is($node->safe_psql('postgres',
			"SELECT query ~ '^retention: tenant $big \\(\\d+ of 55\\), \\d+ rows deleted'
			 FROM pg_stat_activity WHERE pid = $run->{pid}"), 't',
		'run: pg_stat_activity says what it is at');
	release($holder);
	my $err = finish_run($run);
	like($err, qr/NOTICE:  00000: retention run succeeded after \d+\.\d s: $goes rows deleted, tenants cleaned: \d+, left to others: 0/,
		'run: sums up');
	unlike($err, qr/WARNING|ERROR/, 'run: no complaint');
	$holder->quit;

	is(verdict($node), '0|0', 'run: what the oracle says is gone, no more and no less');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM gone}), $goes,
		'run: each row once');
	is($node->safe_psql('postgres',
			"SELECT count(*) FROM executions WHERE tenant_id = '$ties'"), '100',
		'run: of a tie at the boundary exactly the minimum is left');
	is($node->safe_psql('postgres',
			"SELECT count(*) FROM executions WHERE tenant_id = '$unknown'"), '20',
		'run: rows of unknown age are left');
	is($node->safe_psql('postgres', "
			SELECT tenant_id, count(*) FROM executions
			WHERE tenant_id IN ('$disabled', '$nobody', '$new', '$few') GROUP BY 1 ORDER BY 1"),
		"$disabled|200\n$nobody|200\n$new|200\n$few|80",
		'run: disabled, without a policy, new or protected: untouched');

	# what was committed together
	is($node->safe_psql('postgres', "
			SELECT count(DISTINCT xid) FROM gone WHERE tenant_id = '$big'"),
		int(($of_big + 99) / 100), 'run: a commit for each batch of a large tenant');
	is($node->safe_psql('postgres',
			'SELECT max(n) < 200 FROM (SELECT count(*) n FROM gone GROUP BY xid) x'), 't',
		'run: no transaction has two batches');
	my $commits = $node->safe_psql('postgres', "
		SELECT count(DISTINCT xid) FROM gone
		WHERE tenant_id IN ('" . join("','", @tiny) . "')");
	# one that is a second old is committed, however little it has
	my $seconds = last_run($node, 'floor(extract(epoch FROM finished_at - started_at))');
	cmp_ok($commits, '<=', 20 + $seconds, "run: fifty small tenants share $commits commits");

	# what history says
	is(last_run($node, "status, stop_reason, run_by = current_user, only_tenant IS NULL,
			tenants_due, tenants, tenants_busy, tenants_failed, rows_deleted,
			rows_skipped_locked, rows_skipped_protected,
			-- on a slow server the session before may not be gone yet
			CASE WHEN waited_ms = 0 THEN waited_for IS NULL ELSE waited_for = 'other sessions' END,
			waiting_for IS NULL, current_tenant IS NULL, message IS NULL,
			finished_at > started_at, wal_bytes > 100000, retention.run_is_alive(id)"),
		"succeeded|done|t|t|55|55|0|0|$goes|0|0|t|t|t|t|t|t|f", 'history: the run');
	is(last_run($node, 'rows_estimated BETWEEN rows_deleted AND 2 * rows_deleted'), 't',
		'history: its estimate is of the right size');
	is($node->safe_psql('postgres', q{
			SELECT count(*), sum(rows_deleted), sum(batches) >= (SELECT batches FROM retention.run_history)
			FROM retention.run_tenant}), "54|$goes|t", 'history: the tenants add up');
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM retention.run_tenant AS t
				 FULL JOIN (SELECT tenant_id, count(*) AS n FROM gone GROUP BY 1) AS g USING (tenant_id)
			WHERE t.rows_deleted IS DISTINCT FROM g.n OR t.sqlstate IS NOT NULL
				  OR t.message IS NOT NULL OR t.rows_skipped_locked + t.rows_skipped_protected <> 0}),
		'0', 'history: tenant by tenant');

	# what the policies say
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM execution_retention_policies AS p
				 JOIN retention.run_tenant AS t USING (tenant_id), retention.run_history AS r
			WHERE p.last_cleanup_deleted_count = t.rows_deleted
				  AND p.last_cleanup_at BETWEEN r.started_at AND r.finished_at
				  AND p.updated_at = p.created_at}), '54',
		'policies: what was cleaned has its last cleanup on record');
	is($node->safe_psql('postgres', q{
			SELECT string_agg(right(tenant_id::text, 2), ' ' ORDER BY tenant_id)
			FROM execution_retention_policies
			WHERE last_cleanup_at IS NULL AND last_cleanup_deleted_count = 0}),
		'03 05 06', 'policies: what was not, has not');
	no_locks_left($node, 'run');
	mischief($node);
}

# ---- Nothing due: nothing is written but the run's own row.
{
	my $before = $node->safe_psql('postgres', $policies);

	remember($node);
	my $err = run($node, '', name => 'nothing due');
	like($err, qr/NOTICE:  00000: retention run succeeded after \d+\.\d s: 0 rows deleted/, 'nothing due: says so');
	is(verdict($node), '0|0', 'nothing due: all is there');
	is($node->safe_psql('postgres', $policies), $before, 'nothing due: no policy is touched');
	is(last_run($node, 'status, rows_deleted, batches, tenants_failed'), 'succeeded|0|0|0',
		'nothing due: history');
	is($node->safe_psql('postgres', '
			SELECT count(*) FROM retention.run_tenant
			WHERE run_id = (SELECT max(id) FROM retention.run_history)'), '0',
		'nothing due: no row for any tenant');
}

# ---- One tenant; disabled ones with and without force.
{
	$node->safe_psql('postgres',
		rows_of($small, 50, newest => 60, first => 200_001)
		  . rows_of($big, 50, newest => 60, first => 210_001));
	remember($node, tenant => $small);
	run($node, "tenant => '$small'", name => 'one tenant');
	is(verdict($node), '0|0', 'one tenant: no other is touched');
	is(last_run($node, 'only_tenant, tenants_due, tenants, rows_deleted'), "$small|1|1|50",
		'one tenant: history');

	remember($node, tenant => $nobody);
	my $before = $node->safe_psql('postgres', 'SELECT max(id) FROM retention.run_history');
	like(psql_fails($node, 'postgres', "CALL retention.run('$nobody');", '42704', 'no policy'),
		qr/tenant "$nobody" has no retention policy/, 'no policy: says so');
	is(last_run($node, 'status, rows_deleted, message, finished_at IS NOT NULL, id'),
		"failed|0|tenant \"$nobody\" has no retention policy|t|" . ($before + 1), 'no policy: history');
	is(gone($node), '0', 'no policy: nothing is deleted');

	my $err = run($node, "'$disabled'", name => 'disabled');
	like($err, qr/NOTICE:  00000: the policy of tenant $disabled is disabled/, 'disabled: says so');
	like($err, qr/HINT:  To clean the tenant all the same, pass force => true/,
		'disabled: and what to do');
	is(gone($node), '0', 'disabled: nothing is deleted');

	remember($node, force => 1);
	run($node, 'force => true', name => 'force');
	is(verdict($node), '0|0', 'force: disabled policies, too');
	is($node->safe_psql('postgres',
			"SELECT count(*) FROM executions WHERE tenant_id = '$disabled'"), '10',
		'force: by their own numbers');
}

# ---- Tenants without a policy, by the default settings.
{
	my $default = q{SET retention.apply_default_policy = on;
		SET retention.default_retention_days = 40;
		SET retention.default_min_executions_to_keep = 17};

	remember($node, default => [ 40, 17 ]);
	run($node, '', before => $default, name => 'default policy');
	is(verdict($node), '0|0', 'default policy: they are cleaned');
	is($node->safe_psql('postgres',
			"SELECT count(*) FROM executions WHERE tenant_id = '$nobody'"), '17',
		'default policy: as the settings say');
	is($node->safe_psql('postgres',
			"SELECT count(*) FROM execution_retention_policies WHERE tenant_id = '$nobody'"), '0',
		'default policy: and have none afterwards');

	$node->safe_psql('postgres', rows_of($nobody, 20, newest => 90, first => 220_001));
	remember($node, default => [ 40, 17 ], tenant => $nobody);
	run($node, "tenant => '$nobody'", before => $default, name => 'default policy, one tenant');
	is(verdict($node), '0|0', 'default policy, one tenant: cleaned');
	is(last_run($node, 'tenants_due, rows_deleted'), '1|20', 'default policy, one tenant: history');
}

# ---- From a DO block it may commit.
{
	$node->safe_psql('postgres', rows_of($big, 30, newest => 80, first => 230_001));
	remember($node);
	is($node->psql('postgres', 'DO $$ BEGIN CALL retention.run(batch_size => 10); END $$'), 0,
		'DO: works');
	is(verdict($node), '0|0', 'DO: what the oracle says');
	is($node->safe_psql('postgres', 'SELECT count(DISTINCT xid) FROM gone'), '3',
		'DO: a commit for each batch');

	# in a loop over a query, too
	$node->safe_psql('postgres', rows_of($big, 30, newest => 80, first => 240_001)
		  . rows_of($small, 30, newest => 80, first => 250_001));
	remember($node);
	is($node->psql('postgres', 'DO $$ DECLARE t uuid; BEGIN
			FOR t IN SELECT tenant_id FROM execution_retention_policies WHERE is_enabled LOOP
				CALL retention.run(t, batch_size => 10);
			END LOOP; END $$', extra_params => ['-q']), 0, 'DO: works in a loop');
	is(verdict($node), '0|0', 'DO: in a loop, what the oracle says');
}

# ---- A run that commits all the time is not taken for dead in between, neither by those
# ---- who look nor by other runs.
{
	my ($run, $looks, $dead);

	$node->safe_psql('postgres', 'CREATE TABLE looks (n integer, dead integer)');
	# who looks may stand still while the run goes on to its end
	for (1 .. 5)
	{
		$node->safe_psql('postgres', rows_of($big, 4000, newest => 80, first => 300_001));
		remember($node);
		mischief($node, 300_100 => 'wait');
		my $looker = $node->background_psql('postgres', timeout => 3600);
		$looker->query_safe('SELECT pg_advisory_lock(4711)');
		$run = start_run($node, "tenant => '$big', batch_size => 1", before => 'SET synchronous_commit = off');
		wait_until_stopped($run, 'alive');
		# "dead" though history, looked at later, still has it as running
		($looks, $dead) = split /\|/, $looker->query_safe(q{
			TRUNCATE looks;
			DO $$
			DECLARE
				r record;
				dead integer := 0;
				n integer := 0;
			BEGIN
				PERFORM pg_advisory_unlock(4711);
				LOOP
					SELECT id, status, retention.run_is_alive(id) AS alive INTO r
					FROM retention.run_history ORDER BY id DESC LIMIT 1;
					EXIT WHEN r.status <> 'running' OR n = 20000;
					n := n + 1;
					IF NOT r.alive AND (SELECT status FROM retention.run_history WHERE id = r.id) = 'running' THEN
						dead := dead + 1;
					END IF;
				END LOOP;
				INSERT INTO looks VALUES (n, dead);
			END $$;
			SELECT * FROM looks});
		$looker->quit;
		mischief($node);
		last if $looks > 100 || $dead > 0;
		wait_until_over($run, 'alive');
		finish_run($run);
	}
	cmp_ok($looks, '>', 100, "alive: looked at it $looks times");
	is($dead, '0', 'alive: it was, each time');
	my $others = 0;
	while (last_run($node, "bool_or(pid = $run->{pid} AND status = 'running') OVER ()") eq 't')
	{
		# who asks all the time makes it rest
		$others++ < 5 ? run($node, "'$few'", name => 'alive: another run') : sleep 2;
	}
	wait_until_over($run, 'alive');
	unlike(finish_run($run), qr/WARNING|ERROR/, 'alive: it ends well');
	is($node->safe_psql('postgres', "
			SELECT status, rows_deleted FROM retention.run_history WHERE pid = $run->{pid}"),
		'succeeded|4000', 'alive: history has it all');
	is(verdict($node), '0|0', 'alive: what the oracle says');
}

# ---- History does not grow without bound.
{
	$node->safe_psql('postgres', q{
		INSERT INTO retention.run_history (started_at, run_by, pid, status)
		VALUES (now() - interval '11 days', 'x', 1, 'succeeded'), (now() - interval '9 days', 'x', 1, 'failed');
		INSERT INTO retention.run_tenant
			(run_id, tenant_id, rows_deleted, batches, rows_skipped_locked, rows_skipped_protected, finished_at)
		SELECT id, gen_random_uuid(), 0, 0, 0, 0, now() FROM retention.run_history WHERE pid = 1});
	run($node, '', before => 'SET retention.history_days = 10', name => 'pruning');
	is($node->safe_psql('postgres', q{
			SELECT r.status, count(t.*) FROM retention.run_history AS r
				 LEFT JOIN retention.run_tenant AS t ON t.run_id = r.id
			WHERE r.pid = 1 GROUP BY r.id}), 'failed|1', 'pruning: by retention.history_days');

	# it fails: the run has been one that succeeded all the same
	my $old = "INSERT INTO retention.run_history (started_at, run_by, pid, status) VALUES (now() - interval '11 days', 'x', 1, 'succeeded')";
	$node->safe_psql('postgres', "$old;
		CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'not now'; END \$\$;
		CREATE TRIGGER stay BEFORE INSERT ON retention.run_pruned FOR EACH ROW EXECUTE FUNCTION stay()");
	my $err = run($node, '', before => 'SET retention.history_days = 10', name => 'pruning fails');
	like($err, qr/WARNING:  P0001: could not remove old history\n.*DETAIL:  not now\n.*HINT:  The next run tries again/,
		'pruning fails: a warning');
	is(last_run($node, 'status, stop_reason'), 'succeeded|done', 'pruning fails: the run succeeded');
	$node->safe_psql('postgres', 'DROP FUNCTION stay() CASCADE');

	# it is cancelled
	my $holder = $node->background_psql('postgres');
	hold_history($node, 4711, 'BEFORE INSERT ON retention.run_pruned FOR EACH ROW');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, '', before => 'SET retention.history_days = 10');
	wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_locks WHERE pid = $run->{pid} AND NOT granted", 'pruning is cancelled: it waits');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})");
	wait_until_over($run, 'pruning is cancelled');
	like(finish_run($run), qr/ERROR:  57014/, 'pruning is cancelled: told');
	is(last_run($node, 'status, stop_reason'), 'succeeded|done', 'pruning is cancelled: the run succeeded');
	$holder->quit;
	unhold_history($node);
	run($node, '', before => 'SET retention.history_days = 10', name => 'pruning again');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_history WHERE pid = 1'), '1', 'pruning again: the next run does it');
}

# ---- A run that goes on longer than history is kept: its row stays until it has ended.
{
	my $holder = $node->background_psql('postgres');
	my $tenant = '99999999-0000-4000-8000-000000000001';
	my $ours = "FROM retention.run_history AS r LEFT JOIN retention.run_tenant AS t ON t.run_id = r.id WHERE r.pid";

	$node->safe_psql('postgres', rows_of($tenant, 100, newest => 40, first => 900001) . policy($tenant, 30, 0));
	mischief($node, 900050 => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, 'batch_size => 10');
	wait_until_stopped($run, 'long run');
	$node->safe_psql('postgres', "UPDATE retention.run_history SET started_at = now() - interval '11 days' WHERE pid = $run->{pid}");
	run($node, '', before => 'SET retention.history_days = 10', name => 'long run: pruning beside it');
	is($node->safe_psql('postgres', "SELECT r.status, t.rows_deleted $ours = $run->{pid}"), 'running|40',
		'long run: it is still there');
	$holder->quit;
	wait_until_over($run, 'long run');
	unlike(finish_run($run), qr/WARNING|ERROR/, 'long run: ends well');
	is($node->safe_psql('postgres', "SELECT r.status, r.rows_deleted, t.rows_deleted $ours = $run->{pid}"), 'succeeded|100|100',
		'long run: what it did is on record');
	run($node, '', before => 'SET retention.history_days = 10', name => 'long run: pruning after it');
	is($node->safe_psql('postgres', "SELECT count(*) $ours = $run->{pid}"), '0', 'long run: gone when it is over');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_tenant WHERE run_id NOT IN (SELECT id FROM retention.run_history)'),
		'0', 'long run: no details without a run');
	mischief($node);
}

# ---- The log.
{
	my $at = -s $node->logfile;
	run($node, '', before => 'SET retention.log_min_duration = 0', name => 'log');
	like(slurp_file($node->logfile, $at), qr/LOG:  retention run \d+ succeeded \(done\): 0 rows, /,
		'log: one line for a run');
	$at = -s $node->logfile;
	run($node, '', before => 'SET retention.log_min_duration = -1', name => 'no log');
	unlike(slurp_file($node->logfile, $at), qr/LOG:  retention run/, 'log: none if so set');
}

$node->stop;
done_testing();
