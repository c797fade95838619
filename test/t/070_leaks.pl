# 070_leaks.pl - a session that calls the same thing over and over keeps the memory that
# it had after the first calls: what works, what finds nothing, what fails and is caught.
#
# Looks at the session's memory contexts, and at the process's own pages, where a leak
# outside of contexts would show.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;

my $calls = $ENV{RETENTION_LEAK_CALLS} // 200;
my $node = start_node('leaks');
my ($works, $idle, $fails, $referenced) = map { tenant($_) } 1 .. 4;

# A tenant with work, one without, one whose rows a trigger keeps from going by an error, and
# one with a row that a foreign key protects.
$node->safe_psql('postgres', prepare_runs()
	  . join('', map { policy($_, 30, 0) } $works, $idle, $fails, $referenced)
	  . "CREATE TABLE step (execution_id bigint REFERENCES executions);
		CREATE INDEX ON step (execution_id);
		CREATE SEQUENCE ids START 1000;
		INSERT INTO executions (id, tenant_id, started_at) VALUES
			(1, '$idle', now()), (2, '$fails', '2020-01-01'), (3, '$referenced', '2020-01-01');
		INSERT INTO step VALUES (3);
		ALTER TABLE executions DISABLE TRIGGER write_down");
mischief($node, 2 => 'raise');

# More rows than a batch, some of one instant, in both legs.
my $refill = "INSERT INTO executions (id, tenant_id, started_at, created_at)
	SELECT nextval('ids'), '$works', CASE WHEN g % 3 > 0 THEN t END, t
	FROM generate_series(1, 30) AS g, LATERAL (SELECT timestamptz '2020-01-01' + g / 15 * interval '1 hour') AS x (t);";
my %kinds = (
	'cleanup' => "$refill PERFORM cleanup_old_executions('$works', 30, 2, 4);",
	'cleanup, nothing due' => "PERFORM cleanup_old_executions('$idle');",
	'cleanup, an error' => "PERFORM cleanup_old_executions('$fails', 30, 0);",
	'cleanup, a foreign key' => "PERFORM cleanup_old_executions('$referenced', 30, 0);",
	'cleanup, wrong arguments' => "PERFORM cleanup_old_executions('$works', -1, 2, 4);",
	'cleanup_tenant()' => "$refill PERFORM retention.cleanup_tenant('$works');",
	'run(), for all tenants' => "$refill CALL retention.run(batch_size => 4);",
	'run(), nothing due' => "CALL retention.run('$idle');",
	'run(), an error: cannot commit here' => 'CALL retention.run();',
	'preview()' => 'PERFORM count(*) FROM retention.preview();',
	'oldest_due()' => "PERFORM retention.oldest_due('$fails', 30, 0);",
	'status, health(), check()' => 'PERFORM count(*) FROM retention.status; PERFORM retention.health(); PERFORM count(*) FROM retention.check();',
	'policies' => "PERFORM retention.set_policy('$works', 20); PERFORM retention.get_policy('$works'); PERFORM count(*) FROM retention.list_policies();",
	'attach()' => q{PERFORM retention.attach('executions');},
	'lock_tenant()' => "PERFORM retention.lock_tenant('$works');");

my $contexts = 'SELECT sum(used_bytes) FROM pg_backend_memory_contexts';
my ($most_contexts, $most_pages, $all) = (0, 0, 0);

# Anonymous pages of a process, in kB.
sub pages_of
{
	my ($pid) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	return $kb;
}

# Runs last: they leave history, which makes others slow.
foreach my $kind (sort { ($a =~ /^run/) <=> ($b =~ /^run/) || $a cmp $b } keys %kinds)
{
	my $session = $node->background_psql('postgres');
	$session->set_query_timer_restart();
	my $pid = $session->query_safe('SET client_min_messages = error; SELECT pg_backend_pid()');
	# A procedure that commits cannot run where errors are caught: it catches them itself.
	my $body = $kind =~ /^run.*(tenants|due)$/ ? $kinds{$kind}
	  : "BEGIN $kinds{$kind} EXCEPTION WHEN OTHERS THEN caught := caught + 1; END;";
	my $loop = sub {
		$session->query_safe("DO \$\$ DECLARE caught integer := 0; BEGIN
			FOR i IN 1 .. $_[0] LOOP $body END LOOP;
			PERFORM set_config('leaks.caught', caught::text, false); END \$\$");
	};

	# Caches and malloc() settle some time; what leaks grows with each further round.
	my (@before, @after, @more);
	$loop->(2 * $calls);
	$session->query_safe($contexts);
	foreach my $round (1 .. 5)
	{
		@before = ($session->query_safe($contexts), pages_of($pid));
		$loop->($calls);
		@after = ($session->query_safe($contexts), pages_of($pid));
		@more = map { $after[$_] - $before[$_] } 0, 1;
		last if $more[0] <= 4096 && $more[1] <= 128;
	}
	my $caught = $session->query_safe(q{SELECT current_setting('leaks.caught')});

	note("$kind: contexts $before[0], then $more[0] more bytes; pages $before[1] kB, then $more[1] kB more; $caught errors caught");
	cmp_ok($more[0], '<=', 4096, "$kind: $calls calls more leave the contexts as they were")
	  or diag($session->query_safe('SELECT name, ident, total_bytes FROM pg_backend_memory_contexts ORDER BY 3 DESC LIMIT 10'));
	cmp_ok($more[1], '<=', 128, "$kind: and the process");
	is($caught, $kind =~ /error|wrong|foreign/ ? $calls : 0, "$kind: as many errors as there should be");
	$session->quit;
	$most_contexts = $more[0] if $more[0] > $most_contexts;
	$most_pages = $more[1] if $more[1] > $most_pages;
	$all++;
}

reliability("leaks: 0 in $all kinds of calls ($calls calls more grow the memory contexts by at most $most_contexts bytes, the process by at most $most_pages kB)");
$node->stop;
done_testing();
