-- Errors of the user's query keep their own SQLSTATE, text and position.
CREATE TABLE t (id int, v text);
INSERT INTO t VALUES (0, 'zero');
\set VERBOSITY default
SELECT redis_cached('k', 60, 'SELEC 1');
SELECT redis_cached('k', 60, 'SELECT 1 +');
SELECT redis_cached('k', 60, 'SELECT nope FROM t');
SELECT redis_cached('k', 60, E'SELECT id,\n  v,\n  nope\nFROM t');
SELECT redis_cached('k', 60, 'SELECT * FROM nowhere');
SELECT redis_cached('k', 60, 'SELECT nothing_like_it(1)');
SELECT redis_cached('k', 60, 'SELECT id || 1 FROM t');
SELECT redis_cached('k', 60, 'SELECT ''ü'' AS a, nope FROM t');
SELECT redis_cached('k', 60, 'SELECT ''x''::int');
SELECT redis_cached('k', 60, 'SELECT v, count(*) FROM t');
SELECT a FROM redis_cached_rows('k', 60, 'SELECT nope AS a FROM t') AS r(a int);
SELECT redis_explain('k', 'SELECT nope FROM t');
-- While it runs.
SELECT redis_cached('k', 60, 'SELECT 1 / id FROM t');
SELECT redis_cached('k', 60, 'SELECT v::int FROM t');
SELECT redis_cached('k', 60, 'SELECT (SELECT g FROM generate_series(1, 2) g)');
SELECT a FROM redis_cached_rows('k', 60, 'SELECT 1 / id AS a FROM t') AS r(a int);
-- Their codes.
DO $$
DECLARE query text; state text;
BEGIN
  FOREACH query IN ARRAY ARRAY['SELEC 1', 'SELECT nope FROM t', 'SELECT * FROM nowhere', 'SELECT nothing_like_it(1)',
    'SELECT 1 / id FROM t', 'SELECT v::int FROM t', 'SELECT * FROM nowhere.t', 'SELECT 2147483647 + 1',
    'SELECT current_setting(''no.such'')', 'SELECT 1 ORDER BY 2', 'SELECT t.* FROM t x']
  LOOP
    BEGIN
      PERFORM redis_cached('k', 60, query);
      RAISE NOTICE '%: no error', query;
    EXCEPTION WHEN OTHERS THEN
      RAISE NOTICE '% %: %', sqlstate, query, sqlerrm;
    END;
  END LOOP;
END $$;
-- After all that the session works.
SELECT redis_cached('k', 60, 'SELECT id, v FROM t');
DROP TABLE t;
