//! What the launcher does that nobody else would: a worker comes to a database in which something
//! waits, though nobody's commit, reading or call started one. And no defect of a worker harms the
//! server.

use std::time::Duration;

use pg_cache_e2e::events::told;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::fake::{FakeRedis, Reply};
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

use crate::preload::SOON;

const BACKEND: &str = "SELECT pg_backend_pid()::bigint";

const LAUNCHER_PID: &str = "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_activity
    WHERE backend_type = 'pg_cache launcher'";

const DEBTS: &str = "SELECT count(*) FROM redis_debt";

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text);
     CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
         EXECUTE FUNCTION redis_stream('t', 'durable')";

/// A server with the library preloaded, without a worker.
fn at_rest() -> (Pair, Client) {
    let conf = [
        ("shared_preload_libraries", "pg_cache"),
        ("max_worker_processes", "16"),
        ("max_prepared_transactions", "5"),
        ("autovacuum", "off"),
    ];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    eventually(SOON, "the worker leaves", || count(&mut client, WORKERS) == 0);
    (pair, client)
}

/// An event and a debt of which no worker hears.
fn leave(client: &mut Client, event: &str) {
    let mut transaction = client.transaction().unwrap();
    put(&mut transaction, &[append("s", event)]);
    transaction.batch_execute("INSERT INTO redis_debt VALUES (5, '700', NULL)").unwrap();
    transaction.commit().unwrap();
}

#[track_caller]
fn is_seen_to(client: &mut Client, within: Duration) {
    eventually(within, "sent and paid without anybody's doing", || {
        rows(client) == 0 && count(client, DEBTS) == 0
    });
}

#[test]
fn a_launcher_that_ends_comes_back_and_the_server_stays() {
    // Danger: the end of a helper restarts the server, and every session is lost; or the next one
    // does not look for what was left in the meantime.
    let (pair, mut client) = at_rest();
    let session = count(&mut client, BACKEND);
    let before = count(&mut client, LAUNCHER_PID);
    assert_ne!(before, 0);
    // Its settings are read anew: not in the signal handler, which would end it now and then.
    for _ in 0..20 {
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(count(&mut client, LAUNCHER_PID), before, "no reload ends it");
    leave(&mut client, "0");
    client.batch_execute(&format!("SELECT pg_terminate_backend({before})")).unwrap();
    // The postmaster starts another one after ten seconds.
    is_seen_to(&mut client, SOON);
    assert_eq!(events(&pair.redis, "s"), ["0"]);
    let now = count(&mut client, LAUNCHER_PID);
    assert!(now != 0 && now != before, "another one runs");
    assert_eq!(count(&mut client, BACKEND), session, "this session saw nothing of it");
}

#[test]
fn a_visit_to_a_database_whose_redis_is_away_ends_after_a_second_try() {
    // Danger: where Redis is away from many databases, each keeps one of the few visits for two
    // seconds, and those that could be helped wait behind them.
    let (mut pair, client) = at_rest();
    let fake = FakeRedis::start(|_| Reply::Close);
    drop(client);
    let away = format!("ALTER DATABASE test SET pg_cache.url = '{}'", fake.url());
    pair.postgres.connect().batch_execute(&away).unwrap();
    pair.postgres.restart();
    let mut client = pair.postgres.connect();
    eventually(SOON, "it has tried twice", || fake.connections() >= 2);
    eventually(SOON, "it leaves", || count(&mut client, WORKERS) == 0);
    assert_eq!(fake.connections(), 2);
}

#[test]
fn after_a_crash_what_waits_and_what_was_prepared_is_sent() {
    // Danger: everybody who knew of an event is gone, and whoever commits what another session
    // prepared wakes nobody.
    let (mut pair, mut client) = at_rest();
    client.batch_execute(TABLE).unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1, 'a'); PREPARE TRANSACTION 'p'").unwrap();
    leave(&mut client, "0");
    drop(client);
    pair.postgres.stop_now();
    pair.postgres.start_again();
    let mut client = pair.postgres.connect();
    eventually(SOON, "sent without anybody's doing", || events(&pair.redis, "s") == ["0"]);
    assert_eq!(told(&pair.redis, "t", "v"), [""; 0], "it may still be rolled back");
    pair.postgres.connect().batch_execute("COMMIT PREPARED 'p'").unwrap();
    is_seen_to(&mut client, SOON);
    assert_eq!(told(&pair.redis, "t", "v"), ["a"]);
}

#[test]
#[ignore = "waits for a minute; run it by name"]
fn a_new_extension_is_looked_after_within_a_minute() {
    // Danger: the launcher looked before CREATE EXTENSION was committed, and comes again after ten
    // minutes; and the worker that the commit starts, of all, finds no way in.
    let (pair, mut other) = at_rest();
    other.batch_execute("CREATE DATABASE late TEMPLATE template0").unwrap();
    let slow = "ALTER DATABASE late SET pg_cache.fault_point = 'worker.looked:sleep_300'";
    other.batch_execute(slow).unwrap();
    let workers = WORKERS.replace("current_database()", "'late'");
    let mut finds_nothing = |whose: &str| {
        eventually(SOON, whose, || count(&mut other, &workers) == 1);
        eventually(SOON, "it leaves", || count(&mut other, &workers) == 0);
    };
    finds_nothing("the launcher's worker");
    let mut client = pair.postgres.connect_as("postgres", "late");
    client.batch_execute("BEGIN; CREATE EXTENSION pg_cache").unwrap();
    finds_nothing("its own worker");
    other.batch_execute("ALTER DATABASE late ALLOW_CONNECTIONS false").unwrap();
    client.batch_execute("COMMIT").unwrap();
    let refused = "\"late\" is not currently accepting connections";
    eventually(SOON, "the next one cannot", || pair.postgres.log().contains(refused));
    other.batch_execute("ALTER DATABASE late ALLOW_CONNECTIONS true").unwrap();
    leave(&mut client, "0");
    is_seen_to(&mut client, Duration::from_secs(80));
    assert_eq!(events(&pair.redis, "s"), ["0"]);
}

#[test]
fn a_relay_that_fails_again_and_again_harms_nobody() {
    // Danger: a defect while it sends, or before it commits what it sent: the server restarts every
    // few seconds, or events are doubled by each attempt.
    let (pair, mut client) = at_rest();
    let session = count(&mut client, BACKEND);
    let before = pair.postgres.log().len();
    let mut wanted = Vec::new();
    for fault in ["relay.sent:panic", "relay.deleted:panic"] {
        let set = format!("ALTER DATABASE test SET pg_cache.fault_point = '{fault}'");
        client.batch_execute(&set).unwrap();
        eventually(SOON, "no worker is left from before", || count(&mut client, WORKERS) == 0);
        let began = pair.postgres.log().len();
        for n in 0..3 {
            wanted.push(format!("{fault} {n}"));
            put(&mut client, &[append("s", &wanted[wanted.len() - 1])]);
        }
        let (point, _) = fault.split_once(':').unwrap();
        let said = format!("fault point {point}");
        eventually(SOON, "it fails again and again", || {
            wake(&mut client);
            pair.postgres.log()[began..].matches(&said).count() >= 3
        });
        assert!(rows(&mut client) >= 3, "nothing is taken for done");
        client.batch_execute("ALTER DATABASE test RESET pg_cache.fault_point").unwrap();
        eventually(SOON, "it is sent by the next one", || {
            wake(&mut client);
            rows(&mut client) == 0
        });
        assert_eq!(events(&pair.redis, "s"), wanted, "{fault}: each once, in order");
    }
    assert_eq!(count(&mut client, BACKEND), session);
    let log = pair.postgres.log();
    assert!(!log[before..].contains("terminating any other active"), "{log}");
}
