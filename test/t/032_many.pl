# 032_many.pl - many tenants at once: groups of tenants that share a statement, and walks
# over the table; what they delete against the oracle, and what they leave to the cleanup
# of one tenant: ties, rows that others hold, foreign keys, triggers that raise, tenants
# that are being cleaned, other runs.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('many', 'max_connections = 30');

# A table without the triggers of other tests, which would keep runs from walking.
$node->safe_psql('postgres', prepare_runs() . q{
	DROP TRIGGER mischief ON executions;
	ALTER TABLE executions ADD filler text;
	ALTER TABLE executions ALTER filler SET STORAGE PLAIN});

# Sixty tenants with 40 to 99 rows each, interleaved; policies and minimums that differ,
# rows without a start, rows of unknown age, ties, a disabled policy, one without a policy.
# So many hours lie between two rows of a tenant: with 12 most of them are due, with 1 few
# are, and rows are wide, so that a walk does not pay.
sub refill
{
	my ($hours) = @_;

	$node->safe_psql('postgres', qq{
		TRUNCATE executions, execution_retention_policies CASCADE;
		DROP TABLE IF EXISTS part;
		INSERT INTO executions (id, tenant_id, started_at, created_at, filler)
		SELECT row_number() OVER (ORDER BY n, k), tenant, CASE WHEN (n + k) % 7 <> 0 THEN t END,
			   CASE WHEN (n + k) % 7 <> 0 OR k % 11 <> 0 THEN t END,
			   CASE WHEN $hours = 1 THEN repeat('.', 2500) END
		FROM generate_series(1, 60) AS k,
			 LATERAL (SELECT md5('tenant' || k)::uuid AS tenant) AS x,
			 generate_series(1, 40 + k) AS n,
			 LATERAL (SELECT now() - interval '5 minutes'
						 - CASE WHEN k % 5 = 0 THEN n / 10 * 10 ELSE n END * interval '$hours hours' AS t) AS y
		ORDER BY n, k;
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, is_enabled)
		SELECT md5('tenant' || k)::uuid, 1 + k % 9, k % 4 * 15, k <> 7 FROM generate_series(1, 59) AS k;
	});
	remember($node);
	return;
}

# Everything that may go is gone and nothing else, history adds up, and no lock is left.
sub check
{
	my ($name, %opt) = @_;
	my $gone = gone($node);

	is(verdict($node), $opt{verdict} // '0|0', "$name: as the oracle says");
	is(last_run($node, 'status, rows_deleted'), ($opt{status} // 'succeeded') . "|$gone", "$name: history: the run");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM (SELECT tenant_id, rows_deleted FROM retention.run_tenant
					WHERE run_id = (SELECT max(id) FROM retention.run_history) AND rows_deleted > 0) AS t
				 FULL JOIN (SELECT tenant_id, count(*) AS n FROM gone GROUP BY 1) AS g USING (tenant_id)
			WHERE rows_deleted IS DISTINCT FROM n}), '0', "$name: history: tenant by tenant");
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM execution_retention_policies AS p
				 JOIN (SELECT tenant_id, count(*) AS n FROM gone GROUP BY 1) AS g USING (tenant_id)
			WHERE last_cleanup_deleted_count <> n OR last_cleanup_at IS NULL}), '0', "$name: the policies know")
	  unless $opt{other};
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks
			WHERE locktype = 'advisory' AND objsubid BETWEEN 7265 AND 7267}), '0', "$name: no lock is left");
	return;
}

# Waits until the run has committed something.
sub wait_until_deleting
{
	my ($run, $name) = @_;

	wait_for($node, 'postgres', "SELECT rows_deleted > 0 FROM retention.run_history WHERE pid = $run->{pid}", $name);
	return;
}

sub walk_of
{
	my ($arguments, $name) = @_;

	return run($node, $arguments, before => 'SET client_min_messages = debug1', name => $name);
}

# ---- A walk: most of the table is due.
{
	foreach my $size (1, 7, 100, 1000)
	{
		refill(12);
		like(walk_of("batch_size => $size", "walk by $size"), qr/walks over \d+ blocks for 58 tenants/,
			"walk by $size: it is one");
		check("walk by $size");
		is(last_run($node, 'tenants_due = tenants, tenants_failed'), 't|0', "walk by $size: all tenants are counted");
	}
	my $most = $node->safe_psql('postgres', 'SELECT max(n) FROM (SELECT count(*) AS n FROM gone GROUP BY xid) AS x');
	cmp_ok($most, '<=', 1000 + 250, "walk: a transaction deletes a batch and the rest of a block at most: $most rows");
	unlike(walk_of('', 'again'), qr/walks over/, 'walk: nothing is due, nothing is walked');
	check_nothing('again');
}

sub check_nothing
{
	my ($name) = @_;

	is(last_run($node, 'status, rows_deleted'), 'succeeded|0', "$name: nothing is deleted");
	is(verdict($node), '0|0', "$name: as the oracle says");
	return;
}

# ---- Groups: little is due.
foreach my $size (1, 10, 1000)
{
	refill(1);
	unlike(walk_of("batch_size => $size", "groups by $size"), qr/walks over/, "groups by $size: no walk");
	check("groups by $size");
}

# ---- A row that somebody holds: its tenant is done one by one, the others at once.
foreach my $hours (1, 12)
{
	my $name = "held row, $hours";
	my $app = $node->background_psql('postgres');

	refill($hours);
	my $held = $node->safe_psql('postgres', q{SELECT min(id) FROM oracle WHERE goes AND tenant_id = md5('tenant36')::uuid});
	$app->query_safe("BEGIN; UPDATE executions SET created_at = created_at WHERE id = $held");
	walk_of(q{batch_size => 50}, $name);
	check($name, verdict => '1|0');
	is(last_run($node, 'rows_skipped_locked'), '1', "$name: it is counted");
	$app->query_safe('COMMIT');
	$app->quit;
	run($node, '', name => "$name: the next run");
	is(verdict($node), '0|0', "$name: the next run takes it");
}

# ---- Held and moved away: it is young when it is let go.
{
	my $name = 'moved row';
	my $app = $node->background_psql('postgres');

	refill(12);
	my $held = $node->safe_psql('postgres', q{SELECT min(id) FROM oracle WHERE goes AND tenant_id = md5('tenant36')::uuid});
	$app->query_safe("BEGIN; UPDATE executions SET started_at = now() WHERE id = $held");
	my $run = start_run($node, 'batch_size => 50', before => "SET retention.lock_timeout = '180s'");
	wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_locks WHERE pid = $run->{pid} AND NOT granted",
		"$name: the run comes to it");
	$app->query_safe('COMMIT');
	$app->quit;
	wait_until_over($run, $name);
	unlike(finish_run($run), qr/WARNING|ERROR/, "$name: no word of it");
	is(verdict($node), '1|0', "$name: it stays, and so does whatever has to");
}

# ---- A foreign key protects rows here and there.
foreach my $hours (1, 12)
{
	my $name = "foreign key, $hours";

	refill($hours);
	$node->safe_psql('postgres', q{
		CREATE TABLE part (execution bigint REFERENCES executions);
		INSERT INTO part SELECT id FROM oracle WHERE goes AND id % 41 = 0});
	my $protected = $node->safe_psql('postgres', 'SELECT count(*) FROM part');
	walk_of('batch_size => 100', $name);
	check($name, verdict => "$protected|0");
	is(last_run($node, 'rows_skipped_protected'), $protected, "$name: $protected rows are counted");
}

# ---- A trigger raises for rows of one tenant: it fails, the others do not.
foreach my $hours (1, 12)
{
	my $name = "raising trigger, $hours";

	refill($hours);
	$node->safe_psql('postgres', q{
		CREATE FUNCTION object_to() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF OLD.tenant_id = md5('tenant36')::uuid THEN RAISE 'not this one' USING ERRCODE = 'RT003'; END IF;
			RETURN NULL;
		END $$;
		CREATE TRIGGER object_to AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION object_to()});
	my $err = walk_of('batch_size => 100', $name);
	$node->safe_psql('postgres', 'DROP TRIGGER object_to ON executions; DROP FUNCTION object_to()');
	like($err, qr/not this one \(SQLSTATE RT003\)/, "$name: the error is told");
	is($node->safe_psql('postgres', q{SELECT tenant_id = md5('tenant36')::uuid, sqlstate FROM retention.run_tenant
			WHERE run_id = (SELECT max(id) FROM retention.run_history) AND sqlstate IS NOT NULL}), 't|RT003',
		"$name: and on record");
	my $left = $node->safe_psql('postgres', q{SELECT count(*) FROM oracle WHERE goes AND tenant_id = md5('tenant36')::uuid});
	check($name, verdict => "$left|0", status => 'partial');
}

# ---- A trigger calls what the walk asks about each row.
{
	my $name = 'meddling trigger';

	refill(12);
	$node->safe_psql('postgres', q{
		CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM retention.is_due(OLD.tenant_id, '-infinity'::timestamptz, NULL, '(0,1)');
			RETURN NULL;
		END $$;
		CREATE TRIGGER meddle AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION meddle()});
	walk_of('batch_size => 100', $name);
	$node->safe_psql('postgres', 'DROP TRIGGER meddle ON executions; DROP FUNCTION meddle()');
	check($name);
}

# ---- A tenant is being cleaned by somebody: left to them.
foreach my $hours (1, 12)
{
	my $name = "busy tenant, $hours";
	my $other = $node->background_psql('postgres');

	refill($hours);
	$other->query_safe(q{BEGIN; SELECT retention.lock_tenant(md5('tenant36')::uuid)});
	walk_of('batch_size => 100', $name);
	my $left = $node->safe_psql('postgres', q{SELECT count(*) FROM oracle WHERE goes AND tenant_id = md5('tenant36')::uuid});
	is(verdict($node), "$left|0", "$name: all others are cleaned");
	is(last_run($node, 'tenants_busy'), '1', "$name: it is counted");
	$other->query_safe('ROLLBACK');
	$other->quit;
}

# ---- Cancelled in the middle of a walk: what was committed is on record, by tenant, too.
{
	my $name = 'cancelled walk';

	refill(12);
	my $run = start_run($node, q{batch_size => 20, pause_between_batches => '1 minute'});
	wait_until_deleting($run, "$name: some is deleted");
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})"), 't', "$name: sent");
	wait_until_over($run, $name);
	finish_run($run);
	my $gone = gone($node);
	cmp_ok($gone, '>', 0, "$name: $gone rows are gone");
	is((split /\|/, verdict($node))[1], '0', "$name: none that should stay");
	is(last_run($node, 'status, rows_deleted'), "cancelled|$gone", "$name: history has them");
	is($node->safe_psql('postgres', q{SELECT sum(rows_deleted) FROM retention.run_tenant
			WHERE run_id = (SELECT max(id) FROM retention.run_history)}), $gone, "$name: tenant by tenant");
	run($node, '', name => "$name: the next run");
	is(verdict($node), '0|0', "$name: the next run does the rest");
}

# ---- Cancelled while it writes down what it did for each tenant: that is written then.
{
	my $name = 'cancelled note';
	my $holder = $node->background_psql('postgres');

	refill(12);
	hold_history($node, 4711, 'BEFORE INSERT ON retention.run_tenant FOR EACH ROW');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, 'batch_size => 100');
	my $waits = "FROM pg_locks WHERE pid = $run->{pid} AND NOT granted AND locktype = 'advisory' AND objid = 4711";
	wait_for($node, 'postgres', "SELECT count(waitstart) = 1 $waits", "$name: it wants to write");
	my $since = $node->safe_psql('postgres', "SELECT waitstart $waits");
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})"), 't', "$name: sent");
	wait_for($node, 'postgres', "SELECT count(*) = 1 $waits AND waitstart > '$since'", "$name: it wants to once more");
	$holder->quit;
	wait_until_over($run, $name);
	like(finish_run($run), qr/ERROR:  57014/, "$name: the caller is told");
	cmp_ok(gone($node), '>', 0, "$name: something was done");
	check($name, status => 'cancelled', verdict => $node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE goes) FROM oracle') - gone($node) . '|0');
	unhold_history($node);
}

# ---- The table is rewritten in the middle of a walk: rows stand elsewhere.
{
	my $name = 'rewritten table';

	refill(12);
	my $run = start_run($node, q{batch_size => 500, pause_between_batches => '500 ms'});
	wait_until_deleting($run, "$name: some is deleted");
	$node->safe_psql('postgres', 'CLUSTER executions USING executions_pkey');
	wait_until_over($run, $name);
	unlike(finish_run($run), qr/WARNING|ERROR/, "$name: no word of it");
	check($name);
}

# ---- Two runs share a walk.
{
	my $name = 'two walks';

	refill(12);
	my @runs = map { start_run($node, q{batch_size => 20, pause_between_batches => '5 ms'}) } 1 .. 2;
	wait_until_over($_, $name) foreach @runs;
	# but for the policies, where the other may hold one
	unlike(finish_run($_), qr/WARNING:  (?!55P03: could not note)|ERROR/, "$name: no word of each other") foreach @runs;
	is(verdict($node), '0|0', "$name: as the oracle says");
	is($node->safe_psql('postgres', 'SELECT sum(rows_deleted) FROM (SELECT rows_deleted FROM retention.run_history
			ORDER BY id DESC LIMIT 2) AS x'), gone($node), "$name: history adds up");
}

# ---- A run that is forced beside the walk of one that is not: it cleans tenants whose
# policy is disabled in the parts of the other, too.
{
	my $name = 'forced beside a walk';

	refill(12);
	my $run = start_run($node, q{batch_size => 20, pause_between_batches => '1 minute'});
	wait_until_deleting($run, "$name: the other walks");
	remember($node, force => 1);
	my $forced = q{SELECT count(*) FROM oracle JOIN executions USING (id) WHERE goes AND oracle.tenant_id = md5('tenant7')::uuid};
	cmp_ok($node->safe_psql('postgres', $forced), '>', 0, "$name: there is something to force");
	walk_of('force => true', $name);
	is($node->safe_psql('postgres', $forced), '0', "$name: it is gone");
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})"), 't', "$name: sent");
	wait_until_over($run, $name);
	finish_run($run);
	run($node, 'force => true', name => "$name: the next run");
	is(verdict($node), '0|0', "$name: the next run does the rest");
}

# ---- A run beside the walk of another, which had no policy for one of the tenants: it
# claims no tenant who may have rows in a part of the table that it did not see.
{
	my $name = 'late tenant beside a walk';
	my $late = q{SELECT count(*) FROM oracle JOIN executions USING (id) WHERE goes AND oracle.tenant_id = md5('tenant60')::uuid};

	refill(12);
	my $run = start_run($node, q{batch_size => 20, pause_between_batches => '1 minute'});
	wait_until_deleting($run, "$name: the other walks");
	$node->safe_psql('postgres', q{INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
		VALUES (md5('tenant60')::uuid, 5, 0)});
	remember($node);
	like(walk_of('', $name), qr/walks over \d+ blocks for 59 tenants/, "$name: it is due");
	cmp_ok($node->safe_psql('postgres', $late), '>', 0, "$name: the table is in the other's hands");
	is(last_run($node, 'status, tenants + tenants_busy = tenants_due, tenants_busy > 40'), 'succeeded|t|t',
		"$name: it leaves the tenants to the other");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.last_complete_run() WHERE id = (SELECT max(id) FROM retention.run_history)'),
		'0', "$name: it is no complete run");
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})"), 't', "$name: sent");
	wait_until_over($run, $name);
	finish_run($run);
	run($node, '', name => "$name: the next run");
	is(verdict($node), '0|0', "$name: the next run does the rest");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.last_complete_run() WHERE id = (SELECT max(id) FROM retention.run_history)'),
		'1', "$name: and is complete");
}

# ---- The same where the table has three parts: the other stands in the second, and is done with
# the first, which the run looks at once more.
{
	my $name = 'late tenant, three parts';
	my $holder = $node->background_psql('postgres');

	refill(12);
	$node->safe_psql('postgres', q{
		INSERT INTO executions SELECT id + 100000, tenant_id, started_at + interval '1 minute', created_at + interval '1 minute' FROM executions;
		UPDATE executions SET filler = repeat('.', 700);
		CLUSTER executions USING executions_pkey;
		CREATE TABLE parts AS SELECT id, (ctid::text::point)[0]::bigint * 3 / (pg_relation_size('executions') / 8192) AS part FROM executions});
	my $blocks = $node->safe_psql('postgres', q{SELECT pg_relation_size('executions') / 8192});
	ok($blocks >= 3 * 256 && $blocks < 4 * 256, "$name: of $blocks blocks");
	remember($node);
	# one in the middle of the second part
	my $stop = $node->safe_psql('postgres', 'SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) FROM oracle JOIN parts USING (id) WHERE goes AND part = 1');
	$node->safe_psql('postgres', qq{
		CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS
		\$\$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END \$\$;
		CREATE TRIGGER stop_here AFTER DELETE ON executions FOR EACH ROW WHEN (OLD.id = $stop) EXECUTE FUNCTION stop_here()});
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, 'batch_size => 100');
	wait_until_stopped($run, $name);
	# a policy that waits for no walk
	$node->safe_psql('postgres', q{SET session_replication_role = replica;
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
		VALUES (md5('tenant60')::uuid, 5, 0);
		UPDATE oracle SET goes = true WHERE tenant_id = md5('tenant60')::uuid AND t < cutoff_of(5)});
	my $late = q{SELECT string_agg(part || ':' || (n > 0), ' ' ORDER BY part) FROM (
		SELECT part, count(e.id) AS n FROM oracle JOIN parts USING (id) LEFT JOIN executions AS e USING (id)
		WHERE goes AND oracle.tenant_id = md5('tenant60')::uuid GROUP BY part) AS x};
	is($node->safe_psql('postgres', $late), '0:true 1:true 2:true', "$name: it has rows in each");
	like(walk_of('', $name), qr/walks over \d+ blocks for 59 tenants/, "$name: it is due");
	is($node->safe_psql('postgres', $late), '0:false 1:true 2:false', "$name: only the part in the other's hands still has some");
	is(last_run($node, 'status, tenants + tenants_busy = tenants_due, tenants_busy > 20'), 'succeeded|t|t',
		"$name: it leaves tenants to the other");
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})"), 't', "$name: sent");
	wait_until_over($run, $name);
	finish_run($run);
	$holder->quit;
	run($node, '', name => "$name: the next run");
	is(verdict($node), '0|0', "$name: the next run does the rest");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.last_complete_run() WHERE id = (SELECT max(id) FROM retention.run_history)'),
		'1', "$name: and is complete");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks
			WHERE locktype = 'advisory' AND objsubid BETWEEN 7265 AND 7268}), '0', "$name: no lock is left");
	$node->safe_psql('postgres', 'DROP TRIGGER stop_here ON executions; DROP FUNCTION stop_here(); DROP TABLE parts');
}

# Did the last run write down once what it did for each tenant?  A walk does so every ten seconds, too.
sub was_quick
{
	return last_run($node, q{finished_at - started_at < '9 s'}) eq 't';
}

# ---- Somebody holds many policies: one word, and the others are noted.
{
	my $name = 'held policies';
	my $noted = 'SELECT count(*) FROM execution_retention_policies WHERE last_cleanup_deleted_count > 0';

	my $holder = $node->background_psql('postgres');
	my ($err, $attempts) = ('', 0);
	do
	{
		$holder->query_safe('ROLLBACK') if $attempts;
		refill(12);
		$holder->query_safe('BEGIN; SELECT FROM execution_retention_policies
			WHERE tenant_id IN (SELECT md5(\'tenant\' || k)::uuid FROM generate_series(1, 59, 2) AS k) FOR UPDATE');
		$err = finish_run(start_run($node, ''));
	} until (was_quick() || ++$attempts == 5);
	my ($held) = $err =~ /DETAIL:  Other sessions hold (\d+) of them/;
	# those of whom rows of one instant stay are cleaned, and warned of, one by one
	is(scalar(my @words = $err =~ /WARNING:  55P03: could not note in all policies/g), 1, "$name: one word") or diag $err;
	is(verdict($node), '0|0', "$name: as the oracle says");
	my $cleaned = $node->safe_psql('postgres', 'SELECT count(*) FROM retention.run_tenant WHERE run_id = (SELECT max(id) FROM retention.run_history)
		AND rows_deleted > 0');
	cmp_ok($held, '>', 20, "$name: of many");
	is($node->safe_psql('postgres', $noted), $cleaned - $held, "$name: the others are noted");
	$holder->query_safe('ROLLBACK');
	$holder->quit;
}

# ---- One policy cannot be written: that one is warned of, the others are noted.
foreach my $hours (1, 12)
{
	my $name = "stubborn policy, $hours";

	my ($err, $attempts) = ('', 0);
	$node->safe_psql('postgres', q{
		CREATE FUNCTION be_stubborn() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			RAISE 'not this policy' USING ERRCODE = 'RT004';
		END $$;
		CREATE TRIGGER be_stubborn BEFORE UPDATE ON execution_retention_policies FOR EACH ROW
			WHEN (OLD.tenant_id = md5('tenant36')::uuid) EXECUTE FUNCTION be_stubborn()});
	do
	{
		refill($hours);
		$err = run($node, '', name => $name);
	} until (was_quick() || ++$attempts == 5);
	$node->safe_psql('postgres', 'DROP TRIGGER be_stubborn ON execution_retention_policies; DROP FUNCTION be_stubborn()');
	is(scalar(my @words = $err =~ /WARNING:  RT004: could not note in the policy of tenant/g), 1, "$name: one word") or diag $err;
	is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE last_cleanup_at IS NULL),
				bool_or(last_cleanup_at IS NULL AND tenant_id = md5('tenant36')::uuid)
			FROM execution_retention_policies WHERE tenant_id IN (SELECT tenant_id FROM gone)}), '1|t', "$name: the others are noted");
	check($name, other => 1);
}

# ---- More tenants than a transaction locks, with one row each.
{
	my $name = 'many small';

	refill(1);
	$node->safe_psql('postgres', q{
		TRUNCATE executions, execution_retention_policies;
		INSERT INTO executions (id, tenant_id, started_at, filler)
		SELECT n * 150 + k, md5('tenant' || k)::uuid, now() - n * interval '40 days' - interval '1 hour', repeat('.', 2500)
		FROM generate_series(1, 150) AS k, generate_series(0, 4) AS n;
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
		SELECT md5('tenant' || k)::uuid, 30, 4 FROM generate_series(1, 150) AS k});
	remember($node);
	unlike(walk_of('', $name), qr/walks over/, "$name: no walk");
	check($name);
	is(last_run($node, 'rows_deleted, tenants, tenants_due'), '150|150|150', "$name: all of them");
	my $most = $node->safe_psql('postgres', 'SELECT max(n) FROM (SELECT count(DISTINCT tenant_id) AS n FROM gone GROUP BY xid) AS x');
	cmp_ok($most, '<=', 100, "$name: at most a hundred in a transaction");
	cmp_ok($most, '>', 50, "$name: and many: $most");
}

# ---- An index that is too young for the oldest transaction: some rows have older versions that
# it does not know.  Tenants are done one by one, in ways that do without it.
foreach my $hours (1, 12)
{
	my $name = "young index, $hours";
	my $old = $node->background_psql('postgres');

	# with room for the new versions beside the old ones
	$node->safe_psql('postgres', 'ALTER TABLE executions SET (fillfactor = 50)');
	refill($hours);
	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()');
	$node->safe_psql('postgres', q{
		DROP INDEX idx_executions_retention_cleanup, idx_executions_null_started_at;
		UPDATE executions SET started_at = started_at + interval '1 s' WHERE id % 3 = 0;
		SELECT retention.attach()});
	my $young = $node->safe_psql('postgres', q{SELECT count(*) > 0 FROM pg_index WHERE indrelid = 'executions'::regclass AND indcheckxmin});
	is($young, 't', "$name: there is one");
	run($node, '', name => $name);
	is(verdict($node), '0|0', "$name: as the oracle says");
	is(last_run($node, 'status, rows_deleted'), 'succeeded|' . gone($node), "$name: history");
	$old->query_safe('COMMIT');
	$old->quit;
	$node->safe_psql('postgres', 'ALTER TABLE executions RESET (fillfactor); REINDEX TABLE executions');
}

# ---- max_runtime ends a walk.
{
	my $name = 'short walk';

	refill(12);
	my $all = $node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE goes) FROM oracle');
	like(walk_of(q{batch_size => 100, max_runtime => '500 ms', pause_between_batches => '1 minute'}, $name), qr/walks over/, "$name: it is one");
	my $gone = gone($node);
	cmp_ok($gone, '>', 0, "$name: something was done");
	check($name, status => 'partial', verdict => $all - $gone . '|0');
	is(last_run($node, 'stop_reason'), 'max_runtime', "$name: the reason");
}

# ---- A long walk writes down from time to time what it did for each tenant.  The only
# test here that takes as long as it says.
{
	my $name = 'long walk';

	refill(12);
	my $run = start_run($node, q{batch_size => 100, pause_between_batches => '11 s'});
	my $claimed = "SELECT sum(rows_deleted) FROM retention.run_tenant
		WHERE run_id = (SELECT max(id) FROM retention.run_history WHERE pid = $run->{pid})";
	wait_for($node, 'postgres', "SELECT ($claimed) > 0", "$name: it writes");
	is(last_run($node, 'status'), 'running', "$name: in the middle");
	cmp_ok($node->safe_psql('postgres', $claimed), '<=', gone($node), "$name: not more than it has done");
	is($node->safe_psql('postgres', "SELECT pg_cancel_backend($run->{pid})"), 't', "$name: sent");
	wait_until_over($run, $name);
	finish_run($run);
	check($name, status => 'cancelled', verdict => $node->safe_psql('postgres', 'SELECT count(*) FILTER (WHERE goes) FROM oracle') - gone($node) . '|0');
}

# ---- Somebody locks the table of policies while a walk goes on: one word, and not a wait for each.
{
	my $name = 'locked policies';

	refill(12);
	my $last = $node->safe_psql('postgres', 'SELECT max(id) FROM oracle WHERE goes');
	$node->safe_psql('postgres', "CREATE TRIGGER stop_here AFTER DELETE ON executions
		FOR EACH ROW WHEN (OLD.id = $last) EXECUTE FUNCTION make_mischief()");
	mischief($node, $last => 'wait');
	my $holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, 'batch_size => 20');
	wait_until_stopped($run, $name);
	$holder->query_safe('BEGIN; LOCK TABLE execution_retention_policies IN SHARE MODE');
	release($holder);
	wait_until_over($run, $name);
	my $err = finish_run($run);
	like($err, qr/WARNING:  55P03: could not note in the policies that tenants were cleaned\nDETAIL:  canceling statement due to lock timeout/,
		"$name: it says so");
	is(scalar(my @words = $err =~ /WARNING:  55P03: could not note in the policies/g), 1, "$name: in one word") or diag $err;
	$holder->query_safe('ROLLBACK');
	is(verdict($node), '0|0', "$name: as the oracle says");
	is($node->safe_psql('postgres', 'SELECT sum(rows_deleted) FROM retention.run_tenant
			WHERE run_id = (SELECT max(id) FROM retention.run_history)'), gone($node), "$name: history has all");
	$holder->quit;
	$node->safe_psql('postgres', 'DROP TRIGGER stop_here ON executions');
	mischief($node);
}

# ---- Nobody but a walk is told anything.
is($node->safe_psql('postgres', q{SELECT count(*) FROM executions
		WHERE retention.is_due(tenant_id, started_at, created_at, ctid)}), '0', 'is_due: false for everybody else');

$node->stop;
done_testing();
