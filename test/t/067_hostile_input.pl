# 067_hostile_input.pl - every function, procedure, view, table and setting of the extension,
# taken from the catalogs, with values that nobody means: extreme numbers, infinite times,
# NULLs, texts that want to be SQL, in every kind of transaction and for roles with few rights.
# No crash, no internal error, no SQLSTATE that is not documented; what is deleted meanwhile is
# what an oracle says.
#
# RETENTION_SEED repeats a test, RETENTION_FUZZ_SECONDS makes it longer.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;
use Time::HiRes 'time';

my $seconds = $ENV{RETENTION_FUZZ_SECONDS} || 12;
my $seed = $ENV{RETENTION_SEED} || int(time) % 1_000_000;
my $cron = have_library('pg_cron');
my $node = start_node('hostile_input', 'log_error_verbosity = verbose', 'restart_after_crash = off',
	$cron ? ("shared_preload_libraries = 'pg_cron'", "cron.database_name = 'postgres'", 'cron.use_background_workers = on') : ());

note("reliability: seed of the hostile input: $seed (RETENTION_SEED)");
srand($seed);
SKIP: { skip 'pg_cron is not installed: retention.schedule() is not tried beyond its arguments', 1 unless $cron; pass('pg_cron is there') }

# The errors that the extension documents, and those of the server that values of these
# types lead to on their way.
my %documented = map { $_ => 1 } qw(42P01 42703 42704 42710 42809 42804 22023 22004 42501 55000 55P03 2D000 25006 0A000
  22P02 22003 22008 22007 22021 23502 23505 23514 25P02 57014 40001 428C9 39P01 42602);

# ---- The database.
my @tenants = map { tenant($_) } 1 .. 6;
my $reset = join('', "SET client_min_messages = warning; TRUNCATE executions, execution_retention_policies;
	INSERT INTO executions SELECT i, ('{" . join(',', @tenants) . "}'::uuid[])[1 + i % 5],
		CASE WHEN i % 31 = 0 THEN 'infinity' WHEN i % 37 = 0 THEN '-infinity' WHEN i % 3 > 0 THEN t END,
		CASE WHEN i % 41 = 0 THEN '-infinity' WHEN i % 43 = 0 THEN NULL ELSE t END
	FROM generate_series(1, 400) i, LATERAL (SELECT now() - i * interval '17 hours') x (t);
	INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, is_enabled) VALUES
		('$tenants[0]', 1, 0, true), ('$tenants[1]', 2147483647, 2147483647, true), ('$tenants[2]', 100, 10, false),
		('$tenants[3]', 50, 2147483647, true);\n") =~ s/\s+/ /gr;
$node->safe_psql('postgres', ($cron ? 'CREATE EXTENSION pg_cron;' : '') . q{
	CREATE TABLE executions (id bigint, tenant_id uuid, started_at timestamptz, created_at timestamptz);
	CREATE EXTENSION retention;
	CREATE ROLE nobody;
	CREATE ROLE executor;
	GRANT EXECUTE ON ALL ROUTINES IN SCHEMA retention, public TO executor;
	CREATE VIEW a_view AS SELECT 1 AS one;
	CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS one;
	CREATE TABLE parted (LIKE executions) PARTITION BY LIST (id);
	CREATE TYPE a_type AS (one integer);
	-- a cleanup and what plain SQL says of it
	CREATE FUNCTION judged(tenant uuid, days integer, keep integer, batch integer) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		p execution_retention_policies := (SELECT p FROM execution_retention_policies AS p WHERE p.tenant_id = tenant);
		d bigint := coalesce(days, p.retention_days, retention.setting('default_retention_days')::integer);
		k bigint := coalesce(keep, p.min_executions_to_keep, retention.setting('default_min_executions_to_keep')::integer);
		want bigint;
		had bigint := (SELECT count(*) FROM executions);
		got record;
	BEGIN
		SELECT count(*) INTO want
		FROM (SELECT COALESCE(started_at, created_at) AS t, row_number() OVER (ORDER BY COALESCE(started_at, created_at) DESC NULLS LAST) AS rank
			FROM executions WHERE tenant_id = tenant) e
		WHERE t < CASE WHEN d > 2400000 THEN '-infinity' ELSE now() - d * interval '24 hours' END AND rank > k;
		SELECT deleted_count AS n, execution_summary ->> 'stop_reason' AS why INTO got FROM cleanup_old_executions(tenant, days, keep, batch);
		IF got.n <> want AND (got.n > want OR got.why = 'done') OR had - got.n <> (SELECT count(*) FROM executions) THEN
			RAISE 'deleted % and not %: %, %, %, %', got.n, want, tenant, days, keep, batch USING ERRCODE = 'FZ001';
		END IF;
		RETURN got.n;
	END $$;
	GRANT ALL ON FUNCTION judged TO PUBLIC} . ';' . $reset);

# ---- What there is to try, from the catalogs.
my %object;    # identity => how often tried
my @routines;
my $members = "FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'retention'
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'";
foreach my $line (split /\n/, $node->safe_psql('postgres', "
	SELECT p.oid::regprocedure, p.oid::regproc, p.prokind, p.prorettype::regtype,
		COALESCE((SELECT string_agg(t::regtype::text, ';' ORDER BY o) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u (t, o)), '')
	FROM pg_proc p WHERE p.oid IN (SELECT d.objid $members AND d.classid = 'pg_proc'::regclass) ORDER BY 1::text"))
{
	my ($identity, $name, $kind, $returns, $types) = split /\|/, $line;
	push @routines, { identity => $identity, name => $name, kind => $kind, returns => $returns, types => [ split /;/, $types ] };
	$object{$identity} = 0;
}
my @relations = map { my ($name, $kind) = split /\|/; $object{$name} = 0; { name => $name, kind => $kind } } split /\n/,
  $node->safe_psql('postgres', "SELECT c.oid::regclass, c.relkind FROM pg_class c
	WHERE c.oid IN (SELECT d.objid $members AND d.classid = 'pg_class'::regclass) ORDER BY 1::text");
my @settings = map { my %s; @s{qw(name type min max)} = split /\|/; $object{"setting $s{name}"} = 0; \%s } split /\n/,
  $node->safe_psql('postgres', "SELECT retention.cutoff(now(), 0); SELECT name, vartype, min_val, max_val FROM pg_settings WHERE name LIKE 'retention.%' ORDER BY 1") =~ s/^.*\n//r;
cmp_ok(scalar(@routines), '>=', 40, scalar(@routines) . ' routines');
cmp_ok(scalar(@relations), '>=', 9, scalar(@relations) . ' relations');
cmp_ok(scalar(@settings), '>=', 14, scalar(@settings) . ' settings');

# ---- Values, as SQL.
my $infinite = $node->pg_version >= 17 ? [ "'infinity'", "'-infinity'" ] : [];
my @texts = ('NULL', "''", "' '", map({ "E'" . (s/([\\'])/\\$1/gr =~ s/\n/\\n/gr) . "'" }
	"'", '"', "'; DROP TABLE executions; --", '$$', '\\', "two\nlines", '%s%n%1$s', '0x10', '64MB', '-1', '1e400MB', '99999999999TB', '3.5', 'NaN',
	'Infinity', '1 GB ', '8192 kB', '1 ms', "\x{c3}\x{9c}n\x{c3}\x{af}\x{e2}\x{98}\x{83}", '* * * * *', '@reboot', '60 60 * * *', '1 second', '0 2 * * *',
	'batch_size', 'BATCH_SIZE', 'no_such', 'schedule', '..', 'run', 'prune', '"', 'DELETE FROM executions', '*/0 * * * *', '-5 * * * *', '1-', ','),
	"repeat('x', 64)", "repeat('9', 400)", "repeat('* ', 100000)", "repeat(U&'\\2603', 1000000)");
my %values = (
	uuid => [ 'NULL', map({ "'$_'" } @tenants, '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff') ],
	integer => [ 'NULL', '-2147483648', '-1', '0', '1', '2', '30', '1000000', '1000001', '2147483647', '106751991' ],
	bigint => [ 'NULL', '-9223372036854775808', '-1', '0', '1', '4294967296', '9223372036854775807' ],
	boolean => [ 'NULL', 'true', 'false' ],
	text => \@texts,
	interval => [ 'NULL', "'0'", "'-1 microsecond'", "'1 microsecond'", "'178956970 years'", "'-178956970 years'", "'1 month -31 days'",
		"'2147483647 days'", "'-2147483648 days'", "'2562047788 hours'", "'50 ms'", "'292277 years'", @$infinite ],
	'timestamp with time zone' => [ 'NULL', "'-infinity'", "'infinity'", "'4714-11-24 00:00:00+00 BC'", "'294276-12-31 23:59:59.999999+00'",
		'now()', "'epoch'" ],
	'timestamp without time zone' => [ 'NULL', "'-infinity'", "'infinity'", "'4714-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'", "'2000-01-01'" ],
	tid => [ 'NULL', "'(0,0)'", "'(0,1)'", "'(4294967295,65535)'" ],
	regclass => [ 'NULL', '0', '4294967295', "'executions'", "'idx_executions_retention_cleanup'", "'a_view'", "'a_matview'", "'parted'", "'a_type'",
		"'pg_class'", "'pg_toast.pg_toast_2618'", "'retention.run_history_id_seq'", "'execution_retention_policies'", "'retention.status'",
		"'information_schema.tables'" ]);
foreach my $r (@routines)
{
	foreach my $type (@{ $r->{types} })
	{
		ok($values{$type}, "$r->{identity}: there are values of type $type") or BAIL_OUT("teach this test values of type $type");
	}
}

# One of a list.
sub any { return $_[ int rand @_ ] }

# ---- Trying.  A case is a line of SQL.
my (%tried, %states, @bad, $log_read);
my $psql = 0;

# Runs the cases in one session, and judges what it said.  "strict" cases must not fail.
sub try
{
	my ($kind, $strict, @cases) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/cases.sql";

	$tried{$kind} += @cases;
	while (my @some = splice @cases, 0, 300)
	{
		open my $out, '>', $file or die "$file: $!";
		print $out "\\set VERBOSITY verbose\n", map { "$_\n" } @some;
		close $out;
		my ($rc, $stdout, $stderr);
		eval {
			# what waits for its limits must not wait for long; what must not fail may take its time
			local $ENV{PGOPTIONS} = $strict ? '' : '-c statement_timeout=150ms';
			$rc = $node->psql('postgres', "\\i $file", stdout => \$stdout, stderr => \$stderr, on_error_die => 0, on_error_stop => 0);
			1;
		} or $stderr .= "\npsql died: $@";
		foreach my $message (split /\n(?=psql:)/, $stderr)
		{
			my ($line, $level, $state) = $message =~ /^psql:\S+:(\d+): (\w+):  (\w{5}):/;
			my $case = defined $line ? $some[ $line - 2 ] : '?';

			$states{$state}++ if defined $state && $level eq 'ERROR';
			# an internal error of pg_cron or of the server that passes through us is not ours
			push @bad, "$kind: $case\n$message"
			  if $message =~ /connection .* lost|psql died|FATAL|PANIC/
			  || $message =~ /XX\d{3}/
			  || (defined $level && $level eq 'ERROR' && ($strict || !$documented{$state}));
		}
		push @bad, "$kind: an internal error in what was returned: $&" if $stdout =~ /.*\(XX\d{3}\).*/;
		last unless $node->psql('postgres', 'SELECT 1') == 0;
	}
	return;
}

# What precedes and follows a statement: the kinds of transactions, roles and settings.
sub surrounded
{
	my ($sql) = @_;
	my $s = any(@settings);

	return any(
		"$sql;", "$sql;", "$sql;",
		"BEGIN; $sql; ROLLBACK;",
		"BEGIN READ ONLY; $sql; ROLLBACK;",
		"BEGIN ISOLATION LEVEL SERIALIZABLE; $sql; ROLLBACK;",
		"BEGIN; SET LOCAL lock_timeout = 1; SET LOCAL timezone = 'Asia/Kathmandu'; $sql; COMMIT;",
		"SET ROLE nobody; $sql; RESET ROLE;",
		"SET ROLE executor; $sql; RESET ROLE;",
		"SET search_path = pg_temp, pg_catalog, public; $sql; RESET search_path;",
		"SET default_transaction_isolation = 'repeatable read'; $sql; RESET ALL;",
		"SET plan_cache_mode = force_custom_plan; SET work_mem = 64; $sql; RESET ALL;",
		"SET intervalstyle = 'iso_8601'; SET datestyle = 'German'; SET bytea_output = 'escape'; $sql; RESET ALL;",
		"SET $s->{name} = " . any($s->{min} || "''", $s->{max} || "'x'", 'DEFAULT') . "; $sql; RESET ALL;");
}

# A statement that calls a routine with these arguments.
sub call
{
	my ($r, @arguments) = @_;
	my $list = join ', ', map { "($arguments[$_])::$r->{types}[$_]" } 0 .. $#arguments;

	$object{ $r->{identity} }++;
	return ($r->{kind} eq 'p' ? 'CALL ' : 'SELECT * FROM ') . "$r->{name}($list)";
}

# schedule() in a transaction that does not happen: nobody shall start its jobs
sub careful
{
	my ($r, $sql) = @_;
	return $r->{name} =~ /schedule$/ ? "BEGIN; $sql; ROLLBACK;" : undef;
}

# ---- Each value in each place, the other arguments being plain ones; then all NULL.
my %plain = (uuid => "'$tenants[0]'", integer => '1', bigint => '1', boolean => 'true', text => "'run'", interval => "'1 day'",
	'timestamp with time zone' => 'now()', 'timestamp without time zone' => "'2000-01-01'", tid => "'(0,1)'", regclass => "'executions'");
my @each;
foreach my $r (@routines)
{
	my @types = @{ $r->{types} };

	push @each, call($r, ('NULL') x @types) . ';';
	foreach my $place (0 .. $#types)
	{
		foreach my $value (@{ $values{ $types[$place] } })
		{
			my @arguments = map { $_ == $place ? $value : $r->{name} eq 'retention.run' ? 'NULL' : $plain{ $types[$_] } } 0 .. $#types;
			my $sql = call($r, @arguments);
			push @each, careful($r, $sql) // "$sql;";
			push @each, "SET ROLE nobody; $sql; RESET ROLE;" if rand() < 0.2;
		}
	}
}
try('each argument', 0, $reset, @each);

# ---- Relations: read, and each column written with each value, by the owner and by nobody.
# Whatever a policy says, what reads policies goes on working.
my (@reads, @writes);
foreach my $relation (@relations)
{
	$object{ $relation->{name} }++;
	push @reads, "SELECT * FROM $relation->{name};", "SET ROLE nobody; SELECT * FROM $relation->{name}; RESET ROLE;",
	  "BEGIN READ ONLY; SELECT count(*) FROM $relation->{name} AS r WHERE r::text IS NULL; ROLLBACK;";
	next unless $relation->{kind} eq 'r';
	foreach my $column (split /\n/, $node->safe_psql('postgres', "SELECT attname, atttypid::regtype FROM pg_attribute
		WHERE attrelid = '$relation->{name}'::regclass AND attnum > 0 AND NOT attisdropped"))
	{
		my ($name, $type) = split /\|/, $column;

		foreach my $value (@{ $values{ $type eq 'name' ? 'text' : $type } // die "teach this test values of type $type" })
		{
			my $set = "UPDATE $relation->{name} SET $name = (${value})::$type";
			my $reads = join(' ', map { "SELECT count(r::text) FROM $_->{name} AS r;" } grep { $_->{kind} eq 'v' } @relations)
			  . ' SELECT severity FROM retention.health(); SELECT severity FROM retention.check();';

			push @writes, "SET ROLE nobody; $set; RESET ROLE;";
			push @writes, "BEGIN; $set; $reads SELECT * FROM retention.list_policies(); SELECT * FROM retention.preview(); ROLLBACK;"
			  if $relation->{name} ne 'execution_retention_policies' && $relation->{name} !~ /run_/;
			next unless $relation->{name} eq 'execution_retention_policies';
			push @writes, "INSERT INTO $relation->{name} (tenant_id, $name) VALUES (gen_random_uuid(), (${value})::$type);" unless $name eq 'tenant_id';
			push @writes, "BEGIN; SAVEPOINT s; $set WHERE tenant_id = '$tenants[0]'; ROLLBACK;";
			# through the trigger, for a run
			push @writes, "$set WHERE tenant_id = '$tenants[0]'; CALL retention.run(batch_size => 3); $reset";
		}
	}
}
try('reading', 0, $reset, @reads);
try('writing', 0, $reset, @writes);
my @strict;
foreach my $column (
	map({ [ 'updated_at', $_ ], [ 'created_at', $_ ] } @{ $values{'timestamp with time zone'} }[ 1 .. 6 ]),
	map({ [ 'last_cleanup_at', $_ ] } @{ $values{'timestamp with time zone'} }),
	map({ [ 'last_cleanup_deleted_count', $_ ] } @{ $values{bigint} }[ 1 .. 6 ]),
	map({ [ 'retention_days', $_ ], [ 'min_executions_to_keep', $_ ] } 1, 2147483647, 106751991))
{
	push @strict, "UPDATE execution_retention_policies SET $column->[0] = ($column->[1])::" . ($column->[0] =~ /_at$/ ? 'timestamptz' : 'bigint') . ';',
	  map({ "SELECT count(r::text) FROM $_->{name} AS r;" } grep { $_->{kind} eq 'v' } @relations),
	  'SELECT * FROM retention.health();', 'SELECT * FROM retention.check();', 'SELECT * FROM retention.preview();',
	  "SELECT * FROM retention.get_policy('$tenants[0]');", 'SELECT * FROM retention.list_policies();', 'SELECT * FROM retention.due_tenants();',
	  'CALL retention.run();', $reset;
}
try('reading whatever a policy says', 1, $reset, @strict);

# ---- Settings: each to its ends and beyond, and what obeys it.
my @set;
foreach my $s (@settings)
{
	$object{"setting $s->{name}"}++;
	my @to = $s->{type} eq 'integer'
	  ? ($s->{min}, $s->{max}, $s->{min} - 1, $s->{max} + 1, "'x'", "''", 'NaN', "'1e300'", "'0x1F'", "'1 fortnight'", 'DEFAULT')
	  : $s->{type} eq 'bool' ? ('on', 'off', "'maybe'", "''", 'DEFAULT')
	  : grep({ !/NULL|repeat|U&/ } @texts);

	foreach my $to (@to)
	{
		push @set, map { "SET $s->{name} = $to; $_ RESET ALL;" } 'CALL retention.run(batch_size => 7);', "SELECT judged('$tenants[0]', 30, 3, NULL);",
		  "BEGIN; SELECT * FROM retention.schedule(); ROLLBACK;", "SELECT * FROM retention.get_policy('$tenants[5]');",
		  "SELECT * FROM retention.set_policy('$tenants[5]');", "SET ROLE executor; CALL retention.run(); RESET ROLE;";
	}
	push @set, "SET ROLE nobody; SET $s->{name} = " . ($s->{min} || "'x'") . '; RESET ROLE; RESET ALL;';
}
try('settings', 0, $reset, @set);

# ---- The trigger function where it does not belong.
my @places;
foreach my $what ('BEFORE UPDATE ON w FOR EACH ROW', 'AFTER UPDATE ON w FOR EACH ROW', 'BEFORE INSERT ON w FOR EACH ROW',
	'BEFORE UPDATE ON w FOR EACH STATEMENT', 'BEFORE DELETE ON w FOR EACH ROW', 'AFTER TRUNCATE ON w FOR EACH STATEMENT',
	'INSTEAD OF UPDATE ON v FOR EACH ROW')
{
	foreach my $columns ('a integer', 'a integer, updated_at timestamptz', 'a integer, updated_at text', 'a integer, updated_at timestamp',
		'a integer, updated_at timestamptz GENERATED ALWAYS AS (to_timestamp(a)) STORED', "a integer, updated_at timestamptz CHECK (updated_at < '2000-01-01')")
	{
		push @places, "BEGIN; CREATE TABLE w ($columns); CREATE VIEW v AS SELECT * FROM w; INSERT INTO w (a) VALUES (1);
			CREATE TRIGGER t $what EXECUTE FUNCTION update_execution_retention_policies_updated_at();
			SAVEPOINT s; UPDATE w SET a = 2; ROLLBACK TO s; UPDATE v SET a = 2; ROLLBACK TO s; INSERT INTO w (a) VALUES (3); ROLLBACK TO s;
			DELETE FROM w; ROLLBACK TO s; TRUNCATE w; ROLLBACK;" =~ s/\s+/ /gr;
	}
}
try('the trigger function', 0, 'SET statement_timeout = 0;', @places);

# ---- Anything with anything, for as long as there is time.
my $end = time + $seconds;
my $rounds = 0;
while (time < $end && !@bad)
{
	my @cases = $reset;

	foreach (1 .. 120)
	{
		my $r = any(@routines);
		my $sql = call($r, map { any(@{ $values{$_} }) } @{ $r->{types} });

		push @cases, careful($r, $sql) // surrounded($sql);
		push @cases, surrounded('SELECT judged(' . join(', ', map({ "(" . any(@{ $values{$_} }) . ")::$_" } qw(uuid integer integer integer))) . ')') if rand() < 0.3;
		# as a part of something larger
		push @cases, 'SELECT count(*) FROM generate_series(1, 3) i, LATERAL '
		  . ($r->{name} . '(' . join(', ', map { '(' . any(@{ $values{$_} }) . ")::$_" } @{ $r->{types} }) . ')') . ' AS x;'
		  if $r->{kind} eq 'f' && $r->{name} !~ /schedule$/ && rand() < 0.2;
		push @cases, $reset if rand() < 0.05;
	}
	try('random', 0, @cases);
	$rounds++;
}

# ---- The outcome.
my $sum = 0;
$sum += $_ foreach values %tried;
is(scalar(@bad), 0, "$sum cases: none ended in a way that is not documented")
  or diag(join("\n\n", map { substr $_, 0, 2000 } @bad[ 0 .. ($#bad > 9 ? 9 : $#bad) ]));
is(join(', ', grep { !$object{$_} } sort keys %object), '', 'every routine, relation and setting has been tried');
my $log = slurp_file($node->logfile);
my @internal = $log =~ /^.*(?:PANIC:|TRAP:|terminated by signal|ERROR:  XX\d{3}:).*$/mg;
is(join("\n", @internal), '', 'nothing like it in the server\'s log');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}), '0', 'no lock is left');
is($node->safe_psql('postgres', q{SELECT count(*) FROM retention.history WHERE status = 'running'}), '0', 'no run is left');
is($node->safe_psql('postgres', q{SELECT to_regclass('executions') IS NOT NULL}), 't', 'and executions are there');
note(join ', ', map { "$_ $tried{$_}" } sort keys %tried);
note('SQLSTATEs met: ' . join ', ', map { "$_ $states{$_}" } sort keys %states);
note('reliability: bad inputs tried: ' . $sum . ', of objects: ' . keys(%object) . ', internal errors: ' . @internal
	  . ', crashes: ' . (() = $log =~ /terminated by signal/g) . ", undocumented SQLSTATEs: " . @bad);
$node->stop;
done_testing();
