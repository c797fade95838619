# 035_old_snapshot.pl - history is written once per transaction: that costs the same each
# time while an old snapshot keeps every version of its rows, and never hits another row
# when they have moved.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $node = start_node('old_snapshot', 'fsync = off');
my $tenant = tenant(1);
my $first = 1;

sub query { return $node->safe_psql('postgres', $_[0]) }

# Gives the tenant so many rows that are due; returns the id of the first.
sub give
{
	my ($rows) = @_;
	my $given = $first;

	query(rows_of($tenant, $rows, newest => 50, first => $given) . 'ANALYZE executions');
	$first += $rows;
	return $given;
}

# What the server has counted of the two tables: updates and pages looked at.
sub counted
{
	return map { [ split /\|/ ] } split /\n/, query(q{
		SELECT n_tup_upd, heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read
		FROM pg_stat_all_tables JOIN pg_statio_all_tables USING (relid)
		WHERE relid IN ('retention.run_history'::regclass, 'retention.run_tenant'::regclass)
		ORDER BY relid});
}

# A run of so many transactions; returns what pages an update of each table took.
sub pages_per_update
{
	my ($rows) = @_;

	give($rows);
	my @before = counted();
	run($node, "'$tenant', batch_size => 1", name => "$rows transactions");
	is(last_run($node, 'status, rows_deleted'), "succeeded|$rows", "$rows transactions: all done");
	# it leaves what it counted when it goes
	wait_for($node, 'postgres', q{SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND state = 'idle' AND pid <> pg_backend_pid()}, 'the session of the run is gone');
	my @after = counted();
	my @pages;
	foreach my $table (0, 1)
	{
		my $updates = $after[$table][0] - $before[$table][0];

		cmp_ok($updates, '>=', $rows - 1, "$rows transactions: each writes table $table");
		push @pages, ($after[$table][1] - $before[$table][1]) / $updates;
	}
	note(sprintf('%d transactions: %.2f pages of run_history, %.2f of run_tenant per update', $rows, @pages));
	return @pages;
}

query(prepare_runs() . policy($tenant, 30, 0));

# ---- Under an old snapshot, four times as many transactions cost four times as much.
{
	my $reader = $node->background_psql('postgres', timeout => 3600);

	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM retention.run_history');
	my @few = pages_per_update(1000);
	my @many = pages_per_update(4000);
	is(query('SELECT count(backend_xmin) FROM pg_stat_activity WHERE state = $$idle in transaction$$'), '1',
		'the snapshot is still there');
	cmp_ok($many[0], '<', 2 * $few[0], 'run_history: an update does not cost more the more there were');
	cmp_ok($many[1], '<', 2 * $few[1], 'run_tenant: nor does one of this');
	$reader->quit;
}

# ---- While a run stands in the middle, its rows move, and others come to their places; or
# ---- somebody else writes them.  The run finds its own.
my $fillers = q{
	INSERT INTO retention.run_history (id, started_at, finished_at, status, run_by, pid)
	OVERRIDING SYSTEM VALUE
	SELECT 1000000 + i, now(), now(), 'succeeded', 'filler', 0 FROM generate_series(1, 500) i;
	INSERT INTO retention.run_tenant (run_id, tenant_id, finished_at)
	SELECT 1000000 + i, tenant_id, now() FROM execution_retention_policies, generate_series(1, 500) i};
my $others = q{
	SELECT md5(string_agg(h::text, ',' ORDER BY id)) FROM retention.run_history h WHERE id > 1000000
	UNION ALL SELECT md5(string_agg(t::text, ',' ORDER BY run_id)) FROM retention.run_tenant t WHERE run_id > 1000000};

foreach my $case (
	[ 'rewritten', "$fillers;
		CLUSTER retention.run_history USING run_history_pkey;
		CLUSTER retention.run_tenant USING run_tenant_pkey" ],
	[ 'written by others', 'UPDATE retention.run_history SET pid = pid; UPDATE retention.run_tenant SET batches = batches' ])
{
	my ($name, $sql) = @$case;
	my $holder = $node->background_psql('postgres');
	my $middle = give(40) + 20;

	query('DELETE FROM retention.run_history; DELETE FROM retention.run_tenant; VACUUM FULL retention.run_history');
	query('VACUUM FULL retention.run_tenant');
	query($fillers) unless $sql =~ /INTO/;
	mischief($node, $middle => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, "'$tenant', batch_size => 1");
	wait_until_stopped($run, $name);
	my $places = query(q{SELECT h.ctid, t.ctid FROM retention.run_history h JOIN retention.run_tenant t ON run_id = id
		WHERE status = 'running'});
	my ($history, $detail) = split /\|/, $places;
	query("$_;") foreach split /;/, $sql;
	is(query("SELECT (SELECT id > 1000000 FROM retention.run_history WHERE ctid = '$history'),
			(SELECT run_id > 1000000 FROM retention.run_tenant WHERE ctid = '$detail')"),
		$name eq 'rewritten' ? 't|t' : '|', "$name: at the run's places are others, or nothing");
	my $before = query($others);
	release($holder);
	like(finish_run($run), qr/retention run succeeded after .*: 40 rows deleted/, "$name: the run goes on");
	is(query('SELECT status, h.rows_deleted, t.rows_deleted, count(*) OVER ()
			FROM retention.run_history h JOIN retention.run_tenant t ON run_id = id WHERE id < 1000000'),
		'succeeded|40|40|1', "$name: its rows say what it did");
	is(query($others), $before, "$name: no other row has changed");
	$holder->quit;
}

# ---- A trigger that wants to see what is inserted sees all that is written of a tenant.
{
	query(q{TRUNCATE mischief;
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			NEW.message := 'seen ' || NEW.rows_deleted;
			RETURN NEW;
		END $$;
		CREATE TRIGGER see BEFORE INSERT ON retention.run_tenant
			FOR EACH ROW EXECUTE FUNCTION see()});
	give(30);
	run($node, "'$tenant', batch_size => 1", name => 'a trigger');
	is(query('SELECT message FROM retention.run_tenant WHERE run_id < 1000000 ORDER BY run_id DESC LIMIT 1'),
		'seen 30', 'a trigger: it has seen the last write');
}

$node->stop;
done_testing();
