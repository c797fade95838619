# 026_hard_cases.pl - what happens to a cleanup when something goes wrong at a bad
# moment: a cancel, a trigger that fails or calls back, a lock, a policy that changes,
# thousands of tenants, row-level security, and memory over twenty thousand batches.
#
# One server with little room for locks, one database per case.  Where a call has to
# stop at an exact row, a trigger of the test's own table waits for an advisory lock.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest qw(over_query);
use Test::More;

my $node = start_node(
	'hard_cases',
	'max_locks_per_transaction = 10',
	'max_connections = 20');
my @t = map { tenant($_) } 0 .. 5;

$node->safe_psql('postgres', 'CREATE DATABASE base');
$node->safe_psql('base',
	    executions_table(extra => '; ALTER TABLE executions ADD PRIMARY KEY (id)')
	  . q{
	CREATE SEQUENCE executions_id OWNED BY executions.id;
	ALTER TABLE executions ALTER id SET DEFAULT nextval('executions_id');
	CREATE EXTENSION retention;

	CREATE FUNCTION t(i int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
		SELECT ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid $$;

	-- gives tenants 1 .. n so many rows and a policy of 30 days without a minimum
	CREATE FUNCTION give(tenants int, row_count int, age interval DEFAULT '400 days')
	RETURNS void LANGUAGE sql AS $$
		INSERT INTO executions (tenant_id, started_at)
		SELECT t(i), now() - age + j * interval '1 s'
		FROM generate_series(1, tenants) i, generate_series(1, row_count) j;
		INSERT INTO execution_retention_policies
			(tenant_id, retention_days, min_executions_to_keep)
		SELECT t(i), 30, 0 FROM generate_series(1, tenants) i $$;

	-- waits for good: a batch has a lock_timeout of its own
	CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock(4711);
		RETURN OLD;
	END $$;
	-- outside of a run there is no lock of one
	CREATE VIEW leftover AS SELECT locktype, objsubid, mode FROM pg_locks
		WHERE locktype = 'advisory'
			  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
	CREATE VIEW last_run AS SELECT * FROM retention.run_history ORDER BY id DESC LIMIT 1;
	-- what a test asks meanwhile makes its sessions others that are at work, now and then
	CREATE FUNCTION waited_for(last_run) RETURNS text LANGUAGE sql AS
		$$SELECT replace(replace($1.waited_for, 'other sessions, ', ''), ', other sessions', '')$$});

# A database for a case.
sub make_db
{
	my ($db, $sql) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE base");
	$node->safe_psql($db, $sql);
	return;
}

sub sql_is
{
	my ($db, $sql, $expected, $name) = @_;
	my $result = $node->safe_psql($db, $sql);

	return is($result, $expected, $name);
}

# A session that survives errors and says their SQLSTATEs, and its process.
sub open_session
{
	my ($db) = @_;
	my $session = $node->background_psql($db, on_error_stop => 0);

	# a statement at a time, not all of them
	$session->set_query_timer_restart();
	$session->query_safe('\set VERBOSITY verbose');
	return ($session, $session->query_safe('SELECT pg_backend_pid()'));
}

# Lets the session begin a statement, and does not wait for its end.
sub begin_statement
{
	my ($session, $sql) = @_;

	$session->query_until(qr/calling/, "\\echo calling\n$sql;\n");
	return;
}

# Runs a statement, and returns what it printed and its messages without psql's prefix.
sub run_statement
{
	my ($session, $sql) = @_;
	my ($out) = $session->query($sql);
	my $messages = $session->{stderr} =~ s/^psql:<stdin>:\d+: //mgr;

	$session->{stderr} = '';
	return ($out, $messages);
}

# Waits for the end of what begin_statement() began, and returns the same.
sub end_statement
{
	my ($session) = @_;

	return run_statement($session, '\echo');
}

# Waits until this process waits for a lock.
sub wait_for_waiting
{
	my ($db, $pid, $where, $name) = @_;

	wait_for($node, $db,
		"SELECT count(*) > 0 FROM pg_locks WHERE pid = $pid AND NOT granted AND $where",
		$name);
	return;
}

my $gate_is_shut = "locktype = 'advisory' AND objid = 4711";

# ---- A run that is cancelled counts what it had committed, not what was undone.
{
	my $db = 'cancelled';

	make_db($db, "SELECT give(3, 50);
		CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			PERFORM pg_cancel_backend(pg_backend_pid());
			PERFORM pg_sleep(600);
			RETURN OLD;
		END \$\$;
		CREATE SEQUENCE seen;
		CREATE FUNCTION count_seen() RETURNS bigint LANGUAGE sql VOLATILE AS
			\$\$ SELECT nextval('public.seen') \$\$;
		-- whichever tenant is the last: its 25th row
		CREATE TRIGGER boom BEFORE DELETE ON executions FOR EACH ROW
			WHEN (count_seen() = 125) EXECUTE FUNCTION boom()");

	# all in one transaction
	my $err = psql_fails($node, $db, 'CALL retention.run()', '57014', 'cancelled');
	like($err, qr/canceling statement due to user request/, 'cancelled: by request');
	# but for the first tenant, where that takes a second
	my $slow = $node->safe_psql($db, "SELECT finished_at - started_at > '1 s' FROM last_run") eq 't';
	my $gone = 150 - $node->safe_psql($db, 'SELECT count(*) FROM executions');
	my $n = $gone / 50;
	like($gone, $slow ? qr/^(0|50)$/ : qr/^0$/, 'cancelled: nothing is gone');
	sql_is($db,
		'SELECT status, stop_reason, rows_deleted, batches, tenants, tenants_failed,
			current_tenant IS NULL, finished_at IS NOT NULL, message FROM last_run',
		"cancelled|cancelled|$gone|$n|$n|0|t|t|canceling statement due to user request",
		'cancelled: and nothing counted');
	sql_is($db, 'SELECT count(*) FROM retention.run_tenant', $n, 'cancelled: for no tenant');
	sql_is($db, 'SELECT count(*) FROM execution_retention_policies
			WHERE last_cleanup_at IS NOT NULL', $n, 'cancelled: in no policy');

	# a transaction for each tenant
	$node->safe_psql($db, "TRUNCATE executions, execution_retention_policies;
		SELECT setval('seen', 1, false), give(3, 50)");
	psql_fails($node, $db, 'CALL retention.run(batch_size => 50)', '57014', 'cancelled later');
	sql_is($db, 'SELECT count(*) FROM executions', '50', 'cancelled later: two tenants are clean');
	sql_is($db,
		'SELECT status, stop_reason, rows_deleted, batches, tenants, tenants_due FROM last_run',
		'cancelled|cancelled|100|2|2|3', 'cancelled later: and counted');
	sql_is($db,
		'SELECT count(*), sum(t.rows_deleted), sum(t.batches)
		FROM retention.run_tenant AS t JOIN last_run AS r ON t.run_id = r.id',
		'2|100|2', 'cancelled later: tenant by tenant');

	# several transactions for a tenant: 120 rows of it are 12 batches
	$node->safe_psql($db, "TRUNCATE executions, execution_retention_policies;
		SELECT setval('seen', 1, false), give(1, 200)");
	psql_fails($node, $db, 'CALL retention.run(batch_size => 10)', '57014', 'cancelled midway');
	sql_is($db, 'SELECT count(*) FROM executions', '80', 'cancelled midway: 12 batches stay done');
	sql_is($db,
		'SELECT r.status, r.rows_deleted, r.batches, r.tenants, t.rows_deleted, t.batches
		FROM retention.run_tenant AS t JOIN last_run AS r ON t.run_id = r.id',
		'cancelled|120|12|0|120|12', 'cancelled midway: and counted');

	sql_is($db, 'SELECT * FROM leftover', '', 'cancelled: no lock is left');
	$node->safe_psql($db, 'CALL retention.run()');
	sql_is($db, 'SELECT (SELECT count(*) FROM executions), status, rows_deleted FROM last_run',
		'0|succeeded|80', 'cancelled: the next run does the rest');
}

# ---- When the end of a run cannot be recorded, the caller still learns why it ended.
{
	my $db = 'unrecorded';

	make_db($db, q{SELECT give(3, 50);
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.status <> 'running' THEN
				RAISE EXCEPTION 'no row may say %', NEW.status USING ERRCODE = 'RT001';
			END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON retention.run_history
			FOR EACH ROW EXECUTE FUNCTION refuse()});

	my ($session, $pid) = open_session($db);
	my $began = time;
	my (undef, $messages) = run_statement($session, 'CALL retention.run()');
	my $slow = time - $began >= 1;
	like($messages, qr/^ERROR:  RT001: no row may say succeeded$/m,
		'unrecorded: the first error reaches the caller');
	like($messages,
		qr/^WARNING:  01000: could not record the end of the run\nDETAIL:  no row may say failed$/m,
		'unrecorded: the second is a warning');
	sql_is($db, 'SELECT * FROM leftover', '', 'unrecorded: no lock is left');
	sql_is($db, 'SELECT status, retention.run_status(id) FROM last_run',
		'running|interrupted', 'unrecorded: seen as interrupted at once');
	# but for the first tenant, where that takes a second
	my $left = $node->safe_psql($db, 'SELECT count(*) FROM executions');
	like($left, $slow ? qr/^1[05]0$/ : qr/^150$/, 'unrecorded: nothing is gone');

	$node->safe_psql($db, 'DROP TRIGGER refuse ON retention.run_history');
	(undef, $messages) = run_statement($session, 'CALL retention.run()');
	like($messages, qr/retention run succeeded after .*: $left rows deleted/,
		'unrecorded: the session goes on with another run');
	sql_is($db, 'SELECT id, status, finished_at IS NOT NULL FROM retention.run_history ORDER BY id',
		"1|interrupted|t\n2|succeeded|t", 'unrecorded: which marks the one before');
	$session->quit;
}

# ---- A second cancel, while the first one is recorded.
{
	my $db = 'cancelled_twice';

	make_db($db, "SELECT give(1, 100);
		CREATE TRIGGER gate BEFORE DELETE ON executions FOR EACH ROW
			WHEN (OLD.id = 45) EXECUTE FUNCTION gate();
		-- another gate, before the record: for a lock on its table it would wait ten seconds
		CREATE FUNCTION gate_of_record() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS \$\$
		BEGIN PERFORM pg_advisory_xact_lock(4712); RETURN NEW; END \$\$;
		CREATE TRIGGER gate BEFORE UPDATE ON retention.run_history FOR EACH ROW
			WHEN (NEW.status = 'cancelled') EXECUTE FUNCTION gate_of_record()");
	my ($holder) = open_session($db);
	my ($runner, $pid) = open_session($db);

	$holder->query_safe('SELECT pg_advisory_lock(4711), pg_advisory_lock(4712)');
	begin_statement($runner, 'CALL retention.run(batch_size => 10)');
	wait_for_waiting($db, $pid, $gate_is_shut, 'cancelled twice: the run is in its fifth batch');
	sql_is($db, "SELECT pg_cancel_backend($pid)", 't', 'cancelled twice: once');
	wait_for_waiting($db, $pid, "locktype = 'advisory' AND objid = 4712",
		'cancelled twice: the run waits to record it');
	sql_is($db, "SELECT pg_cancel_backend($pid)", 't', 'cancelled twice: twice');
	my (undef, $messages) = end_statement($runner);
	like($messages, qr/^ERROR:  57014: canceling statement due to user request$/m,
		'cancelled twice: an error');
	like($messages, qr/^WARNING:  01000: could not record the end of the run$/m,
		'cancelled twice: a warning');
	$holder->query_safe('SELECT pg_advisory_unlock_all()');
	sql_is($db, 'SELECT * FROM leftover', '', 'cancelled twice: no lock is left');
	sql_is($db, 'SELECT status, retention.run_status(id), rows_deleted FROM last_run',
		'running|interrupted|40', 'cancelled twice: seen as interrupted at once');
	(undef, $messages) = run_statement($runner, 'CALL retention.run()');
	like($messages, qr/retention run succeeded after .*: 60 rows deleted/,
		'cancelled twice: the session goes on with another run');
	sql_is($db, 'SELECT id, status, rows_deleted FROM retention.run_history ORDER BY id',
		"1|interrupted|40\n2|succeeded|60", 'cancelled twice: which marks the one before');
	$_->quit for $holder, $runner;
}

# ---- The owner's trigger cannot leave anything behind in a superuser's session.
{
	my $db = 'owners_trigger';

	make_db($db, q{SELECT give(3, 50);
		CREATE ROLE app3;
		ALTER TABLE executions OWNER TO app3;
		GRANT CREATE ON SCHEMA public TO app3;
		GRANT TEMP ON DATABASE owners_trigger TO app3;
		SET ROLE app3;
		CREATE TABLE did (who name, how text);
		CREATE FUNCTION snare() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			CREATE TEMP TABLE audit (x text);
			RETURN OLD;
		END $$;
		CREATE FUNCTION switch() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM set_config('transform_null_equals', 'on', false),
				set_config('search_path', 'nowhere', false);
			INSERT INTO public.did VALUES (current_user, current_setting('transform_null_equals'));
			RETURN OLD;
		END $$;
		CREATE TRIGGER t BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION snare()});
	my ($session) = open_session($db);
	my $refused = 'cannot create temporary table within security-restricted operation';

	my (undef, $messages) = run_statement($session, 'CALL retention.run()');
	my @warnings =
	  $messages =~ /^WARNING:  42501: could not clean tenant .*\nDETAIL:  (.*)$/mg;
	is_deeply(\@warnings, [ ("$refused (SQLSTATE 42501)") x 3 ],
		'temp table: refused, tenant by tenant');
	sql_is($db, 'SELECT status, tenants_failed, rows_deleted FROM last_run', 'failed|3|0',
		'temp table: the run has failed');
	sql_is($db, 'SELECT DISTINCT sqlstate, message FROM retention.run_tenant', "42501|$refused",
		'temp table: history says why');
	(undef, $messages) = run_statement($session, "SELECT * FROM cleanup_old_executions('$t[1]')");
	like($messages, qr/^ERROR:  42501: $refused$/m, 'temp table: refused in a single call');
	is($session->query_safe("SELECT to_regclass('pg_temp.audit') IS NULL"), 't',
		'temp table: there is none');
	sql_is($db, 'SELECT count(*) FROM executions', '150', 'temp table: every row is there');

	$node->safe_psql($db, 'DROP TRIGGER t ON executions;
		CREATE TRIGGER t BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION switch()');
	my $settings = q{SELECT current_setting('transform_null_equals'),
		current_setting('search_path'), current_user};
	my $before = $session->query_safe($settings);
	is($session->query_safe("SELECT deleted_count FROM cleanup_old_executions('$t[1]')"), '50',
		'setting: a single call works');
	is($session->query_safe($settings), $before, 'setting: nothing has changed after it');
	(undef, $messages) = run_statement($session, 'CALL retention.run()');
	like($messages, qr/retention run succeeded after .*: 100 rows deleted/, 'setting: a run works');
	is($session->query_safe($settings), $before, 'setting: nothing has changed after it');
	sql_is($db, 'SELECT who, how, count(*) FROM did GROUP BY 1, 2', 'app3|on|150',
		'setting: though the trigger had its way, as its owner');
	sql_is($db, 'SELECT count(*) FROM executions', '0', 'setting: all rows are gone');
	$session->quit;
}

# ---- Six thousand tenants: locks are few, and there is room for no more.
{
	my $db = 'many_tenants';

	# every tenth has a row that goes; the minimum keeps the row of the others
	make_db($db, q{
		INSERT INTO executions (tenant_id, started_at)
		SELECT t(i), now() - interval '400 days' FROM generate_series(1, 6000) i;
		INSERT INTO execution_retention_policies
			(tenant_id, retention_days, min_executions_to_keep)
		SELECT t(i), 30, CASE WHEN i % 10 = 0 THEN 0 ELSE 100 END FROM generate_series(1, 6000) i;
		CREATE TABLE seen (locks bigint);
		CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.seen SELECT count(*) FROM pg_locks
			WHERE locktype = 'advisory' AND pid = pg_backend_pid();
			RETURN NULL;
		END $$;
		CREATE TRIGGER look AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION look();
		VACUUM ANALYZE});
	$node->safe_psql($db, 'CALL retention.run()');
	sql_is($db,
		'SELECT status, tenants_due, tenants, tenants_failed, tenants_busy, rows_deleted, message
		FROM last_run', 'succeeded|6000|6000|0|0|600|', 'many tenants: all of them');
	my ($rows, $most) = split /\|/, $node->safe_psql($db, 'SELECT count(*), max(locks) FROM seen');
	is($rows, 600, 'many tenants: the trigger has looked');
	cmp_ok($most, '>=', 2, 'many tenants: the run has a lock, the tenant too');
	cmp_ok($most, '<=', 110, "many tenants: at most $most locks at once");
	sql_is($db, 'SELECT count(*) FROM executions', '5400', 'many tenants: what the minimum keeps stays');
	sql_is($db, 'SELECT * FROM leftover', '', 'many tenants: no lock is left');
}

# ---- A policy that changes while the call waits for its turn.
{
	my $db = 'policy_changes';

	make_db($db, "SELECT give(1, 50, '40 days')");
	my ($first) = open_session($db);
	my ($second, $pid) = open_session($db);

	foreach my $case (
		[
			"SELECT deleted_count, execution_summary ->> 'retention_days' FROM cleanup_old_executions('$t[1]')",
			"SELECT retention.set_policy('$t[1]', 3650)",
			'0|3650', 'more days'
		],
		[
			"SELECT deleted_count, execution_summary ->> 'min_to_keep' FROM cleanup_old_executions('$t[1]')",
			"UPDATE execution_retention_policies SET retention_days = 30, min_executions_to_keep = 48",
			'2|48', 'a minimum'
		],
		[
			"SELECT deleted_count, skipped, reason FROM retention.cleanup_tenant('$t[1]')",
			"UPDATE execution_retention_policies SET min_executions_to_keep = 0, is_enabled = false",
			'0|t|the policy is disabled', 'disabled'
		],
		[
			"SELECT deleted_count, skipped, reason FROM retention.cleanup_tenant('$t[1]')",
			"DELETE FROM execution_retention_policies",
			qr/^ERROR:  42704: /m, 'removed'
		])
	{
		my ($call, $change, $expected, $name) = @$case;

		$node->safe_psql($db,
			"UPDATE execution_retention_policies SET retention_days = 30, min_executions_to_keep = 0, is_enabled = true")
		  unless $name eq 'a minimum';
		$first->query_safe('BEGIN');
		$first->query_safe("SELECT * FROM cleanup_old_executions('$t[1]', 3000)");
		begin_statement($second, $call);
		wait_for_waiting($db, $pid, "locktype = 'advisory' AND objsubid = 7265",
			"policy changes, $name: the call waits");
		$node->safe_psql($db, $change);
		$first->query_safe('COMMIT');
		my ($out, $messages) = end_statement($second);
		$out =~ s/\s+\z//;
		if (ref $expected)
		{
			like($messages, $expected, "policy changes, $name: counts");
		}
		else
		{
			is($out, $expected, "policy changes, $name: counts");
			is($messages, '', "policy changes, $name: no message");
		}
	}
	sql_is($db, 'SELECT count(*) FROM executions', '48', 'policy changes: what should stay is there');
	$_->quit for $first, $second;
}

# ---- A policy that row-level security hides is not "no policy".
{
	my $db = 'hidden_policy';

	make_db($db, "
		INSERT INTO executions (tenant_id, started_at)
		SELECT '$t[1]', now() - interval '100 days' FROM generate_series(1, 150);
		SELECT retention.set_policy('$t[1]', 3650, true, 1000);
		CREATE ROLE app6;
		GRANT SELECT, DELETE ON executions TO app6;
		GRANT SELECT ON execution_retention_policies TO app6;
		GRANT EXECUTE ON FUNCTION cleanup_old_executions TO app6;
		ALTER TABLE execution_retention_policies ENABLE ROW LEVEL SECURITY");
	my $as_app = "SET ROLE app6; SELECT deleted_count FROM cleanup_old_executions('$t[1]'";

	foreach my $case (
		[ ')', 'no argument' ],
		[ ', 30)', 'days alone' ],
		[ ', p_min_executions_to_keep => 0)', 'minimum alone' ])
	{
		my ($args, $name) = @$case;
		my $err = psql_fails($node, $db, "$as_app$args", '42501', "hidden policy, $name");

		like($err, qr/row-level security may hide the policy of the tenant/,
			"hidden policy, $name: says so");
	}
	sql_is($db, 'SELECT count(*) FROM executions', '150', 'hidden policy: every row is there');
	sql_is($db, "$as_app, 3650, 100)", '0', 'hidden policy: arguments do instead');
	sql_is($db, "$as_app, 30, 100)", '50', 'hidden policy: arguments count');
	$node->safe_psql($db, 'CREATE POLICY all_of_them ON execution_retention_policies USING (true)');
	sql_is($db, "$as_app)", '0', 'hidden policy: one that is seen counts');
}

# ---- A trigger that changes the plans under the call and calls back.
foreach my $when ('BEFORE', 'AFTER')
{
	my $db = lc "calls_back_$when";
	my $result = $when eq 'BEFORE' ? 'OLD' : 'NULL';

	make_db($db, "SELECT give(3, 50);
		INSERT INTO executions (tenant_id, started_at) SELECT t(4), now() - interval '400 days';
		CREATE TABLE inner_calls (deleted int);
		CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			IF OLD.tenant_id = '$t[1]' AND EXISTS (SELECT FROM public.executions WHERE tenant_id = '$t[2]') THEN
				ANALYZE public.executions;
				INSERT INTO public.inner_calls
				SELECT deleted_count FROM public.cleanup_old_executions('$t[2]', 30, 0, 7);
				-- what was freed wrongly is written over
				PERFORM count(repeat('x', 100 + g)) FROM generate_series(1, 1000) AS g;
			END IF;
			RETURN $result;
		END \$\$;
		CREATE TRIGGER nest $when DELETE ON executions FOR EACH ROW EXECUTE FUNCTION nest()");
	my ($session) = open_session($db);

	foreach my $batch_size (10, 1000)
	{
		my $call = "SELECT deleted_count FROM cleanup_old_executions('$t[1]', 30, 0, $batch_size)";
		my ($out, $messages) = run_statement($session, "BEGIN; $call; $call");
		is("$out$messages", "50\n0", "calls back $when, $batch_size: no error");
		is($session->query_safe('SELECT tenant_id, count(*) FROM executions GROUP BY 1 ORDER BY 1'),
			"$t[3]|50\n$t[4]|1", "calls back $when, $batch_size: the right rows are gone");
		is($session->query_safe('SELECT deleted FROM inner_calls'), '50',
			"calls back $when, $batch_size: the inner call, too");
		$session->query_safe('ROLLBACK');
	}
	my (undef, $messages) = run_statement($session, 'CALL retention.run(batch_size => 10)');
	like($messages, qr/retention run succeeded after/, "calls back $when: from a run");
	is($session->query_safe('SELECT tenant_id, count(*) FROM executions GROUP BY 1 ORDER BY 1'),
		"$t[4]|1", "calls back $when: the right rows are gone");
	$session->quit;
}

# ---- The caller's own deferred triggers run as the caller, with the caller's search path.
{
	my $db = 'deferred';

	make_db($db, q{SELECT give(2, 50);
		CREATE ROLE app9;
		ALTER TABLE executions OWNER TO app9;
		CREATE SCHEMA s;
		CREATE TABLE s.log (x int, who name, path text);
		CREATE TABLE s.a (x int);
		SET search_path = s, public;
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO log VALUES (NEW.x, current_user, current_setting('search_path'));
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER note AFTER INSERT ON a DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION note()});
	my $me = $node->safe_psql($db, 'SELECT current_user');

	is($node->safe_psql($db, "SET search_path = s, public;
			BEGIN;
			INSERT INTO a VALUES (1);
			SELECT deleted_count FROM cleanup_old_executions('$t[1]', 30, 0);
			COMMIT;
			SELECT * FROM log"), "50\n1|$me|s, public", 'deferred: they find their tables');
	sql_is($db, 'SELECT count(*) FROM executions', '50', 'deferred: and the cleanup is done');
}

# ---- A run waits for a lock on the table.
{
	my $db = 'locked_table';

	make_db($db, "SELECT give(5, 50);
		CREATE SEQUENCE seen;
		CREATE FUNCTION count_seen() RETURNS bigint LANGUAGE sql VOLATILE AS
			\$\$ SELECT nextval('public.seen') \$\$;
		CREATE TRIGGER gate BEFORE DELETE ON executions FOR EACH ROW
			WHEN (count_seen() = 125) EXECUTE FUNCTION gate();
		ALTER DATABASE $db SET retention.lock_timeout = '50ms'");
	my ($holder, $holder_pid) = open_session($db);
	my ($gate) = open_session($db);
	my ($runner, $pid) = open_session($db);

	# from the third tenant's commit on somebody else has the table
	$gate->query_safe('SELECT pg_advisory_lock(4711)');
	begin_statement($runner, 'CALL retention.run(batch_size => 50)');
	wait_for_waiting($db, $pid, $gate_is_shut, 'locked table: the run is at its third tenant');
	$holder->query_safe('BEGIN');
	begin_statement($holder, 'LOCK TABLE executions IN SHARE MODE');
	wait_for_waiting($db, $holder_pid, "relation = 'executions'::regclass",
		'locked table: another waits for the table');
	$gate->query_safe('SELECT pg_advisory_unlock(4711)');
	end_statement($holder);
	wait_for($node, $db, "SELECT waiting_for = 'a lock on the table' FROM last_run",
		'locked table: the run waits, and says so');
	sql_is($db, 'SELECT status, retention.run_status(id), tenants, rows_deleted FROM last_run',
		'running|running|3|150', 'locked table: what it has done is done');
	sql_is($db, 'SELECT count(*) FROM leftover WHERE objsubid = 7265', '0',
		'locked table: without the lock of a tenant');
	$holder->query_safe('COMMIT');
	my (undef, $messages) = end_statement($runner);
	like($messages, qr/retention run succeeded after .*: 250 rows deleted/,
		'locked table: then it finishes');
	unlike($messages, qr/ERROR|WARNING/, 'locked table: without an error');
	sql_is($db,
		'SELECT status, stop_reason, tenants, rows_deleted, tenants_failed, waited_for(last_run), waiting_for, waited_ms > 0
		FROM last_run', 'succeeded|done|5|250|0|a lock on the table||t', 'locked table: history says so');

	# max_runtime ends the wait
	$node->safe_psql($db, "TRUNCATE execution_retention_policies; SELECT give(2, 50)");
	$holder->query_safe('BEGIN');
	$holder->query_safe('LOCK TABLE executions IN SHARE MODE');
	(undef, $messages) = run_statement($runner, q{CALL retention.run(max_runtime => '400 ms')});
	like($messages, qr/retention run partial after .*: 0 rows deleted/, 'max_runtime: ends the wait');
	unlike($messages, qr/ERROR/, 'max_runtime: without an error');
	sql_is($db,
		'SELECT status, stop_reason, rows_deleted, waited_for(last_run), waiting_for, finished_at IS NOT NULL
		FROM last_run', 'partial|max_runtime|0|a lock on the table||t', 'max_runtime: history says so');
	$holder->query_safe('COMMIT');
	sql_is($db, 'SELECT count(*) FROM executions', '100', 'max_runtime: every row is there');
	sql_is($db, 'SELECT * FROM leftover', '', 'max_runtime: no lock is left');

	# a cancel, too
	$holder->query_safe('BEGIN');
	$holder->query_safe('LOCK TABLE executions IN SHARE MODE');
	begin_statement($runner, 'CALL retention.run()');
	# while it rests: a cancel that meets an attempt whose own time is just up is lost
	wait_for($node, $db, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
		WHERE pid = $pid AND wait_event_type = 'Extension' AND query ~ '^retention: waiting for a lock on the table'",
		'cancelled wait: the run waits, and is cancelled');
	(undef, $messages) = end_statement($runner);
	like($messages, qr/^ERROR:  57014: canceling statement due to user request$/m,
		'cancelled wait: an error');
	sql_is($db, 'SELECT status, waiting_for, rows_deleted FROM last_run', 'cancelled||0',
		'cancelled wait: history says so');
	$_->quit for $holder, $gate, $runner;
}

# ---- The same before anything is done for a tenant: its first batch fails in a way that
# another attempt may mend, and somebody else has the table before that.
{
	my $db = 'locked_early';

	make_db($db, "SELECT give(1, 50);
		CREATE SEQUENCE seen;
		CREATE FUNCTION count_seen() RETURNS bigint LANGUAGE sql VOLATILE AS
			\$\$ SELECT nextval('public.seen') \$\$;
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS \$\$
		BEGIN
			PERFORM pg_advisory_xact_lock(4711);
			RAISE 'try again' USING ERRCODE = 'deadlock_detected';
		END \$\$;
		CREATE TRIGGER refuse BEFORE DELETE ON executions FOR EACH ROW
			WHEN (count_seen() = 1) EXECUTE FUNCTION refuse();
		ALTER DATABASE $db SET retention.lock_timeout = '1ms'");
	my ($holder, $holder_pid) = open_session($db);
	my ($gate) = open_session($db);
	my ($other, $other_pid) = open_session($db);
	my ($runner, $pid) = open_session($db);

	# until max_runtime ends the wait, or until another has the tenant
	foreach my $arguments (q{max_runtime => '2 s'}, '')
	{
		my $name = "locked early ($arguments)";

		$node->safe_psql($db, q{SELECT setval('seen', 1, false)});
		$gate->query_safe('SELECT pg_advisory_lock(4711)');
		begin_statement($runner, "CALL retention.run($arguments)");
		wait_for_waiting($db, $pid, $gate_is_shut, "$name: the run is at its first row");
		$holder->query_safe('BEGIN');
		begin_statement($holder, 'LOCK TABLE executions IN SHARE MODE');
		wait_for_waiting($db, $holder_pid, "relation = 'executions'::regclass", "$name: another waits for the table");
		$gate->query_safe('SELECT pg_advisory_unlock(4711)');
		end_statement($holder);
		if ($arguments eq '')
		{
			$other->query_safe('BEGIN');
			begin_statement($other, "SELECT retention.lock_tenant('$t[1]')");
			wait_for_waiting($db, $other_pid, "relation = 'executions'::regclass", "$name: somebody wants the tenant");
			wait_for($node, $db, "SELECT waiting_for = 'a lock on the table' FROM last_run", "$name: the run waits");
			$holder->query_safe('COMMIT');
		}
		my (undef, $messages) = end_statement($runner);
		unlike($messages, qr/ERROR|WARNING/, "$name: no error");
		$holder->query_safe('COMMIT') if $arguments ne '';
		if ($arguments eq '')
		{
			# the one who waited for the table has it first, as a rule
			end_statement($other);
			$other->query_safe('ROLLBACK');
			like($node->safe_psql($db, 'SELECT status, tenants_busy, rows_deleted FROM last_run'),
				qr/^succeeded\|(1\|0|0\|50)$/, "$name: the tenant is left to the other");
		}
		else
		{
			sql_is($db, 'SELECT status, stop_reason, rows_deleted FROM last_run', 'partial|max_runtime|0', "$name: history says so");
			sql_is($db, 'SELECT count(*) FROM executions', '50', "$name: every row is there");
		}
		sql_is($db, 'SELECT * FROM leftover', '', "$name: no lock is left");
	}
	run_statement($runner, 'CALL retention.run()');
	sql_is($db, 'SELECT count(*) FROM executions', '0', 'locked early: the next run does it');
	$_->quit for $holder, $gate, $other, $runner;
}

# ---- The minimum is kept even if the newest rows go during the run.
{
	my $db = 'newest_go';

	make_db($db, "SELECT give(1, 3000);
		UPDATE execution_retention_policies SET min_executions_to_keep = 1000;
		CREATE TRIGGER gate BEFORE DELETE ON executions FOR EACH ROW
			WHEN (OLD.id = 250) EXECUTE FUNCTION gate();
		VACUUM ANALYZE");
	my ($gate) = open_session($db);
	my ($runner, $pid) = open_session($db);

	$gate->query_safe('SELECT pg_advisory_lock(4711)');
	begin_statement($runner, 'CALL retention.run(batch_size => 100)');
	wait_for_waiting($db, $pid, $gate_is_shut, 'newest go: the run is in its third batch');
	sql_is($db, "SET session_replication_role = replica;
			WITH d AS (DELETE FROM executions WHERE id > 2500 RETURNING id) SELECT count(*) FROM d",
		'500', 'newest go: others delete the newest rows');
	$gate->query_safe('SELECT pg_advisory_unlock(4711)');
	my (undef, $messages) = end_statement($runner);
	like($messages, qr/retention run succeeded after .*: 1500 rows deleted/, 'newest go: the run goes on');
	sql_is($db, 'SELECT count(*), min(id), max(id) FROM executions', '1000|1501|2500',
		'newest go: the minimum is there');
	$_->quit for $gate, $runner;
}

# ---- Whoever held a row may have changed the policy, or taken the newest rows, with it:
# after the wait, what is so then counts.
{
	my $db = 'after_the_wait';

	make_db($db, "SELECT give(1, 50);
		ALTER TABLE executions ADD payload text;
		CREATE SEQUENCE passed;
		CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN PERFORM nextval('public.passed'); RETURN NULL; END \$\$;
		CREATE TRIGGER pass AFTER DELETE ON executions FOR EACH ROW
			WHEN (OLD.id % 50 = 0) EXECUTE FUNCTION pass()");
	my ($holder) = open_session($db);
	my ($runner, $pid) = open_session($db);

	$runner->query_safe("SET retention.lock_timeout = '180s'");
	foreach my $case (
		[ 'UPDATE execution_retention_policies SET is_enabled = false', 'the policy is disabled' ],
		[ 'UPDATE execution_retention_policies SET min_executions_to_keep = 6', 'there is a minimum' ],
		[ "DELETE FROM executions WHERE started_at > now() - interval '1 day'", 'the newest rows are gone' ])
	{
		my ($change, $name) = @$case;

		$node->safe_psql($db, "TRUNCATE executions, execution_retention_policies RESTART IDENTITY;
			SELECT setval('passed', 1, false), give(1, 50);
			INSERT INTO executions (tenant_id, started_at) SELECT t(1), now() FROM generate_series(1, 5);
			UPDATE execution_retention_policies
			SET min_executions_to_keep = " . ($name =~ /newest/ ? 5 : 0));
		$holder->query_safe("BEGIN; UPDATE executions SET payload = 'x' WHERE id = 1; $change");
		begin_statement($runner, 'CALL retention.run()');
		# the run goes around the row first, and comes back to it
		wait_for($node, $db, 'SELECT is_called FROM passed', "after the wait, $name: the run goes around the row");
		wait_for_waiting($db, $pid, "locktype = 'transactionid'", "after the wait, $name: the run waits for it");
		sql_is($db, 'SELECT count(*) FROM executions WHERE id BETWEEN 2 AND 50', '0', "after the wait, $name: what went is committed meanwhile");
		$holder->query_safe('COMMIT');
		my (undef, $messages) = end_statement($runner);
		like($messages, qr/^NOTICE:  00000: retention run succeeded after .*: 49 rows deleted/m,
			"after the wait, $name: the run ends");
		sql_is($db, 'SELECT count(*) FROM executions WHERE id = 1', '1', "after the wait, $name: the row stays");
		sql_is($db, 'SELECT * FROM leftover', '', "after the wait, $name: no lock is left");
	}
	# a rest before it does not shorten the wait; once more where we were late, and the wait was over
	my ($messages, $attempts) = ('', 0);
	my $over = over_query({ pid => $pid });
	my $began;
	do
	{
		$node->safe_psql($db, "TRUNCATE executions, execution_retention_policies RESTART IDENTITY; SELECT give(1, 50)");
		$holder->query_safe("BEGIN; UPDATE executions SET payload = 'x' WHERE id = 1");
		$runner->query_safe("SET retention.lock_timeout = '15s'");
		$began = time;
		begin_statement($runner, "CALL retention.run(pause_between_batches => '15s')");
		wait_for($node, $db, "SELECT waiting_for IS NOT NULL OR ($over) FROM last_run", 'after the rest: the run rests');
		wait_for($node, $db, "SELECT count(*) > 0 OR ($over) FROM pg_locks
			WHERE pid = $pid AND NOT granted AND locktype = 'transactionid'", 'after the rest: the run waits');
		$holder->query_safe('COMMIT');
		(undef, $messages) = end_statement($runner);
	} while ($messages !~ /: 50 rows deleted/ && time - $began >= 25 && ++$attempts < 5);
	like($messages, qr/^NOTICE:  00000: retention run succeeded after .*: 50 rows deleted/m, 'after the rest: it takes the row as well');
	$_->quit for $holder, $runner;
}

# ---- Rows of one instant, of which some stay: between two batches one of those that go is
# gone, and one that stays moves to where that was.
{
	my ($runner, $pid, $db, $rest);

	# a longer rest where we were too slow for it
	foreach my $seconds (15, 30, 60, 120)
	{
		$db = "same_place_$seconds";
		make_db($db, "ALTER TABLE executions ADD n int;
			INSERT INTO executions (tenant_id, started_at) SELECT t(1), '2020-01-01' FROM generate_series(1, 115);
			UPDATE executions SET n = 1 WHERE id = 115;
			INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) VALUES (t(1), 30, 100)");
		($runner, $pid) = open_session($db);
		my $place = $node->safe_psql($db, 'SELECT ctid FROM executions WHERE id = 115');

		begin_statement($runner, "CALL retention.run(batch_size => 10, pause_between_batches => '$seconds s')");
		wait_for($node, $db, q{SELECT waiting_for IS NOT NULL OR status <> 'running' FROM last_run}, 'same place: the run rests');
		$node->safe_psql($db, $_)
		  for 'DELETE FROM executions WHERE id = 115', 'VACUUM (INDEX_CLEANUP off, TRUNCATE off) executions', 'UPDATE executions SET n = 1 WHERE id = 50';
		my $moved = $node->safe_psql($db, 'SELECT ctid FROM executions WHERE id = 50');
		$rest = $node->safe_psql($db, 'SELECT status, rows_deleted FROM last_run');
		if ($rest ne 'running|10' && $seconds < 120)
		{
			$runner->quit;
			next;
		}
		is($moved, $place, 'same place: a row that stays is where one was that went');
		last;
	}
	is($rest, 'running|10', 'same place: and the run rests still');
	my (undef, $messages) = end_statement($runner);
	like($messages, qr/retention run succeeded after .*: 14 rows deleted/, 'same place: the run goes on');
	sql_is($db, 'SELECT count(*), count(*) FILTER (WHERE id = 50) FROM executions', '100|1', 'same place: the minimum stays');
	$runner->quit;
}

# ---- Rows that come into the range of a batch that was planned long ago.
{
	my $db = 'old_times';

	make_db($db, "SELECT give(1, 100);
		UPDATE executions SET started_at = now() - interval '400 days' + id * interval '1 minute';
		CREATE TABLE gone (xid bigint);
		CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN INSERT INTO public.gone VALUES (txid_current()); RETURN NULL; END \$\$;
		CREATE TRIGGER gate BEFORE DELETE ON executions FOR EACH ROW
			WHEN (OLD.id = 5) EXECUTE FUNCTION gate();
		CREATE TRIGGER write_down AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION write_down()");
	my ($gate) = open_session($db);
	my ($runner, $pid) = open_session($db);

	$gate->query_safe('SELECT pg_advisory_lock(4711)');
	begin_statement($runner, 'CALL retention.run(batch_size => 10)');
	wait_for_waiting($db, $pid, $gate_is_shut, 'old times: the run is in its first batch');
	$node->safe_psql($db, "INSERT INTO executions (tenant_id, started_at)
		SELECT t(1), now() - interval '400 days' + interval '15 minutes' + i * interval '1 ms'
		FROM generate_series(1, 500) AS i");
	# older than what the run takes for new
	$gate->query_safe('SELECT pg_sleep(1.1)');
	$gate->query_safe('SELECT pg_advisory_unlock(4711)');
	my (undef, $messages) = end_statement($runner);
	like($messages, qr/retention run succeeded after .*: 600 rows deleted/, 'old times: the run goes on');
	sql_is($db, 'SELECT max(count) FROM (SELECT count(*) FROM gone GROUP BY xid) AS s', '10',
		'old times: in batches of the size asked for');
	$_->quit for $gate, $runner;
}

# ---- Many rows of one instant that stay, for longer than times looked up are good.
{
	my $db = 'ties_held';

	make_db($db, "SELECT give(1, 120);
		UPDATE executions SET started_at = now() - interval '500 days' WHERE id <= 100");
	my ($holder) = open_session($db);
	my ($cleaner) = open_session($db);

	$holder->query_safe('BEGIN; SELECT count(*) FROM (SELECT FROM executions WHERE id <= 100 FOR UPDATE) AS l');
	my ($out, $messages) = run_statement($cleaner, "SET statement_timeout = '1h';
		SELECT deleted_count, execution_summary ->> 'skipped_locked'
		FROM cleanup_old_executions('$t[1]', 30, 0, 5)");
	is($out, '20|100', 'ties held: the call goes past them, once');
	is($messages, '', 'ties held: and ends');
	$_->quit for $holder, $cleaner;
}

# ---- Where rows cannot be asked for their locks, the free ones are found by trial.
{
	my $db = 'by_trial';

	make_db($db, "SELECT give(1, 1000);
		CREATE TABLE gone (id bigint, xid bigint);
		CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS \$\$
		BEGIN INSERT INTO public.gone VALUES (OLD.id, txid_current()); RETURN NULL; END \$\$;
		CREATE TRIGGER write_down AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION write_down();
		CREATE TABLE part (execution bigint REFERENCES executions ON DELETE CASCADE);
		CREATE INDEX ON part (execution);
		INSERT INTO part SELECT id FROM executions WHERE id % 20 = 0;
		CREATE ROLE cleaner;
		GRANT SELECT, DELETE ON executions TO cleaner;
		GRANT EXECUTE ON FUNCTION cleanup_old_executions TO cleaner");
	my ($holder) = open_session($db);
	my ($cleaner) = open_session($db);

	# what goes with the rows is held
	$holder->query_safe('BEGIN; SELECT count(*) FROM (SELECT FROM part FOR UPDATE) AS l');
	run_statement($cleaner, "SET retention.lock_timeout = '50ms'; CALL retention.run()");
	sql_is($db, 'SELECT status, rows_deleted, rows_skipped_locked FROM last_run', 'succeeded|950|50',
		'by trial: a run deletes all that are free');
	sql_is($db, 'SELECT count(*), count(*) FILTER (WHERE id % 20 = 0) FROM gone', '950|0',
		'by trial: and none that is held');
	# the trials of a whole batch take seconds
	sql_is($db, 'SELECT count(DISTINCT xid) > 1 FROM gone', 't', 'by trial: in transactions that do not last as long');
	$holder->query_safe('COMMIT');

	# the rows themselves are held, and the role may not lock them
	$node->safe_psql($db, 'TRUNCATE executions, part, gone; TRUNCATE execution_retention_policies;
		ALTER SEQUENCE executions_id RESTART; SELECT give(1, 1000)');
	$holder->query_safe('BEGIN; SELECT count(*) FROM (SELECT FROM executions WHERE id % 20 = 0 FOR UPDATE) AS l');
	my ($out) = run_statement($cleaner, "SET ROLE cleaner;
		SELECT execution_summary ->> 'stop_reason', execution_summary ->> 'skipped_locked', deleted_count
		FROM cleanup_old_executions('$t[1]', 30, 0, 1000)");
	is($out, 'locked|50|950', 'by trial: a role without UPDATE, too');
	sql_is($db, 'SELECT count(*), count(*) FILTER (WHERE id % 20 = 0) FROM executions', '50|50',
		'by trial: which leaves those that are held');
	$holder->query_safe('COMMIT');
	($out) = run_statement($cleaner, "SELECT execution_summary ->> 'stop_reason', deleted_count
		FROM cleanup_old_executions('$t[1]', 30, 0, 1000)");
	is($out, 'done|50', 'by trial: the next call does the rest');
	$_->quit for $holder, $cleaner;
}

# ---- A wait for rows leaves time to end before the statement's.
{
	my $db = 'in_time';

	make_db($db, '');
	my ($holder) = open_session($db);
	my ($cleaner) = open_session($db);
	my ($out, $messages, $attempts) = ('', '', 0);

	# once more where a slow machine has used up the time that it leaves
	do
	{
		$holder->query_safe('ROLLBACK') if $attempts;
		$node->safe_psql($db, 'TRUNCATE executions, execution_retention_policies RESTART IDENTITY; SELECT give(1, 200)');
		$holder->query_safe('BEGIN; SELECT FROM executions WHERE id = 5 FOR UPDATE');
		($out, $messages) = run_statement($cleaner, "SET statement_timeout = '12s'; SET retention.lock_timeout = '180s';
			SELECT deleted_count, execution_summary ->> 'skipped_locked'
			FROM cleanup_old_executions('$t[1]', 30, 0, 50)");
	} until (($out eq '199|1' && $messages eq '') || ++$attempts == 5);
	is($out, '199|1', 'in time: what was done is kept');
	is($messages, '', 'in time: no error');
	$_->quit for $holder, $cleaner;
}

# ---- Memory.
my $limit = 2 * 1024 * 1024;

# A run of twenty thousand transactions, measured from inside.
{
	my $db = 'memory_of_a_run';

	make_db($db, q{SELECT give(2, 10000);
		CREATE FUNCTION report_memory() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			RAISE NOTICE 'memory %', (SELECT sum(used_bytes) FROM pg_backend_memory_contexts);
			RETURN OLD;
		END $$;
		CREATE TRIGGER report BEFORE DELETE ON executions FOR EACH ROW
			WHEN (OLD.id IN (500, 9900, 10500, 19900)) EXECUTE FUNCTION report_memory();
		VACUUM ANALYZE});
	my ($rc, $out, $err) = $node->psql($db, 'CALL retention.run(batch_size => 1)');
	is($rc, 0, 'memory of a run: it runs');
	sql_is($db, 'SELECT status, rows_deleted, batches FROM last_run', 'succeeded|20000|20000',
		'memory of a run: in twenty thousand batches');
	my @bytes = sort { $a <=> $b } $err =~ /memory (\d+)/g;
	is(scalar(@bytes), 4, 'memory of a run: four readings');
	note("memory of a run: @bytes");
	cmp_ok($bytes[-1] - $bytes[0], '<', $limit, 'memory of a run: all alike');
}

# A preview of five thousand policies.  It runs no code of ours: watched from outside.
SKIP:
{
	my $db = 'memory_of_a_preview';

	skip 'no /proc', 3 unless -r '/proc/self/status';
	make_db($db, 'SELECT give(5000, 2);
		UPDATE execution_retention_policies SET min_executions_to_keep = 1; VACUUM ANALYZE');
	my ($gate) = open_session($db);
	my ($session, $pid) = open_session($db);
	my $private = sub {
		my ($kilobytes) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
		return $kilobytes * 1024;
	};

	$session->query_safe('SELECT count(*) FROM executions, pg_class WHERE executions.id < 3');
	$session->query_safe("SELECT * FROM retention.preview('$t[1]')");
	my ($before, $most, $readings) = ($private->(), 0, 0);
	my ($out, $attempts) = ('', 0);

	# once more where too few readings fell into it
	do
	{
		# it begins when nothing that it prints can be missed
		$gate->query_safe('SELECT pg_advisory_lock(4711)');
		begin_statement($session,
			'SELECT pg_advisory_xact_lock(4711);
			SELECT count(*), sum(executions_to_delete) FROM generate_series(1, 20) AS g,
				LATERAL retention.preview(CASE WHEN g < 0 THEN t(1) END)');
		$gate->query_safe('SELECT pg_advisory_unlock(4711)');
		my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
		until ($session->{stdout} =~ /\d+\|\d+/ || $session->{stderr} =~ /ERROR/
			|| time > $deadline)
		{
			my $now = $private->();
			$most = $now if $now > $most;
			$readings++;
			$session->{run}->pump_nb;
		}
		($out) = end_statement($session);
	} until ($readings >= 10 || ++$attempts == 5);
	like($out, qr/^100000\|100000$/m, 'memory of a preview: all policies');
	note("memory of a preview: $before before, at most $most in $readings readings");
	cmp_ok($readings, '>=', 10, 'memory of a preview: watched all along');
	cmp_ok($most - $before, '<', $limit, 'memory of a preview: no more than for one');
	$_->quit for $gate, $session;
}

$node->stop;
done_testing();
