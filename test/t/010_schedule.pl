# 010_schedule.pl - retention.schedule(), unschedule(), scheduled_jobs, and what
# check() and health() say about them: with pg_cron in the database, in another one,
# and absent.  Nobody waits for a job to fire here: what pg_cron would have written
# about it is written by hand.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

plan skip_all => 'pg_cron is not installed' unless have_library('pg_cron');

# pg_cron reads the schedules below in GMT: none is to come true meanwhile
sleep 1 while grep { ($_ * 60 - time) % 86400 < 300 } 60, 90, 120, 197, 255, 305;

my $node = start_node(
	'schedule',
	"shared_preload_libraries = 'pg_cron'",
	"cron.database_name = 'postgres'",
	"timezone = 'Europe/Berlin'");
# it is not there from the first moment on
wait_for($node, 'postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pg_cron launcher'},
	"pg_cron's launcher is there");

sub findings
{
	my ($db, $where) = @_;

	return $node->safe_psql($db,
		"SELECT severity, object, finding FROM retention.check_schedule() WHERE $where");
}

sub prepare
{
	my ($db) = @_;

	$node->safe_psql($db,
		executions_table() . "CREATE EXTENSION retention;
		SELECT retention.set_policy('" . tenant(1) . "', 30)");
	return;
}

# What a job is, without what pg_cron may change.
my $jobs = q{SELECT job_name, kind, schedule, database, username, active, last_status
	FROM retention.scheduled_jobs};

# ---- Loaded, but not created

prepare('postgres');
my $error = psql_fails($node, 'postgres', 'SELECT * FROM retention.schedule()', '55000', 'no extension');
like($error, qr/pg_cron is not available in database "postgres"/, 'the message');
like($error, qr/HINT:  The server has it: CREATE EXTENSION pg_cron;\n/, 'no more than that is missing');
is($node->safe_psql('postgres', 'SELECT * FROM retention.unschedule()'),
	'0|Nothing was scheduled: pg_cron is not available here.|', 'unscheduling says so');
is(findings('postgres', 'true'),
	'warning|extension pg_cron|It is not available here and no run has started lately.',
	'check: no pg_cron');

# ---- In this database

$node->safe_psql('postgres', 'CREATE EXTENSION pg_cron');
is(findings('postgres', "severity <> 'info'"),
	'warning|extension pg_cron|No job that you can see runs retention.run(), and no run has started lately.',
	'check: nothing is scheduled');

my $first = $node->safe_psql('postgres', 'SELECT * FROM retention.schedule()');
like($first,
	qr/^\d+\|retention:postgres\|0 2 \* \* \*\|CALL retention\.run\(\)\|postgres\|Job \d+ runs in database "postgres" as role "\w+"\.\|$/,
	'one row');
my $user = $node->safe_psql('postgres', 'SELECT current_user');
my ($id) = split /\|/, $first;
is($node->safe_psql('postgres', $jobs),
	join("\n",
		"retention:postgres|run|0 2 * * *|postgres|$user|t|",
		"retention-prune:postgres|prune|17 3 * * *|postgres|$user|t|"),
	'a job that runs and one that prunes');
is(findings('postgres', 'true'),
	'info|extension pg_cron|It reads schedules in time zone GMT; yours is Europe/Berlin.',
	'check: only the time zone');
is($node->safe_psql('postgres', 'SELECT schedule, schedule_active, severity FROM retention.health()'),
	'0 2 * * *|t|info', 'health shows it');
# It has never fired: no alarm until rows should be gone
is($node->safe_psql('postgres', 'SELECT message FROM retention.health()'),
	'No run has started yet, though one is scheduled: SELECT * FROM retention.check();', 'health: it has not fired yet');
is($node->safe_psql('postgres', 'BEGIN; DELETE FROM execution_retention_policies; SET LOCAL retention.apply_default_policy = on;
		SELECT severity, message FROM retention.health(); ROLLBACK'),
	'info|No run has started yet, though one is scheduled: SELECT * FROM retention.check();', 'health: nor for tenants without a policy');
is( $node->safe_psql('postgres', '
		BEGIN;
		INSERT INTO executions (id, tenant_id, started_at) VALUES (1, ' . "'" . tenant(2) . "'" . q{, now() - interval '200 days');
		INSERT INTO execution_retention_policies (tenant_id, min_executions_to_keep, updated_at)
		SELECT tenant_id, 0, started_at FROM executions;
		SELECT severity, message FROM retention.health();
		ROLLBACK}),
	'critical|Policies that need attention: 1 of 2.  See retention.status.'
	  . '  No run has started yet, though one is scheduled: SELECT * FROM retention.check();',
	'health: it has never fired');
is( $node->safe_psql('postgres', q{
		SET timezone = 'Europe/Berlin'; ALTER SYSTEM SET timezone = 'UTC'; SELECT pg_reload_conf()}),
	't', 'the server in UTC');
wait_for($node, 'postgres', q{SELECT reset_val = 'UTC' FROM pg_settings WHERE name = 'TimeZone'}, 'it is');
is(findings('postgres', 'true'), '', 'check: nothing');

# Again: the same jobs
is($node->safe_psql('postgres', 'SELECT job_id FROM retention.schedule()'), $id, 'the same job');
is($node->safe_psql('postgres', q{SELECT job_id, schedule FROM retention.schedule('15 4 * * 0')}),
	"$id|15 4 * * 0", 'with another schedule');
is($node->safe_psql('postgres', q{SET retention.schedule = '5 5 * * *'; SELECT job_id, schedule FROM retention.schedule()}),
	"$id|5 5 * * *", 'with that of the setting');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cron.job'), 2, 'two jobs still');

# One that was put to sleep wakes up
$node->safe_psql('postgres', "SELECT cron.alter_job($id, active => false)");
is(findings('postgres', 'true'), 'warning|job retention:postgres|It is inactive.', 'check: inactive');
is($node->safe_psql('postgres', 'SELECT schedule_active, severity, message FROM retention.health()'),
	q{f|warning|The scheduled job is inactive: SELECT * FROM retention.schedule('5 5 * * *');}, 'health: inactive, and how to wake it');
is($node->safe_psql('postgres', 'SELECT advice FROM retention.check_schedule()'), q{SELECT * FROM retention.schedule('5 5 * * *');}, 'check, too');
isnt($node->safe_psql('postgres', 'SELECT job_id FROM retention.schedule()'), '', 'scheduled again');
is($node->safe_psql('postgres', q{SELECT count(*), bool_and(active) FROM retention.scheduled_jobs WHERE kind = 'run'}),
	'1|t', 'it is active');
$id = $node->safe_psql('postgres', q{SELECT job_id FROM retention.scheduled_jobs WHERE kind = 'run'});

# A job connects to the cron.host that was set when it was made
my $hosts = q{SELECT string_agg(nodename, ' ') FROM cron.job};
my $host = $node->safe_psql('postgres', 'SHOW cron.host');
is($node->safe_psql('postgres', $hosts), "$host $host", 'both jobs connect where the setting says');
$node->safe_psql('postgres', q{UPDATE cron.job SET nodename = 'elsewhere'});
$id = $node->safe_psql('postgres', 'SELECT job_id FROM retention.schedule()');
is($node->safe_psql('postgres', $hosts), "$host $host", 'where it said something else, they are made anew');
is($node->safe_psql('postgres', q{SELECT job_id, schedule FROM retention.scheduled_jobs WHERE kind = 'run'}),
	"$id|0 2 * * *", 'and it is the job that runs whose number is returned');
foreach my $other (q{nodeport = nodeport + 1}, q{database = 'template1'}, q{active = NOT (jobname ~ 'prune')})
{
	my $job = q{SELECT string_agg(concat_ws(' ', nodename, nodeport, database, active), ', ') FROM cron.job};
	my $is = $node->safe_psql('postgres', $job);

	$node->safe_psql('postgres', "UPDATE cron.job SET $other");
	isnt($node->safe_psql('postgres', $job), $is, "changed: $other");
	$id = $node->safe_psql('postgres', 'SELECT job_id FROM retention.schedule()');
	is($node->safe_psql('postgres', $job), $is, "made anew: $other");
}

# pg_cron's own errors come through, with help
$error = psql_fails($node, 'postgres', q{SELECT * FROM retention.schedule('at night')}, '22023', 'no schedule');
# from 1.5 on pg_cron has a hint of its own
my $hint = qr/A schedule has five fields: .* two\.|Use cron format .* seconds'\./;
like($error, qr/invalid schedule: at night\n.*HINT:  $hint\n/, 'the message of pg_cron and a hint');
$error = psql_fails($node, 'postgres', q{SET retention.schedule = 'soon'; SELECT * FROM retention.schedule()}, '22023', 'the setting is none');
like($error, qr/invalid schedule: soon\n.*HINT:  $hint  This one is the setting retention\.schedule\.\n/,
	'and where it comes from');
is($node->safe_psql('postgres', 'SELECT job_id, schedule FROM retention.scheduled_jobs WHERE kind = \'run\''),
	"$id|0 2 * * *", 'the job is as it was');

# ---- Jobs that do not go well

$node->safe_psql('postgres', qq{
	INSERT INTO cron.job_run_details (jobid, runid, database, username, command, status, return_message, start_time, end_time)
	VALUES ($id, 1001, 'postgres', current_user, 'CALL retention.run()', 'succeeded', 'CALL', now() - interval '400 days', now() - interval '400 days'),
		($id, 1002, 'postgres', current_user, 'CALL retention.run()', 'failed', 'connection failed', NULL, NULL),
		($id, 1003, 'postgres', current_user, 'CALL retention.run()', 'succeeded', 'CALL', now() - interval '91 days', now() - interval '91 days'),
		(99999, 1004, 'postgres', current_user, 'SELECT 1', 'succeeded', '1 row', now() - interval '400 days', now() - interval '400 days'),
		($id, 1005, 'postgres', current_user, 'CALL retention.run()', 'succeeded', 'CALL', now() - interval '72 hours', now() - interval '72 hours')});
is(findings('postgres', 'true'), 'critical|job retention:postgres|It has not been started lately.', 'check: does not fire');
$node->safe_psql('postgres', qq{
	INSERT INTO cron.job_run_details (jobid, runid, database, username, command, status, return_message)
	VALUES ($id, 1006, 'postgres', current_user, 'CALL retention.run()', 'failed', 'connection failed')});
is($node->safe_psql('postgres', 'SELECT severity, object, finding, advice FROM retention.check_schedule()'),
	'warning|job retention:postgres|Its last start failed: connection failed.|'
	  . 'pg_cron needs one of max_connections, and cron.host and pg_hba.conf such that it can connect'
	  . (cron_is_old($node) ? '' : '; or cron.use_background_workers = on')
	  . q{.  After a change of cron.* and the restart: SELECT * FROM retention.schedule('0 2 * * *');},
	'check: cannot connect');

# The pruning job's command, as pg_cron would run it
$node->safe_psql('postgres',
	$node->safe_psql('postgres', q{SELECT command FROM cron.job WHERE jobname = 'retention-prune:postgres'}));
is($node->safe_psql('postgres', q{SELECT string_agg(runid::text, ' ' ORDER BY runid) FROM cron.job_run_details}),
	'1004 1005 1006', 'details older than history_days are gone, those of other jobs are not');
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET retention.history_days = 2});
$node->safe_psql('postgres',
	$node->safe_psql('postgres', q{SELECT command FROM cron.job WHERE jobname = 'retention-prune:postgres'}));
is($node->safe_psql('postgres', q{SELECT string_agg(runid::text, ' ' ORDER BY runid) FROM cron.job_run_details}),
	'1004 1006', 'the setting counts as it is when the job runs');
$node->safe_psql('postgres', q{ALTER DATABASE postgres RESET retention.history_days});
$node->safe_psql('postgres', 'DELETE FROM cron.job_run_details');

# ---- Another role

$node->safe_psql('postgres', q{
	CREATE ROLE janitor LOGIN;
	GRANT EXECUTE ON FUNCTION retention.schedule, retention.unschedule TO janitor});
$error = psql_fails($node, 'postgres', 'SET ROLE janitor; SELECT * FROM retention.schedule()', '42501', 'no right to pg_cron');
like($error, qr/HINT:  GRANT USAGE ON SCHEMA cron TO janitor;/, 'the grant to run');
is($node->safe_psql('postgres', 'SET ROLE janitor; SELECT count(*) FROM retention.scheduled_jobs'), 0, 'sees no jobs');
like($node->safe_psql('postgres', 'SET ROLE janitor; SELECT object, finding FROM retention.check()'),
	qr/^extension pg_cron\|You may not see its jobs\.$/m, 'check says so');
$node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA cron TO janitor');
$node->safe_psql('postgres', 'SELECT retention.unschedule()');
is($node->safe_psql('postgres', 'SET ROLE janitor; SELECT job_name, message FROM retention.schedule()') =~ s/\d+/N/r,
	'retention:postgres|Job N runs in database "postgres" as role "janitor".', 'its own job');
# it may not see cron.host
$node->safe_psql('postgres', q{UPDATE cron.job SET nodename = 'elsewhere'});
$node->safe_psql('postgres', 'SET ROLE janitor; SELECT FROM retention.schedule()');
is($node->safe_psql('postgres', $hosts), 'elsewhere elsewhere', 'whoever may not see cron.host leaves it as it is');
$node->safe_psql('postgres', 'SET ROLE janitor; SELECT FROM retention.unschedule(); SELECT FROM retention.schedule()');
is($node->safe_psql('postgres', $hosts), "$host $host", 'and can make the jobs anew');
$error = psql_fails($node, 'postgres', 'SELECT * FROM retention.schedule()', '42710', 'the superuser does not make a second one');
like($error, qr/job "retention:postgres" belongs to role "janitor"/, 'and says whose it is');

my $rights = q{SELECT severity, object, finding, advice FROM retention.check_rights()};
is($node->safe_psql('postgres', $rights),
	'critical|role janitor|A job runs as this role, which lacks EXECUTE on procedure retention.run.|'
	  . 'Remove the job, unless the role is meant to clean.',
	'check: whoever makes a job is not given rights for it');
$node->safe_psql('postgres', 'GRANT EXECUTE ON PROCEDURE retention.run TO janitor');
is($node->safe_psql('postgres', $rights),
	join("\n", map { "critical|role janitor|A job runs as this role, which lacks $_->[0].|GRANT $_->[1] TO janitor;" }
		['DELETE on table public.executions', 'DELETE ON public.executions'],
		['SELECT on table public.execution_retention_policies', 'SELECT ON public.execution_retention_policies'],
		['SELECT on table public.executions', 'SELECT ON public.executions'],
		['UPDATE of last_cleanup_at on table public.execution_retention_policies',
			'UPDATE (last_cleanup_at) ON public.execution_retention_policies'],
		['UPDATE of last_cleanup_deleted_count on table public.execution_retention_policies',
			'UPDATE (last_cleanup_deleted_count) ON public.execution_retention_policies']),
	'check: what the role lacks');
$node->safe_psql('postgres', $node->safe_psql('postgres', q{SELECT advice FROM retention.check_rights()}));
is($node->safe_psql('postgres', $rights), '', 'the advice mends it');
$node->safe_psql('postgres', q{
	ALTER TABLE executions ENABLE ROW LEVEL SECURITY; ALTER ROLE janitor NOLOGIN; REVOKE USAGE ON SCHEMA public FROM PUBLIC});
is($node->safe_psql('postgres', $rights),
	join("\n",
		'critical|role janitor|A job runs as this role, which lacks the right to log in.|ALTER ROLE janitor LOGIN;',
		'critical|role janitor|A job runs as this role, which lacks USAGE on schema public.|GRANT USAGE ON SCHEMA public TO janitor;',
		'critical|table public.executions|Row-level security hides rows from role "janitor", as which a job runs: runs fail.|'
		  . 'ALTER ROLE janitor BYPASSRLS;'),
	'check: login, schema, row-level security');
# not committed: a job of a role that is gone ends pg_cron's launcher, which starts again a second later
is($node->safe_psql('postgres', q{
		BEGIN; UPDATE cron.job SET username = 'gone'; SELECT object, finding FROM retention.check_rights(); ROLLBACK}),
	'role gone|A job runs as this role, which does not exist.', 'check: no such role');
is($node->safe_psql('postgres', 'SELECT * FROM retention.unschedule()'), '2|No run is scheduled any more.|',
	'the superuser removes the jobs of others');
is($node->safe_psql('postgres', 'SELECT * FROM retention.unschedule()'), '0|Nothing was scheduled.|', 'twice is fine');
is($node->safe_psql('postgres', 'SELECT count(*) FROM cron.job'), 0, 'no job is left');

# A job of our name that does something else is not ours
$node->safe_psql('postgres', q{SET ROLE janitor; SELECT cron.schedule('retention:postgres', '0 0 1 1 *', 'select 1')});
is($node->safe_psql('postgres', 'SELECT schedule FROM retention.health()'), '', 'no schedule of ours');
like($node->safe_psql('postgres', 'SELECT object, finding FROM retention.check_schedule()'),
	qr/^job retention:postgres\|It has the name of ours and does something else, as role "janitor"\.$/m, 'check says so');
$node->safe_psql('postgres', 'SELECT retention.unschedule()');

# Jobs that somebody made without retention.schedule() count
$node->safe_psql('postgres', q{SELECT cron.schedule('mine', '0 1 * * *', 'call RETENTION.RUN(force => true)')});
is($node->safe_psql('postgres', 'SELECT job_name, kind FROM retention.scheduled_jobs'), 'mine|run', 'a job of another name');
is(findings('postgres', 'true'), '', 'check: that will do');
$node->safe_psql('postgres', 'SELECT retention.schedule()');
is(findings('postgres', 'true'), 'info|extension pg_cron|2 active jobs run retention.run().', 'check: one too many');

# ---- In another database

$node->safe_psql('postgres', 'SELECT cron.unschedule(jobid) FROM cron.job; CREATE DATABASE "my app"');
prepare('my app');
my ($job, $name, $schedule, $command, $db, $message, $statement) = split /\|/,
  $node->safe_psql('my app', q{SELECT * FROM retention.schedule('30 1 * * *')}), 7;
is("$job,$name,$schedule,$command,$db", ',retention:my app,30 1 * * *,CALL retention.run(),my app', 'what would be scheduled');
is($message, 'pg_cron keeps its jobs in database "postgres": run the statement there.', 'where');
like($statement, qr/^SELECT cron\.schedule_in_database\('retention:my app', '30 1 \* \* \*', 'CALL retention\.run\(\)', 'my app'\);\n/,
	'the exact statement');
foreach my $bad ('at night', '0 2 * *', '', '0 2 * * * *')
{
	$error = psql_fails($node, 'my app', "SELECT * FROM retention.schedule('$bad')", '22023', "no statement for '$bad'");
	like($error, qr/invalid schedule: \Q$bad\E\n.*HINT:  A schedule has five fields/, 'the same message as there');
}
foreach my $good ('@daily', '10 seconds', '*/5 0-6 1,15 jan mon')
{
	like($node->safe_psql('my app', "SELECT statement FROM retention.schedule('$good')"),
		qr/'retention:my app', '\Q$good\E', /, "a statement for '$good'");
}
$node->safe_psql('postgres', $statement) for 1, 2;
is($node->safe_psql('postgres', 'SELECT jobname, schedule, database FROM cron.job ORDER BY 1 DESC'),
	join("\n", 'retention:my app|30 1 * * *|my app', 'retention-prune:my app|17 3 * * *|postgres'),
	'run there, twice: one job for each');
$node->safe_psql('postgres', $node->safe_psql('postgres', q{SELECT command FROM cron.job WHERE jobname ~ 'prune'}));
like(findings('my app', 'true'),
	qr/^warning\|extension pg_cron\|It keeps its jobs in database "postgres": .* seen from here\.  No run has started lately\.$/,
	'check: cannot see it');
$node->safe_psql('my app', q{
	INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid, stop_reason)
	VALUES (now(), now(), 'succeeded', 'me', 1, 'done')});
like(findings('my app', 'true'), qr/^info\|extension pg_cron\|.* seen from here\.$/, 'check: but it runs');
is($node->safe_psql('my app', 'SELECT severity, message, schedule FROM retention.health()'), 'ok|All is well.|',
	'health: all is well');
($job, $message, $statement) = split /\|/, $node->safe_psql('my app', 'SELECT * FROM retention.unschedule()'), 3;
is("$job,$message", '0,pg_cron keeps its jobs in database "postgres": run the statement there.', 'unscheduling, too');
$node->safe_psql('postgres', $statement);
is($node->safe_psql('postgres', 'SELECT count(*) FROM cron.job'), 0, 'the statement removes both');

# ---- Not loaded

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'auto_explain'");
$node->restart;
$error = psql_fails($node, 'my app', 'SELECT * FROM retention.schedule()', '55000', 'not loaded');
like($error, qr/shared_preload_libraries = 'auto_explain, pg_cron'\ncron\.database_name = 'my app'\nCREATE EXTENSION pg_cron;/,
	'what is loaded stays');
is(findings('postgres', "severity = 'critical'"),
	'critical|extension pg_cron|Its launcher is not running: no schedule fires.', 'check: created, but not loaded');
my ($rc, undef, $stderr) = $node->psql('postgres', 'SELECT * FROM retention.schedule()');
is($rc, 3, 'scheduling fails there');
like($stderr, qr/pg_cron/, 'and names pg_cron');
is($node->safe_psql('my app', q{SELECT retention_days_from FROM retention.get_policy('} . tenant(9) . q{')}), 'default',
	'a new session finds the settings');

$node->stop;
done_testing();
