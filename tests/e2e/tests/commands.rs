//! Plain commands act at once, on the keys that applications know, and say clearly what is wrong.

use std::time::{Duration, Instant};

use pg_cache_core::key::EntryKeys;
use pg_cache_e2e::counters::counted;
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::Redis;
use postgres::Client;

/// What an expression gives, as text.
#[track_caller]
fn one(client: &mut Client, expression: &str) -> Option<String> {
    let sql = format!("SELECT ({expression})::text");
    client.query_one(&sql, &[]).unwrap_or_else(|e| panic!("{sql}: {}", words(&e))).get(0)
}

#[track_caller]
fn refused(client: &mut Client, expression: &str, state: &str) -> String {
    let sql = format!("SELECT {expression}");
    let error = client.batch_execute(&sql).expect_err(&sql);
    assert_eq!(sqlstate(&error), state, "{sql}: {}", words(&error));
    words(&error)
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn commands_do_what_redis_does() {
    // Danger: an application finds another key, another value or none.
    let scene = Scene::new();
    let mut client = scene.connect();
    assert_eq!(one(&mut client, "redis_get('k')"), None);
    one(&mut client, "redis_set('k', 'grün \"1\"')");
    assert_eq!(scene.redis.cli(&["--raw", "GET", "k"]), "grün \"1\"");
    assert_eq!(one(&mut client, "redis_get('k')"), some("grün \"1\""));
    assert_eq!(scene.redis.cli(&["PTTL", "k"]), "-1");
    one(&mut client, "redis_set('k', '', '5 minutes')");
    assert_eq!(one(&mut client, "redis_get('k')"), some(""));
    assert!(scene.redis.cli(&["PTTL", "k"]).parse::<u64>().unwrap() > 290_000);
    one(&mut client, "redis_set('k', 'v')");
    assert_eq!(scene.redis.cli(&["PTTL", "k"]), "-1", "SET without a ttl takes the old one away");

    assert_eq!(one(&mut client, "redis_incr('n')"), some("1"));
    assert_eq!(one(&mut client, "redis_incr('n', 41)"), some("42"));
    assert_eq!(one(&mut client, "redis_incr('n', -50)"), some("-8"));
    assert_eq!(
        one(&mut client, "redis_incr('n', \"by\" => -9223372036854775800)"),
        some("-9223372036854775808")
    );

    assert_eq!(one(&mut client, "redis_expire('n', interval '1 hour')"), some("true"));
    assert_eq!(one(&mut client, "redis_expire('none', 60)"), some("false"));
    assert_eq!(
        one(&mut client, "redis_ttl('n') BETWEEN interval '59 minutes' AND interval '1 hour'"),
        some("true")
    );
    assert_eq!(one(&mut client, "redis_ttl('none')"), None);
    assert_eq!(one(&mut client, "redis_ttl('k') > interval '100000 years'"), some("true"));

    assert_eq!(one(&mut client, "redis_del('k', 'n', 'none', 'k')"), some("2"));
    assert_eq!(one(&mut client, "redis_del(VARIADIC '{}')"), some("0"));
    assert_eq!(scene.redis.cli(&["DBSIZE"]).parse::<u64>().unwrap(), left_by_us(&scene.redis));
}

/// The keys that pg_cache keeps for itself.
fn left_by_us(redis: &Redis) -> u64 {
    redis.cli(&["--raw", "KEYS", "pgc:*"]).lines().count() as u64
}

#[test]
fn they_act_at_once_whatever_becomes_of_the_transaction() {
    // Danger: a counter that waits for the commit, or is taken back with it, unlike what is said.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("BEGIN READ ONLY; SELECT redis_incr('n')").unwrap();
    assert_eq!(scene.redis.cli(&["GET", "n"]), "1");
    let xid: Option<String> =
        client.query_one("SELECT pg_current_xact_id_if_assigned()::text", &[]).unwrap().get(0);
    assert_eq!(xid, None, "they take no transaction id");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(scene.redis.cli(&["GET", "n"]), "1");
}

#[test]
fn names_have_the_prefix_of_the_database_and_never_ours() {
    // Danger: two databases share a counter, or a user writes into our own names.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SELECT redis_register('app1:')").unwrap();
    scene.register();
    one(&mut client, "redis_set('k', 'v')");
    one(&mut client, "redis_incr('n')");
    assert_eq!(scene.redis.cli(&["GET", "app1:k"]), "v");
    assert_eq!(scene.redis.cli(&["GET", "app1:n"]), "1");
    assert_eq!(
        one(&mut client, "redis_ttl('k') IS NOT NULL AND redis_expire('k', 9)"),
        some("true")
    );
    assert_eq!(one(&mut client, "redis_del('k')"), some("1"));
    assert_eq!(one(&mut client, "redis_command('GET', 'app1:n')"), some("\"1\""));
    assert_eq!(one(&mut client, "redis_command('GET', 'n')"), None, "it sends names as they are");
    for expression in [
        "redis_get('pgc:x')",
        "redis_set('pgc:x', 'v')",
        "redis_set('pgc:x', 'v', 60)",
        "redis_del('a', 'pgc:x')",
        "redis_incr('pgc:x')",
        "redis_expire('pgc:x', 60)",
        "redis_ttl('pgc:x')",
    ] {
        refused(&mut client, expression, "42939");
    }
}

#[test]
fn bad_input_has_a_clear_error() {
    // Danger: NULL taken for an empty name, or a value that nobody can read again.
    let scene = Scene::new();
    let mut client = scene.connect();
    for (expression, state) in [
        ("redis_get(NULL)", "22004"),
        ("redis_set(NULL, 'v')", "22004"),
        ("redis_set('k', NULL)", "22004"),
        ("redis_set('k', 'v', NULL)", "22004"),
        ("redis_set('k', 'v', 0)", "22023"),
        ("redis_set('k', 'v', -1)", "22023"),
        ("redis_set('k', 'v', 'soon')", "22023"),
        ("redis_set('k', 'v', true)", "42804"),
        ("redis_set('k', 'v', interval '1000 years')", "22023"),
        ("redis_expire('k', 0)", "22023"),
        ("redis_expire('k', NULL)", "22004"),
        ("redis_del(NULL)", "22004"),
        ("redis_del(VARIADIC NULL)", "22004"),
        ("redis_del('k', NULL)", "22004"),
        ("redis_incr('k', NULL)", "22004"),
        ("redis_ttl(NULL)", "22004"),
        ("redis_command(NULL)", "22004"),
        ("redis_command('GET', NULL)", "22004"),
        ("redis_command('')", "42883"),
        ("redis_get(repeat('k', 1025))", "54000"),
        ("redis_set('k', repeat('v', 9000000))", "54000"),
        ("redis_command('SET', 'k', repeat('v', 9000000))", "54000"),
    ] {
        refused(&mut client, expression, state);
    }
    assert!(refused(&mut client, "redis_set('k', NULL)", "22004").contains("value must not be"));
    one(&mut client, "redis_set('', 'the empty key is a key')");
    assert_eq!(one(&mut client, "redis_get('')"), some("the empty key is a key"));
}

#[test]
fn a_value_that_is_no_text_is_an_error_with_a_way_out() {
    // Danger: bytes that are no text become a datum, and the next function crashes on them.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut redis = scene.redis.client();
    for bytes in [&b"\xff\xfe"[..], b"a\0b", b"\xc3"] {
        redis::cmd("SET").arg("k").arg(bytes).exec(&mut redis).unwrap();
        let text = refused(&mut client, "redis_get('k')", "22021");
        assert!(text.contains("redis_command('GET', ...)"), "{text}");
        let sql = "SELECT decode(redis_command('GET', 'k') ->> 'base64', 'base64')";
        let found: Vec<u8> = client.query_one(sql, &[]).unwrap().get(0);
        assert_eq!(found, bytes);
    }
}

#[test]
fn a_key_written_or_deleted_by_name_is_no_entry_any_more() {
    // Danger: redis_cached serves what redis_set wrote as its own answer, or puts its answer over
    // it; or a value that was deleted stands there again by a fill from before.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (1)").unwrap();
    let query = "SELECT v FROM t";
    let keys = EntryKeys::new(b"q");
    let beside = || {
        let names = [keys.sidecar().to_vec(), keys.lease(), keys.recipe()];
        let names: Vec<String> =
            names.iter().map(|name| String::from_utf8(name.clone()).unwrap()).collect();
        let asked: Vec<&str> =
            ["EXISTS"].into_iter().chain(names.iter().map(String::as_str)).collect();
        scene.redis.cli(&asked)
    };
    cached(&mut client, "q", query).unwrap();
    assert_ne!(beside(), "0");
    client.batch_execute("UPDATE t SET v = 2").unwrap();
    assert_eq!(one(&mut client, "redis_del('q')"), some("1"));
    assert_eq!(beside(), "0");
    assert_eq!(cached(&mut client, "q", query).unwrap(), r#"[{"v":2}]"#, "it is computed anew");

    one(&mut client, "redis_set('q', 'mine', 60)");
    assert_eq!(beside(), "0");
    let (answer, counters) = counted(&mut client, |client| cached(client, "q", query));
    assert_eq!((answer.unwrap().as_str(), counters.hits), (r#"[{"v":2}]"#, 0));
    assert_eq!(one(&mut client, "redis_get('q')"), some("mine"), "nobody replaces it");
}

#[test]
fn a_fill_that_was_under_way_does_not_put_back_what_was_deleted() {
    // Danger: redis_del after a change that nothing tracks, and the entry is the old one again.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t (v int); INSERT INTO t VALUES (1)").unwrap();
    let mut filler = scene.connect();
    filler.batch_execute("SET pg_cache.fault_point = 'read.fill:sleep_1500'").unwrap();
    let filling = std::thread::spawn(move || cached(&mut filler, "q", "SELECT v FROM t").unwrap());
    let lease = String::from_utf8(EntryKeys::new(b"q").lease()).unwrap();
    pg_cache_testbed::eventually(Duration::from_secs(10), "it is being filled", || {
        scene.redis.cli(&["EXISTS", &lease]) == "1"
    });
    assert_eq!(one(&mut client, "redis_del('q')"), some("0"));
    assert_eq!(scene.redis.cli(&["EXISTS", &lease]), "0");
    filling.join().unwrap();
    assert_eq!(scene.redis.cli(&["EXISTS", "q"]), "0");
}

#[test]
fn many_keys_are_deleted_in_one_call() {
    // Danger: a list of keys longer than one request is cut, or counted wrongly.
    let scene = Scene::new();
    let mut client = scene.connect();
    scene.redis.cli(&["EVAL", "for i = 1, 2500 do redis.call('SET', 'k' .. i, i) end", "0"]);
    client.batch_execute("SET pg_cache.timeout_ms = 5000").unwrap();
    let keys = "redis_del(VARIADIC (SELECT array_agg('k' || i) FROM generate_series(1, 2600) i))";
    assert_eq!(one(&mut client, keys), some("2500"));
    assert_eq!(scene.redis.cli(&["EXISTS", "k1", "k2500"]), "0");
}

#[test]
fn without_redis_each_is_an_error_and_soon() {
    // Danger: a statement that hangs, or one that returns as if it had been done.
    let mut scene = Scene::alone();
    let mut client = scene.connect();
    one(&mut client, "redis_set('k', 'v')");
    scene.redis.freeze();
    let start = Instant::now();
    refused(&mut client, "redis_get('k')", "08006");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    scene.redis.thaw();
    pg_cache_testbed::eventually(Duration::from_secs(20), "it goes on", || {
        client.batch_execute("SELECT redis_get('k')").is_ok()
    });
    scene.redis.stop();
    for expression in [
        "redis_get('k')",
        "redis_set('k', 'v')",
        "redis_del('k')",
        "redis_incr('k')",
        "redis_expire('k', 60)",
        "redis_ttl('k')",
        "redis_command('PING')",
    ] {
        let sql = format!("SELECT {expression}");
        let error = client.batch_execute(&sql).expect_err(&sql);
        assert!(["08001", "08006"].contains(&sqlstate(&error).as_str()), "{}", words(&error));
    }
}

#[test]
fn a_statement_that_waits_for_redis_can_be_cancelled() {
    // Danger: a backend that nobody can stop while Redis hangs.
    let scene = Scene::alone();
    let mut client = scene.connect();
    one(&mut client, "redis_set('k', 'v')");
    client.batch_execute("SET pg_cache.timeout_ms = 60000; SET statement_timeout = 300").unwrap();
    scene.redis.freeze();
    let start = Instant::now();
    refused(&mut client, "redis_incr('n')", "57014");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    scene.redis.thaw();
    client.batch_execute("SET statement_timeout = 0").unwrap();
    assert_eq!(one(&mut client, "redis_get('k')"), some("v"), "no answer to the one before");
}

#[test]
fn they_run_in_a_query_that_runs_in_parallel() {
    // Danger: an error that comes and goes with the plan.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE big AS SELECT i FROM generate_series(1, 20000) AS i; ANALYZE big;
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
             SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
             SELECT redis_set('k', 'v')",
        )
        .unwrap();
    let query = "SELECT i, redis_get('k'), redis_incr('n') FROM big WHERE i % 5000 = 0";
    let rows = client.query(&format!("EXPLAIN (COSTS off) {query}"), &[]).unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Gather")), "{plan:?}");
    assert_eq!(client.query(query, &[]).unwrap().len(), 4);
    assert_eq!(one(&mut client, "redis_get('n')"), some("4"));
}

#[test]
fn a_connection_to_a_server_that_was_demoted_is_given_up() {
    // Danger: after a failover a backend stays with the old primary for as long as it lives, and
    // none of its writes succeeds again.
    let scene = Scene::new();
    let mut client = scene.connect();
    let id = |client: &mut Client| one(client, "redis_command('CLIENT', 'ID')").unwrap();
    let before = id(&mut client);
    scene.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(id(&mut client), before, "to read is no reason");
    refused(&mut client, "redis_set('k', 'v')", "25006");
    let after = id(&mut client);
    assert_ne!(after, before);
    refused(&mut client, "redis_command('SET', 'k', 'v')", "25006");
    assert_ne!(id(&mut client), after);
}

#[test]
fn a_row_that_is_stored_comes_after_what_was_set_by_name() {
    // Danger: a value that somebody set meanwhile stays, and the row is never seen.
    let scene = Scene::new();
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1);
             CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{id}')",
        )
        .unwrap();
    for (v, by_name) in [(2, "redis_set('t:1', 'mine')"), (3, "redis_del('t:1')")] {
        let mut writer = scene.connect();
        writer.batch_execute("SET pg_cache.fault_point = 'events.send:sleep_1000'").unwrap();
        let storing = std::thread::spawn(move || {
            writer.batch_execute(&format!("UPDATE t SET v = {v}")).unwrap();
        });
        let token = String::from_utf8(EntryKeys::new(b"t:1").token()).unwrap();
        pg_cache_testbed::eventually(Duration::from_secs(10), "the token is laid", || {
            scene.redis.cli(&["EXISTS", &token]) == "1"
        });
        one(&mut client, by_name);
        assert!(!storing.is_finished(), "the writer has not sent yet");
        storing.join().unwrap();
        assert_eq!(
            one(&mut client, "redis_get('t:1')").unwrap(),
            format!("{{\"id\":1,\"v\":{v}}}")
        );
    }
}

#[test]
fn a_command_is_carried_out_once_or_not_at_all() {
    // Danger: a lost answer is taken for a lost command, and INCR counts twice.
    let scene = Scene::alone();
    let mut client = scene.connect();
    assert_eq!(one(&mut client, "redis_incr('n')"), some("1"));
    scene.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(one(&mut client, "redis_incr('n')"), some("2"), "an idle connection is replaced");
    scene.redis.freeze();
    refused(&mut client, "redis_incr('n')", "08006");
    scene.redis.thaw();
    // Redis carries out what it was sent, although nobody waits for the answer.
    pg_cache_testbed::eventually(Duration::from_secs(10), "it is carried out", || {
        scene.redis.cli(&["GET", "n"]) == "3"
    });
    pg_cache_testbed::eventually(Duration::from_secs(20), "it goes on", || {
        client.batch_execute("SELECT redis_get('n')").is_ok()
    });
    assert_eq!(one(&mut client, "redis_incr('n')"), some("4"));
}
