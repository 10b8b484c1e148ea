-- redis_track: what it attaches, where, and what it refuses.
\pset format unaligned
\pset null (null)
CREATE VIEW attached AS
SELECT tgrelid::regclass, tgname, tgenabled AS state, tgparentid <> 0 AS clone FROM pg_trigger
WHERE tgname LIKE 'redis%' ORDER BY tgrelid::regclass::text COLLATE "C", tgname COLLATE "C";
CREATE VIEW tracked AS
SELECT * FROM redis_tracked ORDER BY relation::text COLLATE "C";
CREATE TABLE t (id int PRIMARY KEY, org int, "odd ""name\é" text);
SELECT redis_track('t');
TABLE tracked;
TABLE attached;
-- Again: in place of what was there.
SELECT redis_track('t', '{org}');
SELECT redis_track('t', by => ARRAY['org', 'odd "name\é', 'org']);
TABLE tracked;
SELECT redis_track('t', '{nix}');
SELECT redis_track('t', '{ctid}');
SELECT redis_track('t', ARRAY['org', NULL]);
CREATE TABLE wide (a int, b int, c int, d int, e int, f int, g int, h int, i int, place point);
SELECT redis_track('wide', '{a,b,c,d,e,f,g,h,i}');
SELECT redis_track('wide', '{place}');
TABLE tracked;
-- Partitions, present and future.
CREATE TABLE p (id int, k int) PARTITION BY LIST (k);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
SELECT redis_track('p', '{id}');
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY LIST (id);
CREATE TABLE p21 PARTITION OF p2 FOR VALUES IN (1);
CREATE SCHEMA inner_schema CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3);
CREATE TABLE p4 (id int, k int);
ALTER TABLE p ATTACH PARTITION p4 FOR VALUES IN (4);
TABLE tracked;
SELECT * FROM attached WHERE tgrelid <> 't'::regclass;
SELECT redis_track('p1');
SELECT redis_untrack('p1');
-- What leaves is not tracked any more, and may come back.
ALTER TABLE p DETACH PARTITION p1;
ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY;
SELECT * FROM attached WHERE tgrelid IN ('p1'::regclass, 'p2'::regclass, 'p21'::regclass);
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
SELECT * FROM tracked WHERE relation = 'p'::regclass;
SELECT redis_track('p1', '{k}');
ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
-- What is switched off is seen.
ALTER TABLE p4 DISABLE TRIGGER redis_track_row;
ALTER TABLE p2 DISABLE TRIGGER redis_track_truncate;
SELECT * FROM tracked WHERE relation = 'p'::regclass;
SELECT redis_track('p', '{id}');
SELECT * FROM tracked WHERE relation = 'p'::regclass;
SELECT * FROM attached WHERE state <> 'A';
-- Inheritance children, of any depth.
CREATE TABLE i (a int, b text);
CREATE TABLE ic () INHERITS (i);
CREATE TEMP TABLE own () INHERITS (i);
SELECT redis_track('i', '{b}');
CREATE TABLE ic2 (c int) INHERITS (i);
CREATE TABLE icc () INHERITS (ic);
CREATE TABLE alone (a int, b text);
ALTER TABLE alone INHERIT i;
CREATE TABLE other () INHERITS (t);
SELECT * FROM tracked WHERE relation <> 'p'::regclass;
ALTER TABLE ic2 DISABLE TRIGGER USER;
ALTER TABLE ic2 ENABLE TRIGGER USER;
DROP TRIGGER redis_track_row ON icc;
ALTER TABLE i RENAME b TO bb;
SELECT relation, missing FROM tracked WHERE missing IS NOT NULL;
SELECT redis_untrack('i');
SELECT redis_untrack('p');
TABLE tracked;
SELECT redis_untrack('alone');
-- What cannot be tracked.
CREATE MATERIALIZED VIEW m AS SELECT 1 AS a;
CREATE FOREIGN DATA WRAPPER regress_cache_nothing;
CREATE SERVER regress_cache_nowhere FOREIGN DATA WRAPPER regress_cache_nothing;
CREATE FOREIGN TABLE away (id int, k int) SERVER regress_cache_nowhere;
CREATE SEQUENCE s;
SELECT redis_track('m');
SELECT redis_track('attached');
SELECT redis_track('own');
SELECT redis_track('away');
SELECT redis_track('s');
SELECT redis_track('t_pkey');
SELECT redis_track('pg_class');
SELECT redis_track(4711);
SELECT redis_track(NULL);
SELECT redis_untrack(NULL);
ALTER TABLE p ATTACH PARTITION away FOR VALUES IN (9);
SELECT redis_track('p');
SELECT * FROM tracked WHERE relation = 'p'::regclass;
-- Only an owner tracks; a partition made by its owner is tracked as the others are.
CREATE ROLE regress_cache_owner;
CREATE ROLE regress_cache_writer;
CREATE TABLE owned (id int) PARTITION BY LIST (id);
ALTER TABLE owned OWNER TO regress_cache_owner;
GRANT ALL ON owned TO regress_cache_writer;
GRANT CREATE ON SCHEMA public TO regress_cache_owner;
SET ROLE regress_cache_writer;
SELECT redis_track('owned');
SELECT redis_untrack('owned');
SELECT redis_touch('x');
SELECT redis_depends('x');
SET ROLE regress_cache_owner;
SELECT redis_track('owned');
CREATE TABLE owned_1 PARTITION OF owned FOR VALUES IN (1);
RESET ROLE;
SELECT * FROM tracked WHERE relation = 'owned'::regclass;
-- Functions that only triggers call.
SELECT redis_track_row();
SELECT redis_track_truncate();
SELECT redis_invalidate();
CREATE TRIGGER wrong BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION redis_track_row();
CREATE TRIGGER wrong AFTER UPDATE ON t EXECUTE FUNCTION redis_track_truncate();
SELECT redis_touch(NULL);
SELECT redis_depends(NULL);
BEGIN READ ONLY;
SELECT redis_touch('x');
ROLLBACK;
DROP TABLE i, own, ic, ic2, icc, alone, other, p, t, p1, wide, owned CASCADE;
DROP VIEW tracked, attached;
DROP SCHEMA inner_schema;
DROP MATERIALIZED VIEW m;
DROP SEQUENCE s;
DROP FOREIGN DATA WRAPPER regress_cache_nothing CASCADE;
REVOKE CREATE ON SCHEMA public FROM regress_cache_owner;
DROP ROLE regress_cache_owner, regress_cache_writer;
