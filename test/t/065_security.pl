# 065_security.pl - what is hostile: code of the table's owner in every place where it may
# stand, when a superuser runs the job; names that shadow those of the server; objects that
# wait for CREATE EXTENSION; text that wants to be SQL.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use RetentionTest;
use Test::More;

my $node = start_node('security');
my $tenant = tenant(1);
my $attacks = 0;

# A database in which role app owns the table, every trap that an owner can set is set, and
# all that a trap sees is written down: by whom, and whether as a superuser.
sub trapped_database
{
	my ($db) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE SCHEMA app AUTHORIZATION app; SET SESSION AUTHORIZATION app; SET search_path = app;
		CREATE TABLE seen (trap text, who name DEFAULT current_user);
		CREATE FUNCTION look(trap text) RETURNS void LANGUAGE sql VOLATILE
		AS 'INSERT INTO app.seen (trap) VALUES (trap)';
		CREATE FUNCTION trap(trap text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE
		AS 'BEGIN PERFORM app.look(trap); RETURN true; END';
		CREATE TABLE executions (id bigint, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
		CREATE INDEX predicate ON executions (tenant_id, started_at) WHERE trap('index predicate');
		CREATE INDEX predicate_of_leg ON executions (tenant_id, created_at) WHERE started_at IS NULL AND trap('index predicate');
		CREATE INDEX expression ON executions ((CASE WHEN trap('index expression') THEN id END));
		CREATE STATISTICS expressions ON (CASE WHEN trap('statistics') THEN id END), id FROM executions;
		ALTER TABLE executions ADD CONSTRAINT checked CHECK (trap('constraint') OR id > 0);
		CREATE FUNCTION trigger_trap() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			PERFORM app.look(format('trigger %s', TG_NAME));
			RETURN CASE WHEN TG_LEVEL = 'ROW' THEN OLD END;
		END \$\$;
		CREATE TRIGGER before_row BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION trigger_trap();
		CREATE TRIGGER before_statement BEFORE DELETE ON executions FOR EACH STATEMENT EXECUTE FUNCTION trigger_trap();
		CREATE TRIGGER after_statement AFTER DELETE ON executions FOR EACH STATEMENT EXECUTE FUNCTION trigger_trap();
		CREATE CONSTRAINT TRIGGER deferred AFTER DELETE ON executions DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION trigger_trap();
		INSERT INTO executions SELECT i, '$tenant', now() - i * interval '1 day', now() FROM generate_series(1, 300) i;
		ANALYZE executions");
	return;
}

# What the traps have seen since the last time: the roles, and the traps.
sub seen
{
	my ($db) = @_;
	my $who = $node->safe_psql($db, 'SELECT DISTINCT who FROM app.seen ORDER BY 1');
	my $traps = $node->safe_psql($db, 'SELECT DISTINCT trap FROM app.seen ORDER BY 1');

	$node->safe_psql($db, 'TRUNCATE app.seen');
	return ($who, $traps);
}

$node->safe_psql('postgres', 'CREATE ROLE app LOGIN');

# ---- A superuser's call runs no code of the table's owner with a superuser's rights: not
# when the statement runs and not when it is planned.
{
	trapped_database('traps');
	seen('traps');
	my $path = 'SET search_path = app, public; SET constraint_exclusion = on;';
	my @calls = (
		[ 'CREATE EXTENSION', 'CREATE EXTENSION retention SCHEMA app', '' ],
		[ 'attach', "SELECT retention.attach('app.executions')", '' ],
		[ 'set_policy', "SELECT retention.set_policy('$tenant', 200, true, 0)", '' ],
		[ 'oldest_due', "SELECT retention.oldest_due('$tenant', 200, 0)", 'constraint|index|statistics' ],
		[ 'preview', 'SELECT * FROM retention.preview()', 'constraint|index|statistics' ],
		[ 'preview of one', "SELECT * FROM retention.preview('$tenant')", 'constraint|index|statistics' ],
		[ 'status', 'SELECT * FROM retention.status', 'constraint|index|statistics' ],
		[ 'health', 'SELECT * FROM retention.health()', 'constraint|index|statistics' ],
		[ 'check', 'SELECT * FROM retention.check()', '' ],
		[ 'lock_tenant', "SELECT retention.lock_tenant('$tenant')", '' ],
		[ 'run', 'CALL retention.run(batch_size => 7)', 'constraint|index|statistics|trigger' ],
		[ 'run of one', "SELECT retention.set_policy('$tenant', 150);\nCALL retention.run('$tenant', true)", 'trigger' ],
		[ 'run by default', "SET retention.apply_default_policy = on; SET retention.default_min_executions_to_keep = 1;
			DELETE FROM execution_retention_policies;\nCALL retention.run()", 'trigger' ],
		[ 'cleanup', "SELECT cleanup_old_executions('$tenant', 50, 0)", 'constraint|index|statistics|trigger' ],
		[ 'cleanup by the policy', "SELECT retention.set_policy('$tenant', 20, true, 0);
			SELECT cleanup_old_executions('$tenant')", 'trigger' ],
		[ 'cleanup_tenant', "SELECT retention.set_policy('$tenant', 10);
			SELECT * FROM retention.cleanup_tenant('$tenant')", 'trigger' ]);

	foreach my $call (@calls)
	{
		my ($name, $sql, $expected) = @$call;
		my ($rc, $out, $err) = $node->psql('traps', "$path $sql;", on_error_stop => 1);
		my ($who, $traps) = seen('traps');

		is($rc, 0, "owner's code: $name succeeds") or diag $err;
		# building an index evaluates it, as the owner: that is the server's care
		like($who, qr/^(app)?$/, "owner's code: $name runs none of it as a superuser")
		  or diag "seen by: $who\nin: $traps";
		like($traps, qr/\Q$_\E/, "owner's code: $name meets the $_ traps") foreach split /\|/, $expected;
		$attacks++;
	}
	is($node->safe_psql('traps', 'SELECT count(*) FROM app.executions'), '9', "owner's code: what was due is gone");
}

print "# reliability: security: attacks tried: $attacks, succeeded: 0\n" if Test::More->builder->is_passing;
$node->stop;
done_testing();
