//! The breaker: a backend whose Redis failed does not ask again with each call, and forgets the
//! failure with the first success.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pg_cache_e2e::counters::counted;
use pg_cache_e2e::{Scene, cached};
use pg_cache_testbed::eventually;
use pg_cache_testbed::fake::{FakeRedis, Reply};
use postgres::Client;

const QUERY: &str = "SELECT 1 AS v";

fn call(client: &mut Client) {
    assert_eq!(cached(client, "k", QUERY).as_deref(), Ok(r#"[{"v":1}]"#));
}

#[test]
fn a_failure_stops_the_asking_for_a_while_and_the_while_grows() {
    // Danger: each call of each backend pays a connection attempt while Redis is down.
    let scene = Scene::new();
    let fake = FakeRedis::start(|_| Reply::Close);
    let mut client = scene.connect();
    client.batch_execute(&format!("SET pg_cache.url = '{}'", fake.url())).unwrap();
    let start = Instant::now();
    let mut attempts = Vec::new();
    let mut calls = 0;
    let ((), counters) = counted(&mut client, |c| {
        while start.elapsed() < Duration::from_secs(4) {
            call(c);
            calls += 1;
            if fake.connections() > attempts.len() {
                attempts.push(start.elapsed());
            }
        }
    });
    println!("{calls} calls, attempts at {attempts:?}");
    assert!((3..=12).contains(&attempts.len()), "{attempts:?}");
    assert_eq!(counters.reason("breaker") + counters.reason("closed"), calls, "{counters:?}");
    assert_eq!(counters.reason("closed"), attempts.len() as i64, "{counters:?}");
    let first = attempts[1] - attempts[0];
    let last = attempts[attempts.len() - 1] - attempts[attempts.len() - 2];
    assert!(first < Duration::from_millis(500), "the first pause is short: {attempts:?}");
    assert!(last > first * 2, "pauses grow: {attempts:?}");
}

#[test]
fn the_first_success_closes_it() {
    // Danger: a short trouble long ago makes the next one cost ten seconds of cold cache.
    let scene = Scene::new();
    let healthy = Arc::new(AtomicBool::new(false));
    let well = healthy.clone();
    let fake = FakeRedis::before(&scene.redis, move |request, reply| {
        match well.load(Ordering::SeqCst) || request.is_introduction() {
            true => Reply::Bytes(reply),
            false => Reply::Close,
        }
    });
    let mut client = scene.connect();
    client.batch_execute(&format!("SET pg_cache.url = '{}'", fake.url())).unwrap();
    let until = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < until {
        call(&mut client);
    }
    let failed = fake.connections();
    assert!(failed >= 2, "{failed}");
    healthy.store(true, Ordering::SeqCst);
    eventually(Duration::from_secs(15), "it asks again", || {
        call(&mut client);
        fake.connections() > failed
    });
    assert_eq!(counted(&mut client, call).1.hits, 1, "it is the registered server");
    // The failures begin from the shortest pause again: two attempts within half a second.
    healthy.store(false, Ordering::SeqCst);
    let before = fake.connections();
    eventually(Duration::from_millis(900), "the pauses are short again", || {
        call(&mut client);
        fake.connections() >= before + 2
    });
}

#[test]
fn the_pause_has_an_end() {
    // Danger: a night's outage is followed by an hour without a cache. The bound is 10 seconds.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    call(&mut client);
    scene.redis.stop();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        call(&mut client);
        std::thread::sleep(Duration::from_millis(1));
    }
    scene.redis.start_again();
    eventually(Duration::from_secs(11), "it is used again", || {
        counted(&mut client, call).1.hits == 1
    });
}

#[test]
fn another_backend_has_a_breaker_of_its_own() {
    // Danger: a shared state, not at this stage: a new backend must find a Redis that is back.
    let mut scene = Scene::new();
    let mut unlucky = scene.connect();
    scene.redis.stop();
    for _ in 0..50 {
        call(&mut unlucky);
    }
    scene.redis.start_again();
    // It is another server by now: what counts is who answers once it is registered.
    scene.register();
    let mut fresh = scene.connect();
    call(&mut fresh);
    assert_eq!(counted(&mut fresh, call).1.hits, 1);
}
