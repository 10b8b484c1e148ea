//! The relay: what stands in the outbox arrives, in order, into a stream once, whatever is in the
//! way; and what Redis refuses keeps nobody else waiting.

use std::time::Duration;

use pg_cache_core::key::stream_record;
use pg_cache_core::message::{Message, Stored};
use pg_cache_e2e::Scene;
use pg_cache_e2e::counters::value;
use pg_cache_e2e::outbox::{append, events, put, put_bytes, rows, wake};
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::{Pair, eventually};
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

fn bytes(text: &str) -> Box<[u8]> {
    text.as_bytes().into()
}

/// Whoever asks for a worker twice within a moment is heard once.
#[track_caller]
fn delivered(client: &mut Client) {
    eventually(SOON, "delivered", || {
        wake(client);
        rows(client) == 0
    });
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[test]
fn events_arrive_once_and_in_order() {
    // Danger: the whole promise: an event is lost, doubled, or overtaken.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let wanted = numbers(2500);
    for chunk in wanted.chunks(700) {
        put(&mut client, &chunk.iter().map(|n| append("s", n)).collect::<Vec<_>>());
    }
    delivered(&mut client);
    assert_eq!(events(&scene.redis, "s"), wanted);
    let record = String::from_utf8(stream_record(b"s")).unwrap();
    assert_eq!(scene.redis.cli(&["TYPE", &record]), "hash");
    let last = scene.redis.cli(&["HVALS", &record]);
    let places = last.split_whitespace().count();
    assert!(places <= 1001, "the record of one batch and a claim, not of all: {places}");
}

#[test]
fn every_kind_of_message_is_sent() {
    // Danger: a kind that the worker cannot send stays in the outbox for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let mut listener = scene.redis.client();
    let mut channel = listener.as_pubsub();
    channel.subscribe("c").unwrap();
    let token = pg_cache_core::key::EntryKeys::new(b"k").token();
    let mut redis = scene.redis.client();
    redis::cmd("SET").arg(&token).arg("ours").exec(&mut redis).unwrap();
    let store = |token: &str, text: &str| Message::Store {
        key: bytes("k"),
        token: bytes(token),
        ttl_ms: Some(60_000),
        value: Stored::Text(bytes(text)),
    };
    put(
        &mut client,
        &[
            Message::Publish { channel: bytes("c"), payload: bytes("hello") },
            store("theirs", "an older image"),
            store("ours", "row"),
            store("ours", "a second time"),
            Message::Job { queue: bytes("q"), id: bytes("5-1"), payload: bytes("{}") },
            Message::Command { arguments: vec![bytes("INCRBY"), bytes("n"), bytes("7")] },
        ],
    );
    delivered(&mut client);
    assert_eq!(channel.get_message().unwrap().get_payload::<String>().unwrap(), "hello");
    assert_eq!(value(&scene.redis, "k").as_deref(), Some(&b"row"[..]));
    assert!(scene.redis.cli(&["PTTL", "k"]).parse::<i64>().unwrap() > 0);
    assert_eq!(scene.redis.cli(&["EXISTS", std::str::from_utf8(&token).unwrap()]), "0");
    assert_eq!(events(&scene.redis, "q"), ["5-1", "{}"]);
    assert_eq!(value(&scene.redis, "n").as_deref(), Some(&b"7"[..]));
}

#[test]
fn what_redis_refuses_keeps_nobody_waiting() {
    // Danger: one stream with a list in its place stops every event of the database for ever.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["RPUSH", "bad", "a list"]);
    put(&mut client, &[append("bad", "0"), append("good", "0"), append("bad", "1")]);
    put_bytes(&mut client, &[b"\x09of another release".to_vec()]);
    wake(&mut client);
    eventually(SOON, "the other arrives", || events(&scene.redis, "good") == ["0"]);
    eventually(SOON, "the rest is put aside", || {
        let aside = "SELECT count(*) FROM redis_outbox WHERE number < -(1::bigint << 61)";
        client.query_one(aside, &[]).unwrap().get::<_, i64>(0) == 3
    });
    put(&mut client, &[append("bad", "2"), append("good", "1")]);
    wake(&mut client);
    eventually(SOON, "and goes on", || events(&scene.redis, "good") == ["0", "1"]);
    scene.redis.cli(&["DEL", "bad"]);
    put(&mut client, &[append("bad", "3")]);
    eventually(2 * SOON, "tried again", || {
        wake(&mut client);
        rows(&mut client) == 1
    });
    assert_eq!(events(&scene.redis, "bad"), numbers(4), "in the order of their making");
}

#[test]
fn much_that_is_refused_hides_nothing_behind_it() {
    // Danger: one transaction left more aside than goes into a batch; what stands behind it is
    // never tried again, and a new worker does not even know of it.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    for stream in ["bad", "mended"] {
        scene.redis.cli(&["RPUSH", stream, "a list"]);
    }
    let aside = "SELECT count(*) FROM redis_outbox WHERE number < -(1::bigint << 61)";
    let much = "CREATE TABLE t (s text);
                CREATE TRIGGER e AFTER INSERT ON t FOR EACH ROW
                    EXECUTE FUNCTION redis_stream('{s}', 'durable');
                INSERT INTO t SELECT 'bad' FROM generate_series(1, 2500)";
    client.batch_execute(much).unwrap();
    eventually(SOON, "much is put aside", || count(&mut client, aside) == 2500);
    put(&mut client, &[append("mended", "0"), append("mended", "1")]);
    wake(&mut client);
    eventually(SOON, "and some behind it", || count(&mut client, aside) == 2502);
    scene.redis.cli(&["DEL", "mended"]);
    eventually(SOON, "it is tried again", || {
        wake(&mut client);
        count(&mut client, aside) == 2500
    });
    assert_eq!(events(&scene.redis, "mended"), numbers(2));
}

#[test]
fn a_late_command_of_a_dead_worker_appends_nothing() {
    // Danger: a command whose sender is gone is carried out all the same, and doubles its events.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    for point in ["relay.sent", "relay.deleted"] {
        let stream = point;
        scene.set_faults(&format!("{point}:exit"));
        put(&mut client, &[append(stream, "0"), append(stream, "1")]);
        wake(&mut client);
        eventually(SOON, "sent", || events(&scene.redis, stream).len() == 2);
        scene.quiet();
        assert_eq!(rows(&mut client), 2, "the worker died before it committed");
        scene.set_faults("");
        put(&mut client, &[append(stream, "2")]);
        delivered(&mut client);
        assert_eq!(events(&scene.redis, stream), numbers(3), "{point}");
        scene.quiet();
    }
}

#[test]
fn an_answer_that_never_came_doubles_nothing() {
    // Danger: a command that was given up is carried out all the same, beside the one that was sent
    // in its place.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    let fault = "pg_cache.fault_point = 'relay.sending:sleep_1000'";
    client.batch_execute(&format!("ALTER DATABASE {} SET {fault}", scene.database())).unwrap();
    put(&mut client, &[append("s", "0")]);
    delivered(&mut client);
    for n in 1..4 {
        put(&mut client, &[append("s", &n.to_string())]);
        let sending = "SELECT count(*) FROM pg_stat_activity
                       WHERE backend_type = 'pg_cache worker' AND query = 'sending events'
                         AND state = 'active' AND datname = current_database()";
        eventually(SOON, "about to send", || {
            wake(&mut client);
            count(&mut client, sending) == 1
        });
        // It has the stream and the connection, and asks nothing before it sends.
        scene.redis.freeze();
        eventually(SOON, "it gives up", || count(&mut client, sending) == 0);
        scene.redis.thaw();
        delivered(&mut client);
        assert_eq!(events(&scene.redis, "s"), numbers(n + 1));
    }
}

#[test]
fn what_comes_while_room_is_given_back_stays() {
    // Danger: the worker finds the outbox empty, somebody commits an event, and TRUNCATE takes it.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    let fault = "pg_cache.fault_point = 'outbox.shrink:sleep_700'";
    client.batch_execute(&format!("ALTER DATABASE {} SET {fault}", scene.database())).unwrap();
    put(&mut client, &vec![append("much", &"x".repeat(200)); 40_000]);
    let size = "SELECT pg_relation_size('redis_outbox')";
    let before = count(&mut client, size);
    let mut put_so_far = 0;
    eventually(SOON, "its room was given back", || {
        put(&mut client, &[append("s", &put_so_far.to_string())]);
        put_so_far += 1;
        wake(&mut client);
        count(&mut client, size) < before / 2
    });
    delivered(&mut client);
    assert_eq!(events(&scene.redis, "s"), numbers(put_so_far));
}

#[test]
fn what_a_transaction_spilled_goes_where_it_committed() {
    // Danger: a large transaction's events come before its commit, or in pieces among others'.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let mut large = scene.connect();
    let mut transaction = large.transaction().unwrap();
    let spilled = "INSERT INTO redis_outbox
                   SELECT -(pg_current_xact_id()::text::bigint), pg_current_xact_id(), n, now(), m
                     FROM unnest($1::bytea[]) WITH ORDINALITY AS t(m, n)";
    let encoded: Vec<Vec<u8>> = (0..1500)
        .map(|n| pg_cache_core::message::codec::encode(&append("s", &format!("large {n}"))))
        .collect();
    transaction.execute(spilled, &[&encoded]).unwrap();
    put(&mut client, &[append("s", "before")]);
    delivered(&mut client);
    put_bytes(&mut transaction, &[Vec::new()]);
    transaction.commit().unwrap();
    put(&mut client, &[append("s", "after")]);
    delivered(&mut client);
    let found = events(&scene.redis, "s");
    assert_eq!((found.len(), &found[0][..], &found[1501][..]), (1502, "before", "after"));
    assert!((0..1500).all(|n| found[n + 1] == format!("large {n}")));
}

#[test]
fn a_redis_that_is_away_or_full_loses_nothing() {
    // Danger: an event is dropped, or sent out of order, because Redis could not take it.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    put(&mut client, &[append("s", "0"), append("s", "1")]);
    wake(&mut client);
    scene.quiet();
    assert_eq!(rows(&mut client), 2, "kept");
    scene.redis.stop();
    put(&mut client, &[append("s", "2")]);
    wake(&mut client);
    scene.quiet();
    scene.redis.start_again();
    eventually(3 * SOON, "delivered without anybody's doing", || rows(&mut client) == 0);
    assert_eq!(events(&scene.redis, "s"), numbers(3));
}

#[test]
fn events_that_find_no_redis_are_sent_when_it_is_back() {
    // Danger: nobody commits another event for a while, and those that wait are forgotten.
    let mut scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.quiet();
    scene.redis.stop();
    put(&mut client, &[append("s", "0")]);
    wake(&mut client);
    eventually(SOON, "it was tried", || count(&mut client, WORKERS) == 1);
    scene.quiet();
    scene.redis.start_again();
    eventually(2 * SOON, "delivered without anybody's doing", || rows(&mut client) == 0);
    assert_eq!(events(&scene.redis, "s"), ["0"]);
}

#[test]
fn a_full_redis_that_takes_no_events_takes_debts() {
    // Danger: as long as Redis is full, the readers of what is owed compute.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    put(&mut client, &[append("s", "0")]);
    client.batch_execute("INSERT INTO redis_debt VALUES (5, '700', NULL)").unwrap();
    eventually(SOON, "paid", || {
        wake(&mut client);
        count(&mut client, "SELECT count(*) FROM redis_debt") == 0
    });
    assert_eq!(rows(&mut client), 1);
}

#[test]
fn what_another_session_prepared_is_sent_when_it_commits() {
    // Danger: who commits a prepared transaction has no events in memory, and wakes no worker.
    let conf = [("max_worker_processes", "16"), ("max_prepared_transactions", "5")];
    let pair = Pair::start_with(&conf, &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let mut other = pair.postgres.connect();
    for (name, commits) in [("kept", true), ("dropped", false)] {
        other.batch_execute("BEGIN").unwrap();
        put(&mut other, &[append("s", name)]);
        other.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
        wake(&mut client);
        let end = if commits { "COMMIT" } else { "ROLLBACK" };
        // Longer than the worker stays for nothing.
        std::thread::sleep(Duration::from_secs(4));
        assert!(!events(&pair.redis, "s").contains(&name.to_owned()), "not yet");
        client.batch_execute(&format!("{end} PREPARED '{name}'")).unwrap();
        eventually(SOON, "no row is left", || rows(&mut client) == 0);
    }
    assert_eq!(events(&pair.redis, "s"), ["kept"]);
    eventually(SOON, "the worker goes", || count(&mut client, WORKERS) == 0);
}

#[test]
fn an_empty_outbox_gives_its_room_back() {
    // Danger: the outbox grows with all that ever passed through it, until its bound is reached.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let payload = "x".repeat(1000);
    let many: Vec<Message> = (0..12_000).map(|_| append("s", &payload)).collect();
    put(&mut client, &many);
    let size = "SELECT pg_table_size('redis_outbox')";
    assert!(count(&mut client, size) > 8 * 1024 * 1024);
    delivered(&mut client);
    eventually(SOON, "truncated", || {
        wake(&mut client);
        count(&mut client, size) < 100_000
    });
    assert_eq!(scene.redis.cli(&["XLEN", "s"]), "12000");
}

#[test]
fn health_tells_of_events_that_wait_and_of_those_refused() {
    // Danger: events do not arrive, and everything is said to be well.
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    let mut health = |check: &str| -> (bool, String) {
        let sql = "SELECT ok, detail FROM redis_health() WHERE \"check\" = $1";
        let row = client.query_one(sql, &[&check]).unwrap();
        (row.get(0), row.get(1))
    };
    assert!(health("outbox").0 && health("events put aside").0);
    scene.redis.cli(&["SET", "bad", "a text"]);
    put(&mut scene.connect(), &[append("bad", "0")]);
    eventually(SOON, "put aside", || !health("events put aside").0);
    let (_, detail) = health("events put aside");
    assert!(detail.starts_with("1: "), "{detail}");
    let old = "INSERT INTO redis_outbox VALUES (1, '700', 1, now() - interval '1 hour', '')";
    scene.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    scene.connect().batch_execute(old).unwrap();
    let message = pg_cache_core::message::codec::encode(&append("s", "0"));
    let update = "UPDATE redis_outbox SET message = $1 WHERE number = 1";
    scene.connect().execute(update, &[&message]).unwrap();
    let (ok, detail) = health("outbox");
    assert!(!ok && detail.contains("oldest for 36"), "{detail}");
}
