//! `redis_store`: a row under a key of its own, and never an older image behind a newer one.

use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_e2e::events::get;
use pg_cache_e2e::registry::repair;
use pg_cache_testbed::{Postgres, Redis, eventually};
use postgres::Client;

/// A table whose rows are stored under `t:{id}`.
fn storing(scene: &Scene, options: &str) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v text, n int);
             CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{{id}}'{options})"
        ))
        .unwrap();
    repair(&mut client);
    client
}

#[track_caller]
fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// What nobody needs any more is gone.
#[track_caller]
fn no_tokens(scene: &Scene) {
    assert_eq!(scene.redis.cli(&["KEYS", "pgc:s:*"]).trim(), "");
}

#[test]
fn a_key_holds_its_row_from_commit_to_commit() {
    // Danger: a program reads a row as it was, or one that is not there any more.
    let scene = Scene::new();
    let mut client = storing(&scene, "");
    let redis = &scene.redis;
    run(&mut client, "INSERT INTO t VALUES (1, 'a', 7)");
    assert_eq!(get(redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"a","n":7}"#));
    run(&mut client, "UPDATE t SET v = 'b'");
    assert_eq!(get(redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"b","n":7}"#));
    run(&mut client, "UPDATE t SET id = 2");
    assert_eq!(get(redis, "t:1"), None);
    assert_eq!(get(redis, "t:2").as_deref(), Some(r#"{"id":2,"v":"b","n":7}"#));
    run(&mut client, "BEGIN; UPDATE t SET v = 'lost'; ROLLBACK");
    assert_eq!(get(redis, "t:2").as_deref(), Some(r#"{"id":2,"v":"b","n":7}"#));
    run(&mut client, "DELETE FROM t");
    assert_eq!(get(redis, "t:2"), None);
    no_tokens(&scene);
}

#[test]
fn of_several_changes_in_a_transaction_the_last_counts() {
    // Danger: the first image wins, or that of a savepoint which is undone.
    let scene = Scene::new();
    let mut client = storing(&scene, "");
    let redis = &scene.redis;
    run(
        &mut client,
        "BEGIN; INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'; UPDATE t SET v = 'c'; COMMIT",
    );
    assert_eq!(get(redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"c","n":null}"#));
    run(
        &mut client,
        "BEGIN; UPDATE t SET v = 'd'; SAVEPOINT s; UPDATE t SET v = 'e'; DELETE FROM t;
         ROLLBACK TO s; COMMIT",
    );
    assert_eq!(get(redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"d","n":null}"#));
    run(&mut client, "BEGIN; DELETE FROM t; INSERT INTO t VALUES (1, 'f'); COMMIT");
    assert_eq!(get(redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"f","n":null}"#));
    run(&mut client, "BEGIN; UPDATE t SET v = 'g'; DELETE FROM t; COMMIT");
    assert_eq!(get(redis, "t:1"), None);
    no_tokens(&scene);
}

#[test]
fn a_hash_has_the_texts_of_the_columns() {
    // Danger: HGET gives quotes, or a field of a row before.
    let scene = Scene::new();
    let mut client = storing(&scene, ", 'as=hash', 'ttl=10 minutes'");
    let hash = || -> std::collections::BTreeMap<String, String> {
        redis::cmd("HGETALL").arg("t:1").query(&mut scene.redis.client()).unwrap()
    };
    run(&mut client, "INSERT INTO t VALUES (1, 'a \"b\"', 7)");
    let text = |text: &str| text.to_owned();
    assert_eq!(
        hash(),
        [("id", "1"), ("v", "a \"b\""), ("n", "7")].map(|(a, b)| (text(a), text(b))).into()
    );
    let ttl: i64 = redis::cmd("PTTL").arg("t:1").query(&mut scene.redis.client()).unwrap();
    assert!((590_000..=600_000).contains(&ttl), "{ttl}");
    run(&mut client, "UPDATE t SET v = NULL");
    assert_eq!(hash(), [("id", "1"), ("n", "7")].map(|(a, b)| (text(a), text(b))).into());
    run(&mut client, "DELETE FROM t");
    assert_eq!(hash(), [].into());
}

#[test]
fn a_ttl_is_set_with_the_value() {
    // Danger: a key that outlives what the application wanted of it.
    let scene = Scene::new();
    let mut client = storing(&scene, ", 'ttl=60', 'columns=v'");
    run(&mut client, "INSERT INTO t VALUES (1, 'a')");
    assert_eq!(get(&scene.redis, "t:1").as_deref(), Some(r#"{"v":"a"}"#));
    let ttl: i64 = redis::cmd("TTL").arg("t:1").query(&mut scene.redis.client()).unwrap();
    assert!((55..=60).contains(&ttl), "{ttl}");
}

/// Starts an update whose backend meets a fault, in a thread.
fn update(scene: &Scene, value: &str, fault: &str) -> std::thread::JoinHandle<()> {
    let mut client = scene.connect();
    run(&mut client, &format!("SET pg_cache.fault_point = '{fault}'"));
    let sql = format!("UPDATE t SET v = '{value}' WHERE id = 1");
    std::thread::spawn(move || drop(client.batch_execute(&sql)))
}

/// Waits until everybody sees the row so.
#[track_caller]
fn visible(client: &mut Client, value: &str) {
    eventually(Duration::from_secs(20), "the update commits", || {
        client.query_one("SELECT v FROM t", &[]).unwrap().get::<_, String>(0) == value
    });
}

#[track_caller]
fn stored(scene: &Scene) -> Option<String> {
    let text = get(&scene.redis, "t:1")?;
    let row: serde_json::Value = serde_json::from_str(&text).unwrap();
    Some(row["v"].as_str().unwrap().to_owned())
}

#[test]
fn whoever_is_late_leaves_the_newer_image_alone() {
    // Danger: two writers of one row; the first one's delivery comes last, and its image stays.
    let scene = Scene::new();
    let mut client = storing(&scene, "");
    run(&mut client, "INSERT INTO t VALUES (1, 'a')");
    let late = update(&scene, "b", "events.send:sleep_700");
    visible(&mut client, "b");
    assert_eq!(stored(&scene), None, "nobody sees the row as it was before the commit");
    run(&mut client, "UPDATE t SET v = 'c'");
    assert_eq!(stored(&scene).as_deref(), Some("c"));
    late.join().unwrap();
    assert_eq!(stored(&scene).as_deref(), Some("c"));
    // The second one is late.
    let late = update(&scene, "d", "events.send:sleep_400");
    late.join().unwrap();
    assert_eq!(stored(&scene).as_deref(), Some("d"));
    // Both are, the first one more so.
    let first = update(&scene, "e", "events.send:sleep_1200");
    visible(&mut client, "e");
    let second = update(&scene, "f", "events.send:sleep_300");
    visible(&mut client, "f");
    second.join().unwrap();
    assert_eq!(stored(&scene).as_deref(), Some("f"));
    first.join().unwrap();
    assert_eq!(stored(&scene).as_deref(), Some("f"));
    // A deletion overtakes a late image.
    let late = update(&scene, "g", "events.send:sleep_700");
    visible(&mut client, "g");
    run(&mut client, "DELETE FROM t");
    late.join().unwrap();
    assert_eq!(stored(&scene), None);
    no_tokens(&scene);
}

#[test]
fn whoever_dies_leaves_no_older_image() {
    // Danger: a backend dies between its commit and its delivery, and the old row stays readable.
    // (An error there ends the delivery and nothing else; killed for good is another test's.)
    let scene = Scene::new();
    let mut client = storing(&scene, "");
    run(&mut client, "INSERT INTO t VALUES (1, 'a')");
    update(&scene, "b", "events.send:error").join().unwrap();
    visible(&mut client, "b");
    assert_eq!(stored(&scene), None, "absent, which its readers take for a miss");
    run(&mut client, "UPDATE t SET v = 'c'");
    assert_eq!(stored(&scene).as_deref(), Some("c"));
    // The first is late, the second dies.
    let late = update(&scene, "d", "events.send:sleep_700");
    visible(&mut client, "d");
    update(&scene, "e", "events.send:error").join().unwrap();
    late.join().unwrap();
    assert_eq!(stored(&scene), None);
    // A transaction that fails after it took the key away: absent, and right after the next.
    run(&mut client, "UPDATE t SET v = 'f'");
    update(&scene, "g", "commit.settled:error").join().unwrap();
    assert!(stored(&scene).is_none_or(|value| value == "f"));
    run(&mut client, "UPDATE t SET v = 'h'");
    assert_eq!(stored(&scene).as_deref(), Some("h"));
    // Who dies before its token is laid has changed nothing.
    update(&scene, "i", "commit.settle:exit").join().unwrap();
    assert_eq!(stored(&scene).as_deref(), Some("h"));
}

#[test]
fn an_invalidation_takes_a_late_image_away_too() {
    // Danger: a trigger deletes the key, and a delivery that comes late brings it back.
    let scene = Scene::new();
    let mut client = storing(&scene, "");
    run(
        &mut client,
        "CREATE TABLE other (id int);
         CREATE TRIGGER k AFTER INSERT ON other FOR EACH ROW
             EXECUTE FUNCTION redis_invalidate('t:{id}');
         INSERT INTO t VALUES (1, 'a')",
    );
    let late = update(&scene, "b", "events.send:sleep_500");
    visible(&mut client, "b");
    run(&mut client, "INSERT INTO other VALUES (1)");
    late.join().unwrap();
    assert_eq!(stored(&scene), None);
}

#[test]
fn more_keys_than_a_transaction_may_keep_are_stored_all_the_same() {
    // Danger: keys that were deleted in mid-transaction are not stored at its end.
    let scene = Scene::new();
    let mut client = storing(&scene, "");
    run(
        &mut client,
        "SET pg_cache.pending_keys_max = 100; SET pg_cache.commit_timeout_ms = 20000;
         INSERT INTO t SELECT g, 'x', g FROM generate_series(1, 3000) g",
    );
    let keys = scene.redis.cli(&["KEYS", "t:*"]);
    assert_eq!(keys.lines().filter(|line| line.starts_with("t:")).count(), 3000);
    no_tokens(&scene);
}

#[test]
fn a_backend_that_is_killed_after_its_commit_leaves_no_older_image() {
    // Danger: kill -9 between commit and delivery, the whole server recovers, and a program that
    // reads Redis finds the row as it was before the commit.
    let redis = Redis::start();
    let mut server = Postgres::start_with(&[("pg_cache.url", &redis.url_with_password())]);
    server.register("test");
    let mut client = server.connect();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         CREATE TRIGGER e AFTER INSERT OR UPDATE ON t FOR EACH ROW
             EXECUTE FUNCTION redis_store('t:{id}');
         INSERT INTO t VALUES (1, 'a')",
    );
    assert_eq!(get(&redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"a"}"#));
    let mut doomed = server.connect();
    run(&mut doomed, "SET pg_cache.fault_point = 'events.send:sleep_20000'");
    let updating = std::thread::spawn(move || drop(doomed.batch_execute("UPDATE t SET v = 'b'")));
    visible(&mut client, "b");
    server.crash();
    updating.join().unwrap();
    assert_eq!(get(&redis, "t:1"), None);
    server.start_again();
    let mut client = server.connect();
    let value: String = client.query_one("SELECT v FROM t", &[]).unwrap().get(0);
    assert_eq!(value, "b");
    assert_eq!(get(&redis, "t:1"), None);
    server.register("test");
    run(&mut client, "UPDATE t SET v = 'c'");
    assert_eq!(get(&redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"c"}"#));
}

#[test]
fn what_a_large_transaction_stores_late_overtakes_nobody() {
    // Danger: its rows wait in the outbox; who wrote one of them after it has stored a newer image,
    // and the older one comes behind it and stays.
    let scene = Scene::new();
    let mut client = storing(&scene, "");
    run(&mut client, "INSERT INTO t SELECT g, 'first', g FROM generate_series(1, 5000) g");
    scene.quiet();
    let fault = "pg_cache.fault_point = 'relay.sending:sleep_1500'";
    run(&mut client, &format!("ALTER DATABASE {} SET {fault}", scene.database()));
    run(&mut client, "SET pg_cache.pending_events_bytes_max = 65536");
    run(&mut client, "UPDATE t SET v = 'older'");
    let waiting = |client: &mut Client| pg_cache_e2e::outbox::rows(client);
    assert!(waiting(&mut client) > 0, "it was too large to be kept in memory");
    run(&mut client, "UPDATE t SET v = 'newer' WHERE id IN (1, 5000); DELETE FROM t WHERE id = 2");
    eventually(Duration::from_secs(30), "all is sent", || waiting(&mut client) == 0);
    for (key, newest) in [("t:1", "newer"), ("t:5000", "newer"), ("t:2", "nothing")] {
        let found = get(&scene.redis, key);
        assert!(found.as_ref().is_none_or(|row| row.contains(newest)), "{key}: {found:?}");
    }
}
