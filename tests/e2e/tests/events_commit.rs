//! What a commit with events waits for, and who waits for it: one round trip, no lock of its own
//! any more, and of a Redis that is away only what the breaker leaves.

use std::time::{Duration, Instant};

use pg_cache_e2e::Scene;
use pg_cache_e2e::events::{get, told};
use pg_cache_e2e::guarded::assert_needed;
use pg_cache_e2e::registry::{count, repair};
use pg_cache_testbed::{Pair, Postgres, Proxy, Redis, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const SESSIONS: usize = 50;

/// A table whose rows go to the stream `s` and under `t:{id}`.
fn sending(client: &mut Client) {
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             CREATE TRIGGER a AFTER INSERT OR UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('s');
             CREATE TRIGGER b AFTER INSERT OR UPDATE ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_store('t:{id}')",
        )
        .unwrap();
    repair(client);
}

#[test]
fn a_commit_holds_no_lock_while_it_sends() {
    // Danger: whoever wants what a transaction had locked waits for Redis behind its commit.
    let scene = Scene::new();
    let mut client = scene.connect();
    sending(&mut client);
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    let mut late = scene.connect();
    late.batch_execute("SET pg_cache.fault_point = 'events.send:sleep_1500'").unwrap();
    let sending = std::thread::spawn(move || {
        // Not the row's lock alone: once the commit is visible nobody waits for that.
        late.batch_execute(
            "BEGIN; LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE; SELECT pg_advisory_xact_lock(7);
             UPDATE t SET v = 'b'; COMMIT",
        )
        .unwrap();
    });
    eventually(SOON, "it has committed", || {
        count(&mut client, "SELECT count(*) FROM t WHERE v = 'b'") == 1
    });
    client
        .batch_execute(
            "SET lock_timeout = '300ms';
             BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE; SELECT pg_advisory_xact_lock(7);
             UPDATE t SET v = 'c'; COMMIT",
        )
        .expect("no lock is held any more");
    assert_eq!(told(&scene.redis, "s", "v"), ["a", "c"], "it has not sent yet");
    sending.join().unwrap();
    assert_eq!(told(&scene.redis, "s", "v"), ["a", "c", "b"]);
    assert_eq!(get(&scene.redis, "t:1").as_deref(), Some(r#"{"id":1,"v":"c"}"#));
}

#[test]
fn many_events_wait_for_one_round_trip() {
    // Danger: each event waits for the answer to the one before, and a commit takes as many round
    // trips as it has events.
    let scene = Scene::alone();
    let mut client = scene.connect();
    sending(&mut client);
    let far = Proxy::unix(scene.redis.socket());
    let url = format!("unix://{}", far.path().display());
    client
        .batch_execute(&format!(
            "DROP TRIGGER b ON t; SET pg_cache.commit_timeout_ms = 60000;
             SET pg_cache.timeout_ms = 10000; SET pg_cache.url = '{url}';
             INSERT INTO t VALUES (1)"
        ))
        .unwrap();
    // Each piece that passes, there or back, comes late by 20 ms or so.
    far.disturb(fastrand::u64(..), 0, 10_000, 40);
    let started = Instant::now();
    client.batch_execute("INSERT INTO t SELECT generate_series(2, 99)").unwrap();
    let took = started.elapsed();
    println!("{took:?}");
    // Some pieces of 16 kB. One by one it would be four seconds.
    assert!(took < Duration::from_millis(1200), "{took:?}");
    let wanted: Vec<String> = (1..100).map(|id| id.to_string()).collect();
    assert_eq!(told(&scene.redis, "s", "id"), wanted);
}

/// One INSERT of each session in the same moment: how long each took.
fn insert_at_once(sessions: &mut [Client], from: usize) -> Vec<Duration> {
    std::thread::scope(|scope| {
        let insert = |(place, session): (usize, &mut Client)| {
            let sql = format!("INSERT INTO t VALUES ({})", from + place);
            let started = Instant::now();
            session.batch_execute(&sql).unwrap();
            started.elapsed()
        };
        let start = |one| scope.spawn(move || insert(one));
        let threads: Vec<_> = sessions.iter_mut().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn few_of_many_commits_wait_for_a_redis_that_hangs() {
    // Danger: fifty backends send their events in-line, and each waits out a dead Redis, again at
    // every commit.
    const TIMEOUT: Duration = Duration::from_millis(400);
    let _alone = Scene::alone();
    let conf = [
        ("shared_preload_libraries", "pg_cache"),
        ("max_worker_processes", "16"),
        ("autovacuum", "off"),
        ("pg_cache.commit_timeout_ms", "400"),
    ];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    sending(&mut client);
    client.batch_execute("DROP TRIGGER b ON t").unwrap();
    let mut sessions: Vec<Client> = (0..SESSIONS).map(|_| pair.postgres.connect()).collect();
    insert_at_once(&mut sessions, 0);
    pair.redis.freeze();
    let all = (1..4).flat_map(|round| insert_at_once(&mut sessions, round * SESSIONS));
    let all: Vec<Duration> = all.collect();
    pair.redis.thaw();
    let longest = all.iter().max().unwrap();
    let waited = all.iter().filter(|took| **took >= TIMEOUT).count();
    println!("{waited} of {} waited, the longest {longest:?}", all.len());
    assert!(*longest < 4 * TIMEOUT, "{longest:?}");
    // All that knew nothing yet, and then one at a time that tries.
    assert!((1..=SESSIONS + 10).contains(&waited), "{waited} waited");
    let rows = count(&mut client, "SELECT count(*) FROM t");
    assert_eq!(rows, 4 * SESSIONS as i64, "every commit stands");
    let lost = count(&mut client, "SELECT lost FROM redis_stat_commit");
    assert_eq!(lost, 3 * SESSIONS as i64, "and what was lost is counted");
}

/// A server that leaves what is not flushed by a commit in memory for long.
fn flushed_late() -> (Postgres, Redis) {
    let redis = Redis::start();
    let url = redis.url_with_password();
    let conf = [("pg_cache.url", &url[..]), ("wal_writer_delay", "10s")];
    let server = Postgres::start_with(&conf);
    server.register("test");
    (server, redis)
}

#[test]
fn nothing_is_told_of_a_commit_that_a_crash_undoes() {
    // Danger: with synchronous_commit off the event is gone before the commit is on disk, and a
    // crash leaves subscribers and stored keys with a row that never was.
    assert_needed("guard.flushcommit", |fault| {
        let (mut server, redis) = flushed_late();
        let mut client = server.connect();
        sending(&mut client);
        let change = format!(
            "SET synchronous_commit = off; SET pg_cache.fault_point = '{fault}';
             INSERT INTO t VALUES (1, 'a')"
        );
        client.batch_execute(&change).unwrap();
        assert_eq!(told(&redis, "s", "v"), ["a"]);
        server.crash();
        server.start_again();
        count(&mut server.connect(), "SELECT count(*) FROM t") == 0
    });
}

#[test]
fn nor_by_a_transaction_that_has_only_read_it() {
    // Danger: it has no record of its own, so nobody flushes any: who subscribes has heard of a
    // value that never was.
    assert_needed("guard.flushcommit", |fault| {
        let (mut server, redis) = flushed_late();
        let mut writer = server.connect();
        writer.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
        repair(&mut writer);
        let mut reader = server.connect();
        let tell = "SELECT redis_at_commit('SET', 'heard', v::text) FROM t";
        let set = format!("SET pg_cache.fault_point = '{fault}'; {tell}");
        reader.batch_execute(&set).unwrap();
        writer.batch_execute("SET synchronous_commit = off; UPDATE t SET v = 2").unwrap();
        reader.batch_execute(tell).unwrap();
        assert_eq!(get(&redis, "heard").as_deref(), Some("2"));
        server.crash();
        server.start_again();
        count(&mut server.connect(), "SELECT v::bigint FROM t") == 1
    });
}

#[test]
fn a_database_that_was_copied_tells_at_once() {
    // Danger: nobody has registered the copy, and its commits fail or wait until somebody does.
    let scene = Scene::new();
    let mut client = scene.connect();
    sending(&mut client);
    client.batch_execute("DROP TRIGGER b ON t; SELECT redis_register('app:')").unwrap();
    repair(&mut client);
    drop(client);
    let copy = format!("{}_copy", scene.database());
    let sql = format!("CREATE DATABASE {copy} TEMPLATE {}", scene.database());
    scene.postgres().connect().batch_execute(&sql).unwrap();
    scene.prepare_database(&copy);
    let mut client = scene.connect_to("postgres", &copy);
    let started = Instant::now();
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    println!("told in {:?}", started.elapsed());
    assert_eq!(told(&scene.redis, "app:s", "v"), ["a"]);
}
