-- The text of results: byte for byte that of json_agg(row_to_json()), cold and from Redis.
\pset format unaligned
CREATE TABLE part (id int PRIMARY KEY, name text, price numeric(8, 2), tags text[], doc jsonb);
INSERT INTO part VALUES (1, 'bolt', 0.10, '{a,"b c"}', '{"k": [1, null]}'),
  (2, E'nut "M4"\n', 12.00, '{}', NULL), (3, NULL, NULL, NULL, 'null'), (4, 'Größe 😀', -1, '{NULL}', '1.0');
SELECT redis_cached('r:all', 60, 'SELECT * FROM part ORDER BY id');
SELECT redis_cached('r:all', 60, 'SELECT * FROM part ORDER BY id');
SELECT redis_cached('r:all', 60, 'SELECT * FROM part ORDER BY id')::text
     = (SELECT json_agg(row_to_json(x))::text FROM (SELECT * FROM part ORDER BY id) x) AS same;
SELECT redis_cached('r:none', 60, 'SELECT * FROM part WHERE false') AS cold;
SELECT redis_cached('r:none', 60, 'SELECT * FROM part WHERE false') AS warm;
SELECT redis_cached('r:values', 60, 'VALUES (1, ''one''), (2, NULL)');
SELECT redis_cached('r:with', 60, 'WITH w AS (SELECT id FROM part) SELECT count(*), max(id) FROM w');
SELECT redis_cached('r:table', 60, 'TABLE part ORDER BY id LIMIT 1');
SELECT redis_cached('r:union', 60, 'SELECT 1 AS a UNION ALL SELECT 2 ORDER BY a DESC');
SELECT redis_cached('r:parens', 60, '(SELECT 1 AS a) EXCEPT (SELECT 2)');
SELECT redis_cached('r:semicolon', 60, 'SELECT 1 AS a;');
SELECT redis_cached('r:comment', 60, E'/* before */ SELECT 1 AS a -- after');
SELECT redis_cached('r:comment', 60, E'SELECT 1 AS a ; -- after the end\n /* and /* nested */ */ ');
SELECT redis_cached('r:names', 60, 'SELECT 1, 2 AS "a b", 3 AS "q""q", 4 AS "ü", ''x'' AS "\"');
SELECT redis_cached('r:twice', 60, 'SELECT 1 AS a, 2 AS a');
SELECT redis_cached('r:nothing', 60, 'SELECT FROM part ORDER BY id');
SELECT redis_cached('r:row', 60, 'SELECT p, ROW(1, ''x'') AS r, ARRAY[p] AS l FROM part p WHERE id = 1');
SELECT redis_cached('r:types', 60, $$SELECT true AS b, 1.50 AS n, 'NaN'::float8 AS f, DATE '2024-02-29' AS d,
  TIMESTAMP '2024-02-29 12:00:00.5' AS t, INTERVAL '1 day 02:03' AS i, '\x00ff'::bytea AS x, NULL AS u,
  'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS g, '[1,5)'::int4range AS r$$);
-- The same text stands in Redis: what the second call of a changed table still says.
UPDATE part SET name = 'changed' WHERE id = 1;
SELECT redis_cached('r:table', 60, 'TABLE part ORDER BY id LIMIT 1') AS from_redis;
SELECT redis_cached('r:table:2', 60, 'TABLE part ORDER BY id LIMIT 1') AS computed;
-- Usable as any json value.
SELECT redis_cached('r:all', 60, 'SELECT * FROM part ORDER BY id')->2->>'doc' AS doc;
SELECT x->>'id' AS id FROM json_array_elements(redis_cached('r:all', 60, 'SELECT * FROM part ORDER BY id')) x;
SELECT pg_typeof(redis_cached('r:all', 60, 'SELECT * FROM part ORDER BY id'));
-- Keys that look like something else.
SELECT redis_cached('', 60, 'SELECT ''empty key'' AS a');
SELECT redis_cached(E'line\nbreak {a} * ü', 60, 'SELECT ''odd key'' AS a');
SELECT redis_cached(repeat('k', 1024), 60, 'SELECT ''long key'' AS a');
DROP TABLE part;
