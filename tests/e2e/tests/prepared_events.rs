//! Events of prepared transactions, whose end may be far away and in nobody's hands.

use std::time::Duration;

use pg_cache_core::key::EntryKeys;
use pg_cache_e2e::events::{get, told};
use pg_cache_e2e::outbox::rows;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::{Pair, Redis, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

fn start() -> (Pair, Client) {
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             CREATE TRIGGER a AFTER INSERT OR UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{id}');
             CREATE TRIGGER b AFTER INSERT OR UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('s')",
        )
        .unwrap();
    repair(&mut client);
    (pair, client)
}

#[track_caller]
fn prepare(client: &mut Client, name: &str, sql: &str) {
    let sql = format!("BEGIN; {sql}; PREPARE TRANSACTION '{name}'");
    client.batch_execute(&sql).unwrap();
}

#[track_caller]
fn terminate(client: &mut Client) {
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE backend_type = 'pg_cache worker'";
    eventually(SOON, "no worker is there", || {
        count(client, end);
        count(client, WORKERS) == 0
    });
}

fn has_token(redis: &Redis, key: &str) -> bool {
    let token = String::from_utf8(EntryKeys::new(key.as_bytes()).token()).unwrap();
    redis.cli(&["EXISTS", &token]).trim() == "1"
}

#[test]
fn a_worker_that_made_way_comes_back_for_what_is_prepared() {
    // Danger: the worker leaves so that the database can be copied; who commits what was prepared
    // wakes nobody, and its events wait for the next change of something else.
    let (pair, mut client) = start();
    prepare(&mut client, "p", "INSERT INTO t VALUES (1, 'a')");
    drop(client);
    let mut admin = pair.postgres.connect_as("postgres", "postgres");
    let copy = "CREATE DATABASE copy TEMPLATE test";
    // PostgreSQL copies no database in which a transaction is prepared, but asks for it first.
    assert_eq!(sqlstate(&admin.batch_execute(copy).unwrap_err()), "55006");
    let workers = WORKERS.replace("current_database()", "'test'");
    eventually(SOON, "the worker made way", || count(&mut admin, &workers) == 0);
    let mut client = pair.postgres.connect();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    eventually(SOON, "sent without anybody's doing", || rows(&mut client) == 0);
    assert_eq!(told(&pair.redis, "s", "v"), ["a"]);
}

#[test]
fn a_worker_that_found_no_redis_comes_back_for_what_is_prepared() {
    // Danger: as above, since Redis is away for a while.
    let (mut pair, mut client) = start();
    prepare(&mut client, "p", "INSERT INTO t VALUES (1, 'a')");
    pair.redis.stop();
    eventually(SOON, "the worker leaves", || count(&mut client, WORKERS) == 0);
    client = pair.postgres.connect();
    pair.redis.start_again();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    eventually(2 * SOON, "sent without anybody's doing", || rows(&mut client) == 0);
    assert_eq!(told(&pair.redis, "s", "v"), ["a"]);
}

#[test]
fn a_worker_that_failed_is_followed_by_another() {
    // Danger: an error ends the worker, and what it was to send waits for the next change of
    // something else.
    let (pair, mut client) = start();
    let fault = |value: &str| format!("ALTER DATABASE test SET pg_cache.fault_point = '{value}'");
    eventually(SOON, "no worker is there", || count(&mut client, WORKERS) == 0);
    client.batch_execute(&fault("worker.looked:error")).unwrap();
    prepare(&mut client, "p", "INSERT INTO t VALUES (1, 'a')");
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    let failed = "fault point worker.looked";
    eventually(SOON, "the worker failed", || pair.postgres.log().contains(failed));
    client.batch_execute(&fault("")).unwrap();
    eventually(2 * SOON, "sent without anybody's doing", || rows(&mut client) == 0);
    assert_eq!(told(&pair.redis, "s", "v"), ["a"]);
}

#[test]
fn a_worker_that_was_terminated_is_followed_by_another() {
    // Danger: as above, by an administrator who clears up.
    let (pair, mut client) = start();
    prepare(&mut client, "p", "INSERT INTO t VALUES (1, 'a')");
    terminate(&mut client);
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    eventually(2 * SOON, "sent without anybody's doing", || rows(&mut client) == 0);
    assert_eq!(told(&pair.redis, "s", "v"), ["a"]);
}

#[test]
fn what_was_prepared_stays_stored() {
    // Danger: a prepared transaction owes its keys, and its debt deletes what it has just stored.
    let (pair, mut client) = start();
    for (round, v) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let sql = "INSERT INTO t VALUES (1, 'x'), (2, 'y') ON CONFLICT (id) DO UPDATE SET v = ";
        prepare(&mut client, "p", &format!("{sql} '{v}'"));
        // The worker may be anywhere between two looks.
        std::thread::sleep(Duration::from_millis(37 * round as u64));
        client.batch_execute("COMMIT PREPARED 'p'").unwrap();
        eventually(SOON, "all is sent and paid", || {
            let debts = "SELECT count(*) FROM redis_debt";
            rows(&mut client) == 0 && count(&mut client, debts) == 0
        });
        for (key, first) in [("t:1", "x"), ("t:2", "y")] {
            let wanted = format!("\"v\":\"{}\"", if round == 0 { first } else { v });
            let found = get(&pair.redis, key);
            assert!(found.as_ref().is_some_and(|row| row.contains(&wanted)), "{wanted}: {found:?}");
        }
    }
}

#[test]
fn a_token_stays_as_long_as_its_transaction_may_commit_and_no_longer() {
    // Danger: what was rolled back leaves a mark beside each of its keys for ever; or one goes that
    // its transaction needs.
    let (pair, mut client) = start();
    let redis = &pair.redis;
    prepare(&mut client, "kept", "INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    prepare(&mut client, "dropped", "INSERT INTO t VALUES (3, 'c'), (4, 'd')");
    let all = |wanted: bool, keys: &[&str]| keys.iter().all(|key| has_token(redis, key) == wanted);
    assert!(all(true, &["t:1", "t:2", "t:3", "t:4"]), "all are laid");
    client.batch_execute("ROLLBACK PREPARED 'dropped'").unwrap();
    eventually(SOON, "those of the other are gone", || all(false, &["t:3", "t:4"]));
    // Longer than the worker needs to look again.
    std::thread::sleep(Duration::from_secs(3));
    assert!(all(true, &["t:1", "t:2"]), "it may still commit");
    client.batch_execute("COMMIT PREPARED 'kept'").unwrap();
    eventually(SOON, "they are used", || all(false, &["t:1", "t:2"]) && rows(&mut client) == 0);
    assert!(get(redis, "t:1").is_some() && get(redis, "t:2").is_some());
    eventually(SOON, "nothing is kept of either", || {
        redis.cli(&["KEYS", "pgc:p:*"]).trim().is_empty()
    });
}

#[test]
fn a_token_of_a_transaction_that_ended_unseen_goes_later() {
    // Danger: the worker is not there when the transaction is rolled back, and nobody looks again.
    let (pair, mut client) = start();
    let redis = &pair.redis;
    prepare(&mut client, "p", "INSERT INTO t VALUES (1, 'a')");
    terminate(&mut client);
    let mut other = pair.postgres.connect();
    other.batch_execute("ROLLBACK PREPARED 'p'").unwrap();
    assert!(has_token(redis, "t:1"));
    eventually(SOON, "gone with the next worker", || {
        client.batch_execute("SELECT redis_wake()").unwrap();
        !has_token(redis, "t:1")
    });
    client.batch_execute("INSERT INTO t VALUES (1, 'b')").unwrap();
    assert!(get(redis, "t:1").is_some_and(|row| row.contains("\"b\"")));
}
