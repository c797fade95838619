# 041_migration_shapes.pl - hand-written policy tables of every kind: other types, missing and
# further columns, foreign keys both ways, triggers, row-level security, grants; values that
# the extension does not allow.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use MigrationTest;
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('migration_shapes');
my $db = 'shapes';

# ---- One that has grown for years.
{
	new_database($node, $db);
	$node->safe_psql($db, 'CREATE ROLE app_owner LOGIN; CREATE ROLE app_web LOGIN; CREATE ROLE app_cron LOGIN;
		CREATE ROLE app_report LOGIN; CREATE SCHEMA app AUTHORIZATION app_owner; GRANT CREATE ON DATABASE shapes TO app_owner;
		GRANT USAGE ON SCHEMA app TO app_web, app_cron, app_report;
		ALTER DATABASE shapes SET search_path = app, public');
	$node->safe_psql($db, 'SET ROLE app_owner;' . application(6, 3000) . fixture('grown') . q{
		GRANT SELECT, DELETE ON executions TO app_cron;
		GRANT TRIGGER ON execution_retention_policies TO app_cron;
		INSERT INTO users SELECT lpad(to_hex(n), 32, '0')::uuid FROM generate_series(1, 6) n;
		INSERT INTO execution_retention_policies (id, tenant_id, retention_days, is_enabled, min_executions_to_keep,
			last_cleanup_at, last_cleanup_deleted_count, created_at, updated_by) VALUES
		('00000000-0000-4000-8000-00000000000a', '00000000-0000-0000-0000-000000000001', 30, true, 10,
			'2024-03-31 02:30:00.5', 1234567890123 % 999999999999, '2023-01-01 00:00', '00000000-0000-0000-0000-000000000002'),
		('00000000-0000-4000-8000-00000000000b', '00000000-0000-0000-0000-000000000002', 3650, NULL, NULL, NULL, NULL, NULL, NULL),
		('00000000-0000-4000-8000-00000000000c', '00000000000000000000000000000003', 1, false, 2147483647, NULL, 0, '2023-01-01', NULL);
		INSERT INTO retention_exceptions VALUES (1, '00000000-0000-4000-8000-00000000000b');
		CREATE FUNCTION sneak() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER sneak BEFORE UPDATE ON execution_retention_policies FOR EACH ROW EXECUTE FUNCTION sneak();
		CREATE FUNCTION sneaky(integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
		ALTER TABLE execution_retention_policies ADD CONSTRAINT sneaky CHECK (sneaky(retention_days));
		CREATE INDEX sneaky ON execution_retention_policies ((sneaky(retention_days)));
		CREATE PUBLICATION changes FOR TABLE execution_retention_policies;
		CREATE TRIGGER a_late_one AFTER UPDATE ON execution_retention_policies FOR EACH ROW EXECUTE FUNCTION audit_retention();
		ALTER TABLE execution_retention_policies ENABLE ALWAYS TRIGGER a_late_one;
		TRUNCATE retention_audit;});
	my $files = index_files($node, $db);
	my $err = migrate($node, $db, 'grown', before => "SET timezone = 'America/New_York'");

	is($node->safe_psql($db, "SET timezone = 'UTC';
			SELECT id, tenant_id, retention_days, is_enabled, min_executions_to_keep, last_cleanup_at,
			last_cleanup_deleted_count, CASE WHEN tenant_id::text NOT LIKE '%2' THEN created_at END, created_by, updated_by
			FROM execution_retention_policies ORDER BY id"), join("\n",
			'00000000-0000-4000-8000-00000000000a|00000000-0000-0000-0000-000000000001|30|t|10|2024-03-31 02:30:00.5+00|'
			  . 1234567890123 % 999999999999 . '|2023-01-01 00:00:00+00||00000000-0000-0000-0000-000000000002',
			'00000000-0000-4000-8000-00000000000b|00000000-0000-0000-0000-000000000002|3650|f|100||0|||',
			'00000000-0000-4000-8000-00000000000c|00000000-0000-0000-0000-000000000003|1|f|2147483647||0|2023-01-01 00:00:00+00||'),
		'grown: all policies, times taken as UTC');
	like($err, qr/column "is_enabled": NULL becomes false in 1 of 3/, 'grown: unknown is not enabled');
	like($err, qr/column "$_": NULL becomes/, "grown: NULL in $_ is said")
	  foreach 'min_executions_to_keep', 'created_at', 'updated_at', 'last_cleanup_deleted_count';

	# indexes on executions: this one is for all rows and descending, and serves as well
	like(index_files($node, $db), qr/\A.*^\Q$_\E$/ms, 'grown: file kept: ' . s/\|.*//r) foreach split /\n/, $files;
	like(contract_indexes($node, $db), qr/null_started_at\|t\|t\n.*retention_cleanup\|t\|t/, 'grown: both indexes');

	# what came along
	my %carried = map { $_ => 1 } $err =~ /NOTICE:  00000: carried over: (.*)$/mg;
	is_deeply([ sort keys %carried ], [ sort
			'constraint "sane_days"', 'index "idx_policies_last_cleanup"', 'default of column "retention_days"',
			'trigger "audit_off"', 'trigger "audit_retention"', 'trigger "a_late_one"', 'policy "reporting"', 'policy "tenant_isolation"',
			'row-level security', 'policy "owner_before_retention" for role "app_owner"',
			'constraint "retention_exceptions_policy_id_fkey" of table app.retention_exceptions' ],
		'grown: what is carried over');
	my %left = map { $_ => 1 } $err =~ /WARNING:  01000: (.*) is not carried over/mg;
	is_deeply([ sort keys %left ], [ sort
			'constraint "execution_retention_policies_updated_by_fkey"', 'constraint "sneaky"', 'index "sneaky"',
			'trigger "sneak"', 'trigger "touch"', 'publication "changes"',
			'TRIGGER on table app.execution_retention_policies' ],
		'grown: what is not');
	like($err, qr/does not dump 10 of these/, 'grown: what pg_dump would not have');
	like($err, qr/function "cleanup_old_executions" ran with the rights of its owner/, 'grown: SECURITY DEFINER is said');
	like($err, qr/function app.cleanup_old_executions\(uuid\) stays/, 'grown: the other function of the name is named');
	is($node->safe_psql($db, 'SELECT tgname, tgenabled FROM pg_trigger
			WHERE tgrelid = $$execution_retention_policies$$::regclass AND NOT tgisinternal ORDER BY 1'),
		"a_late_one|A\naudit_off|D\naudit_retention|O\nhold_walks|O\ntrigger_update_execution_retention_policies_updated_at|O",
		'grown: triggers as they were');
	is($node->safe_psql($db, 'SELECT count(*) FROM retention_audit'), '0', 'grown: no trigger has fired');

	# who may do what
	is($node->safe_psql($db, "
			SELECT r, string_agg(p, ' ' ORDER BY p) FILTER (WHERE has_table_privilege(r, 'execution_retention_policies', p)),
				   has_function_privilege(r, 'cleanup_old_executions(uuid,integer,integer,integer)', 'EXECUTE'),
				   has_column_privilege(r, 'execution_retention_policies', 'retention_days', 'SELECT WITH GRANT OPTION')
			FROM unnest('{app_owner,app_web,app_cron,app_report}'::text[]) r,
				 unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p GROUP BY r ORDER BY r"),
		"app_cron|SELECT UPDATE|t|f\napp_owner|DELETE INSERT REFERENCES SELECT TRUNCATE UPDATE|t|f\n"
		  . "app_report||f|t\napp_web|INSERT SELECT UPDATE|f|f", 'grown: grants');
	is($node->safe_psql($db, "SET SESSION AUTHORIZATION app_owner; SELECT count(*) FROM execution_retention_policies"),
		'3', 'grown: the old owner sees all policies');
	is($node->safe_psql($db, "SET SESSION AUTHORIZATION app_web; SET app.tenant_id = '00000000-0000-0000-0000-000000000001';
			UPDATE execution_retention_policies SET retention_days = 8; SELECT tenant_id, retention_days FROM execution_retention_policies"),
		'00000000-0000-0000-0000-000000000001|8', 'grown: row-level security works');
	psql_fails($node, $db, "SET SESSION AUTHORIZATION app_web; SET app.tenant_id = '00000000-0000-0000-0000-000000000001';
			UPDATE execution_retention_policies SET retention_days = 6;", '42501', 'grown: and its check');
	is($node->safe_psql($db, "SET SESSION AUTHORIZATION app_report; SELECT tenant_id, retention_days FROM execution_retention_policies"),
		'00000000-0000-0000-0000-000000000001|8', 'grown: reporting sees the enabled ones');
	is($node->safe_psql($db, 'SELECT string_agg(op || tenant, chr(10) ORDER BY at) FROM retention_audit'),
		"UPDATE00000000-0000-0000-0000-000000000001\nUPDATE00000000-0000-0000-0000-000000000001",
		'grown: the audit goes on');
	psql_fails($node, $db, 'INSERT INTO retention_exceptions VALUES (2, gen_random_uuid());', '23503', 'grown: the foreign key at it');
	$node->safe_psql($db, "DROP FUNCTION cleanup_old_executions(uuid);
		DELETE FROM execution_retention_policies WHERE tenant_id::text LIKE '%2'");
	is($node->safe_psql($db, 'SELECT count(*) FROM retention_exceptions'), '0', 'grown: and its cascade');
	psql_fails($node, $db, "INSERT INTO execution_retention_policies (tenant_id, retention_days) VALUES (gen_random_uuid(), 4000);",
		'23514', 'grown: the check');

	# a dump has no part of it but the grants and the foreign key of the other table
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/grown.sql';
	$node->command_ok([ 'pg_dump', '-f', $dump, $db ], 'grown: pg_dump');
	my $text = PostgreSQL::Test::Utils::slurp_file($dump);
	like($text, qr/retention_exceptions_policy_id_fkey/, 'grown: the dump has the foreign key at it');
	unlike($text, qr/sane_days|idx_policies_last_cleanup|CREATE POLICY|ROW LEVEL SECURITY|TRIGGER audit_retention/,
		'grown: and not what the warning named');
	my ($statements) = $err =~ /does not dump 10 of these\nDETAIL:  (.*?)\nHINT/s;
	new_database($node, 'copy');
	$node->safe_psql('copy', PostgreSQL::Test::Utils::slurp_file($dump) . ";$statements");
	is($node->safe_psql('copy', 'SELECT count(*) FROM pg_policies'), '3', 'grown: its statements mend the copy');
}

# ---- Tables with less, with more, with something else.
sub small_table
{
	my ($definition, $values) = @_;

	new_database($node, $db);
	$node->safe_psql($db, application(6, 60) . "
		CREATE TABLE execution_retention_policies ($definition);"
		  . ($values ? "INSERT INTO execution_retention_policies VALUES $values;" : ''));
	return;
}
my $t1 = "'00000000-0000-0000-0000-000000000001'";
my $t2 = "'00000000-0000-0000-0000-000000000002'";
my $err;

small_table('tenant_id uuid PRIMARY KEY, retention_days integer', "($t1, 7), ($t2, NULL)");
$err = migrate($node, $db, 'two columns', before => "LOAD 'retention'; SET retention.default_retention_days = 45;
	SET retention.default_min_executions_to_keep = 12");
is(policies_of($node, $db, columns => 'retention_days, min_executions_to_keep, is_enabled'), "7|12|t\n45|12|t",
	'two columns: the rest as the settings say, and enabled');
like($err, qr/"retention_days": NULL becomes 45 in 1 of 2/, 'two columns: said');

small_table('id bigserial PRIMARY KEY, tenant_id uuid, retention_days integer, created_by text, note text',
	"(1, $t1, 7, 'me', 'important')");
$err = migration_fails($node, $db, '55000', 'columns that do not fit');
like($err, qr/cannot hold: id bigint, created_by text, note text/, 'columns that do not fit: are named');
$err = migrate($node, $db, 'kept aside', before => "SET retention_migration.keep_old_table = 'on'");
is($node->safe_psql($db, 'SELECT * FROM execution_retention_policies_old'), '1|00000000-0000-0000-0000-000000000001|7|me|important',
	'kept aside: all of it');
is(policies_of($node, $db, columns => 'tenant_id, retention_days, created_by'), '00000000-0000-0000-0000-000000000001|7|',
	'kept aside: what fits is in use');
migrate($node, $db, 'kept aside, again', before => "SET retention_migration.keep_old_table = 'on'");

# nothing but the values decides here
foreach my $case (
	[ 'days of 0', '23514', 'tenant_id uuid, retention_days integer', "($t1, 0), ($t2, 7)", qr/1 policies with a value of "retention_days"/ ],
	[ 'negative days', '23514', 'tenant_id uuid, retention_days bigint', "($t1, -1)", qr/from 1 to 2147483647/ ],
	[ 'too many days', '23514', 'tenant_id uuid, retention_days bigint', "($t1, 2147483648)", qr/from 1 to 2147483647/ ],
	[ 'half a day', '23514', 'tenant_id uuid, retention_days numeric', "($t1, 1.5)", qr/whole numbers/ ],
	[ 'no number', '23514', 'tenant_id uuid, retention_days numeric', "($t1, 'NaN')", qr/whole numbers/ ],
	[ 'a negative minimum', '23514', 'tenant_id uuid, retention_days integer, min_executions_to_keep integer', "($t1, 7, -5)", qr/"min_executions_to_keep"/ ],
	[ 'no tenant', '23502', 'tenant_id uuid, retention_days integer', "(NULL, 7)", qr/1 policies without a tenant/ ],
	[ 'two policies of a tenant', '23505', 'tenant_id uuid, retention_days integer', "($t1, 7), ($t1, 8)", qr/GROUP BY tenant_id HAVING/ ],
	[ 'two spellings of a tenant', '23505', 'tenant_id text, retention_days integer',
		"('AAAAAAAA-0000-4000-8000-000000000001', 7), ('aaaaaaaa-0000-4000-8000-000000000001', 8)", qr/several policies/ ],
	[ 'two policies of an id', '23505', 'id uuid, tenant_id uuid, retention_days integer', "($t1, $t1, 7), ($t1, $t2, 8)", qr/pkey/ ],
	[ 'a tenant that is none', '42804', 'tenant_id text, retention_days integer', "('acme', 7)", qr/column "tenant_id" .* does not become uuid/ ],
	[ 'a numeric tenant', '42804', 'tenant_id bigint, retention_days integer', "(1, 7)", qr/ALTER COLUMN tenant_id TYPE uuid/ ],
	[ 'days as an interval', '42804', 'tenant_id uuid, retention_days interval', "($t1, '7 days')", qr/does not become integer/ ],
	[ 'no days', '42703', 'tenant_id uuid, keep_for integer', "($t1, 7)", qr/has no column "retention_days"/ ],
	[ 'no tenants', '42703', 'name text, retention_days integer', "('x', 7)", qr/has no column "tenant_id"/ ],
	[ 'a policy on a text column', '42883', "tenant_id text, retention_days integer); ALTER TABLE execution_retention_policies ENABLE ROW LEVEL SECURITY;
		CREATE POLICY own ON execution_retention_policies USING (tenant_id = current_setting('app.t')", "($t1, 7)", qr/could not carry over policy "own"/ ],
  )
{
	my ($name, $sqlstate, $definition, $values, $says) = @$case;

	small_table($definition, $values);
	like(migration_fails($node, $db, $sqlstate, $name), $says, "$name: says so");
}
small_table('tenant_id uuid, retention_days integer');
$node->safe_psql($db, 'ALTER TABLE execution_retention_policies RENAME TO p; CREATE VIEW execution_retention_policies AS TABLE p');
migration_fails($node, $db, '42809', 'a view of that name');

# a foreign key that was never validated stays so, and the values around the edges are kept
small_table('tenant_id char(36), retention_days smallint, min_executions_to_keep smallint, is_enabled boolean', "($t1, 32767, 0, true)");
migrate($node, $db, 'small types');
is(policies_of($node, $db, columns => 'tenant_id, retention_days, min_executions_to_keep, is_enabled'),
	'00000000-0000-0000-0000-000000000001|32767|0|t', 'small types: kept');
small_table('tenant_id uuid, retention_days integer', "('00000000-0000-0000-0000-0000000000ff', 2147483647)");
$node->safe_psql($db, 'ALTER TABLE execution_retention_policies ADD CONSTRAINT late FOREIGN KEY (tenant_id) REFERENCES tenants NOT VALID');
migrate($node, $db, 'NOT VALID');
is($node->safe_psql($db, "SELECT convalidated FROM pg_constraint WHERE conname = 'late'"), 'f', 'NOT VALID: stays so');

# no policies at all
small_table('tenant_id uuid, retention_days integer');
migrate($node, $db, 'an empty table');
is($node->safe_psql($db, 'SELECT count(*) FROM retention.preview()'), '0', 'an empty table: replaced');

$node->stop;
done_testing();
