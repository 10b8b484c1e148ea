-- redis_invalidate: triggers that are not as they must be fail at the first fire, with the reason.
\pset format unaligned
CREATE TABLE u (id int, name text, place point);
CREATE TRIGGER k AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION redis_invalidate();
INSERT INTO u VALUES (1, 'a');
CREATE OR REPLACE TRIGGER k AFTER INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{nix}');
INSERT INTO u VALUES (1, 'a');
CREATE OR REPLACE TRIGGER k AFTER INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{id');
INSERT INTO u VALUES (1, 'a');
CREATE OR REPLACE TRIGGER k AFTER INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('pgc:{id}');
INSERT INTO u VALUES (1, 'a');
CREATE OR REPLACE TRIGGER k BEFORE INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{id}');
INSERT INTO u VALUES (1, 'a');
CREATE OR REPLACE TRIGGER k AFTER INSERT ON u EXECUTE FUNCTION redis_invalidate('all', 'u:{id}');
INSERT INTO u VALUES (1, 'a');
CREATE OR REPLACE TRIGGER k AFTER INSERT OR UPDATE ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{id}', 'n:{name}');
INSERT INTO u VALUES (1, NULL);
INSERT INTO u VALUES (1, repeat('x', 1023));
INSERT INTO u VALUES (1, 'a');
ALTER TABLE u RENAME id TO number;
UPDATE u SET name = 'b';
DROP TABLE u;
