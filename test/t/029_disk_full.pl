# 029_disk_full.pl - the disk is full: for what a trigger writes, for the tables of the
# extension, and for WAL, which takes the server down.  No row goes that should stay, history
# tells the truth, and once there is room the next run finishes.
#
# The small disks are tmpfs in a mount namespace of the server's own, which a common user
# may make where user namespaces are allowed; elsewhere the test is skipped.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my ($uid, $gid) = ($>, (split ' ', $))[0]);
my @own_user = ('unshare', '-U', "--map-user=$uid", "--map-group=$gid");
plan skip_all => 'user namespaces are not allowed'
  if system("unshare -Urm sh -c 'mount -t tmpfs none /tmp && @own_user true' >/dev/null 2>&1") != 0
  || system('nsenter --version >/dev/null 2>&1') != 0;

my $node = PostgreSQL::Test::Cluster->new('disk_full');
$node->init(extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', join("\n", 'autovacuum = off', 'log_statement = none',
	'min_wal_size = 2MB', 'max_wal_size = 4MB', 'wal_recycle = off', 'wal_init_zero = on',
	'restart_after_crash = off'));

# A process keeps the namespace, with its disks, while the server is down.
my $small = $node->basedir . '/small';
mkdir $small or die "could not make $small: $!";
my ($said, $complaint) = ('', '');
my $keeper = IPC::Run::start(
	[ 'unshare', '-Urm', 'sh', '-c', "cd '$small' && mkdir wal ts && mount -t tmpfs -o size=32m wal wal
		&& mount -t tmpfs -o size=256k ts ts && mkdir -m 700 wal/pg_wal ts/space && echo ready && exec sleep 3600" =~ s/\n\s*/ /r ],
	'>', \$said, '2>', \$complaint);
$keeper->pump until $said =~ /ready/ || !$keeper->pumpable;
like($said, qr/ready/, 'the small disks are there') or BAIL_OUT($complaint);
my @inside = ('nsenter', '-t', $keeper->{KIDS}[0]{PID}, '-U', '-m', '--preserve-credentials');

sub on_disk
{
	my ($command) = @_;
	my $rc;

	IPC::Run::run([ @inside, 'sh', '-c', "cd '$small' && $command" ], '>', \my $out, '2>&1');
	$rc = $?;
	note("$command: $out");
	return $rc;
}

# The server starts in there, as the user that it is.
my $bin = $node->basedir . '/bin';
my ($pg_ctl) = grep { -x } map { "$_/pg_ctl" } split /:/, $ENV{PATH};
mkdir $bin or die "could not make $bin: $!";
append_to_file("$bin/pg_ctl", "#!/bin/sh\ncase \" \$* \" in\n*' start '*) exec @inside @own_user '$pg_ctl' \"\$@\";;\n*) exec '$pg_ctl' \"\$@\";;\nesac\n");
chmod 0755, "$bin/pg_ctl";
$ENV{PATH} = "$bin:$ENV{PATH}";

my $data = $node->data_dir;
is(on_disk("cp -a '$data/pg_wal/.' wal/pg_wal && rm -r '$data/pg_wal' && ln -s '$small/wal/pg_wal' '$data/pg_wal'"),
	0, 'WAL is on a small disk');
$node->start;

my @tenants = map { tenant($_) } 1 .. 4;
# outside transaction blocks
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$small/ts/space'");
$node->safe_psql('postgres', prepare_runs());
$node->safe_psql('postgres', 'ALTER TABLE gone SET TABLESPACE small');

sub refill
{
	$node->safe_psql('postgres', 'TRUNCATE executions, execution_retention_policies;'
		  . join('', map {
				rows_of($tenants[$_], 1020, newest => 50, first => 10_000 * $_ + 1) . policy($tenants[$_], 30, 20)
			} 0 .. $#tenants));
	mischief($node);
	remember($node);
	return;
}

sub truth
{
	my ($name) = @_;

	is((split /\|/, verdict($node))[1], '0', "$name: no row is gone that should stay");
	is(last_run($node, 'rows_deleted'), gone($node), "$name: history has the rows that are gone");
	is($node->safe_psql('postgres', 'SELECT COALESCE(sum(rows_deleted), 0) FROM retention.run_tenant
			WHERE run_id = (SELECT max(id) FROM retention.run_history)'), gone($node),
		"$name: tenant by tenant");
	no_locks_left($node, $name);
	return;
}

# ---- A table cannot grow.
{
	refill();
	my $err = run($node, 'batch_size => 300', name => 'table');
	like($err, qr/WARNING:  53100: could not clean tenant \S+\n.*No space left on device/, 'table: says so');
	is(last_run($node, 'status, tenants_failed > 0, rows_deleted BETWEEN 300 AND 4000 - 300'), 'partial|t|t',
		'table: what was possible was done');
	is($node->safe_psql('postgres', q{
			SELECT DISTINCT sqlstate FROM retention.run_tenant WHERE message ~ 'No space left on device'}), '53100',
		'table: on record');
	truth('table');

	$node->safe_psql('postgres', 'ALTER TABLE gone SET TABLESPACE pg_default');
	run($node, 'batch_size => 300', name => 'table with room');
	is(last_run($node, 'status'), 'succeeded', 'table with room: the next run finishes');
	is(verdict($node), '0|0', 'table with room: all that is due is gone');
}

# The tables, with their indexes, are on the small disk from now on.
sub move
{
	my ($where, @tables) = @_;

	foreach my $table (@tables)
	{
		my $indexes = $node->safe_psql('postgres', "SELECT string_agg(format('ALTER INDEX %s SET TABLESPACE $where;', indexrelid::regclass), '')
			FROM pg_index WHERE indrelid = '$table'::regclass");
		$node->safe_psql('postgres', "ALTER TABLE $table SET TABLESPACE $where; $indexes");
	}
	return;
}

# Leaves no page free on the disk of the tables.
sub fill_disk
{
	my ($name) = @_;

	isnt(on_disk('dd if=/dev/zero of=ts/ballast bs=4k; df -k ts | grep -q "100%"; test $? != 0'), 0, "$name: the disk is full");
	return;
}

# A session that holds the row at which a run stands, and a snapshot: nothing that is written from
# now on makes room by being written again.
sub hold
{
	my $holder = $node->background_psql('postgres');

	$holder->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	return $holder;
}

# ---- History cannot grow: what cannot be recorded is not deleted.
foreach my $case ([ 'retention.run_tenant', 'failed', 'failed' ], [ 'retention.run_history', 'running', 'interrupted' ])
{
	my ($table, $status, $closed) = @$case;
	my $full = qr/could not extend file ".*/;

	refill();
	move('small', $table);
	$node->safe_psql('postgres', 'TRUNCATE retention.run_history, retention.run_tenant, retention.run_pruned');
	fill_disk("$table, before");
	my $error = psql_fails($node, 'postgres', 'CALL retention.run()', '53100', "$table, before");
	like($error, qr/ERROR:  53100: $full/, "$table, before: says why");
	is(gone($node), '0', "$table, before: nothing is gone");
	is($node->safe_psql('postgres', q{SELECT status, message ~ '^could not extend file "' FROM retention.run_history}),
		$status eq 'failed' ? 'failed|t' : '', "$table, before: on record, where there is room for it");
	no_locks_left($node, "$table, before");
	is(on_disk('rm ts/ballast'), 0, "$table, before: there is room again");

	my $holder = hold();
	mischief($node, 10_000 * 2 + 400 => 'wait');
	my $run = start_run($node, 'batch_size => 10');
	wait_until_stopped($run, "$table, during");
	my $before = gone($node);
	fill_disk("$table, during");
	release($holder);
	wait_until_over($run, "$table, during");
	$error = finish_run($run);
	like($error, qr/ERROR:  53100: $full/, "$table, during: says why");
	is(last_run($node, 'status, retention.run_is_alive(id)'), "$status|f", "$table, during: the run has ended");
	like($error, qr/WARNING:  01000: could not record the end of the run\nDETAIL:  $full/, "$table, during: which could not be recorded")
	  if $status eq 'running';
	is(last_run($node, q{message ~ '^could not extend file "'}), 't', "$table, during: which is on record") if $status eq 'failed';
	cmp_ok($before, '>', 0, "$table, during: some rows were gone");
	cmp_ok(gone($node), '>=', $before, "$table, during: and perhaps more are");
	truth("$table, during");
	$holder->query_safe('COMMIT');
	$holder->quit;

	is(on_disk('rm ts/ballast'), 0, "$table, with room: there is some");
	mischief($node);
	run($node, 'batch_size => 300', name => "$table, with room");
	is(verdict($node), '0|0', "$table, with room: the next run finishes");
	is($node->safe_psql('postgres', 'SELECT status FROM retention.run_history ORDER BY id DESC LIMIT 2'), "succeeded\n$closed",
		"$table, with room: the one before is closed");
	is($node->safe_psql('postgres', 'SELECT sum(rows_deleted), (SELECT sum(rows_deleted) FROM retention.run_tenant) FROM retention.run_history'),
		join('|', (gone($node)) x 2), "$table, with room: all of it is on record");
	move('pg_default', $table);
}

# ---- Policies cannot grow: tenants are cleaned all the same, with a warning.
{
	my $policies = 'execution_retention_policies';
	my $other = tenant(9);

	move('small', $policies);
	foreach my $when ('before', 'during')
	{
		my $name = "policies, $when";

		refill();
		$node->safe_psql('postgres', policy($other, 30, 20) . "ALTER TABLE $policies SET (fillfactor = 100)");
		# reading it is not to need room (from 19 on it may write the visibility map)
		$node->safe_psql('postgres', "VACUUM $policies");
		my $holder = hold();
		mischief($node, 10_000 * 2 + 400 => 'wait') if $when eq 'during';
		my $run = $when eq 'during' ? start_run($node, 'batch_size => 300') : undef;
		wait_until_stopped($run, $name) if $run;
		fill_disk($name);
		$node->safe_psql('postgres', "DO \$\$
			BEGIN
				LOOP
					BEGIN
						UPDATE $policies SET updated_by = NULL WHERE tenant_id = '$other';
					EXCEPTION WHEN disk_full THEN EXIT;
					END;
				END LOOP;
			END \$\$");
		release($holder);
		wait_until_over($run, $name) if $run;
		my $error = $run ? finish_run($run) : run($node, 'batch_size => 300', name => $name);
		my $warnings = () = $error =~ /WARNING:  53100: could not note in the policy of tenant \S+ that it was cleaned\nDETAIL:  could not extend file/g;
		my $unnoted = $node->safe_psql('postgres', "SELECT count(*) FROM $policies WHERE tenant_id <> '$other' AND last_cleanup_at IS NULL");
		cmp_ok($warnings, '>', 0, "$name: says so");
		is($warnings, $unnoted, "$name: for each tenant whose policy does not have it");
		unlike($error, qr/ERROR/, "$name: without an error");
		is(last_run($node, 'status'), 'succeeded', "$name: the run finishes");
		is(verdict($node), '0|0', "$name: all that is due is gone");
		truth($name);
		$holder->query_safe('COMMIT');
		$holder->quit;

		is(on_disk('rm ts/ballast'), 0, "$name, with room: there is some");
		refill();
		run($node, 'batch_size => 300', name => "$name, with room");
		is(verdict($node), '0|0', "$name, with room: the next run finishes");
		is($node->safe_psql('postgres', "SELECT count(*), min(last_cleanup_deleted_count), max(last_cleanup_deleted_count)
				FROM $policies WHERE last_cleanup_at IS NOT NULL"), '4|1000|1000', "$name, with room: and the policies have it");
	}
	move('pg_default', $policies);
	$node->safe_psql('postgres', "ALTER TABLE $policies SET (fillfactor = 50)");
}

# ---- WAL cannot be written.
{
	my $holder = $node->background_psql('postgres');

	$node->safe_psql('postgres', q{
		CREATE FUNCTION write_wal() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_logical_emit_message(true, 'wal', repeat('x', 5000));
			RETURN OLD;
		END $$;
		CREATE TRIGGER wal BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION write_wal()});
	refill();
	mischief($node, 650 => 'wait');
	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	my $run = start_run($node, 'batch_size => 300');
	wait_until_stopped($run, 'WAL');
	# what is committed so far goes to disk: a run leaves that to others, and this commit does not
	my $before = gone($node);
	cmp_ok($before, '>', 0, 'WAL: some rows are gone');
	$node->safe_psql('postgres', q{SELECT pg_logical_emit_message(true, 'test', '')});
	isnt(on_disk('dd if=/dev/zero of=wal/ballast bs=64k; df -k wal | grep -q "100%"; test $? != 0'), 0,
		'WAL: the disk is full');
	$holder->query_until(qr/released/, "SELECT pg_advisory_unlock(4711);\n\\echo released\n");

	my $pid = $node->{_pid};
	for (1 .. 1800)
	{
		last if kill(0, $pid) == 0;
		select(undef, undef, undef, 0.1);
	}
	is(kill(0, $pid), 0, 'WAL: the server is down');
	like(slurp_file($node->logfile), qr/PANIC:  .*No space left on device/, 'WAL: because the disk is full');
	eval { $_->quit } foreach $run->{session}, $holder;
	$node->stop('immediate', fail_ok => 1);

	is(on_disk('rm wal/ballast'), 0, 'WAL: there is room again');
	$node->start;
	is(last_run($node, 'status, retention.run_is_alive(id)'), 'running|f', 'WAL: the run did not end');
	cmp_ok(gone($node), '>=', $before, 'WAL: what was committed is gone');
	truth('WAL');
	mischief($node);
	$node->safe_psql('postgres', 'DROP TRIGGER wal ON executions');
	run($node, '', name => 'WAL, with room');
	is(verdict($node), '0|0', 'WAL, with room: the next run finishes');
	is($node->safe_psql('postgres', q{
			SELECT status FROM retention.run_history ORDER BY id DESC LIMIT 2}), "succeeded\ninterrupted",
		'WAL, with room: the one before is closed');
}

$node->stop;
done_testing();

END
{
	my $status = $?;

	eval { $keeper->kill_kill } if $keeper;
	$? = $status;
}
