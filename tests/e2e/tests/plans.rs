//! Prepared plans kept in the backend: bounded, and never older than the schema they were made for.

use pg_cache_e2e::counters::{counted, value};
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};
use postgres::Client;

/// Compares under the key that already has an entry and under one that has none: the first shows
/// an entry that outlived its meaning, the second a plan that did.
#[track_caller]
fn both_ways(client: &mut Client, key: &str, query: &str) {
    let fresh = format!("{key}:{}", fastrand::u64(..));
    same_as_direct(client, &fresh, query).ok();
    same_as_direct(client, key, query).ok();
    same_as_direct(client, key, query).ok();
}

#[test]
fn more_queries_than_plans_max_all_answer_right() {
    // Danger: the least recently used plan is dropped while it is used, or another's is used.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.plans_max = 3").unwrap();
    for round in 0..4 {
        for number in 0..10 {
            let query = format!("SELECT {number} AS n, {number} * 2 AS d");
            same_as_direct(&mut client, &format!("p:{number}:{round}"), &query).unwrap();
            same_as_direct(&mut client, "p", &query).unwrap();
        }
    }
    client.batch_execute("SET pg_cache.plans_max = 1").unwrap();
    for number in 0..10 {
        same_as_direct(&mut client, "p", &format!("SELECT {number} AS n")).unwrap();
    }
}

#[test]
fn kept_plans_do_not_grow_memory_without_bound() {
    // Danger: an application that writes values into its query text fills the backend's memory.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.plans_max = 50").unwrap();
    let mut bytes_after = |queries: std::ops::Range<u32>| -> i64 {
        for number in queries {
            let query = format!("SELECT {number} AS n, repeat('x', 10) AS t");
            cached(&mut client, "one", &query).unwrap();
        }
        let sql = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts";
        client.query_one(sql, &[]).unwrap().get(0)
    };
    let warm = bytes_after(0..200);
    let later = bytes_after(200..1200);
    assert!(later - warm < 2 << 20, "grew from {warm} to {later} bytes over 1000 queries");
}

#[test]
fn changes_of_a_table_are_seen_by_the_next_call() {
    // Danger: `SELECT *` answers with the columns of yesterday, or a stale plan crashes.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut other = scene.connect();
    other
        .batch_execute("CREATE TABLE t (id int, v int); INSERT INTO t VALUES (1, 10), (2, 20)")
        .unwrap();
    let query = "SELECT * FROM t ORDER BY id";
    for change in [
        "SELECT 1",
        "ALTER TABLE t ADD COLUMN w text DEFAULT 'w'",
        "ALTER TABLE t RENAME COLUMN v TO u",
        "ALTER TABLE t ALTER COLUMN u TYPE numeric(6, 2)",
        "ALTER TABLE t ALTER COLUMN w DROP DEFAULT, ALTER COLUMN w TYPE json USING to_json(w)",
        "ALTER TABLE t DROP COLUMN w",
        "ALTER TABLE t RENAME TO old; CREATE TABLE t (id int); INSERT INTO t VALUES (7)",
        "DROP TABLE t",
        "CREATE VIEW t AS SELECT id, 'view' AS kind FROM old",
        "CREATE OR REPLACE VIEW t AS SELECT id, 'view2' AS kind FROM old WHERE id > 1",
        "DROP VIEW t; CREATE MATERIALIZED VIEW t AS SELECT id FROM old",
        "DROP MATERIALIZED VIEW t; ALTER TABLE old RENAME TO t",
        "CREATE INDEX ON t (id)",
    ] {
        other.batch_execute(change).unwrap_or_else(|e| panic!("{change}: {e:?}"));
        println!("{change}");
        both_ways(&mut client, "t", query);
    }
}

#[test]
fn a_replaced_function_is_seen_by_the_next_call() {
    // Danger: an immutable function is folded into the kept plan; its new body never runs.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut other = scene.connect();
    for kind in ["IMMUTABLE", "STABLE"] {
        for language in ["sql", "plpgsql"] {
            let name = format!("f_{kind}_{language}");
            let mut define = |number: i32| {
                let body = match language {
                    "sql" => format!("SELECT {number}"),
                    _ => format!("BEGIN RETURN {number}; END"),
                };
                other
                    .batch_execute(&format!(
                        "CREATE OR REPLACE FUNCTION {name}() RETURNS int {kind} LANGUAGE {language}
                         AS $$ {body} $$"
                    ))
                    .unwrap();
            };
            let query = format!("SELECT {name}() AS v");
            define(1);
            both_ways(&mut client, &name, &query);
            define(2);
            println!("{name}");
            both_ways(&mut client, &name, &query);
        }
    }
}

#[test]
fn a_function_that_becomes_volatile_is_refused_from_then_on() {
    // Danger: volatility looked up once and kept.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute("CREATE FUNCTION f() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'")
        .unwrap();
    assert!(cached(&mut client, "f", "SELECT f() AS v").is_ok());
    client.batch_execute("ALTER FUNCTION f() VOLATILE").unwrap();
    assert_eq!(cached(&mut client, "f", "SELECT f() AS v"), Err("42P17".into()));
    client.batch_execute("ALTER FUNCTION f() IMMUTABLE").unwrap();
    assert!(cached(&mut client, "f", "SELECT f() AS v").is_ok());
}

#[test]
fn search_path_decides_which_table_is_meant() {
    // Danger: tenants in schemas of their own share query text and key, and read each other.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE SCHEMA a; CREATE SCHEMA b;
             CREATE TABLE a.t AS SELECT 'a' AS v; CREATE TABLE b.t AS SELECT 'b' AS v;
             CREATE FUNCTION a.f() RETURNS text STABLE LANGUAGE sql AS $$ SELECT 'fa' $$;
             CREATE FUNCTION b.f() RETURNS text STABLE LANGUAGE sql AS $$ SELECT 'fb' $$",
        )
        .unwrap();
    for _ in 0..3 {
        for path in ["a, public", "b, public", "b, a, public", "a, b, public"] {
            client.batch_execute(&format!("SET search_path = {path}")).unwrap();
            same_as_direct(&mut client, "t", "SELECT v, f() AS f FROM t").unwrap();
        }
    }
}

#[test]
fn a_table_that_appears_in_an_earlier_schema_is_the_one_read() {
    // Danger: PostgreSQL does not re-analyse a saved plan when such a table appears.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut other = scene.connect();
    other
        .batch_execute("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE b.t AS SELECT 'b' AS v")
        .unwrap();
    client.batch_execute("SET search_path = a, b, public").unwrap();
    both_ways(&mut client, "t", "SELECT v FROM t");
    other.batch_execute("CREATE TABLE a.t AS SELECT 'a' AS v").unwrap();
    both_ways(&mut client, "t", "SELECT v FROM t");
    other.batch_execute("DROP TABLE a.t").unwrap();
    both_ways(&mut client, "t", "SELECT v FROM t");
}

#[test]
fn a_temporary_table_hides_the_permanent_one_of_its_name() {
    // Danger: the session reads, or worse fills, the shared entry with its own temporary rows.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut other = scene.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 'shared' AS v").unwrap();
    both_ways(&mut client, "t", "SELECT v FROM t");
    client.batch_execute("CREATE TEMP TABLE t AS SELECT 'mine' AS v").unwrap();
    both_ways(&mut client, "t", "SELECT v FROM t");
    both_ways(&mut other, "t", "SELECT v FROM t");
    client.batch_execute("DROP TABLE pg_temp.t").unwrap();
    both_ways(&mut client, "t", "SELECT v FROM t");
    assert_eq!(direct(&mut other, "SELECT v FROM t").as_deref(), Ok(r#"[{"v":"shared"}]"#));
}

#[test]
fn a_function_is_trusted_again_once_nothing_temporary_is_left() {
    // Danger: a session that once made a temporary table computes for the rest of its life; or,
    // worse, what its function read from one is stored for all.
    let scene = Scene::new();
    let (mut client, mut other) = (scene.connect(), scene.connect());
    client
        .batch_execute(
            "CREATE TABLE t AS SELECT 1 AS a;
             CREATE FUNCTION f() RETURNS int STABLE LANGUAGE plpgsql AS
                 $$BEGIN RETURN (SELECT max(a) FROM t); END$$",
        )
        .unwrap();
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
    let query = "SELECT f() AS a";
    let hit = |client: &mut Client| {
        let (_, counters) = counted(client, |client| same_as_direct(client, "f", query).unwrap());
        counters.hits == 1
    };
    hit(&mut client);
    assert!(hit(&mut client));
    for (make, end) in [
        ("CREATE TEMP TABLE t AS SELECT 2 AS a", "DROP TABLE t"),
        ("CREATE TEMP TABLE t AS SELECT 3 AS a", "DISCARD TEMP"),
        ("CREATE DOMAIN pg_temp.d AS int", "DROP DOMAIN pg_temp.d"),
    ] {
        client.batch_execute(make).unwrap();
        assert!(!hit(&mut client) && !hit(&mut client), "{make}");
        same_as_direct(&mut other, "f", query).unwrap();
        client.batch_execute(end).unwrap();
        hit(&mut client);
        assert!(hit(&mut client), "{end}");
        // Neither by rolling back.
        client.batch_execute(&format!("BEGIN; {make}; ROLLBACK")).unwrap();
        hit(&mut client);
        assert!(hit(&mut client), "{make}, rolled back");
    }
}

#[test]
fn changed_types_and_operators_are_seen_by_the_next_call() {
    // Danger: an entry in the labels, fields or casts that a type had when it was filled.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut other = scene.connect();
    other
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE t (m mood);
             INSERT INTO t VALUES ('sad'); CREATE TYPE pair AS (a int);
             CREATE TABLE p (v pair); INSERT INTO p VALUES (ROW(1))",
        )
        .unwrap();
    both_ways(&mut client, "t", "SELECT m FROM t");
    both_ways(&mut client, "p", "SELECT v FROM p");
    other.batch_execute("ALTER TYPE pair ADD ATTRIBUTE b int CASCADE").unwrap();
    both_ways(&mut client, "p", "SELECT v FROM p");
    other.batch_execute("ALTER TYPE pair RENAME ATTRIBUTE a TO c").unwrap();
    both_ways(&mut client, "p", "SELECT v FROM p");
}

#[test]
fn a_kept_plan_is_used_again() {
    // Danger: planning on each call, which costs more than the hit saves. Seen by the planner's own
    // log: a plan that is made anew writes a line.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    let ((), counters) = counted(&mut client, |c| {
        for number in 0..20 {
            cached(c, &format!("k:{number}"), "SELECT v FROM t").unwrap();
        }
    });
    assert_eq!(counters.fills, 20, "{counters:?}");
    let sql = "SELECT count(*) FROM pg_backend_memory_contexts
               WHERE name = 'CachedPlanSource' AND ident = 'SELECT v FROM t'";
    let sources: i64 = client.query_one(sql, &[]).unwrap().get(0);
    assert_eq!(sources, 1, "one plan for one query");
}

#[test]
fn calls_within_calls_are_refused_or_right_and_end() {
    // Danger: a stable function of the query's reads through the cache itself: the plan in use is
    // dropped from the kept ones under its feet, or the caller waits for its own lease.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE FUNCTION inner_call(n int) RETURNS text STABLE LANGUAGE plpgsql AS $$
             BEGIN RETURN redis_cached('in:' || n, 60, 'SELECT $1 AS n', n); END $$;
             CREATE FUNCTION inner_rows(n int) RETURNS text STABLE LANGUAGE plpgsql AS $$
             BEGIN RETURN (SELECT max(v) FROM redis_cached_rows('rows:' || n, 60,
               'SELECT g AS v FROM generate_series(1, $1) g', n) AS r(v int)); END $$;
             CREATE FUNCTION again() RETURNS text STABLE LANGUAGE plpgsql AS $$
             BEGIN RETURN redis_cached('again', 60, 'SELECT again() AS v'); END $$",
        )
        .unwrap();
    for plans_max in [1, 2, 200] {
        client.batch_execute(&format!("SET pg_cache.plans_max = {plans_max}")).unwrap();
        for query in [
            "SELECT inner_call(g) AS v FROM generate_series(1, 20) g",
            "SELECT inner_rows(g) AS v FROM generate_series(1, 20) g",
            "SELECT inner_call(g) || inner_rows(g) AS v FROM generate_series(1, 5) g",
        ] {
            for key in ["out", "out", "out2"] {
                let expected = direct(&mut client, query);
                let answer = cached(&mut client, key, query);
                assert!(answer == Err("42P19".into()) || answer == expected, "{query}: {answer:?}");
            }
        }
    }
    client
        .batch_execute("SET statement_timeout = '20s'; SET pg_cache.fill_wait_ms = '5s'")
        .unwrap();
    let answer = cached(&mut client, "again", "SELECT again() AS v");
    assert!(answer == Err("42P19".into()) || answer == Err("54001".into()), "{answer:?}");
    client.batch_execute("SET statement_timeout = '60s'").unwrap();
    same_as_direct(&mut client, "after", "SELECT 1 AS v").unwrap();
}

#[test]
fn discard_leaves_everything_usable() {
    // Danger: poolers send DISCARD ALL between clients; what we keep must survive or go with it.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    for discard in [
        "DISCARD PLANS",
        "DISCARD TEMP",
        "DISCARD SEQUENCES",
        "RESET ALL",
        "DISCARD ALL",
        "DEALLOCATE ALL",
    ] {
        both_ways(&mut client, "t", "SELECT v FROM t");
        client.batch_execute(discard).unwrap();
        both_ways(&mut client, "t", "SELECT v FROM t");
    }
}

#[test]
fn a_plan_that_is_invalidated_while_it_runs_ends_well() {
    // Danger: the schema changes between the look and the computing, or while rows are read.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut other = scene.connect();
    other
        .batch_execute(
            "CREATE TABLE t AS SELECT g AS v FROM generate_series(1, 50) g; CREATE TABLE u (v int);
             CREATE FUNCTION slow(v int) RETURNS int STABLE LANGUAGE plpgsql
               AS 'BEGIN PERFORM pg_sleep(0.005); RETURN v; END'",
        )
        .unwrap();
    let calls = std::thread::spawn(move || {
        for number in 0..8 {
            let key = format!("k:{number}");
            let answer = cached(&mut client, &key, "SELECT sum(slow(v)) AS s FROM t");
            assert_eq!(answer.as_deref(), Ok(r#"[{"s":1275}]"#));
        }
    });
    let mut number = 0;
    while !calls.is_finished() {
        number += 1;
        other
            .batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION slow(v int) RETURNS int STABLE LANGUAGE plpgsql
                   AS 'BEGIN PERFORM pg_sleep(0.005); RETURN v + 0 * {number}; END';
                 CREATE INDEX ON u (v); ALTER TABLE u ADD COLUMN c{number} int; ANALYZE u"
            ))
            .unwrap();
    }
    calls.join().unwrap();
}

#[test]
fn an_opaque_functions_entry_serves_new_sessions() {
    // Danger: what a session loads on its first call makes it a stranger to the other sessions,
    // and each new connection throws out a good entry.
    let scene = Scene::new();
    let mut first = scene.connect();
    first
        .batch_execute(
            "CREATE TABLE t AS SELECT 1 AS v;
             CREATE FUNCTION opaque() RETURNS int STABLE LANGUAGE plpgsql
               AS 'BEGIN RETURN (SELECT v FROM t); END'",
        )
        .unwrap();
    let query = "SELECT opaque() AS v";
    cached(&mut first, "k", query).unwrap();
    let mut second = scene.connect();
    for _ in 0..2 {
        for client in [&mut first, &mut second] {
            let (_, counters) = counted(client, |c| cached(c, "k", query).unwrap());
            assert_eq!((counters.hits, counters.fills), (1, 0), "{counters:?}");
        }
    }
}

#[test]
fn code_behind_an_argument_neither_reads_through_the_cache_nor_misleads_it() {
    // Danger: the input of a user's type runs the user's code between finding a plan and using it:
    // a call in there freed the tree that the outer one was about to read.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE FUNCTION nested(t text) RETURNS bool LANGUAGE plpgsql AS $$
             BEGIN PERFORM redis_cached('inner', 60, 'SELECT 1 AS v'); RETURN true; END $$;
             CREATE DOMAIN nesting AS text CHECK (nested(value));
             CREATE FUNCTION moves(t text) RETURNS bool LANGUAGE plpgsql AS $$
             BEGIN PERFORM set_config('timezone', t, false); RETURN true; END $$;
             CREATE DOMAIN moving AS text CHECK (moves(value))",
        )
        .unwrap();
    let nested = "SELECT redis_cached('k', 60, 'SELECT $1::nesting AS v', 'x')::text";
    let error = client.query_one(nested, &[]).unwrap_err();
    assert_eq!(error.code().map(|state| state.code()), Some("42P19"));
    let moving = "SELECT redis_cached('m', 60,
        'SELECT $1::moving AS v, timestamptz ''2020-01-01 00:00+00'' AS z', 'Asia/Tokyo')::text";
    let answer: String = client.query_one(moving, &[]).unwrap().get(0);
    assert_eq!(answer, r#"[{"v":"Asia/Tokyo","z":"2020-01-01T09:00:00+09:00"}]"#);
    assert_eq!(value(&scene.redis, "m"), None, "an answer of other settings is not stored");
}
