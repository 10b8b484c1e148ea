//! Sessions: nobody revives one that was ended, nobody's change is lost unseen, and no id leaves
//! the hands that it was given to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pg_cache_e2e::events::get;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::{Scene, registry::repair};
use postgres::Client;
use redis::Commands;
use serde_json::{Value, json};

const ENDED: &str = "P0002";
const CHANGED: &str = "40001";

fn new(client: &mut Client, data: Value) -> String {
    let sql = "SELECT redis_session_new(($1::text)::jsonb)";
    client.query_one(sql, &[&data.to_string()]).unwrap().get(0)
}

fn read(client: &mut Client, id: &str, touch: bool) -> Option<Value> {
    let sql = "SELECT redis_session_get($1, $2)::text";
    let text: Option<String> = client.query_one(sql, &[&id, &touch]).unwrap().get(0);
    text.map(|text| serde_json::from_str(&text).unwrap())
}

fn set(client: &mut Client, id: &str, data: &str) -> Result<(), String> {
    let sql = "SELECT redis_session_set($1, ($2::text)::jsonb)";
    client.execute(sql, &[&id, &data]).map(|_| ()).map_err(|error| sqlstate(&error))
}

fn end(client: &mut Client, id: &str) -> bool {
    client.query_one("SELECT redis_session_end($1)", &[&id]).unwrap().get(0)
}

fn seconds_left(scene: &Scene, id: &str) -> i64 {
    redis::cmd("TTL").arg(format!("sess:{id}")).query(&mut scene.redis.client()).unwrap()
}

#[test]
fn a_session_is_what_connect_redis_would_store() {
    // Danger: an application that finds no cookie in it, or a key that never goes.
    let scene = Scene::new();
    let mut client = scene.connect();
    let id = new(&mut client, json!({"user": 7, "name": "né"}));
    assert_eq!(id.len(), 43);
    let stored = get(&scene.redis, &format!("sess:{id}")).unwrap();
    let cookie = r#"{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"}"#;
    assert_eq!(stored, format!(r#"{{"name":"né","user":7,"cookie":{cookie}}}"#));
    assert!((86_390..=86_400).contains(&seconds_left(&scene, &id)));
    let sql = "SELECT redis_session_new('{}', '10 minutes'), redis_session_new('{}', 600)";
    let row = client.query_one(sql, &[]).unwrap();
    for column in 0..2 {
        let id: String = row.get(column);
        assert!((590..=600).contains(&seconds_left(&scene, &id)));
        let session = read(&mut client, &id, false).unwrap();
        assert_eq!(session["cookie"]["originalMaxAge"], 600_000);
    }
    assert_eq!(read(&mut client, "unknown", true), None);
    assert!(end(&mut client, &id) && !end(&mut client, &id));
    assert_eq!(read(&mut client, &id, true), None);
}

#[test]
fn a_touch_renews_by_the_cookie_and_makes_nothing() {
    // Danger: the session of a user at work expires, or an ended one stands there again.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut redis = scene.redis.client();
    let mut left_after = |session: &str, seconds: Option<i64>| {
        let _: () = redis.set("sess:x", session).unwrap();
        if let Some(seconds) = seconds {
            let _: () = redis.expire("sess:x", seconds).unwrap();
        }
        read(&mut client, "x", false).unwrap();
        let unchanged = seconds_left(&scene, "x");
        read(&mut client, "x", true).unwrap();
        (unchanged, seconds_left(&scene, "x"))
    };
    assert_eq!(left_after(r#"{"cookie":{"originalMaxAge":500000}}"#, Some(50)), (50, 500));
    assert_eq!(left_after(r#"{"cookie":{"originalMaxAge":null}}"#, Some(50)), (50, 86_400));
    assert_eq!(left_after(r#"{"cookie":null}"#, Some(50)), (50, 86_400));
    // connect-redis with disableTTL: it has no end, and gets none.
    assert_eq!(left_after(r#"{"cookie":{"originalMaxAge":500000}}"#, None), (-1, -1));
    set(&mut client, "x", r#"{"cookie":{"originalMaxAge":500000}}"#).unwrap();
    assert_eq!(seconds_left(&scene, "x"), -1);
}

#[test]
fn touches_and_writes_beside_an_end_never_revive() {
    // Danger: the user signs out, and a request that is still running signs him in again.
    let scene = Scene::new();
    let rounds = 60;
    let mut ender = scene.connect();
    for round in 0..rounds {
        let id = new(&mut ender, json!({"n": 0}));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writes in [false, true, true] {
                let (scene, id, over) = (&scene, &id, &over);
                scope.spawn(move || {
                    let mut client = scene.connect();
                    while !over.load(Ordering::Relaxed) {
                        match writes {
                            true => match set(&mut client, id, "{\"n\": 1}") {
                                Ok(()) => {}
                                Err(state) => {
                                    assert!(state == ENDED || state == CHANGED, "{state}")
                                }
                            },
                            false => drop(read(&mut client, id, true)),
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(if round % 4 == 0 { 4 } else { 1 }));
            assert!(end(&mut ender, &id));
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(get(&scene.redis, &format!("sess:{id}")), None, "round {round}");
    }
}

#[test]
fn of_two_writers_who_read_the_same_one_hears_of_it() {
    // Danger: two requests put something into the cart, and one thing is in it.
    let scene = Scene::new();
    let (mut one, mut other) = (scene.connect(), scene.connect());
    let id = new(&mut one, json!({"cart": 0}));
    let add = "SELECT redis_session_set($1, jsonb_set(s, '{cart}', \
               to_jsonb((s->>'cart')::int + 1))) FROM redis_session_get($1) s";
    one.batch_execute("BEGIN").unwrap();
    read(&mut one, &id, false).unwrap();
    other.execute(add, &[&id]).unwrap();
    assert_eq!(set(&mut one, &id, "{\"cart\": 1}"), Err(CHANGED.into()));
    one.batch_execute("ROLLBACK").unwrap();
    // Nothing of the transaction before is remembered: the last writer wins where nobody read.
    other.execute(add, &[&id]).unwrap();
    set(&mut one, &id, "{\"cart\": 10}").unwrap();
    let conflicts: u32 = std::thread::scope(|scope| {
        let adder = || {
            let (mut client, mut conflicts) = (scene.connect(), 0);
            for _ in 0..200 {
                while let Err(error) = client.execute(add, &[&id]) {
                    assert_eq!(sqlstate(&error), CHANGED);
                    conflicts += 1;
                }
            }
            conflicts
        };
        let adders: Vec<_> = (0..4).map(|_| scope.spawn(adder)).collect();
        adders.into_iter().map(|adder| adder.join().unwrap()).sum()
    });
    assert_eq!(read(&mut one, &id, false).unwrap()["cart"], 810);
    assert!(conflicts > 0, "four writers never met: the test shows nothing");
}

#[test]
fn a_later_write_of_the_same_transaction_follows_its_own_and_a_new_reading() {
    // Danger: the second change of a transaction fails on its own first one.
    let scene = Scene::new();
    let (mut client, mut other) = (scene.connect(), scene.connect());
    let id = new(&mut client, json!({"n": 0}));
    client.batch_execute("BEGIN; SAVEPOINT s").unwrap();
    read(&mut client, &id, false).unwrap();
    set(&mut client, &id, "{\"n\": 1}").unwrap();
    set(&mut client, &id, "{\"n\": 2}").unwrap();
    set(&mut other, &id, "{\"n\": 3}").unwrap();
    assert_eq!(set(&mut client, &id, "{\"n\": 4}"), Err(CHANGED.into()));
    client.batch_execute("ROLLBACK TO s").unwrap();
    assert_eq!(read(&mut client, &id, false).unwrap()["n"], 3);
    set(&mut client, &id, "{\"n\": 5}").unwrap();
    assert!(end(&mut client, &id));
    assert_eq!(set(&mut client, &id, "{\"n\": 6}"), Err(ENDED.into()));
    client.batch_execute("ROLLBACK").unwrap();
    // At once, and not undone by the rollback.
    assert_eq!(read(&mut client, &id, false), None);
}

#[test]
fn what_sql_does_not_change_keeps_its_bytes() {
    // Danger: the application's hash of a session differs although nothing in it was changed.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut redis = scene.redis.client();
    let cookie = r#"{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"}"#;
    let stored = format!(r#"{{"cookie":{cookie},"z":[1.50,1e3,{{"b":1,"a":"\u00e9"}}],"n":1}}"#);
    let _: () = redis.set_ex("sess:x", &stored, 100).unwrap();
    let sql = "SELECT redis_session_set('x', redis_session_get('x') || '{\"n\": 2}')";
    client.batch_execute(sql).unwrap();
    let expected = stored.replace("\"n\":1", "\"n\":2");
    assert_eq!(get(&scene.redis, "sess:x"), Some(expected.clone()));
    assert_eq!(seconds_left(&scene, "x"), 86_400);
    // Without a cookie in the data the session keeps its own.
    set(&mut client, "x", "{\"n\": 3}").unwrap();
    assert_eq!(get(&scene.redis, "sess:x"), Some(format!(r#"{{"cookie":{cookie},"n":3}}"#)));
}

#[test]
fn bad_input_is_a_clear_error_and_no_error_tells_an_id() {
    // Danger: whoever reads the server's log can be any user of the application.
    let (secret, scene) = ("c2VjcmV0LXNlc3Npb24", Scene::new());
    let mut client = scene.connect();
    let mut redis = scene.redis.client();
    let long = format!("{secret}{}", "x".repeat(600));
    let _: () = redis.set(format!("sess:{secret}-binary"), b"\x80\x00{}".as_slice()).unwrap();
    let _: () = redis.set(format!("sess:{secret}-array"), "[1]").unwrap();
    let _: () = redis.set(format!("sess:{secret}-nul"), r#"{"a":"\u0000"}"#).unwrap();
    let _: () = redis.lpush(format!("sess:{secret}-list"), "x").unwrap();
    let of = |name: &str| format!("{secret}-{name}");
    let get = "SELECT redis_session_get($1)";
    let touch = "SELECT redis_session_get($1, true)";
    let change = "SELECT redis_session_set($1, '{}')";
    for (sql, id, state) in [
        (get, Some(String::new()), "22023"),
        (get, Some(long.clone()), "54000"),
        (get, None, "22004"),
        ("SELECT redis_session_get($1, NULL)", Some(of("x")), "22004"),
        (get, Some(of("binary")), "22P02"),
        (touch, Some(of("binary")), "22P02"),
        (change, Some(of("binary")), "22P02"),
        (get, Some(of("array")), "22P02"),
        (get, Some(of("nul")), "22P02"),
        (get, Some(of("list")), "42804"),
        (touch, Some(of("list")), "42804"),
        (change, Some(of("none")), ENDED),
        ("SELECT redis_session_set($1, NULL)", Some(of("x")), "22004"),
        ("SELECT redis_session_set($1, '[]')", Some(of("array")), "22P02"),
        ("SELECT redis_session_set($1, '{}', 0)", Some(of("x")), "22023"),
        ("SELECT redis_session_set($1, '{}', NULL::int)", Some(of("x")), "22004"),
        ("SELECT redis_session_end($1)", Some(String::new()), "22023"),
        ("SELECT redis_session_end($1)", None, "22004"),
        ("SELECT redis_session_new(($1::text)::jsonb)", Some("[]".into()), "22023"),
        ("SELECT redis_session_new(($1::text)::jsonb)", None, "22004"),
        ("SELECT redis_session_new(($1::text)::jsonb, -1)", Some("{}".into()), "22023"),
    ] {
        let error = client.query(sql, &[&id]).expect_err(sql);
        assert_eq!(sqlstate(&error), state, "{sql} {id:?}: {error:?}");
    }
    client.batch_execute("SET pg_cache.value_bytes_max = '64kB'").unwrap();
    let large = "SELECT redis_session_new(jsonb_build_object('a', repeat('x', $1)))";
    assert_eq!(sqlstate(&client.query(large, &[&100_000]).unwrap_err()), "54000");
    let log = scene.postgres().log();
    let told = log.lines().find(|line| line.contains(secret));
    assert_eq!(told, None, "the log tells an id");
}

#[test]
fn without_strong_randomness_there_is_no_session() {
    // Danger: an id from a clock, which anybody can guess.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.fault_point = 'host.random:skip'").unwrap();
    let error = client.query("SELECT redis_session_new('{}')", &[]).unwrap_err();
    assert_eq!(sqlstate(&error), "58000");
    let keys: Vec<String> = scene.redis.client().keys("sess:*").unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[test]
fn a_redis_that_is_away_is_an_error_and_a_prefix_keeps_databases_apart() {
    // Danger: a session that is taken for none because Redis is down, or another database's.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    let id = new(&mut client, json!({}));
    client.batch_execute("SELECT redis_register('app:')").unwrap();
    repair(&mut client);
    assert_eq!(read(&mut client, &id, true), None);
    let id = new(&mut client, json!({"a": 1}));
    assert!(get(&scene.redis, &format!("app:sess:{id}")).is_some());
    scene.redis.stop();
    let error = client.query("SELECT redis_session_get('x')", &[]).unwrap_err();
    assert!(sqlstate(&error).starts_with("08"), "{error:?}");
}

#[test]
fn a_role_may_do_with_sessions_what_it_was_granted_and_no_more() {
    // Danger: whoever may sign users out can read their sessions, or choose what a session is.
    let scene = Scene::new();
    let mut admin = scene.connect();
    let id = new(&mut admin, json!({"user": 7}));
    let role = scene.create_role("clerk");
    let mut clerk = scene.connect_as(&role);
    let calls = [
        "SELECT redis_session_get($1)",
        "SELECT redis_session_set($1, '{}')",
        "SELECT redis_session_set($1, '{}', 60)",
        "SELECT redis_session_new(jsonb_build_object('a', $1::text))",
        "SELECT redis_session_new(jsonb_build_object('a', $1::text), 60)",
    ];
    let refused = |client: &mut Client, sql: &str| {
        let error = client.query(sql, &[&id]).expect_err(sql);
        assert_eq!(sqlstate(&error), "42501", "{sql}");
    };
    calls.iter().for_each(|sql| refused(&mut clerk, sql));
    refused(&mut clerk, "SELECT redis_session_end($1)");
    let grant = format!("GRANT EXECUTE ON FUNCTION redis_session_end(text) TO {role}");
    admin.batch_execute(&grant).unwrap();
    calls.iter().for_each(|sql| refused(&mut clerk, sql));
    // Before the library is loaded anybody may set anything; it does not take it over.
    clerk.batch_execute("SET pg_cache.session_prefix = ''").unwrap();
    assert!(end(&mut clerk, &id));
    let set = clerk.batch_execute("SET pg_cache.session_prefix = ''").unwrap_err();
    assert_eq!(sqlstate(&set), "42501");
    assert_eq!(read(&mut admin, &id, false), None);
}

#[test]
fn sessions_need_neither_a_writable_database_nor_one_in_utf8() {
    // Danger: a replica that serves pages cannot tell who is signed in; é is two letters there.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("BEGIN READ ONLY").unwrap();
    let id = new(&mut client, json!({"name": "é"}));
    set(&mut client, &id, "{\"name\": \"è\"}").unwrap();
    assert_eq!(read(&mut client, &id, true).unwrap()["name"], "è");
    assert!(end(&mut client, &id));
    let xid = "SELECT pg_current_xact_id_if_assigned()::text";
    assert_eq!(client.query_one(xid, &[]).unwrap().get::<_, Option<String>>(0), None);
    client.batch_execute("COMMIT").unwrap();
    let name = format!("{}_latin1", scene.database());
    let create = format!("CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    client.batch_execute(&create).unwrap();
    scene.prepare_database(&name);
    scene.postgres().create_extension(&name);
    scene.postgres().register(&name);
    let mut latin = scene.connect_to("postgres", &name);
    let id = new(&mut latin, json!({"name": "é"}));
    assert!(get(&scene.redis, &format!("sess:{id}")).unwrap().contains("\"é\""));
    set(&mut latin, &id, "{\"name\": \"è\"}").unwrap();
    assert_eq!(read(&mut latin, &id, true).unwrap()["name"], "è");
    let _: () = scene.redis.client().set("sess:x", r#"{"name":"мир"}"#).unwrap();
    let error = latin.query("SELECT redis_session_get('x')", &[]).unwrap_err();
    assert_eq!(sqlstate(&error), "22P02");
}

#[test]
fn a_redis_that_hangs_holds_nobody_up_and_a_prefix_of_the_application_is_found() {
    // Danger: every page waits for a server that does not answer.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SET pg_cache.session_prefix = 'myapp:'").unwrap();
    let id = new(&mut client, json!({}));
    assert!(get(&scene.redis, &format!("myapp:{id}")).is_some());
    scene.redis.freeze();
    let begun = std::time::Instant::now();
    let error = client.query("SELECT redis_session_get($1)", &[&id]).unwrap_err();
    assert_eq!(sqlstate(&error), "08006");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    scene.redis.thaw();
}
