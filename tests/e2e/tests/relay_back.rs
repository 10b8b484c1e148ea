//! A server that went back finds in the records of its streams what it has lost: places behind the
//! end of its log, which another history delivered.

use std::time::Duration;

use pg_cache_core::key::stream_record;
use pg_cache_core::message::codec;
use pg_cache_core::message::place::Place;
use pg_cache_e2e::Scene;
use pg_cache_e2e::outbox::{append, events, put, rows, wake};
use pg_cache_e2e::registry::{WORKERS, count, repair};
use pg_cache_testbed::eventually;
use postgres::Client;

const SOON: Duration = Duration::from_secs(20);

const LOG_END: &str = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";

/// How far behind the end of the log the places are that were lost.
const LOST_BYTES: u64 = 16 * 1024 * 1024;

const XID: u64 = 700;

#[track_caller]
fn delivered(client: &mut Client) {
    eventually(SOON, "delivered", || {
        wake(client);
        rows(client) == 0
    });
}

/// No worker knows of any stream.
fn dismiss(client: &mut Client) {
    let dismiss = WORKERS.replacen("count(*)", "count(pg_terminate_backend(pid))", 1);
    eventually(SOON, "no worker is left", || {
        count(client, &dismiss);
        count(client, WORKERS) == 0
    });
}

/// A database whose worker is gone, and the record of its stream `s`: the name of that, and of the
/// field of places.
fn stage() -> (Scene, Client, [String; 2]) {
    let scene = Scene::new();
    let mut client = scene.connect();
    repair(&mut client);
    dismiss(&mut client);
    let sql = "SELECT format('%s.%s:last', system_identifier::numeric, d.oid)
               FROM pg_control_system(), pg_database d WHERE datname = current_database()";
    let field: String = client.query_one(sql, &[]).unwrap().get(0);
    (scene, client, [String::from_utf8(stream_record(b"s")).unwrap(), field])
}

fn log_end(client: &mut Client) -> u64 {
    count(client, LOG_END) as u64
}

/// A row of the outbox at a place.
fn put_at(client: &mut Client, place: Place, payload: &str) {
    let sql = "INSERT INTO redis_outbox VALUES ($1, $2::text::xid8, $3, now(), $4)";
    let (number, xid, seq) = (place.number as i64, place.xid.to_string(), place.seq as i64);
    let message = codec::encode(&append("s", payload));
    client.execute(sql, &[&number, &xid, &seq, &message]).unwrap();
}

#[test]
fn a_record_of_what_was_lost_is_not_added_to_for_ever() {
    // Danger: it grows with each batch, every append copies all of it, and when it is too large to
    // be read the stream takes nothing any more.
    const BATCHES: usize = 5;
    let (scene, mut client, [record, field]) = stage();
    let lost = log_end(&mut client) + LOST_BYTES;
    let places = (0..300).map(|seq| Place { number: lost, xid: XID, seq }.to_string());
    let places = places.collect::<Vec<_>>().join(" ");
    scene.redis.cli(&["HSET", &record, &field, &places]);
    let numbers: Vec<String> = (0..100 * BATCHES).map(|number| number.to_string()).collect();
    for batch in numbers.chunks(100) {
        put(&mut client, &batch.iter().map(|n| append("s", n)).collect::<Vec<_>>());
        delivered(&mut client);
    }
    assert_eq!(events(&scene.redis, "s"), numbers, "each once, in order");
    let left = scene.redis.cli(&["HGET", &record, &field]);
    let count = left.split_whitespace().count();
    assert_eq!(count, 100, "those of the last batch");
}

#[test]
fn a_row_at_a_place_that_was_lost_is_sent() {
    // Danger: the log comes to a place that another history delivered, and what stands there now
    // counts as delivered.
    let (scene, mut client, [record, field]) = stage();
    let now = log_end(&mut client);
    let kept = Place { number: now, xid: XID, seq: 1 };
    let lost = Place { number: now + LOST_BYTES, ..kept };
    scene.redis.cli(&["HSET", &record, &field, &format!("{kept} {lost}")]);
    // Whoever adopts the stream appends nothing.
    put_at(&mut client, kept, "kept");
    delivered(&mut client);
    assert_eq!(events(&scene.redis, "s"), [""; 0], "it was delivered before");
    dismiss(&mut client);
    while log_end(&mut client) <= lost.number {
        let fill = "SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000)))
                      FROM generate_series(1, 4)";
        count(&mut client, fill);
    }
    put_at(&mut client, lost, "new");
    delivered(&mut client);
    assert_eq!(events(&scene.redis, "s"), ["new"]);
}
