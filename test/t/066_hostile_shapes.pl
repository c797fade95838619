# 066_hostile_shapes.pl - tables of odd shapes and names: a run and a cleanup over each that
# is supported, against an oracle in plain SQL; a clear error, with its SQLSTATE and a hint,
# for each that is not; and retention.check() says so of what has changed since it was attached.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('hostile_shapes', 'max_prepared_transactions = 0');
my ($shapes, $refused, $changed, $advice) = (0, 0, 0, 0);

$node->safe_psql('postgres', q{
	CREATE DOMAIN tenant_key AS uuid CHECK (VALUE IS NOT NULL);
	CREATE DOMAIN tenant_key_of_key AS tenant_key;
	CREATE DOMAIN moment AS timestamptz CHECK (VALUE > '2000-01-01');
	CREATE DOMAIN local_moment AS timestamp(3);
	CREATE TYPE execution AS (id bigint, tenant_id uuid, started_at timestamptz, created_at timestamptz);
	CREATE FUNCTION keep_some() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN RETURN CASE WHEN OLD.id % 10 > 0 THEN OLD END; END';
	CREATE FUNCTION count_them() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN PERFORM count(*) FROM gone; RETURN NULL; END';
	CREATE FOREIGN DATA WRAPPER nothing;
	CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing});

# A schema of its own for each table, and none of the one before.
my $fresh = 'SET client_min_messages = warning; DROP EXTENSION IF EXISTS retention CASCADE;
	DROP SCHEMA IF EXISTS s CASCADE; CREATE SCHEMA s; SET search_path = s, public;';
my $columns = 'id bigint, tenant_id uuid, started_at timestamptz, created_at timestamptz';
# from there on a generated column is virtual unless it says otherwise, and none has an index
my $has_virtual = $node->pg_version >= 18;

# ---- What is supported.  "fill" are the columns that are written, of a row's id, tenant, and
# two times s and c, where it is not the four; "kept" says which due rows stay.
my @supported = (
	{ name => 'a hundred columns, some of them dropped',
		table => '(' . join(', ', map({ "c$_ text DEFAULT 'x'" } 1 .. 60), $columns, map({ "d$_ integer" } 1 .. 60)) . ');
			ALTER TABLE executions ' . join(', ', map { "DROP c$_, DROP d$_" } 1 .. 10) },
	{ name => 'columns of other types in front, dropped and made anew',
		table => '(tenant_id text, started_at date, created_at text, id bigint);
			ALTER TABLE executions DROP tenant_id, DROP started_at, DROP created_at;
			ALTER TABLE executions ADD created_at timestamptz, ADD started_at timestamptz, ADD tenant_id uuid' },
	{ name => 'generated and identity columns',
		table => "(n integer GENERATED ALWAYS AS IDENTITY, id bigint PRIMARY KEY, tenant text, s double precision, created_at timestamptz,
			tenant_id uuid GENERATED ALWAYS AS (tenant::uuid) STORED,
			started_at timestamptz GENERATED ALWAYS AS (to_timestamp(s)) STORED)",
		fill => [ 'id, tenant, s, created_at', 'id, tenant::text, extract(epoch FROM s), c' ] },
	$has_virtual ? (
		{ name => 'virtual columns beside the data, the id one of them',
			table => "(twice bigint GENERATED ALWAYS AS (n * 2), n bigint, id bigint GENERATED ALWAYS AS (n) VIRTUAL, tenant_id uuid,
				late boolean GENERATED ALWAYS AS (started_at > created_at) VIRTUAL, started_at timestamptz, created_at timestamptz,
				CHECK (twice > 0), CHECK (late IS NULL OR NOT late));
				CREATE TRIGGER count_them AFTER DELETE ON executions REFERENCING OLD TABLE AS gone
					FOR EACH STATEMENT EXECUTE FUNCTION count_them()",
			fill => [ 'n, tenant_id, started_at, created_at', 'id, tenant, s, c' ] },
		{ name => 'virtual columns of partitions',
			table => "($columns, odd boolean GENERATED ALWAYS AS (id % 2 = 1) VIRTUAL) PARTITION BY LIST (tenant_id);
				CREATE TABLE one PARTITION OF executions (odd GENERATED ALWAYS AS (id % 2 <> 0)) FOR VALUES IN ('" . ('e' x 31) . "1');
				CREATE TABLE others PARTITION OF executions DEFAULT" }) : (),
	{ name => 'domains, and domains over domains',
		table => '(id bigint, tenant_id tenant_key_of_key, started_at moment, created_at moment)' },
	{ name => 'a domain over timestamp', utc => 1,
		table => '(id bigint, tenant_id tenant_key, started_at local_moment, created_at local_moment)' },
	{ name => 'times of whole seconds', table => '(id bigint, tenant_id uuid, started_at timestamptz(0), created_at timestamptz(0))' },
	{ name => 'columns that differ in capitals alone',
		table => qq{($columns, "Tenant_ID" uuid DEFAULT gen_random_uuid(), "STARTED_AT" timestamptz, "created_at " text)} },
	{ name => 'a table of a type', table => 'OF execution' },
	{ name => 'unlogged', table => "($columns)", kind => 'UNLOGGED' },
	{ name => 'a partition of another table',
		before => "CREATE TABLE everything ($columns) PARTITION BY RANGE (id)",
		table => 'PARTITION OF everything FOR VALUES FROM (MINVALUE) TO (MAXVALUE)' },
	{ name => 'an inheritance child of another table', before => "CREATE TABLE parent ($columns)", table => '() INHERITS (parent)' },
	{ name => 'partitioned by time and tenant, in several schemas, with odd names',
		table => qq{($columns) PARTITION BY RANGE (created_at);
			CREATE TABLE "An 'old' one" PARTITION OF executions FOR VALUES FROM (MINVALUE) TO (now() - interval '20 days')
				PARTITION BY LIST (tenant_id);
			CREATE TABLE public."%s; ""x""" PARTITION OF "An 'old' one" DEFAULT;
			CREATE UNLOGGED TABLE unlogged PARTITION OF executions FOR VALUES FROM (now() - interval '20 days') TO (MAXVALUE);
			CREATE TABLE nulls PARTITION OF executions DEFAULT},
		after => 'DROP TABLE public."%s; ""x"""' },
	{ name => 'partitioned by an expression',
		table => "($columns) PARTITION BY HASH ((id % 7), tenant_id);
			CREATE TABLE h0 PARTITION OF executions FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			CREATE TABLE h1 PARTITION OF executions FOR VALUES WITH (MODULUS 2, REMAINDER 1)" },
	{ name => 'a trigger on one partition keeps rows', kept => 'e.id % 10 = 0 AND e.id % 2 = 0',
		table => "($columns) PARTITION BY LIST ((id % 2));
			CREATE TABLE even PARTITION OF executions FOR VALUES IN (0); CREATE TABLE odd PARTITION OF executions FOR VALUES IN (1);
			CREATE TRIGGER keep BEFORE DELETE ON even FOR EACH ROW EXECUTE FUNCTION keep_some()" },
	{ name => 'triggers that keep rows', kept => 'e.id % 10 = 0',
		table => "($columns); CREATE TRIGGER keep BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION keep_some();
			CREATE TRIGGER count_them AFTER DELETE ON executions REFERENCING OLD TABLE AS gone
				FOR EACH STATEMENT EXECUTE FUNCTION count_them()" },
	{ name => 'row-level security that lets the owner see nothing',
		table => "($columns); ALTER TABLE executions ENABLE ROW LEVEL SECURITY; ALTER TABLE executions FORCE ROW LEVEL SECURITY;
			CREATE POLICY nothing ON executions USING (false)" },
	{ name => 'a rule on another event', table => "($columns); CREATE RULE updates AS ON UPDATE TO executions DO INSTEAD NOTHING" },
	{ name => 'a disabled rule',
		table => "($columns); CREATE RULE off AS ON DELETE TO executions DO INSTEAD NOTHING;
			ALTER TABLE executions DISABLE RULE off" },
	{ name => 'many other indexes',
		table => "($columns, doc jsonb DEFAULT '{}'); CREATE INDEX ON executions USING gin (doc); CREATE INDEX ON executions USING brin (created_at);
			CREATE INDEX ON executions USING hash (tenant_id); CREATE INDEX ON executions ((id % 3), started_at);
			CREATE INDEX ON executions (started_at) INCLUDE (id); CREATE UNIQUE INDEX ON executions (id) WHERE id > 0;
			CREATE INDEX ON executions (tenant_id, started_at) WHERE id > 5; CREATE INDEX ON executions (created_at DESC NULLS LAST);
			CREATE STATISTICS st ON tenant_id, started_at FROM executions" },
	{ name => 'a foreign key at itself that does not cascade',
		table => "($columns, parent bigint, PRIMARY KEY (id), FOREIGN KEY (parent) REFERENCES executions)" },
	{ name => 'rows without a tenant, and long ones',
		table => "($columns, payload text DEFAULT repeat('long ', 5000)); ALTER TABLE executions ALTER payload SET STORAGE EXTERNAL;
			INSERT INTO executions (id, started_at) SELECT -i, '2001-01-01' FROM generate_series(1, 50) i" },
);

foreach my $shape (@supported)
{
	my $name = $shape->{name};
	my ($into, $values) = @{ $shape->{fill} // [ 'id, tenant_id, started_at, created_at',
		$shape->{utc} ? "id, tenant, s AT TIME ZONE 'UTC', c AT TIME ZONE 'UTC'" : 'id, tenant, s, c' ] };
	my $effective = $shape->{utc} ? "COALESCE(started_at, created_at) AT TIME ZONE 'UTC'" : 'COALESCE(started_at, created_at)';
	my $kept = $shape->{kept} // 'false';
	my $kind = $shape->{kind} // '';
	# twice: by the run, and by hand with half of the days
	my $oracle = "DROP TABLE IF EXISTS public.oracle; CREATE TABLE public.oracle AS
		SELECT e.id, tenant_id, t, COALESCE(t < now() - p.retention_days * interval '24 hours' AND rank > p.min_executions_to_keep
			AND NOT ($kept), false) AS goes
		FROM (SELECT id, tenant_id, $effective AS t, row_number() OVER (PARTITION BY tenant_id ORDER BY $effective DESC NULLS LAST) AS rank
			FROM s.executions) AS e JOIN execution_retention_policies AS p USING (tenant_id);";
	my $verdict = 'SELECT sum(goes), COALESCE(sum(greatest(have - want, 0)), 0), COALESCE(sum(greatest(want - have, 0)), 0)
		FROM (SELECT count(*) FILTER (WHERE NOT o.goes) AS want, count(e.id) AS have, count(*) FILTER (WHERE o.goes) AS goes
			FROM oracle AS o LEFT JOIN s.executions AS e USING (id) GROUP BY o.tenant_id, o.t) AS x';

	$node->safe_psql('postgres', "$fresh " . ($shape->{before} // '') . ";
		CREATE $kind TABLE executions $shape->{table};
		CREATE EXTENSION retention SCHEMA public;
		SELECT setseed(0.42);
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep)
		SELECT lpad(n::text, 32, 'e')::uuid, 10 + n, n * 7 % 20 FROM generate_series(1, 15) n;
		INSERT INTO executions ($into) SELECT $values
		FROM (SELECT row_number() OVER () AS id, lpad(n::text, 32, 'e')::uuid AS tenant, t AS c, CASE WHEN random() < 0.7 THEN t END AS s
			FROM (SELECT n, date_trunc('second', now()) - interval '12 hours' - interval '1 day' * floor(random() * 50) AS t
				FROM generate_series(1, 15) n, generate_series(1, 40) i) x) r;
		ANALYZE executions; $oracle");
	my ($rc, $out, $err) = $node->psql('postgres', 'CALL retention.run(batch_size => 7)', on_error_stop => 1);
	is($rc, 0, "$name: run ends well");
	unlike($err, qr/WARNING/, "$name: without a warning");
	my ($went, $left, $lost) = split /\|/, $node->safe_psql('postgres', $verdict);
	cmp_ok($went, '>', 50, "$name: run: something is due");
	is("$left|$lost", '0|0', "$name: run: what the oracle says is gone");

	$node->safe_psql('postgres', "SET search_path = s, public;
		UPDATE execution_retention_policies SET retention_days = retention_days / 2, min_executions_to_keep = 3; $oracle");
	($rc, $out, $err) = $node->psql('postgres', 'SELECT sum(deleted_count) FROM execution_retention_policies AS p,
		cleanup_old_executions(p.tenant_id, p_batch_size => 5)', on_error_stop => 1);
	is($rc, 0, "$name: cleanup ends well") or diag $err;
	($went, $left, $lost) = split /\|/, $node->safe_psql('postgres', $verdict);
	cmp_ok($went, '>', 50, "$name: cleanup: something is due");
	is("$left|$lost", '0|0', "$name: cleanup: what the oracle says is gone");
	is($node->safe_psql('postgres', "SELECT object, finding FROM retention.check() WHERE severity = 'critical'"), '',
		"$name: nothing critical to say");
	$node->safe_psql('postgres', $shape->{after}) if $shape->{after};
	$shapes++;
}

# ---- What is not: attach() says so, and CREATE EXTENSION as well.
my @refused = (
	[ 'view', "CREATE TABLE t ($columns); CREATE VIEW executions AS SELECT * FROM t", '42809' ],
	[ 'materialized view', "CREATE MATERIALIZED VIEW executions AS SELECT 1::bigint AS id, gen_random_uuid() AS tenant_id, now() AS started_at", '42809' ],
	[ 'foreign table', "CREATE FOREIGN TABLE executions ($columns) SERVER nowhere", '42809' ],
	[ 'partition that is a foreign table', "CREATE TABLE executions ($columns) PARTITION BY RANGE (created_at);
		CREATE FOREIGN TABLE f PARTITION OF executions DEFAULT SERVER nowhere", '42809' ],
	[ 'sequence', 'CREATE SEQUENCE executions', '42809' ],
	[ 'inheritance children', "CREATE TABLE executions ($columns); CREATE TABLE child () INHERITS (executions)", '0A000' ],
	[ 'rule instead', "CREATE TABLE executions ($columns); CREATE RULE r AS ON DELETE TO executions DO INSTEAD NOTHING", '0A000' ],
	[ 'rule instead, at times', "CREATE TABLE executions ($columns);
		CREATE RULE r AS ON DELETE TO executions WHERE OLD.id = 1 DO INSTEAD NOTHING", '0A000' ],
	[ 'rule beside', "CREATE TABLE executions ($columns); CREATE TABLE noted (id bigint);
		CREATE RULE r AS ON DELETE TO executions DO ALSO INSERT INTO noted VALUES (OLD.id)", '0A000' ],
	[ 'rule that updates', "CREATE TABLE executions ($columns);
		CREATE RULE r AS ON DELETE TO executions DO INSTEAD UPDATE executions SET id = -1 WHERE id = OLD.id", '0A000' ],
	(map { [ "tenant of type $_", "CREATE TABLE executions (tenant_id $_, started_at timestamptz)", '42804' ] }
		'text', 'bigint', 'uuid[]', 'bytea', 'jsonb', 'execution', 'moment', 'name', 'int4range'),
	(map { [ "time of type $_", "CREATE TABLE executions (tenant_id uuid, started_at timestamptz, created_at $_)", '42804' ] }
		'text', 'date', 'time', 'timestamptz[]', 'bigint', 'interval', 'tstzrange', 'tenant_key', 'double precision'),
	$has_virtual ? (
		[ 'virtual tenant', 'CREATE TABLE executions (tenant text, tenant_id uuid GENERATED ALWAYS AS (tenant::uuid), started_at timestamptz)', '0A000' ],
		[ 'virtual start', 'CREATE TABLE executions (tenant_id uuid, s double precision,
			started_at timestamptz GENERATED ALWAYS AS (to_timestamp(s)) VIRTUAL, created_at timestamptz)', '0A000' ],
		[ 'virtual creation', 'CREATE TABLE executions (tenant_id uuid, started_at timestamptz, c double precision,
			created_at timestamptz GENERATED ALWAYS AS (to_timestamp(c)) VIRTUAL)', '0A000' ],
		[ 'virtual creation alone, in partitions', 'CREATE TABLE executions (tenant_id uuid, c double precision,
			created_at timestamptz GENERATED ALWAYS AS (to_timestamp(c)) VIRTUAL) PARTITION BY LIST (tenant_id)', '0A000' ]) : (),
	[ 'no tenant', 'CREATE TABLE executions (id bigint, started_at timestamptz)', '42703' ],
	[ 'tenant with a capital', 'CREATE TABLE executions ("Tenant_id" uuid, started_at timestamptz)', '42703' ],
	[ 'no time', 'CREATE TABLE executions (tenant_id uuid, finished_at timestamptz)', '42703' ],
	[ 'no column', 'CREATE TABLE executions ()', '42703' ],
	[ 'index of another shape', "CREATE TABLE executions ($columns); CREATE INDEX idx_executions_retention_cleanup ON executions (id)", '42710' ],
	[ 'index with a function', "CREATE TABLE executions ($columns);
		CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, started_at) WHERE started_at IS NOT NULL AND id::text <> ''", '42710' ],
	[ 'table in place of the index', "CREATE TABLE executions ($columns); CREATE TABLE idx_executions_null_started_at ()", '42710' ],
);
foreach my $case (@refused)
{
	my ($name, $sql, $state) = @$case;

	my ($rc, $out, $err) = $node->psql('postgres', "$fresh $sql; SET client_min_messages = notice;
		\\set VERBOSITY verbose
		\\set ON_ERROR_STOP off
		CREATE EXTENSION retention SCHEMA public;
		\\warn ---
		SELECT count(*) FROM pg_extension WHERE extname = 'retention';
		RESET search_path; SET client_min_messages = warning; CREATE EXTENSION retention SCHEMA public;
		SELECT retention.attach('s.executions'); SELECT count(*) FROM retention.target", on_error_stop => 1);
	my ($at_create, $at_attach) = split /---/, $err;
	like($at_create, qr/ERROR:  $state:.*(\nHINT:|cannot open relation)/s, "$name: CREATE EXTENSION says $state and what to do");
	like($at_attach, qr/ERROR:  $state:.*(\nHINT:|cannot open relation)/s, "$name: so does attach");
	is($out, "0\n0", "$name: nothing is left and nothing attached");
	$refused++;
}
{
	# what is no table "executions" at all
	$node->safe_psql('postgres', "$fresh CREATE EXTENSION retention SCHEMA public;
		CREATE TABLE \"Executions\" ($columns); CREATE INDEX executions ON \"Executions\" (id)");
	my @others = (
		[ 's.executions', '42809', 'an index' ],
		[ 's."Executions"', '22023', 'a capital' ],
		[ 'pg_class', '22023', 'a catalog' ],
		[ 'execution_retention_policies', '22023', 'the policies' ],
		[ 'retention.target', '22023', 'a table of the extension' ],
		[ 'execution', '(42809|22023)', 'a type' ],
		[ '0', '42P01', 'nothing' ],
		[ '4294967295', '42P01', 'an OID that does not exist' ],
		[ 's.nothing', '42P01', 'a name that does not exist' ]);

	foreach my $case (@others)
	{
		my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT retention.attach('$case->[0]'::regclass)");
		like($err, qr/ERROR:  $case->[1]:/, "attach: $case->[2] is refused");
		$refused++;
	}
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose
		CREATE TEMP TABLE executions ($columns); SELECT retention.attach('pg_temp.executions')");
	like($err, qr/ERROR:  42809: table "pg_temp_\d+.executions" is temporary/, 'attach: a temporary table is refused');
	$refused++;
}

# ---- What changes once it is attached: the cleanup says why it cannot, and check() and
# health() are not silent.  undef for what goes on working.
my $tenant = 'eeeeeeee-0000-4000-8000-000000000001';
my @changes = (
	[ 'rule', 'CREATE RULE r AS ON DELETE TO executions DO INSTEAD NOTHING', '0A000', 'rule' ],
	[ 'child', 'CREATE TABLE child () INHERITS (executions)', '0A000', 'children' ],
	[ 'tenant of another type', 'ALTER TABLE executions ALTER tenant_id TYPE text', '42804', 'tenant_id' ],
	[ 'time of another type', 'ALTER TABLE executions ALTER created_at TYPE text', '42804', 'created_at' ],
	[ 'tenant dropped', 'ALTER TABLE executions DROP tenant_id', '42703', 'tenant_id' ],
	[ 'tenant renamed', 'ALTER TABLE executions RENAME tenant_id TO tenant', '42703', 'tenant_id' ],
	[ 'started_at dropped', 'ALTER TABLE executions DROP started_at', '55000', 'time columns' ],
	[ 'created_at dropped', 'ALTER TABLE executions DROP created_at', '55000', 'time columns' ],
	[ 'started_at renamed', 'ALTER TABLE executions RENAME started_at TO begun_at', '55000', 'time columns' ],
	[ 'both renamed', 'ALTER TABLE executions RENAME started_at TO a; ALTER TABLE executions RENAME created_at TO b', '42703', 'neither' ],
	$has_virtual ? (
		[ 'tenant made virtual', "ALTER TABLE executions DROP tenant_id; ALTER TABLE executions ADD tenant_id uuid GENERATED ALWAYS AS ('$tenant'::uuid)",
			'0A000', 'Column "tenant_id" is virtual' ],
		[ 'started_at made virtual', 'ALTER TABLE executions DROP started_at; ALTER TABLE executions ADD started_at timestamptz GENERATED ALWAYS AS (created_at)',
			'0A000', 'Column "started_at" is virtual' ],
		[ 'created_at made virtual', 'ALTER TABLE executions DROP created_at; ALTER TABLE executions ADD created_at timestamptz GENERATED ALWAYS AS (started_at)',
			'0A000', 'Column "created_at" is virtual' ]) : (),
	[ 'index dropped', 'DROP INDEX idx_executions_null_started_at', '55000', 'lacks this index' ],
	[ 'table renamed', 'ALTER TABLE executions RENAME TO other', '42P01', 'renamed' ],
	[ 'another table in its place', 'ALTER TABLE executions RENAME TO other; CREATE TABLE executions (LIKE other)', '42P01', 'renamed' ],
	[ 'a view in its place', 'ALTER TABLE executions RENAME TO other; CREATE VIEW executions AS SELECT * FROM other', '42P01', 'renamed' ],
	[ 'table dropped', 'DROP TABLE executions', '42P01', 'dropped' ],
	[ 'policies renamed', 'ALTER TABLE public.execution_retention_policies RENAME TO policies', '42P01', undef ],
	[ 'target renamed', 'ALTER TABLE retention.target RENAME TO other', '42P01', undef ],
	[ 'two attached', 'CREATE SCHEMA IF NOT EXISTS s2; CREATE TABLE s2.executions (LIKE executions);
		INSERT INTO retention.target VALUES (\'s2.executions\')', '55000', '2 tables' ],
	[ 'nothing attached', 'DELETE FROM retention.target', '42P01', 'attached' ],
	[ 'OID 0 attached', 'UPDATE retention.target SET relation = 0', '42P01', 'dropped' ],
	[ 'a catalog attached', "UPDATE retention.target SET relation = 'pg_class'", '42P01', 'dropped' ],
	[ 'NULL attached', 'ALTER TABLE retention.target ALTER relation DROP NOT NULL; UPDATE retention.target SET relation = NULL', '42P01', 'dropped' ],
	[ 'time columns of nobody', "UPDATE retention.target SET time_columns = repeat('%s', 1000)", '55000', 'time columns' ],
	[ 'no time columns', 'ALTER TABLE retention.target ALTER time_columns DROP NOT NULL; UPDATE retention.target SET time_columns = NULL', '55000', 'time columns' ],
	[ 'policy of NULL days', 'ALTER TABLE execution_retention_policies ALTER retention_days DROP NOT NULL;
		UPDATE execution_retention_policies SET retention_days = NULL', '22023', undef ],
	[ 'policy of no minimum', 'ALTER TABLE execution_retention_policies ALTER min_executions_to_keep DROP NOT NULL;
		UPDATE execution_retention_policies SET min_executions_to_keep = NULL', '22023', undef ],
	[ 'policy of negative days', 'ALTER TABLE execution_retention_policies DROP CONSTRAINT retention_days_must_be_at_least_1;
		UPDATE execution_retention_policies SET retention_days = -2147483648', '22023', undef ],
	[ 'policy of a negative minimum', 'ALTER TABLE execution_retention_policies DROP CONSTRAINT min_executions_to_keep_must_not_be_negative;
		UPDATE execution_retention_policies SET min_executions_to_keep = -1', '22023', undef ],
	[ 'publication without identity', 'CREATE PUBLICATION p FOR TABLE executions', '55000', undef, 'DROP PUBLICATION p' ],
	[ 'trigger that fails', "CREATE FUNCTION s.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE no_data_found; END';
		CREATE TRIGGER no BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION s.no()", 'P0002', undef ],
	[ 'trigger that changes the row', "CREATE FUNCTION s.no() RETURNS trigger LANGUAGE plpgsql
		AS 'BEGIN UPDATE s.executions SET started_at = now() WHERE id = OLD.id; RETURN OLD; END';
		CREATE TRIGGER no BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION s.no()", '27000', undef ],
	[ 'trigger that cleans', "CREATE FUNCTION s.no() RETURNS trigger LANGUAGE plpgsql
		AS 'BEGIN PERFORM public.cleanup_old_executions(OLD.tenant_id); RETURN OLD; END';
		CREATE TRIGGER no BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION s.no()", '54001', undef ],
	[ 'trigger that runs', "CREATE FUNCTION s.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN CALL retention.run(); RETURN OLD; END';
		CREATE TRIGGER no BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION s.no()", '2D000', undef ],
	[ 'trigger that drops the extension', "CREATE FUNCTION s.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DROP EXTENSION retention; RETURN OLD; END';
		CREATE TRIGGER no BEFORE DELETE ON executions FOR EACH STATEMENT EXECUTE FUNCTION s.no()", '55006', undef ],
	[ 'trigger that cleans afterwards', "CREATE FUNCTION s.no() RETURNS trigger LANGUAGE plpgsql
		AS 'BEGIN PERFORM public.cleanup_old_executions(OLD.tenant_id); DISCARD PLANS; RETURN OLD; END';
		CREATE TRIGGER no AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION s.no()", undef ],
	[ 'another schema', 'CREATE SCHEMA IF NOT EXISTS s2; ALTER TABLE executions SET SCHEMA s2', undef ],
	[ 'schema renamed', 'DROP SCHEMA IF EXISTS "S ""2""" CASCADE; ALTER SCHEMA s RENAME TO "S ""2"""', undef ],
	[ 'logged', 'ALTER TABLE executions SET UNLOGGED', undef ],
	[ 'rule on the policies', 'CREATE RULE r AS ON UPDATE TO execution_retention_policies DO INSTEAD NOTHING', undef ],
	[ 'clustered and rewritten', 'CREATE INDEX by_id ON executions (id); CLUSTER executions USING by_id; VACUUM FULL executions', undef ],
);
foreach my $change (@changes)
{
	my ($name, $sql, $state, $finding, $undo) = @$change;

	$node->safe_psql('postgres', "$fresh DROP SCHEMA IF EXISTS s2 CASCADE; CREATE TABLE executions ($columns);
		CREATE EXTENSION retention SCHEMA public;
		INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) VALUES ('$tenant', 30, 0);
		INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day', now() FROM generate_series(1, 60) i");
	$node->safe_psql('postgres', "SET search_path = s, public; SET client_min_messages = warning; $_")
	  foreach $sql =~ /VACUUM/ ? split(/;/, $sql) : $sql;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nCALL retention.run()");
	if (defined $state)
	{
		like($err, qr/(ERROR:  $state:|could not clean tenant.*\n.*SQLSTATE $state)/, "changed: $name: the run says $state");
		psql_fails($node, 'postgres', "SELECT cleanup_old_executions('$tenant')", $state, "changed: $name: the cleanup");
		is($node->safe_psql('postgres', q{SELECT status FROM retention.run_history ORDER BY id DESC LIMIT 1}), 'failed',
			"changed: $name: on record");
		like($node->safe_psql('postgres', 'SELECT severity FROM retention.health()'), qr/critical|warning/,
			"changed: $name: health is not silent") unless $name =~ /^(target|policies) renamed/;
		like($node->safe_psql('postgres', q{SELECT finding FROM retention.check() WHERE severity = 'critical'}), qr/\Q$finding\E/,
			"changed: $name: check() names it") if defined $finding;
	}
	else
	{
		is($rc, 0, "changed: $name: the run goes on");
		is($node->safe_psql('postgres', 'SELECT status, rows_deleted > 0 FROM retention.run_history'), 'succeeded|t', "changed: $name: and cleans");
	}
	$node->safe_psql('postgres', $undo) if defined $undo;
	$changed++;
}

# a foreign key of the table at itself that cascades takes young rows with old ones
$node->safe_psql('postgres', "$fresh CREATE TABLE executions ($columns, parent bigint, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE p PARTITION OF executions DEFAULT; ALTER TABLE executions ADD FOREIGN KEY (parent) REFERENCES executions ON DELETE CASCADE;
	CREATE EXTENSION retention SCHEMA public; ALTER TABLE p OWNER TO pg_monitor");
like($node->safe_psql('postgres', 'SELECT severity, finding FROM retention.check()'),
	qr/^warning\|Foreign key "executions_parent_fkey" cascades into the table that is cleaned/m, 'check() names a cascade into the table');
like($node->safe_psql('postgres', 'SELECT finding FROM retention.check()'),
	qr/partition of s\.executions and belongs to role "pg_monitor"/, 'check() names a partition of somebody else');

# ---- Names that want to be SQL.  What check() and the hints advise is run as it stands.
my @names = (q{x'); CREATE TABLE public.pwned (); --}, q{"; CREATE TABLE public.pwned (); --}, q{%s%n%1$s%I}, q{$$; $x$ \\ \' `}, "two\nlines\tand a tab",
	"\x{dc}n\x{ef}c\x{f6}d\x{e9} \x{2603}", ' ', 'SELECT', 'Capital', 'x' x 63, "'", '"', '\\', '--', '/*');
foreach my $name (@names)
{
	my $shown = substr($name =~ s/[^ -~]/?/gr, 0, 20);
	my $q = '"' . ($name =~ s/"/""/gr) . '"';
	my $file = "$PostgreSQL::Test::Utils::tmp_check/names.sql";
	my $run = sub {
		my ($sql) = @_;

		# by a file: psql's -c would take the names apart
		open my $out, '>:encoding(UTF-8)', $file or die $!;
		print $out $sql;
		close $out;
		return $node->psql('postgres', "\\set VERBOSITY verbose\n\\i $file", on_error_stop => 1,
			extra_params => ['-0']);
	};
	my $sql = "$fresh DROP SCHEMA IF EXISTS $q CASCADE; CREATE SCHEMA $q; SET search_path = $q;
		CREATE TABLE executions (id bigint PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz) PARTITION BY RANGE (id);
		CREATE TABLE ${q} PARTITION OF executions DEFAULT;
		CREATE EXTENSION retention SCHEMA public;
		CREATE TABLE referrer ($q bigint CONSTRAINT $q REFERENCES executions ON DELETE CASCADE);
		ALTER TABLE $q SET (autovacuum_enabled = off);
		CREATE TRIGGER $q BEFORE DELETE ON $q FOR EACH ROW EXECUTE FUNCTION public.keep_some();
		INSERT INTO public.execution_retention_policies (tenant_id, retention_days, min_executions_to_keep) VALUES ('$tenant', 30, 0);
		INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day' FROM generate_series(1, 60) i;
		SET search_path = public; SELECT sum(executions_to_delete) FROM retention.preview(); CALL retention.run(batch_size => 7);\n";
	my ($rc, $out, $err) = $run->($sql);
	is($rc, 0, "named $shown: all of it works") or diag $err;
	# every statement that is advised, after the index is gone, too
	$run->("DROP INDEX $q.idx_executions_retention_cleanup;");
	($rc, $out, $err) = $run->("SELECT deleted_count FROM cleanup_old_executions('$tenant');");
	my ($hint) = $err =~ /HINT:  Run this, then retention.attach\(\) for the table: (.*?;)\nLOCATION/s;
	ok(defined $hint, "named $shown: a hint that is a statement");
	my @advice = split /\0/, ($run->("SELECT advice FROM retention.check() WHERE advice ~ '^(ALTER TABLE|CREATE|DROP|SELECT retention.attach)';"))[1];
	cmp_ok(scalar(@advice), '>=', 4, "named $shown: advice that is a statement");
	push @advice, grep { defined } $hint =~ s/CONCURRENTLY //r;
	foreach my $statement (@advice)
	{
		utf8::decode($statement);
		($rc, $out, $err) = $run->("SET search_path = public;\n$statement\n");
		unlike($err, qr/ERROR:  (?!42P07|42701)/, "named $shown: runs as it stands: " . substr($statement =~ s/[^ -~]/?/gr, 0, 40))
		  or diag $statement;
		$advice++;
	}
	is($node->safe_psql('postgres', q{SELECT to_regclass('public.pwned') IS NULL}), 't', "named $shown: and nothing else does");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM retention.check() WHERE severity IN ('critical', 'warning') AND object <> 'setting autovacuum'}), '0',
		"named $shown: the advice has mended everything");
	$run->("DROP SCHEMA $q CASCADE;");
	$shapes++;
}

print "# reliability: table shapes and names cleaned as the oracle says: $shapes, refused with a clear error: $refused, "
  . "changes noticed or survived: $changed, advised statements run: $advice\n" if Test::More->builder->is_passing;
$node->stop;
done_testing();
