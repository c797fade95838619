# 068_sqlsmith.pl - random queries over the extension's functions, views and tables, by
# sqlsmith: the server lives, and no internal error comes from our code.
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
my $seed = $ENV{RETENTION_SEED} || 20261125;
# the place of each error; internal errors of the server's own functions, which sqlsmith
# calls as well, are not ours
my $node = start_node('sqlsmith', 'log_error_verbosity = verbose', 'restart_after_crash = off', 'log_min_messages = warning',
	'track_functions = all');
my $tenant = tenant(1);

note("reliability: seed of sqlsmith: $seed (RETENTION_SEED)");
$node->safe_psql('postgres', 'CREATE DATABASE smith');
$node->safe_psql('smith', executions_table() . "CREATE EXTENSION retention;
	CREATE ROLE smith LOGIN;
	ALTER ROLE smith SET statement_timeout = '200ms';
	GRANT ALL ON ALL TABLES IN SCHEMA public, retention TO smith;
	GRANT ALL ON ALL ROUTINES IN SCHEMA public, retention TO smith;
	INSERT INTO execution_retention_policies (tenant_id) VALUES ('$tenant'), (gen_random_uuid());
	CALL retention.run();" . fill_tenant($tenant, 300, newest => 80));

# Asks as a role that may everything that can be granted, but is no superuser: sqlsmith would
# call pg_terminate_backend() and worse.
my @command = ('sqlsmith', '--exclude-catalog', '--verbose', "--seed=$seed", "--max-queries=$queries",
	'--target=host=' . $node->host . ' port=' . $node->port . ' dbname=smith user=smith');
my ($out, $err) = ('', '');
my $ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err, IPC::Run::timeout(600));
my ($asked) = $err =~ /.*queries: (\d+)/s;
ok($ok, 'sqlsmith ends well') or diag substr $err, -2000;
$asked //= $queries;

is($node->safe_psql('smith', 'SELECT count(*) >= 0 FROM executions'), 't', 'the server lives');
my $log = slurp_file($node->logfile);
my @crashes = $log =~ /^.*(?:PANIC:|TRAP:|terminated by signal).*$/mg;
is(join("\n", @crashes), '', 'no crash');

# The internal errors in a log whose place is in a file of ours.
my $ours = join '|', map { m{src/(\w+)\.c$} ? "$1\\.c" : () } glob "$FindBin::RealBin/../../src/*.c";
sub internal_errors
{
	my ($text) = @_;
	return $text =~ /^[^\n]*ERROR:  XX\d{3}: [^\n]*\n(?:(?![^\n]*(?:ERROR|WARNING|FATAL|LOG):  )[^\n]*\n)*?[^\n]*LOCATION:  \w+, (?:$ours):\d+/mg;
}
my $entry = "2026-01-01 00:00:00 UTC [1] ERROR:  XX000: unexpected\n2026-01-01 00:00:00 UTC [1] CONTEXT:  of\n\tit\n"
  . "2026-01-01 00:00:00 UTC [1] LOCATION:  f, %s:1\n2026-01-01 00:00:00 UTC [1] STATEMENT:  SELECT 1\n";
is(scalar(() = internal_errors(join '', map { sprintf $entry, $_ } qw(spi_util.c parse_coerce.c policy.c))), 2, 'internal errors of ours would be found');
my @internal = internal_errors($log);
is(join("\n", @internal[ 0 .. ($#internal > 4 ? 4 : $#internal) ]), '', 'no internal error from our code');

# what it has called of ours, itself or through views, so that the test is known to be worth something
my $called = $node->safe_psql('smith', q{
	SELECT string_agg(format('%s %s', funcid::regproc, calls), ', ' ORDER BY calls DESC, 1)
	FROM pg_stat_user_functions WHERE schemaname IN ('retention', 'public') AND calls > 0});
cmp_ok(scalar(split /, /, $called), '>', 10, 'functions of ours that ran');
note($called);
note("reliability: sqlsmith queries: $asked, internal errors: " . @internal . ', crashes: ' . @crashes);
$node->stop;
done_testing();
