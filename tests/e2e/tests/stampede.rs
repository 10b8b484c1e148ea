//! The lease: many callers that meet a missing entry run the query once, and no caller waits for a
//! filler that is gone, nor longer than it said it would.

use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pg_cache_e2e::counters::{Counters, counted, keys, value};
use pg_cache_e2e::outcome::sqlstate;
use pg_cache_e2e::stopwatch::{PROMPT, timed};
use pg_cache_e2e::{Outcome, Scene, cached};
use pg_cache_testbed::eventually;
use postgres::Client;

const CLIENTS: usize = 64;

/// Makes `slow(ms)`, which says in the server's log that it ran: a log line is the one trace that a
/// stable function can leave, whatever becomes of its caller.
fn slow_function(scene: &Scene) {
    scene
        .connect()
        .batch_execute(&format!(
            "CREATE FUNCTION slow(ms int) RETURNS text STABLE LANGUAGE plpgsql AS $$
             BEGIN
               RAISE LOG 'ran slow of {}';
               PERFORM pg_sleep(ms / 1000.0);
               RETURN 'done';
             END $$",
            scene.database()
        ))
        .unwrap();
}

fn runs(scene: &Scene) -> usize {
    // The function's own definition stands in the log of no server that does not log statements.
    scene.postgres().log().matches(&format!("ran slow of {}\n", scene.database())).count()
}

type Call = JoinHandle<(Outcome, Counters, Duration)>;

/// Starts `count` clients that are connected and warm, and lets them call at the same moment.
fn crowd(scene: &Scene, count: usize, settings: &str, query: &'static str) -> Vec<Call> {
    let barrier = Arc::new(Barrier::new(count));
    (0..count)
        .map(|_| {
            let mut client = scene.connect();
            // Far above what anybody should take: a slow machine must not make waiters give up.
            let patience = "SET pg_cache.fill_wait_ms = 60000; SET pg_cache.timeout_ms = 10000";
            client.batch_execute(patience).unwrap();
            client.batch_execute(settings).unwrap();
            let barrier = barrier.clone();
            std::thread::spawn(move || {
                cached(&mut client, "warm", "SELECT 1 AS v").unwrap();
                barrier.wait();
                let ((answer, took), counters) =
                    counted(&mut client, |c| timed(|| cached(c, "crowd", query)));
                (answer, counters, took)
            })
        })
        .collect()
}

#[test]
fn sixty_four_clients_run_an_expired_query_once() {
    // Danger: an expired key of an expensive query is the moment when a site goes down.
    let scene = Scene::new();
    slow_function(&scene);
    let mut client = scene.connect();
    let sql = "SELECT redis_cached('crowd', interval '100 milliseconds', 'SELECT slow(200) AS v')";
    client.batch_execute(sql).unwrap();
    eventually(Duration::from_secs(5), "the entry ends", || value(&scene.redis, "crowd").is_none());
    let before = runs(&scene);
    assert_eq!(before, 1, "the log is read as it is written");
    let calls = crowd(&scene, CLIENTS, "", "SELECT slow(200) AS v");
    let results: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    for (answer, _, _) in &results {
        assert_eq!(answer.as_deref(), Ok(r#"[{"v":"done"}]"#));
    }
    assert_eq!(runs(&scene) - before, 1, "the query ran once");
    let sum = |field: fn(&Counters) -> i64| results.iter().map(|(_, c, _)| field(c)).sum::<i64>();
    assert_eq!(sum(|c| c.fills), 1);
    assert_eq!(sum(|c| c.hits), CLIENTS as i64 - 1, "the others were served the filled answer");
    let longest = results.iter().map(|(_, _, took)| *took).max().unwrap();
    assert!(longest < Duration::from_secs(30), "the last came back after {longest:?}");
    let no_lease = || keys(&scene.redis, "pgc:l:*").is_empty();
    eventually(Duration::from_secs(15), "every lease is given back or ends", no_lease);
}

#[test]
fn many_keys_do_not_wait_for_each_other() {
    // Danger: one lease for all keys.
    let scene = Scene::new();
    slow_function(&scene);
    let start = Instant::now();
    let calls: Vec<_> = (0..10)
        .map(|number| {
            let mut client = scene.connect();
            std::thread::spawn(move || {
                cached(&mut client, &format!("k:{number}"), "SELECT slow(500) AS v").unwrap();
            })
        })
        .collect();
    calls.into_iter().for_each(|call| call.join().unwrap());
    assert!(start.elapsed() < Duration::from_millis(3000), "{:?}", start.elapsed());
    assert_eq!(runs(&scene), 10);
}

/// A filler that is stopped in mid-query by `end`, while twenty wait. Returns how often the query
/// ran after that.
fn filler_ends(lease_timeout_ms: u32, end: impl FnOnce(&Scene, i32)) -> (usize, Duration) {
    let scene = Scene::new();
    slow_function(&scene);
    let settings = format!("SET pg_cache.lease_timeout_ms = {lease_timeout_ms}");
    let mut filler = scene.connect();
    filler.batch_execute(&settings).unwrap();
    let pid: i32 = filler.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let filling = std::thread::spawn(move || {
        // The crowd's query: a filler with another one would not be waited for.
        let sql = "SELECT redis_cached('crowd', 60, 'SELECT slow(2500) AS v')";
        filler.batch_execute(sql).unwrap_err()
    });
    eventually(Duration::from_secs(5), "the filler runs", || runs(&scene) == 1);
    let calls = crowd(&scene, 20, &settings, "SELECT slow(2500) AS v");
    let start = Instant::now();
    end(&scene, pid);
    filling.join().unwrap();
    for call in calls {
        let (answer, _, _) = call.join().unwrap();
        assert_eq!(answer.as_deref(), Ok(r#"[{"v":"done"}]"#));
    }
    let took = start.elapsed();
    assert!(value(&scene.redis, "crowd").is_some(), "somebody filled");
    (runs(&scene) - 1, took)
}

#[test]
fn when_the_filler_is_terminated_one_waiter_takes_over() {
    // Danger: the lease of a dead backend stalls everybody, or all rush in at its end.
    let (after, took) = filler_ends(4000, |scene, pid| {
        let sql = "SELECT pg_terminate_backend($1)";
        scene.connect().query_one(sql, &[&pid]).unwrap();
    });
    assert_eq!(after, 1, "one took over");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn when_the_filler_is_cancelled_one_waiter_takes_over() {
    // Danger: a cancelled filler keeps its lease although its backend lives.
    let (after, took) = filler_ends(4000, |scene, pid| {
        let sql = "SELECT pg_cancel_backend($1)";
        scene.connect().query_one(sql, &[&pid]).unwrap();
    });
    assert_eq!(after, 1, "one took over");
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn when_the_filler_exits_without_a_word_one_waiter_takes_over() {
    // Danger: a backend that ends in the middle of it all gives nothing back.
    let scene = Scene::new();
    slow_function(&scene);
    let mut filler = scene.connect();
    filler
        .batch_execute(
            "SELECT redis_cached('warm', 60, 'SELECT 1 AS v');
             SET pg_cache.lease_timeout_ms = 1000; SET pg_cache.fault_point = 'read.compute:exit'",
        )
        .unwrap();
    let error = cached_error(&mut filler, "SELECT slow(200) AS v");
    assert!(filler.is_closed() || error.is_some(), "the filler is gone");
    let calls = crowd(&scene, 20, "", "SELECT slow(200) AS v");
    for call in calls {
        let (answer, _, took) = call.join().unwrap();
        assert_eq!(answer.as_deref(), Ok(r#"[{"v":"done"}]"#));
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
    assert_eq!(runs(&scene), 1, "one took over");
    scene.connect().batch_execute("SELECT 1").unwrap();
}

#[test]
fn a_slow_query_is_stored_although_others_make_temporary_tables() {
    // Danger: somebody's temporary tables, all day long, keep every slow query out of the cache.
    let scene = Scene::new();
    slow_function(&scene);
    let mut client = scene.connect();
    let filling = std::thread::spawn(move || cached(&mut client, "crowd", "SELECT slow(500) AS v"));
    eventually(Duration::from_secs(5), "the filler runs", || runs(&scene) == 1);
    let tables = "CREATE TEMP TABLE a (v int); DROP TABLE a; CREATE TEMP TABLE b (v int)";
    scene.connect().batch_execute(tables).unwrap();
    assert_eq!(filling.join().unwrap().as_deref(), Ok(r#"[{"v":"done"}]"#));
    assert!(value(&scene.redis, "crowd").is_some(), "stored");
}

#[test]
fn a_slow_query_is_not_stored_when_its_objects_changed_meanwhile() {
    // Danger: rows of the old function under the fingerprint of the new one.
    let scene = Scene::new();
    slow_function(&scene);
    let mut client = scene.connect();
    let filling = std::thread::spawn(move || cached(&mut client, "crowd", "SELECT slow(500) AS v"));
    eventually(Duration::from_secs(5), "the filler runs", || runs(&scene) == 1);
    scene.connect().batch_execute("ALTER FUNCTION slow(int) COST 200").unwrap();
    assert_eq!(filling.join().unwrap().as_deref(), Ok(r#"[{"v":"done"}]"#));
    assert_eq!(value(&scene.redis, "crowd"), None, "not stored");
}

fn cached_error(client: &mut Client, query: &str) -> Option<postgres::Error> {
    client.query_one("SELECT redis_cached('crowd', 60, $1)::text", &[&query]).err()
}

/// The name of the lease of `key`, learned from the sidecar's name.
fn lease_name(scene: &Scene, key: &str) -> String {
    cached(&mut scene.connect(), key, "SELECT 'for its name'").unwrap();
    let names = keys(&scene.redis, &format!("pgc:e:*:{key}"));
    scene.redis.cli(&["DEL", key, &names[0]]);
    names[0].replacen("pgc:e:", "pgc:l:", 1)
}

#[test]
fn a_waiter_waits_no_longer_than_fill_wait_ms_and_then_computes_without_filling() {
    // Danger: a filler that hangs makes everybody hang.
    let scene = Scene::alone();
    let lease = lease_name(&scene, "held");
    scene.redis.cli(&["SET", &lease, "somebody", "PX", "60000"]);
    let mut client = scene.connect();
    cached(&mut client, "warm", "SELECT 1 AS v").unwrap();
    for wait_ms in [0, 300] {
        client.batch_execute(&format!("SET pg_cache.fill_wait_ms = {wait_ms}")).unwrap();
        let ((answer, took), counters) =
            counted(&mut client, |c| timed(|| cached(c, "held", "SELECT 1 AS v")));
        assert_eq!(answer.as_deref(), Ok(r#"[{"v":1}]"#));
        let limit = Duration::from_millis(wait_ms);
        assert!(took >= limit * 9 / 10 && took < limit + PROMPT, "{took:?} of {limit:?}");
        assert_eq!((counters.fills, counters.hits), (0, 0), "{counters:?}");
        assert_eq!(counters.reason("lease_wait"), 1, "{counters:?}");
        assert_eq!(value(&scene.redis, "held"), None);
    }
    assert_eq!(
        value(&scene.redis, &lease).as_deref(),
        Some(&b"somebody"[..]),
        "it is not ours to take"
    );
}

#[test]
fn a_waiter_is_served_as_soon_as_somebody_fills() {
    // Danger: a wait that looks once, at its end.
    let scene = Scene::alone();
    slow_function(&scene);
    let filler = crowd(&scene, 1, "", "SELECT slow(400) AS v");
    eventually(Duration::from_secs(5), "the filler runs", || runs(&scene) == 1);
    let waiter = crowd(&scene, 1, "SET pg_cache.fill_wait_ms = 5000", "SELECT slow(400) AS v");
    let (_, counters, took) = waiter.into_iter().next().unwrap().join().unwrap();
    assert_eq!((counters.hits, counters.misses), (1, 0), "{counters:?}");
    assert!(took < Duration::from_millis(400) + PROMPT * 2, "{took:?}");
    filler.into_iter().for_each(|call| drop(call.join().unwrap()));
}

#[test]
fn a_waiter_can_be_cancelled() {
    // Danger: a wait loop without a check for interrupts.
    let scene = Scene::alone();
    let lease = lease_name(&scene, "held");
    scene.redis.cli(&["SET", &lease, "somebody", "PX", "60000"]);
    let mut client = scene.connect();
    cached(&mut client, "warm", "SELECT 1 AS v").unwrap();
    client
        .batch_execute("SET statement_timeout = '200ms'; SET pg_cache.fill_wait_ms = 20000")
        .unwrap();
    let (result, took) =
        timed(|| client.query_one("SELECT redis_cached('held', 60, 'SELECT 1')", &[]));
    assert_eq!(sqlstate(&result.unwrap_err()), "57014");
    assert!(took < Duration::from_millis(200) + PROMPT * 2, "{took:?}");
}

#[test]
fn a_filler_that_lost_its_lease_overwrites_nothing() {
    // Danger: a late filler puts an older answer over the newer one of whoever took over.
    let scene = Scene::new();
    slow_function(&scene);
    let lease = lease_name(&scene, "crowd");
    let filler = crowd(&scene, 1, "", "SELECT slow(400) AS v");
    eventually(Duration::from_secs(5), "the filler runs", || runs(&scene) == 1);
    assert!(value(&scene.redis, &lease).is_some(), "the filler holds the lease");
    scene.redis.cli(&["SET", &lease, "another", "PX", "60000"]);
    scene.redis.cli(&["SET", "crowd", "newer"]);
    let (answer, counters, _) = filler.into_iter().next().unwrap().join().unwrap();
    assert_eq!(answer.as_deref(), Ok(r#"[{"v":"done"}]"#));
    assert_eq!(counters.fills, 0, "{counters:?}");
    assert_eq!(value(&scene.redis, "crowd").as_deref(), Some(&b"newer"[..]));
    assert_eq!(value(&scene.redis, &lease).as_deref(), Some(&b"another"[..]));
}

#[test]
fn the_lease_ends_by_itself() {
    // Danger: a lease without an end is a key that is never filled again.
    let scene = Scene::new();
    slow_function(&scene);
    let lease = lease_name(&scene, "crowd");
    let settings = "SET pg_cache.lease_timeout_ms = 2500";
    let filler = crowd(&scene, 1, settings, "SELECT slow(300) AS v");
    eventually(Duration::from_secs(5), "the filler runs", || runs(&scene) == 1);
    let left: i64 = redis::cmd("PTTL").arg(&lease).query(&mut scene.redis.client()).unwrap();
    assert!((1..=2500).contains(&left), "{left} ms");
    filler.into_iter().for_each(|call| drop(call.join().unwrap()));
    assert_eq!(value(&scene.redis, &lease), None);
}
