-- Rows: the same entry as a table, by a column definition list.
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

\pset format aligned
CREATE TABLE t (id int, name text, price numeric(8, 2), at timestamptz, tags text[], doc jsonb);
INSERT INTO t VALUES (1, 'one', 1.50, '2024-02-29 12:00+00', '{a,NULL}', '{"b": 1}'), (2, NULL, NULL, NULL, NULL, NULL);
SET timezone = 'UTC';
SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id')
  AS r(id int, name text, price numeric(8, 2), at timestamptz, tags text[], doc jsonb);
SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id')
  AS r(id int, name text, price numeric(8, 2), at timestamptz, tags text[], doc jsonb);
-- By name, in any order, and not all.
SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') AS r(name text, id bigint);
SELECT name FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') AS r(name varchar(2));
SELECT * FROM redis_cached_rows('w:none', 60, 'SELECT * FROM t WHERE false') AS r(id int);
SELECT * FROM redis_cached_rows('w:arg', 60, 'SELECT id FROM t WHERE id = $1', 2) AS r(id int);
SELECT * FROM redis_cached_rows('w:arg', 60, 'SELECT id FROM t WHERE id = $1', '1') AS r(id int);
SELECT * FROM redis_cached_rows('w:arg', 60, 'SELECT id FROM t WHERE id = $1', VARIADIC ARRAY['1']) AS r(id int);
-- As any table.
SELECT t.id, r.n FROM t JOIN redis_cached_rows('w:2', 60, 'SELECT id, count(*) AS n FROM t GROUP BY id') AS r(id int, n bigint) USING (id) ORDER BY 1;
SELECT x.n, r.id FROM generate_series(1, 2) AS x(n), LATERAL redis_cached_rows('w:3:' || n, 60, 'SELECT $1 * 10 AS id', n) AS r(id int);
SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') WITH ORDINALITY AS r(id, o) LIMIT 0;
SELECT count(*) FROM redis_cached_rows('w:4', 60, 'SELECT g FROM generate_series(1, 5000) g') AS r(g int);
SELECT * FROM ROWS FROM (redis_cached_rows('w:2', 60, 'SELECT id, count(*) AS n FROM t GROUP BY id ORDER BY id') AS (id int, n bigint), generate_series(1, 3)) AS z;
\pset format unaligned
-- What is wrong.
SELECT * FROM pg_temp.try($q$ SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') AS r(nope int) $q$);
SELECT * FROM pg_temp.try($q$ SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') AS r(id int, "ID" int) $q$);
SELECT * FROM pg_temp.try($q$ SELECT * FROM redis_cached_rows('w:5', 60, 'SELECT 1 AS a, 2 AS a') AS r(a int) $q$);
SELECT * FROM pg_temp.try($q$ SELECT * FROM redis_cached_rows('w:5', 60, 'SELECT 1 AS a, 2 AS a, 3 AS b') AS r(b int) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') $q$);
SELECT * FROM pg_temp.try($q$ SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') $q$);
SELECT * FROM pg_temp.try($q$ SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT * FROM t ORDER BY id') AS r(name int) $q$);
SELECT * FROM pg_temp.try($q$ SELECT * FROM redis_cached_rows('w:1', 60, 'SELECT FROM t') AS r(id int) $q$);
DROP TABLE t;
