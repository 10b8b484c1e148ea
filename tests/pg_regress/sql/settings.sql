-- Settings, and the errors of the operator's functions.
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

SELECT count(*) FROM redis_stat_cached;
-- Addresses that are refused.
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'rediss://h' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis+sentinel://h1,h2/service' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis+cluster://h1,h2' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'http://h' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'h:6379' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis://' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis://h:0' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis://h:99999' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis://h/x' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis://u:secret@h/-1' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis://h?db=1' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'unix://relative' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'unix:///s?dbb=1' $q$);
SELECT * FROM pg_temp.try(format('SET pg_cache.url = %L', 'unix:///' || repeat('x', 200)));
-- Those that are taken.
SET pg_cache.url = 'redis://h';
SET pg_cache.url = 'redis://user:pass%40word@[::1]:6380/5';
SET pg_cache.url = 'unix:///run/redis.sock?db=3&user=u&password=p';
SHOW pg_cache.url;
RESET pg_cache.url;
-- Limits; the text of these errors is PostgreSQL's and differs by version.
SELECT state FROM pg_temp.try($q$ SET pg_cache.timeout_ms = 0 $q$);
SELECT state FROM pg_temp.try($q$ SET pg_cache.connect_timeout_ms = 0 $q$);
SELECT state FROM pg_temp.try($q$ SET pg_cache.lease_timeout_ms = 0 $q$);
SELECT state FROM pg_temp.try($q$ SET pg_cache.fill_wait_ms = -1 $q$);
SELECT state FROM pg_temp.try($q$ SET pg_cache.ttl_max = 0 $q$);
SELECT state FROM pg_temp.try($q$ SET pg_cache.plans_max = 0 $q$);
-- With a unit, as any setting of PostgreSQL.
SET pg_cache.timeout_ms = '1s';
SHOW pg_cache.timeout_ms;
RESET pg_cache.timeout_ms;
SET pg_cache.value_bytes_max = '1MB';
SHOW pg_cache.value_bytes_max;
RESET pg_cache.value_bytes_max;
-- The operator's functions.
SELECT redis_ping() > interval '0' AS answers;
SELECT bool_and(ok) AS well, count(*) > 1 AS several FROM redis_health();
SELECT redis_flush() >= 0 AS flushed;
SELECT redis_cached('f:' || g, 60, 'SELECT 1 AS a') FROM generate_series(1, 3) g;
SELECT redis_flush('f:[12]');
SELECT redis_flush('f:*');
SELECT redis_flush('nothing:*');
SELECT * FROM pg_temp.try($q$ SELECT redis_flush('') $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_flush('+') $q$);
SET pg_cache.url = 'unix:///nonexistent.sock';
SELECT state, message, hint FROM pg_temp.try($q$ SELECT redis_ping() $q$);
SELECT state, message, hint FROM pg_temp.try($q$ SELECT redis_flush() $q$);
SELECT bool_and(ok) AS well FROM redis_health();
RESET pg_cache.url;
-- Ordinary roles.
CREATE ROLE regress_cache_user;
SET ROLE regress_cache_user;
SELECT * FROM pg_temp.try($q$ SET pg_cache.url = 'redis://mine' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.password_file = '/etc/passwd' $q$);
SELECT * FROM pg_temp.try($q$ SET pg_cache.scope_settings = '' $q$);
SELECT state FROM pg_temp.try($q$ SHOW pg_cache.url $q$);
SELECT state FROM pg_temp.try($q$ SHOW pg_cache.password_file $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_flush() $q$);
SELECT * FROM pg_temp.try($q$ SELECT redis_ping() $q$);
SELECT * FROM pg_temp.try($q$ SELECT count(*) FROM redis_health() $q$);
SET pg_cache.enabled = off;
SELECT * FROM pg_temp.try($q$ SELECT redis_cached('k', 60, 'SELECT 1 AS a') $q$);
RESET ROLE;
RESET pg_cache.enabled;
DROP ROLE regress_cache_user;
