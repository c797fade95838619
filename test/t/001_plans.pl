# 001_plans.pl - every statement of a cleanup uses the two indexes, whatever the
# statistics say: no sequential scan, no bitmap, no sort, on millions of rows.
#
# auto_explain sends each nested plan to the client as a NOTICE in JSON; the test
# walks the plan trees.  ModifyTable and LockRows name the table but do not read it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP ();
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node(
	'plans',
	"session_preload_libraries = 'auto_explain'",
	'auto_explain.log_min_duration = -1',
	'auto_explain.log_nested_statements = on',
	'auto_explain.log_format = json',
	'auto_explain.log_level = notice',
	'shared_buffers = 512MB',
	'max_wal_size = 4GB',
	'jit = off');

my ($big, $second) = (tenant(1), tenant(2));
my $next_tenant = 1000;

# A tenant nobody has statistics for: 600 rows, 500 of them due at 30 days (every
# 50th never started), interleaved in time.
sub new_tenant
{
	my ($db, %opt) = @_;
	my $t = tenant($next_tenant++);

	$node->safe_psql($db,
			fill_tenant($t, 500, newest => 60, first => 10_000_000)
		  . fill_tenant($t, 100, first => 10_000_500));
	return $t;
}

# Run SQL with plans on; returns the list of decoded plan trees.
sub plans_of
{
	my ($db, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($db,
		    "\\set VERBOSITY terse\n"
		  . "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0;\n$sql");

	is($rc, 0, 'runs') or diag($err);

	my @plans;
	foreach my $piece (split /^(?:psql:[^\n]*?: )?NOTICE:  /m, $err)
	{
		next unless $piece =~ /^duration: .*?plan:\n(.*)/s;
		push @plans, (JSON::PP->new->incr_parse($1) // die "no plan: $piece");
	}
	return @plans;
}

# Flatten a plan tree.
sub nodes_of
{
	my ($plan) = @_;

	return ($plan, map { nodes_of($_) } @{ $plan->{Plans} // [] });
}

# The plan lines that break the rule, and how many scans and deletes kept it.
sub judge
{
	my ($db, @plans) = @_;
	my %relation = map { $_ => 1 } split /\n/, $node->safe_psql($db, q{
		SELECT relname FROM pg_partition_tree('executions') t
							JOIN pg_class c ON c.oid = t.relid
		UNION SELECT 'executions'});
	my %index = map { $_ => 1 } split /\n/, $node->safe_psql($db, q{
		SELECT c.relname
		FROM unnest(ARRAY['idx_executions_retention_cleanup',
						  'idx_executions_null_started_at']) AS i (name),
			 LATERAL (SELECT i.name::regclass AS oid
					  UNION
					  SELECT relid FROM pg_partition_tree(i.name::regclass)) t
			 JOIN pg_class c USING (oid)});
	my (@bad, $scans, $deletes, $locked);

	$scans = $deletes = $locked = 0;
	foreach my $plan (@plans)
	{
		my @nodes = nodes_of($plan->{Plan});
		my $ours = grep { $relation{ $_->{'Relation Name'} // '' } } @nodes;

		next unless $ours;
		foreach my $n (@nodes)
		{
			my $type = $n->{'Node Type'};

			if ($type eq 'ModifyTable')
			{
				$deletes++;
			}
			elsif ($type eq 'LockRows')
			{
				$locked++;
			}
			elsif ($type =~ /Sort|Bitmap|Seq Scan|Gather|Hash|Materialize/)
			{
				push @bad, "$type: $plan->{'Query Text'}";
			}
			elsif ($relation{ $n->{'Relation Name'} // '' })
			{
				if ($type =~ /^Index (Only )?Scan$/
					&& $index{ $n->{'Index Name'} }
					&& ($n->{'Index Cond'} // '') =~ /tenant_id = /)
				{
					$scans++;
				}
				elsif ($type =~ /^Tid (Range )?Scan$/)
				{
					$scans++;
				}
				else
				{
					push @bad,
					    "$type using "
					  . ($n->{'Index Name'} // 'nothing') . ' cond '
					  . ($n->{'Index Cond'} // 'none')
					  . ": $plan->{'Query Text'}";
				}
			}
		}
	}
	return (\@bad, $scans, $deletes, $locked);
}

# The SQL (calls of cleanup_old_executions) keeps the rule.
sub good_plans
{
	my ($db, $name, $sql, %want) = @_;
	my ($bad, $scans, $deletes, $locked) = judge($db, plans_of($db, $sql));

	ok($scans > 0, "$name: plans on executions seen ($scans scans)");
	ok($deletes >= ($want{deletes} // 1), "$name: $deletes deletes seen");
	ok($locked > 0, "$name: rows locked, skipping others'") if $want{locked};
	is(scalar(@$bad), 0, "$name: only the two indexes and TIDs");
	diag(join("\n", splice(@$bad, 0, 3))) if @$bad;
	return;
}

sub call
{
	my ($tenant, $args) = @_;
	$args = $args ? ", $args" : '';
	return "SELECT * FROM cleanup_old_executions('$tenant'$args);\n";
}

# The statement shapes, each under the present statistics.
sub all_shapes
{
	my ($db, $stats) = @_;
	my $t;

	# The planner thinks that half of everything matches.
	good_plans($db, "$stats, big tenant",
		"SET retention.max_batches_per_call = 3;" . call($big, '30, 100'));
	# It has never heard of this one.
	good_plans($db, "$stats, new tenant",
		call(new_tenant($db), '30, 10, 100'));
	# The minimum decides, not the cutoff.
	good_plans($db, "$stats, boundary within the minimum",
		call(new_tenant($db), '30, 450, 20'));
	# Nothing due, and no such tenant: the plans that look, without a delete.
	good_plans($db, "$stats, nothing due",
		call($second, '36500, 100') . call(tenant(999_999)), deletes => 0);

	# One instant for all: more ties than a batch, the boundary among them.
	$t = tenant($next_tenant++);
	$node->safe_psql($db, qq{
		INSERT INTO executions (id, tenant_id, started_at, created_at)
		SELECT 20000000 + i, '$t', CASE WHEN i % 3 <> 0 THEN d END, d
		FROM generate_series(1, 900) i,
			 (SELECT date_trunc('day', now()) - interval '100 days') x (d)});
	good_plans($db, "$stats, ties", call($t, '30, 100, 50'));

	# The same plans, kept: past the five custom plans, then another tenant.
	$t = new_tenant($db);
	good_plans($db, "$stats, kept plans, second tenant",
		"SET retention.max_batches_per_call = 1;"
		  . (call($big, '30, 100') x 8)
		  . "RESET retention.max_batches_per_call;"
		  . call($t, '30, 10, 100')
		  . call($big, '36500'));
	foreach my $mode (qw(force_generic_plan force_custom_plan))
	{
		$t = new_tenant($db);
		good_plans($db, "$stats, $mode",
			"SET plan_cache_mode = $mode; SET retention.max_batches_per_call = 2;"
			  . call($big, '30, 100')
			  . call($t, '30, 10, 100'));
	}
	return;
}

# Somebody else holds rows of the tenant: the delete that runs into them, the one
# that goes around them, and the last try.
sub locked_rows
{
	my ($db, $stats) = @_;
	my $t = new_tenant($db);
	my $other = $node->background_psql($db);

	$other->query_safe('BEGIN');
	$other->query_safe("SELECT count(*) FROM (SELECT FROM executions
		WHERE tenant_id = '$t' AND id % 100 = 7 FOR UPDATE) x");
	good_plans($db, "$stats, locked rows",
		"SET retention.lock_timeout = '100ms';" . call($t, '30, 10, 100'),
		locked => 1);
	$other->query_safe('ROLLBACK');
	$other->quit;
	is($node->safe_psql($db,
			"SELECT count(*) FROM executions WHERE tenant_id = '$t'
			 AND created_at < now() - interval '30 days'"),
		'5', "$stats, locked rows: all but the locked ones went");
	return;
}

# ---- A plain table of two million rows, in an order that makes index scans dear,
# ---- with indexes that look tempting.

$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->safe_psql('plain',
	    executions_table()
	  . fill_tenant(tenant(3), 100)
	  . 'ANALYZE executions;'
	  . "INSERT INTO executions (id, tenant_id, started_at, created_at)
		 SELECT i,
				CASE WHEN i % 2 = 0 THEN '$big' WHEN i % 20 < 7 THEN '$second'
					 ELSE lpad((i % 500)::text, 32, 'f') END::uuid,
				CASE WHEN i % 50 <> 0 THEN t END, t
		 FROM generate_series(1, 2000000) i,
			  LATERAL (SELECT now() - interval '10 seconds'
							  * ((i::bigint * 7368787) % 2000000)) x (t);"
	  . 'CREATE EXTENSION retention;'
	  . 'CREATE INDEX tempting_tenant ON executions (tenant_id);
		 CREATE INDEX tempting_started ON executions (started_at);
		 CREATE INDEX tempting_created ON executions (created_at);');

all_shapes('plain', 'stale statistics');

$node->safe_psql('plain', q{
	DELETE FROM pg_statistic WHERE starelid = 'executions'::regclass;
	UPDATE pg_class SET reltuples = -1, relpages = 0
	WHERE oid = 'executions'::regclass});
all_shapes('plain', 'no statistics');
locked_rows('plain', 'no statistics');

$node->safe_psql('plain', 'VACUUM ANALYZE executions');
all_shapes('plain', 'after ANALYZE');
locked_rows('plain', 'after ANALYZE');

# The server believes in sequential reads and bitmaps.
$node->safe_psql('plain',
	'ALTER DATABASE plain SET random_page_cost = 100;
	 ALTER DATABASE plain SET effective_cache_size = 128');
good_plans('plain', 'dear random pages, big tenant',
	"SET retention.max_batches_per_call = 8;" . call($big, '30, 100'));
good_plans('plain', 'dear random pages, new tenant',
	call(new_tenant('plain'), '30, 10, 100'));
locked_rows('plain', 'dear random pages');

# And what it did is right: the oldest went first, the rest is as it was.
{
	my $before = $node->safe_psql('plain',
		"SELECT count(*) FROM executions WHERE tenant_id <> '$big'");
	my $s = cleanup($node, 'plain', $big, retention_days => 100,
		min_executions_to_keep => 100);

	is($s->{stop_reason}, 'done', 'big tenant: done');
	is($node->safe_psql('plain',
			"SELECT count(*) FROM executions WHERE tenant_id = '$big'
			 AND coalesce(started_at, created_at) < '$s->{cutoff_date}'"),
		'0', 'big tenant: nothing due is left');
	is($node->safe_psql('plain',
			"SELECT count(*) FROM executions WHERE tenant_id <> '$big'"),
		$before, 'big tenant: nobody else lost a row');
}

# ---- Partitioned: by time, with a default partition for what never started, and
# ---- by tenant.

my %partitioning = (
	by_time => q{
		PARTITION BY RANGE (started_at);
		CREATE TABLE executions_nulls PARTITION OF executions DEFAULT;
		CREATE TABLE executions_old PARTITION OF executions
			FOR VALUES FROM (MINVALUE) TO (now() - interval '60 days');
		CREATE TABLE executions_mid PARTITION OF executions
			FOR VALUES FROM (now() - interval '60 days') TO (now() - interval '20 days');
		CREATE TABLE executions_new PARTITION OF executions
			FOR VALUES FROM (now() - interval '20 days') TO (MAXVALUE)},
	by_tenant => q{
		PARTITION BY HASH (tenant_id);
		CREATE TABLE executions_0 PARTITION OF executions
			FOR VALUES WITH (MODULUS 3, REMAINDER 0);
		CREATE TABLE executions_1 PARTITION OF executions
			FOR VALUES WITH (MODULUS 3, REMAINDER 1);
		CREATE TABLE executions_2 PARTITION OF executions
			FOR VALUES WITH (MODULUS 3, REMAINDER 2)});

foreach my $db (sort keys %partitioning)
{
	# Partition bounds take no parameters and no subqueries, but do take now().
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db,
		    executions_table(extra => $partitioning{$db})
		  . "INSERT INTO executions (id, tenant_id, started_at, created_at)
			 SELECT i, CASE WHEN i % 2 = 0 THEN '$big'
							WHEN i % 4 = 1 THEN '$second'
							ELSE lpad((i % 100)::text, 32, 'f') END::uuid,
					CASE WHEN i % 50 <> 0 THEN t END, t
			 FROM generate_series(1, 200000) i,
				  LATERAL (SELECT now() - interval '1 minute' * i) x (t);"
		  . 'CREATE EXTENSION retention;'
		  . 'CREATE INDEX tempting_tenant ON executions (tenant_id);
			 CREATE INDEX tempting_started ON executions (started_at);');
	all_shapes($db, "$db, no statistics");
	$node->safe_psql($db, 'VACUUM ANALYZE executions');
	all_shapes($db, "$db, after ANALYZE");
	locked_rows($db, "$db, after ANALYZE");

	my $s = cleanup($node, $db, $second, retention_days => 100,
		min_executions_to_keep => 100, batch_size => 700);
	is($node->safe_psql($db,
			"SELECT count(*) FROM executions WHERE tenant_id = '$second'
			 AND coalesce(started_at, created_at) < '$s->{cutoff_date}'"),
		'0', "$db: nothing due is left");
	cmp_ok($s->{deleted}, '>', 10000, "$db: $s->{deleted} rows went");
}

$node->stop;
done_testing();
