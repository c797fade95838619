# RunTest.pm - what the tests of retention.run() share: rows whose fate is certain for
# the next half hour, the oracle that says which of them go, a trigger that stops a run
# at an exact row, and what history says.

package RunTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

our @EXPORT =
  qw(rows_of policy prepare_runs mischief hold_history unhold_history remember verdict gone last_run run
  start_run wait_until_stopped wait_until_over finish_run release no_locks_left truth_query over_query walks_of);

# SQL that gives one tenant "rows" rows, one an hour, the newest "newest" days and half
# an hour old, so that none of them becomes due while a test goes on.  Every "nulls"-th
# one was never started.  Ids count from "first", oldest row first.
sub rows_of
{
	my ($tenant, $rows, %opt) = @_;
	my $newest = $opt{newest} // 0;
	my $nulls = $opt{nulls} // 7;
	my $first = $opt{first} // 1;

	return "INSERT INTO executions (id, tenant_id, started_at, created_at)
		SELECT $first + i - 1, '$tenant',
			   CASE WHEN $nulls = 0 OR i % $nulls <> 0 THEN t END, t
		FROM generate_series(1, $rows) AS i,
			 LATERAL (SELECT now() - interval '24 hours' * $newest
							 - interval '30 minutes'
							 - interval '1 hour' * ($rows - i)) AS x (t);\n";
}

# SQL that makes a tenant's policy.
sub policy
{
	my ($tenant, $days, $keep, %opt) = @_;
	my $enabled = ($opt{enabled} // 1) ? 'true' : 'false';

	return "INSERT INTO execution_retention_policies
		(tenant_id, retention_days, min_executions_to_keep, is_enabled)
		VALUES ('$tenant', $days, $keep, $enabled);\n";
}

# SQL that makes the extension, its table, the oracle's cutoff, and the triggers: one that
# does mischief before a row is deleted, one that writes down what was deleted, by whom
# and in which transaction.  A cleanup never waits long for a lock, so the trigger has to say that it
# does.
sub prepare_runs
{
	return executions_table(extra => '; ALTER TABLE executions ADD PRIMARY KEY (id)')
	  . q{
	CREATE EXTENSION retention;
	CREATE FUNCTION cutoff_of(days integer) RETURNS timestamptz LANGUAGE sql STABLE AS $$
		SELECT CASE WHEN days > 700000 THEN '-infinity' ELSE now() - days * interval '24 hours' END
	$$;
	CREATE TABLE mischief (at_row bigint PRIMARY KEY, what text NOT NULL);
	CREATE FUNCTION make_mischief() RETURNS trigger LANGUAGE plpgsql
	SET lock_timeout = 0 AS $$
	DECLARE
		w text := (SELECT what FROM public.mischief WHERE at_row = OLD.id);
	BEGIN
		CASE
			WHEN w IS NULL THEN NULL;
			WHEN w = 'wait' THEN PERFORM pg_advisory_xact_lock(4711);
			WHEN w = 'keep' THEN RETURN NULL;
			WHEN w = 'raise' THEN
				RAISE 'row % may not go', OLD.id USING ERRCODE = 'RT001';
			ELSE PERFORM pg_sleep(w::float8);
		END CASE;
		RETURN OLD;
	END $$;
	CREATE TRIGGER mischief BEFORE DELETE ON executions
		FOR EACH ROW EXECUTE FUNCTION make_mischief();
	CREATE TABLE gone (id bigint, tenant_id uuid, xid bigint, who name);
	CREATE FUNCTION write_down() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.gone VALUES (OLD.id, OLD.tenant_id, txid_current(), current_user);
		RETURN NULL;
	END $$;
	CREATE TRIGGER write_down AFTER DELETE ON executions
		FOR EACH ROW EXECUTE FUNCTION write_down();
	};
}

# From now on: what happens at which rows.
sub mischief
{
	my ($node, %at) = @_;
	my $sql = 'TRUNCATE mischief;';

	$sql .= "INSERT INTO mischief VALUES ($_, '$at{$_}');" foreach sort keys %at;
	$node->safe_psql('postgres', $sql);
	return;
}

# From now on: what writes history stops there, by this definition of a trigger, as long as
# somebody holds this advisory lock.  For a lock on the table a run waits ten seconds, and a
# server may be slower.
sub hold_history
{
	my ($node, $lock, $trigger) = @_;

	$node->safe_psql('postgres', qq{
		CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS \$\$
			BEGIN PERFORM pg_advisory_xact_lock_shared($lock); RETURN NEW; END \$\$;
		CREATE TRIGGER hold $trigger EXECUTE FUNCTION hold()});
	return;
}

# No longer.
sub unhold_history
{
	my ($node) = @_;

	$node->safe_psql('postgres', 'DROP FUNCTION hold() CASCADE');
	return;
}

# Notes down all rows and which of them a run has to delete, in plain SQL.  "force": of
# disabled policies, too; "default": days and minimum for tenants without a policy;
# "tenant": of this tenant alone.
sub remember
{
	my ($node, %opt) = @_;
	my $days = $opt{default} ? $opt{default}[0] : 'NULL';
	my $keep = $opt{default} ? $opt{default}[1] : 'NULL';
	my $force = $opt{force} ? 'true' : 'false';
	my $tenant = $opt{tenant} ? "e.tenant_id = '$opt{tenant}'" : 'true';

	$node->safe_psql('postgres', qq{
		DROP TABLE IF EXISTS oracle;
		TRUNCATE gone;
		CREATE TABLE oracle AS
		SELECT id, tenant_id, t,
			   COALESCE(asked AND enabled AND rank > keep
						AND t < cutoff_of(days), false) AS goes
		FROM (SELECT e.id, e.tenant_id, COALESCE(e.started_at, e.created_at) AS t,
					 $tenant AS asked,
					 CASE WHEN p.id IS NULL THEN true ELSE p.is_enabled OR $force END AS enabled,
					 CASE WHEN p.id IS NULL THEN $days ELSE p.retention_days END AS days,
					 CASE WHEN p.id IS NULL THEN $keep ELSE p.min_executions_to_keep END AS keep,
					 row_number() OVER (PARTITION BY e.tenant_id
						ORDER BY COALESCE(e.started_at, e.created_at) DESC NULLS LAST, e.id) AS rank
			  FROM executions AS e
				   LEFT JOIN execution_retention_policies AS p USING (tenant_id)) AS x;
		VACUUM ANALYZE executions});
	return;
}

# What differs from the oracle: rows left that should have gone, and rows gone that
# should have stayed.  Of rows of one tenant and one instant, any may go.
sub verdict
{
	my ($node) = @_;

	return $node->safe_psql('postgres', q{
		SELECT COALESCE(sum(greatest(have - want, 0)), 0), COALESCE(sum(greatest(want - have, 0)), 0)
		FROM (SELECT count(*) FILTER (WHERE NOT o.goes) AS want, count(e.id) AS have
			  FROM oracle AS o LEFT JOIN executions AS e USING (id)
			  GROUP BY o.tenant_id, o.t) AS x});
}

# A query for when no run is under way: what is, what should be, and how many rows are
# gone.  Since the run with this id, what history claims is what is gone, for the runs and
# each tenant; no row is gone that should stay; no lock and no run is left.
#
# A walk writes down its tenants every ten seconds and at its end.  Of the runs "walked",
# which died in one, the run's own row is exact, and the tenants' rows are not more than that.
sub truth_query
{
	my ($since, @walked) = @_;
	my $walked = join(', ', @walked) || 'NULL';

	return qq{
		WITH fate AS (
			SELECT o.*, e.id IS NULL AS is_gone FROM oracle AS o LEFT JOIN executions AS e USING (id)),
		instant AS (
			SELECT count(*) FILTER (WHERE NOT goes) - count(*) FILTER (WHERE NOT is_gone) AS missing
			FROM fate GROUP BY tenant_id, t),
		tenant AS (
			SELECT tenant_id, count(*) FILTER (WHERE is_gone) AS gone FROM fate GROUP BY tenant_id),
		claim AS (
			SELECT tenant_id, sum(rows_deleted) AS claimed FROM retention.run_tenant
			WHERE run_id > $since GROUP BY tenant_id),
		unwritten AS (
			SELECT COALESCE(sum(r.rows_deleted - (SELECT COALESCE(sum(t.rows_deleted), 0) FROM retention.run_tenant AS t
												  WHERE t.run_id = r.id)), 0) AS rows
			FROM retention.run_history AS r WHERE r.id IN ($walked) AND r.status IN ('running', 'interrupted')),
		found AS (
			SELECT (SELECT sum(greatest(missing, 0)) FROM instant) AS too_many,
				   (SELECT sum(gone) FROM tenant) AS gone,
				   (SELECT COALESCE(sum(rows_deleted), 0) FROM retention.run_history WHERE id > $since) AS claimed,
				   (SELECT COALESCE(sum(claimed), 0) FROM claim) + (SELECT rows FROM unwritten) AS by_tenant,
				   (SELECT count(*) FROM tenant FULL JOIN claim USING (tenant_id)
					WHERE COALESCE(claimed, 0) > COALESCE(gone, 0)
						  OR COALESCE(claimed, 0) < COALESCE(gone, 0) AND (SELECT rows FROM unwritten) = 0) AS differ,
				   (SELECT count(*) FROM pg_locks
					WHERE locktype = 'advisory' AND objsubid BETWEEN 7265 AND 7268) AS locks,
				   (SELECT count(*) FROM retention.progress) AS alive),
		phrase (pattern) AS (
			VALUES ('%s rows too many, %s claimed, %s by tenants, %s tenants differ, %s locks, %s runs seem alive'))
		SELECT format(pattern, too_many, claimed, by_tenant, differ, locks, alive),
			   format(pattern, 0, gone, gone, 0, 0, 0), gone
		FROM found, phrase};
}

# How many of the rows that the oracle knows are gone.
sub gone
{
	my ($node) = @_;

	return $node->safe_psql('postgres',
		'SELECT count(*) FROM oracle WHERE id NOT IN (SELECT id FROM executions)');
}

# The runs of a session that have begun to walk over the table, by the server's log from this
# place on.  The session has "SET log_min_messages = debug1".
sub walks_of
{
	my ($node, $pid, $from) = @_;

	return slurp_file($node->logfile, $from) =~ /\[$pid\] .*DEBUG: .* retention run (\d+) walks over /g;
}

# Columns of the latest run's row in history.  What a test asks meanwhile makes its sessions
# others that are at work, now and then: where a run has waited for more than them, "waited_for"
# is the rest.
sub last_run
{
	my ($node, $columns) = @_;

	$columns =~ s/\bwaited_for\b/replace(replace(waited_for, 'other sessions, ', ''), ', other sessions', '')/;
	return $node->safe_psql('postgres',
		"SELECT $columns FROM retention.run_history ORDER BY id DESC LIMIT 1");
}

# A run in a session of its own, "before" being SQL that goes first.  Must succeed.
# Returns what psql printed to stderr.
sub run
{
	my ($node, $arguments, %opt) = @_;
	my ($rc, $out, $err) = $node->psql('postgres',
		    "\\set VERBOSITY verbose\n"
		  . ($opt{before} ? "$opt{before};\n" : '')
		  . 'CALL retention.run(' . ($arguments // '') . ');');

	is($rc, 0, ($opt{name} // 'run') . ': ends well') or diag $err;
	return $err;
}

# A run that goes on in the background.
sub start_run
{
	my ($node, $arguments, %opt) = @_;
	my $session = $node->background_psql($opt{db} // 'postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	$session->query_safe("\\set VERBOSITY verbose\n$opt{before}") if $opt{before};
	$session->query_until(qr/calling/,
		"\\set VERBOSITY verbose\n\\echo calling\nCALL retention.run("
		  . ($arguments // '') . ");\n");
	return { node => $node, db => $opt{db} // 'postgres', session => $session, pid => $pid };
}

# Waits until the run stands at the row with "wait" mischief.  Needs a session that
# holds advisory lock 4711.
sub wait_until_stopped
{
	my ($run, $name) = @_;

	wait_for($run->{node}, $run->{db}, "SELECT count(*) = 1 FROM pg_locks
		WHERE pid = $run->{pid} AND locktype = 'advisory' AND objid = 4711 AND NOT granted",
		"$name: the run stands in the middle");
	return;
}

# SQL that says whether the call, which may not have begun, has ended; the session is still there.
sub over_query
{
	my ($run) = @_;

	return "SELECT state = 'idle' AND query ~ '^(CALL retention|retention: )' FROM pg_stat_activity WHERE pid = $run->{pid}";
}

# Waits until it has.
sub wait_until_over
{
	my ($run, $name) = @_;

	wait_for($run->{node}, $run->{db}, over_query($run), "$name: the call has ended");
	return;
}

# Ends the session of a run; returns what psql printed to stderr.
sub finish_run
{
	my ($run) = @_;
	my $session = $run->{session};

	$session->query('SELECT 1');
	my $err = $session->{stderr};
	$session->{stderr} = '';
	$session->quit;
	return $err;
}

# The session that holds the lock lets the run go on.
sub release
{
	my ($holder) = @_;

	$holder->query_safe('SELECT pg_advisory_unlock(4711)');
	return;
}

# No session holds a lock that keeps cleanups apart, or one on the tables.
sub no_locks_left
{
	my ($node, $name) = @_;

	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM pg_locks
			WHERE pid <> pg_backend_pid()
				  AND (locktype = 'advisory' AND objsubid IN (7265, 7266)
					   OR relation IN ('executions'::regclass,
									   'execution_retention_policies'::regclass))}),
		'0', "$name: no lock is left");
	return;
}

1;
