--
-- Who may do what: the privileges on each object of the extension, as they are
-- granted when it is created.  An object that is not named here fails, and so
-- does one with other privileges.
--
BEGIN;
SET client_min_messages = warning;
CREATE TABLE executions (id bigserial PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now());
CREATE EXTENSION retention;
SELECT plan(9);

CREATE VIEW member AS
SELECT d.classid, d.objid, o.type || ' ' || replace(o.identity, 'pg_catalog.', '') AS name
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'retention',
     pg_identify_object(d.classid, d.objid, 0) o
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND o.type NOT IN ('type');
-- the owner, and what the ACL says of everybody else; '-' for nobody
CREATE VIEW granted AS
WITH acl (name, owner, acl) AS (
    SELECT m.name, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
    UNION ALL
    SELECT m.name, c.relowner, coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))
    FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
    UNION ALL
    SELECT m.name, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
    FROM member m JOIN pg_namespace n ON m.classid = 'pg_namespace'::regclass AND n.oid = m.objid)
SELECT m.name, a.owner::regrole::text AS owner, coalesce((
    SELECT string_agg(x.one, ', ' ORDER BY x.one) FROM (
        SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END || ': '
            || string_agg(g.privilege_type || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, ' '
                ORDER BY g.privilege_type)
        FROM aclexplode(a.acl) g WHERE g.grantee <> a.owner GROUP BY g.grantee) x (one)), '-') AS who
FROM member m LEFT JOIN acl a USING (name);

CREATE TEMP TABLE expected (name text, who text);
INSERT INTO expected VALUES
('function public.cleanup_old_executions(uuid,integer,integer,integer)', '-'),
    ('function public.update_execution_retention_policies_updated_at()', '-'),
    ('function retention."check"()', 'PUBLIC: EXECUTE'),
    ('function retention.attach(regclass)', '-'),
    ('function retention.check_cascades()', 'PUBLIC: EXECUTE'),
    ('function retention.check_references()', 'PUBLIC: EXECUTE'),
    ('function retention.check_rights()', 'PUBLIC: EXECUTE'),
    ('function retention.check_schedule()', 'PUBLIC: EXECUTE'),
    ('function retention.check_table()', 'PUBLIC: EXECUTE'),
    ('function retention.check_triggers()', 'PUBLIC: EXECUTE'),
    ('function retention.check_vacuum(interval)', 'PUBLIC: EXECUTE'),
    ('function retention.cleanup_tenant(uuid,boolean)', '-'),
    ('function retention.cutoff(timestamp with time zone,integer)', 'PUBLIC: EXECUTE'),
    ('function retention.deleted_since(timestamp with time zone)', 'PUBLIC: EXECUTE'),
    ('function retention.due(uuid,integer,integer)', 'PUBLIC: EXECUTE'),
    ('function retention.due_tenants(interval)', 'PUBLIC: EXECUTE'),
    ('function retention.executions()', 'PUBLIC: EXECUTE'),
    ('function retention.get_policy(uuid)', 'PUBLIC: EXECUTE'),
    ('function retention.has_cron()', 'PUBLIC: EXECUTE'),
    ('function retention.health()', 'PUBLIC: EXECUTE'),
    ('function retention.hold_walks()', '-'),
    ('function retention.is_due(uuid,timestamp with time zone,timestamp with time zone,tid)', 'PUBLIC: EXECUTE'),
    ('function retention.is_due(uuid,timestamp without time zone,timestamp without time zone,tid)', 'PUBLIC: EXECUTE'),
    ('function retention.job_command(text)', 'PUBLIC: EXECUTE'),
    ('function retention.job_name(text)', 'PUBLIC: EXECUTE'),
    ('function retention.last_complete_run(uuid,bigint)', 'PUBLIC: EXECUTE'),
    ('function retention.list_policies()', 'PUBLIC: EXECUTE'),
    ('function retention.lock_tenant(uuid)', 'PUBLIC: EXECUTE'),
    ('function retention.oldest_due(uuid,integer,integer)', 'PUBLIC: EXECUTE'),
    ('function retention.overdue_totals()', 'PUBLIC: EXECUTE'),
    ('function retention.patience()', 'PUBLIC: EXECUTE'),
    ('function retention.preview(uuid)', 'PUBLIC: EXECUTE'),
    ('function retention.raise_no_policy(uuid)', 'PUBLIC: EXECUTE'),
    ('function retention.referencing(regclass)', 'PUBLIC: EXECUTE'),
    ('function retention.remove_policy(uuid)', '-'),
    ('function retention.require_tenant(uuid)', 'PUBLIC: EXECUTE'),
    ('function retention.run_is_alive(bigint)', 'PUBLIC: EXECUTE'),
    ('function retention.run_status(bigint)', 'PUBLIC: EXECUTE'),
    ('function retention.schedule(text)', '-'),
    ('function retention.scheduled_jobs()', 'PUBLIC: EXECUTE'),
    ('function retention.set_policy(uuid,integer,boolean,integer,uuid)', '-'),
    ('function retention.setting(text)', 'PUBLIC: EXECUTE'),
    ('function retention.unschedule()', '-'),
    ('function retention.visible_setting(text)', 'PUBLIC: EXECUTE'),
    ('function retention.with_partitions(regclass)', 'PUBLIC: EXECUTE'),
    ('procedure retention.run(uuid,boolean,interval,integer,text,interval,integer)', '-'),
    ('schema retention', 'PUBLIC: USAGE'),
    ('sequence retention.run_history_id_seq', '-'),
    ('table public.execution_retention_policies', 'pg_monitor: SELECT'),
    ('table retention.run_history', 'pg_monitor: SELECT'),
    ('table retention.run_pruned', 'pg_monitor: SELECT'),
    ('table retention.run_tenant', 'pg_monitor: SELECT'),
    ('table retention.target', 'PUBLIC: SELECT'),
    ('view retention.history', 'PUBLIC: SELECT'),
    ('view retention.metrics', 'PUBLIC: SELECT'),
    ('view retention.progress', 'PUBLIC: SELECT'),
    ('view retention.scheduled_jobs', 'PUBLIC: SELECT'),
    ('view retention.status', 'PUBLIC: SELECT');
SELECT set_eq('SELECT name, who FROM granted', 'SELECT name, who FROM expected', 'who may do what with each object');
SELECT set_eq('SELECT DISTINCT owner FROM granted', ARRAY[current_user::text], 'all of it belongs to who has created the extension');
SELECT is(count(*), 0::bigint, 'no privilege on a single column')
FROM member m JOIN pg_attribute a ON m.classid = 'pg_class'::regclass AND a.attrelid = m.objid WHERE a.attacl IS NOT NULL;

-- Nothing runs with the rights of its owner.  What does has to stand here, with its reason.
CREATE TEMP TABLE definer (name text, reason text NOT NULL CHECK (reason <> ''));
SELECT set_eq($$SELECT m.name FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid WHERE p.prosecdef$$,
    'SELECT name FROM definer', 'SECURITY DEFINER');
SELECT set_eq($$SELECT m.name FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
        WHERE c.relkind = 'v' AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)$$,
    'SELECT name FROM definer', 'views that do not show what their caller may see');

-- What stands open to PUBLIC changes nothing: called by nobody in particular it is read-only, but for a lock.
SELECT set_eq($$SELECT e.name FROM expected e JOIN member m USING (name) JOIN pg_proc p ON p.oid = m.objid
        WHERE e.who ~ 'PUBLIC' AND p.provolatile = 'v'$$,
    ARRAY['function retention."check"()', 'function retention.check_schedule()', 'function retention.health()',
        'function retention.run_is_alive(bigint)', 'function retention.run_status(bigint)', 'function retention.lock_tenant(uuid)',
        'function retention.is_due(uuid,timestamp with time zone,timestamp with time zone,tid)',
        'function retention.is_due(uuid,timestamp without time zone,timestamp without time zone,tid)'],
    'what is VOLATILE and open to PUBLIC: it reads, or needs DELETE on executions');

-- Whoever may change policies holds up walks as long as the change takes; nobody does so with a trigger of his own.
CREATE ROLE retention_editor;
GRANT SELECT, INSERT, UPDATE, DELETE ON execution_retention_policies TO retention_editor;
SELECT lives_ok($$SET LOCAL ROLE retention_editor;
        INSERT INTO execution_retention_policies (tenant_id) VALUES ('00000000-0000-4000-8000-0000000000e1');
        UPDATE execution_retention_policies SET retention_days = 31 WHERE tenant_id = '00000000-0000-4000-8000-0000000000e1';
        DELETE FROM execution_retention_policies WHERE tenant_id = '00000000-0000-4000-8000-0000000000e1';
        RESET ROLE$$, 'a role without EXECUTE on hold_walks() changes policies');
SELECT is(count(*), 1::bigint, 'and runs that walk are held up meanwhile')
FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 7268 AND pid = pg_backend_pid() AND mode = 'RowExclusiveLock';
SELECT throws_ok($$SET LOCAL ROLE retention_editor;
        CREATE TEMP TABLE mine (i int);
        CREATE TRIGGER t BEFORE INSERT ON mine EXECUTE FUNCTION retention.hold_walks()$$,
    '42501', 'permission denied for function retention.hold_walks', 'the role puts it on no table of its own');

SELECT * FROM finish();
ROLLBACK;
