//! Events of prepared transactions, whose end may be far away and in nobody's hands.

use std::time::Duration;

use pg_cache_e2e::events::told;
use pg_cache_e2e::outbox::rows;
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::{Pair, eventually};
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
