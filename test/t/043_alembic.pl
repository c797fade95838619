# 043_alembic.pl - the Alembic revision, with Alembic: upgrade and downgrade from nothing and
# from hand-written objects, offline, and when it fails.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Copy ();
use File::Path ();
use IPC::Run ();
use MigrationTest;
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

# Debian's own, whatever else is called python3 on the path.  Not without a shell, whose
# command that is.
my ($python) = grep { -x } '/usr/bin/python3', split /\n/, `command -v python3 2>/dev/null`;
plan skip_all => 'no python3 with alembic and psycopg2: scripts/deps alembic installs them'
  unless $python && system("$python -c 'import alembic, psycopg2' 2>/dev/null") == 0;

my $node = start_node('alembic');
my $db = 'app';
my $dir = PostgreSQL::Test::Utils::tempdir();
my $name = '20260108_add_execution_retention_policy';
my $out;

# The application's migrations: one of its own that runs this SQL, and ours behind it.
# "layout": where the SQL scripts are, as seen from the revision.
sub prepare
{
	my ($sql, $layout) = @_;
	my $versions = "$dir/migrations/alembic/versions";
	my $revision = PostgreSQL::Test::Utils::slurp_file(top() . "/migrations/alembic/versions/$name.py");

	File::Path::remove_tree("$dir/migrations");
	File::Path::make_path($versions);
	File::Copy::copy(top() . '/test/migrations/alembic/env.py', "$dir/migrations/alembic/env.py") or die $!;
	File::Copy::copy(top() . '/test/migrations/alembic/application.py', "$versions/application.py") or die $!;
	$revision =~ s/^down_revision = None$/down_revision = "application"/m or die 'no down_revision';
	PostgreSQL::Test::Utils::append_to_file("$versions/$name.py", $revision);
	PostgreSQL::Test::Utils::append_to_file("$versions/application.sql", $sql);
	PostgreSQL::Test::Utils::append_to_file(
		"$versions/$layout/${_}_execution_retention_policy.sql", script($_)) foreach 'add', 'rollback';
	new_database($node, $db);
	return;
}

# alembic with these arguments; returns its exit status and sets $out.
sub alembic
{
	my ($user, @arguments) = @_;
	my $url = "postgresql+psycopg2://$user@/$db?host=" . $node->host . '&port=' . $node->port;

	PostgreSQL::Test::Utils::append_to_file("$dir/alembic.ini.new",
		"[alembic]\nscript_location = $dir/migrations/alembic\nsqlalchemy.url = $url\n");
	rename "$dir/alembic.ini.new", "$dir/alembic.ini" or die $!;
	$out = '';
	local $ENV{PYTHONDONTWRITEBYTECODE} = 1;
	IPC::Run::run([ $python, '-m', 'alembic.config', '-c', "$dir/alembic.ini", @arguments ], '>', \$out, '2>&1');
	note($out);
	return $? >> 8;
}

my $superuser = $node->safe_psql('postgres', 'SELECT current_user');

sub version
{
	return $node->safe_psql($db, 'SELECT version_num FROM alembic_version');
}

sub remains
{
	return $node->safe_psql($db, q{SELECT relname FROM pg_class
		WHERE relname LIKE '%retention%' OR relname LIKE 'idx_executions_%' ORDER BY 1});
}

# ---- From nothing; the scripts are where the project has them.
{
	prepare(application(6, 3000), '../..');
	is(alembic($superuser, 'upgrade', 'head'), 0, 'from nothing: upgrade head') or diag $out;
	is(version(), '20260108_retention', 'from nothing: the version');
	is($node->safe_psql($db, 'SELECT count(*) FROM retention.preview()'), '0', 'from nothing: it is there');
	is(alembic($superuser, 'upgrade', 'head'), 0, 'from nothing: upgrade head, again');
	is(alembic($superuser, 'downgrade', '-1'), 0, 'from nothing: downgrade -1') or diag $out;
	is(version(), 'application', 'from nothing: the version before');
	is(remains(), "execution_retention_policies\nexecution_retention_policies_pkey\nidx_retention_policies_tenant\nunique_tenant_retention_policy",
		'from nothing: a plain table stays');
	is(alembic($superuser, 'upgrade', 'head'), 0, 'from nothing: upgrade head, once more') or diag $out;
	$node->safe_psql($db, 'INSERT INTO execution_retention_policies (tenant_id, retention_days) SELECT id, 30 FROM tenants');
	my $policies = policies_of($node, $db);
	is(alembic($superuser, 'downgrade', '-1'), 0, 'from nothing: downgrade -1 with policies') or diag $out;
	is(policies_of($node, $db), $policies, 'from nothing: they stay');
	is(alembic($superuser, 'upgrade', 'head'), 0, 'from nothing: upgrade head with policies') or diag $out;
	is(policies_of($node, $db), $policies, 'from nothing: they are taken up');
	isnt(alembic($superuser, '-x', 'keep_policies=maybe', 'downgrade', '-1'), 0, 'keep_policies=maybe');
	is(version(), '20260108_retention', 'keep_policies=maybe: nothing has happened');
	is(alembic($superuser, '-x', 'keep_policies=off', 'downgrade', '-1'), 0, 'keep_policies=off') or diag $out;
	is(remains(), '', 'keep_policies=off: all is gone');
	is($node->safe_psql($db, 'SELECT count(*) FROM executions'), '3000', 'and executions are all there');
}

# ---- From hand-written objects; the scripts are beside the revision.
{
	my $rows = 'SELECT count(*), md5(string_agg(e::text, chr(10) ORDER BY id)) FROM executions e';

	prepare(application(6, 3000) . fixture('handwritten') . q{;
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, created_by)
		SELECT id, 10 + n, nullif(n, 3), gen_random_uuid() FROM tenants}, '.');
	is(alembic($superuser, 'upgrade', 'application'), 0, 'hand-written: what was before') or diag $out;
	my $before = $node->safe_psql($db, $rows);
	my $files = index_files($node, $db);
	my $expected = policies_of($node, $db, columns => 'id, tenant_id, retention_days, coalesce(min_executions_to_keep, 100),
		created_at, created_by');
	my $state = state_of($node, $db);

	# fails, and Alembic's version with it
	$node->safe_psql($db, 'CREATE VIEW strict AS SELECT * FROM execution_retention_policies');
	isnt(alembic($superuser, 'upgrade', 'head'), 0, 'hand-written, a view: fails');
	like($out, qr/view public\.strict depends on table/, 'hand-written, a view: says why');
	is(version(), 'application', 'hand-written, a view: the version is the old one');
	$node->safe_psql($db, 'DROP VIEW strict');
	is(state_of($node, $db), $state, 'hand-written, a view: all is as it was');

	is(alembic($superuser, 'upgrade', 'head'), 0, 'hand-written: upgrade head') or diag $out;
	is(policies_of($node, $db, columns => 'id, tenant_id, retention_days, min_executions_to_keep, created_at, created_by'),
		$expected, 'hand-written: all policies');
	is(index_files($node, $db), $files, 'hand-written: no index is rebuilt');
	is(alembic($superuser, 'downgrade', '-1'), 0, 'hand-written: downgrade -1') or diag $out;
	is(policies_of($node, $db, columns => 'id, tenant_id, retention_days, min_executions_to_keep, created_at, created_by'),
		$expected, 'hand-written: the policies stay');
	is($node->safe_psql($db, 'SELECT count(*) FROM pg_extension WHERE extname = $$retention$$'), '0', 'hand-written: the extension does not');
	is($node->safe_psql($db, $rows), $before, 'hand-written: no row of executions is touched');
}

# ---- Offline: a script for the DBA; then the application's role has nothing left to do.
{
	prepare(application(6, 3000) . 'CREATE ROLE app_deploy LOGIN; CREATE TABLE alembic_mine ();', '.');
	is(alembic($superuser, 'upgrade', 'application'), 0, 'offline: what was before') or diag $out;
	is(alembic($superuser, 'upgrade', 'application:head', '--sql'), 0, 'offline: upgrade --sql');
	my $script = $out =~ s/^(INFO|Generating).*\n//mgr;
	like($script, qr/DO \$retention\$/, 'offline: the script is in it');
	unlike($script, qr/%%|\\:/, 'offline: as it was');
	$node->safe_psql($db, 'GRANT ALL ON alembic_version TO app_deploy');
	isnt(alembic('app_deploy', 'upgrade', 'head'), 0, 'offline: the application may not');
	like($out, qr/Have a superuser run this script once/, 'offline: and is told who may');
	my ($rc, $stdout, $err) = $node->psql($db, script('add'));
	is($rc, 0, 'offline: the DBA runs the script') or diag $err;
	is(alembic('app_deploy', 'upgrade', 'head'), 0, 'offline: then the application may go on') or diag $out;
	is(version(), '20260108_retention', 'offline: the version');
	$node->safe_psql($db, "DROP EXTENSION retention; UPDATE alembic_version SET version_num = 'application'");
	($rc, $stdout, $err) = $node->psql($db, $script, on_error_stop => 1);
	is($rc, 0, 'offline: what --sql printed runs, too') or diag $err;
	is(version(), '20260108_retention', 'offline: and sets the version');
	is(alembic($superuser, 'downgrade', 'head:application', '--sql'), 0, 'offline: downgrade --sql');
	($rc, $stdout, $err) = $node->psql($db, $out =~ s/^(INFO|Generating).*\n//mgr, on_error_stop => 1);
	is($rc, 0, 'offline: runs') or diag $err;
	is(version(), 'application', 'offline: back');
}

# ---- Without the scripts it says where they should be.
prepare('SELECT 1', '.');
unlink glob "$dir/migrations/alembic/versions/*_execution_retention_policy.sql";
isnt(alembic($superuser, 'upgrade', 'head'), 0, 'no scripts: fails');
like($out, qr/add_execution_retention_policy\.sql is neither in/, 'no scripts: says where they should be');

$node->stop;
done_testing();
