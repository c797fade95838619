# 002_dump_restore.pl - policies, the attached table and the indexes survive pg_dump
# and restore into an empty database, and DROP EXTENSION takes there what it takes here.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('dump');
my $dir = PostgreSQL::Test::Utils::tempdir();

sub run_ok
{
	my ($name, @command) = @_;

	$node->command_ok(\@command, $name);
	return;
}

# Where things are, as one comparable text.  The table may be recorded twice: by CREATE
# EXTENSION and by the restore.
sub state_of
{
	my ($db, $ops, $app) = @_;

	return join("\n",
		'policies:',
		$node->safe_psql($db, "SELECT p FROM $ops.execution_retention_policies p ORDER BY id"),
		'target:',
		$node->safe_psql($db, 'SELECT DISTINCT relation::text FROM retention.target'),
		'indexes:', contract_indexes($node, $db),
		$node->safe_psql($db, "SELECT indexdef FROM pg_indexes
			WHERE indexname LIKE 'idx\\_%' ORDER BY 1"),
		'rows:',
		$node->safe_psql($db, "SELECT count(*), sum(id) FROM $app.executions"));
}

# A database as a user has it: extension in $ops, executions in $app, three policies,
# one of them with a cleanup on record.
sub make_source
{
	my ($db, $ops, $app) = @_;
	my ($t1, $t2, $t3) = map { tenant($_) } 1 .. 3;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db,
		    "CREATE SCHEMA IF NOT EXISTS $ops; CREATE SCHEMA IF NOT EXISTS $app;"
		  . "SET search_path = $app, $ops;"
		  . executions_table(schema => $app)
		  . fill_tenant($t1, 300, schema => $app, newest => 50)
		  . fill_tenant($t2, 300, schema => $app, newest => 50)
		  . "CREATE EXTENSION retention SCHEMA $ops;
			 INSERT INTO $ops.execution_retention_policies
				(tenant_id, retention_days, min_executions_to_keep, is_enabled, created_by)
			 VALUES ('$t1', 30, 10, true, '$t3'), ('$t2', 40, 0, false, NULL),
					('$t3', 365, 1000, true, NULL);
			 SELECT deleted_count FROM $ops.cleanup_old_executions('$t1');
			 UPDATE $ops.execution_retention_policies
			 SET retention_days = 31, updated_by = '$t3' WHERE tenant_id = '$t1'");
	is($node->safe_psql($db, "SELECT count(*) FROM $app.executions"),
		'310', "$db: one tenant is cleaned");
	return;
}

# The restored database is the source's twin and works, up to DROP EXTENSION.
sub check_copy
{
	my ($db, $source, $ops, $app, $name) = @_;
	my $t2 = tenant(2);

	is(state_of($db, $ops, $app), state_of($source, $ops, $app),
		"$name: same policies, table, indexes and rows");
	like(contract_indexes($node, $db),
		qr/^idx_executions_null_started_at\|t\|t\nidx_executions_retention_cleanup\|t\|t$/,
		"$name: both indexes valid and the extension's");
	is($node->safe_psql($db,
			"SELECT deleted_count FROM $ops.cleanup_old_executions('$t2')"),
		'300', "$name: a cleanup works");
	is($node->safe_psql($db, qq{
			WITH u AS (UPDATE $ops.execution_retention_policies
					   SET retention_days = 77 WHERE tenant_id = '$t2'
					   RETURNING updated_at > created_at)
			SELECT * FROM u}),
		't', "$name: the trigger works");
	$node->safe_psql($db, 'DROP EXTENSION retention');
	is(contract_indexes($node, $db), '', "$name: DROP EXTENSION takes the indexes");
	is($node->safe_psql($db, "SELECT count(*) FROM $app.executions"),
		'10', "$name: and no row");
	is($node->safe_psql($db, qq{
			SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE relname LIKE '%retention%' OR nspname = 'retention'}),
		'0', "$name: and leaves nothing behind");
	return;
}

foreach my $case (
	[ 'one_schema', 'public', 'public' ],
	[ 'two_schemas', 'ops', 'app' ],
	[ 'odd_names', '"Ops 1"', '"App ""2"""' ])
{
	my ($source, $ops, $app) = @$case;
	my $copy = 0;
	my @options;

	make_source($source, $ops, $app);
	run_ok("$source: pg_dump, custom",
		'pg_dump', '-Fc', '-f', "$dir/$source.dump", $source);
	run_ok("$source: pg_dump, plain",
		'pg_dump', '-Fp', '-f', "$dir/$source.sql", $source);

	foreach my $single (0, 1)
	{
		my $way = $single ? 'one transaction' : 'statement by statement';

		@options = $single ? ('--single-transaction') : ();
		$copy++;
		$node->safe_psql('postgres', "CREATE DATABASE copy$copy TEMPLATE template0");
		run_ok("$source: pg_restore, $way",
			'pg_restore', '--exit-on-error', @options, '-d', "copy$copy",
			"$dir/$source.dump");
		check_copy("copy$copy", $source, $ops, $app, "$source, custom, $way");

		$copy++;
		$node->safe_psql('postgres', "CREATE DATABASE copy$copy TEMPLATE template0");
		run_ok("$source: psql, $way",
			'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', @options, '-d', "copy$copy",
			'-f', "$dir/$source.sql");
		check_copy("copy$copy", $source, $ops, $app, "$source, plain, $way");
	}

	# Parallel restore needs the objects in the right order, too.
	$copy++;
	$node->safe_psql('postgres', "CREATE DATABASE copy$copy TEMPLATE template0");
	run_ok("$source: pg_restore, four jobs",
		'pg_restore', '--exit-on-error', '-j4', '-d', "copy$copy", "$dir/$source.dump");
	check_copy("copy$copy", $source, $ops, $app, "$source, custom, four jobs");

	# Data only, into a schema made beforehand: executions first, then the
	# extension, which has found and recorded the table by itself.
	$copy++;
	run_ok("$source: pg_dump --data-only",
		'pg_dump', '--data-only', '-f', "$dir/$source.data.sql", $source);
	$node->safe_psql('postgres', "CREATE DATABASE copy$copy TEMPLATE template0");
	$node->safe_psql("copy$copy",
		    "CREATE SCHEMA IF NOT EXISTS $ops; CREATE SCHEMA IF NOT EXISTS $app;"
		  . "SET search_path = $app, $ops;"
		  . executions_table(schema => $app)
		  . "CREATE EXTENSION retention SCHEMA $ops");
	run_ok("$source: data only",
		'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', "copy$copy",
		'-f', "$dir/$source.data.sql");
	check_copy("copy$copy", $source, $ops, $app, "$source, data only");

	drop_database($node, "copy$_") foreach 1 .. $copy;
}

# A dump of a database without executions, restored, then the table appears.
{
	my $t1 = tenant(1);

	$node->safe_psql('postgres', 'CREATE DATABASE early');
	$node->safe_psql('early', "CREATE EXTENSION retention;
		INSERT INTO execution_retention_policies (tenant_id, retention_days)
		VALUES ('$t1', 30)");
	run_ok('no executions: pg_dump', 'pg_dump', '-Fc', '-f', "$dir/early.dump", 'early');
	$node->safe_psql('postgres', 'CREATE DATABASE late TEMPLATE template0');
	run_ok('no executions: pg_restore',
		'pg_restore', '--exit-on-error', '-d', 'late', "$dir/early.dump");
	$node->safe_psql('late',
		    executions_table()
		  . fill_tenant($t1, 300, newest => 50)
		  . 'SELECT retention.attach()');
	is($node->safe_psql('late', "SELECT deleted_count FROM cleanup_old_executions('$t1')"),
		'200', 'no executions: policy restored, table attached later, cleanup works');
}

$node->stop;
done_testing();
