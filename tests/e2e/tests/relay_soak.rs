//! The relay at length: many events pass, and the outbox stays small.
//!
//! `PG_CACHE_EVENTS=10000000` lets that many pass.

use std::time::{Duration, Instant};

use pg_cache_core::message::{Message, Stored, codec};
use pg_cache_e2e::outbox::{append, rows, wake};
use pg_cache_e2e::registry::{count, repair};
use pg_cache_testbed::{Pair, eventually};

/// Of 250 bytes each; enough for the table to be truncated more than once.
const EVENTS: u64 = 120_000;
const TRANSACTION_EVENTS: u64 = 500;
const STREAM_LENGTH: u64 = 10_000;

/// What writers may be ahead of the worker.
const BACKLOG: i64 = 10_000;

/// After so many the writer of a short run rests until all is sent. At full speed there is seldom
/// such a moment, and autovacuum makes the room, which comes once a minute.
const BURST_EVENTS: u64 = 4_000;

/// What the outbox may take, of what passes: of a short run half, of a long one a fifth or what
/// passes between two visits of autovacuum.
const PASSING_BYTES_AN_EVENT: u64 = 250;
const SHORT_PART: u64 = 2;
const LONG_PART: u64 = 5;
const LONG_BYTES: u64 = 128 * 1024 * 1024;

#[test]
fn the_outbox_stays_small_whatever_passes_through_it() {
    // Danger: a table that only grows, and at its bound every commit fails.
    let events = std::env::var("PG_CACHE_EVENTS").map_or(EVENTS, |many| many.parse().unwrap());
    let is_short = events <= EVENTS;
    let pair = Pair::start_with(&[("max_worker_processes", "16")], &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let message = codec::encode(&Message::Append {
        stream: Box::from(&b"s"[..]),
        length_max: Some(STREAM_LENGTH),
        payload: "x".repeat(200).into_bytes().into(),
    });
    let insert = format!(
        "WITH own AS MATERIALIZED (SELECT pg_current_xact_id() AS xid)
         INSERT INTO redis_outbox
         SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, xid, n, now(), $1
           FROM own, generate_series(1, {TRANSACTION_EVENTS}) AS n"
    );
    let started = Instant::now();
    let size = "SELECT pg_total_relation_size('redis_outbox')";
    let mut largest = 0;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut writer = pair.postgres.connect();
            let mut watch = pair.postgres.connect();
            let behind = format!(
                "SELECT count(*) FROM (SELECT FROM redis_outbox LIMIT {BACKLOG}) AS waiting"
            );
            for sent in (TRANSACTION_EVENTS..=events).step_by(TRANSACTION_EVENTS as usize) {
                writer.execute(&insert, &[&message]).unwrap();
                let rests = is_short && sent % BURST_EVENTS == 0;
                let backlog = if rests { 1 } else { BACKLOG };
                eventually(Duration::from_secs(30), "the worker keeps up", || {
                    writer.batch_execute("SELECT redis_wake()").unwrap();
                    count(&mut watch, &behind) < backlog
                });
                if rests {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        while !writer.is_finished() {
            largest = largest.max(count(&mut client, size));
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    eventually(Duration::from_secs(30), "all is delivered", || {
        wake(&mut client);
        rows(&mut client) == 0
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("{events} events in {seconds:.1} s, the outbox took {largest} bytes at most");
    let info = pair.redis.cli(&["XINFO", "STREAM", "s"]);
    let added = info.lines().skip_while(|line| *line != "entries-added").nth(1).unwrap();
    assert_eq!(added.parse::<u64>().unwrap(), events, "each once");
    let passing = events * PASSING_BYTES_AN_EVENT;
    let bytes_max =
        if is_short { passing / SHORT_PART } else { LONG_BYTES.max(passing / LONG_PART) };
    assert!(u64::try_from(largest).unwrap() < bytes_max, "{largest} bytes of {bytes_max}");
}

#[test]
#[ignore = "measures; run it by name, with a release build"]
fn how_fast_it_relays_what_is_no_event_of_a_stream() {
    // Danger: what must not be overtaken waits for an answer each time.
    let events = std::env::var("PG_CACHE_EVENTS").map_or(200_000, |many| many.parse().unwrap());
    let pair = Pair::start_with(&[("max_worker_processes", "16"), ("max_wal_size", "4GB")], &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    let publish = Message::Publish { channel: b"c"[..].into(), payload: vec![b'x'; 200].into() };
    let store = Message::Store {
        key: b"k"[..].into(),
        token: b"t"[..].into(),
        ttl_ms: None,
        value: Stored::Text(vec![b'x'; 200].into()),
    };
    let command =
        |key: &str| Message::Command { arguments: vec![b"INCR"[..].into(), key.as_bytes().into()] };
    let cases = [
        ("publish", vec![publish.clone()]),
        ("publish and append", vec![publish, append("s", &"x".repeat(200))]),
        ("store", vec![store]),
        ("commands to one key", vec![command("n")]),
        ("commands to many", (0..250).map(|n| command(&n.to_string())).collect()),
    ];
    for (what, messages) in cases {
        let messages: Vec<Vec<u8>> = messages.iter().map(codec::encode).collect();
        let times = events / messages.len() as i64;
        let filled = format!(
            "WITH own AS MATERIALIZED (SELECT pg_current_xact_id() AS xid)
             INSERT INTO redis_outbox
             SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, xid,
                    row_number() OVER (), now(), m
               FROM own, generate_series(1, {times}) AS n, unnest($1::bytea[]) AS m"
        );
        client.execute(&filled, &[&messages]).unwrap();
        let started = Instant::now();
        eventually(Duration::from_secs(120), "all is delivered", || {
            wake(&mut client);
            std::thread::sleep(Duration::from_millis(20));
            count(&mut client, "SELECT count(*) FROM (SELECT FROM redis_outbox LIMIT 1) AS waiting")
                == 0
        });
        println!("{what}: {:.0} a second", events as f64 / started.elapsed().as_secs_f64());
    }
}

#[test]
#[ignore = "measures; run it by name, with a release build"]
fn how_fast_the_worker_relays() {
    // Danger: a worker that is slower than the writers never catches up.
    let events = std::env::var("PG_CACHE_EVENTS").map_or(300_000, |many| many.parse().unwrap());
    let pair = Pair::start_with(&[("max_worker_processes", "16"), ("max_wal_size", "4GB")], &[]);
    let mut client = pair.postgres.connect();
    repair(&mut client);
    for streams in [1, 10] {
        let filled = format!(
            "WITH own AS MATERIALIZED (SELECT pg_current_xact_id() AS xid)
             INSERT INTO redis_outbox
             SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, xid, n, now(),
                    '\\x01410200000073'::bytea || ('\\x3' || n % {streams})::bytea
                    || '\\xffffffffffffffffc8000000'::bytea || repeat('x', 200)::bytea
               FROM own, generate_series(1, {events}) AS n"
        );
        client.batch_execute(&filled).unwrap();
        let started = Instant::now();
        eventually(Duration::from_secs(120), "all is delivered", || {
            wake(&mut client);
            std::thread::sleep(Duration::from_millis(20));
            count(&mut client, "SELECT count(*) FROM (SELECT FROM redis_outbox LIMIT 1) AS waiting")
                == 0
        });
        let rate = events as f64 / started.elapsed().as_secs_f64();
        println!("{streams} streams: {rate:.0} events a second");
        assert!(rate > 5_000.0);
    }
}
