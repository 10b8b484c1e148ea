//! What sending does when something is wrong: with the trigger, with Redis, or with us.

use std::time::{Duration, Instant};

use pg_cache_e2e::events::{events, told};
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::registry::{count, repair};
use pg_cache_e2e::{Notices, Scene, same_as_direct};
use postgres::Client;

fn streaming(scene: &Scene) -> (Client, Notices) {
    let (mut client, notices) = scene.connect_listening();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION redis_stream('s')",
        )
        .unwrap();
    repair(&mut client);
    (client, notices)
}

fn counts(client: &mut Client) -> (i64, i64) {
    let row = client.query_one("SELECT sent, lost FROM redis_stat_commit", &[]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
fn a_trigger_that_cannot_send_is_refused_when_it_is_created() {
    // Danger: a migration passes, and the first customer's order fails.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text, secret text)").unwrap();
    let row = "AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW";
    for (when, function, state, said) in [
        (row, "redis_publish()", "22023", "no channel is named"),
        (row, "redis_stream('')", "22023", "no stream is named"),
        (row, "redis_publish('c', 'expect=secret')", "22023", "unknown option"),
        (row, "redis_publish('c', 'ttl=5')", "22023", "unknown option"),
        (row, "redis_stream('s', 'maxlen=0')", "22023", "invalid option"),
        (row, "redis_stream('s', 'maxlen=9223372036854775808')", "22023", "invalid option"),
        (row, "redis_store('k', 'ttl=9223372036854775808')", "22023", "ttl"),
        (row, "redis_store('k', 'as=list')", "22023", "invalid option"),
        (row, "redis_store('k', 'ttl=soon')", "22023", "invalid ttl"),
        (row, "redis_store('k', 'ttl=-1')", "22023", "ttl must be greater than zero"),
        (row, "redis_store('k', 'ttl=100 years')", "22023", "ttl must not be longer"),
        (row, "redis_publish('c', 'columns=gone')", "42703", "column \"gone\" does not exist"),
        (row, "redis_publish('c', 'except=gone')", "42703", "column \"gone\" does not exist"),
        (row, "redis_publish('c', 'when=gone')", "42703", "column \"gone\" does not exist"),
        (row, "redis_publish('c:{gone}')", "42703", "column \"gone\" does not exist"),
        (row, "redis_publish('c:{secret}', 'except=secret')", "22023", "is excepted"),
        (row, "redis_publish('c:{id')", "22023", "invalid key template"),
        (row, "redis_store('pgc:{id}')", "42939", "must not begin with"),
        ("BEFORE INSERT ON t FOR EACH ROW", "redis_publish('c')", "39P01", "must be AFTER"),
        ("AFTER INSERT ON t FOR EACH STATEMENT", "redis_job('q')", "39P01", "must be AFTER"),
        ("AFTER TRUNCATE ON t", "redis_store('k')", "39P01", "must be AFTER"),
    ] {
        let sql = format!("CREATE TRIGGER bad {when} EXECUTE FUNCTION {function}");
        let error = client.batch_execute(&sql).expect_err(&sql);
        assert_eq!(sqlstate(&error), state, "{sql}: {}", words(&error));
        let words = words(&error);
        assert!(words.contains("trigger \"bad\" on public.t"), "{sql}: {words}");
        assert!(words.contains(said), "{sql}: {words}");
    }
    client.batch_execute("INSERT INTO t VALUES (1); CREATE VIEW w AS SELECT * FROM t").unwrap();
    for kind in ["publish", "stream", "store", "job"] {
        let sql = format!(
            "CREATE TRIGGER bad INSTEAD OF INSERT ON w FOR EACH ROW
                 EXECUTE FUNCTION redis_{kind}('n')"
        );
        let error = client.batch_execute(&sql).expect_err(&sql);
        assert_eq!(sqlstate(&error), "39P01", "{sql}: {}", words(&error));
        assert!(words(&error).contains("trigger \"bad\" on public.w: must be AFTER"), "{sql}");
    }
}

#[test]
fn a_message_that_is_too_large_fails_what_makes_it() {
    // Danger: one kind of message is not measured, and a row of a gigabyte goes to all subscribers.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.value_bytes_max = 2000").unwrap();
    for (table, function) in [
        ("a", "redis_publish('c')"),
        ("b", "redis_stream('s')"),
        ("c", "redis_job('q')"),
        ("d", "redis_store('t:{id}')"),
        ("e", "redis_store('t:{id}', 'as=hash')"),
        ("f", "redis_stream('s', 'durable')"),
    ] {
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, v text);
                 CREATE TRIGGER large AFTER INSERT ON {table} FOR EACH ROW
                     EXECUTE FUNCTION {function};
                 INSERT INTO {table} VALUES (1, repeat('x', 1500))"
            ))
            .unwrap_or_else(|error| panic!("{function}: {}", words(&error)));
        let sql = format!("INSERT INTO {table} VALUES (2, repeat('x', 2001))");
        let error = client.batch_execute(&sql).expect_err(function);
        let words = words(&error);
        assert_eq!(sqlstate(&error), "54000", "{function}: {words}");
        let said = format!("trigger \"large\" on public.{table}: message is too large");
        assert!(words.contains(&said), "{function}: {words}");
    }
    let sql = |bytes| format!("SELECT redis_at_commit('SET', 'k', repeat('x', {bytes}))");
    client.batch_execute(&sql(1500)).unwrap();
    let error = client.batch_execute(&sql(2001)).expect_err("too large");
    assert_eq!(sqlstate(&error), "54000", "{}", words(&error));
}

#[test]
fn what_a_row_makes_wrong_fails_that_row_and_says_where() {
    // Danger: a message that is silently not sent.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             CREATE TRIGGER named AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{v}')",
        )
        .unwrap();
    repair(&mut client);
    client.batch_execute("SET pg_cache.value_bytes_max = 1000").unwrap();
    for (sql, state, said) in [
        ("INSERT INTO t VALUES (1, NULL)", "22004", "column \"v\" must not be null"),
        ("INSERT INTO t VALUES (1, repeat('x', 1020))", "54000", "message is too large"),
        ("INSERT INTO t VALUES (1, repeat('x', 2000))", "54000", "is too l"),
    ] {
        let error = client.batch_execute(sql).expect_err(sql);
        let words = words(&error);
        assert_eq!(sqlstate(&error), state, "{sql}: {words}");
        assert!(words.contains("trigger \"named\" on public.t"), "{sql}: {words}");
        assert!(words.contains(said), "{sql}: {words}");
    }
    client
        .batch_execute(
            "ALTER EVENT TRIGGER pg_cache_ddl_end DISABLE; ALTER TABLE t RENAME v TO w;
             ALTER EVENT TRIGGER pg_cache_ddl_end ENABLE ALWAYS",
        )
        .unwrap();
    let error = client.batch_execute("INSERT INTO t VALUES (1, 'x')").expect_err("renamed");
    assert!(words(&error).contains("trigger \"named\" on public.t: column \"v\" does not exist"));
}

#[test]
fn a_column_that_a_trigger_names_stays() {
    // Danger: a migration passes, and the first customer's order fails; or the column that was
    // excepted has another name now, and is sent.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int, d int, e int, free int);
             CREATE TABLE child (own int) INHERITS (t);
             CREATE TABLE p (id int, k int, a int, b int) PARTITION BY LIST (k);
             CREATE TABLE p1 PARTITION OF p DEFAULT",
        )
        .unwrap();
    for (table, name, function) in [
        ("t", "s", "redis_stream('s', 'columns=id,a')"),
        ("t", "e", "redis_publish('c:{id}', 'except=b')"),
        ("t", "w", "redis_job('q', 'when=c')"),
        ("t", "k", "redis_invalidate('k', 'k:{d}')"),
        ("child", "k", "redis_invalidate('k:{e}:{own}')"),
        ("p", "s", "redis_store('p:{a}')"),
        ("p1", "s1", "redis_store('p1:{b}')"),
    ] {
        let sql = format!(
            "CREATE TRIGGER {name} AFTER INSERT OR UPDATE ON {table} FOR EACH ROW
                 EXECUTE FUNCTION {function}"
        );
        client.batch_execute(&sql).unwrap();
    }
    let columns = ["t id e", "t a s", "t b e", "t c w", "t d k"];
    let of_children = ["t e k:child", "child own k", "p a s", "p b s1:p1"];
    for named in columns.iter().chain(&of_children) {
        let mut words_of = named.split(' ');
        let mut next = || words_of.next().unwrap();
        let (table, column, trigger) = (next(), next(), next());
        let (trigger, on) = trigger.split_once(':').unwrap_or((trigger, table));
        for alter in [format!("RENAME {column} TO gone"), format!("DROP COLUMN {column} CASCADE")] {
            let sql = format!("ALTER TABLE {table} {alter}");
            let error = client.batch_execute(&sql).expect_err(&sql);
            let (state, words) = (sqlstate(&error), words(&error));
            assert_eq!(state, "2BP01", "{sql}: {words}");
            let said =
                format!("\"{trigger}\" on public.{on}: column \"{column}\" would be missing");
            assert!(words.contains(&said), "{sql}: {words}");
        }
    }
    client
        .batch_execute(
            "ALTER TABLE t RENAME free TO freed; ALTER TABLE t DROP COLUMN freed, ADD f int;
             ALTER TABLE t ALTER a TYPE text, ALTER e SET NOT NULL;
             ALTER TABLE t RENAME TO renamed;
             BEGIN; DROP TRIGGER e ON renamed; ALTER TABLE renamed DROP COLUMN b;
             CREATE TRIGGER e AFTER INSERT ON renamed FOR EACH ROW
                 EXECUTE FUNCTION redis_publish('c:{id}', 'except=f');
             COMMIT;
             INSERT INTO child VALUES (1, 'a', 1, 1, 1, 1, 1); INSERT INTO p VALUES (1, 1, 1, 1)",
        )
        .unwrap();
}

#[test]
fn commands_that_break_a_connection_or_a_server_are_refused() {
    // Danger: SUBSCRIBE over the connection that commits use.
    let scene = Scene::new();
    let (mut client, _) = streaming(&scene);
    for (sql, state) in [
        ("SELECT redis_at_commit('FLUSHALL')", "0A000"),
        ("SELECT redis_at_commit('subscribe', 'c')", "0A000"),
        ("SELECT redis_at_commit('BLPOP', 'k', '0')", "0A000"),
        ("SELECT redis_at_commit('CONFIG', 'SET', 'dir', '/')", "0A000"),
        ("SELECT redis_at_commit(NULL)", "22004"),
        ("SELECT redis_at_commit('SET', 'k', NULL)", "22004"),
        ("SELECT redis_publish(NULL, 'x')", "22004"),
        ("SELECT redis_publish('c', NULL)", "22004"),
        ("SELECT redis_publish('pgc:x', 'y')", "42939"),
        ("SELECT redis_publish('c', repeat('x', 9000000))", "54000"),
        ("SELECT redis_publish()", "39P01"),
    ] {
        let error = client.batch_execute(sql).expect_err(sql);
        assert_eq!(sqlstate(&error), state, "{sql}: {}", words(&error));
    }
    let role = scene.create_role("user");
    let mut user = scene.connect_as(&role);
    for sql in [
        "SELECT redis_publish('c', 'x')",
        "SELECT redis_at_commit('SET', 'k', 'v')",
        "CREATE TEMP TABLE t (id int); CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
             EXECUTE FUNCTION redis_stream('s')",
    ] {
        assert_eq!(sqlstate(&user.batch_execute(sql).expect_err(sql)), "42501", "{sql}");
    }
    client.batch_execute(&format!("GRANT INSERT ON t TO {role}")).unwrap();
    user.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(told(&scene.redis, "s", "id"), ["1"], "who may write the table may set it off");
}

#[test]
fn a_commit_without_redis_succeeds_with_one_warning() {
    // Danger: an order that cannot be placed since a cache is down.
    let mut scene = Scene::alone();
    let (mut client, notices) = streaming(&scene);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(counts(&mut client), (1, 0));
    scene.redis.stop();
    for id in 2..6 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).unwrap();
    }
    assert_eq!(counts(&mut client), (1, 4));
    let warnings = notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].message(), "redis is not usable, 1 message is lost");
    let rows: i64 = client.query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(rows, 5);
}

#[test]
fn a_redis_that_hangs_costs_a_commit_its_time_and_no_more() {
    // Danger: a commit that nothing can cancel waits for ever.
    let scene = Scene::alone();
    let (mut client, _) = streaming(&scene);
    client.batch_execute("INSERT INTO t VALUES (1); SET pg_cache.commit_timeout_ms = 300").unwrap();
    scene.redis.freeze();
    let started = Instant::now();
    client.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    let took = started.elapsed();
    scene.redis.thaw();
    assert!(took < Duration::from_millis(900), "{took:?}");
    assert_eq!(counts(&mut client), (1, 1));
}

#[test]
fn a_disk_that_is_slow_costs_no_message() {
    // Danger: with synchronous_commit off the log is flushed before anything is told; the time for
    // Redis is over by then, what was to be sent is lost, and Redis is taken to be away.
    let scene = Scene::new();
    let (mut client, notices) = streaming(&scene);
    let set = "SET synchronous_commit = off; SET pg_cache.commit_timeout_ms = 300";
    client.batch_execute(set).unwrap();
    client.batch_execute("SET pg_cache.fault_point = 'events.flushed:sleep_400'").unwrap();
    for id in 1..=3 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id}, '{id}')")).unwrap();
    }
    assert_eq!((counts(&mut client), notices.warnings().len()), ((3, 0), 0));
    assert_eq!(told(&scene.redis, "s", "v"), ["1", "2", "3"]);
}

#[test]
fn a_connection_that_the_server_closed_loses_nothing() {
    // Danger: the first event after an idle hour is lost, or sent twice.
    let scene = Scene::new();
    let (mut client, _) = streaming(&scene);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    for id in 2..10 {
        scene.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).unwrap();
    }
    assert_eq!(told(&scene.redis, "s", "id").join(""), "123456789");
    assert_eq!(counts(&mut client), (9, 0));
}

#[test]
fn what_redis_refuses_is_counted_and_the_rest_arrives() {
    // Danger: a key of another type in the place of one stream takes all others with it.
    let scene = Scene::new();
    let (mut client, notices) = streaming(&scene);
    scene.redis.cli(&["SET", "other", "no stream"]);
    client
        .batch_execute(
            "CREATE TRIGGER f AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('other');
             INSERT INTO t VALUES (1), (2)",
        )
        .unwrap();
    assert_eq!(told(&scene.redis, "s", "id"), ["1", "2"]);
    assert_eq!(counts(&mut client), (2, 2));
    let warnings = notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].detail().unwrap().contains("WRONGTYPE"), "{warnings:?}");
}

#[test]
fn a_defect_after_the_commit_restarts_nothing() {
    // Danger: an error behind the commit record takes the whole cluster down.
    let scene = Scene::new();
    let (mut client, _) = streaming(&scene);
    let started = |client: &mut Client| -> String {
        client.query_one("SELECT pg_postmaster_start_time()::text", &[]).unwrap().get(0)
    };
    let before = started(&mut client);
    let mut id = 0;
    for point in ["events.send", "client.send", "client.receive", "client.connect"] {
        for kind in ["panic", "error"] {
            let mut other = scene.connect();
            let sql = format!("SET pg_cache.fault_point = '{point}:{kind}'");
            other.batch_execute(&sql).unwrap();
            for _ in 0..3 {
                id += 1;
                other
                    .batch_execute(&format!("INSERT INTO t VALUES ({id})"))
                    .unwrap_or_else(|error| panic!("{point}:{kind}: {error:?}"));
            }
            other.batch_execute("RESET pg_cache.fault_point").unwrap();
            let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
            assert!(pid > 0);
        }
    }
    assert_eq!(started(&mut client), before);
    let rows: i64 = client.query_one("SELECT count(*) FROM t", &[]).unwrap().get(0);
    assert_eq!(rows, i64::from(id));
    // Before the commit record a defect fails the transaction, and nothing leaves.
    let mut other = scene.connect();
    let arrived = events(&scene.redis, "s").len();
    other.batch_execute("SET pg_cache.fault_point = 'events.settle:error'").unwrap();
    other.batch_execute("INSERT INTO t VALUES (1000)").expect_err("the fault");
    assert_eq!(events(&scene.redis, "s").len(), arrived);
}

#[test]
fn a_defect_after_a_tracked_commit_restarts_nothing_and_is_forgotten() {
    // Danger: as above; or what is left of the transaction keeps the session's next one from being
    // told or owed, and old values are served.
    let mut scene = Scene::new();
    let mut reader = scene.connect();
    reader
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0);
             SELECT redis_track('t')",
        )
        .unwrap();
    repair(&mut reader);
    let started = "SELECT extract(epoch FROM pg_postmaster_start_time())::bigint";
    let before = count(&mut reader, started);
    let debts = "SELECT count(*) FROM redis_debt";
    let query = "SELECT v FROM t";
    for kind in ["panic", "error"] {
        // One whose breaker is closed.
        let mut other = scene.connect();
        let fault = format!("SET pg_cache.fault_point = 'commit.ended:{kind}'");
        other.batch_execute(&fault).unwrap();
        for _ in 0..3 {
            same_as_direct(&mut reader, "k", query).unwrap();
            other.batch_execute("UPDATE t SET v = v + 1").unwrap();
            same_as_direct(&mut reader, "k", query).unwrap();
            other.batch_execute("BEGIN; UPDATE t SET v = v + 1; ROLLBACK").unwrap();
            same_as_direct(&mut reader, "k", query).unwrap();
        }
        // What the first one owes is paid before the second one owes the same.
        for round in 0..2 {
            scene.redis.stop();
            other.batch_execute("UPDATE t SET v = v + 1").unwrap();
            assert_eq!(count(&mut reader, debts), 1, "{kind}, {round}");
            scene.redis.start_again();
            repair(&mut reader);
            same_as_direct(&mut reader, "k", query).unwrap();
        }
    }
    assert_eq!(count(&mut reader, started), before);
}

#[test]
fn the_log_of_savepoints_is_what_keeps_rolled_back_events_in() {
    // Danger: a test of savepoints that could not fail.
    let scene = Scene::new();
    let (mut client, _) = streaming(&scene);
    let sql = "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2);
               ROLLBACK TO a; COMMIT";
    client.batch_execute("SET pg_cache.fault_point = 'guard.eventsavepoint:skip'").unwrap();
    client.batch_execute(sql).unwrap();
    assert_eq!(told(&scene.redis, "s", "id"), [""; 0], "without the guard all is gone");
}
