-- Events: what the four triggers and the functions send, in-line and durable, and what is refused.
\pset format unaligned
\pset null (null)
SELECT redis_register('events:');
SELECT count(*) > 0 AS repaired FROM redis_repair();
-- The entries of a stream without what differs from run to run.
CREATE FUNCTION entries(stream text) RETURNS SETOF text LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(
               (fields->>'event')::jsonb - 'xid' - 'at',
               (fields->>'payload')::jsonb - 'xid' - 'at')::text
      FROM jsonb_array_elements(redis_command('XRANGE', 'events:' || stream, '-', '+'))
               WITH ORDINALITY AS t(entry, n),
           LATERAL (SELECT jsonb_object_agg(entry->1->>(i - 1), entry->1->>i) AS fields
                      FROM generate_series(1, jsonb_array_length(entry->1) - 1, 2) AS i) AS f
     ORDER BY n
$$;
-- Waits until the worker has sent what is durable.
CREATE PROCEDURE all_sent() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..3000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM redis_outbox);
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
    IF EXISTS (SELECT FROM redis_outbox) THEN
        RAISE 'not sent within 30 seconds';
    END IF;
END
$$;
CREATE TABLE o (id int PRIMARY KEY, v text, secret text);
CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON o FOR EACH ROW
    EXECUTE FUNCTION redis_stream('o', 'except=secret', 'maxlen=1000');
CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON o FOR EACH ROW
    EXECUTE FUNCTION redis_store('o:{id}', 'except=secret', 'ttl=1 hour');
CREATE TRIGGER c AFTER INSERT OR UPDATE OR DELETE ON o FOR EACH ROW
    EXECUTE FUNCTION redis_store('h:{id}', 'as=hash', 'columns=v');
CREATE TRIGGER d AFTER INSERT OR UPDATE ON o FOR EACH ROW
    EXECUTE FUNCTION redis_job('jobs', 'columns=id', 'when=v');
CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON o FOR EACH ROW
    EXECUTE FUNCTION redis_publish('o:{id}', 'except=secret');
-- In-line.
SELECT redis_stat_reset();
INSERT INTO o VALUES (1, 'a', 's'), (2, NULL, 's');
UPDATE o SET v = 'b', secret = 't' WHERE id = 1;
UPDATE o SET secret = 'u';
DELETE FROM o WHERE id = 2;
SELECT entries('o');
SELECT entries('jobs');
SELECT redis_command('GET', 'events:o:1'), redis_command('GET', 'events:o:2');
SELECT redis_command('TTL', 'events:o:1')::text::int BETWEEN 3500 AND 3600 AS ttl;
SELECT redis_command('HGETALL', 'events:h:1'), redis_command('EXISTS', 'events:h:2');
SELECT sent, lost FROM redis_stat_commit;
-- Rolled back, and to savepoints.
BEGIN;
INSERT INTO o VALUES (3, 'lost');
ROLLBACK;
BEGIN;
INSERT INTO o VALUES (4, 'kept');
SAVEPOINT s;
INSERT INTO o VALUES (5, 'lost');
ROLLBACK TO s;
INSERT INTO o VALUES (6, 'kept');
RELEASE s;
COMMIT;
SELECT e::jsonb->'new'->>'id' AS id FROM entries('o') AS e WHERE e::jsonb->>'op' = 'INSERT';
SELECT redis_command('GET', 'events:o:3') AS "3", redis_command('GET', 'events:o:4') AS "4",
       redis_command('GET', 'events:o:5') AS "5", redis_command('GET', 'events:o:6') AS "6";
-- Functions.
BEGIN READ ONLY;
SELECT redis_at_commit('SET', 'events:k', 'v'), redis_publish('c', 'x');
SELECT redis_command('GET', 'events:k') AS "before";
COMMIT;
SELECT redis_command('GET', 'events:k') AS "after";
SELECT redis_publish('pgc:c', 'x');
SELECT redis_publish(NULL, 'x');
SELECT redis_at_commit('SUBSCRIBE', 'c');
SELECT redis_at_commit('SET', 'k', NULL);
-- Durable: by the outbox, and in the order of the commits.
CREATE TABLE d (id int PRIMARY KEY, v text);
CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON d FOR EACH ROW
    EXECUTE FUNCTION redis_stream('d', 'durable');
CREATE TRIGGER b AFTER INSERT OR UPDATE OR DELETE ON d FOR EACH ROW
    EXECUTE FUNCTION redis_store('d:{id}', 'durable');
CREATE TRIGGER c AFTER INSERT ON d FOR EACH ROW
    EXECUTE FUNCTION redis_job('durable:jobs', 'durable', 'columns=id');
CREATE TRIGGER d AFTER INSERT ON d FOR EACH ROW EXECUTE FUNCTION redis_publish('d', 'durable');
INSERT INTO d VALUES (1, 'a');
BEGIN;
INSERT INTO d VALUES (2, 'lost');
ROLLBACK;
UPDATE d SET v = 'b';
BEGIN;
SAVEPOINT s;
INSERT INTO d VALUES (3, 'lost');
ROLLBACK TO s;
INSERT INTO d VALUES (4, 'c');
COMMIT;
CALL all_sent();
SELECT entries('d');
SELECT entries('durable:jobs');
SELECT redis_command('GET', 'events:d:1') AS "1", redis_command('GET', 'events:d:3') AS "3",
       redis_command('GET', 'events:d:4') AS "4";
-- Prepared: all of it goes by the outbox, when it is committed.
BEGIN;
INSERT INTO d VALUES (5, 'prepared');
INSERT INTO o VALUES (7, 'prepared');
SELECT redis_at_commit('SET', 'events:p', 'prepared');
PREPARE TRANSACTION 'kept';
BEGIN;
INSERT INTO d VALUES (6, 'lost');
INSERT INTO o VALUES (8, 'lost');
PREPARE TRANSACTION 'dropped';
SELECT redis_command('GET', 'events:d:5') AS "5", redis_command('GET', 'events:o:7') AS "7",
       redis_command('GET', 'events:p') AS p;
ROLLBACK PREPARED 'dropped';
COMMIT PREPARED 'kept';
CALL all_sent();
SELECT max(e::jsonb->'new'->>'id') AS d FROM entries('d') AS e;
SELECT e::jsonb->'new'->>'id' AS o FROM entries('o') AS e WHERE e::jsonb->'new'->>'v' = 'prepared';
SELECT redis_command('GET', 'events:d:5') AS "5", redis_command('GET', 'events:o:7') AS "7",
       redis_command('GET', 'events:d:6') AS "6", redis_command('GET', 'events:p') AS p;
-- Partitions speak in the name of their root.
CREATE TABLE root (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1) PARTITION BY LIST (id);
CREATE TABLE leaf_of_leaf PARTITION OF leaf FOR VALUES IN (1);
CREATE TRIGGER a AFTER INSERT ON root FOR EACH ROW EXECUTE FUNCTION redis_stream('root');
INSERT INTO root VALUES (1, 1);
SELECT entries('root');
DROP TABLE root;
-- What is refused, at the first moment at which it can be known.
CREATE VIEW w AS SELECT * FROM o;
CREATE TRIGGER x INSTEAD OF INSERT ON w FOR EACH ROW EXECUTE FUNCTION redis_stream('x');
CREATE TRIGGER x BEFORE INSERT ON o FOR EACH ROW EXECUTE FUNCTION redis_store('x');
CREATE TRIGGER x AFTER INSERT ON o EXECUTE FUNCTION redis_job('x');
CREATE TRIGGER x AFTER TRUNCATE ON o EXECUTE FUNCTION redis_publish('x');
CREATE TRIGGER x AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION redis_stream();
CREATE TRIGGER x AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION redis_stream('x', 'ttl=5');
CREATE TRIGGER x AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION redis_stream('x', 'maxlen=no');
CREATE TRIGGER x AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION redis_store('x', 'as=list');
CREATE TRIGGER x AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION redis_job('x', 'columns=nix');
CREATE TRIGGER x AFTER INSERT ON o FOR EACH ROW
    EXECUTE FUNCTION redis_publish('x:{secret}', 'except=secret');
CREATE TRIGGER x AFTER INSERT ON o FOR EACH ROW EXECUTE FUNCTION redis_store('pgc:{id}');
-- How many bytes it has differs from run to run.
\set VERBOSITY terse
SET pg_cache.value_bytes_max = 1024;
INSERT INTO o VALUES (9, repeat('x', 2000));
SELECT redis_at_commit('SET', 'k', repeat('x', 2000));
RESET pg_cache.value_bytes_max;
-- Redis away: the commit stands.
SET pg_cache.url = 'unix:///nonexistent.sock';
INSERT INTO o VALUES (10, 'a');
RESET pg_cache.url;
SELECT count(*) FROM o WHERE id = 10;
DROP VIEW w;
DROP TABLE o, d;
DROP FUNCTION entries(text);
DROP PROCEDURE all_sent();
SELECT redis_register('');
SELECT count(*) > 0 AS repaired FROM redis_repair();
