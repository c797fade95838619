--
-- The minimum when the application deletes its newest rows during a cleanup.
-- A row trigger stands in for the application.
--
SET client_min_messages = warning;
CREATE TABLE executions (id integer, tenant_id uuid NOT NULL, started_at timestamptz, created_at timestamptz);
CREATE EXTENSION retention;
CREATE SCHEMA bd;
CREATE TABLE bd.plan (at_id integer, from_id integer, to_id integer, wait double precision);
CREATE FUNCTION bd.application() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	step record;
BEGIN
	IF pg_trigger_depth() = 1 THEN
		FOR step IN SELECT * FROM bd.plan WHERE at_id = OLD.id LOOP
			PERFORM pg_sleep(step.wait);
			DELETE FROM executions WHERE id BETWEEN step.from_id AND step.to_id;
		END LOOP;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER application AFTER DELETE ON executions
	FOR EACH ROW EXECUTE FUNCTION bd.application();
CREATE FUNCTION bd.fill(n integer) RETURNS void LANGUAGE sql AS $$
	TRUNCATE executions, bd.plan;
	INSERT INTO executions SELECT i, 'aaaaaaaa-0000-4000-8000-000000000001',
		now() - interval '100 days' + i * interval '1 second', now() FROM generate_series(1, n) i;
$$;
CREATE FUNCTION bd.clean(minimum integer, batch integer) RETURNS integer LANGUAGE sql AS $$
	SELECT deleted_count FROM cleanup_old_executions('aaaaaaaa-0000-4000-8000-000000000001', 1, minimum, batch)
$$;
-- a batch smaller than the minimum: in the batch that ends at 190 the newest fifty go; two
-- seconds are longer than a look may be old, however slow the server is
SELECT bd.fill(300);
INSERT INTO bd.plan VALUES (185, 251, 300, 2);
SELECT bd.clean(100, 10);
SELECT count(*), min(id), max(id) FROM executions;
-- what was known to be due is not any more, since the newest rows went for the first time; then they go again
SELECT bd.fill(3000);
INSERT INTO bd.plan VALUES (5, 100, 3000, 2), (75, 90, 99, 0);
SELECT bd.clean(10, 10);
SELECT count(*), min(id), max(id) FROM executions;
-- a batch larger than the minimum
SELECT bd.fill(2050);
INSERT INTO bd.plan VALUES (999, 1951, 2050, 0);
SELECT bd.clean(100, 1000);
SELECT count(*), min(id), max(id) FROM executions;
DROP EXTENSION retention;
DROP TABLE executions;
DROP SCHEMA bd CASCADE;
