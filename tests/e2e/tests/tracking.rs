//! What a tracked table tells: every way of writing notes the tags that queries depend on, and no
//! others.

use pg_cache_e2e::Scene;
use pg_cache_e2e::notes::{any, catalogue, expect, group, named, notes, whole};
use postgres::Client;

/// A scene whose tag table is made.
fn registered() -> (Scene, Client) {
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
    (scene, client)
}

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

#[test]
fn every_way_of_writing_tells() {
    // Danger: a kind of write that fires nothing leaves stale entries for ever.
    let (scene, mut client) = registered();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int);
         CREATE TABLE child (id int PRIMARY KEY,
             t int REFERENCES t ON DELETE CASCADE ON UPDATE SET NULL);
         INSERT INTO t SELECT g, g FROM generate_series(1, 20) g;
         INSERT INTO child SELECT g, g FROM generate_series(1, 20) g;
         CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS
             'BEGIN UPDATE t SET v = 0 WHERE id = 9; RETURN 1; END';
         SELECT redis_track('t');
         SELECT redis_track('child')",
    );
    let (t, child) = (any(&mut client, "t"), any(&mut client, "child"));
    let (all, all_children) = (whole(&mut client, "t"), whole(&mut client, "child"));
    for sql in [
        "INSERT INTO t VALUES (21, 1)",
        "UPDATE t SET v = 2 WHERE id = 1",
        "INSERT INTO t VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET v = 3",
        "COPY t FROM PROGRAM 'echo 22,1' (FORMAT csv)",
        "WITH w AS (INSERT INTO t VALUES (23, 1) RETURNING id) SELECT * FROM w",
        "MERGE INTO t USING (SELECT 2 AS id) s ON s.id = t.id WHEN MATCHED THEN UPDATE SET v = 5",
        "SELECT writes()",
        "DO 'BEGIN UPDATE t SET v = 7 WHERE id = 3; END'",
        "SET session_replication_role = replica; UPDATE t SET v = 8 WHERE id = 3;
         RESET session_replication_role",
        "BEGIN; SAVEPOINT a; UPDATE t SET v = 1 WHERE id = 4; RELEASE a; COMMIT",
        "BEGIN; DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE; FETCH c;
         UPDATE t SET v = v WHERE CURRENT OF c; COMMIT",
    ] {
        expect(&scene, &mut client, sql, &[&t]);
    }
    for sql in ["DELETE FROM t WHERE id = 5", "UPDATE t SET id = 100 WHERE id = 6"] {
        // The cascade writes through the child's own triggers.
        expect(&scene, &mut client, sql, &[&t, &child]);
    }
    expect(&scene, &mut client, "TRUNCATE child", &[&child, &all_children]);
    expect(&scene, &mut client, "TRUNCATE t CASCADE", &[&t, &all, &child, &all_children]);
    for sql in [
        "UPDATE t SET v = 1 WHERE false",
        "BEGIN; INSERT INTO t VALUES (1, 1); ROLLBACK",
        "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (1, 1); ROLLBACK TO a; COMMIT",
        "SELECT * FROM t",
        "SELECT redis_untrack('child'); INSERT INTO child VALUES (1)",
    ] {
        let noted = notes(&scene, &mut client, sql);
        assert!(!noted.contains(&t) && !noted.contains(&child), "{sql}: {noted:?}");
    }
}

#[test]
fn partitions_tell_for_their_root() {
    // Danger: a query over the root does not hear of a write that names a leaf, or the reverse.
    let (scene, mut client) = registered();
    run(
        &mut client,
        "CREATE TABLE p (id int, k int) PARTITION BY LIST (k);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
         SELECT redis_track('p');
         CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY LIST (id);
         CREATE TABLE p21 PARTITION OF p2 FOR VALUES IN (1, 2);
         CREATE TABLE p3 (id int, k int);
         ALTER TABLE p ATTACH PARTITION p3 FOR VALUES IN (3)",
    );
    let (p, all) = (any(&mut client, "p"), whole(&mut client, "p"));
    for sql in [
        "INSERT INTO p VALUES (1, 1), (1, 2), (1, 3)",
        "UPDATE p SET id = 2 WHERE k = 1",
        "UPDATE p1 SET id = 3",
        "INSERT INTO p21 VALUES (2, 2)",
        "DELETE FROM p2 WHERE id = 2",
        "UPDATE p SET k = 3 WHERE k = 1",
        "INSERT INTO p3 VALUES (9, 3)",
    ] {
        expect(&scene, &mut client, sql, &[&p]);
    }
    for sql in ["TRUNCATE p21", "TRUNCATE p2", "TRUNCATE p3", "TRUNCATE p"] {
        expect(&scene, &mut client, sql, &[&p, &all]);
    }
    // What left tells no more; what is tracked by itself tells for itself.
    run(&mut client, "ALTER TABLE p DETACH PARTITION p1");
    expect(&scene, &mut client, "INSERT INTO p1 VALUES (1, 1)", &[]);
    run(&mut client, "SELECT redis_track('p1')");
    let own = any(&mut client, "p1");
    expect(&scene, &mut client, "INSERT INTO p1 VALUES (1, 1)", &[&own]);
    // A backend that wrote to it before must not go on as before.
    run(&mut client, "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1)");
    expect(&scene, &mut client, "INSERT INTO p1 VALUES (1, 1)", &[&p]);
    run(&mut client, "CREATE TABLE top (id int, k int) PARTITION BY RANGE (k)");
    run(&mut client, "SELECT redis_track('top'); ALTER TABLE p2 RENAME TO renamed");
    run(&mut client, "ALTER TABLE p DETACH PARTITION renamed");
    run(&mut client, "SELECT redis_track('renamed'); INSERT INTO p21 VALUES (1, 2)");
    let alone = any(&mut client, "renamed");
    expect(&scene, &mut client, "INSERT INTO p21 VALUES (1, 2)", &[&alone]);
    run(&mut client, "ALTER TABLE top ATTACH PARTITION renamed FOR VALUES FROM (2) TO (3)");
    let top = any(&mut client, "top");
    expect(&scene, &mut client, "INSERT INTO p21 VALUES (1, 2)", &[&top]);
}

#[test]
fn inheritance_children_tell_for_themselves() {
    // Danger: a query over the parent reads rows of a child that nobody watches.
    let (scene, mut client) = registered();
    run(
        &mut client,
        "CREATE TABLE parent (id int, v int);
         CREATE TABLE one () INHERITS (parent);
         SELECT redis_track('parent', '{id}');
         CREATE TABLE two (extra int) INHERITS (one);
         CREATE TABLE three (v int, id int);
         ALTER TABLE three INHERIT parent",
    );
    for table in ["parent", "one", "two", "three"] {
        let (tag, all) = (any(&mut client, table), whole(&mut client, table));
        let seven = group(&mut client, table, &[("id", "7")]);
        let insert = format!("INSERT INTO {table} (id) VALUES (7)");
        expect(&scene, &mut client, &insert, &[&tag, &seven]);
        let truncate = format!("TRUNCATE ONLY {table}");
        expect(&scene, &mut client, &truncate, &[&tag, &all]);
    }
}

#[test]
fn groups_are_told_by_the_types_own_equality() {
    // Danger: a value that is equal and written otherwise hashes to another group; a row that moves
    // tells only where it went.
    let (scene, mut client) = registered();
    run(
        &mut client,
        "CREATE TABLE g (id int, n numeric, s text);
         INSERT INTO g VALUES (1, 1.0, 'a');
         SELECT redis_track('g', '{id,n}')",
    );
    let tag = any(&mut client, "g");
    let all = whole(&mut client, "g");
    let mut of = |id: &str, n: &str| {
        [
            group(&mut client, "g", &[("id", id)]),
            group(&mut client, "g", &[("n", n)]),
            group(&mut client, "g", &[("id", id), ("n", n)]),
        ]
    };
    let one = of("1", "1.00::numeric");
    let two = of("2", "1::numeric");
    let mut client = scene.connect();
    let mut told = |sql: &str, groups: &[&String]| {
        let mut expected = vec![&tag];
        expected.extend(groups);
        expect(&scene, &mut client, sql, &expected);
    };
    told("UPDATE g SET s = 'b'", &[&one[0], &one[1], &one[2]]);
    told("UPDATE g SET n = 1.000", &[&one[0], &one[1], &one[2]]);
    told("UPDATE g SET id = 2", &[&one[0], &one[1], &one[2], &two[0], &two[2]]);
    told("UPDATE g SET id = NULL", &[&two[0], &two[1], &two[2]]);
    told("UPDATE g SET n = NULL", &[&two[1]]);
    told("UPDATE g SET s = 'c'", &[]);
    told("DELETE FROM g", &[]);
    told("INSERT INTO g VALUES (1, 1)", &[&one[0], &one[1], &one[2]]);
    // A column of another name makes no group: queries that were planned before must hear of it.
    run(&mut scene.connect(), "ALTER TABLE g RENAME n TO renamed");
    told("UPDATE g SET s = 'd'", &[&all]);
}

#[test]
fn groups_of_partitions_are_those_of_the_root() {
    // Danger: a partition whose columns stand in another order hashes another column.
    let (scene, mut client) = registered();
    run(
        &mut client,
        "CREATE TABLE p (id int, k int, v text) PARTITION BY LIST (k);
         SELECT redis_track('p', '{v}');
         CREATE TABLE p1 (gone int, v text, k int, id int);
         ALTER TABLE p1 DROP gone;
         ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
         ALTER TABLE p ADD later text DEFAULT 'x';
         INSERT INTO p VALUES (1, 1, 'a');
         SELECT redis_track('p', '{v,later}')",
    );
    let tag = any(&mut client, "p");
    let a = group(&mut client, "p", &[("v", "'a'::text")]);
    let x = group(&mut client, "p", &[("later", "'x'::text")]);
    let both = group(&mut client, "p", &[("v", "'a'::text"), ("later", "'x'::text")]);
    for sql in ["UPDATE p SET id = 2", "UPDATE p1 SET id = 3", "DELETE FROM p"] {
        expect(&scene, &mut client, sql, &[&tag, &a, &x, &both]);
    }
}

#[test]
fn who_may_not_use_our_schema_still_may_change_ones_own() {
    // Danger: the event triggers look up a name that the user may not, and no table is created.
    let (scene, mut client) = registered();
    let role = scene.create_role("outsider");
    run(
        &mut client,
        &format!(
            "DROP EXTENSION pg_cache; CREATE SCHEMA hidden; CREATE EXTENSION pg_cache SCHEMA hidden;
             CREATE SCHEMA own AUTHORIZATION {role}"
        ),
    );
    let mut outsider = scene.connect_as(&role);
    run(
        &mut outsider,
        "SET search_path = own;
         CREATE TABLE p (id int) PARTITION BY LIST (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
         CREATE TABLE p2 (id int);
         ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
         ALTER TABLE p DETACH PARTITION p2;
         CREATE INDEX ON p (id);
         DROP TABLE p1",
    );
    run(&mut client, "SELECT hidden.redis_track('own.p')");
    run(&mut outsider, "INSERT INTO p2 VALUES (1); ALTER TABLE p RENAME TO q");
    // A partition of a tracked table needs a trigger of ours: without, the tree lives by the ttl.
    run(&mut outsider, "CREATE TABLE q3 PARTITION OF q FOR VALUES IN (3)");
    let sql = "SELECT count(*) FROM hidden.redis_tracked WHERE missing IS NULL";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 0);
    run(&mut client, "SELECT hidden.redis_track('own.q')");
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
}

#[test]
fn a_tag_of_ones_own_is_told() {
    // Danger: redis_touch without a transaction ID would tell nobody.
    let (scene, mut client) = registered();
    expect(&scene, &mut client, "SELECT redis_touch('prices')", &[&named("prices")]);
    let undone = "BEGIN; SELECT redis_touch('prices'); ROLLBACK";
    expect(&scene, &mut client, undone, &[]);
}

#[test]
fn ddl_that_changes_results_tells() {
    // Danger: what a view, a function, a type or a policy now says is not what is served.
    let (scene, mut client) = registered();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT redis_track('t');
         CREATE TABLE part (id int) PARTITION BY LIST (id);
         CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
         CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2)",
    );
    for sql in [
        "CREATE VIEW seen AS SELECT v FROM t",
        "CREATE OR REPLACE VIEW seen AS SELECT v + 1 AS v FROM t",
        "DROP VIEW seen",
        "CREATE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE FUNCTION f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2'",
        "CREATE TYPE mood AS ENUM ('sad')",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'glad'",
        "CREATE POLICY p ON t USING (v > 1)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "DROP POLICY p ON t",
        "ALTER TABLE t ALTER v TYPE bigint",
        "ALTER TABLE t RENAME v TO w",
        "ALTER TABLE t DISABLE TRIGGER USER",
        "ALTER TABLE t ENABLE ALWAYS TRIGGER redis_track_row",
        "SELECT redis_track('t', '{id}')",
        "SELECT redis_untrack('t')",
        "DROP TABLE t",
        "DROP TYPE mood",
        "ALTER TABLE part DETACH PARTITION part_1",
        "ALTER TABLE part DETACH PARTITION part_2 CONCURRENTLY",
        "ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2)",
        "CREATE TABLE copied AS SELECT 1 AS a",
        "CREATE RULE r AS ON UPDATE TO copied DO INSTEAD NOTHING",
        "CREATE SCHEMA s CREATE TABLE inside (a int)",
        "DROP SCHEMA s CASCADE",
        "DO 'BEGIN EXECUTE ''ALTER FUNCTION f() STABLE''; END'",
        "CREATE EXTENSION pg_trgm",
        "DROP EXTENSION pg_trgm",
        "CREATE OPERATOR === (leftarg = int, rightarg = int, procedure = int4eq)",
        "CREATE CAST (int AS json) WITH INOUT",
        "SET session_replication_role = replica; CREATE TABLE quiet (a int);
         RESET session_replication_role",
    ] {
        expect(&scene, &mut client, sql, &[&catalogue()]);
    }
}

#[test]
fn ddl_that_changes_no_result_is_quiet() {
    // Danger: an index or a temporary table makes every backend analyse its plans anew.
    let (scene, mut client) = registered();
    run(&mut client, "CREATE TABLE t (id int, v int); CREATE MATERIALIZED VIEW m AS SELECT 1 AS a");
    for sql in [
        "CREATE INDEX i ON t (v)",
        "CREATE INDEX CONCURRENTLY i2 ON t (v)",
        "ALTER INDEX i RENAME TO j",
        "REINDEX INDEX j",
        "DROP INDEX j",
        "DROP INDEX CONCURRENTLY i2",
        "CREATE STATISTICS st ON id, v FROM t",
        "DROP STATISTICS st",
        "COMMENT ON TABLE t IS 'x'",
        "GRANT SELECT ON t TO PUBLIC",
        "REVOKE SELECT ON t FROM PUBLIC",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "VACUUM FULL t",
        "ANALYZE t",
        "CREATE TABLE IF NOT EXISTS t (id int)",
        "DROP TABLE IF EXISTS nothing",
        "CREATE TEMP TABLE mine (id serial PRIMARY KEY, v text)",
        "ALTER TABLE mine ADD w int",
        "CREATE INDEX ON mine (w)",
        "CREATE TEMP VIEW seen AS SELECT * FROM mine",
        "DROP VIEW seen",
        "DROP TABLE mine",
        "BEGIN; CREATE TEMP TABLE brief (a int) ON COMMIT DROP; INSERT INTO brief VALUES (1);
         COMMIT",
        "BEGIN; CREATE TABLE undone (a int); ROLLBACK",
    ] {
        expect(&scene, &mut client, sql, &[]);
    }
    let told = [any(&mut client, "m"), whole(&mut client, "m")];
    expect(&scene, &mut client, "REFRESH MATERIALIZED VIEW m", &[&told[0], &told[1]]);
    run(&mut client, "CREATE UNIQUE INDEX ON m (a)");
    let concurrently = "REFRESH MATERIALIZED VIEW CONCURRENTLY m";
    expect(&scene, &mut client, concurrently, &[&told[0], &told[1]]);
}
