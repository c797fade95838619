--
-- cleanup_old_executions() against an oracle in plain SQL: hundreds of random
-- cases over days, minimum, batch size, ties and NULLs, in each shape of table.
-- What the oracle says: rank the tenant's rows of known age from the newest;
-- what is older than the cutoff and ranks behind the minimum goes.
--
-- Another seed: PGOPTIONS='-c oracle.seed=42'; more cases: -c oracle.cases=1000.
--
BEGIN;
SET client_min_messages = warning;
-- neither UTC nor without summer time, so that a conversion in the wrong place shows
SET timezone = 'America/New_York';
CREATE SCHEMA oracle;
CREATE FUNCTION oracle.option(name text, fallback numeric) RETURNS numeric LANGUAGE sql AS
$$ SELECT coalesce(nullif(current_setting('oracle.' || name, true), '')::numeric, fallback) $$;
SELECT diag(format('seed %s, %s cases for each shape', oracle.option('seed', 20240229), oracle.option('cases', 100)));
-- counts, where the cutoff or the minimum did something in particular, so that the cases are known to be worth something
CREATE TABLE oracle.tally (shape text, deleted bigint, kept_by_minimum bigint, split_tie boolean, stopped boolean, never_started_gone boolean, unknown boolean);
-- the rows as they were, with the oracle's verdict
CREATE UNLOGGED TABLE oracle.before (id integer, mine boolean, eff timestamptz, gone boolean, kept boolean, line text);

-- A random choice among a few
CREATE FUNCTION oracle.pick(VARIADIC anyarray) RETURNS anyelement LANGUAGE sql VOLATILE AS
$$ SELECT $1[1 + floor(random() * array_length($1, 1))::integer] $$;

-- Is the column there, and how is a value of it read as a timestamptz?
CREATE FUNCTION oracle.as_timestamptz(rel regclass, col name) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT CASE WHEN atttypid = 'timestamp'::regtype THEN format('(%I AT TIME ZONE ''UTC'')', attname)
                            ELSE quote_ident(attname) END
        FROM pg_attribute WHERE attrelid = rel AND attname = col AND NOT attisdropped), 'NULL::timestamptz')
$$;

-- One case.  NULL when all is well, else what is wrong.
CREATE FUNCTION oracle.one_case(shape text, rel regclass) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    me      uuid := 'aaaaaaaa-0000-4000-8000-000000000001';
    other   uuid := 'aaaaaaaa-0000-4000-8000-000000000002';
    rows    integer := CASE WHEN random() < 0.1 THEN oracle.pick(0, 1, 2, 5) ELSE oracle.pick(20, 40, 60, 90) END;
    days    integer := CASE WHEN random() < 0.05 THEN oracle.pick(30, 100000000) ELSE oracle.pick(0, 1, 2, 3, 4, 5, 7) END;
    keep    integer := CASE WHEN random() < 0.2 THEN oracle.pick(0, 0, 1, 100, 2147483647) ELSE floor(random() * rows * 0.8) END;
    batch   integer := oracle.pick(1, 2, 3, 4, 5, 7, 10, 20, 100, 1000);
    grain   integer := oracle.pick(1, 2, 3, 4, 5, 8, 12, 40, 100);   -- different times
    nulls_s float8  := oracle.pick(0.0, 0.1, 0.3, 0.5, 0.9, 1.0)::float8;
    nulls_c float8  := oracle.pick(0.0, 0.0, 0.1, 0.5)::float8;
    close   integer := oracle.pick(1, 1, 1, 2, 3);                  -- times one microsecond apart
    weird   float8  := oracle.pick(0.0, 0.0, 0.05)::float8;
    limited integer := CASE WHEN random() < 0.25 THEN oracle.pick(1, 2, 3) ELSE 0 END;
    s_expr  text := oracle.as_timestamptz(rel, 'started_at');
    c_expr  text := oracle.as_timestamptz(rel, 'created_at');
    cols    text[] := ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = rel AND attname IN ('started_at', 'created_at') ORDER BY attname);
    cutoff  timestamptz;
    case_id text;
    c       record;
    s       jsonb;
    want    record;
    have    record;
    calls   integer := 0;
    total   bigint := 0;
    rest    bigint;
    ties    boolean;
    nothing boolean;
    never   boolean;
BEGIN
    case_id := format('shape %s, days %s, minimum %s, batch %s, rows %s, grain %s, close %s, null started %s, null created %s, odd %s, max_batches %s',
        shape, days, keep, batch, rows, grain, close, nulls_s, nulls_c, weird, limited);
    -- days are 24 hours; days without end reach no row at all
    cutoff := CASE WHEN days = 100000000 THEN '-infinity' ELSE now() - days * interval '24 hours' END;

    EXECUTE format('DELETE FROM %s', rel);
    -- times on a grid over 10 days, in quarter days, so that rows lie exactly on the cutoff too; some in the future
    CREATE TEMP TABLE new_row ON COMMIT DROP AS
    SELECT i AS id, CASE WHEN random() < 0.75 THEN me ELSE other END AS tenant_id,
           CASE WHEN random() < nulls_s THEN NULL ELSE t END AS started_at,
           CASE WHEN random() < nulls_c THEN NULL WHEN random() < 0.5 THEN t ELSE t2 END AS created_at
    FROM (SELECT i, CASE WHEN random() < weird THEN oracle.pick('infinity'::timestamptz, '-infinity')
                    ELSE now() + interval '12 hours' - floor(random() * grain) * interval '240 hours' / grain
                         + floor(random() * close) * interval '1 microsecond' END AS t,
                 now() + interval '12 hours' - floor(random() * grain) * interval '240 hours' / grain AS t2
          FROM generate_series(1, rows) i OFFSET 0) r;
    EXECUTE format('INSERT INTO %s (id, tenant_id%s) SELECT id, tenant_id%s FROM new_row', rel,
        (SELECT string_agg(', ' || quote_ident(u), '' ORDER BY u) FROM unnest(cols) u),
        (SELECT string_agg(', ' || CASE WHEN oracle.as_timestamptz(rel, u::name) ~ 'UTC' THEN format('%I AT TIME ZONE ''UTC''', u) ELSE quote_ident(u) END, '' ORDER BY u)
         FROM unnest(cols) u));
    DROP TABLE new_row;

    DELETE FROM oracle.before;
    EXECUTE format($q$
        INSERT INTO oracle.before
        SELECT id, mine, eff, mine AND rn > $2 AND eff < $3, mine AND rn <= $2 AND eff < $3, line
        FROM (SELECT id, mine, eff, line, CASE WHEN mine AND eff IS NOT NULL
                     THEN row_number() OVER (PARTITION BY mine ORDER BY eff DESC NULLS LAST, id) END AS rn
              FROM (SELECT id, tenant_id = $1 AS mine, coalesce(%s, %s) AS eff, t::text AS line FROM %s t) r) r $q$, s_expr, c_expr, rel)
    USING me, keep::bigint, cutoff;
    SELECT count(*) FILTER (WHERE gone) AS deleted, count(*) FILTER (WHERE kept) AS kept, count(*) FILTER (WHERE mine) AS mine,
           min(eff) FILTER (WHERE gone) AS oldest, max(eff) FILTER (WHERE gone) AS newest
    INTO want FROM oracle.before;

    -- as often as it takes, which is once unless the batches are limited
    PERFORM set_config('retention.max_batches_per_call', limited::text, true);
    LOOP
        SELECT * INTO c FROM cleanup_old_executions(me, days, keep, batch);
        s := c.execution_summary;
        calls := calls + 1;
        total := total + c.deleted_count;
        IF c.deleted_count <> (s ->> 'deleted')::bigint THEN
            RETURN format('%s: call %s: deleted_count %s, summary %s', case_id, calls, c.deleted_count, s);
        END IF;
        IF (s ->> 'tenant_id')::uuid IS DISTINCT FROM me OR (s ->> 'retention_days')::integer IS DISTINCT FROM days
            OR (s ->> 'min_to_keep')::integer IS DISTINCT FROM keep OR (s ->> 'batch_size')::integer IS DISTINCT FROM batch
            OR (s ->> 'cutoff_date')::timestamptz IS DISTINCT FROM cutoff THEN
            RETURN format('%s: call %s: wrong echo of the arguments in %s', case_id, calls, s);
        END IF;
        -- no batch has more rows than asked for, and none is for nothing
        IF (s ->> 'batches')::bigint * batch < c.deleted_count OR (s ->> 'batches')::bigint > c.deleted_count
            OR limited > 0 AND (s ->> 'batches')::integer > limited THEN
            RETURN format('%s: call %s: wrong number of batches in %s', case_id, calls, s);
        END IF;
        IF (s -> 'reason' = 'null'::jsonb) IS DISTINCT FROM (c.deleted_count > 0) THEN
            RETURN format('%s: call %s: wrong reason in %s', case_id, calls, s);
        END IF;
        IF (s ->> 'skipped_locked')::integer IS DISTINCT FROM 0 OR (s ->> 'duration_ms')::numeric IS NULL
            OR (s ->> 'duration_ms')::numeric < 0 THEN
            RETURN format('%s: call %s: nobody locks a row here: %s', case_id, calls, s);
        END IF;
        rest := want.deleted - total;
        IF (s ->> 'has_more')::boolean IS DISTINCT FROM (rest > 0)
            OR s ->> 'stop_reason' IS DISTINCT FROM (CASE WHEN rest > 0 THEN 'max_batches' ELSE 'done' END) THEN
            RETURN format('%s: call %s: %s rows are left to delete but %s', case_id, calls, rest, s);
        END IF;
        EXIT WHEN rest <= 0;
        IF limited = 0 OR c.deleted_count = 0 THEN
            RETURN format('%s: call %s: gave up with %s rows left to delete: %s', case_id, calls, rest, s);
        END IF;
        -- oldest first: what is gone is older than what is still to go
        EXECUTE format($q$SELECT max(b.eff) FILTER (WHERE l.id IS NULL) AS newest_gone, min(b.eff) FILTER (WHERE l.id IS NOT NULL AND b.eff < $1) AS oldest_left
            FROM oracle.before b LEFT JOIN %s l USING (id) WHERE b.mine$q$, rel) INTO have USING cutoff;
        IF have.newest_gone > have.oldest_left THEN
            RETURN format('%s: call %s: not the oldest first, %s went before %s', case_id, calls, have.newest_gone, have.oldest_left);
        END IF;
    END LOOP;
    PERFORM set_config('retention.max_batches_per_call', '0', true);

    IF total <> want.deleted THEN
        RETURN format('%s: deleted %s and not %s', case_id, total, want.deleted);
    END IF;
    -- with several calls the minimum has something to keep in each
    IF (s ->> 'kept_by_minimum')::bigint IS DISTINCT FROM want.kept THEN
        RETURN format('%s: kept_by_minimum is not %s: %s', case_id, want.kept, s);
    END IF;
    IF calls = 1 AND ((s ->> 'oldest_deleted')::timestamptz IS DISTINCT FROM want.oldest
            OR (s ->> 'newest_deleted')::timestamptz IS DISTINCT FROM want.newest) THEN
        RETURN format('%s: deleted from %s to %s: %s', case_id, want.oldest, want.newest, s);
    END IF;
    IF calls = 1 AND want.deleted = 0 THEN
        nothing := NOT EXISTS (SELECT FROM oracle.before WHERE mine AND eff IS NOT NULL);
        IF s ->> 'reason' IS DISTINCT FROM (CASE WHEN want.kept > 0 THEN 'protected by the minimum'
                WHEN nothing THEN 'no executions' ELSE 'nothing that old' END) THEN
            RETURN format('%s: kept %s, nothing %s: %s', case_id, want.kept, nothing, s);
        END IF;
    END IF;

    -- what stays is as it was, and of each time as many rows stay as the oracle says
    EXECUTE format($q$SELECT count(*) FROM %s t LEFT JOIN oracle.before b ON b.id = t.id AND b.line = t::text WHERE b.id IS NULL$q$, rel) INTO rest;
    IF rest > 0 THEN
        RETURN format('%s: %s rows are there that were not', case_id, rest);
    END IF;
    EXECUTE format($q$
        SELECT string_agg(format('%%s at %%s: %%s stay and not %%s', CASE WHEN mine THEN 'mine' ELSE 'others' END, eff, stay, want), '; ')
        FROM (SELECT mine, eff, count(l.id) AS stay, count(*) FILTER (WHERE gone IS NOT TRUE) AS want
              FROM oracle.before b LEFT JOIN %s l USING (id) GROUP BY mine, eff) g
        WHERE stay <> want$q$, rel) INTO have;
    IF have.string_agg IS NOT NULL THEN
        RETURN case_id || ': ' || have.string_agg;
    END IF;

    SELECT EXISTS (SELECT FROM oracle.before WHERE mine GROUP BY eff HAVING bool_or(gone) AND bool_or(kept)) INTO ties;
    EXECUTE format($q$SELECT EXISTS (SELECT FROM oracle.before b WHERE gone AND %s)$q$,
        CASE WHEN s_expr LIKE 'NULL%' THEN 'false' ELSE $q$ line ~ '^\([^,]+,[^,]+,,' $q$ END) INTO never;
    INSERT INTO oracle.tally VALUES (shape, total, want.kept, ties, calls > 1, never,
        EXISTS (SELECT FROM oracle.before WHERE mine AND eff IS NULL));
    RETURN NULL;
END $$;

-- All cases of one shape, up to the first that fails.  Each has a seed of its own, so that it can be repeated alone.
CREATE FUNCTION oracle.cases(shape text, rel regclass) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    seed  integer := oracle.option('seed', 20240229);
    cases integer := oracle.option('cases', 100);
    first integer := oracle.option('first', 1);
    wrong text;
BEGIN
    FOR i IN first .. first + cases - 1 LOOP
        PERFORM setseed((('x' || substr(md5(format('%s %s %s', seed, shape, i)), 1, 7))::bit(28)::integer) / 268435456.0::float8);
        wrong := oracle.one_case(shape, rel);
        IF wrong IS NOT NULL THEN
            RETURN NEXT fail(format('%s: case %s of seed %s', shape, i, seed));
            RETURN NEXT diag(wrong);
            RETURN NEXT diag(format('again: PGOPTIONS=''-c oracle.seed=%s -c oracle.first=%s -c oracle.cases=1''', seed, i));
            RETURN;
        END IF;
    END LOOP;
    RETURN NEXT pass(format('%s: %s cases', shape, cases));
END $$;

SELECT plan(15);

CREATE SCHEMA shape;
SET search_path = shape, public;

CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('timestamptz', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamp, created_at timestamp);
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('timestamp', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamp);
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('started timestamptz, created timestamp', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamp, created_at timestamptz);
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('started timestamp, created timestamptz', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz);
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('no created_at', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, created_at timestamp);
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('no started_at', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

-- indexes that somebody built the other way round, and one that has all rows
CREATE TABLE executions (id integer PRIMARY KEY, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
CREATE INDEX idx_executions_retention_cleanup ON executions (tenant_id, started_at);
CREATE INDEX idx_executions_null_started_at ON executions (tenant_id, created_at DESC) WHERE started_at IS NULL;
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('other indexes', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

-- partitions by time; one of them with its columns in another order, one that lost a column
CREATE TABLE executions (id integer, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz) PARTITION BY RANGE (created_at);
SELECT format('CREATE TABLE executions_%s PARTITION OF executions FOR VALUES FROM (%L) TO (%L)', i,
    now() - (i * 2 + 2) * interval '24 hours', now() - i * 2 * interval '24 hours') FROM generate_series(0, 2) i \gexec
CREATE TABLE executions_3 (created_at timestamptz, gone text, id integer, started_at timestamptz, tenant_id uuid NOT NULL);
ALTER TABLE executions_3 DROP COLUMN gone;
SELECT format('ALTER TABLE executions ATTACH PARTITION executions_3 FOR VALUES FROM (%L) TO (%L)',
    now() - 8 * interval '24 hours', now() - 6 * interval '24 hours') \gexec
CREATE TABLE executions_rest PARTITION OF executions DEFAULT;
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('partitions by created_at', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

-- partitions of partitions, by started_at and by tenant
CREATE TABLE executions (id integer, tenant_id uuid NOT NULL, started_at timestamp, created_at timestamptz) PARTITION BY RANGE (started_at);
SELECT format('CREATE TABLE executions_new PARTITION OF executions FOR VALUES FROM (%L) TO (%L)', now() AT TIME ZONE 'UTC' - interval '96 hours', 'infinity') \gexec
CREATE TABLE executions_rest PARTITION OF executions DEFAULT PARTITION BY HASH (tenant_id, id);
CREATE TABLE executions_rest_0 PARTITION OF executions_rest FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE executions_rest_1 PARTITION OF executions_rest FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE executions_rest_2 PARTITION OF executions_rest FOR VALUES WITH (MODULUS 3, REMAINDER 2);
CREATE EXTENSION retention SCHEMA public;
SELECT * FROM oracle.cases('partitions of partitions', 'executions');
DROP EXTENSION retention;
DROP TABLE executions;

-- the cases were worth their time
SELECT is(count(*), (9 * oracle.option('cases', 100))::bigint, count(*) || ' cases agree with the oracle') FROM oracle.tally;
CREATE FUNCTION oracle.worth(n bigint, what text) RETURNS text LANGUAGE sql AS
$$ SELECT CASE WHEN n > 0 OR oracle.option('cases', 100) >= 50 THEN ok(n > 0, n || ' cases ' || what) ELSE skip('too few cases', 1) END $$;
SELECT oracle.worth(count(*), 'deleted something and kept something by the minimum') FROM oracle.tally WHERE deleted > 0 AND kept_by_minimum > 0;
SELECT oracle.worth(count(*), 'split rows of one time at the boundary') FROM oracle.tally WHERE split_tie;
SELECT oracle.worth(count(*), 'took several calls') FROM oracle.tally WHERE stopped;
SELECT oracle.worth(count(*), 'deleted rows that never started') FROM oracle.tally WHERE never_started_gone;
SELECT oracle.worth(count(*), 'had rows of unknown age') FROM oracle.tally WHERE unknown;

SELECT * FROM finish();
ROLLBACK;
