//! `redis_store` when a commit owes: prepared transactions, a Redis that stalls, a lost tag table.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pg_cache_core::key::EntryKeys;
use pg_cache_e2e::Scene;
use pg_cache_e2e::events::get;
use pg_cache_e2e::outbox::rows;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::{count, repair, table_key};
use pg_cache_testbed::eventually;
use pg_cache_testbed::fake::{FakeRedis, Reply};
use postgres::Client;

const SOON: Duration = Duration::from_secs(30);

/// A table whose rows are stored under `t:{id}`, one of them there.
fn storing(scene: &Scene, options: &str) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v int);
             CREATE TRIGGER e AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{{id}}'{options})"
        ))
        .unwrap();
    repair(&mut client);
    run(&mut client, "INSERT INTO t VALUES (1, 0)");
    settled(&mut client);
    assert_eq!(stored(scene, 1), Some(0));
    client
}

#[track_caller]
fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Waits until nothing is owed and all is sent.
#[track_caller]
fn settled(client: &mut Client) {
    eventually(SOON, "all is paid and sent", || {
        repair(client);
        run(client, "SELECT redis_wake()");
        rows(client) == 0 && count(client, "SELECT count(*) FROM redis_debt") == 0
    });
}

#[track_caller]
fn stored(scene: &Scene, id: i32) -> Option<i64> {
    let row: serde_json::Value =
        serde_json::from_str(&get(&scene.redis, &format!("t:{id}"))?).unwrap();
    row["v"].as_i64()
}

/// Runs it while Redis hangs.
#[track_caller]
fn run_stalled(scene: &Scene, client: &mut Client, sql: &str) {
    scene.redis.freeze();
    let outcome = client.batch_execute(sql);
    scene.redis.thaw();
    outcome.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

const WAYS: [&str; 2] = ["", ", 'durable'"];

#[test]
fn a_prepared_transaction_stores_its_rows() {
    // Danger: COMMIT PREPARED, and the debt that tells of it takes the new image away.
    for way in WAYS {
        let scene = Scene::new();
        let mut client = storing(&scene, way);
        run(&mut client, "BEGIN; UPDATE t SET v = 1; PREPARE TRANSACTION 'store_a'");
        assert_eq!(stored(&scene, 1), None, "{way}: nobody reads what may be old in a moment");
        run(&mut client, "COMMIT PREPARED 'store_a'");
        settled(&mut client);
        assert_eq!(stored(&scene, 1), Some(1), "{way}");
        // Whoever writes right behind it.
        for value in [2, 4, 6] {
            run(
                &mut client,
                &format!("BEGIN; UPDATE t SET v = {value}; PREPARE TRANSACTION 'store_b'"),
            );
            run(&mut client, "COMMIT PREPARED 'store_b'");
            run(&mut client, &format!("UPDATE t SET v = {value} + 1"));
            settled(&mut client);
            assert_eq!(stored(&scene, 1), Some(value + 1), "{way}");
        }
        run(&mut client, "BEGIN; DELETE FROM t; PREPARE TRANSACTION 'store_c'");
        run(&mut client, "COMMIT PREPARED 'store_c'");
        settled(&mut client);
        assert_eq!(stored(&scene, 1), None, "{way}");
        assert_eq!(scene.redis.cli(&["KEYS", "pgc:s:*"]).trim(), "", "{way}: no tokens stay");
    }
}

#[test]
fn a_lost_tag_table_takes_no_row_away() {
    // Danger: somebody deletes the tag table, and the next commit's image vanishes although it
    // arrived.
    for way in WAYS {
        let scene = Scene::new();
        let mut client = storing(&scene, way);
        let table = table_key(&mut client);
        for value in [1, 2] {
            scene.redis.cli(&["DEL", &table]);
            run(&mut client, &format!("UPDATE t SET v = {value}"));
            settled(&mut client);
            assert_eq!(stored(&scene, 1), Some(value), "{way}");
        }
    }
}

#[test]
fn a_durable_row_is_stored_after_an_outage() {
    // Danger: "whatever happens" was promised, and the debt of the outage takes the image away.
    let scene = Scene::new();
    let mut client = storing(&scene, ", 'durable'");
    run_stalled(&scene, &mut client, "UPDATE t SET v = 1");
    settled(&mut client);
    assert_eq!(stored(&scene, 1), Some(1));
    // This session alone cannot reach it, the worker can.
    let mut lost = scene.connect();
    run(&mut lost, "SET pg_cache.url = 'unix:///nowhere'");
    for value in 2..8 {
        run(&mut lost, &format!("UPDATE t SET v = {value}"));
        if value % 2 == 0 {
            settled(&mut client);
            assert_eq!(stored(&scene, 1), Some(value));
        }
    }
    settled(&mut client);
    assert_eq!(stored(&scene, 1), Some(7));
    run(&mut lost, "UPDATE t SET v = 8");
    run(&mut client, "UPDATE t SET v = 9");
    settled(&mut client);
    assert_eq!(stored(&scene, 1), Some(9), "of one that owes and one that does not, the later");
    run(&mut client, "UPDATE t SET v = 10");
    run(&mut lost, "UPDATE t SET v = 11");
    settled(&mut client);
    assert_eq!(stored(&scene, 1), Some(11), "and the other way round");
    run(&mut lost, "DELETE FROM t");
    settled(&mut client);
    assert_eq!(stored(&scene, 1), None);
    assert_eq!(scene.redis.cli(&["KEYS", "pgc:s:*"]).trim(), "", "no tokens stay");
}

#[test]
fn what_is_sent_again_brings_no_older_row_back() {
    // Danger: a worker dies after it has sent the rows of two transactions and before it has
    // deleted them; the next one sends them again, and the older one, which nobody's token holds
    // back, stays.
    let scene = Scene::new();
    let mut client = storing(&scene, ", 'durable'");
    let mut lost = scene.connect();
    run(&mut lost, "SET pg_cache.url = 'unix:///nowhere'");
    scene.quiet();
    // It dies each time after it has sent something.
    let fault = "pg_cache.fault_point = 'relay.sent:exit'";
    run(&mut client, &format!("ALTER DATABASE {} SET {fault}", scene.database()));
    run(&mut lost, "UPDATE t SET v = 1");
    run(&mut client, "UPDATE t SET v = 2");
    run(&mut client, "UPDATE t SET v = 3");
    for _ in 0..4 {
        run(&mut client, "SELECT redis_wake()");
        std::thread::sleep(Duration::from_millis(400));
    }
    assert!(rows(&mut client) > 0, "nothing was deleted");
    run(&mut client, &format!("ALTER DATABASE {} RESET pg_cache.fault_point", scene.database()));
    settled(&mut client);
    assert_eq!(stored(&scene, 1), Some(3));
}

#[test]
fn a_row_that_is_written_before_a_generation_is_made_leaves_no_old_one() {
    // Danger: right behind redis_register, or after CREATE EXTENSION, no worker has registered
    // anything yet, the commit tells nobody, and the old row stays for ever.
    for way in WAYS {
        let scene = Scene::new();
        let mut client = storing(&scene, way);
        let image = |value: i64| (!way.is_empty()).then_some(value);
        run(&mut client, "BEGIN; SELECT redis_register(buckets => 50); UPDATE t SET v = 1; COMMIT");
        settled(&mut client);
        assert_eq!(stored(&scene, 1), image(1), "{way}: in its own transaction");
        run(&mut client, "INSERT INTO t SELECT i, 2 FROM generate_series(2, 1500) i");
        run(&mut client, "UPDATE t SET v = 2");
        settled(&mut client);
        assert_eq!((stored(&scene, 1), stored(&scene, 1500)), (Some(2), Some(2)), "{way}");
        let holder = unmade(&scene, &mut client);
        let (mut writer, notices) = scene.connect_listening();
        run(&mut writer, "UPDATE t SET v = 3 WHERE id = 1");
        let said: Vec<String> = notices.warnings().iter().map(|w| w.message().into()).collect();
        assert_eq!(said, ["redis is not usable, the change is noted in redis_debt"], "{way}");
        run(&mut writer, "SET pg_cache.pending_keys_max = 100; UPDATE t SET v = 4 WHERE id > 1");
        run(&mut writer, "SET pg_cache.on_unreachable = error");
        let refused = writer.batch_execute("UPDATE t SET v = 5").unwrap_err();
        assert_eq!(sqlstate(&refused), "08006", "{way}");
        assert_eq!(stored(&scene, 1), Some(2), "{way}: nobody has registered");
        drop(holder);
        settled(&mut client);
        let found = [stored(&scene, 1), stored(&scene, 2), stored(&scene, 1500)];
        assert_eq!(found, [image(3), image(4), image(4)], "{way}: before the worker");
    }
}

#[test]
fn a_key_that_is_named_before_a_generation_is_made_goes() {
    // Danger: as above, of a key that the application set itself: no sidecar, so no sweep.
    let scene = Scene::new();
    let mut client = scene.connect();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int);
         CREATE TRIGGER k AFTER UPDATE ON t FOR EACH ROW
             EXECUTE FUNCTION redis_invalidate('k:{id}');
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 1500) i",
    );
    repair(&mut client);
    for (what, settings) in [("at the end", ""), ("early", "SET pg_cache.pending_keys_max = 100;")]
    {
        let mut set = redis::cmd("MSET");
        (1..=1500).for_each(|id| _ = set.arg(format!("k:{id}")).arg("old"));
        set.exec(&mut scene.redis.client()).unwrap();
        let holder = unmade(&scene, &mut client);
        run(&mut client, &format!("{settings} UPDATE t SET v = v + 1"));
        assert_eq!(get(&scene.redis, "k:1").as_deref(), Some("old"));
        drop(holder);
        settled(&mut client);
        assert_eq!(scene.redis.cli(&["KEYS", "k:*"]).trim(), "", "{what}");
    }
}

/// Begins a generation that no worker can make, until what is returned is dropped.
#[must_use]
fn unmade(scene: &Scene, client: &mut Client) -> Client {
    let mut holder = scene.connect();
    run(&mut holder, "BEGIN; LOCK TABLE redis_alive");
    run(client, "SELECT redis_register()");
    holder
}

#[test]
fn a_stalled_commit_of_many_rows_leaves_no_old_one() {
    // Danger: more rows than can be owed one by one, and all of them stay in Redis as they were.
    for way in WAYS {
        let scene = Scene::new();
        let mut client = storing(&scene, way);
        run(&mut client, "INSERT INTO t SELECT i, 0 FROM generate_series(2, 12000) i");
        settled(&mut client);
        let old = || {
            let keys: Vec<String> = (1..=12000).map(|id| format!("t:{id}")).collect();
            let found: Vec<Option<String>> =
                redis::cmd("MGET").arg(keys).query(&mut scene.redis.client()).unwrap();
            let is_old = |row: &&Option<String>| row.as_ref().is_some_and(|r| r.contains(":0}"));
            (found.iter().filter(is_old).count(), found.iter().flatten().count())
        };
        assert_eq!(old(), (12000, 12000), "{way}");
        run_stalled(&scene, &mut client, "UPDATE t SET v = 1 WHERE id <= 1001");
        settled(&mut client);
        let left = if way.is_empty() { 0 } else { 1001 };
        assert_eq!(old(), (10999, 10999 + left), "{way}: of 1,001");
        run_stalled(&scene, &mut client, "SET pg_cache.pending_keys_max = 100; UPDATE t SET v = 2");
        settled(&mut client);
        let left = if way.is_empty() { 0 } else { 12000 };
        assert_eq!(old(), (0, left), "{way}: settled early");
        run(&mut client, "UPDATE t SET v = 3");
        settled(&mut client);
        run_stalled(&scene, &mut client, "DELETE FROM t");
        settled(&mut client);
        assert_eq!(old(), (0, 0), "{way}: of deleted ones");
    }
}

#[test]
fn a_stalled_commit_of_many_named_keys_leaves_none() {
    // Danger: keys that another program put there, or whose sidecar is gone, stay as they were.
    let scene = Scene::new();
    let mut client = scene.connect();
    run(
        &mut client,
        "CREATE TABLE t (id int PRIMARY KEY, v int);
         CREATE TRIGGER k AFTER UPDATE ON t FOR EACH ROW
             EXECUTE FUNCTION redis_invalidate('k:{id}');
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 6000) i",
    );
    repair(&mut client);
    for (what, settings) in [("at the end", ""), ("early", "SET pg_cache.pending_keys_max = 500;")]
    {
        let mut set = redis::cmd("MSET");
        (1..=6000).for_each(|id| _ = set.arg(format!("k:{id}")).arg("old"));
        set.exec(&mut scene.redis.client()).unwrap();
        let change = "BEGIN; UPDATE t SET v = 1 WHERE id <= 3000; SAVEPOINT s;
                      UPDATE t SET v = 2 WHERE id = 6000; ROLLBACK TO s;
                      UPDATE t SET v = 3 WHERE id BETWEEN 3001 AND 5999; COMMIT";
        run_stalled(&scene, &mut client, &format!("{settings}{change}"));
        settled(&mut client);
        let left = scene.redis.cli(&["KEYS", "k:*"]);
        assert_eq!(left.lines().filter(|line| *line != "k:6000").count(), 0, "{what}: {left:.50}");
    }
}

#[test]
fn a_session_that_is_ended_at_its_commit_costs_no_later_row() {
    // Danger: an administrator ends a session whose commit waits for Redis, which has laid the
    // token of the row: nobody takes that away. The next change finds Redis away, and gives way.
    let scene = Scene::new();
    let holds = Arc::new(AtomicBool::new(false));
    let is_held = holds.clone();
    let fake = FakeRedis::before(&scene.redis, move |request, reply| {
        if request.is("SET") && request.word(1).starts_with("pgc:s:") {
            while is_held.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Reply::Bytes(reply)
    });
    scene.move_to(&fake.url());
    let mut client = storing(&scene, ", 'durable'");
    let mut ended = scene.connect();
    run(&mut ended, "SET pg_cache.commit_timeout_ms = '20s'");
    let pid = count(&mut ended, "SELECT pg_backend_pid()::bigint");
    holds.store(true, Ordering::SeqCst);
    let ended = std::thread::spawn(move || ended.batch_execute("UPDATE t SET v = 1"));
    let token = String::from_utf8(EntryKeys::new(b"t:1").token()).unwrap();
    eventually(SOON, "the token stands", || scene.redis.cli(&["EXISTS", &token]).trim() == "1");
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    let outcome = ended.join().unwrap();
    holds.store(false, Ordering::SeqCst);
    assert!(outcome.is_err(), "it has not committed");
    let mut away = scene.connect();
    run(&mut away, "SET pg_cache.url = 'unix:///nonexistent.sock'; UPDATE t SET v = 2");
    settled(&mut client);
    assert_eq!(stored(&scene, 1), Some(2));
}
