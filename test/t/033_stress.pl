# 033_stress.pl - everything at once, at random, on a plain and on a partitioned table:
# runs, calls by hand, inserts of old and new rows, updates that move rows across the
# cutoff (and between partitions), deletes, rows locked in opposite orders, policy changes,
# DDL, VACUUM.  Now and then each tenant of the plain table gets so many old rows that runs
# walk over it.
#
# Evidence: a trigger writes down each row that a cleanup deletes, when its transaction
# began, and how many rows of the tenant, as new or newer, are there at that moment.  A
# log of policies says which of them the transaction may have seen.  The application
# keeps a ledger of its rows.  What has to hold:
#
# - each row deleted was older than the cutoff of a policy that was in force at some
#   moment of the deleting transaction (enabled, if a run deleted it), and the minimum of
#   the same policy was still there after it.  The minimum is only promised where the
#   application does not itself remove or age newest rows under a cleanup: it only adds
#   rows and moves them to newer times (tenants 1 to 12), or removes them under
#   retention.lock_tenant() (13 to 18).  Tenants 19 to 24 know no manners: there the
#   cutoff alone is checked.
# - of tenants 1 to 12, the newest rows that the ledger ever had are there, without
#   looking at what the trigger wrote down
# - each row of the ledger is there, or was deleted once, by a cleanup or the application
# - history of the runs has as many rows as the runs deleted; no run has failed; no deadlock
#   that a run was in, nor any serialization failure, has come to its caller
# - a last run leaves what the oracle says
#
# RETENTION_STRESS_SECONDS is how long it takes, RETENTION_SEED repeats its choices (not their
# timing).

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;
use Time::HiRes 'time';

my $seconds = $ENV{RETENTION_STRESS_SECONDS} || 20;
my $seed = $ENV{RETENTION_SEED} || int(time) % 1_000_000;
my $node = start_node('stress', 'max_connections = 40', 'autovacuum = on', 'autovacuum_naptime = 1s',
	# less than the patience of runs, who so come to see deadlocks themselves; that is more than
	# a slow machine takes to rewrite a partition
	'deadlock_timeout = 20ms', 'retention.lock_timeout = 10min', 'log_lock_waits = on', q{log_line_prefix = '%m [%p] %q%a %e '});
my %sum = (rows => 0, checks => 0, violations => 0, inserted => 0, runs => 0, walks => 0, calls => 0, ddl => 0,
	deadlocks => 0, deadlocks_of_runs => 0);

reliability("seed of the stress: $seed (RETENTION_SEED)");
srand($seed);

my $setup = q{
	CREATE SEQUENCE ids;
	CREATE TABLE ever (id bigint PRIMARY KEY, tenant_id uuid, t timestamptz, removed bigint DEFAULT 0);
	CREATE INDEX ON ever (tenant_id, t);
	CREATE TABLE gone_by_cleanup (id bigint, tenant_id uuid, t timestamptz, who text, began timestamptz,
		at timestamptz, newer integer);
	CREATE TABLE policy_log (id bigserial, tenant_id uuid, days integer, keep integer, is_enabled boolean,
		visible_from timestamptz, visible_until timestamptz);
	CREATE TABLE calls (deleted bigint);

	CREATE FUNCTION t(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
		SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;

	CREATE FUNCTION write_down_cleanup() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
	DECLARE
		who text := current_setting('application_name');
		old_t timestamptz := COALESCE(OLD.started_at, OLD.created_at);
		newer integer;
	BEGIN
		IF who LIKE 'cleanup%' THEN
			-- one statement, one snapshot
			SELECT count(*) INTO newer FROM (
				(SELECT 1 FROM public.executions
				 WHERE tenant_id = OLD.tenant_id AND started_at >= old_t LIMIT 60)
				UNION ALL
				(SELECT 1 FROM public.executions
				 WHERE tenant_id = OLD.tenant_id AND started_at IS NULL AND created_at >= old_t LIMIT 60)) AS x;
			INSERT INTO public.gone_by_cleanup
			VALUES (OLD.id, OLD.tenant_id, old_t, who, now(), clock_timestamp(), newer);
		END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER write_down_cleanup AFTER DELETE ON executions
		FOR EACH ROW EXECUTE FUNCTION write_down_cleanup();

	-- A time up to 100 days ago, by whole hours, so that there are rows of one instant.  Of
	-- every other tenant all rows are older than 60 days: only the minimum keeps any.
	CREATE FUNCTION some_time(tenant integer) RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
		SELECT date_trunc('hour', now()) - interval '1 hour'
			   * CASE tenant % 2 WHEN 0 THEN floor(random() * 2400) ELSE 1450 + floor(random() * 950) END $$;

	CREATE FUNCTION add_rows(tenant integer, rows integer) RETURNS void LANGUAGE sql AS $$
		WITH fresh AS (
			INSERT INTO public.executions (id, tenant_id, started_at, created_at)
			SELECT nextval('public.ids'), public.t(tenant), CASE WHEN random() < 0.6 THEN x.t END, x.t
			FROM (SELECT public.some_time(tenant) AS t FROM generate_series(1, rows)) AS x
			RETURNING *)
		INSERT INTO public.ever SELECT id, tenant_id, COALESCE(started_at, created_at) FROM fresh
	$$;

	-- moves one of the oldest rows to a newer time, one way or another
	CREATE FUNCTION renew(tenant integer) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		target bigint;
		new_t timestamptz := greatest(public.some_time(tenant), public.some_time(tenant));
	BEGIN
		IF random() < 0.5 THEN
			SELECT id INTO target FROM public.executions
			WHERE tenant_id = public.t(tenant) AND started_at IS NOT NULL
			ORDER BY started_at OFFSET floor(random() * 30) LIMIT 1;
			UPDATE public.executions SET started_at = new_t WHERE id = target AND started_at < new_t;
		ELSE
			SELECT id INTO target FROM public.executions
			WHERE tenant_id = public.t(tenant) AND started_at IS NULL
			ORDER BY created_at OFFSET floor(random() * 30) LIMIT 1;
			IF random() < 0.5 THEN
				UPDATE public.executions SET started_at = new_t
				WHERE id = target AND started_at IS NULL AND created_at < new_t;
			ELSE
				-- into another partition
				UPDATE public.executions SET created_at = new_t
				WHERE id = target AND started_at IS NULL AND created_at < new_t;
			END IF;
		END IF;
		IF FOUND THEN
			UPDATE public.ever SET t = new_t WHERE id = target;
		END IF;
	END $$;

	-- makes the newest rows old, deletes some of the newest and some of the oldest
	CREATE FUNCTION remove(tenant integer) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		target bigint;
		old_t timestamptz := date_trunc('hour', now()) - interval '1 hour' * floor(1500 + random() * 900);
	BEGIN
		FOR target IN SELECT id FROM public.executions WHERE tenant_id = public.t(tenant)
			ORDER BY COALESCE(started_at, created_at) DESC LIMIT 3
		LOOP
			UPDATE public.executions SET started_at = NULL, created_at = old_t WHERE id = target;
			IF FOUND THEN
				UPDATE public.ever SET t = old_t WHERE id = target;
			END IF;
		END LOOP;
		FOR target IN (SELECT id FROM public.executions WHERE tenant_id = public.t(tenant)
				ORDER BY COALESCE(started_at, created_at) DESC LIMIT 2)
			UNION ALL (SELECT id FROM public.executions WHERE tenant_id = public.t(tenant)
				ORDER BY COALESCE(started_at, created_at) LIMIT 2)
		LOOP
			DELETE FROM public.executions WHERE id = target;
			IF FOUND THEN
				UPDATE public.ever SET removed = removed + 1 WHERE id = target;
			END IF;
		END LOOP;
	END $$;

	INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
	SELECT t(n), 30, 10 + n % 3 * 10 FROM generate_series(1, 24) n;
	INSERT INTO policy_log (tenant_id, days, keep, is_enabled, visible_from)
	SELECT tenant_id, retention_days, min_executions_to_keep, is_enabled, '-infinity'
	FROM execution_retention_policies;
	SELECT add_rows(n, 500) FROM generate_series(1, 24) n;
};

# who would keep a run from walking stands at this gate while one is to begin
my $gate = "SELECT pg_advisory_xact_lock_shared(99);\n";
my %script = (
	insert => "\\set n random(1, 24)\nSELECT add_rows(:n, 10);",
	renew => "\\set n random(1, 24)\nSELECT renew(:n);",
	polite => "\\set n random(13, 18)\nBEGIN;\n${gate}SELECT retention.lock_tenant(t(:n));\nSELECT remove(:n);\nCOMMIT;",
	impolite => "\\set n random(19, 24)\nSELECT remove(:n);",
	# old rows of two tenants, in any order
	cross => "\\set n random(1, 5)\n\\set m random(1, 5)\nBEGIN;
		SELECT FROM executions WHERE tenant_id = t(:n) AND created_at < now() - interval '60 days' ORDER BY random() LIMIT 20 FOR UPDATE;
		\n\\sleep 2 ms\nSELECT FROM executions WHERE tenant_id = t(:m) AND created_at < now() - interval '60 days' ORDER BY random() LIMIT 20 FOR UPDATE;\nCOMMIT;",
	hold => "\\set n random(1, 24)\nBEGIN;\nUPDATE executions SET note = 'held' WHERE id IN
		(SELECT id FROM executions WHERE tenant_id = t(:n) ORDER BY created_at LIMIT 5 FOR UPDATE SKIP LOCKED);\n\\set ms random(10, 300)\n\\sleep :ms ms\nCOMMIT;",
	run => "\\set b random(1, 60)\nCALL retention.run(batch_size => :b);",
	one => "\\set n random(1, 12)\nCALL retention.run(tenant => t(:n), batch_size => 15);",
	call => "\\set n random(1, 24)\n\\set b random(1, 60)\nSET application_name = 'cleanup call';\nBEGIN;\n${gate}INSERT INTO calls
		SELECT deleted_count FROM cleanup_old_executions(t(:n), p_batch_size => :b);\nCOMMIT;",
	args => "\\set n random(1, 24)\n\\set b random(1, 60)\nSET application_name = 'cleanup args';\nBEGIN;\n${gate}INSERT INTO calls
		SELECT deleted_count FROM cleanup_old_executions(t(:n), 45, 15, :b);\nCOMMIT;",
	tenant => "\\set n random(1, 24)\nSET application_name = 'cleanup tenant';\nBEGIN;\n${gate}INSERT INTO calls
		SELECT deleted_count FROM retention.cleanup_tenant(t(:n));\nCOMMIT;",
	# a version may be seen from before its commit until after that of the next one
	policy => "\\set n random(7, 24)\n\\set d random(30, 60)\n\\set k random(5, 40)\n\\set e random(1, 4)\nBEGIN;\n${gate}INSERT INTO
			policy_log (tenant_id, days, keep, is_enabled, visible_from)
			VALUES (t(:n), :d, :k, :e > 1, clock_timestamp());
		SELECT FROM retention.set_policy(t(:n), :d, :e > 1, :k);
		COMMIT;
		UPDATE policy_log AS l SET visible_until = clock_timestamp() WHERE tenant_id = t(:n) AND visible_until IS NULL
			AND id < (SELECT max(id) FROM policy_log WHERE tenant_id = t(:n));");
my $dir = $node->basedir;
append_to_file("$dir/$_.sql", ($script{$_} =~ s/\n\t+/ /gr) . "\n") foreach keys %script;

# A pgbench in the background.  What the application and calls by hand lose in a deadlock they
# try again; runs do not.
sub bench
{
	my ($db, $who, $time, @arguments) = @_;
	my %bench = (who => $who, out => '');
	my $tries = $who eq 'cleanup run' ? 1 : 10_000;

	local $ENV{PGAPPNAME} = $who;
	local $ENV{PGOPTIONS} = '-c client_min_messages=warning';
	$ENV{PGOPTIONS} .= ' -c log_min_messages=debug1' if $who eq 'cleanup run';
	$bench{run} = IPC::Run::start(
		[ 'pgbench', '-n', '-h', $node->host, '-p', $node->port, '-T', int($time) || 1,
			'--max-tries', $tries, '--random-seed', $seed, @arguments, $db ], '>', \$bench{out}, '2>&1');
	return \%bench;
}

sub weights
{
	my ($weight) = @_;

	return map { ('-f', "$dir/$_.sql\@$weight->{$_}") } sort keys %$weight;
}

# DDL and the like, one after the other, each in a session of its own.
my @common = (
	'ALTER TABLE executions ADD COLUMN extra integer DEFAULT 1',
	'ALTER TABLE executions DROP COLUMN IF EXISTS extra',
	'CREATE INDEX IF NOT EXISTS other ON executions (created_at)',
	'DROP INDEX IF EXISTS other',
	'ALTER TABLE executions ALTER COLUMN note TYPE varchar(100)',
	'ALTER TABLE executions ALTER COLUMN note TYPE text',
	'VACUUM executions',
	'VACUUM (FULL) executions',
	'VACUUM (ANALYZE) executions, ever, execution_retention_policies, retention.run_history',
	'REINDEX TABLE CONCURRENTLY executions',
	'BEGIN; LOCK TABLE executions IN SHARE MODE; SELECT pg_sleep(0.2); COMMIT');
my @plain = (
	'REINDEX INDEX CONCURRENTLY idx_executions_retention_cleanup',
	'REINDEX INDEX CONCURRENTLY idx_executions_null_started_at',
	'CREATE INDEX CONCURRENTLY IF NOT EXISTS other ON executions (started_at)',
	'DROP INDEX CONCURRENTLY IF EXISTS other',
	'CLUSTER executions USING executions_pkey');
# with the columns that the table has got, or lost, meanwhile
my $attach = q{DO $$
	DECLARE
		note_type text;
		has_extra boolean;
	BEGIN
		IF (SELECT relispartition FROM pg_class WHERE oid = 'side'::regclass) THEN
			RETURN;
		END IF;
		SELECT max(format_type(atttypid, atttypmod)) FILTER (WHERE attname = 'note'), bool_or(attname = 'extra')
		INTO note_type, has_extra
		FROM pg_attribute WHERE attrelid = 'executions'::regclass AND NOT attisdropped;
		EXECUTE 'ALTER TABLE side ALTER COLUMN note TYPE ' || note_type;
		ALTER TABLE side DROP COLUMN IF EXISTS extra;
		IF has_extra THEN
			ALTER TABLE side ADD COLUMN extra integer;
		END IF;
		ALTER TABLE executions ATTACH PARTITION side FOR VALUES FROM ('-infinity') TO ('2000-01-01');
	END $$};
# old rows, the oldest of all, in a partition that comes and goes
my $old_rows = q{
	WITH fresh AS (
		INSERT INTO side (id, tenant_id, started_at, created_at)
		SELECT nextval('ids'), t(1 + n % 24), CASE WHEN n % 2 = 0 THEN created END, created
		FROM generate_series(1, 200) AS n, LATERAL (SELECT timestamptz '1990-01-01' + n % 50 * interval '1 day' AS created) AS x
		RETURNING *)
	INSERT INTO ever SELECT id, tenant_id, COALESCE(started_at, created_at) FROM fresh};
my @parts = (
	$old_rows,
	$old_rows,
	'ALTER TABLE executions DETACH PARTITION side; SELECT pg_sleep(0.05)',
	'ALTER TABLE executions DETACH PARTITION side CONCURRENTLY',
	$attach,
	$attach,
	'CREATE TABLE future PARTITION OF executions FOR VALUES FROM ($$2200-01-01$$) TO (MAXVALUE)',
	'DROP TABLE IF EXISTS future',
	'REINDEX TABLE CONCURRENTLY recent',
	'VACUUM (FULL) older',
	'ALTER TABLE executions DETACH PARTITION side FINALIZE');

# What such a statement may say: that it lost a race, or that there is nothing to do.
my $harmless = join '|', 'deadlock detected', 'lock timeout', 'already exists', 'does not exist',
  'is not a partition', 'is already a partition', 'pending detach', 'cannot complete detaching',
  # of a partition that was away while the columns changed
  'has different type for column', 'is missing column', 'not found in parent';

sub disturb
{
	my ($db, $statements) = @_;
	my $sql = $statements->[ int(rand(@$statements)) ];
	my @parts = $sql =~ /^(BEGIN|DO)/ ? ($sql) : split /; /, $sql;
	my ($rc, $out, $err) = $node->psql($db, join("\n", "SET lock_timeout = '5s';", map { "$_;" } @parts));

	$sum{ddl}++;
	$err = join "\n", grep { /ERROR/ && !/$harmless/ } split /\n/, $err;
	is($err, '', "$db: " . ($sql =~ /^(.*)/)[0]) if $err ne '';
	# a moment for the others
	$node->safe_psql($db, 'SELECT pg_sleep(' . rand(0.1) . ')');
	return;
}

# Has a run in the background ended?
sub is_over
{
	my ($run) = @_;

	return $node->safe_psql($run->{db}, over_query($run)) eq 't';
}

# Old rows for all tenants, and a run that walks over them, in the background.  The gate is open
# again, and the walk in others' way, once it has begun (or the run has ended without one).
sub burst
{
	my ($db) = @_;
	my $gate = $node->background_psql($db);
	my $log = -s $node->logfile;

	$gate->query_safe('SELECT pg_advisory_lock(99)');
	$gate->query_safe('SELECT count(add_rows(n, 300)) FROM generate_series(1, 24) AS n');
	wait_for($node, $db, q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 7268
		AND mode = 'RowExclusiveLock'}, "$db: nobody is in the way of a walk");
	my $run = start_run($node, 'batch_size => 50', db => $db,
		before => q{SET application_name = 'cleanup run'; SET log_min_messages = debug1});
	select(undef, undef, undef, 0.02) until walks_of($node, $run->{pid}, $log) || is_over($run);
	$gate->quit;
	return $run;
}

sub stress
{
	my ($db, $table, @statements) = @_;

	note("---- $db");
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "$table; CREATE EXTENSION retention; $setup; VACUUM ANALYZE");

	my $log = -s $node->logfile;
	my $end = time + $seconds / 2;
	my $next_burst = 0;
	my $walker;
	my @benches = (
		bench($db, 'app', $seconds / 2, '-c', 4, '-R', 400,
			weights({ insert => 6, renew => 8, polite => 2, impolite => 2, hold => 2 })),
		bench($db, 'cross', $seconds / 2, '-c', 3, '-R', 150, weights({ cross => 1 })),
		bench($db, 'policy', $seconds / 2, '-c', 1, '-R', 20, weights({ policy => 1 })),
		bench($db, 'cleanup call', $seconds / 2, '-c', 2, '-R', 60, weights({ call => 2, args => 1, tenant => 1 })),
		bench($db, 'cleanup run', $seconds / 2, '-c', 3, weights({ run => 4, one => 1 })));
	while (time < $end)
	{
		if ($db eq 'plain' && time >= $next_burst && (!$walker || is_over($walker)))
		{
			finish_run($walker) if $walker;
			$walker = burst($db);
			$next_burst = time + 4;
		}
		disturb($db, [ @statements, @common ]);
	}
	finish_run($walker) if $walker;
	foreach my $bench (@benches)
	{
		my $ok = $bench->{run}->finish;

		ok($ok && $bench->{out} !~ /aborted|ERROR|error:/, "$db: $bench->{who}: nothing fails")
		  or diag(substr($bench->{out}, -3000));
		note("$bench->{who}: $1") if $bench->{out} =~ /(number of transactions actually processed.*?\n.*?\n)/s;
		unlike($bench->{out}, qr/could not clean|could not be cleaned/, "$db: $bench->{who}: no tenant fails");
		# the end of the time cuts short what others would try again
		like($bench->{out}, qr/^number of failed transactions: 0 /m, "$db: $bench->{who}: no call fails")
		  if $bench->{who} eq 'cleanup run';
	}
	# a slow start may have left no time for a run, and here is no walker either
	$node->safe_psql($db, q{SET application_name = 'cleanup run'; SET log_min_messages = debug1; CALL retention.run()})
	  if $db eq 'partitioned';
	check_log($db, $log);
	check($db);
	return;
}

# What the server has logged of runs, since then.
sub check_log
{
	my ($db, $log) = @_;
	my @said = grep { / cleanup run / } split /\n/, slurp_file($node->logfile, $log);
	my @surfaced = grep { / cleanup run (40001|40P01) (ERROR|FATAL|PANIC): / } @said;
	my $walks = grep { /DEBUG: .* walks over \d+ blocks/ } @said;
	my $own = grep { /LOG: .* detected deadlock while waiting/ } @said;
	my $deadlocks = $node->safe_psql($db, 'SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()');

	cmp_ok(scalar(@said), '>', 0, "$db: runs are in the log");
	is(scalar(@surfaced), 0, "$db: no deadlock and no serialization failure comes to the caller of a run")
	  or diag(join "\n", @surfaced[ 0 .. ($#surfaced < 20 ? $#surfaced : 20) ]);
	cmp_ok($walks, '>', 0, "$db: runs walk over the table, $walks times") if $db eq 'plain';
	cmp_ok($deadlocks, '>', 0, "$db: there are deadlocks") if $seconds >= 60;
	note("$db: walks $walks, deadlocks $deadlocks, $own of them seen by a run");
	$sum{walks} += $walks;
	$sum{deadlocks} += $deadlocks;
	$sum{deadlocks_of_runs} += $own;
	return;
}

sub check
{
	my ($db) = @_;

	# what was cut short at the end
	$node->psql($db, 'ALTER TABLE executions DETACH PARTITION side FINALIZE') if $db eq 'partitioned';
	my $side = $node->safe_psql($db, q{SELECT to_regclass('side') IS NOT NULL AND NOT relispartition
		FROM pg_class WHERE oid = COALESCE(to_regclass('side'), to_regclass('executions'))});

	$node->safe_psql($db, 'CREATE VIEW present AS SELECT id, tenant_id, started_at, created_at FROM executions'
		  . ($side eq 't' ? ' UNION ALL SELECT id, tenant_id, started_at, created_at FROM side' : ''));
	my ($rows, $young, $few) = split /\|/, $node->safe_psql($db, q{
		WITH version AS (
			SELECT tenant_id, days, keep, is_enabled, visible_from, COALESCE(visible_until, 'infinity') AS visible_until
			FROM policy_log),
		judged AS (
			SELECT g.*, tenant_id >= t(19) AS impolite, v.young, v.few
			FROM gone_by_cleanup AS g, LATERAL (
				SELECT COALESCE(bool_and(g.t >= g.at - interval '24 hours' * days), true) AS young,
					   COALESCE(bool_and(g.t >= g.at - interval '24 hours' * days OR newer < keep), true) AS few
				FROM (SELECT days, keep FROM version
					  WHERE version.tenant_id = g.tenant_id AND visible_from <= g.at AND visible_until >= g.began
							AND (is_enabled OR g.who = 'cleanup call') AND g.who <> 'cleanup args'
					  UNION ALL SELECT 45, 15 WHERE g.who = 'cleanup args') AS x) AS v)
		SELECT count(*), count(*) FILTER (WHERE young), count(*) FILTER (WHERE few AND NOT impolite) FROM judged});

	cmp_ok($rows, '>', 1000, "$db: cleanups deleted $rows rows");
	is($young, '0', "$db: none was younger than the cutoff");
	is($few, '0', "$db: none was among the newest that a policy keeps")
	  or diag($node->safe_psql($db, q{
			SELECT format('%s %s rows of %s: %s newer, began %s, at %s; policies %s', g.who, count(*), right(g.tenant_id::text, 2),
						  min(newer), g.began::time, max(g.at)::time,
						  (SELECT string_agg(format('%s/%s %s-%s', days, keep, visible_from::time, visible_until::time), ' ' ORDER BY id)
						   FROM policy_log AS l WHERE l.tenant_id = g.tenant_id
								 AND COALESCE(l.visible_until, 'infinity') > g.began - interval '1 s' AND l.visible_from <= max(g.at)))
			FROM gone_by_cleanup AS g
			WHERE g.tenant_id < t(19) AND g.newer < CASE g.who WHEN 'cleanup args' THEN 15 ELSE (
				SELECT min(keep) FROM policy_log AS l WHERE l.tenant_id = g.tenant_id AND visible_from <= g.at
					   AND COALESCE(visible_until, 'infinity') >= g.began) END
			GROUP BY g.who, g.tenant_id, g.began}));
	my $both = $node->safe_psql($db, 'SELECT count(*) FILTER (WHERE tenant_id < t(19)) + count(*) FROM gone_by_cleanup');

	# of constant policies exactly that many; of others the smallest minimum there was
	my ($tenants, $short) = split /\|/, $node->safe_psql($db, q{
		SELECT count(*), count(*) FILTER (WHERE have < keep)
		FROM (SELECT tenant_id, least(min(keep), 15) AS keep FROM policy_log WHERE tenant_id <= t(12) GROUP BY tenant_id) AS p,
			LATERAL (SELECT t FROM ever AS e WHERE e.tenant_id = p.tenant_id ORDER BY t DESC OFFSET p.keep - 1 LIMIT 1) AS edge,
			LATERAL (SELECT count(*) AS have FROM ever AS e JOIN present USING (id)
					 WHERE e.tenant_id = p.tenant_id AND e.t >= edge.t) AS x});
	is("$tenants|$short", '12|0', "$db: tenants whose application removes nothing have their newest rows");
	my $fresh = $node->safe_psql($db, q{
		SELECT count(*) FROM ever WHERE t > now() - interval '30 days' AND removed = 0
			   AND id NOT IN (SELECT id FROM present)});
	is($fresh, '0', "$db: no row younger than any policy is gone");

	my ($ledger, $wrong) = split /\|/, $node->safe_psql($db, q{
		SELECT count(*), count(*) FILTER (WHERE COALESCE(p.n, 0) + COALESCE(g.n, 0) + COALESCE(e.removed, 0) <> 1
										  OR e.id IS NULL OR p.t <> e.t OR g.t <> e.t)
		FROM ever AS e
			 FULL JOIN (SELECT id, count(*) AS n, min(COALESCE(started_at, created_at)) AS t FROM present GROUP BY id) AS p USING (id)
			 FULL JOIN (SELECT id, count(*) AS n, min(t) AS t FROM gone_by_cleanup GROUP BY id) AS g USING (id)});
	is($wrong, '0', "$db: each of $ledger rows is there, or went once");

	my ($runs, $claimed, $bad) = split /\|/, $node->safe_psql($db, q{
		SELECT count(*), COALESCE(sum(rows_deleted), 0), count(*) FILTER (WHERE status <> 'succeeded' OR tenants_failed > 0 OR message IS NOT NULL)
		FROM retention.run_history});
	is($bad, '0', "$db: none of $runs runs failed, nor any tenant in them")
	  or diag($node->safe_psql($db, q{
			SELECT status, stop_reason, message, count(*) FROM retention.run_history WHERE status <> 'succeeded' GROUP BY 1, 2, 3
			UNION ALL SELECT 'tenant', sqlstate, message, count(*) FROM retention.run_tenant WHERE message IS NOT NULL GROUP BY 1, 2, 3}));
	is($claimed, $node->safe_psql($db, q{SELECT count(*) FROM gone_by_cleanup WHERE who = 'cleanup run'}),
		"$db: history has what the runs deleted");
	is($node->safe_psql($db, 'SELECT COALESCE(sum(deleted), 0) FROM calls'),
		$node->safe_psql($db, q{SELECT count(*) FROM gone_by_cleanup WHERE who <> 'cleanup run'}),
		"$db: calls returned what they deleted");
	my ($calls, $skipped) = split /\|/, $node->safe_psql($db, q{
		SELECT (SELECT count(*) FROM calls), (SELECT sum(rows_skipped_locked) FROM retention.run_history)});
	note("$db: $runs runs, $calls calls, rows held by others $skipped");

	# in the end, in peace; what is due is settled by the clock of the run
	$node->safe_psql($db, $attach) if $side eq 't';
	$node->safe_psql($db, q{
		UPDATE execution_retention_policies SET is_enabled = true;
		CREATE TABLE oracle AS
		SELECT id, tenant_id, t, days, rank > keep AS goes
		FROM (SELECT e.id, e.tenant_id, COALESCE(e.started_at, e.created_at) AS t, p.retention_days AS days,
					 p.min_executions_to_keep AS keep,
					 row_number() OVER (PARTITION BY e.tenant_id ORDER BY COALESCE(e.started_at, e.created_at) DESC, e.id) AS rank
			  FROM executions AS e JOIN execution_retention_policies AS p USING (tenant_id)) AS x});
	$node->safe_psql($db, 'CALL retention.run()');
	my $goes = $node->safe_psql($db, q{
		UPDATE oracle SET goes = goes AND t < days * interval '-24 hours'
			+ (SELECT started_at FROM retention.run_history ORDER BY id DESC LIMIT 1);
		SELECT count(*) FROM oracle WHERE goes});
	is($node->safe_psql($db, q{
			SELECT sum(abs(have - want))
			FROM (SELECT count(*) FILTER (WHERE NOT o.goes) AS want, count(e.id) AS have
				  FROM oracle AS o LEFT JOIN executions AS e USING (id) GROUP BY o.tenant_id, o.t) AS x}),
		'0', "$db: a last run leaves what the oracle says, without the $goes rows that were due");

	$sum{rows} += $rows;
	$sum{checks} += $both + $tenants + 2 * $ledger + $runs;
	$sum{violations} += $young + $few + $short + $fresh + $wrong + $bad;
	$sum{inserted} += $ledger;
	$sum{runs} += $runs;
	$sum{calls} += $calls;
	return;
}

my $columns = '(id bigint NOT NULL, tenant_id uuid NOT NULL, started_at timestamptz,
	created_at timestamptz NOT NULL, note text)';
stress('plain', "CREATE TABLE executions $columns; ALTER TABLE executions ADD PRIMARY KEY (id)", @plain);
stress('partitioned', "CREATE TABLE executions $columns PARTITION BY RANGE (created_at);
	CREATE TABLE side PARTITION OF executions FOR VALUES FROM ('-infinity') TO ('2000-01-01');
	CREATE TABLE older PARTITION OF executions FOR VALUES FROM ('2000-01-01') TO ('"
	  . $node->safe_psql('postgres', q{SELECT date_trunc('hour', now() - interval '50 days')}) . "');
	CREATE TABLE recent PARTITION OF executions FOR VALUES FROM ('"
	  . $node->safe_psql('postgres', q{SELECT date_trunc('hour', now() - interval '50 days')}) . "') TO ('2200-01-01');
	CREATE INDEX ON executions (id)", @parts);

reliability("stress: rows deleted $sum{rows}, invariant checks $sum{checks}, violations $sum{violations}"
	  . " (rows written $sum{inserted}, runs $sum{runs}, walks over the table $sum{walks}, deadlocks $sum{deadlocks}, seen by a run"
	  . " $sum{deadlocks_of_runs} and kept to itself, calls $sum{calls}, DDL and VACUUM $sum{ddl}, seconds $seconds)");
$node->stop;
done_testing();
