-- Privileges and row security, by the caller of each call.
\pset format unaligned
\pset null (null)
CREATE ROLE regress_cache_alice;
CREATE ROLE regress_cache_bob;
CREATE TABLE note (owner text, v text);
INSERT INTO note VALUES ('regress_cache_alice', 'a'), ('regress_cache_bob', 'b'), ('nobody', 'n');
CREATE VIEW open AS SELECT count(*) AS n FROM note;
GRANT SELECT ON open TO PUBLIC;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SET ROLE regress_cache_alice;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SELECT redis_explain('p:notes', 'SELECT v FROM note ORDER BY v');
SELECT redis_cached('p:open', 60, 'SELECT n FROM open');
RESET ROLE;
GRANT SELECT ON note TO regress_cache_alice;
GRANT SELECT (v) ON note TO regress_cache_bob;
SET ROLE regress_cache_alice;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SET ROLE regress_cache_bob;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SELECT redis_cached('p:owner', 60, 'SELECT owner FROM note');
RESET ROLE;
REVOKE SELECT ON note FROM regress_cache_alice;
SET ROLE regress_cache_alice;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
RESET ROLE;
-- Row security: to each its own.
GRANT SELECT ON note TO regress_cache_alice, regress_cache_bob;
ALTER TABLE note ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON note USING (owner = current_user);
SET ROLE regress_cache_alice;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SELECT redis_explain('p:notes', 'SELECT v FROM note ORDER BY v')->>'redis_key' ~ '^p:notes#[0-9a-f]{16}$' AS scoped,
  redis_explain('p:notes', 'SELECT v FROM note ORDER BY v')->'scope' AS scope;
SET ROLE regress_cache_bob;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SET ROLE regress_cache_alice;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
RESET ROLE;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SELECT redis_explain('p:notes', 'SELECT v FROM note ORDER BY v')->>'redis_key' AS open_key;
ALTER POLICY p ON note USING (owner = current_setting('app.who', true));
SET ROLE regress_cache_alice;
SET app.who = 'nobody';
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SET app.who = 'regress_cache_bob';
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SELECT redis_explain('p:notes', 'SELECT v FROM note ORDER BY v')->'scope' AS scope;
RESET ROLE;
CREATE FUNCTION who() RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN RETURN current_setting(''app.who'', true); END';
ALTER POLICY p ON note USING (owner = who());
SET ROLE regress_cache_alice;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SET app.who = 'nobody';
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
SELECT redis_explain('p:notes', 'SELECT v FROM note ORDER BY v')->>'status' AS status,
  redis_explain('p:notes', 'SELECT v FROM note ORDER BY v')->>'cacheable' AS cacheable,
  redis_explain('p:notes', 'SELECT v FROM note ORDER BY v')->>'reason' AS reason;
SET row_security = off;
SELECT redis_cached('p:notes', 60, 'SELECT v FROM note ORDER BY v');
RESET row_security;
RESET ROLE;
DROP VIEW open;
DROP TABLE note;
DROP FUNCTION who();
DROP ROLE regress_cache_alice, regress_cache_bob;
