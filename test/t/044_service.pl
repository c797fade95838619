# 044_service.pl - a real client: test/npm/service.js with pg from npm does what a service does
# in a day, with what it returns compared to docs/service.md; and node-pg-migrate runs
# the migration as docs/migrations.md has it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Copy ();
use IPC::Run ();
use JSON::PP ();
use MigrationTest;
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

plan skip_all => 'no npm: scripts/deps npm installs it' if system('command -v npm >/dev/null 2>&1') != 0;

# The packages, into a directory of this test.
my $dir = PostgreSQL::Test::Utils::tempdir();
{
	my $out = '';

	foreach my $file ('package.json', 'package-lock.json', 'service.js')
	{
		File::Copy::copy(top() . "/test/npm/$file", "$dir/$file") or die "$file: $!";
	}
	# not --prefix: npm would look there for the machine's settings, too
	my $in_time = eval {
		IPC::Run::run([ 'npm', 'ci', '--cache', "$dir/cache", '--ignore-scripts', '--no-audit', '--no-fund', '--no-update-notifier',
				'--fetch-retries=1', '--fetch-timeout=30000' ],
			'<', \'', '>', \$out, '2>&1', init => sub { chdir $dir or die $! }, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
		1;
	};
	die $@ unless $in_time || $@ =~ /timeout/;
	if (!$in_time || $? != 0)
	{
		# not to be reached is one thing, to give something else than is locked another
		plan skip_all => 'npm does not reach its registry, or not in time'
		  if $out !~ /EINTEGRITY/
		  && (!$in_time || $out =~ /ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ECONNRESET|ENETUNREACH|EHOSTUNREACH|_CERT/
			|| $out =~ /E\w*TIME(?:D)?OUT|network timeout|\bE(?:429|5\d\d)\b/);
		die "npm ci: $out";
	}
}

my $node = start_node('service');
my $superuser = $node->safe_psql('postgres', 'SELECT current_user');
my ($t1, $t2, $t3) = map { "00000000-0000-0000-0000-00000000000$_" } 1 .. 3;
my $user = '00000000-0000-0000-0000-0000000000aa';

# A command in the directory, as a role, with the database in its environment; its exit
# status, stdout and stderr.
sub in_directory
{
	my ($role, $db, @command) = @_;
	my ($out, $err) = ('', '');

	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGUSER} = $role;
	local $ENV{PGDATABASE} = $db;
	local $ENV{DATABASE_URL} = "postgres://$role\@localhost/$db?host=" . $node->host . '&port=' . $node->port;
	IPC::Run::run(\@command, '<', \'', '>', \$out, '2>', \$err, init => sub { chdir $dir or die $! }, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return ($? >> 8, $out, $err);
}

# What the service's calls gave, by step.
sub service_as
{
	my ($role, $db) = @_;
	my ($rc, $out, $err) = in_directory($role, $db, 'node', 'service.js');
	my %value;

	is($rc, 0, "$role: the service has run") or diag $err;
	foreach (split /\n/, $out)
	{
		my $line = JSON::PP::decode_json($_);
		$value{ $line->{step} } = $line->{value};
	}
	return \%value;
}

# The kind of a JSON value; of an object, those of its keys.
sub kind
{
	my ($value) = @_;

	return 'null' unless defined $value;
	return 'boolean' if JSON::PP::is_bool($value);
	return { map { $_ => kind($value->{$_}) } keys %$value } if ref $value eq 'HASH';
	return [ map { kind($_) } @$value ] if ref $value eq 'ARRAY';
	return JSON::PP->new->allow_nonref->encode($value) =~ /^"/ ? 'string' : 'number';
}

my @shapes = map { JSON::PP::decode_json($_) }
  PostgreSQL::Test::Utils::slurp_file(top() . '/docs/service.md') =~ /^```json\n(.*?)^```$/msg;
is(scalar(@shapes), 3, 'docs/service.md has three shapes');

# ---- The service, as the owner of hand-written objects that have been brought over, and as
# a superuser on objects of the extension's own.
foreach my $way ('brought over', 'new')
{
	my $db = $way eq 'new' ? 'new' : 'old';
	my $role = $way eq 'new' ? $superuser : 'app_owner';

	new_database($node, $db);
	if ($way eq 'new')
	{
		$node->safe_psql($db, application(3, 600) . 'CREATE EXTENSION retention');
	}
	else
	{
		$node->safe_psql($db, 'CREATE ROLE app_owner LOGIN; GRANT CREATE ON SCHEMA public TO app_owner;
			SET client_min_messages = warning; SET ROLE app_owner;' . application(3, 600) . fixture('handwritten'));
		migrate($node, $db, $way);
		$node->safe_psql($db, 'GRANT EXECUTE ON PROCEDURE retention.run TO app_owner');
	}
	my $before = $node->safe_psql($db, "SELECT count(*) FROM executions WHERE tenant_id = '$t1'");
	my $due = sub {
		my ($days) = @_;
		return $node->safe_psql($db, "SELECT count(*) FROM executions WHERE tenant_id = '$t1'
			AND coalesce(started_at, created_at) < now() - interval '24 hours' * $days");
	};
	my ($due30, $due20, $due10) = map { $due->($_) } 30, 20, 10;
	my $got = service_as($role, $db);

	is($got->{'get none'}, undef, "$way: no policy yet");
	is($got->{create}{retention_days}, 60, "$way: create");
	is($got->{create}{created_by}, $user, "$way: create, by whom");
	is($got->{'create others'}, 2, "$way: two more");
	is_deeply([ @{ $got->{'create again'} }{ 'id', 'retention_days', 'created_by', 'updated_by' } ],
		[ $got->{create}{id}, 45, $user, $t2 ], "$way: ON CONFLICT changes the one there is");
	is_deeply([ @{ $got->{update} }{ 'retention_days', 'min_executions_to_keep', 'updated_by' } ], [ 30, 5, $user ], "$way: update");
	cmp_ok($got->{update}{updated_at}, 'gt', $got->{create}{updated_at}, "$way: updated_at has moved");
	is($got->{'update none'}, undef, "$way: update of none");
	is_deeply($got->{get}, $got->{update}, "$way: get");
	is_deeply(kind($got->{get}), kind($shapes[0]), "$way: a policy is of the documented shape") or diag explain $got->{get};
	is($got->{'get is typed'}{created_at}, 'Date', "$way: times are Dates to the client");
	is($got->{'get is typed'}{last_cleanup_deleted_count}, 'string', "$way: bigint is a string to the client");

	is_deeply(kind($got->{preview}), kind($shapes[1]), "$way: a preview is of the documented shape") or diag explain $got->{preview};
	is_deeply([ @{ $got->{preview} }{ 'total_executions', 'executions_to_delete' } ], [ $before, $due30 ], "$way: preview counts");
	is_deeply(kind($got->{cleanup}), kind($shapes[2]), "$way: a cleanup is of the documented shape") or diag explain $got->{cleanup};
	is($got->{cleanup}{deleted_count}, $due30, "$way: cleanup by the policy");
	is($got->{cleanup}{execution_summary}{deleted}, $due30, "$way: and the summary says so");
	is_deeply([ @{ $got->{'cleanup again'}{execution_summary} }{ 'deleted', 'reason', 'oldest_deleted', 'has_more' } ],
		[ 0, 'nothing that old', undef, JSON::PP::false ], "$way: nothing is left to do");
	is($got->{'cleanup with arguments'}{deleted_count}, $due20 - $due30, "$way: cleanup with arguments");
	is($got->{'cleanup with arguments'}{execution_summary}{batch_size}, 7, "$way: in batches of 7");
	is_deeply([ map { $_->{deleted_count} } @{ $got->{rpc} } ], [ $due10 - $due20 ], "$way: by an RPC layer");
	is(kind($got->{rpc}[0]{deleted_count}), 'number', "$way: whose deleted_count is a number");
	is_deeply([ map { $_->{tenant} } @{ $got->{'clean all'} } ], [ $t1, $t2 ], "$way: the nightly loop, enabled policies only");
	cmp_ok($got->{'clean all'}[1]{deleted}, '>', 0, "$way: deletes");
	is_deeply([ map { [ $_->{tenant_id}, $_->{last_cleanup_deleted_count}, defined $_->{last_cleanup_at} ] } @{ $got->{list} } ],
		[ [ $t1, '0', 1 ], [ $t2, $got->{'clean all'}[1]{deleted}, 1 ], [ $t3, '0', '' ] ], "$way: list, with what the loop noted down");
	is($got->{list}[0]{updated_at}, $got->{update}{updated_at}, "$way: updated_at has not moved with it");
	is($got->{positions}{deleted_count}, 0, "$way: arguments by position");
	is($got->{'a number of days that is none'}{code}, '23514', "$way: 0 days");
	is($got->{'a minimum that is none'}{code}, '23502', "$way: no minimum");
	is($got->{'a tenant that is none'}{code}, '22004', "$way: no tenant");
	is($got->{'negative days'}{code}, '22023', "$way: negative days");
	ok($got->{'negative days'}{hint}, "$way: with a hint");
	is($got->{run}, 'CALL', "$way: retention.run() through the driver");
	is($got->{'run with a parameter'}, 'CALL', "$way: with a parameter, too");
	is_deeply($got->{'bigint as a number'}, [ 'number', $got->{'clean all'}[1]{deleted} ], "$way: bigint as a number");
}

# ---- node-pg-migrate, with the file that docs/migrations.md shows.
{
	my ($file) = PostgreSQL::Test::Utils::slurp_file(top() . '/docs/migrations.md') =~ /^```js\n(.*?)^```$/ms;
	my @up = ("$dir/node_modules/.bin/node-pg-migrate", '-m', 'migrations', 'up');
	my @down = ("$dir/node_modules/.bin/node-pg-migrate", '-m', 'migrations', 'down');

	ok($file, 'docs/migrations.md has the file for node-pg-migrate');
	mkdir "$dir/migrations" or die $!;
	PostgreSQL::Test::Utils::append_to_file("$dir/migrations/20260108000000_add-execution-retention-policy.js", $file);
	PostgreSQL::Test::Utils::append_to_file("$dir/migrations/sql/${_}_execution_retention_policy.sql", script($_))
	  foreach map { mkdir "$dir/migrations/sql"; $_ } 'add', 'rollback';

	foreach my $way ('hand-written', 'nothing')
	{
		new_database($node, 'npm');
		$node->safe_psql('npm', application(3, 600));
		$node->safe_psql('npm', 'SET client_min_messages = warning;' . fixture('handwritten') . 'INSERT INTO execution_retention_policies
			(tenant_id, retention_days, min_executions_to_keep) SELECT id, 20, 10 * n FROM tenants') if $way eq 'hand-written';
		my $policies = $way eq 'nothing' ? '' : policies_of($node, 'npm');
		my ($rc, $out, $err) = in_directory($superuser, 'npm', @up);
		is($rc, 0, "node-pg-migrate up, from $way") or diag "$out$err";
		is(policies_of($node, 'npm'), $policies, "node-pg-migrate up, from $way: all policies");
		is($node->safe_psql('npm', 'SELECT count(*) FROM pg_extension WHERE extname = $$retention$$'), '1', "from $way: the extension");
		($rc, $out, $err) = in_directory($superuser, 'npm', @up);
		is($rc, 0, "node-pg-migrate up, again") or diag "$out$err";
		($rc, $out, $err) = in_directory($superuser, 'npm', @down);
		is($rc, 0, "node-pg-migrate down, to $way") or diag "$out$err";
		is(policies_of($node, 'npm'), $policies, "node-pg-migrate down, to $way: the policies stay");
		is($node->safe_psql('npm', 'SELECT count(*) FROM pg_extension WHERE extname = $$retention$$'), '0', "to $way: the extension does not");
	}

	# and when it fails
	$node->safe_psql('npm', 'CREATE VIEW v AS SELECT * FROM execution_retention_policies');
	my ($rc, $out, $err) = in_directory($superuser, 'npm', @up);
	isnt($rc, 0, 'node-pg-migrate up, with a view in the way: fails');
	like("$out$err", qr/other objects depend on what the extension replaces/, 'node-pg-migrate: shows the message');
	is($node->safe_psql('npm', 'SELECT count(*) FROM pgmigrations'), '0', 'node-pg-migrate: has not noted it down');
}

$node->stop;
done_testing();
