-- What is computed and never stored, and what the counters say of it.
\pset format unaligned
\pset null (null)
CREATE TABLE t (id int);
INSERT INTO t VALUES (1);
CREATE TEMP TABLE mine AS SELECT 1 AS id;
CREATE VIEW pg_temp.over_mine AS SELECT id FROM mine;
CREATE TEMP VIEW counted AS SELECT key_family, hits, misses, fills, reasons FROM redis_stat_cached ORDER BY key_family COLLATE "C";
SELECT redis_cached('temp:1', 60, 'SELECT id FROM mine');
SELECT redis_cached('temp:1', 60, 'SELECT id FROM over_mine');
SELECT redis_cached('temp:1', 60, 'SELECT t.id FROM t WHERE id IN (SELECT id FROM mine)');
SELECT redis_cached('catalog:1', 60, 'SELECT count(*) > 0 AS a FROM pg_class');
SELECT redis_cached('catalog:1', 60, 'SELECT count(*) > 0 AS a FROM information_schema.tables');
BEGIN;
INSERT INTO t VALUES (2);
SELECT redis_cached('own:1', 60, 'SELECT id FROM t ORDER BY id');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT redis_cached('serial:1', 60, 'SELECT id FROM t');
COMMIT;
SET pg_cache.enabled = off;
SELECT redis_cached('off:1', 60, 'SELECT id FROM t');
RESET pg_cache.enabled;
SET pg_cache.value_bytes_max = 1024;
SELECT length(redis_cached('large:1', 60, 'SELECT repeat(''x'', 2000) AS a')::text);
RESET pg_cache.value_bytes_max;
SELECT redis_cached('plain:1', 60, 'SELECT id FROM t');
SELECT redis_cached('plain:1', 60, 'SELECT id FROM t');
SELECT redis_cached('plain:1', 60, 'SELECT id AS other FROM t');
SELECT redis_cached('plain', 60, 'SELECT 1 AS a');
SELECT redis_cached('user2name', 60, 'SELECT 1 AS a');
SELECT * FROM counted;
-- Redis away: one warning, and the answers.
SET pg_cache.url = 'unix:///nonexistent.sock';
SELECT redis_cached('away:1', 60, 'SELECT id FROM t');
SELECT redis_cached('away:1', 60, 'SELECT id FROM t');
SELECT * FROM redis_cached_rows('away:1', 60, 'SELECT id FROM t') AS r(id int);
SELECT hits, misses, fills, (SELECT sum(v::int) FROM jsonb_each_text(reasons) r(k, v) WHERE k IN ('connect', 'breaker')) AS named
FROM redis_stat_cached WHERE key_family = 'away';
RESET pg_cache.url;
-- No transaction id was taken.
BEGIN;
SELECT redis_cached('xid:1', 60, 'SELECT id FROM t');
SELECT redis_cached('xid:1', 60, 'SELECT id FROM t');
SELECT pg_current_xact_id_if_assigned();
COMMIT;
DROP TABLE t;
