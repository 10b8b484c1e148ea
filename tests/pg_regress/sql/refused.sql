-- What is refused before anything runs, each with its own SQLSTATE, message, detail and hint.
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

CREATE TABLE t (id int, v text);
INSERT INTO t VALUES (1, 'one');
CREATE SEQUENCE s;
CREATE FUNCTION volatile_one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION stable_one() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
CREATE VIEW volatile_view AS SELECT id, random() AS r FROM t;
CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1';
CREATE OPERATOR @@@ (RIGHTARG = int, FUNCTION = abs);
-- NULL: which one is said.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached(NULL, 60, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', NULL::int, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', NULL, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, NULL) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_explain(NULL, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_explain('k', NULL) $q$);
-- Keys.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached(repeat('k', 1025), 60, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached(repeat('ü', 513), 60, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('pgc:x', 60, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_explain('pgc:', 'SELECT 1') $q$);
-- The time to live.
SELECT redis_cached('ttl', 1, 'SELECT 1 AS a') AS seconds, redis_cached('ttl', 1::bigint, 'SELECT 1 AS a') AS big,
  redis_cached('ttl', 1::smallint, 'SELECT 1 AS a') AS small, redis_cached('ttl', '5 minutes', 'SELECT 1 AS a') AS words,
  redis_cached('ttl', '60', 'SELECT 1 AS a') AS number_in_quotes, redis_cached('ttl', interval '1 day', 'SELECT 1 AS a') AS span,
  redis_cached('ttl', 2592000, 'SELECT 1 AS a') AS longest;
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 0, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', -1, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', '-1 minutes', 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', interval '0', 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 2592001, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', '1 year', 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 9223372036854775807, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', -9223372036854775808, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', interval '178000000 years', 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 'soon', 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', '', 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', true, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', date '2024-01-01', 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 'NaN'::float8, 'SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', ARRAY[1], 'SELECT 1') $q$);
SET pg_cache.ttl_max = 60;
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 61, 'SELECT 1') $q$);
RESET pg_cache.ttl_max;
-- One statement, and no other than a query.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, '') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, ' ; -- nothing') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1; SELECT 2') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1; DROP TABLE t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'INSERT INTO t VALUES (2)') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'INSERT INTO t VALUES (2) RETURNING id') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'UPDATE t SET id = 2') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'DELETE FROM t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'TRUNCATE t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'CREATE TABLE x (a int)') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'CREATE TABLE x AS SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1 AS a INTO x') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'COPY t TO STDOUT') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'EXPLAIN SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'EXPLAIN ANALYZE DELETE FROM t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SHOW work_mem') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SET work_mem = 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'BEGIN') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'COMMIT') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'LOCK TABLE t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'CALL p()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'DO ''BEGIN END''') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'EXECUTE p') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'DECLARE c CURSOR FOR SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'FETCH ALL FROM c') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'VACUUM t') $q$);
-- Nor half a statement that would close what it might be put into.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1 AS a) AS x, (SELECT 2 AS b') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1 AS a) AS x --') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1 AS a /*') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, $$SELECT '$$) $q$);
-- Nothing in WITH writes.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'WITH w AS (INSERT INTO t VALUES (2) RETURNING id) SELECT * FROM w') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'WITH w AS (DELETE FROM t RETURNING id) SELECT 1') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'WITH w AS (UPDATE t SET id = 3 RETURNING id) SELECT 1') $q$);
-- No row locks, at any depth.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM t FOR UPDATE') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM t FOR NO KEY UPDATE') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM t FOR SHARE OF t NOWAIT') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM t FOR KEY SHARE SKIP LOCKED') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM (SELECT * FROM t FOR UPDATE) x') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'WITH w AS (SELECT * FROM t FOR SHARE) SELECT * FROM w') $q$);
-- No volatile function, wherever it stands; the function is named.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT random()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT volatile_one()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT nextval(''s'')') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT clock_timestamp()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT pg_sleep(0)') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT gen_random_uuid()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT id FROM t WHERE id > random()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT id FROM t ORDER BY random()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT id FROM t GROUP BY id HAVING random() > 2') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT id FROM t LIMIT (random() * 2)::int') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT sum(random()) OVER () FROM t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT sum(id) OVER (ORDER BY random()) FROM t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT count(*) FILTER (WHERE random() > 0) FROM t') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM generate_series(1, volatile_one())') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM volatile_one()') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT id FROM t TABLESAMPLE SYSTEM (random())') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT (SELECT random())') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'WITH w AS (SELECT random() AS r) SELECT * FROM w') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'VALUES (1), (volatile_one())') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM volatile_view') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1 WHERE false AND random() > 0') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT currval(''s'')') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT set_config(''a.b'', ''c'', false)') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT @@@ 1 AS a') $q$);
SELECT redis_cached('k', 60, 'SELECT id FROM t TABLESAMPLE SYSTEM (100) REPEATABLE (1)');
SELECT redis_cached('k', 60, 'SELECT stable_one() AS a, now() IS NOT NULL AS b');
-- A WITH that nobody reads calls nothing.
SELECT redis_cached('k', 60, 'WITH w AS (SELECT random() AS r) SELECT 1 AS a');
-- Not through itself.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT redis_cached(''k'', 60, ''SELECT 1'')') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT * FROM redis_cached_rows(''k'', 60, ''SELECT 1 AS a'') AS r(a int)') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT redis_explain(''k'', ''SELECT 1'')') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT redis_flush()') $q$);
-- The same for the other two.
SELECT * FROM pg_temp.try($q$ SELECT a FROM redis_cached_rows('k', 0, 'SELECT 1 AS a') AS r(a int) $q$);
SELECT * FROM pg_temp.try($q$ SELECT a FROM redis_cached_rows('k', 60, 'SELECT random() AS a') AS r(a float8) $q$);
SELECT * FROM pg_temp.try($q$ SELECT a FROM redis_cached_rows('k', 60, 'DELETE FROM t RETURNING id AS a') AS r(a int) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_view('x', 60, 'SELECT random() AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_explain('k', 'SELECT 1; SELECT 2') $q$);
-- And nothing of it happened.
SELECT * FROM t;
SELECT last_value, is_called FROM s;
DROP VIEW volatile_view;
DROP OPERATOR @@@ (NONE, int);
DROP FUNCTION volatile_one(), stable_one();
DROP PROCEDURE p();
DROP SEQUENCE s;
DROP TABLE t;
