# 001_upgrade.pl - a cluster goes from 15 to 17 to 18, by pg_upgrade and by pg_dumpall:
# policies, the attached table, the indexes and their dependency on the extension, rights,
# settings and the schedule stay; by pg_upgrade the history, too.  Then runs go on.
#
# Needs the programs of all three majors, each with the extension and pg_cron installed:
# scripts/pgroot makes such a system.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../t/lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my @majors = (15, 17, 18);
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($busy, $off, $kept, $bare) = map { tenant($_) } 1 .. 4;

# The table and the extension: in a schema each and with pg_cron, in one, with partitions,
# and without a table yet.
my %database = (
	app => { table => 'app.executions', ops => 'ops', cron => 1 },
	one => { table => 'public.executions', ops => 'public' },
	parts => { table => 'app.executions', ops => 'ops', partitions => 3 },
	early => { ops => 'public' });
my @databases = sort keys %database;

foreach my $major (@majors)
{
	my $root = "/usr/lib/postgresql/$major";

	ok((-x "$root/bin/pg_upgrade" and -e "$root/lib/retention.so" and -e "$root/lib/pg_cron.so"),
		"PostgreSQL $major is here, with the extension and pg_cron")
	  or BAIL_OUT("no complete PostgreSQL $major in $root");
}

# An empty cluster; with checksums, as 18 makes it without being told.
sub new_cluster
{
	my ($name, $major) = @_;
	my $node = PostgreSQL::Test::Cluster->new("${name}_$major",
		install_path => "/usr/lib/postgresql/$major");

	$node->init(extra => ['-k']);
	$node->append_conf('postgresql.conf', join("\n",
		'log_statement = none', "shared_preload_libraries = 'pg_cron'",
		"cron.database_name = 'app'", 'cron.use_background_workers = on'));
	return $node;
}

# SQL that gives a tenant rows that are older than any of its policies here.
sub old_rows
{
	my ($table, $tenant, $rows, $first) = @_;

	return "INSERT INTO $table (id, tenant_id, started_at, created_at)
		SELECT $first + i - 1, '$tenant', CASE WHEN i % 7 <> 0 THEN t END, t
		FROM generate_series(1, $rows) AS i,
			 LATERAL (SELECT now() - interval '60 days' - interval '1 hour' * ($rows - i)) AS x (t);\n";
}

sub make_table
{
	my ($table, $partitions) = @_;
	my $ddl = "CREATE TABLE $table (id bigint NOT NULL, tenant_id uuid NOT NULL,
		started_at timestamptz, created_at timestamptz DEFAULT now())";

	$ddl .= ' PARTITION BY HASH (tenant_id)' if $partitions;
	$ddl .= ";\nCREATE TABLE ${table}_$_ PARTITION OF $table
		FOR VALUES WITH (MODULUS $partitions, REMAINDER $_)" foreach 0 .. ($partitions // 0) - 1;
	return "SET ROLE app_owner; $ddl; RESET ROLE;\n";
}

# A database with policies, history and rights; of the table's rows those that were due are
# gone.
sub make_database
{
	my ($node, $name) = @_;
	my ($table, $ops, $partitions, $cron) = @{ $database{$name} }{qw(table ops partitions cron)};

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql('postgres', "ALTER DATABASE $name SET retention.batch_size = 50");
	$node->safe_psql($name, 'CREATE EXTENSION pg_cron') if $cron;
	$node->safe_psql($name, 'CREATE SCHEMA ops;
		CREATE SCHEMA app AUTHORIZATION app_owner;
		GRANT CREATE ON SCHEMA public TO app_owner;
		GRANT USAGE ON SCHEMA ops, app TO runner;'
		  . ($table
			? make_table($table, $partitions)
			  . old_rows($table, $busy, 300, 1)
			  . old_rows($table, $off, 300, 1001)
			  . old_rows($table, $kept, 8, 2001)
			  . old_rows($table, $bare, 300, 3001)
			  . "ANALYZE $table;
				 GRANT SELECT, DELETE ON $table TO runner;"
			: '')
		  . "SET search_path = app, public;
		CREATE EXTENSION retention SCHEMA $ops;
		INSERT INTO $ops.execution_retention_policies
			(tenant_id, retention_days, min_executions_to_keep, is_enabled, created_by)
		VALUES ('$busy', 30, 10, true, '$kept'), ('$off', 40, 0, false, NULL), ('$kept', 30, 10, true, NULL);
		GRANT SELECT ON $ops.execution_retention_policies TO runner;
		GRANT UPDATE (last_cleanup_at, last_cleanup_deleted_count) ON $ops.execution_retention_policies TO runner;
		GRANT EXECUTE ON PROCEDURE retention.run TO runner;");
	return unless $table;

	$node->safe_psql($name, "SET ROLE runner;\nCALL retention.run();");
	is($node->safe_psql($name, "SELECT count(*) FROM $table"), 10 + 300 + 8 + 300,
		"$name: a run has cleaned one tenant");
	return;
}

# What has to be the same before and after.
sub state_of
{
	my ($node, $name, $with_history) = @_;
	my ($table, $ops, $cron) = @{ $database{$name} }{qw(table ops cron)};
	my %query = (
		'1 policies' => "SELECT p FROM $ops.execution_retention_policies AS p ORDER BY id",
		'2 target' => 'SELECT relation, time_columns FROM retention.target',
		'3 indexes' => q{
			SELECT indexdef, obj_description(format('%I.%I', schemaname, indexname)::regclass, 'pg_class')
			FROM pg_indexes WHERE indexname LIKE 'idx\_%' ORDER BY 1},
		'4 members' => q{
			SELECT pg_describe_object(classid, objid, objsubid), deptype FROM pg_depend
			WHERE refclassid = 'pg_extension'::regclass
				  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'retention')
				  AND classid <> 'pg_type'::regclass	-- recorded by newer majors alone
			ORDER BY 1},
		'5 rights' => qq{
			WITH acl (object, owner, acl) AS (
				SELECT relname, relowner, relacl FROM pg_class WHERE relnamespace IN ('$ops'::regnamespace, 'retention'::regnamespace)
				UNION ALL
				SELECT attrelid::regclass || '.' || attname, relowner, attacl FROM pg_attribute JOIN pg_class AS c ON c.oid = attrelid
				WHERE relnamespace IN ('$ops'::regnamespace, 'retention'::regnamespace)
				UNION ALL
				SELECT p.oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc AS p
				WHERE pronamespace IN ('$ops'::regnamespace, 'retention'::regnamespace)
				UNION ALL
				SELECT nspname, nspowner, nspacl FROM pg_namespace WHERE nspname IN ('$ops', 'retention'))
			SELECT object, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, privilege_type, is_grantable
			FROM acl, aclexplode(acl) WHERE grantee <> owner ORDER BY 1, 2, 3},
		'6 settings' => 'SHOW retention.batch_size');

	$query{'7 rows'} = "SELECT count(*), sum(id) FROM $table" if $table;
	$query{'8 schedule'} = 'SELECT job_name, schedule, command, database, username, active
		FROM retention.scheduled_jobs() ORDER BY 1' if $cron;
	if ($with_history)
	{
		$query{'9 runs'} = 'SELECT h FROM retention.run_history AS h ORDER BY id';
		$query{'9 tenants'} = 'SELECT t FROM retention.run_tenant AS t ORDER BY 1';
	}
	return { map { $_ => $node->safe_psql($name, $query{$_}) } keys %query };
}

sub states_of
{
	my ($node, $with_history) = @_;

	return { map { $_ => state_of($node, $_, $with_history) } @databases };
}

# After a step everything goes on: the trigger, preview, run, history, status, checks, and
# a cleanup by hand.
sub goes_on
{
	my ($node, $name, $what) = @_;
	my ($table, $ops) = @{ $database{$name} }{qw(table ops)};
	my $due = 'SELECT tenant_id, executions_to_delete FROM retention.preview() WHERE executions_to_delete > 0';

	is($node->safe_psql($name, "UPDATE $ops.execution_retention_policies
			SET retention_days = retention_days + 1 WHERE tenant_id = '$busy'
			RETURNING updated_at >= now()"), 't', "$what: the policies' trigger works");
	return unless $table;

	is($node->safe_psql($name, $due), "$off|300", "$what: preview says that nothing more is due");
	$node->safe_psql($name, old_rows($table, $busy, 120, 1_000_000 + $node->port));
	is($node->safe_psql($name, $due), "$busy|120\n$off|300", "$what: and then that the new rows are");
	$node->safe_psql($name, "SET ROLE runner;\nCALL retention.run();");
	is($node->safe_psql($name, "SELECT tenant_id, count(*) FROM $table GROUP BY 1 ORDER BY 1"),
		"$busy|10\n$off|300\n$kept|8\n$bare|300", "$what: a run deletes them and no others");
	is($node->safe_psql($name, q{
			SELECT status, run_by, rows_deleted, batches FROM retention.run_history ORDER BY id DESC LIMIT 1}),
		'succeeded|runner|120|3', "$what: on record, with the database's batch size");
	is($node->safe_psql($name, 'SELECT tenant_id, severity FROM retention.status ORDER BY 1'),
		"$busy|ok\n$off|info\n$kept|ok", "$what: status");
	is($node->safe_psql($name, 'SELECT severity, object, finding FROM retention.check()'),
		$database{$name}{cron} ? 'ok|extension retention|Nothing is wrong.'
		: 'info|extension pg_cron|It keeps its jobs in database "app": whether one is there for this database cannot be seen from here.',
		"$what: check() finds nothing");
	is($node->safe_psql($name, "BEGIN;
			SELECT deleted_count FROM $ops.cleanup_old_executions('$off', 40, 299);
			ROLLBACK;"), '1', "$what: a cleanup by hand works");
	return;
}

# pg_cron's launcher gives up while its database is not there, and is started again.
sub cron_runs
{
	my ($node, $what) = @_;

	wait_for($node, 'app', q{
		SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'pg_cron launcher'},
		"$what: pg_cron runs");
	return;
}

# The cluster is the one of before and works.
sub check_step
{
	my ($node, $what, $states) = @_;

	foreach my $name (@databases)
	{
		is_deeply(state_of($node, $name, exists $states->{$name}{'9 runs'}),
			$states->{$name}, "$what, $name: everything is as before");
		goes_on($node, $name, "$what, $name");
	}
	return;
}

# At the end: the job fires, and DROP EXTENSION takes there what it takes elsewhere.
sub check_end
{
	my ($node, $what) = @_;

	$node->safe_psql('app', q{
		SELECT cron.alter_job(job_id, schedule => '1 seconds') FROM retention.scheduled_jobs() WHERE kind = 'run'});
	wait_for($node, 'app', q{
		SELECT count(*) > 0 FROM cron.job_run_details
		WHERE command LIKE 'CALL retention.run%' AND status IN ('succeeded', 'failed')},
		"$what: the job has run");
	is($node->safe_psql('app', q{
			SELECT status, return_message FROM cron.job_run_details
			WHERE command LIKE 'CALL retention.run%' AND status IN ('succeeded', 'failed') ORDER BY runid LIMIT 1}),
		'succeeded|CALL', "$what: and succeeded");
	$node->safe_psql('app', 'SELECT * FROM retention.unschedule()');

	foreach my $name (@databases)
	{
		$node->safe_psql($name, 'DROP EXTENSION retention');
		is($node->safe_psql($name, q{
				SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
				WHERE relname LIKE 'idx\_%' OR relname LIKE '%retention%' OR nspname = 'retention'}),
			'', "$what, $name: DROP EXTENSION takes everything");
		is($node->safe_psql($name, "SELECT count(*) FROM $database{$name}{table}"), '618',
			"$what, $name: and no row") if $database{$name}{table};
	}
	return;
}

# Since 15.20 and 17.12 a server marks the columns of each table with a version, which an
# 18 from before then does not know: no table goes there.  So the marks have to go first.
sub unmark
{
	my ($old, $new) = @_;

	return if index(slurp_file($new->install_path . '/bin/postgres'), 'pg_attver') >= 0
	  || index(slurp_file($old->install_path . '/bin/postgres'), 'pg_attver') < 0;
	diag($old->pg_version . ' to ' . $new->pg_version . ': column versions are removed first, because the newer server is from before them');
	$old->safe_psql($_, q{
		SET allow_system_table_mods = on;
		UPDATE pg_attribute SET attoptions = nullif(ARRAY(
			SELECT o FROM unnest(attoptions) AS o WHERE o NOT LIKE 'pg\_attver=%'), '{}')
		WHERE attoptions IS NOT NULL}) foreach @databases, 'postgres';
	return;
}

# ---- pg_upgrade.

# Returns whether it succeeded, and what it said.
sub pg_upgrade
{
	my ($old, $new, @options) = @_;
	my ($old_bin, $new_bin) = map { $_->install_path . '/bin' } $old, $new;
	my $said = '';

	chdir $dir or die "could not enter $dir: $!";
	my $ok = IPC::Run::run([ "$new_bin/pg_upgrade", '-b', $old_bin, '-B', $new_bin,
			'-d', $old->data_dir, '-D', $new->data_dir, '-p', $old->port, '-P', $new->port,
			'-s', $new->host, @options ], '<', \undef, '>&', \$said);
	note($said);
	return ($ok, $said);
}

sub upgrade
{
	my ($old, $major, @options) = @_;
	my $new = new_cluster('upgraded', $major);
	my $what = 'pg_upgrade to ' . $major;
	my $states = states_of($old, 1);

	unmark($old, $new);
	$old->stop;
	my ($ok, $said) = pg_upgrade($old, $new, @options);
	ok($ok, "$what: succeeds") or BAIL_OUT($said);
	$new->start;
	# what it tells the user to do for pg_cron
	$new->safe_psql('app', slurp_file("$dir/update_extensions.sql") =~ s/^\\connect.*$//gmr)
	  if -e "$dir/update_extensions.sql";
	cron_runs($new, $what);
	check_step($new, $what, $states);
	return $new;
}

# ---- pg_dumpall.

# By the new server's programs, as its manual says.  The role that initdb made is there, and
# what is told to be made first.
sub restore
{
	my ($old, $major, $first, @there) = @_;
	my $new = new_cluster('restored', $major);
	my $what = 'pg_dumpall to ' . $major;
	my $bin = $new->install_path . '/bin';
	my $file = "$dir/all_$major.sql";
	my $states = states_of($old, 0);
	my $complaints = '';

	unmark($old, $new);
	ok(IPC::Run::run([ "$bin/pg_dumpall", '-h', $old->host, '-p', $old->port, '-f', $file ],
			'<', \undef, '>&', \$complaints), "$what: dumped") or BAIL_OUT($complaints);
	$new->start;
	$new->safe_psql(@$_) foreach @$first;
	ok(IPC::Run::run([ "$bin/psql", '-Xq', '-h', $new->host, '-p', $new->port, '-d', 'postgres', '-f', $file ],
			'<', \undef, '>', \my $out, '2>', \$complaints), "$what: restored");
	is(join("\n", $complaints =~ /(?:ERROR|FATAL): +(.*)/g),
		join("\n", map { "$_ already exists" } 'role "' . getpwuid($<) . '"', @there), "$what: without other errors");
	cron_runs($new, $what);
	check_step($new, $what, $states);
	return $new;
}

my $first = new_cluster('first', $majors[0]);
$first->start;
$first->safe_psql('postgres', q{
	CREATE ROLE app_owner;
	CREATE ROLE runner;
	ALTER ROLE runner SET retention.pause_between_batches = '1ms'});
make_database($first, $_) foreach @databases;
is($first->safe_psql('app', q{SELECT job_name, schedule FROM retention.schedule('17 3 * * *')}),
	'retention:app|17 3 * * *', 'app: a schedule');

# pg_cron before 1.5 is in schema public, where newer ones refuse to be made.
my $restored = restore($first, $majors[1],
	[ [ 'postgres', 'CREATE DATABASE app' ], [ 'app', 'CREATE EXTENSION pg_cron' ] ], 'database "app"');
{
	my $new = restore($restored, $majors[2], []);

	$restored->stop;
	$restored = $new;
}
check_end($restored, "pg_dumpall to $majors[-1]");
$restored->stop;

# pg_upgrade refuses columns of some types, and would notice one in a table of ours.
{
	my $new = new_cluster('refused', $majors[1]);

	$first->safe_psql('postgres', 'CREATE DATABASE refused');
	$first->safe_psql('refused', 'CREATE EXTENSION retention; ALTER TABLE retention.target ADD COLUMN f regprocedure');
	$first->stop;
	my ($ok, $said) = pg_upgrade($first, $new, '--check');
	ok(!$ok, 'pg_upgrade refuses a column of type regprocedure');
	like($said, qr/reg\* data types/, 'and says so');
	$first->start;
	$first->safe_psql('postgres', 'DROP DATABASE refused');
}

# A run that never ended: the next one, on another major, says so.
$first->safe_psql('one', q{INSERT INTO retention.run_history (started_at, run_by, pid)
	VALUES (now() - interval '1 minute', 'runner', 999999)});
my $upgraded = upgrade($first, $majors[1]);
is($upgraded->safe_psql('one', q{SELECT count(*), count(*) FILTER (WHERE status = 'interrupted') FROM retention.run_history}),
	'3|1', 'the run that did not end is closed by the first on the new major');
$upgraded = upgrade($upgraded, $majors[2], '--link');
check_end($upgraded, "pg_upgrade to $majors[-1]");
$upgraded->stop;

done_testing();
