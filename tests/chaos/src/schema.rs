//! The tables, views, functions and triggers that a run reads and writes.
//!
//! Owns their names: `questions` reads what `ways` and `changes` write. Each table stands for one
//! way in which a change can reach a result.

use pg_cache_testbed::Postgres;
use postgres::Client;

/// Groups of `items`, owners, regions of `parts`.
pub const GROUPS: i32 = 6;

/// Rows in each table, with ids from 0.
pub const IDS: i32 = 48;

const TABLES: &str = "
CREATE TABLE items (id int PRIMARY KEY, grp int NOT NULL, n int NOT NULL, note text NOT NULL);
CREATE TABLE owners (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE pets (id int PRIMARY KEY, owner int NOT NULL
    REFERENCES owners ON DELETE CASCADE ON UPDATE CASCADE, name text NOT NULL, n int NOT NULL);
CREATE TABLE parts (id int NOT NULL, region int NOT NULL, n int NOT NULL, note text NOT NULL)
    PARTITION BY RANGE (region);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (2);
CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM (2) TO (4) PARTITION BY LIST (region);
CREATE TABLE parts_b2 PARTITION OF parts_b FOR VALUES IN (2);
CREATE TABLE parts_b3 PARTITION OF parts_b FOR VALUES IN (3);
CREATE TABLE parts_c PARTITION OF parts FOR VALUES FROM (4) TO (6);
CREATE TABLE base (id int NOT NULL, n int NOT NULL);
CREATE TABLE child (extra text) INHERITS (base);
CREATE TABLE grandchild () INHERITS (child);
CREATE TABLE wide (id int PRIMARY KEY, v int NOT NULL);
CREATE TABLE twin_a (id int PRIMARY KEY, n int NOT NULL);
CREATE TABLE twin_b (id int PRIMARY KEY, n int NOT NULL);
CREATE TYPE mood AS ENUM ('calm', 'wild');
CREATE TABLE moods (id int PRIMARY KEY, m mood NOT NULL);
CREATE TABLE secrets (id int PRIMARY KEY, n int NOT NULL);
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON secrets USING (n % 2 = 0);
CREATE TABLE blinking (id int PRIMARY KEY, n int NOT NULL);
CREATE TABLE habits (id int PRIMARY KEY, n int NOT NULL);
CREATE TABLE extras (id int PRIMARY KEY, n int NOT NULL);
CREATE TABLE users (id int PRIMARY KEY, version bigint NOT NULL, payload text NOT NULL);
CREATE MATERIALIZED VIEW summary AS
    SELECT grp, count(*) AS c, sum(n) AS s FROM items GROUP BY grp;
CREATE UNIQUE INDEX ON summary (grp);
CREATE VIEW shown AS SELECT id, n FROM items WHERE n % 2 = 0;
CREATE FUNCTION scale(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 1';
";

const ROWS: &str = "
INSERT INTO items SELECT g, g % 6, g, 'first' FROM generate_series(0, 47) g;
INSERT INTO owners SELECT g, 'owner ' || g FROM generate_series(0, 5) g;
INSERT INTO pets SELECT g, g % 6, 'pet ' || g, g FROM generate_series(0, 47) g;
INSERT INTO parts SELECT g, g % 6, g, 'first' FROM generate_series(0, 47) g;
INSERT INTO base SELECT g, g FROM generate_series(0, 9) g;
INSERT INTO child SELECT g, g, 'c' FROM generate_series(10, 19) g;
INSERT INTO grandchild SELECT g, g, 'g' FROM generate_series(20, 29) g;
INSERT INTO wide SELECT g, g FROM generate_series(0, 19) g;
INSERT INTO twin_a SELECT g, g FROM generate_series(0, 9) g;
INSERT INTO twin_b SELECT g, 100 + g FROM generate_series(0, 9) g;
INSERT INTO moods SELECT g, (ARRAY['calm', 'wild'])[1 + g % 2]::mood FROM generate_series(0, 9) g;
INSERT INTO secrets SELECT g, g FROM generate_series(0, 19) g;
INSERT INTO blinking SELECT g, g FROM generate_series(0, 9) g;
INSERT INTO habits SELECT g, g FROM generate_series(0, 3) g;
INSERT INTO extras SELECT g, g FROM generate_series(0, 3) g;
INSERT INTO users SELECT g, 0, 'first' FROM generate_series(0, 23) g;
REFRESH MATERIALIZED VIEW summary;
";

/// Writes at every level of a tower of subtransactions, every other one of which fails.
const CODE: &str = "
CREATE FUNCTION nest(depth int, item int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE items SET n = n + 1 WHERE id = item;
    IF depth > 0 THEN
        BEGIN
            PERFORM nest(depth - 1, item + 1);
            IF depth % 2 = 0 THEN
                UPDATE items SET note = 'ROLLED-BACK-nest' WHERE id = item;
                RAISE EXCEPTION 'undo';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END IF;
END $$;
CREATE FUNCTION count_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE items SET n = n + 1 WHERE id = 0;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON owners DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION count_owner();
CREATE ROLE reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
";

const TRACKING: &str = "
SELECT redis_track('items', '{grp}'), redis_track('owners'), redis_track('pets', '{owner}'),
       redis_track('parts', '{region}'), redis_track('base'), redis_track('wide'),
       redis_track('twin_a'), redis_track('twin_b'), redis_track('moods'),
       redis_track('secrets'), redis_track('blinking'), redis_track('users', '{id}'),
       redis_track('habits'), redis_track('extras');
CREATE TRIGGER named AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION redis_invalidate('user:{id}');
ALTER TABLE users ENABLE ALWAYS TRIGGER named;
";

/// Makes everything in database `test`. Without `tracked` nothing is: the oracle must then find
/// violations.
pub fn create(postgres: &Postgres, tracked: bool) {
    let mut client = postgres.connect();
    for part in [TABLES, ROWS, CODE] {
        run(&mut client, part);
    }
    if tracked {
        run(&mut client, TRACKING);
        run(&mut client, "SELECT * FROM redis_repair()");
    }
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}
