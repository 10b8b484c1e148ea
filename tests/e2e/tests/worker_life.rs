//! The life of a worker: what makes it stop, what it hears of while it runs, and how seldom it asks
//! a Redis that is away.

use std::time::{Duration, Instant};

use pg_cache_e2e::registry::{WORKERS, count, made, repair};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::fake::{FakeRedis, Reply};
use pg_cache_testbed::{Pair, Redis, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

fn worker_pid(client: &mut Client) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity
               WHERE backend_type = 'pg_cache worker' AND datname = current_database()";
    client.query_opt(sql, &[]).unwrap().map(|row| row.get(0))
}

#[test]
fn drop_extension_ends_the_worker_at_once() {
    // Danger: a process goes on in a database that has no extension, and blocks what comes next.
    let scene = Scene::new();
    let mut client = scene.connect();
    for _ in 0..3 {
        client.batch_execute("SELECT redis_wake()").unwrap();
        eventually(SOON, "it runs", || count(&mut client, WORKERS) == 1);
        client.batch_execute("DROP EXTENSION pg_cache").unwrap();
        // Less than the two seconds for which an idle one stays.
        eventually(Duration::from_millis(1500), "it is gone", || count(&mut client, WORKERS) == 0);
        client.batch_execute("CREATE EXTENSION pg_cache").unwrap();
        repair(&mut client);
    }
}

#[test]
fn who_wants_the_database_does_not_wait_for_an_idle_worker() {
    // Danger: DROP DATABASE waits for five seconds and fails, on a machine where an idle worker
    // takes as long to go.
    let scene = Scene::alone();
    let name = format!("{}_wanted", scene.database());
    let mut admin = scene.postgres().connect();
    let fastest = (0..3).map(|_| {
        scene.create_database(&name);
        let mut client = scene.connect_to("postgres", &name);
        client.batch_execute("SELECT redis_wake()").unwrap();
        eventually(SOON, "it runs", || count(&mut client, WORKERS) == 1);
        drop(client);
        let start = Instant::now();
        admin.batch_execute(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}")).unwrap();
        admin.batch_execute(&format!("DROP DATABASE {name}_copy")).unwrap();
        admin.batch_execute(&format!("DROP DATABASE {name}")).unwrap();
        start.elapsed()
    });
    let fastest = fastest.min().unwrap();
    println!("{fastest:?}");
    // An idle one stays for two seconds.
    assert!(fastest < Duration::from_millis(1500), "{fastest:?}");
}

#[test]
fn a_rolled_back_extension_leaves_no_worker() {
    // Danger: CREATE EXTENSION starts one, and is undone.
    let scene = Scene::new();
    let mut client = scene.connect();
    client.batch_execute("DROP EXTENSION pg_cache").unwrap();
    scene.quiet();
    client.batch_execute("BEGIN; CREATE EXTENSION pg_cache; ROLLBACK").unwrap();
    eventually(Duration::from_secs(8), "it is gone", || count(&mut client, WORKERS) == 0);
    assert_eq!(count(&mut client, "SELECT count(*) FROM pg_proc WHERE proname = 'redis_wake'"), 0);
}

#[test]
fn a_database_that_owes_can_be_dropped_while_redis_hangs() {
    // Danger: the worker waits for Redis, and DROP DATABASE for the worker.
    let scene = Scene::new();
    let name = format!("{}_owes", scene.database());
    scene.create_database(&name);
    let mut client = scene.connect_to("postgres", &name);
    repair(&mut client);
    scene.redis.freeze();
    client.batch_execute("SELECT redis_touch('price')").unwrap();
    assert_eq!(count(&mut client, "SELECT count(*) FROM redis_debt"), 1, "it is owed");
    eventually(SOON, "the worker tries", || count(&mut client, WORKERS) == 1);
    drop(client);
    let start = Instant::now();
    scene.postgres().connect().batch_execute(&format!("DROP DATABASE {name}")).unwrap();
    println!("dropped in {:?}", start.elapsed());
    scene.redis.thaw();
}

#[test]
fn a_running_worker_follows_the_configuration() {
    // Danger: it goes on with a server that the administrator has taken out of the file.
    let pair = Pair::start_with(&[("max_worker_processes", "16")], &[]);
    let next = Redis::start();
    let mut client = pair.postgres.connect();
    repair(&mut client);
    client.batch_execute("SELECT redis_wake()").unwrap();
    eventually(SOON, "it runs", || worker_pid(&mut client).is_some());
    let before = worker_pid(&mut client);
    client.batch_execute(&format!("ALTER SYSTEM SET pg_cache.url = '{}'", next.url())).unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
    eventually(SOON, "the new server is registered", || !made(&next, &mut client).is_empty());
    assert_eq!(worker_pid(&mut client), before, "by the one that ran already");
    assert_eq!(repair(&mut client), made(&next, &mut client));
}

#[test]
fn a_storm_of_reloads_does_no_harm() {
    // Danger: a signal in the middle of a wait for Redis, or of a commit, ends the worker or makes
    // it read the file inside the signal handler.
    let scene = Scene::new();
    let mut client = scene.connect();
    let mut admin = scene.connect();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        scene.redis.cli(&["FLUSHALL"]);
        client.batch_execute("SELECT redis_wake()").unwrap();
        for _ in 0..40 {
            admin.batch_execute("SELECT pg_reload_conf()").unwrap();
        }
        assert!(seen.insert(repair(&mut client)));
    }
    let log = scene.postgres().log();
    let name = format!("@{} ", scene.database());
    let bad = ["ERROR", "FATAL", "PANIC"];
    let lines = log.lines().filter(|line| line.contains(&name));
    let errors: Vec<_> = lines.filter(|line| bad.iter().any(|bad| line.contains(bad))).collect();
    assert_eq!(errors, Vec::<&str>::new());
}

#[test]
fn a_redis_that_is_away_is_asked_seldom() {
    // Danger: hundreds of readers wake the worker, and it knocks without a pause for hours.
    let scene = Scene::alone();
    let fake = FakeRedis::start(|_| Reply::Close);
    let mut client = scene.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    scene.quiet();
    let url = fake.url();
    let set = format!("ALTER DATABASE {} SET pg_cache.url = '{url}'", scene.database());
    client.batch_execute(&set).unwrap();
    // What readers of a database do that nobody could register yet.
    client.batch_execute("DROP EXTENSION pg_cache; CREATE EXTENSION pg_cache").unwrap();
    let start = Instant::now();
    let before = fake.connections();
    while start.elapsed() < Duration::from_secs(8) {
        cached(&mut client, "k", "SELECT v FROM t").unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let asked = fake.connections() - before;
    println!("{asked} connections in 8 s");
    assert!((3..=40).contains(&asked), "{asked} connections in 8 s");
}

#[test]
fn a_worker_whose_extension_goes_while_it_looks_harms_nobody() {
    // Danger: it looks into the catalogues outside of a transaction, dies of it, and the server
    // ends every session.
    let pair = Pair::start_with(&[("pg_cache.fault_point", "worker.looked:sleep_500")], &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let mut other = pair.postgres.connect();
    for _ in 0..3 {
        client.batch_execute("SELECT redis_wake()").unwrap();
        eventually(SOON, "it runs", || worker_pid(&mut client).is_some());
        std::thread::sleep(Duration::from_millis(200));
        client.batch_execute("DROP EXTENSION pg_cache").unwrap();
        eventually(SOON, "it is gone", || worker_pid(&mut client).is_none());
        client.batch_execute("CREATE EXTENSION pg_cache").unwrap();
    }
    other.batch_execute("SELECT 1").expect("the server did not restart");
    assert!(!pair.postgres.log().contains("was terminated by signal"));
}

#[test]
fn who_waited_for_a_database_leaves_no_lock_behind() {
    // Danger: the next one takes it for waiting still, and events stay when Redis is back.
    let mut scene = Scene::alone();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    scene.redis.stop();
    client
        .batch_execute(
            "CREATE TABLE t (id int);
             CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
                 EXECUTE FUNCTION redis_stream('s', 'durable');
             INSERT INTO t VALUES (1)",
        )
        .unwrap();
    // It is in no database, so it stands in no other list.
    let waiters = "SELECT l.pid FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
                    WHERE locktype = 'userlock' AND l.pid IS NOT NULL AND a.pid IS NULL";
    // One that comes or goes between the two views looks like it for a moment.
    let mut waiter: Option<i32> = None;
    eventually(SOON, "one waits", || {
        let before = waiter.take();
        let found = client.query(waiters, &[]).unwrap();
        if let [row] = &found[..] {
            waiter = Some(row.get(0));
        }
        waiter.is_some() && waiter == before
    });
    let process = waiter.unwrap().to_string();
    let killed = std::process::Command::new("kill").args(["-TERM", &process]).status().unwrap();
    assert!(killed.success());
    let gone = || !std::path::Path::new("/proc").join(&process).exists();
    eventually(SOON, "it is gone", gone);
    let left = "SELECT count(*) FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
                 WHERE locktype = 'userlock' AND a.pid IS NULL";
    assert_eq!(count(&mut client, left), 0);
}
