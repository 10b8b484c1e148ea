-- redis_explain: what would happen, and why not.
\pset format unaligned
\pset null (null)
CREATE TABLE t (id int, v text);
INSERT INTO t VALUES (1, 'one');
CREATE VIEW w AS SELECT id FROM t;
CREATE FUNCTION opaque() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
-- Functions and settings, before the session has anything temporary: a function that cannot be
-- looked into might read that.
SELECT e->'functions' AS functions, e->'settings' AS settings, e->>'status' AS status
FROM redis_explain('e:3', 'SELECT opaque(), now(), current_user, session_user, current_setting(''TimeZone''), current_setting(''app.x'', true)') e;
-- Nor has it anything temporary after that is gone.
CREATE TEMP TABLE mine (id int);
SELECT redis_explain('e:3', 'SELECT opaque() AS v')->>'status' AS status;
DROP TABLE mine;
SELECT redis_explain('e:3', 'SELECT opaque() AS v')->>'status' AS status;
BEGIN;
CREATE TEMP TABLE mine (id int) ON COMMIT DROP;
COMMIT;
SELECT redis_explain('e:3', 'SELECT opaque() AS v')->>'status' AS status;
CREATE DOMAIN pg_temp.mine AS int;
SELECT redis_explain('e:3', 'SELECT opaque() AS v')->>'status' AS status;
DROP DOMAIN pg_temp.mine;
SELECT redis_explain('e:3', 'SELECT opaque() AS v')->>'status' AS status;
CREATE TEMP TABLE mine (id int);
CREATE FUNCTION pg_temp.say(key text, query text) RETURNS TABLE (field text, value text)
LANGUAGE sql AS $$
  SELECT e.key, CASE WHEN e.key = 'entry' AND e.value <> 'null' THEN
           (SELECT string_agg(f, ', ' ORDER BY f) FROM jsonb_object_keys(e.value) f)
         ELSE e.value::text END
  FROM jsonb_each(redis_explain($1, $2)::jsonb) e ORDER BY e.key COLLATE "C"
$$;
SELECT string_agg(k, ', ') FROM json_object_keys(redis_explain('e:1', 'SELECT 1')) k;
SELECT * FROM pg_temp.say('e:1', 'SELECT id, v FROM t');
SELECT redis_cached('e:1', 60, 'SELECT id, v FROM t');
SELECT * FROM pg_temp.say('e:1', 'SELECT id, v FROM t');
SELECT redis_explain('e:1', 'SELECT id FROM t')->>'status' AS other_query;
SELECT redis_explain('e:1', 'SELECT id, v FROM t WHERE id = $1', 1)->>'status' AS other_arguments;
SELECT redis_explain('e:2', 'SELECT id FROM t WHERE id = $1', '1')->>'cacheable' AS untyped;
SELECT redis_explain('e:2', 'SELECT id FROM t WHERE id = $1', VARIADIC ARRAY['1'])->>'cacheable' AS list;
SELECT entry->>'bytes' AS bytes, (entry->>'ttl_ms')::int BETWEEN 1 AND 60000 AS ttl, (entry->>'age_ms')::int >= 0 AS age,
  (entry->>'cost_ms')::float8 >= 0 AS cost FROM (SELECT redis_explain('e:1', 'SELECT id, v FROM t')->'entry') x(entry);
SELECT * FROM pg_temp.say('e:3', 'SELECT * FROM w JOIN t USING (id)');
SELECT * FROM pg_temp.say('e:3', 'SELECT opaque() AS v');
SELECT * FROM pg_temp.say('e:3', 'SELECT current_setting(v) FROM t');
SELECT * FROM pg_temp.say('e:3', 'SELECT pg_backend_pid()');
SELECT * FROM pg_temp.say('e:3', 'SELECT * FROM mine');
SELECT * FROM pg_temp.say('e:3', 'SELECT relname FROM pg_class');
SET pg_cache.enabled = off;
SELECT redis_explain('e:1', 'SELECT id, v FROM t')->>'status' AS status;
RESET pg_cache.enabled;
BEGIN;
UPDATE t SET v = 'x';
SELECT redis_explain('e:1', 'SELECT id, v FROM t')->>'status' AS status;
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT redis_explain('e:1', 'SELECT id, v FROM t')->>'status' AS status;
COMMIT;
SET pg_cache.url = 'unix:///nonexistent.sock';
SELECT redis_explain('e:1', 'SELECT id, v FROM t')->>'status' AS status;
RESET pg_cache.url;
SELECT redis_explain('e:1', 'SELECT id, v FROM t')->>'status' AS status;
-- Explaining makes nothing.
SELECT redis_explain('e:9', 'SELECT 9 AS a')->>'status' AS first, redis_explain('e:9', 'SELECT 9 AS a')->>'status' AS again;
DROP VIEW w;
DROP FUNCTION opaque();
DROP TABLE t;
