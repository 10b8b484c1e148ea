//! Transactions: a cached read takes no transaction id, and one that has an id, or that is
//! serializable, computes and touches nothing.

use pg_cache_core::key::EntryKeys;
use pg_cache_e2e::counters::{commands, commands_and_proofs, counted, forget_commands, value};
use pg_cache_e2e::{Scene, cached, direct, same_as_direct};
use postgres::Client;

const QUERY: &str = "SELECT id FROM t ORDER BY id";

fn prepare(scene: &Scene) -> Client {
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").unwrap();
    cached(&mut client, "warm", "SELECT 1 AS v").unwrap();
    client
}

fn xid(client: &mut Client) -> Option<String> {
    client.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).unwrap().get(0)
}

/// Calls once, and asserts that it computed without a word to Redis.
#[track_caller]
fn computes(scene: &Scene, client: &mut Client, key: &str, reason: &str) {
    forget_commands(scene);
    let expected = direct(client, QUERY);
    let (answer, counters) = counted(client, |c| cached(c, key, QUERY));
    assert_eq!(answer, expected);
    assert_eq!(counters.reason(reason), 1, "{counters:?}");
    assert_eq!((counters.hits, counters.fills), (0, 0), "{counters:?}");
    assert!(commands(&scene.redis).is_empty(), "{:?}", commands(&scene.redis));
}

#[test]
fn a_transaction_that_wrote_sees_its_own_rows_and_shows_them_to_nobody() {
    // Danger: an uncommitted row in the cache, served after its ROLLBACK.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    let mut other = scene.connect();
    for warm in [false, true] {
        let key = format!("k:{warm}");
        if warm {
            cached(&mut other, &key, QUERY).unwrap();
        }
        client.batch_execute("BEGIN; INSERT INTO t VALUES (2)").unwrap();
        computes(&scene, &mut client, &key, "own_xid");
        assert_eq!(cached(&mut client, &key, QUERY).as_deref(), Ok(r#"[{"id":1}, {"id":2}]"#));
        assert_eq!(value(&scene.redis, &key).is_some(), warm);
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(cached(&mut client, &key, QUERY).as_deref(), Ok(r#"[{"id":1}]"#));
    }
}

#[test]
fn an_id_that_a_rolled_back_savepoint_took_still_counts() {
    // Danger: only the innermost level is asked for its id.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    cached(&mut client, "k", QUERY).unwrap();
    client.batch_execute("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (2)").unwrap();
    computes(&scene, &mut client, "k", "own_xid");
    client.batch_execute("SAVEPOINT b").unwrap();
    computes(&scene, &mut client, "k", "own_xid");
    client.batch_execute("ROLLBACK TO a").unwrap();
    computes(&scene, &mut client, "k", "own_xid");
    client.batch_execute("COMMIT; BEGIN; SELECT pg_current_xact_id()").unwrap();
    computes(&scene, &mut client, "k", "own_xid");
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(counted(&mut client, |c| cached(c, "k", QUERY)).1.hits, 1);
}

#[test]
fn a_statement_that_writes_and_reads_computes_under_its_own_snapshot() {
    // Danger: RETURNING and CTEs run where the id is there and the row is or is not yet visible.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    cached(&mut client, "k", QUERY).unwrap();
    for sql in [
        "INSERT INTO t SELECT 10
         RETURNING redis_cached('k', 60, 'SELECT id FROM t ORDER BY id')::text,
           (SELECT json_agg(row_to_json(x))::text FROM (SELECT id FROM t ORDER BY id) x)",
        "WITH w AS (INSERT INTO t VALUES (11) RETURNING id)
         SELECT redis_cached('k', 60, 'SELECT id FROM t ORDER BY id')::text,
           (SELECT json_agg(row_to_json(x))::text FROM (SELECT id FROM t ORDER BY id) x) FROM w",
        "UPDATE t SET id = id WHERE id = 1
         RETURNING redis_cached('k', 60, 'SELECT id FROM t ORDER BY id')::text,
           (SELECT json_agg(row_to_json(x))::text FROM (SELECT id FROM t ORDER BY id) x)",
    ] {
        client.batch_execute("BEGIN").unwrap();
        let row = client.query_one(sql, &[]).unwrap();
        assert_eq!(row.get::<_, String>(0), row.get::<_, String>(1), "{sql}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn a_trigger_that_reads_through_the_cache_sees_what_a_query_there_sees() {
    // Danger: in a BEFORE or AFTER trigger the writer's own rows are visible in part.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    cached(&mut client, "k", QUERY).unwrap();
    client
        .batch_execute(
            "CREATE TABLE seen (cached text, plain text);
             CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
               INSERT INTO seen SELECT redis_cached('k', 60, 'SELECT id FROM t ORDER BY id')::text,
                 (SELECT json_agg(row_to_json(x))::text FROM (SELECT id FROM t ORDER BY id) x);
               RETURN coalesce(new, old);
             END $$;
             CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON t
               FOR EACH ROW EXECUTE FUNCTION look();
             CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON t
               FOR EACH ROW EXECUTE FUNCTION look();
             INSERT INTO t VALUES (5), (6); UPDATE t SET id = id + 10; DELETE FROM t WHERE id > 12",
        )
        .unwrap();
    let sql = "SELECT count(*), count(*) FILTER (WHERE cached IS DISTINCT FROM plain) FROM seen";
    let row = client.query_one(sql, &[]).unwrap();
    assert!(row.get::<_, i64>(0) >= 10);
    assert_eq!(row.get::<_, i64>(1), 0);
}

#[test]
fn a_cached_read_takes_no_transaction_id() {
    // Danger: every page view burns an id, and standbys refuse.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    for begin in ["BEGIN", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        client.batch_execute(begin).unwrap();
        for call in [
            "SELECT redis_cached('k', 60, 'SELECT id FROM t')::text",
            "SELECT redis_cached('k', 60, 'SELECT id FROM t')::text",
            "SELECT redis_cached('k', 60, 'SELECT id FROM t WHERE id = $1', 1)::text",
            "SELECT redis_cached('k', 60, 'SELECT id FROM t WHERE id = $1', '1')::text",
            "SELECT count(*)::text FROM redis_cached_rows('k', 60, 'TABLE t') AS r(id int)",
            "SELECT redis_explain('k', 'SELECT id FROM t')::text",
            "SELECT redis_ping()::text",
            "SELECT count(*)::text FROM redis_health()",
            "SELECT count(*)::text FROM redis_stat_cached",
        ] {
            client.query_one(call, &[]).unwrap_or_else(|e| panic!("{begin}; {call}: {e:?}"));
            assert_eq!(xid(&mut client), None, "{begin}; {call}");
        }
        client.batch_execute("COMMIT").unwrap();
    }
}

#[test]
fn read_only_transactions_fill_and_hit() {
    // Danger: reports run READ ONLY, and are what caches are for.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    client.batch_execute("BEGIN READ ONLY").unwrap();
    let (_, counters) = counted(&mut client, |c| {
        same_as_direct(c, "k", QUERY).unwrap();
        same_as_direct(c, "k", QUERY).unwrap();
    });
    assert_eq!((counters.fills, counters.hits), (1, 1), "{counters:?}");
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn a_computed_answer_is_of_the_callers_snapshot() {
    // Danger: in REPEATABLE READ the cache shows what is newer than all else in the transaction.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    let mut other = scene.connect();
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    direct(&mut client, QUERY).unwrap();
    other.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    let answer = same_as_direct(&mut client, "k", QUERY);
    assert_eq!(answer.as_deref(), Ok(r#"[{"id":1}]"#));
    // An old snapshot's answer is no news for others.
    assert_eq!(value(&scene.redis, "k"), None);
    cached(&mut other, "k", QUERY).unwrap();
    assert_eq!(counted(&mut client, |c| cached(c, "k", QUERY)).1.hits, 1);
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn serializable_computes() {
    // Danger: a read that PostgreSQL does not see breaks the promise of SERIALIZABLE.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    cached(&mut client, "k", QUERY).unwrap();
    for begin in
        ["BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"]
    {
        client.batch_execute(begin).unwrap();
        computes(&scene, &mut client, "k", "serializable");
        computes(&scene, &mut client, "cold", "serializable");
        client.batch_execute("COMMIT").unwrap();
    }
}

#[test]
fn what_a_running_writer_changes_costs_one_look() {
    // Danger: whoever reads what is being written takes the lease for a fill that cannot come, or
    // waits for somebody else's.
    let scene = Scene::new();
    let mut writer = prepare(&scene);
    writer
        .batch_execute(
            "SELECT redis_track('t');
             CREATE TABLE named (id int);
             CREATE TRIGGER k AFTER INSERT ON named FOR EACH ROW
                 EXECUTE FUNCTION redis_invalidate('warm', 'cold', 'leased');
             SET pg_cache.pending_keys_max = 1",
        )
        .unwrap();
    scene.register();
    let mut filler = scene.connect();
    // A writer that the reader's snapshot sees running although it has ended, and one that runs.
    for (begin, change) in [
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN; INSERT INTO t VALUES (2); COMMIT"),
        ("BEGIN", "BEGIN; INSERT INTO named VALUES (1)"),
    ] {
        let mut reader = scene.connect();
        reader.batch_execute(begin).unwrap();
        cached(&mut reader, "other", "SELECT 1 AS v").unwrap();
        same_as_direct(&mut filler, "warm", QUERY).unwrap();
        writer.batch_execute(change).unwrap();
        let lease = EntryKeys::new(b"leased").lease();
        scene.redis.cli(&["SET", std::str::from_utf8(&lease).unwrap(), "another's"]);
        for key in ["warm", "cold", "leased"] {
            forget_commands(&scene);
            let (answer, counters) = counted(&mut reader, |c| cached(c, key, QUERY));
            let asked = commands_and_proofs(&scene.redis);
            assert_eq!(answer, direct(&mut reader, QUERY), "{begin}, {key}");
            assert_eq!(counters.reason("running_writer"), 1, "{begin}, {key}: {counters:?}");
            let look = ["hmget", "info", "mget"].map(|command| (command.to_owned(), 1));
            assert_eq!(asked, look.into(), "{begin}, {key}");
        }
        reader.batch_execute("COMMIT").unwrap();
    }
    writer.batch_execute("COMMIT").unwrap();
}

#[test]
fn it_works_wherever_a_query_may_stand() {
    // Danger: a function that works as `SELECT f()` only.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    client
        .batch_execute(
            "CREATE FUNCTION wrap(n int) RETURNS text STABLE LANGUAGE plpgsql AS $$
             BEGIN RETURN redis_cached('w:' || n, 60, 'SELECT $1 AS n', n); END $$;
             CREATE FUNCTION wrap_sql(n int) RETURNS text STABLE LANGUAGE sql AS
             $$ SELECT redis_cached('w:' || n, 60, 'SELECT $1 AS n', n)::text $$;
             CREATE VIEW over AS SELECT redis_cached('w:1', 60, 'SELECT $1 AS n', 1)::text AS v",
        )
        .unwrap();
    for sql in [
        "SELECT wrap(1)",
        "SELECT wrap_sql(1)",
        "SELECT v FROM over",
        "SELECT max(wrap(g)) FROM generate_series(1, 1) g",
        "SELECT redis_cached('w:' || g, 60, 'SELECT $1 AS n', g)::text
         FROM generate_series(1, 1) g",
        "SELECT CASE WHEN true THEN wrap(1) END",
        "SELECT (SELECT wrap(1))",
        "WITH w AS MATERIALIZED (SELECT wrap(1) AS v) SELECT v FROM w",
        "SELECT v FROM (VALUES (1)) x(n), LATERAL wrap(n) AS v",
        "SELECT wrap(1) WHERE wrap(1) IS NOT NULL ORDER BY wrap(1)",
    ] {
        for _ in 0..2 {
            let answer: String =
                client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0);
            assert_eq!(answer, r#"[{"n":1}]"#, "{sql}");
        }
    }
    client
        .batch_execute(
            "BEGIN; DECLARE c CURSOR FOR SELECT wrap(g) FROM generate_series(1, 100) g;
             FETCH 10 FROM c; MOVE 50 IN c; FETCH ALL FROM c; COMMIT;
             EXPLAIN (ANALYZE) SELECT wrap(1); EXPLAIN SELECT * FROM t WHERE wrap(1) = 'x';
             PREPARE p(int) AS SELECT wrap($1); EXECUTE p(1); EXECUTE p(2); DEALLOCATE p;
             CREATE TABLE copied AS SELECT wrap(g) AS v FROM generate_series(1, 5) g;
             COPY (SELECT wrap(3)) TO '/dev/null'",
        )
        .unwrap();
    let with_commit = "DO $$ BEGIN PERFORM wrap(g) FROM generate_series(1, 5) g; COMMIT;
                       PERFORM wrap(9); END $$";
    client.batch_execute(with_commit).unwrap();
}

#[test]
fn an_error_caught_by_plpgsql_leaves_everything_usable() {
    // Danger: an EXCEPTION block rolls a subtransaction back under the feet of a kept plan.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    client
        .batch_execute(
            "CREATE FUNCTION tried(query text) RETURNS text LANGUAGE plpgsql AS $$
             BEGIN RETURN redis_cached('k', 60, query);
             EXCEPTION WHEN OTHERS THEN RETURN sqlstate; END $$",
        )
        .unwrap();
    let mut tried =
        |query: &str| -> String { client.query_one("SELECT tried($1)", &[&query]).unwrap().get(0) };
    for _ in 0..3 {
        assert_eq!(tried("SELECT 1 / (id - 1) AS v FROM t"), "22012");
        assert_eq!(tried("SELECT * FROM nowhere"), "42P01");
        assert_eq!(tried("SELECT random()"), "42P17");
        assert_eq!(tried("SELECT id FROM t"), r#"[{"id":1}]"#);
    }
}

#[test]
fn parallel_plans_do_not_break_it() {
    // Danger: a worker process calls the function and opens connections of its own, or fails.
    let scene = Scene::new();
    let mut client = prepare(&scene);
    client
        .batch_execute("INSERT INTO t SELECT g FROM generate_series(2, 20000) g; ANALYZE t")
        .unwrap();
    let setting = if scene.postgres().cluster().major() >= 16 {
        "debug_parallel_query"
    } else {
        "force_parallel_mode"
    };
    client
        .batch_execute(&format!(
            "SET {setting} = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
             SET min_parallel_table_scan_size = 0"
        ))
        .unwrap();
    for query in ["SELECT count(*) AS n, sum(id) AS s FROM t", "SELECT max(id) AS m FROM t"] {
        let (_, counters) = counted(&mut client, |c| {
            for key in ["p", "p"] {
                let answer = cached(c, key, query);
                assert!(answer.as_ref().is_ok_and(|a| a.contains("20000")), "{answer:?}");
            }
        });
        assert_eq!((counters.fills, counters.hits), (1, 1), "{counters:?}");
    }
    let sql =
        "SELECT count(DISTINCT redis_cached('p', 60, 'SELECT 1 AS v')::text) FROM t WHERE id < 100";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 1);
}
