//! The worker: whatever happens to either side, the database is registered again within moments,
//! with a generation that nobody had before, and nothing that it waits for hangs anybody else.

use std::collections::BTreeSet;
use std::time::Duration;

use pg_cache_e2e::outcome::{sqlstate, words};
use pg_cache_e2e::registry::{WORKERS, count, generation, made, repair, table_key};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::{Pair, Postgres, Redis, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_new_database_registers_itself() {
    // Danger: an extension that needs a call that nobody makes before it caches anything.
    let scene = Scene::new();
    let mut client = scene.connect();
    eventually(SOON, "registered", || generation(&mut client).is_some());
    let registered = repair(&mut client);
    assert_eq!(made(&scene.redis, &mut client), registered);
    let base = scene.redis.cli(&["HGET", &table_key(&mut client), "B"]);
    let next: String = client
        .query_one("SELECT pg_snapshot_xmax(pg_current_snapshot())::text", &[])
        .unwrap()
        .get(0);
    assert!(base.parse::<u64>().unwrap() < next.parse().unwrap(), "{base} was committed");
}

#[test]
fn the_worker_is_seen_and_goes_when_it_is_idle() {
    // Danger: a process that nobody can name, or one for each database for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("SELECT redis_wake()").unwrap();
    eventually(SOON, "it runs", || count(&mut client, WORKERS) == 1);
    repair(&mut client);
    eventually(SOON, "it is gone", || count(&mut client, WORKERS) == 0);
    let log = scene.postgres().log();
    let name = format!("@{} ", scene.database());
    let errors: Vec<_> =
        log.lines().filter(|line| line.contains(&name) && line.contains("ERROR")).collect();
    assert_eq!(errors, Vec::<&str>::new());
}

#[test]
fn a_redis_that_comes_later_is_found() {
    // Danger: installed before Redis was started, uncached for ever.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.stop();
    client.batch_execute("DROP EXTENSION pg_cache; CREATE EXTENSION pg_cache").unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    let error = client.batch_execute("SELECT * FROM redis_repair()").unwrap_err();
    assert_eq!(sqlstate(&error), "08001", "{}", words(&error));
    cached(&mut client, "k", "SELECT v FROM t").unwrap();
    assert_eq!(generation(&mut client), None);
    eventually(SOON, "the worker gives up", || count(&mut client, WORKERS) == 0);
    scene.redis.start_again();
    eventually(SOON, "a reader's call starts the worker again", || {
        cached(&mut client, "k", "SELECT v FROM t").unwrap();
        generation(&mut client).is_some()
    });
    repair(&mut client);
}

#[test]
fn whatever_redis_loses_makes_a_new_generation() {
    // Danger: versions begin anew under a generation whose entries hold the old ones.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    let key = table_key(&mut client);
    let mut seen = BTreeSet::from([repair(&mut client)]);
    scene.redis.cli(&["DEL", &key]);
    assert!(seen.insert(repair(&mut client)), "the table was deleted");
    scene.redis.cli(&["FLUSHALL"]);
    assert!(seen.insert(repair(&mut client)), "FLUSHALL");
    scene.redis.cli(&["HDEL", &key, "R"]);
    assert!(seen.insert(repair(&mut client)), "its generation was deleted");
    scene.redis.cli(&["HSET", &key, "R", "00000000000000000000000000000000"]);
    assert!(seen.insert(repair(&mut client)), "it is another's");
    scene.redis.stop();
    scene.redis.start_again();
    assert!(seen.insert(repair(&mut client)), "Redis was restarted empty");
    assert_eq!(repair(&mut client), made(&scene.redis, &mut client));
    assert!(!seen.insert(repair(&mut client)), "nothing happened, and it stays");
}

#[test]
fn the_server_is_another_if_its_history_is() {
    // Danger: a replica that was promoted, or a failover back, serves lists that miss writers.
    let scene = Scene::new();
    let mut client = scene.connect();
    let before = repair(&mut client);
    let replid = || {
        let info = scene.redis.cli(&["INFO", "replication"]);
        info.lines().find(|line| line.starts_with("master_replid:")).unwrap().to_owned()
    };
    let old = replid();
    // A master that becomes somebody's replica and then a master again has another history.
    scene.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = client.batch_execute("SELECT * FROM redis_repair()").unwrap_err();
    assert_eq!(sqlstate(&error), "25006", "a replica must not be registered: {}", words(&error));
    assert_eq!(generation(&mut client).as_deref(), Some(before.as_str()));
    scene.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    assert_ne!(replid(), old, "the test means nothing otherwise");
    assert_ne!(repair(&mut client), before);
}

#[test]
fn each_start_of_postgresql_makes_a_new_generation() {
    // Danger: after a crash, ids are handed out twice and commits that entries show are lost.
    let mut pair = Pair::start_with(&[("max_worker_processes", "16")], &[]);
    let mut seen = BTreeSet::from([repair(&mut pair.postgres.connect())]);
    pair.postgres.restart();
    assert!(seen.insert(repair(&mut pair.postgres.connect())), "stopped and started");
    pair.postgres.crash();
    pair.postgres.start_again();
    assert!(seen.insert(repair(&mut pair.postgres.connect())), "crashed");
    let url = pair.redis.url();
    let copy = pair.postgres.copy(&[("pg_cache.url", &url)]);
    let mut original = pair.postgres.connect();
    assert!(seen.insert(repair(&mut original)), "stopped for a copy");
    assert!(seen.insert(repair(&mut copy.connect())), "a copy of the files");
}

#[test]
fn a_new_extension_and_a_copied_database_begin_anew() {
    // Danger: entries of an extension that was dropped, or of the database that was the template.
    let scene = Scene::new();
    let mut client = scene.connect();
    let first = repair(&mut client);
    client.batch_execute("DROP EXTENSION pg_cache").unwrap();
    client.batch_execute("CREATE EXTENSION pg_cache").unwrap();
    let second = repair(&mut client);
    assert_ne!(first, second);
    drop(client);
    let copy = format!("{}_copy", scene.database());
    let sql = format!("CREATE DATABASE {copy} TEMPLATE {}", scene.database());
    let mut admin = scene.postgres().connect();
    admin.batch_execute(&sql).expect("the worker does not hold up CREATE DATABASE … TEMPLATE");
    scene.prepare_database(&copy);
    let mut other = scene.connect_to("postgres", &copy);
    assert_eq!(generation(&mut other).as_ref(), Some(&second), "a copy of the row");
    assert_ne!(repair(&mut other), second);
    let mut client = scene.connect();
    assert_eq!(repair(&mut client), second, "the first is as it was");
}

#[test]
fn a_database_can_be_dropped_right_after_use() {
    // Danger: DROP DATABASE fails because of a process that nobody connected.
    let scene = Scene::new();
    let name = format!("{}_gone", scene.database());
    scene.create_database(&name);
    let mut client = scene.connect_to("postgres", &name);
    repair(&mut client);
    client.batch_execute("SELECT redis_wake()").unwrap();
    drop(client);
    scene.postgres().connect().batch_execute(&format!("DROP DATABASE {name}")).unwrap();
}

#[test]
fn the_worker_waits_for_those_who_have_yet_to_send_their_messages() {
    // Danger: a schema change is visible, its messages are not sent, and a generation is made whose
    // lists do not name it: readers trust caches that lack the change.
    let pair = Pair::start_with(&[("max_worker_processes", "16")], &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let mut writer = pair.postgres.connect();
    client.batch_execute("CREATE VIEW v AS SELECT 1 AS a").unwrap();
    let ended = std::thread::spawn(move || {
        let slowly = "SET pg_cache.fault_point = 'commit.ended:sleep_3000'";
        writer.batch_execute(slowly).unwrap();
        writer.batch_execute("CREATE OR REPLACE VIEW v AS SELECT 2 AS a").unwrap();
    });
    let ending = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock'
                  AND relation = 'redis_server'::regclass AND virtualtransaction LIKE '%/0'";
    eventually(SOON, "it is visible", || count(&mut client, ending) == 1);
    pair.redis.cli(&["FLUSHALL"]);
    client.batch_execute("SELECT redis_wake()").unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cache worker'
                   AND query LIKE 'waiting for % transactions that end'";
    eventually(SOON, "it waits for the messages", || count(&mut client, waiting) == 1);
    assert_eq!(made(&pair.redis, &mut client), "", "not made before they are sent");
    ended.join().unwrap();
    let registered = repair(&mut client);
    assert_eq!(made(&pair.redis, &mut client), registered);
}

#[test]
fn the_worker_waits_for_writers_but_not_for_prepared_ones() {
    // Danger: a writer that read the old generation commits after the new one's base; or one that
    // was prepared and forgotten keeps the cache off for ever.
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let mut writer = pair.postgres.connect();
    // What a commit does, before it sends anything to Redis.
    let lock = "BEGIN; LOCK TABLE redis_server IN ROW EXCLUSIVE MODE";
    writer.batch_execute(lock).unwrap();
    writer.batch_execute("CREATE TABLE w (v int)").unwrap();
    pair.redis.cli(&["FLUSHALL"]);
    client.batch_execute("SELECT redis_wake()").unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cache worker'
                   AND query LIKE 'waiting for % transactions that write'";
    eventually(SOON, "it waits for the writer", || count(&mut client, waiting) == 1);
    assert_eq!(made(&pair.redis, &mut client), "", "not made as long as the writer runs");
    writer.batch_execute("PREPARE TRANSACTION 'forgotten'").unwrap();
    let registered = repair(&mut client);
    assert_eq!(made(&pair.redis, &mut client), registered);
    pair.redis.cli(&["FLUSHALL"]);
    assert_ne!(repair(&mut client), registered, "also if it was prepared before");
    client.batch_execute("COMMIT PREPARED 'forgotten'").unwrap();
}

#[test]
fn a_table_that_was_lost_while_it_was_made_is_not_used() {
    // Danger: bumps that were lost with the stub are missing from a table that passes for whole.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    eventually(SOON, "the worker is gone", || count(&mut client, WORKERS) == 0);
    scene.set_faults("worker.claimed:sleep_1500");
    let key = table_key(&mut client);
    scene.redis.cli(&["FLUSHALL"]);
    client.batch_execute("SELECT redis_wake()").unwrap();
    eventually(SOON, "claimed", || scene.redis.cli(&["HEXISTS", &key, "claim"]) == "1");
    let doomed = generation(&mut client).unwrap();
    scene.redis.cli(&["DEL", &key]);
    scene.set_faults("");
    eventually(SOON, "another one is made", || {
        let made = made(&scene.redis, &mut client);
        assert_ne!(made, doomed, "its claim was lost");
        !made.is_empty()
    });
    assert_ne!(repair(&mut client), doomed);
}

#[test]
fn who_cannot_tell_the_worker_owes() {
    // Danger: a writer that the worker did not wait for and that no debt tells of commits unseen.
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let mut pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let debts = "SELECT count(*) FROM redis_debt";
    client.batch_execute("CREATE TABLE t (v int)").unwrap();
    let mut writer = pair.postgres.connect();
    // As VACUUM FULL does: neither to be locked nor to be read.
    let mut vacuum = pair.postgres.connect();
    vacuum.batch_execute("BEGIN; LOCK TABLE redis_server IN ACCESS EXCLUSIVE MODE").unwrap();
    writer.batch_execute("SELECT redis_touch('price')").unwrap();
    assert_eq!(count(&mut client, debts), 1, "the tag is owed");
    vacuum.batch_execute("COMMIT").unwrap();
    repair(&mut client);
    assert_eq!(count(&mut client, debts), 0);
    // The worker does not wait for a prepared transaction either, in whatever state it registers.
    pair.redis.stop();
    client.batch_execute("SELECT redis_register()").unwrap();
    writer.batch_execute("BEGIN; SELECT redis_touch('price'); PREPARE TRANSACTION 'p'").unwrap();
    assert_eq!(count(&mut client, debts), 0);
    writer.batch_execute("COMMIT PREPARED 'p'").unwrap();
    assert_eq!(count(&mut client, debts), 1, "the tag is owed");
    pair.redis.start_again();
    repair(&mut client);
    assert_eq!(count(&mut client, debts), 0);
}

#[test]
fn a_waiting_worker_can_be_terminated() {
    // Danger: a shutdown that hangs on the worker.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let mut writer = scene.connect();
    writer.batch_execute("BEGIN; LOCK TABLE redis_server IN ROW EXCLUSIVE MODE").unwrap();
    scene.redis.cli(&["FLUSHALL"]);
    client.batch_execute("SELECT redis_wake()").unwrap();
    eventually(SOON, "it runs", || count(&mut client, WORKERS) == 1);
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE backend_type = 'pg_cache worker' AND datname = current_database()";
    count(&mut client, terminate);
    eventually(Duration::from_secs(2), "it is gone", || count(&mut client, WORKERS) == 0);
}

#[test]
fn a_repair_refuses_to_wait_for_itself() {
    // Danger: the worker waits for the caller, and the caller for the worker.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("BEGIN; CREATE TABLE t (v int)").unwrap();
    let error = client.batch_execute("SELECT * FROM redis_repair()").unwrap_err();
    assert_eq!(sqlstate(&error), "25001", "{}", words(&error));
    client.batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    scene.redis.cli(&["FLUSHALL"]);
    client.batch_execute("SELECT * FROM redis_repair(); COMMIT").unwrap();
}

#[test]
fn no_worker_slot_is_told() {
    // Danger: nothing is ever cached and nobody says why.
    let redis = Redis::start();
    let conf = [("max_worker_processes", "0"), ("pg_cache.url", &redis.url())];
    let postgres = Postgres::start_with(&conf);
    let mut client = postgres.connect();
    let error = client.batch_execute("SELECT * FROM redis_repair()").unwrap_err();
    assert_eq!(sqlstate(&error), "53400", "{}", words(&error));
    let sql = "SELECT ok FROM redis_health() WHERE \"check\" = 'worker'";
    assert!(!client.query_one(sql, &[]).unwrap().get::<_, bool>(0));
}

#[test]
fn register_changes_the_mapping_and_the_generation() {
    // Danger: old entries under a new mapping, or a prefix that reaches into our own names.
    let scene = Scene::new();
    let mut client = scene.connect();
    let before = repair(&mut client);
    client.batch_execute("SELECT redis_register('app:', 1000)").unwrap();
    let after = repair(&mut client);
    assert_ne!(before, after);
    let row = client.query_one("SELECT key_prefix, buckets FROM redis_server", &[]).unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("app:", 1000));
    client.batch_execute("SELECT redis_register(buckets => 50)").unwrap();
    assert_ne!(repair(&mut client), after);
    let row = client.query_one("SELECT key_prefix, buckets FROM redis_server", &[]).unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("app:", 50));
    for (call, expected) in [
        ("redis_register('pgc:x')", "42939"),
        ("redis_register('pg')", "42939"),
        ("redis_register(repeat('x', 200))", "54000"),
        ("redis_register(buckets => 0)", "22023"),
        ("redis_register(buckets => 2000000)", "22023"),
    ] {
        let error = client.batch_execute(&format!("SELECT {call}")).unwrap_err();
        assert_eq!(sqlstate(&error), expected, "{call}");
    }
    let role = scene.create_role("nobody");
    let error = scene.connect_as(&role).batch_execute("SELECT redis_register()").unwrap_err();
    assert_eq!(sqlstate(&error), "42501");
}

#[test]
fn health_names_what_switches_caching_off() {
    // Danger: nothing is cached, and everything is said to be well.
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let mut pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let ill = |client: &mut Client| -> Vec<String> {
        let sql = "SELECT \"check\" FROM redis_health() WHERE NOT ok ORDER BY 1";
        client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(ill(&mut client), Vec::<String>::new());
    let track = "CREATE TABLE t (v int); SELECT redis_track('t'); CREATE TABLE untracked (v int)";
    client.batch_execute(track).unwrap();
    let prepare = |client: &mut Client, table: &str| {
        let sql = format!("BEGIN; INSERT INTO {table} VALUES (1); PREPARE TRANSACTION '{table}'");
        client.batch_execute(&sql).unwrap();
    };
    let prepared = |client: &mut Client| -> String {
        let sql = "SELECT detail FROM redis_health() WHERE \"check\" = 'prepared transactions'";
        client.query_one(sql, &[]).unwrap().get(0)
    };
    prepare(&mut client, "untracked");
    assert_eq!(ill(&mut client), Vec::<String>::new());
    assert_eq!(prepared(&mut client), "none");
    prepare(&mut client, "t");
    repair(&mut client);
    assert_eq!(ill(&mut client), ["prepared transactions"]);
    assert_eq!(prepared(&mut client), "what they changed is computed until they end: t");
    client.batch_execute("ROLLBACK PREPARED 't'").unwrap();
    client.batch_execute("ROLLBACK PREPARED 'untracked'").unwrap();
    repair(&mut client);
    assert_eq!(ill(&mut client), Vec::<String>::new());
    // What it does to a trigger that was ALWAYS: it is an ordinary one now.
    client.batch_execute("ALTER TABLE t ENABLE TRIGGER USER").unwrap();
    assert_eq!(ill(&mut client), ["triggers"]);
    client.batch_execute("DROP TABLE t; ALTER EVENT TRIGGER pg_cache_sql_drop DISABLE").unwrap();
    assert_eq!(ill(&mut client), ["event triggers"]);
    client.batch_execute("ALTER EVENT TRIGGER pg_cache_sql_drop ENABLE ALWAYS").unwrap();
    // Nobody settles anything from here on.
    client.batch_execute("BEGIN; LOCK TABLE redis_server IN ROW EXCLUSIVE MODE").unwrap();
    pair.redis.cli(&["FLUSHALL"]);
    assert_eq!(ill(&mut client), ["tag table"]);
    client.batch_execute("COMMIT").unwrap();
    repair(&mut client);
    pair.redis.stop();
    client.batch_execute("INSERT INTO redis_debt VALUES (5, '700', 'k')").unwrap();
    assert_eq!(ill(&mut client), ["breaker", "connection", "debts"]);
    pair.redis.start_again();
    repair(&mut client);
    client.batch_execute("UPDATE redis_server SET timeline = 99").unwrap();
    assert!(ill(&mut client).contains(&"registration".to_owned()));
    repair(&mut client);
    drop(client);
    pair.postgres.restart();
    let mut client = pair.postgres.connect();
    assert!(ill(&mut client).contains(&"registration".to_owned()), "not alive after a restart");
}
