//! The order within a stream, when Redis refuses one of several calls that were sent together.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pg_cache_core::message::Message;
use pg_cache_e2e::Scene;
use pg_cache_e2e::gate::Gate;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::eventually;
use pg_cache_testbed::fake::{FakeRedis, Reply, Request};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

/// More than one call takes.
const EVENTS: usize = 1200;

const ASIDE: &str = "SELECT count(*) FROM redis_outbox WHERE number < -(1::bigint << 61)";

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

fn publish(channel: &str, payload: &str) -> Message {
    Message::Publish { channel: channel.as_bytes().into(), payload: payload.as_bytes().into() }
}

fn command(words: &[&str]) -> Message {
    Message::Command { arguments: words.iter().map(|word| word.as_bytes().into()).collect() }
}

/// Waits until the worker has tried, and has found that Redis is full.
#[track_caller]
fn is_refused(scene: &Scene, client: &mut Client) {
    let refused = || -> i64 {
        let told = scene.redis.cli(&["INFO", "errorstats"]);
        let of = |code: &str| told.split(code).nth(1).and_then(|rest| rest.split('\r').next());
        of("errorstat_OOM:count=").map_or(0, |count| count.trim().parse().unwrap())
    };
    let before = refused();
    eventually(SOON, "it was tried", || {
        wake(client);
        refused() > before
    });
    scene.quiet();
}

#[test]
fn a_full_redis_lets_nothing_pass_what_it_refuses() {
    // Danger: a subscriber is told of an event that is not in the stream; or a key is deleted, and
    // the command that set it before is sent again when there is room: it stays for good.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    let mut listener = scene.redis.client();
    let mut channel = listener.as_pubsub();
    channel.subscribe("c").unwrap();
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let batch = [
        append("s", "0"),
        publish("c", "0"),
        command(&["SET", "a", "1"]),
        command(&["DEL", "a"]),
        command(&["SET", "b", "1"]),
        publish("c", "1"),
    ];
    put(&mut client, &batch);
    is_refused(&scene, &mut client);
    assert_eq!(rows(&mut client), batch.len() as i64, "all wait");
    channel.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(channel.get_message().is_err(), "nobody was told");
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually(SOON, "delivered", || {
        wake(&mut client);
        rows(&mut client) == 0
    });
    assert_eq!(events(&scene.redis, "s"), ["0"]);
    for payload in ["0", "1"] {
        assert_eq!(channel.get_message().unwrap().get_payload::<String>().unwrap(), payload);
    }
    assert_eq!(scene.redis.cli(&["EXISTS", "a", "b"]), "1", "b alone");
}

#[test]
fn nothing_to_its_place_overtakes_a_command_that_is_refused() {
    // Danger: INCR is refused for a text in its place, SET behind it is not, and INCR is tried
    // again: the counter is what it never was.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["SET", "c", "x"]);
    let batch = [
        command(&["INCR", "c"]),
        command(&["SET", "c", "0"]),
        command(&["INCR", "c"]),
        command(&["NOSUCH", "d"]),
        publish("p", "0"),
        append("s", "0"),
    ];
    put(&mut client, &batch);
    eventually(SOON, "the others arrive", || {
        wake(&mut client);
        rows(&mut client) == 4
    });
    assert_eq!(events(&scene.redis, "s"), ["0"]);
    assert_eq!(scene.redis.cli(&["GET", "c"]), "x");
    scene.redis.cli(&["SET", "c", "5"]);
    eventually(SOON, "tried again", || {
        wake(&mut client);
        rows(&mut client) == 1
    });
    assert_eq!(scene.redis.cli(&["GET", "c"]), "1");
}

#[test]
fn a_user_who_may_have_no_transactions_still_has_events() {
    // Danger: an access list of an earlier release, and no event leaves any more.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["ACL", "SETUSER", "default", "-@transaction"]);
    put(&mut client, &[append("s", "0"), publish("c", "0"), append("s", "1")]);
    eventually(SOON, "delivered", || {
        wake(&mut client);
        rows(&mut client) == 0
    });
    assert_eq!(events(&scene.redis, "s"), ["0", "1"]);
}

#[test]
fn a_worker_that_stays_after_all_knows_what_another_put_aside() {
    // Danger: a worker resigns, another one puts an event aside and goes, and the first one finds
    // something new at its last look: it sends that past what waits.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    let resigned = Gate::new();
    scene.set_faults(&resigned.at("worker.resigned"));
    put(&mut client, &[append("s", "0")]);
    wake(&mut client);
    resigned.met();
    assert_eq!((rows(&mut client), count(&mut client, WORKERS)), (0, 1));
    scene.set_faults("");
    scene.redis.cli(&["RENAME", "s", "kept"]);
    scene.redis.cli(&["RPUSH", "s", "a list"]);
    put(&mut client, &[append("s", "1")]);
    wake(&mut client);
    eventually(SOON, "it is put aside", || count(&mut client, ASIDE) == 1);
    eventually(SOON, "the other one is gone", || count(&mut client, WORKERS) == 1);
    scene.redis.cli(&["RENAME", "kept", "s"]);
    put(&mut client, &[append("s", "2")]);
    resigned.open();
    eventually(SOON, "delivered", || rows(&mut client) == 0);
    assert_eq!(events(&scene.redis, "s"), ["0", "1", "2"]);
}

#[test]
fn what_has_arrived_is_known_however_long_it_waits_aside() {
    // Danger: a worker dies before it takes away what has arrived. The next one may not touch that,
    // as it waits for a debt; a newer event goes to another stream, and with that it is forgotten
    // what has arrived, and sent again.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["RPUSH", "s", "a list"]);
    for numbers in [["0", "1"], ["2", "3"]] {
        put(&mut client, &numbers.map(|number| append("s", number)));
    }
    eventually(SOON, "all is put aside", || {
        wake(&mut client);
        count(&mut client, ASIDE) == 4
    });
    scene.set_faults("relay.retried:exit");
    client.batch_execute(&WORKERS.replacen("count(*)", "pg_terminate_backend(pid)", 1)).unwrap();
    scene.quiet();
    scene.redis.cli(&["DEL", "s"]);
    wake(&mut client);
    eventually(SOON, "all has arrived", || events(&scene.redis, "s").len() == 4);
    scene.quiet();
    scene.set_faults("");
    assert_eq!(count(&mut client, ASIDE), 4, "nothing is taken away");
    // Redis refuses the debt.
    let rules = ["ACL", "SETUSER", "default", "resetkeys", "~s", "~another", "~pgc:*"];
    assert_eq!(scene.redis.cli(&rules), "OK");
    let owes = "INSERT INTO redis_debt SELECT 5, max(xid::text::bigint)::text::xid8, 'refused'
                  FROM redis_outbox";
    client.batch_execute(owes).unwrap();
    let mut newer = 0;
    let mut goes_past = |client: &mut Client, left: i64| {
        put(client, &[append("another", "x")]);
        newer += 1;
        wake(client);
        eventually(SOON, "it arrives", || events(&scene.redis, "another").len() == newer);
        count(client, ASIDE) == left
    };
    eventually(SOON, "what owes nothing is taken away", || goes_past(&mut client, 2));
    client.batch_execute("DELETE FROM redis_debt").unwrap();
    // That worker is to stay.
    eventually(SOON, "so is what owed", || goes_past(&mut client, 0));
    assert_eq!(events(&scene.redis, "s"), ["0", "1", "2", "3"]);
}
