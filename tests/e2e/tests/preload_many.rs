//! A Redis that hangs, and five hundred backends that use it at the same time.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use pg_cache_e2e::counters::{Counters, counted};
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

use crate::preload::{QUERY, SOON};

const SESSIONS: usize = 500;

/// How long a call waits for an answer.
const TIMEOUT_MS: &str = "100";

/// Between two calls of one backend, at most: all together call 250 times a second.
const THINK_MS_MAX: u64 = 4_000;

/// Of those that call in the moment in which nobody knows yet: 25 do in the time of one timeout,
/// and a busy machine makes that longer.
const SURPRISED_MAX: i64 = 125;

fn start() -> Pair {
    let conf = [
        ("shared_preload_libraries", "pg_cache"),
        ("max_worker_processes", "16"),
        ("autovacuum", "off"),
        ("max_connections", "520"),
        ("pg_cache.timeout_ms", TIMEOUT_MS),
        ("pg_cache.connect_timeout_ms", TIMEOUT_MS),
    ];
    Pair::start_with(&conf, &[])
}

/// Sessions whose backends have each a connection to Redis.
fn connected(pair: &Pair) -> Vec<Client> {
    std::thread::scope(|scope| {
        let part = || {
            let warm = |_| {
                let mut session = pair.postgres.connect();
                cached(&mut session, "k:1", QUERY).unwrap();
                session
            };
            (0..SESSIONS / 10).map(warm).collect::<Vec<_>>()
        };
        let parts: Vec<_> = (0..10).map(|_| scope.spawn(part)).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

/// Each in a thread of its own.
fn all(sessions: &mut [Client], work: impl Fn(&mut Client) + Sync) {
    std::thread::scope(|scope| {
        for session in sessions {
            let work = &work;
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            thread.spawn_scoped(scope, move || work(session)).unwrap();
        }
    });
}

/// One call of each, in the same moment.
fn at_once(sessions: &mut [Client]) {
    let barrier = Barrier::new(sessions.len());
    all(sessions, |session| {
        barrier.wait();
        cached(session, "k:1", QUERY).unwrap();
    });
}

/// Calls that waited for Redis and learnt that it does not answer.
fn waited(counters: &Counters) -> i64 {
    counters.reason("timeout") + counters.reason("connect") + counters.reason("lease_wait")
}

#[test]
fn few_of_five_hundred_wait_for_a_redis_that_hangs() {
    // Danger: each of 500 backends waits out the same dead Redis, and again after each pause.
    let _alone = Scene::alone();
    let pair = start();
    let mut client = pair.postgres.connect();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS v").unwrap();
    let began = Instant::now();
    let mut sessions = connected(&pair);
    println!("{SESSIONS} sessions in {:?}", began.elapsed());

    let ((), surprised) = counted(&mut client, |_| {
        let until = Instant::now() + Duration::from_secs(3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(500));
                pair.redis.freeze();
            });
            all(&mut sessions, |session| {
                let mut random = fastrand::Rng::new();
                loop {
                    std::thread::sleep(Duration::from_millis(random.u64(0..THINK_MS_MAX)));
                    if Instant::now() > until {
                        break;
                    }
                    cached(session, "k:1", QUERY).unwrap();
                }
            });
        });
    });
    let ((), known) = counted(&mut client, |_| at_once(&mut sessions));
    pair.redis.thaw();
    client.batch_execute("SELECT redis_ping()").unwrap();
    eventually(SOON, "all are served again", || {
        counted(&mut client, |_| at_once(&mut sessions)).1.hits == SESSIONS as i64
    });
    let (first, later) = (waited(&surprised), waited(&known));
    let calls = surprised.hits + surprised.misses;
    println!("{first} of {calls} calls waited, then {later} of {SESSIONS} at once; {surprised:?}");
    println!("all took {:?}", began.elapsed());
    assert!((3..SURPRISED_MAX).contains(&first), "{first} of {SESSIONS} waited: {surprised:?}");
    assert!(surprised.reason("breaker") > 200, "the others called too: {surprised:?}");
    // One that tries whether it is back, or two.
    assert!(later <= 3, "{later} of {SESSIONS} waited: {known:?}");
}
