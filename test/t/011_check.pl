# 011_check.pl - what of retention.check() takes a second session or a standby: open
# transactions, prepared ones, replication slots, dead rows; and that a run on a standby
# is not taken for interrupted.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
# a standby that stands still for a minute is not to be given up
$node->append_conf('postgresql.conf',
	join("\n", 'autovacuum_naptime = 1d', 'max_prepared_transactions = 2', 'wal_sender_timeout = 0', 'wal_receiver_timeout = 0', ''));
$node->start;
$node->safe_psql('postgres', executions_table() . 'CREATE EXTENSION retention');

# What counts as open for long is an argument.
sub findings
{
	my ($on) = @_;

	return ($on // $node)->safe_psql('postgres',
		q{SELECT severity, object, finding, advice FROM retention.check_vacuum(open_for => '0')});
}

is(findings(), '', 'nothing is wrong');

# ---- A prepared transaction

$node->safe_psql('postgres', q{BEGIN; DELETE FROM executions; PREPARE TRANSACTION 'it''s'});
like(findings(),
	qr/^warning\|prepared transaction 'it''s'\|It has been open since .*: rows deleted after that cannot be vacuumed\.\|COMMIT PREPARED 'it''s'; or ROLLBACK PREPARED 'it''s';$/,
	'a prepared transaction');
is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.check_vacuum()'), 0, 'which is not old');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'it''s'});
is(findings(), '', 'gone');

# ---- An open snapshot

my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM executions');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
my $found = findings();
like($found, qr/^warning\|process $pid\|Its transaction has been open since .*\|SELECT pg_terminate_backend\($pid\);$/,
	'a session with a snapshot');
is($node->safe_psql('postgres', 'SELECT count(*) FROM retention.check_vacuum()'), 0, 'which is not old');
$node->safe_psql('postgres', 'CREATE ROLE little');
is($node->safe_psql('postgres', q{SET ROLE little; SELECT object, advice FROM retention.check_vacuum(open_for => '0')}),
	'view pg_stat_activity|GRANT pg_read_all_stats TO little;', 'who may not see it is told so');
$session->quit;
wait_for($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'it ends');
is(findings(), '', 'gone');

# ---- Dead rows

$node->safe_psql('postgres', fill_tenant(tenant(1), 20000, newest => 50) . 'DELETE FROM executions; ');
wait_for($node, 'postgres', q{SELECT n_dead_tup >= 20000 FROM pg_stat_all_tables WHERE relname = 'executions'}, 'counted');
like(findings(),
	qr/^warning\|table public\.executions\|Autovacuum is behind: 20000 dead rows, .* it; last vacuumed: never\.\|VACUUM \(ANALYZE\) public\.executions;$/,
	'many dead rows');

# those that runs have just deleted do not count
my $run = q{INSERT INTO retention.run_history (started_at, finished_at, status, run_by, pid, rows_deleted) VALUES };
$node->safe_psql('postgres', "$run (now() - interval '3 days', now() - interval '25 hours', 'succeeded', 'me', 1, 20000)");
like(findings(), qr/behind: 20000/, 'what was deleted more than a day ago counts');
$node->safe_psql('postgres', "$run (now() - interval '3 days', now() - interval '23 hours', 'succeeded', 'me', 1, 5000)");
like(findings(), qr/behind: 20000/, 'and so do the others');
$node->safe_psql('postgres', "$run (now() - interval '3 days', NULL, 'interrupted', 'me', 1, 6000)");
is(findings(), '', 'no more than 10000 are old');
is($node->safe_psql('postgres', 'SET ROLE little; SELECT object FROM retention.check_vacuum() ORDER BY 1'),
	"table public.executions\nview pg_stat_activity", 'who does not see the runs hears of all of them');
$node->safe_psql('postgres', 'DELETE FROM retention.run_history');
$node->safe_psql('postgres', 'VACUUM (ANALYZE) executions');
wait_for($node, 'postgres', q{SELECT n_dead_tup = 0 FROM pg_stat_all_tables WHERE relname = 'executions'}, 'vacuumed');
is(findings(), '', 'gone');

# ---- Autovacuum

$node->safe_psql('postgres', 'ALTER SYSTEM SET autovacuum = off; ALTER SYSTEM SET track_counts = off; SELECT pg_reload_conf()');
wait_for($node, 'postgres', q{SELECT current_setting('autovacuum') = 'off'}, 'off');
is($node->safe_psql('postgres', 'SELECT object, advice FROM retention.check_vacuum()'),
	join("\n", map { "setting $_|ALTER SYSTEM SET $_ = on; SELECT pg_reload_conf();" } qw(autovacuum track_counts)), 'off');
$node->safe_psql('postgres', $_)
  for map { split /; /, $_ } split /\n/, $node->safe_psql('postgres', 'SELECT advice FROM retention.check_vacuum()');
wait_for($node, 'postgres', q{SELECT current_setting('autovacuum') = 'on'}, 'the advice mends it');
is(findings(), '', 'gone');

# ---- A slot of a standby that is away

$node->safe_psql('postgres', q{SELECT pg_create_physical_replication_slot('away')});
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf',
	join("\n", "primary_slot_name = 'away'", 'hot_standby_feedback = on', 'wal_receiver_status_interval = 1', ''));
$standby->start;
wait_for($node, 'postgres', q{SELECT xmin IS NOT NULL FROM pg_replication_slots}, 'the standby says what it needs');
is(findings(), '', 'a slot in use is fine');

# On the standby: the views and functions that read
$node->safe_psql('postgres', q{
	INSERT INTO retention.run_history (started_at, status, run_by, pid) VALUES (now(), 'running', 'me', 1)});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT status FROM retention.history'), 'running', 'a run of the primary seems to be running');
is($node->safe_psql('postgres', 'SELECT status FROM retention.history'), 'interrupted', 'where the primary knows better');
is($standby->safe_psql('postgres', 'SELECT count(*), max(pid) FROM retention.progress'), '1|1', 'progress of it');
is($standby->safe_psql('postgres', q{
		SELECT severity <> '' FROM retention.health() UNION ALL SELECT count(*) >= 0 FROM retention.status
		UNION ALL SELECT count(*) > 0 FROM retention.check()}), "t\nt\nt", 'health, status and check work on a standby');

$standby->stop;
wait_for($node, 'postgres', q{SELECT NOT active FROM pg_replication_slots}, 'the standby is away');
like(findings(),
	qr/^warning\|replication slot away\|It keeps rows that were deleted in the last \d+ transactions from being vacuumed\.\|Start the standby that uses it, or SELECT pg_drop_replication_slot\('away'\);$/,
	'a slot of a standby that is away');
$node->safe_psql('postgres', q{SELECT pg_drop_replication_slot('away')});
is(findings(), '', 'gone');

$node->stop;
done_testing();
