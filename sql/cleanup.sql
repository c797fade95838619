--
-- cleanup_old_executions(): what goes, what stays, what it says
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
CREATE SCHEMA ct;
CREATE FUNCTION ct.t(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
-- a summary as columns, without what differs from run to run
CREATE FUNCTION ct.flat(c integer, s jsonb)
RETURNS TABLE (deleted integer, batches integer, oldest timestamptz, newest timestamptz, kept bigint, more boolean, stop text, reason text)
LANGUAGE plpgsql AS $$
BEGIN
    IF c IS DISTINCT FROM (s ->> 'deleted')::integer THEN
        RAISE WARNING 'deleted_count is % but the summary says %', c, s ->> 'deleted';
    END IF;
    RETURN QUERY SELECT c, (s ->> 'batches')::integer, (s ->> 'oldest_deleted')::timestamptz, (s ->> 'newest_deleted')::timestamptz,
        (s ->> 'kept_by_minimum')::bigint, (s ->> 'has_more')::boolean, s ->> 'stop_reason', s ->> 'reason';
END $$;
CREATE FUNCTION ct.clean(n integer, days integer DEFAULT NULL, keep integer DEFAULT NULL, batch integer DEFAULT NULL)
RETURNS TABLE (deleted integer, batches integer, oldest timestamptz, newest timestamptz, kept bigint, more boolean, stop text, reason text)
LANGUAGE sql AS $$ SELECT f.* FROM cleanup_old_executions(ct.t(n), days, keep, batch) c, ct.flat(c.deleted_count, c.execution_summary) f $$;
-- the ids that are left, as ranges
CREATE FUNCTION ct.ids(n integer) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(CASE WHEN lo = hi THEN lo::text ELSE lo || '-' || hi END, ' ' ORDER BY lo), 'none')
    FROM (SELECT min(id) AS lo, max(id) AS hi FROM (
            SELECT id, id - row_number() OVER (ORDER BY id) AS g FROM executions WHERE tenant_id = ct.t(n)) a GROUP BY g) b
$$;
-- rows lo .. hi of tenant n, each a minute younger than the one before
CREATE FUNCTION ct.fill(n integer, lo integer, hi integer, start timestamptz DEFAULT '2020-01-01') RETURNS void LANGUAGE sql AS $$
    INSERT INTO executions SELECT i, ct.t(n), start + (i - lo) * interval '1 minute', start + (i - lo) * interval '1 minute'
    FROM generate_series(lo, hi) i
$$;
RESET client_min_messages;

--
-- No executions at all
--
SELECT * FROM ct.clean(1);
SELECT * FROM ct.clean(1, 0, 0, 1);
-- all of the summary, times aside
SELECT key, jsonb_typeof(value) AS type,
       CASE WHEN key NOT IN ('cutoff_date', 'duration_ms') THEN value END AS value
FROM cleanup_old_executions(ct.t(1)), jsonb_each(execution_summary) ORDER BY key COLLATE "C";
-- one row, always
SELECT count(*) FROM cleanup_old_executions(ct.t(1));
-- somebody else's rows are none of this tenant's
SELECT ct.fill(2, 1, 3);
SELECT * FROM ct.clean(1, 0, 0);
SELECT ct.ids(2);
TRUNCATE executions;

--
-- All executions old
--
SELECT ct.fill(1, 1, 200);
SELECT ct.fill(2, 1001, 1200);
SELECT key, jsonb_typeof(value) AS type,
       CASE WHEN key NOT IN ('cutoff_date', 'duration_ms') THEN value END AS value
FROM cleanup_old_executions(ct.t(1)), jsonb_each(execution_summary) ORDER BY key COLLATE "C";
SELECT ct.ids(1), ct.ids(2);
-- again: nothing to do, and it says why
SELECT * FROM ct.clean(1);
SELECT * FROM ct.clean(1, 90, 10);
SELECT * FROM ct.clean(1, 90, 0);
SELECT * FROM ct.clean(1, 90, 0);
SELECT ct.ids(1), ct.ids(2);
TRUNCATE executions;

--
-- What the call does not say comes from the policy, else from the settings
--
INSERT INTO execution_retention_policies (tenant_id, retention_days, min_executions_to_keep, is_enabled) VALUES
    (ct.t(1), 30, 5, true), (ct.t(2), 40, 7, false);
CREATE FUNCTION ct.asked(n integer, days integer DEFAULT NULL, keep integer DEFAULT NULL, batch integer DEFAULT NULL)
RETURNS TABLE (days integer, min integer, batch integer, cutoff_is_days_ago boolean)
LANGUAGE sql AS $$
    SELECT (s ->> 'retention_days')::integer, (s ->> 'min_to_keep')::integer, (s ->> 'batch_size')::integer,
           (s ->> 'cutoff_date')::timestamptz = now() - (s ->> 'retention_days')::integer * interval '24 hours'
    FROM cleanup_old_executions(ct.t(n), days, keep, batch) c(n, s)
$$;
SELECT * FROM ct.asked(1);
SELECT * FROM ct.asked(2);
SELECT * FROM ct.asked(3);
SELECT * FROM ct.asked(1, 60);
SELECT * FROM ct.asked(1, NULL, 60);
SELECT * FROM ct.asked(1, NULL, NULL, 60);
SELECT * FROM ct.asked(1, 0, 0, 1);
SELECT * FROM ct.asked(2, 1, 2, 3);
SET retention.default_retention_days = 10;
SET retention.default_min_executions_to_keep = 11;
SET retention.batch_size = 12;
SELECT * FROM ct.asked(1);
SELECT * FROM ct.asked(3);
SELECT * FROM ct.asked(3, 1, 2, 3);
RESET retention.default_retention_days;
RESET retention.default_min_executions_to_keep;
RESET retention.batch_size;
-- a policy of the same transaction counts
BEGIN;
UPDATE execution_retention_policies SET retention_days = 31 WHERE tenant_id = ct.t(1);
SELECT * FROM ct.asked(1);
ROLLBACK;
SELECT * FROM ct.asked(1);
-- a day is 24 hours, on both sides of a change to summer time
SET timezone = 'America/New_York';
SELECT bool_and(cutoff_is_days_ago) FROM generate_series(0, 400, 25) d, ct.asked(1, d);
SET timezone = 'UTC';
-- a disabled policy is used all the same: somebody asked by hand
SELECT ct.fill(2, 1, 20);
SELECT * FROM ct.clean(2);
-- a cleanup by hand does not move updated_at
SELECT updated_at = created_at AS untouched FROM execution_retention_policies WHERE tenant_id = ct.t(2);
TRUNCATE executions, execution_retention_policies;

--
-- Days and cutoff
--
SELECT ct.fill(1, 1, 5, now() - interval '100 days');
SELECT ct.fill(1, 6, 10, now() - interval '50 days');
SELECT ct.fill(1, 11, 15, now() - interval '10 days');
BEGIN;
SELECT deleted, batches, kept, more, stop, reason FROM ct.clean(1, 120, 0);
SELECT deleted, batches, kept, more, stop, reason FROM ct.clean(1, 90, 0);
SELECT ct.ids(1);
SELECT deleted, batches, kept, more, stop, reason FROM ct.clean(1, 30, 8);
SELECT ct.ids(1);
SELECT deleted, batches, kept, more, stop, reason FROM ct.clean(1, 30, 0);
SELECT ct.ids(1);
SELECT deleted, batches, kept, more, stop, reason FROM ct.clean(1, 0, 1);
SELECT ct.ids(1);
SELECT deleted, batches, kept, more, stop, reason FROM ct.clean(1, 0, 0);
SELECT ct.ids(1);
ROLLBACK;
TRUNCATE executions;
-- a row exactly as old as the cutoff stays; one a microsecond older goes
BEGIN;
INSERT INTO executions VALUES (1, ct.t(1), now() - interval '240 hours', NULL),
    (2, ct.t(1), now() - interval '240 hours 0.000001 seconds', NULL),
    (3, ct.t(1), NULL, now() - interval '240 hours'),
    (4, ct.t(1), NULL, now() - interval '240 hours 0.000001 seconds');
SELECT deleted, reason FROM ct.clean(1, 10, 0);
SELECT ct.ids(1);
-- 0 days: everything before now
SELECT deleted, reason FROM ct.clean(1, 0, 0);
INSERT INTO executions VALUES (5, ct.t(1), now(), now());
SELECT deleted, reason FROM ct.clean(1, 0, 0);
SELECT ct.ids(1);
COMMIT;
TRUNCATE executions;
-- the far ends of the calendar
INSERT INTO executions VALUES (1, ct.t(1), '-infinity', '2020-01-01'), (2, ct.t(1), '4713-01-01 BC', '2020-01-01'),
    (3, ct.t(1), '2020-01-01', 'infinity'), (4, ct.t(1), 'infinity', '-infinity'), (5, ct.t(1), '294276-12-31', '2020-01-01'),
    (6, ct.t(1), NULL, '-infinity'), (7, ct.t(1), NULL, 'infinity'), (8, ct.t(1), now() + interval '1 year', '2020-01-01'),
    (9, ct.t(1), '2020-01-01', now() + interval '1 year');
BEGIN;
SELECT * FROM ct.clean(1, 90, 0);
SELECT ct.ids(1);
ROLLBACK;
-- future rows are the newest of all: they use up the minimum
BEGIN;
SELECT * FROM ct.clean(1, 90, 6);
SELECT ct.ids(1);
ROLLBACK;
-- more days than there is calendar: nothing is that old, not even -infinity
SELECT * FROM ct.clean(1, 2147483647, 0);
SELECT * FROM ct.clean(1, 2147483647, 2147483647, 1000000);
SELECT * FROM ct.clean(1, 3000000, 0);
SELECT execution_summary ->> 'cutoff_date' AS cutoff FROM cleanup_old_executions(ct.t(1), 2147483647);
-- a cutoff before Christ is a cutoff like any other
SELECT deleted, oldest, newest FROM ct.clean(1, 2200000, 0, 1);
SELECT ct.ids(1);
TRUNCATE executions;

--
-- The minimum
--
SELECT ct.fill(1, 1, 10);
SELECT ct.fill(1, 11, 13, now() - interval '1 hour');
BEGIN; SELECT * FROM ct.clean(1, 90, 0); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 2); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 3); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 4); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 12); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 13); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 14); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 2147483647); SELECT ct.ids(1); ROLLBACK;
TRUNCATE executions;
-- 150 rows of one instant, a minimum of 100: 50 go, whatever the batch size
CREATE FUNCTION ct.ties(leg text, batch integer, keep integer DEFAULT 100, days integer DEFAULT 90)
RETURNS TABLE (deleted integer, left_over bigint, kept bigint, more boolean, stop text)
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM executions;
    INSERT INTO executions
    SELECT i, ct.t(1), CASE leg WHEN 'started' THEN at WHEN 'both' THEN CASE WHEN i % 2 = 0 THEN at END END,
           CASE leg WHEN 'started' THEN NULL ELSE at END
    FROM generate_series(1, 150) i, (SELECT timestamptz '2020-01-01' AS at) a;
    RETURN QUERY SELECT c.deleted, (SELECT count(*) FROM executions), c.kept, c.more, c.stop
        FROM ct.clean(1, days, keep, batch) c;
    -- of a function's own snapshot: count again
    RETURN QUERY SELECT NULL::integer, count(*), NULL::bigint, NULL::boolean, 'afterwards' FROM executions;
END $$;
SELECT leg, batch, t.deleted, t.left_over, t.kept, t.more, t.stop
FROM unnest(ARRAY['started', 'never started', 'both']) WITH ORDINALITY l(leg, n), unnest(ARRAY[1, 7, 49, 50, 51, 1000]) batch,
     ct.ties(leg, batch) t
WHERE t.stop = 'afterwards' OR t.deleted <> 50 OR t.kept <> 100 OR t.more OR t.stop <> 'done'
ORDER BY n, batch, t.stop;
-- ... and the extremes
SELECT keep, t.left_over FROM unnest(ARRAY[0, 1, 149, 150, 151]) keep, ct.ties('both', 10, keep) t WHERE t.stop = 'afterwards' ORDER BY keep;
TRUNCATE executions;
-- equal times at the boundary, with others on both sides; three times as many as a batch takes
INSERT INTO executions SELECT i, ct.t(1), '2020-01-01', NULL FROM generate_series(1, 10) i;
INSERT INTO executions SELECT i, ct.t(1), CASE WHEN i % 3 > 0 THEN timestamptz '2020-01-02' END, '2020-01-02' FROM generate_series(11, 40) i;
INSERT INTO executions SELECT i, ct.t(1), NULL, '2020-01-03' FROM generate_series(41, 50) i;
BEGIN; SELECT * FROM ct.clean(1, 90, 25, 10); SELECT started_at IS NULL AS never_started, count(*) > 0 AS any, min(coalesce(started_at, created_at)) FROM executions GROUP BY 1 ORDER BY 1; SELECT count(*), count(*) FILTER (WHERE id > 40) AS newest FROM executions; ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 10, 10); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 40, 4); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 5, 7); SELECT count(*), min(id) > 40 AS newest FROM executions; ROLLBACK;
-- a wall of equal times in the middle, wider than the batch
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 3); SELECT ct.ids(1); ROLLBACK;
TRUNCATE executions;

--
-- Rows that never started, and rows of unknown age
--
INSERT INTO executions SELECT i, ct.t(1), CASE WHEN i % 2 = 0 THEN timestamptz '2020-01-01' + i * interval '1 day' END,
    timestamptz '2020-01-01' + i * interval '1 day' FROM generate_series(1, 20) i;
INSERT INTO executions SELECT i, ct.t(1), NULL, NULL FROM generate_series(21, 25) i;
BEGIN; SELECT * FROM ct.clean(1, 90, 6, 4); SELECT ct.ids(1); ROLLBACK;
-- rows of unknown age never go, and they do not count among the newest
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 4); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 1); SELECT ct.ids(1); ROLLBACK;
-- nothing else there
DELETE FROM executions WHERE id <= 20;
SELECT * FROM ct.clean(1, 0, 0);
SELECT ct.ids(1);
TRUNCATE executions;
-- what counts is started_at where there is one, however old or new created_at is
INSERT INTO executions VALUES
    (1, ct.t(1), '2020-01-01', now()), (2, ct.t(1), now() - interval '1 hour', '2020-01-01'), (3, ct.t(1), NULL, '2020-01-01'),
    (4, ct.t(1), NULL, now() - interval '1 hour'), (5, ct.t(1), '2020-01-01', NULL), (6, ct.t(1), now() - interval '1 hour', NULL);
SELECT * FROM ct.clean(1, 90, 0);
SELECT ct.ids(1);
TRUNCATE executions;

--
-- Batches
--
-- what each statement deletes, however it goes about it: never more than a batch, oldest first
CREATE TABLE ct.seen (n serial, rows integer, oldest timestamptz, newest timestamptz);
CREATE FUNCTION ct.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ct.seen (rows, oldest, newest)
    SELECT count(*), min(coalesce(started_at, created_at)), max(coalesce(started_at, created_at)) FROM gone HAVING count(*) > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER see AFTER DELETE ON executions REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION ct.see();
SELECT ct.fill(1, 1, 10);
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 1); SELECT rows, count(*) FROM ct.seen GROUP BY rows ORDER BY rows; ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 3); SELECT max(rows), sum(rows) FROM ct.seen; ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 5); SELECT max(rows), sum(rows) FROM ct.seen; ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 10); SELECT max(rows), sum(rows) FROM ct.seen; ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 11); SELECT max(rows), sum(rows) FROM ct.seen; ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 1000000); SELECT max(rows), sum(rows) FROM ct.seen; ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 4, 4); SELECT max(rows), sum(rows) FROM ct.seen; ROLLBACK;
TRUNCATE executions;
-- 30 equal times in the middle and batches of 4
INSERT INTO executions SELECT i, ct.t(1), CASE WHEN i % 2 = 0 THEN at END, at
FROM (SELECT i, timestamptz '2020-01-01' + CASE WHEN i BETWEEN 11 AND 40 THEN 25 ELSE i END * interval '1 minute' AS at
      FROM generate_series(1, 50) i) s;
BEGIN;
SELECT * FROM ct.clean(1, 90, 0, 4);
SELECT max(rows) <= 4 AS never_more_than_a_batch, sum(rows) FROM ct.seen;
SELECT count(*) AS out_of_order FROM (SELECT oldest, max(newest) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS so_far FROM ct.seen) s
WHERE oldest < so_far - interval '4 minutes';
ROLLBACK;
BEGIN;
SELECT * FROM ct.clean(1, 90, 20, 4);
SELECT max(rows) <= 4 AS never_more_than_a_batch, sum(rows) FROM ct.seen;
SELECT count(*), count(*) FILTER (WHERE id > 40) AS newest FROM executions;
ROLLBACK;
DROP TRIGGER see ON executions;
TRUNCATE executions;
-- a limit on the batches of one call
SELECT ct.fill(1, 1, 20);
SET retention.max_batches_per_call = 2;
SELECT * FROM ct.clean(1, 90, 5, 5);
SELECT ct.ids(1);
SELECT * FROM ct.clean(1, 90, 5, 5);
SELECT ct.ids(1);
SELECT * FROM ct.clean(1, 90, 5, 5);
-- exactly as many as there is work for: there is no more
SELECT * FROM ct.clean(1, 90, 1, 2);
SELECT * FROM ct.clean(1, 90, 0, 1);
TRUNCATE executions;
SELECT ct.fill(1, 1, 10);
SELECT * FROM ct.clean(1, 90, 6, 2);
SELECT ct.ids(1);
RESET retention.max_batches_per_call;
TRUNCATE executions;
-- a call that would run into statement_timeout stops before it does: after a first batch of a third of it
CREATE FUNCTION ct.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(8); RETURN OLD; END $$;
CREATE TRIGGER slow BEFORE DELETE ON executions FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION ct.slow();
SELECT ct.fill(1, 1, 1000);
SET statement_timeout = '24s';
SELECT deleted BETWEEN 1 AND 999 AS some, batches > 0 AS batches, more, stop, reason FROM ct.clean(1, 90, 0, 2);
RESET statement_timeout;
SELECT count(*) BETWEEN 1 AND 999 AS some_left, min(id) > 1 AS oldest_first, max(id) - min(id) + 1 = count(*) AS no_holes FROM executions;
DROP TRIGGER slow ON executions;
TRUNCATE executions;

--
-- Arguments
--
CREATE FUNCTION ct.attempt(statement text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    hint text;
    result text;
BEGIN
    EXECUTE statement INTO result;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN format('%s: %s%s', SQLSTATE, SQLERRM, ' / ' || nullif(hint, ''));
END $$;
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(NULL)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(NULL, 1, 1, 1)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), -1)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), -2147483648)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, -1)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, -2147483648)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 100, 0)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 100, -1)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 100, 1000001)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 100, 2147483647)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 100, 1000000)');
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 0, 0, 1)');
-- as it looks in psql
SELECT * FROM cleanup_old_executions(ct.t(1), -1);
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 100, 0);
SELECT * FROM cleanup_old_executions('no uuid');
\set VERBOSITY terse
SELECT * FROM cleanup_old_executions();
\set VERBOSITY default
-- by name, in any order
SELECT ct.fill(1, 1, 10);
SELECT deleted_count FROM cleanup_old_executions(p_min_executions_to_keep => 9, p_tenant_id => ct.t(1));
SELECT deleted_count FROM cleanup_old_executions(p_tenant_id => ct.t(1), p_batch_size => 2, p_retention_days => 90, p_min_executions_to_keep => 8);
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), p_min_executions_to_keep => 7);
-- the settings have limits too
SET retention.batch_size = 0;
SET retention.batch_size = 1000001;
SET retention.default_retention_days = -1;
SET retention.default_min_executions_to_keep = -1;
SET retention.max_batches_per_call = -1;
-- (with a unit, later servers say it in other words)
SELECT left(ct.attempt('SET retention.lock_timeout = -1'), 5);
SET retention.no_such_setting = 1;

--
-- Ways to call it
--
TRUNCATE executions;
SELECT ct.fill(1, 1, 100);
SELECT (cleanup_old_executions(ct.t(1), 90, 99)).deleted_count;
SELECT deleted_count, jsonb_typeof(execution_summary) FROM cleanup_old_executions(ct.t(1), 90, 98);
SELECT c.n FROM cleanup_old_executions(ct.t(1), 90, 97) AS c(n, s);
SELECT ROW(c.*) IS NOT NULL AS row FROM cleanup_old_executions(ct.t(1), 90, 96) c;
SELECT i, (SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, i)) FROM unnest(ARRAY[95, 94, 92]) i;
SELECT i, c.deleted_count FROM unnest(ARRAY[91, 90, 88]) WITH ORDINALITY u(i, n), LATERAL cleanup_old_executions(ct.t(1), 90, i) c ORDER BY n;
-- every tenant that has a policy
SELECT ct.fill(2, 201, 220), ct.fill(3, 301, 320);
INSERT INTO execution_retention_policies (tenant_id, min_executions_to_keep) VALUES (ct.t(1), 87), (ct.t(2), 15), (ct.t(4), 0);
SELECT right(p.tenant_id::text, 1) AS tenant, c.deleted_count, c.execution_summary ->> 'reason' AS reason
FROM execution_retention_policies p, LATERAL cleanup_old_executions(p.tenant_id) c WHERE p.is_enabled ORDER BY 1;
SELECT ct.ids(1), ct.ids(2), ct.ids(3);
-- in a WITH, and with a LIMIT that does not want the row
WITH c AS MATERIALIZED (SELECT * FROM cleanup_old_executions(ct.t(1), 90, 86)) SELECT deleted_count FROM c;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 85) LIMIT 1;
-- prepared, often enough for a generic plan
PREPARE clean(uuid, int, int) AS SELECT deleted_count FROM cleanup_old_executions($1, $2, $3);
SELECT ct.ids(1);
EXECUTE clean(ct.t(1), 90, 84); EXECUTE clean(ct.t(1), 90, 83); EXECUTE clean(ct.t(1), 90, 82); EXECUTE clean(ct.t(1), 90, 81);
EXECUTE clean(ct.t(1), 90, 80); EXECUTE clean(ct.t(1), 90, 79); EXECUTE clean(ct.t(2), 90, 14); EXECUTE clean(ct.t(3), 90, 19);
SELECT ct.ids(1), ct.ids(2), ct.ids(3);
DEALLOCATE clean;
-- the kept plans survive a change of the table
ALTER TABLE executions ADD COLUMN payload text;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 78);
ALTER TABLE executions DROP COLUMN payload;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 77);
ALTER TABLE executions ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC';
SELECT deleted_count, execution_summary ->> 'newest_deleted' AS newest FROM cleanup_old_executions(ct.t(1), 90, 76);
ALTER TABLE executions ALTER created_at TYPE timestamptz USING created_at AT TIME ZONE 'UTC';
VACUUM FULL executions;
REINDEX TABLE executions;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 75);
DISCARD PLANS;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 74);
-- in DO, in a function, in a procedure that commits
DO $$
DECLARE n integer;
BEGIN
    SELECT deleted_count INTO n FROM cleanup_old_executions(ct.t(1), 90, 73);
    RAISE NOTICE 'deleted %', n;
END $$;
CREATE FUNCTION ct.wrapped(keep integer) RETURNS integer LANGUAGE sql AS
$$ SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, keep) $$;
SELECT ct.wrapped(72);
CREATE PROCEDURE ct.stepwise() LANGUAGE plpgsql AS $$
DECLARE n integer;
BEGIN
    FOR keep IN REVERSE 71..69 LOOP
        SELECT deleted_count INTO n FROM cleanup_old_executions(ct.t(1), 90, keep);
        COMMIT;
        RAISE NOTICE 'deleted %', n;
    END LOOP;
END $$;
CALL ct.stepwise();
SELECT count(*) FROM executions WHERE tenant_id = ct.t(1);
-- in a trigger: a changed policy is put into effect at once
CREATE FUNCTION ct.at_once() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE n integer;
BEGIN
    SELECT deleted_count INTO n FROM cleanup_old_executions(NEW.tenant_id);
    RAISE NOTICE 'deleted %', n;
    RETURN NULL;
END $$;
CREATE TRIGGER at_once AFTER UPDATE ON execution_retention_policies FOR EACH ROW EXECUTE FUNCTION ct.at_once();
UPDATE execution_retention_policies SET min_executions_to_keep = 60 WHERE tenant_id = ct.t(1);
DROP TRIGGER at_once ON execution_retention_policies;
-- called while it runs, for another tenant
CREATE FUNCTION ct.nested() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.tenant_id = ct.t(1) THEN
        PERFORM cleanup_old_executions(ct.t(2), 90, 10, 1);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER nested AFTER DELETE ON executions FOR EACH ROW EXECUTE FUNCTION ct.nested();
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 50, 3);
SELECT ct.ids(1), ct.ids(2);
DROP TRIGGER nested ON executions;
-- read only
BEGIN READ ONLY;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM cleanup_old_executions(ct.t(9), 90, 0);
\echo :SQLSTATE
ROLLBACK;
-- the higher isolation levels
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 45, 2);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 40, 2);
COMMIT;
SELECT ct.ids(1);
-- what the calling transaction has done counts
BEGIN;
INSERT INTO executions SELECT i, ct.t(1), now(), now() FROM generate_series(901, 905) i;
UPDATE executions SET started_at = '2019-01-01' WHERE id = 100;
DELETE FROM executions WHERE id = 99;
SELECT id FROM executions WHERE id = 98 FOR UPDATE;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 5, 3);
SELECT ct.ids(1);
ROLLBACK;
SELECT ct.ids(1);

--
-- Rollback restores everything
--
SELECT md5(string_agg(e::text, '|' ORDER BY id)) AS before FROM executions e \gset
BEGIN;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 0, 7);
SELECT ct.ids(1);
ROLLBACK;
SELECT md5(string_agg(e::text, '|' ORDER BY id)) = :'before' AS all_back FROM executions e;
-- a savepoint, and on with the same transaction
BEGIN;
SAVEPOINT s;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 0, 7);
ROLLBACK TO s;
SELECT md5(string_agg(e::text, '|' ORDER BY id)) = :'before' AS all_back FROM executions e;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 30, 7);
RELEASE s;
COMMIT;
SELECT ct.ids(1);
-- an exception block
DO $$
BEGIN
    PERFORM cleanup_old_executions(ct.t(1), 90, 0, 7);
    RAISE EXCEPTION 'changed my mind';
EXCEPTION WHEN raise_exception THEN
    RAISE NOTICE '%', SQLERRM;
END $$;
SELECT ct.ids(1);

--
-- Triggers and foreign keys of the table
--
-- a trigger that keeps rows: the others go, the call comes to an end, the count is right
CREATE FUNCTION ct.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN OLD.id % 3 = 0 THEN NULL ELSE OLD END; END $$;
CREATE TRIGGER keep BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION ct.keep();
TRUNCATE executions;
SELECT ct.fill(1, 1, 12);
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 1); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 0, 2); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 0); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT * FROM ct.clean(1, 90, 4, 2); SELECT ct.ids(1); ROLLBACK;
-- ... of rows of one instant as well, more than a batch takes: five stay, and those that the trigger keeps
TRUNCATE executions;
INSERT INTO executions SELECT i, ct.t(1), '2020-01-01', NULL FROM generate_series(1, 20) i;
BEGIN; SELECT deleted, kept, more, stop FROM ct.clean(1, 90, 0, 4); SELECT ct.ids(1); ROLLBACK;
BEGIN; SELECT deleted < 16 AND kept = 5 AND NOT more AS right FROM ct.clean(1, 90, 5, 4); SELECT count(*) >= 5 AS five, count(*) FILTER (WHERE id % 3 = 0) AS kept FROM executions; ROLLBACK;
TRUNCATE executions;
SELECT ct.fill(1, 1, 12);
-- ... all of them
CREATE OR REPLACE FUNCTION ct.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
SELECT * FROM ct.clean(1, 90, 0, 5);
SELECT ct.ids(1);
DROP TRIGGER keep ON executions;
-- a trigger that fails: nothing is lost
CREATE OR REPLACE FUNCTION ct.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.id = 7 THEN RAISE EXCEPTION 'not row 7'; END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER keep BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION ct.keep();
SELECT * FROM ct.clean(1, 90, 0, 2);
SELECT ct.ids(1);
DROP TRIGGER keep ON executions;
-- the call works after an error as before
SELECT * FROM ct.clean(1, 90, 10, 2);
-- a foreign key with ON DELETE CASCADE takes the details along
CREATE TABLE ct.step (execution integer REFERENCES executions ON DELETE CASCADE, n integer);
CREATE INDEX ON ct.step (execution);
INSERT INTO ct.step SELECT id, n FROM executions, generate_series(1, 3) n;
SELECT * FROM ct.clean(1, 90, 8, 1);
SELECT count(*), min(execution) FROM ct.step;
-- one without: everything is kept, and the error says what is in the way
DROP TABLE ct.step;
CREATE TABLE ct.step (execution integer REFERENCES executions);
INSERT INTO ct.step VALUES (9);
SELECT * FROM ct.clean(1, 90, 0, 1);
\echo :SQLSTATE
SELECT ct.ids(1);
-- the row that is referenced is protected: no trouble
SELECT * FROM ct.clean(1, 90, 4, 1);
-- deferred, and put right before the end
ALTER TABLE ct.step ALTER CONSTRAINT step_execution_fkey DEFERRABLE INITIALLY DEFERRED;
BEGIN;
SELECT * FROM ct.clean(1, 90, 3, 1);
DELETE FROM ct.step;
COMMIT;
SELECT ct.ids(1);
DROP TABLE ct.step;

--
-- Privileges
--
CREATE ROLE ct_owner;
CREATE ROLE ct_reader;
CREATE ROLE ct_cleaner;
CREATE ROLE ct_nobody;
GRANT USAGE ON SCHEMA ct TO ct_owner, ct_reader, ct_cleaner, ct_nobody;
TRUNCATE executions;
SELECT ct.fill(1, 1, 10);
SET ROLE ct_nobody;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION cleanup_old_executions TO ct_owner, ct_reader, ct_cleaner;
GRANT SELECT ON executions TO ct_reader;
SET ROLE ct_reader;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
-- neither when there would be nothing to do
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 100);
\echo :SQLSTATE
SELECT * FROM cleanup_old_executions(ct.t(9), 90, 0);
\echo :SQLSTATE
RESET ROLE;
SELECT ct.ids(1);
-- DELETE alone is not enough to find the rows
GRANT DELETE ON executions TO ct_cleaner;
SET ROLE ct_cleaner;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 5);
\echo :SQLSTATE
RESET ROLE;
GRANT SELECT ON executions TO ct_cleaner;
SET ROLE ct_cleaner;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 5);
-- what it is not told it has to read from the policies
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), NULL, 4);
\echo :SQLSTATE
-- a role cannot raise what is deleted by default
SET retention.default_retention_days = 0;
SET retention.default_min_executions_to_keep = 0;
RESET ROLE;
GRANT SELECT ON execution_retention_policies TO ct_cleaner;
SET ROLE ct_cleaner;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), NULL, 4);
RESET ROLE;
SELECT ct.ids(1);
-- an owner who lost the privilege
ALTER TABLE executions OWNER TO ct_owner;
REVOKE DELETE ON executions FROM ct_owner;
SET ROLE ct_owner;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
RESET ROLE;
GRANT DELETE ON executions TO ct_owner;
-- triggers are the owner's code: run as the owner when a superuser cleans, as the caller otherwise
CREATE TABLE ct.who (n serial, role name, path text);
GRANT INSERT, SELECT ON ct.who TO PUBLIC;
GRANT USAGE ON SEQUENCE ct.who_n_seq TO PUBLIC;
CREATE FUNCTION ct.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO ct.who (role, path) VALUES (current_user, current_setting('search_path')); RETURN OLD; END $$;
CREATE TRIGGER note BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION ct.note();
SELECT current_user AS me \gset
TRUNCATE executions;
SELECT ct.fill(1, 1, 10);
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 8, 1);
SELECT current_user = :'me' AS myself_again, current_setting('search_path') AS search_path;
SET ROLE ct_owner;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 7, 1);
RESET ROLE;
SET ROLE ct_cleaner;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 6, 1);
RESET ROLE;
SELECT role, path FROM ct.who ORDER BY n;
-- after an error in there, too
CREATE OR REPLACE FUNCTION ct.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'as %', current_user; END $$;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 5, 1);
SELECT current_user = :'me' AS myself_again, current_setting('search_path') AS search_path;
BEGIN;
SAVEPOINT s;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 5, 1);
ROLLBACK TO s;
SELECT current_user = :'me' AS myself_again, current_setting('search_path') AS search_path;
COMMIT;
-- and it cannot take back the rights of the superuser
CREATE OR REPLACE FUNCTION ct.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN OLD; END $$;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 5, 1);
\echo :SQLSTATE
CREATE OR REPLACE FUNCTION ct.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RESET SESSION AUTHORIZATION; RETURN OLD; END $$;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 5, 1);
\echo :SQLSTATE
DROP TRIGGER note ON executions;
-- nor by waiting for the end of the transaction
CREATE OR REPLACE FUNCTION ct.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO ct.who (role, path) VALUES (current_user, 'deferred'); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER note AFTER DELETE ON executions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ct.note();
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 5, 1);
SELECT role FROM ct.who WHERE path = 'deferred' ORDER BY n;
DROP TRIGGER note ON executions;
-- the settings of the session are as they were
SELECT name, setting FROM pg_settings
WHERE name IN ('lock_timeout', 'row_security', 'enable_seqscan', 'enable_sort', 'plan_cache_mode', 'jit', 'search_path') AND source <> 'default' ORDER BY name;
-- a cleaner sees what row-level security lets it see, and that is all it cleans and counts
CREATE FUNCTION ct.mine(uuid, integer) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $2 % 2 = 0 $$;
CREATE POLICY even ON executions TO ct_cleaner USING (ct.mine(tenant_id, id));
ALTER TABLE executions ENABLE ROW LEVEL SECURITY;
TRUNCATE executions;
SELECT ct.fill(1, 1, 20);
SET ROLE ct_cleaner;
SELECT * FROM ct.clean(1, 90, 4, 3);
\echo :SQLSTATE
RESET ROLE;
SELECT ct.ids(1);
ALTER TABLE executions DISABLE ROW LEVEL SECURITY;
DROP POLICY even ON executions;
ALTER TABLE executions OWNER TO CURRENT_USER;

--
-- Names: nothing on the search_path gets between, and the table's own triggers find their schema
--
SELECT ct.ids(1);
CREATE SCHEMA trap;
CREATE TABLE trap.executions (LIKE public.executions);
INSERT INTO trap.executions SELECT * FROM public.executions;
CREATE FUNCTION trap.lt(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
CREATE OPERATOR trap.< (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.lt);
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz 'infinity' $$;
SET search_path = trap, pg_catalog, public;
SELECT deleted_count FROM public.cleanup_old_executions(ct.t(1), 90, 9);
RESET search_path;
SELECT count(*) FROM trap.executions;
SELECT ct.ids(1);
CREATE TABLE audit (id integer);
CREATE FUNCTION unqualified() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (OLD.id); RETURN OLD; END $$;
CREATE TRIGGER unqualified BEFORE DELETE ON executions FOR EACH ROW EXECUTE FUNCTION unqualified();
SET search_path = trap;
SELECT deleted_count FROM public.cleanup_old_executions(ct.t(1), 90, 7);
RESET search_path;
SELECT count(*) FROM audit;
DROP TRIGGER unqualified ON executions;
DROP TABLE audit;
DROP FUNCTION unqualified;
SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
RESET client_min_messages;

--
-- When something is missing
--
BEGIN;
DROP INDEX idx_executions_retention_cleanup;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
ROLLBACK;
BEGIN;
DROP INDEX idx_executions_null_started_at;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
ROLLBACK;
-- under another name it serves as well
BEGIN;
ALTER INDEX idx_executions_retention_cleanup RENAME TO other;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 6);
ROLLBACK;
BEGIN;
ALTER TABLE executions DROP COLUMN tenant_id;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
ROLLBACK;
BEGIN;
ALTER TABLE executions RENAME COLUMN started_at TO begun_at;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
ROLLBACK;
-- not even when an index of your own would serve the other column: what started today might go by its created_at
BEGIN;
CREATE INDEX own ON executions (tenant_id, created_at);
UPDATE executions SET started_at = now();
ALTER TABLE executions RENAME COLUMN started_at TO begun_at;
SELECT ct.attempt('SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 0)') ~ '^(42703|55000):' AS refused;
SELECT ct.ids(1);
ROLLBACK;
BEGIN;
DROP TABLE executions;
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
ROLLBACK;
-- nothing happened
SELECT ct.ids(1);
SELECT * FROM ct.clean(1, 90, 6);
-- renamed and replaced: the new table is not cleaned before somebody says so, nor is the old one
ALTER TABLE executions RENAME TO executions_2020;
CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
SELECT ct.fill(1, 101, 110);
SELECT * FROM cleanup_old_executions(ct.t(1), 90, 0);
\echo :SQLSTATE
SELECT count(*) FROM executions_2020;
SELECT count(*) FROM executions;
-- the index names are taken by the old table
SELECT retention.attach();
\echo :SQLSTATE
DROP INDEX idx_executions_retention_cleanup, idx_executions_null_started_at;
SELECT retention.attach();
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 2);
SELECT count(*) FROM executions_2020;
SELECT count(*) FROM executions;
-- moved to another schema: it is the same table
ALTER TABLE executions SET SCHEMA ct;
GRANT SELECT, DELETE ON ct.executions TO ct_cleaner;
SELECT deleted_count FROM cleanup_old_executions(ct.t(1), 90, 1);
SELECT count(*) FROM ct.executions;


--
-- Settings made before the library is loaded are no way around their limits
--
\c -
\set SHOW_CONTEXT never
SET ROLE ct_cleaner;
SET retention.default_retention_days = 0;
SET retention.default_min_executions_to_keep = 0;
SET retention.batch_size = 7;
SELECT execution_summary -> 'retention_days' AS days, execution_summary -> 'min_to_keep' AS min, execution_summary -> 'batch_size' AS batch
FROM cleanup_old_executions(ct.t(9));
RESET ROLE;

SET client_min_messages = warning;
DROP EXTENSION retention;
DROP TABLE executions_2020;
DROP SCHEMA ct CASCADE;
DROP ROLE ct_owner, ct_reader, ct_cleaner, ct_nobody;
