-- Arguments: $1, $2 … of the query, typed or not.
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

-- Typed ones keep their type.
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', 42);
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', 42.0);
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', '42'::text);
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', true);
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', date '2024-02-29');
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', NULL::int);
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', ARRAY[1, 2]);
SELECT redis_cached('a:1', 60, 'SELECT $1 AS a', '{"k": 1}'::jsonb);
SELECT redis_cached('a:2', 60, 'SELECT $1 + $2 AS a, $2 AS b', 1, 2);
SELECT redis_cached('a:2', 60, 'SELECT $2 AS b, $1 AS a, $2 AS c', 1, 'x'::text);
SELECT redis_cached('a:3', 60, 'SELECT $1 AS a, $2 AS b, $3 AS c, $4 AS d, $5 AS e, $6 AS f, $7 AS g, $8 AS h, $9 AS i, $10 AS j, $11 AS k',
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
-- Untyped ones take the type that the query infers.
SELECT redis_cached('a:4', 60, 'SELECT $1::int + 1 AS a', '41');
SELECT redis_cached('a:4', 60, 'SELECT 1 + $1 AS a', '41');
SELECT redis_cached('a:4', 60, 'SELECT $1::date + 1 AS a', '2024-02-28');
SELECT redis_cached('a:4', 60, 'SELECT $1 AS a', 'text');
SELECT redis_cached('a:4', 60, 'SELECT $1 AS a, $2 AS b', 'x', NULL);
SELECT redis_cached('a:4', 60, 'SELECT $1::int AS a, $2::text AS b', '1', 'two');
SELECT redis_cached('a:4', 60, 'SELECT $1::int[] AS a', '{1,2}');
-- A literal among typed ones.
SELECT redis_cached('a:5', 60, 'SELECT $1 AS a, $2::int + 1 AS b', 1, '2');
SELECT redis_cached('a:5', 60, 'SELECT $1 AS a, $2 AS b', 1, 'two');
SELECT redis_cached('a:5', 60, 'SELECT $1 AS a, $2::text AS b', 1, NULL);
-- Arrays as the list.
SELECT redis_cached('a:6', 60, 'SELECT $1::int AS a, $2 AS b', VARIADIC ARRAY['1', 'x']);
SELECT redis_cached('a:6', 60, 'SELECT 1 AS a', VARIADIC ARRAY[]::text[]);
SELECT redis_cached('a:6', 60, 'SELECT $1 + $2 AS a', VARIADIC ARRAY[1, 2]);
-- As a prepared statement of a driver: parameters without types.
PREPARE driver AS SELECT redis_cached($1, 60, $2, $3, $4);
EXECUTE driver('a:7', 'SELECT $1::int * 2 AS a, $2 AS b', '21', 'x');
EXECUTE driver('a:7', 'SELECT $1::int * 2 AS a, $2 AS b', '22', NULL);
PREPARE typed(text, text, int) AS SELECT redis_cached($1, 60, $2, $3);
EXECUTE typed('a:7', 'SELECT $1 AS a', 7);
PREPARE ttl(int) AS SELECT redis_cached('a:8', $1, 'SELECT 1 AS a');
EXECUTE ttl(60);
-- Arguments of string types count as untyped: PostgreSQL chooses VARIADIC text[] for them.
SELECT redis_cached('a:9', 60, 'SELECT 1 + $1 AS a', '41'::text);
SELECT redis_cached('a:9', 60, 'SELECT octet_length($1) AS a', 'x'::char(3));
SELECT redis_cached('a:9', 60, 'SELECT pg_typeof($1 || '''')::text AS a', 'x'::varchar);
-- What is wrong with them.
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1 AS a') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1 + $2 AS a', 1) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT 1 AS a', 1) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1 AS a', 1, 2) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT 1 AS a', 'x') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1::int AS a', 'x') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1::int AS a', '1', '2') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $2::int AS a', '1', '2') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1 AS a', ROW(1, 2)) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1 IS NULL AS a', NULL) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $0 AS a', 1) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1 AS a', VARIADIC ARRAY[['1'], ['2']]) $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('a', 60, 'SELECT $1 AS a', VARIADIC NULL::text[]) $q$);
