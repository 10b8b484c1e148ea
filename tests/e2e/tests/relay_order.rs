//! The order within a stream, when Redis refuses one of several calls that were sent together.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pg_cache_core::message::Message;
use pg_cache_e2e::Scene;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::repair;
use pg_cache_testbed::eventually;
use pg_cache_testbed::fake::{FakeRedis, Reply, Request};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

/// More than one call takes.
const EVENTS: usize = 1200;

fn numbers() -> Vec<Message> {
    (0..EVENTS).map(|number| append("s", &number.to_string())).collect()
}

#[track_caller]
fn arrive_in_order(client: &mut Client, scene: &Scene) {
    eventually(SOON, "delivered", || {
        wake(client);
        rows(client) == 0
    });
    let wanted: Vec<String> = (0..EVENTS).map(|number| number.to_string()).collect();
    let found = events(&scene.redis, "s");
    let differs = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
    assert_eq!((found.len(), differs), (EVENTS, None), "begins with {:?}", found.first());
}

/// A call of the script that appends to the stream.
fn appends(request: &Request) -> bool {
    request.is("EVALSHA") && request.word(3) == "s"
}

#[test]
fn what_is_refused_in_passing_is_not_overtaken_by_what_was_sent_behind_it() {
    // Danger: Redis is full for the first of several calls and has room again for the next: the
    // later events of a stream stand before the earlier ones, for ever.
    let scene = Scene::new();
    let redis = Mutex::new(scene.redis.client());
    let refused = Arc::new(AtomicU32::new(0));
    let counter = refused.clone();
    let fake = FakeRedis::before(&scene.redis, move |request, reply| {
        if appends(request) && reply.starts_with(b"-OOM") {
            counter.fetch_add(1, Ordering::SeqCst);
            // Before the next call of the same pipeline goes on to the server.
            let mut redis = redis.lock().unwrap();
            redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).exec(&mut redis).unwrap();
        }
        Reply::Bytes(reply)
    });
    scene.move_to(&fake.url());
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    put(&mut client, &numbers());
    arrive_in_order(&mut client, &scene);
    assert_eq!(refused.load(Ordering::SeqCst), 1, "one call was refused");
}

#[test]
fn what_is_refused_for_another_type_is_not_overtaken_either() {
    // Danger: somebody deletes the list that stood in the stream's place while a pipeline passes.
    let scene = Scene::new();
    let redis = Mutex::new(scene.redis.client());
    let fake = FakeRedis::before(&scene.redis, move |request, reply| {
        if appends(request) {
            // After the first call was refused.
            let mut redis = redis.lock().unwrap();
            let kind: String = redis::cmd("TYPE").arg("s").query(&mut redis).unwrap();
            if kind == "list" {
                redis::cmd("DEL").arg("s").exec(&mut redis).unwrap();
            }
        }
        Reply::Bytes(reply)
    });
    scene.move_to(&fake.url());
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["RPUSH", "s", "a list"]);
    put(&mut client, &numbers());
    arrive_in_order(&mut client, &scene);
}
