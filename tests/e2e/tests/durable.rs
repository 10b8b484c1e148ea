//! Durable events from the trigger to Redis: written down with their transaction, sent when it has
//! committed, without anybody's asking.

use std::time::Duration;

use pg_cache_e2e::Scene;
use pg_cache_e2e::outbox::{events, rows};
use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::{Pair, Redis, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
     CREATE TRIGGER events AFTER INSERT ON t
         FOR EACH ROW EXECUTE FUNCTION redis_stream('s', 'durable', 'columns=id');";

/// The ids that a stream's events tell of.
fn ids(redis: &Redis) -> Vec<i64> {
    let id = |event: &String| -> i64 {
        let (_, rest) = event.split_once("\"new\":{\"id\":").expect("an event of a row");
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        rest[..end].parse().unwrap()
    };
    events(redis, "s").iter().map(id).collect()
}

#[track_caller]
fn arrive(client: &mut Client, redis: &Redis, wanted: &[i64]) {
    eventually(SOON, "the events are sent", || ids(redis).len() >= wanted.len());
    eventually(SOON, "and their rows deleted", || rows(client) == 0);
    assert_eq!(ids(redis), wanted);
}

#[test]
fn the_commit_wakes_the_worker() {
    // Danger: a durable event waits until somebody happens to start a worker.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    scene.quiet();
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    arrive(&mut client, &scene.redis, &[1]);
    assert_eq!(count(&mut client, WORKERS), 1, "it stays while events flow");
    client.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    arrive(&mut client, &scene.redis, &[1, 2]);
    scene.quiet();
    client.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    arrive(&mut client, &scene.redis, &[1, 2, 3]);
}

#[test]
fn only_what_is_committed_is_sent() {
    // Danger: an event of what never happened.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); ROLLBACK").unwrap();
    client
        .batch_execute(
            "BEGIN; INSERT INTO t VALUES (2); SAVEPOINT a; INSERT INTO t VALUES (3);
             ROLLBACK TO a; INSERT INTO t VALUES (4); SAVEPOINT b; INSERT INTO t VALUES (5);
             RELEASE b; COMMIT",
        )
        .unwrap();
    arrive(&mut client, &scene.redis, &[2, 4, 5]);
}

#[test]
fn a_transaction_that_may_not_write_by_then_writes_its_events() {
    // Danger: a commit fails because of how the transaction ends, or of whose it is.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    let read_only = "BEGIN; INSERT INTO t VALUES (1); SET TRANSACTION READ ONLY; COMMIT";
    client.batch_execute(read_only).unwrap();
    let role = scene.create_role("nobody");
    client.batch_execute(&format!("GRANT INSERT ON t TO {role}")).unwrap();
    let mut other = scene.connect_as(&role);
    other.batch_execute("INSERT INTO t VALUES (2)").unwrap();
    let serializable = "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t VALUES (3); COMMIT";
    other.batch_execute(serializable).unwrap();
    arrive(&mut client, &scene.redis, &[1, 2, 3]);
    for sql in ["SELECT * FROM redis_outbox", "DELETE FROM redis_outbox"] {
        assert_eq!(sqlstate(&other.batch_execute(sql).unwrap_err()), "42501");
    }
}

#[test]
fn a_transaction_too_large_for_memory_keeps_its_order() {
    // Danger: what was written down early overtakes or loses the rest, or outlives its savepoint.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    client
        .batch_execute(
            "SET pg_cache.pending_events_bytes_max = '64kB';
             BEGIN;
             INSERT INTO t SELECT generate_series(1, 3000);
             SAVEPOINT a;
             INSERT INTO t SELECT generate_series(10001, 13000);
             ROLLBACK TO a;
             INSERT INTO t SELECT generate_series(3001, 6000)",
        )
        .unwrap();
    let mut other = scene.connect();
    let spilled = "SELECT pg_table_size('redis_outbox') > 100000";
    assert!(other.query_one(spilled, &[]).unwrap().get::<_, bool>(0), "it was too large");
    other.batch_execute("INSERT INTO t VALUES (0)").unwrap();
    eventually(SOON, "another's is not kept by it", || ids(&scene.redis) == [0]);
    client.batch_execute("COMMIT").unwrap();
    let wanted: Vec<i64> = (0..=6000).collect();
    arrive(&mut client, &scene.redis, &wanted);
}

#[test]
fn a_loop_of_small_savepoints_keeps_to_its_bound() {
    // Danger: an exception block for each row, as a loop in PL/pgSQL has, and all events stay in
    // memory; or an undone block leaves one, or what was written early loses its place.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    client
        .batch_execute(
            "SET pg_cache.pending_events_bytes_max = '64kB';
             BEGIN;
             DO $$ BEGIN FOR i IN 1..2000 LOOP
                 BEGIN
                     INSERT INTO t VALUES (CASE WHEN i % 10 = 0 THEN -i ELSE i END);
                     IF i % 10 = 0 THEN RAISE 'undone'; END IF;
                 EXCEPTION WHEN raise_exception THEN NULL;
                 END;
             END LOOP; END $$",
        )
        .unwrap();
    // Each takes more than 100 bytes.
    let written = rows(&mut client);
    assert!(written > 400, "{written} of 1,800 were written down");
    client.batch_execute("COMMIT").unwrap();
    let wanted: Vec<i64> = (1..=2000).filter(|id| id % 10 != 0).collect();
    arrive(&mut client, &scene.redis, &wanted);
}

#[test]
fn what_is_prepared_is_sent_when_it_commits() {
    // Danger: the session that commits knows nothing of the events.
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'").unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'q'").unwrap();
    client.batch_execute("INSERT INTO t VALUES (3)").unwrap();
    eventually(SOON, "only what is committed", || ids(&pair.redis) == [3]);
    client.batch_execute("ROLLBACK PREPARED 'p'").unwrap();
    pair.postgres.connect().batch_execute("COMMIT PREPARED 'q'").unwrap();
    arrive(&mut client, &pair.redis, &[3, 2]);
}

#[test]
fn a_full_outbox_fails_the_transaction_and_nothing_else() {
    // Danger: Redis is away for a night, and the disk is full in the morning.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    client.batch_execute(TABLE).unwrap();
    scene.redis.stop();
    client.batch_execute("SET pg_cache.outbox_mb_max = 1").unwrap();
    let mut last = 0;
    let error = loop {
        assert!(last < 100_000, "it is bounded");
        let (from, to) = (last + 1, last + 1000);
        let sql = format!("INSERT INTO t SELECT generate_series({from}, {to})");
        match client.batch_execute(&sql) {
            Ok(()) => last = to,
            Err(error) => break error,
        }
    };
    assert_eq!(sqlstate(&error), "53400", "{}", words(&error));
    client.batch_execute("CREATE TABLE other (v int); INSERT INTO other VALUES (1)").unwrap();
    scene.redis.start_again();
    let wanted: Vec<i64> = (1..=last).collect();
    eventually(2 * SOON, "the events are sent", || {
        client.batch_execute("SELECT redis_wake()").unwrap();
        rows(&mut client) == 0
    });
    assert_eq!(ids(&scene.redis), wanted);
    client.batch_execute("INSERT INTO t VALUES (0)").expect("what is empty is not full");
}
