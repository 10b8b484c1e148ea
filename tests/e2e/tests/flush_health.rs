//! The operator's functions: ping and flush raise what is wrong, health tells it, and a flush
//! deletes our own entries and nobody else's.

use std::time::Duration;

use pg_cache_e2e::counters::{counted, keys, value};
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::stopwatch::{PROMPT, timed};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::fake::{FakeRedis, Reply};
use pg_cache_testbed::{Redis, eventually};
use postgres::Client;

const PING: &str = "SELECT redis_ping()::text";
const FLUSH: &str = "SELECT redis_flush()::text";

fn flush(client: &mut Client, pattern: &str) -> i64 {
    client.query_one("SELECT redis_flush($1)", &[&pattern]).unwrap().get(0)
}

#[track_caller]
fn raises(client: &mut Client, sql: &str, expected: &str, what: &str) {
    let error = client.query_one(sql, &[]).expect_err(what);
    assert_eq!(sqlstate(&error), expected, "{what}, {sql}: {error:?}");
}

fn client_of(scene: &Scene, url: &str) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(&format!(
            "SET pg_cache.url = '{url}'; SET pg_cache.timeout_ms = 100;
             SET pg_cache.connect_timeout_ms = 100"
        ))
        .unwrap();
    client
}

#[test]
fn ping_measures_the_round_trip() {
    // Danger: a ping that answers without asking.
    let scene = Scene::new();
    let mut client = scene.connect();
    let sql = "SELECT extract(epoch FROM redis_ping())::float8";
    let seconds: f64 = client.query_one(sql, &[]).unwrap().get(0);
    assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
}

#[test]
fn ping_and_flush_raise_what_is_wrong() {
    // Danger: an operator who asks is told "ok" or something generic.
    let mut scene = Scene::new();
    for (reply, expected) in [
        ("-NOAUTH Authentication required.\r\n", "28P01"),
        ("-WRONGPASS invalid username-password pair\r\n", "28P01"),
        ("-LOADING Redis is loading the dataset in memory\r\n", "57P03"),
        ("-OOM command not allowed\r\n", "53200"),
        ("-READONLY You can't write against a read only replica.\r\n", "25006"),
        ("-NOPERM this user has no permissions\r\n", "42501"),
        ("-ERR something\r\n", "38000"),
        ("-CUSTOM something\r\n", "38000"),
        ("hello\r\n", "08P01"),
        ("*1\r\n*1\r\n:x\r\n", "08P01"),
    ] {
        for sql in [PING, FLUSH] {
            let fake = FakeRedis::start(move |request| match request.handshake() {
                Some(bytes) if !request.is("PING") => Reply::Bytes(bytes),
                _ => Reply::bytes(reply),
            });
            raises(&mut client_of(&scene, &fake.url()), sql, expected, reply.trim_end());
        }
    }
    for sql in [PING, FLUSH] {
        raises(&mut client_of(&scene, "unix:///nonexistent.sock"), sql, "08001", "no socket");
        raises(&mut client_of(&scene, "redis://127.0.0.1:1"), sql, "08001", "refused");
        let fake = FakeRedis::start(|request| match request.handshake() {
            Some(bytes) if !request.is("PING") => Reply::Bytes(bytes),
            _ => Reply::Close,
        });
        raises(&mut client_of(&scene, &fake.url()), sql, "08006", "closed");
        let mut client = client_of(&scene, &scene.redis.url());
        client.query_one(PING, &[]).unwrap();
        scene.redis.freeze();
        raises(&mut client, sql, "08006", "frozen");
        scene.redis.thaw();
    }
    scene.redis.stop();
    raises(&mut scene.connect(), PING, "08001", "stopped");
}

#[test]
fn ping_asks_although_the_breaker_is_open() {
    // Danger: the operator has repaired Redis and is told for ten seconds that it is down.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    scene.redis.stop();
    for _ in 0..50 {
        cached(&mut client, "k", "SELECT 1 AS v").unwrap();
    }
    scene.redis.start_again();
    client.query_one(PING, &[]).unwrap();
}

#[test]
fn real_refusals_reach_the_operator() {
    // Danger: errors that only a fake makes.
    let locked = Redis::start_with(&["--requirepass", "x"]);
    let scene = Scene::new();
    raises(&mut client_of(&scene, &locked.url()), PING, "28P01", "no password");
    let wrong = format!("{}?password=y", locked.url());
    raises(&mut client_of(&scene, &wrong), PING, "28P01", "wrong password");
    let rules = ["ACL", "SETUSER", "small", "on", ">pw", "+@connection", "+info"];
    assert_eq!(scene.redis.cli(&rules), "OK");
    let small = format!("{}?user=small&password=pw", scene.redis.url());
    raises(&mut client_of(&scene, &small), FLUSH, "42501", "may not SCAN");
}

#[test]
fn health_tells_and_does_not_raise() {
    // Danger: the function that should say what is broken breaks.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    let sql = "SELECT \"check\", ok, detail FROM redis_health()";
    client.batch_execute("SELECT * FROM redis_repair()").unwrap();
    let rows = client.query(sql, &[]).unwrap();
    assert!(rows.len() >= 2);
    for row in &rows {
        let (check, ok, detail): (String, bool, Option<String>) =
            (row.get(0), row.get(1), row.get(2));
        assert!(ok, "{check}: {detail:?}");
    }
    let fine = rows.len();
    scene.redis.stop();
    let rows = client.query(sql, &[]).unwrap();
    assert!(rows.iter().any(|row| !row.get::<_, bool>(1)), "down, and all is well?");
    assert!(rows.iter().any(|row| row.get::<_, bool>(1)) || fine == rows.len());
    let fake = FakeRedis::start(|_| Reply::bytes("hello\r\n"));
    let mut client = client_of(&scene, &fake.url());
    let rows = client.query(sql, &[]).unwrap();
    assert!(rows.iter().any(|row| !row.get::<_, bool>(1)), "garbage, and all is well?");
}

#[test]
fn health_names_a_redis_that_evicts_or_is_full() {
    // Danger: keys without a ttl go, the table of versions among them, and sessions of other
    // programs; or nothing is stored any more; and all is said to be well.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut memory = |limit: &str, policy: &str| -> (bool, String) {
        scene.redis.cli(&["CONFIG", "SET", "maxmemory", limit, "maxmemory-policy", policy]);
        let sql = "SELECT ok, detail FROM redis_health() WHERE \"check\" = 'memory'";
        let row = client.query_one(sql, &[]).unwrap();
        (row.get(0), row.get(1))
    };
    for (limit, policy, fine, says) in [
        ("0", "noeviction", true, "no limit, policy noeviction"),
        ("1gb", "volatile-lru", true, "1073741824 bytes, policy volatile-lru"),
        ("0", "allkeys-lru", true, "no limit, policy allkeys-lru"),
        ("1gb", "allkeys-lru", false, "policy allkeys-lru: keys without a ttl may be evicted"),
        ("1gb", "allkeys-random", false, "policy allkeys-random: keys without a ttl"),
        ("1", "noeviction", false, "bytes used, 1 bytes, policy noeviction"),
        ("1gb", "noeviction", true, "policy noeviction"),
    ] {
        let (ok, detail) = memory(limit, policy);
        assert_eq!(ok, fine, "{limit}, {policy}: {detail}");
        assert!(detail.contains(says), "{limit}, {policy}: {detail}");
    }
}

#[test]
fn flush_deletes_our_entries_and_nothing_else() {
    // Danger: a flush that empties the session store of another program.
    let scene = Scene::new();
    let mut client = scene.connect();
    for key in ["session:1", "user:foreign", "pgc", "list"] {
        scene.redis.cli(&["SET", key, "foreign"]);
    }
    for number in 0..300 {
        cached(&mut client, &format!("user:{number}"), "SELECT 1 AS v").unwrap();
    }
    assert_eq!(client.query_one(FLUSH, &[]).unwrap().get::<_, String>(0), "300");
    assert_eq!(keys(&scene.redis, "*"), ["list", "pgc", "session:1", "user:foreign"]);
    assert_eq!(client.query_one(FLUSH, &[]).unwrap().get::<_, String>(0), "0");
    let (_, counters) = counted(&mut client, |c| cached(c, "user:1", "SELECT 1 AS v"));
    assert_eq!(counters.reason("cold"), 1, "{counters:?}");
}

#[test]
fn flush_with_a_pattern_deletes_what_matches() {
    // Danger: `user:1*` deletes user 2, or a key with a bracket matches itself not.
    let scene = Scene::new();
    let mut client = scene.connect();
    let all =
        ["user:1", "user:10", "user:2", "order:1", "[x]", "a*b", "aXb", "é", "", "{t}:1", "x\ny"];
    let fill = |client: &mut Client| {
        for key in all {
            cached(client, key, "SELECT 1 AS v").unwrap();
        }
    };
    for (pattern, expected) in [
        ("user:1*", vec!["user:1", "user:10"]),
        ("user:?", vec!["user:1", "user:2"]),
        ("*:1", vec!["order:1", "user:1", "{t}:1"]),
        ("\\[x\\]", vec!["[x]"]),
        ("a\\*b", vec!["a*b"]),
        ("a*b", vec!["a*b", "aXb"]),
        ("[ou]*", vec!["order:1", "user:1", "user:10", "user:2"]),
        ("é", vec!["é"]),
        ("x?y", vec!["x\ny"]),
        ("nothing", vec![]),
        ("USER:1", vec![]),
    ] {
        fill(&mut client);
        let flushed = flush(&mut client, pattern);
        let left = keys(&scene.redis, "*");
        let gone: Vec<&str> = {
            let mut gone: Vec<&str> =
                all.into_iter().filter(|key| !left.contains(&(*key).to_owned())).collect();
            gone.sort();
            gone
        };
        assert_eq!(gone, expected, "{pattern}");
        assert_eq!(flushed, expected.len() as i64, "{pattern}");
        assert_eq!(keys(&scene.redis, "pgc:e:*").len(), all.len() - expected.len(), "{pattern}");
    }
}

#[test]
fn flush_with_a_plus_deletes_foreign_keys_too() {
    // Danger: a plus that is read as part of the key, or a flush without one that does it too.
    let scene = Scene::new();
    let mut client = scene.connect();
    for key in ["user:foreign", "user:other", "order:foreign"] {
        scene.redis.cli(&["SET", key, "foreign"]);
    }
    cached(&mut client, "user:1", "SELECT 1 AS v").unwrap();
    cached(&mut client, "order:1", "SELECT 1 AS v").unwrap();
    assert_eq!(flush(&mut client, "user:*"), 1);
    assert_eq!(flush(&mut client, "+user:*"), 2);
    let left: Vec<_> =
        keys(&scene.redis, "*").into_iter().filter(|key| !key.starts_with("pgc:")).collect();
    assert_eq!(left, ["order:1", "order:foreign"]);
}

#[test]
fn flush_spares_a_foreign_value_that_replaced_ours() {
    // Danger: our sidecar is still there and names a value that is another program's by now.
    let scene = Scene::new();
    let mut client = scene.connect();
    cached(&mut client, "k", "SELECT 1 AS v").unwrap();
    scene.redis.cli(&["SET", "k", "foreign"]);
    client.query_one(FLUSH, &[]).unwrap();
    assert_eq!(value(&scene.redis, "k").as_deref(), Some(&b"foreign"[..]));
}

#[test]
fn flush_spares_what_replaces_ours_while_it_looks() {
    // Danger: a session, a counter, a row that redis_store has just set is deleted for the entry
    // that was there before.
    let scene = Scene::new();
    let mut client = scene.connect();
    cached(&mut client, "k", "SELECT 1 AS v").unwrap();
    let looked = Gate::new();
    let set_fault = format!("SET pg_cache.fault_point = '{}'", looked.at("flush.looked"));
    client.batch_execute(&set_fault).unwrap();
    let flushing = std::thread::spawn(move || flush(&mut client, "k"));
    looked.met();
    scene.redis.cli(&["SET", "k", "foreign"]);
    looked.open();
    let deleted = flushing.join().unwrap();
    assert_eq!((deleted, value(&scene.redis, "k").as_deref()), (1, Some(&b"foreign"[..])));
}

#[test]
fn a_large_flush_goes_in_steps_that_do_not_hold_redis_up() {
    // Danger: a thousand keys in one command stop every other client of that Redis.
    let scene = Scene::new();
    let mut client = scene.connect();
    let sql = "SELECT count(redis_cached('k:' || g, 600, 'SELECT 1 AS v'))
               FROM generate_series(1, 5000) g";
    assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i64>(0), 5000);
    scene.redis.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "20000"]);
    scene.redis.cli(&["SLOWLOG", "RESET"]);
    assert_eq!(client.query_one(FLUSH, &[]).unwrap().get::<_, String>(0), "5000");
    assert_eq!(
        scene.redis.cli(&["SLOWLOG", "LEN"]),
        "0",
        "{}",
        scene.redis.cli(&["SLOWLOG", "GET"])
    );
    assert_eq!(keys(&scene.redis, "*"), [""; 0]);
}

#[test]
fn flush_and_ping_can_be_cancelled() {
    // Danger: an operator's own call hangs on the Redis that hangs.
    let scene = Scene::alone();
    let mut client = scene.connect();
    client.query_one(PING, &[]).unwrap();
    client
        .batch_execute(
            "SET pg_cache.timeout_ms = 20000; SET pg_cache.connect_timeout_ms = 20000;
             SET statement_timeout = '200ms'",
        )
        .unwrap();
    for sql in [PING, FLUSH, "SELECT count(*)::text FROM redis_health()"] {
        scene.redis.freeze();
        let (result, took) = timed(|| client.query_one(sql, &[]));
        scene.redis.thaw();
        assert_eq!(sqlstate(&result.unwrap_err()), "57014", "{sql}");
        assert!(took < Duration::from_millis(200) + PROMPT * 2, "{sql}: {took:?}");
    }
    client.batch_execute("SET statement_timeout = '60s'").unwrap();
    eventually(Duration::from_secs(15), "it answers again", || client.query_one(PING, &[]).is_ok());
}

#[test]
fn the_view_tells_by_key_family() {
    // Danger: a view whose rows do not add up, or one row for each key without bound.
    let scene = Scene::new();
    let mut client = scene.connect();
    for key in ["user:1", "user:2", "order:1", "dashboard", "0f8e1234567890abcdef"] {
        cached(&mut client, key, "SELECT 1 AS v").unwrap();
        cached(&mut client, key, "SELECT 1 AS v").unwrap();
    }
    let sql = "SELECT key_family, hits, misses, fills, reasons->>'cold', bytes_read, bytes_filled,
                 hit_ms >= 0 AND query_ms >= 0 AND saved_ms IS NOT NULL
               FROM redis_stat_cached ORDER BY key_family COLLATE \"C\"";
    let rows = client.query(sql, &[]).unwrap();
    let families: Vec<(String, i64, i64, i64, String)> =
        rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(4))).collect();
    let bytes = r#"[{"v":1}]"#.len() as i64;
    let row =
        |family: &str, count: i64| (family.to_owned(), count, count, count, count.to_string());
    assert_eq!(families, [row("(other)", 1), row("dashboard", 1), row("order", 1), row("user", 2)]);
    for row in &rows {
        let hits: i64 = row.get(1);
        assert_eq!((row.get::<_, i64>(5), row.get::<_, i64>(6)), (hits * bytes, hits * bytes));
        assert!(row.get::<_, bool>(7));
    }
    for number in 0..2500 {
        cached(&mut client, &format!("f{number}x:1"), "SELECT 1 AS v").unwrap();
    }
    let count: i64 =
        client.query_one("SELECT count(*) FROM redis_stat_cached", &[]).unwrap().get(0);
    assert!(count <= 2000, "{count} families are kept in each backend");
}
