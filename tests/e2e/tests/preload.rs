//! Preloaded with the server: a launcher starts the workers, and all backends share counters and
//! breaker. Nothing of that may stop the server, or keep a database from being dropped.

use std::time::Duration;

use pg_cache_e2e::cached;
use pg_cache_e2e::counters::{Counters, counted};
use pg_cache_e2e::registry::{WORKERS, count, generation, made, repair};
use pg_cache_testbed::{Pair, Postgres, eventually};
use postgres::Client;

pub const SOON: Duration = Duration::from_secs(20);

pub const QUERY: &str = "SELECT v FROM t";

const LAUNCHERS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'pg_cache launcher' AND datid IS NULL";

/// A server with the library preloaded, and its Redis, which has the tag table too.
pub fn preloaded() -> Pair {
    let conf = [
        ("shared_preload_libraries", "pg_cache"),
        ("pg_cache.tag_table", "redis"),
        ("max_worker_processes", "16"),
        ("autovacuum", "off"),
    ];
    Pair::start_with(&conf, &[])
}

fn process(client: &mut Client) -> i64 {
    count(client, "SELECT pg_backend_pid()::bigint")
}

#[test]
fn a_restarted_server_is_registered_before_anybody_reads() {
    // Danger: after each restart the first readers compute, and nobody on a standby ever wakes it.
    let mut pair = preloaded();
    let before = repair(&mut pair.postgres.connect());
    pair.postgres.restart();
    let mut client = pair.postgres.connect();
    eventually(SOON, "a new generation, by itself", || {
        generation(&mut client)
            .is_some_and(|now| now != before && made(&pair.redis, &mut client) == now)
    });
    assert_eq!(count(&mut client, LAUNCHERS), 1, "it shows, and is in no database");
    eventually(SOON, "its worker leaves", || count(&mut client, WORKERS) == 0);
    let log = pair.postgres.log();
    let errors: Vec<&str> =
        log.lines().filter(|line| line.contains("ERROR") || line.contains("PANIC")).collect();
    assert_eq!(errors, Vec::<&str>::new());
}

#[test]
fn a_promoted_standby_is_registered_before_anybody_reads() {
    // Danger: the launcher writes on a standby; or the new primary waits for its first reader.
    let pair = preloaded();
    pair.postgres.register("test");
    let standby = pair.postgres.standby(&[]);
    let mut client = standby.connect();
    assert_eq!(count(&mut client, LAUNCHERS), 0, "it has nothing to do on a standby");
    let before = generation(&mut client);
    standby.promote();
    eventually(SOON, "a new generation, by itself", || {
        let now = generation(&mut client);
        now != before && now == Some(made(&pair.redis, &mut client))
    });
    assert_eq!(count(&mut client, LAUNCHERS), 1);
}

#[test]
fn many_databases_with_few_slots_are_all_registered() {
    // Danger: the launcher takes all slots, or those that came first keep the others out.
    let conf = [("shared_preload_libraries", "pg_cache"), ("max_worker_processes", "4")];
    let mut pair = Pair::start_with(&conf, &[]);
    let names: Vec<String> = (0..12).map(|number| format!("many_{number}")).collect();
    let mut admin = pair.postgres.connect();
    for name in &names {
        admin.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        pair.postgres.create_extension(name);
    }
    drop(admin);
    pair.postgres.restart();
    let mut clients: Vec<Client> =
        names.iter().map(|name| pair.postgres.connect_as("postgres", name)).collect();
    let alive = "SELECT count(*) FROM redis_alive WHERE started_at = pg_postmaster_start_time()";
    eventually(Duration::from_secs(60), "all of them, by themselves", || {
        clients.iter_mut().all(|client| count(client, alive) == 1)
    });
}

#[test]
fn an_extension_that_is_committed_late_is_found() {
    // Danger: CREATE EXTENSION in a migration that runs for minutes: the worker has left by then.
    let pair = preloaded();
    pair.postgres.connect().batch_execute("CREATE DATABASE late").unwrap();
    let mut client = pair.postgres.connect_as("postgres", "late");
    client.batch_execute("BEGIN; CREATE EXTENSION pg_cache").unwrap();
    let mut other = pair.postgres.connect();
    let workers = "SELECT count(*) FROM pg_stat_activity
                   WHERE backend_type = 'pg_cache worker' AND datname = 'late'";
    eventually(SOON, "the worker waits for it", || count(&mut other, workers) == 1);
    eventually(SOON, "the worker has left", || count(&mut other, workers) == 0);
    client.batch_execute("COMMIT").unwrap();
    eventually(Duration::from_secs(75), "registered without a reader", || {
        generation(&mut client).is_some()
    });
}

#[test]
fn databases_come_and_go_in_front_of_the_launcher() {
    // Danger: DROP DATABASE fails because of a process that nobody connected.
    let pair = preloaded();
    let mut admin = pair.postgres.connect();
    for round in 0..5 {
        admin.batch_execute("CREATE DATABASE fleeting").unwrap();
        pair.postgres.create_extension("fleeting");
        if round % 2 == 0 {
            let mut client = pair.postgres.connect_as("postgres", "fleeting");
            eventually(SOON, "registered", || generation(&mut client).is_some());
            client.batch_execute("DROP EXTENSION pg_cache").unwrap();
        }
        admin.batch_execute("DROP DATABASE fleeting").unwrap();
    }
    assert_eq!(count(&mut admin, LAUNCHERS), 1);
}

#[test]
fn workers_that_fail_do_not_restart_the_server() {
    // Danger: a defect in the worker becomes a server that restarts every few seconds.
    for fault in ["worker.claimed:panic", "worker.claimed:error", "worker.claimed:exit"] {
        let pair = preloaded();
        let mut client = pair.postgres.connect();
        repair(&mut client);
        let session = process(&mut client);
        let set = format!("ALTER DATABASE test SET pg_cache.fault_point = '{fault}'");
        client.batch_execute(&set).unwrap();
        eventually(SOON, "the last worker leaves", || count(&mut client, WORKERS) == 0);
        let before = pair.postgres.log().len();
        pair.redis.cli(&["FLUSHALL"]);
        let registered = generation(&mut client);
        eventually(SOON, "a worker fails", || {
            client.batch_execute("SELECT redis_wake()").unwrap();
            generation(&mut client) != registered
        });
        eventually(SOON, "and is gone", || count(&mut client, WORKERS) == 0);
        client.batch_execute("ALTER DATABASE test RESET pg_cache.fault_point").unwrap();
        repair(&mut client);
        assert_eq!(process(&mut client), session, "{fault}");
        let log = pair.postgres.log();
        assert!(!log[before..].contains("terminating any other active"), "{fault}: {log}");
    }
}

#[test]
fn a_crash_begins_all_of_it_anew() {
    // Danger: after a crash the backends share a memory that is no more, or that a dead one left
    // in the middle of something.
    let pair = preloaded();
    let mut client = pair.postgres.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    let ((), counted) = counted(&mut client, |c| {
        for _ in 0..3 {
            cached(c, "k:1", QUERY).unwrap();
        }
    });
    assert_eq!((counted.hits, counted.misses), (2, 1));
    let before = repair(&mut client);
    let pid = process(&mut client);
    pair.postgres.kill(u32::try_from(pid).unwrap());
    drop(client);
    let conninfo = pair.postgres.conninfo("test");
    let mut client = None;
    eventually(SOON, "it is back", || {
        client = Client::connect(&conninfo, postgres::NoTls).ok();
        // A connection from before the crash may still answer, or end in the middle.
        let launchers = client.as_mut().map(|client| client.query_one(LAUNCHERS, &[]));
        launchers.is_some_and(|row| row.is_ok_and(|row| row.get::<_, i64>(0) == 1))
    });
    let mut client = client.unwrap();
    assert_eq!(Counters::of(&mut client), Counters::default(), "counters are not kept");
    eventually(SOON, "registered by itself", || {
        generation(&mut client).is_some_and(|now| now != before)
    });
    repair(&mut client);
    cached(&mut client, "k:1", QUERY).unwrap();
    cached(&mut client, "k:1", QUERY).unwrap();
    assert_eq!(Counters::of(&mut client).hits, 1);
}

#[test]
fn the_postmaster_holds_nothing_that_children_would_share() {
    // Danger: a socket or a thread of the postmaster: its children answer each other's questions.
    let plain = Postgres::start();
    let pair = preloaded();
    let facts = |pid: u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let links = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:")).count();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        (sockets, threads)
    };
    assert_eq!(facts(pair.postgres.pid()), facts(plain.pid()));
    assert_eq!(facts(plain.pid()).1, 1);
}
