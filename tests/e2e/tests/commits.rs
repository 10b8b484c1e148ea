//! What a commit asks of Redis, counted at the server.

use std::collections::BTreeMap;

use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::{commands, forget_commands};
use pg_cache_e2e::registry::repair;
use pg_cache_testbed::Pair;
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

/// What Redis was asked by this session's work, without its proofs of identity.
fn asked(scene: &Scene, client: &mut Client, sql: &str) -> BTreeMap<String, u64> {
    forget_commands(scene);
    client.batch_execute(sql).unwrap();
    commands(&scene.redis)
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
    assert_eq!(asked.get("del"), None, "{asked:?}");
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
