//! What a commit asks of Redis, counted at the server.

use std::collections::BTreeMap;
use std::sync::Mutex;

use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::{commands_and_proofs, forget_commands, keys};
use pg_cache_e2e::registry::{count, repair};
use pg_cache_testbed::Pair;
use pg_cache_testbed::fake::{FakeRedis, Reply};
use postgres::Client;

/// Two tables, one of them tracked.
fn prepared(scene: &Scene) -> Client {
    let mut client = scene.connect();
    client
        .batch_execute(
            "CREATE TABLE told (id int); CREATE TABLE untold (id int);
             SELECT redis_track('told');
             INSERT INTO told VALUES (1)",
        )
        .unwrap();
    repair(&mut client);
    client
}

/// What Redis was asked by this session's work, INFO included: the proof of its identity.
fn asked(scene: &Scene, client: &mut Client, sql: &str) -> BTreeMap<String, u64> {
    forget_commands(scene);
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    commands_and_proofs(&scene.redis)
}

#[test]
fn a_transaction_that_touched_nothing_tracked_asks_redis_nothing() {
    // Danger: every commit of the database pays for a cache that it has nothing to do with.
    let scene = Scene::alone();
    let mut client = prepared(&scene);
    for sql in [
        "INSERT INTO untold VALUES (1)",
        "BEGIN; UPDATE untold SET id = 2; SAVEPOINT s; DELETE FROM untold; ROLLBACK TO s; COMMIT",
        "BEGIN; UPDATE told SET id = 2; ROLLBACK",
        "BEGIN; SAVEPOINT s; UPDATE told SET id = 2; ROLLBACK TO s; COMMIT",
        "UPDATE told SET id = 3 WHERE false",
        "SELECT count(*) FROM told",
        "BEGIN; INSERT INTO untold VALUES (4); PREPARE TRANSACTION 'untold'",
        "COMMIT PREPARED 'untold'",
        "BEGIN; SAVEPOINT s; UPDATE told SET id = 2; ROLLBACK TO s; INSERT INTO untold VALUES (5);
         PREPARE TRANSACTION 'untold'",
        "ROLLBACK PREPARED 'untold'",
    ] {
        assert_eq!(asked(&scene, &mut client, sql), BTreeMap::new(), "{sql}");
    }
}

#[test]
fn a_commit_settles_with_one_script_whatever_it_touched() {
    // Danger: a round trip for each row, or for each statement.
    let scene = Scene::alone();
    let mut client = prepared(&scene);
    let sql = "BEGIN; INSERT INTO told SELECT generate_series(2, 500);
               UPDATE told SET id = id + 1; DELETE FROM told WHERE id % 2 = 0; COMMIT";
    let asked = asked(&scene, &mut client, sql);
    assert_eq!(asked.get("evalsha"), Some(&1), "{asked:?}");
    assert_eq!(asked.get("info"), Some(&1), "{asked:?}");
    assert_eq!(asked.get("del"), None, "{asked:?}");
}

#[test]
fn bump_and_deletion_share_one_round_trip() {
    // Danger: a commit that waits for BUMP before it deletes takes twice as long as it need.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    client
        .batch_execute(
            "CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON told
                 FOR EACH ROW EXECUTE FUNCTION redis_invalidate('told:{id}')",
        )
        .unwrap();
    let change = "UPDATE told SET id = id + 1";
    let asked = asked(&scene, &mut client, change);
    for (command, calls) in [("evalsha", 1), ("del", 1), ("info", 1)] {
        assert_eq!(asked.get(command), Some(&calls), "{asked:?}");
    }
    // What BUMP and DEL answer is held back until the proof is asked for: who waits for it before
    // that waits until the commit's time is over.
    let held = Mutex::new(Vec::new());
    let fake = FakeRedis::before(&scene.redis, move |request, mut reply| {
        let mut held = held.lock().unwrap();
        match request.is("EVALSHA") || request.is("DEL") {
            true => held.append(&mut reply),
            false => reply.splice(..0, held.drain(..)).for_each(drop),
        }
        Reply::Bytes(reply)
    });
    client.batch_execute(&format!("SET pg_cache.url = '{}'", fake.url())).unwrap();
    let settled = "SELECT settled - owed FROM redis_stat_commit";
    let before = count(&mut client, settled);
    for id in 2..5 {
        scene.redis.cli(&["MSET", &format!("told:{id}"), "x", &format!("told:{}", id + 1), "x"]);
        client.batch_execute(change).unwrap();
        assert_eq!(keys(&scene.redis, "told:*"), [""; 0]);
    }
    assert_eq!(count(&mut client, settled), before + 3);
}

#[test]
fn a_first_writer_after_a_restart_deletes_all_its_keys() {
    // Danger: the table has no generation any more once it was told, so a writer that settles its
    // keys in steps takes the answer to a step for a failure, and leaves the rest of its keys.
    let mut pair = Pair::start_with(&[("max_worker_processes", "16")], &[]);
    let mut client = pair.postgres.connect();
    client
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, v int DEFAULT 0);
             INSERT INTO users SELECT generate_series(1, 8);
             CREATE TRIGGER keys AFTER INSERT OR UPDATE OR DELETE ON users
                 FOR EACH ROW EXECUTE FUNCTION redis_invalidate('user:{id}')",
        )
        .unwrap();
    repair(&mut client);
    for steps in ["1", "2", "3", "100"] {
        for id in 1..=8 {
            pair.redis.cli(&["SET", &format!("user:{id}"), "old"]);
        }
        pair.postgres.restart();
        let mut client = pair.postgres.connect();
        // Nobody has read, so no worker was woken: this one finds the former run's generation.
        client
            .batch_execute(&format!(
                "BEGIN; SET LOCAL pg_cache.pending_keys_max = {steps};
                 UPDATE users SET v = v + 1 WHERE id <= 4; UPDATE users SET v = v + 1 WHERE id > 4;
                 COMMIT"
            ))
            .unwrap();
        let left: Vec<i32> = (1..=8)
            .filter(|id| pair.redis.cli(&["EXISTS", &format!("user:{id}")]).trim() != "0")
            .collect();
        assert_eq!(left, [] as [i32; 0], "in steps of {steps}");
    }
}
