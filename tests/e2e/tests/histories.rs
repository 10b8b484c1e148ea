//! Histories: a query that is exact, kept; then a change of any kind; then what the query returns.

use pg_cache_e2e::outcome::explained;
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};
use postgres::Client;

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn scene_with(schema: &str) -> (Scene, Client, Client) {
    let scene = Scene::new();
    let (mut reader, mut writer) = (scene.connect(), scene.connect());
    run(&mut writer, schema);
    run(&mut reader, "SELECT * FROM redis_repair()");
    (scene, reader, writer)
}

#[track_caller]
fn fill_exact(reader: &mut Client, key: &str, query: &str) {
    same_as_direct(reader, key, query).unwrap();
    let exact = explained(reader, key, query, "exact");
    assert_eq!(exact.as_deref(), Some("exact"), "{query}");
}

/// Something that is read, and ways of changing it.
struct History {
    schema: &'static str,
    queries: &'static [&'static str],
    changes: &'static [&'static str],
}

const HISTORIES: &[History] = &[
    History {
        schema: "CREATE TABLE a (id int PRIMARY KEY, g numeric, arr int[], d date);
                 CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE
                                 ON UPDATE CASCADE, v text);
                 INSERT INTO a SELECT i, i % 3, ARRAY[i], '2026-01-01' FROM generate_series(1, 9) i;
                 INSERT INTO b SELECT i, i, 'v' || i FROM generate_series(1, 9) i;
                 SELECT redis_track('a', '{id,g}'); SELECT redis_track('b', '{a}')",
        queries: &[
            "SELECT * FROM a WHERE g = 1 ORDER BY id",
            "SELECT * FROM a WHERE g = 1.000 AND id = 4",
            "SELECT * FROM a WHERE id = ANY (ARRAY[1, 2]) ORDER BY id",
            "SELECT a.id, b.v FROM a LEFT JOIN b ON b.a = a.id AND b.a = 4 ORDER BY 1",
            "SELECT a.id, b.v FROM a FULL JOIN b ON b.a = a.id AND b.a = 4 ORDER BY 1, 2",
            "SELECT a.id, x.v FROM a, LATERAL (SELECT v FROM b WHERE b.a = a.id) x
              WHERE a.id = 4",
            "SELECT (SELECT count(*) FROM b WHERE b.a = 4), count(*) FROM a WHERE g = 1",
            "WITH RECURSIVE r AS (SELECT 4 AS n UNION SELECT b.id FROM r JOIN b ON b.a = r.n)
              SELECT n FROM r ORDER BY 1",
            "SELECT id FROM a WHERE g = 1 EXCEPT SELECT a FROM b WHERE a = 4 ORDER BY 1",
            "SELECT id FROM a WHERE NOT EXISTS (SELECT FROM b WHERE b.a = a.id) ORDER BY 1",
            "SELECT g, count(*) FROM a GROUP BY ROLLUP (g) ORDER BY 1",
            "SELECT * FROM (a JOIN b USING (id)) AS j WHERE j.id = 4",
            "SELECT * FROM a RIGHT JOIN b ON a.id = b.a AND a.g = 1 WHERE b.a = 4",
        ],
        changes: &[
            "UPDATE a SET g = 1 WHERE id = 3",
            "UPDATE a SET id = 40 WHERE id = 4",
            "UPDATE a SET id = 4 WHERE id = 40",
            "UPDATE b SET a = 4 WHERE id = 1",
            "DELETE FROM a WHERE id = 4",
            "INSERT INTO a VALUES (4, 1.0, NULL, now()) ON CONFLICT DO NOTHING",
            "INSERT INTO a VALUES (4, 2, NULL, now()) ON CONFLICT (id) DO UPDATE SET g = 1.00",
            "MERGE INTO b USING a ON b.a = a.id WHEN MATCHED THEN UPDATE SET v = 'm'
               WHEN NOT MATCHED THEN INSERT VALUES (a.id + 100, a.id, 'n')",
            "COPY a FROM PROGRAM 'echo 77,1,,' (FORMAT csv)",
            "WITH x AS (DELETE FROM b WHERE a = 4 RETURNING *) INSERT INTO b
               SELECT id + 1000, a, 'moved' FROM x",
            "SET session_replication_role = replica; UPDATE a SET g = g + 1;
             RESET session_replication_role",
            "ALTER TABLE a ALTER g TYPE numeric USING g + 1",
            "ALTER TABLE b ALTER v TYPE varchar USING v || '!'",
            "ALTER TABLE a ADD COLUMN x int DEFAULT 7",
            "ALTER TABLE a RENAME COLUMN arr TO g2",
            "ALTER TABLE a DISABLE TRIGGER ALL; UPDATE a SET g = 1;
             ALTER TABLE a ENABLE ALWAYS TRIGGER redis_track_row",
            "ALTER TABLE a ENABLE ALWAYS TRIGGER redis_track_truncate",
            "VACUUM FULL a",
            "TRUNCATE a CASCADE",
        ],
    },
    History {
        schema: "CREATE TABLE p (id int, k int, v text) PARTITION BY LIST (k);
                 CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
                 CREATE TABLE p2 (pad int, v text, k int, id int);
                 ALTER TABLE p2 DROP COLUMN pad;
                 ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
                 CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3, 4) PARTITION BY LIST (k);
                 CREATE TABLE p33 PARTITION OF p3 FOR VALUES IN (3);
                 SELECT redis_track('p', '{id}');
                 INSERT INTO p SELECT i, i % 3 + 1, 'v' FROM generate_series(1, 12) i;
                 CREATE TABLE base (id int, v int); CREATE TABLE heir (w int) INHERITS (base);
                 SELECT redis_track('base', '{id}'); INSERT INTO heir VALUES (1, 1, 1)",
        queries: &[
            "SELECT * FROM p WHERE id = 4",
            "SELECT * FROM p2 WHERE id = 4",
            "SELECT * FROM p3 ORDER BY id, k",
            "SELECT count(*) FROM p",
            "SELECT * FROM p1 ORDER BY id",
            "SELECT * FROM base WHERE id = 1 ORDER BY v",
            "SELECT * FROM ONLY base WHERE id = 1 ORDER BY v",
            "SELECT * FROM heir WHERE id = 1 ORDER BY v",
        ],
        changes: &[
            "UPDATE p SET k = k % 3 + 1",
            "UPDATE p2 SET v = 'two'",
            "INSERT INTO p33 VALUES (4, 3, 'x')",
            "TRUNCATE p33",
            "TRUNCATE p2",
            "CREATE TABLE p34 PARTITION OF p3 FOR VALUES IN (4)",
            "INSERT INTO p VALUES (4, 4, 'four')",
            "ALTER TABLE p DETACH PARTITION p2; INSERT INTO p2 (id, k) VALUES (4, 9)",
            "UPDATE p2 SET k = 2; SELECT redis_track('p2', '{id}')",
            "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2)",
            "DELETE FROM p2 WHERE id = 4",
            "ALTER TABLE p DETACH PARTITION p3; SELECT redis_track('p3')",
            "INSERT INTO p34 VALUES (4, 4, 'alone')",
            "DROP TABLE p34",
            "ALTER TABLE p RENAME COLUMN id TO ident",
            "ALTER TABLE p RENAME COLUMN ident TO id",
            "UPDATE p SET id = 4",
            "INSERT INTO base VALUES (1, 5)",
            "INSERT INTO heir VALUES (1, 7)",
            "ALTER TABLE heir NO INHERIT base",
            "ALTER TABLE heir INHERIT base",
            "CREATE TABLE late () INHERITS (heir); INSERT INTO late VALUES (1, 8)",
            "UPDATE base SET v = v + 1",
            "TRUNCATE late",
            "DROP TABLE late",
            "TRUNCATE p",
        ],
    },
    History {
        schema: "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN small AS int;
                 CREATE TYPE pair AS (x int, y text); CREATE DOMAIN pairs AS pair[];
                 CREATE TABLE t (id small, m mood, c pair, r int4range, n name, b char(5),
                                 f float4, j jsonb);
                 SELECT redis_track('t', '{id,m,c,r,b,f,j}');
                 INSERT INTO t SELECT i, 'ok', ROW(1, 'y')::pair, '[1,2]', 'n', 'b', 0.5,
                                      '{\"a\": 1.0}' FROM generate_series(1, 3) i;
                 CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
                 CREATE OPERATOR #@# (leftarg = int, rightarg = int, procedure = int4pl);
                 CREATE VIEW v WITH (security_barrier) AS SELECT id, m, f(id) AS x FROM t
                  WHERE m = 'ok';
                 CREATE VIEW w WITH (security_invoker) AS SELECT * FROM v;
                 CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM t",
        queries: &[
            "SELECT * FROM t WHERE id = 2",
            "SELECT * FROM t WHERE m = 'ok' ORDER BY id",
            "SELECT * FROM t WHERE c = ROW(1, 'y')::pair ORDER BY id",
            "SELECT * FROM t WHERE r = '[1,2]' ORDER BY id",
            "SELECT * FROM t WHERE b = 'b' ORDER BY id",
            "SELECT * FROM t WHERE f = 0.5 ORDER BY id",
            "SELECT * FROM t WHERE j = '{\"a\": 1.00}' ORDER BY id",
            "SELECT * FROM v WHERE id = 2",
            "SELECT * FROM w ORDER BY id",
            "SELECT n FROM mv",
            "SELECT enum_range(NULL::mood)",
            "SELECT current_database()",
            "SELECT id #@# 1 AS x FROM t ORDER BY id",
        ],
        changes: &[
            "UPDATE t SET m = 'sad' WHERE id = 1",
            "INSERT INTO t VALUES (2, 'ok', (1, 'y'), '(0,2]', 'n', 'b    ', 0.5, '{\"a\": 1}')",
            "UPDATE t SET c = (1, NULL) WHERE id = 2",
            "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
            "ALTER TYPE mood ADD VALUE 'ok'",
            "ALTER TYPE mood RENAME VALUE 'fine' TO 'good'",
            "CREATE OR REPLACE VIEW v WITH (security_barrier) AS SELECT id, m, f(id) + 1 AS x
               FROM t",
            "CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql
               AS 'SELECT $1 * 2'",
            "ALTER VIEW v RENAME COLUMN x TO y",
            "ALTER TYPE pair RENAME ATTRIBUTE y TO z CASCADE",
            "ALTER TYPE pair ADD ATTRIBUTE w int CASCADE",
            "REFRESH MATERIALIZED VIEW mv",
            "CREATE UNIQUE INDEX ON mv (n); INSERT INTO t (id) VALUES (9);
             REFRESH MATERIALIZED VIEW CONCURRENTLY mv",
            "DROP OPERATOR #@# (int, int);
             CREATE OPERATOR #@# (leftarg = int, rightarg = int, procedure = int4mi)",
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY",
            "CREATE RULE r AS ON DELETE TO t DO INSTEAD UPDATE t SET b = 'rule' WHERE id = OLD.id;
             DELETE FROM t WHERE id = 2",
            "ALTER INDEX mv RENAME TO mv2; CREATE VIEW mv AS SELECT -1 AS n",
        ],
    },
];

#[test]
fn no_change_leaves_an_exact_entry_behind() {
    // Danger: some statement of PostgreSQL changes what a kept query shows, and tells nobody.
    for (number, history) in HISTORIES.iter().enumerate() {
        let (scene, mut reader, mut writer) = scene_with(history.schema);
        let key = |place: usize| format!("h{number}.{place}");
        for (place, query) in history.queries.iter().enumerate() {
            fill_exact(&mut reader, &key(place), query);
        }
        for change in history.changes {
            match change.contains("VACUUM") || change.contains("ADD VALUE") {
                true => run(&mut writer, change),
                false => run(&mut writer, &format!("BEGIN; {change}; COMMIT")),
            }
            let mut fresh = scene.connect();
            for client in [&mut reader, &mut fresh] {
                for (place, query) in history.queries.iter().enumerate() {
                    let (got, wanted) = (cached(client, &key(place), query), direct(client, query));
                    assert_eq!(got, wanted, "{query} after {change}");
                }
            }
        }
    }
}

#[test]
fn a_partition_that_is_being_detached_is_not_exact() {
    // Danger: who wrote to it before noted the tags of its root, who reads it now asks for its own.
    let (scene, mut reader, mut writer) = scene_with(
        "CREATE TABLE p (id int, k int) PARTITION BY LIST (k);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); SELECT redis_track('p')",
    );
    let query = "SELECT count(*) FROM p1";
    fill_exact(&mut reader, "pending", query);
    let mut holder = scene.connect();
    run(&mut holder, "BEGIN; SELECT FROM p LIMIT 0");
    // Its relation cache must know the partition's condition, or it locks the root.
    run(&mut writer, "INSERT INTO p1 VALUES (1, 1)");
    run(&mut writer, "BEGIN; INSERT INTO p1 VALUES (2, 1)");
    let mut detacher = scene.connect();
    let detaching = std::thread::spawn(move || {
        detacher.batch_execute("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY")
    });
    let mut watcher = scene.connect();
    let pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
    pg_cache_testbed::eventually(std::time::Duration::from_secs(30), "it is pending", || {
        watcher.query_one(pending, &[]).unwrap().get::<_, i64>(0) == 1
    });
    cached(&mut reader, "pending", query).unwrap();
    run(&mut writer, "COMMIT");
    let exact = explained(&mut reader, "pending", query, "exact");
    let answers = (cached(&mut reader, "pending", query), direct(&mut reader, query));
    run(&mut holder, "COMMIT");
    detaching.join().unwrap().unwrap();
    let is_exact = exact.as_deref() == Some("exact");
    assert!(!is_exact || answers.0 == answers.1, "{exact:?} {answers:?}");
    assert_eq!(cached(&mut reader, "pending", query), direct(&mut reader, query));
}

#[test]
fn a_leaf_that_is_tracked_by_itself_stays_so_when_its_tree_is_taken_apart() {
    // Danger: the root that a write was noted under is another one when the write commits, or the
    // leaf loses triggers that are its own.
    let (scene, mut reader, mut writer) = scene_with(
        "CREATE TABLE p (id int, k int) PARTITION BY LIST (k);
         CREATE TABLE mid PARTITION OF p FOR VALUES IN (1, 2) PARTITION BY LIST (k);
         CREATE TABLE leaf (id int, k int); SELECT redis_track('leaf');
         ALTER TABLE mid ATTACH PARTITION leaf FOR VALUES IN (1)",
    );
    let query = "SELECT count(*) FROM leaf";
    fill_exact(&mut reader, "leaf", query);
    // Its relation cache must know the partition's condition, or it locks the trees above.
    run(&mut writer, "INSERT INTO leaf VALUES (1, 1)");
    run(&mut writer, "BEGIN; INSERT INTO leaf VALUES (2, 1)");
    let mut detacher = scene.connect();
    run(&mut detacher, "SET lock_timeout = '2s'");
    let detached = detacher.batch_execute("ALTER TABLE p DETACH PARTITION mid");
    fill_exact(&mut reader, "leaf", query);
    run(&mut writer, "COMMIT");
    assert_eq!(cached(&mut reader, "leaf", query), direct(&mut reader, query), "{detached:?}");
    assert!(detached.is_err());
    run(&mut detacher, "ALTER TABLE p DETACH PARTITION mid");
    fill_exact(&mut reader, "leaf", query);
}

#[test]
fn the_name_of_the_database_is_part_of_what_is_read() {
    // Danger: ALTER DATABASE RENAME fires no event trigger, and the oid stays.
    let scene = Scene::new();
    let old = format!("{}_old", scene.database());
    let new = format!("{}_new", scene.database());
    scene.create_database(&old);
    let query = "SELECT current_database() AS a, current_catalog AS b";
    fill_exact(&mut scene.connect_to("postgres", &old), "name", query);
    let rename = format!("ALTER DATABASE {old} RENAME TO {new}");
    pg_cache_testbed::eventually(std::time::Duration::from_secs(30), "nobody is connected", || {
        scene.connect().batch_execute(&rename).is_ok()
    });
    let mut renamed = scene.connect_to("postgres", &new);
    assert_eq!(cached(&mut renamed, "name", query), direct(&mut renamed, query));
}

#[test]
fn temporary_functions_tell_what_becomes_of_them() {
    // Danger: a function in pg_temp is replaced, and what calls it is kept as it was.
    let (_scene, mut reader, _writer) =
        scene_with("CREATE TABLE t (id int); SELECT redis_track('t')");
    run(
        &mut reader,
        "CREATE FUNCTION pg_temp.inner_one() RETURNS int IMMUTABLE LANGUAGE plpgsql
             AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION pg_temp.outer_one() RETURNS int IMMUTABLE LANGUAGE plpgsql
             AS 'BEGIN RETURN pg_temp.inner_one(); END';
         CREATE FUNCTION pg_temp.step(int, int) RETURNS int IMMUTABLE LANGUAGE sql
             AS 'SELECT $1 + $2';
         CREATE AGGREGATE pg_temp.total(int) (sfunc = pg_temp.step, stype = int, initcond = '0');
         INSERT INTO t VALUES (2), (3)",
    );
    let queries = ["SELECT pg_temp.outer_one()", "SELECT pg_temp.total(id) FROM t"];
    for query in queries {
        cached(&mut reader, query, query).unwrap();
        same_as_direct(&mut reader, query, query).unwrap();
    }
    run(
        &mut reader,
        "CREATE OR REPLACE FUNCTION pg_temp.inner_one() RETURNS int IMMUTABLE LANGUAGE plpgsql
             AS 'BEGIN RETURN 2; END';
         CREATE OR REPLACE FUNCTION pg_temp.step(int, int) RETURNS int IMMUTABLE LANGUAGE sql
             AS 'SELECT $1 * 10 + $2'",
    );
    for query in queries {
        same_as_direct(&mut reader, query, query).unwrap();
    }
}

#[test]
fn a_table_that_hides_behind_a_temporary_one_tells() {
    // Danger: code that an ALTER TABLE runs makes a temporary table of the same name.
    let (_scene, mut reader, mut writer) = scene_with(
        "CREATE TABLE t (id int); SELECT redis_track('t'); INSERT INTO t VALUES (1);
         CREATE FUNCTION hide(int) RETURNS int LANGUAGE plpgsql AS
             'BEGIN CREATE TEMP TABLE IF NOT EXISTS t (id int); RETURN $1 + 1; END'",
    );
    let query = "SELECT * FROM public.t";
    fill_exact(&mut reader, "hidden", query);
    run(&mut writer, "ALTER TABLE t ALTER id TYPE int USING hide(id)");
    assert_eq!(cached(&mut reader, "hidden", query), direct(&mut reader, query));
}

#[test]
fn ddl_of_those_who_may_not_use_our_schema_goes_on() {
    // Danger: an extension that stands in a schema of its own takes CREATE TABLE from everybody.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let role = scene.create_role("owner");
    run(&mut admin, "DROP EXTENSION pg_cache; CREATE SCHEMA hidden");
    run(&mut admin, "CREATE EXTENSION pg_cache SCHEMA hidden");
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {role}"));
    let mut user = scene.connect_as(&role);
    run(
        &mut user,
        "CREATE TABLE p (id int, k int) PARTITION BY LIST (k);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
         CREATE TABLE base (id int); CREATE TABLE heir () INHERITS (base);
         CREATE TABLE p2 (id int, k int); ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
         ALTER TABLE p DETACH PARTITION p2; ALTER TABLE heir NO INHERIT base; DROP TABLE p2",
    );
    run(&mut admin, "SELECT hidden.redis_track('public.p'); SELECT hidden.redis_track('base')");
    run(
        &mut user,
        "CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3); INSERT INTO p VALUES (1, 3);
         CREATE TABLE p4 (id int, k int); ALTER TABLE p ATTACH PARTITION p4 FOR VALUES IN (4);
         ALTER TABLE p DETACH PARTITION p3; ALTER TABLE heir INHERIT base",
    );
}

#[test]
fn anothers_partition_does_not_hinder_the_owner_of_the_root() {
    // Danger: who owns one partition takes CREATE TABLE … PARTITION OF from who owns the root.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let (owner, other) = (scene.create_role("owner"), scene.create_role("other"));
    run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {owner}, {other}"));
    let mut user = scene.connect_as(&owner);
    run(
        &mut user,
        "CREATE TABLE p (id int, k int) PARTITION BY LIST (k);
         CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); SELECT redis_track('p')",
    );
    run(&mut admin, &format!("ALTER TABLE p1 OWNER TO {other}"));
    run(&mut scene.connect_as(&other), "DROP TRIGGER redis_track_truncate ON p1");
    run(&mut user, "CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)");
}

#[test]
fn a_row_whose_key_nothing_can_be_kept_under_is_written_all_the_same() {
    // Danger: a long value makes an INSERT fail, for a key that nobody can have.
    let (_scene, _reader, mut writer) = scene_with(
        "CREATE TABLE t (name text);
         CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON t
             FOR EACH ROW EXECUTE FUNCTION redis_invalidate('user:{name}')",
    );
    run(&mut writer, "INSERT INTO t VALUES (repeat('x', 100000)), (''), ('pgc:')");
    run(&mut writer, "UPDATE t SET name = 'short'");
}

#[test]
fn the_key_of_a_foreign_row_goes() {
    // Danger: a write to a foreign table has no transaction id, and its keys are forgotten.
    let (scene, mut reader, mut writer) = scene_with("CREATE TABLE t (id int)");
    let conninfo = scene.postgres().conninfo(scene.database());
    let of = |name: &str| {
        let part = conninfo.split_whitespace().find_map(|part| part.strip_prefix(name));
        part.unwrap_or_else(|| panic!("{name} in {conninfo}")).trim_matches('\'').to_owned()
    };
    run(
        &mut writer,
        &format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '{}', port '{}', dbname '{}');
             CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user '{}');
             CREATE FOREIGN TABLE away (id int) SERVER here OPTIONS (table_name 't');
             CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON away
                 FOR EACH ROW EXECUTE FUNCTION redis_invalidate('away:{{id}}')",
            of("host="),
            of("port="),
            scene.database(),
            of("user="),
        ),
    );
    let query = "SELECT * FROM away WHERE id = 1";
    same_as_direct(&mut reader, "away:1", query).unwrap();
    run(&mut writer, "INSERT INTO away VALUES (1)");
    same_as_direct(&mut reader, "away:1", query).unwrap();
}

#[test]
fn a_group_does_not_hang_on_a_type_that_changes_beside_its_writers() {
    // Danger: ALTER TYPE waits for no writer, and the row that one writes has another hash then.
    let (scene, mut reader, mut writer) = scene_with(
        "CREATE TYPE pair AS (x int, y int); CREATE TABLE t (c pair, v int);
         SELECT redis_track('t', '{c}'); INSERT INTO t VALUES (ROW(1, 2)::pair, 1)",
    );
    run(&mut writer, "BEGIN; UPDATE t SET v = 2");
    run(&mut scene.connect(), "ALTER TYPE pair ADD ATTRIBUTE z int CASCADE");
    let query = "SELECT v FROM t WHERE c = '(1,2,)'::pair";
    fill_exact(&mut reader, "pair", query);
    run(&mut writer, "COMMIT");
    assert_eq!(cached(&mut reader, "pair", query), direct(&mut reader, query));
}
