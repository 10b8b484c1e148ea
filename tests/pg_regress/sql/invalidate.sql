-- redis_invalidate: triggers that are not as they must be are refused, with the reason.
\pset format unaligned
CREATE TABLE u (id int, name text, place point);
CREATE TRIGGER k AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION redis_invalidate();
CREATE TRIGGER k AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION redis_invalidate('a', '');
CREATE TRIGGER k AFTER INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{nix}');
CREATE TRIGGER k AFTER INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{id');
CREATE TRIGGER k AFTER INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('pgc:{id}');
CREATE TRIGGER k BEFORE INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{id}');
CREATE TRIGGER k AFTER INSERT ON u EXECUTE FUNCTION redis_invalidate('all', 'u:{id}');
CREATE TRIGGER k AFTER INSERT ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{id}{name}');
CREATE TRIGGER k BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION redis_track_row();
CREATE TRIGGER k AFTER UPDATE ON u EXECUTE FUNCTION redis_track_row();
CREATE TRIGGER k AFTER DELETE ON u EXECUTE FUNCTION redis_track_truncate();
INSERT INTO u VALUES (1, 'a');
CREATE TRIGGER s AFTER INSERT OR TRUNCATE ON u EXECUTE FUNCTION redis_invalidate('all');
CREATE TRIGGER k AFTER INSERT OR UPDATE ON u FOR EACH ROW
    EXECUTE FUNCTION redis_invalidate('u:{id}', 'n:{name}');
INSERT INTO u VALUES (1, NULL);
INSERT INTO u VALUES (1, repeat('x', 1023));
INSERT INTO u VALUES (1, 'a');
ALTER TABLE u RENAME id TO number;
ALTER TABLE u DROP COLUMN name;
UPDATE u SET name = 'b';
DROP TABLE u;
