-- A view over the cache.
-- What a statement comes to: its result, or the error in all its parts.
CREATE FUNCTION pg_temp.try(sql text, OUT state text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE sql INTO message;
  state := '00000';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
    detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END $$;
\pset format unaligned
\pset null (null)

CREATE TABLE t (id int, name varchar(10), price numeric(8, 2), "Odd ""N" text, list int[]);
INSERT INTO t VALUES (1, 'one', 1.50, 'x', '{1,2}'), (2, NULL, NULL, NULL, NULL);
SELECT redis_cached_view('v', 60, 'SELECT * FROM t');
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'v'::regclass AND attnum > 0 ORDER BY attnum;
SELECT * FROM v ORDER BY id;
UPDATE t SET name = 'changed';
SELECT * FROM v ORDER BY id;
SELECT id FROM v WHERE price > 1;
-- The key is the view's name, for redis-cli and redis_explain.
SELECT substring(pg_get_viewdef('v') from '''view:[^'']*''') AS key;
SELECT redis_cached_view('"My View"', '5 minutes', 'SELECT 1 AS "a b", $$it''s$$ AS q');
SELECT * FROM "My View";
CREATE SCHEMA other;
SELECT redis_cached_view('other.v', interval '1 hour', 'SELECT id FROM t');
SELECT * FROM other.v ORDER BY id;
-- It replaces as CREATE OR REPLACE VIEW does, or says why not.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('v', 60, 'SELECT 1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('t', 60, 'SELECT 1 AS a') $q$);
-- What is wrong.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view(NULL, 60, 'SELECT 1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('x', 0, 'SELECT 1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('x', 60, NULL) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('', 60, 'SELECT 1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('a.b.c', 60, 'SELECT 1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('"x', 60, 'SELECT 1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('nowhere.x', 60, 'SELECT 1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('x', 60, 'SELECT 1 AS a, 2 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('x', 60, 'SELECT $1::int AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('x', 60, 'DELETE FROM t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('x; DROP TABLE t', 60, 'SELECT 1 AS a') $q$);
SELECT count(*) FROM t;
DROP VIEW v, "My View", other.v;
DROP SCHEMA other;
DROP TABLE t;
