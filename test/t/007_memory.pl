# 007_memory.pl - a call of twenty thousand batches ends with the memory it had after
# the first few, and a session of many calls with what it had after the first.
#
# A trigger reads the backend's memory contexts at three rows far apart, inside the
# call, where a leak would show.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('memory', 'shared_buffers = 256MB', 'max_wal_size = 4GB');
my ($t1, $t2) = (tenant(1), tenant(2));
my $rows = 200_000;

$node->safe_psql('postgres',
	    executions_table(extra => '; ALTER TABLE executions ADD PRIMARY KEY (id)')
	  . fill_tenant($t1, $rows, newest => 50)
	  . fill_tenant($t2, $rows, newest => 50, first => $rows + 1)
	  . q{
	CREATE EXTENSION retention;
	CREATE FUNCTION report_memory() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		RAISE NOTICE 'row % memory %', OLD.id,
			(SELECT sum(total_bytes) FROM pg_backend_memory_contexts);
		RETURN OLD;
	END $$;
	CREATE TRIGGER report BEFORE DELETE ON executions FOR EACH ROW
		WHEN (OLD.id % 200000 IN (2000, 100000, 199000)) EXECUTE FUNCTION report_memory();
	VACUUM ANALYZE executions});

# Bytes at the three rows of a call in batches of ten.
sub memory_of
{
	my ($tenant, $name) = @_;
	my ($rc, $out, $err) = $node->psql('postgres',
		"SELECT deleted_count FROM cleanup_old_executions('$tenant', 30, 0, 10)");

	is($rc, 0, "$name: runs");
	is($out, $rows, "$name: deletes all");
	my @bytes = $err =~ /row \d+ memory (\d+)/g;
	is(scalar(@bytes), 3, "$name: three readings");
	note("$name: @bytes");
	return @bytes;
}

my $limit = 2 * 1024 * 1024;
{
	my @bytes = memory_of($t1, 'plain');

	cmp_ok($bytes[2] - $bytes[0], '<', $limit, 'plain: 19,700 batches leak nothing');
	cmp_ok($bytes[2] - $bytes[1], '<', $limit / 2, 'plain: nor does the second half');
}

# With a foreign key each batch queues and fires triggers of its own.
{
	$node->safe_psql('postgres', "
		CREATE TABLE step (execution_id bigint REFERENCES executions ON DELETE CASCADE);
		CREATE INDEX ON step (execution_id);
		INSERT INTO step SELECT id FROM executions WHERE id % 10 = 0");
	my @bytes = memory_of($t2, 'foreign key');

	cmp_ok($bytes[2] - $bytes[0], '<', $limit, 'foreign key: no leak either');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM step'), '0',
		'foreign key: the referencing rows went');
}

# Two thousand calls in one session, for forty tenants, with and without work.
{
	my $session = $node->background_psql('postgres');
	my $memory = 'SELECT sum(total_bytes) FROM pg_backend_memory_contexts';
	my $loop = q{
		DO $$
		BEGIN
			FOR i IN 1 .. 1000 LOOP
				INSERT INTO executions (id, tenant_id, started_at)
				VALUES (1000000 + i, lpad((i % 40)::text, 32, 'a')::uuid, '2020-01-01');
				PERFORM cleanup_old_executions(lpad((i % 50)::text, 32, 'a')::uuid, 30, 0, 10);
			END LOOP;
		END $$};

	$session->query_safe($loop);
	my $before = $session->query_safe($memory);
	$session->query_safe($loop);
	my $after = $session->query_safe($memory);
	note("session: $before, $after");
	cmp_ok($after - $before, '<', 256 * 1024, 'session: a thousand calls more, memory the same');
	$session->quit;
}

$node->stop;
done_testing();
