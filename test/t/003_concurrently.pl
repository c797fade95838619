# 003_concurrently.pl - the recipe for a large table: the indexes are built
# CONCURRENTLY beforehand, under writers, and CREATE EXTENSION takes them as they are
# without blocking anybody.  Without the recipe a writer waits; that is shown, too.
#
# Waiting is proved by pg_locks, going on by rows that arrive.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('concurrently');
my $t1 = tenant(1);

my @recipe = (
	'CREATE INDEX CONCURRENTLY idx_executions_retention_cleanup
		ON executions (tenant_id, started_at) WHERE started_at IS NOT NULL',
	'CREATE INDEX CONCURRENTLY idx_executions_null_started_at
		ON executions (tenant_id, created_at) WHERE started_at IS NULL');

# A database with a table, and a way to stop the writer.
sub make_database
{
	my ($db) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db,
		    executions_table()
		  . fill_tenant($t1, 20000, newest => 50)
		  . 'CREATE TABLE stop_writer (); CREATE SEQUENCE written');
	return;
}

# A session that inserts row after row, each in its own transaction, until told to
# stop.  The sequence counts the rows that went in.
sub start_writer
{
	my ($db) = @_;
	my $writer = $node->background_psql($db);

	$writer->query_until(qr/writing/, qq{
		\\echo writing
		DO \$\$
		BEGIN
			LOOP
				INSERT INTO executions (id, tenant_id, started_at)
				VALUES (0, '$t1', clock_timestamp());
				PERFORM nextval('written');
				COMMIT;
				EXIT WHEN EXISTS (SELECT FROM stop_writer);
			END LOOP;
		END \$\$;
	});
	return $writer;
}

sub stop_writer
{
	my ($db, $writer) = @_;

	$node->safe_psql($db, 'INSERT INTO stop_writer DEFAULT VALUES');
	$writer->quit;
	return;
}

# The writer has written at least 20 rows more than it had at the time of the call.
sub writer_goes_on
{
	my ($db, $name) = @_;
	my $seen = $node->safe_psql($db, 'SELECT last_value FROM written');

	wait_for($node, $db, "SELECT last_value >= $seen + 20 FROM written", $name);
	return;
}

my $relfilenodes = q{
	SELECT relname, oid, relfilenode FROM pg_class
	WHERE relname IN ('idx_executions_retention_cleanup',
					  'idx_executions_null_started_at') ORDER BY 1};

# ---- With the recipe.
{
	make_database('prepared');
	my $writer = start_writer('prepared');
	my $admin = $node->background_psql('prepared');

	writer_goes_on('prepared', 'the writer writes');
	foreach my $sql (@recipe)
	{
		# Ends while the writer writes.
		$node->safe_psql('prepared', $sql);
	}
	writer_goes_on('prepared', 'after CREATE INDEX CONCURRENTLY it still does');
	my $before = $node->safe_psql('prepared', $relfilenodes);

	# The transaction is held open, so what it locks stays locked.
	$admin->query_safe('BEGIN');
	$admin->query_safe('CREATE EXTENSION retention');
	my $pid = $admin->query_safe('SELECT pg_backend_pid()');
	is($node->safe_psql('prepared', qq{
			SELECT string_agg(c.relname || ' ' || l.mode, ', ' ORDER BY 1, l.mode)
			FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
			WHERE l.pid = $pid AND l.granted
				  AND (c.relname = 'executions'
					   OR c.relname IN ('idx_executions_retention_cleanup',
										'idx_executions_null_started_at'))
				  AND l.mode NOT IN ('AccessShareLock', 'RowShareLock',
									 'RowExclusiveLock', 'ShareUpdateExclusiveLock')}),
		'', 'CREATE EXTENSION holds no lock on the table or its indexes that a writer meets');
	writer_goes_on('prepared', 'the writer writes while CREATE EXTENSION is not committed');
	is($node->safe_psql('prepared',
			"SELECT count(*) >= 20000 FROM executions WHERE tenant_id = '$t1'"),
		't', 'and readers read');
	$admin->query_safe('COMMIT');
	$admin->quit;

	is($node->safe_psql('prepared', $relfilenodes), $before,
		'the indexes are the ones that were there: same OID, same file');
	is(contract_indexes($node, 'prepared'),
		"idx_executions_null_started_at|t|t\nidx_executions_retention_cleanup|t|t",
		'and are the extension\'s now');

	my $s = cleanup($node, 'prepared', $t1, retention_days => 30, min_executions_to_keep => 0);
	is($s->{deleted}, 20000, 'a cleanup under the writer');
	stop_writer('prepared', $writer);

	my $rows = $node->safe_psql('prepared', 'SELECT count(*) FROM executions');
	$node->safe_psql('prepared', 'DROP EXTENSION retention');
	is(contract_indexes($node, 'prepared'), '', 'DROP EXTENSION takes them');
	is($node->safe_psql('prepared', 'SELECT count(*) FROM executions'),
		$rows, 'and no row');
}

# ---- Without it.
{
	make_database('unprepared');
	my $admin = $node->background_psql('unprepared');
	my $writer = $node->background_psql('unprepared');
	my $pid = $writer->query_safe('SELECT pg_backend_pid()');

	$admin->query_safe('BEGIN');
	$admin->query_safe('CREATE EXTENSION retention');
	$writer->query_until(qr/writing/, qq{
		\\echo writing
		INSERT INTO executions (id, tenant_id) VALUES (-1, '$t1');
	});
	wait_for($node, 'unprepared', qq{
		SELECT count(*) = 1 FROM pg_locks
		WHERE pid = $pid AND NOT granted AND relation = 'executions'::regclass
			  AND mode = 'RowExclusiveLock'},
		'without the recipe a writer waits for CREATE EXTENSION');
	is($node->safe_psql('unprepared', 'SELECT count(*) FROM executions'),
		'20000', 'while readers read');
	$admin->query_safe('COMMIT');
	wait_for($node, 'unprepared',
		'SELECT count(*) = 1 FROM executions WHERE id = -1',
		'after its commit the writer goes on');
	$admin->quit;
	$writer->quit;
}

# ---- CREATE INDEX CONCURRENTLY failed half way and left an invalid index.
{
	make_database('half_way');
	my $holder = $node->background_psql('half_way');

	$holder->query_safe('BEGIN');
	$holder->query_safe("INSERT INTO executions (id, tenant_id) VALUES (-1, '$t1')");
	psql_fails($node, 'half_way',
		"SET lock_timeout = '50ms'; $recipe[0]", '55P03',
		'CREATE INDEX CONCURRENTLY meets a long transaction');
	$holder->query_safe('ROLLBACK');
	$holder->quit;
	like($node->safe_psql('half_way',
			"SELECT relname, indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid"),
		qr/idx_executions_retention_cleanup\|f/, 'and leaves an invalid index');

	my $err = psql_fails($node, 'half_way', 'CREATE EXTENSION retention', '55000',
		'CREATE EXTENSION with an invalid index');
	like($err, qr/HINT:.*(DROP|REINDEX|drop|rebuild)/,
		'the hint says what to do');
	$node->safe_psql('half_way', 'DROP INDEX CONCURRENTLY idx_executions_retention_cleanup');
	$node->safe_psql('half_way', $_) foreach @recipe;
	$node->safe_psql('half_way', 'CREATE EXTENSION retention');
	is(contract_indexes($node, 'half_way'),
		"idx_executions_null_started_at|t|t\nidx_executions_retention_cleanup|t|t",
		'dropped and rebuilt, it installs');
}

$node->stop;
done_testing();
