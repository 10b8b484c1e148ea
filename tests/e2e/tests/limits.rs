//! Rate limits: what SQL is told, what stands in Redis, and what becomes of both in trouble.

use std::time::Duration;

use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::trouble::use_url;
use pg_cache_e2e::{Notices, Scene};
use pg_cache_testbed::{Redis, eventually};
use postgres::Client;

/// allowed, limit, remaining, and whether the two times are known.
type Told = (bool, i32, Option<i32>, bool, bool);

fn try_ask(client: &mut Client, arguments: &str) -> Result<Told, postgres::Error> {
    let sql = format!(
        "SELECT allowed, \"limit\", remaining, retry_after IS NOT NULL, reset_after IS NOT NULL
         FROM redis_rate_limit({arguments})"
    );
    let row = client.query_one(&sql, &[])?;
    Ok((row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
}

#[track_caller]
fn ask(client: &mut Client, arguments: &str) -> Told {
    try_ask(client, arguments).unwrap_or_else(|error| panic!("{arguments}: {}", words(&error)))
}

fn text(client: &mut Client, sql: &str) -> Option<String> {
    client.query_one(sql, &[]).unwrap().get(0)
}

/// The only limit in Redis: its name, value and expiry in milliseconds since 1970.
fn standing(redis: &Redis) -> (String, String, u64) {
    let name = redis.cli(&["KEYS", "pgc:r:*"]);
    let name = name.trim().to_owned();
    let value = redis.cli(&["GET", &name]).trim().to_owned();
    let expiry = redis.cli(&["PEXPIRETIME", &name]).trim().parse().unwrap_or(0);
    (name, value, expiry)
}

#[test]
fn five_answers_are_given_and_the_key_expires_when_the_debt_is_paid() {
    // Danger: an answer in the wrong column; a key that never goes, or goes before it is paid.
    let scene = Scene::new();
    let mut client = scene.connect();
    // Slow enough that no token comes back while the test runs.
    let call = "'user:7', 2, '1 hour'";
    assert_eq!(ask(&mut client, call), (true, 2, Some(1), false, true));
    let peek = "'user:7', 2, '1 hour', cost => 0";
    assert_eq!(ask(&mut client, peek), (true, 2, Some(1), false, true));
    assert_eq!(ask(&mut client, call), (true, 2, Some(0), false, true));
    let (name, value, expiry) = standing(&scene.redis);
    assert!(name.starts_with("pgc:r:{") && name.ends_with("}:user:7"), "{name}");
    let at: u64 = value.split(' ').next().unwrap().parse().unwrap();
    assert!((1..=3).contains(&(expiry - at / 1000)), "{value}, expires at {expiry}");
    assert_eq!(ask(&mut client, call), (false, 2, Some(0), true, true));
    assert_eq!(ask(&mut client, peek), (true, 2, Some(0), false, true));
    let sql = "SELECT (retry_after BETWEEN '29 minutes' AND '30 minutes'
                   AND reset_after BETWEEN '59 minutes' AND '1 hour')::text
               FROM redis_rate_limit('user:7', 2, '1 hour')";
    assert_eq!(text(&mut client, sql).as_deref(), Some("true"));
    // More than the limit ever holds: refused, and nobody need try again.
    assert_eq!(ask(&mut client, "'big', 2, 60, cost => 3"), (false, 2, Some(2), false, true));
    assert_eq!(ask(&mut client, "'paced', 2, '1 hour', 0"), (true, 1, Some(0), false, true));
    assert_eq!(ask(&mut client, "'paced', 2, '1 hour', 0"), (false, 1, Some(0), true, true));
    assert_eq!(ask(&mut client, "'batch', 10, 3600.0, 9, 7"), (true, 10, Some(3), false, true));
    let driver = client.prepare(
        "SELECT allowed FROM redis_rate_limit($1, $2, $3::interval, burst => $4, cost => $5)",
    );
    let driver = driver.unwrap();
    assert_eq!(driver.params().len(), 5);
}

#[test]
fn what_makes_no_limit_is_an_error_and_counts_nothing() {
    // Danger: a null key from a missing header is one limit for all, or none for anybody; a
    // negative cost gives tokens back.
    let scene = Scene::new();
    let mut client = scene.connect();
    let cases = [
        ("NULL, 1, 60", "22004", "key must not be null"),
        ("'', 1, 60", "22023", "key of a rate limit must not be empty"),
        ("'k', NULL, 60", "22004", "max must not be null"),
        ("'k', 0, 60", "22023", "max out of range: 0"),
        ("'k', -5, 60", "22023", "max out of range: -5"),
        ("'k', 1, NULL", "22004", "per must not be null"),
        ("'k', 1, 0", "22023", "per must be greater than zero"),
        ("'k', 1, interval '-1 day'", "22023", "per must be greater than zero"),
        ("'k', 1, 'soon'", "22023", "invalid per: \"soon\""),
        ("'k', 1, true", "42804", "per must not be of type boolean"),
        ("'k', 1, '10 years'", "22023", "per must not be longer than pg_cache.ttl_max"),
        ("'k', 1, 60, -1", "22023", "burst out of range: -1"),
        ("'k', 1, 60, 2147483647", "22023", "burst out of range: 2147483647"),
        ("'k', 1, '30 days', 1", "22023", "burst is too large for this rate"),
        ("'k', 1, 60, 0, -1", "22023", "cost out of range: -1"),
        ("'k', 1, 60, 0, NULL", "22004", "cost must not be null"),
        ("'pgc:e:{06S}:k', 1, 60", "42939", "cache key must not begin with \"pgc:\""),
        ("repeat('k', 1025), 1, 60", "54000", "cache key is too long"),
    ];
    for (arguments, state, message) in cases {
        let error = try_ask(&mut client, arguments).expect_err(arguments);
        assert_eq!(sqlstate(&error), state, "{arguments}");
        assert!(words(&error).contains(message), "{arguments}: {}", words(&error));
    }
    assert_eq!(scene.redis.cli(&["KEYS", "pgc:r:*"]).trim(), "");
    let large = "'k', 2147483647, '30 days', 2147483646, 2147483647";
    assert_eq!(ask(&mut client, large).1, 2_147_483_647);
    client.batch_execute("SET client_encoding = 'UTF8'").unwrap();
    assert!(ask(&mut client, "'käse {a} %_\"''', 1, 60").0);
}

#[test]
fn a_token_is_spent_whatever_becomes_of_the_transaction() {
    // Danger: who provokes an error, or rolls back, asks for free; and a limit that wants to write
    // to the database fails in GET requests, which are READ ONLY.
    let scene = Scene::new();
    let mut client = scene.connect();
    let call = "SELECT allowed FROM redis_rate_limit('k', 3, '1 hour')";
    client.batch_execute(&format!("BEGIN; {call}; ROLLBACK")).unwrap();
    client.batch_execute(&format!("BEGIN; SAVEPOINT s; {call}; ROLLBACK TO s; COMMIT")).unwrap();
    let refused = format!("DO $$ BEGIN PERFORM ({call}); RAISE 'no'; END $$");
    client.batch_execute(&refused).unwrap_err();
    let read_only = "BEGIN READ ONLY ISOLATION LEVEL SERIALIZABLE";
    client.batch_execute(read_only).unwrap();
    assert_eq!(ask(&mut client, "'k', 3, '1 hour'"), (false, 3, Some(0), true, true));
    let xid = text(&mut client, "SELECT pg_current_xact_id_if_assigned()::text");
    assert_eq!(xid, None);
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn a_value_of_somebody_else_is_an_error_and_stays() {
    // Danger: whatever stands there is read as "never asked", and the gate is open.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.rate_limit_on_unreachable = 'allow'").unwrap();
    ask(&mut client, "'k', 1, 60");
    let (name, ..) = standing(&scene.redis);
    for value in ["", "0", "1 2", "x 0 1", "-5 0 1", "5 7 7", "99999999999999999 0 1", "1 0 1 "] {
        scene.redis.cli(&["SET", &name, value]);
        let error = try_ask(&mut client, "'k', 1, 60").expect_err(value);
        assert_eq!(sqlstate(&error), "42804", "{value}: {error:?}");
        assert_eq!(scene.redis.cli(&["GET", &name]).trim_end_matches('\n'), value);
    }
    scene.redis.cli(&["DEL", &name]);
    scene.redis.cli(&["RPUSH", &name, "a"]);
    let error = try_ask(&mut client, "'k', 1, 60").unwrap_err();
    assert_eq!(sqlstate(&error), "42804", "{error:?}");
    // One that somebody left without an end gets one with the next request.
    scene.redis.cli(&["DEL", &name]);
    scene.redis.cli(&["SET", &name, "5 0 1"]);
    assert!(ask(&mut client, "'k', 1, 60").0);
    assert!(standing(&scene.redis).2 > 0);
}

#[test]
fn another_rate_under_the_same_key_gives_nothing_back() {
    // Danger: everybody may call the function: whoever asks under a generous rate forgives the
    // strict limit what it has counted.
    let scene = Scene::new();
    let role = scene.create_role("guest");
    let (mut client, mut guest) = (scene.connect(), scene.connect_as(&role));
    ask(&mut client, "'login:ada', 3, '1 hour', 0");
    for generous in ["1000, 1", "7, 1, 6, 7", "1, '1 ms', 1000, 0", "2147483647, 1"] {
        ask(&mut guest, &format!("'login:ada', {generous}"));
        let strict = ask(&mut client, "'login:ada', 3, '1 hour', 0");
        assert!(!strict.0, "after {generous}: {strict:?}");
    }
}

#[test]
fn everybody_may_ask_and_reach_nothing_but_limits() {
    // Danger: PUBLIC can name a session, a queue or a cached entry, and read or break it.
    let scene = Scene::new();
    let role = scene.create_role("guest");
    let mut guest = scene.connect_as(&role);
    scene.redis.cli(&["SET", "sess:1", "theirs"]);
    assert!(ask(&mut guest, "'sess:1', 1, 60").0);
    assert_eq!(scene.redis.cli(&["GET", "sess:1"]).trim(), "theirs");
    let setting = "SET pg_cache.rate_limit_on_unreachable = 'allow'";
    assert_eq!(sqlstate(&guest.batch_execute(setting).unwrap_err()), "42501");
    // A database with a key prefix of its own has limits of its own.
    scene.connect().batch_execute("SELECT redis_register('app1:')").unwrap();
    assert!(ask(&mut guest, "'sess:1', 1, 60").0);
    assert!(!ask(&mut guest, "'sess:1', 1, 60").0);
}

fn on_unreachable(client: &mut Client, what: &str) {
    let sql = format!("SET pg_cache.rate_limit_on_unreachable = '{what}'");
    client.batch_execute(&sql).unwrap();
}

#[track_caller]
fn as_the_setting_says(client: &mut Client, notices: &Notices, states: &[&str], what: &str) {
    on_unreachable(client, "allow");
    assert_eq!(ask(client, "'k', 3, 60"), (true, 3, None, false, false), "{what}");
    on_unreachable(client, "deny");
    assert_eq!(ask(client, "'k', 3, 60"), (false, 3, None, false, false), "{what}");
    on_unreachable(client, "error");
    let error = try_ask(client, "'k', 3, 60").expect_err(what);
    assert!(states.contains(&sqlstate(&error).as_str()), "{what}: {error:?}");
    let warnings = notices.warnings();
    let said: Vec<&str> = warnings.iter().map(|warning| warning.message()).collect();
    let expected = "redis is not usable, redis_rate_limit allows all requests";
    assert_eq!(said, [expected], "{what}: one warning a minute");
}

#[test]
fn without_redis_the_setting_decides_and_no_call_waits() {
    // Danger: a gate that fails open where it must not, or a page that waits for the timeout at
    // each request while Redis is away.
    let scene = Scene::new();
    let (mut client, notices) = scene.connect_listening();
    assert!(ask(&mut client, "'k', 3, 60").0);
    use_url(&mut client, "unix:///nonexistent/redis.sock");
    as_the_setting_says(&mut client, &notices, &["08001"], "no server");
    let (mut client, notices) = scene.connect_listening();
    client.batch_execute("SET pg_cache.timeout_ms = 200").unwrap();
    assert!(ask(&mut client, "'k', 3, 60").0);
    scene.redis.freeze();
    as_the_setting_says(&mut client, &notices, &["08001", "08006"], "frozen");
    on_unreachable(&mut client, "allow");
    let start = std::time::Instant::now();
    for _ in 0..200 {
        assert!(ask(&mut client, "'k', 3, 60").0);
    }
    // 200 timeouts would be 40 s; the breaker tries a few times.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    scene.redis.thaw();
}

#[test]
fn a_redis_that_refuses_to_write_is_as_good_as_away() {
    // Danger: a full Redis, or one that was demoted, takes a site down whose administrator said
    // `allow`, or opens what was to be denied.
    let scene = Scene::new();
    let (mut client, notices) = scene.connect_listening();
    assert!(ask(&mut client, "'k', 3, 60").0);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    as_the_setting_says(&mut client, &notices, &["53200"], "out of memory");
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let (mut client, notices) = scene.connect_listening();
    scene.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    as_the_setting_says(&mut client, &notices, &["25006", "08001", "38000"], "replica");
    scene.redis.cli(&["REPLICAOF", "NO", "ONE"]);
}

#[test]
fn a_call_can_be_cancelled() {
    // Danger: a frozen Redis holds the session for as long as the timeout allows.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.timeout_ms = 30000").unwrap();
    assert!(ask(&mut client, "'k', 3, 60").0);
    client.batch_execute("SET statement_timeout = 100").unwrap();
    scene.redis.freeze();
    let error = try_ask(&mut client, "'k', 3, 60").unwrap_err();
    scene.redis.thaw();
    assert_eq!(sqlstate(&error), "57014");
    client.batch_execute("RESET statement_timeout").unwrap();
    // On another connection, and the late answer is not taken for this one's. The cancelled
    // request was received: it may have counted.
    assert!(ask(&mut client, "'other', 3, '1 hour'") == (true, 3, Some(2), false, true));
}

#[test]
fn a_request_counts_once_whatever_becomes_of_its_connection() {
    // Danger: a lost answer is taken for a lost request, and sent again: two tokens for one page.
    let scene = Scene::new();
    let (mut client, mut judge) = (scene.connect(), scene.connect());
    let (call, peek) = ("'k', 5, '1 hour'", "'k', 5, '1 hour', cost => 0");
    assert_eq!(ask(&mut client, call).2, Some(4));
    scene.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(ask(&mut client, call), (true, 5, Some(3), false, true), "on a new connection");
    assert_eq!(ask(&mut judge, peek).2, Some(3));
    client.batch_execute("SET pg_cache.timeout_ms = 50").unwrap();
    scene.redis.freeze();
    assert_eq!(ask(&mut client, call), (true, 5, None, false, false));
    scene.redis.thaw();
    // It had been received, so it is carried out, though nobody hears the answer.
    eventually(Duration::from_secs(10), "the request is carried out", || {
        ask(&mut judge, peek).2 == Some(2)
    });
    eventually(Duration::from_secs(10), "redis is asked again", || {
        ask(&mut client, peek).2 == Some(2)
    });
}

#[test]
fn the_first_moments_after_create_extension_have_limits_too() {
    // Danger: a limit waits for the worker's registration, or fails until it is done.
    let scene = Scene::new();
    let name = format!("{}_new", scene.database());
    let mut admin = scene.connect();
    admin.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    scene.prepare_database(&name);
    let mut client = scene.connect_to("postgres", &name);
    let sql = "BEGIN; CREATE EXTENSION pg_cache";
    client.batch_execute(sql).unwrap();
    assert_eq!(ask(&mut client, "'k', 5, '1 hour'"), (true, 5, Some(4), false, true));
    client.batch_execute("ROLLBACK").unwrap();
}
