//! What administrators do to the extension's own tables, and what ends late, leaves nothing untold.

use std::thread::JoinHandle;
use std::time::Duration;

use pg_cache_e2e::counters::value;
use pg_cache_e2e::outcome::words;
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_e2e::{Scene, cached, direct};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const QUERY: &str = "SELECT * FROM t ORDER BY id";

fn run(client: &mut Client, sql: &str) {
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

fn prepared(scene: &Scene) -> Client {
    let mut client = scene.connect();
    run(
        &mut client,
        "CREATE TABLE t (id int, v int);
         SELECT redis_track('t');
         CREATE TABLE u (id int);
         CREATE TRIGGER k AFTER INSERT OR UPDATE OR DELETE ON u FOR EACH ROW
             EXECUTE FUNCTION redis_invalidate('u:{id}')",
    );
    repair(&mut client);
    client
}

fn behind(scene: &Scene, sql: &'static str) -> JoinHandle<Result<(), postgres::Error>> {
    let mut client = scene.connect();
    std::thread::spawn(move || client.batch_execute(sql))
}

fn sleepers(client: &mut Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    count(client, sql)
}

#[test]
fn a_writer_tells_of_its_changes_although_somebody_waits_for_its_lock() {
    // Danger: VACUUM FULL waits behind the writer, whose own look at the registration then finds
    // the table locked; taken for "not registered", the change would be told to nobody.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let mut writer = scene.connect();
    for _ in 0..3 {
        cached(&mut client, "k", QUERY).unwrap();
    }
    run(
        &mut writer,
        "SET pg_cache.pending_keys_max = 1; BEGIN; INSERT INTO u VALUES (1);
         INSERT INTO t VALUES (1, 1)",
    );
    let full = behind(&scene, "VACUUM FULL redis_server");
    eventually(SOON, "VACUUM FULL waits", || sleepers(&mut client) > 0);
    run(&mut writer, "COMMIT");
    full.join().unwrap().unwrap();
    let expected = direct(&mut client, QUERY).unwrap();
    assert_eq!(cached(&mut client, "k", QUERY).unwrap(), expected);
    repair(&mut client);
    assert_eq!(cached(&mut client, "k", QUERY).unwrap(), expected);
}

#[test]
fn a_transaction_that_writes_and_drops_the_extension_commits_at_once() {
    // Danger: it looks for the lock on a table that it dropped itself, for a second, and fails.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    run(&mut client, "SET pg_cache.commit_timeout_ms = 20000; SET statement_timeout = '5s'");
    let began = std::time::Instant::now();
    run(&mut client, "BEGIN; INSERT INTO t VALUES (1, 1); DROP EXTENSION pg_cache CASCADE; COMMIT");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(count(&mut client, "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_new_index_on_the_debts_breaks_no_reader() {
    // Danger: REINDEX CONCURRENTLY gives the index another oid, and every later read is an error.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    run(&mut client, "INSERT INTO redis_debt VALUES (5, '700', NULL)");
    repair(&mut client);
    cached(&mut client, "k", QUERY).unwrap();
    run(&mut client, "REINDEX TABLE CONCURRENTLY redis_debt");
    cached(&mut client, "k", QUERY).unwrap();
    let mut admin = scene.connect();
    run(&mut admin, "BEGIN; REINDEX INDEX redis_debt_pkey");
    run(&mut client, "SET statement_timeout = '2s'");
    cached(&mut client, "k", QUERY).unwrap();
    run(&mut admin, "COMMIT");
}

#[test]
fn keys_of_the_outer_transaction_outlive_a_cancel_that_is_caught() {
    // Danger: the early delivery took them off the stack, and a cancel loses them.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let mut admin = scene.connect();
    cached(&mut admin, "u:1", "SELECT count(*) FROM u").unwrap();
    assert!(value(&scene.redis, "u:1").is_some());
    run(&mut client, "SET pg_cache.pending_keys_max = 2; SET pg_cache.commit_timeout_ms = 20000");
    run(&mut client, "BEGIN; INSERT INTO u VALUES (1)");
    run(&mut admin, "BEGIN; LOCK TABLE redis_server IN SHARE MODE");
    run(&mut client, "SAVEPOINT s; SET LOCAL statement_timeout = '300ms'");
    let error = client.batch_execute("INSERT INTO u VALUES (2)").unwrap_err();
    assert!(words(&error).contains("statement timeout"), "{}", words(&error));
    run(&mut admin, "COMMIT");
    run(&mut client, "ROLLBACK TO s; COMMIT");
    eventually(SOON, "u:1 is gone", || value(&scene.redis, "u:1").is_none());
}

#[test]
fn a_debt_is_paid_although_its_commit_takes_longer_than_a_worker_stays() {
    // Danger: the worker is woken before the commit record, finds nothing and goes; a commit that
    // waits for a replica then leaves a debt that nobody pays.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    let mut admin = scene.connect();
    scene.redis.cli(&["SET", "u:1", "old"]);
    eventually(SOON, "no worker", || count(&mut client, WORKERS) == 0);
    run(&mut admin, "BEGIN; LOCK TABLE redis_server IN SHARE MODE");
    run(
        &mut client,
        "SET pg_cache.commit_timeout_ms = 100;
         SET pg_cache.fault_point = 'commit.settled:sleep_6000'",
    );
    let writer = std::thread::spawn(move || run(&mut client, "INSERT INTO u VALUES (1)"));
    std::thread::sleep(Duration::from_millis(500));
    // So that it is not paid before we have seen it.
    run(&mut admin, "COMMIT; BEGIN; LOCK TABLE redis_alive IN SHARE MODE");
    writer.join().unwrap();
    assert_eq!(count(&mut admin, "SELECT count(*) FROM redis_debt"), 1);
    run(&mut admin, "COMMIT");
    eventually(SOON, "paid", || count(&mut admin, "SELECT count(*) FROM redis_debt") == 0);
    assert_eq!(value(&scene.redis, "u:1"), None);
}

#[test]
fn a_schema_change_that_owes_is_paid_when_its_messages_are_sent() {
    // Danger: paid while the writer is visible and its messages are not sent, a reader with
    // yesterday's catalogue fills for everybody.
    let scene = Scene::new();
    let mut client = prepared(&scene);
    run(
        &mut client,
        "CREATE TYPE colour AS ENUM ('red', 'blue'); CREATE TABLE e (c colour);
         INSERT INTO e VALUES ('red'); SELECT redis_track('e')",
    );
    repair(&mut client);
    let query = "SELECT c::text FROM e";
    let mut other = scene.connect();
    for client in [&mut client, &mut other] {
        cached(client, "colours", query).unwrap();
    }
    let mut admin = scene.connect();
    let mut writer = scene.connect();
    run(&mut admin, "BEGIN; LOCK TABLE redis_server IN SHARE MODE");
    run(
        &mut writer,
        "SET pg_cache.commit_timeout_ms = 100;
         SET pg_cache.fault_point = 'commit.ended:sleep_4000'",
    );
    let writer = std::thread::spawn(move || {
        run(&mut writer, "ALTER TYPE colour RENAME VALUE 'red' TO 'crimson'");
    });
    std::thread::sleep(Duration::from_millis(500));
    run(&mut admin, "COMMIT");
    let until = std::time::Instant::now() + Duration::from_secs(3);
    while std::time::Instant::now() < until {
        cached(&mut client, "colours", query).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    writer.join().unwrap();
    for client in [&mut client, &mut other, &mut scene.connect()] {
        let expected = direct(client, query).unwrap();
        assert_eq!(cached(client, "colours", query).unwrap(), expected);
    }
}
