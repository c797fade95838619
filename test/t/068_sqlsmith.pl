# 068_sqlsmith.pl - random queries over the extension's functions, views and tables, by
# sqlsmith: the server lives, and no internal error comes from our code, nor from the server
# below it.
#
# RETENTION_SEED repeats a test, RETENTION_SMITH_QUERIES makes it longer.  scripts/deps fuzz
# installs sqlsmith.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run ();
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

plan skip_all => 'sqlsmith is not installed: scripts/deps fuzz'
  unless grep { -x "$_/sqlsmith" } split /:/, $ENV{PATH};

my $queries = $ENV{RETENTION_SMITH_QUERIES} || 1000;
my $seed = $ENV{RETENTION_SEED} || time % 1_000_000;
my $node = start_node('sqlsmith', 'log_error_verbosity = verbose', 'restart_after_crash = off', 'log_min_messages = warning',
	'track_functions = all');
my $tenant = tenant(1);

note("reliability: seed of sqlsmith: $seed (RETENTION_SEED)");
$node->safe_psql('postgres', 'CREATE DATABASE smith');
$node->safe_psql('smith', executions_table() . "CREATE EXTENSION retention;
	CREATE ROLE smith LOGIN;
	-- long enough for what sqlsmith itself asks of the catalogs at first, on a busy machine
	ALTER ROLE smith SET statement_timeout = '10s';
	GRANT ALL ON ALL TABLES IN SCHEMA public, retention TO smith;
	GRANT ALL ON ALL ROUTINES IN SCHEMA public, retention TO smith;
	INSERT INTO execution_retention_policies (tenant_id) VALUES ('$tenant'), (gen_random_uuid());
	CALL retention.run();" . fill_tenant($tenant, 300, newest => 80));

# Asks as a role that may everything that can be granted, but is no superuser: sqlsmith would
# call pg_terminate_backend() and worse.
my @command = ('sqlsmith', '--exclude-catalog', '--verbose', "--seed=$seed", "--max-queries=$queries",
	'--target=host=' . $node->host . ' port=' . $node->port . ' dbname=smith user=smith');
my ($out, $err) = ('', '');
my ($ok, $asked);
# what it asks at first may take longer than it has, if nobody else lets it
for (my $attempt = 0; $attempt < 3 && !$ok && !$asked; $attempt++)
{
	$ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err, IPC::Run::timeout(1800));
	($asked) = $err =~ /.*queries: (\d+)/s;
}
ok($ok, 'sqlsmith ends well') or diag substr $err, -2000;
$asked //= $queries;

is($node->safe_psql('smith', 'SELECT count(*) >= 0 FROM executions'), 't', 'the server lives');
my $log = slurp_file($node->logfile);
my @crashes = $log =~ /^.*(?:PANIC:|TRAP:|terminated by signal).*$/mg;
is(join("\n", @crashes), '', 'no crash');

# Internal errors that the server raises by itself, by the function that raises them and the
# message, with the reason.  Not where a function of ours is in the context.
my @allowed = (
	# the parser, before anything runs, where a column of a subquery is a literal without a type
	[ 'coerce_type', qr/failed to find conversion function from unknown to / ],
	# the cast interval(interval, integer) with a number that is the typmod of no interval
	[ 'intervaltypmodleastfield', qr/invalid INTERVAL typmod: / ],
	[ 'AdjustIntervalForTypmod', qr/unrecognized interval typmod: / ],
	# the output function of such a number, called by its name
	[ 'intervaltypmodout', qr/invalid INTERVAL typmod: / ],
);

# The internal errors in a log whose place is in a file of ours, or whose context or statement
# names an object of ours.  Of what the server's own functions do in such a statement, what is
# allowed is none.
my $files = join '|', map { m{src/(\w+)\.c$} ? "$1\\.c" : () } glob "$FindBin::RealBin/../../src/*.c";
my $objects = $node->safe_psql('smith', q{
	SELECT string_agg(DISTINCT name, '|')
	FROM pg_depend AS d JOIN pg_extension AS x ON x.oid = d.refobjid AND x.extname = 'retention',
		LATERAL (SELECT proname FROM pg_proc WHERE d.classid = 'pg_proc'::regclass AND oid = d.objid
			UNION ALL SELECT relname FROM pg_class WHERE d.classid = 'pg_class'::regclass AND oid = d.objid) AS o (name)
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'});
my $ours = qr/\b(?:retention|public)\."?(?:$objects)\b|function "?(?:$objects)\b/;
sub internal_errors
{
	my ($text) = @_;
	my @found;

	foreach my $entry (split /^(?=\d{4}-\d\d-\d\d [^\n]*?(?:ERROR|WARNING|NOTICE|INFO|FATAL|PANIC|LOG):  )/m, $text)
	{
		my ($message) = $entry =~ /^[^\n]*? ERROR:  (XX\d{3}: [^\n]*)/ or next;
		my ($place, $file) = $entry =~ / LOCATION:  (\w+), (\S+):\d+$/m;
		my ($context) = $entry =~ / CONTEXT:  ([^\n]*(?:\n\t[^\n]*)*)/;
		my ($statement) = $entry =~ / STATEMENT:  (.*)/s;
		my $below = ($context // '') =~ $ours || ($file // '') =~ /^(?:$files)$/;

		next unless $below || ($statement // '') =~ $ours;
		next if !$below && grep { ($place // '') eq $_->[0] && $message =~ $_->[1] } @allowed;
		push @found, $entry;
	}
	return @found;
}
my @tries = (
	[ 1, 'f, spi_util.c:1', 'x', 'SELECT 1' ], [ 0, 'f, parse_coerce.c:1', 'x', 'SELECT 1' ], [ 1, 'f, policy.c:1', 'x', 'SELECT 1' ],
	[ 1, 'f, lsyscache.c:1', 'x', "SELECT\n\t  retention.attach(0)" ], [ 0, 'f, lsyscache.c:1', 'x', 'SELECT attach(0) FROM retention' ],
	[ 1, 'f, lsyscache.c:1', "PL/pgSQL function pg_temp.f() line 1\n\tPL/pgSQL function retention.health() line 1 at IF", 'SELECT 1' ],
	[ 1, 'f, lsyscache.c:1', 'SQL function "setting" statement 1', 'SELECT 1' ],
	[ 0, 'intervaltypmodleastfield, timestamp.c:1', 'x', 'TABLE retention.status', 'invalid INTERVAL typmod: 0x1' ],
	[ 1, 'intervaltypmodleastfield, timestamp.c:1', 'SQL function "health" statement 1', 'SELECT 1', 'invalid INTERVAL typmod: 0x1' ],
	[ 1, 'f, lsyscache.c:1', 'x', 'SELECT public.cleanup_old_executions(NULL)' ], [ 1, 'f, lsyscache.c:1', 'x', 'TABLE public.execution_retention_policies' ]);
my $log_of = sub {
	return join '', map { my $try = $_; map({ "2026-01-01 00:00:00 UTC [1] $_\n" } 'ERROR:  XX000: ' . ($try->[4] // 'cache lookup failed for type 1'),
			"CONTEXT:  $try->[2]", "LOCATION:  $try->[1]", "STATEMENT:  $try->[3]"), "2026-01-01 00:00:00 UTC [1] ERROR:  42601: retention.check\n" } @_;
};
is(join(' ', map { scalar(() = internal_errors($log_of->($_))) } @tries), join(' ', map { $_->[0] } @tries),
	'internal errors of ours, and below our functions, would be found');
is(scalar(() = internal_errors($log_of->(@tries))), scalar(grep { $_->[0] } @tries), 'each of them once');
my @internal = internal_errors($log);
is(join("\n", map { substr $_, 0, 4000 } @internal[ 0 .. ($#internal > 4 ? 4 : $#internal) ]), '', 'no internal error from our code or below it');

# what it has called of ours, itself or through views, so that the test is known to be worth something
my $called = $node->safe_psql('smith', q{
	SELECT string_agg(format('%s %s', funcid::regproc, calls), ', ' ORDER BY calls DESC, 1)
	FROM pg_stat_user_functions WHERE schemaname IN ('retention', 'public') AND calls > 0});
cmp_ok(scalar(split /, /, $called), '>', 10, 'functions of ours that ran');
note($called);
note("reliability: sqlsmith queries: $asked, internal errors: " . @internal . ', crashes: ' . @crashes);
$node->stop;
done_testing();
