# RetentionTest.pm - what the TAP tests share: a node, an executions table, one call.
#
# Tests get their extension from the installation that the server sees; nothing in
# here knows where that is.  Nobody waits for time in here, only for conditions.

package RetentionTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use Test::More;

our @EXPORT =
  qw(start_node drop_database new_database tenant executions_table fill_tenant cleanup
  session_cleanup wait_for have_library cron_is_old contract_indexes psql_fails reliability);

# A started node.  Settings are postgresql.conf lines.  Autovacuum is off, so that
# statistics and buffers are what the test made them.
sub start_node
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init;
	$node->append_conf('postgresql.conf',
		join("\n", 'autovacuum = off', 'log_statement = none', @settings));
	$node->start;
	return $node;
}

# No database of this name.  Sessions that have just ended may not be gone yet, and the server
# waits five seconds for them.
sub drop_database
{
	my ($node, $db) = @_;
	my ($rc, $out, $err);

	for (my $attempt = 0; $attempt < 10; $attempt++)
	{
		($rc, $out, $err) = $node->psql('postgres', "DROP DATABASE IF EXISTS $db WITH (FORCE)");
		last if $err !~ /is being accessed by other users/;
	}
	die $err if $rc != 0;
	return;
}

# An empty database of this name.
sub new_database
{
	my ($node, $db) = @_;

	drop_database($node, $db);
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	return;
}

# The n-th tenant's key.
sub tenant
{
	my ($n) = @_;
	return sprintf('00000000-0000-4000-8000-%012d', $n);
}

# DDL of a narrow executions table; "where" is the schema, "extra" goes behind the columns.
sub executions_table
{
	my (%opt) = @_;
	my $name = ($opt{schema} // 'public') . '.executions';
	my $extra = $opt{extra} // '';

	return "CREATE TABLE $name (
		id bigint NOT NULL,
		tenant_id uuid NOT NULL,
		started_at timestamptz,
		created_at timestamptz DEFAULT now()) $extra;\n";
}

# SQL that gives one tenant "rows" rows, one a minute, the newest "newest" days old.
# Every "nulls"-th row was never started.  Ids count from "first", oldest row first.
sub fill_tenant
{
	my ($tenant, $rows, %opt) = @_;
	my $newest = $opt{newest} // 0;
	my $nulls = $opt{nulls} // 50;
	my $first = $opt{first} // 1;
	my $name = ($opt{schema} // 'public') . '.executions';

	return "INSERT INTO $name (id, tenant_id, started_at, created_at)
		SELECT $first + i - 1, '$tenant',
			   CASE WHEN $nulls = 0 OR i % $nulls <> 0 THEN t END, t
		FROM generate_series(1, $rows) AS i,
			 LATERAL (SELECT now() - interval '24 hours' * $newest
							 - interval '1 minute' * ($rows - i)) AS x (t);\n";
}

# Arguments of cleanup_old_executions as SQL text.
sub _call
{
	my ($tenant, %arg) = @_;
	my @args = ("'$tenant'");

	foreach my $p (sort keys %arg)
	{
		push @args, "p_$p => $arg{$p}";
	}
	return
	  'SELECT deleted_count, execution_summary FROM cleanup_old_executions('
	  . join(', ', @args) . ')';
}

sub _decode
{
	my ($line) = @_;
	my ($count, $json) = split /\|/, $line, 2;
	my $summary = JSON::PP::decode_json($json);

	is($summary->{deleted}, $count, 'summary and deleted_count agree')
	  unless $summary->{deleted} == $count;
	return $summary;
}

# One cleanup in a session of its own; "before" is SQL that runs first in that session.
# Returns the decoded summary.
sub cleanup
{
	my ($node, $db, $tenant, %arg) = @_;
	my $before = delete $arg{before} // '';

	return _decode($node->safe_psql($db, "$before;" . _call($tenant, %arg)));
}

# The same in an open background session.
sub session_cleanup
{
	my ($session, $tenant, %arg) = @_;

	return _decode($session->query_safe(_call($tenant, %arg)));
}

# Poll until the query says true; a failed wait is a failed test, with the reason.
sub wait_for
{
	my ($node, $db, $query, $what) = @_;

	ok($node->poll_query_until($db, $query), $what)
	  or die "gave up waiting: $what";
	return;
}

# Does the server under test have this loadable library?
sub have_library
{
	my ($name) = @_;
	my $dir = `pg_config --pkglibdir`;

	chomp $dir;
	return -e "$dir/$name.so";
}

# Is its pg_cron from before 1.5?
sub cron_is_old
{
	my ($node) = @_;

	return $node->safe_psql('postgres', q{
		SELECT string_to_array(split_part(default_version, '-', 1), '.')::integer[] < '{1,5}'
		FROM pg_available_extensions WHERE name = 'pg_cron'}) eq 't';
}

# Names and state of the two indexes on executions, one line each:
# name, valid, depends on the extension.
sub contract_indexes
{
	my ($node, $db) = @_;

	return $node->safe_psql($db, q{
		SELECT c.relname, i.indisvalid,
			   EXISTS (SELECT FROM pg_depend d JOIN pg_extension e
							  ON d.refclassid = 'pg_extension'::regclass
								 AND d.refobjid = e.oid
					   WHERE d.classid = 'pg_class'::regclass
						 AND d.objid = c.oid AND d.deptype IN ('x', 'e')
						 AND e.extname = 'retention')
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE c.relname IN ('idx_executions_retention_cleanup',
							'idx_executions_null_started_at')
		ORDER BY 1});
}

# The SQL must fail with this SQLSTATE.  Returns what psql said.
sub psql_fails
{
	my ($node, $db, $sql, $sqlstate, $name) = @_;
	my ($rc, $out, $err) =
	  $node->psql($db, "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);

	isnt($rc, 0, "$name: fails");
	like($err, qr/ERROR:  \Q$sqlstate\E:/, "$name: SQLSTATE $sqlstate");
	return $err;
}

# A line for test/RELIABILITY.md.  Only a file in which nothing has failed may say it.
sub reliability
{
	my ($text) = @_;

	note("reliability: $text") if Test::More->builder->is_passing;
	return;
}

1;
